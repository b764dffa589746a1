"""Verbs that draw pictures."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tubelet.cli.arguments import chosen, parse
from tubelet.cli.attending import picture_attention
from tubelet.cli.embedding import picture_space
from tubelet.masks.named import GUIDED, Guide, Kind

if TYPE_CHECKING:
    from tubelet.types import Batch


def picture(args: list[str]) -> int:
    """Look at masks, motion, attention and more: tubelet picture mask|motion|reconstruction|attention|curves|space"""
    kinds: dict[str, Callable[[list[str]], int]] = {
        "mask": picture_mask,
        "motion": picture_motion,
        "reconstruction": picture_reconstruction,
        "attention": picture_attention,
        "curves": picture_curves,
        "space": picture_space,
    }
    return chosen(kinds, args, "picture")


def picture_mask(args: list[str]) -> int:
    """Masks on a video of yours; needs no weights."""

    @dataclass(frozen=True)
    class Mask:
        """Show what a mask hides of a video, or several masks side by side.

        tubelet picture mask --data cat.mp4 --kind tube --ratio 0.9 --out mask.png

        tubelet picture mask --data cat.mp4 --kind tube smm mgm mgmae --out masks.gif
        """

        data: str
        """A video (of a folder or list the first)."""
        kind: tuple[Kind, ...] = ("tube",)
        """Same places in all frames, tokens anywhere, whole frames, one box; a box that moves at random (smm) or with
        what moves (mgm); tokens that move along with what they hide (mgmae). One or more."""
        ratio: float | None = None
        """Share of tokens hidden; default that of the kind's paper."""
        guide: Guide = "vectors"
        """Where the motion comes from that mgm and mgmae follow: the codec, or optical flow."""
        frames: int = 16
        """Frames of the clip."""
        stride: int = 4
        """Source frames from one frame of the clip to the next."""
        size: tuple[int, int] = (224, 224)
        """Height and width, in pixels."""
        patch: tuple[int, int, int] = (2, 16, 16)
        """Frames, height and width of a cube."""
        seed: int = 0
        """Another seed, another mask."""
        out: Path = Path("mask.png")
        """Picture to write: .png is a strip, .gif and .mp4 move."""

    a = parse(Mask, args, "picture mask")
    if not a.kind:
        raise ValueError("--kind: name at least one kind of mask")
    guide = a.guide if {*a.kind} & {*GUIDED} else None
    if guide is None and a.guide != Mask("").guide:
        raise ValueError(f"--guide {a.guide} does nothing: only {', '.join(GUIDED)} follow motion; leave it out")
    drawable(a.kind, a.out)
    from tubelet.motion_pictures import used
    from tubelet.pictures import mask_strip, masks_strip, named_masks
    from tubelet.strips import save
    from tubelet.types import Grid

    grid = Grid.of(a.frames, *a.size, a.patch)
    [path], batch = clips_of(a.data, 1, a.frames, a.stride, a.size, guide)
    masks = named_masks(a.kind, a.ratio, batch, grid, a.seed)
    title = f"{path.name} · motion from {used(guide, [path], batch.notes)}" if guide else path.name
    if len(masks) == 1:
        strips = mask_strip(batch.video, *masks.values())
        print(save(a.out, strips, f"{title} · {' '.join(masks)}"))
    else:
        caption = f"Grey is hidden, in cubes of {'x'.join(map(str, a.patch))}."
        print(save(a.out, masks_strip(batch.video, masks, title), caption))
    return 0


def drawable(kinds: Sequence[Kind], out: Path) -> None:
    """Looks for what cannot be drawn, before any video is read.

    Raises:
        ValueError: a kind of mask twice, or no ending of a picture.
    """
    from tubelet.strips import ending

    if twice := [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]:
        raise ValueError(f"--kind {' '.join(kinds)}: {twice[0]} is there twice; it would be the same mask")
    ending(out)


def clips_of(
    source: str, count: int, frames: int, stride: int, size: tuple[int, int], guide: Guide | None
) -> "tuple[list[Path], Batch]":
    """The first `count` videos of a source and their middle clips, with motion if there is a guide."""
    from tubelet.data.datasets import Data
    from tubelet.data.motion import motion_source
    from tubelet.data.sampling import Dense
    from tubelet.data.sources import find
    from tubelet.evaluate.features import middle_batch

    if count < 1:
        raise ValueError(f"--count {count}: at least one video")
    items = find(source)[:count]
    motion = guide and motion_source(guide, min(size))
    batch = middle_batch(items, Data(clip=Dense(frames, stride=stride), size=size, motion=motion))
    for note in batch.notes:
        print(note, file=sys.stderr)
    return [item.path for item in items], batch


