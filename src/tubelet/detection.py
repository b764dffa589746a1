"""Action detection from start to end: the boxes, the weights to start from, the run, and its score on other boxes."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from tubelet.config import Run
from tubelet.data.annotated import KeyFrames
from tubelet.data.annotations import key_frames
from tubelet.data.items import Item
from tubelet.data.labels import Labels, listed
from tubelet.data.split import overlap
from tubelet.evaluate.key_frames import Looker, Network, over_key_frames
from tubelet.live import Page
from tubelet.methods.action_detection import ActionDetection, ActionDetector
from tubelet.nn.collective import from_first, joined, whoami
from tubelet.report import write_report
from tubelet.train.checkpoint import last
from tubelet.train.detector import detector_from
from tubelet.train.device import pick_device, pick_workers
from tubelet.train.log import noted, say
from tubelet.train.loop import train
from tubelet.train.start import fitting
from tubelet.types import Method
from tubelet.weights.report import Report


def finetune_on_boxes(
    run: Run,
    data: Path | str,
    out: Path | str,
    *,
    known: KeyFrames | None = None,
    validation: Path | str | None = None,
    new_head: bool = False,
    resume: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    limit: int | None = None,
    report: bool = False,
) -> Path:
    """Trains `run` (a preset of action detection) on the boxes of `data` and returns the run folder `out`.

    It starts from the encoder of the run `run.method.init`, or from scratch. The classes are those of `data`, unless
    `run.data.labels` names them. `known` are the key frames of `data`, where they have been read already. The folder
    gets model.safetensors (the last weights) and, with `validation` boxes, best.safetensors (frame mAP, true boxes).
    `new_head` allows a head that was trained for other classes to be replaced. With `report` there is also report.html,
    also while it trains.

    Raises:
        ValueError, FileNotFoundError: boxes, weights or settings that cannot be used.
    """
    with joined():
        known = from_first(lambda: key_frames(data)) if known is None else known
        run = completed(run, known)
        run = replace(run, method=replace(run.method, validation=None if validation is None else str(validation)))
        weights = None
        if run.method.init is not None and not (resume and last(Path(out)) is not None):
            weights = fitting(run, run.method.init, run.method.inflate, run.method.init_heads)
        measure = None
        if validation is not None:
            assert run.data.labels is not None
            classes = run.data.labels.names
            held = from_first(lambda: key_frames(validation, names=classes, part="val"))
            noted([*held.notes, *remarks(held)])
            measure = validator(run, held, pick_device(run.training.device))
            if twice := overlap(videos_of(known), videos_of(held)):
                names = listed([str(other.path) for _, other in twice], 3)
                say(f"note: {len(twice)} videos to train on are in the validation data too, or copies of them: {names}")

        def prepare(method: Method) -> list[Report]:
            assert isinstance(method, ActionDetector)
            return [] if weights is None else [detector_from(weights, run, method.network, new_head)]

        with Page(Path(out)) if report else nullcontext() as page:
            folder = train(
                run,
                data,
                out,
                items=known.items,
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


def completed(run: Run, known: KeyFrames) -> Run:
    """The run with the classes of the boxes to train on filled in where it leaves them open.

    Raises:
        ValueError: no preset of action detection; no boxes, or classes that the run does not know.
    """
    if not isinstance(run.method, ActionDetection):
        raise ValueError(
            f"{type(run.method).__name__} does not learn from boxes; use a preset as finetune-boxes-small-gpu or "
            "finetune-ava-b, see tubelet list"
        )
    if run.training.init is not None:
        raise ValueError("--training.init is for pre-training; fine-tuning starts from --weights (--method.init)")
    labels = run.data.labels or Labels("classes", known.names)
    boxes = [box for item in known.items if item.key is not None for box in item.key.boxes]
    if not boxes:
        raise ValueError(f"{len(known.items)} key frames and not one box: there is nothing to learn from")
    if not labels.names:
        raise ValueError(f"{len(boxes)} boxes and not one label: there is nothing to learn")
    labels.hot([sorted({name for box in boxes for name in box.labels})])  # raises for one that the run does not know
    outputs = len(labels.names)
    if run.method.outputs not in (0, outputs):
        raise ValueError(f"--method.outputs {run.method.outputs}, but there are {outputs}: {listed(labels.names)}")
    return replace(run, data=replace(run.data, labels=labels), method=replace(run.method, outputs=outputs))


def remarks(known: KeyFrames) -> list[str]:
    """What people should know of the boxes that are learnt from or tested on."""
    boxes = [box for item in known.items if item.key is not None for box in item.key.boxes]
    bare = sum(not box.labels for box in boxes)
    return [f"{bare} of {len(boxes)} boxes have no label: they count as doing none of the classes"] * bool(bare)


def videos_of(known: KeyFrames) -> list[Item]:
    """The videos of key frames, each once."""
    return [Item(path) for path in dict.fromkeys(item.path for item in known.items)]


def looker_of(network: Network, run: Run, device: torch.device, batch: int = 16) -> Looker:
    """What looks at key frames with a network that `run` trained or is training."""
    method = run.method
    return Looker(network, run.data, run.encoder.patch, method.norm, method.side, method.enlarge, device, batch)


def validator(run: Run, known: KeyFrames, device: torch.device) -> Callable[[Method], dict[str, float]]:
    """What measures a run on key frames that it does not learn from, by their true boxes; higher is better.

    Raises:
        ValueError: labels that the run does not know.
    """
    assert run.data.labels is not None
    names = run.data.labels.names
    run.data.labels.hot([known.names])  # now, and not after the first epoch
    evaluated = [name for name in known.evaluated if name in names]

    def measure(method: Method) -> dict[str, float]:
        assert isinstance(method, ActionDetector)
        looker = looker_of(method.tested, run, device, run.training.batch)
        found = over_key_frames(
            looker, known.items, evaluated=evaluated, excluded=known.excluded, workers=pick_workers(run)
        )
        return {"validation_frame_map": found.counted().mean}

    return measure
