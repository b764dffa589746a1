"""What files beside weights say: pixels of transformers' processors give the same; what cannot be so is refused."""

import json
from pathlib import Path

import pytest
import torch
from manifests import noise
from safetensors.torch import save_file
from test_hugging_face import clips, model
from test_mae import image_names, vit_mae
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from tubelet.targets import inputs
from tubelet.weights.found import Asked
from tubelet.weights.load import network


def beside(folder: Path, name: str, **said) -> None:
    """Writes a file of settings."""
    (folder / f"{name}.json").write_text(json.dumps(said))


def changed(folder: Path, **said) -> None:
    """Changes the config.json of a folder."""
    beside(folder, "config", **(json.loads((folder / "config.json").read_text()) | said))


PROCESSORS = {
    "no numbers: 0.5": {},
    "own numbers": {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    "zero": {"image_mean": 0.0, "image_std": [0.5] * 3},
    "one number": {"image_mean": [0.1] * 3, "image_std": [2.0] * 3},
    "0 to 1": {"do_normalize": False},
    "0 to 1, numbers unused": {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "0 to 255": {"do_normalize": False, "do_rescale": False},
    "-1 to 1": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    "numbers of 0 to 255": {"do_rescale": False, "image_mean": [124.0, 116.0, 104.0], "image_std": [58.0, 57.0, 56.0]},
}


@pytest.mark.parametrize("said", PROCESSORS.values(), ids=PROCESSORS)
def test_pixels_that_their_processor_makes_give_the_same_logits_as_ours(tmp_path, said):
    theirs = model(VideoMAEForVideoClassification)
    theirs.save_pretrained(tmp_path)
    beside(tmp_path, "preprocessor_config", image_processor_type="VideoMAEImageProcessor", **said)
    ours, report = network(tmp_path)
    video, _ = clips()
    processor = VideoMAEImageProcessorPil(do_resize=False, do_center_crop=False, **said)
    frames = [list(clip.permute(1, 2, 3, 0).numpy()) for clip in video]
    pixels = processor(frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected, found = theirs(pixels.float()).logits, ours(inputs(video, (3, 8, 8)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert "the embedding was restated for ours (0.485 0.456 0.406 and 0.229 0.224 0.225)" in str(report)


def test_a_processor_of_videos_comes_before_one_of_images(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    beside(tmp_path, "preprocessor_config", image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    beside(tmp_path, "video_preprocessor_config", video_processor_type="VideoMAEVideoProcessor")
    assert "normalised by mean 0.5 and deviation 0.5" in str(network(tmp_path)[1])


def test_without_a_processor_imagenet_is_assumed_and_said(tmp_path):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    assert "ImageNet's mean and deviation are assumed" in str(network(tmp_path)[1])


def test_images_of_transformers_that_were_not_normalised_give_the_same_embedding(tmp_path):
    theirs = vit_mae(False)
    theirs.save_pretrained(tmp_path)
    beside(tmp_path, "preprocessor_config", image_processor_type="ViTImageProcessor", do_normalize=False)
    ours, _ = network(tmp_path)
    video = clips()[0][:, :, :1, :24, :24]
    expected = theirs.vit.embeddings.patch_embeddings.projection(video[:, :, 0] / 255)
    torch.testing.assert_close(
        ours.embed(inputs(video, (1, 8, 8))), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5
    )


def test_colours_of_raw_pixels_that_transformers_restates_wrongly_are_doubted(tmp_path):
    for raw in (True, False):
        model(VideoMAEForPreTraining, use_mean_pooling=False, norm_pix_loss=not raw).save_pretrained(tmp_path)
        beside(tmp_path, "preprocessor_config", image_mean=[0.5] * 3, image_std=[0.5] * 3)
        assert ("colours that it imagines are off" in str(network(tmp_path)[1])) is raw


@pytest.mark.parametrize("nested", [True, False], ids=["pretrained_cfg", "as it was before"])
def test_mean_deviation_and_heads_are_those_of_timms_config(tmp_path, nested):
    w = noise(image_names())
    save_file(w, tmp_path / "model.safetensors")
    numbers = {"mean": [0.5] * 3, "std": [0.5] * 3}
    more = {"pretrained_cfg": numbers, "model_args": {"num_heads": 4}} if nested else numbers
    beside(tmp_path, "config", architecture="vit_tiny_patch16_224", **more)
    ours, report = network(tmp_path, Asked(heads=None if nested else 3))
    assert ours.blocks[0].attn.heads == (4 if nested else 3)
    video = clips()[0][:, :, :1]
    convolved = torch.nn.functional.conv2d(
        (video[:, :, 0] / 255 - 0.5) / 0.5, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8
    )
    torch.testing.assert_close(
        ours.embed(inputs(video, (1, 8, 8))), convolved.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5
    )
    assert "normalised by mean 0.5 and deviation 0.5 of pixels from 0 to 1" in str(report)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hidden_act": "relu"}, r"config\.json says hidden_act 'relu'; our MLPs have the exact GELU"),
        ({"layer_norm_eps": 1e-3}, r"layer_norm_eps 0\.001; our norms have 1e-06"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps 'small'; expected a number"),
        ({"qv_bias": False}, "qv_bias false: its attention has no biases of queries and values"),
        ({"num_channels": 4}, "contradict: num_channels 3 and 4"),
        ({"patch_size": [8, 16]}, r"contradict: patch_size 8 and \[8, 16\]"),
        ({"decoder_hidden_size": 40}, "contradict: decoder_hidden_size 36 and 40"),
    ],
)
def test_settings_that_ours_has_not_stop_the_load(tmp_path, said, message):
    model(VideoMAEForPreTraining, use_mean_pooling=False).save_pretrained(tmp_path)
    changed(tmp_path, patch_size=[8, 8])
    network(tmp_path)
    changed(tmp_path, **said)
    with pytest.raises(ValueError, match=message):
        network(tmp_path)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"do_rescale": False}, "whether the weights have seen 0 to 255 or 0 to 1 cannot be told"),
        ({"image_processor_type": "CLIPImageProcessor"}, "what CLIPImageProcessor takes then is not known"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean \[0\.5, 0\.5\]; expected one number or three"),
        ({"image_std": [0.5, 0.5, 0.0]}, "expected numbers above 0"),
        ({"image_std": [0.5, 0.5, "x"]}, "image_std 'x'; expected a number"),
        ({"rescale_factor": 0}, "rescale_factor 0; expected a number above 0"),
        ({"offset": True}, "says offset True, which is not read"),
    ],
)
def test_processors_that_cannot_be_carried_out_on_our_pixels_stop_the_load(tmp_path, said, message):
    model(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    beside(tmp_path, "preprocessor_config", **said)
    with pytest.raises(ValueError, match=message):
        network(tmp_path)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ({"layer_norm_eps": 0.1}, r"layer_norm_eps 0\.1"),
        ({"qkv_bias": False}, "qkv_bias false"),
        ({"num_hidden_layers": 3}, "contradict: num_hidden_layers 2 and 3"),
    ],
)
def test_settings_of_images_that_ours_has_not_stop_the_load(tmp_path, said, message):
    vit_mae(True).save_pretrained(tmp_path)
    changed(tmp_path, **said)
    with pytest.raises(ValueError, match=message):
        network(tmp_path)


def test_what_timm_builds_otherwise_stops_the_load(tmp_path):
    save_file(noise(image_names()), tmp_path / "model.safetensors")
    beside(tmp_path, "config", architecture="vit", model_args={"num_heads": 3, "act_layer": "quick_gelu"})
    with pytest.raises(ValueError, match="model_args act_layer 'quick_gelu', which is not read"):
        network(tmp_path)
