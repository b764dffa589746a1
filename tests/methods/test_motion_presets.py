"""MGM, SMM and MGMAE as presets: the papers' settings, steps with motion, and clear words without."""

import math
from dataclasses import replace

import pytest
import torch

from tubelet.config import numbers, preset
from tubelet.data.flow import Flow
from tubelet.data.vectors import Vectors
from tubelet.masks.motion_masks import FlowWarp, MotionBox, SimulatedBox
from tubelet.masks.random_masks import Block, Tube
from tubelet.methods import PRESETS
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import SIZES
from tubelet.plan import by_slot, masks_of, plan
from tubelet.types import Batch, Draws, Motion

GUIDED = [name for name in PRESETS if isinstance(getattr(preset(name).method, "mask", None), MotionBox | FlowWarp)]


@pytest.mark.parametrize(
    ("name", "mask", "motion", "stride", "flip", "epochs"),
    [
        ("mgm-ssv2", MotionBox(0.75), Vectors(), 2, 0.0, 800),
        ("mgm-ssv2-2400", MotionBox(0.75), Vectors(), 2, 0.0, 2400),
        ("mgm-k400", MotionBox(0.75), Vectors(), 4, 0.5, 800),
        ("mgm-k400-1600", MotionBox(0.75), Vectors(), 4, 0.5, 1600),
        ("smm-ssv2", SimulatedBox(0.75), None, 2, 0.0, 800),
        ("smm-k400", SimulatedBox(0.75), None, 4, 0.5, 800),
        ("block-ssv2", Block(0.75), None, 2, 0.0, 800),
        ("mgm-ssv2-200", MotionBox(0.75), Vectors(), 2, 0.0, 200),
        ("mgm-ssv2-200-flow", MotionBox(0.75), Flow(), 2, 0.0, 200),
        ("mgm-ssv2-200-rigid", MotionBox(0.75, jitter=0.0), Vectors(), 2, 0.0, 200),
        ("mgm-ssv2-200-sparse", MotionBox(0.75, sparse=True), Vectors(), 2, 0.0, 200),
        ("smm-ssv2-200-sparse", SimulatedBox(0.75, sparse=True), None, 2, 0.0, 200),
        ("tube-ssv2-200", Tube(0.9), None, 2, 0.0, 200),
        ("mgm-ssv2-200-ratio-40", MotionBox(0.4), Vectors(), 2, 0.0, 200),
        ("mgm-k400-200", MotionBox(0.75), Vectors(), 4, 0.5, 200),
    ],
)
def test_mgm_is_trained_as_its_tables_say(name, mask, motion, stride, flip, epochs):
    run = preset(name)
    assert run.encoder == SIZES["b"]
    assert run.method.mask == mask
    d, o, t = run.data, run.optim, run.training
    assert (d.motion, d.clip.frames, d.clip.stride, d.flip, d.repeats) == (motion, 16, stride, flip, 1)
    assert (o.base_lr, o.warmup, o.betas, o.weight_decay) == (1.5e-4, 40, (0.9, 0.95), 0.05)  # table 5
    assert (t.batch, t.epochs) == (512, epochs)


@pytest.mark.parametrize(
    ("name", "stride", "epochs", "motion"),
    [
        ("mgmae-k400", 4, 200, Flow()),
        ("mgmae-k400-1600", 4, 400, Flow()),
        ("mgmae-ssv2", 2, 200, Flow()),
        ("mgmae-ssv2-2400", 2, 600, Flow()),
        ("mgmae-k400-vectors", 4, 200, Vectors()),
        ("mgmae-ssv2-vectors", 2, 200, Vectors()),
    ],
)
def test_mgmae_is_trained_as_its_scripts_say(name, stride, epochs, motion):
    run = preset(name)
    assert run.encoder == SIZES["b"]
    assert run.method.mask == FlowWarp(0.9, base="middle", initial="gauss", holes="base", select="slot")
    d, o, t = run.data, run.optim, run.training
    assert (d.motion, d.clip.frames, d.clip.stride, d.flip, d.repeats) == (motion, 16, stride, 0.0, 4)
    assert (o.base_lr, o.warmup, t.batch, t.epochs) == (1e-3, 20, 384, epochs)
    assert numbers(run, 10_000).lr == pytest.approx(1.5e-3)  # repeats do not count
    assert [by_slot(mask) for mask in masks_of(run, run.grid())] == [((19, 177),) * 8]


