"""The choice of a setting never sees what is tested, a left-out group is never trained on, and numbers are right."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score

from tubelet.cli import run as tubelet
from tubelet.config import preset, to_json
from tubelet.data.sources import Item
from tubelet.data.writing import write
from tubelet.evaluate.features import Features
from tubelet.evaluate.probes import Clips, Linear, Neighbours, Setting
from tubelet.evaluate.probing import Tried, best, doubles, edge, held_out, leave_groups_out, measure, scores
from tubelet.evaluate.results import from_lines

LOW = -9.0


def clips(classes: Sequence[int], groups: Sequence[str | None] | None = None, first: int = 0) -> Clips:
    """Clips whose features are who they are, and what they show."""
    values = np.array([[[first + n, c]] for n, c in enumerate(classes)], np.float32)
    groups = groups or [None] * len(classes)
    items = tuple(Item(Path(f"{n}.mp4"), "abc"[c], group=g) for n, (c, g) in enumerate(zip(classes, groups)))
    return Clips(values, (0,), items, ("a", "b", "c"), np.array(classes), np.arange(len(classes)))


class Rigged:
    """Says the truth of some clips, by setting, and keeps book of what it is trained on and asked about."""

    def __init__(self, *truthful: Sequence[int]) -> None:
        self.truthful, self.trained, self.asked = truthful, [], []

    def settings(self, blocks):
        return [Setting(k=number) for number in range(len(self.truthful))]

    def about(self, clips):
        return "rigged"

    def fit(self, clips, settings, seed):
        fitted = set(clips.values[clips.rows, 0, 0].astype(int).tolist())
        self.trained.append(fitted)
        self.asked.append(set())

        def predict(values):
            logs = torch.full((len(settings), len(values), 3), LOW)
            for place, setting in enumerate(settings):
                for clip, (who, what) in enumerate(values[:, 0].int().tolist()):
                    assert who not in fitted
                    self.asked[-1].add(who)
                    logs[place, clip, what if who in self.truthful[setting.k] else (what + 1) % 3] = 0
            return logs

        return predict


TRAIN, VALIDATION, TEST = clips([0, 1, 2] * 3), clips([0, 1, 2], first=100), clips([0, 1, 2, 0], first=200)


def test_the_choice_is_made_on_validation_clips_whatever_the_test_says():
    good_there, good_here = [200, 201, 202, 203], [100, 101, 102]
    outcome = measure(Rigged(good_there, good_here), TRAIN, TEST, VALIDATION)
    assert (str(outcome.setting), outcome.chosen) == ("k 1", "chosen on 3 validation clips")
    assert [row.top1 for row in outcome.sweep] == [0, 100]
    assert outcome.scores["top1"] == 0  # honest, and bad luck
    assert measure(Rigged(good_here, good_here + good_there), TRAIN, TEST, VALIDATION).scores["top1"] == 0  # first
    both = measure(Rigged(good_there, [*good_here, 200]), TRAIN, TEST, VALIDATION)
    assert both.scores["top1"] == 25


def test_without_validation_clips_training_clips_are_held_out_and_then_used():
    probe = Rigged(range(9), range(0))
    outcome = measure(probe, TRAIN, TEST, share=1 / 3)
    chosen_on, final = probe.trained
    assert len(chosen_on) == 6
    assert probe.asked[0] == set(range(9)) - chosen_on
    assert final == set(range(9))
    assert probe.asked[1] == {200, 201, 202, 203}
    assert "chosen on 3 of the 9 training clips, held out, then fitted on all" in outcome.chosen
    assert outcome.setting == Setting(k=0)


def test_one_setting_needs_no_choice():
    probe = Rigged([200, 201])
    outcome = measure(probe, TRAIN, TEST)
    assert (outcome.sweep, outcome.scores["top1"], len(probe.trained)) == ((), 50, 1)
    assert "nothing to choose" in outcome.chosen


def test_a_group_that_is_left_out_is_neither_trained_on_nor_chosen_on():
    who = ["p", "q", "q", "r", "r", "r", "s", "s", "s", "p", "p", "q"]
    every = clips([0, 1, 2] * 4, who)
    probe = Rigged([*range(6)], [*range(12)])
    outcome = leave_groups_out(probe, every)
    assert [fold.group for fold in outcome.folds] == ["p", "q", "r", "s"]
    for fold, (chosen_on, final) in zip("pqrs", zip(probe.trained[::2], probe.trained[1::2])):
        out = {place for place, group in enumerate(who) if group == fold}
        assert final == set(range(12)) - out
        held = set(range(12)) - out - chosen_on
        assert held
        assert len({who[place] for place in held} & {who[place] for place in chosen_on}) == 0  # whole groups
    for fold, (first, second) in zip("pqrs", zip(probe.asked[::2], probe.asked[1::2])):
        out = {place for place, group in enumerate(who) if group == fold}
        assert second == out
        assert not first & out
    assert outcome.outputs.shape == (12, 3)
    assert [len(f) for f in probe.trained[1::2]] == [9, 9, 9, 9]


def test_what_only_a_group_tells_is_worth_nothing_when_it_is_left_out():
    """Each clip's feature names its group, whose clips are all of one class: learnt by heart, useless elsewhere."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(20), 4)
    truth = rng.permutation(np.arange(20) % 2)[groups]
    values = np.eye(20, dtype=np.float32)[groups][:, None]
    items = tuple(Item(Path(f"{n}.mp4"), "ab"[truth[n]], group=str(g)) for n, g in enumerate(groups))
    every = Clips(values, (0,), items, ("a", "b"), truth, np.arange(80))
    probe = Linear(lrs=(0.1, 1.0), decays=(0.0,), epochs=30, warmup=0, norm=False)
    honest = leave_groups_out(probe, every).scores["top1"]
    leaky = measure(probe, every.only(np.arange(80) % 4 > 0), every.only(np.arange(80) % 4 == 0)).scores["top1"]
    assert leaky == 100
    assert honest <= 60


