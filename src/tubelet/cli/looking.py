"""Verbs that draw pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.cli.arguments import chosen, parse
from tubelet.cli.embedding import picture_space


def picture(args: list[str]) -> int:
    """Look at masks, reconstructions, curves: tubelet picture mask|reconstruction|curves"""
    kinds: dict[str, Callable[[list[str]], int]] = {
        "mask": picture_mask,
        "reconstruction": picture_reconstruction,
        "curves": picture_curves,
        "space": picture_space,
    }
    return chosen(kinds, args, "picture")


def picture_mask(args: list[str]) -> int:
    """A mask on a video of yours; needs no weights."""

    @dataclass(frozen=True)
    class Mask:
        """Show what a mask hides of a video.

        tubelet picture mask --data cat.mp4 --kind tube --ratio 0.9 --out mask.png
        """

        data: str
        """A video (of a folder or list the first)."""
        kind: Literal["tube", "random", "frame"] = "tube"
        """Same places in all frames, tokens anywhere, or whole frames."""
        ratio: float = 0.9
        """Share of tokens hidden."""
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
        """Picture to write: .png is a strip, .gif moves."""

    a = parse(Mask, args, "picture mask")
    import torch

    from tubelet.data.datasets import Data
    from tubelet.data.sampling import Dense
    from tubelet.data.sources import find
    from tubelet.evaluate.features import middle_clips
    from tubelet.masks.random_masks import Frame, Random, Tube
    from tubelet.pictures import mask_strip, save
    from tubelet.types import Batch, Draws, Grid, Masker

    video = find(a.data)[0].path
    grid = Grid.of(a.frames, *a.size, a.patch)
    clip = middle_clips([video], Data(clip=Dense(a.frames, stride=a.stride), size=a.size))
    kinds: dict[str, Callable[[float], Masker]] = {"tube": Tube, "random": Random, "frame": Frame}
    masker = kinds[a.kind](a.ratio)
    mask = masker(Batch(clip, torch.arange(1)), grid, Draws(a.seed, 0, [0]))
    print(save(a.out, mask_strip(clip, mask), f"{video.name} · {a.kind} mask"))
    return 0


def picture_reconstruction(args: list[str]) -> int:
    """What a run imagines of hidden video."""

    @dataclass(frozen=True)
    class Reconstruction:
        """Hide parts of videos and show what a run imagines in their place, as strips (PNG) and films (GIF).

        tubelet picture reconstruction --weights runs/first --data cat.mp4 --ratio 0.75 0.9 0.95
        """

        weights: Path
        """A run folder."""
        data: str
        """A video, or a folder or list, of which the first --count are taken."""
        ratio: tuple[float, ...] = (0.75, 0.9, 0.95)
        """Shares of tokens hidden."""
        count: int = 1
        """How many videos."""
        seed: int = 0
        """Another seed, other masks."""
        out: Path | None = None
        """Folder to write into; default the pictures/ of the run."""

    a = parse(Reconstruction, args, "picture reconstruction")
    from tubelet.data.sources import find
    from tubelet.pictures import reconstruct_run

    if a.count < 1:
        raise ValueError(f"--count {a.count}: at least one video")
    paths = [item.path for item in find(a.data)[: a.count]]
    for path in reconstruct_run(a.weights, paths, a.ratio, a.out, a.seed):
        print(path)
    return 0


def picture_curves(args: list[str]) -> int:
    """Loss, rate, gradient and speed of a run over its steps."""

    @dataclass(frozen=True)
    class Curves:
        """Draw the curves of a run, as PNG and SVG.

        tubelet picture curves --run runs/first --out curves.png
        """

        run: Path
        """A run folder."""
        out: Path | None = None
        """PNG to write (the SVG beside it); default pictures/curves.png of the run."""

    a = parse(Curves, args, "picture curves")
    from tubelet.charts import curves

    out = a.out or a.run / "pictures" / "curves.png"
    if out.suffix != ".png":
        raise ValueError(f"--out {out}: name a .png; the .svg is written beside it")
    for path in curves(a.run, out):
        print(path)
    return 0
