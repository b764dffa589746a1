"""What goes wrong is survived, or ends with its evidence: kills at any moment, numbers that are not finite, full disks,
clocks that jump, folders in use, checkpoints of older versions."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_loop import numbers_of, seven_films, start, state_hash, tiny, wait_for_steps

from tubelet.config import Run
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.train import checkpoint
from tubelet.train.checkpoint import SaveError, atomically
from tubelet.train.distributed import alone
from tubelet.train.guard import Guard, TrainingError
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.types import Batch, Loss, Method

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Seven short videos of noise that moves."""
    return seven_films(tmp_path_factory.mktemp("videos"))


# ---------------------------------------------------------------------------- kills


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_survive import killed_run
from tubelet.train.loop import train

out, part, tries = Path({out!r}), Path({out!r}, "checkpoints", ".last.pt.part"), random.Random(0)
kills = writing = 0


def steps():
    log = out / "metrics.jsonl"
    return log.read_bytes().count(b"\\n") if log.exists() else 0


while True:
    before = steps()
    child = os.fork()
    if child == 0:
        flush = os.fsync
        os.fsync = lambda file: (time.sleep(0.02), flush(file))  # disks are slower than this one
        try:
            train(killed_run(), {videos!r}, out, quiet=True, resume=True)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + (20 if kills % 2 else tries.uniform(0.05, 2.0))
    while kills < {kills} and time.monotonic() < until:
        if kills % 2 and part.exists():  # every second one while a checkpoint is written
            break
        if not kills % 2 and steps() > before + 2:  # a fast machine must not be through before the last kill
            break
        time.sleep(0.0005)
    if kills < {kills}:
        os.kill(child, signal.SIGKILL)
        writing += part.exists()
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        print(os.WEXITSTATUS(status), kills, writing, flush=True)
        os._exit(0)
    kills += 1
