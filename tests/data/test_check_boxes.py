"""What is told of boxes, and what is wrong with them."""

import json
import sys
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import tubelet.data.check
from tubelet.check_report import render, write_page
from tubelet.cli import run
from tubelet.data.check import check
from tubelet.data.check_boxes import check_boxes, own_file, videos_of
from tubelet.data.findings import Row
from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.overlaps import iou
from tubelet.data.sampling import Around
from tubelet.data.writing import write

CLIP = Around(4, stride=2)
WHOLE = (0.2, 0.2, 0.6, 0.8)


def item(path: str | Path, seconds: float, *boxes: Box) -> Item:
    return Item(Path(path), key=KeyFrame(seconds, boxes))


def row(path: str, duration: float = 10.0, width: int = 640, height: int = 512, fps: float = 10.0) -> Row:
    return Row(path, codec="h264", width=width, height=height, fps=fps, frames=round(duration * fps), duration=duration)


def told(items, rows=None, **options):
    return check_boxes(items, {one.path: one for one in rows or [row("a.mp4")]}, CLIP, **options)


def test_counts_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    names = [f"class {n}" for n in range(6)]
    items, expected = [], dict.fromkeys(names, 0)
    for second in range(1, 9):
        boxes = []
        for person in range(rng.integers(0, 4)):
            labels = tuple(rng.choice(names[:5], 2, replace=False).tolist()) if rng.random() < 0.8 else ()
            left = 0.1 + 0.2 * person
            boxes.append(Box((left, 0.2, left + 0.15, 0.7), labels, f"{person}"))
            for label in labels:
                expected[label] += 1
        items.append(item("a.mp4", second, *boxes))
    report = told(items, names=names)
    assert report.classes == expected
    assert list(report.classes.values()) == sorted(expected.values(), reverse=True)
    keys = [one.key.boxes for one in items]
    assert report.boxes == sum(map(len, keys))
    assert report.empty == sum(not key for key in keys)
    assert report.unlabelled == sum(not box.labels for key in keys for box in key)
    assert report.people == len({box.person for key in keys for box in key})
    assert report.crowd == max(map(len, keys))
    assert report.interval == 1
    assert "none in 1: class 5" in dict(report.facts())["actions"]
    assert not report.found


def test_small_boxes_are_those_below_a_token():
    # The short side of 512 pixels becomes 256: 32 pixels are 16, one token.
    just = Box((0.2, 0.2, 0.2 + 32 / 640, 0.8), ("a",))
    less = Box((0.2, 0.2, 0.2 + 31 / 640, 0.8), ("a",))
    flat = Box((0.2, 0.2, 0.6, 0.2 + 31 / 512), ("b",))
    report = told([item("a.mp4", 3, just), item("a.mp4", 4, less), item("a.mp4", 5, flat)])
    assert report.tiny == ("a.mp4 at 4 s", "a.mp4 at 5 s")
    assert report.short_sides == pytest.approx((15.5, 15.5))
    unknown = told([item("b.mp4", 3, less)])
    assert unknown.tiny == ()
    assert "box sizes" not in dict(unknown.facts())


def test_boxes_at_the_edge_are_counted():
    boxes = [
        Box(corners, ("a",)) for corners in ((0, 0.2, 0.1, 0.3), (0.9, 0.5, 1, 0.6), (0.3, 0.3, 0.4, 0.9995), WHOLE)
    ]
    report = told([item("a.mp4", 3, *boxes)])
    assert report.cut == 3
    assert not report.found  # told, and no problem


def test_the_same_box_twice_is_a_problem_and_a_crowd_is_none():
    twin = (0.2, 0.2, 0.6, 0.8005)
    near = (0.25, 0.2, 0.65, 0.8)
    found = {
        "same": told([item("a.mp4", 3, Box(WHOLE, ("run", "talk")), Box(twin, ("sit", "talk")))]).found,
        "other": told([item("a.mp4", 3, Box(WHOLE, ("run",)), Box(twin, ("sit",)))]).found,
        "bare": told([item("a.mp4", 3, Box(WHOLE), Box(twin))]).found,
        "near": told([item("a.mp4", 3, Box(WHOLE, ("run",)), Box(near, ("run",)))]).found,
        "later": told([item("a.mp4", 3, Box(WHOLE, ("run",))), item("a.mp4", 4, Box(WHOLE, ("run",)))]).found,
    }
    assert {name: [one.kind for one in each] for name, each in found.items()} == {
        "same": ["box twice"],
        "other": [],
        "bare": ["box twice"],
        "near": [],
        "later": [],
    }
    assert "'talk' twice" in str(found["same"][0])


