"""Laws for every masker: exact counts, ascending, disjoint, covering, repeatable, alike over slots where it must be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.masks.random_masks import Cuboids, Frame, Random, Tube, count
from tubelet.types import Batch, Draws, Grid, TokenMask

KINDS = [Tube, Random, Frame]
CLIP, CLIP_14 = Grid(8, 14, 14), Grid(8, 16, 16, (2, 14, 14))


def blank(clips: int) -> Batch:
    return Batch(torch.zeros(clips, 3, 2, 2, 2, dtype=torch.uint8), torch.arange(clips))


def draw(masker, grid: Grid, seed: int = 0, step: int = 0, places=(0, 1, 2)) -> TokenMask:
    return masker(blank(len(places)), grid, Draws(seed, step, places))


@pytest.mark.parametrize(
    ("masker", "grid", "visible", "hidden"),
    [
        (Tube(0.75), CLIP, 392, 1176),
        (Tube(0.90), CLIP, 160, 1408),
        (Tube(0.95), CLIP, 80, 1488),
        (Tube(0.90), CLIP_14, 208, 1840),
        (Random(0.9), CLIP, 157, 1411),
        (Random(0.9, floor="visible"), CLIP, 156, 1412),  # MAE-ST: int(1568 * (1 - 0.9))
        (Random(0.75, floor="visible"), Grid(1, 14, 14), 49, 147),
        (Cuboids(0.4), CLIP, 941, 627),
        (Frame(0.875), CLIP, 196, 1372),
    ],
)
def test_counts_are_the_released_codes(masker, grid, visible, hidden):
    mask = draw(masker, grid)
    assert mask.visible.shape == (3, visible)
    assert mask.predict.shape == (3, hidden)


@st.composite
def cases(draw):
    """A masker and a grid on which its ratio leaves something hidden and something visible."""
    grid = Grid(*(draw(st.integers(1, high)) for high in (6, 7, 7)))
    kind = draw(st.sampled_from([*KINDS, Cuboids]))
    places = {Tube: grid.slot, Frame: grid.T}.get(kind, grid.tokens)
    if places < 2:
        grid = Grid(2, 1, 2)
        places = {Tube: 2, Frame: 2}.get(kind, 4)
    hidden = draw(st.integers(1, places - 1))
    return kind((hidden + 0.5) / places), grid, hidden * grid.tokens // places


@settings(max_examples=60)
@given(case=cases(), seed=st.integers(0, 2**31), step=st.integers(0, 10**6))
def test_masks_partition_the_grid(case, seed, step):
    masker, grid, hidden = case
    mask = draw(masker, grid, seed, step)
    for visible, predicted in zip(mask.visible.tolist(), mask.predict.tolist()):
        assert visible == sorted(set(visible))
        assert predicted == sorted(set(predicted))
        assert len(predicted) == hidden
        assert sorted(visible + predicted) == list(range(grid.tokens))
    assert mask.scored.all()
    slots = mask.hidden.numpy().reshape(3, grid.T, grid.slot)
    if isinstance(masker, Tube):
        assert (slots == slots[:, :1]).all()
    if isinstance(masker, Frame):
        assert (slots == slots[:, :, :1]).all()


@pytest.mark.parametrize("kind", [*KINDS, Cuboids])
def test_a_mask_depends_on_seed_step_and_place_alone(kind):
    masker = kind(0.5)
    first = draw(masker, CLIP, 1, 2, range(4))
    again = draw(masker, CLIP, 1, 2, range(4))
    assert torch.equal(first.visible, again.visible)
    assert torch.equal(first.predict, again.predict)
    alone = draw(masker, CLIP, 1, 2, [2])
    assert torch.equal(alone.visible[0], first.visible[2]), "a clip's mask must not depend on the rest of the batch"
    other_way = draw(masker, CLIP, 1, 2, [3, 2, 1, 0])
    assert torch.equal(other_way.visible.flip(0), first.visible)
    many = range(20)  # a frame mask of 8 slots has 70 forms, so single pairs may agree
    here = draw(masker, CLIP, 1, 2, many).visible
    for different in (
        draw(masker, CLIP, 2, 2, many),
        draw(masker, CLIP, 1, 3, many),
        draw(masker, CLIP, 1, 2, range(20, 40)),
    ):
        assert not torch.equal(here, different.visible)
    assert len({tuple(row) for row in here.tolist()}) > 10, "clips of a batch must not share a mask"


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_hidden_equally_often(kind):
    grid, clips = Grid(4, 3, 3), 2000
    masker = kind(0.5)
    hidden = draw(masker, grid, places=range(clips)).hidden.float()
    share = hidden[0].mean().item()
    spread = math.sqrt(share * (1 - share) / clips)
    assert (hidden.mean(0) - share).abs().max() < 5 * spread  # five deviations, 36 tokens: one false alarm in 50,000


def test_random_masks_are_independent_between_slots():
    """Unlike a tube: a place hidden in one slot says little about the next."""
    hidden = draw(Random(0.5), Grid(2, 4, 4), places=range(2000)).hidden.view(2000, 2, 16).float()
    agree = (hidden[:, 0] == hidden[:, 1]).float().mean().item()
    assert agree == pytest.approx(15 / 31, abs=0.02)  # given that 16 of 32 are hidden, another token agrees so often


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0, -0.1, math.nan, math.inf])
def test_impossible_ratios_are_named(kind, ratio):
    with pytest.raises(ValueError, match=rf"mask ratio {ratio:g}\b"):
        draw(kind(ratio), CLIP)


@pytest.mark.parametrize(
    ("masker", "numbers"),
    [
        (Tube(0.004), "hides 0 of 196 places of a time slot.*use 0.006 to 0.995"),
        (Random(0.0005), "hides 0 of 1568 tokens"),
        (Frame(0.1), "hides 0 of 8 time slots.*use 0.125 to 0.875"),
    ],
)
def test_ratios_that_hide_nothing_are_named_with_the_numbers(masker, numbers):
    with pytest.raises(ValueError, match=numbers):
        draw(masker, CLIP)


@pytest.mark.parametrize("floor", ["hidden", "visible"])
@pytest.mark.parametrize("places", [2, 3, 7, 8, 14, 49, 50, 100, 125, 196, 256, 1000, 1568, 2048])
def test_the_ratios_that_the_message_advises_work(places, floor):
    """Counts are truncated, so 1/196 rounded to 0.005 would hide nothing again."""
    with pytest.raises(ValueError, match=r"use [\d.]+ to [\d.]+") as caught:
        count((0.1 if floor == "hidden" else places - 0.1) / places, places, "places", floor)
    low, high = (float(word) for word in str(caught.value).split("use ")[1].split(" to "))
    assert count(low, places, "places", floor) == 1
    assert count(high, places, "places", floor) == places - 1


def test_cuboids_of_no_size_or_shape_are_named():
    for wrong in ({"largest": 0.0}, {"largest": 1.5}, {"aspect": 0.0}, {"aspect": 3.0}):
        with pytest.raises(ValueError, match="largest and aspect must be above 0 and at most 1"):
            Cuboids(0.4, **wrong)


def test_cuboids_are_boxes_that_last():
    """What is hidden hangs together in space and time, and its boxes are of many sizes."""
    hidden = draw(Cuboids(0.1, largest=1.0), CLIP, places=range(200)).hidden.view(200, 8, 14, 14).float()
    free = draw(Random(0.1), CLIP, places=range(200)).hidden.view(200, 8, 14, 14).float()
    for axis in (1, 2, 3):
        ahead, behind = ((part.narrow(axis, start, part.shape[axis] - 1)) for part in (hidden,) for start in (0, 1))
        assert (ahead * behind).sum() / ahead.sum() > 0.6  # a neighbour of what is hidden mostly is, too
        ahead, behind = ((part.narrow(axis, start, part.shape[axis] - 1)) for part in (free,) for start in (0, 1))
        assert (ahead * behind).sum() / ahead.sum() < 0.15
    slots = hidden.flatten(2).any(2).sum(1)
    assert set(slots.tolist()) == set(range(1, 9)) - set(range(1, int(slots.min())))


def test_a_first_box_of_cuboids_is_no_larger_than_told():
    """Where one box may hold a hundredth, what is hidden lies in many places: no slot is hidden whole."""
    small = draw(Cuboids(0.4, largest=0.01), CLIP, places=range(20)).hidden.view(20, 8, 196).float()
    assert small.mean(2).max() < 0.7
    large = draw(Cuboids(0.4, largest=1.0), CLIP, places=range(20)).hidden.view(20, 8, 196).float()
    assert large.mean(2).max() > 0.7
