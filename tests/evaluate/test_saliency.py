"""Saliency against loops over pixels and hand-made motion; boxes as people write them; errors that name the place."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.cli import run
from tubelet.data.boxes import read_boxes
from tubelet.data.flow import Flow
from tubelet.data.sources import Item
from tubelet.data.synthetic import moving_square
from tubelet.data.vectors import Vectors
from tubelet.data.video import frames_at, probe, write
from tubelet.evaluate.saliency import Saliency, annotated, overall, saliency
from tubelet.types import Motion

HEADER = "path,frame,x1,y1,x2,y2\n"


def motion(frames: int, rows: int, columns: int, block: int = 8, seed: int = 0) -> Motion:
    """Random motion, of which a quarter is missing; in its place stands what must not be read."""
    generator = torch.Generator().manual_seed(seed)
    field = 4 * torch.randn(2, frames, rows, columns, generator=generator)
    had = torch.rand(frames, rows, columns, generator=generator) > 0.25
    return Motion(torch.where(had, field, torch.inf), torch.zeros_like(field), had, had, block)


def by_pixel(field: Motion, boxes, height: int, width: int) -> tuple[float, float]:
    """Mean lengths inside and outside, by a loop over all pixels."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for t, corners in enumerate(boxes):
        for y in range(height * bool(len(corners))):
            for x in range(width):
                if field.had[t, y // field.block, x // field.block]:
                    within = any(a <= x + 0.5 < c and b <= y + 0.5 < d for a, b, c, d in corners)
                    found[within].append(float(field.to_previous[:, t, y // field.block, x // field.block].norm()))
    return float(np.mean(found[True])), float(np.mean(found[False]))


def boxes_of(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, float).reshape(-1, 4)


# ---------------------------------------------------------------------------- one clip


def test_every_pixel_has_the_motion_of_its_block_and_missing_ones_count_nowhere():
    field = motion(3, 4, 5)  # 27 x 37 pixels: the last row and column hang over the edge
    boxes = [boxes_of((3, 5, 20, 18), (15, 10, 33.4, 27)), boxes_of(), boxes_of((0, 0, 9, 9))]
    result = saliency(field, boxes, (27, 37))
    inside, outside = by_pixel(field, boxes, 27, 37)
    assert result.inside == pytest.approx(inside, rel=1e-6)
    assert result.outside == pytest.approx(outside, rel=1e-6)
    assert result.ratio == pytest.approx(inside / outside, rel=1e-6)
    assert min(result.known) > 0.5
    assert max(result.known) < 1


def test_a_square_that_moves_five_times_as_far_as_the_rest_has_a_ratio_of_five():
    _, corners = moving_square((8, 8), 4, 96, np.random.default_rng(0))
    corners = corners // 8 * 8
    field = torch.zeros(2, 4, 12, 12)
    field[0] = -1
    for t, (row, column) in enumerate(corners // 8):
        field[0, t, row : row + 2, column : column + 2] = 3
        field[1, t, row : row + 2, column : column + 2] = -4
    known = torch.ones(4, 12, 12, dtype=torch.bool)
    boxes = [boxes_of((column, row, column + 16, row + 16)) for row, column in corners]
    assert saliency(Motion(field, field, known, known), boxes, (96, 96)) == Saliency(5.0, 1.0, (1.0, 1.0))
    wide = [box + np.array([0, 0, 16, 0]) for box in boxes]  # half of it is still: less salient
    assert saliency(Motion(field, field, known, known), wide, (96, 96)).ratio == pytest.approx(3.0, abs=0.5)


def test_what_cannot_be_compared_is_said():
    field = motion(2, 4, 4)
    none = boxes_of()
    with pytest.raises(ValueError, match="boxes of 1 frames for the motion of 2"):
        saliency(field, [none], (32, 32))
    with pytest.raises(ValueError, match="no boxes"):
        saliency(field, [none, none], (32, 32))
    with pytest.raises(ValueError, match=r"outside of the boxes of 1 frames: there is no pixel"):
        saliency(field, [boxes_of((0, 0, 32, 32)), none], (32, 32))
    blind = Motion(field.to_previous, field.to_next, torch.zeros_like(field.had), field.has)
    with pytest.raises(ValueError, match=r"inside of the boxes of 1 frames: no motion is known"):
        saliency(blind, [boxes_of((0, 0, 8, 8)), none], (32, 32))


def test_ratios_of_a_data_set_in_both_ways_and_without_infinities():
    both = (1.0, 1.0)
    result = overall([Saliency(2, 1, both), Saliency(30, 10, both), Saliency(4, 0, both), Saliency(0, 0, both)])
    assert result.videos == 4
    assert result.mean_of_ratios == 2.5
    assert result.ratio_of_means == pytest.approx(36 / 11)
    assert result.without == 2
    assert str(result).startswith("4 videos: mean of ratios 2.50 (2 videos where nothing moves outside have no ratio)")
    still = overall([Saliency(0, 0, both)])
    assert json.loads(json.dumps(still.to_dict(), allow_nan=False))["ratio_of_means"] is None
    assert Saliency(4, 0, both).to_dict()["ratio"] is None
    with pytest.raises(ValueError, match="not one video"):
        overall([])


# ---------------------------------------------------------------------------- boxes of files


@pytest.fixture
def film(tmp_path):
    """A square that moves 4 pixels a frame to the right and 2 up, and the table of its boxes."""
    frames, corners = moving_square((-2, 4), 12, 96, np.random.default_rng(3), side=24)
    write(tmp_path / "film.mp4", frames, 10, options={"bf": "0", "refs": "1", "crf": "12", "g": "99"})
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "frame", "x1", "y1", "x2", "y2", "label"])
        for frame, (row, column) in enumerate(corners):
            table.writerow(["film.mp4", frame, column, row, column + 24, row + 24, "square"])
    return tmp_path / "film.mp4"


@pytest.mark.parametrize("source", [Vectors(), Flow(size=96)], ids=["vectors", "flow"])
def test_true_boxes_of_a_synthetic_square_hold_its_motion(film, source):
    seen = annotated(Item(film), read_boxes(film.parent / "boxes.csv"), source, most=5)
    assert seen.saliency.inside == pytest.approx(20**0.5, abs=1)
    assert seen.saliency.outside < 1
    assert len(seen.boxes) == 5
    frames = np.array([1, 3, 6, 9, 11])
    assert torch.equal(seen.frames, frames_at(film, frames).frames)
    if isinstance(source, Vectors):  # motion is that of one frame of the video, not from one to the next of the five
        field = frames_at(film, range(12), vectors=True).motion
        picked = field.each(lambda values: values[..., frames, :, :])
        inside, outside = by_pixel(picked, seen.boxes, 96, 96)
        assert seen.saliency.inside == pytest.approx(inside, rel=1e-5)
        assert seen.saliency.outside == pytest.approx(outside, rel=1e-5)


def test_only_the_part_of_a_video_that_is_meant_counts(film):
    boxes = read_boxes(film.parent / "boxes.csv")
    seen = annotated(Item(film, start=0.5, end=0.8), boxes, Vectors())
    assert torch.equal(seen.frames, frames_at(film, [6, 7]).frames)
    with pytest.raises(ValueError, match=r"at none of the frames 1 to 0"):
        annotated(Item(film, end=0.1), boxes, Vectors())


def test_boxes_by_second_tabs_and_marks_are_those_by_frame(film):
    by_frame = read_boxes(film.parent / "boxes.csv").of(probe(film))
    rows = [line.split(",") for line in (film.parent / "boxes.csv").read_text().splitlines()[1:]]
    text = "".join("\t".join([str(film), str(int(row[1]) / 10), *row[2:6]]) + "\n" for row in rows)
    (film.parent / "seconds.tsv").write_text("\ufeffVideo\tSeconds\tX1\tY1\tX2\tY2\n\n" + text, encoding="utf-8")
    by_second = read_boxes(film.parent / "seconds.tsv").of(probe(film))
    assert [*by_second] == [*by_frame] == [*range(12)]
    for frame, corners in by_frame.items():
        assert np.array_equal(corners, by_second[frame])


def test_boxes_in_shares_of_the_picture(film):
    table = film.parent / "shares.csv"
    table.write_text(f"path,frame,x1,y1,x2,y2\n{film.name},1,0.25,0.5,0.75,1\n{film.name},2,0,0,0.5,0.5\n")
    first, second = read_boxes(table).of(probe(film)).values()
    assert (first.tolist(), second.tolist()) == ([[24, 48, 72, 96]], [[0, 0, 48, 48]])


def test_boxes_that_reach_over_the_edge_are_cut(film):
    (film.parent / "over.csv").write_text(HEADER + "film.mp4,2,-5,-5,50,20\nfilm.mp4,2,90,90,200,200\n")
    [corners] = read_boxes(film.parent / "over.csv").of(probe(film)).values()
    assert corners.tolist() == [[0, 0, 50, 20], [90, 90, 96, 96]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("film.mp4,2,100,10,120,20\n", r"\(100, 10\) to \(120, 20\): outside of the picture, which is 96 wide and 96"),
        ("film.mp4,12,1,1,9,9\n", r"at frame 12; it has 12 frames, 0 to 11"),
        ("film.mp4,1.5,1,1,9,9\n", r"line 2: frame 1\.5 is no whole number"),
        ("film.mp4,1,9,1,9,9\n", r"line 2: a box .* expected x1 < x2"),
        ("film.mp4,1,1,1,9,9\nfilm.mp4,1,1,one,9,9\n", r"line 3: expected a path, and numbers for frame, x1"),
        ("\n,1,1,1,9,9\n", r"line 3: expected a path"),
        ("film.mp4,1,1\n", r"line 2: expected a path, and numbers"),
        ("other.mp4,1,1,1,9,9\n", r"has no boxes for .*film\.mp4; it has some for 1 videos, such as .*other\.mp4"),
        ("", r"a header and no boxes"),
    ],
)
def test_wrong_boxes_are_refused_with_their_place(film, rows, said):
    (film.parent / "wrong.csv").write_text(HEADER + rows)
    with pytest.raises(ValueError, match=said):
        read_boxes(film.parent / "wrong.csv").of(probe(film))


def test_tables_without_the_columns_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.csv"):
        read_boxes(tmp_path / "gone.csv")
    for text in ("", "path,x1,y1,x2,y2\na.mp4,1,1,2,2\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match="expected path, frame or seconds, x1, y1, x2, y2"):
            read_boxes(tmp_path / "bad.csv")


# ---------------------------------------------------------------------------- the command


def test_one_bad_video_does_not_stop_the_others(film, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    rows = (tmp_path / "boxes.csv").read_text()
    (tmp_path / "boxes.csv").write_text(rows + rows.splitlines()[1].replace("film.mp4", "bad.mp4") + "\n")
    asked = ["picture", "motion", "--data", str(tmp_path), "--saliency", "--boxes", str(tmp_path / "boxes.csv")]
    assert run([*asked, "--out", str(tmp_path / "motion.png")]) == 0
    out, err = capsys.readouterr()
    assert "left out: " in err
    assert "bad.mp4" in err
    assert "1 video: mean of ratios" in out
    assert run([*asked, "--out", str(tmp_path / "motion.jpg")]) == 2


def test_the_command_prints_ratios_and_draws_the_boxes(film, tmp_path, capsys):
    write(tmp_path / "more.mp4", np.zeros((3, 32, 32, 3), np.uint8), 10)
    asked = ["picture", "motion", "--data", str(tmp_path), "--saliency", "--boxes", str(tmp_path / "boxes.csv")]
    assert run([*asked, "--out", str(tmp_path / "motion.png"), "--frames", "4"]) == 0
    out, err = capsys.readouterr()
    assert "1 of 2 videos have no boxes and are left out" in err
    one, total, path = out.splitlines()
    assert one.startswith("saliency ")
    assert one.endswith("film.mp4")
    assert total.startswith("1 video: mean of ratios ")
    with Image.open(path) as image:
        assert "Motion from vectors" in image.info["Description"]
        assert image.width > 4 * 224
    assert run([*asked, "--out", str(tmp_path / "motion.png"), "--json"]) == 0
    one, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert one["ratio"] == pytest.approx(one["inside"] / one["outside"])
    assert total["videos"] == 1
    (tmp_path / "boxes.csv").write_text(HEADER + "gone.mp4,1,1,1,9,9\n")
    assert run([*asked, "--out", str(tmp_path / "motion.png")]) == 2
    assert "has no boxes for" in capsys.readouterr().err
    assert run(asked[:-2]) == 2
    assert "go together" in capsys.readouterr().err
