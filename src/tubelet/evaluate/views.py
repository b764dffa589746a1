"""The multi-view test: every video seen in several places of time and picture, and what the views say averaged.

Each video is opened once, each frame of its views decoded and scaled once. The network gets full batches, which may
span videos: what is found about one depends on the others by the rounding of sums at most, an unreadable one changes
its own row only, and any number of processes finds the same.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from tubelet.data.datasets import Data
from tubelet.data.labels import Labels
from tubelet.data.loader import unchanged, undisturbed
from tubelet.data.parts import part_of
from tubelet.data.sources import Item
from tubelet.data.transforms import Place, covering
from tubelet.data.video import Video, VideoError, frames_at
from tubelet.data.views import time_views
from tubelet.evaluate.results import Results, Row
from tubelet.nn.collective import gathered, share, whoami
from tubelet.targets import inputs

Network = Callable[[Float[Tensor, "b n q"]], Float[Tensor, "b x"]]
Average = Literal["probabilities", "scores"]


@dataclass(frozen=True)
class Views:
    """Times x places: how often a video is looked at.

    >>> Views.parse("5x3"), str(Views(2, 3))
    (Views(times=5, places=3), '2x3')
    """

    times: int = 5
    """Clips, evenly over the video."""
    places: int = 3
    """Crops of each clip, evenly along the longer side."""

    def __post_init__(self) -> None:
        if self.times < 1 or self.places < 1:
            raise ValueError(f"views {self} cannot be seen; expected two numbers of 1 or more, as 5x3")

    def __str__(self) -> str:
        return f"{self.times}x{self.places}"

    @classmethod
    def parse(cls, text: str) -> "Views":
        """As the papers write them: clips x crops.

        Raises:
            ValueError: not two numbers.
        """
        found = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", text.strip())
        if found is None:
            raise ValueError(f"views {text!r} cannot be read; expected clips x crops, as 5x3")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, eq=False)
class Viewer:
    """A fine-tuned network, and what it needs to look at clips."""

    network: Network
    """Normalised patches to logits."""
    data: Data
    """Which clips it was trained on; `labels` says what its outputs mean."""
    patch: tuple[int, int, int]
    """Of the network, in frames and pixels."""
    average: Average = "probabilities"
    """What is averaged over views: probabilities, or the scores (logits) before the softmax."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    """Where the network is."""
    batch: int = 16
    """Clips that go through it at once; views of several videos do."""

    @property
    def labels(self) -> Labels:
        """What the outputs mean.

        Raises:
            ValueError: the run does not say.
        """
        return labels_of(self.data)

    def __call__(self, videos: Iterable[tuple[UInt8[Tensor, "v c t h w"], str]]) -> Iterator[Float[Tensor, " x"]]:
        """What all views of each video say together: probabilities, or values; of (views, path) in their order.

        Raises:
            ValueError: not finite, or not one output per class.
        """
        shown: deque[tuple[str, int]] = deque()

        def clips() -> Iterator[UInt8[Tensor, "1 c t h w"]]:
            for views, where in videos:
                shown.append((where, len(views)))
                yield from views.split(1)

        scores: list[Float[Tensor, " x"]] = []
        for score in self.scores(clips()):
            scores.append(score)
            where, count = shown[0]
            if len(scores) == count:
                yield self.together(torch.stack(scores), where)
                shown.popleft()
                scores.clear()

    def scores(self, clips: Iterator[UInt8[Tensor, "1 c t h w"]]) -> Iterator[Float[Tensor, " x"]]:
        """What the network says about each clip: all its batches are full, but for the last."""
        while few := list(islice(clips, self.batch)):
            with torch.no_grad():
                found = self.network(inputs(torch.cat(few).to(self.device), self.patch))
            yield from found.cpu().double()  # so that many classes sum to 1

    def together(self, scores: Float[Tensor, "v x"], where: str) -> Float[Tensor, " x"]:
        """The views of one video, averaged."""
        if scores.shape[1] != len(self.labels.names):
            raise ValueError(f"the network has {scores.shape[1]} outputs for {len(self.labels.names)} classes")
        if not scores.isfinite().all():
            raise ValueError(f"{where}: the network gives NaN or infinity; were its weights trained to the end?")
        if self.average == "scores":
            return self.labels.read(scores.mean(0))
        return self.labels.read(scores).mean(0)


def labels_of(data: Data) -> Labels:
    """What the outputs of a fine-tuned network mean.

    Raises:
        ValueError: the run does not say.
    """
    if data.labels is None or not data.labels.names:
        raise ValueError("these weights do not say what their outputs mean; fine-tune first: tubelet finetune")
    return data.labels


def crops_of(
    frames: UInt8[Tensor, "n h w c"], times: Sequence[Int[np.ndarray, " t"]], data: Data, places: int
) -> UInt8[Tensor, "v t y x c"]:
    """The views of a video, times first: all frames are scaled once, and each crop copied once."""
    scaled = covering(frames, data.size)
    views = torch.empty(len(times), places, len(times[0]), *data.size, scaled.shape[-1], dtype=torch.uint8)
    for place in range(places):
        top, left, height, width = Place(place, places).window(scaled.shape[1], scaled.shape[2], data.size)
        cut = scaled[:, top : top + height, left : left + width]
        for turn, time in enumerate(times):
            torch.index_select(cut, 0, torch.from_numpy(time), out=views[turn, place])
    return views.flatten(0, 1)


def views_of(item: Item, data: Data, views: Views) -> tuple[UInt8[Tensor, "v c t h w"], list[str]]:
    """All views of a video, times first, decoded in one go; and what there is to say about the file.

    Raises:
        VideoError: it cannot be read, or has nothing between start and end.
        ValueError: it is too short, and the sampler says that this is an error.
    """
    times: list[Int[np.ndarray, " t"]] = []
    notes: list[str] = []

    def choose(video: Video) -> Int[np.ndarray, " frames"]:
        inside = np.arange(video.frames)[part_of(item, video.seconds)]
        seconds = video.seconds[inside]
        if data.clip.is_short(seconds):
            notes.append(f"{item.path} is too short for {data.clip}: it has {len(seconds)}; some are repeated")
        try:
            times.extend(inside[view] for view in time_views(data.clip, seconds, views.times))
        except ValueError as error:  # short="error"
            raise ValueError(f"{item.path}: {error}") from error
        return np.unique(np.concatenate(times))

    clip = frames_at(item.path, choose, gray=data.channels == 1)
    if clip.damaged:
        notes.append(f"{item.path} is damaged: {clip.damaged} packets or frames of the views")
    order = np.unique(np.concatenate(times))
    crops = crops_of(clip.frames, [np.searchsorted(order, view) for view in times], data, views.places)
    return crops.permute(0, 4, 1, 2, 3), notes


class ViewedItems:
    """The views of items, or why they cannot be seen; made wherever they are asked for."""

    def __init__(self, items: Sequence[Item], places: Sequence[int], data: Data, views: Views) -> None:
        self.items, self.places, self.data, self.views = items, places, data, views

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, turn: int) -> tuple[int, UInt8[Tensor, "v c t h w"] | None, list[str]]:
        """Place of the item, its views, and what there is to say; or no views, and why."""
        place = self.places[turn]
        item = self.items[place]
        try:
            return place, *views_of(item, self.data, self.views)
        except (VideoError, OSError) as error:
            return place, None, [str(error)]


def made_by(source: Any, workers: int) -> DataLoader[Any]:
    """All that a source with __getitem__ and a length makes, in order, made by so many processes; 0: by this one."""
    return DataLoader(
        source,
        batch_size=None,
        num_workers=workers,
        collate_fn=unchanged,
        worker_init_fn=undisturbed if workers else None,
        generator=torch.Generator(),
    )


def multi_view(
    viewer: Viewer,
    items: Sequence[Item],
    views: Views,
    *,
    workers: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Results:
    """What the network says about every video, in the order of `items`; alike on all processes of a job.

    A video that cannot be read has a row with the reason.

    Raises:
        ValueError: no items, labels that the network does not know, videos without a label, scores that are not finite.
    """
    if not items:
        raise ValueError("a test needs at least one video, got none")
    labels = viewer.labels
    labels.encode(items)  # before the work, not after it
    loader = made_by(ViewedItems(items, share(len(items)), viewer.data, views), workers)
    rows: list[Row] = []
    waiting: deque[tuple[int, list[str]]] = deque()

    def add(place: int, outputs: list[float] | None, error: str | None, notes: Sequence[str]) -> None:
        item = items[place]
        rows.append(Row(place, str(item.path), item.start, item.end, item.label, outputs, error, tuple(notes)))
        if progress is not None and whoami()[0] == 0:
            progress(min(len(rows) * whoami()[1], len(items)), len(items))

    def readable() -> Iterator[tuple[UInt8[Tensor, "v c t h w"], str]]:
        for place, clips, notes in loader:
            if clips is None:
                add(place, None, "; ".join(notes), ())
            else:
                waiting.append((place, notes))
                yield clips, str(items[place].path)

    for outputs in viewer(readable()):
        place, notes = waiting.popleft()
        add(place, outputs.tolist(), None, notes)
    return Results(labels, sorted(gathered(rows), key=lambda row: row.item), str(views), viewer.average)
