"""Clips below each other: strips (PNG) and moving panels (GIF, MP4), on dark paper with headings and a caption.

Pixels stay crisp: small frames are enlarged by whole factors, never blurred.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from math import ceil
from pathlib import Path
from textwrap import wrap

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from tubelet.data.writing import write
from tubelet.train.checkpoint import atomically

PAPER, INK, FAINT = (24, 26, 31), (226, 225, 221), (150, 153, 160)  # dark: looks right on light and on dark pages
ABREAST = 6  # panels of a film side by side
LEAST_SECONDS = 4.0  # of an MP4: players stop at its end, so short films come again


@dataclass(frozen=True)
class Strip:
    """One clip in several versions, to be seen together."""

    rows: dict[str, UInt8[Tensor, "c t h w"]]
    heading: str = ""
    moment: int | None = None
    """A frame that is shown even where only some of the frames are."""


@dataclass(frozen=True)
class Block:
    """A table of small pictures with names at its left or on top."""

    cells: UInt8[np.ndarray, "rows columns h w 3"]
    heading: str
    left: Sequence[str] = ()
    top: Sequence[str] = ()


def save_png(
    path: Path, strips: Sequence[Strip], caption: str = "", columns: int = 8, legend: Image.Image | None = None
) -> Path:
    """`path`, a PNG of all strips: versions below each other, `columns` evenly spaced frames side by side.

    The caption, beside the legend if there is one, is also in the file's metadata, as "Description".

    Raises:
        SaveError: the disk refuses.
    """
    blocks = []
    for strip in strips:
        clips = [enlarge(rgb(clip), 112) for clip in strip.rows.values()]
        times = np.linspace(0, len(clips[0]) - 1, min(columns, len(clips[0]))).round().astype(int)
        if strip.moment is not None:
            times[np.abs(times - strip.moment).argmin()] = strip.moment
        blocks.append(Block(np.stack([clip[times] for clip in clips]), strip.heading, left=[*strip.rows]))
    caption = complete(caption, strips)
    about = PngInfo()
    about.add_itxt("Description", caption)
    atomically(path, partial(compose(blocks, caption, legend).save, format="PNG", pnginfo=about))
    return path


def save_gif(
    path: Path, strips: Sequence[Strip], caption: str = "", fps: float = 8.0, legend: Image.Image | None = None
) -> Path:
    """`path`, a GIF that plays all strips for ever: versions side by side, `fps` frames a second.

    Seconds per frame are rounded to 1/100, what the format can say, and are at least 1/50, what browsers obey. The
    caption is also in the file's comment.

    Raises:
        SaveError: the disk refuses.
    """
    caption = complete(caption, strips)
    frames = list(moments(strips, caption, legend))
    # One palette for all frames and no dithering: otherwise still places flicker. It is made from a sample of the small
    # pixels, for speed, and from text, which needs its shades of grey.
    colours = np.concatenate([rgb(clip).reshape(-1, 3) for strip in strips for clip in strip.rows.values()])
    sample = colours[:: 1 + len(colours) // 100_000]
    shades = np.linspace(PAPER, INK, 16).repeat(1 + len(sample) // 400, 0).astype(np.uint8)
    hues = np.asarray(legend).reshape(-1, 3) if legend else shades[:0]
    palette = Image.fromarray(np.concatenate([sample, shades, hues])[None]).quantize(256, kmeans=1)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    write = partial(first.save, format="GIF", save_all=True, append_images=rest, loop=0, disposal=1, optimize=False)
    atomically(path, partial(write, duration=max(round(100 / fps), 2) * 10, comment=caption.encode()))  # milliseconds
    return path


def save_mp4(
    path: Path, strips: Sequence[Strip], caption: str = "", fps: float = 8.0, legend: Image.Image | None = None
) -> Path:
    """`path`, a film that browsers play (H.264): versions side by side, `fps` frames a second, 4 seconds or more.

    Shorter ones are repeated whole.

    Raises:
        VideoError, OSError: the disk refuses.
    """
    once = [np.asarray(image) for image in moments(strips, complete(caption, strips), legend)]
    height, width, _ = once[0].shape
    once = [np.pad(image, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge") for image in once]  # sizes are even
    times = max(ceil(LEAST_SECONDS * fps / len(once)), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, chain.from_iterable(repeat(once, times)), fps, options={"crf": "18"})
    return path


def moments(strips: Sequence[Strip], caption: str, legend: Image.Image | None) -> Iterator[Image.Image]:
    """The frames of a film of all strips; shorter ones begin again."""
    clips = [np.stack([enlarge(rgb(clip), 208) for clip in strip.rows.values()], 1) for strip in strips]
    for t in range(max(map(len, clips))):
        blocks = []
        for clip, strip in zip(clips, strips):
            cells, names = clip[None, t % len(clip)], [*strip.rows]
            lines = -(-len(names) // ABREAST)
            wide = -(-len(names) // lines)
            for start in range(0, len(names), wide):
                heading = "" if start else strip.heading
                blocks.append(Block(cells[:, start : start + wide], heading, top=names[start : start + wide]))
        yield compose(blocks, caption, legend)


def save(path: Path | str, strips: Sequence[Strip], caption: str = "", legend: Image.Image | None = None) -> Path:
    """`path`, as moving panels if it ends in .gif or .mp4, as a strip if in .png.

    Raises:
        ValueError: another ending.
        SaveError, VideoError: the disk refuses.
    """
    path = Path(path)
    return KINDS[ending(path)](path, strips, caption, legend=legend)


KINDS = {".png": save_png, ".gif": save_gif, ".mp4": save_mp4}


def ending(path: Path) -> str:
    """What a picture's name ends in.

    Raises:
        ValueError: no ending that can be drawn.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"cannot draw {path.name}: a picture ends in .png (a strip), .gif or .mp4 (it moves)")
    return path.suffix


