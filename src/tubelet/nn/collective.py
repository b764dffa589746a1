"""What processes of one job share: who they are, whose turn an item is, and everybody's results in one place."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """(rank, processes) of this process among those that torchrun, or SLURM's srun, started; (0, 1) where neither did.

    Objects and tensors on the CPU go by gloo, tensors on CUDA by NCCL.

    Raises:
        ValueError: the environment says that there are others, but not where.
    """
    environment = os.environ | of_slurm(os.environ)
    if int(environment.get("WORLD_SIZE") or "1") == 1 or dist.is_initialized():
        yield whoami()
        return
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - set(environment):
        raise ValueError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(sorted(missing))} is not set; start the "
            "processes with torchrun, srun or --gpus, or unset WORLD_SIZE"
        )
    os.environ.update(environment)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, **of_attempt(environment))
    try:
        yield whoami()
    finally:
        dist.destroy_process_group()


def of_attempt(environment: Mapping[str, str]) -> dict[str, Any]:
    """Where processes meet that torchrun starts anew; nothing where PyTorch's own way is right.

    torchrun keeps its store over restarts, and in it the addresses of processes that are gone, which PyTorch 2.13
    would connect to.
    """
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    store = dist.TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), world, is_master=False)
    return {"store": dist.PrefixStore(f"attempt_{attempt}", store), "rank": rank, "world_size": world}


def of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would have set, for a process of a job step of SLURM that has several; else nothing.

    An sbatch script itself, or a shell of salloc, is no job step of several, whatever the job has asked for. The first
    node of the step is where the processes meet, at a port that follows from the number of the job.
    """
    if environment.get("WORLD_SIZE") or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return {}
    said = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": first_count(environment.get("SLURM_STEP_TASKS_PER_NODE", "1")),
        "MASTER_ADDR": first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(20000 + int(environment["SLURM_JOB_ID"]) % 20000),
    }
    return {name: environment.get(name, value) for name, value in said.items()}


def first_host(nodes: str) -> str:
    """The first of the nodes that SLURM lists.

    >>> first_host("gpu[007-009,12],login1"), first_host("a1-b,a2")
    ('gpu007', 'a1-b')
    """
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def first_count(counts: str) -> str:
    """Processes on the first node.

    >>> first_count("8(x4),2")
    '8'
    """
    return re.split(r"[(,]", counts)[0]


def local() -> tuple[int, int]:
    """(rank, processes) of this process on its own machine."""
    if whoami()[1] == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


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


def from_first(act: Callable[[], T]) -> T:
    """What the first process finds, on all of them; if it fails, all do.

    Raises:
        Exception: what `act` raised, on every process.
    """
    if whoami()[1] == 1:
        return act()
    found: list[Any] = [None, None]
    if whoami()[0] == 0:
        try:
            found[0] = act()
        except Exception as error:
            found[1] = error
            dist.broadcast_object_list([None, error])
            raise
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise of_all(found[1])
    return found[0]


def of_all(error: Exception) -> Exception:
    """An error that all processes raise alike: the first of them says it."""
    error.of_all = True  # type: ignore[attr-defined]
    return error


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


# ---------------------------------------------------------------------------- tensors that are spread over processes


def plain(value: Tensor) -> Tensor:
    """The whole of a tensor of which each process may have a share only; all processes must ask."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # a DTensor, whose import takes a second


def put(target: Any, value: Tensor) -> None:
    """Copies a whole tensor into one of which this process may have a share only."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)


def whole(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which each process has a share, gathered one by one in the first process's main memory; others as
    they are. All processes must call it."""
    found = {}
    for name, value in values.items():
        gathered = plain(value)
        if whoami()[0] == 0:
            found[name] = value if gathered is value else gathered.cpu()
    return found
