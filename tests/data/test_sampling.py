"""Which frames: against loops written from the released rules, and by law."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data import sampling, sources, synthetic
from tubelet.data.sampling import Dense, Segments, clips_of, varies

MODULES = (sampling, sources, synthetic)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_worked_examples(module):
    assert doctest.testmod(module).failed == 0


def even(total: int, fps: float = 25.0) -> np.ndarray:
    return np.arange(total) / fps


def released(total: int, start: int, frames: int, stride: int) -> list[int]:
    """VideoMAE's loader for pre-training, in words: offsets count from 1; it goes on only while that stays below n."""
    at, chosen = start + 1, []
    for _ in range(frames):
        chosen.append(at - 1)
        if at + stride < total:
            at += stride
    return chosen


@pytest.mark.parametrize(
    ("total", "stride"), [(300, 4), (64, 4), (63, 4), (40, 4), (100, 2), (20, 2), (5, 4), (2, 4), (17, 1)]
)
def test_dense_clips_are_those_of_the_released_loader(total, stride):
    room = max(total - 16 * stride, 0)
    possible = {tuple(released(total, start, 16, stride)) for start in range(room + 1)}
    drawn = {tuple(Dense(16, stride=stride)(even(total), np.random.default_rng(seed)).tolist()) for seed in range(3000)}
    assert drawn == possible  # every start, both ends included, and no other clip


def test_starts_are_uniform():
    starts = [Dense(16, stride=4)(even(68), np.random.default_rng(seed))[0] for seed in range(4000)]
    counts = np.bincount(starts)
    assert len(counts) == 5
    assert counts.min() > 700


@given(total=st.integers(1, 400), frames=st.integers(1, 32), stride=st.integers(1, 8), seed=st.integers(0, 99))
def test_dense_laws(total, frames, stride, seed):
    for short in ("repeat", "wrap"):
        sampler = Dense(frames, stride=stride, short=short)
        clip = sampler(even(total), np.random.default_rng(seed))
        assert len(clip) == frames
        assert clip.min() >= 0
        assert clip.max() < total
        if not sampler.is_short(even(total)):
            assert set(np.diff(clip)) <= {stride}
        if short == "repeat":
            assert (np.diff(clip) >= 0).all()


@given(total=st.integers(1, 400), frames=st.integers(1, 32), seed=st.integers(0, 99))
def test_segments_laws(total, frames, seed):
    clip = Segments(frames)(even(total), np.random.default_rng(seed))
    assert len(clip) == frames
    assert (np.diff(clip) >= 0).all()
    assert 0 <= clip.min() <= clip.max() < total
    if total >= frames:  # index i is i * (n // t) and less than one part more
        part = total // frames
        assert ((clip - np.arange(frames) * part >= 0) & (clip - np.arange(frames) * part < part)).all()


def test_middle_clips_are_in_the_middle():
    clip = Dense(16, stride=4)(even(300))
    assert abs((clip[0] + clip[-1]) / 2 - 149.5) <= 4
    np.testing.assert_array_equal(Segments(4)(even(16)), [2, 6, 10, 14])


def test_too_short_is_an_error_if_one_says_so():
    with pytest.raises(ValueError, match=r"61 .*40|40 .*61"):
        Dense(16, stride=4, short="error")(even(40))


def test_by_seconds_and_by_rate():
    np.testing.assert_array_equal(np.diff(Dense(8, fps=5)(even(200, 30))), [6] * 7)
    spread = Dense(8, span=2.0)(even(200, 32))
    assert set(np.diff(spread)) == {8}


def test_variable_rate_goes_by_time():
    """A second at 25 a second, then a second at 5: steps are even in time, not in frames."""
    seconds = np.concatenate([np.arange(25) / 25, 1 + np.arange(5) / 5])
    assert varies(seconds)
    clip = Dense(6, span=1.2)(seconds, np.random.default_rng(0))
    gaps = np.diff(seconds[clip])
    assert gaps.max() <= 0.2 + 0.2 + 1e-6
    assert not varies(np.round(even(100, 30000 / 1001), 3))  # milliseconds of Matroska are rounding, not variation


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stride": 2, "fps": 3.0}, "more than once"),
        ({"stride": 0}, "positive"),
    ],
)
def test_settings_that_cannot_be_used(settings, words):
    with pytest.raises(ValueError, match=words):
        Dense(16, **settings)


def test_long_videos_give_more_clips():
    np.testing.assert_array_equal(clips_of([36000.0] * 2 + [5.0], clip_seconds=10), [3600, 3600, 1])
    np.testing.assert_array_equal(clips_of([36000.0, 5.0], per="video"), [1, 1])
