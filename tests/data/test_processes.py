"""Work in processes: what hangs is ended and named, what crashes too, and the rest goes on."""

import os
import signal
import threading
import time

import pytest

from tubelet.data.processes import Processes, alive


def act(job: tuple[str, int]) -> int:
    """In a worker."""
    what, number = job
    if what == "hang":
        time.sleep(600)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        raise LookupError(f"job {number}")
    if what == "odd":
        raise Odd(threading.Lock())
    if what == "long":
        for _ in range(12):
            alive()
            time.sleep(0.25)
    if what == "slack":
        alive(30)
        time.sleep(3)
    return number


class Odd(Exception):
    """An error that cannot be sent from one process to another."""


def test_what_hangs_is_given_up_and_what_crashes_is_named():
    jobs = [(what, n) for n, what in enumerate(["fine", "hang", "long", "crash", "slack", "hang", "fine"])]
    found, numbers = [], []

    def keep(number: int, result: int) -> None:
        numbers.append(number)
        found.append(result)

    with Processes(2, patience=1.5) as processes:
        processes.work(act, jobs, keep, lambda job: -job[1], lambda job: 100 + job[1])
        assert sorted(found) == [-3, 0, 2, 4, 6, 101, 105]
        assert numbers == list(range(1, 8))
        processes.work(act, [("fine", 8)], keep, lambda job: -1)  # the same processes go on
    assert found[-1] == 8


@pytest.mark.parametrize(("what", "kind"), [("fail", LookupError), ("odd", RuntimeError)])
def test_errors_are_raised_here_with_where_they_come_from(what, kind):
    with pytest.raises(kind) as caught, Processes(1) as processes:
        processes.work(act, [(what, 3)], lambda *_: None, lambda job: 0)
    told = "".join(getattr(caught.value, "__notes__", [])) + str(caught.value)
    assert "test_processes.py" in told
