"""Numbers of a test against loops written from their definitions, and the file they can be had from again."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from tubelet.charts import confusion_picture
from tubelet.data.labels import Labels
from tubelet.evaluate.results import (
    Results,
    Row,
    by_class,
    confusion,
    from_lines,
    lines_for_people,
    numbers,
    to_lines,
    unread_lines,
)

NAMES = ("fall", "jump", "run")
CLASSES = Labels("class", NAMES)


def results(pairs: list[tuple[str, list[float]]], labels: Labels = CLASSES) -> Results:
    """Rows with these labels and outputs."""
    rows = [Row(n, f"{n}.mp4", None, None, label, outputs) for n, (label, outputs) in enumerate(pairs)]
    return Results(labels, rows, "1x1")


@pytest.fixture
def four() -> Results:
    """Two of three falls right, none of one run."""
    return results(
        [("fall", [0.6, 0.3, 0.1]), ("fall", [0.5, 0.4, 0.1]), ("fall", [0.2, 0.7, 0.1]), ("run", [0.5, 0.3, 0.2])]
    )


def values(found):
    return {name: number.value for name, number in found.items()}


def test_accuracies_counted_by_hand(four):
    assert values(numbers(four)) == pytest.approx({"top1": 50.0, "mean_class_accuracy": 100 * (2 / 3 + 0) / 2})
    assert confusion(four).tolist() == [[2, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert by_class(four)[0] == ("fall", 3, pytest.approx(200 / 3))
    assert by_class(four)[1][:2] == ("jump", 0)
    assert math.isnan(by_class(four)[1][2])
    assert by_class(four)[2] == ("run", 1, 0.0)


def test_top5_by_a_loop():
    rng = np.random.default_rng(0)
    names = tuple(f"c{n}" for n in range(12))
    outputs, truth = rng.dirichlet(np.ones(12), 200), rng.integers(12, size=200)
    found = numbers(
        results([(names[t], o.tolist()) for t, o in zip(truth, outputs)], Labels("class", names)), resamples=2
    )
    for top in (1, 5):
        right = sum(int(t) in sorted(range(12), key=lambda x: -o[x])[:top] for t, o in zip(truth, outputs))
        assert found[f"top{top}"].value == pytest.approx(100 * right / 200)


def test_ties_do_not_count_as_right():
    uniform = results([(name, [1 / 3] * 3) for name in NAMES])
    assert numbers(uniform)["top1"].value == pytest.approx(100 / 3)
    assert confusion(uniform)[:, 0].tolist() == [1, 1, 1]


def test_average_precision_by_a_loop_over_thresholds():
    rng = np.random.default_rng(1)
    outputs = rng.integers(0, 8, (60, 3)) / 8  # with ties
    truth = rng.random((60, 3)) < [0.5, 0.2, 0.0]
    labels = ["|".join(name for name, there in zip(NAMES, row) if there) for row in truth]
    found = numbers(results(list(zip(labels, outputs.tolist())), Labels("classes", NAMES)), resamples=3)
    wanted = []
    for x in (0, 1):  # the third has no positive, and is in no mean
        precision, total, before = 0.0, truth[:, x].sum(), 0
        for threshold in sorted(set(outputs[:, x]), reverse=True):
            taken = outputs[:, x] >= threshold
            hit = truth[taken, x].sum()
            precision += (hit - before) / total * hit / taken.sum()
            before = hit
        wanted.append(precision)
    assert found["mean_average_precision"].value == pytest.approx(100 * np.mean(wanted))
    assert [share for _, _, share in by_class(results(list(zip(labels, outputs.tolist())), Labels("classes", NAMES)))][
        :2
    ] == pytest.approx([100 * w for w in wanted])


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(2)
    outputs, truth = np.round(rng.random((80, 3)), 1), rng.random((80, 3)) < 0.3
    labels = ["|".join(name for name, there in zip(NAMES, row) if there) for row in truth]
    found = numbers(results(list(zip(labels, outputs.tolist())), Labels("classes", NAMES)), resamples=2)
    assert found["mean_average_precision"].value == pytest.approx(100 * metrics.average_precision_score(truth, outputs))


def test_values():
    labels = Labels("values", ("speed", "turn"), offset=(5.0, 5.0), unit=(2.0, 2.0))  # rows are in their own units
    found = values(numbers(results([("1|0", [2, 0]), ("2|1", [2, 1]), ("3|2", [2, 2])], labels)))
    assert found["mean_absolute_error"] == pytest.approx(2 / 6)
    assert found["r2"] == pytest.approx((0 + 1) / 2)


def test_soft_labels():
    labels = Labels("shares", NAMES)
    one = results([("fall:3|run:1", [0.5, 0.25, 0.25]), ("jump:1", [0.5, 0.25, 0.25])], labels)
    wanted = -(0.75 * math.log(0.5) + 0.25 * math.log(0.25) + math.log(0.25)) / 2
    assert values(numbers(one)) == pytest.approx({"top1": 50.0, "mean_class_accuracy": 50.0, "cross_entropy": wanted})


def test_intervals_hold_what_they_claim():
    """Of the binomial, whose interval is known: 95 % are within 1.96 standard errors."""
    rng = np.random.default_rng(3)
    rows = [("fall", [0.9, 0.1, 0.0] if right else [0.1, 0.9, 0.0]) for right in rng.random(400) < 0.8]
    one = numbers(results(rows))["top1"]
    error = 196 * math.sqrt(one.value / 100 * (1 - one.value / 100) / 400)
    assert one.low == pytest.approx(one.value - error, abs=0.8)
    assert one.high == pytest.approx(one.value + error, abs=0.8)
    assert numbers(results(rows)) == numbers(results(rows))
    assert numbers(results(rows), seed=1)["top1"] != one
    assert numbers(results([("fall", [1.0, 0.0, 0.0])] * 5))["top1"].low == pytest.approx(56.55, abs=0.01)  # Wilson


def test_shared_classes_only(four):
    """The third fall is taken for a jump, which no video of the test is."""
    narrow = four.shared()
    assert narrow.labels.names == ("fall", "run")
    assert narrow.rows[2].outputs == pytest.approx([2 / 3, 1 / 3])
    assert numbers(narrow)["top1"].value == 75
    assert numbers(four)["top1"].value == 50


def test_a_file_is_read_back_and_scored_again(tmp_path, four):
    bad = Row(4, "bad.mp4", 1.5, 3.0, "jump", None, "bad.mp4 is empty", ())
    short = replace(four.rows[0], notes=("0.mp4 is too short",))
    kept = replace(four, rows=[short, *four.rows[1:], bad], average="scores")
    path = tmp_path / "results.jsonl"
    path.write_text(to_lines(kept))
    assert from_lines(path) == kept
    assert numbers(from_lines(path)) == numbers(kept)
    assert numbers(kept) == numbers(four)  # the unreadable one is in no number
    assert unread_lines(kept)[0].startswith("1 of 5 videos cannot be read")
    assert "bad.mp4 is empty" in unread_lines(kept)[1]
    assert unread_lines(four) == []
    assert len(path.read_text().splitlines()) == 6
    assert json.loads(path.read_text().splitlines()[5])["error"] == "bad.mp4 is empty"


def test_damaged_files_name_the_line(tmp_path, four):
    path = tmp_path / "results.jsonl"
    lines = to_lines(four).splitlines()
    for text, match in (
        ("", "line 1"),
        ("{}\n", "line 1"),
        ("\n".join([*lines[:2], lines[2][:20]]), "line 3"),
        ("\n".join([*lines[:2], lines[2].replace("0.5", "0.5, 0.1")]), "line 3.*4 outputs for 3 classes"),
        ("\n".join([*lines[:2], '{"path": 1}']), "line 3"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            from_lines(path)
    with pytest.raises(FileNotFoundError):
        from_lines(tmp_path / "none.jsonl")


def test_what_cannot_be_scored(four):
    with pytest.raises(ValueError, match="none of the 1 videos could be read"):
        numbers(replace(four, rows=[Row(0, "a", None, None, "run", None, "empty")]))
    with pytest.raises(ValueError, match="not in the class list"):
        numbers(replace(four, rows=[replace(four.rows[0], label="swim")]))
    with pytest.raises(ValueError, match="the labels are values"):
        confusion(results([("1", [1.0])], Labels("values", ("speed",))))
    with pytest.raises(ValueError, match="the labels are classes"):
        results([("run", [0.0, 0.0, 1.0])], Labels("classes", NAMES)).shared()


def test_words_and_picture(tmp_path, four):
    text = "\n".join(lines_for_people(four, numbers(four)))
    assert "top-1" in text
    assert "50.00 %" in text
    assert "4 videos, 1x1 views" in text
    assert "jump" not in text  # no video of it
    names = tuple(f"c{n}" for n in range(40))
    many = results([(name, [1.0] + [0.0] * 39) for name in names], Labels("class", names))
    assert [line.split()[0] for line in lines_for_people(many, {})[2:]] == list(names[1:11])  # only c0 is right
    path = confusion_picture(four, tmp_path / "confusion.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("right", [0, 8])
def test_all_or_none_right_is_no_certainty(right):
    outputs = [0.9, 0.1] if right else [0.1, 0.9]
    rows = [Row(n, f"{n}.mp4", None, None, "a", outputs) for n in range(8)]
    found = numbers(Results(Labels("class", ("a", "b")), rows, "1x1"))["top1"]
    wilson = binomtest(right, 8).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((100 * wilson.low, 100 * wilson.high), abs=0.01)
