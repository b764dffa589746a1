"""Boxes and maps: how much boxes overlap, and what of a map lies in a box (RoIAlign)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tubelet.nn.narrow import full_precision


def iou(one: Float[Tensor, "r 4"], other: Float[Tensor, "s 4"]) -> Float[Tensor, "r s"]:
    """Area that boxes share, of the area that they cover together; x1 y1 x2 y2. 0 where neither covers any."""
    areas = [((boxes[:, 2:] - boxes[:, :2]).clamp(min=0)).prod(1) for boxes in (one, other)]
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    together = areas[0][:, None] + areas[1] - shared
    return torch.where(together > 0, shared / together, 0)


def roi_align(
    maps: Float[Tensor, "b d height width"],
    corners: Float[Tensor, "r 4"],
    which: Int[Tensor, " r"],
    bins: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    samples: int = 0,
    aligned: bool = False,
) -> Float[Tensor, "r d rows columns"]:
    """What of the maps lies in each box, in `bins` rows and columns: the mean of bilinear samples of each bin.

    Each box is of map `which`. Its corners are in pixels, which `scale` (down, across) makes those of the map.
    `samples` per bin and axis; 0: as many as a bin has pixels of the map, rounded up. `aligned` moves boxes by half a
    pixel, so that pixel centres are where they belong; without it, boxes are at least one pixel of the map. In float32
    at least.

    Bilinear samples on a grid are a product of two sums, one along each axis, and so is their mean: every box is a
    small matrix, by which its map is multiplied. No map is copied for its boxes.

    Source: He et al. 2017, Mask R-CNN, arXiv:1703.06870, section 3; as torchvision.ops.roi_align, to the rounding.
    """
    with full_precision(maps):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        corners, which = corners.to("cpu", maps.dtype), which.cpu()  # few numbers, which say how many there are of more
        left, top, right, bottom = corners.unbind(1)
        rows = shares(top * scale[0], bottom * scale[0], bins[0], maps.shape[2], samples, aligned)
        columns = shares(left * scale[1], right * scale[1], bins[1], maps.shape[3], samples, aligned)
        order = which.argsort(stable=True)
        counts = which.bincount(minlength=len(maps)).tolist()
        weights = torch.einsum("rph,rqw->rpqhw", rows[order].to(maps.device), columns[order].to(maps.device))
        found = [part @ one.flatten(1).T for part, one in zip(weights.flatten(3).flatten(1, 2).split(counts), maps)]
        return torch.cat(found)[order.argsort().to(maps.device)].transpose(1, 2).unflatten(2, bins)


def shares(
    start: Float[Tensor, " r"], end: Float[Tensor, " r"], bins: int, length: int, samples: int, aligned: bool
) -> Float[Tensor, "r bins length"]:
    """How much each pixel of an axis counts in each bin of a stretch of it."""
    start, end = (place - 0.5 if aligned else place for place in (start, end))
    size = end - start if aligned else (end - start).clamp(min=1)
    bin_size = size / bins
    count = torch.full_like(size, samples) if samples else bin_size.ceil()
    most = max(int(count.max()), 1) if len(count) else 1
    turn, row = torch.arange(most, device=start.device), torch.arange(bins, device=start.device)
    each = bin_size[:, None, None]
    places = start[:, None, None] + row[:, None] * each + (turn + 0.5) * each / count.clamp(min=1)[:, None, None]
    inside = (turn < count[:, None, None]) & (places >= -1) & (places <= length)
    places = places.clamp(0, length - 1)  # within a pixel outside counts as the edge
    triangles = (1 - (places[..., None] - torch.arange(length, device=start.device)).abs()).clamp(min=0)
    return (triangles * inside[..., None]).sum(2) / count.clamp(min=1)[:, None, None]