@pytest.mark.parametrize("name", GUIDED)
def test_a_mask_that_follows_motion_comes_with_motion(name):
    assert preset(name).data.motion is not None


def small(name: str):
    run = preset(name)
    encoder = replace(run.encoder, width=24, depth=1, heads=2, hidden=48)
    return replace(run, encoder=encoder, method=replace(run.method, decoder=Decoder(16, 1, 2)))


def clips(run, count: int) -> Batch:
    size = (count, 3, run.data.clip.frames, *run.data.size)
    batch = Batch(torch.randint(0, 256, size, dtype=torch.uint8), torch.arange(count))
    blind = Motion.unknown(batch.video.shape[2:], block=run.data.motion.block, clips=len(batch.video))
    known, moves = torch.ones_like(blind.had), 6 * torch.randn_like(blind.to_previous)
    return replace(batch, motion=replace(blind, to_previous=moves, to_next=-moves, had=known, has=known))


@pytest.mark.parametrize("name", ["mgm-few-cpu", "mgm-few-cpu-flow", "mgmae-few-cpu"])
def test_a_step_follows_the_motion_of_its_clips(name):
    run = small(name)
    torch.manual_seed(0)
    method = run.method.build(run.encoder, run.grid(), 3)
    batch = clips(run, 4)
    loss = method(batch, Draws(0, 0, range(4)))
    assert torch.isfinite(loss.sum)
    other = method(
        replace(
            batch, motion=Motion.unknown(batch.video.shape[2:], block=run.data.motion.block, clips=len(batch.video))
        ),
        Draws(0, 0, range(4)),
    )
    assert loss.count == other.count
    assert loss.sum != other.sum, "the mask did not look at the motion"
    parts = [method(batch.clips(a, a + 2), Draws(0, 0, range(a, a + 2))) for a in (0, 2)]
    assert sum(part.sum for part in parts).item() == pytest.approx(loss.sum.item(), rel=1e-5)


@pytest.mark.parametrize("data", ["ssv2", "k400", "ucf101"])
def test_what_mgm_has_learnt_is_fine_tuned_by_its_table(data):
    """A step of the recipe with a smaller encoder; no motion is read for it."""
    run = preset(f"finetune-mgm-{data}-b")
    assert (run.data.motion, run.encoder.patch, run.data.clip.frames) == (None, SIZES["b"].patch, 16)
    small = replace(run.encoder, width=24, depth=1, heads=2, hidden=48)
    method = replace(run.method, outputs=5).build(small, run.grid(), 3)
    video = torch.randint(0, 256, (2, 3, 16, *run.data.size), dtype=torch.uint8)
    loss = method(Batch(video, torch.arange(2), labels=torch.eye(5)[:2]), Draws(0, 0, range(2)))
    assert (loss.sum / loss.count).item() == pytest.approx(math.log(5), abs=0.1)  # nothing is known yet


def test_a_step_without_motion_says_what_to_set():
    run = small("mgm-few-cpu")
    method = run.method.build(run.encoder, run.grid(), 3)
    with pytest.raises(ValueError, match=r"MotionBox follows motion.*data\.motion"):
        method(replace(clips(run, 2), motion=None), Draws(0, 0, range(2)))


def test_what_a_mask_would_hide_is_known_before_any_clip_is_read():
    run = small("mgm-few-cpu")
    with pytest.raises(ValueError, match=r"mask ratio 0\.01 hides 0 of 20"):
        replace(run.method, mask=MotionBox(0.01)).build(run.encoder, run.grid(), 3)
    visible, predicted = zip(*by_slot(masks_of(run, run.grid())[0]))
    assert visible == (5,) * 8
    assert sum(predicted) == 30  # a quarter of the hidden ones, in any slot


@pytest.mark.parametrize("name", ["mgm-ssv2", "mgmae-ssv2", "smm-ssv2", "block-ssv2"])
def test_plans_count_the_tokens_of_motion_masks(name):
    counted = plan(preset(name))
    visible = 152 if name == "mgmae-ssv2" else 392
    encoder = 12 * (visible * (4 * 768**2 + 2 * 768 * 3072) + 2 * visible**2 * 768) + visible * 1536 * 768
    assert counted.gmacs["encoder"] * 1e9 == encoder
