"""Clips per second of one loader worker: tubelet against decord, torchcodec, OpenCV and a plain PyAV loop.

    python benchmarks/loader.py --videos FOLDER [--files GLOB] [--seconds 0.8] [--clock cpu]

A clip is 16 frames at stride 4 from a random start, as RGB: (native) as filmed, or (224) with a short side of 224
pixels, scaled while decoding where the reader can. One decoding thread everywhere, and the whole process on one core,
as a worker among as many workers as cores has it: OpenCV's colour conversion would otherwise use all of them.

    cold   open the file, build what index the reader builds, decode, close: what a loader does for every clip
    warm   the same for a file that was read before: tubelet opens it anew with its index remembered (which `frames_at`
           does by itself), the peers keep their reader open

The readers take turns within each repeat; the minimum of the repeats counts, and its ratio to the best peer's of the
same run. Frames are compared with those of the ffmpeg command line: a reader that hands over other frames is listed,
and is no peer for that file. Needs the `bench` extra. Writes benchmarks/loader.csv.
"""

import argparse
import csv
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"  # read when OpenCV is imported

import av
import cv2
import decord
import imageio_ffmpeg
import numpy as np
import torch
import torchcodec
from torchcodec.decoders import VideoDecoder
from torchcodec.transforms import Resize

from tubelet.data import video as tubelet
from tubelet.data.index import _memory

FRAMES, STRIDE, SHORT = 16, 4, 224


def chosen(total: int, place: float) -> list[int]:
    """The clip that starts at this share of what is possible; short videos repeat their last frame."""
    start = int(place * (max(total - FRAMES * STRIDE, 0) + 1))
    return [min(start + STRIDE * t, total - 1) for t in range(FRAMES)]


def small(height: int, width: int) -> tuple[int, int]:
    """Height and width with the short side asked for."""
    scale = SHORT / min(height, width)
    return round(height * scale), round(width * scale)


# Each reader: `open` gives what is kept when warm (and closed when cold), `clip` the frames wanted, "t h w 3".


class Tubelet:
    """`frames_at`. Warm, the index is what it remembers by itself, but the file is opened for every clip."""

    def open(self, path: str, scale: bool) -> Any:
        _memory.clear()
        return path

    def clip(self, path: str, wanted: list[int], scale: bool) -> np.ndarray:
        size = SHORT if scale else None
        return tubelet.frames_at(path, lambda video: wanted, size=size).frames.numpy()

    def close(self, path: str) -> None: ...


class Decord:
    def open(self, path: str, scale: bool) -> Any:
        if not scale:
            return decord.VideoReader(path, num_threads=1)
        height, width = small(*SIZES[path])  # it must be told both sides beforehand, so here it is told for free
        return decord.VideoReader(path, width=width, height=height, num_threads=1)

    def clip(self, reader: Any, wanted: list[int], scale: bool) -> np.ndarray:
        return reader.get_batch(wanted).asnumpy()

    def close(self, reader: Any) -> None: ...


class TorchCodec:
    def __init__(self, mode: str) -> None:
        self.mode = mode

    def open(self, path: str, scale: bool) -> Any:
        transforms = [Resize(small(*SIZES[path]))] if scale else None
        return VideoDecoder(
            path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=self.mode, transforms=transforms
        )

    def clip(self, reader: Any, wanted: list[int], scale: bool) -> np.ndarray:
        return reader.get_frames_at(wanted).data.numpy()

    def close(self, reader: Any) -> None: ...


class OpenCV:
    """Seeks by frame number, skips with grab(), scales with cv2.resize: it cannot while decoding."""

    def open(self, path: str, scale: bool) -> Any:
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG)

    def clip(self, reader: Any, wanted: list[int], scale: bool) -> np.ndarray:
        reader.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
        frames: list[np.ndarray] = []
        for index in range(wanted[0], wanted[-1] + 1):
            if not reader.grab():
                break
            if index in wanted:
                picture = reader.retrieve()[1]
                picture = cv2.resize(picture, small(*picture.shape[:2])[::-1]) if scale else picture
                frames += [cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)] * wanted.count(index)
        return np.stack(frames)

    def close(self, reader: Any) -> None:
        reader.release()


