"""What comes of damaged videos? A thousand and more, of every container: read, read with a note, refused, or worse.

    python benchmarks/damage.py --videos FOLDER [--files 1200] [--seed 0] [--workers 2] [--keep FOLDER]

Short cuts of the clips of a folder (one of each container and codec that is there, copied packet by packet; and the
same pictures in containers that are not there) are damaged in 30 ways (`damages.py`). In a process that may be killed,
with 2 GiB of memory more than it begins with, each is indexed (`probe`), decoded whole, by four clips at random, with
motion vectors, as a `Dataset` reads it, and checked (`check`, level decode). Outcomes:

- whole: every frame is that of the file before the damage; nothing is said, and nothing need be.
- fewer: the same, but frames at the end or the start are missing, and nothing in the file tells of them.
- changed: other pictures than before the damage, but FFmpeg decodes the same from the first packet on without a word of
  error, and no header says otherwise: nobody can know.
- noted: read; the clip, the sample or the check says that the file is damaged, too short, or breaks off.
- refused: a `VideoError`.
- logged: the same, with a complaint that FFmpeg only writes to its log.
- silent: wrong, and could be known: frames that differ from those before the damage although FFmpeg, decoding the file
  from its start, gives an error or marks something that they depend on; frames that FFmpeg does not show at that time,
  or nowhere; times that do not ascend; fewer seconds than the header has. And nothing is said.
- crash, hang (300 seconds), memory, exception: what must not be.

Writes benchmarks/damage.csv: a row for each way and container.
"""

import argparse
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av import logging
from damages import KINDS, Original
from table import provenance, save

from tubelet.data.check import check
from tubelet.data.datasets import Data, Dataset
from tubelet.data.h264 import Headers, Slice
from tubelet.data.index import NONE
from tubelet.data.items import Item
from tubelet.data.paint import Brush
from tubelet.data.sampling import Dense
from tubelet.data.vectors import Vectors
from tubelet.data.video import SUFFIXES, VideoError, demuxed, frames_at, opened, probe

FRAMES, SIZE, SMALL = 60, (112, 160), (28, 40)
H264 = {"g": "20", "bf": "2"}
# Ending of the name: encoder, options; of what the folder of videos may lack.
MADE = {
    "h264.mp4": ("libx264", H264), "h264_parts.mp4": ("libx264", H264), "h264.mov": ("libx264", H264),
    "h264.mkv": ("libx264", H264), "h264.ts": ("libx264", H264), "h264.flv": ("libx264", {"g": "20"}),
    "h264.avi": ("libx264", {"g": "20", "bf": "0"}), "h264.3gp": ("libx264", H264),
    "hevc.mp4": ("libx265", {"g": "20", "x265-params": "log-level=none"}),
    "hevc.mkv": ("libx265", {"g": "20", "x265-params": "log-level=none"}),
    "hevc.ts": ("libx265", {"g": "20", "x265-params": "log-level=none"}),
    "av1.mp4": ("libsvtav1", {"preset": "10", "g": "20"}), "av1.webm": ("libsvtav1", {"preset": "10", "g": "20"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "20"}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "20"}),
    "vp8.ogv": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "20"}),
    "mpeg4.avi": ("mpeg4", {"g": "20"}), "mpeg4.mp4": ("mpeg4", {"g": "20", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "15", "bf": "2"}), "mpeg1.mpg": ("mpeg1video", {"g": "15"}),
    "mpeg2.ts": ("mpeg2video", {"g": "15", "bf": "2"}), "mpeg2.vob": ("mpeg2video", {"g": "15"}),
    "mpeg2.mxf": ("mpeg2video", {"g": "12"}), "wmv2.wmv": ("wmv2", {"g": "20"}), "wmv1.asf": ("wmv1", {"g": "20"}),
    "msmpeg4.avi": ("msmpeg4", {"g": "20"}), "cinepak.avi": ("cinepak", {}), "mjpeg.avi": ("mjpeg", {}),
    "mjpeg.mov": ("mjpeg", {}), "flv1.flv": ("flv", {"g": "20"}), "h263.3gp": ("h263", {"g": "20"}),
    "gif.gif": ("gif", {}),
}  # fmt: skip
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8", "cinepak": "rgb24"}
FORMATS = {".ts": "mpegts", ".mpg": "mpeg", ".ogv": "ogg", ".wmv": "asf", ".m4v": "mp4"}  # by no name that FFmpeg knows
BAD = ("silent", "crash", "hang", "memory", "exception")
LIMIT = 300.0  # seconds for one file: as a training run waits
MEMORY = 2**31  # bytes beyond those that the process has at first


