"""What is written of a run: its encoder, or all of it; and what the VideoMAE family has no word for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tubelet.config import Run
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.masked import Masked, MaskedAutoencoder
from tubelet.methods.supervised import Supervised
from tubelet.nn.classifier import Classifier
from tubelet.nn.decoder import Decoder
from tubelet.nn.detector import Detector
from tubelet.nn.patches import patchify
from tubelet.nn.vit import ViT
from tubelet.targets import Pixels, inputs
from tubelet.train.checkpoint import last, load, load_classifier, load_encoder
from tubelet.types import TokenMask
from tubelet.weights.found import Asked
from tubelet.weights.load import others
from tubelet.weights.origin import Origin
from tubelet.weights.report import Report

BOXES = "its head reads boxes of people, which come beside the clip, and there is no place for them"
Part = Literal["encoder", "whole"]
Tell = Callable[[Report], None]
"""What to do with the report of weights of others, once they are read."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A network to be written, and the run that made it."""

    network: ViT | Classifier | MaskedAutoencoder
    run: Run
    """Of weights of others, one that could have made them: see `origin`."""
    path: Path
    """Folder of the run, or a file of it."""
    note: str = ""
    """Why this is the encoder alone, where nobody asked for that."""
    origin: Origin | None = None
    """Where weights of others come from; none: they are of `run`."""

    @property
    def tuned(self) -> bool:
        """Whether it is fine-tuned, or the encoder of what is: then it has no last norm."""
        return not (self.normed or isinstance(self.network, MaskedAutoencoder))

    @property
    def normed(self) -> bool:
        """Whether the encoder ends with a norm."""
        return not isinstance(self.encoder.norm, nn.Identity)

    @property
    def encoder(self) -> ViT:
        """The encoder in it."""
        return self.network if isinstance(self.network, ViT) else self.network.encoder  # type: ignore[return-value]

    def state(self) -> dict[str, Tensor]:
        """Its tensors on the CPU, in our names; those of an encoder begin with "encoder." too."""
        prefix = "encoder." if isinstance(self.network, ViT) else ""
        return {prefix + name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}


def trained(
    path: Path | str,
    part: Part | None = None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    tell: Tell = Report.warn,
) -> Trained:
    """The network of a run, or of weights of others, for a format of the VideoMAE family, on the CPU.

    Without `part` all of it, if the family has that: a fine-tuned network, or encoder and decoder. Else the encoder,
    and `note` says why. `asked` says what weights of others do not tell.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a setting that the family cannot express; names it. Or something is asked of weights of ours.
    """
    path = Path(path)
    if (other := others(path, asked)) is not None:
        network, run, origin, report = other
        model = of_others(network, run, origin, path, part)
        if model.network is not network:
            left_out(report)
        tell(report)
        return model
    encoder, run = load_encoder(path, asked)
    encoder_fits(run)
    if part == "encoder":
        return Trained(encoder, run, path)
    lack, headed = no_whole(run, path), isinstance(run.method, Supervised | ActionDetection)
    if lack and (part == "whole" or headed):
        raise ValueError(f"{path} cannot be written as a whole: {lack}. Write its encoder: --part encoder")
    if lack:
        return Trained(encoder, run, path, f"only the encoder is written: {lack}")
    if headed:
        return Trained(load_classifier(path)[0], run, path)
    method = load(path)
    assert isinstance(method, MaskedAutoencoder)
    return Trained(method, run, path)


