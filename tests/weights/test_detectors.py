"""Weights of detectors: VideoMAE-Action-Detection's against its model written anew, and those of runs of ours."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from manifests import finetuned, noise, pretrained
from safetensors.torch import load_file, save_file

from tubelet.cli import run as cli
from tubelet.cli.arguments import NOTHING, opened
from tubelet.config import Optim, Run, Training, preset, to_json
from tubelet.data.datasets import Data
from tubelet.data.labels import Labels
from tubelet.data.sampling import Around, Dense
from tubelet.export.folder import write_folder
from tubelet.export.graphs import network_of
from tubelet.export.official import write_official
from tubelet.finetuning import Initial
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.masked import Masked
from tubelet.methods.supervised import Supervised
from tubelet.nn.decoder import Decoder
from tubelet.nn.detector import Detector
from tubelet.nn.vit import Encoder, ViT
from tubelet.report import lead, what_next, write_report
from tubelet.targets import inputs, normalise
from tubelet.train import checkpoint
from tubelet.train.checkpoint import load, load_classifier, load_encoder
from tubelet.train.detector import detector_from, load_detector
from tubelet.train.optim import adamw
from tubelet.train.start import fitting, started
from tubelet.types import Grid
from tubelet.weights.archive import Archive
from tubelet.weights.found import Asked
from tubelet.weights.load import described, recognised

TINY = (24, 2, 48)
HEADS = Asked(heads=2)


# ---------------------------------------------------------------------------- VideoMAE-Action-Detection


def theirs(seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint as it writes them, of a tiny model."""
    state = noise(finetuned(*TINY, 80, norm="norm"), seed)
    state["norm.weight"] += 1
    return state


