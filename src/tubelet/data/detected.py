"""Boxes that a person detector found at key frames, in place of those that people drew."""

import csv
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tubelet.data.annotated import Image, KeyFrames, Videos, gathered
from tubelet.data.ava import stamp_of
from tubelet.data.boxes import no_score, read_boxes, rows_of
from tubelet.data.items import Item
from tubelet.data.keyframes import Box
from tubelet.data.layouts import existing, loaded
from tubelet.data.seconds import file_of, is_cut
from tubelet.data.video import probe

NEAR = 0.02  # seconds: half a frame of the fastest usual rate


def with_detections(frames: KeyFrames, source: Path | str, least: float = 0.8) -> KeyFrames:
    """The same moments with the boxes of a detector that are at least so sure; they say nothing of what is done.

    From a json as `ava_val_det_person_bbox.json` (image_id, bbox, score; pixels), a csv as AVA's with a score at the
    end, or a table of boxes with a column score. Numbers of images are those of the annotations; if these came as csv,
    those of the file that is named (`found.json?images=ava_val_v2.2_min.json`), or of the `*min.json` beside. Moments
    without a detection stay, without a box.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or none of its boxes is at one of these moments; another option.
    """
    path, images = asked(source)
    if not 0 <= least <= 1:
        raise ValueError(f"detections of at least {least:g}: expected a score, 0 to 1")
    places = {(item.key.video, item.key.stamp): n for n, item in enumerate(frames.items) if item.key is not None}
    notes: list[str] = []
    if path.suffix.lower() == ".json":
        found = of_json(path, frames, places, images)
    elif len(first := next(rows_of(path), (1, [], ""))[1]) in (7, 8) and is_number(first[1]) and is_number(first[2]):
        found = of_csv(path, places)
    else:
        found = of_table(path, frames, notes)
    boxes: list[list[Box]] = [[] for _ in frames.items]
    seen, low, elsewhere, over, outside = 0, 0, 0, 0, 0
    for place, box in found:
        if place is None:
            elsewhere += 1
        elif box.score < least:
            low += 1
        elif (cut := cut_to_picture(box)) is None:
            outside += 1
        else:
            seen += 1
            over += cut != box
            boxes[place].append(cut)
    if not seen:
        raise ValueError(
            f"none of the {low + elsewhere + outside} boxes of {path} can be used: {low} have scores below {least:g}, "
            f"{elsewhere} are at other moments than those of {frames.source}"
            + f", {outside} are outside of the picture, or have no width or height" * bool(outside)
            + ". Is it of the same part?"
        )
    if over:
        notes.append(f"{over} boxes of {path} reach over the edge of the picture and are cut to it")
    if outside:
        notes.append(
            f"{outside} boxes of {path} are outside of the picture, or have no width or height, and are left out"
        )
    items = [
        replace(item, key=replace(item.key, boxes=tuple(here))) if item.key is not None else item
        for item, here in zip(frames.items, boxes)
    ]
    empty = sum(not here for here in boxes)
    note = (
        f"{seen} boxes of {path} are used, {low} have scores below {least:g}, {elsewhere} are at other moments; "
        f"{empty} of {len(items)} moments have none"
    )
    return replace(frames, items=items, notes=(*frames.notes, *notes, note))


def asked(source: Path | str) -> tuple[Path, Path | None]:
    """The file with detections, and the one that says which images its numbers mean, where it is named.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another option, or one for a file that has no such numbers.
    """
    if Path(source).exists():
        return Path(source), None
    place, _, told = str(source).partition("?")
    path, options = existing(Path(place)), dict(parse_qsl(told, keep_blank_values=True))
    if wrong := [name for name in options if name != "images"]:
        raise ValueError(f"{source}: found boxes have no option {wrong[0]!r}; there is images, for .json")
    if options and path.suffix.lower() != ".json":
        raise ValueError(f"{source}: images= says what numbers of images mean, which only .json has; leave it out")
    return path, Path(options["images"]) if "images" in options else None


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def cut_to_picture(box: Box) -> Box | None:
    """A box without what is outside of the picture; none: nothing is left."""
    x1, y1, x2, y2 = box.corners
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
    return replace(box, corners=(x1, y1, x2, y2)) if x1 < x2 and y1 < y2 else None


Places = dict[tuple[str, str], int]


