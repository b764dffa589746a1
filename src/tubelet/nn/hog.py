"""Histograms of oriented gradients: which way edges run in each small cell of a picture."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def hog(pictures: Float[Tensor, "b c h w"], bins: int = 9, cell: int = 8) -> Float[Tensor, "b c bins rows columns"]:
    """Of every cell and channel a histogram of gradients over orientations, of length 1; zeros where nothing changes.

    Sobel's gradients, with the border reflected; the angle of (gx, gy) is measured from the vertical, modulo half a
    turn. A pixel's magnitude goes whole into the one bin of its angle: nothing is shared out among bins or cells.

    Histograms have length 1, and a gradient knows no mean: pictures may be bytes or normalised by any mean and
    deviation of a channel, which changes nothing. Bytes are best: their gradients are exact, so that a flat cell is 0
    and not the rounding of its zeros made as long as an edge.

    Source: MaskFeat (arXiv:2112.09133), section 3, and its released operator; Dalal and Triggs 2005.
    """
    framed = F.pad(pictures, (1, 1, 1, 1), mode="reflect")
    gx = framed[..., :-2] - framed[..., 2:]
    gx = gx[..., :-2, :] + 2 * gx[..., 1:-1, :] + gx[..., 2:, :]
    gy = framed[..., :-2, :] - framed[..., 2:, :]
    gy = gy[..., :-2] + 2 * gy[..., 1:-1] + gy[..., 2:]
    angle = (torch.atan2(gx, gy) / math.pi * bins).floor().remainder(bins).long()
    size = torch.hypot(gx, gy).unsqueeze(2)
    votes = size.new_zeros(*size.shape[:2], bins, *size.shape[3:]).scatter_(2, angle.unsqueeze(2), size)
    votes = votes.unflatten(4, (-1, cell)).sum(5).unflatten(3, (-1, cell)).sum(4)
    return F.normalize(votes, dim=2)


def strokes(bins: int, cell: int) -> Float[Tensor, "bins cell cell"]:
    """A line through the middle of a cell for every bin: the edge whose gradient lies in the middle of it."""
    angle = (torch.arange(bins, device="cpu").view(-1, 1, 1) + 0.5) * math.pi / bins
    place = torch.arange(cell, device="cpu") - (cell - 1) / 2
    return (1 - (place * angle.sin() + place.unsqueeze(1) * angle.cos()).abs()).clamp(min=0)
