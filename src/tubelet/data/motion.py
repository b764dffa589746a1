"""Where the motion of clips comes from: the vectors of their files, and what stands in for those that have none."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tubelet.data.flow import ENOUGH, Flow, opencv, stand_in, usable
from tubelet.data.items import Item, Note
from tubelet.data.vectors import FAR, Vectors, has_vectors, tells
from tubelet.data.video import VideoError, probe
from tubelet.types import Clip, Motion

STANDS_IN = {  # for the vectors of a file that has none, by `Vectors.fallback`
    "flow": "flow is used",
    "encode": "clips are encoded for it while they are read",
    "none": "their motion stays unknown",
}
SAMPLE = 50  # files of a list that are looked into before a run begins


def motion_source(guide: Literal["vectors", "flow"], short: int) -> Vectors | Flow:
    """Where motion comes from, on blocks that fit pictures of this short side."""
    block = max(min(8, short // 16), 1)
    return Vectors(block) if guide == "vectors" else Flow(block=block)


def motion_of(
    clip: Clip, how: Vectors | Flow, size: tuple[int, int], path: Path, codec: str, few: str = ""
) -> tuple[Motion, list[Note]]:
    """Motion between the frames of a clip, in pixels of them, and what there is to say about the file.

    Flow has blocks half as wide as those of a clip of `size` (height, width) will be, for `carried` to cut anew. `few`
    ("no" or "few") says that the file has too few vectors and that a cache has looked for the fallback already. Where
    that cannot be had, for want of OpenCV, motion stays unknown: `with_flow` has looked for files that need it.

    Raises:
        ValueError: flow, and OpenCV is not installed.
    """
    fine = max(round(how.block * min(clip.frames.shape[1:3]) / min(size) / 2), 1)
    if isinstance(how, Flow):  # a cache has looked already
        return clip.motion or replace(how, block=fine)(clip.frames), []
    if (motion := clip.motion) is None:
        raise ValueError("this clip was read without its vectors; use frames_at(..., vectors=True)")
    if not few and known(motion) >= ENOUGH:
        text = (
            "motion vectors of some videos may span more frames than one: their encoder could choose among several. "
            "`tubelet prepare` makes exact ones"
        )
        return motion, [] if motion.exact else [Note(text, "inexact", str(path))]
    if stands_still(clip):
        return motion, []
    said, fallback = few or ("few" if motion.had.any() else "no"), usable(how.fallback)
    if not few and fallback != "none":
        motion = stand_in(fallback, clip.frames, fine)
    why = "" if fallback == how.fallback else ", since flow needs OpenCV (pip install 'tubelet[flow]')"
    if not few and float(clip.seconds.diff().median()) * probe(path).fps > FAR:
        text = (
            f"frames of a clip of {path} lie more than {FAR} apart, too far to add up motion vectors: "
            f"{STANDS_IN[fallback]}{why}; with --data.cache they are added up at any distance"
        )
        return motion, [Note(text, f"far, {fallback}", str(path), codec)]
    does = f"{STANDS_IN[fallback]}{why}; `tubelet prepare` makes some"
    text = f"{path} ({codec}) has {said} motion vectors for a clip: {does}"
    return motion, [Note(text, f"vectors, {fallback}", str(path), codec)]


def tells_enough(clip: Clip) -> bool:
    """Whether the vectors of a clip will do, and nothing has to stand in for them."""
    return clip.motion is not None and (known(clip.motion) >= ENOUGH or stands_still(clip))


def known(motion: Motion) -> float:
    """The share of the blocks whose way is known."""
    return float(motion.had[1:].float().mean())


def stands_still(clip: Clip) -> bool:
    """Whether a clip is one frame, or one repeated."""
    return len(clip.seconds.unique()) == 1


def with_flow(items: Sequence[Item], how: Vectors | Flow | None) -> None:
    """Looks whether OpenCV is there, where flow is asked for, or has to stand in for vectors in some of the files.

    Without OpenCV it looks into a sample of them. It cannot see whether single clips of a file have too few vectors.

    Raises:
        ValueError: it is not; names the first file that needs it, and what to do.
    """
    if isinstance(how, Flow):
        opencv()
    if not isinstance(how, Vectors) or usable(how.fallback) == how.fallback:
        return
    for item in items[:: max(len(items) // SAMPLE, 1)]:
        with suppress(VideoError, OSError):  # what cannot be read is said when the run comes to it
            video = probe(item.path)
            if has_vectors(video):
                continue
            why = "most of its frames are key frames" if tells(video.codec) else f"its codec is {video.codec}"
            raise ValueError(
                f"{item.path} has no motion vectors, or too few: {why}. Flow is to stand in for them, and needs "
                "OpenCV, which is an extra: pip install 'tubelet[flow]'. Or make files that have vectors (`tubelet "
                "prepare`), or take those of a copy that is encoded on the way (--data.motion.fallback encode), or "
                "leave such motion unknown (--data.motion.fallback none)"
            )
