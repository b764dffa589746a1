"""Folders of images as videos, against PIL and numpy; and the same pictures as a video file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from films import moving
from PIL import Image

from tubelet.data.check import check
from tubelet.data.datasets import Data, Dataset
from tubelet.data.images import natural
from tubelet.data.sampling import Dense
from tubelet.data.sources import Item, find
from tubelet.data.transforms import MultiScaleCrop
from tubelet.data.video import VideoError, frames_at, frames_when, probe, write

FRAMES = moving(12, 3, 48, 64)


def saved(folder: Path, frames=FRAMES, name: str = "img_{:d}.png", first: int = 1, **options) -> Path:
    """The frames as images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / name.format(number), **options)
    return folder


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    """img_10 comes after img_9 here, before img_2 in the alphabet; asked twice and backwards too."""
    folder = saved(tmp_path / "clip")
    (folder / "notes.txt").write_text("no frame")
    assert np.array_equal(frames_at(folder, range(12)).frames.numpy(), FRAMES)
    clip = frames_at(folder, [11, 0, 11])
    assert np.array_equal(clip.frames.numpy(), FRAMES[[11, 0, 11]])
    assert clip.damaged == 0
    assert clip.seconds.tolist() == pytest.approx([11 / 25, 0, 11 / 25])


def test_natural_order_is_that_of_numbers():
    rng = np.random.default_rng(0)
    numbers = [tuple(pair) for pair in rng.integers(0, 200, (50, 2)).tolist()]
    names = {f"v{one}_{two}": (one, two) for one, two in numbers}
    assert [names[name] for name in sorted(names, key=natural)] == sorted(names.values())


def test_probe_and_frame_rate(tmp_path):
    folder = saved(tmp_path / "set" / "class" / "clip", name="{:05d}.jpg")
    video = probe(folder)
    assert (video.frames, video.width, video.height, video.fps) == (12, 64, 48, 25)
    assert (video.codec, video.container, video.variable, video.rotation) == ("jpeg", "images", False, 0)
    slow = saved(tmp_path / "set" / "class" / "slow")
    (tmp_path / "set" / "fps.txt").write_text("12\n")
    assert probe(slow).seconds.tolist() == pytest.approx((np.arange(12) / 12).tolist())
    assert probe(slow).duration == pytest.approx(1)
    (slow / "fps.txt").write_text("6")  # the nearest counts
    assert probe(slow).fps == 6
    assert np.array_equal(frames_when(slow, [0.4]).frames[0].numpy(), FRAMES[2])
    (slow / "fps.txt").write_text("fast")
    with pytest.raises(VideoError, match=r"fps\.txt holds 'fast'; expected frames per second"):
        probe(saved(slow, FRAMES[:1], "img_{:d}.png", 13))


@pytest.mark.parametrize("gray", [False, True])
def test_size_and_grey_against_pil(tmp_path, gray):
    folder = saved(tmp_path / "clip")
    kind = "L" if gray else "RGB"
    for size, shape in ((24, (24, 32)), ((20, 30), (20, 30)), (None, (48, 64))):
        clip = frames_at(folder, [2, 7], size=size, gray=gray)
        assert clip.frames.shape == (2, *shape, 1 if gray else 3)
        expected = [
            Image.fromarray(FRAMES[i]).convert(kind).resize(shape[::-1], Image.Resampling.BILINEAR) for i in (2, 7)
        ]
        assert np.array_equal(clip.frames.numpy().squeeze(), np.stack([np.asarray(image) for image in expected]))


