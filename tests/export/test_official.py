"""The layout of VideoMAE's released checkpoints: names and shapes as its models have them, for S and B."""

from dataclasses import replace

import pytest
import torch
from runs import finetuning, pretraining, saved
from torch.nn import functional as F

from tubelet.export.official import write_official
from tubelet.targets import inputs


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
