"""Boxes as people see them: rims, plates, ways through a video, the bar of time, the sheet."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tubelet.box_pictures
from tubelet.box_pictures import Track, annotated, chosen, crowd_of, sheet, tracks_of
from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.video import VideoError, frames_at, probe
from tubelet.data.writing import write
from tubelet.evaluate.detections import Detection
from tubelet.overlay import on_screen
from tubelet.plates import EDGE, PEOPLE, Mark, colour_of, lines_for, marked, plate_of, rimmed, seat
from tubelet.time_bar import CLASSES, OWN, Presence, clock, lanes_of, time_bar

NAMES = ("walk", "talk to (e.g., self, a person, a group)", "sit")


def detection(seconds: float, corners=(0.2, 0.2, 0.5, 0.8), person: str | None = "1", said=(0.9, 0.1, 0.1)):
    return Detection("a", f"{seconds}", seconds, Box(corners, (), person), said)


def gray(height: int, width: int, shade: int = 90) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def near(picture: np.ndarray, colour: tuple[int, ...], by: int = 40) -> np.ndarray:
    """Where a picture has a colour: rows and columns."""
    return np.argwhere((np.abs(picture.astype(int) - colour) < by).all(-1))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Three seconds of grey, 10 frames a second, of an odd size on the screen (pictures are cut to even ones)."""
    path = tmp_path_factory.mktemp("grey") / "grey.mp4"
    write(path, [gray(180, 320)] * 30, 10, options={"crf": "10"})
    return path


# ---------------------------------------------------------------------------- rims and plates


def test_rims_lie_on_their_corners_and_leave_the_rest():
    colour = PEOPLE[1]
    shown = rimmed(gray(60, 80), np.array([[10.0, 20, 50, 40], [60, 5, 70, 15]]), [colour] * 2, 2)
    rim = near(shown, colour)
    first = rim[rim[:, 1] < 55]
    assert (first.min(0) == (20, 10)).all()
    assert (first.max(0) == (39, 49)).all()
    assert (shown[23:37, 13:47] == 90).all()  # 2 of colour and 1 dark inside
    outside = np.ones((60, 80), bool)
    outside[19:41, 9:51] = outside[4:16, 59:71] = False
    assert (shown[outside] == 90).all()
    assert (shown[19, 10:50] == EDGE).all()


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.floats(-200, 300)] * 4), max_size=5), st.integers(1, 90), st.integers(1, 120))
def test_boxes_anywhere_can_be_drawn(boxes, height, width):
    corners = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]).reshape(-1, 4)
    marks = [Mark(tuple(one), PEOPLE[0], "1", (("walk", 0.5, PEOPLE[2]),)) for one in corners.tolist()]
    assert marked(gray(height, width), marks, 3).shape == (height, width, 3)


def test_plates_stay_inside_of_the_picture_and_apart():
    rng = np.random.default_rng(0)
    for size, people in (((240, 320), 6), ((720, 1280), 12), ((600, 300), 8)):
        height, width = size
        low = rng.uniform(0, [0.8 * width, 0.7 * height], (people, 2))
        boxes = np.concatenate([low, low + np.array([0.12 * width, 0.3 * height])], 1)
        taken: list[tuple] = []
        for place in range(people):
            plate = plate_of("12", PEOPLE[0], ((NAMES[1], 0.5, CLASSES[0]),), 1, 11, 110).size
            _, x, y, hidden = seat(boxes[place], plate, (width, height), np.delete(boxes, place, 0), taken, None)
            assert 0 <= x <= width - plate[0]
            assert 0 <= y <= height - plate[1]
            assert hidden <= 0.05
            taken.append((x, y, x + plate[0], y + plate[1]))


