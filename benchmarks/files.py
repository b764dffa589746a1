"""How long do 200,000 files keep a run from its first step, and how much memory do they take? Against 200 files.

    python benchmarks/files.py [--files 200 200000] [--repeats 3] [--side now] [--folder DIR]

The files are links to eight made videos in 400 class folders, with a file that is no video for each 1000; named by
their folder, or by a list of path and label. Of every number of files: seconds for `find`; for what a run records of
them, so as to know them again; for labels of them (fine-tuning); from the command `tubelet pretrain videomae-demo`,
without its cache, until its metrics.jsonl has the first step; and memory: of its first process at most until then, and
of that and its workers together then, what they share counted once. Each command is a process of its own, and is ended
there. Time is the first process's on the processor, and the clock's; the minimum counts. The system knows the folder's
entries already, as it does in all but the first run after a start: a slow network drive takes longer. Aim: 200,000
files in less than 20 s.

Linux only. Writes benchmarks/files.csv: the rows of --side anew, those of other sides stay.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from table import provenance, save

from tubelet.config import preset
from tubelet.data import synthetic
from tubelet.data.datasets import Dataset
from tubelet.data.labels import Labels
from tubelet.data.sources import find
from tubelet.train.folder import fingerprint

CLASSES = 400
RUN = ["videomae-demo", "--data.cache", "0", "--training.epochs", "1"]


def linked(folder: Path, count: int) -> dict[str, Path]:
    """A folder of `count` videos, and a list of them."""
    videos = sorted(synthetic.make(folder / "made", 8, workers=1).rglob("*.mp4"))
    made, table = folder / str(count), folder / f"{count}.csv"
    for number in range(CLASSES):
        (made / f"class_{number:03d}").mkdir(parents=True)
    lines = ["path,label"]
    for number in range(count):
        label = f"class_{number % CLASSES:03d}"
        path = made / label / f"clip_{number:06d}.mp4"
        video = videos[number % len(videos)]
        try:
            os.link(video, path)
        except OSError:  # file systems have no hard links, or few of one file
            path.symlink_to(video)
        if number % 1000 == 0:
            path.with_suffix(".txt").touch()
        lines.append(f"{path.relative_to(folder)},{label}")
    table.write_text("\n".join(lines))
    return {"folder": made, "list": table}


def timed(act: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What it gives, and seconds of the processor and of the clock."""
    begun = time.process_time(), time.perf_counter()
    made = act()
    return made, (time.process_time() - begun[0], time.perf_counter() - begun[1])


def here(source: Path) -> dict[str, tuple[float, float]]:
    """Seconds of the parts."""
    run, took = preset("videomae-demo"), {}
    items, took["find"] = timed(lambda: find(source))
    dataset, took["Dataset"] = timed(lambda: Dataset(items, run.data))
    _, took["record"] = timed(lambda: fingerprint(dataset))
    _, took["labels"] = timed(lambda: Labels.of(items).encode(items))
    return took


def first_step(source: Path, workers: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds from the command until a step is done, and memory until then, in MB: what its first process had at most,
    and what it and its workers hold."""
    with tempfile.TemporaryDirectory() as folder:
        out, said = Path(folder) / "run", Path(folder) / "said.txt"
        command = [sys.executable, "-m", "tubelet", "pretrain", *RUN, "--data", str(source), "--out", str(out)]
        command += ["--training.workers", str(workers)]
        begun, lines = time.perf_counter(), out / "metrics.jsonl"
        with said.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        while not lines.is_file() or not lines.stat().st_size:
            if process.poll() is not None:
                raise SystemExit(f"the command ended before its first step: {said.read_text()}")
            time.sleep(0.02)
        clock, memory = time.perf_counter() - begun, (most(process.pid), together(process.pid))
        os.killpg(process.pid, signal.SIGKILL)
        usage = os.wait4(process.pid, 0)[2]
        process.returncode = 0
    return (usage.ru_utime + usage.ru_stime, clock), memory


def most(pid: int) -> float:
    """MB that a process had at most."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def together(pid: int) -> float:
    """MB that a process and its children hold, pages that they share counted once."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in (pid, *children)]
    return sum(int(text.split("\nPss:")[1].split()[0]) for text in texts) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, nargs="+", default=[200, 200_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", default="now", help="the name of these rows: what of the code is measured")
    parser.add_argument("--folder", help="where the files are made for a while; default: the system's temporary one")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for count in args.files:
            for kind, source in linked(Path(folder), count).items():
                took: dict[str, list[tuple[float, float]]] = {}
                memory: dict[str, list[tuple[float, float]]] = {}
                for _ in range(args.repeats):
                    found = here(source)
                    for workers in (0, 2):
                        name = f"first step, {workers} workers"
                        found[name], megabytes = first_step(source, workers)
                        memory.setdefault(name, []).append(megabytes)
                    for name, seconds in found.items():
                        took.setdefault(name, []).append(seconds)
                for name, each in took.items():
                    processor, clock = map(min, zip(*each))
                    row = {"side": args.side, "files": count, "named by": kind, "what": name}
                    row |= {"s of the processor": round(processor, 3), "s of the clock": round(clock, 3)}
                    megabytes = [round(min(each)) for each in zip(*memory.get(name, []))] or ["", ""]
                    row |= {"MB, at most": megabytes[0], "MB, with workers": megabytes[1], "repeats": args.repeats}
                    print(*row.values(), sep=", ", flush=True)
                    rows.append(row | provenance())
    written = Path(__file__).with_suffix(".csv")
    others = [*csv.DictReader(written.open(newline=""))] if written.exists() else []
    save(__file__, [row for row in others if row["side"] != args.side] + rows)


if __name__ == "__main__":
    main()
