"""Targets against loops written from the equations; and the way back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from tubelet.methods.masked import Masked
from tubelet.motion_targets import FrameDifference, Trajectory
from tubelet.nn.decoder import Decoder
from tubelet.nn.hog import hog
from tubelet.nn.patches import patchify, take
from tubelet.nn.vit import Encoder
from tubelet.targets import HOG, OneFrame, Pixels, Together, normalise
from tubelet.types import Batch, Draws, Grid, Motion, TokenMask

GRID = Grid(2, 2, 2, (2, 4, 4))
ALL = TokenMask(torch.zeros(2, 0, dtype=torch.long), torch.arange(8).expand(2, 8), GRID)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as every release has them


def clip(channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def cubes(video: torch.Tensor) -> list[list[np.ndarray]]:
    """Cubes of every clip in token order, each as (time, height, width, channel), cut out by slices."""
    array = video.double().numpy()
    return [
        [
            array[b, :, 2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4].transpose(1, 2, 3, 0)
            for t in range(2)
            for h in range(2)
            for w in range(2)
        ]
        for b in range(len(array))
    ]


def videomae(cube: np.ndarray) -> np.ndarray:
    """Channel by channel: mean, unbiased deviation, 1e-6 added to the deviation."""
    out = np.empty_like(cube)
    for c in range(cube.shape[-1]):
        values = cube[..., c].ravel()
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        out[..., c] = (cube[..., c] - mean) / (deviation + 1e-6)
    return out


def mae(cube: np.ndarray) -> np.ndarray:
    """ImageNet-normalised; over pixels and channels jointly, unbiased variance, 1e-6 added to the variance."""
    cube = (cube - np.array(MEAN)) / np.array(STD)
    values = cube.ravel()
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return (cube - mean) / math.sqrt(variance + 1e-6)


@pytest.mark.parametrize("contrast", [1, 0.002])  # where there is little, the place of 1e-6 is seen
@pytest.mark.parametrize(("name", "formula"), [("videomae", videomae), ("mae", mae), ("none", lambda cube: cube)])
def test_targets_equal_the_equations(name, formula, contrast):
    video = clip() * contrast
    target = Pixels(name).encode(patchify(video, GRID.patch), 3)
    expected = np.array([[formula(cube).ravel() for cube in one] for one in cubes(video)])
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5 if contrast == 1 else 1e-3)
    assert target.shape[-1] == Pixels(name).size(GRID, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_channel_of_a_cube_has_mean_zero_and_unbiased_deviation_one(channels):
    target = Pixels().encode(patchify(clip(channels), GRID.patch), channels).unflatten(2, (-1, channels))
    torch.testing.assert_close(target.mean(2), torch.zeros(2, 8, channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(2, unbiased=True), torch.ones(2, 8, channels), atol=1e-4, rtol=0)


def test_joint_statistics_are_told_from_those_per_channel():
    """Channels of different brightness: jointly normalised, their means must not vanish."""
    video = clip() * torch.tensor([0.2, 0.3, 1.0]).view(3, 1, 1, 1)
    joint = Pixels("mae").encode(patchify(video, GRID.patch), 3).unflatten(2, (-1, 3))
    assert joint.mean(2).abs().min() > 0.1
    torch.testing.assert_close(joint.flatten(2).mean(2), torch.zeros(2, 8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["videomae", "mae"])
def test_a_constant_cube_gives_zeros(name):
    video = torch.full((1, 1, 4, 8, 8), 0.7) if name == "mae" else torch.full((1, 3, 4, 8, 8), 0.7)
    target = Pixels(name).encode(patchify(video, GRID.patch), video.shape[1])
    assert target.abs().max() < 1e-2  # rounding of the mean over a deviation of nearly nothing
    black = Pixels(name).encode(torch.zeros(1, 8, 32), 1)
    assert black.abs().max() < 1e-2
    assert black.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["videomae", "mae", "none"])
def test_decode_is_the_inverse_of_encode(name, channels):
    patches = patchify(clip(channels), GRID.patch)
    target = Pixels(name)
    torch.testing.assert_close(
        target.decode(target.encode(patches, channels), patches, ALL, channels), patches, atol=1e-5, rtol=0
    )


def test_a_prediction_of_zeros_decodes_to_the_mean_colour_of_the_true_cube():
    patches = patchify(clip(), GRID.patch)
    shown = Pixels().decode(torch.zeros_like(patches), patches, ALL, 3).unflatten(2, (-1, 3))
    mean = patches.unflatten(2, (-1, 3)).mean(2, keepdim=True)
    torch.testing.assert_close(shown, mean.expand_as(shown), atol=1e-5, rtol=0)


def test_inputs_are_normalised_by_imagenets_statistics_channel_fastest():
    patches = patchify(clip(), GRID.patch)
    expected = (clip() - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)
    torch.testing.assert_close(normalise(patches, 3), patchify(expected, GRID.patch))
    grey = normalise(torch.full((1, 1, 2), sum(MEAN) / 3), 1)
    assert grey.abs().max() < 1e-6


def test_loss_is_blind_to_brightness_and_contrast():
    patches = patchify(clip(), GRID.patch)
    dim = Pixels().encode(patches * 0.25 + 0.3, 3)
    torch.testing.assert_close(dim, Pixels().encode(patches, 3), atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------------- other targets

WIDE = Grid(4, 2, 3, (2, 8, 8))


def film(grid: Grid = WIDE, channels: int = 3, clips: int = 2) -> Batch:
    pt, ph, pw = grid.patch
    shape = (clips, channels, grid.T * pt, grid.H * ph, grid.W * pw)
    return Batch(
        torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).byte(),
        torch.arange(clips),
        motion=Motion.unknown(shape[2:], 4, clips=clips),
    )


def some(grid: Grid = WIDE) -> TokenMask:
    """Half of the tokens, others in each clip."""
    order = torch.stack([torch.randperm(grid.tokens, generator=torch.Generator().manual_seed(i)) for i in (1, 2)])
    return TokenMask(*(half.sort(1).values for half in order.tensor_split(2, dim=1)), grid)


def wanted(target, batch: Batch, mask: TokenMask):
    return target.wanted(batch, patchify(batch.video, mask.grid.patch), mask)


@pytest.mark.parametrize(
    ("target", "values"),
    [
        (Pixels(), 2 * 16 * 16 * 3),
        (OneFrame(), 16 * 16 * 3),
        (HOG(), 3 * 9 * 2 * 2),
        (HOG(frames="middle"), 108),
        (HOG(frames="all"), 216),
        (HOG(cell=16, bins=6), 18),
        (FrameDifference(), 16 * 16 * 3),
        (FrameDifference(across=True), 2 * 16 * 16 * 3),
        (Trajectory(), 4 * 2 * 4),
        (Trajectory(6), 48),
        (Together((HOG(), Trajectory()), (0.5, 0.5)), 140),
    ],
)
def test_values_of_a_token_are_counted_as_they_come(target, values):
    """Tokens of 2x16x16 pixels in three colours; what is shown of them has a cube's shape, and lies in [0, 1]."""
    grid = Grid(2, 2, 3)
    batch, mask = film(grid), some(grid)
    got = wanted(target, batch, mask)
    assert target.size(grid, 3) == got.values.shape[2] == values
    assert got.values.dtype == torch.float32
    assert got.values.shape[:2] == mask.predict.shape
    patches = take(patchify(batch.video, grid.patch), mask.predict).float() / 255
    shown = target.decode(got.values, patches, mask, 3)
    assert shown.shape == patches.shape
    if not isinstance(target, FrameDifference):  # of which more than three deviations are more than white
        assert -1e-5 < shown.min() <= shown.max() < 1 + 1e-5


