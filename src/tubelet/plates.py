"""Boxes on a frame: a rim in the person's colour, and a plate beside it with who it is and what is done."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from tubelet.data.overlaps import shared
from tubelet.printable import printable
from tubelet.strips import FAINT, font_of, shortened

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "h w 3"]
Corners = tuple[float, float, float, float]

EDGE, GROUND, INK = (12, 12, 16), (20, 22, 27), (245, 245, 242)
OPAQUE = 232  # of 255: a plate lets a little of the picture through
LEAST = 11  # pixels: smaller letters do not survive an encoder
CLEAR = 0.05  # the share of a plate that others may cover before a smaller one is tried
SHARE = 0.3  # of the picture that plates may take
# Of people: apart from each other for normal sight and for both kinds of red-green blindness, and bright enough for
# dark scenes. Source: Okabe and Ito 2008, "Color Universal Design"; its blue is lighter here, its black white.
PEOPLE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 178, 128),
    (240, 228, 66),
    (72, 118, 255),
    (232, 92, 20),
    (236, 140, 196),
    (240, 240, 240),
)


@dataclass(frozen=True)
class Mark:
    """One person in a frame, as drawn."""

    corners: Corners
    """left, top, right, bottom in pixels."""
    colour: Colour
    name: str = ""
    """Who it is; none: the plate has a stripe instead."""
    said: tuple[tuple[str, float | None, Colour], ...] = ()
    """Classes, the likeliest first: name, score in [0, 1] if there is one, and the colour of its bar."""


def colour_of(person: str) -> Colour:
    """The colour of a person: the same in every frame and every run; those numbered one after another differ."""
    digits = re.search(r"\d+$", person)
    return PEOPLE[(int(digits[0]) if digits else crc32(person.encode(errors="replace"))) % len(PEOPLE)]


def letters_for(height: int, width: int) -> int:
    """The size of letters on frames of this size, in pixels."""
    return max(round(min(height / 36, width / 44)), LEAST)


def lines_for(people: int, height: int, width: int, top: int) -> int:
    """How many lines plates may have so that those of so many people do not hide the picture; at least 1."""
    size = letters_for(height, width)
    fit = SHARE * height * width / max(people, 1) / (11 * size * line_of(size))
    return max(min(int(fit), top), 1)


def line_of(size: int) -> int:
    """The height of a line of letters, in pixels."""
    return round(1.45 * size)


# ---------------------------------------------------------------------------- rims


def rimmed(
    frame: Picture, corners: Float[np.ndarray, "n 4"], colours: Sequence[Colour], wide: int | None = None
) -> Picture:
    """The frame with rims of `wide` pixels inside of boxes (left, top, right, bottom, in its pixels).

    A dark line on either side keeps them visible on anything.
    """
    shown, (height, width) = frame.copy(), frame.shape[:2]
    wide = wide or max(round(min(height, width) / 190), 2)
    for box, colour in zip(np.round(corners).astype(int), colours):
        for ink, out, inside in ((EDGE, 1, wide + 1), (colour, 0, wide)):
            left, top, right, bottom = box + np.array([-out, -out, out, out])
            thick = max(min(out + inside, (right - left + 1) // 2, (bottom - top + 1) // 2), 1)
            for x, y, X, Y in (
                (left, top, right, top + thick),
                (left, bottom - thick, right, bottom),
                (left, top, left + thick, bottom),
                (right - thick, top, right, bottom),
            ):
                (x, X), (y, Y) = np.clip((x, X), 0, width), np.clip((y, Y), 0, height)
                shown[y:Y, x:X] = ink
    return shown


# ---------------------------------------------------------------------------- plates


@lru_cache(maxsize=512)
def plate_of(
    name: str, colour: Colour, said: tuple[tuple[str, float | None, Colour], ...], lines: int, size: int, room: int
) -> Image.Image:
    """A plate at most `room` pixels wide: at the left who it is, then a line for each class, its score as a bar.

    Of classes without scores the last line says how many more there are.
    """
    font, line, gap = font_of(size), line_of(size), max(round(0.4 * size), 3)
    who = shortened(printable(name, lines=False), font, min(6 * size, 0.4 * room)) if name else ""
    chip = round(font.getlength(who)) + 2 * gap if who else max(size // 3, 4)
    said, more = said[:lines], len(said) - lines
    scores = ["" if score is None else f"{100 * score:.0f} %" for _, score, _ in said]
    if said and more > 0 and not scores[-1]:
        scores[-1] = f"+{more}"
    numbers = max((round(font.getlength(score)) + gap for score in scores if score), default=0)
    texts = [shortened(printable(text, lines=False), font, room - chip - 2 * gap - numbers) for text, _, _ in said]
    words = max((round(font.getlength(text)) for text in texts), default=-2 * gap)
    inner = words + 2 * gap + numbers
    plate = Image.new("RGBA", (min(chip + inner, room), line * max(len(said), 1)), (*GROUND, OPAQUE))
    draw = ImageDraw.Draw(plate)
    for row, (text, number, (_, score, hue)) in enumerate(zip(texts, scores, said)):
        y = row * line
        if score is not None:
            share = min(max(score, 0.0), 1.0)
            dark = tuple(round(0.52 * part) for part in hue)
            draw.rectangle((chip, y, chip + round(inner * share) - 1, y + line - 2), (*dark, 245))
        draw.text((chip + gap, y + line / 2), text, INK, font, anchor="lm")
        if number:
            ink = INK if score is not None else FAINT
            draw.text((plate.width - gap, y + line / 2), number, ink, font, anchor="rm")
    draw.rectangle((0, 0, chip - 1, plate.height), (*colour, 255))
    if who:
        draw.text((chip / 2, plate.height / 2), who, EDGE if bright(colour) else INK, font, anchor="mm")
    return plate


def bright(colour: Colour) -> bool:
    """Whether dark letters are read better on it than light ones."""
    return float(np.dot(colour, (0.299, 0.587, 0.114))) > 115


def marked(frame: Picture, marks: Sequence[Mark], lines: int, before: dict[str, int] | None = None) -> Picture:
    """The frame with the rims and plates of people; plates stay inside, and apart if they can.

    They have at most so many lines; where there is no room beside those of others, one line or just the name. `before`
    remembers from frame to frame on which side of a box each person's plate was, so that it stays there.
    """
    height, width = frame.shape[:2]
    size = letters_for(height, width)
    room = min(max(min(15 * size, width // 2), 8 * size), width)
    corners = np.array([mark.corners for mark in marks], float).reshape(-1, 4)
    corners = corners.clip(0, [width, height, width, height])
    image = Image.fromarray(rimmed(frame, corners, [mark.colour for mark in marks]))
    draw = ImageDraw.Draw(image)
    taken: list[Corners] = []
    chosen: list[tuple[Image.Image, int, int]] = []
    for place, mark in enumerate(marks):
        if not mark.name and not mark.said:
            continue
        others = np.delete(corners, place, 0)
        for count in dict.fromkeys((lines, 1, 0)):
            if not count and not mark.name:
                break
            plate = plate_of(mark.name, mark.colour, mark.said, count, size, room)
            last = None if before is None else before.get(mark.name)
            slot, x, y, hidden = seat(corners[place], plate.size, (width, height), others, taken, last)
            if hidden <= CLEAR:
                break
        if before is not None and mark.name:
            before[mark.name] = slot
        taken.append((x, y, x + plate.width, y + plate.height))
        chosen.append((plate, x, y))
        led(draw, corners[place], taken[-1], mark.colour)
    for plate, x, y in chosen:
        image.paste(plate, (x, y), plate)
    return np.asarray(image)


def seat(
    box: Float[np.ndarray, "4"],
    plate: tuple[int, int],
    picture: tuple[int, int],
    others: Float[np.ndarray, "n 4"],
    taken: Sequence[Corners],
    last: int | None,
) -> tuple[int, int, int, float]:
    """Where a plate goes: number of the place, x and y of its corner, and which share of it those of others cover.

    It is best above its box, else below or at the side, else on it; never outside of the picture. Sizes are
    (width, height).
    """
    (left, top, right, bottom), (w, h) = box, plate
    spots = [(left, top - h), (left, bottom), (right - w, top - h), (right - w, bottom), (right, top), (left - w, top)]
    spots += [(right, bottom - h), (left - w, bottom - h), (left, top), (left, bottom - h), (right - w, top)]
    spots += [(left, top - 2 * h), (left, bottom + h), (right, top + h), (left - w, top + h), (right, top - h)]
    spots += [(left - w, top - h), (left, top + h), (left, top + 2 * h), (left, top - 3 * h), (left, bottom + 2 * h)]
    corner = np.round(np.clip(spots, 0, np.maximum(np.array(picture) - plate, 0)))
    where = np.concatenate([corner, corner + plate], 1)
    area = w * h
    covered = shared(where, np.array(taken, float).reshape(-1, 4)).sum(1) / area
    over = shared(where, others).sum(1) / area + 0.7 * shared(where, box[None]).sum(1) / area
    apart = np.maximum(0, np.maximum(where[:, :2] - box[2:], box[:2] - where[:, 2:])).sum(1) / h
    cost = 40 * covered + over + 0.6 * apart + 0.03 * np.arange(len(where))
    if last is not None:
        cost[last] -= 1.2
    best = int(cost.argmin())
    return best, int(corner[best, 0]), int(corner[best, 1]), float(covered[best])


def led(draw: ImageDraw.ImageDraw, box: Float[np.ndarray, "4"], plate: Corners, colour: Colour) -> None:
    """A line from a plate to its box, where they do not touch."""
    near = np.clip(box.reshape(2, 2), plate[:2], plate[2:])  # of the plate, to each corner
    if (box[0] > plate[2] + 1) | (box[2] < plate[0] - 1) | (box[1] > plate[3] + 1) | (box[3] < plate[1] - 1):
        start = np.array([plate[0] + plate[2], plate[1] + plate[3]]) / 2
        start = np.clip(start, near.min(0), near.max(0))
        end = np.clip(start, box[:2] + 1, np.maximum(box[2:] - 2, box[:2] + 1))
        for ink, wide in ((EDGE, 4), (colour, 2)):
            draw.line([tuple(start), tuple(end)], ink, wide)