def test_a_plate_is_beside_its_box_and_says_what_is_done():
    mark = Mark((300, 200, 400, 500), PEOPLE[0], "7", (("walk", 0.5, CLASSES[3]),))
    shown = marked(gray(720, 1280), [mark], 3)
    changed = np.argwhere((shown != 90).any(-1))
    plate = changed[changed[:, 0] < 199]
    assert plate[:, 0].max() == 198  # it ends where the dark edge of the rim begins
    assert plate[:, 1].min() in (299, 300)
    assert len(near(shown[150:198], PEOPLE[0])) > 100  # who it is, in the rim's colour
    # Its bar has half the length of what is beside the name: columns of the darkened class colour.
    bar = near(shown[150:198], tuple(0.52 * np.array(CLASSES[3])), 12)
    ends = plate_of("7", PEOPLE[0], mark.said, 3, 20, 300)
    chip = 300 + near(np.asarray(ends.convert("RGB")), PEOPLE[0], 12)[:, 1].max()
    assert bar[:, 1].max() - chip == pytest.approx((plate[:, 1].max() - chip) / 2, abs=2)


def test_a_plate_goes_below_where_there_is_no_room_above():
    mark = Mark((300, 0, 400, 300), PEOPLE[0], "7", (("walk", None, CLASSES[3]),))
    shown = marked(gray(720, 1280), [mark], 3)
    assert (shown[302:320, 300:320] != 90).any()
    assert (shown[:300, :299] == 90).all()


def test_a_plate_stays_on_its_side_from_frame_to_frame():
    before: dict[str, int] = {}
    said = (("walk", 0.5, CLASSES[0]),)
    marked(gray(480, 640), [Mark((200, 5, 300, 200), PEOPLE[0], "a", said)], 2, before)
    there = before["a"]
    marked(gray(480, 640), [Mark((200, 26, 300, 220), PEOPLE[0], "a", said)], 2, before)
    assert before["a"] == there
    fresh: dict[str, int] = {}
    marked(gray(480, 640), [Mark((200, 26, 300, 220), PEOPLE[0], "a", said)], 2, fresh)
    assert fresh["a"] != there  # without a past, the side would have been another


@pytest.mark.parametrize("name", ["走る", "a\nb\x1b[2J", "\udcff", "ع" * 300, "", "🙂"])
def test_any_text_can_be_on_a_plate(name):
    plate = plate_of(name, PEOPLE[0], ((name, 0.3, CLASSES[0]), ("x", None, CLASSES[1])), 2, 12, 100)
    assert plate.width <= 100
    assert plate.height == plate_of("1", PEOPLE[0], (("a", 0.3, CLASSES[0]),) * 2, 2, 12, 100).height


def test_of_labels_without_room_the_number_is_said():
    said = tuple((name, None, CLASSES[0]) for name in NAMES)
    assert plate_of("1", PEOPLE[0], said, 1, 12, 200).width > plate_of("1", PEOPLE[0], said[:1], 1, 12, 200).width
    assert plate_of("1", PEOPLE[0], said, 1, 12, 200).height < plate_of("1", PEOPLE[0], said, 3, 12, 200).height


def test_the_more_people_the_fewer_lines():
    assert lines_for(1, 720, 1280, 3) == 3
    assert lines_for(12, 240, 320, 3) == 1
    assert [lines_for(n, 480, 640, 5) for n in (1, 4, 40)] == sorted(lines_for(n, 480, 640, 5) for n in (1, 4, 40))[
        ::-1
    ]


def test_people_keep_their_colour_and_neighbours_differ():
    assert colour_of("12") == colour_of("12") == colour_of("person_12")
    assert len({colour_of(f"{number}") for number in range(len(PEOPLE))}) == len(PEOPLE)
    assert colour_of("Ada") in PEOPLE


# Machado et al. 2009, severity 1.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("kind", [None, *BLIND])
@pytest.mark.parametrize("palette", [PEOPLE, CLASSES], ids=["people", "classes"])
def test_colours_are_told_apart_by_colour_blind_people(palette, kind):
    from skimage.color import deltaE_ciede2000, rgb2lab

    values = np.array(palette) / 255
    if kind:
        linear = (
            np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ np.array(BLIND[kind]).T
        )
        linear = linear.clip(0, 1)
        values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = rgb2lab(values[None])[0]
    apart = deltaE_ciede2000(lab[:, None], lab[None])
    assert apart[np.triu_indices(len(palette), 1)].min() > 7


