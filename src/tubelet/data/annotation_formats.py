"""What annotation tools export, in JSON: COCO and Label Studio. Each becomes the rows of a table of boxes."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tubelet.data.boxes import Boxes, Row, Unit, no_score
from tubelet.data.images import SUFFIXES
from tubelet.data.keyframes import Corners

SECONDS = ("timestamp", "seconds", "time")
FRAMES = ("frame", "frame_number", "frame_index", "frame_id")
PERSONS = ("track_id", "instance_id", "person_id")
MOST = 10_000_000  # boxes of an export: ten hours of ten people at 25 frames a second
BOX = ("x", "y", "width", "height")
NOT_SAID = {"", "none", "false", "no", "__undefined__", "undefined"}  # values of attributes that are no labels


@dataclass
class Export:
    """The rows of an export, as they are found."""

    path: Path
    attributes: tuple[str, ...] = ()
    """Whose values are the labels, in place of the class; with `label` among them the class is one, too."""
    video: str | None = None
    """The one video that is meant, where the export names none."""
    only: Callable[[], str | None] = lambda: None
    """The one video that there is, which is looked for where neither names one."""
    rows: dict[str, list[Row]] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    classes: dict[str, None] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def labels(self, name: str | None, attributes: dict[str, Any]) -> tuple[str, ...]:
        """The labels of a box of a class with attributes.

        An attribute that is on or off is a label by its own name.
        """
        self.seen |= dict.fromkeys(attributes)
        if name:
            self.classes[name] = None
        if not self.attributes:
            return (name,) if name else ()
        found = [name] if "label" in self.attributes and name else []
        for attribute in self.attributes:
            value = attributes.get(attribute)
            for part in value if isinstance(value, list) else str("" if value is None else value).split("|"):
                text = str(part).strip()
                if text.lower() == "true":
                    found.append(attribute)
                elif text.lower() not in NOT_SAID:
                    found.append(text)
        return tuple(dict.fromkeys(found))

    @cached_property
    def alone(self) -> str | None:
        """The video of boxes that name none."""
        return self.video or self.only()

    def add(self, video: str | None, row: Row) -> None:
        """One more row.

        Raises:
            ValueError: nobody says of which video; or corners that are none.
        """
        name = video or self.alone
        if name is None:
            raise ValueError(
                f"{self.path}, {row.where}: nothing says of which video; name it: {self.path.name}?video=clip.mp4"
            )
        if not math.isfinite(row.time):
            raise ValueError(f"{self.path}, {row.where}: {row.stamp} is no moment")
        if not 0 <= row.score <= 1:
            raise ValueError(f"{self.path}, {row.where}: {no_score(row.score)}")
        self.count += 1
        if self.count > MOST:
            raise ValueError(
                f"{self.path} has more than {MOST:,} boxes, those between drawn ones counted: the frame numbers of "
                f"{row.where} are damaged, or it is too large for one table; export it in parts"
            )
        if row.corners is not None and not (row.corners[0] < row.corners[2] and row.corners[1] < row.corners[3]):
            self.leave("boxes without width or height are left out")
            row = row._replace(corners=None, labels=())
        self.rows.setdefault(name, []).append(row)

    def leave(self, why: str) -> None:
        """Counts what is not taken as it is."""
        self.left[why] = self.left.get(why, 0) + 1

    def boxes(self, unit: Unit, shares: bool, zero: float, fps: float | None) -> Boxes:
        """All rows as a table.

        Raises:
            ValueError: there are none, or an attribute that no box has.
        """
        if not self.rows:
            raise ValueError(f"{self.path} has no boxes")
        if unseen := [name for name in self.attributes if name != "label" and name not in self.seen]:
            raise ValueError(
                f"{self.path}: no box has an attribute {unseen[0]!r}; there are {', '.join(self.seen) or 'none'}"
            )
        notes = [f"{count} {why}" for why, count in self.left.items()]
        if not self.attributes and len(self.classes) == 1 and self.seen:
            notes.append(
                f"all boxes of {self.path.name} are {next(iter(self.classes))!r}; if what they do is in an attribute "
                f"({', '.join(self.seen)}), say ?attributes={next(iter(self.seen))}"
            )
        return Boxes(self.path, unit, self.rows, shares, zero, fps, tuple(notes))


def frame_of_image(name: str) -> tuple[str | None, int] | None:
    """The video and the number of the frame that an image's name tells; none: it has no number.

    >>> frame_of_image("clip/000012.jpg"), frame_of_image("a/clip_frame_12.png"), frame_of_image("frame_000012.png")
    (('clip', 12), ('a/clip', 12), (None, 12))
    >>> frame_of_image("clip.mp4"), frame_of_image("cat.jpg")
    (None, None)
    """
    path = PurePosixPath(name.replace("\\", "/"))
    number = re.search(r"\d+$", path.stem)
    if number is None or path.suffix.lower() not in SUFFIXES:
        return None
    before = re.sub(r"(^|[_\-. ]+)(frame|img|image)?[_\-. ]*$", "", path.stem[: number.start()], flags=re.IGNORECASE)
    folder = "" if str(path.parent) == "." else str(path.parent)
    return "/".join(part for part in (folder, before) if part) or None, int(number[0])


# ---------------------------------------------------------------------------- COCO


def is_coco(data: Any) -> bool:
    """Whether this is what COCO's files hold."""
    return isinstance(data, dict) and {"images", "annotations"} <= data.keys()


