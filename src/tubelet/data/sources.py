"""Which videos there are: a folder, one file, or a list; labels are kept where they are given and never required."""

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tubelet.data.video import SUFFIXES

LISTS = (".txt", ".csv", ".tsv")
# Column names of list files in use: Hugging Face, pandas exports, mmaction2, torchcodec, our own.
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "video_name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "action", "label_name")


@dataclass(frozen=True)
class Item:
    """One video of a data set."""

    path: Path
    label: str | None = None  # as it was written: a class, several, shares of classes, or values; see `labels.Labels`
    start: float | None = None  # seconds: only this part of the video is meant; none: from its beginning
    end: float | None = None  # seconds; none: to its end
    group: str | None = None  # whoever or wherever was filmed: groups are never split between training and test


def find(source: Path | str) -> list[Item]:
    """The videos of a folder (any depth, sorted; the folder above a video is its label), of a list, or one video.

    A list has one video a line: a path, or a path and a label, separated by blank, tab or comma, quoted or not; or
    `path 0 -1` as VideoMAE V2 writes it; or columns under a header. Paths are relative to the list's folder. Lines
    that begin with # are comments.

    Raises:
        FileNotFoundError: no such path, or a list names files that are not there.
        ValueError: nothing there that is a video; says what there was instead.
    """
    path = Path(source)
    if path.is_dir():
        return in_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path} (looked in {Path.cwd()})")
    if path.suffix.lower() in LISTS:
        return in_list(path)
    if path.suffix.lower() in SUFFIXES:
        return [Item(path)]
    raise ValueError(
        f"{path} is neither a folder, nor a list ({', '.join(LISTS)}), nor a video ({', '.join(sorted(SUFFIXES))})"
    )


# ---------------------------------------------------------------------------- folders


def scan(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Paths of the videos below a folder, sorted by name, and how many other files there are of each suffix.

    Hidden files and folders are left out and not counted; links are followed, each real folder once.
    """
    videos: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                videos.append(Path(root, name))
            else:
                others[suffix or "no suffix"] += 1
    return sorted(videos, key=lambda path: path.relative_to(folder).parts), others


def in_folder(folder: Path) -> list[Item]:
    """Every video below a folder, labelled by the folder it is in unless that is the source itself."""
    videos, others = scan(folder)
    if videos:
        return [Item(path, None if path.parent == folder else path.parent.name) for path in videos]
    if not others:
        raise ValueError(f"{folder} is empty; expected videos ({', '.join(sorted(SUFFIXES))}) at any depth")
    there = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(8))
    raise ValueError(f"no videos in {folder}: it has {there}; expected {', '.join(sorted(SUFFIXES))}")


# ---------------------------------------------------------------------------- lists


def in_list(path: Path) -> list[Item]:
    """The videos that a list file names, in its order."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save the list as UTF-8") from error
    numbered = enumerate(text.splitlines(), 1)
    lines = [(n, line) for n, line in numbered if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError(f"{path} names no videos; expected one path a line, and a label if you like")
    columns = header(path, lines[0][1])
    items, missing = [], []
    for number, line in lines[1:] if columns else lines:
        where = f"{path}, line {number}"
        name, label = columns.pick(line, path.parent, where) if columns else best(line, path.parent, where)
        items.append(Item(path.parent / name, label))
        if not items[-1].path.is_file():
            missing.append(f"line {number}: {name}")
    if missing:
        rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(
            f"{len(missing)} of the {len(items)} videos that {path} names are missing: {'; '.join(missing[:5])}{rest}. "
            f"Paths are relative to {path.parent}; mend or remove these lines"
        )
    if not items:
        raise ValueError(f"{path} has a header and no videos under it")
    return items


@dataclass(frozen=True)
class Columns:
    """Where the path and the label are in the rows under a header."""

    separator: str | None
    path: int
    label: int | None

    def pick(self, line: str, folder: Path, where: str) -> tuple[str, str | None]:
        """Path and label of one row."""
        if self.separator is None and self.path == 0:  # blanks may be part of the path
            return best(line, folder, where)
        row = fields(line, self.separator)
        if len(row) <= max(self.path, self.label or 0):
            raise ValueError(f"{where}: {len(row)} columns, fewer than the header has: {line}")
        return row[self.path], (row[self.label] or None) if self.label is not None else None


def header(path: Path, line: str) -> Columns | None:
    """The columns that the first line of a list names, or None where it is a video already."""
    separator = next((mark for mark in ("\t", ",") if mark in line), None)
    names = [name.lower().replace(" ", "_") for name in fields(line, separator)]
    paths = [names.index(name) for name in PATH_COLUMNS if name in names]
    labels = [names.index(name) for name in LABEL_COLUMNS if name in names]
    if (path.parent / fields(line, separator)[0]).is_file():
        return None
    if paths:
        return Columns(separator, paths[0], labels[0] if labels else None)
    if labels and len(names) > 1 and not any(Path(name).suffix in SUFFIXES for name in names):
        raise ValueError(f"{path} has a header without a path: {line}; expected a column called path or file")
    return None


def fields(line: str, separator: str | None) -> list[str]:
    """The parts of a line, without quotes; no separator means any run of blanks."""
    row = next(csv.reader([line], delimiter=separator or " ", skipinitialspace=True))
    return [field.strip() for field in row if separator or field]


def best(line: str, folder: Path, where: str) -> tuple[str, str | None]:
    """Path and label of a line without a header: of all ways to read it, the one that names a file that is there.

    Raises:
        ValueError: the line names a folder of frames, as VideoMAE V2's lists may.
    """
    ways = readings(line)
    exists = [way for way in ways if (folder / way[0]).is_file()]
    looks = [way for way in ways if Path(way[0]).suffix.lower() in SUFFIXES]
    name, *rest = (exists or looks or ways)[0]
    if (folder / name).is_dir():
        raise ValueError(f"{where} names a folder of frames: {name}; tubelet reads videos, encode them first (ffmpeg)")
    if len(rest) == 2 and all(map(whole, rest)):  # VideoMAE V2: path, first frame, frames; -1 for a video file
        if rest != ["0", "-1"] and int(rest[1]) >= 0:
            raise ValueError(
                f"{where} asks for frames {rest[0]} on, {rest[1]} of them; only whole videos are read: 0 -1"
            )
        return name, None
    return name, (rest[0] or None) if rest else None


def readings(line: str) -> list[list[str]]:
    """Every way to cut a line into a path and what follows it, the likeliest first.

    VideoMAE and its kin cut at every blank, and so cannot read a path that has one.
    """
    ways = [fields(line, mark) for mark in ("\t", ",") if mark in line]
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
