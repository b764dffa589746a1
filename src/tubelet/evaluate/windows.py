"""Windows that slide over a video of any length: clips in order, each frame decoded once, little in memory.

Window k covers the seconds [k * stride, k * stride + window) after the first frame; where the last whole one leaves
frames over, one more ends with the video. A shorter video is one window. The frames of a window's clip are those that
the sampler takes of the window as if it were the whole video, so a window that is just as long as a clip is that clip.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data.datasets import Data
from tubelet.data.parts import part_of
from tubelet.data.sampling import Segments, rate
from tubelet.data.sources import Item
from tubelet.data.stream import in_order
from tubelet.data.video import probe

Prepare = Callable[[UInt8[Tensor, "t h w c"]], UInt8[Tensor, "t y x c"]]
TOGETHER = 4  # frames that are decoded, then cropped: one by one, decoder and scaler drive each other out of the caches


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a video, and its clip."""

    start: float  # seconds after the first frame of the video
    end: float
    frames: UInt8[Tensor, "t h w c"]
    short: bool = False  # too few frames for a clip: some are repeated


@dataclass(frozen=True)
class Span:
    """Where a window lies."""

    start: float  # seconds
    end: float
    first: int  # frames
    stop: int  # the first frame that is not in it any more


def windows(
    path: Path | str,
    data: Data,
    window: float | None = None,
    stride: float | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    prepare: Prepare | None = None,
) -> Iterator[Window]:
    """The windows of a file, in order.

    `window` is in seconds (default: what a clip spans; for clips of the whole video, the whole video), `stride` too
    (default: the window). `start` and `end` leave the rest of the video out. `prepare` (a crop) is applied to each
    frame once, before it is kept: with it, memory is that of one window of crops, and of a few whole frames.

    Raises:
        VideoError: the file cannot be read, or has nothing from `start` to `end`.
        ValueError: a window or stride that is not above 0; or the video is too short, and the sampler says that this
            is an error.
    """
    video = probe(path)
    inside = np.arange(video.frames)[part_of(Item(Path(path), None, start, end), video.seconds)]
    seconds = video.seconds[inside]
    interval = 1 / (rate(seconds) or video.fps)
    window = span_of(data, seconds, interval) if window is None else window
    places = list(spans(seconds.tolist(), interval, window, stride))
    taken = [inside[span.first + chosen(data, seconds[span.first : span.stop], path)] for span in places]
    source = in_order(video, np.concatenate(taken), gray=data.channels == 1)
    held: dict[int, UInt8[Tensor, "h w c"]] = {}
    for span, indices, later in zip(places, taken, [*places[1:], None]):
        last = int(indices.max())
        # Frames come in order: if the last is there, all of the window are.
        fresh = iter(()) if last in held else until(last, source)
        while some := dict(islice(fresh, TOGETHER)):
            pictures = torch.from_numpy(np.stack(list(some.values())))
            held.update(zip(some, pictures if prepare is None else prepare(pictures)))
        clip = torch.stack([held[index] for index in indices.tolist()])
        yield Window(span.start, span.end, clip, data.clip.is_short(seconds[span.first : span.stop]))
        if later is not None:
            held = {index: frame for index, frame in held.items() if index >= inside[later.first]}


