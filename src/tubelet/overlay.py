"""A video with what the network says about it drawn over its frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from tubelet.data.labels import Labels
from tubelet.data.stream import in_order
from tubelet.data.video import Video, probe
from tubelet.data.writing import write
from tubelet.evaluate.predict import Prediction, pieces
from tubelet.strips import font_of, shortened

GROUND, INK, FAINT = (16, 18, 22, 235), (240, 240, 236, 255), (168, 172, 180, 255)
BAR, TRACK = (86, 156, 230, 255), (66, 70, 78, 255)
WIDE = 320  # pixels: smaller frames are enlarged by whole factors, or the words would not be readable
Picture = UInt8[np.ndarray, "h w 3"]


def overlay(
    video: Path | str, predictions: Sequence[Prediction], labels: Labels, out: Path | str, top: int = 3
) -> Path:
    """`out`, the video with the `top` classes and their probabilities on each frame.

    At its own size (small ones enlarged) and average rate.

    Raises:
        VideoError: the video cannot be read, or `out` cannot be written.
    """
    index = probe(video)
    write(out, drawn(video, predictions, labels, top), index.fps, options={"crf": "18"})
    return Path(out)


def drawn(video: Path | str, predictions: Sequence[Prediction], labels: Labels, top: int = 3) -> Iterator[Picture]:
    """The frames of `overlay`: those on screen at each tick of the average rate, cut to even height and width."""
    where, turn = pieces(predictions), 0
    panel, shown = None, -1
    for time, frame in on_screen(probe(video)):
        while turn + 1 < len(where) and time >= where[turn + 1][0] - 1e-6:
            turn += 1
        inside = bool(where) and where[turn][0] - 1e-6 <= time
        if inside and turn != shown:
            panel, shown = panel_of(predictions[turn], labels, frame.shape[0], frame.shape[1], top), turn
        yield even(pasted(frame, panel) if inside and panel is not None else frame)


def on_screen(index: Video) -> Iterator[tuple[float, Picture]]:
    """(seconds, frame on screen) at each tick of a video's average rate, as many as it has frames.

    Small ones are enlarged by whole factors.
    """
    factor = -(-WIDE // index.width)
    source = ((at, frame.repeat(factor, 0).repeat(factor, 1)) for at, frame in in_order(index, np.arange(index.frames)))
    number, frame = next(source)
    for tick in range(index.frames):
        time = tick / index.fps
        while number + 1 < index.frames and index.seconds[number + 1] <= time + 1e-6:
            number, frame = next(source)
        yield time, frame


def even(picture: Picture) -> UInt8[np.ndarray, "even_h even_w 3"]:
    """The picture, cut to an even height and width."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


def pasted(frame: Picture, panel: Image.Image) -> Picture:
    """The frame with the panel in its lower left corner."""
    image = Image.fromarray(frame).convert("RGBA")
    margin = max(image.height // 40, 2)
    image.alpha_composite(panel, (margin, max(image.height - panel.height - margin, 0)))
    return np.asarray(image.convert("RGB"))


def panel_of(prediction: Prediction, labels: Labels, height: int, width: int, top: int) -> Image.Image:
    """What is said about a window, for frames of this size: a line and a bar for each of the likeliest classes."""
    size = max(min(height // 20, width // 24), 9)
    font, line, margin = font_of(size), round(1.9 * size), round(0.7 * size)
    said = prediction.top(labels, top)
    values = labels.kind == "values"
    room = min(width - 4 * margin, round(15 * size))
    panel = Image.new("RGBA", (room + 2 * margin, line * len(said) + margin), GROUND)
    draw = ImageDraw.Draw(panel)
    for place, (name, value) in enumerate(said):
        y, ink = margin + place * line, INK if place == 0 else FAINT
        told = f"{value:.3g}" if values else f"{100 * value:.0f} %"
        end = margin + room - font.getlength(told)
        draw.text((margin, y), shortened(name, font, end - 2 * margin), ink, font)
        draw.text((end, y), told, ink, font)
        if not values:
            low, thick = y + round(1.25 * size), max(round(0.2 * size), 2)
            draw.rectangle((margin, low, margin + room, low + thick), TRACK)
            draw.rectangle((margin, low, margin + round(room * min(max(value, 0), 1)), low + thick), BAR)
    return panel
