"""What the pages may read, and what is there: chosen videos, runs and features; nothing else, whatever a browser asks.

A browser sends names, never paths. A name that is not in these lists is refused.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic

from tubelet.data import remote
from tubelet.data.items import Item
from tubelet.data.sources import find
from tubelet.data.video import SUFFIXES, VideoError, probe
from tubelet.train.folder import distinct
from tubelet.web.made import MADE, made

MOST = 2000  # names in a list that is shown
UPLOADS = 8  # are kept; an older one makes room for the next
FRESH = 10  # seconds for which a folder is not looked through again
TAKING = Lock()  # every page takes uploads, and two may be of one name
DEEP = 3  # folders: a run lies so far below the runs folder at most


@dataclass(frozen=True)
class Place:
    """What was chosen when the server began, and its own folder, which goes when it ends."""

    scratch: Path
    """For uploads and videos that are made."""
    videos: tuple[str, ...] = ()
    """Folders, lists, videos: whatever `data.sources.find` takes."""
    runs: Path | None = None
    """A folder of run folders, or one run."""
    features: tuple[Path, ...] = ()
    """What `tubelet embed` wrote."""
    most: int = 200 * 2**20
    """Bytes of an upload."""

    # ------------------------------------------------------------------------ videos

    def known(self) -> dict[str, Item]:
        """Every video that may be shown, by name: chosen, uploaded; those that are made here are made when asked for.

        Raises:
            FileNotFoundError, ValueError: a folder that was chosen is no longer there, or has no videos any more.
        """
        chosen = [pair for name, source in self.sources().items() for pair in listed(source, name, now())]
        uploads = [(f"uploaded/{path.name}", Item(path)) for path in self.uploaded()]
        return dict([*uploads[::-1], *chosen])

    def sources(self) -> dict[str, str]:
        """The folders, lists and videos that were chosen, by name."""
        return dict(zip(distinct([Path(source) for source in self.videos]), self.videos)) if self.videos else {}

    def items(self, source: str) -> list[Item]:
        """The videos of a source, by its name.

        Raises:
            ValueError: there is none of that name among those that were chosen.
            FileNotFoundError: it is no longer there.
        """
        there = self.sources()
        if source not in there:
            raise ValueError(f"no folder {source!r} here; there are {', '.join(there) or 'none'}")
        return [item for _, item in listed(there[source], source, now())]

    def names(self) -> list[str]:
        """Names to choose from: the first MOST that were chosen, what can be made, and uploads, the last one first.

        Uploads come last, so that one person's is not the first thing that others see.
        """
        known, uploads = self.known(), {f"uploaded/{path.name}" for path in self.uploaded()}
        chosen = [name for name in known if name not in uploads]
        return [*chosen[:MOST], *MADE, *(name for name in known if name in uploads)]

    def item(self, name: str) -> Item:
        """The video of a name.

        Raises:
            ValueError: there is none of that name among those that were chosen.
        """
        if name in MADE:
            return Item(made(name, self.scratch / "made"))
        known = self.known()
        if name not in known:
            raise ValueError(
                f"no video {name!r} here: choose one of the list, upload one, or start tubelet serve with its folder"
            )
        return known[name]

    def uploaded(self) -> list[Path]:
        """The uploads that are still here, oldest first."""
        return sorted((self.scratch / "uploads").glob("*"), key=when)

    def take(self, upload: Path) -> str:
        """The name of an uploaded video from now on; what is no video, or too large, is removed.

        Raises:
            ValueError: it is no upload, too large, or not called a video.
            VideoError: it cannot be read as a video; with what FFmpeg says.
        """
        real = upload.resolve()
        if not real.is_relative_to(self.scratch.resolve()) or not real.is_file():
            raise ValueError("this is no upload: choose a file of yours with the upload button")
        try:
            size = real.stat().st_size
            if size > self.most:
                raise ValueError(f"{upload.name} has {size / 2**20:.0f} MB, and {self.most / 2**20:.0f} are taken")
            if upload.suffix.lower() not in SUFFIXES:
                raise ValueError(f"{upload.name} is no video; expected {', '.join(sorted(SUFFIXES))}")
            try:
                probe(real)
            except VideoError as error:
                raise VideoError(str(error).replace(str(real), upload.name)) from error
            folder = self.scratch / "uploads"
            folder.mkdir(exist_ok=True)
            stem, number = re.sub(r"[^\w.-]+", "_", upload.stem)[:60] or "video", 1
            with TAKING:
                while (target := folder / f"{stem}{f'-{number}' * (number > 1)}{upload.suffix.lower()}").exists():
                    number += 1
                shutil.move(real, target)
                for old in self.uploaded()[:-UPLOADS]:
                    old.unlink()
        finally:
            real.unlink(missing_ok=True)
        return f"uploaded/{target.name}"

    # ------------------------------------------------------------------------ runs, features

    def run_folders(self) -> dict[str, Path]:
        """Every run below the runs folder, by name, the last begun first."""
        if self.runs is None or not self.runs.is_dir():
            return {}
        root, found = self.runs, []
        for folder, below, files in os.walk(root):  # links are not followed
            here = Path(folder)
            depth = len(here.relative_to(root).parts)
            if "run.json" in files and inside(here / "run.json", root):
                found.append(here)
                below.clear()
            if depth >= DEEP:
                below.clear()
        found.sort(key=lambda run: -when(run / "run.json"))
        return {root.resolve().name if run == root else run.relative_to(root).as_posix(): run for run in found}

    def run(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            ValueError: there is none of that name in the runs folder.
        """
        return one_of(self.run_folders(), name, "run", f"the runs folder, {self.runs}")

    def without_runs(self) -> str:
        """What to do where there is no run."""
        where = "no runs folder was chosen" if self.runs is None else f"no runs in {self.runs}"
        return f"{where}: start tubelet serve with --runs DIR, a folder of run folders that tubelet pretrain wrote"

    def feature_files(self) -> dict[str, Path]:
        """The features that were chosen, by name."""
        return dict(zip(distinct(self.features), self.features)) if self.features else {}

    def feature_file(self, name: str) -> Path:
        """The features of a name.

        Raises:
            ValueError: there are none of that name among those chosen.
        """
        return one_of(self.feature_files(), name, "features", "what --features names")


