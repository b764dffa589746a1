"""LoRA: learn a low-rank change of a linear layer and leave the layer itself as it is.

Hu et al. 2021, arXiv:2106.09685, section 4: W x + (alpha / rank) B A x, A Kaiming-uniform, B zero at the start.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LowRank(nn.Module):
    """The change of a weight of shape (out, in): parametrises it as weight + change, so that it folds away."""

    def __init__(self, out: int, into: int, rank: int, alpha: float) -> None:
        super().__init__()
        if not 0 < rank <= min(out, into):
            raise ValueError(
                f"LoRA rank {rank} cannot be used on a {out}x{into} matrix; expected 1 to {min(out, into)}"
            )
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, into))
        self.b = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Float[Tensor, "out into"]) -> Float[Tensor, "out into"]:
        return weight + self.scale * (self.b @ self.a)


def add_lora(layer: nn.Linear, rank: int, alpha: float) -> None:
    """Freezes a linear layer's weight and learns a change of it instead; `folded` tells the sum of both."""
    layer.weight.requires_grad_(False)
    change = LowRank(layer.out_features, layer.in_features, rank, alpha)
    nn.utils.parametrize.register_parametrization(layer, "weight", change)


def folded(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as if it had no LoRA: every learnt change is added to its weight."""
    state = module.state_dict()
    for name, layer in module.named_modules():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.parametrizations.")}
            state[f"{name}.weight"] = layer.weight
    return state
