"""The stream of batches: the same on any number of workers, from any step, and past bad files."""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from films import moving
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data import cache, datasets, loader, video
from tubelet.data.datasets import ATTEMPTS, Data, Dataset
from tubelet.data.items import Note
from tubelet.data.loader import Batches, Failures, batches, read
from tubelet.data.parts import clip_of, part_of
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import Item, find
from tubelet.data.transforms import CentreCrop, Crop, MultiScaleCrop, RandomResizedCrop, Window
from tubelet.data.video import VideoError, frames_at, write
from tubelet.train.folder import fingerprint

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose

SMALL = Data(Dense(4, stride=2), size=(32, 32))
WHOLE_PIXELS = MultiScaleCrop((2 / 3,))  # 32 of 48 lines: nothing is scaled, for which files and memory have two ways


def contents(stream) -> list[tuple]:
    """Everything in a stream of batches that must be the same."""
    return [(b.video.numpy().tobytes(), b.ids.tolist(), b.crops, b.paths, b.notes) for b in stream]


# ---------------------------------------------------------------------------- the order


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 3))
def test_every_epoch_shows_every_video_once(count, seed, epoch):
    dataset = Dataset([Item(Path(f"{n}.mp4")) for n in range(count)], SMALL, seed)
    first = [dataset.item(position) for position in range(epoch * count, (epoch + 1) * count)]
    assert sorted(first) == list(range(count))
    dataset.item((epoch + 3) * count)  # asking elsewhere changes nothing
    assert first == [dataset.item(position) for position in range(epoch * count, (epoch + 1) * count)]
    if count > 20:
        assert first != [dataset.item(position) for position in range((epoch + 1) * count, (epoch + 2) * count)]
        assert first != sorted(first)


def test_same_stream_on_any_number_of_workers(clips, bad):
    """Byte for byte, with repeats, flips, replaced, damaged and short files on the way."""
    items = [*find(clips), Item(bad["zero"]), Item(bad["flipped"]), Item(bad["one"])]
    data = replace(SMALL, repeats=2, flip=0.5)
    expected = contents(batches(Dataset(items, data, 7), 4, 0, 8))
    notes = "\n".join(note for step in expected for note in step[-1])
    assert all(word in notes for word in ("zero.mp4", "flipped.mp4", "one.mp4", "too short"))
    for workers in (1, 2, 3):
        assert contents(batches(Dataset(items, data, 7), 4, 0, 8, workers)) == expected
    assert contents(batches(Dataset(items, data, 8), 4, 0, 8)) != expected


def test_resume_and_single_positions(clips):
    dataset = Dataset(find(clips), SMALL, 1)
    whole = contents(batches(dataset, 3, 0, 6))
    assert contents(batches(dataset, 3, 4, 6, 2)) == whole[4:]
    assert contents(batches(Dataset(find(clips), SMALL, 1), 3, 5, 6)) == whole[5:]
    assert contents(batches(dataset, 3, 6, 6)) == []
    assert whole[4][0] == b"".join(dataset[position].video.numpy().tobytes() for position in (12, 13, 14))


def test_a_batch_larger_than_the_data(clips):
    (batch,) = batches(Dataset(find(clips), SMALL), 16, 0, 1)
    assert batch.video.shape == (16, 3, 4, 32, 32)
    assert sorted(set(batch.ids.tolist())) == list(range(7))


