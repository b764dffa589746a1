"""The training loop: the whole of it, top to bottom, no hooks."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from signal import Signals as Names
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from tubelet.config import Run, checked, numbers, parts_of, shared_out
from tubelet.data.datasets import Dataset
from tubelet.data.loader import Failures, batches
from tubelet.data.sources import Item, find
from tubelet.nn.collective import from_first, joined, plain, whoami
from tubelet.plugins import trust
from tubelet.train import checkpoint, sharded
from tubelet.train.device import keep_memory, pick_device, pick_precision, pick_workers, threads
from tubelet.train.distributed import Spread, averaged, in_step, totals
from tubelet.train.folder import Lock, begin, begun_by_this_launch, fingerprint, same_data, used
from tubelet.train.guard import Guard, Interrupted, advised
from tubelet.train.log import Counter, Log, board_writer, say
from tubelet.train.optim import adamw, half_cosine, rate, set_decay, set_rate
from tubelet.train.signals import Signals
from tubelet.train.start import fitting, started
from tubelet.train.teacher import teach, with_shape
from tubelet.types import Batch, Draws, Method
from tubelet.weights.report import Report

COMPILED = ("encoder", "decoder", "teacher", "projector", "predictor", "momentum_encoder", "momentum_projector")
MOMENTS = 7  # of a run, at which it is shown
T = TypeVar("T")


def train(
    run: Run,
    source: Path | str,
    out: Path | str,
    *,
    items: Sequence[Item] | None = None,
    prepare: Callable[[Method], list[Report]] | None = None,
    validate: Callable[[Method], dict[str, float]] | None = None,
    show: Callable[[Method, int, int], UInt8[np.ndarray, "h w 3"] | None] | None = None,
    tell: Callable[[int, bool], None] | None = None,
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
    its numbers is highest for is kept as best.safetensors. `show` gets the module, the step and the number of steps at
    each of `moments`, and returns a picture of what it sees, for TensorBoard. `tell` is called after every step with
    its number and whether it was saved, by the first process alone. Neither changes a number of the run.
    `limit` stops after so many steps as a kill would, but saved (the schedule stays that of the whole run).

    Of several processes (torchrun, srun) each calls it with the same arguments; they take a share of every batch.

    Raises:
        ValueError, FileNotFoundError: settings or data that cannot be used.
        TrainingError: the loss is not finite, or memory ran out.
        Interrupted: a signal came; resume with the same command.
        Elsewhere: another process met one of these.
    """
    folder = Path(out)
    with joined() as (rank, world), Lock(folder) as lock, threads(max(run.training.threads, 0)):
        from_first(lambda: checked(run))
        trust(run)  # so that what is written here can be read here
        resume = resume or begun_by_this_launch(folder)
        run, quiet = with_shape(run, folder if resume else None), quiet or rank > 0
        from_first(lambda: shared_out(run, world))
        if run.training.checkpoints == "sharded":
            sharded.usable()
        # first, because it costs nothing and is the likeliest mistake
        changed = from_first(lambda: used(folder, run, resume, lock))
        grid, device, images = run.grid(), pick_device(run.training.device), run.data.images
        precision = pick_precision(run.training.precision, device)
        init = run.training.init if changed is None else None
        weights = None if init is None else fitting(run, init, run.training.inflate, run.training.init_heads)
        items = from_first(lambda: find(source)) if items is None else items
        dataset = Dataset(items, run.data, run.training.seed)
        plan, data = numbers(run, len(dataset)), from_first(lambda: fingerprint(dataset))
        if changed is not None:
            from_first(lambda: same_data(folder, data, source))
        if device.type == "cpu":
            keep_memory()
        torch.manual_seed(run.training.seed)
        method: Method = run.method.build(run.encoder, grid, run.data.channels)
        reports = [teach(run, method)] if changed is None else []
        reports += [] if weights is None else [started(method, weights)]
        reports += [] if prepare is None else prepare(method)
        with advised(run, device):
            method.to(device).train()
            spread = Spread(method, run.training.parallel, device)
        optimiser, guard = adamw(method, run.optim), Guard.of(run, folder, precision)
        start, best, at = 0, -math.inf, moments(plan.steps)
        if changed is not None:
            start, best, guarded = checkpoint.restore(folder, method, optimiser)
            guard.restore(guarded)
        if run.training.compile:
            compiled(method)
        dataset.fill_cache(Counter("reading videos into memory", quiet))
        signals, done = Signals(), start
        patience, pinned = run.training.patience, device.type == "cuda"
        stream = batches(
            dataset, run.training.batch, start, plan.steps, pick_workers(run), rank=rank, world=world,
            patience=patience, pinned=pinned,
        )  # fmt: skip
        stream = in_step(stream, signals)
        first = list(islice(stream, 1))  # what is wrong with the data shows here, before anything is written
        failures = Failures(dataset.files)
        for batch in first:
            failures.count(batch.notes)
        if tensorboard:
            board_writer()
        if changed is None:
            from_first(lambda: begin(folder, run, source, data, lock))
        with Log(folder, start, plan.steps, quiet, tensorboard, rank == 0) as log, signals:
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
                    loss, norm, told = one_step(spread, batch, step, run, device, precision, guard.scale)
                    left_out = guard.fit(loss, norm, step, lr, spread, batch)
                    if not left_out:
                        optimiser.step()
                    optimiser.zero_grad()
                if left_out:
                    log.note(step, [f"step {step} is left out: {left_out}"])
                else:
                    method.after_step(step, plan.steps)
                    log.note(step, method.doubts(told))
                done = step + 1
                finished, due = done == plan.steps, done % plan.save_every == 0
                now = time.perf_counter()
                spent = now - clock
                found = {}
                if validate is not None and (finished or done % plan.validate_every == 0):
                    found = at_rest(spread, validate)
                    score = next(iter(found.values()))
                    if score > best:
                        best = score
                        checkpoint.export(folder, run, method, done, "best")
                clock = time.perf_counter()
                clips = len(batch.video) * world
                log.line(
                    done,
                    {
                        "epoch": done * plan.each / plan.videos,
                        "loss": loss,
                        **({images.loss(step): loss} if images else {}),
                        "lr": lr,
                        "gradient_norm": norm,
                        **({"left_out": 1} if left_out else {}),
                        **({"scale": guard.scale} if precision == torch.float16 else {}),
                        **told,
                        "seconds": round(spent, 6),
                        "clips_per_second": round(clips / spent, 3),
                        "data_wait": round(waited / spent, 4),
                    }
                    | found,
                )
                stopped = signals.number or (limit is not None and done >= limit)
                if finished or due or stopped:
                    checkpoint.save(
                        folder, run, method, optimiser, done, run.training.keep and due, best, guard.state()
                    )
                aside = time.perf_counter()
                if show is not None and done in at:
                    log.picture(done, at_rest(spread, show, done, plan.steps))
                if tell is not None and rank == 0:
                    tell(done, bool(finished or due or stopped))
                clock += time.perf_counter() - aside  # which is not waiting for data
                if stopped:
                    break
            else:
                if signals.number and done < plan.steps:  # what reads was ended by the same signal
                    checkpoint.save(folder, run, method, optimiser, done, best=best, guard=guard.state())
            if signals.number:
                raise Interrupted(
                    signals.number,
                    f"{Names(signals.number).name} after step {done} of {plan.steps}; saved. "
                    "Go on: the same command with --resume",
                )
            for line in failures.summary() if rank == 0 else []:
                say(line)
    return folder


