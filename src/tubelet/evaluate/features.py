"""What an encoder makes of clips: features of the middle clips of videos, computed once and kept on disk if asked."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tubelet.config import Run, to_json
from tubelet.data.cache import cores, free_memory
from tubelet.data.datasets import Data
from tubelet.data.flow import Flow
from tubelet.data.motion import motion_of
from tubelet.data.parts import clip_of
from tubelet.data.shards import state_of
from tubelet.data.sources import Item
from tubelet.data.transforms import Place, carried, covering
from tubelet.data.vectors import Vectors
from tubelet.data.video import VideoError, probe
from tubelet.nn.attention import Attention
from tubelet.nn.patches import changes
from tubelet.nn.vit import ViT
from tubelet.targets import inputs
from tubelet.types import Batch, Motion

Pooled = bool | tuple[int, int, int]  # mean tokens, all tokens, or cells of time, height and width
FORMAT = 1  # of the files in a cache; another number, and older ones are never used

# ---------------------------------------------------------------------------- clips


def readable(items: Sequence[Item], data: Data, count: int) -> list[Path]:
    """Up to `count` videos, evenly spread over `items`, whose middle clips can be read."""
    found: list[Path] = []
    for item in [items[index] for index in np.unique(np.linspace(0, len(items) - 1, 4 * count).astype(int)).tolist()]:
        try:
            middle_clips([item.path], data)
        except (VideoError, OSError):
            continue
        found.append(item.path)
    return found[:: max(len(found) // count, 1)][:count]


def middle_clips(videos: Sequence[Path | Item], data: Data) -> UInt8[Tensor, "b c t h w"]:
    """The clip in the middle of every video, cropped at its centre: nothing random, so fit to measure with.

    Raises:
        VideoError: one of them cannot be read.
    """
    items = (video if isinstance(video, Item) else Item(video) for video in videos)
    return torch.stack([middle_clip(item, data).video for item in items])


def middle_batch(videos: Sequence[Path | Item], data: Data) -> Batch:
    """The same clips as a mask sees them: with their motion if `data.motion` says where it comes from.

    Raises:
        VideoError: one of them cannot be read.
    """
    items = (video if isinstance(video, Item) else Item(video) for video in videos)
    clips = [middle_clip(item, data, data.motion) for item in items]
    motions = [clip.motion.each(lambda values: values[None]) for clip in clips if clip.motion is not None]
    video = torch.stack([clip.video for clip in clips])
    notes = tuple(dict.fromkeys(note for clip in clips for note in clip.notes))
    return Batch(video, torch.arange(len(clips)), notes=notes, motion=Motion.batch(motions) if motions else None)


class MiddleClip(NamedTuple):
    """The clip in the middle of one video."""

    video: UInt8[Tensor, "c t h w"]
    seconds: Float[Tensor, " t"]  # presentation times
    damaged: int  # packets or frames
    motion: Motion | None = None  # in pixels of `video`, where it was asked for
    notes: tuple[str, ...] = ()  # about where the motion comes from


def middle_clip(item: Item, data: Data, source: Vectors | Flow | None = None) -> MiddleClip:
    """The clip in the middle of one video, or of the part of it that is meant; with motion if told where from.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        clip = clip_of(item, data.clip, gray=data.channels == 1, vectors=isinstance(source, Vectors))
    except ValueError as error:  # too short, and the sampler says that this is an error
        raise VideoError(str(error)) from error
    frames, part = Place().cut(clip.frames, data.size)
    found = MiddleClip(frames.permute(3, 0, 1, 2), clip.seconds, clip.damaged)
    if source is None:
        return found
    motion, notes = motion_of(clip, source, data.size, item.path, probe(item.path).codec)
    height, width = clip.frames.shape[1:3]
    return found._replace(motion=carried(motion, (height, width), part, data.size, source.block), notes=tuple(notes))


def centred(frames: UInt8[Tensor, "t h w c"], size: tuple[int, int]) -> UInt8[Tensor, "t y x c"]:
    """The middle of every frame, just as the one centred view of a test sees it."""
    return Place()(covering(frames, size), size)


# ---------------------------------------------------------------------------- features


