"""Decoded frames as pictures, and why one may not become a picture."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

from tubelet.data.index import VideoError, orientation

RARE = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "derived from the primaries",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""Colour matrices that FFmpeg's scaler does not know, by the numbers of H.273 (table 4)."""


def paint(scaler: Any, frame: Any, out: UInt8[np.ndarray, "h w c"], of: Path | str) -> None:
    """Draw a decoded frame `of` a file: colour and scale in one pass, then turned as players turn it.

    Raises:
        VideoError: FFmpeg's scaler does not know its colours.
    """
    turned, upside_down, mirrored = orientation(frame.side_data.get(Type.DISPLAYMATRIX))
    height, width, channels = out.shape
    if turned:
        height, width = width, height
    kind, limits = ("gray", "JPEG") if channels == 1 else ("rgb24", None)  # swscale may leave grey in 16 to 235
    frame = _whole(frame) if frame.interlaced_frame else frame
    try:
        plane = scaler.reformat(frame, width, height, kind, dst_color_range=limits, threads=1).planes[0]
    except FFmpegError as error:
        raise VideoError(f"{of} cannot be drawn: {refused(frame, error)}") from error
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[:height, : width * channels]
    if not (turned or upside_down or mirrored):
        out.reshape(height, width * channels)[:] = rows
        return
    pixels = rows.reshape(height, width, channels).transpose((1, 0, 2) if turned else (0, 1, 2))
    out[:] = pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _whole(frame: Any) -> Any:
    """An interlaced frame not marked as such: swscale would scale its two fields one by one, and keep the comb."""
    with suppress(ValueError, AssertionError):  # a pixel format or size that has no array form; then fields it is
        plain = av.VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)
        plain.colorspace, plain.color_range = frame.colorspace, frame.color_range
        return plain
    return frame


def refused(frame: Any, error: FFmpegError) -> str:
    """Why a frame cannot be scaled, and what to do: FFmpeg says no more of its colours than that it is not able to."""
    if (matrix := RARE.get(getattr(frame, "colorspace", 2))) is None:
        return str(error)
    return (
        f"its colour matrix is {matrix}, which FFmpeg's scaler does not know. Convert the file first (ffmpeg -i IN "
        "-vf zscale=matrix=709 -c:v ffv1 OUT.mkv), or leave it out"
    )
