"""Two processes that share a batch learn what one learns that has it all: every method, in one launch.

Accumulation is the same sum, over parts in place of processes.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shrunk import METHODS, a_batch, small

from tubelet.nn.collective import summed
from tubelet.types import Draws

VIDEOS = 4
ZERO = {("MoCo v3", "encoder.norm.bias")}  # batch norm takes out what is added to all clips; what is left is rounding
WORKER = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_two_processes import METHODS, step
from tubelet.nn.collective import joined

with joined() as (rank, world):
    torch.save({label: step(label, rank, world) for label in METHODS}, Path(sys.argv[2]) / f"{rank}.pt")
os._exit(0)  # gloo may abort when the interpreter ends
"""


def step(label: str, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Loss and gradients of a data-parallel step, of which this process does its share, and what else it leaves."""
    run = small(METHODS[label])
    torch.manual_seed(0)
    method = run.method.build(run.encoder, run.grid(), run.data.channels).train()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # what begins at zero lets nothing through yet
    batch = a_batch(run, VIDEOS)
    share = len(batch.video) // world
    places = range(rank * share, (rank + 1) * share)
    loss = method(batch.clips(places.start, places.stop), Draws(3, 5, places))
    loss.sum.backward()
    count = summed(loss.count.float())
    return {
        "count": count,
        "loss": summed(loss.sum.detach()) / count,
        "gradients": {name: summed(p.grad) / count for name, p in method.named_parameters() if p.grad is not None},
        "buffers": dict(method.named_buffers()),
        "told": loss.told,
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes has after a step of every method."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, script, str(Path(__file__).parent), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (folder / "1.pt").exists(), done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("label", METHODS)
def test_two_processes_learn_what_one_learns(label, shared):
    """Every clip's draws follow its place, and what is compared or normalised over clips is so over all of them."""
    alone = step(label)
    largest = max(float(gradient.abs().max()) for gradient in alone["gradients"].values())
    for found in shared:
        torch.testing.assert_close(found[label]["count"], alone["count"], rtol=0, atol=0)
        torch.testing.assert_close(found[label]["loss"], alone["loss"], rtol=1e-5, atol=0)
        assert found[label]["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            near = 1e-4 * largest if (label, name) in ZERO else 1e-5 * float(gradient.abs().max())
            error = float((found[label]["gradients"][name] - gradient).abs().max())
            assert error < near, name
        torch.testing.assert_close(found[label]["buffers"], alone["buffers"], rtol=1e-5, atol=1e-6)


def test_two_processes_tell_of_all_keys_what_one_tells(shared):
    alone, parts = step("MoCo v3")["told"], [found["MoCo v3"]["told"] for found in shared]
    for part in parts:
        assert float(part["embedding_deviation"]) == pytest.approx(float(alone["embedding_deviation"]), rel=1e-4)
    found = np.mean([float(part["positives_first"]) for part in parts])
    assert found == pytest.approx(float(alone["positives_first"]))
