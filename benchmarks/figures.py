"""The pictures of docs/pictures/, as the papers have them, from films with a free licence, one run, and one table.

    tubelet pretrain videomae-small-cpu --data my_films/ --out runs/small          (without those in FILMS)
    python benchmarks/ratio_gestures.py ...                                        (writes ratio_gestures.csv)
    python benchmarks/figures.py --videos everyday/ --weights runs/small [--only masks ratios ...]

What each shows and where its film is from is in docs/pictures/README.md.
"""

import argparse
import csv
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from ratio_gestures import LENGTHS, NOTHING, RATIOS, Point
from torch import Tensor

from tubelet.attention_pictures import attention_maps, attention_strip, explained, legend
from tubelet.charts import Line, Panel, sweep
from tubelet.cli.looking import clips_of
from tubelet.config import Run
from tubelet.data.items import Item
from tubelet.data.motion import motion_source
from tubelet.data.prepare import prepare
from tubelet.data.sampling import Dense
from tubelet.evaluate.attention import token_at
from tubelet.evaluate.features import middle_batch, middle_clips, untrained
from tubelet.masks.named import Guide
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.motion_pictures import motion_strip, motion_strips, used
from tubelet.nn.patches import patchify
from tubelet.nn.vit import ViT
from tubelet.pictures import imaginer, masks_strip, named_masks, reconstruct, share
from tubelet.strips import Strip, enlarge, rgb, save_gif, save_png
from tubelet.train.checkpoint import load_encoder
from tubelet.types import Grid

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
TABLE = Path(__file__).with_name("ratio_gestures.csv")
READ_OUTS = {
    "linear layer, frozen": "linear on cells, {}",
    "nearest neighbours, frozen": "knn on cells, {}",
    "fine-tuned": "{}, 100% of labels",
}
# What is drawn of which film; none of them was trained on.
FILMS = {
    "tube_random_frame": "asl_book.mkv",
    "masks": "sam2_01_dog.mp4",
    "motion": "sam2_01_dog.mp4",
    "ratios": "asl_book.mkv",
    "attention": "asl_yes.mkv",
    "attention_moving": "car-detection.mp4",
    "top": {"asl_book.mkv": 0.2, "car-detection.mp4": 14.6},  # from these seconds on
}


# ---------------------------------------------------------------------------- masks and motion


def mask_figure(
    video: Path, kinds: Sequence[Any], out: Path, ratio: float | None = None, guide: Guide | None = None
) -> Path:
    """`out`: a clip of 16 frames of 224 pixels, and under it what each kind of mask leaves of it."""
    grid = Grid.of(16, 224, 224, (2, 16, 16))
    _, batch = clips_of(str(video), 1, 16, 4, (224, 224), guide)
    masks = named_masks(kinds, ratio, batch, grid, seed=0)
    caption = "What each mask leaves of a clip (16 frames at stride 4, 224x224, cubes of 2x16x16); grey is hidden."
    if guide:
        caption += f" MGM and MGMAE follow motion, here from {used(guide, [video], batch.notes)}."
    return save_png(out, masks_strip(batch.video, masks), caption)


def motion_figure(video: Path, out: Path, guide: Guide = "vectors") -> Path:
    """`out`: frames, motion as arrows and as colours, and the boxes that MGM puts on what moves."""
    grid = Grid.of(16, 224, 224, (2, 16, 16))
    _, batch = clips_of(str(video), 1, 16, 4, (224, 224), guide)
    assert batch.motion is not None
    masks = {name: mask for ratio in (0.4, 0.75) for name, mask in named_masks(("mgm",), ratio, batch, grid, 0).items()}
    said = used(guide, [video], batch.notes)
    strips, caption, wheel = motion_strips(batch.video, batch.motion, [""], said, masks)
    caption += " Orange: what MGM hides of every slot, at two ratios."
    return save_png(out, [replace(strip, heading="") for strip in strips], caption, legend=wheel)


# ---------------------------------------------------------------------------- what a run imagines


