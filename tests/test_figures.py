"""The figures of docs/pictures/: each panel shows what its name says, at the numbers of its table."""

import csv
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.charts import Line, Panel, sweep
from tubelet.config import preset
from tubelet.data.sampling import Dense
from tubelet.data.writing import write
from tubelet.motion_pictures import BORDER
from tubelet.nn.patches import CURTAIN
from tubelet.strips import Strip

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def figures() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("figures")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Grey noise, on which a square goes to the right, 4 pixels a frame, through the middle at frame 40."""
    noise = np.random.default_rng(0).integers(90, 120, (96, 224, 1))
    frames = np.empty((80, 96, 224, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:] = noise
        left = (64 + 4 * (t - 30)) % 180
        frame[30:62, left : left + 32] = np.random.default_rng(1).integers(0, 256, (32, 32, 3))
    path = tmp_path_factory.mktemp("film") / "square.mp4"
    write(path, frames, 10, options={"crf": "10", "bf": "0", "g": "80"})
    return path


@pytest.fixture
def drawn(figures, monkeypatch) -> list[list[Strip]]:
    """The strips that go to save_png or save_gif, which draw them, too."""
    caught: list[list[Strip]] = []
    for name in ("save_png", "save_gif"):
        save = getattr(figures, name)

        def caught_too(path, strips, *more, save=save, **named):
            caught.append(strips)
            return save(path, strips, *more, **named)

        monkeypatch.setattr(figures, name, caught_too)
    return caught


def small():
    """A run of small clips, and its method with random weights."""
    run = preset("videomae-demo")
    run = replace(run, encoder=replace(run.encoder, width=24, depth=1, heads=2, hidden=48))
    run = replace(run, data=replace(run.data, clip=Dense(8, stride=1), size=(32, 32)))
    torch.manual_seed(0)
    return run.method.build(run.encoder, run.grid(), 3), run


def width_of(path: Path) -> int:
    with Image.open(path) as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
        return image.width


def test_masks_stand_below_the_original(figures, film, drawn, tmp_path):
    path = figures.mask_figure(film, ("tube", "mgm"), tmp_path / "masks.png", 0.75, "vectors")
    (((strip),),) = drawn
    assert [*strip.rows] == ["original", "tube 75 %", "MGM 75 %"]
    original, *masked = strip.rows.values()
    assert original.shape == (3, 16, 224, 224)
    for rows in masked:
        same = (rows == original).all(0)
        assert same.float().mean() == pytest.approx(0.25, abs=0.02)
        assert (rows[:, ~same].float().mean() - CURTAIN).abs() < 3
    assert width_of(path) > 8 * 224


def test_motion_shows_arrows_colours_and_boxes_of_two_ratios(figures, film, drawn, tmp_path):
    path = figures.motion_figure(film, tmp_path / "motion.png")
    (((strip),),) = drawn
    assert [*strip.rows] == ["frames", "vectors", "colours", "MGM 39.8 %", "MGM 75 %"]
    small, large = ((strip.rows[name].permute(1, 2, 3, 0).numpy() == BORDER).all(3).sum() for name in [*strip.rows][3:])
    assert 0 < small < large
    assert width_of(path) > 8 * 224


def test_ratios_hide_more_and_more_and_leave_the_visible(figures, film, drawn, tmp_path):
    path = figures.ratio_figure(*small(), film, tmp_path / "ratios.png", (0.5, 0.75))
    (((strip),),) = drawn
    names = [*strip.rows]
    assert [name.partition(" ·")[0] for name in names[1:3]] == ["50 % hidden", "imagined, 50 %"]
    assert [name.partition(" ·")[0] for name in names[3:]] == ["75 % hidden", "imagined, 75 %"]
    original, *rows = strip.rows.values()
    for share, hidden, imagined in ((0.5, *rows[:2]), (0.25, *rows[2:])):
        visible = (hidden == original).all(0)
        assert visible.float().mean() == pytest.approx(share, abs=0.02)
        assert torch.equal(imagined[:, visible], original[:, visible])
        assert not torch.equal(imagined, original)
    with Image.open(path) as image:
        assert "flat cubes in the colours of visible ones nearby have" in image.info["Description"]


def test_attention_of_both_encoders_from_what_moves(figures, film, drawn, tmp_path):
    method, run = small()
    clip = figures.middle_clips([film], run.data)
    query = figures.fastest(clip, method.grid)
    slot, row, column = np.unravel_index(query, (4, 4, 4))
    change = (clip[0].float().diff(dim=1).abs().mean(0) > 8).numpy()
    assert slot == 2
    assert change[4:6, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].any()
    figures.attention_figure(method.encoder, run, film, tmp_path / "attention.png", moving=True)
    (((strip),),) = drawn
    names = [name.partition(" ·")[0] for name in strip.rows]
    trained = ["trained, mean", "trained, head 0", "trained, head 1", "trained, rollout"]
    assert names == ["clip", *trained, "random, mean", "random, rollout"]
    assert strip.moment // 2 == slot


def test_a_film_goes_on_from_clip_to_clip_under_one_mask(figures, film, drawn, tmp_path):
    method, run = small()
    path = figures.film_figure(method, run, {film: 2.5}, tmp_path / "top.gif", clips=3)
    (((strip),),) = drawn
    assert [*strip.rows] == ["original", "75 % hidden", "imagined", "motion"]
    original, hidden, _, motion = strip.rows.values()
    assert original.shape[1] == motion.shape[1] == 23  # less the first, which has no motion
    assert not (original[:, 1:] == original[:, :-1]).flatten(2).all(2).any()  # no frame twice
    visible = (hidden == original).all(0)
    places = visible.float().mean(0)
    assert ((places == 1).float().mean() - 0.25).abs() < 0.03  # tubes go through all clips
    with Image.open(path) as image:
        assert image.n_frames == 23


# ---------------------------------------------------------------------------- charts


@pytest.fixture
def lines(monkeypatch) -> list[matplotlib.figure.Figure]:
    """The figures that are saved."""
    kept, save = [], matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *more, **named: kept.append(self) or save(self, *more, **named),
    )
    return kept


def test_charts_are_of_the_table(figures, lines, tmp_path):
    """By hand: every point has its own number, told by its name."""
    rows = []
    for number, point in enumerate((*figures.RATIOS, *figures.LENGTHS)):
        for shift, pattern in enumerate(figures.READ_OUTS.values()):
            for seed in (0, 1):
                rows.append({"name": pattern.format(point.name), "top1": 30 + number + 10 * shift + seed})
    rows += [{"name": pattern.format(figures.NOTHING), "top1": 25} for pattern in figures.READ_OUTS.values()]
    rows.append({"name": "pre-training, tube 0.5, 2000 steps", "top1": ""})
    with open(table := tmp_path / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "top1"])
        writer.writeheader()
        writer.writerows(rows)
    written = figures.charts(table, tmp_path)
    assert [path.name for path in written] == ["ratio.png", "ratio.svg", "length.png", "length.svg"]
    assert width_of(written[0]) > 1000
    assert "<svg" in written[1].read_text()
    ratio, _, length, _ = lines
    tube, mgm = [50, 75, 90, 95], [60, 75, 90]
    for shift, axes in enumerate(ratio.axes):
        drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
        assert drawn["tube"] == (tube, [30.5 + 10 * shift + n for n in range(4)])
        assert drawn["MGM"] == (mgm, [34.5 + 10 * shift + n for n in range(3)])
        assert set(drawn["random weights"][1]) == {25}
        dots = sorted(y for line in axes.lines if line.get_linestyle() == "None" for y in line.get_ydata())
        assert dots == sorted(30 + 10 * shift + n + seed for n in range(7) for seed in (0, 1))
    for shift, axes in enumerate(length.axes):
        (line,) = [line for line in axes.lines if line.get_label() == "tube, 90 % hidden"]
        assert list(line.get_xdata()) == [250, 500, 1000, 2000, 4000, 8000]
        assert list(line.get_ydata()) == [y + 0.5 + 10 * shift for y in (37, 38, 39, 32, 40, 41)]
        assert axes.get_xscale() == "log"


def test_all_values_are_inside_of_the_axes(lines, tmp_path):
    panels = [Panel(f"{top}", [Line("a", {1: [top], 2: [top / 2, 1]})], [30]) for top in (20, 90, 40)]
    sweep(panels, tmp_path / "a", "x", "level")
    assert [axes.get_ylim()[0] for axes in lines[0].axes] == [0, 0, 0]
    assert all(axes.get_ylim()[1] > 90 for axes in lines[0].axes)


def test_what_is_not_measured_yet_is_left_out(figures, lines, tmp_path):
    (table := tmp_path / "table.csv").write_text('name,top1\n"linear on cells, tube 0.5, 2000 steps",44\n')
    figures.charts(table, tmp_path)
    assert [axes.get_title(loc="left") for axes in lines[0].axes] == ["linear layer, frozen"]


def test_every_figure_has_its_credit_and_every_film_its_licence(figures, tmp_path):
    text = (ROOT / "docs/pictures/README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    credits = [row.split("|")[1] for row in rows if "CC BY" in row]
    for name in figures.figures(*[tmp_path] * 5):
        films = figures.FILMS.get(name, ())
        (row,) = [row for row in rows if f"`{'ratio' if name == 'charts' else name}." in row]
        for film in [films] if isinstance(films, str) else films:
            assert f"`{film}`" in row
            assert any(f"`{film}`" in credit for credit in credits)
