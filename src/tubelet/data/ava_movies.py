"""The movies of AVA, and which of their frames are key frames.

Movies are whole films; films that begin at second 900, as they are passed around; or folders of files of one second
each. Of AVA-Kinetics also clips of Kinetics, `<id>_<start>_<end>`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tubelet.data.container import length_of
from tubelet.data.images import is_video
from tubelet.data.index import SUFFIXES, VideoError
from tubelet.data.items import Item, suffix_of, walked
from tubelet.data.keyframes import Box, Corners, KeyFrame
from tubelet.data.labels import natural
from tubelet.data.layouts import existing
from tubelet.data.seconds import second_of
from tubelet.data.video import probe

CUT = 900.0  # the second of the film at which the part begins that AVA annotates, and films are cut
LONGEST = 960.0  # seconds of a film so cut: it is 15 minutes long, and ends where a key frame lets it
Key = tuple[Any, Any, Any, Any, str]
"""Corners and person, as they are written."""
Moments = dict[str, dict[Key, list[str]]]
"""Actions of each box by moment of a movie."""


@dataclass
class Films:
    """What there is below a folder, by the name of the movie."""

    whole: dict[str, Path] = field(default_factory=dict)
    cut: dict[str, tuple[Path, set[int]]] = field(default_factory=dict)
    """Folders of files of one second, and which seconds there are."""
    clips: dict[str, list[tuple[float, float, Path]]] = field(default_factory=dict)
    """Start, end and file of clips of Kinetics."""

    @classmethod
    def below(cls, folder: Path) -> "Films":
        """All of them."""
        films = cls()
        for root, files in walked(existing(folder)):
            named = [name for name in files if suffix_of(name) in SUFFIXES]
            seconds = {second for name in named if (second := second_of(name)) is not None}
            if seconds:
                films.cut.setdefault(root.name, (root, seconds))
            elif not named and is_video(files):
                films.whole.setdefault(root.name, root)
            for name in sorted(name for name in named if second_of(name) is None):
                stem = name.rpartition(".")[0]
                films.whole.setdefault(stem, root / name)
                if clip := re.fullmatch(r"(.+)_(\d{6})_(\d{6})", stem):
                    films.clips.setdefault(clip[1], []).append((float(clip[2]), float(clip[3]), root / name))
        return films


@dataclass
class Builder:
    """Key frames of movies, as they are joined with the files."""

    films: Films
    names: dict[int, str]
    source: str
    zero: float | None
    notes: list[str]
    items: list[Item] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    begins: dict[str, int] = field(default_factory=dict)
    beyond: int = 0
    cut: int = 0
    flat: int = 0
    labels: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def add(self, movie: str, moments: Moments) -> None:
        """The key frames of a movie."""
        times = sorted((float(stamp), stamp) for stamp in moments)
        if movie in self.films.cut:
            folder, there = self.films.cut[movie]
            self.begins["are cut into files of one second"] = self.begins.get("are cut into files of one second", 0) + 1
            for time, stamp in times:
                if int(time) in there:
                    self.key(folder, time, movie, stamp, moments[stamp])
                else:
                    self.missing.append(f"{movie}, second {stamp}")
        elif movie in self.films.whole:
            path = self.films.whole[movie]
            try:
                length = None if path.is_dir() else length_of(path)
                length = probe(path).duration if length is None else length  # of a header that says nothing
            except VideoError as error:
                self.missing.append(movie)
                self.notes.append(f"left out: {error}")
                return
            zero = self.zero if self.zero is not None else begins_at(times[0][0], times[-1][0], length)
            if zero is None:
                self.missing.append(movie)
                self.notes.append(
                    f"left out: {path} is {length:.0f} s long, and its key frames are from {times[0][1]} to "
                    f"{times[-1][1]}: it is neither the film nor cut to begin at {CUT:g}; say which second its first "
                    "frame is, ?zero=SECOND, or get it anew"
                )
                return
            begin = f"begin at second {zero:g} of the film" + (" (cut)" if zero else " (whole)")
            self.begins[begin] = self.begins.get(begin, 0) + 1
            for time, stamp in times:
                if not 0 <= time - zero <= length:
                    self.beyond += 1
                else:
                    self.key(path, time - zero, movie, stamp, moments[stamp])
        elif movie in self.films.clips:
            for time, stamp in times:
                fits = (clip for clip in self.films.clips[movie] if clip[0] <= time <= clip[1])
                clip = next(fits, None)
                if clip is None:
                    self.missing.append(f"{movie}, second {stamp}")
                else:
                    self.key(clip[2], time - clip[0], movie, stamp, moments[stamp])
        else:
            self.missing.append(movie)

    def key(self, path: Path, seconds: float, movie: str, stamp: str, boxes: dict[Key, list[str]]) -> None:
        """One key frame."""
        made: list[Box] = []
        for (*sides, person), actions in boxes.items():
            x1, y1, x2, y2 = map(float, sides)
            corners: Corners = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
            self.cut += corners != (x1, y1, x2, y2)
            if corners[0] >= corners[2] or corners[1] >= corners[3]:
                self.flat += 1
                continue
            told = tuple(actions)
            labels = self.labels.get(told)
            if labels is None:
                numbers = sorted({int(action) for action in told if action})
                labels = self.labels.setdefault(told, tuple(self.names[number] for number in numbers))
            made.append(Box(corners, labels, person or None))
        self.items.append(Item(path, key=KeyFrame(round(seconds, 6), tuple(made), movie, stamp)))

    def said(self) -> list[str]:
        """What was found out, for people."""
        counts = [f"{count} movies {what}" for what, count in sorted(self.begins.items(), key=lambda x: natural(x[0]))]
        counts += [f"{self.cut} boxes reach over the edge of the picture and are cut to it"] * bool(self.cut)
        counts += [f"{self.flat} boxes without width or height are left out"] * bool(self.flat)
        counts += [f"{self.beyond} key frames are outside of their movies and left out"] * bool(self.beyond)
        return [*self.notes, *counts]


def begins_at(first: float, last: float, length: float) -> float | None:
    """The second of the film with which a file begins; none: it fits neither way.

    >>> begins_at(902, 1798, 5400.0), begins_at(902, 1798, 901.0), begins_at(902, 1798, 1500.0)
    (0.0, 900.0, None)
    """
    if last <= length:
        return 0.0
    return CUT if first >= CUT and last - CUT <= length <= LONGEST else None
