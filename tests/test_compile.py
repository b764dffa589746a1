"""torch.compile of encoder and decoder gives the same loss. Run apart: the shape checks break fullgraph compilation."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tubelet.config import Run, preset
from tubelet.data.synthetic import make
from tubelet.nn.decoder import Decoder
from tubelet.train.log import metrics
from tubelet.train.loop import COMPILED, train
from tubelet.types import Batch, Draws

sys.path.insert(0, str(Path(__file__).parent / "methods"))
from shrunk import METHODS, a_batch
from shrunk import small as shrunk_preset

pytestmark = [
    pytest.mark.compile,
    pytest.mark.filterwarnings("ignore"),  # torch warns about its own parts when it compiles
    pytest.mark.skipif(
        os.environ.get("JAXTYPING_DISABLE") != "1", reason="needs JAXTYPING_DISABLE=1: make test runs it"
    ),
]


def small() -> Run:
    run = preset("videomae-demo")
    shape = replace(run.encoder, width=32, depth=1, heads=2, hidden=64)
    return replace(run, encoder=shape, method=replace(run.method, decoder=Decoder(16, 1, 2)))


def test_compiled_parts_are_one_graph_and_give_the_same_loss_and_gradients():
    run = small()
    batch = Batch(torch.randint(0, 256, (4, 3, 8, 32, 32), dtype=torch.uint8), torch.arange(4))
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        method = run.method.build(run.encoder, run.grid(), 3)
        if compiled:
            method.encoder.compile(fullgraph=True)
            method.decoder.compile(fullgraph=True)
        loss = method(batch, Draws(0, 0, range(4)))
        loss.sum.backward()
        results.append((float(loss.sum.detach()), [p.grad.norm() for p in method.parameters()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path):
    """In clips as many as above, for which torch has the code already."""
    videos = make(tmp_path / "videos", 8, workers=1)
    run = small()
    losses = []
    for compiled in (False, True):
        settings = replace(run.training, epochs=1, batch=4, workers=0, precision="float32", compile=compiled)
        folder = train(replace(run, training=settings), videos, tmp_path / f"run{compiled}", quiet=True)
        losses.append([line["loss"] for line in metrics(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def rotary() -> Run:
    run = small()
    return replace(run, encoder=replace(run.encoder, position="rotary"))


@pytest.mark.parametrize("label", [*METHODS, "rotary positions"])
def test_each_part_of_every_method_is_one_graph(label):
    """With autograd's graph and without a code generator, which the test above has, and which takes half a minute.

    Divided attention looks at where the tokens are before it knows how to cut them: it is compiled in parts.
    """
    run = shrunk_preset(METHODS[label]) if label in METHODS else rotary()
    batch, results = a_batch(run), []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        method = run.method.build(run.encoder, run.grid(), run.data.channels).train()
        if compiled:
            whole = run.encoder.attention == "joint"
            for name in COMPILED:
                if isinstance(part := getattr(method, name, None), torch.nn.Module):
                    part.compile(fullgraph=whole, backend="aot_eager")
        loss = method(batch, Draws(0, 0, range(len(batch.video))))
        (loss.sum / loss.count).backward()
        gradients = [p.grad.norm() for p in method.parameters() if p.grad is not None]
        results.append((float(loss.sum.detach()), gradients))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)
