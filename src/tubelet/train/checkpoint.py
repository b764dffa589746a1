"""Saving so that nothing is lost, and resuming so that nothing changes."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from tubelet.config import Run, from_json, to_json
from tubelet.nn.vit import ViT
from tubelet.types import Method


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
        numbers = {getattr(cause, "errno", None) for cause in causes(error)}
        full = bool(numbers & {errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
        kept = f"{path.name} from before is intact" if path.exists() else "there was none before"
        mend = "Free some space" if full else "Mend that"
        raise SaveError(
            f"cannot write {path}: {'no space left on the disk' if full else error}; {kept}. "
            f"{mend} and repeat the same command (a run: with --resume)"
        ) from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def save(
    folder: Path, run: Run, method: Method, optimiser: torch.optim.Optimizer, step: int, keep: bool = False
) -> None:
    """The training state after `step` steps, and the encoder by itself.

    `checkpoints/last.pt` is replaced each time; with `keep`, `checkpoints/step_000123.pt` stays.
    """
    state = {"run": to_json(run), "step": step, "method": method.state_dict(), "optimiser": optimiser.state_dict()}
    checkpoints = folder / "checkpoints"
    atomically(checkpoints / "last.pt", lambda file: torch.save(state, file))
    if keep:
        atomically(checkpoints / f"step_{step:06d}.pt", lambda file: torch.save(state, file))
    encoder = {name: tensor.detach().cpu().contiguous() for name, tensor in method.encoder.state_dict().items()}
    weights = to_safetensors(encoder, {"run": to_json(run), "step": str(step)})
    atomically(folder / "encoder.safetensors", lambda file: void(file.write(weights)))


def void(_: Any) -> None:
    """Nothing: for callbacks whose result does not matter."""


def restore(folder: Path, method: Method, optimiser: torch.optim.Optimizer | None = None) -> int:
    """Loads the last training state into `method` and `optimiser`; the number of steps that it had done.

    Raises:
        FileNotFoundError: no checkpoint there.
    """
    state = read(folder)
    method.load_state_dict(state["method"])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def read(folder: Path) -> dict[str, Any]:
    """The last training state of a run folder, on the CPU.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the file is not a checkpoint of tubelet, or is damaged.
    """
    path = folder / "checkpoints" / "last.pt"
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the run folder that it lies in")
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no checkpoints/last.pt: nothing to resume or load")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = str(error).split(". ")[0].split("\n")[0]  # torch goes on with advice to trust the file
        raise ValueError(f"{path} cannot be read as a checkpoint ({why}); is it whole?") from error


def load(folder: Path | str) -> Method:
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


def load_encoder(path: Path | str) -> tuple[ViT, Run]:
    """The encoder of a run folder or of an encoder.safetensors, on the CPU, with the run that made it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a safetensors file that tubelet did not write, or weights that do not fit.
    """
    path = Path(path)
    path = path / "encoder.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); is it whole?") from error
    if "run" not in about:
        raise ValueError(f"{path} does not say which run made it; expected an encoder.safetensors of tubelet")
    run: Run = from_json(about["run"])
    encoder = run.encoder.build(run.grid(), run.data.channels)
    encoder.load_state_dict(state)
    return encoder.eval(), run
