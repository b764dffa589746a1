"""Folders and lists: what is found, in which order, and what is said when nothing is."""

import csv
import io
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tubelet.data.sources import Item, find, scan


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(folder: Path, text: str, name: str = "list.txt") -> list[tuple[str, str | None]]:
    (folder / name).write_text(text, encoding="utf-8")
    return [(item.path.relative_to(folder).as_posix(), item.label) for item in find(folder / name)]


# ---------------------------------------------------------------------------- folders


def test_folder_is_searched_and_sorted(tmp_path):
    tree(
        tmp_path, "b/2.mp4", "b/10.MKV", "a/x/1.webm", "top.avi", "a/notes.txt", "README", ".hidden.mp4", ".cache/z.mp4"
    )
    found = [(item.path.relative_to(tmp_path).as_posix(), item.label) for item in find(tmp_path)]
    assert found == [("a/x/1.webm", "x"), ("b/10.MKV", "b"), ("b/2.mp4", "b"), ("top.avi", None)]
    assert scan(tmp_path)[1] == {".txt": 1, "no suffix": 1}
    assert find(str(tmp_path)) == find(tmp_path)


def test_order_and_labels_are_those_of_the_parts_of_paths(tmp_path):
    """Folders among files, and names that sort otherwise as plain text: "/" comes behind "-" and "."."""
    names = ["a.mp4", "a/2.mp4", "a/b/1.mp4", "a/b.mp4", "a-b/1.mp4", "a b/1.mp4", "B/x.Mp4", "é/1.mp4", "a/b.c/1.mp4"]
    tree(tmp_path, *names, "a/x.mp4.", "a/no.", "a/b/tar.gz", "a/v1.2")
    paths = sorted((tmp_path / name for name in names), key=lambda path: path.relative_to(tmp_path).parts)
    assert find(tmp_path) == [Item(path, None if path.parent == tmp_path else path.parent.name) for path in paths]
    assert scan(tmp_path)[1] == {"no suffix": 2, ".gz": 1, ".2": 1}
    frames = tmp_path / "frames"
    tree(frames, *(f"{folder}/{n}.jpg" for folder in (".", "b", "b/c", "a.x", "a") for n in (1, 2)))
    inside = [("", None), ("a", None), ("a.x", None), ("b", None), ("b/c", "b")]
    assert find(frames) == [Item(frames / name, label) for name, label in inside]


def test_links_are_followed_once(tmp_path):
    tree(tmp_path, "all/1.mp4")
    os.symlink(tmp_path / "all", tmp_path / "all" / "loop")
    assert [item.path.name for item in find(tmp_path)] == ["1.mp4"]


def test_one_video(tmp_path):
    tree(tmp_path, "my clip.MP4")
    assert [(item.path.name, item.label) for item in find(tmp_path / "my clip.MP4")] == [("my clip.MP4", None)]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
        find(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is empty; expected videos \(.*\.mp4"):
        find(tmp_path)
    tree(tmp_path, "a.jpg", "x/b1.jpg", "c.pdf", ".hidden.mp4")  # one numbered image is no video
    with pytest.raises(ValueError, match=r"no videos in .*: it has 2 x \.jpg, 1 x \.pdf; expected .*numbered images"):
        find(tmp_path)
    with pytest.raises(
        ValueError, match=r"c\.pdf is neither a folder, nor a list \(\.txt, \.csv, \.tsv, \.parquet\), nor a video"
    ):
        find(tmp_path / "c.pdf")


# ---------------------------------------------------------------------------- folders of frames


def test_folders_of_images_are_videos_where_there_are_no_video_files(tmp_path):
    tree(tmp_path, *(f"{clip}/img_{n:05d}.jpg" for clip in ("b/10", "b/9", "a/x") for n in range(3)), "b/9/notes.txt")
    found = [(item.path.relative_to(tmp_path).as_posix(), item.label) for item in find(tmp_path)]
    assert found == [("a/x", "a"), ("b/10", "b"), ("b/9", "b")]
    assert scan(tmp_path)[1] == {".txt": 1}
    assert find(tmp_path / "a" / "x") == [Item(tmp_path / "a" / "x")]
    tree(tmp_path, "b/clip.mp4")  # then the images are something else: thumbnails
    assert [item.path.name for item in find(tmp_path)] == ["clip.mp4"]
    assert scan(tmp_path)[1] == {".jpg": 9, ".txt": 1}


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["img_00001.jpg", "img_00002.jpg", "img_00003.jpg"], False),
        (["8.png", "9.png", "10.png", "11.png"], False),
        (["00000.jpg", "00005.jpg", "00010.jpg"], False),  # every fifth frame
        (["n01440764_10026.JPEG", "n01440764_10027.JPEG", "n01440764_10029.JPEG"], True),
        (["IMG_20240101_091500.jpg", "IMG_20240101_120000.jpg", "IMG_20240203_080000.jpg"], True),
        (["cat.1.jpg", "cat.2.jpg", "dog.1.jpg"], True),
    ],
)
def test_pictures_that_are_not_numbered_as_frames_are_warned_of(tmp_path, names, warned):
    tree(tmp_path, *(f"a/{name}" for name in names), *(f"b/{name}" for name in names))
    for source, said in ((tmp_path, r"/a \(and 1 more\) are "), (tmp_path / "a", "/a are ")):
        with warnings.catch_warnings(record=True, action="always") as caught:
            assert len(find(source)) == 1 + (source == tmp_path)  # they are videos all the same
        assert len(caught) == warned
        for one in caught:
            assert re.search(rf"{said}read as .* single pictures, write images:{source}$", str(one.message))
    assert len(find(f"images:{tmp_path}")) == 2 * len(names)


