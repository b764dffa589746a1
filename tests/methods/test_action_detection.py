"""Learning what people in boxes do: the loss, clips without boxes, resume, and the published recipes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shrunk import CLASSES, a_batch, small

from tubelet.config import Run, preset
from tubelet.data.augment import ColourJitter
from tubelet.data.box_transforms import BoxJitter
from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.labels import Labels
from tubelet.data.sampling import Around
from tubelet.data.transforms import RandomCrop
from tubelet.data.video import write
from tubelet.methods import PRESETS
from tubelet.methods.action_detection import ActionDetection
from tubelet.nn.detector import stacked
from tubelet.nn.vit import SIZES
from tubelet.train import checkpoint
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.types import Boxes, Draws

KINDS = ["finetune-ava-b", "finetune-boxes-small-cpu"]


def learner(run: Run):
    torch.manual_seed(0)
    method = run.method.build(run.encoder, run.grid(), run.data.channels).train()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return method


def step(method, batch):
    method.zero_grad()
    loss = method(batch, Draws(0, 0, range(len(batch.video))))
    loss.sum.backward()
    return loss, {name: p.grad.clone() for name, p in method.named_parameters()}


# ---------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_the_sum_over_boxes_of_the_mean_over_classes_for_each_clip(name):
    run = small(name)
    method, batch = learner(run), a_batch(run, 4)
    loss, _ = step(method, batch)
    logits = []
    method.network.head.register_forward_hook(lambda module, args, out: logits.append(out.detach().double().numpy()))
    method(batch, Draws(0, 0, range(4)))
    labels = np.concatenate([boxes.labels.numpy() for boxes in batch.boxes])
    assert [len(boxes.corners) for boxes in batch.boxes] == [3, 2, 1, 0]
    expected = 0.0
    for of_box, wanted in zip(logits[0], labels):
        for logit, there in zip(of_box, wanted):
            p = 1 / (1 + np.exp(-logit))
            expected -= (there * np.log(p) + (1 - there) * np.log(1 - p)) / CLASSES
    assert float(loss.sum.detach()) == pytest.approx(expected, rel=1e-5)
    assert int(loss.count) == 4


def test_clips_are_normalised_as_the_method_says():
    run = small("finetune-ava-b")
    assert run.method.norm == "videomae-action-detection"
    batch = a_batch(run)
    seen = {}
    for norm in ("imagenet", "videomae-action-detection"):
        method = learner(replace(run, method=replace(run.method, norm=norm)))
        method.encoder.embed.register_forward_hook(lambda module, args, out, norm=norm: seen.update({norm: args[0]}))
        method(batch, Draws(0, 0, range(2)))
    first = batch.video[0, :, :2, :8, :8].double().numpy().transpose(1, 2, 3, 0)  # time, height, width, colour
    for norm, mean, std in (
        ("imagenet", 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
        ("videomae-action-detection", np.array([122.7717, 115.9465, 102.9801]), 57.375),
    ):
        np.testing.assert_allclose(seen[norm][0, 0].numpy(), ((first - mean) / std).ravel(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_without_boxes_has_no_loss_and_gradients_of_zero(name):
    run = small(name)
    batch = a_batch(run)
    none = tuple(Boxes(torch.zeros(0, 4), torch.zeros(0, CLASSES)) for _ in batch.boxes)
    loss, gradients = step(learner(run), replace(batch, boxes=none))
    assert (float(loss.sum.detach()), int(loss.count)) == (0.0, 2)
    assert gradients
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("name", KINDS)
def test_a_clip_without_boxes_adds_nothing(name):
    run = small(name)
    method, batch = learner(run), a_batch(run, 4)
    whole, gradients = step(method, batch)
    rest, of_rest = step(method, batch.clips(0, 3))
    assert float(whole.sum.detach()) == pytest.approx(float(rest.sum.detach()), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_rest[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_in_parts_is_the_batch(name):
    run = small(name)
    method, batch = learner(run), a_batch(run, 4)
    whole, gradients = step(method, batch)
    parts = [step(method, batch.clips(start, start + 2)) for start in (0, 2)]
    assert float(whole.sum.detach()) == pytest.approx(sum(float(loss.sum.detach()) for loss, _ in parts), rel=1e-5)
    assert int(whole.count) == sum(int(loss.count) for loss, _ in parts)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, sum(part[name] for _, part in parts), rtol=1e-4, atol=1e-6)


def test_a_hundred_and_fifty_boxes_of_a_clip_all_count():
    run = small("finetune-ava-b")
    method, batch = learner(run), a_batch(run)
    low = torch.rand(150, 2) * 20
    many = Boxes(torch.cat([low, low + 15], 1), torch.eye(CLASSES).repeat(30, 1))
    loss, _ = step(method, replace(batch, boxes=(many, batch.boxes[1])))
    halves = [Boxes(many.corners[part::2], many.labels[part::2]) for part in (0, 1)]
    none = Boxes(torch.zeros(0, 4), torch.zeros(0, CLASSES))
    first, _ = step(method, replace(batch, boxes=(halves[0], batch.boxes[1])))
    second, _ = step(method, replace(batch, boxes=(halves[1], none)))
    assert float(loss.sum.detach()) == pytest.approx(float(first.sum.detach() + second.sum.detach()), rel=1e-5)


def test_boxes_of_clips_stay_beside_their_clips():
    run = small("finetune-ava-b")
    method, batch = learner(run).eval(), a_batch(run, 4)
    which = stacked(batch.boxes)[1]
    assert which.tolist() == [0, 0, 0, 1, 1, 2]
    loss, _ = step(method, batch)
    turn = [2, 0, 3, 1]
    turned = replace(batch, video=batch.video[turn], boxes=tuple(batch.boxes[clip] for clip in turn))
    assert float(step(method, turned)[0].sum.detach()) == pytest.approx(float(loss.sum.detach()), rel=1e-5)
    wrong = replace(batch, video=batch.video[turn])
    assert float(step(method, wrong)[0].sum.detach()) != pytest.approx(float(loss.sum.detach()), rel=1e-5)


# ---------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def moments(tmp_path_factory) -> list[Item]:
    """Key frames of four short videos, with boxes."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    items = []
    for index in range(4):
        picture = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        path: Path = folder / f"{index}.mp4"
        write(path, np.stack([np.roll(picture, 2 * t, 1) for t in range(20)]), 10)
        boxes = [Box((0.1, 0.2, 0.5, 0.9), ("walk", "talk")), Box((0.4, 0.1, 0.9, 0.8), ("sit",))][: index % 3]
        items.append(Item(path, key=KeyFrame(1.0, tuple(boxes))))
    return items


