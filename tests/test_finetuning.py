"""Fine-tuning from start to end: weights in, labels, validation, best and last, resume, and what must be refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tubelet.cli import run as command
from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense
from tubelet.data.sources import Item, find
from tubelet.data.transforms import RandomResizedCrop
from tubelet.data.writing import write
from tubelet.export.official import write_official
from tubelet.finetuning import Initial, as_weights, balanced, completed, finetune
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked
from tubelet.methods.mixing import Erasing, Mix
from tubelet.methods.supervised import Supervised
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_classifier, load_encoder
from tubelet.train.log import metrics
from tubelet.train.loop import train

TIMINGS = ("seconds", "clips_per_second", "data_wait")
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
ENCODER = Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Class folders of films of one colour, to train on and to measure on: a task that a tiny network learns."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for part, count in (("train", 4), ("more", 2)):
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                frames = np.full((8, 32, 32, 3), colour) + rng.integers(-20, 20, (8, 32, 32, 3))
                write(folder / part / name / f"{number}.mp4", frames.astype(np.uint8), 10)
    return folder


def tuning(method: Supervised | None = None, **training) -> Run:
    settings = {"epochs": 10, "batch": 6, "workers": 0, "precision": "float32", "save_every": 4, "validate_every": 2}
    return Run(
        encoder=replace(ENCODER, drop_path=0.1),
        method=method or Supervised(mix=Mix(), erase=Erasing(0.5), dropout=0.1),
        data=Data(clip=Dense(4, stride=1), size=(16, 16), crop=RandomResizedCrop((0.5, 1.0))),
        optim=Optim(base_lr=0.2, warmup=1, betas=(0.9, 0.999), layer_decay=0.8),
        training=Training(**(settings | training)),
    )


def kept(run: Run) -> Run:
    """A long run, which reads its videos once."""
    return replace(run, data=replace(run.data, cache=32))


@pytest.fixture(scope="module")
def pretrained(films, tmp_path_factory) -> Path:
    run = replace(tuning(epochs=1), encoder=ENCODER, method=Masked(Tube(0.5), decoder=Decoder(16, 1, 2)))
    return train(run, films / "train", tmp_path_factory.mktemp("runs") / "pretrained", quiet=True)


@pytest.fixture(scope="module")
def tuned(films, pretrained, tmp_path_factory) -> Path:
    run = kept(tuning(replace(tuning().method, init=str(pretrained)), epochs=40))
    out = tmp_path_factory.mktemp("runs") / "tuned"
    return finetune(run, films / "train", out, validation=films / "more", quiet=True)


def facts(folder: Path) -> list[dict[str, float]]:
    """The metrics without the timings."""
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in metrics(folder)]


def test_it_learns_from_weights_and_keeps_the_last_and_the_best(tuned, films):
    lines = [line for line in metrics(tuned) if "validation_top1" in line]
    assert [line["step"] for line in lines] == list(range(4, 81, 4))
    assert lines[-1]["validation_top1"] == 100
    network, run = load_classifier(tuned)
    assert run.data.labels == Labels("class", ("blue", "green", "red"))
    best, _ = load_classifier(tuned / "best.safetensors")
    first = next(line for line in lines if line["validation_top1"] == max(each["validation_top1"] for each in lines))
    with safe_open(tuned / "best.safetensors", "pt") as file:
        assert int(file.metadata()["step"]) == first["step"]
    assert not torch.equal(best.head.weight, network.head.weight) or first is lines[-1]
    patches = inputs(
        torch.full((1, 3, 4, 16, 16), 40, dtype=torch.uint8)
        + torch.tensor([0, 160, 0], dtype=torch.uint8).view(3, 1, 1, 1),
        (2, 8, 8),
    )
    assert network(patches).argmax() == 1, "green"


@pytest.mark.parametrize(
    "method",
    [None, Supervised(average=0.9), Supervised(lora=2), Supervised(freeze=1, mix=Mix(0.2, 0.0))],
    ids=["plain", "average", "lora", "freeze"],
)
def test_a_resumed_run_is_the_same_bit_for_bit(films, tmp_path, method):
    run = tuning(method, epochs=6, batch=4, accumulate=2, save_every=1)
    whole = finetune(run, films / "train", tmp_path / "whole", validation=films / "more", quiet=True)
    finetune(run, films / "train", tmp_path / "cut", validation=films / "more", quiet=True, limit=7)
    cut = finetune(run, films / "train", tmp_path / "cut", validation=films / "more", quiet=True, resume=True)
    assert facts(whole) == facts(cut)
    for name in ("model", "best"):
        left, right = (load_classifier(folder / f"{name}.safetensors")[0].state_dict() for folder in (whole, cut))
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_weights_go_in_whole_and_what_is_left_out_or_new_is_said(films, pretrained, tuned, tmp_path):
    run = completed(tuning(), find(films / "train"))
    network = run.method.build(run.encoder, run.grid(), 3).network
    init = Initial.of(run, str(pretrained), new_head=False)
    report = init.into(network)
    encoder, _ = load_encoder(pretrained)
    for name, value in encoder.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(network.encoder.state_dict()[name], value), name
    assert report.tensors["norm.weight"] == ("left out", "the norm for a decoder; a head has its own")
    assert set(report.fresh) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert report.count("matched") == len(encoder.state_dict()) - 2
    again = Initial.of(run, str(tuned / "best.safetensors"), new_head=False)
    again.into(network)
    best = load_classifier(tuned / "best.safetensors")[0].state_dict()
    assert all(torch.equal(best[name], value) for name, value in network.state_dict().items())
    larger = replace(run, data=replace(run.data, size=(32, 32)))
    assert "positions are computed anew" in "".join(Initial.of(larger, str(pretrained), False).report.notes)
    lora = replace(run, method=replace(run.method, lora=2))
    with_lora = lora.method.build(lora.encoder, lora.grid(), 3)
    report = Initial.of(lora, str(tuned), False).into(with_lora.network)
    assert report.count("left out") == 0
    assert len(report.fresh) == len(with_lora.network.state_dict()) - report.count("matched")
    kept, expected = with_lora.exported()["model"], load_classifier(tuned)[0].state_dict()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_a_chain_of_label_sets_begins_with_a_fresh_head_only_when_asked(films, tuned, tmp_path):
    for name in ("warm", "cold"):
        (tmp_path / "two" / name).mkdir(parents=True)
    shutil.copy(films / "train" / "red" / "0.mp4", tmp_path / "two" / "warm")
    shutil.copy(films / "train" / "blue" / "0.mp4", tmp_path / "two" / "cold")
    run = tuning(Supervised(init=str(tuned)), epochs=2, batch=2)
    with pytest.raises(ValueError, match=r"3 other classes \(blue, green, red\).*--new-head"):
        finetune(run, tmp_path / "two", tmp_path / "chain", quiet=True)
    assert not (tmp_path / "chain").exists()
    chain = finetune(run, tmp_path / "two", tmp_path / "chain", new_head=True, quiet=True)
    assert load_classifier(chain)[1].data.labels == Labels("class", ("cold", "warm"))


def test_a_teacher_is_followed_and_must_fit(films, tuned, tmp_path):
    run = kept(tuning(Supervised(teacher=str(tuned), teacher_share=1.0, smoothing=0.0), epochs=60))
    folder = finetune(run, films / "train", tmp_path / "student", quiet=True)
    first, last = (np.mean([line["loss"] for line in part]) for part in (metrics(folder)[:6], metrics(folder)[-6:]))
    assert last < 0.5 * first
    larger = replace(run, data=replace(run.data, size=(32, 32)))
    with pytest.raises(ValueError, match=r"teacher.*4x16x16.*4x32x32"):
        finetune(larger, films / "train", tmp_path / "other", quiet=True)


def test_a_teacher_of_others_is_told_of_beside_the_weights_to_start_from(films, pretrained, tuned, tmp_path, capsys):
    write_official(tuned, tmp_path / "theirs.pth")
    (tmp_path / "names.txt").write_text("\n".join(load_classifier(tuned)[1].data.labels.names))
    words = ["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors"), "--heads", "2"]
    told = ["--frames", "4", "--size", "16", "16", "--labels", str(tmp_path / "names.txt")]
    assert command([*words, *told]) == 0
    run = tuning(Supervised(teacher=str(tmp_path / "ours.safetensors"), init=str(pretrained)), epochs=1)
    finetune(run, films / "train", tmp_path / "run", limit=1)
    finetune(run, films / "train", tmp_path / "run", resume=True)
    said, notes = capsys.readouterr().err, (tmp_path / "run" / "notes.txt").read_text()
    for text in (said, notes):
        for line in (f"{pretrained}/encoder.safetensors: tubelet", "converted from theirs.pth", "this is the teacher"):
            assert text.count(line) == 1, (line, text)


def test_values_are_learnt_in_their_own_units(films, tmp_path):
    lines = ["path,label"]
    lines += [
        f"{films / 'train' / name / f'{n}.mp4'},{1000 + 50 * place}|{-place}"
        for place, name in enumerate(COLOURS)
        for n in range(4)
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    run = kept(tuning(Supervised(labels="values"), epochs=40))
    folder = finetune(run, tmp_path / "list.csv", tmp_path / "values", validation=tmp_path / "list.csv", quiet=True)
    _, run = load_classifier(folder)
    assert run.data.labels.offset == pytest.approx((1050, -1))
    assert run.data.labels.unit == pytest.approx((50 * (2 / 3) ** 0.5, (2 / 3) ** 0.5))
    assert metrics(folder)[-1]["validation_r2"] > 0.8


def test_classes_can_count_alike(films, tmp_path):
    items = find(films / "train")
    few = [item for item in items if item.label != "red"] + [item for item in items if item.label == "red"][:1]
    weights = balanced(tuning(), few).method.class_weights  # blue, green, red: 4, 4, 1 videos
    assert np.array(weights) * (4, 4, 1) == pytest.approx([weights[2]] * 3)
    assert np.mean(weights) == pytest.approx(1)


def test_another_encoder_is_refused_with_the_differences_or_taken_over(films, pretrained, tmp_path):
    run = tuning(Supervised(init=str(pretrained)))
    other = replace(run, encoder=Encoder(width=48, depth=2, heads=4, hidden=48, patch=(2, 8, 8), drop_path=0.2))
    with pytest.raises(ValueError, match=r"width: 24 -> 48; heads: 2 -> 4.*--as-weights"):
        finetune(other, films / "train", tmp_path / "x", quiet=True)
    assert as_weights(other, str(pretrained)).encoder == replace(ENCODER, drop_path=0.2)
    grey = replace(run, data=replace(run.data, channels=1))
    with pytest.raises(ValueError, match="channels: 3 -> 1"):
        finetune(grey, films / "train", tmp_path / "x", quiet=True)


def test_labels_that_cannot_be_learnt_are_refused_before_anything_is_written(films, pretrained, tmp_path):
    run, out = tuning(), tmp_path / "out"
    with pytest.raises(ValueError, match="4 videos are of one class"):
        completed(run, [Item(Path("a"), "x")] * 4)
    with pytest.raises(ValueError, match="have no label"):
        completed(run, [Item(Path("a"), "x"), Item(Path("b"))])
    named = replace(run, data=replace(run.data, labels=Labels("class", ("blue", "green", "red", "white"))))
    with pytest.raises(ValueError, match="no video to train on: white"):
        finetune(named, films / "train", out, quiet=True)
    (tmp_path / "val" / "violet").mkdir(parents=True)
    shutil.copy(films / "more" / "red" / "0.mp4", tmp_path / "val" / "violet")
    with pytest.raises(ValueError, match=r"'violet'.*not in the class list"):
        finetune(run, films / "train", out, validation=tmp_path / "val", quiet=True)
    with pytest.raises(ValueError, match="Masked does not learn labels"):
        finetune(replace(run, method=Masked()), films / "train", out, quiet=True)
    with pytest.raises(FileNotFoundError):
        finetune(tuning(Supervised(init=str(tmp_path / "nothing"))), films / "train", out, quiet=True)
    with pytest.raises(ValueError, match="fine-tune it first"):
        load_classifier(pretrained)
    assert not out.exists()


def test_the_encoder_of_a_tuned_run_gives_what_its_head_reads(tuned):
    network, run = load_classifier(tuned)
    encoder, _ = load_encoder(tuned)
    x = torch.randn(2, run.grid().tokens, 2 * 8 * 8 * 3)
    torch.testing.assert_close(network.head(network.norm(encoder(x).mean(1))), network(x))


def test_the_run_says_all_of_it(tuned, pretrained):
    card = json.loads((tuned / "run.json").read_text())["run"]
    assert card["method"]["init"] == str(pretrained)
    assert card["data"]["labels"]["names"] == ["blue", "green", "red"]


def test_an_unreadable_video_is_no_error_of_labels(films, tmp_path):
    shutil.copytree(films / "train", tmp_path / "train")
    (tmp_path / "train" / "red" / "bad.mp4").write_bytes(b"not a video")
    folder = finetune(tuning(epochs=3), tmp_path / "train", tmp_path / "out", quiet=True)
    assert "bad.mp4" in (folder / "notes.txt").read_text()


def test_another_cut_into_parts_or_another_label_is_another_run(films, tmp_path):
    run = tuning(epochs=6, batch=4, save_every=1)
    shutil.copytree(films / "train", tmp_path / "train")
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "\n".join(f"{item.path},{item.label}" for item in find(tmp_path / "train"))
    )
    older = replace(run, training=replace(run.training, accumulate=1))  # as 0 is here, and once was the default
    finetune(older, tmp_path / "list.csv", tmp_path / "run", quiet=True, limit=3)
    parts = replace(run, training=replace(run.training, accumulate=2))
    with pytest.raises(ValueError, match=r"training.accumulate: 1 -> 2"):
        finetune(parts, tmp_path / "list.csv", tmp_path / "run", quiet=True, resume=True)
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("0.mp4,red", "0.mp4,blue"))
    with pytest.raises(ValueError, match="not the same ones"):
        finetune(run, tmp_path / "list.csv", tmp_path / "run", quiet=True, resume=True)


def test_validation_videos_that_are_trained_on_are_named(films, tmp_path, capsys):
    shutil.copytree(films / "more", tmp_path / "more")
    shutil.copy(films / "train" / "red" / "1.mp4", tmp_path / "more" / "red" / "other_name.mp4")
    finetune(tuning(epochs=1), films / "train", tmp_path / "run", validation=tmp_path / "more", quiet=True)
    assert "1 videos to train on are in the validation data too" in capsys.readouterr().err


def test_a_head_of_another_kind_is_begun_afresh_only_when_asked(films, tuned):
    run = completed(tuning(), find(films / "train"))
    cells = replace(run, method=replace(run.method, cells=(2, 1, 1)))
    several = replace(run, data=replace(run.data, labels=replace(run.data.labels, kind="classes")))
    for other in (cells, several):
        with pytest.raises(ValueError, match=r"of another kind.*--new-head"):
            Initial.of(other, str(tuned), new_head=False)
        assert Initial.of(other, str(tuned), new_head=True).new == ("head",)


def test_the_average_begins_at_the_loaded_weights(films, pretrained, tmp_path):
    method = Supervised(init=str(pretrained), average=0.99, tune="head")
    folder = finetune(tuning(method, epochs=1, batch=4), films / "train", tmp_path / "run", quiet=True)
    loaded = load_encoder(pretrained)[0].state_dict()
    kept = load_encoder(folder)[0].state_dict()
    assert all(torch.equal(kept[name], loaded[name]) for name in kept)


def test_odd_parts_cannot_be_mixed_and_nothing_is_begun(films, tmp_path):
    with pytest.raises(ValueError, match=r"mixed in pairs.*has 3"):
        finetune(tuning(epochs=4, batch=6, accumulate=2), films / "train", tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_teacher_is_where_the_student_is(films, tuned, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tubelet.finetuning.pick_device", lambda name: asked.append(name) or torch.device("cpu"))
    moved = []
    monkeypatch.setattr("torch.nn.Module.to", lambda self, *to: moved.append((type(self).__name__, *to)) or self)
    finetune(tuning(Supervised(teacher=str(tuned)), epochs=1), films / "train", tmp_path / "run", quiet=True)
    assert ("Classifier", torch.device("cpu")) in moved


def test_other_validation_videos_are_another_run(films, tmp_path):
    run = tuning(epochs=6, batch=4, save_every=1)
    finetune(run, films / "train", tmp_path / "run", validation=films / "more", quiet=True, limit=3)
    with pytest.raises(ValueError, match=r"method.validation: .*more -> None"):
        finetune(run, films / "train", tmp_path / "run", quiet=True, resume=True)
