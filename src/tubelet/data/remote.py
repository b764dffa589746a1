"""Files that lie elsewhere, at any address that fsspec knows (s3://, gs://, https:// ...), read in ranges, patiently.

A remote file has a path as a local one has: `Path("s3://bucket/a.mp4")`, which is `s3:/bucket/a.mp4`, is known by its
first part. Only `shards.py` and what lists folders need to tell the two apart.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from tubelet.data.retry import LISTING, Unreachable, patiently

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/\s])")  # two letters or more: C:/ is a disk
INSIDE = re.compile(r"(?<![\w/.+-])([a-z][a-z0-9+.-]+):/(?=[^/\s])")  # the same in a text, as `Path` writes it
# What fsspec calls a protocol, and is this machine or a way to wrap another.
HERE = {"file", "local", "data", "dir", "zip", "tar", "libarchive", "generic", "reference"}
HERE |= {"simplecache", "filecache", "blockcache", "cached", "asynclocal", "async_wrapper", "asyncwrapper"}
PACKAGES = dict.fromkeys(("s3", "s3a", "http", "https"), "'tubelet[remote]'")
PACKAGES |= dict.fromkeys(("gs", "gcs"), "gcsfs") | dict.fromkeys(("az", "abfs", "adl"), "adlfs")

BLOCK = 2**20  # bytes fetched at once; at 50 ms a request and 100 MB/s, more of them are quicker than smaller ones
BLOCKS = 8  # that are kept of a file, for `FILES` files: 32 MB a process
FILES = 4
FRESH = 5.0  # seconds for which a file's state need not be asked again before it is read; it is asked after
# What tells one content of a file from another, the surest first; every storage has its own word for it.
MARKS = (
    *("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest", "checksum", "LastModified", "Last-Modified"),
    *("last_modified", "updated", "mtime", "modified", "created"),
)


class State(NamedTuple):
    """What tells whether a remote file is still the same."""

    bytes: int
    version: int  # a digest of the storage's own mark; of nothing where it has none


# ---------------------------------------------------------------------------- addresses


@lru_cache(maxsize=256)
def elsewhere(protocol: str) -> bool:
    """Whether a word is a protocol of fsspec that leads to another machine (or to `memory`)."""
    import fsspec

    return protocol not in HERE and protocol in fsspec.available_protocols()


def url_of(path: Path | str) -> str | None:
    """The address that a path means; none: it is a local path.

    >>> url_of(Path("s3://bucket/a.mp4")), url_of("videos/a.mp4"), url_of("C:/a.mp4")
    ('s3://bucket/a.mp4', None, None)
    """
    text = os.fspath(path)
    match = ADDRESS.match(text)
    if match is None or not elsewhere(match[1]):
        return None
    return f"{match[1]}://{text[match.end() :]}"


def plain(text: Path | str) -> Path:
    """The path that is written so; `file://` is left out.

    >>> plain("file:///videos/a.mp4").as_posix(), plain("s3://bucket/a.mp4").as_posix()
    ('/videos/a.mp4', 's3:/bucket/a.mp4')
    """
    return Path(re.sub(r"^(file|local):/+", "/", os.fspath(text)))


def joined(root: Path, name: str) -> Path:
    """What a list in the folder `root` calls `name`: a path relative to it, or an address.

    Raises:
        ValueError: a list that lies elsewhere names a file of this machine.
    """
    path = plain(name)
    if url_of(path) is not None:
        return path
    if path.is_absolute() and url_of(root) is not None:
        raise ValueError(
            f"a list in {shown(root)} names {name}, which is a place on this machine; expected paths relative to the "
            "list, or addresses. To read local files, copy the list here"
        )
    return root / path


def shown(text: Path | str) -> str:
    """A path, or a text with paths in it, with addresses as people write them.

    >>> shown(Path("s3://bucket/a.mp4")), shown("no file s3:/bucket/a.mp4 in /videos")
    ('s3://bucket/a.mp4', 'no file s3://bucket/a.mp4 in /videos')
    """
    return INSIDE.sub(lambda match: f"{match[1]}://" if elsewhere(match[1]) else match[0], os.fspath(text))


def absolute(path: Path | str) -> str:
    """A path from the root of this machine's files, or from its protocol on."""
    return os.fspath(path) if url_of(path) is not None else os.path.abspath(path)


# ---------------------------------------------------------------------------- asking


