"""Masks that move: a box that follows the motion (MGM) or a drawn course (SMM), and visible places carried by the flow
(MGMAE).

They are drawn for the whole batch where its motion lies. Random numbers come from the CPU, a stream for each clip, so a
clip gets the same mask in any batch; equal numbers in equal order, that is, but for the last bits of a GPU's sums.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tubelet.masks.random_masks import boxed, count, ranked, share, sides
from tubelet.nn.paths import motion_of
from tubelet.nn.warp import warp
from tubelet.types import Batch, Draws, Grid, Motion, TokenMask

STILL = 1 / 32  # of a token's side, half a pixel of 16; what moves less from frame to frame rests: films have noise
ALIKE = 0.8  # of the largest displacement of a slot: what moves that much moves alike
FLOOR = 0.05  # weight of a place that rests beside 1 for the one that moves most: sparse masks hide some of those too
DARK = 1e-8  # what is not 0, as released: 0 marks a hole
STEPS = 2**16  # of a score between 0 and 1; what differs by less is a tie, not the rounding of a sum


# ---------------------------------------------------------------------------- motion of a batch


def speeds(motion: Motion, grid: Grid) -> Float[Tensor, "b s n"]:
    """The largest displacement, in pixels, from the frame before, in every token's cube; -inf where none is known.

    A token has all the blocks that it shares pixels with: blocks need not divide it.
    """
    pt, ph, pw = grid.patch
    speed = motion.to_previous.norm(dim=1).masked_fill(~motion.had, -math.inf)
    rows, columns = (
        overlapped(tokens, patch, motion.block, speed.device) for tokens, patch in ((grid.H, ph), (grid.W, pw))
    )
    speed = speed[:, :, rows].amax(3)[:, :, :, columns].amax(4)
    return speed.unflatten(1, (grid.T, pt)).amax(2).flatten(2)


def overlapped(tokens: int, patch: int, block: int, device: torch.device) -> Int[Tensor, "tokens blocks"]:
    """Which blocks each of a row of tokens shares pixels with; where it has fewer than others, its last one again."""
    token = torch.arange(tokens, device=device)
    first, last = token * patch // block, ((token + 1) * patch - 1) // block
    most = (patch + block - 2) // block + 1  # it cannot share pixels with more, wherever it begins
    return torch.minimum(first.unsqueeze(1) + torch.arange(most, device=device), last.unsqueeze(1))


# ---------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class MotionBox:
    """A box for every time slot, around what moves most.

    The middle is the place with the largest displacement, but for two things. What moves as one moves alike: of the
    places that move at least 0.8 times as far as the fastest it is the one nearest to the middle of them all, one in
    the object, and in the picture where everything moves (a camera that pans). And how far the fastest moves is a mean
    of 3x3 places, since single vectors err. The first slot's box lies anywhere; a slot in which nothing moves by more
    than 1/32 of a token's side, or of which nothing is known, keeps the place of the one before. Boxes are shifted,
    not cut, at the edge of the picture.

    Height and width are jittered each for itself, up to `jitter` tokens and less the clip's mean, so with zero sum over
    time; then rounded. Whatever the box holds, `int(ratio * places)` are hidden in every slot, nearest to its middle
    first (`boxed`).

    Sparse: places are drawn without replacement, with probabilities in proportion to their displacement plus a small
    floor. The noise of the draw is that of the clip, so that what rests is hidden in tubes; slots in which nothing
    moves, and the first one, as above.

    Source: MGM (arXiv:2308.12962), section 3.3 and equation 7; what it leaves open is chosen here.
    """

    ratio: float = 0.75
    """Share of tokens hidden from the encoder."""
    jitter: float = 1.0
    """How much the sides of the box change from slot to slot, in tokens; 0 leaves them alone."""
    sparse: bool = False
    """Single places instead of a box."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = count(self.ratio, grid.slot, "places of a time slot")
        speed = speeds(motion_of(batch, grid, f"mask {type(self).__name__}"), grid)
        noise = draws.uniform(grid.slot)
        peak, still = around(speed, grid).amax(2), STILL * min(grid.patch[1:])
        slots = torch.arange(grid.T, device=speed.device)
        led = torch.where(peak > still, slots, 0).cummax(1).values.unsqueeze(2)  # the last to move
        if self.sparse:
            weight = speed.clamp(min=0) / speed.amax(2, keepdim=True).clamp(min=still) + FLOOR
            weight = torch.where(slots.view(-1, 1) > 0, weight, 1.0).gather(1, led.expand_as(weight))
            race = -noise.log().float().to(speed.device).unsqueeze(1) / weight  # exponential: the first ones win
            return TokenMask.from_hidden(ranked(race, hidden, noise).flatten(1), grid)
        free, size = box_sizes(self.ratio, grid, self.jitter, draws.uniform(grid.T, 2))
        start = (draws.uniform(2) * (free + 1)).long() + (limits(grid) - free - 1) / 2  # its middle
        middle = torch.where(slots.view(-1, 1) > 0, middles(speed, peak, grid), start.to(speed).unsqueeze(1))
        size = size.to(speed.device)
        corner = (middle.gather(1, led.expand_as(middle)) + 1 - size / 2).floor().long()  # rounded
        return TokenMask.from_hidden(boxed(inside(corner, size, grid), size, hidden, noise, grid).flatten(1), grid)


