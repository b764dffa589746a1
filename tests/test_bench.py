"""`tubelet bench`: what it measures, against what is known of the videos; and what it advises."""

import json
import time
from dataclasses import replace

import pytest

from tubelet import bench as module
from tubelet.bench import Bench, Reading, Step, advice, bench
from tubelet.cli import run as tubelet
from tubelet.config import preset
from tubelet.data.datasets import Dataset
from tubelet.data.prepare import prepare
from tubelet.data.sampling import Dense
from tubelet.data.synthetic import make
from tubelet.data.video import VideoError
from tubelet.data.writing import Encoding
from tubelet.plan import plan

FOUND = Bench(
    device="cuda:0",
    precision="bfloat16",
    cores=8,
    workers=7,
    part=64,
    reading=Reading(16, 1, 0.1, 0.2, 61, 720, 1280, ()),
    prepared=4.0,
    steps=(Step(1, 0.1), Step(2, 0.05), Step(4, 0.04)),
    flops=2e9,
    peak=1e12,
    source="films",
)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Eight made videos, and the same prepared: key frames 32 apart."""
    folder = tmp_path_factory.mktemp("films")
    make(folder / "made", 8, frames=96, workers=1)
    prepare(folder / "made", folder / "prepared", Encoding(short_side=0), workers=0)
    return folder


def small(**changes):
    run = preset("videomae-few-cpu")
    data = replace(run.data, clip=Dense(8, stride=4), size=(48, 48), cache=0, **changes)
    return replace(run, data=data, training=replace(run.training, batch=4, accumulate=1, workers=1, threads=1))


def test_what_is_measured_is_what_training_does(films, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    run = small()
    told = []
    found = bench(run, str(films / "made"), progress=told.append)
    assert [step.clips for step in found.steps] == [1, 2, 4]  # up to the batch
    assert (found.reading.height, found.reading.width) == (64, 64)
    # From the key frame before, the way of a clip is 29 frames long, of which none can be left out in these files.
    assert 29 <= found.reading.decoded <= 96
    assert found.reading.videos == 8
    assert found.prepared is not None
    assert found.flops == 3 * 2e9 * plan(run).gmacs["forward"]
    assert found.utilisation == pytest.approx(found.flops * found.best.speed / found.peak)
    assert 0 < found.utilisation < 1
    assert told[0] == "reading 8 videos"


def test_prepared_videos_are_not_prepared_on_trial(films, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    assert bench(small(), str(films / "prepared")).prepared is None


def test_slow_reading_shows(films, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    load = Dataset.load
    monkeypatch.setattr(Dataset, "load", lambda *told: (time.sleep(0.3), load(*told))[1])
    found = bench(small(repeats=2), str(films / "made"), trial=False)
    assert found.reading.clips == 2
    assert 0.3 <= found.reading.seconds < 0.6
    assert found.reading.speed == 2 / found.reading.seconds
    assert found.prepared is None
    assert "the step waits for videos" in advice(found)[0]


def test_clips_from_memory_are_no_decoding(films, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    run = small()
    found = bench(replace(run, data=replace(run.data, cache=48)), str(films / "made"))
    assert found.reading.decoded == 0
    assert found.prepared is None


def test_unreadable_videos_are_said_and_none_at_all_is_an_error(films, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    good = next((films / "made").rglob("*.mp4"))
    (tmp_path / "good.mp4").write_bytes(good.read_bytes())
    (tmp_path / "bad.mp4").write_bytes(good.read_bytes()[:500])
    found = bench(small(), str(tmp_path), trial=False)
    assert len(found.reading.unreadable) == 1
    assert advice(found)[-1] == f"1 video cannot be read: tubelet check {tmp_path} says which"
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(VideoError, match=r"none of 1 videos can be read; the first: .*bad\.mp4"):
        bench(small(), str(tmp_path))


def test_advice_where_the_step_waits():
    """100 clips/s are wanted, 7 workers read 10 each; prepared they would read 40 each."""
    assert FOUND.best == Step(4, 0.04)
    lines = advice(FOUND)
    assert lines[0] == (
        "the step waits for videos: of 100.0 clips a second 7 workers can read 70.0, so training goes at 70% of its "
        "speed; 10 workers would keep up, and there are 8 cores"
    )
    assert lines[1].startswith("tubelet prepare films OUT: read 4.0 times as fast then")
    assert lines[1].endswith("3 workers would keep up")
    assert lines[2] == "--training.workers 8: cores are free"
    assert advice(replace(FOUND, prepared=1.05))[1] == lines[2]  # no gain to speak of
    assert not any("cores are free" in line for line in advice(replace(FOUND, device="cpu")))


def test_advice_where_reading_keeps_up():
    quick = replace(FOUND, reading=replace(FOUND.reading, seconds=0.04))
    assert advice(quick) == ["reading keeps up: 4 of 7 workers would do"]
    level = replace(quick, steps=(*FOUND.steps, Step(8, 0.079)))
    assert level.best == Step(4, 0.04)
    assert "4 at once are as fast as 8" in advice(level)[1]
    assert "a larger --training.batch" in advice(replace(quick, part=4))[1]


def test_the_verb(films, capsys, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    flags = ["--data.size", "48", "48", "--training.batch", "2", "--data.cache", "0", "--no-trial"]
    assert tubelet(["bench", "videomae-few-cpu", "--data", str(films / "made"), *flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["clips"] for step in told["steps"]] == [1, 2]
    assert told["reading"]["clips_per_second"] == 1 / told["reading"]["seconds"]
    assert tubelet(["bench", "finetune-few-cpu", "--data", str(films / "made")]) == 2
    assert "take a preset that learns without labels" in capsys.readouterr().err
