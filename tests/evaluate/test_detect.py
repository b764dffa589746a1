"""Detections along a video: what the detector and the network are shown, who is who, what is written, and memory."""

import csv
import io
import json
import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tubelet.cli import run
from tubelet.data import people
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.sampling import Around
from tubelet.data.stream import in_order
from tubelet.data.video import VideoError, frames_at, probe, write
from tubelet.evaluate import detect
from tubelet.evaluate.detect import Actor, Search, by_person, detections, to_csv, to_dict
from tubelet.evaluate.detections import Detection

FPS = 10


def scene(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square that goes to the right and one that goes down, on dark ground; the upper left corner counts."""
    film = np.full((frames, height, width, 3), 16, np.uint8)
    for turn in range(frames):
        x, y = 12 + turn % 40, 2 + turn % 40 // 3
        film[turn, 30:40, x : x + 10] = 240
        film[turn, y : y + 10, 44:54] = 240
        film[turn, :8, :8] = 20 + 4 * (turn % 50)
    return film


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Four seconds."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write(path, scene(40), FPS, options={"g": "12", "crf": "1"})
    return path


def squares(frames: np.ndarray) -> list[list[Box]]:
    """A detector: where it is bright below the counting corner, in parts that are connected along both axes."""
    from scipy import ndimage

    found = []
    for frame in frames:
        bright = frame[..., 0] > 200
        bright[:8, :8] = False
        height, width = bright.shape
        parts = ndimage.find_objects(ndimage.label(bright)[0])
        found.append(
            [Box((x.start / width, y.start / height, x.stop / width, y.stop / height), score=0.9) for y, x in parts]
        )
    return found


@dataclass
class Looked:
    """A detector that remembers how many frames it was shown, and what they count."""

    numbers: list[int] = field(default_factory=list)

    def __call__(self, frames):
        self.numbers += counted(torch.from_numpy(frames))
        return squares(frames)


def counted(clip: torch.Tensor) -> list[int]:
    """Which frames of `scene` these are."""
    return ((clip[:, :8, :8].float().mean((1, 2, 3)) - 20) / 4).round().int().tolist()


def actor(names=("right", "down"), clip=None, **other) -> tuple[Actor, list]:
    """A network that says where a box is (left or right half), and remembers what it was shown."""
    shown = []

    def actions(frames, boxes):
        shown.append((frames, list(boxes)))
        middles = torch.tensor([(box.corners[0] + box.corners[2]) / 2 for box in boxes])
        return torch.stack([1 - middles, middles], dim=1)

    return Actor(actions, clip or Around(4, 2), names, **other), shown


def test_each_key_moment_has_the_clip_around_it_and_the_boxes_at_it(film):
    looked = Looked()
    network, shown = actor()
    told = []
    found = list(detections(film, Search(looked, per_second=5), network, lambda *done: told.append(done)))
    video = probe(film)
    assert looked.numbers == list(range(0, 40, 2))
    assert [moment[0].seconds for moment in found] == [0, 1, 2, 3]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for second, moment, (frames, boxes) in zip(range(4), found, shown):
        indices = network.clip.at(video.seconds, float(second))
        assert torch.equal(frames, frames_at(video, indices).frames)
        truth = squares(frames_at(video, [10 * second]).frames.numpy())[0]
        assert [box.corners for box in boxes] == [box.corners for box in truth]
        assert [one.box for one in moment] == boxes
        assert moment[0].video == str(film)
        for one in moment:
            middle = (one.box.corners[0] + one.box.corners[2]) / 2
            assert one.probabilities == pytest.approx((1 - middle, middle))
    assert {one.box.person for moment in found for one in moment} == {"1", "2"}
    for person, moments in by_person([one for moment in found for one in moment]):
        assert len(moments) == 4, person
    (right,) = {one.box.person for moment in found for one in moment if one.box.corners[1] == 30 / 48}
    assert right in ("1", "2")


@pytest.mark.parametrize(
    ("every", "per_second", "looks"), [(1.0, 5.0, 20), (2.0, 1.0, 4), (0.5, 0.1, 8), (1.0, 10, 40)]
)
def test_the_detector_looks_so_often(film, every, per_second, looks):
    looked = Looked()
    found = list(detections(film, Search(looked, every, per_second)))
    assert len(looked.numbers) == looks
    assert len(found) == 4 / every
    assert all(one.probabilities == () for moment in found for one in moment)


def test_more_looks_than_frames_show_each_frame_once(film):
    looked = Looked()
    assert len(list(detections(film, Search(looked, 1.0, 50)))) == 4
    assert looked.numbers == list(range(40))


def test_frames_are_prepared_once_and_kept_small(film):
    numbers = []

    def prepare(frames):
        numbers.extend(counted(frames))
        return frames[:, :8, :8]

    network, shown = actor(clip=Around(8, 2), prepare=prepare)
    list(detections(film, Search(squares, every=0.5), network))
    assert len(numbers) == len(set(numbers))
    assert {frames.shape for frames, _ in shown} == {(8, 8, 8, 3)}


def test_grey_networks_get_grey_frames_and_the_detector_three_channels(film):
    network, shown = actor(gray=True)
    shapes = set()

    def detector(frames):
        shapes.add(frames.shape)
        return squares(frames)

    found = list(detections(film, Search(detector), network))
    assert shapes == {(1, 48, 64, 3)}
    assert shown[0][0].shape == (4, 48, 64, 1)
    assert all(len(moment) == 2 for moment in found)


def test_known_boxes_need_no_detector(film):
    keys = [KeyFrame(2.0, (Box((0.1, 0.1, 0.3, 0.3)), Box((0.6, 0.6, 0.9, 0.9)))), KeyFrame(1.0, ()), KeyFrame(
        3.0, (Box((0.6, 0.6, 0.9, 0.9)), Box((0.12, 0.1, 0.32, 0.3))))]  # fmt: skip
    network, shown = actor()
    found = list(detections(film, keys, network))
    assert [[(one.seconds, one.box.person) for one in moment] for moment in found] == [
        [], [(2.0, "1"), (2.0, "2")], [(3.0, "2"), (3.0, "1")]
    ]  # fmt: skip
    assert len(shown) == 2
    video = probe(film)
    assert torch.equal(shown[0][0], frames_at(video, network.clip.at(video.seconds, 2.0)).frames)


def test_people_who_are_named_keep_their_names(film):
    keys = [KeyFrame(1.0, (Box((0.1, 0.1, 0.3, 0.3), person="Ann"), Box((0.5, 0.5, 0.6, 0.6)))), KeyFrame(2.0, ())]
    found = list(detections(film, keys))
    assert [[one.box.person for one in moment] for moment in found] == [["Ann", None], []]


def test_no_box_is_made_up_between_known_ones(film):
    keys = [KeyFrame(float(second), (Box((0.1, 0.1, 0.3, 0.3)),) if second != 1 else ()) for second in range(4)]
    found = list(detections(film, keys))
    assert [len(moment) for moment in found] == [1, 0, 1, 1]


def test_boxes_after_the_end_are_told(film):
    with pytest.raises(VideoError, match=r"no moment 9 s.*last frame is shown at 3.9 s"):
        list(detections(film, [KeyFrame(9.0, (Box((0, 0, 1, 1)),))]))


def test_outputs_that_do_not_fit_are_told(film):
    three, _ = actor(names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"\(2, 2\) values for 2 boxes and 3 classes"):
        list(detections(film, Search(squares), three))
    bad = Actor(lambda frames, boxes: torch.full((len(boxes), 1), torch.nan), Around(4, 2), ("a",))
    with pytest.raises(ValueError, match="NaN"):
        list(detections(film, Search(squares), bad))


def test_nobody_is_nothing(film):
    network, shown = actor()
    assert list(detections(film, Search(lambda frames: [[] for _ in frames]), network)) == [[], [], [], []]
    assert shown == []


def test_one_frame_is_enough(tmp_path):
    write(tmp_path / "one.mp4", scene(1), FPS)
    network, shown = actor()
    ((first, second),) = detections(tmp_path / "one.mp4", Search(squares), network)
    assert (first.seconds, first.box.person, second.box.person) == (0, "1", "2")
    assert shown[0][0].shape == (4, 48, 64, 3)


@pytest.mark.parametrize("settings", [{"every": 0}, {"per_second": 0}, {"every": float("inf")}])
def test_searches_that_cannot_be_made(settings):
    with pytest.raises(ValueError, match="above 0"):
        Search(squares, **settings)


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Frames of half a megabyte."""
    peaks, kept = [], []
    still = np.zeros((360, 480, 3), np.uint8)
    still[::2] = 90
    for seconds in (8, 24):
        path = tmp_path / f"{seconds}.mp4"
        write(path, (still for _ in range(seconds * 5)), 5, options={"preset": "ultrafast", "g": "10"})
        network = Actor(lambda frames, boxes: torch.zeros(len(boxes), 1), Around(4, 2), ("a",))
        box = Box((0.4, 0.4, 0.6, 0.6))
        source = detections(path, Search(lambda frames, box=box: [[box] for _ in frames], per_second=2.5), network)
        probe(path)
        tracemalloc.start()
        count = sum(len(moment) for moment in source)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        kept.append(count)
    assert kept == [8, 24]
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 20 * still.nbytes


def test_a_damaged_end_gives_what_came_before(film, monkeypatch):
    def breaking(video, indices, **other):
        for index, frame in in_order(video, indices, **other):
            if index > 25:
                raise VideoError("the rest cannot be read")
            yield index, frame

    monkeypatch.setattr(detect, "in_order", breaking)
    found = []
    source = detections(film, Search(squares), actor()[0])
    with pytest.raises(VideoError, match="the rest"):
        found.extend(source)
    assert [moment[0].seconds for moment in found] == [0, 1, 2]  # the last frame of the clip around 2 s is the 23rd


# ---------------------------------------------------------------------------- what is written


FOUND = [
    Detection("a.mp4", "", 0.0, Box((0.1, 0.2, 0.3, 0.4), person="1", score=0.9), (0.7, 0.2, 0.5)),
    Detection("a.mp4", "", 0.0, Box((0.5, 0.5, 0.6, 0.9), score=0.8), (0.1, 0.2, 0.3)),
    Detection("a.mp4", "", 1.0, Box((0.1, 0.2, 0.3, 0.5), person="1", score=0.6), (0.6, 0.9, 0.0)),
]
NAMES = ("stand", "walk, slowly", "talk")


def test_json_has_everybody_with_all_moments(film):
    told = json.loads(json.dumps(to_dict(film, FOUND, NAMES, 0.5)))
    assert {name: told[name] for name in ("video", "fps", "size", "names")} == {
        "video": str(film), "fps": 10.0, "size": [64, 48], "names": list(NAMES)
    }  # fmt: skip
    first, nobody = told["people"]
    assert (first["person"], first["start"], first["end"], nobody["person"]) == ("1", 0.0, 1.0, None)
    assert first["moments"][0] == {
        "seconds": 0.0,
        "box": [0.1, 0.2, 0.3, 0.4],
        "score": 0.9,
        "actions": [{"label": "stand", "probability": 0.7}, {"label": "talk", "probability": 0.5}],
    }
    assert [one["label"] for one in first["moments"][1]["actions"]] == ["walk, slowly", "stand"]
    assert nobody["moments"][0]["actions"] == []


def test_csv_has_a_row_for_each_action_and_one_where_there_is_none():
    rows = list(csv.DictReader(io.StringIO(to_csv(FOUND, NAMES, 0.5))))
    assert [(row["seconds"], row["label"], row["probability"], row["person"]) for row in rows] == [
        ("0.000", "stand", "0.7000", "1"),
        ("0.000", "talk", "0.5000", "1"),
        ("0.000", "", "", ""),
        ("1.000", "walk, slowly", "0.9000", "1"),
        ("1.000", "stand", "0.6000", "1"),
    ]
    assert [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2", "score")] == [0.1, 0.2, 0.3, 0.4, 0.9]


# ---------------------------------------------------------------------------- the verb


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


@pytest.mark.parametrize(("error", "code", "word"), [(KeyboardInterrupt(), 130, "interrupted"), (
    VideoError("the rest cannot be read"), 1, "the rest cannot be read")])  # fmt: skip
def test_what_was_found_before_an_end_is_written(film, tmp_path, capsys, monkeypatch, error, code, word):
    def detector(frames):
        (number,) = counted(torch.from_numpy(frames))
        if number > 25:
            raise error
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


def test_the_video_is_drawn(film, fixed, tmp_path):
    out = tmp_path / "seen.mp4"
    assert run(["detect", str(film), "--detector", fixed, "--overlay", str(out), "--quiet"]) == 0
    assert probe(out).frames == 40


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", "a.txt"], "name a .json or .csv"),
        (["--overlay", "a.gif"], "name a .mp4 or .mkv"),
        (["--threshold", "2"], "expected 0 to 1"),
        (["--detector", "yolo"], "no detector 'yolo'"),
        (["--boxes", "a.csv", "--detector", "a.onnx"], "no detector is asked"),
        (["--every", "0"], "above 0"),
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
    known = tested.detections(looker_for(tuned, "cpu"), items)
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
        place = round(one.seconds, 3), tuple(round(value, 4) for value in one.box.corners)
        if place in found:
            counted += 1
            assert found[place] == pytest.approx(dict(zip(told["names"], one.probabilities)), abs=1e-4)
    assert counted == len(found) > 0
