"""Training that starts from the encoder of another run: from images to video, and what must be refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.cli import run as tubelet
from tubelet.config import Optim, Run, Training, preset
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.writing import write
from tubelet.finetuning import finetune
from tubelet.masks.random_masks import Random
from tubelet.methods.masked import Masked
from tubelet.methods.supervised import Supervised
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.train.loop import train

ENCODER = Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8), position="plane")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for name, colour in {"red": (200, 40, 40), "blue": (40, 40, 200)}.items():
        (folder / name).mkdir()
        for number in range(3):
            frames = np.full((8, 32, 32, 3), colour) + rng.integers(-20, 20, (8, 32, 32, 3))
            write(folder / name / f"{number}.mp4", frames.astype(np.uint8), 10)
    return folder


def video(**training) -> Run:
    settings = {"epochs": 2, "batch": 3, "workers": 0, "precision": "float32"}
    return Run(
        encoder=ENCODER,
        method=Masked(Random(0.5), decoder=Decoder(16, 1, 2)),
        data=Data(clip=Dense(4, stride=1), size=(16, 16)),
        optim=Optim(base_lr=0.1, warmup=1),
        training=Training(**(settings | training)),
    )


def still_once(**training) -> Run:
    """The same of single frames."""
    run = video(**training)
    return replace(run, encoder=replace(ENCODER, patch=(1, 8, 8)), data=replace(run.data, clip=Dense(1, stride=1)))


@pytest.fixture(scope="module")
def images(films, tmp_path_factory) -> Path:
    return train(still_once(), films, tmp_path_factory.mktemp("runs") / "images", quiet=True)


def features(encoder, frames: int) -> torch.Tensor:
    picture = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (1, 3, 1, 16, 16), dtype=np.uint8))
    return encoder(inputs(picture.repeat(1, 1, frames, 1, 1), encoder.grid.patch))[:, :4]


def nothing_learnt(run: Run) -> Run:
    return replace(run, optim=replace(run.optim, base_lr=0.0, min_lr=0.0))


def test_video_pretraining_goes_on_where_the_images_ended(films, images, tmp_path):
    run = nothing_learnt(video(init=str(images), inflate=True))
    encoder, _ = load_encoder(train(run, films, tmp_path / "video", quiet=True))
    before, _ = load_encoder(images)
    frozen = before.embed(inputs(torch.full((1, 3, 1, 16, 16), 9, dtype=torch.uint8), (1, 8, 8)))
    grown = encoder.embed(inputs(torch.full((1, 3, 4, 16, 16), 9, dtype=torch.uint8), (2, 8, 8)))
    torch.testing.assert_close(grown[:, :4], frozen, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder.blocks[1].mlp.fc1.weight, before.blocks[1].mlp.fc1.weight)


def test_pretraining_goes_on_from_video_too_as_it_was(films, tmp_path):
    first = train(video(), films, tmp_path / "first", quiet=True)
    again = train(nothing_learnt(video(init=str(first))), films, tmp_path / "again", quiet=True)
    left, right = load_encoder(first)[0].state_dict(), load_encoder(again)[0].state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_from_weights_resumes_to_the_same_without_them(films, images, tmp_path):
    moved = tmp_path / "images"
    moved.mkdir()
    (moved / "encoder.safetensors").write_bytes((images / "encoder.safetensors").read_bytes())
    run = video(init=str(moved), inflate=True)
    whole, _ = load_encoder(train(run, films, tmp_path / "whole", quiet=True))
    train(run, films, tmp_path / "cut", quiet=True, limit=2)
    (moved / "encoder.safetensors").unlink()
    cut, _ = load_encoder(train(video(), films, tmp_path / "cut", quiet=True, resume=True))  # whatever it names now
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in cut.state_dict().items())
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["run"]["training"]["inflate"] is True


def tuning(weights: Path, inflate: bool = True, **encoder) -> Run:
    run = nothing_learnt(video())
    method = Supervised(init=str(weights), inflate=inflate, smoothing=0.0)
    return replace(run, encoder=replace(ENCODER, **encoder), method=method)


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_fine_tuning_begins_with_the_images_features(films, images, tmp_path, attention):
    run = replace(tuning(images, attention=attention), data=replace(video().data, clip=Dense(2, stride=1)))
    encoder, _ = load_encoder(finetune(run, films, tmp_path / "tuned", quiet=True))
    before, _ = load_encoder(images)
    before.norm = torch.nn.Identity()  # which fine-tuning leaves out
    torch.testing.assert_close(features(encoder, 2), features(before, 1), rtol=1e-4, atol=1e-5)


def test_a_fine_tuned_image_run_is_inflated_and_its_head_kept(films, images, tmp_path):
    still = replace(tuning(images, inflate=False, patch=(1, 8, 8)), data=still_once().data)
    tuned = finetune(still, films, tmp_path / "tuned", quiet=True)
    both = finetune(tuning(tuned), films, tmp_path / "both", quiet=True)
    left, right = (load_encoder(one)[0] for one in (tuned, both))
    assert torch.equal(left.embed.weight / 2, right.embed.weight[:, :192])


def test_what_does_not_fit_is_named(films, images, tmp_path):
    with pytest.raises(ValueError, match=r"patch: \[1, 8, 8\] -> \[2, 8, 8\].*--inflate makes it one of video"):
        finetune(tuning(images, inflate=False), films, tmp_path / "no", quiet=True)
    with pytest.raises(ValueError, match=r"encoder.safetensors: .*width: 24 -> 36"):
        finetune(tuning(images, width=36), films, tmp_path / "no", quiet=True)
    wide = replace(video(init=str(images), inflate=True), encoder=replace(ENCODER, width=36))
    with pytest.raises(ValueError, match=r"width: 24 -> 36"):
        train(wide, films, tmp_path / "no", quiet=True)
    first = train(video(), films, tmp_path / "first", quiet=True)
    with pytest.raises(ValueError, match="of a video encoder already"):
        train(video(init=str(first), inflate=True), films, tmp_path / "no", quiet=True)
    with pytest.raises(ValueError, match=r"training.init, which were not given"):
        train(video(inflate=True), films, tmp_path / "no", quiet=True)
    twice = replace(tuning(images), training=video(init=str(images)).training)
    with pytest.raises(ValueError, match="fine-tuning starts from --weights"):
        finetune(twice, films, tmp_path / "no", quiet=True)
    learnt = replace(video(), encoder=replace(ENCODER, position="learned"))
    start = train(learnt, films, tmp_path / "learnt", quiet=True)
    longer = replace(learnt, data=replace(learnt.data, clip=Dense(6, stride=1)))
    with pytest.raises(ValueError, match=r"position.slot of \(2, 24\), this run needs \(3, 24\); learnt positions"):
        train(replace(longer, training=video(init=str(start)).training), films, tmp_path / "no", quiet=True)
    assert not (tmp_path / "no").exists()


def test_the_commands_chain(films, tmp_path):
    def short(*args: str) -> list[str]:
        size = ("--data.size", "16", "16", "--data.cache", "0", "--training.epochs", "1", "--training.batch", "2")
        return [*args, *size, "--encoder.depth", "1", "--data", str(films), "--quiet"]

    image = preset("image-mae-few-cpu")
    image = replace(image, encoder=replace(image.encoder, depth=1), data=replace(image.data, size=(16, 16), cache=0))
    image = replace(image, training=replace(image.training, epochs=1, batch=2))
    first = str(train(image, films, tmp_path / "image", quiet=True))
    second, last = str(tmp_path / "video"), str(tmp_path / "tuned")
    assert tubelet(short("pretrain", "videomae-few-cpu", "--weights", first, "--inflate", "--out", second)) == 0
    args = short("finetune", "finetune-few-cpu", "--weights", first, "--inflate", "--out", last)
    assert tubelet([*args, "--method.cells", "2", "2", "2"]) == 0
    assert load_encoder(second)[1].training.init == load_encoder(last)[1].method.init == first
    assert load_encoder(second)[1].training.inflate
    assert load_encoder(last)[1].method.inflate
