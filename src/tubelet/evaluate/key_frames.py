"""The test over key frames: whole frames, and what the people in their boxes do.

Frames are scaled to one short side and keep their shape; edges are filled up to whole cubes with the mean colour, for
each clip by itself. The network gets clips of one size at a time: what is found in one depends on the others by the
rounding of sums at most, and any number of processes finds the same.

Source: VideoMAE's released code for AVA, which fills up to the largest clip of a batch.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data.datasets import Data
from tubelet.data.items import Item
from tubelet.data.keyframes import Box
from tubelet.data.labels import Labels
from tubelet.data.parts import clip_of
from tubelet.data.settings import fit_for_boxes
from tubelet.data.transforms import covering
from tubelet.data.video import VideoError
from tubelet.evaluate.detections import Detection
from tubelet.evaluate.frame_map import Frame, frame_map, frame_of, key_of
from tubelet.evaluate.frame_results import FrameResults, Seen
from tubelet.evaluate.views import labels_of, made_by
from tubelet.nn.collective import gathered, share, whoami
from tubelet.nn.detector import MANY
from tubelet.nn.patches import patchify
from tubelet.targets import Norm, normalise
from tubelet.types import Grid

Network = Callable[[Float[Tensor, "b n q"], Float[Tensor, "r 4"], Int[Tensor, " r"], Grid], Float[Tensor, "r x"]]
WAITING = 4  # batches of clips that may wait for others of their size


class Prepared(NamedTuple):
    """A clip as it goes to the device, and where to look."""

    video: UInt8[Tensor, "c t h w"]
    boxes: Sequence[Box]


@dataclass(frozen=True, eq=False)
class Looker:
    """A network that says what people in boxes do, and what it needs to look at whole frames."""

    network: Network
    """Normalised patches, corners in pixels, which clip each is of, and the grid, to logits."""
    data: Data
    """Which clips it was trained on; `labels` says what its outputs mean."""
    patch: tuple[int, int, int]
    """Of the network, in frames and pixels."""
    norm: Norm = "imagenet"
    """Means and deviations of colours that it was trained with."""
    side: int = 256
    """Short side of the frames, in pixels."""
    enlarge: tuple[float, float] = (0.1, 0.05)
    """By which share of width and height boxes are made larger, half of it at each side."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    """Where the network is."""
    batch: int = 16
    """Clips that go through it at once."""

    @property
    def labels(self) -> Labels:
        """What the outputs mean.

        Raises:
            ValueError: the run does not say.
        """
        return labels_of(self.data)

    def prepared(self, frames: UInt8[Tensor, "t h w c"], boxes: Sequence[Box]) -> Prepared:
        """Whole frames at the short side, and their boxes."""
        return Prepared(covering(frames, (self.side, self.side)).permute(3, 0, 1, 2), boxes)

    def inputs(self, videos: UInt8[Tensor, "b c t h w"]) -> tuple[Float[Tensor, "b n q"], Grid]:
        """Normalised patches of clips that are filled up to whole cubes, at the right and at the bottom."""
        height, width = videos.shape[3], videos.shape[4]
        margin = 0, -width % self.patch[2], 0, -height % self.patch[1]
        filled = F.pad(videos, margin)
        patches = patchify(filled, self.patch).float() / 255
        values = normalise(patches, videos.shape[1], self.norm)
        if any(margin):
            values = values * patchify(F.pad(torch.ones_like(videos[:1]), margin), self.patch)
        return values, Grid.of(filled.shape[2], filled.shape[3], filled.shape[4], self.patch)

    def __call__(self, clips: Sequence[Prepared]) -> list[Float[Tensor, "r x"]]:
        """Probabilities of the classes, for each box of clips of one size.

        Raises:
            ValueError: not finite, or not one output per class.
        """
        videos = torch.stack([clip.video for clip in clips]).to(self.device)
        patches, grid = self.inputs(videos)
        height, width = videos.shape[3], videos.shape[4]
        corners = torch.cat([enlarged(clip.boxes, height, width, self.enlarge) for clip in clips]).to(self.device)
        counts = [len(clip.boxes) for clip in clips]
        which = torch.arange(len(clips)).repeat_interleave(torch.tensor(counts)).to(self.device)
        with torch.no_grad():
            logits = self.network(patches, corners, which, grid).cpu().double()
        if logits.shape[1] != len(self.labels.names):
            raise ValueError(f"the network has {logits.shape[1]} outputs for {len(self.labels.names)} classes")
        if not logits.isfinite().all():
            raise ValueError("the network gives NaN or infinity; were its weights trained to the end?")
        return list(self.labels.read(logits).split(counts))


def enlarged(boxes: Sequence[Box], height: int, width: int, by: tuple[float, float]) -> Float[Tensor, "r 4"]:
    """Corners of boxes in pixels of a picture, made larger by so much of their width and height, and cut to it."""
    limits = torch.tensor([width, height] * 2, dtype=torch.float64)
    corners = torch.tensor([box.corners for box in boxes], dtype=torch.float64).view(-1, 4) * limits
    more = (corners[:, 2:] - corners[:, :2]) * torch.tensor(by, dtype=torch.float64) / 2
    larger = torch.cat([corners[:, :2] - more, corners[:, 2:] + more], dim=1)
    return larger.clamp(min=0).minimum(limits).float()


def look(looker: Looker, frames: UInt8[Tensor, "t h w c"], boxes: Sequence[Box]) -> Float[Tensor, "r x"]:
    """Probabilities of the classes, for boxes of the moment that a clip of whole frames is around."""
    return looker([looker.prepared(frames, boxes)])[0]


# ---------------------------------------------------------------------------- many key frames


class KeyClips:
    """The clips around key frames, scaled, or why they cannot be seen; made wherever they are asked for."""

    def __init__(self, items: Sequence[Item], places: Sequence[int], looker: Looker) -> None:
        self.items, self.places = items, places
        self.looker = replace(looker, network=nothing, device=torch.device("cpu"))  # a reader needs no weights

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, turn: int) -> tuple[int, Prepared | None, list[str]]:
        """Place of the item, its clip, and what there is to say; or no clip, and why. Without boxes nothing is read."""
        place = self.places[turn]
        item = self.items[place]
        boxes = key_of(item).boxes
        if not boxes:
            return place, None, []
        try:
            data = self.looker.data
            clip = clip_of(item, data.clip, gray=data.channels == 1)
        except (VideoError, OSError) as error:
            return place, None, [str(error)]
        notes = [f"{item.path} is damaged: {clip.damaged} packets or frames of the clip"] if clip.damaged else []
        return place, self.looker.prepared(clip.frames, boxes), notes


def nothing(*_: object) -> Tensor:
    """The network of a reader, which is not asked."""
    raise AssertionError("readers do not look")


def look_at(
    looker: Looker,
    items: Sequence[Item],
    *,
    workers: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> list[Seen]:
    """What is found in the boxes of key frames, in the order of `items`; alike on all processes of a job.

    A key frame that cannot be read has a row with the reason. Each is read by itself: where moments are close, frames
    between them are decoded more than once.

    Raises:
        ValueError: no key frames, settings or labels that do not fit, outputs that are not finite.
    """
    if not items:
        raise ValueError("a test needs at least one key frame, got none")
    fit_for_boxes(looker.data, items)
    looker.labels  # noqa: B018 - raises, and before the work
    rows: list[Seen] = []
    notes: dict[int, list[str]] = {}

    def add(place: int, detections: tuple[Detection, ...], error: str | None = None) -> None:
        item = items[place]
        rows.append(Seen(place, str(item.path), key_of(item), detections, error, tuple(notes.pop(place, ()))))
        if progress is not None and whoami()[0] == 0:
            progress(min(len(rows) * whoami()[1], len(items)), len(items))

    def readable() -> Iterator[tuple[int, Prepared]]:
        for place, clip, told in made_by(KeyClips(items, share(len(items)), looker), workers):
            if clip is None:
                add(place, (), "; ".join(told) or None)
            else:
                notes[place] = told
                yield place, clip

    for together in of_one_size(readable(), looker.batch):
        places = [place for place, _ in together]
        try:
            found = looker([clip for _, clip in together])
        except ValueError as error:
            raise ValueError(f"{items[places[0]].path}: {error}") from error
        for place, table in zip(places, found):
            key = key_of(items[place])
            add(
                place,
                tuple(
                    Detection(key.video, key.stamp, key.seconds, box, tuple(row))
                    for box, row in zip(key.boxes, table.tolist())
                ),
            )
    return sorted(gathered(rows), key=lambda row: row.item)


def of_one_size(clips: Iterable[tuple[int, Prepared]], batch: int) -> Iterator[list[tuple[int, Prepared]]]:
    """Clips in batches of one size each, of at most `batch` clips, and of `MANY` boxes unless a clip has more."""
    waiting: dict[torch.Size, list[tuple[int, Prepared]]] = defaultdict(list)
    for place, clip in clips:
        there = waiting[clip.video.shape]
        if there and sum(len(other.boxes) for _, other in there) + len(clip.boxes) > MANY:
            yield waiting.pop(clip.video.shape)
        waiting[clip.video.shape].append((place, clip))
        full = len(waiting[clip.video.shape]) == batch
        if full or sum(map(len, waiting.values())) >= WAITING * batch:
            yield waiting.pop(clip.video.shape if full else max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def with_boxes(item: Item, boxes: Iterable[Box]) -> Item:
    """The key frame with other boxes."""
    return replace(item, key=replace(key_of(item), boxes=tuple(boxes)))


def over_key_frames(
    looker: Looker,
    truth: Sequence[Item],
    found: Sequence[Item] | None = None,
    *,
    evaluated: Sequence[str] = (),
    excluded: Collection[Frame] = (),
    workers: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> FrameResults:
    """What a network finds in key frames: in the boxes that a detector `found` there, or in the true ones.

    Only the key frames of `truth` are looked at, and of these not those that are `excluded`, (video, stamp).

    Raises:
        ValueError: labels that the network does not know; found boxes of other key frames only; as `frame_map` and
            `look_at`.
    """
    labels, keys = looker.labels, [key_of(item) for item in truth]
    labels.hot([[*evaluated], *(box.labels for key in keys for box in key.boxes)])  # before the work, not after it
    frame_map((), truth, labels.names, evaluated, excluded)
    there = [item for item, key in zip(truth, keys) if frame_of(key) not in excluded]
    if found is None:  # a true box is sure, whatever a column of its table says
        asked = [with_boxes(item, [replace(box, score=1.0) for box in key_of(item).boxes]) for item in there]
    else:
        boxes = {frame_of(key): key.boxes for key in map(key_of, found)}
        if there and not any(frame_of(key_of(item)) in boxes for item in there):
            some, other = frame_of(key_of(there[0])), next(iter(boxes), None)
            raise ValueError(
                f"none of the {len(there)} key frames has boxes that were found: {some} is annotated, and the "
                f"{len(boxes)} with boxes are others, such as {other}"
            )
        asked = [with_boxes(item, boxes.get(frame_of(key_of(item)), ())) for item in there]
    rows = look_at(looker, asked, workers=workers, progress=progress)
    return FrameResults(
        labels.names,
        tuple(evaluated) or labels.names,
        "true" if found is None else "found",
        [replace(row, key=key_of(item)) for row, item in zip(rows, there)],
        len(truth) - len(there),
    )