@pytest.mark.parametrize("name", KINDS)
def test_resume_is_exact(name, moments, tmp_path):
    run = small(name)
    labels = Labels("classes", ("sit", "talk", "walk"))
    training = replace(
        run.training, epochs=4, batch=4, accumulate=1, workers=0, save_every=100, precision="float32", threads=1
    )
    run = replace(
        run,
        method=replace(run.method, outputs=3),
        training=training,
        optim=replace(run.optim, warmup=1, base_lr=0.02),
        data=replace(run.data, cache=0, labels=labels),
    )
    whole = train(run, moments[0].path.parent, tmp_path / "whole", items=moments, quiet=True)
    stopped = train(run, moments[0].path.parent, tmp_path / "stopped", items=moments, quiet=True, limit=2)
    assert len(metrics(stopped)) == 2
    resumed = train(run, moments[0].path.parent, stopped, items=moments, quiet=True, resume=True)
    losses = [[line["loss"] for line in metrics(folder)] for folder in (whole, resumed)]
    assert losses[0] == losses[1]
    states = [checkpoint.read(folder)["method"] for folder in (whole, resumed)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs": 0}, "--method.outputs 0 cannot be used; expected the number of classes"),
        ({"bins": 0}, "--method.bins 0 cannot be used"),
        ({"side": 4}, "--method.side 4 cannot be used; expected at least a cube's 8"),
        ({"enlarge": (0.1, -0.1)}, "--method.enlarge .* two shares of 0 or more"),
        ({"inflate": True}, "--method.inflate is about the weights of --method.init"),
        ({"init_heads": 2}, "--method.init-heads is about the weights of --method.init"),
    ],
)
def test_settings_that_cannot_be_are_found_when_it_is_built(settings, message):
    run = small("finetune-ava-b")
    with pytest.raises(ValueError, match=message):
        replace(run.method, **settings).build(run.encoder, run.grid(), 3)


# ---------------------------------------------------------------------------- recipes

# Size, base rate, layer decay, epochs, and the mAP that the preset's docstring quotes: scripts, model zoo and paper.
RECIPES = {
    "finetune-ava-s": ("s", 1e-3, 0.6, 30, "22.5"),
    "finetune-ava-s-labelled": ("s", 5e-4, 0.6, 30, "28.4"),
    "finetune-ava-b": ("b", 2.5e-4, 0.75, 30, "26.7"),
    "finetune-ava-b-labelled": ("b", 5e-4, 0.75, 30, "31.8"),
    "finetune-ava-l": ("l", 2.5e-4, 0.75, 30, "34.3"),
    "finetune-ava-l-labelled": ("l", 5e-4, 0.8, 20, "37.0"),
    "finetune-ava-h": ("h", 5e-4, 0.8, 20, "36.5"),
    "finetune-ava-h-labelled": ("h", 5e-4, 0.8, 20, "39.5"),
    "finetune-ava-l-k700": ("l", 2.5e-4, 0.75, 30, "36.1"),  # no script: as Kinetics-400
    "finetune-ava-l-k700-labelled": ("l", 5e-4, 0.8, 20, "39.3"),
}


def test_there_are_no_other_recipes():
    assert {name for name in PRESETS if name.startswith("finetune-ava")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_published_ones(name):
    size, base_lr, layer_decay, epochs, score = RECIPES[name]
    run = preset(name)
    e, o, t, d, m = run.encoder, run.optim, run.training, run.data, run.method
    assert replace(e, drop_path=0.0, checkpoint=False) == SIZES[size]
    assert e.drop_path == 0.2
    assert (o.base_lr, o.layer_decay, o.warmup, o.betas, o.weight_decay) == (
        base_lr,
        layer_decay,
        5,
        (0.9, 0.999),
        0.05,
    )
    assert (o.min_lr, o.clip, o.weight_decay_end) == (1e-6, None, None)
    assert (t.epochs, t.batch) == (epochs, 128)
    assert (d.clip, d.size, d.crop, d.flip) == (Around(16, 4), (224, 224), RandomCrop(256), 0.5)
    assert (d.boxes, d.augment) == (BoxJitter((0.2, 0.1), (0.1, 0.05)), ColourJitter(10 / 180, 26 / 255, 26 / 255))
    assert (d.clips, d.repeats, d.channels, d.motion, d.images) == (1, 1, 3, None, None)
    assert m == ActionDetection("classes", pool="max", bins=7, norm="videomae-action-detection", side=256)
    assert m.enlarge == (0.1, 0.05)
    module, _, function = PRESETS[name].partition(":")
    assert score in (getattr(__import__(module, fromlist=[function]), function).__doc__ or "")
