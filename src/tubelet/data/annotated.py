"""Key frames of many videos: what annotations of every kind become, and the table that they are written to."""

import csv
import difflib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tubelet.data import remote, shards
from tubelet.data.boxes import Boxes, Row
from tubelet.data.container import length_of
from tubelet.data.index import SUFFIXES, Video, VideoError
from tubelet.data.items import Item, scan
from tubelet.data.keyframes import Box, Corners, KeyFrame
from tubelet.data.labels import listed, natural
from tubelet.data.layouts import Found, existing
from tubelet.data.notebook import replaced
from tubelet.data.seconds import file_of, is_cut
from tubelet.data.video import probe

OPENED = 1000  # videos that are opened to see whether they are as long as their boxes say; of more, reading tells
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of files
COLUMNS = ("path", "seconds", "x1", "y1", "x2", "y2", "label", "person")


@dataclass(frozen=True)
class Image:
    """What a list of images calls one of them, and how large it is."""

    video: str
    stamp: str
    width: float = 0
    height: float = 0


@dataclass(frozen=True)
class KeyFrames:
    """Moments of videos with their boxes."""

    items: list[Item]
    """One for each moment, with `key`; sorted by video and time."""
    names: tuple[str, ...]
    """The classes in order."""
    evaluated: tuple[str, ...]
    """Those that count in a test."""
    excluded: frozenset[tuple[str, str]] = frozenset()
    """(video, stamp) of moments that do not count in a test."""
    ids: Mapping[str, int] = field(default_factory=dict)
    """The number that the data set has for each class; none: it has none."""
    missing: tuple[str, ...] = ()
    """Videos, or moments of them, that are named and not there."""
    notes: tuple[str, ...] = ()
    """What was found out, cut or left out, for people."""
    source: str = ""
    """What names all this."""
    images: Mapping[int | str, Image] = field(default_factory=dict)
    """What numbers of images mean, where the data set has some."""

    def report(self) -> str:
        """How much is missing, for people; empty where nothing is."""
        videos = [Item(path) for path in dict.fromkeys(item.path for item in self.items)]
        return Found(videos, self.missing, self.source).report()

    def __str__(self) -> str:
        """How much there is, for people."""
        keys = [item.key for item in self.items if item.key is not None]
        labels = Counter(label for key in keys for box in key.boxes for label in box.labels)
        empty = sum(not key.boxes for key in keys)
        most = [f"{name} {count}" for name, count in labels.most_common()]
        return (
            f"{len({item.path for item in self.items})} videos, {len(keys)} moments"
            + (f" ({empty} of them without a box)" if empty else "")
            + f", {sum(len(key.boxes) for key in keys)} boxes, {labels.total()} labels of {len(labels)} classes"
            + (f": {listed(most)}" if most else "")
        )


