"""Motion as pictures: arrows on the frames, the colours of flow, and what a mask or a box takes of them.

All show the way that things moved since the frame before, which is opposite to `Motion.to_previous`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from tubelet.data.transforms import Window, carried, resized
from tubelet.evaluate.saliency import Annotated
from tubelet.nn.patches import CURTAIN
from tubelet.plates import EDGE, rimmed
from tubelet.strips import FAINT, INK, PAPER, Strip, enlarge, font_of, rgb
from tubelet.types import Motion, TokenMask

LEAST = 208  # pixels of height: below, arrows have no room
APART = 20  # pixels between arrows, at least
SMALL = 0.25  # pixels: what moves less is drawn as a dot; codecs say quarters
FINE = 4  # times larger, then reduced: smooth edges
ARROW, ABSENT = (255, 214, 64), (255, 92, 92)
BORDER, FRAME = (255, 128, 32), (84, 205, 255)  # of what is hidden; of objects
STAND_INS = {"flow": "flow", "encode": "vectors of a copy", "none": "nowhere"}  # of notes about files, for captions
FEW = " has few motion vectors "
Picture = UInt8[np.ndarray, "h w 3"]

# ---------------------------------------------------------------------------- 1. colours

# Steps from each colour to the next, red to red: more where the eye sees more hues.
# Source: Baker et al. 2011, "A Database and Evaluation Methodology for Optical Flow", and its released code.
STEPS = {(255, 0, 0): 15, (255, 255, 0): 6, (0, 255, 0): 4, (0, 255, 255): 11, (0, 0, 255): 13, (255, 0, 255): 6}


def ring() -> Float[np.ndarray, "55 3"]:
    """The colours of the wheel's rim, in [0, 1]: from red, which is motion to the right, on to down, left and up."""
    corners, counts = np.array([*STEPS]), [*STEPS.values()]
    sides = zip(corners, np.roll(corners, -1, 0), counts)
    return np.concatenate([start + (end - start) * np.arange(n)[:, None] / n for start, end, n in sides]) / 255


def colours(flow: Float[np.ndarray, "2 h w"], longest: float) -> UInt8[np.ndarray, "h w 3"]:
    """Motion as colour: hue is direction, saturation length; white stands still, `longest` is full, more is darker."""
    rim = ring()
    length = np.hypot(*flow)[..., None] / longest
    turn = (np.arctan2(-flow[1], -flow[0]) / np.pi + 1) / 2 * (len(rim) - 1)
    low = np.floor(turn).astype(int)
    part = (turn - low)[..., None]
    hue = (1 - part) * rim[low] + part * rim[(low + 1) % len(rim)]
    shade = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.floor(255 * shade).astype(np.uint8)


