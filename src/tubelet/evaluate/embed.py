"""Features of videos: what an encoder makes of the middle clip of each, or of windows that slide over it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tubelet.data.cache import cores
from tubelet.data.datasets import Data
from tubelet.data.index import warn_damaged
from tubelet.data.sampling import rate
from tubelet.data.sources import Item
from tubelet.data.video import Video, VideoError, probe
from tubelet.evaluate import feature_files
from tubelet.evaluate.feature_files import Row, Table, Writer, beside, read, stem_of, to_parquet
from tubelet.evaluate.features import MiddleClip, centred, mark_of, middle_clip, outputs
from tubelet.evaluate.features import read as read_middle
from tubelet.evaluate.windows import windows
from tubelet.nn.classifier import Classifier
from tubelet.nn.patches import patchify
from tubelet.nn.vit import ViT
from tubelet.targets import normalise

Network = ViT | Classifier
Count = Callable[[int, int], object]  # gets (done, total)


def parsed(length: str) -> tuple[float, bool]:
    """A length and whether it is in frames, else in seconds.

    >>> parsed("16f"), parsed("2.5"), parsed("2.5s")
    ((16.0, True), (2.5, False), (2.5, False))

    Raises:
        ValueError: it is no such thing, or not above 0.
    """
    text = length.strip()
    try:
        value = float(int(text[:-1])) if text.endswith("f") else float(text.removesuffix("s"))
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"{length!r} is no length; expected seconds, as in 2.5, or frames, as in 16f")
    return value, text.endswith("f")


@dataclass(frozen=True)
class Embedding:
    """What is kept of a clip, and which clips there are of a video."""

    block: int | None = None
    """The block whose output is kept, without a norm, 1 is the first; none: what comes out at the end. That is behind
    the last norm: a pre-trained encoder's own; for the mean token of a fine-tuned network the one before its head."""
    tokens: bool = False
    """Keep every token, in (T H W) order, and not their mean."""
    window: str | None = None
    """Length of the windows, in seconds or frames (16f); none, and no stride either: one middle clip a video."""
    stride: str | None = None
    """From one window to the next, in seconds or frames; none: as far as the window is long."""
    half: bool = False
    """Keep 16 bits of a number instead of 32."""

    def __post_init__(self) -> None:
        for length in (self.window, self.stride):
            parsed(length or "1")

    @property
    def middle(self) -> bool:
        """One clip a video."""
        return self.window is None and self.stride is None


@dataclass(frozen=True)
class Shown:
    """A clip to embed: bytes, or numbers in [0, 1]."""

    video: Shaped[Tensor, "c t h w"]
    start: float  # seconds
    end: float


@dataclass(frozen=True)
class Summary:
    """What came of it."""

    out: Path
    videos: int
    rows: int
    problems: list[tuple[str, str]]  # (path, what is wrong with it)
    before: int  # rows that were there already

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        problems = [{"path": path, "problem": problem} for path, problem in self.problems]
        return {"out": str(self.out), "videos": self.videos, "rows": self.rows, "problems": problems}


# ---------------------------------------------------------------------------- clips to features


def vit_of(network: Network) -> ViT:
    """The encoder itself."""
    return network.encoder if isinstance(network, Classifier) else network


@torch.no_grad()
def features_of(
    network: Network, patches: Float[Tensor, "b n q"], block: int | None = None, tokens: bool = False
) -> Float[Tensor, "b ..."]:
    """Features "b d" of normalised patches of whole clips, or "b n d" with `tokens`; see `Embedding`.

    Raises:
        ValueError: a block that the encoder does not have.
    """
    depth = len(vit_of(network).blocks)
    if block is not None and not 1 <= block <= depth:
        raise ValueError(f"--block {block}: the encoder has blocks 1 to {depth}")
    if isinstance(network, Classifier) and block is None and not tokens:
        return network.features(patches)
    x = outputs(vit_of(network), patches, [block or 0])[0]
    return x if tokens else x.mean(dim=1)