def picture_motion(args: list[str]) -> int:
    """What moves in a video, and what a mask makes of it; or how well motion tells objects."""

    @dataclass(frozen=True)
    class Motion:
        """Show the motion of videos: frames, arrows, colours, and what masks hide. Or measure it inside of boxes.

        tubelet picture motion --data cat.mp4 --out motion.png

        tubelet picture motion --data videos/ --saliency --boxes boxes.csv
        """

        data: str
        """A video, or a folder or list."""
        guide: Guide = "vectors"
        """Where motion comes from: the codec, or optical flow."""
        kind: tuple[Kind, ...] = ("mgm",)
        """Masks whose borders are drawn; none with --kind alone."""
        ratio: float | None = None
        """Share of tokens that they hide; default that of the kind's paper."""
        frames: int = 16
        """Frames of a clip; with --saliency at most so many frames of a video that have boxes."""
        stride: int = 4
        """Source frames from one frame of a clip to the next; not with --saliency: that takes one."""
        size: tuple[int, int] = (224, 224)
        """Height and width, in pixels; with --saliency whole frames of this height are shown."""
        patch: tuple[int, int, int] = (2, 16, 16)
        """Frames, height and width of a cube."""
        count: int = 1
        """How many videos are shown; --saliency measures all."""
        seed: int = 0
        """Another seed, other masks."""
        saliency: bool = False
        """Print mean motion inside of boxes over that outside, of every video and of all, and draw the boxes."""
        boxes: Path | None = None
        """Table of boxes for --saliency: path, frame (from 0) or seconds, x1, y1, x2, y2 in pixels as shown."""
        json: bool = False
        """The numbers of --saliency as JSON lines."""
        out: Path = Path("motion.png")
        """Picture to write: .png is a strip, .gif and .mp4 move."""

    a = parse(Motion, args, "picture motion")
    if a.saliency != (a.boxes is not None):
        raise ValueError("--saliency and --boxes go together: the boxes say where objects are")
    if a.json and not a.saliency:
        raise ValueError("--json is for the numbers of --saliency")
    if a.boxes is not None:
        idle = [
            name
            for name in ("kind", "ratio", "stride", "patch", "seed")
            if getattr(a, name) != getattr(Motion(""), name)
        ]
        if idle:
            raise ValueError(
                f"--{' --'.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing with --saliency; leave out"
            )
        return salient(a.data, a.boxes, a.guide, a.frames, a.count, a.size[0], a.json, a.out)
    drawable(a.kind, a.out)
    from tubelet.motion_pictures import motion_strips, used
    from tubelet.pictures import named_masks
    from tubelet.strips import save
    from tubelet.types import Grid

    grid = Grid.of(a.frames, *a.size, a.patch)
    paths, batch = clips_of(a.data, a.count, a.frames, a.stride, a.size, a.guide)
    assert batch.motion is not None
    masks = named_masks(a.kind, a.ratio, batch, grid, a.seed)
    guide = used(a.guide, paths, batch.notes)
    strips, caption, legend = motion_strips(batch.video, batch.motion, [path.name for path in paths], guide, masks)
    print(save(a.out, strips, caption, legend))
    return 0


