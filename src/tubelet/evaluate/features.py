"""What an encoder makes of clips, and probes that read it out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tubelet.data.datasets import Data
from tubelet.data.sources import Item
from tubelet.data.transforms import CentreCrop
from tubelet.data.video import VideoError, frames_at


def readable(items: Sequence[Item], data: Data, count: int) -> list[Path]:
    """Up to `count` videos, evenly spread over `items`, whose middle clips can be read."""
    found: list[Path] = []
    for item in [items[index] for index in np.unique(np.linspace(0, len(items) - 1, 4 * count).astype(int))]:
        try:
            middle_clips([item.path], data)
        except (VideoError, OSError):
            continue
        found.append(item.path)
    return found[:: max(len(found) // count, 1)][:count]


def middle_clips(paths: Sequence[Path], data: Data) -> UInt8[Tensor, "b c t h w"]:
    """The clip in the middle of every video, cropped at its centre: nothing random, so fit to measure with.

    Raises:
        VideoError: one of them cannot be read.
    """
    unused = np.random.default_rng(0)  # a centre crop draws nothing
    clips = []
    for path in paths:
        clip = frames_at(path, lambda video: data.clip(video.seconds), gray=data.channels == 1)
        clips.append(CentreCrop()(clip.frames, data.size, unused).permute(3, 0, 1, 2))
    return torch.stack(clips)
