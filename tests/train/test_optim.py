"""Schedule, groups, layer-wise rates and one step of AdamW, against the released rules and a loop from the equation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.config import Optim, checked, numbers, preset
from tubelet.methods.masked import Masked
from tubelet.methods.supervised import Supervised
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.train.optim import adamw, decays, half_cosine, rate, scale, set_decay, set_rate
from tubelet.types import Grid


@pytest.fixture
def method():
    torch.manual_seed(0)
    return Masked(decoder=Decoder(8, 1, 2)).build(Encoder(12, 2, 3, 20, (2, 4, 4)), Grid(2, 4, 4, (2, 4, 4)), 3)


def test_kinetics_b_trains_at_the_released_rate():
    run = preset("videomae-k400-b")
    plan = numbers(run, 240_436)
    assert plan.lr == pytest.approx(1.2e-3)
    assert plan.low == pytest.approx(8e-5)  # the released code scales the lowest rate alike
    assert plan.steps == 240_436 * 1600 // 2048
    assert plan.warmup == round(240_436 * 40 / 2048)


def released_schedule(base: float, final: float, steps: int, warmup: int) -> np.ndarray:
    """Warm-up by linspace with its end point, then half a cosine that stops one step before its end."""
    i = np.arange(steps - warmup)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * i / len(i)))
    return np.concatenate([np.linspace(0, base, warmup), cosine])


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 2), (50, 0), (30, 29), (20, 1), (1000, 400)])
def test_schedule_equals_the_released_one(steps, warmup):
    ours = [rate(step, steps, warmup, 1.2e-3, 8e-5) for step in range(steps)]
    np.testing.assert_allclose(ours, released_schedule(1.2e-3, 8e-5, steps, warmup), rtol=1e-12, atol=1e-18)


def test_schedule_starts_at_zero_peaks_twice_and_never_reaches_its_end():
    rates = [rate(step, 100, 10, 1.0, 0.1) for step in range(100)]
    assert rates[0] == 0
    assert [step for step, lr in enumerate(rates) if lr == 1.0] == [9, 10]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.1 < rates[-1] < 0.101


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_schedules_of_warm_up_alone_are_finite(warmup):
    rates = [rate(step, 5, warmup, 1.0, 0.1) for step in range(5)]
    assert all(math.isfinite(lr) and 0 <= lr <= 1 for lr in rates)


def test_matrices_decay_and_nothing_else(method):
    kept = {name for name, p in method.named_parameters() if not decays(name, p)}
    for name, parameter in method.named_parameters():
        small = parameter.ndim == 1 or name.endswith((".bias", "mask_token"))
        assert (name in kept) == small, name
    for name in ("decoder.mask_token", "encoder.blocks.0.attn.q_bias", "encoder.norm.weight", "encoder.embed.bias"):
        assert name in kept
    assert "encoder.embed.weight" not in kept
    assert not decays("mask_token", torch.nn.Parameter(torch.zeros(1, 1, 8)))  # as the released shape would have it


@pytest.mark.parametrize("tuned", [False, True])
def test_learnt_positions_and_the_class_token_do_not_decay(tuned):
    """As VideoMAE has it in pre-training and fine-tuning, and MAE-ST in fine-tuning."""
    shape = Encoder(12, 2, 3, 20, (2, 4, 4), position="learned", class_token=True)
    learner = Supervised(outputs=3) if tuned else Masked(decoder=Decoder(8, 1, 2, position="learned"))
    module = learner.build(shape, Grid(2, 4, 4, (2, 4, 4)), 3)
    groups = {id(p): group for group in adamw(module, Optim(layer_decay=0.5)).param_groups for p in group["params"]}
    tables = {name: p for name, p in module.named_parameters() if "position" in name or "class_token" in name}
    assert len(tables) == (3 if tuned else 5)
    assert {groups[id(p)]["weight_decay"] for p in tables.values()} == {0}
    assert {groups[id(p)]["scale"] for name, p in tables.items() if "decoder" not in name} == {0.5**3}
    assert sum(group["weight_decay"] > 0 for group in groups.values()) > 8  # matrices of the blocks go on decaying


def test_every_parameter_is_in_one_group_with_its_decay(method):
    optimiser = adamw(method, Optim(weight_decay=0.07, layer_decay=0.5))
    groups = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(method.parameters()))
    for name, parameter in method.named_parameters():
        group = groups[id(parameter)]
        assert group["weight_decay"] == (0.07 if decays(name, parameter) else 0), name
        assert group["scale"] == scale(name, 2, 0.5), name
        assert group["betas"] == (0.9, 0.95)
        assert group["eps"] == 1e-8


def test_frozen_parameters_are_left_out(method):
    method.encoder.requires_grad_(False)
    optimiser = adamw(method, Optim())
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(method.decoder.parameters()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.embed.weight", 0.023757),
        ("encoder.embed.bias", 0.023757),
        ("encoder.blocks.0.norm1.weight", 0.75**12),
        ("encoder.blocks.1.attn.qkv.weight", 0.75**11),
        ("encoder.blocks.11.mlp.fc2.bias", 0.75),
        ("encoder.norm.weight", 1.0),
        ("head.weight", 1.0),
        ("fc_norm.bias", 1.0),
        ("network.encoder.embed.weight", 0.75**13),
        ("network.encoder.blocks.11.attn.q_bias", 0.75),
        ("network.norm.weight", 1.0),
    ],
)
def test_layer_decay_has_the_released_values(name, expected):
    assert scale(name, 12, 0.75) == pytest.approx(expected, rel=2e-5)


def test_rates_are_the_steps_rate_times_each_groups_scale(method):
    optimiser = adamw(method, Optim(layer_decay=0.5))
    set_rate(optimiser, 0.1)
    assert {group["lr"] for group in optimiser.param_groups} == {0.1 * 0.5**k for k in range(4)}


def test_two_steps_of_adamw_equal_a_loop_from_the_equation(method):
    optim = Optim(weight_decay=0.1, betas=(0.9, 0.95), layer_decay=0.5)
    optimiser = adamw(method, optim)
    generator = torch.Generator().manual_seed(1)
    state = {n: [p.detach().double().numpy().copy(), 0.0, 0.0] for n, p in method.named_parameters()}
    for step, lr in ((1, 0.01), (2, 0.02)):
        set_rate(optimiser, lr)
        for name, parameter in method.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            weight, first, second = state[name]
            gradient = parameter.grad.double().numpy()
            own = lr * scale(name, 2, 0.5)
            weight = weight * (1 - own * (0.1 if decays(name, parameter) else 0))
            first = 0.9 * first + 0.1 * gradient
            second = 0.95 * second + 0.05 * gradient**2
            weight = weight - own * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
            state[name] = [weight, first, second]
        optimiser.step()
    for name, parameter in method.named_parameters():
        np.testing.assert_allclose(parameter.detach(), state[name][0], rtol=2e-5, atol=1e-6, err_msg=name)


def test_weight_decay_goes_along_half_a_cosine_where_it_applies(method):
    values = [half_cosine(step, 10, 0.04, 0.4) for step in range(11)]
    expected = 0.4 + (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(11) / 10)) / 2
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    optimiser = adamw(method, Optim(weight_decay=0.04, weight_decay_end=0.4))
    set_decay(optimiser, 0.22)
    names = {id(p): name for name, p in method.named_parameters()}
    for group in optimiser.param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.22 if decays(names[id(p)], p) else 0)


@pytest.mark.parametrize("optim", [Optim(weight_decay=0, weight_decay_end=0.1), Optim(weight_decay_end=0.0)])
def test_an_end_of_weight_decay_that_cannot_be_is_named(optim):
    with pytest.raises(ValueError, match=r"--optim.weight-decay-end .* expected a number above 0"):
        checked(replace(preset("videomae-demo"), optim=optim))
