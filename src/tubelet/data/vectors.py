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
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.data.h264 import Headers, Slice
from tubelet.data.index import Video
from tubelet.data.paint import orientation, side_data
from tubelet.types import Motion

BLOCK = 8  # pixels; the smallest that FFmpeg tells of
REORDERED = 17  # frames; a picture is decoded at most 16 before it is shown (H.264, annex A)
FAR = 64  # frames; clips whose frames are further apart would have to decode too much between, and get no vectors
B_FRAME = 3  # FFmpeg's number
SINGLE = "flv h263 mpeg1video mpeg2video mpeg4 msmpeg4 msmpeg4v1 msmpeg4v2 wmv1 wmv2".split()  # noqa: SIM905
"""Codecs of which every frame refers to one frame before it and one after it at most."""
BETWEEN = ("h264", "mpeg1video", "mpeg2video")
"""Codecs of which FFmpeg knows the vectors of B-frames. For those of MPEG-4 it tells zeros, whatever they are."""


def tells(codec: str) -> bool:
    """Whether FFmpeg tells the motion vectors of a codec."""
    return codec == "h264" or codec in SINGLE


def has_vectors(video: Video) -> bool:
    """Whether most frames of a file have some, as far as its codec and its key frames tell."""
    return tells(video.codec) and 2 * len(video.keys) <= max(video.frames, 2)


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
    far: float = FAR,
) -> Motion:
    """Motion between each of the frames `indices` and the one asked for before it, on blocks of `block` pixels.

    Row i tells of frame `frames[i]` (ascending; of frame i where not given): where it is `known`, `past` leads to the
    same content `hop[i]` frames earlier. A block is followed from its centre, with the vector of whichever block it
    lands in; outside the picture, with that of the nearest one. Of a hop beyond the frame looked for, a share is taken.

    A step that is not known is bridged at the pace so far, and the whole path scaled up, if at least half of the
    frames between are accounted for; else the block is not known. A frame asked for twice in a row did not move; from
    a frame to an earlier one, or to one more than `far` later, nothing is known. `to_next` is the way back, given to
    the block that it starts from; of several the one that starts nearest to its centre.
    """
    there = torch.from_numpy(known).float()[:, None]
    field = torch.cat([torch.from_numpy(past).float() * there, there], 1)
    frames = np.arange(len(field)) if frames is None else frames
    return _chained(field, np.asarray(hop), np.asarray(indices), frames, block, exact, far)


class Shown(NamedTuple):
    """How the clip looks whose blocks have a path each."""

    rows: int
    columns: int
    block: int  # pixels
    scale: tuple[float, float]  # pixels of it over those of the field, across and down


def _chained(
    field: Tensor,
    hop: Any,
    indices: Any,
    frames: Any,
    block: int,
    exact: bool,
    far: float = FAR,
    shown: Shown | None = None,
) -> Motion:
    """The same from x, y and 1 of what is known, 0 of the rest: rows 3 my mx. In pixels of what is `shown`."""
    _, _, my, mx = field.shape
    own = Shown(my, mx, block, (1.0, 1.0))
    shown, goal, at = shown or own, indices[:-1], indices[1:]
    centres = shown.block * (np.indices((shown.rows, shown.columns), dtype=np.float32)[::-1] + np.float32(0.5))
    # One hop, as nearly all of a clip on a layer: there is nothing to follow, and blocks are where they were.
    row = np.maximum(np.searchsorted(frames, at, side="right") - 1, 0)
    near = (frames[row] == at) & (hop[row] == at - goal) & (at > goal) & (at - goal <= far) & (shown == own)
    rows, rest = field.index_select(0, torch.from_numpy(row)), np.flatnonzero(~near)
    moved, had = rows[:, :2], rows[:, 2] > 0
    if len(rest) == len(near):
        moved, had = _followed(field, hop, goal, at, frames, block, far, shown, centres)
    elif len(rest):
        there = torch.from_numpy(rest)
        moved[there], had[there] = _followed(field, hop, goal[rest], at[rest], frames, block, far, shown, centres)
    back, has = map(torch.from_numpy, _back(moved.numpy(), had.numpy(), centres, shown.block))
    to_previous, to_next = _whole(moved, True).movedim(1, 0), _whole(back, False).movedim(1, 0)
    return Motion(to_previous, to_next, _whole(had, True), _whole(has, False), shown.block, exact)


