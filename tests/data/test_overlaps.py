"""Overlaps against counted pixels, suppression against OpenCV and torchvision (nn/torchvision_ops.py)."""

from pathlib import Path

import numpy as np
import pytest

from tubelet.data.overlaps import cover, iou, nms, shared, touching

THEIRS = np.load(Path(__file__).parents[1] / "nn" / "torchvision_ops.npz")


def test_overlaps_are_those_of_counted_pixels():
    rng = np.random.default_rng(2)
    low = rng.integers(0, 12, (15, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 9, (15, 2))], 1)
    masks = np.zeros((15, 24, 24), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = True
    boxes = boxes.astype(np.float64)
    both, sizes = (masks[:, None] & masks).sum((2, 3)), masks.sum((1, 2))
    together, smaller = sizes[:, None] + sizes - both, np.minimum(sizes[:, None], sizes)
    assert (together == 0).any()
    np.testing.assert_array_equal(shared(boxes, boxes), both)
    np.testing.assert_allclose(iou(boxes, boxes), np.where(together > 0, both / np.maximum(together, 1), 0))
    np.testing.assert_allclose(cover(boxes, boxes), np.where(smaller > 0, both / np.maximum(smaller, 1), 0))
    assert [[touching(tuple(a), tuple(b)) for b in boxes.tolist()] for a in boxes.tolist()] == (both > 0).tolist()


@pytest.mark.parametrize("most", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_the_same_boxes_are_kept_as_by_torchvision(most):
    """Among them boxes of equal scores, and equal boxes."""
    assert nms(THEIRS["near"], THEIRS["scores"], most).tolist() == THEIRS[f"kept_{most}"].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_suppression_is_that_of_opencv(seed):
    import cv2

    rng = np.random.default_rng(seed)
    low, sides = rng.uniform(0, 80, (60, 2)), rng.uniform(5, 40, (60, 2))
    corners, scores = np.concatenate([low, low + sides], axis=1), (rng.permutation(60) + 1) / 60
    kept = cv2.dnn.NMSBoxes(np.concatenate([low, sides], axis=1), scores.astype(np.float32), 0.0, 0.45)
    assert nms(corners, scores, 0.45).tolist() == list(kept)


def test_ties_go_to_the_first_and_nothing_stays_nothing():
    corners = np.array([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    assert nms(corners, np.full(3, 0.5), 0.3).tolist() == [0, 2]
    assert nms(np.empty((0, 4)), np.empty(0), 0.3).tolist() == []
    assert nms(corners, np.array([0.5, 0.6, 0.1]), 0.7, cover).tolist() == [1, 2]
