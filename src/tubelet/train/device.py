"""The machine of a run: device, arithmetic, reading processes, threads, memory of the C library."""

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tubelet.config import Run
from tubelet.data.cache import cores, free_memory
from tubelet.nn.collective import local, whoami


def pick_device(name: str) -> torch.device:
    """The device of a name; auto takes CUDA, then MPS, then the CPU. Each of several processes gets a GPU of its own.

    Raises:
        ValueError: there is no such device here.
    """
    rank, several = local()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    if not here.get(kind, False):
        there = [k for k, usable in here.items() if usable]
        raise ValueError(f"device {name!r} cannot be used here; there is: {', '.join(there)} (or auto)")
    if several > 1 and kind == "mps":
        raise ValueError("device mps computes for one process only; start one, or use --device cpu")
    if several > 1 and kind == "cuda":  # one for each process; where a scheduler shows each its own, the only one
        count = torch.cuda.device_count()
        if name != "cuda":
            raise ValueError(f"{several} processes cannot all have {name!r}; name no number: --device cuda")
        if 1 < count < several or (count == 1 and "SLURM_LOCALID" not in os.environ):
            raise ValueError(f"{several} processes, but this machine has {count} GPUs; start as many")
        name = f"cuda:{rank if count > 1 else 0}"
        torch.cuda.set_device(name)
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} cannot be used; expected a kind and a number, as cuda:1") from error


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic to use; auto is bfloat16 where the processor has instructions for it, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if has else torch.float32


def pick_workers(run: Run) -> int:
    """Processes that read for this one; -1 leaves one core to the step, and takes no more than half of the free memory
    holds. Processes that train on one machine share its cores and its memory.

    Each has up to two batches ready, and large batches of large clips are gigabytes.
    """
    if run.training.workers >= 0:
        return run.training.workers
    (_, several), free = local(), free_memory()
    mine = cores() // several
    fit = mine if free is None else int(free / 2 / (2 * batch_bytes(run) / whoami()[1]) / several)
    return max(min(mine - 1, fit), 1)


def batch_bytes(run: Run) -> int:
    """Main memory of a batch of clips, uint8."""
    clips, pixels = run.training.batch * run.data.per_video, run.data.clip.frames * math.prod(run.data.size)
    return clips * pixels * run.data.channels // (2 if run.data.yuv else 1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets PyTorch use `count` threads for a while; 0 leaves their number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """From now on the C library keeps freed memory for the next step; glibc only, other systems are left alone.

    A step on a CPU asks for the same large blocks every time, by default each a mapping of its own that the kernel must
    fill with zeros, page by page: a fifth to a third of a step of transformers' VideoMAE (benchmarks/step.csv). Blocks
    over 1 GiB, as a cache of frames, still come and go by themselves; before glibc 2.35 those over 32 MiB do.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3  # names and numbers of malloc.h
        if libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(mmap_threshold, 2**25):
            libc.mallopt(trim_threshold, 2**31 - 1)
