"""Decoded frames as pictures: cut, scaled, coloured, turned; and why one may not become a picture."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import ColorRange, VideoReformatter
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data.index import Damage, Video, VideoError, scaled
from tubelet.data.transforms import Window, resized
from tubelet.types import Clip, Yuv

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
ADVICE = "Convert the file first (ffmpeg -i IN -vf zscale=matrix=709 -c:v ffv1 OUT.mkv), or leave it out"


BT601 = 0.299, 0.114
MATRICES = {0: BT601, 1: (0.2126, 0.0722), 2: BT601, 4: (0.3, 0.11), 5: BT601, 6: BT601, 7: (0.212, 0.087)}
MATRICES |= {9: (0.2627, 0.0593)}
"""Shares of red and blue in brightness, by the colour matrix's number in H.273 (table 4); 0 and 2 name none, and are
taken for BT.601 as FFmpeg takes them."""

QUARTERED = ("yuv420p", "yuvj420p")
"""Pixel formats with a value of each colour for two by two pixels: those of nearly all videos."""

Turns = tuple[bool, bool, bool]  # as `orientation` tells them


def drawn(
    video: Video,
    asked: Int[np.ndarray, " t"],
    decoded: Iterator[tuple[int, Any]],
    damage: Damage,
    size: int | tuple[int, int] | None,
    gray: bool,
    windows: Sequence[Window] | None = None,
    yuv: bool = False,
) -> Clip:
    """The clip, every frame drawn straight into its place; then repeats and replacements. With `windows`, those parts
    of the frames, each at `size`: "k t h w c"; with `yuv` they are not coloured.

    Raises:
        VideoError: none of the frames decodes, or one cannot be drawn.
    """
    parts: Sequence[Window | None] = [None] if windows is None else windows
    (height, width), lead = scaled(video, size), (len(parts), len(asked))
    if yuv:
        luma, chroma = (
            np.empty((*lead, *edges), np.uint8) for edges in ((height, width), (2, height // 2, width // 2))
        )
        colours = np.empty((*lead, 3, 4), np.float32)
        out = [luma, chroma, colours]
    else:
        out = [np.empty((*lead, height, width, 1 if gray else 3), np.uint8)]
    place = {int(i): t for t, i in reversed(list(enumerate(asked)))}  # where an index is asked for first
    whole = Whole(video.path, (video.height, video.width), 1 if gray else 3)
    brushes, got = [Brush(video.path, part, whole) for part in parts], set[int]()
    for index, frame in decoded:
        for k, brush in enumerate(brushes):
            spot = k, place[index]
            if yuv:
                colours[spot] = brush.planes(frame, luma[spot], chroma[spot])
            else:
                brush.paint(frame, out[0][spot])
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
            for array in out:
                array[:, t] = array[:, place[nearest]]
    seconds = torch.from_numpy(video.seconds[asked])
    lost = max(len(damage.packets), len(damage.frames), len(place) - len(got))
    if yuv:
        shape = torch.empty(*lead, height, width, 3, dtype=torch.uint8, device="meta")
        return Clip(shape, seconds, lost, decoded=damage.decoded, yuv=Yuv(*map(torch.from_numpy, out)))
    return Clip(torch.from_numpy(out[0][0] if windows is None else out[0]), seconds, lost, decoded=damage.decoded)


class Brush:
    """Draws decoded frames `of` a file, or one window of them, at one size.

    Keeps FFmpeg's scalers: setting up their filters takes as long as using them.
    """

    def __init__(self, of: Path | str, window: Window | None = None, whole: "Whole | None" = None) -> None:
        """`window` is in frames as shown, as large as those of `whole`, to which others are scaled."""
        self.of, self.window, self.whole = of, window, whole
        self.size, self.colour = VideoReformatter(), VideoReformatter()

    def paint(self, frame: Any, out: UInt8[np.ndarray, "h w c"]) -> None:
        """Cut, scale, colour, and turn as players turn it.

        Frames of most videos are scaled before they are coloured, with colours at half the size still: FFmpeg has a
        quick way for each of the two steps, and a slow one for both at once.

        Raises:
            VideoError: FFmpeg's scaler does not know its colours.
        """
        turns = orientation(frame)
        height, width, channels = out.shape
        part = self.own(frame, turns)
        if part is None:
            assert self.whole is not None
            assert self.window is not None
            out[:] = resized(self.whole.painted(frame), self.window, out.shape[:2])[0].numpy()
            return
        height, width = (width, height) if turns[0] else (height, width)
        kind, limits = ("gray", "JPEG") if channels == 1 else ("rgb24", None)  # swscale may leave grey in 16 to 235
        try:
            part = self.fitted(part, height, width) if channels == 3 else part
            plane = self.colour.reformat(part, width, height, kind, dst_color_range=limits, threads=1).planes[0]
        except FFmpegError as error:
            raise VideoError(f"{self.of} cannot be drawn: {refused(part, error)}") from error
        _lay(plane, out, turns)

    def planes(
        self, frame: Any, luma: UInt8[np.ndarray, "h w"], chroma: UInt8[np.ndarray, "2 h/2 w/2"]
    ) -> Float[np.ndarray, "3 4"]:
        """As `paint`, but not coloured; gives the weights that would colour it.

        What does not come as YUV 4:2:0, or not in this window, is painted and turned back.

        Raises:
            VideoError: as `paint`.
        """
        turns = orientation(frame)
        part = self.own(frame, turns)
        if part is None:
            coloured = np.empty((*luma.shape, 3), dtype=np.uint8)
            self.paint(frame, coloured)
            part, turns = _uncoloured(coloured, self.colour), (False, False, False)
        try:
            colours = weights_of(part)
            height, width = luma.shape[::-1] if turns[0] else luma.shape
            part = self.fitted(part, height, width)
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"{self.of} cannot be drawn: {refused(part, error)}") from error
        for plane, out in zip(part.planes, (luma, *chroma)):
            _lay(plane, out[..., None], turns)
        return colours

    def own(self, frame: Any, turns: Turns) -> Any | None:
        """The window of a frame, still as it is stored; None where it can be cut out of a painted frame only."""
        if self.window is None or self.whole is None:
            return _whole(frame) if frame.interlaced_frame else frame
        shown = (frame.width, frame.height) if turns[0] else (frame.height, frame.width)
        window = _stored(self.window, self.whole.size, *turns)
        if frame.format.name not in QUARTERED or shown != self.whole.size or any(edge % 2 for edge in window):
            return None
        return _cut(frame, window)

    def fitted(self, part: Any, height: int, width: int) -> Any:
        """YUV 4:2:0 at a size, as stored; other formats as they are."""
        if part.format.name not in QUARTERED or (part.height, part.width) == (height, width):
            return part
        if self.window is None and part.height % 2 == part.width % 2 == 0:
            part = _cut(part, Window(0, 0, part.height, part.width))  # scaled as parts of it are
        return self.size.reformat(part, width, height, part.format, threads=1)


class Whole:
    """Whole frames in colours, or grey, for windows that cannot be cut out of the decoder's: each painted once."""

    def __init__(self, of: Path | str, size: tuple[int, int], channels: int) -> None:
        self.brush, self.size, self.channels = Brush(of), size, channels
        self.last: tuple[Any, Tensor] | None = None

    def painted(self, frame: Any) -> UInt8[Tensor, "1 h w c"]:
        """A frame at `size` (height, width)."""
        if self.last is None or self.last[0] is not frame:
            picture = np.empty((*self.size, self.channels), dtype=np.uint8)
            self.brush.paint(frame, picture)
            self.last = frame, torch.from_numpy(picture)[None]
        return self.last[1]


