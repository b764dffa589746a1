"""V-JEPA 2 in both layouts against transformers, V-JEPA against PyTorch's own layers; every tensor noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

import tubelet
from tubelet.cli import run as command
from tubelet.nn.patches import patchify, take
from tubelet.nn.vit import Encoder, ViT
from tubelet.targets import MEAN, STD, inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.weights.archive import Archive
from tubelet.weights.found import Asked
from tubelet.weights.load import found, network
from tubelet.weights.report import fits
from tubelet.weights.vjepa import from_vjepa

SHAPE = {
    "patch_size": 8,
    "crop_size": 24,
    "frames_per_clip": 6,
    "tubelet_size": 2,
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,  # of 20 channels: 6 for each axis, and 2 that are not turned
    "mlp_ratio": 2,
    "num_pooler_layers": 1,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 2,
}
CUBE = (2, 8, 8)


def model(kind=VJEPA2Model, **more):
    """A model of transformers whose tensors are noise, large enough that places matter."""
    theirs = kind(VJEPA2Config(**SHAPE | more)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
    return theirs


def clips(frames: int = 6, side: int = 24, mean=MEAN, std=STD) -> tuple[Tensor, Tensor]:
    """Two clips as bytes, and as transformers wants them."""
    rng = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (2, 3, frames, side, side), generator=rng, dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (mean, std))
    return video, ((video / 255 - mean) / std).transpose(1, 2)


def tokens(theirs, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return theirs.get_vision_features(pixels)


@pytest.mark.parametrize("kind", [VJEPA2Model, VJEPA2ForVideoClassification])
def test_a_folder_of_transformers_gives_the_same_tokens(tmp_path, kind):
    theirs = model(kind)
    theirs.save_pretrained(tmp_path)
    ours, report = network(tmp_path)
    assert isinstance(ours, ViT)
    video, pixels = clips()
    expected = tokens(getattr(theirs, "vjepa2", theirs), pixels)
    with torch.no_grad():
        found = ours(inputs(video, CUBE))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        ours.blocks[0].attn.k_bias.zero_()
        assert (ours(inputs(video, CUBE)) - found).abs().max() > 1e-3  # so it was not for nothing
    assert "a predictor of features" in str(report)
    assert "ImageNet's mean and deviation are assumed" in str(report)
    assert ("an attentive pooler" in str(report)) == (kind is VJEPA2ForVideoClassification)
    encoder, run = load_encoder(tmp_path)
    assert (run.encoder.position, run.encoder.heads, run.data.size, run.data.clip.frames) == ("rotary", 3, (24, 24), 6)
    assert torch.equal(encoder.blocks[1].mlp.fc2.weight, ours.blocks[1].mlp.fc2.weight)


def test_a_part_of_the_tokens_is_what_transformers_makes_of_it(tmp_path):
    theirs = model()
    theirs.save_pretrained(tmp_path)
    video, pixels = clips()
    ids = torch.stack([torch.randperm(27)[:11] for _ in range(2)])
    with torch.no_grad():
        expected = take(theirs.encoder.embeddings(pixels), ids)
        for layer in theirs.encoder.layer:
            expected = layer(expected, ids)[0]
        expected = theirs.encoder.layernorm(expected)
        found = tubelet.load(tmp_path)(take(inputs(video, CUBE), ids), ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_clips_of_another_size_are_as_if_it_had_been_made_for_them(tmp_path):
    theirs, other = model(), model(crop_size=40, frames_per_clip=4)
    theirs.save_pretrained(tmp_path)
    other.load_state_dict(theirs.state_dict())
    video, pixels = clips(4, 40)
    ours, report = network(tmp_path, Asked(frames=4, size=(40, 40)))
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs(video, CUBE)), tokens(other, pixels), rtol=1e-5, atol=1e-5)
    assert "computed anew" not in str(report)


def test_pixels_that_were_normalised_otherwise_give_the_same_tokens(tmp_path):
    theirs, half = model(), [0.5] * 3
    theirs.save_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"image_mean": half, "image_std": half}))
    video, pixels = clips(mean=half, std=half)
    with torch.no_grad():
        found = tubelet.load(tmp_path)(inputs(video, CUBE))
    torch.testing.assert_close(found, tokens(theirs, pixels), rtol=1e-4, atol=1e-5)


def official(theirs: nn.Module) -> dict[str, Tensor]:
    """The encoder of a model of transformers by the names of Meta's code."""
    state, found = theirs.encoder.state_dict(), {}
    for name in list(state):
        if name.endswith("query.weight"):
            stem = name.removesuffix("query.weight")
            for kind in ("weight", "bias"):
                parts = [state.pop(f"{stem}{part}.{kind}") for part in ("query", "key", "value")]
                state[f"{stem}qkv.{kind}"] = torch.cat(parts)
    for name, value in state.items():
        new = name.replace("layer.", "blocks.").replace("attention.", "attn.").replace("layernorm.", "norm.")
        found[new.replace("embeddings.patch_embeddings.", "patch_embed.")] = value.clone()
    return found


