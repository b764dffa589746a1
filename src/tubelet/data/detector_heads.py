"""What the outputs of detectors mean: which of the usual conventions they follow, by names, types and shapes.

For n boxes and k classes; "centres" are middle x, middle y, width, height, "corners" x1, y1, x2, y2. Looked for in
this order, each with the number that people have in the data set that such networks are usually trained on:

1. TensorFlow: detection_boxes (y1, x1, y2, x2 in shares), detection_scores, detection_classes. People are 1.
2. Boxes, labels, scores (torchvision, SSD of ONNX' zoo, RT-DETR, D-FINE): n 4 (corners in pixels or shares), n whole
   numbers, n. People are 1; they are 0 where the network has orig_target_sizes as an input.
3. DETR, RT-DETR, RF-DETR without what comes after: n 4 (centres in shares) and n k (logits: softmax for k = 92, whose
   last is no thing, else sigmoid). People are 1 for k of 91 or 92, else 0.
4. YOLOv8 to YOLO11: (4 + k) n, n the cells of strides 8, 16, 32 (and 64): centres in pixels, chances. People are 0,
   as in all that follow.
5. YOLOv5, v6, v7: n (5 + k), n these cells or three times as many: centres in pixels, chance of a thing, of classes.
6. YOLO with suppression inside (v10, YOLO26, nms=True): n 6: corners in pixels or shares, score, class.
7. RT-DETR as Ultralytics writes it: n (4 + k): centres in shares, chances.

A leading axis of 1 is left out. A box belongs to its likeliest class. YOLOX (whose cells are not decoded), YOLO-NAS,
Paddle's (with a scale as an input) and OpenVINO's n 7 are not understood; what fits nothing is told, not guessed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

PIXELS_FROM = 2.0  # corners above this are no shares: a box of pixels is larger, and shares pass 1 by a little at most


class Head(NamedTuple):
    """How outputs are read."""

    name: str
    person: int  # the class of people in the data set that such networks are usually trained on
    raw: bool = False  # a person has many boxes


class Read(NamedTuple):
    """What a detector says about a picture of its input's size."""

    corners: Float[np.ndarray, "r 4"]  # pixels of it
    scores: Float[np.ndarray, " r"]
    classes: Int[np.ndarray, " r"]


Outputs = Mapping[str, np.ndarray]
Reader = Callable[[Outputs, tuple[int, int], int | None], tuple[Head, Read] | None]


def recognised(outputs: Outputs, size: tuple[int, int], classes: int | None = None) -> tuple[Head, Read]:
    """How outputs for an input of `size` (height, width) are to be read, and what they say.

    `classes`: how many there are, where the file tells; what comes after them in a row (masks, joints) is left out.

    Raises:
        ValueError: no convention fits, or the values are not what the one that fits says.
    """
    arrays = list(outputs.values())
    batched = arrays[0].ndim == 3 or any(one.ndim == 3 and one.shape[-1] == 4 for one in arrays)
    plain = {
        name: value[0] if batched and value.ndim > 1 and value.shape[0] == 1 else value
        for name, value in outputs.items()
    }
    plain = {name: value for name, value in plain.items() if value.ndim <= 2}  # masks and maps of features are more
    readers: tuple[Reader, ...] = (tensorflow, listed, queries, columns, rows, suppressed, shares)
    for reader in readers if batched else readers[:2]:
        if (found := reader(plain, size, classes)) is not None:
            return checked(*found)
    raise ValueError(
        "this network's outputs follow no convention that is understood; expected those of YOLO (v5 to 11, raw or with "
        "suppression inside), torchvision, SSD, DETR, RT-DETR or TensorFlow"
    )


def checked(head: Head, read: Read) -> tuple[Head, Read]:
    """The same.

    Raises:
        ValueError: scores that are none, or boxes turned over.
    """
    scores, sides = read.scores, read.corners[:, 2:] - read.corners[:, :2]
    if not len(scores):
        return head, read
    if not (np.isfinite(scores).all() and np.isfinite(read.corners).all()):
        raise ValueError(f"taken for {head.name}, its boxes or scores are NaN or infinite")
    if scores.min() < -1e-3 or scores.max() > 1 + 1e-3:
        raise ValueError(
            f"taken for {head.name}, its scores are {scores.min():.3g} to {scores.max():.3g} and not 0 to 1; was it "
            "exported without its last layer, or with joints behind the classes?"
        )
    if sides.min() < -1:  # a pixel: what hardly is there may be so by rounding
        raise ValueError(
            f"taken for {head.name}, it has boxes of {sides[:, 0].min():.3g} x {sides[:, 1].min():.3g} pixels; YOLOX "
            "has to be exported with its boxes decoded"
        )
    return head, read


