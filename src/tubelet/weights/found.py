"""Weights in our names with the geometry that they need; what every format is read into."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tubelet.data.sampling import Around, Dense, Segments, Spread
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import FIXED, resized, sinusoid_of_plane
from tubelet.nn.vit import Encoder
from tubelet.targets import MEAN, STD, Norm, statistics
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
    """Fixed positions of other clips than in training: computed anew, as VideoMAE's code does, or interpolated, as
    VideoMAE-Action-Detection does."""

    def __post_init__(self) -> None:
        """Looks for numbers that cannot be.

        Raises:
            ValueError: names the flag, and what it is.
        """
        for name, value in (("heads", self.heads), ("frames", self.frames), ("size", self.size)):
            if value is not None and min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"--{name} {value} cannot be; expected 1 or more")


@dataclass
class Found:
    """An encoder, with a decoder or a head or neither, named as in a `MaskedAutoencoder`, a `Classifier` or a
    `Detector`."""

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
    clip: Dense | Segments | Spread | Around | None = None
    """Which frames of a video made a clip; none: the file does not say."""

    @property
    def grid(self) -> Grid:
        """Where its tokens are.

        Raises:
            ValueError: frames or size do not divide into cubes.
        """
        return Grid.of(self.frames, *self.size, self.encoder.patch)

    @property
    def kind(self) -> Literal["pre-trained", "fine-tuned", "detector", "encoder"]:
        """What there is beside the encoder: a decoder, a head for whole clips or for boxes, or nothing."""
        if "decoder.head.weight" in self.state:
            return "pre-trained"
        if detects(self.state):
            return "detector"
        return "fine-tuned" if "head.weight" in self.state else "encoder"


def detects(state: dict[str, Tensor]) -> bool:
    """Whether weights in our names are those of a `Detector`: a head, and the encoder's own norm before it."""
    return "head.weight" in state and "encoder.norm.weight" in state


def grid_if(frames: int, size: tuple[int, int], patch: tuple[int, int, int]) -> Grid | None:
    """Where tokens are, if the clip divides into cubes."""
    fits = all(side % cube == 0 for side, cube in zip((frames, *size), patch))
    return Grid.of(frames, *size, patch) if fits else None


def begun(archive: Archive, what: str) -> Report:
    """A report of a file that was taken for a format."""
    return Report(archive.path, what, notes=list(archive.notes), name=archive.name)


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
    report.mark("reshaped", "a convolution as a matrix over a cube's values", name)
    return cube(kernel)


def masking(state: dict[str, Tensor], report: Report) -> None:
    """Makes the mask token of a decoder, if there is one, a vector, in `state`."""
    if "decoder.mask_token" in state:
        state["decoder.mask_token"] = state["decoder.mask_token"].flatten()
        report.mark("reshaped", "a mask token as a vector", "decoder.mask_token")


def headless(state: dict[str, Tensor], report: Report) -> None:
    """Takes the norm of a mean of tokens out of `state` where there is no head that reads it."""
    if "head.weight" not in state:
        report.mark("left out", "the norm of a mean of tokens, for a head that is not there", "norm.")
        for name in ("norm.weight", "norm.bias"):
            state.pop(name, None)


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
    finite(state, report)
    narrow = sorted(
        {str(value.dtype).removeprefix("torch.") for value in state.values() if value.dtype != torch.float32}
    )
    if narrow:
        report.notes.append(f"{', '.join(narrow)} became float32")
    return {name: value.float().contiguous() for name, value in state.items()}


def finite(state: dict[str, Tensor], report: Report) -> None:
    """Looks at every value. A sum tells, and takes a fraction of the time, unless it is itself too large for a float.

    Raises:
        ValueError: one is infinite or no number; names the tensor.
    """
    for name, value in state.items():
        if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise ValueError(f"{report.path}: {name} is not finite; the training that wrote it had diverged")


