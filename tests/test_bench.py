"""`tubelet bench`: what it measures, against what is known of the videos; and what it advises."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tubelet.bench import reading, steps
from tubelet.bench.reading import Reading
from tubelet.bench.result import Bench, advice, bench
from tubelet.bench.steps import Step, repeated
from tubelet.budget import flops
from tubelet.cli import run as tubelet
from tubelet.config import preset
from tubelet.data.datasets import Dataset
from tubelet.data.prepare import prepare
from tubelet.data.sampling import Dense
from tubelet.data.synthetic import make
from tubelet.data.video import VideoError
from tubelet.data.writing import Encoding
from tubelet.plan import plan
from tubelet.train.distributed import alone
from tubelet.train.guard import TrainingError
from tubelet.train.loop import one_step

sys.path.insert(0, str(Path(__file__).parent / "methods"))
from shrunk import a_batch, small

FOUND = Bench(
    device="cuda:0",
    precision="bfloat16",
    cores=16,
    workers=7,
    part=64,
    reading=Reading(16, 1, 0.1, 0.2, 61, 720, 1280, ()),
    prepared=4.0,
    repeats=True,
    steps=(Step(1, 0.1), Step(2, 0.05), Step(4, 0.04)),
    full=None,
    flops=2e9,
    peak=1e12,
    source="my films",
)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Eight made videos, and the same prepared: key frames 32 apart."""
    folder = tmp_path_factory.mktemp("films")
    make(folder / "made", 8, frames=96, workers=1)
    prepare(folder / "made", folder / "prepared", Encoding(short_side=0), workers=0)
    return folder


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """One repeat of everything."""
    monkeypatch.setattr(steps, "REPEATS", 1)
    monkeypatch.setattr(reading, "TURNS", 1)


def tiny(name="videomae-few-cpu", batch=4, **changes):
    run = preset(name)
    data = replace(run.data, clip=Dense(8, stride=4), size=(48, 48), **{"cache": 0, **changes})
    training = replace(run.training, batch=batch, accumulate=1, workers=1, threads=1)
    return replace(run, data=data, training=training)


def test_what_is_measured_is_what_training_does(films):
    told = []
    found = bench(tiny(), str(films / "made"), progress=told.append)
    assert [step.clips for step in found.steps] == [1, 2, 4]  # up to the batch
    assert found.full is None
    assert (found.reading.height, found.reading.width) == (64, 64)
    # From the key frame before, the way of a clip is 29 frames long, of which none can be left out in these files.
    assert 29 <= found.reading.decoded <= 96
    assert found.reading.videos == 8
    assert found.prepared is not None
    assert found.utilisation == pytest.approx(found.flops * found.best.speed / found.peak)
    assert told[:2] == ["reading 8 videos", "preparing 3 of them, to see what it brings"]


@pytest.mark.parametrize("name", ["videomae-few-cpu", "vjepa-l", "moco-v3-k400-b", "arvideo-k400-b"])
def test_products_are_those_of_a_step(name):
    """Counted in a real one: a teacher, or a slow copy, has no backward pass."""
    run = small(name)
    run = replace(run, training=replace(run.training, batch=2, accumulate=1))
    method = run.method.build(run.encoder, run.grid(), 3).train()
    batch = a_batch(run)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # no other is counted on a CPU
        one_step(alone(method), batch, 0, run, torch.device("cpu"), torch.float32)
    assert flops(plan(run).gmacs, method) == pytest.approx(counter.get_total_flops() / len(batch.video), rel=0.1)


@pytest.mark.parametrize(
    ("name", "clips"), [("moco-v3-few-cpu", [4, 8]), ("vjepa-few-cpu", [1, 2, 4]), ("mgm-few-cpu", [1, 2, 4])]
)
def test_methods_with_needs_of_their_own(films, name, clips):
    """Others to be compared with, a slow copy, motion."""
    found = bench(tiny(name), str(films / "prepared"), progress=lambda _: None)
    assert [step.clips for step in found.steps] == clips
    assert found.prepared is None  # they are


def test_clips_are_used_again_for_larger_steps():
    run = replace(small("mgm-ssv2"), data=replace(small("mgm-ssv2").data, clips=2))
    batch = a_batch(run, videos=2)
    more = repeated(batch, 5)
    assert more.video.shape[0] == 10
    assert more.ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for video in range(5):
        there, ours = video % 2 * 2, video * 2
        assert torch.equal(more.video[ours : ours + 2], batch.video[there : there + 2])
        assert torch.equal(more.motion.to_next[ours : ours + 2], batch.motion.to_next[there : there + 2])


def test_slow_reading_shows(films, monkeypatch):
    load = Dataset.load
    monkeypatch.setattr(Dataset, "load", lambda *told: (time.sleep(0.3), load(*told))[1])
    found = bench(tiny(repeats=2), str(films / "made"), trial=False)
    assert found.reading.clips == 2
    assert found.reading.seconds >= 0.3
    assert found.reading.speed == 2 / found.reading.seconds
    assert found.prepared is None
    assert not found.repeats  # there are two already
    assert "the step waits for videos" in advice(found)[0]


