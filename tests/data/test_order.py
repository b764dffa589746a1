"""The order of an epoch as a function: every number once, random in every way that a run could notice."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, kstest, spearmanr

from tubelet.data import datasets, order
from tubelet.data.datasets import ATTEMPTS, Data, Dataset
from tubelet.data.items import Item
from tubelet.data.loader import Batches
from tubelet.data.order import LARGE, Shuffle, mixed, shuffled, stream
from tubelet.data.sampling import Dense

SMALL = Data(Dense(4, stride=2), size=(32, 32))


def drawn(seed: int, count: int) -> Shuffle:
    return Shuffle.drawn(np.random.default_rng(seed), count)


@pytest.mark.parametrize("count", [*range(1, 33), 97, 100, 101, 128, 1023, 1025, 3001])
def test_every_number_comes_once(count):
    for seed in range(2):
        assert sorted(drawn(seed, count)) == list(range(count))


def test_a_turn_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        drawn(0, 10)[10]


def test_all_orders_of_three_come_alike_often():
    seen = Counter(tuple(drawn(seed, 3)) for seed in range(3000))
    assert chisquare([seen[one] for one in permutations(range(3))]).pvalue > 1e-4


@pytest.mark.parametrize("count", [5, 12])
def test_every_number_comes_alike_often_at_every_turn(count):
    table = np.zeros((count, count))
    for seed in range(1000):
        table[np.arange(count), list(drawn(seed, count))] += 1
    assert chisquare(table.ravel(), ddof=2 * count - 2).pvalue > 1e-4


def test_neighbours_in_time_are_not_neighbours_in_number():
    """No correlation of one turn with the next, with its own number, or with the same turn under another key; and
    differences as of two independent numbers: a triangle."""
    orders = drawn(1, 10_000_000), drawn(2, 10_000_000)
    one, other = (np.array([order[turn] for turn in range(10_000)]) for order in orders)
    for pair in ((one[:-1], one[1:]), (one, np.arange(10_000)), (one, other), (one[:-7], one[7:])):
        assert abs(spearmanr(*pair).statistic) < 4 / np.sqrt(len(pair[0]))
    assert kstest(one / 1e7, "uniform").pvalue > 1e-4
    gaps = np.abs(np.diff(one)) / 1e7
    assert kstest(gaps, lambda x: 1 - (1 - x) ** 2).pvalue > 1e-4
    for digit in range(8):  # all low bits, too
        ones = int((one >> digit & 1).sum())
        assert abs(ones - 5000) < 4 * np.sqrt(2500)


def test_mixing_is_splitmix64():
    """The first outputs for seed 1234567, as every implementation of the generator gives them."""
    gamma = 0x9E3779B97F4A7C15
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [mixed(1234567, gamma * turn) for turn in range(1, 6)] == expected


def test_below_a_million_it_is_the_list_that_numpy_draws():
    """What runs of before saw: they resume, and their numbers stand."""
    for count in (1, 7, 1000, LARGE - 1):
        before = np.random.default_rng((3, int.from_bytes(b"perm", "big"), 5)).permutation(count)
        assert np.array_equal(shuffled(stream(3, "perm", 5), count), before)
    assert isinstance(shuffled(stream(3, "perm", 5), LARGE), Shuffle)


def test_a_small_data_set_shows_and_replaces_what_it_did_before():
    """The stream written from its definition: a list for each epoch, and one of all items for each replacement."""
    dataset = Dataset([Item(Path(f"{n}.mp4")) for n in range(23)], SMALL, 11)
    for position in range(0, 92, 5):
        epoch, turn = divmod(position, 23)
        place = int(stream(11, "perm", epoch).permutation(23)[turn])
        assert dataset.item(position) == place
        others = stream(11, "swap", epoch, place).permutation(23)
        assert list(dataset.candidates(epoch, place)) == [place, *others[others != place][:ATTEMPTS].tolist()]


@pytest.fixture
def few(monkeypatch) -> Dataset:
    """A data set that goes by the function, though it has only 50 videos."""
    for module in (order, datasets):
        monkeypatch.setattr(module, "LARGE", 10)
    return Dataset([Item(Path(f"{n}.mp4")) for n in range(50)], SMALL, 4)


def test_a_large_data_set_shows_every_video_once_an_epoch(few):
    epochs = [[few.item(epoch * 50 + turn) for turn in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [Dataset(few.items, SMALL, 5).item(turn) for turn in range(50)]
    again = Dataset(few.items, SMALL, 4)  # from the middle on, as a resumed run
    assert [again.item(position) for position in range(75, 150)] == [*epochs[1][25:], *epochs[2]]


def test_a_large_data_set_replaces_a_video_by_five_different_others(few):
    for place in range(50):
        first, *others = few.candidates(1, place)
        assert first == place
        assert len({*others} - {place}) == ATTEMPTS


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_of_a_large_data_set_share_nothing(few, world):
    for step in range(14):
        parts = [set(Batches(few, 8, rank, world).positions(step)) for rank in range(world)]
        assert set.union(*parts) == set(range(8 * step, 8 * step + 8))
        assert sum(map(len, parts)) == 8


def test_a_cache_of_a_million_videos_is_refused(few):
    with pytest.raises(ValueError, match=r"--data.cache 64 keeps .* there are 50; use --data.cache 0"):
        Dataset(few.items, Data(Dense(4), size=(32, 32), cache=64))
