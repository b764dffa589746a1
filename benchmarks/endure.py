"""Does training stay as it is? Memory and open files of a run and its workers over 5000 steps.

    python benchmarks/endure.py --videos FOLDER [--steps 5000] [--workers 2]

A real run (`tubelet pretrain`, the preset for CPUs made as small as its step is quick, checkpoints every 500 steps), in
a process of its own. Every 250 steps: proportional memory (PSS: what is shared counts once) and open files of the
trainer and its workers. Linux. Writes benchmarks/endure.csv.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steady import held
from table import provenance, save

from tubelet.data.sources import find

EVERY = 250
SMALL = {
    "encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.hidden": 48, "method.decoder.width": 16,
    "method.decoder.depth": 1, "method.decoder.heads": 2, "data.cache": 0, "training.batch": 4, "training.threads": 1,
    "training.precision": "float32",
}  # fmt: skip


def children(process: int) -> list[int]:
    """The processes that one has begun."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    videos = len(find(args.videos))
    length = {"epochs": args.steps * 4 / videos, "save-every": 500 * 4 / videos, "workers": args.workers}
    settings = SMALL | {f"training.{name}": value for name, value in length.items()} | {"optim.warmup": 1}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        begun = [sys.executable, "-m", "tubelet", "pretrain", "videomae-small-cpu", "--data", args.videos, "--quiet"]
        process = subprocess.Popen([*begun, "--out", str(out), "--data.size", "64", "64", *flags])
        metrics, done = out / "metrics.jsonl", 0
        while process.poll() is None:
            time.sleep(0.2)
            steps = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
            if steps < done + EVERY or steps >= args.steps:
                continue
            done = steps - steps % EVERY
            try:
                own, ours = held(process.pid)
                others = [held(child) for child in children(process.pid)]
            except OSError:  # it is about to end
                continue
            rows.append({
                "steps": done, "MiB, trainer": round(own, 1), "MiB, workers": round(sum(size for size, _ in others), 1),
                "open files": ours + sum(count for _, count in others), "workers": len(others), "videos": videos,
            } | provenance())  # fmt: skip
            print({key: rows[-1][key] for key in list(rows[-1])[:6]}, flush=True)
        if process.returncode:
            sys.exit(process.returncode)
    save(__file__, rows)
    total = [row["MiB, trainer"] + row["MiB, workers"] for row in rows]
    print(f"MiB in all: {total[0]:.0f} at first, {total[len(total) // 2]:.0f} halfway, {total[-1]:.0f} at the end")


if __name__ == "__main__":
    main()
