"""Crops against the numbers of the paper's code, and resizing against PIL."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tubelet.data.transforms import (
    CentreCrop,
    Crop,
    MultiScaleCrop,
    Place,
    RandomResizedCrop,
    Window,
    covering,
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


@settings(max_examples=40)
@given(sides, sides, outputs, st.sampled_from([1, 3]), st.sampled_from(CROPS), st.integers(0, 99))
def test_same_as_pil(height, width, size, channels, crop, seed):
    frames = noise(2, height, width, channels)
    window = crop.window(height, width, size, np.random.default_rng(seed))
    ours = crop(frames, size, np.random.default_rng(seed))
    assert ours.is_contiguous()
    difference = np.abs(pil(frames, window, size) - ours.numpy())
    assert difference.max() <= 2  # of two passes, each rounded: one level apiece, and hardly ever both
    assert (difference > 1).mean() < 1e-3


@settings(max_examples=300)
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


@settings(max_examples=100)
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


def test_random_resized_crop_is_drawn_as_in_the_recipe():
    """Area .08 to 1, aspect log-uniform from 3/4 to 4/3, drawn again where it does not fit: against a plain loop."""
    crop, rng, other = RandomResizedCrop((0.08, 1.0)), np.random.default_rng(0), np.random.default_rng(1)
    ours = [crop.window(256, 340, (224, 224), rng) for _ in range(4000)]
    wanted = []
    while len(wanted) < 4000:
        area, aspect = other.uniform(0.08, 1) * 256 * 340, 0.75 * (16 / 9) ** other.random()
        h, w = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if h <= 256 and w <= 340:
            wanted.append(Window(other.integers(0, 256 - h + 1), other.integers(0, 340 - w + 1), h, w))
    found, expected = np.array(ours, float), np.array(wanted, float)
    error = np.sqrt(expected.var(0) / 2000)  # of the difference of two means
    assert (np.abs(found.mean(0) - expected.mean(0)) < 4 * error).all()
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        below = (found <= np.quantile(expected, share, axis=0)).mean(0)
        assert np.abs(below - share).max() < 0.04
    area, aspect = found[:, 2] * found[:, 3] / (256 * 340), found[:, 3] / found[:, 2]
    assert 0.079 < area.min() < 0.09
    assert aspect.min() > 0.73
    assert aspect.max() < 1.37


def test_enlarging_is_the_recipe_s_interpolation():
    """Antialiasing, which the recipe has not, changes only what is made smaller."""
    frames = noise(2, 100, 130, 3)
    window = Window(10, 20, 60, 80)
    cut = frames[:, 10:70, 20:100].permute(0, 3, 1, 2).double()
    plain = F.interpolate(cut, (224, 224), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert (resized(frames, window, (224, 224)) - plain).abs().max() < 1.01  # two passes, each rounded


# ---------------------------------------------------------------------------- views of a test


@pytest.mark.parametrize(("height", "width"), [(256, 340), (340, 256), (240, 320), (224, 224), (225, 224), (120, 500)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_places_are_the_released_ones(height, width, count):
    """Short side to 224, then squares along the longer side at int(split * step): scaled by PIL, cut by hand."""
    frames = noise(2, height, width, 3)
    scale = 224 / min(height, width)
    long = int(max(height, width) * scale)
    scaled = (224, long) if width > height else (long, 224)
    whole = pil(frames, Window(0, 0, height, width), scaled)
    for split in range(count):
        start = int(split * (long - 224) / (count - 1))
        expected = whole[:, :, start : start + 224] if width > height else whole[:, start : start + 224]
        view = Place(split, count)(frames, (224, 224))
        assert np.abs(view.numpy() - expected).max() <= 2
        again = Place(split, count)(covering(frames, (224, 224)), (224, 224), np.random.default_rng(0))
        assert torch.equal(view, again)


def test_places_in_numbers():
    assert [Place(split, 3).window(224, 297, (224, 224)) for split in range(3)] == [
        Window(0, 0, 224, 224),
        Window(0, 36, 224, 224),
        Window(0, 73, 224, 224),
    ]
    assert Place().window(297, 224, (224, 224)) == Window(36, 0, 224, 224)


@settings(max_examples=60)
@given(sides, sides, outputs, st.integers(1, 5))
def test_frames_are_covered(height, width, size, count):
    scaled = covering(noise(1, height, width, 1), size)
    spare = scaled.shape[1] - size[0], scaled.shape[2] - size[1]
    assert min(spare) == 0
    assert abs(scaled.shape[1] / scaled.shape[2] * width / height - 1) < 1 / 16  # whole pixels, from 16 on
    windows = [Place(index, count).window(*scaled.shape[1:3], size) for index in range(count)]
    assert {window[2:] for window in windows} == {size}
    if count > 1:
        assert windows[0][:2] == (0, 0)
        assert windows[-1][:2] == spare
    else:
        assert windows[0][:2] == (spare[0] // 2, spare[1] // 2)


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_places_that_are_not_there(index, count):
    with pytest.raises(ValueError, match=f"no view {index} of {count}"):
        Place(index, count)


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
