"""Pictures of what a test found."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tubelet.evaluate.results import Results, confusion
from tubelet.train.checkpoint import atomically

INK = "#33373f"
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
