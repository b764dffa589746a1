"""Action detection: what each person does, from the tokens that lie in a box around them.

AVA, as VideoMAE (Tong et al. 2022, arXiv:2203.12602, section 4.3) and its released code for it do it: the clip around a
key frame, boxes of the key frame, RoIAlign on tokens averaged over time, any number of 80 actions at once.

    tubelet finetune finetune-ava-b --weights runs/videomae-k400-b --data ava:DIR:train --validation ava:DIR:val
    tubelet detect film.mp4 --weights runs/finetune-ava-b

Numbers of the released models (frame mAP at IoU 0.5 on AVA v2.2) stand at the presets. The loss of a step is the sum
over its boxes of the mean over classes; the released code leaves it at that on each GPU, here it is divided by the
clips of the step, which AdamW does not see and any number of processes divides alike.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.config import Optim, Run, Training
from tubelet.data.augment import ColourJitter
from tubelet.data.box_transforms import BoxJitter
from tubelet.data.datasets import Data
from tubelet.data.sampling import Around
from tubelet.data.transforms import RandomCrop, RandomResizedCrop
from tubelet.nn.detector import Detector, Pool, stacked
from tubelet.nn.patches import patchify
from tubelet.nn.vit import SIZES, Encoder
from tubelet.targets import Norm, normalise
from tubelet.types import Batch, Draws, Grid, Loss, Method


@dataclass(frozen=True)
class ActionDetection:
    """Learn what people in boxes do."""

    draws_by_part: ClassVar[bool] = True  # stochastic depth is drawn once a part
    labels: Literal["classes"] = "classes"
    """Of each box any number of classes."""
    init: str | None = None
    """Run whose weights it starts from, pre-trained or fine-tuned; none: from scratch."""
    inflate: bool = False
    """Those weights are of images, and are made weights of video."""
    init_heads: int | None = None
    """Their attention heads, if they are of others and their file does not tell."""
    validation: str | None = None
    """Key frames with boxes to measure on while training; they choose the best weights."""
    outputs: int = 0
    """Classes; 0: taken from the boxes to train on when a run begins."""
    pool: Pool = "max"
    """How the tokens in a box become one: the largest value of each channel of their mean over time (VideoMAE), or
    what a learnt query finds in all of them."""
    bins: int = 7
    """Rows and columns into which a box is divided."""
    norm: Norm = "imagenet"
    """Means and deviations of colours: ImageNet's, with which encoders were pre-trained, or those of
    videomae-action-detection, which its released models were trained with."""
    side: int = 256
    """Short side of the whole frames that are looked at in tests, in pixels."""
    enlarge: tuple[float, float] = (0.1, 0.05)
    """By which share of width and height boxes are made larger in tests, as they are on average in training."""

    def build(self, encoder: Encoder, grid: Grid, channels: int) -> "ActionDetector":
        """The module to train, freshly initialised from torch's global generator.

        Raises:
            ValueError: settings that cannot be used.
        """
        for name, value, fits, expected in (
            ("outputs", self.outputs, self.outputs > 0, "the number of classes"),
            ("bins", self.bins, self.bins > 0, "1 or more"),
            ("side", self.side, self.side >= max(encoder.patch[1:]), f"at least a cube's {max(encoder.patch[1:])}"),
            ("enlarge", self.enlarge, min(self.enlarge) >= 0, "two shares of 0 or more"),
        ):
            if not fits:
                raise ValueError(f"--method.{name} {value} cannot be used; expected {expected}")
        if (self.inflate or self.init_heads) and self.init is None:
            given = "inflate" if self.inflate else "init-heads"
            raise ValueError(f"--method.{given} is about the weights of --method.init, which were not given")
        return ActionDetector(self, encoder, grid, channels)

    def stages(self, width: int) -> list[tuple[str, str, str]]:
        """What follows the encoder, for `tubelet plan`: name, settings, size."""
        what = "of the mean over time, largest" if self.pool == "max" else "at each time, what a query finds"
        read = ("boxes", f"RoIAlign {self.bins}x{self.bins} {what}", str(width))
        return [read, ("head", f"Linear {width} to {self.outputs}", str(self.outputs))]


class ActionDetector(Method):
    """Clip → patches → encoder → what lies in each box → head, against what each person does."""

    def __init__(self, config: ActionDetection, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.config, self.grid, self.channels = config, grid, channels
        self.network = network(config, encoder, grid, channels)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # a part of the network, not a second child
        """The encoder that learns."""
        return self.network.encoder

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """The loss, summed over the boxes of the clips; clips without boxes add nothing."""
        assert batch.boxes is not None
        corners, which = stacked(batch.boxes)
        patches = normalise(patchify(batch.video.float() / 255, self.grid.patch), self.channels, self.config.norm)
        logits = self.network(patches, corners, which).float()
        labels = torch.cat([boxes.labels for boxes in batch.boxes if boxes.labels is not None])
        return Loss(error(logits, labels).sum(), torch.tensor(len(batch.video), device=logits.device))

    def exported(self) -> dict[str, dict[str, Tensor]]:
        """The network to use."""
        return {"model": self.network.state_dict()}

    @property
    def tested(self) -> Detector:
        """The network to measure while training."""
        return self.network


def network(config: ActionDetection, encoder: Encoder, grid: Grid, channels: int) -> Detector:
    """What a run of action detection trains and keeps."""
    return Detector(encoder.build(grid, channels), config.outputs, config.bins, config.pool, encoder.heads)


def error(logits: Float[Tensor, "r x"], labels: Float[Tensor, "r x"]) -> Float[Tensor, " r"]:
    """Binary cross-entropy of each box, the mean over classes."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)


