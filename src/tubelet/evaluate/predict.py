"""What a network says along a video: windows, smoothed, merged into segments, as json, csv and srt."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from tubelet.data.labels import Labels
from tubelet.evaluate.features import centred
from tubelet.evaluate.views import Viewer
from tubelet.evaluate.windows import Window

Table = Float[np.ndarray, "windows x"]


@dataclass(frozen=True)
class Prediction:
    """What the network says about one window."""

    start: float  # seconds
    end: float
    outputs: tuple[float, ...]  # probabilities, or values
    short: bool = False  # the window has too few frames: some were repeated

    def top(self, labels: Labels, count: int) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities; of values all, in their order."""
        pairs = list(zip(labels.names, self.outputs))
        return pairs if labels.kind == "values" else sorted(pairs, key=lambda pair: -pair[1])[:count]


@dataclass(frozen=True)
class Segment:
    """A part of a video in which one class is the likeliest, or is there."""

    start: float  # seconds
    end: float
    label: str
    probability: float  # mean over its windows


def predict(viewer: Viewer, windows: Iterable[Window], where: str) -> Iterator[Prediction]:
    """What the network says about each window, as they come: what a test of one view says about the same frames.

    Of whole frames it sees the middle, in its size.
    """
    for window in windows:
        whole = window.frames.shape[1:3] != viewer.data.size
        frames = centred(window.frames, viewer.data.size) if whole else window.frames
        (outputs,) = viewer([(frames.permute(3, 0, 1, 2)[None], where)])
        yield Prediction(window.start, window.end, tuple(outputs.tolist()), window.short)


def overall(predictions: Sequence[Prediction]) -> Prediction:
    """The mean over all windows, from the first's start to the last's end."""
    mean = np.mean([one.outputs for one in predictions], axis=0)
    return Prediction(predictions[0].start, predictions[-1].end, tuple(mean.tolist()))


# ---------------------------------------------------------------------------- smoothing and segments


def smoothed(
    predictions: Sequence[Prediction], amount: float, kind: Literal["mean", "gauss"] = "mean"
) -> list[Prediction]:
    """Each window's outputs averaged with its neighbours': `mean` over the nearest `amount` windows, itself included
    (made odd), fewer at the ends; `gauss` weighted by a normal curve of `amount` seconds deviation.

    Raises:
        ValueError: less than one window, or no seconds.
    """
    if not predictions:
        return []
    table = np.array([one.outputs for one in predictions])
    if kind == "mean":
        if amount < 1:
            raise ValueError(f"smoothing over {amount:g} windows: at least 1 (nothing is smoothed then)")
        reach, place = int(amount) // 2, np.arange(len(table))
        weights = (np.abs(place[:, None] - place) <= reach).astype(float)
    else:
        if amount <= 0:
            raise ValueError(f"smoothing with a deviation of {amount:g} seconds: expected more than 0")
        middle = np.array([(one.start + one.end) / 2 for one in predictions])
        weights = np.exp(-0.5 * ((middle[:, None] - middle) / amount) ** 2)
    table = weights @ table / weights.sum(1, keepdims=True)
    return [Prediction(one.start, one.end, tuple(row), one.short) for one, row in zip(predictions, table.tolist())]


def pieces(predictions: Sequence[Prediction]) -> list[tuple[float, float]]:
    """Start and end of the part that each window speaks for: overlapping ones meet halfway between their middles.

    >>> pieces([Prediction(0, 4, ()), Prediction(2, 6, ()), Prediction(10, 14, ())])
    [(0, 3.0), (3.0, 6), (10, 14)]
    """
    middles = [(one.start + one.end) / 2 for one in predictions]
    halves = [-math.inf, *((a + b) / 2 for a, b in pairwise(middles)), math.inf]
    found = []
    for place, one in enumerate(predictions):
        start = halves[place] if place and predictions[place - 1].end >= one.start else one.start
        touches = place + 1 < len(predictions) and predictions[place + 1].start <= one.end
        found.append((start, halves[place + 1] if touches else one.end))
    return found


def segments(
    predictions: Sequence[Prediction], labels: Labels, threshold: float | None = None, shortest: float = 0.0
) -> list[Segment]:
    """Neighbouring windows with the same likeliest class, merged, in order; several classes at once each for itself.

    Windows below `threshold` (default 0; for several classes at once 0.5) have no class. Segments of less than
    `shortest` seconds are left out.

    Raises:
        ValueError: the outputs are values.
    """
    if labels.kind == "values":
        raise ValueError("values have no segments; write the windows instead: --out FILE.json or --json")
    if not predictions:
        return []
    threshold = (0.5 if labels.kind == "classes" else 0.0) if threshold is None else threshold
    table, where = np.array([one.outputs for one in predictions]), pieces(predictions)
    there = table >= threshold
    if labels.kind != "classes":
        there &= np.arange(table.shape[1]) == table.argmax(1)[:, None]
    found = [
        Segment(where[run[0]][0], where[run[-1]][1], name, float(table[run, place].mean()))
        for place, name in enumerate(labels.names)
        for run in runs(there[:, place].tolist(), where)
    ]
    kept = [segment for segment in found if segment.end - segment.start >= shortest - 1e-9]
    return sorted(kept, key=lambda segment: (segment.start, segment.end))


def runs(there: Sequence[bool], where: Sequence[tuple[float, float]]) -> Iterator[list[int]]:
    """Places of neighbouring windows that are there and touch."""
    run: list[int] = []
    for place, is_there in enumerate(there):
        if run and not (is_there and where[place][0] <= where[run[-1]][1] + 1e-6):
            yield run
            run = []
        if is_there:
            run.append(place)
    if run:
        yield run


# ---------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Found:
    """What was found in one video."""

    path: str
    windows: list[Prediction]
    segments: list[Segment]


def to_json(found: Sequence[Found], names: Sequence[str]) -> str:
    """Everything: class names, and of every video its windows and segments."""
    return json.dumps({"names": list(names), "videos": [asdict(one) for one in found]}, indent=1) + "\n"


def to_csv(found: Sequence[Found], names: Sequence[str]) -> str:
    """A row for every segment; where there are none, as for values, for every window."""
    out = io.StringIO()
    table: Any = csv.writer(out, lineterminator="\n")
    if any(one.segments for one in found):
        table.writerow(("path", "start", "end", "label", "probability"))
        for one in found:
            for s in one.segments:
                table.writerow((one.path, f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.probability:.4f}"))
    else:
        table.writerow(("path", "start", "end", *names))
        for one in found:
            for w in one.windows:
                table.writerow((one.path, f"{w.start:.3f}", f"{w.end:.3f}", *(f"{value:.6g}" for value in w.outputs)))
    return out.getvalue()


def to_srt(found: Sequence[Segment]) -> str:
    """Subtitles, which players show over the video.

    >>> print(to_srt([Segment(0, 2.5, "wave", 0.93)]))
    1
    00:00:00,000 --> 00:00:02,500
    wave (93 %)
    <BLANKLINE>
    """
    return "".join(
        f"{number}\n{clock(s.start)} --> {clock(s.end)}\n{s.label} ({100 * s.probability:.0f} %)\n\n"
        for number, s in enumerate(found, 1)
    )[:-1]


def clock(seconds: float) -> str:
    """A time as subtitles have it.

    >>> clock(3661.5)
    '01:01:01,500'
    """
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandths:03d}"
