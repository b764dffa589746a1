"""MoCo v3: the loss against loops, momentum against the released order, resume, what a run is told."""

import json
from dataclasses import replace
from math import cos, log, pi
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.charts import curves
from tubelet.config import Run, Training, checked, preset
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.synthetic import make
from tubelet.methods.moco_v3 import Contrastive, ContrastiveLearner, contrast
from tubelet.methods.views import Views
from tubelet.nn.vit import Encoder
from tubelet.plan import plan
from tubelet.train import checkpoint
from tubelet.train.guard import advice
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.train.optim import adamw
from tubelet.types import Batch, Draws, Grid

ENCODER = Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8))
GRID = Grid(2, 4, 4, (2, 8, 8))
CONFIG = Contrastive(hidden=32, outputs=8)


def learner(config: Contrastive = CONFIG, encoder: Encoder = ENCODER) -> ContrastiveLearner:
    torch.manual_seed(0)
    return config.build(encoder, GRID, 3).train()


def batch(videos: int, seed: int = 1) -> Batch:
    """Two clips of each video; those of a video are alike."""
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (videos, 3, 4, 32, 32), dtype=np.uint8).repeat(2, 0) // 2
    video += rng.integers(0, 100, video.shape, dtype=np.uint8)
    return Batch(torch.from_numpy(video), torch.arange(videos).repeat_interleave(2), crops=2)


def looped(queries: np.ndarray, keys: np.ndarray, first: int, temperature: float) -> list[float]:
    """InfoNCE times 2T, one query and one key at a time."""
    losses = []
    for n, query in enumerate(queries):
        similar = [sum(float(a) * float(b) for a, b in zip(query, key)) / temperature for key in keys]
        most = max(similar)
        total = most + log(sum(np.exp(s - most) for s in similar))
        losses.append(2 * temperature * (total - similar[first + n]))
    return losses


def units(rows: int, width: int, seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return torch.from_numpy(values / np.sqrt((values**2).sum(1, keepdims=True))).float()


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("first", [0, 3, 6])
def test_infonce_is_what_a_loop_over_gathered_negatives_finds(first, temperature):
    queries, keys = units(3, 5, 0), units(9, 5, 1)
    losses, found = contrast(queries, keys, first, temperature, torch.eye(9, dtype=torch.bool)[first : first + 3])
    np.testing.assert_allclose(losses, looped(queries.numpy(), keys.numpy(), first, temperature), rtol=1e-5)
    nearest = [int(np.argmax(keys.numpy() @ query)) for query in queries.numpy()]
    assert found.tolist() == [place == first + n for n, place in enumerate(nearest)]


def test_the_same_video_is_no_negative():
    queries, keys = units(3, 5, 0), units(4, 5, 1)
    ids = torch.tensor([7, 8, 7])
    same = ids[:, None] == torch.tensor([7, 8, 7, 9])
    losses, _ = contrast(queries, keys, 0, 0.2, same)
    others = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3]]
    for n, left in enumerate(others):
        alone = looped(queries[n : n + 1].numpy(), keys[left].numpy(), left.index(n), 0.2)
        assert float(losses[n]) == pytest.approx(alone[0], rel=1e-5)


def test_both_views_are_found_from_each_other():
    method, given = learner(), batch(5)
    loss = method(given, Draws(0, 0, range(10)))
    patches = method.patches(CONFIG.augment(given.video, Draws(0, 0, range(10))))

    def features(view: int, encoder, *heads) -> np.ndarray:
        with torch.no_grad():
            rows = encoder(patches[view::2]).mean(1)
            for head in heads:
                rows = head(rows)
        rows = rows.double().numpy()
        return rows / np.sqrt((rows**2).sum(1, keepdims=True))

    q = [features(view, method.encoder, method.projector, method.predictor) for view in (0, 1)]
    k = [features(view, method.momentum_encoder, method.momentum_projector) for view in (0, 1)]
    expected = sum(looped(q[0], k[1], 0, 0.2)) + sum(looped(q[1], k[0], 0, 0.2))
    assert float(loss.sum.detach()) == pytest.approx(expected, rel=1e-4)
    assert int(loss.count) == 5
    nearest = [(q[view] @ k[1 - view].T).argmax(1) == np.arange(5) for view in (0, 1)]
    assert float(loss.told["positives_first"]) == pytest.approx(np.mean(nearest))
    deviation = np.mean([key.std(0).mean() for key in k])
    assert float(loss.told["embedding_deviation"]) == pytest.approx(deviation, rel=1e-4)


