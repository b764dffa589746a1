"""What a test found: a row for every video, the numbers that follow from the rows, and a file that holds both.

Every number is a function of weights, one per video: all 1 for the number itself, and how often each video is drawn for
its confidence interval (the bootstrap). So numbers can be had again, or anew, from the file alone.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tubelet.data.labels import Labels
from tubelet.data.sources import Item

RESAMPLES, FEW = 1000, 200  # few where each is a ranking of all videos for each class
LISTED, WORST = 30, 10  # classes: with more than so many, people are told so many
Weights = Float[np.ndarray, " videos"]
Table = Float[np.ndarray, "videos x"]
Measure = Callable[[Weights], float]


@dataclass(frozen=True)
class Row:
    """One video of a test."""

    item: int  # its place in the test set: what rows are known by, since files may share a name
    path: str
    start: float | None
    end: float | None
    label: str | None
    outputs: list[float] | None  # probabilities, or values; none: it could not be read
    error: str | None = None  # why
    notes: tuple[str, ...] = ()  # too short, damaged


@dataclass(frozen=True)
class Results:
    """A test: what the outputs mean, and a row for every video."""

    labels: Labels
    rows: list[Row]
    views: str
    average: str = "probabilities"

    @property
    def read(self) -> list[Row]:
        """The rows of videos that could be read."""
        return [row for row in self.rows if row.outputs is not None]

    @property
    def unread(self) -> list[Row]:
        """The rows of those that could not."""
        return [row for row in self.rows if row.outputs is None]

    def outputs(self) -> Table:
        """Probabilities or values of the videos that could be read.

        Raises:
            ValueError: there are none.
        """
        if not self.read:
            first = self.rows[0].error if self.rows else "the results are empty"
            raise ValueError(
                f"none of the {len(self.rows)} videos could be read, so there is nothing to score: {first}"
            )
        return np.array([row.outputs for row in self.read], dtype=np.float64)

    def truth(self) -> Table:
        """Their labels as numbers: one-hot, several hot, shares, or values in their own units.

        Raises:
            ValueError: a label that is missing, cannot be read, or is not in the class list.
        """
        plain = replace(self.labels, offset=(), unit=())
        return plain.encode([Item(Path(row.path), row.label) for row in self.read]).double().numpy()

    def shared(self) -> "Results":
        """The same test, with only the classes that some video of it is labelled with; their probabilities sum to 1.

        For a network that knows more classes than the test set has, as one trained on another domain may.

        Raises:
            ValueError: labels that are not single classes.
        """
        if self.labels.kind != "class":
            raise ValueError(f"shared classes are for one class a video; the labels are {self.labels.kind}")
        kept = [place for place, name in enumerate(self.labels.names) if name in {row.label for row in self.rows}]

        def narrowed(row: Row) -> Row:
            if row.outputs is None:
                return row
            few = np.array(row.outputs)[kept]
            return replace(row, outputs=(few / max(few.sum(), 1e-300)).tolist())

        names = tuple(self.labels.names[place] for place in kept)
        return replace(self, labels=replace(self.labels, names=names), rows=[narrowed(row) for row in self.rows])


# ---------------------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Number:
    """A number with the interval that holds 95 % of its bootstrap."""

    value: float
    low: float
    high: float


def numbers(results: Results, seed: int = 0, resamples: int | None = None) -> dict[str, Number]:
    """The numbers of a test with their 95 % intervals, by name; accuracies in percent.

    Intervals are percentiles over `resamples` draws (default 1000; 200 for several classes at once) of as many videos
    with replacement; where all or none are right, draws do not differ, and it is Wilson's interval. They tell how much
    depends on which videos were tested, not on which seed was trained.

    Raises:
        ValueError: as `Results.outputs` and `Results.truth`.
    """
    outputs, truth = results.outputs(), results.truth()
    measures = dict(measures_of(results.labels, outputs, truth))
    draws = (FEW if results.labels.kind == "classes" else RESAMPLES) if resamples is None else resamples
    count = len(truth)
    found = drawn(measures, count, draws, seed)
    for name in ("top1", "top5"):
        if name in found and found[name].value in (0.0, 100.0):  # every draw is alike, but not every video would be
            value, other = found[name].value, 100 * 1.96**2 / (count + 1.96**2)  # Wilson's interval
            low, high = (0.0, other) if value == 0 else (100 - other, 100.0)
            found[name] = Number(value, low, high)
    return found


def guessing(results: Results) -> dict[str, float]:
    """The numbers of always giving the same answer: how often each label is among these videos.

    Of one class that is the share of the commonest, of several at once how common each is, of values their mean.
    """
    truth = results.truth()
    same, ones = np.broadcast_to(truth.mean(0), truth.shape), np.ones(len(truth))
    return {name: measure(ones) for name, measure in measures_of(results.labels, same, truth)}


def drawn(measures: Mapping[str, Measure], count: int, draws: int, seed: int) -> dict[str, Number]:
    """Measures of `count` videos, each with the interval of its values over so many draws with replacement."""
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(draws):
        weights = np.bincount(rng.integers(count, size=count), minlength=count).astype(float)
        for name, measure in measures.items():
            values[name].append(measure(weights))
    found = {}
    for name, measure in measures.items():
        finite = [value for value in values[name] if math.isfinite(value)]  # or no positive of any class was drawn
        low, high = np.percentile(finite, [2.5, 97.5]) if finite else (math.nan, math.nan)
        found[name] = Number(measure(np.ones(count)), float(low), float(high))
    return found


def measures_of(labels: Labels, outputs: Table, truth: Table) -> Iterator[tuple[str, Measure]]:
    """(name, number as a function of weights) of everything that is measured for this kind of labels."""
    if labels.kind == "values":
        yield "mean_absolute_error", lambda weights: float(np.average(np.abs(outputs - truth).mean(1), weights=weights))
        yield (
            "r2",
            lambda weights: float(np.mean([r2(outputs[:, x], truth[:, x], weights) for x in range(len(truth.T))])),
        )
    elif labels.kind == "classes":
        rankings = [Ranking.of(column, true) for column, true in zip(outputs.T, truth.T)]
        yield (
            "mean_average_precision",
            lambda weights: 100 * mean_of(one.average_precision(weights) for one in rankings),
        )
    else:
        target = truth.argmax(1)
        place = ranks(outputs, target)
        yield "top1", lambda weights: 100 * float(np.average(place < 1, weights=weights))
        if len(labels.names) > 5:
            yield "top5", lambda weights: 100 * float(np.average(place < 5, weights=weights))
        yield "mean_class_accuracy", lambda weights: 100 * mean_of(shares_right(place, target, weights))
        if labels.kind == "shares":
            surprise = -(truth * np.log(outputs.clip(1e-300))).sum(1)
            yield "cross_entropy", lambda weights: float(np.average(surprise, weights=weights))


def ranks(outputs: Table, target: Int[np.ndarray, " videos"]) -> Int[np.ndarray, " videos"]:
    """How many classes are likelier than the true one; of equally likely ones, those before it count as likelier."""
    true = outputs[np.arange(len(target)), target][:, None]
    before = np.arange(outputs.shape[1]) < target[:, None]
    return ((outputs > true) | ((outputs == true) & before)).sum(1)


def shares_right(
    place: Int[np.ndarray, " videos"], target: Int[np.ndarray, " videos"], weights: Weights
) -> Iterator[float]:
    """Share of right videos of each class that there are videos of."""
    total = np.bincount(target, weights)
    right = np.bincount(target, weights * (place < 1))
    return (float(r / t) for r, t in zip(right, total) if t)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The videos sorted by their scores for one class, downwards."""

    order: Int[np.ndarray, " videos"]
    truth: Float[np.ndarray, " videos"]  # in that order
    last: Int[np.ndarray, " thresholds"]  # places of the last video of each score: equal scores are one threshold

    @classmethod
    def of(cls, scores: Float[np.ndarray, " videos"], truth: Float[np.ndarray, " videos"]) -> "Ranking":
        """The ranking by scores."""
        order = np.argsort(-scores, kind="stable")
        return cls(order, truth[order], np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1))

    def average_precision(self, weights: Weights) -> float:
        """Mean precision where recall grows; not a number without positives."""
        drawn = weights[self.order]
        hit, seen = np.cumsum(drawn * self.truth)[self.last], np.cumsum(drawn)[self.last]
        if not hit[-1]:
            return math.nan
        return float((np.diff(hit, prepend=0.0) * hit / np.maximum(seen, 1e-300)).sum() / hit[-1])


