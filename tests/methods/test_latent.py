"""Latent targets: losses against loops in numpy, a teacher that follows and one that does not, runs and resumes."""

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from tubelet.cli import run as command
from tubelet.config import Optim, Run, Training, numbers, preset
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.video import write
from tubelet.export.official import to_official
from tubelet.masks.blocks import MultiBlock
from tubelet.masks.random_masks import Tube
from tubelet.methods.latent import Latent
from tubelet.nn.cross import CrossDecoder
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.patches import patchify, take
from tubelet.nn.vit import Encoder
from tubelet.plan import plan
from tubelet.train import checkpoint, loop
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.train.optim import set_decay
from tubelet.types import Batch, Draws, Grid

GRID = Grid(2, 6, 6, (2, 8, 8))
SMALL = Encoder(width=24, depth=3, heads=2, hidden=48, patch=(2, 8, 8))
OTHER = Encoder(width=16, depth=2, heads=2, hidden=32, patch=(2, 8, 8))
LATENT = Latent(masks=(MultiBlock(3, 0.15), MultiBlock(2, 0.5)), decoder=Decoder(16, 1, 2))


def clips(count: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (count, 3, 4, 48, 48), dtype=torch.uint8, generator=generator)
    return Batch(video, torch.arange(count))


def built(method: Latent = LATENT, encoder: Encoder = SMALL):
    torch.manual_seed(0)
    return method.build(encoder, GRID, 3)


def fixed(**changes) -> Latent:
    return replace(LATENT, momentum=None, shape=OTHER, **changes)


# ---------------------------------------------------------------------------- the loss


def distance(kind: str, p: np.ndarray, w: np.ndarray) -> float:
    if kind == "cosine":
        return 1 - p @ w / math.sqrt((p @ p) * (w @ w))
    each = {
        "l1": np.abs(p - w),
        "l2": (p - w) ** 2,
        "smooth-l1": np.where(np.abs(p - w) < 1, (p - w) ** 2 / 2, np.abs(p - w) - 0.5),
    }
    return float(each[kind].mean())


def inputs_by_hand(batch: Batch) -> torch.Tensor:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    patches = patchify(batch.video, GRID.patch).numpy() / 255
    return torch.from_numpy((patches - np.tile(mean, 128)) / np.tile(std, 128)).float()


@pytest.mark.parametrize("kind", ["l1", "l2", "smooth-l1", "cosine"])
@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_the_loss_is_the_mean_over_predicted_tokens_clips_and_masks(kind, layers):
    method, batch = built(fixed(loss=kind, layers=layers)), clips(3)
    with torch.no_grad():
        loss = method(batch, Draws(4, 2, range(3)))
        patches = inputs_by_hand(batch)
        depths = [method.teacher(patches, taps=(layer,)) for layer in layers] or [method.teacher(patches)]
        draws, total = Draws(4, 2, range(3)), 0.0
        for masker in LATENT.masks:
            mask = masker(batch, GRID, draws)
            for clip in range(3):
                ids = mask.visible[clip : clip + 1]
                own = replace(mask, visible=ids, predict=mask.predict[clip : clip + 1])
                predicted = method.decoder(method.encoder(patches[clip, ids[0]][None], ids), own)[0].numpy()
                errors = []
                for at, token in enumerate(own.predict[0].tolist()):
                    parts = []
                    for depth in depths:
                        feature = depth[clip, token].numpy().astype(np.float64)
                        parts.append((feature - feature.mean()) / math.sqrt(feature.var() + 1e-5))
                    errors.append(distance(kind, predicted[at].astype(np.float64), np.concatenate(parts)))
                total += np.mean(errors)
    assert int(loss.count) == 6
    assert float(loss.sum) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    "method",
    [LATENT, fixed(), replace(LATENT, decoder=CrossDecoder(16, 1, 2)), replace(LATENT, decoder=Head())],
    ids=["follows", "fixed", "cross", "head"],
)
def test_all_that_learns_gets_a_gradient_and_the_teacher_none(method):
    module = built(method)
    loss = module(clips(2), Draws(0, 0, range(2)))
    (loss.sum / loss.count).backward()
    for name, p in module.named_parameters():
        if name.startswith("teacher."):
            assert not p.requires_grad
            assert p.grad is None
        else:
            assert p.grad is not None, name
            assert p.grad.any(), name


