"""AVA and AVA-Kinetics as they come: csv or COCO-like json, label maps, excluded timestamps.

Source: Gu et al. 2018 (arXiv:1705.08421); Li et al. 2020 (arXiv:2005.00214); 60 of the 80 classes are evaluated.
"""

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path

from tubelet.data.annotated import Image, KeyFrames
from tubelet.data.ava_movies import Builder, Films, Moments
from tubelet.data.index import SUFFIXES
from tubelet.data.layouts import existing, loaded
from tubelet.data.lists import PARTS

CLASSES = 80
# Those with enough examples; as ava_action_list_v2.2_for_activitynet_2019.pbtxt has them.
EVALUATED = frozenset({*range(1, 81)} - {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75})


def ava(
    folder: Path,
    part: str = "train",
    *,
    annotations: str | None = None,
    videos: str | None = None,
    labels: str | None = None,
    excluded: str | None = None,
    zero: str | None = None,
) -> KeyFrames:
    """The key frames of a part.

    Raises:
        FileNotFoundError: no annotations, or none of the movies.
        ValueError: annotations that cannot be read.
    """
    files = [Path(name) for name in annotations.split(",")] if annotations else annotations_in(folder, part)
    movies: dict[str, Moments] = {}
    images: dict[int | str, Image] = {}
    for file in files:
        if existing(file).suffix.lower() == ".json":
            from_json(file, movies, images)
        else:
            from_csv(file, movies)
    names, evaluated, ids, notes = classes_of(
        folder, labels, {a for m in movies.values() for b in m.values() for k in b.values() for a in k}
    )
    left = read_excluded(folder, part, excluded)
    found = Films.below(Path(videos) if videos else folder)
    source = ", ".join(str(file) for file in files)
    builder = Builder(found, names, source, None if zero is None else float(zero), [*notes])
    for movie in sorted(movies):
        builder.add(movie, movies[movie])
    if not builder.items:
        why = f": {builder.notes[-1]}" if builder.notes else ""
        raise FileNotFoundError(
            f"none of the {len(movies)} movies that {source} names is below {videos or folder}{why}. Looked for "
            f"{min(movies)} with one of the endings {', '.join(sorted(SUFFIXES))}, or a folder of that name with files "
            "of one second each, as 0902.mp4. Where the movies are elsewhere, add ?videos=FOLDER"
        )
    order = tuple(names[number] for number in sorted(names))
    return KeyFrames(
        builder.items,
        order,
        tuple(names[number] for number in sorted(evaluated)),
        left,
        ids,
        tuple(builder.missing),
        tuple(builder.said()),
        source,
        images,
    )


# ---------------------------------------------------------------------------- annotations


def annotations_in(folder: Path, part: str) -> list[Path]:
    """The files with the boxes of a part: those of AVA and of Kinetics, csv before json, the newest version of each.

    Raises:
        FileNotFoundError: there are none.
    """
    words = {"ava", "kinetics", "v", "min", *PARTS.get(part, (part,))}
    chosen: dict[bool, Path] = {}
    for suffix in (".json", ".csv"):
        for file in named(folder, suffix):
            told = set(re.findall("[a-z]+", file.stem.lower()))
            if told <= words and told & {*PARTS.get(part, (part,))}:
                chosen["kinetics" in told] = file
    if not chosen:
        held = " AVA's own annotations of test are not public: use val." if part == "test" else ""
        raise FileNotFoundError(
            f"{folder} has no annotations for {part}: expected ava_{part}_v2.2.csv, kinetics_{part}_v1.0.csv or "
            f"ava_{part}_v2.2_min.json in it or in a folder below.{held} Where they are elsewhere, add "
            "?annotations=FILE"
        )
    return [chosen[kind] for kind in sorted(chosen)]


def named(folder: Path, suffix: str) -> list[Path]:
    """The files of an ending in a folder, one below, or one of annotations below that, by version; not deeper, where
    millions may be."""
    existing(folder)
    files = (folder.glob(pattern + suffix) for pattern in ("*", "*/*", "*/*annot*/*"))
    return sorted((file for some in files for file in some), key=lambda file: file.name)


def from_csv(file: Path, movies: dict[str, Moments]) -> None:
    """Adds the rows of a csv: movie, timestamp, x1, y1, x2, y2, action, person; or movie and timestamp, of nobody.

    Raises:
        ValueError: other columns; names the line.
    """
    stamps: dict[str, str] = {}
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text)
        for row in reader:
            count = len(row)
            if not count:
                continue
            if count not in (2, 7, 8):
                raise ValueError(
                    f"{file}, line {reader.line_num}: {count} columns; expected movie, timestamp, x1, y1, x2, y2, "
                    f"action and person, or movie and timestamp alone; got {','.join(row)}"
                )
            stamp = stamps.get(row[1])
            if stamp is None:
                try:
                    stamp = stamps.setdefault(row[1], stamp_of(row[1]))
                except ValueError as error:
                    if reader.line_num == 1:
                        continue  # a header
                    raise ValueError(f"{file}, line {reader.line_num}: {row[1]!r} is no timestamp") from error
            moments = movies.get(row[0])
            if moments is None:
                moments = movies[row[0]] = {}
            boxes = moments.get(stamp)
            if boxes is None:
                boxes = moments[stamp] = {}
            if count == 2 or not row[2]:
                continue
            key = row[2], row[3], row[4], row[5], row[7] if count == 8 else ""
            actions = boxes.get(key)
            if actions is None:
                try:
                    corners = [float(value) for value in key[:4]]
                except ValueError as error:
                    raise ValueError(
                        f"{file}, line {reader.line_num}: expected numbers for x1, y1, x2, y2; got {','.join(row)}"
                    ) from error
                if max(corners) > 2:
                    raise ValueError(
                        f"{file}, line {reader.line_num}: corners of {','.join(row[2:6])}; AVA's are shares of the "
                        "picture, 0 to 1"
                    )
                actions = boxes[key] = []
            actions.append(row[6])


