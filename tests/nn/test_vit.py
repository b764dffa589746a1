"""The encoder: exact sizes, embedding, initialisation, checkpointing, odd shapes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tubelet.methods.masked import Masked
from tubelet.nn.attention import Attention, Block
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import patchify, take
from tubelet.nn.vit import SIZES, Encoder
from tubelet.plan import fine_tuned, size
from tubelet.types import Grid

TINY = Encoder(width=24, depth=2, heads=3, hidden=40, patch=(2, 8, 8))
V2 = Decoder(512, 4, 8, mlp_ratio=48 / 11)  # VideoMAE V2's for ViT-g: 2234 channels inside the MLP


def grid_of(encoder: Encoder) -> Grid:
    return Grid.of(16, 224, 224, encoder.patch)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("s", 21_879_936), ("b", 86_227_200), ("l", 303_860_736), ("h", 631_607_040), ("g", 1_011_610_752)],
)
def test_encoder_has_exactly_the_parameters_of_the_released_one(name, backbone):
    with torch.device("meta"):
        assert size(SIZES[name].build(grid_of(SIZES[name]), 3)) == backbone


@pytest.mark.parametrize(
    ("name", "decoder", "total"),
    [
        ("s", Decoder(192, 4, 3), 24_029_376),
        ("b", Decoder(384, 4, 6), 94_210_944),
        ("l", Decoder(512, 12, 8), 342_996_992),
        ("l", Decoder(512, 4, 8), 317_782_016),
        ("h", Decoder(640, 12, 8), 692_487_296),
        ("h", Decoder(512, 4, 8), 645_659_392),
        ("g", V2, 1_026_306_560),
    ],
)
def test_pre_training_has_exactly_the_parameters_of_the_released_one(name, decoder, total):
    with torch.device("meta"):
        assert size(Masked(decoder=decoder).build(SIZES[name], grid_of(SIZES[name]), 3)) == total


@pytest.mark.parametrize(
    ("name", "classes", "total"),
    [
        ("s", 400, 22_033_936),
        ("s", 174, 21_946_926),
        ("b", 400, 86_534_800),
        ("b", 174, 86_361_006),
        ("b", 101, 86_304_869),
        ("b", 51, 86_266_419),
        ("l", 400, 304_270_736),
        ("l", 174, 304_039_086),
        ("h", 400, 632_119_440),
        ("h", 174, 631_829_934),
        ("g", 400, 1_012_174_352),
        ("g", 174, 1_011_855_918),
        ("g", 710, 1_012_611_142),
    ],
)
def test_fine_tuning_has_exactly_the_parameters_of_the_released_one(name, classes, total):
    assert fine_tuned(SIZES[name], grid_of(SIZES[name]), 3, classes) == total


@pytest.mark.parametrize("name", ["ti", "s", "b"])
def test_parameters_equal_those_of_transformers(name):
    shape = SIZES[name]
    config = VideoMAEConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden,
        use_mean_pooling=False,  # as every pre-training checkpoint: keeps the final norm
    )
    with torch.device("meta"):
        theirs = size(VideoMAEForPreTraining(config))
        ours = size(Masked().build(shape, grid_of(shape), 3))
    assert theirs == ours


@pytest.mark.parametrize("channels", [1, 3])
def test_gathering_then_embedding_equals_conv3d_then_gathering(channels):
    grid = Grid.of(6, 24, 40, (2, 8, 8))
    encoder = replace(TINY, depth=0).build(grid, channels)
    encoder.norm = nn.Identity()
    video = torch.rand(2, channels, 6, 24, 40)
    ids = torch.tensor([[0, 7, 44], [3, 20, 21]])
    kernel = torch.empty(24, channels, 2, 8, 8)
    for value in range(2 * 8 * 8 * channels):  # which pixel a column of the Linear belongs to, written out
        t, rest = divmod(value, 8 * 8 * channels)
        h, rest = divmod(rest, 8 * channels)
        w, c = divmod(rest, channels)
        kernel[:, c, t, h, w] = encoder.embed.weight.detach()[:, value]
    full = F.conv3d(video, kernel, encoder.embed.bias, stride=(2, 8, 8)).flatten(2).transpose(1, 2) + encoder.position()
    expected = torch.stack([full[clip, ids[clip]] for clip in range(2)])
    torch.testing.assert_close(encoder(take(patchify(video, grid.patch), ids), ids), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(patchify(video, grid.patch)), full, atol=1e-5, rtol=1e-5)


def uniform_within(weight: torch.Tensor, bound: float) -> bool:
    """All within the bound, close up to it, and with a uniform's deviation."""
    return (
        bool(0.97 * bound < weight.abs().max() <= bound) and abs(weight.std().item() * math.sqrt(3) / bound - 1) < 0.03
    )