class PlainPyAV:
    """The loop of most data sets: seek to the key frame before, decode all, `to_ndarray` what is wanted."""

    def open(self, path: str, scale: bool) -> Any:
        container = av.open(path)
        container.streams.video[0].thread_type = "NONE"
        return container

    def clip(self, container: Any, wanted: list[int], scale: bool) -> np.ndarray:
        stream = container.streams.video[0]
        fps, origin = stream.average_rate, stream.start_time or 0
        container.seek(origin + int(wanted[0] / fps / stream.time_base), stream=stream)
        height, width = small(stream.height, stream.width) if scale else (None, None)
        frames: list[np.ndarray] = []
        for frame in container.decode(stream):
            index = round((frame.pts - origin) * stream.time_base * fps)
            if index in wanted:
                picture = frame.to_ndarray(format="rgb24", width=width, height=height)
                frames += [picture] * wanted.count(index)
            if index >= wanted[-1]:
                break
        return np.stack(frames)

    def close(self, container: Any) -> None:
        container.close()


READERS: dict[str, Any] = {
    "tubelet": Tubelet(),
    "decord": Decord(),
    "torchcodec": TorchCodec("exact"),
    "torchcodec approximate": TorchCodec("approximate"),
    "opencv": OpenCV(),
    "pyav": PlainPyAV(),
}
TASKS = [(index, scale) for scale in (False, True) for index in ("cold", "warm")]
SIZES: dict[str, tuple[int, int]] = {}  # height and width, by path


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def cold(reader: Any, path: str, wanted: list[int], scale: bool, now: Callable[[], float]) -> float:
    """Seconds for a clip, from opening the file to closing it."""
    start = now()
    kept = reader.open(path, scale)
    reader.clip(kept, wanted, scale)
    reader.close(kept)
    del kept
    return now() - start


def warm(reader: Any, kept: Any, wanted: list[int], scale: bool, now: Callable[[], float]) -> float:
    """Seconds for a clip of a reader that has been used before."""
    start = now()
    reader.clip(kept, wanted, scale)
    return now() - start


def measure(
    path: str, wanted: list[int], names: list[str], enough: float, now: Callable[[], float]
) -> dict[tuple[str, str, bool], float]:
    """Least seconds by reader, index and scale."""
    best: dict[tuple[str, str, bool], float] = {}
    for index, scale in TASKS:
        kept: dict[str, Any] = {}
        # Warm, torchcodec's two modes are one.
        running = [name for name in names if index == "cold" or name != "torchcodec approximate"]
        repeat, begin = 0, time.monotonic()
        while repeat < 2 or time.monotonic() - begin < enough:
            turn = repeat % len(names)
            repeat += 1
            for name in names[turn:] + names[:turn]:
                if name not in running:
                    continue
                reader = READERS[name]
                try:
                    if index == "cold":
                        seconds = cold(reader, path, wanted, scale, now)
                    else:
                        if name not in kept:
                            kept[name] = reader.open(path, scale)
                            reader.clip(kept[name], wanted, scale)
                        seconds = warm(reader, kept[name], wanted, scale, now)
                except Exception as error:  # decord's decoder breaks on some files when it is used again
                    print(f"{Path(path).name}: {name} {index} fails: {type(error).__name__}", file=sys.stderr)
                    best.pop((name, index, scale), None)
                    running.remove(name)
                else:
                    best[name, index, scale] = min(seconds, best.get((name, index, scale), math.inf))
        for name, reader in kept.items():
            READERS[name].close(reader)
    return best


