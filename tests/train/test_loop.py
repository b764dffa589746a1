"""The loop: it learns, resumes bit for bit, survives signals, kills and full disks, and says what went wrong."""

import hashlib
import json
import math
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet import config
from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.transforms import MultiScaleCrop
from tubelet.data.video import VideoError, write
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels
from tubelet.train import checkpoint, device
from tubelet.train.device import pick_device, pick_precision
from tubelet.train.guard import TrainingError
from tubelet.train.log import Log, metrics
from tubelet.train.loop import train
from tubelet.types import Batch, Draws

TIMINGS = ("seconds", "clips_per_second", "data_wait")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Seven short videos of noise that moves: more than a batch, and no multiple of one."""
    return seven_films(tmp_path_factory.mktemp("videos"))


def seven_films(folder: Path) -> Path:
    """Writes them; other tests of training use them too."""
    rng = np.random.default_rng(0)
    for index in range(7):
        picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
        frames = np.stack([np.roll(picture, (index * t, 2 * t), (0, 1)) for t in range(12)])
        write(folder / f"{index}.mp4", frames, 10)
    return folder


def tiny(**training) -> Run:
    settings = {"epochs": 6, "batch": 4, "workers": 0, "precision": "float32", "save_every": 1}
    return Run(
        encoder=Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8)),
        method=Masked(mask=Tube(0.75), target=Pixels("videomae"), decoder=Decoder(16, 1, 2)),
        data=Data(clip=Dense(4, stride=2), size=(32, 32), crop=MultiScaleCrop()),
        optim=Optim(base_lr=0.05, warmup=1),
        training=Training(**(settings | training)),
    )


def state_hash(folder: Path) -> str:
    """Over every tensor of weights and optimiser."""
    state = checkpoint.read(folder)
    digest = hashlib.sha256()

    def feed(value) -> None:
        if isinstance(value, torch.Tensor):
            data = value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else repr(value).encode()
            digest.update(data)
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                feed(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                feed(item)
        else:
            digest.update(repr(value).encode())

    feed(state["method"])
    feed(state["optimiser"])
    return digest.hexdigest()


def numbers_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in metrics(folder)]


def test_run_folder(videos, tmp_path):
    folder = train(tiny(epochs=3), videos, tmp_path / "run", quiet=True)
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, 6))  # 3 epochs of 7 videos, 4 at a time
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["epoch"] == pytest.approx(5 * 4 / 7)
    card = json.loads((folder / "run.json").read_text())
    assert card["data"] == str(videos)
    assert card["made_with"]["torch"] == torch.__version__
    assert {p.name for p in folder.iterdir()} == {
        ".lock",
        "run.json",
        "metrics.jsonl",
        "checkpoints",
        "encoder.safetensors",
    }


def test_overfits_one_batch():
    """Normalised loss below 0.1 within 500 steps, on smooth clips and a fixed mask."""
    torch.manual_seed(0)
    run = tiny()
    run = replace(run, encoder=replace(run.encoder, width=96, hidden=384, heads=4))
    method = replace(run.method, decoder=Decoder(96, 2, 4)).build(run.encoder, run.grid(), 3)
    coarse = torch.rand(4, 3, 4, 6, 6)
    smooth = torch.nn.functional.interpolate(coarse, size=(4, 32, 32), mode="trilinear")
    batch = Batch((smooth * 255).to(torch.uint8), torch.arange(4))
    optimiser = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for _step in range(500):
        loss = method(batch, Draws(0, 0, range(4)))
        mean = loss.sum / loss.count
        if mean < 0.1:
            break
        optimiser.zero_grad()
        mean.backward()
        optimiser.step()
    assert mean < 0.1


def test_loss_falls(videos, tmp_path):
    run = tiny(epochs=40)
    run = replace(run, data=replace(run.data, cache=96))  # which is their size
    lines = metrics(train(run, videos, tmp_path / "run", quiet=True))
    first, last = (np.mean([line["loss"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last < 0.97 * first


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accumulation_changes_nothing(videos, tmp_path, precision):
    whole = train(tiny(epochs=3, precision=precision, accumulate=1), videos, tmp_path / "whole", quiet=True)
    parts = train(tiny(epochs=3, precision=precision, accumulate=2), videos, tmp_path / "parts", quiet=True)
    tolerance = 1e-5 if precision == "float32" else 2e-2
    for a, b in zip(metrics(whole), metrics(parts)):
        assert a["loss"] == pytest.approx(b["loss"], rel=tolerance)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=10 * tolerance)


def test_parts_that_nobody_asked_for_are_those_that_one_can_ask_for(videos, tmp_path, monkeypatch):
    settings = {"epochs": 3, "precision": "bfloat16", "device": "cpu"}
    asked = train(tiny(accumulate=2, **settings), videos, tmp_path / "asked", quiet=True)
    monkeypatch.setattr(config, "PART", 2 * tiny().grid().tokens)
    assert config.parts_of(tiny(**settings), "cpu", torch.bfloat16) == 2
    own = train(tiny(**settings), videos, tmp_path / "own", quiet=True)
    assert [line["loss"] for line in metrics(own)] == [line["loss"] for line in metrics(asked)]


def hard(**training) -> Run:
    """All that could make a resumed run differ."""
    run = tiny(accumulate=2, precision="bfloat16", **training)
    return replace(run, data=replace(run.data, repeats=2), encoder=replace(run.encoder, drop_path=0.5))


@pytest.mark.parametrize("stop", [1, 3, 8])
def test_resume_is_exact(videos, tmp_path, stop):
    """Mid-epoch, two workers then none, accumulation 2, repeated sampling 2, bfloat16, stochastic depth."""
    run = hard()
    undisturbed = train(run, videos, tmp_path / "whole", quiet=True)
    two = replace(run, training=replace(run.training, workers=2))
    stopped = train(two, videos, tmp_path / "stopped", quiet=True, limit=stop)
    assert len(metrics(stopped)) == stop
    resumed = train(run, videos, tmp_path / "stopped", quiet=True, resume=True)
    assert numbers_of(resumed) == numbers_of(undisturbed)
    assert state_hash(resumed) == state_hash(undisturbed)


FAULTS = """
import resource, torch
from tubelet.train.device import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)  # above any threshold that glibc finds by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(10)][-1])
keep_memory()
print([faults() for _ in range(10)][-1])  # the first ones let the heap grow
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_is_kept():
    """A block that is freed and asked for again costs page faults, unless memory is kept."""
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    fresh, kept = map(int, done.stdout.split())
    assert kept < fresh / 10


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_loop import hard
from tubelet.train.guard import Interrupted
from tubelet.train.loop import train
try:
    train(hard(epochs=400, workers={workers}), {videos!r}, {out!r}, resume={resume})
