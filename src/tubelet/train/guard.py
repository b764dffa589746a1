"""What may go wrong while a run goes on: numbers that are not finite, memory that runs out, signals."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from tubelet.config import Run, parts_of, to_json
from tubelet.nn.collective import from_first, gathered, of_all, plain, whoami
from tubelet.train.checkpoint import SaveError, atomically, written
from tubelet.train.device import pick_precision
from tubelet.train.distributed import Spread
from tubelet.types import Batch, Draws


class TrainingError(RuntimeError):
    """A run had to stop; what to change is in the message."""


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGUSR1 came; the state is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@dataclass
class Guard:
    """Looks at the loss and the gradient of every step: fit to learn from, to be left out, or a reason to stop.

    A step is bad if one of them is not finite, or if the loss is over `training.explosion` times its mean of late. Up
    to `training.skip` bad steps in a row are left out, as if they had not been; the next one stops the run. What shows
    why is kept in the run folder (`evidence/`). With float16, whose numbers end at 65504, the loss is multiplied by
    `scale` before its gradient is taken: a gradient that is not finite then halves it, and is not yet a bad step.

    Source of the scaling: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2, with the numbers of torch.amp.
    """

    run: Run
    folder: Path
    scale: float = 1.0
    good: int = 0  # steps since the scale changed
    skipped: int = 0  # bad steps in a row
    seen: int = 0  # steps that were learnt from
    mean: float = 0.0  # of their losses, the last ones counting most
    half: bool = False  # the arithmetic is float16
    RECENT = 20  # steps that the mean is of, about; before so many nothing explodes
    GROW = 2000  # good steps after which a scale is doubled
    KEPT = 10  # bad steps whose evidence is kept: it is as large as a batch

    @classmethod
    def of(cls, run: Run, folder: Path, precision: torch.dtype) -> "Guard":
        """The guard of a run that begins."""
        half = precision == torch.float16
        return cls(run, folder, 2.0**16 if half else 1.0, half=half)

    def state(self) -> dict[str, float]:
        """What a resumed run must know."""
        return {name: getattr(self, name) for name in ("scale", "good", "skipped", "seen", "mean", "half")}

    def restore(self, state: dict[str, float]) -> None:
        """Goes on from a state; its scale is that of float16 alone."""
        scaled = bool(state.get("half")) == self.half
        for name, value in state.items():
            if name != "half" and (scaled or name not in ("scale", "good")):
                setattr(self, name, value)

    def fit(self, loss: float, norm: float, step: int, lr: float, spread: Spread, batch: Batch) -> str:
        """Empty for a step to learn from; else why it is left out.

        Raises:
            TrainingError: it is one too many; names step, rate, what is wrong, and the files of the batch.
        """
        if self.scale > 1 and math.isfinite(loss) and not math.isfinite(norm):
            self.scale, self.good = self.scale / 2, 0
            return f"a gradient beyond float16; its scale is {self.scale:g} from now on"
        why = self.wrong(loss, norm)
        if not why:
            weight = max(1 / (self.seen + 1), 1 / self.RECENT)
            self.mean += weight * (loss - self.mean)
            self.skipped, self.seen, self.good = 0, self.seen + 1, self.good + 1
            if self.half and self.good == self.GROW:
                self.scale, self.good = min(2 * self.scale, 2.0**24), 0
            return ""
        self.skipped += 1
        found = evidence(self.folder, self.run, spread, batch, step, self.KEPT)
        found = [f"loss {loss}, gradient norm {norm}, learning rate {lr:.3g}", *found]
        if self.skipped <= self.run.training.skip:
            return f"{why} ({'; '.join(found)})"
        again = f" {self.skipped} in a row are more than --training.skip {self.run.training.skip}." * (self.skipped > 1)
        files = "\n  ".join(gathered(batch.paths))
        error = TrainingError(
            f"step {step}: {why} ({'; '.join(found)}); the weights were not changed and the last checkpoint is from "
            f"before.{again} Start anew, with another --out and a lower --optim.base-lr, a longer --optim.warmup, "
            "--optim.clip 1, or --training.precision float32; or go on with --resume and a --training.skip that leaves "
            f"some such steps out. The videos of this step:\n  {files}"
        )
        raise of_all(error)

    def wrong(self, loss: float, norm: float) -> str:
        """What is wrong with a step; nothing mostly."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        most = self.run.training.explosion
        if most is not None and self.seen >= self.RECENT and loss > most * self.mean:
            return f"the loss is {loss / self.mean:.3g} times its mean of late, --training.explosion {most:g}"
        return ""


