"""What looks on while a run trains: its page, written again now and then, and what it imagines by then.

Both are for `train` (`tell`, `show`), which knows nothing of pages. What goes wrong here is said, and the run goes on.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from tubelet.config import Run
from tubelet.data.items import Item
from tubelet.evaluate.features import middle_batch, readable
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.collective import from_first, whoami
from tubelet.pictures import reconstruct, shown_by
from tubelet.printable import printable
from tubelet.report import write_report
from tubelet.strips import PAPER, enlarge, rgb
from tubelet.train.checkpoint import atomically
from tubelet.train.log import say
from tubelet.train.loop import moments
from tubelet.types import Batch, Method

EVERY = 30.0  # seconds from one page to the next, at least
SHARE = 0.02  # of the time, at most, that goes into pages
CLIPS, FRAMES = 2, 4  # shown of a run, and of each of them
LARGE = 128  # pixels: frames higher than this are shown smaller
Rows = dict[str, Sequence[Tensor]]  # clips by name
STILL = ("seen", "given", "view")  # rows that say what the network got, and not what it made of that


class Page:
    """report.html of a run under way: call it after every step.

    It is written after the first step, when the run was saved, and every 30 seconds; but less often where that would
    take more than 2 % of the time. As a context it says in notes.txt why a run was stopped, and writes the page once
    more, which then says so too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.step, self.said = folder, 0, False
        self.took, self.begun, self.last = 0.0, time.monotonic(), time.monotonic()

    def __call__(self, step: int, saved: bool) -> None:
        """A step is done."""
        now = time.monotonic()
        pace, self.last = now - self.last, now
        first, self.step = not self.step, step
        rest = self.took / SHARE
        if first or now >= self.begun + (rest if saved else max(rest, EVERY)):
            self.write(max(rest, EVERY) + pace)
            self.begun = self.last = time.monotonic()
            self.took = self.begun - now

    def write(self, again: float | None) -> None:
        """The page; `again` as `write_report`."""
        try:
            write_report(self.folder, again)
        except Exception as error:
            if not self.said:
                say(f"note: the run goes on, but not its page: {printable(str(error), lines=False)}")
            self.said = True

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or not self.step:
            return
        why = f"step {self.step}: stopped: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        why = printable(why, lines=False)
        try:
            with open(self.folder / "notes.txt", "a", encoding="utf-8") as file:
                file.write(f"{why}\n")
        except OSError as refused:
            say(f"note: {self.folder / 'notes.txt'} does not say why the run stopped: {refused}")
        self.write(None)


class Imagined:
    """Pictures of what a run makes of the same two of its videos at some moments, in pictures/on_the_way.

    All processes look, as FSDP2 wants it (it remembers in which order it gathered what), and the first one writes. A
    file 000123.png for the moment after step 123, of `FRAMES` frames of each clip side by side; beside them what does
    not change, as 1 original.png.
    """

    def __init__(self, folder: Path, run: Run, items: Sequence[Item]) -> None:
        self.place, self.run, self.items = folder / "pictures" / "on_the_way", run, items
        self.videos: list[Path] | None = None
        self.batch: Batch | None = None
        self.begun = False

    def __call__(self, method: Method, step: int, steps: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """The picture of a moment, for those who keep it elsewhere too; none where nothing can be shown."""
        if self.videos == []:
            return None
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # or two clips would be compiled anew
                return self.taken(method, step, steps)
        except Exception as error:
            self.videos = []
            say(f"note: the run goes on without pictures of what it imagines: {printable(str(error), lines=False)}")
            return None

    def taken(self, method: Method, step: int, steps: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """Writes and returns it.

        Raises:
            VideoError, SaveError: a video cannot be read, the disk refuses.
        """
        if self.videos is None:
            self.videos = from_first(lambda: readable(self.items, self.run.data, CLIPS))
            for old in self.place.glob("*.png"):  # of an attempt that failed before it was saved
                if old.stem.isdigit() and int(old.stem) not in moments(steps):
                    old.unlink(missing_ok=True)
        if not self.videos:
            return None
        still, made, score = self.rows(method)
        if not made or whoami()[0] > 0:
            return None
        for number, (name, clips) in enumerate(still.items(), 1):
            if not self.begun:  # what lies there may be of an attempt with other videos
                saved(self.place / f"{number} {name}.png", beside(clips), name)
        self.begun = True
        picture = np.concatenate([beside(clips) for clips in made.values()])
        named = "" if len(made) == 1 else f" ({', '.join(made)})"
        done = f"after {step:,} step{'s' * (step > 1)}".replace(",", "\u202f")
        saved(self.place / f"{step:06d}.png", picture, f"{done}{named}{score}")
        return picture

    def rows(self, method: Method) -> tuple[Rows, Rows, str]:
        """Clips by name: those that stay as they are, those that the method made; and how good these are."""
        assert self.videos is not None
        if isinstance(method, MaskedAutoencoder):
            if self.batch is None:
                self.batch = middle_batch(self.videos, self.run.data)
            found = reconstruct(method, self.batch.video, None, self.run.training.seed, self.batch.motion)
            still: Rows = {"original": [*found.original]}
            still |= {} if found.sought is None else {"target": [*found.sought]}
            score = ": " + " and ".join(f"{value:.1f}" for value in found.psnr.tolist()) + " dB"
            return {**still, "hidden": [*found.hidden]}, {"imagined": [*found.imagined]}, score
        strips, _ = shown_by(method, self.run, self.videos, self.run.training.seed)
        names = [*strips[0].rows] if strips else []
        rows: Rows = {name: [strip.rows[name] for strip in strips] for name in names}
        made = {name: clips for name, clips in rows.items() if name != "original" and not name.startswith(STILL)}
        return {name: clips for name, clips in rows.items() if name not in made}, made, ""


def beside(clips: Sequence[UInt8[Tensor, "c t h w"]]) -> UInt8[np.ndarray, "H W 3"]:
    """A few frames of each clip, side by side, on dark paper."""
    films = [rgb(clip) for clip in clips]
    times = -(-films[0].shape[1] // LARGE)
    shown = [
        np.stack([np.asarray(Image.fromarray(frame).reduce(times)) for frame in film[few(len(film))]]) for film in films
    ]
    enlarged = [enlarge(film, LARGE // 2) for film in shown]
    gap = np.full((enlarged[0].shape[1], 4, 3), PAPER, np.uint8)
    parts = [[part for frame in film for part in (frame, gap)] + [gap] for film in enlarged]
    return np.concatenate([part for film in parts for part in film][:-2], 1)


def few(frames: int) -> list[int]:
    """Which frames of so many are shown."""
    places: list[int] = np.linspace(0, frames - 1, FRAMES).round().astype(int).tolist()
    return places


def saved(path: Path, picture: UInt8[np.ndarray, "h w 3"], about: str) -> None:
    """Writes a PNG with its caption in it.

    Raises:
        SaveError: the disk refuses.
    """
    info = PngInfo()
    info.add_itxt("Description", about)
    atomically(path, lambda file: Image.fromarray(picture).save(file, format="PNG", pnginfo=info))
