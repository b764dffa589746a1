"""Whether a run fits on machines, against arithmetic by hand from the papers' tables."""

import csv
import json
import math
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from tubelet import hardware
from tubelet.bench.reading import Reading
from tubelet.bench.result import Bench
from tubelet.bench.steps import Step
from tubelet.budget import Budget, budget, render
from tubelet.cli import run as tubelet
from tubelet.config import Run, preset
from tubelet.hardware import GPUS, MEASURED, Machines
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder

HOURS = 0.1
ROOT = Path(__file__).parent.parent
VIDEOS = 240_436  # of Kinetics-400, as VideoMAE has them

# VideoMAE, ViT-B: 12 blocks of 768 over 160 visible tokens, 4 of 384 over all 1568, 1408 tokens predicted.
ENCODER = 12 * (160 * 12 * 768**2 + 2 * 160**2 * 768) + 160 * 1536 * 768
DECODER = 160 * 768 * 384 + 4 * (1568 * 12 * 384**2 + 2 * 1568**2 * 384) + 1408 * 384 * 1536
BLOCK = {width: 12 * width**2 + (2 + 1 + 4 + 1 + 4) * width for width in (768, 384)}  # q, v, out, MLP's two, two norms
PARAMETERS = 94_210_944


def base(**training) -> Run:
    run = preset("videomae-k400-b")
    return replace(run, training=replace(run.training, **training))


def tiny(**training) -> Run:
    """Where the size of the network does not matter."""
    run = base(**training)
    small = replace(run.method, decoder=Decoder(24, 1, 3))
    return replace(run, encoder=Encoder(width=48, depth=1, heads=3, hidden=192), method=small)


@cache
def on(gpus: int, run: Run | None = None, videos: int | None = VIDEOS, **machines) -> Budget:
    return budget(run or base(), Machines(gpus=gpus, **machines), videos)


# ---------------------------------------------------------------------------- memory


def test_with_ddp_every_gpu_has_sixteen_bytes_a_parameter():
    memory = on(8, base(accumulate=8)).held.memory
    assert memory.gradients == 4 * PARAMETERS
    assert memory.moments == 8 * PARAMETERS
    assert 4 * PARAMETERS <= memory.weights < 4.1 * PARAMETERS  # and fixed positions
    assert memory.clips == 2048 / 8 / 8
    assert on(8).held.exchange == on(1).held.exchange == 0  # gradients lie in the buckets that are sent


def test_with_fsdp_every_gpu_has_its_share_and_the_blocks_that_are_gathered():
    ddp, fsdp = on(64), on(64, base(parallel="fsdp"))
    for name in ("weights", "gradients", "moments"):
        assert getattr(fsdp.held.memory, name) == math.ceil(getattr(ddp.held.memory, name) / 64)
    assert fsdp.held.memory.activations == ddp.held.memory.activations
    rest = PARAMETERS - 12 * BLOCK[768] - 4 * BLOCK[384]
    assert fsdp.held.exchange == 4 * (rest + 4 * BLOCK[768])
    parts = on(64, base(parallel="fsdp", accumulate=4)).held.memory
    assert parts.gradients == 4 * PARAMETERS  # added up whole, and sent once
    assert parts.moments == math.ceil(8 * PARAMETERS / 64)


def test_libraries_and_a_tenth_are_allowed_for_on_gpus_only():
    held = on(8).held
    assert held.allowance == pytest.approx(1.5 * 2**30 + 0.1 * (held.memory.total + held.exchange), rel=1e-6)
    assert held.total == held.memory.total + held.exchange + held.allowance
    assert on(1, base(batch=8), gpu="cpu").held.allowance == 0


