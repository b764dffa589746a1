"""How fast this machine reads these videos and learns from them, where the time goes, and what would help.

What is timed is what training does: `Dataset.load` of one worker, and `one_step` with its optimiser on clips that were
read so.
"""

import math
import shlex
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
from torch import Tensor

from tubelet.config import Run, checked
from tubelet.data.cache import cores, free_memory
from tubelet.data.datasets import Dataset, stream
from tubelet.data.images import is_picture
from tubelet.data.items import PREPARED, Item
from tubelet.data.loader import Batches
from tubelet.data.prepare import prepare
from tubelet.data.sources import find
from tubelet.data.split import write_list
from tubelet.data.video import VideoError, probe
from tubelet.data.writing import Encoding
from tubelet.plan import gib, plan
from tubelet.train.loop import (
    TrainingError,
    compiled,
    keep_memory,
    one_step,
    out_of_memory,
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
    seconds: float  # for the clips of one video, on average
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
        run.training.batch * run.data.per_video // run.training.accumulate,
        reading,
        gain,
        reading.decoded > 1 and run.data.repeats == 1 and method.views == 1,
        steps,
        full[0] if full else None,
        flops(run, method),
        peak,
        source,
    )


def chosen(items: Sequence[Item], seed: int) -> list[Item]:
    """Some of the videos, at random."""
    order = stream(seed, "bench").permutation(len(items))[:VIDEOS]
    return [items[place] for place in order.tolist()]


def flops(run: Run, method: Method) -> float:
    """Of a clip in a step: the backward pass has two products for each of the forward pass, where something learns."""
    gmacs = plan(run).gmacs
    learnt = sum(
        gmacs.get(name, 0.0)
        for name, part in method.named_children()
        if any(parameter.requires_grad for parameter in part.parameters())
    )
    return 2e9 * gmacs["forward"] + 4e9 * learnt


# ---------------------------------------------------------------------------- reading


def read(dataset: Dataset) -> tuple[Reading, list[int]]:
    """Clips of every video, twice each, and once more to count; and which of them can be read.

    Raises:
        VideoError: none.
    """
    first, again, decoded, sizes, bad, good = [], [], [], [], [], []
    for number in range(len(dataset.items)):
        try:
            new = seconds(partial(loaded, dataset, number, number, 0))
            known = quickest(partial(loaded, dataset, number, number, 1), 2)
            clip, _, _ = dataset.clip(number, stream(dataset.seed, "bench", number, 1))
        except (VideoError, OSError) as error:
            bad.append(str(error))
        else:
            good.append(number)
            first.append(new)
            again.append(known)
            decoded.append(clip.decoded)
            sizes.append(clip.frames.shape[1:3])
    if not good:
        raise VideoError(f"none of {len(bad)} videos can be read; the first: {bad[0]}")
    height, width = (int(median(size[axis] for size in sizes)) for axis in (0, 1))
    per = dataset.data.per_video
    return Reading(len(good), per, fmean(again), fmean(first), fmean(decoded), height, width, tuple(bad)), good


