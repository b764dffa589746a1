"""Small videos with known motions, drawn here: what `make demo` trains on and what tests measure against.

The label of a video is its motion, and no single frame shows it. The picture is a smooth random texture, the same in
distribution wherever it is cut, so a frame of a texture that moves left is a frame of one that moves right. Nothing
enters, leaves, starts or ends anywhere in particular; only a second frame tells.
"""

import csv
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from math import sqrt
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from tubelet.data import video
from tubelet.data.cache import cores

VELOCITIES: dict[str, tuple[float, float]] = {
    "right": (0.0, 1.0),
    "down_right": (sqrt(0.5), sqrt(0.5)),
    "down": (1.0, 0.0),
    "down_left": (sqrt(0.5), -sqrt(0.5)),
    "left": (0.0, -1.0),
    "up_left": (-sqrt(0.5), -sqrt(0.5)),
    "up": (-1.0, 0.0),
    "up_right": (-sqrt(0.5), sqrt(0.5)),
}
"""Rows down and columns right, per frame and per unit of speed: all eight are equally fast."""

MOTIONS: tuple[str, ...] = tuple(VELOCITIES)
"""The labels, in the order of their numbers."""

WORTH = 100  # videos: drawing them takes as long as starting a process does


def texture(size: int, grain: float, rng: np.random.Generator) -> Float[np.ndarray, "size size 3"]:
    """Smooth coloured noise of mean 0 and deviation 1, which continues over its borders like wallpaper.

    White noise blurred by a Gaussian of `grain` pixels, by Fourier, so that pixels further apart than about
    3 * grain are unrelated. The channels share a part of their pattern, as those of photographs do.
    """
    frequency = np.fft.fftfreq(size)
    blur = np.exp(-2 * (np.pi * grain) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    blur[0, 0] = 0  # no overall brightness: `moving_texture` chooses it
    noise = np.fft.ifft2(blur * np.fft.fft2(rng.standard_normal((3, size, size)))).real
    mixed = np.tensordot(0.7 * np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)), noise, 1)
    return np.moveaxis(mixed / mixed.std(), 0, 2)


def shifted(
    picture: Float[np.ndarray, "side side 3"], row: float, column: float, size: int
) -> Float[np.ndarray, "size size 3"]:
    """The square of `size` pixels whose corner lies at (row, column), between pixels too, wrapped around."""
    return _cut(_cut(picture, row, size).swapaxes(0, 1), column, size).swapaxes(0, 1)


def _cut(values: Float[np.ndarray, "side width 3"], start: float, size: int) -> Float[np.ndarray, "{size} width 3"]:
    """Rows from `start` on, between pixels too, wrapped around."""
    whole = int(np.floor(start))
    rows = values.take(range(whole, whole + size + 1), axis=0, mode="wrap")
    part = start - whole
    return (1 - part) * rows[:-1] + part * rows[1:]


