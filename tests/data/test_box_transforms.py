"""Boxes go the way of the frames: against boxes that are found again in the pixels, and loops over the equations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data.augment import ColourJitter, RandAugment
from tubelet.data.box_transforms import BoxJitter, boxes_of, carried
from tubelet.data.datasets import Data, Dataset
from tubelet.data.index import VideoError
from tubelet.data.items import Item
from tubelet.data.keyframes import Box, KeyFrame
from tubelet.data.labels import Labels
from tubelet.data.loader import batches
from tubelet.data.sampling import Around, Dense
from tubelet.data.transforms import CentreCrop, MultiScaleCrop, Place, RandomCrop, RandomResizedCrop, Window, resized
from tubelet.data.vectors import Vectors
from tubelet.data.video import write

WIDTH, HEIGHT, FRAMES = 160, 120, 30


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A video with a white rectangle on black that stands still, and its item: pixels tell where the box is."""
    path = tmp_path_factory.mktemp("boxes") / "white.mp4"
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, 40:88, 48:112] = 255
    write(path, frames, 10, options={"crf": "4"})
    box = Box((48 / WIDTH, 40 / HEIGHT, 112 / WIDTH, 88 / HEIGHT), ("stand",), "p")
    return Item(path, key=KeyFrame(1.5, (box,), "white", "1.5"))


