"""The multi-view test: every video seen in several places of time and picture, and what the views say averaged.

Each video is decoded once for all its views, by itself, so what is found about one never depends on the others: an
unreadable one changes its own row only, and any number of processes finds the same.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from tubelet.data.datasets import Data
from tubelet.data.labels import Labels
from tubelet.data.loader import unchanged
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
    """Clips that go through it at once; only those of one video do."""

    @property
    def labels(self) -> Labels:
        """What the outputs mean.

        Raises:
            ValueError: the run does not say.
        """
        if self.data.labels is None or not self.data.labels.names:
            raise ValueError("these weights do not say what their outputs mean; fine-tune first: tubelet finetune")
        return self.data.labels

    @torch.no_grad()
    def __call__(self, clips: UInt8[Tensor, "v c t h w"], where: str) -> Float[Tensor, " x"]:
        """What all views of one video say together: probabilities, or values.

        Raises:
            ValueError: not finite, or not one output per class.
        """
        parts = [self.network(inputs(few.to(self.device), self.patch)) for few in clips.split(self.batch)]
        scores = torch.cat(parts).cpu().double()  # so that many classes sum to 1
        if scores.shape[1] != len(self.labels.names):
            raise ValueError(f"the network has {scores.shape[1]} outputs for {len(self.labels.names)} classes")
        if not scores.isfinite().all():
            raise ValueError(f"{where}: the network gives NaN or infinity; were its weights trained to the end?")
        if self.average == "scores":
            return self.labels.read(scores.mean(0))
        return self.labels.read(scores).mean(0)


def crops_of(frames: UInt8[Tensor, "t h w c"], data: Data, places: int) -> UInt8[Tensor, "s t y x c"]:
    """The crops of a test, scaled once."""
    scaled = covering(frames, data.size)
    return torch.stack([Place(index, places)(scaled, data.size) for index in range(places)])


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
    crops = crops_of(clip.frames, data, views.places)
    order = np.unique(np.concatenate(times))
    picked = [crops[:, torch.from_numpy(np.searchsorted(order, view))] for view in times]
    return torch.cat(picked).permute(0, 4, 1, 2, 3), notes


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
    source = ViewedItems(items, share(len(items)), viewer.data, views)
    loader: DataLoader = DataLoader(
        source,  # type: ignore[arg-type]  # anything with __getitem__ and a length will do
        batch_size=None,
        num_workers=workers,
        collate_fn=unchanged,
        generator=torch.Generator(),
    )
    rows = []
    for done, (place, clips, notes) in enumerate(loader, 1):
        item = items[place]
        found = None if clips is None else viewer(clips, str(item.path)).tolist()
        error = "; ".join(notes) if clips is None else None
        rows.append(
            Row(place, str(item.path), item.start, item.end, item.label, found, error, () if error else tuple(notes))
        )
        if progress is not None and whoami()[0] == 0:
            progress(min(done * whoami()[1], len(items)), len(items))
    return Results(labels, sorted(gathered(rows), key=lambda row: row.item), str(views), viewer.average)
