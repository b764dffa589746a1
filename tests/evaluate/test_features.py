"""Features are the encoder's own, of the clips that were asked for; a cache is used when nothing changed, only then."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.config import preset
from tubelet.data.sources import Item
from tubelet.data.video import VideoError
from tubelet.data.writing import write
from tubelet.evaluate import features as module
from tubelet.evaluate.features import features, middle_clips
from tubelet.targets import inputs


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[Item]:
    """Five videos of noise; the third is a letter."""
    folder, found = tmp_path_factory.mktemp("noise"), []
    rng = np.random.default_rng(0)
    for number in range(5):
        path = folder / f"{number}.mp4"
        write(path, rng.integers(0, 256, (10 + number, 32, 40, 3), dtype=np.uint8), 10)
        found.append(Item(path))
    found[2].path.write_text("I am a letter, not a film.\n" * 100)
    return found


@pytest.fixture(scope="module")
def run():
    run = preset("videomae-demo")
    return replace(run, encoder=replace(run.encoder, width=32, depth=3, heads=2, hidden=64))


@pytest.fixture
def encoder(run):
    torch.manual_seed(0)
    encoder = run.encoder.build(run.grid(), 3)
    with torch.no_grad():
        encoder.norm.weight.uniform_(0.5, 2)
    return encoder.eval()


def block_by_block(encoder, data, items) -> list[torch.Tensor]:
    """What each block puts out, and last the norm, by hand."""
    with torch.no_grad():
        x = encoder.embed(inputs(middle_clips(items, data), encoder.grid.patch)) + encoder.position()
        outs = []
        for block in encoder.blocks:
            x = block(x)
            outs.append(x)
        return [*outs, encoder.norm(x)]


def test_mean_tokens_of_blocks_in_the_order_asked_for(items, run, encoder):
    whole = [items[0], items[1], items[3], items[4]]
    outs = block_by_block(encoder, run.data, whole)
    found = features(encoder, whole, run.data, (3, 0, 1), batch=3)
    assert found.values.dtype == np.float32
    expected = torch.stack([outs[2].mean(1), outs[3].mean(1), outs[0].mean(1)], 1)
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-5)
    assert abs(expected[:, 0] - expected[:, 1]).max() > 0.01  # the norm matters


def test_tokens_of_blocks_one_block_after_the_other(items, run, encoder):
    outs = block_by_block(encoder, run.data, items[:2])
    found = features(encoder, items[:2], run.data, (2, 0), pooled=False)
    assert found.values.dtype == np.float16
    expected = torch.cat([outs[1], outs[3]], 1).numpy()
    np.testing.assert_allclose(found.values.astype(np.float32), expected, atol=4e-3, rtol=1e-3)


def test_the_encoder_is_left_as_it_was(items, run, encoder):
    encoder.train()
    features(encoder, items[:1], run.data)
    assert encoder.training


@pytest.mark.parametrize("cached", [False, True])
def test_what_cannot_be_read_is_named_and_left_out_and_changes_nothing_else(items, run, encoder, cached, tmp_path):
    cache = tmp_path if cached else None
    calls = []
    for _ in range(2):
        found = features(encoder, items, run.data, cache=cache, batch=2, progress=lambda *at: calls.append(at))
        assert found.rows == (0, 1, 3, 4)
        assert list(found.problems) == [2]
        assert str(items[2].path) in found.problems[2]
        alone = features(encoder, [items[4]], run.data)
        np.testing.assert_allclose(found.values[3], alone.values[0], atol=1e-6)
    assert calls == [(2, 5), (4, 5), (5, 5)] * (1 if cached else 2)
    with pytest.raises(VideoError, match=r"not one of the videos can be read:\n.*2\.mp4"):
        features(encoder, items[2:3], run.data)


def test_a_segment_is_read_where_it_lies(tmp_path, run, encoder):
    ramp = np.full((40, 32, 32, 3), 0, np.uint8) + (5 * np.arange(40, dtype=np.uint8))[:, None, None, None]
    write(tmp_path / "ramp.mp4", ramp, 10)
    late = Item(tmp_path / "ramp.mp4", start=2.0, end=4.0)  # frames 20 to 39; eight from the middle: 26 to 33
    clip = middle_clips([late], run.data)[0, 0].float().mean((1, 2))
    np.testing.assert_allclose(clip.numpy(), 5 * np.arange(26, 34), atol=4)
    whole = features(encoder, [Item(tmp_path / "ramp.mp4"), late], run.data).values
    assert abs(whole[0] - whole[1]).max() > 1e-3


# ---------------------------------------------------------------------------- the cache


def test_the_cache_is_used_while_nothing_changes(items, run, encoder, tmp_path, monkeypatch):
    first = features(encoder, items, run.data, (1, 0), cache=tmp_path)
    assert not first.reused
    monkeypatch.setattr(module, "compute", None)  # would fail
    again = features(encoder, items, run.data, (1, 0), cache=tmp_path)
    assert again.reused
    assert (again.rows, again.problems, again.blocks) == (first.rows, first.problems, first.blocks)
    np.testing.assert_array_equal(again.values, first.values)


def changed_weights(encoder, data, items):
    with torch.no_grad():
        encoder.blocks[1].mlp.fc1.weight[0, 0] += 1e-3
    return {}


def touched_file(encoder, data, items):
    os.utime(items[1].path, ns=(1, 1))
    return {}


CHANGES = {
    "weights": changed_weights,
    "file": touched_file,
    "order": lambda encoder, data, items: {"items": [*items[1:], items[0]]},
    "fewer": lambda encoder, data, items: {"items": items[:2]},
    "segment": lambda encoder, data, items: {"items": [replace(items[0], start=0.1, end=0.9), *items[1:]]},
    "clip": lambda encoder, data, items: {"data": replace(data, clip=replace(data.clip, stride=2, fps=None))},
    "block": lambda encoder, data, items: {"blocks": (2,)},
    "tokens": lambda encoder, data, items: {"pooled": False},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_cache_is_not_used_when_something_changed(what, items, run, encoder, tmp_path):
    usual = {"items": items[:2], "data": run.data, "blocks": (1,)} | ({"items": items} if what == "fewer" else {})
    features(encoder, **usual, cache=tmp_path)
    assert features(encoder, **usual, cache=tmp_path).reused
    assert not features(encoder, **(usual | CHANGES[what](encoder, run.data, items[:2])), cache=tmp_path).reused


def test_positions_and_heads_count_though_they_are_no_weights(items, run, encoder, tmp_path):
    features(encoder, items[:1], run.data, cache=tmp_path)
    for change in ({"position": "axes"}, {"heads": 4}):
        other = replace(run.encoder, **change).build(run.grid(), 3).eval()
        other.load_state_dict(encoder.state_dict())
        assert not features(other, items[:1], run.data, cache=tmp_path).reused


def test_labels_do_not_matter_to_the_cache(items, run, encoder, tmp_path):
    features(encoder, items[:2], run.data, cache=tmp_path)
    named = [replace(item, label="a", group="g") for item in items[:2]]
    assert features(encoder, named, run.data, cache=tmp_path).reused


def test_an_interruption_leaves_nothing_behind(items, run, encoder, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(encoder, items[:2], run.data, cache=tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []
    assert not features(encoder, items[:2], run.data, cache=tmp_path).reused


# ---------------------------------------------------------------------------- errors


def test_features_that_are_not_finite_name_the_clip(items, run, encoder, tmp_path):
    with torch.no_grad():
        encoder.blocks[0].mlp.fc2.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"0\.mp4 are not finite"):
        features(encoder, items, run.data, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tokens_too_large_for_half_precision_are_an_error(items, run, encoder):
    with torch.no_grad():
        encoder.norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"too large for float16"):
        features(encoder, items[:1], run.data, pooled=False)


def test_blocks_that_are_not_there(items, run, encoder):
    for blocks in ((4,), (-1,), (), (1, 1)):
        with pytest.raises(ValueError, match=r"the encoder has 3; name some of 1 to 3, or 0"):
            features(encoder, items[:1], run.data, blocks)
    with pytest.raises(ValueError, match="not one video"):
        features(encoder, [], run.data)


def test_what_does_not_fit_into_memory(items, run, encoder, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"5 clips, 64 x 32 numbers each.*--cache DIR"):
        features(encoder, items, run.data, pooled=False)


def test_paths_and_items_alike(items, run):
    clip = middle_clips([items[0].path], run.data)
    assert torch.equal(clip, middle_clips([Item(Path(items[0].path))], run.data))


def test_cells_hold_what_changes_where_and_when(items, run, encoder):
    grid = encoder.grid
    found = features(encoder, items[:2], run.data, (1, 0), pooled=(grid.T, 1, 2)).values
    tokens = features(encoder, items[:2], run.data, (1, 0), pooled=False).values.astype(np.float32)
    where = tokens.reshape(-1, 2, grid.T, grid.H, 2, grid.W // 2, tokens.shape[2])
    change = where - where.mean(axis=2, keepdims=True)
    expected = np.moveaxis(change.mean(axis=(3, 5)), -1, 2).reshape(len(found), 2, -1)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # tokens are kept in float16
