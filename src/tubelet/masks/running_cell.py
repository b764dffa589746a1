"""Which tokens are decoded, where not all hidden ones are: the second mask of VideoMAE V2.

The decoder is the larger half of a pre-training step (it works on all tokens, not on a tenth of them), and video is as
redundant for it as for the encoder.
"""

from dataclasses import dataclass

import torch

from tubelet.types import Draws, TokenMask, listed


@dataclass(frozen=True)
class RunningCell:
    """Of each cell of 2x2 places the same number is decoded, going round from slot to slot: no place is left out long.

    Tokens that the encoder sees are decoded too where they fall in, and not scored; the decoder then has them twice.

    Source: Wang et al. 2023, VideoMAE V2, arXiv:2303.16727, section 3.2, and its released maps. The order in a cell is
    top left, top right, bottom left, bottom right; which pattern comes first is drawn for each clip.
    """

    ratio: float = 0.5
    """Share of tokens that are not decoded: 0.25, 0.5 or 0.75 (others are cut to quarters); 0 leaves the mask alone."""

    def __call__(self, mask: TokenMask, draws: Draws) -> TokenMask:
        """The mask with these tokens to predict.

        Raises:
            ValueError: the ratio leaves all or none of a cell, or places do not divide into cells.
        """
        if self.ratio == 0:
            return mask
        grid, dropped = mask.grid, int(4 * self.ratio)
        if not 1 <= dropped <= 3:
            raise ValueError(f"running cell ratio {self.ratio:g}: expected 0, or 0.25 to less than 1, in quarters")
        if grid.H % 2 or grid.W % 2:
            raise ValueError(f"{grid.H}x{grid.W} places do not divide into cells of 2x2; use even numbers of them")
        first = draws.integers(4).view(-1, 1, 1, 1)
        slot, row, column = (torch.arange(size, device="cpu") for size in (grid.T, grid.H, grid.W))
        place = 2 * (row % 2)[:, None] + column % 2
        decoded = (place + first + 1 + slot.view(-1, 1, 1)) % 4 >= dropped
        return TokenMask(mask.visible, listed(decoded.flatten(1), "decoded").to(mask.visible.device), grid)