def from_json(file: Path, movies: dict[str, Moments], images: dict[int | str, Image]) -> None:
    """Adds what a COCO-like file has: images with movie and timestamp, annotations with bbox and action_ids.

    Raises:
        ValueError: something is missing.
    """
    data = loaded(file)
    try:
        for one in data["images"]:
            movie, stamp = str(one["movie"]), stamp_of(str(one["timestamp"]))
            images[one["id"]] = Image(movie, stamp, float(one["width"]), float(one["height"]))
            movies.setdefault(movie, {}).setdefault(stamp, {})
        for one in data["annotations"]:
            image = images[one["image_id"]]
            x, y, width, height = one["bbox"]
            across, down = image.width, image.height
            key = x / across, y / down, (x + width) / across, (y + height) / down, str(one.get("person_id", ""))
            movies[image.video][image.stamp].setdefault(key, []).extend(map(str, one["action_ids"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{file} is not as ava_val_v2.2_min.json: expected images with id, movie, timestamp, width and height, and "
            f"annotations with image_id, bbox and action_ids ({type(error).__name__}: {error})"
        ) from error


def stamp_of(text: str) -> str:
    """A timestamp as AVA writes it.

    >>> stamp_of("902"), stamp_of("0902"), stamp_of("92.36")
    ('0902', '0902', '92.36')

    Raises:
        ValueError: it is no number.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no time")
    return f"{int(value):04d}" if value == int(value) else text.strip()


# ---------------------------------------------------------------------------- classes


def label_map(file: Path) -> dict[int, str]:
    """Names by number, of a pbtxt: `item { name: "..." id: 1 }` or `label { name: "..." label_id: 1 }`.

    Raises:
        ValueError: it has none.
    """
    found: dict[int, str] = {}
    for block in re.findall(r"\{([^{}]*(?:\"[^\"]*\"[^{}]*)*)\}", existing(file).read_text(encoding="utf-8")):
        name = re.search(r'\bname:\s*"([^"]*)"', block) or re.search(r"\bname:\s*'([^']*)'", block)
        number = re.search(r"\b(?:label_)?id:\s*(\d+)", block)
        if name and number:
            found[int(number[1])] = name[1]
    if not found:
        raise ValueError(f"{file} is no label map: expected item {{ name: ... id: ... }}")
    return found


def classes_of(
    folder: Path, labels: str | None, used: Iterable[str]
) -> tuple[dict[int, str], set[int], dict[str, int], list[str]]:
    """Names by number, which are evaluated, numbers by name, and what there is to say.

    Raises:
        ValueError: an action that is no number, or beyond the 80.
    """
    files = [Path(name) for name in labels.split(",")] if labels else named(folder, ".pbtxt")
    maps = [label_map(file) for file in files]
    few = next((found for file, found in zip(reversed(files), reversed(maps)) if len(found) < CLASSES), None)
    all_of = next((found for found in reversed(maps) if len(found) >= CLASSES), {})
    names = {number: f"action {number}" for number in range(1, CLASSES + 1)} | (few or {}) | all_of
    actions = {action for action in used if action}
    if wrong := sorted(action for action in actions if not action.isdigit() or int(action) not in names):
        raise ValueError(f"action {wrong[0]!r} is none of the label map's: it has {min(names)} to {max(names)}")
    evaluated = {*few} if few else {*EVALUATED & names.keys()}
    notes = []
    if not maps:
        notes.append(f"{folder} has no label map (.pbtxt): classes are called by their numbers, as 'action 16'")
    return names, evaluated, {name: number for number, name in sorted(names.items())}, notes


def read_excluded(folder: Path, part: str, told: str | None) -> frozenset[tuple[str, str]]:
    """(movie, timestamp) of what does not count in a test: a csv of two columns.

    Raises:
        FileNotFoundError: the one that is named is not there.
        ValueError: a timestamp that is none.
    """
    words = {*PARTS.get(part, (part,))}
    near = [file for file in named(folder, ".csv") if "excluded" in file.name.lower()]
    files = [file for file in near if words & set(re.findall("[a-z]+", file.stem.lower()))]
    file = existing(Path(told)) if told else files[-1] if files else None
    if file is None:
        return frozenset()
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = [row for row in csv.reader(text) if len(row) >= 2]
    try:
        return frozenset((row[0], stamp_of(row[1])) for row in rows)
    except ValueError as error:
        raise ValueError(f"{file}: expected movie and timestamp on each line ({error})") from error