def of_others(network: nn.Module, run: Run, origin: Origin, path: Path, part: Part | None) -> Trained:
    """The same of weights of others, which are whole as they are: what they have beside the encoder was read as
    VideoMAE's own.

    Raises:
        ValueError: an encoder that the family cannot express, or all is asked for and there is nothing beside it.
    """
    encoder_fits(run)
    if isinstance(network, Detector) and part != "encoder":
        raise ValueError(f"{path} cannot be written as a whole: {BOXES}. Write its encoder: --part encoder")
    if isinstance(network, Classifier | Detector | MaskedAutoencoder):
        encoder = network.encoder
        assert isinstance(encoder, ViT)
        if isinstance(network, Detector):
            return Trained(encoder, run, path, origin=origin)
        return Trained(encoder if part == "encoder" else network, run, path, origin=origin)
    assert isinstance(network, ViT)
    lack = f"{origin.file} holds nothing else that is known"
    if part == "whole":
        raise ValueError(f"{path} cannot be written as a whole: {lack}. Write its encoder: --part encoder")
    note = "" if part else f"only the encoder is written: {lack}"
    return Trained(network, run, path, note, origin)


def left_out(report: Report) -> None:
    """Notes that of weights of others the encoder alone is written."""
    report.mark("left out", "the encoder is written without it", "decoder.", "norm.", "head.", "pool.")


def encoder_fits(run: Run) -> None:
    """Checks that VideoMAE's own encoder can be set to what that of a run is.

    Raises:
        ValueError: it cannot; names the setting.
    """
    e, (_, height, width) = run.encoder, run.encoder.patch
    for name, value, fits, has in (
        ("encoder.attention", e.attention, e.attention == "joint", "joint attention"),
        ("encoder.position", e.position, e.position == "index", "the sinusoid of a token's index"),
        ("encoder.interpolated", e.interpolated, e.interpolated is None, "positions that are computed for its clips"),
        ("encoder.patch", e.patch, height == width, "cubes as high as wide"),
        ("encoder.class_token", e.class_token, not e.class_token, "encoders without a class token"),
        ("data.channels", run.data.channels, run.data.channels == 3, "three colours"),
    ):
        if not fits:
            raise ValueError(
                f"VideoMAE's format has no word for {name} {value}: it knows {has} only. tubelet export --to onnx and "
                "--to pt2 write any encoder"
            )


def no_whole(run: Run, path: Path) -> str:
    """What of a run, beside the encoder, VideoMAE's model has not; empty: it has all."""
    method = run.method
    if isinstance(method, Supervised):
        return f"method.cells {method.cells}: VideoMAE's head reads the mean of all tokens" if method.cells else ""
    if isinstance(method, ActionDetection):
        return BOXES
    if not isinstance(method, Masked):
        return f"method {type(method).__name__} is no masked autoencoder"
    if not isinstance(method.decoder, Decoder):
        return f"method.decoder {type(method.decoder).__name__}: VideoMAE's decoder attends over all tokens"
    if method.decoder.position != "index":
        return f"method.decoder.position {method.decoder.position}: VideoMAE's is the sinusoid of a token's index"
    if not isinstance(method.target, Pixels):
        return f"method.target {type(method.target).__name__}: VideoMAE's are pixels"
    if method.target.normalise == "mae":
        return "method.target.normalise mae: VideoMAE's are normalised in its own way, or raw"
    if last(path) is None:
        return f"{path.name} has no checkpoint, so its decoder, if it has one, is not written"
    return ""


@torch.no_grad()
def outputs(network: ViT | Classifier | MaskedAutoencoder, clips: Tensor) -> Tensor:
    """Tokens, logits or predictions of pixels for uint8 clips; of an autoencoder with the later half hidden."""
    if not isinstance(network, MaskedAutoencoder):
        patch = (network.encoder if isinstance(network, Classifier) else network).grid.patch
        return network(inputs(clips, patch))
    grid = network.grid
    hidden = (torch.arange(grid.tokens) >= grid.tokens // 2).expand(len(clips), -1)
    return network.imagine(patchify(clips, grid.patch), TokenMask.from_hidden(hidden, grid))


def noise(run: Run, clips: int) -> Tensor:
    """Clips of uint8 noise of the size that a run sees, always the same."""
    shape = (clips, run.data.channels, run.data.clip.frames, *run.data.size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
