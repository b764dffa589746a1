"""tubelet export and tubelet push, as a person uses them."""

import json

import pytest
import torch
from runs import finetuning, pretraining, saved

from tubelet.cli import run
from tubelet.export import graphs, hub


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


def test_push_is_private_until_it_is_told_otherwise(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "push", lambda *args: asked.append(args) or "https://huggingface.co/a/b")
    assert run(["push", str(tmp_path), "a/b"]) == 0
    assert run(["push", str(tmp_path), "a/b", "--no-private"]) == 0
    assert asked == [(tmp_path, "a/b", True), (tmp_path, "a/b", False)]
    assert "huggingface.co/a/b" in capsys.readouterr().out
