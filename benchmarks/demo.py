"""Does the demo's pre-training help? Trained against untrained encoder over three seeds and lengths of the read-out.

    python benchmarks/demo.py [--seeds 0 1 2] [--steps 60 120 250 400] [--folder runs/benchmark-demo]

Each seed has its own videos, weights, masks and read-out. One run takes some ten minutes on two cores; runs that are
there already are used again. Writes benchmarks/demo.csv, a row for each seed and length.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from table import provenance, save

from tubelet.config import preset
from tubelet.data.sources import find
from tubelet.demo import LABELLED, STEPS, make, scaled
from tubelet.evaluate.read_out import ReadOut
from tubelet.train.checkpoint import load_encoder
from tubelet.train.log import metrics
from tubelet.train.loop import train


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 120, 250, 400])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-demo"))
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        videos, out = args.folder / f"{seed}-videos", args.folder / f"{seed}"
        make(videos, short=False, seed=seed)
        items, test = find(videos / "train"), find(videos / "test")
        run = preset("videomae-demo")
        run = scaled(replace(run, training=replace(run.training, seed=seed)), len(items), STEPS)
        train(run, videos / "train", out, resume=out.exists())
        lines, fit = metrics(out), items[:: len(items) // LABELLED]
        trained, _ = load_encoder(out)
        torch.manual_seed(seed)
        untrained = run.method.build(run.encoder, run.grid(), run.data.channels).encoder
        for steps in args.steps:
            reader = ReadOut(steps=steps)
            rows.append({
                "seed": seed, "read_out_steps": steps, "labelled": len(fit), "tests": len(test),
                "trained": round(reader(trained, run.data, fit, test, seed), 2),
                "untrained": round(reader(untrained, run.data, fit, test, seed), 2),
                "one_frame": round(reader(trained, run.data, fit, test, seed, still=True), 2),
                "chance": 12.5, "pretraining_steps": len(lines),
                "loss_first_100": round(sum(line["loss"] for line in lines[:100]) / 100, 4),
                "loss_last_100": round(sum(line["loss"] for line in lines[-100:]) / 100, 4),
                "pretraining_seconds": round(sum(line["seconds"] for line in lines), 1),
                **provenance(),
            })  # fmt: skip
            print({key: rows[-1][key] for key in list(rows[-1])[:7]}, flush=True)
    save(__file__, rows)


if __name__ == "__main__":
    main()
