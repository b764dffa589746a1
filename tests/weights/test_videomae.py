"""The layout of VideoMAE's code: every size, both ways, exact to the bit; and what is not exactly that."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from manifests import as_released, finetuned, noise, pretrained
from safetensors.torch import save_file

from tubelet.config import preset
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.classifier import Classifier
from tubelet.nn.detector import Detector
from tubelet.nn.vit import SIZES, ViT
from tubelet.targets import inputs
from tubelet.train.checkpoint import load, load_encoder
from tubelet.weights.archive import Archive
from tubelet.weights.found import Asked
from tubelet.weights.load import converted, described, network, recognised
from tubelet.weights.report import fits

TINY = (24, 2, 48)


def archive(state, **more) -> Archive:
    return Archive(Path("checkpoint.pth"), state, **more)


# Sizes in the notation of the released code: width, depth, hidden, decoder width, depth, hidden, cube; what the report
# says; our preset for it; and its parameters, which the released code prints or which follow from it.
RELEASED = {
    "S": (
        (384, 12, 1536, 192, 4, 768),
        "ViT-S, decoder of 4 blocks of 192 (as of VideoMAE V1 and V2)",
        "videomae-k400-s",
        24_029_376,
    ),
    "B": (
        (768, 12, 3072, 384, 4, 1536),
        "ViT-B, decoder of 4 blocks of 384 (as of VideoMAE V1 and V2)",
        "videomae-k400-b",
        94_210_944,
    ),
    "L": (
        (1024, 24, 4096, 512, 12, 2048),
        "ViT-L, decoder of 12 blocks of 512 (as of VideoMAE V1)",
        "videomae-k400-l",
        342_996_992,
    ),
    "L, V2": (
        (1024, 24, 4096, 512, 4, 2048),
        "ViT-L, decoder of 4 blocks of 512 (as of VideoMAE V2)",
        "videomae-v2-l",
        317_782_016,
    ),
    "H": (
        (1280, 32, 5120, 640, 12, 2560),
        "ViT-H, decoder of 12 blocks of 640 (as of VideoMAE V1)",
        "videomae-k400-h",
        692_487_296,
    ),
    "H, V2": (
        (1280, 32, 5120, 512, 4, 2048),
        "ViT-H, decoder of 4 blocks of 512 (as of VideoMAE V2)",
        "videomae-v2-h",
        645_659_392,
    ),
    "g": (
        (1408, 40, 6144, 512, 4, 2234, (2, 14, 14)),
        "ViT-g, decoder of 4 blocks of 512 (as of VideoMAE V2)",
        "videomae-v2-g",
        1_026_306_560,
    ),
}


def empty(shapes: dict) -> dict[str, torch.Tensor]:
    """Tensors without values, since geometry needs shapes only."""
    return {name: torch.empty(size, device="meta") for name, size in shapes.items()}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(("shape", "name", "own", "total"), RELEASED.values(), ids=RELEASED)
def test_every_released_size_is_told_by_its_shapes_and_is_that_of_our_preset(shape, name, own, total):
    manifest = pretrained(*shape)
    assert sum(math.prod(size) for size in manifest.values()) == total
    found = shaped(empty(manifest))
    assert found.report.format == f"VideoMAE, pre-trained: {name}"
    expected, decoder = preset(own), preset(own).method.decoder
    assert found.encoder == replace(expected.encoder, checkpoint=False)
    assert (found.decoder.heads, found.decoder.hidden) == (decoder.heads, decoder.hidden)
    run = described(found)
    with torch.device("meta"):
        module = run.method.build(run.encoder, run.grid(), 3)
    fits(found.state, module.state_dict(), found.report)
    assert shapes_of(as_released(module, run.encoder.patch)) == manifest


TUNED = {"s": 22_033_936, "b": 86_534_800, "l": 304_270_736, "h": 632_119_440, "g": 1_012_174_352}


@pytest.mark.parametrize("size", TUNED)
def test_every_fine_tuned_size_has_the_names_and_shapes_of_the_released_one(size):
    e = SIZES[size]
    manifest = finetuned(e.width, e.depth, e.hidden, 400, e.patch)
    assert sum(math.prod(shape) for shape in manifest.values()) == TUNED[size]
    found = shaped(empty(manifest))
    assert (found.encoder, found.kind, len(found.labels)) == (e, "fine-tuned", 400)
    with torch.device("meta"):
        module = Classifier(e.build(found.grid, 3), 400)
    fits(found.state, module.state_dict(), found.report)
    assert shapes_of(as_released(module, e.patch)) == manifest


@pytest.mark.parametrize(("one", "other"), [("L", "L, V2"), ("H, V2", "H")])
def test_decoders_of_the_two_releases_are_not_mixed_up(one, other):
    found = shaped(empty(pretrained(*RELEASED[one][0])))
    wrong = preset(RELEASED[other][2])
    assert found.decoder != wrong.method.decoder
    assert shaped(empty(pretrained(*RELEASED[other][0]))).encoder == found.encoder
    with torch.device("meta"):
        module = wrong.method.build(wrong.encoder, wrong.grid(), 3)
    with pytest.raises(ValueError, match=r"decoder\."):
        fits(found.state, module.state_dict(), found.report)


def test_a_decoder_of_no_release_is_said_to_be_so():
    found = shaped(empty(pretrained(1280, 32, 5120, 512, 12, 2048)))
    assert found.report.format.endswith("ViT-H, decoder of 12 blocks of 512 (of no released size)")


def shaped(state):
    """What is found of tensors without values."""
    from tubelet.weights.videomae import from_videomae

    return from_videomae(archive(state), Asked())


def test_decoder_heads_are_those_of_the_released_code():
    for shape, heads in (
        ((384, 1, 8, 192, 1, 8), 3),
        ((768, 1, 8, 384, 1, 8), 6),
        ((1024, 1, 8, 512, 1, 8), 8),
        ((1280, 1, 8, 640, 1, 8), 8),  # 80 channels each
    ):
        assert shaped(empty(pretrained(*shape))).decoder.heads == heads


MODELS = {
    "pre-trained": (pretrained(*TINY, 16, 1, 32), MaskedAutoencoder),
    "fine-tuned": (finetuned(*TINY, 5), Classifier),
    "710 classes": (finetuned(*TINY, 710), Classifier),
    "cubes of 14": (finetuned(*TINY, 5, patch=(2, 14, 14)), Classifier),
}


@pytest.mark.parametrize(("shapes", "kind"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_there_and_back_is_exact_to_the_bit(tmp_path, shapes, kind, ending):
    theirs = noise(shapes)
    file = tmp_path / f"checkpoint.{ending}"
    if ending == "pth":
        torch.save({"model": {f"module.{name}": value for name, value in theirs.items()}, "epoch": 799}, file)
    else:
        save_file(theirs, file)
    module, report = network(file, Asked(heads=2))
    assert isinstance(module, kind)
    assert report.count("matched") + report.count("reshaped") == len(theirs)
    grid = module.grid if kind is MaskedAutoencoder else module.encoder.grid
    back = as_released(module, grid.patch)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) and back[name].shape == theirs[name].shape for name in theirs)


def test_the_embedding_is_their_convolution(tmp_path):
    theirs = noise(finetuned(*TINY, 5))
    save_file(theirs, tmp_path / "w.safetensors")
    module, _ = network(tmp_path / "w.safetensors", Asked(heads=2, frames=4, size=(32, 48)))
    video = torch.randint(0, 256, (2, 3, 4, 32, 48), dtype=torch.uint8)
    from tubelet.targets import MEAN, STD

    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    convolved = torch.nn.functional.conv3d(
        (video / 255 - mean) / std,
        theirs["patch_embed.proj.weight"],
        theirs["patch_embed.proj.bias"],
        stride=(2, 16, 16),
    )
    embedded = module.encoder.embed(inputs(video, (2, 16, 16)))
    torch.testing.assert_close(embedded, convolved.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_mgmae_and_bare_encoders_are_read(tmp_path):
    shapes = pretrained(*TINY, 16, 1, 32)
    bare = {name: size for name, size in shapes.items() if name.startswith("encoder.")}
    for names in (bare, {name.removeprefix("encoder."): size for name, size in bare.items()}):
        save_file(noise(names), tmp_path / "w.safetensors")
        module, _ = network(tmp_path / "w.safetensors", Asked(heads=2))
        assert isinstance(module, ViT)
        assert torch.equal(
            module.norm.weight, noise(names)[next(n for n in names if n.endswith("norm.weight") and "blocks" not in n)]
        )


def test_a_detector_sees_our_pixels(tmp_path):
    theirs = noise(finetuned(*TINY, 80, norm="norm"))
    save_file(theirs, tmp_path / "w.safetensors")
    module, report = network(tmp_path / "w.safetensors", Asked(heads=2))
    assert isinstance(module, Detector)
    assert report.format.startswith("VideoMAE-Action-Detection")
    assert report.tensors["head.weight"][0] == "matched"
    assert torch.equal(module.encoder.norm.bias, theirs["norm.bias"])
    video = torch.randint(0, 256, (1, 3, 2, 16, 16), dtype=torch.uint8)
    mean = torch.tensor([122.7717, 115.9465, 102.9801]).view(3, 1, 1, 1)  # AlphAction's, of 0 to 255
    expected = torch.nn.functional.conv3d(
        (video.float() - mean) / 57.375, theirs["patch_embed.proj.weight"], theirs["patch_embed.proj.bias"]
    )
    torch.testing.assert_close(
        module.encoder.embed(inputs(video, (2, 16, 16))), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4
    )


def test_heads_are_assumed_loudly_and_given_silently():
    theirs = noise(finetuned(384, 1, 8, 2))
    assumed, given = (recognised(archive(theirs), Asked(heads=heads)) for heads in (None, 12))
    assert assumed.encoder.heads == 6
    assert "6 heads, as every released model of this width has; shapes do not tell, --heads says otherwise" in (
        assumed.report.notes
    )
    assert given.encoder.heads == 12
    assert not any("heads" in note for note in given.report.notes)
    with pytest.raises(ValueError, match="width 384 does not divide into 7 heads"):
        recognised(archive(theirs), Asked(heads=7))


def test_rows_of_the_head_can_be_picked_and_named():
    theirs = noise(finetuned(*TINY, 710))
    found = recognised(archive(theirs), Asked(heads=2, rows=(709, 0, 3), labels=("a", "b", "c")))
    assert torch.equal(found.state["head.weight"], theirs["head.weight"][[709, 0, 3]])
    assert torch.equal(found.state["head.bias"], theirs["head.bias"][[709, 0, 3]])
    assert found.labels == described(found).data.labels.names == ("a", "b", "c")
    for wrong in (710, -1):
        with pytest.raises(ValueError, match=f"its head has 710 rows, 0 to 709, but row {wrong} was asked for"):
            recognised(archive(theirs), Asked(heads=2, rows=(3, wrong)))
    with pytest.raises(ValueError, match="two classes cannot have one name, 'a'"):
        recognised(archive(theirs), Asked(heads=2, rows=(1, 2, 3), labels=("a", "b", "a")))
    with pytest.raises(ValueError, match="710 rows, but there are 2 names"):
        recognised(archive(theirs), Asked(heads=2, labels=("a", "b")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.more": torch.ones(24)}, r"1 of its \d+ tensors are not on the list.*blocks\.\*\.more"),
        ({"pos_embed": torch.ones(1, 1568, 24)}, "not on the list of that format: pos_embed"),
        ({"blocks.1.mlp.fc2.bias": None}, r"lacks 1 of \d+ tensors: encoder\.blocks\.\*\.mlp\.fc2\.bias.*random"),
        ({"blocks.0.mlp.fc1.weight": None}, "lacks encoder.blocks.0.mlp.fc1.weight, which tell its shape"),
        ({"blocks.1.attn.qkv.weight": torch.ones(24, 24)}, r"attn\.qkv\.weight is \(24, 24\), expected \(72, 24\)"),
        ({"head.bias": None}, "has a head but lacks its bias; is it whole"),
        ({"fc_norm.bias": torch.full((24,), torch.nan)}, r"norm\.bias is not finite"),
        ({"blocks.1.mlp.fc1.weight": torch.ones(48, 24).index_fill(1, torch.tensor(7), torch.inf)}, "fc1.* not finite"),
        ({"patch_embed.proj.weight": torch.full((24, 3, 2, 16, 16), torch.nan)}, r"embed\.weight is not finite"),
        ({"fc_norm.bias": torch.ones(24, dtype=torch.int8)}, r"norm\.bias is torch.int8"),
    ],
)
def test_what_is_not_on_the_list_stops_the_load(tmp_path, change, message):
    theirs = noise(finetuned(*TINY, 5)) | change
    save_file({name: value for name, value in theirs.items() if value is not None}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message):
        network(tmp_path / "w.safetensors", Asked(heads=2))


def test_an_unknown_format_is_named(tmp_path):
    save_file({"layers.0.weight": torch.ones(2), "layers.1.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=r"of no format that is known; it has layers\.\*\.weight \(2\)\. Known are Video"
    ):
        network(tmp_path / "w.safetensors")


def test_values_whose_sum_is_too_large_for_a_float_are_finite(tmp_path):
    huge = torch.full((5, 24), 3e38)
    save_file(noise(finetuned(*TINY, 5)) | {"head.weight": huge}, tmp_path / "w.safetensors")
    assert torch.equal(network(tmp_path / "w.safetensors", Asked(heads=2))[0].head.weight, huge)


def test_half_precision_becomes_single():
    theirs = {name: value.half() for name, value in noise(finetuned(*TINY, 5)).items()}
    found = recognised(archive(theirs), Asked(heads=2))
    assert {value.dtype for value in found.state.values()} == {torch.float32}
    assert "float16 became float32" in found.report.notes


def test_an_encoder_of_a_fine_tuned_run_has_no_last_norm(tmp_path):
    state = {k: v for k, v in noise(finetuned(*TINY, 5)).items() if not k.startswith(("fc_norm.", "head."))}
    torch.save({"model": state}, tmp_path / "encoder.pth")
    module, report = network(tmp_path / "encoder.pth")
    assert isinstance(module.norm, torch.nn.Identity)
    assert "VideoMAE, encoder" in report.format
    assert len(module.state_dict()) == len(state)


def test_a_head_without_its_norm_is_not_taken_for_one_of_boxes(tmp_path):
    torch.save({"model": noise(finetuned(*TINY, 400, norm="norm"))}, tmp_path / "pooled.pth")
    with pytest.raises(ValueError, match=r"head of 400 outputs and no fc_norm: .* which has 80 outputs"):
        network(tmp_path / "pooled.pth")


def test_the_norm_of_a_head_that_is_not_there_is_not_taken_for_one_of_tokens(tmp_path):
    """As in folders of V2 on the hub, whose names begin with "model.": the head is gone, its norm is not."""
    state = {f"model.{name}": value for name, value in noise(finetuned(*TINY, 5)).items() if "head" not in name}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "VideoMAEv2"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    module, report = network(tmp_path, Asked(heads=2))
    assert isinstance(module.norm, torch.nn.Identity)
    reason = "the norm of a mean of tokens, for a head that is not there"
    assert report.tensors["fc_norm.weight"] == report.tensors["fc_norm.bias"] == ("left out", reason)
    assert report.format == "VideoMAE, encoder of a fine-tuning: 24 wide, 2 deep"
    assert "took 'model.' off 30 names" in report.notes
    for same in (load_encoder(tmp_path, Asked(heads=2))[0], load(again(tmp_path))):
        assert same.state_dict().keys() == module.state_dict().keys()
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in same.state_dict().items())
    video = torch.randint(0, 256, (1, 3, 2, 16, 16), dtype=torch.uint8)
    convolved = torch.nn.functional.conv3d(
        video / 127.5 - 1, state["model.patch_embed.proj.weight"], state["model.patch_embed.proj.bias"]
    )
    embedded = module.embed(inputs(video, (2, 16, 16)))
    torch.testing.assert_close(embedded, convolved.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


def again(folder: Path) -> Path:
    """What a folder is converted to."""
    (folder / "ours.safetensors").write_bytes(converted(folder, Asked(heads=2))[0])
    return folder / "ours.safetensors"
