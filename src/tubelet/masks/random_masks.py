"""Masks that look at no pixel: tubes, tokens anywhere, whole frames, a box, boxes in space and time.

Counts are the released code's, truncated: `int(ratio * places)`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.types import Batch, Draws, Grid, TokenMask


def share(ratio: float) -> float:
    """The ratio.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < ratio < 1:  # NaN too
        raise ValueError(f"mask ratio {ratio:g}: it must be above 0 and below 1 (0.9 hides 90 %)")
    return ratio


def count(ratio: float, places: int, of: str, floor: Literal["hidden", "visible"] = "hidden") -> int:
    """How many of `places` a ratio hides; the number of hidden or of visible ones is truncated, as in the papers' code.

    Raises:
        ValueError: the ratio is not between 0 and 1, or hides nothing or everything.
    """
    if places < 2:
        raise ValueError(
            f"there is one of the {of} only, so a mask of them would hide all or nothing; use another mask"
        )
    hidden = int(share(ratio) * places) if floor == "hidden" else places - int((1 - share(ratio)) * places)
    if hidden in (0, places):
        digits, whole = max(len(str(places)), 3), math.ceil if floor == "hidden" else math.floor
        low, high = (whole(n / places * 10**digits) / 10**digits for n in (1, places - 1))
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

    Source: MAE-ST (arXiv:2205.09113), section 3, and VideoMAE's ablation. 0.9 of 1568 hides 1411, and 1412 in MAE-ST.
    """

    ratio: float = 0.9
    """Share of tokens hidden from the encoder."""
    floor: Literal["hidden", "visible"] = "hidden"
    """Which number is truncated to a whole one: that of hidden tokens (VideoMAE), or of visible ones (MAE, MAE-ST)."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = count(self.ratio, grid.tokens, "tokens", self.floor)
        return TokenMask.from_hidden(smallest(draws.uniform(grid.tokens), hidden), grid)


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


@dataclass(frozen=True)
class Block:
    """One box at the same random place in all time slots.

    Source: MGM (arXiv:2308.12962), table 4. 0.75 of 14x14 places is a box of 12x12 and three places more.
    """

    ratio: float = 0.75
    """Share of tokens hidden from the encoder."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = count(self.ratio, grid.slot, "places of a time slot")
        height, width = (round(side) for side in sides(self.ratio, grid))
        room = torch.tensor([grid.H - height + 1, grid.W - width + 1], device="cpu")
        corner = (draws.uniform(1, 2) * room).long()
        size = torch.tensor([height, width], device="cpu").expand_as(corner)
        box = boxed(corner, size, hidden, draws.uniform(grid.slot), grid)
        return TokenMask.from_hidden(box.repeat(1, grid.T, 1).flatten(1), grid)


BOXES = 64  # drawn for each clip; where they do not hide enough (at 0.95 they may not), single tokens are added


@dataclass(frozen=True)
class Cuboids:
    """Boxes in space and time, one after the other, until just the number wanted is hidden.

    A box lasts 1 to all slots, drawn evenly; its volume is drawn evenly up to `largest` of what is to be hidden, its
    shape, height over width, evenly on a logarithmic scale; where it does not fit it is cut. It lies anywhere inside.
    Of the box that would hide too many, tokens are left visible at random.

    Source: MaskFeat (arXiv:2112.09133), section 4, "cube" masks; drawn on the tokens, where the released code draws on
    places of 32 pixels for a network of that stride.
    """

    ratio: float = 0.4
    """Share of tokens hidden from the encoder."""
    largest: float = 0.2
    """Largest volume of a box, as a share of what is to be hidden."""
    aspect: float = 0.3
    """Smallest height over width of a box; the largest is 1 over it."""

    def __post_init__(self) -> None:
        if not (0 < self.largest <= 1 and 0 < self.aspect <= 1):
            raise ValueError(f"{self}: largest and aspect must be above 0 and at most 1 (0.2 and 0.3 in MaskFeat)")

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = count(self.ratio, grid.tokens, "tokens")
        lasts, volume, shape, *corner = draws.uniform(6, BOXES).unbind(1)
        slots = (lasts * grid.T).long() + 1
        area = (volume * self.largest * hidden / slots).clamp(min=1)
        side = self.aspect ** (shape - 0.5)  # root of height over width
        height = (area.sqrt() * side).round().clamp(1, grid.H)
        width = (area.sqrt() / side).round().clamp(1, grid.W)
        inside = []
        for start, size, whole in zip(corner, (slots, height, width), (grid.T, grid.H, grid.W)):
            first = (start * (whole - size + 1)).floor().unsqueeze(2)
            at = torch.arange(whole, device="cpu")
            inside.append((at >= first) & (at < first + size.unsqueeze(2)))
        covered = inside[0][..., None, None] & inside[1][..., None, :, None] & inside[2][..., None, None, :]
        order = torch.arange(BOXES, dtype=torch.int16, device="cpu").view(-1, 1)
        first = order.where(covered.flatten(2), BOXES).amin(1)  # the box that hides a token
        return TokenMask.from_hidden(smallest(first + draws.uniform(grid.tokens), hidden), grid)


def sides(ratio: float, grid: Grid) -> tuple[float, float]:
    """Height and width, in tokens, of the box that takes a share of a time slot: square, where that fits."""
    side = math.sqrt(ratio * grid.slot)
    if side > grid.H:
        return float(grid.H), ratio * grid.W
    return (ratio * grid.H, float(grid.W)) if side > grid.W else (side, side)


def boxed(
    corner: Int[Tensor, "b s 2"],
    size: Int[Tensor, "b s 2"],
    hidden: int,
    noise: Float[Tensor, "b n"],
    grid: Grid,
) -> Bool[Tensor, "b s n"]:
    """True at the `hidden` places of each slot that are nearest to the middle of a box, whatever it holds itself.

    So all clips hide the same number: a box that is too large loses places at its rim, one that is too small gains some
    around it. Near is measured in half sides, which keeps its shape. `noise` decides among places that are equally
    near, alike in all slots, so that a box that rests hides the same. Corner and size are (down, across), in tokens.
    """
    return ranked(nearness(corner, size, grid), hidden, noise)


def nearness(corner: Int[Tensor, "b s 2"], size: Int[Tensor, "b s 2"], grid: Grid) -> Float[Tensor, "b s n"]:
    """How far each place is from the middle of a box, in its half sides: below 1 inside, above 1 outside."""
    at = torch.arange(grid.slot, device=corner.device)
    middle = (2 * corner + size - 1).unsqueeze(3)  # doubled, so whole
    down = (2 * (at // grid.W) - middle[:, :, 0]).abs() / size[:, :, 0, None]
    across = (2 * (at % grid.W) - middle[:, :, 1]).abs() / size[:, :, 1, None]
    return torch.maximum(down, across)


def ranked(values: Float[Tensor, "b s n"], chosen: int, noise: Float[Tensor, "b n"]) -> Bool[Tensor, "b s n"]:
    """True at the `chosen` smallest values of each slot; `noise` decides among equal ones, alike in all slots."""
    order = noise.argsort(dim=1).to(values.device).unsqueeze(1).expand(-1, values.shape[1], -1)
    first = values.gather(2, order).argsort(dim=2, stable=True)[:, :, :chosen]
    return torch.zeros_like(values, dtype=torch.bool).scatter(2, order.gather(2, first), True)
