"""A picture of what an encoder tells apart: every embedded clip a point, near those that are like it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data.labels import natural
from tubelet.data.video import VideoError, frames_when
from tubelet.evaluate.feature_files import Row, Table
from tubelet.train.checkpoint import atomically

Method = Literal["pca", "tsne", "umap"]
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
NEEDS = {"tsne": "scikit-learn", "umap": "umap-learn"}
# Okabe and Ito's colours, which people who do not see red or green tell apart; their yellow is too pale for points.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#111111")
MARKS = "o^sDvP*"  # where there are more labels than colours, the colours come again with another mark
THUMBNAIL = 0.42  # inches, of the longer side
INK, GREY, PALE = "#33373f", "#6b7280", "#b9bdc6"

# ---------------------------------------------------------------------------- where the points lie


def pca(values: Float[Tensor, "rows d"], axes: int = 2) -> tuple[Float[Tensor, "rows axes"], Float[Tensor, " axes"]]:
    """Coordinates along the directions in which the rows differ most, and the share of the variance of each.

    An axis points to where its largest coordinate is positive, so that the same rows give the same picture.
    """
    centred = values - values.mean(0)
    left, strength, _ = torch.linalg.svd(centred, full_matrices=False)
    room = min(axes, len(strength))
    points = values.new_zeros(len(values), axes)
    points[:, :room] = left[:, :room] * strength[:room]
    shares = values.new_zeros(axes)
    shares[:room] = strength[:room].square() / strength.square().sum().clamp(min=1e-30)
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(largest < 0, -1.0, 1.0), shares


def placed(values: Float[Tensor, "rows d"], method: Method, seed: int = 0) -> tuple[Float[np.ndarray, "rows 2"], str]:
    """Where every row lies in the plane, and what there is to know about it.

    Raises:
        ValueError: fewer than three rows; or the package of the method is not installed.
    """
    if len(values) < 3:
        raise ValueError(f"a picture of the space needs 3 clips or more, got {len(values)}")
    if method == "pca":
        points, shares = pca(values)
        first, second = (100 * shares).tolist()
        return points.numpy(), f"the two axes hold {first:.0f} % and {second:.0f} % of the variance"
    few, _ = pca(values, min(50, len(values), values.shape[1]))  # as is usual: quicker, and no worse
    near = min(30, (len(values) - 1) // 3)
    try:
        if method == "tsne":
            from sklearn.manifold import TSNE  # type: ignore[import-not-found, import-untyped, unused-ignore]

            told = f"perplexity {max(near, 1)}"
            model: Any = TSNE(perplexity=max(near, 1), init="pca", random_state=seed)
        else:
            from umap import UMAP  # type: ignore[import-not-found, import-untyped, unused-ignore]

            told = f"{max(near, 2)} neighbours"
            model = UMAP(n_neighbors=max(near, 2), random_state=seed, n_jobs=1)
    except ImportError as error:
        raise ValueError(
            f"--method {method} needs {NEEDS[method]}: pip install 'tubelet[space]'; --method pca needs nothing"
        ) from error
    return np.asarray(
        model.fit_transform(few.numpy())
    ), f"{told}; neighbours mean something, distances between groups little"


# ---------------------------------------------------------------------------- what is drawn


@dataclass(frozen=True)
class Group:
    """Points of one label, and their look."""

    name: str
    colour: str
    mark: str
    rows: Int[np.ndarray, " n"]


def groups_of(labels: Sequence[str | None], what: str = "label", most: int = 28) -> list[Group]:
    """The labels in their natural order, each with a look of its own; beyond `most` the rarest share a pale one."""
    counts = Counter(label for label in labels if label is not None)
    shown = sorted((name for name, _ in counts.most_common(most)), key=natural)
    place = np.array([shown.index(label) if label in shown else -1 for label in labels])
    groups = [
        Group(name, COLOURS[n % len(COLOURS)], MARKS[n // len(COLOURS) % len(MARKS)], np.flatnonzero(place == n))
        for n, name in enumerate(shown)
    ]
    rest = np.flatnonzero(place < 0)
    if not shown:
        return [Group("", COLOURS[0], MARKS[0], rest)]
    name = f"{len(counts) - len(shown)} other {what}s" if len(counts) > len(shown) else f"no {what}"
    return groups + [Group(name, PALE, ".", rest)] * bool(len(rest))


def save_space(
    table: Table,
    out: Path,
    method: Method = "pca",
    by: Literal["label", "video"] = "label",
    thumbnails: int = 0,
    most: int = 5000,
    seed: int = 0,
) -> Path:
    """`out`, a PNG of the embedded clips as points, coloured by label or by video, some of them as small pictures.

    Of more than `most` clips, so many evenly spread ones are shown.

    Raises:
        ValueError: no PNG, fewer than three clips, features that are not finite, or a package that is not installed.
        SaveError: the disk refuses.
    """
    if out.suffix != ".png":
        raise ValueError(f"--out {out}: the picture is a .png")
    if most < 3 or thumbnails < 0:
        raise ValueError(f"--most {most}, --thumbnails {thumbnails}: expected 3 or more, and 0 or more")
    total = len(table.rows)
    chosen = np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(int)).tolist() if total else []
    values = np.concatenate([np.zeros((0, table.values.shape[-1])), *(table.pooled(row, row + 1) for row in chosen)])
    points, note = placed(torch.tensor(values, dtype=torch.float32), method, seed)
    shown = f"{NAMES[method]} of {len(chosen)} clips" + f", of {total}" * (len(chosen) < total)
    rows = [table.rows[row] for row in chosen]
    groups = groups_of([row.label if by == "label" else Path(row.path).name for row in rows], by)
    figure = drawn(points, rows, groups, shown, note, thumbnails)
    atomically(out, partial(figure.savefig, format="png", dpi=200, metadata={"Software": "tubelet"}))
    return out


def drawn(
    points: Float[np.ndarray, "rows 2"],
    rows: Sequence[Row],
    groups: list[Group],
    title: str,
    note: str,
    thumbnails: int,
) -> Any:
    """A figure of matplotlib: points with one scale for both axes, and what colours mean at their right."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {"font.size": 10} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 6.4), facecolor="white")
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        axes = figure.subplots()
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set(color=PALE, linewidth=0.6)
        size = float(np.clip(9000 / len(rows), 9, 60))
        for group in groups:
            x, y = points[group.rows].T
            look: dict[str, Any] = {"s": size, "alpha": 0.85, "linewidths": 0.4, "edgecolors": "white"}
            axes.scatter(
                x,
                y,
                color=group.colour,
                marker=group.mark,
                label=group.name,
                zorder=1 if group.colour == PALE else 2,
                **look,
            )
        axes.margins(0.08)
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=25)
        axes.annotate(note, (0, 1), (0, 9), "axes fraction", "offset points", fontsize=9, color=GREY)
        if any(group.name for group in groups):
            legend: Any = figure.legend(loc="outside right upper", frameon=False, fontsize=9)
            for handle in legend.legend_handles:
                handle.set(sizes=[42], alpha=1)
        if thumbnails:
            figure.draw_without_rendering()  # now the layout is known, and how large a picture is among the points
            figure.set_layout_engine("none")
            framed(axes, points, rows, groups, thumbnails)
    return figure


