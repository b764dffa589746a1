"""Numbers as pictures: the curves of a run, the confusion matrix of a test, how values are distributed."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tubelet.data.joint import LOSSES
from tubelet.evaluate.results import Results, confusion
from tubelet.train.checkpoint import atomically
from tubelet.train.folder import distinct
from tubelet.train.log import metrics

INK = "#33373f"
BLUE, GRAPHITE = "#3b82c4", "#5c6370"  # of curves; the report swaps GRAPHITE for its own text colour
READABLE = 25  # classes: above this, squares are too small for numbers
NAMED = 60  # and above this, lines for names


def confusion_picture(results: Results, out: Path) -> Path:
    """`out`, a PNG of the confusion matrix: a row per true class, its videos shared out over what they were taken for.

    Shades are shares of a row, so that rare classes are seen as well; numbers are videos.

    Raises:
        ValueError: labels that are not single classes.
        SaveError: the disk refuses.
    """
    import matplotlib
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    table, names = confusion(results), results.labels.names
    count = len(names)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    places = range(0, count, -(-count // NAMED))
    side = min(max(3.2, 0.36 * count), 12.0)  # inches
    style: Any = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK)
    small = min(9.0, 0.75 * 72 * side / len(places))  # points: names must not touch
    with matplotlib.rc_context(style | {"font.size": 9 + side / 6}):
        figure = Figure(figsize=(side + 2.4, side + 1.6), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.6, 0, 1))  # few videos are to be seen, too
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        right = 100 * np.trace(table) / max(table.sum(), 1)
        axes.set_title(
            f"{table.sum()} videos, {right:.1f} % right, {results.views} views", loc="left", fontsize="medium"
        )
        labels = [names[place] for place in places]
        axes.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=small)
        axes.set_yticks(places, labels, fontsize=small)
        axes.tick_params(length=0)
        for edge in axes.spines.values():
            edge.set_visible(False)
        if count <= READABLE:
            for row, column in zip(*np.nonzero(table)):
                dark = shares[row, column] > 0.45
                text: Any = {"color": "white" if dark else INK, "fontsize": 8, "ha": "center", "va": "center"}
                axes.text(column, row, str(table[row, column]), **text)
        bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=25, format=lambda share, _: f"{100 * share:.0f} %")
        bar.outline.set_visible(False)
        atomically(out, partial(figure.savefig, format="png", dpi=160, metadata={"Software": "tubelet"}))
    return out


# ---------------------------------------------------------------------------- curves

LABELS = {
    "loss": "loss",
    "lr": "learning rate",
    "gradient_norm": "gradient norm",
    "clips_per_second": "clips per second",
    "data_wait": "waiting for data (share of the time)",
}
COLOURS = [  # of several runs, each with one for pictures among videos: Tableau's, told apart by most people
    (BLUE, "#9cc3e6"), ("#e08a3c", "#f2c79b"), ("#4f9d69", "#a8d5b5"), ("#b0529c", "#ddb0d3"),
    ("#8c6d46", "#c9b595"), ("#c94f4f", "#e8adad"), ("#3aa6a6", "#9fd8d8"), (GRAPHITE, "#aab0bb"),
]  # fmt: skip
Lines = Sequence[dict[str, float]]
Runs = Mapping[str, Lines]  # lines of metrics.jsonl, by what to call the run
KNOWN = {"step", "epoch", "seconds", *LABELS, *LOSSES}  # lines have more where the method tells more


def curves(folders: Path | Sequence[Path], out: Path) -> list[Path]:
    """`out` as PNG and as SVG: loss, learning rate, gradient norm, speed and waiting for data of a run over its steps.

    And, where there are some, what was measured on validation data, and what else the method tells of a step. Of
    several runs one picture, with a colour for each.

    Raises:
        FileNotFoundError: no metrics.jsonl in one of `folders`.
        ValueError: not one step of it is done yet.
        SaveError: the disk refuses.
    """
    folders = [folders] if isinstance(folders, Path) else [*folders]
    runs = {name: metrics(folder) for name, folder in zip(distinct(folders), folders)}
    for folder, lines in zip(folders, runs.values()):
        if not lines:
            raise ValueError(f"{folder} has no steps in metrics.jsonl yet: nothing to draw")
    written = []
    with drawn(runs) as figure:
        for kind in ("png", "svg"):
            path = out.with_suffix(f".{kind}")
            about = {"Software": "tubelet"} if kind == "png" else {"Date": None}
            look: dict[str, Any] = {"format": kind, "dpi": 200, "metadata": about, "transparent": kind == "svg"}
            atomically(path, partial(figure.savefig, **look))
            written.append(path)
    return written


def drawing(runs: Runs) -> str:
    """The same as SVG for a page."""
    text = StringIO()
    with drawn(runs) as figure:
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return inlined(text.getvalue())


@contextmanager
def drawn(runs: Runs) -> Iterator[Any]:
    """The figure of the curves of one run, or of several, and how it is to be written."""
    import matplotlib
    from matplotlib.figure import Figure

    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inked, GRAPHITE) | dict.fromkeys(("axes.spines.top", "axes.spines.right"), False)
    style |= {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "tubelet"}  # salt: same run, same file
    with matplotlib.rc_context(style):
        every = [line for lines in runs.values() for line in lines]
        checked = next((name for line in every for name in line if name.startswith("validation_")), None)
        firsts = dict.fromkeys(name for lines in runs.values() for name in lines[0])
        told = [name for name in firsts if name not in KNOWN and not name.startswith("validation_")]
        shape: list[Any] = [["a", "v" if checked else "a"], ["b", "c"], ["d", "e"]]
        shape += [[*told[place : place + 2], "."][:2] for place in range(0, len(told), 2)]
        figure = Figure(figsize=(8, 1.6 * (len(shape) + 1)), layout="constrained")
        mosaic = figure.subplot_mosaic(shape, height_ratios=[2] + [1] * (len(shape) - 1))
        panels = dict(zip(LABELS, (mosaic[letter] for letter in "abcde"))) | {name: mosaic[name] for name in told}
        for (label, lines), colours in zip(runs.items(), cycle(COLOURS) if len(runs) > 1 else [(BLUE, GRAPHITE)]):
            if checked and any(checked in line for line in lines):
                measured(mosaic["v"], lines, checked, colours[0], len(runs) == 1)
            for name, axes in panels.items():
                kinds = [kind for kind in LOSSES if name == "loss" and any(kind in line for line in lines)]
                for kind, colour in zip(kinds or [name], colours):
                    said = " ".join(
                        filter(None, (label if len(runs) > 1 else "", kind.removeprefix("loss_") * bool(kinds)))
                    )
                    found = [(line["step"], line[kind]) for line in lines if math.isfinite(line.get(kind, math.nan))]
                    if found:
                        step, values = np.array(found, float).T
                        curve(axes, step, values, name != "lr", colour, said)
        for name, axes in panels.items():
            axes.set_title(LABELS.get(name, name.replace("_", " ")), loc="left", fontsize=9)
        if len(runs) > 1 or any(kind in line for line in every for kind in LOSSES):
            panels["loss"].legend(frameon=False, fontsize=8)
        for name in ("loss", "gradient_norm"):
            logarithmic(panels[name])
        for name in ("loss", "clips_per_second", "data_wait"):
            panels[name].set_xlabel("step")
        panels["lr"].yaxis.set_major_formatter("{x:g}")
        panels["clips_per_second"].set_ylim(bottom=0)
        panels["data_wait"].set_ylim(0, 1)
        panels["data_wait"].yaxis.set_major_formatter("{x:.0%}")
        yield figure


def measured(axes: Any, lines: Lines, name: str, colour: str, alone: bool) -> None:
    """Draws what was measured on validation data, the best of it marked."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    best = max(found, key=lambda pair: pair[1])
    axes.plot(*zip(*found), color=colour, linewidth=1.5, marker="o", markersize=3)
    axes.plot(*best, color=colour, marker="o", markersize=8, fillstyle="none")
    title = name.removeprefix("validation_").replace("_", " ").replace("top1", "top-1")
    which = f", best {best[1]:.3g} at step {best[0]:g}" if alone else ", the best of each marked"
    axes.set_title(f"validation {title}{which}", loc="left", fontsize=9)
    axes.set_xlabel("step")
    axes.grid(axis="y", color=GRAPHITE, alpha=0.15, linewidth=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)


