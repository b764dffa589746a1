"""Each example, shortened, ends in an empty folder with what it promises; the notebook is executed, cell by cell."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tubelet import plugins
from tubelet.data.video import frames_at, probe

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """What an example says on stdout; it is the main program of an empty folder, with nothing trusted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "TRUSTED", {"tubelet"})

    def main(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words, "--short"])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return main


def drawn(path: Path) -> bool:
    """Whether a picture shows something: many colours, and not one of them nearly everywhere."""
    with Image.open(path) as picture:
        counts = sorted((count for count, _ in picture.convert("RGB").getcolors(1 << 24)), reverse=True)
    return len(counts) > 200 and counts[0] < 0.7 * sum(counts)


def test_pretrain(ran, tmp_path):
    said = ran("01_pretrain.py")
    assert "16 videos" in said
    assert drawn(tmp_path / "imagined.png")
    assert (tmp_path / "runs/first/encoder.safetensors").is_file()
    assert (tmp_path / "runs/first/report.html").stat().st_size > 10_000
    assert "643,968 parameters" in said
    again = ran("01_pretrain.py", "made_videos")  # a folder of one's own; what is done is not done again
    assert "16 videos in made_videos" in again
    assert (tmp_path / "runs/first/metrics.jsonl").read_text().count("\n") == 4


def test_few_labels(ran, tmp_path):
    said = ran("02_few_labels.py")
    assert "36 videos to learn from, 36 of them with labels; 12 to test on" in said
    found = {name: float(value) for name, value in re.findall(r"^([\w -]+?) +([\d.]+) %", said, re.MULTILINE)}
    assert set(found) == {"pre-trained", "from scratch", "by guessing"}
    assert found["by guessing"] == 12.5
    assert all(0 <= value <= 100 for value in found.values())
    tested = {row.split(",")[0] for row in (tmp_path / "test.csv").read_text().splitlines()[1:]}
    assert len(tested) == 12
    card = json.loads((tmp_path / "runs/scratch/run.json").read_text())
    assert card["run"]["method"]["init"] is None
    assert json.loads((tmp_path / "runs/tuned/run.json").read_text())["run"]["method"]["init"] == "runs/pretrained"


def test_similar_clips(ran, tmp_path):
    said = ran("03_similar_clips.py")
    features = np.load(tmp_path / "features.npy").astype(float)
    assert features.shape == (16, 128)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = np.sort(unit @ unit[0])[::-1]
    told = [float(value) for value in re.findall(r"^\d  ([\d.]+)  \S+\.mp4$", said, re.MULTILINE)]
    assert told == pytest.approx(cosines[:5], abs=6e-4)
    assert drawn(tmp_path / "similar.png")


def test_own_mask(ran, tmp_path):
    ran("04_own_mask.py")
    assert drawn(tmp_path / "masks.png")
    assert drawn(tmp_path / "chess.png")
    assert "__main__:Chess" in (tmp_path / "runs/chess/run.json").read_text()


def test_what_happens_when(ran, tmp_path):
    said = ran("05_what_happens_when.py")
    parts = re.findall(r"^ +([\d.]+) to +([\d.]+) s  (\w+)  \d+ %$", said, re.MULTILINE)
    assert float(parts[0][0]) == 0
    assert float(parts[-1][1]) == pytest.approx(16, abs=0.1)  # four parts of 48 frames, 12 a second
    assert (tmp_path / "film.srt").read_text().count("-->") == len(parts)
    film, seen = probe(tmp_path / "film.mp4"), probe(tmp_path / "film_seen.mp4")
    assert seen.frames == film.frames == 192
    plain, labelled = (frames_at(tmp_path / name, [96]).frames[0] for name in ("film.mp4", "film_seen.mp4"))
    assert plain.shape != labelled.shape or (plain != labelled).any()


def test_every_script_is_tested_short_and_listed():
    own = {f"{name.removeprefix('test_')}.py" for name in globals() if name.startswith("test_")}
    assert {name[3:] for name in SCRIPTS} <= own
    assert len(SCRIPTS) == 5
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name in ("README.md", "__pycache__") or f"({path.name})" in page
    for name in SCRIPTS:
        text = (EXAMPLES / name).read_text()
        assert len(text.splitlines()) <= 70
        assert f"python examples/{name}" in text


def test_the_notebook_executes(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)  # stored without outputs
    assert all(cell.source.strip() for cell in notebook.cells)
    for cell in cells:
        cell.source = re.sub(r"^steps = \d+", "steps = 4", cell.source, flags=re.MULTILINE)
    place = {"metadata": {"path": tmp_path}}
    kernel = client.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
    kernel.execute(env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [o for o in outputs if o.output_type != "stream" and {"image/png", "image/gif"} & set(o.get("data", {}))]
    assert len(pictures) == 4
    assert not [o for o in outputs if o.output_type == "error"]
    assert any(re.search(r"imagined [\d.]+ dB", o.get("text", "")) for o in outputs)