def test_everything_that_may_learn_gets_a_gradient_and_nothing_else():
    method = learner()
    method(batch(4), Draws(0, 0, range(8))).sum.backward()
    learnt = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    fixed = {name for name, _ in method.named_parameters() if name.startswith(("momentum_", "encoder.embed"))}
    assert learnt == {name for name, _ in method.named_parameters()} - fixed
    assert learnt == {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert sum(len(group["params"]) for group in adamw(method, preset("moco-v3-few-cpu").optim).param_groups) == len(
        learnt
    )


def test_weights_begin_as_released():
    shape = Encoder(width=96, depth=1, heads=2, hidden=96, patch=(2, 8, 8))
    encoder = learner(encoder=shape).encoder
    assert float(encoder.embed.weight.detach().abs().max()) == pytest.approx((6 / (384 + 96)) ** 0.5, rel=0.01)
    assert not encoder.embed.bias.any()
    for third in encoder.blocks[0].attn.qkv.weight.detach().chunk(3):  # as one matrix it would be less by 2^0.5
        assert float(third.abs().max()) == pytest.approx((6 / (96 + 96)) ** 0.5, rel=0.01)


def test_copies_begin_equal_and_are_exported_never():
    method = learner()
    for ahead, behind in ((method.encoder, method.momentum_encoder), (method.projector, method.momentum_projector)):
        assert all(torch.equal(a, b) for a, b in zip(ahead.state_dict().values(), behind.state_dict().values()))
    assert method.exported().keys() == {"encoder"}
    assert "embed.weight" in method.exported()["encoder"]


def test_keys_see_the_momentum_that_the_released_order_gives():
    """There, the copy follows before the keys of each step, by the momentum of that step."""
    steps, m0 = 7, 0.9
    method = learner(replace(CONFIG, momentum=m0))
    rng = np.random.default_rng(0)
    learnt = [
        (p, q) for p, q in zip(method.encoder.parameters(), method.momentum_encoder.parameters()) if p.requires_grad
    ]
    theta = [p.detach().double().numpy().copy() for p, _ in learnt]
    copy = [values.copy() for values in theta]
    for step in range(steps):
        m = 1 - (1 - m0) * 0.5 * (1 + cos(pi * step / steps))
        copy = [m * old + (1 - m) * new for old, new in zip(copy, theta)]
        for expected, (_, found) in zip(copy, learnt):  # what this step's keys are made with
            np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)
        theta = [values + rng.normal(size=values.shape) for values in theta]  # the optimiser
        with torch.no_grad():
            for (parameter, _), values in zip(learnt, theta):
                parameter.copy_(torch.from_numpy(values))
        method.after_step(step, steps)
    before = [p.detach().clone() for p in method.momentum_encoder.parameters()]
    method.after_step(steps - 1, steps)  # at the end of a run the copy stands still
    assert all(torch.equal(a, b) for a, b in zip(before, method.momentum_encoder.parameters()))


def test_running_statistics_do_not_follow():
    method = learner()
    with torch.no_grad():
        method.projector[1].running_mean.fill_(5.0)
        method.projector[0].weight.add_(1.0)
    kept = {name: value.clone() for name, value in method.momentum_projector.state_dict().items()}
    method.after_step(0, 10)
    now = method.momentum_projector.state_dict()
    assert torch.equal(now["1.running_mean"], kept["1.running_mean"])
    assert not torch.equal(now["0.weight"], kept["0.weight"])


# ---------------------------------------------------------------------------- runs


