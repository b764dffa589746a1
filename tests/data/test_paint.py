"""Windows of frames, drawn straight from the decoder's: against the ffmpeg command line, and against PIL."""

from dataclasses import replace

import films
import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.data import paint
from tubelet.data.datasets import Data, Dataset
from tubelet.data.items import Item
from tubelet.data.paint import Brush
from tubelet.data.sampling import Dense
from tubelet.data.transforms import CentreCrop, MultiScaleCrop, RandomResizedCrop, Window, resized
from tubelet.data.vectors import Vectors
from tubelet.data.video import frames_at, probe, write

WINDOW, SIZE = Window(10, 20, 60, 80), (48, 64)
CHAIN = "crop=80:60:20:10,scale=64:48:flags=bilinear"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write(folder / "source.mp4", films.moving_square(), 30, options={"crf": "10", "g": "30"})
    return lambda name: films.make(folder, name)


def one(video):
    return [WINDOW]


@pytest.fixture
def whole(monkeypatch):
    """How often a window was cut out of a whole frame in colours, the slow way."""
    calls = []

    def counting(*args):
        calls.append(args)
        return resized(*args)

    monkeypatch.setattr(paint, "resized", counting)
    return calls


QUICK = ("h264.mp4", "hevc.mp4", "vp9.webm", "mpeg2.mkv", "h264_cut.mp4", "odd.webm", "turned_90.mp4", "turned_180.mp4")


@pytest.mark.parametrize("name", [*QUICK, "turned_270.mp4", "mirrored.mp4", "mirrored_90.mp4"])
def test_a_window_is_what_ffmpeg_cuts_and_scales(film, whole, name):
    path = film(name)
    frames = frames_at(path, [3, 0, 3], size=SIZE, windows=one).frames
    assert frames.shape == (1, 3, *SIZE, 3)
    expected = films.pictures(path, *SIZE, scale=f"{CHAIN},format=yuv420p")[[3, 0, 3]]
    turned = name.startswith(("turned", "mirrored"))  # ffmpeg turns first, and scales chroma the other way round
    assert np.abs(frames[0].numpy().astype(int) - expected).mean() < (2.5 if turned else 0.6)
    assert not whole


@pytest.mark.parametrize("name", ["h264.mp4", "turned_90.mp4", "mirrored_90.mp4", "h264_fields.mp4"])
def test_brightness_is_that_of_a_filter_with_antialiasing(film, name):
    path = film(name)
    grey = frames_at(path, [2, 9], gray=True).frames[..., 0].numpy()
    top, left, height, width = WINDOW
    for size in (SIZE, (30, 44), (120, 100), (60, 80)):  # smaller, much smaller, larger, as it is
        ours = frames_at(path, [2, 9], size=size, gray=True, windows=one).frames[0, ..., 0]
        parts = grey[:, top : top + height, left : left + width]
        theirs = [np.asarray(Image.fromarray(g).resize(size[::-1], Image.Resampling.BILINEAR)) for g in parts]
        assert np.abs(ours.numpy().astype(int) - np.stack(theirs)).max() <= 3


@pytest.mark.parametrize(
    ("name", "window"),
    [("odd.mp4", WINDOW), ("h264.mp4", Window(11, 20, 60, 80)), ("h264.mp4", Window(10, 20, 60, 81))],
    ids=["colours for every pixel", "odd place", "odd edge"],
)
def test_other_windows_are_cut_out_of_whole_frames(film, whole, name, window):
    path = film(name)
    frames = frames_at(path, [1, 4], size=SIZE, windows=lambda video: [window]).frames
    assert len(whole) == 2
    assert torch.equal(frames[0], resized(frames_at(path, [1, 4]).frames, window, SIZE))


def test_a_frame_of_another_size_is_scaled_before_it_is_cut(film, whole, monkeypatch):
    """As happens where a stream changes its size on the way."""
    path = film("h264.mp4")
    video = replace(probe(path), width=80, height=60)
    window = Window(0, 40, 60, 40)
    frames = frames_at(video, [7], size=(60, 40), windows=lambda video: [window]).frames
    assert len(whole) == 1
    assert torch.equal(frames[0, 0], frames_at(video, [7], size=(60, 80)).frames[0, :, 40:])


