"""Millions of videos as a folder of columns on the disk, of which only what is asked for is read.

`NAME.table/` has plain .npy files, opened as memory maps, so they take address space and no memory of their own: the
system keeps the pages that are used, shares them between all processes, and drops them when memory is short. `paths`
are bytes one after the other, with `path_ends` beside them; labels and groups are numbers, -1 for none, of names kept
likewise; `start` and `end` are seconds, NaN for none. A column in which nothing is said is left out. table.json, which
is written last, says how many rows there are, below which folder the paths are, and a digest of the columns. Only bytes
and numbers are read: nothing in such a folder can be run.
"""

import hashlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from tubelet.data.items import Item

CARD, SUFFIX = "table.json", ".table"
FORMAT = 1
COLUMNS = {  # which there may be, and of what
    "paths": "|u1",
    "path_ends": "<i8",
    "label": "<i4",
    "labels": "|u1",
    "label_ends": "<i8",
    "group": "<i4",
    "groups": "|u1",
    "group_ends": "<i8",
    "start": "<f8",
    "end": "<f8",
}
CHUNK = 2**14  # rows that are in memory at once
NAMES = 2**17  # names that are known again when they return; what comes beyond is written once more
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # s3://..., which is below no folder


# ---------------------------------------------------------------------------- reading


class Table(Sequence[Item]):
    """The videos of such a folder, each made when it is asked for; workers get the folder's name and open it anew."""

    def __init__(self, folder: Path) -> None:
        """Opens all columns and compares their sizes; the rows are not read.

        Raises:
            ValueError: it is not whole, damaged, or of a newer tubelet; says what to do.
        """
        self.folder = folder
        about = card(folder)
        self.rows: int = about["count"]
        self.digest: str = about["digest"]
        self.root = os.path.normpath(os.path.join(folder.parent, about["root"]))
        self.columns = {name: opened(folder, name, size) for name, size in about["columns"].items()}
        for name in ("path", "label", "group"):
            ends, text = self.columns.get(f"{name}_ends"), self.columns.get(f"{name}s")
            if (ends is None) != (text is None) or (ends is not None and text is not None and ends[-1] != len(text)):
                raise damaged(folder, f"{name}s.npy and {name}_ends.npy do not fit together")

    def __reduce__(self) -> tuple[type["Table"], tuple[Path]]:
        return Table, (self.folder,)

    def __len__(self) -> int:
        return self.rows

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """A video, or some.

        Raises:
            IndexError: there are not so many.
            ValueError: its row is damaged.
        """
        if isinstance(index, slice):
            return [self[row] for row in range(self.rows)[index]]
        row = range(self.rows)[index]
        path = os.fsdecode(self.text("path", row))
        if not ADDRESS.match(path):
            path = os.path.join(self.root, path)
        return Item(Path(path), self.name("label", row), self.time("start", row), self.time("end", row),
                    self.name("group", row))  # fmt: skip

    def text(self, column: str, row: int) -> bytes:
        """What a column of text has in a row.

        Raises:
            ValueError: it is damaged.
        """
        ends, text = self.columns[f"{column}_ends"], self.columns[f"{column}s"]
        if 0 <= row < len(ends):
            begin, end = int(ends[row - 1]) if row else 0, int(ends[row])
            found = text[begin:end].tobytes() if 0 <= begin < end <= len(text) else b"\0"
            if b"\0" not in found:
                return found
        raise damaged(self.folder, f"{column}s.npy or {column}_ends.npy, row {row}")

    def name(self, column: str, row: int) -> str | None:
        """The label or group of a row."""
        number = int(self.columns[column][row]) if column in self.columns else -1
        try:
            return None if number == -1 else self.text(column, number).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.folder, f"{column}s.npy: {error}") from error

    def time(self, column: str, row: int) -> float | None:
        """The start or end of a row."""
        seconds = float(self.columns[column][row]) if column in self.columns else math.nan
        return None if math.isnan(seconds) else seconds

    @cached_property
    def kinds(self) -> list[Item]:
        """The first video of every label, and of those without one: enough to learn which labels there are."""
        if "label" not in self.columns:
            return [self[0]]
        first: dict[int, int] = {}
        for begin in range(0, self.rows, 2**20):
            numbers, rows = np.unique(self.columns["label"][begin : begin + 2**20], return_index=True)
            for number, row in zip(numbers.tolist(), rows.tolist()):
                first.setdefault(number, begin + row)
        return [self[row] for row in sorted(first.values())]

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def is_table(folder: Path) -> bool:
    """Whether a folder is one, or was meant to be."""
    return (folder / CARD).is_file() or (folder / "path_ends.npy").is_file() or folder.suffix == SUFFIX