def test_initialisation_is_that_of_the_released_code():
    torch.manual_seed(0)
    encoder = replace(SIZES["s"], depth=1)
    model = Masked(decoder=Decoder(192, 1, 3)).build(encoder, grid_of(encoder), 3)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.LayerNorm):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight)), name
            assert not layer.bias.any(), name
            assert layer.eps == 1e-6, name
        if isinstance(layer, Attention):
            assert not layer.q_bias.any(), name
            assert not layer.v_bias.any(), name
        if isinstance(layer, nn.Linear):
            fan_out, fan_in = layer.weight.shape
            default = name in ("encoder.embed", "decoder.bridge")
            bound = 1 / math.sqrt(fan_in) if default else math.sqrt(6 / (fan_in + fan_out))
            assert uniform_within(layer.weight, bound), name
            if layer.bias is not None and not default:
                assert not layer.bias.any(), name
    assert uniform_within(model.encoder.embed.bias, 1 / math.sqrt(1536))
    assert model.decoder.bridge.bias is None
    token = model.decoder.mask_token
    assert token.abs().max() <= 0.02
    assert token.std().item() == pytest.approx(0.02 * 0.5396, rel=0.15)  # a normal cut at one deviation


def test_key_bias_does_not_exist_and_qkv_is_three_blocks_of_rows():
    """Attention against the equation, head by head."""
    torch.manual_seed(0)
    attention = Attention(12, 3)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    x = torch.randn(1, 5, 12)
    weights = attention.qkv.weight.view(3, 3, 4, 12)  # q k v, head, channel of the head
    heads = []
    for head in range(3):
        q = x[0] @ weights[0, head].T + attention.q_bias.view(3, 4)[head]
        k = x[0] @ weights[1, head].T
        v = x[0] @ weights[2, head].T + attention.v_bias.view(3, 4)[head]
        heads.append((q @ k.T / math.sqrt(4)).softmax(1) @ v)
    torch.testing.assert_close(attention(x)[0], attention.proj(torch.cat(heads, 1)), atol=1e-5, rtol=1e-4)


def test_block_is_pre_norm_with_exact_gelu():
    torch.manual_seed(0)
    block = Block(12, 3, 20)
    x = torch.randn(2, 5, 12)
    middle = x + block.attn(block.norm1(x))
    hidden = block.mlp.fc1(block.norm2(middle))
    gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    torch.testing.assert_close(block(x), middle + block.mlp.fc2(gelu))


def test_checkpointing_changes_neither_output_nor_gradients():
    grid = Grid.of(4, 32, 32, TINY.patch)
    results = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        encoder = replace(TINY, checkpoint=checkpoint).build(grid, 3).train()
        calls: list[int] = []
        encoder.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        out = encoder(torch.linspace(-1, 1, 2 * 32 * 384).view(2, 32, 384))
        out.square().sum().backward()
        results.append((out.detach(), [p.grad for p in encoder.parameters()], len(calls)))
    (out, gradients, once), (out_again, gradients_again, twice) = results
    assert (once, twice) == (1, 2)
    assert torch.equal(out, out_again)
    for one, other in zip(gradients, gradients_again):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "height", "width", "patch", "channels"),
    [(4, 16, 32, (2, 8, 8), 1), (9, 15, 21, (3, 5, 7), 2), (1, 16, 8, (1, 8, 8), 4), (32, 16, 16, (2, 16, 16), 3)],
)
def test_any_shape_that_divides_runs(frames, height, width, patch, channels):
    grid = Grid.of(frames, height, width, patch)
    encoder = replace(TINY, patch=patch).build(grid, channels)
    out = encoder(patchify(torch.rand(2, channels, frames, height, width), patch))
    assert out.shape == (2, (frames // patch[0]) * (height // patch[1]) * (width // patch[2]), 24)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ((15, 224, 224), "frames 15 does not divide into cubes of 2; use 14 or 16"),
        ((16, 225, 224), "height 225 does not divide into cubes of 16; use 224 or 240"),
        ((16, 224, 100), "width 100 does not divide into cubes of 16; use 96 or 112"),
        ((1, 224, 224), "frames 1 does not divide into cubes of 2; use 2"),
        ((0, 224, 224), "frames 0 does not divide into cubes of 2; use 2"),
    ],
)
def test_sizes_that_do_not_divide_are_named(clip, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Grid.of(*clip, (2, 16, 16))


def test_width_that_does_not_divide_into_heads_is_named():
    with pytest.raises(ValueError, match="width 24 does not divide into 5 heads"):
        replace(TINY, heads=5).build(Grid(2, 4, 4, (2, 8, 8)), 3)
