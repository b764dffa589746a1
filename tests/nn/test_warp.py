"""Warping against scipy, splatting against a loop, and both where the answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from tubelet.nn.warp import splat, warp


def drawn(seed: int, b: int, c: int, h: int, w: int, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    maps, flow = rng.normal(size=(b, c, h, w)), rng.uniform(-reach, reach, (b, 2, h, w))
    return torch.from_numpy(maps).float(), torch.from_numpy(flow).float()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(1, 40)),
    reach=st.sampled_from([0.4, 3.0, 50.0]),
)
def test_warp_is_what_scipy_interpolates(seed, size, reach):
    maps, flow = drawn(seed, *size, reach)
    got = warp(maps, flow).numpy()
    rows, columns = np.mgrid[: size[2], : size[3]]
    for clip in range(size[0]):
        where = [rows + flow[clip, 1].numpy(), columns + flow[clip, 0].numpy()]
        for channel in range(size[1]):
            known = maps[clip, channel].double().numpy()
            right = map_coordinates(known, where, order=1, mode="grid-constant", cval=0.0)
            np.testing.assert_allclose(got[clip, channel], right, atol=3e-5)


def splatted(maps: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One clip, pixel by pixel, from the definition: a tent of one pixel around where each pixel lands."""
    _, height, width = maps.shape
    sums, weights = np.zeros_like(maps), np.zeros((1, height, width))
    for y in range(height):
        for x in range(width):
            at_x, at_y = x + flow[0, y, x], y + flow[1, y, x]
            for row in range(height):
                for column in range(width):
                    share = max(0, 1 - abs(row - at_y)) * max(0, 1 - abs(column - at_x))
                    sums[:, row, column] += share * maps[:, y, x]
                    weights[0, row, column] += share
    return sums, weights


@pytest.mark.parametrize("reach", [0.4, 3.0, 20.0])
def test_splat_is_the_definition(reach):
    maps, flow = drawn(7, 2, 2, 6, 8, reach)
    sums, weights = splat(maps, flow)
    for clip in range(2):
        right = splatted(maps[clip].double().numpy(), flow[clip].double().numpy())
        np.testing.assert_allclose(sums[clip], right[0], atol=1e-5)
        np.testing.assert_allclose(weights[clip], right[1], atol=1e-5)


def test_without_flow_nothing_changes_not_even_the_last_bit():
    maps, _ = drawn(1, 2, 3, 224, 224, 1)
    moved = maps
    for _ in range(16):
        moved = warp(moved, torch.zeros(2, 2, 224, 224))
    assert torch.equal(moved, maps)


def test_three_pixels_are_three_pixels_at_both_edges():
    """As released, scaled by W/2, it would be 3.013."""
    ramp = torch.arange(224.0).expand(1, 1, 224, 224)
    flow = torch.zeros(1, 2, 224, 224)
    flow[:, 0] = 3
    assert (warp(ramp, flow)[..., :221] - (ramp[..., :221] + 3)).abs().max() == 0
    flow = flow.flip(1)
    assert (warp(ramp.mT, flow)[..., :221, :] - (ramp.mT[..., :221, :] + 3)).abs().max() == 0


def test_whole_pixels_there_and_back():
    maps, _ = drawn(3, 1, 1, 12, 12, 1)
    flow = torch.zeros(1, 2, 12, 12)
    flow[:, 0], flow[:, 1] = 2, -1
    gone, weight = splat(maps, flow)
    assert torch.equal(weight[0, 0, :11, 2:], torch.ones(11, 10))
    assert weight[0, 0, 11].sum() == weight[0, 0, :, :2].sum() == 0  # nothing came from outside
    back = warp(gone, flow)
    assert torch.equal(back[..., 1:, :10], maps[..., 1:, :10])
