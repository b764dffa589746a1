"""Erasing, mixing and smoothing: against their equations written out, and the recipe's numbers."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.methods import mixing
from tubelet.methods.mixing import Box, Erasing, Mix, cut, faded, smoothed

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def one_hot(*labels: int, classes: int = 4) -> torch.Tensor:
    return torch.eye(classes)[list(labels)]


def test_the_examples_of_the_docstrings():
    result = doctest.testmod(mixing, extraglobs={"torch": torch})
    assert result.attempted == 1
    assert not result.failed


# ---------------------------------------------------------------------------- labels


def test_smoothed_labels_in_numbers():
    """Four classes, a tenth: on .925, off .025."""
    assert torch.allclose(smoothed(one_hot(2), 0.1), torch.tensor([[0.025, 0.025, 0.925, 0.025]]), rtol=0, atol=1e-7)
    assert torch.equal(smoothed(one_hot(0, 3), 0.0), one_hot(0, 3))
    assert torch.allclose(smoothed(torch.tensor([[0.5, 0.5]]), 0.2), torch.tensor([[0.5, 0.5]]))


def test_mixed_labels_in_numbers():
    """A batch of four, three tenths of their own: the row is .3 y + .7 of the row as far from the other end."""
    labels = faded(smoothed(one_hot(0, 1, 2, 3), 0.1), 0.3)
    off, own, other = 0.025, 0.3 * 0.925 + 0.7 * 0.025, 0.7 * 0.925 + 0.3 * 0.025
    expected = [[own, off, off, other], [off, own, other, off], [off, other, own, off], [other, off, off, own]]
    assert torch.allclose(labels, torch.tensor(expected), rtol=0, atol=1e-6)


def test_smoothing_before_or_after_mixing_is_the_same():
    before = faded(smoothed(one_hot(0, 1, 2, 2), 0.1), 0.3)
    after = smoothed(faded(one_hot(0, 1, 2, 2), 0.3), 0.1)
    assert torch.allclose(before, after, rtol=0, atol=1e-7)


# ---------------------------------------------------------------------------- mixing


def own_share(labels: torch.Tensor) -> float:
    """Of one-hot labels 0, 1, 2, 3 that were mixed: how much of its own label a row has."""
    return float(labels[0, 0])


@pytest.mark.parametrize("seed", range(10))
def test_mixup_fades_every_clip_with_its_partner(seed):
    video = noise(4, 3, 2, 6, 8, seed=seed)
    mixed, labels = Mix(cutmix=0.0)(video, one_hot(0, 1, 2, 3), seed)
    share = own_share(labels)
    for clip in range(4):
        expected = share * video[clip] + (1 - share) * video[3 - clip]
        assert torch.allclose(mixed[clip], expected, rtol=0, atol=1e-6)
        row = share * one_hot(clip)[0] + (1 - share) * one_hot(3 - clip)[0]
        assert torch.allclose(labels[clip], row, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_cutmix_cuts_one_box_into_all_frames_and_counts_its_pixels(seed):
    video = noise(4, 3, 2, 24, 32, seed=seed)
    mixed, labels = Mix(mixup=0.0)(video, one_hot(0, 1, 2, 3), seed)
    own = (mixed == video).all(dim=(0, 1, 2))
    other = (mixed == video.flip(0)).all(dim=(0, 1, 2))
    assert (own ^ other).all()
    assert abs(own_share(labels) - own.double().mean()) < 1e-6  # corrected for what lay outside
    rows, columns = other.any(1).nonzero(), other.any(0).nonzero()
    if len(rows):
        assert other[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle
    torch.testing.assert_close(labels, faded(one_hot(0, 1, 2, 3), own_share(labels)))


@settings(max_examples=200)
@given(st.floats(0, 1), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_the_box_is_that_of_cutmix(own, height, width, seed):
    """Both corners from the centre, each clipped."""
    share, box = cut(own, height, width, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    y, x = rng.integers(height), rng.integers(width)
    cut_h, cut_w = int(height * np.sqrt(1 - own)), int(width * np.sqrt(1 - own))
    top, bottom = np.clip(y - cut_h // 2, 0, height), np.clip(y + cut_h // 2, 0, height)
    left, right = np.clip(x - cut_w // 2, 0, width), np.clip(x + cut_w // 2, 0, width)
    assert box == Box(top, left, bottom - top, right - left)
    assert abs(share - (1 - (bottom - top) * (right - left) / (height * width))) < 1e-12
    assert 0 <= share <= 1


def test_shares_come_from_the_beta_distribution():
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)); and as many below a tenth as SciPy's regularised integral says."""
    video = torch.zeros(2, 1, 1, 2, 2)
    shares = [own_share(Mix(0.8, 0.0)(video, one_hot(0, 1), seed)[1]) for seed in range(3000)]
    assert abs(np.mean(shares) - 0.5) < 4 * np.sqrt(1 / 10.4 / 3000)
    assert abs(np.var(shares) - 1 / 10.4) < 0.006
    assert abs(np.mean(np.array(shares) < 0.1) - 0.1318) < 0.025  # scipy.special.betainc(0.8, 0.8, 0.1)


