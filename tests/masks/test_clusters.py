"""Clusters against plain loops: who belongs where, in which order, who may look at whom; counts of the paper."""

from dataclasses import replace
from itertools import chain

import pytest
import torch

from tubelet.masks.clusters import Clusters
from tubelet.types import Batch, Draws, Grid, TokenMask

PAPER = Grid(8, 14, 14)
TINY = Grid(4, 4, 6, (2, 8, 8))
SMALL = Clusters(cluster=(2, 2, 3), drop=0.5)  # 2x2x2 clusters of 12


def masked(clusters: Clusters, grid: Grid = TINY, clips: int = 2, step: int = 0) -> TokenMask:
    batch = Batch(torch.zeros(clips, 3, 2, 2, 2, dtype=torch.uint8), torch.arange(clips))
    return clusters(batch, grid, Draws(0, step, range(clips)))


def listed(cluster: tuple[int, int, int], grid: Grid, order: str) -> list[list[int]]:
    """Tokens of every cluster, in a raster order, by loops."""
    (kt, kh, kw), found = cluster, []
    times, rows, columns = range(0, grid.T, kt), range(0, grid.H, kh), range(0, grid.W, kw)
    if order == "space":
        corners = [(t, h, w) for t in times for h in rows for w in columns]
    else:
        corners = [(t, h, w) for h in rows for w in columns for t in times]
    for t0, h0, w0 in corners:
        tokens = []
        for t in range(t0, t0 + kt):
            for h in range(h0, h0 + kh):
                tokens += [(t * grid.H + h) * grid.W + w for w in range(w0, w0 + kw)]
        found.append(tokens)
    return found


@pytest.mark.parametrize("cluster", [(2, 2, 3), (1, 1, 1), (4, 1, 1), (1, 4, 6), (2, 4, 2)])
@pytest.mark.parametrize("order", ["space", "time"])
def test_rasters_go_through_all_places_or_all_times_first(cluster, order):
    expected = listed(cluster, TINY, order)
    assert Clusters(cluster, order).cut(TINY).tolist() == expected
    mask = masked(Clusters(cluster, order, drop=0.0))
    for clip in range(2):
        assert mask.visible[clip].tolist() == [*chain(*expected[:-1])]
        assert mask.predict[clip].tolist() == [*chain(*expected[1:])]


def test_a_random_order_is_another_for_every_clip_and_step_and_the_same_when_drawn_again():
    expected = {tuple(tokens) for tokens in listed((2, 2, 3), TINY, "space")}
    mask = masked(replace(SMALL, drop=0.0), clips=3)
    assert torch.equal(mask.predict, masked(replace(SMALL, drop=0.0), clips=3).predict)
    orders = []
    for seen, asked in zip(mask.visible, mask.predict):
        assert torch.equal(seen[12:], asked[:-12])  # the same clusters, one on
        orders.append([*seen[:12].tolist(), *asked.tolist()])
        assert {tuple(orders[-1][i : i + 12]) for i in range(0, 96, 12)} == expected
    assert orders[0] != orders[1] != orders[2]
    assert not torch.equal(mask.visible, masked(replace(SMALL, drop=0.0), clips=3, step=1).visible)


def test_every_cluster_is_anywhere_in_the_order_equally_often():
    last = torch.cat([masked(SMALL, clips=8, step=step).predict[:, -12] for step in range(100)])
    counts = torch.tensor([(last == tokens[0]).sum() for tokens in listed((2, 2, 3), TINY, "space")])
    assert counts.sum() == 800
    assert 60 < counts.min() <= counts.max() < 145  # 100 each, more or less


def test_of_each_cluster_a_share_is_kept_drawn_for_itself():
    counts = torch.zeros(TINY.tokens)
    patterns = set()
    for step in range(50):
        mask = masked(replace(SMALL, order="space", queries="kept"), step=step)
        assert mask.visible.shape == (2, 7 * 6)
        assert mask.predict.shape == (2, 7 * 6)
        assert torch.equal(mask.visible[:, 6:], mask.predict[:, :-6])  # what is kept is what is asked for
        for clip in range(2):
            for number, tokens in enumerate(listed((2, 2, 3), TINY, "space")[:-1]):
                kept = mask.visible[clip, number * 6 : number * 6 + 6].tolist()
                assert set(kept) < set(tokens)
                assert kept == sorted(set(kept))
                patterns.add(tuple(tokens.index(token) for token in kept))
        counts += torch.bincount(mask.visible.flatten(), minlength=TINY.tokens)
    seen = counts[listed((2, 2, 3), TINY, "space")[0]]
    assert 25 < seen.min() <= seen.max() < 75  # 50 of 100 each, more or less
    assert len(patterns) > 300  # of 924: not the same places in each cluster


