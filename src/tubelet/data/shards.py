"""What a path leads to: a file, a file elsewhere (`remote.py`), or one in a shard, here or elsewhere.

Shards are many videos in one tar file, as WebDataset has them, each read where it lies.

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
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from tubelet.data import remote

SUFFIX = ".tar"
COLUMNS = ("member", "offset", "bytes", "sha256")
HEADERS = 2**14  # bytes fetched at once of a remote shard whose headers are read: little of the videos between them
# What Python's reader raises for damaged headers.
DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError)


class Member(NamedTuple):
    """Where a file lies in a shard."""

    shard: Path
    offset: int  # bytes before it
    bytes: int
    modified: int  # nanoseconds: of the shard; of a remote one, its version


# ---------------------------------------------------------------------------- reading


def member_of(path: Path) -> Member | None:
    """Where a path leads that goes through a shard; none if it does not, or nothing of that name is there."""
    for parent in path.parents if SUFFIX in os.fspath(path) else ():
        if parent.suffix == SUFFIX and is_file(parent):
            size, modified = state_of(parent)
            place = members(os.fspath(parent), size, modified).get(path.relative_to(parent).as_posix())
            return None if place is None else Member(parent, *place, modified)
    return None


def is_file(path: Path) -> bool:
    """Whether there is a file, here or elsewhere; not in a shard."""
    url = remote.url_of(path)
    return path.is_file() if url is None else remote.exists(url)


@lru_cache(maxsize=4096)
def members(shard: str, size: int, modified: int) -> dict[str, tuple[int, int]]:
    """(bytes before it, bytes) of every file in a shard that has this size and time of change.

    Raises:
        OSError: it cannot be read, or is no tar file.
    """
    table, url = Path(shard).with_suffix(".csv"), remote.url_of(shard)
    try:
        with suppress(ValueError, csv.Error):
            names, *rows = [*csv.reader(io.StringIO(text_of(table), newline=""))] or [[]]
            places = {name: (int(offset), int(count)) for name, offset, count, _ in rows}
            if tuple(names) == COLUMNS and all(min(place) >= 0 and sum(place) <= size for place in places.values()):
                return places  # else it is about other things
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:  # some storages refuse what is not there
        if url is None and isinstance(error, PermissionError):
            raise
    found: dict[str, tuple[int, int]] = {}
    try:
        far = nullcontext() if url is None else remote.opened(url, block=HEADERS)
        # "r:": not packed, for then nothing would lie where it is said to
        with far as file, tarfile.open(shard, "r:", fileobj=file) as tar:
            for info in tar:
                if info.isreg() and not info.issparse() and 0 <= info.size <= size - info.offset_data:
                    found[posixpath.normpath(info.name)] = info.offset_data, info.size
    except DAMAGE as error:
        raise OSError(f"{remote.shown(shard)} cannot be read as a tar file: {error}; copy it anew") from error
    return found


def text_of(path: Path) -> str:
    """The text of a file, in UTF-8, without the byte order mark that spreadsheets put in front.

    Raises:
        OSError: there is nothing.
        UnicodeDecodeError: it is something else.
    """
    with content(path) as (file, count):
        return file.read(count).decode("utf-8-sig")


def state_of(path: Path) -> tuple[int, int]:
    """Bytes of a file and when it was changed, in nanoseconds (of a remote one, its version); in a shard or not.

    Raises:
        OSError: there is nothing.
    """
    if (url := remote.url_of(path)) is not None:
        member = member_of(path)
        return remote.state_of(url) if member is None else (member.bytes, member.modified)
    try:
        status = path.stat()
    except OSError:
        if (member := member_of(path)) is None:
            raise
        return member.bytes, member.modified
    return status.st_size, status.st_mtime_ns


def size_of(path: Path) -> int | None:
    """Bytes of a file, in a shard or not; None where there is a folder, or nothing. The system is asked once.

    None of remote files, too: it is asked of all files of a run, and each would be a request.
    """
    if remote.url_of(path) is not None:
        return None
    try:
        status = path.stat()
    except OSError:
        member = member_of(path)
        return None if member is None else member.bytes
    return None if stat.S_ISDIR(status.st_mode) else status.st_size


def exists(path: Path) -> bool:
    """Whether there is a file or folder, in a shard or not; elsewhere only files are known."""
    if (url := remote.url_of(path)) is not None:
        return member_of(path) is not None or remote.exists(url)
    return path.exists() or member_of(path) is not None


@contextmanager
def address(path: Path) -> Iterator[str | BinaryIO]:
    """What FFmpeg opens: the path itself, or a part of the shard, or a file that is open, where it lies elsewhere.

    Raises:
        OSError: there is no file; or one elsewhere cannot be read, or was changed meanwhile.
    """
    if remote.url_of(path) is not None:
        with content(path) as (file, _):
            yield file
    elif path.is_file():
        yield f"file:{path}"  # or a name with a colon might be an address
    elif (member := member_of(path)) is not None:
        end = member.offset + member.bytes
        yield f"subfile,,start,{member.offset},end,{end},,:{os.path.abspath(member.shard)}"
    else:
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; a video file was expected")


@contextmanager
def content(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file, in a shard or not, opened where its own bytes begin, and how many they are.

    Raises:
        OSError: there is nothing; or one elsewhere cannot be read, or was changed meanwhile.
    """
    if (url := remote.url_of(path)) is not None:
        if (member := member_of(path)) is not None:
            url = str(remote.url_of(member.shard))
        with remote.opened(url, *(() if member is None else member[1:3])) as reader:
            yield cast(BinaryIO, reader), reader.count
        return
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
