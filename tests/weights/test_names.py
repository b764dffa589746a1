"""One table of pairs renames in both directions."""

from pathlib import Path

import pytest
import torch

from tubelet.weights.names import BOTH, reading, written
from tubelet.weights.report import Report, renamed

PAIRS = [
    ("encoder.blocks.#.attn", "net.layer.#.attention.self", r"\.(?:q_bias|qkv\.weight)"),
    ("encoder.norm", "net.norm", BOTH),
    ("decoder.mask_token", "mask_token", ""),
]
OURS = ("encoder.blocks.11.attn.q_bias", "encoder.blocks.0.attn.qkv.weight", "encoder.norm.bias", "decoder.mask_token")
THEIRS = ("net.layer.11.attention.self.q_bias", "net.layer.0.attention.self.qkv.weight", "net.norm.bias", "mask_token")


def state(names) -> dict[str, torch.Tensor]:
    return {name: torch.full((2,), float(number)) for number, name in enumerate(names)}


def test_names_go_both_ways():
    back = written(state(OURS), PAIRS, (1, 1, 1))
    assert [(name, float(value.flatten()[0])) for name, value in back.items()] == list(zip(THEIRS, range(4)))
    assert back["mask_token"].shape == (1, 1, 2)
    again = renamed(back, reading(PAIRS), Report(Path("w.pth")))
    assert tuple(again) == OURS


def test_what_they_begin_with_may_be_missing_if_it_is_said():
    bare = state(name.removeprefix("net.") for name in THEIRS)
    assert tuple(renamed(bare, reading(PAIRS, "net."), Report(Path("w.pth")))) == OURS
    with pytest.raises(ValueError, match=r"3 of its 4 tensors are not on the list"):
        renamed(bare, reading(PAIRS), Report(Path("w.pth")))


@pytest.mark.parametrize(
    "name",
    [
        "encoder.norm",
        "encoder.norm.scale",
        "encoder.blocks.x.attn.q_bias",
        "decoder.mask_token.x",
        "xencoder.norm.bias",
    ],
)
def test_a_name_that_is_not_in_the_table_is_refused_both_ways(name):
    with pytest.raises(ValueError, match=f"{name} has no name in the format"):
        written(state([name]), PAIRS, (1, 1, 1))
    theirs = name.replace("encoder.blocks", "net.layer").replace("encoder.norm", "net.norm").replace("decoder.", "")
    with pytest.raises(ValueError, match="not on the list"):
        renamed(state([theirs]), reading(PAIRS), Report(Path("w.pth")))
