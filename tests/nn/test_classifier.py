"""The classifier's start, stochastic depth, and taps into the encoder."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tubelet.nn.attention import Block
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import SIZES, Encoder
from tubelet.types import Grid

TINY = Encoder(width=24, depth=4, heads=3, hidden=40, patch=(2, 8, 8))
GRID = Grid(2, 2, 2, (2, 8, 8))


def test_the_head_starts_next_to_zero_and_the_encoders_own_norm_is_left_out():
    network = Classifier(SIZES["s"].build(Grid(1, 2, 2), 3), 400)
    assert float(network.head.weight.detach().std()) == pytest.approx(0.02 * 0.001, rel=0.05)
    assert not network.head.bias.any()
    assert not any(name.startswith("encoder.norm") for name in network.state_dict())
    x = torch.randn(2, 4, 2 * 16 * 16 * 3)
    mean = network.encoder(x, taps=(12,)).mean(1)
    hand = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(network(x), hand @ network.head.weight.T, rtol=1e-4, atol=1e-7)


def test_taps_are_what_a_hook_on_the_blocks_sees():
    encoder = TINY.build(GRID, 3).eval()
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(encoder.blocks, 1):
        block.register_forward_hook(lambda _module, _input, output, number=number: seen.update({number: output}))
    x = torch.randn(2, 8, 2 * 8 * 8 * 3)
    last = encoder(x)
    whole = dict(seen)
    torch.testing.assert_close(encoder.norm(whole[4]), last)
    seen.clear()
    torch.testing.assert_close(encoder(x, taps=(2,)), whole[2])
    assert list(seen) == [1, 2], "later blocks are not computed"
    torch.testing.assert_close(encoder(x, taps=(3, 1)), torch.cat([whole[1], whole[3]], 1))


def test_stochastic_depth_grows_from_block_to_block_drops_clips_and_keeps_the_mean():
    encoder = replace(TINY, drop_path=0.3).build(GRID, 3)
    assert [block.drop_path for block in encoder.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    block = Block(8, 2, 16, drop_path=0.25).train()
    with torch.no_grad():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
    torch.manual_seed(0)
    branch = torch.randn(1, 3, 8).expand(8000, -1, -1)
    dropped = block.dropped(branch)
    kept = dropped.flatten(1).any(1)
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(dropped[kept], branch[kept] / 0.75)
    torch.testing.assert_close(block.eval().dropped(branch), branch)


def test_cells_tell_what_changes_where_and_when():
    encoder = TINY.build(Grid(4, 2, 6, (2, 8, 8)), 3).eval()
    network = Classifier(encoder, 5, cells=(2, 1, 3)).eval()
    x = torch.randn(2, 48, 2 * 8 * 8 * 3)
    tokens = network.norm(encoder(x)).detach().numpy().reshape(2, 4, 2, 6, 24)
    change = tokens - tokens.mean(axis=1, keepdims=True)
    cells = change.reshape(2, 2, 2, 2, 3, 2, 24).mean(axis=(2, 3, 5))  # b, time, width, channel
    expected = torch.from_numpy(cells).permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(network.features(x), expected, rtol=1e-4, atol=1e-5)
    still = torch.randn(1, 1, 12, 2 * 8 * 8 * 3).expand(1, 4, 12, -1).flatten(1, 2)
    encoder.position.fixed.zero_()
    assert network.features(still).abs().max() < 1e-5, "nothing changes in a film that stands still"
    with pytest.raises(ValueError, match="4x2x6"):
        Classifier(encoder, 5, cells=(2, 3, 3))
