"""Methods of users, outside the package: docs/plugins.md as it stands, and what must not be imported."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tubelet import plugins
from tubelet.cli import run as command
from tubelet.config import from_json, preset, read_card, to_json
from tubelet.data.sources import find
from tubelet.data.split import write_list
from tubelet.data.synthetic import make
from tubelet.train.log import metrics

SOURCE = Path(plugins.__file__).parent.parent
PAGE = SOURCE.parent / "docs" / "plugins.md"
SMALL = (
    "--encoder.width 24 --encoder.depth 2 --encoder.heads 2 --encoder.hidden 48 --data.clip.frames 8 --data.cache 0 "
)
SMALL += "--training.batch 4 --training.save-every 1 --training.precision float32 --optim.warmup 0"
DECODER = "--method.decoder.width 24 --method.decoder.depth 1 --method.decoder.heads 2"
TIMINGS = ("seconds", "clips_per_second", "data_wait")


def block(name: str) -> str:
    """The code that the page says is in a file."""
    (code,) = re.findall(rf"`{name}`[^`]*```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


@pytest.fixture
def alone(monkeypatch):
    """As a process that has made no run of a plugin, and has imported none."""
    monkeypatch.setattr(plugins, "TRUSTED", {"tubelet"})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv(plugins.NAMED, raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("my_method", "arrow", "evil", "broken"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The user's folder: the module, twelve videos with labels, and lists of them."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "my_method.py").write_text(block("my_method.py"))
    (folder / "arrow.py").write_text(block("arrow.py"))
    make(folder / "my_videos", 16, workers=1)
    for part, name in enumerate(("train", "test")):
        write_list(folder / f"{name}.csv", find(folder / "my_videos")[part::2])
    return folder


def tubelet(folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which has imported nothing before."""
    around = {name: value for name, value in os.environ.items() if name != plugins.NAMED}
    around |= {"PYTHONPATH": os.pathsep.join([os.fspath(SOURCE), variables.pop("PYTHONPATH", "")]), **variables}
    arguments = [sys.executable, "-m", "tubelet", *words]
    return subprocess.Popen(arguments, cwd=folder, env=around, stdout=-1, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def future(work) -> Path:
    """The run of the page, stopped in the middle and resumed, by processes that know nothing of each other."""
    words = ["pretrain", "my_method:my_run", "--data", "my_videos/", "--out", "runs/future", "--quiet"]
    words += ["--method.mask.ratio", "0.75", *SMALL.split(), *DECODER.split(), "--training.epochs", "20"]
    process, lines = tubelet(work, *words), work / "runs/future/metrics.jsonl"
    while process.poll() is None and not (lines.exists() and lines.read_text().count("\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 143, said
    assert "--resume" in said
    done = len(metrics(work / "runs/future"))
    assert 3 < done < 80
    process = tubelet(work, *words, "--resume")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert [line["step"] for line in metrics(work / "runs/future")] == [*range(1, 81)]  # 20 epochs of 16 videos
    return work / "runs/future"


def test_a_run_of_a_plugin_is_stopped_resumed_shown_and_reported(future):
    card = read_card(future / "run.json")["run"]
    assert card["method"]["mask"] == {"class": "my_method:Future", "ratio": 0.75}
    assert (future / "pictures" / "reconstruction_75.png").stat().st_size > 2000
    assert "my_method" in (future / "report.html").read_text()


def test_it_can_be_planned(work):
    """Whose mask makes its tensors where torch makes them by default: here, though the network has no memory."""
    process = tubelet(work, "plan", "my_method:my_run", "--data", "my_videos/")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert re.search(r"Future, ratio 0\.5", said), said


def test_the_mask_of_the_page_hides_the_end(alone, work, monkeypatch):
    monkeypatch.chdir(work)
    run = preset("my_method:my_run")
    from tubelet.methods.masked import blank
    from tubelet.types import Draws

    grid = run.grid()
    hidden = run.method.mask(blank(grid, 3), grid, Draws(0, 0, [0])).hidden.view(grid.T, grid.H * grid.W)
    assert hidden.all(1).tolist() == [False] * 4 + [True] * 4
    assert not hidden[:4].any()
    assert from_json(to_json(run)) == run


EVERYTHING = """
import sys
from tubelet.cli import run
work, small = sys.argv[1], sys.argv[2].split()
weights, data = ["--weights", f"{work}/runs/future"], ["--data", f"{work}/train.csv"]
verbs = (
    ["picture", "reconstruction", *weights, *data, "--out", "shown"],
    ["embed", f"{work}/my_videos", *weights, "--out", "features.npy"],
    ["probe", "linear", *weights, *data, "--test", f"{work}/test.csv", "--block", "0", "--lr", "1e-3",
     "--weight-decay", "0", "--epochs", "2"],
    ["finetune", "finetune-few-cpu", *weights, *data, "--out", "tuned", "--quiet", "--training.epochs", "1", *small],
    ["export", f"{work}/runs/future", "--to", "pt2", "--out", "future.pt2"],
)
for words in verbs:
    assert run(words) == 0, words
assert sys.modules["my_method"].__file__ == f"{work}/my_method.py"
"""


def test_it_is_used_from_another_folder_by_those_who_name_it(future, work, tmp_path):
    around = os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{work}", plugins.NAMED: "other, my_method"}
    small = SMALL.replace("--data.clip.frames 8", "--method.cells 4 2 2 --data.clip.frames 8")
    words = [sys.executable, "-c", EVERYTHING, os.fspath(work), small]
    done = subprocess.run(words, cwd=tmp_path, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("shown/*.png"))
    assert np.load(tmp_path / "features.npy").shape == (16, 24)
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
    assert (tmp_path / "future.pt2").is_file()


def test_it_is_not_imported_for_those_who_do_not_name_it(future, work, alone, monkeypatch, capsys):
    monkeypatch.chdir(work)
    for words in (["picture", "reconstruction", "--weights", "runs/future", "--data", "my_videos"],):
        assert command(words) == 2
        said = capsys.readouterr().err
        assert "my_method:Future" in said
        assert "TUBELET_TRUST=my_method" in said
    assert "my_method" not in sys.modules


def test_where_a_module_is_not_there_the_error_says_so(future, work, alone, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.NAMED, "my_method")
    assert command(["picture", "reconstruction", "--weights", str(future), "--data", str(work / "my_videos")]) == 2
    said = capsys.readouterr().err
    assert "no module 'my_method'" in said
    assert str(tmp_path) in said
    assert "PYTHONPATH=FOLDER" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_method:other", "has no attribute 'other'"),
        ("nowhere:run", "no module 'nowhere'"),
        ("my_method.py:my_run", "named without .py: my_method"),
        ("broken:run", "No module named 'not_installed'"),
        (":run", "cannot use ':run'"),
        ("my_method:torch", "returned module, expected a tubelet Run"),
    ],
)
def test_what_cannot_be_used_as_a_preset_is_said(work, alone, monkeypatch, capsys, name, words):
    monkeypatch.chdir(work)
    (work / "broken.py").write_text("import not_installed\n")
    assert command(["plan", name]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_no_module_is_imported_for_a_run_json_but_one_that_is_named(alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\nPath('mark').touch()\n"
        "@dataclass(frozen=True)\nclass Mask:\n    ratio: float = 0.5\n"
    )
    card = json.loads(to_json(preset("videomae-demo")))
    card["method"]["mask"] = {"class": "evil:Mask", "ratio": 0.5}
    (tmp_path / "run.json").write_text(json.dumps({"run": card}))
    for named in ("", ",", "other", "evi", "evil2", "tubelet"):
        monkeypatch.setenv(plugins.NAMED, named)
        with pytest.raises(ValueError, match=r"evil:Mask.*only classes of tubelet.*TUBELET_TRUST=evil"):
            preset(str(tmp_path))
    assert not (tmp_path / "mark").exists()
    monkeypatch.setenv(plugins.NAMED, "evil")
    assert type(preset(str(tmp_path)).method.mask).__module__ == "evil"
    assert (tmp_path / "mark").exists()  # which the test would have seen


def test_no_file_that_lies_there_takes_the_place_of_a_library(alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "colorsys.py").write_text("raise SystemExit('mine')\n")
    with pytest.raises(ValueError, match="no attribute 'run'"):
        preset("colorsys:run")


def test_a_method_of_another_kind_trains_and_resumes_alike(work, alone, monkeypatch, capsys):
    """All of the command line in one process; it has nothing to show, which is no error."""
    monkeypatch.chdir(work)
    words = ["pretrain", "arrow:arrow", "--data", "my_videos", *SMALL.split(), "--training.epochs", "2"]
    assert command([*words, "--out", "runs/arrow"]) == 0
    said = capsys.readouterr()
    assert "8 steps" in said.out
    assert "parameters" in said.err  # the plan
    from tubelet import load_encoder, pretrain
    from tubelet.config import read_card

    run = from_json(json.dumps(read_card(work / "runs/arrow/run.json")["run"]))
    pretrain(run, "my_videos", "runs/half", quiet=True, limit=3)
    pretrain(run, "my_videos", "runs/half", quiet=True, resume=True)
    one, other = (
        [{k: v for k, v in line.items() if k not in TIMINGS} for line in metrics(Path(f"runs/{name}"))]
        for name in ("arrow", "half")
    )
    assert one == other
    assert load_encoder("runs/arrow")[1] == run
    assert command(["picture", "reconstruction", "--weights", "runs/arrow", "--data", "my_videos"]) == 2
    assert "nothing that could be shown" in capsys.readouterr().err


def test_what_a_script_trains_it_can_load(tmp_path):
    """A class of the script itself, with nothing named: whoever trains it has it."""
    code = block("my_method.py") + (
        "\nfrom tubelet.data.synthetic import make\n"
        "from tubelet.nn.decoder import Decoder\nfrom tubelet.nn.vit import Encoder\n"
        "run = my_run()\n"
        "run = replace(run, encoder=Encoder(width=24, depth=1, heads=2, hidden=48, patch=(2, 8, 8)),\n"
        "    method=replace(run.method, decoder=Decoder(24, 1, 2)),\n"
        "    training=replace(run.training, epochs=1, batch=4), data=replace(run.data, cache=0))\n"
        "from pathlib import Path\n"
        "folder = tubelet.pretrain(run, make(Path('videos'), 4, workers=1), 'out', quiet=True)\n"
        "assert type(tubelet.load(folder).mask).__module__ == '__main__'\n"
    )
    (tmp_path / "script.py").write_text(code)
    around = os.environ | {"PYTHONPATH": os.fspath(SOURCE)}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
