"""Is this data fit to train on: every file opened, demuxed or decoded, and what there is to know before a run."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

import numpy as np

from tubelet.data.flow import Flow, usable
from tubelet.data.images import is_picture
from tubelet.data.motion import STANDS_IN
from tubelet.data.parts import part_of
from tubelet.data.processes import in_processes
from tubelet.data.shards import content, exists, state_of
from tubelet.data.sources import Item
from tubelet.data.vectors import Vectors, has_vectors, tells
from tubelet.data.video import VideoError, frames_at, opened, probe
from tubelet.types import Sampler

Level = Literal["open", "demux", "decode"]
Progress = Callable[[int, int], object]  # files done, files in all
T = TypeVar("T")

SMALL = (16, 16)  # pixels that are kept of a decoded frame: an hour of video takes 28 MB


@dataclass(frozen=True)
class Row:
    """What is known of one file. Zeros where it could not be read so far."""

    path: str
    label: str | None = None
    problem: str = ""  # empty: fit to train on
    codec: str = ""
    width: int = 0  # pixels
    height: int = 0
    fps: float = 0.0
    frames: int = 0
    duration: float = 0.0  # seconds
    variable: bool = False  # frames are not evenly spaced
    damaged: int = 0  # packets that do not decode, or frames that the decoder made up
    short: bool = False  # fewer frames than a clip takes; a picture never is
    vectors: bool = False  # most frames have motion vectors; by the codec alone if opened only
    bytes: int = 0


@dataclass(frozen=True)
class Report:
    """What a check found."""

    level: Level
    rows: tuple[Row, ...]
    duplicates: tuple[tuple[str, ...], ...]  # groups of files with the same bytes
    clip: str = ""  # the sampler that `short` is about
    instead: str = ""  # what is done about files without motion vectors, where a run takes motion from them

    @property
    def problems(self) -> tuple[Row, ...]:
        """The files that are not fit to train on."""
        return tuple(row for row in self.rows if row.problem)

    def totals(self) -> dict[str, object]:
        """Counts over all files; everything but `videos` and `problems` over the readable ones."""
        good = [row for row in self.rows if row.codec]
        return {
            "videos": len(self.rows),
            "problems": len(self.problems),
            "hours": round(sum(row.duration for row in good) / 3600, 4),
            "frames": sum(row.frames for row in good),
            "codecs": counted(row.codec for row in good),
            "sizes": counted(f"{row.width}x{row.height}" for row in good),
            "fps": counted(f"{row.fps:.4g}" for row in good),
            "variable": sum(row.variable for row in good),
            "short": sum(row.short for row in good),
            "vectors": sum(row.vectors for row in good),
            "duplicates": sum(len(group) - 1 for group in self.duplicates),
            "labels": counted(row.label for row in self.rows if row.label is not None),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, for JSON."""
        return asdict(self) | {"totals": self.totals()}

    def lines(self) -> list[str]:
        """The summary for people, problems last."""
        total, good = self.totals(), [row for row in self.rows if row.codec]
        how = {"open": "headers read", "demux": "all packets read", "decode": "all frames decoded"}[self.level]
        lines = [
            f"{len(self.rows)} video{'s' * (len(self.rows) != 1)}, {length(sum(row.duration for row in good))} ({how})"
        ]
        if good:
            lengths = sorted(row.frames for row in good)
            lines += [
                f"codecs      {listing(total['codecs'])}",
                f"sizes       {listing(total['sizes'])}",
                f"frame rates {listing(total['fps'])}" + f"; {total['variable']} variable" * bool(total["variable"]),
                f"frames      {lengths[0]} to {lengths[-1]}, median {median(lengths):g}",
            ]
        if total["labels"]:
            lines.append(f"classes     {balance(total['labels'], len(self.rows))}")
        if total["short"]:
            names = [row.path for row in good if row.short]
            lines.append(f"too short   {len(names)} for {self.clip}, so frames would be repeated: {some(names)}")
        if self.instead and good:
            bare = [row.path for row in good if not row.vectors]
            text = f"{len(bare)} of {len(good)} files have none, or too few; {self.instead}: {some(bare)}"
            lines.append(f"vectors     {text if bare else 'in all files'}")
        lines += [f"duplicates  {' = '.join(group)}" for group in self.duplicates]
        lines.append(f"problems    {len(self.problems) or 'none'}")
        return lines + [f"  {row.path}: {row.problem.removeprefix(row.path).strip()}" for row in self.problems]


# ---------------------------------------------------------------------------- the check


