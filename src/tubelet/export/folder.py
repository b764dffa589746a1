"""The folder that transformers reads: model.safetensors, config.json, preprocessor_config.json, README.md.

Attention biases are called q_bias and v_bias, as on the hub: transformers 4 has them by these names, from 5.18 on it
translates them. In between, 5.6 to 5.17 leave them zero and only mention unexpected keys, so the outputs are wrong.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from tubelet.config import Run
from tubelet.export.card import card
from tubelet.export.trained import Part, Tell, Trained, noise, outputs, trained
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.attention import EPS
from tubelet.nn.classifier import Classifier
from tubelet.targets import statistics
from tubelet.train.checkpoint import atomically, void
from tubelet.weights.found import Asked
from tubelet.weights.hugging_face import PAIRS
from tubelet.weights.names import written
from tubelet.weights.report import Report

WARNING = (
    "transformers 5.6 to 5.17 read the attention biases of VideoMAE as zero and give wrong outputs without an error: "
    "use 4.x, or 5.18 and later"
)
THEIR_EPS = 1e-5  # of transformers' fc_norm and decoder.norm, whatever its config says
PARTS = "query", "key", "value"


def to_hugging_face(state: dict[str, Tensor], patch: tuple[int, int, int]) -> dict[str, Tensor]:
    """The state dict of transformers' VideoMAE from that of a `MaskedAutoencoder`, a `Classifier`, or an encoder whose
    names begin with "encoder."."""
    cut: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = tensor.chunk(3) if name.endswith("attn.qkv.weight") else ()
        cut |= {name.replace("qkv", part): rows.clone() for part, rows in zip(PARTS, parts)} or {name: tensor}
    return written(cut, PAIRS, patch)


def config_of(model: Trained) -> dict[str, Any]:
    """config.json. `qkv_bias` is what transformers up to 5.17 calls what is `qv_bias` from 5.18 on."""
    run, network = model.run, model.network
    e, (height, width) = run.encoder, run.data.size
    config: dict[str, Any] = {
        "model_type": "videomae",
        "architectures": [architecture(model)],
        "image_size": height if height == width else [height, width],
        "patch_size": e.patch[1],
        "num_channels": run.data.channels,
        "num_frames": run.data.clip.frames,
        "tubelet_size": e.patch[0],
        "hidden_size": e.width,
        "num_hidden_layers": e.depth,
        "num_attention_heads": e.heads,
        "intermediate_size": e.hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": EPS,
        "qkv_bias": True,
        "qv_bias": True,
        "use_mean_pooling": not model.normed,
    }
    if isinstance(network, MaskedAutoencoder):
        decoder = run.method.decoder
        config |= {
            "decoder_hidden_size": decoder.width,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": decoder.heads,
            "decoder_intermediate_size": decoder.hidden,
            "norm_pix_loss": run.method.target.normalise != "none",
        }
    if isinstance(network, Classifier):
        names, kind = named(network, run)
        config |= {
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": {"classes": "multi_label_classification", "values": "regression"}.get(
                kind, "single_label_classification"
            ),
        }
    return config


def architecture(model: Trained) -> str:
    """The class of transformers that it is for."""
    if isinstance(model.network, Classifier):
        return "VideoMAEForVideoClassification"
    return "VideoMAEForPreTraining" if isinstance(model.network, MaskedAutoencoder) else "VideoMAEModel"


def named(network: Classifier, run: Run) -> tuple[tuple[str, ...], str]:
    """The names of a network's outputs, and what kind of labels they are.

    Raises:
        ValueError: the run has not one name for each.
    """
    labels, count = run.data.labels, network.head.out_features
    if labels is None or len(labels.names) != count:
        raise ValueError(f"the run names {0 if labels is None else len(labels.names)} classes for {count} outputs")
    return labels.names, labels.kind


def preprocessor_of(run: Run) -> dict[str, Any]:
    """preprocessor_config.json: frames to the short side, the middle, ImageNet's statistics, as in `tubelet test`.

    Where clips are not square, frames are resized to their shape, which is the same only for frames of that shape:
    transformers has no way to cover one.
    """
    height, width = run.data.size
    mean, std = statistics(torch.zeros(run.data.channels), run.data.channels)
    square = height == width
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": height} if square else {"height": height, "width": width},
        "resample": 2,
        "do_center_crop": square,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(value, 6) for value in mean.tolist()],
        "image_std": [round(value, 6) for value in std.tolist()],
    }


def write_folder(
    path: Path | str,
    out: Path,
    part: Part | None = None,
    licence: str | None = None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    tell: Tell = Report.warn,
) -> list[str]:
    """Writes a run as a folder for transformers; what there is to say about it.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a setting that transformers' VideoMAE cannot express; names it. Or `out` is there already.
        SaveError: the disk refuses.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; choose another --out")
    model = trained(path, part, asked, tell)
    height, width = model.run.data.size
    notes = [model.note] * bool(model.note) + [WARNING]
    if height != width:
        notes.append(
            f"clips are {height}x{width}: transformers' processor squashes frames of another shape; crop them before"
        )
    notes += hard_coded(model)
    page = card(model, architecture(model), notes, licence)
    weights = to_safetensors(to_hugging_face(model.state(), model.run.encoder.patch), {"format": "pt"})
    texts = {"README.md": page, "preprocessor_config.json": as_text(preprocessor_of(model.run))}
    atomically(out / "model.safetensors", lambda file: void(file.write(weights)))
    for name, text in {**texts, "config.json": as_text(config_of(model))}.items():
        write_text(out / name, text)
    return notes


def as_text(value: dict[str, Any]) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    atomically(path, lambda file: void(file.write(text.encode())))


def hard_coded(model: Trained) -> list[str]:
    """How far transformers' outputs are off, as it has another epsilon in one norm; measured on a clip of noise."""
    network = model.network
    if isinstance(network, Classifier):
        norm, name = network.norm, "fc_norm"
    elif isinstance(network, MaskedAutoencoder):
        norm, name = network.decoder.norm, "decoder.norm"
    else:
        return []
    assert isinstance(norm, nn.LayerNorm)
    clip = noise(model.run, 1)
    ours = outputs(network, clip)
    norm.eps = THEIR_EPS
    theirs = outputs(network, clip)
    norm.eps = EPS
    off, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    return [
        f"transformers hard-codes the epsilon of {name}, {THEIR_EPS:g} instead of {EPS:g}: on a clip of noise outputs, "
        f"of up to {largest:.2g}, differ by up to {off:.1e}"
    ]
