"""Videos that show the same: re-encoded, resized, trimmed or mirrored copies.

A print of a video is the coarse shape of its picture at even times. Copies are looked for in three steps, none of which
compares all with all: the signs of the coarsest parts make keys (a perceptual hash); videos with a key in common are
candidates; of these the prints are laid over each other at every offset in time, as they are and mirrored. What is
asked for then is that the pictures are alike *and change alike*: two clips of one scene before one camera share the
first and not the second. So nothing can be said of a video in which nothing changes, and it is left out and counted.

Source: signs of a cosine transform as a perceptual hash are pHash's (Zauner 2010, sec. 3.2.1); bands of a hash as keys
are locality-sensitive hashing (Indyk and Motwani 1998).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from tubelet.data.items import Item
from tubelet.data.parts import part_of
from tubelet.data.sampling import HAIR
from tubelet.data.video import frames_at, probe

Print = Float[np.ndarray, "_ 6 6"]
Waves = Float[np.ndarray, "_ 35"]

PACE = 10  # moments a second
MOMENTS = 64  # at most, from the start
SIDE, KEPT = 32, 6  # pixels of a moment, and how many of its frequencies stay, each way
CROWD = 64  # videos with one key: what more of them share tells nothing apart
LEAST = 10  # moments that two prints must have in common, and half of the shorter
STILL = 1.0  # root mean square of what changes, in steps of brightness: less is a coder's noise
PICTURE = 0.9  # correlation of the pictures, and
CHANGE = 0.95  # of what changes in them, of copies
MIRROR = np.tile(np.where(np.arange(KEPT) % 2, -1, 1), KEPT)[1:].astype(np.float32)  # odd waves change their sign


@dataclass(frozen=True)
class Alike:
    """Two videos that show the same."""

    one: int  # places in the list of prints
    other: int
    likeness: float  # of what changes: 1 is the same
    later: float  # seconds after which what the other begins with is seen in the one
    mirrored: bool


def print_of(item: Item) -> Print | None:
    """The print of a video's first seconds, or of those of the part that is meant; none where it is a picture or so.

    Raises:
        VideoError: it cannot be read.
    """
    video = probe(item.path)
    part = part_of(item, video.seconds)
    seconds = video.seconds[part] - video.seconds[part.start]
    times = np.arange(MOMENTS) / PACE
    times = times[times <= seconds[-1] + HAIR]
    if len(times) < LEAST:
        return None
    frames = part.start + np.searchsorted(seconds, times + HAIR, side="right") - 1
    clip = frames_at(video, frames, size=(SIDE, SIDE), gray=True)
    return shape(clip.frames[..., 0].numpy())


def shape(pictures: Shaped[np.ndarray, "t s s"]) -> Print:
    """The coarsest part of a cosine transform of square pictures, over their size: in steps of brightness."""
    waves = cosines(pictures.shape[-1])
    return (waves @ pictures.astype(np.float32) @ waves.T / pictures.shape[-1]).astype(np.float16)


@cache
def cosines(size: int) -> Float[np.ndarray, "k s"]:
    """The first rows of the orthonormal cosine transform (DCT-II)."""
    angles = np.pi * np.arange(KEPT)[:, None] * (np.arange(size) + 0.5) / size
    return (np.cos(angles) * np.sqrt(2 / size) / np.where(np.arange(KEPT), 1, np.sqrt(2))[:, None]).astype(np.float32)


def alike(prints: Sequence[Print | None], firsts: int | None = None) -> list[Alike]:
    """Pairs that show the same, in order; with `firsts`, only those of one of the first so many and one behind them."""
    waves = [None if one is None else waved(one) for one in prints]
    found = []
    for one, other in sorted(candidates([None if w is None else keys_of(w) for w in waves], firsts)):
        first, second = waves[one], waves[other]
        assert first is not None
        assert second is not None
        both = [laid_over(first, second * sign) for sign in (1.0, MIRROR)]
        mirrored = both[1][0] > both[0][0]
        likeness, later = both[mirrored]
        if likeness >= CHANGE:
            found.append(Alike(one, other, min(round(likeness, 4), 1.0), later / PACE, mirrored))
    return found


def waved(one: Print) -> Waves:
    """A print in rows, without the mean brightness of each moment, which differs from coder to coder."""
    return one.reshape(len(one), -1)[:, 1:].astype(np.float32)


def still(one: Print) -> bool:
    """Whether nothing changes in it that is more than a coder's noise."""
    return bool(waved(one).var(axis=0).sum() < STILL**2)