def test_frame_lists(tmp_path):
    """Both kinds, told apart by what is there; at 10 frames per second."""
    tree(tmp_path, *(f"ten/img_{n:05d}.jpg" for n in range(1, 11)))
    (tmp_path / "fps.txt").write_text("10\n")
    (tmp_path / "list.txt").write_text("ten 1 10\nten 10 7\nten,4,5\nten 1 5\nten 6 5\nten push\n")
    found = [(item.label, item.start, item.end) for item in find(tmp_path / "list.txt")]
    assert found == [
        (None, None, None),
        ("7", None, None),
        (None, 0.3, 0.8),
        (None, None, 0.5),
        (None, 0.5, None),
        ("push", None, None),
    ]


# ---------------------------------------------------------------------------- tables


def test_parts_of_videos_and_groups(tmp_path):
    tree(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "t.csv").write_text("path,label,start,end,person\na.mp4,x,,,\na.mp4,y,1.5,3,eva\nb.mp4,,2,,adam\n")
    a, b = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert find(tmp_path / "t.csv") == [
        Item(a, "x"),
        Item(a, "y", 1.5, 3.0, "eva"),
        Item(b, None, 2.0, None, "adam"),
    ]


def test_columns_of_any_name(tmp_path):
    tree(tmp_path, "videos/a b.mp4", "videos/b.mp4")
    table = tmp_path / "t.csv"
    table.write_text(
        'Where,what did they do,from,to,split,label\n"a b.mp4",wave,0,2,train,1\nb.mp4,bow,1,4,Validation,2\n'
    )
    source = f"table:{table}?path=Where&label=what did they do&start=from&end=to&videos={tmp_path}/videos"
    a, b = (tmp_path / "videos" / name for name in ("a b.mp4", "b.mp4"))
    assert find(source) == [Item(a, "wave", 0.0, 2.0), Item(b, "bow", 1.0, 4.0)]
    assert find(source.replace("?", ":val?")) == [Item(b, "bow", 1.0, 4.0)]
    assert find(f"table:{table}:train?path=Where&videos={tmp_path}/videos") == [Item(a, "1")]
    for change, words in (
        ("path=where", r"has no column 'where', only Where, .*\. Did you mean Where\?"),
        ("file=Where", r"table has no 'file'; it has path, label, start, end, group, part, videos, missing: LAYOUT"),
        ("label=to", r"t\.csv has a header without a path: .*say which it is: table:.*\?path=COLUMN"),
    ):
        with pytest.raises(ValueError, match=words):
            find(f"table:{table}?{change}")
    with pytest.raises(ValueError, match="has no rows for test"):
        find(source.replace("?", ":test?"))
    (tmp_path / "plain.csv").write_text("path,label\nvideos/b.mp4,1\n")
    with pytest.raises(ValueError, match=r"no column that says which rows are for train; call it split"):
        find(f"table:{tmp_path}/plain.csv:train")


