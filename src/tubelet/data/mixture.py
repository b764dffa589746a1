"""Several data sets as one, each with its weight: of every epoch a source gets its share, however large it is.

A source has an endless stream of its own videos, in random orders one after the other, and every epoch takes the next
piece of it. So within a source no video is ever ahead of another by more than one, and what a place shows follows from
the seed, the epoch and the place.
"""

import csv
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import overload

from tubelet.data.items import Item
from tubelet.data.order import Shuffle, stream
from tubelet.data.table import Table

HEADER = ("source", "weight")


@dataclass(frozen=True)
class Source:
    """One of the data sets that are mixed."""

    name: str
    weight: Fraction
    items: Sequence[Item]


class Mixture(Sequence[Item]):
    """All videos of several data sets, one source after the other, and how often an epoch shows those of each."""

    def __init__(self, sources: Sequence[Source], places: int | None = None) -> None:
        """A mixture whose epoch has as many places as there are videos, unless told.

        Raises:
            ValueError: a source that would never be shown, or that is a mixture.
        """
        self.sources = list(sources)
        self.starts = [0, *accumulate(len(source.items) for source in sources)]
        self.counts = shared(self.starts[-1] if places is None else places, [source.weight for source in sources])
        self.turns = [0, *accumulate(self.counts)]
        for source, count in zip(sources, self.counts):
            if isinstance(source.items, Mixture):
                raise ValueError(f"{source.name} is a mixture; name its sources here, with their weights")
            if not count:
                raise ValueError(
                    f"an epoch of {self.turns[-1]} places has none for {source.name}, whose weight is "
                    f"{float(source.weight):g} of {float(sum(each.weight for each in sources)):g}; make epochs longer "
                    "(?places=N behind the mixture), or leave it out"
                )

    def __len__(self) -> int:
        """Videos in all."""
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        number = bisect_right(self.starts, row) - 1
        return self.sources[number].items[row - self.starts[number]]

    @property
    def places(self) -> int:
        """Places of an epoch."""
        return self.turns[-1]

    @property
    def kinds(self) -> list[Item]:
        """Videos with every label that there is."""
        return [item for source in self.sources for item in kinds(source.items)]

    def shown(self, seed: int, epoch: int, place: int) -> int:
        """The video at a place of an epoch, before the places are brought into an order."""
        number = bisect_right(self.turns, place) - 1
        start, size = self.starts[number], self.starts[number + 1] - self.starts[number]
        again, turn = divmod(epoch * self.counts[number] + place - self.turns[number], size)
        return start + order(seed, number, again, size)[turn]

    def beside(self, index: int) -> range:
        """The videos of the same source, or all if it has no other: what is shown where one cannot be read."""
        number = bisect_right(self.starts, index) - 1
        start, stop = self.starts[number : number + 2]
        return range(start, stop) if stop - start > 1 else range(len(self))

    def summary(self) -> str:
        """What an epoch shows, for people."""
        each = [
            f"{count:,} of {source.name} ({len(source.items):,} videos, each {count / len(source.items):.3g} times)"
            for source, count in zip(self.sources, self.counts)
        ]
        return f"an epoch of {self.places:,} places shows " + "; ".join(each)


@lru_cache(maxsize=256)
def order(seed: int, number: int, again: int, size: int) -> Shuffle:
    """The order in which a source shows its videos when it goes through them once more."""
    return Shuffle.drawn(stream(seed, "mixture", number, again), size)


def kinds(items: Sequence[Item]) -> Iterable[Item]:
    """Videos with every label that there is: few where that is known, or all."""
    return items.kinds if isinstance(items, Table | Mixture) else items


def shared(places: int, weights: Sequence[Fraction]) -> list[int]:
    """Places shared out by weight: each gets the whole part of its share, and the largest remainders one more.

    >>> shared(10, [Fraction(1), Fraction(1), Fraction(1)])
    [4, 3, 3]
    """
    parts = [places * weight / sum(weights) for weight in weights]
    counts = [math.floor(part) for part in parts]
    left = sorted(range(len(parts)), key=lambda number: counts[number] - parts[number])  # of equal ones the first
    for number in left[: places - sum(counts)]:
        counts[number] += 1
    return counts


def listed(path: Path) -> list[tuple[str, Fraction]]:
    """(source, weight) of every row of a csv file with these two columns; folders are relative to that of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, names nothing, or a weight that is no number above 0.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no such file: {path} (looked in {Path.cwd()}); expected a csv file: {','.join(HEADER)}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(rows.line_num, row) for rows in [csv.reader(file)] for row in rows if row and row[0][:1] != "#"]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a csv file in UTF-8 ({error})") from error
    names = [name.strip().lower() for name in rows[0][1]] if rows else []
    if sorted(names) != sorted(HEADER):
        raise ValueError(f"{path} begins with {','.join(names) or 'nothing'}; expected a header: {','.join(HEADER)}")
    found = []
    for number, row in rows[1:]:
        where = f"{path}, line {number}"
        if len(row) != len(names):
            raise ValueError(f"{where}: {len(row)} columns; expected source and weight; quote a source that has commas")
        source, weight = (row[names.index(name)].strip() for name in HEADER)
        if not source or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", weight) or not Fraction(weight):
            raise ValueError(f"{where}: {source or 'no source'} has the weight {weight!r}; expected a number above 0")
        found.append((beside(source, path.parent), Fraction(weight)))
    if not found:
        raise ValueError(f"{path} has a header and no sources under it")
    return found


def beside(source: str, folder: Path) -> str:
    """A source as `find` takes it, whose folder is meant from another folder on.

    >>> beside("ucf101:UCF101:train", Path("/data"))
    'ucf101:/data/UCF101:train'
    """
    layout, mark, rest = source.partition(":")
    if (folder / source).exists() or not mark or not re.fullmatch(r"[A-Za-z][\w-]+", layout):
        return str(folder / Path(source).expanduser())
    return source if rest.startswith("//") else f"{layout}:{folder / Path(rest).expanduser()}"
