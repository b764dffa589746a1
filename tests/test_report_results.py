"""results.json: what tests and probes leave in the folder of their run, and how the page shows it."""

import json
import re
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from test_report import Page

import tubelet.report_results
from tubelet.data.labels import Labels
from tubelet.evaluate.results import Number, Results, Row, guessing
from tubelet.report import add_result, write_report
from tubelet.report_results import Measured, article, beside_chance, in_words, keep, results_of, scale

FOUND = Measured(
    "test",
    "lists/hold <out>.csv",
    "5x3 views",
    "40 videos of 8 classes",
    {"top1": Number(60.0, 45.0, 75.0), "mean_absolute_error": Number(2.5, 2.0, float("nan"))},
    {"top1": 12.5},
)


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"run": {}}')
    (folder / "best.safetensors").write_bytes(b"")
    return folder


def test_each_later_test_is_added_and_the_same_again_replaces(run):
    for found, weights in (
        (FOUND, run),
        (replace(FOUND, how="2x3 views"), run),
        (FOUND, run / "best.safetensors"),
        (replace(FOUND, numbers={"top1": Number(70.0, 55.0, 85.0)}), run),  # the first again
    ):
        keep(run, weights, found)
    kept = results_of(run)
    assert [(one["how"], one["weights"], one["numbers"]["top1"]["value"]) for one in kept] == [
        ("2x3 views", "", 60.0),
        ("5x3 views", "best.safetensors", 60.0),
        ("5x3 views", "", 70.0),
    ]
    assert kept[0]["numbers"]["mean_absolute_error"] == {"value": 2.5, "low": 2.0, "high": None}
    assert kept[0]["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", kept[0]["date"])


def test_the_page_shows_tests_beside_read_outs(run):
    (run / "results.json").write_text(json.dumps([{"name": "Which way?", "trained": 60, "chance": 25, "unit": "%"}]))
    add_result(run, FOUND)
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for words in (
        "Which way?",
        "Test on hold <out>.csv",
        "40 videos of 8 classes · 5x3 views",
        "60.0 % (45.0 to 75.0)",
        "2.500",
        "Top-1 by guessing: 12.5 %. The whole interval is above it.",
    ):
        assert words in page.text
    assert 'class="dot" style="left:60.00%"' in text
    assert 'class="whisker" style="left:45.00%;right:calc(100% - 75.00%)"' in text
    assert 'class="guess" style="left:12.50%"' in text


def test_while_it_trains_the_page_is_left_to_the_run(run):
    with FileLock(run / ".lock"):
        add_result(run, FOUND)
    assert len(results_of(run)) == 1
    assert not (run / "report.html").exists()
    add_result(run, FOUND)
    assert (run / "report.html").exists()


def test_a_folder_that_cannot_be_written_is_said(run, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tubelet.train.checkpoint.os.replace", refuse)  # root may write anywhere
    add_result(run, FOUND)
    assert "does not show this test" in capsys.readouterr().err
    assert not (run / "results.json").exists()


def test_weights_of_nobody_keep_nothing(tmp_path):
    add_result(tmp_path, FOUND)
    add_result(tmp_path / "weights.safetensors", FOUND)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["", "{", "{}", "3", '[1, "x", null]', "[[]]"])
def test_a_damaged_file_is_none(run, text):
    (run / "results.json").write_text(text)
    assert results_of(run) == []
    write_report(run)


def test_two_tests_that_end_at_once_are_both_kept(run, monkeypatch):
    """Each waits for the other between what it reads and what it writes; without a lock all read nothing."""
    together = threading.Barrier(2)
    before = tubelet.report_results.write_results

    def slowly(folder, entries):
        with suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        before(folder, entries)

    monkeypatch.setattr("tubelet.report_results.write_results", slowly)
    threads = [threading.Thread(target=keep, args=(run, run, replace(FOUND, how=f"{n}x3 views"))) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["how"] for one in results_of(run)) == ["1x3 views", "2x3 views"]


