"""Which videos annotations mean, and what is none of theirs."""

import json
from functools import partial

import pytest
from films import moving

import tubelet.data.check
from tubelet.cli import run
from tubelet.data import annotated
from tubelet.data.annotations import key_frames, with_detections
from tubelet.data.check import check
from tubelet.data.video import write

HEADER = "path,seconds,x1,y1,x2,y2,label\n"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write(path, moving(30, 1), 10)
    return path


@pytest.fixture
def clips(film, tmp_path):
    """Copies of a film by their names below a folder."""

    def below(*names):
        for name in names:
            path = tmp_path / "clips" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(film.read_bytes())
        return tmp_path / "clips"

    return below


def table(folder, *names, text=",1,0,0,1,1,run\n"):
    path = folder.parent / "boxes.csv"
    path.write_text(HEADER + "".join(name + text for name in names))
    return path


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        (["a/clip.mp4"], "clip.mkv", "a/clip.mp4"),
        (["clip.mp4"], "b/clip.mp4", "clip.mp4"),  # all in one folder: nothing speaks against it
        (["a/clip.mp4"], "b/clip.mp4", None),
        (["a/clip.mp4", "b/clip.mp4"], "b/clip.avi", "b/clip.mp4"),
        (["x/a/clip.mp4", "y/a/clip.mp4"], "z/y/a/clip.mp4", "y/a/clip.mp4"),
        (["x/a/clip.mp4", "y/a/clip.mp4"], "a/clip.mp4", None),
        (["a/clip.mp4", "b/clip.mp4"], "clip.mp4", None),
        (["a/clip.mp4", "a/clip.avi"], "clip.avi", "a/clip.avi"),
        (["a/clip.mp4"], "upload/1/0a1b2c3d-clip.mp4", "a/clip.mp4"),
    ],
)
def test_a_name_means_one_video_or_none(clips, there, name, found):
    folder = clips("other.mp4", *there)
    frames = key_frames(table(folder, "other.mp4", name), videos=folder)
    assert sorted(str(item.path.relative_to(folder)) for item in frames.items) == sorted(
        ["other.mp4", *filter(None, [found])]
    )
    assert frames.missing == (() if found else (name,))
    if not found:
        assert all(str(folder / one) in frames.notes[1] for one in there)


def test_two_folders_of_names_are_not_one_video(clips):
    folder = clips("clip.mp4", "c.mp4")
    frames = key_frames(table(folder, "a/clip.mp4", "b/clip.mp4", "c.mp4"), videos=folder)
    assert frames.missing == ("a/clip.mp4", "b/clip.mp4")
    assert f"left out: {folder / 'clip.mp4'} may be any of a/clip.mp4, b/clip.mp4" in frames.notes
    frames = key_frames(table(folder, "a/clip.mp4", "clip.mp4"), videos=folder)
    assert [item.key.video for item in frames.items] == ["clip.mp4"]
    assert frames.missing == ("a/clip.mp4",)


def test_two_spellings_of_a_video_are_one_key_frame(clips):
    folder = clips("walk/1.mp4")
    (folder / "link").symlink_to(folder / "walk")
    path = folder / "boxes.csv"
    rows = [",1,0,0,1,1,run\n", ",1,0,0,1,1,wave\n", ",1,0,0,0.5,1,sit\n"]
    names = ["walk/1.mp4", "./walk/1.mp4", "link/1.mp4"]
    path.write_text(HEADER + "".join(name + row for name, row in zip(names, rows)))
    [item] = key_frames(path).items
    assert sorted(sorted(box.labels) for box in item.key.boxes) == [["run", "wave"], ["sit"]]


