"""Files of others where people use them, by the command line: embed, probe, finetune, test, predict."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from manifests import finetuned, noise, pretrained
from theirs import model, pixels
from transformers import VideoMAEForVideoClassification

import tubelet
from tubelet.cli import run as command
from tubelet.cli.converting import rows_of
from tubelet.data.writing import write
from tubelet.evaluate.features import middle_clips
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_classifier, load_encoder

TINY = (64, 1, 128)  # one head


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Two classes of two films each, told by their colour."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for channel, label in ((0, "red"), (2, "blue")):
        (folder / label).mkdir()
        for number in range(2):
            frames = rng.integers(0, 120, (8, 40, 40, 3), dtype=np.uint8)
            frames[..., channel] += 120
            write(folder / label / f"{number}.mp4", frames, 10)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A pre-training checkpoint in VideoMAE's own layout."""
    file = tmp_path_factory.mktemp("whole") / "checkpoint-799.pth"
    torch.save({"model": noise(pretrained(*TINY, 16, 1, 32)), "optimizer": {"state": {}}, "epoch": 799}, file)
    return file


@torch.no_grad()
def test_a_pre_trained_encoder_is_embedded(films, whole, tmp_path, capsys):
    assert command(["embed", str(films), "--weights", str(whole), "--out", str(tmp_path / "f.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 4
    encoder, run = load_encoder(whole)
    assert (run.data.clip.frames, run.data.size) == (16, (224, 224))
    clips = middle_clips(sorted(films.rglob("*.mp4")), run.data)
    expected = encoder(inputs(clips, (2, 16, 16))).mean(1)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected.numpy(), atol=1e-5)


def test_a_pre_trained_encoder_is_probed(films, whole, capsys):
    words = ["probe", "knn", "--weights", str(whole), "--data", str(films), "--test", str(films)]
    assert command([*words, "--validation", str(films), "--k", "1", "--json", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trained"]["clips"] == 4
    assert report["trained"]["scores"]["top1"] == 100  # each film is its own nearest


def test_a_pre_trained_encoder_is_fine_tuned_from_its_own_values(films, whole, tmp_path):
    line = (
        f"finetune finetune-few-cpu --weights {whole} --as-weights --data {films} --out {tmp_path}/run --quiet "
        "--data.size 32 32 --data.clip.frames 4 --method.cells None --training.epochs 1 --training.batch 4 "
        "--training.precision float32 --training.workers 0 --optim.base-lr 0 --optim.min-lr 0"
    )
    assert command(line.split()) == 0
    tuned, run = load_classifier(tmp_path / "run")
    assert run.data.labels.names == ("blue", "red")
    theirs = noise(pretrained(*TINY, 16, 1, 32))
    for name, value in tuned.encoder.state_dict().items():
        if name.startswith("blocks."):
            assert torch.equal(value, theirs[f"encoder.{name}"]), name


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> tuple[Path, VideoMAEForVideoClassification]:
    """A folder of transformers that knows its classes, and the model."""
    folder = tmp_path_factory.mktemp("named")
    theirs = model(VideoMAEForVideoClassification, id2label={0: "green", 1: "red", 2: "blue"})
    with torch.no_grad():
        theirs.classifier.weight.mul_(10)  # or all classes are as likely
    theirs.save_pretrained(folder)
    return folder, theirs


@torch.no_grad()
def test_a_fine_tuned_folder_predicts_what_transformers_does(films, named, capsys):
    folder, theirs = named
    path = films / "red" / "0.mp4"
    assert command(["predict", str(path), "--weights", str(folder), "--json", "--top", "3", "--window", "9"]) == 0
    said = json.loads(capsys.readouterr().out)
    clip = middle_clips([path], load_classifier(folder)[1].data)
    expected = theirs(pixels(clip)).logits.softmax(1)[0].tolist()
    assert max(expected) - min(expected) > 0.05
    (window,) = said["windows"]
    assert dict(window["top"]) == pytest.approx(dict(zip(("green", "red", "blue"), expected)), abs=1e-4)


def test_a_fine_tuned_folder_is_tested_by_the_names_of_its_classes(films, named, tmp_path, capsys):
    folder, theirs = named
    words = ["test", "--weights", str(folder), "--data", str(films), "--views", "1x1", "--json"]
    assert command([*words, "--out", str(tmp_path / "found.jsonl")]) == 0
    said = json.loads(capsys.readouterr().out)
    files = sorted(films.rglob("*.mp4"))
    clips = middle_clips(files, load_classifier(folder)[1].data)
    with torch.no_grad():
        guesses = theirs(pixels(clips)).logits.argmax(1).tolist()
    right = [("green", "red", "blue")[guess] == file.parent.name for guess, file in zip(guesses, files)]
    assert said["numbers"]["top1"]["value"] == pytest.approx(100 * np.mean(right))


def test_a_fine_tuned_pth_is_tested_once_its_classes_are_named(films, tmp_path, capsys):
    file = tmp_path / "checkpoint-best.pth"
    torch.save({"module": noise(finetuned(*TINY, 2)), "epoch": 74}, file)
    words = ["--data", str(films), "--views", "1x1", "--out", str(tmp_path / "found.jsonl"), "--json"]
    assert command(["test", "--weights", str(file), *words]) == 2
    assert "blue" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("red\nblue\n")
    into = ["convert", str(file), str(tmp_path / "named.safetensors"), "--labels", str(tmp_path / "names.txt")]
    assert command([*into, "--frames", "4", "--size", "32", "32"]) == 0
    capsys.readouterr()
    assert command(["test", "--weights", str(tmp_path / "named.safetensors"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 4
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()[1:]]
    network = tubelet.load(tmp_path / "named.safetensors")
    clips = middle_clips([Path(row["path"]) for row in found], load_classifier(tmp_path / "named.safetensors")[1].data)
    with torch.no_grad():
        expected = network(inputs(clips, (2, 16, 16))).softmax(1)
    np.testing.assert_allclose([row["outputs"] for row in found], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("text", ["[1.7, 2]", "[true]", '"12"', "[]", "3", '{"0": "a"}', "[1,"])
def test_rows_are_whole_numbers(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=r"rows\.json is no JSON list of rows"):
        rows_of(tmp_path / "rows.json")
    (tmp_path / "rows.json").write_text('{"1": 5, "0": 9, "10": 3}')
    assert rows_of(tmp_path / "rows.json") == (9, 5, 3)
