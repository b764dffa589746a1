"""How many workers, and how far ahead, keep 8, 64 and 512 GPUs busy where storage is slow, fails or dies?

    python benchmarks/pipeline.py [--only tail]

A simulation in virtual time of the policy of `tubelet.data.loader`: each worker makes whole batches, clip after clip,
at most `ahead` of them before the step that takes them; batch k comes from worker k modulo workers, and steps take
batches in order. All GPUs go in lock-step: a step ends when the slowest one has had its batch. Reads that fail are
tried again as `tubelet.data.retry` does. First the simulation is held against the real loader, with a data set that
sleeps as long as the simulated one. Writes benchmarks/pipeline.csv.
"""

import argparse
import csv
import heapq
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from table import provenance, save

from tubelet.data.datasets import Data, Sample
from tubelet.data.items import Item
from tubelet.data.loader import batches
from tubelet.data.sampling import Dense


@dataclass(frozen=True)
class Cluster:
    """Who reads, and how fast it is consumed."""

    gpus: int = 64
    workers: int = 16  # of each GPU
    ahead: int = 2  # batches of each worker, the one that it makes included
    clips: int = 32  # of a batch of one GPU
    step: float = 0.2  # seconds
    decode: float = 0.0428  # seconds of a core for a clip
    ordered: bool = True


@dataclass(frozen=True)
class Storage:
    """What it takes to fetch what a clip needs. Seconds and bytes."""

    median: float = 0.02  # to the first byte
    tail: float = 10.0  # the 99th of 100 reads, of the median: lognormal
    bytes: float = 200e3  # of a clip
    stream: float = 200e6  # a second, of one reader
    total: float = math.inf  # a second, of all readers together
    failing: float = 0.0  # share of reads that end in an error, at once
    stalling: float = 0.0  # share of reads that hang for `stall`
    stall: float = 30.0
    limit: float = 30.0  # after which a read is broken off and tried again
    tries: int = 6  # of a clip, before another video is shown in its place
    backoff: float = 0.5  # the longest wait before the second try, twice as long before each further one
    longest: float = 16.0
    servers: int = 16
    dead: tuple[float, float] = (math.inf, 0.0)  # when one of them dies, and for how long; until then its reads fail


class Reads:
    """Seconds that reads take, drawn in advance."""

    def __init__(self, storage: Storage, seed: int, decode: float, many: int = 1 << 16) -> None:
        self.storage, self.generator, self.many, self.decode = storage, np.random.default_rng(seed), many, decode
        self.drawn: Iterator[tuple[float, float, float]] = iter(())
        self.shared = storage.total < math.inf
        self.free = 0.0  # when the wires of all are free again
        self.again = self.replaced = 0  # tries, and videos

    def draw(self) -> tuple[float, float, float]:
        """Seconds to the first byte, and two numbers from 0 to 1: whether it fails, and from which server."""
        try:
            return next(self.drawn)
        except StopIteration:
            sigma = math.log(self.storage.tail) / NormalDist().inv_cdf(0.99)
            first = self.storage.median * np.exp(sigma * self.generator.standard_normal(self.many))
            chance, server = self.generator.random((2, self.many))
            self.drawn = zip(first.tolist(), chance.tolist(), server.tolist())
            return next(self.drawn)

    def until(self, now: float, gpu: int, batch: int, clip: int) -> float:
        """When a clip is there that is begun now: fetched, again where that fails, another one at last, and decoded."""
        s, tried = self.storage, 0
        first, chance, place = self.draw()
        while True:
            dead = place * s.servers < 1 and s.dead[0] <= now < sum(s.dead)
            seconds = first + s.stall * (chance > 1 - s.stalling)
            if not dead and chance >= s.failing and seconds <= s.limit:
                break
            tried += 1
            self.again += 1
            now += s.limit if seconds > s.limit and not dead else 0.0
            if tried == s.tries:
                tried, self.replaced = 0, self.replaced + 1
                first, chance, place = self.draw()
            else:
                first, chance, dice = self.draw()  # the same file, from the same server
                now += dice * min(s.longest, s.backoff * 2 ** (tried - 1))
        there = now + seconds + s.bytes / s.stream
        if self.shared:
            self.free = max(self.free, now) + s.bytes / s.total
            there = max(there, self.free)
        return there + self.decode