def legend(longest: float, size: int = 120) -> Image.Image:
    """The wheel that says which colour means which direction, with the length that its rim stands for."""
    wide = FINE * size
    y, x = (np.indices((wide, wide)) - (wide - 1) / 2) / (wide / 2)
    disc = colours(np.stack([x, y]) * longest, longest)
    disc[np.hypot(x, y) > 1] = PAPER
    wheel = Image.fromarray(disc).resize((size, size), Image.Resampling.LANCZOS)
    font = font_of(max(size // 7, 11))
    text = f"rim: {longest:g} px"
    line = round(font.size * 1.6)
    image = Image.new("RGB", (max(size, ceil(font.getlength(text))), size + line), PAPER)
    image.paste(wheel, ((image.width - size) // 2, 0))
    ImageDraw.Draw(image).text((image.width // 2, size + line), text, FAINT, font, anchor="md")
    return image


def longest(motion: Motion) -> float:
    """The length, in whole pixels, that 98 % of the known displacements that move at all stay below; at least 1."""
    lengths = motion.to_previous.movedim(-4, 0).norm(dim=0)[motion.had]
    moving = lengths[lengths >= SMALL]
    return max(float(ceil(moving.quantile(0.98))), 1.0) if len(moving) else 1.0


# ---------------------------------------------------------------------------- 2. clips


def motion_strips(
    video: UInt8[Tensor, "b c t h w"],
    motion: Motion,
    names: Sequence[str],
    guide: str,
    masks: dict[str, TokenMask],
) -> tuple[list[Strip], str, Image.Image]:
    """Clips with their motion and what masks hide of them, the caption, and the legend."""
    rim, strips = longest(motion), []
    for i, name in enumerate(names):
        one = motion.each(lambda values: values[i])  # noqa: B023 (used at once)
        hidden = {name: TokenMask(m.visible[i : i + 1], m.predict[i : i + 1], m.grid) for name, m in masks.items()}
        strips.append(motion_strip(video[i], one, f"{name} · {told(one)}", rim, hidden))
    return strips, explained(rim, guide, f"of clips of {video.shape[3]}x{video.shape[4]}"), legend(rim)


def boxes_strips(
    seen: Sequence[tuple[str, Annotated]], guide: str, height: int
) -> tuple[list[Strip], str, Image.Image]:
    """Whole frames with their boxes and motion, at `height` pixels, the caption, and the legend."""
    clips = []
    for _, one in seen:
        h, w = one.frames.shape[1:3]
        size, scale = (height, round(w * height / h)), np.array([round(w * height / h) / w, height / h] * 2)
        whole = Window(0, 0, h, w)
        frames = resized(one.frames, whole, size).permute(3, 0, 1, 2)
        clips.append((frames, carried(one.motion, (h, w), whole, size, 8), [scale * each for each in one.boxes]))
    rim = max(longest(motion) for _, motion, _ in clips)
    strips = [
        motion_strip(video, motion, f"{name} · {one.saliency}", rim, boxes=boxes)
        for (name, one), (video, motion, boxes) in zip(seen, clips)
    ]
    return strips, explained(rim, guide, f"of pictures {height} high"), legend(rim)


def motion_strip(
    video: UInt8[Tensor, "c t h w"],
    motion: Motion,
    heading: str = "",
    rim: float | None = None,
    hidden: dict[str, TokenMask] | None = None,
    boxes: Sequence[Float[np.ndarray, "_ 4"]] | None = None,
) -> Strip:
    """A clip; with arrows; as colours; with the border of what each mask hides of it; all large enough for arrows.

    `motion` has no leading axes; each of the masks is of one clip; `boxes` are those of each frame, pixels.
    """
    zoom = -(-LEAST // video.shape[2])
    frames = enlarge(rgb(video), LEAST)
    back, known = -motion.to_previous.permute(1, 0, 2, 3).cpu().numpy(), motion.had.cpu().numpy()
    block, rim = motion.block * zoom, rim or longest(motion)
    seen = [rimmed(frame, zoom * each, [FRAME] * len(each), 2) for frame, each in zip(frames, boxes or ())]
    rows = {"frames": np.stack(seen) if boxes else frames}
    rows["vectors"] = np.stack([arrows(*each, block, zoom) for each in zip(frames, back, known)])
    rows["colours"] = np.stack([field(*each, block, frames.shape[1:3], rim) for each in zip(back, known)])
    for name, mask in (hidden or {}).items():
        rows[name] = outlined(frames, mask, zoom)
    return Strip({name: torch.from_numpy(row).permute(3, 0, 1, 2) for name, row in rows.items()}, heading)


def told(motion: Motion) -> str:
    """What there is to say about a clip's motion: how much is known, how much moves, how far."""
    known = motion.had[..., 0 if motion.had[..., 0, :, :].any() else 1 :, :, :]  # the first frame has no past
    if not known.any():
        return "no motion is known"
    lengths = motion.to_previous.movedim(-4, 0).norm(dim=0)[motion.had]
    moving = lengths[lengths >= SMALL]
    text = (
        f"known of {100 * known.float().mean():.3g} % of blocks, {100 * len(moving) / len(lengths):.3g} % of them move"
    )
    return f"{text}, {moving.median():.3g} px in the median" if len(moving) else text


def used(guide: str, paths: Sequence[Path], notes: Iterable[str]) -> str:
    """Where the motion of clips came from in truth, for captions: vectors of a file may be missing or too few."""
    instead: dict[str, str] = {}
    for note in notes:
        why, _, what = getattr(note, "kind", "").partition(", ")
        if what in STAND_INS:
            few = "frames too far apart" if why == "far" else "few vectors" if FEW in note else "no vectors"
            instead[note.path] = f"{STAND_INS[what]} ({few})"  # type: ignore[attr-defined]
    said = [instead.get(str(path), guide) for path in paths]
    if len(counts := Counter(said)) == 1:
        return said[0]
    return ", ".join(f"{one} in {count} of {len(said)} videos" for one, count in counts.items())


def explained(rim: float, guide: str, of: str) -> str:
    """How to read the rows of `motion_strip`."""
    return (
        f"Motion from {guide}, since the frame before, in pixels {of}. Arrows end on their block and begin where it "
        "was; of neighbours the longest is drawn; dot: stands still; red cross: not known. Colours: direction and "
        f"length; white stands still, grey is not known, darker is beyond the rim ({rim:g} px)."
    )


# ---------------------------------------------------------------------------- 3. one frame


def field(
    back: Float[np.ndarray, "2 my mx"], known: Bool[np.ndarray, "my mx"], block: int, size: tuple[int, int], rim: float
) -> Picture:
    """The colours of blocks of `block` pixels, on a frame of `size` (height, width); grey where motion is not known."""
    shades = np.where(known[..., None], colours(back, rim), np.uint8(CURTAIN))
    return shades.repeat(block, 0).repeat(block, 1)[: size[0], : size[1]]


def arrows(
    frame: Picture, back: Float[np.ndarray, "2 my mx"], known: Bool[np.ndarray, "my mx"], block: int, zoom: int
) -> Picture:
    """The frame with arrows to its blocks from where they were; `block` in its pixels, motion in 1/zoom of them."""
    image = Image.fromarray(frame)
    if not known.any():
        return labelled(image, "no motion known")
    layer = Image.new("RGBA", (FINE * image.width, FINE * image.height), (0, 0, 0, 0))
    draw, group = ImageDraw.Draw(layer), ceil(APART / block)
    length = np.where(known, np.hypot(*back), -1.0)
    for top in range(0, length.shape[0], group):
        for left in range(0, length.shape[1], group):
            part = length[top : top + group, left : left + group]
            if part.max() < SMALL:
                middle = (left + part.shape[1] / 2) * block, (top + part.shape[0] / 2) * block
                (cross if part.max() < 0 else dot)(draw, *middle)
                continue
            row, column = (int(i) for i in np.unravel_index(part.argmax(), part.shape))
            u, v = zoom * back[:, top + row, left + column]
            arrow(draw, (left + column + 0.5) * block, (top + row + 0.5) * block, float(u), float(v))
    return blended(image, layer)


def arrow(draw: ImageDraw.ImageDraw, x: float, y: float, u: float, v: float) -> None:
    """An arrow of (u, v) that ends at (x, y), bright with a dark edge, with a head that fits its length."""
    length = float(np.hypot(u, v))
    head = min(max(0.45 * length, 3.0), 7.0)
    along, across = np.array([u, v]) / length, np.array([-v, u]) / length
    tip = np.array([x, y])
    neck, tail = tip - head * along, tip - max(length, head + 1.0) * along
    for ink, more in ((EDGE, 1.0), (ARROW, 0.0)):
        wings = [neck - more * 0.6 * along + side * (0.48 * head + more) * across for side in (1, -1)]
        points = [tip + 1.5 * more * along, *wings]
        start = tail - more * along
        draw.line([tuple(FINE * start), tuple(FINE * neck)], (*ink, 255), round(FINE * (1.3 + 2 * more)))
        draw.polygon([tuple(FINE * point) for point in points], (*ink, 255))


def dot(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """The mark of what stands still."""
    for ink, radius in ((EDGE, 1.7), (ARROW, 1.0)):
        draw.ellipse([FINE * (x - radius), FINE * (y - radius), FINE * (x + radius), FINE * (y + radius)], (*ink, 255))


def cross(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """The mark of what is not known."""
    for ink, arm, wide in ((EDGE, 3.8, 3.0), (ABSENT, 3.0, 1.4)):
        for turn in (1, -1):
            ends = (FINE * (x - arm), FINE * (y - turn * arm), FINE * (x + arm), FINE * (y + turn * arm))
            draw.line(ends, (*ink, 255), round(FINE * wide))


def outlined(frames: UInt8[np.ndarray, "t h w 3"], mask: TokenMask, zoom: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames with a border around what the mask hides, and that darkened."""
    grid = mask.grid
    pt, ph, pw = grid.patch
    cubes = mask.hidden[0].view(grid.T, grid.H, grid.W).cpu().numpy()
    hidden = cubes.repeat(pt, 0).repeat(ph * zoom, 1).repeat(pw * zoom, 2)
    shown = np.where(hidden[..., None], 0.5 * frames + 0.5 * np.array(PAPER), frames).astype(np.uint8)
    shown[hidden & ~inner(hidden, 4)] = EDGE
    shown[hidden & ~inner(hidden, 3)] = BORDER
    return shown


def inner(region: Bool[np.ndarray, "t h w"], margin: int) -> Bool[np.ndarray, "t h w"]:
    """What lies more than `margin` pixels inside of a region, to its four sides; the frame's edge is outside."""
    for axis in (1, 2):
        padded = np.pad(region, [(0, 0)] + [(margin * (axis == side),) * 2 for side in (1, 2)])
        region = np.all(np.lib.stride_tricks.sliding_window_view(padded, 2 * margin + 1, axis), axis=-1)
    return region


def labelled(image: Image.Image, text: str) -> Picture:
    """The picture with a word in its lower left corner, readable on anything."""
    font = font_of(max(image.height // 15, 11))
    left, top, right, bottom = font.getbbox(text)
    margin = font.size // 3
    y = image.height - (bottom - top) - 3 * margin
    draw = ImageDraw.Draw(image)
    draw.rectangle((margin, y, margin + right - left + 2 * margin, image.height - margin), PAPER)
    draw.text((2 * margin - left, y + margin - top), text, INK, font)
    return np.asarray(image)


def blended(image: Image.Image, layer: Image.Image) -> Picture:
    """The picture with a layer drawn FINE times larger."""
    whole = image.convert("RGBA")
    whole.alpha_composite(layer.resize(image.size, Image.Resampling.BOX))
    return np.asarray(whole.convert("RGB"))