def _followed(
    field: Tensor, hop: Any, goal: Any, at: Any, frames: Any, block: int, far: float, shown: Shown, centres: Any
) -> tuple[Tensor, Tensor]:
    """Where the blocks of each frame `at` were in the frame `goal`, hop by hop; and of which that is known."""
    _, _, my, mx = field.shape
    gap, at = at - goal, at.copy()
    paths = torch.zeros(len(gap), 3, shown.rows, shown.columns)  # x, y, and frames on a path that are accounted for
    # Where to look next, from -1 to 1 as grid_sample has it; the least bit further: what is on a border goes on.
    size, scales = (np.array(pair, np.float32).reshape(2, 1, 1) for pair in ((mx * block, my * block), shown.scale))
    place = torch.from_numpy(2 * centres / (size * scales) - np.float32(1 - 1e-5)).repeat(len(gap), 1, 1, 1)
    scale = torch.from_numpy(2 / size)
    live = np.flatnonzero((gap > 0) & (gap <= far))
    while len(live):  # all blocks of all gaps go one hop back
        row = np.searchsorted(frames, at[live], side="right") - 1
        there = (row >= 0) & (frames[row] == at[live])  # else the frame was lost: on to the last before it
        length = np.where(there, np.maximum(hop[row], 1), 1)
        before = np.where(there, at[live] - length, np.where(row >= 0, frames[row], goal[live]))
        before = np.maximum(before, goal[live])
        share = at[live] - before
        on = torch.from_numpy(live) if len(live) < len(gap) else slice(None)  # a slice is not copied
        rows = field.index_select(0, torch.from_numpy(np.maximum(row, 0)))
        look = place[on].permute(0, 2, 3, 1)
        step = F.grid_sample(rows, look, mode="nearest", padding_mode="border", align_corners=False)
        if not there.all() or (length != 1).any():
            weights = np.stack([share / length, share / length, share]) * there
            step *= torch.from_numpy(weights).float().T[..., None, None]
        unknown = np.flatnonzero(step[:, 2].numpy() == 0)
        if len(unknown):  # on at the pace so far, which is not counted
            which, cell = np.divmod(unknown, shown.rows * shown.columns)
            spots = live[which], slice(None), cell
            x_y_frames = paths.flatten(2).numpy()[spots]
            pace = x_y_frames[:, :2] * (share[which] / np.maximum(x_y_frames[:, 2], 1))[:, None]
            place.flatten(2).numpy()[spots] += pace * scale.flatten().numpy()
        place[on] += step[:, :2] * scale
        paths[on] += step
        at[live] = before
        live = live[before > goal[live]]
    moved, passed, gaps = paths[:, :2], paths[:, 2], torch.from_numpy(gap).view(-1, 1, 1)
    had = (2 * passed >= gaps) & (gaps >= 0)
    if not (passed == gaps).all():
        moved *= torch.where(had, gaps / passed.clamp(min=1), 0)[:, None]
    return moved * torch.from_numpy(scales), had


def _whole(part: Tensor, late: bool) -> Tensor:
    """With the frame that has no neighbour: the first if `late`, else the last."""
    lone = part.new_zeros(1, *part.shape[1:])
    return torch.cat([lone, part] if late else [part, lone])


