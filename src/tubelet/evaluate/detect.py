"""What people in a video do: who is where at each key moment, and what a network says about the clip around it.

The video is decoded once, in order. Frames for the detector are dropped at once, those of clips when the last clip that
has them is done: memory is that of a few clips, however long the video is. What was found is kept by whoever asks.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data import remote
from tubelet.data.annotated import number
from tubelet.data.index import VideoError, shown_at
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.people import Detector
from tubelet.data.sampling import Around
from tubelet.data.stream import in_order
from tubelet.data.tracks import tracked
from tubelet.data.video import Video, probe
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.windows import Prepare

Actions = Callable[[UInt8[Tensor, "t h w c"], Sequence[Box]], Float[Tensor, "r x"]]
Moment = tuple[float, list[Box]]
Seen = tuple[float, list[Detection]]
"""Seconds of a key moment, and who is there."""


@dataclass(frozen=True, eq=False)
class Actor:
    """A network that says what people do, and what it needs to look."""

    actions: Actions
    """From the clip around a moment and the boxes in it to probabilities."""
    clip: Around
    """Which frames make the clip."""
    names: tuple[str, ...]
    """Of its classes."""
    gray: bool = False
    """It wants frames in grey."""
    prepare: Prepare | None = None
    """What becomes of each frame before it is kept (made smaller); boxes are shares, so they stay."""


@dataclass(frozen=True)
class Search:
    """How people are looked for, and followed."""

    detector: Detector
    """Finds them in frames."""
    every: float = 1.0
    """Seconds from one key moment to the next; the first is at the video's first frame."""
    per_second: float = 5.0
    """Frames a second in which the detector looks, to follow people from one key moment to the next; a whole number of
    them for each key moment, at least one."""
    overlap: float = 0.3
    """Least intersection over union of a person's boxes from frame to frame."""
    patience: float = 1.0
    """Seconds for which a person may be lost."""
    shortest: int = 2
    """Frames that a person has to be found in; fewer if the video has fewer."""

    def __post_init__(self) -> None:
        if not (0 < self.every < math.inf and 0 < self.per_second < math.inf):
            raise ValueError(
                f"people cannot be looked for every {self.every:g} seconds, {self.per_second:g} times a second; both "
                "have to be above 0"
            )

    @property
    def looks(self) -> int:
        """Frames in which the detector looks, for each key moment."""
        return max(round(self.every * self.per_second), 1)


def detections(
    path: Path | str,
    people: Search | Sequence[KeyFrame],
    actor: Actor | None = None,
    progress: Callable[[int, int], object] | None = None,
    looked: Callable[[float, list[Box]], object] | None = None,
) -> Iterator[Seen]:
    """What is found at each key moment, in order; without `actor` who is where, and nothing of what they do.

    `people` says how to look for them, or where they are known to be. Where no known box says whose it is, they are
    linked by how they overlap from one key moment to the next. `progress` is told how many key moments are done, and of
    how many; `looked`, where a detector looks, who is where at each look, key moments among them.

    Raises:
        VideoError: the video cannot be read (any further: what came before is right), or ends before a key moment.
        ValueError: the network gives something else than a probability of each class for each box.
    """
    video = probe(path)
    source: Iterator[Moment]
    if isinstance(people, Search):
        step = people.every / people.looks
        times = np.arange(int((video.seconds[-1] + 1e-6) / step) + 1) * step
        moments = times[:: people.looks]
        reel = Reel(video, people.detector, shown_at(video, times), moments, actor)
        source = followed(reel, times, people, looked)
    else:
        keys = sorted(people, key=lambda key: key.seconds)
        moments = np.array([key.seconds for key in keys])
        late = [moment for moment in moments.tolist() if moment > video.seconds[-1] + 1 / video.fps + 1e-6]
        if late:
            raise VideoError(
                f"{path} has no moment {late[0]:g} s, where there are boxes: its last frame is shown at "
                f"{video.seconds[-1]:.6g} s. Mend the list of boxes, or its time base"
            )
        reel = Reel(video, None, np.empty(0, dtype=np.int64), moments, actor)
        source = linked(keys)
    for turn, (seconds, boxes) in enumerate(source):
        clip = reel.clip(turn, bool(boxes))
        said = probabilities(actor, clip, boxes, path) if actor is not None and clip is not None else [()] * len(boxes)
        yield seconds, [Detection(str(path), "", seconds, box, one) for box, one in zip(boxes, said)]
        if progress is not None:
            progress(turn + 1, len(moments))


