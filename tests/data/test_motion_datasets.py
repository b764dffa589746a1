"""Motion in samples and batches: it goes with the frames, through crops, workers, resumes and the cache."""

import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import films
import numpy as np
import pytest
import torch
from films import moving

from tubelet.data import cache, datasets, flow
from tubelet.data import video as reading
from tubelet.data.augment import RandAugment
from tubelet.data.cache import PIECE, Frames
from tubelet.data.datasets import Data, Dataset
from tubelet.data.flow import Flow
from tubelet.data.items import Note
from tubelet.data.loader import Failures, batches
from tubelet.data.parts import clip_of
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import Item, find
from tubelet.data.transforms import CentreCrop, MultiScaleCrop, Place
from tubelet.data.vectors import FAR, Vectors
from tubelet.data.video import frames_at, probe, write
from tubelet.types import Batch, Motion

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose

EXACT = {"bf": "0", "refs": "1", "g": "12", "threads": "1"}
SMALL = Data(Dense(4, stride=2), size=(32, 32), crop=CentreCrop(), motion=Vectors())
FIELDS = ("to_previous", "to_next", "had", "has")


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    """Five videos of noise that moves 2 pixels right a frame, with a key frame every 12 and one reference."""
    folder = tmp_path_factory.mktemp("exact")
    for index in range(5):
        write(folder / f"{index}.mp4", moving(30 + index, index, 64, 96), 10, options=EXACT)
    return folder


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Path:
    """A video whose codec has no motion vectors."""
    path = tmp_path_factory.mktemp("silent") / "s.mov"
    write(path, moving(20, 3, 64, 96), 10, codec="mjpeg", pixels="yuvj420p", options={"q:v": "2"})
    return path


def contents(stream) -> list[tuple]:
    """Everything in a stream of batches that must be the same."""
    return [
        (
            b.video.numpy().tobytes(),
            [getattr(b.motion, name).numpy().tobytes() for name in FIELDS],
            b.motion.block,
            b.motion.exact,
            b.ids.tolist(),
            b.notes,
        )
        for b in stream
    ]


def of(batch: Batch) -> Motion:
    assert batch.motion is not None
    return batch.motion


def median(field: torch.Tensor, known: torch.Tensor) -> list[float]:
    """x and y of what is known."""
    return [field.select(-4, axis)[known].median().item() for axis in (0, 1)]


# ---------------------------------------------------------------------------- in samples and batches


