"""transformers' VideoMAE, in all layouts that its releases wrote, with the config.json beside it.

Biases of queries and values are `q_bias`, `v_bias` (files of every release), or `query.bias`, `value.bias` and perhaps
`key.bias` (modules of release 5); or all of it is fused as in VideoMAE's own code.
"""

from typing import Any

from torch import Tensor

from tubelet.weights.archive import Archive
from tubelet.weights.attention import fused, heads_of
from tubelet.weights.beside import agreeing, pixels, same_arithmetic
from tubelet.weights.found import Asked, Found, begun, cube, cubes, embeds, grid_if, headless, masking, picked, restated
from tubelet.weights.names import BOTH, Pair, reading
from tubelet.weights.report import Report, renamed
from tubelet.weights.videomae import geometry


def blocks(ours: str, theirs: str) -> list[Pair]:
    """The names in the blocks of an encoder or a decoder."""
    return [
        (f"{ours}.#.{inner}", f"{theirs}.#.{new}", end)
        for inner, new, end in (
            ("attn", "attention.attention", r"\.(?:q_bias|v_bias|qkv\.weight|(?:query|key|value)\.(?:weight|bias))"),
            ("attn.proj", "attention.output.dense", BOTH),
            ("mlp.fc1", "intermediate.dense", BOTH),
            ("mlp.fc2", "output.dense", BOTH),
            ("norm1", "layernorm_before", BOTH),
            ("norm2", "layernorm_after", BOTH),
        )
    ]


PREFIX = "videomae."  # of an encoder's names, if there is more than an encoder
PAIRS: list[Pair] = [
    ("encoder.embed", f"{PREFIX}embeddings.patch_embeddings.projection", BOTH),
    *blocks("encoder.blocks", f"{PREFIX}encoder.layer"),
    ("encoder.norm", f"{PREFIX}layernorm", BOTH),
    ("decoder.bridge", "encoder_to_decoder", r"\.weight"),
    ("decoder.mask_token", "mask_token", ""),
    *blocks("decoder.blocks", "decoder.decoder_layers"),
    ("decoder.norm", "decoder.norm", BOTH),
    ("decoder.head", "decoder.head", BOTH),
    ("norm", "fc_norm", BOTH),
    ("head", "classifier", BOTH),
]


def is_hugging_face(state: dict[str, Tensor]) -> bool:
    """Whether names are those of transformers' VideoMAE."""
    return any(
        name.removeprefix(PREFIX) == "embeddings.patch_embeddings.projection.weight" and value.ndim == 5
        for name, value in state.items()
    ) and any("encoder.layer.0.attention.attention." in name for name in state)


def translated(state: dict[str, Tensor], report: Report) -> dict[str, Tensor]:
    """The state dict of a `MaskedAutoencoder`, a `Classifier` or an encoder ("encoder.*") from that of transformers.

    Raises:
        ValueError: a name that is not on the list, or a tensor that is missing.
    """
    ours = fused(renamed(state, reading(PAIRS, PREFIX), report), report)
    cubes(ours, "encoder.embed.weight", report)
    masking(ours, report)
    return ours


