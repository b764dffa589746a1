"""Reading files of weights safely: nothing in them is carried out, and nothing is allocated that they do not hold."""

import argparse
import json
import math
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tubelet.weights.args import args_of
from tubelet.weights.claims import checked
from tubelet.weights.hub import fetched, on_hub

HEADER = 100_000_000  # bytes; the largest header that safetensors allows
SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")  # of transformers; the first is heeded
NAMES = ("model.safetensors", "encoder.safetensors", "pytorch_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
DEEPSPEED = "mp_rank_00_model_states.pt"
# Where weights lie in a training state; the first that is there is taken. V-JEPA evaluates its target encoder.
CONTAINERS = ("model", "module", "model_state", "state_dict", "target_encoder", "encoder")
DEEP = 4  # containers in containers that are opened; a pickle may hold itself
COMPILED = "_orig_mod."
PREFIXES = ("module.", COMPILED, "backbone.", "model.")
# What training states hold beside tensors, and cannot do anything: settings, and numbers of numpy.
HARMLESS: list[Any] = [argparse.Namespace, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]
SCALAR = [(np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Archive:
    """The tensors of a file, and what lies beside them."""

    path: Path
    state: dict[str, Tensor]
    about: dict[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself."""
    config: dict[str, Any] = field(default_factory=dict)
    """The config.json beside it, of a folder of transformers or timm."""
    processor: dict[str, Any] = field(default_factory=dict)
    """What a file of PROCESSORS beside that says of pixels."""
    notes: tuple[str, ...] = ()
    """What was unwrapped."""
    args: dict[str, Any] = field(default_factory=dict)
    """What of the `args` beside the weights is known (weights/args.py)."""
    name: str = ""
    """What it is called elsewhere: the file, with the folder if that was given, or hub:OWNER/NAME@COMMIT."""


def read(path: Path | str) -> Archive:
    """The tensors of a file (safetensors, .pth, .pt, .bin), of a folder of transformers or of DeepSpeed, or of the hub.

    Tensors of safetensors and of today's torch files are mapped, not copied. Containers and prefixes that training
    leaves behind are taken off, and that is noted.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that cannot be read, or must not be.
    """
    asked, path = path, chosen(fetched(path))
    if path.name.endswith(".index.json"):
        found: tuple[Any, dict[str, str]] = sharded(path), {}
    else:
        found = tensors_of(path)
    notes: list[str] = []
    state = plain(path, found[0], notes)
    config = settings(path.parent / "config.json")
    config = config if {"model_type", "architecture"} & set(config) else {}  # transformers, timm
    said = (settings(path.parent / name) for name in PROCESSORS if config)
    processor: dict[str, Any] = next(filter(None, said), {})
    return Archive(path, state, found[1], config, processor, tuple(notes), args_of(found[0]), called(asked, path))


def called(asked: Path | str, file: Path) -> str:
    """What a file is called where the folders of this machine are not known."""
    if on_hub(asked):
        snapshot = file.parts[: file.parts.index("snapshots") + 2] if "snapshots" in file.parts else ()
        return Path(asked).as_posix().partition("@")[0] + "".join(f"@{commit}" for commit in snapshot[-1:])
    return f"{file.parent.resolve().name}/{file.name}" if Path(asked).is_dir() else file.name


def chosen(path: Path) -> Path:
    """The file to read of a path: itself, or one of a folder.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a DeepSpeed folder that leads out of itself.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no such file: {path}")
    latest = path / "latest"
    inner = latest.read_text(encoding="utf-8", errors="replace").strip() if latest.is_file() else "."
    if not safe(inner):
        raise ValueError(f"{latest} leads out of its folder, to {inner!r}; give the file of weights itself")
    for file in [*(path / name for name in NAMES + INDICES), path / DEEPSPEED, path / inner / DEEPSPEED]:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{path} holds none of {', '.join((*NAMES, *INDICES, DEEPSPEED))}; give the file of weights itself"
    )


def safe(name: str) -> bool:
    """Whether a name stays where it is: no absolute path, no drive, no way up."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    return not any(path.is_absolute() or path.drive or path.root or ".." in path.parts for path in paths)


def settings(path: Path) -> dict[str, Any]:
    """A small JSON file, or nothing where there is none.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); mend it, or move it away") from error
    return found if isinstance(found, dict) else {}


def sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of several files that an index lists.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: the index leads out of its folder, or does not say what is in the files.
    """
    listed = settings(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{index} has no weight_map; it is no index of sharded weights")
    files = sorted({str(name) for name in listed.values()})
    if wrong := [name for name in files if not safe(name) or len(PurePosixPath(name).parts) != 1]:
        raise ValueError(f"{index} leads out of its folder, to {wrong[0]!r}; it was not followed")
    state: dict[str, Tensor] = {}
    for name in files:
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} lists {name}, which is not there; fetch all {len(files)} files")
        state |= tensors_of(index.parent / name)[0]
    if set(state) != set(listed):
        wrong = sorted(set(state) ^ set(listed))
        raise ValueError(f"{index} and its files disagree about {len(wrong)} tensors, as {wrong[0]}; fetch them again")
    return state


def tensors_of(path: Path) -> tuple[Any, dict[str, str]]:
    """What is in one file, told by its first bytes, and what it says of itself.

    Raises:
        ValueError: a file that cannot be read, or must not be.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return from_safetensors(path)
    if start[:4] == b"PK\x03\x04":
        return from_torch(path, zipped=True), {}
    if start[:1] == b"\x80":
        return from_torch(path, zipped=False), {}
    raise ValueError(
        f"{path} is neither safetensors nor a file of torch.save (it begins with {start!r}); is it whole, and no web "
        "page or pointer of git-lfs?"
    )


def from_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, mapped, and its metadata; the header is held against the file first.

    Raises:
        ValueError: damaged, or the header claims more than there is.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(HEADER, size - 8):
            raise ValueError(
                f"{path} claims a header of {length} bytes, but has {size} in all; it is cut off or forged"
            )
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            ends = [(name, *entry["data_offsets"]) for name, entry in entries.items()]
            claims = {name: math.prod(entry["shape"]) * SIZES.get(entry["dtype"], 0) for name, entry in entries.items()}
            if odd := [name for name, *places in ends if [type(one) for one in (*places, claims[name])] != [int] * 3]:
                raise TypeError(f"{odd[0]} has no place and size in whole numbers")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} has a damaged header ({type(error).__name__}: {error}); fetch it again"
            ) from error
    for name, begin, end in ends:
        if end > size - 8 - length or begin > end or begin < 0 or claims[name] > end - begin:
            raise ValueError(
                f"{path}: {name} claims {max(claims[name], end - begin)} bytes up to byte {end}, but the file holds "
                f"{size - 8 - length} bytes of tensors; it is cut off or forged: fetch it again"
            )
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); is it whole?") from error


