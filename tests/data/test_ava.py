"""AVA and AVA-Kinetics in the forms that are passed around, written here as they are documented."""

import json

import numpy as np
import pytest
from films import moving

from tubelet.data import ava_movies
from tubelet.data.annotations import has_boxes, key_frames, with_detections, write_boxes
from tubelet.data.ava import EVALUATED, label_map
from tubelet.data.keyframes import Box
from tubelet.data.video import write

ALL = {number: f"class {number} (e.g., a, b)" for number in range(1, 81)}
ROWS = """\
-5KQ,0902,0.077,0.151,0.283,0.811,80,1
-5KQ,0902,0.077,0.151,0.283,0.811,9,1
-5KQ,0902,0.226,0.032,0.366,0.497,12,0
-5KQ,0903,0.077,0.151,0.283,0.811,9,1
1j20,0902,0.1,0.2,0.3,0.4,16,3
1j20,0903,0.5,0.5,1.002,0.9,12,3
"""


def pbtxt(numbers):
    """As the two official lists are written: the whole one has labels, the one of the evaluation items."""
    if len(numbers) == 80:
        return "".join(
            f'label {{\n  name: "{ALL[n]}"\n  label_id: {n}\n  label_type: PERSON_MOVEMENT\n}}\n' for n in numbers
        )
    return "".join(f'item {{\n  name: "{ALL[n]}"\n  id: {n}\n}}\n' for n in numbers)


