"""Whether a run fits on machines: memory of a GPU, hours, storage, cores that read, failures.

`plan` counts what the run is; here that is divided by what machines can do (`hardware`). Of every constant the answer
says whether it was measured, given or supposed. Nothing here was ever checked on a GPU.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from tubelet.config import Run, numbers
from tubelet.data.writing import Encoding
from tubelet.hardware import Constant, Machines
from tubelet.nn.attention import Block
from tubelet.nn.cross import CrossBlock
from tubelet.plan import (
    Memory,
    Passage,
    gib,
    masks_of,
    on_meta,
    passage,
    remembered,
    resolved,
    size,
    target_bytes,
)
from tubelet.train.device import batch_bytes
from tubelet.types import Method

AHEAD = 2  # batches that each worker has ready, as `data.loader.batches`
BACKWARD = 2 / 3  # of the products of a step


@dataclass(frozen=True)
class Held:
    """Bytes on each GPU."""

    memory: Memory  # as of one process alone; under fsdp its share
    exchange: int  # under fsdp blocks that are gathered, and gradients on their way; ddp's gradients lie in its buckets
    allowance: int  # libraries, and what the allocator cannot reuse

    @property
    def total(self) -> int:
        """All of it."""
        return self.memory.total + self.exchange + self.allowance


@dataclass(frozen=True)
class Change:
    """Settings with which a run fits into memory."""

    flags: str
    total: int  # bytes on each GPU then
    times: float  # the products of a step, of those before


@dataclass(frozen=True)
class Pace:
    """Seconds of a step."""

    products: float
    exchange: float  # of gradients and weights between GPUs, if nothing else went on
    exposed: float  # what of that is not hidden behind products

    @property
    def total(self) -> float:
        """All of it, where no step waits for data."""
        return self.products + self.exposed


@dataclass(frozen=True)
class Reading:
    """What the videos need, so that no step waits for them."""

    videos: float  # read a second, by all GPUs together
    clips: float  # shown a second
    cores: float  # for each GPU
    main_memory: int  # bytes of batches ready, of each node
    bytes: float  # a second and node, if only the part of a file that a clip needs is fetched
    whole: float  # the same of whole files
    requests: float  # a second, of all nodes


@dataclass(frozen=True)
class Saving:
    """Storage, and what failures cost."""

    videos: int | None  # bytes of all
    checkpoint: int  # bytes of one
    kept: int  # checkpoints
    failures: float | None  # of a node, to be expected in the run
    every: float  # seconds from one checkpoint to the next that lose least time


@dataclass(frozen=True)
class Budget:
    """What a run takes on machines, and whether they have it."""

    gpus: int
    nodes: int
    gpu: str
    parallel: str
    precision: str
    videos: int | None
    held: Held
    has: int  # bytes of each GPU
    change: Change | None  # the least that makes it fit into memory; None: it does, or nothing would
    flops: float  # of a clip in a step, without what is recomputed
    pace: Pace
    steps: int | None
    hours: float | None  # of the run; None where the number of videos is not known
    given: float | None  # hours that there are
    enough: dict[str, float]  # what would just do for them, each by itself: "utilisation", "gpus", "epochs"
    reading: Reading
    saving: Saving
    constants: dict[str, Constant]

    @property
    def fits(self) -> dict[str, bool | None]:
        """Into memory, and into the hours; None where that was not asked or cannot be told."""
        asked = self.given is not None and self.hours is not None
        hours = self.hours <= self.given if asked else None  # type: ignore[operator]
        return {"memory": self.held.total <= self.has, "hours": hours}

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers only, for JSON."""
        held = asdict(self.held) | {"total": self.held.total}
        return asdict(self) | {"held": held, "fits": self.fits, "step": self.pace.total}


