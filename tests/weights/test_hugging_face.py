"""Folders of transformers in its layouts: every tensor noise, outputs the same, biases never lost."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from theirs import clips, model
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from tubelet.export.folder import to_hugging_face
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked, MaskedAutoencoder
from tubelet.methods.videomae import DECODERS as V1
from tubelet.methods.videomae_v2 import DECODERS as V2
from tubelet.nn.classifier import Classifier
from tubelet.nn.patches import patchify
from tubelet.nn.vit import SIZES, ViT
from tubelet.targets import Pixels, inputs
from tubelet.train.checkpoint import load, load_classifier, load_encoder
from tubelet.types import Draws, Grid
from tubelet.weights.archive import Archive
from tubelet.weights.found import Asked
from tubelet.weights.hugging_face import from_hugging_face
from tubelet.weights.load import found, network
from tubelet.weights.report import fits


def relaid(folder: Path, layout: str) -> None:
    """Writes the weights of a folder in another layout, by hand."""
    state = load_file(folder / "model.safetensors")
    assert any(name.endswith("q_bias") for name in state)  # what every release writes
    for name in [name for name in state if name.endswith("query.weight")]:
        stem = name.removesuffix("query.weight")
        if layout == "fused":
            parts = [state.pop(f"{stem}{part}.weight") for part in ("query", "key", "value")]
            state[f"{stem}qkv.weight"] = torch.cat(parts)
        elif layout in ("v5", "keys"):
            state[f"{stem}query.bias"], state[f"{stem}value.bias"] = (
                state.pop(f"{stem}q_bias"),
                state.pop(f"{stem}v_bias"),
            )
            state[f"{stem}key.bias"] = torch.full_like(state[f"{stem}query.bias"], 7.0 if layout == "keys" else 0.0)
        elif layout == "both":
            state[f"{stem}query.bias"], state[f"{stem}value.bias"] = state[f"{stem}q_bias"], state[f"{stem}v_bias"]
        elif layout == "lost":
            state[f"{stem}query.bias"] = torch.zeros_like(state[f"{stem}q_bias"])
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("layout", ["v4", "fused", "v5", "keys", "both"])
def test_a_classifier_in_every_layout_gives_the_same_logits(tmp_path, layout):
    theirs = model(VideoMAEForVideoClassification, id2label={0: "jump", 1: "run", 2: "sit"})
    theirs.save_pretrained(tmp_path)
    relaid(tmp_path, layout)
    ours, report = network(tmp_path)
    assert isinstance(ours, Classifier)
    video, pixels = clips()
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs(video, (3, 8, 8))), theirs(pixels).logits, rtol=1e-5, atol=1e-5)
    reason = {"v5": "a bias of keys, all zero", "keys": "which softmax cannot see"}.get(layout)
    assert (reason is not None) == (report.count("left out") > 0)
    assert reason is None or reason in str(report)
    assert load_classifier(tmp_path)[1].data.labels.names == ("jump", "run", "sit")


@pytest.mark.parametrize("normed", [True, False], ids=["last norm", "no last norm"])
def test_a_pre_trained_model_imagines_the_same(tmp_path, normed):
    theirs = model(VideoMAEForPreTraining, use_mean_pooling=not normed, norm_pix_loss=False)
    theirs.save_pretrained(tmp_path)
    ours, report = network(tmp_path)
    assert isinstance(ours, MaskedAutoencoder)
    assert ours.target.normalise == "none"
    assert ("ends without a norm" in str(report)) is not normed
    video, pixels = clips()
    from tubelet.types import Batch

    mask = Tube(0.5)(Batch(video, torch.arange(2)), ours.grid, Draws(0, 0, range(2)))
    with torch.no_grad():
        expected = theirs(pixels, bool_masked_pos=mask.hidden).logits
        torch.testing.assert_close(ours.imagine(patchify(video, (3, 8, 8)), mask), expected, rtol=1e-5, atol=1e-5)
    encoder, run = load_encoder(tmp_path)
    assert (run.data.clip.frames, run.data.size, run.encoder.heads, run.method.decoder.heads) == (6, (32, 32), 5, 4)
    assert torch.equal(encoder.blocks[1].mlp.fc2.weight, ours.encoder.blocks[1].mlp.fc2.weight)


def test_a_bare_model_is_an_encoder(tmp_path):
    theirs = model(VideoMAEModel, use_mean_pooling=False)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert isinstance(ours, ViT)
    video, pixels = clips()
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state
        torch.testing.assert_close(ours(inputs(video, (3, 8, 8))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (VideoMAEForPreTraining, {"use_mean_pooling": False}),
        (VideoMAEForPreTraining, {"use_mean_pooling": True}),
        (VideoMAEForVideoClassification, {}),
    ],
    ids=["pre-trained", "pre-trained without a last norm", "fine-tuned"],
)
def test_all_layouts_become_the_same_and_go_back_exact_to_the_bit(tmp_path, kind, more):
    states = []
    for layout in ("v4", "fused", "v5"):
        model(kind, **more).save_pretrained(tmp_path / layout)
        relaid(tmp_path / layout, layout)
        states.append(found(tmp_path / layout).state)
    for other in states[1:]:
        assert other.keys() == states[0].keys()
        assert all(torch.equal(other[name], value) for name, value in states[0].items())
    theirs, back = load_file(tmp_path / "v4" / "model.safetensors"), to_hugging_face(states[0], (3, 8, 8))
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], value) and back[name].shape == value.shape for name, value in theirs.items())


@pytest.mark.parametrize("size", "sblhg")
def test_the_names_and_shapes_of_every_size_are_those_of_transformers_modules(size):
    e = SIZES[size]
    decoder = (V1 | {"g": V2["g"]})[size]
    config = {
        "patch_size": e.patch[1],
        "image_size": 2 * e.patch[1],  # positions are not saved, and slow to make
        "hidden_size": e.width,
        "num_hidden_layers": e.depth,
        "num_attention_heads": e.heads,
        "intermediate_size": e.hidden,
        "decoder_hidden_size": decoder.width,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_intermediate_size": decoder.hidden,
    }
    grid = Grid.of(16, 2 * e.patch[1], 2 * e.patch[2], e.patch)
    with torch.device("meta"):
        ours = Masked(Tube(0.5), Pixels("videomae"), decoder).build(e, grid, 3), Classifier(e.build(grid, 3), 400)
        theirs = (
            VideoMAEForPreTraining(VideoMAEConfig(**config, use_mean_pooling=False)),
            VideoMAEForVideoClassification(VideoMAEConfig(**config, num_labels=400)),
        )
    for own, module in zip(ours, theirs):
        saved = {  # as save_pretrained names them, in every release; a bias of keys is not there
            name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
            for name, value in module.state_dict().items()
            if not name.endswith("key.bias")
        }
        written = to_hugging_face(own.state_dict(), e.patch)
        assert {name: value.shape for name, value in written.items()} == {
            name: value.shape for name, value in saved.items()
        }
        read = from_hugging_face(Archive(Path("model.safetensors"), saved), Asked())
        assert (read.encoder, read.kind) == (e, "fine-tuned" if isinstance(own, Classifier) else "pre-trained")
        fits(read.state, own.state_dict(), read.report)


def test_biases_that_contradict_stop_the_load(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    relaid(tmp_path, "lost")
    with pytest.raises(ValueError, match=r"query\.bias and .*attn\.q_bias, which differ; one of them was lost"):
        network(tmp_path)


def test_key_biases_are_counted_once_and_every_tensor_somewhere(tmp_path):
    model(VideoMAEForPreTraining, use_mean_pooling=False).save_pretrained(tmp_path)
    relaid(tmp_path, "keys")
    report = found(tmp_path).report
    total = len(load_file(tmp_path / "model.safetensors"))
    assert sum(report.count(what) for what in ("matched", "reshaped", "left out")) == total == len(report.tensors)
    assert report.count("left out") == 4  # two blocks of the encoder, two of the decoder
    assert "reshaped: 12, queries, keys and values in one matrix" in str(report)


def test_a_head_that_lost_its_norm_stops_the_load(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for lost in (["fc_norm.weight", "fc_norm.bias"], ["fc_norm.bias"]):
        save_file({name: value for name, value in state.items() if name not in lost}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"has a head .* but lacks {' and '.join(lost)}, which norms the mean"):
            network(tmp_path)


def test_without_its_head_a_classifier_is_an_encoder_without_a_norm(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({n: v for n, v in state.items() if "classifier" not in n}, tmp_path / "model.safetensors")
    ours, report = network(tmp_path)
    assert isinstance(ours.norm, torch.nn.Identity)
    assert report.tensors["fc_norm.bias"][0] == "left out"
    state.pop("videomae.embeddings.patch_embeddings.projection.bias")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks encoder\.embed\.bias, which tell its shape"):
        network(tmp_path)


def test_a_head_that_reads_the_first_token_is_refused_by_that(tmp_path):
    model(VideoMAEForVideoClassification, use_mean_pooling=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"use_mean_pooling false, so its head .* reads the first token"):
        network(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({n: v for n, v in state.items() if "classifier" not in n}, tmp_path / "model.safetensors")
    assert isinstance(network(tmp_path)[0], ViT)  # as the message says


def test_other_means_and_deviations_are_folded_into_the_embedding(tmp_path):
    theirs = model(VideoMAEForVideoClassification)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    ours, report = network(tmp_path)
    video, _ = clips()
    with torch.no_grad():
        expected = theirs(((video / 255 - 0.5) / 0.5).transpose(1, 2)).logits
        torch.testing.assert_close(ours(inputs(video, (3, 8, 8))), expected, rtol=1e-5, atol=1e-5)
    assert "the embedding was restated" in str(report)


def test_a_vit_s_of_sixteen_heads_is_asked_about(tmp_path):
    small = {"hidden_size": 384, "num_attention_heads": 16, "num_hidden_layers": 1}
    model(VideoMAEForVideoClassification, **small).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"16 heads for a width of 384\. VideoMAE's ViT-S has 6.*--heads 6 .*--heads 16"
    ):
        network(tmp_path)
    for heads in (6, 16):
        assert network(tmp_path, Asked(heads=heads))[0].encoder.blocks[0].attn.heads == heads


def test_a_config_that_contradicts_the_shapes_stops_the_load(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"num_hidden_layers": 3}, "num_hidden_layers 2 and 3"),
        ({"tubelet_size": 2}, "tubelet_size 3 and 2"),
        ({"qkv_bias": False}, "no biases of queries and values"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            network(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-12}))
    assert "norms of eps 1e-12 there" in str(network(tmp_path)[1])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        network(tmp_path)


def test_without_a_config_the_usual_clip_is_assumed_and_said(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="frames 16 does not divide into cubes of 3"):
        network(tmp_path)
    _, report = network(tmp_path, Asked(heads=5, frames=6, size=(32, 32)))
    assert "no config.json beside it" in str(report)