def evidence(folder: Path, run: Run, spread: Spread, batch: Batch, step: int, most: int) -> list[str]:
    """What is not finite in weights and gradients, and which clips alone give such a loss; kept with the clips.

    Every process keeps its own clips; all must call it.
    """
    parameters = list(spread.method.named_parameters())
    named = {
        "weights": [name for name, value in parameters if not finite(value)],
        "gradients": [name for name, value in parameters if value.grad is not None and not finite(value.grad)],
    }
    named["clips"] = gathered([] if named["weights"] else blamed(spread, run, batch, step))
    found = [
        f"{kind} not finite: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for kind, names in named.items()
        if names
    ]
    place = folder / "evidence" / f"step_{step:06d}"
    told = {"step": step, **named, "videos": gathered(batch.paths), "run": json.loads(to_json(run))}
    if from_first(lambda: place.parent.is_dir() and not place.is_dir() and len([*place.parent.iterdir()]) >= most):
        return [*found, f"{place.parent} has {most} such steps already, this one is not kept"]
    rank, world = whoami()
    tensors = {"video": batch.video.contiguous(), "ids": batch.ids} | (
        {} if batch.labels is None else {"labels": batch.labels}
    )
    clips = to_safetensors(tensors, {"step": str(step), "videos": json.dumps(batch.paths)})
    try:
        atomically(place / f"clips{f'_{rank}' if world > 1 else ''}.safetensors", partial(written, clips))
        if rank == 0:
            atomically(place / "evidence.json", partial(written, json.dumps(told, indent=1).encode()))
    except SaveError as error:  # of less weight than what it is about
        return [*found, str(error)]
    return [*found, f"the clips are kept in {place}"]


def finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are, wherever its parts are."""
    return bool(plain(tensor.detach().isfinite().all()))


def blamed(spread: Spread, run: Run, batch: Batch, step: int) -> list[str]:
    """The videos whose clips by themselves give a loss that is not finite; none where a method needs several."""
    if spread.method.views > 1 or getattr(run.method, "draws_by_part", False):
        return []
    first = whoami()[0] * len(batch.video)
    device = next(spread.method.parameters()).device
    precision = pick_precision(run.training.precision, device)
    bad: list[str] = []
    with torch.no_grad(), spread.whole(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
        for place in range(len(batch.video)):
            clip = batch.clips(place, place + 1).to(device)
            loss = spread.method(clip, Draws(run.training.seed, step, [first + place]))
            if not bool(loss.sum.isfinite()):
                bad.append(batch.paths[place // batch.crops])
    return list(dict.fromkeys(bad))


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
    world = whoami()[1]
    share, among = t.batch // world, f" / {world} processes" * (world > 1)
    parts = parts_of(run, device.type, pick_precision(t.precision, device), world)
    part = share * run.data.per_video // parts
    again = "and repeat the command with --resume"
    if share > parts:
        more = next(n for n in range(parts + 1, share + 1) if share % n == 0)
        change = f"--training.accumulate {more}: less in memory at once, the same result; {again}"
        if getattr(run.method, "draws_by_part", False):  # clips of a part are mixed or compared: another run
            change = f"--training.accumulate {more}, in a new --out: less in memory at once, and fewer clips in a part"
    elif not run.encoder.checkpoint:
        change = f"--encoder.checkpoint, {again}; or a smaller --data.size in a new --out"
    else:
        change = f"a smaller --data.size (now {run.data.size[0]}x{run.data.size[1]}) or encoder, in a new --out"
    return (
        f"out of memory on {device}: {part} clips of {run.data.clip.frames}x{run.data.size[0]}x{run.data.size[1]} at "
        f"once (batch {t.batch} x {run.data.per_video} crops / {parts} parts{among}). Try {change}. "
        f"`tubelet plan` estimates what a setting needs. ({str(error).splitlines()[0]})"
    )
