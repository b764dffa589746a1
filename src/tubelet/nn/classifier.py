"""A network with outputs for a task: encoder, mean over all tokens, norm, linear layer."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.attention import EPS
from tubelet.nn.patches import changes
from tubelet.nn.vit import ViT


class Classifier(nn.Module):
    """Logits (or values) of whole clips.

    Mean first, then a fresh norm: the encoder's own last norm, which pre-training made for the decoder, is left out.
    Source: VideoMAE's released fine-tuning model: mean, LayerNorm, dropout, linear; weights normal with deviation 0.02
    and then times 0.001, bias 0.

    With `cells`, the head is told what changes where and when: tokens are normed, less their mean over time, and
    averaged in so many cells of time, height and width, which the linear layer reads side by side. For few labels: a
    mean over all tokens loses when and where, and a hundred videos do not teach an encoder to write it into the tokens
    (docs/log.md). Not from a paper.
    """

    def __init__(
        self,
        encoder: ViT,
        outputs: int,
        dropout: float = 0.0,
        scale: float = 0.001,
        cells: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.cells = encoder, cells
        encoder.norm = nn.Identity()
        width, grid = encoder.embed.out_features, encoder.grid
        if cells and not all(0 < few <= many for few, many in zip(cells, (grid.T, grid.H, grid.W))):
            raise ValueError(f"{cells} cells cannot be made of {grid.T}x{grid.H}x{grid.W} tokens; use as many or fewer")
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * prod(cells or (1,)), outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02, a=-2, b=2)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def forward(self, patches: Float[Tensor, "b n q"]) -> Float[Tensor, "b x"]:
        """Logits for normalised patches of whole clips."""
        return self.head(self.dropout(self.features(patches)))

    def features(self, patches: Float[Tensor, "b n q"]) -> Float[Tensor, "b f"]:
        """What the head reads."""
        tokens = self.encoder(patches)
        if self.cells is None:
            return self.norm(tokens.mean(dim=1))
        return changes(self.norm(tokens), self.encoder.grid, self.cells)
