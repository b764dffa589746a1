"""Where an encoder looks: how much one token of a clip takes from each of all tokens.

A class token lies nowhere in the clip: what goes to it is left out, and the rest is made to sum to 1 again.

Divided attention is two looks, one after the other (`nn/divided.py`): over time, then over space. A token takes from
those of its slot, and each of these has taken from its own place in all slots; the weights of both are multiplied, so
that every token of the clip has one. Heads are those of the second look, with the mean of the first one's, which are
mixed in between.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tubelet.nn.attention import Block, shares
from tubelet.nn.divided import DividedBlock
from tubelet.nn.vit import ViT
from tubelet.types import Grid

ROWS = 128  # queries whose weights are in memory at once, of all heads


def token_at(grid: Grid, place: tuple[int | None, int | None, int | None] | None = None) -> int:
    """The index of the token in a slot, row and column, all from 0; of what is None, the middle one.

    Raises:
        ValueError: a place outside of the grid.
    """
    sizes = {"slot": grid.T, "row": grid.H, "column": grid.W}
    slot, row, column = (
        size // 2 if one is None else one for one, size in zip(place or (None, None, None), sizes.values())
    )
    for (name, size), number in zip(sizes.items(), (slot, row, column)):
        if not 0 <= number < size:
            raise ValueError(
                f"query {slot} {row} {column}: there is no {name} {number}; clips have {grid.T} slots of {grid.H} rows "
                f"and {grid.W} columns of cubes, counted from 0"
            )
    return slot * grid.slot + row * grid.W + column


class Passed(NamedTuple):
    """Whole clips on their way through an encoder: what goes into each block, and what the blocks are told."""

    entered: list[Tensor]
    told: tuple[Any, ...]


def passed(encoder: ViT, patches: Float[Tensor, "b n q"]) -> Passed:
    """What `attention` and `rollout` take instead of patches, to be quick where many queries are asked.

    Raises:
        ValueError: not the patches of whole clips.
    """
    with looking(encoder):
        return before(encoder, patches, len(encoder.blocks))


def attention(
    encoder: ViT, patches: Float[Tensor, "b n q"] | Passed, query: int | None = None, block: int | None = None
) -> Float[Tensor, "b heads n"]:
    """How much the query takes from every token of whole clips, in each head of a block; sums to 1.

    `patches` are as the encoder takes them (`targets.inputs`), on its device. `query` is the index of a token, by
    default of the middle one; `block` counts from 1 and is by default the last.

    Raises:
        ValueError: no such token or block, or not the patches of whole clips.
    """
    depth = len(encoder.blocks)
    number = depth if block is None else block
    if not 1 <= number <= depth:
        raise ValueError(f"there is no block {number}; the encoder has {depth}, counted from 1")
    with looking(encoder):
        entered, told = patches if isinstance(patches, Passed) else before(encoder, patches, number)
        weight = beginning(encoder, entered[0], query)
        *earlier, last = looks(encoder, number, entered[number - 1], told)
        weight = handed(weight, last)[:, 0]
        for look in reversed(earlier):
            weight = handed(weight, look).mean(2)
    return ending(encoder, weight)


def rollout(encoder: ViT, patches: Float[Tensor, "b n q"] | Passed, query: int | None = None) -> Float[Tensor, "b n"]:
    """How much of the query's output came from every token of whole clips, through all blocks; sums to 1.

    Half of a token is what it was, half what it takes, in the mean of the heads; both looks of divided attention count
    so. Only the query's row of the product is computed: it is followed back from the last block to the first.
    Source: Abnar and Zuidema 2020, arXiv:2005.00928, "attention rollout".

    Raises:
        ValueError: no such token, or not the patches of whole clips.
    """
    entered, told = patches if isinstance(patches, Passed) else passed(encoder, patches)
    weight = beginning(encoder, entered[0], query)
    with looking(encoder):
        for number in range(len(encoder.blocks), 0, -1):
            for look in reversed(looks(encoder, number, entered[number - 1], told)):
                weight = (weight + handed(weight, look).mean(2)) / 2
    return ending(encoder, weight)[:, 0]


# ---------------------------------------------------------------------------- one step


class Look(NamedTuple):
    """One attention: queries, keys, and which of them may meet."""

    q: Float[Tensor, "b heads m c"]
    k: Float[Tensor, "b heads m c"]
    allowed: Bool[Tensor, "1 1 m m"] | None = None


def looks(encoder: ViT, number: int, x: Float[Tensor, "b m d"], told: tuple[Any, ...]) -> list[Look]:
    """Those of a block, in the order in which they are done; `x` is what goes into it."""
    block = encoder.blocks[number - 1]
    assert isinstance(block, Block)
    if not isinstance(block, DividedBlock):
        return [Look(*block.attn.parts(block.norm1(x), *told[1:])[:2])]
    index = torch.arange(x.shape[1], device=x.device)
    place, slot = index % encoder.grid.slot, index // encoder.grid.slot
    time, space = ((part[:, None] == part)[None, None] for part in (place, slot))
    return [
        Look(*block.attn0.parts(block.norm0(x))[:2], time),
        Look(*block.attn.parts(block.norm1(block.timed(x, *told)))[:2], space),
    ]


def handed(weight: Float[Tensor, "b r m"], look: Look) -> Float[Tensor, "b r heads m"]:
    """Weights on tokens, handed on to those that these look at; only a few rows of a look are there at once."""
    found = weight.new_zeros(*weight.shape[:2], look.q.shape[1], weight.shape[2])
    for rows in weight.flatten(0, 1).any(0).nonzero()[:, 0].split(ROWS):
        allowed = None if look.allowed is None else look.allowed[:, :, rows]
        found += torch.einsum("bra,bham->brhm", weight[:, :, rows], shares(look.q[:, :, rows], look.k, allowed).float())
    return found


def before(encoder: ViT, patches: Float[Tensor, "b n q"], blocks: int) -> Passed:
    """What goes into each of the first blocks, and what they are told.

    Raises:
        ValueError: not the patches of whole clips.
    """
    if patches.shape[1] != encoder.grid.tokens:
        raise ValueError(f"{patches.shape[1]} patches; whole clips of this encoder have {encoder.grid.tokens}")
    x, told = encoder.entering(patches)
    entered = [x]
    for block in encoder.blocks[: blocks - 1]:
        entered.append(block(entered[-1], *told))
    return Passed(entered, told)


# ---------------------------------------------------------------------------- from the query to weights


def beginning(encoder: ViT, entered: Float[Tensor, "b m d"], query: int | None) -> Float[Tensor, "b 1 m"]:
    """All weight on the query; `entered` is what goes into the first block.

    Raises:
        ValueError: no such token.
    """
    tokens = encoder.grid.tokens
    at = token_at(encoder.grid) if query is None else query
    if not 0 <= at < tokens:
        raise ValueError(f"there is no token {at}; clips have {tokens}, counted from 0")
    front = int(encoder.class_token is not None)
    weight = torch.zeros(len(entered), 1, front + tokens, device=entered.device)
    weight[:, :, front + at] = 1
    return weight


def ending(encoder: ViT, weight: Float[Tensor, "b r m"]) -> Float[Tensor, "b r n"]:
    """Weights of the tokens of the clip, without that of a class token."""
    if encoder.class_token is None:
        return weight
    return weight[:, :, 1:] / weight[:, :, 1:].sum(2, keepdim=True)


@contextmanager
def looking(encoder: ViT) -> Iterator[None]:
    """Without gradients and without stochastic depth; afterwards as before."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.train(training)
