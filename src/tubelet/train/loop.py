"""The training loop: the whole of it, top to bottom, no hooks."""

import ctypes
import math
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tubelet.config import Run, checked, numbers, parts_of
from tubelet.data.cache import cores, free_memory
from tubelet.data.datasets import Dataset
from tubelet.data.loader import Failures, batches
from tubelet.data.sources import Item, find
from tubelet.train import checkpoint
from tubelet.train.folder import begin, fingerprint, same_data, used
from tubelet.train.log import Counter, Log, board_writer, say
from tubelet.train.optim import adamw, half_cosine, rate, set_decay, set_rate
from tubelet.train.start import fitting, started
from tubelet.train.teacher import teach, with_shape
from tubelet.types import Batch, Draws, Method
from tubelet.weights.report import Report

COMPILED = ("encoder", "decoder", "teacher", "projector", "predictor", "momentum_encoder", "momentum_projector")


class TrainingError(RuntimeError):
    """A run had to stop; what to change is in the message."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the state is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def train(
    run: Run,
    source: Path | str,
    out: Path | str,
    *,
    items: Sequence[Item] | None = None,
    prepare: Callable[[Method], list[Report]] | None = None,
    validate: Callable[[Method], dict[str, float]] | None = None,
    resume: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    limit: int | None = None,
) -> Path:
    """Trains `run` on the videos of `source` and returns the run folder `out`.

    The folder holds run.json, metrics.jsonl, checkpoints/last.pt and encoder.safetensors (or model.safetensors).
    It starts from the encoder of the run `training.init`, if there is one. `items` are the videos of `source`, where
    they have been looked for already. `prepare` is called with the fresh module, to load weights into it, and
    says what it did. `validate` measures it every `training.validate_every` epochs and at the end; what the first of
    its numbers is highest for is kept as best.safetensors. `limit` stops after so many steps as a kill would, but saved
    (the schedule stays that of the whole run).

    Raises:
        ValueError, FileNotFoundError: settings or data that cannot be used.
        TrainingError: the loss is not finite, or memory ran out.
        Interrupted: a signal came; resume with the same command.
    """
    checked(run)
    folder = Path(out)
    run = with_shape(run, folder if resume else None)
    changed = used(folder, run, resume)  # first, because it costs nothing and is the likeliest mistake
    grid, device, images = run.grid(), pick_device(run.training.device), run.data.images
    precision = pick_precision(run.training.precision, device)
    init = run.training.init if changed is None else None
    weights = None if init is None else fitting(run, init, run.training.inflate, run.training.init_heads)
    dataset = Dataset(find(source) if items is None else items, run.data, run.training.seed)
    plan, data = numbers(run, len(dataset)), fingerprint(dataset)
    if changed is not None:
        same_data(folder, data, source)
    if device.type == "cpu":
        keep_memory()
    with threads(run.training.threads):
        torch.manual_seed(run.training.seed)
        method: Method = run.method.build(run.encoder, grid, run.data.channels)
        reports = [teach(run, method)] if changed is None else []
        reports += [] if weights is None else [started(method, weights)]
        reports += [] if prepare is None else prepare(method)
        with advised(run, device):
            method.to(device).train()
        optimiser = adamw(method, run.optim)
        start, best = (0, -math.inf) if changed is None else checkpoint.restore(folder, method, optimiser)
        if run.training.compile:
            compiled(method)
        dataset.fill_cache(Counter("reading videos into memory", quiet))
        patience, pinned = run.training.patience, device.type == "cuda"
        stream = batches(
            dataset, run.training.batch, start, plan.steps, pick_workers(run), patience=patience, pinned=pinned
        )
        first = list(islice(stream, 1))  # what is wrong with the data shows here, before anything is written
        failures = Failures(dataset.files)
        for batch in first:
            failures.count(batch.notes)
        if tensorboard:
            board_writer()
        if changed is None:
            begin(folder, run, source, data)
        with Log(folder, start, plan.steps, quiet, tensorboard) as log, Signals() as signals:
            for report in reports:
                if report is not None and changed is None:  # of a resumed run it was said when it began
                    log.begun(report)
            log.note(start, changed or [])
            if resume and changed is None:
                log.say(f"nothing to resume in {folder}: begun from the start")
            if start >= plan.steps:
                log.say(f"{folder} has all of its {plan.steps} steps already: nothing is left to do")
            clock = time.perf_counter()
            for step, batch in enumerate(chain(first, stream), start):
                waited = time.perf_counter() - clock
                log.note(step, batch.notes)
                failures.count(batch.notes)
                lr = rate(step, plan.steps, plan.warmup, plan.lr, plan.low)
                set_rate(optimiser, lr)
                if run.optim.weight_decay_end is not None:
                    decay = half_cosine(step, plan.steps, run.optim.weight_decay, run.optim.weight_decay_end)
                    set_decay(optimiser, decay)
                with advised(run, device):
                    loss, norm, told = one_step(method, optimiser, batch, step, run, device, precision)
                    guard(loss, norm, step, lr, batch)
                    optimiser.step()
                    optimiser.zero_grad()
                method.after_step(step, plan.steps)
                log.note(step, method.doubts(told))
                finished, due = step + 1 == plan.steps, (step + 1) % plan.save_every == 0
                now = time.perf_counter()
                spent = now - clock
                found = {}
                if validate is not None and (finished or (step + 1) % plan.validate_every == 0):
                    found = measured(method, validate)
                    score = next(iter(found.values()))
                    if score > best:
                        best = score
                        checkpoint.export(folder, run, method, step + 1, "best")
                clock = time.perf_counter()
                log.line(
                    step + 1,
                    {
                        "epoch": (step + 1) * plan.each / plan.videos,
                        "loss": loss,
                        **({images.loss(step): loss} if images else {}),
                        "lr": lr,
                        "gradient_norm": norm,
                        **told,
                        "seconds": round(spent, 6),
                        "clips_per_second": round(len(batch.video) / spent, 3),
                        "data_wait": round(waited / spent, 4),
                    }
                    | found,
                )
                stopped = signals.number or (limit is not None and step + 1 >= limit)
                if finished or due or stopped:
                    checkpoint.save(folder, run, method, optimiser, step + 1, run.training.keep and due, best)
                if signals.number:
                    name = signal.Signals(signals.number).name
                    raise Interrupted(
                        signals.number,
                        f"{name} after step {step + 1} of {plan.steps}; saved. Go on: the same command with --resume",
                    )
                if stopped:
                    break
            for line in failures.summary():
                say(line)
    return folder


def compiled(method: Method) -> None:
    """Has its large parts compiled when they are first used."""
    for name in COMPILED:
        if isinstance(part := getattr(method, name, None), torch.nn.Module):
            part.compile()


def measured(method: Method, validate: Callable[[Method], dict[str, float]]) -> dict[str, float]:
    """What `validate` says about the module, which goes on training as if nothing had been."""
    state = torch.get_rng_state()
    try:
        return validate(method.eval())
    finally:
        method.train()
        torch.set_rng_state(state)


def one_step(
    method: Method,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    run: Run,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[float, float, dict[str, float]]:
    """Gradients of one step, clipped if asked; the loss, the gradient's norm, and what else its parts told, averaged.

    The loss is the sum over all parts divided by the count over all parts. Each part is divided by what the count will
    be if the parts are alike, and where they were not (dual masking) the gradients are put right afterwards.
    """
    parts = parts_of(run, device.type, precision)
    clips = len(batch.video) // parts
    total = count = torch.zeros((), device=device)
    expected: torch.Tensor | None = None
    told: dict[str, torch.Tensor] = {}
    for part in range(parts):
        places = range(part * clips, (part + 1) * clips)
        piece = batch.clips(places.start, places.stop).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            result = method(piece, Draws(run.training.seed, step, places))
        if expected is None:
            expected = result.count * parts
        (result.sum / expected).backward()
        total, count = total + result.sum.detach(), count + result.count
        told = {name: value + told.get(name, 0) for name, value in result.told.items()}
    parameters = [p for p in method.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if parts > 1 and expected is not None:
        torch._foreach_mul_(gradients, expected / count)
    if run.optim.clip is None:
        norm = torch.nn.utils.get_total_norm(gradients)
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, run.optim.clip)
    means = {name: float(value) / parts for name, value in told.items()}
    return float(total / count), float(norm), means


def guard(loss: float, norm: float, step: int, lr: float, batch: Batch) -> None:
    """Stops before a step that would spoil the weights.

    Raises:
        TrainingError: loss or gradient is not finite; names step, rate and the files of the batch.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    files = "\n  ".join(batch.paths)
    raise TrainingError(
        f"step {step}: loss {loss}, gradient norm {norm}, learning rate {lr:.3g}; the weights were not changed and the "
        "last checkpoint is from before. Start anew, with another --out and a lower --optim.base-lr, a longer "
        f"--optim.warmup, --optim.clip 1, or --training.precision float32. The videos of this step:\n  {files}"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory", "not enough memory")
    )


