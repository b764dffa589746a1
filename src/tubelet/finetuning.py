"""Fine-tuning from start to end: the classes, the weights to start from, the run, and its score on validation data."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.config import Run
from tubelet.data.labels import Labels, listed
from tubelet.data.sources import Item, find
from tubelet.data.split import overlap
from tubelet.evaluate.results import numbers
from tubelet.evaluate.views import Viewer, Views, multi_view
from tubelet.live import Page
from tubelet.methods.supervised import Supervised, SupervisedLearner
from tubelet.nn.classifier import Classifier
from tubelet.nn.collective import from_first, joined, whoami
from tubelet.report import write_report
from tubelet.train.checkpoint import classifier_of, last, weights_of
from tubelet.train.device import pick_device, pick_workers
from tubelet.train.log import say
from tubelet.train.loop import train
from tubelet.train.start import FREE, clip_size, fitting, shaped
from tubelet.train.teacher import CONVERT, teacher_weights
from tubelet.types import Method
from tubelet.weights.found import Asked
from tubelet.weights.report import Report


def finetune(
    run: Run,
    data: Path | str,
    out: Path | str,
    *,
    items: Sequence[Item] | None = None,
    validation: Path | str | None = None,
    new_head: bool = False,
    resume: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    limit: int | None = None,
    report: bool = False,
) -> Path:
    """Trains `run` (a fine-tuning preset) on the labelled videos of `data` and returns the run folder `out`.

    It starts from the weights of the run `run.method.init`, or from scratch. The classes are those of `data`, unless
    `run.data.labels` names them. `items` are the videos of `data`, where they have been looked for already. The folder
    gets model.safetensors (the last weights) and, with `validation` data, best.safetensors. `new_head` allows a head
    that was trained for other classes to be replaced. With `report` there is also report.html, also while it trains.

    Raises:
        ValueError, FileNotFoundError: labels, weights or settings that cannot be used.
    """
    with joined():
        items = from_first(lambda: find(data)) if items is None else items
        run = completed(run, items)
        run = replace(run, method=replace(run.method, validation=None if validation is None else str(validation)))
        assert run.data.labels is not None
        init = None
        if run.method.init is not None and not (resume and last(Path(out)) is not None):
            init = Initial.of(run, run.method.init, new_head)
        measure = None
        if validation is not None:
            held = from_first(lambda: find(validation))
            measure = validator(run, held, pick_device(run.training.device))
            if twice := overlap(items, held):
                names = "; ".join(f"{one.path} and {other.path}" for one, other in twice[:3])
                many = f"{len(twice)} videos to train on are in the validation data too"
                say(f"note: {many}, as files or as copies: {names}")

        def prepare(method: Method) -> list[Report]:
            assert isinstance(method, SupervisedLearner)
            reports = []
            if init is not None:
                reports.append(init.into(method.network))
                if method.averaged is not None:
                    method.averaged.load_state_dict(method.network.state_dict())
            if run.method.teacher is not None:
                teacher, report = teacher_of(run)
                method.teacher = [teacher.to(pick_device(run.training.device))]
                reports.append(report)
            return reports

        with Page(Path(out)) if report else nullcontext() as page:
            folder = train(
                run,
                data,
                out,
                items=items,
                prepare=prepare,
                validate=measure,
                tell=page,
                resume=resume,
                quiet=quiet,
                tensorboard=tensorboard,
                limit=limit,
            )
        if report and whoami()[0] == 0:
            write_report(folder)
        return folder


def validator(run: Run, items: Sequence[Item], device: torch.device) -> Callable[[Method], dict[str, float]]:
    """What measures a run on videos that it does not learn from, by one centred view of each; higher is better.

    Raises:
        ValueError: labels that the run does not know.
    """
    assert run.data.labels is not None
    run.data.labels.encode(items)  # now, and not after the first epoch
    first = {"values": "r2", "classes": "mean_average_precision"}.get(run.method.labels, "top1")

    def measure(method: Method) -> dict[str, float]:
        assert isinstance(method, SupervisedLearner)
        viewer = Viewer(method.tested, run.data, run.encoder.patch, device=device, batch=run.training.batch)
        found = numbers(multi_view(viewer, items, Views(1, 1), workers=pick_workers(run)), resamples=0)
        names = [first, *(name for name in found if name != first)]
        return {f"validation_{name}": found[name].value for name in names}

    return measure


def completed(run: Run, items: Sequence[Item]) -> Run:
    """The run with the classes of `items` to train on filled in where it leaves them open.

    Raises:
        ValueError: no fine-tuning preset; labels that are missing or unknown; fewer than two classes, or one without a
            video to train on.
    """
    if not isinstance(run.method, Supervised):
        raise ValueError(
            f"a preset whose method is {type(run.method).__name__} does not learn labels; "
            "use one of those that begin with finetune-, see tubelet list"
        )
    if run.training.init is not None:
        raise ValueError("--training.init is for pre-training; fine-tuning starts from --weights (--method.init)")
    labels = run.data.labels or Labels(run.method.labels)
    if labels.kind != run.method.labels:
        raise ValueError(f"--data.labels.kind {labels.kind} and --method.labels {run.method.labels} contradict")
    if not labels.names or (labels.kind == "values" and not labels.unit):
        labels = Labels.of(items, labels.kind) if not labels.names else labels.standardised(items)
    table = labels.encode(items)
    if labels.kind != "values":
        if len(labels.names) < 2 and labels.kind != "classes":
            raise ValueError(
                f"all {len(items)} videos are of one class, {labels.names[0]}: there is nothing to tell apart"
            )
        counts = table.sum(dim=0)
        empty = [name for name, count in zip(labels.names, counts) if not count]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(labels.names)} classes have no video to train on: {listed(empty)}; add some, or "
                "leave these classes out"
            )
    clips = run.training.batch // whoami()[1] // (run.training.accumulate or 1) * run.data.per_video
    if run.method.mix is not None and clips % 2:
        raise ValueError(
            f"clips are mixed in pairs, but a step (or a part or share of one) has {clips}: use an even "
            "--training.batch, or --mixup 0 --cutmix 0"
        )
    outputs = len(labels.names)
    if run.method.outputs not in (0, outputs):
        raise ValueError(f"--method.outputs {run.method.outputs}, but there are {outputs}: {listed(labels.names)}")
    return replace(run, data=replace(run.data, labels=labels), method=replace(run.method, outputs=outputs))


def balanced(run: Run, items: Sequence[Item]) -> Run:
    """The run with class weights by which every class counts alike, however many videos it has; their mean is 1."""
    run = completed(run, items)
    assert run.data.labels is not None
    counts = run.data.labels.encode(items).sum(dim=0)
    weights = counts.sum() / counts / len(counts)
    return replace(run, method=replace(run.method, class_weights=tuple((weights / weights.mean()).tolist())))


# ---------------------------------------------------------------------------- weights to start from


@dataclass(frozen=True)
class Initial:
    """Weights to start from: which go where, and what is left out or new."""

    path: Path
    state: dict[str, Tensor]
    new: tuple[str, ...]
    """Parts of the network that begin afresh."""
    report: Report

    @classmethod
    def of(cls, run: Run, path: str, new_head: bool) -> "Initial":
        """What of a run's weights goes into the network of `run`.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: an encoder of another shape, or a head for other classes that is not to be replaced.
        """
        found = fitting(run, path, run.method.inflate, run.method.init_heads)
        state, before, file, report = found.state, found.run, found.path, found.report
        assert run.data.labels is not None
        if "head.weight" not in state:
            kept = {f"encoder.{name}": value for name, value in state.items() if not name.startswith("norm.")}
            report.mark("left out", "the norm for a decoder; a head has its own", "encoder.norm.")
            return cls(file, kept, ("norm", "head"), report)
        if found.kind == "detector":
            own = "encoder.norm.", "head.", "pool."
            report.mark("left out", "what reads boxes, and the norm for it; a head for clips has its own", *own)
            kept = {name: value for name, value in state.items() if not name.startswith(own)}
            return cls(file, kept, ("norm", "head"), report)
        classes = before.data.labels.names if before.data.labels else ()
        if before.data.labels == run.data.labels and before.method.cells == run.method.cells:
            return cls(file, state, (), report)
        if not new_head and classes == run.data.labels.names:
            raise ValueError(
                f"the head of {file} is of another kind: {described(before)}, this run's: {described(run)}; add "
                "--new-head to begin with a fresh one"
            )
        if not new_head:
            raise ValueError(
                f"the head of {file} knows {len(classes)} other classes ({listed(classes, 4)}) than the "
                f"{len(run.data.labels.names)} of these videos ({listed(run.data.labels.names, 4)}); add --new-head to "
                "begin with a fresh one"
            )
        kept = {name: value for name, value in state.items() if not name.startswith("head.")}
        report.mark("left out", "a head for other classes", "head.")
        return cls(file, kept, ("head",), report)

    def into(self, network: nn.Module) -> Report:
        """Loads them, strictly; what happened.

        Raises:
            ValueError: a tensor that does not fit.
        """
        fresh = network.state_dict()
        expected = {name for name in fresh if not name.startswith(tuple(f"{part}." for part in self.new))}
        # LoRA keeps the weight that it changes under another name, and adds its own.
        target = {name.replace(".parametrizations.weight.original", ".weight"): name for name in expected}
        target = {name: own for name, own in target.items() if ".parametrizations." not in name}
        if set(target) != set(self.state):
            wrong = sorted(set(target) ^ set(self.state))
            raise ValueError(
                f"{self.path} does not fit the network; these tensors are on one side only: {listed(wrong)}"
            )
        shaped(self.state, {name: fresh[own] for name, own in target.items()}, self.path)
        network.load_state_dict({own: self.state[name] for name, own in target.items()}, strict=False)
        self.report.add(
            "newly initialised", "a head for these labels", *(name for name in fresh if name not in expected)
        )
        added = (name for name in fresh if ".parametrizations." in name and name not in target.values())
        self.report.add("newly initialised", "low-rank changes, which change nothing yet", *added)
        return self.report


def described(run: Run) -> str:
    """What a head reads and says, for messages."""
    labels = run.data.labels
    assert labels is not None
    scale = f" x {labels.unit} + {labels.offset}" if labels.kind == "values" else ""
    return f"{labels.kind}{scale}, {'mean token' if run.method.cells is None else f'cells {run.method.cells}'}"


def as_weights(run: Run, path: str) -> Run:
    """The run with the encoder's shape of the weights at `path`; stochastic depth and checkpointing stay its own, and
    frames of a cube and kind of attention where an encoder of images is inflated."""
    before = weights_of(path, Asked(heads=run.method.init_heads)).run
    keep: dict[str, Any] = {name: getattr(run.encoder, name) for name in FREE}
    if run.method.inflate:
        keep |= {"patch": (run.encoder.patch[0], *before.encoder.patch[1:]), "attention": run.encoder.attention}
    return replace(run, encoder=replace(before.encoder, **keep))


def teacher_of(run: Run) -> tuple[Classifier, Report]:
    """The teacher of a distillation, which must know the same classes and see the same clips; and its report.

    Raises:
        ValueError: it does not.
    """
    weights = teacher_weights(run.method.teacher)
    network, theirs = classifier_of(weights), weights.run
    assert run.data.labels is not None
    if theirs.data.labels != run.data.labels:
        raise ValueError(f"the teacher {run.method.teacher} knows other classes or another kind than these")
    if clip_size(theirs) != clip_size(run) or theirs.encoder.patch != run.encoder.patch:
        raise ValueError(
            f"the teacher {run.method.teacher} sees clips of {clip_size(theirs)} in cubes of {theirs.encoder.patch}, "
            f"this run sees {clip_size(run)} in {run.encoder.patch}; they have to be alike. "
            f"Of weights of others, {CONVERT} --frames ... --size ... says it"
        )
    return network.requires_grad_(False), weights.report
