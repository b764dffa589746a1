"""From files to clips: which clips a run sees (`Data`), where they come from (`Dataset`), and their order.

A stream without end and without state: its place is one number, the position. Position p is place p % len of a
permutation of epoch p // len, and everything random about its clips comes from (seed, epoch, place). So the clips are
the same on any number of workers, after a resume, and when asked for alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tubelet.data.augment import RandAugment
from tubelet.data.cache import Frames
from tubelet.data.flow import Flow, usable
from tubelet.data.images import is_picture
from tubelet.data.items import Item, Note
from tubelet.data.joint import Images
from tubelet.data.joint import checked as images_checked
from tubelet.data.labels import Labels
from tubelet.data.motion import motion_of, tells_enough, with_flow
from tubelet.data.paint import uncoloured
from tubelet.data.parts import chosen, part_of
from tubelet.data.sampling import CLIP_SECONDS, Dense, Segments, Spread, clips_of
from tubelet.data.sources import find
from tubelet.data.transforms import Crop, MultiScaleCrop, Place, Region, Window, carried, evened, flipped
from tubelet.data.vectors import Vectors, has_vectors
from tubelet.data.video import Video, VideoError, frames_at, probe
from tubelet.types import Clip, Motion, Yuv

ATTEMPTS = 5  # replacements for one unreadable video before giving up; with 5 % unreadable, all fail once in 3 million
LATE = 1.0  # seconds that a part may end after its video without a word: lists are rounded to seconds


@dataclass(frozen=True)
class Data:
    """Which clips a run sees."""

    clip: Dense | Segments | Spread
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
    augment: RandAugment | None = None
    """Changes of colour and shape before the crop, alike for all frames of a clip (fine-tuning)."""
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


# ---------------------------------------------------------------------------- one video


class Dataset:
    """Clips of videos, by position in an endless stream."""

    def __init__(self, items: Sequence[Item], data: Data, seed: int = 0) -> None:
        """The stream of `items` under `data`; reads all durations if an epoch goes by duration.

        Raises:
            ValueError: no items, or settings that cannot be used; flow, and no OpenCV.
        """
        checked(data)
        with_flow(items, data.motion)  # now, not in the first worker
        if not items:
            raise ValueError("a data set needs at least one video, got none")
        self.items, self.data, self.seed = list(items), data, seed
        self.labels = None if data.labels is None else data.labels.encode(self.items)
        self.places = places(self.items, data)
        self.frames: Frames | None = None
        self.given_up: dict[int, str] = {}  # items that are not read again, and why
        self.order: tuple[int, Int[np.ndarray, " n"]] = (-1, np.zeros(0, int))  # the epoch asked for last

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
            self.order = (epoch, stream(self.seed, "perm", epoch).permutation(len(self)))
        return epoch, int(self.order[1][turn])

    def item(self, position: int) -> int:
        """Which item a position shows, unless it cannot be read."""
        return int(self.places[self.where(position)[1]])

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
        item = int(self.places[place])
        yield item
        others = stream(self.seed, "swap", epoch, place).permutation(len(self.items))
        yield from others[others != item][:ATTEMPTS].tolist()

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Crops of clips of an item, their motion if asked for, and what there is to say about the file.

        First the crops of the first clip, then those of the next.

        Raises:
            VideoError: it cannot be read.
            ValueError: it is too short, and `data.clip` says that this is an error.
        """
        data, notes = self.data, list[Note]()
        views, stored, motions = list[Tensor](), list[Yuv](), list[Motion]()
        for _ in range(data.clips):
            cuts: list[tuple[Window, bool]] = []  # where a crop is, and whether it is mirrored
            clip, motion, more = self.clip(item, rng, partial(self.windows, rng=rng, cuts=cuts))
            notes += more
            frame = (clip.frames.shape[1], clip.frames.shape[2])
            if cuts and motion is not None:
                video = probe(self.items[item].path)
                frame = video.height, video.width
            for number in range(data.repeats):
                region: Region
                if cuts:
                    view, (region, flip) = clip.frames[number], cuts[number]
                else:
                    frames = data.augment(clip.frames, rng) if data.augment else clip.frames
                    view, region = data.crop.cut(frames, data.size, rng)
                    flip = bool(rng.random() < data.flip)
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
        return Sample(
            crops, item, list(dict.fromkeys(notes)), moving, Yuv.batch(stored, torch.stack) if stored else None
        )

    def windows(self, video: Video, rng: np.random.Generator, cuts: list[tuple[Window, bool]]) -> list[Window] | None:
        """The crops of a clip if they can be drawn straight from the decoder's frames; with a mirror or not in `cuts`.

        None if whole frames are needed, or will be for most clips.
        """
        data = self.data
        if data.augment is not None or isinstance(data.crop, Place) or isinstance(data.motion, Flow):
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
        if kept is None:
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


