"""Lists for training, validation and test out of one; subsets with fewer labels; and clips that are in two lists."""

import csv
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tubelet.data.items import Item
from tubelet.data.remote import absolute, shown, url_of
from tubelet.data.shards import content, exists, state_of

PARTS = ("train", "val", "test")
END = 2**16  # bytes at either end of a file that tell it from others of the same size


def split(items: Sequence[Item], shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> dict[str, list[Item]]:
    """Items for train, val and test, in `shares` of every class as far as the groups allow; no group is in two parts.

    Items without a group are one each, but parts of one video stay together. Groups are dealt out from large to small,
    those of one size by lot, each to the part that then comes nearest to its share of every class. A share of 0 leaves
    its part out.

    Raises:
        ValueError: shares that are none; or a part would be empty, or training without one of the classes.
    """
    if len(shares) != 3 or min(shares) < 0 or not 0.999 < sum(shares) < 1.001:
        raise ValueError(f"shares {' '.join(map(str, shares))}: expected three numbers from 0 to 1 that sum to 1")
    parts = [part for part, share in zip(PARTS, shares) if share]
    wanted = np.array([share for share in shares if share])
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[f"group {item.group}" if item.group is not None else f"file {item.path}"].append(index)
    if len(groups) < len(parts):
        raise ValueError(
            f"{len(items)} clips of {len(groups)} group{'s' * (len(groups) != 1)} cannot make {len(parts)} parts "
            "without dividing a group; group them otherwise (--group)"
        )
    columns = {label: column for column, label in enumerate(sorted({item.label or "" for item in items}))}
    kinds = np.array([columns[item.label or ""] for item in items])
    totals = np.bincount(kinds)
    have = np.zeros((len(parts), len(totals)))
    lots = np.random.default_rng(seed).permutation(len(groups))
    keys = [list(groups)[lot] for lot in lots]
    of: dict[int, int] = {}
    for key in sorted(keys, key=lambda key: -len(groups[key])):  # stable: groups of one size stay as drawn
        classes, counts = np.unique(kinds[groups[key]], return_counts=True)
        lacks = wanted[:, None] * totals[classes] - have[:, classes]
        # How much the squared distance from all shares, in shares of a class, grows.
        costs = (counts * (counts - 2 * lacks) / totals[classes] ** 2).sum(1)
        part = int(costs.argmin())
        have[part, classes] += counts
        of.update(dict.fromkeys(groups[key], part))
    found = {part: [item for index, item in enumerate(items) if of[index] == place] for place, part in enumerate(parts)}
    checked(found)
    return found


def checked(found: dict[str, list[Item]]) -> None:
    """Looks for parts that are of no use.

    Raises:
        ValueError: an empty one, or classes that training has no clip of.
    """
    for part, items in found.items():
        if not items:
            every = [item for each in found.values() for item in each]
            classes, groups = Counter(item.label for item in every), any(item.group for item in every)
            why = (
                "the groups are too large or too few"
                if groups
                else f"{min(classes.values())} clips of a class are too few"
            )
            raise ValueError(f"{part} would be empty: {why} for its share; try larger --shares for it, as 0.6 0.2 0.2")
    if "train" in found:
        known = {item.label for item in found["train"]}
        lost = sorted({str(item.label) for items in found.values() for item in items if item.label not in known})
        if lost:
            raise ValueError(
                f"training would have no clip of {len(lost)} classes, the first is {lost[0]!r}: all their clips are in "
                "groups that went elsewhere. Another --seed, another --group, or a larger share may do"
            )


def fraction(items: Sequence[Item], share: float, seed: int = 0) -> list[Item]:
    """A share of the items of every class, at least one each, in their order; smaller shares are inside larger ones.

    Raises:
        ValueError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"fraction {share}: expected more than 0 and at most 1")
    classes: dict[str | None, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        classes[item.label].append(index)
    taken: set[int] = set()
    rng = np.random.default_rng(seed)
    for label in sorted(classes, key=str):
        order = rng.permutation(classes[label]).tolist()
        taken.update(order[: max(round(share * len(order)), 1)])
    return [item for index, item in enumerate(items) if index in taken]


def grouped(items: Sequence[Item], by: str) -> list[Item]:
    """The items with their groups from where they are: `folder` takes the name of the folder above, anything else is a
    regular expression on the path, of which the first bracket counts, or without brackets all that it matches.

    Raises:
        ValueError: no regular expression, or one that does not match some path.
    """
    if by == "folder":
        return [replace(item, group=item.path.parent.name) for item in items]
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise ValueError(f"--group {by}: expected folder, or a regular expression ({error})") from error
    matches = [pattern.search(item.path.as_posix()) for item in items]
    without = [item.path for item, match in zip(items, matches) if match is None]
    if without:
        raise ValueError(f"--group {by} does not match {len(without)} of {len(items)} paths, the first is {without[0]}")
    return [replace(item, group=match[pattern.groups > 0]) for item, match in zip(items, matches) if match]


def write_list(path: Path, items: Sequence[Item]) -> None:
    """A csv file that `find` reads back as the same items; paths below its folder are written relative to that.

    Raises:
        FileExistsError: it is there already.
    """
    here = os.path.abspath(path.parent)
    with path.open("x", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "start", "end", "group"])
        for item in items:
            name = shown(absolute(item.path))
            inside = url_of(item.path) is None and os.path.commonpath([here, name]) == here
            times = ["" if time is None else repr(float(time)) for time in (item.start, item.end)]
            rows.writerow([os.path.relpath(name, here) if inside else name, item.label or "", *times, item.group or ""])


def table(found: dict[str, list[Item]]) -> list[dict[str, object]]:
    """How many clips, groups and classes there are in each part, and of the smallest class."""
    return [
        {
            "part": part,
            "clips": len(items),
            "groups": len({item.group for item in items if item.group is not None}),
            "classes": len(labels := Counter(item.label for item in items if item.label is not None)),
            "fewest": min(labels.values(), default=0),
        }
        for part, items in found.items()
    ]


# ---------------------------------------------------------------------------- twice


def overlap(train: Sequence[Item], test: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Pairs of a clip to train on and one to test on that are the same: one file, or two with the same content.

    Parts of one video are the same clip where they overlap in time. Content is told by the size and both ends of a
    file; of a folder of frames, by those of its files.
    """
    trained: dict[object, list[Item]] = defaultdict(list)
    sizes = ({size(item.path) for item in test} & {size(item.path) for item in train}) - {0}  # empty: no content
    marks: dict[Path, object] = {}

    def mark(item: Item) -> object:
        if item.path not in marks:
            alike = size(item.path) in sizes
            marks[item.path] = fingerprint(item.path) if alike else os.path.realpath(item.path)
        return marks[item.path]

    for item in train:
        trained[mark(item)].append(item)
    return [(one, item) for item in test for one in trained.get(mark(item), ()) if together(one, item)]


def together(one: Item, other: Item) -> bool:
    """Whether two parts of a video have a moment in common."""
    begin = max(one.start or 0.0, other.start or 0.0)
    return begin < min(np.inf if item.end is None else item.end for item in (one, other))


def size(path: Path) -> int:
    """Bytes of a file, or of all the files of a folder; -1 where there is nothing."""
    try:
        return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else state_of(path)[0]
    except OSError:
        return -1


def fingerprint(path: Path) -> str:
    """What tells a file's content from others: its size and its first and last bytes."""
    digest = hashlib.blake2b()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if exists(path) else []
    for file in files:
        with content(file) as (bytes_, count):
            start = bytes_.tell()
            digest.update(f"{count} ".encode())
            digest.update(bytes_.read(min(END, count)))
            bytes_.seek(start + max(count - END, 0))
            digest.update(bytes_.read(min(END, count)))
    return digest.hexdigest() if files else os.path.realpath(path)
