"""tubelet detect: what it says, writes and draws, and what it tells instead of working."""

import csv
import io
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from squares import FPS, actor, counted, scene, squares

from tubelet import overlay
from tubelet.cli import run
from tubelet.cli.arguments import apart
from tubelet.data import people
from tubelet.data.stream import in_order
from tubelet.data.video import VideoError, probe, write
from tubelet.evaluate import detect


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Four seconds."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write(path, scene(40), FPS, options={"g": "12", "crf": "1"})
    return path


@pytest.fixture
def fixed(tmp_path):
    """A detector in ONNX that finds a person on the left and one on the right of every frame of 64x48."""
    outputs = {
        "boxes": np.array([[6.4, 4.8, 19.2, 43.2], [38.4, 9.6, 57.6, 38.4]], np.float32),
        "labels": np.array([1, 1]),
        "scores": np.array([0.9, 0.6], np.float32),
    }
    told = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in outputs.items()
    ]
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (3, 48, 64))
    model = helper.make_model(helper.make_graph(nodes, "g", [image], told), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "fixed.onnx")
    return str(tmp_path / "fixed.onnx")


def test_the_verb_says_who_is_where_without_weights(film, fixed, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert run(["detect", str(film), "--detector", fixed, "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "2 people in 0:00.00 to 0:04.00",
        "  person 1    0:00.00 to 0:03.00  4 moments",
        "  person 2    0:00.00 to 0:03.00  4 moments",
    ]
    assert "fixed.onnx: boxes, labels, scores, frames in 64x48 pixels, people are class 1" in said.err
    told = json.loads(out.read_text())
    assert [len(one["moments"]) for one in told["people"]] == [4, 4]
    assert told["people"][0]["moments"][2]["box"] == [0.1, 0.1, 0.3, 0.9]


def test_the_verb_in_json_and_csv(film, fixed, tmp_path, capsys):
    out = tmp_path / "found.csv"
    assert run(["detect", str(film), "--detector", fixed, "--out", str(out), "--json", "--least-score", "0.7"]) == 0
    assert len(json.loads(capsys.readouterr().out)["people"]) == 1
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(rows) == 4
    assert rows[0]["path"] == str(film.resolve())


def test_the_verb_with_a_network(film, fixed, capsys, monkeypatch):
    from tubelet.cli import detecting

    monkeypatch.setattr(detecting, "actor_of", lambda *_: actor()[0])
    assert run(["detect", str(film), "--weights", "runs/a", "--detector", fixed, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  person 1    0:00.00 to 0:03.00  4 moments  right 4x 80 %"
    assert lines[2] == "  person 2    0:00.00 to 0:03.00  4 moments  down 4x 75 %"


def test_nobody_in_the_video_is_said_with_what_to_try(film, fixed, tmp_path, capsys):
    out = tmp_path / "found.json"
    code = run(["detect", str(film), "--detector", fixed, "--least-score", "0.95", "--out", str(out), "--quiet"])
    said = capsys.readouterr()
    assert code == 0
    assert said.out == "0 people in 0:00.00 to 0:04.00\n"
    assert "nobody found" in said.err
    assert "--least-score below 0.95" in said.err
    assert json.loads(out.read_text())["people"] == []


# Kinds and not errors: one that was raised knows where, and would keep its frames until the last test of all.
@pytest.mark.parametrize(
    ("error", "code", "word"),
    [(KeyboardInterrupt, 130, "interrupted"), (VideoError, 1, "the rest cannot be read")],
)
def test_what_was_found_before_an_end_is_written(film, tmp_path, capsys, monkeypatch, error, code, word):
    def detector(frames):
        (number,) = counted(torch.from_numpy(frames))
        if number > 25:
            raise error("the rest cannot be read")
        return squares(frames)

    monkeypatch.setattr(people, "detector_of", lambda *_, **__: detector)
    out = tmp_path / "found.json"
    assert run(["detect", str(film), "--out", str(out), "--shortest", "1", "--quiet"]) == code
    assert f"{word}. What was found until then follows" in capsys.readouterr().err
    moments = [one["moments"] for one in json.loads(out.read_text())["people"]]
    assert [[one["seconds"] for one in each] for each in moments] == [[0.0, 1.0, 2.0]] * 2


def test_what_is_written_as_csv_is_read_as_boxes_again(film, fixed, tmp_path, capsys, monkeypatch):
    from tubelet.cli import detecting

    monkeypatch.setattr(detecting, "actor_of", lambda *_: actor()[0])
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    assert run(["detect", str(film), "--weights", "runs/a", "--detector", fixed, "--out", str(first), "--quiet"]) == 0
    told = capsys.readouterr().out
    again = ["--weights", "runs/a", "--boxes", str(first), "--out", str(second), "--quiet"]
    assert run(["detect", str(film), *again]) == 0
    assert capsys.readouterr().out == told
    assert second.read_text() == first.read_text()
    write(tmp_path / "other.mp4", scene(10), FPS)
    assert run(["detect", str(tmp_path / "other.mp4"), "--boxes", str(first)]) == 2
    assert f"{first} has no boxes for {tmp_path / 'other.mp4'}" in capsys.readouterr().err


def test_of_known_boxes_the_least_score_leaves_out_those_below(film, tmp_path, capsys):
    table = tmp_path / "boxes.csv"
    rows = ["0,0.1,0.1,0.3,0.9,,0.9", "0,0.6,0.1,0.8,0.9,,0.4", "1,0.6,0.1,0.8,0.9,,0.4"]
    table.write_text("path,seconds,x1,y1,x2,y2,label,score\n" + "".join(f"{film},{row}\n" for row in rows))
    for least, counts in ((None, [2, 1]), ("0.5", [1, 0])):
        asked = [] if least is None else ["--least-score", least]
        assert run(["detect", str(film), "--boxes", str(table), "--json", "--quiet", *asked]) == 0
        told = json.loads(capsys.readouterr().out)
        times = [moment["seconds"] for one in told["people"] for moment in one["moments"]]
        assert told["moments"] == [0, 1]  # both were looked at
        assert [times.count(second) for second in (0, 1)] == counts


def test_nothing_that_is_read_is_replaced(film, tmp_path, capsys):
    own, link = tmp_path / "own.mp4", tmp_path / "link.mp4"
    own.write_bytes(film.read_bytes())
    link.symlink_to(own)
    assert run(["detect", str(own), "--overlay", str(link), "--quiet"]) == 2
    assert f"--overlay {link} is {own}, which is read" in capsys.readouterr().err
    table = tmp_path / "boxes.csv"
    text = f"path,seconds,x1,y1,x2,y2,label\n{own},0,0.1,0.1,0.3,0.9,\n"
    table.write_text(text)
    for boxes in (str(table), f"{table}?every=1"):
        assert run(["detect", str(own), "--boxes", boxes, "--out", str(table)]) == 2
        assert "which is read, and would be lost" in capsys.readouterr().err
    assert own.read_bytes() == film.read_bytes()
    assert table.read_text() == text
    with pytest.raises(ValueError, match="is what --out writes, too"):
        apart({"out": tmp_path / "a", "overlay": tmp_path / "." / "a"}, [])
    apart({"out": None, "overlay": tmp_path / "new.mp4"}, [own])


def test_predict_replaces_nothing_that_is_read_either(film, tmp_path, capsys):
    assert run(["predict", str(film), "--weights", "runs/a", "--overlay", str(film)]) == 2
    assert f"--overlay {film} is {film}, which is read" in capsys.readouterr().err
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{film}\n")
    assert run(["predict", str(table), "--weights", "runs/a", "--out", str(table)]) == 2
    assert "which is read" in capsys.readouterr().err


def test_boxes_follow_people_between_key_moments(film, tmp_path):
    """And after the last of them, where the box would stay."""
    import tubelet.box_pictures

    given = []
    original = tubelet.box_pictures.annotated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "detector_of", lambda *_, **__: squares)
        patch.setattr(tubelet.box_pictures, "annotated", lambda *a, **b: given.extend(a[1]) or original(*a, **b))
        assert run(["detect", str(film), "--every", "2", "--overlay", str(tmp_path / "a.mp4"), "--quiet"]) == 0
    times = sorted({one.seconds for one in given})
    assert times == pytest.approx(np.arange(20) / 5)
    truth = {at: squares(scene(40)[round(10 * at)][None])[0] for at in times}
    for one in given:
        assert min(np.abs(np.subtract(one.box.corners, box.corners)).max() for box in truth[one.seconds]) < 0.02


@pytest.mark.parametrize(("damage", "frames"), [(25, 25), (0, None)])
def test_a_damaged_video_is_drawn_up_to_where_it_can_be_read(film, tmp_path, capsys, monkeypatch, damage, frames):
    def breaking(video, indices, **other):
        for index, frame in in_order(video, indices, **other):
            if index >= damage:
                raise VideoError("the rest cannot be read")
            yield index, frame

    monkeypatch.setattr(overlay, "in_order", breaking)
    monkeypatch.setattr(detect, "in_order", breaking)
    monkeypatch.setattr(people, "detector_of", lambda *_, **__: squares)
    out = tmp_path / "seen.mp4"
    assert run(["detect", str(film), "--shortest", "1", "--overlay", str(out), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert said.count("the rest cannot be read") == 1
    assert ("no overlay is written" in said) == (frames is None) == (not out.exists())
    assert ("up to where the video can be read" in said) == (frames is not None)
    if frames is not None:
        assert abs(probe(out).frames - frames) <= 1


def test_the_video_is_drawn(film, fixed, tmp_path):
    out = tmp_path / "seen.mp4"
    assert run(["detect", str(film), "--detector", fixed, "--overlay", str(out), "--quiet"]) == 0
    assert probe(out).frames == 40


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", "a.txt"], "name a .json or .csv"),
        (["--overlay", "a.gif"], "name a .mp4 or .mkv"),
        (["--weights", "runs/a", "--threshold", "2"], "expected 0 to 1"),
        (["--detector", "yolo"], "no detector 'yolo'"),
        (["--boxes", "a.csv", "--detector", "a.onnx"], "no detector is asked"),
        (["--every", "0"], "above 0"),
        (["--boxes", "a.csv", "--every", "1"], "leave out --every"),
        (["--boxes", "a.csv", "--per-second", "5", "--patience", "1"], "leave out --per-second, --patience"),
        (["--boxes", "a.csv", "--shortest", "2"], "leave out --shortest"),
        (["--threshold", "0.5"], "for actions"),
        (["--top", "3"], "for actions"),
    ],
)
def test_wrong_usage_is_told_before_the_work(film, arguments, word, capsys):
    assert run(["detect", str(film), *arguments]) == 2
    assert word in capsys.readouterr().err


def test_files_that_are_no_videos(tmp_path, capsys):
    assert run(["detect", str(tmp_path / "no.mp4")]) == 1
    (tmp_path / "text.mp4").write_text("I am a letter")
    assert run(["detect", str(tmp_path / "text.mp4")]) == 1
    assert "text.mp4" in capsys.readouterr().err


def test_the_verb_says_what_the_test_over_key_frames_says(tmp_path, capsys):
    from tubelet.cli.testing_boxes import looker_for
    from tubelet.data.annotations import key_frames
    from tubelet.data.shapes import make_shapes
    from tubelet.evaluate import key_frames as tested

    table, tuned = make_shapes(tmp_path / "shapes", 2, 0), tmp_path / "tuned"
    small = [
        "--encoder.width", "16", "--encoder.depth", "1", "--encoder.heads", "2", "--encoder.hidden", "32",
        "--data.size", "32", "32", "--method.side", "64", "--training.epochs", "1", "--training.batch", "2",
        "--training.workers", "0", "--quiet",
    ]  # fmt: skip
    assert run(["finetune", "finetune-boxes-small-cpu", "--data", str(table), "--out", str(tuned), *small]) == 0
    capsys.readouterr()
    items = key_frames(table).items
    known = [one for row in tested.look_at(looker_for(tuned, "cpu"), items) for one in row.detections]
    (video,) = {str(item.path) for item in items[:1]}
    asked = ["--weights", str(tuned), "--boxes", str(table), "--threshold", "0", "--json", "--quiet"]
    assert run(["detect", video, "--device", "cpu", *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {
        (moment["seconds"], tuple(moment["box"])): {one["label"]: one["probability"] for one in moment["actions"]}
        for one in told["people"]
        for moment in one["moments"]
    }
    counted = 0
    for one in known:
        place = round(one.seconds, 6), tuple(round(value, 6) for value in one.box.corners)
        if place in found:
            counted += 1
            assert found[place] == pytest.approx(dict(zip(told["names"], one.probabilities)), abs=1e-4)
    assert counted == len(found) > 0
