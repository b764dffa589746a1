"""Which frames: the laws of every sampler, and the released readers' rules, written again from their description."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data import sampling
from tubelet.data.sampling import Dense, Segments, Spread, clips_of, varies
from tubelet.types import Sampler

totals, sizes, strides = st.integers(1, 300), st.integers(1, 20), st.integers(1, 9)
seeds = st.none() | st.integers(0, 2**32 - 1)


def even(total: int, fps: float = 25) -> np.ndarray:
    return np.arange(total) / fps


def generator(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


def test_the_examples_of_the_docstrings():
    result = doctest.testmod(sampling)
    assert result.attempted > 10
    assert not result.failed


def released(total: int, frames: int, stride: int, start: int) -> list[int]:
    """VideoMAE's pre-training reader: offsets count from 1, and step on only while that stays below the total."""
    indices, offset = [], start + 1
    for _ in range(frames):
        indices.append(offset - 1)
        if offset + stride < total:
            offset += stride
    return indices


# ---------------------------------------------------------------------------- dense


@given(totals, sizes, strides, seeds)
def test_dense_is_the_released_rule(total, frames, stride, seed):
    clip = Dense(frames, stride)(even(total), generator(seed))
    room = total - frames * stride
    assert 0 <= clip[0] <= max(room, 0)
    if room < 0 or stride > 1:
        assert clip.tolist() == released(total, frames, stride, int(clip[0]))
    if room >= 0:
        assert (np.diff(clip) == stride).all()
    if seed is None:
        assert clip[0] == max(room, 0) // 2


def test_every_start_is_drawn_the_last_one_too():
    starts = [int(Dense(16, 4)(even(66), np.random.default_rng(seed))[0]) for seed in range(200)]
    assert set(starts) == {0, 1, 2}
    assert min(starts.count(start) for start in (0, 1, 2)) > 40
    assert {int(Dense(16, 4)(even(64), np.random.default_rng(seed))[0]) for seed in range(20)} == {0}


@given(totals, sizes, strides, st.sampled_from(["repeat", "wrap", "error"]), seeds)
def test_short_videos_repeat_wrap_or_are_an_error(total, frames, stride, short, seed):
    dense, times = Dense(frames, stride, short=short), even(total)
    if dense.is_short(times) and short == "error":
        needed = (frames - 1) * stride + 1
        assert dense.needs(times) == needed > total
        with pytest.raises(ValueError, match=f"needs {needed} source frames; the video has {total}"):
            dense(times, generator(seed))
        return
    clip = dense(times, generator(seed))
    assert clip.shape == (frames,)
    assert ((clip >= 0) & (clip < total)).all()
    if short == "wrap":
        assert (np.diff(clip) % total == stride % total).all()
    else:
        assert (np.diff(clip) >= 0).all()
    if not dense.is_short(times):
        assert (np.diff(clip) == stride).all()


@given(st.integers(80, 300), st.sampled_from([10.0, 24.0, 29.97, 60.0]), seeds)
def test_stride_rate_and_span_say_the_same(total, fps, seed):
    times = even(total, fps)
    by_stride = Dense(16, 4)(times, generator(seed)).tolist()
    assert Dense(16, fps=fps / 4)(times, generator(seed)).tolist() == by_stride
    assert Dense(16, span=16 * 4 / fps)(times, generator(seed)).tolist() == by_stride


@given(st.lists(st.floats(0.02, 0.5), min_size=40, max_size=120), seeds)
def test_where_the_rate_varies_steps_are_times(gaps, seed):
    times = np.concatenate([[0], np.cumsum(gaps)])
    if not varies(times):
        return
    clip = Dense(8, 3, short="wrap")(times, generator(seed))
    interval = times[-1] / (len(times) - 1)

    def shown(place: float) -> int:
        return int(np.flatnonzero(times <= place * interval + 1e-6)[-1])

    starts = [start for start in range(len(times) - 24 + 1) if shown(start) == clip[0]]
    assert clip.tolist() in [[shown(start + 3 * k) for k in range(8)] for start in starts]


