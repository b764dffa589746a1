"""How fast one worker reads videos, by `Dataset.load`, and what preparing them would bring."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

from tubelet.data.datasets import Dataset
from tubelet.data.images import is_picture
from tubelet.data.items import PREPARED, Item
from tubelet.data.order import stream
from tubelet.data.prepare import prepare
from tubelet.data.sources import find
from tubelet.data.split import write_list
from tubelet.data.video import VideoError, probe
from tubelet.data.writing import Encoding

VIDEOS = 16  # of a source, that are read
TRIED, LONGEST = 3, 60.0  # videos that are prepared to see what it brings, and seconds that each may have
TURNS = 3  # clips of each of them


@dataclass(frozen=True)
class Reading:
    """One worker's way from files to clips, once it knows them."""

    videos: int
    clips: int  # of each video
    seconds: float  # for the clips of one video, on average
    first: float  # the same of a file that was never opened: its index is made then
    decoded: float  # frames decoded for a clip, on average; 0 from memory
    height: int
    width: int
    unreadable: tuple[str, ...]  # why

    @property
    def speed(self) -> float:
        """Clips a second."""
        return self.clips / self.seconds


def chosen(items: Sequence[Item], seed: int) -> list[Item]:
    """Some of the videos, at random."""
    order = stream(seed, "bench").permutation(len(items))[:VIDEOS]
    return [items[place] for place in order.tolist()]


def read(dataset: Dataset) -> tuple[Reading, list[int]]:
    """Clips of every video, twice each, and once more to count; and which of them can be read.

    Raises:
        VideoError: none.
    """
    first, again, decoded, sizes, bad, good = [], [], [], [], [], []
    for number in range(len(dataset.items)):
        try:
            new = seconds(partial(loaded, dataset, number, number, 0))
            known = quickest(partial(loaded, dataset, number, number, 1), 2)
            clip, _, _ = dataset.clip(number, stream(dataset.seed, "bench", number, 1))
        except (VideoError, OSError) as error:
            bad.append(str(error))
        else:
            good.append(number)
            first.append(new)
            again.append(known)
            decoded.append(clip.decoded)
            sizes.append(clip.frames.shape[1:3])
    if not good:
        raise VideoError(f"none of {len(bad)} videos can be read; the first: {bad[0]}")
    height, width = (int(median(size[axis] for size in sizes)) for axis in (0, 1))
    per = dataset.data.per_video
    return Reading(len(good), per, fmean(again), fmean(first), fmean(decoded), height, width, tuple(bad)), good


def dataset_of(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    """Some of the items, read from their files."""
    items = [dataset.items[number] for number in numbers]
    return Dataset(items, replace(dataset.data, cache=0), dataset.seed)


def loaded(dataset: Dataset, number: int, key: int, turn: int) -> None:
    """The clips of a video, as a worker makes them: the same for a key and turn."""
    dataset.load(number, stream(dataset.seed, "bench", key, turn))


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def quickest(act: Callable[[], object], times: int) -> float:
    """How long it takes when nothing else comes between."""
    return min(seconds(act) for _ in range(times))


def gained(dataset: Dataset, good: Sequence[int], progress: Callable[[str], object]) -> float | None:
    """How many times as fast some of the videos are read once they are prepared; None if they are, or all are long."""
    short = []
    for number in good:
        path = dataset.items[number].path
        if is_picture(path) or any((folder / PREPARED).exists() for folder in path.parents):
            return None
        if path.is_file() and probe(path).seconds[-1] <= LONGEST:
            short.append(number)
    short = short[:TRIED]
    if not short:
        progress(f"none is a file of at most {LONGEST:g} s, so none is prepared on trial")
        return None
    progress(f"preparing {len(short)} of them, to see what it brings")
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "some.csv", Path(folder) / "prepared"
        write_list(listed, [dataset.items[number] for number in short])
        if prepare(listed, out, Encoding(), workers=0).quarantined:
            return None
        other = Dataset(find(str(out)), dataset.data, dataset.seed)
        sides = [0.0, 0.0]
        for key, number in enumerate(short):  # the list keeps its order
            for turn in range(TURNS):
                for side, (one, place) in enumerate(((dataset, number), (other, key))):
                    loaded(one, place, key, turn)  # its index is made
                    sides[side] += quickest(partial(loaded, one, place, key, turn), 2)
    return sides[0] / sides[1]


def count(number: int, thing: str) -> str:
    """'1 worker', '2 workers'."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
