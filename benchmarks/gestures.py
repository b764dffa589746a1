"""Does pre-training on videos without labels help to tell gestures apart? From scratch, fine-tuned, read out frozen.

    make results VIDEOS=/path/to/videos        (or: python benchmarks/gestures.py --videos /path/to/videos)

The folder holds `gestures/clips.csv` and `everyday/clips.csv`, lists with columns file, label, group, split and (of the
gestures) split "train" (groups 1 to 12), "test" (13 to 16), "unlabelled". Every training and every number is one run,
and is skipped if it is there already: interrupt it, and repeat the command. Two processes may work on it at once
(--part 0/2, --part 1/2: each takes its own seeds).

Settings were chosen with groups 11 and 12 as validation (docs/log.md), never with groups 13 to 16. No flips: they would
swap left and right. Writes benchmarks/gestures.csv, a row for each number and seed, and prints the tables.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from table import provenance, save

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.sampling import Segments
from tubelet.data.sources import Item, find
from tubelet.data.split import fraction, write_list
from tubelet.data.transforms import MultiScaleCrop, RandomResizedCrop
from tubelet.evaluate.probes import RECIPES, Attentive, Linear, Neighbours
from tubelet.evaluate.probing import read_out
from tubelet.evaluate.results import numbers
from tubelet.evaluate.views import Viewer, Views, multi_view
from tubelet.finetune import completed, finetune
from tubelet.masks.random_masks import Random
from tubelet.methods.masked import Masked
from tubelet.methods.mixing import Mix
from tubelet.methods.supervised import Supervised
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder, ViT
from tubelet.targets import Pixels
from tubelet.train.checkpoint import load_classifier, load_encoder
from tubelet.train.log import metrics, say
from tubelet.train.loop import train

SIZE, STEPS, BATCH = (32, 40), 12000, 16
ENCODER = Encoder(width=128, depth=4, heads=4, hidden=512, patch=(2, 8, 8), position="axes")
FRACTIONS = (0.25, 0.5, 1.0)
VIEWS = Views(3, 1)


def pretraining(videos: int, seed: int) -> Run:
    """A tenth of every clip seen, the rest imagined; hidden anywhere, see docs/log.md."""
    return Run(
        encoder=ENCODER,
        method=Masked(Random(0.9), Pixels("none"), Decoder(96, 2, 3, position="axes"), predict=0.25),
        data=Data(clip=Segments(16), size=SIZE, crop=MultiScaleCrop((1.0, 0.875, 0.75)), cache=96),
        optim=Optim(base_lr=0.016, min_lr=0.0, warmup=20),
        training=Training(epochs=STEPS * BATCH / videos, batch=BATCH, save_every=100, threads=1, workers=0, seed=seed),
    )


def tuning(videos: int, seed: int, init: Path | None) -> Run:
    """The same with weights and without."""
    return Run(
        encoder=replace(ENCODER, drop_path=0.1),
        method=Supervised(init=None if init is None else str(init), cells=(8, 4, 5), mix=Mix(0.2, 1.0, 0.5), dropout=0.5),
        data=Data(clip=Segments(16), size=SIZE, crop=RandomResizedCrop((0.5, 1.0)), cache=96),
        optim=Optim(base_lr=8e-3, min_lr=1e-5, warmup=5, betas=(0.9, 0.999), layer_decay=0.75),
        training=Training(epochs=800 * BATCH / videos, batch=BATCH, save_every=50, threads=1, workers=0, seed=seed),
    )


class Results:
    """Numbers that are there already, by name and seed; each is written as soon as it is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return self.path(*key).is_file()

    def path(self, name: str, seed: int) -> Path:
        return self.folder / f"{name.replace(' ', '_')}-{seed}.json"

    def add(self, name: str, seed: int, **values: object) -> None:
        text = json.dumps({"name": name, "seed": seed, **values, **provenance()}, indent=1)
        self.path(name, seed).write_text(text)
        say(f"{name}, seed {seed}: {values}")

    def rows(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]


def gestures(videos: Path) -> list[tuple[str, Item]]:
    """(split, clip) of every gesture clip."""
    with open(videos / "gestures" / "clips.csv", newline="") as file:
        return [
            (row["split"], Item(videos / "gestures" / row["file"], row["label"] or None, group=row["group"]))
            for row in csv.DictReader(file)
        ]


def lists(videos: Path, folder: Path) -> dict[str, Path]:
    """Lists of what is pre-trained on, trained on, tested on."""
    clips = gestures(videos)
    labelled = [item for split, item in clips if split == "train"]
    unlabelled = [replace(item, label=None) for split, item in clips if split != "test"]
    everyday = find(videos / "everyday" / "clips.csv")
    found = {
        "unlabelled": unlabelled,
        "everyday": [replace(item, label=None) for item in everyday],
        "test": [item for split, item in clips if split == "test"],
        "all": [item for split, item in clips if split != "unlabelled"],
        **{f"train-{round(100 * share)}": fraction(labelled, share) for share in FRACTIONS},
    }
    for name, items in found.items():
        write_list(folder / f"{name}.csv", items)
    return {name: folder / f"{name}.csv" for name in found}


def untrained(seed: int) -> ViT:
    """The encoder that a fine-tuning from scratch would begin with."""
    torch.manual_seed(seed)
    run = pretraining(100, seed)
    return run.method.build(run.encoder, run.grid(), 3).encoder.eval()


def frozen(results: Results, name: str, seed: int, encoder: ViT, data: Data, all_: Path) -> None:
    """Read-outs by leave-groups-out over all labelled clips."""
    for kind, probe, blocks, pooled in (
        ("linear", Linear(*RECIPES["adamw"]) if False else None, range(5), True),
    ):
        pass


def main() -> None:
    raise SystemExit