def keys_of(rows: Waves) -> Int[np.ndarray, "2 _"]:
    """The signs of a print at each moment, as numbers; and those of it in a mirror."""
    bits = 1 << np.arange(rows.shape[1], dtype=np.int64)
    return np.stack([(rows > 0) @ bits, (rows * MIRROR > 0) @ bits])


def candidates(keys: Sequence[Int[np.ndarray, "2 _"] | None], firsts: int | None = None) -> set[tuple[int, int]]:
    """Pairs that have a key in common, the second as it is or in a mirror; keys that very many have do not count."""
    plain: dict[int, list[int]] = defaultdict(list)
    known = [(number, pair) for number, pair in enumerate(keys) if pair is not None]
    for number, pair in known:
        for key in np.unique(pair[0]).tolist():
            plain[key].append(number)
    found: set[tuple[int, int]] = set()
    for number, pair in known:
        for key in np.unique(pair).tolist():
            others = plain.get(key, ())
            if len(others) <= CROWD:
                found.update((min(number, other), max(number, other)) for other in others if other != number)
    return found if firsts is None else {pair for pair in found if pair[0] < firsts <= pair[1]}


def laid_over(one: Waves, other: Waves) -> tuple[float, float]:
    """How alike two prints change at the offset at which that is most, and this offset, in moments; 0 and 0 where at
    none they show the same.

    Between two moments of the one, their mean is taken: a copy need not begin at a whole number of moments.
    """
    least = max(LEAST, min(len(one), len(other)) // 2)
    best = (0.0, 0.0)
    for half, rows in ((0.0, one), (0.5, (one[1:] + one[:-1]) / 2)):
        if len(rows) < least:
            continue
        offsets = np.arange(least - len(other), len(rows) - least + 1)
        likeness = correlations(rows.astype(np.float64), other.astype(np.float64), offsets)
        place = int(likeness.argmax())
        best = max(best, (float(likeness[place]), float(offsets[place]) + half))
    return best


def correlations(
    one: Float[np.ndarray, "a w"], other: Float[np.ndarray, "b w"], offsets: Int[np.ndarray, " o"]
) -> Float[np.ndarray, " o"]:
    """Correlation of what changes in two prints, the second's first moment laid over each of these of the first; 0
    where their pictures are not alike, or where too little changes to tell."""
    first, stop = np.maximum(0, offsets), np.minimum(len(one), len(other) + offsets)
    count = stop - first
    products = one @ other.T
    lengths = [np.sqrt((rows**2).sum(1)) + 1e-6 for rows in (one, other)]
    diagonal = np.subtract.outer(np.arange(len(one)), np.arange(len(other))) + len(other) - 1

    def along(table: Float[np.ndarray, "a b"]) -> Float[np.ndarray, " o"]:
        return np.bincount(diagonal.ravel(), table.ravel())[offsets + len(other) - 1]

    def between(rows: Float[np.ndarray, "c w"], begin: Any, end: Any) -> tuple[Any, Any]:
        sums, squares = (np.concatenate([np.zeros_like(x[:1]), x]).cumsum(0) for x in (rows, (rows**2).sum(1)))
        total = sums[end] - sums[begin]
        return total, squares[end] - squares[begin] - (total**2).sum(1) / count

    (total, energy), (its, its_energy) = between(one, first, stop), between(other, first - offsets, stop - offsets)
    pictures = along(products / np.outer(*lengths)) / count
    change = along(products) - (total * its).sum(1) / count
    told = (pictures >= PICTURE) & (np.minimum(energy, its_energy) >= STILL**2 * count)
    return np.where(told, change / np.sqrt(np.maximum(energy * its_energy, 1e-9)), 0.0)
