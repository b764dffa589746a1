"""A data set made anew for training: videos small, key frames at equal distances, motion vectors that can be relied on.

Each file is encoded once, as a whole; lists that name parts of it go on doing so, because frames and their times stay.
The source is only read. How a file is encoded is in `writing.py`, tar files are in `shards.py`, and what is done, so
that work can be stopped and shared, in `notebook.py`.
"""

import csv
import hashlib
import math
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from tubelet.data import kept
from tubelet.data.check import headers
from tubelet.data.container import opened
from tubelet.data.images import is_picture
from tubelet.data.index import SUFFIXES, Damage, Video, VideoError
from tubelet.data.items import LIST, Item
from tubelet.data.notebook import Notebook, Packer, Row, begun, state
from tubelet.data.processes import alive, in_processes
from tubelet.data.remote import absolute, shown, url_of
from tubelet.data.sources import LAYOUTS, find
from tubelet.data.split import write_list
from tubelet.data.video import decoded_from, frames_at, probe
from tubelet.data.writing import DiskError, Encoding, encode
from tubelet.types import Motion

__all__ = ["Encoding", "Outcome", "prepare"]

REPORT, QUARANTINE = "prepared.csv", "quarantine.csv"
STILL = 0.5  # pixels a frame: what moves less is noise
Progress = Callable[[int, int], object]  # files done, files in all


class Job(NamedTuple):
    """A file to encode."""

    source: Path
    key: str  # its name in the new folder, without ending


@dataclass(frozen=True)
class Outcome:
    """What stands in the new folder after a piece of the work."""

    rows: tuple[Row, ...]  # of all files done so far, those in quarantine too
    new: int  # files that were done now
    left: int  # files that other parts are still to do
    seconds: float  # that this piece took

    @property
    def quarantined(self) -> tuple[Row, ...]:
        """The files that could not be had."""
        return tuple(row for row in self.rows if row.problem)

    def totals(self) -> dict[str, Any]:
        """Counts over all files that are done."""
        good = [row for row in self.rows if not row.problem]
        return {
            "videos": len(good),
            "new": self.new,
            "left": self.left,
            "quarantined": len(self.quarantined),
            "frames": sum(row.frames for row in good),
            "hours": round(sum(row.seconds for row in good) / 3600, 4),
            "bytes_before": sum(row.bytes_before for row in good),
            "bytes": sum(row.bytes for row in good),
            "damaged": sum(row.damaged for row in good),
            "psnr": min((row.psnr for row in good if row.psnr is not None and row.psnr < math.inf), default=None),
            "seconds": round(self.seconds, 1),
        }

    def to_dict(self) -> dict[str, Any]:
        """Totals, and what is wrong or was lost, for JSON."""
        notes = {row.source: row.note for row in self.rows if row.note}
        return self.totals() | {"problems": {row.source: row.problem for row in self.quarantined}, "notes": notes}


# ---------------------------------------------------------------------------- all files


