"""Which method teaches most at equal time? Pre-trained on gestures, 15 minutes of one core each, frozen and fine-tuned.

    tubelet prepare /path/to/videos/gestures/clips.csv runs/gestures-prepared --short-side 128
    python benchmarks/method_gestures.py --videos runs/gestures-prepared/videos.csv --calibrate  (quiet, one core)
    python benchmarks/method_gestures.py --videos runs/gestures-prepared/videos.csv [--part 0/2]

Every method is its own preset for few clips on a CPU, at 48x64 pixels: the same encoder, clips and read-outs; mask,
target, decoder, batch and rates are the preset's. What is compared is time, not steps: milliseconds a step are measured
turn about in one process (--calibrate, the minimum counts), and each method gets as many steps as fit into --minutes
less what comes before the first; so what else runs on the machine later changes nothing. Two short runs of VideoMAE
tell how soon it is where others end.

One seed of all; then, once the first seed of all is there, two more seeds of the three with the best linear read-out,
and fine-tuning of these. Every number is one run and skipped if it is in the CSV, or the folder, already. Writes
benchmarks/method_gestures.csv and prints the table.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gestures import Results, frozen, pretrained, tuned, untrained
from motion_gestures import CHOICES, NOTHING, SIZE, calibrated, lists, run_of
from table import provenance, save

from tubelet.config import Run, preset
from tubelet.data.sources import find
from tubelet.train.checkpoint import load_encoder
from tubelet.train.log import say

READ_OUTS = ("linear on cells", "knn on cells", "attentive")


@dataclass(frozen=True)
class Method:
    """What is compared: a preset, or a mask of motion_gestures.py; and the share of the time it gets."""

    preset: str = ""
    mask: str = ""  # its name there
    share: float = 1.0

    def run(self, videos: int, seed: int, steps: int) -> Run:
        """As the preset is, at the size of all."""
        if self.mask:
            return run_of(CHOICES[self.mask], videos, seed, steps)
        run = preset(self.preset)
        epochs = steps * run.training.batch / videos
        # everything that an epoch is the measure of keeps its share of the run
        warmup = run.optim.warmup * epochs / run.training.epochs if self.preset.startswith("moco") else run.optim.warmup
        return replace(
            run,
            data=replace(run.data, size=SIZE),
            optim=replace(run.optim, warmup=warmup),
            training=replace(run.training, epochs=epochs, seed=seed),
        )


METHODS = {
    "VideoMAE": Method(mask="tube 0.9"),
    "ARVideo": Method("arvideo-few-cpu"),
    "VideoMAE V2": Method("videomae-v2-few-cpu"),
    "VideoMAE, hidden anywhere": Method(mask="random 0.9"),
    "MGM": Method(mask="MGM 0.75"),
    "MGMAE": Method(mask="MGMAE 0.9"),
    "frame difference": Method("motion-mae-few-cpu"),
    "ST-MAE": Method("st-mae-few-cpu"),
    "MoCo v3": Method("moco-v3-few-cpu"),
    "HOG target": Method("maskfeat-few-cpu"),
    "VideoMAE, a quarter of the time": Method(mask="tube 0.9", share=1 / 4),
    "VideoMAE, a sixteenth of the time": Method(mask="tube 0.9", share=1 / 16),
    "CrossMAE": Method("cross-mae-few-cpu"),
    "V-JEPA": Method("vjepa-few-cpu"),
}
BEST = 3  # methods of which there are SEEDS seeds and fine-tuning
SEEDS = 3


def best(rows: list[dict[str, Any]]) -> list[str]:
    """The methods that read out best in the first seed; none before all of them are there."""
    first = {row["name"]: float(row["top1"]) for row in rows if int(row["seed"]) == 0}
    scores = {name: first.get(f"linear on cells, {name}") for name in METHODS}
    known = {name: score for name, score in scores.items() if score is not None}
    return sorted(known, key=lambda name: -known[name])[:BEST] if len(known) == len(METHODS) else []


def jobs(rows: list[dict[str, Any]], part: int, parts: int) -> list[tuple[str, int]]:
    """(name, seed) of what this process does: the first seed of all, or, once that is there, the rest of the best."""
    names = best(rows)
    every = [(name, seed) for seed in range(SEEDS) for name in names] if names else [(name, 0) for name in METHODS]
    return every[part::parts]


def table(rows: list[dict[str, Any]], steps: dict[str, int]) -> Iterator[str]:
    """Mean and every seed, as Markdown: a line a method, a column a number."""
    yield "| method | steps | linear, frozen | kNN, frozen | attentive, frozen | fine-tuned |"
    yield "|---|---|---|---|---|---|"
    for name in (*METHODS, NOTHING):
        cells = []
        for key in (*(f"{kind}, {name}" for kind in READ_OUTS), f"{name}, 100% of labels"):
            found = [float(row["top1"]) for row in sorted(rows, key=lambda row: int(row["seed"])) if row["name"] == key]
            cells.append(f"{statistics.mean(found):.1f} ({', '.join(f'{one:g}' for one in found)})" if found else "")
        yield f"| {name} | {f'{steps[name]:,}' if name in steps else ''} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, required=True, help="list of the prepared gesture clips")
    parser.add_argument("--out", type=Path, default=Path("runs/method-gestures"))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--part", default="0/1", help="i/n: only each n-th training, from the i-th on")
    every = [*METHODS, NOTHING]
    parser.add_argument("--only", nargs="*", default=every, choices=every, help="these methods")
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, file = lists(args.videos, args.out / "lists"), args.out / "calibration.json"
    videos = len(find(found["unlabelled"]))
    if args.calibrate:
        runs = {name: method.run(videos, 0, 100_000) for name, method in METHODS.items() if method.share == 1}
        print(json.dumps(calibrated(found["unlabelled"], file, runs), indent=1))
        return
    results, labelled = Results(args.out / "results"), find(found["all"])
    there = Path(__file__).with_suffix(".csv")
    if there.exists():
        with open(there, newline="") as lines:
            results.take(list(csv.DictReader(lines)))
    told = json.loads(file.read_text())
    time = {name: name.split(", a ")[0] for name in METHODS}  # whose speed it has
    steps = {
        name: int(
            1000
            * (60 * args.minutes * method.share - told["seconds before"][time[name]])
            / told["milliseconds"][time[name]]
        )
        for name, method in METHODS.items()
    }
    part, parts = map(int, args.part.split("/"))
    for name, seed in jobs(results.rows(), part, parts):
        fine = name in best(results.rows())
        wanted = [f"{kind}, {name}" for kind in READ_OUTS] + [f"{name}, 100% of labels"] * fine
        if name not in args.only or all((key, seed) in results for key in wanted):
            continue
        folder = args.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        say(f"{name}, seed {seed}: {steps[name]} steps")
        pretrained(folder, found["unlabelled"], METHODS[name].run(videos, seed, steps[name]))
        encoder, run = load_encoder(folder)
        frozen(results, name, seed, encoder, replace(run.data, motion=None, clips=1), labelled, READ_OUTS)
        if fine:
            tuned(results, name, seed, folder, found, 1.0, size=SIZE)
    for seed in range(SEEDS)[part::parts] if NOTHING in args.only else ():
        run = METHODS["VideoMAE"].run(videos, seed, 1)  # all methods begin alike
        frozen(results, NOTHING, seed, untrained(run), run.data, labelled, READ_OUTS)
        tuned(results, NOTHING, seed, None, found, 1.0, size=SIZE)
    rows = results.rows()
    print("\n".join(table(rows, steps)))
    for name, count in steps.items():
        row = {"name": f"pre-training, {name}", "steps": count}
        row |= {key: told[key] for key in provenance() if key in told}
        row |= {"milliseconds": round(told["milliseconds"][time[name]], 2)}
        row |= {"seconds before": round(told["seconds before"][time[name]], 1)}
        rows.append(row)
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name) for name in names} for row in rows])


if __name__ == "__main__":
    main()
