"""The picture of the space: axes are those of numpy's SVD, every label has a look of its own, the file is a picture."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tubelet.cli import run as command
from tubelet.data.video import write
from tubelet.evaluate.embed import fingerprint
from tubelet.evaluate.feature_files import Row, Table, Writer
from tubelet.space import COLOURS, drawn, far_apart, groups_of, pca, placed, save_space


def clusters(labels: int, each: int = 20, width: int = 12) -> Table:
    """Points of several labels, near to others of their own."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(labels, width))
    values = (centres.repeat(each, 0) + rng.normal(size=(labels * each, width))).astype(np.float32)
    rows = [Row(f"{n}.mp4", f"motion {n // each}", 0.0, 1.0) for n in range(labels * each)]
    return Table(values, rows, {})


def test_axes_are_those_of_numpys_svd_up_to_their_sign():
    values = np.random.default_rng(0).normal(size=(40, 9)) * np.arange(1, 10)
    points, shares = pca(torch.from_numpy(values))
    centred = values - values.mean(0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:2].T
    np.testing.assert_allclose(np.abs(points.numpy()), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(shares.numpy(), (strength**2 / (strength**2).sum())[:2], atol=1e-12)
    assert (points.gather(0, points.abs().argmax(0, keepdim=True)) > 0).all()
    turned, _ = pca(torch.from_numpy(values @ np.diag([-1.0] * 9)))
    np.testing.assert_allclose(turned.numpy(), points.numpy(), atol=1e-9)  # a mirrored space, the same picture


def test_few_or_equal_rows():
    points, shares = pca(torch.ones(5, 3))
    assert not points.any()
    assert not shares.any()
    points, _ = pca(torch.tensor([[0.0], [1.0], [5.0]]))
    assert points.shape == (3, 2)
    assert not points[:, 1].any()
    with pytest.raises(ValueError, match="3 clips or more, got 2"):
        placed(torch.ones(2, 3), "pca")


def test_labels_have_looks_of_their_own_in_their_natural_order():
    labels = [str(n) for n in range(40) for _ in range(40 - n)]
    groups = groups_of([*labels, None])
    assert groups[-1].name == "12 other labels"
    assert len(groups[-1].rows) == 1 + sum(40 - n for n in range(28, 40))
    assert [group.name for group in groups[:-1]] == [str(n) for n in range(28)]
    assert len({(group.colour, group.mark) for group in groups}) == 29
    assert sorted(np.concatenate([group.rows for group in groups])) == list(range(len(labels) + 1))
    (only,) = groups_of([None, None])
    assert (only.name, only.colour, len(only.rows)) == ("", COLOURS[0], 2)


def test_colours_differ_for_people_who_do_not_see_red_or_green():
    """Distances in CIE Lab after simulating deuteranopia (Viénot et al. 1999)."""
    from skimage.color import rgb2lab

    rgb = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in COLOURS])
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    blind = linear @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    seen = np.where(blind > 0.0031308, 1.055 * blind.clip(0) ** (1 / 2.4) - 0.055, 12.92 * blind).clip(0, 1)
    for palette in (rgb, seen):
        lab = rgb2lab(palette[None])[0]
        apart = np.linalg.norm(lab[:, None] - lab, axis=2)
        assert apart[~np.eye(len(lab), dtype=bool)].min() > 12


def test_pictures_to_show_lie_apart():
    points = np.random.default_rng(0).uniform(size=(300, 2)).astype(np.float32)
    chosen = far_apart(points, 50, 0.2)
    apart = np.abs(points[chosen][:, None] - points[chosen]).max(2)  # squares of 0.2 do not overlap
    assert apart[~np.eye(len(chosen), dtype=bool)].min() >= 0.2
    assert 10 < len(chosen) < 50
    assert len(far_apart(points, 3, 0.2)) == 3
    assert far_apart(np.zeros((4, 2), np.float32), 3, 1.0) == [far_apart(np.zeros((4, 2), np.float32), 1, 1.0)[0]]


