"""Indices of prepared videos, kept in one file beside their list: no worker reads a video to its end to know it.

What FFmpeg says of an MP4's packets stands in its tables, which `prepare` puts before the pictures. A record is found
by a digest of the tables and of the file's size. So it is right wherever a file is copied, renamed or packed to, and is
no other file's, also if that has the same name, size and time. A digest does not cover the pictures: damage to them is
met, and counted, when they are decoded. Whatever is missing, damaged or of another format counts for nothing: then the
video is read, as without.

The file has a header, then for every record, sorted by digest, its digest, first byte and bytes; then the records: the
digest once more, and compressed by zlib, which notices damage, a line of JSON and the differences of the index's whole
numbers. Only what is asked for is read, and nothing stays open. It is not mapped to memory: pages of a file that is cut
off meanwhile would end the process.
"""

import hashlib
import json
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tubelet.data import remote
from tubelet.data.index import Name, Video, remember, remembered
from tubelet.data.shards import content

INDEX = "prepared.index"
FORMAT = 1
HEADER = struct.Struct("<8sII")  # `MAGIC`, format, records
MAGIC = b"tubelet\n"
DIGEST = 16  # bytes
ENTRY = struct.Struct(f"<{DIGEST}sQI")  # digest, bytes before the record, bytes of it
NEARBY = 2**16  # bytes fetched at once of such a file that lies elsewhere
BEFORE = (b"ftyp", b"moov", b"free")  # boxes of an MP4 that may come before its pictures
SCALARS = ("codec", "container", "width", "height", "rotation", "fps", "variable", "stamp")
ARRAYS = ("keys", "stamps", "starts")
KINDS = (str, str, int, int, int, float, bool, str)  # of `SCALARS`
MOST = 2**29  # bytes of an unpacked record: ten million frames, all key frames. More is made to fill the memory
PIECE = 2**20  # bytes of a file that are read at a time
TROUBLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    struct.error,
    zlib.error,
)


# ---------------------------------------------------------------------------- reading


def known(path: Path, name: Name | None) -> Video | None:
    """The index of a file, by its `name_of`: remembered, or kept in the folder that it was prepared into."""
    if (video := remembered(name)) is not None:
        return video
    with suppress(*TROUBLE):
        place = nearest(os.path.dirname(remote.absolute(path)))
        if place is not None and (video := looked_up(place, path)) is not None:
            return remember(name, video)
    return None


@lru_cache(maxsize=2**16)
def nearest(folder: str) -> str | None:
    """The file of indices in a folder, or in the nearest one above that has any.

    Raises:
        OSError: it lies elsewhere, and that cannot be reached.
    """
    path, above, url = os.path.join(folder, INDEX), os.path.dirname(folder), remote.url_of(folder)
    if url is not None:
        with suppress(PermissionError):  # some storages refuse what is not there
            if remote.exists(f"{url}/{INDEX}"):
                return path
        return None if remote.url_of(above) is None else nearest(above)
    if os.path.isfile(path):
        return path
    return None if above == folder else nearest(above)


@contextmanager
def reading(place: str) -> Iterator[Callable[[int, int], bytes]]:
    """A function that reads (bytes, from which one on) of a file of indices."""
    if (url := remote.url_of(place)) is not None:
        with remote.opened(url, block=NEARBY) as reader:
            yield reader.pread
    else:
        with open(place, "rb", buffering=0) as file:
            yield lambda count, begin: os.pread(file.fileno(), count, begin)


def looked_up(place: str, path: Path) -> Video | None:
    """The index of a video if it is in this file.

    Raises:
        Any of `TROUBLE`: the file or the video cannot be read, or the file is damaged.
    """
    if (digest := digest_of(path)) is None:
        return None
    with reading(place) as read:

        def entry(number: int) -> tuple[bytes, int, int]:
            return ENTRY.unpack(read(ENTRY.size, HEADER.size + number * ENTRY.size))

        magic, form, count = HEADER.unpack(read(HEADER.size, 0))
        if (magic, form) != (MAGIC, FORMAT):
            return None
        number = bisect_left(range(count), digest, key=lambda number: entry(number)[0])
        if number == count:
            return None
        _, begin, size = entry(number)
        record = read(size, begin)
    return unpacked(path, record[DIGEST:]) if record[:DIGEST] == digest else None


