"""Movies that were cut into files of one second each, as AVA's often are: clips that reach over several of them."""

from pathlib import Path

import numpy as np
import torch

from tubelet.data.index import VideoError
from tubelet.data.sampling import Around
from tubelet.data.video import frames_at, probe
from tubelet.types import Clip

ENDINGS = (".mp4", ".mkv", ".webm", ".avi")


def file_of(folder: Path, second: int) -> Path | None:
    """The file of a second, 0902.mp4 or 902.mp4; none: it is not there."""
    names = (f"{digits}{ending}" for digits in (f"{second}", f"{second:04d}") for ending in ENDINGS)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def clip_of_seconds(folder: Path, moment: float, sampler: Around, *, gray: bool = False) -> Clip:
    """The clip around a moment of a movie that is a folder of files, one for each second.

    Each file is taken to last one second, whatever it has of frames: so seconds of 24 and of 25 frames follow each
    other evenly. The step is that of the moment's own file. Where a file is missing, as at both ends of a movie, the
    nearest frame that there is stands in.

    Raises:
        VideoError: the moment's own file is missing, or one cannot be read.
    """
    whole = int(np.floor(moment + 1e-6))
    if (own := file_of(folder, whole)) is None:
        raise VideoError(f"{folder} has no file of second {whole} ({whole}.mp4 or {whole:04d}.mp4)")
    times = moment + sampler.offsets() / max(probe(own).frames, 1)
    wanted = np.floor(times + 1e-6).astype(int)
    files = {second: file for second in range(wanted[0], wanted[-1] + 1) if (file := file_of(folder, second))}
    low, high = whole, whole
    while low - 1 in files:
        low -= 1
    while high + 1 in files:
        high += 1
    times = times.clip(low, high + 1 - 1e-5)
    wanted = np.floor(times + 1e-6).astype(int)
    parts, damaged = [], 0
    for second in range(wanted[0], wanted[-1] + 1):
        inside = times[wanted == second] - second
        if not len(inside):
            continue
        count = probe(files[second]).frames
        places = np.floor(inside * count + 1e-3).astype(int).clip(0, count - 1)
        clip = frames_at(files[second], places, gray=gray)
        parts.append(clip.frames)
        damaged += clip.damaged
    if len({part.shape[1:] for part in parts}) > 1:
        sizes = ", ".join(f"{part.shape[2]}x{part.shape[1]}" for part in parts)
        raise VideoError(f"{folder}: the files of one movie are of different sizes: {sizes}")
    return Clip(torch.cat(parts), torch.from_numpy(times - times[0]).float(), damaged)