# ---------------------------------------------------------------------------- ways


def test_boxes_go_straight_from_one_key_moment_to_the_next():
    rng = np.random.default_rng(1)
    seconds = np.array([0.0, 1.0, 2.0, 4.0])
    corners = np.sort(rng.random((4, 2, 2)), 1).reshape(4, 4)
    track = Track("1", seconds, corners, ((),) * 4, 0.5)
    for time in np.arange(-0.5, 4.5, 0.05):
        expected = corners[0] if time <= 0 else corners[-1]
        for place in range(3):
            if seconds[place] <= time <= seconds[place + 1]:
                part = (time - seconds[place]) / (seconds[place + 1] - seconds[place])
                expected = corners[place] + part * (corners[place + 1] - corners[place])
        assert np.allclose(track.at(time), expected)


def test_long_gaps_are_not_bridged_and_short_ones_are():
    ones = [detection(t) for t in (0, 1, 2, 4, 9, 10)] + [detection(t, person="2") for t in range(11)]
    tracks = tracks_of(sorted(ones, key=lambda one: one.seconds), NAMES, 0.5, 3)
    mine = [track for track in tracks if track.person == "1"]
    assert [(track.start, track.end) for track in mine] == [(0, 4.5), (8.5, 10.5)]
    assert crowd_of(tracks) == 2


def test_whoever_has_no_name_is_there_for_a_moment():
    tracks = tracks_of([detection(1, person=None), detection(1, person=None), detection(3, person=None)], NAMES, 0.5, 3)
    assert [(track.start, track.end) for track in tracks] == [(0, 2), (0, 2), (2, 4)]


def test_what_is_said_is_likely_enough_and_the_likeliest_first():
    (track,) = tracks_of([detection(0, said=(0.6, 0.4, 0.9))], NAMES, 0.5, 3)
    assert track.said == ((("sit", 0.9), ("walk", 0.6)),)
    (track,) = tracks_of([detection(0, said=(0.6, 0.4, 0.9))], NAMES, 0.0, 1)
    assert track.said == ((("sit", 0.9),),)
    with pytest.raises(ValueError, match="probabilities of 2 classes; expected 3"):
        tracks_of([detection(0, said=(0.6, 0.4))], NAMES, 0.5, 3)


def test_the_label_is_that_of_the_nearest_moment():
    (track,) = tracks_of([detection(0, said=(1, 0, 0)), detection(1, said=(0, 0, 1))], NAMES, 0.5, 3)
    assert [track.said[track.nearest(time)][0][0] for time in (0.4, 0.6)] == ["walk", "sit"]
    assert list(track.stretches()) == [(0, 0.5, ("walk",)), (0.5, 1.5, ("sit",))]


# ---------------------------------------------------------------------------- videos


def test_a_video_has_its_people_while_they_are_there(video, tmp_path):
    told = []
    ones = [detection(1.0, (0.1, 0.3, 0.3, 0.9)), detection(1.5, (0.5, 0.3, 0.7, 0.9))]
    out = annotated(video, ones, NAMES, tmp_path / "out.mp4", progress=lambda *at: told.append(at))
    seen = probe(out)
    assert (seen.frames, round(seen.fps, 9), seen.width) == (30, 10, 320)
    assert told[-1] == (30, 30)
    assert len(told) == 30
    frames = frames_at(out, range(30)).frames.numpy()[:, :180]
    lit = [number for number, frame in enumerate(frames) if len(near(frame, colour_of("1"))) > 50]
    assert lit == list(range(8, 18))  # 0.75 s to 1.75 s
    for number in (10, 12, 15):
        rim = near(frames[number][60:], colour_of("1"), 60)
        part = min(max((number / 10 - 1) / 0.5, 0), 1)
        assert rim[:, 1].min() == pytest.approx(320 * (0.1 + 0.4 * part), abs=2)
        assert rim[:, 1].max() == pytest.approx(320 * (0.3 + 0.4 * part) - 1, abs=2)
    quiet = frames[[0, 5, 25]].astype(int)
    assert np.abs(quiet - 90).max() < 12  # nothing is drawn on the picture
    assert not list(tmp_path.glob(".*"))


