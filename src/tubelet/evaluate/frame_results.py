"""What a test over key frames found: a row for every key frame, its numbers, and a file that holds both."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.frame_map import Frame, FrameMap, frame_map, frame_of, key_of
from tubelet.evaluate.official_csv import seconds_of
from tubelet.evaluate.results import LISTED, WORST

BEST = 5  # classes: with more than LISTED, people are told so many


@dataclass(frozen=True)
class Seen:
    """One key frame of a test."""

    item: int  # its place among the key frames that were looked at
    path: str
    key: KeyFrame  # with the true boxes
    detections: tuple[Detection, ...]
    error: str | None = None  # why nothing was found: it could not be read
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrameResults:
    """A test over key frames: what the probabilities are of, and a row for every key frame."""

    names: tuple[str, ...]
    """The classes, in the order of the probabilities."""
    evaluated: tuple[str, ...]
    """Those that count."""
    boxes: Literal["found", "true"]
    """Where the network was made to look: where a detector found people, or where they are."""
    rows: list[Seen]
    excluded: int = 0
    """Key frames of the data set that do not count, and were not looked at."""

    @property
    def detections(self) -> list[Detection]:
        """Everything that was found."""
        return [one for row in self.rows for one in row.detections]

    @property
    def unread(self) -> list[Seen]:
        """The key frames that could not be read: their boxes count, and are found by nobody."""
        return [row for row in self.rows if row.error is not None]

    def counted(self, threshold: float = 0.5, most: int | None = None) -> FrameMap:
        """Frame mAP; as `frame_map`.

        Raises:
            ValueError: not one key frame could be read.
        """
        if self.rows and len(self.unread) == len(self.rows):
            raise ValueError(
                f"none of the {len(self.rows)} key frames could be read, so there is nothing to score: "
                f"{self.rows[0].error}"
            )
        truth = [Item(Path(row.path), key=row.key) for row in self.rows]
        return frame_map(self.detections, truth, self.names, self.evaluated, (), threshold, most)


def of_detections(
    detections: Iterable[Detection], truth: Sequence[Item], excluded: Collection[Frame] = ()
) -> list[Seen]:
    """A row for every key frame that is not excluded, with what was detected there; and for every other frame with
    detections, where there is nobody.

    Raises:
        ValueError: detections in none of the key frames.
    """
    keys = [(item, key_of(item)) for item in truth]
    meant = {(key.video, seconds_of(key.stamp)): frame_of(key) for _, key in keys}  # 0902 may be written 902
    here: dict[Frame, list[Detection]] = defaultdict(list)
    for one in detections:
        here[meant.get((one.video, seconds_of(one.stamp)), frame_of(one))].append(one)
    if here and not any(frame_of(key) in here for _, key in keys):
        raise ValueError(
            f"nothing was detected in any of the {len(keys)} key frames, but in others, as {next(iter(here))}"
        )
    known = {frame_of(key) for _, key in keys}
    elsewhere = [
        (found[0].video, KeyFrame(found[0].seconds, (), *frame)) for frame, found in here.items() if frame not in known
    ]
    kept = [(str(item.path), key) for item, key in keys] + elsewhere
    kept = [(path, key) for path, key in kept if frame_of(key) not in excluded]
    return [
        Seen(place, path, key, tuple(replace(one, stamp=key.stamp) for one in here.get(frame_of(key), ())))
        for place, (path, key) in enumerate(kept)
    ]


# ---------------------------------------------------------------------------- for people and programs


def lines_for_people(results: FrameResults, counted: FrameMap, seed: int = 0) -> list[str]:
    """The numbers in words, and average precision of each class, or of the best and the worst."""
    number, boxes = counted.number(seed), sum(len(row.key.boxes) for row in results.rows)
    there = sorted(table(counted), key=lambda one: -one[3])
    interval = "" if math.isnan(number.low) else f"  ({number.low:.2f} to {number.high:.2f})"
    without = len(counted.classes) - len(there)
    lines = [
        f"{len(results.rows)} key frames of {len(counted.videos)} videos with {boxes} boxes"
        + (f" ({results.excluded} key frames do not count)" if results.excluded else "")
        + f"; looked at {len(results.detections)} {results.boxes} boxes; in brackets the 95 % interval",
        f"  {'frame mAP at IoU 0.5':<24}{number.value:.2f} %{interval}",
        f"  over {len(there)} classes" + (f"; {without} others have no box here" if without else ""),
    ]
    width = max((len(name) for name, *_ in there), default=0)
    told = [f"  {name:<{width}}  {share:6.2f} %  of {true} boxes" for name, true, _, share in there]
    if len(told) > LISTED:
        told = [
            f"the {BEST} best classes:",
            *told[:BEST],
            f"the {WORST} worst (all are in --json):",
            *told[-WORST:],
        ]
    return lines + told


def table(counted: FrameMap) -> list[tuple[str, int, int, float]]:
    """(class, true boxes, detections, average precision in percent) of the classes that have true boxes."""
    boxes, found = counted.boxes, counted.detections
    return [(name, boxes[name], found[name], share) for name, share in counted.per_class.items() if boxes[name]]


def unread_lines(results: FrameResults, most: int = 5) -> Sequence[str]:
    """What to say about key frames that could not be read."""
    bad = results.unread
    if not bad:
        return []
    more = [f"  ... and {len(bad) - most} more"] if len(bad) > most else []
    head = f"{len(bad)} of {len(results.rows)} key frames cannot be read; nothing is found there, which counts:"
    return [head, *(f"  {row.error}" for row in bad[:most]), *more]


def summary(results: FrameResults, counted: FrameMap, seed: int = 0) -> dict[str, Any]:
    """The numbers for programs: percent."""
    return {
        "key_frames": len(results.rows),
        "videos": len(counted.videos),
        "boxes": sum(len(row.key.boxes) for row in results.rows),
        "detections": len(results.detections),
        "looked_at": results.boxes,
        "excluded": results.excluded,
        "unreadable": [{"path": row.path, "at": row.key.stamp, "error": row.error} for row in results.unread],
        "numbers": {"frame_map": asdict(counted.number(seed))},
        "classes": [
            {"name": name, "boxes": boxes, "detections": found, "average_precision": share}
            for name, boxes, found, share in table(counted)
        ],
    }


# ---------------------------------------------------------------------------- the file


def to_lines(results: FrameResults) -> Iterator[str]:
    """The results as JSON lines: what they are of, then a row per key frame."""
    about = {
        "names": results.names,
        "evaluated": results.evaluated,
        "boxes": results.boxes,
        "excluded": results.excluded,
    }
    yield json.dumps({"key_frames": about}) + "\n"
    for row in results.rows:
        fields = asdict(row) | {
            "detections": [{"box": asdict(one.box), "probabilities": one.probabilities} for one in row.detections]
        }
        yield json.dumps(fields) + "\n"


def is_of_key_frames(path: Path | str) -> bool:
    """Whether a file of results is one of key frames, by its first line."""
    with open(path, "rb") as file:
        return file.read(16).startswith(b'{"key_frames":')


def from_lines(path: Path | str) -> FrameResults:
    """The results that a file of `to_lines` holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or something else; names the line.
    """
    path, number = Path(path), 1
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with open(path, encoding="utf-8") as file:
            about = json.loads(next(file, ""))["key_frames"]
            names, rows = tuple(about["names"]), []
            for line in file:
                number += 1
                rows.append(row_of(json.loads(line), len(names)))
            return FrameResults(names, tuple(about["evaluated"]), about["boxes"], rows, about["excluded"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}, line {number}: not a line of results ({type(error).__name__}: {error})") from error


def row_of(fields: dict[str, Any], outputs: int) -> Seen:
    """One row as it was written.

    Raises:
        ValueError: another number of probabilities than there are classes.
    """
    key = fields["key"]
    key = KeyFrame(**{**key, "boxes": tuple(map(box_of, key["boxes"]))})
    found = tuple(
        Detection(key.video, key.stamp, key.seconds, box_of(one["box"]), tuple(one["probabilities"]))
        for one in fields["detections"]
    )
    for one in found:
        if len(one.probabilities) != outputs:
            raise ValueError(f"{len(one.probabilities)} probabilities for {outputs} classes")
    return Seen(**{**fields, "key": key, "detections": found, "notes": tuple(fields["notes"])})


def box_of(fields: dict[str, Any]) -> Box:
    """One box as it was written."""
    return Box(**{**fields, "corners": tuple(fields["corners"]), "labels": tuple(fields["labels"])})