def test_kinds_of_images(tmp_path):
    """Palettes and transparent images are shown in colour; jpg nearly as saved."""
    palette = saved(tmp_path / "palette", [np.asarray(Image.fromarray(f).quantize(256)) for f in FRAMES[:2]])
    assert frames_at(palette, [0, 1]).frames.shape == (2, 48, 64, 3)
    clear = saved(tmp_path / "clear", [np.dstack([f, np.full_like(f[..., :1], 9)]) for f in FRAMES[:2]])
    assert np.array_equal(frames_at(clear, [0, 1]).frames.numpy(), FRAMES[:2])
    jpg = saved(tmp_path / "jpg", name="{}.JPG", quality=100, subsampling=0)
    assert np.abs(frames_at(jpg, range(12)).frames.numpy().astype(int) - FRAMES).mean() < 1
    deep = saved(tmp_path / "deep", [np.full((8, 8), 700, np.uint16)] * 2)
    with pytest.raises(VideoError, match=r"img_1\.png has more than 8 bits a channel"):
        probe(deep)


def test_damaged_images_are_replaced_and_counted(tmp_path):
    """By the nearest earlier one of the clip, else the next."""
    folder = saved(tmp_path / "clip")
    for number in (4, 5, 2):
        (folder / f"img_{number}.png").write_bytes((folder / f"img_{number}.png").read_bytes()[:200])
    clip = frames_at(folder, [1, 2, 3, 4, 5])  # indices; the numbers begin with 1
    assert clip.damaged == 3
    assert np.array_equal(clip.frames.numpy(), FRAMES[[2, 2, 2, 2, 5]])
    assert np.array_equal(frames_at(folder, [0, 2, 4, 5]).frames.numpy(), FRAMES[[0, 2, 2, 5]])
    with pytest.raises(VideoError, match=r"none of the 2 images asked of .*clip can be read, the first is img_4\.png"):
        frames_at(folder, [3, 4])


def test_folders_that_are_no_video(tmp_path):
    saved(tmp_path / "flow")
    saved(tmp_path / "flow", FRAMES[:3], "flow_x_{:05d}.png")
    with pytest.raises(VideoError, match=r"several series of images: 3 x flow_x_#\.png, 12 x img_#\.png; keep one"):
        probe(tmp_path / "flow")
    saved(tmp_path / "photos")
    saved(tmp_path / "photos", [FRAMES[0][:30]], first=13)
    with pytest.raises(VideoError, match=r"img_13\.png has 64x30 pixels, the first image of the folder 64x48"):
        frames_at(tmp_path / "photos", [0, 12])
    (tmp_path / "none").mkdir()
    with pytest.raises(
        VideoError, match=r"none is a folder without frames; expected a video file, or a folder of images"
    ):
        probe(tmp_path / "none")
    with pytest.raises(VideoError, match=r"frame 12 of .*clip was asked for, .* has 12 frames: 0 to 11"):
        frames_at(saved(tmp_path / "clip"), [12])
    (saved(tmp_path / "bad") / "img_1.png").write_text("no image")
    with pytest.raises(VideoError, match=r"img_1\.png cannot be read as an image"):
        probe(tmp_path / "bad")


def test_batches_and_check_as_from_a_file(tmp_path):
    """The frames of a video file, saved as images, give the clips of the file; with and without a cache."""
    write(tmp_path / "clip.mp4", moving(30, 5), 25)
    saved(tmp_path / "clips" / "wave" / "one", frames_at(tmp_path / "clip.mp4", range(30)).frames.numpy())
    (item,) = find(tmp_path / "clips")
    assert item.label == "wave"
    data = Data(Dense(4, stride=3), size=(32, 32), crop=MultiScaleCrop((2 / 3,)))  # nothing is scaled
    from_images, from_file = Dataset([item], data, 4), Dataset([Item(tmp_path / "clip.mp4")], data, 4)
    kept = Dataset([item], replace(data, cache=48), 4)
    kept.fill_cache()
    for position in range(3):
        assert torch.equal(from_images[position].video, from_file[position].video)
        assert torch.equal(kept[position].video, from_file[position].video)
    for level in ("open", "demux", "decode"):
        (row,) = check([item], level, workers=0).rows
        assert (row.problem, row.codec, row.frames, row.width, row.height, row.fps) == ("", "png", 30, 64, 48, 25)
