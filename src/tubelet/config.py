"""A run and its numbers: what is trained, on what, how; saved as run.json and read back.

The config is the object: a preset is a Python function that returns a `Run`, flags override its numbers.
"""

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tubelet import plugins
from tubelet.data.datasets import Data
from tubelet.data.settings import checked as data_checked
from tubelet.nn.vit import Encoder
from tubelet.types import Grid

PART = 8192  # tokens that a CPU works on at once in bfloat16, where nobody asks for another number


@dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule. Rates are base rates: the real ones are base * clips per step / 256."""

    base_lr: float = 1.5e-4
    """Learning rate at 256 videos per step."""
    min_lr: float = 1e-5
    """Base rate at the end of the cosine."""
    warmup: float = 40
    """Epochs from 0 up to the full rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's two moments."""
    weight_decay: float = 0.05
    """Not applied to biases, norms, learnt positions, class and mask token."""
    weight_decay_end: float | None = None
    """What it becomes at the end of the run, along half a cosine; none: it stays."""
    clip: float | None = None
    """Largest norm of the gradient; none: it is only measured."""
    layer_decay: float = 1.0
    """Each block learns this factor slower than the one above it (fine-tuning; 1 = all alike)."""


@dataclass(frozen=True)
class Training:
    """How long, how much at a time, and on what."""

    epochs: float
    """Times through the videos."""
    batch: int
    """Videos per optimiser step, over everything."""
    accumulate: int = 0
    """Parts in which a step's videos are worked off: more parts, less memory, the same result. 0 takes parts of about
    8192 tokens on a CPU in bfloat16, where larger ones are hardly faster, and elsewhere the whole step at once."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the networks; auto is bfloat16 where the processor has instructions for it. float16, for GPUs that
    lack bfloat16, scales the loss so that gradients neither vanish nor overflow."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes (torchrun, srun, --gpus): ddp has the whole network on each; fsdp spreads weights, gradients
    and moments over all, for networks that do not fit otherwise."""
    workers: int = -1
    """Processes that read videos, of each process that trains; -1 shares the cores out, less one for the step, if
    memory allows."""
    patience: float = 300
    """Seconds that a worker may take for one video before it is given up and another is shown; 0 waits for ever."""
    threads: int = 0
    """Threads of a step on the CPU; 0 leaves it to PyTorch. Steps of a few milliseconds are fastest with one."""
    seed: int = 0
    """Of everything random: weights, clips, crops, masks."""
    validate_every: float = 1
    """Epochs between two measurements on validation data, where there is some."""
    save_every: float = 20
    """Epochs between two checkpoints."""
    keep: bool = False
    """Keep every checkpoint instead of the last one."""
    checkpoints: Literal["full", "sharded"] = "full"
    """full: one file, which the first process writes; sharded: each process writes what it has, on a disk that all
    share. Both are read by any number of processes."""
    skip: int = 0
    """Bad steps in a row that may be left out (loss or gradient not finite, or exploded); one more stops the run."""
    explosion: float | None = None
    """A loss over so many times its mean of late makes a step bad; none: it may be what it is."""
    compile: bool = False
    """Compile encoder, decoder, teacher and projectors with torch.compile."""
    init: str | None = None
    """Run whose encoder pre-training starts from; none: from scratch."""
    inflate: bool = False
    """That encoder is one of images, and is made one of video."""
    init_heads: int | None = None
    """Its attention heads, if it is of others and its file does not tell."""


@dataclass(frozen=True)
class Run:
    """One training, in full."""

    encoder: Encoder
    """The network that is kept."""
    method: Any
    """What it learns from; for masked autoencoders mask, target and decoder."""
    data: Data
    """Which clips it sees."""
    optim: Optim
    """Optimiser and schedule."""
    training: Training
    """Length, batch, precision, device."""

    def grid(self) -> Grid:
        """Where tokens are.

        Raises:
            ValueError: frames, height or width do not divide into cubes.
        """
        return Grid.of(self.data.clip.frames, *self.data.size, self.encoder.patch)