def white(clip):
    """The box of what is brighter than half in the middle frame of a clip "c t h w"."""
    rows, columns = np.nonzero(clip[:, clip.shape[1] // 2].float().mean(0).numpy() > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize(
    "crop",
    [MultiScaleCrop(), RandomResizedCrop((0.3, 1.0)), CentreCrop(), RandomCrop(120), Place(2, 3)],
    ids=lambda crop: type(crop).__name__,
)
@pytest.mark.parametrize("cache", [0, 96])
def test_a_box_lies_where_the_pixels_say_it_does(filmed, crop, cache):
    data = Data(Around(4, 2), (64, 64), crop, flip=0.5, labels=Labels("classes", ("run", "stand")), cache=cache)
    dataset = Dataset([filmed], replace(data, repeats=2))
    dataset.fill_cache()
    mirrored = 0
    for position in range(12):
        sample = dataset[position]
        assert sample.boxes is not None
        assert len(sample.boxes) == len(sample.video) == 2
        for clip, boxes in zip(sample.video, sample.boxes):
            if not len(boxes.corners):
                assert not (clip > 127).any()
                continue
            found, told = white(clip), boxes.corners[0].numpy()
            assert np.abs(found - told).max() <= 1.6, (found, told)  # a pixel of the edge is grey
            assert boxes.labels.tolist() == [[0.0, 1.0]]
            mirrored += bool(abs((told[0] + told[2]) / 2 - 32) > 2)
    if isinstance(crop, RandomResizedCrop):
        assert mirrored


def test_a_mirror_moves_boxes_as_it_moves_pixels():
    """A box left of the middle is right of it afterwards; against the pixels of a mirrored picture."""
    frames = torch.zeros(1, 40, 60, 3, dtype=torch.uint8)
    frames[:, 10:20, 5:15] = 255
    window = Window(4, 2, 32, 48)
    shown = resized(frames, window, (16, 24)).flip(2)
    rows, columns = np.nonzero(shown[0, ..., 0].numpy() > 127)
    told = carried(np.array([[5.0, 10, 15, 20]]), window, (16, 24), flip=True)[0]
    assert np.abs(told - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 0.6


@given(
    st.tuples(*[st.floats(-50, 250)] * 4),
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(8, 80), st.integers(8, 80)),
    st.booleans(),
)
def test_carried_is_the_equation(corners, region, flip):
    """x' = (x - left) * W / width, a mirror turns x into W - x and swaps the two; then all are cut to the picture."""
    x1, y1, x2, y2 = min(corners[0], corners[2]), min(corners[1::2]), max(corners[0], corners[2]), max(corners[1::2])
    top, left, height, width = region
    expected = []
    for x, y in ((x1, y1), (x2, y2)):
        expected.append(((x - left) * 30 / width, (y - top) * 20 / height))
    (a, b), (c, d) = expected
    if flip:
        a, c = 30 - c, 30 - a
    expected = [min(max(a, 0), 30), min(max(b, 0), 20), min(max(c, 0), 30), min(max(d, 0), 20)]
    found = carried(np.array([[x1, y1, x2, y2]], dtype=float), region, (20, 30), flip)[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found[0] <= found[2]
    assert found[1] <= found[3]


def test_boxes_that_a_crop_does_not_show_are_left_out_with_their_labels():
    seen, hidden = Box((0.5, 0.5, 0.9, 0.9), ("run",)), Box((0.0, 0.0, 0.2, 0.2), ("stand",))
    labels = Labels("classes", ("run", "stand"))
    boxes = boxes_of(
        KeyFrame(0, (hidden, seen, hidden)), (100, 100), (40, 40, 60, 60), (30, 30), False, labels, None, rng()
    )
    assert boxes.corners.tolist() == [[5.0, 5.0, 25.0, 25.0]]
    assert boxes.labels.tolist() == [[1.0, 0.0]]
    none = boxes_of(KeyFrame(0, (hidden,)), (100, 100), (40, 40, 60, 60), (30, 30), False, labels, None, rng())
    assert none.corners.shape == (0, 4)
    assert none.labels.shape == (0, 2)


def test_key_frames_without_anybody_and_with_more_than_a_hundred_are_fine(filmed):
    many = tuple(Box((0.1, 0.1, 0.2 + 0.005 * n, 0.5), ("run",)) for n in range(130))
    for key in (KeyFrame(1.0, ()), KeyFrame(1.0, many)):
        data = Data(Around(4), (32, 32), CentreCrop(), labels=Labels("classes", ("run",)))
        boxes = Dataset([replace(filmed, key=key)], data)[0].boxes[0]
        assert boxes.corners.shape == (len(key.boxes), 4)
        assert boxes.labels.shape == (len(key.boxes), 1)


def test_edges_move_within_their_bounds_and_reach_them():
    """Each edge for itself: up to 0.2 of the width outwards and 0.1 inwards, 0.1 and 0.05 of the height."""
    boxes = np.tile([[10.0, 20, 50, 100]], (4000, 1))  # 40 wide, 80 high
    moved = BoxJitter()(boxes, rng()) - boxes
    for edge, low, high in ((0, -8, 4), (1, -8, 4), (2, -4, 8), (3, -4, 8)):
        assert moved[:, edge].min() >= low
        assert moved[:, edge].max() <= high
        assert moved[:, edge].min() < low + 0.2
        assert moved[:, edge].max() > high - 0.2
        assert abs(moved[:, edge].mean() - (low + high) / 2) < 0.2
    correlations = np.corrcoef(moved.T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.06
    wider = (moved[:, 2] - moved[:, 0]).mean() / 40  # by which tests enlarge boxes: 10 % of the width
    assert wider == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("outwards", "inwards"), [((-0.1, 0), (0, 0)), ((0, 0), (0.5, 0))])
def test_jitter_that_would_turn_boxes_over_is_refused(outwards, inwards):
    with pytest.raises(ValueError, match="turn over"):
        BoxJitter(outwards, inwards)


def test_jittered_boxes_are_the_same_for_the_same_position_and_other_ones_otherwise(filmed):
    data = Data(Around(4), (32, 32), CentreCrop(), boxes=BoxJitter())
    first, again, other = (Dataset([filmed], data, seed)[3].boxes[0].corners for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batches_have_the_boxes_of_each_clip_and_parts_of_batches_theirs(filmed):
    empty = replace(filmed, key=KeyFrame(1.0, ()))
    data = Data(Around(4), (32, 32), CentreCrop(), labels=Labels("classes", ("stand",)), repeats=2)
    batch = next(batches(Dataset([filmed, empty], data), 2, 0, 1, workers=1))
    counts = [len(boxes.corners) for boxes in batch.boxes]
    assert sorted(counts) == [0, 0, 1, 1]
    assert batch.labels is None
    part = batch.clips(2, 4)
    assert [len(boxes.corners) for boxes in part.boxes] == counts[2:]
    assert len(part.to(torch.device("meta")).boxes) == 2


def test_a_moment_beyond_the_video_is_an_error_of_the_file(filmed):
    late = replace(filmed, key=KeyFrame(7.0, filmed.key.boxes))
    data = Data(Around(4), (32, 32), CentreCrop())
    with pytest.raises(VideoError, match=r"no moment 7 s: its last frame is shown at 2\.9 s"):
        Dataset([late], data)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": Dense(4)}, "clips around them"),
        ({"augment": RandAugment()}, "whose places it would change"),
        ({"motion": Vectors()}, "which need none"),
    ],
)
def test_settings_that_do_not_go_with_boxes_are_named(filmed, change, message):
    data = replace(Data(Around(4), (32, 32), CentreCrop()), **change)
    with pytest.raises(ValueError, match=message):
        Dataset([filmed], data)


def test_boxes_for_some_videos_only_are_refused(filmed):
    data = Data(Around(4), (32, 32), CentreCrop())
    with pytest.raises(ValueError, match="1 of 2 have no boxes"):
        Dataset([filmed, Item(filmed.path)], data)
    with pytest.raises(ValueError, match="these videos have none"):
        Dataset([Item(filmed.path)], replace(data, boxes=BoxJitter()))


# ---------------------------------------------------------------------------- around a moment


@pytest.mark.parametrize(("frames", "stride"), [(16, 4), (8, 3), (5, 2), (1, 1)])
def test_the_clip_around_a_moment_is_that_of_the_released_reader(frames, stride):
    """As it counts: half of frames x stride before the moment, half from it on; of these every stride-th from 1 on."""
    seconds, moment = np.arange(400) / 25, 200 / 25
    half = frames * stride // 2
    span = [*range(200 - half, 200), *range(200, 200 + frames * stride - half)]
    start = 1 if frames * stride % 2 == 0 and stride > 1 else 0
    expected = span[start::stride][:frames]
    found = Around(frames, stride).at(seconds, moment)
    assert found.tolist() == expected


def test_at_the_ends_of_a_video_frames_are_repeated_and_the_moment_stays_in_place():
    seconds = np.arange(50) / 25
    assert Around(4, 4).at(seconds, 0.0).tolist() == [0, 0, 1, 5]
    assert Around(4, 4).at(seconds, 49 / 25).tolist() == [42, 46, 49, 49]


def test_a_moment_between_frames_is_the_frame_on_screen():
    seconds = np.arange(50) / 10
    assert Around(2, 2).at(seconds, 2.0).tolist() == Around(2, 2).at(seconds, 2.09).tolist() == [19, 21]


def test_where_the_rate_varies_a_step_is_a_time():
    seconds = np.concatenate([np.arange(20) / 20, 1 + np.arange(20) / 5])
    mean = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    found = Around(4, 2).at(seconds, 1.0)
    times = 1.0 + np.array([-3, -1, 1, 3]) * mean
    expected = [max(i for i, s in enumerate(seconds) if s <= t + 1e-6) for t in times]
    assert found.tolist() == expected


# ---------------------------------------------------------------------------- colours


def test_shifted_colours_are_those_of_the_standard_library():
    """colorsys on a few pixels: hue is a circle, saturation and value are cut."""
    import colorsys

    frames = torch.from_numpy(rng(3).integers(0, 256, (2, 6, 7, 3), dtype=np.uint8))
    jitter = ColourJitter(0.2, 0.3, 0.1)
    shifts = np.rint(255 * rng(5).uniform(-np.array([0.2, 0.3, 0.1]), [0.2, 0.3, 0.1]))
    found, off = jitter(frames, rng(5)), []
    for before, after in zip(frames.view(-1, 3).tolist(), found.view(-1, 3).tolist()):
        h, s, v = colorsys.rgb_to_hsv(*(level / 255 for level in before))
        h, s, v = (h + shifts[0] / 256) % 1, s + shifts[1] / 255, v + shifts[2] / 255
        expected = colorsys.hsv_to_rgb(h, min(max(s, 0), 1), min(max(v, 0), 1))
        off.append(np.abs(np.array(after) - 255 * np.array(expected)))
    assert np.max(off) <= 12  # hue has 256 steps for the 1530 of bytes
    assert np.mean(off) <= 2


def test_all_frames_of_a_clip_are_shifted_alike_and_nothing_by_nothing():
    frames = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    frames[..., 0] = 150
    shifted = ColourJitter()(frames, rng(1))
    assert (shifted == shifted[:1]).all()
    assert not torch.equal(shifted, frames)
    same = ColourJitter(0, 0, 0)(frames, rng(1))
    assert (same.int() - frames.int()).abs().max() <= 1  # the way to HSV and back
    grey = ColourJitter(value=0.5)(frames[..., :1], rng(1))
    assert grey.shape == (3, 4, 4, 1)
    with pytest.raises(ValueError, match="hue"):
        ColourJitter(hue=2)


def test_a_random_crop_is_the_output_at_the_scale_of_the_short_side():
    """224 of 256 pixels: 7/8 of the short side; every place of the spare pixels comes."""
    places = set()
    for seed in range(300):
        window = RandomCrop(256).window(128, 200, (224, 224), rng(seed))
        assert (window.height, window.width) == (112, 112)
        assert 0 <= window.top <= 16
        assert 0 <= window.left <= 88
        places.add(window.left)
    assert {0, 88} <= places
    assert RandomCrop(100).window(50, 50, (224, 224), rng())[2:] == (50, 50)