def test_one_person_in_two_places_is_a_problem():
    report = told([item("a.mp4", 3, Box((0, 0, 0.2, 0.2), ("a",), "7"), Box((0.5, 0.5, 0.9, 0.9), ("a",), "7"))])
    assert [one.kind for one in report.found] == ["person twice"]
    assert "2 boxes" in report.found[0].text


def test_jumps_are_told_where_they_are_too_quick():
    here, there, beside = (0.1, 0.1, 0.3, 0.4), (0.6, 0.1, 0.8, 0.4), (0.3, 0.1, 0.5, 0.4)

    def jumps(*way, person="1"):
        return told([item("a.mp4", second, Box(corners, ("a",), person)) for second, corners in way]).jumps

    assert jumps((2, here), (3, there)) == ("1 in a.mp4 at 3 s",)
    assert jumps((2, here), (3, beside)) == ("1 in a.mp4 at 3 s",)  # they share an edge and no more
    assert jumps((2, here), (4, there)) == ()
    assert jumps((2, here), (3, (0.2, 0.1, 0.5, 0.4))) == ()
    assert jumps((2, here), (3, there), person=None) == ()


def test_moments_beyond_the_video_are_problems_and_those_at_its_ends_are_told():
    # Clips of 4 frames at stride 2 reach from 3 frames before the moment to 3 after it.
    moments = (0.0, 0.2, 0.3, 5.0, 9.6, 9.8, 10.0, 10.5)
    report = told([item("a.mp4", second, Box(WHOLE, ("a",))) for second in moments])
    seconds = np.arange(100) / 10
    expected = []
    for second in moments[:-1]:
        wanted = int(second * 10 + 1e-6) + CLIP.offsets()
        if wanted.min() < 0 or wanted.max() > len(seconds) - 1:
            expected.append(f"a.mp4 at {second:g} s")
    assert list(report.ends) == expected
    assert [(one.kind, one.seconds) for one in report.found] == [("beyond", 10.5)]
    assert "ends at 10 s" in report.found[0].text
    sound = report.sound([item("a.mp4", second) for second in moments], {"a.mp4": row("a.mp4")})
    assert [one.key.seconds for one in sound] == list(moments[:-1])


def test_movies_that_are_cut_into_seconds(tmp_path):
    movie = tmp_path / "movie"
    movie.mkdir()
    for second in (901, 902, 903):
        (movie / f"0{second}.mp4").touch()
    items = [item(movie, second, Box(WHOLE, ("a",))) for second in (901, 902, 904)]
    assert [one.path.name for one in videos_of(items)] == ["0901.mp4", "0902.mp4", "movie"]
    rows = [row(str(own_file(movie, second)), duration=1.0) for second in (901, 902)]
    report = told(items, rows)
    assert report.ends == ("movie at 901 s",)
    assert [(one.kind, one.text) for one in report.found] == [("beyond", "there is no file of second 904")]
    assert report.short_sides[1] == pytest.approx(256 * 0.5)


def test_each_video_is_looked_at_once():
    assert [one.path.name for one in videos_of([item("b.mp4", 1), item("a.mp4", 1), item("b.mp4", 2)])] == [
        "b.mp4",
        "a.mp4",
    ]


def test_overlap_is_that_of_painted_pixels():
    rng = np.random.default_rng(2)
    boxes = np.sort(rng.integers(0, 40, (12, 2, 2)), 1).reshape(12, 4).astype(float)
    boxes[:, 2:] += 1
    painted = np.zeros((12, 48, 48), bool)
    for place, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        painted[place, top:bottom, left:right] = True
    both = (painted[:, None] & painted[None]).sum((2, 3))
    either = (painted[:, None] | painted[None]).sum((2, 3))
    assert np.allclose(iou(boxes, boxes), both / either)


