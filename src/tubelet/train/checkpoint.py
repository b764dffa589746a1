"""Saving so that nothing is lost, and resuming so that nothing changes."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from tubelet.config import Run, from_json, to_json
from tubelet.nn.classifier import Classifier
from tubelet.nn.collective import from_first, of_all, put, whole
from tubelet.nn.vit import ViT
from tubelet.train import sharded
from tubelet.train.optim import make_moments, moments, named_moments
from tubelet.types import Method
from tubelet.weights import archive as archives
from tubelet.weights import load as foreign
from tubelet.weights.found import Asked
from tubelet.weights.hub import on_hub
from tubelet.weights.load import Weights


class SaveError(OSError):
    """A checkpoint could not be written; the one before it is untouched."""


def atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file beside `path`, flushes it to the disk and only then takes the place of `path`. Makes its folder.

    Raises:
        SaveError: the disk is full or refuses. Whatever was at `path` is still there, and nothing half-written is.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch's archive writer turns a full disk into a RuntimeError
        with suppress(OSError):
            beside.unlink()
        raise refused(path, error, path if path.exists() else None) from error


def refused(path: Path, error: BaseException, before: Path | None) -> SaveError:
    """What to say when the disk refuses, and what is left of before."""
    numbers = {getattr(cause, "errno", None) for cause in causes(error)}
    full = bool(numbers & {errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    kept = f"{before.name} from before is intact" if before is not None else "there was none before"
    mend = "Free some space" if full else "Mend that"
    return SaveError(
        f"cannot write {path}: {'no space left on the disk' if full else error}; {kept}. "
        f"{mend} and repeat the same command (a run: with --resume)"
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def save(
    folder: Path,
    run: Run,
    method: Method,
    optimiser: torch.optim.Optimizer,
    step: int,
    keep: bool = False,
    best: float = -math.inf,
    guard: Mapping[str, float] | None = None,
) -> None:
    """The training state after `step` steps, and what is kept of the run by itself: the encoder, or the whole model.

    `checkpoints/last.pt` is replaced each time; with `keep`, `checkpoints/step_000123.pt` stays. Where
    `training.checkpoints` is sharded, it is a folder `checkpoints/step_000123/` instead (`sharded`), and
    `checkpoints/last` names it. `best` is the best result on validation data so far. All processes must call it.

    Raises:
        SaveError: the disk refuses; on all processes.
    """
    checkpoints = folder / "checkpoints"
    about = {"run": to_json(run), "step": step, "best": best, "guard": dict(guard or {})}
    if run.training.checkpoints == "sharded":
        in_pieces(checkpoints, about, flat(method, moments(method, optimiser)), keep)
    else:
        kept = {name: whole(values) for name, values in moments(method, optimiser).items()}
        state = about | {"method": whole(method.state_dict()), "optimiser": kept}

        def write() -> None:
            before = last(folder)
            atomically(checkpoints / "last.pt", lambda file: torch.save(state, file))
            (checkpoints / LAST).unlink(missing_ok=True)
            superseded(before)
            if keep:
                atomically(checkpoints / f"step_{step:06d}.pt", lambda file: torch.save(state, file))

        from_first(write)
    export(folder, run, method, step)


LAST = "last"  # in the folder of checkpoints: the name of the last one, if it is not last.pt


def in_pieces(checkpoints: Path, about: dict[str, Any], tensors: dict[str, Tensor], keep: bool) -> None:
    """A checkpoint of all processes' pieces; the one before it stays until this one is whole.

    Raises:
        SaveError: a disk refuses; on all processes.
    """
    place = checkpoints / f"step_{about['step']:06d}"
    before = from_first(lambda: last(checkpoints.parent))
    if before == place:  # this step was saved already
        return
    try:
        from_first(lambda: emptied(place))
        files = sharded.write(place, tensors)
    except OSError as error:
        from_first(lambda: rmtree(place, ignore_errors=True))
        raise of_all(refused(place, error, before)) from error

    def finish() -> None:
        card = json.dumps(about | {"keep": keep, "files": files}, indent=1).encode()
        atomically(place / sharded.CARD, partial(written, card))
        atomically(checkpoints / LAST, partial(written, place.name.encode()))
        (checkpoints / "last.pt").unlink(missing_ok=True)
        superseded(before)

    from_first(finish)


def emptied(place: Path) -> None:
    """Makes a folder; what is there is of one that was killed."""
    if place.is_dir():
        rmtree(place)
    place.mkdir(parents=True)


def superseded(before: Path | None) -> None:
    """Removes a checkpoint in pieces that is not the last any more, unless it was to be kept."""
    if before is not None and before.is_dir() and not sharded.read(before).get("keep"):
        rmtree(before, ignore_errors=True)


def flat(method: Method, kept: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Weights and moments under one kind of names."""
    weights = {f"method.{name}": value for name, value in method.state_dict().items()}
    return weights | {
        f"optimiser.{name}.{key}": value for name, values in kept.items() for key, value in values.items()
    }


