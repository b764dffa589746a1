"""RandAugment for clips: changes of colour and shape, drawn once, alike for all frames. (Being written.)"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations, each with its own draw, at about `magnitude` of 10."""

    magnitude: float = 7.0
    """How strong, 0 to 10."""
    layers: int = 4
    """How many operations are drawn for a clip."""

    def __call__(self, frames: UInt8[Tensor, "t h w c"], rng: np.random.Generator) -> UInt8[Tensor, "t h w c"]:
        """The clip, changed."""
        return frames
