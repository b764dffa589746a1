"""Where a clip is cut out of its video, and its way to the size of the network; its motion goes the same way.

Crops of files are drawn by `paint.py`, which takes their windows from here, moved to even pixels (`evened`).

Every crop is one window for the whole clip, drawn once, from numpy's generator. Nothing here changes colours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.types import Motion


class Window(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


Region = tuple[float, float, float, float]  # as a window, but its edges may lie between pixels


@dataclass(frozen=True)
class Crop:
    """Base of the crops: they say which window, this says what happens to it."""

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """The window to cut from frames of `height` x `width` pixels for an output of `size` (height, width)."""
        raise TypeError(f"{type(self).__name__} has no window; use MultiScaleCrop, RandomResizedCrop or CentreCrop")

    def cut(
        self, frames: UInt8[Tensor, "t h w c"], size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[UInt8[Tensor, "t y x c"], Region]:
        """The clip in one window, resized to `size` (height, width), and which part of the frames it shows."""
        window = self.window(frames.shape[1], frames.shape[2], size, rng)
        return resized(frames, window, size), window

    def __call__(
        self, frames: UInt8[Tensor, "t h w c"], size: tuple[int, int], rng: np.random.Generator
    ) -> UInt8[Tensor, "t y x c"]:
        """The clip in one window, resized to `size` (height, width)."""
        return self.cut(frames, size, rng)[0]


@dataclass(frozen=True)
class MultiScaleCrop(Crop):
    """One of a few edges and one of 13 places; the aspect changes by at most one step of the scales.

    Source: VideoMAE's released code (from TSN). Two differences: an edge is snapped to the output only where it still
    fits into the frame (the released code lets it hang over, into black), and outputs need not be square.
    """

    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Edges of the window, relative to the largest one of the output's shape."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales {self.scales} cannot be used; expected one or more numbers above 0 and up to 1")

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """One of the `windows`, and one of the `offsets` for it."""
        shapes = self.windows(height, width, size)
        h, w = shapes[rng.integers(len(shapes))]
        places = offsets(height - h, width - w)
        top, left = places[rng.integers(len(places))]
        return Window(top, left, h, w)

    def windows(self, height: int, width: int, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of the windows to choose from: all pairs of scales that are neighbours or equal."""
        tall, wide = largest(height, width, size)
        heights = [snapped(tall * scale, size[0], height) for scale in self.scales]
        widths = [snapped(wide * scale, size[1], width) for scale in self.scales]
        count = len(self.scales)
        return [(heights[i], widths[j]) for i in range(count) for j in range(count) if abs(i - j) <= 1]


@dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A window of random area, shape and place: ST-MAE, and what small data sets profit from.

    Source: Feichtenhofer et al. 2022 (area 0.5 to 1), after Szegedy et al. 2014 (area 0.08 to 1, which VideoMAE
    fine-tunes with). Two differences from the released code: what is made smaller is antialiased; and where no draw
    fits, the window in the middle has the output's shape, not the nearest allowed one.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    """Share of the frame's area, from and to."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """How far width / height may be from that of the output, from and to."""

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """The first of ten draws that fits into the frame, else the largest window in the middle."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = size[1] / size[0] * np.exp(rng.uniform(*np.log(self.ratio)))
            h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
            if 0 < h <= height and 0 < w <= width:
                return Window(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
        return CentreCrop().window(height, width, size, rng)


@dataclass(frozen=True)
class RandomCrop(Crop):
    """A window of the output's size anywhere in frames whose short side is scaled to `side`, cut first.

    Source: VideoMAE-Action-Detection: 224 of 256 pixels.
    """

    side: int = 256
    """Short side of the scaled frames, in pixels."""

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """A random place; the largest window of the output's shape where the frames are smaller than it."""
        scale = min(height, width) / self.side
        tall, wide = largest(height, width, size)
        h, w = min(round(scale * size[0]), int(tall)), min(round(scale * size[1]), int(wide))
        return Window(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), max(h, 1), max(w, 1))


