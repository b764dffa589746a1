"""Grids, token masks, batches and random numbers: what every other part stands on."""

import pytest
import torch

from tubelet.masks.random_masks import Tube
from tubelet.types import Batch, Draws, Grid, Masker, Sampler, TokenMask

GRID = Grid(2, 2, 2)


def rows(*texts: str) -> torch.Tensor:
    """Boolean rows of "#" (True) and "."."""
    return torch.tensor([[letter == "#" for letter in text] for text in texts])


def test_grid_counts_tokens_and_slots():
    grid = Grid.of(16, 224, 320, (2, 16, 16))
    assert (grid.T, grid.H, grid.W, grid.slot, grid.tokens) == (8, 14, 20, 280, 2240)
    assert grid.patch == (2, 16, 16)


def test_unequal_counts_are_refused_with_the_counts():
    hidden = torch.ones(2, 16, dtype=torch.bool)
    hidden[0, :8] = False
    hidden[1, :9] = False
    with pytest.raises(ValueError, match=r"same number of visible tokens, got \[8, 9\]"):
        TokenMask.from_hidden(hidden, Grid(2, 2, 4))
    with pytest.raises(ValueError, match=r"same number of predicted tokens, got \[8, 7\]"):
        TokenMask.from_hidden(
            rows("########........", "########........"), Grid(2, 2, 4), rows("########........", "#######.........")
        )


@pytest.mark.parametrize(("hidden", "what"), [("########", "visible"), ("........", "predicted")])
def test_nothing_visible_or_nothing_predicted_is_refused(hidden, what):
    with pytest.raises(ValueError, match=f"no {what} tokens at all.*0 of 8"):
        TokenMask.from_hidden(rows(hidden), GRID)


def test_indices_are_the_positions_of_the_map_clip_by_clip():
    hidden = rows("#.#.#.#.", ".#.##.#.")
    mask = TokenMask.from_hidden(hidden, GRID)
    assert mask.visible.tolist() == [[1, 3, 5, 7], [0, 2, 5, 7]]
    assert mask.predict.tolist() == [[0, 2, 4, 6], [1, 3, 4, 6]]
    assert torch.equal(mask.hidden, hidden)
    assert mask.scored.all()


def test_only_hidden_tokens_are_scored_where_predicted_ones_overlap_with_visible():
    mask = TokenMask.from_hidden(rows("####....", "....####"), GRID, predict=rows("..####..", "##....##"))
    assert mask.predict.tolist() == [[2, 3, 4, 5], [0, 1, 6, 7]]
    assert mask.scored.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_a_mask_moves_to_a_device_whole():
    mask = TokenMask.from_hidden(rows("####...."), GRID).to(torch.device("meta"))
    assert mask.visible.is_meta
    assert mask.predict.is_meta
    assert mask.hidden.is_meta
    assert mask.grid == GRID


def test_clips_of_a_batch_keep_the_crops_of_a_video_together():
    batch = Batch(
        torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1, 1), torch.tensor([7, 7, 8, 8, 9, 9]), 2, ("a", "b", "c")
    )
    part = batch.clips(2, 6)
    assert part.video.flatten().tolist() == [2, 3, 4, 5]
    assert part.ids.tolist() == [8, 8, 9, 9]
    assert (part.crops, part.paths) == (2, ("b", "c"))


def test_draws_are_keyed_by_seed_step_and_place():
    whole = Draws(1, 5, range(4)).uniform(3)
    assert whole.shape == (4, 3)
    assert whole.dtype == torch.float64
    assert whole.min() >= 0
    assert whole.max() < 1
    assert torch.equal(whole[2:], Draws(1, 5, range(2, 4)).uniform(3))
    for other in (Draws(2, 5, range(4)), Draws(1, 6, range(4)), Draws(1, 5, range(4, 8))):
        assert not torch.equal(whole, other.uniform(3))
    numbers = Draws(0, 0, range(500)).integers(3, 2)
    assert numbers.shape == (500, 2)
    assert set(numbers.flatten().tolist()) == {0, 1, 2}
    twice = Draws(0, 0, [0])
    assert not torch.equal(twice.uniform(2), twice.uniform(2)), "a stream goes on"


def test_protocols_know_their_own():
    assert isinstance(Tube(), Masker)
    assert not isinstance(object(), Masker)
    assert not isinstance(Tube(), Sampler)
