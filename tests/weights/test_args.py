"""The `args` that trainings of VideoMAE's code leave beside their weights: what they tell of clips, and what not."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from manifests import finetuned, noise, pretrained

from tubelet.data.sampling import Dense, Segments, Spread
from tubelet.train.checkpoint import load_classifier, load_encoder
from tubelet.weights.archive import Archive, read
from tubelet.weights.found import Asked
from tubelet.weights.load import described, network, recognised

TINY = (64, 2, 128)  # one head
PRETRAINING = {  # as the released pre-training notes them, among others
    "batch_size": 32,
    "model": "pretrain_videomae_base_patch16_224",
    "decoder_depth": 1,
    "mask_ratio": 0.9,
    "input_size": 32,
    "normlize_target": False,
    "lr": 1.5e-4,
    "data_path": "/secret/place/train.csv",
    "num_frames": 4,
    "sampling_rate": 2,
    "window_size": (2, 2, 2),
    "patch_size": (16, 16),
}
TUNING = {  # and the fine-tuning
    "tubelet_size": 2,
    "input_size": 32,
    "nb_classes": 3,
    "num_segments": 1,
    "num_frames": 8,
    "sampling_rate": 3,
    "data_set": "UCF101",
    "output_dir": "/secret/place/out",
}


def written(file: Path, args, zipped: bool = True) -> Path:
    """A checkpoint as the released code writes it; with classes, where args have them."""
    tuned = "nb_classes" in (args if isinstance(args, dict) else vars(args))
    weights = noise(finetuned(*TINY, 3) if tuned else pretrained(*TINY, 16, 1, 32))
    held = {"model": weights, "optimizer": {"state": {}}, "epoch": 799, "scaler": {"scale": 65536.0}, "args": args}
    torch.save(held, file, _use_new_zipfile_serialization=zipped)
    return file


@pytest.mark.parametrize("kind", [argparse.Namespace, dict])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_clips_and_target_of_a_pre_training_are_those_of_its_args(tmp_path, kind, zipped):
    file = written(tmp_path / "checkpoint.pth", kind(**PRETRAINING), zipped)
    run = load_encoder(file)[1]
    assert (run.data.clip, run.data.size) == (Dense(4, stride=2), (32, 32))
    assert run.method.target.normalise == "none"
    module, report = network(file)
    assert module.grid.tokens == 2 * 2 * 2
    assert (
        "its args say num_frames 4, sampling_rate 2, decoder_depth 1, input_size 32, patch_size (16, 16), "
        "normlize_target False"
    ) in report.notes
    assert "clips are taken as 4 frames at stride 2, as its args say" in report.notes
    assert "read 'model'; beside it and not used: optimizer, epoch, scaler" in report.notes
    assert not [note for note in report.notes if "does not say" in note or "secret" in note]


@pytest.mark.parametrize(
    ("change", "clip"),
    [
        ({}, Spread(8, 3)),
        ({"data_set": "SSV2"}, Segments(8)),  # whose clips have no distance of frames
        ({"data_set": "Kinetics-400", "sparse_sample": True}, Segments(8)),
        ({"sparse_sample": True}, Spread(8, 3)),  # V2 heeds it for Kinetics-400 and MIT alone
        ({"num_frames": 2, "data_set": None}, Spread(2, 3)),
    ],
)
def test_clips_of_a_fine_tuning_are_those_of_its_args(tmp_path, change, clip):
    file = written(tmp_path / "checkpoint.pth", argparse.Namespace(**TUNING | change))
    assert load_classifier(file)[1].data.clip == clip
    assert f"clips are taken as {clip}, as its args say" in network(file)[1].notes


def test_an_encoder_of_a_fine_tuning_takes_its_clips(tmp_path):
    state = {name: value for name, value in noise(finetuned(*TINY, 3)).items() if not name.startswith(("head", "fc_"))}
    torch.save({"model": state, "args": argparse.Namespace(**TUNING)}, tmp_path / "encoder.pth")
    assert load_encoder(tmp_path / "encoder.pth")[1].data.clip == Spread(8, 3)


def test_what_is_asked_for_goes_before_what_args_say(tmp_path):
    file = written(tmp_path / "checkpoint.pth", argparse.Namespace(**PRETRAINING))
    found = recognised(read(file), Asked(frames=8, size=(64, 64)))
    run = described(found)
    assert (run.data.clip, run.data.size) == (Dense(8, stride=2), (64, 64))
    assert "trained on 2x2x2 tokens: the fixed positions are computed anew for 4x4x4" in found.report.notes


def test_what_nobody_says_is_said_to_be_assumed():
    found = {}
    for name, shapes in (("pre-trained", pretrained(*TINY, 16, 1, 32)), ("fine-tuned", finetuned(*TINY, 3))):
        result = recognised(Archive(Path(f"{name}.pth"), noise(shapes)), Asked())
        described(result)
        described(result)
        found[name] = [note for note in result.report.notes if "does not say" in note]
    released = "clips of 16 frames, 224x224, as of every released model; the file does not say"
    assert found["fine-tuned"] == [released, "clips are taken as 16 frames spread over 64; the file does not say"]
    assert found["pre-trained"] == [
        released,
        "clips are taken as 16 frames at stride 4; the file does not say",
        "the pixels to predict are taken as normalised, as in VideoMAE's recipes; the file does not say",
    ]


def test_of_clips_that_are_half_told_the_other_half_is_said_to_be_assumed(tmp_path):
    file = written(tmp_path / "checkpoint.pth", argparse.Namespace(num_frames=4))
    notes = network(file)[1].notes
    assert "clips of 224x224, as of every released model; the file does not say" in notes
    assert "clips are taken as 4 frames at stride 4; the file does not say" in notes


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"nb_classes": 400}, "nb_classes is 400, the head has 3"),
        ({"tubelet_size": 4}, "tubelet_size is 4, the cubes have 2"),
        ({"patch_size": [14, 14]}, r"patch_size is \(14, 14\), the cubes have \(16, 16\)"),
        ({"num_segments": 3}, "num_segments is 3"),
        ({"num_frames": 7}, "clips of 7x32x32 do not divide into cubes of 2x16x16"),
        ({"input_size": 40}, "clips of 8x40x40 do not divide"),
        ({"num_frames": 10**8}, "200000000 tokens, more than 65536"),
        ({"num_frames": 0}, "num_frames is '0', expected a whole number above 0"),
        ({"num_frames": "16"}, "num_frames is '16', expected a whole number"),
        ({"sampling_rate": 2.5}, "sampling_rate is '2.5', expected a whole number"),
        ({"num_frames": True}, "num_frames is 'True', expected a whole number"),
        ({"normlize_target": "False"}, "normlize_target is 'False', expected true or false"),
        ({"input_size": (32, 32, 32)}, "input_size is"),
    ],
)
def test_args_that_contradict_the_weights_are_not_used_and_a_warning_says_so(tmp_path, change, why):
    file = written(tmp_path / "checkpoint.pth", argparse.Namespace(**TUNING | change))
    with pytest.warns(UserWarning, match=f"its args are not of these weights, and nothing of them was used: .*{why}"):
        data = load_encoder(file)[1].data
    assert (data.clip, data.size) == (Spread(16, 4), (224, 224))


def test_a_decoder_of_another_depth_is_not_that_of_the_args(tmp_path):
    file = written(tmp_path / "checkpoint.pth", argparse.Namespace(**PRETRAINING | {"decoder_depth": 4}))
    assert network(file)[1].warnings[-1].endswith("decoder_depth is 4, the decoder has 1")


def test_a_data_set_that_is_a_path_is_not_told(tmp_path):
    file = written(tmp_path / "checkpoint.pth", argparse.Namespace(**TUNING | {"data_set": "/secret/place"}))
    assert "secret" not in str(network(file)[1])


def test_args_of_another_code_are_not_used_and_that_is_said(tmp_path):
    image = {
        **{name: value for name, value in finetuned(*TINY, 3).items() if not name.endswith(("q_bias", "v_bias"))},
        **{f"blocks.{i}.attn.qkv.bias": (192,) for i in range(2)},
        "patch_embed.proj.weight": (64, 3, 16, 16),
        "pos_embed": (1, 4, 64),
    }
    args = argparse.Namespace(num_frames=4, input_size=32)
    torch.save({"model": noise(image), "args": args}, tmp_path / "mae.pth")
    assert "its args were not used: those of VideoMAE's code only are known" in network(tmp_path / "mae.pth")[1].notes


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


class Other(argparse.Namespace):
    """A Namespace by another name."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "args",
    [
        lambda mark: argparse.Namespace(num_frames=4, hook=Evil(mark)),
        lambda mark: argparse.Namespace(num_frames=Evil(mark)),
        lambda mark: {"num_frames": 4, "hook": Evil(mark)},
        lambda mark: Other(num_frames=4),
        lambda mark: argparse.Action(["--lr"], "lr"),
        lambda mark: argparse.Namespace(device=Path("x")),
    ],
)
def test_a_namespace_may_hold_data_and_nothing_else(tmp_path, args, zipped):
    held = {"model": noise(finetuned(*TINY, 3)), "args": args(tmp_path / "ran")}
    torch.save(held, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"does not only hold tensors: .*It was refused"):
        read(tmp_path / "checkpoint.pth")
    assert not (tmp_path / "ran").exists()


def test_a_namespace_that_poses_as_a_function_is_only_looked_at(tmp_path):
    """Nothing of it is called, whatever its attributes are named."""
    args = argparse.Namespace(num_frames=4, sampling_rate=2, input_size=32)
    vars(args).update({"__class__": "str", "get": 1, "__getattr__": 2, "__eq__": 3, "__setstate__": 4})
    file = written(tmp_path / "checkpoint.pth", args)
    assert load_encoder(file)[1].data.clip == Dense(4, stride=2)