def test_parquet(tmp_path):
    tree(tmp_path, "a.mp4", "b.mp4")
    rows = {"file": ["a.mp4", "b.mp4"], "label": [3, None], "start": [0.5, None], "subject": ["eva", "adam"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    expected = [Item(tmp_path / "a.mp4", "3", 0.5, None, "eva"), Item(tmp_path / "b.mp4", None, None, None, "adam")]
    assert find(tmp_path / "t.parquet") == expected
    assert [item.label for item in find(f"table:{tmp_path}/t.parquet?label=subject")] == ["eva", "adam"]
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as Parquet: "):
        find(tmp_path / "bad.parquet")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ValueError, match=r"pip install 'tubelet\[parquet\]'; or save it as csv"):
        find(tmp_path / "t.parquet")


# ---------------------------------------------------------------------------- layouts by name


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("ucf11:/data", ValueError, r"nor a layout 'ucf11'\. Did you mean ucf101\? .*LAYOUT:FOLDER\[:train"),
        ("kinetics:/nowhere:val", FileNotFoundError, "no such file or folder: /nowhere"),
        ("kinetics:/nowhere:trian", FileNotFoundError, "no such file or folder: /nowhere:trian"),
        ("kinetics:", ValueError, "names no folder; expected LAYOUT:FOLDER"),
        ("kinetics:/nowhere:train:2", ValueError, r"kinetics has no 'split'; it has lists, videos, missing"),
        ("hmdb51:/nowhere:val", ValueError, "HMDB51 has no part 'val'; it has train and test"),
        ("ucf14-hmdb7:/nowhere?hmdb=/x", ValueError, r"has no 'hmdb'; it has split, ucf101, hmdb51, missing"),
        ("ssv2:/nowhere?missing=no", ValueError, "missing=no: expected warn or error"),
        ("/no:where", FileNotFoundError, "no such file or folder: /no:where"),
        ("htps://example.org/a.mp4", ValueError, "nor a layout 'htps'"),
    ],
)
def test_sources_that_mean_nothing(source, error, words):
    with pytest.raises(error, match=words):
        find(source)


def test_a_folder_with_the_name_of_a_layout_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "ucf101:x/a.mp4")
    assert [item.path.name for item in find("ucf101:x")] == ["a.mp4"]


# ---------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4\nx/b c.mp4\n", [("a.mp4", None), ("x/b c.mp4", None)]),
        ("a.mp4 3\nx/b c.mp4 0\n", [("a.mp4", "3"), ("x/b c.mp4", "0")]),
        ("a.mp4\t3\nx/b c.mp4\twave\n", [("a.mp4", "3"), ("x/b c.mp4", "wave")]),
        ("a.mp4,3\nx/b c.mp4,push up\n", [("a.mp4", "3"), ("x/b c.mp4", "push up")]),
        ('"a.mp4" 3\n"x/b c.mp4" 0\n', [("a.mp4", "3"), ("x/b c.mp4", "0")]),
        ("'x/b c.mp4' 0\n", [("x/b c.mp4", "0")]),
        ('"x/b c.mp4",0\n"d,e.mp4"\n', [("x/b c.mp4", "0"), ("d,e.mp4", None)]),
        ("d,e.mp4 7\nd,e.mp4\n", [("d,e.mp4", "7"), ("d,e.mp4", None)]),
        ("a.mp4 0 -1\nx/b c.mp4 0 -1\n", [("a.mp4", None), ("x/b c.mp4", None)]),
        ("a.mp4 push up\nx/b c.mp4 sit down\n", [("a.mp4", "push up"), ("x/b c.mp4", "sit down")]),
        ("b 2.mp4\nb 2.mp4 1\n", [("b 2.mp4", None), ("b 2.mp4", "1")]),
        ("# a comment\n\n  \na.mp4 1\n  # another\n", [("a.mp4", "1")]),
        ("path,label\na.mp4,wave\nx/b c.mp4,\n", [("a.mp4", "wave"), ("x/b c.mp4", None)]),
        ("File Name,Frames,Label\na.mp4,30,wave\n", [("a.mp4", "wave")]),
        ("label,file\nwave,a.mp4\n", [("a.mp4", "wave")]),
        ("video\tclass\tfps\nx/b c.mp4\tsit down\t25\n", [("x/b c.mp4", "sit down")]),
        ("path\tlabel\na.mp4\t\n", [("a.mp4", None)]),
        ("path label\nx/b c.mp4 3\n", [("x/b c.mp4", "3")]),
        ("path\nx/b c.mp4\n", [("x/b c.mp4", None)]),
        ("\ufeffpath,label\na.mp4,1\n", [("a.mp4", "1")]),
        ("a.mp4 1\r\nx/b c.mp4 2\r\n", [("a.mp4", "1"), ("x/b c.mp4", "2")]),
        ("a.mp4\na.mp4\n", [("a.mp4", None), ("a.mp4", None)]),
    ],
)
def test_list_formats(tmp_path, text, expected):
    tree(tmp_path, "a.mp4", "x/b c.mp4", "d,e.mp4", "b 2.mp4")
    assert listed(tmp_path, text) == expected


