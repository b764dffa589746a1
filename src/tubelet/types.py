"""The few types that every part of tubelet shares: where tokens are, what comes from disk, what is hidden, what learns.

Axis letters, one legend for the whole library:

    b clips in the batch   k crops per video (b counts all of them)   c channels (3 unless said)
    t h w  frames, height, width in pixels   n tokens of the grid = T*H*W, ordered (T H W)   v visible   p to predict
    q values per patch = pt*ph*pw*c   y values to predict per token   d encoder width   e decoder width
    x output classes   r boxes   my mx  blocks of a motion field, down and across   *b  leading axes, if any
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

# ---------------------------------------------------------------------------- 1. where tokens are


@dataclass(frozen=True)
class Grid:
    """A token grid: T*H*W cubes of pt*ph*pw pixels, counted in (T H W) order."""

    T: int
    H: int
    W: int
    patch: tuple[int, int, int] = (2, 16, 16)

    @classmethod
    def of(cls, frames: int, height: int, width: int, patch: tuple[int, int, int]) -> "Grid":
        """The grid that cubes of `patch` (frames, pixels, pixels) cut a clip into.

        Raises:
            ValueError: an axis does not divide; names the axis, both numbers, and the nearest sizes that do.
        """
        for axis, size, cube in zip(("frames", "height", "width"), (frames, height, width), patch):
            if size < cube or size % cube:
                low, high = max(size // cube, 1) * cube, (size // cube + 1) * cube
                raise ValueError(
                    f"{axis} {size} does not divide into cubes of {cube}; use {low}"
                    + (f" or {high}" if low != high else "")
                )
        return cls(frames // patch[0], height // patch[1], width // patch[2], patch)

    @property
    def tokens(self) -> int:
        """Tokens of the whole grid."""
        return self.T * self.H * self.W

    @property
    def slot(self) -> int:
        """Tokens of one time slot."""
        return self.H * self.W


# ---------------------------------------------------------------------------- 2. what comes from disk


@dataclass(frozen=True)
class Motion:
    """Where things were and will be: displacements between neighbouring frames of a clip, one for every block.

    The same type from codec vectors and from optical flow, so a mask never asks where it came from. Both directions
    lie on frame t's own blocks of `block` x `block` pixels, counted from its top left corner (the last of a row or
    column may hang over the edge); x to the right, then y down, in pixels of the frames that they lie beside.

    A block without a vector (key frame, intra block, the first frame's past, the last one's future) is missing, which
    is not zero: `had` and `has` say so, and what stands in its place is 0 and must not be read.
    """

    to_previous: Float[Tensor, "*b 2 t my mx"]  # to where the content of frame t's blocks was in frame t-1
    to_next: Float[Tensor, "*b 2 t my mx"]  # to where it is in frame t+1
    had: Bool[Tensor, "*b t my mx"]  # True where `to_previous` is known
    has: Bool[Tensor, "*b t my mx"]  # True where `to_next` is known
    block: int = 8  # pixels
    exact: bool = True  # False where a codec vector may span more or fewer frames than is told

    def each(self, act: Callable[[Tensor], Tensor]) -> "Motion":
        """The same after `act` on each of its tensors."""
        to_previous, to_next, had, has = map(act, (self.to_previous, self.to_next, self.had, self.has))
        return replace(self, to_previous=to_previous, to_next=to_next, had=had, has=has)

    def to(self, device: torch.device) -> "Motion":
        """The same on `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    @classmethod
    def unknown(cls, shape: Sequence[int], block: int = 8, clips: int | None = None) -> "Motion":
        """Nothing is known: on the CPU, for clips of `shape` (frames, height, width); `clips` is axis b."""
        frames, height, width = shape
        lead = () if clips is None else (clips,)
        blocks = (frames, -(-height // block), -(-width // block))
        steps = torch.zeros(*lead, 2, *blocks, device="cpu")
        known = torch.zeros(*lead, *blocks, dtype=torch.bool, device="cpu")
        return cls(steps, steps.clone(), known, known.clone(), block)

    @classmethod
    def batch(cls, parts: Sequence["Motion"]) -> "Motion":
        """The fields of several parts of a batch, one after the other; exact if all are."""
        fields = [
            torch.cat([getattr(part, name) for part in parts]) for name in ("to_previous", "to_next", "had", "has")
        ]
        return cls(fields[0], fields[1], fields[2], fields[3], parts[0].block, all(part.exact for part in parts))


@dataclass(frozen=True)
class Yuv:
    """Clips as codecs store them (4:2:0): how bright each pixel is, and two values of colour for two by two pixels.

    That is half the bytes of RGB. What they stand for differs by file, so the way to RGB comes with every frame.
    """

    luma: UInt8[Tensor, "*k t h w"]
    chroma: UInt8[Tensor, "*k t 2 h/2 w/2"]  # Cb, Cr
    weights: Float[Tensor, "*k t 3 4"]  # from (Y, Cb, Cr, 1) to (R, G, B), all in [0, 255]

    def each(self, act: Callable[[Tensor], Tensor]) -> "Yuv":
        """The same after `act` on each of its tensors."""
        return Yuv(act(self.luma), act(self.chroma), act(self.weights))

    def __getitem__(self, clip: int) -> "Yuv":
        """One clip of several."""
        return self.each(lambda tensor: tensor[clip])

    def flipped(self) -> "Yuv":
        """The clips as in a mirror."""
        return replace(self, luma=self.luma.flip(-1), chroma=self.chroma.flip(-1))

    def rgb(self) -> UInt8[Tensor, "*k t h w 3"]:
        """The clips in colours, rounded to [0, 255]; each colour fills two by two pixels, as in FFmpeg's quick way."""
        coloured = torch.empty(*self.luma.shape, 3, dtype=torch.uint8, device=self.luma.device)
        blue, red = self.chroma.unbind(-3)
        for channel, weights in enumerate(self.weights.unbind(-2)):
            by_luma, by_blue, by_red, shift = weights[..., None, None].unbind(-3)
            colour = by_blue * blue + by_red * red + shift
            values = by_luma * self.luma + colour.repeat_interleave(2, -2).repeat_interleave(2, -1)
            coloured[..., channel] = values.round_().clamp_(0, 255)
        return coloured

    @classmethod
    def batch(cls, parts: Sequence["Yuv"], joined: Callable[[list[Tensor]], Tensor] = torch.cat) -> "Yuv":
        """Several, one after the other, or as `joined` puts them together."""
        fields = [joined([getattr(part, name) for part in parts]) for name in ("luma", "chroma", "weights")]
        return cls(*fields)


@dataclass(frozen=True)
class Clip:
    """Frames drawn from one video, in time order."""

    frames: UInt8[Tensor, "*k t h w c"]  # k: only where several windows of the frames were asked for
    seconds: Float[Tensor, " t"]  # presentation times
    damaged: int = 0  # packets that the decoder had to skip, or frames that it had to make up
    motion: Motion | None = None  # between these frames, in pixels of theirs; only where it was asked for
    decoded: int = 0  # frames of the file that were decoded for it: with those between, and on the way from a key frame
    yuv: Yuv | None = None  # in place of `frames`, which are on the meta device then: their shape and nothing else


@dataclass(frozen=True)
class Boxes:
    """Where people are in the key frame of a clip, and what each does. There may be none."""

    corners: Float[Tensor, "r 4"]  # x1 y1 x2 y2 in pixels of the clip, x2 and y2 just outside
    labels: Float[Tensor, "r x"] | None = None  # one-hot or several hot

    def each(self, act: Callable[[Tensor], Tensor]) -> "Boxes":
        """The same after `act` on each of its tensors."""
        return Boxes(act(self.corners), None if self.labels is None else act(self.labels))


@dataclass(frozen=True)
class Batch:
    """Clips on their way to the device: uint8 until they are there."""

    video: UInt8[Tensor, "b c t h w"]
    ids: Int[Tensor, " b"]  # which video of the dataset: merges views, drops padding
    crops: int = 1  # crops per video, adjacent in b
    paths: tuple[str, ...] = ()  # one per video, for messages
    notes: tuple[str, ...] = ()  # what the reader had to do: short videos repeated, damaged packets, files replaced
    labels: Float[Tensor, "b x"] | None = None  # one-hot, shares, several hot, or values
    motion: Motion | None = None  # with the leading axis b
    yuv: Yuv | None = None  # in place of `video`, which is on the meta device until `to`: its shape and nothing else
    boxes: tuple[Boxes, ...] | None = None  # of each clip, where the videos have key frames

    def each(self, act: Callable[[Tensor], Tensor]) -> "Batch":
        """The same after `act` on each of its tensors; boxes, which have no axis b, stay as they are."""
        labels = None if self.labels is None else act(self.labels)
        motion = None if self.motion is None else self.motion.each(act)
        yuv = None if self.yuv is None else self.yuv.each(act)
        return replace(self, video=act(self.video), ids=act(self.ids), labels=labels, motion=motion, yuv=yuv)

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU fetches from while the step before is worked on; torch's loader calls it."""
        return self.moved(lambda tensor: tensor if tensor.is_meta else tensor.pin_memory())

    def moved(self, act: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with all of its tensors elsewhere."""
        boxes = None if self.boxes is None else tuple(one.each(act) for one in self.boxes)
        return replace(self.each(act), boxes=boxes)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, in RGB."""
        there = self.moved(lambda tensor: tensor if tensor.is_meta else tensor.to(device, non_blocking=True))
        if there.yuv is None:
            return there
        return replace(there, video=there.yuv.rgb().permute(0, 4, 1, 2, 3), yuv=None)  # channels last in memory

    def clips(self, start: int, stop: int) -> "Batch":
        """Clips `start` to `stop`, on video borders: one part of a batch that is accumulated."""
        part = self.each(lambda tensor: tensor[start:stop])
        boxes = None if self.boxes is None else self.boxes[start:stop]
        return replace(part, paths=self.paths[start // self.crops : stop // self.crops], notes=(), boxes=boxes)


# ---------------------------------------------------------------------------- 3. what is hidden


@dataclass(frozen=True)
class TokenMask:
    """Token indices, ascending where nothing follows from their order (it does in `Clusters`).

    `predict` may overlap `visible` (dual masking); only hidden ones are scored there.

    Indices, not booleans: `x[~mask].reshape(b, -1, c)` mixes clips silently when their counts differ.
    """

    visible: Int[Tensor, "b v"]
    predict: Int[Tensor, "b p"]
    grid: Grid

    @classmethod
    def from_hidden(
        cls, hidden: Bool[Tensor, "b n"], grid: Grid, predict: Bool[Tensor, "b n"] | None = None
    ) -> "TokenMask":
        """Index form of a boolean map of what the encoder must not see; `predict` defaults to the hidden tokens.

        Raises:
            ValueError: the clips of the batch hide different numbers of tokens, or all, or none.
        """
        return cls(listed(~hidden, "visible"), listed(hidden if predict is None else predict, "predicted"), grid)

    @property
    def hidden(self) -> Bool[Tensor, "b n"]:
        """True where the encoder does not see."""
        full = torch.ones(len(self.visible), self.grid.tokens, dtype=torch.bool, device=self.visible.device)
        return full.scatter(1, self.visible, False)

    @property
    def scored(self) -> Bool[Tensor, "b p"]:
        """True where a predicted token was hidden, so that its error counts."""
        return self.hidden.gather(1, self.predict)

    def to(self, device: torch.device) -> "TokenMask":
        """The same mask on `device`."""
        return TokenMask(self.visible.to(device), self.predict.to(device), self.grid)


def listed(chosen: Bool[Tensor, "b n"], what: str) -> Int[Tensor, "b m"]:
    """Ascending indices of the True entries of every row.

    Raises:
        ValueError: rows have different numbers of them, or none at all.
    """
    counts = chosen.sum(1).tolist()
    if len(set(counts)) != 1:
        raise ValueError(f"every clip of a batch must have the same number of {what} tokens, got {counts}")
    if counts[0] == 0:
        raise ValueError(f"no {what} tokens at all: the mask ratio leaves {counts[0]} of {chosen.shape[1]}")
    return chosen.nonzero()[:, 1].view(len(chosen), counts[0])


class Draws:
    """Random numbers of one step: every clip has its own stream, keyed by (seed, step, its place in the global batch).

    So a clip gets the same mask on one process or on eight, in one go or accumulated, before or after a resume.
    """

    def __init__(self, seed: int, step: int, places: Sequence[int]) -> None:
        self.streams = [np.random.default_rng((seed, step, place)) for place in places]

    def seed(self) -> int:
        """A seed for what draws for all clips at once (dropout, mixing); the stream of the first clip moves on."""
        return int(self.streams[0].integers(2**62))

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Numbers in [0, 1), float64 so that ties do not happen."""
        return torch.from_numpy(np.stack([stream.random(shape) for stream in self.streams]))

    def integers(self, high: int, *shape: int) -> Int[Tensor, "b ..."]:
        """Whole numbers in [0, high)."""
        return torch.from_numpy(np.stack([stream.integers(high, size=shape) for stream in self.streams]))


# ---------------------------------------------------------------------------- 4. what learns


@dataclass(frozen=True)
class Loss:
    """A sum and a count, because only a division over the *global* batch gives one process and eight the same loss."""

    sum: Float[Tensor, ""]
    count: Int[Tensor, ""]
    told: dict[str, Float[Tensor, ""]] = field(default_factory=dict)  # what else to log of it, by name


@runtime_checkable
class Sampler(Protocol):
    """Which frames of a video make a clip."""

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        ...

    def __call__(
        self, seconds: Float[np.ndarray, " total"], rng: np.random.Generator | None = None
    ) -> Int[np.ndarray, " t"]:
        """Frame indices of a random clip, or without `rng` of the middle one, from the frames' presentation times."""
        ...


@runtime_checkable
class Masker(Protocol):
    """Which tokens are hidden from the encoder."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        """A mask for every clip of the batch, on the CPU or where its motion lies."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What a decoder should have put out for the tokens to predict."""

    values: Float[Tensor, "b p y"]
    weights: Float[Tensor, "*b y"] | None = None  # of each squared error before their mean; none: all count alike


@runtime_checkable
class Target(Protocol):
    """What the decoder must output, and the way back to pixels for pictures."""

    @property
    def pixels(self) -> bool:
        """Whether its values are pixels, channel by channel, so that pictures show what was there."""
        ...

    def size(self, grid: Grid, channels: int) -> int:
        """Values per token.

        Raises:
            ValueError: the target cannot be made of clips of this grid.
        """
        ...

    def wanted(self, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask) -> Wanted:
        """What to predict at `mask.predict`, for clips and the same clips cut into patches."""
        ...

    def decode(
        self, values: Float[Tensor, "b p y"], patches: Float[Tensor, "b p q"], mask: TokenMask, channels: int
    ) -> Float[Tensor, "b p q"]:
        """Pixels in [0, 1] that show values for `mask.predict`, whose true ones are `patches`."""
        ...


class Method(nn.Module):
    """Whatever is trained. The loop knows nothing else."""

    encoder: nn.Module
    views = 1  # clips of each video that a step compares

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """The loss of a batch, as a sum and a count."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def exported(self) -> dict[str, dict[str, Tensor]]:
        """Weights that are kept of a run, by the names of the files that they are saved in."""
        return {"encoder": self.encoder.state_dict()}

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Loads weights to start from into the encoder, and into what is a copy of it."""
        self.encoder.load_state_dict(state)

    def after_step(self, step: int, steps: int) -> None:
        """What follows an optimiser step (a momentum encoder); nothing by default."""

    def rows(self, batch: Batch, draws: Draws) -> tuple[dict[str, UInt8[Tensor, "b c t h w"]], str]:
        """What to show of clips beside themselves, by name, and how to read it; nothing by default."""
        return {}, ""

    def doubts(self, told: dict[str, float]) -> list[str]:
        """What people must know of a step whose loss told this, in words that do not change; nothing by default."""
        return []
