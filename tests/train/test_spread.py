"""Two and four processes learn what one learns, with every method, replicated or sharded, in parts or not; checkpoints
of four are read by two and by one; each video is seen by one process only; a signal, a failure, a lock reach all.

All that several processes do is done once, in one launch of two and one of four, and judged by what they leave.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_loop import seven_films
from test_loop import tiny as plain_tiny

from tubelet import config
from tubelet.config import Run
from tubelet.data.datasets import Dataset
from tubelet.data.loader import batches
from tubelet.data.sources import find
from tubelet.finetuning import finetune
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.methods.supervised import Supervised
from tubelet.nn import collective
from tubelet.nn.collective import first_count, of_slurm, whoami
from tubelet.train import checkpoint
from tubelet.train.distributed import Spread
from tubelet.train.log import metrics
from tubelet.train.loop import one_step, train
from tubelet.train.optim import adamw, set_rate

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from shrunk import METHODS, a_batch, small

HERE = Path(__file__).parent
VIDEOS, STEPS = 8, 2
CPU = torch.device("cpu")
PARTS = {
    "VideoMAE",
    "VideoMAE V2",
    "ARVideo",
    "V-JEPA",
    "MGMAE",
}  # worked off in parts, too; V2's parts differ in count
KINDS = ("ddp", "fsdp", "ddp in parts", "fsdp in parts")
TIMINGS = ("seconds", "clips_per_second", "data_wait")
WAYS = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "pieces": {"parallel": "fsdp", "checkpoints": "sharded"},
}
TUNED = {
    "tuned": {},
    "tuned in pieces": {"parallel": "fsdp", "checkpoints": "sharded", "keep": True, "precision": "bfloat16"},
}
WORKER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_spread
from tubelet.nn.collective import joined

with joined():
    test_spread.worker(Path(sys.argv[2]))
sys.stdout.flush()
os._exit(0)  # gloo may abort when the interpreter ends
"""


def tiny(**training: Any) -> Run:
    run = plain_tiny(**{"batch": 4, "epochs": 4, "save_every": 99, **training})
    return replace(run, optim=replace(run.optim, clip=1.0))


def steps_of(label: str, kind: str) -> dict[str, Any]:
    """Losses, norms and the weights after some steps of a method, of which this process does its share."""
    run = small(METHODS[label])
    parts = 2 if kind.endswith("parts") and whoami()[1] < VIDEOS // 2 else 1
    run = replace(run, training=replace(run.training, batch=VIDEOS, accumulate=parts), optim=replace(run.optim, clip=1))
    torch.manual_seed(0)
    method = run.method.build(run.encoder, run.grid(), run.data.channels).train()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # what begins at zero lets nothing through yet
    spread = Spread(method, kind.split()[0], CPU)
    optimiser = adamw(method, run.optim)
    set_rate(optimiser, 1e-4)
    rank, world = whoami()
    lines = []
    for step in range(STEPS):
        batch = a_batch(run, VIDEOS, seed=step)
        share = len(batch.video) // world
        loss, norm, told = one_step(
            spread, batch.clips(rank * share, (rank + 1) * share), step, run, CPU, torch.float32
        )
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(step, STEPS)
        lines.append((loss, norm))
    exported = {f"{k}.{n}": collective.plain(v) for k, part in method.exported().items() for n, v in part.items()}
    return {"lines": lines, "weights": {name: value.clone() for name, value in exported.items()}, "told": told}


