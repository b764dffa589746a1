"""The verb that learns labels."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tubelet.cli.arguments import FROM_THERE, Start, Unprefixed, with_preset
from tubelet.cli.launching import asked, launched

if TYPE_CHECKING:  # or help would import torch
    from tubelet.config import Run


def finetune_verb(args: list[str]) -> int:
    """Learn labels: tubelet finetune PRESET --weights RUN --data DIR"""
    from tubelet.config import Run

    @dataclass(frozen=True)
    class Finetune:
        """Fine-tune a pre-trained encoder on labelled videos, or without --weights train the same from scratch.

        tubelet finetune finetune-small-cpu --weights runs/first --data labelled/ --validation more/ --out runs/tuned

        Labels are class folders, or the column of a list. PRESET is one of those of `tubelet list` that begin with
        finetune-, a run.json, or your own module:function. Then: tubelet test, tubelet predict.

        What people do, each in a box (docs/detection.md), is learnt by finetune-boxes- and finetune-ava- presets:
        tubelet finetune finetune-boxes-small-gpu --weights runs/first --data boxes.csv. Then: tubelet detect.
        """

        preset: tyro.conf.Positional[str]
        """What to train: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, Unprefixed]
        data: str = tyro.MISSING
        """Labelled videos to train on: class folders, a list file, or a data set as in ucf101:DIR:train. Or boxes: a
        table (path, seconds, x1, y1, x2, y2, label), an export of CVAT, Label Studio or COCO, or ava:DIR:train."""
        weights: str | None = None
        """Run to start from, pre-trained or fine-tuned (or a file of it: best.safetensors); none: from scratch."""
        validation: str | None = None
        """Labelled videos to measure on while training; the best weights are kept as best.safetensors."""
        labels: Literal["class", "classes", "shares", "values"] | None = None
        """What labels are: class, classes (several at once), shares (soft), values (regression)."""
        new_head: bool = False
        """The head of --weights knows other classes: begin with a fresh one."""
        inflate: bool = False
        """--weights are of images: repeat their patches over the frames of a cube."""
        start: Annotated[Start, Unprefixed] = FROM_THERE
        as_weights: bool = False
        """Take the encoder's shape from --weights instead of the preset."""
        augment: str | None = None
        """RandAugment as it is usually written, rand-m7-n4-mstd0.5-inc1, or none; default as the preset says."""
        erase: float | None = None
        """Probability of a box of noise; 0: none."""
        mixup: float | None = None
        """Parameter of the Beta distribution of faded pairs; 0: none."""
        cutmix: float | None = None
        """The same for boxes cut into the other clip; 0: none."""
        balance: bool = False
        """Weigh classes so that each counts alike, however many videos it has."""
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
        quiet: bool = False
        """No plan, no progress bar."""
        json: bool = False
        """The result as one JSON line on stdout."""

    a = with_preset(Finetune, args, "finetune", "finetune-small-cpu")
    if asked(a.gpus):
        return launched(a.gpus, ["finetune", *args], a.device or a.run.training.device)
    from tubelet import detection
    from tubelet.cli.training import named, on
    from tubelet.data.annotations import key_frames
    from tubelet.data.datasets import Dataset
    from tubelet.data.labels import listed
    from tubelet.data.sources import find
    from tubelet.finetuning import as_weights, balanced, completed, finetune
    from tubelet.methods.action_detection import ActionDetection
    from tubelet.methods.supervised import Supervised
    from tubelet.nn.collective import from_first, whoami
    from tubelet.plan import plan, render
    from tubelet.report_facts import ends
    from tubelet.train.folder import begun_in, unfinished
    from tubelet.train.log import duration, metrics, noted, say, show
    from tubelet.train.start import FREE, interpolating
    from tubelet.weights.hub import on_hub

    out = a.out or Path("runs") / named(a.preset)
    before = begun_in(out) if a.resume else None  # what it began with is in there: weights are not needed again
    if a.weights and before is None and not on_hub(a.weights) and not Path(a.weights).exists():
        raise FileNotFoundError(f"no such run: {a.weights} (looked in {Path.cwd()})")
    if (a.new_head or a.as_weights or a.inflate or a.start.heads) and not a.weights:
        raise ValueError("--new-head, --as-weights, --inflate and --heads are about --weights, which were not given")
    run = on(a.run, a.device)
    boxed = isinstance(run.method, ActionDetection)
    classes = run.data.labels.names if run.data.labels else ()
    known = from_first(lambda: key_frames(a.data, names=classes or None)) if boxed else None
    items = known.items if known is not None else from_first(lambda: find(a.data))
    if boxed or isinstance(run.method, Supervised):
        run = in_boxes(run, a) if boxed else changed(run, a)
        if before is not None and (a.as_weights or a.start.positions == "interpolated"):
            keep = {name: getattr(run.encoder, name) for name in FREE}
            shape = before.encoder if a.as_weights else run.encoder
            run = replace(run, encoder=replace(shape, interpolated=before.encoder.interpolated, **keep))
        elif a.as_weights and run.method.init:
            run = as_weights(run, run.method.init)
        if a.start.positions == "interpolated" and before is None:
            run = interpolating(run, run.method.init, run.method.init_heads)
    if known is not None:
        run = detection.completed(run, known)
    else:
        run = balanced(run, items) if a.balance else completed(run, items)
    assert run.data.labels is not None
    if not a.quiet and whoami()[0] == 0:
        show(render(plan(run, len(Dataset(items, run.data, run.training.seed)))))
        say(f"{len(run.data.labels.names)} classes: {listed(run.data.labels.names)}")
        if run.method.init is None:
            say("from scratch: no --weights")
    if run.method.init is not None:
        noted(unfinished(Path(run.method.init)))
    options: dict[str, Any] = {name: getattr(a, name) for name in ("validation", "new_head", "resume", "quiet")}
    options |= {"tensorboard": a.tensorboard, "report": True}
    if known is not None:
        noted([*known.notes, *detection.remarks(known)])
        folder = detection.finetune_on_boxes(run, a.data, out, known=known, **options)
    else:
        folder = finetune(run, a.data, out, items=items, **options)
    if whoami()[0] > 0:
        return 0
    lines = metrics(folder)
    first, last = ends(lines)
    measured = [line for line in lines if any(name.startswith("validation_") for name in line)]
    result: dict[str, Any] = {
        "run": str(folder),
        "model": str(folder / "model.safetensors"),
        "report": str(folder / "report.html"),
        "steps": int(lines[-1]["step"]),
        "first_loss": first,
        "last_loss": last,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }
    if measured:
        score = next(name for name in measured[-1] if name.startswith("validation_"))
        best = max(measured, key=lambda line: line[score])
        result |= {score: measured[-1][score], "best": best[score], "best_step": int(best["step"])}
        if (folder / "best.safetensors").exists():  # no number: never
            result["best_model"] = str(folder / "best.safetensors")
    if a.json:
        print(json.dumps(result))
        return 0
    print(f"{folder}: {result['steps']} steps in {duration(result['seconds'])}, loss {first:.3f} to {last:.3f}")
    if measured:
        name = score.removeprefix("validation_").replace("_", " ")
        print(
            f"validation {name}: {result[score]:.3g} at the end, best {result['best']:.3g} (step {result['best_step']})"
        )
        if run.method.labels == "class":
            print(f"guessing one class of {len(run.data.labels.names)}: {100 / len(run.data.labels.names):.3g}")
    print(f"model   {result['model']}\nreport  {result['report']}")
    test = f"tubelet test --weights {folder} --data"
    print(f"\nnext: {test} {'BOXES' if boxed else 'LABELLED'}")
    if boxed:
        print(f"      tubelet detect VIDEO --weights {folder}")
    return 0


