"""Batch norm over the clips of all processes."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.collective import summed, whoami


class BatchNorm(nn.BatchNorm1d):
    """Batch norm whose statistics are those of all processes' rows, in float32 whatever the arithmetic.

    On any device: torch's SyncBatchNorm, which computes the same, refuses tensors on the CPU.
    """

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Normalised rows; the running statistics follow while training."""
        x = x.float()
        if not self.training or whoami()[1] == 1:
            return super().forward(x)
        rows = summed(x.new_tensor(float(len(x))))
        mean = summed(x.sum(0)) / rows
        variance = summed((x - mean).square().sum(0)) / rows
        self.remember(mean.detach(), (variance * rows / (rows - 1)).detach())
        normed = (x - mean) * torch.rsqrt(variance + self.eps)
        return normed * self.weight + self.bias if self.affine else normed

    def remember(self, mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> None:
        """Moves the running statistics towards those of a step, as torch does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers without bias; batch norm and ReLU after each but the last, which has batch norm without weights.

    Source: MoCo v3 (arXiv:2104.02057), released model; projector and predictor are two such.
    """
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), 2):
        layers.append(nn.Linear(fan_in, fan_out, bias=False))
        layers += [BatchNorm(fan_out), nn.ReLU()] if number < len(widths) else [BatchNorm(fan_out, affine=False)]
    return nn.Sequential(*layers)