def truth(path: str, wanted: list[int]) -> np.ndarray:
    """The frames of the ffmpeg command line."""
    video = tubelet.probe(path)
    with tubelet.opened(path) as (_, stream):
        number = stream.index
    select = "+".join(f"eq(n\\,{index})" for index in sorted(set(wanted)))
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        path,
        "-map",
        f"0:{number}",
        "-vf",
        f"select='{select}'",
    ]
    raw = subprocess.run(
        [*command, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    frames = np.frombuffer(raw, np.uint8).reshape(-1, video.height, video.width, 3)
    order = {index: t for t, index in enumerate(sorted(set(wanted)))}
    return frames[[order[index] for index in wanted]]


def verdict(reader: Any, path: str, wanted: list[int]) -> str:
    """Whether a reader hands over the right frames: "same", or what is wrong."""
    expected = truth(path, wanted)
    try:
        kept = reader.open(path, False)
        got = reader.clip(kept, wanted, False)
        reader.close(kept)
    except Exception as error:
        return f"fails: {type(error).__name__}"
    if got.shape != expected.shape:
        return f"other shape: {'x'.join(map(str, got.shape))}"
    # Other chroma filters differ by some levels at edges; another frame, or the same one in other colours, by more.
    apart = [float(np.abs(a.astype(np.int16) - b).mean()) for a, b in zip(got, expected)]
    return "same" if max(apart) < 2 else f"other frames: {sum(a >= 2 for a in apart)} of {FRAMES}"


def made(folder: Path) -> Path:
    """The usual shape of prepared training data: 340x256 H.264, key frames 250 apart; a noisy picture that pans."""
    path, rng = folder / "made_340x256_g250.mp4", np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (80, 160, 3), dtype=np.uint8), (1400, 700), interpolation=cv2.INTER_CUBIC)
    frames = [picture[t // 2 : t // 2 + 256, 3 * t : 3 * t + 340] for t in range(300)]
    noise = rng.integers(-6, 7, (256, 340, 1))
    clip = np.stack([np.clip(frame + np.roll(noise, 7 * t), 0, 255).astype(np.uint8) for t, frame in enumerate(frames)])
    tubelet.write(path, clip, 30, options={"g": "250", "keyint_min": "250", "sc_threshold": "0", "crf": "23"})
    return path


def found(folder: Path, pattern: str) -> Iterator[Path]:
    yield from sorted(p for p in folder.glob(pattern) if p.suffix in tubelet.SUFFIXES)


def geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def machine() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder of filmed clips")
    parser.add_argument("--files", default="*", help="which of them")
    parser.add_argument(
        "--seconds", type=float, default=0.8, help="repeat (twice at least) so long for each file and task"
    )
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu where others use the machine")
    parser.add_argument("--all-cores", action="store_true", help="let readers use more than one core")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity") and not options.all_cores:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    decord.logging.set_level(decord.logging.QUIET)

    now, rng = CLOCKS[options.clock], np.random.default_rng(0)
    verdicts: dict[tuple[str, str], str] = {}
    best: dict[tuple[str, str, str, bool], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(p) for p in [made(Path(folder)), *found(options.videos, options.files)]]
        for path in paths:
            video = tubelet.probe(path)
            SIZES[path] = (video.height, video.width)
            wanted = chosen(video.frames, float(rng.random()))
            for name, reader in READERS.items():
                verdicts[path, name] = verdict(reader, path, wanted)
            names = [name for name in READERS if name == "tubelet" or verdicts[path, name] == "same"]
            for key, seconds in measure(path, wanted, names, options.seconds, now).items():
                best[(path, *key)] = seconds
            print(Path(path).name, file=sys.stderr, flush=True)
    report(options.out, paths, verdicts, best)


def report(path: Path, paths: list[str], verdicts: Any, best: Any) -> None:
    """The table, and on stdout its last lines."""
    versions = f"tubelet (PyAV {av.__version__}), decord2 {decord.__version__}, torchcodec {torchcodec.__version__}"
    notes = [
        f"{machine()}; {date.today()}; Python {platform.python_version()}",
        f"{versions}, OpenCV {cv2.__version__}, PyAV {av.__version__}; torch {torch.__version__}",
        "python " + " ".join(["benchmarks/loader.py", *sys.argv[1:]]),
        "clips per second of one worker; ratio: to the best peer that hands over the right frames",
    ]
    header = ["file", "size", "index", "ratio", "best peer", *READERS, "frames"]
    rows: list[list[str]] = []
    ratios: dict[tuple[str, bool], list[float]] = {}
    for index, scale in TASKS:
        for file in paths:
            speed = {name: 1 / best[file, name, index, scale] for name in READERS if (file, name, index, scale) in best}
            peers = {name: value for name, value in speed.items() if name != "tubelet"}
            peer = max(peers, key=peers.__getitem__) if peers else ""
            ratio = speed["tubelet"] / peers[peer] if peers else math.nan
            if peers:
                ratios.setdefault((index, scale), []).append(ratio)
            wrong = "; ".join(f"{n} {verdicts[file, n]}" for n in READERS if verdicts[file, n] != "same")
            cells = [f"{speed[n]:.1f}" if n in speed else "" for n in READERS]
            size = str(SHORT) if scale else "native"
            rows.append([Path(file).name, size, index, f"{ratio:.2f}", peer, *cells, wrong or "same"])
    for (index, scale), values in ratios.items():
        size = str(SHORT) if scale else "native"
        worse = sum(v < 1 for v in values)
        note = f"{worse} of {len(values)} files below 1, lowest {min(values):.2f}"
        rows.append(["geometric mean", size, index, f"{geometric(values):.3f}", "", *[""] * len(READERS), note])
    with path.open("w", newline="") as out:
        out.writelines(f"# {note}\n" for note in notes)
        csv.writer(out).writerows([header, *rows])
    for row in rows[-len(ratios) :]:
        print(*row[:4], row[-1])


if __name__ == "__main__":
    main()