def compiled(method: Method) -> None:
    """Has its large parts compiled when they are first used."""
    for name in COMPILED:
        if isinstance(part := getattr(method, name, None), torch.nn.Module):
            part.compile()


def at_rest(spread: Spread, look: Callable[..., T], *told: int) -> T:
    """What `look` makes of the module and what it is told; the module goes on training as if nothing had been."""
    state = torch.get_rng_state()
    try:
        with spread.whole():
            return look(spread.method.eval(), *told)
    finally:
        spread.method.train()
        torch.set_rng_state(state)


def moments(steps: int) -> list[int]:
    """Steps at which a run is shown, each about twice as late as the one before, the last one at its end."""
    return sorted({max(round(steps / 2**halved), 1) for halved in range(MOMENTS)})


def one_step(
    spread: Spread,
    batch: Batch,
    step: int,
    run: Run,
    device: torch.device,
    precision: torch.dtype,
    scale: float = 1.0,
) -> tuple[float, float, dict[str, float]]:
    """Gradients of one step, clipped if asked; the loss, the gradient's norm, and what else its parts told, averaged.

    The loss is the sum over all parts of all processes divided by the count over them. Each part is divided by what the
    count will be if the parts are alike, and where they were not (dual masking) the gradients are put right afterwards.
    Processes average their gradients, in the last part, so each divides by the mean of their counts. `scale`
    multiplies the loss whose gradient is taken, and is taken out again.
    """
    rank, world = whoami()
    parts = parts_of(run, device.type, precision, world)
    clips, before = len(batch.video) // parts, rank * len(batch.video)
    total = count = torch.zeros((), device=device)
    expected: torch.Tensor | None = None
    told: dict[str, torch.Tensor] = {}
    for part in range(parts):
        first = part * clips
        piece = batch.clips(first, first + clips).to(device)
        places = range(before + first, before + first + clips)
        fresh, draws = (Draws(run.training.seed, step, places) for _ in range(2))
        torch.manual_seed(fresh.seed())  # stochastic depth and dropout: the same again after a resume
        with spread.part(part + 1 == parts):
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                result = spread(piece, draws)
            if expected is None:
                expected = averaged(result.count) * parts
            (result.sum * scale / expected if scale != 1 else result.sum / expected).backward()
        total, count = total + result.sum.detach(), count + result.count
        told = {name: value + told.get(name, 0) for name, value in result.told.items()}
    everybodys = totals({"total": total, "count": count, **told})
    total, count = everybodys.pop("total"), everybodys.pop("count")
    parameters = [p for p in spread.method.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if (parts > 1 or scale != 1) and expected is not None:
        torch._foreach_mul_(gradients, float(expected / (count / world)) / scale)
    if run.optim.clip is None:
        norm = torch.nn.utils.get_total_norm(gradients)
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, run.optim.clip)
    means = {name: float(value) / parts / world for name, value in everybodys.items()}
    return float(total / count), float(plain(norm)), means
