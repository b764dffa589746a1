"""Lists of videos: plain lines, tables with a header (csv, tsv, parquet), folders of frames as VideoMAE V2 has them."""

import csv
import difflib
import importlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from tubelet.data import images, remote, shards
from tubelet.data.index import SUFFIXES
from tubelet.data.items import Item

KNOWN = SUFFIXES | images.SUFFIXES
LISTS = (".txt", ".csv", ".tsv", ".parquet")
# Column names in use: Hugging Face, pandas exports, mmaction2, torchcodec, our own.
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "video_name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "action", "label_name")
START_COLUMNS = ("start", "start_seconds", "start_time", "time_start")
END_COLUMNS = ("end", "end_seconds", "end_time", "time_end")
GROUP_COLUMNS = ("group", "subject", "person", "actor", "performer", "participant")
PART_COLUMNS = ("split", "subset", "part")
PARTS = {"train": ("train", "training"), "val": ("val", "validation", "validate", "valid"), "test": ("test", "testing")}
MARKS = ("\t", ",", ";")  # between columns; spreadsheets write ; where , is in decimal numbers


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called; where nothing is said, one of the usual names."""

    path: str | None = None
    """Of the videos, relative to the table's folder."""
    label: str | None = None
    """Of the labels."""
    start: str | None = None
    """Of the second where the part of the video begins that is meant."""
    end: str | None = None
    """Of the second where it ends."""
    group: str | None = None
    """Of who or what was filmed: groups are not split between training and test."""
    part: str | None = None
    """Of what a row is for: train, val or test."""


USUAL = dict(
    zip(
        (field.name for field in fields(Columns)),
        (PATH_COLUMNS, LABEL_COLUMNS, START_COLUMNS, END_COLUMNS, GROUP_COLUMNS, PART_COLUMNS),
    )
)


def in_list(path: Path, columns: Columns = Columns(), part: str | None = None, root: Path | None = None) -> list[Item]:
    """The videos that a list file names, in its order; with `part` those rows whose column for it says so.

    Paths are relative to `root`, or else to the list's folder. Of videos that lie elsewhere none is looked for: that
    would be a request for each.

    Raises:
        FileNotFoundError: videos that are not there; names the first and counts all.
        ValueError: a list that cannot be read, columns that it does not have, or nothing left.
    """
    return list(streamed(path, columns, part, root))


def streamed(
    path: Path, columns: Columns = Columns(), part: str | None = None, root: Path | None = None
) -> Iterator[Item]:
    """The same, one at a time; of a text file no more than a line is in memory.

    Raises:
        FileNotFoundError, ValueError: as `in_list`; what concerns all of them when all are read.
    """
    root = path.parent if root is None else root
    reader = parquet if path.suffix.lower() == ".parquet" else lines
    count, gone, missing = 0, 0, list[str]()
    for where, item in reader(path, columns, part, root):
        count += 1
        if remote.url_of(item.path) is None and not shards.exists(item.path):  # elsewhere, that is a request each
            gone += 1
            missing += [f"{where}: {written(item.path, root)}"] if gone <= 5 else []
        yield item
    if not count:
        has = f"no rows for {part}" if part else "a header and no videos under it"
        raise ValueError(f"{path} has {has}")
    if gone:
        rest = f" and {gone - 5} more" if gone > 5 else ""
        raise FileNotFoundError(
            f"{gone} of the {count} videos that {path} names are missing: {'; '.join(missing)}{rest}. "
            f"Paths are relative to {root}; mend or remove these lines"
        )


