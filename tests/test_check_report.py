"""What a check found, as people read it: a table in a terminal, a page without a network."""

import re
import shutil
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from tubelet.check_report import render, write_page
from tubelet.cli import run
from tubelet.data.check import check
from tubelet.data.findings import Report, Row
from tubelet.data.sampling import Dense
from tubelet.data.sources import find
from tubelet.data.synthetic import make

EVIL = "<script>alert(1)<&$title.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos, one of them twice with a name that is a script, and one that is none."""
    folder = tmp_path_factory.mktemp("page") / "videos"
    make(folder, 4, workers=0)
    shutil.copy(next(iter(sorted(folder.rglob("*.mp4")))), folder / EVIL)
    (folder / "bad.mp4").write_text("no video")
    return folder


class Read(HTMLParser):
    """Tags and their order, attributes, and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.cells: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")
        if tag not in ("meta", "link", "img", "br", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1][-1] += data


def test_the_page_needs_no_network_and_runs_no_names(folder, tmp_path):
    report = check(find(folder), sampler=Dense(4, stride=2), near=True, workers=0)
    page = write_page(report, f"{folder}", tmp_path / "page.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    read = Read(page)
    assert [tag for tag, _ in read.tags].count("script") == 1  # that which sorts
    for tag, about in read.tags:
        for name in ("src", "href", "action"):
            assert (about.get(name) or "data:").startswith(("data:", "#")), (tag, about)
        assert not [name for name in about if name.startswith("on")]
    assert "url(http" not in page
    assert sum(tag == "img" for tag, _ in read.tags) == 2  # the copy and what it is a copy of
    assert "svg" in {tag for tag, _ in read.tags}
    rows = [cells for cells in read.cells if len(cells) == 15]
    assert [bool(cells[1]) for cells in rows] == [True, True, False, False, False, False]  # problems first
    assert {cells[0] for cells in rows} == {row.path for row in report.rows}
    assert {cells[1] for cells in rows} == {"", "duplicate", "unreadable"}
    assert next(cells[2] for cells in read.cells if len(cells) == 3 and "bad.mp4" in cells[1]).startswith(
        "does not open"
    )


def test_pages_of_nothing_and_of_very_much(tmp_path):
    empty = write_page(Report("open", (), ()), "x", tmp_path / "empty.html").read_text()
    assert "0 videos" in empty
    Read(empty)
    many = tuple(Row(f"{n}.mp4", f"class {n % 90}", codec="h264", width=8, height=8, fps=25) for n in range(5100))
    page = write_page(Report("open", many, ()), "x", tmp_path / "many.html").read_text()
    assert "100 more are in --json" in page
    assert "90 classes; the 30 largest" in page
    Read(page)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_terminals_of_any_width_show_whole_names(folder, width):
    report = check(find(folder), sampler=Dense(4, stride=2), workers=0)
    text = StringIO()
    Console(file=text, width=width, highlight=False).print(render(report))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "bad.mp4" in re.sub(r"\s", "", text.getvalue())
    assert lines[-1] == "problems: 2 (1 duplicate, 1 unreadable)" or lines[-1].startswith("problems: 2 (")
    good = StringIO()
    Console(file=good, width=width).print(render(Report("open", (Row("a.mp4", codec="h264"),), ())))
    assert good.getvalue().splitlines()[-1].strip() == "no problems"


def test_the_verb_writes_page_and_list_and_refuses_before_it_looks(folder, tmp_path, capsys):
    page, clean = tmp_path / "a.html", tmp_path / "clean.csv"
    assert run(["check", str(folder), "--near", "--html", str(page), "--fix", str(clean)]) == 3
    out, err = capsys.readouterr()
    assert "problems    2 (" in out
    assert "clean.csv: 4 of 6 videos" in err
    assert page.exists()
    assert run(["check", str(clean), "--against", str(folder / "bad.mp4")]) == 0
    capsys.readouterr()
    assert run(["check", str(clean), "--against", str(folder)]) == 3
    assert "problems    4 (4 leak)" in capsys.readouterr().out
    assert run(["check", str(folder), "--fix", str(clean)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["check", str(folder), "--timeout", "-1"]) == 2
    assert "expected seconds, or 0" in capsys.readouterr().err
