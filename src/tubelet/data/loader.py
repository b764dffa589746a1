"""Batches of a `Dataset`, in order, made in worker processes; what the reader had to do, counted."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate, get_worker_info

from tubelet.data.datasets import Dataset, Sample
from tubelet.data.items import Note
from tubelet.data.motion import STANDS_IN
from tubelet.data.video import VideoError
from tubelet.types import Batch, Motion, Yuv

T = TypeVar("T")
KEPT = 2**16  # files of a kind of trouble that are known by name; of more only the number is


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
    patience: float = 0,
    pinned: bool = False,
) -> Iterator[Batch]:
    """The batches of steps `start` to `steps`, in order; step s has positions s * batch to (s + 1) * batch.

    Where `data.images` has some steps show pictures, s counts the steps of its kind.

    `batch` counts videos over all of `world` processes, of which this one, `rank`, gets its share. Each worker process
    makes whole batches, at most `prefetch` ahead; 0 workers read in this process. Fill the cache before.

    A worker puts the clips of a batch together in shared memory, and this process maps it: nothing is copied between
    the two. With `pinned`, for steps on CUDA, a thread here copies them once more, to memory that the GPU reads itself.

    A video that a worker does not come to the end of in `patience` seconds (a network that is gone, a file that sends
    the decoder round in circles) is given up: the workers are ended, others take their place, and from then on another
    video is shown instead, with a note. With 0, or without workers, nothing is given up.

    Raises:
        ValueError: a batch that cannot be shared out.
        VideoError: too many videos cannot be read, or a worker died; names the files.
    """
    if batch < 1 or batch % world:
        raise ValueError(f"a batch of {batch} videos cannot be shared out evenly to {world} processes")
    source = Batches(dataset, batch, rank, world, workers)

    def loader(step: int) -> DataLoader[Batch]:
        return DataLoader(
            source,  # type: ignore[arg-type]  # anything with __getitem__ will do
            batch_size=None,
            sampler=range(step, steps),
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            collate_fn=unchanged,
            worker_init_fn=source.begin if workers else None,
            generator=torch.Generator(),  # or it would take from the global one, and change the run
            timeout=patience / 4 if workers else 0,  # how often is looked for what stands still
            pin_memory=pinned,
        )

    return read(source, loader, start, patience)


def read(source: "Batches", loader: Callable[[int], DataLoader[Batch]], step: int, patience: float) -> Iterator[Batch]:
    """What loaders give from a step on, with the errors of their workers as they were raised there; another loader goes
    on where one has met a video that stands still."""
    ended = False
    while not ended:
        with untouched_sigchld():
            results = iter(loader(step))
        try:
            while True:
                try:
                    result = next(results)
                except StopIteration:
                    ended = True
                    break
                except RuntimeError as error:
                    if "timed out" in str(error):
                        if source.stands_still(step, patience) or not pinning(results):
                            break
                        continue
                    if "exited unexpectedly" not in str(error):
                        raise
                    result = VideoError(source.obituary(str(error)))
                if isinstance(result, Exception):
                    raise result
                yield result
                step += 1
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


def pinning(results: object) -> bool:
    """Whether the thread that pins batches, if there is one, lives: torch looks only where it waits without a limit."""
    thread = getattr(results, "_pin_memory_thread", None)
    return thread is None or thread.is_alive()


def unchanged(result: T) -> T:
    """The same; torch would otherwise look for things to convert."""
    return result


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape, one after the other along their first axis; put straight into shared memory in a worker."""
    return default_collate(list(parts)).flatten(0, 1)