def windows_of_stream(
    frames: Iterable[tuple[float, UInt8[np.ndarray, "h w c"]]],
    data: Data,
    window: float | None = None,
    stride: float | None = None,
    *,
    prepare: Prepare | None = None,
) -> Iterator[Window]:
    """The windows of frames that come with their times: each as soon as its last frame is there. Else as `windows`.

    Memory is that of the frames of one window, as `prepare` leaves them.

    Raises:
        ValueError: as `windows`; or no `window`, and clips of the whole video.
    """
    source = iter(frames)
    begin = list(islice(source, max(data.clip.frames, 32)))  # tells the rate
    if not begin:
        raise ValueError("the stream has no frames")
    times = np.array([time for time, _ in begin])
    interval = 1 / (rate(times) or 25)
    if window is None:
        if isinstance(data.clip, Segments):
            raise ValueError(f"a stream has no end, and a clip is {data.clip}; say how long windows are: --window")
        window = span_of(data, times, interval)
    held: deque[tuple[int, float, UInt8[Tensor, "h w c"]]] = deque()

    def arriving() -> Iterator[float]:
        for index, (time, frame) in enumerate(chain(begin, source)):
            # All windows that are over have been given: what is older than one window is in none that is to come.
            while len(held) > 1 and held[0][1] < held[-1][1] - window - interval:
                held.popleft()
            held.append((index, time, prepared(frame, prepare)))
            yield time

    for span in spans(arriving(), interval, window, stride):
        inside = [(time, frame) for index, time, frame in held if span.first <= index < span.stop]
        seconds = np.array([time for time, _ in inside])
        indices = chosen(data, seconds, "the stream")
        clip = torch.stack([inside[index][1] for index in indices.tolist()])
        yield Window(span.start, span.end, clip, data.clip.is_short(seconds))


def until(
    last: int, source: Iterator[tuple[int, UInt8[np.ndarray, "h w c"]]]
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w c"]]]:
    """What comes up to frame `last`; `source` can be asked on."""
    for index, frame in source:
        yield index, frame
        if index == last:
            return


def spans(seconds: Iterable[float], interval: float, window: float, stride: float | None) -> Iterator[Span]:
    """Where the windows of a video lie whose frames are shown at `seconds`; takes no more of these than it needs.

    Windows without a frame are left out. Times may be off by a quarter of `interval`, the time from frame to frame.

    >>> [(s.first, s.stop) for s in spans([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.1, window=0.3, stride=0.2)]
    [(0, 3), (2, 5), (4, 7)]
    >>> [(s.first, s.stop) for s in spans([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.1, window=0.3, stride=None)]
    [(0, 3), (3, 6), (4, 7)]
    """
    stride = window if stride is None else stride
    if not (window > 0 and stride > 0):
        raise ValueError(f"windows of {window:g} s every {stride:g} s cannot be made; both have to be above 0")
    slack = interval / 4
    recent: deque[tuple[int, float]] = deque()  # frames of the windows to come, and of the last window's length
    origin, turn, covered, index, time = 0.0, 0, 0, -1, 0.0

    def within(start: float, end: float) -> Iterator[Span]:
        there = [number for number, shown in recent if start - slack <= shown < end - slack]
        if there:
            yield Span(start, end, there[0], there[-1] + 1)

    for index, time in enumerate(seconds):
        origin = time if index == 0 else origin
        while time >= origin + turn * stride + window - slack:
            for span in within(origin + turn * stride, origin + turn * stride + window):
                yield span
                covered = span.stop
            turn += 1
        recent.append((index, time))
        while recent[0][1] < min(origin + turn * stride, time - window) - interval:
            recent.popleft()
    end = time + interval
    if origin + turn * stride + window <= end + slack:  # the last frame fills one
        for span in within(origin + turn * stride, origin + turn * stride + window):
            yield span
            covered = span.stop
    if covered <= index and (stride <= window or not covered):
        yield from within(max(end - window, origin), end)


def span_of(data: Data, seconds: Float[np.ndarray, " total"], interval: float) -> float:
    """Seconds that a clip spans, the time in which its last frame is shown included."""
    if isinstance(data.clip, Segments):
        return float(seconds[-1] - seconds[0]) + interval
    return data.clip.frames * data.clip.step(seconds) * interval


def chosen(data: Data, seconds: Float[np.ndarray, " total"], path: Path | str) -> Int[np.ndarray, " t"]:
    """The frames of a window that make its clip."""
    try:
        return data.clip(seconds)
    except ValueError as error:  # short="error"
        raise ValueError(f"{path}: {error}") from error


def prepared(frame: UInt8[np.ndarray, "h w c"], prepare: Prepare | None) -> UInt8[Tensor, "y x c"]:
    """One frame as it is kept."""
    picture = torch.from_numpy(frame)
    return picture if prepare is None else prepare(picture[None])[0]
