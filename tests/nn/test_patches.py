"""Cubes, picking by index, and the position table, against loops and transformers' own table."""

import math

import numpy as np
import pytest
import torch
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import patchify, put, sinusoid, sinusoid_of_axes, take, unpatchify
from tubelet.nn.vit import Encoder
from tubelet.types import Grid

SHAPES = [
    ((2, 3, 4, 32, 48), (2, 16, 16)),
    ((1, 1, 3, 10, 15), (3, 5, 3)),
    ((3, 4, 2, 6, 4), (1, 2, 4)),
    ((1, 2, 6, 9, 9), (2, 3, 9)),
]


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_tokens_are_ordered_time_height_width(shape, patch):
    grid = Grid.of(*shape[2:], patch)
    video = torch.empty(shape)
    number = 0
    for t in range(grid.T):
        for h in range(grid.H):
            for w in range(grid.W):
                pt, ph, pw = patch
                video[:, :, t * pt : (t + 1) * pt, h * ph : (h + 1) * ph, w * pw : (w + 1) * pw] = number
                number += 1
    patches = patchify(video, patch)
    assert patches.shape == (shape[0], number, math.prod(patch) * shape[1])
    assert torch.equal(patches, torch.arange(number).float()[None, :, None].expand_as(patches))


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_values_are_ordered_time_height_width_channel(shape, patch):
    """The last cube of the last clip, value by value."""
    video = torch.arange(math.prod(shape)).view(shape)
    b, c, t, h, w = shape
    expected = [
        video[b - 1, k, t - patch[0] + i, h - patch[1] + j, w - patch[2] + m].item()
        for i in range(patch[0])
        for j in range(patch[1])
        for m in range(patch[2])
        for k in range(c)
    ]
    assert patchify(video, patch)[-1, -1].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_unpatchify_is_the_inverse(shape, patch, dtype):
    video = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    back = unpatchify(patchify(video, patch), Grid.of(*shape[2:], patch))
    assert back.dtype == dtype
    assert torch.equal(back, video)


def test_sinusoid_has_the_numbers_of_the_equation():
    table = sinusoid(1568, 768)
    assert table.dtype == torch.float32
    assert table[0, 0] == 0
    assert table[0, 1] == 1
    assert table[1, :3].tolist() == pytest.approx([0.841471, 0.540302, math.sin(10000 ** (-2 / 768))], abs=1e-6)
    for position, column in ((1567, 0), (1567, 767), (700, 333), (31, 766)):
        angle = position / 10000 ** (2 * (column // 2) / 768)
        assert table[position, column].item() == pytest.approx((math.cos if column % 2 else math.sin)(angle), abs=1e-6)


def test_positions_by_axes_have_the_numbers_of_the_equation():
    grid, width = Grid(3, 4, 5), 26  # 6 columns for the slot, 10 for the row, 10 for the column
    table = sinusoid_of_axes(grid, width)
    for token in range(60):
        slot, row, column = token // 20, token // 5 % 4, token % 5
        expected = []
        for place, half in ((slot, 3), (row, 5), (column, 5)):
            expected += [math.sin(place / 100 ** (i / half)) for i in range(half)]
            expected += [math.cos(place / 100 ** (i / half)) for i in range(half)]
        np.testing.assert_allclose(table[token].numpy(), expected, atol=1e-6)
    for width in (25, 6):
        with pytest.raises(ValueError, match=f"width {width} cannot be shared out"):
            sinusoid_of_axes(grid, width)


@pytest.mark.parametrize(
    ("kind", "table"), [("index", sinusoid(60, 24)), ("axes", sinusoid_of_axes(Grid(3, 4, 5), 24))]
)
def test_encoder_and_decoder_use_the_kind_asked_for(kind, table):
    shape = Encoder(width=24, depth=1, heads=2, hidden=48, patch=(1, 2, 2), position=kind)
    method = Masked(decoder=Decoder(24, 1, 2, position=kind)).build(shape, Grid(3, 4, 5, (1, 2, 2)), 3)
    assert torch.equal(method.encoder.position.fixed, table)
    assert torch.equal(method.decoder.position.fixed, table)


@pytest.mark.parametrize(("tokens", "width"), [(1568, 192), (64, 1408), (13, 10), (7, 9)])
def test_sinusoid_equals_transformers_table(tokens, width):
    assert torch.equal(sinusoid(tokens, width), get_sinusoid_encoding_table(tokens, width)[0])


def test_position_tables_are_not_in_state_dicts():
    grid = Grid(2, 3, 3, (2, 4, 4))
    encoder = Encoder(width=8, depth=1, heads=2, hidden=16, patch=grid.patch).build(grid, 3)
    decoder = Decoder(8, 1, 2).build(grid, Encoder(width=8), 5)
    for module in (encoder, decoder):
        assert not [name for name in module.state_dict() if "position" in name]
        assert module.position().shape == (18, 8)
        assert not module.position().requires_grad


def test_take_and_put_follow_indices_clip_by_clip():
    tokens = torch.arange(2 * 5 * 3).view(2, 5, 3)
    ids = torch.tensor([[4, 0], [1, 1]])
    expected = np.stack([tokens[0, [4, 0]].numpy(), tokens[1, [1, 1]].numpy()])
    np.testing.assert_array_equal(take(tokens, ids), expected)

    values = -torch.ones(2, 2, 3, dtype=torch.long)
    changed = put(tokens, ids, values)
    for clip in range(2):
        for token in range(5):
            hit = token in ids[clip]
            assert torch.equal(changed[clip, token], values[0, 0] if hit else tokens[clip, token])
    assert tokens.min() == 0, "put must not write into its input"
    assert torch.equal(
        put(tokens, torch.tensor([[4, 0], [1, 2]]), take(tokens, torch.tensor([[4, 0], [1, 2]]))), tokens
    )
