"""Does pre-training on videos without labels help to tell gestures apart? From scratch, fine-tuned, read out frozen.

    make results VIDEOS=/path/to/videos        (or: python benchmarks/gestures.py --videos /path/to/videos)

The folder holds `gestures/clips.csv` and `everyday/clips.csv`, lists with columns file, label, group, split and (of the
gestures) split "train" (groups 1 to 12), "test" (13 to 16), "unlabelled". Every training and every number is one run,
and is skipped if it is there already: interrupt it, and repeat the command. Two processes may work on it at once
(--part 0/2, --part 1/2: each takes its own seeds).

Settings were chosen with groups 11 and 12 as validation (docs/log.md), never with groups 13 to 16. No flips: they would
swap left and right. Writes benchmarks/gestures.csv, a row for each number and seed that is there, and prints the table.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from table import provenance, save

from tubelet.config import Run, preset
from tubelet.data.datasets import Data
from tubelet.data.sources import Item, find
from tubelet.data.split import fraction, write_list
from tubelet.data.video import probe
from tubelet.evaluate.probes import RECIPES, Attentive, Neighbours
from tubelet.evaluate.probing import read_out
from tubelet.evaluate.results import numbers
from tubelet.evaluate.views import Viewer, Views, multi_view
from tubelet.finetuning import completed, finetune
from tubelet.nn.vit import ViT
from tubelet.train.checkpoint import load_classifier, load_encoder
from tubelet.train.folder import unfinished
from tubelet.train.log import metrics, say
from tubelet.train.loop import train

STEPS, FEW_STEPS, TUNING_STEPS = 36000, 6000, 400
SECONDS = 3.4  # of a gesture clip, the median
FRACTIONS = (0.25, 0.5, 1.0)
VIEWS = Views(3, 1)
CELLS, HEADS = (8, 2, 2), 4
KINDS = ("linear on mean tokens", "linear on cells", "attentive", "knn on mean tokens", "knn on cells")


def pretraining(videos: int, seed: int, steps: int = STEPS) -> Run:
    """As the preset says, as long as asked."""
    run = preset("videomae-few-cpu")
    return replace(run, training=replace(run.training, epochs=steps * run.training.batch / videos, seed=seed))


def tuning(videos: int, seed: int, init: Path | None, size: tuple[int, int]) -> Run:
    """The same with weights and without, and as many steps with few labels as with all."""
    run = preset("finetune-few-cpu")
    epochs = TUNING_STEPS * run.training.batch / videos
    return replace(
        run,
        data=replace(run.data, size=size),
        method=replace(run.method, init=None if init is None else str(init)),
        training=replace(run.training, epochs=epochs, seed=seed),
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

    def take(self, rows: Sequence[dict[str, str]]) -> None:
        """Numbers of a CSV, as one that another machine wrote, which are then not made again."""
        for row in rows:
            if row.get("top1") and (row["name"], int(row["seed"])) not in self:
                self.path(row["name"], int(row["seed"])).write_text(json.dumps(row, indent=1))

    def rows(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]


def gestures(videos: Path) -> list[tuple[str, Item]]:
    """(split, clip) of every gesture clip."""
    with open(videos / "gestures" / "clips.csv", newline="") as file:
        return [
            (row["split"], Item(videos / "gestures" / row["file"], row["label"] or None, group=row["group"]))
            for row in csv.DictReader(file)
        ]


def middle(item: Item) -> Item:
    """The middle of a longer video, as long as a gesture clip usually is."""
    spare = max(probe(item.path).duration - SECONDS, 0.0)
    return replace(item, label=None, start=round(spare / 2, 3), end=round(spare / 2 + SECONDS, 3))


def lists(videos: Path, folder: Path) -> dict[str, Path]:
    """Lists of what is pre-trained on, trained on, tested on."""
    clips = gestures(videos)
    labelled = [item for split, item in clips if split == "train"]
    unlabelled = [replace(item, label=None) for split, item in clips if split != "test"]
    everyday = [middle(item) for item in find(videos / "everyday" / "clips.csv")]
    found = {
        "unlabelled": unlabelled,
        "everyday": everyday,
        "few": fraction(unlabelled, len(everyday) / len(unlabelled)),
        "test": [item for split, item in clips if split == "test"],
        "all": [item for split, item in clips if split != "unlabelled"],
        **{f"train-{round(100 * share)}": fraction(labelled, share) for share in FRACTIONS},
    }
    return written(found, folder)


def written(found: dict[str, list[Item]], folder: Path) -> dict[str, Path]:
    """A list for each name; those that are there already stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {name: folder / f"{name}.csv" for name in found}
    for name, path in lists.items():
        if not path.exists():
            write_list(path, found[name])
    return lists


def untrained(run: Run) -> ViT:
    """The encoder that a run begins with, and a fine-tuning from scratch."""
    torch.manual_seed(run.training.seed)
    return run.method.build(run.encoder, run.grid(), 3).encoder.eval()


