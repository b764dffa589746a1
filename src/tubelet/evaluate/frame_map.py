"""Frame mAP: how well it is found who does what, in single frames, class by class; as AVA's official evaluation counts.

The detections of a class, of all frames, are taken by their scores, the surest first. Each is held against the true
boxes of its class in its own frame: it hits the one that it overlaps most, if their overlap (IoU) reaches the threshold
and nobody has hit that one before; else it is false. Average precision is the area under the curve of precision over
recall after precision was made to fall nowhere less than later (all points, not 11). The mean is over the classes that
have true boxes.

Every number is a function of weights, one per video, as in `results`: so intervals come from draws of whole videos.

Source: the evaluation of ActivityNet's AVA task: the Pascal evaluator of TensorFlow's object detection, without
non-maximum suppression. Where it leaves open which of equal scores comes first, here it is the one that is given first.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tubelet.data.items import Item
from tubelet.data.keyframes import KeyFrame
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.results import FEW, Number, Weights, drawn, mean_of
from tubelet.nn.roi import iou

Frame = tuple[str, str]  # video and stamp


def frame_of(one: KeyFrame | Detection) -> Frame:
    """What a moment of a video is known by."""
    return one.video, one.stamp


def key_of(item: Item) -> KeyFrame:
    """The key frame that an item is.

    Raises:
        ValueError: it is a video.
    """
    if item.key is None:
        raise ValueError(f"{item.path} is a video without boxes; expected key frames with some")
    return item.key


@dataclass(frozen=True, eq=False)
class Ranked:
    """The detections of one class, the surest first."""

    scores: Float[np.ndarray, " n"]
    hits: Bool[np.ndarray, " n"]
    """Which of them are true."""
    videos: Int[np.ndarray, " n"]
    """Which video each is of."""
    boxes: Float[np.ndarray, " v"]
    """True boxes of each video."""

    def average_precision(self, weights: Weights | None = None) -> float:
        """In percent; not a number without true boxes."""
        weights = np.ones(len(self.boxes)) if weights is None else weights
        total = float(weights @ self.boxes)
        if not total:
            return float("nan")
        places = np.flatnonzero(self.hits)  # precision is highest right after hits
        each = weights[self.videos[places]]
        seen = np.cumsum(weights[self.videos])[places]
        precision = np.cumsum(each) / np.maximum(seen, 1e-300)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        return 100 * float(each @ highest) / total


@dataclass(frozen=True, eq=False)
class FrameMap:
    """What was counted, by class."""

    classes: dict[str, Ranked]
    videos: tuple[str, ...]
    frames: int
    """Key frames with and without boxes, but for excluded ones."""
    strange: int
    """Frames with detections that are no key frames: all that is found in them is false."""

    @cached_property
    def per_class(self) -> dict[str, float]:
        """Average precision in percent; not a number where there are no true boxes."""
        return {name: ranked.average_precision() for name, ranked in self.classes.items()}

    @property
    def mean(self) -> float:
        """Frame mAP in percent, over the classes that have true boxes; not a number if none has."""
        return mean_of(iter(self.per_class.values()))

    @property
    def boxes(self) -> dict[str, int]:
        """True boxes of each class."""
        return {name: round(ranked.boxes.sum()) for name, ranked in self.classes.items()}

    @property
    def detections(self) -> dict[str, int]:
        """Detections of each class."""
        return {name: len(ranked.scores) for name, ranked in self.classes.items()}

    def number(self, seed: int = 0, draws: int = FEW) -> Number:
        """Frame mAP with the interval of 95 % that tells how much depends on which videos were tested.

        Of a single video there is no interval.
        """
        if len(self.videos) < 2:
            return Number(self.mean, float("nan"), float("nan"))

        def measure(weights: Weights) -> float:
            return mean_of(ranked.average_precision(weights) for ranked in self.classes.values())

        return drawn({"map": measure}, len(self.videos), draws, seed)["map"]


def frame_map(
    detections: Iterable[Detection],
    truth: Iterable[Item],
    names: Sequence[str],
    evaluated: Sequence[str] = (),
    excluded: Collection[Frame] = (),
    threshold: float = 0.5,
    most: int | None = None,
) -> FrameMap:
    """What detections are worth, against the boxes of key frames, whose labels are their classes.

    `names` are those of the detections' probabilities; the score for a class is its probability times that of the box,
    and where it is not a number, the class was not detected. Only classes that are `evaluated` count, none: all of
    `names`. Frames that are `excluded`, (video, stamp), count on neither side. Detections in frames without true boxes
    are false; those without any area are left out. `most`: only so many boxes with a class count of a
    frame, the surest: 50 in AVA's official script, all in the copy of it that VideoMAE's numbers are from.

    Raises:
        ValueError: classes that are not in `names`, other than one probability for each, two key frames of one name, or
            items that are none.
    """
    names, chosen = list(names), list(evaluated or names)
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"{unknown[0]!r} cannot be evaluated: the {len(names)} classes have no such name")
    keys = [key for key in map(key_of, truth) if frame_of(key) not in excluded]
    frames = {frame_of(key): number for number, key in enumerate(keys)}
    if len(frames) < len(keys):
        twice = next(key for number, key in enumerate(keys) if frames[frame_of(key)] != number)
        raise ValueError(f"two key frames are called {twice.stamp!r} of {twice.video!r}; put their boxes together")
    found = [one for one in detections if frame_of(one) not in excluded and has_area(one.box.corners)]
    for one in found:
        frames.setdefault(frame_of(one), len(frames))
        if (count := len(one.probabilities)) != len(names):
            raise ValueError(f"{one.video} at {one.stamp}: a box has {count} probabilities for {len(names)} classes")
    videos = {video: number for number, video in enumerate(dict.fromkeys(video for video, _ in frames))}
    there, true, done = boxes_of(keys, names)
    columns = [names.index(name) for name in chosen]
    here = np.array([frames[frame_of(one)] for one in found], dtype=np.int64)
    scores = np.array([one.probabilities for one in found], dtype=np.float64).reshape(-1, len(names))[:, columns]
    scores *= np.array([one.box.score for one in found], dtype=np.float64)[:, None]
    if most is not None:
        scores[~surest(scores, here, most)] = np.nan
    pairs = overlapping(corners_of([one.box.corners for one in found]), here, true, there, threshold)
    of_frame = np.array([videos[video] for video, _ in frames], dtype=np.int64)
    classes = {}
    for place, (name, column) in enumerate(zip(chosen, columns)):
        order = np.argsort(-scores[:, place], kind="stable")  # what is not a number comes last
        order = order[: np.count_nonzero(~np.isnan(scores[:, place]))]
        boxes = np.bincount(of_frame[there[done[:, column]]], minlength=len(videos)).astype(np.float64)
        classes[name] = Ranked(scores[order, place], hits(order, pairs, done[:, column]), of_frame[here[order]], boxes)
    return FrameMap(classes, tuple(videos), len(keys), len(frames) - len(keys))


def boxes_of(
    keys: Sequence[KeyFrame], names: Sequence[str]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m 4"], Bool[np.ndarray, "m x"]]:
    """Of all true boxes the number of their key frame, their corners, and which classes they are of.

    Raises:
        ValueError: a class that is not in `names`.
    """
    boxes = [(number, box) for number, key in enumerate(keys) for box in key.boxes]
    done = np.zeros((len(boxes), len(names)), dtype=bool)
    places = {name: place for place, name in enumerate(names)}
    for row, (number, box) in enumerate(boxes):
        for name in box.labels:
            if name not in places:
                key = keys[number]
                raise ValueError(f"{name!r}, done in {key.video} at {key.stamp}, is not among the {len(names)} classes")
            done[row, places[name]] = True
    numbers = np.array([number for number, _ in boxes], dtype=np.int64)
    return numbers, corners_of([box.corners for _, box in boxes]), done


def has_area(corners: Sequence[float]) -> bool:
    """Whether a box has width and height."""
    return corners[0] < corners[2] and corners[1] < corners[3]


def corners_of(boxes: Sequence[Sequence[float]]) -> Float[np.ndarray, "r 4"]:
    """Boxes as a table."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def surest(scores: Float[np.ndarray, "n x"], frames: Int[np.ndarray, " n"], most: int) -> Bool[np.ndarray, "n x"]:
    """Which scores are among the highest of their frame; of equal ones, those that come first."""
    each = np.repeat(frames, scores.shape[1])
    order = np.lexsort((-scores.ravel(), each))
    first = np.searchsorted(each[order], each[order])
    kept = np.empty(len(order), dtype=bool)
    kept[order] = np.arange(len(order)) - first < most
    return kept.reshape(scores.shape)