def salient(
    source: str, table: Path, guide: Guide, frames: int, count: int, height: int, as_json: bool, out: Path
) -> int:
    """Prints the saliency of videos that have boxes, and draws the first `count` of them."""
    import json

    from tubelet.data.boxes import read_boxes
    from tubelet.data.motion import motion_source
    from tubelet.data.sources import find
    from tubelet.data.video import VideoError
    from tubelet.evaluate.saliency import Annotated, annotated, overall
    from tubelet.motion_pictures import boxes_strips, used
    from tubelet.strips import save

    if frames < 1 or count < 1:
        raise ValueError(f"--frames {frames} --count {count}: at least one of each")
    drawable((), out)
    boxes, items = read_boxes(table), find(source)
    there = [item for item in items if item.path.resolve() in boxes.by_path]
    if len(there) < len(items):
        print(f"{len(items) - len(there)} of {len(items)} videos have no boxes and are left out", file=sys.stderr)
    notes: dict[str, None] = {}
    shown: list[tuple[Path, Annotated]] = []
    scores = []
    for item in there or items[:1]:  # without any, the first says so
        try:
            seen = annotated(item, boxes, motion_source(guide, 128), frames)
        except (VideoError, OSError, ValueError) as error:
            if len(there) < 2:
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        notes |= dict.fromkeys(seen.notes)
        scores.append(seen.saliency)
        shown += [(item.path, seen)] * (len(shown) < count)
        line = {"path": str(item.path)} | seen.saliency.to_dict()
        print(json.dumps(line) if as_json else f"{seen.saliency}  {item.path}", flush=True)
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    if not scores:
        raise ValueError(f"none of the {len(there)} videos with boxes can be measured")
    total = overall(scores)
    print(json.dumps(total.to_dict()) if as_json else total)
    said = used(guide, [path for path, _ in shown], [note for _, seen in shown for note in seen.notes])
    strips, caption, legend = boxes_strips([(path.name, seen) for path, seen in shown], said, height)
    print(save(out, strips, caption, legend), file=sys.stderr if as_json else sys.stdout)
    return 0


def picture_reconstruction(args: list[str]) -> int:
    """What a run imagines of hidden video."""

    @dataclass(frozen=True)
    class Reconstruction:
        """Hide parts of videos and show what a run imagines in their place, as strips (PNG) and films (GIF).

        tubelet picture reconstruction --weights runs/first --data cat.mp4 --ratio 0.75 0.9 0.95

        tubelet picture reconstruction --weights runs/tube runs/mgm --data cat.mp4 --out side_by_side
        """

        weights: tuple[Path, ...]
        """A run folder, or weights of others with their decoder; or several, to see side by side what they make of the
        same clips."""
        data: str
        """A video, or a folder or list, of which the first --count are taken."""
        ratio: tuple[float, ...] = ()
        """Shares of tokens hidden; default 0.75 0.9 0.95, and for several runs what each hid in training."""
        count: int = 1
        """How many videos."""
        seed: int = 0
        """Another seed, other masks."""
        out: Path | None = None
        """Folder to write into; default one named after the first video, in the pictures/ of the first run."""

    a = parse(Reconstruction, args, "picture reconstruction")
    from tubelet.data.sources import find
    from tubelet.pictures import home, reconstruct_run, reconstruct_runs

    if a.count < 1:
        raise ValueError(f"--count {a.count}: at least one video")
    if not a.weights:
        raise ValueError("--weights: name at least one run folder")
    if len(a.weights) > 1 and len(a.ratio) > 1:
        raise ValueError(f"--ratio {' '.join(map(str, a.ratio))}: of several runs one picture is made; name one ratio")
    paths, first = [item.path for item in find(a.data)[: a.count]], a.weights[0]
    # beside those of the run, not in their place: its report shows them
    out = a.out or home(first) / paths[0].stem
    if len(a.weights) == 1:
        written = reconstruct_run(first, paths, a.ratio, out, a.seed)
    else:
        written = reconstruct_runs(a.weights, paths, out, a.ratio[0] if a.ratio else None, a.seed)
    for path in written:
        print(path)
    return 0


def picture_curves(args: list[str]) -> int:
    """Loss, rate, gradient and speed of a run over its steps."""

    @dataclass(frozen=True)
    class Curves:
        """Draw the curves of a run, or of several in one picture, as PNG and SVG.

        tubelet picture curves --run runs/first --out curves.png

        tubelet picture curves --run runs/tube runs/mgm --out both.png
        """

        run: tuple[Path, ...]
        """A run folder, or several."""
        out: Path | None = None
        """PNG to write (the SVG beside it); default pictures/curves.png of the run, and of several
        pictures/curves_together.png of the first."""

    a = parse(Curves, args, "picture curves")
    from tubelet.charts import curves

    if not a.run:
        raise ValueError("--run: name at least one run folder")
    out = a.out or a.run[0] / "pictures" / f"curves{'_together' * (len(a.run) > 1)}.png"
    if out.suffix != ".png":
        raise ValueError(f"--out {out}: name a .png; the .svg is written beside it")
    for path in curves(a.run, out):
        print(path)
    return 0
