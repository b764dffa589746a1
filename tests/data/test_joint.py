"""Pictures beside videos: which steps show which, each kind in its own order, from any step and in any process."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tubelet import config
from tubelet.cli.training import plan_verb
from tubelet.config import Optim, Run, Training, from_json, numbers, to_json
from tubelet.data.datasets import Data, Dataset
from tubelet.data.joint import Images
from tubelet.data.labels import Labels
from tubelet.data.loader import batches
from tubelet.data.sampling import Dense
from tubelet.data.sources import find
from tubelet.data.transforms import CentreCrop
from tubelet.data.vectors import Vectors
from tubelet.data.video import VideoError, write
from tubelet.masks.random_masks import Frame, Random
from tubelet.methods.latent import Latent
from tubelet.methods.masked import Masked
from tubelet.methods.videomae import small_cpu
from tubelet.nn.vit import Encoder
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.types import Batch, Draws, Grid, Loss, Method


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """videos/: 5 of 12 frames; pictures/: 7 of even brightness."""
    folder = tmp_path_factory.mktemp("joint")
    rng = np.random.default_rng(0)
    for name in ("videos", "pictures"):
        (folder / name).mkdir()
    for index in range(5):
        write(folder / "videos" / f"{index}.mp4", rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), 10)
    for index in range(7):
        Image.fromarray(np.full((32, 32, 3), 30 * index, np.uint8)).save(folder / "pictures" / f"{index}.png")
    return folder


def joint(sources: Path, **changes) -> Data:
    images = Images(f"images:{sources / 'pictures'}", crop=CentreCrop(), **changes)
    return Data(Dense(4, stride=2), size=(16, 16), crop=CentreCrop(), images=images)


def stream(sources: Path, data: Data, start: int, stop: int, workers: int = 0, **options):
    dataset = Dataset(find(sources / "videos"), data, 1)
    dataset.fill_cache()
    return list(batches(dataset, 4, start, stop, workers, **options))


def contents(stream) -> list[tuple]:
    return [(b.video.numpy().tobytes(), b.ids.tolist(), b.crops, b.paths, b.notes) for b in stream]


# ---------------------------------------------------------------------------- which steps


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1, 1 / 3, 0.29, 0.75, 0.999])
def test_pictures_come_as_evenly_as_can_be(share):
    images = Images(share=share)
    shown = np.array([images.shown(step) for step in range(1000)])
    assert shown.sum() == pytest.approx(1000 * share, abs=1)
    assert [images.before(step) for step in range(1001)] == np.cumsum([0, *shown]).tolist()
    for length in (3, 10, 100):  # of any stretch, within one
        counts = np.convolve(shown, np.ones(length), "valid")
        assert abs(counts - length * share).max() < 1 + 1e-9
    assert Images(share=0.29).before(100) == 29


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_each_kind_has_its_own_stream(sources, share):
    """As if there were only its own steps; pictures stand still, and every one of them comes once a round."""
    data = joint(sources, share=share, repeats=2)
    mixed = stream(sources, data, 0, 20)
    pictures = [batch for batch in mixed if batch.paths[0].endswith("png")]
    videos = [batch for batch in mixed if batch.paths[0].endswith("mp4")]
    assert len(pictures) == 20 * share
    assert len(pictures) + len(videos) == 20
    assert contents(videos) == contents(stream(sources, replace(data, images=None), 0, len(videos)))
    for batch in pictures:
        assert all(path.endswith("png") for path in batch.paths)
        assert batch.video.shape == (8, 3, 2, 16, 16)
        assert batch.video.permute(0, 2, 3, 4, 1).is_contiguous()
        assert (batch.crops, batch.notes, batch.motion) == (2, (), None)
        assert batch.video[:, 0, :, 0, 0].tolist() == [[30 * index] * 2 for index in batch.ids.tolist()]
        assert [int(Path(path).stem) for path in batch.paths] == batch.ids[::2].tolist()
    seen = [path for batch in pictures for path in batch.paths]
    assert len(set(seen[:7])) == 7


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [0, 32])
def test_mixed_streams_are_the_same_from_any_step_on_any_workers_and_in_shares(sources, workers, kept):
    data = replace(joint(sources, share=0.4, flip=0.5), cache=kept)
    whole = stream(sources, data, 0, 8)
    for start in range(0, 8, 3):
        assert contents(stream(sources, data, start, 8, workers)) == contents(whole)[start:]
    shares = [stream(sources, data, 0, 8, workers, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step].video for share in shares]), batch.video)


def test_flips_of_pictures_are_their_own(sources, tmp_path):
    (tmp_path / "pictures").mkdir()
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[None, :, None] * 8, 32, 0).repeat(3, 2)
    for index in range(40):
        Image.fromarray(ramp).save(tmp_path / "pictures" / f"{index}.png")
    dataset = Dataset(find(sources / "videos"), joint(tmp_path, flip=0.5))
    assert dataset.pictures is not None
    mirrored = [bool(dataset.pictures[n].video[0, 0, 0, 0, 0] > 128) for n in range(40)]
    assert 8 < sum(mirrored) < 32


# ---------------------------------------------------------------------------- in a run


@dataclass(frozen=True)
class Mean:
    """A method for clips of any length: a linear layer predicts their brightness."""

    def try_masks(self, grid: Grid, channels: int) -> None:
        assert grid.T == 1

    def build(self, encoder: Encoder, grid: Grid, channels: int) -> Method:
        return MeanLearner(encoder.build(grid, channels))


class MeanLearner(Method):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.layer = encoder, nn.Linear(3, 1)

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        means = batch.video.float().div(255).mean((2, 3, 4))
        return Loss(((self.layer(means) - batch.video.shape[2]) ** 2).sum(), torch.tensor(len(means)))


def a_run(sources: Path, **changes) -> Run:
    return Run(
        encoder=Encoder(width=24, depth=1, heads=2, hidden=48, patch=(2, 8, 8)),
        method=Mean(),
        data=joint(sources, **changes),
        optim=Optim(base_lr=0.05, warmup=1),
        training=Training(epochs=4, batch=4, accumulate=2, workers=0, precision="float32", device="cpu"),
    )


def test_an_epoch_counts_videos_only(sources):
    run = a_run(sources, share=0.75)
    found = numbers(run, 10)
    assert (found.steps, found.warmup, found.each) == (40, 10, 1)  # 4 epochs of 10 videos, one a step on average
    assert numbers(replace(run, data=replace(run.data, images=None)), 10).steps == 10


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_is_the_same(sources, tmp_path, stop, monkeypatch):
    run = a_run(sources, repeats=2)
    names = ("step", "epoch", "loss", "lr", "gradient_norm")
    whole = metrics(train(run, sources / "videos", tmp_path / "whole", quiet=True))
    assert len(whole) == 10
    assert whole[-1]["epoch"] == pytest.approx(4)
    out = tmp_path / "stopped"
    train(run, sources / "videos", out, quiet=True, limit=stop)
    again = metrics(train(run, sources / "videos", out, quiet=True, resume=True))
    assert [[line[name] for name in names] for line in again] == [[line[name] for name in names] for line in whole]
    card = json.loads((out / "run.json").read_text())
    assert card["run"]["data"]["images"]["source"] == run.data.images.source  # type: ignore[union-attr]
    assert from_json(json.dumps(card["run"])) == run
    assert card["fingerprint"]["pictures"]["videos"] == 7
    fewer = tmp_path / "fewer" / "pictures"
    fewer.mkdir(parents=True)
    for index in range(6):
        (fewer / f"{index}.png").write_bytes((sources / "pictures" / f"{index}.png").read_bytes())
    with pytest.raises(ValueError, match=r"other pictures than data\.images\.source has now: 7 then, 6 now"):
        train(a_run(fewer.parent, repeats=2), sources / "videos", out, quiet=True, resume=True)
    (fewer / "6.png").write_bytes((sources / "pictures" / "6.png").read_bytes())  # now they have only moved
    train(a_run(fewer.parent, repeats=2), sources / "videos", out, quiet=True, resume=True)


def test_each_kind_of_step_logs_its_own_loss(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tubelet.train.log.PLAIN_EVERY", 0)
    run = a_run(sources, share=0.4)
    lines = metrics(train(run, sources / "videos", tmp_path / "run"))
    smooth: dict[str, float] = {}
    for step, line in enumerate(lines):
        name, other = ("loss_pictures", "loss_videos")[:: 1 if run.data.images.shown(step) else -1]  # type: ignore[union-attr]
        assert line[name] == line["loss"]
        assert other not in line
        smooth[name] = smooth.get(name, line[name]) + 0.05 * (line[name] - smooth.get(name, line[name]))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert f"loss {lines[0]['loss']:.4f} videos  " in said[0]
    assert f"loss {smooth['loss_videos']:.4f} videos, {smooth['loss_pictures']:.4f} pictures  " in said[-1]
    alone = metrics(train(replace(run, data=replace(run.data, images=None)), sources / "videos", tmp_path / "alone"))
    assert not any(name.startswith("loss_") for line in alone for name in line)


def test_bad_pictures_count_as_bad_files(sources, tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(12):
        good = sources / "pictures" / f"{index % 7}.png"
        (tmp_path / "pictures" / f"{index}.png").write_bytes(b"none" if index < 5 else good.read_bytes())
    with pytest.raises(VideoError, match=r"4 of 17 videos cannot be read so far(.|\n)*\.png"):
        train(a_run(tmp_path), sources / "videos", tmp_path / "out", quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": Images()}, r"does not know where they are; add --data\.images\.source images:DIR"),
        ({"images": Images("images:/nowhere")}, "nowhere"),
        (
            {"images": Images("x", share=1.0)},
            r"--data\.images\.share 1\.0 .* expected above 0 and below 1",
        ),
        ({"images": Images("x", frames=3)}, r"--data\.images\.frames 3 does not divide into cubes of 2 frames"),
        ({"images": Images("x", repeats=0)}, r"--data\.images\.repeats 0"),
        ({"images": Images("x", flip=2)}, r"--data\.images\.flip 2"),
        ({"motion": Vectors()}, r"set data\.images to None, or data\.motion"),
        ({"labels": Labels()}, r"set data\.images to None, or data\.labels"),
    ],
)
def test_settings_that_cannot_be_used(sources, tmp_path, change, message):
    run = a_run(sources)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(replace(run, data=replace(run.data, **change)), sources / "videos", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [Masked(Frame(0.75)), Latent(masks=(Frame(0.75),))])
def test_a_mask_that_cannot_hide_pictures_is_found_before_anything_is_built(sources, method):
    run = replace(a_run(sources), method=method)
    with pytest.raises(ValueError, match=r"have 1 of the 2 time slots, and cannot be hidden .* one of the time slots"):
        config.checked(run)
    config.checked(replace(run, data=replace(run.data, images=None)))
    if isinstance(method, Masked):
        config.checked(replace(run, method=replace(method, still=Random(0.5))))


def joint_preset() -> Run:
    run = small_cpu()
    return replace(run, data=replace(run.data, images=Images(), cache=0))


def test_the_command_line_says_where_pictures_are(capsys):
    """A plan needs no pictures; flags reach them."""
    assert plan_verb([f"{__name__}:joint_preset", "--videos", "100", "--json", "--data.images.share", "0.75"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["pictures"] == "0.75 of the steps show as many pictures, as clips of 2 frames"
    assert told["numbers"]["steps"] == 800 * 100 / 16 * 4
    plan_verb([f"{__name__}:joint_preset", "--videos", "100", "--json", "--data.images.source", "images:/there"])
    assert from_json(to_json(joint_preset())) == joint_preset()