@pytest.mark.parametrize("queries", ["all", "kept"])
@pytest.mark.parametrize("first", [2, 3, 8])
def test_who_may_look_at_whom_is_what_loops_say(queries, first):
    clusters = replace(SMALL, drop=0.75, queries=queries, first=first)
    mask, (causal, before) = masked(clusters), clusters.allowed(TINY)
    home = {}
    for clip in range(2):
        # Which place in the order the cluster of a token has, from the tokens themselves.
        rank: dict[int, int] = {}
        for token in [*mask.visible[clip].tolist(), *mask.predict[clip].tolist()]:
            t, h, w = token // 24, token % 24 // 6, token % 6
            rank.setdefault((t // 2) * 4 + (h // 2) * 2 + w // 3, len(rank))
            home[clip, token] = (t // 2) * 4 + (h // 2) * 2 + w // 3
        for i, asking in enumerate(mask.visible[clip].tolist()):
            for j, seen in enumerate(mask.visible[clip].tolist()):
                assert causal[0, 0, i, j] == (rank[home[clip, seen]] <= rank[home[clip, asking]])
        for i, asking in enumerate(mask.predict[clip].tolist()):
            for j, seen in enumerate(mask.visible[clip].tolist()):
                assert before[0, 0, i, j] == (rank[home[clip, seen]] < rank[home[clip, asking]])
    assert causal.any(-1).all()  # nobody asks nobody
    assert before.any(-1).all()


@pytest.mark.parametrize(
    ("clusters", "seen", "asked"),
    [
        (Clusters(), 300, 1470),
        (Clusters(first=3), 300, 1372),  # as table 5 counts
        (Clusters(queries="kept"), 300, 300),
        (Clusters(drop=0.75), 375, 1470),
        (Clusters(drop=0.9), 150, 1470),
        (Clusters(drop=0.95), 75, 1470),
        (Clusters(cluster=(1, 14, 14)), 7 * 40, 7 * 196),
        (Clusters(cluster=(8, 1, 1)), 195 * 2, 195 * 8),
        (Clusters(cluster=(1, 1, 1)), 1567, 1567),
    ],
)
def test_counts_are_the_papers(clusters, seen, asked):
    mask = masked(clusters, PAPER, clips=1)
    assert (mask.visible.shape[1], mask.predict.shape[1]) == (seen, asked)
    causal, before = clusters.allowed(PAPER)
    assert (causal.shape, before.shape) == ((1, 1, seen, seen), (1, 1, asked, seen))


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (Clusters((2, 7, 7)), r"clusters of 2x7x7 tokens do not divide the grid of 4x4x6; the nearest that do: 2x4x6"),
        (Clusters((3, 2, 3)), r"clusters of 3x2x3 tokens do not .* 2x2x3"),
        (Clusters((0, 2, 3)), r"clusters of 0x2x3 tokens do not .* 1x2x3"),
        (Clusters((4, 4, 6)), r"one cluster of 4x4x6 tokens is the whole grid.* 2x4x6"),
        (Clusters((2, 2, 3), drop=1.0), r"--method.mask.drop 1 leaves nothing of a cluster's 12 tokens"),
        (Clusters((2, 2, 3), drop=-0.5), r"--method.mask.drop -0.5"),
        (Clusters((2, 2, 3), drop=float("nan")), r"--method.mask.drop nan"),
        (Clusters((2, 2, 3), first=1), r"--method.mask.first 1: there are 8 clusters; use 2 to 8"),
        (Clusters((2, 2, 3), first=9), r"--method.mask.first 9"),
    ],
)
def test_clusters_that_cannot_be_are_named_with_what_can(clusters, message):
    with pytest.raises(ValueError, match=message):
        clusters.cut(TINY)


def test_a_grid_of_one_token_cannot_be_cut():
    with pytest.raises(ValueError, match="smaller patches"):
        Clusters((1, 1, 1)).cut(Grid(1, 1, 1))
