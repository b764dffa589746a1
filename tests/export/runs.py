"""Folders of runs that were never trained: every tensor is noise, so that nothing dropped or swapped goes unseen."""

from dataclasses import replace
from pathlib import Path

import torch

from tubelet.config import Run, preset
from tubelet.data.labels import Labels
from tubelet.methods.masked import Masked
from tubelet.methods.supervised import Supervised
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels
from tubelet.train.checkpoint import save
from tubelet.types import Method

ODD = Encoder(width=60, depth=3, heads=5, hidden=100, patch=(3, 8, 8))


def pretraining(**changes) -> Run:
    """A masked autoencoder of odd sizes: 9 frames of 40x40 pixels."""
    run = preset("videomae-demo")
    clip = replace(run.data.clip, frames=9)
    method = Masked(run.method.mask, Pixels("videomae"), Decoder(36, 2, 3))
    return replace(run, encoder=ODD, method=method, data=replace(run.data, clip=clip, size=(40, 40)), **changes)


def finetuning(names: tuple[str, ...] = ("fall", "run", "wave"), kind="class", **method) -> Run:
    """A classifier of the same sizes."""
    run = pretraining()
    settings = Supervised(labels=kind, outputs=len(names), **method)
    return replace(run, method=settings, data=replace(run.data, labels=Labels(kind, names)))


def saved(run: Run, folder: Path) -> tuple[Path, Method]:
    """The folder of a run whose weights are noise, and its method."""
    torch.manual_seed(0)
    method = run.method.build(run.encoder, run.grid(), run.data.channels)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.1)
    save(folder, run, method, torch.optim.AdamW(method.parameters()), 1)
    return folder, method.eval()
