"""The pages of docs/methods: every method and preset is on one of them, and what they say is what the code says."""

import re
from functools import cache, reduce
from pathlib import Path

import pytest

from tubelet.cli.training import summary
from tubelet.config import Run, preset
from tubelet.methods import PRESETS
from tubelet.nn.vit import SIZES

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "methods"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "index.md")
SECTIONS = ["The idea", "The file", "Presets", "Numbers", "What differs from the paper", "Settings that matter"]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def section(page: Path, name: str) -> str:
    return page.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]


def table(text: str) -> list[dict[str, str]]:
    """The rows of all tables in a text whose first column is a name of code."""
    rows: list[dict[str, str]] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0].startswith("`"):
            rows.append(dict(zip(header, cells, strict=True)))
        elif cells and not set(line) <= set("|-"):
            header = cells
    return rows


def presets_of(page: Path) -> dict[str, dict[str, str]]:
    return {row["preset"].strip("`"): row for row in table(section(page, "Presets"))}


# ---------------------------------------------------------------------------- everything is there


def test_every_preset_is_on_one_page():
    listed = [name for page in PAGES for name in presets_of(page)]
    assert sorted(listed) == sorted(PRESETS)


def test_every_method_file_is_on_one_page_where_it_is_said_where_to_begin():
    linked = [
        (ROOT / "docs" / "methods" / link).resolve()
        for page in PAGES
        for link in re.findall(r"\]\((\S+?\.py)\)", section(page, "The file"))
    ]
    methods = {path for path in (ROOT / "src/tubelet/methods").glob("*.py") if path.name != "__init__.py"}
    assert sorted(linked) == sorted(methods | {ROOT / "src/tubelet/nn/divided.py"})


