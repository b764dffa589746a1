"""Motion vectors that a codec stored in the file, as a dense `Motion` between the frames of a clip.

A decoder needs a vector for every block to rebuild a frame from one before it, so they cost next to nothing to read.
They say where the encoder found a block again, which is where it came from on most textured things, and may be
anything on plain ones. H.264, MPEG-1, MPEG-2 and MPEG-4 (of which B-frames have none) through FFmpeg, on one thread:
on several it tells of some frames differently each time. Other codecs give none.

`Steps` gathers those of single frames while `video.py` decodes; `chained` follows them from one frame of a clip to the
one before. Vectors and places are in pixels, x to the right and then y down.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.data.h264 import Headers, Slice
from tubelet.data.index import Video, orientation
from tubelet.data.transforms import Window, carried
from tubelet.types import Motion

BLOCK = 8  # pixels; the smallest that FFmpeg tells of
REORDERED = 17  # frames; a picture is decoded at most 16 before it is shown (H.264, annex A)
FAR = 64  # frames; after so many, a block is followed no further
B_FRAME = 3  # FFmpeg's number
SINGLE = "flv h263 mpeg1video mpeg2video mpeg4 msmpeg4 msmpeg4v1 msmpeg4v2 wmv1 wmv2".split()  # noqa: SIM905
"""Codecs of which every frame refers to one frame before it and one after it at most."""
BETWEEN = ("h264", "mpeg1video", "mpeg2video")
"""Codecs of which FFmpeg knows the vectors of B-frames. For those of MPEG-4 it tells zeros, whatever they are."""


@dataclass(frozen=True)
class Vectors:
    """Motion from the vectors that are in the file."""

    block: int = 8
    """Side of the blocks that have a vector each, in pixels of the clip."""
    fallback: Literal["flow", "encode", "none"] = "flow"
    """What to do with clips of which less than half is known: flow, vectors of a re-encoded copy, or nothing."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"a block of {self.block} pixels cannot be used; expected 1 or more, such as 8")
        if self.fallback not in ("flow", "encode", "none"):
            raise ValueError(f'fallback={self.fallback!r} is unknown; use "flow", "encode" or "none"')


# ---------------------------------------------------------------------------- 1. from single frames to a clip


def chained(
    past: Float[np.ndarray, "rows 2 my mx"],
    known: Bool[np.ndarray, "rows my mx"],
    hop: Int[np.ndarray, " rows"],
    indices: Int[np.ndarray, " t"],
    *,
    frames: Int[np.ndarray, " rows"] | None = None,
    block: int = BLOCK,
    exact: bool = True,
) -> Motion:
    """Motion between each of the frames `indices` and the one asked for before it, on blocks of `block` pixels.

    Row i tells of frame `frames[i]` (ascending; of frame i where not given): where it is `known`, `past` leads to the
    same content `hop[i]` frames earlier. A block is followed from its centre, with the vector of whichever block it
    lands in; outside the picture, with that of the nearest one. Of a hop beyond the frame looked for, a share is taken.

    A step that is not known is bridged at the pace so far, and the whole path scaled up, if at least half of the
    frames between are accounted for; else the block is not known. A frame asked for twice in a row did not move; from
    a frame to an earlier one, or to one more than `FAR` later, nothing is known. `to_next` is the way back, given to
    the block that it starts from; of several the one that starts nearest to its centre.
    """
    pairs = np.ascontiguousarray(np.moveaxis(past, 1, 3), dtype=np.float32).view(np.complex64)[..., 0]
    frames = np.arange(len(pairs)) if frames is None else frames
    return _chained(pairs * known, known, np.asarray(hop), np.asarray(indices), frames, block, exact)