def test_absolute_paths_and_other_folders(tmp_path):
    tree(tmp_path, "a/1.mp4", "lists/x")
    (tmp_path / "lists" / "l.tsv").write_text(f"{tmp_path}/a/1.mp4\t1\n../a/1.mp4\t2\n")
    items = find(tmp_path / "lists" / "l.tsv")
    assert [item.label for item in items] == ["1", "2"]
    assert all(item.path.is_file() for item in items)


def test_missing_files_are_named_and_counted(tmp_path):
    tree(tmp_path, "a.mp4")
    text = "a.mp4 1\n" + "".join(f"gone {n}.mp4 1\n" for n in range(8))
    with pytest.raises(FileNotFoundError) as caught:
        listed(tmp_path, text)
    assert "8 of the 9 videos" in str(caught.value)
    assert "line 2: gone 0.mp4; line 3: gone 1.mp4" in str(caught.value)
    assert "and 3 more" in str(caught.value)
    assert "gone 5" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no videos; expected one path a line"),
        ("# nothing\n", "names no videos"),
        ("path,label\n", "has a header and no videos under it"),
        ("label,youtube_id,time_start\nwave,abc,3\n", "header without a path: label,youtube_id,time_start"),
        ("path,label\na.mp4\n", r"list\.txt, line 2: 1 columns, fewer than the header has: a\.mp4"),
        ("frames 0 300\n", "line 1: frames has 3 images, 5 to 7; 0 300 is neither their count and a label, nor"),
        ("frames 6 3\n", "line 1: frames has 3 images, 5 to 7; 6 3 is neither"),
        ("frames 5 0\n", "line 1: frames has 3 images"),
        ("a.mp4 8 64\n", r"line 1 asks for frames 8 on, 64 of them; of a video file only the whole is read"),
        ("path,start,end\na.mp4,2,1.5\n", r"line 2: from 2 to 1\.5 s there is nothing; the end must come after"),
        ("path,start\na.mp4,-1\n", r"line 2: the start is '-1'; expected seconds, 0 or more"),
        ("path,end\na.mp4,late\n", r"line 2: the end is 'late'; expected seconds"),
        ("path,label\n,wave\n", r"line 2 names no video"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, words):
    tree(tmp_path, "a.mp4", *(f"frames/img_{n:05d}.jpg" for n in (5, 6, 7)))
    with pytest.raises(ValueError, match=words):
        listed(tmp_path, text)


def test_list_in_another_encoding(tmp_path):
    (tmp_path / "list.txt").write_bytes("Müller.mp4".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8 text .*; save the list as UTF-8"):
        find(tmp_path / "list.txt")


names = st.text("ab ,'\"é", min_size=1, max_size=8).filter(lambda s: s == s.strip()).map(lambda s: s + ".mp4")
labels = st.text("xy ,7'\"", min_size=1, max_size=5).filter(lambda s: s == s.strip())


@settings(max_examples=60)
@given(st.lists(st.tuples(names, labels), min_size=1, max_size=4), st.sampled_from("\t,"), st.booleans())
def test_what_csv_writes_is_read_back(rows, separator, header):
    """Any name and label, as Python's csv module quotes them."""
    with tempfile.TemporaryDirectory() as name:
        folder = tree(Path(name), *(path for path, _ in rows))
        text = io.StringIO()
        csv.writer(text, delimiter=separator).writerows([("path", "label")] * header + rows)
        assert listed(folder, text.getvalue()) == rows


def test_filmed_lists(real):
    videos = find(real / "gestures" / "clips.csv")
    assert {item.path for item in videos} == {item.path for item in find(real / "gestures")}
    assert all(item.label == item.path.parent.name for item in videos if item.label)


def test_semicolons_of_a_spreadsheet_separate_columns(tmp_path):
    (tmp_path / "a clip, wide.mp4").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("file;label\na clip, wide.mp4;run\n")
    assert [(item.path.name, item.label) for item in find(tmp_path / "list.csv")] == [("a clip, wide.mp4", "run")]
