"""The whole of tubelet in a few minutes: videos, check, pre-training, pictures, read-out, report.

Made videos have known motions as labels, so that what the encoder learnt can be read out; with videos of your own it is
read out only if they lie in class folders.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from tubelet.config import Run, preset
from tubelet.data import synthetic
from tubelet.data.check import check
from tubelet.data.sources import Item, find
from tubelet.evaluate.read_out import read_out
from tubelet.pictures import reconstruct_run
from tubelet.report import write_report
from tubelet.train.checkpoint import atomically, void
from tubelet.train.log import duration, metrics
from tubelet.train.loop import train

VIDEOS, LABELLED, HELD_OUT = 640, 320, 320  # made videos: to pre-train on, to fit the read-out on, to measure with


def demo(out: Path, videos: str | None = None, *, resume: bool = False, short: bool = False, seed: int = 0) -> Path:
    """Everything from videos to report.html, in the run folder `out`.

    Raises:
        ValueError, FileNotFoundError: videos that cannot be used, or a folder that is in use.
    """
    begun = time.monotonic()
    run = preset("videomae-demo")
    run = replace(run, training=replace(run.training, seed=seed))
    if short:
        run = replace(run, training=replace(run.training, epochs=4))
    source, labelled, held_out = (Path(videos), [], []) if videos else made(out.with_name(f"{out.name}-videos"), short)
    items = find(source)

    say("1. check", f"{source}")
    report = check(items, sampler=run.data.clip)
    print("\n".join(f"   {line}" for line in report.lines()), file=sys.stderr)

    say("2. pre-train", f"a small VideoMAE on {len(items)} videos, 90 % hidden")
    train(run, source, out, resume=resume)

    say("3. imagine", "with 75, 90 and 95 % hidden")
    shown = [item.path for item in (held_out or items)]
    reconstruct_run(out, shown[:: max(len(shown) // 3, 1)][:3])