def from_torch(path: Path, zipped: bool) -> Any:
    """What torch.save wrote, if it is data and nothing else.

    It is gone through without its values first, so that nothing is allocated that the file does not hold.

    Raises:
        ValueError: it names code, claims more than it holds, plays tricks with paths, or is damaged.
    """
    if zipped:
        members(path)
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in HARMLESS} | {name for _, name in SCALAR}
    checked(path, zipped, names)
    try:
        with torch.serialization.safe_globals([*HARMLESS, *SCALAR]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pickles of another protocol, which may be read all the same
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # whatever a damaged file makes of torch, assertions too
        raise ValueError(f"{path} cannot be read ({str(error).partition(chr(10))[0][:160]}); is it whole?") from error


def members(path: Path) -> None:
    """Checks the table of a zip archive: plain names, each once, stored, and no more bytes than the file has.

    Raises:
        ValueError: something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise ValueError(f"{path} is a damaged archive ({error}); fetch it again") from error
    names = [entry.filename for entry in entries]
    if wrong := [name for name in names if not safe(name)]:
        raise ValueError(f"{path} has a member {wrong[0]!r}, which leads out of the archive; it was refused")
    if len({*names}) < len(names):
        raise ValueError(f"{path} has two members of one name; it was refused")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{path} is a compressed archive, which torch.save never writes; it was refused")
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if total > size:
        raise ValueError(f"{path} claims {total} bytes in its members, but has {size}; it was refused")
    if any(name.endswith("constants.pkl") for name in names):
        raise ValueError(
            f"{path} is a TorchScript program; save its state dict instead: torch.save(m.state_dict(), ...)"
        )


def container(found: Any, deep: int = DEEP) -> str | None:
    """The first of the known names in what a training kept under which tensors lie, or again a container."""
    if not isinstance(found, dict) or not deep:
        return None
    return next(
        (name for name in CONTAINERS if by_name(found.get(name)) or container(found.get(name), deep - 1)),
        None,
    )


def by_name(found: Any) -> bool:
    """Whether these are tensors by name, perhaps with other things between them."""
    return isinstance(found, dict) and any(isinstance(value, Tensor) for value in found.values())


def plain(path: Path, found: Any, notes: list[str]) -> dict[str, Tensor]:
    """The tensors in what a file holds, out of their containers and without the prefixes of wrappers.

    Raises:
        ValueError: there are none, or two become one.
    """
    for _ in range(DEEP):
        if (inner := container(found)) is None:
            break
        used = {inner, "args"} if args_of(found) else {inner}
        beside = [
            f"{name} (a tensor)" if isinstance(value, Tensor) else str(name)
            for name, value in found.items()
            if name not in used
        ]
        more = f" and {len(beside) - 8} more" if len(beside) > 8 else ""
        said = f"; beside it and not used: {', '.join(beside[:8])}{more}" if beside else ""
        notes.append(f"read {inner!r}{said}")
        found = found[inner]
    if not by_name(found):
        what = f"a {type(found).__name__}" if not isinstance(found, dict) else f"{', '.join(map(str, [*found][:8]))}"
        raise ValueError(
            f"{path} holds no weights that are known ({what}); expected tensors by name, or one of "
            f"{', '.join(CONTAINERS)}"
        )
    state: dict[str, Tensor] = {}
    stripped: dict[str, int] = {}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            notes.append(f"{name} is no tensor ({type(value).__name__}) and was not used")
            continue
        if not value.numel():
            raise ValueError(
                f"{path}: {name} is empty, as where DeepSpeed spread the weights over processes (ZeRO 3); put them "
                "together first with its zero_to_fp32.py"
            )
        new = str(name)
        while prefix := next((one for one in PREFIXES if new.startswith(one) or f".{COMPILED}" in new), None):
            prefix = COMPILED if COMPILED in new else prefix  # of torch.compile, which may stand anywhere
            new = new.replace(prefix, "", 1)
            stripped[prefix] = stripped.get(prefix, 0) + 1
        if new in state:
            raise ValueError(f"{path}: two tensors are called {new} once the prefixes of wrappers are off; keep one")
        state[new] = value
    notes += [f"took {prefix!r} off {count} names" for prefix, count in stripped.items()]
    return state
