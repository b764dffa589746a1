"""The page of attention: where an encoder looks, from the cube that is clicked, over all frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tubelet.attention_pictures import attention_maps, attention_strip, explained, legend, seen
from tubelet.data.items import Item
from tubelet.data.shards import state_of
from tubelet.evaluate.attention import Passed, token_at
from tubelet.evaluate.features import middle_clips, untrained
from tubelet.nn.vit import ViT
from tubelet.strips import Strip, rgb
from tubelet.types import Grid
from tubelet.web import videos
from tubelet.web.connect import connect
from tubelet.web.looks import data_of, heading, readable, said
from tubelet.web.networks import at, encoder
from tubelet.web.place import Place
from tubelet.web.state import WHOLE, Field, check_number, rounded, yes

NAME, PATH = "Attention", "attention"
SENTENCE = "Where an encoder looks: click a place in a frame, and see how much it takes from every other."
MAPS = {"mean": "mean of the heads", "each": "each head", "rollout": "rollout"}
ABREAST, GAP = 4, 6  # frames of a sheet, and pixels between them


@dataclass(frozen=True)
class Choice:
    """What is chosen on the page."""

    maps: Sequence[str] = ("mean",)
    random: bool = False
    """Whether an encoder with random weights is shown beside it."""
    slot: int | None = None
    """Of the cube that looks, as its row and column, counted from 0; of what is none, the middle one."""
    row: int | None = None
    column: int | None = None
    block: int | None = None
    """Counted from 1; none: the last."""
    seed: int = 0
    """Of the random weights."""

    def __post_init__(self) -> None:
        if not self.maps:
            raise ValueError("choose at least one map")
        if unknown := [name for name in self.maps if name not in MAPS]:
            raise ValueError(f"no map {unknown[0]!r}; there are {', '.join(MAPS)}")
        check_number("seed", self.seed, WHOLE)

    def query(self, grid: Grid) -> tuple[int, str]:
        """The token that looks, and a remark where the one that is chosen is not there: runs differ in their cubes."""
        try:
            return token_at(grid, (self.slot, self.row, self.column)), ""
        except ValueError as error:
            return token_at(grid), f"{error}. The middle one is shown instead"


# ---------------------------------------------------------------------------- what is kept from one click to the next


@lru_cache(maxsize=4)
def looked(
    folder: Path, _: int, item: Item, __: tuple[int, int], seed: int | None
) -> tuple[ViT, UInt8[Tensor, "c t h w"], Passed]:
    """An encoder, the middle clip of a video, and that clip on its way through; with a `seed`, random weights."""
    trained, run = encoder(folder)
    network = trained if seed is None else untrained(run, seed)
    clip = middle_clips([item], run.data)
    return network, clip[0], seen(network, clip)


def kept(folder: Path, item: Item, seed: int | None = None) -> tuple[ViT, UInt8[Tensor, "c t h w"], Passed]:
    """The same, until the run is saved again or the video is changed.

    Raises:
        FileNotFoundError, ValueError: a run without an encoder, or a damaged one.
        VideoError, OSError: the video cannot be read.
    """
    return looked(folder, at(folder), item, state_of(item.path), seed)


# ---------------------------------------------------------------------------- all frames of a clip in one picture


def sheet(frames: UInt8[np.ndarray, "t h w 3"]) -> Image.Image:
    """All frames, ABREAST in a row, on nothing."""
    t, h, w, _ = frames.shape
    abreast = min(ABREAST, t)
    size = abreast * (w + GAP) - GAP, -(-t // abreast) * (h + GAP) - GAP
    image = Image.new("RGBA", size)
    for number, frame in enumerate(frames):
        row, column = divmod(number, abreast)
        image.paste(Image.fromarray(frame), (column * (w + GAP), row * (h + GAP)))
    return image


def cube_at(x: int, y: int, frames: tuple[int, int, int], grid: Grid) -> tuple[int, int, int] | None:
    """Slot, row and column of the cube at a pixel of a sheet of frames (their number, height, width); none: a gap."""
    t, h, w = frames
    abreast = min(ABREAST, t)
    column, left = divmod(x, w + GAP)
    line, top = divmod(y, h + GAP)
    number = line * abreast + column
    if not (0 <= left < w and 0 <= top < h and 0 <= column < abreast and 0 <= number < t):
        return None
    return number * grid.T // t, top * grid.H // h, left * grid.W // w


def webp(image: Image.Image) -> bytes:
    """A picture as a page shows it."""
    file = BytesIO()
    image.save(file, "WEBP", quality=88, method=2)
    return file.getvalue()


# ---------------------------------------------------------------------------- the page


def shown(folder: Path, item: Item, choice: Choice) -> tuple[Strip, str, str]:
    """The middle clip of a video with the cube that looks framed, and a map each of how much it takes from all cubes;
    how to read them, and what else is to be said.

    Raises:
        FileNotFoundError, ValueError: a run without an encoder, or no such block.
        VideoError: the video cannot be read.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for whose, seed in {"trained": None, "random": choice.seed}.items() if choice.random else [("", None)]:
        network, clip, through = kept(folder, item, seed)
        grid, depth = network.grid, len(network.blocks)
        query, remark = choice.query(grid)
        heads = range(encoder(folder)[1].encoder.heads) if "each" in choice.maps else ()
        wanted = heads, "mean" in choice.maps, "rollout" in choice.maps
        for name, map in attention_maps(network, through, query, choice.block, *wanted).items():
            found.setdefault(name, {})[f"{name}, {whose}" if whose else name] = map[0]
    maps = {name: map for pair in found.values() for name, map in pair.items()}
    number = depth if choice.block is None else choice.block
    return attention_strip(clip, maps, grid, query), explained(grid, query, number, "rollout" in choice.maps), remark


