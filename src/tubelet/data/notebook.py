"""What `prepare` has done in a folder, written down file by file, so that it can be stopped and shared.

Each part of the work appends lines of JSON to a file of its own in `.prepare/`; all parts read all of them. A line that
a kill cut short counts for nothing.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

import tubelet
from tubelet.data import shards
from tubelet.data.items import PREPARED, Item
from tubelet.data.remote import absolute
from tubelet.data.writing import DiskError

NOTES = ".prepare"  # hidden, so that nobody takes it for a class of videos


@dataclass(frozen=True)
class Row:
    """What became of one file."""

    source: str
    path: str = ""  # below the new folder; empty: in quarantine
    problem: str = ""  # why it is in quarantine
    note: str = ""  # what was lost
    codec: str = ""  # of the source
    frames: int = 0
    seconds: float = 0.0
    bytes_before: int = 0
    bytes: int = 0
    height_before: int = 0  # pixels
    width_before: int = 0
    height: int = 0
    width: int = 0
    psnr: float | None = None  # dB, against the scaled frames; infinite: nothing was lost; none: x264 did not say
    moving: float | None = None  # share of the blocks with a vector that move, in a sample; none: no vectors
    damaged: int = 0  # packets or frames of the source that did not decode
    offset: int = 0  # bytes before it in its shard
    sha256: str = ""
    modified: int = 0  # when the source was changed, in nanoseconds
    index: str = ""  # of the new file, as `kept.packed` writes it, in base64; empty: none is kept


class Notebook:
    """The lines of all parts, and a way to add to those of one."""

    def __init__(self, out: Path, part: tuple[int, int]) -> None:
        self.out, self.name = out, f"{part[0]}of{part[1]}"
        self.scratch = out / NOTES / self.name  # what is unfinished, or waits for its shard
        self.rows: dict[str, Row] = {}  # by source
        self.packed: dict[str, tuple[str, int]] = {}  # by name: the shard, bytes before it there
        self.file: TextIO | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """For adding lines, by nobody else at the same time.

        Raises:
            ValueError: somebody else does.
            DiskError: the folder cannot be written to.
        """
        path = self.scratch.with_suffix(".jsonl")
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DiskError.of(f"{path} cannot be written", error) from error
        with self.file:
            alone(self.file, f"part {self.name.replace('of', ' of ')} of {self.out}")
            for left in self.scratch.glob(".*"):  # by a kill
                left.unlink(missing_ok=True)
            if path.read_bytes()[-1:] not in (b"", b"\n"):  # a line that was cut short
                self.file.write("\n")
            self.read()
            for key in self.packed:  # by a kill between packing and this
                self.waiting(key).unlink(missing_ok=True)
            yield

    def read(self) -> None:
        """Takes in what all parts wrote down; of several rows about a file the last one written counts."""
        newest: dict[str, int] = {}
        for path in sorted((self.out / NOTES).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(json.JSONDecodeError):
                    said: dict[str, Any] = json.loads(line)
                    if "row" in said:
                        source = said["row"]["source"]
                        if said["at"] >= newest.get(source, 0):
                            self.rows[source], newest[source] = Row(**said["row"]), said["at"]
                    else:
                        self.packed |= {key: (said["shard"], offset) for key, offset in said["offsets"].items()}

    def add(self, row: Row) -> None:
        """One more file is done, or in quarantine."""
        self.rows[row.source] = row
        self.write({"row": asdict(row)})

    def add_shard(self, name: str, offsets: dict[str, int]) -> None:
        """One more shard is there."""
        self.packed |= {key: (name, offset) for key, offset in offsets.items()}
        self.write({"shard": name, "offsets": offsets})

    def write(self, line: dict[str, Any]) -> None:
        """A line, for good.

        Raises:
            DiskError: the disk is full, or refuses.
        """
        assert self.file is not None
        try:
            self.file.write(json.dumps({"at": time.time_ns(), **line}) + "\n")
            self.file.flush()
        except OSError as error:
            raise DiskError.of(f"{self.out / NOTES} cannot be written to", error) from error

    def final(self, row: Row, key: str) -> Row | None:
        """The row with the place that the file has in the end; none where it waits for its shard."""
        if row.problem or row.path:
            return row
        if key not in self.packed:
            return None
        shard, offset = self.packed[key]
        return replace(row, path=f"{shard}/{key}.mp4", offset=offset)

    def stands(self, source: Path, key: str, sharded: bool, retry: bool = False) -> bool:
        """Whether a file is done: its source is as it was, and what was made of it is there; or it waits here."""
        row = self.rows.get(os.fspath(source))
        if row is None or (row.bytes_before, row.modified) != state(source):
            return False
        if row.problem:
            return not retry
        if sharded and key in self.packed:
            return (self.out / self.packed[key][0]).is_file()
        place = self.place(key, sharded)
        return place.is_file() and place.stat().st_size == row.bytes

    def place(self, key: str, sharded: bool) -> Path:
        """Where a file lies: in the new folder, or where it waits for its shard."""
        return self.waiting(key) if sharded else self.out / f"{key}.mp4"

    def waiting(self, key: str) -> Path:
        """Where a file lies that waits for its shard."""
        return self.scratch / f"{key}.mp4"

    def drop(self, key: str, sharded: bool) -> None:
        """Removes what was made of a file as it was before.

        Raises:
            DiskError: the folder cannot be written to.
        """
        try:
            self.place(key, sharded).unlink(missing_ok=True)
        except OSError as error:
            raise DiskError.of(f"{self.place(key, sharded)} cannot be removed", error) from error

    def clear(self) -> None:
        """Removes what waits for its shard although it is in one: work went on with other part numbers.

        Where somebody is at work on those parts, it stays.
        """
        for folder in [path for path in (self.out / NOTES).iterdir() if path.is_dir()]:
            waiting = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.mp4")}
            if left := waiting.keys() & self.packed.keys():
                with suppress(ValueError, OSError), folder.with_suffix(".jsonl").open("a") as file:
                    if folder != self.scratch:
                        alone(file, folder.name)
                    for key in left:
                        waiting[key].unlink(missing_ok=True)


class Packer:
    """Fills shards with the files of a part, in their order, as soon as they are there.

    `todo` names the sources that are being done now. A row of an earlier time does not count for them: not that of a
    file in quarantine which is tried again.
    """

    def __init__(
        self, book: Notebook, jobs: Sequence[tuple[Path, str]], items: Sequence[Item], size: int, todo: Iterable[str]
    ) -> None:
        self.book, self.jobs, self.size, self.todo = book, jobs, size, {*todo}
        self.next, self.bytes = 0, 0
        self.waiting: list[tuple[Path, str, Row]] = []
        self.items: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self.items[absolute(item.path)].append(item)

    def came(self, source: str) -> None:
        """One of the files to do is there, or in quarantine."""
        self.todo.discard(source)
        self.go_on()

    def go_on(self, last: bool = False) -> None:
        """Packs what is there, in full shards; with `last` the rest, too."""
        while self.next < len(self.jobs):
            source, key = self.jobs[self.next]
            if os.fspath(source) in self.todo or not self.book.stands(source, key, sharded=True):
                break
            row = self.book.rows[os.fspath(source)]
            if not row.problem and key not in self.book.packed:
                self.waiting.append((source, key, row))
                self.bytes += row.bytes
            self.next += 1
            if self.bytes >= self.size:
                self.pack()
        if last and self.waiting:
            self.pack()

    def pack(self) -> None:
        """One shard of what waits.

        Raises:
            DiskError: the disk is full, or refuses.
        """
        number = sum(name.startswith(f"{self.book.name}-") for name in {name for name, _ in self.book.packed.values()})
        name = f"{self.book.name}-{number:05d}{shards.SUFFIX}"
        videos = [
            (key, self.book.waiting(key), row.sha256, self.about(source, row)) for source, key, row in self.waiting
        ]
        try:
            offsets = shards.pack(self.book.out / name, videos)
            self.book.add_shard(name, offsets)
            for _, path, _, _ in videos:
                path.unlink()
        except OSError as error:
            raise DiskError.of(f"{self.book.out / name} cannot be written", error) from error
        self.waiting, self.bytes = [], 0

    def about(self, source: Path, row: Row) -> dict[str, Any]:
        """What stands beside a video in its shard: its label where all its parts have the same, and the parts."""
        parts = [
            {name: getattr(item, name) for name in ("label", "start", "end", "group")}
            for item in self.items[os.fspath(source)]
        ]
        labels = {part["label"] for part in parts}
        same = {"label": parts[0]["label"]} if len(labels) == 1 else {}
        return same | {"clips": parts, "frames": row.frames, "seconds": row.seconds, "source": source.name}


def state(source: Path) -> tuple[int, int]:
    """Bytes of a file or a folder of images, and when it was last changed, in nanoseconds; both 0 if it is gone."""
    try:
        if not source.is_dir():
            return shards.state_of(source)
        states = [file.stat() for file in source.iterdir() if file.is_file()]
        return sum(one.st_size for one in states), max((one.st_mtime_ns for one in states), default=0)
    except OSError:
        return 0, 0


def alone(file: TextIO, what: str) -> None:
    """Holds a file until this process ends, where the system can.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not Unix
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is at work on {what}; wait for it, or end it first") from None
    except OSError:  # a network file system without locks
        pass


def begun(out: Path, settings: dict[str, Any]) -> None:
    """Writes down how a folder is prepared, or looks whether it was begun in the same way.

    Raises:
        ValueError: it was not, with what differs; or it holds something else.
        DiskError: it cannot be made.
    """
    card = out / PREPARED
    if out.is_file():
        raise ValueError(f"{out} is a file; name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not card.exists():
            if there := sorted(path.name for path in out.iterdir() if path.name[0] != "." and path != card):
                raise ValueError(f"{out} holds something else ({', '.join(there[:3])}); name a new folder")
            replaced(card, json.dumps({"tubelet": tubelet.__version__, "settings": settings}, indent=1) + "\n")
    except OSError as error:
        raise DiskError.of(f"{out} cannot be written to", error) from error
    try:
        before = json.loads(card.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{card} cannot be read ({error}); name a new folder") from error
    wrong = [
        f"{name.replace('_', ' ')} was {before.get(name)}, now {value}"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if wrong:
        raise ValueError(
            f"{out} was begun in another way: {'; '.join(wrong)}. Say the same again, or name a new folder"
        )


def replaced(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    part = path.with_name(f".{path.name}.{uuid4().hex}")  # parts on several machines may have one process number
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