def test_shares_of_processes_make_up_the_batch(clips):
    dataset = Dataset(find(clips), replace(SMALL, repeats=2))
    whole = list(batches(dataset, 6, 2, 4))
    shares = [list(batches(dataset, 6, 2, 4, rank=rank, world=3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.video, torch.cat([share[step].video for share in shares]))
        assert batch.paths == sum((share[step].paths for share in shares), ())
    with pytest.raises(ValueError, match="6 videos cannot be shared out evenly to 4 processes"):
        batches(dataset, 6, 0, 1, world=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_channels_are_last_in_memory(clips, workers):
    for batch in batches(Dataset(find(clips), replace(SMALL, repeats=2)), 3, 0, 2, workers):
        assert batch.video.permute(0, 2, 3, 4, 1).is_contiguous()


def test_nothing_else_that_is_random_moves(clips):
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), signal.getsignal(signal.SIGCHLD)
    for workers in (0, 1):
        list(batches(Dataset(find(clips), SMALL), 2, 0, 2, workers))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tobytes()
    assert before[2] == signal.getsignal(signal.SIGCHLD)


# ---------------------------------------------------------------------------- clips


def test_repeats_are_crops_of_the_same_frames(clips):
    data = replace(SMALL, repeats=3, crop=RandomResizedCrop((0.2, 0.6)))
    (batch,) = batches(Dataset(find(clips), data), 2, 0, 1)
    assert batch.video.shape == (6, 3, 4, 32, 32)
    assert batch.crops == 3
    assert batch.ids.reshape(2, 3).unique(dim=1).shape == (2, 1)
    assert len(batch.paths) == 2
    assert not torch.equal(batch.video[0], batch.video[1])
    (same,) = batches(Dataset(find(clips), replace(data, crop=CentreCrop())), 2, 0, 1)
    assert torch.equal(same.video[0], same.video[1])


def test_pixels_are_those_of_the_file(clips):
    """Against frames_at: whole frames, and the mirror."""
    items = find(clips)
    data = Data(Dense(4, stride=2), size=(48, 64), crop=CentreCrop())
    (batch,) = batches(Dataset(items, data), 1, 0, 1)
    every = frames_at(batch.paths[0], range(20)).frames.permute(3, 0, 1, 2)
    starts = [s for s in range(14) if torch.equal(batch.video[0], every[:, s : s + 7 : 2])]
    assert len(starts) == 1
    (mirror,) = batches(Dataset(items, replace(data, flip=1.0)), 1, 0, 1)
    assert torch.equal(mirror.video, batch.video.flip(-1))


def test_flips_about_as_often_as_asked(clips):
    data = Data(Dense(1), size=(8, 8), crop=CentreCrop(), flip=0.25, repeats=400)
    video = Dataset(find(clips), data)[0].video
    flips = (video != Dataset(find(clips), replace(data, flip=0.0))[0].video).flatten(1).any(1).sum()
    assert 70 < flips < 130


def test_grey_and_segments(clips):
    data = Data(Segments(6), size=(16, 24), channels=1)
    (batch,) = batches(Dataset(find(clips), data), 2, 0, 1)
    assert batch.video.shape == (2, 1, 6, 16, 24)
    assert batch.notes == ()


def test_long_videos_give_more_clips_if_asked(tmp_path):
    for name, frames in (("long", 100), ("short", 20)):
        write(tmp_path / f"{name}.mp4", moving(frames), 2)  # 50 and 10 seconds
    (tmp_path / "no.mp4").write_text("no video")
    dataset = Dataset(find(tmp_path), replace(SMALL, per="duration"))
    shown = [dataset.items[dataset.item(position)].path.stem for position in range(len(dataset))]
    assert sorted(shown) == ["long"] * 5 + ["no", "short"]
    clips = [dataset[position].video for position in range(7) if shown[position] == "long"]
    assert len({clip.numpy().tobytes() for clip in clips}) > 1


# ---------------------------------------------------------------------------- all frames in memory


def test_cache_shows_the_same_clips(clips, bad):
    items = [*find(clips), Item(bad["zero"]), Item(bad["one"])]
    data = replace(SMALL, repeats=2, flip=0.5, crop=WHOLE_PIXELS)
    done = []
    cached = Dataset(items, replace(data, cache=48), 3)  # 48 pixels: what the files have
    cached.fill_cache(lambda *progress: done.append(progress))
    assert done[-1] == (9, 9)
    expected = contents(batches(Dataset(items, data, 3), 3, 0, 6))
    assert contents(batches(cached, 3, 0, 6)) == expected
    assert contents(batches(cached, 3, 0, 6, 2)) == expected


def test_cache_is_small(clips):
    dataset = Dataset(find(clips), replace(SMALL, cache=24, channels=1))
    dataset.fill_cache()
    assert dataset.frames is not None
    assert dataset.frames.all(0).shape == (20, 24, 32, 1)
    assert dataset[0].video.shape == (1, 1, 4, 32, 32)
    assert cache.small(720, 1280, 128) == (128, 228)
    assert cache.small(48, 64, 128) == (48, 64)


def test_cache_that_does_not_fit(clips, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 10**6)
    with pytest.raises(ValueError, match=r"of 7 videos at 48 pixels takes 0\.0 GB, .* use --data\.cache \d+ or less"):
        Dataset(find(clips), replace(SMALL, cache=48)).fill_cache()


# ---------------------------------------------------------------------------- parts of videos


def whole(path: Path, every: int) -> list[bytes]:
    """All frames of a video."""
    return [frame.tobytes() for frame in frames_at(path, range(every)).frames.numpy()]


@pytest.mark.parametrize("kept", [0, 48])
@pytest.mark.parametrize("clip", [Dense(4, stride=2), Dense(3, fps=5), Segments(5)], ids=str)
def test_parts_give_their_own_frames_only(clips, clip, kept):
    """44 frames at 10 per second: from 1.5 to 3 s they are 15 to 29."""
    path = clips / "a" / "6.mp4"
    frames = whole(path, 44)
    data = Data(clip, size=(48, 64), crop=CentreCrop(), cache=kept)
    seen = set()
    for start, end, allowed in ((1.5, 3.0, range(15, 30)), (None, 1.5, range(15)), (3.0, None, range(30, 44))):
        dataset = Dataset([Item(path, start=start, end=end)], data)
        dataset.fill_cache()
        for position in range(12):
            sample = dataset[position]
            assert sample.notes == []
            shown = sample.video[0].permute(1, 2, 3, 0).numpy()
            places = [frames.index(frame.tobytes()) for frame in shown]
            assert set(places) <= set(allowed)
            assert places == sorted(places)
            seen |= set(places)
    assert len(seen) > 30  # it is not always the same clip


def test_the_middle_clip_is_that_of_the_part(clips):
    """Frames 15 to 29; four at stride 2 leave over seven, so they begin at 15 + 3; without a generator always."""
    path = clips / "a" / "6.mp4"
    clip = clip_of(Item(path, start=1.5, end=3.0), Dense(4, stride=2))
    assert torch.equal(clip.frames, frames_at(path, [18, 20, 22, 24]).frames)
    assert clip.seconds.tolist() == pytest.approx([1.8, 2.0, 2.2, 2.4])
    assert torch.equal(clip_of(Item(path), Dense(4, stride=2)).frames, frames_at(path, [18, 20, 22, 24]).frames)
    assert clip_of(Item(path), Segments(2), gray=True).frames.shape == (2, 48, 64, 1)
    drawn = {clip_of(Item(path, end=2.0), Dense(1), np.random.default_rng(n)).seconds.item() for n in range(40)}
    assert max(drawn) < 2
    assert len(drawn) > 10
    with pytest.raises(ValueError, match=r"6\.mp4: clip of 4 frames at stride 4 needs 13 source frames; .* has 5"):
        clip_of(Item(path, start=1.0, end=1.5), Dense(4, stride=4, short="error"))


def test_parts_that_follow_each_other_share_no_frame(clips):
    seconds = np.arange(44) / 10
    cuts = ((0.0, 0.3), (0.3, 1.05), (1.05, 2.7), (2.7, 4.4))
    parts = [part_of(Item(Path("x"), start=start, end=end), seconds) for start, end in cuts]
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 11), (11, 27), (27, 44)]