@dataclass(frozen=True)
class Features:
    """What a frozen encoder makes of the middle clip of every video that could be read."""

    values: Float[np.ndarray, "clips m d"]
    """Mean tokens of each block (then m counts blocks), or all tokens of all blocks; may be a memory map."""
    blocks: tuple[int, ...]
    """The blocks, in the order that was asked for; 0 is the encoder's output, after its last norm."""
    rows: tuple[int, ...]
    """Which of the videos these are, in their order."""
    problems: dict[int, str]
    """What is wrong with each video that could not be read, and so is left out."""
    notes: tuple[str, ...] = ()
    """What else there is to say: damaged files."""
    reused: bool = False
    """Whether they come from the cache."""


def features(
    encoder: ViT,
    items: Sequence[Item],
    data: Data,
    blocks: Sequence[int] = (0,),
    *,
    pooled: Pooled = True,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    batch: int = 16,
    progress: Callable[[int, int], object] | None = None,
) -> Features:
    """Features of the middle clip of every video, from a frozen encoder; the encoder itself is left as it is.

    A block's number counts from 1 and means its output without the encoder's last norm; 0 is the encoder's own output.
    With `pooled`, the mean token of each block, in float32, or with numbers of cells what changes in each of these
    (`patches.changes`); otherwise all tokens, block after block, in float16. With a folder as `cache` they are read
    from there if weights, clips, files (name, size, time) and choices are the same.

    Raises:
        ValueError: no such block, not one video, features that are not finite (names the video), not enough memory.
        VideoError: not one of the videos can be read.
    """
    depth, numbers = len(encoder.blocks), tuple(blocks)
    if not items:
        raise ValueError("there is not one video to take features of")
    if not numbers or not all(0 <= number <= depth for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"blocks {list(numbers)} cannot be used: the encoder has {depth}; name some of 1 to {depth}, "
            "or 0 for its output after the last norm, each once"
        )
    width = encoder.embed.out_features * (prod(pooled) if isinstance(pooled, tuple) else 1)
    shape = (len(items), len(numbers) * (1 if pooled else encoder.grid.tokens), width)
    kind = np.dtype(np.float32 if pooled else np.float16)
    if cache is None:
        fits(shape, kind)
        return compute(encoder, items, data, numbers, np.empty(shape, kind), pooled, device, batch, progress)
    path = cache / f"features-{fingerprint(encoder, items, data, numbers, pooled)}.npy"
    about = path.with_suffix(".json")
    if not about.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            values = np.lib.format.open_memmap(part, "w+", kind, shape)
            made = compute(encoder, items, data, numbers, values, pooled, device, batch, progress)
            values.flush()
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        card = {"rows": made.rows, "problems": made.problems, "notes": made.notes}
        text = part.with_suffix(".json")
        text.write_text(json.dumps(card), encoding="utf-8")
        os.replace(text, about)  # the last act: features without it were not finished
        return made
    card = json.loads(about.read_text(encoding="utf-8"))
    values = np.load(path, mmap_mode="r")[: len(card["rows"])]
    problems = {int(row): text for row, text in card["problems"].items()}
    return Features(values, numbers, tuple(card["rows"]), problems, tuple(card["notes"]), True)


@torch.no_grad()
def compute(
    encoder: ViT,
    items: Sequence[Item],
    data: Data,
    blocks: tuple[int, ...],
    values: Float[np.ndarray, "clips m d"],
    pooled: Pooled,
    device: torch.device | str,
    batch: int,
    progress: Callable[[int, int], object] | None,
) -> Features:
    """Fills `values` from the front, with a row for every video that can be read."""
    encoder = deepcopy(encoder).eval().to(device)
    kept: list[int] = []
    notes: list[str] = []
    problems: dict[int, str] = {}
    done = 0
    for results in read(items, data, batch):
        clips, before = [], len(kept)
        for row, result in enumerate(results, done):
            if isinstance(result, Exception):
                problems[row] = str(result)
                continue
            clips.append(result.video)
            kept.append(row)
            if result.damaged:
                notes.append(f"{items[row].path} is damaged: {result.damaged} packets or frames of the clip")
        if clips:
            tokens = outputs(encoder, inputs(torch.stack(clips).to(device), encoder.grid.patch), blocks)
            if isinstance(pooled, tuple):
                tokens = [changes(part, encoder.grid, pooled) for part in tokens]
            elif pooled:
                tokens = [part.mean(1) for part in tokens]
            found = torch.stack(tokens, 1) if pooled else torch.cat(tokens, 1)
            with np.errstate(over="ignore"):  # what is too large for float16 is named below
                values[before : len(kept)] = found.float().cpu().numpy()
            for place in range(before, len(kept)):
                if not np.isfinite(values[place]).all():
                    raise ValueError(
                        f"the features of {items[kept[place]].path} are not finite (NaN, or too large for "
                        f"{values.dtype}): the weights are damaged, or of a run that diverged"
                    )
        done += len(results)
        if progress:
            progress(done, len(items))
    if not kept:
        raise VideoError("not one of the videos can be read:\n  " + "\n  ".join(list(problems.values())[:12]))
    return Features(values[: len(kept)], blocks, tuple(kept), problems, tuple(notes))