@pytest.mark.parametrize(
    ("grid", "frames", "chosen"),
    [
        (Grid(8, 1, 1, (2, 4, 4)), "spread", [0, 2, 4, 6, 8, 10, 12, 15]),  # released
        (Grid(8, 1, 1, (2, 4, 4)), "first", [0, 2, 4, 6, 8, 10, 12, 14]),  # PySlowFast
        (Grid(1, 2, 2, (2, 4, 4)), "spread", [0]),  # a picture shown twice
        (Grid(4, 1, 1, (4, 4, 4)), "spread", [0, 5, 10, 15]),
    ],
)
def test_one_frame_of_every_cube_is_the_released_one(grid, frames, chosen):
    if frames == "spread":
        assert chosen == np.linspace(0, grid.T * grid.patch[0] - 1, grid.T).astype(int).tolist()
    pixels = torch.arange(grid.T * grid.patch[0]).view(1, 1, -1, 1, 1).expand(1, 3, -1, grid.H * 4, grid.W * 4).byte()
    every = TokenMask(torch.zeros(1, 0, dtype=torch.long), torch.arange(grid.tokens)[None], grid)
    got = wanted(OneFrame(frames, normalise=False), Batch(pixels, torch.arange(1)), every).values * 255
    expected = torch.tensor(chosen, dtype=torch.float32).repeat_interleave(grid.slot).view(1, -1, 1)
    torch.testing.assert_close(got, expected.expand_as(got))


