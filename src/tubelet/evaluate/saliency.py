"""Whether motion tells where objects are: how much more moves inside of their boxes than outside.

Source: MGM (arXiv:2308.12962), section 1: 1.47 on Something-Something V2, 1.28 on Kinetics-400. How
that of a data set is made of those of its videos is open, so both ways are given (`Overall`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tubelet.data.boxes import Boxes
from tubelet.data.flow import Flow
from tubelet.data.items import Item
from tubelet.data.motion import motion_of
from tubelet.data.parts import part_of
from tubelet.data.vectors import Vectors
from tubelet.data.video import frames_at, probe
from tubelet.types import Motion


@dataclass(frozen=True)
class Saliency:
    """Motion of one clip in and around boxes."""

    inside: float  # mean length of the displacement since the frame before, pixels
    outside: float
    known: tuple[float, float]  # share of the area inside and outside of which motion is known

    @property
    def ratio(self) -> float:
        """Inside over outside; infinite where only the inside moves, not a number where nothing does."""
        return float(np.divide(self.inside, self.outside)) if self.outside else np.inf if self.inside else np.nan

    def __str__(self) -> str:
        """The ratio and what it is made of, for people."""
        return f"saliency {self.ratio:.2f}: {self.inside:.3g} px inside, {self.outside:.3g} px outside"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: no ratio then."""
        ratio = self.ratio if np.isfinite(self.ratio) else None
        return {"ratio": ratio, "inside": self.inside, "outside": self.outside, "known": list(self.known)}


def saliency(motion: Motion, boxes: Sequence[Float[np.ndarray, "_ 4"]], size: tuple[int, int]) -> Saliency:
    """Mean motion since the frame before, inside and outside of the boxes of each frame: left, top, right, bottom.

    Every pixel of the frames, which are of `size` (height, width), has the motion of its block; those of blocks without
    a vector count nowhere. Frames without a box say nothing and are left out.

    Raises:
        ValueError: not one list of boxes a frame, no box at all, or no known motion inside or outside.
    """
    known = motion.had.cpu().numpy()
    length = np.where(known, motion.to_previous.norm(dim=-4).double().cpu().numpy(), 0)
    if len(boxes) != len(length):
        raise ValueError(f"boxes of {len(boxes)} frames for the motion of {len(length)}; expected one list a frame")
    shown = [t for t, corners in enumerate(boxes) if len(corners)]
    if not shown:
        raise ValueError("no boxes: nothing is inside, so there is nothing to compare")
    parts = []  # per frame: sum of lengths and known pixels, inside and outside; then all pixels
    for t in shown:
        within = covered(boxes[t], size)
        for region in (within, ~within):
            pixels = by_block(region, motion.block)
            parts.append(((pixels * length[t]).sum(), (pixels * known[t]).sum(), pixels.sum()))
    table = np.array(parts).reshape(-1, 2, 3).sum(0)
    for name, (_, pixels, area) in zip(("inside", "outside"), table):
        if not pixels:
            why = "no motion is known there" if area else "there is no pixel"
            raise ValueError(f"nothing to compare {name} of the boxes of {len(shown)} frames: {why}")
    (inside, outside), (a, b) = table[:, 0] / table[:, 1], table[:, 1] / table[:, 2]
    return Saliency(float(inside), float(outside), (float(a), float(b)))


def covered(corners: Float[np.ndarray, "_ 4"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose middle lies in at least one box."""
    y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
    region = np.zeros(size, bool)
    for left, top, right, bottom in corners:
        region |= (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return region


def by_block(region: Bool[np.ndarray, "h w"], block: int) -> Float[np.ndarray, "my mx"]:
    """How many pixels of a region each block has; the last of a row or column may hang over the edge."""
    rows = np.add.reduceat(region.astype(float), np.arange(0, region.shape[0], block), 0)
    return np.add.reduceat(rows, np.arange(0, region.shape[1], block), 1)


@dataclass(frozen=True)
class Overall:
    """The saliency of a data set, in the two ways that its one number may be meant."""

    videos: int
    mean_of_ratios: float  # over the videos that have one: every video counts alike, whatever its size and speed
    ratio_of_means: float  # of the videos' mean lengths: fast ones count more
    without: int  # videos without a ratio, because nothing moves outside

    def __str__(self) -> str:
        """Both ways, for people."""
        left = f" ({self.without} videos where nothing moves outside have no ratio)" if self.without else ""
        ways = f"mean of ratios {self.mean_of_ratios:.2f}{left}, ratio of means {self.ratio_of_means:.2f}"
        return f"{self.videos} video{'s' * (self.videos > 1)}: {ways}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        numbers = {"mean_of_ratios": self.mean_of_ratios, "ratio_of_means": self.ratio_of_means}
        finite = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        return {"videos": self.videos, **finite, "without": self.without}


def overall(parts: Sequence[Saliency]) -> Overall:
    """The saliency of several clips together.

    Raises:
        ValueError: not one clip.
    """
    if not parts:
        raise ValueError("there is not one video with boxes and motion")
    ratios = np.array([part.ratio for part in parts])
    finite = ratios[np.isfinite(ratios)]
    inside, outside = (float(np.mean(values)) for values in zip(*((part.inside, part.outside) for part in parts)))
    mean = float(finite.mean()) if len(finite) else float("nan")
    return Overall(len(parts), mean, Saliency(inside, outside, (1.0, 1.0)).ratio, len(ratios) - len(finite))


# ---------------------------------------------------------------------------- of videos


class Annotated(NamedTuple):
    """Frames of a video that have boxes."""

    frames: UInt8[Tensor, "t h w c"]
    motion: Motion  # since the frame of the video just before each, not since the one before in this list
    boxes: list[Float[np.ndarray, "_ 4"]]
    saliency: Saliency
    notes: tuple[str, ...]  # about where the motion comes from


def annotated(item: Item, boxes: Boxes, source: Vectors | Flow, most: int = 16) -> Annotated:
    """Frames with boxes, evenly spread and at most `most`, of a video or of the part of it that is meant.

    Raises:
        VideoError: it cannot be read.
        ValueError: no boxes for it, or nothing to compare them with; names the video.
    """
    index = probe(item.path)
    part, found = part_of(item, index.seconds), boxes.of(index)
    there = [frame for frame in found if part.start < frame < part.stop]  # the first has none before it
    if not there:
        raise ValueError(
            f"{boxes.table} has boxes of {item.path} at none of the frames {part.start + 1} to {part.stop - 1}"
        )
    chosen = np.array(there)[np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int)]
    wanted = np.union1d(chosen - 1, chosen)
    clip = frames_at(index, wanted, vectors=isinstance(source, Vectors))
    motion, notes = motion_of(clip, source, (index.height, index.width), item.path, index.codec)
    places = torch.from_numpy(np.searchsorted(wanted, chosen))
    motion = motion.each(lambda values: values[..., places, :, :])
    corners = [found[int(frame)] for frame in chosen]
    try:
        score = saliency(motion, corners, (index.height, index.width))
    except ValueError as error:
        raise ValueError(f"{item.path}: {error}") from error
    return Annotated(clip.frames[places], motion, corners, score, tuple(notes))
