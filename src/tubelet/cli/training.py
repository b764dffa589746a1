"""Verbs that train, and that say what training would be."""

import ast
import json
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tubelet.cli.arguments import FROM_THERE, Start, Unprefixed, parse, with_preset
from tubelet.cli.launching import asked, launched

if TYPE_CHECKING:  # or listing presets would import torch
    from collections.abc import Sequence

    from tubelet.config import Run
    from tubelet.data.items import Item


def pretrain(args: list[str]) -> int:
    """Learn from unlabelled videos: tubelet pretrain PRESET --data DIR"""
    from tubelet.config import Run

    @dataclass(frozen=True)
    class Pretrain:
        """Pre-train an encoder on unlabelled videos.

        tubelet pretrain videomae-small-cpu --data my_videos/ --out runs/first --training.epochs 200

        Go on after an interruption: the same command with --resume. PRESET is a name from `tubelet list`, a run.json,
        or your own module:function.
        """

        preset: tyro.conf.Positional[str]
        """What to train: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, Unprefixed]
        data: str = tyro.MISSING
        """A folder of videos (any depth), one video, or a list file (path, or path and label, on each line)."""
        weights: str | None = None
        """Run whose encoder it starts from (or a file of it); none: from scratch. Short for --training.init."""
        inflate: bool = False
        """--weights are of images: repeat their patches over the frames of a cube. Short for --training.inflate."""
        start: Annotated[Start, Unprefixed] = FROM_THERE
        out: Path | None = None
        """Run folder; default runs/PRESET."""
        resume: bool = False
        """Go on where the run in --out stopped."""
        device: str | None = None
        """cpu, cuda, cuda:1 or mps; short for --training.device."""
        gpus: int = 1
        """Processes of this machine that train together, one for each GPU (or on the CPU with --device cpu). For
        several machines: torchrun or srun."""
        tensorboard: bool = False
        """Also write TensorBoard events (extra: tensorboard)."""
        pictures: bool = True
        """Show in the report what it imagines at seven moments on the way."""
        quiet: bool = False
        """No plan, no progress bar."""
        json: bool = False
        """The result as one JSON line on stdout."""

    a = with_preset(Pretrain, args, "pretrain")
    if asked(a.gpus):
        return launched(a.gpus, ["pretrain", *args], a.device or a.run.training.device)
    run = on(a.run, a.device)
    if a.weights or a.inflate or a.start.heads:
        init, inflate = a.weights or run.training.init, a.inflate or run.training.inflate
        heads = a.start.heads or run.training.init_heads
        run = replace(run, training=replace(run.training, init=init, inflate=inflate, init_heads=heads))
    if hasattr(run.method, "labels"):
        raise ValueError(f"{a.preset} learns labels: tubelet finetune {a.preset} --weights RUN --data {a.data}")
    from tubelet.data.datasets import Dataset
    from tubelet.data.mixture import Mixture
    from tubelet.data.sources import find
    from tubelet.nn.collective import from_first, whoami
    from tubelet.plan import plan, render
    from tubelet.pretraining import pretrain as pretrain_run
    from tubelet.report_facts import ends
    from tubelet.train.checkpoint import weights_of
    from tubelet.train.folder import begun_in, unfinished
    from tubelet.train.log import duration, metrics, noted, say, show
    from tubelet.train.start import interpolating
    from tubelet.weights.found import Asked

    out = a.out or Path("runs") / named(a.preset)
    before = begun_in(out) if a.resume else None  # what it began with is in there: weights are not needed again
    if run.training.init is not None and before is None:
        weights_of(run.training.init, Asked(run.training.init_heads))  # now, and not after the plan
        noted(unfinished(Path(run.training.init)))
    if a.start.positions == "interpolated" and before is not None:
        run = replace(run, encoder=replace(run.encoder, interpolated=before.encoder.interpolated))
    elif a.start.positions == "interpolated":
        run = interpolating(run, run.training.init, run.training.init_heads)
    items = from_first(lambda: find(a.data))  # once: of very many files it takes seconds
    if not a.quiet and whoami()[0] == 0:
        show(render(plan(run, len(Dataset(items, run.data, run.training.seed)))))
        if isinstance(items, Mixture):
            say(items.summary())
    options = {name: getattr(a, name) for name in ("pictures", "resume", "quiet", "tensorboard")}
    folder = pretrain_run(run, a.data, out, items=items, report=True, **options)
    if whoami()[0] > 0:
        return 0
    lines = metrics(folder)
    first, last = ends(lines)
    seconds = round(sum(line["seconds"] for line in lines), 1)
    result = {
        "run": str(folder),
        "encoder": str(folder / "encoder.safetensors"),
        "report": str(folder / "report.html"),
        "steps": int(lines[-1]["step"]),
        "first_loss": first,
        "last_loss": last,
        "seconds": seconds,
    }
    if a.json:
        print(json.dumps(result))
    else:
        print(
            f"{folder}: {result['steps']} steps in {duration(seconds)}, loss {first:.3f} to {last:.3f}\n"
            f"encoder  {result['encoder']}\nreport   {result['report']}"
        )
    return 0


def on(run: "Run", device: str | None) -> "Run":
    """The run on another device, if one is named."""
    return replace(run, training=replace(run.training, device=device)) if device else run


def named(preset: str) -> str:
    """The run folder's name for a preset, a module:function or a run.json."""
    path = Path(preset)
    return f"{path.resolve().parent.name}-again" if path.suffix == ".json" else preset.split(":")[-1].split("/")[-1]


