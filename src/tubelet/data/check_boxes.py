"""Are these boxes fit to train on: what there is of classes, people and sizes, and what is wrong with them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from tubelet.data.findings import FEW, Row, counted, some
from tubelet.data.items import Item
from tubelet.data.keyframes import Box, Corners, KeyFrame
from tubelet.data.overlaps import iou, touching
from tubelet.data.sampling import Around
from tubelet.data.seconds import file_of

Kind = Literal[
    "beyond",  # the video ends before the moment
    "box twice",  # the same place has the same label twice
    "person twice",  # one person has two boxes at one moment
]
SHORT_SIDE, PATCH = 256, 16  # pixels: of what a network is shown, and of one of its tokens
BORDER = 1e-3  # shares of the picture: nearer to its edge, a box may have been cut off there
SAME = 0.95  # intersection over union of two boxes that are one
SOON = 1.0  # seconds in which nobody leaves the place of their box altogether


@dataclass(frozen=True)
class Finding:
    """What is wrong at a moment."""

    path: str
    seconds: float
    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.path} at {self.seconds:g} s: {self.text}"


@dataclass(frozen=True)
class BoxReport:
    """What there is of boxes, and what is wrong."""

    videos: int
    frames: int  # key frames
    boxes: int
    found: tuple[Finding, ...]
    classes: dict[str, int]  # boxes of each, the most frequent first; those that no box has, too
    unlabelled: int  # boxes without a class
    people: int | None  # none: nobody says who they are
    interval: float  # seconds from a key frame to the next, in the median; 0 where there is one in each video
    crowd: int  # boxes of the fullest key frame
    empty: int  # key frames without a box
    short_sides: tuple[float, float]  # of boxes, pixels where the picture's short side has 256: smallest and median
    tiny: tuple[str, ...]  # where boxes are narrower or lower than a token there
    cut: int  # boxes that reach the picture's edge
    ends: tuple[str, ...]  # key frames whose clip reaches over an end of the video, so that frames are repeated
    jumps: tuple[str, ...]  # people whose boxes do not touch from one key frame to the next, within a second
    clip: str
    missing: tuple[str, ...]  # videos that boxes are of, and that are not there
    notes: tuple[str, ...]  # what reading the boxes had to do

    def sound(self, items: Sequence[Item], rows: Mapping[str, Row]) -> list[Item]:
        """The key frames that can be shown: their video can be read, and is long enough."""
        late = {(finding.path, finding.seconds) for finding in self.found if finding.kind == "beyond"}
        unread = {path for path, row in rows.items() if not row.codec}
        return [
            item
            for item in items
            if item.key is not None
            and (str(item.path), item.key.seconds) not in late
            and str(own_file(item.path, item.key.seconds)) not in unread
        ]

    def kinds(self) -> dict[str, int]:
        """How often each kind of problem is there."""
        return counted(finding.kind for finding in self.found)

    def verdict(self) -> str:
        """How many problems there are, by kind."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds().items())
        return f"{len(self.found)} ({kinds})" if kinds else "none"

    def headline(self) -> str:
        """How much there is."""
        return f"{plural(self.boxes, 'box')} at {plural(self.frames, 'moment')} of {plural(self.videos, 'video')}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, for JSON."""
        return asdict(self) | {"kinds": self.kinds()}

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say, in pairs of a name and words."""
        every = f", every {self.interval:.3g} s (median)" if self.interval else ""
        text = f"{self.frames:,}{every}; {self.boxes / max(self.frames, 1):.3g} boxes in each, at most {self.crowd}"
        facts = [("moments", text)]
        if self.empty:
            share = 100 * self.empty / self.frames
            facts.append(("empty", f"{plural(self.empty, 'moment')} ({share:.3g} %) without a box"))
        facts.append(("people", f"{self.people:,}" if self.people else "nobody says who is who"))
        if self.classes:
            facts.append(("actions", self._balance()))
        if self.unlabelled:
            facts.append(("unlabelled", f"{plural(self.unlabelled, 'box')} without a class"))
        if self.boxes and self.short_sides[1]:
            smallest, middle = self.short_sides
            text = f"short sides from {smallest:.3g} pixels, median {middle:.3g}, in pictures of {SHORT_SIDE}"
            few = f"; {len(self.tiny)} below the {PATCH} of a token: {some(self.tiny)}" if self.tiny else ""
            facts.append(("box sizes", text + few))
        if self.cut:
            share = 100 * self.cut / self.boxes
            facts.append(("at the edge", f"{plural(self.cut, 'box')} ({share:.3g} %) may be cut off by the picture"))
        if self.ends:
            text = f"{plural(len(self.ends), 'clip')} of {self.clip} with repeated frames: {some(self.ends)}"
            facts.append(("video ends", text))
        if self.jumps:
            text = f"{len(self.jumps)} times a person's box is elsewhere within {SOON:g} s: {some(self.jumps)}"
            facts.append(("jumps", text))
        if self.missing:
            facts.append(("missing", f"{plural(len(self.missing), 'video')} with boxes: {some(self.missing)}"))
        return facts + [("note", note) for note in self.notes]

    def _balance(self) -> str:
        """How evenly boxes are spread over classes."""
        seen = {name: count for name, count in self.classes.items() if count}
        never = [name for name, count in self.classes.items() if not count]
        text = f"{len(self.classes)}"
        if seen:
            many, few = max(seen, key=seen.__getitem__), min(seen, key=seen.__getitem__)
            times = f", {seen[many] / seen[few]:.3g} times" if seen[many] > seen[few] else ""
            text += f", {seen[few]:,} ({few}) to {seen[many]:,} ({many}) boxes each{times}"
        small = [name for name, count in seen.items() if count < FEW]
        text += f"; fewer than {FEW} in {len(small)}: {some(small)}" if small else ""
        return text + (f"; none in {len(never)}: {some(never)}" if never else "")

    def lines(self) -> list[str]:
        """The summary for people and grep, problems last; a line each."""
        lines = [f"boxes       {self.headline()}"] + [f"{name:<11} {text}" for name, text in self.facts()]
        lines += [f"class       {name}: {count}" for name, count in self.classes.items()]
        return [*lines, f"box trouble {self.verdict()}", *(f"  {finding}" for finding in self.found)]


def check_boxes(
    items: Sequence[Item],
    rows: Mapping[str, Row],
    sampler: Around,
    *,
    names: Sequence[str] = (),
    missing: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> BoxReport:
    """What there is of the boxes of key frames, whose videos (or seconds of movies) `rows` tell of, by path.

    `names` are the classes that there are to be; a video that could not be read is left out of what needs its length or
    size. The sampler says how far a clip reaches.
    """
    keyed = [(item.path, item.key) for item in items if item.key is not None]
    boxes = [box for _, key in keyed for box in key.boxes]
    classes = Counter(dict.fromkeys(names, 0))
    classes.update(name for box in boxes for name in dict.fromkeys(box.labels))
    people = {(path, box.person) for path, key in keyed for box in key.boxes if box.person is not None}
    found: list[Finding] = []
    ends: list[str] = []
    tiny: list[str] = []
    short_sides: list[float] = []
    for path, key in keyed:
        shown, row = place_of(path, key.seconds), rows.get(str(own_file(path, key.seconds)))
        if beyond := ends_before(path, key.seconds, row):
            found.append(Finding(str(path), key.seconds, "beyond", beyond))
        elif repeats(path, key.seconds, row, sampler):
            ends.append(shown)
        found += [Finding(str(path), key.seconds, kind, text) for kind, text in twice(key)]
        if row is not None and row.width and row.height:
            scale = SHORT_SIDE / min(row.width, row.height)
            for x1, y1, x2, y2 in (box.corners for box in key.boxes):
                short_sides.append(float(scale * min((x2 - x1) * row.width, (y2 - y1) * row.height)))
                tiny += [shown] * (short_sides[-1] < PATCH - 1e-6)
    return BoxReport(
        videos=len({path for path, _ in keyed}),
        frames=len(keyed),
        boxes=len(boxes),
        found=tuple(found),
        classes=dict(classes.most_common()),
        unlabelled=sum(not box.labels for box in boxes),
        people=len(people) or None,
        interval=interval_of(keyed),
        crowd=max((len(key.boxes) for _, key in keyed), default=0),
        empty=sum(not key.boxes for _, key in keyed),
        short_sides=(min(short_sides), median(short_sides)) if short_sides else (0.0, 0.0),
        tiny=tuple(tiny),
        cut=sum(min(box.corners) <= BORDER or max(box.corners) >= 1 - BORDER for box in boxes),
        ends=tuple(ends),
        jumps=tuple(jumps(keyed)),
        clip=str(sampler),
        missing=tuple(missing),
        notes=tuple(notes),
    )


def videos_of(items: Sequence[Item]) -> list[Item]:
    """Each file that key frames are of, once; of a movie that is a folder of seconds, those of the key frames."""
    files = dict.fromkeys(own_file(item.path, item.key.seconds) for item in items if item.key is not None)
    return [Item(path) for path in files]


# ---------------------------------------------------------------------------- one key frame


def place_of(path: Path, seconds: float) -> str:
    """Where a moment is, in words."""
    return f"{path.name} at {seconds:g} s"


def own_file(path: Path, seconds: float) -> Path:
    """The file that shows a moment of a video or movie."""
    return (file_of(path, int(np.floor(seconds + 1e-6))) or path) if path.is_dir() else path


def ends_before(path: Path, seconds: float, row: Row | None) -> str:
    """Why a video does not have a moment; empty: it does, or nobody knows."""
    if row is not None and row.path == str(path):
        late = bool(row.duration) and seconds > row.duration + 1e-6
        return f"the video ends at {row.duration:.6g} s" if late else ""
    return f"there is no file of second {int(seconds)}" if path.is_dir() and own_file(path, seconds) == path else ""


def repeats(path: Path, seconds: float, row: Row | None, sampler: Around) -> bool:
    """Whether the clip around a moment reaches over an end of the video."""
    if row is None or not row.fps:
        return False
    first, last = (seconds + offset / row.fps for offset in sampler.offsets()[[0, -1]])
    if row.path == str(path):
        return bool(first < -1e-6 or last > row.duration - 0.5 / row.fps)
    return any(file_of(path, int(np.floor(time + 1e-6))) is None for time in (first, last))


def twice(key: KeyFrame) -> Iterator[tuple[Kind, str]]:
    """What is there two times."""
    corners = np.array([box.corners for box in key.boxes]).reshape(-1, 4)
    for one, other in np.argwhere(np.triu(iou(corners, corners) > SAME, 1)).tolist():
        first, second = key.boxes[one], key.boxes[other]
        if common := [name for name in first.labels if name in second.labels]:
            yield "box twice", f"{where(first)} is {common[0]!r} twice; one of the boxes is too many"
        elif not first.labels and not second.labels:
            yield "box twice", f"{where(first)} has two boxes without a label; one is too many"
    for person, count in Counter(box.person for box in key.boxes if box.person is not None).items():
        if count > 1:
            yield "person twice", f"person {person!r} has {count} boxes at once; one box may have several labels"


def where(box: Box) -> str:
    """A box in words."""
    return "the box at " + " ".join(f"{corner:.3g}" for corner in box.corners)


# ---------------------------------------------------------------------------- one person


def jumps(keyed: Sequence[tuple[Path, KeyFrame]]) -> Iterator[str]:
    """When people's boxes do not touch those that they have within a second."""
    ways: dict[tuple[Path, str], list[tuple[float, Corners]]] = defaultdict(list)
    for path, key in keyed:
        for box in key.boxes:
            if box.person is not None:
                ways[path, box.person].append((key.seconds, box.corners))
    for (path, person), way in ways.items():
        way.sort(key=lambda pair: pair[0])
        for (before, one), (after, other) in pairwise(way):
            if 0 < after - before <= SOON + 1e-6 and not touching(one, other):
                yield f"{person} in {place_of(path, after)}"


def interval_of(keyed: Sequence[tuple[Path, KeyFrame]]) -> float:
    """Seconds from a key frame to the next of its video, in the median."""
    times: dict[Path, set[float]] = defaultdict(set)
    for path, key in keyed:
        times[path].add(key.seconds)
    gaps = [gap for each in times.values() for gap in np.diff(sorted(each)).tolist()]
    return median(gaps) if gaps else 0.0


def plural(count: int, name: str) -> str:
    """A number of things.

    >>> plural(1, "box"), plural(2000, "box")
    ('1 box', '2,000 boxes')
    """
    return f"{count:,} {name}{'' if count == 1 else 'es' if name.endswith('x') else 's'}"
