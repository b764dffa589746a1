"""Who is who over time: paths that are known, gaps, births and deaths, and pairs against all that there could be."""

from itertools import permutations

import numpy as np
import pytest

from tubelet.data.keyframes import Box
from tubelet.data.tracks import assigned, tracked

SIDE = 0.1


def at(x: float, y: float, score: float = 1.0) -> Box:
    """A square whose upper left corner is there."""
    return Box((x, y, x + SIDE, y + SIDE), score=score)


def people(frames, **settings) -> list[list[str | None]]:
    """The names of the boxes of each frame, from the left."""
    found = list(tracked(frames, **settings))
    return [[box.person for box in sorted(boxes, key=lambda box: box.corners)] for _, boxes in found]


def best_sum(gains: np.ndarray) -> float:
    """The largest sum over all ways to pair, by trying them all."""
    small = gains if gains.shape[0] <= gains.shape[1] else gains.T
    return max(
        sum(small[row, column] for row, column in enumerate(order))
        for order in permutations(range(small.shape[1]), small.shape[0])
    )


@pytest.mark.parametrize("seed", range(60))
def test_pairs_have_the_largest_sum_of_all(seed):
    rng = np.random.default_rng(seed)
    gains = rng.random(rng.integers(1, 7, 2))
    gains[rng.random(gains.shape) < 0.4] = 0
    if seed % 3 == 0:
        gains = gains.round(1)  # ties
    pairs = assigned(gains)
    assert sum(gains[pair] for pair in pairs) == pytest.approx(best_sum(gains))
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(gains[pair] > 0 for pair in pairs)


def test_nothing_to_pair():
    assert assigned(np.zeros((0, 3))) == assigned(np.zeros((3, 0))) == assigned(np.zeros((2, 3))) == []


def test_ties_are_decided_by_order():
    assert assigned(np.ones((3, 3))) == [(0, 0), (1, 1), (2, 2)]
    frames = [(0.0, [at(0, 0)]), (0.2, [at(0.02, 0), at(0, 0.02)])]  # both as near
    assert [[box.person for box in boxes] for _, boxes in tracked(frames)] == [["1"], ["1", "2"]]


def test_two_who_cross_stay_who_they_are():
    frames = [(turn / 5, [at(0.1 + 0.04 * turn, 0.3), at(0.7 - 0.04 * turn, 0.33)]) for turn in range(16)]
    found = [boxes for _, boxes in tracked(frames)]
    assert all([box.person for box in boxes] == ["1", "2"] for boxes in found)
    assert found[-1][0].corners[0] > found[-1][1].corners[0]  # they are past each other


def test_the_order_of_boxes_within_a_frame_says_nothing():
    rng = np.random.default_rng(0)
    frames, truth = [], []
    for turn in range(30):
        boxes = [at(0.02 * turn + 0.1 * (turn % 2) * 0.1, 0.25 * lane) for lane in range(4)]
        order = rng.permutation(4)
        frames.append((turn / 10, [boxes[lane] for lane in order]))
        truth.append(order.tolist())
    found = [[box.person for box in boxes] for _, boxes in tracked(frames)]
    names = dict(zip(truth[0], found[0]))
    assert [[names[lane] for lane in order] for order in truth] == found


def test_fast_ones_are_expected_where_their_velocity_brings_them():
    # A step of 0.08 leaves an overlap of 1/9: too little, were nothing expected. The first step is slow enough.
    x = np.cumsum([0, 0.03, 0.05, 0.07, 0.08, 0.08, 0.08, 0.08])
    assert people([(turn / 5, [at(place, 0.1)]) for turn, place in enumerate(x)]) == [["1"]] * 8


def test_who_is_missed_for_a_while_was_there_meanwhile():
    seen = [0, 1, 2, 5, 6]
    frames = [(turn / 5, [at(0.1 + 0.02 * turn, 0.2, 0.9 - 0.1 * turn)] if turn in seen else []) for turn in range(7)]
    found = list(tracked(frames))
    assert [[box.person for box in boxes] for _, boxes in found] == [["1"]] * 7
    for turn, (seconds, (box,)) in enumerate(found):
        assert seconds == turn / 5
        assert box.corners == pytest.approx(at(0.1 + 0.02 * turn, 0.2).corners)
    assert [found[turn][1][0].score for turn in (3, 4)] == pytest.approx([0.4, 0.4])  # the lower of 0.7 and 0.4


