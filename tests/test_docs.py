"""Every block of code in README and docs runs, or is named here with the reason why not; every link leads somewhere."""

import io
import json
import re
import shlex
import shutil
import warnings
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

from tubelet.cli import VERBS, run
from tubelet.config import preset
from tubelet.data.shapes import make_shapes
from tubelet.data.synthetic import make
from tubelet.methods import PRESETS
from tubelet.plan import plan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TO_WRITE = [f"{folder}brightness.py" for folder in ("src/tubelet/methods/", "tests/methods/test_")]  # by CONTRIBUTING
OTHERS = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")]

# What makes a command take seconds, appended to it. One size for all, so that --weights fit; later flags win.
NETWORK = "--encoder.width 64 --encoder.depth 1 --encoder.heads 1 --encoder.hidden 64"
TRAINING = f"--training.epochs 1 --training.batch 4 --training.workers 0 --data.size 96 64 --quiet {NETWORK}"
SMALL = {
    "pretrain": TRAINING,
    "finetune": TRAINING,
    "probe linear": "--epochs 1",
    "probe attentive": "--epochs 1",
    "bench": f"--training.batch 4 --data.size 96 64 {NETWORK}",
    "prepare": "--workers 1",
}

# What a page has from other pages, done before its own lines.
PREPARED = "tubelet prepare my_videos/ prepared/"
NEEDS = {
    "docs/methods/mgm.md": [PREPARED],
    "docs/methods/m3video.md": [PREPARED],
    "docs/methods/detection.md": ["tubelet pretrain videomae-small-gpu --data my_videos/ --out runs/videomae"],
    "docs/methods/fine-tuning.md": [
        "tubelet pretrain videomae-small-cpu --data my_videos/ --out runs/videomae",
        "tubelet split labelled/ --out lists/",
    ],
    "docs/looking.md": [f"tubelet pretrain videomae-small-cpu --data my_videos/ --out runs/{run}" for run in "ab"],
    "docs/serve.md": ["tubelet pretrain videomae-small-cpu --data my_videos/ --out runs/first"],
}

# What cannot run here: the reason, and where it is tested. Flags are checked all the same.
ELSEWHERE = {
    r"^(make|pip|git|cd|python|jupyter|hf|TUBELET_VIDEOS=)": "set-up, benchmarks and tests themselves",
    r"^(torchrun|srun|sbatch)": "several machines: tests/test_distributed.py, tests/test_scaling.py",
    r"^tubelet (pretrain|finetune|test) .*--gpus": "several processes: tests/test_distributed.py",
    r"^tubelet serve": "stays until it is ended: its own tests",
    r"s3://|https?://|gs://|hub:|^tubelet push": "the network: tests/data/test_remote.py, test_weights_hub.py",
    r"(kinetics|ssv2|ucf101|hmdb51|diving48|images|ava|hmdb7):\S": "data sets as they are: tests/data/test_layouts.py",
    r"\b(DIR|HOST|FILE|PRESET|RUN|OWNER/NAME|my_module:my_run|K710\.csv)\b|\.\.\.": "words that stand for one's own",
    r"annotations\.xml|project\.json": "exports of other tools: tests/data/test_annotation_formats.py",
    r"\.onnx --out|yolo11n": "a detector of others: tests/data/test_people.py",
}
FLAGS_ONLY = {  # pages whose commands are choices beside each other, no task from start to end; guides run them
    "docs/checking.md": "tests/data/test_check.py, test_alike.py, test_check_boxes.py",
    "docs/detection.md": "docs/guides/detect.md, tests/evaluate/test_detect_verb.py",
    "docs/plugins.md": "modules in the working directory: tests/test_plugins.py does what the page says",
    "docs/preparing.md": "docs/guides, tests/data/test_prepare.py",
    "docs/recipes.md": "the papers' data sets and sizes: tests/methods, tests/test_finetuning.py",
    "docs/scaling.md": "GPUs: tests/test_scaling.py runs its table",
    "docs/weights.md": "weights of others: tests/weights, tests/export",
    "docs/remote.md": "storage elsewhere: tests/data/test_remote.py",
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and text of every block of code, also of those that are set in."""
    found = re.findall(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, re.sub(rf"^{inset}", "", text, flags=re.M)) for inset, language, text in found]


def prose(page: Path) -> str:
    """A page without its code, also that within lines."""
    return re.sub(
        r"`[^`\n]*`", "`x`", re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    )


def commands(text: str) -> list[str]:
    """The lines of a block of shell, without comments and empty ones."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def elsewhere(line: str) -> str:
    return next((why for pattern, why in ELSEWHERE.items() if re.search(pattern, line)), "")


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """What pages suppose to be there: videos, labelled ones, lists, boxes, single clips, weights of others."""
    folder = tmp_path_factory.mktemp("material")
    make(folder / "my_videos", 16, workers=1)
    make(folder / "labelled", 64, seed=1, workers=1)
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("labelled/*/*.mp4"))]
    for number, list_name in enumerate(("train.csv", "test.csv")):
        (folder / list_name).write_text("\n".join(["path,label", *rows[number::2]]) + "\n")
    table = make_shapes(folder / "clips", 12)
    header, *boxes = table.read_text().splitlines()
    parts = [f"clips/{row},{'train' if row < '0011' else 'val'}" for row in boxes]
    (folder / "boxes.csv").write_text("\n".join([f"{header},split", *parts]) + "\n")
    (folder / "known.csv").write_text(
        "\n".join([header, *(row.replace("0001", "street") for row in boxes if "0001" in row)])
    )
    for clip in ("cat.mp4", "clip.mp4", "match.mp4", "street.mp4"):
        shutil.copy(folder / "clips/0001.mp4", folder / clip)
    with chdir(folder):
        perform("tubelet pretrain videomae-k400-b --data my_videos/ --out others")
        perform("tubelet export others --to official --out checkpoint.pth")
    shutil.rmtree(folder / "others")
    return folder


