"""The page of reconstructions: what a run imagines of a video of which it sees a part."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tubelet.config import Run
from tubelet.data.items import Item
from tubelet.evaluate.features import middle_batch
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.pictures import reconstruct, shown_by, taken
from tubelet.strips import Strip
from tubelet.types import Method
from tubelet.web import videos
from tubelet.web.connect import connect
from tubelet.web.looks import heading, readable, strips
from tubelet.web.networks import at
from tubelet.web.place import Place
from tubelet.web.state import WHOLE, Field, check_number, rounded

NAME, PATH = "Reconstruction", "reconstruction"
SENTENCE = "What a pre-trained model sees of a clip, and what it imagines in the place of what is hidden."
SHARES, USUAL = (0.05, 0.95), 0.9


@lru_cache(maxsize=2)
def opened(folder: Path, _: int) -> tuple[Method, Run, str]:
    """What `taken` gives, kept until the checkpoint changes; ready to be used by several at once."""
    method, run, about = taken(folder)
    return method.eval(), run, about


def shown(folder: Path, item: Item, name: str, ratio: float = USUAL, seed: int = 0) -> tuple[list[Strip], str]:
    """The middle clip of a video, what a run sees of it and what it imagines, with psnr; and how to read it.

    Of methods that imagine nothing hidden, what they have to show.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, a damaged one, or a method with nothing to show.
        VideoError: the video cannot be read.
    """
    check_number("ratio", ratio, SHARES)
    check_number("seed", seed, WHOLE)
    method, run, about = opened(folder, at(folder))
    if not isinstance(method, MaskedAutoencoder):
        drawn, note = shown_by(method, run, [item.path], seed)
        if not drawn:
            raise ValueError(f"{about} A {type(method).__name__} imagines nothing that could be shown")
        return drawn, f"{about} It hides no share of the clip, so the ratio does nothing. {note}"
    clips = middle_batch([item], run.data)
    fixed = not hasattr(method.mask, "ratio")
    result = reconstruct(method, clips.video, None if fixed else ratio, seed, clips.motion)
    [strip] = result.strips()
    note = " Its mask has no ratio to change." * fixed
    return [replace(strip, heading=f"{name} · {strip.heading}")], f"{about}{note} {result.note}"


def page(place: Place, blocks: Any) -> None:
    """The page itself."""
    import gradio as gr

    gr.HTML(heading(NAME, SENTENCE))
    video, button = videos.chooser(place)
    with gr.Row(elem_classes="row"):
        names = [*place.run_folders()]
        run = gr.Dropdown(names, value=next(iter(names), None), label="Run", scale=3, elem_id="run")
        ratio = gr.Slider(*SHARES, USUAL, step=0.05, label="Hidden", scale=2, elem_id="ratio")
        seed = gr.Number(0, precision=0, label="Seed of the mask", scale=1)

    @readable
    def draw(name: str, run: str | None, ratio: float, seed: int) -> str:
        if run is None:
            raise ValueError(place.without_runs())
        return strips(*shown(place.run(run), place.item(name), name, ratio, seed))

    fields = [
        videos.field(place),
        Field("run", choices=place.run_folders),
        Field("ratio", USUAL, float, between=SHARES),
        Field("seed", 0, rounded, between=WHOLE),
    ]
    connect(place, blocks, fields, [video, run, ratio, seed], draw, button)
