"""Weights of others where ours go: tubelet.load, encoders for probing and fine-tuning, the verb; time and memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from manifests import finetuned, noise, pretrained
from safetensors.torch import save_file

import tubelet
from tubelet.cli import run as command
from tubelet.config import preset
from tubelet.data.labels import Labels
from tubelet.data.writing import write
from tubelet.finetune import Initial, as_weights
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.classifier import Classifier
from tubelet.nn.patches import sinusoid
from tubelet.train.checkpoint import load_classifier, load_encoder, weights_of
from tubelet.train.loop import train
from tubelet.train.start import fitting
from tubelet.weights.found import Asked, resized
from tubelet.weights.load import network

TINY = (64, 2, 128)  # one head


@pytest.fixture
def whole(tmp_path) -> Path:
    torch.save({"model": noise(pretrained(*TINY, 16, 1, 32)), "epoch": 799}, tmp_path / "pretrained.pth")
    return tmp_path / "pretrained.pth"


@pytest.fixture
def tuned(tmp_path) -> Path:
    torch.save({"module": noise(finetuned(*TINY, 3))}, tmp_path / "tuned.pth")
    return tmp_path / "tuned.pth"


def test_tubelet_load_takes_them_all(tmp_path, whole, tuned):
    kinds = {whole: MaskedAutoencoder, tuned: Classifier}
    for file, kind in kinds.items():
        assert isinstance(tubelet.load(file), kind)
        assert command(["convert", str(file), str(tmp_path / f"{file.stem}.safetensors")]) == 0
        again = tubelet.load(tmp_path / f"{file.stem}.safetensors")
        assert isinstance(again, kind)
        theirs = tubelet.load(file).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in again.state_dict().items())
        assert again.state_dict().keys() == theirs.keys()


def test_the_encoder_of_a_pre_training_goes_into_everything(whole, tuned):
    encoder, run = load_encoder(whole)
    expected = noise(pretrained(*TINY, 16, 1, 32))
    assert torch.equal(encoder.norm.weight, expected["encoder.norm.weight"])
    assert torch.equal(encoder.blocks[1].attn.qkv.weight, expected["encoder.blocks.1.attn.qkv.weight"])
    assert (run.data.clip.frames, run.data.size, run.encoder.width) == (16, (224, 224), 64)
    fine, _ = load_encoder(tuned)
    assert isinstance(fine.norm, torch.nn.Identity)
    classifier, run = load_classifier(tuned)
    assert torch.equal(classifier.head.weight, noise(finetuned(*TINY, 3))["head.weight"])
    assert run.data.labels.names == ("0", "1", "2")
    with pytest.raises(ValueError, match="has an encoder but no head"):
        load_classifier(whole)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for label in ("left", "right"):
        (folder / label).mkdir()
        for number in range(2):
            frames = rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
            write(folder / label / f"{number}.mp4", frames, 10)
    return folder


def small(run, **method):
    """A run on clips of four frames of 32 pixels, a few steps long."""
    data = replace(run.data, clip=replace(run.data.clip, frames=4), size=(32, 32))
    training = replace(run.training, epochs=1, batch=2, workers=0, precision="float32", device="cpu")
    return replace(run, data=data, training=training, method=replace(run.method, **method))


def test_fine_tuning_and_pre_training_begin_with_them(tmp_path, films, whole):
    run = small(preset("finetune-small-cpu"), init=str(whole), cells=None)
    run = as_weights(run, str(whole))
    assert (run.encoder.width, run.encoder.depth) == (64, 2)
    named = replace(run, data=replace(run.data, labels=Labels("class", ("left", "right"))))
    initial = Initial.of(named, str(whole), new_head=False)
    assert initial.new == ("norm", "head")
    assert len(initial.state) == 2 + 2 * 13
    again = small(preset("videomae-demo"))
    encoder = load_encoder(whole)[1].encoder
    training = replace(again.training, init=str(whole))
    again = replace(again, encoder=encoder, training=training)
    state, _, _ = fitting(again, str(whole), inflate=False)
    out = train(
        replace(again, optim=replace(again.optim, base_lr=0.0, min_lr=0.0)), films, tmp_path / "run", quiet=True
    )
    trained, _ = load_encoder(out)
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    with pytest.raises(ValueError, match=r"another shape.*width: 64 -> 32"):
        fitting(replace(again, encoder=replace(encoder, width=32)), str(whole), inflate=False)


def test_weights_that_look_untrained_are_warned_of(tmp_path):
    theirs = noise(finetuned(*TINY, 3))
    save_file(
        theirs | {name: torch.zeros(64) for name in theirs if name.endswith("q_bias")}, tmp_path / "w.safetensors"
    )
    with pytest.warns(UserWarning, match=r"w\.safetensors: attn\.q_bias is zero in all 2 blocks"):
        weights_of(tmp_path / "w.safetensors")


def test_fixed_positions_are_computed_anew_or_interpolated(tuned):
    assert torch.equal(network(tuned)[0].encoder.position(), sinusoid(1568, 64))
    anew, report = network(tuned, Asked(frames=32, size=(112, 112)))
    assert torch.equal(anew.encoder.position(), sinusoid(16 * 7 * 7, 64))
    assert "trained on 8x14x14 tokens: the fixed positions are computed anew for 16x7x7" in str(report)
    between, report = network(tuned, Asked(frames=16, size=(224, 448), positions="interpolated"))
    table = resized(sinusoid(1568, 64), (8, 14, 14), (8, 14, 28))
    assert torch.equal(between.encoder.position(), table)
    assert "interpolated; they are not saved" in str(report)


def test_interpolation_of_positions_is_that_of_opencv_and_numpy():
    cv2 = pytest.importorskip("cv2")
    table = torch.randn(3 * 6 * 6, 4, generator=torch.Generator().manual_seed(0))
    wide = resized(table, (3, 6, 6), (3, 9, 12)).reshape(3, 9, 12, 4)
    for slot in range(3):
        expected = cv2.resize(table.reshape(3, 6, 6, 4)[slot].numpy(), (12, 9), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_allclose(wide[slot].numpy(), expected, atol=1e-4)
    long = resized(table, (3, 6, 6), (6, 6, 6)).reshape(6, -1)
    places = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
    for column in (0, 77):
        expected = np.interp(places, np.arange(3), table.reshape(3, -1)[:, column])
        np.testing.assert_allclose(long[:, column].numpy(), expected, atol=1e-5)


def test_the_verb_says_what_it_did(tmp_path, tuned, capsys):
    (tmp_path / "names.txt").write_text("jump\nrun\n")
    (tmp_path / "rows.json").write_text("[2, 0]")
    words = ["convert", str(tuned), str(tmp_path / "out.safetensors"), "--rows", str(tmp_path / "rows.json")]
    assert command([*words, "--labels", str(tmp_path / "names.txt"), "--heads", "2"]) == 0
    said = capsys.readouterr().out
    assert "VideoMAE, fine-tuned: 64 wide, 2 deep" in said
    assert "matched: 31" in said
    assert "reshaped: 1, a convolution as a matrix" in said
    network, run = load_classifier(tmp_path / "out.safetensors")
    assert (run.data.labels.names, run.encoder.heads, len(network.head.bias)) == (("jump", "run"), 2, 2)
    assert command([*words, "--dry", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dst"] is None
    assert said["tensors"]["head.weight"] == {"what": "matched", "why": ""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{src}", "out.pth"], "let its name end with .safetensors"),
        (["gone.pth", "out.safetensors"], "no such file: gone.pth"),
        (["{src}", "out.safetensors", "--inflate", "2"], "these weights are of a video encoder already"),
        (["{src}", "out.safetensors", "--rows", "{src}"], "is no JSON list of rows"),
    ],
)
def test_the_verb_names_what_is_wrong(tmp_path, tuned, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert command(["convert", *(word.format(src=tuned) for word in words)]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


# A ViT-B with 400 classes, loaded in a process of its own; then every value is read, since both map the file.
MEASURED = """
import sys, torch
torch.set_num_threads(1)
from tubelet.weights.load import network
from tubelet.config import preset
preset("finetune-k400-b")
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
before = peak()
module, report = network(sys.argv[1])
total = sum(float(value.sum()) for value in module.state_dict().values())
print(peak() - before)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("base") / "b.safetensors"
    save_file(noise(finetuned(768, 12, 3072, 400)), file)
    return file


def test_loading_takes_little_more_memory_than_the_file(base):
    done = subprocess.run([sys.executable, "-c", MEASURED, str(base)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.3 * base.stat().st_size
