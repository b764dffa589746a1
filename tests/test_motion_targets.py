"""Changes and paths against loops, on films whose motion is known."""

import numpy as np
import pytest
import torch

from tubelet.motion_targets import FrameDifference, Trajectory
from tubelet.nn.patches import patchify, take, unpatchify
from tubelet.types import Batch, Grid, Motion, TokenMask

GRID = Grid(3, 3, 4, (2, 8, 8))
SHAPE = (6, 24, 32)


def film(channels: int = 3) -> Batch:
    frames = torch.randint(0, 256, (2, channels, *SHAPE), generator=torch.Generator().manual_seed(0))
    return Batch(frames.byte(), torch.arange(2))


def some() -> TokenMask:
    """Other tokens in each clip."""
    order = torch.stack([torch.randperm(GRID.tokens, generator=torch.Generator().manual_seed(i)) for i in (1, 2)])
    return TokenMask(order[:, :20].sort(1).values, order[:, 20:].sort(1).values, GRID)


def wanted(target, batch: Batch, mask: TokenMask | None = None):
    return target.wanted(batch, patchify(batch.video, GRID.patch), mask or some())


def even(velocity: tuple[float, float], block: int = 4) -> Motion:
    """Everything goes on at one velocity."""
    motion = Motion.unknown(SHAPE, block, clips=2)
    motion.to_next[:] = torch.tensor(velocity).view(2, 1, 1, 1)
    motion.has[:, :-1] = True
    return motion


# ---------------------------------------------------------------------------- changes


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_differences_equal_the_loop(across, channels):
    batch, mask = film(channels), some()
    target = FrameDifference("none", across)
    values = wanted(target, batch, mask).values.numpy()
    video = batch.video.numpy().astype(float) / 255
    assert values.shape[2] == target.size(GRID, channels) == (2 if across else 1) * 64 * channels
    for b in range(2):
        for token, value in zip(mask.predict[b].tolist(), values[b]):
            t, h, w = np.unravel_index(token, (3, 3, 4))
            place = (slice(None), slice(8 * h, 8 * h + 8), slice(8 * w, 8 * w + 8))
            expected = []
            for frame in (2 * t, 2 * t + 1) if across else (2 * t,):
                after = video[b, :, min(frame + 1, 5)]
                expected.append((after - video[b, :, frame])[place].transpose(1, 2, 0).ravel())
            np.testing.assert_allclose(value, np.concatenate(expected), atol=1e-6)


