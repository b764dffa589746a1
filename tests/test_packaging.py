"""What is given away: wheel and sdist, built here without a network, what is in them, and what each extra is for."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import BytesParser
from importlib import import_module
from pathlib import Path

import pytest
import torch

import tubelet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def done(folder: Path, *words: str, **variables: str) -> str:
    """What a command says, in another folder and without our PYTHONPATH; it must succeed."""
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    found = subprocess.run([sys.executable, *words], cwd=folder, env=around, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Wheel and sdist of what git would give away; our tree is not touched."""
    folder = tmp_path_factory.mktemp("built")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not in a git repository: the sdist is what was given away already")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    said = done(folder, "-m", "build", "--no-isolation", "--outdir", "dist", "tree")  # the wheel from the sdist
    assert "Successfully built" in said
    assert not re.search(r"deprecat", said, re.IGNORECASE)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(built) -> Path:
    (found,) = built.glob("*.tar.gz")
    return found


def test_the_index_would_take_both(built, wheel, sdist):
    said = done(built, "-m", "twine", "--no-color", "check", "--strict", str(wheel), str(sdist))
    assert said.count("PASSED") == 2
    assert wheel.name == f"tubelet-{tubelet.__version__}-py3-none-any.whl"


def test_the_wheel_has_the_package_its_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = sum(info.file_size for info in archive.infolist())
    about = f"tubelet-{tubelet.__version__}.dist-info"
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/tubelet").rglob("*.py")}
    assert {name for name in names if not name.startswith(about)} == source | {"tubelet/py.typed"}
    assert f"{about}/licenses/LICENSE" in names
    assert sizes < 4e6