def written(path: Path, root: Path) -> Path:
    """A path as a list has it."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def lines(path: Path, columns: Columns, part: str | None, root: Path) -> Iterator[tuple[str, Item]]:
    """(line, video) of a text file."""
    rows = numbered(path)
    if (top := next(rows, None)) is None:
        raise ValueError(f"{path} names no videos; expected one path a line, and a label if you like")
    first = top[1]
    separator = next((mark for mark in MARKS if mark in first), None)
    names = split(first, separator)
    there = remote.url_of(root) is None and bool(names) and (root / names[0]).exists()
    places = None if there or not names else header(path, names, columns, part)
    for number, line in rows if places else chain([top], rows):
        where = f"{path}, line {number}"
        if places is None or (separator is None and not places["path"] and places.keys() <= {"path", "label"}):
            yield f"line {number}", best(line, root, where)  # blanks may be part of the path
            continue
        row = split(line, separator)
        if len(row) <= max(places.values()):
            raise ValueError(f"{where}: {len(row)} columns, fewer than the header has: {line}")
        if part is None or row[places["part"]].lower() in PARTS.get(part, (part,)):
            yield f"line {number}", item_of({name: row[place] for name, place in places.items()}, where, root)


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        with ExitStack() as stack:
            rows: Iterable[str]
            if remote.url_of(path) is None:  # spreadsheets put a byte order mark in front
                rows = stack.enter_context(path.open(encoding="utf-8-sig"))
            else:
                rows = shards.text_of(path).splitlines()
            for number, line in enumerate(rows, 1):
                if line.strip() and not line.lstrip().startswith("#"):
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save the list as UTF-8") from error


def parquet(path: Path, columns: Columns, part: str | None, root: Path) -> Iterator[tuple[str, Item]]:
    """(row, video) of a Parquet file.

    Raises:
        ValueError: pyarrow is not installed, or the file cannot be read.
    """
    try:
        module = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"{path}: Parquet takes pyarrow, which is an extra: pip install 'tubelet[parquet]'; or save it as csv"
        ) from error
    try:
        with shards.content(path) as (file, _):
            table: dict[str, list[Any]] = module.read_table(file).to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    names = list(table)
    places = header(path, names, columns, part)
    if places is None:
        raise ValueError(
            f"{path} has no column for the videos, only {', '.join(names)}; say which it is: table:{path}?path=COLUMN"
        )
    taken = {name: table[names[place]] for name, place in places.items()}
    for number in range(len(taken["path"])):
        row = {name: text_of(values[number]) for name, values in taken.items()}
        if part is None or row["part"].lower() in PARTS.get(part, (part,)):
            yield f"row {number + 1}", item_of(row, f"{path}, row {number + 1}", root)


def text_of(value: object) -> str:
    """A value of a typed table as a list would have it."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def item_of(row: dict[str, str], where: str, root: Path) -> Item:
    """The video of a row.

    Raises:
        ValueError: no path; a start or end that is no number; an end before the start.
    """
    if not row["path"]:
        raise ValueError(f"{where} names no video")
    start, end = (seconds(row.get(name, ""), name, where) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise ValueError(
            f"{where}: from {start or 0:g} to {end:g} s there is nothing; the end must come after the start"
        )
    return Item(remote.joined(root, row["path"]), row.get("label") or None, start, end, row.get("group") or None)


def seconds(text: str, name: str, where: str) -> float | None:
    """A time in seconds; none where nothing is written.

    Raises:
        ValueError: not a number, or before the video's beginning.
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{where}: the {name} is {text!r}; expected seconds, 0 or more")
    return value


# ---------------------------------------------------------------------------- headers


def header(path: Path, names: Sequence[str], columns: Columns, part: str | None) -> dict[str, int] | None:
    """Where the columns are that a header names, by what they mean; None where it is no header.

    Raises:
        ValueError: a column asked for is not there.
    """
    plain = [name.lower().replace(" ", "_") for name in names]
    places: dict[str, int] = {}
    for meaning, usual in USUAL.items():
        said: str | None = getattr(columns, meaning)
        if said is not None and said not in names:
            near = difflib.get_close_matches(said, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{path} has no column {said!r}, only {', '.join(names)}.{hint}")
        found = next((name for name in usual if name in plain), None)
        if said is not None or found is not None:
            places[meaning] = names.index(said) if said is not None else plain.index(str(found))
    if "path" in places:
        if columns == Columns() and {"x1", "y1", "x2", "y2"} <= {*plain}:
            raise ValueError(
                f"{path} is a table of boxes, with a row for each, and no list of videos. Boxes are for presets as "
                f"finetune-boxes-small-cpu, tubelet check and detect; read it as a list by naming a column: "
                f"table:{path}?path={names[places['path']]}"
            )
        if part is not None and "part" not in places:
            raise ValueError(f"{path} has no column that says which rows are for {part}; call it {PART_COLUMNS[0]}")
        return places
    if "label" in places and len(names) > 1 and not any(Path(name).suffix.lower() in KNOWN for name in names):
        raise ValueError(
            f"{path} has a header without a path: {','.join(names)}; expected a column called path or file, or say "
            f"which it is: table:{path}?path=COLUMN"
        )
    if part is not None:
        raise ValueError(f"{path} has no header, so nothing says which lines are for {part}")
    return None


def split(line: str, separator: str | None) -> list[str]:
    """The parts of a line, without quotes; no separator means any run of blanks.

    Raises:
        ValueError: it is far longer than any line of a list.
    """
    try:
        row = next(csv.reader([line], delimiter=separator or " ", skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"a line of {len(line)} characters is none of a list: {line[:40]!r}... ({error})") from error
    return [field.strip() for field in row if separator or field]


# ---------------------------------------------------------------------------- lines without a header


def best(line: str, folder: Path, where: str) -> Item:
    """Path and label of a line without a header: of all ways to read it, the one that names a file that is there.

    Raises:
        ValueError: numbers after the path that do not fit what is there.
    """
    ways = readings(line)
    files = (way for way in ways if os.path.isfile(os.path.join(folder, way[0])))
    folders = (way for way in ways if os.path.isdir(os.path.join(folder, way[0])))
    looks = (way for way in ways if Path(way[0]).suffix.lower() in KNOWN)
    name, *rest = next(chain(files, folders, looks, ways))  # the system is asked no more often than it takes
    if len(rest) == 2 and all(map(whole, rest)):  # VideoMAE V2: path, first frame, frames; -1 for a video file
        if (folder / name).is_dir():
            return frames_of(folder, name, int(rest[0]), int(rest[1]), where)
        if rest != ["0", "-1"] and int(rest[1]) >= 0:
            raise ValueError(
                f"{where} asks for frames {rest[0]} on, {rest[1]} of them; of a video file only the whole is read "
                "(0 -1), or a part between seconds: a table with columns path, start and end"
            )
        return Item(remote.joined(folder, name))
    return Item(remote.joined(folder, name), (rest[0] or None) if rest else None)


def frames_of(folder: Path, name: str, one: int, two: int, where: str) -> Item:
    """The video of a line `folder first total`, as for pre-training, or `folder total label`, as for fine-tuning.

    `first` is a number in the images' names. Which of the two it is, the images tell.

    Raises:
        ValueError: it is neither.
    """
    names = images.listed(folder / name)
    numbers = [images.number(image) for image in names]
    if one == len(names):
        return Item(folder / name, str(two))
    if one in numbers and 0 < two <= len(names) - numbers.index(one):
        fps, start = images.rate_of(folder / name), numbers.index(one)
        stop = start + two
        return Item(folder / name, None, start / fps if start else None, stop / fps if stop < len(names) else None)
    raise ValueError(
        f"{where}: {name} has {len(names)} images, {numbers[0]} to {numbers[-1]}; {one} {two} is neither their count "
        "and a label, nor the number of the first and how many to take"
    )


def readings(line: str) -> list[list[str]]:
    """Every way to cut a line into a path and what follows it, the likeliest first.

    VideoMAE and its kin cut at every blank, and so cannot read a path that has one.
    """
    ways = [split(line, mark) for mark in MARKS if mark in line]
    line = line.strip()
    if line.startswith(('"', "'")) and line.count(line[0]) >= 2:
        name, _, rest = line[1:].partition(line[0])
        ways.append([name, *rest.split()])
    three = line.rsplit(maxsplit=2)
    if len(three) == 3 and all(map(whole, three[1:])):
        ways.append(three)
    cuts = (line.rsplit(maxsplit=count) for count in range(1, len(line.split())))
    return [*ways, *([name, " ".join(label)] for name, *label in cuts), [line]]


def whole(text: str) -> bool:
    """Whether a field is an integer."""
    return text.removeprefix("-").isdigit()
