"""Several boxes at once, each through all of time: the masks of V-JEPA."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tubelet.masks.random_masks import nearness, ranked
from tubelet.types import Batch, Draws, Grid, TokenMask


@dataclass(frozen=True)
class MultiBlock:
    """The union of boxes, the same in all time slots, is predicted; what is left is what the encoder sees.

    Many small ones are V-JEPA's short-range mask, two large ones its long-range mask. The boxes of a clip have one
    shape, each its own place. Unions differ in size, and the released code cuts the visible and the predicted tokens of
    all clips of a batch, which have one shape too, to the smallest numbers among them, the last tokens first; so a
    clip's mask depends on its neighbours. Here the numbers are fixed: the mean of those smallest numbers (of 14x14
    places, 45 visible and 94 predicted with 8 boxes of 0.15, and 13 and 138 with 2 of 0.7). The boxes of a clip grow
    together until all but the right number of places are hidden, and of these the places nearest to the boxes' middles
    are predicted.

    Source: Bardes et al. 2024, V-JEPA, arXiv:2404.08471, section 3.2, and its released code.
    """

    blocks: int = 8
    """How many boxes."""
    share: float = 0.15
    """Share of a time slot that each of them takes."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Height / width of a box in tokens, from and to."""
    alike: int = 24
    """Clips over whose masks the smallest numbers are meant; a GPU's batch in the released run. 1: all that is hidden
    is predicted, and it is as much as the mean union."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        """A mask for every clip.

        Raises:
            ValueError: settings that cannot be used, or boxes that hide nothing or everything on this grid.
        """
        visible, predicted = self.places(grid)
        near = to_boxes(draws.uniform(1), draws.uniform(self.blocks, 2), self, grid)
        noise = draws.uniform(grid.slot)
        hidden, chosen = (
            ranked(near, places, noise).repeat(1, grid.T, 1).flatten(1) for places in (grid.slot - visible, predicted)
        )
        return TokenMask.from_hidden(hidden, grid, predict=chosen)

    def places(self, grid: Grid) -> tuple[int, int]:
        """How many places of a time slot are visible, and how many predicted.

        Raises:
            ValueError: as a call.
        """
        low, high = self.aspect
        if self.blocks < 1 or self.alike < 1 or not 0 < self.share < 1 or not 0 < low <= high:
            raise ValueError(
                f"{self} cannot be used; expected blocks and alike of 1 or more, a share between 0 and 1, and an "
                "aspect from above 0 up"
            )
        numbers = usual(self, grid.H, grid.W)
        if numbers is None:
            raise ValueError(
                f"{self} hides all of {grid.H}x{grid.W} places in most draws; use more places (larger frames, smaller "
                "patches), or fewer or smaller boxes"
            )
        return numbers


def to_boxes(
    shape: Float[Tensor, "b 1"], places: Float[Tensor, "b s 2"], boxes: MultiBlock, grid: Grid
) -> Float[Tensor, "b 1 n"]:
    """How near each place is to a box, below 1 inside; from numbers in [0, 1) for the aspect of all boxes of a clip,
    and for row and column of each."""
    low, high = boxes.aspect
    area, aspect = int(boxes.share * grid.slot), low + shape * (high - low)
    tall = (area * aspect).sqrt().round().long().clamp(1, grid.H)
    wide = (area / aspect).sqrt().round().long().clamp(1, grid.W)
    size = torch.stack([tall, wide], dim=2).expand(places.shape)
    room = torch.tensor([grid.H, grid.W], device="cpu") - size + 1
    return nearness((places * room).long(), size, grid).amin(dim=1, keepdim=True)


@lru_cache
def usual(boxes: MultiBlock, height: int, width: int) -> tuple[int, int] | None:
    """Visible and predicted places: the means of the smallest numbers of them among `alike` clips with boxes of one
    shape, over many such.

    From 2,400 draws of a fixed seed; those that hide everything do not count, as they are drawn again in the released
    code. None if they are the most.
    """
    groups, rng = -(-2400 // boxes.alike), np.random.default_rng(0)
    shape = torch.from_numpy(rng.random((groups, 1)).repeat(boxes.alike, axis=0))
    places = torch.from_numpy(rng.random((groups * boxes.alike, boxes.blocks, 2)))
    union = (to_boxes(shape, places, boxes, Grid(1, height, width)) < 1).sum(dim=(1, 2)).numpy()
    kept = [group[group < height * width] for group in union.reshape(groups, boxes.alike)]
    kept = [group for group in kept if len(group)]
    if sum(map(len, kept)) * 2 < len(union):
        return None
    visible = np.mean([(height * width - group).min() for group in kept])
    return round(visible), round(np.mean([group.min() for group in kept]))
