"""Encoders with class tokens: ViTMAE gives the same tokens; MAE, timm and MAE-ST as their code names them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from manifests import noise
from safetensors.torch import load_file, save_file
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from tubelet.cli import run as command
from tubelet.nn.patches import Positions, patchify
from tubelet.nn.vit import SIZES, Encoder, ViT
from tubelet.targets import MEAN, STD, inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.types import Grid
from tubelet.weights.archive import Archive
from tubelet.weights.found import Asked
from tubelet.weights.load import found, network
from tubelet.weights.mae import from_mae
from tubelet.weights.report import fits

SHAPE = {
    "image_size": 40,
    "patch_size": 8,
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 100,
    "decoder_hidden_size": 24,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 32,
    "layer_norm_eps": 1e-6,
    "mask_ratio": 0.0,
}


def vit_mae(positions: bool) -> ViTMAEForPreTraining:
    """A model with noise in every tensor; its fixed positions too, or not."""
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**SHAPE)).eval()
    rng = torch.Generator().manual_seed(0)
    table = build_2d_sinusoidal_position_embedding(5, 5, 60, cls_token=True)
    with torch.no_grad():
        theirs.vit.embeddings.position_embeddings.copy_(table.roll(30, dims=1))  # across first, as released
        for name, parameter in theirs.named_parameters():
            if positions or "pos" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.1)
    return theirs


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Two still clips of one frame, and as transformers wants them."""
    video = torch.randint(0, 256, (2, 3, 1, 40, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return video, (video[:, :, 0] / 255 - mean) / std


@pytest.mark.parametrize("layout", ["saved", "of the module"])
@pytest.mark.parametrize("positions", [True, False], ids=["noise for positions", "fixed positions"])
def test_vit_mae_gives_the_same_tokens(tmp_path, layout, positions):
    theirs = vit_mae(positions)
    theirs.save_pretrained(tmp_path)
    if layout == "of the module":
        save_file({name: value.clone() for name, value in theirs.state_dict().items()}, tmp_path / "model.safetensors")
    ours, report = network(tmp_path)
    assert isinstance(ours, ViT)
    video, pixels = images()
    with torch.no_grad():
        expected = theirs.vit(pixels, noise=torch.arange(25.0).expand(2, -1)).last_hidden_state[:, 1:]
        torch.testing.assert_close(ours(inputs(video, (1, 8, 8))), expected, rtol=1e-5, atol=1e-5)
        tapped = ours(inputs(video, (1, 8, 8)), taps=(1, 3))
    torch.testing.assert_close(tapped[:, 25:], expected, rtol=1e-5, atol=1e-5)
    assert load_encoder(tmp_path)[1].encoder.position == ("learned" if positions else "plane")
    assert "decoder that puts tokens back in order" in str(report)
    assert "a bias of keys adds the same to all logits" in str(report)


@pytest.mark.parametrize("positions", [True, False], ids=["noise for positions", "fixed positions"])
def test_an_inflated_encoder_sees_a_film_that_stands_still_as_its_image(tmp_path, positions):
    vit_mae(positions).save_pretrained(tmp_path / "images")
    words = [
        "convert",
        str(tmp_path / "images"),
        str(tmp_path / "video.safetensors"),
        "--inflate",
        "2",
        "--frames",
        "2",
    ]
    assert command(words) == 0
    still, (film, run) = network(tmp_path / "images")[0], load_encoder(tmp_path / "video.safetensors")
    assert (run.encoder.patch, run.data.clip.frames, run.encoder.class_token) == ((2, 8, 8), 2, True)
    video, _ = images()
    with torch.no_grad():
        torch.testing.assert_close(
            film(inputs(video.expand(-1, -1, 2, -1, -1), (2, 8, 8))),
            still(inputs(video, (1, 8, 8))),
            rtol=1e-4,
            atol=1e-5,
        )


def image_names(width=24, depth=2, hidden=48, places=16, token=True, patch=8, **more) -> dict:
    """An encoder of images in the names of timm and MAE."""
    shapes = {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= {"cls_token": (1, 1, width)} if token else {}
    shapes |= {"pos_embed": (1, places + token, width), "norm.weight": (width,), "norm.bias": (width,)}
    for i in range(depth):
        for name, size in (("norm1", (width,)), ("norm2", (width,)), ("attn.qkv", (3 * width, width))):
            shapes |= {f"blocks.{i}.{name}.weight": size, f"blocks.{i}.{name}.bias": size[:1]}
        for name, size in (("attn.proj", (width, width)), ("mlp.fc1", (hidden, width)), ("mlp.fc2", (width, hidden))):
            shapes |= {f"blocks.{i}.{name}.weight": size, f"blocks.{i}.{name}.bias": size[:1]}
    return shapes | more


def mae_names(width=24, depth=2, hidden=48, places=16, patch=8, deep=1, narrow=12) -> dict:
    """The same of MAE, with its decoder."""
    decoder = image_names(narrow, deep, 4 * narrow, places, True, patch)
    kept = {name: size for name, size in decoder.items() if name.startswith(("blocks", "norm", "pos_embed"))}
    values = 3 * patch**2
    return image_names(width, depth, hidden, places, True, patch) | {
        "mask_token": (1, 1, narrow),
        "decoder_embed.weight": (narrow, width),
        "decoder_embed.bias": (narrow,),
        "decoder_pred.weight": (values, narrow),
        "decoder_pred.bias": (values,),
        **{f"decoder_{name}": size for name, size in kept.items()},
    }


def video_names(width=24, depth=2, hidden=48, places=16, slots=4, patch=8) -> dict:
    """An encoder in the names of MAE-ST, whose queries, keys and values are apart."""
    shapes = image_names(width, depth, hidden, places, True, patch)
    shapes = {name: size for name, size in shapes.items() if "qkv" not in name and name != "pos_embed"}
    shapes["patch_embed.proj.weight"] = (width, 3, 2, patch, patch)
    shapes |= {
        f"pos_embed_{of}": (1, count, width) for of, count in (("spatial", places), ("temporal", slots), ("class", 1))
    }
    for i in range(depth):
        for part in "qkv":
            shapes |= {f"blocks.{i}.attn.{part}.weight": (width, width), f"blocks.{i}.attn.{part}.bias": (width,)}
    return shapes


def attended(x, w, stem, heads, q, k, v):
    """Attention written out, with all biases."""
    parts = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v)]
    weights = torch.softmax(parts[0] @ parts[1].transpose(2, 3) / parts[0].shape[3] ** 0.5, dim=3)
    mixed = (weights @ parts[2]).transpose(1, 2).flatten(2)
    return F.linear(mixed, w[f"{stem}attn.proj.weight"], w[f"{stem}attn.proj.bias"])


def written_out(w, x, depth, heads):
    """A pre-norm transformer in the names of MAE, from its equations."""
    for i in range(depth):
        of = f"blocks.{i}."
        y = F.layer_norm(x, x.shape[2:], w[f"{of}norm1.weight"], w[f"{of}norm1.bias"], 1e-6)
        if f"{of}attn.qkv.weight" in w:
            q, k, v = F.linear(y, w[f"{of}attn.qkv.weight"], w[f"{of}attn.qkv.bias"]).chunk(3, dim=2)
        else:
            q, k, v = (F.linear(y, w[f"{of}attn.{p}.weight"], w[f"{of}attn.{p}.bias"]) for p in "qkv")
        x = x + attended(y, w, of, heads, q, k, v)
        y = F.layer_norm(x, x.shape[2:], w[f"{of}norm2.weight"], w[f"{of}norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, w[f"{of}mlp.fc1.weight"], w[f"{of}mlp.fc1.bias"]))
        x = x + F.linear(y, w[f"{of}mlp.fc2.weight"], w[f"{of}mlp.fc2.bias"])
    return F.layer_norm(x, x.shape[2:], w["norm.weight"], w["norm.bias"], 1e-6)


@pytest.mark.parametrize("token", [True, False], ids=["class token", "none"])
def test_timm_and_mae_encoders_give_the_tokens_of_their_equations(tmp_path, token):
    more = {"head.weight": (7, 24), "head.bias": (7,), "mask_token": (1, 1, 12), "decoder_embed.weight": (12, 24)}
    w = noise(image_names(token=token, **more))
    torch.save({"model": w}, tmp_path / "w.pth")
    ours, report = network(tmp_path / "w.pth", Asked(heads=3))
    pixels = torch.randn(2, 3, 32, 32)
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8).flatten(2).transpose(1, 2)
    if token:
        x = torch.cat([w["cls_token"].expand(2, -1, -1), x], dim=1)
    expected = written_out(w, x + w["pos_embed"], 2, 3)[:, int(token) :]
    with torch.no_grad():
        torch.testing.assert_close(ours(patchify(pixels.unsqueeze(2), (1, 8, 8))), expected, rtol=1e-4, atol=1e-5)
    assert report.tensors["head.bias"][0] == report.tensors["mask_token"][0] == "left out"
    assert report.tensors["blocks.1.attn.qkv.bias"][0] == "reshaped"
    assert sum(report.count(what) for what in ("matched", "reshaped", "left out")) == len(w)


def test_mae_st_gives_the_tokens_of_its_equations_from_our_pixels(tmp_path):
    w = noise(video_names() | {"decoder_pos_embed_class": (1, 1, 12), "decoder_blocks.0.norm1.weight": (12,)})
    torch.save({"model_state": w, "epoch": 99}, tmp_path / "w.pth")
    ours, report = network(tmp_path / "w.pth", Asked(heads=3))
    video = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    x = F.conv3d(
        (video / 255 - 0.45) / 0.225, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=(2, 8, 8)
    )
    x = x.flatten(2).transpose(1, 2)
    x = x + w["pos_embed_spatial"].repeat(1, 4, 1) + w["pos_embed_temporal"].repeat_interleave(16, dim=1)
    x = torch.cat([(w["cls_token"] + w["pos_embed_class"]).expand(2, -1, -1), x], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs(video, (2, 8, 8))), written_out(w, x, 2, 3)[:, 1:], rtol=1e-4, atol=2e-5)
    assert report.format.startswith("MAE-ST")
    longer, report = network(tmp_path / "w.pth", Asked(heads=3, frames=16, size=(48, 48)))
    assert longer.position().shape == (8 * 36, 24)
    assert "the learnt positions were interpolated from 4x4x4 to 8x6x6 tokens" in str(report)


def as_ours(w: dict, depth: int) -> dict:
    """What of an encoder in the names of MAE is ours, moved by hand: all but the embedding's matrix and positions."""
    ours = {f"encoder.norm.{end}": w[f"norm.{end}"] for end in ("weight", "bias")}
    ours["encoder.embed.bias"] = w["patch_embed.proj.bias"]
    for i in range(depth):
        of = f"blocks.{i}."
        for layer in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
            ours |= {f"encoder.{of}{layer}.{end}": w[f"{of}{layer}.{end}"] for end in ("weight", "bias")}
        if f"{of}attn.qkv.weight" in w:
            ours[f"encoder.{of}attn.qkv.weight"] = w[f"{of}attn.qkv.weight"]
            query, _, value = w[f"{of}attn.qkv.bias"].reshape(3, -1)
        else:
            ours[f"encoder.{of}attn.qkv.weight"] = torch.cat([w[f"{of}attn.{part}.weight"] for part in "qkv"])
            query, value = w[f"{of}attn.q.bias"], w[f"{of}attn.v.bias"]
        ours |= {f"encoder.{of}attn.q_bias": query, f"encoder.{of}attn.v_bias": value}
    return ours


ENCODERS = {
    "timm": image_names(**{"head.weight": (7, 24), "head.bias": (7,)}),
    "timm, no class token": image_names(token=False),
    "MAE": mae_names(),
    "MAE-ST": video_names(),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_value_of_an_encoder_comes_over_exact_to_the_bit(tmp_path, name):
    w = noise(ENCODERS[name])
    torch.save({"model": w}, tmp_path / "w.pth")
    result = found(tmp_path / "w.pth", Asked(heads=3))
    expected = as_ours(w, 2)
    if "pos_embed" in w:
        kernel = w["patch_embed.proj.weight"]
        columns = [kernel[:, c, y, x] for y in range(8) for x in range(8) for c in range(3)]
        expected["encoder.embed.weight"] = torch.stack(columns, dim=1)
        expected["encoder.position.place"] = w["pos_embed"][0, "cls_token" in w :]
        expected["encoder.position.slot"] = torch.zeros(1, 24)
        if "cls_token" in w:
            expected["encoder.class_token"] = (w["cls_token"] + w["pos_embed"][:, :1]).flatten()
    else:  # the embedding is restated for our pixels, so not the same bits: what it gives is compared above
        del result.state["encoder.embed.weight"], result.state["encoder.embed.bias"], expected["encoder.embed.bias"]
        expected["encoder.position.place"], expected["encoder.position.slot"] = (
            w["pos_embed_spatial"][0],
            w["pos_embed_temporal"][0],
        )
        expected["encoder.class_token"] = (w["cls_token"] + w["pos_embed_class"]).flatten()
    assert result.state.keys() == expected.keys()
    assert all(torch.equal(result.state[name], value) for name, value in expected.items())


def test_every_value_of_vit_mae_comes_over_exact_to_the_bit(tmp_path):
    vit_mae(True).save_pretrained(tmp_path)
    w = load_file(tmp_path / "model.safetensors")
    kernel = w["vit.embeddings.patch_embeddings.projection.weight"]
    columns = [kernel[:, c, y, x] for y in range(8) for x in range(8) for c in range(3)]
    table = w["vit.embeddings.position_embeddings"][0]
    expected = {
        "encoder.embed.weight": torch.stack(columns, dim=1),
        "encoder.embed.bias": w["vit.embeddings.patch_embeddings.projection.bias"],
        "encoder.class_token": w["vit.embeddings.cls_token"].flatten() + table[0],
        "encoder.position.place": table[1:],
        "encoder.position.slot": torch.zeros(1, 60),
    }
    expected |= {f"encoder.norm.{end}": w[f"vit.layernorm.{end}"] for end in ("weight", "bias")}
    layers = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    layers |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for i in range(2):
        ours, theirs = f"encoder.blocks.{i}", f"vit.encoder.layer.{i}"
        parts = [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")]
        expected[f"{ours}.attn.qkv.weight"] = torch.cat([w[f"{part}.weight"] for part in parts])
        expected |= {f"{ours}.attn.q_bias": w[f"{parts[0]}.bias"], f"{ours}.attn.v_bias": w[f"{parts[2]}.bias"]}
        for own, name in layers.items():
            expected |= {f"{ours}.{own}.{end}": w[f"{theirs}.{name}.{end}"] for end in ("weight", "bias")}
    state = found(tmp_path).state
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def valued(shapes: dict) -> dict[str, torch.Tensor]:
    """Zeros of these shapes; the matrices of blocks, nearly all of a file, have no values at all."""
    return {
        name: torch.empty(size, device="meta")
        if len(size) == 2 and re.search(r"\.\d+\.", name)
        else torch.zeros(1).expand(size)
        for name, size in shapes.items()
    }


def vit_mae_names(e: Encoder, patch: int) -> dict:
    """The names of transformers' own module."""
    config = ViTMAEConfig(
        patch_size=patch,
        hidden_size=e.width,
        num_hidden_layers=e.depth,
        num_attention_heads=e.heads,
        intermediate_size=e.hidden,
    )
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in ViTMAEForPreTraining(config).state_dict().items()}


NAMES = {
    "timm": lambda e, p: image_names(e.width, e.depth, e.hidden, (224 // p) ** 2, True, p),
    "MAE": lambda e, p: mae_names(e.width, e.depth, e.hidden, (224 // p) ** 2, p, 8, 512),
    "ViTMAE": vit_mae_names,
    "MAE-ST": lambda e, p: video_names(e.width, e.depth, e.hidden, (224 // p) ** 2, 8, p),
}
TRUE = [
    ("timm", "s", 16),
    *((of, *rest) for of in ("timm", "MAE", "ViTMAE") for rest in (("b", 16), ("l", 16), ("h", 14))),
]


@pytest.mark.parametrize(("of", "size", "patch"), [*TRUE, ("MAE-ST", "l", 16)])
def test_encoders_of_the_true_sizes_fit(of, size, patch):
    shapes, times = NAMES[of](SIZES[size], patch), 2 if of == "MAE-ST" else 1
    result = from_mae(Archive(Path("w.pth"), valued(shapes)), Asked())
    assert result.encoder == replace(SIZES[size], patch=(times, patch, patch), position="learned", class_token=True)
    assert (result.frames, result.size) == (16 if of == "MAE-ST" else 1, (224, 224))
    with torch.device("meta"):
        ours = result.encoder.build(result.grid, 3).state_dict()
    fits(result.state, {f"encoder.{name}": value for name, value in ours.items()}, result.report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.ls1.gamma": (24,)}, r"has LayerScale \(blocks\.\*\.ls1\.gamma\)"),
        ({"reg_token": (1, 4, 24)}, r"has register tokens \(reg_token\)"),
        ({"blocks.0.ls1.other": (24,)}, r"not on the list of that format: blocks\.\*\.ls1\.other"),
        ({"pos_embed": (1, 15, 24)}, "14 positions are not those of a square image"),
        ({"blocks.1.norm2.bias": None}, r"lacks 1 of \d+ tensors: blocks\.\*\.norm2\.bias"),
    ],
)
def test_what_is_not_on_the_list_stops_the_load(tmp_path, change, message):
    shapes = {name: size for name, size in (image_names() | change).items() if size is not None}
    save_file(noise(shapes), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message):
        network(tmp_path / "w.safetensors", Asked(heads=3))


def test_a_class_token_is_seen_and_not_put_out():
    torch.manual_seed(0)
    encoder = Encoder(24, 2, 3, 48, (1, 8, 8), class_token=True).build(Grid(1, 4, 4, (1, 8, 8)), 3).eval()
    patches = torch.randn(2, 16, 192)
    with torch.no_grad():
        before = encoder(patches)
        assert before.shape == (2, 16, 24)
        encoder.class_token.add_(torch.randn(24))
        assert not torch.allclose(before, encoder(patches))
    with pytest.raises(ValueError, match="no place in divided attention"):
        Encoder(24, 2, 3, 48, (1, 8, 8), attention="divided", class_token=True).build(Grid(1, 4, 4, (1, 8, 8)), 3)


def test_their_fixed_positions_are_ours():
    theirs = vit_mae(False).vit.embeddings.position_embeddings[0, 1:]
    torch.testing.assert_close(Positions("plane", Grid(1, 5, 5), 60)(), theirs, rtol=0, atol=1e-5)
