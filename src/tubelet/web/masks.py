"""The page of masks: what each hides of a clip, beside what moves in it; needs no weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from PIL import Image

from tubelet.data.datasets import Data
from tubelet.data.items import Item
from tubelet.data.motion import motion_source
from tubelet.data.sampling import Dense
from tubelet.evaluate.features import middle_batch
from tubelet.masks.named import GUIDED, KINDS, Guide, Kind, masker_of
from tubelet.motion_pictures import motion_strips, used
from tubelet.pictures import masks_strip, named_masks
from tubelet.strips import Strip
from tubelet.types import Grid
from tubelet.web import videos
from tubelet.web.connect import connect
from tubelet.web.looks import heading, readable, strips
from tubelet.web.place import Place
from tubelet.web.state import WHOLE, Field, check_number, rounded, yes

NAME, PATH = "Masks", "masks"
SENTENCE = "What a mask hides of a clip in pre-training: grey cubes are what the model must imagine."
FRAMES, STRIDES, SIZES, CUBES = (4, 8, 16, 32), (1, 2, 4, 8, 16), (64, 96, 112, 128, 160, 192, 224, 256), (4, 8, 16, 32)
SHARES = (0.05, 0.95)


@dataclass(frozen=True)
class Choice:
    """What is chosen on the page; it comes from outside, so everything is looked at.

    Raises:
        ValueError: what the page does not offer.
    """

    kinds: Sequence[str] = ("tube",)
    ratio: float = 0.9
    """Share of tokens hidden."""
    motion: bool = False
    """Whether motion is shown."""
    guide: str = "vectors"
    """Where motion comes from: the codec or optical flow."""
    frames: int = 16
    stride: int = 4
    size: int = 224
    """Height and width, pixels."""
    cube: int = 16
    """Height and width of a cube of two frames, pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("choose at least one kind of mask")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"no mask {unknown[0]!r}; there are {', '.join(KINDS)}")
        check_number("ratio", self.ratio, SHARES)
        for name, there in (("frames", FRAMES), ("stride", STRIDES), ("size", SIZES), ("cube", CUBES)):
            if getattr(self, name) not in there:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(map(str, there))}")
        if self.guide not in ("vectors", "flow"):
            raise ValueError(f"motion from {self.guide!r}: expected vectors or flow")
        check_number("seed", self.seed, WHOLE)


def shown(item: Item, name: str, choice: Choice) -> tuple[list[Strip], str, Image.Image | None]:
    """The middle clip of a video under masks, and its motion if that is asked for; the caption, and the legend.

    Raises:
        VideoError: the video cannot be read.
        ValueError: sizes that do not go together, or flow without OpenCV.
    """
    size = (choice.size, choice.size)
    grid = Grid.of(choice.frames, *size, (2, choice.cube, choice.cube))
    guided = choice.motion or bool({*choice.kinds} & {*GUIDED})
    source = motion_source(cast(Guide, choice.guide), choice.size) if guided else None
    batch = middle_batch([item], Data(clip=Dense(choice.frames, stride=choice.stride), size=size, motion=source))
    masks = named_masks(cast(Sequence[Kind], choice.kinds), choice.ratio, batch, grid, choice.seed)
    guide = used(choice.guide, [item.path], batch.notes) if guided else ""
    drawn = masks_strip(batch.video, masks, f"{name} · motion from {guide}" if guided else name)
    caption = f"Grey is hidden, in cubes of {'x'.join(map(str, grid.patch))} (frames, pixels, pixels). {papers(choice)}"
    if not choice.motion or batch.motion is None:
        return drawn, caption, None
    [moving], explained, legend = motion_strips(batch.video, batch.motion, [name], guide, masks)
    rows = {row: clip for row, clip in moving.rows.items() if row != "frames"}  # which is the original above
    return [*drawn, replace(moving, rows=rows)], f"{caption} {explained}", legend


def papers(choice: Choice) -> str:
    """What the masks hide in their papers: on the page one ratio is for all."""
    shares = (f"{kind} {cast(Any, masker_of(cast(Kind, kind), None)).ratio:.3g}" for kind in choice.kinds)
    return f"Their papers hide: {', '.join(shares)}."


def page(place: Place, blocks: Any) -> None:
    """The page itself."""
    import gradio as gr

    gr.HTML(heading(NAME, SENTENCE))
    video, button = videos.chooser(place)
    usual = Choice()
    with gr.Row(elem_classes="row"):
        kinds = gr.CheckboxGroup([*KINDS], value=[*usual.kinds], label="Masks", scale=3, elem_id="kinds")
        ratio = gr.Slider(*SHARES, usual.ratio, step=0.05, label="Hidden", scale=2, elem_id="ratio")
    with gr.Row(elem_classes="row"):
        motion = gr.Checkbox(usual.motion, label="Show motion", scale=1, elem_id="motion")
        guide = gr.Radio(
            [("the codec's vectors", "vectors"), ("optical flow", "flow")],
            value=usual.guide,
            label="Motion from",
            scale=3,
            elem_id="guide",
        )
    with gr.Accordion("Clip: frames, stride, size, cubes, seed", open=False), gr.Row(elem_classes="row"):
        frames = gr.Dropdown([*FRAMES], value=usual.frames, label="Frames")
        stride = gr.Dropdown([*STRIDES], value=usual.stride, label="Stride (source frames from one to the next)")
        size = gr.Dropdown([*SIZES], value=usual.size, label="Height and width, pixels")
        cube = gr.Dropdown([*CUBES], value=usual.cube, label="Cubes, pixels")
        seed = gr.Number(usual.seed, precision=0, label="Seed of the masks")

    @readable
    def draw(name: str, *values: Any) -> str:
        return strips(*shown(place.item(name), name, Choice(*values)))

    fields = [
        videos.field(place),
        Field("kinds", [*usual.kinds], choices=lambda: KINDS),
        Field("ratio", usual.ratio, float, between=SHARES),
        Field("motion", usual.motion, yes),
        Field("guide", usual.guide, choices=lambda: ("vectors", "flow")),
        Field("frames", usual.frames, int, lambda: FRAMES),
        Field("stride", usual.stride, int, lambda: STRIDES),
        Field("size", usual.size, int, lambda: SIZES),
        Field("cube", usual.cube, int, lambda: CUBES),
        Field("seed", usual.seed, rounded, between=WHOLE),
    ]
    connect(place, blocks, fields, [video, kinds, ratio, motion, guide, frames, stride, size, cube, seed], draw, button)
