"""The page of similar clips: which clips of an embedded folder are most like one, side by side."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tubelet.data.items import Item
from tubelet.data.parts import chosen as frames_of
from tubelet.data.sampling import Segments
from tubelet.data.shards import state_of
from tubelet.data.video import frames_at, probe
from tubelet.evaluate.embed import example
from tubelet.evaluate.feature_files import Row, Table, beside, read, stem_of
from tubelet.evaluate.similar import Neighbour, like_row, nearest, row_at
from tubelet.printable import printable
from tubelet.web import videos
from tubelet.web.connect import connect
from tubelet.web.looks import films, heading, readable, said
from tubelet.web.networks import maker
from tubelet.web.place import MOST, Place, apart
from tubelet.web.state import Field, check_number

NAME, PATH = "Similar clips", "similar"
SENTENCE = "Which clips of an embedded folder are most like one, by the cosine of their features."
OF = {"clip": "a clip of these", "video": "a video"}
TOP = (1, 24)
WIDTH, LARGE, FRAMES = 200, 400, 12  # of films, pixels: neighbours, the example; frames that are spread over the clip
Films = dict[str, UInt8[Tensor, "c _ _ _"]]
NOT_SHOWN = "not in the chosen folders"


@dataclass(frozen=True)
class Clips:
    """A table of features, and what its clips are called here."""

    table: Table
    names: dict[str, int]
    """Rows by name: the video and its seconds."""
    shown: frozenset[int]
    """Rows of videos in the chosen folders; the others are only named."""

    def name(self, row: int) -> str:
        """What a row is called."""
        return [*self.names][row]


@lru_cache(maxsize=4)
def opened(file: Path, _: int, place: Place, videos: frozenset[tuple[str, Path]]) -> Clips:
    """The clips of a file of features; `videos` are those that may be shown, by name."""
    table = read(file)
    real = {path.resolve(): name for name, path in sorted(videos, reverse=True)}
    known = {path: real.get(Path(path).resolve()) for path in {row.path for row in table.rows}}
    names = apart(called(row, known[row.path]) for row in table.rows)
    shown = frozenset(number for number, row in enumerate(table.rows) if known[row.path] is not None)
    return Clips(table, {name: row for row, name in enumerate(names)}, shown)


def clips_of(place: Place, features: str | None) -> Clips:
    """The clips of features, by their name.

    Raises:
        ValueError: no features were chosen, or none of that name; or they are damaged or not finished.
        FileNotFoundError: they are no longer there.
    """
    if features is None:
        raise ValueError(
            "no features were chosen: make some with tubelet embed DIR --weights RUN --out features.npy, and start "
            "tubelet serve with --features features.npy"
        )
    file = place.feature_file(features)
    card = file if file.suffix == ".parquet" else beside(stem_of(file), ".json")
    stamp = card.stat().st_mtime_ns if card.exists() else 0
    return opened(file, stamp, place, frozenset((name, item.path) for name, item in place.known().items()))


def called(row: Row, name: str | None) -> str:
    """The video of a row, by its name here or that of its file, and its seconds."""
    return f"{name or printable(Path(row.path).name, lines=False)} · {row.start:.2f} to {row.end:.2f} s"


# ---------------------------------------------------------------------------- the example and those that are like it


def asked(place: Place, clips: Clips, of: str, clip: str | None, video: str, top: int) -> tuple[str, list[Neighbour]]:
    """What the example is called, and its neighbours; clips that overlap with it are none.

    Raises:
        ValueError: no such clip, or the run that made the features is not there.
        VideoError: the video cannot be read.
    """
    if of not in OF:
        raise ValueError(f"example {of!r}: expected {' or '.join(OF)}")
    check_number("neighbours", top, TOP)
    table = clips.table
    if of == "video":
        item = place.item(video)
        row = row_at(item.path, table.rows)
        if row is None:
            network, run = maker(place, table.about["weights"])
            return video, nearest(example(network, item, run.data, table), table, top)
        return clips.name(row), like_row(row, table, top)
    if not clips.names:
        raise ValueError("these features are of no clip: the table has 0 rows")
    name = next(iter(clips.names)) if clip is None else clip
    if name not in clips.names:
        raise ValueError(f"no clip {name!r} in these features; choose one of their {len(clips.names)}")
    return name, like_row(clips.names[name], table, top)


# ---------------------------------------------------------------------------- films


@lru_cache(maxsize=96)
def film_of(
    path: Path, start: float | None, end: float | None, width: int, _: tuple[int, int]
) -> UInt8[Tensor, "c t h w"]:
    """A part of a video, small, at most twice as high as wide.

    Raises:
        VideoError: it cannot be read.
    """
    item, video = Item(path, start=start, end=end), probe(path)
    size = min(max(round(video.height * width / video.width), 1), 2 * width), width
    found = frames_at(video, lambda video: frames_of(item, video.seconds, Segments(FRAMES)), size=size)
    return found.frames.permute(3, 0, 1, 2)


def seen(clips: Clips, row: int, width: int = WIDTH) -> tuple[UInt8[Tensor, "c t h w"], str]:
    """The film of a row, or a grey one, and why."""
    there = clips.table.rows[row]
    grey = torch.full((3, 1, width * 9 // 16, width), 128, dtype=torch.uint8)
    if row not in clips.shown:
        return grey, f" ({NOT_SHOWN})"
    try:
        path = Path(there.path)
        return film_of(path, there.start, there.end, width, state_of(path)), ""
    except (ValueError, OSError):
        return grey, " (cannot be read any more)"


def shown(
    place: Place, features: str | None, of: str, clip: str | None, video: str, top: int
) -> tuple[Films, Films, list[str]]:
    """The example and its neighbours as films by what is said of each, and what else there is to say.

    Raises:
        FileNotFoundError, ValueError, VideoError: as `clips_of` and `asked`.
    """
    clips = clips_of(place, features)
    name, found = asked(place, clips, of, clip, video, top)
    if name in clips.names:
        film, why = seen(clips, clips.names[name], LARGE)
    else:
        item = place.item(video)
        film = film_of(item.path, item.start, item.end, LARGE, state_of(item.path))
        why = " (of which the middle clip is embedded)"
    alike: Films = {}
    for rank, neighbour in enumerate(found, 1):
        small, reason = seen(clips, neighbour.row)
        label = f" · {neighbour.clip.label}" if neighbour.clip.label else ""
        alike[f"{rank}. cosine {neighbour.cosine:.4f} · {clips.name(neighbour.row)}{label}{reason}"] = small
    hidden = sum(NOT_SHOWN in text for text in alike)
    notes = [f"{hidden} of these lie outside of what --videos names, so they are only named"] if hidden else []
    return {f"{name}{why}": film}, alike, notes


def drawing(one: Films, alike: Films, notes: list[str]) -> str:
    """The example above its neighbours."""
    below = films(alike) if alike else said(["no other clip in these features"])
    caption = "Cosine: 1 is the same direction, 0 none in common. Clips that overlap with the example are left out."
    return (
        f'<div class="shown alike"><h3>Example</h3>{films(one)}<h3>Most like it</h3>{below}'
        f'<p class="caption">{caption}</p>{said(notes)}</div>'
    )


# ---------------------------------------------------------------------------- the page


def page(place: Place, blocks: Any) -> None:
    """The page itself."""
    import gradio as gr

    def names(features: str | None) -> list[str]:
        try:
            return [*clips_of(place, features).names][:MOST]
        except (ValueError, OSError):  # `draw` says why
            return []

    gr.HTML(heading(NAME, SENTENCE))
    files = [*place.feature_files()]
    first = next(iter(files), None)
    with gr.Row(elem_classes="row"):
        features = gr.Dropdown(files, value=first, label="Features", scale=3, elem_id="features")
        of = gr.Radio([(text, name) for name, text in OF.items()], value="clip", label="Like", scale=3, elem_id="of")
        top = gr.Slider(*TOP, 6, step=1, label="How many", scale=2, elem_id="top")
    there = names(first)
    usual = next(iter(there), None)
    clip = gr.Dropdown(there, value=usual, label="Clip", allow_custom_value=True, filterable=True, elem_id="clip")
    with gr.Group(visible=False) as group:
        video, button = videos.chooser(place)

    @readable
    def draw(video: str, features: str | None, of: str, clip: str | None, top: int) -> str:
        return drawing(*shown(place, features, of, clip, video, top))

    def fill(features: str | None, clip: str | None) -> Any:
        there = names(features)
        return gr.update(choices=there, value=clip if clip in there else next(iter(there), None))

    def turn(of: str) -> tuple[Any, Any]:
        return gr.update(visible=of == "clip"), gr.update(visible=of == "video")

    fields = [
        videos.field(place),
        Field("features", choices=lambda: [*place.feature_files()]),
        Field("of", "clip", choices=lambda: [*OF]),
        Field("clip", usual),
        Field("top", 6, int, between=TOP),
    ]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    filled = features.change(fill, [features, clip], clip, **quiet)
    of.change(turn, of, [clip, group], **quiet)
    connect(place, blocks, fields, [video, features, of, clip, top], draw, button, [filled])