def overlapping(
    found: Float[np.ndarray, "n 4"],
    here: Int[np.ndarray, " n"],
    true: Float[np.ndarray, "m 4"],
    there: Int[np.ndarray, " m"],
    threshold: float,
) -> Int[np.ndarray, "pairs 2"]:
    """Which boxes overlap which true ones of their frame enough: by box, of each those that it overlaps most first."""
    of_frame: dict[int, list[int]] = defaultdict(list)
    for row, frame in enumerate(there.tolist()):
        of_frame[frame].append(row)
    asking: dict[int, list[int]] = defaultdict(list)
    for row, frame in enumerate(here.tolist()):
        if frame in of_frame:
            asking[frame].append(row)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(here[:0], there[:0], np.zeros(0))]
    for frame, rows in asking.items():
        overlap = iou(torch.from_numpy(found[rows]), torch.from_numpy(true[of_frame[frame]])).numpy()
        down, across = np.nonzero(overlap >= threshold)
        parts.append((np.array(rows)[down], np.array(of_frame[frame])[across], overlap[down, across]))
    boxes, trues, overlaps = (np.concatenate(part) for part in zip(*parts))
    return np.stack([boxes, trues], axis=1)[np.lexsort((trues, -overlaps, boxes))]


def hits(
    order: Int[np.ndarray, " n"], pairs: Int[np.ndarray, "pairs 2"], of_class: Bool[np.ndarray, " m"]
) -> Bool[np.ndarray, " n"]:
    """Which detections of a class, in their order, are true."""
    boxes, trues = pairs[of_class[pairs[:, 1]]].T
    each, first = np.unique(boxes, return_index=True)  # of each the one that it overlaps most
    wanted = np.full(max(order.max(initial=-1), each.max(initial=-1)) + 1, -1)
    wanted[each] = trues[first]
    asking = np.flatnonzero(wanted[order] >= 0)
    found = np.zeros(len(order), dtype=bool)
    found[asking[np.unique(wanted[order[asking]], return_index=True)[1]]] = True
    return found
