"""The squared error of the largest tensors of a step, without a second tensor of their size."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tubelet.types import Wanted

AT_ONCE = 2**22  # values that are there in float32 besides: 16 MiB


def squared_error(prediction: Float[Tensor, "b p y"], wanted: Wanted) -> Float[Tensor, "b p"]:
    """Mean squared error of every token, in float32; each value's square times its weight, if there are any.

    Autograd by itself holds the prediction in float32, and makes two more tensors as large on its way back: in a step
    of ViT-S a quarter of what is there at once. Here it holds the prediction as it came, and works some clips at a
    time.
    """
    weights = None if wanted.weights is None else wanted.weights.expand_as(wanted.values)
    return _SquaredError.apply(prediction, wanted.values, weights)


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prediction: Tensor, values: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(prediction, values, weights)
        errors = values.new_empty(values.shape[:2])
        for clips in pieces(values):
            squares = difference(prediction, values, clips).square_()
            torch.mean(squares if weights is None else squares.mul_(weights[clips]), 2, out=errors[clips])
        return errors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """2 w (prediction - value) / y, times what comes from above."""
        prediction, values, weights = ctx.saved_tensors
        gradient = torch.empty_like(prediction)
        for clips in pieces(values):
            slope = difference(prediction, values, clips).mul_(upstream[clips, :, None] * (2 / values.shape[2]))
            gradient[clips] = slope if weights is None else slope.mul_(weights[clips])
        return gradient, None, None


def pieces(values: Float[Tensor, "b p y"]) -> list[slice]:
    """All clips, as many at once as `AT_ONCE` allows."""
    several = max(AT_ONCE // max(values.shape[1:].numel(), 1), 1)
    return [slice(start, start + several) for start in range(0, len(values), several)]


def difference(
    prediction: Float[Tensor, "b p y"], values: Float[Tensor, "b p y"], clips: slice
) -> Float[Tensor, "k p y"]:
    """Of some clips, in float32 of its own."""
    return prediction[clips].to(torch.float32, copy=True).sub_(values[clips])
