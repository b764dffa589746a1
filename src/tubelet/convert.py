"""Other people's state dicts in our names: one table a format."""

import re

import torch
from torch import Tensor

# transformers' VideoMAEForPreTraining and VideoMAEForVideoClassification, from release 5.18 on; `query`, `key` and
# `value` are fused below.
HUGGING_FACE = {
    r"videomae\.embeddings\.patch_embeddings\.projection\.": "encoder.embed.",
    r"videomae\.encoder\.layer\.": "encoder.blocks.",
    r"videomae\.layernorm\.": "encoder.norm.",
    r"encoder_to_decoder\.": "decoder.bridge.",
    r"decoder\.decoder_layers\.": "decoder.blocks.",
    r"attention\.attention\.query\.bias": "attn.q_bias",
    r"attention\.attention\.value\.bias": "attn.v_bias",
    r"attention\.attention\.": "attn.",
    r"attention\.output\.dense\.": "attn.proj.",
    r"intermediate\.dense\.": "mlp.fc1.",
    r"\boutput\.dense\.": "mlp.fc2.",
    r"layernorm_before\.": "norm1.",
    r"layernorm_after\.": "norm2.",
    r"^mask_token$": "decoder.mask_token",
    r"^fc_norm\.": "norm.",
    r"^classifier\.": "head.",
}


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `MaskedAutoencoder` from that of transformers' `VideoMAEForPreTraining`; or of a `Classifier`
    from `VideoMAEForVideoClassification`."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, replacement in HUGGING_FACE.items():
            name = re.sub(theirs, replacement, name)
        ours[name] = tensor
    for name in [name for name in ours if name.endswith("attn.query.weight")]:
        stem = name.removesuffix("query.weight")
        ours[f"{stem}qkv.weight"] = torch.cat([ours.pop(f"{stem}{part}.weight") for part in ("query", "key", "value")])
    # Conv3d's "d c pt ph pw" as a Linear over a cube's values, whose channel is the fastest axis
    ours["encoder.embed.weight"] = ours["encoder.embed.weight"].permute(0, 2, 3, 4, 1).flatten(1)
    if "decoder.mask_token" in ours:
        ours["decoder.mask_token"] = ours["decoder.mask_token"].flatten()
    return ours