"""


def killed_run() -> Run:
    """Saves after every second step."""
    return tiny(epochs=70, save_every=8 / 7, threads=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills need fork")
def test_killed_forty_times_also_while_saving_it_is_the_run_that_was_not(videos, tmp_path):
    script = KILLS.format(tests=str(HERE), videos=str(videos), out=str(tmp_path / "killed"), kills=40)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
    )
    code, kills, writing = map(int, done.stdout.split())
    assert (code, kills) == (0, 40), done.stderr
    assert writing >= 10
    whole = train(killed_run(), videos, tmp_path / "whole", quiet=True)
    assert numbers_of(tmp_path / "killed") == numbers_of(whole)
    assert state_hash(tmp_path / "killed") == state_hash(whole)
    kept = [
        load_file(folder / "encoder.safetensors") for folder in (tmp_path / "killed", whole)
    ]  # headers vary in order
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


# ---------------------------------------------------------------------------- numbers that are not finite


def spoiling(monkeypatch, spoilt: dict[int, Any]) -> None:
    """Has the loss of some steps (by their number) changed by a function of (loss, batch)."""
    forward = MaskedAutoencoder.forward
    step = [-1]

    def spoil(self, batch, draws):
        if torch.is_grad_enabled():
            step[0] += 1
        loss = forward(self, batch, draws)
        return spoilt[step[0]](loss, batch) if step[0] in spoilt else loss

    monkeypatch.setattr(MaskedAutoencoder, "forward", spoil)


def times(factor: float):
    return lambda loss, batch: replace(loss, sum=loss.sum * factor)


def one_clip(loss: Loss, batch) -> Loss:
    """Video 3 alone spoils it."""
    return replace(loss, sum=loss.sum * (math.nan if 3 in batch.ids else 1))


def test_a_loss_that_is_not_finite_stops_and_names_the_clip(videos, tmp_path, monkeypatch):
    spoiling(monkeypatch, dict.fromkeys(range(7), one_clip))
    with pytest.raises(TrainingError) as caught:
        train(tiny(), videos, tmp_path / "run", quiet=True)
    text = str(caught.value)
    assert "the loss is not finite" in text
    assert f"clips not finite: {videos / '3.mp4'};" in text
    assert "--training.skip" in text
    step = int(re.search(r"step (\d+):", text)[1])
    place = tmp_path / "run" / "evidence" / f"step_{step:06d}"
    told = json.loads((place / "evidence.json").read_text())
    assert told["clips"] == [str(videos / "3.mp4")]
    assert told["weights"] == []
    kept = load_file(place / "clips.safetensors")
    assert kept["video"].shape == (4, 3, 4, 32, 32)
    assert [told["videos"][i] for i in range(4)] == [str(videos / f"{n}.mp4") for n in kept["ids"].tolist()]


def test_weights_that_are_not_finite_are_named(videos, tmp_path):
    def prepare(method):
        with torch.no_grad():
            method.encoder.blocks[1].norm1.weight[2] = math.nan
        return []

    with pytest.raises(TrainingError, match=r"weights not finite: encoder\.blocks\.1\.norm1\.weight;"):
        train(tiny(skip=3), videos, tmp_path / "run", quiet=True, prepare=prepare)


def test_gradients_that_are_not_finite_are_named(videos, tmp_path):
    def prepare(method):
        method.encoder.norm.bias.register_hook(lambda gradient: gradient * math.inf)
        return []

    with pytest.raises(TrainingError, match=r"the gradient is not finite .*gradients not finite: encoder\.norm\.bias;"):
        train(tiny(), videos, tmp_path / "run", quiet=True, prepare=prepare)


def test_steps_are_left_out_as_if_they_had_not_been(videos, tmp_path, monkeypatch):
    run = tiny(skip=2)
    whole = train(run, videos, tmp_path / "until", quiet=True, limit=3)
    before = checkpoint.read(whole)["method"]
    spoiling(monkeypatch, {3: times(math.nan), 4: times(math.inf)})
    folder = train(run, videos, tmp_path / "run", quiet=True, limit=5)
    after = checkpoint.read(folder)
    assert after["step"] == 5
    for name, value in before.items():
        assert torch.equal(after["method"][name], value), name
    lines = metrics(folder)
    assert [line.get("left_out", 0) for line in lines] == [0, 0, 0, 1, 1]
    assert math.isnan(lines[3]["loss"])
    notes = (folder / "notes.txt").read_text()
    assert "step 3 is left out: the loss is not finite" in notes
    assert sorted(place.name for place in (folder / "evidence").iterdir()) == ["step_000003", "step_000004"]
    monkeypatch.undo()
    lines = metrics(train(run, videos, folder, quiet=True, resume=True))
    assert math.isfinite(lines[-1]["loss"])
    assert after["guard"]["skipped"] == 2  # which a resumed run goes on from
    assert checkpoint.read(folder)["guard"]["skipped"] == 0


def test_one_too_many_in_a_row_stops(videos, tmp_path, monkeypatch):
    spoiling(monkeypatch, dict.fromkeys(range(2, 9), times(math.nan)))
    with pytest.raises(TrainingError, match=r"step 4: .* 3 in a row are more than --training.skip 2"):
        train(tiny(skip=2), videos, tmp_path / "run", quiet=True)


def test_a_loss_that_explodes_is_left_out_and_others_are_not(videos, tmp_path, monkeypatch):
    run = tiny(epochs=20, skip=1, explosion=3.0)
    spoiling(monkeypatch, {5: times(4), 28: times(10), 30: times(2)})  # at first, nothing is known to compare with
    folder = train(run, videos, tmp_path / "run", quiet=True)
    assert [line["step"] - 1 for line in metrics(folder) if line.get("left_out")] == [28]
    assert "times its mean of late, --training.explosion 3" in (folder / "notes.txt").read_text()


def a_step(run: Run) -> tuple[Method, Batch]:
    """A network, and clips for it."""
    video = torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8)
    return run.method.build(run.encoder, run.grid(), 3), Batch(video, torch.zeros(1, dtype=torch.long), 1, ("a.mp4",))


def test_the_mean_of_late_is_that_of_the_equation(tmp_path):
    run = tiny(explosion=2.0, skip=5)
    guard, given = Guard.of(run, tmp_path, torch.float32), a_step(run)
    losses = np.random.default_rng(0).uniform(0.9, 1.1, 60)
    mean = 0.0
    for step, loss in enumerate(losses):
        assert guard.fit(float(loss), 1.0, step, 0.1, alone(given[0]), given[1]) == ""
        mean = losses[: step + 1].mean() if step < 20 else mean + (loss - mean) / 20
        assert guard.mean == pytest.approx(mean)
    assert guard.wrong(1.9 * mean, 1.0) == ""
    assert "2.1 times" in guard.wrong(2.1 * mean, 1.0)


def test_little_evidence_is_kept_however_much_there_is(videos, tmp_path, monkeypatch):
    spoiling(monkeypatch, dict.fromkeys(range(30), times(math.nan)))
    with pytest.raises(TrainingError, match="has 10 such steps already, this one is not kept"):
        train(tiny(epochs=40, skip=12), videos, tmp_path / "run", quiet=True)
    assert len(list((tmp_path / "run" / "evidence").iterdir())) == 10


def test_float16_halves_its_scale_and_goes_on(videos, tmp_path):
    big = [True]

    def prepare(method):
        method.encoder.norm.bias.register_hook(lambda gradient: gradient * (math.inf if big and big.pop() else 1.0))
        return []

    run = tiny(precision="float16", epochs=4)
    folder = train(run, videos, tmp_path / "run", quiet=True, prepare=prepare)
    lines = metrics(folder)
    assert [line["scale"] for line in lines] == [2.0**15] * 7
    assert [line.get("left_out", 0) for line in lines] == [1, 0, 0, 0, 0, 0, 0]
    assert not (folder / "evidence").exists()  # nothing is wrong
    plain = metrics(train(tiny(epochs=4), videos, tmp_path / "plain", quiet=True, limit=1))
    assert lines[0]["loss"] == pytest.approx(plain[0]["loss"], rel=2e-3)  # of float16, not of the scale
    assert lines[1]["gradient_norm"] < 100


def test_float16_resumes_with_its_scale(videos, tmp_path):
    run = tiny(precision="float16", epochs=4)
    guarded = []
    for name, limits in (("whole", [None]), ("parted", [3, None])):
        for limit in limits:
            folder = train(run, videos, tmp_path / name, quiet=True, resume=limit is None, limit=limit)
        guarded.append((numbers_of(folder), state_hash(folder), checkpoint.read(folder)["guard"]))
    assert guarded[0] == guarded[1]
    assert guarded[0][2]["scale"] == 2.0**16


def test_the_scale_grows_after_two_thousand_good_steps(tmp_path):
    guard, given = Guard.of(tiny(), tmp_path, torch.float16), a_step(tiny())
    for step in range(4001):
        guard.fit(1.0, 1.0, step, 0.1, alone(given[0]), given[1])
    assert guard.scale == 2.0**18


# ---------------------------------------------------------------------------- disks, clocks, folders, versions


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_the_disk_refuses_leaves_the_checkpoint_before(videos, tmp_path, monkeypatch, number):
    run = tiny()
    folder = train(run, videos, tmp_path / "run", quiet=True, limit=3)
    before = (folder / "checkpoints" / "last.pt").read_bytes()

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tubelet.train.checkpoint.os.fsync", refuse)
    with pytest.raises(SaveError, match=r"last.pt from before is intact.*--resume") as caught:
        train(run, videos, folder, quiet=True, resume=True)
    assert ("no space left" in str(caught.value)) == (number != errno.EROFS)
    monkeypatch.undo()
    assert (folder / "checkpoints" / "last.pt").read_bytes() == before
    assert not list(folder.rglob("*.part"))
    whole = train(run, videos, tmp_path / "whole", quiet=True)
    assert state_hash(train(run, videos, folder, quiet=True, resume=True)) == state_hash(whole)


def test_a_disk_that_refuses_pieces_leaves_those_before(videos, tmp_path, monkeypatch):
    run = tiny(checkpoints="sharded")
    folder = train(run, videos, tmp_path / "run", quiet=True, limit=3)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.os.fsync", refuse)
    with pytest.raises(SaveError, match=r"step_000003 from before is intact"):
        train(run, videos, folder, quiet=True, resume=True)
    monkeypatch.undo()
    assert sorted(place.name for place in (folder / "checkpoints").iterdir()) == ["last", "step_000003"]
    whole = train(tiny(), videos, tmp_path / "whole", quiet=True)
    train(run, videos, folder, quiet=True, resume=True)
    assert numbers_of(folder) == numbers_of(whole)
    ours, theirs = checkpoint.read(folder), checkpoint.read(whole)
    assert all(torch.equal(ours["method"][name], value) for name, value in theirs["method"].items())


def test_a_place_where_no_folder_can_be_made_is_named(videos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((SaveError, ValueError), match="file"):
        train(tiny(), videos, tmp_path / "file" / "run", quiet=True)


def test_a_folder_in_use_is_refused_until_it_is_free(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=2)
    script = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); print('has'); "
    )
    holder = subprocess.Popen(
        [sys.executable, "-uc", script + "time.sleep(100)", str(folder / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "has\n"
    with pytest.raises(ValueError, match="is in use: another process trains in it"):
        train(tiny(), videos, folder, quiet=True, resume=True)
    holder.kill()  # however it ends
    holder.communicate()
    assert len(metrics(train(tiny(), videos, folder, quiet=True, resume=True))) == 10


def test_two_that_begin_at_once_in_one_folder_are_one(videos, tmp_path, monkeypatch):
    """The second has found the folder free, and then not."""
    inner: list[Path] = []
    begin = checkpoint.atomically

    def first(path: Path, content: Any) -> None:
        if not inner:
            inner.append(path)
            with pytest.raises(ValueError, match=r"is in use|is not empty"):
                train(tiny(), videos, tmp_path / "run", quiet=True)
        begin(path, content)

    monkeypatch.setattr("tubelet.train.folder.atomically", first)
    train(tiny(), videos, tmp_path / "run", quiet=True, limit=2)
    assert len(metrics(tmp_path / "run")) == 2


def test_clocks_that_jump_change_nothing(videos, tmp_path, monkeypatch):
    jumps = iter([1e9, 0, -5e8, 4e9] * 10000)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    folder = train(tiny(), videos, tmp_path / "run", quiet=True)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))  # files from 1970
    monkeypatch.undo()
    assert numbers_of(folder) == numbers_of(train(tiny(), videos, tmp_path / "whole", quiet=True))
    assert all(line["seconds"] > 0 for line in metrics(folder))


def test_a_checkpoint_from_before_the_moments_had_names_goes_on(videos, tmp_path):
    """As it was written until 2026-11-22: AdamW's own state, whose parameters are numbered by groups."""
    run = tiny()
    whole = train(run, videos, tmp_path / "whole", quiet=True)
    folder = train(run, videos, tmp_path / "run", quiet=True, limit=4)
    state = checkpoint.read(folder)
    method = run.method.build(run.encoder, run.grid(), 3)
    names = {
        name: parameter.ndim > 1 and not name.endswith("mask_token") for name, parameter in method.named_parameters()
    }
    groups: dict[bool, list[str]] = {}
    for name, decays in names.items():
        groups.setdefault(decays, []).append(name)
    numbered = [name for group in groups.values() for name in group]
    ends = np.cumsum([len(group) for group in groups.values()])
    old = {key: state[key] for key in ("run", "step", "method", "best")} | {
        "optimiser": {
            "state": {number: state["optimiser"][name] for number, name in enumerate(numbered)},
            "param_groups": [
                {"params": list(range(end - len(group), end))} for end, group in zip(ends.tolist(), groups.values())
            ],
        }
    }
    atomically(folder / "checkpoints" / "last.pt", lambda file: torch.save(old, file))
    train(run, videos, folder, quiet=True, resume=True)
    assert numbers_of(folder) == numbers_of(whole)
    assert state_hash(folder) == state_hash(whole)


