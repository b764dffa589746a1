"""How much to hide, and how long to learn? Tubes and MGM's boxes at several ratios, tubes for several lengths.

    tubelet prepare /path/to/videos/gestures/clips.csv runs/gestures-prepared --short-side 128
    python benchmarks/ratio_gestures.py --videos runs/gestures-prepared/videos.csv [--part 0/2]

The ablations of VideoMAE (ratio, length) and MGM (ratio) in small, at equal steps as they have them, so a low ratio has
more time. Clips, splits, read-outs and fine-tuning are those of motion_gestures.py. One seed of everything, then the
next; what is in the folder already is not done again. Writes benchmarks/ratio_gestures.csv and prints the table;
benchmarks/figures.py draws it.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gestures import Results, frozen, pretrained, tuned, untrained
from motion_gestures import CODEC, NOTHING, READ_OUTS, SIZE, Choice, lists, run_of
from table import provenance, save

from tubelet.data.sources import find
from tubelet.masks.motion_masks import MotionBox
from tubelet.masks.random_masks import Tube
from tubelet.train.checkpoint import load_encoder
from tubelet.train.log import metrics, say

STEPS = 2000


@dataclass(frozen=True)
class Point:
    """One training: how much is hidden by what, for how long."""

    mask: str
    ratio: float
    steps: int = STEPS

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.mask} {self.ratio:g}, {self.steps} steps"

    @property
    def choice(self) -> Choice:
        """The mask, and the motion that it follows."""
        return Choice(Tube(self.ratio)) if self.mask == "tube" else Choice(MotionBox(self.ratio), CODEC)


RATIOS = [
    *(Point("tube", ratio) for ratio in (0.5, 0.75, 0.9, 0.95)),
    *(Point("MGM", ratio) for ratio in (0.6, 0.75, 0.9)),
]
LENGTHS = [Point("tube", 0.9, steps) for steps in (250, 500, 1000, 4000, 8000)]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and every seed, as Markdown: a line a training, a column a number."""
    yield "| hidden | linear, frozen | kNN, frozen | fine-tuned |\n|---|---|---|---|"
    for name in (*(point.name for point in (*RATIOS, *LENGTHS)), NOTHING):
        cells = []
        for key in (f"linear on cells, {name}", f"knn on cells, {name}", f"{name}, 100% of labels"):
            found = [float(row["top1"]) for row in rows if row["name"] == key]
            cells.append(f"{statistics.mean(found):.1f} ({', '.join(f'{one:g}' for one in found)})" if found else "")
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, required=True, help="list of the prepared gesture clips")
    parser.add_argument("--out", type=Path, default=Path("runs/ratio-gestures"))
    parser.add_argument("--part", default="0/1", help="i/n: only each n-th training, from the i-th on")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="fine-tune, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = lists(args.videos, args.out / "lists")
    results, labelled = Results(args.out / "results"), find(found["all"])
    videos = len(find(found["unlabelled"]))
    part, parts = map(int, args.part.split("/"))
    jobs = [(seed, point) for seed in range(args.seeds) for point in (*RATIOS, *LENGTHS)]
    costs = {}
    for seed, point in jobs[part::parts]:
        folder = args.out / f"{point.mask}-{point.ratio:g}-{point.steps}-{seed}"
        say(f"{point.name}, seed {seed}")
        pretrained(folder, found["unlabelled"], run_of(point.choice, videos, seed, point.steps))
        costs[point.name] = sum(line["seconds"] for line in metrics(folder))
        encoder, run = load_encoder(folder)
        frozen(results, point.name, seed, encoder, replace(run.data, motion=None), labelled, READ_OUTS)
        if args.tune:
            tuned(results, point.name, seed, folder, found, 1.0, size=SIZE)
    for seed in range(args.seeds)[part::parts]:
        run = run_of(RATIOS[0].choice, videos, seed, 1)  # all begin alike
        frozen(results, NOTHING, seed, untrained(run), run.data, labelled, READ_OUTS)
        if args.tune:
            tuned(results, NOTHING, seed, None, found, 1.0, size=SIZE)
    rows = results.rows()
    print("\n".join(table(rows)))
    rows += [
        {"name": f"pre-training, {name}", "seconds": round(cost, 1), **provenance()} for name, cost in costs.items()
    ]
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name) for name in names} for row in rows])


if __name__ == "__main__":
    main()
