"""Who is who from frame to frame: boxes linked over time by how much they overlap.

Source: SORT (Bewley 2016): boxes go to where tracks are expected so that the overlap of all together is largest. Here a
track is expected where its mean velocity brings it, in place of a Kalman filter.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from tubelet.data.keyframes import Box
from tubelet.data.overlaps import iou

HAIR = 1e-6  # seconds; times are not exact


@dataclass(eq=False)
class Track:
    """One person, as far as seen."""

    first: float  # seconds
    last: float
    box: Box
    velocity: Float[np.ndarray, " 2"]  # of the middle, in shares a second
    seen: int = 1  # frames
    name: str | None = None  # given when the first box comes out, so that numbers have no gaps

    def expected(self, seconds: float) -> Float[np.ndarray, " 4"]:
        """Where it should be."""
        return np.array(self.box.corners) + np.tile(self.velocity * (seconds - self.last), 2)

    def follow(self, seconds: float, box: Box) -> None:
        """It was seen again."""
        moved = (middle(box) - middle(self.box)) / max(seconds - self.last, HAIR)
        self.velocity = moved if self.seen == 1 else (self.velocity + moved) / 2
        self.last, self.box, self.seen = seconds, box, self.seen + 1


@dataclass(eq=False)
class Waiting:
    """A frame whose boxes are not all decided."""

    seconds: float
    boxes: list[tuple[Track, Box]]


def tracked(
    frames: Iterable[tuple[float, list[Box]]],
    *,
    least: float = 0.3,
    patience: float = 1.0,
    shortest: int = 1,
    fill: bool = True,
) -> Iterator[tuple[float, list[Box]]]:
    """The same frames, in order, with `person` set: "1", "2" and so on, as they come.

    A box continues a track if their intersection over union is at least `least` where the track is expected. Who is not
    seen for up to `patience` seconds and then again was there meanwhile: boxes between the two are put in, with the
    lower of their scores (not without `fill`). Who is seen in fewer than `shortest` frames is left out.

    A frame comes out when it is decided who is in it: at most `patience` seconds, or `shortest` frames of each
    `patience` seconds, later; no more is kept. Ties go to who was there first, then to the first box.

    Raises:
        ValueError: settings that cannot be used, or times that do not ascend.
    """
    if not 0 < least <= 1 or patience < 0 or shortest < 1:
        raise ValueError(
            f"tracks with least={least:g}, patience={patience:g} and shortest={shortest} cannot be made; expected an "
            "overlap above 0 and up to 1, seconds of 0 or more, and frames of 1 or more"
        )
    tracks: list[Track] = []
    waiting: deque[Waiting] = deque()
    named = 0

    def decided(end: bool) -> Iterator[tuple[float, list[Box]]]:
        nonlocal named
        while waiting:
            frame = waiting[0]
            # Who was there before and is not seen in it may be seen again; who is new may stay too short.
            undecided = any(
                one.first <= frame.seconds and (one.last < frame.seconds or one.seen < shortest) for one in tracks
            )
            if undecided and not end:
                return
            waiting.popleft()
            boxes = []
            for track, box in frame.boxes:
                if track.seen >= shortest:
                    if track.name is None:
                        named += 1
                        track.name = str(named)
                    boxes.append(replace(box, person=track.name))
            yield frame.seconds, boxes

    before = -np.inf
    for seconds, boxes in frames:
        if seconds <= before:
            raise ValueError(f"frames at {before:g} s and then {seconds:g} s do not ascend; sort them by time")
        before = seconds
        tracks = [one for one in tracks if one.last >= seconds - patience - HAIR]
        overlap = iou(
            np.array([one.expected(seconds) for one in tracks]).reshape(-1, 4),
            np.array([box.corners for box in boxes], dtype=np.float64).reshape(-1, 4),
        )
        pairs = {column: row for row, column in assigned(np.where(overlap >= least, overlap, 0))}
        now = Waiting(seconds, [])
        born = []
        for column, box in enumerate(boxes):
            if column in pairs:
                track = tracks[pairs[column]]
                for frame in waiting:  # those in which it was missed
                    if fill and track.last < frame.seconds:
                        frame.boxes.append((track, between(track, seconds, box, frame.seconds)))
                track.follow(seconds, box)
            else:
                track = Track(seconds, seconds, box, np.zeros(2))
                born.append(track)
            now.boxes.append((track, box))
        tracks += born
        waiting.append(now)
        yield from decided(end=False)
    yield from decided(end=True)


def between(track: Track, seconds: float, box: Box, at: float) -> Box:
    """Where a track was at a moment between its last box and the one at `seconds`."""
    share = (at - track.last) / (seconds - track.last)
    x1, y1, x2, y2 = ((1 - share) * np.array(track.box.corners) + share * np.array(box.corners)).tolist()
    return Box((x1, y1, x2, y2), score=min(track.box.score, box.score))


def middle(box: Box) -> Float[np.ndarray, " 2"]:
    """The middle of a box, in shares."""
    x1, y1, x2, y2 = box.corners
    return np.array([x1 + x2, y1 + y2]) / 2


def assigned(gains: Float[np.ndarray, "r s"]) -> list[tuple[int, int]]:
    """Pairs of rows and columns, each at most once, whose gains have the largest sum; only gains above 0 make a pair.

    Exact, in time that grows with the third power at worst: shortest augmenting paths (the Hungarian method).

    >>> assigned(np.array([[0.9, 0.8], [0.8, 0.0]]))
    [(0, 1), (1, 0)]
    """
    if not gains.size:
        return []
    if gains.shape[0] > gains.shape[1]:
        return sorted((row, column) for column, row in assigned(gains.T))
    rows, columns = gains.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.full(columns + 1, -1)  # the row of each column; the last column is where a search begins
    for row in range(rows):
        owner[columns], here = row, columns
        cost, way, done = np.full(columns, np.inf), np.full(columns, columns), np.zeros(columns + 1, dtype=bool)
        while owner[here] >= 0:
            done[here] = True
            reduced = -gains[owner[here]] - row_price[owner[here]] - column_price[:columns]
            better = ~done[:columns] & (reduced < cost)
            cost[better], way[better] = reduced[better], here
            there = int(np.where(done[:columns], np.inf, cost).argmin())
            step = cost[there]
            row_price[owner[done]] += step
            column_price[done] -= step
            cost[~done[:columns]] -= step
            here = there
        while here != columns:
            owner[here] = owner[way[here]]
            here = int(way[here])
    return sorted((int(owner[c]), c) for c in range(columns) if owner[c] >= 0 and gains[owner[c], c] > 0)
