"""The command line as a person uses it: help, typos, every verb on four tiny videos, bad input, exit codes."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tubelet import config
from tubelet.cli import VERBS, run
from tubelet.data import sources
from tubelet.data.check import check
from tubelet.data.synthetic import make
from tubelet.methods import PRESETS
from tubelet.train.log import metrics

SMALL = """
from dataclasses import replace
from tubelet.config import preset
from tubelet.data.sampling import Dense

def run():
    r = preset("videomae-demo")
    return replace(r, training=replace(r.training, epochs=6, batch=4, workers=0, precision="float32"))
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("videos"), 8, workers=1)


@pytest.fixture
def preset(tmp_path, monkeypatch) -> str:
    """A preset of one's own, out of tree, that trains in a second."""
    (tmp_path / "my_presets.py").write_text(SMALL)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # a console script has no "" there
    monkeypatch.delitem(sys.modules, "my_presets", raising=False)
    monkeypatch.chdir(tmp_path)
    return "my_presets:run"


def width_of(path: str) -> int:
    with Image.open(path) as picture:
        return picture.width


def error(capsys, argv: list[str], code: int) -> str:
    """What a command that must fail says, which is no traceback."""
    assert run(argv) == code, capsys.readouterr()
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


# ---------------------------------------------------------------------------- help and typos


