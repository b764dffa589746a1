"""Attention as pictures: colours lie where the weight is, the frame where the query is; the scale is what is said."""

from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tubelet.attention_pictures import PLACE, QUERY, attention_maps, attention_strip, contrast, explained, legend
from tubelet.cli import run as command
from tubelet.config import preset, to_json
from tubelet.data.synthetic import make
from tubelet.evaluate.attention import attention, rollout, token_at
from tubelet.evaluate.features import middle_clips
from tubelet.nn.vit import Encoder
from tubelet.strips import LEAST_SECONDS, Strip, save, save_png
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.types import Grid

strip = attention_strip
GRID = Grid.of(8, 32, 40, (2, 8, 8))
ZOOM = 7  # of 32 pixels to at least 208


def film(grey: int = 100) -> torch.Tensor:
    return torch.full((3, 8, 32, 40), grey, dtype=torch.uint8)


def cube(frames: torch.Tensor, slot: int, row: int, column: int) -> np.ndarray:
    """The pixels of a cube in rows of a strip: 2 frames of 56 x 56, without those that a rim may cover."""
    side = 8 * ZOOM
    part = frames[:, 2 * slot : 2 * slot + 2, row * side : row * side + side, column * side : column * side + side]
    return part[:, :, 12:-12, 12:-12].numpy()


def test_the_hottest_cube_is_where_the_weight_is_and_the_rest_is_dark():
    weights = torch.full((80,), 0.001)
    weights[token_at(GRID, (1, 2, 3))] = 1.0
    shown = attention_strip(film(), {"mean": weights}, GRID, 0).rows
    ((name, heat),) = [pair for pair in shown.items() if pair[0] != "clip"]
    assert name.startswith("mean ")
    bright = {
        (slot, row, column): cube(heat, slot, row, column).mean()
        for slot in range(4)
        for row in range(4)
        for column in range(5)
    }
    assert max(bright, key=bright.__getitem__) == (1, 2, 3)
    others = [value for place, value in bright.items() if place != (1, 2, 3)]
    assert max(others) - min(others) < 1
    assert bright[1, 2, 3] > 4 * max(others)


