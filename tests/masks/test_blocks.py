"""V-JEPA's masks: fixed numbers, whole time, and the union of boxes against sets of cells."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.masks.blocks import MultiBlock
from tubelet.types import Batch, Draws, Grid, TokenMask

CLIP = Grid(4, 14, 14)
SHORT, LONG = MultiBlock(8, 0.15), MultiBlock(2, 0.7)


def draw(masker, grid: Grid, seed: int = 0, step: int = 0, places=(0, 1, 2)) -> TokenMask:
    batch = Batch(torch.zeros(len(places), 3, 2, 2, 2, dtype=torch.uint8), torch.arange(len(places)))
    return masker(batch, grid, Draws(seed, step, places))


def boxes_of(
    masker: MultiBlock, grid: Grid, rng: np.random.Generator, shape: float | None = None
) -> list[tuple[int, int, int, int]]:
    """Row, column, height and width of each box, from the numbers that a clip's stream gives; of one shape."""
    drawn = rng.random(1)[0] if shape is None else shape
    aspect = masker.aspect[0] + drawn * (masker.aspect[1] - masker.aspect[0])
    area = int(masker.share * grid.H * grid.W)
    height = min(max(round(math.sqrt(area * aspect)), 1), grid.H)
    width = min(max(round(math.sqrt(area / aspect)), 1), grid.W)
    places = rng.random((masker.blocks, 2))
    return [
        (int(row * (grid.H - height + 1)), int(column * (grid.W - width + 1)), height, width) for row, column in places
    ]


def cells(boxes) -> set[tuple[int, int]]:
    return {(y, x) for top, left, h, w in boxes for y in range(top, top + h) for x in range(left, left + w)}


def slots(ids: torch.Tensor, grid: Grid) -> list[set[tuple[int, int]]]:
    """The places of every time slot."""
    each: list[set[tuple[int, int]]] = [set() for _ in range(grid.T)]
    for token in ids.tolist():
        each[token // grid.slot].add(divmod(token % grid.slot, grid.W))
    return each


@settings(max_examples=40)
@given(
    masker=st.sampled_from([SHORT, LONG, MultiBlock(3, 0.3, (0.5, 2.0)), MultiBlock(1, 0.5, alike=1)]),
    height=st.integers(6, 14),
    width=st.integers(6, 14),
    seed=st.integers(0, 2**31),
)
def test_numbers_are_fixed_and_all_slots_alike(masker, height, width, seed):
    grid = Grid(3, height, width)
    visible, predicted = masker.places(grid)
    assert visible > 0
    assert visible + predicted <= grid.slot
    mask = draw(masker, grid, seed)
    assert mask.visible.shape == (3, 3 * visible)
    assert mask.predict.shape == (3, 3 * predicted)
    assert mask.scored.all()
    for ids in (*mask.visible, *mask.predict):
        first, *others = slots(ids, grid)
        assert all(other == first for other in others)


@pytest.mark.parametrize("masker", [SHORT, LONG, MultiBlock(8, 0.15, alike=1)])
def test_what_is_predicted_and_hidden_is_the_union_of_boxes_grown_or_shrunk(masker):
    """Where the union has more places than are predicted all predicted ones lie in it, else all of it is predicted."""
    inside = 0
    for step in range(30):
        mask = draw(masker, CLIP, 5, step)
        for place in range(3):
            union = cells(boxes_of(masker, CLIP, np.random.default_rng((5, step, place))))
            predicted, visible = slots(mask.predict[place], CLIP)[0], slots(mask.visible[place], CLIP)[0]
            assert predicted <= union if len(union) >= len(predicted) else union <= predicted
            hidden = CLIP.slot - len(visible)
            assert not visible & union if len(union) <= hidden else CLIP.slot == len(visible | union)
            inside += len(predicted & union) == len(predicted)
    assert inside > 30


def test_a_union_of_the_right_size_is_the_mask():
    masker = MultiBlock(1, 0.25, (1.0, 1.0))  # a square of 7x7 wherever it is
    mask = draw(masker, CLIP, 3)
    for place in range(3):
        box = cells(boxes_of(masker, CLIP, np.random.default_rng((3, 0, place))))
        assert slots(mask.predict[place], CLIP)[0] == box
        assert slots(mask.visible[place], CLIP)[0] == {(y, x) for y in range(14) for x in range(14)} - box


@pytest.mark.parametrize("masker", [SHORT, LONG])
def test_numbers_are_the_smallest_of_batches_of_24_on_average(masker):
    rng = np.random.default_rng(9)
    visible, predicted = [], []
    for _ in range(60):
        shape = rng.random()
        unions = [len(cells(boxes_of(masker, CLIP, rng, shape))) for _ in range(24)]
        predicted.append(min(unions))
        visible.append(CLIP.slot - max(size for size in unions if size < CLIP.slot))
    assert masker.places(CLIP) == pytest.approx((np.mean(visible), np.mean(predicted)), abs=2.5)


def test_alone_the_numbers_are_those_of_the_mean_union():
    masker = MultiBlock(4, 0.2, (1.0, 1.0), alike=1)  # 4 squares of 6x6 on 14x14
    starts = np.array([[max(0, min(y, 8) - max(y - 5, 0) + 1) / 9 for y in range(14)]])
    chance = starts.T @ starts
    mean = (1 - (1 - chance) ** 4).sum()
    visible, predicted = masker.places(CLIP)
    assert visible + predicted == CLIP.slot
    assert predicted == pytest.approx(mean, abs=1.5)


def test_a_clip_has_its_mask_whatever_lies_beside_it():
    whole = draw(SHORT, CLIP, 1, 7, (0, 1, 2, 3))
    part = draw(SHORT, CLIP, 1, 7, (2, 3))
    assert torch.equal(whole.visible[2:], part.visible)
    assert torch.equal(whole.predict[2:], part.predict)


@pytest.mark.parametrize(
    ("masker", "grid", "message"),
    [
        (MultiBlock(0, 0.1), CLIP, "MultiBlock.blocks=0.* expected blocks"),
        (MultiBlock(2, 1.0), CLIP, "a share between 0 and 1"),
        (MultiBlock(2, 0.5, (1.5, 0.75)), CLIP, "aspect from above 0 up"),
        (MultiBlock(2, 0.5, alike=0), CLIP, "blocks and alike of 1 or more"),
        (MultiBlock(2, 0.7), Grid(2, 1, 1), "hides all of 1x1 places"),
        (MultiBlock(40, 0.7), Grid(2, 4, 4), "hides all of 4x4 places in most draws"),
    ],
)
def test_impossible_boxes_are_named(masker, grid, message):
    with pytest.raises(ValueError, match=message):
        draw(masker, grid)