@pytest.fixture
def ava(tmp_path):
    """A folder as the scripts of others leave it, with films cut to begin at second 900."""
    notes, films = tmp_path / "annotations", tmp_path / "videos_15min"
    notes.mkdir()
    films.mkdir()
    (notes / "ava_train_v2.2.csv").write_text(ROWS)
    (notes / "ava_train_v2.1.csv").write_text("old,0902,0,0,1,1,1,1\n")
    (notes / "ava_train_excluded_timestamps_v2.2.csv").write_text("-5KQ,0903\n1j20,1000\n")
    (notes / "ava_val_excluded_timestamps_v2.2.csv").write_text("")
    (notes / "ava_action_list_v2.2.pbtxt").write_text(pbtxt([*ALL]))
    (notes / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(pbtxt(sorted(EVALUATED)))
    for name in ("-5KQ.mkv", "1j20.mp4"):
        write(films / name, moving(40, 1), 10)
    return tmp_path


def test_rows_of_the_official_csv(ava):
    found = key_frames(f"ava:{ava}:train")
    assert [(item.path.name, item.key.seconds, item.key.video, item.key.stamp) for item in found.items] == [
        ("-5KQ.mkv", 2, "-5KQ", "0902"),
        ("-5KQ.mkv", 3, "-5KQ", "0903"),
        ("1j20.mp4", 2, "1j20", "0902"),
        ("1j20.mp4", 3, "1j20", "0903"),
    ]
    assert found.items[0].key.boxes == (
        Box((0.077, 0.151, 0.283, 0.811), (ALL[9], ALL[80]), "1"),
        Box((0.226, 0.032, 0.366, 0.497), (ALL[12],), "0"),
    )
    assert found.items[3].key.boxes[0].corners == (0.5, 0.5, 1.0, 0.9)
    assert found.names == tuple(ALL.values())
    assert found.ids == {name: number for number, name in ALL.items()}
    assert found.evaluated == tuple(ALL[number] for number in sorted(EVALUATED))
    assert found.excluded == {("-5KQ", "0903"), ("1j20", "1000")}
    assert found.notes == (
        "2 movies begin at second 900 of the film (cut)",
        "1 boxes reach over the edge of the picture and are cut to it",
    )
    assert found.source.endswith("ava_train_v2.2.csv")


def test_sixty_of_the_classes_are_evaluated():
    assert len(EVALUATED) == 60
    assert max(EVALUATED) == 80
    assert not EVALUATED & {2, 16, 25, 33, 75}


def test_whole_films_are_told_by_their_length_or_by_the_option(ava):
    write(ava / "videos_15min" / "1j20.mp4", np.zeros((1000, 16, 16, 3), np.uint8), 1)
    found = key_frames(f"ava:{ava}:train")
    assert [item.key.seconds for item in found.items] == [2, 3, 902, 903]
    assert "1 movies begin at second 0 of the film (whole)" in found.notes
    found = key_frames(f"ava:{ava}:train?zero=15:00")
    assert [item.key.seconds for item in found.items] == [2, 3, 2, 3]
    write(ava / "videos_15min" / "1j20.mp4", moving(25, 1), 10)
    found = key_frames(f"ava:{ava}:train")
    assert "are missing: 1j20; the others are used" in found.notes[0]
    assert any(
        "is 2 s long, and its key frames are from 0902 to 0903: it is neither the film nor" in n for n in found.notes
    )
    found = key_frames(f"ava:{ava}:train?zero=900")
    assert "1 key frames are outside of their movies and left out" in found.notes
    with pytest.raises(FileNotFoundError, match=r"none of the 2 movies .*\?videos=FOLDER"):
        key_frames(f"ava:{ava}:train?videos={ava / 'annotations'}")


def test_files_of_one_second_each(ava):
    for second in (902, 903):
        (ava / "clips" / "trainval" / "-5KQ").mkdir(parents=True, exist_ok=True)
        write(ava / "clips" / "trainval" / "-5KQ" / f"{second:04d}.mp4", moving(25, 1), 25)
    (ava / "clips" / "trainval" / "1j20").mkdir()
    write(ava / "clips" / "trainval" / "1j20" / "0903.mp4", moving(25, 1), 25)
    found = key_frames(f"ava:{ava}?videos={ava / 'clips'}")
    assert "1j20, second 0902" in found.notes[0]
    assert [(item.path.name, item.key.seconds, item.key.stamp) for item in found.items] == [
        ("-5KQ", 902, "0902"),
        ("-5KQ", 903, "0903"),
        ("1j20", 903, "0903"),
    ]
    assert found.items[0].path.is_dir()
    assert "2 movies are cut into files of one second" in found.notes


def test_label_maps_that_are_not_all_there(ava):
    (ava / "annotations" / "ava_action_list_v2.2.pbtxt").unlink()
    found = key_frames(f"ava:{ava}:train")
    assert found.names[15] == "action 16"
    assert found.names[8] == ALL[9]
    assert len(found.names) == 80
    assert found.items[2].key.boxes[0].labels == ("action 16",)
    assert len(found.evaluated) == 60
    sixty = ava / "annotations" / "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
    assert label_map(sixty) == {number: ALL[number] for number in EVALUATED}
    sixty.unlink()
    found = key_frames(f"ava:{ava}:train")
    assert found.names[8] == "action 9"
    assert found.evaluated == tuple(f"action {number}" for number in sorted(EVALUATED))
    assert "has no label map" in found.notes[0]
    (ava / "five.pbtxt").write_text(pbtxt([1, 2, 3, 4, 9]))
    found = key_frames(f"ava:{ava}:train?labels={ava / 'five.pbtxt'}")
    assert found.evaluated == tuple(ALL[number] for number in (1, 2, 3, 4, 9))
    (ava / "five.pbtxt").write_text("nothing")
    with pytest.raises(ValueError, match=r"five\.pbtxt is no label map: expected item"):
        key_frames(f"ava:{ava}:train?labels={ava / 'five.pbtxt'}")


def coco_like(ava, part="val"):
    """The files that AlphAction and its kin pass around."""
    images = [
        {"id": 11, "movie": "-5KQ", "timestamp": 902, "width": 640, "height": 480},
        {"id": 12, "movie": "-5KQ", "timestamp": "0903", "width": 640, "height": 480},
        {"id": 13, "movie": "1j20", "timestamp": 902, "width": 320, "height": 240},
    ]
    boxes = [
        {"id": 1, "image_id": 11, "bbox": [64, 48, 128, 96], "action_ids": [80, 9], "category_id": 1},
        {"id": 2, "image_id": 13, "bbox": [0, 0, 320, 240], "action_ids": [12]},
    ]
    file = ava / "annotations" / f"ava_{part}_v2.2_min.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": []}))
    return file