@pytest.mark.parametrize("kept", [0, 48])
def test_parts_outside_the_video_are_noted_and_replaced(clips, kept):
    path = clips / "a" / "6.mp4"
    items = [Item(path, start=0.0, end=2.0), Item(path, start=9.0, end=11.0)]
    dataset = Dataset(items, replace(SMALL, cache=kept))
    dataset.fill_cache()
    samples = [dataset[position] for position in range(2)]
    assert [sample.item for sample in samples] == [0, 0]
    (note,) = [note for sample in samples for note in sample.notes]
    assert note.kind == "unreadable"
    assert "6.mp4 has nothing from 9 s to 11 s: it has 44 frames shown at 0 to 4.3 s. Mend the list" in note
    for start, end in ((2.0, 2.0), (2.01, 2.04), (4.4, None)):
        with pytest.raises(VideoError, match=r"6\.mp4 has nothing from .* it has 44 frames"):
            clip_of(Item(path, start=start, end=end), Dense(2))


def test_parts_that_end_after_their_video_are_noted(clips):
    path = clips / "a" / "6.mp4"
    late, rounded = (Dataset([Item(path, start=2.0, end=end)], SMALL)[0] for end in (6.0, 5.0))
    assert [note.kind for note in late.notes] == ["cut"]
    assert "ends at 4.3 s, its part (2 to 6 s) later" in late.notes[0]
    assert rounded.notes == []
    failures = Failures(1)
    failures.count(late.notes)
    assert failures.summary()[0].startswith("1 of 1 videos end before the part that is meant does")


