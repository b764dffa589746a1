"""Copies of a network that follow it slowly."""

import torch
from torch import nn


def follow(behind: nn.Module, ahead: nn.Module, momentum: float) -> None:
    """Moves every parameter of a copy, not its buffers: `momentum` of what it was, the rest of what is ahead."""
    with torch.no_grad():
        torch._foreach_lerp_(list(behind.parameters()), list(ahead.parameters()), 1 - momentum)
