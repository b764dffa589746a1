"""The page of attention without a browser: its maps are those of evaluate/attention.py, a click is where it was."""

import shutil

import numpy as np
import pytest
import torch

from tubelet.attention_pictures import attention_strip
from tubelet.data.items import Item
from tubelet.evaluate.attention import attention, rollout, token_at
from tubelet.evaluate.features import middle_clips
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.types import Grid
from tubelet.web import networks
from tubelet.web.attention import ABREAST, GAP, Choice, cube_at, drawing, kept, looked, sheet, shown


@pytest.fixture(scope="module")
def video(clips):
    return Item(clips / "left" / "left_0001.mp4")


def rows(strip):
    """Rows without the numbers behind their names."""
    return {name.rpartition(" · ")[0] or name: row for name, row in strip.rows.items()}


def test_maps_are_those_of_attention_and_rollout(runs, video):
    strip, caption, remark = shown(
        runs / "low", video, Choice(("mean", "each", "rollout"), slot=1, row=2, column=3, block=2)
    )
    encoder, run = load_encoder(runs / "low")
    clip = middle_clips([video], run.data)
    patches, query = inputs(clip, encoder.grid.patch), token_at(encoder.grid, (1, 2, 3))
    weights = attention(encoder, patches, query, 2)[0]
    maps = {"mean": weights.mean(0)} | {f"head {head}": weights[head] for head in range(4)}
    expected = attention_strip(clip[0], maps | {"rollout": rollout(encoder, patches, query)[0]}, encoder.grid, query)
    assert [*strip.rows] == [*expected.rows]
    for name, row in strip.rows.items():
        assert torch.equal(row, expected.rows[name])
    assert "(slot 1, row 2, column 3)" in caption
    assert "in block 2; rollout" in caption
    assert remark == ""


def test_the_random_encoder_stands_beside_and_follows_its_seed(runs, video):
    found = [rows(shown(runs / "low", video, Choice(random=True, seed=seed))[0]) for seed in (0, 0, 1)]
    assert [*found[0]] == ["clip", "mean, trained", "mean, random"]
    assert torch.equal(found[0]["mean, random"], found[1]["mean, random"])
    assert not torch.equal(found[0]["mean, random"], found[2]["mean, random"])
    assert torch.equal(found[0]["mean, trained"], found[2]["mean, trained"])
    assert not torch.equal(found[0]["mean, trained"], found[0]["mean, random"])


def test_another_click_passes_the_clip_through_no_second_time(runs, video):
    looked.cache_clear()
    for column in range(4):
        shown(runs / "low", video, Choice(slot=0, row=0, column=column))
    assert (looked.cache_info().misses, looked.cache_info().hits) == (1, 3)


def test_a_video_that_is_changed_is_read_again(runs, clips, tmp_path):
    path = tmp_path / "one.mp4"
    found = []
    for name in ("left", "up"):
        shutil.copy(clips / name / f"{name}_0001.mp4", path)
        found.append(kept(runs / "low", Item(path))[1])
    assert not torch.equal(*found)


def test_every_pixel_of_a_sheet_is_of_the_cube_that_is_there():
    grid = Grid.of(6, 24, 40, (2, 8, 8))
    t, y, x = np.indices((6, 24 * 2, 40 * 2))  # twice as large as the clip
    frames = np.stack([t // 2, y // 16, x // 16], -1).astype(np.uint8)
    pixels = np.asarray(sheet(frames))
    assert pixels.shape == (2 * 48 + GAP, ABREAST * 80 + (ABREAST - 1) * GAP, 4)
    seen = set()
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            cube = cube_at(x, y, (6, 48, 80), grid)
            assert cube == (tuple(pixels[y, x, :3].tolist()) if pixels[y, x, 3] else None)
            seen.add(cube)
    assert len(seen) == grid.tokens + 1


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (10**6, 0), (0, 10**6)])
def test_a_click_beside_a_sheet_is_nowhere(place):
    assert cube_at(*place, (8, 64, 64), Grid.of(8, 32, 32, (2, 8, 8))) is None


def test_without_a_query_or_with_one_that_is_not_there_the_middle_one_is_shown(runs, video):
    middle, caption, remark = shown(runs / "low", video, Choice())
    assert "(slot 2, row 2, column 2)" in caption
    assert remark == ""
    strip, other, remark = shown(runs / "low", video, Choice(slot=9, row=0, column=0))
    assert other == caption
    assert remark.startswith("query 9 0 0: there is no slot 9; clips have 4 slots of 4 rows and 4 columns of cubes")
    assert [*strip.rows] == [*middle.rows]
    assert "there is no slot 9" in drawing(strip, other, remark)
    assert "(slot 1, row 2, column 2)" in shown(runs / "low", video, Choice(slot=1))[1]  # the middle of the rest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": ()}, "choose at least one map"),
        ({"maps": ("sum",)}, "no map 'sum'; there are mean, each, rollout"),
        ({"seed": -1}, "seed -1"),
        ({"block": 4}, "there is no block 4; the encoder has 3, counted from 1"),
        ({"block": 0}, "there is no block 0"),
    ],
)
def test_choices_that_cannot_be_had_are_said(change, message, runs, video):
    with pytest.raises(ValueError, match=message):
        shown(runs / "low", video, Choice(**change))


def test_a_run_that_trains_shows_its_last_checkpoint_and_one_without_says_so(runs, tmp_path):
    shutil.copytree(runs / "low", tmp_path / "begun", ignore=shutil.ignore_patterns("*.safetensors"))
    found, run = networks.encoder(tmp_path / "begun")
    whole, _ = load_encoder(runs / "low")
    assert run.data.size == (32, 32)
    for name, value in whole.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    with pytest.raises(FileNotFoundError, match="begun has no encoder, neither of its end nor in a checkpoint"):
        networks.encoder(tmp_path / "begun")
    with pytest.raises(ValueError, match=r"last\.pt"):
        networks.encoder(runs / "broken")
