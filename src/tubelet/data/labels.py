"""Labels as people write them, as the numbers that a network learns: a row per video, a column per output."""

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tubelet.data.items import Item
from tubelet.data.mixture import kinds
from tubelet.data.order import LARGE

PIECE = 2**16  # videos whose rows are in memory at once, where there are very many


@dataclass(frozen=True)
class Labels:
    """How the text of a label becomes numbers.

    >>> from pathlib import Path
    >>> clips = [Item(Path("a.mp4"), "run"), Item(Path("b.mp4"), "fall")]
    >>> Labels.of(clips).encode(clips).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    >>> Labels("classes", ("fall", "run")).encode([Item(Path("c.mp4"), "run|fall")]).tolist()
    [[1.0, 1.0]]
    >>> Labels("shares", ("fall", "run")).encode([Item(Path("c.mp4"), "run:3|fall:1")]).tolist()
    [[0.25, 0.75]]
    >>> Labels("values", ("speed", "turn")).encode([Item(Path("c.mp4"), "2.5|-1")]).tolist()
    [[2.5, -1.0]]
    """

    kind: Literal["class", "classes", "shares", "values"] = "class"
    """class: one of the names; classes: any number of them, `run|fall`, or none; shares: soft labels, `run:3|fall:1`,
    which are made to sum to 1; values: numbers to regress, `2.5|-1`."""
    names: tuple[str, ...] = ()
    """The outputs in order: class names, or what the values are. Empty: taken from the videos to train on, sorted."""
    offset: tuple[float, ...] = ()
    """Of values: what is subtracted before a network learns them, their mean over the videos to train on."""
    unit: tuple[float, ...] = ()
    """Of values: what they are divided by, their standard deviation."""

    @classmethod
    def of(cls, items: Sequence[Item], kind: Literal["class", "classes", "shares", "values"] = "class") -> "Labels":
        """The names that occur, sorted; numbers sort as numbers. Values are called value_0, value_1, ...

        Raises:
            ValueError: videos without a label, or a label that cannot be read.
        """
        labels = cls(kind)
        labels.complete(items)
        if kind == "values":
            labels = replace(labels, names=tuple(f"value_{n}" for n, _ in enumerate(parts(items[0].label or ""))))
            return labels.standardised(items)
        found = {name for item in kinds(items) for name, _ in labels.entries(item)}
        if not found:
            raise ValueError("none of the videos has a class")
        return replace(labels, names=tuple(sorted(found, key=natural)))

    def standardised(self, items: Sequence[Item]) -> "Labels":
        """The same values, with mean and standard deviation of these videos to scale them by."""
        plain = replace(self, offset=(), unit=())
        table = plain.encode(items)
        unit = [value or 1.0 for value in table.std(dim=0, correction=0).tolist()]
        return replace(self, offset=tuple(table.mean(dim=0).tolist()), unit=tuple(unit))

    def encode(self, items: Sequence[Item]) -> Float[Tensor, "videos x"]:
        """A row for every video.

        Raises:
            ValueError: videos without a label, labels that cannot be read, or classes that are not in `names`; names
                the first and counts all.
        """
        self.complete(items)
        if self.kind == "values":
            table = torch.tensor([self.values(item) for item in items]).view(len(items), len(self.names))
            return (table - self.scale("offset", 0)) / self.scale("unit", 1)
        places = {name: place for place, name in enumerate(self.names)}
        unknown: Counter[str] = Counter()
        found: list[tuple[int, int, float]] = []
        for row, item in enumerate(items):
            for name, share in self.entries(item):
                if name in places:
                    found.append((row, places[name], share))
                else:
                    unknown[name] += 1
        if unknown:
            name, count = unknown.most_common(1)[0]
            near = difflib.get_close_matches(name, self.names, n=1)
            hint = f" (near: {near[0]!r})" if near else ""
            more = f", and {len(unknown) - 1} other such labels" if len(unknown) > 1 else ""
            raise ValueError(
                f"label {name!r} of {count} videos{more} is not in the class list{hint}; "
                f"the {len(self.names)} classes: {listed(self.names)}"
            )
        table = torch.zeros(len(items), len(self.names))
        rows, columns, shares = zip(*found) if found else ((), (), ())
        where = torch.tensor(rows, dtype=torch.int64), torch.tensor(columns, dtype=torch.int64)
        return table.index_put_(where, torch.tensor(shares, dtype=torch.float32), accumulate=True)

    def hot(self, named: Sequence[Sequence[str]]) -> Float[Tensor, "r x"]:
        """A row for each of several names' lists: 1 where it names a class.

        >>> Labels("classes", ("fall", "run")).hot([("run",), (), ("run", "fall")]).tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]

        Raises:
            ValueError: a class that is not in `names`.
        """
        places = {name: place for place, name in enumerate(self.names)}
        table = torch.zeros(len(named), len(self.names))
        for row, names in enumerate(named):
            for name in names:
                if name not in places:
                    near = difflib.get_close_matches(name, self.names, n=1)
                    hint = f" (near: {near[0]!r})" if near else ""
                    raise ValueError(
                        f"label {name!r} is not in the class list{hint}; the {len(self.names)} classes: "
                        f"{listed(self.names)}"
                    )
                table[row, places[name]] = 1
        return table

    def read(self, outputs: Float[Tensor, "*b x"]) -> Float[Tensor, "*b x"]:
        """What a network's outputs say: probabilities (of one class: they sum to 1), or values in their own units."""
        if self.kind == "values":
            return outputs * self.scale("unit", 1).to(outputs) + self.scale("offset", 0).to(outputs)
        return outputs.sigmoid() if self.kind == "classes" else outputs.softmax(dim=-1)

    def scale(self, name: Literal["offset", "unit"], default: float) -> Float[Tensor, " x"]:
        """Offset or unit of the values."""
        return torch.tensor(getattr(self, name) or (default,) * len(self.names), dtype=torch.float32)

    def entries(self, item: Item) -> list[tuple[str, float]]:
        """(class, share) of one video.

        Raises:
            ValueError: shares that are no numbers, negative, or all zero.
        """
        text = (item.label or "").strip()
        if self.kind == "class":
            return [(text, 1.0)]
        if self.kind == "classes":
            return [(name, 1.0) for name in dict.fromkeys(parts(text))]
        pairs = [part.rpartition(":") for part in parts(text)]
        shares = [number(share) for _, _, share in pairs]
        if not pairs or min(shares) < 0 or not 0 < sum(shares) < math.inf or not all(name for name, _, _ in pairs):
            raise ValueError(f"{item.path}: label {text!r} cannot be read as shares; expected as in run:0.7|fall:0.3")
        return [(name.strip(), share / sum(shares)) for (name, _, _), share in zip(pairs, shares)]

    def values(self, item: Item) -> list[float]:
        """The numbers of one video.

        Raises:
            ValueError: other than as many finite numbers as there are names.
        """
        found = [number(part) for part in parts(item.label or "")]
        if len(found) != len(self.names) or not all(map(math.isfinite, found)):
            raise ValueError(
                f"{item.path}: label {item.label!r} has to be {len(self.names)} numbers ({listed(self.names)}), "
                "separated by |"
            )
        return found

    def complete(self, items: Sequence[Item]) -> None:
        """Checks that every video says something.

        Raises:
            ValueError: some have no label.
        """
        few = kinds(items)
        bare = [str(item.path) for item in few if item.label is None and self.kind != "classes"]
        if bare:
            raise ValueError(
                f"{len(bare) if few is items else 'some'} of {len(items)} videos have no label, the first is "
                f"{bare[0]}; put videos into class folders, or give a list with a path and a label on each line"
            )


class Rows:
    """The rows of very many videos, made when they are asked for."""

    def __init__(self, labels: Labels, items: Sequence[Item]) -> None:
        """The same as `labels.encode(items)`, in no memory.

        Raises:
            ValueError: as that does.
        """
        self.labels, self.items = labels, items
        labels.complete(items)
        for start in range(0, len(few := list(kinds(items))), PIECE):
            labels.encode(few[start : start + PIECE])

    def __getitem__(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "b x"]:
        return self.labels.encode([self.items[row] for row in ids.tolist()])


def rows_of(labels: Labels, items: Sequence[Item]) -> Float[Tensor, "videos x"] | Rows:
    """A row for every video, to be asked for by their numbers."""
    return labels.encode(items) if len(items) < LARGE else Rows(labels, items)


def parts(text: str) -> list[str]:
    """What stands between the bars."""
    return [part.strip() for part in text.split("|") if part.strip()]


def number(text: str) -> float:
    """A number, or not-a-number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def natural(name: str) -> tuple[bool, float, str]:
    """Sorts 2 before 10, and both before words."""
    value = number(name)
    return (math.isnan(value), 0.0 if math.isnan(value) else value, name)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message."""
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")
