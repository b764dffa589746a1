"""The plan: multiply-adds against closed forms, memory against what a step really takes, words against sizes."""

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tubelet.activations import BOXES, Live, kept_by
from tubelet.config import Optim, Run, Training, preset
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.masks.random_masks import Frame, Random, Tube
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.latent import Latent
from tubelet.methods.masked import Masked
from tubelet.motion_targets import FrameDifference, Trajectory
from tubelet.nn.attention import SHORT, Block
from tubelet.nn.decoder import Decoder
from tubelet.nn.squared import AT_ONCE
from tubelet.nn.vit import SIZES, Encoder
from tubelet.plan import Plan, plan, render
from tubelet.targets import HOG, Pixels, Together
from tubelet.train.device import pick_precision
from tubelet.types import Batch, Boxes, Draws, Motion

TINY = Encoder(width=48, depth=2, heads=3, hidden=192)


def a_run(encoder=TINY, decoder=None, frames=16, size=(224, 224), mask=None, **training) -> Run:
    return Run(
        encoder,
        Masked(mask=mask or Tube(0.9), decoder=decoder or Decoder(24, 1, 3)),
        Data(clip=Dense(frames, stride=4), size=size),
        Optim(),
        Training(**{"epochs": 10, "batch": 8, "precision": "float32"} | training),
    )


# ---------------------------------------------------------------------------- multiply-adds


def transformer(tokens: int, width: int, hidden: int, depth: int) -> int:
    """Multiply-adds of blocks: four width x width products, two of the MLP, two of attention."""
    return depth * (tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width)


@pytest.mark.parametrize(
    ("size", "frames", "side", "published"),
    [
        ("s", 16, 224, 56.88),
        ("b", 16, 224, 180.34),
        ("l", 16, 224, 596.83),
        ("h", 16, 224, 1190.99),
        ("g", 16, 224, 2542.8),
        ("l", 32, 224, 1435.4),
        ("l", 32, 320, 3956.1),
        ("h", 32, 320, 7394.6),
    ],
)
def test_multiply_adds_of_the_encoder_equal_the_closed_form(size, frames, side, published):
    encoder = SIZES[size]
    result = plan(a_run(encoder, frames=frames, size=(side, side)))
    pt, ph, pw = encoder.patch
    tokens = frames // pt * (side // ph) * (side // pw)
    exact = (
        transformer(tokens, encoder.width, encoder.hidden, encoder.depth) + tokens * pt * ph * pw * 3 * encoder.width
    )
    assert result.gmacs["encoder of all tokens"] * 1e9 == exact
    assert result.gmacs["encoder of all tokens"] == pytest.approx(published, abs=0.051)


def test_multiply_adds_of_pre_training_equal_the_closed_form():
    """35.44 as published, less the hidden tokens: they are gathered before embedding, so never embedded."""
    gmacs = plan(preset("videomae-k400-b")).gmacs
    encoder = transformer(160, 768, 3072, 12) + 160 * 1536 * 768
    decoder = 160 * 768 * 384 + transformer(1568, 384, 1536, 4) + 1408 * 384 * 1536
    assert gmacs["encoder"] * 1e9 == encoder
    assert gmacs["decoder"] * 1e9 == decoder
    assert gmacs["forward"] * 1e9 == encoder + decoder
    assert gmacs["forward"] + 1408 * 1536 * 768 / 1e9 == pytest.approx(35.44, abs=0.005)


# ---------------------------------------------------------------------------- memory


def saved_bytes(module: torch.nn.Module, x: torch.Tensor, half: bool) -> int:
    """What the backward pass of one module keeps, parameters aside: each storage once."""
    storages: dict[int, torch.UntypedStorage] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", enabled=half):
        out = module(x)
    del out
    return sum(storage.nbytes() for place, storage in storages.items() if place not in own)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [50, SHORT, SHORT + 1])
