"""What a file of torch.save claims, held against what it has, before torch reads it.

Its pickle is gone through with stand-ins: nothing that it names is called, and nothing of the sizes it tells is made.
"""

import io
import math
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Set
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

# Bytes of an element, by the storages that torch names.
BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
BYTES |= {"Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1}
BASIC = {f"{builtins}.{name}" for builtins in ("builtins", "__builtin__") for name in ("set", "complex")}
BASIC |= {"_codecs.encode", "torch.Size", "torch.device", "torch.serialization._get_layout"}
BYTEARRAY8 = pickle.BYTEARRAY8[0]  # takes memory for what it only announces
PARTS = 5  # of a file before torch 1.6: a number, a version, the system, what was saved, the list of storages


class Refused(ValueError):
    """A file that claims more than it holds, or that is not only data."""


class Stored(NamedTuple):
    """A storage, or a tensor in it: the bytes that it claims, and those of an element."""

    total: int
    each: int


class Ignored:
    """Stands for settings and numbers beside the weights."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Claims(pickle._Unpickler):
    """Reads a pickle without making anything of it; `storages` are the bytes that each storage claims.

    Of the two that Python has, the one in Python: the other takes memory for what a pickle only announces.
    """

    dispatch: ClassVar = {code: act for code, act in pickle._Unpickler.dispatch.items() if code != BYTEARRAY8}

    def __init__(self, file: Any, path: Path, harmless: Set[str]) -> None:
        super().__init__(file, encoding="utf-8")
        self.path, self.harmless = path, BASIC | harmless
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for something that is named.

        Raises:
            Refused: it is neither a tensor nor known to do no harm.
        """
        full = f"{module}.{name}"
        if module in ("torch", "torch.storage") and name.removesuffix("Storage") in BYTES:
            return BYTES[name.removesuffix("Storage")]
        if module == "torch" and isinstance(kind := vars(torch).get(name), torch.dtype):
            return kind
        if full in ("collections.OrderedDict", "collections.Counter"):
            return OrderedDict
        if full in (f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")):
            return self.tensor
        if full in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return lambda tensor, *_: tensor
        if full in self.harmless:
            return Ignored
        raise Refused(
            f"{self.path} does not only hold tensors: it wants code to run or classes to be made ({full}). It was "
            "refused, and nothing in it ran. Ask for a safetensors file; or, if you trust whoever wrote it, save its "
            "state dict alone where it was made"
        )

    def persistent_load(self, pid: Any) -> Stored:
        """The storage that is named so."""
        _, each, key, _, count, *_ = pid
        self.storages[key] = max(self.storages.get(key, 0), count * each)
        return Stored(count * each, each)

    def tensor(self, stored: Stored, offset: int, shape: Any, steps: Any, *others: Any) -> Stored:
        """A tensor in a storage.

        Raises:
            Refused: it reaches out of it.
        """
        each = next((other.itemsize for other in others if isinstance(other, torch.dtype)), stored.each)
        reach = 1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True)) if all(shape) else 0
        need = max(math.prod(shape), offset + reach) * each
        if need > stored.total or min((offset, *shape, *steps)) < 0:
            raise Refused(
                f"{self.path} has a tensor of shape {tuple(shape)}, steps {tuple(steps)} and offset {offset} that "
                f"claims {need} bytes of a storage of {stored.total}; it was refused"
            )
        return Stored(need, each)


def checked(path: Path, zipped: bool, harmless: Set[str]) -> None:
    """Goes through a file of torch.save without making anything of it; `harmless` are names that may be in it.

    Raises:
        ValueError: it names something else, claims more than it holds, or is damaged.
    """
    try:
        if zipped:
            held_by_members(path, harmless)
        else:
            held_behind(path, harmless)
    except Refused:
        raise
    except Exception as error:  # whatever a broken pickle makes of one who reads it
        why = str(error).partition("\n")[0][:160] or type(error).__name__
        raise ValueError(f"{path} cannot be read ({why}); is it whole?") from error


def held_by_members(path: Path, harmless: Set[str]) -> None:
    """Checks an archive: a storage is no larger than its member."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        claims = Claims(io.BytesIO(archive.read(f"{root}/data.pkl")), path, harmless)
        claims.load()
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    for key, total in claims.storages.items():
        if total > (held := sizes.get(f"{root}/data/{key}", 0)):
            raise Refused(
                f"{path} claims {total} bytes for its storage {key}, but holds {held} of it; it is cut off or forged: "
                "fetch it again"
            )


def held_behind(path: Path, harmless: Set[str]) -> None:
    """Checks a file of torch before 1.6: all storages fit into what follows their list, each after its length."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        claims = Claims(mapped, path, harmless)
        for _ in range(PARTS):
            claims.load()
        held = len(mapped) - mapped.tell()
    if (total := sum(8 + size for size in claims.storages.values())) > held:
        raise Refused(
            f"{path} claims {total} bytes for its {len(claims.storages)} storages, but holds {held} behind their list; "
            "it is cut off or forged: fetch it again"
        )