def undisturbed(worker: int) -> None:
    """A worker leaves signals to the process that it works for: schedulers send them to every process of a job."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class Batches:
    """Batches by step, made wherever they are asked for."""

    def __init__(self, dataset: Dataset, batch: int, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        self.dataset, self.batch, self.rank, self.world = dataset, batch, rank, world
        self.pictures = dataset.pictures  # found now, and not by each worker
        # process, step, position, and since when, of what each worker reads
        self.reading = torch.full((workers, 4), -1, dtype=torch.float64).share_memory_() if workers else None

    def shown(self, step: int) -> tuple[Dataset, int]:
        """What a step shows, videos or pictures, and how many steps before it show the same kind."""
        images = self.dataset.data.images
        if images is None or self.pictures is None:
            return self.dataset, step
        before = images.before(step)
        return (self.pictures, before) if images.shown(step) else (self.dataset, step - before)

    def positions(self, step: int) -> range:
        """The positions of a step in the stream of its kind, of this process's share."""
        share = self.batch // self.world
        first = self.shown(step)[1] * self.batch + self.rank * share
        return range(first, first + share)

    def __getitem__(self, step: int) -> Batch | Exception:
        """The batch of a step, or what is wrong with the data, as a value: torch would wrap it in a traceback."""
        try:
            samples = [self.sample(step, position) for position in self.positions(step)]
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            return error
        dataset, images = self.shown(step)[0], self.dataset.data.images
        crops = dataset.data.per_video
        items = [sample.item for sample in samples]
        ids = torch.tensor(items).repeat_interleave(crops)
        labels = dataset.labels
        motions = [sample.motion for sample in samples if sample.motion is not None]
        stored = [sample.yuv for sample in samples if sample.yuv is not None]
        yuv = Yuv.batch(stored, joined) if stored else None
        boxes = [sample.boxes for sample in samples if sample.boxes is not None]
        clips = [sample.video.permute(0, 2, 3, 4, 1) for sample in samples]  # channels stay last in memory
        if images is not None and dataset is self.pictures:
            clips = [clip.repeat_interleave(images.frames, 1) for clip in clips]
            yuv = yuv and yuv.each(lambda tensor: tensor.repeat_interleave(images.frames, 1))
        video = torch.cat(clips) if stored else joined(clips)
        return Batch(
            video.permute(0, 4, 1, 2, 3),
            ids,
            crops,
            tuple(str(dataset.items[item].path) for item in items),
            tuple(note for sample in samples for note in sample.notes),
            None if labels is None else labels[ids],
            Motion.batch(motions) if motions else None,
            yuv,
            tuple(chain.from_iterable(boxes)) if boxes else None,
        )

    def sample(self, step: int, position: int) -> Sample:
        """The clips of a position of a step, after writing down who reads it."""
        worker = get_worker_info()
        if worker is not None and self.reading is not None:
            now = time.monotonic()  # the same clock in all processes
            self.reading[worker.id] = torch.tensor([os.getpid(), step, position, now], dtype=torch.float64)
        return self.shown(step)[0][position]

    def begin(self, worker: int) -> None:
        """First act of a worker: it leaves signals to the process that trains, and has no threads of its own."""
        undisturbed(worker)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which ends it where it stands still
        torch.set_num_threads(1)

    def stands_still(self, step: int, patience: float) -> bool:
        """Whether the video that keeps a step waiting has been read for too long; if so, it is not asked for again, and
        the workers are told to end."""
        assert self.reading is not None
        now = time.monotonic()
        for _, reads, position, since in self.reading.tolist():
            if reads == step and now - since >= patience:
                dataset = self.shown(step)[0]
                why = f"was not read in {patience:g} seconds (--training.patience)"
                dataset.given_up[dataset.showing(int(position))] = why
                for process in self.reading[:, 0].tolist():
                    if process >= 0:  # or torch would wait for each that stands still
                        os.kill(int(process), signal.SIGTERM)
                self.reading.fill_(-1)
                return True
        return False

    def obituary(self, message: str) -> str:
        """Which file the worker was reading that torch says has died."""
        assert self.reading is not None
        named = {int(number) for number in re.findall(r"\d+", message)}
        rows = [map(int, row[:3]) for row in self.reading.tolist()]
        read = [(pid, self.shown(step)[0], at) for pid, step, at in rows if at >= 0 and pid in named]
        files = ", ".join(f"{dataset.items[dataset.item(at)].path} (process {pid})" for pid, dataset, at in read)
        if not read:
            return f"a process that reads videos died before it had begun to read; is memory short? ({message.strip()})"
        return (
            f"a process that reads videos died while at {files}. If memory ran out, use fewer --training.workers; "
            f"otherwise the file may crash the decoder: try `tubelet check FILE --level decode`. ({message.strip()})"
        )