def drawing(strip: Strip, caption: str, remark: str) -> str:
    """Every map as a sheet below what is to be said of all."""
    figures = "".join(
        f'<figure><img src="{data_of(webp(sheet(rgb(clip))), "webp")}" alt="attention, {escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, clip in [*strip.rows.items()][1:]
    )
    bar = f'<img class="bar" src="{data_of(webp(legend()), "webp")}" alt="the colours: from nothing to most">'
    about = f'<p class="caption">{escape(caption)}</p>{bar}'
    return f'<div class="shown sheets">{said([remark] if remark else [])}{figures}{about}</div>'


def page(place: Place, blocks: Any) -> None:
    """The page itself."""
    import gradio as gr

    gr.HTML(heading(NAME, SENTENCE))
    video, button = videos.chooser(place)
    usual = Choice()
    with gr.Row(elem_classes="row"):
        names = [*place.run_folders()]
        run = gr.Dropdown(names, value=next(iter(names), None), label="Run", scale=4, elem_id="run")
        choices = [(text, name) for name, text in MAPS.items()]
        maps = gr.CheckboxGroup(choices, value=[*usual.maps], label="Maps", scale=8, elem_id="maps")
        random = gr.Checkbox(usual.random, label="Beside random weights", elem_id="random", elem_classes="tick")
    with gr.Accordion("Cube that looks, block, seed", open=False), gr.Row(elem_classes="row"):
        number: dict[str, Any] = {"precision": 0, "value": None}
        slot = gr.Number(label="Slot", placeholder="the middle", elem_id="slot", **number)
        row = gr.Number(label="Row", placeholder="the middle", elem_id="query_row", **number)
        column = gr.Number(label="Column", placeholder="the middle", elem_id="column", **number)
        block = gr.Number(label="Block, from 1", placeholder="the last", elem_id="block", **number)
        seed = gr.Number(usual.seed, precision=0, label="Seed of the random weights")

    def of(name: str, run: str | None) -> tuple[Path, Item]:
        if run is None:
            raise ValueError(place.without_runs())
        return place.run(run), place.item(name)

    @readable
    def draw(name: str, run: str | None, *values: Any) -> str:
        return drawing(*shown(*of(name, run), Choice(*values)))

    def frames(name: str, run: str | None, *values: Any) -> Any:
        try:
            choice = Choice(*values)
            network, clip, _ = kept(*of(name, run))
        except (ValueError, OSError):  # `draw` says why
            return gr.update(value=None, visible=False)
        framed = attention_strip(clip, {}, network.grid, choice.query(network.grid)[0])
        return gr.update(value=sheet(rgb(framed.rows["clip"])), visible=True)

    def pick(name: str, run: str | None, event: gr.SelectData) -> Any:
        network, clip, _ = kept(*of(name, run))
        t, h, w, _ = rgb(attention_strip(clip, {}, network.grid).rows["clip"]).shape
        cube = cube_at(event.index[0], event.index[1], (t, h, w), network.grid)
        return [gr.skip()] * 3 if cube is None else [*cube]

    fields = [
        videos.field(place),
        Field("run", choices=place.run_folders),
        Field("maps", [*usual.maps], choices=lambda: [*MAPS]),
        Field("random", usual.random, yes),
        Field("slot", None, rounded, between=WHOLE),
        Field("row", None, rounded, between=WHOLE),
        Field("column", None, rounded, between=WHOLE),
        Field("block", None, rounded, between=WHOLE),
        Field("seed", usual.seed, rounded, between=WHOLE),
    ]
    chosen = [video, run, maps, random, slot, row, column, block, seed]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    with gr.Row(elem_classes="row halves"):
        with gr.Column(elem_classes="held"):
            image = gr.Image(
                interactive=False, show_label=False, buttons=[], elem_id="frames", alt_text="the frames of the clip"
            )
        with gr.Column():
            clicked = image.select(pick, [video, run], [slot, row, column], **quiet)
            drawn = connect(place, blocks, fields, chosen, draw, button, [clicked])
    drawn.change(frames, chosen, image, **quiet)