def test_the_sweep_of_folds_is_their_mean():
    every = clips([0, 1, 2] * 4, list("ppppqqqqrrrr"))
    outcome = leave_groups_out(Rigged([*range(12)], [*range(6)]), every)
    assert outcome.sweep[0].top1 == 100
    assert 0 < outcome.sweep[1].top1 < 100
    assert outcome.scores == {"top1": 100.0, "mean_class_accuracy": 100.0}
    assert outcome.to_dict()["sweep"][0]["top1"] == 100
    assert json.dumps(outcome.to_dict())


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_are_held_out_and_every_class_keeps_clips(seed):
    groups = list("aabbbccccddee")
    every = clips([0, 1, 0, 1, 2, 0, 1, 2, 2, 0, 1, 2, 0], groups)
    out, text = held_out(every, 0.3, seed)
    assert 0 < out.sum() <= 5
    assert all(len({bool(out[n]) for n, group in enumerate(groups) if group == name}) == 1 for name in "abcde")
    assert set(every.truth[~out]) == {0, 1, 2}
    assert "of 5 groups, held out" in text


def test_a_share_of_each_class_is_held_out_where_there_are_no_groups():
    every = clips([0] * 10 + [1] * 20 + [2])
    out, _ = held_out(every, 0.2, 0)
    assert np.bincount(every.truth[out], minlength=3).tolist() == [2, 4, 0]  # the only one stays for training


def test_a_single_group_is_divided_by_videos():
    every = clips([0, 1] * 5, ["p"] * 10)
    out, text = held_out(every, 0.2, 0)
    assert np.bincount(every.truth[out]).tolist() == [1, 1]
    assert "groups" not in text


@pytest.mark.parametrize(("place", "said"), [(0, "the smallest rate"), (1, None), (2, "larger ones may be better")])
def test_a_choice_at_the_edge_of_the_sweep_is_said(place, said):
    text = edge(Setting(lr=0.1 * (place + 1)), [Setting(lr=0.1 * (number + 1)) for number in range(3)])
    assert said in text if said else text == ""


