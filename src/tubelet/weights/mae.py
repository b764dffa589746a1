"""Encoders of MAE (arXiv:2111.06377), MAE-ST (2205.09113), transformers' ViTMAE and ViT, and as timm names them.

Their class token goes along; their decoders and heads do not. A bias of keys is left out: it changes no output.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from tubelet.nn.vit import Encoder
from tubelet.types import Grid
from tubelet.weights.archive import Archive
from tubelet.weights.attention import fused
from tubelet.weights.beside import agreeing, pixels, same_arithmetic
from tubelet.weights.found import Asked, Found, begun, cube, cubes, embeds, is_plane, restated
from tubelet.weights.report import Report, Rule, renamed
from tubelet.weights.videomae import geometry

DECODER: Rule = (r"decoder_.*|decoder\..*|mask_token", None, "a decoder that puts tokens back in order; ours does not")
HEAD: Rule = (r"(?:head|classifier|fc_norm|pooler)\..*", None, "a head for images, with what comes before it")
BLOCK = r"encoder.blocks.\1."
SAME = r"((?:norm[12]|attn\.proj|mlp\.fc[12])\.(?:weight|bias))"
COMMON: list[Rule] = [
    (r"patch_embed\.proj\.(weight|bias)", r"encoder.embed.\1", ""),
    (rf"blocks\.(\d+)\.{SAME}", rf"{BLOCK}\2", ""),
    (r"norm\.(weight|bias)", r"encoder.norm.\1", ""),
    (r"(cls_token)", r"\1", ""),
]
IMAGES: list[Rule] = [
    *COMMON,
    (r"(pos_embed)", r"\1", ""),
    (r"blocks\.(\d+)\.(attn\.qkv\.(?:weight|bias))", rf"{BLOCK}\2", ""),
    DECODER,
    HEAD,
]
VIDEO: list[Rule] = [
    *COMMON,
    (r"(pos_embed_(?:spatial|temporal|class))", r"\1", ""),
    (r"blocks\.(\d+)\.attn\.q\.(weight|bias)", rf"{BLOCK}attn.query.\2", ""),
    (r"blocks\.(\d+)\.attn\.k\.(weight|bias)", rf"{BLOCK}attn.key.\2", ""),
    (r"blocks\.(\d+)\.attn\.v\.(weight|bias)", rf"{BLOCK}attn.value.\2", ""),
    DECODER,
    HEAD,
]
LAYER = r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\."
TRANSFORMERS: list[Rule] = [
    (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.(weight|bias)", r"encoder.embed.\1", ""),
    (r"(?:vit\.)?embeddings\.(cls_token)", r"\1", ""),
    (r"(?:vit\.)?embeddings\.position_embeddings", "pos_embed", ""),
    (r"(?:vit\.)?layernorm\.(weight|bias)", r"encoder.norm.\1", ""),
    (rf"{LAYER}attention\.attention\.((?:query|key|value)\.(?:weight|bias))", rf"{BLOCK}attn.\2", ""),
    (rf"{LAYER}attention\.q_proj\.(weight|bias)", rf"{BLOCK}attn.query.\2", ""),
    (rf"{LAYER}attention\.k_proj\.(weight|bias)", rf"{BLOCK}attn.key.\2", ""),
    (rf"{LAYER}attention\.v_proj\.(weight|bias)", rf"{BLOCK}attn.value.\2", ""),
    (rf"{LAYER}attention\.(?:output\.dense|o_proj)\.(weight|bias)", rf"{BLOCK}attn.proj.\2", ""),
    (rf"{LAYER}(?:intermediate\.dense|mlp\.fc1)\.(weight|bias)", rf"{BLOCK}mlp.fc1.\2", ""),
    (rf"{LAYER}(?:output\.dense|mlp\.fc2)\.(weight|bias)", rf"{BLOCK}mlp.fc2.\2", ""),
    (rf"{LAYER}layernorm_before\.(weight|bias)", rf"{BLOCK}norm1.\2", ""),
    (rf"{LAYER}layernorm_after\.(weight|bias)", rf"{BLOCK}norm2.\2", ""),
    DECODER,
    (r"(?:vit\.)?(?:classifier|pooler)\..*", None, HEAD[2]),
]
ST = [0.45] * 3, [0.225] * 3  # what MAE-ST's code takes for mean and deviation of all colours


def is_mae(state: dict[str, Tensor]) -> bool:
    """Whether names are of MAE, timm's ViT, MAE-ST or transformers' ViTMAE."""
    kernel = next((value for name, value in state.items() if embeds(name)), None)
    if kernel is None:
        return False
    return "pos_embed_spatial" in state or (kernel.ndim == 4 and any("pos" in name for name in state))


def from_mae(archive: Archive, asked: Asked) -> Found:
    """The encoder of such a file.

    Raises:
        ValueError: something that is not on the list, missing, or of an unknown shape.
    """
    names, config = archive.state, archive.config
    theirs, kernel = next((name, value) for name, value in names.items() if embeds(name))
    if "pos_embed_spatial" in names:
        report, rules = begun(archive, "MAE-ST"), VIDEO
    elif "patch_embeddings" in theirs:
        report, rules = begun(archive, "transformers' ViT of images"), TRANSFORMERS
    else:
        report, rules = begun(archive, "MAE or timm's ViT of images"), IMAGES
    same_arithmetic(archive, report)
    state = fused(renamed(names, rules, report), report)
    patch = cube(kernel)
    cubes(state, "encoder.embed.weight", report)
    heads = asked.heads or config.get("num_attention_heads") or (config.get("model_args") or {}).get("num_heads")
    encoder, _ = geometry(state, patch, Asked(heads=heads), report)
    shapes = {"hidden_size": encoder.width, "num_hidden_layers": encoder.depth, "intermediate_size": encoder.hidden}
    agreeing(archive, shapes | {"patch_size": patch[1], "num_channels": kernel.shape[1]})
    placed = separable if rules is VIDEO else flat
    encoder, trained = placed(state, encoder, report)
    seen = ST if rules is VIDEO else pixels(archive, kernel.shape[1])
    if seen is None:
        report.notes.append("images normalised by ImageNet's mean and deviation are assumed; the file does not say")
    else:
        restated(state, *seen, report)
    return Found(
        state,
        encoder,
        None,
        asked.frames or trained.T * patch[0],
        asked.size or (trained.H * patch[1], trained.W * patch[2]),
        report,
        channels=kernel.shape[1],
        normed="encoder.norm.weight" in state or "fc_norm.weight" not in names,
        trained=trained,
    )


def flat(state: dict[str, Tensor], encoder: Encoder, report: Report) -> tuple[Encoder, Grid]:
    """Takes the positions of an image, one table for all, into ours, in `state`; the encoder and the grid they tell.

    Raises:
        ValueError: there are none, or not those of a square.
    """
    if "pos_embed" not in state:
        raise ValueError(f"{report.path} ({report.format}) has no positions")
    table, token = state.pop("pos_embed")[0], state.pop("cls_token", None)
    side = math.isqrt(len(table))
    if token is not None and side * side != len(table):  # else it has no place in the table
        state["encoder.class_token"] = token.flatten() + table[0]
        report.mark("reshaped", "with its position", "cls_token")
        table, side = table[1:], math.isqrt(len(table) - 1)
    elif token is not None:
        state["encoder.class_token"] = token.flatten()
    if side * side != len(table):
        raise ValueError(f"{report.path}: {len(table)} positions are not those of a square image; only such are read")
    grid = Grid(1, side, side, encoder.patch)
    if is_plane(table, grid):
        report.mark("left out", "MAE's fixed positions, which are computed", "pos_embed")
        return replace(encoder, position="plane", class_token=token is not None), grid
    state["encoder.position.place"], state["encoder.position.slot"] = table, torch.zeros(1, encoder.width)
    report.mark("reshaped", "positions of an image are the places of a slot", "pos_embed")
    return replace(encoder, position="learned", class_token=token is not None), grid


def separable(state: dict[str, Tensor], encoder: Encoder, report: Report) -> tuple[Encoder, Grid]:
    """The same of positions in space and in time.

    Raises:
        ValueError: one of the two is missing, or they are not those of a square.
    """
    if "pos_embed_temporal" not in state:
        raise ValueError(f"{report.path} ({report.format}) lacks pos_embed_temporal")
    place, slot = state.pop("pos_embed_spatial")[0], state.pop("pos_embed_temporal")[0]
    token, of = state.pop("cls_token", None), state.pop("pos_embed_class", None)
    if token is not None:
        state["encoder.class_token"] = token.flatten() + (0 if of is None else of.flatten())
        report.mark("reshaped", "a class token with its position", "cls_token", "pos_embed_class")
    side = math.isqrt(len(place))
    if side * side != len(place):
        raise ValueError(f"{report.path}: {len(place)} positions are not those of a square video; only such are read")
    state["encoder.position.place"], state["encoder.position.slot"] = place, slot
    encoder = replace(encoder, position="learned", class_token=token is not None)
    return encoder, Grid(len(slot), side, side, encoder.patch)
