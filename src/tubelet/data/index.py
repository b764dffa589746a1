"""What is where in a video file: from a list of its packets to frames in the order of showing. No file is opened here.

`video.py` lists the packets, and decodes them where a list alone cannot tell (`frames_of`).
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tubelet.data.remote import absolute, shown, url_of
from tubelet.data.sampling import rate, varies
from tubelet.data.shards import state_of

SUFFIXES = frozenset(
    f".{ending}"
    for ending in "3gp asf avi divx flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv".split()  # noqa: SIM905
)
NONE = -(2**63)  # FFmpeg's "no time stamp"


class VideoError(ValueError):
    """What is wrong with a video file, and what to do about it."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


@dataclass(frozen=True, eq=False)
class Video:
    """What a file holds and where: enough to decode any frame without another look at the whole."""

    path: Path
    codec: str
    container: str
    width: int  # as shown, after rotation; pixels are taken as square
    height: int
    rotation: int  # degrees, anticlockwise, that a player turns the stored picture by
    fps: float  # average
    variable: bool  # the frame rate varies, see `sampling.varies`
    seconds: Float[np.ndarray, " total"]  # when each frame is shown, ascending; the first is 0
    keys: Int[np.ndarray, " keys"]  # frames that the container marks as key frames
    stamp: str  # what tells packets apart: "pts", "pos" (bytes in the file), or "order" (counted from the start)
    stamps: Int[np.ndarray, " total"]  # of the packet that gives each frame
    starts: Int[np.ndarray, "starts 4"]  # where decoding may start: first right frame, packets before, time, stamp

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.seconds)

    @property
    def duration(self) -> float:
        """Seconds, those in which the last frame is shown included."""
        return self.frames / self.fps

    def __repr__(self) -> str:
        pace = f"{self.fps:.6g} fps" + (" on average" if self.variable else "")
        return f"Video({str(self.path)!r}, {self.codec}, {self.frames} frames of {self.width}x{self.height}, {pace})"


@dataclass
class Damage:
    """What decoding took, and had to do without."""

    packets: list[str] = field(default_factory=list)  # FFmpeg's words about those that it could not use
    frames: set[int] = field(default_factory=set)  # replaced or partly made up: those asked for, or on the way to them
    decoded: int = 0  # frames that came out of the decoder, asked for or not


def warn_damaged(path: Path, count: int) -> None:
    """A warning about a file of which `count` packets or frames could not be used, if any."""
    if count:
        warnings.warn(f"{path} is damaged: {count} packets or frames of it had to be replaced", stacklevel=3)


class Packets(NamedTuple):
    """Columns with a row per packet of the stream, in the order of the file."""

    pts: Int[np.ndarray, " packets"]  # `NONE` where missing
    dts: Int[np.ndarray, " packets"]  # `NONE` where missing
    pos: Int[np.ndarray, " packets"]  # -1 where unknown
    size: Int[np.ndarray, " packets"]
    key: Int[np.ndarray, " packets"]
    shown: Int[np.ndarray, " packets"]


def stamps_of(packets: Packets, container: str) -> tuple[str, Int[np.ndarray, " packets"]]:
    """What tells the packets of this file apart, and its value for each."""
    for stamp, values in (("pts", packets.pts), ("pos", packets.pos)):
        # For MPEG streams FFmpeg makes up most times, and other ones after a seek.
        lasting = stamp == "pos" or container not in ("mpeg", "mpegts")
        if lasting and values.min() != NONE and len(np.unique(values)) == len(values):
            return stamp, values
    return "order", np.arange(len(packets.pts))


def frames_of(
    packets: Packets, stamp: str, container: str, codec: str, reorders: bool
) -> Int[np.ndarray, " total"] | None:
    """The packet of every frame, as shown; None if only decoding can tell. `reorders`: the decoder does.

    An ordinary packet is one frame, shown at its time. The exceptions, all seen in files:
    """
    ascending = bool((np.diff(packets.pts) > 0).all())
    if (
        stamp != "pts"
        or (reorders and (ascending or container == "avi"))  # the times are those of decoding
        or not packets.key[0]  # cut out of a stream:
        or packets.pts.min() < packets.pts[0]  # decoders drop frames that refer to what was before
        or (codec == "mpeg4" and packets.size.min() < 20)  # pictures "not coded", or packed two in a packet
    ):
        return None
    shown = np.flatnonzero(packets.shown)
    return shown[np.argsort(packets.pts[shown])]


