"""The page in a real browser: quiet, by itself, and alive while a run trains."""

import json
from pathlib import Path

import pytest
import torch
from test_report import line

from tubelet.report import write_report
from tubelet.strips import Strip, save_png

STEPS = 40


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run of 40 steps, of which 10 are done."""
    folder = tmp_path / "run <1>"
    folder.mkdir()
    training = {"class": "T", "epochs": 4, "batch": 16}
    card = {
        "run": {"training": training},
        "data": "videos",
        "command": ["tubelet", "pretrain", "x", "--data", "videos"],
    }
    (folder / "run.json").write_text(json.dumps(card))
    film = [Strip({"original": torch.zeros(3, 4, 32, 32, dtype=torch.uint8)})]
    save_png(folder / "pictures" / "imagined.png", film, "a picture")
    done(folder, 10)
    return folder


def done(folder: Path, steps: int) -> None:
    (folder / "metrics.jsonl").write_text("".join(line(step, 1 / step) for step in range(1, steps + 1)))


@pytest.fixture
def page(browser):
    """A window that collects what is said in the console and what is asked for."""
    window = browser.new_page(viewport={"width": 1200, "height": 700})
    window.said, window.asked = [], []
    window.on("console", lambda message: window.said.append(message.text))
    window.on("pageerror", lambda error: window.said.append(str(error)))
    window.on("request", lambda request: window.asked.append(request.url))
    yield window
    window.close()


def test_a_page_under_way_follows_the_run_and_stays_where_one_reads(run, page):
    path = write_report(run, again=2)  # looked for every second
    page.goto(path.as_uri())
    assert "Training: step 10 of 40, about 15 s left." in page.inner_text("#status")
    assert "not complete" not in page.inner_text("main")
    page.click("summary")  # every setting
    page.evaluate("scrollTo(0, 400)")
    done(run, 20)
    write_report(run, again=2)
    page.wait_for_function("document.getElementById('status').textContent.includes('step 20 of 40')")
    page.wait_for_function("scrollY == 400")
    assert page.evaluate("document.querySelector('details').open")
    done(run, STEPS)
    write_report(run, again=2)  # there is nothing left to wait for
    page.wait_for_function("!document.getElementById('status')")
    page.wait_for_function("scrollY > 300")  # what was in sight still is: the line above it is gone
    assert "1 → 0.025" in page.inner_text("main")
    assert page.evaluate("document.scripts.length") == 0
    assert page.said == []
    assert {*page.asked} - {url for url in page.asked if url.startswith("data:")} == {path.as_uri()}


def test_a_page_that_nobody_writes_any_more_says_so(run, page):
    page.clock.install()
    page.goto(write_report(run, again=30).as_uri())
    assert "Nothing new" not in page.inner_text("#status")
    page.clock.run_for(100_000)  # 60 seconds and twice what was promised are 120
    assert "Nothing new" not in page.inner_text("#status")
    page.clock.run_for(40_000)
    page.wait_for_function("document.getElementById('status').textContent.includes('Nothing new since')")
    assert page.said == []


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(run, page, width):
    numbers = {"top1": {"value": 60.0, "low": 45.0, "high": 75.0}, "mean_class_accuracy": {"value": 1.0}}
    entry = {"kind": "test", "data": "a/very/long/name" * 9, "numbers": numbers, "chance": {"top1": 12.5}}
    (run / "results.json").write_text(json.dumps([entry | {"command": ["tubelet", "test", "--weights", "run" * 40]}]))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(write_report(run).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dot, bar, mark = (page.locator(f".{name}").first.bounding_box() for name in ("dot", "whisker", "guess"))
    at = dot["x"] + dot["width"] / 2
    assert bar["x"] < at < bar["x"] + bar["width"]
    assert at == pytest.approx(bar["x"] + bar["width"] / 2, abs=1)  # 60 of 45 to 75
    assert mark["x"] < bar["x"]
    assert page.said == []