def in_boxes(run: "Run", a: Any) -> "Run":
    """The run with what the short flags say, of which few are for boxes.

    Raises:
        ValueError: one that is for whole clips.
    """
    names = ("augment", "erase", "mixup", "cutmix", "labels")
    given = [f"--{name}" for name in names if getattr(a, name) is not None] + ["--balance"] * a.balance
    if given:
        raise ValueError(f"{', '.join(given)} cannot be used with boxes: clips are not mixed, and have no one label")
    method = replace(run.method, init=a.weights or run.method.init, inflate=a.inflate or run.method.inflate)
    return replace(run, method=replace(method, init_heads=a.start.heads or method.init_heads))


def changed(run: "Run", a: Any) -> "Run":
    """The run with what the short flags say."""
    from tubelet.data.augment import RandAugment
    from tubelet.methods.mixing import Erasing, Mix
    from tubelet.train.log import say

    method = replace(run.method, init=a.weights or run.method.init, labels=a.labels or run.method.labels)
    method = replace(method, inflate=a.inflate or method.inflate, init_heads=a.start.heads or method.init_heads)
    mixup, cutmix = (
        given if given is not None else getattr(method.mix, name, 0.0)
        for name, given in (("mixup", a.mixup), ("cutmix", a.cutmix))
    )
    if method.labels == "values" and (mixup or cutmix):
        say("values are not mixed: --mixup 0 --cutmix 0")
        mixup = cutmix = 0.0
    mix = replace(method.mix or Mix(), mixup=mixup, cutmix=cutmix) if mixup or cutmix else None
    erase = method.erase if a.erase is None else Erasing(a.erase) if a.erase else None
    data = run.data
    if a.augment is not None:
        data = replace(data, augment=None if a.augment == "none" else RandAugment.parse(a.augment))
    return replace(run, data=data, method=replace(method, mix=mix, erase=erase))
