"""Targets that move: what changes from frame to frame, and where things go."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.nn.patches import patchify, take
from tubelet.nn.paths import followed, motion_of
from tubelet.targets import Pixels
from tubelet.types import Batch, Grid, TokenMask, Wanted


@dataclass(frozen=True)
class FrameDifference:
    """The next frame less this one, for the frames of a cube.

    Source: MotionMAE (arXiv:2210.04154). No code was released, and which frames are paired and how they are normalised
    is chosen here.
    """

    pixels: ClassVar[bool] = False
    normalise: Literal["videomae", "none"] = "videomae"
    """Differences in units of each cube's deviation, colour by colour and less their mean, as `Pixels` has it; or of
    video in [0, 1]."""
    across: bool = False
    """Also from a cube's last frame to the next cube's first. After the clip's last frame nothing changes."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: a picture for each pair of frames.

        Raises:
            ValueError: cubes of one frame, where only pairs within a cube count.
        """
        pt, ph, pw = grid.patch
        if pt == 1 and not self.across:
            raise ValueError("cubes of 1 frame hold no two that differ; use FrameDifference(across=True)")
        return (pt if self.across else pt - 1) * ph * pw * channels

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """The differences at `mask.predict`."""
        pt = mask.grid.patch[0]
        if self.across:
            video = batch.video.to(torch.int16)
            following = torch.cat([video[:, :, 1:], video[:, :, -1:]], dim=2)
            changes = take(patchify(following - video, mask.grid.patch), mask.predict).float()
        else:
            changes = take(patches, mask.predict).float().unflatten(2, (pt, -1)).diff(dim=2).flatten(2)
        return Wanted(Pixels(self.normalise).encode(changes.div_(255), batch.video.shape[1]))

    def decode(
        self, values: Float[Tensor, "b p y"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
    ) -> Float[Tensor, "b p q"]:
        """Grey where nothing changes; black and white are -1 and 1, or three deviations. The last one is held."""
        pt = mask.grid.patch[0]
        shown = (0.5 + values / (2 if self.normalise == "none" else 6)).unflatten(2, (pt - (not self.across), -1))
        return shown[:, :, torch.arange(pt, device=values.device).clamp(max=shown.shape[2] - 1)].flatten(2)


@dataclass(frozen=True)
class Trajectory:
    """Where the four quarters of a cube's first frame go, step by step, in the frames that follow.

    In the order step, x and y, row and column of the quarter. A quarter is followed from its middle along the clip's
    motion (`nn/paths.py`); steps that are not known, as those beyond the clip, do not count.

    Source: M3Video (arXiv:2210.06096), section 3.2. Its paths are drawn offline from optical flow between all frames of
    the file; here steps are between frames of the clip.
    """

    pixels: ClassVar[bool] = False
    steps: int = 4
    """Frames that a path goes on for."""
    unit: float | None = None
    """Pixels of a step that count as 1; none: as many as a token is wide and high. Released: 20."""
    normalise: bool = False
    """Take out of every step the mean and deviation of the four quarters, as released: what remains is how they move
    against each other."""

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token: 32 for four steps.

        Raises:
            ValueError: patches without quarters, or no step or unit.
        """
        _, ph, pw = grid.patch
        if ph % 2 or pw % 2:
            raise ValueError(f"patches of {ph}x{pw} pixels have no four quarters to follow; both must be even")
        if self.steps < 1 or (self.unit is not None and self.unit <= 0):
            raise ValueError(f"{self}: steps must be 1 or more, and unit above 0 pixels, or None")
        return self.steps * 2 * 4

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """The steps at `mask.predict`; weights are 1 where they are known and 0 elsewhere.

        Raises:
            ValueError: the clips came without motion.
        """
        grid, (pt, ph, pw) = mask.grid, mask.grid.patch
        motion = motion_of(batch, grid, f"target {type(self).__name__}").to(patches.device)
        device = motion.to_next.device
        rows, columns = (torch.arange(2 * cells, device=device) + 0.5 for cells in (grid.H, grid.W))
        y, x = torch.meshgrid(rows * (ph / 2), columns * (pw / 2), indexing="ij")
        slots = torch.arange(0, grid.T * pt, pt, device=device)
        steps, known = followed(motion, slots, torch.stack([x.flatten(), y.flatten()]), self.steps)

        def quarters(values: Tensor) -> Tensor:  # b l 2 s m -> b p l 2 4
            cells = values.unflatten(4, (grid.H, 2, grid.W, 2)).permute(0, 3, 4, 6, 1, 2, 5, 7)
            return take(cells.flatten(4).flatten(1, 3), mask.predict).unflatten(2, (self.steps, 2, 4))

        values, weights = quarters(steps), quarters(known.unsqueeze(2).expand_as(steps).float())
        values = values / self._units(grid).to(device)
        if self.normalise:
            several = weights.sum(4, keepdim=True)
            values = (values - values.sum(4, keepdim=True) / several.clamp(min=1)) * weights
            variance = values.square().sum(4, keepdim=True) / (several - 1).clamp(min=1)
            values = values / (variance.sqrt() + 1e-6)
        return Wanted(values.flatten(2), weights.flatten(2))

    def decode(
        self, values: Float[Tensor, "b p y"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
    ) -> Float[Tensor, "b p q"]:
        """Every quarter as bright as its path is long, white from one token on; normalised, four deviations."""
        pt, ph, pw = mask.grid.patch
        steps = values.unflatten(2, (self.steps, 2, 4))
        if self.normalise:
            steps = steps / 4
        elif self.unit is not None:
            steps = steps * self._units(mask.grid).to(values) / torch.tensor([[pw], [ph]]).to(values)
        length = steps.norm(dim=3).sum(2).clamp(max=1).unflatten(2, (2, 2))
        cells = length.repeat_interleave(ph // 2, dim=2).repeat_interleave(pw // 2, dim=3)
        return cells[:, :, None, :, :, None].expand(-1, -1, pt, -1, -1, channels).flatten(2)

    def _units(self, grid: Grid) -> Float[Tensor, "2 1"]:
        """Pixels that are 1, across and down."""
        _, ph, pw = grid.patch
        sides = (pw, ph) if self.unit is None else (self.unit, self.unit)
        return torch.tensor(sides, dtype=torch.float32, device="cpu").unsqueeze(1)
