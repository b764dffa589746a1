"""A test over key frames finds what a rigged network must find, whatever the frames' shape and the batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rigged_boxes import COLOURS, DATA, LEFT, PATCH, RIGHT, colour_under, detector, drawn, film, looker

from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense
from tubelet.data.video import frames_at
from tubelet.data.writing import write
from tubelet.evaluate import key_frames as module
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.frame_map import frame_map
from tubelet.evaluate.key_frames import enlarged, look, look_at, over_key_frames
from tubelet.nn.patches import unpatchify
from tubelet.targets import NORMS


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[Item]:
    """Key frames of videos of three shapes."""
    folder = tmp_path_factory.mktemp("films")
    return [*film(folder / "wide.mp4"), *film(folder / "tall.mp4", 96, 64), *film(folder / "odd.mp4", 64, 106)]


def found_in(items: list[Item], **options) -> list[Detection]:
    """What the rigged network finds in all of them."""
    return [one for row in look_at(looker(), items, **options) for one in row.detections]


def mean(found, items) -> float:
    return frame_map(found, items, COLOURS).mean


def test_true_boxes_give_all_and_wrong_ones_less(items):
    found = found_in(items)
    assert [(one.video, one.stamp, one.seconds) for one in found[::2]] == [
        (item.key.video, item.key.stamp, item.key.seconds) for item in items
    ]
    for one, box in zip(found, [box for item in items for box in item.key.boxes], strict=True):
        assert one.box == box  # as it was, not enlarged
        said = dict(zip(COLOURS, one.probabilities))
        assert said.pop(box.labels[0]) > 0.9
        assert max(said.values()) < 0.1
    assert mean(found, items) == 100

    def moved(item: Item, by: float) -> Item:
        boxes = tuple(replace(box, corners=(box.corners[0] + by, *box.corners[1:])) for box in item.key.boxes)
        return replace(item, key=replace(item.key, boxes=boxes))

    assert mean(found_in([moved(item, 0.11) for item in items]), items) == 100  # overlap: 0.56
    assert mean(found_in([moved(item, 0.2) for item in items]), items) == 0
    swapped = [replace(item, key=replace(item.key, boxes=item.key.boxes[:1])) for item in items]
    assert mean(found_in(swapped), items) == pytest.approx(50)  # nobody looked at the other half


def test_frames_keep_their_shape_and_are_filled_with_the_mean_colour():
    rng = np.random.default_rng(0)
    for height, width, scaled, filled in (
        ((40, 60, (20, 30), (24, 32))),
        ((60, 40, (30, 20), (32, 24))),
        ((20, 33, (20, 33), (24, 40))),
        ((16, 16, (20, 20), (24, 24))),
    ):
        frames = torch.from_numpy(rng.integers(0, 255, (4, height, width, 3), np.uint8))
        for norm, (average, deviation) in NORMS.items():
            one = looker(side=20, norm=norm)
            video = one.prepared(frames, ()).video
            assert video.shape == (3, 4, *scaled)
            whole = F.interpolate(
                frames.permute(0, 3, 1, 2).float(), scaled, mode="bilinear", antialias=True, align_corners=False
            )
            assert (video.transpose(0, 1).float() - whole).abs().max() < 1.01  # rounded twice
            values, grid = one.inputs(video[None])
            assert filled == (8 * grid.H, 8 * grid.W)
            back = unpatchify(values, grid)[0].double().numpy()
            wanted = (video.numpy() / 255 - np.reshape(average, (3, 1, 1, 1))) / np.reshape(deviation, (3, 1, 1, 1))
            np.testing.assert_allclose(back[:, :, : scaled[0], : scaled[1]], wanted, atol=1e-5)
            assert not back[:, :, scaled[0] :].any()
            assert not back[:, :, :, scaled[1] :].any()


def test_boxes_are_enlarged_and_cut_to_the_picture():
    boxes = [Box((0.25, 0.5, 0.75, 0.75)), Box((0.0, 0.0, 0.1, 1.0)), Box((0.5, 0.5, 1.0, 1.0))]
    wanted = []
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        width, height = x2 - x1, y2 - y1
        wanted.append(
            [
                200 * max(x1 - 0.05 * width, 0),
                100 * max(y1 - 0.025 * height, 0),
                200 * min(x2 + 0.05 * width, 1),
                100 * min(y2 + 0.025 * height, 1),
            ]
        )
    np.testing.assert_allclose(enlarged(boxes, 100, 200, (0.1, 0.05)), wanted, rtol=1e-6)
    assert enlarged([], 100, 200, (0.1, 0.05)).shape == (0, 4)


def test_the_network_looks_at_the_enlarged_box_in_the_scaled_frame():
    asked = []

    def network(patches, corners, which, grid):
        asked.append((corners.tolist(), which.tolist(), grid))
        return torch.zeros(len(corners), 3)

    frames = torch.from_numpy(drawn(64, 96, 4, "red", "green"))
    look(looker(network, enlarge=(0.5, 0.5)), frames, [Box(LEFT), Box(RIGHT)])
    ((corners, which, grid),) = asked
    # 32 high, 48 wide; LEFT is 6 to 18 across and 8 to 24 down, 12 by 16: 3 and 4 more at each side
    assert corners == [[3, 4, 21, 28], [27, 4, 45, 28]]
    assert (which, grid.H, grid.W) == ([0, 0], 4, 6)


@pytest.mark.parametrize("batch", [2, 3, 16])
def test_one_by_one_is_the_same_as_in_batches(items, batch):
    network = detector()
    mixed = [items[n] for n in (0, 2, 4, 1, 3, 5)]
    alone = [look_at(looker(network, batch=1), [item])[0].detections for item in mixed]
    sizes = []

    def noted(patches, corners, which, grid):
        sizes.append((len(patches), grid.H, grid.W))
        return network(patches, corners, which, grid)

    together = look_at(looker(noted, batch=batch), mixed)
    assert [row.item for row in together] == list(range(6))
    for one, other in zip(alone, together):
        for a, b in zip(one, other.detections, strict=True):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
            assert replace(a, probabilities=()) == replace(b, probabilities=())
    spread = np.array([d.probabilities for row in together for d in row.detections]).std(0)
    assert (spread > 1e-3).all()  # the network tells boxes apart
    assert {(count, *size) for count, *size in sizes} == {(2, 4, 6), (2, 6, 4), (2, 4, 7)}  # whatever is asked for


def test_filling_up_changes_nothing_that_is_seen():
    """Frames whose edges are whole cubes, and the same with a margin of cubes that they are filled up to."""
    frames = torch.from_numpy(drawn(64, 104, 4, "red", "green"))
    exact, boxes = looker(side=64), [Box(LEFT), Box(RIGHT), Box((0.9, 0.9, 1.0, 1.0))]
    before = look(exact, frames, boxes)
    cut = look(
        exact,
        frames[:, :, :100],
        [Box((x1 * 1.04, y1, min(x2 * 1.04, 1), y2)) for x1, y1, x2, y2 in (box.corners for box in boxes)],
    )
    torch.testing.assert_close(before, cut, atol=1e-4, rtol=0)


def test_a_moment_is_seen_with_what_is_around_it(items):
    one = looker()
    for item in items[:2]:
        at = round(10 * item.key.seconds)
        clip = frames_at(item.path, [at - 3, at - 1, at + 1, at + 3]).frames
        wanted = look(one, clip, item.key.boxes)
        (row,) = look_at(one, [item])
        assert [list(found.probabilities) for found in row.detections] == wanted.tolist()


@pytest.mark.parametrize("count", [101, 300])
def test_very_many_boxes_in_a_frame(items, count):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    boxes = tuple(Box(tuple(row)) for row in corners.tolist())
    key = KeyFrame(0.5, boxes, "wide", "many")
    one = looker(detector())
    (row, other) = look_at(one, [replace(items[0], key=key), items[1]])
    assert [found.box for found in row.detections] == list(boxes)
    clip = module.clip_of(items[0], DATA.clip).frames
    for place in (0, 99, 100, count - 1):
        wanted = look(one, clip, boxes[place : place + 1])[0].tolist()
        assert row.detections[place].probabilities == pytest.approx(wanted, abs=1e-5)
    assert len(other.detections) == 2


def test_more_boxes_than_go_at_once_stay_with_their_clips():
    rng = np.random.default_rng(0)
    one, clips = looker(detector()), []
    for left, right in (("red", "green"), ("blue", "red")):
        corners = np.sort(rng.random((100, 2, 2)), axis=1).reshape(100, 4)
        frames = torch.from_numpy(drawn(32, 48, 4, left, right))
        clips.append(one.prepared(frames, [Box(tuple(row)) for row in corners.tolist()]))
    for together, clip in zip(one(clips), clips, strict=True):
        torch.testing.assert_close(together, one([clip])[0], atol=1e-5, rtol=0)
    assert one([clip._replace(boxes=()) for clip in clips])[1].shape == (0, 3)


def test_what_cannot_be_read_has_no_detections_and_the_others_stay(items, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    late = replace(items[0], key=replace(items[0].key, seconds=99.0, stamp="0099"))
    rows = look_at(looker(), [items[0], Item(bad, key=items[0].key), late, items[1]])
    assert [len(row.detections) for row in rows] == [2, 0, 0, 2]
    assert "bad.mp4" in rows[1].error
    assert "has no moment 99 s" in rows[2].error
    assert [rows[0].error, rows[3].error] == [None, None]


def test_without_boxes_nothing_is_read(tmp_path):
    empty = Item(tmp_path / "nowhere.mp4", key=KeyFrame(1.0, (), "nowhere", "0001"))
    (row,) = look_at(looker(), [empty])
    assert (row.detections, row.error) == ((), None)


def test_workers_and_processes_find_the_same(items, monkeypatch):
    done = []
    wanted = look_at(looker(), items, progress=lambda *now: done.append(now))
    assert done[-1] == (6, 6)
    assert look_at(looker(), items, workers=1) == wanted
    rows = []
    for rank in range(2):  # as two processes would share them
        monkeypatch.setattr(module, "share", lambda count, rank=rank: range(rank, count, 2))
        rows += look_at(looker(), items)
    assert sorted(rows, key=lambda row: row.item) == wanted


def test_movies_that_are_cut_into_seconds(items, tmp_path):
    """Two files of a second each, as the one of two seconds; at the ends the nearest frame stands in."""
    whole = frames_at(items[0].path, list(range(20))).frames.numpy()
    for second in range(2):
        write(tmp_path / f"{second:04d}.mp4", whole[10 * second : 10 * second + 10], 10, options={"crf": "4"})
    found = found_in([replace(item, path=tmp_path) for item in items[:2]])
    for one, other in zip(found, found_in(items[:2]), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.05)
    missing = replace(items[0], path=tmp_path, key=replace(items[0].key, seconds=7.0))
    assert "has no file of second 7" in look_at(looker(), [missing])[0].error


def test_boxes_that_were_found_and_true_ones(items):
    people = [replace(item, key=replace(item.key, boxes=(Box(LEFT, score=0.9),))) for item in items[1:]]
    results = over_key_frames(looker(), items, people)
    assert results.boxes == "found"
    assert [len(row.detections) for row in results.rows] == [0, 1, 1, 1, 1, 1]
    assert [row.key for row in results.rows] == [item.key for item in items]
    # red: three of six boxes are at the left, one of which nobody looked at; green never; blue always
    assert results.counted().per_class == pytest.approx({"red": 100 * 2 / 6, "green": 0.0, "blue": 100.0})
    true = over_key_frames(looker(), items)
    assert (true.boxes, true.counted().mean) == ("true", 100.0)
    some = over_key_frames(looker(), items, evaluated=("red",), excluded={("wide", "0000"), ("odd", "0001")})
    assert (len(some.rows), some.excluded) == (4, 2)
    assert some.counted().boxes == {"red": 4}


def test_what_does_not_fit_comes_before_the_work(items, monkeypatch):
    monkeypatch.setattr(module, "clip_of", lambda *_, **__: pytest.fail("read"))
    unknown = replace(items[0], key=replace(items[0].key, boxes=(Box(LEFT, ("purple",)),)))
    with pytest.raises(ValueError, match="'purple' is not in the class list"):
        over_key_frames(looker(), [unknown])
    with pytest.raises(ValueError, match="'swim' is not in the class list"):
        over_key_frames(looker(), items, evaluated=("swim",))
    other = [replace(item, key=replace(item.key, video="another")) for item in items]
    with pytest.raises(ValueError, match=r"none of the 6 key frames has boxes that were found: \('wide', '0000'\)"):
        over_key_frames(looker(), items, other)
    with pytest.raises(ValueError, match="two key frames are called '0000' of 'wide'"):
        over_key_frames(looker(), [*items, items[0]])
    with pytest.raises(ValueError, match="at least one key frame"):
        look_at(looker(), [])
    with pytest.raises(ValueError, match=r"Dense.* use sampling\.Around|clips around them"):
        look_at(looker(data=replace(DATA, clip=Dense(4))), items)
    with pytest.raises(ValueError, match="fine-tune first"):
        look_at(looker(data=replace(DATA, labels=None)), items)


def test_networks_that_do_not_fit(items):
    with pytest.raises(ValueError, match=r"wide\.mp4: the network has 3 outputs for 2 classes"):
        look_at(looker(data=replace(DATA, labels=Labels("classes", ("red", "green")))), items[:1])
    broken = looker(lambda *how: colour_under(*how) * float("nan"))
    with pytest.raises(ValueError, match=r"wide\.mp4: the network gives NaN"):
        look_at(broken, items[:1])


def test_grey_frames(items):
    seen = []

    def network(patches, corners, which, grid):
        seen.append(patches.shape)
        return torch.zeros(len(corners), 3)

    (row,) = look_at(looker(network, replace(DATA, channels=1)), items[:1])
    assert len(row.detections) == 2
    assert seen == [(1, 2 * 4 * 6, PATCH[0] * PATCH[1] * PATCH[2])]
