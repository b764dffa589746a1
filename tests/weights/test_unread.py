"""What cannot be read is refused by its name: each mark in a file that would be read without it."""

import pytest
import torch
from manifests import finetuned, noise
from safetensors.torch import save_file

import tubelet

TINY = (64, 1, 128, 3)
ONE = torch.ones(4)
MARKS = {
    "LayerScale": [
        "blocks.0.gamma_1",
        "blocks.0.ls1.gamma",
        "encoder.layer.0.layer_scale1.lambda1",
        "blocks.0.lambda_1",
    ],
    "register tokens": ["register_tokens", "embeddings.register_tokens", "reg_token", "storage_tokens"],
    "cosine attention": ["blocks.0.attn.scale", "blocks.0.attn.logit_scale"],
    "norms of queries and keys": ["blocks.0.attn.q_norm.weight"],
    "a gated MLP": ["blocks.0.mlp.w12.weight", "blocks.0.mlp.fc3.weight"],
    "norms and embeddings of V-JEPA 2.1": ["norms_block.3.weight", "video_mod_embed", "patch_embed_img.proj.weight"],
    "quantised weights": ["blocks.0.mlp.fc1.SCB", "blocks.0.mlp.fc1.qweight", "blocks.0.attn.qkv.weight_scale"],
}


def test_the_file_is_read_without_a_mark(tmp_path):
    save_file(noise(finetuned(*TINY)), tmp_path / "w.safetensors")
    tubelet.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, names in MARKS.items() for name in names])
def test_a_mark_is_named(tmp_path, what, name):
    save_file(noise(finetuned(*TINY)) | {name: ONE}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"has {what}.* which tubelet's networks have not"):
        tubelet.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_matrices_of_eight_bits_are_quantised_weights(tmp_path, dtype):
    state = noise(finetuned(*TINY))
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].to(dtype)
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"quantised weights \(torch\..*blocks.\*.mlp.fc1.weight\)"):
        tubelet.load(tmp_path / "w.pth")