# ---------------------------------------------------------------------------- presets


def recipe(size: str, base_lr: float, layer_decay: float, epochs: int) -> Run:
    """VideoMAE's fine-tuning on AVA: 128 key frames a step over all processes."""
    return Run(
        encoder=replace(SIZES[size], drop_path=0.2, checkpoint=size == "h"),
        method=ActionDetection(norm="videomae-action-detection"),
        data=Data(
            clip=Around(16, stride=4),
            size=(224, 224),
            crop=RandomCrop(256),
            flip=0.5,
            augment=ColourJitter(),
            boxes=BoxJitter(),
        ),
        optim=Optim(
            base_lr=base_lr, min_lr=1e-6, warmup=5, betas=(0.9, 0.999), weight_decay=0.05, layer_decay=layer_decay
        ),
        training=Training(epochs=epochs, batch=128, save_every=5, validate_every=5),
    )


def ava_s() -> Run:
    """AVA, ViT-S, 30 epochs, from an encoder that saw no labels. Released model: 22.5 mAP (Kinetics-400)."""
    return recipe("s", 1e-3, 0.6, 30)


def ava_b() -> Run:
    """AVA, ViT-B, 30 epochs, from an encoder that saw no labels. Paper: 26.7 mAP (Kinetics-400)."""
    return recipe("b", 2.5e-4, 0.75, 30)


def ava_l() -> Run:
    """AVA, ViT-L, 30 epochs, from an encoder that saw no labels. Paper: 34.3 mAP (Kinetics-400)."""
    return recipe("l", 2.5e-4, 0.75, 30)


def ava_l_k700() -> Run:
    """AVA, ViT-L, from an encoder that saw Kinetics-700 and no labels. Paper: 36.1 mAP. No script: as Kinetics-400."""
    return ava_l()


def ava_h() -> Run:
    """AVA, ViT-H, 20 epochs, from an encoder that saw no labels. Paper: 36.5 mAP (Kinetics-400)."""
    return recipe("h", 5e-4, 0.8, 20)


def ava_s_labelled() -> Run:
    """AVA, ViT-S, 30 epochs, from an encoder that was fine-tuned on Kinetics' labels. Released model: 28.4 mAP."""
    return recipe("s", 5e-4, 0.6, 30)


def ava_b_labelled() -> Run:
    """AVA, ViT-B, 30 epochs, from an encoder that was fine-tuned on Kinetics' labels. Paper: 31.8 mAP."""
    return recipe("b", 5e-4, 0.75, 30)


def ava_l_labelled() -> Run:
    """AVA, ViT-L, 20 epochs, from an encoder fine-tuned on Kinetics' labels. Paper: 37.0 mAP (Kinetics-400)."""
    return recipe("l", 5e-4, 0.8, 20)


def ava_l_k700_labelled() -> Run:
    """AVA, ViT-L, from an encoder fine-tuned on Kinetics-700's labels. Paper: 39.3 mAP. No script: as Kinetics-400."""
    return ava_l_labelled()


def ava_h_labelled() -> Run:
    """AVA, ViT-H, 20 epochs, from an encoder that was fine-tuned on Kinetics' labels. Paper: 39.5 mAP."""
    return recipe("h", 5e-4, 0.8, 20)


def boxes_small_gpu() -> Run:
    """Own boxes, thousands of key frames, one GPU, after videomae-small-gpu. No published number."""
    run = recipe("s", 1e-3, 0.7, 50)
    data = replace(run.data, clip=Around(16, stride=2), crop=RandomResizedCrop((0.4, 1.0)), flip=0.0)
    return replace(run, method=ActionDetection(), data=data, training=replace(run.training, batch=32))


def boxes_small_cpu() -> Run:
    """Own boxes, tens or hundreds of key frames, on a CPU, after videomae-small-cpu. No published number."""
    return Run(
        encoder=Encoder(width=192, depth=4, heads=3, hidden=768, patch=(2, 8, 8), position="axes", drop_path=0.1),
        method=ActionDetection(pool="attentive", side=112),
        data=Data(
            clip=Around(8, stride=3), size=(112, 112), crop=RandomResizedCrop((0.5, 1.0)), boxes=BoxJitter(), cache=128
        ),
        optim=Optim(base_lr=8e-3, min_lr=1e-5, warmup=5, betas=(0.9, 0.999), layer_decay=0.75),
        training=Training(epochs=50, batch=16, save_every=20, validate_every=5, threads=1, workers=1),
    )
