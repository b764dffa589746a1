"""Is this data fit to train on: what is said of good, bad, short, doubled and mislabelled files."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from dataclasses import replace

import av
import pytest
from films import moving

from tubelet.data import check as module
from tubelet.data.check import check
from tubelet.data.findings import Report, Row
from tubelet.data.flow import Flow
from tubelet.data.sampling import Dense
from tubelet.data.sources import Item, find
from tubelet.data.vectors import Vectors
from tubelet.data.video import write


@pytest.mark.parametrize(("level", "workers"), [("open", 0), ("demux", 0), ("decode", 0), ("decode", 2)])
def test_good_files(clips, level, workers):
    done = []
    report = check(find(clips), level, workers=workers, progress=lambda *at: done.append(at))
    assert report.problems == ()
    assert report.duplicates == ()
    assert done == [(n, 7) for n in range(1, 8)]
    assert [row.path for row in report.rows] == [str(item.path) for item in find(clips)]
    for row in report.rows:
        assert (row.codec, row.width, row.height, row.label) == (
            "h264",
            64,
            48,
            os.path.basename(os.path.dirname(row.path)),
        )
        assert row.fps == pytest.approx(10)
        assert row.duration == pytest.approx(row.frames / 10, abs=0.11)
    assert sorted(row.frames for row in report.rows) == list(range(20, 48, 4))
    totals = report.totals()
    assert totals["videos"] == 7
    assert totals["frames"] == sum(range(20, 48, 4))
    assert totals["labels"] == {"a": 4, "b": 3}
    text = "\n".join(report.lines())
    assert "7 videos" in text
    assert "h264 (7)" in text
    assert "64x48 (7)" in text
    assert "20 to 44, median 32" in text
    assert "2, 3 (b) to 4 (a) videos each" in text
    assert "problems    none" in text


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("open", {"zero", "text", "truncated", "audio"}),
        ("demux", {"zero", "text", "truncated", "audio"}),
        ("decode", {"zero", "text", "truncated", "audio", "flipped"}),
    ],
)
def test_bad_files(bad, level, expected):
    report = check([Item(path) for path in bad.values()], level, Dense(4, stride=2), workers=0)
    assert {os.path.basename(row.path)[:-4] for row in report.problems} == expected
    for row in report.problems:
        assert row.problem
    if level != "open":
        short = {os.path.basename(row.path)[:-4] for row in report.rows if row.short}
        assert short == {"one", "short"}
        assert any("too short   2 for 4 frames at stride 2" in line for line in report.lines())
    if level == "decode":
        (flipped,) = (row for row in report.rows if "flipped" in row.path)
        assert flipped.damaged == 7  # as many as were spoilt
        assert flipped.problem == "7 packets or frames are damaged"


@pytest.mark.parametrize("level", ["open", "demux"])
def test_files_without_motion_vectors_are_named(clips, tmp_path, level):
    """By their codec, or for being key frames all through, which their headers do not tell."""
    shutil.copy(clips / "a" / "0.mp4", tmp_path / "good.mp4")
    write(tmp_path / "other.avi", moving(8), 10, codec="mjpeg", pixels="yuvj420p")
    write(tmp_path / "keys.mp4", moving(8), 10, options={"g": "1"})
    items = find(tmp_path)
    lacking = ["other"] if level == "open" else ["keys", "other"]
    for motion, instead in ((Vectors(), "flow is used"), (Vectors(fallback="none"), "their motion stays unknown")):
        report = check(items, level, motion=motion, workers=0)
        names = ", ".join(str(item.path) for item in items if item.path.stem in lacking)
        assert f"vectors     {len(lacking)} of 3 files have none, or too few; {instead}: {names}" in report.lines()
        assert report.problems == ()
        assert report.totals()["vectors"] == 3 - len(lacking)
    assert "vectors     in all files" in check(items[:1], level, motion=Vectors(), workers=0).lines()
    for motion in (None, Flow()):
        assert not [line for line in check(items, level, motion=motion, workers=0).lines() if "vectors" in line]


def test_flow_that_is_not_there_is_asked_for(clips, monkeypatch, tmp_path):
    write(tmp_path / "other.avi", moving(8), 10, codec="mjpeg", pixels="yuvj420p")
    monkeypatch.setitem(sys.modules, "cv2", None)
    lines = check(find(tmp_path), motion=Vectors(), workers=0).lines()
    assert "which needs OpenCV (pip install 'tubelet[flow]')" in "\n".join(lines)


def test_files_that_are_gone(tmp_path):
    (row,) = check([Item(tmp_path / "gone.mp4")], workers=0).problems
    assert "gone.mp4" in row.problem


def test_duplicates(clips, tmp_path):
    first, second = find(clips)[:2]
    for name in ("x", "y"):
        shutil.copy(first.path, tmp_path / f"{name}.mp4")
    shutil.copy(second.path, tmp_path / "z.mp4")
    data = bytearray(second.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "nearly z.mp4").write_bytes(data)  # as long, but not the same
    (tmp_path / "0.mp4").touch()
    (tmp_path / "1.mp4").touch()  # empty files are a problem, not copies of each other
    items = find(tmp_path)
    report = check([*items, items[0]], workers=0)
    assert report.duplicates == ((str(tmp_path / "x.mp4"), str(tmp_path / "y.mp4")),)
    assert f"duplicates  {tmp_path / 'x.mp4'} = {tmp_path / 'y.mp4'}" in report.lines()


honest = module.looked


def deadly(item, how):
    """In a worker, which knows nothing of monkeypatch."""
    if item.group == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(item, how)


def test_a_file_that_crashes_its_process_is_named(clips, monkeypatch):
    items = [replace(item, group="deadly" if place == 1 else None) for place, item in enumerate(find(clips)[:3])]
    monkeypatch.setattr(module, "looked", deadly)
    report = check(items, workers=2)
    (row,) = report.problems
    assert row.path == str(items[1].path)
    assert "the process that read this file died" in row.problem
    assert sum(bool(row.frames) for row in report.rows) == 2


def test_json(clips, bad):
    report = check([*find(clips), Item(bad["text"])], workers=0)
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["totals"]["problems"] == 1
    assert [row["path"] for row in saved["rows"]] == [row.path for row in report.rows]
    first = saved["rows"][0]
    assert (first["codec"], first["width"], first["height"], first["fps"]) == ("h264", 64, 48, 10)


def test_nothing_readable_and_nothing_at_all():
    report = Report("demux", (Row("a.mp4", problem="does not open"),), ())
    assert report.lines()[-2:] == ["problems    1 (1 unreadable)", "  a.mp4: does not open"]
    assert check([], workers=0).lines()[0].startswith("0 videos")


def test_filmed_videos(real):
    report = check(find(real / "everyday"), sampler=Dense(16, stride=4))
    assert report.problems == ()
    assert len(report.totals()["codecs"]) >= 4


def test_files_that_break_off_are_found(tmp_path):
    """The index in front promises more than there is; Matroska's header does too."""
    for name, options in (("front.mp4", {"movflags": "+faststart"}), ("film.mkv", {})):
        with av.open(str(tmp_path / name), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=10, options={"g": "5", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for image in moving(60, 3, 96, 128):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        whole = (tmp_path / name).read_bytes()
        assert check(find(tmp_path / name), workers=0).problems == ()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        (row,) = check(find(tmp_path / name), workers=0).problems
        assert "breaks off after" in row.problem
        assert "of 6.0 seconds" in row.problem
        (tmp_path / name).unlink()


def test_what_is_no_file_is_never_opened(clips, tmp_path):
    shutil.copy(clips / "a" / "0.mp4", tmp_path / "good.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket.mp4"))
        (tmp_path / "device.mp4").symlink_to("/dev/zero")
        report = check(find(tmp_path), "decode", near=True, workers=0)  # in this process: nothing could end it
    said = {os.path.basename(row.path): (row.kind, row.problem) for row in report.problems}
    assert {name: kind for name, (kind, _) in said.items()} == dict.fromkeys(
        ("pipe.mp4", "socket.mp4", "device.mp4"), "not a file"
    )
    for name, what in (("pipe.mp4", "a FIFO"), ("socket.mp4", "a socket"), ("device.mp4", "a device")):
        assert f"is {what}" in said[name][1]


def stuck(item, how):
    """In a worker: a file that never ends, one that goes away, and others."""
    if item.group == "endless":
        time.sleep(600)
    if item.group == "fleeting":
        item.path.unlink()
    return honest(item, how)


def test_files_that_hang_and_files_that_vanish_are_named_and_the_rest_goes_on(clips, monkeypatch, tmp_path):
    for name in "abcd":
        shutil.copy(clips / "a" / "0.mp4", tmp_path / f"{name}.mp4")
    groups = {"b": "endless", "c": "fleeting"}
    items = [replace(item, group=groups.get(item.path.stem)) for item in find(tmp_path)]
    monkeypatch.setattr(module, "looked", stuck)
    report = check(items, workers=2, timeout=2)
    assert [row.kind for row in report.rows] == ["", "hangs", "gone", ""]
    assert "nothing came of it in 2 seconds (--timeout)" in report.rows[1].problem
    assert "is not there (any more)" in report.rows[2].problem
    assert report.duplicates == ((str(tmp_path / "a.mp4"), str(tmp_path / "d.mp4")),)


def test_classes_are_told_with_those_that_are_small():
    labels = ["a"] * 12 + ["b"] * 6 + ["c"] * 3 + [None] * 2
    report = Report("open", tuple(Row(f"{n}.mp4", label) for n, label in enumerate(labels)), ())
    totals = report.totals()
    assert totals["labels"] == {"a": 12, "b": 6, "c": 3}
    assert (totals["imbalance"], totals["small_classes"], totals["unlabelled"]) == (4, {"c": 3}, 2)
    (line,) = (line for line in report.lines() if line.startswith("classes"))
    assert line.endswith("3 (c) to 12 (a) videos each, 4 times; fewer than 5 in 1: c; 2 videos without one")