def weights_of(frame: Any) -> Float[np.ndarray, "3 4"]:
    """What turns (Y, Cb, Cr, 1) of a frame into (R, G, B), all in [0, 255].

    Raises:
        ValueError: a colour matrix that FFmpeg's scaler does not know either.
    """
    return weights(frame.colorspace, frame.format.name == "yuvj420p" or frame.color_range == ColorRange.JPEG)


@cache
def weights(matrix: int, full: bool) -> Float[np.ndarray, "3 4"]:
    """The same for a colour matrix, by its number in H.273, in full or limited range.

    Raises:
        ValueError: no such matrix.

    Source: H.273 (8.3): brightness is kr R + (1 - kr - kb) G + kb B; Cb and Cr are what blue and red have more than it,
    in units of 2 (1 - kb) and 2 (1 - kr). In limited range brightness has 16 to 235 and the others 16 to 240.
    """
    if (shares := MATRICES.get(matrix)) is None:
        raise ValueError(f"its colour matrix has number {matrix}, which stands for nothing. {ADVICE}")
    kr, kb = shares
    black, grey, colours = (0, 1, 1) if full else (16, 255 / 219, 255 / 224)
    blue, red = 2 * (1 - kb) * colours, 2 * (1 - kr) * colours
    linear = np.array([[grey, 0, red], [grey, -blue * kb, -red * kr], [grey, blue, 0]])
    linear[1, 1:] /= 1 - kr - kb
    return np.column_stack([linear, -linear @ (black, 128, 128)]).astype(np.float32)


