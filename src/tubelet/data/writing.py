"""Video files out of frames: encoding with PyAV. Reading is in `video.py`."""

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8
from torch import Tensor

from tubelet.data.index import VideoError


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
