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
from tubelet.export.folder import to_hugging_face
from tubelet.export.trained import encoder_fits
from tubelet.finetuning import Initial, as_weights, finetune
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.classifier import Classifier
from tubelet.nn.patches import resized, sinusoid
from tubelet.train.checkpoint import load_classifier, load_encoder
from tubelet.train.loop import train
from tubelet.train.start import fitting
from tubelet.types import Grid
from tubelet.weights.attention import heads_of
from tubelet.weights.found import Asked
from tubelet.weights.load import converted, network
from tubelet.weights.report import Report

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
    state = fitting(again, str(whole), inflate=False).state
    out = train(
        replace(again, optim=replace(again.optim, base_lr=0.0, min_lr=0.0)), films, tmp_path / "run", quiet=True
    )
    trained, _ = load_encoder(out)
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    said = (out / "notes.txt").read_text()
    assert f"step 0: {whole}: VideoMAE, pre-trained: 64 wide, 2 deep" in said
    assert "left out: 19, a decoder; the encoder is used without it" in said
    new = [name for name in tubelet.load(out).state_dict() if not name.startswith("encoder.")]
    assert f"newly initialised: {len(new)}, what the encoder is trained with" in said
    with pytest.raises(ValueError, match=r"another shape.*width: 64 -> 32"):
        fitting(replace(again, encoder=replace(encoder, width=32)), str(whole), inflate=False)


@pytest.fixture
def doubtful(tmp_path) -> Path:
    """Fine-tuned weights whose biases of queries were lost."""
    theirs = noise(finetuned(*TINY, 3))
    lost = {name: torch.zeros(64) for name in theirs if name.endswith("q_bias")}
    save_file(theirs | lost, tmp_path / "doubtful.safetensors")
    return tmp_path / "doubtful.safetensors"


WARNING = r"doubtful\.safetensors: attn\.q_bias is zero in all 2 blocks"


@pytest.mark.parametrize("load", [tubelet.load, load_encoder, load_classifier])
def test_weights_that_look_untrained_are_warned_of(doubtful, load):
    with pytest.warns(UserWarning, match=WARNING):
        load(doubtful)
    _, report = tubelet.load_with_report(doubtful)
    assert len(report.warnings) == 1
    ours = doubtful.with_suffix(".safetensors")
    ours.write_bytes(converted(doubtful, Asked(heads=2))[0])
    with pytest.warns(UserWarning, match=WARNING):
        load(ours)


def test_what_cannot_be_asked_is_refused(tmp_path):
    torch.save({"model": noise(pretrained(*TINY, 16, 1, 32))}, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"has no head; leave out --labels and --rows"):
        network(tmp_path / "whole.pth", Asked(heads=2, rows=(900,)))
    for name, value in (("heads", 0), ("frames", 0), ("size", (32, 0))):
        with pytest.raises(ValueError, match=f"--{name} .* cannot be; expected 1 or more"):
            Asked(**{name: value})


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for asked in (Asked(), Asked(heads=2)):
        with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*missing\.pth"):
            tubelet.load(tmp_path / "missing.pth", asked)


def test_narrow_widths_are_of_released_decoders_only(tmp_path):
    report = Report(tmp_path)
    assert heads_of(640, None, report) == 10
    assert heads_of(640, None, report, "heads in the decoder") == 8


def test_the_pictures_of_others_are_imagined_by_their_decoder(tmp_path, films, capsys):
    torch.save({"model": noise(pretrained(*TINY, 16, 1, 32))}, tmp_path / "whole.pth")
    words = ["picture", "reconstruction", "--data", str(films), "--ratio", "0.75", "--out", str(tmp_path / "out")]
    assert command([*words, "--weights", str(tmp_path / "whole.pth")]) == 0
    assert (tmp_path / "out" / "reconstruction_75.png").stat().st_size > 2000
    torch.save({"module": noise(finetuned(*TINY, 2))}, tmp_path / "tuned.pth")
    assert command([*words, "--weights", str(tmp_path / "tuned.pth")]) == 2
    assert "is a Classifier without a decoder; give the folder of a run" in capsys.readouterr().err