def prepare(
    source: Path | str,
    out: Path,
    how: Encoding = Encoding(),  # noqa: B008 - it is frozen
    *,
    shard_bytes: int | None = None,
    part: tuple[int, int] = (0, 1),
    lost: float = 0.05,
    retry: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """The videos of a source, encoded into a folder that `find` reads, with a list, a report and a quarantine list.

    `part` (i, n) does every n-th file from the i-th on; whichever part is done last writes the lists. Files that are
    done and whose source is as it was are not done again. A file that cannot be decoded, or of which more than a share
    of `lost` frames cannot, goes to the quarantine list; `retry` tries those of an earlier time again. With
    `shard_bytes` the videos go into tar files of about that size. 0 `workers`: in this process.

    Raises:
        ValueError: source and folder overlap; the folder holds something else, was begun in another way, or is in use.
        DiskError: the disk is full, or refuses. What is done stays.
    """
    if url_of(out) is not None:
        raise ValueError(f"{shown(out)} lies elsewhere; prepare into a folder here, and copy it there when it is done")
    begin, items = monotonic(), find(source)
    index, count = part
    if not 0 <= index < count:
        parts = f"0/{count} to {count - 1}/{count}" if count > 1 else "0/1, which is all"
        raise ValueError(f"part {index}/{count} is none: expected {parts}")
    if not 0 <= lost < 1:
        raise ValueError(f"{lost:g} of the frames lost: expected a share from 0 to less than 1")
    if workers is not None and workers < 0:
        raise ValueError(f"{workers} workers: expected 0 (none beside this process) or more")
    jobs = jobs_of(items, apart(source, items, out), shard_bytes is not None)
    origin = os.path.abspath(source) if Path(source).exists() else str(source)
    begun(out, {"source": origin, "shard_bytes": shard_bytes, **asdict(how)})
    book, sharded = Notebook(out, part), shard_bytes is not None
    with book.open():
        mine = jobs[index::count]
        todo = [job for job in mine if not book.stands(*job, sharded, retry)]
        if changed := [job for job in todo if job.key in book.packed]:
            raise ValueError(
                f"{changed[0].source} is another file now than the one in {book.packed[changed[0].key][0]}, and shards "
                "stay as they are; name a new folder"
            )
        keys = {os.fspath(job.source): job.key for job in todo}
        packer = Packer(book, mine, items, shard_bytes, keys) if shard_bytes is not None else None

        def keep(done: int, row: Row) -> None:
            if row.problem:  # before it is noted: a kill between the two leaves nothing that nobody knows of
                book.drop(keys[row.source], sharded)
            book.add(row)
            if packer:
                packer.came(row.source)
            if progress:
                progress(len(mine) - len(todo) + done, len(mine))

        work = partial(remade, book=(out, book.scratch), sharded=sharded, how=how, lost=lost)
        in_processes(work, todo, workers, keep, died)
        if packer:
            packer.go_on(last=True)
        book.read()  # what other parts did meanwhile
        rows = [
            row
            for job in jobs
            if book.stands(*job, sharded) and (row := book.final(book.rows[os.fspath(job.source)], job.key))
        ]
        if len(rows) == len(jobs):
            listed(out, items, rows)
            book.clear()
    return Outcome(tuple(rows), len(todo), len(jobs) - len(rows), monotonic() - begin)


def apart(source: Path | str, items: Sequence[Item], out: Path) -> Path:
    """The folder that all videos are in, after a look whether the new one is apart from them.

    Raises:
        ValueError: it is not.
    """
    new = os.path.realpath(out)
    folders = {Path(absolute(item.path)).parent for item in items}
    root = Path(os.path.commonpath(folders))
    if Path(source).is_dir():
        root = Path(os.path.abspath(source))
    own = [root] if Path(source).is_dir() else []
    layout, _, rest = str(source).partition(":")
    if layout in LAYOUTS:  # LAYOUT:FOLDER:...; names are searched in it at any depth
        own += [root, Path(rest.partition(":")[0])]
    for one in own:
        real = os.path.realpath(one)
        if os.path.commonpath([real, new]) == real:
            raise ValueError(
                f"{out} is {'the source itself' if new == real else f'inside the source {one}'}, to which nothing "
                "is ever written; name a folder elsewhere"
            )
    for folder in {os.path.realpath(folder) for folder in folders} | {os.path.realpath(item.path) for item in items}:
        if os.path.commonpath([folder, new]) == new:
            raise ValueError(f"the source {folder} is inside {out}, which is to be written; name a folder elsewhere")
    return root


def jobs_of(items: Sequence[Item], root: Path, sharded: bool) -> list[Job]:
    """Every file that the items are parts of, once, with names as in `root`; those that would be the same are changed.

    In shards a name has no dots, since what follows the first one is the kind of a member.
    """
    jobs: list[Job] = []
    taken: set[str] = set()
    for path in dict.fromkeys(Path(absolute(item.path)) for item in items):
        within = path.relative_to(root)
        kind = path.suffix if path.suffix.lower() in SUFFIXES else ""
        stem = within.name.removesuffix(kind)
        stem = stem.replace(".", "_") if sharded else stem
        names = [stem, f"{stem}_{kind[1:]}", *(f"{stem}_{number}" for number in range(2, len(items) + 2))]
        key = next(key for name in names if (key := within.with_name(name).as_posix()).lower() not in taken)
        taken.add(key.lower())  # some disks take capitals and small letters for the same
        jobs.append(Job(path, key))
    return jobs


def listed(out: Path, items: Sequence[Item], rows: Sequence[Row]) -> None:
    """Writes the list that `find` reads, the report, the quarantine list, and the file of indices.

    Raises:
        DiskError: the disk is full, or refuses.
    """
    places = {row.source: out / row.path for row in rows if not row.problem}
    left = [replace(item, path=places[source]) for item in items if (source := absolute(item.path)) in places]
    good, names = [row for row in rows if not row.problem], [field.name for field in fields(Row)]
    parts = {name: out / f".{name}.{os.getpid()}" for name in (REPORT, QUARANTINE, kept.INDEX, LIST)}
    try:
        for part in parts.values():
            part.unlink(missing_ok=True)
        table(parts[REPORT], [name for name in names if name not in ("problem", "index")], good)
        table(parts[QUARANTINE], ["source", "problem", "bytes_before"], [row for row in rows if row.problem])
        kept.write(parts[kept.INDEX], [b64decode(row.index) for row in good if row.index])
        write_list(parts[LIST], left)
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        raise DiskError.of(f"the lists in {out} cannot be written", error) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def table(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """A csv file of some columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(names)
        lines.writerows([getattr(row, name) for name in names] for row in rows)


# ---------------------------------------------------------------------------- one file


def remade(job: Job, book: tuple[Path, Path], sharded: bool, how: Encoding, lost: float) -> Row:
    """Encodes one file; a row about it.

    Raises:
        DiskError: the disk is full, or refuses.
    """
    out, scratch = book
    size, modified = state(job.source)
    row = Row(os.fspath(job.source), bytes_before=size, modified=modified)
    target, part = (scratch if sharded else out) / f"{job.key}.mp4", scratch / f".{os.getpid()}.mp4"
    damage = Damage()
    try:
        video = probe(job.source)
        row = replace(row, codec=video.codec, height_before=video.height, width_before=video.width)
        said = headers(job.source)["duration"]
        if said > 1.1 * video.duration + 0.5:
            raise VideoError(f"breaks off after {video.duration:.1f} of {said:.1f} seconds: copy it anew")
        shown = video.height, video.width
        made = encode(part, every_frame(video, damage), shown, video.fps, how, alive, pixel_of(video))
        if len(damage.frames) > lost * video.frames:
            raise VideoError(
                f"{len(damage.frames)} of {video.frames} frames are lost to damage: copy it anew, or allow for more"
            )
        if (found := probe(part, anew=True)).frames != made.frames:
            raise DiskError(
                f"{part} has {found.frames} frames, not the {made.frames} that were written: is the disk full?"
            )
        psnr = made.psnr and round(made.psnr, 2)
        row = replace(row, frames=made.frames, height=made.height, width=made.width, psnr=psnr)
        moving = share_moving(part, made.frames, how)
        if damaged := max(len(damage.packets), len(damage.frames)):
            note = f"{len(damage.frames)} of {video.frames} frames replaced, {len(damage.packets)} packets damaged"
            row = replace(row, note=note, damaged=damaged)
        with part.open("rb") as file:
            mark = hashlib.file_digest(file, "sha256").hexdigest()
        index = b64encode(kept.packed(found) or b"").decode()
        row = replace(row, seconds=video.duration, moving=moving, sha256=mark, bytes=part.stat().st_size, index=index)
        placed(part, target)
    except DiskError:
        raise
    except (VideoError, OSError) as error:
        return replace(row, problem=str(error).removeprefix(str(job.source)).strip())
    finally:
        part.unlink(missing_ok=True)
    return row if sharded else replace(row, path=f"{job.key}.mp4")


def placed(part: Path, target: Path) -> None:
    """Puts a finished file where it belongs.

    Raises:
        DiskError: the disk is full, or refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
    except OSError as error:
        raise DiskError.of(f"{target} cannot be written", error) from error


def died(job: Job) -> Row:
    """The row of a file that took its process with it."""
    size, modified = state(job.source)
    problem = "the process that read this file died: FFmpeg crashed, or memory ran out"
    return Row(os.fspath(job.source), problem=problem, bytes_before=size, modified=modified)


def pixel_of(video: Video) -> Fraction:
    """How wide a pixel is to be shown, in heights of it; 1 where the file does not say."""
    if video.path.is_dir() or is_picture(video.path):
        return Fraction(1)
    with opened(video.path) as (_, stream):
        shape = stream.sample_aspect_ratio or Fraction(1)
    return 1 / shape if video.rotation % 180 else shape


def every_frame(video: Video, damage: Damage) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) of a whole video: decoded, not yet turned; of images, arrays.

    A lost frame is replaced by the one before it, or the first that decodes.

    Raises:
        VideoError: none decodes.
    """
    if video.path.is_dir() or is_picture(video.path):
        for index, seconds in enumerate(video.seconds.tolist()):
            clip = frames_at(video, [index])
            yield seconds, clip.frames[0].numpy()
        return
    places = {stamp: index for index, stamp in enumerate(video.stamps.tolist())}
    seconds, waiting, near = video.seconds.tolist(), 0, None
    with opened(video.path) as (container, stream):
        for frame in decoded_from(video, container, stream, video.starts[0], set(places), damage, True):
            index = places.get(frame.pts, -1)
            if index < waiting:  # cut off by an edit list
                continue
            damage.frames.update([index] if frame.is_corrupt else [], range(waiting, index))
            for lost in range(waiting, index):
                yield seconds[lost], near or frame
            yield seconds[index], frame
            waiting, near = index + 1, frame
        if near is None:
            raise VideoError(f"{video.path}: none of its {video.frames} frames decodes; copy it anew, or leave it out")
        damage.frames.update(range(waiting, video.frames))
        for lost in range(waiting, video.frames):
            yield seconds[lost], near


def share_moving(path: Path, frames: int, how: Encoding) -> float | None:
    """How much of a video moves, by the vectors behind the key frame in its middle; none where there are none."""
    step, start = how.layered, frames // 2 // how.keyframes * how.keyframes
    clip = frames_at(path, range(start, min(start + 8 * step + 1, frames), step), gray=True, vectors=True)
    share = None if clip.motion is None else moving(clip.motion, step)
    return None if share is None else round(share, 4)


def moving(motion: Motion, step: int = 1) -> float | None:
    """Share of the blocks with a vector, of frames `step` apart, that move more than half a pixel a frame."""
    lengths = motion.to_previous.norm(dim=-4)[motion.had]
    return float((lengths > STILL * step).float().mean()) if len(lengths) else None
