"""A decoder that attends across only: each place to predict asks what the encoder saw, and not the other places.

CrossMAE: Fu et al. 2024, arXiv:2401.14391. Without self-attention among mask tokens a part of them can be predicted
without the rest, and the decoder's cost falls with it. ARVideo (arXiv:2405.15160) decodes so, too.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tubelet.nn.attention import EPS, MLP, attend, xavier
from tubelet.nn.decoder import mask_token
from tubelet.nn.patches import Position, Positions, take
from tubelet.nn.vit import Encoder
from tubelet.types import Grid, TokenMask


@dataclass(frozen=True)
class CrossDecoder:
    """The shape of a decoder that attends across only."""

    width: int = 512
    """Channels of a token."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 16
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Channels inside the MLP, as a multiple of the width, truncated."""
    position: Position = "index"
    """As for the encoder."""
    memory: Literal["last", "mixed"] = "last"
    """What it asks: the encoder's output, or for each block a learnt mix of all blocks' outputs (CrossMAE)."""

    @property
    def hidden(self) -> int:
        """Channels inside the MLP."""
        return int(self.mlp_ratio * self.width)

    def build(self, grid: Grid, encoder: Encoder, outputs: int) -> "CrossMaskDecoder":
        """The decoder for clips of `grid` that predicts `outputs` values a token.

        Raises:
            ValueError: no width, block or head.
        """
        if min(self.width, self.depth, self.heads, self.hidden) < 1:
            raise ValueError(f"{self}: width, depth, heads and mlp_ratio must all be above 0")
        return CrossMaskDecoder(self, grid, encoder, outputs)


class CrossAttention(nn.Module):
    """Queries of one width look at tokens of another. Keys have no bias, which softmax could not see."""

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads; {width % heads} are left over")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(memory_width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b p e"],
        memory: Float[Tensor, "b v d"],
        allowed: Bool[Tensor, "_ 1 p v"] | None = None,
    ) -> Float[Tensor, "b p e"]:
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        k, v = F.linear(memory, self.kv.weight, bias).chunk(2, dim=2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q(x), k, v))
        return self.proj(attend(q, k, v, allowed).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """Cross-attention to a normed memory, then an MLP, each after its norm and added to its input."""

    def __init__(self, width: int, memory_width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.norm_memory = nn.LayerNorm(memory_width, eps=EPS)
        self.attn = CrossAttention(width, memory_width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MLP(width, hidden)

    def forward(
        self,
        x: Float[Tensor, "b p e"],
        memory: Float[Tensor, "b v d"],
        allowed: Bool[Tensor, "_ 1 p v"] | None = None,
    ) -> Float[Tensor, "b p e"]:
        x = x + self.attn(self.norm1(x), self.norm_memory(memory), allowed)
        return x + self.mlp(self.norm2(x))


class CrossMaskDecoder(nn.Module):
    """A mask token and a position for each place to predict; blocks that ask the encoder; a linear head.

    Source: CrossMAE (arXiv:2401.14391), section 3: no self-attention; with `mixed`, block l of the decoder asks
    sum_k w_kl x_k over what the encoder's blocks put out (the last one's normed), w normal with deviation 1 / sqrt(k).
    """

    def __init__(self, shape: CrossDecoder, grid: Grid, encoder: Encoder, outputs: int) -> None:
        super().__init__()
        self.taps: tuple[int, ...] = ()
        self.mix: nn.Parameter | None = None
        if shape.memory == "mixed":
            self.taps = (*range(1, encoder.depth), encoder.depth + 1)
            self.mix = nn.Parameter(torch.randn(encoder.depth, shape.depth) * encoder.depth**-0.5)
        self.mask_token = mask_token(shape.width)
        self.blocks = nn.ModuleList(
            CrossBlock(shape.width, encoder.width, shape.heads, shape.hidden) for _ in range(shape.depth)
        )
        self.norm = nn.LayerNorm(shape.width, eps=EPS)
        self.head = nn.Linear(shape.width, outputs)
        self.position = Positions(shape.position, grid, shape.width, encoder.interpolated)
        xavier(self.blocks)
        xavier(self.head)

    def forward(
        self, latent: Float[Tensor, "b m d"], mask: TokenMask, allowed: Bool[Tensor, "_ 1 p v"] | None = None
    ) -> Float[Tensor, "b p y"]:
        """Predictions for `mask.predict`, in that order; `allowed` says what each may ask (default: all)."""
        x = self.mask_token + take(self.position().expand(len(latent), -1, -1), mask.predict)
        memories = [latent] * len(self.blocks)
        if self.mix is not None:
            memories = list(torch.einsum("bkvd,kl->lbvd", latent.unflatten(1, (len(self.mix), -1)), self.mix))
        for block, memory in zip(self.blocks, memories):
            x = block(x, memory, allowed)
        return self.head(self.norm(x))
