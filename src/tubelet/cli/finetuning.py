"""The verb that learns labels."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tubelet.cli.arguments import Unprefixed, with_preset


def finetune_verb(args: list[str]) -> int:
    """Learn labels: tubelet finetune PRESET --weights RUN --data DIR"""
    from tubelet.config import Run

    @dataclass(frozen=True)
    class Finetune:
        """Fine-tune a pre-trained encoder on labelled videos, or without --weights train the same from scratch.

        tubelet finetune finetune-small-cpu --weights runs/first --data labelled/ --validation more/ --out runs/tuned

        Labels are class folders, or the column of a list. PRESET is one of those of `tubelet list` that begin with
        finetune-, a run.json, or your own module:function. Then: tubelet test, tubelet predict.
        """

        preset: tyro.conf.Positional[str]
        """What to train: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, Unprefixed]
        data: str = tyro.MISSING
        """Labelled videos to train on: class folders, a list file, or a data set as in ucf101:DIR:train."""
        weights: str | None = None
        """Run to start from, pre-trained or fine-tuned (or a file of it: best.safetensors); none: from scratch."""
        validation: str | None = None
        """Labelled videos to measure on while training; the best weights are kept as best.safetensors."""
        labels: Literal["class", "classes", "shares", "values"] | None = None
        """What labels are: class, classes (several at once), shares (soft), values (regression)."""
        new_head: bool = False
        """The head of --weights knows other classes: begin with a fresh one."""
        as_weights: bool = False
        """Take the encoder's shape from --weights instead of the preset."""
        balance: bool = False
        """Weigh classes so that each counts alike, however many videos it has."""
        out: Path | None = None
        """Run folder; default runs/PRESET."""
        resume: bool = False
        """Go on where the run in --out stopped."""
        device: str | None = None
        """cpu, cuda, cuda:1 or mps; short for --training.device."""
        tensorboard: bool = False
        """Also write TensorBoard events (extra: tensorboard)."""
        quiet: bool = False
        """No plan, no progress bar."""
        json: bool = False
        """The result as one JSON line on stdout."""

    a = with_preset(Finetune, args, "finetune", "finetune-small-cpu")
    from tubelet.cli.training import named, on
    from tubelet.data.datasets import Dataset
    from tubelet.data.labels import listed
    from tubelet.data.sources import find
    from tubelet.finetune import as_weights, balanced, completed, finetune
    from tubelet.methods.supervised import Supervised
    from tubelet.plan import plan, render
    from tubelet.report import ends, write_report
    from tubelet.train.log import duration, metrics, say, show

    run, items = on(a.run, a.device), find(a.data)
    if isinstance(run.method, Supervised):
        method = replace(run.method, init=a.weights or run.method.init)
        run = replace(run, method=replace(method, labels=a.labels) if a.labels else method)
        if a.as_weights and method.init:
            run = as_weights(run, method.init)
    run = balanced(run, items) if a.balance else completed(run, items)
    assert run.data.labels is not None
    if not a.quiet:
        show(render(plan(run, len(Dataset(items, run.data, run.training.seed)))))
        say(f"{len(run.data.labels.names)} classes: {listed(run.data.labels.names)}")
    out = a.out or Path("runs") / named(a.preset)
    folder = finetune(
        run,
        a.data,
        out,
        validation=a.validation,
        new_head=a.new_head,
        resume=a.resume,
        quiet=a.quiet,
        tensorboard=a.tensorboard,
    )
    lines = metrics(folder)
    first, last = ends(lines)
    measured = [line for line in lines if any(name.startswith("validation_") for name in line)]
    result: dict[str, Any] = {
        "run": str(folder),
        "model": str(folder / "model.safetensors"),
        "report": str(write_report(folder)),
        "steps": int(lines[-1]["step"]),
        "first_loss": first,
        "last_loss": last,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }
    if measured:
        score = next(name for name in measured[-1] if name.startswith("validation_"))
        best = max(measured, key=lambda line: line[score])
        result |= {score: measured[-1][score], "best": best[score], "best_step": int(best["step"])}
        result["best_model"] = str(folder / "best.safetensors")
    if a.json:
        print(json.dumps(result))
        return 0
    print(f"{folder}: {result['steps']} steps in {duration(result['seconds'])}, loss {first:.3f} to {last:.3f}")
    if measured:
        name = score.removeprefix("validation_").replace("_", " ")
        print(
            f"validation {name}: {result[score]:.1f} at the end, best {result['best']:.1f} (step {result['best_step']})"
        )
    print(f"model   {result['model']}\nreport  {result['report']}\n\nnext: tubelet test --weights {folder} --data LABELLED --views 5x3")
    return 0
