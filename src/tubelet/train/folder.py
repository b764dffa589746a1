"""The folder of a run: never shared by two, and only resumed by the run that it is of, on the data that it was of."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import tubelet
from tubelet.config import Run, differences, from_json, numbers, read_card, to_json
from tubelet.data.cache import cores
from tubelet.data.datasets import Dataset
from tubelet.data.items import Item
from tubelet.data.mixture import Mixture
from tubelet.data.shards import size_of
from tubelet.data.table import Table
from tubelet.train.checkpoint import atomically, last, refused, void
from tubelet.train.log import metrics, say

LOCK = ".lock"
# What a resumed run may set otherwise: neither the clips nor, but for rounding, the arithmetic depend on it.
FREE = (
    "encoder.checkpoint",
    "training.init",  # what it began with is in the checkpoint
    "training.inflate",
    "training.init_heads",
    "data.images.source",  # as the folder of videos, it may have moved: `same_data` compares what is in it
    *(
        f"training.{name}"
        for name in (
            "workers",
            "patience",
            "threads",
            "device",
            "accumulate",
            "compile",
            "parallel",
            "checkpoints",
            "skip",
            "explosion",
            "save_every",
            "validate_every",
            "keep",
        )
    ),
)


class Lock:
    """Keeps a second process from training in a run folder; it ends with the process that has it, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = FileLock(folder / LOCK, timeout=0)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.release()

    def take(self) -> None:
        """Takes it, if this process has not.

        Raises:
            ValueError: another process has it.
            SaveError: the disk refuses.
        """
        try:
            if not self.file.is_locked:
                self.file.acquire()
        except Timeout:
            raise ValueError(
                f"{self.folder} is in use: another process trains in it (it holds {LOCK} there). Wait for it or "
                "end it, or choose another --out"
            ) from None
        except NotImplementedError:
            say(f"note: {self.folder} is on a file system without locks; see that no other process trains in it")
        except OSError as error:
            raise refused(self.folder / LOCK, error, None) from error


