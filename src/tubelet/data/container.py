"""A video file, opened: its container and its stream of pictures, or what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
from av import logging
from av.error import FFmpegError
from av.stream import Discard, Disposition

from tubelet.data import shards
from tubelet.data.formats import REFUSED, guarded
from tubelet.data.index import VideoError

PIXELS = 2**26  # of a frame: twice as many as 8K has, and a quarter of a gigabyte in memory


@contextmanager
def opened(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """An open file and its best video stream, set to one thread; closed again whatever happens."""
    path = Path(path)
    if path.is_dir() or not shards.exists(path):
        raise VideoError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; a video file was expected")
    if path.exists() and not path.is_file():
        raise VideoError(f"{path} is a pipe, a socket or a device, and no file; leave it out")
    if not shards.state_of(path)[0]:
        raise VideoError(f"{path} is empty (0 bytes); copy it anew, or leave it out")
    with shards.address(path) as address, _container(path, address) as container:
        stream: Any = container.streams.best("video")
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        if stream is None or stream.disposition & Disposition.attached_pic:
            raise VideoError(f"{path} ({container.format.name}) has no video stream, only {kinds}; leave it out")
        if stream.codec_context is None:
            raise VideoError(f"{path} ({container.format.name}) has a video stream that no decoder of FFmpeg knows")
        if stream.width * stream.height > PIXELS:
            raise VideoError(
                f"{path} ({container.format.name}) claims frames of {stream.width}x{stream.height} pixels, more than "
                f"{PIXELS} in all: its header is damaged, or made to fill the memory. Leave it out, or make it smaller"
            )
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        yield container, stream


def length_of(path: Path | str) -> float | None:
    """Seconds that a video's header claims, which takes no more than opening it; none: it does not say.

    Raises:
        VideoError: it does not open.
    """
    with opened(path) as (container, stream):
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6


def _container(path: Path, address: Any) -> Any:
    """The open file, to be closed.

    Raises:
        VideoError: with what FFmpeg says.
    """
    try:
        # Or FFmpeg would decode some frames here, to learn what they tell anyway once they are asked for.
        return av.open(address, options={"skip_frame": "all", **guarded(address)})
    except (FFmpegError, UnicodeError) as error:
        words = _complaint(address) or str(error)
        if REFUSED in words:
            words = "it is no container of videos, but a playlist that names other files, a picture, sound or text"
        raise VideoError(
            f"{path} does not open as a video: {words}. "
            "Copy it anew if it was cut off; leave it out if it is something else"
        ) from error


def _complaint(address: Any) -> str:
    """FFmpeg's own last words about a file that does not open; silent otherwise, so the file is opened once more."""
    level, skips = logging.get_level(), logging.get_skip_repeated()
    logging.set_level(logging.ERROR)
    logging.set_skip_repeated(False)  # two files may have the same trouble
    try:
        with logging.Capture() as lines, suppress(FFmpegError, UnicodeError):
            if not isinstance(address, str):
                address.seek(0)
            av.open(address, options=guarded(address)).close()
    finally:
        logging.set_level(level)
        logging.set_skip_repeated(skips)
    return lines[-1][2].strip() if lines else ""
