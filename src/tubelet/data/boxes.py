"""Where objects are: boxes of the frames of videos, from a table with a row for each box.

The columns are path (or file), frame or seconds, x1, y1, x2, y2. Paths are relative to the table's folder; frames are
counted from 0; corners are in pixels of the video as it is shown, x to the right and y down, x2 and y2 just outside; or
in shares of its width and height, if none in the table is above 1 (those fit copies of any size).
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from tubelet.data.index import Video, shown_at
from tubelet.data.lists import MARKS, PATH_COLUMNS

CORNERS = ("x1", "y1", "x2", "y2")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Boxes:
    """The boxes of a table, of all of its videos."""

    table: Path
    unit: Literal["frame", "seconds"]
    """What the times of the boxes are."""
    rows: dict[Path, list[tuple[float, Corners]]]
    """(time, corners) by resolved path."""
    shares: bool = False
    """Corners are shares of width and height, not pixels."""

    def of(self, video: Video) -> dict[int, Float[np.ndarray, "_ 4"]]:
        """The boxes of a video by frame, in order: left, top, right, bottom, in pixels, cut to the picture.

        Raises:
            ValueError: the table has none for this video, or one at a frame or a place that the video does not have.
        """
        rows = self.rows.get(Path(video.path).resolve())
        if rows is None:
            raise ValueError(
                f"{self.table} has no boxes for {video.path}; it has some for {len(self.rows)} videos, such as "
                f"{next(iter(self.rows))}. Paths are relative to {self.table.parent}"
            )
        last = video.frames - 1 if self.unit == "frame" else video.seconds[-1] + 1 / video.fps
        found: dict[int, list[Corners]] = {}
        for time, corners in rows:
            if time > last:
                has = f"{video.frames} frames, 0 to {last}" if self.unit == "frame" else f"{last:.3g} seconds"
                raise ValueError(f"{self.table} has a box of {video.path} at {self.unit} {time:g}; it has {has}")
            left, top, right, bottom = corners
            if self.shares:
                left, top, right, bottom = np.multiply(corners, (video.width, video.height) * 2).tolist()
            inside = max(left, 0.0), max(top, 0.0), min(right, float(video.width)), min(bottom, float(video.height))
            if inside[0] >= inside[2] or inside[1] >= inside[3]:
                raise ValueError(
                    f"{self.table} has a box of {video.path} from ({left:g}, {top:g}) to ({right:g}, {bottom:g}): "
                    f"outside of the picture, which is {video.width} wide and {video.height} high as it is shown"
                )
            frame = int(time) if self.unit == "frame" else int(shown_at(video, np.array([time]))[0])
            found.setdefault(frame, []).append(inside)
        return {frame: np.array(found[frame]) for frame in sorted(found)}


def read_boxes(table: Path | str) -> Boxes:
    """The boxes of a csv or tsv file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no header with the columns, no rows, or a row that cannot be read; names its line.
    """
    table = Path(table)
    if not table.is_file():
        raise FileNotFoundError(f"no such file: {table}")
    lines = table.read_text(encoding="utf-8-sig").splitlines()  # spreadsheets put a byte order mark in front
    mark = next((mark for mark in MARKS if lines and mark in lines[0]), ",")
    names = [name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=mark), [])]
    path = next((name for name in PATH_COLUMNS if name in names), None)
    unit: Literal["frame", "seconds"] | None = (
        "frame" if "frame" in names else "seconds" if "seconds" in names else None
    )
    if path is None or unit is None or not {*CORNERS} <= {*names}:
        raise ValueError(
            f"{table} has the columns {', '.join(names) or 'none'}; expected path, frame or seconds, x1, y1, x2, y2"
        )
    rows: dict[Path, list[tuple[float, Corners]]] = {}
    for number, values in enumerate(csv.reader(lines[1:], delimiter=mark), 2):
        if not values:
            continue
        where, row = f"{table}, line {number}", dict(zip(names, (value.strip() for value in values)))
        try:
            if not (named := row[path]):
                raise ValueError("no path")
            time, left, top, right, bottom = (float(row[name]) for name in (unit, *CORNERS))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{where}: expected a {path}, and numbers for {unit}, x1, y1, x2, y2; got {mark.join(values)}"
            ) from error
        if not (np.isfinite([time, left, top, right, bottom]).all() and left < right and top < bottom and time >= 0):
            raise ValueError(
                f"{where}: a box at {unit} {time:g} from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is none; "
                "expected x1 < x2, y1 < y2, and a time of 0 or more"
            )
        if unit == "frame" and time != int(time):
            raise ValueError(f"{where}: frame {time:g} is no whole number; frames are counted from 0")
        rows.setdefault((table.parent / named).resolve(), []).append((time, (left, top, right, bottom)))
    if not rows:
        raise ValueError(f"{table} has a header and no boxes under it")
    largest = max(max(corners) for boxes in rows.values() for _, corners in boxes)
    return Boxes(table, unit, rows, shares=largest <= 1)
