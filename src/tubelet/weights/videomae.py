"""The layout of VideoMAE's released code, which V2, MGMAE and VideoMAE-Action-Detection share.

VideoMAE arXiv:2203.12602, VideoMAE V2 arXiv:2303.16727, MGMAE arXiv:2308.10794. Names and shapes as their code makes
them; the sinusoids are not in the files.
"""

from torch import Tensor

from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import SIZES, Encoder
from tubelet.targets import ALPHACTION
from tubelet.weights.archive import Archive
from tubelet.weights.args import told_by
from tubelet.weights.attention import heads_of
from tubelet.weights.beside import pixels
from tubelet.weights.found import Asked, Found, begun, cubes, depth_of, grid_if, headless, masking, picked, restated
from tubelet.weights.names import BOTH, Pair, reading
from tubelet.weights.report import Report, Rule, renamed

# Of a block, whose names are ours.
INNER = r"\.(?:(?:norm[12]|attn\.proj|mlp\.fc[12])\.(?:weight|bias)|attn\.(?:qkv\.weight|q_bias|v_bias))"
PRETRAINED: list[Pair] = [
    ("encoder.embed", "encoder.patch_embed.proj", BOTH),
    ("encoder.blocks.#", "encoder.blocks.#", INNER),
    ("encoder.norm", "encoder.norm", BOTH),
    ("decoder.bridge", "encoder_to_decoder", r"\.weight"),
    ("decoder.mask_token", "mask_token", ""),
    ("decoder.blocks.#", "decoder.blocks.#", INNER),
    ("decoder.norm", "decoder.norm", BOTH),
    ("decoder.head", "decoder.head", BOTH),
]
ENCODER = PRETRAINED[:3]
BARE: list[Pair] = [(ours, theirs.removeprefix("encoder."), end) for ours, theirs, end in ENCODER]
FINETUNED: list[Pair] = [*BARE[:2], ("norm", "fc_norm", BOTH), ("head", "head", BOTH)]
BOXES: Rule = (r"head\.(?:weight|bias)", None, "a head for people in boxes, which is not of whole clips")
ACTIONS = 80  # of AVA, that VideoMAE-Action-Detection tells


def is_videomae(state: dict[str, Tensor]) -> bool:
    """Whether names are of this layout: its own embedding, and biases of queries in the blocks."""
    return any(name.endswith("blocks.0.attn.q_bias") for name in state) and any(
        name in state for name in ("encoder.patch_embed.proj.weight", "patch_embed.proj.weight")
    )


def from_videomae(archive: Archive, asked: Asked) -> Found:
    """Weights in the layout of VideoMAE's code.

    Raises:
        ValueError: something that is not on the list, missing, or of an unknown shape.
    """
    names = archive.state
    report, boxes = begun(archive, "VideoMAE"), False
    if "encoder.patch_embed.proj.weight" in names:
        report.format, pairs = "VideoMAE, pre-trained", PRETRAINED
        if "decoder.head.weight" not in names:
            report.format, pairs = "VideoMAE, encoder of a pre-training", ENCODER
    elif "fc_norm.weight" in names:
        report.format, pairs = "VideoMAE, fine-tuned", FINETUNED
        if "head.weight" not in names:
            report.format = "VideoMAE, encoder of a fine-tuning"
    elif "head.weight" in names:
        report.format, pairs, boxes = "VideoMAE-Action-Detection", BARE, True
        if (rows := len(names["head.weight"])) != ACTIONS:
            raise ValueError(
                f"{report.path} has a head of {rows} outputs and no fc_norm: it is neither of VideoMAE's fine-tuned "
                f"model, which norms the mean of tokens, nor of VideoMAE-Action-Detection's, which has {ACTIONS} "
                "outputs; is it whole?"
            )
    else:
        report.format, pairs = "VideoMAE, encoder", BARE
    state = renamed(names, [*reading(pairs), *([BOXES] if boxes else [])], report)
    headless(state, report)
    patch = cubes(state, "encoder.embed.weight", report)
    masking(state, report)
    encoder, decoder = geometry(state, patch, asked, report)
    channels = state["encoder.embed.weight"].shape[1] // (patch[0] * patch[1] * patch[2])
    classes = len(names["head.weight"]) if "head.weight" in names else None
    told = told_by(archive.args, patch, decoder.depth if decoder else None, classes, report)
    labels = picked(state, asked, (), report) if "head.weight" in state else ()
    if boxes:
        restated(state, list(ALPHACTION[0]), list(ALPHACTION[1]), report)
    elif (seen := pixels(archive, channels)) is not None:  # in a folder of the hub
        restated(state, *seen, report)
    trained, shape = told.frames or 16, told.size or (224, 224)
    assumed = ["16 frames"] * (asked.frames is None and told.frames is None)
    assumed += ["224x224"] * (asked.size is None and told.size is None)
    if assumed:
        report.notes.append(f"clips of {', '.join(assumed)}, as of every released model; the file does not say")
    normed = pairs in (PRETRAINED, ENCODER) or boxes or "encoder.norm.weight" in state  # a fine-tuning's may have none
    return Found(
        state,
        encoder,
        decoder,
        asked.frames or trained,
        asked.size or shape,
        report,
        labels,
        normalised=told.normalised,
        channels=channels,
        trained=grid_if(trained, shape, patch),
        normed=normed,
        clip=told.clip(asked.frames or trained),
    )


