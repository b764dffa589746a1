"""What leaves the machine with weights: no paths, and of weights of others no training that nobody knows of."""

import argparse
import doctest
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import finetuning, pretraining, saved
from safetensors.torch import load_file
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification

from tubelet.cli import run as command
from tubelet.config import from_json, to_json
from tubelet.data.joint import Images
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense
from tubelet.export.about import about, settings
from tubelet.export.folder import write_folder
from tubelet.export.graphs import network_of
from tubelet.export.official import to_official, write_official
from tubelet.nn.classifier import Classifier
from tubelet.nn.patches import patchify
from tubelet.nn.vit import ViT
from tubelet.targets import MEAN, STD, inputs
from tubelet.types import TokenMask
from tubelet.weights.load import others

ARGS = argparse.Namespace(num_frames=9, sampling_rate=2, input_size=40, normlize_target=True, decoder_depth=2)


def released(run) -> dict[str, torch.Tensor]:
    """Noise in the names of VideoMAE's code (tests/export/test_official.py holds those against its own)."""
    method = run.method.build(run.encoder, run.grid(), run.data.channels)
    network = getattr(method, "network", method)
    rng = torch.Generator().manual_seed(0)
    state = {name: torch.randn(value.shape, generator=rng) * 0.1 for name, value in network.state_dict().items()}
    return to_official(state, run.encoder.patch, tuned=network is not method)


STATES = {"pre-trained": released(pretraining()), "fine-tuned": released(finetuning())}
INVENTED = (
    "epochs",
    "seed",
    "made with",
    "Recipe",
    "Trained with",
    "optim",
    "| training",
    "Tube",
    "smoothing",
    "Numbers",
)


def foreign(folder: Path, kind: str, args: argparse.Namespace | None = ARGS) -> Path:
    """A checkpoint as VideoMAE's code writes it."""
    held = {"model": STATES[kind]} | ({} if args is None else {"args": args})
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(held, folder / "theirs.pth")
    return folder / "theirs.pth"


def converted(folder: Path, kind: str) -> Path:
    """The same as tubelet's safetensors."""
    assert command(["convert", str(foreign(folder, kind)), str(folder / "ours.safetensors")]) == 0
    return folder / "ours.safetensors"


def same(file: Path, kind: str) -> bool:
    """Whether a .pth holds exactly what the foreign one held."""
    found, expected = torch.load(file, weights_only=True)["model"], STATES[kind]
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# ---------------------------------------------------------------------------- weights of others


