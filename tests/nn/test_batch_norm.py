"""Batch norm against torch's own, in one process and in two; what two processes gather."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from tubelet.nn.batch_norm import BatchNorm, perceptron
from tubelet.nn.collective import gathered_rows, summed

WORKER = """
import os, sys
from pathlib import Path
import torch
from tubelet.nn.batch_norm import BatchNorm
from tubelet.nn.collective import gathered_rows, joined

x, weights = torch.load(sys.argv[1])
with joined() as (rank, world):
    mine = slice(0, 4) if rank == 0 else slice(4, 10)  # processes may have unlike shares
    norm = BatchNorm(x.shape[1])
    part = x[mine].clone().requires_grad_()
    out = norm(part)
    (out * weights[mine]).sum().backward()
    rows, first = gathered_rows(part[:4])
    torch.save(
        [out.detach(), part.grad, norm.weight.grad, norm.state_dict(), rows, first, rows.requires_grad],
        Path(sys.argv[1]).parent / f"{rank}.pt",
    )
os._exit(0)  # gloo may abort when the interpreter ends
"""


def test_one_process_normalises_as_torch_does():
    torch.manual_seed(0)
    x, own, theirs = torch.randn(8, 5) * 3 + 1, BatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(own(x), theirs(x))
    assert own.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(own.state_dict(), theirs.state_dict())
    torch.testing.assert_close(own.eval()(x), theirs.eval()(x))
    assert own(x.bfloat16()).dtype == torch.float32


def test_two_processes_normalise_as_one_with_all_rows(tmp_path):
    torch.manual_seed(0)
    x, weights = torch.randn(10, 5) * 3 + 100, torch.randn(10, 5)  # far from zero, where careless sums cancel
    torch.save([x, weights], tmp_path / "x.pt")
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launch, script, str(tmp_path / "x.pt")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    norm, whole = nn.BatchNorm1d(5), x.clone().requires_grad_()
    out = norm(whole)
    (out * weights).sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in found]), out.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), whole.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][2] + found[1][2], norm.weight.grad, rtol=1e-4, atol=1e-5)
    for rank, part in enumerate(found):
        torch.testing.assert_close(part[3], norm.state_dict(), rtol=1e-5, atol=1e-6)
        assert torch.equal(part[4], torch.cat([x[:4], x[4:8]]))
        assert part[5:] == [4 * rank, False]


def test_alone_all_rows_are_ours():
    x = torch.randn(3, 2, requires_grad=True)
    rows, first = gathered_rows(x)
    assert torch.equal(rows, x.detach())
    assert (first, rows.requires_grad) == (0, False)
    assert summed(x) is x


@pytest.mark.parametrize("widths", [(6, 8, 8, 4), (4, 8, 4)])
def test_projector_and_predictor_have_the_released_layers(widths):
    made = perceptron(widths)
    linear = [layer for layer in made if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(widths))
    assert all(layer.bias is None for layer in linear)
    norms = [layer for layer in made if isinstance(layer, BatchNorm)]
    assert [norm.affine for norm in norms] == [True] * (len(linear) - 1) + [False]
    assert [type(layer).__name__ for layer in made] == (["Linear", "BatchNorm", "ReLU"] * len(linear))[:-1]