# ---------------------------------------------------------------------------- files that are whole


def originals(videos: Path, folder: Path) -> list[Original]:
    """Short files of every container: of what is there cut without decoding, the rest encoded from the same."""
    films = sorted(path for path in videos.rglob("*") if path.suffix.lower() in SUFFIXES)
    seen: dict[tuple[str, str], Path] = {}
    for path in films:
        with suppress(VideoError):
            seen.setdefault((path.suffix.lower(), probe(path).codec), path)
    for (ending, codec), path in seen.items():
        recut(path, folder / f"own_{codec}{ending}")
    for number, (name, (codec, options)) in enumerate(MADE.items()):
        film = films[number % len(films)]
        height, width = (96, 128) if codec == "h263" else SIZE  # it has five sizes only
        frames = frames_at(film, lambda video: np.arange(FRAMES) % video.frames, size=(height, width)).frames
        recode(frames.numpy(), folder / name, codec, options)
    found = [Original(path) for path in sorted(folder.iterdir())]
    return [one for one in found if probe(one.path).frames > 10]


def recut(source: Path, out: Path) -> None:
    """The first packets of a video in a file of their own."""
    with opened(source) as (container, stream), av.open(str(out), "w", format=FORMATS.get(out.suffix)) as made:
        track = made.add_stream_from_template(stream)
        packets = [packet for _, packet in zip(range(FRAMES), demuxed(container, stream))]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        if len(times) == len(packets):  # Matroska has no times of decoding, and those made up for it need not ascend
            late = max(time - packet.pts for time, packet in zip(times, packets))
            for time, packet in zip(times, packets):
                packet.dts = time - late
        for packet in packets:
            packet.stream = track
            made.mux(packet)


