"""Shards: many videos in one tar file, as WebDataset has them, each read where it lies.

A video in a shard has the path `SHARD.tar/NAME.mp4`, and is opened, looked up and listed by it like any file. Beside a
shard that `prepare` wrote lies a table, `SHARD.csv`, that says where each of its files begins; of other shards the
headers are read once. Files that belong together have one name and several endings, and follow each other.
"""

import csv
import io
import json
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

SUFFIX = ".tar"
COLUMNS = ("member", "offset", "bytes", "sha256")
# What Python's reader raises for damaged headers.
DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError)


class Member(NamedTuple):
    """Where a file lies in a shard."""

    shard: Path
    offset: int  # bytes before it
    bytes: int
    modified: int  # nanoseconds: of the shard


# ---------------------------------------------------------------------------- reading


def member_of(path: Path) -> Member | None:
    """Where a path leads that goes through a shard; none if it does not, or nothing of that name is there."""
    for parent in path.parents if SUFFIX in os.fspath(path) else ():
        if parent.suffix == SUFFIX and parent.is_file():
            status = parent.stat()
            place = members(os.fspath(parent), status.st_size, status.st_mtime_ns).get(
                path.relative_to(parent).as_posix()
            )
            return None if place is None else Member(parent, *place, status.st_mtime_ns)
    return None


@lru_cache(maxsize=4096)
def members(shard: str, size: int, modified: int) -> dict[str, tuple[int, int]]:
    """(bytes before it, bytes) of every file in a shard that has this size and time of change.

    Raises:
        OSError: it cannot be read, or is no tar file.
    """
    table = Path(shard).with_suffix(".csv")
    if table.is_file():
        with suppress(ValueError, csv.Error), table.open(encoding="utf-8", newline="") as file:
            names, *rows = [*csv.reader(file)] or [[]]
            places = {name: (int(offset), int(count)) for name, offset, count, _ in rows}
            if tuple(names) == COLUMNS and all(min(place) >= 0 and sum(place) <= size for place in places.values()):
                return places  # else it is about other things
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:  # not packed: then nothing would lie where it is said to
            for info in tar:
                if info.isreg() and not info.issparse() and 0 <= info.size <= size - info.offset_data:
                    found[posixpath.normpath(info.name)] = info.offset_data, info.size
    except DAMAGE as error:
        raise OSError(f"{shard} cannot be read as a tar file: {error}; copy it anew") from error
    return found


def state_of(path: Path) -> tuple[int, int]:
    """Bytes of a file and when it was changed, in nanoseconds; in a shard or not.

    Raises:
        OSError: there is nothing.
    """
    try:
        status = path.stat()
    except OSError:
        if (member := member_of(path)) is None:
            raise
        return member.bytes, member.modified
    return status.st_size, status.st_mtime_ns


def size_of(path: Path) -> int | None:
    """Bytes of a file, in a shard or not; None where there is a folder, or nothing. The system is asked once."""
    try:
        status = path.stat()
    except OSError:
        member = member_of(path)
        return None if member is None else member.bytes
    return None if stat.S_ISDIR(status.st_mode) else status.st_size


def exists(path: Path) -> bool:
    """Whether there is a file or folder, in a shard or not."""
    return path.exists() or member_of(path) is not None


def address(path: Path) -> str:
    """What FFmpeg opens: the path itself, or a part of the shard.

    Raises:
        OSError: there is no file.
    """
    if path.is_file():
        return os.fspath(path)
    if (member := member_of(path)) is None:
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; a video file was expected")
    end = member.offset + member.bytes
    return f"subfile,,start,{member.offset},end,{end},,:{os.path.abspath(member.shard)}"


@contextmanager
def content(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file, in a shard or not, opened where its own bytes begin, and how many they are.

    Raises:
        OSError: there is nothing.
    """
    member = None if path.is_file() else member_of(path)
    with (path if member is None else member.shard).open("rb") as file:
        file.seek(0 if member is None else member.offset)
        yield file, os.fstat(file.fileno()).st_size if member is None else member.bytes


# ---------------------------------------------------------------------------- writing


def pack(shard: Path, videos: Sequence[tuple[str, Path, str, dict[str, Any]]]) -> dict[str, int]:
    """A shard of (key, file, sha256, what is known of it), whole or not at all, and where in it each file begins.

    Each video gives `KEY.mp4` and `KEY.json`. The same videos give the same bytes.

    Raises:
        OSError: the disk is full, or refuses.
    """
    part, table = (shard.with_name(f".{shard.stem}.{os.getpid()}{end}") for end in (SUFFIX, ".csv"))
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for key, path, _, about in videos:
                    add(tar, f"{key}{path.suffix}", path.read_bytes())
                    add(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
            file.flush()
            os.fsync(file.fileno())  # what went into it is removed when it is there
        with tarfile.open(part) as tar:
            places = {info.name: (info.offset_data, info.size) for info in tar}
        marks = {f"{key}{path.suffix}": mark for key, path, mark, _ in videos}
        with table.open("w", encoding="utf-8", newline="") as text:
            rows = csv.writer(text)
            rows.writerow(COLUMNS)
            rows.writerows([name, *place, marks.get(name, "")] for name, place in places.items())
        part.replace(shard)
        table.replace(shard.with_suffix(".csv"))
    finally:
        part.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
    return {key: places[f"{key}{path.suffix}"][0] for key, path, _, _ in videos}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """One more file at the end of a tar file, as if it were made in 1970."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