def test_a_fine_tuning_keeps_in_its_notes_what_was_done_with_the_weights(tmp_path, films, doubtful):
    run = small(preset("finetune-small-cpu"), init=str(doubtful), cells=None, init_heads=2)
    run = as_weights(run, str(doubtful))
    assert run.encoder.heads == 2
    with pytest.warns(UserWarning, match=WARNING):
        out = finetune(run, films, tmp_path / "run", new_head=True, quiet=True)
    said = (out / "notes.txt").read_text()
    for line in (
        "matched: 29",
        "reshaped: 1, a convolution as a matrix",
        "left out: 2, a head for other classes",
        "newly initialised: 2, a head for these labels (head.weight, head.bias)",
        "note: clips of 16x224x224 then, of 4x32x32 now: the fixed positions are computed anew",
        "WARNING: attn.q_bias is zero in all 2 blocks",
    ):
        assert f"step 0: {line}" in said
    with pytest.raises(ValueError, match=r"--method\.init-heads is about the weights"):
        replace(run.method, init=None, outputs=2).build(run.encoder, run.grid(), 3)


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ("probe knn --data {films} --test {films} --weights {whole} --block 1 --k 1", "a decoder"),
        (
            "probe attentive --data {films} --test {films} --weights {tuned} --epochs 1 --probe-heads 1 --lr 0.001 "
            "--weight-decay 0.1",
            "a head",
        ),
        ("embed {films} --weights {tuned} --out {out}/f.npy", None),
        ("predict {films}/left/0.mp4 --weights {tuned}", None),
        ("test --weights {tuned} --data {films} --views 1x1 --out {out}/r.jsonl", None),
        ("similar {films}/left/0.mp4 --features {table}/t.npy --weights {whole}", "a decoder"),
    ],
    ids=["knn", "attentive", "embed", "predict", "test", "similar"],
)
def test_verbs_say_once_what_was_done_and_take_what_no_shape_tells(tmp_path, films, capsys, words, left_out):
    torch.save({"model": noise(pretrained(*TINY, 16, 1, 32))}, tmp_path / "whole.pth")
    torch.save({"module": noise(finetuned(*TINY, 2))}, tmp_path / "tuned.pth")
    names = {"films": films, "out": tmp_path, "table": tmp_path}
    (tmp_path / "names.txt").write_text("left\nright\n")
    clip = ["--heads", "2", "--frames", "4", "--size", "32", "32", "--positions", "interpolated"]
    for kind in ("whole", "tuned"):
        names[kind] = tmp_path / f"{kind}.pth"
    if "similar" in words:
        assert (
            command(
                ["embed", str(films / "right"), "--weights", str(names["whole"]), *clip, "--out", f"{tmp_path}/t.npy"]
            )
            == 0
        )
    if "test" in words.split()[0]:
        named = Asked(2, 4, (32, 32), labels=("left", "right"), positions="interpolated")
        (tmp_path / "tuned.safetensors").write_bytes(converted(names["tuned"], named)[0])
        with pytest.raises(ValueError, match="leave out what is for weights of others"):
            load_classifier(tmp_path / "tuned.safetensors", Asked(heads=2))
        names["tuned"], clip = tmp_path / "tuned.safetensors", []
    capsys.readouterr()
    assert command([*(word.format(**names) for word in words.split()), *clip]) == 0
    said = capsys.readouterr().err
    if clip:
        assert said.count(": VideoMAE, ") == 1
        assert "positions were interpolated from 8x14x14 to 2x2x2 tokens" in said
        assert "--heads says otherwise" not in said
        assert (left_out is None) == ("left out" not in said)
        assert left_out is None or f", {left_out}; the encoder is used without it" in said
    else:
        assert "matched" not in said


