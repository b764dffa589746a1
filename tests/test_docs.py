"""Every Python block in README and docs runs, and every command in them is one that tubelet has."""

import io
import re
import shlex
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tubelet.cli import VERBS, run
from tubelet.config import preset
from tubelet.data.synthetic import make
from tubelet.methods import PRESETS
from tubelet.plan import plan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


def test_readme_shows_python():
    assert any(page.name == "README.md" for page, _ in PYTHON)


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page.name}-{i}" for i, (page, _) in enumerate(PYTHON)])
def test_python_blocks_run(page, code, tmp_path, monkeypatch):
    """In an empty folder with eight videos in my_videos/, and so few steps that it takes seconds."""
    make(tmp_path / "my_videos", 8, workers=1)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("epochs=200", "epochs=4"), str(page), "exec"), {})


@cache
def helped(*verb: str) -> str:
    """What --help says, wide enough that no flag is broken over lines."""
    text = io.StringIO()
    with redirect_stdout(text):
        assert run([*verb, "--help"]) == 0
    return text.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_real(page):
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tubelet"]:
                assert words[1] in VERBS, line
                if words[1] in ("pretrain", "plan", "finetune"):
                    assert words[2] in PRESETS or "/" in words[2] or ":" in words[2], line
                kind = words[2:3] if words[1] in ("probe", "picture") else []
                known = helped(words[1], *kind)
                for flag in (word for word in words if word.startswith("--")):
                    assert re.search(rf"{flag}[\s,]", known), f"{flag} in: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page):
    text = page.read_text()
    assert not re.search(r"@[A-Z]+@", text)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for path in re.findall(r"`((?:benchmarks|docs|src|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_table_of_encoders_is_what_plan_counts():
    rows = re.findall(
        r"^\| ViT-(\w) \| (\d+)x(\d+)x\d+ \| ([\d,]+) \| ([\d.]+) \|", (ROOT / "docs/results.md").read_text(), re.M
    )
    assert len(rows) == 6
    for size, frames, side, parameters, gmacs in rows:
        made = preset(f"videomae-k400-{size.lower()}")
        clip = replace(made.data.clip, frames=int(frames))
        counted = plan(replace(made, data=replace(made.data, clip=clip, size=(int(side), int(side)))))
        assert f"{counted.parameters['encoder']:,}" == parameters
        assert f"{counted.gmacs['encoder of all tokens']:.2f}" == gmacs


def test_table_of_methods_is_what_plan_counts():
    found = re.findall(r"^\| `([\w-]+)` \| ([\d. |]+) \| \d+ \| \d+ \|$", (ROOT / "docs/results.md").read_text(), re.M)
    assert len(found) == 15
    for name, cells in found:
        told = dict(zip(("encoder", "decoder", "teacher", "forward"), (cell.strip() for cell in cells.split(" | "))))
        gmacs = plan(preset(name)).gmacs
        heads = gmacs.get("projector", 0) + gmacs.get("predictor", 0)
        copies = gmacs.get("momentum_encoder", 0) + gmacs.get("momentum_projector", 0)
        counted = {
            "encoder": gmacs["encoder"],
            "decoder": gmacs.get("decoder", heads),
            "teacher": gmacs.get("teacher", copies),
            "forward": gmacs["forward"],
        }
        for part, value in counted.items():
            assert float(told[part] or 0) == pytest.approx(value, abs=0.0251), (name, part)


def test_memory_by_decoder_depth_is_what_plan_says():
    planned = []
    for depth in (1, 2, 4, 8):
        run = preset(f"videomae-ssv2-b-decoder-{depth}")
        training = replace(run.training, batch=64, accumulate=1, device="cuda", precision="bfloat16")
        run = replace(run, training=training, data=replace(run.data, repeats=1))
        planned.append(f"{plan(run).memory.total / 2**30:.2f}")
    assert "{}, {}, {} and {} GiB".format(*planned) in (ROOT / "docs/results.md").read_text()


def test_changelog_and_citation_name_this_version():
    import tubelet

    assert "Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {tubelet.__version__}" in (ROOT / "CITATION.cff").read_text()
