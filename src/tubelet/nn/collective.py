"""What processes of one job share: who they are, whose turn an item is, and everybody's results in one place."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

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


def gathered_rows(rows: Shaped[Tensor, "b ..."]) -> tuple[Shaped[Tensor, "g ..."], int]:
    """The rows of all processes, by rank, without gradient, and the place of this process's first among them.

    All processes must have equally many.
    """
    rows, (rank, world) = rows.detach(), whoami()
    if world == 1:
        return rows, 0
    parts = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts), rank * len(rows)


def summed(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all processes, through which gradients flow back to each process's own part."""
    return values if whoami()[1] == 1 else _Summed.apply(values)


class _Summed(torch.autograd.Function):
    """All losses depend on the sum, so its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
