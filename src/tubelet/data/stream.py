"""Frames in the order of showing, one at a time: of long files, pipes and cameras, never the whole in memory."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Int, UInt8

from tubelet.data.container import opened
from tubelet.data.formats import guarded
from tubelet.data.images import is_picture
from tubelet.data.index import Damage, Video, VideoError, checked, runs_of, warn_damaged
from tubelet.data.paint import Brush, orientation
from tubelet.data.video import decoded_from, demuxed, fed, frames_at

Picture = UInt8[np.ndarray, "h w c"]


def in_order(
    video: Video, indices: Int[np.ndarray, " t"], *, size: int | None = None, gray: bool = False
) -> Iterator[tuple[int, Picture]]:
    """(index, frame) of every frame of `indices`, ascending and each once: what `frames_at` gives, without the memory.

    `size` is the short side, in pixels. A lost frame is replaced by the nearest earlier one that decodes, else later;
    a warning at the end says how many.

    Raises:
        VideoError: as `frames_at`.
    """
    asked = checked(video, np.unique(indices))
    if Path(video.path).is_dir() or is_picture(Path(video.path)):  # pictures: each by itself
        for index in asked.tolist():
            yield index, frames_at(video, [index], size=size, gray=gray).frames[0].numpy()
        return
    painted, damage = painter(size, gray, video.path), Damage()
    near, fresh = None, True
    indices_of = {int(stamp): index for index, stamp in enumerate(video.stamps)}
    with opened(video.path) as (container, stream):
        for group, starts in runs_of(video, asked):
            left = iter(group.tolist())
            waiting = next(left, None)
            wanted = set(video.stamps[group].tolist())
            for frame in decoded_from(video, container, stream, starts[0], wanted, damage, fresh):
                index = indices_of.get(frame.pts, -1)
                damage.frames.update({index} if frame.is_corrupt else ())
                while waiting is not None and waiting < index:  # lost
                    damage.frames.add(waiting)
                    yield waiting, painted(near or frame)
                    waiting = next(left, None)
                if waiting == index:
                    yield waiting, painted(frame)
                    waiting = next(left, None)
                near = frame
            while waiting is not None and near is not None:
                damage.frames.add(waiting)
                yield waiting, painted(near)
                waiting = next(left, None)
            if near is None:
                raise VideoError(f"none of {len(group)} frames asked of {video.path} decodes; copy the file anew")
            fresh = False
    warn_damaged(video.path, len(damage.packets) + len(damage.frames))


def painter(size: int | None, gray: bool, of: Path | str = "what comes in") -> Callable[[Any], Picture]:
    """A function that draws decoded frames: as shown, in colours or grey, all as large as the first, whose short side
    becomes `size` pixels."""
    brush = Brush(of)
    shape: list[int] = []

    def painted(frame: Any) -> Picture:
        if not shape:
            turned, _, _ = orientation(frame)
            height, width = (frame.width, frame.height) if turned else (frame.height, frame.width)
            scale = 1.0 if size is None else size / min(height, width)
            shape.extend((round(height * scale), round(width * scale), 1 if gray else 3))
        out = np.empty(shape, dtype=np.uint8)
        brush.paint(frame, out)
        return out

    return painted


def frames_of_stream(
    file: BinaryIO | str, *, size: int | None = None, gray: bool = False
) -> Iterator[tuple[float, Picture]]:
    """(seconds after the first, frame) of whatever container comes out of a pipe, as shown, while it comes.

    Damaged packets are skipped. Times that jump back, as where recordings are joined, go on from the last.

    Raises:
        VideoError: no video comes.
    """
    try:
        container = av.open(file, options=guarded(file))
    except (FFmpegError, ValueError) as error:
        raise VideoError(
            f"what comes in is no video that can be streamed ({error}); pipe a container made for it, as in: "
            "ffmpeg -i ... -c copy -f mpegts - | tubelet predict -"
        ) from error
    with container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise VideoError("what comes in has no video stream")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        painted, ascending = painter(size, gray), rising(float(1 / (stream.average_rate or 25)))
        empty = True
        for frame in fed(demuxed(container, stream), stream.codec_context, Damage()):
            empty = False
            yield ascending(None if frame.pts is None else float(frame.pts * stream.time_base)), painted(frame)
        if empty:
            raise VideoError("what comes in ends before the first frame")


def rising(interval: float) -> Callable[[float | None], float]:
    """A function from times as they come to seconds after the first, always later than before.

    >>> clock = rising(0.5)
    >>> [clock(time) for time in (7.0, 7.5, None, 2.0, 2.5)]
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    shift: float | None = None
    last = -interval

    def clock(time: float | None) -> float:
        nonlocal shift, last
        if time is None or (shift is not None and time + shift <= last):
            shift = None if time is None else last + interval - time
            last += interval
        else:
            shift = -time + last + interval if shift is None else shift
            last = time + shift
        return last

    return clock


def frames_of_camera(number: int, *, size: int | None = None, gray: bool = False) -> Iterator[tuple[float, Picture]]:
    """(seconds after the first, frame) of a camera of this machine, until it is unplugged.

    Raises:
        ValueError: OpenCV is not installed.
        VideoError: there is no such camera.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"camera {number} needs OpenCV, which is an extra: pip install 'tubelet[camera]'. Without it, pipe: "
            f"ffmpeg -f v4l2 -i /dev/video{number} -f mpegts - | tubelet predict -"
        ) from error
    camera: Any = cv2.VideoCapture(number)
    painted = painter(size, gray)
    try:
        start = 0.0
        for turn in count():
            there, frame = camera.read()
            if not there:
                if turn:
                    return
                raise VideoError(f"camera {number} gives no picture; is it there, and free?")
            start = start or monotonic()
            yield monotonic() - start, painted(av.VideoFrame.from_ndarray(frame, format="bgr24"))
    finally:
        camera.release()