def test_two_halves_are_the_whole():
    module, batch = built().requires_grad_(False), clips(4)
    whole = module(batch, Draws(1, 3, range(4)))
    parts = [module(batch.clips(i, i + 2), Draws(1, 3, range(i, i + 2))) for i in (0, 2)]
    assert float(whole.sum) == pytest.approx(sum(float(part.sum) for part in parts), rel=1e-5)
    assert int(whole.count) == sum(int(part.count) for part in parts) == 8


def test_clips_of_fewer_frames_are_seen_at_the_first_slots():
    module, batch = built().requires_grad_(False), clips(2)
    loss = module(replace(batch, video=batch.video[:, :, :2]), Draws(0, 0, range(2)))
    assert math.isfinite(float(loss.sum))


def test_collapse_is_told_and_said():
    module = built()
    told = module(clips(2), Draws(0, 0, range(2))).told
    wanted = module.wanted(clips(2).video).numpy()
    assert float(told["teacher_deviation"]) == pytest.approx(wanted.std(0, ddof=1).mean(), rel=1e-4)
    assert module.doubts({"teacher_deviation": float(told["teacher_deviation"])}) == []
    with torch.no_grad():
        module.teacher.embed.weight.zero_()
        module.teacher.position.fixed.zero_()
    told = module(clips(2), Draws(0, 0, range(2))).told
    assert told["teacher_deviation"] < 1e-4
    assert "training has collapsed" in module.doubts({"teacher_deviation": float(told["teacher_deviation"])})[0]


# ---------------------------------------------------------------------------- the teacher


def test_the_teacher_begins_as_the_encoder_and_follows_by_the_schedule():
    module = built(replace(LATENT, momentum=0.9))
    start = module.encoder.blocks[0].mlp.fc1.weight.detach().numpy().astype(np.float64)
    np.testing.assert_array_equal(start, module.teacher.blocks[0].mlp.fc1.weight.numpy())
    expected, rng = start.copy(), np.random.default_rng(0)
    for step in range(8):
        ahead = rng.normal(size=start.shape)
        with torch.no_grad():
            module.encoder.blocks[0].mlp.fc1.weight.copy_(torch.from_numpy(ahead))
        module.after_step(step, 8)
        momentum = 0.9 + 0.1 * step / 8
        expected = momentum * expected + (1 - momentum) * ahead
    np.testing.assert_allclose(module.teacher.blocks[0].mlp.fc1.weight.numpy(), expected, atol=1e-5)
    exported = module.exported()["encoder"]["blocks.0.mlp.fc1.weight"]
    assert torch.equal(exported, module.teacher.blocks[0].mlp.fc1.weight)


def test_a_fixed_teacher_does_not_move_and_the_student_is_kept():
    module = built(fixed())
    before = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    module.after_step(0, 10)
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.state_dict().items())
    assert module.exported()["encoder"].keys() == module.encoder.state_dict().keys()
    assert module.exported()["encoder"]["embed.weight"].shape[0] == SMALL.width


# ---------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for index in range(5):
        picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        write(folder / f"{index}.mp4", np.stack([np.roll(picture, index * t, 1) for t in range(8)]), 10)
    return folder


def a_run(method: Latent = LATENT, encoder: Encoder = SMALL, size=(48, 48)) -> Run:
    return Run(
        encoder,
        method,
        Data(clip=Dense(4, stride=2), size=size),
        Optim(base_lr=0.05, warmup=1, weight_decay=0.04, weight_decay_end=0.4),
        Training(epochs=5, batch=4, workers=0, precision="float32", save_every=1),
    )


def same(one, other) -> bool:
    a, b = checkpoint.read(one), checkpoint.read(other)
    assert a["optimiser"].keys() == b["optimiser"].keys()
    moments = (
        (a["optimiser"][name][key], b["optimiser"][name][key])
        for name in a["optimiser"]
        for key in ("step", "exp_avg", "exp_avg_sq")
    )
    return all(torch.equal(*pair) for pair in moments) and all(
        torch.equal(a["method"][name], b["method"][name]) for name in a["method"]
    )