def tiny(**training) -> Run:
    run = preset("moco-v3-few-cpu")
    return replace(
        run,
        encoder=ENCODER,
        method=CONFIG,
        data=Data(clip=Dense(4, stride=1), size=(32, 32), clips=2),
        training=Training(**{"epochs": 4, "batch": 4, "workers": 0, "precision": "float32"} | training),
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("videos"), 8, workers=1)


def test_a_resumed_run_is_the_uninterrupted_one(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("tubelet.methods.moco_v3.COLLAPSED", 1e9)  # so that there is something to say
    run = tiny(accumulate=2)
    whole = train(run, videos, tmp_path / "whole", quiet=True)
    train(run, videos, tmp_path / "parts", quiet=True, limit=3)
    parts = train(run, videos, tmp_path / "parts", quiet=True, resume=True)
    timings = {"seconds", "clips_per_second", "data_wait"}
    lines = [
        [{k: v for k, v in line.items() if k not in timings} for line in metrics(folder)] for folder in (whole, parts)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 8
    assert {"positives_first", "embedding_deviation", "feature_deviation"} <= lines[0][0].keys()
    states = [checkpoint.read(folder)["method"] for folder in (whole, parts)]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))
    assert any("momentum_projector.1.running_var" in name for name in states[0])
    encoder, _ = checkpoint.load_encoder(whole)
    torch.manual_seed(run.training.seed)
    fresh = run.method.build(run.encoder, run.grid(), 3).encoder
    assert torch.equal(encoder.embed.weight, fresh.embed.weight)
    assert not torch.equal(encoder.blocks[0].mlp.fc1.weight, fresh.blocks[0].mlp.fc1.weight)
    assert (whole / "notes.txt").read_text().count("training has collapsed") == 2  # of both deviations, once
    curves(whole, tmp_path / "curves")
    assert "positives first" in (tmp_path / "curves.svg").read_text()


def test_when_memory_runs_out_other_parts_are_another_run():
    said = advice(tiny(), torch.device("cpu"), MemoryError("out of memory"))
    assert "--training.accumulate 2, in a new --out" in said
    assert "--resume" not in said


def test_it_learns_to_tell_videos_apart():
    method, given = learner(replace(CONFIG, augment=Views(jitter=0, grey=0, blur=(0, 0), solarise=(0, 0)))), batch(8)
    optimiser = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=3e-3)
    found, losses = [], []
    for step in range(40):
        loss = method(given, Draws(0, step, range(16)))
        optimiser.zero_grad()
        (loss.sum / loss.count).backward()
        optimiser.step()
        method.after_step(step, 40)
        found.append(float(loss.told["positives_first"]))
        losses.append(float(loss.sum.detach() / loss.count))
    assert losses[-1] < 0.7 * losses[0]
    assert found[-1] > 0.8 > found[0]


def test_collapse_is_told():
    """Clips that are all the same have features that are all the same, whatever batch norm makes of rounding errors."""
    method = learner()
    given = batch(4)
    told = {name: float(value) for name, value in method(given, Draws(0, 0, range(8))).told.items()}
    assert 0.5 * 8**-0.5 < told["embedding_deviation"] < 1.5 * 8**-0.5
    assert method.doubts(told) == []
    alike = replace(given, video=torch.full_like(given.video, 100))
    method.config = replace(CONFIG, augment=Views(jitter=0, grey=0, blur=(0, 0), solarise=(0, 0)))
    told = {name: float(value) for name, value in method(alike, Draws(0, 0, range(8))).told.items()}
    assert told["feature_deviation"] < 1e-4
    assert "training has collapsed" in method.doubts(told)[0]
    assert len(method.doubts({"embedding_deviation": 0.0, "feature_deviation": 1.0})) == 1


