"""Where the views of a test start: the released test readers, written again from their description."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data import views
from tubelet.data.sampling import Dense, Segments, Spread, varies
from tubelet.data.views import time_views

totals, counts = st.integers(1, 400), st.integers(2, 10)


def even(total: int, fps: float = 25) -> np.ndarray:
    return np.arange(total) / fps


def lists(sampler, total: int, count: int) -> list[list[int]]:
    return [view.tolist() for view in time_views(sampler, even(total), count)]


def test_the_examples_of_the_docstrings():
    result = doctest.testmod(views)
    assert result.attempted >= 3
    assert not result.failed


def released_dense(total: int, chunk: int, chunks: int, frames: int = 16, rate: int = 4) -> list[int]:
    """Kinetics: every `rate`-th frame of the whole video, the last one repeated, cut at chunk * step."""
    buffer = [frame for frame in range(total) if frame % rate == 0]
    while len(buffer) < frames:
        buffer.append(buffer[-1])
    step = max((len(buffer) - frames) / (chunks - 1), 0)
    start = int(chunk * step)
    return buffer[start : start + frames]


def released_segments(total: int, chunk: int) -> list[int]:
    """Something-Something, version 1: starts and middles of the parts in one sorted list, every second of it."""
    tick = total / 16
    both = sorted([int(tick / 2 + tick * x) for x in range(16)] + [int(tick * x) for x in range(16)])
    return both[chunk::2]


@given(totals, st.sampled_from([2, 3, 4, 5, 7, 10]), st.sampled_from([8, 16, 32]), st.integers(1, 5))
def test_dense_views_are_the_released_ones(total, count, frames, stride):
    expected = [released_dense(total, chunk, count, frames, stride) for chunk in range(count)]
    assert lists(Dense(frames, stride), total, count) == expected
    assert lists(Spread(frames, stride), total, count) == expected


@given(totals)
def test_segment_views_are_the_released_ones(total):
    assert lists(Segments(16), total, 2) == [released_segments(total, 0), released_segments(total, 1)]


@given(totals, counts, st.sampled_from([8, 16]))
def test_any_number_of_segment_views(total, count, frames):
    """V2's general rule, int(t * tick / count + tick * x), in fractions that a float would blur."""
    for turn, view in enumerate(lists(Segments(frames), total, count)):
        assert view == [total * (turn + count * x) // (count * frames) for x in range(frames)]
        tick = total / frames
        released = [int(turn * tick / count + tick * x + 1e-9) for x in range(frames)]
        assert view == released


def test_the_numbers_that_everybody_gets():
    assert [view[0] // 4 for view in lists(Dense(16, 4), 300, 5)] == [0, 14, 29, 44, 59]  # 75 frames at stride 4
    assert lists(Segments(16), 32, 2) == [list(range(0, 32, 2)), list(range(1, 32, 2))]


@pytest.mark.parametrize("sampler", [Dense(16, 4), Dense(8, fps=5.0), Dense(8, span=2.0), Segments(16), Spread(16, 4)])
@pytest.mark.parametrize("total", [1, 40, 333])
def test_one_view_is_the_middle_clip_and_all_lie_inside(sampler, total):
    assert lists(sampler, total, 1) == [sampler(even(total)).tolist()]
    for count in (2, 5):
        found = lists(sampler, total, count)
        assert len(found) == count
        assert all(len(view) == sampler.frames and min(view) >= 0 and max(view) < total for view in found)
        assert all((np.diff(view) >= 0).all() for view in found)
        assert found[0][0] == 0
        assert [view[0] for view in found] == sorted(view[0] for view in found)


def test_a_rate_gives_the_views_of_its_stride():
    assert lists(Dense(16, fps=25 / 4), 300, 5) == lists(Dense(16, 4), 300, 5)
    assert lists(Dense(16, span=64 / 25), 300, 5) == lists(Dense(16, 4), 300, 5)


def test_the_last_view_reaches_the_end():
    assert lists(Dense(16, 4), 301, 5)[-1][-1] == 300
    assert lists(Segments(16), 320, 2)[-1][-1] == 310


def test_short_videos_repeat_wrap_or_are_an_error():
    assert lists(Dense(4, 4), 10, 2) == [[0, 4, 8, 8]] * 2
    assert lists(Dense(4, 4, short="wrap"), 10, 2) == [[0, 4, 8, 2]] * 2
    with pytest.raises(ValueError, match="needs 13 source frames; the video has 10"):
        time_views(Dense(4, 4, short="error"), even(10), 2)
    assert lists(Dense(4, 4, short="error"), 13, 2) == [[0, 4, 8, 12]] * 2


def test_where_the_rate_varies_views_start_at_times():
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, 200))
    times -= times[0]
    assert varies(times)
    interval = times[-1] / 199
    for sampler, places in (
        (Dense(16, 4), [int(c * (50 - 16) / 4) * 4 + 4 * np.arange(16) for c in range(5)]),
        (Segments(10), [20 * np.arange(10) + 4 * c for c in range(5)]),
    ):
        for view, place in zip(time_views(sampler, times, 5), places):
            assert view.tolist() == [np.flatnonzero(times <= p * interval + 1e-9)[-1] for p in place]


def test_what_cannot_be_asked_for():
    with pytest.raises(ValueError, match="one view in time or more, got 0"):
        time_views(Dense(), even(100), 0)
    with pytest.raises(ValueError, match="without frames"):
        time_views(Segments(), np.zeros(0), 2)
