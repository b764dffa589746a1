"""Folders of images, one a frame, as videos, and single pictures as videos of one frame: `video.probe` and
`video.frames_at` for them.

Images are taken in the order of the numbers in their names. A folder knows no times: put a file `fps.txt` with the
frame rate beside the images, or one or two folders above for all below; without one, it is 25.

All are shown as a viewer turns them (EXIF), in 8 bits of red, green and blue; transparency is left out.
"""

import re
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from tubelet.data.index import Video, VideoError, scaled
from tubelet.data.shards import content, exists
from tubelet.types import Clip

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
FPS = 25.0  # where no fps.txt says otherwise
RATE = "fps.txt"
# What PIL raises for damage depends on the format.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
DEEP = re.compile(r"[IF]")  # modes of PIL that hold more than a byte: depth maps, not pictures


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts 2 before 10.

    >>> sorted(["f10", "f9", "f2_10", "f2_9"], key=natural)
    ['f2_9', 'f2_10', 'f9', 'f10']
    """
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def is_frame(name: str) -> bool:
    """Whether a file's name is that of one frame of many: an image with a number."""
    stem, _, suffix = name.rpartition(".")
    return f".{suffix.lower()}" in SUFFIXES and not name.startswith(".") and any(map(str.isdigit, stem))


def is_picture(path: Path) -> bool:
    """Whether a path is that of one picture, by its ending."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def is_video(names: list[str]) -> bool:
    """Whether the files of a folder are the frames of one video: two or more images with numbers."""
    return sum(map(is_frame, names)) > 1


def is_even(names: list[str]) -> bool:
    """Whether images are numbered at even steps, as frames of one video are and single pictures hardly ever.

    >>> is_even(["f_1.jpg", "f_3.jpg", "f_5.jpg"]), is_even(["dog_17.jpg", "dog_23.jpg", "dog_5.jpg"])
    (True, False)
    """
    numbers = [number(name) for name in sorted(filter(is_frame, names), key=natural)]
    steps = {after - before for before, after in pairwise(numbers)}
    return len(steps) == 1 and min(steps) > 0


def number(name: str) -> int:
    """The last number in an image's name: which frame it is."""
    return int(re.findall(r"\d+", name)[-1])


def listed(folder: Path) -> list[str]:
    """The names of a folder's frames, in order.

    Raises:
        VideoError: none; or several series, as where optical flow lies beside the pictures.
    """
    names = sorted((path.name for path in folder.iterdir() if is_frame(path.name)), key=natural)
    if not names:
        raise VideoError(
            f"{folder} is a folder without frames; expected a video file, or a folder of images "
            f"({', '.join(sorted(SUFFIXES))}) with numbers in their names"
        )
    series: dict[str, int] = {}
    for name in names:
        kind = re.sub(r"\d+", "#", name.lower())
        series[kind] = series.get(kind, 0) + 1
    if len(series) > 1:
        there = ", ".join(f"{count} x {kind}" for kind, count in series.items())
        raise VideoError(
            f"{folder} has several series of images: {there}; keep one in this folder, the frames to read, "
            f"or name single pictures as images:{folder}"
        )
    return names


def rate_of(folder: Path) -> float:
    """Frames per second: what the nearest fps.txt says, in the folder or one of the two above.

    Raises:
        VideoError: it holds something else than a positive number.
    """
    for place in (folder, *folder.absolute().parents[:2]):
        if (path := place / RATE).is_file():
            text = path.read_text().strip()
            try:
                fps = float(text)
            except ValueError:
                fps = 0.0
            if 0 < fps < float("inf"):
                return fps
            raise VideoError(f"{path} holds {text[:20]!r}; expected frames per second, as in 29.97")
    return FPS


def probe(folder: Path) -> Video:
    """The index of a folder of frames.

    Raises:
        VideoError: no frames, several series of them, or the first cannot be read.
    """
    names, fps = listed(folder), rate_of(folder)
    image = opened(folder / names[0])
    if image is None:
        raise VideoError(f"{folder / names[0]} cannot be read as an image; copy it anew, or leave the folder out")
    return indexed(folder, "images", image, len(names), fps)