@pytest.mark.parametrize(("gpu", "gib", "flag"), [("l4", 22.0, "accumulate"), ("l40s", 3.4, "fsdp")])
def test_the_change_that_is_named_is_the_least_that_fits(gpu, gib, flag, monkeypatch):
    monkeypatch.setitem(GPUS, gpu, replace(GPUS[gpu], gib=gib))
    run, gpus = base(), 8
    found = on(gpus, run, gpu=gpu)
    assert not found.fits["memory"]
    assert found.change is not None
    assert flag in found.change.flags
    words = dict(zip(*[iter(shlex.split(found.change.flags))] * 2))
    parts = int(words.get("--training.accumulate", 1))
    training = replace(run.training, parallel=words.get("--training.parallel", "ddp"))
    changed = on(gpus, replace(run, training=replace(training, accumulate=parts)), gpu=gpu)
    assert changed.fits["memory"]
    assert changed.held.total == found.change.total
    if parts > 1:
        local = run.training.batch // gpus
        fewer = max(count for count in range(1, parts) if local % count == 0)
        assert not on(gpus, replace(run, training=replace(training, accumulate=fewer)), gpu=gpu).fits["memory"]
    if "fsdp" in found.change.flags:  # with all of the network on each, no number of parts is enough
        single = replace(run.training, accumulate=local)
        assert not on(gpus, replace(run, training=single), gpu=gpu).fits["memory"]


def test_where_nothing_helps_it_says_so(monkeypatch):
    monkeypatch.setitem(GPUS, "l4", replace(GPUS["l4"], gib=1.0))
    found = on(1, base(batch=4), gpu="l4")
    assert found.change is None
    assert "no, and no --training.accumulate" in shown(found)


# ---------------------------------------------------------------------------- time


def test_a_step_multiplies_three_times_what_the_forward_pass_does():
    assert on(1).flops == pytest.approx(6 * (ENCODER + DECODER), rel=1e-4)


def test_recomputing_adds_the_encoders_forward_pass():
    plain, again = on(1), on(1, replace(base(), encoder=replace(base().encoder, checkpoint=True)))
    more = (3 * (ENCODER + DECODER) + ENCODER) / (3 * (ENCODER + DECODER))
    assert again.pace.products / plain.pace.products == pytest.approx(more, rel=1e-4)
    assert again.flops == plain.flops


def test_hours_are_steps_times_the_share_of_a_gpu_over_what_it_reaches():
    found = on(64, peak=100, utilisation=0.5, link=1e6)
    assert found.steps == 1600 * VIDEOS // 2048
    assert found.pace.products == pytest.approx(32 * found.flops / 50e12)
    assert found.pace.exposed == 0
    assert found.hours == pytest.approx(found.steps * 32 * found.flops / 50e12 / 3600)


def test_exchange_is_a_ring_of_gradients_and_with_fsdp_of_weights_too():
    ring = 2 * 63 / 64 * 4 * PARAMETERS / 10e9
    ddp = on(64, link=10, peak=1000, utilisation=1.0).pace
    assert ddp.exchange == pytest.approx(ring)
    assert ddp.exposed == pytest.approx(ring - ddp.products * 2 / 3)
    slow = on(64, link=10, peak=1, utilisation=1.0).pace
    assert slow.exposed == 0
    for parts, rings in ((1, 1.5), (4, 4.5)):  # half a ring for sums, and for each gathering
        run = base(parallel="fsdp", accumulate=parts)
        assert on(64, run, link=10).pace.exchange == pytest.approx(rings * ring), parts
    assert on(64, base(accumulate=4), link=10).pace.exchange == pytest.approx(ring)  # once a step


def test_between_nodes_the_network_is_the_link_and_within_one_that_of_the_gpu():
    assert on(8, tiny(), gpu="a100").constants["link"].value == 300
    assert on(16, tiny(), gpu="a100").constants["link"].value == 12.5
    assert on(16, tiny(), gpu="a100").nodes == 2
    assert on(8, tiny(), gpu="a100", nodes=2).constants["link"].value == 12.5


