"""The shape of the code base: imports go down, heavy third parties have one home, files are short, starts are quick."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tubelet

ROOT = Path(tubelet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = [
    {"types", "printable", "plugins"},
    {"data", "nn"},
    {"masks", "targets", "motion_targets"},
    {"config"},
    {"methods", "train", "evaluate", "weights"},
    {"export", "page", "pictures", "motion_pictures", "strips", "plan", "report", "doctor", "finetuning", "detection"}
    | {"space", "charts", "overlay", "activations", "hardware", "budget", "check_report"}
    | {"plates", "time_bar", "box_pictures", "attention_pictures", "live", "pretraining"}
    | {"report_facts", "report_results", "report_warnings"},
    {"cli", "demo", "bench", "web"},
    {"__main__"},
]
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}

# Beside the layers: what may be imported sideways or upwards, and why.
ALLOWED = {
    ("config", "methods"),  # config.preset reads the list of names, which is strings
    ("methods", "evaluate"),
    ("train", "weights"),  # a run may begin with weights of others
    ("motion_targets", "targets"),  # the ways to normalise
    ("report", "charts"),  # a report shows curves
    ("report", "page"),
    *(("report", part) for part in ("report_facts", "report_results", "report_warnings")),
    ("report_results", "report_facts"),
    ("report_results", "page"),
    ("report_warnings", "report_facts"),
    ("live", "report"),  # the page and the pictures of a run under way
    ("live", "pictures"),
    ("live", "strips"),
    *((verb, part) for verb in ("pretraining", "finetuning", "detection") for part in ("live", "report")),
    ("pretraining", "pictures"),
    ("check_report", "page"),
    ("check_report", "charts"),
    ("plan", "activations"),  # a part of memory, and all of it
    ("budget", "plan"),  # what a run is, and whether machines have it
    ("budget", "hardware"),
    ("cli", "demo"),
    ("cli", "bench"),
    ("cli", "web"),
    ("pictures", "strips"),  # what is shown, and how it is drawn
    ("motion_pictures", "strips"),
    ("motion_pictures", "pictures"),
    ("motion_pictures", "plates"),  # rims
    ("attention_pictures", "strips"),
    ("attention_pictures", "plates"),  # rims
    ("overlay", "strips"),  # the font
    ("plates", "strips"),
    ("time_bar", "plates"),  # the colours of people
    ("time_bar", "strips"),
    ("box_pictures", "plates"),
    ("box_pictures", "time_bar"),
    ("box_pictures", "overlay"),  # what is on screen when
    ("box_pictures", "strips"),
    ("export", "report_facts"),  # a run in rows
    ("export", "report_results"),
}


def part_of(file: Path) -> str:
    """The layer's name for a file: its folder, or itself."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


HOMES = {
    "av": {"data/video.py", "data/container.py", "data/paint.py", "data/writing.py", "data/stream.py", "doctor.py"},
    "cv2": {"data/stream.py", "data/flow.py", "data/people.py"},  # cameras, optical flow, people, where it is installed
    "fsspec": {"data/remote.py"},
    "aiohttp": set(),
    "tyro": {name_of(file) for file in FILES if part_of(file) == "cli"},
    "matplotlib": {"strips.py", "space.py", "charts.py", "attention_pictures.py"},
    "transformers": set(),
    "torchvision": {"nn/raft.py", "data/people.py"},
    "scipy": set(),
    "sklearn": {"space.py"},
    "umap": {"space.py"},
    "onnx": {"export/graphs.py"},
    "onnxscript": {"export/graphs.py"},
    "onnxruntime": {"export/graphs.py", "data/people.py"},
    "huggingface_hub": {"weights/hub.py"},
    **{name: {name_of(file) for file in FILES if part_of(file) == "web"} for name in ("gradio", "fastapi", "uvicorn")},
}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported in a file, inside functions too.

    In the package's own __init__.py not what only type checkers read: test_public.py holds that to the public names.
    """
    tree = ast.parse(file.read_text())
    if file == ROOT / "__init__.py":
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.lineno, node.module
            if node.module == "tubelet":
                yield from ((node.lineno, f"tubelet.{alias.name}") for alias in node.names)


def wrong(importer: str, imported: str) -> bool:
    """Whether a part may not import another."""
    if importer == imported or (importer, imported) in ALLOWED:
        return False
    return HEIGHT[imported] >= HEIGHT[importer]


def test_every_part_has_a_layer():
    assert {part_of(file) for file in FILES} - {"__init__"} <= set(HEIGHT)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down_the_layers(file):
    here = part_of(file)
    for line, name in imports(file):
        parts = name.split(".")
        if parts[0] != "tubelet" or len(parts) == 1:
            continue
        assert here != "__init__", f"{file}:{line}: `import tubelet` must import nothing"
        assert not wrong(here, parts[1]), f"{file}:{line}: {here} imports {name}, which is not below it"


def test_the_rule_itself_can_fail():
    assert wrong("types", "nn")
    assert wrong("nn", "data")
    assert wrong("data", "nn")
    assert wrong("train", "methods")
    assert wrong("evaluate", "methods")
    assert wrong("plan", "cli")
    assert wrong("masks", "targets")
    assert not wrong("methods", "evaluate")
    assert not wrong("cli", "types")


def test_the_only_import_upwards_is_the_list_of_presets():
    upwards = {
        (part_of(file), name)
        for file in FILES
        for _, name in imports(file)
        if name.startswith("tubelet.")
        and part_of(file) in HEIGHT
        and HEIGHT.get(name.split(".")[1], 0) > HEIGHT[part_of(file)]
    }
    assert upwards == {("config", "tubelet.methods")}
    tree = ast.parse((ROOT / "methods" / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("package", HOMES)
def test_heavy_third_parties_stay_at_home(package):
    found = {name_of(file) for file in FILES for _, name in imports(file) if name.split(".")[0] == package}
    assert found <= HOMES[package]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_are_short_and_read_without_future_annotations(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert "from __future__" not in text


BESIDE = [file for part in ("benchmarks", "examples") for file in sorted((ROOT.parents[1] / part).glob("*.py"))]


@pytest.mark.parametrize("file", BESIDE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_benchmarks_and_examples_import_is_there(file):
    """They are outside of src/ and run by hand, so mypy does not see when something has moved."""
    asked = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in (node for node in asked if (node.module or "").split(".")[0] == "tubelet"):
        module = importlib.import_module(node.module or "")
        for name in (name.name for name in node.names):
            assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), f"{node.module}: {name}"


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import tubelet", "import tubelet.cli", "from tubelet.methods import PRESETS", "import tubelet.doctor"],
)
def test_starting_imports_nothing_heavy(statement):
    assert not {"torch", "numpy", "av", "matplotlib", "transformers"} & loaded_by(statement)
