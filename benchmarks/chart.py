"""The chart of the README and docs/performance.md: clips a second by one worker, out of prepared.csv.

    python benchmarks/chart.py

Writes docs/pictures/reading.png.
"""

import csv
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from tubelet.charts import BLUE, GRAPHITE, INK

ROOT = Path(__file__).parent
BARS = [  # column, what it is, whether it is ours
    ("original, decord", "720p originals: decord2", False),
    ("original, pyav", "a plain PyAV loop", False),
    ("original, tubelet", "tubelet", True),
    ("prepared, torchcodec", "tubelet prepare: torchcodec", False),
    ("prepared, crop", "tubelet", True),
    ("layer, torchcodec", "--layered 4: torchcodec", False),
    ("layer, crop", "tubelet", True),
    ("layer, bare", "the decoder alone", False),
]


def main() -> None:
    with (ROOT / "prepared.csv").open() as file:
        (mean,) = [row for row in csv.DictReader(file) if row["file"] == "geometric mean"]
    speeds = [1000 / float(mean[f"ms, {column}"]) for column, _, _ in BARS]
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with rc_context(style | {"font.size": 11}):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        places = [number + 0.5 * (number > 2) + 0.5 * (number > 4) for number in range(len(BARS))]
        colours = [BLUE if ours else GRAPHITE for _, _, ours in BARS]
        axes.barh(places, speeds, color=colours, height=0.78)
        for place, speed in zip(places, speeds):
            axes.text(speed + 0.8, place, f"{speed:.1f}" if speed < 10 else f"{speed:.0f}", va="center")
        axes.set_yticks(places, [name for _, name, _ in BARS])
        axes.invert_yaxis()
        axes.set_title(
            "Clips a second by one worker on one core (16 frames, 224 pixels)", loc="left", fontsize="medium"
        )
        axes.set_xticks([])
        axes.tick_params(length=0)
        for edge in axes.spines.values():
            edge.set_visible(False)
        figure.savefig(ROOT.parent / "docs" / "pictures" / "reading.png", dpi=110)


if __name__ == "__main__":
    main()
