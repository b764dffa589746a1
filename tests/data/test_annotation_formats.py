"""Exports of CVAT, Label Studio and COCO, written here as the tools write them, and the table that they become."""

import json

import pytest
from films import moving

from tubelet.cli import run
from tubelet.data import annotation_formats
from tubelet.data.annotation_formats import frame_of_image
from tubelet.data.annotations import key_frames
from tubelet.data.keyframes import Box
from tubelet.data.video import write


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two videos of 64x48 pixels: 40 frames at 10 a second, and 50 at 25, in a folder of their own."""
    folder = tmp_path_factory.mktemp("films") / "clips"
    folder.mkdir()
    write(folder / "a.mp4", moving(40, 1), 10)
    write(folder / "b.mp4", moving(50, 2), 25)
    return folder


def made(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def told(found):
    """(video, seconds, boxes) of every moment, corners rounded."""
    return [
        (
            item.path.name,
            round(item.key.seconds, 6),
            [(tuple(round(x, 4) for x in box.corners), box.labels, box.person) for box in item.key.boxes],
        )
        for item in found.items
    ]


# ---------------------------------------------------------------------------- CVAT

META = """
  <meta><task><id>7</id><name>task</name><size>8</size><mode>interpolation</mode><start_frame>{start}</start_frame>
    <stop_frame>39</stop_frame><frame_filter>{filter}</frame_filter>
    <labels><label><name>person</name><attributes><attribute><name>action</name></attribute></attributes></label></labels>
    <original_size><width>64</width><height>48</height></original_size><source>{source}</source></task></meta>"""


def box(frame, corners, outside=0, attributes="", keyframe=1):
    sides = " ".join(f'{side}="{value}"' for side, value in zip(("xtl", "ytl", "xbr", "ybr"), corners))
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="{keyframe}" {sides} z_order="0">'
        f"{attributes}</box>"
    )


def attribute(name, value):
    return f'<attribute name="{name}">{value}</attribute>'


def video_xml(tracks, source="a.mp4", start=0, step=""):
    body = "".join(f'<track id="{n}" label="{label}" source="manual">{boxes}</track>' for n, label, boxes in tracks)
    meta = META.format(start=start, filter=step, source=source)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{body}</annotations>'


def test_tracks_of_cvat_end_where_they_are_outside_and_go_evenly_between(films, tmp_path):
    walk = box(2, (16, 12, 32, 24)) + box(4, (32, 12, 48, 24)) + box(6, (32, 12, 48, 24), outside=1)
    file = made(tmp_path / "video.xml", video_xml([(0, "walk", walk), (1, "run", box(4, (0, 0, 64, 48)))]))
    found = key_frames(file, videos=films)
    assert told(found) == [
        ("a.mp4", 0.2, [((0.25, 0.25, 0.5, 0.5), ("walk",), "0")]),
        ("a.mp4", 0.3, [((0.375, 0.25, 0.625, 0.5), ("walk",), "0")]),
        ("a.mp4", 0.4, [((0.5, 0.25, 0.75, 0.5), ("walk",), "0"), ((0, 0, 1, 1), ("run",), "1")]),
        ("a.mp4", 0.5, [((0.5, 0.25, 0.75, 0.5), ("walk",), "0")]),
    ]
    assert found.names == ("run", "walk")


def test_tasks_of_cvat_that_begin_later_and_take_every_fifth_frame(films, tmp_path):
    walk = box(10, (0, 0, 16, 24)) + box(15, (8, 0, 24, 24), keyframe=0) + box(25, (24, 0, 40, 24))
    walk += box(30, (24, 0, 40, 24), outside=1)
    file = made(tmp_path / "video.xml", video_xml([(3, "walk", walk)], start=10, step="step=5"))
    found = key_frames(file, videos=films)
    assert [(seconds, boxes[0][0][0]) for _, seconds, boxes in told(found)] == [
        (1.0, 0.0),
        (1.5, 0.125),
        (2.0, 0.25),
        (2.5, 0.375),
    ]


def test_attributes_of_cvat_as_labels(films, tmp_path):
    shown = attribute("action", "run|wave") + attribute("occluded", "false") + attribute("late", "true")
    none = attribute("action", "__undefined__") + attribute("late", "false")
    tracks = [(0, "person", box(1, (0, 0, 64, 48), attributes=shown) + box(2, (0, 0, 64, 48), attributes=none))]
    file = made(tmp_path / "video.xml", video_xml(tracks))
    found = key_frames(file, videos=films)
    assert found.names == ("person",)
    assert "if what they do is in an attribute (action, occluded, late), say ?attributes=action" in found.notes[0]
    found = key_frames(f"{file}?attributes=action,late&videos={films}")
    assert [item.key.boxes[0].labels for item in found.items] == [("run", "wave", "late"), ()]
    found = key_frames(f"{file}?attributes=label,late&videos={films}")
    assert [item.key.boxes[0].labels for item in found.items] == [("person", "late"), ("person",)]
    with pytest.raises(ValueError, match=r"no box has an attribute 'pose'; there are action, occluded, late"):
        key_frames(f"{file}?attributes=pose&videos={films}")


def test_projects_of_cvat_have_a_video_for_each_task(films, tmp_path):
    task = (
        "<task><id>{}</id><source>{}</source><original_size><width>64</width><height>48</height></original_size></task>"
    )
    meta = f"<meta><project><tasks>{task.format(1, 'a.mp4')}{task.format(2, 'b.mp4')}</tasks></project></meta>"
    tracks = "".join(f'<track id="0" label="run" task_id="{n}">{box(5, (0, 0, 64, 24))}</track>' for n in (1, 2))
    found = key_frames(made(tmp_path / "project.xml", f"<annotations>{meta}{tracks}</annotations>"), videos=films)
    assert [(name, seconds) for name, seconds, _ in told(found)] == [("a.mp4", 0.5), ("b.mp4", 0.2)]
    assert [item.key.boxes[0].person for item in found.items] == ["1 0", "2 0"]


def test_images_of_cvat(films, tmp_path):
    one = '<box label="run" occluded="0" xtl="0" ytl="0" xbr="32" ybr="48"></box>'
    one += '<box label="sit" xtl="32" ytl="0" xbr="64" ybr="24"/>'
    text = f'<image id="0" name="frame_000005" width="64" height="48">{one}</image>'
    text += (
        '<image id="1" name="frame_000006" width="64" height="48"><polygon label="run" points="1,1;2,2;1,2"/></image>'
    )
    source = "<meta><task><id>1</id><source>a.mp4</source></task></meta>"
    found = key_frames(made(tmp_path / "images.xml", f"<annotations>{source}{text}</annotations>"), videos=films)
    assert told(found) == [
        ("a.mp4", 0.5, [((0, 0, 0.5, 1), ("run",), None), ((0.5, 0, 1, 0.5), ("sit",), None)]),
        ("a.mp4", 0.6, []),
    ]
    assert found.notes == ("1 shapes that are no boxes are left out",)
    nameless = f"<annotations>{text}</annotations>"
    with pytest.raises(ValueError, match=r"nothing says of which video; name it: images\.xml\?video=clip\.mp4"):
        key_frames(made(tmp_path / "images.xml", nameless), videos=films)
    assert len(key_frames(f"{tmp_path / 'images.xml'}?video=b.mp4&videos={films}").items) == 2


BOMB = '<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;">]><annotations>&y;</annotations>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><version>&x;</version></annotations>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", [BOMB, OUTSIDE, '<!DOCTYPE annotations SYSTEM "http://a/b.dtd"><annotations/>'])
def test_xml_with_entities_is_not_read(tmp_path, text, encoding):
    file = tmp_path / "video.xml"
    file.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    with pytest.raises(ValueError, match=r"video\.xml has a DOCTYPE, which exports of CVAT have not; it is not read"):
        key_frames(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"is no XML"),
        ("<annotations><track>", r"is no XML"),
        (video_xml([(0, "run", box("one", (0, 0, 9, 9)))]), r"video\.xml: invalid literal for int"),
        (
            video_xml([(0, "run", box(0, (0, 0, 9, 9)) + box(10**15, (0, 0, 9, 9)))]),
            r"more than 1,000 boxes.*frame 1000 are damaged",
        ),
        ("<a/>", r"is no export of CVAT: it begins with <a>"),
        ("<annotations/>", r"has no boxes"),
        (
            video_xml([(0, "run", '<box frame="1" outside="0" xtl="1" ytl="1" xbr="2"/>')]),
            r"expected xtl, ytl, xbr, ybr",
        ),
        (
            video_xml([(0, "run", box(40, (0, 0, 9, 9)))]),
            r"track 0, frame 40: .*at frame 40; it has 40 frames, 0 to 39",
        ),
        (video_xml([(0, "run", box(1, (70, 0, 90, 9)))]), r"track 0, frame 1: .*outside of the picture"),
        ('<annotations><image name="cat" width="4" height="4"/></annotations>', r"image 'cat': expected a name with"),
    ],
)
def test_wrong_xml_is_refused(films, tmp_path, text, said, monkeypatch):
    monkeypatch.setattr(annotation_formats, "MOST", 1000)
    with pytest.raises(ValueError, match=said):
        key_frames(made(tmp_path / "video.xml", text), videos=films)


# ---------------------------------------------------------------------------- Label Studio


def drawn(frame, x, enabled=True, **more):
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 25, "width": 25, "height": 50, **more}


def task(regions, video="/data/upload/1/0a1b2c3d-a.mp4"):
    return [{"id": 5, "data": {"video": video}, "annotations": [{"was_cancelled": False, "result": regions}]}]


def region(sequence, labels=("run",), name="r1", **more):
    value = {"framesCount": 40, "duration": 4.0, "sequence": sequence, "labels": [*labels], **more}
    return {"id": name, "type": "videorectangle", "from_name": "box", "to_name": "video", "value": value}


def test_sequences_of_label_studio_are_filled_and_end_where_they_are_switched_off(films, tmp_path):
    sequence = [drawn(1, 0), drawn(3, 50), drawn(5, 50, enabled=False), drawn(39, 10)]
    found = key_frames(made(tmp_path / "tasks.json", task([region(sequence)])), videos=films)
    assert [(seconds, boxes[0][0]) for _, seconds, boxes in told(found)] == [
        (0.0, (0.0, 0.25, 0.25, 0.75)),
        (0.1, (0.25, 0.25, 0.5, 0.75)),
        (0.2, (0.5, 0.25, 0.75, 0.75)),
        (0.3, (0.5, 0.25, 0.75, 0.75)),
        (0.4, (0.5, 0.25, 0.75, 0.75)),
        (3.8, (0.1, 0.25, 0.35, 0.75)),
        (3.9, (0.1, 0.25, 0.35, 0.75)),
    ]
    assert {item.key.boxes[0].person for item in found.items} == {"r1"}
    assert found.items[0].path == films / "a.mp4"


def test_the_tools_own_rate_gives_the_seconds_and_choices_are_attributes(films, tmp_path):
    one = region([drawn(13, 0, enabled=False)], ["person"], framesCount=48, duration=2.0)
    choice = {"id": "r1", "type": "choices", "from_name": "action", "value": {"choices": ["run", "wave"]}}
    file = made(tmp_path / "tasks.json", task([one, choice], "s3://bucket/films/b.mp4"))
    [item] = key_frames(file, videos=films).items
    assert (item.path.name, item.key.seconds) == ("b.mp4", 0.5)
    assert item.key.boxes[0].labels == ("person",)
    [item] = key_frames(f"{file}?attributes=action&videos={films}").items
    assert item.key.boxes[0].labels == ("run", "wave")
    [item] = key_frames(f"{file}?fps=12&videos={films}").items
    assert item.key.seconds == 1.0


def test_sequences_without_a_duration_count_the_files_own_frames_from_one(films, tmp_path):
    one = region([drawn(6, 0, enabled=False)])
    del one["value"]["duration"]
    [item] = key_frames(made(tmp_path / "tasks.json", task([one], "b.mp4")), videos=films).items
    assert item.key.seconds == pytest.approx(0.2)


def test_the_short_form_and_single_frames_of_label_studio(films, tmp_path):
    short = [{"id": 1, "video": "/data/local-files/?d=clips/a.mp4", "box": [region([drawn(11, 0, False)])["value"]]}]
    [item] = key_frames(made(tmp_path / "tasks.json", short), videos=films).items
    assert (item.path.name, item.key.seconds, item.key.boxes[0].labels) == ("a.mp4", 1.0, ("run",))
    value = {"x": 50, "y": 0, "width": 50, "height": 100, "rotation": 10, "rectanglelabels": ["run", "sit"]}
    image = [
        {
            "id": 2,
            "data": {"image": "/data/upload/2/ffffffff-a_000012.jpg"},
            "annotations": [{"result": [{"id": "x", "type": "rectanglelabels", "value": value}]}],
        }
    ]
    found = key_frames(made(tmp_path / "tasks.json", image), videos=films)
    assert told(found) == [("a.mp4", 1.2, [((0.5, 0, 1, 1), ("run", "sit"), None)])]
    assert found.notes == ("1 turned rectangles are taken as if they were not",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("[{", r"tasks\.json is not JSON"),
        ("[" * 100_000, r"tasks\.json is not JSON"),
        ('[{"id": 1, "video": "a.mp4", "box": [{"sequence": [{"frame": NaN, "x": 1}]}]}]', r"tasks\.json"),
        ("{}", r"neither of COCO .*nor of Label Studio"),
        ([], r"neither of COCO"),
        (task([]), r"tasks\.json has no boxes"),
        (task([region([drawn(60, 0)])]), r"task 5, region r1: a box of .*at seconds 60; it has 4\.000 seconds"),
        (task([region([drawn(1, 120)])]), r"task 5, region r1: .*outside of the picture"),
        (task([region([{"frame": 1}])]), r"is not as label_studio has it: KeyError 'x'"),
    ],
)
def test_wrong_tasks_are_refused(films, tmp_path, data, said):
    with pytest.raises(ValueError, match=said):
        key_frames(made(tmp_path / "tasks.json", data), videos=films)


# ---------------------------------------------------------------------------- COCO


def coco(images, annotations, **more):
    categories = [{"id": 1, "name": "run"}, {"id": 2, "name": "sit"}]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def test_images_of_coco_are_moments_by_their_names(films, tmp_path):
    images = [{"id": n, "file_name": f"a/{n:06d}.jpg", "width": 64, "height": 48} for n in (5, 6)]
    images.append({"id": 9, "file_name": "b_frame_000025.png", "width": 64, "height": 48})
    boxes = [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [16, 12, 16, 12], "track_id": 4}]
    boxes.append({"id": 2, "image_id": 5, "category_id": 2, "bbox": [16, 12, 16, 12], "track_id": 4})
    boxes.append({"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 64, 24], "score": 0.5})
    boxes.append({"id": 4, "image_id": 9, "category_id": 2, "bbox": [0, 0, 64, 24], "iscrowd": 1})
    found = key_frames(made(tmp_path / "coco.json", coco(images, boxes)), videos=films)
    assert told(found) == [
        ("a.mp4", 0.5, [((0.25, 0.25, 0.5, 0.5), ("run", "sit"), "4")]),
        ("a.mp4", 0.6, []),
        ("b.mp4", 1.0, [((0, 0, 1, 0.5), ("sit",), None)]),
    ]
    assert found.items[2].key.boxes[0].score == 0.5
    assert found.notes == ("1 boxes of crowds are left out",)
    found = key_frames(f"{tmp_path / 'coco.json'}?zero=1&videos={films}")
    assert [item.key.seconds for item in found.items] == pytest.approx([0.4, 0.5, 0.96])


def test_images_of_coco_that_name_video_and_moment(films, tmp_path):
    box_ = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [0, 0, 32, 24],
        "attributes": {"pose": "up", "track_id": 3},
    }
    for image, more in (
        ({"video": "a", "timestamp": 1.5}, {}),
        ({"video_id": 7, "frame_id": 15}, {"videos": [{"id": 7, "name": "a.mp4"}]}),
        ({"file_name": "a/000015.jpg", "frame": 15}, {}),
    ):
        data = coco([{"id": 1, **image}], [box_], **more)  # without sizes: those of the video
        found = key_frames(f"{made(tmp_path / 'coco.json', data)}?attributes=pose&videos={films}")
        assert told(found) == [("a.mp4", 1.5, [((0, 0, 0.5, 0.5), ("up",), "3")])]


@pytest.mark.parametrize(
    ("images", "annotations", "said"),
    [
        ([{"id": 1, "file_name": "a/1.jpg"}], [{"id": 1, "image_id": 2}], r"annotation 1: there is no image 2"),
        ([{"id": 1, "file_name": "a/1.jpg"}], [{"id": 1, "image_id": 1, "category_id": 5}], r"there is no category 5"),
        ([{"id": 1, "file_name": "a/1.jpg"}], [{"image_id": 1, "category_id": 1, "bbox": [1]}], r"expected bbox as"),
        ([{"id": 1, "file_name": "a.jpg"}], [], r"image 1: nothing says which moment it is; expected one of timestamp"),
        ([{"id": 1, "file_name": "000001.jpg"}], [], r"image 1: nothing says of which video"),
        ([{"id": 1, "video": "a", "frame": 99}], [], r"image 1: a box of a at frame 99; it has 40 frames"),
        ([{"id": 1, "video": "a", "timestamp": float("nan")}], [], r"image 1: nan is no moment"),
        ([], [], r"coco\.json has no boxes"),
        ([{"file_name": "a/1.jpg"}], [], r"is not as coco has it: KeyError 'id'"),
    ],
)
def test_wrong_coco_is_refused(films, tmp_path, images, annotations, said):
    with pytest.raises(ValueError, match=said):
        key_frames(made(tmp_path / "coco.json", coco(images, annotations)), videos=films)


def test_names_of_images_tell_video_and_frame():
    assert frame_of_image("clip.mp4_000012.jpg") == ("clip.mp4", 12)
    assert frame_of_image("a/b/img_7.png") == ("a/b", 7)
    assert frame_of_image("walk2/0003.jpg") == ("walk2", 3)


# ---------------------------------------------------------------------------- the command


def test_the_command_writes_a_table_that_reads_as_the_same(films, tmp_path, capsys):
    walk = box(2, (16, 12, 32, 24)) + box(4, (32, 12, 48, 24)) + box(5, (32, 12, 48, 24), outside=1)
    file = made(tmp_path / "video.xml", video_xml([(0, "walk", walk)]))
    table = tmp_path / "out" / "boxes.csv"
    assert run(["convert", str(file), str(table), "--videos", str(films), "--dry"]) == 0
    assert not table.exists()
    assert run(["convert", str(file), str(table), "--videos", str(films)]) == 0
    out = capsys.readouterr().out
    assert "1 videos, 3 moments, 3 boxes, 3 labels of 1 classes: walk 3" in out
    assert f"wrote {table}" in out
    assert table.read_text().splitlines()[:2] == [
        "path,seconds,x1,y1,x2,y2,label,person",
        f"{films / 'a.mp4'},0.2,0.25,0.25,0.5,0.5,walk,0",
    ]
    assert told(key_frames(table)) == told(key_frames(file, videos=films))
    assert run(["convert", str(file), str(table), "--videos", str(films)]) == 2
    assert "boxes.csv is there already" in capsys.readouterr().err
    thin = tmp_path / "thin.csv"
    assert run(["convert", f"{file}?every=1", str(thin), "--videos", str(films), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["videos"], said["moments"], said["boxes"], said["labels"]) == (1, 1, 1, {"walk": 1})
    assert [path.name for path in thin.parent.iterdir() if path.name.startswith(".")] == []


def test_the_command_knows_ava_and_says_what_goes_with_what(films, tmp_path, capsys):
    (tmp_path / "ava_val_v2.2.csv").write_text("a,0902,0.1,0.1,0.5,0.5,12,1\ngone,0902,0.1,0.1,0.5,0.5,12,1\n")
    assert run(["convert", f"ava:{tmp_path}:val", str(tmp_path / "ava.csv"), "--videos", str(films)]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("are missing: gone") == 1
    assert "1 movies begin at second 900 of the film (cut)" in captured.err
    assert key_frames(tmp_path / "ava.csv").items[0].key.boxes == (Box((0.1, 0.1, 0.5, 0.5), ("action 12",), "1"),)
    assert run(["convert", str(tmp_path / "a.xml"), str(tmp_path / "b.csv"), "--heads", "3"]) == 2
    assert "to which only --videos, --dry and --json apply" in capsys.readouterr().err
    assert run(["convert", "a.pth", str(tmp_path / "b.safetensors"), "--videos", str(films)]) == 2
    assert "--videos is for boxes" in capsys.readouterr().err
