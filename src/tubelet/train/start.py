"""Weights to start from: the encoder of another run, if it fits."""

import json
from pathlib import Path

from torch import Tensor

from tubelet.config import Run, differences, to_json
from tubelet.nn.inflate import inflated
from tubelet.train.checkpoint import weights_of
from tubelet.types import Method

FREE = ("drop_path", "checkpoint")  # of an encoder's shape: they may differ from those of the weights


def fitting(run: Run, path: str, inflate: bool) -> tuple[dict[str, Tensor], Run, Path]:
    """What `weights_of` says of the weights at `path`, whose encoder fits that of `run`: as it is, or inflated.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: an encoder of another shape; or one that is to be inflated and is not of images.
    """
    state, before, file = weights_of(path)
    other = []
    if not inflate:
        ours, theirs = (json.loads(to_json(one.encoder)) for one in (run, before))
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
        state |= {lead + name: value for name, value in grown.items()}
    return state, before, file


def started(run: Run, method: Method, found: tuple[dict[str, Tensor], Run, Path]) -> str:
    """Loads the encoder of `fitting` weights into a fresh method; what happened, for people.

    Raises:
        ValueError: a tensor that does not fit.
    """
    state, _, file = found
    if "head.weight" in state:  # a fine-tuned encoder, which has no last norm
        state = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    fresh = method.encoder.state_dict()
    new = [name for name in fresh if name.startswith("norm.") and name not in state]
    shaped(state, fresh, file)
    if set(fresh) - set(new) != set(state):
        wrong = sorted(set(fresh) ^ set(state) ^ set(new))
        raise ValueError(f"{file} does not fit the encoder; these tensors are on one side only: {', '.join(wrong)}")
    method.start_from(fresh | state)
    return f"weights: {len(state)} tensors of {file}" + "; begun afresh: the last norm" * bool(new)


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
