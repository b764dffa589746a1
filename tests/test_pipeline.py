"""The simulated input pipeline of benchmarks/pipeline.py against closed forms."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def pipeline():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("pipeline")
    finally:
        sys.path.remove(str(BENCHMARKS))


class Given:
    """Clips that take what is written down, by GPU, batch and clip."""

    shared = False

    def __init__(self, seconds: np.ndarray) -> None:
        self.seconds = seconds.tolist()

    def until(self, now: float, gpu: int, batch: int, clip: int) -> float:
        return now + self.seconds[gpu][batch][clip]


def rate(ends: list[float]) -> float:
    """Seconds of a step, once all is under way."""
    first = len(ends) // 2
    return (ends[-1] - ends[first]) / (len(ends) - 1 - first)


@pytest.mark.parametrize(("workers", "step"), [(1, 0.1), (3, 0.1), (3, 0.5), (8, 0.1), (7, 0.1)])
def test_where_all_clips_take_as_long_the_slower_side_sets_the_pace(pipeline, workers, step):
    cluster = pipeline.Cluster(gpus=2, workers=workers, clips=4, step=step)
    ends = pipeline.simulate(cluster, Given(np.full((2, 8 * workers * 6 + 1, 4), 0.2)), 8 * workers * 6 + 1)
    assert rate(ends) == pytest.approx(max(step, 4 * 0.2 / workers))


@pytest.mark.parametrize(("gpus", "workers", "ahead"), [(1, 1, 1), (1, 4, 2), (3, 2, 2), (5, 3, 4)])
def test_steps_end_when_the_recursion_of_the_loader_says(pipeline, gpus, workers, ahead):
    """Batch k is begun when its worker has done k - W and k - ahead * W was taken, taken when it is there and its GPU
    is free; the step ends when the last GPU has had its batch."""
    steps, clips, step = 60, 3, 0.07
    seconds = np.random.default_rng(0).lognormal(-3, 1, (gpus, steps, clips))
    cluster = pipeline.Cluster(gpus=gpus, workers=workers, ahead=ahead, clips=clips, step=step)
    done, taken, ended = np.zeros((gpus, steps)), np.zeros((gpus, steps)), []
    for k in range(steps):
        for g in range(gpus):
            free = done[g, k - workers] if k >= workers else 0.0
            given = taken[g, k - ahead * workers] if k >= ahead * workers else 0.0
            done[g, k] = max(free, given) + seconds[g, k].sum()
            taken[g, k] = max(done[g, k], ended[-1] if ended else 0.0)
        ended.append(taken[:, k].max() + step)
    np.testing.assert_allclose(pipeline.simulate(cluster, Given(seconds), steps), ended)


def test_any_order_takes_what_is_there_first(pipeline):
    seconds = np.full((1, 8, 1), 0.1)
    seconds[0, 0] = 5.0  # the first batch
    kept, free = (
        pipeline.simulate(pipeline.Cluster(1, 2, 2, 1, 0.01, ordered=ordered), Given(seconds), 7)
        for ordered in (True, False)
    )
    assert kept[0] == pytest.approx(5.01)
    assert free[0] == pytest.approx(0.11)
    assert free[-2] < 1 < free[-1]  # the slow one comes last


def test_all_together_get_no_more_than_the_wires_carry(pipeline):
    cluster = pipeline.Cluster(gpus=4, workers=8, clips=4, step=0.001, decode=0.0)
    storage = pipeline.Storage(median=0.001, tail=1.001, bytes=1e6, stream=math.inf, total=1e9)
    ends = pipeline.simulate(cluster, pipeline.Reads(storage, 0, 0.0), 200)
    assert ends[-1] == pytest.approx(200 * 4 * 4 * 1e6 / 1e9, rel=0.01)


def test_reads_are_as_slow_as_their_tail_says(pipeline):
    reads = pipeline.Reads(pipeline.Storage(median=0.02, tail=10), 0, 0.0)
    first = np.array([reads.draw()[0] for _ in range(100_000)])
    assert np.median(first) == pytest.approx(0.02, rel=0.02)
    assert np.quantile(first, 0.99) == pytest.approx(0.2, rel=0.05)


def test_reads_that_fail_are_tried_again_as_often_as_chance_says(pipeline):
    storage = pipeline.Storage(failing=0.2, tries=10**6)
    reads = pipeline.Reads(storage, 0, 0.0)
    for _ in range(20_000):
        reads.until(0.0, 0, 0, 0)
    assert reads.again / 20_000 == pytest.approx(0.2 / 0.8, rel=0.05)
    assert reads.replaced == 0
    few = pipeline.Reads(replace(storage, tries=2), 0, 0.0)
    for _ in range(20_000):
        few.until(0.0, 0, 0, 0)
    assert few.replaced / 20_000 == pytest.approx(0.2**2 / (1 - 0.2**2), rel=0.15)  # another one may fail as well


def test_what_stalls_is_broken_off_and_read_again(pipeline):
    storage = pipeline.Storage(
        median=0.01, tail=1.001, stalling=0.5, stall=100.0, limit=1.0, backoff=0.0, stream=math.inf
    )
    reads = pipeline.Reads(storage, 0, 0.0)
    taken = np.array([reads.until(0.0, 0, 0, 0) for _ in range(2000)])
    tries = np.round(taken - 0.01)
    assert np.allclose(taken, tries + 0.01, atol=1e-3)
    assert tries.mean() == pytest.approx(1.0, rel=0.1)  # as often as not, again and again
    patient = pipeline.Reads(replace(storage, limit=math.inf), 0, 0.0)
    assert max(patient.until(0.0, 0, 0, 0) for _ in range(50)) > 100


def test_nothing_comes_from_a_dead_server_until_it_is_back(pipeline):
    alone = pipeline.Storage(servers=1, dead=(0.0, 60.0), tries=10**6)
    assert pipeline.Reads(alone, 0, 0.0).until(0.0, 0, 0, 0) > 60
    assert pipeline.Reads(alone, 0, 0.0).until(60.0, 0, 0, 0) < 61
    many = pipeline.Reads(replace(alone, servers=10), 0, 0.0)
    late = np.mean([many.until(0.0, 0, 0, 0) > 60 for _ in range(3000)])
    assert late == pytest.approx(0.1, abs=0.02)
