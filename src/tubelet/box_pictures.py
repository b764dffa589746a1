"""What is known of boxes, to be looked at: a video with its people, and a sheet of key frames."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from tubelet.data.check_boxes import own_file
from tubelet.data.index import Video, shown_at
from tubelet.data.items import Item
from tubelet.data.keyframes import KeyFrame
from tubelet.data.video import VideoError, frames_at, probe
from tubelet.data.writing import write
from tubelet.evaluate.detections import Detection
from tubelet.overlay import even, on_screen
from tubelet.plates import PEOPLE, Colour, Mark, Picture, colour_of, lines_for, marked
from tubelet.printable import printable
from tubelet.strips import FAINT, INK, PAPER, font_of, shortened
from tubelet.time_bar import CLASSES, OTHER, Presence, time_bar
from tubelet.train.checkpoint import atomically

BRIDGED = 3  # key intervals: whoever is not seen for longer is not there meanwhile
UNNAMED: Colour = (240, 240, 240)  # of those that nobody tells apart


@dataclass(frozen=True)
class Track:
    """One person's way through a video, without a break."""

    person: str
    """None: nobody says who it is."""
    seconds: Float[np.ndarray, " k"]
    """The key moments, ascending."""
    corners: Float[np.ndarray, "k 4"]
    """Shares of the picture."""
    said: tuple[tuple[tuple[str, float], ...], ...]
    """Of each key moment the classes and their probabilities, the likeliest first."""
    reach: float
    """Seconds before the first and after the last moment in which the person is still there."""

    @property
    def start(self) -> float:
        """Seconds."""
        return max(float(self.seconds[0]) - self.reach, 0.0)

    @property
    def end(self) -> float:
        """Seconds; the person is there until before it."""
        return float(self.seconds[-1]) + self.reach

    def at(self, time: float) -> Float[np.ndarray, "4"]:
        """The corners at a time: on the straight way from one key moment to the next."""
        after = int(np.searchsorted(self.seconds, time).clip(1, max(len(self.seconds) - 1, 1)))
        if len(self.seconds) == 1:
            return self.corners[0]
        low, high = self.seconds[after - 1], self.seconds[after]
        part = min(max((time - low) / (high - low), 0.0), 1.0)
        return (1 - part) * self.corners[after - 1] + part * self.corners[after]

    def nearest(self, time: float) -> int:
        """The key moment that is nearest to a time."""
        return int(np.abs(self.seconds - time).argmin())

    def stretches(self) -> Iterator[tuple[float, float, tuple[str, ...]]]:
        """From, to, and classes: each key moment reaches half way to the next; where nothing changes, together."""
        classes = [tuple(name for name, _ in said) for said in self.said]
        changes = [place for place in range(1, len(classes)) if classes[place] != classes[place - 1]]
        middles = [float(self.seconds[place - 1] + self.seconds[place]) / 2 for place in changes]
        for since, until, place in zip([self.start, *middles], [*middles, self.end], [0, *changes]):
            yield since, until, classes[place]


