"""What a data set is made of, and how it is found in folders."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from tubelet.data import remote
from tubelet.data.images import SUFFIXES as PICTURES
from tubelet.data.images import is_even, is_frame, is_video
from tubelet.data.index import SUFFIXES
from tubelet.data.keyframes import KeyFrame

PREPARED, LIST = "prepared.json", "videos.csv"  # in a folder that `prepare` wrote: how, and what is in it


@dataclass(frozen=True)
class Item:
    """One video of a data set."""

    path: Path
    label: str | None = None  # as it was written: a class, several, shares of classes, or values; see `labels.Labels`
    start: float | None = None  # seconds: only this part of the video is meant; none: from its beginning
    end: float | None = None  # seconds; none: to its end
    group: str | None = None  # whoever or wherever was filmed: groups are never split between training and test
    key: KeyFrame | None = None  # only the clip around this moment is meant, with its boxes


class Note(str):
    """What the reader had to do about one file: a line to log, with its kind and path to count by."""

    kind: str
    path: str
    codec: str  # where it matters

    def __new__(cls, text: str, kind: str = "", path: str = "", codec: str = "") -> "Note":
        note = super().__new__(cls, remote.shown(text))
        note.kind, note.path, note.codec = kind, path, codec
        return note


def scan(folder: Path) -> tuple[list[Item], Counter[str]]:
    """The videos below a folder, sorted by name and labelled by the folder that each is in unless that is the source
    itself, and how many other files there are of each suffix.

    Where there is no video file at all, folders of images with numbers in their names are the videos; a warning says so
    where the numbers are not those of frames. Hidden files and folders are left out and not counted; links are
    followed, each real folder once. No file is looked at but for its name.

    Raises:
        ValueError: folders of images at an address, where only video files are read.
    """
    videos: list[tuple[Path, list[str]]] = []
    folders_of_frames: list[Path] = []
    doubtful: list[Path] = []
    others: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for root, files in walked(folder):
        inside = is_video(files)
        folders_of_frames += [root] * inside
        doubtful += [root] * (inside and not is_even(files))
        named: list[str] = []
        for name in files:
            suffix = suffix_of(name)
            if suffix in SUFFIXES:
                named.append(name)
            else:
                others[suffix or "no suffix"] += 1
                frames[suffix] += inside and is_frame(name)
        if named:
            videos.append((root, named))
    if videos:
        return labelled(folder, videos), others
    if folders_of_frames and remote.url_of(folder) is not None:
        raise ValueError(
            f"{remote.shown(folders_of_frames[0])} is a folder of images; elsewhere only video files are read. Copy "
            "the folders here, make videos of them (tubelet prepare), or name single pictures in a list"
        )
    if doubtful:
        more = f" (and {len(doubtful) - 1} more)" if len(doubtful) > 1 else ""
        warnings.warn(
            f"the images in {doubtful[0]}{more} are read as the frames of one video, though their numbers do not "
            f"go up in even steps; if they are single pictures, write images:{folder}",
            stacklevel=3,
        )
    itself = [Item(folder)] if folder in folders_of_frames else []
    below = [(root.parent, [root.name]) for root in folders_of_frames if root != folder]
    return itself + labelled(folder, below), others - frames


def suffix_of(name: str) -> str:
    """The ending of a file's name as `Path` has it, in small letters; of hundreds of thousands, a `Path` takes long."""
    return os.path.splitext(name)[1].lower().rstrip(".")


def labelled(folder: Path, found: Iterable[tuple[Path, list[str]]]) -> list[Item]:
    """What is called so in folders at or below one, sorted by name, each labelled by its folder unless that is the one.

    >>> [item.label for item in labelled(Path("a"), [(Path("a"), ["c.mp4"]), (Path("a/b"), ["2.mp4", "1.mp4"])])]
    ['b', 'b', None]
    """
    named: list[tuple[tuple[str, ...], Path, str | None]] = []
    for root, names in found:
        parts, label = root.relative_to(folder).parts, None if root == folder else root.name
        named += [((*parts, name), root, label) for name in names]
    named.sort(key=itemgetter(0))
    return [Item(root / parts[-1], label) for parts, root, label in named]


def walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at or below one with the names of its files, but for hidden ones; links are followed."""
    if (url := remote.url_of(folder)) is not None:
        yield from remote.walked(url)
        return
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
    items = labelled(folder, ((root, [n for n in files if suffix_of(n) in PICTURES]) for root, files in walked(folder)))
    if not items:
        raise ValueError(f"no pictures in {folder}; expected {', '.join(sorted(PICTURES))} at any depth")
    return items


def in_folder(folder: Path) -> list[Item]:
    """Every video below a folder, labelled by the folder it is in unless that is the source itself."""
    videos, others = scan(folder)
    if videos:
        return videos
    if not others:
        raise ValueError(
            f"{remote.shown(folder)} is empty; expected videos ({', '.join(sorted(SUFFIXES))}) at any depth"
        )
    there = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(8))
    raise ValueError(
        f"no videos in {remote.shown(folder)}: it has {there}; expected {', '.join(sorted(SUFFIXES))}, or folders of "
        f"numbered images; single pictures are named as images:{folder}"
    )
