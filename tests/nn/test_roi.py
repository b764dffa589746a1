"""Boxes and maps against torchvision, ONNX Runtime, loops over the definition, and integration by brute force.

torchvision_ops.npz is from torchvision 0.17.2 with torch 2.2.2 on a CPU, 2026-11-23, by tests/nn/torchvision_ops.py,
which says what is in it: torchvision cannot be imported beside the torch that tests run with.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from tubelet.nn.roi import iou, roi_align

THEIRS = np.load(Path(__file__).with_name("torchvision_ops.npz"))
BINS = {16: (7, 7), 8: (3, 2), 1: (2, 3)}
CASES = [*itertools.product(BINS, (0, 2), (False, True))]


def by_onnx(inputs: list[np.ndarray], settings: dict) -> list[np.ndarray]:
    """What ONNX Runtime's RoiAlign gives."""
    names = [f"in{place}" for place in range(len(inputs))]
    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, inputs)
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([helper.make_node("RoiAlign", names, ["out"], **settings)], "one", types, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs)))


def at(map_: np.ndarray, y: float, x: float) -> float:
    """A map between its pixels, by the definition: nothing beyond a pixel outside, the edge within."""
    height, width = map_.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    down, right = y - top, x - left
    bottom, beside = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = map_[top, left] * (1 - right) + map_[top, beside] * right
    lower = map_[bottom, left] * (1 - right) + map_[bottom, beside] * right
    return upper * (1 - down) + lower * down


def by_loops(map_: np.ndarray, box: np.ndarray, bins: tuple[int, int], scale: float, samples: int) -> np.ndarray:
    """One box of one channel, sample by sample; unaligned."""
    left, top, right, bottom = box * scale
    height, width = max(bottom - top, 1.0) / bins[0], max(right - left, 1.0) / bins[1]
    many = samples or math.ceil(height), samples or math.ceil(width)
    found = np.zeros(bins)
    for row, column in np.ndindex(*bins):
        for i, j in np.ndindex(*many):
            y = top + (row + (i + 0.5) / many[0]) * height
            x = left + (column + (j + 0.5) / many[1]) * width
            found[row, column] += at(map_, y, x) / (many[0] * many[1])
    return found


@pytest.mark.parametrize(("scale", "samples", "aligned"), CASES)
def test_it_is_torchvisions_with_its_gradient(scale, samples, aligned):
    """Of boxes on the border, outside, without an area, tiny, of the whole picture, and reversed."""
    name = f"{scale}_{samples}_{int(aligned)}"
    maps = torch.tensor(THEIRS["maps"], requires_grad=True)
    expected = THEIRS[f"out_{name}"]
    corners = torch.tensor(THEIRS["boxes"][: len(expected)]) * (scale / 16)
    which = torch.arange(len(corners)) % 2
    found = roi_align(maps, corners, which, BINS[scale], (1 / scale, 1 / scale), samples, aligned)
    (found * torch.cos(torch.arange(found.numel())).view(found.shape)).sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(maps.grad.numpy(), THEIRS[f"grad_{name}"], rtol=0, atol=5e-6)


