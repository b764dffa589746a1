"""What do ten million videos cost before the first one is read? A table on the disk, against a list of items in memory.

    python benchmarks/millions.py [--videos 10000000] [--listed 1000000] [--workers 2] [--folder DIR]

The videos are made up: names of about 30 bytes in 1000 folders, 400 labels; no file is opened. Of the table: seconds
and memory for writing it from an iterator (what `tubelet index` does beside reading a list), opening it, building a
`Dataset`, 10,000 random positions and 10,000 in order (each with the item that it shows); the same in workers that work
at the same time, each of which opens the table, as a training's do that are not forked. Of a list of `--listed` items:
the same, and times `--videos` / `--listed` what all would take. Memory is what a process grew by, in MB: its own
(RssAnon), at the end and at most; and pages of files (RssFile), which processes share and the system drops when it
needs memory. Time is the process's on the processor, and the clock's. Of several processes the most counts.

Linux. Writes benchmarks/millions.csv.
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from table import provenance, save

from tubelet.data.datasets import Data, Dataset
from tubelet.data.items import Item
from tubelet.data.sampling import Dense
from tubelet.data.table import Table, write

POSITIONS = 10_000
DATA = Data(Dense(16, stride=4))


def made(count: int) -> Iterator[Item]:
    """Videos that are nowhere."""
    for number in range(count):
        yield Item(Path(f"/videos/{number % 1000:03d}/clip_{number:010d}.mp4"), f"class {number % 400}")


def held() -> dict[str, float]:
    """MB of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


@contextmanager
def measured(took: dict[str, Any]) -> Iterator[None]:
    """Seconds and memory of what is done within; its peak by a look every 50 ms."""
    before, done, most = held(), threading.Event(), [0.0]

    def look() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], held()["RssAnon"])

    watcher = threading.Thread(target=look)
    watcher.start()
    begun = time.process_time(), time.perf_counter()
    yield
    took["s of the processor"], took["s of the clock"] = time.process_time() - begun[0], time.perf_counter() - begun[1]
    done.set()
    watcher.join()
    after = held()
    took["MB, own"] = after["RssAnon"] - before["RssAnon"]
    took["MB, own, at most"] = max(most[0], after["RssAnon"]) - before["RssAnon"]
    took["MB, pages of files"] = after["RssFile"] - before["RssFile"]


def asked(dataset: Dataset, positions: Sequence[int]) -> None:
    """The items of positions, as `Dataset.__getitem__` finds them before it opens a file."""
    for position in positions:
        _ = dataset.items[dataset.item(position)].path


def random(dataset: Dataset, seed: int) -> list[int]:
    """Positions of the second epoch."""
    return (len(dataset) + np.random.default_rng(seed).integers(0, len(dataset), POSITIONS)).tolist()


def in_order(dataset: Dataset, number: int) -> range:
    """Positions that follow each other, of the third epoch."""
    begin = 2 * len(dataset) + number * POSITIONS
    return range(begin, begin + POSITIONS)


def steps(source: Path | int, out: Any) -> None:
    """All that a process does with a table, or with a list of so many items."""
    rows: dict[str, dict[str, Any]] = {}
    with measured(rows.setdefault("open" if isinstance(source, Path) else "make the list", {})):
        items: Sequence[Item] = Table(source) if isinstance(source, Path) else list(made(source))
    with measured(rows.setdefault("Dataset", {})):
        dataset = Dataset(items, DATA)
    with measured(rows.setdefault("random positions", {})):
        asked(dataset, random(dataset, 0))
    with measured(rows.setdefault("positions in order", {})):
        asked(dataset, in_order(dataset, 0))
    out.put(rows)


def writing(folder: Path, count: int, out: Any) -> None:
    took: dict[str, Any] = {}
    with measured(took):
        write(folder, made(count), Path("/videos"))
    out.put({"write": took})


def worker(source: Path | int, number: int, start: Any, out: Any) -> None:
    """A process that gets a data set and asks it. It waits for the others, so that they work at the same time."""
    rows: dict[str, dict[str, Any]] = {}
    start.wait()
    with measured(rows.setdefault("data set in a worker", {})):
        dataset = Dataset(Table(source) if isinstance(source, Path) else list(made(source)), DATA)
    with measured(rows.setdefault("random positions in a worker", {})):
        asked(dataset, random(dataset, number))
    with measured(rows.setdefault("positions in order in a worker", {})):
        asked(dataset, in_order(dataset, number))
    out.put(rows)


def alone(act: Callable[..., None], *what: Any, count: int = 1) -> list[dict[str, dict[str, Any]]]:
    """What processes of their own found."""
    context = multiprocessing.get_context("spawn")
    out = context.SimpleQueue()
    more = (
        [(number, barrier) for barrier in [context.Barrier(count)] for number in range(count)]
        if act is worker
        else [()]
    )
    processes = [context.Process(target=act, args=(*what, *each, out)) for each in more]
    for process in processes:
        process.start()
    found = [out.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=10_000_000)
    parser.add_argument("--listed", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where the table is written for a while; default: the system's temporary one")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def tell(side: str, count: int, found: list[dict[str, dict[str, Any]]], times: float = 1) -> None:
        for what in found[0]:
            worst = {name: max(each[what][name] for each in found) for name in found[0][what]}
            row = {"side": side, "videos": count, "what": what, "how": "measured" if times == 1 else f"x {times:g}"}
            row |= {name: round(times * value, 4) for name, value in worst.items()}
            print(*row.values(), sep=", ", flush=True)
            rows.append(row | {"processes": len(found)} | provenance())

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        table = Path(folder) / "made.table"
        tell("table", args.videos, alone(writing, table, args.videos))
        print(f"{sum(file.stat().st_size for file in table.iterdir()) / 2**20:.0f} MB on the disk")
        tell("table", args.videos, alone(steps, table))
        tell("table", args.videos, alone(worker, table, count=args.workers))
    found = alone(steps, args.listed)
    tell("list", args.listed, found)
    tell(
        "list",
        args.videos,
        [{what: found[0][what] for what in ("make the list", "Dataset")}],
        args.videos / args.listed,
    )
    save(__file__, rows)


if __name__ == "__main__":
    main()