def check(
    items: Sequence[Item],
    level: Level = "demux",
    sampler: Sampler | None = None,
    *,
    motion: Vectors | Flow | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """What is wrong with `items`, and what they are, in processes (0 `workers`: in this one).

    `open` reads headers, `demux` all packets, `decode` all frames, which finds all damage that decoders notice. With a
    sampler it also says which videos are too short for a clip; and which have no motion vectors, if `motion` is to come
    from them.
    """
    jobs = [(item, level, sampler) for item in items]
    rows = parallel(examine, jobs, workers, progress, crashed)
    sizes = Counter(row.bytes for row in rows if row.bytes)
    twins = [row.path for row in rows if sizes[row.bytes] > 1]  # only these need to be read for a digest
    with ThreadPoolExecutor() as pool:  # no new processes: starting one takes longer than most files
        digests = list(pool.map(digest, twins))
    groups: dict[str, list[str]] = {}
    for path, value in zip(twins, digests):
        if path not in groups.setdefault(value, []):  # a list may name a file twice on purpose
            groups[value].append(path)
    duplicates = tuple(tuple(group) for value, group in groups.items() if value and len(group) > 1)
    instead = without(motion) if isinstance(motion, Vectors) else ""
    return Report(level, tuple(rows), duplicates, str(sampler or ""), instead)


def examine(item: Item, level: Level, sampler: Sampler | None) -> Row:
    """What is known of one file after looking as closely as `level` says."""
    row = Row(str(item.path), item.label)
    try:
        row = replace(row, bytes=0 if item.path.is_dir() or not exists(item.path) else state_of(item.path)[0])
        if level == "open":
            row = replace(row, **headers(item.path))
            return replace(row, vectors=tells(row.codec))
        video = probe(item.path, anew=True)
        row = replace(
            row,
            codec=video.codec,
            width=video.width,
            height=video.height,
            fps=video.fps,
            frames=video.frames,
            duration=video.duration,
            variable=video.variable,
            short=sampler is not None
            and not is_picture(item.path)
            and too_short(sampler, video.seconds[part_of(item, video.seconds)]),
            vectors=has_vectors(video),
        )
        if level == "decode":
            row = replace(row, damaged=frames_at(video, np.arange(video.frames), size=SMALL, gray=True).damaged)
        said = 0.0 if is_picture(item.path) else headers(item.path)["duration"]
        if said > 1.1 * video.duration + 0.5:
            text = f"breaks off after {video.duration:.1f} of {said:.1f} seconds ({video.frames} frames): copy it anew"
            return replace(row, problem=text)
    except (VideoError, OSError) as error:
        return replace(row, problem=str(error))
    return replace(row, problem=f"{row.damaged} packets or frames are damaged") if row.damaged else row


def headers(path: Path) -> dict[str, Any]:
    """What a file says of itself, which need not be true."""
    if path.is_dir() or is_picture(path):
        video = probe(path)
        return {name: getattr(video, name) for name in ("codec", "width", "height", "fps", "frames", "duration")}
    with opened(path) as (container, stream):
        fps = float(stream.average_rate or 0)
        duration = (container.duration or 0) / 1e6  # FFmpeg's unit is the microsecond
        if stream.duration:  # of the pictures alone; sound may go on for longer
            duration = float(stream.duration * stream.time_base)
        elif told := re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska
            duration = 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3])
        frames = stream.frames or round(duration * fps)
        return {
            "codec": stream.codec_context.name,
            "width": stream.width,
            "height": stream.height,
            "fps": fps,
            "frames": frames,
            "duration": duration,
        }


def too_short(sampler: Sampler, seconds: np.ndarray) -> bool:
    """Whether a clip of this video would show a frame twice, or cannot be had."""
    try:
        indices = sampler(seconds, np.random.default_rng(0))
    except ValueError:
        return True
    return len(np.unique(indices)) < len(indices)


def without(motion: Vectors) -> str:
    """What a run does about files without motion vectors."""
    if usable(motion.fallback) == motion.fallback:
        return STANDS_IN[motion.fallback]
    return "flow is to stand in, which needs OpenCV (pip install 'tubelet[flow]')"


def crashed(item: Item, level: Level, sampler: Sampler | None) -> Row:
    """The row of a file that took its process with it."""
    return Row(str(item.path), item.label, "the process that read this file died: FFmpeg crashed, or memory ran out")


def digest(path: str) -> str:
    """A fingerprint of a file's bytes."""
    try:
        found = hashlib.blake2b()
        with content(Path(path)) as (file, left):
            while part := file.read(min(left, 2**20)):
                found.update(part)
                left -= len(part)
        return found.hexdigest()
    except OSError:
        return ""


def parallel(
    function: Callable[..., T],
    jobs: Sequence[tuple],
    workers: int | None,
    progress: Progress | None,
    died: Callable[..., T],
) -> list[T]:
    """`function` of every job, in order; `died` of a job whose process died."""
    results: dict[int, T] = {}

    def keep(done: int, found: tuple[int, T]) -> None:
        results[found[0]] = found[1]
        if progress:
            progress(done, len(jobs))

    todo = list(enumerate(jobs))
    in_processes(partial(numbered, function), todo, workers, keep, lambda job: (job[0], died(*job[1])))
    return [results[index] for index in range(len(jobs))]


def numbered(function: Callable[..., T], job: tuple[int, tuple]) -> tuple[int, T]:
    """`function` of a job, with the job's number."""
    return job[0], function(*job[1])


# ---------------------------------------------------------------------------- words


def length(seconds: float) -> str:
    """A time span, in the unit that suits it."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value is there, the most frequent first."""
    return dict(Counter(values).most_common())


def listing(counts: object) -> str:
    """The five most frequent values, with their counts."""
    assert isinstance(counts, dict)
    shown = [f"{value} ({count})" for value, count in list(counts.items())[:5]]
    return ", ".join(shown) + (f" and {len(counts) - 5} more" if len(counts) > 5 else "")


def balance(labels: object, videos: int) -> str:
    """How evenly videos are spread over classes."""
    assert isinstance(labels, dict)
    few, many = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
    bare = videos - sum(labels.values())
    spread = f"{labels[few]} ({few}) to {labels[many]} ({many}) videos each"
    spread = f"{labels[few]} videos each" if labels[few] == labels[many] else spread
    return f"{len(labels)}, {spread}" + (f"; {bare} videos without one" if bare else "")


def some(names: Sequence[str]) -> str:
    """The first three."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
