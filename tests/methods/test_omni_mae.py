"""Pictures and videos in one model: a still clip is a grid of one slot, with a mask and a loss of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.config import numbers, preset
from tubelet.masks.random_masks import Random
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import MEAN, STD, Pixels
from tubelet.types import Batch, Draws, Grid

SHAPE = Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8))
GRID = Grid(4, 4, 5, (2, 8, 8))
CONFIG = Masked(Random(0.9), Pixels("videomae"), Decoder(16, 2, 4), still=Random(0.75))


def clips(frames: int, still: bool = False) -> Batch:
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, frames, 32, 40), dtype=np.uint8))
    return Batch(video[:, :, :1].repeat(1, 1, frames, 1, 1) if still else video, torch.arange(3))


def method(**encoder):
    torch.manual_seed(0)
    module = CONFIG.build(replace(SHAPE, **encoder), GRID, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return module


def by_hand(module, batch: Batch, draws: Draws) -> tuple[float, int]:
    """Summed loss and count: cubes cut, hidden and normalised by numpy, one at a time."""
    mask = Random(0.75)(batch, Grid(1, 4, 5, (2, 8, 8)), draws)
    video = batch.video.numpy().astype(np.float64) / 255
    cubes = np.stack(
        [
            video[:, :, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].transpose(0, 2, 3, 4, 1)
            for row in range(4)
            for column in range(5)
        ],
        axis=1,
    )  # b n pt ph pw c
    seen = torch.from_numpy(((cubes - MEAN) / STD).reshape(3, 20, -1)).float()
    latent = module.encoder(torch.stack([clip[ids] for clip, ids in zip(seen, mask.visible)]), mask.visible)
    predicted = module.decoder(latent, mask).detach().numpy()
    total = 0.0
    for clip in range(3):
        for number, place in enumerate(mask.predict[clip].tolist()):
            cube = cubes[clip, place].reshape(-1, 3)
            wanted = (cube - cube.mean(0)) / (cube.std(0, ddof=1) + 1e-6)
            total += float(((predicted[clip, number] - wanted.flatten()) ** 2).mean())
    return total, 3 * 15


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_the_loss_of_pictures_is_what_is_computed_by_hand(attention):
    module, batch = method(attention=attention), clips(2, still=True)
    loss = module(batch, Draws(0, 7, range(3)))
    total, count = by_hand(module, batch, Draws(0, 7, range(3)))
    assert int(loss.count) == count
    assert loss.sum.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("attention", ["joint", "divided"])
@pytest.mark.parametrize("position", ["index", "axes", "plane"])
def test_pictures_see_what_a_model_of_one_slot_sees(attention, position):
    """The first slot of every fixed table is the table of one slot."""
    module = method(attention=attention, position=position)
    small = replace(CONFIG, mask=Random(0.75)).build(
        replace(SHAPE, attention=attention, position=position), replace(GRID, T=1), 3
    )
    small.load_state_dict(module.state_dict())
    batch = clips(2, still=True)
    left, right = (one(batch, Draws(0, 3, range(3))) for one in (module, small))
    assert int(left.count) == int(right.count)
    torch.testing.assert_close(left.sum, right.sum, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "divided"])
@pytest.mark.parametrize("frames", [2, 8])
def test_pictures_and_videos_both_teach_all_of_the_model(frames, attention):
    module = method(attention=attention)
    loss = module(clips(frames, still=frames == 2), Draws(0, 0, range(3)))
    (loss.sum / loss.count).backward()
    assert int(loss.count) == 3 * (15 if frames == 2 else 72)
    assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def test_without_a_mask_of_their_own_pictures_get_that_of_videos():
    module = replace(CONFIG, still=None).build(SHAPE, GRID, 3)
    assert int(module(clips(2, still=True), Draws(0, 0, range(3))).count) == 3 * 18


def test_a_mask_of_pictures_that_hides_all_is_found_before_the_first_step():
    with pytest.raises(ValueError, match=r"hides 0 of 20 tokens"):
        replace(CONFIG, still=Random(0.01)).build(SHAPE, GRID, 3)


def test_the_preset_has_the_released_rates_and_steps():
    run = preset("omni-mae-b")
    found = numbers(run, 168_913)
    assert found.lr == pytest.approx(1.6e-3)
    assert found.warmup == pytest.approx(0.05 * found.steps, rel=1e-3)
    videos = found.steps * (1 - run.data.images.share)
    assert videos == pytest.approx(800 * 168_913 / 512 / 4, rel=1e-3)  # a quarter of the batches an epoch, 800 epochs
    assert found.steps - videos == pytest.approx(800 * 1_281_167 / 2048, rel=0.04)
    assert run.data.images.frames == run.encoder.patch[0]
    batch = Batch(torch.zeros(1, 3, 2, 224, 224, dtype=torch.uint8), torch.arange(1))
    assert run.method.still(batch, replace(run.grid(), T=1), Draws(0, 0, [0])).visible.shape[1] == 20