def uncoloured(frames: UInt8[Tensor, "t h w 3"]) -> Yuv:
    """Frames with even edges as pictures are stored: BT.601, in full range. Colours lose half their sharpness."""
    scaler = VideoReformatter()
    parts = []
    for picture in frames.numpy():
        frame = _uncoloured(np.ascontiguousarray(picture), scaler)
        luma = np.empty(picture.shape[:2], np.uint8)
        chroma = np.empty((2, luma.shape[0] // 2, luma.shape[1] // 2), np.uint8)
        for plane, out in zip(frame.planes, (luma, *chroma)):
            _lay(plane, out[..., None], (False, False, False))
        parts.append(Yuv(*map(torch.from_numpy, (luma[None], chroma[None], weights_of(frame)[None]))))
    return Yuv.batch(parts)


def _uncoloured(picture: UInt8[np.ndarray, "h w 3"], scaler: VideoReformatter) -> Any:
    return scaler.reformat(av.VideoFrame.from_ndarray(picture, format="rgb24"), format="yuvj420p", threads=1)


def _lay(plane: Any, out: UInt8[np.ndarray, "h w c"], turns: Turns) -> None:
    """Copies a plane of a frame to its place, turned as players turn it."""
    turned, upside_down, mirrored = turns
    height, width, channels = out.shape
    height, width = (width, height) if turned else (height, width)
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[:height, : width * channels]
    if not any(turns):
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


def refused(frame: Any, error: FFmpegError | ValueError) -> str:
    """Why a frame cannot be scaled, and what to do: FFmpeg says no more of its colours than that it is not able to."""
    if (matrix := RARE.get(getattr(frame, "colorspace", 2))) is None:
        return str(error)
    return f"its colour matrix is {matrix}, which FFmpeg's scaler does not know. {ADVICE}"


def side_data(frame: Any, kind: str) -> Any:
    """What a decoded frame carries besides its pixels, by FFmpeg's name, or None.

    `frame.side_data` would make frame and list refer to each other: the pixels would stay until Python's next full
    search for such cycles, and a worker would grow by megabytes a minute.
    """
    return SideDataContainer(frame).get(Type[kind])  # type: ignore[call-arg]  # its stub leaves this out


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Whether a player swaps rows and columns, and then turns the picture upside down, and mirrors it."""
    matrix = side_data(frame, "DISPLAYMATRIX")  # 9 whole numbers
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()  # (x, y) is shown at (a x + c y, b x + d y)
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)