def test_what_would_just_do_for_the_hours_just_does():
    found = on(8, tiny(), gpu="a100", hours=HOURS)
    assert found.fits["hours"] is False
    assert on(8, tiny(), gpu="a100", hours=HOURS, utilisation=found.enough["utilisation"]).fits["hours"]
    assert not on(8, tiny(), gpu="a100", hours=HOURS, utilisation=found.enough["utilisation"] - 0.01).fits["hours"]
    gpus = int(found.enough["gpus"])
    assert on(gpus, tiny(), gpu="a100", hours=HOURS).fits["hours"]
    assert not on(gpus // 2, tiny(), gpu="a100", hours=HOURS).fits["hours"]
    assert on(8, tiny(epochs=found.enough["epochs"] - 1), gpu="a100", hours=HOURS).fits["hours"]
    assert not on(8, tiny(epochs=found.enough["epochs"] + 1), gpu="a100", hours=HOURS).fits["hours"]


def test_without_videos_hours_are_open():
    found = on(8, tiny(), videos=None, hours=5)
    assert found.hours is None
    assert found.fits["hours"] is None
    assert "needs --data or --videos" in shown(found)


def test_cpu_is_as_fast_as_was_measured():
    row = next(
        row
        for row in csv.DictReader((ROOT / "benchmarks/step.csv").read_text().splitlines())
        if (row["size"], row["precision"], row["side"]) == ("b", "bfloat16", "tubelet")
    )
    found = on(1, base(batch=8, precision="bfloat16"), gpu="cpu")
    assert found.reading.clips == pytest.approx(float(row["clips_per_second"]), rel=0.02)


# ---------------------------------------------------------------------------- reading and saving


def test_cores_are_clips_a_second_times_seconds_of_a_core():
    found = on(8, tiny())
    per_gpu = 2048 / 8 / found.pace.total
    assert found.reading.cores == pytest.approx(per_gpu * 0.0428)
    assert on(8, tiny(), files="layered").reading.cores == pytest.approx(per_gpu * 0.0304)
    assert on(8, tiny(), ms_per_clip=10).reading.cores == pytest.approx(per_gpu * 0.01)
    crops = replace(tiny(), data=replace(tiny().data, repeats=2))
    assert on(8, crops).reading.cores == pytest.approx(found.reading.cores / 2)  # decoded once, shown twice


def test_a_node_fetches_what_its_gpus_read():
    found = on(64, tiny())
    videos = 2048 / found.pace.total / 8
    assert found.nodes == 8
    assert found.reading.whole == pytest.approx(videos * 300 * 2544)
    assert found.reading.bytes == pytest.approx(videos * (15 * 4 + 1 + 16) * 2544)  # half of 32 frames before the first
    assert found.saving.videos == VIDEOS * 300 * 2544
    assert on(8, tiny(), length=100).saving.videos == VIDEOS * 100 * 2544
    given = budget(tiny(), Machines(gpus=8), VIDEOS, 1e6).saving
    assert given.videos == pytest.approx(VIDEOS * 1e6)


def test_checkpoints_are_twelve_bytes_a_parameter_as_often_as_failures_ask():
    found = on(64)
    assert 12 * PARAMETERS <= found.saving.checkpoint < 12.1 * PARAMETERS
    assert found.saving.kept == 1
    seconds = found.saving.checkpoint / 1e9
    assert found.saving.every == pytest.approx(math.sqrt(2 * seconds * 264 * 86400 / 8))
    assert found.saving.failures == pytest.approx(found.hours / 24 * 8 / 264)
    assert on(64, tiny(keep=True)).saving.kept == 1600 / 20


# ---------------------------------------------------------------------------- constants


def test_measured_constants_are_those_of_the_tables():
    rows = [
        row
        for row in csv.DictReader((ROOT / "benchmarks/prepare.csv").read_text().splitlines())
        if row["ms a clip, prepared"]
    ]
    assert len(rows) == 31
    frames = sum(int(row["frames"]) for row in rows)
    for kind, column, size in (
        ("original", "ms a clip, original", "bytes before"),
        ("prepared", "ms a clip, prepared", "bytes"),
        ("layered", "ms a clip, layered, on its layer", "bytes, layered"),
    ):
        assert MEASURED[f"ms a clip, {kind}"].value == pytest.approx(
            fmean(float(row[column]) for row in rows), abs=0.06
        )
        assert MEASURED[f"bytes a frame, {kind}"].value == round(sum(int(row[size]) for row in rows) / frames)
    assert {constant.kind for constant in MEASURED.values()} == {"measured"}
    assert {constant.kind for constant in hardware.SUPPOSED.values()} == {"supposed"}


def test_every_constant_says_where_it_is_from():
    text = " ".join(shown(on(64, link=10)).split())
    assert "given link 10 GB/s one way (--link)" in text
    measured, supposed = (
        text.index("measured ms a clip"),
        text.index("supposed peak 989 TFLOP/s in bfloat16 (data sheet"),
    )
    assert measured < supposed
    assert "benchmarks/prepare.csv, 2026-11-22" in text[measured:supposed]
    assert "utilisation 0.1 of the peak" in text[supposed:]


def a_bench() -> Bench:
    reading = Reading(8, 2, 0.05, 0.1, 61.0, 256, 340, ())
    return Bench("cuda", "bfloat16", 16, 15, 32, reading, None, True, (Step(32, 0.25),), None, 200e9, 800e12, "videos")


def test_what_bench_measured_takes_the_place_of_what_is_supposed(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(a_bench().to_dict()))
    found = on(8, tiny(), measured=path)
    assert found.constants["peak"].value == 800
    assert found.constants["utilisation"].value == pytest.approx(32 / 0.25 * 200e9 / 800e12)
    assert found.reading.cores == pytest.approx(2048 / 8 / found.pace.total * 0.025)
    assert "tubelet bench on cuda" in found.constants["peak"].source
    assert on(8, tiny(), measured=path, utilisation=0.5).constants["utilisation"].value == 0.5
    other = tmp_path / "other.json"
    other.write_text('{"peak": 3}')
    with pytest.raises(ValueError, match="is not what `tubelet bench PRESET --data DIR --json` writes"):
        on(8, tiny(), measured=other)


@pytest.mark.parametrize(
    ("machines", "run", "message"),
    [
        ({"gpus": 3}, base(), "2048 videos in 1 part cannot be shared out evenly to 3 GPUs; use --gpus 4, or .* of 3"),
        ({"gpus": 64}, base(accumulate=64), "in 64 parts .* use --gpus 32"),
        ({"gpus": 16, "nodes": 3}, base(), "--gpus 16 cannot be shared out evenly to 3 nodes"),
        ({"gpus": 0}, base(), "--gpus 0 cannot be shared out"),
        ({"gpus": 8, "gpu": "h1000"}, base(), "no GPU called 'h1000'. There are: v100"),
        (
            {"gpus": 8, "utilisation": 1.5},
            base(),
            "--utilisation 1.5 cannot be used; expected more than 0 and at most 1",
        ),
        ({"gpus": 8, "ms_per_clip": 0}, base(), "--ms-per-clip 0 cannot be used"),
        ({"gpus": 8, "gpu": "v100"}, base(precision="bfloat16"), "no bfloat16"),
    ],
)
def test_machines_that_cannot_be_are_named(machines, run, message):
    with pytest.raises(ValueError, match=message):
        budget(run, Machines(**machines), VIDEOS)


# ---------------------------------------------------------------------------- words


def shown(found: Budget) -> str:
    console = Console(width=80, highlight=False, force_terminal=False, record=True, file=None, quiet=False)
    with console.capture() as caught:
        console.print(render(found))
    assert max(map(len, caught.get().splitlines())) <= 80
    return caught.get()


def test_the_verb_answers_with_zero_whether_it_fits_or_not(capsys):
    words = ["plan", "videomae-k400-b", "--videos", "240436", "--gpus", "8", "--gpu", "l4", "--hours", "1"]
    assert tubelet(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fits no; with --training.accumulate" in text
    assert "does not fit into 1: what just does is" in text
    assert tubelet([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] == {"memory": False, "hours": False}
    assert found["constants"]["utilisation"]["kind"] == "supposed"
    assert tubelet([*words[:4], "--hours", "1"]) == 2
    assert "--hours does nothing without --gpus" in capsys.readouterr().err
