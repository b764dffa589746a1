"""Work over many files in processes that stop when they are told to, or when nobody is left to tell them; that die
without harm to the others; and that are ended where a file keeps them for too long."""

import math
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from threading import Thread
from traceback import format_exc
from typing import Any, TypeVar

import torch

from tubelet.data.cache import cores

Job = TypeVar("Job")
Result = TypeVar("Result")
_told: Any = None  # in a worker: the event that says stop
_late: Callable[[float], None] | None = None  # in a worker: puts off the moment when it is given up


class Stopped(Exception):
    """The work is to end now; nobody waits for this result."""


def alive(slack: float = 0.0) -> None:
    """Nothing, as long as the work is to go on: to be called now and then in a long piece of it. Where there is a limit
    of time it begins anew, longer by `slack` seconds.

    Raises:
        Stopped: it is not.
    """
    if _late is not None:
        _late(slack)
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
    with Processes(workers, len(jobs)) as processes:
        processes.work(function, jobs, keep, died)


@dataclass
class Worker:
    """A process and what it does."""

    process: Any
    pipe: Any
    place: int  # in the table of when each is due
    begun: bool = False
    job: int | None = None


class Processes:
    """Worker processes, for one list of jobs after another."""

    def __init__(self, workers: int | None = None, jobs: int | None = None, patience: float = 0.0) -> None:
        """As many as there are cores, but no more than `jobs`; 0: all work is done in this one, without a limit.

        A job that takes more than `patience` seconds without `alive` is given up, and its process is ended; 0: never.
        """
        count = cores() if workers is None else workers
        self.count = count if jobs is None else min(count, jobs)
        self.patience = patience
        # Fresh processes: a fork of one that has run threads (PyTorch's, say) may wait for them forever.
        self.context = multiprocessing.get_context("spawn")
        self.stop = self.context.Event()
        self.due = self.context.RawArray("d", max(self.count, 1))  # when each is given up, on the clock of the machine
        self.workers: list[Worker] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.stop.set()
        for worker in self.workers:
            with suppress(OSError):
                worker.pipe.send(None)
        # Who gives up files that stand still cannot wait for one either; others may have something to clear away.
        patient = math.inf if kind is None else 1.0 if self.patience else 30.0
        until = time.monotonic() + patient
        for worker in self.workers:
            worker.process.join(None if kind is None else max(until - time.monotonic(), 0))
            ended(worker)

    def work(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        keep: Callable[[int, Result], object],
        died: Callable[[Job], Result],
        late: Callable[[Job], Result] | None = None,
    ) -> None:
        """`function` of every job, each result given to `keep` with their number; `died` of one that ends its process,
        also when it is tried once more and alone; `late` of one that is given up."""
        number = 0

        def kept(result: Result) -> None:
            nonlocal number
            number += 1
            keep(number, result)

        if not self.count:
            for job in jobs:
                kept(function(job))
            return
        again: list[int] = []
        self._round(function, jobs, range(len(jobs)), self.count, kept, again.append, late)
        self._round(function, jobs, again, 1, kept, lambda job: kept(died(jobs[job])), late)

    def _round(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        places: Sequence[int],
        count: int,
        kept: Callable[[Result], None],
        died: Callable[[int], None],
        late: Callable[[Job], Result] | None,
    ) -> None:
        todo = iter(places)
        with deaf():
            while len(self.workers) < min(count, len(places)):
                self.workers.append(self._begun(len(self.workers)))

        def give(worker: Worker) -> None:
            worker.job = next(todo, None)
            self.due[worker.place] = 0.0
            if worker.job is not None:
                with suppress(OSError):  # it has died, which is seen when it is waited for
                    worker.pipe.send((function, jobs[worker.job]))

        for worker in self.workers[:count]:
            give(worker)
        while busy := [worker for worker in self.workers if worker.job is not None]:
            often = min(max(self.patience / 10, 0.02), 1.0) if self.patience else None
            heard = connection.wait([worker.pipe for worker in busy], often)
            for worker in (worker for worker in busy if worker.pipe in heard):
                job = worker.job
                assert job is not None
                try:
                    what, result = worker.pipe.recv()
                except (EOFError, OSError):
                    if not worker.begun:  # no fault of a file's
                        raise RuntimeError(
                            "no worker process could be started: a script that starts some must guard its own work "
                            'with if __name__ == "__main__"; or use workers=0. Or memory is short'
                        ) from None
                    give(self._renewed(worker))
                    died(job)
                    continue
                if what == "begun":
                    worker.begun = True
                elif what == "error":
                    raise result
                else:
                    give(worker)  # before anything else is done: it waits
                    kept(result)
            now = time.monotonic()
            for worker in busy:
                job = worker.job
                if late is None or job is None or not 0 < self.due[worker.place] < now or worker.pipe.poll():
                    continue
                give(self._renewed(worker))
                kept(late(jobs[job]))

    def _begun(self, place: int) -> Worker:
        """A new process."""
        mine, its = self.context.Pipe()
        told = its, self.stop, self.due, place, self.patience
        process = self.context.Process(target=_serve, args=told, daemon=True)
        process.start()
        its.close()  # or its end would not be noticed
        return Worker(process, mine, place)

    def _renewed(self, worker: Worker) -> Worker:
        """A process in the place of one that has died, or is to."""
        worker.process.kill()
        worker.process.join(5)  # one that waits for a disk that is gone may not hear
        worker.pipe.close()
        with deaf():
            new = self._begun(worker.place)
        self.workers[worker.place] = new
        return new


def ended(worker: Worker) -> None:
    """Ends a process that has not done so by itself."""
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join(5)
    worker.pipe.close()


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


def _serve(pipe: Any, stop: Any, due: Any, place: int, patience: float) -> None:
    """A worker's life. Ctrl-C reaches all processes of a terminal, and is for the first one to handle."""
    global _told, _late
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # there are as many processes as cores

    def late(slack: float) -> None:
        due[place] = time.monotonic() + patience + slack

    _told, _late = stop, late if patience else None
    Thread(target=_outlive, daemon=True).start()
    with suppress(EOFError, OSError):  # the first process is gone
        pipe.send(("begun", None))
        while (told := pipe.recv()) is not None:
            pipe.send_bytes(_answer(*told))
            due[place] = 0.0


def _answer(function: Callable[[Job], Result], job: Job) -> bytes:
    """What came of a job, as it is sent."""
    try:
        alive()
        return pickle.dumps(("result", function(job)))
    except Exception as error:
        error.add_note(format_exc())  # where it was raised
        try:
            return pickle.dumps(("error", error))
        except Exception:
            return pickle.dumps(("error", RuntimeError(format_exc())))


def _outlive() -> None:
    """Ends this process when the first one is gone, however it ended: nobody would ever give it work again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