@pytest.mark.parametrize("labels", [2, 20, 60])
def test_nothing_lies_on_anything_else(labels):
    table = clusters(labels, 6)
    points, note = placed(torch.from_numpy(table.values), "pca")
    groups = groups_of([f"a rather long name of {row.label}" for row in table.rows])
    figure = drawn(points, table.rows, groups, "PCA of clips", note, 0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,), (legend,) = figure.axes, figure.legends
    frame, names = axes.get_window_extent(), legend.get_window_extent()
    assert frame.x1 <= names.x0
    assert names.x1 <= figure.bbox.x1
    assert names.y0 >= 0
    (told,) = axes.texts
    assert axes._left_title.get_window_extent().y0 >= told.get_window_extent().y1
    assert axes._left_title.get_window_extent().y1 <= figure.bbox.y1
    assert told.get_window_extent().y0 >= frame.y1
    # one scale for both axes, and every point inside
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert (right - left) / frame.width == pytest.approx((high - low) / frame.height, rel=1e-3)
    assert left < points[:, 0].min() <= points[:, 0].max() < right
    assert low < points[:, 1].min() <= points[:, 1].max() < high
    assert frame.width > 0.35 * figure.bbox.width
    assert len(legend.get_texts()) == min(labels, 29)


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"the picture is a \.png"):
        save_space(clusters(2), tmp_path / "space.pdf")
    broken = clusters(2)
    broken.values[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"features of 7\.mp4 .* are not finite"):
        save_space(broken, tmp_path / "space.png")
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    for method, package in (("umap", "umap-learn"), ("tsne", "scikit-learn")):
        with pytest.raises(ValueError, match=rf"{package}: pip install 'tubelet\[space\]'"):
            save_space(clusters(2), tmp_path / "space.png", method)


def test_neighbours_stay_neighbours_in_t_sne(tmp_path):
    table = clusters(3, 12)
    points, note = placed(torch.from_numpy(table.values), "tsne")
    assert "perplexity 11" in note
    distance = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(36)
    assert (distance.argmin(1) // 12 == np.arange(36) // 12).all()
    again, _ = placed(torch.from_numpy(table.values), "tsne")
    np.testing.assert_array_equal(points, again)


def test_thumbnails_do_not_overlap(tmp_path):
    write(tmp_path / "a.mp4", np.full((8, 32, 48, 3), 90, np.uint8), 10)
    points = np.random.default_rng(0).normal(size=(60, 2)) * (1, 3)
    rows = [Row(str(tmp_path / "a.mp4"), None, 0.0, 0.8)] * 60
    figure = drawn(points, rows, groups_of([None] * 60), "PCA", "", 25)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [artist.get_window_extent() for artist in figure.axes[0].artists]
    assert 5 < len(boxes) <= 25
    for number, box in enumerate(boxes):
        assert box.width == pytest.approx(0.42 * figure.dpi, rel=0.15)
        assert box.count_overlaps(boxes[:number]) == 0


def test_command(tmp_path, capsys):
    frames = np.full((8, 32, 48, 3), 90, np.uint8)
    write(tmp_path / "a.mp4", frames, 10)
    writer = Writer(tmp_path / "f", (4,), "float32", {"videos": fingerprint([])})
    names = [tmp_path / "a.mp4", tmp_path / "gone.mp4"]
    rows = [Row(str(names[n % 2]), "xy"[n % 2], n / 10, n / 10 + 0.2) for n in range(6)]
    writer.add(np.random.default_rng(0).normal(size=(6, 4)), rows, 0, 6)
    writer.finish()
    out = tmp_path / "space.png"
    options = ["--thumbnails", "3", "--by", "video", "--most", "5"]
    assert command(["picture", "space", "--features", str(tmp_path / "f.npy"), "--out", str(out), *options]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (np.abs(pixels.astype(int) - 90).max(2) < 6).sum() > 500  # the grey video is shown
    assert Path(out).stat().st_size > 5000


def test_umap_is_asked_for_what_the_title_says(monkeypatch):
    """A stand-in: the package and its compiler are too large to install for one test."""
    asked = {}

    class UMAP:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, values):
            return values[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    values = torch.from_numpy(clusters(3, 12).values)
    points, note = placed(values, "umap")
    assert asked["n_neighbors"] == 11
    assert "11 neighbours" in note
    assert len(points) == 36
    placed(values, "umap", seed=7)
    assert asked["random_state"] == 7