# ---------------------------------------------------------------------------- the order


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers for one purpose, independent of those for others and of the masks'."""
    return np.random.default_rng((seed, int.from_bytes(purpose.encode(), "big"), *numbers))


def places(items: Sequence[Item], data: Data) -> Int[np.ndarray, " places"]:
    """The item of every place of an epoch."""
    if data.per == "video":
        return np.arange(len(items))
    return np.repeat(np.arange(len(items)), clips_of([duration(item) for item in items]))


def duration(item: Item) -> float:
    """Seconds of an item; none where it cannot be read, which the run will note when it comes to it."""
    try:
        video = probe(item.path)
        part = part_of(item, video.seconds)
    except (VideoError, OSError):
        return 0.0
    # No more clips than frames: a damaged file may claim a billion seconds.
    return (part.stop - part.start) * min(1 / video.fps, CLIP_SECONDS)


def checked(data: Data) -> None:
    """Looks for settings that cannot be used.

    Raises:
        ValueError: names the setting, what it is, and what it may be.
    """
    for name, value, fits, expected in (
        ("size", data.size, min(data.size) > 0, "at least 1x1 pixels"),
        ("flip", data.flip, 0 <= data.flip <= 1, "a probability, 0 to 1"),
        ("clips", data.clips, data.clips > 0, "1 or more"),
        ("repeats", data.repeats, data.repeats > 0, "1 or more"),
        ("per", data.per, data.per in ("video", "duration"), "video or duration"),
        ("channels", data.channels, data.channels in (1, 3), "3 (colour) or 1 (grey)"),
        ("cache", data.cache, data.cache >= 0, "a short side in pixels, or 0 for none"),
    ):
        if not fits:
            raise ValueError(f"--data.{name} {value} cannot be used; expected {expected}")
    if data.yuv:
        yuv_checked(data)
    if data.images is not None:
        images_checked(data.images)
        if data.labels is not None or data.motion is not None:
            raise ValueError(
                "pictures beside videos are for pre-training, and stand still: set data.images to None, or "
                + ("data.motion" if data.labels is None else "data.labels")
            )
    if data.augment is not None and data.motion is not None:
        raise ValueError(
            "data.augment moves what the frames show and not the motion that is read beside them; use one of "
            "data.augment and data.motion, and set the other to None"
        )


def yuv_checked(data: Data) -> None:
    """Looks for what does not go together with clips that travel as YUV 4:2:0.

    Raises:
        ValueError: names the setting, and what to do.
    """
    if any(edge % 2 for edge in data.size):
        even = " ".join(str(edge + edge % 2) for edge in data.size)
        raise ValueError(
            f"--data.size {data.size} cannot be used with --data.yuv, which has one colour for two by two pixels; use "
            f"--data.size {even}"
        )
    for name, used, why in (
        ("channels 1", data.channels == 1, "has no colours to send"),
        (f"cache {data.cache}", data.cache, "keeps frames in RGB"),
        ("augment", data.augment, "changes RGB"),
        (f"crop {data.crop}", isinstance(data.crop, Place), "scales whole frames first"),
        (f"motion {data.motion}", isinstance(data.motion, Flow), "is made from whole frames in RGB"),
    ):
        if used:
            raise ValueError(f"--data.yuv cannot be used with data.{name}, which {why}; leave one of the two out")
