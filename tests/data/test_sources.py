"""Folders and lists: what is found, in which order, and what is said when nothing is."""

import csv
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data.sources import find, scan


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
    tree(tmp_path, "a.jpg", "x/b.jpg", "c.pdf", ".hidden.mp4")
    with pytest.raises(ValueError, match=r"no videos in .*: it has 2 x \.jpg, 1 x \.pdf; expected .*\.mp4"):
        find(tmp_path)
    with pytest.raises(
        ValueError, match=r"c\.pdf is neither a folder, nor a list \(\.txt, \.csv, \.tsv\), nor a video"
    ):
        find(tmp_path / "c.pdf")


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
        ("frames 0 300\n", "line 1 names a folder of frames: frames; tubelet reads videos"),
        ("frames 300 7\n", "line 1 names a folder of frames"),
        ("a.mp4 8 64\n", r"line 1 asks for frames 8 on, 64 of them; only whole videos"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, words):
    tree(tmp_path, "a.mp4", "frames/img_00001.jpg")
    with pytest.raises(ValueError, match=words):
        listed(tmp_path, text)


def test_list_in_another_encoding(tmp_path):
    (tmp_path / "list.txt").write_bytes("Müller.mp4".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8 text .*; save the list as UTF-8"):
        find(tmp_path / "list.txt")


names = st.text("ab ,'\"é", min_size=1, max_size=8).filter(lambda s: s == s.strip()).map(lambda s: s + ".mp4")
labels = st.text("xy ,7'\"", min_size=1, max_size=5).filter(lambda s: s == s.strip())


@settings(max_examples=60, deadline=None)
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