def picture(path: Path) -> tuple[Video, Image.Image]:
    """A picture as a video of one frame: its index, and itself, decoded.

    Raises:
        VideoError: it is not there, or cannot be read.
    """
    image = opened(path)
    if image is None:
        wrong = "cannot be read as an image; copy it anew, or leave it out" if exists(path) else "is not there"
        raise VideoError(f"{path} {wrong}")
    return indexed(path, "image", image, 1, FPS), image


def indexed(path: Path, container: str, image: Image.Image, frames: int, fps: float) -> Video:
    """The index of so many frames like `image`, at an even rate."""
    count = np.arange(frames)
    video = Video(
        path=path,
        codec=str(image.format or "").lower(),
        container=container,
        width=image.width,
        height=image.height,
        rotation=0,  # `opened` has turned it
        fps=fps,
        variable=False,
        seconds=count / fps,
        keys=count,
        stamp="order",
        stamps=count,
        starts=np.zeros((1, 4), dtype=np.int64),
    )
    for array in (video.seconds, video.keys, video.stamps, video.starts):
        array.setflags(write=False)
    return video


def frames_at(video: Video, asked: Int[np.ndarray, " t"], size: int | tuple[int, int] | None, gray: bool) -> Clip:
    """The frames at these indices, as `video.frames_at` gives them; scaled with PIL's bilinear filter.

    An image that cannot be read is replaced by the nearest earlier one of those asked for, else later, and counted.

    Raises:
        VideoError: none of them can be read, or one has another size.
    """
    names = listed(video.path)
    if len(names) != video.frames:
        raise VideoError(
            f"{video.path} had {video.frames} images and now has {len(names)}; leave it alone while it is read"
        )
    height, width = scaled(video, size)
    got: dict[int, UInt8[np.ndarray, "h w c"]] = {}
    wanted = np.unique(asked).tolist()
    for index in wanted:
        image = opened(video.path / names[index])
        if image is None:
            continue
        if image.size != (video.width, video.height):
            raise VideoError(
                f"{video.path / names[index]} has {image.width}x{image.height} pixels, the first image of the folder "
                f"{video.width}x{video.height}; frames of one video have one size, and single pictures are named as "
                f"images:{video.path}"
            )
        got[index] = pixels(image, (height, width), gray)
    if not got:
        raise VideoError(
            f"none of the {len(wanted)} images asked of {video.path} can be read, the first is {names[wanted[0]]}; "
            "copy the folder anew, or leave it out"
        )
    nearest = [
        index if index in got else max((i for i in got if i < index), default=min(got)) for index in asked.tolist()
    ]
    frames = torch.from_numpy(np.stack([got[index] for index in nearest]))
    seconds = torch.from_numpy(video.seconds[asked])
    return Clip(frames, seconds, damaged=len(wanted) - len(got), decoded=len(got))


def still(
    video: Video, image: Image.Image, asked: Int[np.ndarray, " t"], size: int | tuple[int, int] | None, gray: bool
) -> Clip:
    """A picture as often as its one frame is asked for, as `video.frames_at` gives it."""
    frame = pixels(image, scaled(video, size), gray)
    return Clip(torch.from_numpy(np.stack([frame] * len(asked))), torch.from_numpy(video.seconds[asked]), decoded=1)


def pixels(image: Image.Image, size: tuple[int, int], gray: bool) -> UInt8[np.ndarray, "h w c"]:
    """An image of any kind in colours or grey, at a size (height, width)."""
    image = image.convert("L" if gray else "RGB")
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, -1)


def opened(path: Path) -> Image.Image | None:
    """A decoded image, in a shard or not, as a viewer turns it; none where the file is damaged.

    Raises:
        VideoError: it has more than 8 bits a channel.
    """
    try:
        with content(path) as (file, count), Image.open(BytesIO(file.read(count))) as image:
            image.load()
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path} is too large to be a picture ({error}); make it smaller, or leave it out") from error
    except DAMAGE:
        return None
    with suppress(*DAMAGE):  # of what else the file says; the picture itself is whole
        ImageOps.exif_transpose(image, in_place=True)
    if DEEP.match(image.mode):
        raise VideoError(f"{path} has more than 8 bits a channel (mode {image.mode}); save it with 8 bits")
    return image
