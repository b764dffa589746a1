"""Weights in our names with the geometry that they need; what every format is read into."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.data.sampling import Dense, Segments, Spread
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import Positions, sinusoid_of_plane
from tubelet.nn.vit import Encoder
from tubelet.targets import MEAN, STD
from tubelet.types import Grid
from tubelet.weights.archive import Archive
from tubelet.weights.report import Report


@dataclass(frozen=True)
class Asked:
    """What shapes do not tell, where somebody knows it."""

    heads: int | None = None
    """Attention heads of the encoder; none: as of the released models of that width, else 64 channels each."""
    frames: int | None = None
    """Frames of a clip; none: as the file says, else 16."""
    size: tuple[int, int] | None = None
    """Height and width of a clip; none: as the file says, else 224x224."""
    labels: tuple[str, ...] = ()
    """Names of the classes of a head."""
    rows: tuple[int, ...] = ()
    """Rows of the head to keep, in this order, as of 710 classes the 400 of Kinetics-400."""
    positions: Literal["computed", "interpolated"] = "computed"
    """Fixed positions of other clips than in training: computed anew, as VideoMAE's code does, or interpolated."""


@dataclass
class Found:
    """An encoder, with a decoder or a head or neither, named as in a `MaskedAutoencoder` or a `Classifier`."""

    state: dict[str, Tensor]
    encoder: Encoder
    decoder: Decoder | None
    frames: int
    size: tuple[int, int]
    report: Report
    labels: tuple[str, ...] = ()
    normalised: bool | None = None
    """Whether the decoder predicts normalised pixels; none: the file does not say."""
    channels: int = 3
    normed: bool = True
    """Whether the encoder ends with a norm; those of classifiers never do."""
    trained: Grid | None = field(default=None)
    """The grid it was trained on, where its fixed positions are to be interpolated from that."""
    clip: Dense | Segments | Spread | None = None
    """Which frames of a video made a clip; none: the file does not say."""

    @property
    def grid(self) -> Grid:
        """Where its tokens are.

        Raises:
            ValueError: frames or size do not divide into cubes.
        """
        return Grid.of(self.frames, *self.size, self.encoder.patch)

    @property
    def kind(self) -> Literal["pre-trained", "fine-tuned", "encoder"]:
        """What there is beside the encoder: a decoder, a head, or nothing."""
        if "decoder.head.weight" in self.state:
            return "pre-trained"
        return "fine-tuned" if "head.weight" in self.state else "encoder"


def grid_if(frames: int, size: tuple[int, int], patch: tuple[int, int, int]) -> Grid | None:
    """Where tokens are, if the clip divides into cubes."""
    fits = all(side % cube == 0 for side, cube in zip((frames, *size), patch))
    return Grid.of(frames, *size, patch) if fits else None


def begun(archive: Archive, what: str) -> Report:
    """A report of a file that was taken for a format."""
    return Report(archive.path, what, notes=list(archive.notes))


def agreed(config: dict[str, Any], ours: dict[str, Any], report: Report) -> None:
    """Checks that a config.json, where it tells these, tells what the tensors tell.

    Raises:
        ValueError: it contradicts them.
    """
    for key, value in ours.items():
        if config.get(key, value) != value:
            raise ValueError(f"{report.path} and the config.json beside it contradict: {key} {value} and {config[key]}")


def cubes(state: dict[str, Tensor], name: str, report: Report) -> tuple[int, int, int]:
    """Makes a convolution of cubes "d c pt ph pw" (or of patches "d c ph pw") the Linear that ours is, in `state`; the
    cube.

    Raises:
        ValueError: the tensor is missing or of no such shape.
    """
    kernel = state.get(name)
    if kernel is None or kernel.ndim not in (4, 5):
        raise ValueError(f"{report.path} ({report.format}) has no embedding of patches that is a convolution")
    kernel = kernel.unsqueeze(2) if kernel.ndim == 4 else kernel
    state[name] = kernel.permute(0, 2, 3, 4, 1).flatten(1)
    theirs = next(old for old in report.tensors if embeds(old))
    report.add("reshaped", "a convolution as a matrix over a cube's values", theirs)
    return cube(kernel)


def cube(kernel: Tensor) -> tuple[int, int, int]:
    """What a convolution "d c pt ph pw" or "d c ph pw" makes a token of."""
    return kernel.shape[2] if kernel.ndim == 5 else 1, kernel.shape[-2], kernel.shape[-1]


def embeds(name: str) -> bool:
    """Whether a name of theirs is that of the embedding's kernel."""
    return name.endswith(
        ("patch_embed.proj.weight", "patch_embeddings.projection.weight", "patch_embeddings.proj.weight")
    )


def depth_of(state: dict[str, Tensor], prefix: str) -> int:
    """Number of blocks whose names begin so."""
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)), default=-1)


