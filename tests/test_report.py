"""The report: one well-formed page that needs no network, says what is missing, and believes no file name."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from tubelet.charts import curves, drawing
from tubelet.report import lead, what_next, write_report
from tubelet.report_facts import ends, finished
from tubelet.report_results import verdict
from tubelet.strips import Strip, save_gif, save_png
from tubelet.train.log import metrics

VOID = {"meta", "link", "img", "br", "path", "use", "rect"}
NAME = "<b>&\"'$x</b>.mp4"


class Page(HTMLParser):
    """Checks that tags close in order; collects what is loaded, the words, and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.loads, self.words, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for key, value in attributes if key in ("src", "href", "srcset", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "text"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def line(step: int, loss: float) -> str:
    values = {"loss": loss, "lr": 1e-4, "gradient_norm": 2.0, "clips_per_second": 32.0, "data_wait": 0.25}
    return json.dumps({"step": step, "epoch": step / 10, "seconds": 0.5} | values) + "\n"


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run, with names that want to be HTML everywhere."""
    folder = tmp_path / "a <i>run"
    (folder / "pictures").mkdir(parents=True)
    method = {"class": "tubelet.methods.masked:Masked", "mask": {"class": "tubelet.masks:Tube", "ratio": 0.9}}
    data = {"class": "D", "clip": {"class": "S", "frames": 16, "stride": 2}, "size": [64, 64]}
    settings = {"method": method, "data": data, "training": {"class": "T", "epochs": 4, "batch": 16}}
    made = {"tubelet": "0.1.0", "torch": "2", "processor": NAME, "cores": 2, "gpu": None, "date": "2025-01-01T00:00:00"}
    card = {
        "run": settings,
        "data": f"/videos/{NAME}",
        "command": ["/bin/tubelet", "pretrain", NAME],
        "made_with": made,
    }
    (folder / "run.json").write_text(json.dumps(card))
    (folder / "metrics.jsonl").write_text("".join(line(step, 1 / step) for step in range(1, 41)))
    (folder / "notes.txt").write_text(f"step 3: {NAME} has 9 frames\n")
    result = {"name": NAME, "trained": 60, "untrained": 40.0, "one_frame": None, "chance": 25, "unit": "%"}
    (folder / "results.json").write_text(json.dumps([result | {"explanation": NAME}]))
    film = [Strip({"original": torch.arange(4, dtype=torch.uint8).mul(60).view(1, 4, 1, 1).expand(3, 4, 32, 32)})]
    for name in ("imagined_90", "imagined_75", "mask<b>"):
        save_png(folder / "pictures" / f"{name}.png", film, f"strip of {NAME}")
    for name in ("imagined_90", "imagined_75"):
        save_gif(folder / "pictures" / f"{name}.gif", film, f"film of {NAME}")
    (folder / "pictures" / "broken.png").write_bytes(b"not a picture")
    return folder


def test_a_step_that_was_left_out_does_not_hide_the_rest():
    """By hand: of 100 steps the last 2 % are two, of which one was no number; and so was the first of all."""
    lines = [{"loss": loss} for loss in (math.nan, 0.8, *[0.5] * 96, 0.25, math.nan)]
    assert ends(lines) == (0.8, 0.25)
    assert ends([{"loss": 3.0, "loss_pictures": 3.0}]) == (3.0, 3.0)  # before the first step that shows videos
    first, last = ends([{"loss": math.nan}] * 3)
    assert math.isnan(first)
    assert math.isnan(last)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/bin/tubelet", "pretrain", "a"], "tubelet pretrain a --resume"),
        (["/x/tubelet/__main__.py", "pretrain", "a"], "tubelet pretrain a --resume"),
        (["/my/train.py", "--epochs", "3"], "tubelet.pretrain(run, '/videos/a', 'runs/b', resume=True)"),
    ],
)
def test_how_to_go_on_is_a_command_that_there_is(argv, said):
    card = {"command": argv, "data": "/videos/a", "run": {"training": {"epochs": 4}}}
    steps = what_next(Path("runs/b"), card, [{"step": 1, "epoch": 1.0}])
    assert steps[0] == ("Go on where it stopped", said)


def test_a_full_report_is_well_formed_self_contained_and_escaped(run):
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == run / "report.html"
    assert "http" not in text
    assert all(value.startswith(("data:", "#")) for value in page.loads)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == 5
    assert "<b>&" not in text
    assert "broken.png cannot be read as a picture" in page.text
    for words in (NAME, "a <i>run", "40", "640", "25 %", "tubelet pretrain", "Tube, ratio 0.9", "method.mask.ratio"):
        assert words in page.text
    assert text.index("film of") < text.index("strip of")
    assert "not complete" not in text
    assert "Better than the untrained encoder by 20 points, guessing by 35 points." in page.text
    assert "Not everything that it should be compared with was measured." in page.text


def test_a_run_under_way_says_what_is_missing(run):
    for name in ("results.json", "notes.txt"):
        (run / name).unlink()
    (run / "metrics.jsonl").write_text(line(1, 1.0) + line(2, 1.0) + '{"step": 3, "lo')
    (run / "run.json").write_text((run / "run.json").read_text().replace(NAME.replace('"', '\\"'), "preset"))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    for words in ("did not fall", "not complete", "5 % is done", "Nothing was read out", "--resume"):
        assert words in page.text


def test_of_a_loss_that_need_not_fall_no_fall_is_expected():
    """Contrast: what a clip is told from changes as the encoder does."""
    lines = [{"step": step, "loss": 2.0 + step, "seconds": 1.0, "clips_per_second": 8.0} for step in range(4)]
    told = lead({"run": {"method": {"class": "tubelet.methods.moco_v3:Contrastive"}}, "steps": 4}, lines)
    assert "which need not fall" in told
    assert "which of them are of one video" in told
    assert "did not fall" not in told


def test_the_loss_of_a_run_with_pictures_is_that_of_videos(run):
    kinds = ["loss_videos", "loss_pictures"]
    lines = [json.loads(line(step, 1 / step if step % 2 else 9.0)) for step in range(1, 5)]
    text = "".join(json.dumps(one | {kinds[number % 2]: one["loss"]}) + "\n" for number, one in enumerate(lines))
    (run / "metrics.jsonl").write_text(text)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "1 → 0.333 loss of videos" in page.text
    assert "its error fell" in page.text


def test_what_was_learnt_on_is_told(run, tmp_path):
    card = json.loads((run / "run.json").read_text())
    assert f"/videos/{NAME} · file or folder · no labels" in Page(write_report(run).read_text(encoding="utf-8")).text
    card["run"]["data"] |= {"clips": 2, "repeats": 1, "labels": {"names": ["run", "fall"]}}
    card |= {"data": str(tmp_path / "some.csv"), "fingerprint": {"videos": 1200, "places": 1300}}
    (run / "run.json").write_text(json.dumps(card))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "some.csv · list · 1 200 videos, 2 600 clips an epoch · 2 labels: run, fall" in text


def test_warnings_come_first_with_what_to_do(run):
    (run / "metrics.jsonl").write_text(line(1, 1.0) + line(2, 1.0))
    (run / "notes.txt").write_text("step 2: stopped: SIGINT; <saved>\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert text.index("<h2>Warnings") < text.index("<h2>What it imagines")
    assert "It was stopped: SIGINT; &lt;saved&gt;." in text
    assert "<code><span>--resume</span></code>" in text


def test_losses_that_are_no_numbers_leave_a_gap_in_the_curve(run):
    """The running mean over 2 % of the steps was not a number from there on."""
    values = [float("nan") if step == 50 else 1 / step for step in range(1, 201)]
    (run / "metrics.jsonl").write_text("".join(line(step, value) for step, value in enumerate(values, 1)))
    figure_of = drawing({"": metrics(run)})
    assert "nan" not in figure_of.lower()
    (run / "metrics.jsonl").write_text(line(1, float("nan")))
    assert "loss" in drawing({"": metrics(run)})


def test_several_runs_are_in_one_picture(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text("".join(line(step, 2 / step) for step in range(1, 11)))
    png, svg = curves([run, other], tmp_path / "both.png")
    text = svg.read_text(encoding="utf-8")
    assert {"a &lt;i&gt;run", "other"} <= set(re.findall(r">([^<>]+)</text>", text))
    colours = set(re.findall(r"stroke: (#[0-9a-f]{6})", text))
    assert {"#3b82c4", "#e08a3c"} <= colours
    with Image.open(png) as image:
        assert image.width == 1600
    alone, _ = curves(run, tmp_path / "alone.png")
    assert curves([run], tmp_path / "list.png")[0].read_bytes() == alone.read_bytes()
    with pytest.raises(FileNotFoundError, match="none has no metrics"):
        curves([run, tmp_path / "none"], tmp_path / "both.png")


def test_an_empty_folder_still_has_a_report(tmp_path):
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    for words in ("No step is done yet", "No pictures yet", "No run.json", "tubelet pretrain videomae-small-cpu"):
        assert words in page.text
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize(
    ("values", "lower", "said"),
    [
        (
            {"trained": 60, "untrained": 40, "one_frame": 30, "chance": 12},
            False,
            "a single frame by 30 points, guessing",
        ),
        ({"trained": 40, "untrained": 41, "one_frame": 30, "chance": 12}, False, "Training did not help here"),
        ({"trained": 40, "untrained": 40, "one_frame": 30, "chance": 12}, False, "Training did not help here"),
        ({"trained": 60, "untrained": 40, "one_frame": 61, "chance": 12}, False, "no evidence"),
        ({"trained": 11, "untrained": 9, "one_frame": 9, "chance": 12}, False, "No better than guessing"),
        ({"trained": 60, "untrained": 59, "one_frame": 30, "chance": 12}, False, "The smallest lead is slight"),
        ({"trained": 20, "untrained": 40, "one_frame": 50, "chance": 90}, True, "the untrained encoder by 20 points"),
        ({"trained": 60, "untrained": 40}, True, "Training did not help here"),
        ({"trained": 60}, False, "nothing to compare"),
        ({"untrained": 60}, False, "no number for the trained encoder"),
    ],
)
def test_the_verdict_follows_the_numbers(values, lower, said):
    assert said in verdict(values, 100, "%", lower)


@pytest.mark.parametrize(("videos", "batch", "epochs"), [(10, 4, 3), (192, 16, 84), (7, 7, 1), (100, 33, 2.5)])
def test_finished_at_the_last_step_only(videos, batch, epochs):
    card = {"run": {"training": {"epochs": epochs}}}
    steps = int(epochs * videos / batch)
    done = [finished(card, [{"step": s, "epoch": s * batch / videos}]) for s in range(1, steps + 1)]
    assert done == [False] * (steps - 1) + [True]
