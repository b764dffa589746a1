"""Asking again, where that may help: of storages that are busy, slow or out of reach for a while.

What fails is tried again after a random wait, of which the longest doubles ("full jitter": a crowd that failed at once
does not come back at once). Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")

# What asking again does not mend.
LASTING = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, AttributeError),
    *(NotImplementedError, TypeError, ValueError, LookupError, MemoryError),
)
BUSY = (408, 425, 429)  # HTTP: timeout, too early, too many requests


@dataclass(frozen=True)
class Retry:
    """How patiently remote files are asked for."""

    tries: int = 6
    first: float = 0.5  # seconds: the longest wait after the first try, twice that after the second ...
    longest: float = 16.0  # ... up to this
    # Seconds that a try may take, where fsspec can cut it short (s3, gs, az, http): what hangs holds up all readers.
    once: float = 10.0
    total: float = 120.0  # seconds for all tries and waits


RETRY = Retry()
LISTING = Retry(once=600.0, total=600.0)  # of a folder with millions of files
_dice = random.SystemRandom()  # forked workers share the state of any other, and would wait alike


class Unreachable(OSError):
    """A remote file that could not be read however often it was tried, or that changed meanwhile."""


def patiently(url: str, act: Callable[[float], T], how: Retry | None = None) -> T:
    """What `act` gives, told how many seconds it may take, tried again while that may help.

    Raises:
        FileNotFoundError, PermissionError: so says the storage.
        Unreachable: anything else, with the number of tries and what the last one said.
    """
    how = RETRY if how is None else how
    begin, tried = monotonic(), 0
    while True:
        tried += 1
        try:
            return act(max(min(how.once, how.total - (monotonic() - begin)), 0.001))
        except Exception as error:
            wait = _dice.uniform(0, min(how.longest, how.first * 2 ** (tried - 1)))
            spent = monotonic() - begin
            if lasting(error) or tried >= how.tries or spent + wait >= how.total:
                raise failure(url, error, tried, spent) from error
        sleep(wait)


def lasting(error: BaseException) -> bool:
    """Whether asking again would give the same."""
    if (status := status_of(error)) is not None:
        return 400 <= status < 500 and status not in BUSY
    if isinstance(error, FileNotFoundError) and type(error.__cause__).__module__.startswith("aiohttp"):
        return False  # of whatever kept it from asking, fsspec says over HTTP that the file is not there
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, TimeoutError):
        return False
    return isinstance(error, LASTING)


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status in an error, or in what it comes from."""
    while error is not None:
        if isinstance(status := getattr(error, "status", None), int):
            return status
        error = error.__cause__
    return None


def failure(url: str, error: Exception, tried: int, seconds: float) -> OSError:
    """The error to raise in place of one of fsspec's."""
    status = status_of(error)
    if status in (401, 403) or isinstance(error, PermissionError):
        return PermissionError(
            f"{url} may not be read: {said(error)}; are there credentials for it, and the right ones?"
        )
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and status is None and lasting(error)):
        return FileNotFoundError(f"{url} is not there; a file was expected")
    if lasting(error):
        return Unreachable(f"{url} cannot be read: {said(error)}")
    return Unreachable(
        f"{url} cannot be read: {tried} {'tries' if tried > 1 else 'try'} in {seconds:.1f} s, the last: {said(error)}"
    )


def said(error: BaseException) -> str:
    """An error in a few words, and what it comes from, once."""
    cause = error.__cause__
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return said(cause) if isinstance(error, FileNotFoundError) and cause is not None else words
