"""Many processes that train one network: who holds what of it, and when they talk.

`ddp` (the default) has all of it on every process and averages gradients; `fsdp` (FSDP2, `fully_shard`) has on each its
share of weights, gradients and moments, and gathers a block when it is needed. Either way a step is that of one process
with the whole batch: its sums are over all of them (docs/scaling.md).
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tubelet.nn.attention import Block
from tubelet.nn.collective import gathered, summed, whoami
from tubelet.nn.cross import CrossBlock
from tubelet.train.signals import Elsewhere, Signals
from tubelet.types import Batch, Draws, Loss, Method


class Spread:
    """A method on all processes; on one it is the method itself."""

    def __init__(self, method: Method, parallel: Literal["ddp", "fsdp"], device: torch.device) -> None:
        self.method = method
        self.module: Any = method
        if whoami()[1] == 1:
            return
        if parallel == "ddp":
            ids = [device] if device.type == "cuda" else None
            with warnings.catch_warnings():  # PyTorch 2.13 would call it otherwise, 2.6 does not know how
                warnings.filterwarnings("ignore", message=".*broadcast_buffers")
                # running statistics are the same everywhere already (`nn.batch_norm`)
                self.module = DistributedDataParallel(
                    method, ids, broadcast_buffers=False, gradient_as_bucket_view=True
                )
            return
        from torch.distributed.device_mesh import init_device_mesh  # a second's import
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (whoami()[1],))
        for part in method.modules():
            if isinstance(part, Block | CrossBlock):
                fully_shard(part, mesh=mesh)
        fully_shard(method, mesh=mesh)

    def __call__(self, batch: Batch, draws: Draws) -> Loss:
        """The loss of this process's clips."""
        return self.module(batch, draws)

    def part(self, last: bool) -> AbstractContextManager[object]:
        """What a part of a step runs in: only the last one's backward pass has the processes talk about gradients."""
        if hasattr(self.module, "set_requires_gradient_sync"):  # FSDP2's
            self.module.set_requires_gradient_sync(last)
        elif isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it each process has the whole network, and may call its parts as often as it likes, by itself."""
        shares: list[Any] = [module for module in self.method.modules() if hasattr(module, "unshard")]
        for module in shares:  # FSDP2's
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in shares:
                module.set_reshard_after_forward(module is not self.method, recurse=False)
                module.reshard()


def alone(method: Method) -> Spread:
    """A method that one process trains, as it is."""
    return Spread(method, "ddp", torch.device("cpu"))


# ---------------------------------------------------------------------------- numbers of a step


def averaged(count: Tensor) -> Tensor:
    """The mean over processes, by which each divides its sum: gradients are averaged over processes afterwards."""
    world = whoami()[1]
    return count if world == 1 else summed(count.float()) / world


def totals(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums over all processes, in one exchange."""
    if whoami()[1] == 1:
        return dict(values)
    together = summed(torch.stack([value.double() for value in values.values()]))
    return dict(zip(values, together.unbind()))


# ---------------------------------------------------------------------------- in step


def in_step(stream: Iterator[Batch], signals: Signals) -> Iterator[Batch]:
    """The batches of this process, each when every process has its own, with the notes of all.

    What one cannot read ends all of them, and a signal that one gets is known to all, so that all stop after the same
    step. If what reads is ended by the same signal (schedulers send it to every process of a job), the stream is over.

    Raises:
        Exception: what this process's stream raised.
        Elsewhere: another process's did.
    """
    while True:
        batch, problem = None, None
        try:
            batch = next(stream, None)
        except Exception as error:
            problem = None if signals.heard else error
        if whoami()[1] == 1:
            together(problem)
            if batch is None:
                return
            yield batch
            continue
        notes = () if batch is None else batch.notes
        told = torch.tensor([signals.heard, problem is not None, batch is None, bool(notes)], dtype=torch.int64)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        signals.agreed = int(told[0])
        if told[1]:
            together(problem)
        if told[2] or batch is None:
            return
        yield replace(batch, notes=tuple(gathered(notes))) if told[3] else batch


def together(problem: Exception | None) -> None:
    """Ends all processes if one has met a problem; all must call it.

    Raises:
        Exception: this process's problem.
        Elsewhere: another's.
    """
    if whoami()[1] == 1:
        if problem is not None:
            raise problem
        return
    reasons = gathered([None if problem is None else f"{type(problem).__name__}: {problem}"])
    if problem is not None:
        raise problem
    named = [f"process {rank} of {len(reasons)}: {reason}" for rank, reason in enumerate(reasons) if reason]
    if named:
        raise Elsewhere("\n".join(named))