def curve(
    axes: Any, step: Float[np.ndarray, " s"], values: Float[np.ndarray, " s"], smooth: bool, colour: str, label: str
) -> None:
    """Draws values faintly and their running mean over 2 % of the steps, both thinned to about 2000 points."""
    at, half = np.arange(len(values)), len(values) // 100 if smooth else 0
    before = np.minimum(half, at)  # no further to the right, or the first steps would look better than they were
    after = np.minimum(before, len(values) - 1 - at)
    total = np.concatenate([[0], values.cumsum()])
    mean = (total[at + after + 1] - total[at - before]) / (before + after + 1)
    thin = slice(None, None, max(1, len(step) // 2000))
    if half:
        axes.plot(step[thin], values[thin], color=colour, alpha=0.3, linewidth=0.7)
    point: dict[str, Any] = {"marker": "o", "markersize": 4} if len(step) < 3 else {}
    axes.plot(step[thin], mean[thin], color=colour, linewidth=1.5, label=label, **point)
    axes.grid(axis="y", color=GRAPHITE, alpha=0.15, linewidth=0.6)
    axes.tick_params(length=3)
    axes.margins(x=0.01)
    axes.xaxis.get_major_locator().set_params(integer=True)


def logarithmic(axes: Any) -> None:
    """Turns the vertical axis logarithmic if the values span a factor of five or more; labels stay plain numbers."""
    from matplotlib.ticker import LogLocator

    values = np.concatenate([line.get_ydata() for line in axes.lines] or [[0.0]])
    if values.min() > 0 and values.max() >= 5 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_title(f"{axes.get_title(loc='left')}, logarithmic", loc="left", fontsize=9)


# ---------------------------------------------------------------------------- distributions


def histograms(values: Mapping[str, Sequence[float]]) -> str:
    """How values of each name are distributed, side by side, as SVG for a page; large ranges are logarithmic."""
    import matplotlib
    from matplotlib.figure import Figure

    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inked, GRAPHITE) | {"svg.fonttype": "none", "svg.hashsalt": "tubelet", "font.size": 9}
    with matplotlib.rc_context(style | dict.fromkeys(("axes.spines.top", "axes.spines.right"), False)):
        rows = -(-len(values) // 3)
        figure = Figure(figsize=(8, 1.7 * rows), layout="constrained")
        for place, (name, given) in enumerate(values.items()):
            axes: Any = figure.add_subplot(rows, 3, place + 1)
            some = np.asarray(given, float)
            low, high = some.min(), some.max()
            wide = low > 0 and high > 20 * low
            edges = np.geomspace(low, high, 25) if wide else np.linspace(low, high if high > low else low + 1, 25)
            axes.hist(some, edges.tolist(), color=BLUE)
            if wide:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter("")
            axes.set_title(name, loc="left", fontsize=9)
            axes.tick_params(length=3)
            axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return inlined(text.getvalue())


def inlined(svg: str) -> str:
    """An SVG as a part of a page, in the colours of the page."""
    text = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head = re.sub(r' (width|height|xmlns(:xlink)?)="[^"]*"', "", text[: text.index(">")])  # the page knows these better
    text = head + text[text.index(">") :]
    return text.replace(GRAPHITE, "currentColor").replace(BLUE, "var(--accent)")