def test_heads_change_the_features_that_are_written(tmp_path, films):
    tuned = tmp_path / "tuned.pth"
    torch.save({name: 8 * value for name, value in noise(finetuned(*TINY, 3)).items()}, tuned)
    words = ["embed", str(films), "--weights", str(tuned), "--frames", "4", "--size", "32", "32", "--out"]
    assert command([*words, f"{tmp_path}/one.npy", "--heads", "1"]) == 0
    assert command([*words, f"{tmp_path}/two.npy", "--heads", "2"]) == 0
    assert not np.allclose(np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"), rtol=1e-3)
    assert command([*words, f"{tmp_path}/two.npy", "--heads", "1"]) != 0  # another network: nothing goes on from it


def test_weights_to_start_from_take_heads_and_positions(tmp_path, films, whole):
    words = f"--data {films} --weights {whole} --heads 2 --positions interpolated --device cpu --quiet".split()
    shape = "--encoder.width 64 --encoder.depth 2 --encoder.heads 2 --encoder.hidden 128 --encoder.patch 2 16 16"
    steps = "--data.clip.frames 4 --data.size 32 32 --training.epochs 1 --training.batch 2 --training.workers 0"
    place = "--encoder.position index --encoder.drop-path 0"
    assert (
        command(["pretrain", "videomae-demo", *words, *f"{shape} {steps} {place}".split(), "--out", f"{tmp_path}/a"])
        == 0
    )
    assert (
        command(
            [
                "finetune",
                "finetune-small-cpu",
                *words,
                *f"{steps} --method.cells None --as-weights".split(),
                "--out",
                f"{tmp_path}/b",
            ]
        )
        == 0
    )
    table = resized(sinusoid(1568, 64), (8, 14, 14), (2, 2, 2))
    for folder in ("a", "b"):
        encoder, run = load_encoder(tmp_path / folder)
        assert (run.encoder.heads, run.encoder.interpolated) == (2, (8, 14, 14))
        assert torch.equal(encoder.position(), table)
    with pytest.raises(ValueError, match=r"has no word for encoder\.interpolated \(8, 14, 14\)"):
        encoder_fits(run)
    with pytest.raises(ValueError, match="heads: 1 -> 2"):
        fitting(run, str(whole), inflate=False)


def test_fixed_positions_of_every_kind_are_interpolated_and_kept(tmp_path, whole):
    asked = Asked(frames=32, size=(224, 448), positions="interpolated")
    words = [str(whole), str(tmp_path / "w.safetensors"), "--frames", "32", "--size", "224", "448"]
    assert command(["convert", *words, "--positions", "interpolated"]) == 0
    for module in (network(whole, asked)[0], tubelet.load(tmp_path / "w.safetensors")):
        for part, width in ((module.encoder, 64), (module.decoder, 16)):
            assert torch.equal(part.position(), resized(sinusoid(1568, width), (8, 14, 14), (16, 14, 28)))
    with pytest.raises(ValueError, match="interpolated and inflated at once"):
        converted(whole, asked, inflate=2)
    learnt = replace(load_encoder(whole)[1].encoder, position="learned", interpolated=(8, 14, 14))
    with pytest.raises(ValueError, match=r"--encoder\.interpolated .* with positions learned"):
        learnt.build(Grid(2, 2, 2), 3)


def test_fixed_positions_are_computed_anew_or_interpolated(tuned):
    assert torch.equal(network(tuned)[0].encoder.position(), sinusoid(1568, 64))
    anew, report = network(tuned, Asked(frames=32, size=(112, 112)))
    assert torch.equal(anew.encoder.position(), sinusoid(16 * 7 * 7, 64))
    assert "trained on 8x14x14 tokens: the fixed positions are computed anew for 16x7x7" in str(report)
    between, report = network(tuned, Asked(frames=16, size=(224, 448), positions="interpolated"))
    table = resized(sinusoid(1568, 64), (8, 14, 14), (8, 14, 28))
    assert torch.equal(between.encoder.position(), table)
    assert "the fixed positions were interpolated from 8x14x14 to 8x14x28 tokens" in str(report)


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
    assert "matched: 29" in said
    assert "reshaped: 2, 2 of 3 rows, as asked (head.weight, head.bias)" in said
    assert "reshaped: 1, a convolution as a matrix" in said
    network, run = load_classifier(tmp_path / "out.safetensors")
    assert (run.data.labels.names, run.encoder.heads, len(network.head.bias)) == (("jump", "run"), 2, 2)
    assert command([*words, "--dry", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dst"] is None
    assert said["tensors"]["head.weight"] == {"what": "reshaped", "why": "2 of 3 rows, as asked"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{src}", "out.pth"], "let its name end with .safetensors"),
        (["gone.pth", "out.safetensors"], "no such file: gone.pth"),
        (["{src}", "out.safetensors", "--inflate", "2"], "these weights are of a video encoder already"),
        (["{src}", "out.safetensors", "--inflate", "-2"], "--inflate -2 cannot be"),
        (["{src}", "out.safetensors", "--rows", "{src}"], "is no JSON list of rows"),
    ],
)
def test_the_verb_names_what_is_wrong(tmp_path, tuned, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert command(["convert", *(word.format(src=tuned) for word in words)]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


# A ViT-B with 400 classes, loaded in a process of its own that has loaded a small one before (what is imported does not
# count); then every value is read, since both map the file.
MEASURED = """
import sys, torch
torch.set_num_threads(1)
from tubelet.weights.load import network
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
def read(file):
    module, report = network(file)
    return sum(float(value.sum()) for value in module.state_dict().values())
read(sys.argv[1])
before = peak()
read(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.parametrize("layout", ["VideoMAE's", "transformers', queries, keys and values apart"])
def test_loading_takes_little_more_memory_than_the_file(layout, tmp_path):
    files = []
    for name, shape in {"small": (64, 1, 128, 3), "b": (768, 12, 3072, 400)}.items():
        files.append(tmp_path / name / "model.safetensors")
        files[-1].parent.mkdir()
        save_file(noise(finetuned(*shape)), files[-1])
        if layout != "VideoMAE's":
            state = {key: value.clone() for key, value in tubelet.load(files[-1]).state_dict().items()}
            save_file(to_hugging_face(state, (2, 16, 16)), files[-1])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, files)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.3 * files[-1].stat().st_size