def test_normalised_differences_have_mean_zero_and_deviation_one_in_each_colour():
    values = wanted(FrameDifference(), film()).values.unflatten(2, (-1, 3))
    torch.testing.assert_close(values.mean(2), torch.zeros(2, 16, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(2), torch.ones(2, 16, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalise", ["videomae", "none"])
@pytest.mark.parametrize("across", [False, True])
def test_a_film_that_stands_still_wants_zeros_and_is_shown_grey(normalise, across):
    batch = film()
    still = Batch(batch.video[:, :, :1].expand(-1, -1, 6, -1, -1), batch.ids)
    target, mask = FrameDifference(normalise, across), some()
    values = wanted(target, still, mask).values
    assert not values.any()
    patches = take(patchify(still.video, GRID.patch), mask.predict).float() / 255
    shown = target.decode(values, patches, mask, 3)
    assert shown.shape == patches.shape
    assert (shown == 0.5).all()


def test_a_difference_is_shown_as_half_of_it_on_grey():
    batch, target = film(), FrameDifference("none", across=True)
    every = TokenMask(torch.zeros(2, 0, dtype=torch.long), torch.arange(36).expand(2, 36), GRID)
    shown = unpatchify(target.decode(wanted(target, batch, every).values, torch.zeros(2, 36, 384), every, 3), GRID)
    video = batch.video.float() / 255
    torch.testing.assert_close(shown[:, :, :-1], 0.5 + (video[:, :, 1:] - video[:, :, :-1]) / 2)
    assert (shown[:, :, -1] == 0.5).all()


def test_cubes_of_one_frame_are_named():
    flat = Grid(6, 3, 4, (1, 8, 8))
    with pytest.raises(ValueError, match=r"cubes of 1 frame.*across=True"):
        FrameDifference().size(flat, 3)
    assert FrameDifference(across=True).size(flat, 3) == 192


# ---------------------------------------------------------------------------- paths


def test_at_constant_velocity_every_known_step_is_the_same():
    batch, mask = film(), some()
    batch = Batch(batch.video, batch.ids, motion=even((2.0, -1.0)))
    got = wanted(Trajectory(4), batch, mask)
    steps, known = (part.unflatten(2, (4, 2, 2, 2)) for part in (got.values, got.weights))
    assert got.values.shape[2] == Trajectory(4).size(GRID, 3) == 32
    for b in range(2):
        for p, token in enumerate(mask.predict[b].tolist()):
            t, h, w = np.unravel_index(token, (3, 3, 4))
            for step in range(4):
                for i in range(2):
                    for j in range(2):
                        x, y = 8 * w + 4 * j + 2 + 2 * step, 8 * h + 4 * i + 2 - step
                        there = 2 * t + step < 5 and x < 32 and y >= 0
                        assert (known[b, p, step, :, i, j] == there).all()
                        expected = torch.tensor([2 / 8, -1 / 8]) * there
                        torch.testing.assert_close(steps[b, p, step, :, i, j], expected)
    assert 0 < known.mean() < 1


def test_a_path_takes_the_vector_of_where_it_has_come_to():
    """The left half sends 8 pixels to the right, the right half 4 down; a path from the left turns."""
    motion = Motion.unknown(SHAPE, 8, clips=2)
    motion.to_next[:, 0, :, :, :2] = 8
    motion.to_next[:, 1, :, :, 2:] = 4
    motion.has[:, :-1] = True
    batch = film()
    mask = TokenMask(torch.zeros(2, 0, dtype=torch.long), torch.tensor([[1], [1]]), GRID)  # top row, second column
    got = wanted(Trajectory(3, unit=1.0), Batch(batch.video, batch.ids, motion=motion), mask)
    steps = got.values.unflatten(2, (3, 2, 4))
    assert (steps[:, 0, 0] == torch.tensor([8.0, 0.0]).view(2, 1)).all()
    assert (steps[:, 0, 1:] == torch.tensor([0.0, 4.0]).view(2, 1)).all()
    assert (got.weights == 1).all()


def test_after_an_unknown_step_nothing_is_known_and_nothing_of_it_is_read():
    motion = even((0.5, 0.0))
    motion.has[:, 1] = False
    motion.to_next[:, :, 1] = torch.nan
    batch = film()
    every = TokenMask(torch.zeros(2, 0, dtype=torch.long), torch.arange(12).expand(2, 12), GRID)  # the first slot
    for normalise in (False, True):
        got = wanted(Trajectory(4, normalise=normalise), Batch(batch.video, batch.ids, motion=motion), every)
        assert got.values.isfinite().all()
        weights = got.weights.unflatten(2, (4, 8))
        assert (weights[:, :, 0] == 1).all()
        assert (weights[:, :, 1:] == 0).all()


def test_mirrored_clips_have_mirrored_paths():
    generator = torch.Generator().manual_seed(3)
    motion = even((0.0, 0.0))
    motion.to_next[:, :, :-1] = torch.randint(-3, 4, (2, 2, 5, 6, 8), generator=generator).float() + 0.25
    turned = motion.to_next.flip(4) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    mirrored = Motion(motion.to_previous, turned, motion.had, motion.has, motion.block)
    every = TokenMask(torch.zeros(2, 0, dtype=torch.long), torch.arange(36).expand(2, 36), GRID)

    def paths(field: Motion) -> list[torch.Tensor]:  # b T H W l 2 rows columns
        batch = film()
        got = wanted(Trajectory(3), Batch(batch.video, batch.ids, motion=field), every)
        return [part.view(2, 3, 3, 4, 3, 2, 2, 2) for part in (got.values, got.weights)]

    (values, weights), (other, others) = paths(motion), paths(mirrored)
    sign = torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    torch.testing.assert_close(other.flip(3).flip(7) * sign, values)
    assert torch.equal(others.flip(3).flip(7), weights)
    assert values[..., 0, :, :].abs().max() > 0


def test_normalised_steps_are_how_quarters_move_against_each_other():
    generator = torch.Generator().manual_seed(4)
    motion = even((0.0, 0.0))
    motion.to_next[:, :, :-1] = torch.rand(2, 2, 5, 6, 8, generator=generator) - 0.5
    motion.has[:, :, 0, 0] = False  # one quarter of the first token
    batch, mask = film(), some()
    batch = Batch(batch.video, batch.ids, motion=motion)
    mask = TokenMask(mask.visible[:, :1], torch.arange(36).expand(2, 36), GRID)
    raw, got = wanted(Trajectory(2, unit=20.0), batch, mask), wanted(Trajectory(2, 20.0, True), batch, mask)
    cases = zip(raw.values.view(-1, 4), raw.weights.view(-1, 4), got.values.view(-1, 4), strict=True)
    for values, weights, normalised in cases:
        here = weights.bool()
        if here.sum() > 1:
            expected = (values[here] - values[here].mean()) / (values[here].std() + 1e-6)
            torch.testing.assert_close(normalised[here], expected, atol=1e-4, rtol=1e-4)
    assert {1, 3, 4} & set(raw.weights.view(-1, 4).sum(1).int().tolist()) >= {3, 4}


@pytest.mark.parametrize("target", [Trajectory(), Trajectory(unit=20.0), Trajectory(unit=20.0, normalise=True)])
def test_paths_are_shown_brighter_the_longer_they_are(target):
    mask = TokenMask(torch.zeros(1, 0, dtype=torch.long), torch.tensor([[0]]), GRID)
    values = torch.zeros(1, 1, 4, 2, 2, 2)
    values[..., 0, 0] = 0.01
    values[..., 1, 1] = 0.02
    shown = target.decode(values.flatten(2), torch.zeros(1, 1, 384), mask, 3).view(2, 8, 8, 3)
    assert (shown[:, :4, :4] == shown[0, 0, 0, 0]).all()
    assert 0 == shown[0, 0, 7, 0] < shown[0, 0, 0, 0] < shown[1, 7, 7, 2] <= 1


def test_clips_without_motion_and_patches_without_quarters_are_named():
    with pytest.raises(ValueError, match="target Trajectory follows motion, and the clips came without"):
        wanted(Trajectory(), film())
    batch = film()
    with pytest.raises(ValueError, match=r"target Trajectory got motion of \(6, 3, 3\)"):
        wanted(Trajectory(), Batch(batch.video, batch.ids, motion=Motion.unknown((6, 24, 24), clips=2)))
    with pytest.raises(ValueError, match="patches of 7x8 pixels have no four quarters"):
        Trajectory().size(Grid(1, 1, 1, (2, 7, 8)), 3)
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        Trajectory(0).size(GRID, 3)
