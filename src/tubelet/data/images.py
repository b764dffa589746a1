"""Folders of images, one a frame, as videos: what `video.probe` and `video.frames_at` give for them.

Images are taken in the order of the numbers in their names. A folder knows no times: put a file `fps.txt` with the
frame rate beside the images, or one or two folders above for all below; without one, it is 25.
"""

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image

from tubelet.data.index import Video, VideoError, scaled
from tubelet.types import Clip

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
FPS = 25.0  # where no fps.txt says otherwise
RATE = "fps.txt"
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


def is_video(names: list[str]) -> bool:
    """Whether the files of a folder are the frames of one video: two or more images with numbers."""
    return sum(map(is_frame, names)) > 1


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
        raise VideoError(f"{folder} has several series of images: {there}; keep one in this folder, the frames to read")
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
    count = np.arange(len(names))
    video = Video(
        path=folder,
        codec=str(image.format or "").lower(),
        container="images",
        width=image.width,
        height=image.height,
        rotation=0,
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
                f"{video.width}x{video.height}; frames of one video have one size"
            )
        image = image.convert("L" if gray else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        got[index] = np.asarray(image).reshape(height, width, -1)
    if not got:
        raise VideoError(
            f"none of the {len(wanted)} images asked of {video.path} can be read, the first is {names[wanted[0]]}; "
            "copy the folder anew, or leave it out"
        )
    nearest = [
        index if index in got else max((i for i in got if i < index), default=min(got)) for index in asked.tolist()
    ]
    frames = torch.from_numpy(np.stack([got[index] for index in nearest]))
    return Clip(frames, torch.from_numpy(video.seconds[asked]), damaged=len(wanted) - len(got))


def opened(path: Path) -> Image.Image | None:
    """A decoded image; none where the file is damaged.

    Raises:
        VideoError: it has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # what PIL raises for damage depends on the format
        return None
    if DEEP.match(image.mode):
        raise VideoError(f"{path} has more than 8 bits a channel (mode {image.mode}); save the frames with 8 bits")
    return image
