"""Every method, shrunk: a step, its gradients, resume, pictures. `make test-all`: every preset."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shrunk import METHODS, a_batch, small

from tubelet.data.video import write
from tubelet.methods import PRESETS
from tubelet.pictures import reconstruct_run
from tubelet.plan import plan
from tubelet.train import checkpoint
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.types import Draws, Method

TIMINGS = ("seconds", "clips_per_second", "data_wait")
TUNED = ["finetune-k400-b", "finetune-few-cpu"]
REST = [name for name in PRESETS if name not in METHODS.values() and name not in TUNED]
EVERY = [*METHODS.values(), *TUNED, *(pytest.param(name, marks=pytest.mark.every) for name in REST)]


def built(run) -> Method:
    torch.manual_seed(0)
    return run.method.build(run.encoder, run.grid(), run.data.channels).train()


@pytest.mark.parametrize("name", EVERY)
def test_one_step_is_finite_and_reaches_every_parameter(name):
    run = small(name)
    method, batch = built(run), a_batch(run)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # what begins at zero lets nothing through yet
    loss = method(batch, Draws(0, 0, range(len(batch.video))))
    assert math.isfinite(loss.sum.detach())
    assert loss.count > 0
    (loss.sum / loss.count).backward()
    learnt = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert learnt
    for name, parameter in learnt.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", EVERY)
def test_plan_foresees_it(name):
    found = plan(small(name), videos=10_000)
    assert found.gmacs["forward"] > 0
    assert found.memory.activations > 0
    assert found.numbers.steps > 0


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Five short videos of noise that moves."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for index in range(5):
        picture = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        frames = np.stack([np.roll(picture, (index * t, 2 * t), (0, 1)) for t in range(20)])
        write(folder / f"{index}.mp4", frames, 10)
    return folder


def numbers_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in metrics(folder)]


def states(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder)["method"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three pictures of noise."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


# What needs a run before it, or boxes beside the videos: test_latent.py, test_action_detection.py.
ALONE = [label for label in METHODS if label != "frozen teacher" and "detection" not in label]


@pytest.mark.parametrize("label", ALONE)
def test_resume_is_exact_and_the_picture_shows(label, videos, pictures, tmp_path):
    run = small(METHODS[label])
    training = replace(
        run.training, epochs=4, batch=4, accumulate=1, workers=0, save_every=100, precision="float32", threads=1
    )
    optim = replace(run.optim, warmup=1, base_lr=0.02)
    images = run.data.images and replace(run.data.images, source=f"images:{pictures}", share=0.5, repeats=1)
    run = replace(run, training=training, optim=optim, data=replace(run.data, cache=0, repeats=1, images=images))
    whole = train(run, videos, tmp_path / "whole", quiet=True)
    stopped = train(run, videos, tmp_path / "stopped", quiet=True, limit=2)
    assert len(metrics(stopped)) == 2
    resumed = train(run, videos, stopped, quiet=True, resume=True)
    assert numbers_of(resumed) == numbers_of(whole)
    for name, tensor in states(whole).items():
        assert torch.equal(tensor, states(resumed)[name]), name
    films = sorted(videos.iterdir())[:1]
    written = reconstruct_run(resumed, films, [0.75] if hasattr(run.method, "predict") else [], tmp_path / "pictures")
    assert written
    assert all(path.stat().st_size > 2000 for path in written)
