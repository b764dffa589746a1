"""What a data set is made of, and how it is found in folders."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tubelet.data.images import SUFFIXES as PICTURES
from tubelet.data.images import is_even, is_frame, is_video
from tubelet.data.index import SUFFIXES

PREPARED, LIST = "prepared.json", "videos.csv"  # in a folder that `prepare` wrote: how, and what is in it


@dataclass(frozen=True)
class Item:
    """One video of a data set."""

    path: Path
    label: str | None = None  # as it was written: a class, several, shares of classes, or values; see `labels.Labels`
    start: float | None = None  # seconds: only this part of the video is meant; none: from its beginning
    end: float | None = None  # seconds; none: to its end
    group: str | None = None  # whoever or wherever was filmed: groups are never split between training and test


class Note(str):
    """What the reader had to do about one file: a line to log, with its kind and path to count by."""

    kind: str
    path: str
    codec: str  # where it matters

    def __new__(cls, text: str, kind: str = "", path: str = "", codec: str = "") -> "Note":
        note = super().__new__(cls, text)
        note.kind, note.path, note.codec = kind, path, codec
        return note


def scan(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Paths of the videos below a folder, sorted by name, and how many other files there are of each suffix.

    Where there is no video file at all, folders of images with numbers in their names are the videos; a warning says so
    where the numbers are not those of frames. Hidden files and folders are left out and not counted; links are
    followed, each real folder once.
    """
    videos: list[Path] = []
    folders_of_frames: list[Path] = []
    doubtful: list[Path] = []
    others: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for root, files in walked(folder):
        inside = is_video(files)
        folders_of_frames += [root] * inside
        doubtful += [root] * (inside and not is_even(files))
        for name in files:
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES:
                videos.append(root / name)
            else:
                others[suffix or "no suffix"] += 1
                frames[suffix] += inside and is_frame(name)
    if not videos:
        videos, others = folders_of_frames, others - frames
        if doubtful:
            more = f" (and {len(doubtful) - 1} more)" if len(doubtful) > 1 else ""
            warnings.warn(
                f"the images in {doubtful[0]}{more} are read as the frames of one video, though their numbers do not "
                f"go up in even steps; if they are single pictures, write images:{folder}",
                stacklevel=3,
            )
    return sorted(videos, key=lambda path: path.relative_to(folder).parts), others


def walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at or below one with the names of its files, but for hidden ones; links are followed."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(root), [name for name in files if not name.startswith(".")]


def pictures_in(folder: Path) -> list[Item]:
    """Every picture below a folder, sorted by name, labelled by the folder it is in unless that is the source itself.

    Raises:
        ValueError: there is none.
    """
    paths = [root / name for root, files in walked(folder) for name in files if Path(name).suffix.lower() in PICTURES]
    if not paths:
        raise ValueError(f"no pictures in {folder}; expected {', '.join(sorted(PICTURES))} at any depth")
    paths.sort(key=lambda path: path.relative_to(folder).parts)
    return [Item(path, None if path.parent == folder else path.parent.name) for path in paths]


def in_folder(folder: Path) -> list[Item]:
    """Every video below a folder, labelled by the folder it is in unless that is the source itself."""
    videos, others = scan(folder)
    if videos:
        return [Item(path, None if folder in (path, path.parent) else path.parent.name) for path in videos]
    if not others:
        raise ValueError(f"{folder} is empty; expected videos ({', '.join(sorted(SUFFIXES))}) at any depth")
    there = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(8))
    raise ValueError(
        f"no videos in {folder}: it has {there}; expected {', '.join(sorted(SUFFIXES))}, or folders of numbered "
        f"images; single pictures are named as images:{folder}"
    )
