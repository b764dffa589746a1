"""Made videos of several shapes: boxes and labels are what the pixels say."""

import csv

import numpy as np
import pytest

from tubelet.data.shapes import ACTIONS, FLICKER, GOES, make_shapes, moving_shapes
from tubelet.data.video import frames_at


def drawn(seed, **options):
    return moving_shapes(8, 64, np.random.default_rng(seed), **options)


def inside(frame, box):
    x1, y1, x2, y2 = box.astype(int)
    return frame[y1:y2, x1:x2].astype(float)


@pytest.mark.parametrize("seed", range(12))
def test_a_shape_alone_is_in_its_box_and_the_ground_is_still_outside(seed):
    video, boxes, labels = drawn(seed, shapes=(1, 1))
    assert len(boxes) == len(labels) == 1
    for t in range(7):
        outside = np.ones((64, 64), bool)
        for x1, y1, x2, y2 in boxes[0, t : t + 2].astype(int):
            outside[y1:y2, x1:x2] = False
        assert (video[t][outside] == video[t + 1][outside]).all()
    looks = [inside(video[t], boxes[0, t]) for t in range(8)]
    same = [np.abs(look - looks[0]).max() <= 1 for look in looks]
    assert all(same) == (FLICKER not in labels[0])
    if FLICKER in labels[0]:
        means = [look.mean() for look in looks]
        assert max(means) - min(means) > 20


@pytest.mark.parametrize("seed", range(12))
def test_boxes_go_where_the_label_says(seed):
    _, boxes, labels = drawn(seed)
    away = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "stand": (0, 0)}
    for box, names in zip(boxes, labels):
        went = (box[-1] - box[0])[:2]
        (goes,) = set(names) & set(GOES)
        assert (np.sign(went) == away[goes]).all()
        if goes != "stand":
            assert 0.02 * 64 * 7 - 1 <= np.abs(went).max() <= 0.035 * 64 * 7 + 1


def test_shapes_are_apart_in_the_middle_frame_and_inside_of_all():
    counts = set()
    for seed in range(60):
        _, boxes, _ = drawn(seed)
        counts.add(len(boxes))
        assert boxes.min() >= 0
        assert boxes.max() <= 64
        middle = boxes[:, 4]
        for one in range(len(middle)):
            for other in range(one):
                (a, b, c, d), (e, f, g, h) = middle[one], middle[other]
                assert c <= e or g <= a or d <= f or h <= b
    assert {2, 3} <= counts <= {2, 3, 4}


def test_where_a_shape_is_does_not_say_what_it_does():
    """Places in the middle frame of those that go left and those that go right have the same mean, to chance."""
    places = {name: [] for name in GOES}
    for seed in range(500):
        _, boxes, labels = drawn(seed)
        for box, names in zip(boxes[:, 4], labels):
            (goes,) = set(names) & set(GOES)
            places[goes].append(box[:2])
    for one, other in (("left", "right"), ("up", "down"), ("left", "stand")):
        a, b = np.array(places[one]), np.array(places[other])
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert (np.abs(a.mean(0) - b.mean(0)) < 3.5 * error).all()


def test_the_table_has_the_boxes_of_the_middle_frames_and_a_seed_gives_the_same(tmp_path):
    table, again = (make_shapes(tmp_path / name, 3, seed=5) for name in ("a", "b"))
    assert table.read_text() == again.read_text()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["frame"] for row in rows} == {"4"}
    for number in (1, 2, 3):
        _, boxes, labels = moving_shapes(8, 64, np.random.default_rng((5, number)))
        mine = [row for row in rows if row["path"] == f"{number:04d}.mp4"]
        assert [[int(row[c]) for c in ("x1", "y1", "x2", "y2")] for row in mine] == boxes[:, 4].astype(int).tolist()
        assert [tuple(row["label"].split("|")) for row in mine] == labels
    assert {name for row in rows for name in row["label"].split("|")} <= set(ACTIONS)
    frames = frames_at(tmp_path / "a" / "0001.mp4", range(8)).frames.numpy().astype(float)
    drawn_frames, _, _ = moving_shapes(8, 64, np.random.default_rng((5, 1)))
    assert np.abs(frames - drawn_frames).mean() < 9  # as it was drawn, but for the codec, whose colours are coarse