def simulate(cluster: Cluster, reads: Any, steps: int) -> list[float]:
    """When each step ended, in seconds; `reads.until(now, gpu, batch, clip)` says when a clip is there."""
    events: list[
        tuple[float, int, int, int, int, int]
    ] = []  # time, order, GPU, worker, batch, clips of it that are done
    counter = 0
    lanes = cluster.workers if cluster.ordered else 1
    queues = [[deque[int]() for _ in range(lanes)] for _ in range(cluster.gpus)]
    idle = [set(range(cluster.workers)) for _ in range(cluster.gpus)]
    ready = [set[int]() for _ in range(cluster.gpus)]
    given = [0] * cluster.gpus  # batches handed to workers
    taken = [0] * cluster.gpus
    hungry = [True] * cluster.gpus
    ends: list[float] = []

    def push(now: float, gpu: int, worker: int, batch: int, done: int) -> None:
        nonlocal counter
        counter += 1
        heapq.heappush(events, (now, counter, gpu, worker, batch, done))

    def begin(now: float, gpu: int, worker: int) -> None:
        queue = queues[gpu][worker % lanes]
        if queue:
            idle[gpu].discard(worker)
            push(now, gpu, worker, queue.popleft(), 0)
        else:
            idle[gpu].add(worker)

    def give(now: float, gpu: int) -> None:
        if given[gpu] < steps:
            batch, given[gpu] = given[gpu], given[gpu] + 1
            queues[gpu][batch % lanes].append(batch)
            worker = batch % cluster.workers if cluster.ordered else next(iter(idle[gpu]), -1)
            if worker in idle[gpu]:
                begin(now, gpu, worker)

    def take(now: float, gpu: int) -> None:
        batch = taken[gpu] if cluster.ordered else next(iter(ready[gpu]), -1)
        if hungry[gpu] and batch in ready[gpu]:
            ready[gpu].remove(batch)
            hungry[gpu], taken[gpu] = False, taken[gpu] + 1
            give(now, gpu)
            if min(taken) > len(ends):  # the last one has its batch
                ends.append(now + cluster.step)
                push(ends[-1], -1, 0, 0, 0)

    for gpu in range(cluster.gpus):
        for _ in range(cluster.workers * cluster.ahead):
            give(0.0, gpu)
    while len(ends) < steps:
        now, _, gpu, worker, batch, done = heapq.heappop(events)
        if gpu < 0:
            for other in range(cluster.gpus):
                hungry[other] = True
                take(now, other)
        elif done < cluster.clips:
            many = 1 if reads.shared else cluster.clips  # what others do matters between clips, or only between batches
            for clip in range(done, done + many):
                now = reads.until(now, gpu, batch, clip)
            push(now, gpu, worker, batch, done + many)
        else:
            ready[gpu].add(batch)
            take(now, gpu)
            begin(now, gpu, worker)
    return ends


# ---------------------------------------------------------------------------- held against the real loader


class Written:
    """Reads that take what was drawn for their place, whoever comes to it and when."""

    shared = False

    def __init__(self, clips: int, steps: int, tail: float) -> None:
        reads = Reads(Storage(tail=tail), 0, 0.0)
        self.clips, self.seconds = clips, [reads.draw()[0] for _ in range(clips * steps)]

    def until(self, now: float, gpu: int, batch: int, clip: int) -> float:
        """As `Reads.until`."""
        return now + self.seconds[batch * self.clips + clip]


