"""Folders for transformers: it loads them with nothing missing and nothing left over, and gives our outputs."""

import json
from dataclasses import replace

import pytest
import torch
from runs import finetuning, pretraining, saved
from safetensors.torch import load_file
from transformers import AutoConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from tubelet.config import preset, to_json
from tubelet.data.transforms import Place
from tubelet.evaluate.results import Results, Row, to_lines
from tubelet.export.folder import WARNING, write_folder
from tubelet.export.trained import no_whole, noise
from tubelet.nn.cross import CrossDecoder
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.patches import patchify
from tubelet.targets import HOG, MEAN, STD, Pixels, inputs
from tubelet.types import Batch, TokenMask

SHORT = {"output_loading_info": True, "attn_implementation": "eager"}


def pixels(video: torch.Tensor) -> torch.Tensor:
    """Clips as transformers wants them, by our statistics."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)
    return ((video.float() / 255 - mean) / std).transpose(1, 2)


def clips(run, count: int = 2) -> torch.Tensor:
    shape = (count, 3, run.data.clip.frames, *run.data.size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def whole(kind, folder):
    """A model of transformers, and that its loading report is empty."""
    model, info = kind.from_pretrained(folder, **SHORT)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 40), (24, 40)], ids=["square", "wide"])
@pytest.mark.parametrize("target", ["videomae", "none"])
def test_an_autoencoder_gives_the_same_predictions_and_loss_in_transformers(tmp_path, size, target):
    run = pretraining()
    run = replace(run, data=replace(run.data, size=size), method=replace(run.method, target=Pixels(target)))
    folder, ours = saved(run, tmp_path / "run")
    write_folder(folder, tmp_path / "hf")
    theirs = whole(VideoMAEForPreTraining, tmp_path / "hf")
    video, grid = clips(run), run.grid()
    order = torch.rand(2, grid.tokens, generator=torch.Generator().manual_seed(2)).argsort(1)
    mask = TokenMask.from_hidden(order >= 20, grid)
    patches = patchify(video, grid.patch)

    expected = ours.imagine(patches, mask)
    theirs.decoder.norm.eps = 1e-6  # what transformers hard-codes otherwise, and the notes tell
    found = theirs(pixels(video), bool_masked_pos=mask.hidden)

    torch.testing.assert_close(found.logits, expected, rtol=1e-5, atol=1e-5)
    wanted = run.method.target.wanted(Batch(video, torch.arange(2)), patches, mask).values
    assert float(found.loss) == pytest.approx(float(((expected - wanted) ** 2).mean()), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "problem"), [("class", "single"), ("classes", "multi"), ("values", "regression")])
def test_a_classifier_gives_the_same_logits_and_knows_its_classes(tmp_path, kind, problem):
    run = finetuning(("fällt", "run", "wave"), kind)
    folder, ours = saved(run, tmp_path / "run")
    write_folder(folder, tmp_path / "hf")
    theirs = whole(VideoMAEForVideoClassification, tmp_path / "hf")
    theirs.fc_norm.eps = 1e-6
    video = clips(run)
    expected = ours.network(inputs(video, run.encoder.patch))
    torch.testing.assert_close(theirs(pixels(video)).logits, expected, rtol=1e-5, atol=1e-5)
    assert theirs.config.id2label == {0: "fällt", 1: "run", 2: "wave"}
    assert theirs.config.label2id == {"fällt": 0, "run": 1, "wave": 2}
    assert theirs.config.problem_type.startswith(problem)


@torch.no_grad()
@pytest.mark.parametrize("run", [pretraining(), finetuning()], ids=["pre-trained", "fine-tuned"])
def test_an_encoder_alone_gives_the_same_tokens(tmp_path, run):
    folder, ours = saved(run, tmp_path / "run")
    write_folder(folder, tmp_path / "hf", "encoder")
    theirs = whole(VideoMAEModel, tmp_path / "hf")
    video = clips(run)
    expected = ours.encoder(inputs(video, run.encoder.patch))
    torch.testing.assert_close(theirs(pixels(video)).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_the_epsilon_of_transformers_changes_is_told(tmp_path):
    folder, ours = saved(finetuning(), tmp_path / "run")
    notes = " ".join(write_folder(folder, tmp_path / "hf"))
    assert "fc_norm, 1e-05 instead of 1e-06" in notes
    theirs = whole(VideoMAEForVideoClassification, tmp_path / "hf")
    clip = noise(finetuning(), 1)
    off = (theirs(pixels(clip)).logits - ours.network(inputs(clip, (3, 8, 8)))).abs().max()
    told = float(notes.split("differ by up to ")[1].split()[0])
    assert told == pytest.approx(float(off), rel=0.5, abs=1e-6)


def test_names_and_config_serve_old_and_new_transformers(tmp_path):
    folder, _ = saved(pretraining(), tmp_path / "run")
    notes = write_folder(folder, tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    layer = "videomae.encoder.layer.0.attention.attention"
    assert {f"{layer}.{name}" for name in ("q_bias", "v_bias", "key.weight")} <= set(state)
    assert not [name for name in state if name.endswith(("query.bias", "key.bias", "value.bias", "qkv.weight"))]
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["qkv_bias"] is config["qv_bias"] is True
    assert (config["num_frames"], config["tubelet_size"], config["image_size"], config["patch_size"]) == (9, 3, 40, 8)
    assert config["layer_norm_eps"] == AutoConfig.from_pretrained(tmp_path / "hf").layer_norm_eps == 1e-6
    assert WARNING in notes
    assert WARNING in (tmp_path / "hf" / "README.md").read_text()


def test_frames_go_through_transformers_processor_as_through_our_test(tmp_path):
    folder, _ = saved(finetuning(), tmp_path / "run")
    write_folder(folder, tmp_path / "hf")
    processor = VideoMAEImageProcessorPil.from_pretrained(tmp_path / "hf")
    coarse = torch.rand(9, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    frames = (torch.nn.functional.interpolate(coarse, size=(96, 127), mode="bicubic").clamp(0, 1) * 255).byte()
    theirs = processor([list(frames.numpy())], return_tensors="pt").pixel_values
    ours = Place()(frames.permute(0, 2, 3, 1).contiguous(), (40, 40)).permute(3, 0, 1, 2)[None]
    off = (theirs - pixels(ours)).abs()
    assert off.max() < 2.1 / 255 / min(STD)  # a grey level or two, where resizing rounds otherwise
    assert off.mean() < 0.5 / 255 / min(STD)


WRONG = {
    "encoder.attention": lambda run: replace(run, encoder=replace(run.encoder, attention="divided")),
    "encoder.position": lambda run: replace(run, encoder=replace(run.encoder, position="axes")),
    "encoder.patch": lambda run: replace(run, encoder=replace(run.encoder, patch=(3, 8, 4))),
    "encoder.class_token": lambda run: replace(run, encoder=replace(run.encoder, class_token=True)),
    "data.channels": lambda run: replace(run, data=replace(run.data, channels=1)),
}


@pytest.mark.parametrize("setting", WRONG)
def test_an_encoder_that_cannot_be_expressed_is_refused_by_the_setting(tmp_path, setting):
    folder, _ = saved(WRONG[setting](pretraining()), tmp_path / "run")
    with pytest.raises(ValueError, match=setting):
        write_folder(folder, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


OTHERS = {
    "method.decoder CrossDecoder": {"decoder": CrossDecoder(36, 2, 3)},
    "method.decoder Head": {"decoder": Head()},
    "method.decoder.position axes": {"decoder": Decoder(36, 2, 3, position="axes")},
    "method.target HOG": {"target": HOG(cell=4)},
    "method.target.normalise mae": {"target": Pixels("mae")},
}


@pytest.mark.parametrize("setting", OTHERS)
def test_of_other_methods_the_encoder_is_written_and_the_reason_told(tmp_path, setting):
    run = pretraining()
    folder, _ = saved(replace(run, method=replace(run.method, **OTHERS[setting])), tmp_path / "run")
    notes = write_folder(folder, tmp_path / "hf")
    assert setting in notes[0]
    whole(VideoMAEModel, tmp_path / "hf")
    with pytest.raises(ValueError, match=f"{setting}.*--part encoder"):
        write_folder(folder, tmp_path / "hf2", "whole")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("videomae-k400-l", ""),
        ("videomae-v2-g", ""),
        ("mgmae-k400", ""),
        ("vjepa-l", "Latent is no masked autoencoder"),
        ("moco-v3-k400-b", "is no masked autoencoder"),
        ("maskfeat-k400-b", "method.decoder Head"),
        ("st-mae-k400-b", "method.decoder.position learned"),
    ],
)
def test_which_presets_are_written_whole(tmp_path, name, reason):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    found = no_whole(preset(name), tmp_path)
    assert (found == "") if not reason else (reason in found), found


def test_a_head_with_cells_is_refused_and_its_encoder_is_not(tmp_path):
    folder, _ = saved(finetuning(cells=(1, 2, 2)), tmp_path / "run")
    with pytest.raises(ValueError, match=r"method.cells \(1, 2, 2\)"):
        write_folder(folder, tmp_path / "hf")
    write_folder(folder, tmp_path / "hf", "encoder")


def test_a_file_of_an_encoder_has_no_decoder_to_write(tmp_path):
    folder, _ = saved(pretraining(), tmp_path / "run")
    notes = write_folder(folder / "encoder.safetensors", tmp_path / "hf")
    assert "has no checkpoint" in notes[0]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    folder, _ = saved(pretraining(), tmp_path / "run")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="there already"):
        write_folder(folder, tmp_path / "hf")


def test_the_card_tells_recipe_data_numbers_and_licence_but_no_paths(tmp_path):
    run = finetuning()
    run = replace(run, method=replace(run.method, init="/secret/place/first", validation="/secret/place/val.csv"))
    folder, _ = saved(run, tmp_path / "run")
    about = {"run": json.loads(to_json(run)), "made_with": {}}
    about |= {"data": "/secret/place/lists/train.csv", "fingerprint": {"videos": 12, "places": 12}}
    (folder / "run.json").write_text(json.dumps(about))
    lines = [{"step": 1, "loss": 1.5, "validation_top1": 41.5}, {"step": 2, "loss": 1.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [Row(n, f"{n}.mp4", None, None, "run", [0.1, 0.8, 0.1]) for n in range(4)]
    (folder / "test-held-5x3.jsonl").write_text(to_lines(Results(run.data.labels, rows, "5x3")))
    write_folder(folder, tmp_path / "hf", licence="cc-by-nc-4.0")
    page = (tmp_path / "hf" / "README.md").read_text()
    for part in (
        "license: cc-by-nc-4.0\n",
        "train.csv, 12 videos",
        "held-5x3",
        "4 videos, 5x3 views",
        "100.00 %",
        "loss 1.25, validation top1 41.5",
        "| optim.base_lr | ",
        "| method.init | first |",
        "VideoMAEForVideoClassification.from_pretrained",
    ):
        assert part in page, part
    assert "secret" not in page
    assert page.startswith("---\n")

    write_folder(folder, tmp_path / "hf2")
    bare = (tmp_path / "hf2" / "README.md").read_text()
    assert "license:" not in bare
    assert "None is stated" in bare
    with pytest.raises(ValueError, match=r"apache-2\.0"):
        write_folder(folder, tmp_path / "hf3", licence="see LICENSE\nfile")


def test_the_demo_s_own_preset_is_written_whole(tmp_path):
    folder, _ = saved(preset("videomae-demo"), tmp_path / "run")
    write_folder(folder, tmp_path / "hf")
    assert whole(VideoMAEForPreTraining, tmp_path / "hf").config.decoder_hidden_size == 96
