"""Feature files for temporal action localisation: one array a video, a row for every window of its frames."""

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tubelet.data.datasets import Data
from tubelet.data.parts import part_of
from tubelet.data.sources import Item
from tubelet.data.stream import in_order
from tubelet.data.video import VideoError, probe
from tubelet.evaluate.embed import Count, Network, Shown, Summary, embedded, finite, interval, readable, vit_of
from tubelet.evaluate.feature_files import Row, write_problems


def localisation(
    network: Network,
    items: Sequence[Item],
    data: Data,
    folder: Path,
    stride: int = 4,
    mean_std: bool = True,
    batch: int = 16,
    progress: Count | None = None,
) -> Summary:
    """Writes a file `folder`/NAME.npy, "windows d", for every video: what temporal action localisation starts from.

    Windows are as many consecutive frames as a clip has, `stride` frames apart, as long as whole ones fit; frames are
    resized to those of a clip, whatever that does to their shape. Files that are there are left as they are.

    Source: VideoMAE V2 (arXiv:2303.16727), its extractor for THUMOS14 (stride 4) and FineAction (16). That resizes
    without antialiasing, as here, and does not normalise beyond [0, 1] (`mean_std=False`), unlike its training.

    Raises:
        ValueError: two videos of the same name, or features that are not finite.
    """
    if stride < 1 or batch < 1:
        raise ValueError(f"--tad-stride {stride}, --batch {batch}: both have to be 1 or more")
    double = [name for name, times in Counter(item.path.stem for item in items).items() if times > 1]
    if double:
        both = " and ".join(str(item.path) for item in items if item.path.stem == double[0])
        raise ValueError(f"{both} would both become {double[0]}.npy; embed their folders one by one")
    network.eval()
    folder.mkdir(parents=True, exist_ok=True)
    rows, before = 0, 0
    problems: list[tuple[str, str]] = []
    for number, item in enumerate(items):
        target = folder / f"{item.path.stem}.npy"
        if target.exists():
            count = len(np.load(target, mmap_mode="r"))
            rows, before = rows + count, before + count
        else:
            told: list[str] = []
            values = localised(network, item, readable(consecutive(item, data, stride), told.append), mean_std, batch)
            problems += [(str(item.path), problem) for problem in told]
            if not told:
                saved(target, values)
                rows += len(values)
        if progress is not None:
            progress(number + 1, len(items))
    write_problems(folder / "problems.csv", problems)
    return Summary(folder, len(items), rows, problems, before)


def consecutive(item: Item, data: Data, stride: int) -> Iterator[Shown]:
    """Windows of consecutive frames, whole frames resized, in [0, 1].

    Raises:
        VideoError: it cannot be read, or has fewer frames than a window.
    """
    video = probe(item.path)
    inside = np.arange(video.frames)[part_of(item, video.seconds)]
    length = data.clip.frames
    if len(inside) < length:
        raise VideoError(f"{item.path} has {len(inside)} frames, fewer than one window, which has {length}")
    held: deque[Float[Tensor, "c h w"]] = deque(maxlen=length)
    for last, (index, picture) in enumerate(in_order(video, inside, gray=data.channels == 1), 1):
        frame = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        held.append(F.interpolate(frame[None], data.size, mode="bilinear", align_corners=False)[0])
        if last >= length and (last - length) % stride == 0:
            start, end = video.seconds[[index - length + 1, index]].tolist()
            yield Shown(torch.stack(list(held), dim=1), start, end + interval(video))


def localised(
    network: Network, item: Item, clips: Iterator[Shown], mean_std: bool, batch: int
) -> Float[np.ndarray, "windows d"]:
    """Features of the windows of one video.

    Raises:
        ValueError: they are not finite.
    """
    found = [np.zeros((0, vit_of(network).embed.out_features), dtype=np.float32)]
    while some := list(islice(clips, batch)):
        found.append(embedded(network, some, mean_std=mean_std))
        finite(found[-1], [Row(str(item.path), None, clip.start, clip.end) for clip in some])
    return np.concatenate(found)


def saved(path: Path, values: Float[np.ndarray, "windows d"]) -> None:
    """An .npy file, whole or not at all."""
    part_way = path.with_name(f".{path.name}.part")
    with open(part_way, "wb") as file:
        np.save(file, values)
    os.replace(part_way, path)
