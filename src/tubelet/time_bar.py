"""The bar below a video: who is there when and does what, a clock, and a cursor that moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from tubelet.plates import EDGE, Colour, bright, letters_for
from tubelet.printable import printable
from tubelet.strips import FAINT, INK, PAPER, font_of, shortened

# Of classes: paler than those of people. Source: Tol 2021, "Colour Schemes", the light scheme, which people with red-
# green blindness tell apart.
CLASSES: tuple[Colour, ...] = (
    (119, 170, 221),
    (238, 136, 102),
    (238, 221, 136),
    (68, 187, 153),
    (255, 170, 187),
    (170, 170, 0),
    (153, 221, 255),
    (187, 204, 51),
)
OTHER: Colour = (140, 144, 152)  # of all classes but these
LANE, AXIS, DIM = (40, 43, 50), (86, 90, 99), 0.55
OWN = 12  # people have a lane each; of more, those follow each other in one that never meet
HIGH = 0.35  # of the picture's height that lanes may take
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


@dataclass(frozen=True)
class Presence:
    """When somebody is there, without a break, and what is done."""

    name: str
    colour: Colour
    start: float
    """Seconds."""
    end: float
    does: tuple[tuple[float, float, tuple[str, ...]], ...]
    """From, to, and the classes in that time, the likeliest first."""


@dataclass(frozen=True)
class TimeBar:
    """A bar, drawn once; what moves is put on it."""

    base: UInt8[np.ndarray, "h w 3"]
    left: int
    """Pixels: where the time begins."""
    right: int
    top: int
    """Pixels: from where to where the cursor reaches."""
    bottom: int
    duration: float
    """Seconds."""
    letters: int

    def at(self, time: float) -> UInt8[np.ndarray, "h w 3"]:
        """The bar at a time: what comes is darker, and a cursor stands between."""
        shown, x = self.base.copy(), self.place(time)
        part = shown[self.top : self.bottom, x:]
        part[:] = (DIM * part + (1 - DIM) * np.array(PAPER)).astype(np.uint8)
        half = max(self.letters // 12, 1)
        shown[self.top - 2 : self.bottom + 1, max(x - half - 1, 0) : x + half + 1] = EDGE
        shown[self.top - 2 : self.bottom + 1, max(x - half, 0) : x + half] = (255, 255, 255)
        image = Image.fromarray(shown)
        draw, font = ImageDraw.Draw(image), font_of(self.letters)
        head = max(self.letters // 3, 3)
        draw.polygon([(x - head, self.top - head - 2), (x + head - 1, self.top - head - 2), (x, self.top)], "white")
        text = clock(time)
        draw.text((self.left, self.letters), text, INK, font, anchor="lm")
        draw.text((self.left + font.getlength(text), self.letters), f" / {clock(self.duration)}", FAINT, font, "lm")
        return np.asarray(image)

    def place(self, time: float) -> int:
        """Where a time is, in pixels from the left."""
        return self.left + round((self.right - self.left) * min(max(time / self.duration, 0.0), 1.0))


def time_bar(
    people: Sequence[Presence], legend: Sequence[str], height: int, width: int, duration: float, most: int = 3
) -> TimeBar:
    """The bar for pictures of this size: `legend` are the classes that have a colour, `most` how many are shown at
    once."""
    size = letters_for(height, width)
    lanes = lanes_of(people)
    count = max(max(lanes, default=0) + 1, 1)
    high = min(size + 5, int(HIGH * height / count))
    gap = 2 if high >= 8 else 1
    high = max(high - gap, 2)
    left, right, top = size, width - size, round(2.1 * size)
    bottom = top + count * (high + gap)
    base = Image.new("RGB", (width, (bottom + round(1.9 * size)) // 2 * 2), PAPER)
    draw = ImageDraw.Draw(base)
    for lane in range(count):
        y = top + lane * (high + gap)
        draw.rectangle((left, y, right - 1, y + high - 1), LANE)
    bar = TimeBar(np.asarray(base), left, right, top, bottom, max(duration, 1e-6), size)
    hues = dict(zip(legend, CLASSES))
    names = font_of(max(min(size, high - 2), 7))
    for one, lane in zip(people, lanes):
        y = top + lane * (high + gap)
        start, end = bar.place(one.start), bar.place(one.end)
        under = max(high // 4, 2)
        room = min(max((high - under) // 3, 1), most)  # thinner stripes are noise
        draw.rectangle((start, y, max(end - 1, start), y + high - 1), tuple(part // 4 for part in one.colour))
        for since, until, classes in one.does:
            a, b = bar.place(since), bar.place(until)
            for place, name in enumerate(classes[:room]):
                shares = [round(y + (high - under) * part / len(classes[:room])) for part in (place, place + 1)]
                if shares[1] > shares[0]:
                    draw.rectangle((a, shares[0], max(b - 1, a), shares[1] - 1), hues.get(name, OTHER))
        draw.rectangle((start, y + high - under, max(end - 1, start), y + high - 1), one.colour)
        who = printable(one.name, lines=False)
        chip = round(names.getlength(who)) + 6
        if who and high >= 9 and chip <= end - start:
            draw.rectangle((start, y, start + chip - 1, y + high - 1), one.colour)
            ink = EDGE if bright(one.colour) else INK
            draw.text((start + chip / 2, y + high / 2), who, ink, names, anchor="mm")
    ticked(draw, bar)
    explained(draw, bar, legend)
    return TimeBar(np.asarray(base), left, right, top, bottom, bar.duration, size)


def lanes_of(people: Sequence[Presence]) -> list[int]:
    """The lane of each presence: people have their own while they are few; else one is used again when it is free."""
    known: dict[object, int] = {}
    for number, one in enumerate(people):
        known.setdefault(one.name or number, len(known))
    if len(known) <= OWN:
        return [known[one.name or number] for number, one in enumerate(people)]
    free: list[float] = []  # when each lane is
    lanes = [0] * len(people)
    for number in sorted(range(len(people)), key=lambda number: people[number].start):
        lane = next((lane for lane, end in enumerate(free) if end <= people[number].start + 1e-6), len(free))
        free[lane : lane + 1] = [people[number].end]
        lanes[number] = lane
    return lanes


def ticked(draw: ImageDraw.ImageDraw, bar: TimeBar) -> None:
    """Marks at round times below the lanes, as many as have room."""
    font = font_of(max(round(0.8 * bar.letters), 9))
    widest = font.getlength(clock(bar.duration)) * 2.2
    room = max((bar.right - bar.left) / widest, 1)
    step = next((step for step in STEPS if bar.duration / step <= room), bar.duration)
    for number in range(int(bar.duration / step + 1e-9) + 1):
        x, text = bar.place(number * step), clock(number * step, step)
        draw.line((x, bar.bottom, x, bar.bottom + 3), AXIS)
        half = font.getlength(text) / 2
        draw.text((min(max(x, bar.left + half), bar.right - half), bar.bottom + 5), text, FAINT, font, anchor="mt")


def explained(draw: ImageDraw.ImageDraw, bar: TimeBar, legend: Sequence[str]) -> None:
    """Which colour means which class, beside the clock, from the right; as many as have room."""
    font, size = font_of(bar.letters), bar.letters
    begin = bar.left + font.getlength(f"{clock(bar.duration, 0.1)} / {clock(bar.duration)}") + size
    room = bar.right - begin
    shown: list[tuple[str, Colour, float]] = []
    for name, colour in zip(legend, CLASSES):
        text = shortened(printable(name, lines=False), font, max(8 * size, room / 4))
        wide = font.getlength(text) + 1.9 * size
        if sum(each for *_, each in shown) + wide > room:
            break
        shown.append((text, colour, wide))
    x = bar.right - sum(wide for *_, wide in shown) + 0.4 * size
    for text, colour, wide in shown:
        draw.rounded_rectangle((x, 0.65 * size, x + 0.7 * size, 1.35 * size), max(size // 8, 1), colour)
        draw.text((x + size, size), text, INK, font, anchor="lm")
        x += wide


def clock(seconds: float, precise: float = 0.1) -> str:
    """A time as minutes and seconds; tenths where steps are that short.

    >>> clock(3.25), clock(75, 5), clock(3723, 60)
    ('0:03.2', '1:15', '1:02:03')
    """
    tenths = int(seconds * 10 + 1e-6)
    whole, part = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{text}.{part}" if precise < 1 and not hours else text
