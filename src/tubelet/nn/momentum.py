"""Copies of a network that follow it slowly."""

import torch
from torch import nn


def follow(behind: nn.Module, ahead: nn.Module, momentum: float) -> None:
    """Moves a copy, `momentum` of what it was and the rest of what is ahead: parameters that learn, no buffers."""
    pairs = zip(behind.parameters(), ahead.parameters())
    slow, fast = zip(*(pair for pair in pairs if pair[1].requires_grad))
    with torch.no_grad():
        torch._foreach_lerp_(list(slow), list(fast), 1 - momentum)
