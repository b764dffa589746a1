"""Which mask teaches most at equal time? Tubes, boxes, motion: pre-trained on gestures, read out frozen, fine-tuned.

    tubelet prepare /path/to/videos/gestures/clips.csv runs/gestures-prepared --short-side 128
    python benchmarks/motion_gestures.py --videos runs/gestures-prepared/videos.csv --calibrate  (quiet, one core)
    python benchmarks/motion_gestures.py --videos runs/gestures-prepared/videos.csv [--part 0/2]

Equal time, not equal steps: masks differ in how many tokens they leave visible, and motion must be read or estimated.
Milliseconds a step of every mask are measured once, turn about in one process (--calibrate, the minimum counts), and
the seconds in which its videos are read and motion is looked for, once for the whole run. Each mask gets as many steps
as then fit into --minutes; so what else runs on the machine later changes nothing.

Everything else is as in gestures.py: the same clips, splits, read-outs and fine-tuning; every training and every number
is one run and is skipped if it is there. Writes benchmarks/motion_gestures.csv and prints the table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gestures import Results, frozen, pretrained, tuned, untrained, written
from table import provenance, save

from tubelet.config import Run, preset
from tubelet.data.datasets import Dataset
from tubelet.data.flow import Flow
from tubelet.data.loader import batches
from tubelet.data.sources import Item, find
from tubelet.data.vectors import Vectors
from tubelet.masks.motion_masks import FlowWarp, MotionBox, SimulatedBox
from tubelet.masks.random_masks import Block, Frame, Random, Tube
from tubelet.train.checkpoint import load_encoder
from tubelet.train.device import pick_precision
from tubelet.train.distributed import alone
from tubelet.train.log import say
from tubelet.train.loop import one_step
from tubelet.train.optim import adamw

SIZE = (48, 64)  # 6x8 places of 8x8 pixels, 8 slots
READ_OUTS = ("linear on cells", "knn on cells")
NOTHING = "no pre-training"


@dataclass(frozen=True)
class Choice:
    """A mask, and the motion that guides it."""

    mask: Any
    motion: Vectors | Flow | None = None
    seeds: int = 1
    tuned: bool = False


CODEC, FLOW = Vectors(block=4), Flow(size=96, block=4)
CHOICES = {
    "tube 0.9": Choice(Tube(0.9), seeds=3, tuned=True),
    "random 0.9": Choice(Random(0.9), tuned=True),  # what videomae-few-cpu has
    "frame 0.875": Choice(Frame(0.875), seeds=3, tuned=True),  # the best of the first seed, linear and fine-tuned
    "block 0.75": Choice(Block(0.75)),
    "SMM 0.75": Choice(SimulatedBox(0.75)),
    "MGM sparse 0.75": Choice(MotionBox(0.75, sparse=True), CODEC),
    "MGM 0.75": Choice(MotionBox(0.75), CODEC, seeds=3, tuned=True),
    "MGM 0.75, flow": Choice(MotionBox(0.75), FLOW),
    "MGMAE 0.9": Choice(FlowWarp(0.9), FLOW, seeds=3, tuned=True),
}


def run_of(choice: Choice, videos: int, seed: int, steps: int) -> Run:
    """As videomae-few-cpu but for size, mask and motion."""
    run = preset("videomae-few-cpu")
    return replace(
        run,
        method=replace(run.method, mask=choice.mask),
        data=replace(run.data, size=SIZE, motion=choice.motion),
        training=replace(run.training, epochs=steps * run.training.batch / videos, seed=seed),
    )


def lists(videos: Path, folder: Path) -> dict[str, Path]:
    """What is pre-trained on, fine-tuned on, tested on; as in gestures.py, from the list of prepared files."""
    items = find(videos)
    split = {item.path: split_of(item) for item in items}
    found = {
        "unlabelled": [replace(item, label=None) for item in items if split[item.path] != "test"],
        "train-100": [item for item in items if split[item.path] == "train"],
        "test": [item for item in items if split[item.path] == "test"],
        "all": [item for item in items if split[item.path] != "unlabelled"],
    }
    return written(found, folder)


def split_of(item: Item) -> str:
    """Groups 1 to 12 are trained on, 13 to 16 tested on; what has no label is only pre-trained on."""
    if item.label is None:
        return "unlabelled"
    return "train" if int(item.group or 0) <= 12 else "test"


def calibrated(videos: Path, file: Path, runs: dict[str, Run], repeats: int = 100) -> dict[str, dict[str, float]]:
    """Milliseconds a step of every run, turn about: the minimum over blocks of ten steps, or as many as take a second.
    And seconds to fill its cache."""
    items = find(videos)
    sides, filled = {}, {}
    for name, run in runs.items():
        dataset = Dataset(items, run.data, 0)
        begun = time.perf_counter()
        dataset.fill_cache()
        filled[name] = time.perf_counter() - begun
        method = run.method.build(run.encoder, run.grid(), 3).train()
        sides[name] = (run, batches(dataset, run.training.batch, 0, 100_000), method, adamw(method, run.optim))
    best = dict.fromkeys(sides, float("inf"))
    device = torch.device("cpu")
    for turn in range(repeats // 10):
        for name, (run, stream, method, optimiser) in sides.items():
            start, done, spent = time.perf_counter(), 0, 0.0
            while done < 10 and spent < 1:
                step = 10 * turn + done
                one_step(alone(method), next(stream), step, run, device, pick_precision("auto", device))
                optimiser.step()
                optimiser.zero_grad()
                method.after_step(step, 100_000)
                done, spent = done + 1, time.perf_counter() - start
            best[name] = min(best[name], 1000 * spent / done)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"milliseconds": best, "seconds before": filled, **provenance()}, indent=1))
    return {"milliseconds": best, "seconds before": filled}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and every seed, as Markdown: a line a mask, a column a number."""
    yield "| mask | linear, frozen | kNN, frozen | fine-tuned |\n|---|---|---|---|"
    for name in (*CHOICES, NOTHING):
        cells = []
        for key in (f"linear on cells, {name}", f"knn on cells, {name}", f"{name}, 100% of labels"):
            found = [float(row["top1"]) for row in rows if row["name"] == key]
            cells.append(f"{statistics.mean(found):.1f} ({', '.join(f'{one:g}' for one in found)})" if found else "")
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, required=True, help="list of the prepared gesture clips")
    parser.add_argument("--out", type=Path, default=Path("runs/motion-gestures"))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--part", default="0/1", help="i/n: only each n-th training, from the i-th on")
    every = [*CHOICES, NOTHING]
    parser.add_argument("--only", nargs="*", default=every, choices=every, help="these masks")
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, file = lists(args.videos, args.out / "lists"), args.out / "calibration.json"
    if args.calibrate:
        count = len(find(found["unlabelled"]))
        runs = {name: run_of(choice, count, 0, 100_000) for name, choice in CHOICES.items()}
        print(json.dumps(calibrated(found["unlabelled"], file, runs), indent=1))
        return
    told = json.loads(file.read_text())
    speed, before = told["milliseconds"], told["seconds before"]
    results, labelled = Results(args.out / "results"), find(found["all"])
    videos = len(find(found["unlabelled"]))
    part, parts = map(int, args.part.split("/"))
    length = {name: int(1000 * (60 * args.minutes - before[name]) / speed[name]) for name in CHOICES}
    jobs = [(seed, name) for seed in range(3) for name in CHOICES if name in args.only and seed < CHOICES[name].seeds]
    for seed, name in jobs[part::parts]:
        choice = CHOICES[name]
        folder = args.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        say(f"{name}, seed {seed}: {length[name]} steps of {speed[name]:.1f} ms")
        pretrained(folder, found["unlabelled"], run_of(choice, videos, seed, length[name]))
        encoder, run = load_encoder(folder)
        frozen(results, name, seed, encoder, replace(run.data, motion=None), labelled, READ_OUTS)
        if choice.tuned:
            tuned(results, name, seed, folder, found, 1.0, size=SIZE)
    for seed in range(3)[part::parts] if NOTHING in args.only else ():
        run = run_of(CHOICES["tube 0.9"], videos, seed, 1)  # all masks begin alike
        frozen(results, NOTHING, seed, untrained(run), run.data, labelled, READ_OUTS)
        tuned(results, NOTHING, seed, None, found, 1.0, size=SIZE)
    rows = results.rows()
    print("\n".join(table(rows)))
    calibration = {key: value for key, value in told.items() if not isinstance(value, dict)}
    for name, steps in length.items():
        told_of = {"milliseconds": round(speed[name], 2), "seconds before": round(before[name], 1), **calibration}
        rows.append({"name": f"pre-training, {name}", "steps": steps, **told_of})
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name) for name in names} for row in rows])


if __name__ == "__main__":
    main()
