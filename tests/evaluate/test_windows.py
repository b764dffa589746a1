"""Windows cover the video, are what a reader of single clips gives, and are held in little memory."""

import io
import os
import sys
import tracemalloc
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense, Segments, Spread
from tubelet.data.stream import frames_of_camera, frames_of_stream, in_order, rising
from tubelet.data.video import VideoError, frames_at, probe, write
from tubelet.evaluate.windows import spans, windows, windows_of_stream

DATA = Data(clip=Dense(4, stride=2), size=(32, 32))


def counting(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames whose brightness, 4 a frame, says which they are."""
    return (
        np.full((frames, height, width, 3), 20, np.uint8) + 4 * np.arange(frames, dtype=np.uint8)[:, None, None, None]
    )


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """50 frames at 10 a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write(path, counting(50), 10, options={"g": "12", "crf": "1"})
    return path


def numbers(clip: torch.Tensor) -> list[int]:
    """Which frames of `counting` these are."""
    return ((clip.float().mean((1, 2, 3)) - 20) / 4).round().int().tolist()


def by_hand(total: int, window: int, stride: int) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of every window, counted in frames."""
    found = [(start, start + window) for start in range(0, total - window + 1, stride)]
    if not found:
        return [(0, total)]
    if found[-1][1] < total and stride <= window:
        found.append((total - window, total))
    return found


@pytest.mark.parametrize("fps", [10, 24, 30, 30000 / 1001, 60])
@pytest.mark.parametrize(("total", "window", "stride"), [(50, 8, 8), (50, 8, 3), (50, 10, 5), (7, 8, 4), (40, 4, 9)])
@pytest.mark.parametrize("ticks", [None, 1000])  # as Matroska rounds
def test_spans_are_those_counted_in_frames(fps, total, window, stride, ticks):
    times = np.arange(total) / fps
    times = times if ticks is None else np.round(times * ticks) / ticks
    found = list(spans(times.tolist(), 1 / fps, window / fps, stride / fps))
    assert [(span.first, span.stop) for span in found] == by_hand(total, window, stride)


def test_spans_ask_for_no_more_times_than_they_need():
    taken = []
    source = (taken.append(t) or t for t in np.arange(1000) / 10)
    first = next(spans(source, 0.1, 1.0, 1.0))
    assert (first.first, first.stop, len(taken)) == (0, 10, 11)


def test_spans_over_a_gap_and_a_late_start():
    times = [5.0, 5.1, 5.2, 5.3, 9.0, 9.1]
    found = [(s.start, s.first, s.stop) for s in spans(times, 0.1, 0.4, 0.4)]
    assert found == [(5.0, 0, 4), (pytest.approx(8.8), 4, 6)]  # the last ends with the video, at 9.2


@pytest.mark.parametrize(("window", "stride"), [(None, None), (0.8, 0.3), (1.2, 1.2), (0.4, 1.0), (99.0, None)])
def test_each_window_is_the_clip_decoded_alone(film, window, stride):
    found = list(windows(film, DATA, window, stride))
    frames = (
        [(0, 50)] if window == 99 else by_hand(50, round(10 * (window or 0.8)), round(10 * (stride or window or 0.8)))
    )
    assert len(found) == len(frames)
    seconds = probe(film).seconds
    for one, (first, stop) in zip(found, frames):
        wanted = first + DATA.clip(seconds[first:stop])
        assert torch.equal(one.frames, frames_at(film, wanted).frames)
        assert numbers(one.frames) == wanted.tolist()
        assert one.short == (stop - first < 7)


@pytest.mark.parametrize("clip", [Dense(4, stride=2), Dense(4, stride=2, short="wrap"), Spread(4, 2), Segments(4)])
def test_a_window_as_long_as_a_clip_is_the_clip(film, clip):
    data = replace(DATA, clip=clip)
    middle = frames_at(film, lambda video: clip(video.seconds)).frames
    if isinstance(clip, Segments):
        (one,) = windows(film, data)
    else:
        start = 21 / 10
        one = list(windows(film, data, stride=start))[1]
    assert torch.equal(one.frames, middle)


def test_frames_are_decoded_and_prepared_once(film):
    seen = []

    def prepare(frames: torch.Tensor) -> torch.Tensor:
        seen.extend(numbers(frames))
        return frames[:, :8, :8]

    found = list(windows(film, DATA, 1.0, 0.1, prepare=prepare))
    assert len(found) == 41
    assert sorted(set(seen)) == sorted(seen)
    assert found[0].frames.shape == (4, 8, 8, 3)
    seen.clear()
    source = enumerate(counting(50))
    list(windows_of_stream(((i / 10, frame) for i, frame in source), DATA, 1.0, 0.1, prepare=prepare))
    assert seen == list(range(50))


@pytest.mark.parametrize(("window", "stride"), [(None, None), (0.8, 0.3), (0.4, 1.0)])
def test_a_stream_gives_the_windows_of_the_file(film, window, stride):
    of_file = list(windows(film, DATA, window, stride))
    with open(film, "rb") as file:
        of_stream = list(windows_of_stream(frames_of_stream(file), DATA, window, stride))
    assert len(of_file) == len(of_stream) > 1
    for one, other in zip(of_file, of_stream):
        assert torch.equal(one.frames, other.frames)
        assert (one.start, one.end, one.short) == pytest.approx((other.start, other.end, other.short))


def test_an_item_of_a_longer_video(film):
    found = list(windows(film, DATA, 0.8, 0.8, start=1.0, end=2.6))
    assert [numbers(one.frames) for one in found] == [[10, 12, 14, 16], [18, 20, 22, 24]]
    with pytest.raises(VideoError, match=r"film\.mp4"):
        list(windows(film, DATA, start=6.0))


def test_windows_that_cannot_be(film):
    with pytest.raises(ValueError, match="0 s every"):
        list(windows(film, DATA, 0.0))
    with pytest.raises(ValueError, match=r"film\.mp4.*needs 7 source frames"):
        list(windows(film, replace(DATA, clip=Dense(4, stride=2, short="error")), 0.3))
    with pytest.raises(ValueError, match="--window"):
        list(windows_of_stream([(0.0, counting(1)[0])], replace(DATA, clip=Segments(4))))
    with pytest.raises(ValueError, match="no frames"):
        list(windows_of_stream([], DATA))


def test_hours_are_not_held_in_memory():
    """Frames of 300 kB, 600 of them: 180 MB if all were kept, 6 MB for a window of 20."""

    def endless():
        for number in range(600):
            yield number / 10, np.full((250, 400, 3), number % 200, np.uint8)

    tracemalloc.start()
    count = sum(1 for _ in windows_of_stream(endless(), DATA, window=2.0, stride=1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 59
    assert peak < 600 * 250 * 400 * 3 / 8


def test_a_file_is_read_in_little_memory(tmp_path):
    write(tmp_path / "long.mp4", counting(200, 240, 320), 10, options={"g": "250", "preset": "ultrafast"})
    tracemalloc.start()
    count = sum(1 for _ in windows(tmp_path / "long.mp4", replace(DATA, clip=Dense(8, stride=1)), 0.8, 0.4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 49
    assert peak < 200 * 240 * 320 * 3 / 8


def test_lost_frames_are_replaced_as_in_a_clip(tmp_path):
    write(
        tmp_path / "good.mp4",
        np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8),
        10,
        options={"g": "12"},
    )
    data = bytearray((tmp_path / "good.mp4").read_bytes())
    with av.open(os.fspath(tmp_path / "good.mp4")) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    for place in places[20:40:3]:
        data[place] ^= 0xFF
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    indices = np.arange(probe(bad).frames)
    alone = frames_at(bad, indices)
    assert alone.damaged
    with pytest.warns(UserWarning, match=r"bad.mp4 is damaged: \d+ packets or frames"):
        found = list(in_order(probe(bad), indices))
    for index, frame in found:
        assert np.array_equal(frame, alone.frames[index].numpy()), index


def test_frames_from_a_pipe_that_cannot_go_back(film):
    stream = io.BytesIO()
    with av.open(os.fspath(film)) as source, av.open(stream, "w", format="mpegts") as sink:
        track = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                sink.mux(packet)
    reading, writing = os.pipe()

    def pump() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(stream.getvalue())

    Thread(target=pump).start()
    with os.fdopen(reading, "rb") as file:
        found = list(frames_of_stream(file))
    assert [round(10 * time, 3) for time, _ in found] == list(range(50))
    assert numbers(torch.from_numpy(np.stack([frame for _, frame in found]))) == list(range(50))
    assert (
        frames_at(film, [7], gray=True).frames[0].numpy().tobytes()
        == [frame for _, frame in frames_of_stream(str(film), gray=True)][7].tobytes()
    )
    with pytest.raises(VideoError, match="pipe a container"):
        next(frames_of_stream(__file__))


def test_times_always_rise():
    clock = rising(0.1)
    assert [round(clock(t), 3) for t in (3.0, 3.1, 3.5, 0.0, 0.1, None, 0.2)] == [0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_a_camera_is_read_until_it_ends(monkeypatch):
    """Three frames of a camera that is not there."""
    taken = [np.full((20, 30, 3), (10 * n, 100, 200), np.uint8) for n in range(3)]

    class Camera:
        released = False

        def __init__(self, number: int) -> None:
            self.left = iter(taken if number == 0 else [])

        def read(self):
            frame = next(self.left, None)
            return frame is not None, frame

        def release(self) -> None:
            Camera.released = True

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Camera))
    found = list(frames_of_camera(0))
    assert [frame[0, 0].tolist() for _, frame in found] == [[200, 100, 10 * n] for n in range(3)]  # red first
    assert found[0][0] < found[1][0] < found[2][0]
    assert Camera.released
    assert next(frames_of_camera(0, size=10, gray=True))[1].shape == (10, 15, 1)
    with pytest.raises(VideoError, match="camera 1"):
        next(frames_of_camera(1))