def _back(moved: Any, had: Any, centres: Any, block: int) -> tuple[Any, Any]:
    """The way back, on the blocks that the paths lead to."""
    gaps, _, my, mx = moved.shape
    x, y = (centres[axis] + moved[:, axis] for axis in (0, 1))
    column, row = (np.multiply(part, 1 / block, dtype=np.float32).astype(np.int32) for part in (x, y))
    inside = had & (x >= 0) & (y >= 0) & (column < mx) & (row < my)
    source = np.flatnonzero(inside)
    target = (np.arange(0, gaps * my * mx, my * mx)[:, None, None] + (row * mx + column)).ravel()[source]
    steps = [-moved[:, axis].ravel()[source] for axis in (0, 1)]
    back, has = np.zeros((2, gaps * my * mx), dtype=np.float32), np.zeros(gaps * my * mx, dtype=bool)
    for values, step in zip(back, steps):
        values[target] = step
    has[target] = True
    several = np.flatnonzero(np.bincount(target, minlength=len(has)).take(target) > 1)
    if len(several):  # the nearest once more, and last: of several values for one place numpy keeps the last
        spots = target[several] % (my * mx)
        off_x, off_y = (
            part.ravel()[source[several]] - centre.ravel()[spots] for part, centre in zip((x, y), centres, strict=True)
        )
        # Whole numbers of 16 bits sort in no time.
        nearness = (65535 - 131070 / block**2 * (off_x**2 + off_y**2)).astype(np.uint16)
        order = several[np.argsort(nearness, kind="stable")]
        for values, step in zip(back, steps):
            values[target[order]] = step[order]
    return back.reshape(2, gaps, my, mx).swapaxes(0, 1), has.reshape(gaps, my, mx)


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
        self.came: set[int] = set()  # frames that were not lost
        self.chain = self.headers is None and not codec.has_b_frames  # every frame refers to the one before
        self.wanted = set(asked.tolist())
        self.rows: dict[int, bytes | None] = {}  # FFmpeg's lists; None where there is none
        self.dtype: Any = None  # of their entries
        self.exact = tells(video.codec)
        self.shy = video.codec not in BETWEEN  # tells nothing of B-frames
        self.turns: tuple[bool, bool, bool] = (False, False, False)
        turned = video.rotation % 180 == 90
        self.size = (video.width, video.height) if turned else (video.height, video.width)  # of the stored picture

    def heard(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets, on their way to the decoder."""
        for packet in packets:
            if self.headers is not None:
                wanted = self.places.get(packet.pts) in self.wanted
                self.slices[packet.pts] = self.headers.slices(bytes(packet), brief=not wanted)
            else:
                self.slices[packet.pts] = None
            yield packet

    def seen(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames, on their way from the decoder."""
        for frame in frames:
            if (place := self.places.get(stamp := frame.pts)) is not None:
                self.came.add(place)
                part = self.slices.get(stamp) or Slice(int(frame.pict_type) != B_FRAME, self.headers is None)
                if part.reference:
                    self.references.add(place)
                if self.first < place <= self.last and (part.reference or place in self.wanted):
                    self.rows[place] = self._told(frame)
                    self.exact &= part.single
            yield frame

    def _told(self, frame: Any) -> bytes | None:
        """FFmpeg's list of one frame; a copy, so that the frame can go."""
        if not self.rows:
            self.turns = orientation(frame)
        if self.shy and int(frame.pict_type) == B_FRAME:
            return None
        if self.headers is not None and self.headers.shifted:
            return None  # counted from the corner of the coded picture, which is not shown
        told = side_data(frame, "MOTION_VECTORS")
        if told is None or frame.is_corrupt or (frame.height, frame.width) != self.size:
            return None
        self.exact &= not frame.interlaced_frame
        self.dtype = self.dtype or told.to_ndarray().dtype
        return bytes(told)

    def motion(self, shown: tuple[int, int], block: int = BLOCK) -> Motion:
        """Motion between the frames asked for, as shown and scaled to `shown` (height, width).

        A block has the path of its centre: a mean of all paths in it would cost as much as decoding does.
        """
        height, width = self.video.height, self.video.width
        frames = np.array(sorted(self.rows))
        lists = [self.rows[frame] for frame in frames.tolist()]
        if all(vectors is None for vectors in lists):
            motion = Motion.unknown((len(self.asked), *shown), block)
            motion.had[1:] = motion.has[:-1] = self.first == self.last  # one frame, repeated, does not move
            return motion
        # The nearest reference shown before each frame, and after it: also one that was lost, as far as packets tell.
        heard = {self.places[stamp]: part for stamp, part in self.slices.items() if stamp in self.places}
        lost = {place: part for place, part in heard.items() if place not in self.came}
        known = {place for place, part in lost.items() if (part.reference if part else self.chain)}
        references = np.array([-1, *sorted(self.references | known), frames[-1] + 1])
        behind = frames - references[np.searchsorted(references, frames) - 1]
        after = references[np.searchsorted(references, frames, side="right")] - frames
        past, future = painted(lists, self.dtype, *self.size)
        if future is not None:  # where only the way on is told: as far back at the same pace
            future[:, :2] *= (-behind / after).astype(np.float32)[:, None, None, None]
            past = np.where(past[:, 2:] == 0, future, past)
        # Others may have referred to these or not; of frames that nobody wanted some were left out on purpose.
        unclear = [p for p, part in lost.items() if not part and p not in known and (self.headers or p in self.wanted)]
        over = np.searchsorted(np.sort(unclear), frames) > np.searchsorted(np.sort(unclear), frames - behind)
        past[over | (behind > frames)] = 0
        field = torch.from_numpy(turned(past, height, width, self.turns))
        exact = self.exact and not (self.headers is not None and self.headers.layered)
        clip = Shown(-(-shown[0] // block), -(-shown[1] // block), block, (shown[1] / width, shown[0] / height))
        return _chained(field, behind, self.asked, frames, BLOCK, exact, shown=clip)


def painted(lists: Sequence[bytes | None], dtype: Any, height: int, width: int) -> tuple[Any, Any]:
    """FFmpeg's lists, one per frame or None, painted on blocks of 8 pixels: where to in the past, and in the future.

    x, y, and 1 where it is told, 0 where not: rows 3 my mx. The second is None if nothing leads to the future. There
    are blocks for whole macroblocks (for pairs of them, if interlaced).
    """
    my, mx = -(-height // 32) * 4, -(-width // 16) * 2
    vectors = np.frombuffer(b"".join(part or b"" for part in lists), dtype=dtype)
    frame = np.repeat(np.arange(len(lists)), [len(part or b"") // dtype.itemsize for part in lists])
    # `dst` is the middle of a block here, and `motion / motion_scale` leads to the middle of where it is taken from.
    wide, tall, back, scale = vectors["w"], vectors["h"], vectors["source"] < 0, np.maximum(vectors["motion_scale"], 1)
    column, row = (vectors["dst_x"] - (wide >> 1)) >> 3, (vectors["dst_y"] - (tall >> 1)) >> 3
    large = (wide == 16) & (tall == 16) & ((row | column) & 1 == 0)  # most are; they are painted quicker
    x, y = (np.divide(vectors[name], scale, dtype=np.float32) for name in ("motion_x", "motion_y"))
    inside = (row >= 0) & (column >= 0) & (row + (tall >> 3) <= my) & (column + (wide >> 3) <= mx)  # else damaged

    fields = []
    for chosen in (back & inside, ~back & inside):
        coarse = np.zeros((len(lists), 3, my // 2, mx // 2), dtype=np.float32)
        some = np.flatnonzero(chosen & large)
        _paint(coarse, x[some], y[some], frame[some], row[some] >> 1, column[some] >> 1)
        fine = np.empty((len(lists), 3, my, mx), dtype=np.float32)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            fine[:, :, down::2, right::2] = coarse
        some = np.flatnonzero(chosen & ~large)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = some[(tall[some] > 8 * down) & (wide[some] > 8 * right)]
            _paint(fine, x[part], y[part], frame[part], row[part] + down, column[part] + right)
        fields.append(fine)
        if back.all():
            return fine, None
    return fields[0], fields[1]


def _paint(field: Any, x: Any, y: Any, t: Any, j: Any, i: Any) -> None:
    """Sets x, y and 1 in rows `t` of a field, at blocks (j, i)."""
    _, _, rows, columns = field.shape
    cell, plane = (3 * t * rows + j) * columns + i, rows * columns
    for number, values in enumerate((x, y, 1)):
        field.ravel()[cell + number * plane] = values


def turned(past: Any, height: int, width: int, turns: tuple[bool, bool, bool]) -> Any:
    """Vectors of stored pictures as those of shown ones of `height` x `width` pixels, turned as `orientation` says.

    Where a side is no whole number of blocks, a shown block takes the vector of the stored one that its middle is in.
    """
    if not any(turns):
        return past[:, :, : -(-height // BLOCK), : -(-width // BLOCK)]
    swapped, upside_down, mirrored = turns
    rows, columns = (_middles(size) for size in (height, width))
    if swapped:
        past = past[:, [1, 0, 2]].swapaxes(2, 3)
    signs = np.array([-1 if mirrored else 1, -1 if upside_down else 1, 1], dtype=np.float32)
    rows = height - 1 - rows if upside_down else rows
    columns = width - 1 - columns if mirrored else columns
    return (past * signs[:, None, None])[:, :, rows[:, None] // BLOCK, columns // BLOCK]


def _middles(size: int) -> Any:
    """The pixel in the middle of each block along a side; of what lies in the picture of the last."""
    starts = np.arange(0, size, BLOCK)
    return (starts + np.minimum(starts + BLOCK, size) - 1) // 2
