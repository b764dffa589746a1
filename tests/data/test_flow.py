"""Optical flow, and vectors of clips that are encoded anew: known displacements, both ways, through crops and flips."""

import subprocess
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from tubelet.data.flow import Flow, one_thread, recoded
from tubelet.data.synthetic import pixels, shifted, texture
from tubelet.data.transforms import CentreCrop, Crop, MultiScaleCrop, Place, RandomResizedCrop, carried, flipped
from tubelet.types import Motion

SIDE = 48  # pixels of a square


def natural(size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture with coarse and fine parts, as photographs have."""
    return 0.5 + 0.12 * sum(texture(size, grain, rng) for grain in (2, 4, 8))


def scene(
    velocities: Sequence[tuple[int, int]], frames: int = 4, stride: int = 1, size: int = 128, seed: int = 1
) -> tuple[torch.Tensor, np.ndarray]:
    """Squares on still ground, (down, right) pixels a frame, and where each one's corner is in each frame."""
    rng = np.random.default_rng(seed)
    ground = pixels(natural(size, rng))
    drawn, places = np.repeat(ground[None], frames, 0), []
    for number, velocity in enumerate(velocities):
        square = pixels(natural(SIDE, rng))
        middle = np.array([size // 2, (2 * number + 1) * size // len(velocities) // 2]) - SIDE // 2
        corners = middle + np.outer(np.arange(frames) * stride - (frames - 1) * stride // 2, velocity)
        for frame, (row, column) in zip(drawn, corners):
            frame[row : row + SIDE, column : column + SIDE] = square
        places.append(corners)
    return torch.from_numpy(drawn), np.array(places)


def inside(motion: Motion, corner: np.ndarray, t: int, future: bool) -> np.ndarray:
    """(x, y), the median of the blocks that lie in a square."""
    rows, columns = (slice(-(-edge // motion.block), (edge + SIDE) // motion.block) for edge in corner.tolist())
    field, known = (motion.to_next, motion.has) if future else (motion.to_previous, motion.had)
    assert known[t].all()
    return field[:, t, rows, columns].flatten(1).median(1).values.numpy()


def check(motion: Motion, places: np.ndarray, within: float) -> None:
    """Both directions of all squares."""
    last = len(motion.had) - 1
    assert not motion.had[0].any()
    assert not motion.has[last].any()
    for corners in places:
        for t in range(last + 1):
            for other, future in ((t + 1, True), (t - 1, False)):
                if 0 <= other <= last:
                    expected = (corners[other] - corners[t])[::-1]
                    np.testing.assert_allclose(inside(motion, corners[t], t, future), expected, atol=within)


@pytest.mark.parametrize("speed", ["fast", "medium"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("velocity", [(0, 1), (1, -2), (-3, 0), (4, 4), (0, -5)], ids=str)
def test_a_square_on_still_ground(velocity, stride, speed):
    frames, places = scene([velocity], 4, stride)
    motion = Flow(speed=speed)(frames)
    assert motion.to_next.shape == (2, 4, 16, 16)
    assert (motion.block, motion.exact) == (8, True)
    check(motion, places, 0.5)
    assert motion.to_next.flatten(2).median(2).values.abs().max() < 0.5  # most of the picture is ground


def test_two_squares_in_opposite_directions():
    frames, places = scene([(2, 3), (-2, -5)], 4)
    check(Flow()(frames), places, 0.5)


@pytest.mark.parametrize(("down", "right"), [(1.5, -2.0), (0.0, 7.3), (-10.0, 4.0)])
def test_a_camera_that_pans(down, right):
    """What moves is the whole picture, between pixels too. Blocks whose content leaves it are looked at by nobody."""
    picture = natural(160, np.random.default_rng(0))
    frames = np.stack([pixels(shifted(picture, 20 - down * t, 20 - right * t, 120)) for t in range(3)])
    motion = Flow()(torch.from_numpy(frames))
    for field, sign in ((motion.to_next[:, :2], 1), (motion.to_previous[:, 1:], -1)):
        middle = field[:, :, 3:-3, 3:-3] - sign * torch.tensor([right, down]).view(2, 1, 1, 1)
        assert middle.abs().flatten(1).median(1).values.max() < 0.5
        assert middle.abs().flatten(1).quantile(0.9, dim=1).max() < 0.5


def test_a_zoom():
    """By 4 % a frame: a point at x from the middle moves by 0.04 x."""
    picture = pixels(natural(200, np.random.default_rng(0)))

    def zoomed(scale: float) -> np.ndarray:
        matrix = np.array([[scale, 0, 64 - 100 * scale], [0, scale, 64 - 100 * scale]])
        return cv2.warpAffine(picture, matrix, (129, 129), flags=cv2.INTER_LINEAR)

    frames = torch.from_numpy(np.stack([zoomed(1.04**t) for t in range(3)]))
    motion = Flow(block=3)(frames)
    centres = torch.arange(43) * 3 + 1 - 64.0
    expected = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))
    for field, rate in ((motion.to_next[:, 1], 0.04), (motion.to_previous[:, 1], 1 / 1.04 - 1)):
        error = (field - rate * expected).abs()[:, 4:-4, 4:-4]
        assert error.median() < 0.15
        assert error.flatten().quantile(0.95) < 0.5


@pytest.mark.parametrize("picture", ["texture", "nothing"])
def test_what_stands_still_moves_by_nothing_and_is_known(picture):
    frames = scene([(0, 0)], 3)[0] if picture == "texture" else torch.full((3, 64, 80, 3), 90, dtype=torch.uint8)
    motion = Flow()(frames)
    assert motion.to_next.abs().max() < 0.05
    assert motion.to_previous.abs().max() < 0.05
    assert motion.had[1:].all()
    assert motion.has[:-1].all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(112, 112), (160, 144)], ids=str)
@pytest.mark.parametrize("crop", [CentreCrop(), Place(1, 3), MultiScaleCrop(), RandomResizedCrop()], ids=str)
def test_through_crop_resize_and_flip(crop: Crop, size, flip):
    """Where the square goes in the clip, worked out from the window."""
    frames, places = scene([(2, -4)], 3)
    view, (top, left, height, width) = crop.cut(frames, size, np.random.default_rng(5))
    motion = carried(Flow(block=4)(frames), (128, 128), (top, left, height, width), size, 8, flip)
    alone = Flow()(flipped(view) if flip else view)  # flow of what came out, as another way to know
    right, down = -4 * size[1] / width * (-1 if flip else 1), 2 * size[0] / height
    for t in range(3):
        row, column = ((places[0, t] + 8) - (top, left)) * (size[0] / height, size[1] / width)
        rows, columns = (32 * out / edge for out, edge in ((size[0], height), (size[1], width)))
        column = size[1] - column - columns if flip else column
        part = np.s_[:, t, int(row) // 8 + 1 : int(row + rows) // 8, int(column) // 8 + 1 : int(column + columns) // 8]
        for future, sign in ((True, 1), (False, -1)):
            if 0 <= t + sign < 3:
                for found in (motion, alone):
                    field = (found.to_next if future else found.to_previous)[part].flatten(1)
                    assert field.shape[1] >= 4
                    np.testing.assert_allclose(field.median(1).values, (sign * right, sign * down), atol=0.5)


def test_pixels_are_those_of_the_frames():
    """Large frames are looked at small, small ones as they are; the vectors do not tell."""
    frames, _ = scene([(2, 3)], 3, size=128)
    large = frames.repeat_interleave(3, 1).repeat_interleave(3, 2)
    for clip, scale in ((large, 3), (frames[:, ::2, ::2], 0.5)):
        motion = Flow(block=round(8 * scale))(clip)
        expected = scale * torch.tensor([3.0, 2.0])
        assert (motion.to_next[:, 0, 6:10, 6:10].flatten(1).median(1).values - expected).abs().max() < 0.5


@pytest.mark.parametrize("shape", [(1, 40, 50, 3), (2, 8, 8, 3), (2, 5, 90, 1), (3, 33, 47, 1)], ids=str)
def test_small_single_and_grey(shape):
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    motion = Flow(16)(frames)
    count, height, width, _ = shape
    assert motion.had.shape == (count, -(-height // 8), -(-width // 8))
    assert motion.had.sum() == motion.has.sum() == motion.had[0].numel() * (count - 1)
    assert motion.to_next.isfinite().all()


def test_grey_is_what_it_looks_at():
    frames, places = scene([(2, 3)], 3)
    grey = torch.from_numpy(np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.numpy()]))[..., None]
    assert torch.equal(Flow()(grey).to_next, Flow()(frames).to_next)
    check(Flow()(grey), places, 0.5)


def test_the_same_whatever_the_threads_and_they_are_left_alone():
    frames, _ = scene([(2, 3)], 2)
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 4, 7):
            cv2.setNumThreads(threads)
            found.append(Flow()(frames).to_next)
            with one_thread(cv2):
                assert cv2.getNumThreads() == 1
            assert cv2.getNumThreads() == threads
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
    finally:
        cv2.setNumThreads(before)


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"optical flow needs OpenCV, .* pip install 'tubelet\[flow\]'"):
        Flow()(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 8}, "flow's size 8 cannot be used; expected 16 pixels or more"),
        ({"block": 0}, "flow's block 0 cannot be used; expected 1 pixel or more"),
    ],
)
def test_settings_that_cannot_be_used(change, words):
    with pytest.raises(ValueError, match=words):
        Flow(**change)


# ---------------------------------------------------------------------------- encoded anew


@pytest.mark.parametrize("velocity", [(0, 3), (4, -4), (0, -12)], ids=str)
def test_vectors_of_a_clip_encoded_anew(velocity):
    frames, places = scene([velocity], 4)
    motion = recoded(frames)
    assert motion.exact
    rows, columns = (slice(-(-edge // 8), (edge + SIDE) // 8) for edge in places[0, 1].tolist())
    for future in (False, True):
        field, known = (motion.to_next, motion.has) if future else (motion.to_previous, motion.had)
        there = known[1, rows, columns]
        assert there.float().mean() > 0.6
        found = field[:, 1, rows, columns][:, there].median(1).values.numpy()
        np.testing.assert_allclose(found, np.array(velocity)[::-1] * (1 if future else -1), atol=0.5)
    again = recoded(frames)
    assert torch.equal(again.to_previous, motion.to_previous)


def test_encoded_anew_of_any_size_and_grey():
    frames = scene([(0, 2)], 3, size=128)[0][:, :67, :91, :1]
    motion = recoded(frames, 5)
    assert motion.had.shape == (3, 14, 19)
    assert motion.block == 5
    assert motion.had[1:].float().mean() > 0.8
    assert not motion.had[0].any()
    large = scene([(0, 2)], 3)[0].repeat_interleave(4, 1).repeat_interleave(4, 2)  # 512 pixels, encoded at 256
    motion = recoded(large, 16)
    assert (
        motion.to_previous[:, 1, 13:19, 13:19].flatten(1).median(1).values - torch.tensor([-8.0, 0])
    ).abs().max() < 1


def test_several_threads_at_once():
    """In a process of its own: OpenCV would end it."""
    code = """
import threading, cv2, numpy as np, torch
from tubelet.data.flow import Flow
frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8))
before, expected, wrong = cv2.getNumThreads(), Flow()(frames).to_previous, []
def work():
    for _ in range(150):
        if not torch.equal(Flow()(frames).to_previous, expected):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(len(wrong), cv2.getNumThreads() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "True"]), done.stderr


@pytest.mark.parametrize(("size", "short"), [(64, 64), (200, 200), (400, 240)])
@pytest.mark.parametrize(("speed", "preset", "finest"), [("ultrafast", 0, 1), ("fast", 0, 0), ("medium", 2, 0)])
def test_it_looks_at_the_size_and_as_closely_as_asked(size, short, speed, preset, finest, monkeypatch):
    seen: dict[str, object] = {}

    class Search:
        def setFinestScale(self, scale):
            seen["finest"] = scale

        def calc(self, first, second, _):
            seen["size"] = first.shape
            return np.zeros((*first.shape, 2), np.float32)

    monkeypatch.setattr(cv2, "DISOpticalFlow_create", lambda kind: seen.update(preset=kind) or Search())
    Flow(size=size, speed=speed)(torch.zeros(2, 240, 320, 3, dtype=torch.uint8))
    assert seen == {"size": (short, round(short * 4 / 3)), "preset": preset, "finest": finest if short >= 112 else 0}
