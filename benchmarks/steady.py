"""Does reading stay as it is? Memory and open files of the loader and its workers over 20,000 clips.

    python benchmarks/steady.py --videos FOLDER [--clips 20000] [--workers 2]

The loader of a training run (16 frames at stride 4, multi-scale crops at 224 pixels), its batches thrown away. Every
1000 clips: proportional memory (PSS: what is shared counts once) and open files of this process and its workers, and
clips/s. Linux. Writes benchmarks/steady.csv.
"""

import argparse
import time
from multiprocessing import active_children
from pathlib import Path

import torch
from table import provenance, save

from tubelet.data.datasets import Data, Dataset
from tubelet.data.loader import batches
from tubelet.data.sampling import Dense
from tubelet.data.sources import find

BATCH, EVERY = 8, 1000


def held(process: int) -> tuple[float, int]:
    """MiB that are its own, with its share of what others have too; and open files."""
    folder = Path(f"/proc/{process}")
    lines = (folder / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, len([*folder.glob("fd/*")])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset(find(args.videos), Data(Dense(16, stride=4)))
    rows, begin = [], time.monotonic()
    for number, _ in enumerate(batches(dataset, BATCH, 0, args.clips // BATCH, args.workers), 1):
        if number * BATCH % EVERY == 0:
            own, ours = held(int(Path("/proc/self").resolve().name))
            others = [held(child.pid) for child in active_children() if child.pid]
            rows.append({
                "clips": number * BATCH, "MiB, trainer": round(own, 1),
                "MiB, workers": round(sum(size for size, _ in others), 1),
                "open files": ours + sum(count for _, count in others), "workers": len(others),
                "videos": len(dataset.items), "clips/s": round(EVERY / (time.monotonic() - begin), 1),
            } | provenance())  # fmt: skip
            print({key: rows[-1][key] for key in list(rows[-1])[:7]}, flush=True)
            begin = time.monotonic()
    save(__file__, rows)
    total = [row["MiB, trainer"] + row["MiB, workers"] for row in rows]
    first, middle, last = total[0], total[len(total) // 2], total[-1]
    print(f"MiB in all: {first:.0f} after the first 1000 clips, {middle:.0f} halfway, {last:.0f} at the end")


if __name__ == "__main__":
    main()