def dataset_of(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    """Some of the items, read from their files."""
    items = [dataset.items[number] for number in numbers]
    return Dataset(items, replace(dataset.data, cache=0), dataset.seed)


def loaded(dataset: Dataset, number: int, key: int, turn: int) -> None:
    """The clips of a video, as a worker makes them: the same for a key and turn."""
    dataset.load(number, stream(dataset.seed, "bench", key, turn))


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def quickest(act: Callable[[], object], times: int) -> float:
    """How long it takes when nothing else comes between."""
    return min(seconds(act) for _ in range(times))


def gained(dataset: Dataset, good: Sequence[int], progress: Callable[[str], object]) -> float | None:
    """How many times as fast some of the videos are read once they are prepared; None if they are, or all are long."""
    short = []
    for number in good:
        path = dataset.items[number].path
        if is_picture(path) or any((folder / PREPARED).exists() for folder in path.parents):
            return None
        if path.is_file() and probe(path).seconds[-1] <= LONGEST:
            short.append(number)
    short = short[:TRIED]
    if not short:
        progress(f"none is a file of at most {LONGEST:g} s, so none is prepared on trial")
        return None
    progress(f"preparing {len(short)} of them, to see what it brings")
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "some.csv", Path(folder) / "prepared"
        write_list(listed, [dataset.items[number] for number in short])
        if prepare(listed, out, Encoding(), workers=0).quarantined:
            return None
        other = Dataset(find(str(out)), dataset.data, dataset.seed)
        sides = [0.0, 0.0]
        for key, number in enumerate(short):  # the list keeps its order
            for turn in range(REPEATS):
                for side, (one, place) in enumerate(((dataset, number), (other, key))):
                    loaded(one, place, key, turn)  # its index is made
                    sides[side] += quickest(partial(loaded, one, place, key, turn), 2)
    return sides[0] / sides[1]


# ---------------------------------------------------------------------------- steps


def made(run: Run, device: torch.device) -> Method:
    """The module, as training makes it.

    Raises:
        ValueError: not enough memory for it.
    """
    needs, free = plan(with_videos(run, fewest(run))).memory, free_memory()
    if device.type == "cpu" and free is not None and needs.total > free:
        raise ValueError(
            f"the smallest step needs about {gib(needs.total)}, and {gib(free)} are free here; take a smaller "
            "encoder, or see tubelet plan"
        )
    torch.manual_seed(run.training.seed)
    method: Method = run.method.build(run.encoder, run.grid(), run.data.channels)
    teach(run, method)
    return method.to(device).train()


def fewest(run: Run) -> int:
    """Videos that make a step: where clips of a video are compared it takes another one to tell them from."""
    return 2 if hasattr(run.method, "views") else 1


def with_videos(run: Run, videos: int) -> Run:
    """The run with batches of so many."""
    return replace(run, training=replace(run.training, batch=videos, accumulate=1))


def stepped(
    run: Run,
    method: Method,
    clips: Batch,
    device: torch.device,
    precision: torch.dtype,
    progress: Callable[[str], object],
    full: list[int],
) -> Iterator[Step]:
    """Steps with the clips of one video, of two, of four, until one is as large as the run's, slow, or does not fit:
    how many did not is put into `full`.

    Raises:
        TrainingError: not even the first fits.
    """
    optimiser = adamw(method, run.optim)
    for group in optimiser.param_groups:
        group["lr"] = 0.0  # so that nothing can go astray
    if run.training.compile:
        compiled(method)
    parts = run.training.accumulate
    videos = fewest(run)
    most = max(run.training.batch // parts, videos)
    while True:
        one = with_videos(run, videos)
        batch = repeated(clips, videos)
        size = len(batch.video)
        needs, free = plan(one).memory.total, free_memory()
        progress(f"steps with {count(size, 'clip')}")
        try:
            if device.type == "cpu" and free is not None and needs > free:
                raise MemoryError(f"about {gib(needs)} are needed, {gib(free)} free")
            spent = [timed(method, optimiser, batch, one, device, precision, parts) for _ in range(REPEATS + 1)]
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if videos == fewest(run):
                raise TrainingError(
                    f"out of memory on {device} with {count(size, 'clip')}, the fewest that make a step: try "
                    f"--encoder.checkpoint, smaller clips (--data.size) or a smaller encoder. ({error})"
                ) from error
            full.append(size)
            return
        yield Step(size, min(spent[1:]))
        if videos >= most or min(spent[1:]) > SLOW:
            return
        videos = min(2 * videos, most)


def repeated(clips: Batch, videos: int) -> Batch:
    """A batch of so many videos, the clips of some again and again."""
    per, have = clips.crops, len(clips.video) // clips.crops
    which = (torch.arange(videos) % have).repeat_interleave(per) * per + torch.arange(per).repeat(videos)

    def again(tensor: Tensor) -> Tensor:
        return tensor[which]

    # Channels stay last in memory, as they come.
    video = again(clips.video.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
    motion = None if clips.motion is None else clips.motion.each(again)
    return replace(clips, video=video, ids=torch.arange(videos).repeat_interleave(per), motion=motion, labels=None)


def timed(
    method: Method,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    device: torch.device,
    precision: torch.dtype,
    parts: int,
) -> float:
    """Seconds of one of `parts` parts of a step, with its share of what is done once a step."""

    def once() -> None:
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(0, 1000)
        if device.type in ("cuda", "mps"):
            getattr(torch, device.type).synchronize()

    gradients = seconds(lambda: one_step(method, optimiser, batch, 0, run, device, precision))  # its loss is a float:
    return gradients + seconds(once) / parts  # whatever the device, it is done


def matmul(device: torch.device, precision: torch.dtype) -> float:
    """Most multiplications and additions a second in products of large matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))

    def product() -> None:
        float((a @ b)[0, 0])

    product()
    return 2 * side**3 / quickest(product, 2 * REPEATS)


# ---------------------------------------------------------------------------- words


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
    elif found.best is not found.steps[-1]:
        lines.append(
            f"{found.best.clips} clips at once are as fast as {found.steps[-1].clips}: where memory is short, have as "
            "few by --training.accumulate"
        )
    elif len(found.steps) > 1 and found.steps[-1].clips == found.part:
        lines.append(
            "more clips at once would be faster still: a larger --training.batch, or less --training.accumulate"
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
