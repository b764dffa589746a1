"""Work over many files in processes that stop when they are told to, or when nobody is left to tell them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

import torch

from tubelet.data.cache import cores

Job = TypeVar("Job")
Result = TypeVar("Result")
_told: Any = None  # in a worker: the event that says stop


class Stopped(Exception):
    """The work is to end now; nobody waits for this result."""


def alive() -> None:
    """Nothing, as long as the work is to go on: to be called now and then in a long piece of it.

    Raises:
        Stopped: it is not.
    """
    if _told is not None and _told.is_set():
        raise Stopped


def in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int | None,
    keep: Callable[[int, Result], object],
    died: Callable[[Job], Result],
) -> None:
    """`function` of every job, each result given to `keep` with their number; `died` of one that ends its process.

    In as many processes as there are cores; 0 `workers`: in this one. Errors, Ctrl-C too, stop all of them first.
    """
    workers = cores() if workers is None else workers
    results: set[int] = set()

    def kept(index: int, result: Result) -> None:
        results.add(index)
        keep(len(results), result)

    if not workers:
        for index, job in enumerate(jobs):
            kept(index, function(job))
        return
    while len(results) < len(jobs):
        todo = [index for index in range(len(jobs)) if index not in results]
        try:
            _run(function, jobs, todo, workers, kept)
        except BrokenProcessPool:  # it does not say who: those that were under way are tried one by one
            for index in [index for index in todo if index not in results][:workers]:
                try:
                    _run(function, jobs, [index], 1, kept)
                except BrokenProcessPool:
                    kept(index, died(jobs[index]))


def _run(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    todo: Sequence[int],
    workers: int,
    kept: Callable[[int, Result], object],
) -> None:
    # Fresh processes: a fork of one that has run threads (PyTorch's, say) may wait for them forever.
    context = multiprocessing.get_context("spawn")
    stop, begun = context.Event(), context.Event()
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, _enter, (stop, begun))
    try:
        with deaf():
            futures: dict[Future[Result], int] = {pool.submit(function, jobs[index]): index for index in todo}
        for future in as_completed(futures):
            kept(futures[future], future.result())
    except BrokenProcessPool as error:
        if not begun.is_set():  # no fault of a file's
            raise RuntimeError(
                "no worker process could be started: a script that starts some must guard its own work with "
                'if __name__ == "__main__"; or use workers=0. Or memory is short'
            ) from error
        stop.set()
        raise
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def deaf() -> Iterator[None]:
    """Processes begun within never hear Ctrl-C, not even while they load; this one hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _enter(stop: Any, begun: Any) -> None:
    """A worker's first act. Ctrl-C reaches all processes of a terminal, and is for the first one to handle."""
    global _told
    _told = stop
    begun.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # there are as many processes as cores
    Thread(target=_outlive, daemon=True).start()


def _outlive() -> None:
    """Ends this process when the first one is gone, however it ended: nobody would ever give it work again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
