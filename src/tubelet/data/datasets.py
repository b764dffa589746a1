"""From files to clips: which clips a run sees (`Data`), where they come from (`Dataset`), and their order.

A stream without end and without state: its place is one number, the position. Position p is place p % len of a
permutation of epoch p // len, and everything random about its clips comes from (seed, epoch, place). So the clips are
the same on any number of workers, after a resume, and when asked for alone. Of videos that are a table on the disk, or
several data sets mixed, nothing is kept for each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data.augment import ColourJitter, RandAugment
from tubelet.data.box_transforms import BoxJitter, boxes_of
from tubelet.data.cache import Frames
from tubelet.data.flow import Flow, usable
from tubelet.data.images import is_picture
from tubelet.data.items import Item, Note
from tubelet.data.joint import Images
from tubelet.data.labels import Labels, rows_of
from tubelet.data.mixture import Mixture
from tubelet.data.motion import motion_of, tells_enough, with_flow
from tubelet.data.order import LARGE, shuffled, stream
from tubelet.data.paint import uncoloured
from tubelet.data.parts import chosen, clip_of, of_seconds, part_of
from tubelet.data.places import places
from tubelet.data.sampling import Around, Dense, Segments, Spread
from tubelet.data.settings import checked, fit_for_boxes
from tubelet.data.sources import find
from tubelet.data.table import Table
from tubelet.data.transforms import Crop, MultiScaleCrop, Place, Region, Window, carried, evened, flipped
from tubelet.data.vectors import Vectors, has_vectors
from tubelet.data.video import Video, VideoError, frames_at, probe
from tubelet.types import Boxes, Clip, Motion, Yuv

ATTEMPTS = 5  # replacements for one unreadable video before giving up; with 5 % unreadable, all fail once in 3 million
LATE = 1.0  # seconds that a part may end after its video without a word: lists are rounded to seconds


@dataclass(frozen=True)
class Data:
    """Which clips a run sees."""

    clip: Dense | Segments | Spread | Around
    """Which frames of a video make a clip, and what happens to videos that are too short."""
    size: tuple[int, int] = (224, 224)
    """Height and width of the clips, in pixels."""
    crop: Crop = MultiScaleCrop()  # noqa: RUF009 (frozen: safe to share)
    """Which part of the frames is shown."""
    flip: float = 0.0
    """Probability of a mirrored clip. Not where left and right mean something (Something-Something, gestures)."""
    clips: int = 1
    """Different clips of each video in a step, each at its own random time; `repeats` crops of each."""
    repeats: int = 1
    """Crops of each decoded clip. A step has `clips` times `repeats` clips for every video of its batch."""
    per: Literal["video", "duration"] = "video"
    """What an epoch is: one clip of each video, or clips in proportion to how long the videos are."""
    augment: RandAugment | ColourJitter | None = None
    """Changes of colour and shape before the crop, or of colour after it; alike for all frames of a clip
    (fine-tuning)."""
    boxes: BoxJitter | None = None
    """How the edges of people's boxes are moved (fine-tuning for action detection); none: they stay."""
    labels: Labels | None = None
    """How the labels of the videos become numbers (fine-tuning); none: they are not looked at."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    cache: int = 0
    """Keep all frames in memory with this short side, in pixels; 0 decodes every clip from its file."""
    motion: Vectors | Flow | None = None
    """Where the motion of the clips comes from, for masks that it guides: the codec or optical flow; none: nowhere."""
    images: Images | None = None
    """Pictures that some steps show in place of videos (pre-training); an epoch counts the videos only."""
    yuv: bool = False
    """Clips travel to the device as YUV 4:2:0, half the bytes, and become RGB there (GPUs)."""

    @property
    def per_video(self) -> int:
        """What each video gives a step: `repeats` crops of each of its `clips`."""
        return self.clips * self.repeats

    @property
    def video_share(self) -> float:
        """Share of the steps that show videos."""
        return 1 if self.images is None else 1 - self.images.share


class Sample(NamedTuple):
    """The clips of one position."""

    video: UInt8[Tensor, "k c t h w"]
    item: int
    notes: list[Note]
    motion: Motion | None = None  # with the leading axis k
    yuv: Yuv | None = None  # in place of `video`, as in `Batch`
    boxes: list[Boxes] | None = None  # of each clip, if the item is a key frame


# ---------------------------------------------------------------------------- one video


class Dataset:
    """Clips of videos, by position in an endless stream."""

    def __init__(self, items: Sequence[Item], data: Data, seed: int = 0) -> None:
        """The stream of `items` under `data`; reads all durations if an epoch goes by duration.

        Raises:
            ValueError: no items, or settings that cannot be used; flow, and no OpenCV.
        """
        checked(data)
        fit_for_boxes(data, items)
        with_flow(items, data.motion)  # now, not in the first worker
        if not items:
            raise ValueError("a data set needs at least one video, got none")
        if data.cache and len(items) >= LARGE:
            raise ValueError(
                f"--data.cache {data.cache} keeps the frames of all videos in memory, and there are {len(items):,}; "
                "use --data.cache 0, which reads every clip from its file"
            )
        self.items: Sequence[Item] = items if isinstance(items, Table | Mixture) else list(items)
        self.data, self.seed = data, seed
        unlabelled = data.labels is None or items[0].key is not None  # labels of key frames are those of their boxes
        self.labels = None if unlabelled or data.labels is None else rows_of(data.labels, self.items)
        self.places = places(self.items, data.per)
        self.frames: Frames | None = None
        self.given_up: dict[int, str] = {}  # items that are not read again, and why
        self.order = (0, shuffled(stream(seed, "perm", 0), len(self)))  # the epoch asked for last

    def __len__(self) -> int:
        """Positions in an epoch."""
        return len(self.places)

    @cached_property
    def pictures(self) -> "Dataset | None":
        """The stream of the pictures that some steps show, each once; looked for when first asked for.

        Raises:
            FileNotFoundError, ValueError: `data.images` names none.
        """
        images = self.data.images
        if images is None:
            return None
        if not images.source:
            raise ValueError(
                "this run shows pictures beside videos, and does not know where they are; add --data.images.source "
                "images:DIR (a folder of them), or take a preset of videos alone, as videomae-few-cpu"
            )
        data = replace(
            self.data, clip=Dense(1), crop=images.crop, flip=images.flip, clips=1, repeats=images.repeats, per="video"
        )
        items = find(images.source)
        if folder := next((item.path for item in items if not is_picture(item.path)), None):
            raise ValueError(
                f"{folder} is a video, or a folder of a video's frames, and no picture; name a folder of pictures as "
                f"images:{images.source}"
            )
        return Dataset(items, replace(data, images=None), self.seed)

    @property
    def files(self) -> int:
        """Videos, and pictures if some steps show those."""
        return len(self.items) + (len(self.pictures.items) if self.pictures else 0)

    def fill_cache(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Decodes all videos into memory, if `data.cache` says so; `progress` gets (done, total).

        Raises:
            ValueError: not enough memory.
        """
        if self.data.cache and self.frames is None:
            paths = [item.path for item in self.items]
            self.frames = Frames(paths, self.data.cache, self.data.channels, progress, motion=self.data.motion)
        if self.pictures is not None:
            self.pictures.fill_cache(progress)

    def where(self, position: int) -> tuple[int, int]:
        """Epoch and place of a position."""
        epoch, turn = divmod(position, len(self))
        if self.order[0] != epoch:
            self.order = (epoch, shuffled(stream(self.seed, "perm", epoch), len(self)))
        return epoch, int(self.order[1][turn])

    def item(self, position: int) -> int:
        """Which item a position shows, unless it cannot be read."""
        return self.at(*self.where(position))

    def at(self, epoch: int, place: int) -> int:
        """The item of a place of an epoch."""
        if isinstance(self.items, Mixture):
            return self.items.shown(self.seed, epoch, place)
        return int(self.places[place])

    def __getitem__(self, position: int) -> Sample:
        """The clips of a position; a video that cannot be read is replaced by another, and a note says so.

        Raises:
            VideoError: the replacements could not be read either; names them.
        """
        epoch, place = self.where(position)
        notes: list[Note] = []
        for item in self.candidates(epoch, place):
            path = str(self.items[item].path)
            try:
                if item in self.given_up:
                    raise VideoError(f"{path} {self.given_up[item]}")
                sample = self.load(item, stream(self.seed, "clip", epoch, place))
                return sample._replace(notes=notes + sample.notes)
            except (VideoError, OSError) as error:
                notes.append(Note(f"{error} (another video is shown instead of {path})", "unreadable", path))
            except Exception as error:
                error.add_note(f"while reading {path} (position {position})")
                raise
        raise VideoError(
            f"{len(notes)} video{'s' * (len(notes) > 1)} in a row cannot be read; "
            "`tubelet check` says what is wrong with all:\n  "
            + "\n  ".join(note.split(" (another video")[0] for note in notes)
        )

    def showing(self, position: int) -> int:
        """Which item a position shows, if none of those that were not given up is unreadable."""
        items = list(self.candidates(*self.where(position)))
        return next((item for item in items if item not in self.given_up), items[0])

    def candidates(self, epoch: int, place: int) -> Iterator[int]:
        """The item of a place, then others to show instead, no item twice."""
        item = self.at(epoch, place)
        yield item
        others = self.items.beside(item) if isinstance(self.items, Mixture) else range(len(self.items))
        turns = shuffled(stream(self.seed, "swap", epoch, place), len(others))
        drawn = (others[int(turns[number])] for number in range(len(others)))
        yield from islice((other for other in drawn if other != item), ATTEMPTS)

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Crops of clips of an item, their motion if asked for, and what there is to say about the file.

        First the crops of the first clip, then those of the next.

        Raises:
            VideoError: it cannot be read.
            ValueError: it is too short, and `data.clip` says that this is an error.
        """
        data, notes = self.data, list[Note]()
        views, stored, motions, boxes = list[Tensor](), list[Yuv](), list[Motion](), list[Boxes]()
        key, jittered = self.items[item].key, isinstance(data.augment, ColourJitter)
        for _ in range(data.clips):
            cuts: list[tuple[Window, bool]] = []  # where a crop is, and whether it is mirrored
            clip, motion, more = self.clip(item, rng, partial(self.windows, rng=rng, cuts=cuts))
            notes += more
            frame = (clip.frames.shape[1], clip.frames.shape[2])
            if cuts and (motion is not None or key is not None):
                video = probe(self.items[item].path)
                frame = video.height, video.width
            for number in range(data.repeats):
                region: Region
                if cuts:
                    view, (region, flip) = clip.frames[number], cuts[number]
                else:
                    frames = data.augment(clip.frames, rng) if data.augment and not jittered else clip.frames
                    view, region = data.crop.cut(frames, data.size, rng)
                    flip = bool(rng.random() < data.flip)
                if data.augment and jittered:
                    view = data.augment(view, rng)
                if key is not None:
                    boxes.append(boxes_of(key, frame, region, data.size, flip, data.labels, data.boxes, rng))
                if data.yuv:
                    yuv = uncoloured(view) if clip.yuv is None else clip.yuv[number]
                    stored.append(yuv.flipped() if flip else yuv)
                    view = view.to("meta")
                views.append(flipped(view) if flip else view)
                if motion is not None and data.motion is not None:
                    moved = carried(motion, frame, region, data.size, data.motion.block, flip)
                    motions.append(moved.each(lambda tensor: tensor[None]))
        # Channels stay last in memory: clips are then cut into cubes in a fifth of the time.
        crops = (torch.stack(views) if len(views) > 1 else views[0][None]).permute(0, 4, 1, 2, 3)
        moving = Motion.batch(motions) if motions else None
        yuvs = Yuv.batch(stored, torch.stack) if stored else None
        return Sample(crops, item, list(dict.fromkeys(notes)), moving, yuvs, None if key is None else boxes)

    def windows(self, video: Video, rng: np.random.Generator, cuts: list[tuple[Window, bool]]) -> list[Window] | None:
        """The crops of a clip if they can be drawn straight from the decoder's frames; with a mirror or not in `cuts`.

        None if whole frames are needed, or will be for most clips.
        """
        data = self.data
        if isinstance(data.augment, RandAugment) or isinstance(data.crop, Place) or isinstance(data.motion, Flow):
            return None
        if data.motion is not None and not has_vectors(video):
            return None
        for _ in range(data.repeats):
            window = evened(data.crop.window(video.height, video.width, data.size, rng))
            cuts.append((window, bool(rng.random() < data.flip)))
        return [window for window, _ in cuts]

    def clip(
        self, item: int, rng: np.random.Generator, windows: Callable[[Video], list[Window] | None] | None = None
    ) -> tuple[Clip, Motion | None, list[Note]]:
        """A clip of an item, its motion if asked for, and what there is to say about the file.

        In whole frames; or in those `windows` of them that are wanted, at `data.size`, unless they are in memory.

        Raises:
            VideoError: it cannot be read.
            ValueError: it is too short, and `data.clip` says that this is an error.
        """
        one, path, data, kept = self.items[item], self.items[item].path, self.data, self.frames
        notes: list[Note] = []
        if kept is None and of_seconds(one, data.clip):
            clip = clip_of(one, data.clip, gray=data.channels == 1)
        elif kept is None:
            gray, vectors, size = data.channels == 1, isinstance(data.motion, Vectors), data.size if windows else None
            asked: list[Int[np.ndarray, " t"]] = []

            def choose(video: Video) -> Int[np.ndarray, " t"]:
                asked.append(self.indices(one, video.seconds, rng, notes))
                return asked[0]

            yuv = data.yuv and windows is not None
            clip = frames_at(path, choose, size=size, gray=gray, vectors=vectors, windows=windows, yuv=yuv)
        else:
            clip = kept.at(item, self.indices(one, kept.times(item), rng, notes))
        motion, moving = None, clip
        if data.motion is not None:
            codec, few = (probe(path).codec, "") if kept is None else (kept.codec(item), kept.lacks(item))
            stands_in = isinstance(data.motion, Vectors) and usable(data.motion.fallback) != "none"
            if clip.frames.ndim == 5 and stands_in and not tells_enough(clip):  # what stands in looks at whole frames
                moving = replace(clip, frames=frames_at(path, asked[0], gray=gray).frames)
            motion, more = motion_of(moving, data.motion, data.size, path, codec, few)
            notes += more
        if clip.damaged:
            notes.append(Note(f"{path} is damaged: {clip.damaged} packets or frames of the clip", "damaged", str(path)))
        return clip, motion, notes

    def indices(
        self, item: Item, seconds: Float[np.ndarray, " total"], rng: np.random.Generator, notes: list[Note]
    ) -> Int[np.ndarray, " t"]:
        """Which frames of its file a clip of an item takes; adds to `notes` what there is to say about the file."""
        if item.end is not None and item.end > seconds[-1] + LATE:
            text = f"{item.path} ends at {seconds[-1]:.3g} s, its part ({item.start or 0:g} to {item.end:g} s) later"
            notes.append(Note(text, "cut", str(item.path)))
        part = seconds[part_of(item, seconds)]
        if self.data.clip.is_short(part - part[0]):
            text = f"{item.path} is too short for {self.data.clip}: it has {len(part)}; some are repeated"
            notes.append(Note(text, "short", str(item.path)))
        return chosen(item, seconds, self.data.clip, rng)
