"""Where people or objects are, and what they do: boxes of moments of videos, from a table with a row for each box.

The columns are path (or file, video), a time, x1, y1, x2, y2, and if known label, person, score. The time is frame
(counted from 0), seconds, milliseconds, or a timecode as 0:15:02.5. Paths are relative to the table's folder; corners
are in pixels of the video as it is shown, x to the right and y down, x2 and y2 just outside; or in shares of its width
and height, if none in the table is above 2 (those fit copies of any size). Several rows for one box are several labels
of it, and so is `run|fall`. A row without corners and label says that nobody is there.
"""

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from tubelet.data.index import Video, shown_at
from tubelet.data.keyframes import Corners
from tubelet.data.labels import parts
from tubelet.data.lists import LABEL_COLUMNS, MARKS, PART_COLUMNS, PARTS, PATH_COLUMNS

CORNERS = ("x1", "y1", "x2", "y2")
FRAME_COLUMNS = ("frame", "frame_number", "frame_index", "frame_id")
SECONDS_COLUMNS = ("seconds", "second", "sec", "time", "timestamp", "timecode")
MILLISECONDS_COLUMNS = ("milliseconds", "ms", "msec", "time_ms")
PERSON_COLUMNS = ("person", "person_id", "track", "track_id")
SCORE_COLUMNS = ("score", "confidence")
WHOLE = ". Videos that are labelled as a whole have no boxes: train on them with a preset for clips, as " + (
    "finetune-small-cpu"
)
EDGE = 2.0  # shares may lie a little outside of the picture; a box of two pixels is none
Unit = Literal["frame", "seconds"]


class Row(NamedTuple):
    """One box as it is written, or that there is none at this moment."""

    where: int | str
    """Its line, or what else leads to it."""
    time: float
    stamp: str
    """The time as it is written."""
    corners: Corners | None
    labels: tuple[str, ...] = ()
    person: str | None = None
    score: float = 1.0


@dataclass(frozen=True)
class Boxes:
    """The boxes of a table, of all of its videos."""

    table: Path
    unit: Unit
    """What the times of the boxes are."""
    rows: dict[str, list[Row]]
    """By video, as it is written."""
    shares: bool = False
    """Corners are shares of width and height, not pixels."""
    zero: float = 0.0
    """The time of a video's first frame."""
    fps: float | None = None
    """Frames a second where frames are not those of the file; none: they are."""
    notes: tuple[str, ...] = ()
    """What the reader had to do."""

    @cached_property
    def by_path(self) -> dict[Path, list[Row]]:
        """The same by resolved path."""
        return {(self.table.parent / name).resolve(): rows for name, rows in self.rows.items()}

    def of(self, video: Video) -> dict[int, Float[np.ndarray, "_ 4"]]:
        """The boxes of a video by frame, in order: left, top, right, bottom, in pixels, cut to the picture.

        Raises:
            ValueError: the table has none for this video, or one at a frame or a place that the video does not have.
        """
        rows = self.by_path.get(Path(video.path).resolve())
        if rows is None:
            raise ValueError(
                f"{self.table} has no boxes for {video.path}; it has some for {len(self.rows)} videos, such as "
                f"{next(iter(self.by_path))}. Paths are relative to {self.table.parent}"
            )
        found: dict[int, dict[Corners, None]] = {}  # rows for several labels of one box are one box
        for row in rows:
            seconds = self.seconds(row, video, video.path)
            if row.corners is not None:
                frame = int(shown_at(video, np.array([seconds]))[0])
                found.setdefault(frame, {})[self.inside(row, video, video.path)] = None
        return {frame: np.array([*found[frame]]) for frame in sorted(found)}

    def place(self, row: Row) -> str:
        """Where a row is, for people."""
        return f"{self.table}, " + (f"line {row.where}" if isinstance(row.where, int) else row.where)

    def seconds(self, row: Row, video: Video | float | None, name: Path | str) -> float:
        """When a row is meant, after the first frame of its video (or of one so many seconds long, or of any length).

        Raises:
            ValueError: before its beginning or after its end.
        """
        time = row.time - self.zero
        if time < 0:
            raise ValueError(
                f"{self.place(row)}: {self.unit} {row.stamp} is before the first of {name}, which is said to be "
                f"{self.zero:g}; mend the table, or ?zero="
            )
        if self.unit == "frame" and self.fps is None:
            assert isinstance(video, Video)  # `indexed` says so
            if time >= video.frames:
                raise ValueError(
                    f"{self.place(row)}: a box of {name} at frame {row.stamp}; it has {video.frames} "
                    f"frames, {self.zero:g} to {self.zero + video.frames - 1:g}. If frames are counted from 1 there, "
                    "or at another rate, say ?zero=1 or ?fps=25"
                )
            return float(video.seconds[int(time)])
        time = time / self.fps if self.unit == "frame" and self.fps else time
        end = video.seconds[-1] + 1 / video.fps if isinstance(video, Video) else video
        if end is not None and time > end + 1e-6:
            raise ValueError(
                f"{self.place(row)}: a box of {name} at {self.unit} {row.stamp}; it has {end:.3f} "
                f"seconds. Mend the table; if its clock does not begin with the video, say when: ?zero=SECONDS"
            )
        return time

    @property
    def indexed(self) -> bool:
        """Whether only the index of a video tells where and when its boxes are."""
        return not self.shares or (self.unit == "frame" and self.fps is None)

    def inside(self, row: Row, video: Video | None, name: Path | str) -> Corners:
        """Corners cut to the picture: in pixels of a video, or in shares.

        Raises:
            ValueError: nothing is left.
        """
        assert row.corners is not None
        width, height = (1, 1) if video is None else (video.width, video.height)
        left, top, right, bottom = row.corners
        if self.shares:
            left, top, right, bottom = left * width, top * height, right * width, bottom * height
        cut = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if cut[0] >= cut[2] or cut[1] >= cut[3]:
            size = "0 to 1 in shares" if video is None else f"{width} wide and {height} high as it is shown"
            raise ValueError(
                f"{self.place(row)}: a box of {name} from ({left:g}, {top:g}) to ({right:g}, "
                f"{bottom:g}): outside of the picture, which is {size}. Mend the table or leave this row out"
            )
        return cut


