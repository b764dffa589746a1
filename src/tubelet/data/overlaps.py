"""How much boxes overlap, and which of several to keep; corners x1, y1, x2, y2, in any unit.

In numpy, for boxes that are few; `nn/roi.py` has what networks need of them, in torch.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

Corners = tuple[float, float, float, float]


def iou(a: Float[np.ndarray, "r 4"], b: Float[np.ndarray, "s 4"]) -> Float[np.ndarray, "r s"]:
    """Intersection over union of every box of one list with every box of another; 0 where neither covers anything.

    >>> iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [2, 2, 3, 3]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    both = shared(a, b)
    return both / np.maximum(areas(a)[:, None] + areas(b) - both, 1e-12)


def cover(a: Float[np.ndarray, "r 4"], b: Float[np.ndarray, "s 4"]) -> Float[np.ndarray, "r s"]:
    """Intersection over the smaller of both: 1 where one lies inside the other.

    >>> cover(np.array([[0.0, 0, 4, 4]]), np.array([[1.0, 1, 2, 2], [3, 0, 5, 4]])).tolist()
    [[1.0, 0.5]]
    """
    return shared(a, b) / np.maximum(np.minimum(areas(a)[:, None], areas(b)), 1e-12)


def shared(a: Float[np.ndarray, "r 4"], b: Float[np.ndarray, "s 4"]) -> Float[np.ndarray, "r s"]:
    """The areas that every two boxes of both lists share."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clip(0).prod(-1)


def areas(boxes: Float[np.ndarray, "r 4"]) -> Float[np.ndarray, " r"]:
    """What each box covers."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1)


def touching(one: Corners, other: Corners) -> bool:
    """Whether two boxes share anything."""
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


def nms(
    corners: Float[np.ndarray, "r 4"],
    scores: Float[np.ndarray, " r"],
    most: float,
    overlap: Callable[..., Float[np.ndarray, "r s"]] = iou,
) -> Int[np.ndarray, " kept"]:
    """The boxes that are left, the surest first, when each removes those whose `overlap` with it is above `most`.

    Of equal scores the earlier goes first. As torchvision.ops.nms.
    """
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        kept.append(int(left[0]))
        left = left[1:][overlap(corners[left[:1]], corners[left[1:]])[0] <= most]
    return np.array(kept, dtype=np.int64)