def doubled(clip: UInt8[Tensor, "c t h w"]) -> UInt8[Tensor, "c t y x"]:
    """A clip with every pixel twice, down and across: small ones stay sharp where screens have two dots a pixel."""
    return torch.from_numpy(enlarge(rgb(clip), 208)).permute(3, 0, 1, 2)


def ratio_figure(
    method: MaskedAutoencoder, run: Run, video: Path, out: Path, ratios: Sequence[float] = (0.75, 0.9, 0.95)
) -> Path:
    """`out`: a clip, and what a run sees and imagines of it at several ratios."""
    clip = middle_batch([video], run.data)
    rows, flat = {"original": doubled(clip.video[0])}, []
    for ratio in ratios:
        result = reconstruct(method, clip.video, ratio, 0, clip.motion)
        rows[f"{share(result.mask)} hidden"] = doubled(result.hidden[0])
        rows[f"imagined, {share(result.mask)} · {float(result.psnr):.1f} dB"] = doubled(result.imagined[0])
        flat += [] if result.baseline is None else [f"{float(result.baseline):.1f}"]
    caption = (
        "What a small encoder makes of a film that it was not trained on. dB: signal to noise of the imagined pixels; "
        f"flat cubes in the colours of visible ones nearby have {', '.join(flat)}."
    )
    return save_png(out, [Strip(rows)], caption)