def embedded(
    network: Network, clips: Sequence[Shown], ways: Embedding = Embedding(), mean_std: bool = True
) -> Float[np.ndarray, "b ..."]:
    """Features of clips, on the CPU; `mean_std`: normalised as in training, else in [0, 1] only."""
    video = torch.stack([clip.video for clip in clips]).to(next(network.parameters()).device)
    patches = patchify(video, vit_of(network).grid.patch).float()
    patches = patches / 255 if video.dtype == torch.uint8 else patches
    patches = normalise(patches, video.shape[1]) if mean_std else patches
    return features_of(network, patches, ways.block, ways.tokens).float().cpu().numpy()


def finite(values: Float[np.ndarray, "b ..."], rows: Sequence[Row]) -> None:
    """Checks features.

    Raises:
        ValueError: not all are finite; names the clip.
    """
    for row, value in zip(rows, values):
        if not np.isfinite(value).all():
            raise ValueError(
                f"features of {row.path} ({row.start:.2f} to {row.end:.2f} s) are not finite: "
                f"{np.count_nonzero(~np.isfinite(value))} of {value.size} numbers. The training of this encoder "
                "failed, or --half cannot hold them"
            )


# ---------------------------------------------------------------------------- videos to clips


def clips_of(item: Item, data: Data, ways: Embedding = Embedding()) -> Iterator[Shown]:
    """The clips of a video, or of the part of it that is meant, in order: each frame is decoded once.

    Raises:
        VideoError: it cannot be read, or is too short and the sampler says that this is an error.
    """
    if ways.middle:
        yield middle(item, data)
        return
    video = probe(item.path)
    window, stride = seconds_of(ways.window, video), seconds_of(ways.stride, video)
    cut = partial(centred, size=data.size)
    try:
        for found in windows(video.path, data, window, stride, start=item.start, end=item.end, prepare=cut):
            yield Shown(found.frames.permute(3, 0, 1, 2), found.start, found.end)
    except ValueError as error:  # no frame in that part; or too short, where the sampler says that this is an error
        raise VideoError(str(error)) from error


def in_turn(items: Sequence[Item], data: Data, ways: Embedding) -> Iterator[Iterator[Shown]]:
    """The clips of one video after another; of middle clips, the next are decoded in threads meanwhile."""
    if not ways.middle:  # several videos at once would be several windows in memory
        yield from (clips_of(item, data, ways) for item in items)
        return

    def coming(item: Item, clip: MiddleClip | VideoError | OSError) -> Iterator[Shown]:
        if isinstance(clip, Exception):
            raise clip
        yield shown(item, clip)

    done = 0
    for clips in read_middle(items, data, 2 * cores()):
        yield from (coming(item, clip) for item, clip in zip(items[done:], clips))
        done += len(clips)


def readable(clips: Iterator[Shown], complain: Callable[[str], object]) -> Iterator[Shown]:
    """The clips up to where the video cannot be read, if so; then `complain` is told why."""
    try:
        yield from clips
    except (VideoError, OSError) as error:
        complain(str(error))


def middle(item: Item, data: Data) -> Shown:
    """The clip in the middle of a video, or of the part of it that is meant.

    Raises:
        VideoError: as `clips_of`.
    """
    return shown(item, middle_clip(item, data))


def shown(item: Item, clip: MiddleClip) -> Shown:
    """A middle clip with the seconds that it covers."""
    warn_damaged(item.path, clip.damaged)
    end = float(clip.seconds.max()) + interval(probe(item.path))
    return Shown(clip.video, float(clip.seconds.min()), end)


def interval(video: Video) -> float:
    """Seconds from one frame to the next, on average."""
    return 1 / (rate(video.seconds) or video.fps)


def seconds_of(length: str | None, video: Video) -> float | None:
    """A length in seconds or in frames of a video, in seconds."""
    if length is None:
        return None
    value, frames = parsed(length)
    return value * interval(video) if frames else value


# ---------------------------------------------------------------------------- a table of features


