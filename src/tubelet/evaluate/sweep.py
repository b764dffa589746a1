"""Many probes trained at once on the same batches: optimisers whose learning rate and weight decay are vectors.

Every parameter of such probes has a leading axis, one place a probe (or, of a single probe, whatever shape it likes).
What one probe learns depends on no other: together they give what trainings one by one would.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Rule = Literal["lars", "sgd", "adamw"]
MOMENTUM, BETAS, EPS, TRUST = 0.9, (0.9, 0.999), 1e-8, 0.001


class Optimiser:
    """LARS, SGD with momentum or AdamW, each probe with its own rate and decay; biases and norms are not decayed.

    Source: LARS: You et al. 2017 (arXiv:1708.03888), as MAE's linear probe has it: trust 0.001, momentum on the step
    before the rate, biases neither decayed nor adapted.
    """

    def __init__(self, probes: nn.Module, rule: Rule, rates: Float[Tensor, " p"], decays: Float[Tensor, " p"]) -> None:
        self.probes, self.rule, self.rates, self.decays = probes, rule, rates, decays
        self.steps = 0
        self.first = {name: torch.zeros_like(p) for name, p in probes.named_parameters()}
        self.second = {name: torch.zeros_like(p) for name, p in probes.named_parameters() if rule == "adamw"}

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One step with the gradients that are there, at `factor` times the rates; takes the gradients away."""
        self.steps += 1
        for name, p in self.probes.named_parameters():
            wide = (-1, *[1] * (p.ndim - 1))
            rate, matrix = (factor * self.rates).view(wide), not ("bias" in name or "norm" in name)
            decay = self.decays.view(wide) if matrix else torch.zeros_like(rate)
            gradient, first = p.grad, self.first[name]
            assert gradient is not None
            if self.rule == "adamw":
                p.mul_(1 - rate * decay)
                first.lerp_(gradient, 1 - BETAS[0])
                second = self.second[name].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                root = (second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPS)
                p.sub_(rate / (1 - BETAS[0] ** self.steps) * first / root)
            else:
                gradient = gradient + decay * p
                if self.rule == "lars" and matrix:
                    size, change = norms(p).view(wide), norms(gradient).view(wide)
                    gradient = gradient * torch.where((size > 0) & (change > 0), TRUST * size / change, 1.0)
                p.sub_(rate * first.mul_(MOMENTUM).add_(gradient))
            p.grad = None


def norms(parameter: Float[Tensor, "p ..."]) -> Float[Tensor, " p"]:
    """Euclidean norm of every probe's part."""
    return parameter.flatten(1).norm(dim=1)


def factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate: a straight line from 0 over `warmup` steps, then half a cosine to 0.

    Source: MAE's linear probe.
    """
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def order(clips: int, batch: int, steps: int, seed: int) -> Iterator[Int[Tensor, " b"]]:
    """Which clips each step sees: shuffled anew every epoch, cut without regard to where an epoch ends."""
    generator, left = torch.Generator().manual_seed(seed), torch.zeros(0, dtype=torch.long)
    for _ in range(steps):
        while len(left) < batch:
            left = torch.cat([left, torch.randperm(clips, generator=generator)])
        yield left[:batch]
        left = left[batch:]


def loss(logits: Float[Tensor, "p b x"], classes: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """The probes' cross-entropies, each the mean over its clips, summed: no gradient of one reaches another."""
    return F.cross_entropy(logits.flatten(0, 1), classes.repeat(len(logits))) * len(logits)
