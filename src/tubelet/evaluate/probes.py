"""What reads labels out of a frozen encoder's features: linear, attentive and nearest-neighbour probes.

A probe is a frozen dataclass: `settings` lists what it tries, `fit` learns all of it at once. Which setting is right is
decided in `probing.py`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tubelet.data.labels import Labels
from tubelet.data.sources import Item
from tubelet.evaluate.attentive import AttentiveProbes
from tubelet.evaluate.features import Features
from tubelet.evaluate.sweep import Optimiser, Rule, factor, loss, order

# ---------------------------------------------------------------------------- clips with classes


@dataclass(frozen=True)
class Clips:
    """Features of clips, the videos that they are of, and their classes; `rows` says which of them are meant."""

    values: Float[np.ndarray, "all m d"]
    blocks: tuple[int, ...]
    videos: tuple[Item, ...]
    names: tuple[str, ...]
    classes: Int[np.ndarray, " all"]
    rows: Int[np.ndarray, " clips"]

    @classmethod
    def of(cls, features: Features, items: Sequence[Item], names: Sequence[str] = ()) -> "Clips":
        """Features with the labels of their videos; `names` are the classes, by default those that occur.

        Raises:
            ValueError: videos without a label, a label that is not in `names`, or only one class.
        """
        read = [items[row] for row in features.rows]
        labels = Labels("class", tuple(names)) if names else Labels.of(read)
        if len(labels.names) < 2:
            raise ValueError(
                f"all {len(read)} clips to train on are of one class, {labels.names[0]!r}; a probe needs two or more"
            )
        try:
            classes = labels.encode(read).argmax(1).numpy()
        except ValueError as error:
            raise ValueError(f"{error} (those that training clips show)" if names else str(error)) from error
        return cls(features.values, features.blocks, tuple(read), labels.names, classes, np.arange(len(read)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def truth(self) -> Int[np.ndarray, " clips"]:
        """The class of every clip."""
        return self.classes[self.rows]

    @property
    def items(self) -> list[Item]:
        """The video of every clip."""
        return [self.videos[row] for row in self.rows]

    def only(self, chosen: Bool[np.ndarray, " clips"]) -> "Clips":
        """Some of the clips."""
        return replace(self, rows=self.rows[chosen])

    def at(self, places: Int[Tensor, " b"] | slice) -> tuple[Float[Tensor, "b m d"], Int[Tensor, " b"]]:
        """Features, in float32, and classes of some of the clips."""
        rows = self.rows[places if isinstance(places, slice) else places.numpy()]
        return torch.from_numpy(self.values[rows]).float(), torch.from_numpy(self.classes[rows])

    def parts(self, batch: int = 64) -> Iterator[tuple[Float[Tensor, "b m d"], Int[Tensor, " b"]]]:
        """All of them in order, a few at a time."""
        return (self.at(slice(start, start + batch)) for start in range(0, len(self), batch))


# ---------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Setting:
    """One thing that a probe tries."""

    block: int | None = None  # 0 is the encoder's output
    lr: float | None = None
    weight_decay: float | None = None
    k: int | None = None

    def __str__(self) -> str:
        """For people.

        >>> str(Setting(block=3, lr=0.01, weight_decay=0.0)), str(Setting(block=0, k=200))
        ('block 3, lr 0.01, weight decay 0', 'output, k 200')
        """
        block = [] if self.block is None else [f"block {self.block}" if self.block else "output"]
        rest = ((name, getattr(self, name.replace(" ", "_"))) for name in ("lr", "weight decay", "k"))
        return ", ".join([*block, *(f"{name} {value:g}" for name, value in rest if value is not None)])


Predict = Callable[[Float[Tensor, "b m d"]], Float[Tensor, "p b x"]]
"""Features to log-probabilities, of every setting that was fitted."""


@runtime_checkable
class Probe(Protocol):
    """What can be learnt from features."""

    def settings(self, blocks: Sequence[int]) -> list[Setting]:
        """What is tried on features of these blocks."""
        ...

    def about(self, clips: int) -> str:
        """What fitting on so many clips means."""
        ...

    def fit(self, clips: Clips, settings: Sequence[Setting], seed: int) -> Predict:
        """All settings (as `settings` lists them, or one) learnt from the clips."""
        ...


@dataclass(frozen=True)
class Linear:
    """A linear layer on pooled tokens, for every block, learning rate and weight decay at once.

    With `norm`, a batch norm without weights before it, whose running statistics are part of the probe.
    """

    rule: Rule = "adamw"
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
    """Base learning rates: the real ones are these x batch / 256."""
    decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    epochs: float = 100
    warmup: float = 10
    batch: int = 256
    norm: bool = True
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        usable(self)

    def settings(self, blocks: Sequence[int]) -> list[Setting]:
        """Every block with every rate and decay."""
        return [Setting(block, lr, decay) for block in blocks for lr in self.lrs for decay in self.decays]

    def about(self, clips: int) -> str:
        """Steps and the size of their batches, which the rates depend on."""
        batch = min(self.batch, clips)
        norm = "batch norm and " if self.norm else ""
        return (
            f"{norm}linear layer on pooled tokens, {self.rule}, {steps_of(self, clips)} steps of {batch} clips, "
            f"rates x {batch}/256"
        )

    def fit(self, clips: Clips, settings: Sequence[Setting], seed: int) -> Predict:
        """All settings learnt from the clips."""
        blocks = list(dict.fromkeys(setting.block for setting in settings))
        places = [clips.blocks.index(block) for block in blocks if block is not None]
        probes = seeded(
            seed,
            lambda: LinearProbes(
                places, len(settings) // len(blocks), clips.values.shape[2], len(clips.names), self.norm
            ),
        )
        return train([(probes, settings)], clips, self, self.rule, min(self.batch, len(clips)) / 256, seed)


class LinearProbes(nn.Module):
    """Mean tokens "b m d" of blocks in, logits "p b x" of linear layers out, as many for each block."""

    def __init__(self, places: Sequence[int], each: int, width: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.places = list(places)
        blocks = len(self.places)
        self.norm = nn.BatchNorm1d(blocks * width, affine=False, eps=1e-6) if norm else nn.Identity()
        one = nn.init.trunc_normal_(torch.empty(width, outputs), std=0.01)
        self.weight = nn.Parameter(one.expand(blocks * each, width, outputs).clone())
        self.bias = nn.Parameter(torch.zeros(blocks * each, outputs))

    def forward(self, means: Float[Tensor, "b m d"]) -> Float[Tensor, "p b x"]:
        x = means[:, self.places]
        x = self.norm(x.flatten(1)).view(x.shape)
        weight = self.weight.unflatten(0, (len(self.places), -1))
        return torch.einsum("bmd,msdx->msbx", x, weight).flatten(0, 1) + self.bias[:, None]


@dataclass(frozen=True)
class Attentive:
    """A learnt query that attends over all tokens, then a linear layer; every rate and decay at once.

    Source: V-JEPA (arXiv:2404.08471): AdamW, rate 1e-3, decay 0.01, 20 epochs, half a cosine to 0; the sweep and depth
    4 (three blocks of self-attention first) are V-JEPA 2's (arXiv:2506.09985).
    """

    heads: int
    """The encoder's, in the papers."""
    depth: int = 1
    """1: the query alone; 4: after three self-attention blocks over the tokens."""
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 5e-3)
    decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    epochs: float = 20
    warmup: float = 0
    batch: int = 64
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        usable(self)
        if self.heads < 1 or self.depth < 1:
            raise ValueError(f"an attentive probe with heads {self.heads} and depth {self.depth}: both are 1 or more")

    def settings(self, blocks: Sequence[int]) -> list[Setting]:
        """Every rate with every decay; the tokens of all blocks are attended over together."""
        return [Setting(lr=lr, weight_decay=decay) for lr in self.lrs for decay in self.decays]

    def about(self, clips: int) -> str:
        """Steps and the size of their batches."""
        deep = f" after {self.depth - 1} self-attention blocks" * (self.depth > 1)
        batch = min(self.batch, clips)
        return f"one query over all tokens{deep}, adamw, {steps_of(self, clips)} steps of {batch} clips"

    def fit(self, clips: Clips, settings: Sequence[Setting], seed: int) -> Predict:
        """All settings learnt from the clips: side by side, or with a depth one after the other on each batch."""
        shape = (clips.values.shape[2], self.heads, len(clips.names), self.depth)
        if shape[0] % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide tokens of {shape[0]} channels; choose other --probe-heads"
            )
        groups = [settings] if self.depth == 1 else [[setting] for setting in settings]
        probes = [(seeded(seed, lambda: AttentiveProbes(len(group), *shape)), group) for group in groups]  # noqa: B023
        return train(probes, clips, self, "adamw", 1.0, seed)