@pytest.mark.parametrize(
    ("module", "width"),
    [(Block(96, 3, 384), 96), (Block(64, 4, 100), 64), (torch.nn.LayerNorm(96), 96), (torch.nn.Linear(96, 30), 96)],
    ids=["block", "odd block", "norm", "linear"],
)
def test_what_a_module_keeps_is_what_the_formula_says(module, width, tokens, precision):
    x = torch.randn(2, tokens, width, requires_grad=True) + 0
    measured = saved_bytes(module, x, precision == torch.bfloat16)
    assert kept_by(module, 2, tokens, precision, "cpu") == pytest.approx(measured, rel=0.01)


def test_a_run_that_is_too_large_for_the_machine_is_said(monkeypatch):
    run = a_run(Encoder(width=24, depth=1, heads=2, hidden=48, patch=(2, 8, 8)), Decoder(24, 1, 2), 4, (32, 32))
    monkeypatch.setattr("tubelet.plan.free_memory", lambda: 2**20)
    assert "more than the 1.0 MiB that are free here" in plan(run).settings["memory"]
    monkeypatch.setattr("tubelet.plan.free_memory", lambda: None)
    assert "free here" not in plan(run).settings["memory"]


def peak_bytes(run: Run) -> int:
    """Most memory that one part of a batch takes beside weights, gradients and the clips themselves."""
    method = run.method.build(run.encoder, run.grid(), 3).train()
    clips = run.training.batch
    video = torch.randint(0, 256, (clips, 3, run.data.clip.frames, *run.data.size), dtype=torch.uint8)
    outputs = getattr(run.method, "outputs", 0)
    boxes = Boxes(torch.tensor([[0.0, 0, *run.data.size[::-1]]]).repeat(BOXES, 1), torch.zeros(BOXES, outputs))
    batch = Batch(
        video, torch.arange(clips), motion=Motion.unknown(video.shape[2:], clips=clips), boxes=(boxes,) * clips
    )

    def part() -> None:
        with torch.autocast("cpu", enabled=run.training.precision == "bfloat16"):
            loss = method(batch, Draws(0, 0, range(clips)))
        (loss.sum / loss.count).backward()

    part()  # gradients are there from now on
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    with Live([*method.parameters(), *gradients, *method.buffers(), video]) as live:
        part()
    return live.peak


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("encoder", "ratio"),
    [
        (Encoder(width=96, depth=3, heads=3, hidden=384, patch=(2, 8, 8)), 0.75),
        (Encoder(width=96, depth=3, heads=3, hidden=384, patch=(2, 8, 8), checkpoint=True), 0.75),
        (Encoder(width=192, depth=2, heads=3, hidden=768, patch=(2, 8, 8), checkpoint=True), 0.25),
        (Encoder(width=96, depth=3, heads=3, hidden=384, patch=(2, 8, 8), position="rotary"), 0.75),
    ],
    ids=["plain", "recomputed", "recomputed, most of it in one block", "rotary positions"],
)
def test_activations_are_what_a_step_takes(encoder, ratio, precision):
    run = a_run(encoder, Decoder(24, 1, 3), 8, (64, 64), Tube(ratio), batch=4, precision=precision)
    assert plan(run).memory.activations == pytest.approx(peak_bytes(run), rel=0.08)


@pytest.mark.parametrize("frames", ["first", "all"])
def test_a_target_that_takes_more_than_a_small_model_keeps_is_foreseen(frames):
    run = a_run(Encoder(24, 1, 2, 48, (2, 8, 8)), Decoder(12, 1, 2), 8, (64, 64), Tube(0.9), batch=4)
    edges = replace(run, method=replace(run.method, target=HOG(frames=frames)))
    foreseen = plan(edges).memory.activations
    assert foreseen == pytest.approx(peak_bytes(edges), rel=0.08)
    assert foreseen > 1.5 * plan(run).memory.activations  # which pixels do not set