@dataclass(frozen=True)
class Columns:
    """Where what is said in the rows of a table."""

    path: int
    time: int
    corners: tuple[int, int, int, int]
    label: int | None
    person: int | None
    score: int | None
    part: int | None
    unit: Unit
    scale: float
    """Seconds, or frames, of a unit of the time."""

    def when(self, text: str) -> float:
        """A time as the table writes it, in seconds or frames; a timecode is in seconds, whatever the others are in.

        Raises:
            ValueError: it is no number, or a timecode among frames.
        """
        if ":" not in text:
            return float(text) * self.scale
        if self.unit == "frame":
            raise ValueError(f"{text} is a timecode, and the column is one of frames; give the number of a frame")
        return moment(text)

    @classmethod
    def of(cls, table: Path, names: list[str]) -> "Columns":
        """The columns of a header.

        Raises:
            ValueError: some are missing.
        """

        def first(usual: tuple[str, ...]) -> int | None:
            return next((names.index(name) for name in usual if name in names), None)

        path, frame = first(PATH_COLUMNS), first(FRAME_COLUMNS)
        seconds, thousandths = first(SECONDS_COLUMNS), first(MILLISECONDS_COLUMNS)
        time = next((at for at in (frame, seconds, thousandths) if at is not None), None)
        if path is None or time is None or not {*CORNERS} <= {*names}:
            raise ValueError(
                f"{table} has the columns {', '.join(names) or 'none'}; expected path, frame or seconds, x1, y1, x2, "
                "y2, and if known label, person, score" + WHOLE * (not {*CORNERS} & {*names})
            )
        left, top, right, bottom = map(names.index, CORNERS)
        unit: Unit = "seconds" if frame is None else "frame"
        scale = 0.001 if frame is None and seconds is None else 1.0
        label, person, score, part = map(first, (LABEL_COLUMNS, PERSON_COLUMNS, SCORE_COLUMNS, PART_COLUMNS))
        return cls(path, time, (left, top, right, bottom), label, person, score, part, unit, scale)


