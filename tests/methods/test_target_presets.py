"""MaskFeat, MotionMAE, M3Video and MAE-ST as presets: the papers' settings, and steps whose loss falls."""

from dataclasses import replace

import pytest
import torch

from tubelet.config import numbers, preset
from tubelet.data.flow import Flow
from tubelet.data.transforms import RandomResizedCrop
from tubelet.data.vectors import Vectors
from tubelet.masks.random_masks import Cuboids, Random, Tube
from tubelet.motion_targets import FrameDifference, Trajectory
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.vit import SIZES
from tubelet.pictures import reconstruct
from tubelet.targets import HOG, OneFrame, Pixels, Together
from tubelet.types import Batch, Draws, Motion

SMALL = [
    "maskfeat-few-cpu",
    "maskfeat-simmim-few-cpu",
    "motion-mae-few-cpu",
    "m3video-few-cpu",
    "st-mae-few-cpu",
]


def batch_of(run, clips: int = 2, seed: int = 0) -> Batch:
    """Noise that a known motion shifts."""
    generator = torch.Generator().manual_seed(seed)
    size = (run.data.clip.frames, *run.data.size)
    video = torch.randint(0, 256, (clips, 3, *size), generator=generator).byte()
    motion = Motion.unknown(size, 4, clips=clips)
    motion.to_next[:, 0], motion.has[:, :-1] = 2.0, True
    return Batch(video, torch.arange(clips), motion=motion)


def small(name: str):
    run = preset(name)
    encoder = replace(run.encoder, width=32, depth=2, heads=2, hidden=64)
    torch.manual_seed(0)
    return replace(run.method, predict=1.0).build(encoder, run.grid(), 3), run


@pytest.mark.parametrize(
    ("name", "size", "mask", "target", "decoder", "epochs"),
    [
        ("maskfeat-k400-b", "b", Cuboids(0.4), HOG(), Head(), 300),
        ("maskfeat-mae-k400-b", "b", Random(0.9), HOG(), Decoder(384, 4, 6), 1600),
        ("motion-mae-k400-b", "b", Random(0.9), (Pixels(), FrameDifference()), Decoder(384, 4, 6), 1600),
        ("motion-mae-ssv2-b", "b", Random(0.9), (Pixels(), FrameDifference()), Decoder(384, 4, 6), 2400),
        ("m3video-k400-b", "b", Tube(0.7), None, Decoder(192, 1, 3), 1600),
        ("m3video-ssv2-b", "b", Tube(0.7), None, Decoder(192, 1, 3), 400),
        ("st-mae-k400-b", "b", Random(0.9, "visible"), OneFrame(), Decoder(512, 4, 16, position="learned"), 200),
        ("st-mae-k400-l", "l", Random(0.9, "visible"), OneFrame(), Decoder(512, 4, 16, position="learned"), 200),
        ("st-mae-k400-h", "h", Random(0.9, "visible"), OneFrame(), Decoder(512, 4, 16, position="learned"), 200),
    ],
)
def test_presets_are_trained_as_their_papers_say(name, size, mask, target, decoder, epochs):
    run = preset(name)
    if target is None:
        target = Together((HOG(frames="middle"), Trajectory(4, 20.0, normalise=True)), (0.5, 0.5))
        assert run.data.motion == Flow()
    elif isinstance(target, tuple):
        target = Together(target, (1.0, 1.0))
    assert (run.method.mask, run.method.target, run.method.decoder) == (mask, target, decoder)
    assert replace(run.encoder, position="index", checkpoint=False) == SIZES[size]
    assert (run.data.clip.frames, run.data.clip.stride) == (16, 2 if "ssv2" in name else 4)
    assert (run.training.epochs, run.data.size) == (epochs, (224, 224))


def test_rates_crops_and_repeats_are_those_of_the_releases():
    st_mae, maskfeat = preset("st-mae-k400-l"), preset("maskfeat-k400-b")
    for run in (st_mae, maskfeat):
        assert (run.data.crop, run.data.flip, run.optim.clip) == (RandomResizedCrop((0.5, 1.0)), 0.5, 0.02)
    assert (st_mae.optim.betas, maskfeat.optim.betas) == ((0.9, 0.95), (0.9, 0.999))
    assert (st_mae.data.repeats, st_mae.encoder.position) == (4, "learned")
    assert numbers(st_mae, 240_000).lr == pytest.approx(1.6e-3 * 512 / 256)  # repeats are not counted
    assert numbers(maskfeat, 240_000).lr == pytest.approx(1e-4 * 512 / 64)  # 1e-4 for each 64 clips
    assert preset("m3video-few-cpu").data.motion == Vectors(block=4)


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_on_one_batch_lower_the_loss(name):
    method, run = small(name)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        loss = method(batch_of(run), Draws(0, step % 2, range(2)))
        assert int(loss.count) == 2 * (64 if "simmim" in name else 144)
        (loss.sum / loss.count).backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.sum.detach() / loss.count))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_all_of_them_can_be_pictured(name):
    method, run = small(name)
    batch = batch_of(run)
    result = reconstruct(method, batch.video, motion=batch.motion)
    for strip in result.strips():
        assert {"original", "hidden", "imagined"} <= set(strip.rows)
    assert (result.sought is None) == (name in ("motion-mae-few-cpu", "st-mae-few-cpu"))
    if result.sought is not None:
        assert not torch.equal(result.sought, batch.video)
        assert result.sought.isfinite().all()


def test_where_pixels_go_with_changes_the_fill_without_a_model_is_of_pixels_alone():
    method, run = small("motion-mae-few-cpu")
    flat = torch.tensor([10, 120, 240]).view(1, 3, 1, 1, 1).expand(1, 3, 16, *run.data.size).byte()
    assert reconstruct(method, flat).baseline.isinf().all()


def test_m3video_without_motion_is_named():
    method, run = small("m3video-few-cpu")
    with pytest.raises(ValueError, match="target Trajectory follows motion, and the clips came without"):
        method(replace(batch_of(run), motion=None), Draws(0, 0, range(2)))


def test_pictures_shown_among_videos_have_all_targets_too():
    for name in SMALL:
        method, run = small(name)
        batch = batch_of(run)
        motion = batch.motion.each(lambda part: part[..., :2, :, :])
        loss = method(replace(batch, video=batch.video[:, :, :2], motion=motion), Draws(0, 0, range(2)))
        assert loss.sum.isfinite()
