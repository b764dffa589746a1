"""Which videos there are, whatever names them: a folder, a video, a list, a table, a data set as it comes."""

import difflib
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from tubelet.data import layouts, remote, shards, ucf_hmdb
from tubelet.data.images import is_picture
from tubelet.data.index import SUFFIXES
from tubelet.data.items import LIST, PREPARED, Item, in_folder, scan
from tubelet.data.layouts import Found
from tubelet.data.lists import LISTS, PARTS, Columns, in_list, streamed
from tubelet.data.mixture import Mixture, Source, listed
from tubelet.data.table import Table, is_table

__all__ = ["LAYOUTS", "Item", "MissingVideos", "coming", "find", "read", "scan"]

LAYOUTS: dict[str, Callable[..., Found]] = {
    "images": layouts.pictures,
    "kinetics": layouts.kinetics,
    "mini-kinetics": layouts.mini_kinetics,
    "ssv2": layouts.something,
    "ucf101": ucf_hmdb.ucf101,
    "hmdb51": ucf_hmdb.hmdb51,
    "diving48": layouts.diving48,
    "ucf14-hmdb7": ucf_hmdb.ucf14_hmdb7,
    "hmdb14-ucf7": ucf_hmdb.hmdb14_ucf7,
}
WRITTEN = "LAYOUT:FOLDER[:train|val|test][:SPLIT][?OPTION=VALUE&...]"


class MissingVideos(UserWarning):
    """A data set names videos that are not there."""


def find(source: Path | str) -> Sequence[Item]:
    """The videos of a folder (any depth, sorted; the folder above a video is its label), of a list, or one video.

    A folder of images with numbers in their names is a video, too, where there are no video files (with a warning, if
    they are not numbered as frames are). Of a folder that `tubelet prepare` wrote, shards or not, its list is read; one
    that `tubelet index` wrote stays on the disk, and its videos are made when they are asked for. A list has one video
    a line: a path, or a path and a label, separated by blank, tab or comma, quoted or not; or `path 0 -1`, `folder
    first total` or `folder total label` as VideoMAE V2 writes them; or columns under a header, also in Parquet: path,
    label, start and end (seconds of a part of the video), group. Paths are relative to the list's folder. Lines that
    begin with # are comments.

    Columns with other names, and rows of one part of a table: `table:clips.csv:train?path=clip&label=gesture` (or
    `start`, `end`, `group`, `part`; `videos=FOLDER` where paths are relative to another folder).

    Pictures are videos of one frame: `images:DIR` takes all below a folder, `images:/data/imagenet:train` those below
    its folder train.

    Data sets as they come: `ucf101:/data/UCF101` is the training part, split 1; `ucf101:/data/UCF101:test:2` the test
    part of split 2. So with kinetics, mini-kinetics, ssv2, ucf101, hmdb51, diving48, ucf14-hmdb7, hmdb14-ucf7. Options
    come behind a question mark: `kinetics:/data/k400:val?lists=/lists/val.csv&videos=/videos/val`. Videos that are
    missing are left out with a `MissingVideos` warning, or are an error with `missing=error`.

    Folders, lists, tables and videos may lie elsewhere, at any address that fsspec knows (`s3://bucket/videos`), and a
    list may name addresses. Whether a video is there is then seen when it is read.

    Raises:
        FileNotFoundError: no such path, or a list names files that are not there.
        ValueError: nothing there that is a video; says what there was instead.
    """
    found = read(source)
    if found.missing:
        warnings.warn(found.report() + "; the others are used", MissingVideos, stacklevel=2)
    return found.items


def read(source: Path | str) -> Found:
    """The same with what is missing.

    Raises:
        FileNotFoundError: no such path, or a list names files that are not there.
        ValueError: nothing there that is a video; says what there was instead.
    """
    path = remote.plain(source)
    if remote.url_of(path) is not None:
        return Found(at_address(path))
    if (path / PREPARED).is_file():
        return Found(in_prepared(path))
    if path.is_dir() and is_table(path):
        return Found(Table(path))
    if path.is_dir():
        return Found(in_folder(path))
    if path.exists():
        if path.suffix.lower() in LISTS:
            return Found(in_list(path))
        if path.suffix.lower() in SUFFIXES or is_picture(path):
            return Found([Item(path)])
        raise ValueError(
            f"{path} is neither a folder, nor a list ({', '.join(LISTS)}), nor a video ({', '.join(sorted(SUFFIXES))})"
        )
    if shards.exists(path) and path.suffix.lower() in SUFFIXES:
        return Found([Item(path)])
    layout, mark, rest = str(source).partition(":")
    if not mark or not re.fullmatch(r"[a-z][\w-]+", layout, re.IGNORECASE):
        raise FileNotFoundError(f"no such file or folder: {path} (looked in {Path.cwd()})")
    known = ["table", "mixture", *LAYOUTS]
    if layout not in known:
        near = difflib.get_close_matches(layout, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"no file {path}, nor a layout {layout!r}.{hint} Layouts are {', '.join(known)}: {WRITTEN}")
    return written(layout, rest)