@pytest.mark.parametrize(
    "target",
    [Together((Pixels("none"), FrameDifference("none")), (1.0, 0.5)), Together((Pixels(), Trajectory()), (1.0, 1.0))],
    ids=["differences", "with weights of their own"],
)
def test_several_targets_take_what_they_put_out(target):
    run = a_run(Encoder(24, 1, 2, 48, (2, 8, 8)), Decoder(12, 1, 2), 8, (64, 64), Tube(0.9), batch=4)
    run = replace(run, method=replace(run.method, target=target))
    assert plan(run).memory.activations == pytest.approx(peak_bytes(run), rel=0.08)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_are_predicted_with_a_loss_of_their_own(precision):
    run = a_run(Encoder(96, 3, 3, 384, (2, 8, 8)), None, 8, (64, 64), batch=4, precision=precision)
    run = replace(run, method=Latent(masks=(Tube(0.75),), decoder=Decoder(48, 1, 3)))
    assert plan(run).memory.activations == pytest.approx(peak_bytes(run), rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("pool", ["max", "attentive"])
def test_boxes_take_what_is_read_of_them(pool, precision):
    run = a_run(Encoder(192, 4, 3, 768, (2, 8, 8)), None, 8, (64, 64), batch=4, precision=precision)
    run = replace(run, method=ActionDetection(outputs=8, pool=pool))
    assert plan(run).memory.activations == pytest.approx(peak_bytes(run), rel=0.12)


def test_every_block_of_the_decoder_takes_as_much_memory():
    """As in VideoMAE's ablation (table 1a): 7.9, 10.2, 14.7 and 23.7 GB with 1, 2, 4 and 8 blocks."""
    depths = (1, 2, 4, 8)
    encoder = Encoder(width=96, depth=2, heads=3, hidden=384, patch=(2, 8, 8))
    runs = [a_run(encoder, Decoder(48, depth, 3), 8, (64, 64), batch=4) for depth in depths]
    paper = (7.9, 10.2, 14.7, 23.7)
    for bytes_of in ([peak_bytes(run) for run in runs], [plan(run).memory.activations for run in runs], paper):
        steps = [(b - a) / (n - m) for a, b, m, n in zip(bytes_of, bytes_of[1:], depths, depths[1:])]
        assert max(steps) < 1.05 * min(steps)


def test_recomputing_blocks_saves_memory_and_changes_no_multiply_adds():
    plain, saving = (plan(a_run(Encoder(384, 6, 6, 1536, checkpoint=on))) for on in (False, True))
    assert saving.memory.activations < 0.7 * plain.memory.activations
    assert saving.gmacs == plain.gmacs


def test_weights_gradients_and_moments_are_four_floats_a_parameter():
    memory = plan(a_run(SIZES["s"], Decoder(192, 4, 3))).memory
    assert memory.gradients == 4 * 24_029_376
    assert memory.moments == 8 * 24_029_376
    assert memory.weights == 4 * 24_029_376 + 4 * 1568 * (384 + 192)  # and two position tables
    assert memory.total == memory.weights + memory.gradients + memory.moments + memory.activations


def test_parts_of_a_batch_divide_the_activations():
    run = a_run(batch=8, accumulate=1)
    whole = plan(run).memory
    parts = plan(replace(run, training=replace(run.training, accumulate=4))).memory
    crops = plan(replace(run, data=replace(run.data, repeats=3))).memory
    assert (whole.clips, parts.clips, crops.clips) == (8, 2, 24)
    some = 4 * AT_ONCE  # what the squared error works with, whatever the part
    assert parts.activations - some == (whole.activations - some) / 4
    assert crops.activations - some == (whole.activations - some) * 3


def test_precision_is_that_of_the_run_and_this_machine():
    automatic = plan(a_run(precision="auto", device="cpu")).memory.precision
    assert f"torch.{automatic}" == str(pick_precision("auto", torch.device("cpu")))
    elsewhere = a_run(precision="auto", device="cuda")
    if not torch.cuda.is_available():  # planned here, trained there
        assert plan(elsewhere).memory.precision == "bfloat16"
    half, full = (plan(a_run(precision=p)).memory for p in ("bfloat16", "float32"))
    assert half.activations < full.activations


# ---------------------------------------------------------------------------- stages, settings, words


def sizes(result: Plan) -> dict[str, str]:
    return {stage.name: stage.size for stage in result.stages}


def test_stages_have_the_sizes_of_the_papers_table():
    assert sizes(plan(preset("videomae-k400-b"))) == {
        "data": "3x16x224x224",
        "cube": "768x8x196",
        "mask": "768x8x20",
        "encoder": "768x8x20",
        "projector": "384x8x20",
        "decoder": "384x8x196",
        "head": "1536x8x176",
        "reshape": "3x16x224x224",
    }


def test_action_detection_has_boxes_and_a_head():
    result = plan(preset("finetune-ava-b"))
    assert sizes(result) == {
        "data": "3x16x224x224",
        "cube": "768x8x196",
        "encoder": "768x8x196",
        "boxes": "768",
        "head": "80",
    }
    assert result.stages[3].what == "RoIAlign 7x7 of the mean over time, largest"
    assert result.parameters["total"] == 86_227_200 + 768 * 80 + 80
    assert result.gmacs["forward"] > result.gmacs["encoder of all tokens"]
    assert result.settings["classes"] == "80 supposed; the labels of --data will tell"
    assert result.settings["boxes"] == "3 a clip supposed"


@pytest.mark.parametrize(
    ("mask", "size", "visible"),
    [
        (Random(0.9), (224, 224), "48x157"),
        (Frame(0.875), (224, 224), "48x196"),
        (Tube(0.5), (96, 128), "48x8x24"),
    ],
)
def test_stages_follow_any_mask_and_shape(mask, size, visible):
    result = plan(a_run(mask=mask, size=size))
    assert sizes(result)["encoder"] == visible
    assert sizes(result)["data"] == f"3x16x{size[0]}x{size[1]}"
    tokens = 8 * (size[0] // 16) * (size[1] // 16)
    assert sum(v + p for v, p in result.mask) == tokens
    assert len(result.mask) == 8


def test_steps_are_open_until_the_number_of_videos_is_known():
    run = replace(preset("videomae-k400-b"), encoder=TINY)
    unknown, known = plan(run), plan(run, 240_436)
    assert unknown.numbers is None
    assert "needs --data" in unknown.settings["steps"]
    assert "0.0012 = 0.00015 x 2048 / 256" in unknown.settings["learning rate"]
    assert known.numbers is not None
    assert known.settings["steps"] == "187,840; 1600 epochs"
    assert known.settings["warm-up"] == "4,696 steps; 40 epochs"
    assert known.settings["learning rate"] == unknown.settings["learning rate"]
    half = replace(run, training=replace(run.training, epochs=0.5))
    assert plan(half).numbers is None


def test_batch_says_videos_crops_and_parts():
    run = a_run(batch=64, accumulate=4)
    assert plan(replace(run, data=replace(run.data, repeats=2))).settings["batch"] == (
        "64 videos x 2 crops = 128 clips, in 4 parts of 32"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (100, 224)}, "height 100 does not divide into cubes of 16"),
        ({"mask": Tube(1.0)}, "mask ratio 1"),
        ({"batch": 10, "accumulate": 3}, "batch 10 does not divide into 3 parts"),
    ],
)
def test_settings_that_cannot_be_used_are_named_as_training_would(change, message):
    with pytest.raises(ValueError, match=message):
        plan(a_run(**change))


def test_a_plan_is_json_and_prints_within_eighty_columns(capsys):
    result = plan(preset("videomae-k400-h"))
    again = json.loads(json.dumps(result.to_dict()))
    assert again["parameters"] == {"total": 692_487_296, "encoder": 631_607_040, "decoder": 60_880_256}
    assert again["memory"]["total"] == result.memory.total
    assert again["mask"] == [[20, 176]] * 8
    Console(width=80, highlight=False, force_terminal=False).print(render(result))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for words in ("1280x8x20", "[16 heads, MLP 5120] x 32, recomputed", "692,487,296", "GMACs"):
        assert words in shown
