"""CONTRIBUTING.md: its worked example is done as it says, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tubelet.data.synthetic import make

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package with the file, the line and the test of the page in it."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src" / "tubelet", folder / "src" / "tubelet", ignore=ignored)
    method, line, test = re.findall(r"^\*\*One .*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    places = re.findall(r"^\*\*One \w+\*\*[^`]*`([^`]+)`(?: of `([^`]+)`)?", PAGE, re.MULTILINE)
    (file, _), (presets, inside), (test_file, _) = places
    assert presets == "PRESETS"
    assert not (ROOT / file).exists()
    (folder / file).write_text(method)
    text = (folder / inside).read_text()
    (folder / inside).write_text(text.replace("\n}", f"\n{line}}}", 1))
    (folder / test_file).parent.mkdir(parents=True)
    (folder / test_file).write_text(test)
    make(folder / "my_videos", 4, workers=1)
    return folder


def done(copy: Path, *words: str) -> str:
    """What a command in the copy says; it must succeed."""
    around = os.environ | {"PYTHONPATH": str(copy / "src")}
    found = subprocess.run([sys.executable, "-m", *words], cwd=copy, env=around, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_example_trains_and_shows_what_it_imagines(copy):
    (command,) = re.findall(r"^tubelet (pretrain .*)", PAGE[PAGE.index("Then look") :], re.MULTILINE)
    small = "--training.epochs 2 --training.batch 4 --encoder.depth 1 --quiet"
    said = done(copy, "tubelet", *command.split(), *small.split())
    assert "2 steps" in said
    with Image.open(copy / "runs/bright/pictures/reconstruction_90.png") as picture:
        assert len(picture.getcolors(1 << 20) or range(1000)) > 100
    assert "brightness-few-cpu  Own short clips on a CPU" in re.sub(r" {2,}", "  ", done(copy, "tubelet", "list"))


def test_the_test_of_the_example_passes_and_can_fail(copy):
    options = ["-p", "no:cacheprovider", "-q", "-W", "error"]
    assert "1 passed" in done(copy, "pytest", *options, "tests")
    file = copy / "src/tubelet/methods/brightness.py"
    right = file.read_text()
    file.write_text(right.replace("/ 255", "/ 256"))
    try:
        with pytest.raises(AssertionError, match="1 failed"):
            done(copy, "pytest", *options, "tests")
    finally:
        file.write_text(right)


def test_the_example_is_written_as_the_rest_is(copy):
    settings = ["--config", str(ROOT / "pyproject.toml")]
    for name in ("src/tubelet/methods/brightness.py", "tests/methods/test_brightness.py"):
        done(copy, "ruff", "check", "--no-cache", *settings, name)
        done(copy, "ruff", "format", "--no-cache", "--check", *settings, name)


def test_what_the_page_names_is_there():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:benchmarks|docs|src|tests)/[\w/.]*)`", PAGE):
        assert (ROOT / path).exists() or "brightness" in path, path
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", PAGE, re.MULTILINE)) <= set(targets)
