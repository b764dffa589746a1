"""Action detection from a table of boxes to numbers: the verbs, and that the network looks where the boxes are."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tubelet.cli import run as command
from tubelet.config import Optim, Run, Training
from tubelet.data.annotations import key_frames
from tubelet.data.box_transforms import BoxJitter
from tubelet.data.datasets import Data
from tubelet.data.labels import Labels
from tubelet.data.sampling import Around
from tubelet.data.shapes import ACTIONS, make_shapes
from tubelet.data.transforms import CentreCrop
from tubelet.detection import completed, finetune_on_boxes, looker_of, remarks
from tubelet.evaluate.key_frames import over_key_frames
from tubelet.methods.action_detection import ActionDetection
from tubelet.nn.vit import Encoder
from tubelet.train.detector import load_detector
from tubelet.train.optim import adamw

ROOT = Path(__file__).parents[1]
SMALL = [
    "--encoder.width", "16", "--encoder.depth", "1", "--encoder.heads", "2", "--encoder.hidden", "32",
    "--data.size", "32", "32", "--data.cache", "64", "--method.side", "64", "--training.epochs", "2",
    "--training.batch", "2", "--training.workers", "0", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return {part: make_shapes(folder / part, count, seed) for part, count, seed in (("fit", 6, 1), ("held", 4, 2))}


@pytest.fixture(scope="module")
def tuned(shapes, tmp_path_factory):
    """A run of the verb, too short to know anything."""
    out = tmp_path_factory.mktemp("runs") / "tuned"
    args = ["finetune", "finetune-boxes-small-cpu", "--data", str(shapes["fit"]), "--validation", str(shapes["held"])]
    assert command([*args, "--out", str(out), *SMALL]) == 0
    return out


def test_a_table_of_boxes_trains_a_network_that_finds_its_classes(tuned, shapes):
    network, run = load_detector(tuned)
    known = {name for row in csv.DictReader(shapes["fit"].read_text().splitlines()) for name in row["label"].split("|")}
    assert set(run.data.labels.names) == known
    assert network.head.out_features == len(known) == run.method.outputs
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    measured = [line["validation_frame_map"] for line in lines if "validation_frame_map" in line]
    assert measured
    assert all(0 <= one <= 100 for one in measured)
    assert (tuned / "best.safetensors").exists()
    assert (tuned / "report.html").exists() or lines


def test_the_test_verb_counts_frame_map_and_writes_what_the_official_evaluation_reads(tuned, shapes, capsys):
    assert command(["test", "--weights", str(tuned), "--data", str(shapes["held"]), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["key_frames"] == 4
    assert 0 <= told["numbers"]["frame_map"]["value"] <= 100
    [kept] = [one for one in json.loads((tuned / "results.json").read_text()) if one["data"] == str(shapes["held"])]
    assert (kept["kind"], kept["how"]) == ("test on key frames", "true boxes")
    assert kept["numbers"] == told["numbers"]
    rows = [line.split(",") for line in Path(told["csv"]).read_text().splitlines()]
    assert {len(row) for row in rows} == {8}
    assert len(rows) == told["detections"] * len(load_detector(tuned)[1].data.labels.names)
    assert command(["test", "--results", told["results"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["numbers"] == told["numbers"]


def test_a_csv_of_whomever_is_scored_as_ones_own_results_are(tuned, shapes, tmp_path, capsys):
    """What the test wrote for the official evaluation, read again beside the true boxes."""
    out = tmp_path / "own.jsonl"
    args = ["test", "--weights", str(tuned), "--data", str(shapes["fit"]), "--out", str(out), "--json", "--quiet"]
    assert command(args) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert "6 videos were trained on" in shown.err
    assert told["csv"] == str(tmp_path / "own-ava.csv")
    assert command(["test", "--results", told["csv"], "--data", str(shapes["fit"]), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["numbers"]["frame_map"]["value"] == pytest.approx(told["numbers"]["frame_map"]["value"])
    assert command(["test", "--results", told["csv"]]) == 2
    assert "it needs the true boxes" in capsys.readouterr().err


def test_results_do_not_replace_what_is_something_else(tuned, shapes, tmp_path, capsys):
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"a": 1}\n')
    args = ["test", "--weights", str(tuned), "--data", str(shapes["held"]), "--quiet"]
    assert command([*args, "--out", str(mine)]) == 2
    assert "no results of key frames" in capsys.readouterr().err
    (tmp_path / "new-ava.csv").write_text("mine")
    assert command([*args, "--out", str(tmp_path / "new.jsonl")]) == 2
    assert (tmp_path / "new-ava.csv").read_text() == "mine"
    assert command([*args, "--least-score", "0.5"]) == 2
    assert "which were not given" in capsys.readouterr().err


def test_a_plan_counts_key_frames(shapes, capsys):
    assert command(["plan", "finetune-boxes-small-cpu", "--data", str(shapes["fit"]), "--json"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told)
    assert command(["plan", "finetune-boxes-small-cpu", "--data", str(shapes["held"]), "--json"]) == 0
    assert capsys.readouterr().out != told  # 6 and 4 of them


def test_boxes_are_not_taken_for_a_list_of_videos(shapes, tmp_path, capsys):
    args = ["finetune", "finetune-small-cpu", "--data", str(shapes["fit"]), "--out", str(tmp_path / "run")]
    assert command(args) == 2
    assert "is a table of boxes" in capsys.readouterr().err


def test_boxes_without_a_label_are_counted(shapes, tmp_path):
    bare = tmp_path / "bare.csv"
    text = shapes["fit"].read_text().splitlines()
    folder = shapes["fit"].parent
    rows = [f"{folder}/{row}" for row in text[1:]]
    first = rows[0].split(",")
    rows[0] = ",".join([*first[:6], "", first[7]])
    bare.write_text("\n".join([text[0], *rows]) + "\n")
    (note,) = remarks(key_frames(bare))
    assert note == f"1 of {len(rows)} boxes have no label: they count as doing none of the classes"
    assert not remarks(key_frames(shapes["fit"]))


def test_scores_of_true_boxes_do_not_count(tuned, shapes):
    """A column of the table says that half of the boxes are doubtful; they are true all the same."""
    network, run = load_detector(tuned)
    looker, truth = looker_of(network, run, torch.device("cpu")), key_frames(shapes["held"]).items
    doubtful = [
        replace(item, key=replace(item.key, boxes=tuple(replace(box, score=0.3) for box in item.key.boxes)))
        for item in truth[::2]
    ]
    mixed = [*doubtful, *truth[1::2]]
    found, expected = (over_key_frames(looker, items).counted() for items in (mixed, [*truth[::2], *truth[1::2]]))
    assert found.per_class == pytest.approx(expected.per_class, nan_ok=True)


def test_what_tells_places_of_a_box_apart_does_not_decay():
    run = small()
    method = replace(run.method, outputs=3).build(run.encoder, run.grid(), 3)
    kept = [group for group in adamw(method, run.optim).param_groups if not group["weight_decay"]]
    assert any(method.network.pool.place is one for group in kept for one in group["params"])


def test_found_boxes_of_a_detector_are_looked_at_if_it_is_sure(tuned, shapes, tmp_path, capsys):
    """Two tables with a score: one of true boxes, one of boxes elsewhere; the second cannot find anybody."""
    rows = list(csv.DictReader(shapes["held"].read_text().splitlines()))
    numbers = {}
    for name, moved in (("right", 0), ("wrong", 1)):
        table = tmp_path / f"{name}.csv"
        with table.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(("path", "frame", "x1", "y1", "x2", "y2", "score"))
            for row in rows:
                x1, y1, x2, y2 = (int(row[key]) for key in ("x1", "y1", "x2", "y2"))
                corners = (0, 0, 4, 4) if moved else (x1, y1, x2, y2)
                out.writerow((shapes["held"].parent / row["path"], row["frame"], *corners, 0.9))
                out.writerow((shapes["held"].parent / row["path"], row["frame"], 30, 30, 40, 40, 0.3))
        args = ["test", "--weights", str(tuned), "--data", str(shapes["held"]), "--boxes", str(table), "--json"]
        assert command([*args, "--quiet"]) == 0
        told = json.loads(capsys.readouterr().out)
        numbers[name] = told["numbers"]["frame_map"]["value"]
        assert told["detections"] == len(rows) or moved
    assert numbers["wrong"] == 0 < numbers["right"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup", "0.8"], "--mixup cannot be used with boxes"),
        (["--balance", "--augment", "none"], "--augment, --balance cannot be used with boxes"),
        (["--training.init", "x"], "--training.init is for pre-training"),
        (["--method.outputs", "3"], "--method.outputs 3, but there are"),
    ],
)
def test_flags_that_are_for_whole_clips_are_refused(shapes, tmp_path, flags, message, capsys):
    args = ["finetune", "finetune-boxes-small-cpu", "--data", str(shapes["fit"]), "--out", str(tmp_path / "run")]
    assert command([*args, *SMALL, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_test_of_whole_clips_and_one_of_boxes_are_not_mixed_up(tuned, shapes, capsys):
    assert command(["test", "--weights", str(tuned), "--data", str(shapes["held"]), "--views", "2x3"]) == 2
    assert "key frames are looked at once" in capsys.readouterr().err
    assert command(["predict", str(shapes["fit"].parent / "0001.mp4"), "--weights", str(tuned)]) == 2
    assert "tubelet detect" in capsys.readouterr().err


def test_boxes_without_labels_and_labels_that_are_not_known_are_named(shapes, tmp_path):
    run = small()
    bare = tmp_path / "bare.csv"
    video = shapes["fit"].parent / "0001.mp4"
    bare.write_text(f"path,frame,x1,y1,x2,y2\n{video},4,10,10,20,20\n")
    with pytest.raises(ValueError, match="not one label"):
        completed(run, key_frames(bare))
    known = key_frames(shapes["fit"])
    named = replace(run, data=replace(run.data, labels=Labels("classes", ("left", "right"))))
    with pytest.raises(ValueError, match="not in the class list"):
        completed(named, known)


def small(steps: int = 10, videos: int = 6, seed: int = 0) -> Run:
    """A tiny run on made shapes."""
    return Run(
        encoder=Encoder(width=32, depth=1, heads=2, hidden=64, patch=(2, 8, 8), position="axes"),
        method=ActionDetection(pool="attentive", side=64),
        data=Data(Around(8, 1), (64, 64), CentreCrop(), boxes=BoxJitter(), cache=64),
        optim=Optim(base_lr=0.1, min_lr=0.0, warmup=0, betas=(0.9, 0.999)),
        training=Training(epochs=steps * 4 / videos, batch=4, threads=1, workers=0, seed=seed, precision="float32"),
    )


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(shapes, tmp_path):
    whole = finetune_on_boxes(small(), shapes["fit"], tmp_path / "whole", quiet=True)
    finetune_on_boxes(small(), shapes["fit"], tmp_path / "parts", quiet=True, limit=4)
    parts = finetune_on_boxes(small(), shapes["fit"], tmp_path / "parts", quiet=True, resume=True)
    states = [load_file(folder / "model.safetensors") for folder in (whole, parts)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_flickers_is_learnt_in_a_minute_and_only_where_it_is_looked_for(tmp_path):
    """The easiest of the classes, from scratch: average precision on new videos; boxes beside the shapes find less."""
    fit, held = (make_shapes(tmp_path / part, count, seed) for part, count, seed in (("fit", 48, 3), ("held", 40, 4)))
    folder = finetune_on_boxes(small(120, 48), fit, tmp_path / "run", quiet=True)
    network, run = load_detector(folder)
    looker = looker_of(network, run, torch.device("cpu"))
    truth = key_frames(held, names=run.data.labels.names)
    found = over_key_frames(looker, truth.items).counted().per_class
    assert found["flicker"] > 90

    def beside(item):
        """The item with boxes that overlap the true ones by less than half, and say the same."""
        boxes = []
        for box in item.key.boxes:
            x1, y1, x2, y2 = box.corners
            aside = (x2 - x1) * (0.75 if x2 < 0.75 else -0.75)
            boxes.append(replace(box, corners=tuple(np.clip((x1 + aside, y1, x2 + aside, y2), 0, 1).tolist())))
        return replace(item, key=replace(item.key, boxes=tuple(boxes)))

    wrong = over_key_frames(looker, truth.items, [beside(item) for item in truth.items]).counted()
    assert wrong.per_class["flicker"] < 20
    assert set(ACTIONS) >= set(run.data.labels.names)


def test_what_was_measured_holds_what_the_pages_say():
    """benchmarks/shapes.csv: above 90 with true boxes if pre-trained, more than from scratch, less beside them."""
    rows = list(csv.DictReader((ROOT / "benchmarks" / "shapes.csv").read_text().splitlines()))
    maps = {
        name: {row["seed"]: float(row["map"]) for row in rows if row["from"] == name}
        for name in ("pre-trained", "scratch")
    }
    assert maps["pre-trained"].keys() == maps["scratch"].keys() == {"0", "1", "2"}
    assert min(maps["pre-trained"].values()) > 90
    assert min(maps["pre-trained"].values()) > max(maps["scratch"].values())
    for row in rows:
        assert float(row["map_aside_most"]) < float(row["map_aside_third"]) < float(row["map"])
    page = (ROOT / "docs" / "detection.md").read_text()
    for name in maps:
        assert ", ".join(f"{value:.1f}" for value in maps[name].values()) in page
