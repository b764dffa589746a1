"""What becomes of boxes in a clip: they are moved as detectors would, and go the way of the frames."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from tubelet.data.keyframes import KeyFrame
from tubelet.data.labels import Labels
from tubelet.data.transforms import Region
from tubelet.types import Boxes


@dataclass(frozen=True)
class BoxJitter:
    """Each edge of a box moved a little, each for itself, as detectors do.

    Source: VideoMAE-Action-Detection: an edge moves between so much of the box's size outwards and inwards.
    """

    outwards: tuple[float, float] = (0.2, 0.1)
    """How far at most left and right edges, and top and bottom ones, as shares of width and height."""
    inwards: tuple[float, float] = (0.1, 0.05)
    """The same towards the middle."""

    def __post_init__(self) -> None:
        if min(*self.outwards, *self.inwards) < 0 or max(self.inwards) >= 0.5:
            raise ValueError(
                f"{self} cannot be used; edges move 0 or more outwards, and inwards 0 or more and less than 0.5 of the "
                "box, or it would turn over"
            )

    def __call__(self, corners: Float[np.ndarray, "r 4"], rng: np.random.Generator) -> Float[np.ndarray, "r 4"]:
        """The boxes, moved."""
        sides = np.tile(corners[:, 2:] - corners[:, :2], 2)
        outwards, inwards = np.tile(self.outwards, 2), np.tile(self.inwards, 2)
        signs = np.array([-1, -1, 1, 1])  # x1 and y1 go outwards to smaller values
        return corners + signs * rng.uniform(-inwards, outwards, corners.shape) * sides


def boxes_of(
    key: KeyFrame,
    frame: tuple[int, int],
    region: Region,
    size: tuple[int, int],
    flip: bool,
    labels: Labels | None,
    jitter: BoxJitter | None,
    rng: np.random.Generator,
) -> Boxes:
    """The boxes of a moment as they lie in a clip of `size` that shows `region` of frames of `frame` (height, width).

    They are moved, then cut to the clip; those that it does not show at all are left out.
    """
    height, width = frame
    shares = np.array([box.corners for box in key.boxes], dtype=np.float64).reshape(-1, 4)
    if jitter is not None:
        shares = jitter(shares, rng)
    moved = carried(shares * (width, height, width, height), region, size, flip)
    seen = (moved[:, 0] < moved[:, 2]) & (moved[:, 1] < moved[:, 3])
    hot = None if labels is None else labels.hot([box.labels for box, there in zip(key.boxes, seen) if there])
    return Boxes(torch.from_numpy(moved[seen]).float(), hot)


def carried(
    corners: Float[np.ndarray, "r 4"], region: Region, size: tuple[int, int], flip: bool = False
) -> Float[np.ndarray, "r 4"]:
    """Corners in pixels of frames, as they lie in a clip of `size` that shows `region` of them; cut to the clip.

    What the clip does not show has no width or no height then.

    >>> carried(np.array([[10.0, 20, 30, 40]]), (10, 10, 40, 40), (20, 20)).tolist()
    [[0.0, 5.0, 10.0, 15.0]]
    >>> carried(np.array([[10.0, 20, 30, 40]]), (10, 10, 40, 40), (20, 20), flip=True).tolist()
    [[10.0, 5.0, 20.0, 15.0]]
    """
    top, left, height, width = region
    scale = np.array([size[1] / width, size[0] / height] * 2)
    moved = (corners - (left, top, left, top)) * scale
    if flip:
        moved = np.stack([size[1] - moved[:, 2], moved[:, 1], size[1] - moved[:, 0], moved[:, 3]], axis=1)
    return moved.clip(0, np.array([size[1], size[0]] * 2))