def card(folder: Path) -> dict[str, Any]:
    """What table.json says.

    Raises:
        ValueError: it is missing, damaged, or of a newer tubelet.
    """
    path = folder / CARD
    if not path.is_file():
        raise ValueError(f"{folder} has no {CARD}: it is no table, or was not copied in full. {AGAIN}")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        form = about["format"]
        if isinstance(form, int) and form > FORMAT:
            raise ValueError(
                f"{folder} is a table of format {form}, and this tubelet reads {FORMAT}: update tubelet "
                "(pip install -U tubelet), or write it anew with this one (tubelet index)"
            )
        fits = {"format": int, "count": int, "root": str, "digest": str, "columns": dict}
        wrong = [name for name, kind in fits.items() if type(about[name]) is not kind]
        sizes = about["columns"]
        wrong += [name for name, size in sizes.items() if name not in COLUMNS or type(size) is not int or size < 1]
        wrong += [name for name in ("paths", "path_ends") if name not in sizes]
        rows = [name for name in ("path_ends", "label", "group", "start", "end") if name in sizes]
        wrong += [name for name in rows if sizes[name] != about["count"]]
        wrong += [name for name in ("label", "group") if name in sizes and f"{name}_ends" not in sizes]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, f"{CARD} ({type(error).__name__}: {error})") from error
    if wrong:
        raise damaged(folder, f"{CARD}: {wrong[0]}")
    return about


def opened(folder: Path, name: str, size: int) -> np.ndarray:
    """A column, not read yet.

    Raises:
        ValueError: it is missing, cut off, or of another kind or size.
    """
    path = folder / f"{name}.npy"
    try:
        column = np.lib.format.open_memmap(path, mode="r")  # no pickles: those of objects are refused
    except (OSError, ValueError, TypeError, EOFError, SyntaxError) as error:
        raise damaged(folder, f"{path.name} ({error})") from error
    if (column.dtype.str, column.shape) != (COLUMNS[name], (size,)):
        raise damaged(folder, f"{path.name} has {column.shape} of {column.dtype}; {size} of {COLUMNS[name]} expected")
    return column


AGAIN = "Copy it anew, or write it anew from the videos or their list: tubelet index SOURCE NEW.table"


def damaged(folder: Path, what: str) -> ValueError:
    """The error for a table that cannot be trusted."""
    return ValueError(f"the table {folder} is damaged: {what}. {AGAIN}")


# ---------------------------------------------------------------------------- writing


class Column:
    """A .npy file that grows."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.kind, self.count = name, COLUMNS[name], 0
        self.path, self.digest = folder / f"{name}.npy", hashlib.sha256()
        self.file = self.path.open("xb")
        self.file.write(head(self.kind, 0))

    def add(self, values: Any) -> None:
        """More rows."""
        column = np.asarray(values, self.kind)
        self.count += len(column)
        data = column.tobytes()
        self.digest.update(data)
        self.file.write(data)

    def __enter__(self) -> "Column":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def finish(self) -> None:
        """Says how many there are, and brings all of it to the disk."""
        self.file.seek(0)
        self.file.write(head(self.kind, self.count))
        self.file.flush()
        os.fsync(self.file.fileno())


def head(kind: str, count: int) -> bytes:
    """What stands before the numbers of a .npy file, 128 bytes for any count."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count},), }}"
    return np.lib.format.magic(1, 0) + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"


