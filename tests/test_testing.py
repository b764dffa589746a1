"""The verbs test and predict, from a saved network to what is printed and written."""

import json
import os
from dataclasses import replace
from shutil import copytree
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tubelet.cli import run as tubelet
from tubelet.cli.testing import viewer_of
from tubelet.config import Run, preset, to_json
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense
from tubelet.data.sources import find
from tubelet.data.synthetic import make
from tubelet.data.video import probe
from tubelet.evaluate.results import from_lines, numbers
from tubelet.evaluate.views import Views, multi_view
from tubelet.methods.supervised import Supervised
from tubelet.nn.classifier import Classifier
from tubelet.train.loop import train

NAMES = ("down", "left", "right", "up")


def network(kind: str = "class") -> tuple[Classifier, Run]:
    """A small classifier, freshly initialised but with a strong head, and its run."""
    run = preset("videomae-demo")
    encoder = replace(run.encoder, width=32, depth=1, heads=2, hidden=64)
    data = replace(run.data, clip=Dense(8, stride=1), size=(32, 32), labels=Labels(kind, NAMES))
    run = replace(run, encoder=encoder, data=data, method=Supervised(outputs=len(NAMES)))
    torch.manual_seed(0)
    return Classifier(encoder.build(run.grid(), 3), len(NAMES), scale=100.0).eval(), run


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a fine-tuned run."""
    folder = tmp_path_factory.mktemp("tuned")
    module, run = network()
    save_file(module.state_dict(), folder / "model.safetensors", {"run": to_json(run), "step": "1"})
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Sixteen videos of 24 frames, and a list of those of the four classes that the network knows."""
    folder = make(tmp_path_factory.mktemp("videos"), 16, frames=24, size=40, workers=1)
    rows = [f"{item.path},{item.label}" for item in find(folder) if item.label in NAMES]
    (folder / "known.csv").write_text("\n".join(rows))
    return folder


