"""Where weights of others come from stays with them, and no training is made up for them."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from manifests import finetuned, noise, pretrained
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tubelet.cli import run as command
from tubelet.config import to_json
from tubelet.data.sampling import Segments
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import Encoder
from tubelet.train.checkpoint import load_classifier, load_encoder
from tubelet.weights.load import network, others

TINY = (64, 2, 128)  # one head
TOLD = argparse.Namespace(num_frames=8, input_size=32, nb_classes=3, data_set="SSV2")
FILES = {
    "pre-trained": {"model": noise(pretrained(*TINY, 16, 1, 32)), "epoch": 799},
    "fine-tuned": {"module": noise(finetuned(*TINY, 3))},
    "fine-tuned, with args": {"model": noise(finetuned(*TINY, 3)), "args": TOLD},
    "encoder": {k: v for k, v in noise(pretrained(*TINY, 16, 1, 32)).items() if k.startswith("encoder.")},
}


@pytest.fixture(params=FILES)
def pair(request, tmp_path) -> tuple[Path, Path]:
    """A file of others, and what it was converted to."""
    theirs, ours = tmp_path / "private folder" / "checkpoint.pth", tmp_path / "ours.safetensors"
    theirs.parent.mkdir()
    torch.save(FILES[request.param], theirs)
    assert command(["convert", str(theirs), str(ours)]) == 0
    return theirs, ours


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_a_converted_file_tells_whose_it_is_and_no_recipe(pair):
    theirs, ours = pair
    about = metadata(ours)
    assert about.keys() == {"converted"}
    told = json.loads(about["converted"])
    assert told["file"] == "checkpoint.pth"
    report = network(theirs)[1]
    assert (told["format"], told["notes"]) == (report.format, report.notes)
    for invented in ("epochs", "batch", "seed", "base_lr", "weight_decay", "warmup", "mask", "smoothing", "crop"):
        assert f'"{invented}"' not in about["converted"]
    assert b"private folder" not in ours.read_bytes()


def test_what_is_not_known_is_not_in_it(tmp_path):
    told = {}
    for name in ("pre-trained", "fine-tuned, with args"):
        torch.save(FILES[name], tmp_path / f"{name}.pth")
        assert command(["convert", str(tmp_path / f"{name}.pth"), str(tmp_path / f"{name}.safetensors")]) == 0
        told[name] = json.loads(metadata(tmp_path / f"{name}.safetensors")["converted"])
    before, after = told.values()
    assert (before["clip"], before["normalised"], before["labels"]) == (None, None, [])
    assert (after["clip"]["class"], after["clip"]["frames"]) == ("tubelet.data.sampling:Segments", 8)
    assert (after["frames"], after["size"], after["labels"], after["decoder"]) == (8, [32, 32], ["0", "1", "2"], None)


def test_it_is_used_as_the_file_that_it_was(pair):
    theirs, ours = pair
    before, after = load_encoder(theirs), load_encoder(ours)
    assert before[1] == after[1]
    assert all(torch.equal(value, after[0].state_dict()[name]) for name, value in before[0].state_dict().items())
    module, report = network(ours)
    assert type(module) is type(network(theirs)[0])
    assert report.format.startswith("tubelet, converted from checkpoint.pth (VideoMAE")
    assert others(ours)[2] == others(theirs)[2]
    if isinstance(module, Classifier):
        assert load_classifier(ours)[1] == load_classifier(theirs)[1]


def test_the_clips_that_args_told_stay_with_it(tmp_path):
    torch.save(FILES["fine-tuned, with args"], tmp_path / "a.pth")
    assert command(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 0
    data = load_classifier(tmp_path / "a.safetensors")[1].data
    assert (data.clip, data.size) == (Segments(8), (32, 32))


def test_it_is_not_converted_twice(pair, tmp_path, capsys):
    assert command(["convert", str(pair[1]), str(tmp_path / "again.safetensors")]) == 2
    assert "is a file of tubelet already" in capsys.readouterr().err


def test_metadata_of_another_kind_is_refused(pair):
    save_file(load_file(pair[1]), pair[1], {"converted": to_json(Encoder())})
    with pytest.raises(ValueError, match=r"its metadata `converted` is Encoder, expected an Origin"):
        network(pair[1])


@pytest.mark.parametrize("name", ["run", "converted"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no json", "cannot be read: Expecting value"),
        ("[1]", "is tuple, expected an? (Run|Origin)"),
        ("{}", "names None"),
    ],
)
def test_metadata_that_is_damaged_is_refused_with_the_name_of_the_file(tmp_path, name, text, why):
    save_file(noise(finetuned(*TINY, 3)), tmp_path / "w.safetensors", {name: text})
    with pytest.raises(ValueError, match=rf"w\.safetensors: its metadata `{name}` .*{why}"):
        network(tmp_path / "w.safetensors")