def test_overview_names_every_verb(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert run([]) == 2


KINDS = ["picture mask", "picture reconstruction", "picture attention", "picture curves", "picture space"]
KINDS += ["probe linear", "probe attentive", "probe knn"]


@pytest.mark.parametrize("verb", [*VERBS, *KINDS])
def test_help_of_every_verb_has_an_example(verb, capsys):
    assert run([*verb.split(), "--help"]) == 0
    assert f"tubelet {verb}" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("verb", [*VERBS, *KINDS])
def test_each_example_of_help_is_a_line_of_its_own(verb, capsys):
    run([*verb.split(), "--help"])
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("tubelet "):
            assert not re.search(r"(?<!&&)(?<!\|) tubelet ", line), line


@pytest.mark.parametrize("words", [["--help"], ["list"]])
def test_help_and_the_list_are_quick_since_they_import_no_torch(words):
    code = f"import sys; from tubelet.cli import run; sys.exit(run({words}) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_list_says_what_docstrings_begin_with(capsys):
    assert run(["list", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == PRESETS.keys()
    for name, where in PRESETS.items():
        module, function = where.split(":")
        assert said[name] == getattr(importlib.import_module(module), function).__doc__.splitlines()[0], name


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tubelet ")


def test_typos_are_answered_with_the_nearest(capsys):
    assert "Did you mean pretrain?" in error(capsys, ["pretrian"], 2)
    assert "Did you mean videomae-k400-b?" in error(capsys, ["pretrain", "videomae-k400-bb", "--data", "x"], 2)
    assert "Did you mean curves?" in error(capsys, ["picture", "curvs"], 2)
    assert "--method.mask.ratio" in error(capsys, ["plan", "videomae-demo", "--method.mask.ratoi", "0.5"], 2)


def test_a_preset_may_stand_behind_flags(capsys):
    assert run(["plan", "--videos", "100", "videomae-small-cpu", "--json"]) == 0
    behind = capsys.readouterr().out
    assert run(["plan", "videomae-small-cpu", "--videos", "100", "--json"]) == 0
    assert behind == capsys.readouterr().out


def test_a_flags_value_is_not_taken_for_the_preset(videos, tmp_path, capsys):
    assert "wants a preset first" in error(capsys, ["plan", "--data", "videomae-demo"], 2)


def test_check_takes_the_clip_of_a_preset(videos, capsys, monkeypatch):
    monkeypatch.setattr("tubelet.data.check.check", partial(check, workers=0))
    for preset, frames in (("videomae-demo", 8), ("videomae-k400-b", 16)):
        run(["check", str(videos), "--preset", preset, "--frames", "99", "--json"])
        assert json.loads(capsys.readouterr().out)["clip"].startswith(f"{frames} frames at stride")


def test_check_takes_the_wish_for_vectors_of_a_preset(videos, capsys, monkeypatch):
    monkeypatch.setattr("tubelet.data.check.check", partial(check, workers=0))
    for preset, said in (("videomae-k400-b", False), ("mgm-ssv2", True), ("mgmae-ssv2", False)):
        assert run(["check", str(videos), "--preset", preset]) == 0
        assert ("vectors     in all files" in capsys.readouterr().out) == said


def test_a_preset_is_wanted(capsys):
    assert "wants a preset first" in error(capsys, ["pretrain", "--data", "x"], 2)


# ---------------------------------------------------------------------------- verbs


def test_list(capsys):
    assert run(["list", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert "ViT-B, 1600 epochs" in about["videomae-k400-b"]


def test_plan_prints_stages_and_json(capsys):
    assert run(["plan", "videomae-k400-b", "--videos", "240436"]) == 0
    text = capsys.readouterr().out
    for fact in ("94,210,944", "0.0012 = 0.00015 x 2048 / 256", "160 visible", "768x8x20"):
        assert fact in text
    assert run(["plan", "videomae-demo", "--json", "--method.mask.ratio", "0.75"]) == 0
    assert "Tube, ratio 0.75" in capsys.readouterr().out


def test_train_look_and_repeat(videos, preset, tmp_path, capsys, monkeypatch):
    looked, read = [], sources.read
    monkeypatch.setattr(sources, "read", lambda source: looked.append(source) or read(source))
    assert run(["pretrain", preset, "--data", str(videos), "--out", "one", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["steps"] == 12
    assert looked == [str(videos)]  # once: of very many files it takes seconds
    assert "parameters" in err  # the plan comes before the first step
    assert "step 12/12" in err
    folder = tmp_path / "one"
    assert {p.name for p in folder.iterdir()} >= {"run.json", "metrics.jsonl", "encoder.safetensors", "report.html"}
    assert (folder / "pictures" / "reconstruction_90.gif").exists()
    assert (folder / "pictures" / "on_the_way" / "000012.png").exists()

    video = str(next(videos.rglob("*.mp4")))
    look = ["picture", "reconstruction", "--weights", "one", "--data", video, "--ratio", "0.75", "--out", "seen"]
    assert run(look) == 0
    written = capsys.readouterr().out.split()
    assert written
    assert all(width_of(path) > 200 for path in written)
    kept = [(path, path.read_bytes()) for path in Path("one/pictures").glob("reconstruction*")]
    assert kept
    assert run(look[:-2]) == 0
    beside = capsys.readouterr().out.split()
    assert all(Path(path).parent == Path("one/pictures", Path(video).stem) for path in beside), beside
    assert all(path.read_bytes() == before for path, before in kept)  # of the report
    assert run(["picture", "curves", "--run", "one", "--out", "curves.png"]) == 0
    assert (tmp_path / "curves.svg").exists()

    assert run(["pretrain", "one/run.json", "--data", str(videos), "--out", "two", "--quiet", "--no-pictures"]) == 0
    assert not (tmp_path / "two" / "pictures" / "on_the_way").exists()
    assert run(["picture", "curves", "--run", "one", "two"]) == 0
    assert width_of("one/pictures/curves_together.png") > 200
    capsys.readouterr()
    one, two = (metrics(tmp_path / name) for name in ("one", "two"))
    assert [line["loss"] for line in one] == [line["loss"] for line in two]


def test_mask_picture_needs_no_weights(videos, tmp_path, capsys):
    video = str(next(videos.rglob("*.mp4")))
    flags = ["--size", "64", "64", "--stride", "1", "--frames", "8", "--out", str(tmp_path / "mask.gif")]
    assert run(["picture", "mask", "--data", video, "--kind", "random", *flags]) == 0
    with Image.open(tmp_path / "mask.gif") as film:
        assert film.n_frames == 8


def test_check_finds_trouble(videos, tmp_path, capsys, monkeypatch):
    assert run(["check", str(videos)]) == 0
    assert "8 videos" in capsys.readouterr().out
    monkeypatch.setattr("tubelet.data.check.check", partial(check, workers=0))
    (tmp_path / "bad.mp4").write_text("no video")
    assert run(["check", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["totals"]["problems"] == 1


def test_doctor(capsys):
    assert run(["doctor", "--json"]) == 0
    assert {"PyTorch", "FFmpeg"} <= {check["name"] for check in json.loads(capsys.readouterr().out)}


def test_demo_short(tmp_path, capsys):
    out = tmp_path / "demo"
    assert run(["demo", "--out", str(out), "--short"]) == 0
    text = capsys.readouterr().out
    assert "motions" in text
    result = json.loads((out / "results.json").read_text())[0]
    assert {"trained", "untrained", "one_frame", "chance"} <= set(result)
    page = (out / "report.html").read_text()
    assert "Which way does it move?" in page
    assert "not empty" in error(capsys, ["demo", "--out", str(out), "--short"], 2)


def test_demo_on_own_videos(videos, tmp_path, capsys, monkeypatch):
    """With a smaller network, and checked in this process: the test above is the demo as it is."""
    demonstrated = config.preset("videomae-small-cpu")
    encoder, training = replace(demonstrated.encoder, depth=1), replace(demonstrated.training, batch=4)
    monkeypatch.setattr("tubelet.demo.preset", lambda _: replace(demonstrated, encoder=encoder, training=training))
    monkeypatch.setattr("tubelet.demo.check", partial(check, workers=0))
    assert run(["demo", "--out", str(tmp_path / "mine"), "--videos", str(videos), "--short"]) == 0
    assert (tmp_path / "mine" / "report.html").exists()


# ---------------------------------------------------------------------------- bad input


def test_data_that_cannot_be_used(tmp_path, preset, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello")
    (tmp_path / "list.csv").write_text("gone.mp4\nalso_gone.mp4\n")
    for data, words in [
        ("nowhere", "nowhere"),
        ("empty", "empty"),
        ("texts", ".txt"),
        ("list.csv", "gone.mp4"),
    ]:
        code = run(["pretrain", preset, "--data", data, "--out", "run", "--quiet"])
        text = capsys.readouterr().err
        assert code in (1, 2)
        assert words in text
        assert "Traceback" not in text
        assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_used(videos, preset, tmp_path, capsys):
    base = ["pretrain", preset, "--data", str(videos), "--out", "run", "--quiet"]
    for flags, words in [
        (["--method.mask.ratio", "0"], "mask ratio 0"),
        (["--method.mask.ratio", "1"], "mask ratio 1"),
        (["--method.mask.ratio", "2"], "mask ratio 2"),
        (["--data.size", "30", "32"], "height 30 does not divide into cubes of 8; use 24 or 32"),
        (["--method.predict", "0"], "--method.predict 0"),
        (["--training.device", "tpu"], "'tpu' cannot be used here"),
        (["--device", "abacus"], "'abacus' cannot be used here"),
        (["--training.threads", "-1"], "--training.threads -1"),
        (["--training.workers", "-7"], "--training.workers -7"),
        (["--training.epochs", "nan"], "--training.epochs nan"),
        (["--training.seed", "-1"], "--training.seed -1"),
        (["--encoder.heads", "0"], "--encoder.heads 0"),
        (["--encoder.patch", "0", "8", "8"], "--encoder.patch (0, 8, 8)"),
        (["--encoder.width", "0"], "--encoder.width 0"),
        (["--encoder.hidden", "0"], "--encoder.hidden 0"),
        (["--optim.clip", "-1"], "--optim.clip -1.0"),
        (["--optim.weight-decay", "-1"], "--optim.weight-decay -1"),
        (["--method.decoder.depth", "0"], "must all be above 0"),
        (["--device", "cpu:x"], "'cpu:x' cannot be used"),
    ]:
        assert words in error(capsys, base + flags, 2)
        assert not (tmp_path / "run").exists()


def test_used_folder_and_resume_of_another_run(videos, preset, capsys):
    base = ["pretrain", preset, "--data", str(videos), "--out", "run", "--quiet"]
    assert run(base) == 0
    capsys.readouterr()
    assert "add --resume" in error(capsys, base, 2)
    assert "optim.base_lr: 0.016 -> 0.5" in error(capsys, [*base, "--resume", "--optim.base-lr", "0.5"], 2)
    assert run([*base, "--resume"]) == 0  # a finished run has nothing left to do


def test_weights_that_are_none(tmp_path, capsys):
    (tmp_path / "x.mp4").touch()
    look = ["picture", "reconstruction", "--weights", str(tmp_path), "--data", str(tmp_path / "x.mp4")]
    assert "no checkpoints/last.pt" in error(capsys, look, 1)
    look[3] = str(tmp_path / "nope")
    assert f"no such file or folder: {tmp_path / 'nope'} (looked in" in error(capsys, look, 1)


@pytest.mark.parametrize("kind", ["zero", "text", "audio"])
def test_videos_that_cannot_be_read_leave_nothing_behind(kind, preset, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    content = {"zero": b"", "text": b"a letter" * 200, "audio": b"RIFF\x24\x00\x00\x00WAVEfmt "}[kind]
    (tmp_path / "bad" / "film.mp4").write_bytes(content)
    text = error(capsys, ["pretrain", preset, "--data", "bad", "--out", "run", "--quiet"], 1)
    assert "film.mp4" in text
    assert not (tmp_path / "run").exists()
    assert "film.mp4" in error(capsys, ["picture", "mask", "--data", "bad/film.mp4"], 1)


def test_resume_on_other_videos_is_refused(videos, preset, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for path in list(videos.rglob("*.mp4"))[:5]:
        (tmp_path / "mine" / path.name).write_bytes(path.read_bytes())
    base = ["pretrain", preset, "--out", "run", "--quiet", "--data"]
    assert run([*base, "mine"]) == 0
    assert "trained on 5 videos of mine" in error(capsys, [*base, str(videos), "--resume"], 2)
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert run([*base, "moved", "--resume"]) == 0  # the same videos elsewhere


def test_two_demos_do_not_share_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr("tubelet.demo.demo", lambda out, *_, **__: begun.append(out) or out.mkdir(parents=True))
    assert run(["demo"]) == run(["demo"]) == 0
    assert [path.name for path in begun] == ["demo", "demo-2"]


# ---------------------------------------------------------------------------- from labels to answers


def test_split_finetune_test_predict_probe_embed_one_after_the_other(preset, capsys, tmp_path):
    videos = make(tmp_path / "made", 16, workers=1)  # two of each class
    assert run(["pretrain", preset, "--data", str(videos), "--out", "runs/a", "--quiet"]) == 0
    assert run(["split", str(videos / "labels.csv"), "--out", "lists", "--shares", "0.5", "0.5", "0"]) == 0
    tuning = ["finetune", "finetune-few-cpu", "--data", "lists/train.csv", "--validation", "lists/val.csv"]
    few = [
        "--data.size",
        "32",
        "32",
        "--training.epochs",
        "4",
        "--training.batch",
        "4",
        "--training.precision",
        "float32",
    ]
    clip = ["--data.clip.frames", "8", "--method.cells", "4", "2", "2", "--quiet"]
    text = error(capsys, [*tuning, "--weights", "runs/a", *few, *clip], 2)
    assert "position" in text
    assert "--as-weights" in text
    assert run([*tuning, "--weights", "runs/a", "--as-weights", "--out", "runs/b", *few, *clip, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(told["model"]).is_file()
    assert Path(told["best_model"]).is_file()
    assert told["best"] >= told["validation_top1"]
    again = error(capsys, [*tuning, "--weights", "runs/a", "--as-weights", "--out", "runs/b", *few, *clip], 2)
    assert "add --resume" in again

    assert run(["test", "--weights", "runs/b", "--data", "lists/val.csv", "--views", "1x1", "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["numbers"]["top1"]["value"] == pytest.approx(told["validation_top1"])
    assert run(["predict", str(videos), "--weights", "runs/b", "--json"]) == 0
    capsys.readouterr()
    assert run(["embed", "lists/val.csv", "--weights", "runs/b", "--out", "features.npy"]) == 0
    assert Path("features.npy").is_file()
    capsys.readouterr()
    probe = [
        "probe",
        "knn",
        "--weights",
        "runs/a",
        "--data",
        "lists/train.csv",
        "--test",
        "lists/val.csv",
        "--block",
        "0",
    ]
    assert run([*probe, "--k", "5", "--json"]) == 0


def test_fine_tuning_refuses_what_it_cannot_learn(videos, capsys, tmp_path):
    one = tmp_path / "one" / "up"
    one.mkdir(parents=True)
    (one / "a.mp4").write_bytes(b"")
    assert "one class" in error(capsys, ["finetune", "finetune-few-cpu", "--data", str(tmp_path / "one")], 2)
    bare = error(capsys, ["finetune", "finetune-few-cpu", "--data", str(one)], 2)
    assert "no label" in bare
    wrong = error(capsys, ["finetune", "videomae-demo", "--data", str(videos)], 2)
    assert "finetune-" in wrong


def test_short_flags_change_the_recipe(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{path},{n}|{-n}" for n, path in enumerate(sorted(videos.rglob("*.mp4")))]
    (tmp_path / "values.csv").write_text("path,label\n" + "\n".join(rows))
    tune = ["finetune", "finetune-few-cpu", "--training.epochs", "1", "--training.batch", "4", "--quiet", "--out"]
    assert run([*tune, "a", "--data", "values.csv", "--labels", "values"]) == 0
    assert "values are not mixed" in capsys.readouterr().err
    recipe = ["--erase", "0.5", "--mixup", "0", "--cutmix", "0", "--augment", "rand-m5-n1-mstd0.5-inc1"]
    assert run([*tune, "b", "--data", str(videos), *recipe]) == 0
    card = json.loads(Path("b/run.json").read_text())["run"]
    assert card["method"]["mix"] is None
    assert card["method"]["erase"]["probability"] == 0.5
    assert card["data"]["augment"]["magnitude"] == 5
    capsys.readouterr()
    assert run(["test", "--weights", "b", "--data", str(videos), "--views", "1x1"]) == 0
    assert "8 of 8 videos were trained on" in capsys.readouterr().err
    assert "learns labels" in error(capsys, ["pretrain", "finetune-few-cpu", "--data", str(videos)], 2)
    assert "--weights, which were not given" in error(capsys, [*tune, "c", "--data", str(videos), "--new-head"], 2)