def asked(url: str, method: str, seconds: float, **options: Any) -> Any:
    """What a method of fsspec's file system says of an address.

    The file system is looked up each time: fsspec has one for each process, and none survives a fork.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    if isinstance(system, AsyncFileSystem):
        options["timeout"] = seconds
    if method == "cat_file" and url.startswith("http"):  # or a range may be one of the compressed file
        options["headers"] = {**getattr(system, "kwargs", {}).get("headers", {}), "Accept-Encoding": "identity"}
    found = getattr(system, method)(path, **options)
    if method == "find":
        system.invalidate_cache()  # or some would tell the state of files by it, for ever
        base = path.rstrip("/") + "/"
        return [name[len(base) :] for name in found if name.startswith(base)]
    return found


def ready(url: str) -> None:
    """Looks whether an address can be asked for at all.

    Raises:
        ValueError: a package is missing, which is named; or it is a chain of addresses.
    """
    import fsspec

    protocol = url.partition(":")[0]
    if "::" in url:
        raise ValueError(f"{url} is several addresses in one (::), of which none is read; expected {protocol}://...")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        line = f": pip install {PACKAGES[protocol]}" if protocol in PACKAGES else ""
        raise ValueError(f"{url}: {protocol}:// takes a package that is not installed{line} ({error})") from error


# ---------------------------------------------------------------------------- files

_states: dict[str, tuple[float, State]] = {}


def state_of(url: str, anew: bool = False) -> State:
    """Size and version of a remote file, as asked for within the last seconds, or now.

    Raises:
        IsADirectoryError: it is a folder.
        Otherwise as `patiently`.
    """
    if not anew and (kept := _states.get(url)) is not None and monotonic() - kept[0] < FRESH:
        return kept[1]
    ready(url)
    about: dict[str, Any] = patiently(url, lambda seconds: asked(url, "info", seconds))
    if about.get("type") == "directory":
        raise IsADirectoryError(f"{url} is a folder; a file was expected")
    if about.get("size") is None or about.get("partial") is False:
        lacks = "does not say how large it is" if about.get("size") is None else "gives no parts of it"
        raise Unreachable(f"{url} cannot be read: its server {lacks}; copy the file here, or to another server")
    mark = next((f"{name} {about[name]}" for name in MARKS if about.get(name)), "")
    version = int.from_bytes(hashlib.blake2b(mark.encode(), digest_size=7).digest(), "big")
    if len(_states) >= 1024:
        _states.clear()
    found = State(int(about["size"]), version)
    _states[url] = monotonic(), found
    return found


def exists(url: str) -> bool:
    """Whether there is a file at an address.

    Raises:
        As `patiently`, but for a file that is not there.
    """
    try:
        return state_of(url).bytes >= 0
    except (FileNotFoundError, IsADirectoryError):
        return False


def walked(url: str) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at or below an address with the names of its files, but for hidden ones, as `items.walked`.

    Raises:
        FileNotFoundError: there is nothing.
        Otherwise as `patiently`.
    """
    ready(url)
    folders: dict[str, list[str]] = {}
    for name in patiently(url, partial(_found, url), LISTING):
        if not any(part.startswith(".") for part in name.split("/")):
            folder, _, file = name.rpartition("/")
            folders.setdefault(folder, []).append(file)
    if not folders:
        raise FileNotFoundError(f"there is nothing at {url}, or it cannot be listed; expected a folder of videos")
    yield from ((Path(url) / folder, sorted(filter(None, files))) for folder, files in sorted(folders.items()))


def _found(url: str, seconds: float) -> list[str]:
    """Names of all files below an address, relative to it."""
    found: list[str] = asked(url, "find", seconds)
    return found


def fetched(url: str, size: int, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of a remote file of that size, all that there are.

    Raises:
        As `patiently`.
    """

    end = min(end, size)

    def act(seconds: float) -> bytes:
        data: bytes = asked(url, "cat_file", seconds, start=start, end=end)
        if len(data) > end - start:
            raise io.UnsupportedOperation(
                f"asked for bytes {start} to {end}, its server sent {len(data)} bytes: it gives no parts of files; "
                "copy the file here, or to another server"
            )
        if len(data) < end - start:
            raise EOFError(f"of bytes {start} to {end} only {len(data)} came")
        return data

    return patiently(url, act)


@lru_cache(maxsize=FILES)
def blocks(url: str, state: State, block: int) -> Any:
    """fsspec's cache of blocks of a file in this state; those of the files read last stay."""
    from fsspec.caching import BlockCache

    return BlockCache(block, partial(fetched, url, state.bytes), state.bytes, BLOCK * BLOCKS // block)


class Reader(io.RawIOBase):
    """A remote file, or part of one, that FFmpeg, tarfile and csv read like an open one."""

    def __init__(self, url: str, start: int = 0, count: int | None = None, block: int | None = None) -> None:
        """`count` bytes from `start` on; the file is asked for its state now, and not yet for its content.

        Raises:
            As `state_of`.
        """
        super().__init__()
        self.url, self.start, self.name = url, start, url
        self.state = state_of(url)
        self.count = self.state.bytes - start if count is None else count
        self.cache = blocks(url, self.state, BLOCK if block is None else block)
        self.before = self.cache.miss_count
        self.place = 0
        self.failed: OSError | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place, in bytes."""
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place, and says which it is."""
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.count}[whence]
        if place < 0:
            raise OSError(f"{self.url} has no byte {place}")
        self.place = place
        return place

    def readinto(self, buffer: Any) -> int:
        """The next bytes, as many as there is room for, or are left."""
        end = min(self.place + len(buffer), self.count)
        if end <= self.place:
            return 0
        data = self.pread(end - self.place, self.place)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def pread(self, count: int, begin: int) -> bytes:
        """`count` bytes from `begin` on, fewer at the end.

        Raises:
            As `fetched`.
        """
        try:
            data: bytes = self.cache._fetch(self.start + begin, self.start + min(begin + count, self.count))
        except OSError as error:
            self.failed = error  # FFmpeg takes some errors for the end of the file
            raise
        return data

    def settle(self) -> None:
        """A look, after the reading, whether all that was read is of one file.

        Raises:
            OSError: a read failed, or the file was changed meanwhile.
        """
        if self.failed is not None:
            raise self.failed
        if self.cache.miss_count == self.before:
            return
        if (now := state_of(self.url, anew=True)) != self.state:
            blocks.cache_clear()
            what = "" if now.bytes == self.state.bytes else f" (from {self.state.bytes} to {now.bytes} bytes)"
            raise Unreachable(f"{self.url} was changed{what} while it was read; read it again")


@contextmanager
def opened(url: str, start: int = 0, count: int | None = None, block: int | None = None) -> Iterator[Reader]:
    """An open remote file; when it is closed, all that was read is known to be of one file.

    Raises:
        As `Reader` and `Reader.settle`; that is told in place of errors that come of it.
    """
    with Reader(url, start, count, block) as reader:
        try:
            yield reader
        except Exception:
            reader.settle()
            raise
        reader.settle()