def test_it_prints_what_the_library_finds(tuned, videos, tmp_path, capsys):
    out = tmp_path / "found.jsonl"
    call = ["test", "--weights", str(tuned), "--data", str(videos / "known.csv"), "--views", "2x1", "--out", str(out)]
    assert tubelet([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    library = multi_view(viewer_of(tuned, "cpu", "float32"), find(videos / "known.csv"), Views(2, 1))
    assert from_lines(out) == library
    assert said["numbers"]["top1"]["value"] == numbers(library)["top1"].value
    assert said["videos"] == 8
    assert out.with_suffix(".png").is_file()
    assert tubelet(["test", "--results", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said
    assert tubelet([*call, "--classes", "shared"]) == 0
    words = capsys.readouterr().out
    assert f"top-1                   {said['numbers']['top1']['value']:.2f} %" in words
    assert "only the 4 classes that the test set has" in words


def test_what_was_measured_is_kept_in_the_run_that_it_is_of(tuned, videos, tmp_path, capsys):
    """The numbers that were printed, beside guessing, which for two videos of each of four classes is 25 %."""
    run = copytree(tuned, tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"run": json.loads(to_json(network()[1])), "data": str(videos)}))
    known = str(videos / "known.csv")
    call = ["test", "--weights", str(run), "--data", known, "--views", "1x1", "--json", "--quiet"]
    assert tubelet(call) == 0
    said = json.loads(capsys.readouterr().out)
    assert tubelet(call) == 0  # again
    assert tubelet([*call, "--views", "2x1"]) == 0
    capsys.readouterr()
    probe = ["probe", "knn", "--weights", str(run), "--data", known, "--test", known, "--k", "1", "--block", "0"]
    assert tubelet([*probe, "--random-too", "--json"]) == 0
    probed = json.loads(capsys.readouterr().out)
    first, second, third = json.loads((run / "results.json").read_text())
    assert first["numbers"] == said["numbers"]
    assert first["tested"] == "8 videos of 4 classes"
    assert first["chance"] == {"top1": 25.0, "mean_class_accuracy": 25.0}
    assert (first["how"], second["how"]) == ("1x1 views, mean of probabilities", "2x1 views, mean of probabilities")
    assert third["kind"] == "knn probe"
    for name, of in (("numbers", "trained"), ("untrained", "random")):
        assert {score: one["value"] for score, one in third[name].items()} == probed[of]["scores"]
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.count("<h3>Test on known.csv</h3>") == 2
    assert text.count("<h3>Knn probe on known.csv</h3>") == 1


def test_results_of_other_videos_are_not_replaced(tuned, videos, tmp_path, capsys):
    test = ["test", "--weights", str(tuned), "--views", "1x1", "--out", str(tmp_path / "found.jsonl"), "--quiet"]
    assert tubelet([*test, "--data", str(videos / "known.csv")]) == 0
    before = (tmp_path / "found.jsonl").read_bytes()
    assert tubelet([*test, "--data", str(videos / "known.csv")]) == 0  # the same again may be
    (tmp_path / "known.csv").write_text((videos / "known.csv").read_text().splitlines()[0])
    capsys.readouterr()
    assert tubelet([*test, "--data", str(tmp_path / "known.csv")]) == 2
    assert "something else than results of these videos" in capsys.readouterr().err
    assert (tmp_path / "found.jsonl").read_bytes() == before


def test_weights_of_an_interrupted_run_are_named(videos, tmp_path, capsys):
    run = preset("videomae-demo")
    encoder = replace(run.encoder, width=32, depth=1, heads=2, hidden=64)
    data = replace(run.data, clip=Dense(8, stride=1), size=(32, 32))
    run = replace(run, encoder=encoder, data=data, training=replace(run.training, epochs=3.0, batch=16))
    train(run, videos, tmp_path / "run", limit=1, quiet=True)
    embed = ["embed", str(videos / "up"), "--weights", str(tmp_path / "run"), "--out"]
    assert tubelet([*embed, str(tmp_path / "early.npy")]) == 0
    assert "is of a run that has done 1 of its 3 steps" in capsys.readouterr().err
    train(run, videos, tmp_path / "run", resume=True, quiet=True)
    assert tubelet([*embed, str(tmp_path / "whole.npy")]) == 0
    assert "steps" not in capsys.readouterr().err


def test_a_corrupt_video_is_reported_and_nothing_else_changes(tuned, videos, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    listed = (videos / "known.csv").read_text()
    (tmp_path / "with.csv").write_text(f"{listed}\n{tmp_path / 'bad.mp4'},up")
    said = []
    for source in (videos / "known.csv", tmp_path / "with.csv"):
        call = ["test", "--weights", str(tuned), "--data", str(source), "--views", "1x1", "--json"]
        assert tubelet([*call, "--out", str(tmp_path / f"{source.stem}.jsonl")]) == 0
        captured = capsys.readouterr()
        said.append(json.loads(captured.out))
    assert said[0]["numbers"] == said[1]["numbers"]
    assert [one["path"] for one in said[1]["unreadable"]] == [str(tmp_path / "bad.mp4")]
    assert "1 of 9 videos cannot be read" in captured.err
    rows = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("known", "with")]
    assert rows[1][:9] == rows[0]


def test_predict_says_the_same_as_test(tuned, videos, capsys, tmp_path):
    path = videos / "up" / "up_0001.mp4"
    assert tubelet(["predict", str(path), "--weights", str(tuned), "--json", "--top", "4"]) == 0
    said = json.loads(capsys.readouterr().out)
    (item,) = (item for item in find(videos / "known.csv") if item.path == path)
    (row,) = multi_view(viewer_of(tuned, "cpu", "float32"), [item], Views(1, 1)).rows
    assert len(said["windows"]) == 3
    middle = dict(said["windows"][1]["top"])
    assert [middle[name] for name in NAMES] == row.outputs
    assert said["windows"][1]["start"] == pytest.approx(8 / 12)


def test_predict_writes_what_its_ending_says(tuned, videos, capsys, tmp_path):
    path = str(videos / "up" / "up_0001.mp4")
    for ending in ("srt", "json", "csv"):
        out = tmp_path / f"out.{ending}"
        assert tubelet(["predict", path, "--weights", str(tuned), "--out", str(out), "--stride", "0.25"]) == 0
        assert out.stat().st_size
    assert "-->" in (tmp_path / "out.srt").read_text()
    assert path in capsys.readouterr().out
    overlay = tmp_path / "seen.mp4"
    assert tubelet(["predict", path, "--weights", str(tuned), "--overlay", str(overlay), "--smooth", "3"]) == 0
    assert probe(overlay).frames == 24


def test_predict_takes_patterns_folders_and_bad_files(tuned, videos, capsys, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    call = ["predict", str(videos / "up" / "*.mp4"), str(videos / "down"), str(bad), "--weights", str(tuned), "--json"]
    assert tubelet(call) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert len(lines) == 5
    assert "bad.mp4" in lines[-1]["error"]
    assert "1 of 5 videos cannot be read" in captured.err
    assert tubelet(["predict", str(bad), "--weights", str(tuned)]) == 1
    assert tubelet(["predict", str(tmp_path / "*.mov"), "--weights", str(tuned)]) == 1
    assert "nothing fits" in capsys.readouterr().err


def test_predict_reads_a_pipe(tuned, videos, capsys, monkeypatch, tmp_path):
    path = videos / "up" / "up_0001.mp4"
    stream = tmp_path / "up.ts"
    with av.open(os.fspath(path)) as source, av.open(os.fspath(stream), "w", format="mpegts") as sink:
        track = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                sink.mux(packet)
    call = ["--weights", str(tuned), "--stride", "0.25", "--json", "--top", "4"]
    with open(stream, "rb") as piped:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=piped))
        assert tubelet(["predict", "-", *call]) == 0
    *windows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert tubelet(["predict", str(path), *call]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [dict(one["top"]) for one in windows] == [
        {name: round(value, 4) for name, value in one["top"]} for one in said["windows"]
    ]
    assert [one["label"] for one in last["segments"]] == [one["label"] for one in said["segments"]]


def test_what_was_seen_before_an_interruption_is_kept(tuned, capsys, monkeypatch, tmp_path):
    def coming(*_):
        yield from ((n / 10, np.full((40, 40, 3), n, np.uint8)) for n in range(40))
        raise KeyboardInterrupt

    monkeypatch.setattr("tubelet.cli.predicting.coming", coming)
    out = tmp_path / "seen.csv"
    assert tubelet(["predict", "-", "--weights", str(tuned), "--out", str(out)]) == 130
    assert "segments" in capsys.readouterr().out
    assert out.read_text().splitlines()[0] == "path,start,end,label,probability"


def test_frame_folders_are_videos_too(tuned, capsys, tmp_path):
    for n in range(20):
        path = tmp_path / "frames" / f"img_{n + 1:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 48, 3), 10 * n, np.uint8)).save(path)
    assert tubelet(["predict", str(tmp_path / "frames"), "--weights", str(tuned), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["windows"]) == 3


def test_a_camera_needs_opencv(tuned, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert tubelet(["predict", "0", "--weights", str(tuned)]) == 2
    assert "tubelet[camera]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "match", "code"),
    [
        ("test --weights {tuned}", "--data", 2),
        ("test --weights {tuned} --data {videos}", "not in the class list", 2),
        ("test --weights {tuned} --data {videos}/known.csv --views 5", "as 5x3", 2),
        ("test --weights {tuned} --data {videos}/known.csv --out a.csv", ".jsonl", 2),
        ("test --weights nowhere --data {videos}/known.csv", "nowhere", 1),
        ("test --results {tuned}/model.safetensors", "results", 2),
        ("test --results a.jsonl --data {videos}", "leave out", 2),
        ("predict {videos}/up --weights {tuned} --out a.srt", "one video, not 2", 2),
        ("predict {videos}/up --weights {tuned} --overlay a.mp4", "one video file", 2),
        ("predict {videos}/up --weights {tuned} --out a.txt", "name a .json", 2),
        ("predict {videos}/up --weights {tuned} --window 0", "0 s every", 2),
        ("predict {videos}/up --weights {tuned} --smooth 0", "smoothing", 2),
        ("predict - --weights {tuned} --overlay a.mp4", "not a stream", 2),
    ],
)
def test_what_cannot_be_is_said(tuned, videos, capsys, call, match, code, monkeypatch):
    assert tubelet(call.format(tuned=tuned, videos=videos).split()) == code
    assert match in capsys.readouterr().err


def test_an_encoder_alone_is_not_enough(tmp_path, videos, capsys):
    module, run = network()
    save_file(module.encoder.state_dict(), tmp_path / "encoder.safetensors", {"run": to_json(run), "step": "1"})
    assert tubelet(["predict", str(videos / "up"), "--weights", str(tmp_path)]) == 2
    assert "fine-tune it first" in capsys.readouterr().err


def test_help_has_an_example():
    for verb in ("test", "predict"):
        assert tubelet([verb, "--help"]) == 0
