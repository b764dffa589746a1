"""Divided attention against a loop over single tokens, and its two ways of computing against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tubelet.config import preset
from tubelet.nn import divided
from tubelet.nn.attention import Attention
from tubelet.nn.divided import Where
from tubelet.nn.vit import SIZES, Encoder
from tubelet.plan import plan
from tubelet.types import Grid

GRID = Grid(4, 3, 5, (2, 8, 8))
SMALL = Encoder(width=24, depth=3, heads=3, hidden=48, patch=(2, 8, 8), attention="divided")


def by_loop(attention: Attention, x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Softmax attention of every token over those with its group, one token and head at a time."""
    state = {name: value.detach().double().numpy() for name, value in attention.named_parameters()}
    n, d = x.shape
    q, k, v = np.split(x @ state["qkv.weight"].T, 3, axis=1)
    q, v, width = q + state["q_bias"], v + state["v_bias"], d // attention.heads
    out = np.zeros((n, d))
    for token in range(n):
        there = np.flatnonzero(groups == groups[token])
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            logits = k[there, part] @ q[token, part] / np.sqrt(width)
            weights = np.exp(logits - logits.max())
            out[token, part] = weights / weights.sum() @ v[there, part]
    return out @ state["proj.weight"].T + state["proj.bias"]


def some(kind: str) -> torch.Tensor | None:
    """Ascending indices of visible tokens of two clips."""
    rng = np.random.default_rng(0)
    if kind == "all":
        return None
    if kind == "tubes":
        places = np.stack([np.sort(rng.permutation(GRID.slot)[:4]) for _ in range(2)])
        ids = np.arange(GRID.T)[:, None] * GRID.slot + places[:, None]
    elif kind == "frames":
        ids = np.array([[1, 3], [0, 2]])[:, :, None] * GRID.slot + np.arange(GRID.slot)
    elif kind == "as many in each slot":
        places = np.stack([[np.sort(rng.permutation(GRID.slot)[:4]) for _ in range(GRID.T)] for _ in range(2)])
        ids = np.arange(GRID.T)[:, None] * GRID.slot + places
    else:
        ids = np.stack([np.sort(rng.permutation(GRID.tokens)[:16]) for _ in range(2)])
    return torch.from_numpy(ids.reshape(2, -1))


@pytest.mark.parametrize("kind", ["all", "tubes", "frames", "as many in each slot", "anywhere"])
def test_tokens_see_their_place_and_then_their_slot(kind):
    torch.manual_seed(0)
    attention, ids = Attention(24, 3).double(), some(kind)
    where = Where.of(ids, GRID, GRID.tokens if ids is None else ids.shape[1])
    assert bool(where.slots) == (kind in ("all", "tubes", "frames"))
    every = torch.arange(GRID.tokens).repeat(2, 1) if ids is None else ids
    x = torch.randn(*every.shape, 24, dtype=torch.float64)
    for found, groups in (
        (where.over_time(attention, x), every % GRID.slot),
        (where.over_space(attention, x), every // GRID.slot),
    ):
        for clip in range(2):
            expected = by_loop(attention, x[clip].numpy(), groups[clip].numpy())
            assert np.allclose(found[clip].detach().numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["all", "tubes", "frames"])
def test_short_sequences_are_the_forbidden_ones_computed_faster(kind, precision, monkeypatch):
    torch.manual_seed(0)
    encoder, ids = SMALL.build(GRID, 3), some(kind)
    for block in encoder.blocks:
        torch.nn.init.normal_(block.join.weight, std=0.2)
    every = torch.arange(GRID.tokens).repeat(2, 1) if ids is None else ids
    patches = torch.randn(*every.shape, 2 * 8 * 8 * 3)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        quick = encoder(patches, ids)
        slot, place = every // GRID.slot, every % GRID.slot
        masks = ((part[:, None, :, None] == part[:, None, None]) for part in (place, slot))
        monkeypatch.setattr(divided.Where, "of", lambda *_: Where(0, *masks))
        assert torch.allclose(quick, encoder(patches, ids), atol=2e-6 if precision == torch.float32 else 0.05)


def test_at_first_only_the_first_block_looks_over_time():
    torch.manual_seed(0)
    encoder = SMALL.build(GRID, 3)
    patches = torch.randn(1, GRID.tokens, 2 * 8 * 8 * 3)
    assert [bool(block.join.weight.any()) for block in encoder.blocks] == [True, False, False]
    torch.nn.init.zeros_(encoder.blocks[0].join.weight)
    before = encoder(patches)[0, : GRID.slot]
    patches[0, GRID.slot :] = 0  # other slots
    assert torch.equal(encoder(patches)[0, : GRID.slot], before)
    torch.nn.init.normal_(encoder.blocks[2].join.weight)
    changed = encoder(patches)[0, : GRID.slot]
    patches[0, GRID.slot :] = 1
    assert not torch.equal(encoder(patches)[0, : GRID.slot], changed)


def test_as_large_as_timesformer():
    """121.4 million in the paper (table 6, divided), with class token, head for 400 classes and learned positions."""
    shape = replace(SIZES["b"], attention="divided", patch=(1, 16, 16))
    encoder = shape.build(Grid.of(8, 224, 224, shape.patch), 3)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    more = 768 + 197 * 768 + 8 * 768 + 768 * 400 + 400  # class token, positions in space and time, head
    keys = 2 * 12 * 768  # biases of keys, which are left out here
    assert (count + more + keys) / 1e6 == pytest.approx(121.4, abs=0.3)


def test_fewer_products_than_joint_attention():
    """Of attention alone: T + H*W instead of T*H*W pairs a token; counted by PyTorch."""
    counts = {}
    for kind in ("joint", "divided"):
        encoder = replace(SMALL, attention=kind, depth=1).build(GRID, 3).to("meta")
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            encoder(torch.randn(1, GRID.tokens, 2 * 8 * 8 * 3, device="meta"))
        counts[kind] = counter.get_total_flops() / 2
    n, d = GRID.tokens, 24
    pairs = {"joint": n * n, "divided": n * (GRID.T + GRID.slot)}
    more = n * 5 * d * d  # qkv, proj and join of the second attention
    assert counts["divided"] - counts["joint"] == more + 2 * d * (pairs["divided"] - pairs["joint"])


def test_preset_differs_in_its_encoder_only():
    run, plain = preset("mgm-ssv2-200-timesformer"), preset("mgm-ssv2-200")
    assert run == replace(plain, encoder=replace(plain.encoder, attention="divided"))


@pytest.mark.parametrize("name", ["mgm-ssv2-200-timesformer", "finetune-ssv2-b"])
def test_plans_count_it(name):
    run = preset(name)
    counts = [plan(replace(run, encoder=replace(run.encoder, attention=kind))) for kind in ("joint", "divided")]
    assert counts[1].gmacs["forward"] > counts[0].gmacs["forward"]
    assert counts[1].memory.activations > counts[0].memory.activations
