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
        rows = csv.writer(text, lineterminator="\n")
        stamp = one.stamp.zfill(4) if one.stamp.isdecimal() else one.stamp or f"{one.seconds:g}"
        start = [one.video, stamp, *(f"{corner:.5f}" for corner in one.box.corners)]
        rows.writerows(
            [*start, number, f"{probability * one.box.score:.9g}"]
            for number, probability in zip(numbers, one.probabilities)
            if not math.isnan(probability)
        )
        yield text.getvalue()


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
    said: list[tuple[tuple[str, str, Corners], list[float]]] = []
    last: dict[tuple[str, str, Corners], list[float]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) in (0, 2):
                continue
            try:
                video, stamp, x1, y1, x2, y2, what, *score = row
                corners = float(x1), float(y1), float(x2), float(y2)
                place, value = int(what), float(score[0]) if score else 1.0
                if len(score) > 1 or not all(0 <= corner <= 1 for corner in corners) or not math.isfinite(value):
                    raise ValueError("corners are shares of the picture, 0 to 1, and the score comes last")
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: expected video, timestamp, x1, y1, x2, y2, class, score; got "
                    f"{','.join(row)[:120]!r} ({error})"
                ) from error
            if place not in places:
                raise ValueError(
                    f"{path}, line {number}: no class has number {place}; the {len(places)} have "
                    f"{min(places, default=0)} to {max(places, default=0)}"
                )
            key = video, stamp, corners
            if key not in last or not math.isnan(last[key][places[place]]):  # the same once more is another box
                last[key] = [math.nan] * len(names)
                said.append((key, last[key]))
            last[key][places[place]] = value
    return [
        Detection(video, stamp, seconds_of(stamp), Box(corners), tuple(values))
        for (video, stamp, corners), values in said
    ]


def seconds_of(stamp: str) -> float:
    """The moment that a timestamp says, or not a number."""
    try:
        return float(stamp)
    except ValueError:
        return math.nan
