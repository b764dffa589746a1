"""The encoder: a vision transformer over cubes of video. The thing we keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tubelet.nn.attention import EPS, Block, xavier
from tubelet.nn.divided import DividedBlock, Where, still_at_first
from tubelet.nn.patches import FIXED, Positions, take
from tubelet.nn.rotary import Rotary
from tubelet.types import Grid


@dataclass(frozen=True)
class Encoder:
    """The shape of an encoder; `SIZES` has the usual ones."""

    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads."""
    hidden: int = 3072
    """Channels inside the MLP."""
    patch: tuple[int, int, int] = (2, 16, 16)
    """Cube of pixels that becomes one token: frames, height, width."""
    position: Literal["index", "axes", "plane", "learned", "rotary"] = "index"
    """Sinusoid of the token's index (VideoMAE), of slot, row and column: axes (small models learn sooner), MAE's table
    for images with time added: plane, or learned (MAE-ST). Rotary: no table, but queries and keys are turned in every
    block, and keys have a bias (V-JEPA 2; joint attention, no class token)."""
    attention: Literal["joint", "divided"] = "joint"
    """Every token looks at all (VideoMAE), or over time and then over space (TimeSformer; a third more weights)."""
    class_token: bool = False
    """A learnt token in front that all others can look at and that is not put out (encoders of MAE and MAE-ST)."""
    drop_path: float = 0.0
    """Stochastic depth of the last block, growing from 0 at the first (fine-tuning)."""
    checkpoint: bool = False
    """Recompute each block in the backward pass: about a third more compute for far less memory."""
    interpolated: tuple[int, int, int] | None = None
    """Cubes in time, height and width of the clips that weights come from: fixed positions are those of such clips,
    interpolated to this run's; none: they are computed for this run's."""

    def build(self, grid: Grid, channels: int) -> "ViT":
        """The encoder for clips of `grid`, freshly initialised from torch's global generator.

        Raises:
            ValueError: settings that do not go together, or a width that cannot be shared out.
        """
        return ViT(self, grid, channels)


SIZES = {
    # Ti as in DeiT (arXiv:2012.12877); S to H as in VideoMAE; g as in VideoMAE V2 (arXiv:2303.16727).
    "ti": Encoder(width=192, depth=12, heads=3, hidden=768),
    "s": Encoder(width=384, depth=12, heads=6, hidden=1536),
    "b": Encoder(width=768, depth=12, heads=12, hidden=3072),
    "l": Encoder(width=1024, depth=24, heads=16, hidden=4096),
    "h": Encoder(width=1280, depth=32, heads=16, hidden=5120),
    "g": Encoder(width=1408, depth=40, heads=16, hidden=6144, patch=(2, 14, 14)),
}


class ViT(nn.Module):
    """Patches in, tokens out; embeds and attends over the tokens it is given only.

    Source: VideoMAE (arXiv:2203.12602), section 3 and its released model: fixed positions, no class token
    (unless it is asked for).
    """

    def __init__(self, shape: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.checkpointing = shape.checkpoint
        pt, ph, pw = grid.patch
        self.embed = nn.Linear(pt * ph * pw * channels, shape.width)  # keeps PyTorch's default, as the released Conv3d
        drops = [shape.drop_path * i / max(shape.depth - 1, 1) for i in range(shape.depth)]
        self.divided = shape.attention == "divided"
        rotary = shape.position == "rotary"
        if rotary and (self.divided or shape.class_token):
            other = "divided attention" if self.divided else "a class token"
            raise ValueError(f"--encoder.position rotary does not go with {other}; use another position")
        sizes = shape.width, shape.heads, shape.hidden
        self.blocks = nn.ModuleList(
            DividedBlock(*sizes, drop) if self.divided else Block(*sizes, drop, rotary) for drop in drops
        )
        self.norm: nn.Module = nn.LayerNorm(shape.width, eps=EPS)  # the identity in a fine-tuned encoder
        if shape.interpolated is not None and (shape.position not in FIXED or min(shape.interpolated) < 1):
            raise ValueError(
                f"--encoder.interpolated {shape.interpolated} with positions {shape.position} cannot be used; it is "
                "about fixed positions, and three numbers above 0"
            )
        self.position: Positions | Rotary = (
            Rotary(grid, shape.width // shape.heads)
            if shape.position == "rotary"
            else Positions(shape.position, grid, shape.width, shape.interpolated)
        )
        self.class_token: nn.Parameter | None = None
        if shape.class_token:
            if self.divided:
                raise ValueError("--encoder.class-token has no place in divided attention; use joint attention")
            self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape.width), std=0.02))  # and its place
        xavier(self.blocks)
        if self.divided:
            still_at_first(self.blocks)

    def forward(
        self,
        patches: Float[Tensor, "b v q"],
        ids: Int[Tensor, "b v"] | None = None,
        taps: Sequence[int] = (),
        allowed: Bool[Tensor, "_ 1 v v"] | None = None,
        instead: tuple[Float[Tensor, " d"], Bool[Tensor, "b v"]] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Tokens for normalised patches; `ids` says where in the grid they are (default: from its start, in order).

        With `taps`, what the blocks of these numbers (1 is the first) put out, without the last norm, one after the
        other along the token axis, in ascending order; later blocks are not computed. The number after the last block
        is the normed output. `allowed` says which tokens each may look at (joint attention only). `instead` is a token
        that takes the place of those patches where it is True: they are there, but not to be seen (SimMIM). `grid` is
        that of whole clips of another size than the encoder was made for: positions are interpolated to it.
        """
        x, told = self.entering(patches, ids, allowed, instead, grid)
        front = int(self.class_token is not None)
        tapped = []
        for number, block in enumerate(self.blocks[: max(taps, default=None)], 1):
            recompute = self.checkpointing and self.training
            x = checkpoint(block, x, *told, use_reentrant=False) if recompute else block(x, *told)
            if number in taps:
                tapped.append(x[:, front:])
        if len(self.blocks) + 1 in taps:
            tapped.append(self.norm(x[:, front:]))
        return torch.cat(tapped, dim=1) if taps else self.norm(x[:, front:])

    def entering(
        self,
        patches: Float[Tensor, "b v q"],
        ids: Int[Tensor, "b v"] | None = None,
        allowed: Bool[Tensor, "_ 1 v v"] | None = None,
        instead: tuple[Float[Tensor, " d"], Bool[Tensor, "b v"]] | None = None,
        grid: Grid | None = None,
    ) -> tuple[Float[Tensor, "b m d"], tuple[Where | Tensor | None, ...]]:
        """What goes into the first block (the class token in front, if there is one), and what each block is told."""
        assert allowed is None or not (self.divided or self.class_token is not None)
        other = None if grid == self.grid else grid
        assert other is None or ids is None
        x = self.embed(patches)
        if instead is not None:
            x = torch.where(instead[1].unsqueeze(2), instead[0].to(x.dtype), x)
        told: tuple[Where | Tensor | None, ...] = (allowed,)
        if isinstance(self.position, Rotary):
            own = self.position.on(self.grid, other) if other else self.position(ids, patches.shape[1])
            told = allowed, own
        else:
            table = self.position.on(self.grid, other) if other else self.position()
            x = x + (table[: patches.shape[1]] if ids is None else take(table.expand(len(patches), -1, -1), ids))
        if self.divided:
            told = (Where.of(ids, grid or self.grid, patches.shape[1]),)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        return x, told
