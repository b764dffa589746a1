"""The pages of attention, similar clips and checks in a real browser."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from seeing import see

from tubelet.attention_pictures import QUERY, heated
from tubelet.evaluate.attention import attention, token_at
from tubelet.evaluate.features import middle_clips
from tubelet.strips import enlarge, rgb
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.web.attention import GAP

CLIP = "video=clips%2Fleft%2Fleft_0001.mp4"
SIDE = 224  # pixels of a frame of 32 on a sheet


def decoded(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def frame(pixels: np.ndarray, number: int) -> np.ndarray:
    """One of the eight frames of a sheet."""
    row, column = divmod(number, 4)
    top, left = row * (SIDE + GAP), column * (SIDE + GAP)
    return pixels[top : top + SIDE, left : left + SIDE]


def clickable(page, served) -> np.ndarray:
    """The picture that can be clicked, as the browser has it."""
    return decoded(page.request.get(page.locator("#frames img").get_attribute("src")).body())


def maps(page) -> dict[str, np.ndarray]:
    """The maps of a page by name."""
    found = {}
    for figure in page.locator("#drawn figure").all():
        data = figure.locator("img").get_attribute("src").partition(",")[2]
        found[figure.locator("figcaption").inner_text()] = decoded(base64.b64decode(data))
    return found


def click(page, number: int, row: int, column: int) -> None:
    """A click into the middle of a cube of 8 x 8 of 32 pixels, in one of eight frames."""
    image = page.locator("#frames img")
    image.wait_for()
    box = image.bounding_box()
    zoom = box["width"] / (4 * SIDE + 3 * GAP)
    line, place = divmod(number, 4)
    x = (place * (SIDE + GAP) + (column + 0.5) * SIDE / 4) * zoom
    y = (line * (SIDE + GAP) + (row + 0.5) * SIDE / 4) * zoom
    image.click(position={"x": x, "y": y})


# ---------------------------------------------------------------------------- attention


def test_a_click_asks_the_cube_that_is_there_and_the_map_has_its_numbers(page, served):
    page.goto(f"{served.url}/attention?{CLIP}&run=low")
    see(page, "(slot 2, row 2, column 2) takes from every cube of the clip in block 3")  # the middle
    page.locator("#frames img").wait_for()
    before, source = maps(page), page.locator("#frames img").get_attribute("src")
    click(page, 7, 0, 1)
    see(page, "(slot 3, row 0, column 1)")
    page.wait_for_function("old => document.querySelector('#frames img').src !== old", arg=source)
    assert {"slot=3", "row=0", "column=1"} <= {*page.url.partition("?")[2].split("&")}
    page.get_by_text("Cube that looks, block, seed").click()
    assert page.locator("#column input").input_value() == "1"

    shown = clickable(page, served)  # framed in the two frames of its slot, where it was clicked
    for number in range(8):
        near = np.abs(frame(shown, number) - QUERY).sum(-1) < 90
        assert near.any() == (number in (6, 7))
        if near.any():
            ys, xs = np.nonzero(near)
            assert abs(ys.min() - 0) <= 2
            assert abs(xs.min() - SIDE // 4) <= 3
            assert abs(ys.max() - SIDE // 4) <= 3
            assert abs(xs.max() - SIDE // 2) <= 3

    encoder, run = load_encoder(served.runs / "low")
    clip = middle_clips([served.clips / "left" / "left_0001.mp4"], run.data)
    weights = attention(encoder, inputs(clip, encoder.grid.patch), token_at(encoder.grid, (3, 0, 1))).mean(1)[0]
    expected = heated(enlarge(rgb(clip[0]), SIDE), weights, encoder.grid, SIDE // 32).astype(int)
    [(name, map)] = maps(page).items()
    assert re.fullmatch(r"mean · \d\.\d+x", name)
    inside = slice(8, SIDE // 4 - 8)  # of cubes, where no rim is
    for number in range(8):
        errors = np.abs(frame(map, number) - expected[number]).reshape(4, SIDE // 4, 4, SIDE // 4, 3)
        assert errors[:, inside, :, inside].mean() < 6  # WebP
    assert np.abs(map - next(iter(before.values()))).mean() > 2


def test_heads_rollout_block_and_random_weights_stand_in_the_address(page, served):
    page.goto(f"{served.url}/attention?{CLIP}&run=low&slot=1&row=1&column=1")
    see(page, "(slot 1, row 1, column 1)")
    page.locator("#maps").get_by_label("each head").check()
    page.locator("#drawn figcaption", has_text="head 3").wait_for()
    page.locator("#maps").get_by_label("rollout").check()
    see(page, "rollout: through all blocks")
    page.locator("#maps").get_by_label("mean of the heads").uncheck()
    page.wait_for_function("document.querySelectorAll('#drawn figure').length === 5")
    page.locator("#random").get_by_label("Beside random weights").check()
    page.locator("#drawn figcaption", has_text="head 0, random").wait_for()
    page.get_by_text("Cube that looks, block, seed").click()
    page.locator("#block input").fill("1")
    page.locator("#block input").press("Tab")
    see(page, "of the clip in block 1")
    names = [f"{name}, {whose}" for name in ("head 0", "head 1", "head 2", "head 3", "rollout") for whose in OF]
    assert [name.rpartition(" · ")[0] for name in maps(page)] == names
    found, address = maps(page), page.url
    page.goto("about:blank")
    page.goto(address)
    see(page, "of the clip in block 1")
    again = maps(page)
    assert again.keys() == found.keys()
    assert all(np.array_equal(again[name], found[name]) for name in found)
    assert len({map.tobytes() for map in found.values()}) == len(found)


OF = ("trained", "random")


def test_runs_without_an_encoder_and_cubes_that_are_not_there_are_said(page, served):
    page.goto(f"{served.url}/attention?{CLIP}&run=broken")
    problem = page.locator("#drawn .problem")
    problem.wait_for()
    assert "last.pt" in problem.inner_text()
    assert page.locator("#frames img").count() == 0
    page.goto(f"{served.url}/attention?{CLIP}&run=low&slot=9&row=0&column=0")
    see(page, "there is no slot 9; clips have 4 slots of 4 rows and 4 columns of cubes")
    click(page, 0, 3, 3)  # which mends it
    see(page, "(slot 0, row 3, column 3)")
    assert page.locator("#drawn").get_by_text("there is no slot 9").count() == 0


# ---------------------------------------------------------------------------- similar clips


def test_clips_that_are_alike_are_those_of_numpy(page, served):
    page.goto(f"{served.url}/similar")
    see(page, "Most like it")
    names = page.locator("#drawn figcaption").all_inner_texts()
    values = np.load(served.features).astype(float)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    lines = [line.split(",") for line in served.features.with_suffix(".csv").read_text().splitlines()[1:]]
    apart = [row for row, line in enumerate(lines) if line[0] != lines[0][0] or float(line[2]) >= float(lines[0][3])]
    best = sorted((values[apart] @ values[0]).tolist(), reverse=True)[:6]
    assert [name.split(" · ")[0] for name in names[1:]] == [f"{n}. cosine {x:.4f}" for n, x in enumerate(best, 1)]
    assert names[0].startswith("clips/")

    page.locator("#top input[type=number]").fill("24")
    page.locator("#top input[type=number]").press("Tab")
    see(page, "lie outside of what --videos names")
    hidden = page.locator("#drawn figure", has_text="not in the chosen folders")
    for figure in hidden.all():
        picture = decoded(base64.b64decode(figure.locator("img").get_attribute("src").partition(",")[2]))
        assert np.unique(picture).tolist() == [128]
    assert hidden.count() >= 4
    assert str(served.clips.parent) not in page.content()


def test_a_clip_is_chosen_or_a_video_and_stands_in_the_address(page, served):
    page.goto(f"{served.url}/similar?top=3")
    see(page, "Most like it")
    page.locator("#clip input").click()
    page.get_by_role("option", name="clips/up/up_0001.mp4").first.click()
    page.locator("#drawn figcaption", has_text=re.compile(r"^clips/up/up_0001")).first.wait_for()
    assert "clip=clips%2Fup%2Fup_0001.mp4" in page.url
    page.locator("#of").get_by_label("a video").check()
    page.locator("#video input").click()
    page.get_by_role("option", name="made: a square").click()
    see(page, "made: a square (of which the middle clip is embedded)")
    assert page.locator("#drawn figure").count() == 4
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    see(page, "made: a square (of which the middle clip is embedded)")
    assert page.locator("#video input").input_value() == "made: a square"
    assert not page.locator("#clip").is_visible()


# ---------------------------------------------------------------------------- checks


def test_a_check_names_what_is_broken_and_obeys_no_name(page, served):
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto(f"{served.url}/check?source=doubtful")
    report = page.frame_locator("iframe.report")
    report.get_by_text("<img src=x onerror=alert(1)>.mp4").first.wait_for()
    text = report.locator("body").inner_text()
    assert "3 videos" in text
    assert "1 unreadable, 1 duplicate" in text
    assert report.locator("img[src=x]").count() == 0
    sheet = report.locator(".sheet").last  # sorted by name where its head is clicked
    sheet.locator("th").first.click()
    rows = sheet.locator("tbody tr td:first-child").all_inner_texts()
    assert rows == sorted(rows)
    assert page.locator("iframe.report").get_attribute("sandbox") == "allow-scripts"
    inner = report.locator("html").evaluate("html => html.offsetHeight")
    page.wait_for_function("high => document.querySelector('iframe.report').offsetHeight === high", arg=inner)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert asked == []
    # By key: Chromium may take a click right after a scroll for one in the frame, where that was before.
    page.locator("#level").get_by_label("headers").press("Space")
    report.get_by_text("headers read").first.wait_for()
    assert "level=open" in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [f"attention?{CLIP}&run=low&maps=mean&maps=each", "similar"])
def test_on_a_phone_these_pages_need_no_sideways_scroll_either(path, scheme, page, served):
    page.set_viewport_size({"width": 375, "height": 700})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{served.url}/{path}")
    page.locator("#drawn .shown").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.locator("#drawn").bounding_box()["width"] > 300
    if path.startswith("attention"):
        click(page, 5, 1, 2)
        see(page, "(slot 2, row 1, column 2)")
