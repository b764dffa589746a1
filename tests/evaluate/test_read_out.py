"""The read-out learns what is there, says chance where nothing is, and leaves the encoder alone."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.config import preset
from tubelet.data.sources import Item
from tubelet.data.video import write
from tubelet.evaluate.features import middle_clips, readable
from tubelet.evaluate.read_out import ReadOut, frozen


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> list[Item]:
    """Videos whose label is their colour: any frame tells."""
    folder, items = tmp_path_factory.mktemp("colours"), []
    rng = np.random.default_rng(0)
    for number in range(16):
        label = ("red", "blue")[number % 2]
        frames = rng.integers(0, 40, (10, 32, 32, 3), dtype=np.uint8)
        frames[..., 0 if label == "red" else 2] += 180
        path = folder / f"{number}.mp4"
        write(path, frames, 10)
        items.append(Item(path, label))
    return items


@pytest.fixture
def run():
    run = preset("videomae-demo")
    return replace(run, encoder=replace(run.encoder, width=32, depth=1, heads=2, hidden=64))


def test_it_reads_what_is_there_and_leaves_the_encoder_alone(colours, run):
    torch.manual_seed(0)
    encoder = run.encoder.build(run.grid(), 3)
    before = copy.deepcopy(encoder.state_dict())
    reader = ReadOut(steps=40, batch=8)
    assert reader(encoder, run.data, colours[:8], colours[8:]) == 100
    assert reader(encoder, run.data, colours[:8], colours[8:], still=True) == 100
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_shuffled_labels_are_chance(colours, run):
    encoder = run.encoder.build(run.grid(), 3)
    shuffled = [replace(item, label=("red", "blue")[number // 2 % 2]) for number, item in enumerate(colours)]
    assert 20 <= ReadOut(steps=20, batch=8)(encoder, run.data, shuffled[:8], shuffled[8:]) <= 80


def test_labels_must_be_there(colours, run):
    encoder = run.encoder.build(run.grid(), 3)
    with pytest.raises(ValueError, match="have no label"):
        ReadOut(steps=1)(encoder, run.data, [*colours, Item(colours[0].path, None)], colours)
    with pytest.raises(ValueError, match="none of the videos to fit on has: blue"):
        ReadOut(steps=1)(encoder, run.data, colours[:1], colours[1:2])


def test_frozen_clips_stand_still():
    video = torch.randint(0, 256, (2, 3, 8, 4, 4), dtype=torch.uint8)
    still = frozen(video)
    assert still.shape == video.shape
    assert all(torch.equal(still[:, :, t], video[:, :, 4]) for t in range(8))


def test_middle_clips_are_the_middle(tmp_path, run):
    frames = np.full((20, 32, 32, 3), 0, np.uint8) + (10 * np.arange(20, dtype=np.uint8))[:, None, None, None]
    write(tmp_path / "ramp.mp4", frames, 10)
    clip = middle_clips([tmp_path / "ramp.mp4"], run.data)[0, 0].float().mean((1, 2))
    np.testing.assert_allclose(clip.numpy(), 10 * np.arange(6, 14), atol=3)


def test_readable_leaves_out_what_cannot_be_read(tmp_path, colours, run):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    assert readable([Item(bad, None), colours[0], Item(bad, None), colours[1]], run.data, 2) == [
        colours[0].path,
        colours[1].path,
    ]
