"""How fast this machine reads these videos and learns from them, where the time goes, and what would help.

What is timed is what training does: `Dataset.load` of one worker, and `one_step` with its optimiser on clips that were
read so.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tubelet.config import Run, checked
from tubelet.data.cache import cores, free_memory
from tubelet.data.datasets import Dataset, stream
from tubelet.data.items import PREPARED, Item
from tubelet.data.loader import Batches
from tubelet.data.prepare import prepare
from tubelet.data.sources import find
from tubelet.data.split import write_list
from tubelet.data.video import VideoError, probe
from tubelet.data.writing import Encoding
from tubelet.plan import plan
from tubelet.train.loop import (
    advised,
    compiled,
    keep_memory,
    one_step,
    pick_device,
    pick_precision,
    pick_workers,
    threads,
)
from tubelet.train.optim import adamw
from tubelet.train.teacher import teach, with_shape
from tubelet.types import Batch, Method

VIDEOS = 16  # of a source, that are read
TRIED, LONGEST = 3, 60.0  # videos that are prepared to see what it brings, and seconds that each may have
SLOW = 2.0  # seconds of a step after which no larger one is tried
REPEATS = 3
ENOUGH = 0.95  # share of the best speed that is as good


@dataclass(frozen=True)
class Reading:
    """One worker's way from files to clips, once it knows them."""

    videos: int
    clips: int  # of each video
    seconds: float  # for the clips of one video, in the middle
    first: float  # the same of a file that was never opened: its index is made then
    decoded: float  # frames decoded for a clip, on average; 0 from memory
    height: int
    width: int
    unreadable: tuple[str, ...]  # why

    @property
    def speed(self) -> float:
        """Clips a second."""
        return self.clips / self.seconds


@dataclass(frozen=True)
class Step:
    """The fastest of a few steps."""

    clips: int
    seconds: float

    @property
    def speed(self) -> float:
        """Clips a second."""
        return self.clips / self.seconds


@dataclass(frozen=True)
class Bench:
    """What was measured."""

    device: str
    precision: str
    cores: int
    workers: int  # that training would take here
    part: int  # clips that training would have on the device at once
    reading: Reading
    prepared: float | None  # times as fast, if the videos were prepared; None: they are, or no trial was made
    steps: tuple[Step, ...]  # with more and more clips
    flops: float  # of a clip: products of the forward pass, and twice as many of the backward pass
    peak: float  # flops a second of a large product here
    source: str

    @property
    def best(self) -> Step:
        """The one with the fewest clips that is as fast as any."""
        most = max(step.speed for step in self.steps)
        return next(step for step in self.steps if step.speed >= ENOUGH * most)

    @property
    def utilisation(self) -> float:
        """Share of the peak that the best step's products reach."""
        return self.flops * self.best.speed / self.peak

    def to_dict(self) -> dict[str, Any]:
        """Numbers, lists and advice, for JSON."""
        read = asdict(self.reading) | {"clips_per_second": self.reading.speed}
        steps = [asdict(step) | {"clips_per_second": step.speed} for step in self.steps]
        more = {"utilisation": self.utilisation, "advice": advice(self)}
        return asdict(self) | {"reading": read, "steps": steps} | more


def bench(run: Run, source: str, *, trial: bool = True, progress: Callable[[str], object] = print) -> Bench:
    """Reads some videos of `source` as `run` would, and makes some steps with their clips; with `trial` a few videos
    are prepared, to see how much faster they are read then. Takes about a minute.

    Raises:
        ValueError: settings or data that cannot be used; or the run learns labels.
        VideoError: not one of the videos can be read.
    """
    checked(run)
    if hasattr(run.method, "labels"):
        raise ValueError("only pre-training is measured; take a preset that learns without labels")
    run = with_shape(run)
    device = pick_device(run.training.device)
    precision = pick_precision(run.training.precision, device)
    items = chosen(find(source), run.training.seed)
    progress(f"reading {len(items)} videos")
    with threads(1):  # as a worker has
        dataset = Dataset(items, replace(run.data, per="video"), run.training.seed)
        dataset.fill_cache()
        reading = read(dataset)
        gain = gained(dataset, progress) if trial and not run.data.cache else None
    part = run.training.batch * run.data.per_video // run.training.accumulate
    with threads(run.training.threads):
        if device.type == "cpu":
            keep_memory()
        peak = matmul(device, precision)
        steps = tuple(stepped(run, dataset, device, precision, progress))
    flops = 6e9 * plan(run).gmacs["forward"]
    return Bench(
        str(device), str(precision).removeprefix("torch."), cores(), pick_workers(run), part, reading, gain, steps,
        flops, peak, source,
    )  # fmt: skip


