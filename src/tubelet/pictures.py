"""What a model sees and imagines, as pictures: strips (PNG) and moving panels (GIF).

Strips keep pixels crisp: small frames are enlarged by whole factors, never blurred.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from tubelet.config import from_json
from tubelet.evaluate.features import middle_clips
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.patches import patchify, put, take, unpatchify
from tubelet.train.checkpoint import atomically, load, read
from tubelet.types import Batch, Draws, Grid, Target, TokenMask

PAPER, INK, FAINT = (24, 26, 31), (226, 225, 221), (150, 153, 160)  # dark: looks right on light and on dark pages
CURTAIN, SEAM = 78, 68  # grey of a hidden cube, and of its last row and column, so that cubes can be counted
RATIOS = (0.75, 0.9, 0.95)

# ---------------------------------------------------------------------------- 1. what is imagined


@dataclass(frozen=True)
class Strip:
    """One clip in several versions, to be seen together."""

    rows: dict[str, UInt8[Tensor, "c t h w"]]
    heading: str = ""


@dataclass(frozen=True)
class Reconstruction:
    """Clips, what the encoder saw of them, and what the decoder imagined; scores are of the bytes that are shown."""

    original: UInt8[Tensor, "b c t h w"]
    hidden: UInt8[Tensor, "b c t h w"]  # grey where the encoder does not see
    imagined: UInt8[Tensor, "b c t h w"]  # true pixels where it does
    mask: TokenMask
    psnr: Float[Tensor, " b"]  # dB over imagined pixels
    baseline: Float[Tensor, " b"]  # dB over the same pixels, filled with flat colours without a model
    borrowed: bool  # the target leaves out each cube's mean and contrast, so both fills were given the true ones

    def strips(self) -> list[Strip]:
        """Original, hidden and imagined of every clip, headed by the share hidden and the scores."""
        scores = [f"imagined {p:.1f} dB · without a model {b:.1f} dB" for p, b in zip(self.psnr, self.baseline)]
        return [
            Strip({"original": a, "hidden": b, "imagined": c}, f"{share(self.mask)} hidden · {score}")
            for a, b, c, score in zip(self.original, self.hidden, self.imagined, scores)
        ]

    @property
    def note(self) -> str:
        """What must be known to read the picture fairly."""
        flat = "their true mean colour" if self.borrowed else "the colours of visible ones nearby"
        told = " The model predicts only patterns: here each cube was given its true mean colour and contrast."
        text = f"dB: signal to noise of the imagined pixels; more is better. Without a model: flat cubes in {flat}."
        worse = " So far the model does worse than that: it needs more steps." * bool(
            self.psnr.mean() < self.baseline.mean()
        )
        return text + told * self.borrowed + worse


def reconstruct(
    method: MaskedAutoencoder, video: UInt8[Tensor, "b c t h w"], ratio: float | None = None, seed: int = 0
) -> Reconstruction:
    """What `method` makes of clips of which `ratio` is hidden (default: as in training), on the CPU.

    Raises:
        ValueError: clips that are not of the method's size, or a mask without a ratio.
    """
    grid, channels, (pt, ph, pw) = method.grid, method.channels, method.grid.patch
    got, wanted = tuple(video.shape[1:]), (channels, grid.T * pt, grid.H * ph, grid.W * pw)
    if got != wanted:
        raise ValueError(f"clips of {got} (channels, frames, height, width); this model takes {wanted}")
    masker: Any = method.mask
    if ratio is not None:
        if not hasattr(masker, "ratio"):
            raise ValueError(f"mask {type(masker).__name__} has no ratio to change; leave the ratio out")
        masker = replace(masker, ratio=ratio)
    video = video.cpu()
    mask: TokenMask = masker(Batch(video, torch.arange(len(video))), grid, Draws(seed, 0, range(len(video))))
    patches = patchify(video, grid.patch)
    device, training = next(method.parameters()).device, method.training
    method.eval()
    with torch.no_grad():
        values = method.imagine(patches.to(device), mask.to(device)).float().cpu()
    method.train(training)

    true = take(patches, mask.predict).float() / 255
    covered = torch.where(mask.hidden.unsqueeze(2), curtain(grid, channels), patches)

    def shown(guess: Float[Tensor, "b p y"]) -> UInt8[Tensor, "b c t h w"]:
        pixels = (method.target.decode(guess, true, channels) * 255).round().clamp(0, 255).byte()
        filled = put(covered, mask.predict, pixels)
        return unpatchify(torch.where(mask.hidden.unsqueeze(2), filled, patches), grid)

    scored = torch.zeros(mask.hidden.shape, dtype=torch.bool).scatter(1, mask.predict, mask.scored)
    where = unpatchify(scored.unsqueeze(2).expand(patches.shape), grid)
    imagined, flat = shown(values), shown(spread(method.target, patches, mask, channels))
    without = method.target.decode(values, torch.zeros_like(true), channels)  # tells whether truth was borrowed
    return Reconstruction(
        original=video,
        hidden=unpatchify(covered, grid),
        imagined=imagined,
        mask=mask,
        psnr=decibels(video, imagined, where),
        baseline=decibels(video, flat, where),
        borrowed=not torch.equal(without, method.target.decode(values, true, channels)),
    )


def spread(target: Target, patches: UInt8[Tensor, "b n q"], mask: TokenMask, channels: int) -> Float[Tensor, "b p y"]:
    """The answer without a model: every cube flat, in the colours of the visible ones weighted by 1 / distance².

    Colours are those of the target: where it takes out each cube's mean, this is that mean.
    """
    seen = target.encode(take(patches, mask.visible).float() / 255, channels)
    colour = seen.unflatten(2, (-1, channels)).mean(2)
    grid = mask.grid
    place = torch.cartesian_prod(*(torch.arange(size).float() for size in (grid.T, grid.H, grid.W)))
    weight = 1 / torch.cdist(place[mask.predict], place[mask.visible]).square().clamp(min=0.1)
    return (weight / weight.sum(2, keepdim=True) @ colour).repeat(1, 1, seen.shape[2] // channels)


def decibels(
    true: UInt8[Tensor, "b c t h w"], shown: UInt8[Tensor, "b c t h w"], where: Bool[Tensor, "b c t h w"]
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio over the pixels of `where`; infinite where all are exact."""
    error = (true.float() - shown.float()).square().mul(where).flatten(1).sum(1) / where.flatten(1).sum(1)
    return 10 * torch.log10(255**2 / error)


