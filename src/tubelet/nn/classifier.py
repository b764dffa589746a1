"""A network with outputs for a task: encoder, mean over all tokens, norm, linear layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.attention import EPS
from tubelet.nn.vit import ViT


class Classifier(nn.Module):
    """Logits (or values) of whole clips.

    Mean first, then a fresh norm: the encoder's own last norm, which pre-training made for the decoder, is left out.
    Source: VideoMAE's released fine-tuning model: mean, LayerNorm, dropout, linear; weights normal with deviation 0.02
    and then times 0.001, bias 0.
    """

    def __init__(self, encoder: ViT, outputs: int, dropout: float = 0.0, scale: float = 0.001) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.norm = nn.Identity()
        width = encoder.embed.out_features
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02, a=-2, b=2)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def forward(self, patches: Float[Tensor, "b n q"]) -> Float[Tensor, "b x"]:
        """Logits for normalised patches of whole clips."""
        return self.head(self.dropout(self.norm(self.encoder(patches).mean(dim=1))))