def r2(values: Float[np.ndarray, " videos"], truth: Float[np.ndarray, " videos"], weights: Weights) -> float:
    """Share of the variance that is explained; not a number where there is none."""
    spread = np.average((truth - np.average(truth, weights=weights)) ** 2, weights=weights)
    return float(1 - np.average((values - truth) ** 2, weights=weights) / spread) if spread else math.nan


def mean_of(values: Iterator[float]) -> float:
    """Mean of those that are numbers; not a number if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def by_class(results: Results) -> list[tuple[str, int, float]]:
    """(class, videos, percent right) of every class; of several classes at once, average precision."""
    outputs, truth = results.outputs(), results.truth()
    ones, names = np.ones(len(truth)), results.labels.names
    if results.labels.kind == "classes":
        parts = [Ranking.of(column, true).average_precision(ones) for column, true in zip(outputs.T, truth.T)]
        return [(name, int(t.sum()), 100 * part) for name, t, part in zip(names, truth.T, parts)]
    table = confusion(results)
    return [
        (name, int(row.sum()), 100 * float(row[place] / row.sum()) if row.sum() else math.nan)
        for place, (name, row) in enumerate(zip(names, table))
    ]


def confusion(results: Results) -> Int[np.ndarray, "x x"]:
    """How many videos of each class (rows) were taken for each class (columns).

    Raises:
        ValueError: labels that are not single classes or shares.
    """
    if results.labels.kind not in ("class", "shares"):
        raise ValueError(f"a confusion matrix is for one class a video; the labels are {results.labels.kind}")
    table = np.zeros((len(results.labels.names),) * 2, dtype=np.int64)
    np.add.at(table, (results.truth().argmax(1), results.outputs().argmax(1)), 1)
    return table


# ---------------------------------------------------------------------------- the file


def to_lines(results: Results) -> str:
    """The results as JSON lines: what they are of, then a row per video."""
    about = {"labels": asdict(results.labels), "views": results.views, "average": results.average}
    return "".join(json.dumps(line) + "\n" for line in (about, *map(asdict, results.rows)))


def from_lines(path: Path | str) -> Results:
    """The results that a file of `to_lines` holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or something else; names the line.
    """
    path, number = Path(path), 1
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        about = json.loads(first)
        named: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["labels"].items()}
        labels = Labels(**named)
        rows = []
        for line in lines:
            number += 1
            rows.append(row_of(json.loads(line), len(labels.names)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}, line {number}: not a line of results ({type(error).__name__}: {error})") from error
    return Results(labels, rows, about["views"], about["average"])


def row_of(fields: dict[str, Any], outputs: int) -> Row:
    """One row as it was written.

    Raises:
        ValueError: another number of outputs than there are names.
    """
    row = Row(**{**fields, "notes": tuple(fields["notes"])})
    if row.outputs is not None and len(row.outputs) != outputs:
        raise ValueError(f"{len(row.outputs)} outputs for {outputs} classes")
    return row


def lines_for_people(results: Results, found: dict[str, Number], classes: bool = True) -> list[str]:
    """The numbers in words, and with `classes` those of each class, or of the worst."""
    names = {"top1": "top-1", "top5": "top-5", "r2": "R²"}
    count = len(results.read)
    lines = [f"{count} videos, {results.views} views, {len(results.labels.names)} outputs; in brackets 95 % intervals"]
    for name, number in found.items():
        percent = " %" if name in ("top1", "top5", "mean_class_accuracy", "mean_average_precision") else ""
        digits = 2 if percent else 4
        lines.append(
            f"  {names.get(name, name.replace('_', ' ')):<24}{number.value:.{digits}f}{percent}"
            f"  ({number.low:.{digits}f} to {number.high:.{digits}f})"
        )
    if classes and results.labels.kind != "values":
        there = [one for one in by_class(results) if one[1]]
        if len(there) > LISTED:
            there = sorted(there, key=lambda one: one[2])[:WORST]
            lines.append(f"the {WORST} worst classes (all are in --json):")
        width = max(len(name) for name, _, _ in there)
        lines += [f"  {name:<{width}}  {share:6.1f} %  of {videos}" for name, videos, share in there]
    return lines


def unread_lines(results: Results, most: int = 5) -> Sequence[str]:
    """What to say about videos that could not be read."""
    bad = results.unread
    if not bad:
        return []
    more = [f"  ... and {len(bad) - most} more"] if len(bad) > most else []
    head = f"{len(bad)} of {len(results.rows)} videos cannot be read and are in no number:"
    return [head, *(f"  {row.error}" for row in bad[:most]), *more]