def read_boxes(
    table: Path | str, *, zero: float | str | None = None, fps: float | None = None, part: str | None = None
) -> Boxes:
    """The boxes of a csv or tsv file, or of those rows that are for a part.

    `zero` is what the table's clock says when a video begins, in the table's own unit, or a timecode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no header with the columns, no rows, or a row that cannot be read; names its line.
    """
    table = Path(table)
    if not table.is_file():
        raise FileNotFoundError(f"no such file: {table}")
    lines = rows_of(table)
    _, header, mark = next(lines, (1, [], ","))
    names = [name.strip().lower() for name in header]
    columns = Columns.of(table, names)
    if part is not None and columns.part is None:
        raise ValueError(f"{table} has no column that says which rows are for {part}; call it {PART_COLUMNS[0]}")
    try:
        begin = 0.0 if zero is None else columns.when(str(zero))
    except ValueError as error:
        raise ValueError(f"{table}?zero={zero}: {error}") from error
    wanted = PARTS.get(part or "", (part,))
    columns = columns if part is not None else replace(columns, part=None)
    rows: dict[str, list[Row]] = {}
    known: dict[str, tuple[str, ...]] = {}  # labels, so that a million rows do not hold a million of them
    largest = 0.0
    for number, values, _ in lines:
        try:
            if columns.part is not None and values[columns.part].strip().lower() not in wanted:
                continue
            row = row_of(columns, number, values, known)
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{table}, line {number}: expected a {names[columns.path]}, and numbers for {names[columns.time]}, "
                f"x1, y1, x2, y2, and for score if it is there; got {mark.join(values)} ({error})"
            ) from error
        if not 0 <= row.score <= 1:
            raise ValueError(f"{table}, line {number}: {no_score(row.score)}")
        if row.corners is None:
            fits = row.time >= 0 and not row.labels
        else:
            left, top, right, bottom = row.corners
            largest = max(largest, right, bottom)
            fits = left < right and top < bottom and row.time >= 0
        if not (fits and math.isfinite(row.time) and abs(sum(row.corners or ())) < 1e9):
            raise ValueError(f"{table}, line {number}: {wrong(row, columns)}")
        if columns.unit == "frame" and row.time != int(row.time):
            raise ValueError(
                f"{table}, line {number}: frame {row.time:g} is no whole number; frames are counted from 0"
            )
        name = values[columns.path].strip()
        if name in rows:
            rows[name].append(row)
        else:
            rows[name] = [row]
    if not rows:
        raise ValueError(f"{table} has a header and no boxes under it" + (f" for {part}" if part else ""))
    return Boxes(table, columns.unit, rows, largest <= EDGE, begin, fps)


def row_of(columns: Columns, number: int, values: list[str], known: dict[str, tuple[str, ...]]) -> Row:
    """What a row says.

    Raises:
        ValueError, IndexError: it is too short, or numbers are none.
    """
    stamp = values[columns.time].strip()
    time = columns.when(stamp)
    if not values[columns.path].strip():
        raise ValueError("no path")
    left, top, right, bottom = columns.corners
    corners: Corners | None = None
    if values[left].strip() or values[top].strip() or values[right].strip() or values[bottom].strip():
        corners = float(values[left]), float(values[top]), float(values[right]), float(values[bottom])
    text = "" if columns.label is None else values[columns.label]
    labels = known.get(text)
    if labels is None:
        labels = known.setdefault(text, tuple(parts(text)))
    person = None if columns.person is None else values[columns.person].strip() or None
    told = "" if columns.score is None else values[columns.score].strip()
    return Row(number, time, stamp, corners, labels, person, float(told) if told else 1.0)


def no_score(score: float) -> str:
    """What to say of a score that cannot be."""
    percent = "; if scores are in percent, divide them by 100" if 1 < score <= 100 else ""
    return f"{score:g} is no score; expected how sure a detector is, a share from 0 to 1{percent}"


def wrong(row: Row, columns: Columns) -> str:
    """What to say of a row that cannot be."""
    if row.corners is None:
        return (
            f"{'|'.join(row.labels)!r} has no corners; expected x1, y1, x2, y2, or no label either, which says that "
            f"nobody is there at {columns.unit} {row.stamp}"
        )
    left, top, right, bottom = row.corners
    return (
        f"a box at {columns.unit} {row.stamp} from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is none; expected "
        "x1 < x2, y1 < y2, and a time of 0 or more. If the columns are x, y, width, height, add the two"
    )


def rows_of(table: Path) -> Iterator[tuple[int, list[str], str]]:
    """(line, values, mark between columns) of a text file; the mark is that of the first line.

    Raises:
        ValueError: it is no table, or not UTF-8.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte order mark in front
            top = file.readline()
            mark = next((mark for mark in MARKS if mark in top), ",")
            file.seek(0)
            reader = csv.reader(file, delimiter=mark)
            for values in reader:
                if values and not values[0].startswith("#"):
                    yield reader.line_num, values, mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is no text in UTF-8 ({error}); save it as csv in UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{table} is no table: {error}") from error


def moment(text: str) -> float:
    """A number, or the seconds of a timecode.

    >>> moment("902.5"), moment("0:15:02.5"), moment("15:02,500")
    (902.5, 902.5, 902.5)

    Raises:
        ValueError: it is neither.
    """
    if ":" not in text:
        return float(text)
    match = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d*)?)", text)
    if match is None:
        raise ValueError(f"{text} is no timecode; expected hours:minutes:seconds, as in 0:15:02.5")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
