"""Features on disk: one array that is memory-mapped, and beside it a table that says which clip every row is of.

Four files of one name: `.npy` (the array, row by row), `.csv` (path, label, start, end of every row), `.problems.csv`
(what could not be read) and `.json` (how they were made, and how far). The last is replaced after every batch and says
how long the others are: whatever a crash leaves beyond that is cut off when the same command is repeated.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

PARQUET_NEEDS = "parquet needs the extra: pip install 'tubelet[parquet]'; or write .npy, which needs nothing"


@dataclass(frozen=True)
class Row:
    """Which clip a row of features is of."""

    path: str
    label: str | None
    start: float  # seconds, when its first frame is shown
    end: float  # seconds, when the last is no longer shown


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Table:
    """Features of clips; `values` are on the disk until they are looked at."""

    values: np.ndarray  # "rows d", or "rows n d" with a row for every token
    rows: list[Row]
    about: dict[str, Any]

    def pooled(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Some rows, "rows d", in memory as float32: the mean of the tokens where there are tokens.

        Raises:
            ValueError: some are not finite; names the first.
        """
        part = np.asarray(self.values[start:stop], dtype=np.float32)
        part = part.mean(1) if part.ndim == 3 else part
        bad = np.flatnonzero(~np.isfinite(part).all(1))
        if len(bad):
            row = self.rows[start + int(bad[0])]
            raise ValueError(
                f"features of {row.path} ({row.start:.2f} to {row.end:.2f} s) are not finite, nor are those of "
                f"{len(bad) - 1} other rows: were they made by an encoder whose training failed? Embed again"
            )
        return part


# ---------------------------------------------------------------------------- where


def stem_of(out: Path) -> Path:
    """The name that the four files share, without an ending.

    >>> str(stem_of(Path("a/clips.npy"))), str(stem_of(Path("a/b"))), str(stem_of(Path("a/clips.parquet")))
    ('a/clips', 'a/b/features', 'a/.clips.part/features')

    Raises:
        ValueError: an ending that is none of ours.
    """
    if out.is_dir():
        return out / "features"
    if out.suffix == ".npy":
        return out.with_suffix("")
    if out.suffix == ".parquet":  # made of the four at the end
        return out.with_name(f".{out.stem}.part") / "features"
    if out.suffix:
        raise ValueError(f"cannot write features to {out}: expected an ending .npy or .parquet, or a folder")
    return out / "features"


def beside(stem: Path, ending: str) -> Path:
    """One of the four files (a name may have dots, so no `with_suffix`)."""
    return stem.with_name(stem.name + ending)


def header(shape: Sequence[int], kind: np.dtype) -> bytes:
    """The beginning of an .npy file, always 128 bytes, so that it can be written anew once the rows are counted."""
    text = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode("latin1") + b"\n"


# ---------------------------------------------------------------------------- writing


@dataclass
class Progress:
    """How far the files are. Lengths in bytes."""

    item: int = 0  # the video that comes next, or that is not done yet
    windows: int = 0  # of that video, written already
    rows: int = 0
    problems: int = 0
    table: int = 0  # bytes
    complaints: int = 0  # bytes of the problems
    complete: bool = False