class Reel:
    """Frames of a video in order, for a detector and for the clips around key moments."""

    def __init__(
        self,
        video: Video,
        detector: Detector | None,
        looks: Int[np.ndarray, " looks"],
        moments: Float[np.ndarray, " moments"],
        actor: Actor | None,
    ) -> None:
        self.detector, self.looks, self.actor = detector, looks, actor
        self.looked, self.shown = np.zeros((2, video.frames), dtype=bool)
        self.looked[looks] = True
        self.clips: Int[np.ndarray, "moments t"] | None = None
        if actor is not None and len(moments):
            self.clips = np.stack([actor.clip.at(video.seconds, moment) for moment in moments.tolist()])
            self.shown[self.clips] = True
        both = np.flatnonzero(self.looked | self.shown)
        self.source = in_order(video, both, gray=actor is not None and actor.gray) if len(both) else iter(())
        self.found: dict[int, list[Box]] = {}
        self.held: dict[int, UInt8[Tensor, "h w c"]] = {}

    def advance(self) -> None:
        """Takes one more frame, for whom it may concern."""
        index, frame = next(self.source)
        if self.looked[index] and self.detector is not None:
            coloured = frame if frame.shape[2] == 3 else frame.repeat(3, axis=2)
            (self.found[index],) = self.detector(coloured[None])
        if self.shown[index] and self.actor is not None:
            picture = torch.from_numpy(frame)
            self.held[index] = picture if self.actor.prepare is None else self.actor.prepare(picture[None])[0]

    def boxes(self, turn: int) -> list[Box]:
        """What the detector finds when it looks for the `turn`-th time; asked for in order."""
        index = int(self.looks[turn])
        while index not in self.found:
            self.advance()
        self.found = {later: boxes for later, boxes in self.found.items() if later >= index}
        return self.found[index]

    def clip(self, turn: int, wanted: bool) -> UInt8[Tensor, "t h w c"] | None:
        """The clip around the `turn`-th key moment, if it is wanted; asked for in order."""
        if self.clips is None:
            return None
        indices = self.clips[turn].tolist()
        while wanted and indices[-1] not in self.held:
            self.advance()
        clip = torch.stack([self.held[index] for index in indices]) if wanted else None
        first = self.clips[turn + 1][0] if turn + 1 < len(self.clips) else math.inf
        self.held = {index: frame for index, frame in self.held.items() if index >= first}
        return clip


def followed(
    reel: Reel,
    times: Float[np.ndarray, " looks"],
    search: Search,
    looked: Callable[[float, list[Box]], object] | None,
) -> Iterator[Moment]:
    """The key moments, with the people that the detector finds; named, as they are followed in between."""
    looks = ((float(time), reel.boxes(turn)) for turn, time in enumerate(times))
    people = tracked(looks, least=search.overlap, patience=search.patience, shortest=min(search.shortest, len(times)))
    for turn, moment in enumerate(people):
        if looked is not None:
            looked(*moment)
        if turn % search.looks == 0:
            yield moment


def linked(keys: Sequence[KeyFrame]) -> Iterator[Moment]:
    """Known boxes; if none says whose it is, linked from one key moment to the next."""
    moments = ((key.seconds, list(key.boxes)) for key in keys)
    if any(box.person is not None for key in keys for box in key.boxes):
        return moments
    gaps = [after.seconds - before.seconds for before, after in pairwise(keys)]
    # Whoever is missing at a moment has no box there: that is known.
    return tracked(moments, patience=1.5 * float(np.median(gaps)) if gaps else 0.0, fill=False)


