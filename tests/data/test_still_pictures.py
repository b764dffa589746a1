"""Single pictures as videos of one frame, against PIL; folders and lists of them."""

import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from films import moving
from PIL import Image

from tubelet.data.check import check
from tubelet.data.datasets import Data, Dataset
from tubelet.data.images import is_picture
from tubelet.data.loader import Failures, batches
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import Item, find
from tubelet.data.stream import in_order
from tubelet.data.transforms import CentreCrop
from tubelet.data.video import VideoError, frames_at, frames_when, probe, write

PIXELS = moving(6, 3, 48, 64)
TURNS = {  # EXIF's orientation, and what a viewer shows, in numpy's words
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def saved(path: Path, pixels: np.ndarray = PIXELS[0], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two class folders with three pictures each, of different kinds and sizes, and what is none."""
    for number, (name, pixels) in enumerate(zip(("a.png", "b.JPEG", "c.webp", "d.bmp", "e.jpg", "f.png"), PIXELS)):
        saved(tmp_path / "set" / ("cat", "dog")[number % 2] / name, pixels[: 30 + 3 * number])
    (tmp_path / "set" / "cat" / ".hidden.png").write_text("none")
    (tmp_path / "set" / "readme.txt").write_text("none")
    return tmp_path / "set"


# ---------------------------------------------------------------------------- one picture


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "jpg", "jpeg"])
@pytest.mark.parametrize("gray", [False, True])
def test_a_picture_is_a_video_of_one_frame(tmp_path, ending, gray):
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(tmp_path / f"holiday.{ending}", **options)
    image = Image.open(path).convert("L" if gray else "RGB")
    video = probe(path)
    assert (video.frames, video.width, video.height, video.container, video.variable) == (1, 64, 48, "image", False)
    assert video.codec == {"jpg": "jpeg"}.get(ending, ending)
    assert video.seconds.tolist() == [0]
    clip = frames_at(path, [0, 0, 0], gray=gray)
    assert clip.damaged == 0
    assert clip.frames.shape == (3, 48, 64, 1 if gray else 3)
    assert (clip.frames.numpy().squeeze() == np.asarray(image)).all()
    for size, shape in ((24, (24, 32)), ((20, 30), (20, 30))):
        small = np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))
        assert (frames_when(path, [0.0, 9.0], size=size, gray=gray).frames.numpy().squeeze() == small).all()
    ((index, frame),) = in_order(video, np.arange(1), gray=gray)
    assert index == 0
    assert (frame.squeeze() == np.asarray(image)).all()
    assert frames_at(path, [0], vectors=True).motion is not None
    with pytest.raises(VideoError, match=r"frame 1 of .*holiday.* which .* has 1 frames"):
        frames_at(path, [1])


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_are_turned_as_a_viewer_does(tmp_path, turn, ending):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = saved(
        tmp_path / f"phone.{ending}", exif=exif, **({"quality": 100, "subsampling": 0} if ending == "jpg" else {})
    )
    expected = TURNS[turn](PIXELS[0])
    assert (probe(path).height, probe(path).width) == expected.shape[:2]
    error = np.abs(frames_at(path, [0]).frames[0].numpy().astype(int) - expected)
    assert error.max() <= (0 if ending == "png" else 12)
    frames = tmp_path / "frames"  # so too where it is one frame of many
    saved(frames / "1.png", exif=exif), saved(frames / "2.png", PIXELS[1], exif=exif)
    assert (frames_at(frames, [1]).frames[0].numpy() == TURNS[turn](PIXELS[1])).all()


def test_kinds_of_pixels(tmp_path):
    image = Image.fromarray(PIXELS[0])
    for name, one in {
        "palette.png": image.quantize(64),
        "grey.png": image.convert("L"),
        "ink.png": image.convert("1"),
        "clear.png": image.convert("RGBA"),
        "greyclear.png": image.convert("LA"),
        "print.jpg": image.convert("CMYK"),
    }.items():
        one.save(tmp_path / name)
        again = Image.open(tmp_path / name)
        assert again.mode == one.mode
        assert (frames_at(tmp_path / name, [0]).frames[0].numpy() == np.asarray(again.convert("RGB"))).all()
    assert np.abs(frames_at(tmp_path / "print.jpg", [0]).frames[0].numpy().astype(float) - PIXELS[0]).mean() < 30
    assert (frames_at(tmp_path / "clear.png", [0]).frames[0].numpy() == PIXELS[0]).all()
    deep = saved(tmp_path / "deep.png", np.full((8, 8), 700, np.uint16))
    with pytest.raises(VideoError, match=r"deep\.png has more than 8 bits a channel .* save it with 8 bits"):
        probe(deep)


def test_damaged_pictures_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for ending in ("png", "jpg", "webp", "bmp"):
        whole = saved(tmp_path / f"whole.{ending}").read_bytes()
        cut = tmp_path / f"cut.{ending}"
        cut.write_bytes(whole[: len(whole) // 2])
        for act in (probe, lambda path: frames_at(path, [0])):
            with pytest.raises(VideoError, match=rf"cut\.{ending} cannot be read as an image; copy it anew, or leave"):
                act(cut)
        for _ in range(60):  # whatever is wrong, it is that error or pixels
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(len(data), size=4)] = rng.integers(256, size=4)
            cut.write_bytes(data.tobytes())
            with suppress(VideoError):
                assert frames_at(cut, [0]).frames.shape[3] == 3
    (tmp_path / "letter.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name in ("letter", "empty"):
        with pytest.raises(VideoError, match=rf"{name}\.png cannot be read as an image"):
            probe(tmp_path / f"{name}.png")
    with pytest.raises(VideoError, match=r"gone\.png is not there"):
        probe(tmp_path / "gone.png")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "wall.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        VideoError, match=r"wall\.png is too large to be a picture .*; make it smaller, or leave it out"
    ):
        frames_at(path, [0])


def test_a_picture_in_a_shard(tmp_path):
    path = saved(tmp_path / "one.png")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(path, "cat/one.png")
    (tmp_path / "list.csv").write_text("path,label\nsome.tar/cat/one.png,cat\n")
    (item,) = find(tmp_path / "list.csv")
    assert (frames_at(item.path, [0]).frames[0].numpy() == PIXELS[0]).all()


# ---------------------------------------------------------------------------- many


def test_folders_of_pictures_are_found_with_their_classes(folder):
    items = find(f"images:{folder}")
    assert [(item.path.name, item.label) for item in items] == [
        ("a.png", "cat"),
        ("c.webp", "cat"),
        ("e.jpg", "cat"),
        ("b.JPEG", "dog"),
        ("d.bmp", "dog"),
        ("f.png", "dog"),
    ]
    assert find(f"images:{folder / 'cat'}")[0] == Item(folder / "cat" / "a.png")
    assert find(folder / "cat" / "a.png") == [Item(folder / "cat" / "a.png")]
    assert not is_picture(folder)
    (folder.parent / "ILSVRC").mkdir()
    folder.rename(folder.parent / "ILSVRC" / "validation")
    assert len(find(f"images:{folder.parent / 'ILSVRC'}:val")) == 6
    assert len(find(f"images:{folder.parent / 'ILSVRC'}")) == 6


def test_what_is_no_folder_of_pictures(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="set/train"):
        find(f"images:{folder}:train")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find(f"images:{tmp_path / 'nowhere'}")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*bare; expected \.bmp, \.jpeg, \.jpg, \.png, \.webp"):
        find(f"images:{tmp_path / 'bare'}")
    with pytest.raises(ValueError, match="images has no 'split'; it has missing"):
        find(f"images:{folder}?split=2")
    with pytest.raises(ValueError, match=rf"no videos in .*; single pictures are named as images:{folder}"):
        find(folder)


@pytest.mark.parametrize("header", ["", "file,class\n"])
@pytest.mark.parametrize("mark", [" ", ","])
def test_lists_of_pictures(folder, header, mark):
    text = header.replace(",", mark) + f"cat/a.png{mark}cat\ndog/b.JPEG{mark}dog\n"
    (folder / "list.csv").write_text(text)
    items = find(folder / "list.csv")
    assert [(item.path.name, item.label) for item in items] == [("a.png", "cat"), ("b.JPEG", "dog")]


@pytest.mark.parametrize("kept", [0, 30])
@pytest.mark.parametrize("workers", [0, 2])
def test_clips_of_pictures(folder, kept, workers):
    """One frame each, without a word; more frames repeat it, which is said."""
    items = find(f"images:{folder}")
    data = Data(Dense(1), size=(30, 40), crop=CentreCrop(), cache=kept)
    dataset = Dataset(items, data, 1)
    dataset.fill_cache()
    (batch,) = batches(dataset, 6, 0, 1, workers)
    assert batch.video.shape == (6, 3, 1, 30, 40)
    assert batch.notes == ()
    assert sorted(batch.ids.tolist()) == list(range(6))
    place = batch.ids.tolist().index(0)  # 30 x 64 pixels: its middle is not scaled
    assert (batch.video[place, :, 0].permute(1, 2, 0).numpy() == PIXELS[0][:30, 12:52]).all()
    for clip in (Dense(4, stride=2), Segments(4)):
        long = Dataset(items, Data(clip, size=(30, 40), crop=CentreCrop(), cache=kept), 1)
        long.fill_cache()
        (more,) = batches(long, 6, 0, 1, workers)
        assert torch.equal(more.video, batch.video.expand(6, 3, 4, 30, 40))
        assert [note.kind for note in more.notes] == ["short"] * 6  # type: ignore[attr-defined]


def test_a_clip_of_one_frame_of_a_video_is_any_of_its_frames(tmp_path):
    frames = np.repeat(np.arange(8, dtype=np.uint8) * 30, 32 * 32 * 3).reshape(8, 32, 32, 3)
    write(tmp_path / "clock.mp4", frames, 10, options={"crf": "5"})
    dataset = Dataset(find(tmp_path), Data(Dense(1, stride=1), size=(32, 32), crop=CentreCrop(), clips=4), 0)
    shown = [round(float(clip.float().mean()) / 30) for position in range(40) for clip in dataset[position].video]
    counts = np.bincount(shown, minlength=8)
    assert len(counts) == 8
    assert counts.min() > 6  # 20 expected
    assert all(sample.notes == [] for sample in map(dataset.__getitem__, range(4)))


def test_bad_pictures_are_replaced_and_counted(folder):
    (folder / "cat" / "a.png").write_bytes(b"no picture")
    dataset = Dataset(find(f"images:{folder}"), Data(Dense(1), size=(16, 16)), 1)
    (batch,) = batches(dataset, 6, 0, 1)
    failures = Failures(6)
    failures.count(batch.notes)
    assert failures.summary() == [f"1 of 6 videos could not be read and were replaced: {folder / 'cat' / 'a.png'}"]


def test_check_knows_pictures(folder):
    shown = "\n".join(check(find(f"images:{folder}"), sampler=Dense(16), workers=0).lines())
    assert "6 videos" in shown
    assert "too short" not in shown
    whole = folder / "cat" / "c.webp"
    whole.write_bytes(whole.read_bytes()[:100])
    for level in ("open", "demux", "decode"):
        rows = check(find(f"images:{folder}"), level, Dense(1), workers=0).rows
        assert [row.path for row in rows if row.problem] == [str(whole)]
        assert "cannot be read as an image" in rows[1].problem
        assert [(row.codec, row.frames, row.width, row.height, row.short) for row in rows[:1]] == [
            ("png", 1, 64, 30, False)
        ]
        assert rows[0].bytes == (folder / "cat" / "a.png").stat().st_size
