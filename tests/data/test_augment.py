"""RandAugment: every operation against its definition in NumPy, and how the operations are drawn."""

import doctest
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.data import augment
from tubelet.data.augment import OPERATIONS, RandAugment, changed
from tubelet.data.datasets import Data, Dataset
from tubelet.data.sampling import Dense
from tubelet.data.sources import find

SHARES = (0.0, 0.1, 0.3, 0.7, 1.0)  # magnitude / 10


def clip(frames: int = 3, height: int = 37, width: int = 52, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth waves of few levels at the ends of the range, with noise: each frame and channel another histogram."""
    rng = np.random.default_rng(seed)
    t, y, x, c = np.ogrid[:frames, :height, :width, :channels]
    waves = np.sin(y / (5 + t)) + np.cos((x + 3 * c) / (7 - c)) + 0.2 * rng.standard_normal((1, height, width, 1))
    return torch.from_numpy((110 + 20 * c + (25 + 10 * t) * waves).clip(0, 255).astype(np.uint8))


def test_the_examples_of_the_docstrings():
    result = doctest.testmod(augment)
    assert result.attempted == 2
    assert not result.failed


# ---------------------------------------------------------------------------- the operations, from their definitions
# `share` is the magnitude / 10, negative where the sign was drawn so; a frame is "h w c" in float64.


def by_table(frame: np.ndarray, table) -> np.ndarray:
    """Each channel through its own table of 256 levels, made from its histogram."""
    channels = []
    for values in np.moveaxis(frame.astype(int), 2, 0):
        levels = table(np.bincount(values.ravel(), minlength=256))
        channels.append(np.array(levels)[values])
    return np.stack(channels, 2)


def auto_contrast(frame, share):
    """The darkest level becomes 0, the brightest 255."""

    def table(counts):
        low, high = np.flatnonzero(counts)[[0, -1]]
        return [min(max((level - low) * 255 / (high - low), 0), 255) for level in range(256)]

    return by_table(frame, table)


def equalize(frame, share):
    """Level by level the share of darker pixels; the brightest level's own pixels do not count."""

    def table(counts):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        return [min((step // 2 + counts[:level].sum()) // step, 255) for level in range(256)]

    return by_table(frame, table)


def invert(frame, share):
    return 255 - frame


def posterize(frame, share):
    """Fewer bits: 4 of 8 and down to none."""
    kept = 4 - int(share * 4)
    return frame // 2 ** (8 - kept) * 2 ** (8 - kept)


def solarize(frame, share):
    return np.where(frame >= 256 - int(share * 256), 255 - frame, frame)


def solarize_add(frame, share):
    return np.where(frame < 128, np.minimum(frame + int(share * 110), 255), frame)


def gray(frame):
    weights = (0.299, 0.587, 0.114) if frame.shape[2] == 3 else (1,)
    return (frame * weights).sum(2, keepdims=True)


def blend(other, frame, share):
    return (other + (frame - other) * (1 + 0.9 * share)).clip(0, 255)


def color(frame, share):
    return blend(gray(frame).round(), frame, share)


def contrast(frame, share):
    return blend(np.floor(gray(frame).round().mean() + 0.5), frame, share)


def brightness(frame, share):
    return blend(0, frame, share)


def sharpness(frame, share):
    """Away from, or towards, the mean of the neighbours with the pixel itself five times; borders are left alone."""
    smooth = frame.copy()
    height, width, _ = frame.shape
    total = sum(frame[1 + j : height - 1 + j, 1 + i : width - 1 + i] for j in (-1, 0, 1) for i in (-1, 0, 1))
    smooth[1:-1, 1:-1] = ((total + 4 * frame[1:-1, 1:-1]) / 13).round()
    return blend(smooth, frame, share)


def cubic(distance):
    """Keys' kernel with a = -1, which PIL has here; where it resizes, a is -1/2."""
    d = abs(distance)
    if d < 1:
        return d**3 - 2 * d**2 + 1
    return -(d**3) + 5 * d**2 - 8 * d + 4 if d < 2 else 0.0


def moved(frame, source):
    """Every pixel from the place `source(x, y)`, centres at halves, bicubic, borders continued; 128 from outside."""
    height, width, _ = frame.shape
    out = np.full(frame.shape, 128.0)
    for row in range(height):
        for column in range(width):
            x, y = source(column + 0.5, row + 0.5)
            if not (0 <= x < width and 0 <= y < height):
                continue
            left, top = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
            value = 0.0
            for j in range(top - 1, top + 3):
                for i in range(left - 1, left + 3):
                    pixel = frame[min(max(j, 0), height - 1), min(max(i, 0), width - 1)]
                    value = value + cubic(x - 0.5 - i) * cubic(y - 0.5 - j) * pixel
            out[row, column] = value
    return out.clip(0, 255)


def rotate(frame, share):
    """Against the clock around the middle, up to 30 degrees."""
    height, width, _ = frame.shape
    cos, sin = np.cos(np.deg2rad(30 * share)), np.sin(np.deg2rad(30 * share))

    def source(x, y):
        x, y = x - width / 2, y - height / 2
        return cos * x - sin * y + width / 2, sin * x + cos * y + height / 2

    return moved(frame, source)


def shear_x(frame, share):
    return moved(frame, lambda x, y: (x + 0.3 * share * y, y))


def shear_y(frame, share):
    return moved(frame, lambda x, y: (x, y + 0.3 * share * x))


def translate_x(frame, share):
    return moved(frame, lambda x, y: (x + 0.45 * share * frame.shape[1], y))


def translate_y(frame, share):
    return moved(frame, lambda x, y: (x, y + 0.45 * share * frame.shape[0]))


# What an operation is compared with, whether it has a sign, and by how many levels it may differ: PIL cuts fractions
# off, and rounds the grey and the smooth picture before they are blended.
REFERENCES = {
    "AutoContrast": (auto_contrast, False, 1),
    "Equalize": (equalize, False, 0),
    "Invert": (invert, False, 0),
    "Rotate": (rotate, True, 1),
    "Posterize": (posterize, False, 0),
    "Solarize": (solarize, False, 0),
    "SolarizeAdd": (solarize_add, False, 0),
    "Color": (color, True, 2),
    "Contrast": (contrast, True, 1),
    "Brightness": (brightness, True, 1),
    "Sharpness": (sharpness, True, 2),
    "ShearX": (shear_x, True, 1),
    "ShearY": (shear_y, True, 1),
    "TranslateX": (translate_x, True, 1),
    "TranslateY": (translate_y, True, 1),
}


def test_the_operations_are_those_of_the_recipe():
    assert list(OPERATIONS) == list(REFERENCES)
    assert {name for name, operation in OPERATIONS.items() if operation.signed} == {
        name for name, (_, signed, _) in REFERENCES.items() if signed
    }


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", REFERENCES)
def test_every_operation_is_its_definition(name, channels):
    reference, signed, tolerance = REFERENCES[name]
    frames = clip(1 if name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY") else 3, channels=channels)
    results = []
    for share in {sign * share for share in SHARES for sign in ((1, -1) if signed else (1,))}:
        ours = changed(frames, [(name, share * OPERATIONS[name].most)])
        assert ours.shape == frames.shape
        assert ours.dtype == torch.uint8
        expected = np.stack([reference(frame.astype(float), share) for frame in frames.numpy()])
        assert np.abs(ours.numpy() - expected).max() <= tolerance + 1e-6
        results.append(ours.numpy().astype(int))
    if OPERATIONS[name].most and (name, channels) != ("Color", 1):  # larger amounts do something
        assert max(np.abs(result - frames.numpy()).max() for result in results) > 10


@pytest.mark.parametrize("channels", [3, 1])
def test_what_is_left_empty_is_grey(channels):
    frames = torch.zeros(1, 20, 40, channels, dtype=torch.uint8)
    right = changed(frames, [("TranslateX", 0.25)])[0]  # the picture goes to the left
    assert set(right[:, 30:].unique().tolist()) == {128}
    assert set(right[:, :30].unique().tolist()) == {0}
    for name, corners in (("Rotate", 4), ("ShearX", 1), ("ShearY", 1)):
        moved = changed(frames, [(name, OPERATIONS[name].most)])[0]
        assert set(moved.unique().tolist()) == {0, 128}
        assert sum(bool((moved[y, x] == 128).all()) for y in (0, -1) for x in (0, -1)) == corners


# Amounts at magnitudes 0, 5, 7 and 10, written down from the published list.
LEVELS = {
    "Rotate": (0, 15, 21, 30),  # degrees
    "Posterize": (0, 2, 2, 4),  # bits less than 4
    "Solarize": (0, 128, 179, 256),  # below 256 is the threshold
    "SolarizeAdd": (0, 55, 77, 110),
    "Color": (0, 0.45, 0.63, 0.9),  # away from 1
    "Contrast": (0, 0.45, 0.63, 0.9),
    "Brightness": (0, 0.45, 0.63, 0.9),
    "Sharpness": (0, 0.45, 0.63, 0.9),
    "ShearX": (0, 0.15, 0.21, 0.3),
    "ShearY": (0, 0.15, 0.21, 0.3),
    "TranslateX": (0, 0.225, 0.315, 0.45),  # of the width
    "TranslateY": (0, 0.225, 0.315, 0.45),
}


@pytest.mark.parametrize(("column", "magnitude"), [*enumerate((0.0, 5.0, 7.0, 10.0))])
def test_amounts_of_the_published_list(column, magnitude):
    draws = RandAugment(magnitude, layers=400, spread=0.0, probability=1.0).draw(np.random.default_rng(0))
    found = {name: abs(amount) for name, amount in draws}
    whole = ("Posterize", "Solarize", "SolarizeAdd")
    assert {n: int(a) if n in whole else round(a, 9) for n, a in found.items() if n in LEVELS} == {
        name: levels[column] for name, levels in LEVELS.items()
    }
    assert {found[name] for name in ("AutoContrast", "Equalize", "Invert")} == {0}


# ---------------------------------------------------------------------------- how they are drawn


def test_operations_are_drawn_uniformly_half_of_them_applied():
    rng, draws = np.random.default_rng(0), []
    for _ in range(6000):
        draws.append(RandAugment().draw(rng))
    applied = Counter(len(draw) for draw in draws)  # binomial, 4 draws at one half
    expected = dict(enumerate(6000 * np.array([1, 4, 6, 4, 1]) / 16))
    assert sum((applied[n] - count) ** 2 / count for n, count in expected.items()) < 18.5  # 99.9 %, 4 degrees
    names = Counter(name for draw in draws for name, _ in draw)
    mean = sum(names.values()) / 15
    assert sum((names[name] - mean) ** 2 / mean for name in OPERATIONS) < 36.1  # 99.9 %, 14 degrees
    twice = sum(len({name for name, _ in draw}) < len(draw) for draw in draws)
    some = [draw for draw in draws if len(draw) == 2]
    again = sum(draw[0][0] == draw[1][0] for draw in some) / len(some)
    assert twice > 0
    assert abs(again - 1 / 15) < 4 * np.sqrt(14 / 225 / len(some))  # with replacement


def test_magnitudes_are_normal_and_signs_even():
    rng = np.random.default_rng(1)
    turns = [a / 3 for _ in range(6000) for name, a in RandAugment(probability=1.0).draw(rng) if name == "Rotate"]
    sizes = np.abs(turns)
    count = len(turns)
    assert abs(sizes.mean() - 7) < 4 * 0.5 / np.sqrt(count)
    assert abs(sizes.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * count)
    assert abs(np.mean(np.array(turns) > 0) - 0.5) < 2 / np.sqrt(count)
    most = [abs(a) for _ in range(500) for name, a in RandAugment(10.0).draw(rng) if name == "Rotate"]
    assert max(most) == 30
    assert 0.3 < np.mean(np.array(most) == 30) < 0.7  # half of the draws are above 10 and kept there
    assert {a for name, a in RandAugment(0.0, 400, 0.0, 1.0).draw(rng)} == {0}


def test_one_draw_for_all_frames():
    still = clip(1).expand(6, -1, -1, -1)
    for seed in range(12):
        frames = RandAugment(probability=1.0)(still, np.random.default_rng(seed))
        assert all(torch.equal(frame, frames[0]) for frame in frames)
        assert not torch.equal(frames[0], still[0])


def test_frames_do_not_see_each_other():
    frames = clip(4)
    for seed in range(12):
        whole = RandAugment(probability=1.0)(frames, np.random.default_rng(seed))
        alone = [RandAugment(probability=1.0)(frame[None], np.random.default_rng(seed)) for frame in frames]
        assert torch.equal(whole, torch.cat(alone))


def test_the_same_generator_gives_the_same_clip():
    frames = clip()
    before = frames.clone()
    clips = [RandAugment()(frames, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])
    assert torch.equal(frames, before)
    assert RandAugment(probability=0.0)(frames, np.random.default_rng(0)) is frames
    rng = np.random.default_rng(3)
    assert not torch.equal(RandAugment()(frames, rng), RandAugment()(frames, rng))


def test_grey_clips_are_what_grey_colours_become():
    frames = clip(channels=1)
    for seed in range(20):
        draws = RandAugment(probability=1.0).draw(np.random.default_rng(seed))
        colour = changed(frames.expand(-1, -1, -1, 3).contiguous(), draws)
        assert torch.equal(changed(frames, draws).expand(-1, -1, -1, 3), colour)


def test_clips_of_a_dataset_are_changed_before_the_crop(clips):
    items = find(clips)
    plain = Data(Dense(4, 2), size=(32, 32), repeats=2)
    changing = replace(plain, augment=RandAugment(probability=1.0))
    before, after = (Dataset(items, data, seed=3)[0].video for data in (plain, changing))
    assert not torch.equal(before, after)
    assert not torch.equal(after[0], after[1])  # each of the repeats has a draw of its own
    assert torch.equal(after, Dataset(items, changing, seed=3)[0].video)


# ---------------------------------------------------------------------------- settings


def test_the_usual_string():
    assert RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment(7.0, 4, 0.5, 0.5)
    assert RandAugment.parse("rand-m9-n3-inc1") == RandAugment(9.0, 3, 0.0, 0.5)
    assert RandAugment.parse("rand-inc1-p0.8") == RandAugment(10.0, 2, 0.0, 0.8)


OTHER = ["augmix-m5-inc1", "rand-m7-mstd0.5", "rand-m7-inc0", "rand-w0-inc1", "rand-mx-inc1", "rand-inc1-", "inc1-rand"]


@pytest.mark.parametrize("text", [*OTHER, "rand-n2.5-inc1", "rand-m7-m8-inc1", "rand-m7-inc1-mstdinf", ""])
def test_strings_that_say_something_else(text):
    with pytest.raises(ValueError, match=r"expected rand-m7-n4-mstd0\.5-inc1 or the like"):
        RandAugment.parse(text)


@pytest.mark.parametrize(
    "wrong", [{"magnitude": 11.0}, {"layers": 0}, {"spread": -1.0}, {"probability": 2.0}, {"magnitude": float("nan")}]
)
def test_settings_that_cannot_be_used(wrong):
    with pytest.raises(ValueError, match=f"RandAugment's {next(iter(wrong))} .* cannot be used; expected"):
        RandAugment(**wrong)