@pytest.mark.parametrize("text", ["", '[{"name": "by hand"},]', "{}", '[{"name": "by hand"}, 3]'])
def test_a_file_that_cannot_be_read_is_not_written_over(run, capsys, text):
    (run / "results.json").write_text(text)
    add_result(run, FOUND)
    assert (run / "results.json").read_text() == text
    assert "results.json is no list of results" in capsys.readouterr().err


def test_whatever_the_page_meets_the_test_goes_on(run, capsys):
    (run / "results.json").write_text('[{"numbers": {"top1": 3}}]')
    add_result(run, FOUND)
    assert "does not show this test" in capsys.readouterr().err
    assert len(results_of(run)) == 2


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(13.0, 30.0, "is above it"), (5.0, 12.0, "is below it"), (5.0, 30.0, "The interval holds it")],
)
def test_beside_guessing(low, high, said):
    assert said in beside_chance({"top1": {"value": 12.6, "low": low, "high": high}}, {"top1": 12.5})


def test_errors_are_not_held_against_guessing():
    """Less is better there, so "above" would be wrong."""
    none, error = {"value": None, "low": None, "high": None}, {"value": 9.0, "low": 8.0, "high": 10.0}
    numbers = {"r2": none, "mean_absolute_error": error}
    assert beside_chance(numbers, {"r2": 0.0, "mean_absolute_error": 2.0}) == ""
    assert "did not help" not in article({"data": "x", "numbers": numbers, "untrained": numbers})


def test_beside_an_untrained_encoder():
    def said(value: float, low: float) -> str:
        return article(
            {"kind": "knn probe", "data": "x", "numbers": {"top1": {"value": value, "low": low, "high": 99.0}}}
            | {"untrained": {"top1": {"value": 40.0, "low": 30.0, "high": 50.0}}}
        )

    assert "do not overlap" in said(60.0, 51.0)
    assert "overlap: more" in said(60.0, 49.0)
    assert "did not help" in said(40.0, 30.0)


def test_what_has_no_scale_has_no_dot():
    number = {"value": 2.5, "low": 2.0, "high": 3.0}
    assert "dot" not in scale("mean_absolute_error", number, None)
    assert "left:250" not in scale("r2", number, 0.0)  # within the line, whatever it is
    assert "no number" in scale("top1", {"value": None, "low": None, "high": None}, 12.5)


def test_in_words():
    entry = {"kind": "linear probe", "data": "a/test.csv", "tested": "4 clips of 2 classes", "how": "adamw"}
    entry["numbers"] = {"top1": {"value": 60.0, "low": 45.0, "high": 75.0}}
    assert in_words(entry) == ("Linear probe on test.csv (4 clips of 2 classes; adamw): top-1 60.0 % (45.0 to 75.0)")
    read = {"name": "Which way?", "trained": 60, "untrained": 40.25, "one_frame": None, "chance": 25, "unit": "%"}
    assert in_words(read) == "Which way?: 60 % (untrained 40.2, guessing 25)"


def results(kind: str, truth: list[str], names: tuple[str, ...]) -> Results:
    outputs = [1.0 / max(len(names), 1)] * len(names)
    rows = [Row(place, f"{place}.mp4", None, None, label, outputs) for place, label in enumerate(truth)]
    return Results(Labels(kind, names), rows, "1x1")


def test_guessing_is_the_best_constant_answer():
    """By hand: of classes the commonest; each class once right of three; of several at once how common they are."""
    found = guessing(results("class", ["a"] * 6 + ["b"] * 3 + ["c"], ("a", "b", "c")))
    assert found == pytest.approx({"top1": 60.0, "mean_class_accuracy": 100 / 3})
    found = guessing(results("classes", ["a|b", "a", "a", "b"], ("a", "b")))
    assert found == pytest.approx({"mean_average_precision": 100 * np.mean([3 / 4, 2 / 4])})