def curtain(grid: Grid, channels: int) -> UInt8[Tensor, " q"]:
    """The values of a hidden cube."""
    cube = torch.full((*grid.patch, channels), CURTAIN, dtype=torch.uint8)
    cube[:, -1], cube[:, :, -1] = SEAM, SEAM
    return cube.flatten()


def share(mask: TokenMask) -> str:
    """How much a mask hides, for people."""
    return f"{100 * (1 - mask.visible.shape[1] / mask.grid.tokens):.3g} %"


def mask_strip(video: UInt8[Tensor, "b c t h w"], mask: TokenMask) -> list[Strip]:
    """Every clip, whole and with a mask over it."""
    grid, patches = mask.grid, patchify(video, mask.grid.patch)
    covered = unpatchify(torch.where(mask.hidden.unsqueeze(2), curtain(grid, video.shape[1]), patches), grid)
    counts = f"{grid.tokens - mask.visible.shape[1]} of {grid.tokens} cubes of {'x'.join(map(str, grid.patch))}"
    return [Strip({"original": a, "visible": b}, f"{share(mask)} hidden · {counts}") for a, b in zip(video, covered)]


def reconstruct_run(
    folder: Path, videos: Sequence[Path], ratios: Sequence[float] = RATIOS, out: Path | None = None, seed: int = 0
) -> list[Path]:
    """Files reconstruction_75.gif, .png and so on in `out` (default: the run's pictures/), of the middles of `videos`.

    Raises:
        FileNotFoundError, ValueError: no checkpoint there, or a ratio that hides nothing or everything.
        VideoError: a video cannot be read.
    """
    state, method = read(folder), load(folder)
    if not isinstance(method, MaskedAutoencoder):
        raise ValueError(f"{folder} holds a {type(method).__name__}; only masked autoencoders imagine pixels")
    clips = middle_clips(videos, from_json(state["run"]).data)
    written = []
    for ratio in ratios:
        result, name = reconstruct(method, clips, ratio, seed), f"reconstruction_{100 * ratio:.3g}"
        strips = [replace(strip, heading=f"{v.name} · {strip.heading}") for v, strip in zip(videos, result.strips())]
        caption = f"{folder.resolve().name}, step {state['step']}. {result.note}"
        written += [save((out or folder / "pictures") / f"{name}.{kind}", strips, caption) for kind in ("gif", "png")]
    return written


# ---------------------------------------------------------------------------- 2. strips and moving panels


