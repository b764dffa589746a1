"""VideoMAE's own layout of a checkpoint: a .pth with the tensors under "model", by the names of its released code."""

from pathlib import Path

import torch
from torch import Tensor

from tubelet.export.trained import Part, Tell, trained
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.train.checkpoint import atomically
from tubelet.weights.found import Asked
from tubelet.weights.names import written
from tubelet.weights.report import Report
from tubelet.weights.videomae import FINETUNED, PRETRAINED


def to_official(state: dict[str, Tensor], patch: tuple[int, int, int], tuned: bool) -> dict[str, Tensor]:
    """The state dict of the released models, pre-training or (`tuned`) fine-tuning, from ours; an encoder's names begin
    with "encoder."."""
    return written(state, FINETUNED if tuned else PRETRAINED, patch)


def write_official(
    path: Path | str,
    out: Path,
    part: Part | None = None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    tell: Tell = Report.warn,
) -> list[str]:
    """Writes a run as a .pth that VideoMAE's released code loads; what there is to say about it.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a setting that VideoMAE cannot express; names it. Or `out` is there already, or is no .pth.
        SaveError: the disk refuses.
    """
    if out.suffix not in (".pth", ".pt") or out.exists():
        raise ValueError(f"{out} is there already or is no .pth; choose another --out")
    model = trained(path, part, asked, tell)
    if isinstance(model.network, MaskedAutoencoder) and not model.normed:
        raise ValueError(
            f"{path}: the encoder of VideoMAE's pre-training ends with a norm, this one does not. Write the encoder "
            "alone (--part encoder), or --to hf"
        )
    state = to_official(model.state(), model.run.encoder.patch, model.tuned)
    atomically(out, lambda file: torch.save({"model": state}, file))
    return [model.note] * bool(model.note)
