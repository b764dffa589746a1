"""The table that AVA's official evaluation reads: a line for each class of each box.

video, timestamp (four digits), x1, y1, x2, y2 (shares of the picture, five decimals), number of the class, score.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tubelet.data.keyframes import Box, Corners
from tubelet.evaluate.detections import Detection


def to_csv(detections: Iterable[Detection], names: Sequence[str], ids: Mapping[str, int]) -> Iterator[str]:
    """The lines of the table, for all classes of each detection one after the other.

    The score is the probability times that of the box. What is not a number was not detected and is left out.

    Raises:
        ValueError: a class without a number.
    """
    if bare := [name for name in names if name not in ids]:
        raise ValueError(
            f"class {bare[0]!r} has no number, by which the official evaluation knows it ({len(ids)} have)"
        )
    numbers = [ids[name] for name in names]
    for one in detections:
        text = io.StringIO()
        stamp = one.stamp.zfill(4) if one.stamp.isdecimal() else one.stamp or f"{one.seconds:g}"
        csv.writer(text, lineterminator="").writerow([one.video, stamp, *(f"{edge:.5f}" for edge in one.box.corners)])
        start, score = text.getvalue(), one.box.score
        yield "".join(
            f"{start},{number},{probability * score:.9g}\n"
            for number, probability in zip(numbers, one.probabilities)
            if not math.isnan(probability)
        )


def from_csv(path: Path | str, names: Sequence[str], ids: Mapping[str, int]) -> list[Detection]:
    """The detections of such a table, of whomever; lines of the same corners in a frame are one.

    Probabilities are what is written as scores; boxes have none of their own. A class that no line tells has not a
    number: it was not detected. Lines with a video and a timestamp alone are of frames without boxes; without a score
    it is 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is something else, or a number that is none of a class; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    places = {ids[name]: place for place, name in enumerate(names) if name in ids}
    said: list[tuple[list[str], list[float]]] = []
    last: dict[tuple[str, ...], list[float]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) in (0, 2):
                continue
            frame = tuple(row[:6])
            values = last.get(frame)
            try:
                if values is None:
                    corners_of(row)
                what, score = int(row[6]), float(row[7]) if len(row) > 7 else 1.0
                if len(row) > 8 or not math.isfinite(score):
                    raise ValueError("a number as the score comes last")
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected video, timestamp, x1, y1, x2, y2, class, score; got "
                    f"{','.join(row)[:120]!r} ({error})"
                ) from error
            place = places.get(what)
            if place is None:
                raise ValueError(
                    f"{path}, line {number}: no class has number {what}; the {len(places)} have "
                    f"{min(places, default=0)} to {max(places, default=0)}"
                )
            if values is None or not math.isnan(values[place]):  # the same once more is another box
                values = last[frame] = [math.nan] * len(names)
                said.append((row, values))
            values[place] = score
    return [Detection(row[0], row[1], seconds_of(row[1]), Box(corners_of(row)), tuple(values)) for row, values in said]


def corners_of(row: Sequence[str]) -> Corners:
    """The corners that a line says.

    Raises:
        ValueError: they are none.
    """
    x1, y1, x2, y2 = map(float, row[2:6])
    if not (0 <= x1 <= 1 and 0 <= y1 <= 1 and 0 <= x2 <= 1 and 0 <= y2 <= 1):
        raise ValueError("corners are shares of the picture, 0 to 1")
    return x1, y1, x2, y2


def seconds_of(stamp: str) -> float:
    """The moment that a timestamp says, or not a number."""
    try:
        return float(stamp)
    except ValueError:
        return math.nan