def test_rounding_and_jitter_are_not_a_varying_rate():
    for fps in (12, 15, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60):
        times = even(2000, fps)
        for tick in (1 / 1000, 1 / 600, 1 / 90000):
            for rounded in (np.round, np.floor, np.ceil):
                assert not varies(rounded(times / tick) * tick)
        assert varies(np.delete(times, 1000))  # one frame dropped
    assert not varies(np.array([0.0]))
    assert not varies(np.array([0.0, 5.0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 4, "fps": 5.0},
        {"fps": 1.0, "span": 1.0},
        {"frames": 0},
        {"stride": 0},
        {"fps": -1.0},
    ],
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(ValueError, match=r"given more than once|positive"):
        Dense(**wrong)


def test_the_default_is_that_of_kinetics():
    assert Dense() == Dense(16, stride=4)


# ---------------------------------------------------------------------------- segments


@given(totals, sizes, seeds)
def test_segments_take_one_frame_of_each_part(total, frames, seed):
    segments = Segments(frames)
    clip = segments(even(total), generator(seed))
    assert clip.shape == (frames,)
    assert ((clip >= 0) & (clip < total)).all()
    assert (np.diff(clip) >= 0).all()
    assert segments.is_short(even(total)) == (total < frames)
    if total >= frames:
        assert (clip // (total // frames) == np.arange(frames)).all()
        if seed is None:
            assert (clip % (total // frames) == total // frames // 2).all()


def test_segments_draw_every_frame_of_a_part():
    draws = np.stack([Segments(16)(even(50), np.random.default_rng(seed)) for seed in range(200)])
    for part in range(16):
        assert set(draws[:, part]) == {3 * part, 3 * part + 1, 3 * part + 2}


# ---------------------------------------------------------------------------- spread


def released_spread(total: int, frames: int, rate: int, end: int) -> list[int]:
    """The fine-tuning reader, from its description; `end` is its draw."""
    span = frames * rate
    if total <= span:
        places = np.linspace(0, total, total // rate).tolist()
        places += [total] * (frames - len(places))
        return [int(min(place, total - 1)) for place in places]
    return [int(min(place, end - 1)) for place in np.linspace(end - span, end, frames)]


@given(totals, sizes, strides, seeds)
def test_spread_is_the_released_rule(total, frames, stride, seed):
    clip = Spread(frames, stride)(even(total), generator(seed))
    assert clip.shape == (frames,)
    span = frames * stride
    ends = [(span + total) // 2] if seed is None else range(span, max(total, span + 1))
    end = next(end for end in ends if total <= span or end - span == clip[0])
    assert clip.tolist() == released_spread(total, frames, stride, end)


def test_spread_in_numbers():
    """Sixteen points over 64 frames, both ends included: strides of 4 and 5, the last point moved to the last frame."""
    expected = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
    assert Spread()(even(64)).tolist() == expected
    assert Spread()(even(300)).tolist() == [118 + frame for frame in expected]
    assert Spread()(even(3)).tolist() == [2] * 16  # less than a stride: the last frame
    assert [Spread().is_short(even(total)) for total in (63, 64)] == [True, False]
    assert len(set(Spread()(even(63)).tolist())) < 16


def test_spread_draws_every_start_but_the_last():
    starts = [int(Spread()(even(68), np.random.default_rng(seed))[0]) for seed in range(200)]
    assert set(starts) == {0, 1, 2, 3}  # 4 would fit too; the released draw leaves it out
    assert min(starts.count(start) for start in range(4)) > 30


def test_spread_goes_by_time_where_the_rate_varies():
    times = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.3, 64))
    places = np.array([0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63])
    shown = [np.flatnonzero(times <= times[0] + place * (times[-1] - times[0]) / 63 + 1e-9)[-1] for place in places]
    assert Spread()(times).tolist() == shown


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"stride": 0}])
def test_spread_needs_positive_numbers(wrong):
    with pytest.raises(ValueError, match="positive"):
        Spread(**wrong)


# ---------------------------------------------------------------------------- all


@pytest.mark.parametrize("sampler", [Dense(), Dense(8, fps=5.0), Dense(8, span=2.0), Segments(), Spread()])
def test_samplers_are_samplers(sampler):
    assert isinstance(sampler, Sampler)
    with pytest.raises(ValueError, match="without frames"):
        sampler(np.zeros(0))
    one = sampler(np.zeros(1), np.random.default_rng(0))
    assert one.tolist() == [0] * sampler.frames
    times = even(100)
    assert sampler(times, np.random.default_rng(5)).tolist() == sampler(times, np.random.default_rng(5)).tolist()


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=20), st.floats(0.5, 60))
def test_long_videos_give_more_clips(durations, seconds):
    counts = clips_of(durations, "duration", seconds)
    assert (counts >= 1).all()
    assert np.abs(counts - np.maximum(np.array(durations) / seconds, 1)).max() <= 0.5 + 1e-6
    assert clips_of(durations, per="video").tolist() == [1] * len(durations)


@pytest.mark.parametrize("every", [1, 4, 8])
def test_clips_that_begin_on_a_layer(every):
    """As drawn without it, and then back to the frame of the layer before; never past the end."""
    seconds = np.arange(150) / 25
    firsts = []
    for seed in range(60):
        free = Dense(16, stride=4)(seconds, np.random.default_rng(seed))
        held = Dense(16, stride=4, every=every)(seconds, np.random.default_rng(seed))
        assert held[0] == free[0] // every * every
        assert (np.diff(held) == 4).all()
        firsts.append(int(held[0]))
    assert len(set(firsts)) > 30 // every


@pytest.mark.parametrize("every", [0, -4])
def test_no_layer_has_such_a_distance(every):
    with pytest.raises(ValueError, match=f"every={every}"):
        Dense(16, every=every)
