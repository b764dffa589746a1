"""Checkpoints in pieces: each process writes what it holds, and any number of processes read them again.

`checkpoints/step_000123/` holds a safetensors file of every process, as torch.distributed.checkpoint writes them (its
other format has pickle in it), and `checkpoint.json`: the run, the step, and which files there are, how large. A folder
without it was not finished.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from tubelet.nn.collective import from_first, gathered, whoami

CARD = "checkpoint.json"


def usable() -> None:
    """Looks whether this PyTorch can write checkpoints in pieces.

    Raises:
        ValueError: it is too old.
    """
    try:
        import torch.distributed.checkpoint.hf_storage
    except ImportError as error:
        raise ValueError(
            f"--training.checkpoints sharded takes a newer PyTorch than {torch.__version__}; update it, or use full"
        ) from error


def write(folder: Path, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Writes this process's pieces of `tensors`, flushed to the disk; all must call it. The files of all, with sizes.

    Raises:
        OSError: a disk refuses, this process's or another's.
    """
    from torch.distributed.checkpoint import CheckpointException, save
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    try:
        with alone():
            save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise (first if isinstance(first, OSError) else OSError(str(first))) from error
    rank = whoami()[0]
    mine = [(file.name, file.stat().st_size) for file in folder.glob(f"shard-{rank + 1:05d}-*.safetensors")]
    files = dict(sorted(gathered(mine)))
    lacking = from_first(lambda: absent(folder, files))
    if lacking:
        raise OSError(
            f"{len(lacking)} of {len(files)} pieces that processes wrote are not seen by the first ({lacking[0]}): all "
            "must write to one disk that they share"
        )
    return files


def absent(folder: Path, files: Mapping[str, int]) -> list[str]:
    """The files that are not there, or not of their size."""
    return [name for name, size in files.items() if not is_file(folder / name, size)]


def is_file(path: Path, size: int) -> bool:
    """Whether there is a file of that many bytes."""
    return path.is_file() and path.stat().st_size == size


def read(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, after a look whether all of its files are there.

    Raises:
        ValueError: they are not, or it cannot be read.
    """
    try:
        card = json.loads((folder / CARD).read_text())
        lacking = absent(folder, card["files"])
        card["run"], card["step"] = str(card["run"]), int(card["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} cannot be read as a checkpoint ({error}); is it whole?") from error
    if lacking:
        raise ValueError(
            f"{folder} lacks {len(lacking)} of its {len(card['files'])} files, or they were cut: "
            f"{', '.join(lacking[:3])}. A checkpoint in pieces must be on a disk that all nodes "
            "share; copy what is missing"
        )
    return card


def fill(folder: Path, tensors: Callable[[list[str]], Mapping[str, Tensor]], together: bool = True) -> None:
    """Fills the tensors that a function gives for the names in a checkpoint, each process its share; all must call it,
    unless they are not `together`.

    Raises:
        ValueError: names or shapes that differ, or a file that is damaged.
    """
    from torch.distributed.checkpoint import CheckpointException, load
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    try:
        there = reader.read_metadata().state_dict_metadata
        state = dict(tensors(sorted(there)))
        if wrong := sorted(set(there) ^ set(state)):
            raise ValueError(f"these tensors are on one side only: {', '.join(wrong[:5])}")
        with alone():
            load(state, storage_reader=reader, no_dist=not together)
    except (CheckpointException, SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read as a checkpoint of this run ({error})") from error


def loaded(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole, on the CPU of this process.

    Raises:
        ValueError: it is damaged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        there = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read as a checkpoint ({error}); is it whole?") from error
    state = {
        name: torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in there.items()
        if isinstance(about, TensorStorageMetadata)
    }
    fill(folder, lambda _: state, together=False)
    return state


class alone(warnings.catch_warnings):
    """Within it, one process is as good as several, and no warning says so."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
