"""Frame mAP against loops written from its definition, by hand, and by what must not change it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.frame_map import FrameMap
from tubelet.evaluate.frame_map import frame_map as of_items

NAMES = ("sit", "stand", "run", "swim")


def key(stamp: str, *boxes: tuple, video: str = "film") -> KeyFrame:
    """A key frame with boxes (corners, labels)."""
    return KeyFrame(0.0, tuple(Box(corners, labels) for corners, labels in boxes), video, stamp)


def found(stamp: str, corners, *probabilities: float, score: float = 1.0, video: str = "film") -> Detection:
    return Detection(video, stamp, 0.0, Box(corners, score=score), probabilities)


def frame_map(detections, truth, *how, **named) -> FrameMap:
    return of_items(detections, [Item(Path("film.mp4"), key=one) for one in truth], *how, **named)


# ---------------------------------------------------------------------------- the definition in loops


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def by_loops(detections, truth, names, evaluated, excluded, threshold, most) -> dict[str, float]:
    """Average precision of each class, from the definition."""
    rows = []  # (frame, corners, class, score) of everything that is said
    for one in detections:
        x1, y1, x2, y2 = one.box.corners
        if (one.video, one.stamp) in excluded or x2 <= x1 or y2 <= y1:
            continue
        for name in evaluated:
            rows.append(((one.video, one.stamp), one.box.corners, name, one.probabilities[names.index(name)]))
            rows[-1] = (*rows[-1][:3], rows[-1][3] * one.box.score)
    if most is not None:
        kept = []
        for frame in {row[0] for row in rows}:
            there = sorted((row[3], -n) for n, row in enumerate(rows) if row[0] == frame)
            kept += [-n for _, n in there[::-1][:most]]
        rows = [rows[n] for n in sorted(kept)]
    found = {}
    for name in evaluated:
        boxes = [
            ((one.video, one.stamp), box.corners)
            for one in truth
            if (one.video, one.stamp) not in excluded
            for box in one.boxes
            if name in box.labels
        ]
        if not boxes:
            found[name] = math.nan
            continue
        taken, right = set(), []
        for frame, corners, _, _ in sorted((row for row in rows if row[2] == name), key=lambda row: -row[3]):
            best, most_shared = None, -1.0
            for number, (other, true) in enumerate(boxes):
                if other == frame and overlap(corners, true) > most_shared:
                    best, most_shared = number, overlap(corners, true)
            right.append(best is not None and most_shared >= threshold and best not in taken)
            if right[-1]:
                taken.add(best)
        precision = [sum(right[: n + 1]) / (n + 1) for n in range(len(right))]
        area = 0.0
        for n, hit in enumerate(right):
            if hit:
                area += max(precision[n:]) / len(boxes)
        found[name] = 100 * area
    return found


def random_case(seed: int):
    """Few frames full of coincidences: places and scores are eighths, so that boxes touch, repeat and share halves."""
    rng = np.random.default_rng(seed)

    def corners():
        ends = [sorted(rng.integers(0, 9, 2) / 8) for _ in range(2)]
        if rng.random() < 0.9:
            ends = [(a, b) if a < b else (a, b + 0.125) if b < 1 else (a - 0.125, b) for a, b in ends]
        return float(ends[0][0]), float(ends[1][0]), float(ends[0][1]), float(ends[1][1])

    stamps = [(f"film{n % 3}", f"{902 + n // 3:04d}") for n in range(rng.integers(1, 7))]
    truth, detections = [], []
    for video, stamp in stamps:
        boxes = [
            Box(corners(), tuple(name for name in NAMES[: rng.integers(2, 4)] if rng.random() < 0.4))
            for _ in range(rng.integers(0, 4))
        ]
        truth.append(KeyFrame(0.0, tuple(boxes), video, stamp))
        near = [box.corners for box in boxes for _ in range(rng.integers(0, 3))]
        for place in near + [corners() for _ in range(rng.integers(0, 3))]:
            box = Box(place, score=float(rng.integers(1, 3) / 2))
            detections.append(Detection(video, stamp, 0.0, box, tuple((rng.integers(0, 9, 4) / 8).tolist())))
    detections = [detections[n] for n in rng.permutation(len(detections))]
    if rng.random() < 0.3 and truth:
        truth.pop()  # a frame that nobody has annotated
    excluded = [stamps[n] for n in range(len(stamps)) if rng.random() < 0.15]
    evaluated = NAMES if rng.random() < 0.5 else tuple(name for name in NAMES if rng.random() < 0.7) or NAMES[:1]
    most = None if rng.random() < 0.5 else int(rng.integers(1, 9))
    return detections, truth, list(NAMES), evaluated, excluded, float(rng.choice([0.25, 0.5, 0.75])), most


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_it_is_what_loops_over_the_definition_find(start):
    seen = []
    for seed in range(start, start + 100):
        case = random_case(seed)
        counted = frame_map(*case)
        wanted = by_loops(*case)
        assert counted.per_class == pytest.approx(wanted, abs=1e-9, nan_ok=True), seed
        there = [value for value in wanted.values() if not math.isnan(value)]
        mean = sum(there) / len(there) if there else math.nan
        assert counted.mean == pytest.approx(mean, abs=1e-9, nan_ok=True)
        seen += there
    assert 0.0 in seen  # cases of all kinds
    assert 100.0 in seen
    assert sum(0 < value < 100 for value in seen) > 50


# ---------------------------------------------------------------------------- by hand

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def by_hand() -> FrameMap:
    """Three true boxes of people who sit: two in one frame, one in the next."""
    truth = [key("1", (LEFT, ("sit",)), (RIGHT, ("sit", "stand"))), key("2", (LEFT, ("sit",)))]
    detections = [
        found("1", LEFT, 0.9, 0.1),  # hits the first
        found("1", LEFT, 0.8, 0.1),  # it is taken: false
        found("2", RIGHT, 0.7, 0.1),  # overlaps nothing: false
        found("1", RIGHT, 0.6, 0.3),  # hits the second
        found("2", LEFT, 1.0, 0.1, score=0.5),  # 0.5: hits the third
    ]
    return frame_map(detections, truth, ("sit", "stand"))


def test_an_example_counted_by_hand():
    counted = by_hand()
    # sit: true, false, false, true, true: precision 1, 1/2, 1/3, 2/4, 3/5 at recall 1/3, 1/3, 1/3, 2/3, 1.
    # Precision that nowhere falls less than later: 1, 3/5, 3/5, 3/5, 3/5. So 1/3 x (1 + 3/5 + 3/5) = 11/15.
    # stand: one true box, hit by the highest score, 0.3; what follows does not matter: 1.
    assert counted.per_class == pytest.approx({"sit": 1100 / 15, "stand": 100.0})
    assert counted.mean == pytest.approx((1100 / 15 + 100) / 2)
    assert counted.boxes == {"sit": 3, "stand": 1}
    assert counted.detections == {"sit": 5, "stand": 5}
    assert (counted.frames, counted.strange, counted.videos) == (2, 0, ("film",))


def test_half_an_overlap_is_enough_and_less_is_not():
    truth = [key("1", ((0.0, 0.0, 0.5, 0.5), ("sit",)))]
    assert frame_map([found("1", (0.0, 0.0, 0.25, 0.5), 1.0)], truth, ("sit",)).mean == 100  # a half of it: 0.5
    assert frame_map([found("1", (0.0, 0.0, 0.2499, 0.5), 1.0)], truth, ("sit",)).mean == 0
    assert frame_map([found("1", (0.5, 0.0, 1.0, 0.5), 1.0)], truth, ("sit",)).mean == 0  # they touch


def test_a_detection_wants_the_box_that_it_overlaps_most_even_if_that_is_taken():
    truth = [key("1", ((0.0, 0.0, 0.5, 0.5), ("sit",)), ((0.0, 0.0, 0.5, 0.75), ("sit",)))]
    first, second = found("1", (0.0, 0.0, 0.5, 0.5), 0.9), found("1", (0.0, 0.0, 0.5, 0.55), 0.8)
    assert frame_map([first, second], truth, ("sit",)).mean == pytest.approx(50)  # though the other overlaps by 0.73


def test_frames_without_true_boxes_count_what_is_found_in_them_as_false():
    truth = [key("1", (LEFT, ("sit",))), key("2")]
    sure, unsure = found("2", LEFT, 0.9), found("1", LEFT, 0.8)
    assert frame_map([sure, unsure], truth, ("sit",)).mean == pytest.approx(50)
    unknown = frame_map([sure, unsure], truth[:1], ("sit",))
    assert (unknown.mean, unknown.frames, unknown.strange) == (pytest.approx(50), 1, 1)
    assert frame_map([sure, unsure], truth, ("sit",), excluded={("film", "2")}).mean == 100
    other = [replace(sure, video="another")]
    assert frame_map([*other, unsure], truth, ("sit",), excluded={("film", "2")}).mean == pytest.approx(50)


def test_classes_without_true_boxes_are_in_no_mean():
    truth = [key("1", (LEFT, ("sit",)))]
    counted = frame_map([found("1", LEFT, 0.5, 0.9)], truth, ("sit", "run"))
    assert math.isnan(counted.per_class["run"])
    assert counted.mean == 100
    assert math.isnan(frame_map([], [], ("sit",)).mean)
    assert frame_map([], truth, ("sit",)).mean == 0  # nothing found


def test_classes_that_are_not_evaluated_do_not_count():
    truth = [key("1", (LEFT, ("sit", "run")))]
    counted = frame_map([found("1", LEFT, 0.5, 0.9), found("1", RIGHT, 0.4, 1.0)], truth, ("sit", "run"), ("sit",))
    assert counted.per_class == {"sit": 100.0}


def test_what_is_not_a_number_was_not_detected():
    truth = [key("1", (LEFT, ("sit",)), (RIGHT, ("sit",)))]
    counted = frame_map([found("1", LEFT, 0.5), found("1", RIGHT, math.nan)], truth, ("sit",))
    assert (counted.mean, counted.detections) == (50.0, {"sit": 1})


def test_only_the_surest_of_a_frame():
    """Of two boxes with two classes each, three: the class counts as the box does."""
    truth = [key("1", (LEFT, ("sit", "run")), (RIGHT, ("sit", "run")))]
    detections = [found("1", LEFT, 0.9, 0.5), found("1", RIGHT, 0.8, 0.4)]
    assert frame_map(detections, truth, ("sit", "run"), most=3).per_class == {"sit": 100.0, "run": 50.0}
    assert frame_map(detections, truth, ("sit", "run"), ("run",), most=1).per_class == {"run": 50.0}
    assert frame_map(detections, truth, ("sit", "run"), most=4).mean == 100


def test_more_than_a_hundred_boxes_in_a_frame():
    corners = [(x / 20, y / 10, (x + 1) / 20, (y + 1) / 10) for x in range(20) for y in range(10)]
    truth = [key("1", *((place, ("sit",)) for place in corners))]
    assert frame_map([found("1", place, 0.5) for place in corners], truth, ("sit",)).mean == pytest.approx(100)
    assert frame_map([found("1", place, 0.5) for place in corners[:50]], truth, ("sit",)).mean == pytest.approx(25)


# ---------------------------------------------------------------------------- what must not change it


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_frames_and_the_unit_of_places_do_not_matter(seed):
    detections, truth, names, *how = random_case(seed)
    rng = np.random.default_rng(seed)
    # without ties, of which the first given goes first
    detections = [replace(one, probabilities=tuple(rng.random(4).tolist())) for one in detections]
    before = frame_map(detections, truth, names, *how).per_class
    turned = [truth[n] for n in rng.permutation(len(truth))]
    assert frame_map(detections[::-1], turned, names, *how).per_class == pytest.approx(before, nan_ok=True)

    def halved(box: Box) -> Box:
        x1, y1, x2, y2 = box.corners
        return replace(box, corners=(x1 / 2, y1 / 4 + 0.5, x2 / 2, y2 / 4 + 0.5))

    smaller = [replace(one, box=halved(one.box)) for one in detections]
    there = [replace(one, boxes=tuple(map(halved, one.boxes))) for one in truth]
    assert frame_map(smaller, there, names, *how).per_class == pytest.approx(before, nan_ok=True)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_what_is_found_besides_can_only_lower_a_class_and_what_is_true_gives_all(seed):
    detections, truth, names, *_ = random_case(seed)
    kept = []  # no two true boxes of a class in one frame overlap: what is said of one is not said of another
    for one in truth:
        boxes: list[Box] = []
        for box in one.boxes:
            x1, y1, x2, y2 = box.corners
            if x1 < x2 and y1 < y2 and all(overlap(box.corners, other.corners) < 0.5 for other in boxes):
                boxes.append(box)
        kept.append(replace(one, boxes=tuple(boxes)))
    exact = [
        Detection(one.video, one.stamp, 0.0, box, tuple(float(name in box.labels) for name in names))
        for one in kept
        for box in one.boxes
    ]
    best = [value for value in frame_map(exact, kept, names).per_class.values() if not math.isnan(value)]
    assert best == pytest.approx([100.0] * len(best))
    lower = [replace(one, probabilities=tuple(p / 2 for p in one.probabilities)) for one in detections]
    assert frame_map(exact + lower, kept, names).mean == pytest.approx(frame_map(exact, kept, names).mean, nan_ok=True)
    alone, more = frame_map(detections, kept, names).per_class, frame_map([*detections, *lower], kept, names).per_class
    for name in names:
        assert math.isnan(alone[name]) or 0 <= alone[name] <= 100 + 1e-9
        assert math.isnan(alone[name]) == math.isnan(more[name])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**6)), min_size=2, max_size=40, unique_by=lambda one: one[1]))
@settings(max_examples=60, deadline=None)
def test_with_one_box_a_frame_in_its_place_it_is_interpolated_average_precision(pairs):
    if not any(true for true, _ in pairs):
        return
    truth = [key(str(n), (LEFT, ("sit",) if true else ())) for n, (true, _) in enumerate(pairs)]
    detections = [found(str(n), LEFT, score / 10**6) for n, (_, score) in enumerate(pairs)]
    precision, recall, _ = precision_recall_curve([true for true, _ in pairs], [score for _, score in pairs])
    highest = np.maximum.accumulate(precision)  # scikit-learn's curves begin with all, and end with none
    wanted = -np.sum(np.diff(recall) * highest[:-1])
    assert frame_map(detections, truth, ("sit",)).mean == pytest.approx(100 * wanted)


# ---------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("seed", range(10))
def test_a_weight_is_how_often_a_video_is_there(seed):
    detections, truth, names, *_ = random_case(seed)
    rng = np.random.default_rng(seed)
    detections = [replace(one, probabilities=tuple(rng.random(4).tolist())) for one in detections]
    counted = frame_map(detections, truth, names)
    weights = rng.integers(0, 4, len(counted.videos)).astype(float)
    more, keys = [], []
    for video, weight in zip(counted.videos, weights):
        for copy in range(int(weight)):
            more += [replace(one, video=f"{video} {copy}") for one in detections if one.video == video]
            keys += [replace(one, video=f"{video} {copy}") for one in truth if one.video == video]
    wanted = frame_map(more, keys, names).per_class
    got = {name: ranked.average_precision(weights) for name, ranked in counted.classes.items()}
    assert got == pytest.approx(wanted, nan_ok=True)


def test_the_interval_holds_the_number_and_is_narrower_with_more_videos():
    def of(videos: int) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        truth = [key("1", (LEFT, ("sit",)), video=str(n)) for n in range(videos)]
        detections = [
            found("1", LEFT if rng.random() < 0.5 else RIGHT, rng.random(), video=str(n)) for n in range(videos)
        ]
        number = frame_map(detections, truth, ("sit",)).number()
        assert number.low <= number.value <= number.high
        return number.high - number.low

    assert 0 < of(400) < of(25) / 2
    alone = by_hand().number()
    assert alone.value == by_hand().mean
    assert math.isnan(alone.low)


def test_what_cannot_be_counted_is_said():
    truth = [key("0902", (LEFT, ("sit",)))]
    with pytest.raises(ValueError, match=r"film at 0902: a box has 2 probabilities for 1 classes"):
        frame_map([found("0902", LEFT, 0.5, 0.5)], truth, ("sit",))
    with pytest.raises(ValueError, match="'fly' cannot be evaluated"):
        frame_map([], truth, ("sit",), ("sit", "fly"))
    with pytest.raises(ValueError, match=r"'sit', done in film at 0902, is not among the 1 classes"):
        frame_map([], truth, ("run",))
    with pytest.raises(ValueError, match=r"two key frames are called '0902' of 'film'"):
        frame_map([], truth * 2, ("sit",))
    with pytest.raises(ValueError, match=r"film\.mp4 is a video without boxes"):
        of_items([], [Item(Path("film.mp4"))], ("sit",))