@dataclass(frozen=True)
class Neighbours:
    """The nearest training clips vote, weighted by exp(cosine similarity / temperature).

    Source: Wu et al. 2018 (arXiv:1805.01978), with their k and temperature.
    """

    ks: tuple[int, ...] = (200,)
    """How many vote; all of them where there are fewer."""
    temperature: float = 0.07
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or self.temperature <= 0:
            raise ValueError(f"k {list(self.ks)} with temperature {self.temperature:g} cannot be used: all are above 0")

    def settings(self, blocks: Sequence[int]) -> list[Setting]:
        """Every block with every k."""
        return [Setting(block, k=k) for block in blocks for k in self.ks]

    def about(self, clips: int) -> str:
        """How large the bank is, and whether k is larger."""
        large = [k for k in self.ks if k > clips]
        return f"nearest neighbours among {clips} training clips" + (
            f"; k {', '.join(map(str, large))}: all {clips} of them" if large else ""
        )

    def fit(self, clips: Clips, settings: Sequence[Setting], seed: int) -> Predict:
        """The bank of training clips, and how it votes."""
        bank = F.normalize(torch.cat([values for values, _ in clips.parts()]).to(self.device), dim=2)
        votes = F.one_hot(torch.from_numpy(clips.truth), len(clips.names)).float().to(self.device)

        def predict(values: Float[Tensor, "b m d"]) -> Float[Tensor, "p b x"]:
            similar = torch.einsum("bmd,nmd->mbn", F.normalize(values.to(self.device), dim=2), bank)
            return torch.stack(
                [self.vote(similar[clips.blocks.index(s.block or 0)], votes, s.k or 0) for s in settings]
            )

        return predict

    def vote(self, similar: Float[Tensor, "b n"], votes: Float[Tensor, "n x"], k: int) -> Float[Tensor, "b x"]:
        """Log-probabilities: the shares of the votes."""
        nearest = similar.topk(min(k, len(votes)))
        weights = (nearest.values / self.temperature).softmax(dim=1)
        return torch.einsum("bk,bkx->bx", weights, votes[nearest.indices]).clamp_min(1e-30).log()