def geometry(
    state: dict[str, Tensor], patch: tuple[int, int, int], asked: Asked, report: Report
) -> tuple[Encoder, Decoder | None]:
    """Encoder and decoder from the shapes of a state in our names; which release that is goes into the report.

    Raises:
        ValueError: tensors that tell the shape are missing.
    """
    lost = [f"encoder.{name}" for name in ("blocks.0.mlp.fc1.weight", "embed.bias") if f"encoder.{name}" not in state]
    if "decoder.head.weight" in state:
        lost += [name for name in ("decoder.bridge.weight", "decoder.blocks.0.mlp.fc1.weight") if name not in state]
    if lost:
        raise ValueError(f"{report.path} ({report.format}) lacks {', '.join(lost)}, which tell its shape; is it whole?")
    hidden, width = state["encoder.blocks.0.mlp.fc1.weight"].shape
    encoder = Encoder(width, depth_of(state, "encoder.blocks."), heads_of(width, asked.heads, report), hidden, patch)
    known = next((name for name, shape in SIZES.items() if shape == encoder), None)
    report.format += (
        f": ViT-{known.upper() if known != 'g' else known}" if known else f": {width} wide, {encoder.depth} deep"
    )
    if "decoder.head.weight" not in state:
        return encoder, None
    inner, narrow = state["decoder.blocks.0.mlp.fc1.weight"].shape
    depth = depth_of(state, "decoder.blocks.")
    decoder = Decoder(narrow, depth, heads_of(narrow, None, report, "heads in the decoder"), ratio(inner, narrow))
    report.format += f", decoder of {depth} blocks of {narrow} ({release(known, decoder)})"
    return encoder, decoder


def ratio(hidden: int, width: int) -> float:
    """The ratio that `Decoder.hidden` makes `hidden` of again."""
    exact = hidden / width
    return next(value for value in (exact, 48 / 11, (hidden + 0.5) / width) if int(value * width) == hidden)


def release(known: str | None, decoder: Decoder) -> str:
    """Whose decoder it is: those of V1 and V2 differ for the large encoders, whose own weights do not."""
    first = {"s": (192, 4), "b": (384, 4), "l": (512, 12), "h": (640, 12)}
    second = {"s": (192, 4), "b": (384, 4), "l": (512, 4), "h": (512, 4), "g": (512, 4)}
    shape = decoder.width, decoder.depth
    is_first, is_second = (known is not None and table.get(known) == shape for table in (first, second))
    if is_first and is_second:
        return "as of VideoMAE V1 and V2"
    return "as of VideoMAE V1" if is_first else "as of VideoMAE V2" if is_second else "of no released size"
