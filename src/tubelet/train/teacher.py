"""Encoders that were trained before and teach others: their shape before the module is built, their weights after."""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from tubelet.config import Run, from_json, read_card
from tubelet.train.checkpoint import encoder_of, weights_of
from tubelet.types import Method
from tubelet.weights.load import Weights
from tubelet.weights.report import Report

CONVERT = "tubelet convert WEIGHTS teacher.safetensors"  # what says of a teacher of others what its file does not


def with_shape(run: Run, folder: Path | None = None) -> Run:
    """The run with the shape of its fixed teacher filled in, if it has one.

    Where the teacher's run is gone the shape is that which is known already, also from the run's own `folder`: a run
    that is resumed has the teacher's weights too.

    Raises:
        FileNotFoundError: the teacher is not there.
        ValueError: it does not see the clips as this run does.
    """
    path = getattr(run.method, "teacher", None)
    if path is None or not hasattr(run.method, "shape"):
        return run
    if not Path(path).exists():
        own = folder and folder / "run.json"
        known = from_json(json.dumps(read_card(own)["run"])).method if own and own.is_file() else run.method
        if getattr(known, "shape", None) is not None:
            return replace(run, method=replace(run.method, shape=known.shape))
    theirs = teacher_weights(path).run
    ours, other = sight(run), sight(theirs)
    if ours != other:
        raise ValueError(
            f"the teacher {path} sees {other}, this run sees {ours}; they have to be "
            "alike: give this run --data... and --encoder.patch as the teacher has them, or take another "
            f"teacher. Of weights of others, {CONVERT} --frames ... --size ... says it"
        )
    return replace(run, method=replace(run.method, shape=theirs.encoder))


def teacher_weights(path: str) -> Weights:
    """What `weights_of` says of a teacher.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: as `weights_of`; where its heads are to be told, how that is done for a teacher.
    """
    try:
        found = weights_of(path)
    except ValueError as error:
        if "--heads" not in str(error):
            raise
        raise ValueError(
            f"the teacher {error}. --heads of a run is not about its teacher: first {CONVERT} --heads N, then "
            "--method.teacher teacher.safetensors"
        ) from error
    found.report.notes.append("this is the teacher")
    return found


def sight(run: Run) -> str:
    """What an encoder is given, for messages."""
    data, cube = run.data, "x".join(map(str, run.encoder.patch))
    return f"clips of {data.clip.frames}x{data.size[0]}x{data.size[1]} with {data.channels} channels in cubes of {cube}"


def teach(run: Run, method: Method) -> Report | None:
    """Loads the weights of a fixed teacher into the module, if it has one; what happened."""
    if getattr(run.method, "teacher", None) is None or not hasattr(run.method, "shape"):
        return None
    weights = teacher_weights(run.method.teacher)
    encoder = encoder_of(weights)
    teacher = method.get_submodule("teacher")
    state = encoder.state_dict()
    if isinstance(encoder.norm, nn.Identity):  # fine-tuned: what is left fresh norms, and so will the target
        state |= {name: value for name, value in teacher.state_dict().items() if name.startswith("norm.")}
    teacher.load_state_dict(state)
    return weights.report