def of_json(path: Path, frames: KeyFrames, places: Places, told: Path | None) -> Iterator[tuple[int | None, Box]]:
    """(place among the moments, box) of a list of detections.

    Raises:
        ValueError: it is none, or nothing says which images its numbers mean.
    """
    data = loaded(path)
    if isinstance(data, dict):
        data = data.get("annotations")
    if not isinstance(data, list):
        raise ValueError(f"{path} is no list of boxes; expected entries with image_id, bbox and score")
    known = frames.images
    if any(isinstance(one, dict) and not isinstance(one.get("image_id"), str) for one in data[:1]) and not known:
        known = images_beside(path, frames, told)
    elif told is not None:
        known = images_in(told)
    sizes: dict[str, tuple[float, float]] = {}
    for number, one in enumerate(data):
        try:
            key, (x, y, width, height) = one["image_id"], map(float, one["bbox"])
            score = float(one.get("score", 1.0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, entry {number}: expected image_id, bbox and score, got {one}") from error
        if not 0 <= score <= 1:
            raise ValueError(f"{path}, entry {number}: {no_score(score)}")
        image = known.get(key) or written(key)
        place = None if image is None else places.get((image.video, image.stamp))
        corners = x, y, x + width, y + height
        if image is not None and place is not None and max(corners) > 2:
            across, down = image.width, image.height
            if not (across and down):
                if image.video not in sizes:
                    sizes[image.video] = size_of(frames.items[place])
                across, down = sizes[image.video]
            corners = x / across, y / down, (x + width) / across, (y + height) / down
        yield place, Box(corners, score=score)


def written(key: Any) -> Image | None:
    """The moment that a text as MOVIE,0902 or MOVIE/0902 means; none: it means none."""
    movie, _, stamp = str(key).removesuffix(".jpg").replace("\\", "/").replace(",", "/").rpartition("/")
    return Image(movie, stamp_of(stamp)) if movie and is_number(stamp) else None


def images_in(path: Path) -> dict[int | str, Image]:
    """The images of a file as ava_val_v2.2_min.json.

    Raises:
        ValueError: it is none.
    """
    try:
        return {
            one["id"]: Image(str(one["movie"]), stamp_of(str(one["timestamp"])), one["width"], one["height"])
            for one in loaded(existing(path))["images"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no images with id, movie, timestamp, width and height ({error})") from error


def images_beside(path: Path, frames: KeyFrames, told: Path | None) -> dict[int | str, Image]:
    """What the numbers of images mean: the list that is named, or one beside the detections or the annotations.

    Raises:
        ValueError: there is none.
    """
    if told is not None:
        return images_in(told)
    folders = dict.fromkeys([path.parent, *(Path(name).parent for name in frames.source.split(", "))])
    found = {item.key.video for item in frames.items if item.key is not None}
    for file in (file for folder in folders for file in sorted(folder.glob("*min.json"))):
        images = images_in(file)
        if any(image.video in found for image in images.values()):
            return images
    raise ValueError(
        f"{path} names images by number, and nothing says which they are: put the ava_val_v2.2_min.json that they are "
        "of beside it"
    )


def size_of(item: Item) -> tuple[float, float]:
    """Width and height of an item's video.

    Raises:
        VideoError: it cannot be read.
    """
    path = item.path
    if item.key is not None and is_cut(path):
        path = file_of(path, int(item.key.seconds + 1e-6)) or path
    video = probe(path)
    return float(video.width), float(video.height)


def of_csv(path: Path, places: Places) -> Iterator[tuple[int | None, Box]]:
    """(place, box) of lines with movie, timestamp, x1, y1, x2, y2 in shares, and a score at the end.

    Raises:
        ValueError: numbers that are none; names the line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if not row:
                continue
            try:
                x1, y1, x2, y2 = map(float, row[2:6])
                stamp, score = stamp_of(row[1]), float(row[-1])
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected movie, timestamp, x1, y1, x2, y2 and a score at the "
                    f"end; got {','.join(row)}"
                ) from error
            if max(x1, y1, x2, y2) > 2:
                raise ValueError(f"{path}, line {reader.line_num}: expected shares, 0 to 1; got {','.join(row)}")
            if not 0 <= score <= 1:
                own = "; AVA's own annotations end with the person, and are no found boxes" * row[-1].strip().isdigit()
                raise ValueError(f"{path}, line {reader.line_num}: {no_score(score)}{own}")
            yield places.get((row[0], stamp)), Box((x1, y1, x2, y2), score=score)


def of_table(path: Path, frames: KeyFrames, notes: list[str]) -> Iterator[tuple[int | None, Box]]:
    """(place, box) of a table of boxes: those at most a fiftieth of a second from a moment of the same video.

    `notes` gets what reading had to do.
    """
    times: dict[Path, list[tuple[float, int]]] = {}
    for place, item in enumerate(frames.items):
        if item.key is not None:
            times.setdefault(item.path.resolve(), []).append((item.key.seconds, place))
    for there in times.values():
        there.sort()
    found = gathered(read_boxes(path), Videos(path.parent, False))
    notes += [*filter(None, [found.report()]), *found.notes]
    for item in found.items:
        assert item.key is not None
        there = times.get(item.path.resolve(), [])
        after = bisect_left(there, (item.key.seconds, 0))
        around = there[max(after - 1, 0) : after + 1]
        near = min(((abs(at - item.key.seconds), place) for at, place in around), default=(NEAR, 0))
        for box in item.key.boxes:
            yield (near[1] if near[0] < NEAR else None), Box(box.corners, (), box.person, box.score)
