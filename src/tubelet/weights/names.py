"""Names of tensors, theirs and ours: one table of pairs for each format, to read it and to write it."""

import re
from collections.abc import Sequence

from torch import Tensor

from tubelet.weights.report import Rule

Pair = tuple[str, str, str]
"""What a name begins with here and there ("#" is the number of a block), and a regular expression of how it goes on."""

BOTH = r"\.(?:weight|bias)"
"""How most names go on."""


def reading(pairs: Sequence[Pair], perhaps: str = "") -> list[Rule]:
    """The rules by which their names become ours; theirs may lack a `perhaps` in front."""
    return [
        (f"{optional(theirs, perhaps)}(?P<end>{end})", ours.replace("#", r"\g<number>") + r"\g<end>", "")
        for ours, theirs, end in pairs
    ]


def optional(name: str, perhaps: str) -> str:
    """A regular expression of a beginning, with or without a `perhaps` in front."""
    plain = re.escape(name.removeprefix(perhaps)).replace(r"\#", r"(?P<number>\d+)")
    return f"(?:{re.escape(perhaps)})?{plain}" if name.startswith(perhaps) else plain


def written(state: dict[str, Tensor], pairs: Sequence[Pair], patch: tuple[int, int, int]) -> dict[str, Tensor]:
    """A state of ours in their names and shapes: the embedding as a convolution, the mask token as one of a sequence.

    Raises:
        ValueError: a name that they do not have.
    """
    rules = [(re.compile(ours), theirs) for ours, theirs, _ in reading([(b, a, end) for a, b, end in pairs])]
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        new = next((match.expand(str(theirs)) for ours, theirs in rules if (match := ours.fullmatch(name))), None)
        if new is None:
            raise ValueError(f"{name} has no name in the format that is to be written")
        if name == "encoder.embed.weight":
            value = as_convolution(value, patch)
        found[new] = value.view(1, 1, -1) if name == "decoder.mask_token" else value.contiguous()
    return found


def as_convolution(embed: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """The weights of a Conv3d, "d c pt ph pw", from those of a Linear over a cube's values, channel fastest."""
    return embed.unflatten(1, (*patch, -1)).permute(0, 4, 1, 2, 3)