def chosen(items: Sequence[Item], seed: int) -> list[Item]:
    """Some of the videos, at random."""
    order = stream(seed, "bench").permutation(len(items))[:VIDEOS]
    return [items[place] for place in order.tolist()]


# ---------------------------------------------------------------------------- reading


def read(dataset: Dataset) -> Reading:
    """Clips of every video, twice, and a third time to count.

    Raises:
        VideoError: not one can be read.
    """
    first, again, decoded, sizes, bad = [], [], [], [], []
    for number in range(len(dataset.items)):
        try:
            first.append(seconds(partial(loaded, dataset, number, 0)))
            again.append(seconds(partial(loaded, dataset, number, 1)))
            clip, _, _ = dataset.clip(number, stream(dataset.seed, "bench", number, 2))
        except (VideoError, OSError) as error:
            bad.append(str(error))
        else:
            decoded.append(clip.decoded)
            sizes.append(clip.frames.shape[1:3])
    if not again:
        raise VideoError(f"none of {len(bad)} videos can be read; the first: {bad[0]}")
    height, width = (int(median(size[axis] for size in sizes)) for axis in (0, 1))
    return Reading(
        len(again), dataset.data.per_video, median(again), median(first), fmean(decoded), height, width, tuple(bad)
    )


def loaded(dataset: Dataset, number: int, turn: int) -> None:
    """The clips of a video, as a worker makes them."""
    dataset.load(number, stream(dataset.seed, "bench", number, turn))


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def gained(dataset: Dataset, progress: Callable[[str], object]) -> float | None:
    """How many times as fast some of the videos are read once they are prepared; None if they are, or all are long."""
    short = []
    for number, item in enumerate(dataset.items):
        if any((folder / PREPARED).exists() for folder in item.path.parents):
            return None
        try:
            if item.path.is_file() and probe(item.path).seconds[-1] <= LONGEST:
                short.append(number)
        except (VideoError, OSError):
            continue
    short = short[:TRIED]
    if not short:
        return None
    progress(f"preparing {len(short)} of them, to see what it brings")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "some.csv"
        write_list(listed, [dataset.items[number] for number in short])
        prepare(listed, Path(folder) / "prepared", Encoding(), workers=0)
        made = Dataset(find(str(Path(folder) / "prepared")), dataset.data, dataset.seed)
        if len(made) < len(short):
            return None
        best = [math.inf, math.inf]
        for turn in range(REPEATS + 1):  # the first makes the index
            for side, (one, numbers) in enumerate(((dataset, short), (made, range(len(short))))):
                spent = sum(seconds(partial(loaded, one, number, turn)) for number in numbers)
                best[side] = min(best[side], spent if turn else math.inf)
    return best[0] / best[1]


# ---------------------------------------------------------------------------- steps