done: set[str] = set()  # lines; those that only look at the material need not be done for the next page


def perform(line: str) -> None:
    """Does what a line of shell says, made small, in this process."""
    words = shlex.split(line, comments=True)
    if words[1] in ("check", "doctor") and line in done:
        return
    done.add(line)
    words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
    assert words[0] == "tubelet", f"neither run nor listed in ELSEWHERE: {line}"
    kind = " ".join(words[1:3]) if words[1] in ("probe", "picture") else words[1]
    said = io.StringIO()
    with redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clips that are too short, weights that look as on the first day
        code = run([*words[1:], *SMALL.get(kind, "").split()])
    assert code == 0 or (code == 3 and words[1] == "check"), f"{line} ended with {code}\n{said.getvalue()}"
    if target:
        Path(target).write_text(said.getvalue())


def told(code: str) -> list[str]:
    """What a block of Python says it prints: the comments that begin with an arrow."""
    return re.findall(r"# -> (.+)$", code, re.MULTILINE)


RUN = [page for page in PAGES if any(language in ("python", "sh") for language, _ in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=name)
def test_blocks_run(page, material, tmp_path):
    """One after the other, in a folder of their own, and in so few steps that it takes seconds."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    known = {}
    with chdir(tmp_path):
        for line in NEEDS.get(name(page), []):
            perform(line)
        for language, text in blocks(page):
            if language == "python":
                said = io.StringIO()
                with redirect_stdout(said):
                    exec(compile(text.replace("epochs=200", "epochs=4"), str(page), "exec"), known)
                place = 0
                for expected in told(text):
                    assert expected in said.getvalue()[place:], (
                        f"{name(page)}: not printed: {expected}\n{said.getvalue()}"
                    )
                    place = said.getvalue().index(expected, place)
            elif language == "sh" and name(page) not in FLAGS_ONLY:
                for line in commands(text):
                    if not elsewhere(line):
                        perform(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_other_blocks_can_be_read(page):
    for language, text in blocks(page):
        if language == "json":
            json.loads(text)
        elif language in ("yaml", "yml"):
            yaml.safe_load(text)
        else:
            assert language in ("python", "sh", "text", "csv", ""), f"{name(page)}: a block of {language}"


def test_the_list_of_what_cannot_run_has_nothing_too_much():
    lines = [line for page in PAGES for language, text in blocks(page) if language == "sh" for line in commands(text)]
    for pattern in ELSEWHERE:
        if "serve" in VERBS or "serve" not in pattern:
            assert any(re.search(pattern, line) for line in lines), pattern
    assert set(FLAGS_ONLY) <= set(map(name, PAGES))


@cache
def helped(*verb: str) -> str:
    """What --help says, wide enough that no flag is broken over lines."""
    text = io.StringIO()
    with redirect_stdout(text):
        assert run([*verb, "--help"]) == 0
    return text.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_real(page):
    for block in (text for language, text in blocks(page) if language == "sh"):
        for line in commands(block):
            words = shlex.split(line, comments=True)
            if words[:1] == ["tubelet"]:
                assert words[1] in VERBS, line
                if words[1] in ("pretrain", "plan", "finetune"):
                    assert words[2] in PRESETS or "/" in words[2] or ":" in words[2], line
                kind = words[2:3] if words[1] in ("probe", "picture") else []
                known = helped(words[1], *kind)
                for flag in (word for word in words if word.startswith("--")):
                    assert re.search(rf"{flag}[\s,]", known), f"{flag} in: {line}"


def anchors(page: Path) -> set[str]:
    """The places in a page that links may name, as GitHub makes them of headings."""
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.M), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, count in seen.items() for number in range(count + 1)}


@pytest.mark.parametrize("page", [*PAGES, *filter(Path.exists, OTHERS)], ids=name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page):
    text = page.read_text()
    assert not re.search(r"@[A-Z]+@", text)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            parts = urlparse(link)
            assert parts.scheme in ("https", "http"), f"{name(page)} links to {link}"
            assert "." in parts.netloc, f"{name(page)} links to {link}"
            continue
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        if place and not place.startswith("tubelet."):  # those are of the reference, which the site's own test follows
            assert place in anchors(target), f"{name(page)} links to {link}; there are {sorted(anchors(target))}"
    for path in re.findall(r"`((?:benchmarks|docs|src|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists() or path in TO_WRITE, f"{name(page)} names {path}"


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
