"""What processes of one job share: who they are, whose turn an item is, and everybody's results in one place."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """(rank, processes) of this process among those that torchrun started; (0, 1) without torchrun.

    Results are objects on the CPU, so the processes talk by gloo whatever they compute on.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or dist.is_initialized():
        yield whoami()
        return
    dist.init_process_group("gloo")
    try:
        yield whoami()
    finally:
        dist.destroy_process_group()


def whoami() -> tuple[int, int]:
    """(rank, processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(count: int) -> range:
    """The places, of `count`, that are this process's: every one is somebody's, and nobody else's."""
    rank, world = whoami()
    return range(rank, count, world)


def gathered(results: Sequence[T]) -> list[T]:
    """The results of all processes, by rank, on every one of them."""
    if whoami()[1] == 1:
        return list(results)
    parts: list[Sequence[T]] = [[] for _ in range(whoami()[1])]
    dist.all_gather_object(parts, results)
    return [result for part in parts for result in part]