def recode(frames: np.ndarray, out: Path, codec: str, options: dict[str, str]) -> None:
    """Frames in a container, with a codec."""
    container_options = {"movflags": "frag_keyframe+empty_moov"} if "parts" in out.name else {}
    with av.open(str(out), "w", format=FORMATS.get(out.suffix), container_options=container_options) as container:
        stream: Any = container.add_stream(codec, 25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_type = PIXELS.get(codec, "yuv420p"), "NONE"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# ---------------------------------------------------------------------------- what is in a file by itself


@dataclass
class Player:
    """What FFmpeg shows of a file from its first packet on, in the order of showing."""

    times: list[int | None] = field(default_factory=list)  # in units of the stream
    pictures: list[bytes] = field(default_factory=list)
    troubled: list[bool] = field(default_factory=list)  # FFmpeg gave an error for something that the frame depends on
    logged: list[bool] = field(default_factory=list)  # or wrote about it
    said: float = 0.0  # seconds that the file is to have


@lru_cache(maxsize=4)
def played(path: Path, first: int = 0) -> Player:
    """A file decoded in the plainest way, and every complaint of FFmpeg put to the frames that may suffer from it.

    From packet `first` on, and those before it thrown away.
    """
    player, level = Player(), logging.get_level()
    logging.set_level(logging.ERROR)
    logging.set_skip_repeated(False)
    try:
        with logging.Capture() as lines, opened(path) as (container, stream):
            player.said = float(stream.duration or 0) * float(stream.time_base or 0)
            codec = stream.codec_context.name
            brush, keys, times = Brush(path), [0], dict[int | None, int | None]()
            bad, said = set[int](), set[int]()
            headers = Headers(stream.codec_context.extradata) if codec == "h264" else None
            frames: list[tuple[Any, bytes, bool]] = []
            for number, packet in enumerate([*demuxed(container, stream), None]):
                if packet is not None:
                    if number < first:
                        continue
                    keys += [number] if packet.is_keyframe else []
                    times[number] = packet.pts
                    packet.pts = number  # the time may be there twice
                    if packet.is_corrupt:
                        bad.add(number)
                before = len(lines)
                try:
                    for frame in stream.codec_context.decode(packet):
                        out = np.empty((*SMALL, 3), np.uint8)
                        with suppress(VideoError):
                            brush.paint(frame, out)
                        frames.append((frame.pts, out.tobytes(), frame.is_corrupt))
                        if not frames[1:] and not frame.key_frame and codec != "h264" and first:
                            return Player()  # no place to begin
                        if frame.is_corrupt and (int(frame.pict_type) != 3 or codec in ("h264", "hevc")):
                            bad.add(
                                number if frame.pts is None else frame.pts
                            )  # nothing refers to B-frames of older codecs
                except av.FFmpegError:
                    # Of H.264 frames that nothing refers to may be lost; if it was another, later ones are marked.
                    part = Slice(True, False) if headers is None or packet is None else headers.slices(bytes(packet))
                    if part is not None and part.reference:
                        bad.add(number)
                if any(line[1] == codec for line in lines[before:]):
                    said.add(number)
            for pts, picture, corrupt in frames:
                at = pts or 0
                key = max((place for place in keys if place <= at), default=0)
                player.times.append(times.get(pts))
                player.pictures.append(picture)
                player.troubled.append(corrupt or any(key <= place <= at for place in bad))
                player.logged.append(any(key <= place <= at for place in said))
    finally:
        logging.set_level(level)
    return player


# ---------------------------------------------------------------------------- one damaged file


class Silent(Exception):
    """Something is wrong, could be known, and was not said."""


def judged(path: Path, truth: dict[str, np.ndarray]) -> tuple[str, str]:
    """The outcome, and a word on it."""
    warnings.simplefilter("ignore")
    notes: list[str] = []
    try:
        video = probe(path)
    except VideoError as error:
        return "refused", str(error)
    if not (np.diff(video.seconds) > 0).all() or not np.isfinite(video.seconds).all():
        raise Silent("times do not ascend")
    if not (0 < video.fps < np.inf and video.width > 0 and video.height > 0):
        raise Silent(f"{video!r}")
    player = played(path)
    indices = np.unique(np.linspace(0, video.frames - 1, 200).astype(int))
    rng = np.random.default_rng(0)
    some = [np.sort(rng.integers(0, video.frames, 6)) for _ in range(3)]
    some.append(np.arange(max(video.frames - 6, 0), video.frames))
    verdicts, shift = [], 0.0
    for asked in (indices, *some):
        try:
            clip = frames_at(video, asked, size=SMALL)
        except VideoError as error:
            notes.append(str(error))
            continue
        pictures = clip.frames.numpy()
        if asked is indices:  # times are told from the first frame on, which may be a later one now
            near = np.abs(truth["frames"].astype(int) - pictures[0]).mean((1, 2, 3))
            shift = float(truth["seconds"][near.argmin()]) if near.min() < 3 else 0.0
        if clip.damaged:
            notes.append(f"{clip.damaged} damaged")
            continue
        for index, picture in zip(asked.tolist(), pictures):
            verdicts.append(verdict(index, video, picture, player, truth, shift))
    with suppress(VideoError):
        frames_at(video, some[0], size=SMALL, vectors=True)
    for motion in (None, Vectors(fallback="none")):
        try:
            sample = Dataset([Item(path)], Data(Dense(8, stride=2), size=(32, 32), motion=motion))[0]
            notes += [note for note in sample.notes if note.kind != "vectors" and "vector" not in note]
        except VideoError as error:
            notes.append(str(error))
    row = check([Item(path)], "decode", workers=0).rows[0]
    notes += [row.problem] if row.problem else []
    wrong = [words for kind, words in verdicts if kind == "silent"]
    if wrong:
        raise Silent(f"{len(wrong)} of {len(verdicts)} frames, first: {wrong[0]}")
    if notes:
        return "noted", notes[0]
    kinds = {kind for kind, _ in verdicts}
    kind = "changed" if "changed" in kinds else "logged" if "logged" in kinds else "whole"
    if kind == "whole" and video.frames < len(truth["seconds"]):
        kind = "fewer"
        if player.said > 1.1 * video.duration + 0.5:
            raise Silent(f"{player.said:.2f} s are to be there, {video.duration:.2f} are")
    return kind, f"{video.frames} frames"


def verdict(
    index: int, video: Any, picture: np.ndarray, player: Player, truth: dict[str, np.ndarray], shift: float
) -> tuple[str, str]:
    """Whether a frame that came without a note is right, changed without anyone's knowing, or silently wrong."""
    for later in (0.0, shift):
        place = int(np.abs(truth["seconds"] - video.seconds[index] - later).argmin())
        if np.abs(picture.astype(int) - truth["frames"][place]).mean() < 3:
            return "right", ""
    stamp, data = int(video.stamps[index]), picture.tobytes()
    found = [n for n, other in enumerate(player.pictures) if other == data]
    if all(player.troubled[n] for n in found):  # or nowhere: decoders remember more than a key frame should leave them
        row = int(np.searchsorted(video.starts[:, 0], index, side="right")) - 1
        again = played(video.path, int(video.starts[row, 1]))
        if found := [n for n, other in enumerate(again.pictures) if other == data]:
            player = again
    if not found:
        if any(player.logged):
            return "logged", ""  # what does not decode shows what was in memory before
        # A spoilt key frame keeps what VP8 knew of what was decoded before; of half a JPEG the rest is old memory.
        if video.codec in ("vp8", "mjpeg") and not any(player.troubled):
            return "changed", ""
        return "silent", f"frame {index} is shown nowhere"
    if all(player.troubled[n] for n in found):
        return "silent", f"frame {index} depends on what FFmpeg complains of"
    if video.stamp == "pts":
        times = [player.times[n] for n in found]
        if stamp not in times and NONE not in times:
            if any(player.logged):
                return "logged", ""
            return "silent", f"frame {index} is shown at {times}, not at {stamp}"
    return "logged" if all(player.logged[n] for n in found) else "changed", ""


def answered(job: tuple[str, Path]) -> tuple[str, str]:
    """The outcome of a file, whatever happens."""
    path, beside = Path(job[0]), job[1]
    truth = dict(np.load(beside))
    try:
        return judged(path, truth)
    except Silent as error:
        return "silent", str(error)
    except MemoryError:
        return "memory", traceback.format_exc()
    except Exception:
        return "exception", traceback.format_exc()


def serve(pipe: Any) -> None:
    """A worker: answers for one file after the other, in little memory."""
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    while (job := pipe.recv()) is not None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory anew
        before = time.process_time()
        outcome, words = answered(job)
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        pipe.send((outcome, words, peak, time.process_time() - before))


class Worker:
    """A process that is asked one file at a time, and may be killed."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job, self.since = -1, 0.0

    def ask(self, number: int, job: tuple[str, Path]) -> None:
        self.job, self.since = number, time.monotonic()
        self.pipe.send(job)

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def outcomes(jobs: list[tuple[str, Path]], workers: int, limit: float = LIMIT) -> list[tuple[str, str, float, float]]:
    """(outcome, a word on it, peak in MiB, seconds of the processor) of every job."""
    results: dict[int, tuple[str, str, float, float]] = {}
    todo, team = iter(range(len(jobs))), [Worker() for _ in range(min(workers, len(jobs)))]
    for worker in team:
        worker.ask(number := next(todo), jobs[number])
    while team:
        ready = wait([worker.pipe for worker in team], timeout=0.5)
        for worker in [*team]:
            late = time.monotonic() - worker.since > limit + 30 * (worker.since < 1)
            if worker.pipe not in ready and not late:
                continue
            try:
                results[worker.job] = worker.pipe.recv() if worker.pipe in ready else ("hang", "", 0.0, limit)
            except (EOFError, OSError):
                worker.process.join(10)
                results[worker.job] = ("crash", f"exit code {worker.process.exitcode}", 0.0, 0.0)
            team.remove(worker)
            if results[worker.job][0] in ("hang", "crash"):
                worker.end()
                worker = None
            if (number := next(todo, None)) is not None:
                team.append(worker := worker or Worker())
                worker.ask(number, jobs[number])
            elif worker is not None:
                worker.end()
    return [results[number] for number in range(len(jobs))]


# ---------------------------------------------------------------------------- all


def damaged(whole: list[Original], count: int, seed: int, folder: Path) -> list[tuple[str, Original, Path, Path]]:
    """(kind, original, damaged file, what the original shows), kind by kind and original by original."""
    truths = {}
    for one in whole:
        video = probe(one.path)
        clip = frames_at(video, np.arange(video.frames), size=SMALL)
        truths[one.path] = folder / f"{one.path.name}.npz"
        np.savez(truths[one.path], seconds=video.seconds, frames=clip.frames.numpy())
    made: list[tuple[str, Original, Path, Path]] = []
    number = 0
    while len(made) < count:
        kind = [*KINDS][number % len(KINDS)]
        one = whole[(number // len(KINDS) + number) % len(whole)]
        rng = np.random.default_rng([seed, number])
        number += 1
        others = [other for other in whole if other is not one]
        alike = [other for other in others if other.ending == one.ending]
        other = rng.choice(np.array(alike if alike and rng.random() < 0.6 else others, dtype=object))
        if (result := KINDS[kind](one, other, rng)) is None:
            continue
        data, ending = result if isinstance(result, tuple) else (result, one.ending)
        path = folder / f"{number:05d}_{one.path.stem}{ending}"
        path.write_bytes(data)
        made.append((kind, one, path, truths[one.path]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--files", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    args = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "whole").mkdir()
        whole = originals(Path(args.videos), folder / "whole")
        made = damaged(whole, args.files, args.seed, folder)
        print(f"{len(made)} files from {len(whole)} originals", flush=True)
        begin = time.monotonic()
        found = outcomes([(str(path), truth) for _, _, path, truth in made], args.workers)
        print(f"{time.monotonic() - begin:.0f} s; largest peak {max(row[2] for row in found):.0f} MiB")
        counts: dict[tuple[str, str], Counter[str]] = {}
        for (kind, one, path, _), (outcome, words, peak, seconds) in zip(made, found):
            counts.setdefault((kind, one.ending), Counter())[outcome] += 1
            if outcome in BAD:
                print(f"{outcome}: {kind}, {path.name}: {words} ({peak:.0f} MiB, {seconds:.1f} s)", flush=True)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / path.name).write_bytes(path.read_bytes())
    names = ("whole", "noted", "refused", "fewer", "changed", "logged", *BAD)
    total = sum(counts.values(), Counter())
    print({name: total[name] for name in names})
    about = {"seed": args.seed} | provenance()
    save(__file__, [
        {"damage": kind, "container": ending.removeprefix(".")} | {name: count[name] for name in names} | about
        for (kind, ending), count in sorted(counts.items())
    ])  # fmt: skip


if __name__ == "__main__":
    main()
