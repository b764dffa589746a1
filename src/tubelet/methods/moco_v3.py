"""MoCo v3 for video: two clips of one video should have features alike, and unlike those of all other videos.

Chen, Xie and He, ICCV 2021, arXiv:2104.02057, for images; here both views also differ in time, as in the large-scale
study of Feichtenhofer et al. 2021, arXiv:2104.14558. It is the contrastive baseline of the VideoMAE paper
(arXiv:2203.12602, tables 1 to 4), whose authors trained it without publishing how: ViT-B, 300 epochs, fine-tuned top-1
74.2 on Kinetics-400, 54.2 on Something-Something V2, 81.7 on UCF101, 39.2 on HMDB51; VideoMAE itself 80.0, 69.6, 91.3
and 62.6. What is here is a documented MoCo v3 for video, not theirs.

    tubelet pretrain moco-v3-k400-b --data DIR

As in the released code for images: the projection of patches stays as it was drawn (training is unstable otherwise),
the batch is the only source of negatives, batch norm is over all processes, and only parameters follow by momentum, not
the running statistics. The encoder has no class token, so its feature is the mean of its tokens.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import cos, pi
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.transforms import RandomResizedCrop
from tubelet.methods import videomae
from tubelet.methods.views import Views
from tubelet.nn.attention import Attention
from tubelet.nn.batch_norm import perceptron
from tubelet.nn.collective import gathered_rows
from tubelet.nn.momentum import follow
from tubelet.nn.narrow import full_precision
from tubelet.nn.patches import patchify
from tubelet.nn.vit import SIZES, Encoder, ViT
from tubelet.targets import normalise
from tubelet.types import Batch, Draws, Grid, Loss, Method

COLLAPSED = 0.1  # of the deviation that features have which are spread evenly over the sphere


@dataclass(frozen=True)
class Contrastive:
    """Tell the other view of a video from other videos."""

    draws_by_part: ClassVar[bool] = True  # negatives are those of a part of a step: other parts, another run
    views: ClassVar[int] = 2  # clips of each video that are compared
    augment: Views = field(default_factory=Views)
    """What tells two clips of a video apart beside their time, window and mirroring."""
    temperature: float = 0.2
    """By which similarities are divided."""
    momentum: float = 0.99
    """Of the encoder that follows, in the first step; it rises to 1 with half a cosine."""
    hidden: int = 4096
    """Channels inside projector and predictor."""
    outputs: int = 256
    """Channels of the features that are compared."""

    def build(self, encoder: Encoder, grid: Grid, channels: int) -> "ContrastiveLearner":
        """The module to train, freshly initialised from torch's global generator.

        Raises:
            ValueError: settings that cannot be used.
        """
        for name, value, fits, expected in (
            ("temperature", self.temperature, self.temperature > 0, "a number above 0"),
            ("momentum", self.momentum, 0 <= self.momentum <= 1, "0 to 1"),
            ("hidden", self.hidden, self.hidden > 0, "1 or more"),
            ("outputs", self.outputs, self.outputs > 1, "2 or more"),
        ):
            if not fits:
                raise ValueError(f"--method.{name} {value} cannot be used; expected {expected}")
        return ContrastiveLearner(self, encoder, grid, channels)

    def stages(self, width: int) -> list[tuple[str, str, str]]:
        """What follows the encoder, for `tubelet plan`: name, settings, size."""
        into = f"Linear, batch norm: mean of {width} to {self.hidden} to {self.hidden} to {self.outputs}"
        across = f"Linear, batch norm: {self.outputs} to {self.hidden} to {self.outputs}; not in the copies that follow"
        return [("projector", into, str(self.outputs)), ("predictor", across, str(self.outputs))]


class ContrastiveLearner(Method):
    """Two views → encoder → mean → projector → predictor, against the projections of copies that follow slowly."""

    views = Contrastive.views

    def __init__(self, config: Contrastive, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.config, self.grid, self.channels, self.width = config, grid, channels, encoder.width
        self.encoder = encoder.build(grid, channels)
        drawn(self.encoder)
        self.projector = perceptron([encoder.width, config.hidden, config.hidden, config.outputs])
        self.predictor = perceptron([config.outputs, config.hidden, config.outputs])
        self.momentum_encoder = deepcopy(self.encoder).requires_grad_(False)
        self.momentum_projector = deepcopy(self.projector).requires_grad_(False)

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """Both directions' cross-entropy of finding the other view, summed over the videos.

        Raises:
            ValueError: not two clips of each video.
        """
        patches = self.patches(self.seen(batch, draws))
        features = self.encoder(patches).mean(1).float()
        queries = [unit(self.predictor(self.projector(view))) for view in apart(features)]
        with torch.no_grad():
            followed = self.momentum_encoder(patches).mean(1).float()
            keys, firsts = zip(*(gathered_rows(unit(self.momentum_projector(view))) for view in apart(followed)))
        ids = batch.ids[:: self.views].to(features.device)
        same = ids[:, None] == gathered_rows(ids)[0]  # a video that is there twice, as where an epoch ends
        pairs = [contrast(queries[n], keys[1 - n], firsts[0], self.config.temperature, same) for n in (0, 1)]
        loss = pairs[0][0] + pairs[1][0]
        return Loss(
            sum=loss.sum(),
            count=torch.tensor(len(loss), device=loss.device),
            told={
                "positives_first": torch.cat([found for _, found in pairs]).float().mean(),
                "embedding_deviation": torch.stack([key.std(0, correction=0).mean() for key in keys]).mean(),
                "feature_deviation": unit(features.detach()).std(0, correction=0).mean(),
            },
        )

    def seen(self, batch: Batch, draws: Draws) -> Float[Tensor, "b c t h w"]:
        """The clips as the network sees them: first and second views by turns, in [0, 1].

        Raises:
            ValueError: not two clips of each video.
        """
        if batch.crops != self.views:
            raise ValueError(
                f"{batch.crops} clips of each video came, but {self.views} are compared; use --data.clips {self.views} "
                f"(at different times) with --data.repeats 1"
            )
        return self.config.augment(batch.video, draws)

    def patches(self, video: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n q"]:
        """What the encoder reads."""
        return normalise(patchify(video, self.grid.patch), self.channels)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """The encoder's copy starts with it; the projection of patches stays as it comes."""
        self.encoder.load_state_dict(state)
        self.momentum_encoder.load_state_dict(state)

    def after_step(self, step: int, steps: int) -> None:
        """The copies follow.

        The released code lets them follow between the queries and the keys of a step, here that of the next step is
        done after this one, which is the same: no weight changes in between, and in the first step they are equal.
        """
        m = 1 - (1 - self.config.momentum) * (1 + cos(pi * (step + 1) / steps)) / 2
        follow(self.momentum_encoder, self.encoder, m)
        follow(self.momentum_projector, self.projector, m)

    def doubts(self, told: dict[str, float]) -> list[str]:
        """That the features have collapsed, if they have.

        The encoder's are watched too, because batch norm spreads even rounding errors out over the embedding.
        """
        even = {"embedding_deviation": self.config.outputs**-0.5, "feature_deviation": self.width**-0.5}
        return [
            f"the features of all clips are nearly alike ({name} below {COLLAPSED * spread:.2g}; spread evenly it is "
            f"{spread:.2g}): training has collapsed. Start anew with a lower --optim.base-lr or a longer --optim.warmup"
            for name, spread in even.items()
            if told[name] < COLLAPSED * spread
        ]

    @torch.no_grad()
    def rows(self, batch: Batch, draws: Draws) -> tuple[dict[str, UInt8[Tensor, "v c t h w"]], str]:
        """The two views of each video as the network sees them, and how alike it finds them.

        Raises:
            ValueError: not two clips of each video.
        """
        video = self.seen(batch, draws)
        features = unit(self.projector(self.encoder(self.patches(video)).mean(1)))
        first, second = apart(features)
        alike = first @ second.T
        own = alike.diagonal()
        others = alike[~torch.eye(len(alike), dtype=torch.bool, device=alike.device)]
        text = f"Similarity (cosine) of the two views of a video {own.mean():.2f}"
        if len(others):
            text += f", of views of different videos {others.mean():.2f}"
        shown = [(view * 255).round().to(torch.uint8) for view in apart(video)]
        return {"view 1": shown[0], "view 2": shown[1]}, text + "."


