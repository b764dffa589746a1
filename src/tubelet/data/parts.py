"""Part of a video: lists may mean some seconds of a file only."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from tubelet.data.index import VideoError
from tubelet.data.items import Item
from tubelet.data.sampling import HAIR, Around
from tubelet.data.seconds import clip_of_seconds, is_cut
from tubelet.data.video import frames_at
from tubelet.types import Clip, Sampler


def clip_of(
    item: Item,
    sampler: Sampler,
    rng: np.random.Generator | None = None,
    *,
    gray: bool = False,
    vectors: bool = False,
) -> Clip:
    """A clip of an item, from its part of the video only; without `rng` the middle one. Options as of `frames_at`.

    Of a key frame the clip around it, also of a movie that is cut into seconds.

    Raises:
        VideoError: the video cannot be read, or ends before the item's part of it begins.
        ValueError: it is too short, and the sampler says that this is an error.
    """
    if of_seconds(item, sampler):
        assert item.key is not None
        assert isinstance(sampler, Around)
        return clip_of_seconds(item.path, item.key.seconds, sampler, gray=gray)
    return frames_at(item.path, lambda video: chosen(item, video.seconds, sampler, rng), gray=gray, vectors=vectors)


def of_seconds(item: Item, sampler: Sampler) -> bool:
    """Whether an item's clip is taken from files of one second each."""
    return item.key is not None and isinstance(sampler, Around) and is_cut(item.path)


def chosen(
    item: Item,
    seconds: Float[np.ndarray, " total"],
    sampler: Callable[..., Int[np.ndarray, " t"]],
    rng: np.random.Generator | None = None,
) -> Int[np.ndarray, " t"]:
    """Indices of the frames that a sampler takes from an item's part of its video, whose frames are shown at `seconds`.

    >>> from pathlib import Path
    >>> chosen(Item(Path("a.mp4"), start=2.0, end=4.0), np.arange(50) / 10, Segments(4)).tolist()
    [22, 27, 32, 37]
    """
    if item.key is not None and isinstance(sampler, Around):
        return around(item, item.key.seconds, seconds, sampler)
    part = part_of(item, seconds)
    try:
        return part.start + sampler(seconds[part] - seconds[part.start], rng)
    except ValueError as error:  # short="error"
        raise ValueError(f"{item.path}: {error}") from error


def around(item: Item, moment: float, seconds: Float[np.ndarray, " total"], sampler: Around) -> Int[np.ndarray, " t"]:
    """The frames of the clip around a moment of an item's video.

    Raises:
        VideoError: the video ends before it.
    """
    if not len(seconds) or moment > seconds[-1] + (seconds[-1] - seconds[0]) / max(len(seconds) - 1, 1) + HAIR:
        end = f"its last frame is shown at {seconds[-1]:.6g} s" if len(seconds) else "it has no frames"
        raise VideoError(f"{item.path} has no moment {moment:g} s: {end}. Mend the list of boxes, or its time base")
    return sampler.at(seconds, moment)


def part_of(item: Item, seconds: Float[np.ndarray, " total"]) -> slice:
    """Which frames of its video an item means: those shown from its start until before its end, or all.

    Raises:
        VideoError: none; the part is empty, or the video ends before it begins.
    """
    first = 0 if item.start is None else int(np.searchsorted(seconds, item.start - HAIR))
    stop = len(seconds) if item.end is None else int(np.searchsorted(seconds, item.end - HAIR))
    if first < stop:
        return slice(first, stop)
    asked = f"{item.start or 0:g} s to {'the end' if item.end is None else f'{item.end:g} s'}"
    shown = f"{len(seconds)} frames shown at 0 to {seconds[-1]:.6g} s" if len(seconds) else "no frames"
    raise VideoError(
        f"{item.path} has nothing from {asked}: it has {shown}. Mend the list: start and end are in seconds, and the "
        "end comes after the start"
    )
