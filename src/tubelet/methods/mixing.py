"""What fine-tuning does to a batch of clips on the device: boxes of noise, clips mixed in pairs, labels made soft.

Everything random comes from a seed, by a generator on the CPU, so that a step repeats on any device and after a resume.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tubelet.targets import statistics

TRIES = 100  # draws of a box until one fits into the frame


class Box(NamedTuple):
    """A rectangle of a frame, in pixels, for the last two axes of a video."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Of the frame."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Of the frame."""
        return slice(self.left, self.left + self.width)


def smoothed(labels: Float[Tensor, "b x"], share: float) -> Float[Tensor, "b x"]:
    """Labels of which `share` is spread over all classes; rows that sum to 1 still do.

    >>> smoothed(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), 0.1)
    tensor([[0.0250, 0.9250, 0.0250, 0.0250]])

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    return labels * (1 - share) + share / labels.shape[1]


@dataclass(frozen=True)
class Erasing:
    """In some clips a box of noise, at the same place in all frames, the noise new in each.

    The noise is normal with the mean and deviation of ImageNet's pixels: standard normal as the encoder sees it.

    Source: Zhong et al. 2017, arXiv:1708.04896, as in VideoMAE's fine-tuning (pixel mode, "cube" for clips).
    """

    probability: float = 0.25
    """That a clip is erased."""
    area: tuple[float, float] = (0.02, 1 / 3)
    """Share of the frame that the box takes, from and to."""
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Height / width of the box, from and to; drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("probability", self.probability, 0 <= self.probability <= 1, "0 to 1"),
            ("area", self.area, 0 < self.area[0] <= self.area[1] <= 1, "two ascending shares above 0 and up to 1"),
            ("ratio", self.ratio, 0 < self.ratio[0] <= self.ratio[1], "two ascending numbers above 0"),
        ):
            if not fits:
                raise ValueError(f"Erasing's {name} {value} cannot be used; expected {expected}")

    def __call__(self, video: Float[Tensor, "b c t h w"], seed: int) -> Float[Tensor, "b c t h w"]:
        """The clips, in [0, 1] but for the noise, which may lie outside."""
        rng = np.random.default_rng(seed)
        video = video.clone()
        channels, frames, height, width = video.shape[1:]
        mean, std = (values.view(-1, 1, 1, 1) for values in statistics(video.new_empty(channels), channels))
        for clip in video:
            if rng.random() < self.probability and (box := self.box(height, width, rng)):
                noise = rng.standard_normal((channels, frames, box.height, box.width), dtype=np.float32)
                clip[:, :, box.rows, box.columns] = torch.from_numpy(noise).to(video) * std + mean
        return video

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box | None:
        """The first drawn box that is smaller than the frame in both directions, if one is among the draws."""
        for _ in range(TRIES):
            area = height * width * rng.uniform(*self.area)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if h < height and w < width:
                return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
        return None


@dataclass(frozen=True)
class Mix:
    """Clips and labels mixed with those of the batch in reverse order: faded over (mixup), or a box cut in (CutMix).

    One choice and one share for the whole batch; a box is the same in all frames. With repeated augmentation the two
    clips in the middle of the batch are of one video.

    Source: Zhang et al. 2017, arXiv:1710.09412, and Yun et al. 2019, arXiv:1905.04899, as in timm and VideoMAE.
    """

    mixup: float = 0.8
    """Both parameters of the Beta distribution of the share when faded over; 0: never done."""
    cutmix: float = 1.0
    """The same for a box; 0: never done."""
    probability: float = 1.0
    """That a batch is mixed."""
    switch: float = 0.5
    """That it is a box, where both may be done."""

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("mixup", self.mixup, self.mixup >= 0, "0 or more"),
            ("cutmix", self.cutmix, self.cutmix >= 0, "0 or more"),
            ("probability", self.probability, 0 <= self.probability <= 1, "0 to 1"),
            ("switch", self.switch, 0 <= self.switch <= 1, "0 to 1"),
        ):
            if not fits:
                raise ValueError(f"Mix's {name} {value} cannot be used; expected {expected}")
        if not self.mixup and not self.cutmix:
            raise ValueError("Mix with mixup 0 and cutmix 0 does nothing; leave it out instead (None)")

    def __call__(
        self, video: Float[Tensor, "b c t h w"], labels: Float[Tensor, "b x"], seed: int
    ) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "b x"]]:
        """Mixed clips, and their labels in the same shares.

        Raises:
            ValueError: an odd number of clips.
        """
        if len(video) % 2:
            raise ValueError(
                f"clips are mixed in pairs, but {len(video)} came at once; use an even number (videos x repeats) "
                "in each part of a step and each process, or no mixing"
            )
        rng = np.random.default_rng(seed)
        if rng.random() >= self.probability:
            return video, labels
        if rng.random() < (self.switch if self.mixup and self.cutmix else bool(self.cutmix)):
            height, width = video.shape[3:]
            own, box = cut(rng.beta(self.cutmix, self.cutmix), height, width, rng)
            video = pasted(video, box)
        else:
            own = rng.beta(self.mixup, self.mixup)
            video = faded(video, own)
        return video, faded(labels, own)


def faded(values: Float[Tensor, "b ..."], own: float) -> Float[Tensor, "b ..."]:
    """`own` of every row and the rest of its partner, the row as far from the other end."""
    return values.flip(0).lerp_(values, own)


def pasted(video: Float[Tensor, "b c t h w"], box: Box) -> Float[Tensor, "b c t h w"]:
    """Every clip with its partner's pixels in the box."""
    mixed = video.clone()
    mixed[..., box.rows, box.columns] = video[..., box.rows, box.columns].flip(0)
    return mixed


def cut(own: float, height: int, width: int, rng: np.random.Generator) -> tuple[float, Box]:
    """A box, anywhere, of about 1 - `own` of the frame, clipped at its border; and the share that is really left."""
    scale = (1 - own) ** 0.5
    half_height, half_width = int(height * scale) // 2, int(width * scale) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = max(y - half_height, 0), max(x - half_width, 0)
    box = Box(top, left, min(y + half_height, height) - top, min(x + half_width, width) - left)
    return 1 - box.height * box.width / (height * width), box