class Videos:
    """Where the videos are that annotations name."""

    def __init__(self, root: Path, deep: bool) -> None:
        """Names are paths relative to `root`; `deep`: or names of what is anywhere below it, in any container."""
        self.root, self.deep = root, deep

    @cached_property
    def below(self) -> dict[str, list[Path]]:
        """What is below the folder, by name without the ending of videos."""
        found: dict[str, list[Path]] = {}
        for path in (item.path for item in scan(existing(self.root))[0]):
            found.setdefault(path.stem if path.suffix.lower() in SUFFIXES else path.name, []).append(path)
        return found

    def joined(self, names: Iterable[str]) -> tuple[dict[Path, list[str]], dict[str, str]]:
        """The names of each video that is there, however they are spelled, and why the others are missing.

        Two folders of names that are not there do not lead to one video: of one of them it would be the wrong one.
        """
        found: dict[Path, list[str]] = {}
        missing: dict[str, str] = {}
        unsure: dict[Path, dict[str, list[str]]] = {}
        known: dict[str, Path] = {}  # the first way to each video, by where it leads
        for name in sorted(names):
            there = remote.joined(self.root, name)
            if is_there(there):
                fitting, folder = [there], None
            else:
                fitting, folder = self.fitting(name) if self.deep else ([], None)
            if len(fitting) == 1:
                place = fitting[0] if remote.url_of(fitting[0]) is not None else Path(os.path.realpath(fitting[0]))
                path = known.setdefault(str(place), fitting[0])
                found.setdefault(path, []).append(name)
                if folder is not None:
                    unsure.setdefault(path, {}).setdefault(folder, []).append(name)
            elif fitting:
                missing[name] = f"{name} may be any of {listed([str(path) for path in fitting], 3)}"
            else:
                near = self.below.get(Path(name).stem, []) if self.deep else []
                others = listed([str(path) for path in near], 3)
                missing[name] = f"{name} is in another folder than {others}" if near else ""
        for path, folders in unsure.items():
            claims, guessed = found[path], [name for some in folders.values() for name in some]
            if len(folders) > 1 or len(guessed) < len(claims):
                found[path] = [name for name in claims if name not in guessed]
                missing |= dict.fromkeys(guessed, f"{path} may be any of {listed(claims, 3)}")
        return {path: found[path] for path in found if found[path]}, missing

    def fitting(self, name: str) -> tuple[list[Path], str | None]:
        """The videos below the folder that a name may mean, whatever their ending; and the folder of the name, if none
        confirms it.

        Folders are compared from the last one up, as far as both have some; where servers keep what was uploaded, they
        say nothing.
        """
        plain = PurePosixPath(name.replace("\\", "/"))
        ways = [(plain, plain.parts[-2::-1])]
        if UPLOADED.match(plain.name):
            ways.append((PurePosixPath(UPLOADED.sub("", plain.name)), ()))
        for one, folders in ways:
            both = (path for key in dict.fromkeys((one.stem, one.name)) for path in self.below.get(key, ()))
            agreed: dict[Path, int] = {}
            for path in both:
                above = path.relative_to(self.root).parts[-2::-1]
                same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(folders, above)))
                if same or not folders or not above:
                    agreed[path] = same
            if agreed:
                most = max(agreed.values())
                best = [path for path in agreed if agreed[path] == most]
                own = [path for path in best if path.name == one.name]
                return (own if len(own) == 1 else best), ("/".join(folders) if folders and not most else None)
        return [], None

    def only(self) -> str | None:
        """The one video that there is; none: there are several, or none."""
        paths = [path for some in self.below.values() for path in some] if self.deep else []
        return str(paths[0].relative_to(self.root)) if len(paths) == 1 else None


def is_there(path: Path) -> bool:
    """Whether a path is a video, as far as its name tells: one of another machine is asked when it is read."""
    return remote.url_of(path) is not None or path.is_dir() or shards.exists(path)


class Drawn(NamedTuple):
    """A box whose labels are collected."""

    corners: Corners
    person: str | None
    labels: dict[str, None]
    score: float


def gathered(boxes: Boxes, videos: Videos, names: Sequence[str] | None = None) -> KeyFrames:
    """The moments of a table; rows of the same corners and person at a moment are several labels of one box.

    Boxes that reach over the edge are cut. Videos are opened as far as it takes: their index where corners are in
    pixels or times in frames, else their header, to see whether they are long enough.

    Raises:
        FileNotFoundError: none of the videos is there.
        ValueError: a moment that a video does not have, a box outside of the picture, a label that is not in `names`.
    """
    items: list[Item] = []
    missing: list[str] = []
    notes = [*boxes.notes]
    used: set[str] = set()
    known = None if names is None else frozenset(names)
    cut = 0
    there, gone = videos.joined(boxes.rows)
    missing += gone
    notes += [f"left out: {why}" for why in dict.fromkeys(gone.values()) if why]
    for path, spelled in sorted(there.items(), key=lambda pair: pair[1]):
        name = min(spelled, key=len)
        rows = boxes.rows[name] if len(spelled) == 1 else [row for one in spelled for row in boxes.rows[one]]
        seconds = is_cut(path)
        try:
            video, end = opened(boxes, path, rows, seconds)
        except VideoError as error:
            missing.append(name)
            notes.append(f"left out: {error}")
            continue
        moments: dict[float, tuple[str, dict[tuple[str | None, Corners], Drawn]]] = {}
        size = None if boxes.shares else video
        width, height = (1, 1) if size is None else (size.width, size.height)
        for row in rows:
            at = round(boxes.seconds(row, end, name), 6)
            found = moments.get(at)
            if found is None:
                found = moments[at] = (row.stamp, {})
            if row.corners is None:
                continue
            box = found[1].get((row.person, row.corners))
            if box is None:
                inside = boxes.inside(row, size, name)
                cut += inside != row.corners
                shares = inside[0] / width, inside[1] / height, inside[2] / width, inside[3] / height
                box = found[1][row.person, row.corners] = Drawn(shares, row.person, {}, row.score)
            for label in row.labels:
                if known is not None and names is not None and label not in known:
                    raise ValueError(f"{boxes.place(row)}: {unknown(label, names)}")
                box.labels[label] = None
                used.add(label)
        for at in sorted(moments):
            stamp, drawn = moments[at]
            if seconds and file_of(path, int(at + 1e-6)) is None:
                missing.append(f"{name}, second {at:g}")
                continue
            key = tuple(Box(one.corners, tuple(one.labels), one.person, one.score) for one in drawn.values())
            items.append(Item(path, key=KeyFrame(at, key, name, stamp)))
    if not items:
        raise FileNotFoundError(
            f"none of the {len(boxes.rows)} videos that {boxes.table} names can be read below {videos.root}; looked "
            f"for {missing[0]}" + "".join(f". {note}" for note in notes[-1:]) + ". Say where they are: --videos FOLDER "
            "or ?videos=FOLDER"
        )
    if cut:
        notes.append(f"{cut} boxes of {boxes.table} reach over the edge of the picture and are cut to it")
    classes = tuple(sorted(used, key=natural)) if names is None else tuple(names)
    return KeyFrames(items, classes, classes, missing=tuple(missing), notes=tuple(notes), source=str(boxes.table))