def frozen(
    results: Results, name: str, seed: int, encoder: ViT, data: Data, labelled: list[Item], kinds: Sequence[str] = KINDS
) -> None:
    """Read-outs by leave-groups-out over all labelled clips; settings chosen inside each fold."""
    few = {"lrs": (1e-3, 1e-2, 0.1), "decays": (0.0, 1.0), "epochs": 60, "warmup": 6}
    linear, depth = replace(RECIPES["adamw"], **few), len(encoder.blocks)
    attentive = Attentive(HEADS, lrs=(3e-4, 1e-3, 3e-3), decays=(0.01, 0.4), epochs=60, batch=32)
    every = (*range(1, depth + 1), 0)
    for kind, recipe, blocks, pooled in (
        ("linear on mean tokens", linear, every, True),
        ("linear on cells", linear, (depth // 2, depth - 1, depth), CELLS),
        ("attentive", attentive, (0,), False),
        ("knn on mean tokens", Neighbours((1, 5, 20, 200)), every, True),
        ("knn on cells", Neighbours((1, 5, 20, 200)), (depth // 2, depth - 1, depth), CELLS),
    ):
        key = (f"{kind}, {name}", seed)
        if kind in kinds and key not in results:
            found = read_out(encoder, data, {"training": labelled}, blocks, lambda _: recipe, pooled=pooled, seed=seed)  # noqa: B023
            top1, how = round(found.outcome.scores["top1"], 2), found.outcome.chosen
            results.add(*key, top1=top1, clips=len(labelled), how=how)


def tuned(
    results: Results,
    name: str,
    seed: int,
    init: Path | None,
    lists: dict[str, Path],
    share: float,
    size: tuple[int, int] = (32, 40),
) -> None:
    """Fine-tuning on a share of the labels, and its accuracy on groups 13 to 16."""
    key = (f"{name}, {share:.0%} of labels", seed)
    if key in results:
        return
    items = find(lists[f"train-{round(100 * share)}"])
    folder = results.folder.parent / f"{name.replace(' ', '-')}-{round(100 * share)}-{seed}"
    run = completed(tuning(len(items), seed, init, size), items)
    finetune(run, lists[f"train-{round(100 * share)}"], folder, resume=folder.exists(), quiet=True)
    network, run = load_classifier(folder)
    found = numbers(multi_view(Viewer(network, run.data, run.encoder.patch), find(lists["test"]), VIEWS), resamples=0)
    lines = metrics(folder)
    results.add(
        *key,
        top1=round(found["top1"].value, 2),
        clips=len(find(lists["test"])),
        trained_on=len(items),
        steps=len(lines),
        seconds=round(sum(line["seconds"] for line in lines), 1),
        loss=round(lines[-1]["loss"], 4),
    )


def pretrained(folder: Path, videos: Path, run: Run) -> Path:
    """A pre-training, unless it is there; goes on with one that was interrupted."""
    if not (folder / "encoder.safetensors").exists() or unfinished(folder):
        say(f"pre-training {folder}")
        train(run, videos, folder, resume=folder.exists(), quiet=True)
    return folder


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    """Mean and spread over seeds, as Markdown."""
    yield "| what | top-1, mean | lowest and highest seed | clips |\n|---|---|---|---|"
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        found = [float(str(row["top1"])) for row in rows if row["name"] == name]
        clips = next(row["clips"] for row in rows if row["name"] == name)
        yield f"| {name} | {statistics.mean(found):.1f} | {min(found):.1f}, {max(found):.1f} | {clips} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/gestures"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", default="0/1", help="i/n: only each n-th seed, from the i-th on")
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))
    torch.set_num_threads(1)
    results, found = Results(args.out / "results"), lists(args.videos, args.out / "lists")
    labelled, count = find(found["all"]), {name: len(find(found[name])) for name in ("unlabelled", "everyday", "few")}
    for seed in args.seeds[part::parts]:
        own = pretrained(args.out / f"pretrained-{seed}", found["unlabelled"], pretraining(count["unlabelled"], seed))
        encoder, run = load_encoder(own)
        for share in (1.0, 0.5, 0.25):
            tuned(results, "from scratch", seed, None, found, share)
            tuned(results, "pre-trained", seed, own, found, share)
        frozen(results, "pre-trained", seed, encoder, run.data, labelled)
        frozen(results, "random encoder", seed, untrained(pretraining(100, seed)), run.data, labelled)
    for seed in args.seeds[part::parts]:
        everyday = pretrained(
            args.out / f"everyday-{seed}", found["everyday"], pretraining(count["everyday"], seed, FEW_STEPS)
        )
        tuned(results, "pre-trained on everyday clips", seed, everyday, found, 1.0)
        few = pretrained(args.out / f"few-{seed}", found["few"], pretraining(count["few"], seed, FEW_STEPS))
        tuned(results, "pre-trained on as many gesture clips", seed, few, found, 1.0)
    rows = results.rows()
    print("\n".join(table(rows)))
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name) for name in names} for row in rows])


if __name__ == "__main__":
    main()
