"""Decoders of masked autoencoders: they imagine the hidden tokens, and are thrown away after pre-training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.attention import EPS, Block, xavier
from tubelet.nn.patches import Position, Positions, take
from tubelet.nn.vit import Encoder
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
    """As for the encoder; fixed ones are interpolated where its are."""

    @property
    def hidden(self) -> int:
        """Channels inside the MLP."""
        return int(self.mlp_ratio * self.width)

    def build(self, grid: Grid, encoder: Encoder, outputs: int) -> nn.Module:
        """The decoder for clips of `grid` that predicts `outputs` values a token.

        Raises:
            ValueError: no width, block or head.
        """
        if min(self.width, self.depth, self.heads, self.hidden) < 1:
            raise ValueError(f"{self}: width, depth, heads and mlp_ratio must all be above 0")
        return MaskDecoder(self, grid, encoder, outputs)


@dataclass(frozen=True)
class Head:
    """No decoder: a norm and a linear layer on the encoder's own tokens, which sees mask tokens for hidden patches.

    Source: MaskFeat (arXiv:2112.09133), section 3, and SimMIM (arXiv:2111.09886).
    """

    def build(self, grid: Grid, encoder: Encoder, outputs: int) -> nn.Module:
        """The head for an encoder."""
        return MaskHead(encoder.width, outputs)


def mask_token(width: int) -> nn.Parameter:
    """A learnt token, truncated normal 0.02 within one deviation."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02, a=-0.02, b=0.02))


class MaskDecoder(nn.Module):
    """Visible tokens, then one mask token per place to predict, each with its position; blocks; a linear head.

    Source: VideoMAE's released model: no un-shuffling, the bridge from the encoder has no bias and PyTorch's default
    initialisation.
    """

    taps = ()  # reads the encoder's normed output

    def __init__(self, shape: Decoder, grid: Grid, encoder: Encoder, outputs: int) -> None:
        super().__init__()
        self.bridge = nn.Linear(encoder.width, shape.width, bias=False)
        self.mask_token = mask_token(shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.hidden) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=EPS)
        self.head = nn.Linear(shape.width, outputs)
        self.position = Positions(shape.position, grid, shape.width, encoder.interpolated)
        xavier(self.blocks)
        xavier(self.head)

    def forward(self, latent: Float[Tensor, "b v d"], mask: TokenMask) -> Float[Tensor, "b p y"]:
        """Predictions for `mask.predict`, in that order."""
        position = self.position().expand(len(latent), -1, -1)
        seen = self.bridge(latent) + take(position, mask.visible)
        x = torch.cat([seen, self.mask_token + take(position, mask.predict)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -mask.predict.shape[1] :]))


class MaskHead(nn.Module):
    """The encoder's tokens at the places to predict, normed by it, through a linear layer."""

    taps = ()

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.mask_token = mask_token(width)  # for the encoder to see where patches are hidden
        self.head = nn.Linear(width, outputs)
        xavier(self.head)

    def forward(self, latent: Float[Tensor, "b n d"], mask: TokenMask) -> Float[Tensor, "b p y"]:
        """Predictions for `mask.predict` from the tokens of the whole grid."""
        return self.head(take(latent, mask.predict))