@dataclass(frozen=True)
class Block:
    """A table of small pictures with names at its left or on top."""

    cells: UInt8[np.ndarray, "rows columns h w 3"]
    heading: str
    left: Sequence[str] = ()
    top: Sequence[str] = ()


def save_png(path: Path, strips: Sequence[Strip], caption: str = "", columns: int = 8) -> Path:
    """`path`, a PNG of all strips: versions below each other, `columns` evenly spaced frames side by side.

    The caption is also in the file's metadata, as "Description".

    Raises:
        SaveError: the disk refuses.
    """
    blocks = []
    for strip in strips:
        clips = [enlarge(rgb(clip), 112) for clip in strip.rows.values()]
        times = np.linspace(0, len(clips[0]) - 1, min(columns, len(clips[0]))).round().astype(int)
        blocks.append(Block(np.stack([clip[times] for clip in clips]), strip.heading, left=[*strip.rows]))
    caption = complete(caption, strips)
    about = PngInfo()
    about.add_itxt("Description", caption)
    atomically(path, partial(compose(blocks, caption).save, format="PNG", pnginfo=about, optimize=True))
    return path


def save_gif(path: Path, strips: Sequence[Strip], caption: str = "", fps: float = 8.0) -> Path:
    """`path`, a GIF that plays all strips for ever: versions side by side, `fps` frames a second.

    Seconds per frame are rounded to 1/100, what the format can say, and are at least 1/50, what browsers obey. The
    caption is also in the file's comment.

    Raises:
        SaveError: the disk refuses.
    """
    caption = complete(caption, strips)
    clips = [np.stack([enlarge(rgb(clip), 208) for clip in strip.rows.values()], 1) for strip in strips]
    frames = [
        compose([Block(c[None, t % len(c)], s.heading, top=[*s.rows]) for c, s in zip(clips, strips)], caption)
        for t in range(max(map(len, clips)))
    ]
    # One palette for all frames and no dithering: otherwise still places flicker. It is made from a sample of the small
    # pixels, for speed, and from text, which needs its shades of grey.
    colours = np.concatenate([rgb(clip).reshape(-1, 3) for strip in strips for clip in strip.rows.values()])
    sample = colours[:: 1 + len(colours) // 300_000]
    shades = np.linspace(PAPER, INK, 16).repeat(1 + len(sample) // 400, 0).astype(np.uint8)
    palette = Image.fromarray(np.concatenate([sample, shades])[None]).quantize(256, kmeans=1)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    write = partial(first.save, format="GIF", save_all=True, append_images=rest, loop=0, disposal=1, optimize=False)
    atomically(path, partial(write, duration=max(round(100 / fps), 2) * 10, comment=caption.encode()))  # milliseconds
    return path


def save(path: Path | str, strips: Sequence[Strip], caption: str = "") -> Path:
    """`path`, as moving panels if it ends in .gif, as a strip if in .png.

    Raises:
        ValueError, SaveError: another ending; the disk refuses.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".png"):
        raise ValueError(f"cannot draw {path.name}: a picture ends in .png (a strip) or .gif (it moves)")
    return (save_gif if path.suffix == ".gif" else save_png)(path, strips, caption)


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


def compose(blocks: Sequence[Block], caption: str) -> Image.Image:
    """Blocks below each other with their headings, the caption under them, on dark paper."""
    import matplotlib  # for its font: Pillow's own has only ASCII, and files have all sorts of names

    size = max(15, min(26, max(b.cells.shape[1] * b.cells.shape[3] for b in blocks) // 50))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
    gap, margin, line = size // 3, size, round(size * 1.5)
    left = max((round(font.getlength(name)) for block in blocks for name in block.left), default=-margin) + margin
    width = max(left + b.cells.shape[1] * (b.cells.shape[3] + gap) - gap for b in blocks) + 2 * margin
    letters = int((width - 2 * margin) / (0.92 * font.getlength("n")))  # a mean letter is 0.88 of an n; some room
    wrapped, headings = wrap(caption, letters), [wrap(block.heading, letters) for block in blocks]
    heights = [
        line * (len(heading) + bool(block.top)) + len(block.cells) * (block.cells.shape[2] + gap)
        for block, heading in zip(blocks, headings)
    ]
    image = Image.new("RGB", (width, sum(heights) + margin * (len(blocks) + 1) + line * len(wrapped)), PAPER)
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
    for text in wrapped:
        draw.text((margin, y - margin // 2), text, FAINT, font)
        y += line
    return image
