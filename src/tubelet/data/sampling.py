"""Which frames of a video make a clip: pure functions of the frames' times and a random generator.

A sampler is a `types.Sampler`: called with the presentation times of all frames, in seconds from the first, and a
generator, or None for the one clip that validation takes. It returns frame indices. Decoding is in `video.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Seconds = Float[np.ndarray, " total"]  # when each frame of the video is shown
Indices = Int[np.ndarray, " t"]
CLIP_SECONDS = 10.0  # the length of a Kinetics video


def varies(seconds: Seconds) -> bool:
    """Whether some frame is shown a third of a mean interval or more away from where a constant rate would show it.

    A third, because containers round times to ticks (milliseconds in Matroska), and that is no change of rate.

    >>> varies(np.array([0, 0.033, 0.067, 0.1])), varies(np.array([0, 0.033, 0.067, 0.133]))
    (False, True)
    """
    if len(seconds) < 3:
        return False
    line = np.linspace(seconds[0], seconds[-1], len(seconds))
    return bool(3 * np.abs(seconds - line).max() >= line[1] - line[0])


def rate(seconds: Seconds) -> float:
    """Frames per second, on average; 0 for a single frame.

    >>> rate(np.arange(25) / 24)
    24.0
    """
    return (len(seconds) - 1) / float(seconds[-1] - seconds[0]) if len(seconds) > 1 else 0.0


@dataclass(frozen=True)
class Dense:
    """Frames at equal distances from a random start: the pre-training clip.

    Exactly one of `stride`, `fps` and `span` gives the distance. The clip takes frames * stride source frames and
    starts anywhere from 0 to total - frames * stride, that included; in the middle of these without a generator.

    >>> ten = np.arange(10) / 30  # ten frames at 30 fps
    >>> Dense(3, stride=3)(ten).tolist()
    [0, 3, 6]
    >>> sorted({tuple(Dense(3, stride=3)(ten, np.random.default_rng(seed)).tolist()) for seed in range(20)})
    [(0, 3, 6), (1, 4, 7)]
    >>> Dense(3, fps=10)(ten).tolist(), Dense(3, span=0.2)(ten).tolist()
    ([0, 3, 6], [2, 4, 6])

    A video with fewer frames starts at 0. Steps that reach the final frame or beyond are not taken, so the tail repeats
    the frame before; or they wrap around; or are an error:

    >>> Dense(4, stride=4)(ten).tolist(), Dense(4, stride=4, short="wrap")(ten).tolist()
    ([0, 4, 8, 8], [0, 4, 8, 2])

    Where the frame rate varies, a step is a time, `stride` mean intervals long, and leads to the frame then on screen:

    >>> Dense(4, stride=2)(np.array([0, 1, 2, 3, 6, 7, 8, 9]) / 10).tolist()
    [0, 2, 3, 5]

    Source: VideoMAE's pre-training reader, which too never shows the final frame of a short video. (With stride 1 it
    repeats the frame before the last even of videos that are long enough; here they are shown to the end.)
    """

    frames: int = 16
    """Frames of the clip."""
    stride: int | None = None
    """Source frames from one frame of the clip to the next; 4 if neither this nor `fps` nor `span` is given."""
    fps: float | None = None
    """Frames of the clip per second of the video; above the video's own rate, frames are shown more than once."""
    span: float | None = None
    """Seconds of the video that the clip covers."""
    short: Literal["repeat", "wrap", "error"] = "repeat"
    """What happens where the video is too short."""
    every: int = 1
    """Clips begin at each so manieth frame: the N of `tubelet prepare --layered N`, whose layer is read fastest."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("stride", "fps", "span") if getattr(self, name) is not None}
        if len(given) > 1:
            raise ValueError(
                f"the distance of frames is given more than once: {given}; set all but one of them to None"
            )
        if min(self.frames, self.every) < 1 or any(value <= 0 for value in given.values()):
            raise ValueError(f"a clip needs positive numbers, got {self!r}")
        if self.short not in ("repeat", "wrap", "error"):
            raise ValueError(f'short={self.short!r} is unknown; use "repeat", "wrap" or "error"')
        if not given:
            object.__setattr__(self, "stride", 4)  # VideoMAE on Kinetics

    def __str__(self) -> str:
        """For people.

        >>> str(Dense(16)), str(Dense(8, fps=10)), str(Dense(8, span=2))
        ('16 frames at stride 4', '8 frames at 10 fps', '8 frames over 2 s')
        """
        ways = {"stride": "at stride {:g}", "fps": "at {:g} fps", "span": "over {:g} s"}
        how = [text.format(getattr(self, name)) for name, text in ways.items() if getattr(self, name) is not None]
        return " ".join([f"{self.frames} frames", *how])

    def step(self, seconds: Seconds) -> float:
        """Source frames from one frame of the clip to the next.

        >>> Dense(16, fps=10).step(np.arange(100) / 25), Dense(16, span=4).step(np.arange(100) / 25)
        (2.5, 6.25)
        """
        if self.fps is not None:
            return rate(seconds) / self.fps or 1.0
        if self.span is not None:
            return rate(seconds) * self.span / self.frames or 1.0
        return float(self.stride or 1)

    def needs(self, seconds: Seconds) -> int:
        """Source frames from the first to the last of a clip, both included.

        >>> Dense(16, stride=4).needs(np.arange(100) / 25)
        61
        """
        return int(np.ceil((self.frames - 1) * self.step(seconds) - HAIR)) + 1

    def is_short(self, seconds: Seconds) -> bool:
        """Whether a clip of such a video repeats frames.

        >>> [Dense(16, stride=4, short="wrap").is_short(np.arange(total) / 25) for total in (60, 61)]
        [True, False]
        """
        return (self.frames - 1) * self.step(seconds) > self._end(seconds) and self.frames > 1

    def _room(self, seconds: Seconds) -> int:
        """Source frames that a clip with its last step leaves over; negative for a short video."""
        return len(seconds) - int(np.ceil(self.frames * self.step(seconds) - HAIR))

    def _end(self, seconds: Seconds) -> float:
        """The last place that a step may lead to."""
        return len(seconds) - (2 if self.short == "repeat" and self._room(seconds) < 0 else 1) + HAIR

    def starts(self, seconds: Seconds) -> Indices:
        """Where clips may begin, each as likely as the others.

        >>> Dense(3, stride=3).starts(np.arange(11) / 30).tolist()
        [0, 1, 2]
        """
        return np.arange(max(self._room(seconds), 0) + 1) // self.every * self.every

    def __call__(self, seconds: Seconds, rng: np.random.Generator | None = None) -> Indices:
        """Frame indices, ascending but for those that wrap.

        Raises:
            ValueError: no frames; or too few, and `short` is "error".
        """
        total, step = counted(seconds), self.step(seconds)
        if self.short == "error" and self.is_short(seconds):
            raise ValueError(
                f"clip of {self.frames} frames at stride {step:g} needs {self.needs(seconds)} source frames; "
                f'the video has {total}. Use a smaller stride or short="repeat"'
            )
        starts = self.starts(seconds)
        start = starts[(len(starts) - 1) // 2 if rng is None else int(rng.integers(len(starts)))]
        places = start + step * np.arange(self.frames)
        if self.short == "wrap":
            return on_screen(seconds, places % total)
        taken = np.count_nonzero(places[1:] <= self._end(seconds))
        return on_screen(seconds, np.minimum(places, places[taken]))


@dataclass(frozen=True)
class Segments:
    """One frame from each of as many equal parts of the video: the clip of Something-Something.

    A random frame of each part, or its middle one without a generator. The parts are total // frames long, so up to
    frames - 1 at the end are in none. A video with fewer frames gives random ones with repeats, in order.

    >>> Segments(4)(np.arange(40) / 12).tolist(), Segments(4)(np.arange(3) / 12).tolist()
    ([5, 15, 25, 35], [0, 0, 1, 2])
    >>> Segments(4)(np.arange(11) / 12, np.random.default_rng(0)).tolist()
    [1, 3, 5, 6]

    Source: TSN (arXiv:1608.00859), as in VideoMAE's SSv2 reader.
    """

    frames: int = 16
    """Frames of the clip, and parts of the video."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"a clip needs at least one frame, got {self}")

    def __str__(self) -> str:
        """For people."""
        return f"{self.frames} frames, one from each part"

    def needs(self, seconds: Seconds) -> int:
        """Source frames that a clip takes: one each."""
        return self.frames

    def is_short(self, seconds: Seconds) -> bool:
        """Whether a clip of such a video repeats frames."""
        return len(seconds) < self.frames

    def __call__(self, seconds: Seconds, rng: np.random.Generator | None = None) -> Indices:
        """Ascending frame indices.

        Raises:
            ValueError: no frames.
        """
        total, parts = counted(seconds), np.arange(self.frames)
        long = total // self.frames
        if not long:
            return parts * total // self.frames if rng is None else np.sort(rng.integers(total, size=self.frames))
        return on_screen(seconds, long * parts + (long // 2 if rng is None else rng.integers(long, size=self.frames)))


@dataclass(frozen=True)
class Spread:
    """Frames spread over frames * stride source frames, both ends included: the clip of fine-tuning on Kinetics.

    So 16 frames at stride 4 are 64 / 15 = 4.27 source frames apart: 4 or 5, not always 4. The clip starts anywhere from
    0 to total - frames * stride - 1; in the middle without a generator.

    >>> times = np.arange(30) / 25
    >>> Spread(5, stride=4)(times).tolist(), Spread(5, stride=4)(times, np.random.default_rng(0)).tolist()
    ([5, 10, 15, 20, 24], [8, 13, 18, 23, 27])

    A video that is not longer than that gives total // stride frames from its start to its end, and repeats its last:

    >>> Spread(5, stride=4)(np.arange(14) / 25).tolist()
    [0, 7, 13, 13, 13]

    Where the frame rate varies, a source frame is a time, one mean interval long.

    Source: the fine-tuning readers of VideoMAE, and of VideoMAE V2 for the middle.
    """

    frames: int = 16
    """Frames of the clip."""
    stride: int = 4
    """Source frames per frame of the clip."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"a clip needs positive numbers, got {self!r}")

    def __str__(self) -> str:
        """For people."""
        return f"{self.frames} frames spread over {self.frames * self.stride}"

    def step(self, seconds: Seconds) -> float:
        """Source frames from one frame to the next in a test of several views, which does not spread them."""
        return float(self.stride)

    def needs(self, seconds: Seconds) -> int:
        """Source frames that a clip takes."""
        return self.frames * self.stride

    def is_short(self, seconds: Seconds) -> bool:
        """Whether a clip of such a video repeats frames."""
        return len(seconds) < self.needs(seconds)

    def __call__(self, seconds: Seconds, rng: np.random.Generator | None = None) -> Indices:
        """Ascending frame indices.

        Raises:
            ValueError: no frames.
        """
        total, span = counted(seconds), self.frames * self.stride
        if total <= span:
            end, places = total, np.linspace(0, total, total // self.stride)
            places = np.pad(places, (0, self.frames - len(places)), constant_values=total)
        else:
            end = (span + total) // 2 if rng is None else int(rng.integers(span, total))
            places = np.linspace(end - span, end, self.frames)
        return on_screen(seconds, np.minimum(places, end - 1).astype(np.int64))


@dataclass(frozen=True)
class Around:
    """Frames at equal distances around a moment: the clip of a key frame.

    Of frames * stride source frames, of which the moment's is the first of the second half, each `stride`-th from the
    second on. At the ends of a video its first or last frame is repeated, so that the moment stays where it is.

    >>> Around(4, stride=2).at(np.arange(20) / 10, 1.0).tolist()
    [7, 9, 11, 13]
    >>> Around(4, stride=2).at(np.arange(20) / 10, 0.1).tolist()
    [0, 0, 2, 4]

    Where the frame rate varies, a step is a time, `stride` mean intervals long, as in `Dense`.

    Source: VideoMAE-Action-Detection: 32 frames before the moment and 32 from it on, of these the second and so on.
    """

    frames: int = 16
    """Frames of the clip."""
    stride: int = 4
    """Source frames from one frame of the clip to the next."""

    def __post_init__(self) -> None:
        if min(self.frames, self.stride) < 1:
            raise ValueError(f"a clip needs positive numbers, got {self!r}")

    def __str__(self) -> str:
        """For people.

        >>> str(Around())
        '16 frames at stride 4 around a moment'
        """
        return f"{self.frames} frames at stride {self.stride} around a moment"

    def offsets(self) -> Indices:
        """Where its frames are, in source frames after the moment's.

        >>> Around(16, 4).offsets().tolist()[::5]
        [-31, -11, 9, 29]
        """
        return np.arange(self.frames) * self.stride - (self.frames * self.stride - 1) // 2

    def step(self, seconds: Seconds) -> float:
        """Source frames from one frame of the clip to the next."""
        return float(self.stride)

    def needs(self, seconds: Seconds) -> int:
        """Source frames from the first to the last of a clip, both included."""
        return (self.frames - 1) * self.stride + 1

    def is_short(self, seconds: Seconds) -> bool:
        """Whether a clip of such a video repeats frames wherever the moment is."""
        return len(seconds) < self.needs(seconds)

    def at(self, seconds: Seconds, moment: float) -> Indices:
        """The frames of the clip around a moment, in seconds."""
        middle = int(np.searchsorted(seconds, moment + 1e-6, side="right")) - 1
        places = middle + self.offsets()
        if varies(seconds):
            times = seconds[max(middle, 0)] + self.offsets() / rate(seconds)
            places = np.searchsorted(seconds, times + HAIR, side="right") - 1
        return places.clip(0, len(seconds) - 1)

    def __call__(self, seconds: Seconds, rng: np.random.Generator | None = None) -> Indices:
        """The clip in the middle of a video; nothing is random."""
        return self.at(seconds, float(seconds[len(seconds) // 2]))


def clips_of(
    durations: Sequence[float] | Float[np.ndarray, " videos"],
    per: Literal["video", "duration"] = "duration",
    clip_seconds: float = CLIP_SECONDS,
) -> Int[np.ndarray, " videos"]:
    """How many clips of an epoch each video gives: one each, or one for every `clip_seconds`; at least one.

    >>> clips_of([4, 10, 26, 3600]).tolist(), clips_of([4, 10, 26, 3600], per="video").tolist()
    ([1, 1, 3, 360], [1, 1, 1, 1])
    """
    lengths = np.asarray(durations, dtype=np.float64)
    if per == "video":
        return np.ones(len(lengths), dtype=np.int64)
    return np.maximum(np.rint(lengths / clip_seconds), 1).astype(np.int64)


HAIR = 1e-6  # frames; steps that are computed from times are not exact


def counted(seconds: Seconds) -> int:
    """How many frames the video has.

    Raises:
        ValueError: none.
    """
    if not len(seconds):
        raise ValueError("a clip cannot be drawn from a video without frames")
    return len(seconds)


def on_screen(seconds: Seconds, places: Float[np.ndarray, " t"] | Indices) -> Indices:
    """The frames at these places, counted in frames of the average length."""
    if varies(seconds):
        times = seconds[0] + places * (seconds[-1] - seconds[0]) / (len(seconds) - 1)
        return np.searchsorted(seconds, times + HAIR, side="right") - 1
    return np.floor(places + HAIR).astype(np.int64)
