"""Masks that move: exact counts whatever the motion, boxes on what moves, the flow's way on both sides of the base."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.masks.motion_masks import (
    FlowWarp,
    MotionBox,
    SimulatedBox,
    box_sizes,
    inside,
    limits,
    speeds,
    swings,
)
from tubelet.masks.random_masks import Block, Random
from tubelet.types import Batch, Draws, Grid, Motion, TokenMask

CLIP = Grid(8, 14, 14)
MASKERS = [
    MotionBox(),
    MotionBox(sparse=True),
    MotionBox(jitter=0.0),
    SimulatedBox(),
    SimulatedBox(sparse=True),
    Block(),
    FlowWarp(),
    FlowWarp(base="random", initial="pixel"),
    FlowWarp(base="first", initial="token", holes="none"),
    FlowWarp(base="random", exposure=True, released=True),
]


def frames_of(grid: Grid) -> tuple[int, int, int]:
    return grid.T * grid.patch[0], grid.H * grid.patch[1], grid.W * grid.patch[2]


def blank(clips: int, grid: Grid = CLIP, block: int = 8) -> Batch:
    video = torch.zeros(clips, 3, *frames_of(grid), dtype=torch.uint8)
    return Batch(video, torch.arange(clips), motion=Motion.unknown(video.shape[2:], block=block, clips=clips))


def wild(clips: int, grid: Grid, block: int, seed: int) -> Batch:
    """Motion of no sense: each block its own way, some unknown."""
    batch, rng = blank(clips, grid, block), np.random.default_rng(seed)
    size = tuple(batch.motion.to_previous.shape)
    fields = [torch.from_numpy(rng.normal(scale=9, size=size)).float() for _ in range(2)]
    known = [torch.from_numpy(rng.random((clips, *size[2:])) < 0.7) for _ in range(2)]
    return replace(batch, motion=Motion(*fields, *known, block))


@dataclass
class Thing:
    """A rectangle of the first frame and where it goes in one, in pixels."""

    x: int
    y: int
    width: int
    height: int
    right: int
    down: int

    def at(self, frame: int) -> tuple[slice, slice]:
        x, y = self.x + frame * self.right, self.y + frame * self.down
        return slice(y, y + self.height), slice(x, x + self.width)


def moved(things: list[Thing], grid: Grid, clips: int = 1, block: int = 1, pan: tuple[int, int] = (0, 0)) -> Batch:
    """Clips of things that move over ground that rests or pans; the truth in every block, that of its middle pixel."""
    t, h, w = frames_of(grid)
    batch = blank(clips, grid, block)
    velocity = torch.empty(2, t, h, w)
    velocity[0], velocity[1] = pan
    for thing in things:
        for frame in range(t):
            velocity[(slice(None), frame, *thing.at(frame))] = torch.tensor([thing.right, thing.down]).view(2, 1, 1)
    blocks = velocity[:, :, block // 2 :: block, block // 2 :: block].expand(clips, -1, -1, -1, -1)
    had = torch.ones(clips, *blocks.shape[2:], dtype=torch.bool)
    has = had.clone()
    had[:, 0], has[:, -1] = False, False
    motion = Motion(-blocks * had.unsqueeze(1), blocks * has.unsqueeze(1), had, has, block)
    return replace(batch, motion=motion)


def drawn(masker, batch: Batch, grid: Grid = CLIP, seed: int = 0, step: int = 0, places=None) -> TokenMask:
    return masker(batch, grid, Draws(seed, step, range(len(batch.ids)) if places is None else places))


def slots(mask: TokenMask) -> torch.Tensor:
    """Hidden places as "b T H W"."""
    grid = mask.grid
    return mask.hidden.view(-1, grid.T, grid.H, grid.W)


def tokens_of(thing: Thing, grid: Grid) -> torch.Tensor:
    """True where a token has a pixel of the thing, "T H W", pixel by pixel."""
    t, h, w = frames_of(grid)
    there = torch.zeros(t, h, w, dtype=torch.bool)
    for frame in range(t):
        there[(frame, *thing.at(frame))] = True
    pt, ph, pw = grid.patch
    return there.view(grid.T, pt, grid.H, ph, grid.W, pw).permute(0, 2, 4, 1, 3, 5).flatten(3).any(3)


# ---------------------------------------------------------------------------- laws of all


@st.composite
def cases(draw):
    """A grid, a block size that need not divide its tokens, and a number of places to hide in a slot."""
    patch = draw(st.integers(1, 2)), draw(st.integers(2, 6)), draw(st.integers(2, 6))
    grid = Grid(draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(2, 7)), patch)
    return grid, draw(st.integers(1, 9)), draw(st.integers(1, grid.slot - 1))


@settings(max_examples=60)
@given(
    case=cases(),
    masker=st.sampled_from(MASKERS),
    jitter=st.floats(0, 5),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**6),
)
def test_every_slot_hides_the_same_number_whatever_moves(case, masker, jitter, seed, step):
    grid, block, hidden = case
    if hasattr(masker, "jitter"):
        masker = replace(masker, jitter=jitter)
    shift = -0.5 if isinstance(masker, FlowWarp) else 0.5  # that one truncates what is shown, the others what is hidden
    masker = replace(masker, ratio=(hidden + shift) / grid.slot)
    mask = drawn(masker, wild(3, grid, block, seed), grid, seed, step)
    assert (slots(mask).sum((2, 3)) == hidden).all()
    for visible, predicted in zip(mask.visible.tolist(), mask.predict.tolist()):
        assert visible == sorted(set(visible))
        assert predicted == sorted(set(predicted))
        assert sorted(visible + predicted) == list(range(grid.tokens))
    assert mask.scored.all()


@pytest.mark.parametrize("masker", MASKERS, ids=str)
def test_a_mask_is_the_same_however_the_batch_is_cut(masker):
    grid = Grid(4, 6, 6, (2, 8, 8))
    batch = wild(7, grid, 5, 3)
    whole = drawn(masker, batch, grid, 1, 2)
    parts = [drawn(masker, batch.clips(a, b), grid, 1, 2, range(a, b)) for a, b in ((0, 1), (1, 5), (5, 7))]
    assert torch.equal(whole.visible, torch.cat([part.visible for part in parts]))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in a step
        assert torch.equal(whole.visible, drawn(masker, batch, grid, 1, 2).visible)
    for other in ((2, 2), (1, 3)):
        assert not torch.equal(whole.visible, drawn(masker, batch, grid, *other).visible)
    assert len({tuple(row) for row in whole.visible.tolist()}) > 1, "clips of a batch must not share a mask"


@pytest.mark.parametrize("masker", [m for m in MASKERS if isinstance(m, MotionBox | FlowWarp)], ids=str)
def test_what_stands_where_nothing_is_known_is_not_read(masker):
    grid = Grid(4, 6, 6, (2, 8, 8))
    batch = wild(3, grid, 8, 4)
    m = batch.motion
    lies = replace(
        m,
        to_previous=torch.where(m.had.unsqueeze(1), m.to_previous, 1e6),
        to_next=torch.where(m.has.unsqueeze(1), m.to_next, 1e6),
    )
    assert torch.equal(drawn(masker, batch, grid).visible, drawn(masker, replace(batch, motion=lies), grid).visible)


@pytest.mark.parametrize("masker", [MotionBox(), FlowWarp()])
def test_clips_without_motion_or_with_that_of_others_are_named(masker):
    name = type(masker).__name__
    with pytest.raises(ValueError, match=f"mask {name} follows motion.*data.motion"):
        drawn(masker, replace(blank(1), motion=None))
    with pytest.raises(ValueError, match=rf"{name} got motion of \(16, 14, 14\).*224x224.*\(16, 28, 28\) blocks of 8"):
        drawn(masker, replace(blank(1), motion=replace(blank(1, block=16).motion, block=8)))


@pytest.mark.parametrize("masker", MASKERS[:7], ids=str)
def test_impossible_ratios_are_named(masker):
    for ratio in (0.0, 1.0, math.nan, 0.9999 if isinstance(masker, FlowWarp) else 0.001):
        with pytest.raises(ValueError, match=f"mask ratio {ratio:g}"):
            drawn(replace(masker, ratio=ratio), blank(1))


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_distances_that_are_none_are_named(wrong):
    for masker, name in (
        (MotionBox(jitter=wrong), "jitter"),
        (SimulatedBox(jitter=wrong), "jitter"),
        (SimulatedBox(velocity=wrong), "velocity"),
    ):
        with pytest.raises(ValueError, match=f"mask {name} {wrong:g}: it must be 0 or more"):
            drawn(masker, blank(1))


@pytest.mark.parametrize("places", [2, 3, 4, 10, 49, 196, 256])
def test_the_highest_ratio_that_the_message_advises_works(places):
    """What is shown is truncated, so there is less room than for masks that truncate what is hidden."""
    grid = Grid(1, 1, places, (1, 1, 1))
    with pytest.raises(ValueError, match="shows 0 of") as caught:
        FlowWarp(1 - 0.9 / places).shown(grid)
    assert FlowWarp(float(str(caught.value).split(" to ")[1])).shown(grid) == 1


@pytest.mark.parametrize(
    ("places", "ratio", "shown"), [(20, 0.9, 2), (100, 0.9, 10), (20, 0.8, 4), (196, 0.9, 19), (48, 0.9, 4)]
)
def test_what_is_shown_does_not_depend_on_the_last_bits_of_a_ratio(places, ratio, shown):
    assert FlowWarp(ratio).shown(Grid(1, 1, places, (1, 1, 1))) == shown


@settings(max_examples=30)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_speeds_are_the_largest_of_a_cubes_pixels(case, seed):
    grid, block, _ = case
    motion = wild(2, grid, block, seed).motion
    got = speeds(motion, grid).view(2, grid.T, grid.H, grid.W).numpy()
    pt, ph, pw = grid.patch
    speed = np.sqrt((motion.to_previous.numpy() ** 2).sum(1))
    right = np.full(got.shape, -np.inf)
    t, h, w = frames_of(grid)
    for frame in range(t):
        for y in range(h):
            for x in range(w):
                where = slice(None), frame // pt, y // ph, x // pw
                here = slice(None), frame, y // block, x // block
                known = np.where(motion.had.numpy()[here], speed[here], -np.inf)
                right[where] = np.maximum(right[where], known)
    np.testing.assert_allclose(got, right, rtol=1e-5)


# ---------------------------------------------------------------------------- boxes

BALL = Thing(40, 50, 40, 40, 6, 4)


@pytest.mark.parametrize("block", [4, 8, 12, 16])
def test_the_box_hides_what_moves(block):
    batch = moved([BALL], CLIP, clips=64, block=block)
    thing = tokens_of(BALL, CLIP)
    share = {}
    for name, masker in (("box", MotionBox(0.75)), ("sparse", MotionBox(0.75, sparse=True)), ("random", Random(0.75))):
        hidden = slots(drawn(masker, batch)) & thing
        share[name] = (hidden.sum() / (64 * thing.sum())).item()
    assert share["box"] > 0.95  # its first slot, which lies anywhere, included
    assert share["sparse"] > 0.85  # with blocks of a token's size the thing's rim may pass for ground
    assert share["random"] == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("thing", [Thing(4, 4, 32, 32, 0, 3), Thing(188, 8, 32, 32, 0, 6)], ids=["corner", "bottom"])
def test_at_the_rim_only_a_box_that_is_led_hides_what_moves(thing):
    """At 0.75 any box holds the middle of the picture; what tells them apart moves along its edge."""
    batch, places = moved([thing], CLIP, clips=64, block=8), tokens_of(thing, CLIP)
    share = {}
    for masker in (MotionBox(0.75), MotionBox(0.75, jitter=0.0), SimulatedBox(0.75), Block(0.75)):
        hidden = (slots(drawn(masker, batch)) & places)[:, 1:]  # the first slot's box lies anywhere
        share[masker] = (hidden.sum() / (64 * places[..., 1:, :, :].sum())).item()
    assert share[MotionBox(0.75)] > 0.95
    assert share[MotionBox(0.75, jitter=0.0)] > 0.99
    assert max(share[SimulatedBox(0.75)], share[Block(0.75)]) < 0.75


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_a_small_box_lies_on_what_moves(jitter):
    batch = moved([BALL], CLIP, clips=16, block=8)
    hidden = slots(drawn(MotionBox(0.25, jitter), batch)).float()
    places = torch.stack(torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij"))
    middle = (hidden.unsqueeze(2) * places).sum((3, 4)) / 49
    for slot in range(1, 8):
        first, second = (torch.tensor([50 + 20 + f * 4, 40 + 20 + f * 6]) / 16 - 0.5 for f in (2 * slot, 2 * slot + 1))
        assert (middle[:, slot] - (first + second) / 2).abs().max() <= 1


def test_the_first_slot_lies_anywhere():
    hidden = slots(drawn(MotionBox(0.25, jitter=0.0), moved([BALL], CLIP, clips=400, block=8)))[:, 0]
    corners = {(int(place.any(1).int().argmax()), int(place.any(0).int().argmax())) for place in hidden}
    assert len(corners) > 60  # of 8 x 8, 400 draws
    assert corners <= {(y, x) for y in range(8) for x in range(8)}


@pytest.mark.parametrize("kind", ["still", "unknown", "shaking"])
def test_where_nothing_moves_the_box_stays_where_it_was_drawn(kind):
    batch = blank(50) if kind == "unknown" else moved([], CLIP, clips=50, block=8)
    if kind == "shaking":  # below what an encoder or an estimator can tell
        batch = replace(
            batch, motion=replace(batch.motion, to_previous=torch.full_like(batch.motion.to_previous, 0.02))
        )
    for masker in (MotionBox(0.25, jitter=0.0), MotionBox(sparse=True)):
        hidden = slots(drawn(masker, batch))
        assert (hidden == hidden[:, :1]).all()
        assert len({tuple(clip.flatten().tolist()) for clip in hidden[:, 0]}) > 25


def test_a_slot_of_which_nothing_is_known_keeps_the_box():
    batch = moved([BALL], CLIP, clips=8, block=8)
    had = batch.motion.had.clone()
    had[:, 8:12] = False  # slots 4 and 5
    for masker in (MotionBox(0.25, jitter=0.0), MotionBox(0.25, sparse=True)):
        whole = slots(drawn(masker, batch))
        gap = slots(drawn(masker, replace(batch, motion=replace(batch.motion, had=had))))
        assert torch.equal(gap[:, 4], whole[:, 3])
        assert torch.equal(gap[:, 5], whole[:, 3])
        assert torch.equal(gap[:, 6:], whole[:, 6:])
        assert not torch.equal(gap[:, 4], whole[:, 4])


def test_where_everything_moves_the_box_is_in_the_middle():
    hidden = slots(drawn(MotionBox(0.25, jitter=0.0), moved([], CLIP, clips=8, block=8, pan=(5, 0))))
    assert (hidden[:, 1:, 3:11, 3:11].sum((2, 3)) == 49).all()


def test_the_faster_of_two_is_hidden():
    slow = Thing(150, 150, 40, 40, -2, 0)
    hidden = slots(drawn(MotionBox(0.25), moved([BALL, slow], CLIP, clips=8, block=8)))[:, 1:]
    fast, other = (tokens_of(thing, CLIP)[1:] for thing in (BALL, slow))
    assert (hidden & fast).sum() > 0.95 * 8 * fast.sum()
    assert (hidden & other).sum() < 0.5 * 8 * other.sum()


def test_of_two_that_are_equally_fast_one_is_hidden_not_what_lies_between():
    pair = Thing(20, 96, 32, 32, 0, 2), Thing(172, 96, 32, 32, 0, -2)
    hidden = slots(drawn(MotionBox(0.1, jitter=0.0), moved(list(pair), CLIP, clips=4, block=8)))[:, 1:]
    shares = [(hidden & tokens_of(thing, CLIP)[1:]).sum() / (4 * tokens_of(thing, CLIP)[1:].sum()) for thing in pair]
    assert max(shares) > 0.5  # its near side: the box is no larger than it
    assert min(shares) == 0


def test_a_box_at_the_edge_is_shifted_not_cut():
    corner = Thing(0, 0, 32, 32, 3, 3)
    grid = Grid(2, 14, 14)
    hidden = slots(drawn(MotionBox(0.25, jitter=0.0), moved([corner], grid, clips=4, block=8), grid))
    assert hidden[:, 1, :7, :7].all()


@settings(max_examples=40)
@given(
    jitter=st.floats(0, 20),
    ratio=st.floats(0.05, 0.95),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 14), st.integers(2, 14)),
    seed=st.integers(0, 2**31),
)
def test_jitter_sums_to_zero_and_boxes_stay_inside(jitter, ratio, shape, seed):
    grid = Grid(*shape)
    for axes in (1, 2):
        uniform = Draws(seed, 0, range(5)).uniform(grid.T, axes)
        change = swings(jitter, uniform)
        assert change.sum(1).abs().max() < 1e-9 * (1 + jitter)
        assert change.abs().max() <= 2 * jitter
        free, size = box_sizes(ratio, grid, jitter, uniform)
        assert (free >= 0).all()
        assert (size >= 1).all()
        corner = torch.from_numpy(np.random.default_rng(seed).integers(-30, 30, (5, grid.T, 2)))
        placed = inside(corner, size, grid)
        assert (placed >= 0).all()
        assert (placed + size <= limits(grid)).all()
        fits = ((corner >= 0) & (corner + size <= limits(grid))).all(2)
        assert torch.equal(placed[fits], corner[fits])


def test_both_sides_of_a_box_are_jittered_for_themselves_in_mgm_together_in_smm():
    uniform = Draws(0, 0, range(40)).uniform(8, 2)
    assert swings(1.0, uniform)[..., 0].sub(swings(1.0, uniform)[..., 1]).abs().max() > 0.5
    apart = {}
    for masker in (MotionBox(0.25, jitter=0.0), MotionBox(0.25, jitter=2.0), SimulatedBox(0.25, jitter=2.0)):
        hidden = slots(drawn(masker, blank(60)))
        apart[type(masker), masker.jitter] = (hidden.any(3).sum(2) - hidden.any(2).sum(2)).abs().max()
    assert apart[MotionBox, 0.0] == 0
    assert apart[MotionBox, 2.0] > 3
    assert apart[SimulatedBox, 2.0] <= 3  # what tops up a small square lies on three sides of it at an edge


def test_the_simulated_box_goes_straight_and_is_thrown_back():
    """At ratio 1/4 and without jitter it is 7x7 exactly, so its corner can be read off; a bounce shows as a turn."""
    masker = SimulatedBox(0.25, velocity=1.5, jitter=0.0)
    hidden = slots(drawn(masker, blank(200)))
    rows, columns = hidden.any(3), hidden.any(2)
    assert (rows.sum(2) == 7).all()
    assert (columns.sum(2) == 7).all()
    turns = 0
    for edge in (rows, columns):
        corner = edge.int().argmax(2)  # "b T"
        assert corner.min() == 0
        assert corner.max() == 7
        steps = corner.diff(dim=1)
        assert steps.abs().max() <= 2
        turns += ((steps.amax(1) > 0) & (steps.amin(1) < 0)).sum().item()
        assert (steps > 0).sum() == pytest.approx((steps < 0).sum(), rel=0.25)
        resting = (steps == 0).all(1).float().mean()
        assert resting < 0.2
    assert 20 < turns < 300


def test_the_sparse_simulated_set_is_carried_round():
    masker = SimulatedBox(0.3, sparse=True)
    hidden = slots(drawn(masker, blank(30)))
    shifts = set()
    for clip in hidden:
        found = [
            [(y, x) for y in range(14) for x in range(14) if torch.equal(clip[0].roll((y, x), (0, 1)), clip[slot])]
            for slot in range(8)
        ]
        assert all(len(where) == 1 for where in found)
        (y, x), (last_y, last_x) = found[1][0], found[7][0]
        assert max(min(y, 14 - y), min(x, 14 - x)) <= 2
        for first, last in ((y, last_y), (x, last_x)):
            first = first - 14 if first > 7 else first
            assert min(abs((last - 7 * first + wrap) % 14) for wrap in (-4, -3, -2, -1, 0, 1, 2, 3, 4)) == 0
        shifts.add((y, x))
    assert len(shifts) > 8


def test_sparse_places_are_drawn_in_proportion_to_motion():
    """One of four places, speeds 0, 1, 2 and 4: probabilities are those weights, plus the floor, over their sum."""
    grid, clips = Grid(2, 2, 2, (1, 4, 4)), 6000
    batch = blank(clips, grid, 4)
    m = batch.motion
    m.to_previous[:, 0, 1] = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    m.had[:, 1] = True
    hidden = slots(drawn(MotionBox(0.25, sparse=True), batch, grid)).float().mean(0).flatten(1)
    weight = torch.tensor([0.0, 0.25, 0.5, 1.0]) + 0.05
    torch.testing.assert_close(hidden[1], weight / weight.sum(), atol=0.02, rtol=0)
    torch.testing.assert_close(hidden[0], torch.full((4,), 0.25), atol=0.02, rtol=0)


@pytest.mark.parametrize("masker", [Block(0.25), Block(0.75)])
def test_a_block_is_one_box(masker):
    hidden = slots(drawn(masker, replace(blank(100), motion=None)))
    assert (hidden == hidden[:, :1]).all()
    side = round(math.sqrt(masker.ratio * 196))
    corners = set()
    for clip in hidden[:, 0]:
        inner = clip.unfold(0, side, 1).unfold(1, side, 1).flatten(2).all(2)
        assert inner.any(), "no full box"
        corners.add(int(inner.flatten().int().argmax()))
    assert len(corners) == (15 - side) ** 2 if masker.ratio == 0.75 else len(corners) > 40


def test_what_tops_up_a_box_and_what_is_drawn_singly_is_random():
    """Three places beside 12x12: any along its sides; single places: all equally often."""
    hidden = slots(drawn(Block(0.75), blank(600)))[:, 0]
    corner = hidden[hidden[:, 1:13, 1:13].all(2).all(1)]  # those whose box is in the middle
    seen = corner.float().mean(0)
    assert len(corner) > 30
    assert ((seen[0, 1:13] > 0) | (seen[13, 1:13] > 0)).sum() > 6
    assert seen[0].sum() > 0.3
    assert seen[13].sum() > 0.3
    for masker in (SimulatedBox(0.5, sparse=True), MotionBox(0.5, sparse=True)):
        often = slots(drawn(masker, blank(1500, Grid(2, 4, 4)), Grid(2, 4, 4)))[:, 0].float().mean(0)
        assert (often - 0.5).abs().max() < 0.07


# ---------------------------------------------------------------------------- what the flow carries


def test_without_motion_every_slot_shows_the_same_19_tokens():
    for masker in (FlowWarp(0.9), FlowWarp(0.9, initial="token"), FlowWarp(0.9, initial="pixel", base="random")):
        for batch in (blank(6), moved([], CLIP, clips=6, block=8)):
            hidden = slots(drawn(masker, batch)).flatten(2)
            assert (hidden == hidden[:, :1]).all()
            assert (~hidden).sum(2).unique().tolist() == [19]
    lit = FlowWarp(0.9, initial="token").start(CLIP, Draws(0, 0, range(6)), torch.device("cpu")) == 1
    shown = ~slots(drawn(FlowWarp(0.9, initial="token"), blank(6)))[:, 0]
    assert (lit.view(6, 14, 16, 14, 16).float().mean((2, 4)).sum((1, 2)) == 20).all()
    assert (lit.view(6, 14, 16, 14, 16).all(2).all(3) & shown).sum() == 6 * 19


def test_bells_are_the_formula():
    """Pixel by pixel: exp(-(dx^2 + dy^2) / 16^2) around 16 k + 7.5, the largest of 20, over the largest of all."""
    start = FlowWarp(0.9).start(CLIP, Draws(0, 0, range(2)), torch.device("cpu"))[:, 0].double().numpy()
    for clip, seed in enumerate(range(2)):
        token = Draws(0, 0, [seed]).uniform(196).argsort(dim=1)[0, :20].numpy()
        y, x = np.mgrid[:224, :224]
        right = np.max(
            [np.exp(-((x - (16 * (k % 14) + 7.5)) ** 2 + (y - (16 * (k // 14) + 7.5)) ** 2) / 16**2) for k in token], 0
        )
        np.testing.assert_allclose(start[clip], right / right.max(), atol=1e-6)


@dataclass(frozen=True)
class Marked(FlowWarp):
    """A map that is drawn by the test: 1 in the middle of each thing as it stands in the base frame."""

    things: tuple[Thing, ...] = ()
    at: int = 0

    def start(self, grid: Grid, draws: Draws, device: torch.device) -> torch.Tensor:
        return marks(self.things, grid, self.at).expand(len(draws.streams), -1, -1, -1)


def marks(things, grid: Grid, frame: int) -> torch.Tensor:
    """4x4 pixels in the middle of things of 12x12, as "1 1 h w"."""
    _, h, w = frames_of(grid)
    seen = torch.zeros(1, 1, h, w)
    for thing in things:
        rows, columns = thing.at(frame)
        seen[0, 0, rows.start + 4 : rows.stop - 4, columns.start + 4 : columns.stop - 4] = 1
    return seen


APART = (Thing(20, 4, 12, 12, 4, 0), Thing(90, 30, 12, 12, -3, 1))
LANE = Grid(4, 12, 28, (2, 4, 4))


@pytest.mark.parametrize(("base", "at"), [("first", 0), ("middle", 4)])
def test_the_map_goes_where_things_go_on_both_sides_of_the_base(base, at):
    """Two things in opposite directions: what is marked on each stays on it, to the pixel."""
    batch = moved(list(APART), LANE)
    maps = Marked(base=base, holes="none", things=APART, at=at).carried(batch.motion, LANE, Draws(0, 0, [0]))
    assert len(maps) == 8
    for frame, seen in enumerate(maps):
        torch.testing.assert_close(seen, marks(APART, LANE, frame), atol=1e-3, rtol=0)


def test_a_random_base_is_each_clips_own():
    batch = moved(list(APART), LANE, clips=20)
    for clip, base in enumerate(Draws(5, 0, range(20)).integers(8).tolist()):
        masker = Marked(base="random", holes="none", things=APART, at=base)
        maps = masker.carried(batch.motion, LANE, Draws(5, 0, range(20)))
        for frame in range(8):
            torch.testing.assert_close(maps[frame][clip : clip + 1], marks(APART, LANE, frame), atol=1e-3, rtol=0)


def test_as_released_the_map_goes_the_wrong_way_before_the_base():
    batch = moved(list(APART), LANE)
    masker = Marked(holes="none", things=APART, at=4, released=True)
    maps = masker.carried(batch.motion, LANE, Draws(0, 0, [0]))
    for frame in range(4, 8):
        torch.testing.assert_close(maps[frame], marks(APART, LANE, frame), atol=1e-3, rtol=0)
    torch.testing.assert_close(maps[3], marks(APART, LANE, 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("masker", [FlowWarp(0.9), FlowWarp(0.9, initial="token")])
def test_visible_tokens_ride_on_what_moves(masker):
    """Ground and all move one token per slot: the visible set of every slot is that of the one before, shifted."""
    batch = moved([], CLIP, clips=8, block=8, pan=(8, 0))
    shown = ~slots(drawn(masker, batch))
    for slot in range(4, 7):  # after the base; at the left edge new ground comes in
        here = shown[:, slot, :, 4:-1]
        assert (here & shown[:, slot + 1, :, 5:]).sum() > 0.85 * here.sum()
        assert (here & shown[:, slot + 1, :, 4:-1]).sum() < 0.5 * here.sum()
    for slot in range(3, 0, -1):  # before it; new ground comes in at the right
        here = shown[:, slot, :, 1:-4]
        assert (here & shown[:, slot - 1, :, :-5]).sum() > 0.7 * here.sum()


def test_holes_take_the_base_frames_map():
    """Everything leaves to the right by 4 pixels a frame; nothing comes in from the left."""
    batch = moved([], LANE, pan=(4, 0))
    for holes in ("base", "none"):
        masker = FlowWarp(base="first", initial="token", holes=holes)
        maps = masker.carried(batch.motion, LANE, Draws(0, 0, [0]))
        left = maps[3][..., :12]
        assert torch.equal(left == 0, torch.full_like(left, holes == "none", dtype=torch.bool))
        torch.testing.assert_close(maps[3][..., 12:], maps[0][..., :-12], atol=1e-3, rtol=0)
    assert maps[0].min() > 0


def test_the_best_of_the_clip_instead_of_every_slot():
    batch = moved([BALL], CLIP, clips=4, block=8)
    whole = drawn(FlowWarp(select="clip"), batch)
    assert whole.visible.shape == (4, 19 * 8)
    counts = (~slots(whole)).sum((2, 3))
    assert (counts.sum(1) == 152).all()
    assert (counts != 19).any()


def test_exposure_changes_one_slot():
    """Noise beside sums of hundreds: few tokens change, in one slot at most; beside pixels' it is plain."""
    grid = Grid(8, 14, 14, (2, 2, 2))
    plain = slots(drawn(FlowWarp(), blank(40, grid, 2), grid))
    noisy = slots(drawn(FlowWarp(exposure=True), blank(40, grid, 2), grid))
    changed = (plain != noisy).flatten(2).any(2)
    assert changed.sum(1).max() == 1
    assert changed.any(0).sum() > 4
    assert changed.any(1).float().mean() > 0.5
