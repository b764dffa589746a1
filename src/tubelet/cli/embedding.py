"""Verbs about features: make them, search them, draw them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, opened, parse


def embed_verb(args: list[str]) -> int:
    """Features of videos: tubelet embed PATH --weights RUN --out FEATURES"""

    @dataclass(frozen=True)
    class Embed:
        """Write what an encoder makes of videos: of one middle clip each, or of windows that slide over them.

        tubelet embed my_videos/ --weights runs/first --out features.npy

        A table of the clips (path, label, start, end) is written beside the array. The same command goes on where it
        was stopped. Exit code 1 if not one video could be read.
        """

        path: tyro.conf.Positional[str]
        """A folder of videos, one video, or a list file."""
        weights: Path
        """A run folder, pre-trained or fine-tuned, or a .safetensors of it, or weights of others."""
        out: Path
        """Where to: NAME.npy, NAME.parquet, or a folder (an .npy in it); arrays can be memory-mapped."""
        window: str | None = None
        """Length of sliding windows, in seconds or in frames (16f). Without this and --stride: one middle clip each."""
        stride: str | None = None
        """From one window to the next, in seconds or in frames; default the window."""
        tokens: bool = False
        """Keep every token instead of their mean."""
        block: int | None = None
        """Output of this block (1 is the first), without a norm; default: the end, behind the last norm."""
        half: bool = False
        """Keep 16 bits of a number instead of 32."""
        tad: bool = False
        """Files for temporal action localisation instead: --out is a folder of an .npy a video, "windows width"."""
        tad_stride: int = 4
        """Frames from one window of consecutive frames to the next: 4 is usual for THUMOS14, 16 for FineAction."""
        tad_normalise: Literal["trained", "none"] = "trained"
        """Colours as in training, or only in [0, 1], as VideoMAE V2's released extractor does it."""
        batch: int = 16
        """Clips at a time."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        device: str = "auto"
        """cpu, cuda, cuda:1, mps; auto takes the best there is."""
        json: bool = False
        """One JSON object on stdout."""

    a = parse(Embed, args, "embed")
    from tubelet.data.sources import find
    from tubelet.evaluate.embed import Embedding, embed
    from tubelet.evaluate.localisation import localisation
    from tubelet.train.device import pick_device
    from tubelet.train.log import Counter, say

    network, run = opened(a.weights, a.others, "all")
    network = network.to(pick_device(a.device))
    progress = Counter("videos embedded", a.json)
    if a.tad:
        if a.window or a.stride or a.tokens or a.block or a.half:
            raise ValueError(
                "--tad has its own windows, and keeps the mean token of the end: only --tad-stride goes with it"
            )
        length = run.data.clip.frames
        if length != 16:
            say(f"this encoder reads {length} frames, so windows are {length} frames long; 16 is usual")
        mean_std = a.tad_normalise == "trained"
        made = localisation(network, find(a.path), run.data, a.out, a.tad_stride, mean_std, a.batch, progress)
    else:
        ways = Embedding(a.block, a.tokens, a.window, a.stride, a.half)
        made = embed(network, find(a.path), run.data, a.out, ways, a.batch, progress)
    if made.before:
        say(f"{made.before} rows were there already")
    for path, problem in made.problems:
        say(f"unreadable: {problem if path in problem else f'{path}: {problem}'}")
    if made.problems:
        say(f"{len(made.problems)} of {made.videos} videos could not be read in full; the others are embedded")
    if a.json:
        print(json.dumps(made.to_dict()))
    else:
        print(f"{made.out}: {made.rows} rows from {made.videos - len(made.problems)} videos")
    return 0 if made.rows else 1


def similar_verb(args: list[str]) -> int:
    """Clips that are like one: tubelet similar CLIP --features FEATURES"""

    @dataclass(frozen=True)
    class Similar:
        """Find the embedded clips that are most like an example, by the cosine of their features.

        tubelet similar cat.mp4 --features features.npy --weights runs/first --top 5

        A video that is in the table needs no weights; clips that overlap with the example are then left out.
        """

        clip: tyro.conf.Positional[Path]
        """A video: one of the table, or another, whose middle clip is embedded."""
        features: Path
        """What `tubelet embed` wrote."""
        weights: Path | None = None
        """The run that the table was made with; only for a video that is not in it."""
        at: float | None = None
        """Of a video in the table, take the clip that shows this second; default the middle one."""
        top: int = 10
        """How many neighbours."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        device: str = "auto"
        """cpu, cuda, cuda:1, mps; auto takes the best there is."""
        json: bool = False
        """One JSON object on stdout instead of a table."""

    a = parse(Similar, args, "similar")
    from tubelet.data.sources import Item
    from tubelet.evaluate.embed import example
    from tubelet.evaluate.feature_files import read
    from tubelet.evaluate.similar import like_row, nearest, row_at
    from tubelet.train.device import pick_device

    table = read(a.features)
    row = row_at(a.clip, table.rows, a.at)
    if row is not None:
        found = like_row(row, table, a.top)
    else:
        if a.weights is None:
            raise ValueError(f"{a.clip} is not in {a.features}; to embed it, give the --weights that made the table")
        if a.at is not None:
            raise ValueError(f"--at {a.at:g}: only for a video in the table; of {a.clip} the middle clip is taken")
        network, run = opened(a.weights, a.others, "all")
        network = network.to(pick_device(a.device))
        found = nearest(example(network, Item(a.clip), run.data, table), table, a.top)
    if a.json:
        print(json.dumps({"clip": str(a.clip), "row": row, "neighbours": [one.to_dict() for one in found]}))
        return 0
    from rich.console import Console
    from rich.table import Table

    shown = Table("cosine", "video", "seconds", "label", box=None, header_style="bold", pad_edge=False)
    for one in found:
        shown.add_row(
            f"{one.cosine:.4f}", one.clip.path, f"{one.clip.start:.2f} - {one.clip.end:.2f}", one.clip.label or ""
        )
    Console(highlight=False, soft_wrap=True).print(shown)
    return 0


def picture_space(args: list[str]) -> int:
    """Embedded clips as points, near those that are like them."""

    @dataclass(frozen=True)
    class Space:
        """Draw embedded clips as points in a plane, coloured by label.

        tubelet picture space --features features.npy --out space.png
        """

        features: Path
        """What `tubelet embed` wrote."""
        out: Path = Path("space.png")
        """PNG to write."""
        method: Literal["pca", "tsne", "umap"] = "pca"
        """How width becomes two axes: PCA; t-SNE and UMAP with the extra tubelet[space]."""
        by: Literal["label", "video"] = "label"
        """What colours mean."""
        thumbnails: int = 0
        """Show about so many clips as small pictures."""
        most: int = 5000
        """Of more clips, show so many, evenly spread."""
        seed: int = 0
        """Of t-SNE and UMAP: another seed, another picture."""

    a = parse(Space, args, "picture space")
    from tubelet.evaluate.feature_files import read
    from tubelet.space import save_space

    print(save_space(read(a.features), a.out, a.method, a.by, a.thumbnails, a.most, a.seed))
    return 0
