"""Videos with patches of colour in known places, and a network that tells the colour under a box."""

from pathlib import Path

import numpy as np
import torch

from tubelet.data.datasets import Data
from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.labels import Labels
from tubelet.data.sampling import Around
from tubelet.data.writing import write
from tubelet.evaluate.key_frames import Looker
from tubelet.nn.detector import Detector
from tubelet.nn.patches import unpatchify
from tubelet.nn.vit import Encoder
from tubelet.targets import MEAN, STD
from tubelet.types import Grid

COLOURS = ("red", "green", "blue")
PATCH = (2, 8, 8)
DATA = Data(clip=Around(4, stride=2), size=(32, 32), labels=Labels("classes", COLOURS))
LEFT, RIGHT = (0.125, 0.25, 0.375, 0.75), (0.625, 0.25, 0.875, 0.75)  # left, top, right, bottom


def drawn(height: int, width: int, frames: int, left: str, right: str) -> np.ndarray:
    """Frames with a patch of a colour in each half."""
    clip = np.full((frames, height, width, 3), 60, np.uint8)
    for (x1, y1, x2, y2), colour in ((LEFT, left), (RIGHT, right)):
        place = np.s_[:, round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)]
        clip[place] = 60
        clip[(*place, COLOURS.index(colour))] = 220
    return clip


def film(path: Path, height: int = 64, width: int = 96) -> list[Item]:
    """A video of two seconds, 10 frames each, and its two key frames: colours change at the full second."""
    clips = [drawn(height, width, 10, "red", "green"), drawn(height, width, 10, "blue", "red")]
    write(path, np.concatenate(clips), 10, options={"crf": "4"})
    keys = [
        KeyFrame(at, (Box(LEFT, (left,), "p"), Box(RIGHT, (right,), "q")), path.stem, stamp)
        for at, stamp, left, right in ((0.5, "0000", "red", "green"), (1.5, "0001", "blue", "red"))
    ]
    return [Item(path, key=key) for key in keys]


def colour_under(patches: torch.Tensor, corners: torch.Tensor, which: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Logits "r x": how bright each colour is under a box, on average over time."""
    video = unpatchify(patches, grid) * torch.tensor(STD).view(3, 1, 1, 1) + torch.tensor(MEAN).view(3, 1, 1, 1)
    rows = []
    for (x1, y1, x2, y2), clip in zip(corners.round().int().tolist(), which.tolist()):
        rows.append(20 * (video[clip, :, :, y1:y2, x1:x2].mean((1, 2, 3)) - 0.5))
    return torch.stack(rows)


def looker(network=colour_under, data: Data = DATA, side: int = 32, **other) -> Looker:
    """What tells colours."""
    return Looker(network, data, PATCH, side=side, enlarge=other.pop("enlarge", (0.0, 0.0)), **other)


def detector(outputs: int = 3) -> Detector:
    """A real network whose weights are random, and large enough to say something."""
    torch.manual_seed(0)
    encoder = Encoder(width=32, depth=1, heads=2, hidden=64, patch=PATCH).build(Grid.of(4, 32, 32, PATCH), 3)
    network = Detector(encoder, outputs, bins=3).eval()
    with torch.no_grad():
        network.head.weight.mul_(3000)
    return network
