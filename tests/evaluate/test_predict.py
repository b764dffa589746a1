"""Predictions are what a test says about the same frames; smoothing and segments are what they are defined to be."""

import csv
import io
import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from rigged import COLOURS, DATA, PATCH, film, plain, viewer
from scipy import ndimage

from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense
from tubelet.data.sources import Item
from tubelet.data.stream import frames_of_stream
from tubelet.data.video import frames_at, probe
from tubelet.data.writing import write
from tubelet.evaluate.features import centred
from tubelet.evaluate.predict import (
    Found,
    Prediction,
    Segment,
    overall,
    pieces,
    predict,
    segments,
    smoothed,
    to_csv,
    to_json,
    to_srt,
)
from tubelet.evaluate.views import Viewer, Views, multi_view
from tubelet.evaluate.windows import windows, windows_of_stream
from tubelet.overlay import drawn, overlay, shortened

CLASSES = Labels("class", COLOURS)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two seconds each of red, green and blue."""
    return film(tmp_path_factory.mktemp("three") / "three.mp4", "red green blue")


def along(path, data=DATA, **how) -> list[Prediction]:
    """Predictions of the rigged network along a file."""
    return list(predict(viewer(data), windows(path, data, **how, prepare=partial(centred, size=data.size)), str(path)))


def test_whole_frames_are_seen_as_their_middle(tmp_path):
    """16 pixels wide is the network's; here the outer parts of wider frames have another colour."""
    colours = np.zeros((12, 32, 64, 3), np.uint8)
    colours[..., 0] = 200  # red at both sides, green in the middle
    colours[:, :, 16:48] = (0, 200, 0)
    write(tmp_path / "wide.mp4", colours, 10)
    assert DATA.size[0] == DATA.size[1]
    whole = list(predict(viewer(DATA), windows(tmp_path / "wide.mp4", DATA), "wide.mp4"))
    assert [one.outputs for one in whole] == [one.outputs for one in along(tmp_path / "wide.mp4")]
    assert {one.top(CLASSES, 1)[0][0] for one in whole} == {"green"}


def made(rows: list[list[float]], length: float = 1.0, stride: float = 1.0) -> list[Prediction]:
    """Predictions at equal distances."""
    return [Prediction(n * stride, n * stride + length, tuple(row)) for n, row in enumerate(rows)]


@pytest.mark.parametrize(("frames", "stride"), [(24, None), (25, 0.8), (40, 1.6)])
def test_a_test_of_one_view_is_the_prediction_of_the_middle_window(tmp_path, frames, stride):
    torch.manual_seed(0)
    net = torch.nn.Linear(384, 3)
    path = tmp_path / "noise.mp4"
    write(path, np.random.default_rng(0).integers(0, 255, (frames, 36, 64, 3), np.uint8), 10)
    looked = Viewer(lambda patches: net(patches).mean(1), DATA, PATCH)
    (row,) = multi_view(looked, [Item(path, "red")], Views(1, 1)).rows
    found = list(predict(looked, windows(path, DATA, None, stride, prepare=partial(centred, size=DATA.size)), ""))
    middle = [one for one in found if one.start == pytest.approx((frames - 8) // 2 / 10)]
    assert len(found) > 1
    assert list(middle[0].outputs) == row.outputs  # bit for bit


def test_colours_are_found_where_they_are(three):
    found = segments(along(three, stride=0.2), CLASSES)
    assert [segment.label for segment in found] == ["red", "green", "blue"]
    assert [segment.start for segment in found] == pytest.approx([0, 2, 4], abs=0.2)
    assert found[-1].end == pytest.approx(6)
    assert all(a.end == b.start for a, b in pairwise(found))
    with open(three, "rb") as file:
        clips = windows_of_stream(frames_of_stream(file), DATA, stride=0.2, prepare=partial(centred, size=DATA.size))
        streamed = list(predict(viewer(), clips, "stream"))
    assert [one.outputs for one in streamed] == [one.outputs for one in along(three, stride=0.2)]


def test_a_short_video_is_one_window(tmp_path):
    (one,) = along(film(tmp_path / "short.mp4", "green", frames=3))
    assert one.short
    assert one.top(CLASSES, 1)[0][0] == "green"
    assert one.end == pytest.approx(0.3)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 99])
