"""Pictures must not flatter: what is visible is true, what is hidden is hidden, and a perfect guess is the original."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tubelet.overlay
import tubelet.pictures
import tubelet.strips
from tubelet.charts import curve, curves
from tubelet.config import preset, to_json
from tubelet.masks.random_masks import Frame, Random, Tube
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import patchify, take
from tubelet.nn.vit import Encoder
from tubelet.pictures import mask_strip, reconstruct, reconstruct_run
from tubelet.strips import PAPER, Strip, save, save_gif, save_png
from tubelet.targets import Pixels
from tubelet.types import Batch, Draws, Grid, TokenMask

PATCH = (2, 8, 8)


def method(target: Pixels, mask=Tube(0.75), channels: int = 3):  # noqa: B008
    """A small model with random weights, for clips of 6 x 32 x 40."""
    torch.manual_seed(0)
    shape = Encoder(width=24, depth=1, heads=2, hidden=48, patch=PATCH)
    return Masked(mask, target, Decoder(12, 1, 2)).build(shape, Grid.of(6, 32, 40, PATCH), channels)


def video(clips: int = 2, channels: int = 3) -> torch.Tensor:
    """Noise: every pixel tells where it came from."""
    noise = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (clips, channels, 6, 32, 40), generator=noise, dtype=torch.uint8)


def pixels(mask: TokenMask, channels: int = 3) -> torch.Tensor:
    """True at hidden pixels, by a loop over the grid."""
    where, (pt, ph, pw) = torch.zeros(len(mask.visible), channels, 6, 32, 40, dtype=torch.bool), mask.grid.patch
    for clip, hidden in enumerate(mask.hidden.tolist()):
        for n, covered in enumerate(hidden):
            t, y, x = n // mask.grid.slot, n % mask.grid.slot // mask.grid.W, n % mask.grid.W
            where[clip, :, t * pt : t * pt + pt, y * ph : y * ph + ph, x * pw : x * pw + pw] = covered
    return where


@pytest.mark.parametrize("mask", [Tube(0.5), Random(0.9), Frame(0.6)], ids=lambda mask: type(mask).__name__)
@pytest.mark.parametrize("normalise", ["none", "videomae", "mae"])
def test_visible_pixels_are_true_and_hidden_ones_are_not_shown(mask, normalise):
    clips = video()
    result = reconstruct(method(Pixels(normalise), mask), clips, ratio=0.75)
    where = pixels(result.mask)
    assert where.float().mean() == pytest.approx(2 / 3 if isinstance(mask, Frame) else 0.75)  # two of three slots
    assert torch.equal(result.imagined[~where], clips[~where])
    assert torch.equal(result.hidden[~where], clips[~where])
    other = torch.where(where, 255 - clips, clips)
    assert torch.equal(reconstruct(method(Pixels(normalise), mask), other, ratio=0.75).hidden, result.hidden)


@pytest.mark.parametrize("normalise", ["none", "videomae", "mae"])
def test_a_perfect_guess_gives_the_original(normalise, monkeypatch):
    model, clips = method(Pixels(normalise)), video()

    def perfect(patches, mask):
        return model.target.encode(take(patches, mask.predict).float() / 255, 3)

    monkeypatch.setattr(model, "imagine", perfect)
    result = reconstruct(model, clips)
    assert torch.equal(result.imagined, clips)
    assert result.psnr.isinf().all()


def test_scores_are_those_of_numpy_on_the_bytes_shown():
    result = reconstruct(method(Pixels("none")), video())
    where = pixels(result.mask).numpy()
    for clip in range(2):
        error = (result.original[clip].numpy() - result.imagined[clip].numpy().astype(float))[where[clip]]
        assert float(result.psnr[clip]) == pytest.approx(10 * math.log10(255**2 / (error**2).mean()), abs=1e-4)


def test_without_a_model_one_colour_is_filled_with_that_colour():
    flat = torch.tensor([10, 120, 240], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(1, 3, 6, 32, 40)
    assert reconstruct(method(Pixels("none")), flat).baseline.isinf().all()


def test_without_a_model_a_normalised_target_fills_each_cubes_true_mean():
    clips = video(1)
    result = reconstruct(method(Pixels("videomae")), clips)
    cubes = patchify(clips, PATCH)[0].double().unflatten(1, (-1, 3)).numpy()
    flat = cubes.mean(1, keepdims=True).round()
    error = ((cubes - flat) ** 2)[result.mask.hidden[0].numpy()].mean()
    assert float(result.baseline) == pytest.approx(10 * math.log10(255**2 / error), abs=0.01)


def test_a_model_that_does_worse_than_flat_cubes_is_said_to():
    result = reconstruct(method(Pixels("none")), video())
    for psnr, worse in ((9.0, True), (11.0, False)):
        shown = replace(result, psnr=torch.full((2,), psnr), baseline=torch.full((2,), 10.0))
        assert ("does worse than that: it needs more steps" in shown.note) == worse


def test_only_normalised_targets_borrow_and_say_so():
    assert not reconstruct(method(Pixels("none")), video()).borrowed
    for normalise in ("videomae", "mae"):
        result = reconstruct(method(Pixels(normalise)), video())
        assert result.borrowed
        assert "given its true mean colour and contrast" in result.note


def test_the_model_stays_in_training_and_pictures_repeat():
    model = method(Pixels("none")).train()
    first, second = (reconstruct(model, video(), seed=3) for _ in range(2))
    assert model.training
    assert torch.equal(first.imagined, second.imagined)


def test_wrong_clips_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"\(1, 6, 32, 40\).*\(3, 6, 32, 40\)"):
        reconstruct(method(Pixels("none")), video(channels=1))


def test_mask_strip_hides_what_the_mask_hides():
    clips, grid = video(), Grid.of(6, 32, 40, PATCH)
    mask = Tube(0.9)(Batch(clips, torch.arange(2)), grid, Draws(0, 0, range(2)))
    strips = mask_strip(clips, mask)
    where = pixels(mask)
    for i, strip in enumerate(strips):
        assert "90 % hidden · 54 of 60 cubes of 2x8x8" in strip.heading
        assert torch.equal(strip.rows["original"], clips[i])
        assert torch.equal(strip.rows["visible"][~where[i]], clips[i][~where[i]])
        assert len(strip.rows["visible"][where[i]].unique()) == 2  # the grey of the curtain and of its seams


def test_png_shows_frames_enlarged_by_whole_pixels(tmp_path):
    result = reconstruct(method(Pixels("none")), video())
    path = save_png(tmp_path / "strip.png", result.strips(), "a caption · 90 %", columns=3)
    with Image.open(path) as image:
        picture = np.asarray(image)
        assert image.info["Description"] == "a caption · 90 %"
    frame = result.original[0, :, 0].permute(1, 2, 0).numpy().repeat(4, 0).repeat(4, 1)  # 32 pixels are made 128
    assert picture.shape[1] > 3 * frame.shape[1]
    assert picture.shape[0] > 6 * frame.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(picture, frame.shape)[..., 0, :, :, :]
    top = [y for y, x in np.argwhere((windows[:, :, 0, 0] == frame[0, 0]).all(-1)) if (windows[y, x] == frame).all()]
    assert len(top) == 1


@pytest.mark.parametrize("clips", [1, 2])
def test_gif_has_every_frame_once_at_its_time_and_does_not_flicker(clips, tmp_path):
    result = reconstruct(method(Pixels("none")), video(clips))
    path = save_gif(tmp_path / "film.gif", result.strips(), "à propos", fps=8)
    with Image.open(path) as image:
        assert image.n_frames == 6
        assert image.info["comment"].decode() == "à propos"
        assert image.info["loop"] == 0
        frames = []
        for number in range(6):
            image.seek(number)
            assert image.info["duration"] == 120  # of 125 ms, what the format can say
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert len({tuple(frame[0, 0]) for frame in frames}) == 1
    assert np.abs(frames[0][0, 0] - PAPER).max() < 12
    still = [frame[:8] for frame in frames]
    assert all((part == still[0]).all() for part in still)


@pytest.mark.parametrize(
    ("channels", "said"), [(1, ""), (2, "Of 2 channels, the first is shown."), (3, ""), (4, "1 to 3")]
)
def test_other_channel_counts_are_shown_and_said(channels, said, tmp_path):
    result = reconstruct(method(Pixels("none"), channels=channels), video(1, channels))
    with Image.open(save_png(tmp_path / "strip.png", result.strips())) as image:
        assert said in image.info["Description"]
        assert (image.info["Description"] == "") == (said == "")


def test_large_frames_are_not_enlarged(tmp_path):
    strip = Strip({"original": torch.zeros(3, 1, 224, 224, dtype=torch.uint8)})
    with Image.open(save_png(tmp_path / "one.png", [strip])) as image:
        assert image.width < 2 * 224


def line(step: int) -> str:
    values = {"loss": 1 / step, "lr": 1e-4, "gradient_norm": 2.0, "clips_per_second": 30.0, "data_wait": 0.25}
    return json.dumps({"step": step, "epoch": step / 10, "seconds": 0.5} | values) + "\n"


@pytest.mark.parametrize("steps", [1, 2, 7, 5000])
def test_curves_of_short_and_long_runs(steps, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(map(line, range(1, steps + 1))))
    png, svg = curves(tmp_path, tmp_path / "curves")
    with Image.open(png) as image:
        assert image.size == (1600, 1280)
    text = svg.read_text()
    assert "learning rate" in text
    assert "clips per second" in text
    assert len(text) < 1e6


def test_pictures_and_videos_have_a_loss_curve_each(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("tubelet.charts.curve", lambda axes, *what: drawn.append(what) or curve(axes, *what))
    lines = [json.loads(line(step)) for step in range(1, 9)]
    for number, one in enumerate(lines):
        one["loss_pictures" if number % 2 else "loss_videos"] = one["loss"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    curves(tmp_path, tmp_path / "curves")
    (steps, losses, _, blue, first), (others, _, _, grey, second), *rest = drawn
    assert (first, second, len(rest)) == ("videos", "pictures", 4)
    assert blue != grey
    assert (steps.tolist(), others.tolist()) == ([1, 3, 5, 7], [2, 4, 6, 8])
    assert losses == pytest.approx([1, 1 / 3, 1 / 5, 1 / 7])


def test_curves_without_a_step_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl"):
        curves(tmp_path, tmp_path / "curves")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    with pytest.raises(ValueError, match="nothing to draw"):
        curves(tmp_path, tmp_path / "curves")


def test_the_ending_says_what_is_drawn(tmp_path):
    strips = [Strip({"original": torch.zeros(1, 2, 32, 32, dtype=torch.uint8)})]
    for name, kind in (("a.png", "PNG"), ("a.gif", "GIF")):
        with Image.open(save(tmp_path / name, strips)) as image:
            assert image.format == kind
    with pytest.raises(ValueError, match=r"a\.jpg: a picture ends in \.png"):
        save(tmp_path / "a.jpg", strips)


def test_a_run_is_pictured_from_its_checkpoint(tmp_path, monkeypatch):
    model, asked = method(Pixels("none")), []

    def middle_batch(videos, data):
        asked.append((videos, data))
        return Batch(video(len(videos)), torch.arange(len(videos)))

    run = preset("videomae-demo")
    monkeypatch.setattr(tubelet.pictures, "read", lambda folder: {"run": to_json(run), "step": 70})
    monkeypatch.setattr(tubelet.pictures, "load_method", lambda folder: model)
    monkeypatch.setattr(tubelet.pictures, "middle_batch", middle_batch)
    paths = reconstruct_run(tmp_path / "run", [Path("a.mp4"), Path("b.mp4")], (0.75, 0.9))
    names = ["reconstruction_75.gif", "reconstruction_75.png", "reconstruction_90.gif", "reconstruction_90.png"]
    assert paths == [tmp_path / "run" / "pictures" / name for name in names]
    assert asked == [([Path("a.mp4"), Path("b.mp4")], run.data)]
    with Image.open(paths[1]) as image:
        assert image.info["Description"].startswith("run, step 70. dB:")


def test_there_is_one_font():
    """Words on videos and under pictures; a second copy would go its own way."""
    assert tubelet.overlay.font_of is tubelet.strips.font_of
    assert tubelet.strips.font_of(12).getlength("Łódź") > tubelet.strips.font_of(12).getlength("Łód")