def test_a_run_resumes_with_its_teacher(videos, tmp_path, monkeypatch):
    run, told = a_run(), list[float]()
    monkeypatch.setattr(loop, "set_decay", lambda optimiser, decay: (told.append(decay), set_decay(optimiser, decay)))
    whole = train(run, videos, tmp_path / "whole", quiet=True)
    part = train(run, videos, tmp_path / "part", quiet=True, limit=2)
    assert len(metrics(part)) == 2
    train(run, videos, part, quiet=True, resume=True)
    assert same(whole, part)
    encoder, _ = checkpoint.load_encoder(whole)
    state = checkpoint.read(whole)
    for name, value in encoder.state_dict().items():  # what is kept is the teacher, which is not the encoder
        assert torch.equal(value, state["method"][f"teacher.{name}"])
    assert not torch.equal(encoder.embed.weight, state["method"]["encoder.embed.weight"])
    steps = len(metrics(whole))
    decays = [0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    assert told == pytest.approx([*decays, *decays])  # of the run that was whole, and of the one in two parts


def test_a_run_learns_from_the_encoder_of_another_run_and_outlives_it(videos, tmp_path):
    teacher = train(a_run(encoder=OTHER), videos, tmp_path / "teacher", quiet=True)
    run = a_run(replace(LATENT, momentum=None, teacher=str(teacher)))
    whole = train(run, videos, tmp_path / "whole", quiet=True)
    loaded = checkpoint.load(whole)
    weights, _ = checkpoint.load_encoder(teacher)
    for name, value in weights.state_dict().items():
        assert torch.equal(loaded.teacher.state_dict()[name], value)
    part = train(run, videos, tmp_path / "part", quiet=True, limit=2)
    assert plan(run).parameters["teacher"] == sum(p.numel() for p in weights.parameters())
    shutil.rmtree(teacher)
    train(preset(str(part)), videos, part, quiet=True, resume=True)
    assert same(whole, part)
    assert json.loads((part / "run.json").read_text())["run"]["method"]["shape"]["width"] == OTHER.width
    with pytest.raises(FileNotFoundError, match="teacher"):
        train(run, videos, tmp_path / "new", quiet=True)


def test_a_teacher_of_other_clips_is_named_with_both_sizes(videos, tmp_path):
    teacher = train(a_run(encoder=OTHER), videos, tmp_path / "teacher", quiet=True, limit=1)
    run = a_run(replace(LATENT, momentum=None, teacher=str(teacher)), size=(48, 64))
    for act in (lambda: train(run, videos, tmp_path / "run", quiet=True), lambda: plan(run)):
        with pytest.raises(ValueError, match=r"sees clips of 4x48x48 .* this run sees clips of 4x48x64 .* 2x8x8"):
            act()


def test_what_was_done_with_a_teacher_of_others_is_said_once_and_written_down(videos, tmp_path, capsys):
    state = {f"encoder.{name}": value for name, value in OTHER.build(GRID, 3).state_dict().items()}
    held = {"model": to_official(state, OTHER.patch, False), "args": {"num_frames": 4, "input_size": 48}}
    torch.save(held, tmp_path / "theirs.pth")
    run = a_run(replace(LATENT, momentum=None, teacher=str(tmp_path / "theirs.pth")))
    with warnings.catch_warnings(record=True) as warned:
        plan(run)
        train(run, videos, tmp_path / "run", limit=1)
        train(run, videos, tmp_path / "run", resume=True, limit=2)
    assert not [one for one in warned if "theirs.pth" in str(one.message)]
    said, notes = capsys.readouterr().err, (tmp_path / "run" / "notes.txt").read_text()
    for text in (said, notes):
        for line in (f"{tmp_path}/theirs.pth: VideoMAE", "note: this is the teacher", "WARNING: the gains of all"):
            assert text.count(line) == 1, (line, text)


def test_the_heads_of_a_teacher_are_told_by_converting_it(tmp_path):
    small = {"hidden_size": 384, "num_attention_heads": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    clips = {"image_size": 48, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
    VideoMAEModel(VideoMAEConfig(**small, **clips)).save_pretrained(tmp_path / "s16")
    run = a_run(replace(LATENT, momentum=None, teacher=str(tmp_path / "s16")))
    with pytest.raises(ValueError, match=r"^the teacher .*--heads 6 .*tubelet convert WEIGHTS \S+ --heads N, then"):
        plan(run)
    ours = tmp_path / "teacher.safetensors"
    assert command(["convert", str(tmp_path / "s16"), str(ours), "--heads", "6"]) == 0
    plan(replace(run, method=replace(run.method, teacher=str(ours))))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (replace(LATENT, momentum=None), "add --method.teacher RUN"),
        (replace(LATENT, teacher="runs/one"), "add --method.momentum None"),
        (replace(LATENT, momentum=1.5), "--method.momentum 1.5"),
        (replace(LATENT, masks=()), "--method.masks is empty"),
        (fixed(layers=(3,)), "the teacher's 2 blocks"),
        (fixed(layers=(2, 1)), "ascending"),
        (replace(LATENT, masks=(Tube(0.001),)), "hides 0 of 36"),
    ],
)
def test_settings_that_cannot_be_used_are_named(method, message):
    with pytest.raises(ValueError, match=message):
        built(method)


# ---------------------------------------------------------------------------- pictures, plans, presets


def test_rows_show_what_is_seen_and_colour_features_alike():
    module, batch = built().eval(), clips(2)
    shown, note = module.rows(batch, Draws(0, 0, range(2)))
    assert list(shown) == ["teacher", "seen 1", "predicted 1", "seen 2", "predicted 2"]
    assert all(rows.shape == batch.video.shape and rows.dtype == torch.uint8 for rows in shown.values())
    draws = Draws(0, 0, range(2))
    mask = [masker(batch, GRID, draws) for masker in LATENT.masks][1]
    seen, true = patchify(shown["seen 2"], GRID.patch), patchify(batch.video, GRID.patch)
    assert torch.equal(seen[~mask.hidden], true[~mask.hidden])
    assert seen[mask.hidden].unique().numel() == 2
    flat = patchify(shown["teacher"], GRID.patch).reshape(2, -1, 128, 3)
    assert (flat == flat[:, :, :1]).all()  # one colour a token
    assert "grey" in note
    module.decoder = Perfect(module, batch)
    right, _ = module.rows(batch, Draws(0, 0, range(2)))
    told, true = (patchify(right[name], GRID.patch) for name in ("predicted 2", "teacher"))
    assert torch.equal(take(told, mask.predict), take(true, mask.predict))


class Perfect(torch.nn.Module):
    """A predictor that knows the answer."""

    taps = ()

    def __init__(self, module, batch) -> None:
        super().__init__()
        self.answer = module.wanted(batch.video)

    def forward(self, latent, mask):
        return take(self.answer, mask.predict)


def test_plans_count_the_teacher_and_not_its_gradients():
    run = preset("vjepa-few-cpu")
    result = plan(run)
    own = result.parameters["encoder"]
    assert result.parameters["teacher"] == own
    assert result.memory.gradients == 4 * (result.parameters["total"] - own)
    tokens = run.grid().tokens
    blocks = 4 * (tokens * (4 * 128**2 + 2 * 128 * 512) + 2 * tokens**2 * 128)
    assert result.gmacs["teacher"] * 1e9 == blocks + tokens * 2 * 8 * 8 * 3 * 128
    parts = sum(result.gmacs[part] for part in ("encoder", "decoder", "teacher"))
    assert result.gmacs["forward"] == pytest.approx(parts)
    assert [stage.name for stage in result.stages].count("mask") == 2


def test_vjepa_has_the_released_numbers():
    run = preset("vjepa-l")
    found = numbers(run, 2_000_000)
    assert (found.steps, found.warmup) == (90_000, 12_000)
    assert (found.lr, found.low) == (pytest.approx(6.25e-4), pytest.approx(1e-6))