def plan_verb(args: list[str]) -> int:
    """What a run would cost, without training: tubelet plan PRESET"""
    from tubelet.config import Run
    from tubelet.hardware import Machines

    @dataclass(frozen=True)
    class PlanArguments:
        """Print a run's stages, sizes, steps, learning rate, parameters, GMACs and memory, without training.

        tubelet plan videomae-k400-b --training.accumulate 64

        With --gpus: whether it fits on machines, and what it takes beside them. 0 is returned where it does not fit,
        too: the question is answered.

        tubelet plan videomae-k400-b --videos 240436 --gpus 64 --gpu a100 --hours 48
        """

        preset: tyro.conf.Positional[str]
        """What to plan: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, Unprefixed]
        machines: Annotated[Machines, Unprefixed] = field(default_factory=Machines)
        data: str | None = None
        """Videos that it would train on; steps and schedule depend on how many there are."""
        videos: int | None = None
        """How many videos, where there are none yet."""
        device: str | None = None
        """cpu, cuda, cuda:1 or mps; short for --training.device."""
        json: bool = False
        """As JSON on stdout."""

    a = with_preset(PlanArguments, args, "plan")
    from tubelet.budget import Budget, budget
    from tubelet.budget import render as render_budget
    from tubelet.data.annotations import key_frames
    from tubelet.data.datasets import Dataset
    from tubelet.data.sources import find
    from tubelet.methods.action_detection import ActionDetection
    from tubelet.plan import Plan, plan, render

    boxed = isinstance(a.run.method, ActionDetection)
    items: Sequence[Item] = [] if not a.data else key_frames(a.data).items if boxed else find(a.data)
    count = len(Dataset(items, a.run.data, a.run.training.seed)) if items else a.videos
    run = on(a.run, a.device)
    result: Plan | Budget
    if a.machines.gpus is None:
        if idle := [name for name, value in vars(a.machines).items() if value != getattr(Machines(), name)]:
            raise ValueError(
                f"--{idle[0].replace('_', '-')} does nothing without --gpus, which says how many there are"
            )
        result, table = (planned := plan(run, count)), render(planned)
    else:
        sizes = [item.path.stat().st_size for item in items[:: len(items) // 1000 + 1] if item.path.is_file()]
        found = budget(run, a.machines, count, sum(sizes) / len(sizes) if sizes else None)
        result, table = found, render_budget(found)
    if a.json:
        print(json.dumps(result.to_dict()))
    else:
        from rich.console import Console

        Console(highlight=False).print(table)
    return 0


def list_verb(args: list[str]) -> int:
    """The presets, with what each is for."""
    from tubelet.methods import PRESETS

    @dataclass(frozen=True)
    class List:
        """List the presets that pretrain, finetune and plan take.

        tubelet list
        """

        json: bool = False
        """As JSON on stdout."""

    a = parse(List, args, "list")
    about = {name: summary(*where.split(":")) for name, where in PRESETS.items()}
    if a.json:
        print(json.dumps(about))
        return 0
    width = max(map(len, about))
    for name, line in about.items():
        print(f"{name:<{width}}  {line}")
    return 0


def summary(module: str, function: str) -> str:
    """First line of a function's docstring; the module is read, not imported: that would take seconds."""
    return summaries(module)[function]


@cache
def summaries(module: str) -> dict[str, str]:
    """The same of all functions of a module."""
    spec = find_spec(module)
    source = Path(str(spec and spec.origin)).read_bytes()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: (ast.get_docstring(node) or "").partition("\n")[0] for node in functions}


def demo_verb(args: list[str]) -> int:
    """The whole of it on made videos, or on yours, in minutes."""

    @dataclass(frozen=True)
    class Demo:
        """Make videos with known motions (or take yours), check them, pre-train a tiny VideoMAE, show what it imagines,
        read out what it knows, and write a report.

        tubelet demo

        tubelet demo --videos my_videos/ --out runs/mine
        """

        out: Path | None = None
        """Run folder; default the first of runs/demo, runs/demo-2, ... that is not in use."""
        videos: str | None = None
        """Your own videos instead of made ones."""
        resume: bool = False
        """Go on with a demo that was interrupted."""
        short: bool = False
        """A few steps only: a test of the machinery that teaches the model nothing."""
        seed: int = 0
        """Of everything random."""

    a = parse(Demo, args, "demo")
    from tubelet.demo import demo

    free = (Path("runs") / f"demo{'' if number == 1 else f'-{number}'}" for number in count(1))
    out = a.out or next(path for path in free if not path.exists())
    demo(out, a.videos, resume=a.resume, short=a.short, seed=a.seed)
    return 0
