"""Which method teaches most at equal time? Pre-trained on gestures, 15 minutes of one core each, frozen and fine-tuned.

    tubelet prepare /path/to/videos/gestures/clips.csv runs/gestures-prepared --short-side 128
    python benchmarks/method_gestures.py --videos runs/gestures-prepared/videos.csv --calibrate  (quiet, one core)
    python benchmarks/method_gestures.py --videos runs/gestures-prepared/videos.csv [--part 0/2]

Every method is its own preset for few clips on a CPU, at 48x64 pixels: the same encoder, clips and read-outs; mask,
target, decoder, batch and rates are the preset's. What is compared is time, not steps: milliseconds a step are measured
turn about in one process (--calibrate, the minimum counts). Four methods are masks of motion_gestures.py, whose
trainings, steps and numbers are used again from its CSV (only what is missing there is made here); the others get as
many steps as fit into the same time on the same machine, which is told by tubes: steps = (15 minutes less what comes
before) / (milliseconds x milliseconds of tubes there / milliseconds of tubes here).

The best three by the first seed's linear read-out get three seeds and fine-tuning. Every number is one run and skipped
if it is in the CSV, or the folder, already. Writes benchmarks/method_gestures.csv and prints the table.
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
from gestures import Results, frozen, pretrained, tuned
from motion_gestures import CHOICES, NOTHING, SIZE, calibrated, lists, run_of
from table import provenance, save

from tubelet.config import Run, preset
from tubelet.data.sources import find
from tubelet.train.checkpoint import load_encoder
from tubelet.train.log import say

HERE = Path(__file__).parent
MINUTES = 15
READ_OUTS = ("linear on cells", "knn on cells", "attentive")


@dataclass(frozen=True)
class Method:
    """What is compared: a mask of motion_gestures.py, or a preset."""

    preset: str = ""
    mask: str = ""  # its name there
    seeds: int = 1
    tuned: bool = False

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
    "VideoMAE": Method(mask="tube 0.9", seeds=3, tuned=True),
    "VideoMAE, hidden anywhere": Method(mask="random 0.9", seeds=3, tuned=True),
    "VideoMAE V2": Method("videomae-v2-few-cpu"),
    "MGM": Method(mask="MGM 0.75", seeds=3, tuned=True),
    "MGMAE": Method(mask="MGMAE 0.9", seeds=3, tuned=True),
    "ARVideo": Method("arvideo-few-cpu"),
    "ST-MAE": Method("st-mae-few-cpu"),
    "HOG target": Method("maskfeat-few-cpu"),
    "frame difference": Method("motion-mae-few-cpu"),
    "MoCo v3": Method("moco-v3-few-cpu"),
    "V-JEPA": Method("vjepa-few-cpu"),
    "CrossMAE": Method("cross-mae-few-cpu"),
}


def earlier(name: str = "motion_gestures") -> list[dict[str, str]]:
    """The rows of a CSV that is there."""
    path = HERE / f"{name}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def steps_of(told: dict[str, Any] | None) -> dict[str, int]:
    """Steps of every method that fit into the time; of those that were not calibrated none."""
    before = {row["name"].removeprefix("pre-training, "): row for row in earlier() if row["milliseconds"]}
    steps = {name: int(before[method.mask]["steps"]) for name, method in METHODS.items() if method.mask}
    if told:
        speed = float(before["tube 0.9"]["milliseconds"]) / told["milliseconds"]["VideoMAE"]
        for name in set(told["milliseconds"]) - set(steps):
            left = 60 * MINUTES - told["seconds before"][name]
            steps[name] = int(1000 * left / (speed * told["milliseconds"][name]))
    return steps


def rows_there(results: Results) -> list[dict[str, Any]]:
    """What this script found, and what motion_gestures.py did of the same trainings, under the names that are here."""
    rows: list[dict[str, Any]] = [dict(row) for row in results.rows()]
    have = {(row["name"], int(row["seed"])) for row in rows}
    names = {method.mask: name for name, method in METHODS.items() if method.mask} | {NOTHING: NOTHING}
    for row in earlier():
        for mask, name in names.items():
            for kind in ("linear on cells, {}", "knn on cells, {}", "{}, 100% of labels"):
                if row["name"] == kind.format(mask) and (kind.format(name), int(row["seed"])) not in have:
                    rows.append({**{k: v for k, v in row.items() if v}, "name": kind.format(name)})
    return rows


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
    parser.add_argument("--part", default="0/1", help="i/n: only each n-th training, from the i-th on")
    every = [*METHODS, NOTHING]
    parser.add_argument("--only", nargs="*", default=every, choices=every, help="these methods")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, file = lists(args.videos, args.out / "lists"), args.out / "calibration.json"
    videos = len(find(found["unlabelled"]))
    if args.calibrate:
        runs = {name: METHODS[name].run(videos, 0, 100_000) for name in args.only if name in METHODS}
        print(json.dumps(calibrated(found["unlabelled"], file, runs), indent=1))
        return
    told = json.loads(file.read_text()) if file.exists() else None
    steps, results, labelled = steps_of(told), Results(args.out / "results"), find(found["all"])
    results.take(earlier("method_gestures"))
    part, parts = map(int, args.part.split("/"))
    jobs = [(seed, name) for seed in args.seeds for name in METHODS if name in args.only and seed < METHODS[name].seeds]
    for seed, name in jobs[part::parts]:
        method = METHODS[name]
        wanted = [f"{kind}, {name}" for kind in READ_OUTS]
        there = {(row["name"], int(row["seed"])) for row in rows_there(results)}
        fine = method.tuned and (f"{name}, 100% of labels", seed) not in there
        if not fine and all((key, seed) in there for key in wanted):
            continue
        folder = args.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        say(f"{name}, seed {seed}: {steps[name]} steps")
        pretrained(folder, found["unlabelled"], method.run(videos, seed, steps[name]))
        encoder, run = load_encoder(folder)
        frozen(results, name, seed, encoder, replace(run.data, motion=None, clips=1), labelled, READ_OUTS)
        if fine:
            tuned(results, name, seed, folder, found, 1.0, size=SIZE)
    rows = rows_there(results)
    print("\n".join(table(rows, steps)))
    for name, count in steps.items():
        row = {"name": f"pre-training, {name}", "steps": count}
        if told and name in told["milliseconds"]:
            row |= {key: told[key] for key in provenance() if key in told}
            row |= {"milliseconds": round(told["milliseconds"][name], 2)}
            row |= {"seconds before": round(told["seconds before"][name], 1)}
        rows.append(row)
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name) for name in names} for row in rows])


if __name__ == "__main__":
    main()