def test_clips_in_two_sets_are_said(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(f"contents {name}")
    (tmp_path / "copy").write_text("contents a")
    items = {name: Item(tmp_path / name) for name in ("a", "b", "c", "copy")}
    notes = doubles({"training": [items["a"], items["b"]], "test": [items["copy"], items["c"]]})
    assert len(notes) == 1
    assert "1 test clips are training clips too" in notes[0]
    assert "copy" in notes[0]


def test_of_equally_right_settings_that_with_less_loss():
    rows = [Tried(Setting(k=n), top1, loss) for n, (top1, loss) in enumerate([(50, 1.0), (60, 0.9), (60, 0.8)])]
    assert best(rows) == 2
    assert best([*rows, Tried(Setting(), 90, float("nan"))]) == 2
    with pytest.raises(ValueError, match="diverged"):
        best([Tried(Setting(), 10, float("nan"))])


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    outputs, truth = rng.random((50, 8)), rng.integers(0, 8, 50)
    found = scores(tuple("abcdefgh"), outputs, truth)
    order = np.argsort(-outputs, axis=1)
    assert found["top1"] == pytest.approx(100 * np.mean(order[:, 0] == truth))
    assert found["top5"] == pytest.approx(100 * np.mean([t in row[:5] for t, row in zip(truth, order)]))
    assert found["mean_class_accuracy"] == pytest.approx(100 * balanced_accuracy_score(truth, order[:, 0]))


# ---------------------------------------------------------------------------- errors


def features_of(count: int) -> Features:
    return Features(np.zeros((count, 1, 2), np.float32), (0,), tuple(range(count)), {})


def labelled(*labels: str | None) -> list[Item]:
    return [Item(Path(f"{n}.mp4"), label) for n, label in enumerate(labels)]


def test_labels_that_cannot_be_probed():
    with pytest.raises(ValueError, match="all 2 clips to train on are of one class, 'a'"):
        Clips.of(features_of(2), labelled("a", "a"))
    with pytest.raises(ValueError, match="1 of 2 videos have no label, the first is 1"):
        Clips.of(features_of(2), labelled("a", None))
    with pytest.raises(ValueError, match=r"'runs'.*near: 'run'.*those that training clips show"):
        Clips.of(features_of(2), labelled("run", "runs"), ("run", "sit"))


def test_sets_that_cannot_be_probed():
    empty = TRAIN.only(np.zeros(9, bool))
    probe = Neighbours()
    with pytest.raises(ValueError, match="no clips to train on"):
        measure(probe, empty, TEST)
    with pytest.raises(ValueError, match="no clips to test on"):
        measure(probe, TRAIN, empty)
    with pytest.raises(ValueError, match="no training clip shows c, but clips to test on"):
        measure(probe, TRAIN.only(TRAIN.truth < 2), TEST)
    with pytest.raises(ValueError, match=r"no training clips can be held out.*val would be empty.*--validation"):
        measure(Neighbours((1, 2)), clips([0, 1, 2]), TEST)


def test_groups_that_cannot_be_left_out():
    with pytest.raises(ValueError, match="2 of 4 have none"):
        leave_groups_out(Neighbours(), clips([0, 1, 0, 1], ["p", None, "q", None]))
    with pytest.raises(ValueError, match="all clips are of one group, 'p'"):
        leave_groups_out(Neighbours(), clips([0, 1], ["p", "p"]))
    with pytest.raises(ValueError, match="only group 'q' shows b: cannot be left out"):
        leave_groups_out(Neighbours(), clips([0, 0, 1, 0], ["p", "p", "q", "q"]))


# ---------------------------------------------------------------------------- on videos, by the command


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Videos whose class is their colour, lists of them, and an encoder of random weights that calls itself a run."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    lines = {"train": ["path,label,group"], "test": ["path,label"]}
    for number in range(16):
        colour = ("red", "blue")[number % 2]
        frames = rng.integers(0, 60, (10, 32, 32, 3), dtype=np.uint8)
        frames[..., 0 if colour == "red" else 2] += 120
        write(folder / f"{number}.mp4", frames, 10)
        if number < 10:
            lines["train"].append(f"{number}.mp4,{colour},g{number // 4}")
        else:
            lines["test"].append(f"{number}.mp4,{colour}")
    (folder / "bad.mp4").write_text("no film")
    lines["test"].insert(1, "bad.mp4,red")
    for name, rows in lines.items():
        (folder / f"{name}.csv").write_text("\n".join(rows))
    run = preset("videomae-demo")
    run = replace(run, encoder=replace(run.encoder, width=32, depth=2, heads=2, hidden=64))
    torch.manual_seed(0)
    weights = run.encoder.build(run.grid(), 3).state_dict()
    save_file(weights, folder / "encoder.safetensors", {"run": to_json(run), "step": "1"})
    return folder


@pytest.mark.parametrize(
    "kind", ["linear --epochs 30 --lr 0.01 0.1 --weight-decay 0", "attentive --epochs 10 --lr 1e-3 5e-3", "knn --k 1 4"]
)
def test_probes_of_videos_read_their_colour(kind, colours, capsys):
    name, *flags = kind.split()
    argv = ["probe", name, "--weights", str(colours), "--data", str(colours / "train.csv"), *flags]
    argv += ["--device", "cpu", "--test", str(colours / "test.csv"), "--json", "--random-too"]
    assert tubelet([*argv, "--results", str(colours / "results.jsonl")]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["trained"]["scores"]["top1"] == 100
    assert report["trained"]["clips"] == 6
    assert "bad.mp4" in report["unreadable"]["test"][0]
    assert "note: test: " in err
    assert set(report["random"]["scores"]) == {"top1", "mean_class_accuracy"}
    results = from_lines(colours / "results.jsonl")
    assert [row.error is None for row in results.rows] == [False] + [True] * 6
    assert all(abs(sum(row.outputs) - 1) < 1e-5 for row in results.read)


def test_leaving_groups_out_by_the_command(colours, capsys):
    argv = ["probe", "knn", "--weights", str(colours), "--data", str(colours / "train.csv"), "--k", "1", "3"]
    assert tubelet([*argv, "--leave-groups-out", "--cache", str(colours / "cache"), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "10 tested clips of 2 classes" in text
    assert "group g2: 100.0 % of 2" in text
    assert "top-1 on the validation clips" in text
    assert len(list((colours / "cache").glob("*.npy"))) == 1
    for flags in ([], ["--leave-groups-out", "--test", "x"], ["--leave-groups-out", "--validation", "x"]):
        assert tubelet([*argv, *flags]) == 2
        assert "give --test" in capsys.readouterr().err


def test_kinds_of_probes_are_listed_and_guessed(capsys):
    assert tubelet(["probe", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(kind in text for kind in ("linear", "attentive", "knn"))
    assert tubelet(["probe"]) == 2
    capsys.readouterr()
    assert tubelet(["probe", "liner"]) == 2
    assert "Did you mean linear?" in capsys.readouterr().err
