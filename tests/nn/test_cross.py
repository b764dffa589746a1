"""The decoder that attends across only: its attention against PyTorch's own, and that each place is imagined alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tubelet.config import preset
from tubelet.nn.attention import Attention
from tubelet.nn.cross import CrossAttention, CrossBlock, CrossDecoder
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.types import Grid, TokenMask

GRID = Grid(3, 2, 4, (2, 8, 8))
ENCODER = Encoder(width=20, depth=3, heads=2, hidden=40, patch=(2, 8, 8))


def some(tokens: int, count: int, clips: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([np.sort(rng.permutation(tokens)[:count]) for _ in range(clips)]))


def masked(visible: int = 6) -> TokenMask:
    hidden = torch.ones(2, GRID.tokens, dtype=torch.bool).scatter(1, some(GRID.tokens, visible), False)
    return TokenMask.from_hidden(hidden, GRID)


def noisy(module: nn.Module) -> nn.Module:
    """Noise in every tensor, so that nothing dropped goes unseen; mask tokens and biases are zero or small else."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.3)
    return module


@pytest.mark.parametrize("restricted", [False, True], ids=["all", "restricted"])
def test_cross_attention_is_that_of_pytorch(restricted):
    ours = noisy(CrossAttention(12, 20, 3))
    theirs = nn.MultiheadAttention(12, 3, kdim=20, vdim=20, batch_first=True)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.q.weight)
        key, value = ours.kv.weight.chunk(2)
        theirs.k_proj_weight.copy_(key)
        theirs.v_proj_weight.copy_(value)
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, torch.zeros(12), ours.v_bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 20)
    allowed = torch.rand(5, 7) < 0.5 if restricted else None
    if allowed is not None:
        allowed[:, 0] = True
    expected, _ = theirs(x, memory, memory, attn_mask=None if allowed is None else ~allowed)
    got = ours(x, memory, None if allowed is None else allowed[None, None])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_keys_with_a_bias_would_give_the_same():
    """Why there is none: theirs with any key bias equals theirs without."""
    theirs = nn.MultiheadAttention(12, 3, kdim=20, vdim=20, batch_first=True)
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 20)
    before, _ = theirs(x, memory, memory)
    with torch.no_grad():
        theirs.in_proj_bias[12:24] = torch.randn(12)
    after, _ = theirs(x, memory, memory)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["last", "mixed"])
@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_a_part_is_predicted_as_it_is_among_all(memory, attention):
    torch.manual_seed(0)
    shape = replace(ENCODER, attention=attention)
    encoder = noisy(shape.build(GRID, 3))
    cross = noisy(CrossDecoder(16, 2, 4, memory=memory).build(GRID, shape, 9))
    within = noisy(Decoder(16, 2, 4).build(GRID, shape, 9))
    mask = masked()
    part = replace(mask, predict=mask.predict[:, [1, 4, 11]])
    patches = torch.randn(2, 6, 3 * 128)
    latent = encoder(patches, mask.visible, taps=cross.taps)
    torch.testing.assert_close(cross(latent, part), cross(latent, mask)[:, [1, 4, 11]], rtol=1e-5, atol=1e-5)
    latent = encoder(patches, mask.visible)
    assert (within(latent, part) - within(latent, mask)[:, [1, 4, 11]]).abs().max() > 0.01


def test_mixed_memory_is_what_a_loop_over_the_blocks_gives():
    torch.manual_seed(0)
    encoder = noisy(ENCODER.build(GRID, 3))
    decoder = noisy(CrossDecoder(16, 4, 4, memory="mixed", position="axes").build(GRID, ENCODER, 9))
    mask, patches = masked(), torch.randn(2, 6, 3 * 128)
    with torch.no_grad():
        x = encoder.embed(patches) + encoder.position()[mask.visible]
        outputs = []
        for block in encoder.blocks:
            x = block(x)
            outputs.append(x)
        outputs[-1] = encoder.norm(x)
        seen = decoder.mask_token + decoder.position()[mask.predict]
        for number, block in enumerate(decoder.blocks):
            memory = sum(float(decoder.mix[k, number]) * output for k, output in enumerate(outputs))
            seen = block(seen, memory)
        expected = decoder.head(decoder.norm(seen))
        got = decoder(encoder(patches, mask.visible, taps=decoder.taps), mask)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_mix_begins_with_a_deviation_of_one_over_the_root_of_the_blocks():
    torch.manual_seed(0)
    deep = replace(ENCODER, depth=48)
    mix = CrossDecoder(16, 64, 4, memory="mixed").build(GRID, deep, 9).mix
    assert mix.shape == (48, 64)
    assert mix.std().item() == pytest.approx(48**-0.5, rel=0.05)


@pytest.mark.parametrize("memory", ["last", "mixed"])
def test_a_place_learns_only_from_what_it_may_ask(memory):
    decoder = noisy(CrossDecoder(16, 3, 4, memory=memory).build(GRID, ENCODER, 9))
    mask, depth = masked(), len(decoder.taps) or 1
    latent = torch.randn(2, 6 * depth, 20, requires_grad=True)
    allowed = torch.zeros(1, 1, 18, 6, dtype=torch.bool)
    allowed[..., :3] = True
    allowed[..., 7, :] = torch.tensor([False, False, False, False, True, True])
    allowed[..., 0] |= ~allowed.any(-1)
    decoder(latent, mask, allowed)[:, 7].sum().backward()
    touched = latent.grad.unflatten(1, (depth, 6)).abs().amax((0, 1, 3)) > 0
    assert touched.tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize("name", ["cross-mae-few-cpu", "cross-mae-k400-b"])
def test_presets_ask_a_mix_and_predict_a_quarter_of_the_hidden_tokens(name):
    run = preset(name)
    assert (run.method.mask.ratio, run.method.predict, run.method.decoder.memory) == (0.9, 0.25, "mixed")


def test_shapes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="above 0"):
        CrossDecoder(depth=0).build(GRID, ENCODER, 9)
    with pytest.raises(ValueError, match="width 16 does not divide into 3 heads"):
        CrossDecoder(16, 1, 3).build(GRID, ENCODER, 9)


def test_it_asks_and_changes_nothing_where_memory_says_nothing():
    """Without values and MLP a block is the identity: each branch is added to its input."""
    block = CrossBlock(12, 20, 3, 24)
    with torch.no_grad():
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    x = torch.randn(2, 5, 12)
    assert torch.equal(block(x, torch.randn(2, 7, 20)), x)


def test_looking_at_itself_it_is_self_attention():
    ours, other = noisy(CrossAttention(12, 12, 3)), Attention(12, 3)
    with torch.no_grad():
        other.qkv.weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        other.q_bias.copy_(ours.q.bias)
        other.v_bias.copy_(ours.v_bias)
        other.proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x, x), other(x), rtol=1e-5, atol=1e-5)
