"""The public names: found where the list says, lazily, and typed for those who check their own code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tubelet

ROOT = Path(tubelet.__file__).parent

# What a reader of the docs expects of each name, written by hand: checked by mypy --strict as a user's file.
USER = """
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
from torch import Tensor, nn

import tubelet
from tubelet import Asked, load_encoder, pretrain, save_picture
from tubelet.config import Run
from tubelet.data.items import Item
from tubelet.data.video import Video
from tubelet.evaluate.feature_files import Table
from tubelet.evaluate.similar import Neighbour
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.classifier import Classifier
from tubelet.nn.detector import Detector
from tubelet.nn.vit import ViT
from tubelet.pictures import Reconstruction
from tubelet.types import Batch, Clip

run = assert_type(tubelet.preset("videomae-demo"), Run)
folder = assert_type(tubelet.pretrain(run, "videos", Path("runs/a"), quiet=True), Path)
tuned = assert_type(tubelet.finetune(run, "videos", "runs/b", validation="more"), Path)
items = assert_type(tubelet.find("videos"), Sequence[Item])
network = assert_type(tubelet.load(folder), nn.Module)
encoder, made_by = load_encoder(folder, Asked(heads=6))
assert_type(encoder, ViT)
assert_type(made_by, Run)
assert_type(tubelet.load_classifier(tuned), tuple[Classifier, Run])
assert_type(tubelet.load_detector(tuned), tuple[Detector, Run])
assert_type(tubelet.probe("a.mp4"), Video)
assert_type(tubelet.frames_at("a.mp4", [0, 1]), Clip)
clips: Tensor = tubelet.middle_clips(items, run.data)
assert_type(tubelet.middle_batch(items, run.data), Batch)
assert isinstance(network, MaskedAutoencoder)
seen = assert_type(tubelet.reconstruct(network, clips, ratio=0.9), Reconstruction)
assert_type(save_picture("a.png", seen.strips(), seen.note), Path)
assert_type(tubelet.write_report(folder), Path)
tubelet.embed(encoder, items, run.data, Path("features.npy"))
table = assert_type(tubelet.read_features("features.npy"), Table)
assert_type(tubelet.nearest(np.zeros(3, np.float32), table), list[Neighbour])
loaded, report = tubelet.load_with_report("weights.pth", Asked())
assert_type(loaded, nn.Module)
assert_type(tubelet.__version__, str)
train: Callable[[Run, str, str], Path] = pretrain
"""

# One mistake a line, each of which mypy must find: if names were Any, nothing would be found.
WRONG = """
import tubelet
tubelet.pretain("videos")
tubelet.preset(3)
tubelet.pretrain(tubelet.preset("videomae-demo"), "videos", "out", epochs=3)
tubelet.load_encoder("a").eval()
tubelet.write_report("a") + 1
"""


def typed() -> dict[str, str]:
    """Public names and their homes, as the part of __init__.py says that only type checkers read."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes, names = {}, {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                homes[alias.asname or alias.name] = f"{node.module}:{alias.name}"
                if alias.asname == alias.name:  # handed on by type checkers only where it is written twice
                    names[alias.name] = f"{node.module}:{alias.name}"
        else:
            assert isinstance(node, ast.Assign)
            names[ast.unparse(node.targets[0])] = homes[ast.unparse(node.value)]
    return names


def test_the_names_that_type_checkers_see_are_those_that_there_are():
    assert typed() == tubelet._HOMES
    assert set(tubelet.__all__) == {"__version__", *tubelet._HOMES} == set(dir(tubelet))


def test_no_public_name_is_that_of_a_module():
    """Whoever imports `tubelet.name`, here or in a part of tubelet, would make the module of it from then on."""
    parts = {path.stem for path in ROOT.iterdir()}
    assert "finetuning" in parts
    assert not parts & set(tubelet._HOMES)


@pytest.mark.parametrize("name", tubelet._HOMES)
def test_every_name_is_documented_at_home(name):
    found = getattr(tubelet, name)
    module, attribute = tubelet._HOMES[name].split(":")
    assert (found.__module__, found.__name__) == (module, attribute)  # where it lives, not where it passes through
    assert found.__doc__


def test_another_name_is_an_error_that_names_those_there_are():
    with pytest.raises(AttributeError, match=r"has no attribute 'pretain'; it has: .*pretrain"):
        tubelet.pretain  # noqa: B018


def test_importing_tubelet_imports_none_of_its_parts():
    code = "import sys, tubelet; print([name for name in sys.modules if name.startswith('tubelet.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def mypy(folder: Path, text: str) -> tuple[int, str]:
    """What mypy --strict says about a user's file, in a folder of its own, with its own cache."""
    pytest.importorskip("mypy")
    (folder / "user.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "user.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_type_checkers_know_the_public_names(tmp_path):
    code, said = mypy(tmp_path, USER)
    assert (code, said) == (0, "")
    used = {node.attr for node in ast.walk(ast.parse(USER)) if isinstance(node, ast.Attribute)}
    assert set(tubelet._HOMES) - used <= {"Asked", "load_encoder", "save_picture"}  # which are imported by name
    code, said = mypy(tmp_path, WRONG)
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert found == {number for number, line in enumerate(WRONG.splitlines(), 1) if line.startswith("tubelet.")}
