"""Latent targets: predict what a teacher's features of the hidden tokens are, not their pixels.

V-JEPA: Bardes et al. 2024, arXiv:2404.08471. The teacher is a slow copy of the encoder itself (a moving average) that
sees the whole clip; its features, normed, are the target, and a narrow predictor must tell them from the visible
tokens. No pixels, no negatives, no text. Paper: ViT-L, 90,000 steps on 2 million videos, frozen, with an attentive
probe: Kinetics-400 80.8, Something-Something V2 69.5.

    tubelet pretrain vjepa-l --data DIR

With `momentum` None the teacher is an encoder that was trained before and stays as it is: MVD (Wang et al. 2023,
arXiv:2212.04500) predicts the features of masked autoencoders, SALT (2025, arXiv:2509.24317) those of one that learnt
with V-JEPA's masks, and beats V-JEPA 2 at equal compute. Any run of tubelet can be the teacher:

    tubelet pretrain videomae-few-cpu --data DIR --data.size 48 64 --out runs/teacher
    tubelet pretrain latent-few-cpu --data DIR --method.teacher runs/teacher

Where this differs from V-JEPA's released code: numbers of masked tokens are fixed (see MultiBlock); both kinds of mask
share one mask token; the bridge to the predictor has no bias (the encoder's last norm has one); initialisation and the
fixed positions (by axes) are ours; the rate warms up from 0 instead of 2e-4; gradients are clipped from the start, of
both networks together; and all schedules end when the run does, where the released ones are made for a run a quarter
longer that is cut off.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.transforms import RandomResizedCrop
from tubelet.masks.blocks import MultiBlock
from tubelet.masks.random_masks import Tube
from tubelet.methods import videomae
from tubelet.methods.masked import blank, imagined
from tubelet.nn.decoder import Decoder
from tubelet.nn.momentum import follow
from tubelet.nn.patches import curtain, patchify, put, take, unpatchify
from tubelet.nn.vit import SIZES, Encoder
from tubelet.targets import inputs
from tubelet.types import Batch, Draws, Grid, Loss, Masker, Method, TokenMask

COLLAPSED = 0.1  # of the deviation that normed features have which differ


@dataclass(frozen=True)
class Latent:
    """Hide tokens, predict a teacher's features of them."""

    masks: tuple[Any, ...] = (MultiBlock(8, 0.15), MultiBlock(2, 0.7))  # Maskers
    """Which tokens are hidden: every clip is seen once with each mask, and one pass of the teacher serves all."""
    decoder: Any = field(default_factory=lambda: Decoder(384, 12, 16, position="axes"))  # or CrossDecoder, or Head
    """What predicts (V-JEPA's predictor)."""
    momentum: float | None = 0.998
    """How much of itself the teacher keeps in a step, rising to 1 in a straight line over the run, while it follows the
    encoder; none: it is the run `teacher`, and stays as it is."""
    teacher: str | None = None
    """Run whose encoder is a teacher that stays as it is; with --method.momentum None."""
    shape: Encoder | None = None
    """That encoder's shape; taken from there when a run begins."""
    layers: tuple[int, ...] = ()
    """Blocks of the teacher whose outputs are predicted, side by side, in ascending order; none: its normed output."""
    loss: Literal["l1", "l2", "smooth-l1", "cosine"] = "l1"
    """Distance of prediction and feature: the mean over channels, or 1 - cosine."""

    def build(self, encoder: Encoder, grid: Grid, channels: int) -> "LatentLearner":
        """The module to train, freshly initialised from torch's global generator; so is a teacher that is to be loaded.

        Raises:
            ValueError: settings that cannot be used, no teacher, or a mask that hides nothing or everything.
        """
        depth = (self.shape or encoder).depth
        if not self.masks:
            raise ValueError("--method.masks is empty; expected one mask or more")
        if self.momentum is None and self.shape is None:
            raise ValueError(
                "a teacher that stays as it is has to be named: add --method.teacher RUN, the folder or "
                "encoder.safetensors of a run on clips of the same size"
            )
        if self.momentum is not None and (self.teacher is not None or self.shape is not None):
            raise ValueError(
                f"--method.teacher {self.teacher} stays as it is, but --method.momentum {self.momentum:g} would make "
                "the teacher follow the encoder; add --method.momentum None, or leave out the teacher"
            )
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise ValueError(f"--method.momentum {self.momentum:g} cannot be used; expected 0 to 1, as 0.998")
        if list(self.layers) != sorted(set(self.layers) & set(range(1, depth + 1))):
            raise ValueError(
                f"--method.layers {self.layers} cannot be used; expected numbers of the teacher's {depth} blocks, from "
                "1 up, ascending"
            )
        self.try_masks(grid, channels)
        return LatentLearner(self, encoder, grid, channels)

    def try_masks(self, grid: Grid, channels: int) -> None:
        """Hides a clip of a grid with each mask; `config.checked` tries so whether pictures can be shown among videos.

        Raises:
            ValueError: a mask hides nothing or everything.
        """
        for mask in self.masks:
            mask(blank(grid, channels), grid, Draws(0, 0, [0]))


