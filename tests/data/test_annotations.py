"""Tables of boxes, in every time base and with every mistake; and the boxes of detectors."""

import json

import numpy as np
import pytest
from films import moving

from tubelet.data.annotations import has_boxes, key_frames, with_detections, write_boxes
from tubelet.data.boxes import moment, read_boxes
from tubelet.data.items import Item
from tubelet.data.keyframes import Box
from tubelet.data.video import probe, write

HEADER = "path,seconds,x1,y1,x2,y2,label,person\n"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two videos of 64x48 pixels: 40 frames at 10 a second, and 30 at 24."""
    folder = tmp_path_factory.mktemp("films")
    write(folder / "a.mp4", moving(40, 1), 10)
    write(folder / "b.mp4", moving(30, 2), 24)
    return folder


def made(folder, text, name="boxes.csv"):
    (folder / name).write_text(text)
    return folder / name


def boxes_at(found):
    return {(item.path.name, item.key.seconds): item.key.boxes for item in found.items}


def test_rows_of_one_box_are_its_labels_and_rows_of_one_moment_its_boxes(films):
    text = "b.mp4,1,0.1,0.2,0.3,0.4,run,x\na.mp4,2,0.1,0.1,0.5,0.5,run|fall,p\na.mp4,2,.1,.1,.5,.5,wave,p\n"
    text += "a.mp4,2.0,0.1,0.1,0.5,0.5,run,q\na.mp4,2,0.5,0,1,1,,\na.mp4,0.5,,,,,,\n"
    found = key_frames(made(films, HEADER + text))
    assert [(item.path, item.key.seconds) for item in found.items] == [
        (films / "a.mp4", 0.5),
        (films / "a.mp4", 2.0),
        (films / "b.mp4", 1.0),
    ]
    nobody, several, one = (item.key for item in found.items)
    assert nobody.boxes == ()
    assert several.boxes == (
        Box((0.1, 0.1, 0.5, 0.5), ("run", "fall", "wave"), "p"),
        Box((0.1, 0.1, 0.5, 0.5), ("run",), "q"),
        Box((0.5, 0.0, 1.0, 1.0)),
    )
    assert one.boxes == (Box((0.1, 0.2, 0.3, 0.4), ("run",), "x"),)
    assert (several.video, several.stamp) == ("a.mp4", "2")
    assert found.names == found.evaluated == ("fall", "run", "wave")
    assert (found.missing, found.notes, found.ids, found.excluded) == ((), (), {}, frozenset())
    assert str(found).startswith("2 videos, 3 moments (1 of them without a box), 4 boxes, 5 labels of 3 classes: run 3")
    assert has_boxes(films / "boxes.csv")
    assert isinstance(found.items[0], Item)


@pytest.mark.parametrize(
    ("column", "value", "options"),
    [
        ("frame", "12", ""),
        ("frame", "13", "?zero=1"),
        ("frame", "30", "?fps=25"),
        ("seconds", "1.2", ""),
        ("Time", "901.2", "?zero=900"),
        ("timestamp", "00:15:01.2", "?zero=900"),
        ("timecode", "15:01.200", "?zero=0:15:00"),
        ("ms", "1200", ""),
        ("ms", "901200", "?zero=900000"),
        ("ms", "901200", "?zero=15:00"),
        ("ms", "15:01.2", "?zero=900000"),
    ],
)
def test_every_time_base_is_the_same_moment(films, column, value, options):
    table = made(films, f"video;{column};x1;y1;x2;y2;action\na.mp4;{value};0;0;0.5;1;run\n")
    [item] = key_frames(f"{table}{options}").items
    assert item.key.seconds == pytest.approx(1.2)
    assert item.key.boxes == (Box((0, 0, 0.5, 1), ("run",)),)


def test_frames_are_shown_when_the_file_says(films):
    table = made(films, "file,frame,x1,y1,x2,y2,label\nb.mp4,7,0,0,1,1,run\n")
    [item] = key_frames(table).items
    assert item.key.seconds == pytest.approx(float(probe(films / "b.mp4").seconds[7]), abs=1e-6)


def test_pixels_become_shares_and_what_reaches_over_the_edge_is_cut_and_counted(films):
    found = key_frames(made(films, HEADER + "a.mp4,1,16,12,32,24,run,\na.mp4,1,-8,12,32,60,run,\n"))
    assert [box.corners for box in found.items[0].key.boxes] == [(0.25, 0.25, 0.5, 0.5), (0, 0.25, 0.5, 1)]
    assert found.notes == (f"1 boxes of {films / 'boxes.csv'} reach over the edge of the picture and are cut to it",)
    found = key_frames(made(films, HEADER + "a.mp4,1,0.5,0.5,1.01,1.2,run,\n"))
    assert found.items[0].key.boxes[0].corners == (0.5, 0.5, 1, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "path,x1,y1,x2,y2\na.mp4,0,0,1,1\n",
            r"boxes\.csv has the columns path, x1, .*expected path, frame or seconds",
        ),
        ("path,seconds,left,top,x2,y2\n", r"columns path, seconds, left, .*expected path"),
        ("", r"has the columns none"),
        (HEADER, r"a header and no boxes under it"),
        (HEADER + "a.mp4,1,0.5,0,0.4,1,run,\n", r"line 2: a box at seconds 1 from \(0\.5, 0\) to \(0\.4, 1\) is none"),
        (HEADER + "a.mp4,1,0,0.5,1,0.5,run,\n", r"line 2: .* expected x1 < x2, y1 < y2"),
        (
            HEADER + "a.mp4,1,0,0,1,1,run,\na.mp4,one,0,0,1,1,run,\n",
            r"line 3: expected a path, and numbers for seconds",
        ),
        (HEADER + "a.mp4,1,0,nan,1,1,run,\n", r"line 2: a box .* is none"),
        (HEADER + "a.mp4,1,0,0,,1,run,\n", r"line 2: expected a path, and numbers"),
        (HEADER + "a.mp4,1,,,,,run,\n", r"line 2: 'run' has no corners; expected x1"),
        (HEADER + "a.mp4,-1,0,0,1,1,run,\n", r"line 2: a box .* a time of 0 or more"),
        (
            HEADER + "a.mp4,4.3,0,0,1,1,run,\n",
            r"line 2: a box of a\.mp4 at seconds 4\.3; it has 4\.000 seconds.*\?zero=",
        ),
        (HEADER + "a.mp4,903,0,0,9,9,run,\n", r"line 2: a box of a\.mp4 at seconds 903; it has 4\.000 seconds"),
        (HEADER + "a.mp4,1,1.2,0,1.5,1,run,\n", r"line 2: .*outside of the picture, which is 0 to 1 in shares"),
        (HEADER + "a.mp4,1,70,0,90,9,run,\n", r"line 2: .*outside of the picture, which is 64 wide and 48 high"),
        (HEADER + "a.mp4,1:75:x,0,0,1,1,run,\n", r"line 2: expected a path, and numbers"),
        ("path,frame,x1,y1,x2,y2\na.mp4,40,0,0,1,1\n", r"at frame 40; it has 40 frames, 0 to 39.*\?zero=1 or \?fps="),
        ("path,frame,x1,y1,x2,y2\na.mp4,0:01,0,0,1,1\n", r"line 2: .*0:01 is a timecode, and the column is one of fr"),
        (
            "path,seconds,x1,y1,x2,y2,score\na.mp4,1,0,0,1,1,95\n",
            r"line 2: 95 is no score.*percent, divide them by 100",
        ),
        ("path,seconds,x1,y1,x2,y2,score\na.mp4,1,0,0,1,1,nan\n", r"line 2: nan is no score; expected .* 0 to 1$"),
        ("path,seconds,x1,y1,x2,y2,score\na.mp4,1,0,0,1,1,-0.1\n", r"line 2: -0\.1 is no score"),
        ("path,seconds,x1,y1,x2,y2,score\na.mp4,1,0,0,1,1,sure\n", r"line 2: .* for score if it is there; got a\.mp4"),
        (
            "path,label\na.mp4,run\n",
            r"columns path, label; .*no boxes: train on them with a preset .*finetune-small-cpu",
        ),
        ("path,frame,x1,y1,x2,y2\na.mp4,1.5,0,0,1,1\n", r"line 2: frame 1\.5 is no whole number"),
    ],
)
def test_wrong_tables_are_refused_with_place_and_numbers(films, text, said):
    with pytest.raises(ValueError, match=said):
        key_frames(made(films, text, "boxes.csv"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?zero=5", r"line 2: seconds 1 is before the first of a\.mp4, which is said to be 5"),
        ("?zero=soon", r"zero=soon: expected a number"),
        ("?fps=0", r"fps=0: expected frames a second"),
        ("?fsp=25", r"no option 'fsp'; there are videos, zero"),
        ("?every=0", r"every 0: expected seconds, more than 0"),
        ("?missing=ignore", r"missing=ignore: expected warn or error"),
        ("?attributes=action", r"is a table, and attributes= is for exports"),
        (":val", r"no column that says which rows are for val"),
    ],
)
def test_wrong_options_are_refused(films, options, said):
    with pytest.raises(ValueError, match=said):
        key_frames(f"{made(films, HEADER + 'a.mp4,1,0,0,1,1,run,')}{options}")


def test_labels_that_are_not_in_the_class_list_are_refused_and_the_list_gives_the_order(films):
    table = made(films, HEADER + "a.mp4,1,0,0,1,1,run,\na.mp4,2,0,0,1,1,wavee,\n")
    with pytest.raises(ValueError, match=r"line 3: label 'wavee' is not in the class list \(near: 'wave'\); the 2"):
        key_frames(table, names=("wave", "run"))
    assert key_frames(table, names=("wavee", "run", "sit")).names == ("wavee", "run", "sit")


def test_videos_elsewhere_are_found_by_name_and_missing_ones_said(films, tmp_path):
    table = made(tmp_path, HEADER + "a,1,0,0,1,1,run,\nsub/b.avi,1,0,0,1,1,run,\ngone.mp4,1,0,0,1,1,run,\n")
    found = key_frames(table, videos=films)
    assert found.notes == (f"1 of 3 videos (33.3 %) that {table} names are missing: gone.mp4; the others are used",)
    assert [item.path.name for item in found.items] == ["a.mp4", "b.mp4"]
    assert found.missing == ("gone.mp4",)
    with pytest.raises(FileNotFoundError, match=r"1 of 3 videos"):
        key_frames(f"{table}?videos={films}&missing=error")
    with pytest.raises(FileNotFoundError, match=r"none of the 3 videos .*Say where they are: --videos"):
        key_frames(table)
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*none\.csv"):
        key_frames(tmp_path / "none.csv")


def test_rows_of_one_part_and_one_moment_in_so_many_seconds(films):
    rows = [f"a.mp4,{n / 10},0,0,1,1,run,{'train' if n < 20 else 'validation'}\n" for n in range(40)]
    table = made(films, "path,seconds,x1,y1,x2,y2,label,split\n" + "".join(rows))
    assert len(key_frames(f"{table}:val").items) == 20
    found = key_frames(f"{table}?every=1")
    assert [item.key.seconds for item in found.items] == [0, 1, 2, 3]
    assert found.notes == ("4 of 40 moments are used, one every 1 s",)


def test_written_tables_read_as_the_same(films, tmp_path):
    text = "path,frame,x1,y1,x2,y2,label,person,score\na.mp4,3,1,2,33,44,run|fall,p,0.75\n"
    text += "a.mp4,7,,,,,,,\nb.mp4,1,1,1,9,9,,,\n"
    first = key_frames(made(films, text))
    for folder in (films, tmp_path):
        write_boxes(first, folder / "again.csv")
        second = key_frames(folder / "again.csv")
        assert [item.path.resolve() for item in second.items] == [item.path.resolve() for item in first.items]
        for one, other in zip(first.items, second.items):
            assert one.key.seconds == pytest.approx(other.key.seconds, abs=1e-6)
            assert [(b.labels, b.person, b.score) for b in one.key.boxes] == [
                (b.labels, b.person, b.score) for b in other.key.boxes
            ]
            for box, same in zip(one.key.boxes, other.key.boxes):
                assert np.allclose(box.corners, same.corners, atol=1e-6)
    assert (films / "again.csv").read_text().splitlines()[1].startswith("a.mp4,0.3,")
    assert [path.name for path in tmp_path.iterdir()] == ["again.csv"]


def test_videos_that_cannot_be_read_are_left_out(films):
    (films / "bad.mp4").write_bytes(b"no film")
    table = made(films, HEADER + "a.mp4,1,1,1,9,9,run,\nbad.mp4,1,1,1,9,9,run,\n")
    found = key_frames(table)
    assert len(found.items) == 1
    assert "1 of 2 videos" in found.notes[0]
    assert "bad.mp4 does not open" in found.notes[1]


def test_tables_with_spaces_marks_and_comments(films):
    text = "\ufeffPath\tFrame\tX1\tY1\tX2\tY2\tLabel\n# drawn by hand\n\n a.mp4 \t 2 \t 0 \t0\t1\t1\t run | fall \n"
    (films / "marks.tsv").write_text(text, encoding="utf-8")
    [item] = key_frames(films / "marks.tsv").items
    assert item.key.boxes == (Box((0, 0, 1, 1), ("run", "fall")),)
    (films / "latin.csv").write_bytes(HEADER.encode() + b"a.mp4,1,0,0,1,1,caf\xe9,\n")
    with pytest.raises(ValueError, match=r"latin\.csv is no text in UTF-8"):
        key_frames(films / "latin.csv")


def test_one_reader_serves_saliency_too(films):
    table = made(films, "path,frame,x1,y1,x2,y2,label\na.mp4,3,1,2,33,44,run\na.mp4,3,1,2,33,44,fall\na.mp4,4,,,,,\n")
    assert {frame: rows.tolist() for frame, rows in read_boxes(table).of(probe(films / "a.mp4")).items()} == {
        3: [[1, 2, 33, 44]]
    }


def test_timecodes():
    assert moment("1:02:03.5") == 3723.5
    assert moment("02:03,25") == 123.25
    with pytest.raises(ValueError, match="no timecode"):
        moment("1:2:3:4")


def test_what_names_boxes_and_what_videos(films, tmp_path):
    (films / "list.csv").write_text("path,label\na.mp4,run\n")
    (films / "plain.csv").write_text("a.mp4,3\n")
    assert [has_boxes(one) for one in (films, films / "a.mp4", films / "list.csv", films / "plain.csv")] == [False] * 4
    assert [has_boxes(one) for one in ("ava:/data/ava:val", "export.xml?zero=1", "tasks.json", "s3://bucket/list")] == [
        True,
        True,
        True,
        False,
    ]


# ---------------------------------------------------------------------------- detectors


@pytest.fixture
def truth(films):
    return key_frames(
        made(films, HEADER + "a.mp4,1,0,0,0.5,0.5,run,\na.mp4,2,0,0,0.5,0.5,run,\nb.mp4,1,0,0,1,1,fall,\n")
    )


def test_detections_of_a_table_take_the_place_of_drawn_boxes(films, truth):
    text = "path,seconds,x1,y1,x2,y2,score,person\na.mp4,1.001,0.1,0.1,0.6,0.6,0.9,t1\na.mp4,1,0.2,0.2,0.3,0.3,0.79,\n"
    text += "a.mp4,1.5,0.2,0.2,0.3,0.3,0.99,\nb.mp4,1,-0.1,0.5,0.5,1.2,0.8,\n"
    found = with_detections(truth, made(films, text, "found.csv"))
    assert [item.key.boxes for item in found.items] == [
        (Box((0.1, 0.1, 0.6, 0.6), (), "t1", 0.9),),
        (),
        (Box((0.0, 0.5, 0.5, 1.0), (), None, 0.8),),
    ]
    assert [item.key.stamp for item in found.items] == ["1", "2", "1"]
    assert truth.items[0].key.boxes[0].labels == ("run",)
    assert "2 boxes of" in found.notes[-1]
    assert "1 have scores below 0.8, 1 are at other moments; 1 of 3 moments have none" in found.notes[-1]
    assert len(with_detections(truth, films / "found.csv", least=0.5).items[0].key.boxes) == 2


def test_detections_of_json_by_written_moments(films, truth):
    rows = [
        {"image_id": "a.mp4/1", "bbox": [16, 12, 32, 24], "score": 0.95},
        {"image_id": "a.mp4,2", "bbox": [0.25, 0.25, 0.5, 0.5], "score": 0.85},
    ]
    keys = [item.key for item in truth.items]
    (films / "found.json").write_text(json.dumps(rows))
    # The moments of this table are written 1 and 2, AVA's are 0001: both are found by their own words.
    renamed = with_detections(ava_like(truth), films / "found.json")
    assert [box.corners for item in renamed.items for box in item.key.boxes] == [(0.25, 0.25, 0.75, 0.75)] * 2
    assert [key.boxes[0].labels for key in keys] == [("run",), ("run",), ("fall",)]


def ava_like(found):
    from dataclasses import replace

    items = [replace(item, key=replace(item.key, stamp=f"{int(item.key.stamp):04d}")) for item in found.items]
    return replace(found, items=items)


def test_detections_that_do_not_fit_are_refused(films, truth):
    with pytest.raises(FileNotFoundError, match="no such file"):
        with_detections(truth, films / "none.json")
    with pytest.raises(ValueError, match=r"least 8: expected a score, 0 to 1"):
        with_detections(truth, films / "boxes.csv", least=8)
    table = made(films, "path,seconds,x1,y1,x2,y2,score\na.mp4,0.5,0,0,1,1,0.9\n", "found.csv")
    with pytest.raises(ValueError, match=r"none of the 1 boxes .*: 0 have scores below 0\.8, 1 are at other moments"):
        with_detections(truth, table)
    for text, said in (
        ("{", "is not JSON"),
        ("{}", "is no list of boxes"),
        ('[{"image_id": 1}]', "names images by num"),
    ):
        (films / "wrong.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            with_detections(truth, films / "wrong.json")
    (films / "wrong.json").write_text('[{"image_id": "a/1", "bbox": [1, 2]}]')
    with pytest.raises(ValueError, match=r"entry 0: expected image_id, bbox and score"):
        with_detections(truth, films / "wrong.json")
