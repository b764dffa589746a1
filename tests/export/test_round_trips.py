"""What is written for others is read again as it was: every tensor to the bit, and what is said beside them."""

import pytest
import torch
from runs import finetuning, pretraining, saved

from tubelet.export.folder import write_folder
from tubelet.export.official import write_official
from tubelet.train.checkpoint import load_encoder
from tubelet.weights.found import Asked
from tubelet.weights.load import network

RUNS = {
    "pre-trained": (pretraining(), None, lambda method: method),
    "fine-tuned": (finetuning(), None, lambda method: method.network),
    "encoder of a pre-training": (pretraining(), "encoder", lambda method: method.encoder),
    "encoder of a fine-tuning": (finetuning(), "encoder", lambda method: method.network.encoder),
}
TOLD = Asked(heads=5, frames=9, size=(40, 40))  # what VideoMAE's own layout does not say


@pytest.mark.parametrize(("run", "part", "of"), RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(
    ("write", "name", "asked"),
    [(write_folder, "hf", Asked()), (write_official, "a.pth", TOLD)],
    ids=["transformers", "VideoMAE"],
)
def test_what_is_written_comes_back_exact_to_the_bit(tmp_path, run, part, of, write, name, asked):
    folder, method = saved(run, tmp_path / "run")
    write(folder, tmp_path / name, part)
    again, report = network(tmp_path / name, asked)
    expected, found = of(method).state_dict(), again.state_dict()
    assert type(again) is type(of(method))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert report.warnings == []
    assert not report.count("left out")


@pytest.mark.parametrize(
    "run", [pretraining(), finetuning(("fällt", "run", "wave"))], ids=["pre-trained", "fine-tuned"]
)
def test_a_folder_tells_the_run_its_geometry_and_classes(tmp_path, run):
    folder, _ = saved(run, tmp_path / "run")
    write_folder(folder, tmp_path / "hf")
    again = load_encoder(tmp_path / "hf")[1]
    assert again.encoder == run.encoder
    assert (again.data.clip.frames, again.data.size, again.data.labels) == (9, (40, 40), run.data.labels)
    if run.data.labels is None:
        assert (again.method.decoder.width, again.method.decoder.depth, again.method.decoder.heads) == (36, 2, 3)
        assert again.method.target == run.method.target
