"""Video to cubes of pixels and back, picking tokens by index, and the fixed position table.

Tokens are patches until the encoder embeds them: gathering first and embedding then equals embedding first and
gathering then, and costs a tenth at 90 % masking.
"""

from math import prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from tubelet.types import Grid, TokenMask

Position = Literal["index", "axes", "plane", "learned"]
FIXED = ("index", "axes", "plane")  # kinds that are computed, and no weights
CURTAIN, SEAM = 78, 68  # grey of a hidden cube, and of its last row and column, so that cubes can be counted


def patchify(video: Shaped[Tensor, "b c t h w"], patch: tuple[int, int, int]) -> Shaped[Tensor, "b n q"]:
    """Cubes in (T H W) order, the values of each in (time, height, width, channel) order. Any dtype.

    Source: token order of VideoMAE (arXiv:2203.12602), value order of its prediction head.
    """
    b, c, t, h, w = video.shape
    pt, ph, pw = patch
    cubes = video.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw).permute(0, 2, 4, 6, 3, 5, 7, 1)
    return cubes.reshape(b, (t // pt) * (h // ph) * (w // pw), pt * ph * pw * c)


def unpatchify(patches: Shaped[Tensor, "b n q"], grid: Grid) -> Shaped[Tensor, "b c t h w"]:
    """The video that `patchify` cut up."""
    pt, ph, pw = grid.patch
    b, _, q = patches.shape
    cubes = patches.reshape(b, grid.T, grid.H, grid.W, pt, ph, pw, q // (pt * ph * pw))
    return cubes.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, -1, grid.T * pt, grid.H * ph, grid.W * pw)


def curtain(grid: Grid, channels: int) -> UInt8[Tensor, " q"]:
    """The values of a hidden cube in pictures."""
    cube = torch.full((*grid.patch, channels), CURTAIN, dtype=torch.uint8, device="cpu")
    cube[:, -1], cube[:, :, -1] = SEAM, SEAM
    return cube.flatten()


def take(tokens: Shaped[Tensor, "b n q"], ids: Int[Tensor, "b m"]) -> Shaped[Tensor, "b m q"]:
    """The tokens at `ids`, clip by clip."""
    return tokens.gather(1, ids.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def put(
    tokens: Shaped[Tensor, "b n q"], ids: Int[Tensor, "b m"], values: Shaped[Tensor, "b m q"]
) -> Shaped[Tensor, "b n q"]:
    """A copy of `tokens` in which those at `ids` are `values`."""
    return tokens.scatter(1, ids.unsqueeze(2).expand(-1, -1, tokens.shape[2]), values)


def curtained(video: UInt8[Tensor, "b c t h w"], mask: TokenMask) -> UInt8[Tensor, "b c t h w"]:
    """Clips with grey where a mask hides them."""
    patches = patchify(video, mask.grid.patch)
    return unpatchify(torch.where(mask.hidden.unsqueeze(2), curtain(mask.grid, video.shape[1]), patches), mask.grid)


def sinusoid(tokens: int, width: int) -> Float[Tensor, "n d"]:
    """The fixed position table of VideoMAE: a 1-D sinusoid over the flattened token index.

    Even columns are sines, odd ones cosines, of index / 10000^(2 * floor(column / 2) / width). Computed in float64.
    Source: "Attention is all you need", section 3.5; VideoMAE uses it over space and time alike.
    """
    pair = np.arange((width + 1) // 2)
    angle = np.arange(tokens)[:, None] / np.power(10000.0, 2 * pair / width)
    table = np.empty((tokens, width), np.float32)
    np.sin(angle, out=table[:, 0::2])  # into the table: no copies in float64 on the way
    np.cos(angle[:, : width // 2], out=table[:, 1::2])
    return torch.from_numpy(table)


def sinusoid_of_axes(grid: Grid, width: int) -> Float[Tensor, "n d"]:
    """A fixed position table that knows what lies above and beside: sinusoids of slot, row and column side by side.

    A quarter of the columns tells the slot, the rest row and column; of each, the first half are sines, the second
    cosines, of place / 100^(i / half). As MAE's (arXiv:2111.06377) two-dimensional table, with time added, and 100
    instead of 10000, since there are tens of places and not thousands.

    Raises:
        ValueError: an odd width, or one too small to be shared out.
    """
    if width % 2 or width < 8:
        raise ValueError(f"width {width} cannot be shared out to three axes; it must be even and at least 8")
    slot = width // 8 * 2
    row = (width - slot) // 4 * 2
    tables = []
    for axis, (size, columns) in enumerate(zip((grid.T, grid.H, grid.W), (slot, row, width - slot - row))):
        half = columns // 2
        angle = np.arange(size)[:, None] / np.power(100.0, np.arange(half) / half)
        table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        shape = [columns if place == 3 else size if place == axis else 1 for place in range(4)]
        tables.append(np.broadcast_to(table.reshape(shape), (grid.T, grid.H, grid.W, columns)))
    return torch.from_numpy(np.concatenate(tables, axis=3).reshape(grid.tokens, width)).float()


def changes(tokens: Float[Tensor, "b n d"], grid: Grid, cells: tuple[int, int, int]) -> Float[Tensor, "b f"]:
    """What changes where and when: tokens less their mean over time, averaged in so many cells of time, height, width.

    For "b f", f counts channels, then cells. A film that stands still gives zeros.
    """
    where = tokens.transpose(1, 2).unflatten(2, (grid.T, grid.H, grid.W))
    return F.adaptive_avg_pool3d(where - where.mean(dim=2, keepdim=True), cells).flatten(1)


def sinusoid_of_plane(grid: Grid, width: int) -> Float[Tensor, "n d"]:
    """MAE's fixed table for images, and for the slots after the first a sinusoid of time on top.

    The first half of the columns tells the column of a place, the second its row; of each, sines and then cosines of
    place / 10000^(i / quarter). Time is added as the difference from slot 0, so that the first slot of a clip has what
    an image has: a model of images can begin to see clips from there.
    Source: MAE (arXiv:2111.06377), released model; the time part is ours.

    Raises:
        ValueError: a width that does not divide by 4.
    """
    if width % 4:
        raise ValueError(f"width {width} cannot be shared out to sines and cosines of two axes; use a multiple of 4")
    angles = np.power(10000.0, -np.arange(width // 4) / (width // 4))
    across, down = (np.arange(size)[:, None] * angles for size in (grid.W, grid.H))
    across, down = (np.concatenate([np.sin(angle), np.cos(angle)], axis=1) for angle in (across, down))
    table = np.zeros((grid.T, grid.H, grid.W, width))
    table[..., : width // 2] = across
    table[..., width // 2 :] = down[:, None]
    time = sinusoid(grid.T, width)
    return (
        torch.from_numpy(table.reshape(grid.T, grid.slot, width))
        .float()
        .add((time - time[0]).unsqueeze(1))
        .flatten(0, 1)
    )


def resized(table: Float[Tensor, "n d"], old: tuple[int, int, int], new: tuple[int, int, int]) -> Float[Tensor, "m d"]:
    """A table of positions of a grid (T, H, W) for another: bicubic in space, linear in time.

    Source: what VideoMAE-Action-Detection does with its fixed table and MAE with its own; V2 over time.
    """
    t, h, w = old
    cells = table.reshape(t, h, w, -1).permute(0, 3, 1, 2)
    if (h, w) != new[1:]:
        cells = F.interpolate(cells, size=new[1:], mode="bicubic", align_corners=False)
    if t != new[0]:
        times = F.interpolate(cells.flatten(1).T.unsqueeze(0), size=new[0], mode="linear", align_corners=False)
        cells = times[0].T.reshape(new[0], *cells.shape[1:])
    return cells.permute(0, 2, 3, 1).reshape(prod(new), -1)


class Positions(nn.Module):
    """The position table of a kind: fixed and not saved, or learnt.

    With `trained`, cubes in time, height and width, a fixed table is that of such a grid, interpolated to this one.
    `learned` is a vector for each slot plus one for each place in it, truncated normal 0.02.
    Source: MAE-ST (arXiv:2205.09113), section 3, "separable positional embeddings".
    """

    fixed: Tensor | None

    def __init__(self, kind: Position, grid: Grid, width: int, trained: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        of = grid if trained is None else Grid(*trained, grid.patch)
        tables = {"index": lambda: sinusoid(of.tokens, width), "axes": lambda: sinusoid_of_axes(of, width)}
        tables["plane"] = lambda: sinusoid_of_plane(of, width)
        table = None if kind == "learned" else tables[kind]()
        if table is not None and of != grid:
            table = resized(table, (of.T, of.H, of.W), (grid.T, grid.H, grid.W))
        self.register_buffer("fixed", table, persistent=False)
        if kind == "learned":
            self.slot = nn.Parameter(nn.init.trunc_normal_(torch.empty(grid.T, width), std=0.02))
            self.place = nn.Parameter(nn.init.trunc_normal_(torch.empty(grid.slot, width), std=0.02))

    def forward(self) -> Float[Tensor, "n d"]:
        """A row for each token of the grid."""
        return (self.slot.unsqueeze(1) + self.place).flatten(0, 1) if self.fixed is None else self.fixed

    def on(self, own: Grid, grid: Grid) -> Float[Tensor, "m d"]:
        """A row for each token of another grid than its own: interpolated, also what is learnt."""
        return resized(self(), (own.T, own.H, own.W), (grid.T, grid.H, grid.W))