def _chained(past: Any, known: Any, hop: Any, indices: Any, frames: Any, block: int, exact: bool) -> Motion:
    """The same from complex numbers, x + iy, which makes one addition of two; 0 where not known."""
    _, my, mx = known.shape
    past, known, cells = past.ravel(), known.ravel(), my * mx
    goal, at = indices[:-1], indices[1:].copy()
    gap = at - goal
    row, column = np.divmod(np.arange(cells), mx)
    centres = (block * (column + 0.5 + 1j * (row + 0.5))).astype(np.complex64)
    moved = np.zeros((len(gap), cells), dtype=np.complex64)
    passed = np.zeros((len(gap), cells), dtype=np.float32)  # frames on a path that are accounted for
    stray: Any = None  # over what is not known; it counts for where to look, not for the path
    live, cell = np.flatnonzero((gap > 0) & (gap <= FAR)), np.arange(cells)[None]
    while len(live):  # all blocks of all gaps go one hop back
        row = np.searchsorted(frames, at[live], side="right") - 1
        there = (row >= 0) & (frames[row] == at[live])  # else the frame was lost: on to the last before it
        length = np.where(there, np.maximum(hop[row], 1), 1)
        before = np.where(there, at[live] - length, np.where(row >= 0, frames[row], goal[live]))
        before = np.maximum(before, goal[live])
        share = (at[live] - before).astype(np.float32)[:, None]
        place = row[:, None] * cells + cell
        good, step = known.take(place), past.take(place)
        if not there.all():
            good &= there[:, None]
            step *= there[:, None]
        if (share != length[:, None]).any():
            step *= share / length[:, None].astype(np.float32)
        if good.all():
            good = np.float32(1)
        else:
            stray = np.zeros_like(moved) if stray is None else stray
            which, lost = np.nonzero(~good)
            pace = moved[live[which], lost] / np.maximum(passed[live[which], lost], 1)
            stray[live[which], lost] += pace * share[which, 0]
        on = live if len(live) < len(gap) else slice(None)  # a slice is not copied
        moved[on] += step
        passed[on] += share * good
        at[live] = before
        live = live[before > goal[live]]
        if len(live):
            on = live if len(live) < len(gap) else slice(None)
            place = centres + moved[on]
            cell = _cells(place if stray is None else place + stray[on], block, my, mx)
    had = (2 * passed >= gap[:, None]) & (gap >= 0)[:, None]
    if not (passed == gap[:, None]).all():
        moved *= np.where(had, gap.astype(np.float32)[:, None] / np.maximum(passed, 1), 0)
    back, has = _back(moved, had, centres, block, my, mx)

    def whole(part: Any, late: bool) -> Tensor:
        """With the frame that has no neighbour, on its blocks; components first."""
        every = np.zeros((len(indices), my, mx), dtype=part.dtype)
        every[int(late) : len(gap) + late] = part.reshape(-1, my, mx)
        return torch.from_numpy(np.stack([every.real, every.imag]) if np.iscomplexobj(every) else every)

    return Motion(whole(moved, True), whole(back, False), whole(had, True), whole(has, False), block, exact)


def _cells(place: Any, block: int, my: int, mx: int) -> Any:
    """Numbers of the blocks that the places lie in, or of the nearest."""
    column, row = (np.multiply(part, 1 / block, dtype=np.float32).astype(np.intp) for part in (place.real, place.imag))
    return np.minimum(np.maximum(row, 0), my - 1) * mx + np.minimum(np.maximum(column, 0), mx - 1)


def _back(moved: Any, had: Any, centres: Any, block: int, my: int, mx: int) -> tuple[Any, Any]:
    """The way back, on the blocks that the paths lead to."""
    back, has = np.zeros_like(moved), np.zeros_like(had)
    place = centres + moved
    x, y = place.real, place.imag
    source = np.flatnonzero(had & (x >= 0) & (y >= 0) & (x < block * mx) & (y < block * my))
    step, place = moved.ravel()[source], place.ravel()[source]
    cell = _cells(place, block, my, mx)
    target = source - source % (my * mx) + cell
    back.ravel()[target] = -step
    has.ravel()[target] = True
    several = np.flatnonzero(np.bincount(target, minlength=moved.size).take(target) > 1)
    if len(several):  # the nearest once more, and last: of several values for one place numpy keeps the last
        off = place[several] - centres[cell[several]]
        # Whole numbers of 16 bits sort in no time.
        nearness = (65535 - 131070 / block**2 * (off.real**2 + off.imag**2)).astype(np.uint16)
        order = several[np.argsort(nearness, kind="stable")]
        back.ravel()[target[order]] = -step[order]
    return back, has


