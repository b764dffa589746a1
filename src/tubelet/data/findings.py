"""What a check found, as numbers and as words: a row for every video, what is wrong, what is alike, what leaks."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

Level = Literal["open", "demux", "decode"]
Kind = Literal[
    "unreadable",  # it does not open, or nothing of it decodes
    "cut off",  # it ends before it says that it does
    "damaged",  # some packets do not decode
    "gone",  # it is not there, or not any more
    "not a file",  # a pipe, a socket, a device
    "hangs",  # nothing came of it in the time there was
    "crashes",  # it ended the process that read it
    "leak",  # it is in what it is checked against, or one like it is, or another of its group
    "duplicate",  # the same bytes as another
    "near duplicate",  # shows the same as another
]
DEAR = 3.0  # times the pixels that are decoded for a clip of a prepared file
FEW = 5  # videos of a class: fewer are hard to learn from, and to test with


@dataclass(frozen=True)
class Row:
    """What is known of one video. Zeros where it could not be read so far."""

    path: str
    label: str | None = None
    problem: str = ""  # why it cannot be used; empty: fit to train on, taken by itself
    codec: str = ""
    width: int = 0  # pixels, as shown
    height: int = 0
    fps: float = 0.0
    frames: int = 0
    duration: float = 0.0  # seconds
    variable: bool = False  # frames are not evenly spaced
    damaged: int = 0  # packets that do not decode, or frames that the decoder made up
    short: bool = False  # fewer frames than a clip takes; a picture never is
    vectors: bool = False  # most frames have motion vectors; by the codec alone if opened only
    bytes: int = 0
    kind: Kind | Literal[""] = ""  # of the problem
    rotation: int = 0  # degrees, anticlockwise, that a player turns it by
    key_median: float = 0.0  # frames from one key frame to the next
    key_max: int = 0
    decoded: float = 0.0  # frames that are decoded for a clip, on average; 0 if opened only, or without a sampler
    times: float = 0.0  # pixels decoded for a clip, of those that would be if it were prepared
    milliseconds: float = 0.0  # of one core that a clip takes, at the speed at which all of it was decoded
    still: bool = False  # too little changes to look for others that show the same; only where that was asked for
    start: float | None = None  # seconds: only this part of the video is meant
    end: float | None = None

    @property
    def dear(self) -> bool:
        """Whether reading it costs much more than it has to."""
        return self.times >= DEAR


@dataclass(frozen=True)
class Pair:
    """Two videos that show the same."""

    path: str
    other: str
    row: int  # of the first, in the report; of the second, there or in what is checked against
    other_row: int
    likeness: float = 1.0  # correlation of how they change; 1 of exact copies
    later: float = 0.0  # seconds after which what the second begins with is seen in the first
    mirrored: bool = False

    def how(self) -> str:
        """In words."""
        parts = [f"likeness {self.likeness:.2f}"] + ["mirrored"] * self.mirrored
        if abs(self.later) >= 0.05:
            one, other = ("second", "first") if self.later > 0 else ("first", "second")
            parts.append(f"the {one} begins {abs(self.later):.1f} s into the {other}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Leak:
    """A video that must not be trained on, because what it is checked against has it too."""

    path: str
    other: str
    row: int
    why: str


@dataclass(frozen=True)
class Report:
    """What a check found."""

    level: Level
    rows: tuple[Row, ...]
    duplicates: tuple[tuple[str, ...], ...]  # groups of files with the same bytes
    clip: str = ""  # the sampler that `short` and costs are about
    instead: str = ""  # what is done about files without motion vectors, where a run takes motion from them
    near: tuple[Pair, ...] | None = None  # none: not looked for
    leaks: tuple[Leak, ...] | None = None  # none: checked against nothing

    @property
    def problems(self) -> tuple[Row, ...]:
        """The files that are not fit to train on, each by itself."""
        return tuple(row for row in self.rows if row.problem)

    @cached_property
    def found(self) -> dict[int, list[tuple[Kind, str]]]:
        """What is wrong with a row, by its number: kinds, the worst first, and words.

        Of videos that are alike the first stays without blame, and so does each that is like none of those that stay.
        """
        found: dict[int, list[tuple[Kind, str]]] = defaultdict(list)
        for number, row in enumerate(self.rows):
            if row.problem:
                found[number].append((row.kind or "unreadable", row.problem.removeprefix(row.path).strip(" :")))
        for leak in self.leaks or ():
            found[leak.row].append(("leak", leak.why))
        first = {path: group[0] for group in self.duplicates for path in group[1:]}
        for number, row in enumerate(self.rows):
            if row.path in first:
                found[number].append(("duplicate", f"has the same bytes as {first[row.path]}" + self._unlike(number)))
        for pair in sorted(self.near or (), key=lambda pair: (pair.other_row, pair.row)):
            if pair.row not in found and pair.other_row not in found:
                text = f"shows the same as {pair.path} ({pair.how()})"
                found[pair.other_row].append(("near duplicate", text + self._unlike(pair.other_row, pair.row)))
        return dict(sorted(found.items()))

    def _unlike(self, number: int, first: int | None = None) -> str:
        """A warning where two that are alike have other labels."""
        if first is None:
            group = next(group for group in self.duplicates if self.rows[number].path in group)
            first = next(place for place, row in enumerate(self.rows) if row.path == group[0])
        one, other = self.rows[first].label, self.rows[number].label
        return "" if one == other else f", but is labelled {other!r} and not {one!r}"

    def kinds(self) -> dict[str, int]:
        """How many videos have each kind of problem, each counted once, by its worst."""
        return counted(told[0][0] for told in self.found.values())

    def classes(self) -> dict[str, int]:
        """Videos of each class, the largest first."""
        return counted(row.label for row in self.rows if row.label is not None)

    def totals(self) -> dict[str, object]:
        """Counts over all videos; codecs to vectors over the readable ones."""
        good, classes = [row for row in self.rows if row.codec], self.classes()
        return {
            "videos": len(self.rows),
            "problems": len(self.found),
            "kinds": self.kinds(),
            "hours": round(sum(row.duration for row in good) / 3600, 4),
            "frames": sum(row.frames for row in good),
            "codecs": counted(row.codec for row in good),
            "sizes": counted(f"{row.width}x{row.height}" for row in good),
            "fps": counted(f"{row.fps:.4g}" for row in good),
            "rotations": counted(str(row.rotation) for row in good),
            "variable": sum(row.variable for row in good),
            "short": sum(row.short for row in good),
            "vectors": sum(row.vectors for row in good),
            "dear": sum(row.dear for row in good),
            "duplicates": sum(len(group) - 1 for group in self.duplicates),
            "near_duplicates": None if self.near is None else len(self.near),
            "still": sum(row.still for row in good),
            "leaks": None if self.leaks is None else len({leak.row for leak in self.leaks}),
            "labels": classes,
            "imbalance": round(max(classes.values()) / min(classes.values()), 4) if classes else None,
            "small_classes": {name: count for name, count in classes.items() if count < FEW},
            "unlabelled": sum(row.label is None for row in self.rows),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, for JSON."""
        found = [
            {"path": self.rows[row].path, "row": row, "kind": kind, "text": text}
            for row, told in self.found.items()
            for kind, text in told
        ]
        return asdict(self) | {"totals": self.totals(), "found": found}

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say of all videos together, in pairs of a name and words."""
        total, good = self.totals(), [row for row in self.rows if row.codec]
        facts: list[tuple[str, str]] = []
        if good:
            lengths, turned = sorted(row.frames for row in good), [row for row in good if row.rotation]
            facts += [
                ("codecs", listing(total["codecs"])),
                ("sizes", listing(total["sizes"])),
                ("frame rates", listing(total["fps"]) + f"; {total['variable']} variable" * bool(total["variable"])),
                ("frames", f"{lengths[0]} to {lengths[-1]}, median {median(lengths):g}"),
            ]
            if turned:
                angles = listing(counted(f"{row.rotation}" for row in turned))
                facts.append(("rotation", f"{len(turned)} are shown turned, by degrees: {angles}"))
            if gaps := [row for row in good if row.key_max]:
                far = max(gaps, key=lambda row: row.key_max)
                middle = median(row.key_median for row in gaps)
                facts.append(("key frames", f"every {middle:g} frames (median), at most {far.key_max} ({far.path})"))
        if any(row.decoded for row in good):
            facts.append(("cost", self._cost([row for row in good if row.decoded])))
        if classes := self.classes():
            facts.append(("classes", balance(classes, len(self.rows))))
        if total["short"]:
            names = [row.path for row in good if row.short]
            facts.append(("too short", f"{len(names)} for {self.clip}, so frames would be repeated: {some(names)}"))
        if self.instead and good:
            bare = [row.path for row in good if not row.vectors]
            text = f"{len(bare)} of {len(good)} files have none, or too few; {self.instead}: {some(bare)}"
            facts.append(("vectors", text if bare else "in all files"))
        if self.near is not None and total["still"]:
            names = [row.path for row in good if row.still]
            facts.append(("still", f"{len(names)} change too little to look for near duplicates: {some(names)}"))
        return facts

    def _cost(self, rows: Sequence[Row]) -> str:
        """What clips cost, and which files are dear."""
        text = f"{sum(row.decoded for row in rows) / len(rows):.3g} frames decoded for a clip of {self.clip}"
        if timed := [row.milliseconds for row in rows if row.milliseconds]:
            text += f", {sum(timed) / len(timed):.3g} ms of one core"
        if dear := sorted((row for row in rows if row.dear), key=lambda row: -row.times):
            gain = median(row.times for row in dear)
            text += f"; {len(dear)} dear: tubelet prepare makes them {gain:.2g} times cheaper in pixels"
            text += f" (median): {some([row.path for row in dear])}"
        return text

    def lines(self) -> list[str]:
        """The summary for people and grep, problems last; a line each."""
        lines = [self.headline()] + [f"{name:<11} {text}" for name, text in self.facts()]
        lines += [f"duplicates  {' = '.join(group)}" for group in self.duplicates]
        lines += [f"near        {pair.path} ~ {pair.other} ({pair.how()})" for pair in self.near or ()]
        lines += [f"leak        {leak.path}: {leak.why}" for leak in self.leaks or ()]
        lines.append(f"problems    {self.verdict()}")
        return lines + [f"  {row.path}: {row.problem.removeprefix(row.path).strip(' :')}" for row in self.problems]

    def verdict(self) -> str:
        """How many videos have problems, by kind."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds().items())
        return f"{len(self.found)} ({kinds})" if kinds else "none"

    def headline(self) -> str:
        """How much there is, and how closely it was looked at."""
        how = {"open": "headers read", "demux": "all packets read", "decode": "all frames decoded"}[self.level]
        seconds = sum(row.duration for row in self.rows if row.codec)
        return f"{len(self.rows)} video{'s' * (len(self.rows) != 1)}, {length(seconds)} ({how})"


# ---------------------------------------------------------------------------- words


def length(seconds: float) -> str:
    """A time span, in the unit that suits it."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value is there, the most frequent first."""
    return dict(Counter(values).most_common())


def listing(counts: object) -> str:
    """The five most frequent values, with their counts."""
    assert isinstance(counts, dict)
    shown = [f"{value} ({count})" for value, count in list(counts.items())[:5]]
    return ", ".join(shown) + (f" and {len(counts) - 5} more" if len(counts) > 5 else "")


def balance(labels: dict[str, int], videos: int) -> str:
    """How evenly videos are spread over classes."""
    few, many = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
    bare = videos - sum(labels.values())
    spread = f"{labels[few]} ({few}) to {labels[many]} ({many}) videos each, {labels[many] / labels[few]:.3g} times"
    spread = f"{labels[few]} videos each" if labels[few] == labels[many] else spread
    small = [name for name, count in labels.items() if count < FEW]
    text = f"{len(labels)}, {spread}"
    text += f"; fewer than {FEW} in {len(small)}: {some(small)}" if small else ""
    return text + (f"; {bare} videos without one" if bare else "")


def some(names: Sequence[str]) -> str:
    """The first three."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