class LatentLearner(Method):
    """Patches → visible ones → encoder → predictor, against the teacher's features of the whole clip."""

    def __init__(self, config: Latent, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.masks: tuple[Masker, ...] = config.masks
        self.momentum, self.loss = config.momentum, config.loss
        shape = replace(config.shape or encoder, drop_path=0.0, checkpoint=False)
        self.layers = config.layers or (shape.depth + 1,)
        self.encoder = encoder.build(grid, channels)
        self.decoder = config.decoder.build(grid, encoder, shape.width * len(self.layers))
        self.teacher = shape.build(grid, channels).requires_grad_(False)
        if self.momentum is not None:
            self.teacher.load_state_dict(self.encoder.state_dict())

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """The mean distance over the predicted tokens of each mask, summed over clips and masks."""
        patches = patchify(batch.video, self.grid.patch)
        wanted = self.wanted(batch.video)
        # Over clips, of tokens at one place: features that tell the place alone have collapsed too.
        apart = wanted.std(dim=0) if len(wanted) > 1 else wanted.flatten(0, 1).std(dim=0)
        total = wanted.new_zeros(())
        for mask in self.drawn(batch, draws):
            prediction = imagined(self.encoder, self.decoder, patches, mask, self.channels).float()
            error = self.error(prediction, take(wanted, mask.predict)) * mask.scored
            total = total + (error.sum(1) / mask.scored.sum(1).clamp(min=1)).sum()
        return Loss(
            sum=total,
            count=torch.tensor(len(patches) * len(self.masks), device=total.device),
            told={"teacher_deviation": apart.mean()},
        )

    @torch.no_grad()
    def wanted(self, video: UInt8[Tensor, "b c t h w"]) -> Float[Tensor, "b n y"]:
        """The teacher's features of whole clips: of each of its layers, every token normed over its channels.

        Source: V-JEPA's released code; a norm without weights and PyTorch's eps.
        """
        tokens = self.teacher(inputs(video, self.grid.patch), taps=self.layers).float()
        each = tokens.unflatten(1, (len(self.layers), -1)).transpose(1, 2)
        return F.layer_norm(each, each.shape[3:]).flatten(2)

    def error(self, prediction: Float[Tensor, "b p y"], wanted: Float[Tensor, "b p y"]) -> Float[Tensor, "b p"]:
        """Distance of every prediction from its feature."""
        if self.loss == "cosine":
            return 1 - F.cosine_similarity(prediction, wanted, dim=2)
        distance = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth-l1": F.smooth_l1_loss}[self.loss]
        return distance(prediction, wanted, reduction="none").mean(2)

    def drawn(self, batch: Batch, draws: Draws) -> list[TokenMask]:
        """What is hidden from the encoder, and predicted, by each of the masks."""
        grid = replace(self.grid, T=batch.video.shape[2] // self.grid.patch[0])
        return [mask(batch, grid, draws).to(batch.video.device) for mask in self.masks]

    def after_step(self, step: int, steps: int) -> None:
        """A teacher that follows moves: it keeps m + (1 - m) step / steps of itself."""
        if self.momentum is not None:
            follow(self.teacher, self.encoder, self.momentum + (1 - self.momentum) * step / steps)

    def exported(self) -> dict[str, dict[str, Tensor]]:
        """The encoder to use: the moving average, as V-JEPA does; beside a fixed teacher the one that learnt."""
        return {"encoder": (self.encoder if self.momentum is None else self.teacher).state_dict()}

    def start_from(self, state: dict[str, Tensor]) -> None:
        """A teacher that follows the encoder starts with it."""
        self.encoder.load_state_dict(state)
        if self.momentum is not None:
            self.teacher.load_state_dict(state)

    def doubts(self, told: dict[str, float]) -> list[str]:
        """That the teacher's features have collapsed, if they have: alike everywhere, nothing is left to learn."""
        if told["teacher_deviation"] >= COLLAPSED:
            return []
        return [
            f"the teacher's features of all clips are nearly alike (teacher_deviation below {COLLAPSED:g}; where they "
            "differ it is about 1): training has collapsed. Start anew with a lower --optim.base-lr or a "
            "--method.momentum nearer to 1"
        ]

    @torch.no_grad()
    def rows(self, batch: Batch, draws: Draws) -> tuple[dict[str, UInt8[Tensor, "b c t h w"]], str]:
        """What the encoder sees, what the teacher makes of all of it, and what is predicted, as videos; and how to
        read them."""
        patches, wanted = patchify(batch.video, self.grid.patch), self.wanted(batch.video)
        grey = curtain(self.grid, self.channels).to(patches.device)
        flat = wanted.flatten(0, 1)
        middle = flat.mean(0)
        axes = torch.linalg.svd(flat - middle, full_matrices=False)[2][: self.channels].T
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # or colours would be any of two
        reach = 2 * ((flat - middle) @ axes).std(0)

        def coloured(features: Float[Tensor, "b m y"]) -> UInt8[Tensor, "b m q"]:
            levels = ((features - middle) @ axes / reach).clamp(-1, 1) * 127.5 + 127.5
            return levels.round().byte().repeat(1, 1, patches.shape[2] // self.channels)

        def film(cubes: UInt8[Tensor, "b n q"]) -> UInt8[Tensor, "b c t h w"]:
            return unpatchify(cubes, self.grid)

        shown = {"teacher": film(coloured(wanted))}
        for number, mask in enumerate(self.drawn(batch, draws), 1):
            of = f" {number}" if len(self.masks) > 1 else ""
            values = coloured(imagined(self.encoder, self.decoder, patches, mask, self.channels).float())
            shown[f"seen{of}"] = film(torch.where(mask.hidden.unsqueeze(2), grey, patches))
            shown[f"predicted{of}"] = film(put(grey.expand_as(patches), mask.predict, values))
        return shown, (
            "Features are shown as colours: the directions in which the teacher's features of these clips differ most, "
            "one for each colour channel, within two standard deviations. Predicted ones have the same colours if they "
            "are right; grey is hidden from the encoder or, in a prediction, not predicted."
        )


def vjepa_l() -> Run:
    """K710, Something-Something V2 and HowTo100M mixed, ViT-L. Paper, frozen: K400 80.8, SSv2 69.5.

    All numbers are of the released config but for what this file says above: 90,000 steps of 3,072 clips, 12,000 of
    them warm-up; so many epochs are those of 2 million videos. On fewer, set --training.epochs.
    """
    return Run(
        encoder=replace(SIZES["l"], position="axes"),
        method=Latent(),
        data=Data(clip=Dense(16, stride=4), crop=RandomResizedCrop((0.3, 1.0), (0.75, 1.35)), flip=0.5),
        optim=Optim(
            base_lr=6.25e-4 * 256 / 3072,
            min_lr=1e-6 * 256 / 3072,
            warmup=18.432,
            betas=(0.9, 0.999),
            weight_decay=0.04,
            weight_decay_end=0.4,
            clip=10.0,
        ),
        training=Training(epochs=138.24, batch=3072, save_every=5),
    )


def vjepa_few_cpu() -> Run:
    """V-JEPA for own short clips, few of them, on a CPU, 48x64 pixels. No published number."""
    run = videomae.few_cpu()
    method = Latent(decoder=Decoder(96, 2, 3, position="axes"))
    return replace(run, method=method, data=replace(run.data, size=(48, 64)))


def frozen_b() -> Run:
    """Kinetics-400, ViT-B, 400 epochs, features of a trained encoder (--method.teacher) in place of pixels.

    MVD with one teacher, a masked autoencoder of videos: tubes, two blocks of full width, smooth L1. The paper has one
    of images beside it (ViT-B both: K400 82.7, SSv2 72.5); there is no published number for this half. What is not
    said here is as in videomae-k400-b.
    """
    run = videomae.k400_b()
    method = Latent(masks=(Tube(0.9),), decoder=Decoder(768, 2, 12), momentum=None, loss="smooth-l1")
    return replace(run, method=method, training=replace(run.training, epochs=400))


def few_cpu() -> Run:
    """Own short clips, few of them, on a CPU: features of a videomae-few-cpu (--method.teacher). No published number.

    With V-JEPA's masks, as in SALT; the second of its two stages, after videomae-few-cpu as the first.
    """
    run = videomae.few_cpu()
    return replace(run, method=Latent(decoder=Decoder(96, 2, 3, position="axes"), momentum=None))
