"""Where an encoder looks, as pictures: a clip with the query's cube framed, and weights as colours over its frames."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from tubelet.evaluate.attention import Passed, attention, passed, rollout, token_at
from tubelet.nn.vit import ViT
from tubelet.plates import rimmed
from tubelet.strips import FAINT, PAPER, Strip, enlarge, font_of, rgb
from tubelet.targets import inputs
from tubelet.types import Grid

COLOURS = "inferno"  # as bright as the weight is large, to all eyes and in print; black is none
BRIGHTEST = 0.995  # the quantile of a map's weights from which colours are full: a single token would darken the rest
QUERY, PLACE = (84, 205, 255), (128, 138, 150)  # rims of the query, and of its place in other slots
LEAST = 208  # pixels of height: below, rims have no room


def seen(encoder: ViT, video: UInt8[Tensor, "b c t h w"]) -> Passed:
    """Clips on their way through an encoder: what `attention_maps` takes instead of them, to be quick when it is asked
    again.

    Raises:
        ValueError: clips of another size than the encoder's.
    """
    grid = encoder.grid
    pt, ph, pw = grid.patch
    if (got := tuple(video.shape[2:])) != (size := (grid.T * pt, grid.H * ph, grid.W * pw)):
        raise ValueError(f"clips of {got} (frames, height, width); this encoder takes {size}")
    return passed(encoder, inputs(video.to(encoder.embed.weight.device), grid.patch))


def attention_maps(
    encoder: ViT,
    video: UInt8[Tensor, "b c t h w"] | Passed,
    query: int | None = None,
    block: int | None = None,
    heads: Sequence[int] = (),
    mean: bool = True,
    rolled: bool = False,
) -> dict[str, Float[Tensor, "b n"]]:
    """By name, how much the query takes from every token of clips: in the mean of a block's heads, in some of them
    (counted from 0), through all blocks.

    Raises:
        ValueError: no such token, block or head, or clips of another size than the encoder's.
    """
    through = video if isinstance(video, Passed) else seen(encoder, video)
    found = {}
    if mean or heads:
        weights = attention(encoder, through, query, block)
        if wrong := [head for head in heads if not 0 <= head < weights.shape[1]]:
            raise ValueError(f"there is no head {wrong[0]}; the encoder has {weights.shape[1]}, counted from 0")
        found = {"mean": weights.mean(1)} if mean else {}
        found |= {f"head {head}": weights[:, head] for head in heads}
    return found | ({"rollout": rollout(encoder, through, query)} if rolled else {})


def attention_strip(
    video: UInt8[Tensor, "c t h w"],
    maps: dict[str, Float[Tensor, " n"]],
    grid: Grid,
    query: int | None = None,
    heading: str = "",
) -> Strip:
    """A clip with the query's cube framed, and each map over it; how strong each is stands with its name."""
    at = token_at(grid) if query is None else query
    frames = enlarge(rgb(video), LEAST)
    zoom = frames.shape[1] // video.shape[2]
    shown = {"clip": framed(frames, grid, at, zoom, everywhere=True)}
    for name, map in maps.items():
        shown[f"{name} · {contrast(map):.1f}x"] = framed(heated(frames, map, grid, zoom), grid, at, zoom)
    rows = {name: torch.from_numpy(row).permute(3, 0, 1, 2) for name, row in shown.items()}
    pt = grid.patch[0]
    return Strip(rows, heading, moment=at // grid.slot * pt + pt // 2)


def contrast(map: Float[Tensor, " n"]) -> float:
    """The weight at which colours are full, in times of what it were if all tokens had the same."""
    return float(map.float().quantile(BRIGHTEST) / map.float().mean())


def heated(
    frames: UInt8[np.ndarray, "t h w 3"], map: Float[Tensor, " n"], grid: Grid, zoom: int = 1
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames in grey with the colour of its weight over every cube, from none to the map's own BRIGHTEST quantile."""
    pt, ph, pw = grid.patch
    values = (map / map.quantile(BRIGHTEST).clamp(min=1e-30)).clamp(0, 1).view(grid.T, grid.H, grid.W).cpu().numpy()
    cubes = values.repeat(pt, 0).repeat(ph * zoom, 1).repeat(pw * zoom, 2)[..., None]
    grey = 0.45 * (frames @ np.array([0.299, 0.587, 0.114]))[..., None]  # what is there stays to be seen
    mixed = (1 - 0.6 * cubes) * grey + (0.45 + 0.35 * cubes) * painted(cubes[..., 0])  # the stronger, the more colour
    return mixed.clip(0, 255).astype(np.uint8)


def painted(values: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size 3"]:
    """The colours of values in [0, 1], in [0, 255]."""
    import matplotlib

    return 255 * matplotlib.colormaps[COLOURS](values)[..., :3]


def framed(
    frames: UInt8[np.ndarray, "t h w 3"], grid: Grid, query: int, zoom: int = 1, everywhere: bool = False
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames with a rim around the query's cube; if asked, a thinner one around its place in the other slots."""
    pt, ph, pw = grid.patch
    slot, row, column = np.unravel_index(query, (grid.T, grid.H, grid.W))
    top, left = int(row) * ph * zoom, int(column) * pw * zoom
    box = np.array([[left - 1, top - 1, left + pw * zoom + 1, top + ph * zoom + 1]], float)
    shown = frames.copy()
    for t in range(len(frames)):
        if t // pt == slot:
            shown[t] = rimmed(frames[t], box, [QUERY], 3)
        elif everywhere:
            shown[t] = rimmed(frames[t], box, [PLACE], 2)
    return shown


def legend(width: int = 260) -> Image.Image:
    """The bar that says which colour means how much."""
    font = font_of(18)
    bar = np.broadcast_to(painted(np.linspace(0, 1, width)), (20, width, 3)).astype(np.uint8)
    image = Image.new("RGB", (width, 46), PAPER)
    image.paste(Image.fromarray(bar), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.text((0, 24), "nothing", FAINT, font)
    draw.text((width, 24), "most", FAINT, font, anchor="ra")
    return image


def explained(grid: Grid, query: int | None, block: int, rolled: bool) -> str:
    """How to read the rows of `attention_strip`."""
    slot, row, column = np.unravel_index(token_at(grid) if query is None else query, (grid.T, grid.H, grid.W))
    return (
        f"How much the framed cube (slot {slot}, row {row}, column {column}) takes from every cube of the clip in "
        f"block {block}{'; rollout: through all blocks' * rolled}. Each map has its own scale, from 0 to its "
        f"{100 * BRIGHTEST:g} % quantile; the number with its name is how many times an even share that is."
    )
