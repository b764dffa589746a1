"""The verb that draws where an encoder looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, opened, parse


def picture_attention(args: list[str]) -> int:
    """Where an encoder looks: how much one cube of a clip takes from all others."""

    @dataclass(frozen=True)
    class Attention:
        """Show how much one cube of a clip, the query, takes from all others, as colours over the frames.

        tubelet picture attention --weights runs/first --data cat.mp4 --random-too --out attention.png

        tubelet picture attention --weights runs/first --data cat.mp4 --query 2 7 7 --maps each rollout --out all.gif
        """

        weights: Path
        """A run folder, pre-trained or fine-tuned, or a .safetensors of it, or weights of others."""
        data: str
        """A video (of a folder or list the first), of which the middle clip is taken."""
        query: tuple[int, int, int] | None = None
        """Slot, row and column of the cube that looks, counted from 0; default the middle one."""
        block: int | None = None
        """Which block (1 is the first); default the last."""
        maps: tuple[str, ...] = ("mean",)
        """One or more: mean of the block's heads, each of them, heads by their number (from 0), rollout through all
        blocks (Abnar and Zuidema 2020)."""
        random_too: bool = False
        """Also an encoder of the same shape with random weights: what is in its maps as well was not learnt."""
        seed: int = 0
        """Another seed, other random weights."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        out: Path = Path("attention.png")
        """Picture to write: .png is a strip, .gif and .mp4 move."""

    a = parse(Attention, args, "picture attention")
    from tubelet.attention_pictures import attention_maps, attention_strip, explained, legend
    from tubelet.data.sources import find
    from tubelet.evaluate.attention import token_at
    from tubelet.evaluate.features import middle_clips, untrained
    from tubelet.strips import ending, save

    ending(a.out)
    encoder, run = opened(a.weights, a.others, "encoder")
    encoders = {"": encoder}
    if a.random_too:
        encoders = {"trained, ": encoder, "random, ": untrained(run, a.seed)}
    video = find(a.data)[0].path
    grid, query = encoder.grid, token_at(encoder.grid, a.query)
    number = len(encoder.blocks) if a.block is None else a.block
    heads = heads_of(a.maps, run.encoder.heads)
    wanted = heads, "mean" in a.maps, "rollout" in a.maps
    clip = middle_clips([video], run.data)
    maps = {}
    for whose, network in encoders.items():
        for name, map in attention_maps(network, clip, query, number, *wanted).items():
            maps[f"{whose}{name}"] = map[0]
    strip = attention_strip(clip[0], maps, grid, query, f"{video.name} · {a.weights.resolve().name}")
    print(save(a.out, [strip], explained(grid, query, number, wanted[2]), legend()))
    return 0


def heads_of(maps: Sequence[str], count: int) -> list[int]:
    """Which of `count` heads have a map of their own.

    Raises:
        ValueError: no map at all, or a word that means none.
    """
    wrong = [name for name in maps if name not in ("mean", "each", "rollout") and not name.isdecimal()]
    if wrong or not maps:
        raise ValueError(f"--maps {' '.join(wrong)}: expected mean, each, rollout, or heads from 0 to {count - 1}")
    return [*range(count)] if "each" in maps else [*dict.fromkeys(int(name) for name in maps if name.isdecimal())]
