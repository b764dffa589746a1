"""Weights in bfloat16 that autocast would make so anyway."""

from dataclasses import replace

import pytest
import torch

from tubelet.nn.classifier import Classifier
from tubelet.nn.narrow import narrow
from tubelet.nn.vit import Encoder
from tubelet.types import Grid

GRID = Grid.of(4, 16, 16, (2, 8, 8))
ENCODER = Encoder(width=32, depth=2, heads=2, hidden=64, patch=(2, 8, 8))


@pytest.mark.parametrize("change", [{}, {"attention": "divided"}, {"position": "rotary"}])
def test_outputs_are_those_of_autocast_to_the_bit_and_weights_take_half(change):
    torch.manual_seed(0)
    network = Classifier(replace(ENCODER, **change).build(GRID, 3), 5).eval()
    for parameter in network.parameters():  # biases and norms are zero and one at the start
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    patches = torch.randn(2, GRID.tokens, 2 * 8 * 8 * 3)

    def seen():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return network(patches)

    before, bytes_before = seen(), sum(p.nbytes for p in network.parameters())
    narrow(network)
    assert torch.equal(seen(), before)
    assert sum(p.nbytes for p in network.parameters()) < 0.6 * bytes_before
    assert {p.dtype for p in network.parameters()} == {torch.float32, torch.bfloat16}  # norms stay
