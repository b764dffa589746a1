"""Queries, keys and values of others, fused as ours are; and how many heads they are cut into."""

import re

import torch
from torch import Tensor

from tubelet.nn.vit import SIZES
from tubelet.weights.report import Report

HEADS = {shape.width: shape.heads for shape in SIZES.values()}
NARROW = HEADS | {640: 8, 512: 8}  # of decoders
SHIFT = "a bias of keys adds the same to all logits of a query, which softmax cannot see"


def heads_of(width: int, given: int | None, report: Report, of: str = "heads") -> int:
    """The attention heads of a network of `width`, which no shape tells: as given, as of the known sizes, or of 64
    channels each.

    Raises:
        ValueError: the width does not divide into them.
    """
    known = HEADS if of == "heads" else NARROW
    if given is None:
        given = known.get(width, max(width // 64, 1))
        why = "as every released model of this width has" if width in known else "64 channels each"
        flag = ", --heads says otherwise" if of == "heads" else ""
        report.notes.append(f"{given} {of}, {why}; shapes do not tell{flag}")
    if given < 1 or width % given:
        raise ValueError(
            f"{report.path}: width {width} does not divide into {given} heads; give another number: --heads"
        )
    return given


def fused(state: dict[str, Tensor], report: Report, keys: bool = False) -> dict[str, Tensor]:
    """The state with every attention in our names: `qkv.weight`, `q_bias`, `v_bias`, and with `keys` also `k_bias`.

    Taken are separate `query`, `key`, `value` with biases of their own or `q_bias` and `v_bias` (both, where they are
    equal), and a joint `qkv.bias`. Without `keys` a bias of the keys is left out: it changes no output.

    Raises:
        ValueError: one of the three is missing, or two kinds of biases contradict.
    """
    found = dict(state)
    stems = [name.removesuffix("query.weight") for name in state if name.endswith("attn.query.weight")]
    for stem in stems:
        parts = [f"{stem}{part}.weight" for part in ("query", "key", "value")]
        if lost := [name for name in parts if name not in found]:
            raise ValueError(f"{report.path} ({report.format}) lacks {lost[0]}")
        found[f"{stem}qkv.weight"] = torch.cat([found.pop(name) for name in parts])
        report.mark("reshaped", "queries, keys and values in one matrix", *parts)
    for name in list(found):
        if match := re.fullmatch(r"(.*attn\.)(query|key|value)\.bias", name):
            bias, stem, part = found.pop(name), match[1], match[2]
            ours = f"{stem}{part[0]}_bias"
            if part == "key" and not keys:
                report.mark("left out", useless(bias), name)
            elif ours in found and not torch.equal(found[ours], bias):
                raise ValueError(
                    f"{report.path} has {name} and {ours}, which differ; one of them was lost and begun afresh (as by "
                    "transformers 5.6 to 5.17): keep the one that is trained"
                )
            else:
                found[ours] = bias
        elif match := re.fullmatch(r"(.*attn\.)qkv\.bias", name):
            query, key, value = (part.clone() for part in found.pop(name).chunk(3))
            found |= {f"{match[1]}q_bias": query, f"{match[1]}v_bias": value}
            if keys:
                found[f"{match[1]}k_bias"] = key
            else:
                report.mark("reshaped", f"without its third for keys: {useless(key)}", name)
    return found


def useless(bias: Tensor) -> str:
    """Why a bias of the keys is not kept."""
    return "a bias of keys, all zero" if not bias.any() else SHIFT
