"""The clips that a test of many views takes from a video; which part of the frames is shown says `transforms.Place`."""

import numpy as np

from tubelet.data.sampling import HAIR, Around, Dense, Indices, Seconds, Segments, Spread, counted, on_screen


def time_views(sampler: Dense | Segments | Spread | Around, seconds: Seconds, count: int) -> list[Indices]:
    """Frame indices of `count` clips that lie evenly over the whole video, in order; the first starts at its start.

    One view is the middle clip, `sampler(seconds)`, so that it shows what validation sees. Clips of frames at equal
    distances start evenly; a short video is shown `count` times, padded with the last frame that its steps reach:

    >>> [int(view[0]) for view in time_views(Dense(16, stride=4), np.arange(300) / 25, 5)]
    [0, 56, 116, 176, 236]
    >>> [view.tolist() for view in time_views(Dense(4, stride=4), np.arange(9) / 25, 2)]
    [[0, 4, 8, 8], [0, 4, 8, 8]]

    Clips of one frame a part take turns in every part:

    >>> [view.tolist() for view in time_views(Segments(4), np.arange(16) / 12, 2)]
    [[0, 4, 8, 12], [2, 6, 10, 14]]

    Raises:
        ValueError: no frames, no views; or too few frames, and the sampler's `short` is "error".

    Source: VideoMAE's and VideoMAE V2's test readers, which leave a single view undefined (V1) or put it first (V2).
    """
    total = counted(seconds)
    if count < 1:
        raise ValueError(f"a test needs one view in time or more, got {count}")
    if count == 1:
        return [sampler(seconds)]
    turns, steps = np.arange(count)[:, None], np.arange(sampler.frames)
    if isinstance(sampler, Segments):
        places = total * (turns + count * steps) // (count * sampler.frames)
        return [on_screen(seconds, view) for view in places]
    if isinstance(sampler, Dense) and sampler.short == "error" and sampler.is_short(seconds):
        sampler(seconds)  # raises, with numbers
    distance = sampler.step(seconds)
    reached = int((total - 1) / distance + HAIR) + 1  # frames at this distance in the whole video
    starts = turns * max(reached - sampler.frames, 0) // (count - 1)
    if isinstance(sampler, Dense) and sampler.short == "wrap":
        return [on_screen(seconds, view % total) for view in distance * (starts + steps)]
    return [on_screen(seconds, view) for view in distance * np.minimum(starts + steps, reached - 1)]