def checked(run: Run) -> None:
    """Looks for settings that nothing else would name.

    Raises:
        ValueError: names the setting, what it is, and what it may be.
    """
    e, o, t = run.encoder, run.optim, run.training
    data_checked(run.data)
    if (t.inflate or t.init_heads) and t.init is None:
        given = "inflate" if t.inflate else "init-heads"
        raise ValueError(f"--training.{given} is about the weights of --training.init, which were not given")
    if run.data.images is not None and run.data.images.frames % e.patch[0]:
        raise ValueError(
            f"--data.images.frames {run.data.images.frames} does not divide into cubes of {e.patch[0]} frames; a "
            f"picture fills one with --data.images.frames {e.patch[0]}"
        )
    if run.data.images is not None and not hasattr(run.method, "try_masks"):
        raise ValueError(
            f"{type(run.method).__name__} takes no pictures among videos (data.images); masked autoencoders and latent "
            "targets do, as omni-mae-few-cpu"
        )
    if getattr(run.method, "flow", None) and run.data.motion is not None:
        raise ValueError("method.flow replaces the motion that the readers would look for; set data.motion to None")
    views = getattr(run.method, "views", run.data.per_video)
    if run.data.per_video != views:
        raise ValueError(
            f"--data.clips {run.data.clips} x --data.repeats {run.data.repeats} cannot be used: this method compares "
            f"{views} clips of each video; use --data.clips {views} (at different times) --data.repeats 1"
        )
    parts = t.accumulate or 1
    if hasattr(run.method, "views") and t.batch == parts:
        raise ValueError(
            f"--training.batch {t.batch} in {parts} part{'s' * (parts > 1)} is one video at once, which nothing can be "
            "told from; use larger parts"
        )
    for name, value, fits, expected in (
        ("encoder.patch", e.patch, min(e.patch) > 0, "at least 1 frame and 1x1 pixels"),
        ("encoder.width", e.width, e.width > 0, "1 or more"),
        ("encoder.heads", e.heads, e.heads > 0, "1 or more"),
        ("encoder.hidden", e.hidden, e.hidden > 0, "1 or more"),
        ("encoder.depth", e.depth, e.depth > 0, "1 or more"),
        ("optim.clip", o.clip, o.clip is None or o.clip > 0, "a norm above 0, or None"),
        ("optim.weight-decay", o.weight_decay, o.weight_decay >= 0, "0 or more"),
        (
            "optim.weight-decay-end",
            o.weight_decay_end,
            o.weight_decay_end is None or (o.weight_decay > 0 and o.weight_decay_end > 0),
            "a number above 0, beside an --optim.weight-decay above 0, or None",
        ),
        ("optim.warmup", o.warmup, o.warmup >= 0, "0 epochs or more"),
        ("training.epochs", t.epochs, 0 < t.epochs < math.inf, "a number above 0"),
        ("training.save-every", t.save_every, t.save_every > 0, "a number of epochs above 0"),
        ("training.validate-every", t.validate_every, t.validate_every > 0, "a number of epochs above 0"),
        ("training.workers", t.workers, t.workers >= -1, "0 or more, or -1 for one per core"),
        ("training.patience", t.patience, t.patience >= 0, "seconds, or 0 to wait for ever"),
        ("training.skip", t.skip, t.skip >= 0, "0 steps or more"),
        ("training.explosion", t.explosion, t.explosion is None or t.explosion > 1, "a factor above 1, or None"),
        ("training.threads", t.threads, t.threads >= 0, "0 (PyTorch's own number) or more"),
        ("training.seed", t.seed, t.seed >= 0, "0 or more"),
    ):
        if not fits:
            raise ValueError(f"--{name} {value} cannot be used; expected {expected}")
    if run.data.images is not None:  # not at the first step that shows pictures
        slots = run.data.images.frames // e.patch[0]
        try:
            run.method.try_masks(replace(run.grid(), T=slots), run.data.channels)
        except ValueError as error:
            raise ValueError(
                f"pictures among videos (data.images) have {slots} of the {run.grid().T} time slots, and cannot be "
                f"hidden as videos are: {error}. Masked autoencoders take another mask for them, method.still"
            ) from error


@dataclass(frozen=True)
class Numbers:
    """What follows from a run and the size of its data."""

    videos: int  # per epoch
    each: float  # videos a step shows on average: a batch, or less where some steps show pictures
    steps: int
    warmup: int  # steps
    save_every: int  # steps
    validate_every: int  # steps
    lr: float
    low: float  # at the end of the cosine
    rule: str  # how lr came about


