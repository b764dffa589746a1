"""Detections along a video: what the detector and the network are shown, who is who, what is written, and memory."""

import csv
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import FPS, Looked, actor, counted, scene, squares

from tubelet.data.annotations import key_frames
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.sampling import Around
from tubelet.data.stream import in_order
from tubelet.data.video import VideoError, frames_at, probe, write
from tubelet.evaluate import detect
from tubelet.evaluate.detect import Actor, Search, by_person, detections, in_between, to_csv, to_dict
from tubelet.evaluate.detections import Detection


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Four seconds."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write(path, scene(40), FPS, options={"g": "12", "crf": "1"})
    return path


def people_at(source) -> list[list[Detection]]:
    """Who is there at each moment."""
    return [people for _, people in source]


def test_each_key_moment_has_the_clip_around_it_and_the_boxes_at_it(film):
    looked = Looked()
    network, shown = actor()
    told = []
    found = people_at(detections(film, Search(looked, per_second=5), network, lambda *done: told.append(done)))
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
    found = people_at(detections(film, Search(looked, every, per_second)))
    assert len(looked.numbers) == looks
    assert len(found) == 4 / every
    assert all(one.probabilities == () for moment in found for one in moment)


def test_more_looks_than_frames_show_each_frame_once(film):
    looked = Looked()
    assert len(people_at(detections(film, Search(looked, 1.0, 50)))) == 4
    assert looked.numbers == list(range(40))


def test_frames_are_prepared_once_and_kept_small(film):
    numbers = []

    def prepare(frames):
        numbers.extend(counted(frames))
        return frames[:, :8, :8]

    network, shown = actor(clip=Around(8, 2), prepare=prepare)
    people_at(detections(film, Search(squares, every=0.5), network))
    assert len(numbers) == len(set(numbers))
    assert {frames.shape for frames, _ in shown} == {(8, 8, 8, 3)}


def test_grey_networks_get_grey_frames_and_the_detector_three_channels(film):
    network, shown = actor(gray=True)
    shapes = set()

    def detector(frames):
        shapes.add(frames.shape)
        return squares(frames)

    found = people_at(detections(film, Search(detector), network))
    assert shapes == {(1, 48, 64, 3)}
    assert shown[0][0].shape == (4, 48, 64, 1)
    assert all(len(moment) == 2 for moment in found)


def test_known_boxes_need_no_detector(film):
    keys = [KeyFrame(2.0, (Box((0.1, 0.1, 0.3, 0.3)), Box((0.6, 0.6, 0.9, 0.9)))), KeyFrame(1.0, ()), KeyFrame(
        3.0, (Box((0.6, 0.6, 0.9, 0.9)), Box((0.12, 0.1, 0.32, 0.3))))]  # fmt: skip
    network, shown = actor()
    found = people_at(detections(film, keys, network))
    assert [[(one.seconds, one.box.person) for one in moment] for moment in found] == [
        [], [(2.0, "1"), (2.0, "2")], [(3.0, "2"), (3.0, "1")]
    ]  # fmt: skip
    assert len(shown) == 2
    video = probe(film)
    assert torch.equal(shown[0][0], frames_at(video, network.clip.at(video.seconds, 2.0)).frames)


def test_people_who_are_named_keep_their_names(film):
    keys = [KeyFrame(1.0, (Box((0.1, 0.1, 0.3, 0.3), person="Ann"), Box((0.5, 0.5, 0.6, 0.6)))), KeyFrame(2.0, ())]
    found = people_at(detections(film, keys))
    assert [[one.box.person for one in moment] for moment in found] == [["Ann", None], []]


def test_no_box_is_made_up_between_known_ones(film):
    keys = [KeyFrame(float(second), (Box((0.1, 0.1, 0.3, 0.3)),) if second != 1 else ()) for second in range(4)]
    found = people_at(detections(film, keys))
    assert [len(moment) for moment in found] == [1, 0, 1, 1]
    box = Box((0.1, 0.1, 0.3, 0.3))
    uneven = [KeyFrame(second, (box,) * (second != 2.5)) for second in (0, 1, 2, 2.5, 3)]
    assert [len(moment) for moment in people_at(detections(film, uneven))] == [1, 1, 1, 0, 1]


def test_every_look_is_told_with_who_is_where(film):
    looks = []
    seen = list(detections(film, Search(squares, per_second=5), looked=lambda *look: looks.append(look)))
    assert [seconds for seconds, _ in looks] == pytest.approx(np.arange(20) / 5)
    for seconds, people in seen:
        (boxes,) = [boxes for at, boxes in looks if at == seconds]
        assert [one.box for one in people] == boxes
    assert all({box.person for box in boxes} == {"1", "2"} for _, boxes in looks)


