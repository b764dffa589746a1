"""Whether the settings of `datasets.Data` can be used, before anything is read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tubelet.data.augment import RandAugment
from tubelet.data.flow import Flow
from tubelet.data.items import Item
from tubelet.data.joint import checked as images_checked
from tubelet.data.sampling import Around
from tubelet.data.seconds import is_cut
from tubelet.data.transforms import Place

if TYPE_CHECKING:
    from tubelet.data.datasets import Data


def checked(data: "Data") -> None:
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


def yuv_checked(data: "Data") -> None:
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


def fit_for_boxes(data: "Data", items: Sequence[Item]) -> None:
    """Looks for what does not go together with key frames and their boxes.

    Raises:
        ValueError: names the setting, and what to do; or some items are key frames and others are not.
    """
    around, keyed = isinstance(data.clip, Around), bool(items) and items[0].key is not None
    if data.boxes is not None and not keyed:
        raise ValueError(
            "data.boxes moves the boxes of key frames, and these videos have none; name a table of boxes (docs/"
            "detection.md), or set data.boxes to None"
        )
    if not keyed:
        return
    if bare := [item.path for item in items if item.key is None]:
        raise ValueError(f"{len(bare)} of {len(items)} have no boxes, the first is {bare[0]}; the others have some")
    if not around:
        raise ValueError(
            f"key frames need clips around them, and data.clip is {data.clip}; use sampling.Around, as in "
            "finetune-ava-b"
        )
    if data.cache and (cut := next(filter(is_cut, dict.fromkeys(item.path for item in items)), None)) is not None:
        raise ValueError(
            f"--data.cache {data.cache} keeps whole videos, and {cut} is a movie that is cut into files of one second; "
            "use --data.cache 0"
        )
    if isinstance(data.augment, RandAugment) or data.motion is not None:
        name = "augment RandAugment" if data.augment is not None else f"motion {data.motion}"
        raise ValueError(
            f"data.{name} cannot be used with boxes, "
            + ("whose places it would change; use ColourJitter or None" if data.augment else "which need none")
        )