@pytest.mark.parametrize("make", [foreign, converted], ids=["foreign", "converted"])
@pytest.mark.parametrize("kind", STATES)
def test_weights_of_others_are_written_whole_and_come_back_exact_to_the_bit(tmp_path, make, kind, capsys):
    file = make(tmp_path, kind)
    assert command(["export", str(file), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    assert command(["export", str(tmp_path / "hf"), "--to", "official", "--out", str(tmp_path / "back.pth")]) == 0
    assert command(["export", str(file), "--to", "official", "--out", str(tmp_path / "straight.pth")]) == 0
    assert "only the encoder" not in capsys.readouterr().err
    assert same(tmp_path / "back.pth", kind)
    assert same(tmp_path / "straight.pth", kind)


@torch.no_grad()
def test_transformers_gives_the_predictions_of_a_foreign_autoencoder(tmp_path):
    file = foreign(tmp_path, "pre-trained")
    write_folder(file, tmp_path / "hf")
    theirs, info = VideoMAEForPreTraining.from_pretrained(
        tmp_path / "hf", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ours, run, _, _ = others(file)
    video = torch.randint(0, 256, (2, 3, 9, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    order = torch.rand(2, 75, generator=torch.Generator().manual_seed(1)).argsort(1)
    mask = TokenMask.from_hidden(order >= 20, run.grid())
    theirs.eval().decoder.norm.eps = 1e-6
    found = theirs(normalised(video), bool_masked_pos=mask.hidden).logits
    torch.testing.assert_close(found, ours.imagine(patchify(video, (3, 8, 8)), mask), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_transformers_gives_the_logits_of_a_foreign_classifier(tmp_path):
    file = converted(tmp_path, "fine-tuned")
    write_folder(file, tmp_path / "hf")
    theirs = VideoMAEForVideoClassification.from_pretrained(tmp_path / "hf", attn_implementation="eager").eval()
    theirs.fc_norm.eps = 1e-6
    video = torch.randint(0, 256, (2, 3, 9, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = others(file)[0](inputs(video, (3, 8, 8)))
    torch.testing.assert_close(theirs(normalised(video)).logits, expected, rtol=1e-5, atol=1e-5)


def normalised(video: torch.Tensor) -> torch.Tensor:
    """Clips as transformers wants them."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    return ((video / 255 - mean) / std).transpose(1, 2)


def test_the_encoder_of_weights_of_others_is_written_where_it_is_asked_for_or_all_there_is(tmp_path):
    file = foreign(tmp_path, "pre-trained")
    assert write_official(file, tmp_path / "encoder.pth", "encoder") == []
    state = torch.load(tmp_path / "encoder.pth", weights_only=True)["model"]
    assert set(state) == {name for name in STATES["pre-trained"] if name.startswith("encoder.")}
    torch.save({"model": state, "args": ARGS}, tmp_path / "encoder.pth")
    notes = write_official(tmp_path / "encoder.pth", tmp_path / "again.pth")
    assert notes == ["only the encoder is written: encoder.pth holds nothing else that is known"]
    with pytest.raises(
        ValueError, match=r"cannot be written as a whole: encoder\.pth holds nothing else.*--part encoder"
    ):
        write_folder(tmp_path / "encoder.pth", tmp_path / "hf", "whole")


def test_a_pre_trained_network_without_a_last_norm_goes_to_transformers_only(tmp_path):
    """As transformers makes it with use_mean_pooling."""
    write_folder(foreign(tmp_path, "pre-trained"), tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    config = json.loads((tmp_path / "hf" / "config.json").read_text()) | {"use_mean_pooling": True}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    model = VideoMAEForPreTraining.from_pretrained(tmp_path / "hf")  # drops the norm
    model.save_pretrained(tmp_path / "normless")
    write_folder(tmp_path / "normless", tmp_path / "hf2")
    again = load_file(tmp_path / "hf2" / "model.safetensors")
    assert set(state) - set(again) == {"videomae.layernorm.weight", "videomae.layernorm.bias"}
    assert all(torch.equal(value, state[name]) for name, value in again.items())
    assert json.loads((tmp_path / "hf2" / "config.json").read_text())["use_mean_pooling"] is True
    assert "pre-trained: normless/model.safetensors" in (tmp_path / "hf2" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"ends with a norm, this one does not.*--part encoder"):
        write_official(tmp_path / "normless", tmp_path / "a.pth")


@pytest.mark.parametrize("make", [foreign, converted], ids=["foreign", "converted"])
@pytest.mark.parametrize("kind", STATES)
def test_the_card_of_weights_of_others_says_whose_they_are_and_invents_nothing(tmp_path, make, kind):
    file = make(tmp_path / "private place", kind)
    beside = file.parent / "results.json"  # of something else
    beside.write_text(json.dumps([{"name": "probe", "trained": 0.7}]))
    write_folder(file, tmp_path / "hf")
    page = (tmp_path / "hf" / "README.md").read_text()
    assert "Converted from theirs.pth (VideoMAE, " in page
    assert "by tubelet; how it was trained is not known here." in page
    for part in ("3 blocks, 60 wide, 1 heads, cubes of 3x8x8", "40x40 pixels", "- its args say num_frames 9"):
        assert part in page, part
    if kind == "pre-trained":
        assert "| clips | 9 frames at stride 2, 40x40 pixels |" in page
        assert "| decoder | 2 blocks, 36 wide, 1 heads |" in page
        assert "| target | normalised pixels |" in page
    else:
        assert "| classes | 3, without names |" in page
    for invented in (*INVENTED, "probe", "private place"):
        assert invented not in page, invented


def test_the_card_says_where_frames_are_not_known_and_names_classes(tmp_path):
    (tmp_path / "names.txt").write_text("pick up/put down\nrun|walk\nsit\n")
    file = foreign(tmp_path, "fine-tuned", None)
    words = ["convert", str(file), str(tmp_path / "ours.safetensors"), "--labels", str(tmp_path / "names.txt")]
    assert command([*words, "--frames", "9", "--size", "40", "40"]) == 0
    write_folder(tmp_path / "ours.safetensors", tmp_path / "hf")
    page = (tmp_path / "hf" / "README.md").read_text()
    assert "Which frames of a video make a clip is not known." in page
    assert "| clips | 9 frames, 40x40 pixels |" in page
    assert "| classes | 3: pick up/put down, run\\|walk, sit |" in page
    assert "- clips are taken as 9 frames spread over 36; the file does not say" in page


@pytest.mark.parametrize("make", [foreign, converted], ids=["foreign", "converted"])
def test_graphs_of_weights_of_others_tell_what_it_takes_to_use_them_and_no_recipe(tmp_path, make):
    network, run, origin = network_of(make(tmp_path / "private place", "pre-trained"), None)
    assert isinstance(network, ViT)
    told = about(run, origin)
    assert told.keys() == {"converted"}
    read = from_json(told["converted"])
    assert (read.file, read.encoder, read.clip, read.size) == (
        "theirs.pth",
        run.encoder,
        Dense(9, 2),
        (40, 40),
    )
    for word in ("epochs", "batch", "seed", "optim", "mask", "private place"):
        assert f'"{word}' not in told["converted"]
        assert "private place" not in told["converted"]
    classifier, _, _ = network_of(make(tmp_path / "tuned", "fine-tuned"), None)
    assert isinstance(classifier, Classifier)
    with pytest.raises(ValueError, match="--part encoder"):
        network_of(make(tmp_path / "again", "pre-trained"), "whole")


# ---------------------------------------------------------------------------- runs of ours


def test_a_run_that_began_with_weights_of_others_was_trained_here(tmp_path):
    file = foreign(tmp_path / "private place", "pre-trained")
    run = finetuning()
    runs = {
        "tuned": replace(run, method=replace(run.method, init=str(file))),
        "again": replace(pretraining(), training=replace(pretraining().training, init=str(file))),
    }
    for name, run in runs.items():
        write_folder(saved(run, tmp_path / name)[0], tmp_path / f"{name} hf")
        page = (tmp_path / f"{name} hf" / "README.md").read_text()
        assert "| started from | theirs.pth |" in page
        assert "Trained with tubelet." in page
        assert f"| training.epochs | {run.training.epochs} |" in page
        assert "private place" not in page
    write_folder(saved(pretraining(), tmp_path / "fresh")[0], tmp_path / "fresh hf")
    assert "started from" not in (tmp_path / "fresh hf" / "README.md").read_text()


SECRET = "/secret/place"


def secretive(run):
    """The run with a path wherever there is room for one."""
    training = replace(run.training, init=f"{SECRET}/first.pth")
    data = replace(run.data, images=Images(source=f"images:{SECRET}/faces:train"))
    if run.data.labels is not None:
        given = {"init": f"{SECRET}/b.pth", "validation": f"{SECRET}/val.csv", "teacher": "C:\\secret\\place\\teacher"}
        run = replace(run, method=replace(run.method, **given))
        data = replace(data, labels=Labels("class", ("pick up/put down", "run", "wave")))
    return replace(run, training=training, data=data)


@pytest.mark.parametrize("run", [pretraining(), finetuning()], ids=["pre-trained", "fine-tuned"])
def test_no_path_is_in_what_is_written_for_others(tmp_path, run):
    folder, _ = saved(secretive(run), tmp_path / "run")
    record = {"run": json.loads(to_json(secretive(run))), "data": f"{SECRET}/train.csv", "made_with": {}}
    (folder / "run.json").write_text(json.dumps(record | {"fingerprint": {"videos": 3, "places": 3}}))
    assert b"secret" in next(folder.glob("*.safetensors")).read_bytes()  # the run's own file says where from
    write_folder(folder, tmp_path / "out")
    write_official(folder, tmp_path / "out" / "a.pth")
    told = about(secretive(run), None)
    (tmp_path / "out" / "told.json").write_text(json.dumps(told))
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(files) == 6
    for file in files:
        assert b"secret" not in file.read_bytes(), file
    kept = from_json(told["run"])
    assert (kept.encoder, kept.optim) == (run.encoder, run.optim)
    assert (kept.training.init, kept.data.images.source) == ("first.pth", "images:faces:train")
    if run.data.labels is not None:
        assert (kept.method.init, kept.method.validation, kept.method.teacher) == ("b.pth", "val.csv", "C:teacher")
        assert kept.data.labels.names[0] == "pick up/put down"


@pytest.mark.parametrize("run", [pretraining(), finetuning()], ids=["pre-trained", "fine-tuned"])
def test_settings_without_paths_are_left_as_they_are(run):
    assert settings(run) == json.loads(to_json(run))


def test_the_examples_are_right():
    result = doctest.testmod(sys.modules[about.__module__])
    assert result.attempted
    assert not result.failed