def probabilities(
    actor: Actor, clip: UInt8[Tensor, "t h w c"], boxes: Sequence[Box], where: Path | str
) -> list[tuple[float, ...]]:
    """What the network says about each box."""
    found = actor.actions(clip, boxes)
    if found.shape != (len(boxes), len(actor.names)):
        raise ValueError(
            f"the network gives {tuple(found.shape)} values for {len(boxes)} boxes and {len(actor.names)} classes"
        )
    if not found.isfinite().all():
        raise ValueError(f"{where}: the network gives NaN or infinity; were its weights trained to the end?")
    return [tuple(row) for row in found.tolist()]


# ---------------------------------------------------------------------------- what is written

PLACES = 6  # decimals of seconds and shares, as tables of boxes have them: fewer would name the frame before


def likely(one: Detection, names: Sequence[str], threshold: float) -> list[tuple[str, float]]:
    """The classes at or above a probability, the likeliest first."""
    pairs = [(name, value) for name, value in zip(names, one.probabilities) if value >= threshold]
    return sorted(pairs, key=itemgetter(1), reverse=True)


def by_person(found: Sequence[Detection]) -> list[tuple[str | None, list[Detection]]]:
    """Everybody's moments, people in the order in which they come; boxes of nobody known are together, last."""
    people: dict[str | None, list[Detection]] = {}
    for one in found:
        people.setdefault(one.box.person, []).append(one)
    return sorted(people.items(), key=lambda pair: (pair[0] is None, pair[1][0].seconds))


def in_between(seen: Sequence[Seen], looks: Iterable[Moment]) -> list[Detection]:
    """What was found at key moments and the boxes of the same people between them, who do what they do at the nearest.

    Whoever is at no key moment is left out, as nothing is told of them.
    """
    found = [one for _, people in seen for one in people]
    ways = {person: moments for person, moments in by_person(found) if person is not None}
    times = {person: np.array([one.seconds for one in moments]) for person, moments in ways.items()}
    known = {seconds for seconds, _ in seen}
    for seconds, boxes in looks:
        for box in boxes:
            if seconds not in known and box.person in times:
                nearest = ways[box.person][int(np.abs(times[box.person] - seconds).argmin())]
                found.append(replace(nearest, seconds=seconds, box=box))
    return found


def to_dict(path: Path | str, seen: Sequence[Seen], names: Sequence[str], threshold: float) -> dict[str, Any]:
    """What was found, for JSON; docs/detection.md says what is what."""
    video = probe(path)
    people = []
    for person, moments in by_person([one for _, people in seen for one in people]):
        told = [
            {
                "seconds": round(one.seconds, PLACES),
                "box": [round(value, PLACES) for value in one.box.corners],
                "score": round(one.box.score, 4),
                "actions": [
                    {"label": name, "probability": round(value, 4)} for name, value in likely(one, names, threshold)
                ],
            }
            for one in moments
        ]
        people.append({"person": person, "start": told[0]["seconds"], "end": told[-1]["seconds"], "moments": told})
    size = [video.width, video.height]
    return {
        "video": remote.shown(path),
        "fps": round(video.fps, 3),
        "size": size,
        "names": list(names),
        "threshold": threshold if names else None,
        "moments": [round(seconds, PLACES) for seconds, _ in seen],
        "people": people,
    }


def to_csv(path: Path | str, seen: Sequence[Seen], names: Sequence[str], threshold: float) -> str:
    """What was found, a row for each action of each box: what `--boxes` and fine-tuning read, labels to be mended.

    `score` is that of the box, `probability` that of the label; both are empty where there is none. A row without a box
    is a moment at which nobody is there. Paths are absolute.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["path", "seconds", "x1", "y1", "x2", "y2", "label", "score", "person", "probability"])
    video = remote.shown(remote.absolute(path))
    for seconds, people in seen:
        at = [video, number(seconds)]
        if not people:
            table.writerow([*at, *[""] * 8])
        for one in people:
            corners = [number(value) for value in one.box.corners]
            score, person = number(one.box.score), one.box.person or ""
            said = [(name, f"{value:.4f}") for name, value in likely(one, names, threshold)]
            table.writerows([*at, *corners, name, score, person, chance] for name, chance in said or [("", "")])
    return out.getvalue()