@contextmanager
def advised(run: Run, device: torch.device) -> Iterator[None]:
    """Says what to change if memory runs out.

    Raises:
        TrainingError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(advice(run, device, error)) from error


def advice(run: Run, device: torch.device, error: BaseException) -> str:
    """Which setting to change when memory runs out, with the numbers."""
    t = run.training
    parts = parts_of(run, device.type, pick_precision(t.precision, device))
    part = t.batch * run.data.per_video // parts
    again = "and repeat the command with --resume"
    if t.batch > parts:
        more = next(n for n in range(parts + 1, t.batch + 1) if t.batch % n == 0)
        change = f"--training.accumulate {more}: less in memory at once, the same result; {again}"
        if getattr(run.method, "draws_by_part", False):  # clips of a part are mixed or compared: another run
            change = f"--training.accumulate {more}, in a new --out: less in memory at once, and fewer clips in a part"
    elif not run.encoder.checkpoint:
        change = f"--encoder.checkpoint, {again}; or a smaller --data.size in a new --out"
    else:
        change = f"a smaller --data.size (now {run.data.size[0]}x{run.data.size[1]}) or encoder, in a new --out"
    return (
        f"out of memory on {device}: {part} clips of {run.data.clip.frames}x{run.data.size[0]}x{run.data.size[1]} at "
        f"once (batch {t.batch} x {run.data.per_video} crops / {parts} parts). Try {change}. "
        f"`tubelet plan` estimates what a setting needs. ({str(error).splitlines()[0]})"
    )


# ---------------------------------------------------------------------------- device, precision, signals


def pick_device(name: str) -> torch.device:
    """The device of a name; auto takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    if not here.get(kind, False):
        there = [k for k, usable in here.items() if usable]
        raise ValueError(f"device {name!r} cannot be used here; there is: {', '.join(there)} (or auto)")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} cannot be used; expected a kind and a number, as cuda:1") from error


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic to use; auto is bfloat16 where the processor has instructions for it, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if has else torch.float32