def worker(folder: Path) -> None:
    """What one of several processes does: a few steps of every method, and runs on videos."""
    rank, world = whoami()
    kinds = KINDS if world == 2 else KINDS[:2]
    told = {
        (label, kind): steps_of(label, kind)
        for label in METHODS
        for kind in kinds
        if label in PARTS or not kind.endswith("parts")
    }
    torch.save(told, folder / f"{world}_{rank}.pt")
    videos = folder / "videos"
    for name, settings in WAYS.items():
        run = tiny(**settings)
        if world == 4:
            train(run, videos, folder / name, quiet=True, limit=3)
        elif (folder / f"{name}_by_2").is_dir():
            train(run, videos, folder / f"{name}_by_2", quiet=True, resume=True)
    items = find(videos)
    stream = batches(Dataset(items, run.data, 0), 4, 0, 7, rank=rank, world=world)
    (folder / f"seen_{world}_{rank}.json").write_text(json.dumps([batch.paths for batch in stream]))
    if world == 2:
        for name, settings in TUNED.items():
            finetune(tuned(**settings), folder / "all.csv", folder / name, validation=folder / "all.csv", quiet=True)
        spoilt(folder)
        for name in ("weights", "data", "other"):
            try:
                failing(folder, name, rank)
            except Exception as error:
                (folder / f"{name}_{rank}.txt").write_text(f"{type(error).__name__}: {error}")


def tuned(**training: Any) -> Run:
    """A small network that learns two classes."""
    settings = {"batch": 4, "epochs": 2, "save_every": 1, "validate_every": 1, **training}
    return replace(plain_tiny(**settings), method=Supervised())


def spoilt(folder: Path) -> None:
    """A run whose third step is bad, and is saved."""
    forward, step = MaskedAutoencoder.forward, [-1]

    def spoil(self, batch, draws):
        step[0] += torch.is_grad_enabled()
        loss = forward(self, batch, draws)
        return replace(loss, sum=loss.sum * math.nan) if step[0] == 2 and torch.is_grad_enabled() else loss

    MaskedAutoencoder.forward = spoil
    try:
        run = tiny(parallel="fsdp", precision="bfloat16", skip=1)
        train(run, folder / "videos", folder / "spoilt", quiet=True, limit=3)
    finally:
        MaskedAutoencoder.forward = forward