def test_coco_like_annotations_and_boxes_of_a_detector(ava):
    file = coco_like(ava)
    truth = key_frames(f"ava:{ava}:val")
    assert [(item.key.video, item.key.stamp, len(item.key.boxes)) for item in truth.items] == [
        ("-5KQ", "0902", 1),
        ("-5KQ", "0903", 0),
        ("1j20", "0902", 1),
    ]
    box = truth.items[0].key.boxes[0]
    assert np.allclose(box.corners, (0.1, 0.1, 0.3, 0.3))
    assert box.labels == (ALL[9], ALL[80])
    assert truth.excluded == frozenset()
    assert [item.key for item in key_frames(file, videos=ava).items] == [item.key for item in truth.items]
    rows = [
        {"image_id": 11, "category_id": 1, "bbox": [64, 48, 128, 96], "score": 0.9},
        {"image_id": 11, "category_id": 1, "bbox": [60, 40, 600, 100], "score": 0.8},
        {"image_id": 12, "category_id": 1, "bbox": [64, 48, 128, 96], "score": 0.79999},
        {"image_id": 13, "category_id": 1, "bbox": [160, 120, 200, 60], "score": 0.99},
        {"image_id": 99, "category_id": 1, "bbox": [160, 120, 200, 60], "score": 0.99},
    ]
    detections = ava / "annotations" / "ava_val_det_person_bbox.json"
    detections.write_text(json.dumps(rows))
    found = with_detections(truth, detections)
    assert [len(item.key.boxes) for item in found.items] == [2, 0, 1]
    assert np.allclose(found.items[0].key.boxes[1].corners, (60 / 640, 40 / 480, 1, 140 / 480))
    assert np.allclose(found.items[2].key.boxes[0].corners, (0.5, 0.5, 1, 0.75))
    assert {box.labels for item in found.items for box in item.key.boxes} == {()}
    assert found.items[0].key.boxes[0].score == 0.9
    (ava / "annotations" / "ava_val_v2.2.csv").write_text(ROWS)  # csv comes before json; numbers are then looked up
    from_csv = key_frames(f"ava:{ava}:val")
    assert not from_csv.images
    again = with_detections(from_csv, detections)
    assert [len(item.key.boxes) for item in again.items] == [2, 0, 1, 0]
    elsewhere = file.rename(ava / "list.json")
    named = with_detections(from_csv, f"{detections}?images={elsewhere}")
    assert [item.key for item in named.items] == [item.key for item in again.items]
    with pytest.raises(ValueError, match=r"names images by number, and nothing says which"):
        with_detections(from_csv, detections)


@pytest.mark.parametrize(
    "line", ["-5KQ,0902,0.1,0.1,0.5,0.5,,{}", "-5KQ,902,0.1,0.1,0.5,0.5,{}", "-5KQ,902.0,0.1,0.1,0.5,0.5,12,{}"]
)
def test_detections_as_lines_with_a_score_at_the_end(ava, line):
    file = ava / "boxes.csv"
    file.write_text(f"{line.format(0.85)}\n{line.format(0.75)}\n")
    found = with_detections(key_frames(f"ava:{ava}:train"), file)
    assert found.items[0].key.boxes == (Box((0.1, 0.1, 0.5, 0.5), score=0.85),)
    assert "1 boxes of" in found.notes[-1]
    file.write_text("-5KQ,0902,0.1,0.1,50,0.5,,0.9\n")
    with pytest.raises(ValueError, match=r"boxes\.csv, line 1: expected shares, 0 to 1"):
        with_detections(key_frames(f"ava:{ava}:train"), file)


def test_detections_by_written_moments_in_pixels_take_the_size_of_the_film(ava):
    rows = [{"image_id": "-5KQ,0902", "bbox": [16, 12, 32, 24], "score": 0.9}]
    rows.append({"image_id": "1j20/0903.jpg", "bbox": [16, 12, 32, 24], "score": 0.9})
    (ava / "found.json").write_text(json.dumps(rows))
    found = with_detections(key_frames(f"ava:{ava}:train"), ava / "found.json")
    assert [[box.corners for box in item.key.boxes] for item in found.items] == [
        [(0.25, 0.25, 0.75, 0.75)],
        [],
        [],
        [(0.25, 0.25, 0.75, 0.75)],
    ]