def test_an_epoch_by_duration_counts_the_parts(clips, tmp_path):
    write(tmp_path / "long.mp4", moving(41), 1)
    items = [Item(tmp_path / "long.mp4", start=0, end=30), Item(tmp_path / "long.mp4", start=30)]
    dataset = Dataset(items, replace(SMALL, per="duration"))
    assert dataset.places.tolist() == [0, 0, 0, 1]  # a clip for every ten seconds


def test_a_video_that_items_share_is_kept_once(clips):
    path, other = clips / "a" / "6.mp4", clips / "b" / "1.mp4"
    items = [Item(path, start=0, end=2), Item(other), Item(path, start=2), Item(path)]
    done: list[tuple[int, int]] = []
    data = replace(SMALL, crop=WHOLE_PIXELS)
    cached, plain = Dataset(items, replace(data, cache=48)), Dataset(items, data)
    cached.fill_cache(lambda *progress: done.append(progress))
    assert done == [(1, 2), (2, 2)]
    assert cached.frames is not None
    assert len(cached.frames.block) == (44 + 24) * 48 * 64 * 3
    assert contents(batches(cached, 4, 0, 4)) == contents(batches(plain, 4, 0, 4))


# ---------------------------------------------------------------------------- bad files


def test_a_pinning_thread_that_died_does_not_keep_a_run_waiting(clips):
    """Torch says "timed out" again and again; another loader goes on."""

    class Stuck:
        _pin_memory_thread = threading.Thread()  # never begun: not alive

        def __iter__(self):
            return self

        def __next__(self):
            raise RuntimeError("DataLoader timed out after 75 seconds")

    loaders = [Stuck(), ["a", "b"]]
    found = read(Batches(Dataset(find(clips), SMALL), 2, workers=1), lambda step: loaders.pop(0), 0, 300)
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("kind", ["zero", "text", "truncated", "audio", "gone"])
def test_unreadable_files_are_replaced_and_noted(clips, bad, kind):
    path = bad.get(kind, Path("gone.mp4"))
    dataset = Dataset([*find(clips)[:3], Item(path)], SMALL)
    bad_one = next(position for position in range(4) if dataset.item(position) == 3)
    sample = dataset[bad_one]
    assert sample.item != 3
    (note,) = sample.notes
    assert note.kind == "unreadable"
    assert note.path == str(path)
    assert str(path) in note
    assert torch.equal(sample.video, dataset[bad_one].video)