def test_whole_frames_are_painted_once_for_all_windows(film, monkeypatch):
    painted, paint_ = [], Brush.paint
    monkeypatch.setattr(Brush, "paint", lambda brush, *args: (painted.append(brush.window), paint_(brush, *args))[1])
    windows = [WINDOW, Window(0, 0, 40, 40), Window(3, 3, 50, 50)]
    frames_at(film("odd.mp4"), [1, 4], size=SIZE, windows=lambda video: windows)
    assert [painted.count(window) for window in (None, *windows)] == [2, 2, 2, 2]


def test_several_windows_come_from_one_decode(film):
    path, windows = film("h264.mp4"), [WINDOW, Window(0, 0, 120, 160), Window(2, 4, 48, 64)]
    clip = frames_at(path, [5, 5, 9], size=SIZE, windows=lambda video: windows)
    assert clip.frames.shape == (3, 3, *SIZE, 3)
    for window, frames in zip(windows, clip.frames):
        alone = frames_at(path, [5, 5, 9], size=SIZE, windows=lambda video, window=window: [window])
        assert torch.equal(frames, alone.frames[0])
        assert clip.decoded == alone.decoded
    assert torch.equal(clip.frames[2], frames_at(path, [5, 5, 9]).frames[:, 2:50, 4:68])  # nothing to scale: exact


def test_no_windows_means_whole_frames_as_they_are(film):
    path = film("h264.mp4")
    frames = frames_at(path, [4], size=SIZE, windows=lambda video: None).frames
    assert torch.equal(frames, frames_at(path, [4]).frames)
    with pytest.raises(ValueError, match=r"one size as \(height, width\), such as \(224, 224\), not 64"):
        frames_at(path, [4], size=64, windows=one)


def test_motion_is_that_of_whole_frames(film):
    path = film("h264.mp4")
    clip = frames_at(path, [4, 5, 6], size=SIZE, vectors=True, windows=one)
    expected = frames_at(path, [4, 5, 6], vectors=True)
    assert clip.motion is not None
    assert expected.motion is not None
    assert torch.equal(clip.motion.to_previous, expected.motion.to_previous)


def test_windows_of_images_are_cut_as_ever(tmp_path):
    for number, frame in enumerate(films.moving_square(4)):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    frames = frames_at(tmp_path, [2, 0], size=SIZE, windows=one).frames
    assert torch.equal(frames[0], resized(frames_at(tmp_path, [2, 0]).frames, WINDOW, SIZE))
    still = frames_at(tmp_path / "001.png", [0], size=SIZE, windows=one).frames
    assert torch.equal(still[0], resized(frames_at(tmp_path / "001.png", [0]).frames, WINDOW, SIZE))


@pytest.mark.parametrize("crop", [MultiScaleCrop(), RandomResizedCrop((0.2, 1.0)), CentreCrop()], ids=str)
@pytest.mark.parametrize("motion", [None, Vectors(fallback="none")], ids=str)
def test_crops_show_what_those_of_frames_in_memory_show(film, whole, crop, motion):
    """Up to a pixel at the edges, and what chroma loses: smooth pictures hardly differ."""
    path = film("h264.mp4").with_name("smooth.mp4")
    y, x = np.mgrid[:120, :160]
    waves = 128 + 100 * np.stack([np.sin(x / 25), np.sin(y / 19), np.sin((x + y) / 31)], -1)
    write(
        path, np.stack([waves + 2 * t - 20 for t in range(24)]).clip(0, 255).astype(np.uint8), 30, options={"crf": "4"}
    )
    data = Data(Dense(4, stride=2), size=(64, 64), crop=crop, flip=0.5, repeats=3, clips=2, motion=motion)
    items = [Item(path)] * 4
    ours, memory = Dataset(items, data, 5), Dataset(items, replace(data, cache=120), 5)
    memory.fill_cache()
    for position in range(4):
        a, b = ours[position].video, memory[position].video
        assert a.shape == b.shape == (6, 3, 4, 64, 64)
        for one, other in zip(a, b):
            assert (one.int() - other.int()).abs().float().mean() < 6  # mirrored, or another crop: 40 and more
    assert not whole
