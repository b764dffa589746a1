"""What it takes to read a clip of a video: how many frames are decoded for it, and how many there would be if the video
were prepared. Arithmetic of `video.frames_at`, from the places of key frames; nothing is decoded here."""

import numpy as np
from jaxtyping import Float, Int

from tubelet.data.index import Video
from tubelet.data.sampling import Dense, varies
from tubelet.data.vectors import FAR
from tubelet.data.writing import Encoding
from tubelet.types import Sampler

MOST = 1024  # clips that are counted
DRAWN = 16  # of samplers whose clips are not known beforehand
DEAR = 3.0  # times the pixels that are decoded for a clip of a prepared file


def key_distances(video: Video) -> Int[np.ndarray, " keys"]:
    """Frames from each key frame to the next, and from the last to the end of the video."""
    return np.diff(np.append(video.keys, video.frames))


def per_clip(video: Video, part: slice, sampler: Sampler, vectors: bool = False) -> tuple[float, float]:
    """Frames decoded for one clip of a part of a video, on average over those that training draws: as it is, and if it
    were prepared.

    At most: frames that no other refers to are left out where FFmpeg can tell them. In the order of showing, from which
    that of decoding differs by a few where frames refer to later ones.

    Raises:
        ValueError: the part is too short, and the sampler says that this is an error.
    """
    clips = np.sort(part.start + drawn(sampler, video.seconds[part] - video.seconds[part.start]), axis=1)
    prepared, linked = np.arange(0, video.frames, Encoding().keyframes), FAR if vectors else 0
    after = float(decoded(clips, prepared, linked).mean())
    if video.container in ("images", "image"):
        return float(np.mean([len(set(clip)) for clip in clips.tolist()])), after  # each frame is a file
    return float(decoded(clips, video.starts[:, 0], linked).mean()), after


def drawn(sampler: Sampler, seconds: Float[np.ndarray, " total"]) -> Int[np.ndarray, "clips t"]:
    """Clips of a video: all there are if they are the same but for where they begin, else some by lot.

    >>> drawn(Dense(2, stride=3), np.arange(8) / 10).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    if isinstance(sampler, Dense) and not varies(seconds):
        clip, starts = sampler(seconds), sampler.starts(seconds)
        if len(starts) > MOST:
            starts = np.random.default_rng(0).choice(starts, MOST)
        return starts[:, None] + (clip - clip[0])
    rng = np.random.default_rng(0)
    return np.stack([sampler(seconds, rng) for _ in range(DRAWN)])


def decoded(
    clips: Int[np.ndarray, "clips t"], starts: Int[np.ndarray, " starts"], linked: int = 0
) -> Int[np.ndarray, " clips"]:
    """Frames from where decoding starts to the last that is wanted, for clips in ascending order: `index.runs_of` of
    many clips at once.

    >>> decoded(np.array([[3, 4], [3, 25]]), np.array([0, 10, 20])).tolist()  # 0 to 4; 0 to 3 and 20 to 25
    [5, 10]
    """
    starts = starts[np.searchsorted(starts, clips, side="right") - 1]
    anew = (starts[:, 1:] - clips[:, :-1] > 8) & (np.diff(clips, axis=1) > linked)
    edge = np.ones((len(clips), 1), dtype=bool)
    first, last = np.hstack([edge, anew]), np.hstack([anew, edge])
    return ((clips + 1) * last - starts * first).sum(1)


def times_prepared(video: Video, decoded: float, prepared: float) -> float:
    """How many times the pixels are decoded for a clip that would be if the video were prepared."""
    height, width = Encoding().size(video.height, video.width)
    return decoded * video.height * video.width / (prepared * height * width)
