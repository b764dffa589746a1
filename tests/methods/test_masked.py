"""The shared module: what is predicted, and where its gradients go."""

from dataclasses import replace

import pytest
import torch

from tubelet.config import preset
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import thinned
from tubelet.types import Batch, Draws, Grid, Motion

GRID = Grid(4, 4, 4, (2, 8, 8))


def blank(clips: int, run) -> Batch:
    size = (clips, run.data.channels, run.data.clip.frames, *run.data.size)
    block = 8 if run.data.motion is None else run.data.motion.block
    motion = Motion.unknown(size[2:], block=block, clips=clips)
    return Batch(torch.randint(0, 256, size, dtype=torch.uint8), torch.arange(clips), motion=motion)


def test_thinned_keeps_a_share_of_what_is_hidden():
    batch = Batch(torch.zeros(3, 3, 8, 32, 32, dtype=torch.uint8), torch.arange(3))
    whole = Tube(0.9)(batch, GRID, Draws(0, 0, range(3)))
    half = thinned(whole, 0.5, Draws(1, 0, range(3)))
    assert half.predict.shape == (3, 28)
    assert (half.predict.diff(dim=1) > 0).all()
    assert half.scored.all()
    assert torch.equal(half.visible, whole.visible)
    assert all(set(few.tolist()) < set(all_.tolist()) for few, all_ in zip(half.predict, whole.predict))
    counts = torch.zeros(64)
    for step in range(300):
        counts += torch.bincount(thinned(whole, 0.5, Draws(2, step, range(3))).predict[0], minlength=64)
    hidden = counts[whole.hidden[0]]
    assert 100 < hidden.min() < hidden.max() < 200  # 150 of 300 each, more or less


def test_predicting_fewer_tokens_estimates_the_same_loss():
    run = preset("videomae-demo")
    torch.manual_seed(0)
    method = replace(run.method, predict=1.0).build(run.encoder, run.grid(), 3)
    batch = blank(4, run)
    with torch.no_grad():
        whole = method(batch, Draws(0, 0, range(4)))
        method.predict = 0.25
        few = [method(batch, Draws(0, step, range(4))) for step in range(30)]
    assert int(few[0].count) == int(0.25 * 56) * 4
    mean = sum(float(loss.sum / loss.count) for loss in few) / 30
    assert mean == pytest.approx(float(whole.sum / whole.count), rel=0.05)


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_impossible_shares_are_named(share):
    run = preset("videomae-demo")
    with pytest.raises(ValueError, match=f"--method.predict {share:g}"):
        replace(run.method, predict=share).build(run.encoder, run.grid(), 3)