def test_smoothing_over_windows_by_a_loop(width):
    table = np.random.default_rng(0).random((9, 3))
    wanted = [np.mean([table[j] for j in range(9) if abs(i - j) <= width // 2], axis=0) for i in range(9)]
    found = smoothed(made(table.tolist()), width)
    np.testing.assert_allclose([one.outputs for one in found], wanted)


def test_smoothing_over_seconds_is_scipys():
    table = np.random.default_rng(0).random((40, 3))
    found = np.array([one.outputs for one in smoothed(made(table.tolist(), stride=0.5), 1.0, "gauss")])
    wanted = ndimage.gaussian_filter1d(table, 2.0, axis=0, truncate=8.0)
    np.testing.assert_allclose(found[16:-16], wanted[16:-16], atol=1e-6)


def test_smoothing_that_cannot_be():
    assert smoothed([], 3) == []
    for amount, kind in ((0, "mean"), (0, "gauss")):
        with pytest.raises(ValueError, match="smoothing"):
            smoothed(made([[1.0]]), amount, kind)


def test_segments_written_by_hand():
    a, b = [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]
    found = segments(made([a, a, b, b, a]), CLASSES)
    assert [replace(segment, probability=round(segment.probability, 9)) for segment in found] == [
        Segment(0, 2, "blue", 0.8),
        Segment(2, 4, "green", 0.7),
        Segment(4, 5, "blue", 0.8),
    ]
    overlapping = made([a, a, b, b, a], length=3)
    assert [(s.start, s.end) for s in segments(overlapping, CLASSES)] == [(0, 3), (3, 5), (5, 7)]
    apart = made([a, a], length=1, stride=5)
    assert [(s.start, s.end) for s in segments(apart, CLASSES)] == [(0, 1), (5, 6)]
    assert [s.label for s in segments(made([a, a, b, b, a]), CLASSES, threshold=0.75)] == ["blue", "blue"]
    assert [s.label for s in segments(made([a, a, b, b, a]), CLASSES, shortest=2)] == ["blue", "green"]
    assert segments([], CLASSES) == []


def test_segments_of_several_classes_at_once():
    labels = Labels("classes", COLOURS)
    found = segments(made([[0.9, 0.6, 0.1], [0.9, 0.1, 0.1], [0.9, 0.6, 0.1]]), labels)
    assert [(s.start, s.end, s.label) for s in found] == [(0, 1, "green"), (0, 3, "blue"), (2, 3, "green")]
    with pytest.raises(ValueError, match="values have no segments"):
        segments(made([[1.0]]), Labels("values", ("speed",)))


def test_pieces_cover_the_video_without_overlap():
    found = pieces(made([[0.0]] * 5, length=4, stride=1))
    assert found[0][0] == 0
    assert found[-1][1] == 8
    assert all(a[1] == b[0] for a, b in pairwise(found))


def test_files():
    windows_of_it = made([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    one = Found("a, b.mp4", windows_of_it, segments(windows_of_it, CLASSES))
    read = json.loads(to_json([one], COLOURS))
    assert read["names"] == list(COLOURS)
    assert read["videos"][0]["segments"][1] == {"start": 1, "end": 2, "label": "green", "probability": 0.7}
    assert read["videos"][0]["windows"][0]["outputs"] == [0.8, 0.1, 0.1]
    rows = list(csv.DictReader(io.StringIO(to_csv([one], COLOURS))))
    assert rows[0] == {"path": "a, b.mp4", "start": "0.000", "end": "1.000", "label": "blue", "probability": "0.8000"}
    assert to_srt(one.segments).split("\n\n")[1] == "2\n00:00:01,000 --> 00:00:02,000\ngreen (70 %)\n"
    values = list(csv.reader(io.StringIO(to_csv([replace(one, segments=[])], COLOURS))))
    assert values[0] == ["path", "start", "end", *COLOURS]
    assert values[2] == ["a, b.mp4", "1.000", "2.000", "0.2", "0.7", "0.1"]
    assert overall(windows_of_it).outputs == pytest.approx((0.5, 0.4, 0.1))
    assert overall(windows_of_it).top(CLASSES, 2) == [("blue", 0.5), ("green", pytest.approx(0.4))]


def test_overlay_says_what_is_seen_and_leaves_the_rest(three, tmp_path):
    big = tmp_path / "big.mp4"
    write(big, np.concatenate([plain(colour, 10, 241 // 2 * 2, 320) for colour in ("red", "blue")]), 10)
    data = replace(DATA, clip=Dense(4, stride=1))
    found = along(big, data)
    frames = list(drawn(big, found, CLASSES))
    original = frames_at(big, range(20)).frames.numpy()
    assert len(frames) == 20
    assert all(np.array_equal(frame[:120], first[:120]) for frame, first in zip(frames, original))  # the upper half
    panels = [frame[120:, :160] for frame in frames]
    assert all(np.abs(panel.astype(int) - first[120:, :160]).max() > 100 for panel, first in zip(panels, original))
    assert np.array_equal(panels[0], panels[1])  # the same window
    out = overlay(big, found, CLASSES, tmp_path / "seen.mp4")
    assert (probe(out).frames, probe(out).width, probe(out).height) == (20, 320, 240)
    assert np.abs(frames_at(out, [0]).frames[0].numpy().astype(int) - frames[0]).mean() < 3


def test_long_names_are_shortened():
    from tubelet.overlay import font_of

    font = font_of(12)
    assert shortened("run", font, 100) == "run"
    short = shortened("pretending to put something into something", font, 100)
    assert short.endswith("…")
    assert font.getlength(short) <= 100