def one_of(there: dict[str, Path], name: str, what: str, where: str) -> Path:
    """What a name means.

    Raises:
        ValueError: nothing.
    """
    if name not in there:
        raise ValueError(f"no {what} {name!r} in {where}; it has {', '.join(list(there)[:8]) or 'none'}")
    return there[name]


def when(path: Path) -> int:
    """When a file was written, in nanoseconds; 0: it went while it was looked at."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def now() -> int:
    """A number that stays the same for some seconds."""
    return int(monotonic() // FRESH)


@lru_cache(maxsize=16)
def listed(source: str, name: str, _: int) -> tuple[tuple[str, Item], ...]:
    """Names and videos of one source; of a folder only what really lies in it, wherever its links lead."""
    path = remote.plain(source)
    items: Sequence[Item] = find(source)
    if remote.url_of(path) is None and path.is_dir():
        items = [item for item in items if inside(item.path, path)]
    return tuple(zip(apart(told(item, path, name) for item in items), items))


def told(item: Item, source: Path, name: str) -> str:
    """What to call a video of a source, with the part of it that is meant."""
    root = source.parent if source.suffix else source
    inner = item.path.relative_to(root) if item.path.is_relative_to(root) else Path(item.path.name)
    text = name if item.path == source else f"{name}/{inner.as_posix()}"
    if (item.start, item.end) == (None, None):
        return text
    return f"{text} {item.start or 0:g}-{'end' if item.end is None else f'{item.end:g}'} s"


def apart(names: Iterable[str]) -> list[str]:
    """The names, those that come again with a number."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out


def inside(path: Path, root: Path) -> bool:
    """Whether a path, where it really leads, lies in a folder."""
    return path.resolve().is_relative_to(root.resolve())