def kinds(mix: Mix, count: int = 400) -> dict[str, float]:
    """How often a batch is faded, cut, or left alone."""
    video = torch.stack([torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)])
    found = {"none": 0, "cutmix": 0, "mixup": 0}
    for seed in range(count):
        mixed, labels = mix(video, one_hot(0, 1), seed)
        if mixed is video:
            assert torch.equal(labels, one_hot(0, 1))
            found["none"] += 1
        else:
            found["cutmix" if ((mixed == 0) | (mixed == 1)).all() else "mixup"] += 1
    return {kind: times / count for kind, times in found.items()}


def test_how_often_which_way():
    usual = kinds(Mix())
    assert usual["none"] == 0
    assert abs(usual["cutmix"] - 0.5) < 0.1
    assert kinds(Mix(mixup=0.0), 50) == {"none": 0, "cutmix": 1, "mixup": 0}
    assert kinds(Mix(cutmix=0.0), 50)["cutmix"] < 0.05  # a share of nearly 0 or 1 looks alike
    assert abs(kinds(Mix(probability=0.3))["none"] - 0.7) < 0.1
    assert kinds(Mix(probability=0.0), 50)["none"] == 1
    assert abs(kinds(Mix(switch=0.9))["cutmix"] - 0.9) < 0.06


def test_mixing_repeats_and_leaves_its_input_alone():
    video, labels = noise(4, 3, 2, 8, 8), one_hot(0, 1, 2, 3)
    before = video.clone()
    for mix in (Mix(), Mix(mixup=0.0), Mix(cutmix=0.0)):
        first, again, other = (mix(video, labels, seed) for seed in (5, 5, 6))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[1], other[1])
    assert torch.equal(video, before)
    assert torch.equal(labels, one_hot(0, 1, 2, 3))


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(ValueError, match="mixed in pairs, but 3 came at once; use an even number"):
        Mix()(noise(3, 3, 2, 8, 8), one_hot(0, 1, 2), 0)


# ---------------------------------------------------------------------------- erasing


