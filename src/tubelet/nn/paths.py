"""Where things go: paths along the motion that came with the clips."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.types import Batch, Grid, Motion


def motion_of(batch: Batch, grid: Grid, who: str) -> Motion:
    """The batch's motion; `who` follows it.

    Raises:
        ValueError: it has none, or one that does not lie beside clips of this grid.
    """
    motion = batch.motion
    if motion is None:
        raise ValueError(
            f"{who} follows motion, and the clips came without; use a preset with data.motion, "
            "as mgm-ssv2 has Vectors() and mgmae-ssv2 Flow()"
        )
    pt, ph, pw = grid.patch
    wanted = grid.T * pt, -(-grid.H * ph // motion.block), -(-grid.W * pw // motion.block)
    if tuple(motion.had.shape[1:]) != wanted:
        raise ValueError(
            f"{who} got motion of {tuple(motion.had.shape[1:])} (frames, blocks down, blocks across); clips of "
            f"{wanted[0]} frames of {grid.H * ph}x{grid.W * pw} pixels have {wanted} blocks of {motion.block}"
        )
    return motion


def followed(
    motion: Motion, frames: Int[Tensor, " s"], places: Float[Tensor, "2 m"], steps: int
) -> tuple[Float[Tensor, "b l 2 s m"], Bool[Tensor, "b l s m"]]:
    """Steps in pixels, from frame to frame, of what lies at `places` (x, y) in each of `frames`, and which are known.

    Each goes on with the vector of the block that it has come to. A path ends, and no later step of it is known, where
    that block has none: at the clip's last frame, and outside of the picture.
    """
    b, _, t, my, mx = motion.to_next.shape
    at = places.unsqueeze(1).expand(b, 2, len(frames), -1)
    known = torch.ones_like(at[:, 0], dtype=torch.bool)
    moves, told = [], []
    for step in range(steps):
        frame = (frames + step).unsqueeze(1)
        column, row = (at / motion.block).floor().long().unbind(1)
        inside = (column >= 0) & (column < mx) & (row >= 0) & (row < my) & (frame < t)
        block = (frame.clamp(max=t - 1) * my + row.clamp(0, my - 1)) * mx + column.clamp(0, mx - 1)
        has = motion.has.flatten(1).gather(1, block.flatten(1)).view_as(block)
        known = known & inside & has
        vectors = motion.to_next.flatten(2).gather(2, block.flatten(1).unsqueeze(1).expand(-1, 2, -1)).view_as(at)
        move = vectors.masked_fill(~known.unsqueeze(1), 0)
        at = at + move
        moves.append(move)
        told.append(known)
    return torch.stack(moves, 1), torch.stack(told, 1)