def parts_of(run: Run, device: str, precision: torch.dtype, world: int = 1) -> int:
    """Parts in which each of `world` processes works off its share of a step on a kind of device, such as "cpu".

    Those that `training.accumulate` asks for. For 0 a CPU that computes in bfloat16 gets the number that divides the
    share and comes nearest to `PART` tokens in each, of two videos or more: what a step keeps for its backward pass is
    then small beside the weights, at hardly any cost in time (docs/performance.md). Others have the whole share at
    once, and so have methods whose clips meet within a part.
    """
    t = run.training
    meet = getattr(run.method, "draws_by_part", False)
    if t.accumulate or device != "cpu" or precision != torch.bfloat16 or meet:
        return t.accumulate or 1
    share = t.batch // world
    tokens = share * run.data.per_video * run.grid().tokens
    divisors = [count for count in range(1, max(share // 2, 1) + 1) if share % count == 0]
    return min(divisors, key=lambda count: abs(math.log(tokens / count / PART)))


def shared_out(run: Run, world: int) -> None:
    """Checks that a batch can be shared out to `world` processes, and each share be worked off in its parts.

    Raises:
        ValueError: it cannot; says which batches could.
    """
    parts = world * max(run.training.accumulate, 1)
    if world > 1 and run.training.batch % parts:  # of one process, `numbers` says it
        near = [size for size in (run.training.batch // parts * parts, -(-run.training.batch // parts) * parts) if size]
        raise ValueError(
            f"--training.batch {run.training.batch} cannot be shared out evenly to {world} processes"
            + f", in {run.training.accumulate} parts each" * (run.training.accumulate > 1)
            + f"; take {' or '.join(map(str, near))}, or another number of processes"
        )


def numbers(run: Run, videos: int) -> Numbers:
    """Steps and rates for `videos` clips an epoch.

    The stream of videos is cut into batches without regard to epoch ends, so no video is dropped and a data set may be
    smaller than a batch. An epoch is once through the videos: where a share of the steps shows pictures instead, it
    takes more steps. The rate ignores `data.clips` and `data.repeats`, as the released recipes do.

    Raises:
        ValueError: a batch that does not divide into its parts, or nothing to train.
    """
    t, o = run.training, run.optim
    if t.batch < 1 or t.accumulate < 0 or t.batch % max(t.accumulate, 1):
        raise ValueError(
            f"batch {t.batch} does not divide into {t.accumulate} parts; --training.accumulate must be a divisor of it "
            "(or 0, which chooses)"
        )
    each = t.batch * run.data.video_share
    steps = int(t.epochs * videos / each + 1e-6)  # 7000 * 16 / 27 epochs are 7000 steps, not 6999
    if steps < 1:
        raise ValueError(
            f"{t.epochs:g} epochs of {videos} videos are less than one batch of {t.batch}: nothing to train. "
            "Use more --training.epochs or a smaller --training.batch"
        )

    def count(epochs: float) -> int:
        return round(epochs * videos / each)

    return Numbers(
        videos=videos,
        each=each,
        steps=steps,
        warmup=min(count(o.warmup), steps),
        save_every=max(count(t.save_every), 1),
        validate_every=max(count(t.validate_every), 1),
        lr=o.base_lr * t.batch / 256,
        low=o.min_lr * t.batch / 256,
        rule=f"{o.base_lr:g} x {t.batch} / 256",
    )


# ---------------------------------------------------------------------------- presets


def preset(name: str) -> Run:
    """The run that a preset's name, a "module:function", or the path of a run.json stands for.

    Raises:
        ValueError: no such preset; names the nearest and all.
        FileNotFoundError: a path that is not there.
    """
    from tubelet.methods import PRESETS  # the list is strings: nothing heavy is imported before it is used

    if name.endswith(".json") or Path(name, "run.json").is_file():
        path = Path(name) if name.endswith(".json") else Path(name, "run.json")
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        return from_json(json.dumps(read_card(path)["run"]))
    if name not in PRESETS and ":" not in name:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"no preset called {name!r}.{hint} There are: {', '.join(PRESETS)}")
    module, _, function = PRESETS.get(name, name).partition(":")
    try:
        make = getattr(plugins.found(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot use {name!r} as module:function: {error}") from error
    run = make() if callable(make) else make
    if not isinstance(run, Run):
        raise ValueError(f"{name} returned {type(run).__name__}, expected a tubelet Run")
    plugins.trust(run)
    return run


# ---------------------------------------------------------------------------- to and from JSON


def to_json(value: Any) -> str:
    """A config as JSON: every dataclass as its fields with its class named beside them."""
    return json.dumps(_plain(value), indent=1)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}"} | fields
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def read_card(path: Path) -> dict[str, Any]:
    """A run.json as parsed: "run" as `from_json` takes it, and what the run was made on and with.

    Raises:
        ValueError: it is damaged.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card["run"], dict):
            raise TypeError(f"run is {card['run']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no run.json ({type(error).__name__}: {error})") from error
    return card


def from_json(text: str) -> Any:
    """The config that `to_json` wrote.

    Only dataclasses of tubelet are made, and of modules that the user has named (`plugins.trusted`): a run.json from
    elsewhere cannot name code to run.

    Raises:
        ValueError: a class or a field that this version of tubelet does not have, or a module that is not there.
    """
    try:
        return _object(json.loads(text))
    except RecursionError as error:
        raise ValueError("run.json is nested deeper than any config") from error


def _object(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_object(v) for v in value)
    if not isinstance(value, dict):
        return value
    module, _, name = str(value.get("class")).partition(":")
    if not plugins.trusted(module):
        raise ValueError(
            f"run.json names {value.get('class')!r}; only classes of tubelet are loaded, and of modules that you name. "
            f"If {module} is yours, name it before the command: {plugins.NAMED}={module.split('.')[0]}"
        )
    try:
        cls = getattr(plugins.found(module), name)
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise TypeError("no config")  # and must not be called, whatever it is
        return cls(**{key: _object(v) for key, v in value.items() if key != "class"})
    except (ImportError, AttributeError, TypeError) as error:
        whose = "this version of tubelet" if module.split(".")[0] == "tubelet" else "the module as it is now"
        raise ValueError(f"run.json does not fit {whose}: {value['class']} ({error})") from error


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two parsed JSON configs differ, as "training.batch: 64 -> 32" lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{path}.{k}")]
    return [] if old == new else [f"{path.lstrip('.')}: {old} -> {new}"]
