"""The layout of VideoMAE's released checkpoints: names and shapes as its models have them, for S and B."""

from dataclasses import replace

import pytest
import torch
from runs import finetuning, pretraining, saved
from torch.nn import functional as F

from tubelet.config import preset
from tubelet.export.official import to_official, write_official
from tubelet.methods.videomae import DECODERS
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import SIZES
from tubelet.targets import inputs
from tubelet.types import Grid


def block(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a block of the released models."""
    hidden = 4 * width
    shapes = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.q_bias": (width,),
        "attn.v_bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
    }
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def backbone(prefix: str, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{prefix}patch_embed.proj.weight": (width, 3, 2, 16, 16), f"{prefix}patch_embed.proj.bias": (width,)}
    for number in range(depth):
        shapes |= block(f"{prefix}blocks.{number}", width)
    return shapes


def manifest(width: int, narrow: int) -> dict[str, tuple[int, ...]]:
    """A pre-training checkpoint: 12 blocks, 4 in the decoder."""
    shapes = backbone("encoder.", width, 12) | {"encoder.norm.weight": (width,), "encoder.norm.bias": (width,)}
    shapes |= {"encoder_to_decoder.weight": (narrow, width), "mask_token": (1, 1, narrow)}
    for number in range(4):
        shapes |= block(f"decoder.blocks.{number}", narrow)
    shapes |= {"decoder.norm.weight": (narrow,), "decoder.norm.bias": (narrow,)}
    return shapes | {"decoder.head.weight": (1536, narrow), "decoder.head.bias": (1536,)}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


# Totals that the released code prints, or that follow from it.
TOTALS = {"s": (384, 192, 24_029_376, 22_033_936), "b": (768, 384, 94_210_944, 86_534_800)}


@pytest.mark.parametrize("size", TOTALS)
def test_names_and_shapes_are_those_of_the_released_models(size):
    width, narrow, pretrained, tuned = TOTALS[size]
    run = preset(f"videomae-k400-{size}")
    assert (run.encoder, run.method.decoder) == (SIZES[size], DECODERS[size])
    with torch.device("meta"):
        method = run.method.build(run.encoder, Grid(8, 14, 14), 3)
        network = Classifier(run.encoder.build(Grid(8, 14, 14), 3), 400)

    state = to_official(method.state_dict(), run.encoder.patch, tuned=False)
    assert shapes_of(state) == manifest(width, narrow)
    assert sum(tensor.numel() for tensor in state.values()) == pretrained

    state = to_official(network.state_dict(), run.encoder.patch, tuned=True)
    head = {"fc_norm.weight": (width,), "fc_norm.bias": (width,), "head.weight": (400, width), "head.bias": (400,)}
    assert shapes_of(state) == backbone("", width, 12) | head
    assert sum(tensor.numel() for tensor in state.values()) == tuned


@torch.no_grad()
def forward(state: dict[str, torch.Tensor], video: torch.Tensor, heads: int, depth: int) -> torch.Tensor:
    """Logits of the released fine-tuning model, written from its description."""
    x = F.conv3d(video, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(3, 8, 8))
    x = x.flatten(2).transpose(1, 2)
    width = x.shape[2]
    place, column = torch.arange(x.shape[1]).double()[:, None], torch.arange(width)
    angle = place / 10000 ** (2 * (column // 2) / width)
    x = x + torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()
    for number in range(depth):
        own = {name.removeprefix(f"blocks.{number}."): value for name, value in state.items()}
        y = F.layer_norm(x, (width,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        bias = torch.cat([own["attn.q_bias"], torch.zeros(width), own["attn.v_bias"]])
        q, k, v = F.linear(y, own["attn.qkv.weight"], bias).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        y = (q * (width // heads) ** -0.5 @ k.transpose(2, 3)).softmax(3) @ v
        x = x + F.linear(y.transpose(1, 2).flatten(2), own["attn.proj.weight"], own["attn.proj.bias"])
        y = F.layer_norm(x, (width,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        x = x + F.linear(y, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    x = F.layer_norm(x.mean(1), (width,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)
    return F.linear(x, state["head.weight"], state["head.bias"])


@torch.no_grad()
def test_a_file_gives_our_logits_by_the_released_forward_pass(tmp_path):
    run = finetuning()
    folder, ours = saved(run, tmp_path / "run")
    write_official(folder, tmp_path / "tuned.pth")
    file = torch.load(tmp_path / "tuned.pth", weights_only=True)
    assert list(file) == ["model"]
    video = torch.randint(0, 256, (2, 3, 9, 40, 40), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    found = forward(file["model"], (video / 255 - mean) / std, heads=5, depth=3)
    torch.testing.assert_close(found, ours.network(inputs(video, run.encoder.patch)), rtol=1e-5, atol=1e-5)


def test_parts_of_a_pre_trained_run(tmp_path):
    folder, ours = saved(pretraining(), tmp_path / "run")
    write_official(folder, tmp_path / "whole.pth")
    write_official(folder, tmp_path / "encoder.pth", "encoder")
    whole, encoder = (torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"] for name in ("whole", "encoder"))
    assert set(encoder) == {name for name in whole if name.startswith("encoder.")}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in encoder.items())
    assert torch.equal(whole["decoder.head.weight"], ours.decoder.head.weight)


def test_what_it_has_no_word_for_is_refused(tmp_path):
    run = pretraining()
    folder, _ = saved(replace(run, encoder=replace(run.encoder, position="plane")), tmp_path / "run")
    with pytest.raises(ValueError, match=r"encoder\.position plane"):
        write_official(folder, tmp_path / "a.pth")
    folder, _ = saved(run, tmp_path / "other")
    (tmp_path / "there.pth").write_text("mine")
    for name in ("there.pth", "a.safetensors"):
        with pytest.raises(ValueError, match=name):
            write_official(folder, tmp_path / name)
