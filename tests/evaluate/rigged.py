"""Videos of one colour, and a network that tells their colour: what a test reports about them is known exactly."""

from pathlib import Path

import numpy as np
import torch

from tubelet.data.datasets import Data
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense
from tubelet.data.writing import write
from tubelet.evaluate.views import Viewer
from tubelet.targets import MEAN, STD

COLOURS = ("blue", "green", "red")
PATCH = (2, 8, 8)
DATA = Data(clip=Dense(4, stride=2), size=(32, 32), labels=Labels("class", COLOURS))


def plain(colour: str, frames: int, height: int = 36, width: int = 48) -> np.ndarray:
    """Frames of a colour."""
    clip = np.full((frames, height, width, 3), 40, np.uint8)
    clip[..., ("red", "green", "blue").index(colour)] = 200
    return clip


def film(path: Path, colours: str, frames: int = 20) -> Path:
    """A video of `frames` frames of each colour, 10 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, np.concatenate([plain(colour, frames) for colour in colours.split()]), 10, options={"crf": "4"})
    return path


def colour_of(patches: torch.Tensor) -> torch.Tensor:
    """Logits "b x" of the colours: ten times their mean brightness, in [0, 1]."""
    mean = patches.unflatten(2, (-1, 3)).mean((1, 2)) * torch.tensor(STD) + torch.tensor(MEAN)
    return 10 * mean.flip(1)


def viewer(data: Data = DATA, **other) -> Viewer:
    """The network that tells colours."""
    return Viewer(colour_of, data, PATCH, **other)