def framed(
    axes: Any, points: Float[np.ndarray, "rows 2"], rows: Sequence[Row], groups: list[Group], count: int
) -> None:
    """Draws the middle frames of up to `count` clips at their points, far enough from each other not to overlap.

    A video that is not there any more is shown as a point only.
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    colour = {int(row): group.colour for group in groups for row in group.rows}
    dots = THUMBNAIL * axes.figure.dpi
    side = dots / float(np.ptp(axes.transData.transform([(0, 0), (1, 0)])[:, 0]))
    for row in far_apart(points, count, 1.1 * side):
        try:
            picture = thumbnail(rows[row])
        except (VideoError, OSError):
            continue
        frame: dict[str, Any] = {"edgecolor": colour[row], "linewidth": 1.4, "boxstyle": "square,pad=0"}
        image = OffsetImage(picture, zoom=72 * THUMBNAIL / max(picture.shape))
        axes.add_artist(AnnotationBbox(image, points[row], pad=0, bboxprops=frame, zorder=3))


def far_apart(points: Float[np.ndarray, "rows 2"], count: int, least: float) -> list[int]:
    """Up to `count` points, each the farthest from those before it; squares of side `least` on them do not overlap."""

    def from_point(row: int) -> Float[np.ndarray, " rows"]:
        return np.abs(points - points[row]).max(1)

    chosen = [int(np.abs(points - points.mean(0)).max(1).argmin())]
    away = from_point(chosen[0])
    while len(chosen) < count and away.max() >= least:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, from_point(chosen[-1]))
    return chosen


def thumbnail(row: Row) -> UInt8[np.ndarray, "h w 3"]:
    """The middle frame of a clip.

    Raises:
        VideoError: it cannot be read.
    """
    return frames_when(row.path, [(row.start + row.end) / 2], size=96).frames[0].numpy()
