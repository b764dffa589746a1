"""What a run says while it goes: a progress bar for people, metrics.jsonl for programs, TensorBoard if asked."""

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import UInt8
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tubelet.data.joint import LOSSES
from tubelet.nn.collective import whoami
from tubelet.printable import printable
from tubelet.train.checkpoint import SaveError, atomically, void
from tubelet.weights.report import Report

SHOWN = 5  # notes; a large data set has hundreds
PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal to draw a bar on


class Log:
    """Writes one line a step to metrics.jsonl, and shows where the run is.

    Lines hold step, epoch, loss (where some steps show pictures, also by the name of its kind), lr, gradient norm and
    what else the method tells, which a resumed run repeats bit for bit, and the timings seconds, clips_per_second and
    data_wait (share of the time spent waiting for videos), which it cannot.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        steps: int,
        quiet: bool = False,
        tensorboard: bool = False,
        writes: bool = True,
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.writes = writes  # only the first of several processes does
        if writes:
            rewind(self.path, start)
        self.files: dict[Path, TextIO] = {}
        self.notes: dict[str, int] = {}
        self.notes_path = folder / "notes.txt"
        if not start and writes:
            self.notes_path.unlink(missing_ok=True)  # of an attempt that failed before it saved
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.steps = steps
        self.last_plain = time.monotonic()
        self.smooth: dict[str, float] = {}
        again = {"purge_step": start + 1} if start else {}  # what a killed run wrote after it had saved is not shown
        self.board = board_writer()(str(folder / "tensorboard"), **again) if tensorboard and writes else None
        self.progress = Progress(
            TextColumn("pre-training"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("loss [bold]{task.fields[loss]}[/]  {task.fields[speed]} clips/s  data {task.fields[wait]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=steps, completed=start, loss="-", speed="-", wait="-")

    def __enter__(self) -> "Log":
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()
        for file in self.files.values():
            with suppress(OSError):  # a full disk has been reported, and what is left in the buffer is lost anyway
                file.close()
        if self.board is not None:
            self.board.close()

    def line(self, step: int, values: dict[str, float]) -> None:
        """One optimiser step; `step` counts those done."""
        self.append(self.path, json.dumps({"step": step} | values))
        for name in {"loss", *LOSSES, "clips_per_second", "data_wait"} & values.keys():
            before = self.smooth.get(name, values[name])
            if math.isfinite(values[name]):
                self.smooth[name] = before + 0.05 * (values[name] - before) if math.isfinite(before) else values[name]
            else:
                self.smooth.setdefault(name, math.nan)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        kinds = [f"{self.smooth[name]:.4f} {name.removeprefix('loss_')}" for name in LOSSES if name in self.smooth]
        shown: dict[str, Any] = {
            "loss": ", ".join(kinds) or f"{self.smooth['loss']:.4f}",
            "speed": f"{self.smooth['clips_per_second']:.0f}",
            "wait": f"{self.smooth['data_wait']:.0%}",
        }
        self.progress.update(self.task, completed=step, **shown)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.last_plain > PLAIN_EVERY or step == self.steps):
            self.last_plain = now
            left = self.progress.tasks[0].time_remaining
            self.say(
                f"step {step}/{self.steps}  loss {shown['loss']}  {shown['speed']} clips/s  waiting for data "
                f"{shown['wait']}  {duration(left) + ' left' if left else ''}".rstrip()
            )

    def picture(self, step: int, image: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """What the network makes of clips after a step, for TensorBoard."""
        if self.board is not None and image is not None:
            self.board.add_image("imagined", image, step, dataformats="HWC")

    def begun(self, report: Report) -> None:
        """What was done with the weights that the run starts from: shown, and written down."""
        for line in report.lines():
            self.append(self.notes_path, f"step 0: {line.strip()}")
        self.say(str(report))
        if self.console.quiet and self.writes:
            report.warn()

    def append(self, path: Path, line: str) -> None:
        """Adds a line to a file.

        Raises:
            SaveError: the disk is full or refuses.
        """
        if not self.writes:
            return
        try:
            if path not in self.files:  # opened once: a step of milliseconds cannot wait for a slow file system
                self.files[path] = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            self.files[path].write(line + "\n")
            self.files[path].flush()
        except OSError as error:
            raise SaveError(
                f"cannot write {path} ({error.strerror}); what was saved before is intact. Free some space and "
                "repeat the same command with --resume"
            ) from error

    def note(self, step: int, messages: Iterable[str]) -> None:
        """What the reader had to do; each message is written once and counted, the first few are also shown."""
        for message in messages:
            self.notes[message] = self.notes.get(message, 0) + 1
            if self.notes[message] == 1:
                if len(self.notes) <= SHOWN:
                    self.say(f"note: {message}")
                elif len(self.notes) == SHOWN + 1:
                    self.say(f"further notes are in {self.notes_path}")
                self.append(self.notes_path, printable(f"step {step}: {message}", lines=False))

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(printable(text), markup=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for people, on stderr; of several processes the first alone speaks."""
    if whoami()[0] == 0:
        print(printable(text), file=sys.stderr, flush=True)


def noted(notes: Sequence[str]) -> None:
    """Says what the reader had to do, the first few in full."""
    for note in notes[:SHOWN]:
        say(f"note: {note}")
    if len(notes) > SHOWN:
        say(f"note: and {len(notes) - SHOWN} more like these")


def show(renderable: RenderableType) -> None:
    """A table for people, on stderr."""
    Console(stderr=True, highlight=False).print(renderable)


class Counter:
    """Says how far a long piece of work is: call it with (done, total). Without a terminal only now and then."""

    def __init__(self, what: str, quiet: bool = False) -> None:
        self.what, self.quiet, self.last = what, quiet or whoami()[0] > 0, time.monotonic()
        self.console = Console(stderr=True, quiet=self.quiet, highlight=False)

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total`."""
        if self.quiet:
            return
        if self.console.is_terminal:
            self.console.print(f"{self.what} {done}/{total}", end="\r" if done < total else "\n")
        elif time.monotonic() - self.last > PLAIN_EVERY:
            self.last = time.monotonic()
            self.console.print(f"{self.what} {done}/{total}")


def board_writer() -> Any:
    """TensorBoard's class that writes events.

    Raises:
        ValueError: the extra is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs the extra: pip install 'tubelet[tensorboard]'") from error
    return SummaryWriter


def rewind(path: Path, step: int) -> None:
    """Drops lines after `step`, and a last line that a kill cut short: the resumed run writes them anew."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and (said := parsed(line)) and said["step"] <= step]
    if len(kept) < len(lines):
        atomically(path, lambda file: void(file.write("".join(kept).encode())))


def parsed(line: str) -> dict[str, float] | None:
    """What a line of metrics.jsonl says; None where it is not whole."""
    try:
        found = json.loads(line)
        return found if type(found["step"]) in (int, float) else None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def metrics(folder: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics.jsonl.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no metrics.jsonl: is it the folder of a run?")
    return [found for line in path.read_text().splitlines() if (found := parsed(line))]


def duration(seconds: float) -> str:
    """A time span as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