def pixels(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Brightness in [0, 1] as bytes; what lies outside is clipped."""
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


def moving_texture(
    motion: str,
    frames: int,
    size: int,
    rng: np.random.Generator,
    speed: tuple[float, float] = (0.125, 0.125),
    grain: float = 0.22,
    contrast: tuple[float, float] = (0.24, 0.36),
) -> UInt8[np.ndarray, "t h w 3"]:
    """A square video of one random texture that moves as a whole, at one speed.

    Args:
        motion: one of MOTIONS.
        frames: how many.
        size: height and width, pixels; even, for H.264.
        rng: where texture, place, speed, colour and contrast come from.
        speed: share of `size` that is crossed per frame, drawn between the two.
        grain: the blur that makes the texture smooth, as a share of `size`.
        contrast: standard deviation of the brightness, of 1, drawn between the two.
    """
    down, right = VELOCITIES[motion]
    picture = texture(2 * size, grain * size, rng)  # wallpaper: it comes round after 16 frames
    picture = 0.5 + rng.uniform(*contrast) * picture + rng.uniform(-0.05, 0.05, 3)
    row, column = rng.uniform(0, 2 * size, 2)
    pace = size * rng.uniform(*speed)
    corners = [(row - time * pace * down, column - time * pace * right) for time in range(frames)]
    return pixels(np.stack([shifted(picture, *corner, size) for corner in corners]))


def moving_square(
    velocity: tuple[int, int],
    frames: int,
    size: int,
    rng: np.random.Generator,
    side: int = 16,
) -> tuple[UInt8[np.ndarray, "t h w 3"], Int[np.ndarray, "t 2"]]:
    """A textured square that crosses a still textured background, and where it is: exact to the pixel.

    Args:
        velocity: rows down and columns right, pixels per frame.
        frames: how many.
        size: height and width of the video, pixels.
        rng: where both textures and the start come from.
        side: height and width of the square, pixels.

    Returns:
        The frames, and the row and column of the square's top left pixel in each.

    Raises:
        ValueError: the square does not stay inside for so many frames.
    """
    travel = (frames - 1) * np.asarray(velocity)
    low, high = np.maximum(0, -travel), size - side - np.maximum(0, travel)
    if (low > high).any():
        raise ValueError(
            f"a square of {side} pixels at {velocity} pixels per frame leaves {size} pixels within {frames} frames"
        )
    corners = rng.integers(low, high + 1) + np.arange(frames)[:, None] * np.asarray(velocity)
    ground, square = (pixels(0.5 + 0.2 * texture(edge, 2.0, rng)) for edge in (size, side))
    drawn = np.repeat(ground[None], frames, 0)
    for frame, (row, column) in zip(drawn, corners):
        frame[row : row + side, column : column + side] = square
    return drawn, corners


def names(videos: int) -> Iterator[tuple[str, str]]:
    """The motion and the file name of every video, motions in turn, so that classes differ by one video at most.

    >>> list(names(9))[0], list(names(9))[8]
    (('right', 'right_0001.mp4'), ('right', 'right_0002.mp4'))
    """
    for number in range(videos):
        motion = MOTIONS[number % len(MOTIONS)]
        yield motion, f"{motion}_{number // len(MOTIONS) + 1:04d}.mp4"


def write_one(path: Path, motion: str, seed: tuple[int, int], frames: int, size: int, fps: int) -> None:
    """Draw and encode one video. Its own generator, so that it is the same whichever process makes it."""
    drawn = moving_texture(motion, frames, size, np.random.default_rng(seed))
    # nearly lossless; x264 gives the same bytes every time only on one thread and without B-frames
    video.write(path, drawn, fps, options={"crf": "12", "preset": "veryfast", "bf": "0", "threads": "1"})


def make(
    folder: Path, videos: int, seed: int = 0, frames: int = 16, size: int = 64, fps: int = 12, workers: int = 0
) -> Path:
    """Write `folder/<motion>/<motion>_0001.mp4` and so on, and `folder/labels.csv` (path, label): the same for a seed.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        videos: how many in all, the motions in turn.
        seed: another number gives other textures.
        frames: per video.
        size: height and width, pixels; even.
        fps: frames per second that the files claim.
        workers: processes; 0 takes one per core where there are many videos, 1 works in this process.

    Returns:
        The folder.
    """
    rows = list(names(videos))
    for motion in MOTIONS:
        (folder / motion).mkdir(parents=True, exist_ok=True)
    jobs = [
        (folder / motion / name, motion, (seed, number), frames, size, fps)
        for number, (motion, name) in enumerate(rows)
    ]
    workers = min(workers or min(cores(), len(jobs) // WORTH), len(jobs))
    if workers > 1:
        # fresh processes: a fork of one that runs threads (PyTorch's, say) may hang
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(write_one, *zip(*jobs), chunksize=16))
    else:
        for job in jobs:
            write_one(*job)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label"))
        table.writerows((f"{motion}/{name}", MOTIONS.index(motion)) for motion, name in rows)
    return folder