# ---------------------------------------------------------------------------- as people see it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    for name, step in (("a.mp4", 5), ("<b>.mp4", 6)):
        write(folder / name, [np.full((96, 128, 3), 40 + step * n, np.uint8) for n in range(30)], 10)
    return folder


@pytest.fixture
def annotated(folder, monkeypatch):
    """A table of boxes, as whatever reads them gives it."""
    items = [item(folder / name, 1.0, Box(WHOLE, ("walk",), "1")) for name in ("a.mp4", "<b>.mp4")]
    items.append(
        item(folder / "a.mp4", 1.5, Box(WHOLE, ("walk", "<i>sit"), "1"), Box((0.7, 0.1, 0.9, 0.9), ("sit",), "2"))
    )
    frames = SimpleNamespace(items=items, names=("walk", "sit", "<i>sit", "fly"), missing=(), notes=("cut",))
    stand_in = SimpleNamespace(has_boxes=lambda source: source == "boxes.csv", key_frames=lambda source: frames)
    monkeypatch.setattr(tubelet.data.check, "check", partial(check, workers=0))
    monkeypatch.setitem(sys.modules, "tubelet.data.annotations", stand_in)
    return frames


def test_check_tells_of_boxes_and_draws_a_sheet(annotated, folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert run(["check", "boxes.csv", "--sheet", str(out), "--timeout", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "boxes       4 boxes at 3 moments of 2 videos" in lines
    assert "class       walk: 3" in lines
    assert "class       fly: 0" in lines
    assert "box trouble none" in lines
    assert "note        cut" in lines
    with Image.open(out) as picture:
        assert picture.width > 800
    annotated.items.append(item(folder / "a.mp4", 1.7, Box(WHOLE, ("sit",), "1"), Box(WHOLE, ("sit",), "3")))
    assert run(["check", "boxes.csv", "--json", "--timeout", "0"]) == 3
    read = json.loads(capsys.readouterr().out)
    assert read["boxes"]["kinds"] == {"box twice": 1}
    assert read["totals"]["videos"] == 2


def test_the_page_has_the_sheet_and_runs_no_names(annotated, tmp_path):
    page = tmp_path / "check.html"
    assert run(["check", "boxes.csv", "--html", str(page), "--timeout", "0"]) == 0
    text = page.read_text()
    assert (tmp_path / "check.png").is_file()
    assert text.count('src="data:image/jpeg;base64,') == 1
    assert "<h2>Boxes</h2>" in text
    assert "&lt;i&gt;sit" in text
    assert "<i>sit" not in text


def test_a_terminal_of_80_columns_has_it_all(annotated, folder):
    annotated.items.append(item(folder / "a.mp4", 99.0, Box(WHOLE, ("sit",))))
    report = check(videos_of(annotated.items), workers=0)
    rows = {one.path: one for one in report.rows}
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(report, check_boxes(annotated.items, rows, CLIP, names=annotated.names)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "5 boxes at 4 moments of 2 videos" in text
    assert "problems of boxes: 1 (1 beyond)" in text
    assert "█" in text
    assert "the video ends at 3 s" in " ".join(text.split())


def test_wrong_commands_are_named(annotated, folder, tmp_path, capsys):
    assert run(["check", "boxes.csv", "--sheet", "sheet.jpg"]) == 2
    assert "ends in .png" in capsys.readouterr().err
    assert run(["check", "boxes.csv", "--fix", str(tmp_path / "clean.csv")]) == 2
    assert "a list has no boxes" in capsys.readouterr().err
    assert run(["check", str(folder), "--sheet", str(tmp_path / "sheet.png")]) == 2
    assert "has none" in capsys.readouterr().err


def test_pages_without_boxes_are_as_they_were(folder, tmp_path):
    report = check([Item(folder / "a.mp4")], workers=0)
    assert "<h2>Boxes</h2>" not in write_page(report, "x", tmp_path / "page.html").read_text()
