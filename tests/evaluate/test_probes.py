"""Probes against numpy loops, torch's own modules trained one by one, written-out attention and scikit-learn."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from tubelet.data.sources import Item
from tubelet.evaluate.attentive import AttentiveProbes
from tubelet.evaluate.probes import MAE, VIDEOMAE, Attentive, Clips, Linear, LinearProbes, Neighbours, Setting, seeded
from tubelet.evaluate.sweep import Optimiser, factor, loss, order


def clips_of(values: np.ndarray, classes: Sequence[int], blocks: tuple[int, ...] = (0,)) -> Clips:
    names = tuple("abcdefghij"[: max(classes) + 1])
    items = tuple(Item(Path(f"{number}.mp4"), names[number]) for number in classes)
    return Clips(values, blocks, items, names, np.array(classes), np.arange(len(classes)))


def spread(weights: torch.Tensor) -> float:
    return float(weights.detach().std())


def made(clips: int, blocks: tuple[int, ...] = (0,), width: int = 6, classes: int = 3, seed: int = 0) -> Clips:
    """Features of several blocks, of different scale and mean, that tell something about the classes."""
    rng = np.random.default_rng(seed)
    truth = np.arange(clips) % classes
    centres = rng.normal(size=(classes, len(blocks), width))
    values = (centres[truth] + rng.normal(size=(clips, len(blocks), width))) * np.linspace(1, 4, len(blocks))[:, None]
    return clips_of((values + 2).astype(np.float32), truth.tolist(), blocks=blocks)


# ---------------------------------------------------------------------------- optimisers


class Some(nn.Module):
    """Three probes' weights and biases; the last probe's weights are zero."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 4, 2, generator=generator)
        weight[2] = 0
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.randn(3, 2, generator=generator))


RATES, DECAYS = torch.tensor([0.5, 0.1, 0.3]), torch.tensor([0.0, 0.2, 0.1])


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return {
        "weight": torch.randn(3, 4, 2, generator=generator),
        "bias": torch.randn(3, 2, generator=generator),
    }


def stepped(rule: str, steps: int = 5) -> Some:
    some = Some()
    optimiser = Optimiser(some, rule, RATES, DECAYS)
    for step in range(steps):
        for name, gradient in gradients(step).items():
            getattr(some, name).grad = gradient
        optimiser.step(0.9**step)
    assert some.weight.grad is None
    return some


def test_lars_is_the_loop_of_the_paper():
    found = stepped("lars")
    for probe, (rate, decay) in enumerate(zip(RATES.tolist(), DECAYS.tolist())):
        weight, bias = Some().weight[probe].detach().numpy().copy(), Some().bias[probe].detach().numpy().copy()
        momentum, momentum_bias = np.zeros_like(weight), np.zeros_like(bias)
        for step in range(5):
            gradient = gradients(step)["weight"][probe].numpy() + decay * weight
            size, change = np.sqrt((weight**2).sum()), np.sqrt((gradient**2).sum())
            if size > 0 and change > 0:
                gradient = gradient * (0.001 * size / change)
            momentum = 0.9 * momentum + gradient
            weight = weight - rate * 0.9**step * momentum
            momentum_bias = 0.9 * momentum_bias + gradients(step)["bias"][probe].numpy()  # neither decayed nor adapted
            bias = bias - rate * 0.9**step * momentum_bias
        np.testing.assert_allclose(found.weight[probe].detach().numpy(), weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.bias[probe].detach().numpy(), bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_sgd_and_adamw_are_torchs_own_probe_by_probe(rule):
    found = stepped(rule)
    for probe, (rate, decay) in enumerate(zip(RATES.tolist(), DECAYS.tolist())):
        weight, bias = (nn.Parameter(t[probe].detach().clone()) for t in (Some().weight, Some().bias))
        groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
        kind = torch.optim.SGD(groups, rate, momentum=0.9) if rule == "sgd" else torch.optim.AdamW(groups, rate)
        for step in range(5):
            for group in kind.param_groups:
                group["lr"] = rate * 0.9**step
            weight.grad, bias.grad = gradients(step)["weight"][probe], gradients(step)["bias"][probe]
            kind.step()
        torch.testing.assert_close(found.weight[probe], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.bias[probe], bias, rtol=1e-5, atol=1e-6)


def test_the_rate_warms_up_and_falls_to_nothing():
    rates = [factor(step, 10, 2) for step in range(11)]
    np.testing.assert_allclose(rates[:3], [0, 0.5, 1])
    np.testing.assert_allclose(rates[6], 0.5)
    np.testing.assert_allclose(rates[10], 0, atol=1e-12)
    assert factor(0, 10, 0) == 1


def test_every_clip_is_seen_once_an_epoch():
    seen = torch.cat(list(order(7, 3, 7, seed=1))).view(3, 7)
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in seen)
    assert seen[0].tolist() != seen[1].tolist()
    assert torch.equal(torch.cat(list(order(7, 3, 7, seed=1))), seen.flatten())
    assert not torch.equal(torch.cat(list(order(7, 3, 7, seed=2))), seen.flatten())