def test_the_cursor_goes_from_end_to_end(video, tmp_path):
    out = annotated(video, [detection(t) for t in (0, 1, 2, 3)], NAMES, tmp_path / "out.mp4")
    for number in (0, 15, 29):
        frame = frames_at(out, [number]).frames[0].numpy()[180:]
        white = (frame.min(-1) > 200).sum(0)
        assert np.flatnonzero(white > 15).mean() == pytest.approx(11 + 298 * number / 30, abs=1)


def test_a_bar_says_who_does_what_when():
    does = ((2.0, 4.0, ("walk",)), (4.0, 6.0, ("sit",)))
    bar = time_bar([Presence("1", PEOPLE[0], 2.0, 6.0, does)], ["walk", "sit"], 720, 1280, 10.0)
    row = bar.base[bar.top + 3]
    at = lambda time: tuple(row[bar.place(time)])  # noqa: E731
    assert at(3.5) == CLASSES[0]
    assert at(5.0) == CLASSES[1]
    assert at(1.0) == at(7.0)
    assert near(bar.base[bar.top : bar.bottom], PEOPLE[0], 5)[:, 1].min() == bar.place(2.0)
    before, after = bar.at(3.0), bar.at(9.0)
    assert tuple(before[bar.top + 3, bar.place(5.0)]) < CLASSES[1]  # what comes is darker
    assert tuple(after[bar.top + 3, bar.place(5.0)]) == CLASSES[1]
    assert bar.base.shape[0] % 2 == 0


def test_many_people_share_lanes_where_they_never_meet():
    few = [Presence(f"{n}", PEOPLE[0], n, n + 1, ()) for n in range(OWN)]
    assert lanes_of(few) == list(range(OWN))
    many = [Presence(f"{n}", PEOPLE[0], n, n + 1.5, ()) for n in range(40)]
    lanes = lanes_of(many)
    assert max(lanes) == 1
    for one in range(40):
        for other in range(one):
            apart = many[one].start >= many[other].end or many[other].start >= many[one].end
            assert lanes[one] != lanes[other] or apart


def test_clocks():
    assert [clock(0), clock(59.99), clock(75, 5), clock(3723)] == ["0:00.0", "0:59.9", "1:15", "1:02:03"]


