"""Rotary positions: the equation written out, a part of the tokens, a step of training, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked
from tubelet.nn.attention import Attention
from tubelet.nn.cross import CrossDecoder
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.patches import take
from tubelet.nn.rotary import Rotary, turned
from tubelet.nn.vit import Encoder
from tubelet.types import Batch, Draws, Grid

GRID = Grid(3, 2, 4, (2, 4, 4))
TINY = Encoder(width=40, depth=2, heads=2, hidden=60, patch=(2, 4, 4), position="rotary")


def noisy(module: nn.Module) -> nn.Module:
    """The module with noise in every parameter, so that attention is far from uniform."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return module.eval()


def by_hand(vector: np.ndarray, place: tuple[int, int, int]) -> np.ndarray:
    """One token's query or key of one head, turned as the equation says, a pair of channels at a time."""
    out, each = vector.astype(np.float64), 2 * (len(vector) // 3 // 2)
    for axis in range(3):
        for pair in range(each // 2):
            first, second = axis * each + 2 * pair, axis * each + 2 * pair + 1
            angles = [place[axis] * 10000.0 ** -((2 * pair + i) % (each // 2) / (each / 2)) for i in (0, 1)]
            a, b = vector[first], vector[second]
            out[first] = a * np.cos(angles[0]) - b * np.sin(angles[0])
            out[second] = b * np.cos(angles[1]) + a * np.sin(angles[1])
    return out


@pytest.mark.parametrize("channels", [6, 16, 20, 64])
def test_every_axis_turns_its_channels_and_the_rest_stay(channels):
    x = torch.randn(2, 3, GRID.tokens, channels)
    found = turned(x, Rotary(GRID, channels)(None, GRID.tokens)).numpy()
    for number in range(GRID.tokens):
        slot, rest = divmod(number, GRID.slot)
        place = (slot, *divmod(rest, GRID.W))
        for clip in range(2):
            np.testing.assert_allclose(found[clip, 1, number], by_hand(x[clip, 1, number].numpy(), place), atol=1e-5)
    left = channels % 6
    assert np.array_equal(found[..., channels - left :], x[..., channels - left :].numpy())


def test_tokens_bring_their_places_along():
    """Of a part of the clip, in any order: as if the others were there and not to be looked at."""
    torch.manual_seed(0)
    encoder = noisy(TINY.build(GRID, 3))
    patches = torch.randn(2, GRID.tokens, 96)
    ids = torch.stack([torch.randperm(GRID.tokens)[:9] for _ in range(2)])
    seen = torch.zeros(2, 1, GRID.tokens, GRID.tokens, dtype=torch.bool)
    for clip in range(2):
        seen[clip, :, :, ids[clip]] = True
    with torch.no_grad():
        part = encoder(take(patches, ids), ids)
        whole = encoder(patches, allowed=seen)
        elsewhere = encoder(take(patches, ids), (ids + 1) % GRID.tokens)
        first = encoder(patches[:, : GRID.slot])
    torch.testing.assert_close(part, take(whole, ids), rtol=1e-4, atol=1e-5)
    assert (part - elsewhere).abs().max() > 0.01  # a thousand times what rounding does
    torch.testing.assert_close(first, encoder(patches[:, : GRID.slot], torch.arange(GRID.slot).expand(2, -1)))


def test_a_bias_of_keys_matters_only_where_keys_are_turned():
    attention, x = noisy(Attention(40, 2, rotary=True)), torch.randn(1, GRID.tokens, 40)
    turn = Rotary(GRID, 20)(None, GRID.tokens)
    with torch.no_grad():
        before = attention(x), attention(x, turn=turn)
        attention.k_bias.add_(1)
        torch.testing.assert_close(attention(x), before[0], rtol=1e-4, atol=1e-5)
        assert (attention(x, turn=turn) - before[1]).abs().max() > 0.01
    assert Attention(40, 2).k_bias is None
    assert "k_bias" not in Attention(40, 2).state_dict()


@pytest.mark.parametrize("decoder", [Decoder(16, 1, 2), CrossDecoder(16, 1, 2, memory="mixed"), Head()])
def test_a_step_teaches_every_parameter(decoder):
    torch.manual_seed(0)
    method = Masked(Tube(0.5), decoder=decoder).build(replace(TINY, checkpoint=True), GRID, 3).train()
    assert not any("position" in name for name in method.encoder.state_dict())
    video = torch.randint(0, 256, (2, 3, 6, 8, 16), dtype=torch.uint8)
    with torch.autocast("cpu"):
        loss = method(Batch(video, torch.arange(2)), Draws(0, 0, range(2)))
    (loss.sum / loss.count).backward()
    assert torch.isfinite(loss.sum)
    missing = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": "divided"}, "rotary does not go with divided attention"),
        ({"class_token": True}, "rotary does not go with a class token"),
        ({"heads": 10}, "heads of 4 channels cannot be shared out"),
        ({"width": 42}, "heads of 21 channels cannot be shared out"),
        ({"heads": 3}, "does not divide into 3 heads"),
    ],
)
def test_what_does_not_go_together_is_said_when_it_is_built(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change).build(GRID, 3)
