"""Where an encoder looks, against transformers, and against loops over single tokens in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from tubelet.evaluate import attention as maps
from tubelet.evaluate.attention import attention, rollout, token_at
from tubelet.nn.patches import patchify
from tubelet.nn.rotary import rotations
from tubelet.nn.vit import Encoder
from tubelet.types import Grid
from tubelet.weights.hugging_face import translated
from tubelet.weights.report import Report

GRID = Grid(3, 4, 5, (2, 8, 8))
KINDS = {
    "joint": Encoder(width=24, depth=3, heads=3, hidden=40, patch=GRID.patch, drop_path=0.9),
    "class token": Encoder(width=24, depth=3, heads=3, hidden=40, patch=GRID.patch, class_token=True),
    "rotary": Encoder(width=36, depth=3, heads=3, hidden=40, patch=GRID.patch, position="rotary"),
    "divided": Encoder(width=24, depth=3, heads=3, hidden=40, patch=GRID.patch, attention="divided"),
}


def encoder_of(kind: str):
    """One whose every weight matters, so that nothing left out goes unseen."""
    encoder = KINDS[kind].build(GRID, 3)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.3)
    return encoder


def patches_of(clips: int = 2) -> torch.Tensor:
    return torch.randn(clips, GRID.tokens, 2 * 8 * 8 * 3, generator=torch.Generator().manual_seed(1))


def softmax_by_loop(x, module, heads, groups, turn=None):
    """Attention weights (heads, n, n) of normed tokens: one query, head and key at a time, in float64."""
    state = {name: value.detach().double().numpy() for name, value in module.named_parameters()}
    n, d = x.shape
    q, k, _ = np.split(x @ state["qkv.weight"].T, 3, axis=1)
    q, k, c = q + state["q_bias"], k + state.get("k_bias", 0), d // heads
    found = np.zeros((heads, n, n))
    for head in range(heads):
        a, b = (part[:, head * c : head * c + c].copy() for part in (q, k))
        if turn is not None:
            for part in (a, b):
                before = part.copy()
                for token in range(n):
                    for j in range(c):  # channel j and its neighbour in the pair
                        part[token, j] = before[token, j] * turn[0, token, j] + before[token, j ^ 1] * turn[1, token, j]
        for token in range(n):
            there = [other for other in range(n) if groups[other] == groups[token]]
            logits = np.array([a[token] @ b[other] / np.sqrt(c) for other in there])
            shares = np.exp(logits - logits.max())
            found[head, token, there] = shares / shares.sum()
    return found


def tables(encoder, kind, patches):
    """Of each block the weights (heads, n, n) of its looks on one clip, in order; what goes in is caught on the way."""
    inputs = [[] for _ in encoder.blocks]
    for block, kept in zip(encoder.blocks, inputs):
        for name in ("norm0", "norm1"):
            if hasattr(block, name):
                getattr(block, name).register_forward_hook(lambda _, args, out, kept=kept: kept.append(out[0]))
    encoder.eval()
    with torch.no_grad():
        encoder(patches)
    turn = rotations(GRID, 12).double().numpy() if kind == "rotary" else None
    slots = np.repeat(np.arange(3), 20)
    found = []
    for block, kept in zip(encoder.blocks, inputs):
        groups = [np.tile(np.arange(20), 3), slots] if kind == "divided" else [np.zeros(99)]
        modules = [block.attn0, block.attn] if kind == "divided" else [block.attn]
        found.append(
            [
                softmax_by_loop(x.double().numpy(), module, 3, group, turn)
                for x, module, group in zip(kept, modules, groups)
            ]
        )
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("query", "block"), [(None, None), (7, 2)])
def test_attention_and_rollout_are_those_of_a_loop(kind, query, block):
    encoder, patches = encoder_of(kind), patches_of(1)
    every = tables(encoder, kind, patches)
    front = kind == "class token"
    at = front + (1 * 20 + 2 * 5 + 2 if query is None else query)

    looks = every[-1 if block is None else block - 1]
    if kind == "divided":
        time, space = looks
        expected = np.stack([space[head, at] @ time.mean(0) for head in range(3)])
    else:
        expected = looks[0][:, at]
    product = np.eye(60 + front)
    for look in (look for block in every for look in block):
        product = (look.mean(0) + np.eye(60 + front)) / 2 @ product
    expected, product = (part[..., front:] / part[..., front:].sum(-1, keepdims=True) for part in (expected, product))

    np.testing.assert_allclose(attention(encoder, patches, query, block)[0].numpy(), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(rollout(encoder, patches, query)[0].numpy(), product[at], rtol=1e-4, atol=1e-7)
    through = maps.passed(encoder, patches)  # asked again, of one pass
    for _ in range(2):
        assert torch.equal(attention(encoder, through, query, block), attention(encoder, patches, query, block))
        assert torch.equal(rollout(encoder, through, query), rollout(encoder, patches, query))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_one_and_the_encoder_is_left_as_it_was(kind, monkeypatch):
    encoder, patches = encoder_of(kind).train(), patches_of()
    weights, rolled = attention(encoder, patches), rollout(encoder, patches)
    assert weights.shape == (2, 3, 60)
    assert rolled.shape == (2, 60)
    for found in (weights, rolled):
        assert found.sum(-1).numpy() == pytest.approx(1, abs=1e-5)
        assert (found >= 0).all()
        assert not torch.equal(found[0], found[1])
    assert encoder.training
    assert not weights.requires_grad
    monkeypatch.setattr(maps, "ROWS", 7)  # fewer rows at once, the same numbers
    torch.testing.assert_close(rollout(encoder, patches), rolled)


def test_attention_is_that_of_transformers():
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=6,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        attn_implementation="eager",
    )
    theirs = VideoMAEModel(config).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.3)
    grid = Grid.of(6, 32, 32, (2, 8, 8))
    ours = KINDS["joint"].build(grid, 3)
    state = translated(
        {f"videomae.{name}": value for name, value in theirs.state_dict().items()}, Report(Path("theirs"))
    )
    ours.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()})
    video = torch.randn(2, 6, 3, 32, 32, generator=noise)
    with torch.no_grad():
        expected = theirs(video, output_attentions=True).attentions
    patches = patchify(video.transpose(1, 2), grid.patch)
    for block in (1, 2, 3):
        for query in (0, 29):
            found = attention(ours, patches, query, block)
            torch.testing.assert_close(found, expected[block - 1][:, :, query], rtol=1e-4, atol=1e-6)
    table = torch.eye(48)
    for one in expected:
        table = (one.mean(1) + torch.eye(48)) / 2 @ table
    torch.testing.assert_close(rollout(ours, patches, 29), table[:, 29], rtol=1e-4, atol=1e-6)


def test_the_middle_is_the_default_and_places_outside_are_refused():
    assert token_at(Grid(8, 14, 14)) == 4 * 196 + 7 * 14 + 7
    assert token_at(GRID, (2, 3, 4)) == 59
    for place, name in (((3, 0, 0), "slot 3"), ((0, -1, 0), "row -1"), ((0, 0, 5), "column 5")):
        with pytest.raises(ValueError, match=rf"no {name}; clips have 3 slots of 4 rows and 5 columns"):
            token_at(GRID, place)


def test_what_is_not_there_is_refused():
    encoder, patches = encoder_of("joint"), patches_of()
    for block in (0, 4):
        with pytest.raises(ValueError, match=f"no block {block}; the encoder has 3"):
            attention(encoder, patches, block=block)
    for act in (attention, rollout):
        with pytest.raises(ValueError, match="no token 60; clips have 60"):
            act(encoder, patches, 60)
        with pytest.raises(ValueError, match="20 patches; whole clips of this encoder have 60"):
            act(encoder, patches[:, :20])