def annotated(
    video: Path,
    detections: Sequence[Detection],
    names: Sequence[str],
    out: Path,
    *,
    least: float = 0.5,
    top: int = 3,
    progress: Callable[[int, int], object] | None = None,
    broken: bool = False,
) -> Path:
    """`out`, the video with boxes, who is in them and what they do, above a bar of time.

    Of each person those `top` classes are named whose probability is at least `least`. Between a person's key moments
    the box goes straight from one to the next; it is there half a key interval before the first and after the last, and
    not in between where there are more than three intervals without it. Frames are decoded, drawn and written one by
    one; the rate is the video's average. `broken`: a video that cannot be read to its end is drawn up to there.

    Raises:
        ValueError: probabilities of more or fewer classes than have names.
        VideoError: the video cannot be read, or `out` cannot be written.
    """
    index = probe(video)
    tracks = tracks_of(detections, names, least, top)
    spent: dict[str, float] = {}
    for track in tracks:
        for since, until, classes in track.stretches():
            for name in classes:
                spent[name] = spent.get(name, 0.0) + max(min(until, index.duration) - since, 0.0)
    legend = sorted(spent, key=lambda name: -spent[name])[: len(CLASSES)]
    hues = dict(zip(legend, CLASSES))
    people = [
        Presence(track.person, hue_of(track), track.start, min(track.end, index.duration), tuple(track.stretches()))
        for track in tracks
        if track.start < index.duration
    ]

    def frames() -> Iterator[Picture]:
        bar, lines, before = None, 1, dict[str, int]()
        crowd = crowd_of(tracks)
        waiting, here = [*reversed(tracks)], list[Track]()
        for done, (time, frame) in enumerate(readable(on_screen(index)) if broken else on_screen(index), 1):
            frame = even(frame)
            height, width = frame.shape[:2]
            if bar is None:
                bar = time_bar(people, legend, height, width, index.duration, top)
                lines = lines_for(crowd, height, width, top)
            while waiting and waiting[-1].start <= time + 1e-6:
                here.append(waiting.pop())
            here = [track for track in here if time < track.end - 1e-6]
            marks = [mark_of(track, time, height, width, hues) for track in here]
            yield np.concatenate([marked(frame, marks, lines, before), bar.at(time)])
            if progress is not None:
                progress(done, index.frames)

    write(out, frames(), index.fps, options={"crf": "18"})
    return Path(out)


def readable(frames: Iterator[tuple[float, Picture]]) -> Iterator[tuple[float, Picture]]:
    """As many as can be read, without an error; where there is none, it is raised."""
    some = False
    try:
        for one in frames:
            yield one
            some = True
            del one  # or it would be kept while the next is read
    except VideoError:
        if not some:
            raise


def tracks_of(detections: Sequence[Detection], names: Sequence[str], least: float, top: int) -> list[Track]:
    """The ways of all people, by when they begin; whoever has no name has one of a single moment for each box.

    Raises:
        ValueError: probabilities of more or fewer classes than have names.
    """
    people: dict[object, list[Detection]] = {}
    for number, one in enumerate(detections):
        if len(one.probabilities) != len(names):
            raise ValueError(
                f"a detection of {one.video} at {one.seconds:g} s has probabilities of {len(one.probabilities)} "
                f"classes; expected {len(names)}, one for each name"
            )
        people.setdefault(number if one.box.person is None else one.box.person, []).append(one)
    interval = interval_of(detections)
    tracks = []
    for ones in people.values():
        moments = {one.seconds: one for one in sorted(ones, key=lambda one: (one.seconds, one.box.score))}
        seconds = np.array([*moments], float)
        for piece in np.split(np.arange(len(seconds)), np.flatnonzero(np.diff(seconds) > BRIDGED * interval) + 1):
            part = [moments[seconds[place]] for place in piece]
            corners = np.array([one.box.corners for one in part], float).clip(0, 1)
            said = tuple(said_of(one.probabilities, names, least, top) for one in part)
            tracks.append(Track(part[0].box.person or "", seconds[piece], corners, said, interval / 2))
    return sorted(tracks, key=lambda track: track.start)


def said_of(values: Sequence[float], names: Sequence[str], least: float, top: int) -> tuple[tuple[str, float], ...]:
    """The likeliest classes with their probabilities, of those that are likely enough."""
    order = sorted(range(len(values)), key=lambda number: -values[number])[:top]
    return tuple((names[number], float(values[number])) for number in order if values[number] >= least)


def interval_of(detections: Sequence[Detection]) -> float:
    """Seconds from one key moment to the next, in the median; 1 where there is only one."""
    gaps = np.diff(np.unique([one.seconds for one in detections]))
    return float(np.median(gaps)) if len(gaps) else 1.0