def stepped(
    run: Run, dataset: Dataset, device: torch.device, precision: torch.dtype, progress: Callable[[str], object]
) -> Iterator[Step]:
    """Steps with the clips of one video, of two, of four, until one is as large as the run's, slow, or too large."""
    torch.manual_seed(run.training.seed)
    method: Method = run.method.build(run.encoder, run.grid(), run.data.channels)
    teach(run, method)
    method.to(device).train()
    optimiser = adamw(method, run.optim)
    if run.training.compile:
        compiled(method)
    most, videos = max(run.training.batch // run.training.accumulate, 1), max(method.views // run.data.per_video, 1)
    while True:
        one = replace(run, training=replace(run.training, batch=videos, accumulate=1))
        batch = Batches(dataset, videos)[0]
        assert isinstance(batch, Batch)  # without workers, errors are raised
        clips = len(batch.video)
        progress(f"steps with {count(clips, 'clip')}")
        with advised(one, device):
            spent = [timed(method, optimiser, batch, one, device, precision) for _ in range(REPEATS + 1)]
        yield Step(clips, min(spent[1:]))
        free, needs = free_memory(), plan(replace(one, training=replace(one.training, batch=2 * videos))).memory
        if videos >= most or min(spent[1:]) > SLOW or (device.type == "cpu" and free and needs.total > free / 2):
            return
        videos = min(2 * videos, most)


def timed(
    method: Method,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    device: torch.device,
    precision: torch.dtype,
) -> float:
    """Seconds of a step; its learning rate is 0, so that nothing can go astray."""
    for group in optimiser.param_groups:
        group["lr"] = 0.0

    def step() -> None:
        one_step(method, optimiser, batch, 0, run, device, precision)  # its loss is a float: whatever the device, done
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return seconds(step)


def matmul(device: torch.device, precision: torch.dtype) -> float:
    """Most multiplications and additions a second in products of large matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))

    def product() -> None:
        float((a @ b)[0, 0])

    product()
    return 2 * side**3 / min(seconds(product) for _ in range(2 * REPEATS))


# ---------------------------------------------------------------------------- words


def advice(found: Bench) -> list[str]:
    """What would help, the most first."""
    wanted, each = found.best.speed, found.reading.speed
    needed, lines = math.ceil(wanted / each), []
    gain = found.prepared if found.prepared is not None and found.prepared > 1.1 else None
    if needed <= found.workers:
        some = f": {needed} of {count(found.workers, 'worker')} would do" if found.workers > 1 else ""
        lines.append(f"reading keeps up{some}")
    else:
        share = found.workers * each / wanted
        lines.append(
            f"the step waits for videos: of {wanted:,.1f} clips a second {count(found.workers, 'worker')} can read "
            f"{found.workers * each:,.1f}, so training goes at {share:.0%} of its speed; {needed} workers would keep "
            f"up, and there are {count(found.cores, 'core')}"
        )
        if gain is not None:
            enough = math.ceil(wanted / (each * gain))
            lines.append(
                f"tubelet prepare {found.source} OUT: read {gain:.1f} times as fast then (tried on a few of these); "
                f"{count(enough, 'worker')} would keep up"
            )
        if found.device != "cpu" and found.workers < min(needed, found.cores):  # or the step has them
            lines.append(f"--training.workers {min(needed, found.cores)}: cores are free")
        lines.append("--data.repeats 2: two crops of every clip that is decoded, as VideoMAE V2 and MAE-ST do")
    if found.best is not found.steps[-1]:
        lines.append(
            f"{found.best.clips} at once are as fast as {found.steps[-1].clips}: where memory is short, have as few by "
            "--training.accumulate"
        )
    elif len(found.steps) > 1 and found.steps[-1].clips == found.part:
        lines.append(
            "more clips at once would be faster still: a larger --training.batch, or less --training.accumulate"
        )
    if found.reading.unreadable:
        lines.append(
            f"{count(len(found.reading.unreadable), 'video')} cannot be read: tubelet check {found.source} says which"
        )
    return lines


def count(number: int, thing: str) -> str:
    """'1 worker', '2 workers'."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def render(found: Bench) -> RenderableType:
    """What was measured and what would help, as a table."""
    read, best = found.reading, found.best
    where = "from memory" if not read.decoded else f"{read.decoded:.0f} frames decoded of {read.width}x{read.height}"
    each = f"the {count(read.clips, 'clip')} of a video" if read.clips > 1 else "a clip"
    rows = [
        (
            "reading",
            f"{read.speed:,.1f} clips/s by one worker: {1000 * read.seconds:,.1f} ms for {each}, {where}; "
            f"{1000 * read.first:,.1f} ms when a file is new ({count(read.videos, 'video')})",
        ),
        (
            "step",
            f"{best.speed:,.1f} clips/s on {found.device} in {found.precision}; "
            f"{found.utilisation:.0%} of what large products reach ({found.peak / 1e9:,.0f} GFLOP/s)",
        ),
        ("clips at once", "; ".join(f"{step.clips}: {step.speed:,.1f} clips/s" for step in found.steps)),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(name, text)
    for line in advice(found):
        table.add_row("→", escape(line))
    return table