def test_damaged_and_short_files_are_used_and_noted(bad):
    for kind, words in (
        ("flipped", "is damaged: "),
        ("one", "is too short for 4 frames at stride 2: it has 1; "),
        ("short", "is too short for 4 frames at stride 2: it has 5; "),
    ):
        data = replace(SMALL, clip=Dense(48, stride=1) if kind == "flipped" else SMALL.clip)
        sample = Dataset([Item(bad[kind])], data)[0]
        assert len(sample.notes) == 1
        assert words in sample.notes[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_short_files_can_be_an_error(bad, workers):
    dataset = Dataset([Item(bad["short"])], replace(SMALL, clip=Dense(4, stride=2, short="error")))
    with pytest.raises(ValueError, match=r"short\.mp4: clip of 4 frames at stride 2 needs 7 .* has 5") as caught:
        list(batches(dataset, 1, 0, 1, workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_only_bad_files(tmp_path, workers):
    for n in range(9):
        (tmp_path / f"{n}.mp4").write_text("no video")
    with pytest.raises(VideoError, match=f"{ATTEMPTS + 1} videos in a row cannot be read; `tubelet check") as caught:
        list(batches(Dataset(find(tmp_path), SMALL), 2, 0, 1, workers))
    assert sum(f"{n}.mp4" in str(caught.value) for n in range(9)) == ATTEMPTS + 1
    assert "Traceback" not in str(caught.value)


def test_three_bad_files_of_few_never_stop_a_run(clips, tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.mp4").touch()
    items = find(clips)[:1] + find(tmp_path)
    failures = Failures(len(items))
    for batch in batches(Dataset(items, SMALL), 4, 0, 10):
        assert set(batch.ids.tolist()) == {0}
        failures.count(batch.notes)
    assert failures.summary()[0].startswith("3 of 4 videos could not be read and were replaced: ")


def test_too_many_bad_files_stop_with_their_names():
    def notes(count):
        return tuple(Note("does not open", "unreadable", f"bad{n}.mp4") for n in range(count) for _ in range(2))

    Failures(4).count(notes(3))
    Failures(80).count(notes(4))
    with pytest.raises(VideoError, match=r"4 of 79 .*tubelet check(.|\n)*bad0\.mp4\n  bad1\.mp4"):
        Failures(79).count(notes(4))
    short = Failures(9)
    short.count([Note("", "short", f"{n}.mp4") for n in range(5)])
    assert short.summary() == ["5 of 9 videos are shorter than a clip; frames were repeated: 0.mp4, 1.mp4, 2.mp4, ..."]


def test_a_worker_that_dies_is_reported_with_its_file(clips):
    stream = batches(Dataset(find(clips), SMALL), 2, 0, 10_000, 2)
    next(stream)
    next(stream)  # one from each, so both have begun
    victim = active_children()[-1].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.3)  # nothing is raised here
    with pytest.raises(VideoError, match=rf"died while at .*\.mp4 \(process {victim}\)\. If memory ran out"):
        list(stream)
    stream.close()


def test_only_the_worker_that_died_is_blamed(clips):
    source = Batches(Dataset(find(clips), SMALL), 2)
    source.reading = torch.tensor([[27814, 0, 0, 1.5], [-1, -1, -1, -1]], dtype=torch.float64)
    told = source.obituary("DataLoader worker (pid(s) 27815) exited unexpectedly")
    assert "before it had begun" in told
    assert ".mp4" not in told
    assert ".mp4 (process 27814)" in source.obituary("DataLoader worker (pid 27814) exited unexpectedly")


def delayed(monkeypatch, seconds: dict[Path, float]) -> None:
    """Reading a video takes so much longer; 0 for all others."""

    def reads(path, *words, **options):
        time.sleep(seconds.get(path, 0))
        return frames_at(path, *words, **options)

    monkeypatch.setattr(datasets, "frames_at", reads)


def test_a_video_that_stands_still_is_given_up_and_another_is_shown(clips, monkeypatch):
    items = find(clips)
    expected = Dataset(items, SMALL)
    expected.given_up[1] = "was not read in 0.5 seconds (--training.patience)"
    whole = list(batches(expected, 2, 0, 2 * len(items)))
    delayed(monkeypatch, {items[1].path: 1000.0})
    found = list(batches(Dataset(items, SMALL), 2, 0, 2 * len(items), 2, patience=0.5))
    assert contents(found) == contents(whole)
    assert [batch.notes for batch in found] == [batch.notes for batch in whole]
    (note,) = {note for batch in found for note in batch.notes if note.kind == "unreadable"}
    assert note.startswith(f"{items[1].path} was not read in 0.5 seconds (--training.patience) (another video is shown")
    assert active_children() == []


def test_videos_that_are_slow_but_come_are_waited_for(clips, monkeypatch):
    items = find(clips)
    whole = contents(batches(Dataset(items, SMALL), 4, 0, 2))
    delayed(monkeypatch, {item.path: 0.4 for item in items})
    assert contents(batches(Dataset(items, SMALL), 4, 0, 2, 2, patience=1.2)) == whole


def test_where_too_many_stand_still_the_run_ends_with_their_names(clips, monkeypatch):
    items = find(clips)
    delayed(monkeypatch, {item.path: 1000.0 for item in items})
    with pytest.raises(VideoError, match=r"in a row cannot be read.*\n.*was not read in 0.2 seconds"):
        list(batches(Dataset(items, SMALL), 2, 0, 4, 2, patience=0.2))


def test_a_pipe_is_no_video_and_keeps_nobody_waiting(clips, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"pipe\.mp4 is a pipe"):
        frames_at(tmp_path / "pipe.mp4", [0])


@dataclass(frozen=True)
class Broken(Crop):
    """A crop with a bug."""

    def window(self, height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Window:
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_bugs_keep_their_traceback_and_name_the_file(clips, workers):
    with pytest.raises(ZeroDivisionError) as caught:
        list(batches(Dataset(find(clips), replace(SMALL, crop=Broken())), 1, 0, 1, workers))
    assert ".mp4 (position 0)" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (0, 32)}, r"--data.size \(0, 32\) cannot be used; expected at least"),
        ({"flip": 1.5}, r"--data.flip 1.5 .* 0 to 1"),
        ({"repeats": 0}, r"--data.repeats 0"),
        ({"channels": 4}, r"--data.channels 4 .* 3 \(colour\) or 1 \(grey\)"),
        ({"cache": -1}, r"--data.cache -1"),
    ],
)
def test_settings_that_cannot_be_used(clips, change, words):
    with pytest.raises(ValueError, match=words):
        Dataset(find(clips), replace(SMALL, **change))


