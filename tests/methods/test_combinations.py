"""Every mask with every target, decoder and encoder: a step in which all learns, or an error that docs list."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.config import checked, preset
from tubelet.masks.blocks import MultiBlock
from tubelet.masks.clusters import Clusters
from tubelet.masks.motion_masks import FlowWarp, MotionBox, SimulatedBox
from tubelet.masks.random_masks import Block, Cuboids, Frame, Random, Tube
from tubelet.masks.running_cell import RunningCell
from tubelet.methods.arvideo import Autoregressive
from tubelet.methods.latent import Latent
from tubelet.methods.masked import Masked
from tubelet.motion_targets import FrameDifference, Trajectory
from tubelet.nn.cross import CrossDecoder
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.raft import Raft
from tubelet.nn.vit import Encoder
from tubelet.targets import HOG, OneFrame, Pixels, Together
from tubelet.types import Batch, Draws, Grid, Motion

# One line for each: a new mask, target or decoder is tried with all the others, and must be named in the docs.
MASKS = [
    Random(0.75),
    Tube(0.75),
    Frame(0.5),
    Block(0.5),
    Cuboids(0.4),
    MultiBlock(2, 0.4),
    Clusters((2, 2, 2), drop=0.5),
    SimulatedBox(0.5),
    MotionBox(0.5),
    FlowWarp(0.75),
]
TARGETS = [
    Pixels("videomae"),
    Pixels("mae"),
    Pixels("none"),
    OneFrame(),
    HOG(cell=4),
    FrameDifference(),
    Trajectory(),
    Together((Pixels("none"), FrameDifference("none")), (1.0, 0.5)),
]
DECODERS = {
    "Decoder": Decoder(16, 1, 2, position="axes"),
    "CrossDecoder, last": CrossDecoder(16, 2, 2),
    "CrossDecoder, mixed": CrossDecoder(16, 2, 2, position="learned", memory="mixed"),
    "Head": Head(),
}
ENCODERS = {
    "joint": Encoder(16, 2, 2, 32, (2, 4, 4)),
    "divided": Encoder(16, 2, 2, 32, (2, 4, 4), attention="divided"),
    "axes": Encoder(16, 2, 2, 32, (2, 4, 4), position="axes"),
    "plane": Encoder(16, 2, 2, 32, (2, 4, 4), position="plane"),
    "learned": Encoder(16, 2, 2, 32, (2, 4, 4), position="learned"),
    "rotary": Encoder(16, 2, 2, 32, (2, 4, 4), position="rotary"),
}
PREDICTED = {"all": {}, "share": {"predict": 0.5}, "running cell": {"decode": RunningCell()}}
GRID = Grid(4, 4, 4, (2, 4, 4))
PAGE = Path(__file__).parents[2] / "docs" / "combinations.md"


def moving(clips: int = 2) -> Batch:
    """Noise that goes to the right by a pixel a frame, and says so."""
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.integers(0, 256, (clips, 3, 16, 24), dtype=np.uint8))
    video = torch.stack([wide[..., 8 - t : 24 - t] for t in range(8)], dim=2)
    motion = Motion.unknown((8, 16, 16), block=4, clips=clips)
    motion.to_previous[:, 0, 1:] = -1.0
    motion.to_next[:, 0, :-1] = 1.0
    motion.had[:, 1:], motion.has[:, :-1] = True, True
    return Batch(video, torch.arange(clips), motion=motion)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_step_of_every_mask_and_target_teaches_all_there_is(encoder, decoder):
    batch = moving()
    for (number, mask), target in product(enumerate(MASKS), TARGETS):
        torch.manual_seed(number)
        method = Masked(mask, target, DECODERS[decoder]).build(ENCODERS[encoder], GRID, 3)
        check(method, batch, f"{mask}, {target}")


@pytest.mark.parametrize("predicted", ["share", "running cell"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_so_does_one_that_predicts_fewer_or_others(decoder, predicted):
    batch = moving()
    for mask in MASKS:
        torch.manual_seed(0)
        method = Masked(mask, decoder=DECODERS[decoder], **PREDICTED[predicted]).build(ENCODERS["joint"], GRID, 3)
        check(method, batch, f"{mask}, {predicted}")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_so_does_one_that_predicts_features(encoder):
    batch = moving()
    for mask, (name, decoder) in product(MASKS, DECODERS.items()):
        torch.manual_seed(0)
        method = Latent(masks=(mask,), decoder=decoder).build(ENCODERS[encoder], GRID, 3)
        check(method, batch, f"{mask}, {name}")


@pytest.mark.parametrize("encoder", [name for name, shape in ENCODERS.items() if shape.attention == "joint"])
def test_so_does_one_that_predicts_clusters_in_turn(encoder):
    batch = moving()
    for target, order, memory in product(TARGETS, ("random", "space"), ("last", "mixed")):
        torch.manual_seed(0)
        config = Autoregressive(Clusters((2, 2, 2), order=order), target, CrossDecoder(16, 2, 2, memory=memory))
        check(config.build(ENCODERS[encoder], GRID, 3), batch, f"{target}, {order}, {memory}")


def check(method: torch.nn.Module, batch: Batch, what: str) -> None:
    """One step: finite, and a gradient for every parameter that is learnt."""
    for block in method.encoder.blocks if method.encoder.divided else ():
        torch.nn.init.normal_(block.join.weight, std=0.1)  # 0 at first, so that nothing before it learns
    loss = method(batch, Draws(0, 0, range(len(batch.video))))
    (loss.sum / loss.count).backward()
    assert torch.isfinite(loss.sum), what
    learnt = [(name, p) for name, p in method.named_parameters() if p.requires_grad]  # a teacher does not
    missing = [name for name, p in learnt if p.grad is None or not p.grad.any()]
    assert not missing, f"{what}: no gradient for {missing}"


def build(config: Masked, encoder: Encoder = ENCODERS["joint"], grid: Grid = GRID, motion: bool = True) -> None:
    """As a run begins: built, and a step of clips with or without motion."""
    method = config.build(encoder, grid, 3)
    batch = moving()
    method(batch if motion else replace(batch, motion=None), Draws(0, 0, range(2)))


def estimated_twice() -> None:
    run = preset("mgm-few-cpu")
    checked(replace(run, method=replace(run.method, flow=Raft("none.pth"))))


REFUSED = {
    "follows motion, and the clips came without": lambda: build(Masked(MotionBox(0.5)), motion=False),
    "do not divide into cells of 2x2": lambda: build(
        Masked(Tube(0.5), decode=RunningCell()), grid=Grid(4, 3, 4, (2, 4, 4))
    ),
    "at least one must stay hidden and one visible": lambda: build(Masked(Random(0.001))),
    "in most draws": lambda: build(Masked(MultiBlock(8, 0.9))),
    "do not divide the grid": lambda: build(Masked(Clusters((3, 2, 2)))),
    "do not divide patches of": lambda: build(Masked(Tube(0.5), HOG(cell=3))),
    "hold no two that differ": lambda: build(
        Masked(Tube(0.5), FrameDifference()), Encoder(16, 2, 2, 32, (1, 4, 4)), Grid(8, 4, 4, (1, 4, 4))
    ),
    "have no four quarters to follow": lambda: build(
        Masked(Tube(0.5), Trajectory()), Encoder(16, 2, 2, 32, (2, 5, 5)), Grid(4, 4, 4, (2, 5, 5))
    ),
    "which divided attention cannot be told": lambda: Autoregressive(Clusters((2, 2, 2))).build(
        ENCODERS["divided"], GRID, 3
    ),
    "give each one, above 0": lambda: build(Masked(target=Together(weights=(1.0, 1.0)), mask=Tube(0.5))),
    "use a multiple of 4": lambda: build(Masked(Tube(0.5)), Encoder(18, 2, 2, 32, (2, 4, 4), position="plane")),
    "does not go with divided attention": lambda: build(
        Masked(Tube(0.5)), Encoder(16, 2, 2, 32, (2, 4, 4), position="rotary", attention="divided")
    ),
    "replaces the motion that the readers would look for": estimated_twice,
}


def rows() -> list[list[str]]:
    """The cells of the page's tables."""
    lines = re.findall(r"^\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    return [line.split(" | ") for line in lines]


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_refused_is_refused_in_these_words(said):
    with pytest.raises(ValueError, match=said):
        REFUSED[said]()


def test_the_page_names_all_that_is_tried_and_all_that_is_refused():
    table = dict(rows())
    for part, tried in (("mask", MASKS), ("target", TARGETS), ("decoder", DECODERS.values())):
        names = {name for name in re.findall(r"`(\w+)`", table[part]) if name[0].isupper()}
        assert names == {type(one).__name__ for one in tried}
    errors = [cells[1] for cells in rows()[rows().index(["combination", "error"]) + 1 :]]
    assert errors == list(REFUSED)
