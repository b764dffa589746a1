"""RandAugment for clips: changes of colour and shape, drawn once, alike for all frames.

The operations are Pillow's, frame by frame, as in the released recipes: what depends on the frame (its histogram, its
mean) is measured in every frame, what is drawn is drawn for the clip.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

STRONGEST = 10  # the magnitude that gives an operation its full amount


class Operation(NamedTuple):
    """A change of a frame by an amount, and how far the amount goes."""

    change: Callable[[Image.Image, float], Image.Image]
    most: float = 0.0
    """The amount at magnitude 10; 0 where there is nothing to choose."""
    signed: bool = False
    """Whether the amount is negative half of the time."""


def grey(frame: Image.Image) -> tuple[int, ...]:
    """The colour of what a moved frame leaves empty."""
    return (128,) * len(frame.getbands())


def moved(frame: Image.Image, *matrix: float) -> Image.Image:
    """The frame whose pixel (x, y) shows what was at (a x + b y + c, d x + e y + f)."""
    return frame.transform(frame.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=grey(frame))


def coarsened(frame: Image.Image, amount: float) -> Image.Image:
    """The frame with the upper 4 - `amount` bits of every level; Pillow's own function refuses to leave none."""
    step = 2 ** (4 + int(amount))
    return frame.point([level // step * step for level in range(256)] * len(frame.getbands()))


def brightened_shadows(frame: Image.Image, amount: float) -> Image.Image:
    """The frame with `amount`, in whole levels, added to all that is darker than half."""
    levels = [min(level + int(amount), 255) if level < 128 else level for level in range(256)]
    return frame.point(levels * len(frame.getbands()))


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(lambda frame, _: ImageOps.autocontrast(frame)),
    "Equalize": Operation(lambda frame, _: ImageOps.equalize(frame)),
    "Invert": Operation(lambda frame, _: ImageOps.invert(frame)),
    "Rotate": Operation(
        lambda frame, degrees: frame.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=grey(frame)), 30, True
    ),
    "Posterize": Operation(coarsened, 4),
    "Solarize": Operation(lambda frame, levels: ImageOps.solarize(frame, 256 - int(levels)), 256),
    "SolarizeAdd": Operation(brightened_shadows, 110),
    "Color": Operation(lambda frame, more: ImageEnhance.Color(frame).enhance(1 + more), 0.9, True),
    "Contrast": Operation(lambda frame, more: ImageEnhance.Contrast(frame).enhance(1 + more), 0.9, True),
    "Brightness": Operation(lambda frame, more: ImageEnhance.Brightness(frame).enhance(1 + more), 0.9, True),
    "Sharpness": Operation(lambda frame, more: ImageEnhance.Sharpness(frame).enhance(1 + more), 0.9, True),
    "ShearX": Operation(lambda frame, slope: moved(frame, 1, slope, 0, 0, 1, 0), 0.3, True),
    "ShearY": Operation(lambda frame, slope: moved(frame, 1, 0, 0, slope, 1, 0), 0.3, True),
    "TranslateX": Operation(lambda frame, share: moved(frame, 1, 0, share * frame.width, 0, 1, 0), 0.45, True),
    "TranslateY": Operation(lambda frame, share: moved(frame, 1, 0, 0, 0, 1, share * frame.height), 0.45, True),
}
"""The "increasing" ones of timm's list: a larger magnitude always changes more."""


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations, the same one perhaps more than once, each left out half of the time, at about `magnitude`.

    Grey clips stay grey; a change of colour then does nothing.

    Source: Cubuk et al. 2020, arXiv:1909.13719, as in timm's rand-m7-n4-mstd0.5-inc1, which VideoMAE fine-tunes with.
    """

    magnitude: float = 7.0
    """How strong, 0 to 10."""
    layers: int = 4
    """How many operations are drawn for a clip."""
    spread: float = 0.5
    """Standard deviation of the magnitude, drawn for each operation and kept within 0 to 10."""
    probability: float = 0.5
    """With which an operation that was drawn is applied."""

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("magnitude", self.magnitude, 0 <= self.magnitude <= STRONGEST, f"0 to {STRONGEST}"),
            ("layers", self.layers, self.layers > 0, "1 or more"),
            ("spread", self.spread, 0 <= self.spread <= STRONGEST, f"0 to {STRONGEST}"),
            ("probability", self.probability, 0 <= self.probability <= 1, "0 to 1"),
        ):
            if not fits:
                raise ValueError(f"RandAugment's {name} {value} cannot be used; expected {expected}")

    @classmethod
    def parse(cls, text: str) -> "RandAugment":
        """What timm's string says.

        >>> RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment()
        True

        Raises:
            ValueError: not such a string, or it asks for something else than the increasing operations.
        """
        head, *parts = text.split("-")
        found = [re.fullmatch(r"(m|n|mstd|p|inc)(\d+(?:\.\d+)?)", part) for part in parts]
        given = {match[1]: float(match[2]) for match in found if match}
        layers = given.get("n", 2)
        if head != "rand" or not all(found) or len(given) < len(parts) or given.get("inc") != 1 or layers % 1:
            raise ValueError(
                f"{text!r} cannot be used; expected rand-m7-n4-mstd0.5-inc1 or the like: m magnitude, n operations, "
                "mstd spread, p probability, each at most once, and inc1, since only the increasing operations exist"
            )
        return cls(given.get("m", STRONGEST), int(layers), given.get("mstd", 0), given.get("p", 0.5))

    def __str__(self) -> str:
        """For people.

        >>> str(RandAugment())
        'RandAugment: 4 draws at magnitude 7 ± 0.5 of 10, each used with probability 0.5'
        """
        return (
            f"RandAugment: {self.layers} draws at magnitude {self.magnitude:g} ± {self.spread:g} of {STRONGEST}, "
            f"each used with probability {self.probability:g}"
        )

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """The operations of one clip, in order, with their amounts."""
        drawn = []
        for name in rng.choice(list(OPERATIONS), self.layers).tolist():
            if rng.random() < self.probability:
                share = np.clip(rng.normal(self.magnitude, self.spread) / STRONGEST, 0, 1)
                sign = -1 if OPERATIONS[name].signed and rng.random() < 0.5 else 1
                drawn.append((name, float(sign * share * OPERATIONS[name].most)))
        return drawn

    def __call__(self, frames: UInt8[Tensor, "t h w c"], rng: np.random.Generator) -> UInt8[Tensor, "t h w c"]:
        """The clip, changed; itself, not a copy, where nothing is applied."""
        return changed(frames, self.draw(rng))


@dataclass(frozen=True)
class ColourJitter:
    """Hue, saturation and value shifted, each by one draw for the whole clip.

    Source: VideoMAE-Action-Detection, after AlphAction: shifts of up to 10 of hue's 180 steps and 26 of 255.
    """

    hue: float = 10 / 180
    """At most so much of the whole circle, either way."""
    saturation: float = 26 / 255
    """At most so much of the whole scale, either way."""
    value: float = 26 / 255
    """The same for how bright the brightest colour of a pixel is."""

    def __post_init__(self) -> None:
        for name in ("hue", "saturation", "value"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ColourJitter's {name} {getattr(self, name)} cannot be used; expected 0 to 1")

    def __call__(self, frames: UInt8[Tensor, "t h w c"], rng: np.random.Generator) -> UInt8[Tensor, "t h w c"]:
        """The clip in shifted colours; a grey one in another brightness."""
        limits = np.array([self.hue, self.saturation, self.value])
        shifts = np.rint(255 * rng.uniform(-limits, limits)).astype(np.int16)
        if frames.shape[3] == 1:
            return (frames.to(torch.int16) + int(shifts[2])).clamp_(0, 255).to(torch.uint8)
        pictures = torch.empty_like(frames, memory_format=torch.contiguous_format)
        for frame, picture in zip(frames.numpy(), pictures.numpy()):
            levels = np.asarray(Image.fromarray(frame).convert("HSV")) + shifts
            levels[..., 0] %= 256  # hue is a circle
            shifted = Image.fromarray(levels.clip(0, 255).astype(np.uint8), "HSV")
            picture[:] = np.asarray(shifted.convert("RGB"))
        return pictures


def changed(frames: UInt8[Tensor, "t h w c"], draws: list[tuple[str, float]]) -> UInt8[Tensor, "t h w c"]:
    """The clip after these operations, by name and amount."""
    if not draws:
        return frames
    pictures = torch.empty_like(frames, memory_format=torch.contiguous_format)
    for frame, picture in zip(frames.numpy(), pictures.numpy()):
        image = Image.fromarray(frame.squeeze(2) if frame.shape[2] == 1 else frame)
        for name, amount in draws:
            image = OPERATIONS[name].change(image, amount)
        picture[:] = np.asarray(image).reshape(picture.shape)
    return pictures
