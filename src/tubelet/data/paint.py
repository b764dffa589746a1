"""Decoded frames as pictures: cut, scaled, coloured, turned; and why one may not become a picture."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from jaxtyping import Int, UInt8

from tubelet.data.index import Damage, Video, VideoError, orientation, scaled
from tubelet.data.transforms import Window, resized
from tubelet.types import Clip

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


QUARTERED = ("yuv420p", "yuvj420p")
"""Pixel formats with a value of each colour for two by two pixels: those of nearly all videos."""


def drawn(
    video: Video,
    asked: Int[np.ndarray, " t"],
    decoded: Iterator[tuple[int, Any]],
    damage: Damage,
    size: int | tuple[int, int] | None,
    gray: bool,
    windows: Sequence[Window] | None = None,
) -> Clip:
    """The clip, every frame drawn straight into its place; then repeats and replacements. With `windows`, those parts
    of the frames, each at `size`: "k t h w c".

    Raises:
        VideoError: none of the frames decodes, or one cannot be drawn.
    """
    parts: Sequence[Window | None] = [None] if windows is None else windows
    out = np.empty((len(parts), len(asked), *scaled(video, size), 1 if gray else 3), dtype=np.uint8)
    place = {int(i): t for t, i in reversed(list(enumerate(asked)))}  # where an index is asked for first
    brushes, got = [Brush(video.path, part, (video.height, video.width)) for part in parts], set[int]()
    for index, frame in decoded:
        for brush, clip in zip(brushes, out):
            brush.paint(frame, clip[place[index]])
        got.add(index)
    if not got:
        raise VideoError(
            f"none of the {len(place)} frames asked of {video.path} ({video.codec} in {video.container}, "
            f"{video.frames} frames) decodes: {damage.packets[0] if damage.packets else 'the decoder gives nothing'}. "
            "Copy the file anew, or leave it out"
        )
    for t, index in enumerate(asked.tolist()):
        nearest = index if index in got else max((i for i in got if i < index), default=min(got))
        if place[nearest] != t:
            out[:, t] = out[:, place[nearest]]
    seconds = torch.from_numpy(video.seconds[asked])
    lost = max(len(damage.packets), len(damage.frames))
    return Clip(torch.from_numpy(out[0] if windows is None else out), seconds, lost, decoded=damage.decoded)


class Brush:
    """Draws decoded frames `of` a file, or one window of them, at one size.

    Keeps FFmpeg's scalers: setting up their filters takes as long as using them.
    """

    def __init__(self, of: Path | str, window: Window | None = None, frame: tuple[int, int] | None = None) -> None:
        """`window` is in frames as shown, of `frame` (height, width) pixels, to which others are scaled."""
        self.of, self.window, self.frame = of, window, frame
        self.size, self.colour = VideoReformatter(), VideoReformatter()

    def paint(self, frame: Any, out: UInt8[np.ndarray, "h w c"]) -> None:
        """Cut, scale, colour, and turn as players turn it.

        Frames of most videos are scaled before they are coloured, with colours at half the size still: FFmpeg has a
        quick way for each of the two steps, and a slow one for both at once.

        Raises:
            VideoError: FFmpeg's scaler does not know its colours.
        """
        turned, upside_down, mirrored = orientation(frame.side_data.get(Type.DISPLAYMATRIX))
        height, width, channels = out.shape
        if turned:
            height, width = width, height
        kind, limits = ("gray", "JPEG") if channels == 1 else ("rgb24", None)  # swscale may leave grey in 16 to 235
        frame = _whole(frame) if frame.interlaced_frame else frame
        quartered = frame.format.name in QUARTERED
        if self.window is not None and self.frame is not None:
            stored = (frame.width, frame.height) if turned else (frame.height, frame.width)
            window = _stored(self.window, self.frame, turned, upside_down, mirrored)
            if not quartered or stored != self.frame or any(edge % 2 for edge in window):
                whole = np.empty((*self.frame, channels), dtype=np.uint8)
                Brush(self.of).paint(frame, whole)
                out[:] = resized(torch.from_numpy(whole)[None], self.window, out.shape[:2])[0].numpy()
                return
            frame = _cut(frame, window)
        try:
            if quartered and channels == 3 and (frame.height, frame.width) != (height, width):
                if self.window is None and frame.height % 2 == frame.width % 2 == 0:
                    frame = _cut(frame, Window(0, 0, frame.height, frame.width))  # scaled as parts of it are
                frame = self.size.reformat(frame, width, height, frame.format, threads=1)
            plane: Any = self.colour.reformat(frame, width, height, kind, dst_color_range=limits, threads=1).planes[0]
        except FFmpegError as error:
            raise VideoError(f"{self.of} cannot be drawn: {refused(frame, error)}") from error
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[:height, : width * channels]
        if not (turned or upside_down or mirrored):
            out.reshape(height, width * channels)[:] = rows
            return
        pixels = rows.reshape(height, width, channels).transpose((1, 0, 2) if turned else (0, 1, 2))
        out[:] = pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _stored(window: Window, frame: tuple[int, int], turned: bool, upside_down: bool, mirrored: bool) -> Window:
    """Where a window of a frame as shown, of `frame` (height, width) pixels, lies in the frame as it is stored."""
    top, left, height, width = window
    top = frame[0] - top - height if upside_down else top
    left = frame[1] - left - width if mirrored else left
    return Window(left, top, width, height) if turned else Window(top, left, height, width)


def _cut(frame: Any, window: Window) -> Any:
    """A window with even edges of a frame with a value of each colour for two by two pixels; nothing is copied."""
    top, left, height, width = window
    planes = []
    for plane, step in zip(frame.planes, (1, 2, 2)):
        pixels = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
        rows, columns = slice(top // step, (top + height) // step), slice(left // step, (left + width) // step)
        planes.append(pixels[rows, columns])
    part = av.VideoFrame.from_dlpack(planes, format=frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    return part


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