def embed(
    network: Network,
    items: Sequence[Item],
    data: Data,
    out: Path,
    ways: Embedding = Embedding(),
    batch: int = 16,
    progress: Count | None = None,
) -> Summary:
    """Writes the features of all videos to `out`: .npy, a folder (memory-mapped arrays too), or .parquet.

    Rows are written as they come, so memory does not grow with the number of videos; the same call goes on where one
    that was interrupted had stopped, and gives the same rows. Videos that cannot be read are named in the summary and
    in `.problems.csv`.

    Raises:
        ValueError: settings that cannot be used, features that are not finite, other files at `out`, no pyarrow.
    """
    if batch < 1:
        raise ValueError(f"--batch {batch}: at least one clip at a time")
    encoder = vit_of(network).eval()
    like = encoder.embed.weight.new_zeros(1, encoder.grid.tokens, encoder.embed.in_features)
    sizes = features_of(network.eval(), like, ways.block, ways.tokens).shape[1:]
    if out.suffix == ".parquet":
        feature_files.arrow()
        if out.exists():
            raise ValueError(f"{out} is there already; delete it, or name another --out")
    about = {
        "weights": mark_of(network),
        "clip": str(data.clip),
        "size": list(data.size),
        "block": ways.block,
        "tokens": ways.tokens,
        "window": ways.window,
        "stride": ways.stride,
        "videos": fingerprint(items),
    }
    stem, problems = stem_of(out), []
    writer = Writer(stem, sizes, "float16" if ways.half else "float32", about)
    before = writer.progress.rows
    try:
        if not writer.progress.complete:
            filled(writer, network, items, data, ways, batch, progress)
            writer.finish()
    finally:
        writer.close()
        problems = feature_files.problems_of(stem)
        if not writer.progress.rows:
            writer.remove()  # nothing to go on from: the mended command may be another
    if out.suffix == ".parquet" and writer.progress.rows:
        to_parquet(read(stem.parent), out)
        os.replace(beside(stem, ".problems.csv"), beside(out.with_suffix(""), ".problems.csv"))
        for ending in (".npy", ".csv", ".json"):
            beside(stem, ending).unlink()
        stem.parent.rmdir()
    return Summary(out, len(items), writer.progress.rows, problems, before)


def filled(
    writer: Writer,
    network: Network,
    items: Sequence[Item],
    data: Data,
    ways: Embedding,
    batch: int,
    progress: Count | None,
) -> None:
    """Writes what is missing, in batches that may span several videos."""
    clips: list[Shown] = []
    rows: list[Row] = []
    item, given = 0, 0

    def write() -> None:
        with np.errstate(over="ignore"):  # said by `finite`
            values = embedded(network, clips, ways).astype(writer.kind)
        finite(values, rows)
        writer.add(values, rows, item, given)
        clips.clear()
        rows.clear()

    first, skipped = writer.progress.item, writer.progress.windows
    for item, shown in enumerate(in_turn(items[first:], data, ways), first):
        given, path = 0, str(items[item].path)
        for given, clip in enumerate(readable(shown, partial(writer.problem, path)), 1):
            if item == first and given <= skipped:
                continue
            clips.append(clip)
            rows.append(Row(path, items[item].label, clip.start, clip.end))
            if len(clips) == batch:
                write()
        if progress is not None:
            progress(item + 1, len(items))
    if clips:
        write()


def fingerprint(items: Sequence[Item]) -> str:
    """A short name that only these videos, in this order, have."""
    lines = "\n".join(f"{item.path}\t{item.label}\t{item.start}\t{item.end}" for item in items)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def example(network: Network, item: Item, data: Data, table: Table) -> Float[np.ndarray, " d"]:
    """Features of a video's middle clip that can be compared with those of a table.

    Raises:
        ValueError: the table was made with other weights.
        VideoError: the video cannot be read.
    """
    about, mark = table.about, mark_of(network)
    if about["weights"] != mark:
        raise ValueError(
            f"the table was made with other weights ({about['weights']}) than these ({mark}); their features cannot be "
            "compared: give the --weights that it was made with, or embed again"
        )
    clip = middle(item, data)
    ways = Embedding(block=about["block"], tokens=about["tokens"])
    values = embedded(network, [clip], ways)[0]
    finite(values[None], [Row(str(item.path), None, clip.start, clip.end)])
    return values.mean(0) if values.ndim == 2 else values
