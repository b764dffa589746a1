"""Masks that look at no pixel: tubes, tokens anywhere, whole frames.

Counts are the released code's, truncated: `int(ratio * places)`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tubelet.types import Batch, Draws, Grid, TokenMask


def count(ratio: float, places: int, of: str) -> int:
    """How many of `places` a ratio hides: truncated, as the papers' code does.

    Raises:
        ValueError: the ratio is not between 0 and 1, or hides nothing or everything.
    """
    if not 0 < ratio < 1:  # NaN too
        raise ValueError(f"mask ratio {ratio:g}: it must be above 0 and below 1 (0.9 hides 90 %)")
    hidden = int(ratio * places)
    if hidden in (0, places):
        digits = max(len(str(places)), 3)
        low, high = (math.ceil(n / places * 10**digits) / 10**digits for n in (1, places - 1))  # up: counts truncate
        raise ValueError(
            f"mask ratio {ratio:g} hides {hidden} of {places} {of}; at least one must stay hidden and one visible: "
            f"use {low:.{digits}f} to {high:.{digits}f}"
        )
    return hidden


def smallest(noise: Float[Tensor, "b n"], hidden: int) -> Bool[Tensor, "b n"]:
    """True at the `hidden` smallest values of every row."""
    chosen = torch.zeros_like(noise, dtype=torch.bool)
    return chosen.scatter(1, noise.argsort(dim=1)[:, :hidden], True)


@dataclass(frozen=True)
class Tube:
    """The same places in all time slots, so that nothing can be copied from the next frame.

    Source: VideoMAE (arXiv:2203.12602), section 3.3. 0.9 of 14x14 places hides 176 in each slot.
    """

    ratio: float = 0.9
    """Share of tokens hidden from the encoder."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = smallest(draws.uniform(grid.slot), count(self.ratio, grid.slot, "places of a time slot"))
        return TokenMask.from_hidden(hidden.repeat(1, grid.T), grid)


@dataclass(frozen=True)
class Random:
    """Tokens anywhere in space and time.

    Source: MAE-ST (arXiv:2205.09113), section 3, and VideoMAE's ablation. 0.9 of 1568 hides 1411.
    """

    ratio: float = 0.9
    """Share of tokens hidden from the encoder."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        return TokenMask.from_hidden(
            smallest(draws.uniform(grid.tokens), count(self.ratio, grid.tokens, "tokens")), grid
        )


@dataclass(frozen=True)
class Frame:
    """Whole time slots.

    Source: VideoMAE's ablation (table 1b): 0.875 of 8 slots hides 7.
    """

    ratio: float = 0.875
    """Share of time slots hidden from the encoder."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = smallest(draws.uniform(grid.T), count(self.ratio, grid.T, "time slots"))
        return TokenMask.from_hidden(hidden.repeat_interleave(grid.slot, dim=1), grid)
