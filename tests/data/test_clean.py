"""Lists without what is wrong: read back they have nothing wrong; nothing is moved, deleted or overwritten."""

import csv
import shutil
from pathlib import Path

import pytest
from films import moving

from tubelet.data.check import check
from tubelet.data.clean import refused, write_clean
from tubelet.data.items import Item
from tubelet.data.sources import find
from tubelet.data.split import write_list
from tubelet.data.video import write


@pytest.fixture
def mixed(clips, bad, tmp_path) -> Path:
    """Good, unreadable, damaged and doubled files in class folders, and what leaks in test/."""
    folder = tmp_path / "mixed"
    shutil.copytree(clips, folder)
    shutil.copy(bad["flipped"], folder / "a" / "flipped.mp4")
    shutil.copy(bad["text"], folder / "a" / "text, 'quoted'.mp4")
    shutil.copy(folder / "a" / "0.mp4", folder / "b" / "copy.mp4")
    (tmp_path / "test").mkdir()
    shutil.copy(folder / "b" / "5.mp4", tmp_path / "test" / "other name.mp4")
    return folder


def test_a_clean_list_has_no_problems_and_says_what_is_left_out(mixed, tmp_path):
    before = {path: path.read_bytes() for path in mixed.rglob("*.mp4")}
    items, others = find(mixed), find(tmp_path / "test")
    report = check(items, "decode", against=others, workers=0)
    assert report.kinds() == {"damaged": 1, "unreadable": 1, "leak": 1, "duplicate": 1}
    out = tmp_path / "clean.csv"
    assert write_clean(out, items, report) == 6
    clean = find(out)
    wanted = ["a/0", "a/2", "a/4", "a/6", "b/1", "b/3"]
    assert [item.path.relative_to(mixed).with_suffix("").as_posix() for item in clean] == wanted
    assert [item.label for item in clean] == [name[0] for name in wanted]
    again = check(clean, "decode", against=others, near=True, workers=0)
    assert (again.found, again.near, again.leaks) == ({}, (), ())
    with (tmp_path / "clean.left-out.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "flipped.mp4": "damaged",
        "text, 'quoted'.mp4": "unreadable",
        "copy.mp4": "duplicate",
        "5.mp4": "leak",
    }
    assert rows["copy.mp4"]["label"] == "b"
    assert "labelled 'b' and not 'a'" in rows["copy.mp4"]["reason"]
    assert "other name.mp4" in rows["5.mp4"]["reason"]
    assert {path: path.read_bytes() for path in mixed.rglob("*.mp4")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.csv", "clean.left-out.csv", "mixed", "test"]


def test_parts_and_groups_stay_in_the_list(clips, tmp_path):
    items = [Item(clips / "a" / "0.mp4", "x", 0.5, 1.25, "me"), Item(clips / "a" / "0.mp4", "y", None, 0.5)]
    write_clean(tmp_path / "clean.csv", items, check(items, workers=0))
    assert find(tmp_path / "clean.csv") == items


def test_nothing_is_overwritten(clips, tmp_path):
    items = find(clips)
    report = check(items, workers=0)
    for name in ("there.csv", "other.left-out.csv"):
        (tmp_path / name).write_text("mine")
    for out in ("there.csv", "other.csv"):
        with pytest.raises(ValueError, match="is there already, and nothing is overwritten"):
            write_clean(tmp_path / out, items, report)
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        refused(tmp_path / "list.txt")
    with pytest.raises(ValueError, match="is not a folder"):
        refused(tmp_path / "gone" / "list.csv")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("there.csv", "other.left-out.csv"), "mine"
    )


def test_a_list_of_nothing_and_names_that_no_list_holds_are_refused(clips, bad, tmp_path):
    items = [Item(bad["text"])]
    with pytest.raises(ValueError, match=r"all of the 1 videos have problems, 1 \(1 unreadable\)"):
        write_clean(tmp_path / "none.csv", items, check(items, workers=0))
    shutil.copy(clips / "a" / "0.mp4", tmp_path / "two\nlines.mp4")
    items = [Item(clips / "a" / "0.mp4"), Item(tmp_path / "two\nlines.mp4")]
    with pytest.raises((ValueError, FileNotFoundError)):
        write_clean(tmp_path / "odd.csv", items, check(items[:1], workers=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two\nlines.mp4"]


def test_leaks_are_the_same_file_the_same_bytes_a_copy_and_the_same_group(clips, tmp_path):
    write(tmp_path / "again.mp4", moving(20, 0), 10, options={"crf": "30"})
    shutil.copy(clips / "b" / "1.mp4", tmp_path / "bytes.mp4")
    test = [Item(clips / "a" / "6.mp4"), Item(tmp_path / "bytes.mp4"), Item(tmp_path / "again.mp4", group="p1")]
    items = [*find(clips), Item(clips / "a" / "6.mp4", start=0.5, end=1.0)]
    items[5] = Item(items[5].path, group="p1")
    report = check(items, against=test, near=True, workers=0)
    assert report.leaks is not None
    told = {leak.row: leak.why.removesuffix(leak.other).strip() for leak in report.leaks}
    near = told.pop(0)
    assert near.startswith("shows the same (likeness")
    assert told == {3: "is", 4: "has the same bytes as", 5: "is of the group 'p1', as", 7: "is"}
    assert [number for number, kinds in report.found.items() if kinds[0][0] == "leak"] == [0, 3, 4, 5, 7]
    assert len([line for line in report.lines() if line.startswith("leak        ")]) == 5
    plain = check(items, against=test, workers=0)
    assert plain.leaks is not None
    assert {leak.row for leak in plain.leaks} == {3, 4, 5, 7}
    later = [Item(clips / "a" / "6.mp4", start=0.0, end=1.0)], [Item(clips / "a" / "6.mp4", start=1.0)]
    assert check(later[0], against=later[1], near=True, workers=0).leaks == ()  # other seconds of the file
    assert check(items, workers=0).leaks is None


def test_a_list_keeps_to_its_columns(clips, tmp_path):
    items = find(clips)
    write_list(tmp_path / "plain.csv", items)
    write_clean(tmp_path / "clean.csv", items, check(items, workers=0))
    assert (tmp_path / "clean.csv").read_text() == (tmp_path / "plain.csv").read_text()
