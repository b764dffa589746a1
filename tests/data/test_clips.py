"""Several clips of each video in a step: what their frames say of their times, and that one clip is what it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data, Dataset
from tubelet.data.flow import Flow
from tubelet.data.loader import batches
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import Item, find
from tubelet.data.transforms import CentreCrop, MultiScaleCrop
from tubelet.data.vectors import Vectors
from tubelet.data.video import write
from tubelet.methods.videomae import small_cpu
from tubelet.nn.vit import Encoder
from tubelet.plan import plan
from tubelet.train.device import batch_bytes
from tubelet.train.guard import advice

TOTAL, LEVELS = 40, 6  # frames, and how much brighter each is than the one before
TWO = Data(Dense(4, stride=2), size=(16, 16), crop=CentreCrop(), clips=2, repeats=3)


@pytest.fixture(scope="module")
def clocks(tmp_path_factory) -> Path:
    """Videos whose brightness is the number of the frame."""
    folder = tmp_path_factory.mktemp("clocks")
    frames = np.repeat(LEVELS * np.arange(TOTAL, dtype=np.uint8), 32 * 32 * 3).reshape(TOTAL, 32, 32, 3)
    for name in "abcde":
        write(folder / f"{name}.mp4", frames, 10, options={"g": "8", "crf": "5"})
    return folder


def times(video: torch.Tensor) -> np.ndarray:
    """The number of every frame, (clip, frame)."""
    return (video.float().mean(dim=(1, 3, 4)) / LEVELS).round().int().numpy()


def contents(stream) -> list[tuple]:
    return [(b.video.numpy().tobytes(), b.ids.tolist(), b.crops, b.paths, b.notes) for b in stream]


def test_clips_of_a_video_have_times_of_their_own_and_crops_of_a_clip_share_them(clocks):
    starts = []
    for batch in batches(Dataset(find(clocks), TWO, 3), 5, 0, 4):
        assert (len(batch.video), batch.crops, len(batch.paths)) == (30, 6, 5)
        assert batch.ids.tolist() == batch.ids[::6].repeat_interleave(6).tolist()
        shown = times(batch.video).reshape(5, 2, 3, 4)
        assert (shown == shown[:, :, :1]).all()  # clip by clip, the crops of each together
        assert (np.diff(shown, axis=-1) == 2).all()
        starts += shown[:, :, 0, 0].tolist()
    first, second = np.array(starts).T
    assert (first != second).mean() > 0.8  # 33 starts, drawn apart
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.6
    assert min(first.min(), second.min()) < 8
    assert max(first.max(), second.max()) > 24


@pytest.mark.parametrize("clip", [Dense(4, stride=2), Segments(4)], ids=str)
def test_one_clip_is_what_it_was_and_the_first_of_two(clocks, clip):
    """Every draw from its own generator, written out: the frames, then for each crop the window and the mirror."""
    data = replace(TWO, clip=clip, crop=MultiScaleCrop(), flip=0.5)
    one, two = (Dataset(find(clocks), replace(data, clips=clips), 7) for clips in (1, 2))
    for position in range(7):
        epoch, place = one.where(position)
        rng = np.random.default_rng((7, int.from_bytes(b"clip", "big"), epoch, place))
        seconds = np.arange(TOTAL) / 10
        videos = two[position].video
        assert torch.equal(one[position].video, videos[:3])
        for shown in times(videos).reshape(2, 3, 4):
            expected = clip(seconds, rng)
            assert (shown == expected).all()
            for _ in range(3):
                MultiScaleCrop().window(32, 32, (16, 16), rng)
                rng.random()


@pytest.mark.parametrize("workers", [0, 2])
def test_several_clips_are_the_same_from_any_step_on_any_workers_and_from_memory(clocks, workers):
    data = replace(TWO, flip=0.5, crop=MultiScaleCrop())
    whole = contents(batches(Dataset(find(clocks), data, 1), 4, 0, 5))
    assert contents(batches(Dataset(find(clocks), data, 1), 4, 2, 5, workers)) == whole[2:]
    kept = Dataset(find(clocks), replace(data, cache=32), 1)
    kept.fill_cache()
    assert contents(batches(kept, 4, 0, 5, workers)) == whole
    shares = [list(batches(Dataset(find(clocks), data, 1), 4, 0, 5, rank=rank, world=2)) for rank in range(2)]
    joined = [torch.cat([a.video, b.video]).numpy().tobytes() for a, b in zip(*shares)]
    assert joined == [step[0] for step in whole]


@pytest.mark.parametrize("motion", [Vectors(), Flow(speed="ultrafast")], ids=str)
@pytest.mark.parametrize("kept", [0, 32])
def test_motion_ends_where_a_clip_does(clocks, motion, kept):
    pytest.importorskip("cv2")
    dataset = Dataset(find(clocks), replace(TWO, motion=motion, cache=kept), 1)
    dataset.fill_cache()
    (batch,) = batches(dataset, 2, 0, 1)
    assert batch.motion is not None
    assert batch.motion.had.shape == (12, 4, 2, 2)
    assert not batch.motion.had[:, 0].any()
    assert not batch.motion.has[:, -1].any()
    assert torch.equal(batch.clips(6, 12).motion.had, batch.motion.had[6:])  # type: ignore[union-attr]


def test_what_is_said_of_a_file_is_said_once(tmp_path):
    write(tmp_path / "one.mp4", np.zeros((1, 32, 32, 3), np.uint8), 10)
    assert [note.kind for note in Dataset([Item(tmp_path / "one.mp4")], TWO)[0].notes] == ["short"]


def test_plans_and_messages_count_all_clips_of_a_video():
    run = small_cpu()
    run = Run(
        encoder=Encoder(width=24, depth=1, heads=2, hidden=48, patch=(2, 8, 8)),
        method=run.method,
        data=TWO,
        optim=Optim(),
        training=Training(epochs=1, batch=8, accumulate=2, workers=0, device="cpu"),
    )
    assert batch_bytes(run) == 8 * 2 * 3 * 3 * 4 * 16 * 16
    found = plan(run)
    assert found.memory.clips == 24
    assert found.settings["batch"] == "8 videos x 2 clips x 3 crops = 48 clips, in 2 parts of 24"
    assert "24 clips of 4x16x16 at once (batch 8 x 6 crops / 2 parts)" in advice(
        run, torch.device("cpu"), MemoryError("out of memory")
    )


def test_no_clips_cannot_be_used(clocks):
    with pytest.raises(ValueError, match=r"--data\.clips 0 cannot be used; expected 1 or more"):
        Dataset(find(clocks), replace(TWO, clips=0))
