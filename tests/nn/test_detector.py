"""The network of action detection, and encoders on grids of other sizes than their own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tubelet.nn.detector import AttentivePool, Detector, stacked
from tubelet.nn.patches import sinusoid
from tubelet.nn.rotary import rotations
from tubelet.nn.vit import SIZES, Encoder
from tubelet.plan import size
from tubelet.types import Boxes, Grid

SHAPE = Encoder(width=24, depth=2, heads=2, hidden=40, patch=(2, 8, 8))
GRID = Grid(3, 4, 5, (2, 8, 8))
WIDE = Grid(3, 4, 9, (2, 8, 8))
BOXES = torch.tensor([[0.0, 0, 40, 32], [5, 3, 20, 30], [30, 20, 38, 31], [8, 8, 9, 9]])
TABLES = ["index", "axes", "plane", "learned"]
WHICH = torch.tensor([0, 0, 1, 1])


def a_detector(pool="max", shape=SHAPE) -> Detector:
    torch.manual_seed(0)
    network = Detector(shape.build(GRID, 3), 5, pool=pool, heads=shape.heads)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def patches_of(grid: Grid, clips: int = 2) -> torch.Tensor:
    return torch.randn(clips, grid.tokens, math.prod(grid.patch) * 3, generator=torch.Generator().manual_seed(1))


def at(surface: np.ndarray, y: float, x: float) -> np.ndarray:
    """A map "h w d" between its pixels."""
    height, width, _ = surface.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(surface.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    down = np.maximum(0, 1 - np.abs(np.arange(height) - y))
    right = np.maximum(0, 1 - np.abs(np.arange(width) - x))
    return np.einsum("h,w,hwd->d", down, right, surface)


def pooled(surface: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """RoIAlign to 7x7 of a map "h w d", and the largest of each channel, in loops."""
    left, top, right, bottom = box / side
    height, width = max(bottom - top, 1) / 7, max(right - left, 1) / 7
    many = math.ceil(height), math.ceil(width)
    bins = []
    for row, column in np.ndindex(7, 7):
        ys = [top + (row + (i + 0.5) / many[0]) * height for i in range(many[0])]
        xs = [left + (column + (j + 0.5) / many[1]) * width for j in range(many[1])]
        bins.append(np.mean([at(surface, y, x) for y in ys for x in xs], axis=0))
    return np.max(bins, axis=0)


@torch.no_grad()
def test_it_averages_over_time_aligns_takes_the_largest_and_a_linear_layer():
    network, patches = a_detector(), patches_of(GRID)
    maps = network.encoder(patches).unflatten(1, (3, 4, 5)).mean(1).double().numpy()
    features = np.stack([pooled(maps[of], box, 8) for box, of in zip(BOXES.double().numpy(), WHICH)])
    expected = features @ network.head.weight.double().numpy().T + network.head.bias.double().numpy()
    np.testing.assert_allclose(network(patches, BOXES, WHICH).numpy(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_attentive_pooling_asks_all_bins_of_all_times():
    """With the attention written out: one query, whose answer is added to the mean."""
    network, patches = a_detector("attentive"), patches_of(GRID)
    tokens = network.encoder(patches).unflatten(1, (3, 4, 5)).double()
    pool = network.pool.double()
    heads, width = 2, 24
    features = network.double().features(patches.double(), BOXES.double(), WHICH)
    for box, of, found in zip(BOXES.double().numpy(), WHICH, features):
        bins = []
        left, top, right, bottom = box / 8
        for slot in tokens[of].numpy():
            for row, column in np.ndindex(7, 7):
                height, across = max(bottom - top, 1) / 7, max(right - left, 1) / 7
                bins.append(at(slot, top + (row + 0.5) * height, left + (column + 0.5) * across))
        seen = F.layer_norm(torch.tensor(np.stack(bins)), (width,), pool.norm.weight, pool.norm.bias, 1e-6)
        seen = seen + pool.place
        query = F.linear(pool.query, pool.attn.q.weight, pool.attn.q.bias).view(heads, -1)
        keys, values = (seen @ part.T for part in pool.attn.kv.weight.chunk(2))
        keys, values = keys.view(-1, heads, width // heads), (values + pool.attn.v_bias).view(-1, heads, width // heads)
        weights = torch.einsum("hc,mhc->hm", query, keys).div(math.sqrt(width // heads)).softmax(1)
        answer = torch.einsum("hm,mhc->hc", weights, values).flatten()
        expected = seen.mean(0) + F.linear(answer, pool.attn.proj.weight, pool.attn.proj.bias)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["max", "attentive"])
def test_boxes_do_not_see_each_other(pool):
    network, patches = a_detector(pool), patches_of(GRID)
    together = network(patches, BOXES, WHICH)
    turn = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(patches, BOXES[turn], WHICH[turn]), together[turn], rtol=0, atol=1e-6)
    for box, of, found in zip(BOXES, WHICH, together):
        alone = network(patches[of : of + 1], box[None], torch.zeros(1).long())
        torch.testing.assert_close(alone[0], found, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["max", "attentive"])
def test_more_than_a_hundred_boxes_have_their_logits(pool):
    network, patches = a_detector(pool), patches_of(GRID)
    low = torch.rand(150, 2, generator=torch.Generator().manual_seed(2)) * 20
    found = network(patches, torch.cat([low, low + 12], 1), torch.arange(150) // 75)
    assert found.shape == (150, 5)
    assert found.isfinite().all()
    assert len(found.unique(dim=0)) == 150


@pytest.mark.parametrize("pool", ["max", "attentive"])
def test_no_boxes_have_no_logits_and_give_every_parameter_a_gradient_of_zero(pool):
    network = a_detector(pool).train()
    found = network(patches_of(GRID), torch.zeros(0, 4), torch.zeros(0).long())
    assert found.shape == (0, 5)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())


def test_the_head_begins_as_that_of_the_released_model():
    torch.manual_seed(0)
    head = Detector(SHAPE.build(GRID, 3), 2000).head
    assert float(head.weight.detach().std()) == pytest.approx(2e-5, rel=0.02)
    assert not head.bias.any()


def test_it_has_the_parameters_of_the_released_model():
    """ViT-B with its last norm and 80 outputs: 86,227,200 and 768 x 80 + 80."""
    with torch.device("meta"):
        assert size(Detector(SIZES["b"].build(Grid(8, 14, 14), 3), 80)) == 86_227_200 + 61_520


def test_boxes_of_clips_are_put_one_after_the_other():
    clips = [Boxes(torch.ones(2, 4)), Boxes(torch.zeros(0, 4)), Boxes(torch.full((1, 4), 3.0))]
    corners, which = stacked(clips)
    assert which.tolist() == [0, 0, 2]
    assert corners[:, 0].tolist() == [1, 1, 3]
    assert stacked(clips[1:2])[0].shape == (0, 4)


def test_an_attentive_pool_starts_near_the_mean_and_reaches_all_its_parameters():
    torch.manual_seed(0)
    pool = AttentivePool(12, 3, 6)
    pool(torch.randn(4, 6, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in pool.parameters())


# ---------------------------------------------------------------------------- other grids


@torch.no_grad()
@pytest.mark.parametrize(
    ("position", "attention"),
    [*((position, "joint") for position in [*TABLES, "rotary"]), *((position, "divided") for position in TABLES)],
)
def test_its_own_grid_said_is_its_own_grid(position, attention):
    shape = Encoder(24, 2, 2, 40, (2, 8, 8), position, attention)
    torch.manual_seed(0)
    encoder, patches = shape.build(GRID, 3).eval(), patches_of(GRID)
    assert torch.equal(encoder(patches, grid=GRID), encoder(patches))
    wide = encoder(patches_of(WIDE), grid=WIDE)
    assert wide.shape == (2, WIDE.tokens, 24)
    assert wide.isfinite().all()


def table_of(encoder: nn.Module, grid: Grid) -> torch.Tensor:
    """What is added to tokens: the output of an encoder without blocks and norm, for patches of nothing."""
    encoder.blocks, encoder.norm = nn.ModuleList(), nn.Identity()
    patches = torch.zeros(1, grid.tokens, encoder.embed.in_features)
    return (encoder(patches, grid=grid) - encoder.embed.bias)[0].detach()


@pytest.mark.parametrize("new", [(3, 4, 9), (3, 7, 5), (3, 2, 3)])
@pytest.mark.parametrize("position", ["index", "learned"])
def test_tables_are_interpolated_slot_by_slot(position, new):
    """VideoMAE-Action-Detection's rule for its sinusoid, bicubic without aligned corners; ours for learnt ones too."""
    encoder = Encoder(24, 1, 2, 40, (2, 8, 8), position).build(GRID, 3)
    own = sinusoid(GRID.tokens, 24)
    if position == "learned":
        own = (encoder.position.slot[:, None] + encoder.position.place).flatten(0, 1).detach()
    slots = []
    for slot in own.view(3, 4, 5, 24):
        picture = slot.permute(2, 0, 1)[None]
        picture = F.interpolate(picture, size=new[1:], mode="bicubic", align_corners=False)
        slots.append(picture[0].permute(1, 2, 0).reshape(-1, 24))
    found = table_of(encoder, Grid(*new, (2, 8, 8)))
    torch.testing.assert_close(found, torch.cat(slots), rtol=0, atol=1e-5)


