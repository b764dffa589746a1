"""What looks on while a run trains: it changes no number, costs little, and whatever it meets, the run goes on."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_loop import numbers_of, seven_films, state_hash, tiny

import tubelet
from tubelet.data.sources import find
from tubelet.live import EVERY, SHARE, Imagined, Page
from tubelet.masks.random_masks import Random
from tubelet.methods.latent import Latent
from tubelet.nn.decoder import Decoder
from tubelet.pictures import reconstruct
from tubelet.report import write_report
from tubelet.train.checkpoint import load_method
from tubelet.train.guard import Interrupted
from tubelet.train.log import metrics
from tubelet.train.loop import moments, train

PLACE = Path("pictures", "on_the_way")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return seven_films(tmp_path_factory.mktemp("videos"))


def dropping(**training):
    """A run that takes from torch's generator in every step."""
    run = tiny(**({"epochs": 12} | training))
    return replace(run, encoder=replace(run.encoder, drop_path=0.5))


@pytest.fixture(scope="module")
def watched(videos, tmp_path_factory) -> Path:
    """A finished run of 21 steps with everything on."""
    out = tmp_path_factory.mktemp("runs") / "watched"
    return tubelet.pretrain(dropping(), videos, out, report=True, tensorboard=True, quiet=True)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / PLACE).iterdir()}


def test_the_numbers_are_those_of_a_run_that_nobody_watched(videos, watched, tmp_path):
    states: dict[str, list[bytes]] = {"alone": [], "rude": []}

    def telling(name):
        return lambda step, saved: states[name].append(torch.get_rng_state().numpy().tobytes())

    alone = train(dropping(), videos, tmp_path / "alone", quiet=True, tell=telling("alone"))
    assert numbers_of(watched) == numbers_of(alone)
    assert state_hash(watched) == state_hash(alone)

    def rude(method, step, steps):
        torch.rand(1000)

    disturbed = train(dropping(), videos, tmp_path / "rude", quiet=True, show=rude, tell=telling("rude"))
    assert state_hash(disturbed) == state_hash(alone)
    assert states["rude"] == states["alone"]
    assert len({*states["alone"]}) == 21  # each step begins from its own number


def test_moments_are_twice_as_late_each():
    assert moments(7000) == [109, 219, 438, 875, 1750, 3500, 7000]
    assert moments(21) == [1, 3, 5, 10, 21]
    assert moments(1) == [1]


def test_a_moment_is_what_the_network_imagines_then(videos, watched):
    """The last one is made from the checkpoint, whose scores it bears."""
    assert sorted(pictures(watched)) == [f"{step:06d}.png" for step in (1, 3, 5, 10, 21)] + [
        "1 original.png",
        "2 hidden.png",
    ]
    run, method = dropping(), load_method(watched)
    sight = Imagined(watched, run, find(videos))
    sight.videos = [videos / "0.mp4", videos / "3.mp4"]
    _, _, said = sight.rows(method)
    with Image.open(watched / PLACE / "000021.png") as image:
        assert image.info["Description"] == f"after 21 steps{said}"
        shown = np.asarray(image)
    assert sight.batch is not None
    clip = reconstruct(method, sight.batch.video, None, run.training.seed).imagined[0]  # 4 frames of 32 pixels
    for place in range(4):
        part = shown[:, place * 68 : place * 68 + 64]  # twice as large, with 4 between them
        np.testing.assert_array_equal(part[::2, ::2], clip[:, place].permute(1, 2, 0))


def test_a_resumed_run_has_the_pictures_of_one_that_was_not_stopped(videos, tmp_path):
    def go_on(folder: Path, limit: int | None = None) -> Path:
        show = Imagined(folder, tiny(), find(videos))
        return train(tiny(), videos, folder, quiet=True, show=show, limit=limit, resume=folder.exists())

    whole, out = go_on(tmp_path / "whole"), go_on(tmp_path / "run", 4)
    (out / PLACE / "000004.png").write_bytes(b"")  # of an attempt with another number of steps
    text = write_report(out).read_text(encoding="utf-8")
    assert "The run is not complete: 4 of 10 steps" in text
    assert "after 2 steps" in text
    assert "after 5 steps" not in text
    go_on(out)
    assert numbers_of(out) == numbers_of(whole)
    assert pictures(out) == pictures(whole)


def test_pictures_can_be_left_out(videos, tmp_path):
    folder = tubelet.pretrain(dropping(epochs=2), videos, tmp_path / "run", report=True, pictures=False, quiet=True)
    assert (folder / "pictures" / "reconstruction_75.gif").is_file()
    assert not (folder / PLACE).exists()
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "imagined on the way" not in text
    assert "not complete" not in text
    bare = tubelet.pretrain(dropping(epochs=2), videos, tmp_path / "bare", quiet=True)
    assert not {"report.html", "pictures"} & {path.name for path in bare.iterdir()}


def test_ctrl_c_is_on_the_page_and_gone_when_it_went_on(videos, tmp_path):
    seen: list[str] = []
    run, folder = dropping(epochs=4), tmp_path / "run"
    page = Page(folder)

    def tell(step, saved):
        page(step, saved)
        seen.append((folder / "report.html").read_text(encoding="utf-8"))
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted), page:
        train(run, videos, folder, quiet=True, tell=tell)
    assert "Training: step 1 of 7, about" in seen[0]
    assert "location.reload" in seen[0]
    assert "not complete" not in seen[0]
    text = (folder / "report.html").read_text(encoding="utf-8")
    said = f"It was stopped: SIGINT after step {len(seen)} of 7"
    assert said in text
    assert "location.reload" not in text
    train(run, videos, folder, quiet=True, resume=True)
    write_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert said not in text
    assert "location.reload" not in text