@dataclass(frozen=True)
class SimulatedBox:
    """The same box on a straight course: MGM's control, which looks at no motion.

    It starts anywhere, moves by one random velocity, and is thrown back by the edge of the picture. Both sides change
    by the same jitter, with zero sum over time. Sparse: a random set of places, moved by the velocity; what leaves the
    picture enters at the other side.

    Source: MGM (arXiv:2308.12962), section 3.2 (SMM), which tells no range of velocities and nothing of edges.
    """

    ratio: float = 0.75
    """Share of tokens hidden from the encoder."""
    velocity: float = 2.0
    """Largest velocity down and across, in tokens per time slot; drawn evenly from it to its negative."""
    jitter: float = 1.0
    """How much the sides of the box change from slot to slot, in tokens; 0 leaves them alone."""
    sparse: bool = False
    """Single places instead of a box."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        hidden = count(self.ratio, grid.slot, "places of a time slot")
        noise = draws.uniform(grid.slot)
        velocity = distance("velocity", self.velocity) * (2 * draws.uniform(1, 2) - 1)
        travelled = velocity * torch.arange(grid.T, device=noise.device).view(-1, 1)
        if self.sparse:
            at = torch.arange(grid.slot, device=noise.device)
            down, across = (travelled + 0.5).floor().long().unsqueeze(2).unbind(3)
            came_from = (at // grid.W - down) % grid.H * grid.W + (at % grid.W - across) % grid.W
            first = ranked(torch.zeros_like(noise).unsqueeze(1), hidden, noise).expand(-1, grid.T, -1)
            return TokenMask.from_hidden(first.gather(2, came_from).flatten(1), grid)
        free, size = box_sizes(self.ratio, grid, self.jitter, draws.uniform(grid.T, 1))
        room = free + 1.0
        course = (draws.uniform(1, 2) * room + travelled) % (2 * room)
        corner = torch.minimum(course, 2 * room - course).long()  # there and back
        return TokenMask.from_hidden(boxed(inside(corner, size, grid), size, hidden, noise, grid).flatten(1), grid)


def distance(name: str, tokens: float) -> float:
    """The distance.

    Raises:
        ValueError: it is below 0, or none.
    """
    if not 0 <= tokens < math.inf:  # NaN too
        raise ValueError(f"mask {name} {tokens:g}: it must be 0 or more, in tokens")
    return tokens


def limits(grid: Grid) -> Int[Tensor, "2"]:
    """Places down and across."""
    return torch.tensor([grid.H, grid.W], device="cpu")


def box_sizes(
    ratio: float, grid: Grid, jitter: float, uniform: Float[Tensor, "b s i"]
) -> tuple[Int[Tensor, "2"], Int[Tensor, "b s 2"]]:
    """How far a box without jitter can move, and the jittered sizes of one for every slot, both (down, across).

    Raises:
        ValueError: a jitter that is no distance.
    """
    distance("jitter", jitter)
    side = torch.tensor(sides(ratio, grid), device="cpu")
    size = (side + swings(jitter, uniform)).round().clamp(min=1)
    return limits(grid) - side.round().long(), torch.minimum(size.long(), limits(grid))


def swings(jitter: float, uniform: Float[Tensor, "b s i"]) -> Float[Tensor, "b s i"]:
    """Changes of size that sum to zero over time, from numbers in [0, 1)."""
    drawn = jitter * (2 * uniform - 1)
    return drawn - drawn.mean(1, keepdim=True)


def middles(speed: Float[Tensor, "b s n"], peak: Float[Tensor, "b s"], grid: Grid) -> Float[Tensor, "b s 2"]:
    """In the place that is amid those that move about as much as the peak of their slot: (down, across)."""
    at = torch.arange(grid.slot, device=speed.device)
    places = torch.stack([at // grid.W, at % grid.W], dim=1).float()
    alike = speed >= ALIKE * peak.unsqueeze(2)
    amid = (alike.unsqueeze(3) * places).sum(2, keepdim=True) / alike.sum(2)[..., None, None]
    away = (places - amid).square().sum(3).masked_fill(~alike, math.inf)
    nearest = places[away.argmin(2)]
    return nearest + (amid.squeeze(2) - nearest).clamp(-0.5, 0.5)


def around(speed: Float[Tensor, "b s n"], grid: Grid) -> Float[Tensor, "b s n"]:
    """The mean of each known place and its known neighbours; -inf where it is not known itself.

    Behind a thing that moves, its encoder finds the ground that comes to light anywhere: single vectors there are
    longer than those of the thing, but never many side by side.
    """
    known = speed > -math.inf
    sums = [
        F.avg_pool2d(values.unflatten(2, (grid.H, grid.W)), 3, 1, 1).flatten(2)
        for values in (speed.masked_fill(~known, 0.0), known.to(speed.dtype))
    ]
    return (sums[0] / sums[1]).masked_fill(~known, -math.inf)


def inside(corner: Int[Tensor, "b s 2"], size: Int[Tensor, "b s 2"], grid: Grid) -> Int[Tensor, "b s 2"]:
    """The corner of a box of this size, moved until the box lies in the picture."""
    return torch.minimum(corner, limits(grid).to(size.device) - size).clamp(min=0)


# ---------------------------------------------------------------------------- what the flow carries


def kept(ratio: float, places: int) -> int:
    """`int(places * (1 - ratio))`, but for the last bits of 1 - 0.9: a tenth of 20 places is 2."""
    return int(places * (1 - share(ratio)) + 1e-9)


@dataclass(frozen=True)
class FlowWarp:
    """What is visible in a base frame stays visible where the motion takes it.

    A map of the base frame, bright around random places, is warped from frame to frame, outwards from the base; tokens
    show the brightest cubes. A block's displacement is that of all its pixels; where none is known it is zero, and
    without any motion this is a tube mask. It shows `int(places * (1 - ratio))` tokens a slot (19 of 196 at 0.9, where
    a tube shows 20).

    Source: MGMAE (arXiv:2308.10794) and its released code; with `released`, that code's warp before the base frame.
    """

    ratio: float = 0.9
    """Share of tokens hidden from the encoder."""
    base: Literal["first", "middle", "random"] = "middle"
    """The frame that the map is drawn for; random: another one for every clip."""
    initial: Literal["gauss", "pixel", "token"] = "gauss"
    """The map: bells around random tokens, single pixels, or whole tokens."""
    holes: Literal["base", "none"] = "base"
    """What stands where nothing was carried to: the base frame's map, or nothing."""
    select: Literal["slot", "clip"] = "slot"
    """Whether every slot shows the same number of tokens, or only every clip."""
    exposure: bool = False
    """Noise on the scores of one random slot; as released it is standard normal beside scores of hundreds."""
    released: bool = False
    """Before the base frame, take the known frame's motion, not the new one's: the wrong way round, as released."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        shown = self.shown(grid)
        motion = motion_of(batch, grid, f"mask {type(self).__name__}")
        volume = math.prod(grid.patch)
        scores = torch.stack([cells(seen, grid) for seen in self.carried(motion, grid, draws)], dim=1)
        scores = scores.unflatten(1, (grid.T, grid.patch[0])).sum(2)
        noise = draws.uniform(grid.slot)
        if self.exposure:
            normal = torch.special.ndtri(draws.uniform(1, grid.slot)).float().to(scores.device)
            chosen = draws.integers(grid.T, 1) == torch.arange(grid.T, device="cpu")
            scores = scores + chosen.unsqueeze(2).to(scores.device) * normal
        steps = -(scores * (STEPS / volume)).round()
        if self.select == "clip":
            visible = ranked(steps.view(-1, 1, grid.tokens), shown * grid.T, noise.repeat(1, grid.T))
        else:
            visible = ranked(steps, shown, noise)
        return TokenMask.from_hidden(~visible.view(-1, grid.tokens), grid)

    def shown(self, grid: Grid) -> int:
        """Visible tokens of a slot.

        Raises:
            ValueError: the ratio shows nothing or everything.
        """
        shown = kept(self.ratio, grid.slot)
        if shown in (0, grid.slot):
            high = next(k / 10**4 for k in range(10**4 - 1, 0, -1) if kept(k / 10**4, grid.slot))
            raise ValueError(
                f"mask ratio {self.ratio:g} shows {shown} of {grid.slot} places of a time slot; "
                f"use 0.0001 to {high:.4f}"
            )
        return shown

    def carried(self, motion: Motion, grid: Grid, draws: Draws) -> list[Float[Tensor, "b 1 h w"]]:
        """The map of every frame."""
        frames = grid.T * grid.patch[0]
        start = self.start(grid, draws, motion.had.device)
        if self.base == "random":
            base = draws.integers(frames)
        else:
            base = torch.full((len(start),), {"first": 0, "middle": frames // 2}[self.base], device="cpu")
        early, late = int(base.min()), int(base.max())
        base = base.to(start.device).view(-1, 1, 1, 1)
        maps = [start] * frames
        for frame in range(early + 1, frames):
            flow = at_pixels(motion.to_previous[:, :, frame], motion.had[:, frame], motion.block, start)
            maps[frame] = torch.where(base < frame, self.filled(warp(maps[frame - 1], flow), start), start)
        for frame in range(late - 1, -1, -1):
            if self.released:
                flow = at_pixels(motion.to_previous[:, :, frame + 1], motion.had[:, frame + 1], motion.block, start)
            else:
                flow = at_pixels(motion.to_next[:, :, frame], motion.has[:, frame], motion.block, start)
            maps[frame] = torch.where(frame < base, self.filled(warp(maps[frame + 1], flow), start), maps[frame])
        return maps

    def filled(self, moved: Float[Tensor, "b 1 h w"], start: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """The map, without holes if they are to be filled."""
        return torch.where(moved == 0, start, moved) if self.holes == "base" else moved

    def start(self, grid: Grid, draws: Draws, device: torch.device) -> Float[Tensor, "b 1 h w"]:
        """The base frame's map: up to 1 at as many random tokens as a tube would show (20 of 196 at 0.9)."""
        (_, ph, pw), places = grid.patch, grid.slot
        if self.initial == "pixel":
            lit = draws.uniform(1, grid.H * ph, grid.W * pw) < 1 - self.ratio
            return lit.to(device).float().clamp(min=DARK)
        token = draws.uniform(places).argsort(dim=1)[:, : places - int(self.ratio * places)].to(device)
        if self.initial == "token":
            lit = torch.zeros(len(token), places, device=device).scatter(1, token, 1.0).clamp(min=DARK)
            lit = lit.view(-1, 1, grid.H, grid.W)
            return lit.repeat_interleave(ph, dim=2).repeat_interleave(pw, dim=3)
        down, across = (
            ((torch.arange(tokens * edge, device=device) - (edge - 1) / 2) / edge - at.unsqueeze(2)).square()
            for tokens, edge, at in ((grid.H, ph, token // grid.W), (grid.W, pw, token % grid.W))
        )  # of the distance in tokens: exp(-(pixels / 16)^2), without a half
        nearest = torch.full((len(token), grid.H * ph, grid.W * pw), math.inf, device=device)
        for y, x in zip(down.unbind(1), across.unbind(1)):
            nearest = torch.minimum(nearest, y.unsqueeze(2) + x.unsqueeze(1))
        bright = (-nearest).exp().unsqueeze(1)
        return bright / bright.amax((2, 3), keepdim=True)


def cells(seen: Float[Tensor, "b 1 h w"], grid: Grid) -> Float[Tensor, "b n"]:
    """The sum over the pixels of every token of one frame."""
    _, ph, pw = grid.patch
    return F.avg_pool2d(seen, (ph, pw)).flatten(1) * (ph * pw)


def at_pixels(
    field: Float[Tensor, "b 2 my mx"], known: Bool[Tensor, "b my mx"], block: int, like: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 2 h w"]:
    """A block's displacement at each of its pixels; 0 where it is not known."""
    rows, columns = (torch.arange(size, device=field.device) // block for size in like.shape[2:])
    return torch.where(known.unsqueeze(1), field, 0.0)[:, :, rows][:, :, :, columns]