@pytest.mark.parametrize("size", [(66, 50), (240, 321), (98, 1000)])
def test_every_size_becomes_a_video(size, tmp_path):
    path = tmp_path / "odd.mp4"
    write(path, [gray(*size)] * 4, 5, pixels="yuv444p")
    ones = [detection(0, person=f"{n}", corners=(n / 30, 0, 1, 1)) for n in range(20)]
    out = probe(annotated(path, ones, NAMES, tmp_path / "out.mp4"))
    assert out.frames == 4
    assert out.width >= 320
    assert out.width == -(-320 // size[1]) * size[1] // 2 * 2


def test_uneven_frames_are_shown_when_they_are_meant(tmp_path):
    import av

    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for time, shade in ((0, 40), (100, 120), (900, 200), (1000, 240)):
            frame = av.VideoFrame.from_ndarray(gray(180, 320, shade), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = probe(path)
    assert source.variable
    out = annotated(path, [detection(0.0, (0.5, 0.5, 0.7, 0.7))], NAMES, tmp_path / "out.mp4")
    seen = frames_at(out, range(4)).frames.numpy()[:, 5, 5, 0].tolist()
    shown = [[40, 120, 200, 240][int((source.seconds <= n / source.fps + 1e-6).sum()) - 1] for n in range(4)]
    assert probe(out).frames == source.frames
    assert float(probe(out).fps) == pytest.approx(source.fps, rel=1e-3)
    assert seen == pytest.approx(shown, abs=6)


def test_long_videos_are_never_all_in_memory(video, tmp_path, monkeypatch):
    frames: list[weakref.ref] = []
    most = 0

    def watched(index):
        nonlocal most
        for time, frame in on_screen(index):
            frames.append(weakref.ref(frame))
            most = max(most, sum(one() is not None for one in frames))
            yield time, frame
            del frame

    monkeypatch.setattr(tubelet.box_pictures, "on_screen", watched)
    annotated(video, [detection(t) for t in range(4)], NAMES, tmp_path / "out.mp4")
    assert len(frames) == 30
    assert most <= 4


def test_what_cannot_be_read_leaves_nothing_behind(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    with pytest.raises(VideoError):
        annotated(bad, [], NAMES, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_nobody_and_people_after_the_end_are_no_trouble(video, tmp_path):
    assert probe(annotated(video, [], NAMES, tmp_path / "a.mp4")).frames == 30
    assert probe(annotated(video, [detection(99)], NAMES, tmp_path / "b.mp4")).frames == 30


# ---------------------------------------------------------------------------- sheets


def item(path: str | Path, seconds: float, *labels: tuple[str, ...]) -> Item:
    return Item(Path(path), key=KeyFrame(seconds, tuple(Box((0.1, 0.2, 0.5, 0.9), each, "1") for each in labels)))


def test_every_class_is_on_a_sheet_where_that_can_be():
    items = [item(f"{n % 5}.mp4", n // 5, ("common",)) for n in range(500)]
    items += [item("3.mp4", 200 + n, (f"rare {n}", f"rarer {n}")) for n in range(20)]
    picked = chosen(items, 24)
    assert len(picked) == 24
    labels = {name for _, key in picked for box in key.boxes for name in box.labels}
    assert len(labels) == 41
    assert len(chosen(items, 4)) == 4
    assert [(str(one.path), key.seconds) for one, key in picked] == sorted((str(i.path), k.seconds) for i, k in picked)


def test_a_sheet_is_even_over_videos_and_moments_and_prefers_those_with_boxes():
    items = [item(f"{video}.mp4", second, *[("walk",)] * (second % 2)) for video in range(3) for second in range(100)]
    picked = chosen(items, 12)
    for video in range(3):
        seconds = [key.seconds for one, key in picked if one.path.name == f"{video}.mp4"]
        assert len(seconds) == 4
        assert min(np.diff(seconds)) > 10
        assert all(second % 2 for second in seconds)
    assert len(chosen(items[:2], 12)) == 2


def test_a_sheet_shows_frames_their_boxes_and_counts(video, tmp_path):
    items = [item(video, second, ("walk", "sit")) for second in (0.5, 1.5)] + [item(tmp_path / "gone.mp4", 1, ("sit",))]
    out = sheet(items, tmp_path / "sheet.png")
    with Image.open(out) as image:
        picture = np.asarray(image.convert("RGB"))
    assert len(near(picture, colour_of("1"), 3)) > 500
    bars = near(picture[-200:], CLASSES[0], 3)
    rows = [bars[bars[:, 0] == row, 1] for row in np.unique(bars[:, 0])]
    lengths = sorted({int(np.ptp(row)) + 1 for row in rows})
    assert len(lengths) == 2
    assert lengths[0] / lengths[1] == pytest.approx(2 / 3, abs=0.02)
    assert sheet([], tmp_path / "empty.png").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_sheet_takes_moments_of_movies_that_are_cut_into_seconds(tmp_path):
    movie = tmp_path / "movie"
    movie.mkdir()
    for second, shade in ((902, 60), (903, 200)):
        write(movie / f"{second:04d}.mp4", [gray(120, 160, shade)] * 10, 10)
    out = sheet([item(movie, 902, ("walk",)), item(movie, 903, ("walk",))], tmp_path / "sheet.png")
    with Image.open(out) as image:
        picture = np.asarray(image.convert("RGB"))
    assert len(near(picture, (60,) * 3, 6)) > 20000
    assert len(near(picture, (200,) * 3, 6)) > 20000
