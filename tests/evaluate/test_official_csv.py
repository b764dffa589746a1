"""The table that AVA's evaluation reads, against a reader written from its description."""

import csv
import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.frame_map import frame_map
from tubelet.evaluate.official_csv import from_csv, to_csv

NAMES = ("stand", "sit", "talk to (e.g., self, a person)")
IDS = {"sit": 11, "stand": 12, "talk to (e.g., self, a person)": 79}


def case(seed: int, frames: int = 30) -> tuple[list[Detection], list[Item]]:
    rng = np.random.default_rng(seed)
    detections, items = [], []
    for n in range(frames):
        video, stamp = ("5BDj0ow5hnA", "-abc,d")[n % 2], f"{902 + n // 2:04d}"
        corners = np.sort(rng.random((3, 2, 2)), axis=1).reshape(3, 4)
        boxes = [Box(tuple(row), tuple(name for name in NAMES if rng.random() < 0.5)) for row in corners.tolist()]
        items.append(Item(Path("film.mp4"), key=KeyFrame(902.0, tuple(boxes), video, stamp)))
        for box in boxes:
            moved = np.add(box.corners, rng.normal(size=4) * 0.02).clip(0, 1).reshape(2, 2)
            sure = float(rng.random())
            detections.append(
                Detection(
                    video,
                    stamp,
                    902.0,
                    Box(tuple(np.sort(moved, 0).ravel().tolist()), score=sure),
                    tuple(rng.random(3).tolist()),
                )
            )
    return detections, items


def test_each_line_is_as_the_official_reader_wants_it(tmp_path):
    """Eight columns; key of a frame: video and a timestamp of four digits; scores of each class."""
    detections, _ = case(0)
    path = tmp_path / "result.csv"
    path.write_text("".join(to_csv(detections, NAMES, IDS)))
    found = defaultdict(list)
    with open(path) as file:
        for row in csv.reader(file):
            assert len(row) == 8
            assert re.fullmatch(r"\d{4}", row[1])
            assert all(re.fullmatch(r"[01]\.\d{5}", corner) for corner in row[2:6])
            assert float(row[2]) <= float(row[4])
            assert float(row[3]) <= float(row[5])
            found[row[0], row[1]].append((*map(float, row[2:6]), int(row[6]), float(row[7])))
    assert len(found) == 30
    for key, rows in found.items():
        wanted = [
            (*one.box.corners, IDS[name], probability * one.box.score)
            for one in detections
            if (one.video, one.stamp) == key
            for name, probability in zip(NAMES, one.probabilities)
        ]
        np.testing.assert_allclose(rows, wanted, atol=5.1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_back_again_it_is_worth_the_same(tmp_path, seed):
    detections, items = case(seed)
    path = tmp_path / "result.csv"
    path.write_text("".join(to_csv(detections, NAMES, IDS)))
    again = from_csv(path, NAMES, IDS)
    assert len(again) == len(detections)
    assert (again[0].video, again[0].stamp, again[0].seconds) == ("5BDj0ow5hnA", "0902", 902.0)
    before, after = (frame_map(found, items, NAMES) for found in (detections, again))
    assert 1 < before.mean < 99
    assert after.per_class == pytest.approx(before.per_class, abs=0.01)


def test_tables_of_others(tmp_path):
    """Classes that are left out were not detected; equal boxes are two; frames without boxes; no score."""
    path = tmp_path / "result.csv"
    path.write_text(
        "v,0902,0.1,0.1,0.5,0.5,11,0.9\n"
        "v,0903\n"
        "w,0902,0,0,1,1,12,0.5\n"
        "v,0902,0.1,0.1,0.5,0.5,79,0.2\n"
        "v,0902,0.1,0.1,0.5,0.5,11,0.3\n"
        "v,0902,0.1,0.1,0.5,0.5,12\n"
        "\n"
    )
    first, other, twice = from_csv(path, NAMES, IDS)
    assert first.probabilities == pytest.approx((math.nan, 0.9, 0.2), nan_ok=True)
    assert other.probabilities == pytest.approx((0.5, math.nan, math.nan), nan_ok=True)
    assert twice.probabilities == pytest.approx((1.0, 0.3, math.nan), nan_ok=True)
    assert list(to_csv([other], NAMES, IDS)) == ["w,0902,0.00000,0.00000,1.00000,1.00000,12,0.5\n"]


def test_moments_that_are_no_timestamps_of_ava():
    one = Detection("v", "902", 902.0, Box((0, 0, 1, 1)), (0.5, math.nan, math.nan))
    assert next(to_csv([one], NAMES, IDS)).startswith("v,0902,")
    assert next(to_csv([replace(one, stamp="1.25")], NAMES, IDS)).startswith("v,1.25,")
    assert next(to_csv([replace(one, stamp="", seconds=2.5)], NAMES, IDS)).startswith("v,2.5,")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("v,0902,0.1,0.1,0.5,0.5", "expected video, timestamp"),
        ("v,0902,0.1,0.1,0.5,0.5,11,high", "could not convert"),
        ("v,0902,0.1,0.1,1.5,0.5,11,0.5", "shares of the picture"),
        ("v,0902,0.1,0.1,0.5,0.5,11,nan", "the score comes last"),
        ("v,0902,0.1,0.1,0.5,0.5,11,0.5,9", "the score comes last"),
        ("v,0902,0.1,0.1,0.5,0.5,80,0.5", "no class has number 80; the 3 have 11 to 79"),
    ],
)
def test_lines_that_are_something_else_are_named(tmp_path, line, said):
    path = tmp_path / "result.csv"
    path.write_text(f"v,0902,0.1,0.1,0.5,0.5,11,0.9\n{line}\n")
    with pytest.raises(ValueError, match=rf"result\.csv, line 2: .*{said}"):
        from_csv(path, NAMES, IDS)


def test_classes_without_a_number():
    with pytest.raises(ValueError, match="class 'stand' has no number"):
        next(to_csv([], NAMES, {"sit": 11}))
    with pytest.raises(FileNotFoundError):
        from_csv("nowhere.csv", NAMES, IDS)
