"""Does pre-training help to say who does what, where? Several shapes that each do something, on a CPU, in minutes.

    python benchmarks/shapes.py

Draws videos (data/shapes.py): 1500 without labels to pre-train on, 2000 with boxes to learn from, 200 to test on. The
same budget of fine-tuning begins from the pre-trained encoder and from scratch, three seeds each; then the same network
looks at true boxes, at boxes moved aside by a third and by three quarters of their width, and at true boxes in the
wrong order of what they are of. Every training is one run, and is skipped if it is there already. Writes
benchmarks/shapes.csv: frame mAP at IoU 0.5 in percent, and the average precision of each class.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from table import provenance, save

from tubelet.config import Optim, Run, Training
from tubelet.data.annotations import key_frames
from tubelet.data.box_transforms import BoxJitter
from tubelet.data.datasets import Data
from tubelet.data.items import Item
from tubelet.data.keyframes import Box
from tubelet.data.sampling import Around, Dense
from tubelet.data.shapes import ACTIONS, make_shapes
from tubelet.data.transforms import CentreCrop, MultiScaleCrop
from tubelet.detection import finetune_on_boxes, looker_of
from tubelet.evaluate.key_frames import over_key_frames
from tubelet.masks.random_masks import Random
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels
from tubelet.train.detector import load_detector
from tubelet.train.folder import unfinished
from tubelet.train.log import metrics, say
from tubelet.train.loop import train

SIZE, FRAMES = 64, 8
VIDEOS = {"more": (1500, 1), "fit": (2000, 4), "held": (200, 3)}  # how many, and the seed


def pretraining(steps: int) -> Run:
    """Pixels hidden anywhere, as in videomae-few-cpu."""
    epochs = steps * 16 / VIDEOS["more"][0]
    return Run(
        encoder=Encoder(width=128, depth=3, heads=4, hidden=512, patch=(2, 8, 8), position="axes"),
        method=Masked(Random(0.9), Pixels("none"), Decoder(96, 2, 4, position="axes"), predict=0.25),
        data=Data(Dense(FRAMES, stride=1), (SIZE, SIZE), MultiScaleCrop((1.0,)), cache=SIZE),
        optim=Optim(base_lr=0.016, min_lr=0.0, warmup=epochs / 10),
        training=Training(epochs=epochs, batch=16, save_every=20, threads=1, workers=0),
    )


def tuning(steps: int, seed: int, init: Path | None) -> Run:
    """The same with weights and without."""
    epochs = steps * 16 / VIDEOS["fit"][0]
    return Run(
        encoder=pretraining(steps).encoder,
        method=ActionDetection(pool="attentive", side=SIZE, init=None if init is None else str(init)),
        data=Data(Around(FRAMES, 1), (SIZE, SIZE), CentreCrop(), boxes=BoxJitter(), cache=SIZE),
        optim=Optim(base_lr=0.016, min_lr=0.0, warmup=epochs / 10, betas=(0.9, 0.999), layer_decay=0.75),
        training=Training(epochs=epochs, batch=16, save_every=4, threads=1, workers=0, seed=seed),
    )


def aside(items: Sequence[Item], share: float) -> list[Item]:
    """The key frames with boxes that lie beside, by so much of their width, towards the middle."""

    def moved(box: Box) -> Box:
        x1, y1, x2, y2 = box.corners
        way = share * (x2 - x1) * (1 if x1 + x2 < 1 else -1)
        return replace(box, corners=(x1 + way, y1, x2 + way, y2))

    return [with_boxes(item, [moved(box) for box in boxes_of(item)]) for item in items]


def swapped(items: Sequence[Item]) -> list[Item]:
    """The key frames with the labels of their boxes passed on to the next box: right places, wrong people."""
    found = []
    for item in items:
        boxes = boxes_of(item)
        labels = [box.labels for box in boxes]
        found.append(
            with_boxes(item, [replace(box, labels=names) for box, names in zip(boxes, [*labels[1:], *labels[:1]])])
        )
    return found


def boxes_of(item: Item) -> Sequence[Box]:
    assert item.key is not None
    return item.key.boxes


def with_boxes(item: Item, boxes: Sequence[Box]) -> Item:
    assert item.key is not None
    return replace(item, key=replace(item.key, boxes=tuple(boxes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--steps", type=int, default=12000, help="of pre-training")
    parser.add_argument("--tune", type=int, nargs="+", default=[1500], help="steps of fine-tuning: budgets")
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    tables = {}
    for part, (count, seed) in VIDEOS.items():
        tables[part] = a.out / part / "boxes.csv"
        if not tables[part].exists():
            make_shapes(a.out / part, count, seed)
    before = a.out / f"pretrained-{a.steps}"
    if not (before / "run.json").exists() or unfinished(before):
        train(pretraining(a.steps), a.out / "more", before, resume=True, quiet=True)
    learnt = sum(line["seconds"] for line in metrics(before))
    rows: list[dict[str, Any]] = []
    for steps in a.tune:
        for seed in range(a.seeds):
            for name, init in (("pre-trained", before), ("scratch", None)):
                folder = a.out / f"{name}-{steps}-{seed}"
                if not (folder / "run.json").exists() or unfinished(folder):
                    finetune_on_boxes(tuning(steps, seed, init), tables["fit"], folder, resume=True, quiet=True)
                network, run = load_detector(folder)
                looker, truth = looker_of(network, run, torch.device("cpu")), key_frames(tables["held"])
                found = over_key_frames(looker, truth.items).counted()
                others = {
                    "map_aside_third": over_key_frames(looker, truth.items, aside(truth.items, 1 / 3)),
                    "map_aside_most": over_key_frames(looker, truth.items, aside(truth.items, 3 / 4)),
                    "map_swapped": over_key_frames(looker, swapped(truth.items)),
                }
                rows.append(
                    {
                        "from": name,
                        "seed": seed,
                        "steps": steps,
                        "seconds": round(sum(line["seconds"] for line in metrics(folder))),
                        "pretraining_seconds": round(learnt) if init else 0,
                        "map": round(found.mean, 1),
                        **{key: round(results.counted().mean, 1) for key, results in others.items()},
                        **{f"ap_{one}": round(found.per_class[one], 1) for one in ACTIONS},
                    }
                    | provenance()
                )
                say(str({key: value for key, value in rows[-1].items() if key not in provenance()}))
                save(__file__, rows)


if __name__ == "__main__":
    main()
