"""Made videos move as they say, and no single frame tells how."""

import csv
import hashlib

import numpy as np
import pytest

from tubelet.data.sources import find
from tubelet.data.synthetic import MOTIONS, VELOCITIES, make, moving_square, moving_texture
from tubelet.data.video import frames_at, probe


@pytest.mark.parametrize("motion", MOTIONS)
def test_textures_move_at_their_velocity(motion):
    """By phase correlation of neighbouring frames, which knows nothing of how they were drawn."""
    size = 64
    frames = moving_texture(motion, 4, size, np.random.default_rng(3), grain=0.03).astype(float).mean(3)
    window = np.outer(np.hanning(size), np.hanning(size))
    a, b = (np.fft.fft2((frame - frame.mean()) * window) for frame in frames[1:3])
    peak = np.fft.ifft2(b * a.conj() / (np.abs(b * a.conj()) + 1e-9)).real
    found = (np.array(np.unravel_index(peak.argmax(), peak.shape)) + size // 2) % size - size // 2
    np.testing.assert_allclose(found, 0.125 * size * np.array(VELOCITIES[motion]), atol=1)


def test_one_frame_does_not_tell_the_motion():
    """Ridge regression on the pixels of one frame stays within five points of chance."""
    rng = np.random.default_rng(0)

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % len(MOTIONS)
        frames = [moving_texture(MOTIONS[label], 2, 16, rng)[1] for label in labels]
        return np.stack(frames).reshape(count, -1) / 255 - 0.5, labels

    (x, y), (new, truth) = some(800), some(800)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (np.eye(8)[y] - 0.125))
    assert abs(100 * np.mean((new @ weights).argmax(1) == truth) - 12.5) < 5


def test_square_is_where_it_says():
    frames, corners = moving_square((1, 3), 6, 48, np.random.default_rng(1), side=12)
    pieces = [frame[r : r + 12, c : c + 12] for frame, (r, c) in zip(frames, corners)]
    assert all(np.array_equal(piece, pieces[0]) for piece in pieces)
    np.testing.assert_array_equal(np.diff(corners, axis=0), [[1, 3]] * 5)
    with pytest.raises(ValueError, match="leaves 48 pixels"):
        moving_square((0, 9), 6, 48, np.random.default_rng(1))


def test_files_are_the_same_for_a_seed_and_any_number_of_processes(tmp_path):
    def digest(folder) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.mp4"))]

    one, two = make(tmp_path / "one", 16, seed=5, workers=1), make(tmp_path / "two", 16, seed=5, workers=2)
    assert digest(one) == digest(two)
    assert digest(one) != digest(make(tmp_path / "other", 16, seed=6, workers=1))
    with (one / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {item.label for item in find(one)} == set(MOTIONS)
    video = probe(one / rows[0]["path"])
    assert (video.frames, video.width, video.height, video.codec) == (16, 64, 64, "h264")
    drawn = moving_texture("right", 16, 64, np.random.default_rng((5, 0)))
    read = frames_at(video, range(16)).frames.numpy()
    assert np.abs(read.astype(int) - drawn).mean() < 4
