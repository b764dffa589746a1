"""Encoders of images made encoders of video: a clip that stands still must look as its image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.nn.inflate import inflated
from tubelet.nn.vit import Encoder
from tubelet.targets import inputs
from tubelet.types import Grid

IMAGE = Encoder(width=24, depth=3, heads=3, hidden=48, patch=(1, 8, 8), position="plane")


def of(image: Encoder, frames: int = 2, slots: int = 1, attention: str = "joint"):
    """An encoder of images with noise in every tensor, and the inflated one of cubes of `frames`."""
    torch.manual_seed(0)
    one = image.build(Grid(1, 3, 4, (1, 8, 8)), 3)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    video = replace(image, patch=(frames, 8, 8), attention=attention, drop_path=0.1)
    many = video.build(Grid(slots, 3, 4, (frames, 8, 8)), 3)
    many.load_state_dict(inflated(one.state_dict(), image, video, slots))
    return one.eval(), many.eval()


def still(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 1, 24, 32), dtype=np.uint8))
    return picture, picture.repeat(1, 1, frames, 1, 1)


@pytest.mark.parametrize("position", ["plane", "axes", "index", "learned"])
@pytest.mark.parametrize("attention", ["joint", "divided"])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_still_clip_of_one_slot_has_the_features_of_its_image(frames, attention, position):
    one, many = of(replace(IMAGE, position=position), frames, attention=attention)
    picture, clip = still(frames)
    expected, got = one(inputs(picture, (1, 8, 8))), many(inputs(clip, (frames, 8, 8)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        many.embed(inputs(clip, (frames, 8, 8))), one.embed(inputs(picture, (1, 8, 8))), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_with_learnt_positions_so_has_every_slot_of_a_longer_one(attention):
    """Copies of a token share out its attention; so all slots see what the image sees."""
    one, many = of(replace(IMAGE, position="learned"), 2, 3, attention)
    picture, clip = still(6)
    expected = one(inputs(picture, (1, 8, 8)))
    for slot in many(inputs(clip, (2, 8, 8))).unflatten(1, (3, 12)).unbind(1):
        torch.testing.assert_close(slot, expected, rtol=1e-4, atol=1e-5)


def test_each_frame_of_a_cube_counts_as_much_as_any_other():
    one, many = of(IMAGE, 2)
    rng = np.random.default_rng(1)
    clip = torch.from_numpy(rng.integers(0, 256, (2, 3, 2, 24, 32), dtype=np.uint8))
    first, second = (one.embed(inputs(clip[:, :, [t]], (1, 8, 8))) for t in (0, 1))
    torch.testing.assert_close(many.embed(inputs(clip, (2, 8, 8))), (first + second) / 2, rtol=1e-4, atol=1e-5)


def test_attention_over_time_is_a_copy_that_adds_nothing_and_then_learns():
    one, many = of(IMAGE, 2, 3, "divided")
    for block, image in zip(many.blocks, one.blocks):
        assert torch.equal(block.attn0.qkv.weight, image.attn.qkv.weight)
        assert torch.equal(block.norm0.bias, image.norm1.bias)
        assert not block.join.weight.any()
    many(torch.randn(2, 36, 2 * 192)).square().sum().backward()
    assert all(block.join.weight.grad.any() for block in many.blocks)


@pytest.mark.parametrize(
    ("image", "video", "said"),
    [
        ({"patch": (2, 8, 8)}, {}, r"of a video encoder already, with cubes of \(2, 8, 8\)"),
        ({"width": 48}, {}, "width: 48 -> 24"),
        ({"depth": 4, "position": "axes"}, {}, "depth: 4 -> 3; position: axes -> plane"),
        ({"patch": (1, 16, 16)}, {}, r"patch: \(16, 16\) -> \(8, 8\)"),
        ({"attention": "divided"}, {}, "divided -> joint"),
    ],
)
def test_what_cannot_be_inflated_is_named(image, video, said):
    with pytest.raises(ValueError, match=said):
        inflated({}, replace(IMAGE, **image), replace(IMAGE, patch=(2, 8, 8), **video), 4)
