"""From files to batches: which clips a run sees (`Data`), where they come from (`Dataset`), and their order.

A stream without end and without state: its place is one number, the position. Position p is place p % len of a
permutation of epoch p // len, and everything random about its clips comes from (seed, epoch, place). So the clips are
the same on any number of workers, after a resume, and when asked for alone.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from tubelet.data.cache import Frames
from tubelet.data.sampling import Dense, Segments, clips_of
from tubelet.data.sources import Item, find
from tubelet.data.transforms import Crop, MultiScaleCrop, flipped
from tubelet.data.video import VideoError, frames_at, probe
from tubelet.types import Batch

__all__ = ["Data", "Dataset", "Failures", "Item", "Note", "batches", "find"]

ATTEMPTS = 5  # replacements for one unreadable video before giving up; with 5 % unreadable, all fail once in 3 million


@dataclass(frozen=True)
class Data:
    """Which clips a run sees."""

    clip: Dense | Segments
    """Which frames of a video make a clip, and what happens to videos that are too short."""
    size: tuple[int, int] = (224, 224)
    """Height and width of the clips, in pixels."""
    crop: Crop = MultiScaleCrop()  # noqa: RUF009 (frozen: safe to share)
    """Which part of the frames is shown."""
    flip: float = 0.0
    """Probability of a mirrored clip. Not where left and right mean something (Something-Something, gestures)."""
    repeats: int = 1
    """Differently cropped clips of each decoded one; a step then has this many times its batch of videos."""
    per: Literal["video", "duration"] = "video"
    """What an epoch is: one clip of each video, or clips in proportion to how long the videos are."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    cache: int = 0
    """Keep all frames in memory with this short side, in pixels; 0 decodes every clip from its file."""


class Note(str):
    """What the reader had to do about one file: a line to log, with its kind and path to count by."""

    kind: str
    path: str

    def __new__(cls, text: str, kind: str = "", path: str = "") -> "Note":
        note = super().__new__(cls, text)
        note.kind, note.path = kind, path
        return note


class Sample(NamedTuple):
    """The clips of one position."""

    video: UInt8[Tensor, "k c t h w"]
    item: int
    notes: list[Note]


# ---------------------------------------------------------------------------- one video


