"""AdamW groups, layer-wise rates, and the schedule: warm-up, then half a cosine."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.config import Optim
from tubelet.types import Method


def rate(step: int, steps: int, warmup: int, peak: float, low: float) -> float:
    """Learning rate of a step (counted from 0): a straight line from 0 to `peak`, then half a cosine towards `low`.

    The line includes its end and the cosine its beginning, so the peak is held for two steps; `low` itself is never
    reached. Source: the released schedule of VideoMAE.
    """
    if step < warmup:
        return peak * step / max(warmup - 1, 1)
    return half_cosine(step - warmup, max(steps - warmup, 1), peak, low)


def half_cosine(step: int, steps: int, first: float, last: float) -> float:
    """From `first` at step 0 towards `last`, which is reached after all `steps`; as a rate, or as weight decay."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * step / steps))


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices only, and neither the mask token nor learnt positions.

    Source: the released code of VideoMAE, which lists positions, class and mask token as names without decay; MAE-ST's
    does in fine-tuning.
    """
    return parameter.ndim > 1 and not name.endswith(
        ("bias", "mask_token", "position.slot", "position.place", "pool.place")
    )


def scale(name: str, depth: int, layer_decay: float) -> float:
    """Factor on a parameter's learning rate: layer_decay^(depth + 1 - layer).

    Embedding, class token and learnt positions are layer 0, block i is layer i + 1, everything outside the encoder is
    depth + 1.
    Source: BEiT's layer-wise decay, as VideoMAE uses it.
    """
    name = name.removeprefix("network.")  # of a classifier
    if name.startswith(("encoder.embed", "encoder.position", "encoder.class_token")):
        layer = 0
    elif name.startswith("encoder.blocks."):
        layer = int(name.split(".")[2]) + 1
    else:
        layer = depth + 1
    return layer_decay ** (depth + 1 - layer)


def adamw(method: Method, optim: Optim) -> torch.optim.AdamW:
    """The optimiser: one group for each pair of weight decay and rate scale; set the rates with `set_rate`."""
    depth = len(getattr(method.encoder, "blocks", ()))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decay = optim.weight_decay if decays(name, parameter) else 0.0
            groups.setdefault((decay, scale(name, depth, optim.layer_decay)), []).append(parameter)
    fused = next(method.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        [{"params": p, "weight_decay": decay, "scale": factor} for (decay, factor), p in groups.items()],
        lr=optim.base_lr,
        betas=optim.betas,
        eps=1e-8,
        fused=fused,
    )


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Gives every group the step's rate times its own scale."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["scale"]


def set_decay(optimiser: torch.optim.Optimizer, decay: float) -> None:
    """Gives every group that decays the step's weight decay."""
    for group in optimiser.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = decay


def moments(method: Method, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What the optimiser keeps of every parameter that it has moved, by the parameter's name: step and two moments."""
    return {
        name: optimiser.state[parameter]
        for name, parameter in method.named_parameters()
        if parameter in optimiser.state  # a look at another would make an entry
    }


def make_moments(method: Method, optimiser: torch.optim.Optimizer, names: Collection[str]) -> None:
    """Empty ones of the parameters of these names, to be filled."""
    fused = optimiser.defaults["fused"]
    for name, parameter in method.named_parameters():
        if name in names:
            step = torch.zeros((), device=parameter.device if fused else "cpu")
            optimiser.state[parameter] = {
                "step": step,
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def named_moments(
    method: Method, optimiser: torch.optim.Optimizer, saved: dict[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """The moments of a checkpoint by names, also of those from before 2026-11-23, which number the parameters."""
    if "param_groups" not in saved:
        return saved
    names = {parameter: name for name, parameter in method.named_parameters()}
    here = [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    return {name: saved["state"][number] for number, name in zip(numbers, here) if number in saved["state"]}
