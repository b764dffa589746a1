"""Rotary positions in three dimensions: queries and keys are turned by where their tokens are.

V-JEPA 2: Assran et al. 2025, arXiv:2506.09985, after Su et al. 2021, RoFormer, arXiv:2104.09864. A head's channels are
shared out to slot, row and column alike; what is left over is not turned. Nothing is learnt, and every token brings its
own place along: a part of the tokens is treated as in the whole clip, and any grid will do.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tubelet.types import Grid


def rotations(grid: Grid, channels: int) -> Float[Tensor, "2 n c"]:
    """Cosines and sines by which the channels of a head are mixed, for each token of the grid; computed in float64.

    Of each axis' channels, pairs of neighbours (2i, 2i + 1) are mixed, but channel j has the frequency
    10000^(-(j mod half) / half): the two of a pair have different ones, so lengths change a little. That is a slip in
    V-JEPA 2's released code, with which its models were trained. Sines of the first of each pair are negative.

    Raises:
        ValueError: heads that cannot be shared out to three axes.
    """
    if channels % 2 or channels < 6:
        raise ValueError(
            f"heads of {channels} channels cannot be shared out to rotary positions of three axes; use an even number, "
            "at least 6: other --encoder.width or --encoder.heads"
        )
    half = channels // 6
    frequencies = np.tile(10000.0 ** (-np.arange(half) / half), 2)
    places = np.unravel_index(np.arange(grid.tokens), (grid.T, grid.H, grid.W))
    angles = np.zeros((grid.tokens, channels))
    angles[:, : 6 * half] = np.concatenate([np.outer(place, frequencies) for place in places], axis=1)
    sines = np.sin(angles)
    sines[:, 0::2] *= -1
    return torch.from_numpy(np.stack([np.cos(angles), sines])).float()


class Rotary(nn.Module):
    """The rotations of a grid's tokens; fixed and not saved."""

    table: Tensor

    def __init__(self, grid: Grid, channels: int) -> None:
        super().__init__()
        self.register_buffer("table", rotations(grid, channels), persistent=False)

    def on(self, own: Grid, grid: Grid) -> Float[Tensor, "2 _ 1 m c"]:
        """Those of all tokens of another grid, for all heads: places are counted on, nothing is interpolated."""
        return rotations(grid, self.table.shape[2]).to(self.table.device)[:, None, None]

    def forward(self, ids: Int[Tensor, "b v"] | None, tokens: int) -> Float[Tensor, "2 _ 1 v c"]:
        """Those of the tokens at `ids`, for all heads; None: of the first `tokens`."""
        found = self.table[:, :tokens].unsqueeze(1) if ids is None else self.table[:, ids]
        return found.unsqueeze(2)


def turned(x: Float[Tensor, "b heads v c"], turn: Float[Tensor, "2 _ 1 v c"]) -> Float[Tensor, "b heads v c"]:
    """Queries or keys, turned; in the dtype that they have, while the arithmetic is that of the rotations."""
    cosines, sines = turn
    partners = x.unflatten(3, (-1, 2)).flip(4).flatten(3)
    return (x * cosines + partners * sines).to(x.dtype)