@torch.no_grad()
def test_rotary_places_are_counted_on():
    """An encoder that was made for the other grid gives the same."""
    shape = Encoder(24, 2, 2, 40, (2, 8, 8), "rotary")
    torch.manual_seed(0)
    own, made = shape.build(GRID, 3).eval(), shape.build(WIDE, 3).eval()
    made.load_state_dict(own.state_dict())
    patches = patches_of(WIDE)
    torch.testing.assert_close(own(patches, grid=WIDE), made(patches))
    assert torch.equal(own.position.on(GRID, WIDE)[:, 0, 0], rotations(WIDE, 12))


@torch.no_grad()
def test_divided_attention_looks_at_places_and_slots_of_the_other_grid():
    """An encoder that was made for it gives the same, once its table is the interpolated one."""
    shape = Encoder(24, 2, 2, 40, (2, 8, 8), attention="divided")
    torch.manual_seed(0)
    own, made = shape.build(GRID, 3).eval(), shape.build(WIDE, 3).eval()
    for name, parameter in own.named_parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
        made.get_parameter(name).copy_(parameter)
    made.position.fixed = own.position.on(GRID, WIDE)
    patches = patches_of(WIDE)
    torch.testing.assert_close(own(patches, grid=WIDE), made(patches), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["max", "attentive"])
def test_a_whole_frame_of_any_shape_is_looked_at(pool):
    """As of 256 x 464 pixels: 16 x 29 cubes of 16."""
    shape = Encoder(24, 1, 2, 40, (2, 16, 16))
    network = Detector(shape.build(Grid(2, 14, 14), 3), 3, pool=pool, heads=2).eval()
    grid = Grid.of(4, 256, 464, (2, 16, 16))
    assert (grid.H, grid.W) == (16, 29)
    corners = torch.tensor([[0.0, 0, 464, 256], [300, 40, 460, 250]])
    patches = patches_of(grid, 1)
    found = network(patches, corners, torch.zeros(2).long(), grid)
    assert found.shape == (2, 3)
    moved = patches.view(1, 2, 16, 29, -1).clone()
    moved[:, :, :, :10] += 3  # far from the second box: only attention carries it there
    network.encoder.blocks = nn.ModuleList()
    plain = network(patches, corners, torch.zeros(2).long(), grid)
    other = network(moved.view(patches.shape), corners, torch.zeros(2).long(), grid)
    torch.testing.assert_close(plain[1], other[1])
    assert (plain[0] - other[0]).abs().max() > 1e-6
