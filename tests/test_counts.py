"""What reading and a step cost, in counts that no other load on the machine changes: frames, multiply-adds, bytes."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from av import VideoFrame
from torch.utils.flop_counter import FlopCounterMode

from tubelet.activations import Live
from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data, Dataset
from tubelet.data.items import Item
from tubelet.data.loader import Batches
from tubelet.data.prepare import prepare
from tubelet.data.sampling import Dense
from tubelet.data.stream import in_order
from tubelet.data.synthetic import make
from tubelet.data.transforms import CentreCrop, Window
from tubelet.data.video import frames_at, probe
from tubelet.data.writing import Encoding
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.plan import plan
from tubelet.train.distributed import alone
from tubelet.train.loop import one_step
from tubelet.train.optim import adamw
from tubelet.types import Batch

RUN = Run(
    encoder=Encoder(width=96, depth=3, heads=3, hidden=384, patch=(2, 8, 8)),
    method=Masked(mask=Tube(0.75), decoder=Decoder(48, 2, 3)),
    data=Data(clip=Dense(8, stride=4), size=(64, 64), crop=CentreCrop()),
    optim=Optim(),
    training=Training(epochs=1, batch=4, device="cpu", precision="float32"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One video of 128 frames, prepared with key frames 32 apart: plain, and every fourth frame alone."""
    folder = tmp_path_factory.mktemp("counts")
    make(folder / "made", 1, frames=128, workers=1)
    for layered in (1, 4):
        prepare(folder / "made", folder / str(layered), Encoding(short_side=0, layered=layered), workers=0)
    return {layered: next((folder / str(layered)).rglob("*.mp4")) for layered in (1, 4)}


@pytest.mark.parametrize(
    ("layered", "start", "decoded"),
    [
        (1, 32, 29),  # from a key frame: the clip's own length, 7 * 4 + 1
        (1, 40, 37),  # and the way from the key frame before
        (1, 64, 29),
        (4, 32, 8),  # on the layer: the clip's own frames, and no others
        (4, 64, 8),
        (4, 40, 11),  # two of the layer on the way, and the one before the next key frame, which is no B-frame
    ],
)
def test_no_frame_is_decoded_that_a_clip_does_not_need(prepared, layered, start, decoded):
    clip = frames_at(prepared[layered], start + 4 * np.arange(8))
    assert clip.decoded == decoded
    assert clip.damaged == 0


def test_beside_the_layer_only_frames_that_are_asked_for_are_decoded_beyond_it(prepared):
    """Eight frames one beside the layer, and the layer from the key frame to behind the last of them."""
    clip = frames_at(prepared[4], 33 + 4 * np.arange(8))
    assert clip.decoded <= 8 + 9


@pytest.mark.parametrize(
    "read",
    [
        lambda path, out: probe(path, anew=True),
        lambda path, out: frames_at(path, [3, 9]),
        lambda path, out: frames_at(path, [3, 9], size=(32, 32), windows=lambda _: [Window(0, 0, 40, 40)] * 2),
        lambda path, out: frames_at(path, [3, 9], size=(32, 32), windows=lambda _: [Window(0, 0, 40, 40)], yuv=True),
        lambda path, out: frames_at(path, [3, 9], gray=True, vectors=True),
        lambda path, out: list(in_order(probe(path), np.arange(9))),
        lambda path, out: prepare(path, out, Encoding(short_side=32), workers=0),
    ],
    ids=["index", "frames", "windows", "yuv", "vectors", "in order", "prepare"],
)
def test_decoded_frames_go_when_they_are_done_with(prepared, read, tmp_path):
    """Not when Python next looks for reference cycles: until then the pixels of hundreds of clips pile up, and what
    lasts is allocated between them, so that the heap cannot shrink."""
    gc.collect()
    gc.disable()
    try:
        read(prepared[1], tmp_path / "out")
        assert not [thing for thing in gc.get_objects() if type(thing) is VideoFrame]
    finally:
        gc.enable()


def one(run=RUN):
    """A step of a run, once it has run twice: module, optimiser, batch."""
    torch.manual_seed(0)
    method = run.method.build(run.encoder, run.grid(), 3).train()
    optimiser = adamw(method, run.optim)
    clips = run.training.batch
    video = torch.randint(0, 256, (clips, 8, 64, 64, 3), dtype=torch.uint8).permute(0, 4, 1, 2, 3)
    batch = Batch(video, torch.arange(clips))

    def step() -> None:
        one_step(alone(method), batch, 0, run, torch.device("cpu"), torch.float32)
        optimiser.step()
        optimiser.zero_grad()

    step()
    return method, optimiser, batch, step


def multiply_adds(run=RUN):
    """Of a clip in a step, with the way back."""
    *_, step = one(run)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2 / run.training.batch


def test_the_way_back_multiplies_twice_as_much_as_the_way_there():
    """But for the gradient of the pixels, which nothing needs. Nothing is computed a second time."""
    forward = 1e9 * plan(RUN).gmacs["forward"]
    tokens, values, width = 64, 2 * 8 * 8 * 3, RUN.encoder.width
    pixels = tokens * values * width
    attention = 3 * 2 * 64**2 * width + 2 * 2 * 256**2 * 48  # which PyTorch's counter leaves out on a CPU
    assert multiply_adds() == pytest.approx(3 * (forward - attention) - pixels, rel=1e-6)


def test_recomputing_costs_one_more_pass_of_the_encoder():
    run = replace(RUN, encoder=replace(RUN.encoder, checkpoint=True))
    encoder = 1e9 * plan(RUN).gmacs["encoder"]
    assert multiply_adds() < multiply_adds(run) < multiply_adds() + encoder


def test_clips_are_handed_over_as_bytes_of_their_pixels(prepared):
    """uint8, and once: no second copy is made of a batch."""
    dataset = Dataset([Item(prepared[1])] * 3, RUN.data)
    with Live([]) as live:
        batch = Batches(dataset, 3)[0]
    assert batch.video.dtype == torch.uint8
    assert batch.video.numel() == batch.video.nbytes == 3 * 3 * 8 * 64 * 64
    assert live.peak <= 3.2 * batch.video.nbytes  # three clips; while they are joined, the batch; and a clip as decoded


class Handed(Live):
    """Also adds up all that was ever handed out."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = set(self.alive)
        out = super().__torch_dispatch__(function, types, args, kwargs)
        self.total += sum(size for place, (_, size) in self.alive.items() if place not in before)
        return out


def test_a_step_asks_for_no_more_memory_than_it_did():
    """In bytes for each clip, torch 2.13 on a CPU, 2026-11-22. A change that asks for less is welcome to lower these;
    another torch may hand memory out in other pieces: compare both versions of ours with it before raising them."""
    method, optimiser, batch, step = one()
    state = [value for each in optimiser.state.values() for value in each.values() if isinstance(value, torch.Tensor)]
    with Handed([*method.parameters(), *method.buffers(), batch.video, *state]) as handed:
        step()
    assert handed.total / 4 <= 1.05 * 9_946_481
    assert handed.peak / 4 <= 1.05 * 4_188_944
