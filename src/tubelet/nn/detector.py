"""A network that says what people in boxes do: encoder, what of its tokens lies in each box, linear layer."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tubelet.nn.attention import EPS, xavier
from tubelet.nn.cross import CrossAttention
from tubelet.nn.roi import roi_align
from tubelet.nn.vit import ViT
from tubelet.types import Boxes, Grid

Pool = Literal["max", "attentive"]
MANY = 128  # boxes that are read at once: what lies in them is larger than the tokens are


class Detector(nn.Module):
    """Logits of boxes.

    The encoder's last norm stays. `max`: tokens averaged over time, RoIAlign to bins x bins of them, the largest value
    of each channel. `attentive`: RoIAlign at each time, and one learnt query that looks at all bins of all times, which
    are told apart by a learnt vector each, so that order in time is not averaged away; not from a paper.
    Source: VideoMAE's released model for AVA, after AlphAction (arXiv:2004.07485) without its interactions; linear
    weights normal with deviation 0.02 and then times 0.001, bias 0.
    """

    def __init__(self, encoder: ViT, outputs: int, bins: int = 7, pool: Pool = "max", heads: int = 1) -> None:
        super().__init__()
        self.encoder, self.bins = encoder, bins
        width = encoder.embed.out_features
        self.pool = AttentivePool(width, heads, encoder.grid.T * bins * bins) if pool == "attentive" else None
        self.head = nn.Linear(width, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02, a=-2, b=2)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.001)

    def forward(
        self,
        patches: Float[Tensor, "b n q"],
        corners: Float[Tensor, "r 4"],
        which: Int[Tensor, " r"],
        grid: Grid | None = None,
    ) -> Float[Tensor, "r x"]:
        """Logits for boxes, in pixels of the clips that `which` numbers; `grid` if it is not the encoder's own."""
        return self.head(self.features(patches, corners, which, grid))

    def features(
        self,
        patches: Float[Tensor, "b n q"],
        corners: Float[Tensor, "r 4"],
        which: Int[Tensor, " r"],
        grid: Grid | None = None,
    ) -> Float[Tensor, "r d"]:
        """What the head reads."""
        grid = grid or self.encoder.grid
        tokens = self.encoder(patches, grid=grid)
        pieces = zip(corners.split(MANY), which.split(MANY))  # one piece without a box, if there is none
        return torch.cat([self.read(tokens, *piece, grid) for piece in pieces])

    def read(
        self, tokens: Float[Tensor, "b n d"], corners: Float[Tensor, "r 4"], which: Int[Tensor, " r"], grid: Grid
    ) -> Float[Tensor, "r d"]:
        """What of the encoder's tokens lies in each box, as one vector."""
        maps = tokens.transpose(1, 2).unflatten(2, (grid.T, grid.H, grid.W))
        scale = 1 / grid.patch[1], 1 / grid.patch[2]
        bins = self.bins, self.bins
        if self.pool is None:
            return roi_align(maps.mean(2), corners, which, bins, scale).amax((2, 3))
        found = roi_align(maps.flatten(1, 2), corners, which, bins, scale)
        return self.pool(found.unflatten(1, (-1, grid.T)).flatten(2).transpose(1, 2))


class AttentivePool(nn.Module):
    """One vector of several tokens: a learnt query looks at them, after their norm; each place has a learnt vector."""

    def __init__(self, width: int, heads: int, places: int) -> None:
        super().__init__()
        self.place = nn.Parameter(nn.init.trunc_normal_(torch.empty(places, width), std=0.02))
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.attn = CrossAttention(width, width, heads)
        xavier(self.attn)

    def forward(self, tokens: Float[Tensor, "r places d"]) -> Float[Tensor, "r d"]:
        """What it finds, added to the mean of the tokens."""
        normed = self.norm(tokens) + self.place
        query = self.query.to(normed.dtype).expand(len(tokens), 1, -1)
        return normed.mean(1) + self.attn(query, normed)[:, 0]


def stacked(boxes: Sequence[Boxes]) -> tuple[Float[Tensor, "r 4"], Int[Tensor, " r"]]:
    """All boxes of several clips, and which clip each is of."""
    corners = torch.cat([one.corners for one in boxes])
    counts = torch.tensor([len(one.corners) for one in boxes])
    return corners, torch.arange(len(boxes)).repeat_interleave(counts).to(corners.device)