except Interrupted as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def start(videos: Path, out: Path, resume: bool = False, workers: int = 0, **options) -> subprocess.Popen:
    script = SCRIPT.format(
        tests=str(Path(__file__).parent), videos=str(videos), out=str(out), resume=resume, workers=workers
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_steps(process: subprocess.Popen, folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = folder / "metrics.jsonl"
        if (folder / "checkpoints" / "last.pt").exists() and path.read_text().count("\n") >= steps:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("no step in a minute")


def test_workers_are_as_many_as_cores_and_memory_allow(monkeypatch):
    run = tiny(batch=1024, workers=-1)  # 1024 x 3 x 4 x 32 x 32 bytes: 12 MiB
    monkeypatch.setattr(device, "cores", lambda: 16)
    for free, workers in ((None, 15), (2**34, 15), (480 * 2**20, 10), (2**20, 1)):
        monkeypatch.setattr(device, "free_memory", lambda free=free: free)
        assert device.pick_workers(run) == workers
    assert device.pick_workers(tiny(workers=99)) == 99


def test_killed_and_resumed_is_exact(videos, tmp_path):
    """SIGKILL at any moment, with two workers: resumed without, the run repeats the lost steps and gives the same."""
    process = start(videos, tmp_path / "killed", workers=2)
    wait_for_steps(process, tmp_path / "killed", 10)
    process.kill()
    process.communicate()
    folder = train(hard(epochs=400), videos, tmp_path / "killed", quiet=True, resume=True, limit=30)
    whole = train(hard(epochs=400), videos, tmp_path / "whole", quiet=True, limit=max(30, len(metrics(folder))))
    assert numbers_of(folder) == numbers_of(whole)
    assert state_hash(folder) == state_hash(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_signals_save_and_say_how_to_go_on(videos, tmp_path, number, code):
    process = start(videos, tmp_path / "run", workers=2)
    wait_for_steps(process, tmp_path / "run", 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "saved" in out
    assert "--resume" in out
    assert checkpoint.read(tmp_path / "run")["step"] == len(metrics(tmp_path / "run"))


def test_full_disk_keeps_the_checkpoint_before(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=2)
    before = (folder / "checkpoints" / "last.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes then fail with EFBIG, as they do with ENOSPC
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(checkpoint.SaveError, match=r"no space left on the disk; last.pt from before is intact"):
            train(tiny(), videos, folder, quiet=True, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "checkpoints" / "last.pt").read_bytes() == before
    assert not list(folder.rglob("*.part"))
    train(tiny(), videos, folder, quiet=True, resume=True)  # and on it goes


def test_full_disk_in_the_middle_of_a_large_checkpoint(tmp_path):
    """torch's archive writer hides the error of the disk behind one of its own."""
    limits, path = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "last.pt"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, limits[1]))
        with pytest.raises(checkpoint.SaveError, match=r"no space left on the disk; there was none before\. Free"):
            checkpoint.atomically(path, lambda file: torch.save([torch.rand(2**18) for _ in range(8)], file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_metrics_before(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=4)
    path = folder / "metrics.jsonl"
    before = path.read_text() + '{"step": 5, "loss'  # what a kill leaves, and a resume drops
    path.write_text(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(
            checkpoint.SaveError, match=r"metrics\.jsonl: no space left on the disk; metrics\.jsonl from before"
        ):
            train(tiny(), videos, folder, quiet=True, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == before
    assert len(metrics(train(tiny(), videos, folder, quiet=True, resume=True))) == 10


def test_a_run_that_failed_before_it_saved_begins_anew(videos, tmp_path, monkeypatch):
    """Out of memory in the optimiser's first step, which makes its moments: mended by other settings and --resume."""

    def full(*_):
        raise torch.OutOfMemoryError("no room for moments")

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", full)
        with pytest.raises(TrainingError, match=r"Try --training.accumulate 2.*repeat the command with --resume"):
            train(tiny(), videos, tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="is not empty; add --resume"):
        train(tiny(), videos, tmp_path / "run", quiet=True)
    folder = train(tiny(batch=2), videos, tmp_path / "run", quiet=True, resume=True)
    assert len(metrics(folder)) == 21
    assert checkpoint.read(folder)["step"] == 21


def test_what_is_wrong_at_the_start_leaves_no_folder(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="needs the extra"):
        train(tiny(), videos, tmp_path / "run", quiet=True, tensorboard=True)
    for index in range(5):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{index}.mp4").write_bytes(b"no video")
        (tmp_path / "videos" / f"good_{index}.mp4").symlink_to(videos / "0.mp4")
    with pytest.raises(VideoError, match="videos cannot be read so far, more than 5 %"):
        train(tiny(batch=10, epochs=6), tmp_path / "videos", tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_tidied_run_is_not_begun_anew(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=2)
    (folder / "checkpoints" / "last.pt").unlink()
    with pytest.raises(ValueError, match=r"has an encoder but no checkpoints/last\.pt"):
        train(tiny(), videos, folder, quiet=True, resume=True)


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "KeyError"), ("{", "JSONDecodeError"), ('{"run": 3}', "TypeError"), ("[]", "TypeError")]
)
def test_damaged_card_is_named(videos, tmp_path, text, said):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=1)
    (folder / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"run\.json is damaged or no run\.json \({said}"):
        train(tiny(), videos, folder, quiet=True, resume=True)


def test_without_a_terminal_progress_is_lines(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tubelet.train.log.PLAIN_EVERY", 0)
    folder = train(tiny(), videos, tmp_path / "run", resume=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert len(lines) == 10
    for number, (line, values) in enumerate(zip(lines, metrics(folder)), 1):
        said = re.fullmatch(
            r"step (\d+)/10  loss (\S+)  (\d+) clips/s  waiting for data (\d+)%(  (\d+ min )?\d+ s left)?", line
        )
        assert said, line
        assert int(said[1]) == values["step"] == number
        assert 0 <= int(said[4]) <= 100
    first = metrics(folder)[0]
    assert f"loss {first['loss']:.4f}  {first['clips_per_second']:.0f} clips/s" in lines[0]


def test_resuming_nothing_is_said(videos, tmp_path, capsys):
    train(tiny(), videos, tmp_path / "run", resume=True, limit=1)
    assert f"nothing to resume in {tmp_path / 'run'}: begun from the start" in capsys.readouterr().err.replace("\n", "")


def test_a_run_from_before_a_setting_was_there_resumes(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=2)
    card = json.loads((folder / "run.json").read_text())
    del card["run"]["encoder"]["position"]
    (folder / "run.json").write_text(json.dumps(card))
    assert len(metrics(train(tiny(), videos, folder, quiet=True, resume=True))) == 10


def test_a_link_to_nowhere_is_one_more_unreadable_video(videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(7):
        (folder / f"{index}.mp4").symlink_to(videos / f"{index}.mp4")
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    train(tiny(), folder, tmp_path / "run", quiet=True)
    assert f"1 of 8 videos could not be read and were replaced: {folder / 'gone.mp4'}" in capsys.readouterr().err


def test_infinite_loss_names_step_rate_and_files(videos, tmp_path):
    run = tiny()
    run = replace(run, optim=replace(run.optim, base_lr=1e30))
    with pytest.raises(TrainingError) as caught:
        train(run, videos, tmp_path / "run", quiet=True)
    text = str(caught.value)
    assert "learning rate" in text
    assert ".mp4" in text
    assert "--optim.base-lr" in text
    weights = checkpoint.read(tmp_path / "run")["method"]
    assert all(value.isfinite().all() for value in weights.values())


def test_out_of_memory_says_what_to_change(videos, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("tubelet.methods.masked.MaskedAutoencoder.forward", full)
    with pytest.raises(TrainingError, match=r"batch 4 x 1 crops / 1 parts\). Try --training.accumulate 2"):
        train(tiny(), videos, tmp_path / "run", quiet=True)


def test_used_folder_other_run_and_foreign_folder(videos, tmp_path):
    folder = train(tiny(), videos, tmp_path / "run", quiet=True, limit=1)
    with pytest.raises(ValueError, match=r"not empty; add --resume"):
        train(tiny(), videos, folder, quiet=True)
    other = replace(tiny(), optim=Optim(base_lr=0.01, warmup=1))
    with pytest.raises(ValueError, match=r"optim.base_lr: 0.05 -> 0.01"):
        train(other, videos, folder, quiet=True, resume=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").write_text("dear")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"letters is not empty and has no run.json: it is no run"):
            train(tiny(), videos, tmp_path / "letters", quiet=True, resume=resume)
        with pytest.raises(ValueError, match=r"mother.txt is a file"):
            train(tiny(), videos, tmp_path / "letters" / "mother.txt", quiet=True, resume=resume)


def test_nothing_is_written_when_settings_are_wrong(videos, tmp_path):
    for run, words in [
        (tiny(batch=100), "less than one batch"),
        (tiny(accumulate=3), "does not divide into 3 parts"),
        (tiny(device="tpu"), "'tpu' cannot be used here"),
        (replace(tiny(), data=replace(tiny().data, size=(30, 32))), "height 30 does not divide into cubes of 8"),
    ]:
        with pytest.raises(ValueError, match=words):
            train(run, videos, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0])
def test_impossible_mask_ratio(videos, tmp_path, ratio):
    run = tiny()
    with pytest.raises(ValueError, match=f"mask ratio {ratio:g}"):
        train(replace(run, method=replace(run.method, mask=Tube(ratio))), videos, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_devices_and_precision():
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"there is: cpu"):
            pick_device("cuda")
    assert pick_precision("float32", torch.device("cpu")) == torch.float32
    assert pick_precision("auto", torch.device("mps")) == torch.float32


def test_tensorboard_has_the_numbers_of_the_metrics(videos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(tiny(), videos, tmp_path / "run", quiet=True, tensorboard=True, limit=4)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in metrics(folder)]


def test_many_notes_are_shown_in_part_and_written_whole(tmp_path, capfd):
    with Log(tmp_path, 0, 10) as log:
        for number in range(9):
            log.note(number, [f"video {number} is short"] * 2)
    assert (tmp_path / "notes.txt").read_text().count("is short") == 9
    shown = capfd.readouterr().err
    assert "video 4 is short" in shown
    assert "video 5" not in shown
    assert "further notes" in shown
    assert log.notes["video 3 is short"] == 2