def test_more_than_a_hundred_boxes_are_torchvisions():
    many = torch.tensor(THEIRS["many"])
    assert len(many) > 100
    maps, which = torch.tensor(THEIRS["maps"]), torch.arange(len(many)) % 2
    found = roi_align(maps, many, which, (2, 2), (1 / 16, 1 / 16))
    np.testing.assert_allclose(found.numpy(), THEIRS["out_many"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("scale", "samples", "aligned"), CASES)
def test_it_is_onnx_runtimes(scale, samples, aligned):
    rng = np.random.default_rng(scale + samples)
    maps = rng.normal(size=(3, 2, 6, 9)).astype(np.float32)
    low = rng.uniform(-2, 7, (20, 2)) * scale
    corners = np.concatenate([low, low + rng.uniform(0.5, 6, (20, 2)) * scale], 1).astype(np.float32)
    which = rng.integers(0, 3, 20)
    mode = "half_pixel" if aligned else "output_half_pixel"
    settings = {"output_height": 4, "output_width": 3, "sampling_ratio": samples, "spatial_scale": 1 / scale}
    (theirs,) = by_onnx([maps, corners, which], settings | {"coordinate_transformation_mode": mode})
    ours = roi_align(
        torch.tensor(maps), torch.tensor(corners), torch.tensor(which), (4, 3), (1 / scale,) * 2, samples, aligned
    )
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_it_is_the_definition_sample_by_sample(samples):
    rng = np.random.default_rng(samples)
    maps = rng.normal(size=(1, 1, 5, 7))
    low = rng.uniform(-30, 100, (12, 2))
    corners = np.concatenate([low, low + rng.uniform(0, 120, (12, 2))], 1)
    found = roi_align(
        torch.tensor(maps), torch.tensor(corners), torch.zeros(12).long(), (3, 2), (1 / 16, 1 / 16), samples
    )
    for box, ours in zip(corners, found):
        np.testing.assert_allclose(ours[0].numpy(), by_loops(maps[0, 0], box, (3, 2), 1 / 16, samples), atol=1e-12)


def test_many_samples_approach_the_integral_over_each_bin():
    """A fine sum over the bilinear surface, whose value does not depend on where samples are taken."""
    rng = np.random.default_rng(5)
    surface = rng.normal(size=(6, 8))
    boxes = np.array([[0.3, 0.9, 6.1, 4.4], [2.2, 1.1, 5.9, 5.0]])
    maps, which = torch.tensor(surface)[None, None], torch.zeros(2).long()
    fine, rough = (roi_align(maps, torch.tensor(boxes), which, (2, 3), samples=n)[:, 0].numpy() for n in (60, 2))
    for box, found, far in zip(boxes, fine, rough):
        expected = by_loops(surface, box, (2, 3), 1.0, 101)
        assert np.abs(found - expected).max() < 1e-3
        assert np.abs(found - expected).max() < np.abs(far - expected).max() / 10


def test_each_axis_has_its_own_scale():
    maps = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    corners, which = torch.tensor([[4.0, 6.0, 20.0, 30.0]], dtype=torch.float64), torch.zeros(1).long()
    stretched = roi_align(maps, corners, which, (2, 2), (1 / 8, 1 / 4))
    plain = roi_align(maps, corners / torch.tensor([4.0, 8.0, 4.0, 8.0]), which, (2, 2))
    torch.testing.assert_close(stretched, plain)


def test_its_gradient_is_that_of_finite_differences():
    corners = torch.tensor([[-8.0, 3, 40, 30], [10, 10, 12, 90], [50, 50, 200, 200]], dtype=torch.float64)
    maps = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    which = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda one: roi_align(one, corners, which, (2, 3), (1 / 16, 1 / 16)), maps)


def test_boxes_of_several_maps_may_stand_in_any_order():
    maps, corners = torch.randn(3, 2, 5, 5), torch.rand(8, 4) * 40 + torch.tensor([0, 0, 40, 40])
    which = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0])
    together = roi_align(maps, corners, which, (2, 2), (1 / 16, 1 / 16))
    for box, (corner, of) in enumerate(zip(corners, which)):
        alone = roi_align(maps[of : of + 1], corner[None], torch.zeros(1).long(), (2, 2), (1 / 16, 1 / 16))
        torch.testing.assert_close(together[box], alone[0])


def test_no_boxes_are_no_features_and_no_gradient():
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = roi_align(maps, torch.zeros(0, 4), torch.zeros(0).long(), (7, 7))
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


def test_it_is_computed_in_float32_under_autocast():
    maps, corners = torch.randn(1, 2, 6, 6), torch.tensor([[3.0, 5, 70, 80]])
    plain = roi_align(maps, corners, torch.zeros(1).long(), (3, 3), (1 / 16, 1 / 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(maps, corners, torch.zeros(1).long(), (3, 3), (1 / 16, 1 / 16)), plain)


def test_overlaps_are_torchvisions():
    near = torch.tensor(THEIRS["near"])
    np.testing.assert_allclose(iou(near, near[:25]).numpy(), THEIRS["iou"], rtol=1e-6, atol=0)


def test_overlaps_are_those_of_counted_pixels():
    rng = np.random.default_rng(2)
    low = rng.integers(0, 12, (15, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 9, (15, 2))], 1)
    masks = np.zeros((15, 24, 24), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = True
    shared = (masks[:, None] & masks).sum((2, 3))
    together = (masks[:, None] | masks).sum((2, 3))
    expected = np.where(together > 0, shared / np.maximum(together, 1), 0)
    found = iou(torch.tensor(boxes).double(), torch.tensor(boxes).double())
    np.testing.assert_allclose(found.numpy(), expected)
    assert (together == 0).any()