def whole(state: dict[str, Tensor], report: Report) -> dict[str, Tensor]:
    """The state in float32, contiguous.

    Raises:
        ValueError: integers, or values that are not finite.
    """
    for name, value in state.items():
        if not value.is_floating_point() or value.element_size() < 2:
            raise ValueError(f"{report.path}: {name} is {value.dtype}; weights of reduced bits cannot be read")
        if value.ndim < 2 and not torch.isfinite(value).all():
            raise ValueError(f"{report.path}: {name} is not finite; the training that wrote it had diverged")
    narrow = sorted(
        {str(value.dtype).removeprefix("torch.") for value in state.values() if value.dtype != torch.float32}
    )
    if narrow:
        report.notes.append(f"{', '.join(narrow)} became float32")
    return {name: value.float().contiguous() for name, value in state.items()}


def restated(state: dict[str, Tensor], mean: list[float], std: list[float], report: Report) -> None:
    """Makes an embedding of video normalised by `mean` and `std` one of video as ours is, in `state`."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"{report.path}: normalised by mean {mean} and deviation {std}; expected three of each, above 0"
        )
    if all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip([*mean, *std], [*MEAN, *STD])):
        return
    weight = state["encoder.embed.weight"].double()
    theirs, spread = torch.tensor([mean, std], dtype=torch.float64)
    ours, own = torch.tensor([MEAN, STD], dtype=torch.float64)
    times = weight.shape[1] // 3
    state["encoder.embed.bias"] = (
        state["encoder.embed.bias"] + weight @ ((ours - theirs) / spread).repeat(times)
    ).float()
    state["encoder.embed.weight"] = (weight * (own / spread).repeat(times)).float()
    report.notes.append(
        f"trained on video of mean {mean} and deviation {std}; the embedding was restated for ours ({list(MEAN)}, "
        f"{list(STD)}): the same tokens"
    )


def picked(state: dict[str, Tensor], asked: Asked, labels: tuple[str, ...], report: Report) -> tuple[str, ...]:
    """Keeps the rows of the head that were asked for, in `state`; the names of its classes.

    Raises:
        ValueError: no such rows, or another number of names.
    """
    rows = len(state["head.weight"])
    if asked.rows:
        if not all(0 <= row < rows for row in asked.rows):
            raise ValueError(f"{report.path}: its head has {rows} rows, but row {max(asked.rows)} was asked for")
        index = torch.tensor(asked.rows)
        state["head.weight"], state["head.bias"] = state["head.weight"][index], state["head.bias"][index]
        labels = tuple(labels[row] for row in asked.rows) if labels else ()
        report.notes.append(f"{len(index)} of {rows} rows of the head were picked")
        rows = len(index)
    labels = asked.labels or labels or tuple(map(str, range(rows)))
    if len(labels) != rows:
        raise ValueError(f"{report.path}: its head has {rows} rows, but there are {len(labels)} names of classes")
    return labels


def resized(table: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """A table of positions "n d" of a grid (T, H, W) for another: bicubic in space, linear in time.

    Source: what VideoMAE-Action-Detection does with its fixed table and MAE with its own; V2 over time.
    """
    t, h, w = old
    cells = table.reshape(t, h, w, -1).permute(0, 3, 1, 2)
    if (h, w) != new[1:]:
        cells = F.interpolate(cells, size=new[1:], mode="bicubic", align_corners=False)
    if t != new[0]:
        times = F.interpolate(cells.flatten(1).T.unsqueeze(0), size=new[0], mode="linear", align_corners=False)
        cells = times[0].T.reshape(new[0], *cells.shape[1:])
    return cells.permute(0, 2, 3, 1).reshape(math.prod(new), -1)


def placed(found: Found) -> None:
    """Fits positions to the grid that is wanted: learnt ones are interpolated; fixed ones are not saved, and said."""
    trained, grid, state = found.trained, found.grid, found.state
    if trained is None or trained == grid:
        return
    before, now = (f"{one.T}x{one.H}x{one.W}" for one in (trained, grid))
    if found.encoder.position != "learned":
        found.report.notes.append(f"trained on {before} tokens: the fixed positions are computed anew for {now}")
        return
    place, slot = "encoder.position.place", "encoder.position.slot"
    state[place] = resized(state[place], (1, trained.H, trained.W), (1, grid.H, grid.W))
    state[slot] = resized(state[slot], (trained.T, 1, 1), (grid.T, 1, 1))
    found.report.notes.append(f"the learnt positions were interpolated from {before} to {now} tokens")


def is_plane(table: Tensor, grid: Grid) -> bool:
    """Whether the positions "n d" of an image are MAE's fixed ones, to the accuracy of float32."""
    width = table.shape[1]
    return width % 4 == 0 and torch.allclose(table.float(), sinusoid_of_plane(grid, width), rtol=0, atol=1e-5)


def interpolated(positions: Positions, width: int, encoder: Encoder, trained: Grid, grid: Grid) -> None:
    """Replaces a fixed table by that of the trained grid, interpolated; it is not saved with the weights."""
    assert encoder.position != "rotary"  # which has no table
    table = Positions(encoder.position, trained, width)()
    positions.fixed = resized(table, (trained.T, trained.H, trained.W), (grid.T, grid.H, grid.W))