def test_clips_from_memory_are_no_decoding(films):
    found = bench(tiny(cache=48), str(films / "made"))
    assert found.reading.decoded == 0
    assert found.prepared is None
    assert not found.repeats


def test_unreadable_videos_are_said_and_none_at_all_is_an_error(films, tmp_path):
    good = next((films / "made").rglob("*.mp4"))
    (tmp_path / "good.mp4").write_bytes(good.read_bytes())
    for number in range(9):
        (tmp_path / f"bad{number}.mp4").write_bytes(good.read_bytes()[:500])
    found = bench(tiny(), str(tmp_path), trial=False)
    assert len(found.reading.unreadable) == 9
    assert advice(found)[-1] == f"9 videos cannot be read: tubelet check {tmp_path} says which"
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(VideoError, match=r"none of 9 videos can be read; the first: .*bad\d\.mp4"):
        bench(tiny(), str(tmp_path))


def test_what_does_not_fit_ends_it(films, monkeypatch):
    step = steps.one_step

    def small_device(spread, batch, *rest):
        if len(batch.video) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return step(spread, batch, *rest)

    monkeypatch.setattr(steps, "one_step", small_device)
    limit = 2
    found = bench(tiny(), str(films / "made"), trial=False)
    assert [step.clips for step in found.steps] == [1, 2]
    assert found.full == 4
    assert "4 clips at once do not fit on cpu: more by --training.accumulate" in advice(found)
    limit = 0
    with pytest.raises(TrainingError, match=r"out of memory on cpu with 1 clip, the fewest.*--encoder\.checkpoint"):
        bench(tiny(), str(films / "made"), trial=False)
    monkeypatch.setattr(steps, "free_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"needs about .*, and 1\.0 MiB are free here"):
        bench(tiny(), str(films / "made"), trial=False)


def test_advice_where_the_step_waits():
    """100 clips/s are wanted, 7 workers read 10 each; prepared they would read 40 each."""
    assert FOUND.best == Step(4, 0.04)
    lines = advice(FOUND)
    assert lines[0] == (
        "the step waits for videos: it takes 100.0 clips a second, 7 workers can read 70.0; so training goes at 70% of "
        "its speed; 10 workers would keep up"
    )
    assert lines[1].startswith("tubelet prepare 'my films' OUT: read 4.0 times as fast then")
    assert lines[1].endswith("3 workers would keep up")
    assert lines[2] == "--training.workers 10, if memory allows"
    assert lines[3].startswith("--data.repeats 2:")
    assert advice(replace(FOUND, prepared=1.05))[1] == lines[2]  # no gain to speak of
    few = advice(replace(FOUND, cores=8, repeats=False))
    assert few[0].endswith("that many workers as would keep up (10) the 8 cores here cannot run beside it")
    assert not any(line.startswith("--") for line in few)


def test_advice_where_reading_keeps_up():
    quick = replace(FOUND, reading=replace(FOUND.reading, seconds=0.04))
    assert advice(quick) == ["reading keeps up with the step: 4 of 7 workers would do"]
    level = replace(quick, steps=(*FOUND.steps, Step(8, 0.079)))
    assert level.best == Step(4, 0.04)
    assert "4 clips at once are as fast as 8" in advice(level)[1]
    assert "a larger --training.batch" in advice(replace(quick, part=4))[1]
    assert advice(replace(quick, part=2))[1] == (
        "4 clips at once are faster than 2, as training would have them: have more by --training.accumulate"
    )
    assert len(advice(replace(level, part=4))) == 1  # what it takes is as fast as any


def test_advice_without_workers():
    """A clip is read in 0.1 s and learnt from in 0.01; or read in 0.1 ms."""
    alone = replace(FOUND, workers=0)
    assert advice(alone)[0].startswith("without workers, reading takes 91% of the time")
    assert advice(alone)[1].startswith("tubelet prepare")
    memory = replace(alone, reading=replace(FOUND.reading, seconds=1e-4, decoded=0), repeats=False)
    assert advice(memory) == [
        "without workers, reading takes 1% of the time (--training.workers N reads meanwhile)",
    ]


def test_the_verb(films, capsys):
    flags = ["--data.size", "48", "48", "--training.batch", "2", "--data.cache", "0", "--no-trial"]
    assert tubelet(["bench", "videomae-few-cpu", "--data", str(films / "made"), *flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["clips"] for step in told["steps"]] == [1, 2]
    assert told["reading"]["clips_per_second"] == 1 / told["reading"]["seconds"]
    assert told["best"] in (1, 2)
    assert tubelet(["bench", "videomae-few-cpu", "--data", str(films / "made"), *flags]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("reading", "training step", "by clips at once", "advice"))
    assert tubelet(["bench", "finetune-few-cpu", "--data", str(films / "made")]) == 2
    assert "only pre-training is measured; take one as videomae-few-cpu" in capsys.readouterr().err
