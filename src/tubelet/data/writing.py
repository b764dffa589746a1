"""Video files out of frames: encoding with PyAV. Reading is in `video.py`."""

import errno
import math
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8
from torch import Tensor

from tubelet.data.index import VideoError
from tubelet.data.paint import orientation, refused


def write(
    path: Path | str,
    frames: UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"] | Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: float | Fraction,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """A video file of RGB frames, whole or not at all; `options` are the encoder's (`{"crf": "18", "g": "12"}`).

    Frames that are made one by one are never all in memory.

    Raises:
        VideoError: an odd size, which halved chroma cannot hold; an encoder or ending that FFmpeg does not have.
    """
    path, images = Path(path), iter(frames)
    if (first := next(images, None)) is None:
        raise VideoError(f"no frames to write to {path}")
    height, width, _ = first.shape
    if "420" in pixels and (height % 2 or width % 2):
        raise VideoError(f'{pixels} needs even sizes, got {height}x{width}; crop one pixel, or pixels="yuv444p"')
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # the ending chooses the container
    try:
        with av.open(os.fspath(part), "w", options={"movflags": "+faststart"}) as container:
            rate = Fraction(fps).limit_denominator(60060)
            stream: Any = container.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            for number, image in enumerate(chain([first], images)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        part.replace(path)
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"{path} cannot be written with {codec}: {error}; `ffmpeg -encoders` lists them") from error
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------- videos to train on

SQUARE = Fraction(1)
LOSSY = 1  # crf from which x264 loses anything; below, it measures no error and says the greatest that there is
MARK = "tubelet prepare"  # how the comment begins that such files carry
SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True)
class Encoding:
    """H.264 to train on: small, quick to enter at any place, with motion vectors that say what they seem to say."""

    short_side: int = 256
    """Pixels of the short side; smaller videos are not enlarged. 0: as it is."""
    keyframes: int = 32
    """Frames from one key frame to the next; decoding can begin at each."""
    crf: float = 21
    """x264's quality: 0 is lossless, 6 more halves the size. 21: 39 dB and more on filmed videos."""
    speed: str = "veryfast"
    """x264's preset: slower ones make smaller files."""
    layered: int = 1
    """Every N-th frame can be decoded without those between; 1: no such layers, all vectors are exact."""

    def __post_init__(self) -> None:
        if self.short_side < 0 or 0 < self.short_side < 16:
            raise ValueError(f"a short side of {self.short_side} pixels; expected 16 or more, or 0 for as it is")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf {self.crf:g}: expected 0 (lossless) to 51 (worst)")
        if self.speed not in SPEEDS:
            raise ValueError(f"no speed {self.speed!r}; x264 has {', '.join(SPEEDS)}")
        if not 1 <= self.layered <= 16:
            raise ValueError(f"layered {self.layered}: expected 1 (no layers) to 16, the most that x264 has")
        if self.keyframes < 1 or self.keyframes % self.layered:
            raise ValueError(
                f"a key frame every {self.keyframes} frames: expected 1 or more"
                + f", and a multiple of layered, {self.layered}" * (self.layered > 1)
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after scaling: even, as halved chroma must be, and never larger than before."""
        scale = min(1.0, self.short_side / min(height, width)) if self.short_side else 1.0
        return tuple(max(min(2 * round(x * scale / 2), x - x % 2), 2) for x in (height, width))  # type: ignore[return-value]

    def options(self) -> dict[str, str]:
        """What x264 is told.

        One reference, so that a vector points to the frame before and to no other; no key frames at cuts, so that they
        are where they are expected; no weighted prediction, whose search is not the same every time; tuned to errors
        and not to what eyes forgive, which for the same error takes about a fifth less. Words of variable length and
        no smoothing of block edges: a file is written once and read for hundreds of epochs, which takes three fifths of
        the time; it is a twelfth larger.
        """
        told: dict[str, int | str] = {
            "keyint": self.keyframes,
            "min-keyint": self.keyframes,
            "scenecut": 0,
            "open-gop": 0,
            "ref": 1,
        }
        told |= {"bframes": self.layered - 1, "b-adapt": 0, "b-pyramid": "none", "weightb": 0, "weightp": 0}
        told |= {"cabac": 0, "no-deblock": 1}
        params = ":".join(f"{name}={value}" for name, value in told.items())
        return {
            "crf": f"{self.crf:g}",
            "preset": self.speed,
            "tune": "psnr",
            "x264-params": params,
            "flags": "+psnr+cgop",  # the encoder says how far off it is
            "threads": "1",
        }

    def comment(self) -> str:
        """What files carry, so that they can be told from others."""
        kind = f"every {self.layered} frames alone" if self.layered > 1 else "exact vectors"
        return f"{MARK}: {kind}, key frame every {self.keyframes}, crf {self.crf:g}, {self.speed}"


class Encoded(NamedTuple):
    """What became of a video."""

    frames: int
    height: int  # pixels
    width: int
    psnr: float | None  # dB, of all planes together, against the scaled frames; infinite: nothing lost; none: not told


class DiskError(OSError):
    """A file could not be written: the disk is full, or refuses."""

    full = False  # room would mend it

    @classmethod
    def of(cls, what: str, error: OSError | FFmpegError) -> "DiskError":
        """What the system said about something that cannot be done; the error travels from one process to another."""
        made = cls(f"{what}: {error.strerror or error}")
        made.full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return made


def encode(
    path: Path,
    frames: Iterable[tuple[float, Any]],
    size: tuple[int, int],
    fps: float,
    how: Encoding,
    alive: Callable[[], object] = lambda: None,
    pixel: Fraction = SQUARE,
) -> Encoded:
    """A file of frames with their times in seconds, each at its time; `size` (height, width) is that of a whole video.

    Frames come from a decoder, whose clock is kept, or are RGB arrays; what a player would turn is turned. `alive` is
    called before each frame, to be able to stop. `pixel` is how wide a pixel is to be shown, in heights of it: where
    that is not 1, the file says it of its own pixels. The file may be unfinished after an error.

    Raises:
        VideoError: the encoder refuses.
        DiskError: the disk does.
    """
    height, width = how.size(*size)
    try:
        container = av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"})
    except OSError as error:
        raise DiskError.of(f"{path} cannot be written", error) from error
    count, told, last, errors = 0, 0, -1, [0, 0, 0]
    stream, tick = None, Fraction(0)
    drawn = drawer(height, width)

    def written(packets: Iterable[Any]) -> None:
        nonlocal told
        for packet in packets:
            stats = packet.get_sidedata("quality_stats")
            if stats is not None and (data := bytes(stats)) and data[5] == 3:  # planes that errors are told of
                told += 1
                for plane, value in enumerate(struct.unpack_from("<3q", data, 8)):
                    errors[plane] += value
            try:
                container.mux(packet)
            except FFmpegError as error:
                raise DiskError.of(f"{path} cannot be written", error) from error

    try:
        container.metadata["comment"] = how.comment()
        for seconds, source in frames:
            alive()
            try:
                frame = drawn(source)
            except FFmpegError as error:
                raise VideoError(f"frame {count} cannot be scaled or turned: {refused(source, error)}") from error
            if stream is None:
                rate = Fraction(fps).limit_denominator(60060)
                tick = getattr(source, "time_base", None) or 1 / rate
                tick = tick if Fraction(1, 10**6) <= tick <= 1 / rate else Fraction(1, 90000)
                stream = container.add_stream("libx264", rate=rate, options=how.options())
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                codec = stream.codec_context
                codec.time_base, codec.thread_count = tick, 1
                if pixel != SQUARE:
                    codec.sample_aspect_ratio = pixel * Fraction(height * size[1], width * size[0])
                for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
                    setattr(codec, name, getattr(frame, name))
            frame.pict_type = 0  # x264 obeys it, and the old file's pattern would be the new one's
            last = max(round(seconds / tick), last + 1)
            frame.pts, frame.time_base = last, tick
            count += 1
            written(encoded(stream, frame, path))
        if stream is None:
            raise VideoError(f"no frames to write to {path}")
        written(encoded(stream, None, path))
    finally:
        try:
            container.close()
        except FFmpegError as error:
            raise DiskError.of(f"{path} cannot be written", error) from error
    pixels, total = count * height * width * 3 / 2, sum(errors)
    psnr: float | None = 10 * math.log10(255**2 * pixels / total) if total and how.crf >= LOSSY else math.inf
    return Encoded(count, height, width, psnr if told == count else None)


def encoded(stream: Any, frame: Any, path: Path) -> list[Any]:
    """The packets that a frame completes.

    Raises:
        VideoError: the encoder refuses.
    """
    try:
        return stream.encode(frame)
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"x264 refuses {path.name}, {stream.height}x{stream.width} pixels: {error}") from error


def drawer(height: int, width: int) -> Callable[[Any], Any]:
    """A function that scales frames to a size, as they are to be shown, in the encoder's pixel format.

    FFmpeg's own filters do it, as in its command line; anew where a stream changes its size or format on the way.
    """
    graphs: dict[tuple[Any, ...], Any] = {}

    def drawn(frame: Any) -> Any:
        if isinstance(frame, np.ndarray):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        turned, upside_down, mirrored = orientation(frame)
        stored = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
        stored += f":colorspace={frame.colorspace:d}:range={frame.color_range:d}"  # untold, it would convert them, too
        key = (stored, turned, upside_down, mirrored)
        if key not in graphs:
            graphs.clear()
            graphs[key] = graph = av.filter.Graph()
            graph.threads = 1
            tall, wide = (width, height) if turned else (height, width)
            steps = [
                graph.add("buffer", stored),
                graph.add("scale", f"w={wide}:h={tall}:flags=bicubic:out_range=tv"),
                graph.add("format", "pix_fmts=yuv420p"),
            ]
            steps += [graph.add("transpose", "dir=cclock_flip")] if turned else []
            steps += [graph.add("vflip")] if upside_down else []
            steps += [graph.add("hflip")] if mirrored else []
            graph.link_nodes(*steps, graph.add("buffersink")).configure()
        frame.pts = None
        graphs[key].vpush(frame)
        return graphs[key].vpull()

    return drawn
