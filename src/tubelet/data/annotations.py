"""Which moments of which videos have boxes, whatever names them: a table, AVA, exports of CVAT, Label Studio, COCO."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

from tubelet.data import remote
from tubelet.data.annotated import KeyFrames, Videos, gathered, thinned, unknown, write_boxes
from tubelet.data.annotation_formats import Export, coco, is_coco, is_label_studio, label_studio
from tubelet.data.ava import ava
from tubelet.data.boxes import CORNERS, WHOLE, Boxes, moment, read_boxes, rows_of
from tubelet.data.cvat import cvat, parsed
from tubelet.data.detected import with_detections
from tubelet.data.index import SUFFIXES
from tubelet.data.layouts import existing, loaded
from tubelet.data.lists import PARTS
from tubelet.data.sources import LAYOUTS

__all__ = ["KeyFrames", "has_boxes", "key_frames", "with_detections", "write_boxes"]

TABLES = (".csv", ".tsv")
EXPORTS = (".json", ".xml")
OPTIONS = ("videos", "zero", "fps", "every", "attributes", "video", "missing")
WRITTEN = "TABLE.csv[:train|val|test][?OPTION=VALUE&...], EXPORT.json or .xml, or ava:FOLDER[:train|val|test]"


def has_boxes(source: Path | str) -> bool:
    """Whether a source names moments with boxes, and not videos: by its name, or by the columns of its table."""
    layout, file, _, _ = taken(source)
    if layout or file.suffix.lower() in EXPORTS:
        return True
    if file.suffix.lower() not in TABLES or not file.is_file():
        return False
    first = next(rows_of(file), (1, [], ""))[1]
    return {*CORNERS} <= {name.strip().lower() for name in first} or (len(first) > 2 and is_ava(file))


def key_frames(
    source: Path | str,
    videos: Path | str | None = None,
    names: Sequence[str] | None = None,
    *,
    part: str | None = None,
) -> KeyFrames:
    """The moments of videos that have boxes, with them.

    Of a table (`boxes.csv`), whose rows are boxes; of AVA or AVA-Kinetics (`ava:/data/ava:val`); of what CVAT (xml),
    Label Studio (json) or COCO's tools (json) export. Options come behind a question mark: `videos=FOLDER`, below which
    the videos are (or as an argument); `zero=900`, what the clock of the table says when a video begins, in its own
    unit or as a timecode; `fps=25`, where its frames are not those of the files; `every=1`, one moment in so many
    seconds; `missing=error`. Of exports `attributes=action,pose`, whose values are the labels, and `video=clip.mp4`, if
    they name none. Of AVA `annotations`, `labels`, `excluded`: its files, where they are not found by name.

    With `names`, the class list, other labels are errors. `part` is taken of AVA where the source names none. What is
    missing is the first of the notes.

    Raises:
        FileNotFoundError: no such file, or none of its videos is there.
        ValueError: what cannot be read; names file, place and numbers, and what to do.
    """
    layout, file, named, options = taken(source)
    if videos is not None:
        options["videos"] = str(videos)
    missing = options.pop("missing", "warn")
    if missing not in ("warn", "error"):
        raise ValueError(f"missing={missing}: expected warn or error")
    every = options.pop("every", None)
    if not layout and is_ava(of_boxes(file)):
        layout, options = "ava", {"annotations": str(file)} | options
        file = file.parent
    if layout == "ava":
        known = [*inspect.signature(ava).parameters][2:]
        if wrong := [name for name in options if name not in known]:
            raise ValueError(f"ava has no {wrong[0]!r}; it has {', '.join([*known, 'every', 'missing'])}: {WRITTEN}")
        if "zero" in options:
            options["zero"] = str(numbered(options["zero"], "zero", file))
        taking = named or part_told(options.get("annotations", "")) or part or "train"
        found = ava(file, taking, **options)
        if named is None and "annotations" not in options:
            note = f"the part {taking} of {file} is taken, as none is named; say which: ava:{file}:{taking}"
            found = replace(found, notes=(note, *found.notes))
        if names is not None:
            used = {label for item in found.items if item.key for box in item.key.boxes for label in box.labels}
            if wrong := [name for name in found.names if name in used and name not in names]:
                raise ValueError(f"{found.source}: {unknown(wrong[0], names)}")
            found = replace(found, names=tuple(names))
    else:
        found = of_file(file, named, options, names)
    if every is not None:
        found = thinned(found, numbered(every, "every", file))
    if found.missing and missing == "error":
        raise FileNotFoundError(found.report())
    if found.missing:
        found = replace(found, notes=(f"{found.report()}; the others are used", *found.notes))
    return found


def part_told(annotations: str) -> str | None:
    """The part that the names of files tell, as ava_val_v2.2.csv; none: they tell none."""
    words = {word for file in annotations.split(",") for word in re.findall("[a-z]+", Path(file).stem.lower())}
    return next((part for part, usual in PARTS.items() if words & {*usual}), None)


def of_boxes(file: Path) -> Path:
    """The same file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, a video, or the like; says what to use.
    """
    layout, mark, _ = str(file).partition(":")
    if not file.exists() and mark and layout in (*LAYOUTS, "table", "mixture"):
        what = f"names the videos of {layout}"
    elif existing(file).is_dir():
        what = "is a folder"
    elif file.suffix.lower() in SUFFIXES:
        what = "is a video"
    elif file.suffix.lower() not in (*TABLES, *EXPORTS):
        what = f"ends in {file.suffix or 'nothing'}"
    else:
        return file
    raise ValueError(f"{file} {what}, and boxes of people were expected: {WRITTEN}{WHOLE}")


def of_file(file: Path, part: str | None, options: dict[str, str], names: Sequence[str] | None) -> KeyFrames:
    """The moments of a table or an export.

    Raises:
        FileNotFoundError, ValueError: as `key_frames`.
    """
    if wrong := [name for name in options if name not in OPTIONS]:
        raise ValueError(f"{file} has no option {wrong[0]!r}; there are {', '.join(OPTIONS)}: {WRITTEN}")
    zero, fps = (numbered(options[name], name, file) if name in options else None for name in ("zero", "fps"))
    if fps is not None and fps <= 0:
        raise ValueError(f"{file}?fps={fps:g}: expected frames a second, more than 0")
    root = remote.plain(options["videos"]).expanduser() if "videos" in options else file.parent
    if file.suffix.lower() in TABLES:
        for name in ("attributes", "video"):
            if name in options:
                raise ValueError(f"{file} is a table, and {name}= is for exports of annotation tools; leave it out")
        boxes = read_boxes(file, zero=options.get("zero"), fps=fps, part=part)
        return gathered(boxes, Videos(root, "videos" in options), names)
    if part is not None:
        raise ValueError(f"{file}:{part}: an export has no parts; convert it to a table, and add a column split")
    there = Videos(root, True)
    told = tuple(filter(None, options.get("attributes", "").split(",")))
    export = Export(file, told, options.get("video"), there.only)
    data = parsed(file) if file.suffix.lower() == ".xml" else loaded(file)
    reader: Callable[..., Boxes]
    if file.suffix.lower() == ".xml":
        reader = cvat
    elif is_coco(data):
        reader = coco
    elif is_label_studio(data):
        reader = label_studio
    else:
        raise ValueError(
            f"{file} is JSON, and neither of COCO (images, annotations, categories), nor of Label Studio (a list of "
            "tasks), nor of AVA (images with movie and timestamp)"
        )
    try:
        boxes = reader(data, export, zero, fps)
    except ValueError as error:
        raise error if str(file) in str(error) else ValueError(f"{file}: {error}") from error
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{file} is not as {reader.__name__} has it: {type(error).__name__} {error}") from error
    return gathered(boxes, there, names)


def is_ava(file: Path) -> bool:
    """Whether a file is one of AVA's own: a csv without a header, or images with movie and timestamp."""
    if file.suffix.lower() == ".csv":
        row = next(rows_of(file), (1, [], ""))[1]
        return len(row) in (2, 7, 8) and re.fullmatch(r"\d+(\.\d+)?", row[1].strip()) is not None
    if file.suffix.lower() != ".json":
        return False
    data = loaded(file)
    first = data["images"][:1] if is_coco(data) and isinstance(data["images"], list) else []
    return any({"movie", "timestamp"} <= {*image} for image in first)


def taken(source: Path | str) -> tuple[str, Path, str | None, dict[str, str]]:
    """Layout (ava, or none), file or folder, part and options of a source.

    Raises:
        ValueError: another layout, or a source that is neither.
    """
    text = str(source)
    if Path(text).exists():
        return "", Path(text), None, {}
    place, _, told = text.partition("?")
    options = dict(parse_qsl(told, keep_blank_values=True))
    match = re.fullmatch(rf"(?:(ava|boxes):)?(.+?)(?::({'|'.join(PARTS)}))?", place)
    if match is None:
        raise ValueError(f"{text} names no boxes; expected {WRITTEN}")
    return "ava" if match[1] == "ava" else "", remote.plain(match[2]).expanduser(), match[3], options


def numbered(text: str, name: str, file: Path) -> float:
    """A number, or a timecode as seconds.

    Raises:
        ValueError: it is neither.
    """
    try:
        return moment(text)
    except ValueError as error:
        raise ValueError(f"{file}?{name}={text}: expected a number") from error