def test_the_sdist_has_what_its_tests_read(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    for wanted in (
        "tests/test_docs.py", "tests/data/vectors.mp4", "tests/methods/shrunk.py", "docs/architecture.md",
        "docs/pictures/masks.png", "benchmarks/pipeline.py", "examples/tour.ipynb", "CONTRIBUTING.md", "CHANGELOG.md",
        "CITATION.cff", "LICENSE", "Makefile", "constraints.txt", "README.md", "setup.py", "src/tubelet/py.typed",
    ):  # fmt: skip
        assert wanted in names
    assert not [
        name for name in names if re.search(r"__pycache__|\.py[co]$|^\.|/\.|^(runs|site|demo|build|dist)/", name)
    ]


def test_the_wheel_works_away_from_the_source(wheel, tmp_path):
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done(tmp_path, *words, "--target", "there", str(wheel))
    there = {"PYTHONPATH": str(tmp_path / "there"), "PYTHONSAFEPATH": "1"}
    assert (tmp_path / "there/bin/tubelet").is_file()  # the console script
    code = (tmp_path / "there/bin/tubelet").read_text()
    assert "from tubelet.cli import main" in code
    assert done(tmp_path, "there/bin/tubelet", "--version", **there) == f"tubelet {tubelet.__version__}\n"
    assert "videomae-small-cpu  " in done(tmp_path, "there/bin/tubelet", "list", **there)
    names = ", ".join(f"tubelet.{name}" for name in tubelet._HOMES)
    said = done(tmp_path, "-c", f"import tubelet; print(tubelet.__file__, len([{names}]))", **there)
    assert said.split() == [str(tmp_path / "there/tubelet/__init__.py"), str(len(tubelet._HOMES))]


def test_the_description_has_no_link_that_leads_nowhere_there(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        about = BytesParser().parsebytes(archive.read(name))
    text = about.get_payload()
    assert about["Description-Content-Type"] == "text/markdown"
    assert text.startswith("# tubelet")
    assert re.findall(r"\]\(https://", text)  # those that lead to other places are there
    assert not re.findall(r"\]\((?!https?://|#)[^)]*\)", text)
    readme = (ROOT / "README.md").read_text()
    assert "```sh" in text
    assert len(text) > 0.8 * len(re.sub(r"\]\([^)]*\)", "]", readme))
    assert about["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in about.get_all("Classifier")


# ---------------------------------------------------------------------------- extras


def names_of(requirements: list[str]) -> set[str]:
    """The names of requirements, as indexes write them."""
    return {re.split(r"[\[<>=!~ ]", one)[0].lower().replace("_", "-") for one in requirements}


def third_parties() -> set[str]:
    """Top names of all that a file of tubelet imports and that is not Python's own."""
    found = set()
    for path in (ROOT / "src/tubelet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    tops = {name.split(".")[0] for name in found}
    return {name for name in tops if name not in sys.stdlib_module_names} - {"tubelet"}


# Where the name of a package is not that of its distribution; and what is there without being asked for.
DISTRIBUTIONS = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "umap": "umap-learn",
    "huggingface_hub": "huggingface-hub",
}  # fmt: skip
UNASKED = {"torchvision": "its wheel wants the very build of torch that is there; an error says so"}


def test_every_import_is_a_dependency_or_of_an_extra():
    extras = PROJECT["optional-dependencies"]
    asked = names_of(PROJECT["dependencies"])
    offered = asked.union(*(names_of(one) for name, one in extras.items() if name not in ("dev", "bench", "docs")))
    missing = {name for name in third_parties() if DISTRIBUTIONS.get(name, name) not in offered}
    assert missing == set(UNASKED)
    assert {"torch", "numpy", "av", "cv2", "umap", "pyarrow"} <= third_parties()  # the search finds them


def test_every_dependency_is_used_and_has_a_lower_bound():
    used = {DISTRIBUTIONS.get(name, name) for name in third_parties()}
    assert names_of(PROJECT["dependencies"]) <= used
    for one in PROJECT["dependencies"]:
        assert re.search(r">=\d", one), one


def test_extras_that_the_code_names_are_there():
    named = set()
    for path in (ROOT / "src/tubelet").rglob("*.py"):
        for names in re.findall(r"'tubelet\[([\w,]+)\]'", path.read_text()):
            named |= set(names.split(","))
    extras = set(PROJECT["optional-dependencies"])
    assert named <= extras
    assert extras - named <= {"dev", "bench", "docs", "web"}  # of the first three none is for users


@pytest.mark.parametrize(
    ("extra", "packages", "where", "arguments"),
    [
        ("flow", ["cv2"], "tubelet.data.flow:opencv", ()),
        ("camera", ["cv2"], "tubelet.data.stream:frames_of_camera", (0,)),
        ("detect", ["cv2"], "tubelet.data.people:cv2_with_hog", ()),
        ("detect", ["onnxruntime"], "tubelet.data.people:Onnx", (Path("people.onnx"), 0.5)),
        ("parquet", ["pyarrow", "pyarrow.parquet"], "tubelet.evaluate.feature_files:arrow", ()),
        ("space", ["sklearn.manifold"], "tubelet.space:placed", (torch.eye(9), "tsne")),
        ("space", ["umap"], "tubelet.space:placed", (torch.eye(9), "umap")),
        ("hub", ["huggingface_hub"], "tubelet.weights.hub:needed", ()),
        ("export", ["onnx"], "tubelet.export.graphs:needed", ("onnx",)),
        ("tensorboard", ["torch.utils.tensorboard"], "tubelet.train.log:board_writer", ()),
    ],
)
def test_without_an_extra_the_error_says_how_to_get_it(extra, packages, where, arguments, monkeypatch):
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is none
    module, name = where.split(":")
    use = getattr(import_module(module), name)
    with pytest.raises(ValueError, match=re.escape(f"pip install 'tubelet[{extra}]'")):
        list(use(*arguments))  # a generator begins only now


# ---------------------------------------------------------------------------- citation

# Of the Citation File Format 1.2.0: what must be there, and the words that it has for what we say.
REQUIRED = {"cff-version", "message", "title", "authors"}
KEYS = REQUIRED | {"type", "abstract", "version", "license", "keywords", "references"}
OF_A_REFERENCE = {"type", "title", "authors", "year", "conference", "journal", "url", "identifiers"}


def test_the_citation_is_valid_and_names_every_paper_of_the_table_of_methods():
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert set(cited) >= REQUIRED
    assert set(cited) <= KEYS
    assert (cited["cff-version"], cited["version"]) == ("1.2.0", tubelet.__version__)
    assert cited["license"] == PROJECT["license"]
    assert cited["type"] == "software"
    for one in cited["references"]:
        assert set(one) <= OF_A_REFERENCE
        assert {"type", "title", "authors"} <= set(one)
        assert one["type"] in ("article", "conference-paper")
        assert ("conference" in one) == (one["type"] == "conference-paper")
        assert all(set(who) == {"family-names", "given-names"} for who in one["authors"])
        (identifier,) = one["identifiers"]
        assert identifier["type"] == "other"
        assert one["url"] == f"https://arxiv.org/abs/{identifier['value'].removeprefix('arXiv:')}"
        assert 2021 <= one["year"] <= 2026
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| \[(\w+) \d{4}\]\(https://arxiv.org/abs/([\d.]+)\)", readme, re.MULTILINE)
    papers = [(one["authors"][0]["family-names"], one["url"].rpartition("/")[2]) for one in cited["references"]]
    assert papers == rows
