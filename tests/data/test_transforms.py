"""Crops against the numbers of the paper's code, and resizing against PIL."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tubelet.data.transforms import (
    CentreCrop,
    Crop,
    MultiScaleCrop,
    RandomResizedCrop,
    Window,
    flipped,
    largest,
    offsets,
    resized,
    snapped,
)

CROPS = [MultiScaleCrop(), RandomResizedCrop(), RandomResizedCrop((0.08, 1.0)), CentreCrop()]
sides = st.integers(16, 400)
outputs = st.tuples(st.sampled_from([16, 64, 96, 224]), st.sampled_from([16, 64, 112, 224]))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def pil(frames: torch.Tensor, window: Window, size: tuple[int, int]) -> np.ndarray:
    top, left, height, width = window
    pictures = []
    for frame in frames[:, top : top + height, left : left + width].numpy():
        picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        pictures.append(np.asarray(picture).reshape(*size, frame.shape[-1]))
    return np.stack(pictures).astype(int)


@settings(max_examples=40, deadline=None)
@given(sides, sides, outputs, st.sampled_from([1, 3]), st.sampled_from(CROPS), st.integers(0, 99))
def test_same_as_pil(height, width, size, channels, crop, seed):
    frames = noise(2, height, width, channels)
    window = crop.window(height, width, size, np.random.default_rng(seed))
    ours = crop(frames, size, np.random.default_rng(seed))
    assert ours.is_contiguous()
    difference = np.abs(pil(frames, window, size) - ours.numpy())
    assert difference.max() <= 2  # of two passes, each rounded: one level apiece, and hardly ever both
    assert (difference > 1).mean() < 1e-3


@settings(max_examples=300, deadline=None)
@given(sides, sides, outputs, st.sampled_from(CROPS), st.integers(0, 2**32))
def test_windows_lie_inside(height, width, size, crop, seed):
    window = crop.window(height, width, size, np.random.default_rng(seed))
    assert window == crop.window(height, width, size, np.random.default_rng(seed))
    assert window.height > 0
    assert window.width > 0
    assert 0 <= window.top <= height - window.height
    assert 0 <= window.left <= width - window.width


def released_crops(image_w: int, image_h: int, size: int) -> list[Window]:
    """All 10 x 13 windows of the released multi-scale crop, from its description: loops, no cleverness."""
    base = min(image_w, image_h)
    edges = [int(base * scale) for scale in (1, 0.875, 0.75, 0.66)]
    edges = [size if abs(edge - size) < 3 else edge for edge in edges]
    windows = []
    for i, h in enumerate(edges):
        for j, w in enumerate(edges):
            if abs(i - j) > 1:
                continue
            w_step, h_step = (image_w - w) // 4, (image_h - h) // 4
            for x, y in [
                (0, 0), (4 * w_step, 0), (0, 4 * h_step), (4 * w_step, 4 * h_step), (2 * w_step, 2 * h_step),
                (0, 2 * h_step), (4 * w_step, 2 * h_step), (2 * w_step, 4 * h_step), (2 * w_step, 0),
                (w_step, h_step), (3 * w_step, h_step), (w_step, 3 * h_step), (3 * w_step, 3 * h_step),
            ]:  # fmt: skip
                windows.append(Window(y, x, h, w))
    return windows


@pytest.mark.parametrize(("width", "height"), [(320, 240), (340, 256), (240, 320), (1280, 720), (258, 226), (171, 128)])
def test_multi_scale_crop_is_the_released_one(width, height):
    expected = set(released_crops(width, height, 224))
    rng = np.random.default_rng(0)
    drawn = {MultiScaleCrop().window(height, width, (224, 224), rng) for _ in range(4000)}
    assert drawn == expected


def test_multi_scale_crop_in_numbers():
    pairs = MultiScaleCrop().windows(256, 340, (224, 224))
    expected = "256x256 256x224 224x256 224x224 224x192 192x224 192x192 192x168 168x192 168x168"
    assert " ".join(f"{height}x{width}" for height, width in pairs) == expected
    assert len(set(offsets(101, 57))) == len(offsets(101, 57)) == 13
    assert offsets(100, 60)[:5] == [(0, 0), (0, 60), (100, 0), (100, 60), (50, 30)]
    assert set(offsets(4, 4)[9:]) == {(1, 1), (1, 3), (3, 1), (3, 3)}


@pytest.mark.parametrize(
    ("edge", "limit", "expected"),
    [(222, 240, 224), (226.9, 240, 224), (221, 240, 221), (227, 240, 227), (222, 222, 222)],
)
def test_snapping(edge, limit, expected):
    assert snapped(edge, 224, limit) == expected


def test_multi_scale_draws_are_uniform():
    """As often as the released list has each (some places fall together): chi-square below its 99.9 % point."""
    rng, expected = np.random.default_rng(1), Counter(released_crops(640, 480, 224))
    counts = Counter(MultiScaleCrop().window(480, 640, (224, 224), rng) for _ in range(13_000))
    assert counts.keys() == expected.keys()
    assert sum((counts[w] - 100 * n) ** 2 / (100 * n) for w, n in expected.items()) < 164  # 113 degrees of freedom


def test_other_shapes_than_squares():
    assert largest(240, 320, (112, 224)) == (160, 320)
    assert largest(240, 320, (224, 112)) == (240, 120)
    for height, width in MultiScaleCrop(scales=(1.0, 0.5)).windows(240, 320, (112, 224)):
        assert height in (160, 80)
        assert width in (320, 160)


def test_centre_crop():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert CentreCrop().window(240, 320, (224, 224), rng) == Window(0, 40, 240, 240)
    assert CentreCrop().window(320, 240, (224, 224), rng) == Window(40, 0, 240, 240)
    assert CentreCrop().window(240, 320, (112, 224), rng) == Window(40, 0, 160, 320)
    assert rng.bit_generator.state == before
    frames = noise(3, 224, 224, 3)
    assert torch.equal(CentreCrop()(frames, (224, 224), rng), frames)


@settings(max_examples=100, deadline=None)
@given(st.integers(64, 400), st.integers(64, 400), st.integers(0, 999))
def test_random_resized_crop_keeps_its_limits(height, width, seed):
    window = RandomResizedCrop((0.5, 1.0), (0.75, 4 / 3)).window(height, width, (224, 224), np.random.default_rng(seed))
    middle = CentreCrop().window(height, width, (224, 224), np.random.default_rng(0))
    if window != middle:
        area, ratio = window.height * window.width / (height * width), window.width / window.height
        assert 0.49 < area <= 1
        assert 0.74 < ratio < 1.36


def test_random_resized_crop_of_a_ribbon_is_the_middle():
    rng = np.random.default_rng(0)
    assert RandomResizedCrop().window(20, 2000, (224, 224), rng) == Window(0, 990, 20, 20)


def test_one_window_for_the_whole_clip():
    still = noise(1, 90, 120, 3).expand(8, -1, -1, -1)
    clip = MultiScaleCrop()(still, (64, 64), np.random.default_rng(3))
    assert all(torch.equal(frame, clip[0]) for frame in clip)


def test_no_resizing_where_none_is_needed():
    frames = noise(2, 50, 60, 3)
    assert torch.equal(resized(frames, Window(5, 6, 32, 32), (32, 32)), frames[:, 5:37, 6:38])


def test_flip_twice_is_nothing():
    frames = noise(2, 5, 7, 3)
    assert torch.equal(flipped(flipped(frames)), frames)
    assert torch.equal(flipped(frames)[:, :, 0], frames[:, :, -1])


def test_a_crop_without_a_window_says_so():
    with pytest.raises(TypeError, match="Crop has no window; use MultiScaleCrop"):
        Crop()(noise(1, 8, 8, 3), (8, 8), np.random.default_rng(0))


@pytest.mark.parametrize("scales", [(), (0.5, 2.0), (-1.0,), (0.0,)])
def test_scales_that_make_no_window_are_refused(scales):
    with pytest.raises(ValueError, match="one or more numbers above 0 and up to 1"):
        MultiScaleCrop(scales)