def test_between_key_moments_people_do_what_they_do_at_the_nearest():
    ones = [Detection("a", "", at, Box((0, 0, 0.5, 1), person="1"), (at,)) for at in (0.0, 1.0)]
    looks = [(at, [Box((at / 2, 0, 1, 1), person=who) for who in ("1", "2")]) for at in (0.0, 0.4, 0.6, 1.0, 1.2)]
    found = in_between([(0.0, ones[:1]), (1.0, ones[1:])], looks)
    assert found[:2] == ones
    assert [(one.seconds, one.probabilities) for one in found[2:]] == [(0.4, (0.0,)), (0.6, (1.0,)), (1.2, (1.0,))]
    assert [one.box.corners[0] for one in found[2:]] == [0.2, 0.3, 0.6]


def test_boxes_after_the_end_are_told(film):
    with pytest.raises(VideoError, match=r"no moment 9 s.*last frame is shown at 3.9 s"):
        people_at(detections(film, [KeyFrame(9.0, (Box((0, 0, 1, 1)),))]))


def test_outputs_that_do_not_fit_are_told(film):
    three, _ = actor(names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"\(2, 2\) values for 2 boxes and 3 classes"):
        people_at(detections(film, Search(squares), three))
    bad = Actor(lambda frames, boxes: torch.full((len(boxes), 1), torch.nan), Around(4, 2), ("a",))
    with pytest.raises(ValueError, match="NaN"):
        people_at(detections(film, Search(squares), bad))


def test_nobody_is_nothing(film):
    network, shown = actor()
    assert people_at(detections(film, Search(lambda frames: [[] for _ in frames]), network)) == [[], [], [], []]
    assert shown == []


def test_one_frame_is_enough(tmp_path):
    write(tmp_path / "one.mp4", scene(1), FPS)
    network, shown = actor()
    ((first, second),) = people_at(detections(tmp_path / "one.mp4", Search(squares), network))
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
        count = sum(len(moment) for _, moment in source)
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
    assert [seconds for seconds, _ in found] == [0, 1, 2]  # the last frame of the clip around 2 s is the 23rd


# ---------------------------------------------------------------------------- what is written


FOUND = [
    Detection("a.mp4", "", 0.0, Box((0.1, 0.2, 0.3, 0.4), person="1", score=0.9), (0.7, 0.2, 0.5)),
    Detection("a.mp4", "", 0.0, Box((0.5, 0.5, 0.6, 0.9), score=0.8), (0.1, 0.2, 0.3)),
    Detection("a.mp4", "", 1.0, Box((0.1, 0.2, 0.3, 0.5), person="1", score=0.6), (0.6, 0.9, 0.0)),
]
SEEN = [(0.0, FOUND[:2]), (0.5, []), (1.0, FOUND[2:])]
NAMES = ("stand", "walk, slowly", "talk")


def test_json_has_everybody_with_all_moments(film):
    told = json.loads(json.dumps(to_dict(film, SEEN, NAMES, 0.5)))
    assert {name: told[name] for name in ("video", "fps", "size", "names")} == {
        "video": str(film), "fps": 10.0, "size": [64, 48], "names": list(NAMES)
    }  # fmt: skip
    assert (told["moments"], told["threshold"]) == ([0, 0.5, 1], 0.5)
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
    rows = list(csv.DictReader(io.StringIO(to_csv("a.mp4", SEEN, NAMES, 0.5))))
    assert [(row["seconds"], row["label"], row["probability"], row["person"]) for row in rows] == [
        ("0", "stand", "0.7000", "1"),
        ("0", "talk", "0.5000", "1"),
        ("0", "", "", ""),
        ("0.5", "", "", ""),  # nobody is there
        ("1", "walk, slowly", "0.9000", "1"),
        ("1", "stand", "0.6000", "1"),
    ]
    assert set(rows[3].values()) == {rows[0]["path"], "0.5", ""}
    assert [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2", "score")] == [0.1, 0.2, 0.3, 0.4, 0.9]


def test_every_frame_and_thin_boxes_come_back_from_the_table(tmp_path):
    """Of 30 frames a second, whose times have no end in decimals."""
    path = tmp_path / "film.mp4"
    write(path, scene(31), 30, options={"preset": "ultrafast"})
    times = probe(path).seconds.tolist()
    box = Box((0.123456, 0.2, 0.123476, 0.90001))
    seen = [(at, [Detection(str(path), "", at, box, ())] * (turn % 7 != 0)) for turn, at in enumerate(times)]
    (tmp_path / "found.csv").write_text(to_csv(path, seen, (), 0.5))
    back = [item.key for item in key_frames(tmp_path / "found.csv").items]
    assert detect.shown_at(probe(path), np.array([key.seconds for key in back])).tolist() == list(range(31))
    assert [len(key.boxes) for key in back] == [len(people) for _, people in seen]
    assert {corners for key in back for each in key.boxes for corners in each.corners} == set(box.corners)
    told = to_dict(path, seen, (), 0.5)
    assert detect.shown_at(probe(path), np.array(told["moments"])).tolist() == list(range(31))
    assert told["people"][0]["moments"][0]["box"] == list(box.corners)


def test_remote_videos_keep_their_address():
    url = "https://example.org/films/a.mp4"
    row = next(csv.DictReader(io.StringIO(to_csv(Path(url), SEEN, NAMES, 0.5))))
    assert row["path"] == url