def usable(recipe: "Linear | Attentive") -> None:
    """Looks for settings that cannot be used.

    Raises:
        ValueError: names the setting, what it is, and what it may be.
    """
    for name, value, fits, expected in (
        ("lr", recipe.lrs, len(recipe.lrs) > 0 and min(recipe.lrs) > 0, "one or more rates above 0"),
        ("weight-decay", recipe.decays, len(recipe.decays) > 0 and min(recipe.decays) >= 0, "one or more, 0 or above"),
        ("epochs", recipe.epochs, 0 < recipe.epochs < math.inf, "a number above 0"),
        ("batch", recipe.batch, recipe.batch > 1, "two clips or more"),
    ):
        if not fits:
            raise ValueError(f"--{name} {value} cannot be used; expected {expected}")


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose initial weights depend on the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def steps_of(recipe: Linear | Attentive, clips: int) -> int:
    """Optimiser steps."""
    return max(round(recipe.epochs * clips / min(recipe.batch, clips)), 1)


def train(
    parts: Sequence[tuple[nn.Module, Sequence[Setting]]],
    clips: Clips,
    recipe: Linear | Attentive,
    rule: Rule,
    scale: float,
    seed: int,
) -> Predict:
    """Trains probes, each with the settings that it holds, on the same batches.

    Raises:
        ValueError: fewer than two clips.
    """
    if len(clips) < 2:
        raise ValueError(f"a probe cannot be trained on {len(clips)} clip; it needs two or more")
    batch, steps = min(recipe.batch, len(clips)), steps_of(recipe, len(clips))
    warmup = round(recipe.warmup * len(clips) / batch)
    optimisers = []
    for probes, settings in parts:
        probes.to(recipe.device).train()
        rates, decays = (torch.tensor([getattr(s, name) for s in settings]) for name in ("lr", "weight_decay"))
        optimisers.append(Optimiser(probes, rule, (scale * rates).to(recipe.device), decays.to(recipe.device)))
    for step, places in enumerate(order(len(clips), batch, steps, seed)):
        values, classes = (tensor.to(recipe.device) for tensor in clips.at(places))
        for optimiser in optimisers:
            loss(optimiser.probes(values), classes).backward()
            optimiser.step(factor(step, steps, warmup))
    for probes, _ in parts:
        probes.eval()
    return lambda values: torch.cat([probes(values.to(recipe.device)).log_softmax(2) for probes, _ in parts])


# ---------------------------------------------------------------------------- recipes

MAE = Linear("lars", (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), (0.0,), epochs=90, batch=16384)
"""MAE's (arXiv:2111.06377): base rate 0.1, for 1.3 million pictures; a few hundred clips in one batch need far more."""
VIDEOMAE = Linear("sgd", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.0,), batch=1024, norm=False)
"""VideoMAE's (arXiv:2203.12602, appendix): base rate 0.1."""
RECIPES = {"adamw": Linear(), "mae": MAE, "videomae": VIDEOMAE}