def tensorflow(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """TensorFlow's object detection."""
    plain = {name.split(":")[0]: value.astype(np.float64) for name, value in outputs.items()}
    if not {"detection_boxes", "detection_scores", "detection_classes"} <= plain.keys():
        return None
    boxes, scores, labels = (plain[f"detection_{what}"] for what in ("boxes", "scores", "classes"))
    return Head("TensorFlow's detections", 1), Read(
        pixels(boxes[:, [1, 0, 3, 2]], size), scores, labels.astype(np.int64)
    )


def listed(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """Boxes, labels, scores."""
    boxes = [value for value in outputs.values() if value.ndim == 2 and value.shape[1] == 4]
    flat = {name: value for name, value in outputs.items() if value.ndim == 1}
    whole = [value for value in flat.values() if value.dtype.kind in "iu"]
    labels = named(flat, "label") if named(flat, "label") is not None else named(flat, "class")
    labels = whole[0] if labels is None and len(whole) == 1 else labels
    real = [value for value in flat.values() if value is not labels and value.dtype.kind == "f"]
    scores = named(flat, "score") if named(flat, "score") is not None else real[0] if len(real) == 1 else None
    if len(boxes) != 1 or labels is None or scores is None or not len(boxes[0]) == len(labels) == len(scores):
        return None
    corners = pixels(boxes[0].astype(np.float64), size)
    return Head("boxes, labels, scores", 1), Read(corners, scores.astype(np.float64), labels.astype(np.int64))


def queries(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """DETR's boxes and logits."""
    tables = [value.astype(np.float64) for value in outputs.values() if value.ndim == 2]
    centres = [table for table in tables if table.shape[1] == 4]
    others = [table for table in tables if table.shape[1] != 4 and centres and len(table) == len(centres[0])]
    if len(tables) != 2 or len(centres) != 1 or len(others) != 1 or np.abs(centres[0]).max(initial=0) > PIXELS_FROM:
        return None
    (logits,) = others
    count = logits.shape[1]
    if count == 92:
        powers = np.exp(logits - logits.max(1, keepdims=True))
        chances = (powers / powers.sum(1, keepdims=True))[:, :-1]
    else:
        chances = 1 / (1 + np.exp(-logits))
    head = Head("DETR's queries", 1 if count in (91, 92) else 0)
    return head, best(corners_of(centres[0]) * scale(size), chances)


def columns(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """YOLOv8 and later: a column for each cell."""
    table = only_table(outputs)
    if table is None or table.shape[1] not in cells(size) or table.shape[0] < 5:
        return None
    stop = None if classes is None else 4 + classes
    return Head("YOLOv8's cells", 0, raw=True), best(corners_of(table[:4].T), table[4:stop].T)


def rows(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """YOLOv5 and alike: a row for each cell, or anchor, with how sure it is that there is a thing."""
    table = only_table(outputs)
    counts = [times * count for count in cells(size) for times in (1, 3)]
    if table is None or table.shape[0] not in counts or table.shape[1] < 6:
        return None
    stop = None if classes is None else 5 + classes
    return Head("YOLOv5's anchors", 0, raw=True), best(corners_of(table[:, :4]), table[:, 4:5] * table[:, 5:stop])


def suppressed(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """Corners, score, class."""
    table = only_table(outputs)
    if table is None or table.shape[1] != 6:
        return None
    read = Read(pixels(table[:, :4], size), table[:, 4], table[:, 5].round().astype(np.int64))
    return Head("YOLO's boxes after suppression", 0), read


def shares(outputs: Outputs, size: tuple[int, int], classes: int | None) -> tuple[Head, Read] | None:
    """Centres in shares, then chances."""
    table = only_table(outputs)
    if table is None or table.shape[1] < 5 or np.abs(table[:, :4]).max(initial=0) > PIXELS_FROM:
        return None
    return Head("RT-DETR's rows", 0), best(corners_of(table[:, :4]) * scale(size), table[:, 4:])


# ---------------------------------------------------------------------------- parts of them


def named(outputs: Outputs, word: str) -> np.ndarray | None:
    """The one output whose name has a word in it."""
    found = [value for name, value in outputs.items() if word in name.lower()]
    return found[0] if len(found) == 1 else None


def only_table(outputs: Outputs) -> np.ndarray | None:
    """The output that is a table, if there is just one."""
    tables = [value for value in outputs.values() if value.ndim == 2]
    return tables[0].astype(np.float64) if len(tables) == 1 else None


def cells(size: tuple[int, int]) -> Iterable[int]:
    """Cells of all strides of an input of `size`, up to 32 and up to 64.

    >>> list(cells((640, 640)))
    [8400, 8500]
    """
    height, width = size
    return [sum((height // stride) * (width // stride) for stride in (8, 16, 32, 64)[:count]) for count in (3, 4)]


def best(corners: Float[np.ndarray, "r 4"], chances: Float[np.ndarray, "r k"]) -> Read:
    """Each box with its likeliest class."""
    classes = chances.argmax(1)
    return Read(corners, chances[np.arange(len(chances)), classes], classes)


def corners_of(centres: Float[np.ndarray, "r 4"]) -> Float[np.ndarray, "r 4"]:
    """Corners from middles and sides.

    >>> corners_of(np.array([[10.0, 20, 4, 6]])).tolist()
    [[8.0, 17.0, 12.0, 23.0]]
    """
    half = centres[:, 2:] / 2
    return np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)


def scale(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What shares are multiplied by."""
    return size[1], size[0], size[1], size[0]


def pixels(corners: Float[np.ndarray, "r 4"], size: tuple[int, int]) -> Float[np.ndarray, "r 4"]:
    """Corners in pixels, which may be given in shares."""
    return corners if corners.max(initial=0) > PIXELS_FROM else corners * scale(size)