def rgb(clip: UInt8[Tensor, "c t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """A clip in colours: one channel as grey, of two the first, of more the first three."""
    few = clip[:3] if len(clip) >= 3 else clip[:1].expand(3, -1, -1, -1)
    return few.permute(1, 2, 3, 0).cpu().numpy()


def complete(caption: str, strips: Sequence[Strip]) -> str:
    """The caption, with what `rgb` leaves out, if anything."""
    channels = max(len(clip) for strip in strips for clip in strip.rows.values())
    shown = "" if channels in (1, 3) else "the first is" if channels == 2 else "1 to 3 are"
    return f"{caption} {shown and f'Of {channels} channels, {shown} shown.'}".strip()


def enlarge(clip: UInt8[np.ndarray, "t h w 3"], least: int) -> UInt8[np.ndarray, "t H W 3"]:
    """Frames of at least `least` pixels height, by repeating pixels."""
    times = -(-least // clip.shape[1])
    return clip.repeat(times, 1).repeat(times, 2)


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """A font with letters for all sorts of names, which Pillow's own has not."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """As much of a text as fits, with dots for the rest."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def compose(blocks: Sequence[Block], caption: str, legend: Image.Image | None = None) -> Image.Image:
    """Blocks below each other with their headings, legend and caption under them, on dark paper."""
    size = max(15, min(26, max(b.cells.shape[1] * b.cells.shape[3] for b in blocks) // 50))
    font = font_of(size)
    gap, margin, line = size // 3, size, round(size * 1.5)
    left = max((round(font.getlength(name)) for block in blocks for name in block.left), default=-margin) + margin
    width = max(left + b.cells.shape[1] * (b.cells.shape[3] + gap) - gap for b in blocks) + 2 * margin
    mean = 0.92 * font.getlength("n")  # a mean letter is 0.88 of an n; some room
    indent = legend.width + 2 * margin if legend else 0
    headings = [wrap(block.heading, int((width - 2 * margin) / mean)) for block in blocks]
    wrapped = wrap(caption, max(int((width - 2 * margin - indent) / mean), 12))
    heights = [
        line * (len(heading) + bool(block.top)) + len(block.cells) * (block.cells.shape[2] + gap)
        for block, heading in zip(blocks, headings)
    ]
    foot = max(line * len(wrapped), legend.height + margin // 2 if legend else 0)
    image = Image.new("RGB", (width, sum(heights) + margin * (len(blocks) + 1) + foot), PAPER)
    draw, y = ImageDraw.Draw(image), margin
    for block, heading in zip(blocks, headings):
        for text in heading:
            draw.text((margin, y), text, INK, font)
            y += line
        rows, columns, h, w, _ = block.cells.shape
        for column, name in enumerate(block.top):
            draw.text((margin + left + column * (w + gap), y), name, FAINT, font)
        y += line * bool(block.top)
        for row in range(rows):
            if block.left:
                draw.text((margin, y + h // 2), block.left[row], FAINT, font, anchor="lm")
            for column in range(columns):
                image.paste(Image.fromarray(block.cells[row, column]), (margin + left + column * (w + gap), y))
            y += h + gap
        y += margin
    if legend:
        image.paste(legend, (margin, y - margin // 2))
    for text in wrapped:
        draw.text((margin + indent, y - margin // 2), text, FAINT, font)
        y += line
    return image
