"""What pages draw, without a browser: the same clips, masks and numbers as everywhere else."""

import base64
import json
import re
from dataclasses import replace
from html import unescape
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from tubelet.data.items import Item
from tubelet.data.synthetic import moving_square
from tubelet.data.writing import write
from tubelet.masks.named import KINDS
from tubelet.nn.patches import CURTAIN
from tubelet.page import PAGE
from tubelet.pictures import reconstruct_run
from tubelet.strips import Strip
from tubelet.web import reconstruction
from tubelet.web import runs as runs_page
from tubelet.web.looks import colours, css, film, readable, strips
from tubelet.web.masks import Choice, shown

SMALL = Choice(frames=8, stride=1, size=64)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A square that goes four pixels to the right per frame."""
    path = tmp_path_factory.mktemp("square") / "square.mp4"
    drawn, _ = moving_square((0, 4), 8, 64, np.random.default_rng(0), side=24)
    write(path, drawn, 12, options={"crf": "4", "bf": "0", "refs": "1", "threads": "1"})
    return path


def frames_of(content: bytes) -> np.ndarray:
    with Image.open(BytesIO(content)) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def images_in(page: str) -> list[tuple[str, bytes]]:
    """Name and content of every picture of a page."""
    found = re.findall(r'<img[^>]*?src="data:image/\w+;base64,([^"]+)"[^>]*? alt="([^"]*)"', page)
    return [(unescape(name), base64.b64decode(content)) for content, name in found]


# ---------------------------------------------------------------------------- looks


def test_films_are_exact_to_the_pixel_and_play_for_ever():
    clip = torch.randint(0, 256, (3, 5, 24, 40), dtype=torch.uint8)
    content = film(clip)
    np.testing.assert_array_equal(frames_of(content), clip.permute(1, 2, 3, 0).numpy())
    with Image.open(BytesIO(content)) as image:
        assert image.info["loop"] == 0


def test_pages_have_the_colours_of_reports():
    light, dark = colours()
    assert light["paper"] in PAGE.template
    assert light.keys() == dark.keys()
    assert light["paper"] != dark["paper"]
    assert light["ink"] in css()
    assert dark["ink"] in css()


def test_what_is_drawn_is_escaped():
    clip = torch.zeros(3, 2, 16, 16, dtype=torch.uint8)
    text = strips([Strip({"<b>row": clip}, "<script>heading")], "<i>caption")
    assert not re.search(r"<(b|script|i)>", text)
    assert "&lt;script&gt;heading" in text


def test_errors_become_a_line_without_a_trace(capsys):
    def fail(error):
        raise error

    assert "no &lt;video&gt;" in readable(fail)(ValueError("no <video>"))
    assert capsys.readouterr().err == ""
    page = readable(fail)(KeyError("secret"))  # a defect: the terminal has the trace, the page not
    assert "KeyError" in page
    assert "secret" not in page
    assert "Traceback" in capsys.readouterr().err


# ---------------------------------------------------------------------------- masks


@pytest.mark.parametrize(("kind", "share"), [("tube", 0.75), ("random", 0.75), ("frame", 0.75)])
def test_as_many_pixels_are_grey_as_the_ratio_says(kind, share, video):
    [strip], _, _ = shown(Item(video), "square", replace(SMALL, kinds=(kind,), ratio=share))
    original, hidden = strip.rows.values()
    changed = (original != hidden).any(0).float().mean().item()
    assert changed == pytest.approx(share, abs=0.01)  # a grey pixel may have been so before
    grey = hidden[:, (original != hidden).any(0)].unique()
    assert len(grey) <= 2  # and its rim
    assert min((int(value) - CURTAIN for value in grey), key=abs) == 0


def test_every_kind_can_be_shown_at_once_and_motion_below(video):
    drawn, caption, legend = shown(Item(video), "square", replace(SMALL, kinds=KINDS, ratio=0.5, motion=True))
    masks, motion = drawn
    assert len(masks.rows) == len(KINDS) + 1
    assert [*motion.rows][:2] == ["vectors", "colours"]
    assert "Motion from vectors" in caption
    assert legend is not None
    right = motion.rows["colours"][:, 4].permute(1, 2, 0).reshape(-1, 3)
    assert ((right[:, 0] > 200) & (right[:, 1] < 90) & (right[:, 2] < 90)).any()  # red: to the right


def test_the_ratios_of_the_papers_are_said(video):
    _, caption, _ = shown(Item(video), "", replace(SMALL, kinds=("tube", "frame", "mgm", "mgmae")))
    assert caption.endswith("Their papers hide: tube 0.9, frame 0.875, mgm 0.75, mgmae 0.9.")


def test_another_seed_is_another_mask_and_the_same_seed_the_same(video):
    rows = [shown(Item(video), "", replace(SMALL, seed=seed))[0][0].rows for seed in (0, 0, 1)]
    masks = [list(row.values())[1] for row in rows]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ()}, "at least one kind"),
        ({"kinds": ("cube",)}, "no mask 'cube'; there are tube"),
        ({"ratio": 0.99}, "ratio 0.99: expected 0.05 to 0.95"),
        ({"ratio": float("nan")}, "ratio nan"),
        ({"frames": 10**6}, "frames 1000000: expected one of"),
        ({"size": 10**5}, "size 100000: expected one of"),
        ({"guide": "magic"}, "expected vectors or flow"),
        ({"seed": -1}, "seed -1: expected 0 to 2147483647"),
    ],
)
def test_choices_that_no_page_offers_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(SMALL, **change)


def test_sizes_that_do_not_go_together_are_said(video):
    with pytest.raises(ValueError, match="height 112 does not divide into cubes of 32; use 96 or 128"):
        shown(Item(video), "", replace(SMALL, size=112, cube=32))


# ---------------------------------------------------------------------------- runs


def test_reconstructions_are_those_of_the_command(runs, clips, tmp_path):
    video = clips / "left" / "left_0001.mp4"
    [strip], caption = reconstruction.shown(runs / "low", Item(video), video.name, 0.75)
    reconstruct_run(runs / "low", [video], [0.75], tmp_path)
    with Image.open(tmp_path / "reconstruction_75.png") as image:
        assert caption == image.info["Description"]
    assert re.fullmatch(r"left_0001.mp4 · 75 % hidden · imagined [\d.]+ dB · without a model [\d.]+ dB", strip.heading)
    assert [*strip.rows] == ["original", "hidden", "imagined"]


def test_a_run_is_opened_once_until_it_is_saved_anew(runs):
    first = reconstruction.opened(runs / "low", reconstruction.at(runs / "low"))
    assert reconstruction.opened(runs / "low", reconstruction.at(runs / "low")) is first
    assert not first[0].training


def test_what_a_broken_run_says(runs, clips):
    with pytest.raises((ValueError, OSError), match=r"last\.pt"):
        reconstruction.shown(runs / "broken", Item(clips / "left" / "left_0001.mp4"), "")
    with pytest.raises(ValueError, match="ratio 2"):
        reconstruction.shown(runs / "low", Item(clips / "left" / "left_0001.mp4"), "", 2)


def test_settings_tell_what_differs_first(made):
    first, every = runs_page.settings(made).split("<details>")
    assert re.findall(r"<tr><th>([^<]+)</th><td>([^<]+)</td><td>([^<]+)</td></tr>", first) == [
        ("method.mask.ratio", "0.9", "0.5"),
        *re.findall(r"<tr><th>(made with: date)</th><td>([^<]+)</td><td>([^<]+)</td></tr>", first),
    ]
    assert "<th>encoder.depth</th>" in every


def test_a_number_that_is_written_otherwise_is_no_difference(made, tmp_path):
    card = json.loads((made["low"] / "run.json").read_text())
    card["run"]["optim"]["warmup"] = float(card["run"]["optim"]["warmup"])
    (tmp_path / "run.json").write_text(json.dumps(card).replace('"epochs": 2,', '"epochs": 2.0,'))
    assert "nothing but what came of it" in runs_page.settings({"low": made["low"], "again": tmp_path})


def test_curves_of_several_runs_are_in_one_picture(made):
    page = runs_page.curves(made)
    assert page.count("<svg") == 1
    assert all(f">{name}</text>" in page for name in made)
    assert page.count("An encoder watched 16 clips") == 2


def test_a_run_that_goes_on_is_seen(made, tmp_path):
    going = tmp_path / "going"
    going.mkdir()
    (going / "run.json").write_bytes((made["low"] / "run.json").read_bytes())
    lines = (made["low"] / "metrics.jsonl").read_text().splitlines(keepends=True)
    stamps = []
    for count in (0, 1, 2):
        (going / "metrics.jsonl").write_text("".join(lines[:count]))
        stamps.append(runs_page.stamp({"going": going}))
        assert ("<svg" in runs_page.curves({"going": going})) == (count > 0)
    assert len({*stamps}) == 3


@pytest.mark.parametrize("text", ["no json", '{"a": 1}', "[]", ""])
def test_of_a_run_whose_card_is_broken_nothing_is_made_up(text, made, tmp_path):
    (tmp_path / "run.json").write_text(text)
    runs = {"low": made["low"], "odd": tmp_path}
    page = runs_page.curves(runs)
    assert page.count("An encoder") == 1
    assert page.count("its run.json cannot be read") == 1
    assert "<th></th><td>None" not in runs_page.settings(runs)


def test_pictures_of_runs_are_shown_but_no_links_out_of_them(runs_with_pictures, made):
    page = runs_page.pictures(runs_with_pictures)
    assert [name for name, _ in images_in(page)] == ["a red picture"]
    assert "no pictures yet" in runs_page.pictures({"low": made["low"]})


@pytest.fixture
def made(request):
    folder = request.getfixturevalue("runs")
    return {name: folder / name for name in ("high", "low")}


@pytest.fixture
def runs_with_pictures(tmp_path):
    folder = tmp_path / "one" / "pictures"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "a.gif", comment=b"a red picture")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "private.gif", comment=b"a private picture")
    (folder / "b.gif").symlink_to(tmp_path / "private.gif")
    return {"one": tmp_path / "one"}
