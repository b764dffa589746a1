"""The decoder of a masked autoencoder: imagines the hidden tokens. Thrown away after pre-training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.attention import EPS, Block, xavier
from tubelet.nn.patches import Position, positions, take
from tubelet.types import Grid, TokenMask


@dataclass(frozen=True)
class Decoder:
    """The shape of a decoder; narrow and shallow, as the papers' ablations ask for."""

    width: int = 384
    """Channels of a token."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 6
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Channels inside the MLP, as a multiple of the width, truncated."""
    position: Position = "index"
    """As for the encoder."""

    @property
    def hidden(self) -> int:
        """Channels inside the MLP."""
        return int(self.mlp_ratio * self.width)

    def build(self, grid: Grid, encoder_width: int, outputs: int) -> "MaskDecoder":
        """The decoder for clips of `grid` that predicts `outputs` values a token.

        Raises:
            ValueError: no width, block or head.
        """
        if min(self.width, self.depth, self.heads, self.hidden) < 1:
            raise ValueError(f"{self}: width, depth, heads and mlp_ratio must all be above 0")
        return MaskDecoder(self, grid, encoder_width, outputs)


class MaskDecoder(nn.Module):
    """Visible tokens, then one mask token per place to predict, each with its position; blocks; a linear head.

    Source: VideoMAE's released model: no un-shuffling, the bridge from the encoder has no bias and PyTorch's default
    initialisation.
    """

    position: Tensor

    def __init__(self, shape: Decoder, grid: Grid, encoder_width: int, outputs: int) -> None:
        super().__init__()
        self.bridge = nn.Linear(encoder_width, shape.width, bias=False)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape.width), std=0.02, a=-0.02, b=0.02))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.hidden) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=EPS)
        self.head = nn.Linear(shape.width, outputs)
        self.register_buffer("position", positions(shape.position, grid, shape.width), persistent=False)
        xavier(self.blocks)
        xavier(self.head)

    def forward(self, latent: Float[Tensor, "b v d"], mask: TokenMask) -> Float[Tensor, "b p y"]:
        """Predictions for `mask.predict`, in that order."""
        position = self.position.expand(len(latent), -1, -1)
        seen = self.bridge(latent) + take(position, mask.visible)
        x = torch.cat([seen, self.mask_token + take(position, mask.predict)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -mask.predict.shape[1] :]))