def checkpoint(state: dict[str, Tensor], path: Path) -> Path:
    """A training state as Meta's code writes it."""
    wrapped = {f"module.backbone.{name}": value for name, value in state.items()}
    student = {name: value + 1 for name, value in wrapped.items()}
    predictor = {"module.backbone.predictor_norm.weight": torch.ones(3)}
    torch.save({"encoder": student, "predictor": predictor, "target_encoder": wrapped, "epoch": 9, "lr": 0.1}, path)
    return path


def test_a_file_of_their_own_code_gives_the_same_tokens_and_goes_through_convert(tmp_path, capsys):
    theirs = model()
    file = checkpoint(official(theirs), tmp_path / "vitx.pt")
    words = ["--heads", "3", "--frames", "6", "--size", "24", "24"]
    assert command(["convert", str(file), str(tmp_path / "ours.safetensors"), *words]) == 0
    said = capsys.readouterr().out
    assert "V-JEPA 2: 60 wide, 2 deep" in said
    assert "read 'target_encoder'; beside it and not used: encoder, predictor" in said
    assert "rotary positions" in said
    video, pixels = clips()
    for path, asked in ((file, Asked(3, 6, (24, 24))), (tmp_path / "ours.safetensors", Asked())):
        with torch.no_grad():
            found = network(path, asked)[0](inputs(video, CUBE))
        torch.testing.assert_close(found, tokens(theirs, pixels), rtol=1e-5, atol=1e-5)
    assert load_encoder(tmp_path / "ours.safetensors")[1].encoder.position == "rotary"
    _, report = network(file)
    assert "1 heads" in str(report)
    assert "clips of 64 frames, 256x256" in str(report)


@pytest.mark.parametrize("layout", ["transformers", "their own"])
def test_every_value_of_both_layouts_comes_over_exact_to_the_bit(tmp_path, layout):
    theirs = model()
    w = official(theirs)
    theirs.save_pretrained(tmp_path)
    told = (checkpoint(w, tmp_path / "vit.pt"), Asked(3, 6, (24, 24))) if layout == "their own" else (tmp_path, Asked())
    state = found(*told).state
    kernel = w.pop("patch_embed.proj.weight")
    columns = [kernel[:, c, t, y, x] for t in range(2) for y in range(8) for x in range(8) for c in range(3)]
    assert torch.equal(state.pop("encoder.embed.weight"), torch.stack(columns, dim=1))
    assert torch.equal(state.pop("encoder.embed.bias"), w.pop("patch_embed.proj.bias"))
    for block in range(2):
        parts = w.pop(f"blocks.{block}.attn.qkv.bias").reshape(3, -1)
        for part, bias in zip("qkv", parts):
            assert torch.equal(state.pop(f"encoder.blocks.{block}.attn.{part}_bias"), bias)
    assert state.keys() == {f"encoder.{name}" for name in w}
    assert all(torch.equal(state[f"encoder.{name}"], value) for name, value in w.items())


@pytest.mark.parametrize("layout", ["transformers", "their own"])
@pytest.mark.parametrize(
    ("width", "depth", "heads", "ratio"),
    [(1024, 24, 16, 4), (1280, 32, 16, 4), (1408, 40, 22, 48 / 11)],
    ids=["L", "H", "g"],
)
def test_encoders_of_the_true_sizes_fit(layout, width, depth, heads, ratio):
    shape = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "mlp_ratio": ratio}
    with torch.device("meta"):
        theirs = VJEPA2Model(VJEPA2Config(**shape, pred_num_hidden_layers=1))
    state = theirs.state_dict() if layout == "transformers" else official(theirs)
    result = from_vjepa(Archive(Path("vit.pt"), state), Asked(frames=4, size=(32, 32)))
    assert result.encoder == Encoder(width, depth, heads, int(width * ratio), (2, 16, 16), "rotary")
    with torch.device("meta"):
        ours = result.encoder.build(result.grid, 3).state_dict()
    fits(result.state, {f"encoder.{name}": value for name, value in ours.items()}, result.report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "says hidden_act 'relu'; our MLPs have the exact GELU"),
        ({"num_hidden_layers": 3}, "contradict: num_hidden_layers 2 and 3"),
        ({"tubelet_size": 1}, "contradict: tubelet_size 2 and 1"),
        ({"qkv_bias": False}, "says qkv_bias false: its attention has no biases of queries"),
    ],
)
def test_a_config_that_says_otherwise_stops_the_load(tmp_path, change, message):
    model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        tubelet.load(tmp_path)


def test_every_tensor_is_on_the_list_or_nothing_is_loaded(tmp_path):
    model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"encoder.layer.0.more": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"not on the list of that format: encoder.layer.\*.more"):
        tubelet.load(tmp_path)
    state.pop("encoder.layer.1.attention.key.bias")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 of .* tensors: blocks.*.attn.k_bias"):
        tubelet.load(tmp_path)


