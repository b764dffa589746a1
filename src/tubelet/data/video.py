"""Frames out of video files; out of images too, which `images.py` reads. Encoding is in `writing.py`.

An index (`probe`) says when every frame is shown; `frames_at` and `frames_when` decode just what is asked for, exactly,
and past damage. Which frames make a clip is decided in `sampling.py`, crops in `transforms.py`.

One decoding thread and no state beyond a cache of indices: all of it works in fork, spawn and forkserver workers.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.error import FFmpegError
from jaxtyping import Float, Int
from torch import Tensor

from tubelet.data import images
from tubelet.data.container import opened
from tubelet.data.index import (
    NONE,
    SUFFIXES,
    Damage,
    Name,
    Packets,
    Video,
    VideoError,
    checked,
    frames_of,
    name_of,
    nearest_of,
    needed,
    remember,
    runs_of,
    scaled,
    shown_at,
    shown_from,
    stamps_of,
    video_of,
)
from tubelet.data.kept import known
from tubelet.data.paint import drawn, orientation
from tubelet.data.transforms import Window, resized
from tubelet.data.vectors import BLOCK, FAR, Steps
from tubelet.data.writing import write
from tubelet.types import Clip, Motion

__all__ = ["SUFFIXES", "Video", "VideoError", "frames_at", "frames_when", "probe", "write"]

# ---------------------------------------------------------------------------- 1. the index


def probe(path: Path | str, *, anew: bool = False) -> Video:
    """The index of a video file, folder of images or picture; free while size and time of it stay as they were when
    last asked, but for pictures, which are decoded. Of prepared files it is kept on disk; `anew`: look nevertheless.

    Packets are listed, not decoded, wherever a packet is known to be a frame; the rest (MPEG streams, AVI with
    B-frames, pieces cut out of a stream) is decoded once. Of several video streams, FFmpeg's best is taken.

    Raises:
        VideoError: no such file, a folder without frames, not a video, no video stream, nothing in it; with what
            FFmpeg says.
    """
    path = Path(path)
    if images.is_picture(path):  # not remembered: there may be millions
        return images.picture(path)[0]
    name = name_of(path)
    if not anew and (video := known(path, name)) is not None:
        return video
    if path.is_dir():
        return remember(name, images.probe(path))
    with opened(path) as (container, stream):
        return _indexed(name, path, container, stream)


def _indexed(name: Name | None, path: Path, container: Any, stream: Any) -> Video:
    """The index of an open file, which is read to its end for it; `name` is that from before it was opened."""
    kind, codec = container.format.name, stream.codec_context.name
    rows = [
        (
            NONE if packet.pts is None else packet.pts,
            NONE if packet.dts is None else packet.dts,
            -1 if packet.pos is None else packet.pos,
            packet.size,
            packet.is_keyframe,
            # An edit list cuts packets off; VP8 keeps reference frames that are never shown in packets of their own.
            not packet.is_discard and (codec != "vp8" or bool(memoryview(packet)[0] & 16)),
        )
        for packet in demuxed(container, stream)
    ]
    if not rows:
        raise VideoError(f"{path} ({codec} in {kind}) has 0 frames: nothing was recorded, or the file is cut off")
    packets = Packets(*np.array(rows, dtype=np.int64).T)
    stamp, stamps = stamps_of(packets, kind)
    frames = frames_of(packets, stamp, kind, codec, bool(stream.codec_context.has_b_frames))
    keyed = frames is not None
    if frames is None:
        places = {int(value): place for place, value in enumerate(stamps)}
        with opened(path) as (again, same):
            same.codec_context.options = {"skip_loop_filter": "all", "skip_idct": "all"}  # only the order matters here
            decoded = [frame.pts for frame in fed(_stamped(again, same, stamp), same.codec_context, Damage())]
        once = dict.fromkeys(places[value] for value in decoded if value in places)  # what is damaged may come twice
        frames = np.array([*once], dtype=np.int64)
    if len(frames):
        video = video_of(path, kind, stream, packets, stamp, stamps, frames, keyed)
        if len(video.starts) == video.frames > 1 and not stream.codec_context.codec.intra_only:
            # All key frames: or an AVI that has lost its index, which said what is one.
            first = decoded_from(
                video, container, stream, video.starts[0], set(video.stamps[:8].tolist()), Damage(), False
            )
            if not all(frame.key_frame for frame in first):
                video = replace(video, starts=video.starts[:1])
        # Only a decoded frame tells how a player turns it: the first, or else the first that is whole.
        for wanted in (video.stamps[:1], video.stamps):
            run = decoded_from(video, container, stream, video.starts[0], set(wanted.tolist()), Damage(), False)
            if (frame := next(run, None)) is not None:
                run.close()
                turned, _, _ = orientation(frame)
                size = (frame.height, frame.width) if turned else (frame.width, frame.height)
                video = replace(video, width=size[0], height=size[1], rotation=frame.rotation % 360)
                return remember(name, video)
    raise VideoError(
        f"{path} ({codec} in {kind}) has {len(rows)} packets, none of which decodes. "
        "The file is damaged or encrypted: copy it anew, or leave it out"
    )


# ---------------------------------------------------------------------------- 2. frames

Indices = Sequence[int] | Int[np.ndarray, " t"] | Int[Tensor, " t"]


def frames_at(
    video: Video | Path | str,
    indices: Indices | Callable[[Video], Indices],
    *,
    size: int | tuple[int, int] | None = None,
    gray: bool = False,
    vectors: bool = False,
    block: int = BLOCK,
    windows: Callable[[Video], Sequence[Window] | None] | None = None,
    yuv: bool = False,
) -> Clip:
    """The frames at `indices`, in that order, as shown: rotated, RGB (or one channel of grey), [0, 255].

    `indices` may be a function of the index: so choosing and decoding open the file once. `size` is the short side or
    (height, width), in pixels, by swscale's bilinear filter, widened to the shrinking (as antialiasing does).
    Damaged packets are skipped and counted; a frame lost to them is replaced by the nearest earlier one, else later.

    With `vectors` the clip has the motion between its frames, from the codec's vectors, on blocks of `block` pixels;
    nothing is known for codecs without. All frames between that others refer to are decoded, also over key frames.

    `windows` says, by the index, which parts of the frames are wanted, each at `size`: `frames` is then "k t h w c",
    and motion is still that of whole frames. None: whole frames after all, unscaled. Even edges are quickest.

    With `yuv` those windows stay YUV 4:2:0, as `Clip.yuv`; images and whole frames come in colours all the same.

    Raises:
        VideoError: as `probe`; or an index outside the video; or not one of the frames can be decoded.
        ValueError: no such block, or windows without (height, width), or YUV without windows of even edges.
    """
    if block < 1:
        raise ValueError(f"motion on blocks of {block} pixels cannot be told; expected 1 or more, such as {BLOCK}")
    if windows is not None and not isinstance(size, tuple):
        raise ValueError(f"windows of frames need one size as (height, width), such as (224, 224), not {size}")
    if yuv and (windows is None or gray or not isinstance(size, tuple) or size[0] % 2 or size[1] % 2):
        said = f"size {size}, gray {gray}, and {'no ' * (windows is None)}windows"
        raise ValueError(f"YUV 4:2:0 needs windows of frames in colour, and an even height and width, not {said}")
    path = video.path if isinstance(video, Video) else Path(video)
    if path.is_dir() or images.is_picture(path):
        image = None
        if path.is_dir():
            video = video if isinstance(video, Video) else probe(path)
        else:
            video, image = images.picture(path)
        asked = checked(video, indices(video) if callable(indices) else indices)
        parts = None if windows is None else windows(video)
        full = size if windows is None else None
        clip = (
            images.frames_at(video, asked, full, gray)
            if image is None
            else images.still(video, image, asked, full, gray)
        )
        motion = Motion.unknown(clip.frames.shape[:3], block) if vectors else None
        if parts is not None and isinstance(size, tuple):
            clip = replace(clip, frames=torch.stack([resized(clip.frames, part, size) for part in parts]))
        return replace(clip, motion=motion)
    name = name_of(path)
    with opened(path) as (container, stream):
        if vectors:  # before anything is decoded: the decoder reads its options once
            stream.codec_context.options = {"flags2": "+export_mvs"}
        found = video if isinstance(video, Video) else known(path, name)
        fresh, video = found is not None, found or _indexed(name, path, container, stream)
        asked = checked(video, indices(video) if callable(indices) else indices)
        parts = None if windows is None else windows(video)
        damage, steps = Damage(), Steps(video, stream.codec_context, asked) if vectors else None
        decoded = _decoded(video, container, stream, asked, damage, fresh, steps)
        full = size if windows is None else None
        clip = drawn(
            video, asked, decoded, damage, full if parts is None else size, gray, parts, yuv and parts is not None
        )
        shown = scaled(video, full)
        return clip if steps is None else replace(clip, motion=steps.motion(shown, block))


def frames_when(
    video: Video | Path | str,
    seconds: Sequence[float] | Float[np.ndarray, " t"] | Float[Tensor, " t"],
    *,
    size: int | tuple[int, int] | None = None,
    gray: bool = False,
) -> Clip:
    """The frames shown at these seconds after the first frame; before the start the first, past the end the last.

    Raises:
        VideoError: as `frames_at`.
    """
    return frames_at(video, partial(shown_at, times=np.asarray(seconds, dtype=np.float64)), size=size, gray=gray)


def _decoded(
    video: Video,
    container: Any,
    stream: Any,
    asked: Int[np.ndarray, " t"],
    damage: Damage,
    fresh: bool,
    steps: Steps | None = None,
) -> Iterator[tuple[int, Any]]:
    """(index, decoded frame) of every frame asked for that can be decoded, each once, in no fixed order."""
    for group, starts in runs_of(video, asked, 0 if steps is None else FAR):
        missing = {int(video.stamps[i]): int(i) for i in group}
        # Once more from the start of the file if that was no key frame after all (intra refresh, a wrong index).
        for start in starts:
            before = len(damage.packets)
            for frame in decoded_from(video, container, stream, start, set(missing), damage, fresh, steps):
                if frame.is_corrupt and shown_from(video, frame.pts, start):
                    damage.frames.add(frame.pts)  # part of it made up, and of what refers to it
                if frame.pts in missing:
                    yield missing.pop(frame.pts), frame
            fresh = False
            if not missing or len(damage.packets) > before:
                break
        if missing:
            damage.frames.update(missing)
            # All frames on the way there, also those that no other refers to: one of them may be the nearest.
            near = set(video.stamps[int(starts[-1][0]) : max(missing.values()) + 1].tolist())
            run = decoded_from(video, container, stream, starts[-1], near, Damage(), fresh)
            yield from nearest_of(video, run, missing)


def decoded_from(
    video: Video,
    container: Any,
    stream: Any,
    start: Any,
    wanted: set[int],
    damage: Damage,
    fresh: bool,
    steps: Steps | None = None,
) -> Generator[Any, None, None]:
    """Decoded frames from one starting point until the last wanted one; others may be among them.

    Or from the start of the file, if that was no key frame after all: an AVI that has lost its index marks all as such.
    (H.264 may begin at frames that refer to others; its decoder gives none that it cannot have whole.)
    """
    codec, landed, all_wanted = stream.codec_context, _landed(video, container, stream, start, fresh), set(wanted)
    held = start[1] > 0 and codec.name != "h264"
    try:
        frames = fed(needed(landed if steps is None else steps.heard(landed), codec, wanted), codec, damage)
        for frame in frames if steps is None else steps.seen(frames):
            if held and frame.pts == start[3] and not frame.key_frame:
                break
            yield frame
        else:
            return
    finally:
        codec.skip_frame = "DEFAULT"
        codec.flush_buffers()
    yield from decoded_from(video, container, stream, video.starts[0], all_wanted, damage, False, steps)


def _landed(video: Video, container: Any, stream: Any, start: Any, fresh: bool) -> Iterator[Any]:
    """Packets from one starting point on. Seeks are not exact: what comes before it is dropped."""
    _, before, time, first = (int(x) for x in start)
    if video.stamp != "order" and time != NONE and not (fresh and before < 32):
        with suppress(FFmpegError):
            container.seek(time, stream=stream)
    found = False
    for packet in _from(first, _stamped(container, stream, video.stamp)):
        found = True
        yield packet
    if not found:  # landed behind it, or nowhere
        with opened(video.path) as (again, same):
            yield from _from(first, _stamped(again, same, video.stamp))


def _from(first: int, packets: Iterator[Any]) -> Iterator[Any]:
    """The packets from the one stamped `first` on; none if they begin behind it."""
    for number, packet in enumerate(packets):
        if packet.pts == first:
            yield packet
            yield from packets
        elif number == 0 and packet.pts > first:
            return


def _stamped(container: Any, stream: Any, stamp: str) -> Iterator[Any]:
    """Packets whose pts, which the decoder hands on to the frame, tells them apart."""
    for number, packet in enumerate(demuxed(container, stream)):
        if stamp != "pts":
            packet.pts = number if stamp == "order" or packet.pos is None else packet.pos
        yield packet


def demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of the stream that are not empty, up to the end or to where the file breaks off."""
    with suppress(FFmpegError, IndexError):  # PyAV's, at the end, where a stream has begun in the middle of the file
        for packet in container.demux(stream):
            if packet.size:
                yield packet


def fed(packets: Iterable[Any], codec: Any, damage: Damage) -> Iterator[Any]:
    """What the decoder makes of the packets, and what it still holds after the last; an error costs one packet."""
    for packet in packets:
        if packet.is_corrupt:
            damage.packets.append("a packet is cut off, or marked as damaged")
        try:
            frames = codec.decode(packet)
        except FFmpegError as error:
            damage.packets += [] if packet.is_corrupt else [str(error)]
        else:
            damage.decoded += len(frames)
            yield from frames
    with suppress(FFmpegError):
        frames = codec.decode(None)
        damage.decoded += len(frames)
        yield from frames