# ---------------------------------------------------------------------------- linear


def alone(recipe: Linear, clips: Clips, setting: Setting, seed: int) -> nn.Module:
    """One probe out of torch's own parts."""
    width, classes = clips.values.shape[2], len(clips.names)
    norm = nn.BatchNorm1d(width, affine=False, eps=1e-6) if recipe.norm else nn.Identity()
    layer = nn.Linear(width, classes)
    start = seeded(seed, lambda: LinearProbes([0], 1, width, classes, False))
    with torch.no_grad():
        layer.weight.copy_(start.weight[0].T)
        layer.bias.zero_()
    batch = min(recipe.batch, len(clips))
    groups = [
        {"params": [layer.weight], "weight_decay": setting.weight_decay},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    rate = setting.lr * batch / 256
    optimiser = torch.optim.AdamW(groups, rate) if recipe.rule == "adamw" else torch.optim.SGD(groups, rate, 0.9)
    steps = int(recipe.epochs * len(clips) / batch)
    values = torch.from_numpy(clips.values[:, clips.blocks.index(setting.block)])
    for step, places in enumerate(order(len(clips), batch, steps, seed)):
        warm = int(recipe.warmup * len(clips) / batch)
        half = 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        for group in optimiser.param_groups:
            group["lr"] = rate * (step / warm if step < warm else half)
        optimiser.zero_grad()
        F.cross_entropy(layer(norm(values[places])), torch.from_numpy(clips.classes)[places]).backward()
        optimiser.step()
    return nn.Sequential(norm, layer).eval()


@pytest.mark.parametrize(("rule", "norm"), [("sgd", True), ("sgd", False), ("adamw", True)])
def test_many_linear_probes_at_once_are_those_trained_one_by_one(rule, norm):
    clips, new = made(24, (1, 2)), torch.from_numpy(made(5, (1, 2), seed=9).values)
    recipe = Linear(rule, (0.3, 3.0), (0.0, 0.1), epochs=10, warmup=2, batch=8, norm=norm)
    settings = recipe.settings(clips.blocks)
    assert len(settings) == 8
    found = recipe.fit(clips, settings, seed=3)(new)
    for logs, setting in zip(found, settings):
        expected = alone(recipe, clips, setting, 3)(new[:, clips.blocks.index(setting.block)]).log_softmax(1)
        torch.testing.assert_close(logs, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(recipe.fit(clips, [setting], seed=3)(new)[0], expected, rtol=1e-3, atol=1e-4)
    assert (found[0] - found[-1]).abs().max() > 0.1


def test_the_recipes_are_those_of_the_papers():
    assert (MAE.rule, MAE.norm, MAE.epochs, MAE.warmup, MAE.batch, MAE.decays) == ("lars", True, 90, 10, 16384, (0.0,))
    assert (VIDEOMAE.rule, VIDEOMAE.norm, VIDEOMAE.epochs, VIDEOMAE.batch) == ("sgd", False, 100, 1024)
    assert 0.1 in MAE.lrs
    assert 0.1 in VIDEOMAE.lrs
    probes = seeded(0, lambda: LinearProbes([0], 1, 768, 400, True))
    assert spread(probes.weight) == pytest.approx(0.01, rel=0.01)
    assert probes.norm.eps == 1e-6
    assert not list(probes.norm.parameters())
    assert "12 steps of 24 clips, rates x 24/256" in Linear(epochs=12).about(24)


def test_weights_come_from_the_seed_and_torchs_generator_is_left_alone():
    clips, before = made(9), torch.get_rng_state()
    recipe = Linear(lrs=(0.1,), decays=(0.0,), epochs=1)
    one, same, other = (recipe.fit(clips, recipe.settings((0,)), seed)(torch.ones(1, 1, 6)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------------------- attentive


def rough(probes: AttentiveProbes) -> AttentiveProbes:
    """The same with nothing at its initial value, and every probe different."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in probes.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return probes


def norm(x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt() * gain + bias


@pytest.mark.parametrize("depth", [1, 3])
def test_the_attentive_probe_is_what_the_paper_says(depth):
    probes = rough(AttentiveProbes(2 if depth == 1 else 1, 8, 2, 3, depth))
    tokens = torch.randn(4, 10, 8) * 3 + 1
    found = probes(tokens)
    for p in range(len(found)):
        seen = tokens
        for block in probes.blocks:
            seen = block(seen)
        seen = norm(seen, probes.norm1[p], probes.norm1_bias[p])
        q = (probes.query[p] @ probes.q[p] + probes.q_bias[p]).view(2, 4)  # the query itself is not normalised
        keys = (seen @ probes.k[p]).view(4, 10, 2, 4)
        values = (seen @ probes.v[p] + probes.v_bias[p]).view(4, 10, 2, 4)
        weights = torch.softmax(torch.einsum("hc,bnhc->bhn", q, keys) / 4**0.5, dim=2)
        x = probes.query[p] + torch.einsum("bhn,bnhc->bhc", weights, values).reshape(4, 8)
        hidden = F.gelu(norm(x, probes.norm2[p], probes.norm2_bias[p]) @ probes.fc1[p] + probes.fc1_bias[p])
        x = x + hidden @ probes.fc2[p] + probes.fc2_bias[p]
        torch.testing.assert_close(found[p], x @ probes.head[p] + probes.head_bias[p], rtol=1e-4, atol=1e-4)
    assert len(probes.blocks) == depth - 1


def test_a_bias_on_the_keys_would_change_nothing():
    q, keys, bias = torch.randn(4), torch.randn(10, 4), torch.randn(4)
    torch.testing.assert_close(torch.softmax((keys + bias) @ q, 0), torch.softmax(keys @ q, 0))


def test_initial_weights_are_v_jepas():
    torch.manual_seed(0)
    shallow, deep = AttentiveProbes(1, 192, 3, 10), AttentiveProbes(1, 192, 3, 10, depth=4)
    for matrix in (shallow.q, shallow.k, shallow.v, shallow.fc1, shallow.fc2 * 2**0.5, deep.fc2 * 6**0.5):
        assert spread(matrix) == pytest.approx(0.02, rel=0.03)
    assert spread(shallow.query) == pytest.approx(0.02, rel=0.2)
    for number, block in enumerate(deep.blocks, 1):
        for matrix in (block.mlp.fc2.weight, block.attn.proj.weight):
            assert spread(matrix) == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.03)
        assert spread(block.attn.qkv.weight) == pytest.approx(0.02, rel=0.03)


def test_many_attentive_probes_at_once_are_those_trained_one_by_one():
    rng = np.random.default_rng(0)
    clips = clips_of(rng.normal(size=(12, 5, 8)).astype(np.float16), [0, 1, 2] * 4)
    recipe = Attentive(2, lrs=(1e-3, 1e-2), decays=(0.01, 0.5), epochs=4, batch=6)
    settings = recipe.settings((0,))
    new = torch.randn(3, 5, 8)
    found = recipe.fit(clips, settings, seed=5)(new)
    for logs, setting in zip(found, settings):
        probe = seeded(5, lambda: AttentiveProbes(1, 8, 2, 3))
        plain = [p for name, p in probe.named_parameters() if "bias" in name or "norm" in name]
        matrices = [p for name, p in probe.named_parameters() if not ("bias" in name or "norm" in name)]
        groups = [{"params": matrices, "weight_decay": setting.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, setting.lr)
        for step, places in enumerate(order(12, 6, 8, 5)):
            for group in optimiser.param_groups:
                group["lr"] = setting.lr * 0.5 * (1 + math.cos(math.pi * step / 8))
            optimiser.zero_grad()
            values = torch.from_numpy(clips.values[places.numpy()]).float()
            F.cross_entropy(probe(values)[0], torch.from_numpy(clips.classes)[places]).backward()
            optimiser.step()
        torch.testing.assert_close(logs, probe(new)[0].log_softmax(1), rtol=1e-3, atol=1e-4)


def test_deep_attentive_probes_learn_apart_too():
    rng = np.random.default_rng(0)
    clips = clips_of(rng.normal(size=(8, 4, 8)).astype(np.float16), [0, 1] * 4)
    recipe = Attentive(2, depth=3, lrs=(1e-3, 1e-2), decays=(0.1,), epochs=2, batch=4)
    new = torch.randn(3, 4, 8)
    both = recipe.fit(clips, recipe.settings((0,)), seed=0)(new)
    for logs, setting in zip(both, recipe.settings((0,))):
        torch.testing.assert_close(logs, recipe.fit(clips, [setting], seed=0)(new)[0])
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_the_loss_is_the_sum_of_the_probes_own():
    logits, classes = torch.randn(3, 5, 4), torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(loss(logits, classes), sum(F.cross_entropy(one, classes) for one in logits))


# ---------------------------------------------------------------------------- nearest neighbours


@pytest.mark.parametrize("k", [1, 7, 30, 200])
def test_neighbours_vote_as_in_scikit_learn(k):
    bank, new = made(30, (1, 2), seed=1), made(11, (1, 2), seed=2).values
    probe = Neighbours((k,))
    found = probe.fit(bank, probe.settings(bank.blocks), 0)(torch.from_numpy(new)).exp().numpy()
    for block in range(2):
        judge = KNeighborsClassifier(
            min(k, 30), metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(bank.values[:, block].astype(np.float64), bank.classes)
        np.testing.assert_allclose(found[block], judge.predict_proba(new[:, block].astype(np.float64)), atol=1e-4)
    assert ("all 30 of them" in probe.about(30)) == (k > 30)


def test_equal_neighbours_vote_alike():
    bank = clips_of(np.array([[1, 0]] * 3 + [[0, 1]] * 2, np.float32)[:, None], [0, 1, 1, 2, 2])
    probe = Neighbours((200,))
    shares = probe.fit(bank, probe.settings((0,)), 0)(torch.tensor([[[5.0, 0.0]]])).exp()[0, 0]
    far = math.exp(-1 / 0.07)
    expected = torch.tensor([1, 2, 2 * far]) / (3 + 2 * far)
    torch.testing.assert_close(shares, expected)


def test_several_k_are_several_settings():
    bank = made(12)
    probe = Neighbours((1, 12))
    settings = probe.settings((0,))
    assert [setting.k for setting in settings] == [1, 12]
    found = probe.fit(bank, settings, 0)(torch.from_numpy(bank.values))
    assert (found[0].argmax(1).numpy() == bank.classes).all()  # its own nearest neighbour
    assert float(found[1].exp().max()) < 1


# ---------------------------------------------------------------------------- errors


def test_settings_that_cannot_be_used():
    for change, message in (
        ({"lrs": ()}, "--lr"),
        ({"lrs": (0.1, -1.0)}, "--lr"),
        ({"decays": (-0.1,)}, "--weight-decay"),
        ({"epochs": 0}, "--epochs 0"),
        ({"batch": 1}, "--batch 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Linear(**change)
        with pytest.raises(ValueError, match=message):
            Attentive(2, **change)
    for ks, temperature in itertools.chain([((0,), 0.1), ((), 0.1), ((5,), 0.0)]):
        with pytest.raises(ValueError, match="above 0"):
            Neighbours(ks, temperature)
    with pytest.raises(ValueError, match="depth 0"):
        Attentive(2, depth=0)
    with pytest.raises(ValueError, match="4 heads do not divide tokens of 6"):
        Attentive(4).fit(made(6), Attentive(4).settings((0,)), 0)
    with pytest.raises(ValueError, match="cannot be trained on 1 clip"):
        Linear().fit(made(1, classes=1), Linear().settings((0,)), 0)