def digest_of(path: Path) -> bytes | None:
    """Digest of an MP4's size and of all that comes before its pictures; None if its tables do not, or it is none.

    Raises:
        OSError: it cannot be read.
    """
    with content(path) as (file, left):
        found, tables = hashlib.blake2b(left.to_bytes(8, "little"), digest_size=DIGEST), False
        while len(box := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", box)
            if kind == b"mdat":
                return found.digest() if tables else None
            if kind not in BEFORE or not 8 <= size <= left:
                break
            found.update(box)
            for begin in range(8, size, PIECE):
                found.update(file.read(min(PIECE, size - begin)))
            tables, left = tables or kind == b"moov", left - size
    return None


def unpacked(path: Path, record: bytes) -> Video:
    """The index that a record holds, without its digest.

    Raises:
        Any of `TROUBLE`: it is damaged.
    """
    unpacking = zlib.decompressobj()
    line, _, data = unpacking.decompress(record, MOST).partition(b"\n")
    if not unpacking.eof:
        raise ValueError("a record that is cut off, or larger than any index")
    about = json.loads(line)
    ends = np.cumsum([about.pop(name) for name in ARRAYS])
    parts = np.split(np.frombuffer(data, "<i8").astype(np.int64, copy=False), ends[:-1])
    keys, stamps = (part.cumsum() for part in parts[:2])
    starts = parts[2].reshape(-1, 4).cumsum(0)
    seconds = timed(stamps, about.pop("rate"))
    if wrong := unlikely(about, seconds, keys, stamps, starts):
        raise ValueError(f"no index: {wrong}")
    for array in (seconds, keys, stamps, starts):
        array.setflags(write=False)
    return Video(path=path, seconds=seconds, keys=keys, stamps=stamps, starts=starts, **about)


def unlikely(
    about: dict[str, Any], seconds: np.ndarray, keys: np.ndarray, stamps: np.ndarray, starts: np.ndarray
) -> str:
    """What no index of a video says; empty if all can be."""
    if [type(about.get(name)) for name in SCALARS] != [*KINDS] or about["stamp"] not in ("pts", "pos", "order"):
        return "settings of another kind"
    if min(about["width"], about["height"]) < 1 or not 0 < about["fps"] < np.inf:
        return f"{about['width']}x{about['height']} pixels, {about['fps']} fps"
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        return "times that do not ascend"
    total = len(stamps)
    if len(keys) and not 0 <= keys.min() <= keys.max() < total:
        return "key frames that are not there"
    first = starts[:, 0]
    if not len(first) or first[0] or first[-1] >= total or (np.diff(first) < 0).any() or starts[:, 1].min() < 0:
        return "starts that are not there"
    return ""


def timed(stamps: np.ndarray, rate: int) -> np.ndarray:
    """When frames are shown that have such stamps, `rate` a second."""
    return (stamps - stamps[0]) * (1 / rate)


# ---------------------------------------------------------------------------- writing


def packed(video: Video) -> bytes | None:
    """The record of a video; None if it cannot be kept: its times are not those of its packets, or it is no such MP4.

    Raises:
        OSError: it cannot be read.
    """
    ticks = int(video.stamps[-1] - video.stamps[0])
    rate = round(ticks / video.seconds[-1]) if ticks else 1
    if (digest := digest_of(video.path)) is None or not np.array_equal(timed(video.stamps, rate), video.seconds):
        return None
    arrays = [np.diff(getattr(video, name), axis=0, prepend=0).ravel() for name in ARRAYS]
    about = {name: getattr(video, name) for name in SCALARS} | {"rate": rate}
    about |= {name: len(array) for name, array in zip(ARRAYS, arrays)}
    data = json.dumps(about).encode() + b"\n" + np.concatenate(arrays).astype("<i8").tobytes()
    return digest + zlib.compress(data, 9)


def write(path: Path, records: Iterable[bytes]) -> None:
    """A file of records.

    Raises:
        OSError: the disk is full, or refuses.
    """
    kept = sorted({record[:DIGEST]: record for record in records}.items())
    begin = HEADER.size + ENTRY.size * len(kept)
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, FORMAT, len(kept)))
        for digest, record in kept:
            file.write(ENTRY.pack(digest, begin, len(record)))
            begin += len(record)
        file.writelines(record for _, record in kept)
    nearest.cache_clear()  # where there was none, there may be one now