def in_use(folder: Path) -> bool:
    """Whether another process trains in a run folder just now."""
    if not (folder / LOCK).exists():
        return False
    try:
        FileLock(folder / LOCK, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder that is only to be read, or one without locks
        return False
    return False


@contextmanager
def only_here(path: Path) -> Iterator[None]:
    """Within it no other process changes a file to which several add; it waits a minute for them.

    Raises:
        SaveError: the disk refuses, or another process does not end.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=60)
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    except OSError as error:
        raise refused(path, error, path if path.exists() else None) from error
    try:
        yield
    finally:
        lock.release()


def distinct(folders: Sequence[Path]) -> list[str]:
    """The names of folders, with those above them as far as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len({*names}) == len({*parts}):
            return names
    return [str(folder) for folder in folders]


def used(folder: Path, run: Run, resume: bool, lock: Lock) -> list[str] | None:
    """None for a folder to begin in, also anew; for one with a checkpoint of `run`, what is set otherwise now.

    Raises:
        ValueError: the folder is used already, or belongs to another run, or to none.
    """
    if not folder.exists() or (folder.is_dir() and not any(file.name != LOCK for file in folder.iterdir())):
        return None
    card = folder / "run.json"
    if not card.is_file():
        kind = "not empty and has no run.json: it is no run" if folder.is_dir() else "a file"
        raise ValueError(f"{folder} is {kind}. Choose another --out, a folder that is empty or not there")
    if not resume:
        raise ValueError(f"{folder} is not empty; add --resume to go on with that run, or choose another --out")
    lock.take()
    before = begun_in(folder)
    if before is None:
        if (folder / "encoder.safetensors").exists():
            raise ValueError(f"{folder} has an encoder but no checkpoints/last.pt to resume from; choose another --out")
        return None  # it failed before anything was saved: whatever the settings are now, it begins anew
    lines = differences(json.loads(to_json(before)), json.loads(to_json(run)))
    was, is_ = (each.training.accumulate or 1 for each in (before, run))
    fixed = {"training.accumulate"} if getattr(run.method, "draws_by_part", False) and was != is_ else set()
    other = [line for line in lines if line.split(":")[0] not in FREE or line.split(":")[0] in fixed]
    if other:
        raise ValueError(
            f"{folder} holds another run; these settings differ from its own:\n  "
            + "\n  ".join(other[:12])
            + f"\nResume it as it was (with {card} in place of the preset), or start anew with another --out"
        )
    return [f"resumed with {line}" for line in lines]


def begun_in(folder: Path) -> Run | None:
    """The run of a folder that has a checkpoint to go on from; none: there is nothing to go on with."""
    card = folder / "run.json"
    if not card.is_file() or last(folder) is None:
        return None
    run: Run = from_json(json.dumps(read_card(card)["run"]))  # settings that are newer than it get their defaults
    return run


def begun_by_this_launch(folder: Path) -> bool:
    """Whether torchrun starts its processes anew (`--max-restarts`), and the run is one that they had begun."""
    card, launch = folder / "run.json", os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or launch == "none" or not card.is_file():
        return False
    return read_card(card).get("launch") == launch


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """What a resumed run must find again: how many videos, in which order, with which names, sizes, parts and labels.

    A folder may have moved: only the names of the files count, not where they are. A table has a digest of its own,
    without sizes: to ask for those of millions of files takes too long.
    """
    found = {
        "videos": len(dataset.items),
        "places": len(dataset),
        "digest": content(dataset.items, dataset.labels is not None),
    }
    return found | ({} if dataset.pictures is None else {"pictures": fingerprint(dataset.pictures)})


def content(items: Sequence[Item], labelled: bool) -> str:
    """A digest of which videos these are."""
    if isinstance(items, Table):
        return items.digest
    digest = hashlib.sha256()
    if isinstance(items, Mixture):
        for count, source in zip(items.counts, items.sources):
            digest.update(f"{count} {content(source.items, labelled)}\n".encode())
        return digest.hexdigest()
    for item in items:
        size = size_of(item.path)
        part = "" if (item.start, item.end) == (None, None) else f" {item.start} {item.end}"
        label = f" {item.label}" if labelled else ""
        label += f" {item.key}" if item.key is not None else ""
        digest.update(f"{item.path.name} {'missing' if size is None else size}{part}{label}\n".encode())
    return digest.hexdigest()


def same_data(folder: Path, data: dict[str, Any], source: Path | str) -> None:
    """Checks that a run to be resumed has the videos that it had.

    Raises:
        ValueError: others, more, fewer, or changed ones; a run on those is another run.
    """
    card = read_card(folder / "run.json")
    before = card.get("fingerprint", data)
    if before != data:
        if {**before, "pictures": None} == {**data, "pictures": None}:
            then, now = before["pictures"]["videos"], data["pictures"]["videos"]
            raise ValueError(
                f"{folder} was trained on other pictures than data.images.source has now: {then} then, {now} now "
                "(names and sizes are compared). Resume with the pictures as they were, or begin in another --out"
            )
        raise ValueError(
            f"{folder} was trained on {before['videos']} videos of {card['data']}; {source} has {data['videos']}, "
            "and not the same ones (names, sizes and labels are compared; a file that was mended or removed counts "
            "too). Resume with the videos as they were, or start anew with another --out"
        )


def begin(folder: Path, run: Run, source: Path | str, data: dict[str, Any], lock: Lock) -> None:
    """Makes the folder, with the card of the run in it.

    Raises:
        SaveError: the disk refuses.
        ValueError: another run was begun in it in the meantime.
    """
    had = lock.file.is_locked
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error, None) from error
    lock.take()
    if not had and (folder / "run.json").exists():
        raise ValueError(f"another run was begun in {folder} just now; choose another --out")
    card = {
        "run": json.loads(to_json(run)),
        "data": str(source),
        "fingerprint": data,
        "command": sys.argv,
        "launch": os.environ.get("TORCHELASTIC_RUN_ID"),
        "made_with": machine(),
    }
    text = json.dumps(card, indent=1).encode()
    atomically(folder / "run.json", lambda file: void(file.write(text)))


def unfinished(weights: Path) -> list[str]:
    """A note where the run that `weights` (its folder or a file of it) are of was stopped before its end."""
    folder = weights if weights.is_dir() else weights.parent
    if not (folder / "run.json").is_file() or not (folder / "metrics.jsonl").is_file():
        return []  # weights by themselves
    card = read_card(folder / "run.json")
    done = int(metrics(folder)[-1]["step"])
    steps = numbers(from_json(json.dumps(card["run"])), card["fingerprint"]["places"]).steps
    if done >= steps:
        return []
    return [f"{weights} is of a run that has done {done} of its {steps} steps; go on with it: --resume"]


def machine() -> dict[str, Any]:
    """What a number depends on: versions, processor, date."""
    return {
        "tubelet": tubelet.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": datetime.now().isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The processor's name, as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
