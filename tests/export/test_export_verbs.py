"""tubelet export and tubelet push, as a person uses them."""

import json
import warnings

import pytest
import torch
from runs import finetuning, pretraining, saved
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from tubelet.cli import run
from tubelet.export import graphs, hub
from tubelet.export.official import write_official


def test_export_writes_a_folder_and_tells_on_stderr_what_to_know(tmp_path, capsys):
    folder, _ = saved(finetuning(), tmp_path / "run")
    out = tmp_path / "hf"
    assert run(["export", str(folder), "--to", "hf", "--out", str(out), "--licence", "apache-2.0"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    assert "5.6 to 5.17" in said.err
    assert "license: apache-2.0" in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "fall", "1": "run", "2": "wave"}


def test_export_writes_the_part_that_is_asked_for(tmp_path, capsys):
    folder, _ = saved(pretraining(), tmp_path / "run")
    out = tmp_path / "a.pth"
    assert run(["export", str(folder), "--to", "official", "--out", str(out), "--part", "encoder"]) == 0
    assert all(name.startswith("encoder.") for name in torch.load(out, weights_only=True)["model"])


def test_export_prints_how_near_onnx_is(tmp_path, capsys, monkeypatch):
    written = graphs.Written([tmp_path / "a.onnx"], "tokens", 2.5e-6, 3.25)
    monkeypatch.setattr(graphs, "write_onnx", lambda *args: written)
    folder, _ = saved(pretraining(), tmp_path / "run")
    assert run(["export", str(folder), "--to", "onnx", "--out", str(tmp_path / "a.onnx")]) == 0
    assert "tokens, off by 2.5e-06 from PyTorch's (up to 3.25)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--to", "onnx", "--out", "a.onnx", "--licence", "mit"], "--licence goes into the model card"),
        (["--to", "pt2", "--out", "a.onnx"], "is no .pt2"),
        (["--to", "pt2", "--out", "a.pt2", "--part", "whole"], "--part encoder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flags, expected):
    folder, _ = saved(pretraining(), tmp_path / "run")
    assert run(["export", str(folder), *flags]) == 2
    assert expected in capsys.readouterr().err


# ---------------------------------------------------------------------------- weights of others


@pytest.fixture
def theirs(tmp_path):
    """A checkpoint of VideoMAE's code that does not tell its clips."""
    write_official(saved(pretraining(), tmp_path / "theirs")[0], tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_export_takes_what_files_of_others_do_not_tell_and_says_once_what_was_done(theirs, tmp_path, capsys):
    flags = ["--heads", "5", "--frames", "12", "--size", "48", "40"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the report has them
        assert run(["export", str(theirs), "--to", "hf", "--out", str(tmp_path / "hf"), *flags]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_frames"], config["image_size"]) == (5, 12, [48, 40])
    said = capsys.readouterr().err
    assert said.count(f"{theirs}: VideoMAE, pre-trained") == 1
    assert "left out" not in said


@pytest.mark.parametrize(("to", "out"), [("pt2", "a.pt2"), ("official", "a.pth")])
def test_every_format_hears_of_them_and_of_what_is_left_out(theirs, tmp_path, capsys, to, out):
    flags = ["--frames", "6", "--size", "16", "24", "--part", "encoder"]
    assert run(["export", str(theirs), "--to", to, "--out", str(tmp_path / out), *flags]) == 0
    said = capsys.readouterr().err
    assert "clips are taken as 6 frames" in said
    assert "the encoder is written without it" in said
    if to == "pt2":
        tokens = torch.export.load(tmp_path / out).module()(torch.zeros(1, 3, 6, 16, 24, dtype=torch.uint8))
        assert tokens.shape[:2] == (1, 2 * 2 * 3)


def test_a_vit_s_of_sixteen_heads_is_exported_once_its_heads_are_told(tmp_path, capsys):
    small = {"hidden_size": 384, "num_attention_heads": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    clips = {"image_size": 16, "patch_size": 8, "num_frames": 2, "tubelet_size": 2}
    VideoMAEForVideoClassification(VideoMAEConfig(**small, **clips)).save_pretrained(tmp_path / "s16")
    words = ["export", str(tmp_path / "s16"), "--to", "official", "--out", str(tmp_path / "a.pth")]
    assert run(words) == 2
    assert "--heads 6" in capsys.readouterr().err
    assert run([*words, "--heads", "6"]) == 0
    said = capsys.readouterr().err
    assert "6 heads, as asked for; its config.json says 16" in said
    assert said.count("WARNING: the gains of all 2 norms are constant") == 1


@pytest.mark.parametrize(("to", "out"), [("hf", "hf"), ("pt2", "a.pt2")])
def test_of_a_run_of_ours_nothing_is_asked(tmp_path, capsys, to, out):
    folder, _ = saved(finetuning(), tmp_path / "run")
    assert run(["export", str(folder), "--to", to, "--out", str(tmp_path / out), "--frames", "12"]) == 2
    assert "leave out what is for weights of others (--heads, --frames" in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_push_is_private_until_it_is_told_otherwise(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "push", lambda *args: asked.append(args) or "https://huggingface.co/a/b")
    assert run(["push", str(tmp_path), "a/b"]) == 0
    assert run(["push", str(tmp_path), "a/b", "--no-private"]) == 0
    assert asked == [(tmp_path, "a/b", True), (tmp_path, "a/b", False)]
    assert "huggingface.co/a/b" in capsys.readouterr().out