def last(folder: Path) -> Path | None:
    """The last checkpoint of a run folder: a file, or a folder of pieces; none where there is none.

    Raises:
        ValueError: what names it names nothing.
    """
    checkpoints = folder / "checkpoints"
    if (checkpoints / LAST).is_file():
        place = checkpoints / (checkpoints / LAST).read_text().strip()
        if place.parent != checkpoints or not (place / sharded.CARD).is_file():
            raise ValueError(f"{checkpoints / LAST} names {place.name!r}, which is no whole checkpoint; is it there?")
        return place
    return checkpoints / "last.pt" if (checkpoints / "last.pt").is_file() else None


def export(folder: Path, run: Run, method: Method, step: int, name: str | None = None) -> None:
    """Writes what is kept of a run, under its own name (encoder.safetensors, model.safetensors) or `name`.

    Raises:
        SaveError: the disk refuses.
    """
    for own, kept in method.exported().items():
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in whole(kept).items()}
        from_first(partial(exported, folder / f"{name or own}.safetensors", state, run, step))


def exported(path: Path, state: dict[str, Tensor], run: Run, step: int) -> None:
    """Writes weights with the run that they are of."""
    weights = to_safetensors(state, {"run": to_json(run), "step": str(step)})
    atomically(path, partial(written, weights))


def written(weights: bytes, file: IO[bytes]) -> None:
    """Writes all of it."""
    file.write(weights)


def void(_: Any) -> None:
    """Nothing: for callbacks whose result does not matter."""


def restore(
    folder: Path, method: Method, optimiser: torch.optim.Optimizer | None = None
) -> tuple[int, float, dict[str, float]]:
    """Loads the last training state into `method` and `optimiser`, whole or their share of it, whatever number of
    processes wrote it; the steps that it had done, its best result, and what the guard knew.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: it is damaged, or of another run.
    """
    place = last(folder)
    if place is not None and place.is_dir():
        about = sharded.read(place)

        def targets(names: list[str]) -> dict[str, Tensor]:
            if optimiser is None:
                return flat(method, {})
            end = ".exp_avg"
            moved = {name.removeprefix("optimiser.").removesuffix(end) for name in names if name.endswith(end)}
            make_moments(method, optimiser, moved)
            return flat(method, moments(method, optimiser))

        sharded.fill(place, targets)
    else:
        about = read(folder)
        into(method.state_dict(), about["method"], folder)
        if optimiser is not None:
            kept = named_moments(method, optimiser, about["optimiser"])
            make_moments(method, optimiser, kept)
            for name, values in moments(method, optimiser).items():
                into(values, kept[name], folder)
    return about["step"], about.get("best", -math.inf), about.get("guard", {})