def crowd_of(tracks: Sequence[Track]) -> int:
    """How many are there at once, at most."""
    changes = sorted([(track.end, -1) for track in tracks] + [(track.start, 1) for track in tracks])
    return int(np.cumsum([change for _, change in changes]).max(initial=0))


def hue_of(track: Track) -> Colour:
    """The colour of who is on a track."""
    return colour_of(track.person) if track.person else UNNAMED


def mark_of(track: Track, time: float, height: int, width: int, hues: dict[str, Colour]) -> Mark:
    """What is drawn of a person at a time."""
    left, top, right, bottom = (track.at(time) * np.array([width, height] * 2)).tolist()
    said = track.said[track.nearest(time)]
    shown = tuple((name, score, hues.get(name, OTHER)) for name, score in said)
    return Mark((left, top, right, bottom), hue_of(track), track.person, shown)


# ---------------------------------------------------------------------------- a sheet of key frames

TILE = (400, 300)  # pixels, width and height, that a picture has at most
ABREAST = 4
NAMED = 90  # classes with a bar


def sheet(items: Sequence[Item], out: Path, *, most: int = 24) -> Path:
    """`out`, a PNG of key frames with their boxes, labels, people, files and seconds, and the boxes of each class.

    At most so many, with every class among them where that can be, else even over videos and moments. A picture that
    cannot be read is a tile that says so.

    Raises:
        SaveError: the disk refuses.
    """
    tiles = [tile(item, key) for item, key in chosen(items, most)]
    counts = Counter(name for item in items if item.key for box in item.key.boxes for name in set(box.labels))
    columns = max(min(ABREAST, len(tiles)), 2)
    size, gap = 14, 14
    font, small = font_of(size), font_of(size - 1)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(picture.shape[0] for picture, _ in row) + 3 * size for row in rows]
    width = gap + columns * (TILE[0] + gap)
    bars = counts.most_common(NAMED)
    abreast = min(columns, -(-len(bars) // 8)) or 1
    down = -(-len(bars) // abreast)
    boxes = sum(len(item.key.boxes) for item in items if item.key)
    line = round(1.6 * size)
    head = line + gap
    image = Image.new("RGB", (width, gap + sum(heights) + gap * len(rows) + head + down * line + line + gap), PAPER)
    draw, y = ImageDraw.Draw(image), gap
    for row, high in zip(rows, heights):
        for column, (picture, text) in enumerate(row):
            x = gap + column * (TILE[0] + gap)
            top = y + high - 3 * size - picture.shape[0]
            image.paste(Image.fromarray(picture), (x + (TILE[0] - picture.shape[1]) // 2, top))
            draw.text((x, y + high - 2.7 * size), shortened(text[0], font, TILE[0]), INK, font)
            draw.text((x, y + high - 1.4 * size), shortened(text[1], small, TILE[0]), FAINT, small)
        y += high + gap
    videos = len({item.path for item in items})
    said = f"{boxes:,} boxes at {len(items):,} moments of {videos:,} videos, {len(counts):,} classes"
    draw.text((gap, y), shortened(said, font, width - 2 * gap), INK, font)
    y += head
    room = (width - gap) // max(abreast, 2) - gap  # alone, bars need no more than half of it
    for number, (name, count) in enumerate(bars):
        x, low = gap + number // down * (room + gap), y + number % down * line
        length = round((room * 0.55 - 60) * count / bars[0][1])
        draw.text((x, low), shortened(printable(name, lines=False), font, 0.43 * room), FAINT, font)
        start = x + round(0.45 * room)
        draw.rectangle((start, low + 3, start + max(length, 2), low + size + 1), CLASSES[0])
        draw.text((start + max(length, 2) + 6, low), f"{count:,}", INK, font)
    if len(counts) > NAMED:
        rare = f"and {len(counts) - NAMED} rarer classes"
        draw.text((gap, y + down * line), rare, FAINT, font)
    atomically(out, partial(image.save, format="PNG"))
    return out


def chosen(items: Sequence[Item], most: int) -> list[tuple[Item, KeyFrame]]:
    """The key frames of a sheet, sorted by video and second.

    First those with the rarest classes that are not there yet; then from each video in turn, those with boxes first,
    each as far as can be in time from those of its video that are there.
    """
    keyed = [(item, item.key) for item in items if item.key is not None]
    labels = [{name for box in key.boxes for name in box.labels} for _, key in keyed]
    wanted = Counter(name for names in labels for name in names)
    there: dict[Path, list[float]] = {item.path: [] for item, _ in keyed}
    left, picked = dict.fromkeys(range(len(keyed))), list[int]()

    def news(number: int) -> tuple[float, int]:
        return sum(1 / wanted[name] for name in labels[number] & wanted.keys()), -len(there[keyed[number][0].path])

    def away(number: int) -> tuple[bool, int, float, int]:
        (item, key), middle = keyed[number], len(keyed) // 2
        seen = there[item.path]
        nearest = min((abs(key.seconds - each) for each in seen), default=0.0)
        return bool(key.boxes), -len(seen), nearest, -abs(number - middle)

    while left and len(picked) < most:
        if wanted:
            rarest = min(wanted, key=lambda name: (wanted[name], name))
            number = max((number for number in left if rarest in labels[number]), key=news)
        else:
            number = max(left, key=away)
        item, key = keyed[number]
        left.pop(number)
        picked.append(number)
        there[item.path].append(key.seconds)
        for name in labels[number]:
            wanted.pop(name, None)
    return sorted((keyed[number] for number in picked), key=lambda pair: (str(pair[0].path), pair[1].seconds))


def at_moment(path: Path, moment: float) -> tuple[Video, int]:
    """The file that shows a moment, of a video or of a movie's folder of seconds, and the frame of it on screen then.

    Raises:
        VideoError: it cannot be read, or ends before.
    """
    own = own_file(path, moment)
    video = probe(own)
    if own != path:  # it lasts a second, whatever it has of frames
        return video, min(int(moment % 1 * video.frames + 1e-3), video.frames - 1)
    if moment > video.duration + 1e-6:
        raise VideoError(f"{path} has no moment {moment:g} s: it ends at {video.duration:.6g} s")
    return video, int(shown_at(video, np.array([moment]))[0])


def tile(item: Item, key: KeyFrame) -> tuple[Picture, tuple[str, str]]:
    """A key frame as it is on a sheet, and the two lines below it."""
    people = f"{len(key.boxes)} box{'es' * (len(key.boxes) != 1)}" if key.boxes else "nobody"
    lines = (printable(item.path.name, lines=False), f"{key.seconds:g} s, {people}")
    try:
        video, number = at_moment(item.path, key.seconds)
        scale = min(TILE[0] / video.width, TILE[1] / video.height)
        size = max(round(video.height * scale), 1), max(round(video.width * scale), 1)
        frame = frames_at(video, [number], size=size).frames[0].numpy()
    except (VideoError, OSError) as error:
        blank = Image.new("RGB", TILE, (48, 51, 59))
        draw, font = ImageDraw.Draw(blank), font_of(13)
        for row, text in enumerate(wrap(printable(str(error), lines=False), 48)[:8]):
            draw.text((16, 16 + 20 * row), text, INK, font)
        return np.asarray(blank), lines
    height, width = frame.shape[:2]
    marks = []
    for place, box in enumerate(key.boxes):
        left, top, right, bottom = np.multiply(box.corners, [width, height] * 2).tolist()
        colour = colour_of(box.person) if box.person else PEOPLE[place % len(PEOPLE)]
        said = tuple((name, None, OTHER) for name in box.labels)
        marks.append(Mark((left, top, right, bottom), colour, box.person or "", said))
    most = max((len(box.labels) for box in key.boxes), default=1)
    return marked(frame, marks, lines_for(len(marks), height, width, most)), lines