def test_kinetics_with_ava(ava):
    rows = "xY_1,92.5,0.1,0.1,0.5,0.5,12,0\nxY_1,95\nzz,5,0.1,0.1,0.5,0.5,12,0\nxY_1,300,0,0,1,1,9,0\n"
    (ava / "annotations" / "kinetics_train_v1.0.csv").write_text(rows)
    write(ava / "xY_1_000090_000100.mp4", moving(100, 1), 10)
    found = key_frames(f"ava:{ava}:train")
    assert "are missing: xY_1, second 0300, zz" in found.notes[0]
    kinetics = [item for item in found.items if item.key.video == "xY_1"]
    assert [(item.path.name, item.key.seconds, item.key.stamp, len(item.key.boxes)) for item in kinetics] == [
        ("xY_1_000090_000100.mp4", 2.5, "92.5", 1),
        ("xY_1_000090_000100.mp4", 5.0, "0095", 0),
    ]
    assert len(found.items) == 6
    alone = f"ava:{ava}?annotations={ava / 'annotations' / 'kinetics_train_v1.0.csv'}&every=100"
    assert len(key_frames(alone).items) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-5KQ,0902,0.1,0.1,0.5,0.5,81,1\n", r"action '81' is none of the label map's: it has 1 to 80"),
        ("-5KQ,0902,0.1,0.1,0.5,0.5,stand,1\n", r"action 'stand' is none"),
        ("-5KQ,0902,0.1,0.1,0.5\n", r"line 1: 5 columns; expected movie, timestamp, x1"),
        ("-5KQ,0902\n-5KQ,soon,0.1,0.1,0.5,0.5,1,1\n", r"line 2: 'soon' is no timestamp"),
        ("-5KQ,0902\n-5KQ,inf,0.1,0.1,0.5,0.5,1,1\n", r"line 2: 'inf' is no timestamp"),
        ("-5KQ,0902,a,0.1,0.5,0.5,1,1\n", r"line 1: expected numbers for x1, y1, x2, y2"),
        ("-5KQ,0902,10,20,30,40,1,1\n", r"line 1: corners of 10,20,30,40; AVA's are shares"),
    ],
)
def test_wrong_rows_are_refused(ava, text, said):
    (ava / "annotations" / "ava_train_v2.2.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        key_frames(f"ava:{ava}:train")


def test_a_header_is_read_over_and_boxes_without_a_width_are_left_out(ava):
    text = "video_id,middle_frame_timestamp,x1,y1,x2,y2,action,person\n-5KQ,0902,0.5,0.1,0.5,0.6,1,1\n"
    (ava / "annotations" / "ava_train_v2.2.csv").write_text(text)
    found = key_frames(f"ava:{ava}:train")
    assert [item.key.boxes for item in found.items] == [()]
    assert "1 boxes without width or height are left out" in found.notes


def test_what_is_missing_is_said(ava, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no annotations for test.*not public: use val"):
        key_frames(f"ava:{ava}:test")
    with pytest.raises(FileNotFoundError, match=r"expected ava_val_v2.2.csv"):
        key_frames(f"ava:{ava}:val")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        key_frames(f"ava:{ava / 'none'}")
    with pytest.raises(ValueError, match=r"ava has no 'lists'; it has annotations, videos"):
        key_frames(f"ava:{ava}:train?lists=a")
    (ava / "annotations" / "ava_val_v2.2_min.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(ValueError, match=r"is not as ava_val_v2.2_min\.json: .*KeyError: 'movie'"):
        key_frames(f"ava:{ava}:val")
    with pytest.raises(ValueError, match=r"label 'class 9 .*' is not in the class list"):
        key_frames(f"ava:{ava}:train", names=("run",))
    assert key_frames(f"ava:{ava}:train", names=tuple(reversed(ALL.values()))).names[0] == ALL[80]


def test_a_table_of_ava_reads_as_the_same(ava):
    found = key_frames(f"ava:{ava}:train")
    write_boxes(found, ava / "own.csv")
    again = key_frames(ava / "own.csv")
    assert [item.key.boxes for item in again.items] == [item.key.boxes for item in found.items]
    assert again.names == tuple(sorted({ALL[9], ALL[12], ALL[16], ALL[80]}))
    assert has_boxes(ava / "annotations" / "ava_train_v2.2.csv")
    one = key_frames(ava / "annotations" / "ava_train_v2.2.csv", videos=ava / "videos_15min")
    assert [item.key for item in one.items] == [item.key for item in found.items]


def test_the_part_is_that_of_the_source_or_of_the_caller_or_train_and_said(ava):
    (ava / "annotations" / "ava_val_v2.2.csv").write_text("1j20,0902,0.1,0.2,0.3,0.4,16,3\n")
    (ava / "annotations" / "ava_val_excluded_timestamps_v2.2.csv").write_text("1j20,0902\n")
    counts = [len(key_frames(f"ava:{ava}{word}", part=part).items) for word in ("", ":train") for part in (None, "val")]
    assert counts == [4, 1, 4, 4]
    said = f"the part val of {ava} is taken, as none is named; say which: ava:{ava}:val"
    assert key_frames(f"ava:{ava}", part="val").notes[0] == said
    assert not any("as none is named" in note for note in key_frames(f"ava:{ava}:train", part="val").notes)
    # A file of annotations says itself of which part it is.
    assert key_frames(ava / "annotations" / "ava_val_v2.2.csv", videos=ava).excluded == {("1j20", "0902")}


def test_films_whose_header_has_no_length_are_looked_through(ava, monkeypatch):
    monkeypatch.setattr(ava_movies, "length_of", lambda path: None)
    found = key_frames(f"ava:{ava}:train")
    assert [item.key.seconds for item in found.items] == [2, 3, 2, 3]
    assert "2 movies begin at second 900 of the film (cut)" in found.notes


@pytest.mark.parametrize("line", ["1j20,0902,0.1,0.2,0.3,0.4,16,17", "1j20,0902,0.1,0.2,0.3,0.4,95"])
def test_annotations_and_percents_are_no_scores(ava, line):
    (ava / "found.csv").write_text(f"-5KQ,0902,0.1,0.1,0.5,0.5,,0.9\n{line}\n")
    with pytest.raises(
        ValueError, match=r"found\.csv, line 2: \d+ is no score.*percent.*annotations end with the person"
    ):
        with_detections(key_frames(f"ava:{ava}:train"), ava / "found.csv")