def test_an_export_that_names_its_video_needs_no_look_at_the_folder(clips, monkeypatch):
    folder = clips("a.mp4", "b.mp4")
    data = {
        "images": [
            {"id": 1, "file_name": "frame_000005.jpg", "width": 64, "height": 48, "video": "a.mp4", "frame_id": 5}
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 48]}],
        "categories": [{"id": 1, "name": "run"}],
    }
    export = folder.parent / "coco.json"
    export.write_text(json.dumps(data))

    def scanned(folder):
        raise AssertionError("the folder is looked through")

    monkeypatch.setattr(annotated, "scan", scanned)
    [item] = key_frames(export, videos=folder).items
    assert item.path.name == "a.mp4"
    data["annotations"][0]["score"] = 95
    export.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"coco\.json, .*: 95 is no score"):
        key_frames(export, videos=folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", r"clips is a folder, and boxes of people were expected: .*preset for clips, as finetune-small-cpu"),
        ("a.mp4", r"a\.mp4 is a video, and boxes .*finetune-small-cpu"),
        ("list.txt", r"list\.txt ends in \.txt, and boxes .*finetune-small-cpu"),
    ],
)
def test_what_names_no_boxes_is_refused_with_what_to_use(clips, name, said):
    folder = clips("a.mp4")
    (folder / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(ValueError, match=said):
        key_frames(folder / name)


def test_data_sets_of_whole_videos_are_refused(clips):
    with pytest.raises(ValueError, match=r"ucf101:.*clips names the videos of ucf101, and boxes .*finetune-small"):
        key_frames(f"ucf101:{clips('a.mp4')}:train")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: gone"):
        key_frames("gone")


@pytest.mark.parametrize("size", ["<width>0</width><height>48</height>", "", "<width>64</width>"])
def test_a_size_that_cvat_does_not_say_is_that_of_the_video(clips, size):
    folder = clips("a.mp4")
    told = f"<meta><task><id>1</id><source>a.mp4</source><original_size>{size}</original_size></task></meta>"
    box = '<box frame="5" outside="{}" xtl="0" ytl="0" xbr="32" ybr="48"/>'
    track = f'<track id="0" label="run">{box.format(0)}</track>'
    (folder / "video.xml").write_text(f"<annotations>{told}{track}</annotations>")
    [item] = key_frames(folder / "video.xml").items
    assert item.key.boxes[0].corners == (0, 0, 0.5, 1)
    image = f'<image id="0" name="frame_000005" width="0" height="0">{box.format(0)}</image>'
    (folder / "images.xml").write_text(f"<annotations>{told}{image}</annotations>")
    [item] = key_frames(folder / "images.xml").items
    assert item.key.boxes[0].corners == (0, 0, 0.5, 1)


def test_found_boxes_that_are_cut_or_left_out_are_counted(clips):
    folder = clips("a.mp4")
    truth = key_frames(table(folder, "a.mp4"), videos=folder)
    found = folder.parent / "found.json"
    boxes = [(0.5, 0.5, 1, 0.2), (0, 0, 0.5, 0.5), (1.2, 0, 0.3, 1), (0.5, 0, 0, 1)]
    rows = [{"image_id": "a.mp4/1", "bbox": box, "score": 0.9} for box in boxes]
    found.write_text(json.dumps(rows))
    # The moment of this table is written 1, and AVA's 0001.
    truth = truth.__class__([type(one)(one.path, key=at(one.key)) for one in truth.items], (), ())
    notes = with_detections(truth, found).notes
    assert f"1 boxes of {found} reach over the edge of the picture and are cut to it" in notes
    assert f"2 boxes of {found} are outside of the picture, or have no width or height, and are left out" in notes
    for score in (95, -0.5, float("nan")):
        found.write_text(json.dumps([rows[0], rows[0] | {"score": score}]))
        with pytest.raises(ValueError, match=r"found\.json, entry 1: .* is no score"):
            with_detections(truth, found)
    csv = folder.parent / "found.csv"
    csv.write_text("path,seconds,x1,y1,x2,y2,score\na.mp4,1,0.5,0,1.1,1,0.9\ngone.mp4,1,0,0,1,1,0.9\n")
    (folder.parent / "a.mp4").symlink_to(folder / "a.mp4")
    notes = with_detections(truth, csv).notes
    assert f"1 of 2 videos (50.0 %) that {csv} names are missing: gone.mp4" in notes
    assert f"1 boxes of {csv} reach over the edge of the picture and are cut to it" in notes
    with pytest.raises(ValueError, match=r"images= says what numbers of images mean, which only \.json has"):
        with_detections(truth, f"{csv}?images=list.json")
    with pytest.raises(ValueError, match=r"found boxes have no option 'image'; there is images"):
        with_detections(truth, f"{found}?image=list.json")


def at(key):
    return type(key)(key.seconds, key.boxes, key.video, "0001")


def test_a_timecode_says_nothing_of_frames(clips):
    path = clips("a.mp4") / "boxes.csv"
    path.write_text("path,frame,x1,y1,x2,y2\na.mp4,5,0,0,1,1\n")
    with pytest.raises(ValueError, match=r"boxes\.csv\?zero=0:01: 0:01 is a timecode, and the column is one of frames"):
        key_frames(f"{path}?zero=0:01")


def test_check_says_once_what_is_missing(clips, monkeypatch, capsys):
    monkeypatch.setattr(tubelet.data.check, "check", partial(check, workers=0))
    path = clips("a.mp4") / "boxes.csv"
    path.write_text(HEADER + "a.mp4,1,0,0,1,1,run\ngone.mp4,1,0,0,1,1,run\n")
    run(["check", str(path), "--timeout", "0", "--frames", "4", "--stride", "1"])
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("gone.mp4") == 1
