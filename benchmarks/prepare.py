"""`tubelet prepare`: how fast beside the ffmpeg command line, how true, and what reading gains by it.

    python benchmarks/prepare.py --videos FOLDER [--files GLOB] [--repeats 3] [--seconds 0.5]

encoding  every file by `prepare` in this process and by `ffmpeg` told the same (filter, encoder, options), one core
          each, turn about; the minimum of the repeats counts. One core, because ffmpeg's decoder, filter and encoder
          are threads of their own even when each is told to have one. ffmpeg is a process a file; tubelet also hashes
          the file, measures its motion and writes its lists
reading   a clip of 16 frames at stride 4 with a short side of 224 pixels, at eight random places: from the original,
          the prepared file, and one prepared with --layered 4; from that also with starts on its layer, where a clip
          takes no frames between

Needs the `dev` extra (an ffmpeg binary). Writes benchmarks/prepare.csv.
"""

import argparse
import math
import os
import subprocess
import tempfile
import time
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from motion import FRAMES, SHORT, STRIDE, best
from table import provenance, save

from tubelet.data.prepare import Encoding, prepare
from tubelet.data.sources import find
from tubelet.data.video import frames_at, probe


def by_ffmpeg(source: Path, out: Path, how: Encoding) -> None:
    """The same file by the command line."""
    video, options = probe(source), how.options()
    height, width = how.size(video.height, video.width)
    told = [text for name in ("crf", "preset", "tune", "x264-params") for text in (f"-{name}", options[name])]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        "-threads",
        "1",
        "-i",
        str(source),
        "-an",
        "-threads",
        "1",
    ]
    command += [
        "-filter_threads",
        "1",
        "-vf",
        f"scale={width}:{height}:flags=bicubic,format=yuv420p",
        "-c:v",
        "libx264",
    ]
    command += [*told, "-fps_mode", "passthrough", "-movflags", "+faststart", "-flags", "+psnr+cgop", str(out)]
    subprocess.run(command, check=True)


def encoding(source: Path, folder: Path, repeats: int) -> tuple[dict[str, Any], Path]:
    """Seconds of both, and the prepared file."""
    how, turn = Encoding(), iter(range(1000))
    video = probe(source)
    made: list[Path] = []

    def ours() -> None:
        out = folder / f"{source.stem}-{next(turn)}"
        prepare(source, out, how, workers=0)
        made.append(next(out.rglob("*.mp4")))

    found = best({"ours": ours, "ffmpeg": lambda: by_ffmpeg(source, folder / "theirs.mp4", how)}, repeats)
    row = {
        "file": source.name,
        "codec": video.codec,
        "size": f"{video.width}x{video.height}",
        "frames": video.frames,
        "s, prepare": round(found["ours"] / 1000, 3),
        "s, ffmpeg": round(found["ffmpeg"] / 1000, 3),
        "videos/s, of ffmpeg's": round(found["ffmpeg"] / found["ours"], 3),
        "bytes before": source.stat().st_size,
        "bytes": made[-1].stat().st_size,
        "bytes, ffmpeg": (folder / "theirs.mp4").stat().st_size,
    }
    return row, made[-1]


def reading(source: Path, made: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Milliseconds a clip from each, at the same random places."""
    total, rng = probe(source).frames, np.random.default_rng(0)
    if total < FRAMES * STRIDE:
        return {}
    starts = rng.integers(0, total - FRAMES * STRIDE + 1, 8)
    prepare(source, folder / f"{source.stem}-layered", Encoding(layered=STRIDE), workers=0)
    layered = next((folder / f"{source.stem}-layered").rglob("*.mp4"))

    def clips(path: Path, starts: Any) -> None:
        for start in starts:
            frames_at(path, start + STRIDE * np.arange(FRAMES), size=SHORT)

    sides = {
        "original": partial(clips, source, starts),
        "prepared": partial(clips, made, starts),
        "layered": partial(clips, layered, starts),
        "layered, on its layer": partial(clips, layered, starts // STRIDE * STRIDE),
    }
    found = best(sides, 2, seconds)
    row: dict[str, Any] = {f"ms a clip, {name}": round(value / len(starts), 2) for name, value in found.items()}
    for name in list(sides)[1:]:
        row[f"clips/s, {name}, times"] = round(found["original"] / found[name], 2)
    return row | {"bytes, layered": layered.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--files", default="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for item in find(args.videos):
            if fnmatch(item.path.name, args.files):
                begun = time.perf_counter()
                row, made = encoding(item.path, Path(name), args.repeats)
                rows.append(row | reading(item.path, made, Path(name), args.seconds))
                print(f"{time.perf_counter() - begun:.0f} s", rows[-1])
    for key in ("videos/s, of ffmpeg's", *(key for key in max(rows, key=len) if key.startswith("clips/s"))):
        values = [row[key] for row in rows if key in row]
        large = [row[key] for row in rows if key in row and row["size"] == "1280x720"]
        print(f"{key}: geometric mean {mean(values):.3f}, of 720p {mean(large):.3f}")
    ours, theirs = sum(row["s, prepare"] for row in rows), sum(row["s, ffmpeg"] for row in rows)
    print(f"all files: prepare {ours:.1f} s, ffmpeg {theirs:.1f} s, ratio {theirs / ours:.3f}")
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name, "") for name in names} | provenance() for row in rows])


def mean(values: list[float]) -> float:
    """The geometric one."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


if __name__ == "__main__":
    main()
