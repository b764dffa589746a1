"""Targets against loops written from the equations; and the way back."""

import math

import numpy as np
import pytest
import torch

from tubelet.nn.patches import patchify
from tubelet.targets import Pixels, normalise
from tubelet.types import Grid, TokenMask

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