def test_colours_are_those_of_the_legend_and_as_bright_as_the_weight():
    weights = torch.linspace(0, 1, 80)
    heat = [*attention_strip(film(0), {"mean": weights}, GRID, 0).rows.values()][1]
    seen = [cube(heat, n // 20, n // 5 % 4, n % 5).reshape(3, -1) for n in range(80)]
    assert all((values == values[:, :1]).all() for values in seen)
    means = [values.mean() for values in seen]
    assert means == sorted(means)
    assert means[-1] > 100
    bar = np.asarray(legend(300))[4]
    wanted = 255 * matplotlib.colormaps["inferno"](np.linspace(0, 1, 300))[:, :3]
    assert np.abs(bar - wanted).max() <= 1
    for n in (20, 50, 79):  # on black, colours are only darker than the bar's, by one factor
        ratio = seen[n][:, 0] / (wanted[round(299 * min(n / 79 / np.quantile(weights, 0.995), 1))] + 1e-9)
        assert ratio == pytest.approx(ratio[0], abs=0.06)


def test_the_query_is_framed_in_its_slot_and_its_place_elsewhere():
    slot, row, column = 2, 1, 3
    shown = attention_strip(film(), {"mean": torch.rand(80)}, GRID, token_at(GRID, (slot, row, column)))
    clip, heat = (rows.numpy() for rows in shown.rows.values())
    side = 8 * ZOOM
    for rows, others in ((clip, PLACE), (heat, None)):
        for t in range(8):
            for colour, there in ((QUERY, t // 2 == slot), (PLACE, others is not None and t // 2 != slot)):
                y, x = np.nonzero((rows[:, t] == np.array(colour)[:, None, None]).all(0))
                assert bool(len(y)) == there
                if there:  # a rim just around the cube
                    assert (y.min(), x.min()) == (row * side - 1, column * side - 1)
                    assert (y.max(), x.max()) == ((row + 1) * side, (column + 1) * side)
                    middle = rows[:, t, row * side + side // 2, column * side + side // 2]
                    assert not (middle == colour).all()
    assert shown.moment // 2 == slot


@pytest.mark.parametrize("slot", range(16))
def test_a_strip_shows_the_slot_of_the_query_though_not_all_frames(slot, tmp_path):
    grid = Grid.of(32, 16, 16, (2, 8, 8))
    video = torch.zeros(3, 32, 16, 16, dtype=torch.uint8)
    strip = attention_strip(video, {}, grid, token_at(grid, (slot, 1, 1)))
    with Image.open(save_png(tmp_path / "a.png", [strip])) as image:
        assert (np.asarray(image) == QUERY).all(-1).any()


def test_contrast_is_how_many_times_an_even_share():
    assert contrast(torch.full((80,), 1 / 80)) == pytest.approx(1)
    weights = torch.zeros(1000)
    weights[:10] = 0.1
    assert contrast(weights) == pytest.approx(100)


def test_maps_are_what_they_are_called():
    torch.manual_seed(0)
    encoder = Encoder(width=24, depth=2, heads=3, hidden=48, patch=(2, 8, 8)).build(GRID, 3)
    video = torch.randint(0, 256, (2, 3, 8, 32, 40), dtype=torch.uint8)
    maps = attention_maps(encoder, video, 5, 1, (2, 0), rolled=True)
    patches = inputs(video, GRID.patch)
    weights = attention(encoder, patches, 5, 1)
    expected = {
        "mean": weights.mean(1),
        "head 2": weights[:, 2],
        "head 0": weights[:, 0],
        "rollout": rollout(encoder, patches, 5),
    }
    assert [*maps] == [*expected]
    for name, values in expected.items():
        torch.testing.assert_close(maps[name], values)
    with pytest.raises(ValueError, match="no head 3; the encoder has 3"):
        attention_maps(encoder, video, heads=(3,))
    with pytest.raises(ValueError, match=r"clips of \(8, 32, 32\).*takes \(8, 32, 40\)"):
        attention_maps(encoder, video[..., :32])


def test_the_caption_says_whose_weights_and_the_scale():
    assert "slot 2, row 2, column 2) takes from every cube of the clip in block 7. " in explained(GRID, None, 7, False)
    assert (
        "block 7; rollout: through all blocks. Each map has its own scale, from 0 to its 99.5 % quantile"
        in explained(GRID, 3, 7, True)
    )


# ---------------------------------------------------------------------------- films


@pytest.mark.parametrize(("frames", "shown"), [(5, 35), (40, 40)])
def test_mp4_plays_every_frame_in_order_for_some_seconds_in_browsers(frames, shown, tmp_path):
    video = torch.zeros(3, frames, 33, 41, dtype=torch.uint8)
    for t in range(frames):
        video[:, t] = 20 + 5 * t
    path = save(tmp_path / "new" / "film.mp4", [Strip({"one": video, "other": video}, "heading")], "à propos")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(pictures) == shown
    assert shown / 8 >= LEAST_SECONDS
    height, width, _ = pictures[0].shape
    middle = [int(picture[height // 2, width // 4].mean()) for picture in pictures]
    assert middle == pytest.approx([20 + 5 * (t % frames) for t in range(shown)], abs=6)


# ---------------------------------------------------------------------------- the verb


@pytest.fixture(scope="module")
def film_of_eight(tmp_path_factory) -> str:
    return str(next(make(tmp_path_factory.mktemp("videos"), 4, size=32, workers=1).rglob("*.mp4")))


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """The folder of a run whose encoder looks at one place."""
    run = preset("videomae-demo")
    torch.manual_seed(0)
    folder, encoder = tmp_path_factory.mktemp("ours"), run.encoder.build(run.grid(), 3)
    with torch.no_grad():
        encoder.blocks[-1].attn.qkv.weight *= 20
    save_file(encoder.state_dict(), folder / "encoder.safetensors", {"run": to_json(run), "step": "1"})
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """Weights of transformers."""
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    decoder = {f"decoder_{name}": value for name, value in shape.items()}
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=8, **shape, **decoder, use_mean_pooling=False
    )  # keeps the norm
    model, noise = VideoMAEForPreTraining(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones would be warned of
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.05)
    model.save_pretrained(folder := tmp_path_factory.mktemp("theirs"))
    return folder


@pytest.mark.parametrize("out", ["a.png", "a.gif", "a.mp4"])
def test_the_verb_draws_what_was_asked_for(ours, film_of_eight, out, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("tubelet.attention_pictures.attention_strip", lambda *what: drawn.append(what) or strip(*what))
    path = tmp_path / out
    call = ["picture", "attention", "--weights", str(ours), "--data", film_of_eight, "--out", str(path)]
    assert command([*call, "--maps", "mean", "each", "rollout", "--query", "1", "2", "3", "--block", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert path.stat().st_size > 1000
    ((video, maps, grid, query, heading),) = drawn
    assert [*maps] == ["mean", "head 0", "head 1", "head 2", "head 3", "rollout"]
    assert query == 1 * 16 + 2 * 4 + 3
    assert Path(film_of_eight).name in heading
    encoder, run = load_encoder(ours)
    clip = middle_clips([Path(film_of_eight)], run.data)
    assert torch.equal(video, clip[0])
    torch.testing.assert_close(maps["mean"], attention(encoder, inputs(clip, grid.patch), query, 2).mean(1)[0])


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_random_encoder_of_the_same_shape_stands_beside(whose, film_of_eight, tmp_path, monkeypatch, request):
    drawn, folder = [], request.getfixturevalue(whose)
    monkeypatch.setattr("tubelet.attention_pictures.attention_strip", lambda *what: drawn.append(what) or strip(*what))
    call = ["picture", "attention", "--weights", str(folder), "--data", film_of_eight, "--random-too"]
    assert command([*call, "--seed", "3", "--out", str(tmp_path / "a.png")]) == 0
    ((video, maps, grid, query, _),) = drawn
    assert [*maps] == ["trained, mean", "random, mean"]
    assert query == token_at(grid)
    encoder, run = load_encoder(folder)
    torch.manual_seed(3)
    for name, network in (("trained", encoder), ("random", run.encoder.build(run.grid(), 3))):
        expected = attention(network, inputs(video[None], grid.patch)).mean(1)[0]
        torch.testing.assert_close(maps[f"{name}, mean"], expected)
    if whose == "ours":
        assert contrast(maps["trained, mean"]) > 2 * contrast(maps["random, mean"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--maps", "men"], "--maps men: expected mean, each, rollout, or heads from 0 to 3"),
        (["--maps"], "expected mean, each, rollout, or heads from 0 to 3"),
        (["--maps", "4"], "no head 4; the encoder has 4"),
        (["--block", "9"], "no block 9; the encoder has 3"),
        (["--query", "4", "0", "0"], "no slot 4; clips have 4 slots of 4 rows and 4 columns"),
        (["--out", "a.jpg"], "a.jpg: a picture ends in .png (a strip), .gif or .mp4 (it moves)"),
    ],
)
def test_what_cannot_be_drawn_is_said(ours, film_of_eight, flags, said, capsys):
    assert command(["picture", "attention", "--weights", str(ours), "--data", film_of_eight, *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