def failing(folder: Path, name: str, rank: int) -> None:
    """Runs that cannot go on: settings that all see, videos that one process cannot read, a folder in use."""
    run = tiny()
    if name == "weights":
        train(tiny(batch=3), folder / "videos", folder / "failed", quiet=True)
    if name == "data":
        bad = folder / "bad"
        items = find(bad) if rank == 0 else find(folder / "videos")  # a node whose disk is broken
        train(run, bad, folder / "failed", quiet=True, items=items)
    if name == "other":
        train(run, folder / "videos", folder / "ddp", quiet=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Seven videos that differ; and a folder of broken ones."""
    folder = tmp_path_factory.mktemp("spread")
    for part in ("videos", "bad"):
        (folder / part).mkdir()
    seven_films(folder / "videos")
    for index in range(7):
        (folder / "bad" / f"{index}.mp4").write_text("no video")
    rows = [f"videos/{index % 7}.mp4,{'ab'[index % 2]}" for index in range(9)]  # one process has a batch more
    (folder / "all.csv").write_text("\n".join(["path,label", *rows]))
    return folder


def launch(folder: Path, world: int) -> subprocess.CompletedProcess:
    script = folder / "worker.py"
    script.write_text(WORKER)
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    return subprocess.run(
        [*started, script, str(HERE), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=550,
    )


@pytest.fixture(scope="module")
def four(videos) -> Path:
    """What four processes leave."""
    done = launch(videos, 4)
    assert (videos / "seen_4_3.json").exists(), done.stderr
    for name in WAYS:
        for other in ("by_2", "by_1"):
            shutil.copytree(videos / name, videos / f"{name}_{other}")
    return videos


@pytest.fixture(scope="module")
def two(four) -> Path:
    """What two leave that go on."""
    done = launch(four, 2)
    assert (four / "other_1.txt").exists(), done.stderr
    return four


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds that has the whole batch, in one go."""
    return {label: steps_of(label, "ddp") for label in METHODS}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("label", METHODS)
def test_processes_learn_what_one_learns(label, world, alone, two):
    for rank in range(world):
        told = torch.load(two / f"{world}_{rank}.pt")
        found = {kind: told[label, kind] for kind in KINDS if (label, kind) in told}
        assert len(found) >= 2
        for kind, one in found.items():
            # MoCo v3 divides by deviations over the few clips of a step, which makes much of rounding in later ones
            near = (1e-6, 1e-5) if label == "MoCo v3" else (1e-6, 1e-6)
            assert_same(label, one, alone[label], near, f"{kind}, {world} processes, process {rank}")


def assert_same(label: str, found: dict[str, Any], alone: dict[str, Any], near: tuple[float, ...], where: str) -> None:
    for (loss, norm), (loss_alone, norm_alone), most in zip(found["lines"], alone["lines"], near):
        assert loss == pytest.approx(loss_alone, rel=most), where
        assert norm == pytest.approx(norm_alone, rel=20 * most), where
    assert found["weights"].keys() == alone["weights"].keys()
    for name, value in alone["weights"].items():  # AdamW's first steps are signs: where a gradient is zero but for
        if name == "encoder.norm.bias" and label == "MoCo v3":
            continue  # batch norm takes out what is added to all clips: its gradient is rounding alone
        same = (found["weights"][name] - value).abs() <= 1e-5  # rounding, so is its sign
        assert same.float().mean() > 0.99, (where, name)


def numbers_of(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in metrics(folder)]


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    """The run of one process that nothing disturbed."""
    return train(tiny(), videos / "videos", tmp_path_factory.mktemp("whole") / "run", quiet=True)


@pytest.mark.parametrize("by", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_of_four_is_read_by_two_and_by_one(way, by, two, whole):
    folder = two / f"{way}_by_{by}"
    if by == 1:
        train(tiny(), two / "videos", folder, quiet=True, resume=True)
    expected = numbers_of(whole)
    assert len(numbers_of(two / way)) == 3
    found = numbers_of(folder)
    assert len(found) == len(expected) == 7
    for line, one in zip(found, expected):
        assert line == pytest.approx(one, rel=2e-5)
    assert (checkpoint.last(folder).is_dir()) == (way == "pieces" and by == 2)
    ours, theirs = (load_file(place / "encoder.safetensors") for place in (folder, whole))
    for name, value in theirs.items():
        assert ((ours[name] - value).abs() < 1e-4).float().mean() > 0.99, name


def test_pieces_are_read_whole_by_those_who_only_look(two):
    state, other = checkpoint.read(two / "pieces"), checkpoint.read(two / "fsdp")
    assert state["step"] == other["step"] == 3
    assert state["method"].keys() == other["method"].keys()
    assert state["optimiser"].keys() == other["optimiser"].keys()
    for name, value in other["method"].items():
        torch.testing.assert_close(state["method"][name], value, rtol=0, atol=0)
    for name, values in other["optimiser"].items():
        torch.testing.assert_close(state["optimiser"][name], values, rtol=0, atol=0)
    assert len(list(checkpoint.last(two / "pieces").glob("*.safetensors"))) == 4
    assert sum(p.numel() for p in checkpoint.load_method(two / "pieces").parameters()) > 20000


def test_a_piece_that_is_missing_or_cut_is_named(two, tmp_path):
    for damage in ("missing", "cut"):
        folder = shutil.copytree(two / "pieces", tmp_path / damage)
        piece = sorted(checkpoint.last(folder).glob("*.safetensors"))[1]
        if damage == "missing":
            piece.unlink()
        else:
            piece.write_bytes(piece.read_bytes()[:-1])
        with pytest.raises(ValueError, match=f"lacks 1 of its 4 files, or they were cut: {piece.name}"):
            train(tiny(checkpoints="sharded"), two / "videos", folder, quiet=True, resume=True)


def test_an_unfinished_checkpoint_in_pieces_is_not_gone_on_from(two, tmp_path):
    folder = shutil.copytree(two / "pieces", tmp_path / "run")
    half = folder / "checkpoints" / "step_000005"
    shutil.copytree(checkpoint.last(folder), half)
    (half / "checkpoint.json").unlink()  # killed before it was whole
    run = tiny(checkpoints="sharded")
    train(run, two / "videos", folder, quiet=True, resume=True, limit=5)
    assert checkpoint.read(folder)["step"] == 5
    assert checkpoint.last(folder).name == "step_000005"
    assert [place.name for place in sorted((folder / "checkpoints").iterdir())] == ["last", "step_000005"]


@pytest.mark.parametrize("world", [2, 4])
def test_each_process_sees_its_own_videos(world, two):
    seen = [json.loads((two / f"seen_{world}_{rank}.json").read_text()) for rank in range(world)]
    items = find(two / "videos")
    alone = [list(batch.paths) for batch in batches(Dataset(items, tiny().data, 0), 4, 0, 7)]
    assert [[path for rank in range(world) for path in seen[rank][step]] for step in range(7)] == alone
    flat = [path for step in alone for path in step]
    assert all(len(set(flat[start : start + 7])) == 7 for start in (0, 7, 14, 21))  # once an epoch


def test_what_is_wrong_is_known_to_all(two):
    words = {
        "weights": ("--training.batch 3 cannot be shared out evenly to 2 processes; take 2 or 4", None),
        "data": ("VideoError", "Elsewhere: process 0 of 2: VideoError"),
        "other": ("is not empty; add --resume", None),
    }
    for name, (first, second) in words.items():
        told = [(two / f"{name}_{rank}.txt").read_text() for rank in (0, 1)]
        assert first in told[0]
        assert (second or first) in told[1]
    assert not (two / "failed").exists()


def test_fine_tuning_and_its_validation_are_those_of_one(two, tmp_path):
    """Nine videos to validate on: one process has five of them, and so a batch more."""
    finetune(tuned(), two / "all.csv", tmp_path / "run", validation=two / "all.csv", quiet=True)
    expected, found = numbers_of(tmp_path / "run"), numbers_of(two / "tuned")
    assert len(found) == len(expected) == 4
    for line, one in zip(found, expected):
        assert line == pytest.approx(one, rel=2e-5)
    assert sum("validation_top1" in line for line in found) == 2
    ours, theirs = (load_file(place / "model.safetensors") for place in (two / "tuned", tmp_path / "run"))
    for name, value in theirs.items():
        assert ((ours[name] - value).abs() < 1e-4).float().mean() > 0.99, name
    rough = numbers_of(two / "tuned in pieces")
    for line, one in zip(rough, expected):
        assert line["loss"] == pytest.approx(one["loss"], rel=0.05)  # of bfloat16
    assert (two / "tuned in pieces" / "best.safetensors").is_file()


def test_pieces_that_are_to_be_kept_are(two):
    names = [place.name for place in sorted((two / "tuned in pieces" / "checkpoints").iterdir())]
    assert names == ["last", "step_000002", "step_000004"]


def test_a_bad_step_of_shares_is_left_out_and_saved_whole(two):
    lines, state = metrics(two / "spoilt"), checkpoint.read(two / "spoilt")
    assert [line.get("left_out", 0) for line in lines] == [0, 0, 1]
    named = {name for name, parameter in checkpoint.load_method(two / "spoilt").named_parameters()}
    assert state["optimiser"].keys() == named
    assert state["guard"]["skipped"] == 1
    kept = sorted(place.name for place in (two / "spoilt" / "evidence" / "step_000002").iterdir())
    assert kept == ["clips_0.safetensors", "clips_1.safetensors", "evidence.json"]


def test_slurm_says_what_torchrun_would():
    step = {
        "SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456",
        "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    }  # fmt: skip
    assert of_slurm(step) == {
        "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node07",
        "MASTER_PORT": "23456",
    }  # fmt: skip
    assert of_slurm(step | {"MASTER_PORT": "29500"})["MASTER_PORT"] == "29500"
    assert of_slurm(step | {"WORLD_SIZE": "16"}) == {}  # torchrun under srun
    assert of_slurm({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "16"}) == {}  # in the batch script itself
    assert first_count("4") == "4"


def test_an_environment_that_says_half_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK, MASTER_ADDR"), collective.joined():
        pass


def test_a_batch_that_cannot_be_shared_out_says_which_can():
    config.shared_out(tiny(batch=8, accumulate=2), 4)
    with pytest.raises(
        ValueError, match="12 cannot be shared out evenly to 4 processes, in 2 parts each; take 8 or 16"
    ):
        config.shared_out(tiny(batch=12, accumulate=2), 4)


# ---------------------------------------------------------------------------- the command


PRESET = """
import sys
sys.path.insert(0, {here!r})
from test_loop import tiny
def run(): return tiny(epochs=400, workers=1)
"""


def command(folder: Path, out: Path, *more: str) -> list[str]:
    (folder / "preset_of_tests.py").write_text(PRESET.format(here=str(HERE)))
    data = ["--data", str(folder / "videos"), "--out", str(out), "--device", "cpu"]
    return [sys.executable, "-m", "tubelet", "pretrain", "preset_of_tests:run", *data, *more]


def test_gpus_starts_processes_that_save_on_a_signal_and_go_on(videos, tmp_path):
    out = tmp_path / "run"
    both = command(videos, out, "--gpus", "2")
    process = subprocess.Popen(both, cwd=videos, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() or len((out / "metrics.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = subprocess.run(command(videos, out, "--resume"), cwd=videos, capture_output=True, text=True, timeout=100)
    assert again.returncode == 2
    assert f"{out} is in use: another process trains in it" in again.stderr
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 143, said
    assert said.count("saved. Go on: the same command with --resume") == 1  # the first process alone speaks
    assert "Traceback" not in said
    steps = len(metrics(out))
    assert checkpoint.read(out)["step"] == steps
    run = replace(tiny(epochs=400, save_every=1), optim=plain_tiny().optim)
    train(run, videos / "videos", out, quiet=True, resume=True, limit=steps + 2)
    assert [line["step"] for line in metrics(out)] == list(range(1, steps + 3))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for children in /proc")
def test_torchrun_begins_again_after_a_process_was_killed(videos, tmp_path):
    """Its other attempts go on by themselves; a first one without --resume does not touch a run that is there."""
    out = tmp_path / "run"
    again = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    python, *rest = command(videos, out, "--training.epochs", "40", "--training.workers", "0", "--quiet")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [python, *again, *rest],
        cwd=videos,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() or len((out / "metrics.jsonl").read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if "pretrain" in Path(f"/proc/{child}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    expected = train(of_forty_epochs(), videos / "videos", tmp_path / "whole", quiet=True)
    for line, one in zip(numbers_of(out), numbers_of(expected), strict=True):
        assert line == pytest.approx(one, rel=1e-4)
    refused = subprocess.run(
        [python, *again, *rest], cwd=videos, env=environment, capture_output=True, text=True, timeout=100
    )
    assert refused.returncode
    assert "is not empty; add --resume" in refused.stderr
    assert len(metrics(out)) == 70


def of_forty_epochs() -> Run:
    """What the command of the tests trains, for 40 epochs."""
    return plain_tiny(epochs=40)


def test_gpus_with_pieces_end_with_pictures_and_a_report(videos, tmp_path):
    out, pieces = tmp_path / "run", ["--training.parallel", "fsdp", "--training.checkpoints", "sharded"]
    both = command(videos, out, "--gpus", "2", "--training.epochs", "2", *pieces)
    done = subprocess.run(both, cwd=videos, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "without pictures" not in done.stderr
    assert (out / "report.html").is_file()
    assert (out / "pictures" / "on_the_way" / "000003.png").is_file()
    assert checkpoint.last(out).is_dir()
    assert done.stderr.count("learning rate") == 1  # one plan


def test_gpus_that_are_not_there_are_counted(videos, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    line = [*command(videos, tmp_path / "run", "--gpus", "3")[:-4], "--device", "cuda", "--gpus", "3"]
    done = subprocess.run(line, cwd=videos, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "--gpus 3, but this machine has 0 GPUs" in done.stderr


def test_what_the_first_process_says_is_said_once(videos, tmp_path):
    wrong = command(videos, tmp_path / "run", "--gpus", "2", "--data", "nowhere")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(wrong, cwd=videos, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode in (1, 2)
    assert done.stderr.count("no such file or folder: nowhere") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("tubelet-processes-*"))
