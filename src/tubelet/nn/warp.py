"""Maps moved by a flow: `warp` looks where a pixel came from, `splat` puts it where it goes.

Flow is in pixels, x to the right, then y down. Nothing here estimates it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def warp(maps: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """What lies at every pixel plus its flow, bilinear; 0 outside of the picture.

    Flow goes from the picture that is made to the one that is known: to make frame t from frame t-1, give frame t's
    flow to t-1. Whole pixels are moved to the last bit, so that what rests is not blurred and what comes from outside
    is exactly 0.

    Source: Jaderberg et al. 2015, arXiv:1506.02025. MGMAE's released code scales by W/2 where its grid needs (W-1)/2,
    which moves everything by up to 0.5 % too far; here a flow of 3 is 3 pixels.
    """
    height, width = flow.shape[2:]
    tall, wide = (1 << (size - 1).bit_length() for size in (height, width))  # powers of two: the scaling is exact
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device).unsqueeze(1) + flow[:, 1]
    places = torch.stack([(2 * x + 1) / wide - 1, (2 * y + 1) / tall - 1], dim=3)  # -1 and 1 are the outer edges
    known = F.pad(maps, (0, wide - width, 0, tall - height))
    return F.grid_sample(known, places, mode="bilinear", padding_mode="zeros", align_corners=False)


def splat(
    maps: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """Sums of the pixels that land on every pixel, and of their weights: divide for means; weight 0 is a hole.

    Each is shared out to the four pixels around where it lands, by nearness; what lands outside is lost. On CUDA sums
    of many may differ in the last bits from one time to the next.

    Source: Niklaus & Liu 2020, arXiv:2003.05534, section 3.1 (summation splatting).
    """
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device).unsqueeze(1) + flow[:, 1]
    given = torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1).flatten(2)
    sums = torch.zeros_like(given)
    for down in (0, 1):
        for across in (0, 1):
            column, row = x.floor() + across, y.floor() + down
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            values = given * (share * inside).flatten(1).unsqueeze(1)
            sums.scatter_add_(2, place.flatten(1).unsqueeze(1).expand_as(given), values)
    sums = sums.unflatten(2, (height, width))
    return sums[:, :-1], sums[:, -1:]