def sinusoid(tokens: int, width: int) -> torch.Tensor:
    """Their fixed table, entry by entry."""
    table = np.empty((tokens, width))
    for place, column in np.ndindex(tokens, width):
        angle = place / 10000 ** (2 * (column // 2) / width)
        table[place, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    return torch.from_numpy(table)


def aligned(surface: np.ndarray, box: np.ndarray) -> np.ndarray:
    """RoIAlign of a map "d h w" of cubes of 16 pixels to 7x7, in loops, and the largest of each channel."""
    _, height, width = surface.shape
    left, top, right, bottom = box / 16
    tall, wide = max(bottom - top, 1) / 7, max(right - left, 1) / 7
    many = math.ceil(tall), math.ceil(wide)
    best = np.full(len(surface), -np.inf)
    for row, column in np.ndindex(7, 7):
        total = np.zeros(len(surface))
        for i, j in np.ndindex(*many):
            y, x = top + row * tall + (i + 0.5) * tall / many[0], left + column * wide + (j + 0.5) * wide / many[1]
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = max(y, 0), max(x, 0)
            low, near = min(int(y), height - 1), min(int(x), width - 1)
            high, far = min(low + 1, height - 1), min(near + 1, width - 1)
            y, x = min(y, height - 1), min(x, width - 1)
            down, across = y - low, x - near
            total += (1 - down) * (1 - across) * surface[:, low, near] + down * across * surface[:, high, far]
            total += (1 - down) * across * surface[:, low, far] + down * (1 - across) * surface[:, high, near]
        best = np.maximum(best, total / math.prod(many))
    return best


def their_model(state: dict[str, torch.Tensor], video: torch.Tensor, boxes: np.ndarray, heads: int) -> np.ndarray:
    """Logits of boxes of one uint8 clip, in float64, written from the description of the released model."""
    state = {name: value.double() for name, value in state.items()}
    mean = torch.tensor([122.7717, 115.9465, 102.9801], dtype=torch.float64).view(3, 1, 1, 1)
    x = F.conv3d(
        (video.double() - mean) / 57.375, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], (2, 16, 16)
    )
    _, d, t, h, w = x.shape
    table = sinusoid(8 * 14 * 14, d).view(8, 14, 14, d).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(h, w), mode="bicubic", align_corners=False)
    x = (x.flatten(2).transpose(1, 2)[0].view(t, h, w, d) + table.permute(0, 2, 3, 1)).reshape(-1, d)
    for block in (f"blocks.{number}." for number in range(TINY[1])):
        own = {name.removeprefix(block): value for name, value in state.items() if name.startswith(block)}
        seen = F.layer_norm(x, (d,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        bias = torch.cat([own["attn.q_bias"], torch.zeros_like(own["attn.q_bias"]), own["attn.v_bias"]])
        q, k, v = F.linear(seen, own["attn.qkv.weight"], bias).view(-1, 3, heads, d // heads).permute(1, 2, 0, 3)
        mixed = (q @ k.transpose(1, 2) / math.sqrt(d // heads)).softmax(-1) @ v
        x = x + F.linear(mixed.transpose(0, 1).reshape(-1, d), own["attn.proj.weight"], own["attn.proj.bias"])
        seen = F.layer_norm(x, (d,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        hidden = F.gelu(F.linear(seen, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        x = x + F.linear(hidden, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    x = F.layer_norm(x, (d,), state["norm.weight"], state["norm.bias"], 1e-6)
    surface = x.view(t, h, w, d).mean(0).permute(2, 0, 1).numpy()
    features = np.stack([aligned(surface, box) for box in boxes])
    return features @ state["head.weight"].numpy().T + state["head.bias"].numpy()


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("released") / "ava.pth"
    torch.save({"module": theirs()}, path)
    return path


@torch.no_grad()
def test_its_logits_are_those_of_their_model_on_frames_of_another_shape(released, tmp_path):
    """Of 256x320 pixels, where it was trained on 224x224; also of the file that it was converted to."""
    video = torch.randint(0, 256, (1, 3, 16, 256, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    boxes = np.array([[0.0, 0, 320, 256], [20.5, 30.25, 120, 250], [250, 10, 320, 60], [100, 100, 104, 103]])
    expected = their_model(theirs(), video, boxes, heads=2)
    assert cli(["convert", str(released), str(tmp_path / "ours.safetensors"), "--heads", "2"]) == 0
    for path, asked in ((released, HEADS), (tmp_path / "ours.safetensors", Asked())):
        network, run = load_detector(path, asked)
        grid = Grid.of(16, 256, 320, run.encoder.patch)
        assert run.method.norm == "imagenet"
        found = network(inputs(video, grid.patch), torch.tensor(boxes).float(), torch.zeros(4).long(), grid)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        assert isinstance(load(path, asked), Detector)


def test_it_says_what_it_is(released, tmp_path):
    network, run = load_detector(released, HEADS)
    assert isinstance(run.method, ActionDetection)
    assert run.data.clip == Around(16, stride=4)
    assert run.data.size == (224, 224)
    assert run.data.labels == Labels("classes", tuple(f"action {number}" for number in range(1, 81)))
    assert (run.method.outputs, run.method.pool, run.method.bins) == (80, "max", 7)
    assert not network.training
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"act {n}" for n in range(80)), encoding="utf-8")
    args = ["convert", str(released), str(tmp_path / "named.safetensors"), "--heads", "2", "--labels", str(names)]
    assert cli(args) == 0
    assert load_detector(tmp_path / "named.safetensors")[1].data.labels.names[7] == "act 7"


def test_its_encoder_is_used_with_its_norm(released):
    encoder, run = load_encoder(released, HEADS)
    assert torch.equal(encoder.norm.bias, theirs()["norm.bias"])
    assert isinstance(run.method, ActionDetection)


@pytest.mark.parametrize("written", [False, True])
def test_it_does_not_classify_clips(released, tmp_path, written, capsys):
    path, more = released, ["--heads", "2"]
    if written:
        path, more = tmp_path / "ours.safetensors", []
        assert cli(["convert", str(released), str(path), "--heads", "2"]) == 0
    with pytest.raises(
        ValueError, match=r"says what people in boxes do, .* tubelet detect, or with tubelet test on key"
    ):
        load_classifier(path, HEADS if more else Asked())


def test_neither_clips_nor_nothing_detects(tmp_path):
    save_file(noise(finetuned(*TINY, 5)), tmp_path / "clips.safetensors")
    with pytest.raises(ValueError, match=r"has a head for whole clips, but not a head for boxes; .* finetune-ava-b"):
        load_detector(tmp_path / "clips.safetensors", HEADS)
    save_file(noise(pretrained(*TINY, 16, 1, 32)), tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match=r"has an encoder but no head for boxes; .* tubelet finetune finetune-ava-b"):
        load_detector(tmp_path / "encoder.safetensors", HEADS)
    with pytest.raises(ValueError, match=r"has an encoder but no head; .* tubelet finetune --weights"):
        load_classifier(tmp_path / "encoder.safetensors", HEADS)


# ---------------------------------------------------------------------------- runs of ours

SHAPE = Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8))
NAMES = Labels("classes", ("jump", "run", "sit"))


def a_run(method, **data) -> Run:
    settings = {"clip": Around(4), "size": (16, 24)} | data
    return Run(SHAPE, method, Data(**settings), Optim(), Training(epochs=1, batch=2, device="cpu", precision="float32"))


def saved(run: Run, folder: Path, seed: int = 0):
    """A run folder with weights that are nothing like fresh ones, and its method."""
    torch.manual_seed(seed)
    method = run.method.build(run.encoder, run.grid(), run.data.channels)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    checkpoint.save(folder, run, method, adamw(method, run.optim), 1)
    return method.eval()


def detecting(**settings) -> Run:
    return a_run(ActionDetection(outputs=3, **settings), labels=NAMES)


VIDEO = torch.randint(0, 256, (2, 3, 4, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
BOXES, WHICH = torch.tensor([[0.0, 0, 24, 16], [3, 2, 14, 15], [10, 4, 22, 12]]), torch.tensor([0, 0, 1])


@torch.no_grad()
@pytest.mark.parametrize("norm", ["imagenet", "videomae-action-detection"])
@pytest.mark.parametrize("pool", ["max", "attentive"])
def test_a_run_keeps_its_detector_which_then_sees_pixels_as_all_do(norm, pool, tmp_path):
    run = detecting(norm=norm, pool=pool)
    method = saved(run, tmp_path / "run")
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[0] for name in kept} == {"encoder", "head", *(["pool"] if pool == "attentive" else [])}
    assert "encoder.norm.weight" in kept
    patches = inputs(VIDEO, run.encoder.patch)
    raw = patches * patches.new_tensor([0.229, 0.224, 0.225] * 128) + patches.new_tensor([0.485, 0.456, 0.406] * 128)
    expected = method.network(normalise(raw, 3, norm), BOXES, WHICH)
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        network, before = load_detector(path)
        assert before == replace(run, method=replace(run.method, norm="imagenet"))
        torch.testing.assert_close(network(patches, BOXES, WHICH), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(load(path)(patches, BOXES, WHICH), expected, rtol=0, atol=1e-4)
    encoder, _ = load_encoder(tmp_path / "run")
    torch.testing.assert_close(encoder(patches), method.encoder(normalise(raw, 3, norm)), rtol=0, atol=1e-4)
    assert torch.equal(encoder.norm.weight, method.encoder.norm.weight)
    assert load(tmp_path / "run").config.norm == norm  # the method itself, as it trained


@torch.no_grad()
def test_grey_video_is_restated_too(tmp_path):
    run = detecting(norm="videomae-action-detection")
    run = replace(run, data=replace(run.data, channels=1))
    method = saved(run, tmp_path / "run")
    grey = VIDEO[:, :1]
    patches = inputs(grey, run.encoder.patch)
    mean, std = 255 * (0.485 + 0.456 + 0.406) / 3, 255 * (0.229 + 0.224 + 0.225) / 3
    theirs = (patches * std + mean - (122.7717 + 115.9465 + 102.9801) / 3) / 57.375
    found = load_detector(tmp_path / "run")[0](patches, BOXES, WHICH)
    torch.testing.assert_close(found, method.network(theirs, BOXES, WHICH), rtol=0, atol=1e-4)


def begun(run: Run, path: Path, new_head: bool = False):
    torch.manual_seed(9)
    network = run.method.build(run.encoder, run.grid(), 3).network.eval()
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    report = detector_from(fitting(run, str(path), inflate=False), run, network, new_head)
    state = network.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, fresh[name])}
    return network, state, changed, report


def test_a_detector_begins_with_an_encoder_that_saw_no_labels_and_its_norm(tmp_path):
    before = saved(a_run(Masked(decoder=Decoder(16, 1, 2)), clip=Dense(4)), tmp_path / "run")
    _, state, changed, report = begun(detecting(), tmp_path / "run")
    assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in before.encoder.state_dict().items())
    assert changed == {name for name in state if name.startswith("encoder.")}
    assert set(report.fresh) == {"head.weight", "head.bias"}


def test_a_detector_begins_with_an_encoder_that_saw_labels_and_a_norm_that_does_nothing(tmp_path):
    labelled = a_run(Supervised(outputs=3), clip=Dense(4), labels=Labels("class", NAMES.names))
    before = saved(labelled, tmp_path / "run")
    _, state, changed, report = begun(detecting(), tmp_path / "run")
    assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in before.encoder.state_dict().items())
    assert torch.equal(state["encoder.norm.weight"], torch.ones(24))
    assert not state["encoder.norm.bias"].any()
    assert changed == {name for name in state if name.startswith("encoder.") and "encoder.norm" not in name}
    assert {"norm.weight", "head.weight"} <= {name for name, (what, _) in report.tensors.items() if what == "left out"}
    assert set(report.fresh) == {"head.weight", "head.bias", "encoder.norm.weight", "encoder.norm.bias"}


@torch.no_grad()
@pytest.mark.parametrize(
    "norms",
    [("imagenet", "imagenet"), ("videomae-action-detection", "imagenet"), ("imagenet", "videomae-action-detection")],
)
def test_a_detector_begins_as_another_and_says_the_same(norms, tmp_path):
    """Whatever normalisation each has."""
    before = saved(detecting(norm=norms[0], pool="attentive"), tmp_path / "run")
    network, _, _, report = begun(detecting(norm=norms[1], pool="attentive"), tmp_path / "run")
    raw = inputs(VIDEO, SHAPE.patch)
    raw = raw * raw.new_tensor([0.229, 0.224, 0.225] * 128) + raw.new_tensor([0.485, 0.456, 0.406] * 128)
    expected = before.network(normalise(raw, 3, norms[0]), BOXES, WHICH)
    torch.testing.assert_close(network(normalise(raw, 3, norms[1]), BOXES, WHICH), expected, rtol=0, atol=1e-4)
    assert not report.fresh


def test_a_head_for_other_classes_is_replaced_when_asked(tmp_path):
    saved(detecting(), tmp_path / "run")
    other = a_run(ActionDetection(outputs=2), labels=Labels("classes", ("eat", "run")))
    with pytest.raises(ValueError, match=r"knows 3 other classes \(jump, run, sit\) than the 2 .* add --new-head"):
        begun(other, tmp_path / "run")
    _, _, changed, report = begun(other, tmp_path / "run", new_head=True)
    assert not any(name.startswith("head.") for name in changed)
    assert set(report.fresh) == {"head.weight", "head.bias"}


def test_another_way_to_pool_begins_afresh(tmp_path):
    saved(detecting(pool="attentive"), tmp_path / "run")
    _, state, changed, report = begun(detecting(), tmp_path / "run")
    assert changed == set(state)
    assert {name.split(".")[0] for name, (what, _) in report.tensors.items() if what == "left out"} == {"pool"}
    saved(detecting(), tmp_path / "other")
    _, _, _, report = begun(detecting(pool="attentive"), tmp_path / "other")
    assert report.fresh
    assert all(name.startswith("pool.") for name in report.fresh)


def test_pre_training_begins_with_a_detectors_encoder_and_norm(tmp_path):
    before = saved(detecting(pool="attentive"), tmp_path / "run")
    run = a_run(Masked(decoder=Decoder(16, 1, 2)), clip=Dense(4))
    method = run.method.build(run.encoder, run.grid(), 3)
    report = started(method, fitting(run, str(tmp_path / "run"), inflate=False))
    assert all(
        torch.equal(value, before.encoder.state_dict()[name]) for name, value in method.encoder.state_dict().items()
    )
    assert {name for name, (what, _) in report.tensors.items() if what == "left out"} == {
        name for name in before.network.state_dict() if name.startswith(("pool.", "head."))
    }


def test_a_classifier_of_clips_begins_with_a_detectors_encoder_without_its_norm(tmp_path):
    before = saved(detecting(), tmp_path / "run")
    run = a_run(Supervised(outputs=3), clip=Dense(4), labels=Labels("class", NAMES.names))
    network = run.method.build(run.encoder, run.grid(), 3).network
    report = Initial.of(run, str(tmp_path / "run"), new_head=False).into(network)
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, before.encoder.state_dict()[name])
    assert report.tensors["encoder.norm.weight"][0] == report.tensors["head.weight"][0] == "left out"


# ---------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize("mine", [True, False])
def test_formats_without_a_place_for_boxes_say_so_and_take_the_encoder(mine, released, tmp_path):
    path, asked = (tmp_path / "run", Asked()) if mine else (released, HEADS)
    if mine:
        saved(detecting(), path)
    message = "cannot be written as a whole: its head reads boxes of people, .* --part encoder"
    for part in (None, "whole"):
        with pytest.raises(ValueError, match=message):
            write_folder(path, tmp_path / f"{part}", part, asked=asked, tell=lambda report: None)
        with pytest.raises(ValueError, match=message):
            write_official(path, tmp_path / f"{part}.pth", part, asked=asked, tell=lambda report: None)
        with pytest.raises(ValueError, match=message):
            network_of(path, part, asked, lambda report: None)
    encoder, _, _ = network_of(path, "encoder", asked, lambda report: None)
    assert isinstance(encoder, ViT)
    assert encoder.norm.weight.numel() == 24
    write_official(path, tmp_path / "encoder.pth", "encoder", asked=asked, tell=lambda report: None)
    grid = encoder.grid
    size = grid.H * grid.patch[1], grid.W * grid.patch[2]
    again, _ = load_encoder(tmp_path / "encoder.pth", Asked(2, grid.T * grid.patch[0], size))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_the_card_of_a_detectors_encoder_does_not_say_that_it_saw_no_labels(tmp_path):
    saved(detecting(), tmp_path / "run")
    write_folder(tmp_path / "run", tmp_path / "out", "encoder")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "without labels" not in page
    assert "from a network that says what people do" in page


def test_what_is_found_is_described_by_a_run_of_action_detection():
    found = recognised(Archive(Path("ava.pth"), theirs()), HEADS)
    run = described(found)
    assert found.kind == "detector"
    assert run.method == replace(preset("finetune-ava-b").method, norm="imagenet", outputs=80)


def test_weights_of_a_detector_are_opened_for_what_wants_clips_boxes_or_tokens(tmp_path):
    saved(detecting(), tmp_path / "run")
    assert isinstance(opened(tmp_path / "run", NOTHING, "detector")[0], Detector)
    for part in ("all", "encoder"):  # as for tubelet embed and tubelet probe
        assert isinstance(opened(tmp_path / "run", NOTHING, part)[0], ViT)
    with pytest.raises(ValueError, match="tubelet detect"):
        opened(tmp_path / "run", NOTHING, "classifier")


def test_the_report_of_a_run_says_how_to_use_and_to_test_it(tmp_path):
    card = {"run": json.loads(to_json(detecting())), "data": "boxes.csv"}
    line = {"step": 1, "epoch": 1.0, "loss": 1.0, "seconds": 1.0, "clips_per_second": 2.0}
    assert "was taught their labels" in lead(card, [line])
    steps = what_next(tmp_path, card, [line])
    assert [command.split(" --weights")[0] for _, command in steps] == ["tubelet detect my_video.mp4"]
    (tmp_path / "run.json").write_text(json.dumps(card))
    page = write_report(tmp_path).read_text()
    assert "What it imagines" not in page
    assert "on key frames that it was not taught" in page
