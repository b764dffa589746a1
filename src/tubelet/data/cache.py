"""All frames of all videos, small, in memory: decoded once, then only cropped. For minutes of video, not for days."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tubelet.data.flow import ENOUGH, Flow, stand_in, usable
from tubelet.data.vectors import BLOCK, Vectors, chained
from tubelet.data.video import Video, VideoError, frames_at, probe
from tubelet.types import Clip, Motion

PIECE = 128  # frames that are decoded at once where motion is kept: raw vectors take more memory than small frames


class Frames:
    """The frames of every video of a list, with the short side at most `side` pixels; of one listed twice, once.

    One block of memory: worker processes started by forking see the very same, spawned ones get it as shared memory.
    With `motion`, that between each frame and the one before is kept too, from the codec's vectors or estimated once,
    with half the digits (an eighth of a pixel at 128), on blocks that are as small as the codec's of the file, but not
    below 2 pixels of the small frames. A clip's is added up from it: so `Flow` is not looked for again at every step,
    and neither is what stands in for the vectors of a file of which less than half is known.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        side: int,
        channels: int = 3,
        progress: Callable[[int, int], object] | None = None,
        threads: int | None = None,
        *,
        motion: Vectors | Flow | None = None,
    ) -> None:
        """Decodes all videos, in threads; `progress` is called with (videos done, videos in all).

        Raises:
            ValueError: they do not fit into the free memory; says what is needed, what is free, and what would fit.
        """
        place = {path: index for index, path in enumerate(dict.fromkeys(paths))}
        self.which = [place[path] for path in paths]  # a video that is named twice is kept once
        paths = list(place)
        self.shapes, self.seconds, self.codecs, self.problems = [], [], [], {}
        self.sides: list[int] = []  # of the blocks, in pixels of what is kept
        videos: dict[int, Video] = {}
        for index, path in enumerate(paths):
            try:
                video = probe(path)
            except (VideoError, OSError) as error:
                self.problems[index] = str(error)
                self.shapes.append((0, 0, 0, channels))
                self.seconds.append(np.zeros(0))
                self.codecs.append("")
                self.sides.append(BLOCK)
                continue
            videos[index] = video
            self.shapes.append((len(video.seconds), *small(video.height, video.width, side), channels))
            self.seconds.append(video.seconds)
            self.codecs.append(video.codec)
            self.sides.append(max(round(BLOCK * self.shapes[-1][1] / video.height), 2))
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.grids = [
            (count, -(-h // side), -(-w // side)) if motion else (0, 0, 0)
            for (count, h, w, _), side in zip(self.shapes, self.sides)
        ]
        cells = [int(np.prod(grid)) for grid in self.grids]
        check_memory(sum(sizes) + 5 * sum(cells), side, len(paths))
        self.starts, self.cells = (np.cumsum([0, *numbers]).tolist() for numbers in (sizes, cells))
        self.damaged, self.exact, self.few = [0] * len(paths), [True] * len(paths), [""] * len(paths)
        self.block = torch.empty(self.starts[-1], dtype=torch.uint8)
        self.past = torch.zeros(2 * self.cells[-1], dtype=torch.float16)
        self.known = torch.zeros(self.cells[-1], dtype=torch.bool)
        self.moving, vectors = motion is not None, isinstance(motion, Vectors)
        fallback = usable(motion.fallback) if isinstance(motion, Vectors) else "none"

        def decode(index: int) -> None:
            """Threads, because FFmpeg lets go of the interpreter and so nothing is copied between processes."""
            count, height, width, _ = self.shapes[index]
            if index in self.problems:
                return
            (past, known), block, size = self.steps(index), self.sides[index], (height, width)
            try:
                for start, stop in pieces(videos[index], PIECE if vectors else count):
                    early = int(start > 0 and start not in videos[index].keys)  # motion is that since the frame before
                    some = range(start - early, stop)
                    clip = frames_at(paths[index], some, size=size, gray=channels == 1, vectors=vectors, block=block)
                    self.kept(index)[start:stop] = clip.frames[early:]
                    self.damaged[index] += clip.damaged
                    if clip.motion is not None:
                        past[:, start:stop] = clip.motion.to_previous[:, early:]
                        known[start:stop] = clip.motion.had[early:]
                        self.exact[index] &= clip.motion.exact
                if isinstance(motion, Flow):
                    self.look(index, replace(motion, block=block))
                elif fallback != "none" and count > 1 and known[1:].float().mean() < ENOUGH:
                    self.few[index] = "few" if known.any() else "no"
                    self.look(index, partial(stand_in, fallback, block=block))
            except (VideoError, OSError) as error:
                self.problems[index] = str(error)

        with ThreadPoolExecutor(threads or cores()) as pool:
            try:
                for done, job in enumerate(as_completed([pool.submit(decode, i) for i in range(len(paths))]), 1):
                    job.result()
                    if progress:
                        progress(done, len(paths))
            except BaseException:  # Ctrl-C too: the videos that wait are not worth waiting for
                pool.shutdown(cancel_futures=True)
                raise

    def look(self, index: int, look: Callable[..., Motion]) -> None:
        """Looks for motion in the frames of a video that are kept; counting different videos."""
        frames, (past, known) = self.kept(index), self.steps(index)
        self.exact[index] = True  # of what was there, nothing stays
        for start in range(0, len(frames), PIECE):
            early = int(start > 0)  # one frame more: motion is that since the frame before
            found = look(frames[start - early : start + PIECE], both=False)
            past[:, start : start + PIECE] = found.to_previous[:, early:]
            known[start : start + PIECE] = found.had[early:]
            self.exact[index] &= found.exact

    def all(self, index: int) -> UInt8[Tensor, "t h w c"]:
        """Every frame of the video at a place of the list: a view, not a copy."""
        return self.kept(self.which[index])

    def kept(self, index: int) -> UInt8[Tensor, "t h w c"]:
        """Every frame of a video, counting different ones."""
        return self.block[self.starts[index] : self.starts[index + 1]].view(self.shapes[index])

    def steps(self, index: int) -> tuple[Float[Tensor, "2 t my mx"], Bool[Tensor, "t my mx"]]:
        """Where the blocks of every frame were in the one before, and which are known; counting different videos."""
        first, stop, grid = self.cells[index], self.cells[index + 1], self.grids[index]
        return self.past[2 * first : 2 * stop].view(2, *grid), self.known[first:stop].view(grid)

    def lacks(self, index: int) -> str:
        """What the video at a place of the list had of vectors, where something stands in for them: "no" or "few"."""
        return self.few[self.which[index]]

    def codec(self, index: int) -> str:
        """The codec of the video at a place of the list."""
        return self.codecs[self.which[index]]

    def times(self, index: int) -> Float[np.ndarray, " t"]:
        """Presentation times of the video at a place of the list, in seconds.

        Raises:
            VideoError: it could not be decoded.
        """
        index = self.which[index]
        if index in self.problems:
            raise VideoError(self.problems[index])
        return self.seconds[index]

    def at(self, index: int, indices: Int[np.ndarray, " t"]) -> Clip:
        """The frames asked for, as `video.frames_at` gives them, with motion if that was kept."""
        return Clip(
            self.all(index)[torch.from_numpy(indices)],
            torch.from_numpy(self.times(index)[indices]),
            self.damaged[self.which[index]],
            self.motion(self.which[index], indices) if self.moving else None,
        )

    def motion(self, index: int, indices: Int[np.ndarray, " t"]) -> Motion:
        """Motion between the frames asked for, from that of single frames; counting different videos."""
        past, known = self.steps(index)
        rows = np.arange(indices.min(), indices.max() + 1)
        part = slice(rows[0], rows[-1] + 1)
        if not known[part].any():
            return Motion.unknown((len(indices), *self.shapes[index][1:3]), self.sides[index])
        steps = past[:, part].float().movedim(0, 1).numpy()
        ones, block, exact = np.ones_like(rows), self.sides[index], self.exact[index]
        return chained(steps, known[part].numpy(), ones, indices, frames=rows, block=block, exact=exact, far=math.inf)


def pieces(video: Video, least: int) -> Iterator[tuple[int, int]]:
    """Where a video is cut so that little is decoded twice: (first, behind the last), of `least` frames or more.

    A piece begins at a key frame, of which no vectors are known anyway, or if none is near after `least` frames.
    """
    start = 0
    while start < video.frames:
        keys = video.keys[(video.keys >= start + least) & (video.keys < start + 4 * least)]
        stop = int(keys[0]) if len(keys) else start + least
        yield start, min(stop, video.frames)
        start = stop


def small(height: int, width: int, side: int) -> tuple[int, int]:
    """The size with a short side of `side` pixels and the same shape; never larger than the video is."""
    scale = min(1.0, side / min(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def check_memory(needed: int, side: int, videos: int) -> None:
    """Stops before the system would.

    Raises:
        ValueError: `needed` bytes are more than four fifths of the free memory (the rest is for batches and networks).
    """
    free = free_memory()
    if free is None or needed <= 0.8 * free:
        return
    fits = int(side * (0.8 * free / needed) ** 0.5)
    raise ValueError(
        f"keeping all frames of {videos} videos at {side} pixels takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
        f"are free; use --data.cache {fits} or less, or --data.cache 0 to decode every clip anew"
    )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that a process may still take: of the machine, or of its container; None where the system does not say."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:  # not Linux
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return min(limits, default=None)
