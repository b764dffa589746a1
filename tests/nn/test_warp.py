"""Warping against scipy, and where the answer is known."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from tubelet.nn.warp import warp


def drawn(seed: int, b: int, c: int, h: int, w: int, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    maps, flow = rng.normal(size=(b, c, h, w)), rng.uniform(-reach, reach, (b, 2, h, w))
    return torch.from_numpy(maps).float(), torch.from_numpy(flow).float()


@settings(max_examples=25)
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
