"""--gpus N: the same command again in N processes of this machine, as torchrun would start them."""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

TAIL = 20  # lines shown of what a process said that failed


def several() -> bool:
    """Whether this is one of several processes that torchrun, srun or --gpus started."""
    said = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1"
    return said.isdigit() and int(said) > 1


def asked(gpus: int) -> bool:
    """Whether so many processes are to be started here.

    Raises:
        ValueError: fewer than one; or they are started already, and not as many.
    """
    if gpus < 1:
        raise ValueError(f"--gpus {gpus}: at least one process")
    if several() and gpus > 1 and os.environ.get("WORLD_SIZE") != str(gpus):
        raise ValueError(f"--gpus {gpus} starts processes, and this is one of several already; leave it out")
    return gpus > 1 and not several()


def launched(processes: int, arguments: Sequence[str], device: str | None) -> int:
    """Carries out `tubelet ARGUMENTS` in so many processes; the exit code of the first that failed.

    The first one has this terminal; what the others say goes to files, which are shown in part if one fails, and kept.
    On a signal all have five minutes to save (with PyTorch before 2.8 thirty seconds).

    Raises:
        ValueError: more processes than GPUs.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from tubelet.data.cache import cores

    there = torch.cuda.device_count()
    if not (device or "auto").startswith("cpu") and processes > there:
        have = f"this machine has {there} GPU{'s' * (there != 1)}"
        raise ValueError(f"--gpus {processes}, but {have}; ask for as many, or for processes on the CPU: --device cpu")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores() // processes, 1)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it tells of every process that it ends
    logs = Path(tempfile.mkdtemp(prefix="tubelet-processes-"))
    newer: dict[str, Any] = {"signals_to_handle": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}
    if not newer.keys() <= {field.name for field in fields(LaunchConfig)}:  # PyTorch 2.6 handles all but SIGUSR1
        newer = {}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        run_id=f"tubelet-{os.getpid()}",
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, processes), Std.ALL)),
        **newer,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "tubelet", *arguments)
    except SignalException as error:
        shutil.rmtree(logs, ignore_errors=True)
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        if rank == 0 and first.exitcode > 0:  # which has said itself why
            shutil.rmtree(logs, ignore_errors=True)
        else:
            print(failure(rank, processes, first.exitcode, logs), file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    shutil.rmtree(logs, ignore_errors=True)
    return 0


def failure(rank: int, processes: int, code: int, logs: Path) -> str:
    """What there is to say about a process that failed first."""
    died = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    said = sorted(logs.glob(f"**/{rank}/stderr.log"))
    lines = said[-1].read_text(errors="replace").splitlines()[-TAIL:] if said else []
    text = "".join(f"\n  {line}" for line in lines)
    return f"tubelet: process {rank} of {processes} {died}; logs of all but the first: {logs}{text}"
