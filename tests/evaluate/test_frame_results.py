"""Results of a test over key frames: told, written, and read again."""

import json
from dataclasses import replace

import pytest
from rigged_boxes import COLOURS, LEFT, RIGHT

from tubelet.data.keyframes import Box, KeyFrame
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.frame_results import (
    FrameResults,
    Seen,
    from_lines,
    is_of_key_frames,
    lines_for_people,
    summary,
    to_lines,
    unread_lines,
)


@pytest.fixture
def results() -> FrameResults:
    """Three key frames of three films: one right, one wrong, one that cannot be read. Nobody is blue."""
    rows = []
    for place, (place_found, error) in enumerate([(LEFT, None), (RIGHT, None), (None, "c.mp4 is no video")]):
        video = "abc"[place]
        key = KeyFrame(1.5, (Box(LEFT, ("red", "green"), "p1"),), video, "0001")
        found = (Detection(video, "0001", 1.5, Box(place_found, score=0.75), (1 / 3, 0.5, 0.1)),) if place_found else ()
        rows.append(Seen(place, f"{video}.mp4", key, found, error, ("damaged",) * (place == 0)))
    return FrameResults(COLOURS, COLOURS, "found", rows, 4)


def test_numbers_can_be_had_again_from_the_file(results, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(to_lines(results)))
    assert from_lines(path) == results
    assert is_of_key_frames(path)
    assert len(path.read_text().splitlines()) == 4
    assert from_lines(path).counted().per_class == pytest.approx(results.counted().per_class, nan_ok=True)


def test_unreadable_key_frames_count_and_are_said(results):
    # surest first, both equally sure: the first is true, the second false; of three boxes one is found
    assert results.counted().per_class == pytest.approx(
        {"red": 100 / 3, "green": 100 / 3, "blue": float("nan")}, nan_ok=True
    )
    assert unread_lines(results) == [
        "1 of 3 key frames cannot be read; nothing is found there, which counts:",
        "  c.mp4 is no video",
    ]
    assert unread_lines(replace(results, rows=results.rows[:2])) == []
    with pytest.raises(ValueError, match=r"none of the 1 key frames could be read.*c\.mp4 is no video"):
        replace(results, rows=results.rows[2:]).counted()


def test_what_people_read(results):
    lines = lines_for_people(results, results.counted())
    assert lines[0] == (
        "3 key frames of 3 videos with 3 boxes (4 key frames do not count); looked at 2 found boxes; in brackets the "
        "95 % interval"
    )
    assert lines[1].startswith("  frame mAP at IoU 0.5    33.33 %  (0.00 to ")
    assert lines[2] == "  over 2 classes; 1 others have no box here"
    assert lines[3:] == ["  red     33.33 %  of 3 boxes", "  green   33.33 %  of 3 boxes"]


def test_of_many_classes_the_best_and_the_worst_are_told(results):
    names = tuple(f"c{n:02d}" for n in range(40))
    rows = []
    for place, name in enumerate(names):
        key = KeyFrame(1.5, (Box(LEFT, (name,)),), "a", f"{place:04d}")
        hot = tuple(0.9 * (place >= 20) if one == name else 0.1 for one in names)
        rows.append(Seen(place, "a.mp4", key, (Detection("a", key.stamp, 1.5, Box(LEFT), hot),)))
    lines = lines_for_people(many := FrameResults(names, names, "true", rows), many.counted())
    assert "to" not in lines[1]  # one video has no interval
    assert lines[3] == "the 5 best classes:"
    assert [line.split()[0] for line in lines[4:9]] == [f"c{n}" for n in range(20, 25)]
    assert len(lines) == 3 + 1 + 5 + 1 + 10


def test_what_programs_read(results):
    said = json.loads(json.dumps(summary(results, results.counted())))
    assert said["numbers"]["frame_map"]["value"] == pytest.approx(100 / 3)
    assert (said["key_frames"], said["boxes"], said["detections"], said["excluded"]) == (3, 3, 2, 4)
    assert said["classes"][0] == {
        "name": "red",
        "boxes": 3,
        "detections": 2,
        "average_precision": pytest.approx(100 / 3),
    }
    assert said["unreadable"] == [{"path": "c.mp4", "at": "0001", "error": "c.mp4 is no video"}]


def test_other_files_are_named_with_the_line(results, tmp_path):
    path = tmp_path / "test.jsonl"
    with pytest.raises(FileNotFoundError, match="no such file"):
        from_lines(path)
    lines = list(to_lines(results))
    for text, line in (("", 1), ("{}\n", 1), (lines[0] + lines[1] + lines[2][:50], 3), (lines[0] + "[]\n", 2)):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"test\.jsonl, line {line}: not a line of results"):
            from_lines(path)
    path.write_text(lines[0] + lines[1].replace("0.5, 0.1]", "0.5]"))
    with pytest.raises(ValueError, match="2 probabilities for 3 classes"):
        from_lines(path)
    path.write_text('{"labels": {}}')
    assert not is_of_key_frames(path)
