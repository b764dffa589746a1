"""The pages of docs/ as a site: built without a warning, whole, and asking nobody for anything."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from mkdocs.config import load_config

from tubelet import _HOMES
from tubelet.cli import VERBS
from tubelet.methods import PRESETS

ROOT = Path(__file__).parent.parent


class Read(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        has = {name: value for name, value in attributes if value is not None}
        self.anchors |= {has[name] for name in ("id", "name") if name in has}
        self.loads += [has["src"]] if "src" in has else []
        if "href" in has:
            (self.links if tag == "a" else self.loads).append(has["href"])


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert built.stdout + built.stderr == ""
    return folder


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, Read]:
    return {path: Read(path.read_text()) for path in sorted(site.rglob("*.html"))}


def listed(nav: object) -> set[str]:
    """The files of a navigation."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return set().union(*map(listed, parts))


def test_every_page_is_in_the_navigation():
    nav = listed(load_config(str(ROOT / "mkdocs.yml"))["nav"])
    assert {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} <= nav


def test_nothing_is_asked_of_the_network(site, pages):
    for path, page in pages.items():
        away = [load for load in page.loads if re.match(r"(\w+:)?//", load)]
        assert not away, f"{path.name} loads {away}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path


def test_links_within_the_site_lead_somewhere(site, pages):
    """Of the pages as they are built: so also what hook.py made of links out of docs/."""
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute: it is shown at any depth
            continue
        for link in page.links + page.loads:
            if re.match(r"\w+:", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.relative_to(site)} links to {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{path.relative_to(site)} links to {link}"


def test_it_can_be_searched(site):
    index = json.loads((site / "search/search_index.json").read_text())
    found = {entry["location"] for entry in index["docs"] if "explosion" in entry["text"]}
    assert {"guides/loss.html", "surviving.html"} <= {location.partition("#")[0] for location in found}


def test_the_reference_has_every_verb_preset_and_public_name(site, pages):
    assert set(VERBS) <= pages[site / "reference/commands.html"].anchors
    shown = set(re.findall(r"<code>([\w-]+)</code>", (site / "reference/presets.html").read_text()))
    assert set(PRESETS) <= shown
    told = (site / "reference/commands.html").read_text()
    assert "--training.explosion" in told  # flags, not only names
    python = (site / "reference/python.html").read_text()
    for name, home in _HOMES.items():
        assert home.replace(":", ".") in pages[site / "reference/python.html"].anchors, name
        assert f"tubelet.{name}" in re.sub(r"<[^>]+>", "", python), name


def test_pages_that_lie_outside_of_docs_are_on_it(site):
    assert "Unreleased" in (site / "changelog.html").read_text()
    readme = (site / "readme.html").read_text()
    assert 'href="results.html#methods-at-equal-time"' in readme
    assert "videomae.py" in readme
    assert "src/tubelet/methods/videomae.py" not in re.findall(r'href="([^"]+)"', readme)


def test_docstrings_are_shown_as_they_are_meant(site):
    types = re.sub(r"<[^>]+>", "", (site / "reference/types.html").read_text())
    assert "T*H*W cubes" in types  # no italics
    assert "packets that the decoder had to skip" in types  # the comment behind a field
    assert re.search(r"<code>[^`]*&gt;&gt;&gt;", (site / "reference/evaluate.html").read_text())  # an example is code