def budget(run: Run, machines: Machines, videos: int | None = None, video_bytes: float | None = None) -> Budget:
    """Whether `run` fits on machines with that many videos, which have `video_bytes` each if they are there already.

    Raises:
        ValueError: settings that cannot be used, or a batch that cannot be shared out to the GPUs.
    """
    run, _ = resolved(run)
    gpus, nodes = machines.shared(run.training.batch, max(run.training.accumulate, 1))
    gpu, constants = machines.constants(run, nodes, video_bytes)
    value = {name: constant.value for name, constant in constants.items()}
    precision: Any = gpu.peak_of(run.training.precision)[1]
    device = "cpu" if machines.gpu == "cpu" else "cuda"
    run = replace(run, training=replace(run.training, device=device, precision=precision))

    method = on_meta(run.method, run.encoder, run.grid(), run.data.channels)
    passed = passage(method, run.grid(), run.data.channels)
    target = target_bytes(run, run.grid(), masks_of(run, run.grid()))
    whole = remembered(share(run, gpus), method, passed, target)
    held, has = spread(run, method, whole, gpus, value), int(gpu.gib * 2**30)
    work = flops(passed.gmacs, method)
    change = None if held.total <= has else least(run, target, gpus, has, value)

    def pace(utilisation: float, count: int, link: float) -> Pace:
        done = work + recomputed(run, passed)
        products = run.training.batch * run.data.per_video / count * done / (value["peak"] * 1e12 * utilisation)
        return with_exchange(run, method, products, count, link)

    def hours(utilisation: float, count: int) -> float:
        across = machines.constants(run, math.ceil(count * nodes / gpus), None)[1]["link"].value
        return (counted.steps if counted else 0) * pace(utilisation, count, across).total / 3600

    now = pace(value["utilisation"], gpus, value["link"])
    counted = None if videos is None else numbers(run, videos)
    needs = None if counted is None else counted.steps * now.total / 3600
    enough: dict[str, float] = {}
    if machines.hours is not None and needs is not None:
        shares = (n / 100 for n in range(1, 101))
        enough["utilisation"] = next((u for u in shares if hours(u, gpus) <= machines.hours), math.inf)
        local = run.training.batch // max(run.training.accumulate, 1)
        counts = (n for n in range(1, local + 1) if local % n == 0 and (n < gpus or n % (gpus // nodes) == 0))
        enough["gpus"] = next((n for n in counts if hours(value["utilisation"], n) <= machines.hours), math.inf)
        enough["epochs"] = run.training.epochs * machines.hours / needs
        enough = {name: number for name, number in enough.items() if number < math.inf}
    each = value["bytes a frame"] * value["frames a video"]
    write = (whole.weights + whole.moments) / (value["write"] * 1e9)
    saving = Saving(
        None if videos is None else int(videos * each),
        whole.weights + whole.moments,
        counted.steps // counted.save_every if counted and run.training.keep else 1,
        None if needs is None else needs / 24 * nodes / value["node-days a failure"],
        math.sqrt(2 * write * value["node-days a failure"] / nodes * 86400),
    )
    return Budget(
        gpus,
        nodes,
        machines.gpu,
        run.training.parallel,
        precision,
        videos,
        held,
        has,
        change,
        work,
        now,
        None if counted is None else counted.steps,
        needs,
        machines.hours,
        enough,
        needed(run, now.total, gpus, nodes, each, value),
        saving,
        constants,
    )


# ---------------------------------------------------------------------------- memory


def share(run: Run, gpus: int) -> Run:
    """The run of one of several processes."""
    return replace(run, training=replace(run.training, batch=run.training.batch // gpus))


def spread(run: Run, method: Method, whole: Memory, gpus: int, value: Mapping[str, float]) -> Held:
    """What each of several processes holds of what one alone would."""
    exchange = 0
    if gpus > 1 and run.training.parallel == "fsdp":
        blocks = [size(module) for module in method.modules() if isinstance(module, Block | CrossBlock)]
        rest = size(method) - sum(blocks)  # stays gathered; of blocks this one and the next, and the gradients of two
        exchange = 4 * (rest + 4 * max(blocks, default=0))
        # Gradients are added up over parts before they are shared out, so that processes need not talk in between.
        shared = ("weights", "moments", *["gradients"] * (run.training.accumulate < 2))
        whole = replace(whole, **{name: math.ceil(getattr(whole, name) / gpus) for name in shared})
    if run.training.device == "cpu":
        return Held(whole, exchange, 0)
    unusable = value["fragmentation"] * (whole.total + exchange)
    return Held(whole, exchange, int(value["libraries"] * 2**30 + unusable))


def least(run: Run, target: tuple[int, int], gpus: int, has: int, value: Mapping[str, float]) -> Change | None:
    """The first change that makes a run fit into `has` bytes; none does that is known here."""
    built: dict[bool, tuple[Method, Passage]] = {}
    for other, flags in changes(run, gpus):
        if (again := other.encoder.checkpoint) not in built:
            method = on_meta(other.method, other.encoder, run.grid(), run.data.channels)
            built[again] = method, passage(method, run.grid(), run.data.channels)
        method, passed = built[again]
        whole = remembered(share(other, gpus), method, passed, target)
        if (total := spread(other, method, whole, gpus, value).total) <= has:
            work = flops(passed.gmacs, method)
            return Change(flags, total, (work + recomputed(other, passed)) / (work + recomputed(run, passed)))
    return None


def changes(run: Run, gpus: int) -> Iterator[tuple[Run, str]]:
    """What may be changed, the least first: more parts, shares of the network, recomputing; and these together."""
    t = run.training
    given, local = max(t.accumulate, 1), t.batch // gpus
    most = local // (2 if hasattr(run.method, "views") else 1)
    parts = [count for count in range(given, most + 1) if local % count == 0]
    for checkpoint in dict.fromkeys((run.encoder.checkpoint, True)):
        for parallel in dict.fromkeys((t.parallel, "fsdp" if gpus > 1 else t.parallel)):
            for count in parts:
                flags = (
                    f"--training.accumulate {count}" * (count != given),
                    f"--training.parallel {parallel}" * (parallel != t.parallel),
                    "--encoder.checkpoint" * (checkpoint != run.encoder.checkpoint),
                )
                training = replace(t, accumulate=count, parallel=parallel)
                encoder = replace(run.encoder, checkpoint=checkpoint)
                yield replace(run, encoder=encoder, training=training), " ".join(filter(None, flags))


# ---------------------------------------------------------------------------- time


def flops(gmacs: Mapping[str, float], method: Method) -> float:
    """Of a clip in a step: the backward pass has two products for each of the forward pass, where something learns."""
    learnt = sum(
        gmacs.get(name, 0.0)
        for name, part in method.named_children()
        if any(parameter.requires_grad for parameter in part.parameters())
    )
    return 2e9 * gmacs["forward"] + 4e9 * learnt


def recomputed(run: Run, passed: Passage) -> float:
    """What recomputing adds to that: the encoder's forward pass once more."""
    gmacs = passed.gmacs
    return 2e9 * gmacs.get("encoder", gmacs["encoder of all tokens"]) if run.encoder.checkpoint else 0.0


def with_exchange(run: Run, method: Method, products: float, gpus: int, link: float) -> Pace:
    """The seconds of a step with what goes between GPUs, in rings, float32.

    Both add up gradients once a step, while the backward pass of the last part goes on. fsdp also gathers all weights
    for the forward and the backward pass of every part, while all products go on, and scatters the sums instead of
    giving them to all: half as much.
    """
    parts, learnt = max(run.training.accumulate, 1), sum(p.numel() for p in method.parameters() if p.requires_grad)
    once = 4 * (gpus - 1) / gpus / (link * 1e9)
    if run.training.parallel == "ddp":
        exchange, hides = 2 * learnt * once, BACKWARD * products / parts
    else:
        exchange, hides = (2 * parts * size(method) + learnt) * once, products
    return Pace(products, exchange, max(0.0, exchange - hides))


# ---------------------------------------------------------------------------- reading


def needed(run: Run, step: float, gpus: int, nodes: int, each: float, value: Mapping[str, float]) -> Reading:
    """What the videos need, of `each` so many bytes, where a step takes so many seconds."""
    clip, decoded = run.data.clip, run.training.batch * run.data.clips / step
    cores = decoded / gpus * value["ms a clip"] / 1000
    workers = math.ceil(cores) if run.training.workers < 0 else run.training.workers
    # From half a distance between key frames before the clip's first frame to its last.
    stride = getattr(clip, "stride", None)
    frames = (clip.frames - 1) * stride + 1 + Encoding().keyframes / 2 if stride else math.inf
    return Reading(
        decoded,
        run.training.batch * run.data.per_video / step,
        cores,
        (1 + AHEAD * workers) * batch_bytes(run) // nodes,
        decoded / nodes * each * min(1, frames / value["frames a video"]),
        decoded / nodes * each,
        2 * decoded,  # where its frames lie, and they
    )


# ---------------------------------------------------------------------------- words


def render(found: Budget) -> RenderableType:
    """The budget as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in words(found).items():
        table.add_row(name, text)
    return table


def words(found: Budget) -> dict[str, str]:
    """The budget for people, line by line."""
    held, memory, pace, reading, saving = found.held, found.held.memory, found.pace, found.reading, found.saving
    value = {name: f"{constant.value:,.4g}" for name, constant in found.constants.items()}
    lines = {
        "machines": f"{found.gpus} x {found.gpu} of {gib(found.has)} in {found.nodes} node{'s' * (found.nodes > 1)}; "
        f"{found.parallel}, {found.precision}",
        "memory": f"{gib(held.total)} a GPU: weights {gib(memory.weights)}, gradients {gib(memory.gradients)}, "
        f"moments {gib(memory.moments)}, exchange {gib(held.exchange)}, activations {gib(memory.activations)} "
        f"({memory.clips:,} clips at once), allowance {gib(held.allowance)}",
        "fits": "yes" if held.total <= found.has else remedy(found),
        "step": f"{pace.total:.3g} s: products {pace.products:.3g} s ({found.flops / 1e9:,.0f} GFLOP a clip), exchange "
        f"{pace.exchange:.3g} s, of which {pace.exposed:.3g} s is not hidden; {reading.clips:,.0f} clips/s in all",
        "time": "needs --data or --videos" if found.hours is None else timed(found),
        "reading": f"{reading.cores:.1f} cores a GPU, {reading.cores * found.gpus / found.nodes:,.0f} a node, at "
        f"{value['ms a clip']} ms a clip; up to {gib(reading.main_memory)} of main memory a node for batches ahead",
        "network": f"{reading.bytes / 1e6:,.0f} MB/s a node for the parts of files that clips need, "
        f"{reading.whole / 1e6:,.0f} MB/s for whole files; {reading.requests:,.0f} requests a second in all",
        "storage": ("" if saving.videos is None else f"{saving.videos / 1e9:,.0f} GB of videos; ")
        + f"{gib(saving.checkpoint * saving.kept)} of checkpoints ({saving.kept} of {gib(saving.checkpoint)})",
        "failures": ("" if saving.failures is None else f"{saving.failures:.2g} of a node to be expected; ")
        + f"least is lost with a checkpoint every {saving.every / 60:,.0f} minutes",
    }
    for kind in ("measured", "given", "supposed"):
        said = [f"{n} {value[n]} {c.unit} ({c.source})" for n, c in found.constants.items() if c.kind == kind]
        lines |= {kind: "; ".join(said)} if said else {}
    return lines


def remedy(found: Budget) -> str:
    """What to change where memory is too small."""
    if found.change is None:
        return "no, and no --training.accumulate, fsdp or recomputing helps: more GPUs, larger ones, or a smaller clip"
    times = f", in {found.change.times:.2f} times the products" if found.change.times > 1.005 else ""
    return f"no; with {found.change.flags} it does ({gib(found.change.total)}{times})"


def timed(found: Budget) -> str:
    """How long the run takes, and whether there is so long."""
    assert found.hours is not None
    assert found.steps is not None
    long = f"{found.hours:,.1f} hours ({found.hours * found.gpus:,.0f} GPU-hours), {found.steps:,} steps"
    if found.given is None:
        return long
    does = {
        "utilisation": f"a utilisation of {found.enough.get('utilisation', 0):.2f}",
        "gpus": f"{found.enough.get('gpus', 0):,.0f} GPUs",
        "epochs": f"{found.enough.get('epochs', 0):,.4g} epochs",
    }
    just = ", ".join(does[name] for name in found.enough) or "nothing that is known here"
    return (
        f"{long}; {'fits' if found.fits['hours'] else 'does not fit'} into {found.given:,g}: what just does is {just}"
    )