def at_address(path: Path) -> list[Item]:
    """The videos of a folder, list or video that lies elsewhere; the ending says which it is.

    Raises:
        OSError: there is nothing, or it cannot be reached.
        ValueError: no videos, or what is not read from elsewhere; a protocol whose package is missing.
    """
    if path.suffix.lower() in LISTS:
        return in_list(path)
    if path.suffix.lower() in SUFFIXES or is_picture(path):
        shards.state_of(path)  # one question, before a run begins
        return [Item(path)]
    if path.suffix == shards.SUFFIX:
        raise ValueError(
            f"{remote.shown(path)} is a shard: name the folder that it is in, if tubelet prepare wrote it, or a list "
            f"of its members, as {remote.shown(path)}/NAME.mp4"
        )
    return in_prepared(path) if shards.exists(path / PREPARED) else in_folder(path)


def coming(source: Path | str) -> Iterable[Item]:
    """The same as `find` gives; those of a list one at a time, so that there may be more than fit into memory.

    Raises:
        FileNotFoundError, ValueError: as `find`; of a list's missing videos at its end.
    """
    path = remote.plain(source)
    if remote.url_of(path) is not None:
        return find(source)
    if (path / PREPARED).is_file():
        return streamed(list_of(path))
    return streamed(path) if path.is_file() and path.suffix.lower() in LISTS else find(source)


def in_prepared(folder: Path) -> list[Item]:
    """The videos of a folder that `prepare` wrote.

    Raises:
        ValueError: it is not finished.
    """
    return in_list(list_of(folder))


def list_of(folder: Path) -> Path:
    """The list of a folder that `prepare` wrote.

    Raises:
        ValueError: it is not finished.
    """
    if not shards.exists(folder / LIST):
        raise ValueError(
            f"{remote.shown(folder)} is not finished, it has no {LIST} yet: repeat the `tubelet prepare` that began "
            "it, or run the parts that are still missing"
        )
    return folder / LIST


def written(layout: str, rest: str) -> Found:
    """The videos that `LAYOUT:REST` means.

    Raises:
        ValueError: options that the layout does not have, a split where there are none.
        FileNotFoundError: missing videos, where that is to be an error.
    """
    place, _, text = rest.partition("?")
    options = dict(parse_qsl(text, keep_blank_values=True))
    endings = "|".join(PARTS)
    match = re.fullmatch(rf"(?P<folder>.+?)(:(?P<part>{endings}))?(:(?P<split>\d+))?", place)
    if match is None:
        raise ValueError(f"{layout}:{rest} names no folder; expected {WRITTEN}")
    folder, part = remote.plain(match["folder"]).expanduser(), match["part"]
    if match["split"]:
        options["split"] = match["split"]
    missing = options.pop("missing", "warn")
    if missing not in ("warn", "error"):
        raise ValueError(f"missing={missing}: expected warn or error")
    if layout == "mixture":
        names = ["places"]
    elif layout == "table":
        names = [*Columns.__dataclass_fields__, "videos"]
    else:
        names = [*inspect.signature(LAYOUTS[layout]).parameters][2:]
        names = [name for name in names if name != "places"] + ["ucf101", "hmdb51"] * ("places" in names)
    unknown = [name for name in options if name not in names]
    if unknown:
        raise ValueError(f"{layout} has no {unknown[0]!r}; it has {', '.join([*names, 'missing'])}: {WRITTEN}")
    far = [place for place in (str(folder), *options.values()) if remote.url_of(place) is not None]
    if far and layout != "table":
        raise ValueError(
            f"{layout}:{rest}: {remote.shown(far[0])} lies elsewhere, where only folders, lists, tables and single "
            "videos are read, not data sets as they come; write a list of its videos"
        )
    if layout == "table":
        if not far:
            layouts.existing(folder)
        root = remote.plain(options.pop("videos")) if "videos" in options else None
        return Found(in_list(folder, Columns(**options), part, root))
    if layout == "mixture":
        found = mixed(folder, **options)
    else:
        found = LAYOUTS[layout](folder, *filter(None, [part]), **options)  # each has its own part by default
    if found.missing and missing == "error":
        raise FileNotFoundError(found.report())
    return found


def mixed(path: Path, places: str | None = None) -> Found:
    """The videos of all sources that a file names with their weights.

    Raises:
        ValueError: `places` is no number; sources that cannot be mixed.
        FileNotFoundError: no such file, or no such source.
    """
    if places is not None and (not places.isdecimal() or not int(places)):
        raise ValueError(f"{path}?places={places}: expected how many videos an epoch shows, a number above 0")
    found = [(name, weight, read(name)) for name, weight in listed(path)]
    mixture = Mixture(
        [Source(name, weight, each.items) for name, weight, each in found], int(places) if places else None
    )
    return Found(mixture, tuple(one for _, _, each in found for one in each.missing), str(path))