def into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], folder: Path) -> None:
    """Copies tensors into those of the same names.

    Raises:
        ValueError: other names, or shapes.
    """
    wrong = sorted(set(targets) ^ set(values))
    wrong += [name for name, value in values.items() if name in targets and targets[name].shape != value.shape]
    if wrong:
        raise ValueError(f"the checkpoint of {folder} is of another network; these do not fit: {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, value in values.items():
            put(targets[name], value)


def read(folder: Path) -> dict[str, Any]:
    """The last training state of a run folder, whole, on the CPU: run, step, "method" and "optimiser".

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the file is not a checkpoint of tubelet, or is damaged.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the run folder that it lies in")
    path = last(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such file or folder: {folder} (looked in {Path.cwd()})")
    if path is None:
        raise FileNotFoundError(f"{folder} has no checkpoints/last.pt: nothing to resume or load")
    if path.is_dir():
        about, tensors = sharded.read(path), sharded.loaded(path)
        state: dict[str, Any] = about | {"method": {}, "optimiser": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "method":
                state["method"][rest] = value
            else:
                owner, _, key = rest.rpartition(".")
                state["optimiser"].setdefault(owner, {})[key] = value
        return state
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not {"run", "step", "method", "optimiser"} <= state.keys():
            raise ValueError("it holds something else")
    except Exception as error:
        why = str(error).split(". ")[0].split("\n")[0]  # torch goes on with advice to trust the file
        raise ValueError(f"{path} cannot be read as a checkpoint ({why}); is it whole?") from error
    return state


def load(path: Path | str, asked: Asked = Asked()) -> nn.Module:  # noqa: B008 - frozen
    """The network of a run or of a file, on the CPU.

    Of a run folder it is the method with the weights of its last checkpoint, ready for pictures; of a file of weights,
    ours or another's (docs/weights.md) or on the hub ("hub:OWNER/NAME"), what is in it: a masked autoencoder, a
    `Classifier`, a `Detector`, or a `ViT`. `asked` says of another's what no shape tells, as `Asked(heads=6)`. What
    looks wrong in it is warned of; all that was done is in the report that `tubelet.load_with_report(path, asked)`
    gives beside the network of such a file.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not of this version of tubelet, or of no format that is known.
    """
    path = Path(path)
    if not on_hub(path) and not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path} (looked in {Path.cwd()})")
    run = (path / "checkpoints").is_dir() or (path / "run.json").is_file()
    if not run:
        network, report = foreign.network(path, asked)
        report.warn()
        return network
    if asked != Asked():
        raise ValueError(f"{path} is a run of tubelet and says itself what is in it; {asked} is for weights of others")
    return load_method(path)


def load_method(folder: Path | str) -> Method:
    """The method of a run with the weights of its last checkpoint, on the CPU, ready for pictures.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: not a checkpoint of this version of tubelet.
    """
    state = read(Path(folder))
    run: Run = from_json(state["run"])
    method = run.method.build(run.encoder, run.grid(), run.data.channels)
    method.load_state_dict(state["method"])
    return method.eval()


def load_encoder(path: Path | str, asked: Asked = Asked()) -> tuple[ViT, Run]:  # noqa: B008 - frozen
    """The encoder of a run, pre-trained or fine-tuned, on the CPU, with the run that made it.

    `path` is the folder of the run, or a file of it: encoder.safetensors, model.safetensors, best.safetensors; or
    weights of others (docs/weights.md; `asked` says what they do not tell), with a run that describes them. A
    fine-tuned encoder has no last norm: what its head reads is the mean of its tokens as they are; that of a detector
    has one. What looks wrong in weights of others is warned of.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file of no format that is known, or weights that do not fit.
    """
    weights = weights_of(path, asked)
    encoder = encoder_of(weights)
    weights.report.warn()
    return encoder, weights.run


def encoder_of(weights: Weights) -> ViT:
    """The encoder of weights; a head is left out, and that is noted in their report."""
    state, run = weights.state, weights.run
    encoder = run.encoder.build(run.grid(), run.data.channels)
    if "head.weight" in state:
        state = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
        weights.report.mark("left out", "a head; the encoder is used without it", "norm.", "head.", "pool.")
    if "norm.weight" not in state:
        encoder.norm = nn.Identity()
    encoder.load_state_dict(state)
    return encoder.eval()


def load_classifier(path: Path | str, asked: Asked = Asked()) -> tuple[Classifier, Run]:  # noqa: B008 - frozen
    """The network of a fine-tuned run, on the CPU, with its run; the classes are `run.data.labels.names`.

    `path` is the folder of the run (the last weights), or a file of it: model.safetensors, best.safetensors; or weights
    of others, as for `load_encoder`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: weights without a head, or a file of no format that is known.
    """
    weights = weights_of(path, asked)
    network = classifier_of(weights)
    weights.report.warn()
    return network, weights.run


def classifier_of(weights: Weights) -> Classifier:
    """The whole network of weights with a head for clips.

    Raises:
        ValueError: they have none.
    """
    weights.expect("classifier")
    state, run = weights.state, weights.run
    encoder = run.encoder.build(run.grid(), run.data.channels)
    network = Classifier(encoder, len(state["head.bias"]), cells=run.method.cells)
    network.load_state_dict(state)
    return network.eval()


def weights_of(path: Path | str, asked: Asked = Asked()) -> Weights:  # noqa: B008 - frozen
    """What a run folder or a file of weights holds: whose weights they are, the run that made them, and a report.

    Of weights of others, the run describes them (docs/weights.md).

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file of no format that is known, or a damaged one.
    """
    return foreign.weights_of(archives.read(path), asked)