@pages
def test_page_has_paper_picture_and_sections(page):
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    opening = text.split("\n## ")[0]
    assert re.search(r"\[arXiv:(\d{4}\.\d{5})\]\(https://arxiv\.org/abs/\1\)", opening)
    (picture,) = re.findall(r"!\[.{20,}\]\((\S+)\)", opening)
    assert (page.parent / picture).is_file()
    assert "CC BY 4.0" in opening
    assert 4 <= len(re.findall(r"[.:?!)*] ", section(page, "The idea"))) <= 16
    for path in re.findall(r"`((?:src|tests|benchmarks|docs)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_index_leads_to_every_page_with_its_papers():
    rows = re.findall(r"^\| \[(.+?)\]\((\S+?)\.md\) \| (.+?) \| (.+?) \|$", (FOLDER / "index.md").read_text(), re.M)
    assert sorted(stem for _, stem, _, _ in rows) == sorted(page.stem for page in PAGES)
    for title, stem, papers, _ in rows:
        text = (FOLDER / f"{stem}.md").read_text()
        assert text.startswith(f"# {title}\n")
        assert re.findall(r"arXiv:[\d.]+\d", papers) == re.findall(r"\[(arXiv:[\d.]+)\]", text.split("\n## ")[0])


@pages
def test_names_in_code_are_in_the_code_that_the_page_names(page):
    files = re.findall(r"src/tubelet/[\w/]+\.py", section(page, "The file"))
    source = "\n".join((ROOT / path).read_text() for path in files)
    for name, member in re.findall(r"`([A-Z]\w+|_\w+|contrast)(?:\.(\w+))?`", section(page, "The file")):
        assert re.search(rf"(class|def) {name}\b", source), name
        assert not member or re.search(rf"def {member}\b", source), member


# ---------------------------------------------------------------------------- presets' settings


def encoder(run: Run) -> str:
    shape = run.encoder
    sizes = {(size.width, size.depth): name for name, size in SIZES.items()}
    name = sizes.get((shape.width, shape.depth))
    return f"{shape.depth} x {shape.width}" if name is None else f"ViT-{name if name == 'g' else name.upper()}"


def decoder(run: Run) -> str:
    made = run.method.decoder
    return f"{made.depth} x {made.width}" if hasattr(made, "depth") else ""


COLUMNS = {
    "encoder": encoder,
    "decoder": decoder,
    "cluster": lambda run: "x".join(map(str, run.method.mask.cluster)),
    "order": lambda run: run.method.mask.order,
    "drop": lambda run: run.method.mask.drop,
    "ratio": lambda run: run.method.mask.ratio,
    "predict": lambda run: run.method.predict,
    "momentum": lambda run: "none" if run.method.momentum is None else run.method.momentum,
    "temperature": lambda run: run.method.temperature,
    "batch": lambda run: run.training.batch,
    "epochs": lambda run: run.training.epochs,
    "base lr": lambda run: run.optim.base_lr,
    "warm-up": lambda run: run.optim.warmup,
    "layer decay": lambda run: run.optim.layer_decay,
    "drop path": lambda run: run.encoder.drop_path,
    "repeats": lambda run: run.data.repeats,
}


@pages
def test_settings_in_the_tables_are_the_presets(page):
    for name, row in presets_of(page).items():
        run = preset(name)
        for column, cell in row.items():
            if column in ("preset", "what for", "published"):
                continue
            is_ = COLUMNS[column](run)
            assert cell == is_ if isinstance(is_, str) else float(cell) == pytest.approx(is_, rel=1e-5), (name, column)


@pages
def test_published_numbers_in_the_tables_are_those_of_the_presets(page):
    for name, row in presets_of(page).items():
        told = summary(*PRESETS[name].split(":"))
        published = re.findall(r"\d\d\.\d", row["published"])
        assert published == re.findall(r"\d\d\.\d(?!\d)", told), name


@pages
def test_settings_that_matter_exist(page):
    """In one at least of the page's presets; those of a page without presets in all."""
    runs = [preset(name) for name in presets_of(page)] or [preset(name) for name in ("videomae-k400-b", "mgm-ssv2")]
    flags = re.findall(r"--(\w+\.[\w.-]*\w)", page.read_text())
    assert re.findall(r"^\| `--", section(page, "Settings that matter"), re.MULTILINE)
    for flag in flags:
        steps = flag.replace("-", "_").split(".")
        assert any(reduce(lambda part, step: getattr(part, step, ...), steps, run) is not ... for run in runs), flag


# ---------------------------------------------------------------------------- numbers


@cache
def readme() -> dict[str, list[str]]:
    """The cells of README's rows of methods, by the file that each names."""
    rows = re.findall(r"^\| .+ \| .+ \| \[.+$", (ROOT / "README.md").read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {re.search(r"\((src/\S+?\.py)\)", row[2])[1]: row for row in cells if "(src/" in row[2]}


@pages
def test_papers_and_their_numbers_are_those_of_readme(page):
    files = re.findall(r"\]\(\.\./\.\./(\S+?\.py)\)", section(page, "The file"))
    found = [readme()[file] for file in files if file in readme()]
    assert len(found) == 1
    _, paper, _, _, source, *_ = found[0]
    opening, numbers = page.read_text().split("\n## ")[0], section(page, "Numbers")
    for link in re.findall(r"https://arxiv\.org/abs/[\d.]+", paper):
        assert link in opening
    for number in re.findall(r"\d\d\.\d", source):
        assert number in numbers, number


OURS = {  # page: its rows in the table of methods at equal time
    "videomae": ["VideoMAE (tubes)", "VideoMAE, hidden anywhere"],
    "videomae-v2": ["VideoMAE V2"],
    "mgm": ["MGM"],
    "mgmae": ["MGMAE"],
    "arvideo": ["ARVideo"],
    "st-mae": ["ST-MAE"],
    "cross-mae": ["CrossMAE"],
    "maskfeat": ["MaskFeat's target (HOG), as MAE"],
    "motion-mae": ["MotionMAE (pixels and their change)"],
    "moco-v3": ["MoCo v3"],
    "vjepa": ["V-JEPA"],
}
COST = {  # page: its row in the table of steps, its presets in the table of GMACs
    "videomae": ("VideoMAE", ["videomae-k400-b"]),
    "videomae-v2": ("VideoMAE V2", ["videomae-v2-b"]),
    "mgm": ("MGM", ["mgm-k400"]),
    "mgmae": ("MGMAE", ["mgmae-k400"]),
    "arvideo": ("ARVideo", ["arvideo-k400-b"]),
    "st-mae": ("ST-MAE", ["st-mae-k400-b"]),
    "image-mae": ("ImageMAE, one frame", ["image-mae-b"]),
    "omni-mae": ("OmniMAE", ["omni-mae-b"]),
    "cross-mae": ("CrossMAE", ["cross-mae-k400-b"]),
    "maskfeat": ("MaskFeat", ["maskfeat-k400-b", "maskfeat-mae-k400-b"]),
    "motion-mae": ("MotionMAE", ["motion-mae-k400-b"]),
    "m3video": ("M3Video", ["m3video-k400-b"]),
    "moco-v3": ("MoCo v3", ["moco-v3-k400-b"]),
    "vjepa": ("V-JEPA", ["vjepa-l"]),
}


def row(first: str, part: str) -> list[str]:
    """The cells of the row that begins so, in a section of docs/results.md."""
    text = (ROOT / "docs/results.md").read_text().split(f"\n## {part}")[1].split("\n## ")[0]
    (line,) = re.findall(rf"^\| {re.escape(first)} \|.*$", text, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("stem", OURS)
def test_our_numbers_are_those_of_results(stem):
    (ours,) = [line for line in section(FOLDER / f"{stem}.md", "Numbers").splitlines() if "**Ours**" in line]
    for first in [*OURS[stem], "none (random weights, from scratch)"]:
        _, _, linear, neighbours, _, tuned = row(first, "Methods at equal time")
        told = [linear, neighbours] + ([tuned] if tuned and not first.startswith("none") else [])
        for cell in told:
            assert cell.split()[0] in ours, (first, cell)


@pytest.mark.parametrize("stem", COST)
def test_costs_are_those_of_results(stem):
    numbers, (first, presets) = section(FOLDER / f"{stem}.md", "Numbers"), COST[stem]
    assert re.search(rf"\b{re.escape(row(first, 'Methods: what one clip costs')[4])}\b", numbers)
    for name in presets:
        assert f"{row(f'`{name}`', 'Methods: what one clip costs')[4]} GMACs" in numbers
