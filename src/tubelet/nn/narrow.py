"""Weights in bfloat16, where nothing is lost by it, and products in float32, where something would be."""

import torch
from torch import Tensor, nn


def full_precision(like: Tensor) -> torch.autocast:
    """Products in float32, on the device of a tensor, where the run's arithmetic is bfloat16."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


def narrow(module: nn.Module) -> None:
    """Keeps the weights of linear layers in bfloat16, of a module that learns no more and runs under autocast.

    Autocast makes such copies for every product, and keeps none of weights that do not learn: the outputs are the same
    to the bit, without the copying, and of these weights half the memory is left. What autocast leaves in float32
    (norms, positions, biases that are put together first) stays. Not for what learns: steps are smaller than the
    numbers that bfloat16 knows.
    """
    module.requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and not nn.utils.parametrize.is_parametrized(layer):
            layer.to(torch.bfloat16)
