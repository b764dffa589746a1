"""Encoders that were trained before and teach others: their shape before the module is built, their weights after."""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from tubelet.config import Run, from_json, read_card
from tubelet.train.checkpoint import load_encoder
from tubelet.types import Method


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
    _, theirs = load_encoder(path)
    ours, other = sight(run), sight(theirs)
    if ours != other:
        raise ValueError(
            f"the teacher {path} sees {other}, this run sees {ours}; they have to be "
            "alike: give this run --data... and --encoder.patch as the teacher has them, or take another teacher"
        )
    return replace(run, method=replace(run.method, shape=theirs.encoder))


def sight(run: Run) -> str:
    """What an encoder is given, for messages."""
    data, cube = run.data, "x".join(map(str, run.encoder.patch))
    return f"clips of {data.clip.frames}x{data.size[0]}x{data.size[1]} with {data.channels} channels in cubes of {cube}"


def teach(run: Run, method: Method) -> None:
    """Loads the weights of a fixed teacher into the module, if it has one."""
    if getattr(run.method, "teacher", None) is None or not hasattr(run.method, "shape"):
        return
    encoder, _ = load_encoder(run.method.teacher)
    teacher = method.get_submodule("teacher")
    state = encoder.state_dict()
    if isinstance(encoder.norm, nn.Identity):  # fine-tuned: what is left fresh norms, and so will the target
        state |= {name: value for name, value in teacher.state_dict().items() if name.startswith("norm.")}
    teacher.load_state_dict(state)