def test_a_checkpoint_of_another_network_is_named(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=2)
    state = checkpoint.read(folder)
    state["method"]["encoder.norm.bias"] = torch.zeros(3)
    atomically(folder / "checkpoints" / "last.pt", lambda file: torch.save(state, file))
    with pytest.raises(ValueError, match=r"is of another network; these do not fit: encoder\.norm\.bias"):
        train(tiny(), videos, folder, quiet=True, resume=True)


# ---------------------------------------------------------------------------- readers


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_among_the_videos_is_one_more_that_cannot_be_read(videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(7):
        (folder / f"{index}.mp4").symlink_to(videos / f"{index}.mp4")
    os.mkfifo(folder / "pipe.mp4")
    begun = time.monotonic()
    train(tiny(workers=1), folder, tmp_path / "run", quiet=True)
    assert time.monotonic() - begun < 60
    assert f"1 of 8 videos could not be read and were replaced: {folder / 'pipe.mp4'}" in capsys.readouterr().err
    assert "is a pipe, a socket or a device" in (tmp_path / "run" / "notes.txt").read_text()


def test_a_video_that_vanishes_is_named_and_the_run_goes_on(videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(7):
        (folder / f"{index}.mp4").write_bytes((videos / f"{index}.mp4").read_bytes())
    out = train(tiny(), folder, tmp_path / "run", quiet=True, limit=2)

    def prepare(_: Any) -> list:
        (folder / "5.mp4").unlink()
        return []

    train(tiny(), folder, out, quiet=True, resume=True, prepare=prepare)
    assert f"could not be read and were replaced: {folder / '5.mp4'}" in capsys.readouterr().err


def test_signals_of_a_scheduler_reach_the_readers_too(videos, tmp_path):
    """SIGTERM to the trainer and its workers at once, as srun sends it: saved all the same."""
    process = start(videos, tmp_path / "run", workers=2, start_new_session=True)
    wait_for_steps(process, tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "saved" in out
    assert checkpoint.read(tmp_path / "run")["step"] == len(metrics(tmp_path / "run"))