class Dataset:
    """Clips of videos, by position in an endless stream."""

    def __init__(self, items: Sequence[Item], data: Data, seed: int = 0) -> None:
        """The stream of `items` under `data`; reads all durations if an epoch goes by duration.

        Raises:
            ValueError: no items, or settings that cannot be used.
        """
        checked(data)
        if not items:
            raise ValueError("a data set needs at least one video, got none")
        self.items, self.data, self.seed = list(items), data, seed
        self.places = places(self.items, data)
        self.frames: Frames | None = None
        self.order: tuple[int, Int[np.ndarray, " n"]] = (-1, np.zeros(0, int))  # the epoch asked for last

    def __len__(self) -> int:
        """Positions in an epoch."""
        return len(self.places)

    def fill_cache(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Decodes all videos into memory, if `data.cache` says so; `progress` gets (done, total).

        Raises:
            ValueError: not enough memory.
        """
        if self.data.cache and self.frames is None:
            paths = [item.path for item in self.items]
            self.frames = Frames(paths, self.data.cache, self.data.channels, progress)

    def where(self, position: int) -> tuple[int, int]:
        """Epoch and place of a position."""
        epoch, turn = divmod(position, len(self))
        if self.order[0] != epoch:
            self.order = (epoch, stream(self.seed, "perm", epoch).permutation(len(self)))
        return epoch, int(self.order[1][turn])

    def item(self, position: int) -> int:
        """Which item a position shows, unless it cannot be read."""
        return int(self.places[self.where(position)[1]])

    def __getitem__(self, position: int) -> Sample:
        """The clips of a position; a video that cannot be read is replaced by another, and a note says so.

        Raises:
            VideoError: the replacements could not be read either; names them.
        """
        epoch, place = self.where(position)
        notes: list[Note] = []
        for item in self.candidates(epoch, place):
            path = str(self.items[item].path)
            try:
                video, more = self.load(item, stream(self.seed, "clip", epoch, place))
                return Sample(video, item, notes + more)
            except (VideoError, OSError) as error:
                notes.append(Note(f"{error} (another video is shown instead of {path})", "unreadable", path))
            except Exception as error:
                error.add_note(f"while reading {path} (position {position})")
                raise
        raise VideoError(
            f"{len(notes)} video{'s' * (len(notes) > 1)} in a row cannot be read; "
            "`tubelet check` says what is wrong with all:\n  "
            + "\n  ".join(note.split(" (another video")[0] for note in notes)
        )

    def candidates(self, epoch: int, place: int) -> Iterator[int]:
        """The item of a place, then others to show instead, no item twice."""
        item = int(self.places[place])
        yield item
        others = stream(self.seed, "swap", epoch, place).permutation(len(self.items))
        yield from others[others != item][:ATTEMPTS].tolist()

    def load(self, item: int, rng: np.random.Generator) -> tuple[UInt8[Tensor, "k c t h w"], list[Note]]:
        """`repeats` crops of one clip of an item, and what there is to say about the file.

        Raises:
            VideoError: it cannot be read.
            ValueError: it is too short, and `data.clip` says that this is an error.
        """
        path, data = self.items[item].path, self.data
        notes = []

        def choose(seconds: Float[np.ndarray, " total"]) -> Int[np.ndarray, " t"]:
            if data.clip.is_short(seconds):
                text = f"{path} is too short for {data.clip}: it has {len(seconds)}; some are repeated"
                notes.append(Note(text, "short", str(path)))
            try:
                return data.clip(seconds, rng)
            except ValueError as error:  # short="error"
                raise ValueError(f"{path}: {error}") from error

        if self.frames is None:
            clip = frames_at(path, lambda video: choose(video.seconds), gray=data.channels == 1)
        else:
            clip = self.frames.at(item, choose(self.frames.times(item)))
        crops = torch.empty(data.repeats, len(clip.frames), *data.size, data.channels, dtype=torch.uint8)
        for crop in crops:
            view = data.crop(clip.frames, data.size, rng)
            crop.copy_(flipped(view) if rng.random() < data.flip else view)
        if clip.damaged:
            notes.append(Note(f"{path} is damaged: {clip.damaged} packets or frames of the clip", "damaged", str(path)))
        # Channels stay last in memory: clips are then cut into cubes in a fifth of the time.
        return crops.permute(0, 4, 1, 2, 3), notes


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers for one purpose, independent of those for others and of the masks'."""
    return np.random.default_rng((seed, int.from_bytes(purpose.encode(), "big"), *numbers))


def places(items: Sequence[Item], data: Data) -> Int[np.ndarray, " places"]:
    """The item of every place of an epoch."""
    if data.per == "video":
        return np.arange(len(items))
    return np.repeat(np.arange(len(items)), clips_of([duration(item) for item in items]))


def duration(item: Item) -> float:
    """Seconds of a video; none where it cannot be read, which the run will note when it comes to it."""
    try:
        return probe(item.path).duration
    except (VideoError, OSError):
        return 0.0


def checked(data: Data) -> None:
    """Looks for settings that cannot be used.

    Raises:
        ValueError: names the setting, what it is, and what it may be.
    """
    for name, value, fits, expected in (
        ("size", data.size, min(data.size) > 0, "at least 1x1 pixels"),
        ("flip", data.flip, 0 <= data.flip <= 1, "a probability, 0 to 1"),
        ("repeats", data.repeats, data.repeats > 0, "1 or more"),
        ("per", data.per, data.per in ("video", "duration"), "video or duration"),
        ("channels", data.channels, data.channels in (1, 3), "3 (colour) or 1 (grey)"),
        ("cache", data.cache, data.cache >= 0, "a short side in pixels, or 0 for none"),
    ):
        if not fits:
            raise ValueError(f"--data.{name} {value} cannot be used; expected {expected}")


# ---------------------------------------------------------------------------- batches


def batches(
    dataset: Dataset,
    batch: int,
    start: int,
    steps: int,
    workers: int = 0,
    *,
    rank: int = 0,
    world: int = 1,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """The batches of steps `start` to `steps`, in order; step s has positions s * batch to (s + 1) * batch.

    `batch` counts videos over all of `world` processes, of which this one, `rank`, gets its share. Each worker process
    makes whole batches, at most `prefetch` ahead; 0 workers read in this process. Fill the cache before.

    Raises:
        ValueError: a batch that cannot be shared out.
        VideoError: too many videos cannot be read, or a worker died; names the files.
    """
    if batch < 1 or batch % world:
        raise ValueError(f"a batch of {batch} videos cannot be shared out evenly to {world} processes")
    source = Batches(dataset, batch, rank, world, workers)
    loader: DataLoader[Batch] = DataLoader(
        source,  # type: ignore[arg-type]  # anything with __getitem__ will do
        batch_size=None,
        sampler=range(start, steps),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=unchanged,  # type: ignore[arg-type]  # torch thinks of lists of samples
        worker_init_fn=source.begin if workers else None,
        generator=torch.Generator(),  # or it would take from the global one, and change the run
    )
    return read(source, loader)


def read(source: "Batches", loader: DataLoader) -> Iterator[Batch]:
    """What the loader gives, with the errors of its workers as they were raised there."""
    with untouched_sigchld():
        results = iter(loader)
    try:
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                if "exited unexpectedly" not in str(error):
                    raise
                result = VideoError(source.obituary(str(error)))
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        del results  # ends the workers now, not when the last traceback that knows them is forgotten


@contextmanager
def untouched_sigchld() -> Iterator[None]:
    """Takes back torch's handler for dead workers: it raises wherever the program happens to be. `next` notices too."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def unchanged(result: Batch | Exception) -> Batch | Exception:
    """The same; torch would otherwise look for things to convert."""
    return result


class Batches:
    """Batches by step, made wherever they are asked for."""

    def __init__(self, dataset: Dataset, batch: int, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        self.dataset, self.batch, self.rank, self.world = dataset, batch, rank, world
        self.reading = torch.full((workers, 2), -1).share_memory_() if workers else None  # process, position

    def positions(self, step: int) -> range:
        """The positions of a step, of this process's share."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        return range(first, first + share)

    def __getitem__(self, step: int) -> Batch | Exception:
        """The batch of a step, or what is wrong with the data, as a value: torch would wrap it in a traceback."""
        try:
            samples = [self.sample(position) for position in self.positions(step)]
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            return error
        repeats = self.dataset.data.repeats
        items = [sample.item for sample in samples]
        return Batch(
            torch.cat([sample.video for sample in samples]),
            torch.tensor(items).repeat_interleave(repeats),
            repeats,
            tuple(str(self.dataset.items[item].path) for item in items),
            tuple(note for sample in samples for note in sample.notes),
        )

    def sample(self, position: int) -> Sample:
        """The clips of a position, after writing down who reads it."""
        worker = get_worker_info()
        if worker is not None and self.reading is not None:
            self.reading[worker.id] = torch.tensor([os.getpid(), position])
        return self.dataset[position]

    def begin(self, worker: int) -> None:
        """First act of a worker: it leaves signals to the process that trains, and has no threads of its own."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)

    def obituary(self, message: str) -> str:
        """Which file the worker was reading that torch says has died."""
        assert self.reading is not None
        rows = [(pid, self.dataset.item(at)) for pid, at in self.reading.tolist() if at >= 0]
        died = [(pid, item) for pid, item in rows if str(pid) in message] or rows
        files = ", ".join(f"{self.dataset.items[item].path} (process {pid})" for pid, item in died)
        return (
            f"a process that reads videos died while at {files}. If memory ran out, use fewer --training.workers; "
            f"otherwise the file may crash the decoder: try `tubelet check FILE --level decode`. ({message.strip()})"
        )


# ---------------------------------------------------------------------------- what went wrong


@dataclass
class Failures:
    """Counts what the reader had to do; unreadable videos are tolerated up to a limit."""

    files: int
    """Videos of the data set."""
    seen: dict[str, dict[str, str]] = field(default_factory=dict)
    """Kind of note, then path, then the note."""

    def count(self, notes: Sequence[str]) -> None:
        """Takes down the notes of a batch.

        Raises:
            VideoError: more than 3 videos, and more than 5 % of all, cannot be read.
        """
        for note in notes:
            if isinstance(note, Note):
                self.seen.setdefault(note.kind, {})[note.path] = note
        bad = self.seen.get("unreadable", {})
        if len(bad) > 3 and len(bad) > 0.05 * self.files:
            raise VideoError(
                f"{len(bad)} of {self.files} videos cannot be read so far, more than 5 %; mend or remove them. "
                "`tubelet check` says what is wrong with all:\n  " + "\n  ".join(list(bad)[:20])
            )

    def summary(self) -> list[str]:
        """A line for each kind of trouble."""
        says = {
            "unreadable": "could not be read and were replaced",
            "damaged": "are damaged; what was left of them is used",
            "short": "are shorter than a clip; frames were repeated",
        }
        return [
            f"{len(paths)} of {self.files} videos {says[kind]}: {', '.join([*list(paths)[:3], '...'][: len(paths)])}"
            for kind, paths in self.seen.items()
        ]