def erased(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """The pixels of a clip that changed, "h w"; the same in all frames and channels."""
    changed = (before != after).numpy()
    assert (changed == changed[0, 0]).all()
    return changed[0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_one_box_of_noise_in_all_frames(seed):
    video = noise(2, 3, 4, 30, 40, seed=seed)
    before = video.clone()
    after = Erasing(1.0)(video, seed)
    assert torch.equal(video, before)
    assert torch.equal(after, Erasing(1.0)(video, seed))
    boxes = []
    for clip in range(2):
        changed = erased(video[clip], after[clip])
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = after[clip][:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed.sum() == len(rows) * len(columns) == box[0, 0].numel()
        assert not torch.equal(box[:, 0], box[:, 1])  # new in every frame
        boxes.append((rows[0], columns[0], len(rows), len(columns)))
    assert boxes[0] != boxes[1]  # another box in every clip


def test_the_noise_is_standard_normal_for_the_encoder():
    after = Erasing(1.0, area=(0.3, 0.3), ratio=(1.0, 1.0))(torch.full((1, 3, 16, 64, 64), 9.0), 0)
    values = after[0][after[0] != 9.0].view(3, -1).double().numpy()
    seen = (values - MEAN[:, None]) / STD[:, None]
    count = seen.shape[1]
    assert (np.abs(seen.mean(1)) < 4 / np.sqrt(count)).all()
    assert (np.abs(seen.std(1) - 1) < 4 / np.sqrt(2 * count)).all()
    assert np.abs(np.corrcoef(seen) - np.eye(3)).max() < 4 / np.sqrt(count)
    assert abs((np.abs(seen) < 1).mean() - 0.6827) < 0.01


def test_grey_clips_have_grey_noise():
    after = Erasing(1.0, area=(0.3, 0.3), ratio=(1.0, 1.0))(torch.full((1, 1, 16, 64, 64), 9.0), 0)
    values = after[after != 9.0]
    assert abs(values.mean() - MEAN.mean()) < 0.01
    assert abs(values.std() - STD.mean()) < 0.01


def test_a_quarter_of_the_clips_is_erased():
    video = torch.zeros(800, 1, 1, 8, 8)
    share = (Erasing()(video, 0) != 0).flatten(1).any(1).double().mean()
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 800)
    assert torch.equal(Erasing(0.0)(video, 0), video)


def test_boxes_are_drawn_as_in_the_recipe():
    """Area .02 to 1/3, log of the aspect even from .3 to 1 / .3, drawn again where it does not fit: a plain loop."""
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    ours = np.array([Erasing().box(60, 90, rng) for _ in range(3000)])
    wanted: list[tuple[int, ...]] = []
    while len(wanted) < 3000:
        area, aspect = other.uniform(0.02, 1 / 3) * 5400, 0.3 * (1 / 0.09) ** other.random()
        h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if h < 60 and w < 90:
            wanted.append((other.integers(0, 60 - h + 1), other.integers(0, 90 - w + 1), h, w))
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        below = (ours <= np.quantile(wanted, share, axis=0)).mean(0)
        assert np.abs(below - (np.array(wanted) <= np.quantile(wanted, share, axis=0)).mean(0)).max() < 0.05
    assert (ours[:, 0] + ours[:, 2]).max() == 60
    assert (ours[:, 1] + ours[:, 3]).max() == 90
    assert ours[:, 2].max() < 60
    area = ours[:, 2] * ours[:, 3] / 5400
    assert 0.015 < area.min() < area.max() < 0.36


def test_a_large_ratio_is_a_tall_box():
    assert Erasing(area=(0.04, 0.04), ratio=(4.0, 4.0)).box(100, 100, np.random.default_rng(0))[2:] == (40, 10)


def test_frames_too_small_for_any_box_stay():
    video = noise(2, 3, 2, 1, 1)
    assert torch.equal(Erasing(1.0)(video, 0), video)


# ---------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Erasing, {"probability": 1.5}),
        (Erasing, {"area": (0.0, 0.3)}),
        (Erasing, {"area": (0.5, 0.3)}),
        (Erasing, {"ratio": (0.0, 3.0)}),
        (Mix, {"mixup": -0.1}),
        (Mix, {"cutmix": float("nan")}),
        (Mix, {"probability": -1.0}),
        (Mix, {"switch": 2.0}),
    ],
)
def test_settings_that_cannot_be_used(kind, wrong):
    with pytest.raises(ValueError, match=f"{kind.__name__}'s {next(iter(wrong))} .* cannot be used; expected"):
        kind(**wrong)


def test_a_mix_of_nothing_is_refused():
    with pytest.raises(ValueError, match="does nothing; leave it out"):
        Mix(mixup=0.0, cutmix=0.0)