class Names:
    """Numbers for names, in the order in which these come first."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.count = 0
        self.fresh: list[bytes] = []  # to be written

    def number(self, name: str | None) -> int:
        """That of a name; -1 for none."""
        if not name:
            return -1
        if (number := self.known.get(name)) is None:
            number, self.count = self.count, self.count + 1
            self.fresh.append(name.encode())
            if len(self.known) < NAMES:
                self.known[name] = number
        return number


def write(out: Path, items: Iterable[Item], root: Path, progress: Callable[[int], object] | None = None) -> Table:
    """A table of `items`, whole or not at all, and in little memory however many come; paths below `root` are kept
    relative to that.

    `progress` gets how many are done.

    Raises:
        ValueError: there is something at `out`, another process is writing it, or there are no items.
        OSError: the disk is full, or refuses.
    """
    if out.exists():
        raise ValueError(f"{out} is there already; name another, or remove it")
    part = out.with_name(f".{out.name}.part")
    try:
        part.mkdir(parents=True)
    except FileExistsError as error:
        raise ValueError(f"{part} is there: {out} is being written, or that was interrupted; remove it then") from error
    base = os.path.join(os.path.abspath(root), "")
    try:
        with ExitStack() as stack:
            columns = {name: stack.enter_context(Column(part, name)) for name in COLUMNS}
            fill(columns, iter(items), base, progress)
            for column in columns.values():
                column.finish()
        if not (count := columns["path_ends"].count):
            raise ValueError(f"there are no videos to make {out} of")
        said = {name: column for name, column in columns.items() if column.count}
        for name in columns.keys() - said.keys():
            columns[name].path.unlink()
        digest = hashlib.sha256("".join(f"{name} {said[name].digest.hexdigest()}\n" for name in said).encode())
        above = os.path.join(os.path.abspath(out.parent), "")
        about = {
            "format": FORMAT,
            "count": count,
            "root": os.path.relpath(base, above) if base.startswith(above) else os.path.normpath(base),
            "digest": digest.hexdigest(),
            "columns": {name: column.count for name, column in said.items()},
        }
        with (part / CARD).open("w", encoding="utf-8") as file:
            json.dump(about, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Table(out)


def fill(
    columns: dict[str, Column], items: Iterator[Item], base: str, progress: Callable[[int], object] | None
) -> None:
    """Writes all rows, some thousand at a time."""
    names = {"label": Names(), "group": Names()}
    late = dict.fromkeys(("label", "group", "start", "end"), 0)  # rows before the first that says something
    while chunk := list(islice(items, CHUNK)):
        text(columns, "path", [located(item.path, base) for item in chunk])
        rows: dict[str, list[Any]] = {name: [getattr(item, name) for item in chunk] for name in late}
        for name, values in rows.items():
            none: float = -1 if name in names else math.nan
            if not columns[name].count and all(value is None for value in values):
                late[name] += len(values)
                continue
            for begin in range(0, late[name], CHUNK):
                columns[name].add(np.full(min(CHUNK, late[name] - begin), none))
            late[name] = 0
            if name in names:
                columns[name].add([names[name].number(value) for value in values])
                text(columns, name, names[name].fresh)
                names[name].fresh = []
            else:
                columns[name].add([none if value is None else value for value in values])
        if progress is not None:
            progress(columns["path_ends"].count)


def text(columns: dict[str, Column], name: str, texts: list[bytes]) -> None:
    """More rows of a column of text."""
    data, ends = columns[f"{name}s"], columns[f"{name}_ends"]
    ends.add(data.count + np.cumsum([len(one) for one in texts], dtype=np.int64))
    data.add(np.frombuffer(b"".join(texts), np.uint8))


def located(path: Path, base: str) -> bytes:
    """A path as it is kept: from a folder on, if it is below that."""
    name = os.fspath(path)
    if "/.." in name or not (name.startswith("/") or ADDRESS.match(name)):  # of most paths nothing is to be looked up
        name = os.path.abspath(name)
    return os.fsencode(name.removeprefix(base))