@dataclass(frozen=True)
class CentreCrop(Crop):
    """The largest window in the middle, which is "resize the short side, cut the centre", cut first. Nothing random."""

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """The largest window of the output's shape, centred."""
        h, w = (max(int(edge), 1) for edge in largest(height, width, size))
        return Window((height - h) // 2, (width - w) // 2, h, w)


@dataclass(frozen=True)
class Place(Crop):
    """View `index` of `count` of a test: squares that lie evenly along the longer side, the first at its start.

    The frames are scaled until their short side fits, then cut; one view is the middle. Nothing random.

    Source: VideoMAE's test reader, which leaves a single view undefined.
    """

    index: int = 0
    """Which of them, from 0: the top or left one first."""
    count: int = 1
    """How many there are."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"there is no view {self.index} of {self.count}; expected 0 to {self.count - 1}")

    def cut(
        self, frames: UInt8[Tensor, "t h w c"], size: tuple[int, int], rng: np.random.Generator | None = None
    ) -> tuple[UInt8[Tensor, "t y x c"], Region]:
        """The view, at `size` (height, width), and which part of the frames it shows."""
        scaled = covering(frames, size)
        top, left, height, width = window = self.window(scaled.shape[1], scaled.shape[2], size)
        tall, wide = frames.shape[1] / scaled.shape[1], frames.shape[2] / scaled.shape[2]
        return resized(scaled, window, size), (top * tall, left * wide, height * tall, width * wide)

    def __call__(
        self, frames: UInt8[Tensor, "t h w c"], size: tuple[int, int], rng: np.random.Generator | None = None
    ) -> UInt8[Tensor, "t y x c"]:
        """The view, at `size` (height, width); frames that went through `covering` before are only cut."""
        return self.cut(frames, size, rng)[0]

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator | None = None) -> Window:
        """Where the view lies in frames that are scaled already."""
        index, steps = (self.index, self.count - 1) if self.count > 1 else (1, 2)
        return Window(index * (height - size[0]) // steps, index * (width - size[1]) // steps, *size)


def covering(frames: UInt8[Tensor, "t h w c"], size: tuple[int, int]) -> UInt8[Tensor, "t y x c"]:
    """The whole frames, scaled to the smallest that cover `size` (height, width)."""
    height, width = frames.shape[1:3]
    if height * size[1] < width * size[0]:
        scaled = size[0], width * size[0] // height
    else:
        scaled = height * size[1] // width, size[1]
    return resized(frames, Window(0, 0, height, width), scaled)


def largest(height: int, width: int, size: tuple[int, int]) -> tuple[float, float]:
    """Height and width, in pixels, of the largest window shaped like `size`; the short side for a square."""
    return min(height, width * size[0] / size[1]), min(width, height * size[1] / size[0])


def snapped(edge: float, output: int, limit: int) -> int:
    """`edge` in whole pixels, or `output` where that is less than 3 pixels away and fits: no resizing then."""
    whole = max(int(edge), 1)
    return output if abs(whole - output) < 3 and output <= limit else whole


def offsets(spare_height: int, spare_width: int) -> list[tuple[int, int]]:
    """The 13 (top, left) of a multi-scale crop: corners, centre, middles of the edges, quarter points.

    Source: VideoMAE's released code: quarters of the spare pixels, rounded down, so the last rows may not be reached.
    """
    y, x = spare_height // 4, spare_width // 4
    corners_centre = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    edges = [(2, 0), (2, 4), (4, 2), (0, 2)]
    quarters = [(1, 1), (1, 3), (3, 1), (3, 3)]
    return [(row * y, column * x) for row, column in corners_centre + edges + quarters]


def resized(frames: UInt8[Tensor, "t h w c"], window: Window, size: tuple[int, int]) -> UInt8[Tensor, "t y x c"]:
    """What the window shows, at `size` (height, width): bilinear, with antialiasing, rounded as PIL does."""
    top, left, height, width = window
    cut = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    if (height, width) != size:  # uint8 all the way: torch has a vectorised path for exactly this memory order
        cut = F.interpolate(cut, size, mode="bilinear", antialias=True)
    return cut.permute(0, 2, 3, 1).contiguous()


def evened(window: Window) -> Window:
    """The window with its edges on even pixels, less than two away: videos have one colour for two by two pixels.

    >>> evened(Window(3, 4, 169, 255))
    Window(top=2, left=4, height=168, width=254)
    """
    top, left, height, width = (edge // 2 * 2 for edge in window)
    return Window(top, left, height, width) if height and width else window


def flipped(frames: UInt8[Tensor, "t h w c"]) -> UInt8[Tensor, "t h w c"]:
    """The clip as in a mirror."""
    return frames.flip(2)


# ---------------------------------------------------------------------------- motion


def carried(
    motion: Motion, frame: tuple[int, int], window: Region, size: tuple[int, int], block: int, flip: bool = False
) -> Motion:
    """The motion of what `resized`, and `flipped` if `flip`, make of frames of `frame` (height, width) pixels.

    Displacements grow or shrink with the picture, a mirror turns those to the right into those to the left. The result
    has blocks of `block` pixels: each is the mean of the known old blocks under it, weighted by the area that they
    share, and known where at least half of it is.
    """
    if (*window, *size, block) == (0, 0, *frame, *frame, motion.block) and not flip:
        return motion
    top, left, height, width = window
    rows = shares(frame[0], motion.block, top, height, size[0], block)
    columns = shares(frame[1], motion.block, left, width, size[1], block, flip)
    area = rows.sum(1)[:, None] * columns.sum(1)
    scale = torch.tensor([size[1] / width * (-1 if flip else 1), size[0] / height] * 2).view(4, 1, 1, 1)

    steps = torch.cat([motion.to_previous, motion.to_next], -4)
    known = torch.stack([motion.had, motion.has], -4).to(steps.dtype)
    each = known.repeat_interleave(2, -4)
    summed = rows @ (torch.cat([steps * each, known], -4) @ columns.T)
    steps, there = summed.split([4, 2], -4)
    enough = there >= (0.5 - 1e-5) * area  # exactly half, in spite of rounding
    steps = steps / there.clamp(min=1e-6).repeat_interleave(2, -4)
    steps = (steps * scale).where(enough.repeat_interleave(2, -4), 0)
    to_previous, to_next = steps.split(2, -4)
    had, has = enough.unbind(-4)
    return Motion(to_previous, to_next, had, has, block, motion.exact)


def shares(
    edge: int, old: int, start: float, length: float, size: int, new: int, flip: bool = False
) -> Float[Tensor, "new old"]:
    """How many pixels each new block shares with each old one, along one axis.

    The old ones, of `old` pixels, lie on an axis of `edge` pixels. Of it `length` pixels from `start` on are shown, as
    `size` pixels in new blocks of `new` pixels, which begin at the other end after a flip. The last blocks of an axis
    may be cut short by its end.

    >>> shares(20, 8, 2, 12, 24, 8)
    tensor([[4., 0., 0.],
            [2., 2., 0.],
            [0., 4., 0.]])
    """
    borders = np.append(np.arange(0, size, new), size)
    pieces = start + (size - borders if flip else borders) * (length / size)
    low, high = np.minimum(pieces[:-1], pieces[1:]), np.maximum(pieces[:-1], pieces[1:])
    ends = np.append(np.arange(0, edge, old), edge)
    shared = np.minimum(high[:, None], ends[1:]) - np.maximum(low[:, None], ends[:-1])
    return torch.from_numpy(shared.clip(0).astype(np.float32))
