"""What an encoder knows about labels, by a short fine-tuning with few of them.

For masked autoencoders this tells most: their last block serves the decoder, so linear probes on pooled tokens
undersell them, and an encoder that only ever saw a tenth of the tokens needs a few steps to get used to all. The same
steps on an untrained encoder show what the labels alone would have taught.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from tubelet.data.datasets import Data, Dataset
from tubelet.data.labels import Labels
from tubelet.data.loader import batches
from tubelet.data.sources import Item
from tubelet.evaluate.features import middle_clips
from tubelet.nn.vit import ViT
from tubelet.targets import inputs


@dataclass(frozen=True)
class ReadOut:
    """A short fine-tuning of everything, with a linear layer on the mean token."""

    steps: int = 60
    """Optimiser steps."""
    batch: int = 32
    """Clips per step."""
    lr: float = 5e-4
    """Peak learning rate of the encoder; a warm-up of ten steps, then half a cosine."""
    head_lr: float = 3e-3
    """The same for the new layer."""

    def __call__(
        self, encoder: ViT, data: Data, fit: Sequence[Item], test: Sequence[Item], seed: int = 0, still: bool = False
    ) -> float:
        """Top-1 accuracy, in percent, on the middle clips of `test` after fitting on random clips of `fit`.

        The encoder is left as it was. With `still`, every clip is its middle frame, repeated: what one frame tells.

        Raises:
            ValueError: an item without a label, or a label to test on that is not there to fit on.
        """
        classes = Labels.of(fit).names
        unknown = set(Labels.of(test).names) - set(classes)
        if unknown:
            raise ValueError(f"labels to test on that none of the videos to fit on has: {', '.join(sorted(unknown))}")
        torch.manual_seed(seed)
        model = Classifier(copy.deepcopy(encoder), len(classes)).train()
        groups = [(model.encoder, self.lr), (model.head, self.head_lr)]
        optimiser = torch.optim.AdamW([{"params": m.parameters(), "peak": p} for m, p in groups], weight_decay=0.05)
        dataset = Dataset(fit, replace(data, images=None, yuv=False), seed)
        dataset.fill_cache()
        number = torch.tensor([classes.index(str(item.label)) for item in fit])
        see: Callable[[Tensor], Tensor] = frozen if still else lambda video: video
        for step, batch in enumerate(batches(dataset, self.batch, 0, self.steps)):
            warm = min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * step / self.steps)))
            for group in optimiser.param_groups:
                group["lr"] = warm * group["peak"]
            loss = F.cross_entropy(model(see(batch.video)), number[batch.ids])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        truth = torch.tensor([classes.index(str(item.label)) for item in test])
        clips = see(middle_clips([item.path for item in test], data))
        return 100 * float((predictions(model.eval(), clips) == truth).float().mean())


class Classifier(nn.Module):
    """Encoder with its own last norm, mean over all tokens, linear layer (which starts at zero).

    Unlike `nn.classifier`, no fresh norm: 60 steps are too few to learn one.
    """

    def __init__(self, encoder: ViT, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embed.out_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, video: UInt8[Tensor, "b c t h w"]) -> Tensor:
        """Logits "b x"."""
        return self.head(self.encoder(inputs(video, self.encoder.grid.patch)).mean(dim=1))


def frozen(video: UInt8[Tensor, "b c t h w"]) -> UInt8[Tensor, "b c t h w"]:
    """Clips that stand still: the middle frame, as often as there were frames."""
    middle = video.shape[2] // 2
    return video[:, :, middle : middle + 1].expand(video.shape).contiguous()


@torch.no_grad()
def predictions(model: Classifier, video: UInt8[Tensor, "b c t h w"]) -> Int[Tensor, " b"]:
    """The likeliest class of every clip."""
    return torch.cat([model(part).argmax(dim=1) for part in video.split(64)])
