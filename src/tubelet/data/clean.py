"""A list without what a check found wrong. Files are neither moved nor deleted."""

import csv
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tubelet.data.findings import Report
from tubelet.data.items import Item
from tubelet.data.lists import in_list
from tubelet.data.split import write_list

COLUMNS = ("path", "label", "start", "end", "group", "kind", "reason")


def refused(out: Path) -> tuple[Path, Path]:
    """The list and, beside it, the table of what is left out of it; to be asked before a long check.

    Raises:
        ValueError: one is there already, or it is not to be a csv file, or its folder is not there.
    """
    if out.suffix.lower() != ".csv":
        raise ValueError(f"--fix {out}: the clean list is a table; give it a name that ends in .csv")
    beside = out.with_suffix(".left-out.csv")
    for path in (out, beside):
        if os.path.lexists(path):
            raise ValueError(f"{path} is there already, and nothing is overwritten; name another list, or remove it")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent} is not a folder; make it, or name a list elsewhere")
    return out, beside


def write_clean(out: Path, items: Sequence[Item], report: Report) -> int:
    """A csv file of the items without those that something is wrong with, which `find` reads; how many they are.

    Beside it, OUT.left-out.csv says of the others why. Both are there whole or not at all.

    Raises:
        ValueError: as `refused`; nothing would be left; or a name that no list can hold.
        OSError: the disk is full, or refuses.
    """
    out, beside = refused(out)
    left = [item for number, item in enumerate(items) if number not in report.found]
    if not left:
        raise ValueError(f"{out} is not written: all of the {len(items)} videos have problems, {report.verdict()}")
    part, other = (path.with_name(f".{path.stem}.{os.getpid()}.csv") for path in (out, beside))
    try:
        write_list(part, left)
        names = [os.path.abspath(item.path) for item in left]
        read = [os.path.abspath(item.path) for item in in_list(part)]
        if read != names:
            odd = next((name for name in names if name not in read), names[0])
            raise ValueError(f"{out} is not written: a list cannot hold the name {odd!r}; rename that file")
        with other.open("x", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for number, told in report.found.items():
                item = items[number]
                times = ["" if time is None else repr(float(time)) for time in (item.start, item.end)]
                about = [os.path.abspath(item.path), item.label or "", *times, item.group or ""]
                rows.writerow([*about, told[0][0], "; ".join(text for _, text in told)])
        for path in (part, other):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        refused(out)
        other.rename(beside)
        part.rename(out)  # last: where it is, all is
    finally:
        for path in (part, other):
            with suppress(FileNotFoundError):
                path.unlink()
    return len(left)