def coco(data: Any, export: Export, zero: float | None, fps: float | None) -> Boxes:
    """The boxes of a COCO file; images are moments of videos.

    Which video: `video_id` of a list `videos`, or `video` or `movie`, or the name of the image's file. When: its
    `timestamp`, else its `frame_id` (from 0), else the number in that name. Images without boxes say that nobody is
    there.

    Raises:
        ValueError: an image or a class that is not there, or nothing that tells the moment.
    """
    path = export.path
    videos = {one["id"]: one.get("file_name") or one.get("name") for one in data.get("videos", ())}
    classes = {one["id"]: str(one["name"]) for one in data.get("categories", ())}
    images: dict[Any, dict[str, Any]] = {image["id"]: image for image in data["images"]}
    timed = all(any(name in image for name in SECONDS) for image in images.values())
    sized = all(image.get("width") and image.get("height") for image in images.values())
    empty = dict.fromkeys(images)

    def moment(key: Any) -> tuple[str | None, float]:
        image = images[key]
        video = videos.get(image.get("video_id")) or image.get("video") or image.get("movie")
        named = frame_of_image(str(image.get("file_name", "")))
        time = next((image[name] for name in (SECONDS if timed else FRAMES) if name in image), None)
        if time is None and named is not None:
            time = named[1]
        if time is None:
            raise ValueError(
                f"{path}, image {key}: nothing says which moment it is; expected one of {', '.join(SECONDS + FRAMES)}, "
                "or a number in file_name, as in clip/000012.jpg"
            )
        return video or (named[0] if named else None), float(time)

    for number, one in enumerate(data["annotations"]):
        where = f"annotation {one.get('id', number)}"
        key = one.get("image_id")
        if key not in images:
            raise ValueError(f"{path}, {where}: there is no image {key!r}")
        if one.get("iscrowd"):
            export.leave("boxes of crowds are left out")
            continue
        if one.get("category_id") not in classes and classes:
            raise ValueError(f"{path}, {where}: there is no category {one.get('category_id')!r}")
        try:
            x, y, width, height = map(float, one["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, {where}: expected bbox as [x, y, width, height], got {one.get('bbox')}"
            ) from error
        across, down = (float(images[key]["width"]), float(images[key]["height"])) if sized else (1.0, 1.0)
        corners = x / across, y / down, (x + width) / across, (y + height) / down
        attributes = {k: v for k, v in (one.get("attributes") or {}).items() if k not in PERSONS}
        person = next((str(p) for p in (one.get(n, (one.get("attributes") or {}).get(n)) for n in PERSONS) if p), None)
        video, time = moment(key)
        labels = export.labels(classes.get(one.get("category_id")), attributes)
        export.add(video, Row(where, time, f"{time:g}", corners, labels, person, float(one.get("score", 1))))
        empty.pop(key, None)
    for key in empty:
        video, time = moment(key)
        export.add(video, Row(f"image {key}", time, f"{time:g}", None))
    return export.boxes("seconds" if timed else "frame", sized, zero or 0.0, fps)


# ---------------------------------------------------------------------------- Label Studio


def is_label_studio(data: Any) -> bool:
    """Whether this is what Label Studio exports as JSON."""
    return isinstance(data, list) and bool(data) and all(isinstance(task, dict) for task in data)


def label_studio(data: Any, export: Export, zero: float | None, fps: float | None) -> Boxes:
    """The boxes of tasks of Label Studio: rectangles of videos, with those between drawn ones, or of single frames.

    Between two drawn rectangles the frames have what lies evenly between. After the last one it stays to the end of the
    video, unless it is switched off there: then it is shown on that frame and no more. Frames are counted from 1, at
    the rate that the tool took the video to have: so they become seconds. Choices of a region are attributes, called
    as their control.

    Raises:
        ValueError: no rectangles.
    """
    timed: set[bool] = set()
    for number, task in enumerate(data):
        where, regions = f"task {task.get('id', number)}", [*regions_of(task)]
        if not regions:
            export.leave("tasks without rectangles are left out")
        choices: dict[str, dict[str, Any]] = {}
        for region in regions:
            if "choices" in region.get("value", {}):
                choices.setdefault(str(region.get("id")), {})[region["from_name"]] = region["value"]["choices"]
        name = source_of(task)
        for region in regions:
            value, who = region.get("value", {}), str(region.get("id", "")) or None
            classes = [
                *value.get("labels", ()),
                *value.get("rectanglelabels", ()),
                *value.get("videorectanglelabels", ()),
            ]
            extra = choices.get(str(region.get("id")), {})
            labels = dict.fromkeys(x for one in classes or [None] for x in export.labels(one, extra))
            if "sequence" in value:
                rate = float(value.get("framesCount") or 0) / float(value.get("duration") or 1)
                timed.add(bool(fps or (rate and value.get("duration"))))
                rate = fps or rate
                for frame, corners in frames_of(value, export):
                    time = (frame - 1 if zero is None else frame - zero) / rate if timed == {True} else frame
                    export.add(name, Row(f"{where}, region {who}", time, f"{frame}", corners, tuple(labels), who))
            elif {*BOX} <= value.keys():
                found = frame_of_image(name or "")
                if found is None:
                    raise ValueError(f"{export.path}, {where}: {name} has no number that says which frame it is")
                timed.add(False)
                corners = corners_of(value, export)
                export.add(found[0], Row(where, found[1], f"{found[1]}", corners, tuple(labels)))
    if len(timed) > 1:
        raise ValueError(
            f"{export.path} has frames of some videos and seconds of others; export them apart, or say ?fps=25"
        )
    seconds = timed == {True}
    videos = any("region" in str(rows[0].where) for rows in export.rows.values())
    first = 1.0 if videos and zero is None else zero or 0.0
    return export.boxes("seconds" if seconds else "frame", True, 0.0 if seconds else first, None if seconds else fps)


def regions_of(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The results of a task that count; in the short form of the export, its sequences."""
    if "annotations" not in task:
        for name, value in task.items():
            for number, one in enumerate(value if isinstance(value, list) else ()):
                if isinstance(one, dict) and ("sequence" in one or {*BOX} <= one.keys()):
                    yield {"id": f"{name} {number}", "from_name": name, "value": one}
        return
    for annotation in task["annotations"]:
        if not annotation.get("was_cancelled"):
            yield from (one for one in annotation.get("result", ()) if isinstance(one, dict))


def source_of(task: dict[str, Any]) -> str | None:
    """The name of a task's video or image: what its data call so, without what an address has around it."""
    data = task.get("data", task)
    texts = [data[key] for key in ("video", "image", "url", "video_url") if isinstance(data.get(key), str)]
    texts += [value for value in data.values() if isinstance(value, str) and re.search(r"\.\w{2,4}$", value)]
    if not texts:
        return None
    parts = urlsplit(texts[0])
    inside = parse_qs(parts.query).get("d", [parts.path])[0]  # files of the server: ?d=folder/clip.mp4
    return unquote(inside).lstrip("/")


def frames_of(value: dict[str, Any], export: Export) -> Iterator[tuple[int, Corners]]:
    """(frame, corners) of a sequence: of drawn rectangles and of the frames between them."""
    drawn = sorted(value["sequence"], key=lambda one: one["frame"])
    for number, one in enumerate(drawn):
        here = corners_of(one, export)
        if number == 0 or int(drawn[number - 1]["frame"]) < int(one["frame"]):
            yield int(one["frame"]), here
        if not one.get("enabled", True):
            continue
        if number + 1 < len(drawn):
            then, stop = corners_of(drawn[number + 1], None), int(drawn[number + 1]["frame"])
        else:
            then, stop = here, int(value.get("framesCount") or 0) + 1
        for frame in range(int(one["frame"]) + 1, stop):
            share = (frame - one["frame"]) / (stop - one["frame"])
            yield frame, between(here, then, share)


def between(one: Corners, other: Corners, share: float) -> Corners:
    """Corners on the way from one box to another."""
    a, b, c, d = (here + (there - here) * share for here, there in zip(one, other))
    return a, b, c, d


def corners_of(value: dict[str, Any], export: Export | None) -> Corners:
    """Corners of a rectangle in percent, as shares; a turned one is taken as if it were not."""
    if value.get("rotation") and export is not None:
        export.leave("turned rectangles are taken as if they were not")
    x, y, width, height = (float(value[name]) / 100 for name in BOX)
    return x, y, x + width, y + height