def apart(rows: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "v ..."], Float[Tensor, "v ..."]]:
    """First and second views."""
    return rows[0::2], rows[1::2]


def unit(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Rows of length 1, in float32."""
    return F.normalize(rows.float(), dim=1)


def contrast(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "g d"],
    first: int,
    temperature: float,
    same: Bool[Tensor, "b g"],
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Each query's cross-entropy of finding its key, `first` and following, among all; and whether it would find it.

    Other keys of the `same` video are no negatives. Times 2T, so that the size of the gradient depends less on the
    temperature.
    Source: MoCo v3 (arXiv:2104.02057), section 3 and algorithm 1 (InfoNCE).
    """
    with full_precision(queries):
        logits = queries @ keys.T / temperature
    own = torch.arange(first, first + len(queries), device=queries.device)
    logits = logits.masked_fill(same & (torch.arange(len(keys), device=own.device) != own[:, None]), -torch.inf)
    return 2 * temperature * F.cross_entropy(logits, own, reduction="none"), logits.argmax(1) == own


def drawn(encoder: ViT) -> None:
    """Draws weights as MoCo v3 does: queries, keys and values as three matrices; the projection of patches for good.

    Xavier-uniform, all of them, as the rest of the encoder is. Source: arXiv:2104.02057, section 4.
    """
    nn.init.xavier_uniform_(encoder.embed.weight)
    nn.init.zeros_(encoder.embed.bias)
    encoder.embed.requires_grad_(False)
    for part in encoder.modules():
        if isinstance(part, Attention):
            for third in part.qkv.weight.data.chunk(3):
                nn.init.xavier_uniform_(third)


# ---------------------------------------------------------------------------- presets


def _recipe(stride: int, flip: float) -> Run:
    return Run(
        encoder=SIZES["b"],
        method=Contrastive(),
        data=Data(
            clip=Dense(16, stride=stride),
            size=(224, 224),
            crop=RandomResizedCrop(scale=(0.2, 0.766)),
            flip=flip,
            clips=2,
        ),
        optim=Optim(base_lr=1.5e-4, min_lr=0.0, warmup=40, betas=(0.9, 0.999), weight_decay=0.1),
        training=Training(epochs=300, batch=1024, save_every=20),
    )


def k400_b() -> Run:
    """Kinetics-400, ViT-B, 300 epochs. VideoMAE's authors, with a recipe of their own: top-1 74.2 after fine-tuning."""
    return _recipe(stride=4, flip=0.5)


def ssv2_b() -> Run:
    """Something-Something V2, ViT-B, 300 epochs. VideoMAE's authors, with a recipe of their own: top-1 54.2."""
    return _recipe(stride=2, flip=0.0)


def few_cpu() -> Run:
    """The clips and the encoder of videomae-few-cpu, for comparison. No published number.

    A batch is all that a clip is told from, so it is 64 videos. Its clips span the whole video: the two views differ
    in which frame of each part is shown, and in the window. All tokens of both views go through two encoders, so a step
    takes some 4 seconds of one core and 300 epochs of 252 clips more than an hour.
    """
    run = videomae.few_cpu()
    return replace(
        run,
        method=Contrastive(hidden=512, outputs=64),
        data=replace(run.data, clips=2, crop=RandomResizedCrop(scale=(0.4, 1.0))),
        optim=replace(run.optim, base_lr=2e-3, weight_decay=0.1),  # 5e-4 at this batch
        training=replace(run.training, batch=64, epochs=300),
    )