def test_rows_show_the_views_and_say_how_alike_they_are():
    method = learner().eval()
    given = batch(3)
    rows, text = method.rows(given, Draws(0, 0, range(6)))
    video = CONFIG.augment(given.video, Draws(0, 0, range(6)))
    for view, name in enumerate(("view 1", "view 2")):
        assert rows[name].shape == (3, 3, 4, 32, 32)
        np.testing.assert_allclose(rows[name].numpy(), video[view::2].numpy() * 255, atol=0.5001)
    assert "of the two views of a video" in text
    assert "of views of different videos" in text
    alone = method.rows(given.clips(0, 2), Draws(0, 0, range(2)))[1]
    assert "different" not in alone


# ---------------------------------------------------------------------------- settings and plans


def test_one_clip_of_a_video_is_refused():
    with pytest.raises(ValueError, match=r"1 clips of each video came, but 2 are compared; use --data\.clips 2"):
        learner()(replace(batch(2), crops=1), Draws(0, 0, range(4)))
    run = tiny()
    with pytest.raises(ValueError, match=r"compares 2 clips of each video"):
        checked(replace(run, data=replace(run.data, clips=1)))
    with pytest.raises(ValueError, match=r"compares 2 clips of each video"):
        checked(replace(run, data=replace(run.data, repeats=2)))
    checked(replace(run, data=replace(run.data, clips=1, repeats=2)))
    with pytest.raises(ValueError, match="is one video at once"):
        checked(tiny(batch=4, accumulate=4))
    with pytest.raises(ValueError, match=r"--training\.batch 1 in 1 part is one video at once"):
        checked(tiny(batch=1))


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"momentum": 1.1}, {"hidden": 0}, {"outputs": 1}])
def test_settings_that_cannot_be_used_are_named(setting):
    with pytest.raises(ValueError, match="cannot be used; expected"):
        replace(CONFIG, **setting).build(ENCODER, GRID, 3)


def test_presets_are_the_issues():
    for name, stride, flip in (("moco-v3-k400-b", 4, 0.5), ("moco-v3-ssv2-b", 2, 0.0)):
        run = preset(name)
        checked(run)
        assert (run.data.clips, run.data.repeats, run.data.clip.stride, run.data.flip) == (2, 1, stride, flip)
        assert (run.training.epochs, run.training.batch, run.optim.warmup, run.optim.min_lr) == (300, 1024, 40, 0)
        assert (run.optim.base_lr, run.optim.weight_decay) == (1.5e-4, 0.1)
        assert (run.method.temperature, run.method.momentum, run.method.hidden, run.method.outputs) == (
            0.2,
            0.99,
            4096,
            256,
        )
    few, like = preset("moco-v3-few-cpu"), preset("videomae-few-cpu")
    checked(few)
    assert few.encoder == like.encoder
    assert (few.data.size, few.data.clip) == (like.data.size, like.data.clip)


def test_a_plan_counts_both_views_and_the_copy_but_no_backward_pass_of_it():
    run = preset("moco-v3-k400-b")
    result = plan(run)
    gmacs = result.gmacs
    assert gmacs["encoder"] == gmacs["momentum_encoder"] == gmacs["encoder of all tokens"]
    projector = 768 * 4096 + 4096 * 4096 + 4096 * 256
    assert gmacs["projector"] * 1e9 == gmacs["momentum_projector"] * 1e9 == projector
    assert gmacs["predictor"] * 1e9 == 2 * 4096 * 256
    parts = sum(gmacs[name] for name in result.parameters if name != "total")
    assert parts < gmacs["forward"] < 1.01 * parts  # the rest is blur
    learnt = 86_227_200 - (1536 * 768 + 768) + projector + 2 * 4096 + 2 * 4096 + 2 * 4096 * 256 + 2 * 4096
    assert result.memory.gradients == 4 * learnt
    assert result.memory.clips == 2048
    supervised = plan(replace(preset("finetune-k400-b"), training=replace(run.training)))
    each = [memory.activations / memory.clips for memory in (result.memory, supervised.memory)]
    assert each[0] == pytest.approx(each[1], rel=0.02)
    assert [stage.name for stage in result.stages] == ["data", "cube", "encoder", "projector", "predictor"]
    json.dumps(result.to_dict())