def film_figure(
    method: MaskedAutoencoder,
    run: Run,
    starts: dict[Path, float],
    out: Path,
    ratio: float = 0.75,
    clips: int = 4,
    fps: float = 10,
) -> Path:
    """`out`, a GIF: films from these seconds on, at their own pace; what a run sees and imagines of them, clip after
    clip; and how they move."""
    sampler: Any = run.data.clip
    length = sampler.frames / fps
    data = replace(run.data, clip=Dense(sampler.frames, fps=fps))
    flow = motion_source("flow", min(run.data.size))
    strips = []
    for video, start in starts.items():
        rows: dict[str, list[Tensor]] = {}
        for part in range(clips):
            item = Item(video, start=start + part * length, end=start + (part + 1) * length)
            result = reconstruct(method, middle_batch([item], data).video, ratio)
            rows.setdefault("original", []).append(doubled(result.original[0]))
            rows.setdefault(f"{share(result.mask)} hidden", []).append(doubled(result.hidden[0]))
            rows.setdefault("imagined", []).append(doubled(result.imagined[0]))
        whole = Item(video, start=start, end=start + clips * length)
        batch = middle_batch([whole], replace(data, clip=Dense(clips * sampler.frames, fps=fps), motion=flow))
        assert batch.motion is not None
        moves = motion_strip(batch.video[0], batch.motion.each(lambda values: values[0]))
        films = {name: torch.cat(parts, 1) for name, parts in rows.items()} | {"motion": moves.rows["vectors"]}
        # The first frame has no motion. And the film begins in its middle, which pages show where films stand still.
        strips.append(Strip({name: film[:, 1:].roll(-film.shape[1] // 2, 1) for name, film in films.items()}))
    return save_gif(out, strips, fps=fps)


# ---------------------------------------------------------------------------- attention


def attention_figure(encoder: ViT, run: Run, video: Path, out: Path, moving: bool = False) -> Path:
    """`out`: where a trained and a random encoder look from the middle of a clip, or from what moves most there."""
    clip, grid = middle_clips([video], run.data), encoder.grid
    query = fastest(clip, grid) if moving else token_at(grid)
    maps = {}
    for whose, network in {"trained": encoder, "random": untrained(run, 0)}.items():
        heads = range(run.encoder.heads) if whose == "trained" else ()
        found = attention_maps(network, clip, query, heads=heads, rolled=True)
        maps |= {f"{whose}, {name}": values[0] for name, values in found.items()}
    caption = explained(grid, query, len(encoder.blocks), rolled=True)
    return save_png(out, [attention_strip(clip[0], maps, grid, query)], caption, legend=legend())


def fastest(clip: UInt8[Tensor, "1 c t h w"], grid: Grid) -> int:
    """The token of the middle slot whose pixels change most from frame to frame, away from the border."""
    change = clip.float().diff(dim=2, append=clip[:, :, -1:].float()).abs()
    cubes = patchify(change, grid.patch).mean(2).view(grid.T, grid.H, grid.W)[grid.T // 2]
    inner = torch.zeros_like(cubes)
    inner[1:-1, 1:-1] = cubes[1:-1, 1:-1]
    return grid.T // 2 * grid.slot + int(inner.argmax())


# ---------------------------------------------------------------------------- charts


def charts(table: Path, out: Path) -> list[Path]:
    """ratio.png, length.png and the same as SVG in `out`: accuracy over mask ratio, and over steps of pre-training.

    What the table does not have yet is left out.
    """
    rows = list(csv.DictReader(table.read_text().splitlines()))

    def values(pattern: str, name: str) -> list[float]:
        return [float(row["top1"]) for row in rows if row["name"] == pattern.format(name) and row["top1"]]

    def panels(points: dict[str, list[Point]], setting: Callable[[Point], float]) -> list[Panel]:
        made = []
        for title, pattern in READ_OUTS.items():
            lines = []
            for name, those in points.items():
                found = {setting(point): values(pattern, point.name) for point in those}
                lines.append(Line(name, {at: seeds for at, seeds in found.items() if seeds}))
            if any(line.points for line in lines):
                made.append(Panel(title, lines, values(pattern, NOTHING)))
        return made

    masks = {mask: [point for point in RATIOS if point.mask == mask] for mask in ("tube", "MGM")}
    lengths = {"tube, 90 % hidden": sorted([*LENGTHS, Point("tube", 0.9)], key=lambda point: point.steps)}
    ratio, length = panels(masks, lambda point: 100 * point.ratio), panels(lengths, lambda point: point.steps)
    written = sweep(ratio, out / "ratio.png", "hidden, %", "random weights") if ratio else []
    if length:
        written += sweep(length, out / "length.png", "steps", "random weights", doubling=True)
    return written


# ---------------------------------------------------------------------------- all of them


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, required=True, help="folder of the films")
    parser.add_argument("--weights", type=Path, required=True, help="folder of a run of videomae-small-cpu")
    parser.add_argument("--table", type=Path, default=TABLE, help="what ratio_gestures.py has written")
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for name, act in figures(args.videos, args.weights, args.table, args.out, Path(scratch)).items():
            if not args.only or name in args.only:
                print(act(), flush=True)


def figures(videos: Path, weights: Path, table: Path, out: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """What is to be drawn, by name; `scratch` is a folder for films made anew."""

    def film(name: str) -> Any:
        named: Any = FILMS[name]
        return videos / named if isinstance(named, str) else {videos / one: start for one, start in named.items()}

    def with_vectors(name: str) -> Path:
        """The film, made anew so that its vectors are exact."""
        folder = scratch / name
        prepare(film(name), folder, workers=0)
        return next(path for path in sorted(folder.rglob("*.mp4")))

    every = ("tube", "random", "frame", "block", "smm", "mgm", "mgmae")
    trio = ("tube", "random", "frame")
    return {
        "tube_random_frame": lambda: mask_figure(film("tube_random_frame"), trio, out / "tube_random_frame.png", 0.75),
        "masks": lambda: mask_figure(with_vectors("masks"), every, out / "masks.png", 0.75, "vectors"),
        "motion": lambda: motion_figure(with_vectors("motion"), out / "motion.png"),
        "ratios": lambda: ratio_figure(*imaginer(weights)[:2], film("ratios"), out / "ratios.png"),
        "attention": lambda: attention_figure(*load_encoder(weights), film("attention"), out / "attention.png"),
        "attention_moving": lambda: attention_figure(
            *load_encoder(weights), film("attention_moving"), out / "attention_moving.png", moving=True
        ),
        "charts": lambda: charts(table, out),
        "top": lambda: film_figure(*imaginer(weights)[:2], film("top"), out / "top.gif"),
    }


if __name__ == "__main__":
    main()