def opened(boxes: Boxes, path: Path, rows: list[Row], seconds: bool) -> tuple[Video | None, Video | float | None]:
    """What of a video tells where boxes are, and what tells when; `seconds`: it is cut into files of one second.

    Raises:
        VideoError: it cannot be read.
        ValueError: frames of a movie that is cut.
    """
    if seconds:
        if boxes.unit == "frame" and boxes.fps is None:
            raise ValueError(f"{boxes.table}: {path} is cut into files of one second; give seconds, and not frames")
        files = (file_of(path, int(row.time - boxes.zero)) for row in rows)
        first = next((file for file in files if file is not None), None)
        return (None if boxes.shares or first is None else probe(first)), None
    if boxes.indexed:
        return (video := probe(path)), video
    if remote.url_of(path) is not None or len(boxes.rows) > OPENED:
        return None, None
    return None, probe(path) if path.is_dir() or not path.is_file() else length_of(path)


def unknown(label: str, names: Sequence[str]) -> str:
    """What to say of a label that is not in the class list."""
    near = difflib.get_close_matches(label, names, n=1)
    hint = f" (near: {near[0]!r})" if near else ""
    return f"label {label!r} is not in the class list{hint}; the {len(names)} classes: {listed(names)}"


def thinned(frames: KeyFrames, every: float) -> KeyFrames:
    """The first moment of each so many seconds of a video: neighbours look alike.

    Raises:
        ValueError: no such time.
    """
    if not 0 < every < float("inf"):
        raise ValueError(f"every {every:g}: expected seconds, more than 0")
    kept: dict[tuple[Path, int], Item] = {}
    for item in frames.items:
        assert item.key is not None
        kept.setdefault((item.path, int(item.key.seconds / every + 1e-6)), item)
    note = f"{len(kept)} of {len(frames.items)} moments are used, one every {every:g} s"
    return replace(frames, items=[*kept.values()], notes=(*frames.notes, note))


def write_boxes(frames: KeyFrames, path: Path) -> None:
    """The table of key frames, whole or not at all: a row for each label of each box; corners are shares.

    Videos below the table's folder are named relative to it. A column score follows where some box has one.

    Raises:
        OSError: it cannot be written.
    """
    keys = [(item.path, item.key) for item in frames.items if item.key is not None]
    scored = any(box.score != 1 for _, key in keys for box in key.boxes)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, *["score"] * scored])
    root, shown = path.parent.resolve(), dict[Path, str]()
    for video, key in keys:
        if video not in shown:
            there = Path(remote.absolute(video))
            inside = remote.url_of(video) is None and there.is_relative_to(root)
            shown[video] = remote.shown(there.relative_to(root) if inside else there)
        at = [shown[video], number(key.seconds)]
        if not key.boxes:
            rows.writerow([*at, *[""] * (6 + scored)])
        for box in key.boxes:
            corners = [number(corner) for corner in box.corners]
            for label in box.labels or ("",):
                score = [number(box.score)] * scored
                rows.writerow([*at, *corners, label.replace("|", "/"), box.person or "", *score])
    os.makedirs(path.parent, exist_ok=True)
    replaced(path, text.getvalue())


def number(value: float) -> str:
    """A number of a table.

    >>> number(0.5), number(1 / 3), number(902)
    ('0.5', '0.333333', '902')
    """
    return f"{value:.6f}".rstrip("0").rstrip(".")
