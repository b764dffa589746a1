"""All that is measured, in one go, and what it means."""

import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tubelet.bench.reading import Reading, chosen, count, dataset_of, gained, read
from tubelet.bench.steps import Step, made, matmul, stepped
from tubelet.budget import flops
from tubelet.config import Run, checked, parts_of
from tubelet.data.cache import cores
from tubelet.data.datasets import Dataset
from tubelet.data.loader import Batches
from tubelet.data.sources import find
from tubelet.plan import plan
from tubelet.train.device import keep_memory, pick_device, pick_precision, pick_workers, threads
from tubelet.train.teacher import with_shape
from tubelet.types import Batch

ENOUGH = 0.95  # share of the best speed that is as good


@dataclass(frozen=True)
class Bench:
    """What was measured."""

    device: str
    precision: str
    cores: int
    workers: int  # that training would take here; 0: the process that trains reads too
    part: int  # clips that training would have on the device at once
    reading: Reading
    prepared: float | None  # times as fast, if the videos were prepared; None: they are, or no trial was made
    repeats: bool  # whether more crops of each decoded clip would spare decoding
    steps: tuple[Step, ...]  # with more and more clips
    full: int | None  # clips that did not fit on the device
    flops: float  # of a clip: products of the forward pass, and twice as many of the backward pass of what learns
    peak: float  # flops a second of products of large matrices here
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

    @property
    def needed(self) -> int:
        """Workers that would keep up with the best step."""
        return math.ceil(self.best.speed / self.reading.speed)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, lists and advice, for JSON."""
        read = asdict(self.reading) | {"clips_per_second": self.reading.speed}
        steps = [asdict(step) | {"clips_per_second": step.speed} for step in self.steps]
        more = {"best": self.best.clips, "utilisation": self.utilisation, "needed": self.needed}
        return asdict(self) | {"reading": read, "steps": steps} | more | {"advice": advice(self)}


def bench(run: Run, source: str, *, trial: bool = True, progress: Callable[[str], object] = print) -> Bench:
    """Reads some videos of `source` as `run` would, and makes some steps with their clips; with `trial` a few videos
    are prepared, to see how much faster they are read then. Takes about a minute.

    Of runs on pictures and videos, the videos are measured. On a CPU the process keeps freed memory from then on, as in
    training.

    Raises:
        ValueError: settings or data that cannot be used, too little memory; or the run learns labels.
        TrainingError: not even the smallest step fits on the device.
        VideoError: not one of the videos can be read.
    """
    checked(run)
    if hasattr(run.method, "labels"):
        raise ValueError(
            "this preset learns labels, and only pre-training is measured; take one as videomae-few-cpu, and the same "
            "--data... flags: reading is the same"
        )
    run = with_shape(replace(run, data=replace(run.data, per="video", images=None)))
    device = pick_device(run.training.device)
    precision = pick_precision(run.training.precision, device)
    items = chosen(find(source), run.training.seed)
    dataset = Dataset(items, run.data, run.training.seed)
    with threads(run.training.threads):
        method = made(run, device)
    progress(f"reading {count(len(items), 'video')}")
    with threads(1):  # as a worker has
        dataset.fill_cache()
        reading, good = read(dataset)
        gain = gained(dataset, good, progress) if trial and not run.data.cache else None
        clips = Batches(dataset_of(dataset, good), len(good))[0]
    assert isinstance(clips, Batch)  # without workers, errors are raised
    full: list[int] = []
    with threads(run.training.threads):
        if device.type == "cpu":
            keep_memory()
        peak = matmul(device, precision)
        steps = tuple(stepped(run, method, clips, device, precision, progress, full))
    return Bench(
        str(device),
        str(precision).removeprefix("torch."),
        cores(),
        pick_workers(run),
        run.training.batch * run.data.per_video // parts_of(run, device.type, precision),
        reading,
        gain,
        reading.decoded > 1 and run.data.repeats == 1 and method.views == 1,
        steps,
        full[0] if full else None,
        flops(plan(run).gmacs, method),
        peak,
        source,
    )


def advice(found: Bench) -> list[str]:
    """What would help, the most first."""
    wanted, each, quoted = found.best.speed, found.reading.speed, shlex.quote(found.source)
    lines = []
    if found.workers == 0:
        share = wanted / (wanted + each)  # reading and step take turns
        lines.append(f"without workers, reading takes {share:.0%} of the time (--training.workers N reads meanwhile)")
        slow = share > 0.1
    else:
        able = found.workers * each
        slow = able < wanted
        if not slow:
            some = f": {found.needed} of {count(found.workers, 'worker')} would do" if found.workers > 1 else ""
            lines.append(f"reading keeps up with the step{some}")
        else:
            lines.append(
                f"the step waits for videos: it takes {wanted:,.1f} clips a second, "
                f"{count(found.workers, 'worker')} can read {able:,.1f}; so training goes at {able / wanted:.0%} of "
                f"its speed; {enough(found, found.needed)}"
            )
    if slow:
        if found.prepared is not None and found.prepared > 1.1:
            needed = math.ceil(wanted / (each * found.prepared))
            lines.append(
                f"tubelet prepare {quoted} OUT: read {found.prepared:.1f} times as fast then, as tried on a few; "
                f"{enough(found, needed)}"
            )
        if 0 < found.workers < found.needed < found.cores:
            lines.append(f"--training.workers {found.needed}, if memory allows")
        if found.repeats:
            lines.append(
                "--data.repeats 2: two crops of every clip that is decoded, as VideoMAE V2 and MAE-ST have them; an "
                "epoch, and a batch, then holds twice as many clips"
            )
    if found.full is not None:
        lines.append(f"{found.full} clips at once do not fit on {found.device}: more by --training.accumulate")
    elif found.best.clips > found.part:
        lines.append(
            f"{found.best.clips} clips at once are faster than {found.part}, as training would have them: have more by "
            "--training.accumulate"
        )
    elif found.best is not found.steps[-1] and found.best.clips < found.part:
        lines.append(
            f"{found.best.clips} clips at once are as fast as {found.steps[-1].clips}: where memory is short, have as "
            "few by --training.accumulate"
        )
    elif len(found.steps) > 1 and found.steps[-1].clips == found.part:
        lines.append(
            "more clips at once would be faster still: a larger --training.batch, or a smaller --training.accumulate"
        )
    if found.reading.unreadable:
        lines.append(
            f"{count(len(found.reading.unreadable), 'video')} cannot be read: tubelet check {quoted} says which"
        )
    return lines


def enough(found: Bench, needed: int) -> str:
    """Whether so many workers can be had."""
    if needed < found.cores:
        return f"{count(needed, 'worker')} would keep up"
    return f"that many workers as would keep up ({needed}) the {count(found.cores, 'core')} here cannot run beside it"


def render(found: Bench) -> RenderableType:
    """What was measured and what would help, as a table."""
    read, best = found.reading, found.best
    where = "from memory" if not read.decoded else f"{read.decoded:.0f} frames decoded of {read.width}x{read.height}"
    each = f"the {count(read.clips, 'clip')} of a video" if read.clips > 1 else "a clip"
    rows = [
        (
            "reading",
            f"{read.speed:,.1f} clips/s by one worker: {1000 * read.seconds:,.1f} ms for {each}, {where}; "
            f"{1000 * read.first:,.1f} ms the first time ({count(read.videos, 'video')})",
        ),
        (
            "training step",
            f"{best.speed:,.1f} clips/s on {found.device} in {found.precision}; its products run at "
            f"{found.utilisation:.0%} of the speed of large ones ({found.peak / 1e9:,.0f} GFLOP/s)",
        ),
        ("by clips at once", "; ".join(f"{step.clips}: {step.speed:,.1f} clips/s" for step in found.steps)),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(name, text)
    for number, line in enumerate(advice(found)):
        table.add_row("" if number else "advice", escape(line))
    return table