# ---------------------------------------------------------------------------- what went wrong


class Marks:
    """How many different paths were added, in a byte for each file: by a bit that a path's digest chooses of eight
    times as many. Two paths in one bit are rare: of 1 % of all files, 1 in 1600 is not counted."""

    def __init__(self, files: int) -> None:
        self.bits, self.count = bytearray(files), 0

    def add(self, path: str) -> None:
        """One more, unless it was there."""
        digest = blake2b(os.fsencode(path), digest_size=8).digest()
        place, bit = divmod(int.from_bytes(digest, "big") % (8 * len(self.bits)), 8)
        self.count += not self.bits[place] >> bit & 1
        self.bits[place] |= 1 << bit


@dataclass
class Failures:
    """Counts what the reader had to do; unreadable videos are tolerated up to a limit."""

    files: int
    """Videos of the data set."""
    seen: dict[str, dict[str, str]] = field(default_factory=dict)
    """Kind of note, then path, then the note; of the first `KEPT` files of a kind."""
    others: dict[str, "Marks"] = field(default_factory=dict)
    """Kind of note, then how many files beyond those."""

    def count(self, notes: Sequence[str]) -> None:
        """Takes down the notes of a batch.

        Raises:
            VideoError: more than 3 videos, and more than 5 % of all, cannot be read.
        """
        for note in notes:
            if isinstance(note, Note):
                kept = self.seen.setdefault(note.kind, {})
                if note.path in kept or len(kept) < KEPT:
                    kept[note.path] = note
                else:
                    self.others.setdefault(note.kind, Marks(self.files)).add(note.path)
        bad, many = self.seen.get("unreadable", {}), self.number("unreadable")
        if many > 3 and many > 0.05 * self.files:
            raise VideoError(
                f"{many} of {self.files} videos cannot be read so far, more than 5 %; mend or remove them. "
                "`tubelet check` says what is wrong with all:\n  " + "\n  ".join(list(bad)[:20])
            )

    def number(self, kind: str) -> int:
        """How many files there are notes of a kind about."""
        return len(self.seen.get(kind, {})) + (self.others[kind].count if kind in self.others else 0)

    def summary(self) -> list[str]:
        """A line for each kind of trouble."""
        says = {
            "unreadable": "could not be read and were replaced",
            "damaged": "are damaged; what was left of them is used",
            "short": "are shorter than a clip; frames were repeated",
            "cut": "end before the part that is meant does; what is there of it is used",
            "inexact": "have motion vectors that may span more frames than one; `tubelet prepare` makes exact ones",
        }
        for fallback, text in STANDS_IN.items():
            says[f"vectors, {fallback}"] = (
                f"have few motion vectors for a clip, or none: {text}; `tubelet prepare` makes some"
            )
            says[f"far, {fallback}"] = f"have clips whose frames lie too far apart for motion vectors: {text}"

        def codecs(notes: Iterable[str]) -> str:
            named = sorted({note.codec for note in notes if isinstance(note, Note) and note.codec})
            return f" ({', '.join(named)})" if named else ""

        return [
            f"{self.number(kind)} of {self.files} videos{codecs(paths.values())} {says[kind]}: "
            + ", ".join([*list(paths)[:3], "..."][: len(paths)])
            for kind, paths in self.seen.items()
        ]
