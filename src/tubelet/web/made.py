"""Videos drawn here, for those who have none at hand."""

from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import UInt8

from tubelet.data.shapes import moving_shapes
from tubelet.data.synthetic import moving_square, moving_texture
from tubelet.data.writing import write

SIZE, FRAMES, FPS = 224, 64, 24  # 64 frames: a clip of 16, every fourth
MADE = ("made: shapes", "made: a square", "made: a texture")
DRAWING = Lock()


def made(name: str, folder: Path) -> Path:
    """A video of MADE, drawn when first asked for: H.264 whose motion vectors are exact."""
    path = folder / f"{name.removeprefix('made: ').replace(' ', '_')}.mp4"
    with DRAWING:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            options = {"crf": "12", "preset": "veryfast", "bf": "0", "refs": "1", "threads": "1"}
            write(path, drawn(name, np.random.default_rng(7)), FPS, options=options)
    return path


def drawn(name: str, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of a video of MADE."""
    if name == MADE[0]:
        return moving_shapes(FRAMES, SIZE, rng, shapes=(4, 4), speed=(0.004, 0.006))[0]
    if name == MADE[1]:
        return moving_square((1, 2), FRAMES, SIZE, rng, side=64)[0]
    return moving_texture("down_right", FRAMES, SIZE, rng, speed=(0.01, 0.01), grain=0.05)
