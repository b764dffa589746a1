"""Which videos an epoch shows, and how often."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from tubelet.data.items import Item
from tubelet.data.mixture import Mixture
from tubelet.data.parts import part_of
from tubelet.data.sampling import CLIP_SECONDS, clips_of
from tubelet.data.video import VideoError, probe


def places(items: Sequence[Item], per: str) -> range | Int[np.ndarray, " places"]:
    """The item of every place of an epoch; of a mixture, whose epochs show different ones, only how many places.

    `per` as in `Data`.

    Raises:
        ValueError: a mixture by duration.
    """
    if isinstance(items, Mixture):
        if per == "duration":
            raise ValueError(
                "--data.per duration and a mixture both say how often a video is shown; use --data.per video, and "
                "weights in the mixture that go by hours"
            )
        return range(items.places)
    if per == "video":
        return range(len(items))
    return np.repeat(np.arange(len(items)), clips_of([duration(item) for item in items]))


def duration(item: Item) -> float:
    """Seconds of an item; none where it cannot be read, which the run will note when it comes to it."""
    try:
        video = probe(item.path)
        part = part_of(item, video.seconds)
    except (VideoError, OSError):
        return 0.0
    # No more clips than frames: a damaged file may claim a billion seconds.
    return (part.stop - part.start) * min(1 / video.fps, CLIP_SECONDS)
