"""Which embedded clips are like one: cosine similarity, looked up in an array that need not fit into memory."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tubelet.evaluate.feature_files import Row, Table, pieces


@dataclass(frozen=True)
class Neighbour:
    """A clip that is like the one asked about."""

    row: int
    cosine: float
    clip: Row

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"row": self.row, "cosine": self.cosine} | asdict(self.clip)


def nearest(
    query: Float[np.ndarray, " d"],
    table: Table,
    top: int = 10,
    leave_out: Bool[np.ndarray, " rows"] | None = None,
) -> list[Neighbour]:
    """The `top` rows of largest cosine similarity with `query`, best first, rows of equal similarity (to
    1e-6, below which it is rounding that differs from machine to machine) in their order.

    Raises:
        ValueError: no rows; a query of another width; values that are not finite, or a query of zeros.
    """
    if not len(table.rows):
        raise ValueError("no features to search in: the table has 0 rows")
    width = table.values.shape[-1]
    if len(query) != width:
        raise ValueError(f"features of width {len(query)} cannot be compared with a table of width {width}")
    length = float(np.linalg.norm(query))
    if not np.isfinite(length) or length == 0:
        raise ValueError("the features of the example are not finite, or all zero: nothing is similar to them")
    if top < 1:
        raise ValueError(f"--top {top}: at least one neighbour")
    cosines = np.empty(len(table.rows), dtype=np.float32)
    for start, stop in pieces(table):
        part = table.pooled(start, stop)
        lengths = np.linalg.norm(part, axis=1)
        cosines[start:stop] = part @ (query / length) / np.where(lengths > 0, lengths, 1)
    cosines = cosines.clip(-1, 1)
    kept = np.arange(len(cosines)) if leave_out is None else np.flatnonzero(~leave_out)
    order = kept[np.argsort(-cosines[kept].round(6), kind="stable")[:top]]
    return [Neighbour(int(row), float(cosines[row]), table.rows[row]) for row in order]


def like_row(row: int, table: Table, top: int = 10) -> list[Neighbour]:
    """The nearest of a row of the table, but for clips that overlap with it.

    Raises:
        ValueError: as `nearest`.
    """
    return nearest(table.pooled(row, row + 1)[0], table, top, overlapping(table.rows[row], table.rows))


def rows_of(path: Path | str, rows: Sequence[Row]) -> list[int]:
    """The rows of a video, which may be named by another way to the same file."""
    wanted = Path(path).resolve()
    names = {name for name in {row.path for row in rows} if Path(name).resolve() == wanted}
    return [number for number, row in enumerate(rows) if row.path in names]


def row_at(path: Path | str, rows: Sequence[Row], second: float | None = None) -> int | None:
    """The row of a video's clip that shows `second` in its middle, or nearly so (default: the middle row); None where
    the video is not in the table.

    Raises:
        ValueError: no clip of that video shows that second.
    """
    found = rows_of(path, rows)
    if not found:
        return None
    if second is None:
        return found[(len(found) - 1) // 2]
    showing = [row for row in found if rows[row].start <= second <= rows[row].end]
    if not showing:
        last = max(rows[row].end for row in found)
        raise ValueError(
            f"no clip of {path} in the table shows second {second:g}; its {len(found)} end at {last:.2f} s"
        )
    return min(showing, key=lambda row: abs(rows[row].start + rows[row].end - 2 * second))


def overlapping(row: Row, rows: Sequence[Row]) -> Bool[np.ndarray, " rows"]:
    """True for the clips of the same video that show frames of `row` too, itself among them: they are no discovery."""
    same = np.zeros(len(rows), dtype=bool)
    for number in rows_of(row.path, rows):
        same[number] = rows[number].start < row.end and row.start < rows[number].end
    return same
