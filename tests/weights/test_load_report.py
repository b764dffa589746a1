"""The report counts, groups and warns."""

from pathlib import Path

import torch
from manifests import finetuned, noise
from torch import nn

from tubelet.nn.vit import Encoder
from tubelet.types import Grid
from tubelet.weights.archive import Archive
from tubelet.weights.found import Asked
from tubelet.weights.load import recognised
from tubelet.weights.report import Report, as_initialised, looks_untrained, some


def test_a_report_says_what_was_done_with_how_many_and_why():
    report = Report(Path("w.pth"), "VideoMAE")
    report.add("matched", "", "a", "b")
    report.add("left out", "no use", *(f"blocks.{i}.attn.k.bias" for i in range(12)), "head.weight")
    report.add("reshaped", "as a matrix", "b")
    report.notes.append("said")
    report.warnings.append("odd")
    report.add("newly initialised", "no head", "head.weight", "head.bias")
    assert str(report).splitlines() == [
        "w.pth: VideoMAE",
        "  matched: 1",
        "  reshaped: 1, as a matrix (b)",
        "  left out: 13, no use (blocks.*.attn.k.bias (12), head.weight)",
        "  newly initialised: 2, no head (head.weight, head.bias)",
        "  note: said",
        "  WARNING: odd",
    ]


def test_what_became_of_a_tensor_is_marked_by_our_name_and_left_out_for_good():
    report = Report(Path("w.pth"))
    report.became = {"a": "norm.weight", "b": "encoder.norm.weight", "c": "norm.bias"}
    report.add("matched", "", *report.became)
    report.mark("left out", "first", "norm.weight")
    report.mark("reshaped", "then", "norm.", "nowhere.")
    assert report.tensors == {"a": ("left out", "first"), "b": ("matched", ""), "c": ("reshaped", "then")}
    assert [report.count(what) for what in ("matched", "reshaped", "left out", "newly initialised")] == [1, 1, 1, 0]


def test_many_names_are_cut_short():
    assert some("abcdef") == "a, b, c, d and 2 more kinds"


def test_a_fresh_encoder_looks_untrained_and_noise_does_not():
    torch.manual_seed(0)
    fresh = Encoder(192, 3, 3, 768).build(Grid(1, 2, 2), 3).state_dict()
    lines = looks_untrained({f"encoder.{name}": value for name, value in fresh.items()})
    assert [line.split(" is ")[0] for line in lines[:5]] == [
        "attn.q_bias",
        "attn.v_bias",
        "attn.proj.bias",
        "mlp.fc1.bias",
        "mlp.fc2.bias",
    ]
    assert lines[5:] == [
        "the gains of all 6 norms are constant: never trained",
        "12 of 12 matrices have exactly the deviation of an initialisation",
    ]
    found = recognised(Archive(Path("w.pth"), noise(finetuned(48, 3, 96, 4))), Asked(heads=2))
    assert found.report.warnings == []


def test_biases_that_were_lost_on_the_way_are_noticed():
    """As by transformers 5.6 to 5.17, which zeroed those of queries and values."""
    theirs = noise(finetuned(48, 3, 96, 4))
    for name in theirs:
        if name.endswith(("q_bias", "v_bias")):
            theirs[name] = torch.zeros(48)
    found = recognised(Archive(Path("w.pth"), theirs), Asked(heads=2))
    assert [line.split(" in all")[0] for line in found.report.warnings] == [
        "attn.q_bias is zero",
        "attn.v_bias is zero",
    ]


def test_initialisations_are_told_from_trained_matrices():
    torch.manual_seed(0)
    matrix = torch.empty(768, 768)
    assert as_initialised(nn.init.xavier_uniform_(matrix))
    assert as_initialised(nn.init.trunc_normal_(matrix, std=0.02, a=-2, b=2))
    assert not as_initialised(nn.init.xavier_uniform_(matrix) + 0.01 * torch.randn(768, 768))
    assert not as_initialised(0.02 * torch.randn(768, 768) * torch.rand(768).mul(2).add(0.2))
