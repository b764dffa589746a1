"""Boxes of neighbouring tokens in an order, a part of each kept: what an autoregressive model sees and predicts."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tubelet.types import Batch, Draws, Grid, TokenMask


@dataclass(frozen=True)
class Clusters:
    """The grid cut into boxes of tokens, put in an order; each is to be predicted from those before it.

    A mask's `visible` are the kept tokens of all clusters but the last, which is nobody's past; its `predict` are the
    tokens of the clusters to predict. Both are in the order of the clusters, and so not ascending.
    Source: ARVideo (arXiv:2405.15160), section 3. 2x7x7 of 8x14x14 tokens are 16 clusters of 98, of which 20 stay.
    """

    cluster: tuple[int, int, int] = (2, 7, 7)
    """Tokens of a cluster: time slots, rows, columns."""
    order: Literal["random", "space", "time"] = "random"
    """Which comes first: drawn anew for every clip, or all places of a time and then the next time (space first), or
    all times of a place and then the next place (time first)."""
    drop: float = 0.8
    """Share of each cluster's tokens that the encoder does not see; truncated, so that one token alone stays."""
    queries: Literal["all", "kept"] = "all"
    """Which tokens of a cluster are predicted: all, or only those that are kept (a fifth of the decoder's work)."""
    first: int = 2
    """First cluster to predict, from 2; 3 gives the 14 clusters (1372 tokens) of the paper's table 5."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        clusters = self.cut(grid)
        count, tokens = clusters.shape
        ordered = clusters.expand(len(batch.video), -1, -1)
        if self.order == "random":
            ordered = clusters[draws.uniform(count).argsort(dim=1)]
        some = draws.uniform(count, tokens).argsort(dim=2)[:, :, : self.kept(tokens)].sort(dim=2).values
        kept = ordered.gather(2, some)
        asked = ordered if self.queries == "all" else kept
        return TokenMask(kept[:, :-1].flatten(1), asked[:, self.first - 1 :].flatten(1), grid)

    def allowed(self, grid: Grid) -> tuple[Bool[Tensor, "1 1 v v"], Bool[Tensor, "1 1 p v"]]:
        """Who may look at which visible token: visible ones at their own cluster and those before, predicted ones at
        those before only. The same for all clips, since their order is that of the indices.
        """
        count, tokens = self.cut(grid).shape
        kept = self.kept(tokens)
        seen = torch.arange(count - 1).repeat_interleave(kept)
        asking = torch.arange(self.first - 1, count).repeat_interleave(tokens if self.queries == "all" else kept)
        return (seen <= seen.unsqueeze(1))[None, None], (seen < asking.unsqueeze(1))[None, None]

    def cut(self, grid: Grid) -> Int[Tensor, "clusters m"]:
        """Indices of the tokens of every cluster, ascending; clusters as they follow each other, if not at random.

        Raises:
            ValueError: clusters that do not divide the grid, or only one; a drop that keeps no token; a first cluster
                that nothing comes before, or that is not there.
        """
        sizes = (grid.T, grid.H, grid.W)
        if min(self.cluster) < 1 or any(size % part for size, part in zip(sizes, self.cluster)):
            raise ValueError(
                f"clusters of {_x(self.cluster)} tokens do not divide the grid of {_x(sizes)}; "
                + near(self.cluster, sizes)
            )
        count = grid.tokens // int(np.prod(self.cluster))
        if count == 1:
            raise ValueError(
                f"one cluster of {_x(self.cluster)} tokens is the whole grid, so nothing comes before it; "
                + near(self.cluster, sizes)
            )
        self.kept(grid.tokens // count)
        if not 2 <= self.first <= count:
            raise ValueError(f"--method.mask.first {self.first}: there are {count} clusters; use 2 to {count}")
        (kt, kh, kw), (t, h, w) = self.cluster, sizes
        boxes = np.arange(grid.tokens).reshape(t // kt, kt, h // kh, kh, w // kw, kw)
        outer = (2, 4, 0) if self.order == "time" else (0, 2, 4)
        return torch.from_numpy(boxes.transpose(*outer, 1, 3, 5).reshape(count, -1))

    def kept(self, tokens: int) -> int:
        """How many of a cluster's tokens stay.

        Raises:
            ValueError: none would.
        """
        if not 0 <= self.drop < 1 or int(self.drop * tokens) == tokens:  # NaN too
            raise ValueError(
                f"--method.mask.drop {self.drop:g} leaves nothing of a cluster's {tokens} tokens, or is no share; "
                "use 0 (keeps all) up to less than 1, as 0.8"
            )
        return tokens - int(self.drop * tokens)


def near(cluster: tuple[int, int, int], sizes: tuple[int, int, int]) -> str:
    """Advice: the clusters nearest to these that cut a grid of such sizes into several."""
    divisors = ([part for part in range(1, size + 1) if size % part == 0] for size in sizes)
    fit = [one for one in product(*divisors) if one != sizes]
    if not fit:
        return "use smaller patches: one token cannot be cut"
    return f"the nearest that do: {_x(min(fit, key=lambda one: sum(abs(a - b) for a, b in zip(one, cluster))))}"


def _x(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
