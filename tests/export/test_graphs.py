"""ONNX and .pt2 give PyTorch's outputs for any number of clips, and nothing is written that does not.

Most is run apart, as tests/test_compile.py: the shape checks break torch.export.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import finetuning, pretraining, saved
from safetensors.torch import save_file

import tubelet
from tubelet.config import from_json, to_json
from tubelet.export import graphs
from tubelet.export.graphs import FromClips, compared, needed, network_of, pooled, tried, write_onnx, write_pt2
from tubelet.export.official import write_official
from tubelet.export.trained import noise, trained
from tubelet.nn.vit import ViT
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_encoder

apart = [
    pytest.mark.compile,
    pytest.mark.filterwarnings("ignore"),  # torch warns about its own parts
    pytest.mark.skipif(
        os.environ.get("JAXTYPING_DISABLE") != "1", reason="needs JAXTYPING_DISABLE=1: make test runs it"
    ),
]


def exported(test):
    """A test that is run apart."""
    for mark in apart:
        test = mark(test)
    return test


def clips(run, count: int) -> torch.Tensor:
    shape = (count, run.data.channels, run.data.clip.frames, *run.data.size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def network(run, method):
    return method.network if hasattr(method, "network") else method.encoder


one = replace(pretraining().encoder, depth=1)
RUNS = {
    "pre-trained": (replace(pretraining(), encoder=one), "tokens"),
    "a class token": (replace(pretraining(), encoder=replace(one, position="learned", class_token=True)), "tokens"),
    "rotary positions": (replace(pretraining(), encoder=replace(one, position="rotary")), "tokens"),
    "fine-tuned, and what VideoMAE has not": (
        replace(finetuning(cells=(2, 3, 2)), encoder=replace(one, position="axes", attention="divided")),
        "logits",
    ),
}


@exported
@pytest.mark.parametrize(("run", "output"), RUNS.values(), ids=RUNS)
def test_onnxruntime_gives_pytorch_s_outputs_for_any_number_of_clips(tmp_path, run, output):
    import onnx
    import onnxruntime

    folder, method = saved(run, tmp_path / "run")
    written = write_onnx(folder, tmp_path / "a.onnx")
    assert written.files == [tmp_path / "a.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "run"]
    assert written.error < 1e-4 * max(written.largest, 1)

    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == [output]
    for count in (1, 2, 5):
        found = session.run(None, {"video": clips(run, count).numpy()})[0]
        expected = network(run, method)(inputs(clips(run, count), run.encoder.patch)).detach()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    model = onnx.load(tmp_path / "a.onnx")
    assert max(entry.version for entry in model.opset_import if not entry.domain) >= 18
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert from_json(kept["run"]) == run


@exported
def test_large_weights_lie_in_a_second_file(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(graphs, "ONE_FILE", 1000)
    run, _ = RUNS["pre-trained"]
    folder, _ = saved(run, tmp_path / "run")
    written = write_onnx(folder, tmp_path / "a.onnx")
    assert [file.name for file in written.files] == ["a.onnx", "a.onnx.data"]
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"video": clips(run, 1).numpy()})[0].shape == (1, 75, 60)


@exported
def test_a_pt2_gives_the_same_outputs_for_any_number_of_clips(tmp_path):
    run, output = RUNS["fine-tuned, and what VideoMAE has not"]
    folder, method = saved(run, tmp_path / "run")
    written = write_pt2(folder, tmp_path / "a.pt2")
    assert (written.output, written.error < 1e-5) == (output, True)
    extra = {"run.json": ""}
    module = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    for count in (1, 2, 5):
        expected = network(run, method)(inputs(clips(run, count), run.encoder.patch)).detach()
        torch.testing.assert_close(module(clips(run, count)), expected)
    assert from_json(extra["run.json"]) == run


@pytest.fixture
def bare(tmp_path) -> tuple[Path, ViT]:
    """A file of an encoder without a last norm that no head goes with, as of a pre-training that had none."""
    run, _ = RUNS["pre-trained"]
    _, method = saved(run, tmp_path / "run")
    method.encoder.norm = torch.nn.Identity()
    save_file(method.encoder.state_dict(), tmp_path / "bare.safetensors", {"run": to_json(run)})
    return tmp_path / "bare.safetensors", method.encoder


def test_an_encoder_without_a_last_norm_needs_no_head(bare):
    file, encoder = bare
    video = inputs(clips(RUNS["pre-trained"][0], 1), (3, 8, 8))
    for part in (None, "encoder"):
        torch.testing.assert_close(network_of(file, part)[0](video), encoder(video))
        assert "has no checkpoint" in trained(file).note
        torch.testing.assert_close(trained(file, part).network(video), encoder(video))
    with pytest.raises(ValueError, match=r"is pre-trained: .*Use --part encoder"):
        network_of(file, "whole")


@exported
def test_no_path_of_this_machine_is_in_the_files(tmp_path):
    run, _ = RUNS["pre-trained"]
    run = replace(run, training=replace(run.training, init="/secret/place/first"))
    folder, _ = saved(run, tmp_path / "run")
    files = [*write_onnx(folder, tmp_path / "a.onnx").files, *write_pt2(folder, tmp_path / "a.pt2").files]
    for file in files:
        assert b"first" in file.read_bytes()
        for path in ("secret", *(str(Path(package.__file__).parent) for package in (tubelet, torch)), str(tmp_path)):
            assert path.encode() not in file.read_bytes(), (file, path)


@exported
def test_of_weights_of_others_it_says_whose_they_are(tmp_path):
    write_official(saved(pretraining(), tmp_path / "run")[0], tmp_path / "theirs.pth")
    weights = torch.load(tmp_path / "theirs.pth")
    torch.save(weights | {"args": {"num_frames": 9, "input_size": 40, "sampling_rate": 2}}, tmp_path / "theirs.pth")
    write_pt2(tmp_path / "theirs.pth", tmp_path / "a.pt2")
    extra = {"run.json": "", "converted.json": ""}
    module = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    assert not extra["run.json"]
    origin = from_json(extra["converted.json"])
    assert (origin.file, origin.frames, origin.size, str(origin.clip)) == (
        "theirs.pth",
        9,
        (40, 40),
        "9 frames at stride 2",
    )
    expected = load_encoder(tmp_path / "theirs.pth")[0](inputs(clips(pretraining(), 2), (3, 8, 8))).detach()
    torch.testing.assert_close(module(clips(pretraining(), 2)), expected)


def test_the_encoder_of_a_fine_tuned_run_is_its_own_part(tmp_path):
    folder, method = saved(finetuning(), tmp_path / "run")
    video = inputs(clips(finetuning(), 1), (3, 8, 8))
    for part, expected in (("encoder", method.network.encoder), ("whole", method.network), (None, method.network)):
        torch.testing.assert_close(network_of(folder, part)[0](video), expected(video))


@pytest.mark.parametrize("wrong", [0.01, np.nan])
def test_what_differs_from_pytorch_is_not_written(tmp_path, monkeypatch, wrong):
    run = pretraining()
    folder, method = saved(run, tmp_path / "run")
    monkeypatch.setattr(graphs, "program_of", lambda model, run: None)

    def save(program, file, output, *about):
        file.write_text("graph")

    def opened():
        return network_of(folder, None)

    def runner(off):
        return lambda file: lambda video: method.encoder(inputs(video, run.encoder.patch)).detach().numpy() + off

    with pytest.raises(ValueError, match="was not written: its outputs"):
        tried(opened, tmp_path / "a.pt2", ".pt2", save, runner(wrong))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert tried(opened, tmp_path / "a.pt2", ".pt2", save, runner(0)).error == 0
    assert (tmp_path / "a.pt2").read_text() == "graph"


@pytest.mark.parametrize("cells", [(1, 1, 1), (2, 3, 2), (3, 5, 5), (2, 2, 4)])
def test_pooling_in_parts_is_adaptive_pooling(cells):
    x = torch.rand(2, 4, 3, 5, 5)
    torch.testing.assert_close(pooled(x, cells), torch.nn.functional.adaptive_avg_pool3d(x, cells))


def test_a_difference_is_the_largest_over_trials_with_one_clip_and_with_more():
    run, asked = pretraining(), []
    torch.manual_seed(0)
    model = FromClips(run.encoder.build(run.grid(), 3), run.encoder.patch).eval()

    def runner(video):
        asked.append(len(video))
        return model(video).numpy() + 0.5 * (len(video) == 1)

    error, largest = compared(model, runner, run)
    assert error == pytest.approx(0.5, rel=1e-3)
    assert largest == pytest.approx(float(model(noise(run, 3)).detach().abs().max()))
    assert asked == [1, 3]
    assert np.isnan(compared(model, lambda video: model(video).numpy()[:, 1:], run)[0])


def test_an_autoencoder_as_a_whole_is_refused(tmp_path):
    folder, _ = saved(pretraining(), tmp_path / "run")
    with pytest.raises(ValueError, match="--part encoder"):
        network_of(folder, "whole")


def test_a_file_that_is_there_or_has_another_name_is_refused(tmp_path):
    folder, _ = saved(pretraining(), tmp_path / "run")
    (tmp_path / "a.pt2").write_text("mine")
    for name in ("a.pt2", "a.onnx"):
        with pytest.raises(ValueError, match=name):
            write_pt2(folder, tmp_path / name)
    assert (tmp_path / "a.pt2").read_text() == "mine"


def test_a_missing_package_is_one_line():
    with pytest.raises(ValueError, match=r"no_such_thing.*pip install 'tubelet\[export\]'"):
        needed("no_such_thing")
