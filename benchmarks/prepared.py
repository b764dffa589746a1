"""What reading for training costs: 720p originals, the same prepared, the decoder alone; vectors; what sampling hits.

    python benchmarks/prepared.py --videos FOLDER [--files GLOB ...] --work FOLDER [--starts 8] [--repeats 5]

A clip is 16 frames at stride 4 with a short side of 224 pixels, as RGB, from `--starts` random places of every file.
One core, one decoding thread; the time of the processor. Sides take turns; the minimum of the repeats counts.

original   720p with key frames 250 apart: as filmed where the file is that, else made by the ffmpeg command line
           (libx264, crf 20), which the row says
prepared   by `tubelet prepare`; layered: by `tubelet prepare --layered 4`, on its layer: starts at every fourth frame
tubelet    whole frames by `frames_at`, its index remembered; new: not in memory, as for the first clip of a file
           crop: a square of 0.83 of the short side at 224x224, as training sees it (`Dataset.load`); yuv: not coloured
peers      decord2, torchcodec (its quicker mode of the two) and a plain PyAV loop, opened anew for every clip, as
           loaders do; see loader.py
bare       libavcodec by PyAV on the frames that are needed, file opened and sought too, nothing converted: the limit

Originals and prepared files stay in `--work` for the next time. Needs the `bench` and `dev` extras. Writes
benchmarks/prepared.csv.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import decord
import imageio_ffmpeg
import numpy as np
import torch
from jaxtyping import Int
from loader import FRAMES, READERS, SHORT, SIZES, STRIDE, cold, geometric
from table import provenance, save

from tubelet.data.index import _memory, can_skip
from tubelet.data.prepare import Encoding, prepare
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import find
from tubelet.data.transforms import Window, evened
from tubelet.data.video import Video, frames_at, opened, probe

LAYER = STRIDE
Indices = Int[np.ndarray, " t"]


def original(source: Path, folder: Path) -> tuple[Path, str]:
    """A 720p file with key frames 250 apart, and what it is."""
    video = probe(source)
    if (video.height, video.codec) == (720, "h264") and video.keys.tolist() == list(range(0, video.frames, 250)):
        return source, "as filmed"
    out = folder / f"{source.stem}.mp4"
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part.mp4")
        keys = ["-g", "250", "-keyint_min", "250", "-sc_threshold", "0"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(source), "-an", "-vf"]
        command += ["scale=-2:720", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", "20", *keys, str(part)]
        subprocess.run(command, check=True)
        part.rename(out)
    return out, "made"


def prepared(source: Path, folder: Path, layered: int) -> Path:
    """The file, prepared; found again if that was done before."""
    out = folder / f"layered-{layered}" / source.stem
    if not (out / "prepared.csv").exists():
        prepare(source, out, Encoding(layered=layered), workers=0)
    return next(out.rglob("*.mp4"))


def ours(path: Path, wanted: Indices, *, new: bool = False, crop: bool = False, **options: bool) -> None:
    """A clip by `frames_at`."""
    if new:
        _memory.clear()
    if crop:
        frames_at(path, lambda video: wanted, size=(SHORT, SHORT), windows=square, **options)
    else:
        frames_at(path, lambda video: wanted, size=SHORT, **options)


def square(video: Video) -> list[Window]:
    """A square of 0.83 of the short side, which is what a multi-scale crop takes on average."""
    edge = round(0.83 * min(video.height, video.width))
    return [evened(Window((video.height - edge) // 4, (video.width - edge) // 4, edge, edge))]


def bare(path: Path, wanted: Indices) -> int:
    """Frames decoded on the way to those wanted; of those that no other refers to only the wanted."""
    video, kept = probe(path), []
    start = video.starts[np.searchsorted(video.starts[:, 0], wanted[0], side="right") - 1]
    stamps, count = set(video.stamps[wanted].tolist()), 0
    with opened(path) as (container, stream):
        codec = stream.codec_context
        skips = can_skip(codec)
        container.seek(int(start[2]), stream=stream)
        for packet in container.demux(stream):
            if not packet.size:
                break
            codec.skip_frame = "NONREF" if skips and packet.pts not in stamps else "DEFAULT"
            frames = codec.decode(packet)
            count += len(frames)
            kept += [frame for frame in frames if frame.pts in stamps]
            stamps.discard(packet.pts)
            if not stamps:
                break
        frames = codec.decode(None)
        return count + len(frames)


def peer(name: str, path: Path, wanted: Indices) -> None:
    """A clip by another reader, opened and closed."""
    cold(READERS[name], str(path), wanted.tolist(), True, time.process_time)


def best(sides: dict[str, Callable[[Indices], object]], starts: dict[str, Any], repeats: int) -> dict[str, float]:
    """Milliseconds a clip of every side: over all places, turn about; of each place the minimum counts."""
    found = {name: np.full(len(starts[name]), math.inf) for name in sides}
    for _ in range(repeats):
        for number in range(max(map(len, starts.values()))):
            for name, act in sides.items():
                wanted = starts[name][number] + STRIDE * np.arange(FRAMES)
                begin = time.process_time()
                act(wanted)
                found[name][number] = min(found[name][number], 1000 * (time.process_time() - begin))
    return {name: float(values.mean()) for name, values in found.items()}


def row_of(source: Path, work: Path, count: int, repeats: int) -> dict[str, Any]:
    """All sides of one file."""
    film, kind = original(source, work / "originals")
    plain, layered = (prepared(film, work, step) for step in (1, LAYER))
    for path in (film, plain, layered):
        video = probe(path)
        SIZES[str(path)] = (video.height, video.width)
    total = probe(film).frames
    anywhere = np.random.default_rng(0).integers(0, total - FRAMES * STRIDE + 1, count)
    sides: dict[str, Callable[[Indices], object]] = {
        "original, decord": partial(peer, "decord", film),
        "original, pyav": partial(peer, "pyav", film),
        "original, tubelet": partial(ours, film),
    }
    for name, path in (("prepared", plain), ("layer", layered)):
        sides |= {
            f"{name}, torchcodec": partial(peer, "torchcodec approximate", path),
            f"{name}, decord": partial(peer, "decord", path),
            f"{name}, tubelet": partial(ours, path),
            f"{name}, tubelet, new": partial(ours, path, new=True),
            f"{name}, crop": partial(ours, path, crop=True),
            f"{name}, crop, yuv": partial(ours, path, crop=True, yuv=True),
            f"{name}, crop, vectors": partial(ours, path, crop=True, vectors=True),
            f"{name}, bare": partial(bare, path),
        }
    sides["layered, anywhere, crop"] = partial(ours, layered, crop=True)
    starts = {name: anywhere // LAYER * LAYER if name.startswith("layer,") else anywhere for name in sides}
    ms = best(sides, starts, repeats)
    row: dict[str, Any] = {"file": source.name, "original": kind, "frames": total}
    row |= {f"ms, {name}": round(value, 2) for name, value in ms.items()}
    for ratio, (slow, quick) in RATIOS.items():
        row[ratio] = round(ms[slow] / ms[quick], 3)
    return row


RATIOS = {
    "times decord of originals: prepared": ("original, decord", "prepared, crop"),
    "times decord of originals: layer": ("original, decord", "layer, crop"),
    "times pyav of originals: prepared": ("original, pyav", "prepared, crop"),
    "times pyav of originals: layer": ("original, pyav", "layer, crop"),
    "times torchcodec: prepared": ("prepared, torchcodec", "prepared, tubelet"),
    "times torchcodec: layer": ("layer, torchcodec", "layer, tubelet"),
    "times decord: prepared": ("prepared, decord", "prepared, tubelet"),
    "of the bare decoder: prepared, crop": ("prepared, crop", "prepared, bare"),
    "of the bare decoder: layer, crop": ("layer, crop", "layer, bare"),
    "of the bare decoder: prepared, crop, yuv": ("prepared, crop, yuv", "prepared, bare"),
    "of the bare decoder: layer, crop, yuv": ("layer, crop, yuv", "layer, bare"),
    "of the bare decoder: prepared, whole": ("prepared, tubelet", "prepared, bare"),
    "of the bare decoder: layer, whole": ("layer, tubelet", "layer, bare"),
    "vectors / none: prepared": ("prepared, crop, vectors", "prepared, crop"),
    "vectors / none: layer": ("layer, crop, vectors", "layer, crop"),
    "new index / remembered: layer": ("layer, tubelet, new", "layer, tubelet"),
}


def on_layer(total: int, clips: int = 2000) -> dict[str, float]:
    """Of the clips of a video of so many frames at 30 a second: the share of which every frame lies on the layer."""
    samplings = {
        "Dense(16, stride=4)": Dense(16, stride=4),
        "Dense(16, stride=4, every=4)": Dense(16, stride=4, every=4),
        "Dense(16, stride=8, every=4)": Dense(16, stride=8, every=4),
        "Dense(16, stride=2)": Dense(16, stride=2),
        "Dense(16, fps=7.5, every=4)": Dense(16, fps=7.5, every=4),
        "Segments(16)": Segments(16),
    }
    seconds, shares = np.arange(total) / 30, {}
    for name, sampler in samplings.items():
        drawn = [sampler(seconds, np.random.default_rng(seed)) for seed in range(clips)]
        shares[name] = float(np.mean([(indices % LAYER == 0).all() for indices in drawn]))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--files", nargs="+", default=["*"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    rows = []
    named = [item.path for item in find(args.videos) if any(fnmatch(item.path.name, name) for name in args.files)]
    paths = [path for path in named if probe(path).frames > FRAMES * STRIDE]
    for path in paths:
        original(path, args.work / "originals")  # made before this process is bound to one core
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for path in paths:
        rows.append(row_of(path, args.work, args.starts, args.repeats))
        print({key: value for key, value in rows[-1].items() if not key.startswith("ms")}, file=sys.stderr)
    mean: dict[str, Any] = {"file": "geometric mean", "original": f"{len(rows)} files"}
    for key in rows[0]:
        if key.startswith("ms, ") or key in RATIOS:
            mean[key] = round(geometric([row[key] for row in rows]), 3)
            print(f"{key}: {mean[key]}")
    rows.append({name: mean.get(name, "") for name in rows[0]})
    for name, share in on_layer(300).items():
        rows.append(dict.fromkeys(rows[0], "") | {"file": f"share of clips on the layer: {name}", "frames": share})
        print(rows[-1]["file"], share)
    save(__file__, [row | provenance() for row in rows])


if __name__ == "__main__":
    main()
