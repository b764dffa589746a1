"""A film of two squares that move and frames that count, who finds them, and a network that says where they are."""

from dataclasses import dataclass, field

import numpy as np
import torch

from tubelet.data.keyframes import Box
from tubelet.data.sampling import Around
from tubelet.evaluate.detect import Actor

FPS = 10


def scene(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square that goes to the right and one that goes down, on dark ground; the upper left corner counts."""
    film = np.full((frames, height, width, 3), 16, np.uint8)
    for turn in range(frames):
        x, y = 12 + turn % 40, 2 + turn % 40 // 3
        film[turn, 30:40, x : x + 10] = 240
        film[turn, y : y + 10, 44:54] = 240
        film[turn, :8, :8] = 20 + 4 * (turn % 50)
    return film


def squares(frames: np.ndarray) -> list[list[Box]]:
    """A detector: where it is bright below the counting corner, in parts that are connected along both axes."""
    from scipy import ndimage

    found = []
    for frame in frames:
        bright = frame[..., 0] > 200
        bright[:8, :8] = False
        height, width = bright.shape
        parts = ndimage.find_objects(ndimage.label(bright)[0])
        found.append(
            [Box((x.start / width, y.start / height, x.stop / width, y.stop / height), score=0.9) for y, x in parts]
        )
    return found


@dataclass
class Looked:
    """A detector that remembers how many frames it was shown, and what they count."""

    numbers: list[int] = field(default_factory=list)

    def __call__(self, frames):
        self.numbers += counted(torch.from_numpy(frames))
        return squares(frames)


def counted(clip: torch.Tensor) -> list[int]:
    """Which frames of `scene` these are."""
    return ((clip[:, :8, :8].float().mean((1, 2, 3)) - 20) / 4).round().int().tolist()


def actor(names=("right", "down"), clip=None, **other) -> tuple[Actor, list]:
    """A network that says where a box is (left or right half), and remembers what it was shown."""
    shown = []

    def actions(frames, boxes):
        shown.append((frames, list(boxes)))
        middles = torch.tensor([(box.corners[0] + box.corners[2]) / 2 for box in boxes])
        return torch.stack([1 - middles, middles], dim=1)

    return Actor(actions, clip or Around(4, 2), names, **other), shown