def video_of(
    path: Path, container: str, stream: Any, packets: Packets, stamp: str, stamps: Any, frames: Any, keyed: bool
) -> Video:
    """The index, as far as it can be had without a decoded frame: not turned."""
    fps = float(stream.average_rate or stream.guessed_rate or 25)
    # What is shown first has the first time, even if that was meant for decoding; AVI has only that kind.
    times = np.sort(packets.dts)[: len(frames)] if container == "avi" else np.sort(packets.pts[frames])
    span = int(times[-1]) - int(times[0])  # times by chance may lie further apart than 64 bits can tell
    if times[0] != NONE and (np.diff(times) > 0).all() and span < 2**63:
        seconds = (times - times[0]) * float(stream.time_base)
    else:
        seconds = np.arange(len(frames)) / fps
    video = Video(
        path=path,
        codec=stream.codec_context.name,
        container=container,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        rotation=0,
        fps=rate(seconds) or fps,
        variable=varies(seconds),
        seconds=seconds,
        keys=np.flatnonzero(packets.key[frames]),
        stamp=stamp,
        stamps=stamps[frames],
        starts=_starts(packets, stamp, stamps, frames, keyed),
    )
    for array in (video.seconds, video.keys, video.stamps, video.starts):
        array.setflags(write=False)
    return video


def _starts(packets: Packets, stamp: str, stamps: Any, frames: Any, keyed: bool) -> Int[np.ndarray, "starts 4"]:
    """Where decoding may start, the start of the file first.

    Frames that are shown before a key frame and coded after it may refer to what is before it (open groups of
    pictures), so the first right frame is the key frame. Where `keyed`, times can be trusted, and key packets that an
    edit list hides serve too.
    """
    places = np.flatnonzero(packets.key[frames])
    at = frames[places]
    if stamp == "order":
        at = places = at[:0]
    elif keyed:
        at = np.flatnonzero(packets.key)
        places = np.searchsorted(packets.pts[frames], packets.pts[at])
    # Nothing that is shown from there on may come before it in the file (AVI marks some packed pictures as key frames).
    earliest = np.append(np.minimum.accumulate(frames[::-1])[::-1], len(packets.pts))
    right = (at > 0) & (earliest[places] >= at)
    places, at = np.append(0, places[right]), np.append(0, at[right])
    # FFmpeg goes to the last key frame that is shown by then: told a time of decoding, to the one before.
    times = packets.pts[at] if stamp == "pts" else np.where(packets.dts[at] == NONE, packets.pts[at], packets.dts[at])
    return np.stack([places, at, times, stamps[at]], axis=1)[np.argsort(places, kind="stable")]


# ---------------------------------------------------------------------------- memory

Name = tuple[str, int, int]
_memory: OrderedDict[Name, Video] = OrderedDict()
_MEMORY_FRAMES = 2**21  # about 50 MB: seven thousand ten-second videos, or twenty hours
_held = 0  # frames of those in it; counting them anew for every file would take longer than to know a prepared one
_lock = threading.Lock()


def name_of(path: Path) -> Name | None:
    """What an index is remembered under: path, bytes, time of the last change; None if there is no such file.

    To be asked before a file is read: its index is then never taken for that of another, put in its place meanwhile.
    """
    with suppress(OSError if url_of(path) is None else FileNotFoundError):  # what cannot be reached is told at once
        return absolute(path), *state_of(path)
    return None


def remembered(name: Name | None) -> Video | None:
    """The index of a file that has not changed since."""
    with _lock:
        if name is None or name not in _memory:
            return None
        _memory.move_to_end(name)
        return _memory[name]


def remember(name: Name | None, video: Video) -> Video:
    """The same index, kept in this process while it is among those used last."""
    global _held
    if name is None:
        return video
    with _lock:
        if (before := _memory.pop(name, None)) is not None:
            _held -= before.frames
        _held = video.frames + (_held if _memory else 0)
        _memory[name] = video
        while len(_memory) > 1 and _held > _MEMORY_FRAMES:
            _held -= _memory.popitem(last=False)[1].frames
    return video


