"""What CVAT exports, in XML: "for video 1.1", with tracks, and "for images 1.1"; as the rows of a table of boxes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from tubelet.data.annotation_formats import Export, between, frame_of_image
from tubelet.data.boxes import Boxes, Row
from tubelet.data.keyframes import Corners

SIDES = ("xtl", "ytl", "xbr", "ybr")


def parsed(path: Path) -> Element:
    """The root of an XML file, that defines no entities: those may name other files, or grow without end.

    Raises:
        ValueError: it is no XML, or has a DOCTYPE.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise ValueError(f"{path} has a DOCTYPE, which exports of CVAT have not; it is not read")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise ValueError(f"{path} is no XML: {error}; export it anew") from error


def cvat(root: Element, export: Export, zero: float | None, fps: float | None) -> Boxes:
    """The boxes of an export of CVAT.

    Frames are counted from 0 in the whole video, whatever frame the task begins at, as CVAT writes them. A track ends
    where it is outside; frames between those that are written, apart by more than the task's step, have what lies
    evenly between. Attributes may be labels.

    Raises:
        ValueError: it is none, or nothing says which video a box is of.
    """
    if root.tag != "annotations":
        raise ValueError(f"{export.path} is no export of CVAT: it begins with <{root.tag}>, expected <annotations>")
    tasks = {task.findtext("id") or "": task for task in root.iterfind("./meta//task")}
    alone = next(iter(tasks.values())) if len(tasks) == 1 else None
    for job in root.iterfind("./meta/job"):  # of one job of a task
        alone = job if alone is None else alone

    def task_of(element: Element) -> Element | None:
        return tasks.get(element.get("task_id") or "", alone)

    def video_of(task: Element | None) -> str | None:
        told = None if task is None else task.findtext("source")
        return told or root.findtext("./meta/source") or None

    def size_of(task: Element | None) -> tuple[float, float] | None:
        size = None if task is None else task.find("original_size")
        size = root.find("./meta/original_size") if size is None else size
        return None if size is None else known_size(size.findtext("width"), size.findtext("height"))

    tracks = [(track, task_of(track)) for track in root.iterfind("track")]
    pictures = [*root.iterfind("image")]
    sized = all(size_of(task) for _, task in tracks) and all(size_of_image(image) for image in pictures)
    for track, task in tracks:
        where, size = f"track {track.get('id')}", (size_of(task) if sized else None) or (1.0, 1.0)
        source = f"{track.get('task_id')} " if track.get("task_id") else ""
        for frame, corners, box in course(track, size, step_of(task), export):
            labels = export.labels(track.get("label"), attributes_of(box))
            person = f"{source}{track.get('id')}"
            export.add(video_of(task), Row(f"{where}, frame {frame}", frame, f"{frame}", corners, labels, person))
    for image in pictures:
        name = image.get("name", "")
        found = frame_of_image(name if "." in name.rpartition("/")[2] else f"{name}.png")
        task = task_of(image)
        if found is None:
            raise ValueError(f"{export.path}, image {name!r}: expected a name with the frame's number, as frame_000012")
        video = found[0] or video_of(task)
        where, size = f"image {name}", (size_of_image(image) if sized else None) or (1.0, 1.0)
        boxes = image.findall("box")
        for box in boxes:
            labels = export.labels(box.get("label"), attributes_of(box))
            corners = corners_of(box, size, export)
            export.add(video, Row(where, found[1], f"{found[1]}", corners, labels))
        if not boxes:
            export.add(video, Row(where, found[1], f"{found[1]}", None))
    if others := sum(len(root.findall(f".//{kind}")) for kind in ("polygon", "polyline", "points", "mask", "ellipse")):
        export.left["shapes that are no boxes are left out"] = others
    return export.boxes("frame", sized, zero or 0.0, fps)


def known_size(width: str | None, height: str | None) -> tuple[float, float] | None:
    """Width and height as they are written; none: nobody says, as with 0, so that the video's own are taken."""
    size = float(width or 0), float(height or 0)
    return size if all(0 < side < math.inf for side in size) else None


def size_of_image(image: Element) -> tuple[float, float] | None:
    """Those of an image."""
    return known_size(image.get("width"), image.get("height"))


def course(
    track: Element, size: tuple[float, float], step: int, export: Export
) -> Iterator[tuple[int, Corners, Element]]:
    """(frame, corners, box) of a track: of what is written, and of the frames between."""
    boxes = sorted(track.iterfind("box"), key=lambda box: int(box.get("frame", 0)))
    for number, box in enumerate(boxes):
        if box.get("outside") == "1":
            continue
        frame, corners = int(box.get("frame", 0)), corners_of(box, size, export)
        yield frame, corners, box
        after = boxes[number + 1] if number + 1 < len(boxes) else None
        if after is not None and int(after.get("frame", 0)) > frame + step:
            stop, gone = int(after.get("frame", 0)), after.get("outside") == "1"
            then = corners if gone else corners_of(after, size, export)
            for place in range(frame + step, stop, step):
                yield place, between(corners, then, (place - frame) / (stop - frame)), box


def step_of(task: Element | None) -> int:
    """Frames of the video from one of a task to the next, as in step=5."""
    text = "" if task is None else task.findtext("frame_filter", "")
    _, _, told = text.partition("step=")
    return max(int(told), 1) if told.strip().isdigit() else 1


def corners_of(box: Element, size: tuple[float, float], export: Export) -> Corners:
    """Corners in pixels over a size.

    Raises:
        ValueError: some are missing.
    """
    try:
        x1, y1, x2, y2 = (float(box.attrib[side]) for side in SIDES)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{export.path}: a box with {dict(box.attrib)}; expected {', '.join(SIDES)}") from error
    if float(box.get("rotation", 0)):
        export.leave("turned rectangles are taken as if they were not")
    return x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1]


def attributes_of(box: Element) -> dict[str, str]:
    """Attributes of a box by name."""
    return {one.get("name", ""): (one.text or "").strip() for one in box.iterfind("attribute")}