class Sleeping:
    """What `batches` needs of a `Dataset`, of which every clip takes its time and hardly any processor."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.data = seconds, Data(Dense(2))
        self.pictures = self.labels = None
        self.items = [Item(Path("asleep"))]

    def __getitem__(self, position: int) -> Sample:
        time.sleep(self.seconds[position])
        return Sample(torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8), 0, [])


def real(cluster: Cluster, seconds: list[float], steps: int) -> list[float]:
    """When each step ended with the real loader."""
    dataset: Any = Sleeping(seconds)
    ends = []
    for _ in batches(dataset, cluster.clips, 0, steps, cluster.workers, prefetch=cluster.ahead):
        time.sleep(cluster.step)
        ends.append(time.monotonic())
    return ends


def calibration() -> Iterator[dict[str, Any]]:
    """The simulation beside the real loader: seconds of a step of both."""
    steps = 120
    for workers, ahead, step, tail in (
        (2, 2, 0.1, 1.001),
        (2, 2, 0.1, 10),
        (4, 2, 0.03, 10),
        (4, 2, 0.08, 10),
        (4, 1, 0.06, 10),
    ):
        cluster = Cluster(1, workers, ahead, 8, step, 0.0)
        reads = Written(cluster.clips, steps, tail)
        rate = {}
        for side, ends in (
            ("real", real(cluster, reads.seconds, steps)),
            ("simulated", simulate(cluster, reads, steps)),
        ):
            first = steps // 4
            rate[side] = (ends[-1] - ends[first]) / (steps - 1 - first)
        yield told("real loader", cluster, Storage(tail=tail), busy=step / rate["simulated"]) | {
            "ms a step: real loader": round(1000 * rate["real"], 2),
            "ms a step: simulated": round(1000 * rate["simulated"], 2),
            "simulated / real": round(rate["simulated"] / rate["real"], 4),
        }


# ---------------------------------------------------------------------------- questions

COLUMNS = (
    *("question", "GPUs", "workers a GPU", "ahead", "clips", "order", "cores of work a GPU"),
    *("median ms", "p99 / median"),
    *("failing", "stalling", "broken off after s", "dead s", "GB/s of all", "busy", "seconds lost", "tried again"),
    *("replaced", "ms a step: real loader", "ms a step: simulated", "simulated / real"),
)


def told(question: str, cluster: Cluster, storage: Storage, **found: float) -> dict[str, Any]:
    """A row."""
    sigma = math.log(storage.tail) / NormalDist().inv_cdf(0.99)
    mean = storage.median * math.exp(sigma**2 / 2) + storage.bytes / storage.stream * (cluster.decode > 0)
    work = cluster.clips * (mean + cluster.decode) / cluster.step
    values = [
        question,
        cluster.gpus,
        cluster.workers,
        cluster.ahead,
        cluster.clips,
        "kept" if cluster.ordered else "any",
        round(work, 2),
    ]
    values += [1000 * storage.median, storage.tail, storage.failing, storage.stalling, storage.limit, storage.dead[1]]
    values += [storage.total / 1e9]
    named = {name: round(value, 4) for name, value in found.items()}
    return dict.fromkeys(COLUMNS, "") | dict(zip(COLUMNS, values)) | named


def simulated(question: str, cluster: Cluster, storage: Storage, steps: int) -> dict[str, Any]:
    """A simulation as a row."""
    reads = Reads(storage, 1, cluster.decode)
    ends = simulate(cluster, reads, steps)
    first, clips = steps // 4, steps * cluster.gpus * cluster.clips
    share = cluster.step * (steps - 1 - first) / (ends[-1] - ends[first])
    lost = ends[-1] - ends[first] - cluster.step * (steps - 1 - first)
    row = told(question, cluster, storage, busy=share)
    return row | {
        "seconds lost": round(lost, 2),
        "tried again": reads.again,
        "replaced": round(reads.replaced / clips, 7),
    }


def questions(only: str) -> Iterator[dict[str, Any]]:
    """The simulations whose question begins so."""

    def asked(question: str, cluster: Cluster, storage: Storage, steps: int) -> list[dict[str, Any]]:
        return [simulated(question, cluster, storage, steps)] if question.startswith(only) else []

    steps = {8: 600, 64: 320, 512: 120}
    usual, storage = Cluster(), Storage()
    for gpus, count in steps.items():
        here = replace(usual, gpus=gpus)
        for workers in (12, 13, 14, 16):
            yield from asked("workers", replace(here, workers=workers), storage, count)
        for ahead in (1, 3):
            yield from asked("ahead", replace(here, workers=14, ahead=ahead), storage, count)
        for clips in (4, 1):  # as many clips a second in smaller batches
            small = replace(here, workers=14, clips=clips, step=usual.step * clips / usual.clips)
            yield from asked("small batches", small, storage, count * 4)
            far = replace(small, ahead=2 * usual.clips // clips)
            yield from asked("small batches, further ahead", far, storage, count * 4)
        for tail in (3, 30, 100):
            slow = replace(storage, tail=tail)
            work = 0.0428 + 0.001 + 0.02 * math.exp((math.log(tail) / NormalDist().inv_cdf(0.99)) ** 2 / 2)
            workers = math.ceil(1.15 * 32 * work / usual.step)
            yield from asked("tail, 15 % more workers than work", replace(here, workers=workers), slow, count)
            if tail > 10:
                yield from asked("tail, further ahead", replace(here, workers=workers, ahead=8), slow, count)
                impatient = replace(slow, limit=1.0)
                yield from asked("tail, broken off", replace(here, workers=workers), impatient, count)
        for failing in (0.001, 0.01):
            for workers in (14, 16):
                yield from asked("failing", replace(here, workers=workers), replace(storage, failing=failing), count)
        for stalling, limit in ((1e-5, 30.0), (1e-4, 30.0), (1e-4, 2.0)):
            hangs = replace(storage, stalling=stalling, limit=limit, stall=300.0)
            yield from asked("stalling", replace(here, workers=16), hangs, count)
    for gpus in (8, 64):
        for workers in (12, 14):
            loose = replace(usual, gpus=gpus, workers=workers, ordered=False)
            yield from asked("any order", loose, storage, steps[gpus])
        hangs = replace(storage, stalling=1e-4, stall=300.0)
        yield from asked("stalling, any order", replace(usual, gpus=gpus, ordered=False), hangs, steps[gpus])
        for ahead, tries in ((2, 6), (8, 6), (2, 2)):
            sick = replace(storage, dead=(40.0, 60.0), tries=tries)
            yield from asked(f"dead server; {tries} tries", replace(usual, gpus=gpus, ahead=ahead), sick, 600)
    for total in (1.5e9, 2.0e9, 2.2e9):
        yield from asked("bandwidth", usual, replace(storage, total=total), 150)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="the questions that begin so; rows of others stay as they are")
    only, rows = parser.parse_args().only or "", []
    for row in chain(calibration() if "real loader".startswith(only) else (), questions(only)):
        rows.append(row | provenance())
        print({key: value for key, value in row.items() if value != ""}, flush=True)
    table, new = Path(__file__).with_suffix(".csv"), {row["question"] for row in rows}
    before = [*csv.DictReader(table.read_text().splitlines())] if only and table.exists() else []
    save(__file__, [*(row for row in before if row["question"] not in new), *rows])


if __name__ == "__main__":
    main()