@pytest.mark.parametrize("contrast", [1, 100])  # where there is little, the place of 1e-6 is seen
def test_the_loss_of_one_frame_is_that_of_transformers_image_autoencoder(contrast):
    """With MAE-ST's statistics ours of one frame, with ImageNet's ours of all pixels of a cube of one frame."""
    batch = film(Grid(1, 2, 2, (2, 8, 8)))
    batch = replace(batch, video=100 + batch.video // contrast // 2)
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    shape = tiny | {f"decoder_{name}": value for name, value in tiny.items()}
    torch.manual_seed(0)
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**shape, image_size=16, patch_size=8, norm_pix_loss=True))
    torch.nn.init.normal_(theirs.decoder.decoder_pred.weight)  # else all but zeros is predicted
    first, places = batch.video[:, :, :1], torch.arange(4)
    for target, clips, depth, mean, std in (
        (OneFrame("first"), batch, 2, (0.45,) * 3, (0.225,) * 3),
        (Pixels("mae"), replace(batch, video=first), 1, MEAN, STD),
    ):
        pictures = (first[:, :, 0].float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        out = theirs(pictures, noise=torch.tensor([[0.1, 0.5, 0.6, 0.7], [0.9, 0.8, 0.2, 0.3]]))
        hidden = out.mask.bool()
        mask = TokenMask.from_hidden(hidden, Grid(1, 2, 2, (depth, 8, 8)))
        assert torch.equal(mask.predict[0], places[hidden[0]])
        error = (take(out.logits, mask.predict) - wanted(target, clips, mask).values).square().mean()
        torch.testing.assert_close(out.loss, error, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("frames", ["spread", "first"])
def test_one_frame_is_shown_as_it_was(frames, normalise):
    batch, mask = film(), some()
    patches = take(patchify(batch.video, WIDE.patch), mask.predict).float() / 255
    target = OneFrame(frames, normalise)
    shown = target.decode(wanted(target, batch, mask).values, patches, mask, 3).unflatten(2, (2, -1))
    late = (mask.predict // WIDE.slot == 3) & (frames == "spread")
    true = torch.where(late[:, :, None], patches[:, :, 192:], patches[:, :, :192])
    torch.testing.assert_close(shown[:, :, 0], true, atol=1e-5, rtol=0)
    assert torch.equal(shown[:, :, 0], shown[:, :, 1])


@pytest.mark.parametrize("frames", ["first", "middle", "all"])
def test_a_token_has_the_histograms_of_its_own_cells(frames):
    batch, mask = film(), some()
    got = wanted(HOG(cell=4, frames=frames), batch, mask).values
    which = {"first": (0,), "middle": (1,), "all": (0, 1)}[frames]
    for b in range(2):
        for token, values in zip(mask.predict[b].tolist(), got[b]):
            t, h, w = np.unravel_index(token, (4, 2, 3))
            whole = [hog(batch.video[b, None, :, 2 * t + frame].float(), cell=4)[0] for frame in which]
            cells = [one[:, :, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].flatten() for one in whole]
            torch.testing.assert_close(values, torch.cat(cells))


def test_edges_are_drawn_along_themselves():
    """An upright edge through the middle of a cell is shown as an upright line on grey."""
    video = torch.zeros(1, 3, 2, 16, 16, dtype=torch.uint8)
    video[..., 4:12] = 200  # the edges lie in the middles of cells of 8 pixels
    grid = Grid(1, 1, 1, (2, 16, 16))
    mask = TokenMask(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), grid)
    batch = Batch(video, torch.arange(1))
    shown = HOG().decode(wanted(HOG(), batch, mask).values, torch.zeros(1, 1, 1536), mask, 3).view(2, 16, 16, 3)
    assert shown.min() == 0.5
    brightness = shown[0, :, :, 0].sum(0)
    assert brightness[3:5].min() > brightness[[0, 1, 6, 7]].max()
    blank = HOG().decode(torch.zeros(1, 1, 108), torch.zeros(1, 1, 1536), mask, 3)
    assert (blank == 0.5).all()


@pytest.mark.parametrize(("cell", "advice"), [(8, 7), (5, 7), (3, 2), (0, 1), (100, 14)])
def test_cells_that_do_not_divide_the_patch_are_named_with_the_nearest_that_do(cell, advice):
    with pytest.raises(ValueError, match=f"cells of {cell} pixels do not divide patches of 14x14; use {advice}$"):
        HOG(cell=cell).size(Grid(8, 16, 16, (2, 14, 14)), 3)
    with pytest.raises(ValueError, match="HOG with 0 bins"):
        HOG(bins=0).size(Grid(8, 14, 14), 3)


def test_the_loss_of_targets_together_is_the_weighted_sum_of_theirs():
    parts, weights = (HOG(cell=4), Trajectory(), FrameDifference("none")), (0.5, 2.0, 1.0)
    batch, mask = film(), some()
    motion = batch.motion
    motion.to_next[:] = torch.randn(motion.to_next.shape, generator=torch.Generator().manual_seed(3))
    motion.has[:, 1:5] = True  # so some paths count and some do not
    torch.manual_seed(0)
    whole, *single = (
        Masked(lambda *_: mask, target, Decoder(16, 1, 2)).build(Encoder(16, 1, 2, 32, (2, 8, 8)), WIDE, 3)
        for target in (Together(parts, weights), *parts)
    )
    start = 0
    for own, part in zip(single, parts):
        end = start + part.size(WIDE, 3)
        state = {name: value for name, value in whole.state_dict().items() if "decoder.head" not in name}
        head = {f"decoder.head.{name}": value[start:end] for name, value in whole.decoder.head.state_dict().items()}
        own.load_state_dict(state | head)
        start = end
    draws = Draws(0, 0, range(2))
    with torch.no_grad():
        losses = [own(batch, draws).sum for own in single]
        expected = sum(weight * loss for weight, loss in zip(weights, losses))
        torch.testing.assert_close(whole(batch, draws).sum, expected)
    assert min(losses) > 0
