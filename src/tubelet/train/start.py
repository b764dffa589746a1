"""Weights to start from: the encoder of another run, or of others, if it fits."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tubelet.config import Run, differences, to_json
from tubelet.nn.inflate import inflated
from tubelet.nn.patches import FIXED
from tubelet.train.checkpoint import weights_of
from tubelet.types import Method
from tubelet.weights.found import Asked
from tubelet.weights.load import Weights
from tubelet.weights.report import Report

FREE = ("drop_path", "checkpoint")  # of an encoder's shape: they may differ from those of the weights


def fitting(run: Run, path: str, inflate: bool, heads: int | None = None) -> Weights:
    """What `weights_of` says of the weights at `path`, whose encoder fits that of `run`: as it is, or inflated.

    `heads` are those of weights of others that do not tell.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: an encoder of another shape; or one that is to be inflated and is not of images.
    """
    weights = weights_of(path, Asked(heads=heads))
    state, before, file = weights.state, weights.run, weights.path
    shape, other = before.encoder, []
    if run.encoder.interpolated == cubes(before):
        shape = replace(shape, interpolated=run.encoder.interpolated)
    if not inflate:
        ours, theirs = (json.loads(to_json(one)) for one in (run.encoder, shape))
        other = [line for line in differences(theirs, ours) if line.split(":")[0] not in FREE]
    if before.data.channels != run.data.channels:
        other.append(f"channels: {before.data.channels} -> {run.data.channels}")
    if other:
        image = before.encoder.patch[0] == 1 < run.encoder.patch[0]
        raise ValueError(
            f"{file} holds an encoder of another shape than this run's (theirs -> this run's): {'; '.join(other)}. "
            "Use the preset or --encoder... flags that it was made with"
            + ", or --as-weights to take its shape" * hasattr(run.method, "init")
            + ". It is one of images: --inflate makes it one of video" * image
        )
    if inflate:
        lead = "encoder." if "head.weight" in state else ""
        own = {name.removeprefix(lead): value for name, value in state.items() if name.startswith(lead)}
        try:
            grown = inflated(own, before.encoder, run.encoder, run.grid().T)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        state = state | {lead + name: value for name, value in grown.items()}
        weights.report.notes.append(f"inflated from images to cubes of {run.encoder.patch[0]} frames")
    if clip_size(before) != clip_size(run):
        how = "computed anew" if run.encoder.interpolated is None else "interpolated"
        fixed = f": the fixed positions are {how}" if run.encoder.position in FIXED else ""
        weights.report.notes.append(f"clips of {clip_size(before)} then, of {clip_size(run)} now{fixed}")
    return replace(weights, state=state)


def interpolating(run: Run, path: str | None, heads: int | None) -> Run:
    """The run with fixed positions that are those of the weights at `path`, interpolated to its own clips.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no weights, or its positions are not fixed.
    """
    if path is None:
        raise ValueError("--positions interpolated is about the positions of --weights, which were not given")
    if run.encoder.position not in FIXED:
        raise ValueError(f"--positions interpolated is about fixed positions; this run's are {run.encoder.position}")
    before = weights_of(path, Asked(heads=heads)).run
    grid, trained = run.grid(), cubes(before)
    same = before.encoder.interpolated is None and trained == (grid.T, grid.H, grid.W)
    return run if same else replace(run, encoder=replace(run.encoder, interpolated=trained))


def cubes(run: Run) -> tuple[int, int, int]:
    """Of which clips a run's fixed positions are, in cubes of time, height and width."""
    grid = run.grid()
    return run.encoder.interpolated or (grid.T, grid.H, grid.W)


def clip_size(run: Run) -> str:
    """Clip size for messages."""
    return f"{run.data.clip.frames}x{run.data.size[0]}x{run.data.size[1]}"


def started(method: Method, weights: Weights) -> Report:
    """Loads the encoder of `fitting` weights into a fresh method; what happened.

    Raises:
        ValueError: a tensor that does not fit.
    """
    state, file, report = weights.state, weights.path, weights.report
    if "head.weight" in state:  # a fine-tuned encoder, which has no last norm, but for that of a detector
        state = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        report.mark("left out", "a head, which pre-training has not", "norm.", "head.", "pool.")
    fresh = method.encoder.state_dict()
    new = [name for name in fresh if name.startswith("norm.") and name not in state]
    shaped(state, fresh, file)
    if set(fresh) - set(new) != set(state):
        wrong = sorted(set(fresh) ^ set(state) ^ set(new))
        raise ValueError(f"{file} does not fit the encoder; these tensors are on one side only: {', '.join(wrong)}")
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.start_from(fresh | state)
    kept = [name for name, value in method.state_dict().items() if torch.equal(value, before[name])]
    report.add(
        "newly initialised", "the last norm, which fine-tuned encoders lack", *(f"encoder.{name}" for name in new)
    )
    rest = (name for name in kept if not name.startswith(("encoder.", "teacher.", "momentum_encoder.")))
    report.add("newly initialised", "what the encoder is trained with", *rest)
    return report


def shaped(state: dict[str, Tensor], fresh: dict[str, Tensor], file: Path) -> None:
    """Checks that tensors of the same name are of one shape.

    Raises:
        ValueError: they are not; names the first.
    """
    for name, value in state.items():
        if name in fresh and fresh[name].shape != value.shape:
            raise ValueError(
                f"{file} has {name} of {tuple(value.shape)}, this run needs {tuple(fresh[name].shape)}"
                + "; learnt positions fit only clips of the same frames and size" * ("position." in name)
            )
