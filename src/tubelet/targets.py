"""What the decoder must output, and the way back to pixels for pictures."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from tubelet.nn.hog import hog, strokes
from tubelet.nn.patches import patchify, take
from tubelet.types import Batch, Grid, TokenMask, Wanted

Norm = Literal["imagenet", "videomae-action-detection"]
# Means and deviations of RGB in [0, 1]; other channel counts use their mean for every channel. AlphAction's, which
# VideoMAE-Action-Detection kept, are those of 0 to 255.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALPHACTION = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (57.375 / 255,) * 3
NORMS = {"imagenet": (MEAN, STD), "videomae-action-detection": ALPHACTION}


def statistics(
    like: Float[Tensor, "..."], channels: int, norm: Norm = "imagenet"
) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Mean and standard deviation of inputs, repeated over the values of a patch (channel is the fastest axis)."""
    mean, std = NORMS[norm] if channels == 3 else [(sum(rgb) / 3,) * channels for rgb in NORMS[norm]]
    times = like.shape[-1] // channels
    return like.new_tensor(mean).repeat(times), like.new_tensor(std).repeat(times)


def normalise(patches: Float[Tensor, "b n q"], channels: int, norm: Norm = "imagenet") -> Float[Tensor, "b n q"]:
    """Patches in [0, 1] as the encoder wants them: zero mean and unit deviation, by default over ImageNet."""
    mean, std = statistics(patches, channels, norm)
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

    pixels: ClassVar[bool] = True
    normalise: Literal["videomae", "mae", "none"] = "videomae"
    """Which statistics are taken out of every cube."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: all pixels of a cube."""
        pt, ph, pw = grid.patch
        return pt * ph * pw * channels

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """The cubes at `mask.predict`."""
        return Wanted(self.encode(take(patches, mask.predict).float().div_(255), batch.video.shape[1]))

    def encode(self, patches: Float[Tensor, "b p q"], channels: int) -> Float[Tensor, "b p q"]:
        """What to predict for cubes whose pixels, in [0, 1], are `patches`."""
        if self.normalise == "none":
            return patches
        values, mean, scale = self._split(patches, channels)
        return (values - mean).div_(scale).flatten(2)  # in place: these are the largest tensors of a step

    def decode(
        self, values: Float[Tensor, "b p q"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
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


@dataclass(frozen=True)
class OneFrame:
    """One frame of every cube, normalised over all its values: half of the pixels to predict, where cubes have two.

    The statistics are over pixels and colours together, unbiased, 1e-6 inside the root, on video of MAE-ST's own mean
    0.45 and deviation 0.225, which are the same for all colours: only the place of 1e-6 depends on them.

    Source: MAE-ST (arXiv:2205.09113), released model.
    """

    pixels: ClassVar[bool] = True
    frames: Literal["spread", "first"] = "spread"
    """Frames spread over the clip from its first to its last one, or the first of every cube: at 16 frames
    0 2 4 6 8 10 12 15 (released), or 0 2 4 6 8 10 12 14 (PySlowFast's)."""
    normalise: bool = True
    """Take out every frame's mean and deviation in the cube; else video in [0, 1]."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: the pixels of one frame of a cube."""
        return grid.patch[1] * grid.patch[2] * channels

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """The frames at `mask.predict`."""
        frames = self._chosen(take(patches, mask.predict), mask).float().div_(255)
        if not self.normalise:
            return Wanted(frames)
        mean, scale = self._statistics(frames)
        return Wanted((frames - mean).div_(scale))

    def decode(
        self, values: Float[Tensor, "b p y"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
    ) -> Float[Tensor, "b p q"]:
        """The frame, for all frames of its cube; what was normalised borrows the true mean and deviation."""
        if self.normalise:
            mean, scale = self._statistics(self._chosen(patches, mask))
            values = values * scale + mean
        return values.repeat(1, 1, mask.grid.patch[0])

    def _chosen(self, patches: Shaped[Tensor, "b p q"], mask: TokenMask) -> Shaped[Tensor, "b p y"]:
        """One frame of each cube."""
        frames = patches.unflatten(2, (mask.grid.patch[0], -1))
        if self.frames == "first":
            return frames[:, :, 0]
        grid = mask.grid  # frame k of linspace(0, t-1, T), truncated, lies in cube k; this is how far into it
        within = mask.predict // grid.slot * (grid.patch[0] - 1) // max(grid.T - 1, 1)
        return frames.gather(2, within[:, :, None, None].expand(-1, -1, 1, frames.shape[3])).squeeze(2)

    @staticmethod
    def _statistics(frames: Float[Tensor, "b p y"]) -> tuple[Float[Tensor, "b p 1"], Float[Tensor, "b p 1"]]:
        variance, mean = torch.var_mean(frames, dim=2, keepdim=True)
        return mean, (variance + 1e-6 * 0.225**2).sqrt()


@dataclass(frozen=True)
class HOG:
    """Histograms of oriented gradients (`nn/hog.py`): edges instead of pixels, blind to brightness and contrast.

    In the order frame, channel, bin, row and column of the cell. Source: MaskFeat (arXiv:2112.09133), section 3; the
    middle frame is M3Video's (arXiv:2210.06096).
    """

    pixels: ClassVar[bool] = False
    bins: int = 9
    """Orientations in half a turn."""
    cell: int = 8
    """Side of a cell in pixels; it must divide the patch."""
    frames: Literal["first", "middle", "all"] = "first"
    """Of which frames of a cube."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: 108 for one frame of 16x16 pixels in three colours.

        Raises:
            ValueError: cells that do not divide the patch, or no bins.
        """
        pt, ph, pw = grid.patch
        if self.bins < 1:
            raise ValueError(f"HOG with {self.bins} bins has no orientations to count; use 9, as MaskFeat does")
        if self.cell < 1 or ph % self.cell or pw % self.cell:
            side = math.gcd(ph, pw)
            fits = [n for n in range(1, side + 1) if side % n == 0]
            raise ValueError(
                f"HOG cells of {self.cell} pixels do not divide patches of {ph}x{pw}; "
                f"use {min(fits, key=lambda n: (abs(n - self.cell), -n))}"
            )
        return (pt if self.frames == "all" else 1) * channels * self.bins * (ph // self.cell) * (pw // self.cell)

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """The histograms at `mask.predict`, each of length 1."""
        grid, pt, video = mask.grid, mask.grid.patch[0], batch.video
        if self.frames != "all":
            video = video[:, :, 0 if self.frames == "first" else pt // 2 :: pt]
        values = hog(video.transpose(1, 2).flatten(0, 1).float(), self.bins, self.cell)
        cells = values.unflatten(0, (len(video), grid.T, -1)).unflatten(6, (grid.W, -1)).unflatten(5, (grid.H, -1))
        return Wanted(take(cells.permute(0, 1, 5, 7, 2, 3, 4, 6, 8).flatten(4).flatten(1, 3), mask.predict))

    def decode(
        self, values: Float[Tensor, "b p y"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
    ) -> Float[Tensor, "b p q"]:
        """Edges drawn on grey in every cell, the brighter the more they weigh; one frame's for all of its cube."""
        pt, ph, pw = mask.grid.patch
        rows, columns = ph // self.cell, pw // self.cell
        weights = values.unflatten(2, (-1, channels, self.bins, rows, columns))
        lines = strokes(self.bins, self.cell).to(values)
        drawn = torch.einsum("bpfckij,kyx->bpfiyjxc", weights, lines).flatten(5, 6).flatten(3, 4)
        return (0.5 + drawn.clamp(0, 1) / 2).expand(-1, -1, pt, -1, -1, -1).flatten(2)


@dataclass(frozen=True)
class Together:
    """Several targets at once, side by side; the loss is the weighted sum of theirs. Pictures show the first.

    One linear layer puts them all out, which is the same as a linear head for each.
    """

    targets: tuple[Any, ...] = field(default_factory=lambda: (Pixels(),))  # Targets
    """What is predicted."""
    weights: tuple[float, ...] = (1.0,)
    """How much each counts."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: of all targets.

        Raises:
            ValueError: not a weight for every target, or one that is not above 0; or a target cannot be made.
        """
        if len(self.weights) != len(self.targets) or min(self.weights, default=0) <= 0:
            raise ValueError(f"{len(self.targets)} targets with weights {self.weights}: give each one, above 0")
        return sum(self._sizes(grid, channels))

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """The values of all targets, weighted so that each one's mean squared error counts by its weight."""
        parts = [target.wanted(batch, patches, mask) for target in self.targets]
        total = sum(part.values.shape[2] for part in parts)
        all_alike = all(part.weights is None for part in parts)
        weights = []
        for part, weight in zip(parts, self.weights):
            ones = part.values.new_ones(part.values.shape[2])
            own = ones if part.weights is None else part.weights
            scaled = own * (weight * total / len(ones))
            weights.append(scaled if all_alike else scaled.expand_as(part.values))
        return Wanted(torch.cat([part.values for part in parts], dim=2), torch.cat(weights, dim=-1))

    @property
    def pixels(self) -> bool:
        """Of the first."""
        return self.targets[0].pixels

    def decode(
        self, values: Float[Tensor, "b p y"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
    ) -> Float[Tensor, "b p q"]:
        """What the first target shows."""
        own = self._sizes(mask.grid, channels)[0]
        return self.targets[0].decode(values[..., :own], patches, mask, channels)

    def _sizes(self, grid: Grid, channels: int) -> list[int]:
        return [target.size(grid, channels) for target in self.targets]