def test_no_items():
    with pytest.raises(ValueError, match="at least one video"):
        Dataset([], SMALL)


def test_filmed_videos(real):
    """One clip of every container and codec there is, wide and narrow, and no complaint."""
    dataset = Dataset(find(real / "everyday"), Data(Dense(16, stride=2), size=(64, 64)))
    (batch,) = batches(dataset, len(dataset), 0, 1)
    assert batch.video.shape == (len(dataset), 3, 16, 64, 64)
    assert sorted(batch.ids.tolist()) == list(range(len(dataset)))
    assert [note for note in batch.notes if note.kind == "unreadable"] == []  # type: ignore[attr-defined]
    assert batch.video.float().std(dim=(1, 2, 3, 4)).min() > 3


# ---------------------------------------------------------------------------- very many files


def test_only_the_files_of_a_batch_are_opened(clips, monkeypatch, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(300):
        os.link(clips / "a" / "0.mp4", tmp_path / "many" / f"{number}.mp4")
    read, opened = [], video.opened
    monkeypatch.setattr(video, "opened", lambda path: read.append(str(path)) or opened(path))
    dataset = Dataset(find(tmp_path / "many"), SMALL)
    fingerprint(dataset)
    assert not read
    batch = next(batches(dataset, 4, 0, 10))
    assert sorted(read) == sorted(batch.paths)
    assert len(set(read)) == 4


def test_trouble_with_more_files_than_are_kept_by_name_is_counted_once_each(monkeypatch):
    """In a byte for each file; of two paths in one bit one is lost, which chance makes a handful of here."""
    monkeypatch.setattr(loader, "KEPT", 10)
    failures = Failures(20_000)
    for _ in range(2):
        failures.count([Note("", "short", f"{n}.mp4") for n in range(900)])
    assert len(failures.seen["short"]) == 10
    assert 880 <= failures.number("short") <= 900
    failures.count([Note("", "unreadable", f"{n}.mp4") for n in range(950)])
    assert failures.summary()[0].startswith(f"{failures.number('short')} of 20000 videos are shorter")
    with pytest.raises(VideoError, match=r"^10\d\d of 20000 videos cannot be read so far, more than 5 %"):
        failures.count([Note("", "unreadable", f"{n}.mp4") for n in range(1100)])