# ---------------------------------------------------------------------------- V-JEPA, and tables of positions

WIDTH, PLACES = 1024, (8, 14, 14)  # the smallest that was released


def table(places: tuple[int, int, int], shares: tuple[int, int, int]) -> Tensor:
    """Sines, then cosines, of slot, row and column side by side, a token at a time."""
    rows = []
    for where in np.ndindex(*places):
        row = []
        for place, share in zip(where, shares):
            angle = place / 10000.0 ** (np.arange(share // 2) / (share / 2))
            row += [*np.sin(angle), *np.cos(angle)]
        rows.append(row)
    return torch.tensor(np.array(rows)[:, :WIDTH], dtype=torch.float32).unsqueeze(0)


@pytest.fixture(scope="module")
def large() -> dict[str, Tensor]:
    """A block of ViT-L by the names of Meta's code, without positions."""
    shapes = {
        "patch_embed.proj.weight": (WIDTH, 3, 2, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        **{
            f"{of}.{kind}": (WIDTH,)
            for of in ("norm", "blocks.0.norm1", "blocks.0.norm2")
            for kind in ("weight", "bias")
        },
        "blocks.0.attn.qkv.weight": (3 * WIDTH, WIDTH),
        "blocks.0.attn.qkv.bias": (3 * WIDTH,),
        "blocks.0.attn.proj.weight": (WIDTH, WIDTH),
        "blocks.0.attn.proj.bias": (WIDTH,),
        "blocks.0.mlp.fc1.weight": (4 * WIDTH, WIDTH),
        "blocks.0.mlp.fc1.bias": (4 * WIDTH,),
        "blocks.0.mlp.fc2.weight": (WIDTH, 4 * WIDTH),
        "blocks.0.mlp.fc2.bias": (WIDTH,),
    }
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) * 0.05 for name, shape in shapes.items()}


def by_torch(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """One block and the last norm, by PyTorch's own layer."""
    layer = nn.TransformerEncoderLayer(WIDTH, 16, 4 * WIDTH, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    layer.load_state_dict(
        {
            f"{ours}{kind}": state[f"blocks.0.{name}{kind}"]
            for ours, name in names.items()
            for kind in ("weight", "bias")
        }
    )
    return F.layer_norm(layer.eval()(x), (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)


@pytest.mark.parametrize("shares", [(342, 342, 342), (512, 256, 256)], ids=["alike", "half for time"])
def test_v_jepa_adds_its_table_and_its_bias_of_keys_does_nothing(tmp_path, large, shares):
    positions = table(PLACES, shares)
    file = checkpoint(large | {"pos_embed": positions}, tmp_path / "vitl16.pth.tar")
    ours, report = network(file)
    assert "V-JEPA: 1024 wide, 1 deep" in str(report)
    assert "which softmax cannot see" in str(report)
    assert "its positions were fixed" in str(report)
    assert (ours.grid.T, ours.grid.H, ours.grid.W) == PLACES
    video = torch.randint(0, 256, (1, 3, 16, 224, 224), dtype=torch.uint8)
    ids = torch.randperm(1568)[:40].unsqueeze(0)
    patches = take(inputs(video, (2, 16, 16)), ids)
    kernel = patchify(large["patch_embed.proj.weight"], (2, 16, 16)).flatten(1)  # one cube each, in our order
    with torch.no_grad():
        x = patches @ kernel.T + large["patch_embed.proj.bias"] + positions[0, ids]
        torch.testing.assert_close(ours(patches, ids), by_torch(large, x), rtol=1e-4, atol=1e-4)


def test_a_table_left_over_in_v_jepa_2_is_left_out(tmp_path, large):
    file = checkpoint(large | {"pos_embed": torch.ones(1, 2048, WIDTH)}, tmp_path / "vitl.pt")
    ours, report = network(file, Asked(frames=4, size=(32, 32)))
    assert "left out: 1, positions that V-JEPA 2 does not use" in str(report)
    plain = network(checkpoint(large, tmp_path / "without.pt"), Asked(frames=4, size=(32, 32)))[0]
    assert plain.state_dict().keys() == ours.state_dict().keys()
    assert "blocks.0.attn.k_bias" in plain.state_dict()


def test_a_table_that_may_be_either_stops_the_load(tmp_path, large):
    file = checkpoint(large | {"pos_embed": torch.ones(1, 96, WIDTH)}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=r"positions of shape \(1, 96, 1024\).*take pos_embed out"):
        tubelet.load(file)


def test_a_table_that_is_no_sum_of_slot_and_place_stops_the_load(tmp_path, large):
    file = checkpoint(large | {"pos_embed": torch.randn(1, 1568, WIDTH)}, tmp_path / "learnt.pt")
    with pytest.raises(ValueError, match="no sum of one for the slot and one for the place"):
        tubelet.load(file)