def test_who_is_away_for_longer_is_somebody_new():
    frames = [(float(turn), [at(0.1, 0.1)] if turn in (0, 1, 4, 5) else []) for turn in range(6)]
    assert people(frames, patience=2.0) == [["1"], ["1"], [], [], ["2"], ["2"]]
    assert people(frames, patience=3.0) == [["1"]] * 6


def test_who_leaves_and_who_comes():
    frames = [(turn / 5, [at(0.1, 0.1)] * (turn < 6) + [at(0.6, 0.1)] * (turn >= 3)) for turn in range(9)]
    assert people(frames) == [["1"]] * 3 + [["1", "2"]] * 3 + [["2"]] * 3


def test_short_tracks_are_left_out_and_leave_no_gap_in_the_numbers():
    flicker = at(0.8, 0.8)
    frames = [
        (turn / 5, [flicker] * (turn in (0, 1)) + [at(0.1, 0.1)] + [at(0.4, 0.4)] * (turn > 4)) for turn in range(9)
    ]
    assert people(frames, shortest=3) == [["1"]] * 5 + [["1", "2"]] * 4
    assert people(frames, shortest=2)[0] == ["2", "1"] or people(frames, shortest=2)[0] == ["1", "2"]
    assert people(frames, shortest=6) == [["1"]] * 9


def test_frames_come_out_soon_and_little_is_kept():
    taken = 0

    def source():
        nonlocal taken
        for turn in range(100_000):
            taken += 1
            boxes = [at(0.1, 0.1)] * (turn % 3 < 2) + [at(0.5, 0.5)] * (turn % 40 == 0)
            yield turn / 5, boxes

    late = 0
    for given, (seconds, boxes) in enumerate(tracked(source(), patience=1.0, shortest=3), 1):
        late = max(late, taken - given)
        assert [box.person for box in boxes] == ["1"]
        assert seconds == (given - 1) / 5
        if given == 2000:
            break
    assert late <= 7  # patience is five frames


def test_frames_without_anybody_come_out_as_they_are():
    assert list(tracked([(0.0, []), (1.0, [])])) == [(0.0, []), (1.0, [])]
    assert list(tracked([])) == []


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"least": 0}, "least=0"), ({"patience": -1}, "patience=-1"), ({"shortest": 0}, "shortest=0")],
)
def test_settings_that_cannot_be_used_are_told(settings, word):
    with pytest.raises(ValueError, match=word):
        list(tracked([(0.0, [])], **settings))


def test_times_have_to_ascend():
    with pytest.raises(ValueError, match="do not ascend"):
        list(tracked([(1.0, []), (1.0, [])]))


@pytest.mark.parametrize("seed", range(3))
def test_moving_squares_of_a_video_keep_their_names(seed):
    """Six squares that bounce, found with an error, each in nine of ten frames, among boxes that are nothing."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0.1, 0.8, (6, 2)), rng.uniform(-0.03, 0.03, (6, 2))
    truth, frames = [], []
    for turn in range(120):
        bounce = (place + speed < 0) | (place + speed > 1 - SIDE)
        speed = np.where(bounce, -speed, speed)
        place = place + speed
        there = [who for who in range(6) if rng.random() < 0.9]
        noise = [at(*rng.uniform(0, 0.9, 2)) for _ in range(rng.random() < 0.1)]
        frames.append((turn / 10, [at(*(place[who] + rng.normal(0, 0.003, 2)).tolist()) for who in there] + noise))
        truth.append(place.copy())
    switches, missed, wrong, names = 0, 0, 0, {}
    for (_, boxes), places in zip(tracked(frames, shortest=4), truth):
        corners = np.array([box.corners[:2] for box in boxes]).reshape(-1, 2)
        distance = np.abs(places[:, None] - corners).max(-1)
        apart = np.abs(places[:, None] - places).max(-1) + np.eye(6) > SIDE / 2
        for who in range(6):
            near = int(distance[who].argmin()) if len(boxes) else -1
            if near < 0 or distance[who, near] > 0.04:
                missed += 1
            if near < 0 or distance[who, near] > 0.04 or not apart[who].all():
                continue
            switches += names.get(who, boxes[near].person) != boxes[near].person
            names[who] = boxes[near].person
        wrong += sum(distance.min(0) > 0.06)
    assert missed <= 0.02 * 720
    assert wrong == 0
    assert switches <= 15  # where they bounce, or lie over each other; if none were expected anywhere, 24 to 29