def from_hugging_face(archive: Archive, asked: Asked) -> Found:
    """Weights of `VideoMAEForPreTraining`, `VideoMAEForVideoClassification` or `VideoMAEModel`.

    Raises:
        ValueError: something that is not on the list, missing or contradicted by the config; a head that reads the
            first token; or a ViT-S of 16 heads.
    """
    names, config = archive.state, archive.config
    report = begun(archive, "transformers' VideoMAE")
    if "classifier.weight" in names:
        pooled(archive)
    state = translated(names, report)
    headless(state, report)
    layout = next(
        (
            kind
            for mark, kind in (("qkv.weight", "fused"), ("q_bias", "q_bias"), ("query.bias", "query.bias"))
            if any(name.endswith(mark) for name in names)
        ),
        "no biases",
    )
    report.format += f" ({layout})"
    same_arithmetic(archive, report)
    kernel = next(value for name, value in names.items() if embeds(name))
    patch, width = cube(kernel), len(kernel)
    heads = asked.heads or heads_told(config, width, report)
    if heads != config.get("num_attention_heads", heads):
        report.notes.append(f"{heads} heads, as asked for; its config.json says {config['num_attention_heads']}")
    encoder, decoder = geometry(state, patch, Asked(heads=heads), report)
    if decoder is not None and "decoder_num_attention_heads" in config:
        told = int(config["decoder_num_attention_heads"])
        decoder = type(decoder)(decoder.width, decoder.depth, heads_of(decoder.width, told, report), decoder.mlp_ratio)
        report.notes = [line for line in report.notes if "heads in the decoder" not in line]
    channels = state["encoder.embed.weight"].shape[1] // (patch[0] * patch[1] * patch[2])
    shapes = {"hidden_size": width, "num_hidden_layers": encoder.depth, "intermediate_size": encoder.hidden}
    shapes |= {"patch_size": patch[1], "tubelet_size": patch[0], "num_channels": channels}
    if decoder is not None:
        shapes |= {"decoder_hidden_size": decoder.width, "decoder_num_hidden_layers": decoder.depth}
        shapes |= {"decoder_intermediate_size": decoder.hidden}
    agreeing(archive, shapes)
    known = config.get("num_frames", 16), config.get("image_size", 224)
    if not config:
        report.notes.append("no config.json beside it: clips of 16 frames, 224x224 are assumed")
    height, across = (known[1], known[1]) if isinstance(known[1], int) else known[1]
    labels = picked(state, asked, labels_of(config), report) if "head.weight" in state else ()
    if (seen := pixels(archive, channels)) is None:
        report.notes.append("clips normalised by ImageNet's mean and deviation are assumed, as of the released models")
    elif restated(state, *seen, report) and decoder is not None and config.get("norm_pix_loss") is False:
        report.notes.append(
            "its decoder was trained on pixels that transformers restates by ImageNet's numbers, whatever they were "
            "normalised by: colours that it imagines are off"
        )
    return Found(
        state,
        encoder,
        decoder,
        asked.frames or known[0],
        asked.size or (height, across),
        report,
        labels,
        normalised=config.get("norm_pix_loss", True if config else None),
        channels=channels,
        normed="encoder.norm.weight" in state or not config.get("use_mean_pooling", True),
        trained=grid_if(known[0], (height, across), patch),
    )


def pooled(archive: Archive) -> None:
    """Checks that a head reads the mean of all tokens, behind a norm, as ours does.

    Raises:
        ValueError: it reads the first token, or the norm is missing.
    """
    if archive.config.get("use_mean_pooling", True) is False:
        raise ValueError(
            f"{archive.path}: its config.json says use_mean_pooling false, so its head (classifier) reads the first "
            "token alone, as if it were a class token; ours reads the mean of all. To use its encoder, take "
            "classifier.weight and classifier.bias out of the file"
        )
    if lost := [name for name in ("fc_norm.weight", "fc_norm.bias") if name not in archive.state]:
        raise ValueError(
            f"{archive.path} has a head (classifier) but lacks {' and '.join(lost)}, which norms the mean of tokens "
            "that the head reads (use_mean_pooling is true); is it whole?"
        )


def heads_told(config: dict[str, Any], width: int, report: Report) -> int | None:
    """The heads that a config.json tells.

    Raises:
        ValueError: a ViT-S of 16 heads, which may be a slip.
    """
    heads = config.get("num_attention_heads")
    if heads == 16 and width == 384:
        raise ValueError(
            f"{report.path}: its config.json says 16 heads for a width of 384. VideoMAE's ViT-S has 6, but "
            "transformers' converter wrote 16 into the folders that it made of it, whose outputs are wrong then. Say "
            "which it is: --heads 6 for the released weights, --heads 16 for a model that was trained so"
        )
    return heads


def labels_of(config: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in order, where a config tells them."""
    names = config.get("id2label") or {}
    return tuple(str(names[key]) for key in sorted(names, key=int))
