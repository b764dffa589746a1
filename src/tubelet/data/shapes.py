"""Videos in which several shapes each do something of their own, drawn here: who does what, where, known to the pixel.

What a shape does is seen in time only: each is a window on a random texture of its own, on a still ground of another,
and where it is in the key frame says nothing about where it goes. So a network has to look at motion, and at the motion
inside of each box.
"""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from tubelet.data.synthetic import VELOCITIES, pixels, texture
from tubelet.data.writing import write

GOES = ("left", "right", "up", "down", "stand")
"""What a shape does: one of these."""
FLICKER = "flicker"
"""What some do besides: brighter and darker from frame to frame."""
ACTIONS = tuple(sorted((*GOES, FLICKER)))

Drawn = tuple[UInt8[np.ndarray, "t h w 3"], Float[np.ndarray, "shapes t 4"], list[tuple[str, ...]]]


def moving_shapes(
    frames: int,
    size: int,
    rng: np.random.Generator,
    *,
    shapes: tuple[int, int] = (2, 4),
    side: tuple[float, float] = (0.17, 0.24),
    speed: tuple[float, float] = (0.02, 0.035),
) -> Drawn:
    """A square video, the boxes x1 y1 x2 y2 of its shapes in pixels, and what each does.

    Shapes do not overlap in the middle frame; before and after, later ones pass in front of earlier ones.

    Args:
        frames: how many.
        size: height and width, pixels; even, for H.264.
        rng: where everything random comes from.
        shapes: how many there are, from and to; fewer where no more fit.
        side: height and width of a shape as shares of `size`, from and to.
        speed: share of `size` that a moving one crosses per frame, from and to.
    """
    ground = 0.5 + 0.12 * texture(size, 0.05 * size, rng)
    video = np.repeat(ground[None], frames, 0)
    times = np.arange(frames) - frames // 2
    boxes: list[Float[np.ndarray, "t 4"]] = []
    labels: list[tuple[str, ...]] = []
    for _ in range(int(rng.integers(shapes[0], shapes[1] + 1))):
        edge = round(size * rng.uniform(*side))
        # the furthest that any could go: so its place in the middle frame does not tell what it does
        reach = int(np.ceil(size * speed[1] * (frames - frames // 2)))
        corner = free_place(edge, reach, size, [box[frames // 2] for box in boxes], rng)
        goes, pace = str(rng.choice(GOES)), size * rng.uniform(*speed)
        if corner is None:
            continue
        velocity = np.array(VELOCITIES.get(goes, (0.0, 0.0))) * pace
        corners = np.rint(corner + times[:, None] * velocity).astype(int)
        flickers = rng.random() < 0.3
        look = 0.5 + 0.25 * texture(2 * edge, 0.12 * edge, rng)[:edge, :edge] + rng.uniform(-0.15, 0.15, 3)
        bright = 0.18 * np.where(times // 2 % 2 == 0, 1, -1) * flickers
        for frame, (row, column), more in zip(video, corners, bright):
            frame[row : row + edge, column : column + edge] = look + more
        boxes.append(np.concatenate([corners[:, ::-1], corners[:, ::-1] + edge], axis=1).astype(float))
        labels.append((goes, FLICKER) if flickers else (goes,))
    return pixels(video), np.stack(boxes), labels


def free_place(
    edge: int, reach: int, size: int, taken: list[Float[np.ndarray, "4"]], rng: np.random.Generator
) -> Float[np.ndarray, "2"] | None:
    """Row and column for a square of `edge` that keeps `reach` from the border and overlaps none that is taken."""
    low, high = min(reach, (size - edge) // 2), max(size - edge - reach, (size - edge) // 2)
    for _ in range(50):
        row, column = rng.integers(low, high + 1, 2)
        if all(row + edge <= y1 or y2 <= row or column + edge <= x1 or x2 <= column for x1, y1, x2, y2 in taken):
            return np.array([row, column], dtype=float)
    return None


def make_shapes(folder: Path, videos: int, seed: int = 0, frames: int = 8, size: int = 96, fps: int = 12) -> Path:
    """Writes `folder/0001.mp4` and so on, and `folder/boxes.csv`: the boxes of each middle frame; the same for a seed.

    Returns:
        The table: path, frame, x1, y1, x2, y2, label (`left|flicker`), person.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "boxes.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "frame", "x1", "y1", "x2", "y2", "label", "person"))
        for number in range(1, videos + 1):
            drawn, boxes, labels = moving_shapes(frames, size, np.random.default_rng((seed, number)))
            name = f"{number:04d}.mp4"
            options = {"crf": "12", "preset": "veryfast", "bf": "0", "threads": "1"}
            write(folder / name, drawn, fps, options=options)
            for person, (box, names) in enumerate(zip(boxes[:, frames // 2], labels), 1):
                rows.writerow((name, frames // 2, *map(int, box), "|".join(names), person))
    return table
