"""Fine-tuning: learn labels, from a pre-trained encoder or from scratch.

The recipe is that of VideoMAE (Tong et al. 2022, arXiv:2203.12602, appendix) and of its released scripts, which is that
of BEiT and MAE carried over to clips: mixed and erased clips, smoothed labels, stochastic depth, rates that shrink from
block to block downwards. From scratch is the same recipe without weights.

    tubelet finetune finetune-small-cpu --weights runs/first --data labelled/ --validation more/

What is said with one number in the papers' tables is one field here; presets are in `recipes.py`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.methods.mixing import Erasing, Mix, smoothed
from tubelet.nn.attention import Attention
from tubelet.nn.classifier import Classifier
from tubelet.nn.lora import add_lora, folded
from tubelet.nn.momentum import follow
from tubelet.nn.patches import patchify
from tubelet.nn.vit import Encoder
from tubelet.targets import normalise
from tubelet.types import Batch, Draws, Grid, Loss, Method


@dataclass(frozen=True)
class Supervised:
    """Learn labels."""

    draws_by_part: ClassVar[bool] = True  # clips are mixed within a part of a step: other parts, another run
    labels: Literal["class", "classes", "shares", "values"] = "class"
    """What the labels are, see `data.labels`; taken from there when a run begins."""
    init: str | None = None
    """Run whose weights it starts from, pre-trained or fine-tuned; none: from scratch."""
    inflate: bool = False
    """Those weights are of images, and are made weights of video."""
    init_heads: int | None = None
    """Their attention heads, if they are of others and their file does not tell."""
    validation: str | None = None
    """Labelled videos to measure on while training; they choose the best weights."""
    outputs: int = 0
    """Classes or values; 0: taken from the videos to train on when a run begins."""
    smoothing: float = 0.1
    """Share of every label that is spread over all classes (of one class a video, or shares of classes)."""
    mix: Mix | None = None
    """Clips mixed in pairs, and their labels."""
    erase: Erasing | None = None
    """Boxes of noise."""
    cells: tuple[int, int, int] | None = None
    """Read what changes in so many cells of time, height and width instead of the mean over all tokens (few labels)."""
    dropout: float = 0.0
    """Of the features before the head."""
    class_weights: tuple[float, ...] = ()
    """How much each class counts; none: all alike."""
    average: float = 0.0
    """Decay of a running average of the weights, which is then what is tested and saved; 0: none."""
    tune: Literal["all", "head"] = "all"
    """What learns: everything, or the head (and its norm) alone."""
    freeze: int = 0
    """The embedding and so many blocks from the bottom do not learn."""
    lora: int = 0
    """Rank of a learnt change of the attention matrices, whose own weights, like the whole encoder, do not learn then;
    0: none."""
    lora_alpha: float = 16.0
    """Strength of that change: it is scaled by alpha / rank."""
    teacher: str | None = None
    """A fine-tuned run, usually larger, whose outputs are to be imitated (distillation)."""
    teacher_share: float = 0.5
    """How much of the loss is the imitation."""
    temperature: float = 1.0
    """By which both logits are divided for the imitation."""

    def build(self, encoder: Encoder, grid: Grid, channels: int) -> "SupervisedLearner":
        """The module to train, freshly initialised from torch's global generator.

        Raises:
            ValueError: settings that cannot be used.
        """
        for name, value, fits, expected in (
            ("outputs", self.outputs, self.outputs > 0, "the number of classes or values"),
            ("smoothing", self.smoothing, 0 <= self.smoothing < 1, "0 up to 1"),
            ("dropout", self.dropout, 0 <= self.dropout < 1, "0 up to 1"),
            ("average", self.average, 0 <= self.average < 1, "a decay of 0 up to 1, as 0.999"),
            ("freeze", self.freeze, 0 <= self.freeze <= encoder.depth, f"0 to {encoder.depth} blocks"),
            (
                "class-weights",
                self.class_weights,
                len(self.class_weights) in (0, self.outputs),
                f"{self.outputs} numbers or none",
            ),
            ("teacher-share", self.teacher_share, 0 <= self.teacher_share <= 1, "0 to 1"),
            ("temperature", self.temperature, self.temperature > 0, "a number above 0"),
        ):
            if not fits:
                raise ValueError(f"--method.{name} {value} cannot be used; expected {expected}")
        if (self.inflate or self.init_heads) and self.init is None:
            given = "inflate" if self.inflate else "init-heads"
            raise ValueError(f"--method.{given} is about the weights of --method.init, which were not given")
        if self.labels == "values" and (self.mix or self.teacher or self.class_weights):
            raise ValueError(
                "values are regressed: --method.mix, --method.teacher and --method.class-weights are for classes"
            )
        if self.lora and (self.tune == "head" or self.freeze):
            raise ValueError(
                "--method.lora leaves the whole encoder as it is; leave out --method.tune head and --method.freeze"
            )
        return SupervisedLearner(self, encoder, grid, channels)


class SupervisedLearner(Method):
    """Clip → erased, mixed → patches → encoder → mean → head, against the label."""

    def __init__(self, config: Supervised, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.config, self.grid, self.channels = config, grid, channels
        self.network = Classifier(encoder.build(grid, channels), config.outputs, config.dropout, cells=config.cells)
        self.teacher: list[Classifier] = []  # in a list, so that it is no part of this module: not saved, not learnt
        for parameter in fixed(config, self.network):
            parameter.requires_grad_(False)
        if config.lora:
            for part in self.network.encoder.modules():
                if isinstance(part, Attention):
                    add_lora(part.qkv, config.lora, config.lora_alpha)
                    add_lora(part.proj, config.lora, config.lora_alpha)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False) if config.average else None

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # a part of the network, not a second child
        """The encoder that learns."""
        return self.network.encoder

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """The loss, summed over the clips."""
        assert batch.labels is not None
        config = self.config
        torch.manual_seed(draws.seed())  # dropout and stochastic depth: the same again after a resume
        video, labels = batch.video.float() / 255, batch.labels
        if config.labels in ("class", "shares"):
            labels = smoothed(labels, config.smoothing)
        if config.erase and self.training:
            video = config.erase(video, draws.seed())
        if config.mix and self.training:
            video, labels = config.mix(video, labels, draws.seed())
        patches = normalise(patchify(video, self.grid.patch), self.channels)
        logits = self.network(patches).float()
        loss = self.error(logits, labels)
        if self.teacher:
            with torch.no_grad():
                wanted = self.teacher[0](patches).float()
            loss = (1 - config.teacher_share) * loss + config.teacher_share * self.imitation(logits, wanted)
        return Loss(sum=loss.sum(), count=torch.tensor(len(loss), device=loss.device))

    def error(self, logits: Float[Tensor, "b x"], labels: Float[Tensor, "b x"]) -> Float[Tensor, " b"]:
        """Cross-entropy with (soft) classes; for several classes at once binary, for values squared, mean of both."""
        weights = logits.new_tensor(self.config.class_weights or (1.0,) * len(logits[0]))
        if self.config.labels == "values":
            return F.mse_loss(logits, labels, reduction="none").mean(1)
        if self.config.labels == "classes":
            return (weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")).mean(1)
        return -(weights * labels * F.log_softmax(logits, dim=1)).sum(1)

    def imitation(self, logits: Float[Tensor, "b x"], wanted: Float[Tensor, "b x"]) -> Float[Tensor, " b"]:
        """How far the outputs are from the teacher's: T^2 KL(teacher || student), both softened by T.

        Source: Hinton et al. 2015, arXiv:1503.02531, section 2.1. Of several classes at once, each is one such pair.
        """
        t = self.config.temperature
        if self.config.labels == "classes":
            p, cross = torch.sigmoid(wanted / t), F.binary_cross_entropy_with_logits
            return t * t * (cross(logits / t, p, reduction="none") - cross(wanted / t, p, reduction="none")).mean(1)
        student, teacher = F.log_softmax(logits / t, dim=1), F.log_softmax(wanted / t, dim=1)
        return t * t * (teacher.exp() * (teacher - student)).sum(1)

    def after_step(self, step: int, steps: int) -> None:
        """The running average follows; from the start of a run faster, so that it forgets the first weights."""
        if self.averaged is not None:
            decay = min(self.config.average, (1 + step) / (10 + step))
            follow(self.averaged, self.network, decay)

    def exported(self) -> dict[str, dict[str, Tensor]]:
        """The network to use: averaged, if it is, and with LoRA folded in."""
        return {"model": folded(self.tested)}

    @property
    def tested(self) -> Classifier:
        """The network to measure while training."""
        return self.averaged or self.network


def fixed(config: Supervised, network: Classifier) -> Iterator[nn.Parameter]:
    """Parameters that do not learn."""
    encoder = network.encoder
    if config.tune == "head" or config.lora:
        yield from encoder.parameters()
    elif config.freeze:
        yield from chain(
            encoder.embed.parameters(), encoder.position.parameters(), encoder.blocks[: config.freeze].parameters()
        )
        if encoder.class_token is not None:
            yield encoder.class_token
