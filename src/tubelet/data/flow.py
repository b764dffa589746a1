"""Motion of clips whose codec tells none: optical flow, or vectors of a codec that is asked anew.

Vectors that a file holds already are read in `vectors.py`, at a small part of the cost. Flow on the device is in
`nn/raft.py`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.data.transforms import Window, carried, resized
from tubelet.data.video import frames_at, write
from tubelet.types import Motion

ENOUGH = 0.5  # share of the blocks whose vector is known, below which something stands in for them
LEAST = 16  # pixels; DIS refuses pictures smaller than its patches
SPEEDS = {"ultrafast": ("ULTRAFAST", 1), "fast": ("ULTRAFAST", 0), "medium": ("MEDIUM", 0)}
"""OpenCV's preset, and how often the picture that the search ends on is halved.

The presets themselves halve it once or twice, for large pictures; at 112 pixels that misses what is smaller than half
of it. Mean difference of 39 filmed clips (stride 4, 112 pixels) to the next frame moved back, of 255, without flow 4.1:
1.9 with "fast" and "medium", 2.2 with "ultrafast"; OpenCV's own "fast" 2.7, "medium" 2.2. Time: 1 : 4 : 11.
"""
HALF = 112  # pixels of the short side; smaller pictures are never halved


@dataclass(frozen=True)
class Flow:
    """Dense inverse search between neighbouring frames, forwards and backwards, averaged over blocks.

    It sees brightness only, so what has no texture does not move; what moves by more than about a fifteenth of the
    short side from one frame to the next is lost.

    Source: Kroeger et al. 2016, as in OpenCV.
    """

    size: int = 112
    """Short side at which it looks, in pixels; frames are never made larger for it, unless below 16 pixels."""
    speed: Literal["ultrafast", "fast", "medium"] = "fast"
    """How closely it looks: see SPEEDS."""
    block: int = 8
    """Pixels of the clips' blocks."""

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("size", self.size, self.size >= LEAST, f"{LEAST} pixels or more"),
            ("speed", self.speed, self.speed in SPEEDS, " or ".join(SPEEDS)),
            ("block", self.block, self.block > 0, "1 pixel or more"),
        ):
            if not fits:
                raise ValueError(f"flow's {name} {value} cannot be used; expected {expected}")

    def __call__(self, frames: UInt8[Tensor, "t h w c"], *, both: bool = True) -> Motion:
        """Motion between neighbouring frames, in pixels of them, on blocks of `block` pixels.

        Without `both` only to the frame before, in half the time.

        Raises:
            ValueError: OpenCV is not installed.
        """
        cv2 = opencv()
        count, height, width, channels = frames.shape
        scale = max(min(1.0, self.size / min(height, width)), LEAST / min(height, width))
        small = round(height * scale), round(width * scale)
        images = frames.numpy()
        with one_thread(cv2):
            if channels == 3:
                images = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])
            if small != (height, width):
                size = small[1], small[0]
                images = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
            images = images.reshape(count, *small)
            preset, finest = SPEEDS[self.speed]
            dis = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset}"))
            dis.setFinestScale(finest if min(small) >= HALF else 0)
            fields = np.zeros((2, count, *small, 2), np.float32)
            for t in range(count - 1):
                fields[0, t + 1] = dis.calc(images[t + 1], images[t], None)
                if both:
                    fields[1, t] = dis.calc(images[t], images[t + 1], None)
        to_previous, to_next = torch.from_numpy(fields).permute(0, 4, 1, 2, 3)
        motion = between(to_previous, to_next, 1)
        motion = motion if both else replace(motion, has=torch.zeros_like(motion.has))
        return carried(motion, small, Window(0, 0, *small), (height, width), self.block)


_lock, _inside = threading.Lock(), [0, 0]  # how many are at it, and OpenCV's own number of threads


@contextmanager
def one_thread(cv2: Any) -> Iterator[None]:
    """Keeps OpenCV on the thread that calls it: there are as many worker processes as cores already.

    By 0 and not by 1: that would end the threads of the pool, and a forked worker would wait for its parent's forever.
    The first in sets it and the last out sets it back: OpenCV dies if it changes while another thread computes.
    """
    with _lock:
        if not _inside[0]:
            _inside[1] = cv2.getNumThreads()
            cv2.setNumThreads(0)
        _inside[0] += 1
    try:
        yield
    finally:
        with _lock:
            _inside[0] -= 1
            if not _inside[0] and _inside[1] > 1:
                cv2.setNumThreads(_inside[1])


def _forked() -> None:
    """In a forked worker none of the parent's threads is at it."""
    global _lock
    _lock, _inside[0] = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def between(to_previous: Float[Tensor, "2 t my mx"], to_next: Float[Tensor, "2 t my mx"], block: int) -> Motion:
    """Motion that is known everywhere between the first frame and the last."""
    had = torch.ones_like(to_previous[0], dtype=torch.bool)
    has = had.clone()
    had[0] = has[-1] = False
    return Motion(to_previous, to_next, had, has, block)


def recoded(frames: UInt8[Tensor, "t h w c"], block: int = 8, size: int = 256) -> Motion:
    """The vectors of an H.264 encoder that is given just these frames, at a short side of at most `size` pixels.

    Every frame refers to the one before it, so nothing has to be added up.
    """
    height, width = frames.shape[1:3]
    scale = min(1.0, size / min(height, width))
    small = max(round(height * scale / 2) * 2, 2), max(round(width * scale / 2) * 2, 2)  # even, for halved chroma
    shrunk = resized(frames, Window(0, 0, height, width), small).expand(-1, -1, -1, 3)
    # No key frame but the first; and one thread, as there are as many workers as cores.
    options = {"bf": "0", "refs": "1", "g": "9999", "sc_threshold": "0", "threads": "1", "preset": "veryfast"}
    options["x264-params"] = "weightp=0"  # its search is not the same every time
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write(path, shrunk, 25, options=options)
        motion = frames_at(path, range(len(frames)), vectors=True).motion
    assert motion is not None
    return carried(motion, small, Window(0, 0, *small), (height, width), block)


def usable(fallback: str) -> str:
    """What stands in for vectors on this machine, by `Vectors.fallback`: for flow without OpenCV nothing ("none")."""
    with suppress(ValueError):
        if fallback == "flow":
            opencv()
        return fallback
    return "none"


def stand_in(fallback: str, frames: UInt8[Tensor, "t h w c"], block: int, *, both: bool = True) -> Motion:
    """Motion between neighbouring frames where the file tells none: "flow", or the vectors of a copy ("encode").

    Without `both` that to the next frame may be left out.
    """
    return Flow(block=block)(frames, both=both) if fallback == "flow" else recoded(frames, block)


def opencv() -> Any:
    """The cv2 module.

    Raises:
        ValueError: it is not installed; says how to.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "optical flow needs OpenCV, which is an extra: pip install 'tubelet[flow]'. Or take motion from the codec, "
            'and do without it where there is none: data.motion=Vectors(fallback="none")'
        ) from error
    return cv2
