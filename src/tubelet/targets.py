"""What the decoder must output, and the way back to pixels for pictures."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.nn.patches import patchify
from tubelet.types import Grid

# ImageNet's statistics of RGB in [0, 1]; other channel counts use their mean for every channel.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics(like: Float[Tensor, "..."], channels: int) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Mean and standard deviation of inputs, repeated over the values of a patch (channel is the fastest axis)."""
    mean, std = (MEAN, STD) if channels == 3 else ((sum(MEAN) / 3,) * channels, (sum(STD) / 3,) * channels)
    times = like.shape[-1] // channels
    return like.new_tensor(mean).repeat(times), like.new_tensor(std).repeat(times)


def normalise(patches: Float[Tensor, "b n q"], channels: int) -> Float[Tensor, "b n q"]:
    """Patches in [0, 1] as the encoder wants them: zero mean and unit deviation over ImageNet."""
    mean, std = statistics(patches, channels)
    return (patches - mean) / std


def inputs(video: UInt8[Tensor, "b c t h w"], patch: tuple[int, int, int]) -> Float[Tensor, "b n q"]:
    """Normalised patches of whole clips: what an encoder reads."""
    return normalise(patchify(video, patch).float() / 255, video.shape[1])


@dataclass(frozen=True)
class Pixels:
    """Pixels, raw or normalised cube by cube.

    "Normalised pixels" is a different formula in every code base, so both directions live here:

    - `videomae`: per colour channel over the cube's pixels, unbiased variance, 1e-6 outside the root, on [0, 1] video.
    - `mae`: over pixels and channels together, unbiased variance, 1e-6 inside the root, on ImageNet-normalised video.
    - `none`: video in [0, 1].
    """

    normalise: Literal["videomae", "mae", "none"] = "videomae"
    """Which statistics are taken out of every cube."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: all pixels of a cube."""
        pt, ph, pw = grid.patch
        return pt * ph * pw * channels

    def encode(self, patches: Float[Tensor, "b p q"], channels: int) -> Float[Tensor, "b p q"]:
        """What to predict for cubes whose pixels, in [0, 1], are `patches`."""
        if self.normalise == "none":
            return patches
        values, mean, scale = self._split(patches, channels)
        return (values - mean).div_(scale).flatten(2)  # in place: these are the largest tensors of a step

    def decode(
        self, values: Float[Tensor, "b p q"], patches: Float[Tensor, "b p q"], channels: int
    ) -> Float[Tensor, "b p q"]:
        """Pixels in [0, 1] for a prediction.

        Normalised targets leave out each cube's mean and contrast, so pictures borrow them from the true `patches`;
        what is shown then has the true local colour. Only raw targets show what the model knows of colour.
        """
        if self.normalise == "none":
            return values
        true, mean, scale = self._split(patches, channels)
        pixels = (values.view(true.shape) * scale + mean).flatten(2)
        if self.normalise == "videomae":
            return pixels
        shift, spread = statistics(pixels, channels)
        return pixels * spread + shift

    def _split(self, patches: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Values as "b p pixels c" (or "b p values 1"), with their mean and scale."""
        if self.normalise == "videomae":
            values = patches.unflatten(2, (-1, channels))
            variance, mean = torch.var_mean(values, dim=2, keepdim=True)
            return values, mean, variance.sqrt() + 1e-6
        values = normalise(patches, channels).unsqueeze(3)
        variance, mean = torch.var_mean(values, dim=2, keepdim=True)
        return values, mean, (variance + 1e-6).sqrt()
