"""Maps moved by a flow: every pixel looks where it came from.

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
