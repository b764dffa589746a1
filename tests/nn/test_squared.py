"""The squared error against autograd's own, in value, gradient and memory."""

import pytest
import torch
import torch.nn.functional as F

from tubelet.activations import Live
from tubelet.nn import squared
from tubelet.nn.squared import squared_error
from tubelet.types import Wanted


def plain(prediction, wanted):
    error = F.mse_loss(prediction.float(), wanted.values, reduction="none")
    return (error if wanted.weights is None else error * wanted.weights).mean(2)


def taken(error, prediction, wanted, upstream):
    """Errors of all tokens, and the gradient."""
    prediction = prediction.clone().requires_grad_()
    errors = error(prediction, wanted)
    errors.backward(upstream)
    return errors.detach(), prediction.grad


@pytest.mark.parametrize("at_once", [1, 50, 10**6], ids=["a clip", "some clips", "all"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errors_and_gradients_are_those_of_autograd(monkeypatch, dtype, weighted, at_once):
    monkeypatch.setattr(squared, "AT_ONCE", at_once)
    rng = torch.Generator().manual_seed(0)
    prediction, values = torch.randn(5, 4, 6, generator=rng).to(dtype), torch.randn(5, 4, 6, generator=rng)
    wanted = Wanted(values, torch.rand(5, 4, 6, generator=rng) if weighted else None)
    upstream = torch.rand(5, 4, generator=rng)
    expected = taken(plain, prediction, wanted, upstream)
    got = taken(squared_error, prediction, wanted, upstream)
    assert [each.dtype for each in got] == [torch.float32, dtype]
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-7)
    torch.testing.assert_close(squared_error(prediction, wanted), expected[0])  # where nothing learns


def test_tokens_that_are_not_scored_have_no_gradient():
    prediction, values = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    _, gradient = taken(squared_error, prediction, Wanted(values), torch.tensor([[1.0, 0, 1], [0, 0, 1]]))
    assert (gradient.abs().sum(2) == 0).tolist() == [[False, True, False], [True, True, False]]


def test_weights_may_be_the_same_for_all_tokens(monkeypatch):
    monkeypatch.setattr(squared, "AT_ONCE", 1)
    prediction, values, weights = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.rand(4)
    expected = taken(plain, prediction, Wanted(values, weights), torch.ones(3, 2))
    got = taken(squared_error, prediction, Wanted(values, weights), torch.ones(3, 2))
    torch.testing.assert_close(got, expected)


def test_it_takes_half_of_the_memory(monkeypatch):
    """Beside prediction and target: their gradient, and one clip in float32; autograd's has four such tensors."""
    monkeypatch.setattr(squared, "AT_ONCE", 1)
    prediction, values = torch.randn(16, 32, 64).bfloat16(), torch.randn(16, 32, 64)
    upstream, count = torch.ones(16, 32), values.numel()
    peaks = []
    for error in (plain, squared_error):
        with Live([prediction, values, upstream]) as live:
            taken(error, prediction, Wanted(values), upstream)
        peaks.append(live.peak)
    assert peaks[1] < count * (2 + 2 + 4 / 16) * 1.1  # the copy of the prediction in `taken`, the gradient, a clip
    assert peaks[1] < 0.45 * peaks[0]
