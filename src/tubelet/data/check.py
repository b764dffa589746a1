"""Is this data fit to train on: every file opened, demuxed or decoded, and what there is to know before a run."""

import hashlib
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tubelet.data import alike, cost
from tubelet.data.container import opened
from tubelet.data.findings import Leak, Level, Pair, Report, Row
from tubelet.data.flow import Flow, usable
from tubelet.data.images import is_picture
from tubelet.data.motion import STANDS_IN
from tubelet.data.parts import part_of
from tubelet.data.processes import Processes, alive
from tubelet.data.shards import content, exists, state_of
from tubelet.data.sources import Item
from tubelet.data.split import overlap, together
from tubelet.data.vectors import Vectors, has_vectors, tells
from tubelet.data.video import Video, VideoError, frames_at, probe
from tubelet.types import Sampler

__all__ = ["Report", "Row", "check"]

Progress = Callable[[int, int], object]  # files done, files in all
T = TypeVar("T")

SMALL = (16, 16)  # pixels that are kept of a decoded frame
PIECE = 250  # frames or more that are decoded in one go, from a key frame to another
TIMEOUT = 60.0  # seconds
SLOW_DISK, SLOW_DECODER = 1e7, 4e6  # bytes, and pixels, a second: so much longer large files may take
SPECIAL = {
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class How(NamedTuple):
    """How closely files are looked at."""

    level: Level
    sampler: Sampler | None = None
    vectors: bool = False  # a run takes motion from them
    near: bool = False


def check(
    items: Sequence[Item],
    level: Level = "demux",
    sampler: Sampler | None = None,
    *,
    motion: Vectors | Flow | None = None,
    near: bool = False,
    against: Sequence[Item] | None = None,
    timeout: float = TIMEOUT,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """What is wrong with `items`, and what they are, in processes (0 `workers`: in this one, without `timeout`).

    `open` reads headers, `demux` all packets, `decode` all frames, which finds all damage that decoders notice. With a
    sampler it also says which videos are too short for a clip, and what a clip costs; and which have no motion vectors,
    if `motion` is to come from them. `near` decodes the first seconds of each, and finds those that show the same.

    `against` are videos that must not be trained on, such as those to test with: those of the `items` that are among
    them, are like one of them (if `near`), or share a group with one, are leaks.

    A file that nothing comes of in `timeout` seconds is given up, its process ended (0: never). It is longer by one for
    every 10 MB; and of frames that are decoded for every 4 million pixels, in pieces.
    """
    how = How(level, sampler, isinstance(motion, Vectors), near)
    others = list(against or ())
    jobs = [(item, how) for item in items]
    jobs += [(item, How("open", near=True)) for item in others if near]
    with Processes(workers, len(jobs), timeout) as processes:
        late = partial(gave_up, timeout=timeout)
        seen = parallel(processes, looked, jobs, crashed, late, progress)
        rows = [row for row, _ in seen[: len(items)]]
        sizes = Counter(row.bytes for row in rows if row.bytes)
        twins = [row.path for row in rows if sizes[row.bytes] > 1]  # only these need to be read for a digest
        digests = parallel(processes, digest, [(path,) for path in dict.fromkeys(twins)], nothing, nothing)
    groups: dict[str, list[str]] = {}
    for path, value in zip(dict.fromkeys(twins), digests):  # a list may name a file twice on purpose
        groups.setdefault(value, []).append(path)
    duplicates = tuple(tuple(group) for value, group in groups.items() if value and len(group) > 1)
    instead = without(motion) if isinstance(motion, Vectors) else ""
    report = Report(level, tuple(rows), duplicates, str(sampler or ""), instead)
    if near:
        prints = [one for _, one in seen]
        pairs = [] if len(items) < 2 else alike.alike(prints[: len(items)])
        report = replace(report, near=tuple(paired(pairs, items, report)))
    if against is not None:
        readable = [(place, item) for place, item in enumerate(items) if not rows[place].problem]
        found = alike.alike([one for _, one in seen], len(items)) if near else []
        report = replace(report, leaks=tuple(leaking(readable, others, found, items)))
    return report


def paired(pairs: Sequence[alike.Alike], items: Sequence[Item], report: Report) -> Iterator[Pair]:
    """Pairs that show the same, but for those that are known to be the same files."""
    group = {path: number for number, paths in enumerate(report.duplicates) for path in paths}
    for pair in pairs:
        one, other = str(items[pair.one].path), str(items[pair.other].path)
        if one != other and group.get(one, one) != group.get(other, other):
            yield Pair(one, other, pair.one, pair.other, pair.likeness, pair.later, pair.mirrored)


def leaking(
    items: Sequence[tuple[int, Item]], others: Sequence[Item], pairs: Sequence[alike.Alike], every: Sequence[Item]
) -> Iterator[Leak]:
    """Videos that are also among the others, with their places: each once, and for the first reason there is."""
    places = {id(item): place for place, item in items}
    told: set[int] = set()

    def leak(place: int, other: Item, why: str) -> Iterator[Leak]:
        if place not in told:
            told.add(place)
            yield Leak(str(every[place].path), str(other.path), place, f"{why} {other.path}")

    for one, other in overlap([item for _, item in items], [other for other in others if exists(other.path)]):
        same = one.path.resolve() == other.path.resolve()
        yield from leak(places[id(one)], other, "is" if same else "has the same bytes as")
    for pair in pairs:
        other = others[pair.other - len(every)]
        if every[pair.one].path.resolve() != other.path.resolve() or together(every[pair.one], other):
            words = Pair("", "", 0, 0, pair.likeness, pair.later, pair.mirrored).how()
            yield from leak(pair.one, other, f"shows the same ({words}) as")
    groups = {other.group: other for other in reversed(others) if other.group is not None}
    for place, item in items:
        if item.group in groups:
            yield from leak(place, groups[item.group], f"is of the group {item.group!r}, as")


# ---------------------------------------------------------------------------- one file


def looked(item: Item, how: How) -> tuple[Row, alike.Print | None]:
    """What is known of one file, and its print if that was asked for and can be had."""
    row = examine(item, how)
    if not how.near or row.problem:
        return row, None
    try:
        alive(row.bytes / SLOW_DISK)
        one = alike.print_of(item)
    except (VideoError, OSError) as error:
        return replace(row, problem=row.problem or str(error), kind=row.kind or "unreadable"), None
    if one is None or alike.still(one):
        return replace(row, still=True), None
    return row, one


def examine(item: Item, how: How) -> Row:
    """What is known of one file after looking as closely as was asked for."""
    row = Row(str(item.path), item.label, start=item.start, end=item.end)
    try:
        if what := special(item.path):
            return replace(row, kind="not a file", problem=f"is {what} and no file; it was not opened: leave it out")
        row = replace(row, bytes=0 if item.path.is_dir() or not exists(item.path) else state_of(item.path)[0])
        alive(row.bytes / SLOW_DISK)
        if how.level == "open":
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
            rotation=video.rotation,
            vectors=has_vectors(video),
        )
        if len(gaps := cost.key_distances(video)):
            row = replace(row, key_median=float(np.median(gaps)), key_max=int(gaps.max()))
        if how.sampler is not None:
            row = replace(row, **of_clips(item, video, how.sampler, how.vectors))
        if how.level == "decode":
            row = replace(row, **decoded(video, row.decoded))
        said = 0.0 if is_picture(item.path) else headers(item.path)["duration"]
        if said > 1.1 * video.duration + 0.5:
            text = f"breaks off after {video.duration:.1f} of {said:.1f} seconds ({video.frames} frames): copy it anew"
            return replace(row, problem=text, kind="cut off")
    except (VideoError, OSError) as error:
        if not exists(item.path):
            return replace(row, problem=f"{item.path} is not there (any more)", kind="gone")
        return replace(row, problem=str(error), kind="unreadable")
    if row.damaged:
        return replace(row, problem=f"{row.damaged} packets or frames are damaged", kind="damaged")
    return row


def special(path: Path) -> str:
    """What there is instead of a file or folder, if anything; it is not opened."""
    try:
        return SPECIAL.get(stat.S_IFMT(path.stat().st_mode), "")
    except OSError:
        return ""


def of_clips(item: Item, video: Video, sampler: Sampler, vectors: bool) -> dict[str, Any]:
    """Whether clips of a video are too short, and what one costs."""
    part = part_of(item, video.seconds)
    short = not is_picture(item.path) and too_short(sampler, video.seconds[part])
    try:
        now, then = cost.per_clip(video, part, sampler, vectors)
    except ValueError:  # too short, and that is an error
        return {"short": short}
    return {"short": short, "decoded": round(now, 2), "times": round(cost.times_prepared(video, now, then), 3)}


def decoded(video: Video, clip: float) -> dict[str, Any]:
    """What is lost of a video when all of it is decoded; and the time that this took of one core, for a clip."""
    damaged, begin = 0, time.process_time()
    if video.path.is_dir() or is_picture(video.path):
        edges = [*range(0, video.frames, PIECE), video.frames]
    else:
        edges = [0]
        for key in video.starts[:, 0].tolist():  # where it begins elsewhere, frames would be decoded twice
            if key >= edges[-1] + PIECE:
                edges.append(key)
        edges.append(video.frames)
    for first, stop in pairwise(edges):
        alive((stop - first) * video.width * video.height / SLOW_DECODER)
        damaged += frames_at(video, np.arange(first, stop), size=SMALL, gray=True).damaged
    return {"damaged": damaged, "milliseconds": round(1000 * clip * (time.process_time() - begin) / video.frames, 3)}


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


def crashed(item: Item, how: How) -> tuple[Row, None]:
    """What is known of a file that took its process with it."""
    text = "the process that read this file died: FFmpeg crashed, or memory ran out"
    return Row(str(item.path), item.label, text, kind="crashes", start=item.start, end=item.end), None


def gave_up(item: Item, how: How, *, timeout: float) -> tuple[Row, None]:
    """What is known of a file that was given up."""
    text = f"nothing came of it in {timeout:g} seconds (--timeout): the disk does not answer, or it leads in circles"
    return Row(str(item.path), item.label, text, kind="hangs", start=item.start, end=item.end), None


def nothing(path: str) -> str:
    """The digest of a file that cannot be read to its end."""
    return ""


def digest(path: str) -> str:
    """A fingerprint of a file's bytes."""
    try:
        alive(state_of(Path(path))[0] / SLOW_DISK)
        found = hashlib.blake2b()
        with content(Path(path)) as (file, left):
            while part := file.read(min(left, 2**20)):
                found.update(part)
                left -= len(part)
        return found.hexdigest()
    except OSError:
        return ""


def parallel(
    processes: Processes,
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    died: Callable[..., T],
    late: Callable[..., T],
    progress: Progress | None = None,
) -> list[T]:
    """`function` of every job, in order; `died` of a job whose process died, `late` of one that was given up."""
    results: dict[int, T] = {}

    def keep(done: int, found: tuple[int, T]) -> None:
        results[found[0]] = found[1]
        if progress:
            progress(done, len(jobs))

    todo = list(enumerate(jobs))
    ways = [lambda job, way=way: (job[0], way(*job[1])) for way in (died, late)]
    processes.work(partial(numbered, function), todo, keep, *ways)
    return [results[index] for index in range(len(jobs))]


def numbered(function: Callable[..., T], job: tuple[int, tuple[Any, ...]]) -> tuple[int, T]:
    """`function` of a job, with the job's number."""
    return job[0], function(*job[1])