def outputs(encoder: ViT, patches: Float[Tensor, "b n q"], blocks: Sequence[int]) -> list[Float[Tensor, "b n d"]]:
    """The tokens of each of these blocks, from one pass; 0 is the encoder's output, after its last norm."""
    depth = len(encoder.blocks)
    taps = sorted({block or depth for block in blocks})
    found = dict(zip(taps, encoder(patches, taps=taps).split(patches.shape[1], dim=1)))
    return [found[block] if block else encoder.norm(found[depth]) for block in blocks]


def untrained(run: Run, seed: int) -> ViT:
    """An encoder of the run's shape with random weights, to compare with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return run.encoder.build(run.grid(), run.data.channels).eval()


def read(items: Sequence[Item], data: Data, batch: int) -> Iterator[list[MiddleClip | VideoError | OSError]]:
    """Middle clips, or why there is none, `batch` at a time; the next are read in threads while these are worked on."""

    def one(item: Item) -> MiddleClip | VideoError | OSError:
        try:
            return middle_clip(item, data)
        except (VideoError, OSError) as error:
            return error

    with ThreadPoolExecutor(cores()) as pool:  # FFmpeg lets go of the interpreter
        waiting: deque[list[Future[MiddleClip | VideoError | OSError]]] = deque()
        try:
            for start in range(0, len(items), batch):
                waiting.append([pool.submit(one, item) for item in items[start : start + batch]])
                if len(waiting) == 2:
                    yield [job.result() for job in waiting.popleft()]
            while waiting:
                yield [job.result() for job in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def fits(shape: tuple[int, ...], kind: np.dtype) -> None:
    """Stops before the system would.

    Raises:
        ValueError: features of this shape are more than four fifths of the free memory.
    """
    needed, free = int(np.prod(shape)) * kind.itemsize, free_memory()
    if free is not None and needed > 0.8 * free:
        raise ValueError(
            f"features of {shape[0]} clips, {shape[1]} x {shape[2]} numbers each, take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; keep them on disk with --cache DIR, or take fewer blocks"
        )


def mark_of(network: nn.Module) -> str:
    """A short name that only these weights, with these heads and fixed positions, have."""
    heads = [module.heads for module in network.modules() if isinstance(module, Attention)]
    mark = hashlib.sha256(f"{heads}".encode())
    for name, tensor in sorted([*network.state_dict().items(), *network.named_buffers()], key=lambda pair: pair[0]):
        mark.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        mark.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return mark.hexdigest()[:16]


def fingerprint(encoder: ViT, items: Sequence[Item], data: Data, blocks: tuple[int, ...], pooled: Pooled) -> str:
    """A name for features that changes with anything that they depend on: weights, clips, files, choices."""
    choices = [FORMAT, blocks, pooled, encoder.grid, to_json(data.clip), data.size, data.channels]
    digest = hashlib.sha256(f"{choices} {mark_of(encoder)}".encode())
    for item in items:
        try:
            size, changed = state_of(item.path)
            file = f"{size} {changed}"
        except OSError:  # a link to nowhere, which will be reported
            file = "missing"
        digest.update(f"{item.path} {file} {item.start} {item.end}\n".encode())
    return digest.hexdigest()[:24]