# ---------------------------------------------------------------------------- use


def checked(video: Video, indices: Any) -> Int[np.ndarray, " t"]:
    """The indices as an array.

    Raises:
        VideoError: none, or one outside the video.
    """
    asked = np.asarray(indices, dtype=np.int64)
    if not len(asked):
        raise VideoError(f"no frame of {video.path} was asked for; give at least one index")
    if asked.min() < 0 or asked.max() >= video.frames:
        wrong = asked.min() if asked.min() < 0 else asked.max()
        raise VideoError(
            f"frame {wrong} of {video.path} was asked for, which ({video.codec} in {video.container}) has "
            f"{video.frames} frames: 0 to {video.frames - 1}. Use a smaller stride or fewer frames"
        )
    return asked


def can_skip(codec: Any) -> bool:
    """Whether FFmpeg can leave out frames that no other refers to, bit for bit as if it had not."""
    if codec.name == "hevc":  # such a frame may still serve a higher temporal layer: only where hvcC says one layer
        told = codec.extradata or b""
        return len(told) > 21 and told[0] == 1 and told[21] >> 3 & 7 == 1
    return codec.name in ("h264", "mpeg1video", "mpeg2video")


def needed(packets: Iterable[Any], codec: Any, wanted: set[int]) -> Iterator[Any]:
    """Packets until the last wanted one, which are taken from `wanted` as they come."""
    skips = can_skip(codec)
    for packet in packets:
        # What was not asked for and no other frame refers to need not be decoded.
        codec.skip_frame = "NONREF" if skips and packet.pts not in wanted else "DEFAULT"
        yield packet
        wanted.discard(packet.pts)
        if not wanted:
            return


def runs_of(
    video: Video, asked: Int[np.ndarray, " t"], linked: int = 0
) -> Iterator[tuple[Int[np.ndarray, " run"], Int[np.ndarray, "tries 4"]]]:
    """What to decode in one go each: frames, and where to start, the start of the file being the last resort.

    A frame and the one asked for before it are in one go if they are at most `linked` frames apart.
    """
    frames = np.unique(asked)
    rows = np.searchsorted(video.starts[:, 0], frames, side="right") - 1
    # Frames far apart: a new start at a later key frame, if that saves more frames than a new start costs.
    far = video.starts[rows[1:], 0] - frames[:-1] > 8
    if linked:
        before, after = asked[:-1, None], asked[1:, None]
        far &= ~((after <= before + linked) & (before <= frames[:-1]) & (frames[1:] <= after)).any(0)
    cuts = np.flatnonzero(far) + 1
    for run, row in zip(np.split(frames, cuts), rows[np.append(0, cuts)]):
        yield run, video.starts[sorted({0, int(row)}, reverse=True)]


def shown_from(video: Video, stamp: int, start: Any) -> bool:
    """Whether a frame is shown from a starting point on; those before may refer to what was not decoded."""
    places = np.flatnonzero(video.stamps == stamp)
    return bool(len(places)) and int(places[0]) >= int(start[0])


def nearest_of(video: Video, run: Iterator[Any], lost: dict[int, int]) -> Iterator[tuple[int, Any]]:
    """For every lost frame, by stamp: its index, and the nearest before it that decodes, else after it."""
    places = {int(stamp): index for index, stamp in enumerate(video.stamps)}
    near: dict[int, Any] = {}
    for frame in run:  # in the order of showing
        for index in lost.values():
            if frame.pts in places and (places[frame.pts] < index or index not in near):
                near[index] = frame
    yield from near.items()


def shown_at(video: Video, times: Float[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
    """Indices of the frames on screen at `times`, in seconds."""
    late = np.searchsorted(video.seconds, times + 1e-6, side="right")  # a microsecond, for times that were rounded
    return np.clip(late - 1, 0, video.frames - 1)


def scaled(video: Video, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width for a short side, or as given, or unchanged."""
    if isinstance(size, tuple):
        return size
    scale = 1.0 if size is None else size / min(video.height, video.width)
    return round(video.height * scale), round(video.width * scale)