class Writer:
    """Appends rows to the four files; or goes on where a run that was stopped had come to."""

    def __init__(self, stem: Path, shape: Sequence[int], kind: Literal["float32", "float16"], about: dict[str, Any]):
        """Opens the files of `stem`; a row is an array of `shape`.

        Raises:
            ValueError: there are files already, made with other settings or of other videos; or they are damaged.
        """
        self.stem, self.shape, self.kind, self.about = stem, tuple(shape), np.dtype(kind), about
        self.progress = Progress()
        self.alone = not stem.parent.exists()
        stem.parent.mkdir(parents=True, exist_ok=True)
        record = beside(stem, ".json")
        if record.exists():
            self.progress = self._found(record)
        elif beside(stem, ".npy").exists():
            raise ValueError(f"{beside(stem, '.npy')} is there, and not from `tubelet embed`; name another --out")
        done = self.progress
        row = self.kind.itemsize * int(np.prod(self.shape))
        self.array = _opened(beside(stem, ".npy"), 128 + row * done.rows if done.rows else 0)
        self.table = _opened(beside(stem, ".csv"), done.table)
        self.complaints = _opened(beside(stem, ".problems.csv"), done.complaints)
        if not done.table:
            self.array.truncate(0)
            self.array.write(header((0, *self.shape), self.kind))
            self.table.write(_line(COLUMNS))
            self.complaints.write(_line(("path", "problem")))
            self._record()

    def _found(self, record: Path) -> Progress:
        """How far the files that are there had come."""
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            progress = Progress(**found.pop("progress"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{record} is not from `tubelet embed` ({error}); name another --out") from error
        mine = json.loads(json.dumps(self.about))
        differ = [f"{key}: {found.get(key)} -> {mine.get(key)}" for key in mine if found.get(key) != mine.get(key)]
        if differ:
            raise ValueError(
                f"{self.stem}.npy was begun with other settings or videos ({'; '.join(differ)}); repeat the first "
                "command, name another --out, or delete it with what lies beside it"
            )
        return progress

    def add(self, values: np.ndarray, rows: Sequence[Row], item: int, windows: int) -> None:
        """Rows of features, "rows ...", after which `windows` of video `item` are written."""
        self.array.write(np.ascontiguousarray(values, dtype=self.kind).tobytes())
        self.table.write(b"".join(_line((r.path, r.label or "", f"{r.start:.6f}", f"{r.end:.6f}")) for r in rows))
        self.progress.rows += len(rows)
        self.progress.item, self.progress.windows = item, windows
        self._record()

    def problem(self, path: str, text: str) -> None:
        """Something that could not be read; kept with the next rows."""
        self.complaints.write(_line((path, text)))
        self.progress.problems += 1

    def finish(self) -> None:
        """Says in the array how many rows it has."""
        self.progress.complete = True
        self.array.seek(0)
        self.array.write(header((self.progress.rows, *self.shape), self.kind))
        self._record()
        self.close()

    def close(self) -> None:
        """Closes the files."""
        for file in (self.array, self.table, self.complaints):
            file.close()

    def remove(self) -> None:
        """Deletes the files, and their folder where that was made for them."""
        for ending in (".npy", ".csv", ".problems.csv", ".json"):
            beside(self.stem, ending).unlink(missing_ok=True)
        if self.alone:
            with suppress(OSError):
                self.stem.parent.rmdir()

    def _record(self) -> None:
        for file in (self.array, self.table, self.complaints):
            file.flush()
        self.progress.table, self.progress.complaints = self.table.tell(), self.complaints.tell()
        replaced(beside(self.stem, ".json"), json.dumps(self.about | {"progress": asdict(self.progress)}).encode())


def _opened(path: Path, length: int) -> Any:
    """A file to go on writing at `length`, without what lies beyond.

    Raises:
        ValueError: it is shorter than that.
    """
    path.touch()
    file = open(path, "r+b")  # noqa: SIM115 - closed by the writer
    if os.path.getsize(path) < length:
        file.close()
        raise ValueError(f"{path} is shorter than was written; delete it and what lies beside it, and begin anew")
    file.truncate(length)
    file.seek(length)
    return file


def _line(values: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "surrogateescape")  # names of files may be any bytes


def write_problems(path: Path, problems: Sequence[tuple[str, str]]) -> None:
    """A table of what could not be read, or no such file."""
    if problems:
        replaced(path, b"".join(map(_line, [("path", "problem"), *problems])))
    else:
        path.unlink(missing_ok=True)


def replaced(path: Path, data: bytes) -> None:
    """A file in place of another, or of none, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


# ---------------------------------------------------------------------------- reading


def read(path: Path | str) -> Table:
    """The features that `tubelet embed` wrote to `path`, memory-mapped (parquet: in memory).

    Raises:
        FileNotFoundError, ValueError: none there, or not finished; or pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _parquet(path)
    stem = stem_of(path)
    record = beside(stem, ".json")
    if not record.is_file():
        raise FileNotFoundError(f"{path} has no features: {record} is not there; make them with `tubelet embed`")
    about = json.loads(record.read_text(encoding="utf-8"))
    if not about["progress"]["complete"]:
        raise ValueError(f"{path} is not finished; repeat the command that began it, which goes on where it stopped")
    with open(beside(stem, ".csv"), encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = [
            Row(row["path"], row["label"] or None, float(row["start"]), float(row["end"]))
            for row in csv.DictReader(file)
        ]
    values = np.load(beside(stem, ".npy"), mmap_mode="r") if table else np.zeros((0, 1), np.float32)
    return _checked(Table(values, table, about), path)


def problems_of(stem: Path) -> list[tuple[str, str]]:
    """(path, problem) of the videos that could not be read."""
    with open(beside(stem, ".problems.csv"), encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(row["path"], row["problem"]) for row in csv.DictReader(file)]


def _checked(table: Table, path: Path) -> Table:
    if len(table.rows) != len(table.values):
        raise ValueError(f"{path} has {len(table.values)} rows of features and {len(table.rows)} of names; embed again")
    return table


def pieces(table: Table, most: int = 64 << 20) -> Iterator[tuple[int, int]]:
    """(start, stop) of parts of the rows that take at most about `most` bytes each."""
    row = max(table.values[:1].nbytes, 1)
    step = max(most // row, 1)
    for start in range(0, len(table.rows), step):
        yield start, min(start + step, len(table.rows))


# ---------------------------------------------------------------------------- parquet


def arrow() -> Any:
    """The package that reads and writes parquet.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise ValueError(PARQUET_NEEDS) from error
    return pyarrow


def to_parquet(table: Table, path: Path) -> None:
    """`path` with columns path, label, start, end and features (tokens one after the other), written in parts.

    Raises:
        ValueError: pyarrow is not installed.
    """
    pa = arrow()
    size = int(np.prod(table.values.shape[1:]))
    kind = pa.list_(pa.from_numpy_dtype(table.values.dtype), size)
    columns = [("path", pa.string()), ("label", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    about = {"tubelet": json.dumps(table.about | {"shape": table.values.shape[1:]})}
    schema = pa.schema([*columns, ("features", kind)], metadata=about)
    part = path.with_name(f".{path.name}.part")
    with pa.parquet.ParquetWriter(part, schema) as writer:
        for start, stop in pieces(table):
            rows = table.rows[start:stop]
            flat = pa.array(np.asarray(table.values[start:stop]).reshape(-1))
            arrays = [pa.array([getattr(row, name) for row in rows], type=kind) for name, kind in columns]
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, size))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    os.replace(part, path)


def _parquet(path: Path) -> Table:
    """What `to_parquet` wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; make it with `tubelet embed`")
    table = arrow().parquet.read_table(path)
    about = (table.schema.metadata or {}).get(b"tubelet")
    if about is None:
        raise ValueError(f"{path} is not from `tubelet embed`: its metadata do not say how it was made")
    about = json.loads(about)
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["features"].chunks]
    values = np.concatenate(chunks or [np.zeros(0, np.float32)]).reshape(-1, *about["shape"])
    rows = [Row(**row) for row in table.select(list(COLUMNS)).to_pylist()]
    return _checked(Table(values, rows, about), path)