def pick_workers(run: Run) -> int:
    """Processes that read; -1 leaves one core to the step, and takes no more than half of the free memory holds.

    Each has up to two batches ready, and large batches of large clips are gigabytes.
    """
    if run.training.workers >= 0:
        return run.training.workers
    free = free_memory()
    fit = cores() if free is None else int(free / 2 / (2 * batch_bytes(run)))
    return max(min(cores() - 1, fit), 1)


def batch_bytes(run: Run) -> int:
    """Main memory of a batch of clips, uint8."""
    clips, pixels = run.training.batch * run.data.per_video, run.data.clip.frames * math.prod(run.data.size)
    return clips * pixels * run.data.channels // (2 if run.data.yuv else 1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets PyTorch use `count` threads for a while; 0 leaves their number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """From now on the C library keeps freed memory for the next step; glibc only, other systems are left alone.

    A step on a CPU asks for the same large blocks every time, by default each a mapping of its own that the kernel must
    fill with zeros, page by page: a fifth to a third of a step of transformers' VideoMAE (benchmarks/step.csv). Blocks
    over 1 GiB, as a cache of frames, still come and go by themselves; before glibc 2.35 those over 32 MiB do.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3  # names and numbers of malloc.h
        if libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(mmap_threshold, 2**25):
            libc.mallopt(trim_threshold, 2**31 - 1)


class Signals:
    """Remembers SIGINT and SIGTERM, so that the step under way is finished and saved. A second one stops at once."""

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.remember)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def remember(self, number: int, _: FrameType | None) -> None:
        """Takes note of a signal."""
        self.number = number
        signal.signal(number, self.before[number])