def restated(state: dict[str, Tensor], mean: list[float], std: list[float], report: Report) -> bool:
    """Makes an embedding of video normalised by `mean` and `std` one of video as ours is, in `state`; whether they
    differ.

    Raises:
        ValueError: a deviation of 0 or less.
    """
    if min(std) <= 0:
        raise ValueError(f"{report.path}: normalised by deviation {std}; expected numbers above 0")
    if all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip([*mean, *std], [*MEAN, *STD])):
        return False
    times = state["encoder.embed.weight"].shape[1] // 3
    theirs, ours = (torch.tensor(one, dtype=torch.float64).repeat(1, times) for one in ([mean, std], [MEAN, STD]))
    restate(state, theirs, ours)
    report.notes.append(
        f"trained on video normalised by mean {short(mean)} and deviation {short(std)} of pixels from 0 to 1; the "
        f"embedding was restated for ours ({short(MEAN)} and {short(STD)}): the same tokens"
    )
    return True


def restate(state: dict[str, Tensor], before: Float[Tensor, "2 q"], now: Float[Tensor, "2 q"]) -> None:
    """Makes an embedding of patches normalised by mean and deviation `before` one of patches normalised by those `now`,
    in `state`: the same tokens."""
    weight, (mean, spread) = state["encoder.embed.weight"].double(), before
    state["encoder.embed.bias"] = (state["encoder.embed.bias"] + weight @ ((now[0] - mean) / spread)).float()
    state["encoder.embed.weight"] = (weight * (now[1] / spread)).float()


def renormed(state: dict[str, Tensor], channels: int, before: Norm, now: Norm) -> dict[str, Tensor]:
    """Weights with the embedding for video normalised in another way: the same tokens."""
    state, patch = dict(state), state["encoder.embed.weight"][0].double()
    restate(state, *(torch.stack(statistics(patch, channels, norm)) for norm in (before, now)))
    return state


def short(values: Iterable[float]) -> str:
    """Numbers for people, one where all are alike."""
    shown = [f"{value:.4g}" for value in values]
    return " ".join(shown[:1] if len(set(shown)) == 1 else shown)


def picked(state: dict[str, Tensor], asked: Asked, labels: tuple[str, ...], report: Report) -> tuple[str, ...]:
    """Keeps the rows of the head that were asked for, in `state`; the names of its classes.

    Raises:
        ValueError: no such rows, or another number of names.
    """
    rows = len(state["head.weight"])
    if "head.bias" not in state:
        raise ValueError(f"{report.path} ({report.format}) has a head but lacks its bias; is it whole?")
    if asked.rows:
        if wrong := [row for row in asked.rows if not 0 <= row < rows]:
            raise ValueError(
                f"{report.path}: its head has {rows} rows, 0 to {rows - 1}, but row {wrong[0]} was asked for"
            )
        index = torch.tensor(asked.rows)
        state["head.weight"], state["head.bias"] = state["head.weight"][index], state["head.bias"][index]
        labels = tuple(labels[row] for row in asked.rows) if labels else ()
        report.mark("reshaped", f"{len(index)} of {rows} rows, as asked", "head.")
        rows = len(index)
    labels = asked.labels or labels or tuple(map(str, range(rows)))
    if len(labels) != rows:
        raise ValueError(f"{report.path}: its head has {rows} rows, but there are {len(labels)} names of classes")
    if twice := [name for name in asked.labels if asked.labels.count(name) > 1]:
        raise ValueError(
            f"{report.path}: two classes cannot have one name, {twice[0]!r}; each line of --labels names one"
        )
    return labels


def placed(found: Found, positions: Literal["computed", "interpolated"]) -> None:
    """Fits positions to the grid that is wanted: learnt ones are interpolated; fixed ones too, or computed anew.

    Raises:
        ValueError: they are to be interpolated, but from what is not known.
    """
    trained, grid, state = found.trained, found.grid, found.state
    fixed = found.encoder.position in FIXED
    if found.encoder.position == "rotary" and positions == "interpolated":
        raise ValueError(
            f"{found.report.path}: its positions are rotary, which go on to any grid; leave out --positions"
        )
    if trained is None and fixed and positions == "interpolated":
        raise ValueError(
            f"{found.report.path}: which clips it was trained on is not known, so positions are not either"
        )
    if trained is None or trained == grid:
        return
    before, now = (f"{one.T}x{one.H}x{one.W}" for one in (trained, grid))
    if fixed and positions == "interpolated":
        found.encoder = replace(found.encoder, interpolated=(trained.T, trained.H, trained.W))
        found.report.notes.append(f"the fixed positions were interpolated from {before} to {now} tokens")
        return
    if fixed:
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