# ---------------------------------------------------------------------------- 2. what the decoder tells


class Steps:
    """Gathers the vectors of the frames that lead to those asked for, and makes a `Motion` of them.

    Frames that are not shown whole (two fields) are taken as FFmpeg tells of them, and are not exact.
    """

    def __init__(self, video: Video, codec: Any, asked: Int[np.ndarray, " t"]) -> None:
        self.video, self.asked = video, asked
        self.first, self.last = int(asked.min()), int(asked.max())
        start = int(video.starts[np.searchsorted(video.starts[:, 0], self.first, side="right") - 1, 0])
        # What is shown after the last one serves too: it may refer to it.
        self.places = {int(stamp): start + n for n, stamp in enumerate(video.stamps[start : self.last + REORDERED])}
        self.headers = Headers(codec.extradata) if codec.name == "h264" else None
        self.slices: dict[int, Slice | None] = {}  # by stamp
        self.references: set[int] = set()  # frames that others refer to
        self.wanted = set(asked.tolist())
        self.rows: dict[int, bytes | None] = {}  # FFmpeg's lists; None where there is none
        self.dtype: Any = None  # of their entries
        self.exact = self.headers is not None or video.codec in SINGLE
        self.turns: tuple[bool, bool, bool] = (False, False, False)
        turned = video.rotation % 180 == 90
        self.size = (video.width, video.height) if turned else (video.height, video.width)  # of the stored picture

    def heard(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets, on their way to the decoder."""
        for packet in packets:
            if self.headers is not None:
                self.slices[packet.pts] = self.headers.slices(bytes(packet))
            yield packet

    def seen(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames, on their way from the decoder."""
        for frame in frames:
            if (place := self.places.get(frame.pts)) is not None:
                self._add(place, frame)
            yield frame

    def _add(self, place: int, frame: Any) -> None:
        part = None if self.headers is None else self.slices.get(frame.pts)
        part = part or Slice(int(frame.pict_type) != B_FRAME, self.headers is None)
        if part.reference:
            self.references.add(place)
        if self.first < place <= self.last and (part.reference or place in self.wanted):
            if not self.rows:
                self.turns = orientation(frame.side_data.get("DISPLAYMATRIX"))
            told = frame.side_data.get("MOTION_VECTORS")
            if self.video.codec not in BETWEEN and int(frame.pict_type) == B_FRAME:
                told = None
            if self.headers is not None and self.headers.shifted:
                told = None  # counted from the corner of the coded picture, which is not shown
            if told is None or frame.is_corrupt or (frame.height, frame.width) != self.size:
                self.rows[place] = None
                return
            self.rows[place] = bytes(told)  # a copy: the frame can go
            self.dtype = self.dtype or told.to_ndarray().dtype
            self.exact &= part.single and not frame.interlaced_frame

    def motion(self, shown: tuple[int, int], block: int = BLOCK) -> Motion:
        """Motion between the frames asked for, as shown and scaled to `shown` (height, width)."""
        size = self.video.height, self.video.width
        return carried(self._motion(*size), size, Window(0, 0, *size), shown, block)

    def _motion(self, height: int, width: int) -> Motion:
        frames = np.array(sorted(self.rows))
        lists = [self.rows[frame] for frame in frames.tolist()]
        if all(vectors is None for vectors in lists):
            return Motion.unknown((len(self.asked), height, width))
        # The nearest reference shown before each frame, and after it.
        references = np.array([-1, *sorted(self.references), frames[-1] + 1])
        behind = frames - references[np.searchsorted(references, frames) - 1]
        after = references[np.searchsorted(references, frames, side="right")] - frames
        past, future = painted(lists, self.dtype, *self.size)
        if future is not None:  # where only the way on is told: as far back at the same pace
            past = np.where(np.isnan(past), future * (-behind / after).astype(np.float32)[:, None, None], past)
        past[behind > frames] = np.nan  # what it refers to was lost
        past = turned(past, height, width, self.turns)
        known = ~np.isnan(past)
        exact = self.exact and not (self.headers is not None and self.headers.layered)
        return _chained(np.where(known, past, 0), known, behind, self.asked, frames, BLOCK, exact)


def painted(lists: Sequence[bytes | None], dtype: Any, height: int, width: int) -> tuple[Any, Any]:
    """FFmpeg's lists, one per frame or None, painted on blocks of 8 pixels: where to in the past, and in the future.

    Complex numbers, x + iy; NaN where nothing is told. The second is None if nothing leads to the future. There are
    blocks for whole macroblocks (for pairs of them, if interlaced), and a row and a column to spare.
    """
    my, mx = -(-height // 32) * 4 + 1, -(-width // 16) * 2 + 1
    vectors = np.frombuffer(b"".join(part or b"" for part in lists), dtype=dtype)
    frame = np.repeat(np.arange(len(lists)), [len(part or b"") // dtype.itemsize for part in lists])
    # `dst` is the middle of a block here, and `motion / motion_scale` leads to the middle of where it is taken from.
    values = np.empty(len(vectors), dtype=np.complex64)
    values.real, values.imag = vectors["motion_x"], vectors["motion_y"]
    values /= np.maximum(vectors["motion_scale"], 1)
    wide, tall, back = vectors["w"], vectors["h"], vectors["source"] < 0
    column, row = (vectors["dst_x"] - (wide >> 1)) >> 3, (vectors["dst_y"] - (tall >> 1)) >> 3
    cell = (frame * my + row) * mx + column
    valid = len(cell) == 0 or (row.min() >= 0 <= column.min() and row.max() < my - 1 and column.max() < mx - 1)
    whole = bool(back.all())

    def one(chosen: Any) -> Any:
        grid = np.full(len(lists) * my * mx, np.nan, dtype=np.complex64)
        at, told, two, high = (part[chosen] for part in (cell, values, wide == 16, tall == 16))
        grid[at] = told
        for also, offset in ((two, 1), (high, mx), (two & high, mx + 1)):
            grid[at[also] + offset] = told[also]
        return grid.reshape(len(lists), my, mx)

    if not valid:  # the stream is damaged
        inside = (row >= 0) & (row < my - 1) & (column >= 0) & (column < mx - 1)
        return one(back & inside), None if whole else one(~back & inside)
    return one(slice(None) if whole else back), None if whole else one(~back)


def turned(past: Any, height: int, width: int, turns: tuple[bool, bool, bool]) -> Any:
    """Vectors of stored pictures as those of shown ones of `height` x `width` pixels, turned as `orientation` says.

    Where a side is no whole number of blocks, a shown block takes the vector of the stored one that its middle is in.
    """
    if not any(turns):
        return past[:, : -(-height // BLOCK), : -(-width // BLOCK)]
    swapped, upside_down, mirrored = turns
    rows, columns = (_middles(size) for size in (height, width))
    if swapped:
        past = 1j * past.swapaxes(1, 2).conj()
    if upside_down:
        past, rows = past.conj(), height - 1 - rows
    if mirrored:
        past, columns = -past.conj(), width - 1 - columns
    return past[:, rows[:, None] // BLOCK, columns // BLOCK]


def _middles(size: int) -> Any:
    """The pixel in the middle of each block along a side; of what lies in the picture of the last."""
    starts = np.arange(0, size, BLOCK)
    return (starts + np.minimum(starts + BLOCK, size) - 1) // 2