def test_a_page_that_cannot_be_written_is_said_once(videos, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tubelet.live.write_report", refuse)
    monkeypatch.setattr("tubelet.live.EVERY", 0.0)
    with Page(tmp_path / "run") as page:
        folder = train(dropping(epochs=4), videos, tmp_path / "run", quiet=True, tell=page)
    assert len(numbers_of(folder)) == 7
    assert capsys.readouterr().err.count("note: the run goes on, but not its page: ") == 1


def test_pictures_that_cannot_be_made_are_said_once(videos, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr("tubelet.live.reconstruct", fail)
    show = Imagined(tmp_path / "run", dropping(), find(videos))
    folder = train(dropping(epochs=4), videos, tmp_path / "run", quiet=True, show=show)
    assert len(numbers_of(folder)) == 7
    assert capsys.readouterr().err.count("without pictures of what it imagines: no memory left") == 1


def test_what_ends_without_a_word_is_named(tmp_path):
    def interrupted():
        with Page(tmp_path) as page:
            page(3, False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "notes.txt").read_text() == "step 3: stopped: KeyboardInterrupt\n"


def test_a_run_without_last_pictures_has_its_page(videos, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr("tubelet.pretraining.reconstruct_run", fail)
    folder = tubelet.pretrain(tiny(epochs=2), videos, tmp_path / "run", report=True, pictures=False, quiet=True)
    assert "Training: step" not in (folder / "report.html").read_text(encoding="utf-8")
    assert "without pictures of what it imagines: no memory left" in capsys.readouterr().err


def test_pictures_of_an_attempt_that_failed_are_not_kept(videos, tmp_path):
    """It may have been on other videos."""
    place = tmp_path / "run" / PLACE
    place.mkdir(parents=True)
    (place / "1 original.png").write_bytes(b"of other videos")
    run, sight = tiny(), Imagined(tmp_path / "run", tiny(), find(videos))
    method = run.method.build(run.encoder, run.grid(), 3).eval()
    sight(method, 1, 10)
    before = pictures(tmp_path / "run")
    assert before["1 original.png"].startswith(b"\x89PNG")
    sight(method, 2, 10)
    assert pictures(tmp_path / "run").items() >= before.items()


def test_features_are_shown_and_what_imagines_nothing_is_not(videos, tmp_path):
    run = dropping()
    latent = replace(run, method=Latent(masks=(Random(0.5),), decoder=Decoder(16, 1, 2)))
    show = Imagined(tmp_path, latent, find(videos))
    method = latent.method.build(latent.encoder, latent.grid(), 3).eval()
    assert show(method, 21, 21).shape == (2 * 64, 2 * 4 * 68, 3)  # of the teacher, of the predictor; two clips
    assert {path.name for path in (tmp_path / PLACE).iterdir()} == {"1 original.png", "2 seen.png", "000021.png"}
    method.rows = lambda batch, draws: ({}, "")
    assert Imagined(tmp_path / "none", latent, find(videos))(method, 21, 21) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("cost", [0.01, 0.4, 5.0])
def test_pages_take_their_share_of_the_time_and_no_more(tmp_path, monkeypatch, cost):
    clock, written = [100.0], []

    def write(folder, again):
        clock[0] += cost
        written.append(clock[0])

    monkeypatch.setattr("tubelet.live.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tubelet.live.write_report", write)
    page = Page(tmp_path)
    for step in range(1, 20_001):  # 2000 seconds, saved every 10
        clock[0] += 0.1
        page(step, step % 100 == 0)
        if step == 1:
            assert len(written) == 1
    gaps = np.diff(written) - cost
    assert cost * (len(written) - 1) <= SHARE * (clock[0] - 100)
    assert gaps.min() >= cost / SHARE - 1e-6
    assert gaps.max() <= max(EVERY, cost / SHARE) + 0.2  # and no less often than that allows
    assert (gaps.min() < EVERY - 1) == (cost < 0.5)  # a save is shown at once, where that is cheap


def test_tensorboard_has_the_names_and_the_pictures(watched):
    """By TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched / "tensorboard"), {"scalars": 0, "images": 0})
    events.Reload()
    lines = metrics(watched)
    assert {*events.Tags()["scalars"]} == {*lines[0]} - {"step"}
    for name in ("loss", "lr", "gradient_norm"):
        told = [(one.step, one.value) for one in events.Scalars(name)]
        assert told == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]
    images = events.Images("imagined")
    assert [one.step for one in images] == moments(21)
    (watched / "board.png").write_bytes(images[-1].encoded_image_string)
    with Image.open(watched / "board.png") as ours, Image.open(watched / PLACE / "000021.png") as same:
        assert ours.convert("RGB").tobytes() == same.convert("RGB").tobytes()


def test_tensorboard_of_a_resumed_run_has_each_step_once(videos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Killed(Exception):
        pass

    def killed(step, saved):
        if step == 5:
            raise Killed

    run = tiny(epochs=4, save_every=2)  # saved after every third or fourth step
    with pytest.raises(Killed):
        train(run, videos, tmp_path / "run", quiet=True, tensorboard=True, tell=killed)
    train(run, videos, tmp_path / "run", quiet=True, tensorboard=True, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert [one.step for one in events.Scalars("loss")] == list(range(1, 8))
