"""Encoders of V-JEPA 2 (arXiv:2506.09985), in transformers' layout and in their own, and of V-JEPA (arXiv:2404.08471).

Facts from transformers' implementation and Meta's released code: a full bias of queries, keys and values; rotary
positions in V-JEPA 2, a fixed table of three axes in V-JEPA. Predictors and poolers are left out.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tubelet.types import Grid
from tubelet.weights.archive import Archive
from tubelet.weights.attention import fused
from tubelet.weights.beside import agreeing, pixels, same_arithmetic
from tubelet.weights.found import Asked, Found, begun, cube, cubes, embeds, restated
from tubelet.weights.report import Report, Rule, renamed
from tubelet.weights.videomae import geometry

BLOCK = r"encoder.blocks.\1."
SAME = r"((?:norm[12]|mlp\.fc[12])\.(?:weight|bias))"
OFFICIAL: list[Rule] = [
    (r"patch_embed\.proj\.(weight|bias)", r"encoder.embed.\1", ""),
    (rf"blocks\.(\d+)\.{SAME}", rf"{BLOCK}\2", ""),
    (r"blocks\.(\d+)\.(attn\.(?:qkv|proj)\.(?:weight|bias))", rf"{BLOCK}\2", ""),
    (r"norm\.(weight|bias)", r"encoder.norm.\1", ""),
    (r"(pos_embed)", r"\1", ""),
]
OF = r"(?:vjepa2\.)?encoder\."
TRANSFORMERS: list[Rule] = [
    (rf"{OF}embeddings\.patch_embeddings\.proj\.(weight|bias)", r"encoder.embed.\1", ""),
    (rf"{OF}layer\.(\d+)\.{SAME}", rf"{BLOCK}\2", ""),
    (rf"{OF}layer\.(\d+)\.attention\.((?:query|key|value|proj)\.(?:weight|bias))", rf"{BLOCK}attn.\2", ""),
    (rf"{OF}layernorm\.(weight|bias)", r"encoder.norm.\1", ""),
    (r"(?:vjepa2\.)?predictor\..*", None, "a predictor of features, which training alone has"),
    (r"(?:pooler|classifier)\..*", None, "an attentive pooler with its head; tubelet probe attentive trains one"),
]
HEADS = {1280: 16, 1408: 22, 1664: 26}  # else 64 channels each
# Tables in files of the released models: V-JEPA's with their rows and columns, and those that V-JEPA 2 left over.
FIRST: dict[tuple[int, ...], int] = {(1, 8 * 14 * 14, 1024): 14, (1, 8 * 14 * 14, 1280): 14, (1, 8 * 24 * 24, 1280): 24}
SECOND = {(1, slots * 16 * 16, width) for width in (1024, 1280, 1408) for slots in (8, 32)}
SECOND |= {(1, slots * 24 * 24, 1408) for slots in (8, 32)}


def is_vjepa(state: dict[str, Tensor]) -> bool:
    """Whether names are of V-JEPA, its own or transformers'."""
    kernel = next((value for name, value in state.items() if embeds(name)), None)
    official = "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.bias" in state
    theirs = any(name.endswith("encoder.layer.0.attention.proj.weight") for name in state)
    return kernel is not None and kernel.ndim == 5 and (official or theirs)


def from_vjepa(archive: Archive, asked: Asked) -> Found:
    """The encoder of such a file or folder.

    Raises:
        ValueError: something that is not on the list, missing or contradicted by the config, or a table of positions
            that may be used or not.
    """
    names, config = archive.state, archive.config
    official = "patch_embed.proj.weight" in names
    report = begun(archive, "V-JEPA" if official else "transformers' V-JEPA 2")
    same_arithmetic(archive, report)
    state = renamed(names, OFFICIAL if official else TRANSFORMERS, report)
    kernel = next(value for name, value in names.items() if embeds(name))
    patch, width = cube(kernel), len(kernel)
    cubes(state, "encoder.embed.weight", report)
    table = state.pop("pos_embed", None)
    places = None if table is None else FIRST.get(tuple(table.shape))
    if table is not None and places is None and tuple(table.shape) not in SECOND:
        raise ValueError(
            f"{report.path} has positions of shape {tuple(table.shape)}: V-JEPA adds such a table, and V-JEPA 2 does "
            "not, though its files may hold one; they are told apart in the released sizes only. If its positions are "
            "rotary, take pos_embed out of the file"
        )
    state = fused(state, report, keys=places is None)
    if official:
        report.format = "V-JEPA 2" if places is None else "V-JEPA"
    heads = asked.heads or config.get("num_attention_heads") or HEADS.get(width, max(width // 64, 1))
    if not asked.heads and "num_attention_heads" not in config:
        report.notes.append(f"{heads} heads, as V-JEPA's models of this width have, or 64 channels each; --heads")
    encoder, _ = geometry(state, patch, Asked(heads=heads), report)
    shapes = {"hidden_size": width, "num_hidden_layers": encoder.depth, "patch_size": patch[1]}
    agreeing(archive, shapes | {"tubelet_size": patch[0]})
    if (seen := pixels(archive, kernel.shape[1])) is not None:
        restated(state, *seen, report)
    elif not official:
        report.notes.append("clips normalised by ImageNet's mean and deviation are assumed, as of the released models")
    frames, side = config.get("frames_per_clip", 64), config.get("crop_size", 256)
    trained: Grid | None = None
    if table is not None and places is not None:
        encoder, trained = replace(encoder, position="learned"), Grid(8, places, places, patch)
        frames, side = 8 * patch[0], places * patch[1]
        separated(state, table[0], trained, report)
    else:
        encoder = replace(encoder, position="rotary")
        report.notes.append("rotary positions, which need no table and go on to clips of any size")
        if table is not None:
            report.add("left out", "positions that V-JEPA 2 does not use", "pos_embed")
        if not config:
            report.notes.append("clips of 64 frames, 256x256, as V-JEPA 2 was trained on last; the file does not say")
    size, channels = asked.size or (side, side), kernel.shape[1]
    return Found(state, encoder, None, asked.frames or frames, size, report, channels=channels, trained=trained)


def separated(state: dict[str, Tensor], table: Tensor, grid: Grid, report: Report) -> None:
    """Takes a table of three axes "n d" apart into our positions of slot and place, in `state`.

    Raises:
        ValueError: it is no such sum.
    """
    cells = table.float().unflatten(0, (grid.T, grid.slot))
    place, slot = cells[0], cells[:, 0] - cells[0, 0]
    if not torch.allclose(slot.unsqueeze(1) + place, cells, rtol=0, atol=1e-5):
        raise ValueError(f"{report.path}: its positions are no sum of one for the slot and one for the place")
    state["encoder.position.place"], state["encoder.position.slot"] = place.clone(), slot
    report.add("reshaped", "fixed positions of three axes are those of slots and of places", "pos_embed")
    report.notes.append("its positions were fixed; here they are weights, and go on learning when they are trained")