@pytest.mark.parametrize("motion", [Vectors(), Flow(), Vectors(block=5), Flow(block=3)], ids=str)
@pytest.mark.parametrize("kept", [0, 64])
def test_motion_is_that_of_the_clip(exact, motion, kept):
    """2 pixels a frame at stride 2 are 4, and half of that at half the size; in a mirror they go to the left."""
    data = replace(SMALL, motion=motion, cache=kept, repeats=2)
    for flip, sign in ((0.0, 1), (1.0, -1)):
        dataset = Dataset(find(exact), replace(data, flip=flip), 1)
        dataset.fill_cache()
        for batch in batches(dataset, 3, 0, 2):
            found, blocks = of(batch), -(-32 // motion.block)
            assert found.to_next.shape == (6, 2, 4, blocks, blocks)
            assert found.has.shape == (6, 4, blocks, blocks)
            assert (found.block, found.exact) == (motion.block, True)
            assert found.had[:, 1:].float().mean() > 0.7
            assert not found.had[:, 0].any()
            assert not found.has[:, -1].any()
            assert median(found.to_next, found.has) == pytest.approx([2 * sign, 0], abs=0.25)
            assert median(found.to_previous, found.had) == pytest.approx([-2 * sign, 0], abs=0.25)
            assert batch.notes == ()


def test_nothing_else_changes(exact, monkeypatch):
    """The same draws with motion and without; and without, nobody asks for any."""
    data = replace(SMALL, crop=MultiScaleCrop((0.5,)), flip=0.5, repeats=2)  # 32 of 64 lines: nothing is scaled
    asked = []

    def spy(*args, vectors=False, **options):
        asked.append(vectors)
        return frames_at(*args, vectors=vectors, **options)

    monkeypatch.setattr(datasets, "frames_at", spy)
    plain = list(batches(Dataset(find(exact), replace(data, motion=None), 1), 3, 0, 3))
    assert asked == [False] * 9
    assert all(batch.motion is None for batch in plain)
    for motion in (Vectors(), Flow()):
        moved = list(batches(Dataset(find(exact), replace(data, motion=motion), 1), 3, 0, 3))
        assert [batch.video.numpy().tobytes() for batch in moved] == [batch.video.numpy().tobytes() for batch in plain]
    assert asked[9:] == [True] * 9 + [False] * 9


@pytest.mark.parametrize("crop", [MultiScaleCrop(), Place(0, 2)], ids=str)
def test_the_motion_of_each_crop_is_its_own(exact, crop):
    """Against flow of the crops as they came out."""
    data = replace(SMALL, size=(48, 64), crop=crop, flip=0.5, repeats=4)
    sample = Dataset(find(exact), data, 3)[0]
    assert sample.motion is not None
    signs = set()
    for crop_, number in zip(sample.video, range(4)):
        seen = Flow()(crop_.permute(1, 2, 3, 0).contiguous())
        mine = [median(sample.motion.to_next[number], sample.motion.has[number]), median(seen.to_next, seen.has)]
        assert mine[0] == pytest.approx(mine[1], abs=0.4)
        signs.add(np.sign(mine[0][0]))
    assert signs == {-1, 1}


@pytest.mark.parametrize("motion", [Vectors(), Flow(speed="ultrafast")], ids=str)
def test_workers_and_resumes_give_the_same(exact, silent, motion):
    """With a file that has none; and after OpenCV had threads in this process, which workers do not inherit."""
    cv2.cvtColor(np.zeros((2000, 2000, 3), np.uint8), cv2.COLOR_RGB2GRAY)
    data = replace(SMALL, crop=MultiScaleCrop(), flip=0.5, motion=motion)
    items = [*find(exact), Item(silent)]
    expected = contents(batches(Dataset(items, data, 7), 3, 0, 4))
    assert contents(batches(Dataset(items, data, 7), 3, 0, 4, 2)) == expected
    assert contents(batches(Dataset(items, data, 7), 3, 2, 4, 1)) == expected[2:]
    assert contents(batches(Dataset(items, data, 8), 3, 0, 4)) != expected


def test_a_batch_in_parts_and_grey(exact):
    (batch,) = batches(Dataset(find(exact), replace(SMALL, channels=1, repeats=2), 1), 2, 0, 1)
    assert torch.equal(of(batch.clips(2, 4)).to_next, of(batch).to_next[2:])
    (flow,) = batches(Dataset(find(exact), replace(SMALL, channels=1, motion=Flow()), 1), 2, 0, 1)
    assert median(of(flow).to_next, of(flow).has) == pytest.approx([2, 0], abs=0.2)


def test_a_short_video_stands_still_where_it_is_repeated(tmp_path):
    write(tmp_path / "one.mp4", moving(1, 0, 64, 96), 10, options=EXACT)
    for motion in (Vectors(), Flow()):
        sample = Dataset(find(tmp_path), replace(SMALL, motion=motion))[0]
        assert [note.kind for note in sample.notes] == ["short"]
        assert sample.motion is not None
        assert sample.motion.to_next.abs().max() == 0


def test_a_middle_clip_with_its_vectors(exact):
    clip = clip_of(find(exact)[0], Dense(4, stride=2), vectors=True)
    assert clip.motion is not None
    assert median(clip.motion.to_next, clip.motion.has) == pytest.approx([4, 0], abs=0.1)


# ---------------------------------------------------------------------------- all frames in memory


@pytest.mark.parametrize("sampler", [Dense(4, stride=1), Dense(4, stride=3), Segments(5)], ids=str)
def test_cache_gives_the_motion_of_the_file(exact, sampler, monkeypatch):
    """Digit by digit: quarters of a pixel fit into half floats."""
    monkeypatch.setattr(cache, "PIECE", 7)
    data = replace(SMALL, clip=sampler, size=(32, 48), crop=MultiScaleCrop((0.5,)), flip=0.5)
    cached = Dataset(find(exact), replace(data, cache=64), 3)
    cached.fill_cache()
    expected = contents(batches(Dataset(find(exact), data, 3), 3, 0, 4))
    assert contents(batches(cached, 3, 0, 4)) == expected
    assert contents(batches(cached, 3, 0, 4, 2)) == expected


@pytest.mark.parametrize(("key_frames", "more"), [(50, 0), (9999, PIECE)])
def test_cache_of_long_and_shrunken_videos(tmp_path, monkeypatch, key_frames, more):
    """In pieces without a seam; cut at key frames, nothing is decoded twice. Vectors are in pixels of what is kept."""
    path, count, decoded = tmp_path / "long.mp4", 2 * PIECE + 20, []
    write(path, moving(count, 0, 64, 96), 10, options=EXACT | {"g": str(key_frames), "sc_threshold": "0"})
    probe(path)
    feed = reading.fed
    monkeypatch.setattr(reading, "fed", lambda *args: (decoded.append(frame) or frame for frame in feed(*args)))
    frames = Frames([path], 32, motion=Vectors())
    assert count <= len(decoded) <= count + 3 * more
    motion = frames.at(0, np.arange(PIECE - 2, PIECE + 3)).motion
    assert motion is not None
    assert motion.had.shape == (5, 8, 12)  # as many as in the file
    assert motion.block == 4
    assert motion.had[1:].all()
    assert median(motion.to_previous, motion.had) == pytest.approx([-1, 0], abs=0.1)
    assert Frames([path], 32).at(0, np.arange(5)).motion is None
    assert torch.equal(frames.block, Frames([path], 32).block)


@pytest.mark.parametrize("stride", [1, 3])
def test_cache_adds_up_flow_that_was_looked_for_once(exact, stride, monkeypatch):
    looked = []
    search = Flow.__call__
    monkeypatch.setattr(Flow, "__call__", lambda *args, **options: looked.append(options) or search(*args, **options))
    dataset = Dataset(
        find(exact), replace(SMALL, cache=64, size=(64, 96), clip=Dense(4, stride=stride), motion=Flow()), 1
    )
    dataset.fill_cache()
    assert looked == [{"both": False}] * 5
    (batch,) = batches(dataset, 3, 0, 1)
    assert len(looked) == 5  # no more in a step
    assert batch.motion is not None
    assert median(batch.motion.to_previous, batch.motion.had) == pytest.approx([-2 * stride, 0], abs=0.3)
    assert median(batch.motion.to_next, batch.motion.has) == pytest.approx([2 * stride, 0], abs=0.3)
    assert batch.motion.has[:, :-1].float().mean() > 0.8
    assert not batch.motion.has[:, -1].any()


KINDS = ["h264_open.ts", "h264_fields.mp4", "h264_cut.mkv", "mpeg2.mkv", "mpeg4.avi", "turned_90.mp4", "vp9.webm"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Path:
    """A folder that `films.make` writes into."""
    folder = tmp_path_factory.mktemp("kinds")
    write(folder / "source.mp4", films.moving_square(), 25, options={"qp": "0"})
    write(folder / "plain.mp4", films.moving_square(), 25, options=EXACT)
    with av.open(str(folder / "plain.mp4")) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    for name, lost in (("holes.mp4", places[20:40:3]), ("tail.mp4", places[50:])):
        data = bytearray((folder / "plain.mp4").read_bytes())
        for place in lost:  # the length of a NAL unit: these packets are lost
            data[place] ^= 0xFF
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", [*KINDS, "holes.mp4", "tail.mp4"])
@pytest.mark.parametrize("length", [7, 40, 500])
def test_pieces_make_the_whole(kinds, name, length, monkeypatch):
    """Pixels, vectors: bit by bit what `frames_at` says of all frames at once."""
    monkeypatch.setattr(cache, "PIECE", length)
    path = films.make(kinds, name) if name in KINDS else kinds / name
    frames = Frames([path], 60, motion=Vectors(fallback="none"))
    shape = frames.all(0).shape
    whole = frames_at(path, range(shape[0]), size=shape[1:3], vectors=True, block=frames.sides[0])
    assert torch.equal(frames.all(0), whole.frames)
    past, known = frames.steps(0)
    assert whole.motion is not None
    assert torch.equal(known, whole.motion.had)
    assert torch.equal(past, whole.motion.to_previous.half())
    assert frames.exact[0] == whole.motion.exact
    assert whole.motion.had.any() == (name != "vp9.webm")


def test_memory_for_motion_is_counted(exact, monkeypatch):
    """A block of 64 pixels of 3 bytes has 2 half floats and a truth value: 197 bytes for 192."""
    needed = []
    monkeypatch.setattr(cache, "check_memory", lambda bytes_, *_: needed.append(bytes_))
    paths = [item.path for item in find(exact)]
    plain, moved = Frames(paths, 64), Frames(paths, 64, motion=Vectors())
    assert needed[1] / needed[0] == pytest.approx(197 / 192)
    held = [frames.block.nbytes + frames.past.nbytes + frames.known.nbytes for frames in (plain, moved)]
    assert held == needed


# ---------------------------------------------------------------------------- files without


def test_few_vectors_are_as_good_as_none(tmp_path):
    """Of MPEG-4's B-frames nothing is told: two of three steps at stride 1."""
    path = tmp_path / "b.avi"
    write(path, moving(24, 3, 64, 96), 10, codec="mpeg4", options={"bf": "2", "q:v": "2"})
    dataset = Dataset(find(path), replace(SMALL, clip=Dense(8, stride=1)), 1)
    sample = dataset[0]
    assert sample.motion is not None
    assert sample.motion.had[:, 1:].all()
    assert [note.kind for note in sample.notes] == ["vectors, flow"]
    assert "has few motion vectors for a clip: flow is used" in sample.notes[0]


@pytest.mark.parametrize("kept", [0, 64])
@pytest.mark.parametrize(
    ("fallback", "says", "share"),
    [("flow", "flow is used", 1.0), ("encode", "clips are encoded", 0.5), ("none", "their motion stays unknown", 0.0)],
)
def test_what_stands_in_for_vectors(silent, fallback, says, share, kept):
    dataset = Dataset([Item(silent)], replace(SMALL, motion=Vectors(fallback=fallback), cache=kept))
    dataset.fill_cache()
    failures = Failures(4)
    for position in range(3):
        sample = dataset[position]
        (note,) = sample.notes
        assert note == f"{silent} (mjpeg) has no motion vectors for a clip: {note.split(': ')[1]}"
        assert says in note
        failures.count([note])
        assert sample.motion is not None
        assert sample.motion.had[0, 1:].float().mean() >= share
        assert sample.motion.had.any() == bool(share)
        if share:
            assert median(sample.motion.to_next, sample.motion.has) == pytest.approx([2, 0], abs=0.3)
    (line,) = failures.summary()
    assert line.startswith("1 of 4 videos (mjpeg) have few motion vectors for a clip, or none: ")
    assert says in line
    assert line.endswith(f"`tubelet prepare` makes some: {silent}")


@pytest.mark.parametrize("fallback", ["flow", "encode"])
def test_a_cache_looks_once_for_what_stands_in(silent, exact, fallback, monkeypatch):
    """While it is filled, in pieces; the paths are added up. Files with vectors are left alone."""
    looked, look, recode = [], Flow.__call__, flow.recoded
    monkeypatch.setattr(Flow, "__call__", lambda *args, **how: looked.append(1) or look(*args, **how))
    monkeypatch.setattr(flow, "recoded", lambda *args: looked.append(1) or recode(*args))
    monkeypatch.setattr(cache, "PIECE", 8)
    items = [Item(silent), *find(exact)[:2]]
    data = replace(SMALL, size=(64, 96), motion=Vectors(fallback=fallback), cache=64)
    dataset = Dataset(items, data, 1)
    dataset.fill_cache()
    assert len(looked) == 3  # 20 frames
    assert dataset.frames is not None
    assert [dataset.frames.lacks(index) for index in range(3)] == ["no", "", ""]
    samples = [dataset[position] for position in range(12)]
    assert len(looked) == 3
    for sample in samples:
        assert [note.kind for note in sample.notes] == ([] if sample.item else [f"vectors, {fallback}"])
        assert sample.motion is not None
        assert median(sample.motion.to_previous, sample.motion.had) == pytest.approx([-4, 0], abs=0.3)
        assert sample.motion.exact
    steps, known = dataset.frames.steps(0)
    assert not known[0].any()
    for step in range(1, 20):  # with no seam
        assert median(steps[:, step, None], known[step, None]) == pytest.approx([-2, 0], abs=0.3), step


def test_a_folder_of_images_and_a_repeated_picture(tmp_path, silent):
    (tmp_path / "film").mkdir()
    for number, image in enumerate(moving(12, 0, 64, 96)):
        cv2.imwrite(str(tmp_path / "film" / f"{number:03d}.png"), image[..., ::-1])
    sample = Dataset([Item(tmp_path / "film")], SMALL)[0]
    assert [(note.kind, note.codec) for note in sample.notes] == [("vectors, flow", "png")]
    assert sample.motion is not None
    assert median(sample.motion.to_next, sample.motion.has) == pytest.approx([2, 0], abs=0.3)
    still = Dataset([Item(silent, end=0.05)], SMALL)[0]  # one frame: there is nothing to stand in for
    assert [note.kind for note in still.notes] == ["short"]


def test_vectors_that_are_not_exact_are_said_once(clips):
    """One line in the log for all files, and a count of them at the end."""
    data = replace(SMALL, clip=Dense(4, stride=1))
    stream = list(batches(Dataset(find(clips), data), 7, 0, 2))
    notes = [note for batch in stream for note in batch.notes]
    assert len(set(notes)) == 1
    assert not any(batch.motion.exact for batch in stream)
    failures = Failures(7)
    failures.count(notes)
    (line,) = failures.summary()
    assert line.startswith("7 of 7 videos have motion vectors that may span more frames than one; ")
    assert all(isinstance(note, Note) and note.kind == "inexact" for note in notes)


# ---------------------------------------------------------------------------- settings


def test_settings_that_cannot_be_used(exact, monkeypatch):
    with pytest.raises(ValueError, match=r"data\.augment moves .* use one of data\.augment and data\.motion"):
        Dataset(find(exact), replace(SMALL, augment=RandAugment()))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match="optical flow needs OpenCV"):
        Dataset(find(exact), replace(SMALL, motion=Flow()))


@pytest.mark.parametrize("kept", [0, 64])
def test_flow_that_cannot_stand_in_is_said_before_the_run(exact, silent, bad, tmp_path, kept, monkeypatch):
    """Where some file needs it; not where nothing can, and not because of a file that cannot be read."""
    write(tmp_path / "keys.mp4", moving(12, 0, 64, 96), 10, options=EXACT | {"g": "1"})
    monkeypatch.setitem(sys.modules, "cv2", None)
    items, data = find(exact), replace(SMALL, cache=kept)
    for path, why in ((silent, "its codec is mjpeg"), (tmp_path / "keys.mp4", "most of its frames are key frames")):
        with pytest.raises(ValueError, match=rf"{path} has no motion .*: {why}.*flow\].*prepare.*encode.*none"):
            Dataset([*items, Item(path)], data)
        for fallback in ("encode", "none"):
            Dataset([*items, Item(path)], replace(data, motion=Vectors(fallback=fallback)))
    dataset = Dataset([*items, Item(bad["text"])], data)
    dataset.fill_cache()
    assert all(dataset[position].motion.had.any() for position in range(6))


@pytest.mark.parametrize("kept", [0, 64])
def test_clips_that_nobody_could_foresee_do_not_end_the_run(tmp_path, kept, monkeypatch):
    """Of MPEG-4's B-frames nothing is told, and no list of packets says that there are any."""
    write(tmp_path / "b.avi", moving(24, 3, 64, 96), 10, codec="mpeg4", options={"bf": "2", "q:v": "2"})
    monkeypatch.setitem(sys.modules, "cv2", None)
    dataset = Dataset(find(tmp_path / "b.avi"), replace(SMALL, clip=Dense(8, stride=1), cache=kept), 1)
    dataset.fill_cache()
    sample = dataset[0]
    assert [note.kind for note in sample.notes] == ["vectors, none"]
    assert "their motion stays unknown, since flow needs OpenCV (pip install 'tubelet[flow]')" in sample.notes[0]
    assert 0 < sample.motion.had[:, 1:].float().mean() < 0.5


def test_frames_far_apart(tmp_path):
    """Files are decoded between them only so far, and it is said; a cache adds vectors up at any distance."""
    path = tmp_path / "long.mp4"
    write(path, moving(2 * FAR + 10, 1, 64, 96), 10, options=EXACT)
    data = replace(SMALL, size=(64, 96), clip=Dense(2, stride=FAR + 1), motion=Vectors(fallback="none"))
    sample = Dataset(find(path), data, 1)[0]
    assert sample.motion is not None
    assert not sample.motion.had.any()
    (note,) = sample.notes
    assert f"long.mp4 lie more than {FAR} apart, too far to add up motion vectors: their motion stays unknown" in note
    failures = Failures(1)
    failures.count([note])
    assert "frames lie too far apart for motion vectors" in failures.summary()[0]
    cached = Dataset(find(path), replace(data, cache=64), 1)
    cached.fill_cache()
    sample = cached[0]
    assert sample.notes == []
    assert sample.motion is not None
    assert median(sample.motion.to_previous, sample.motion.had) == pytest.approx([-2 * (FAR + 1), 0], abs=2)
