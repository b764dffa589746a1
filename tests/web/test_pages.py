"""The pages in a real browser: what is clicked, what is then seen, and what the browser asks for."""

import base64
import os
import re
import shutil
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageSequence
from seeing import see

from tubelet.data.items import Item
from tubelet.web import reconstruction
from tubelet.web.masks import Choice, shown

WAIT = 60_000  # milliseconds, for a machine that is busy
SMALL = "frames=8&stride=1&size=64"


def films(page) -> dict[str, np.ndarray]:
    """The moving pictures of a page by name, as the browser has them."""
    found = {}
    for figure in page.locator("#drawn .films figure").all():
        data = base64.b64decode(figure.locator("img").get_attribute("src").partition(",")[2])
        with Image.open(BytesIO(data)) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        found[figure.locator("figcaption").inner_text()] = np.stack(frames)
    return found


def pixels(clip) -> np.ndarray:
    return clip.permute(1, 2, 3, 0).numpy()


# ---------------------------------------------------------------------------- masks


def test_a_mask_is_chosen_and_the_picture_is_that_of_pictures_py(page, served):
    page.goto(f"{served.url}/?video=clips%2Fleft%2Fleft_0001.mp4&{SMALL}&ratio=0.75")
    see(page, "tube 75 %")
    path = served.clips / "left" / "left_0001.mp4"
    page.locator("#kinds").get_by_label("random").check()
    see(page, "random 75 %")
    choice = Choice(("tube", "random"), 0.75, frames=8, stride=1, size=64)
    [strip], _, _ = shown(Item(path), "", choice)
    found = films(page)
    assert [*found] == [*strip.rows]
    for name, clip in strip.rows.items():
        np.testing.assert_array_equal(found[name], pixels(clip))
    changed = (found["original"] != found["random 75 %"]).any(-1).mean()
    assert changed == pytest.approx(0.75, abs=0.01)
    assert page.locator("h1").inner_text() == "Masks"


def test_the_ratio_is_seen_live_and_stands_in_the_address(page, served):
    page.goto(f"{served.url}/?video=clips%2Fleft%2Fleft_0001.mp4&{SMALL}")
    see(page, "tube 87.5 %")  # 14 of 16 places
    page.locator("#ratio input[type=number]").fill("0.5")
    page.locator("#ratio input[type=number]").press("Tab")
    see(page, "tube 50 %")
    assert "ratio=0.5" in page.url
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    see(page, "tube 50 %")
    assert page.locator("#ratio input[type=number]").input_value() == "0.5"


def test_motion_is_shown_below(page, served):
    page.goto(f"{served.url}/?video=made%3A+a+square&kinds=mgm&ratio=0.75&frames=8&stride=1")
    see(page, "motion from vectors")
    page.locator("#motion").get_by_label("Show motion").check()
    see(page, "Arrows end on their block")
    assert {"original", "vectors", "colours"} <= films(page).keys()
    assert page.locator("#drawn img.wheel").count() == 1
    page.locator("#guide").get_by_label("optical flow").check()
    see(page, "Motion from flow")
    assert "guide=flow" in page.url
    assert "motion=true" in page.url


def test_many_tabs_at_once_each_show_their_own(page, served):
    ratios = ("0.25", "0.5", "0.75")  # one more than are worked on at once
    tabs = [page, *(page.context.new_page() for _ in ratios[1:])]
    for tab, ratio in zip(tabs, ratios):
        tab.goto(f"{served.url}/?{SMALL}&ratio={ratio}", wait_until="commit")
    for tab, share in zip(tabs, ("tube 25 %", "tube 50 %", "tube 75 %")):
        tab.set_default_timeout(WAIT)
        see(tab, share)
    tabs[1].locator("#kinds").get_by_label("frame").check()
    see(tabs[1], "frame 50 %")
    assert [*films(tabs[0])] == ["original", "tube 25 %"]
    assert "ratio=0.25" in tabs[0].url


def test_nothing_chosen_is_said_in_a_line(page, served):
    page.goto(f"{served.url}/?{SMALL}&kinds=")
    see(page, "choose at least one kind of mask")
    page.locator("#kinds").get_by_label("frame").check()
    see(page, "frame 75 %")


def test_an_address_that_names_what_is_not_here(page, served):
    page.goto(f"{served.url}/?video=/etc/passwd&kinds=cube&{SMALL}")
    see(page, "tube 87.5 %")
    notes = page.locator("#notes").inner_text()
    assert "video '/etc/passwd' of the address is not here" in notes
    assert "kinds 'cube' of the address is not here" in notes


@pytest.mark.parametrize(
    ("path", "drawn", "note"),
    [
        (f"?{SMALL}&seed=-5&ratio=1e308", "tube 87.5 %", "ratio '1e308' of the address: expected 0.05 to 0.95"),
        ("reconstruction?run=low&ratio=nan", "hidden · imagined", "ratio 'nan' of the address"),
        ("similar?top=-3", "Most like it", "top '-3' of the address: expected 1 to 24"),
        (f"?{SMALL}&seed=1{'0' * 40}", "tube 87.5 %", f"seed '1{'0' * 40}' of the address"),
        ("attention?run=low&slot=-1&row=0&column=0", "slot 2, row 0", "slot '-1' of the address"),
        ("attention?run=low&block=0", "there is no block 0", ""),
    ],
)
def test_numbers_of_an_address_that_are_out_of_range_are_said(path, drawn, note, page, served):
    page.goto(f"{served.url}/{path}")
    see(page, drawn)
    page.locator("#notes").get_by_text(note).first.wait_for(state="attached")


# ---------------------------------------------------------------------------- uploads


def test_a_video_is_uploaded_and_chosen(page, served):
    page.goto(f"{served.url}/?{SMALL}")
    see(page, "tube")
    video = served.clips / "up" / "up_0001.mp4"
    page.locator("input[type=file]").set_input_files(video)
    see(page, "uploaded/up_0001")
    assert page.locator("#video input").input_value().startswith("uploaded/up_0001")
    [strip], _, _ = shown(Item(video), "", Choice(frames=8, stride=1, size=64))
    np.testing.assert_array_equal(films(page)["original"], pixels(strip.rows["original"]))
    page.reload()
    see(page, "uploaded/up_0001")  # its name is in the address


def test_a_text_that_is_called_a_video_is_refused(page, served, tmp_path):
    page.goto(f"{served.url}/?{SMALL}")
    see(page, "tube")
    text = tmp_path / "letter.mp4"
    before = len(served.said)
    text.write_text("Dear reader, this is no video.\n" * 100)
    page.locator("input[type=file]").set_input_files(text)
    problem = page.locator("#notes .problem")
    problem.wait_for()
    assert re.search(r"^letter\.mp4 does not open as a video", problem.inner_text())
    assert "Traceback" not in "".join(served.said[before:])
    assert str(served.temporary) not in problem.inner_text()
    assert not [*served.temporary.rglob("letter*")]
    page.get_by_label("random").check()
    problem.wait_for(state="detached")  # it was about something else


def test_a_seed_that_is_taken_out_is_asked_for(page, served):
    page.goto(f"{served.url}/reconstruction?video=clips%2Fleft%2Fleft_0001.mp4&run=low&ratio=0.75")
    see(page, "75 % hidden")
    before = len(served.said)
    seed = page.get_by_label("Seed of the mask")
    seed.fill("")
    seed.press("Enter")
    see(page, "seed (nothing): expected 0 to 2147483647")
    seed.fill("3")
    seed.press("Enter")
    see(page, "75 % hidden")
    assert "Traceback" not in "".join(served.said[before:])


def test_what_is_too_large_is_refused(page, served, tmp_path):
    page.goto(f"{served.url}/?{SMALL}")
    see(page, "tube")
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2**20 + 1))
    page.locator("input[type=file]").set_input_files(large)
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for()
    assert not [*served.temporary.rglob("large*")]


# ---------------------------------------------------------------------------- reconstruction


def test_a_run_imagines_what_is_hidden(page, served):
    page.goto(f"{served.url}/reconstruction?video=clips%2Fleft%2Fleft_0001.mp4&run=low&ratio=0.75")
    see(page, "75 % hidden · imagined")
    path = served.clips / "left" / "left_0001.mp4"
    [strip], _ = reconstruction.shown(served.runs / "low", Item(path), "clips/left/left_0001.mp4", 0.75)
    see(page, strip.heading)  # with psnr
    np.testing.assert_array_equal(films(page)["imagined"], pixels(strip.rows["imagined"]))
    page.locator("#ratio input[type=number]").fill("0.5")
    page.locator("#ratio input[type=number]").press("Tab")
    see(page, "50 % hidden · imagined")


def test_a_broken_run_says_so(page, served):
    page.goto(f"{served.url}/reconstruction?run=broken")
    problem = page.locator("#drawn .problem")
    problem.wait_for()
    assert "last.pt" in problem.inner_text()
    assert "Traceback" not in page.locator("body").inner_text()


# ---------------------------------------------------------------------------- runs


def test_runs_side_by_side(page, served):
    page.goto(f"{served.url}/runs?run=high&run=low")
    see(page, "An encoder watched 16 clips")
    assert page.locator("#drawn svg").count() == 1
    differ = page.locator("#rest table").first
    differ.wait_for()
    assert "method.mask.ratio\t0.9\t0.5" in differ.inner_text()
    page.locator("#rest summary", has_text="every setting").click()
    assert "encoder.depth" in page.locator("#rest details table").inner_text()


def test_runs_shows_the_last_ones_of_itself_and_a_broken_one_beside(page, served):
    page.goto(f"{served.url}/runs")
    see(page, "An encoder watched 16 clips")
    page.goto(f"{served.url}/runs?run=broken")
    see(page, "No step is done yet")


def test_the_curves_of_a_run_that_trains_grow_until_it_is_removed(page, served):
    going, low = served.runs / "going", served.runs / "low"
    lines = (low / "metrics.jsonl").read_text().splitlines(keepends=True)
    going.mkdir()
    try:
        shutil.copy(low / "run.json", going)
        os.utime(going / "run.json", (0, 0))  # the last in the list
        (going / "metrics.jsonl").write_text(lines[0])
        page.clock.install()
        page.goto(f"{served.url}/runs?run=going")
        see(page, "An encoder watched")
        for count in range(2, len(lines) + 1):
            before = page.locator("#drawn").inner_html()
            with (going / "metrics.jsonl").open("a") as file:
                file.write(lines[count - 1])
            page.clock.fast_forward(10_000)
            page.wait_for_function("old => document.querySelector('#drawn').innerHTML !== old", arg=before)
        see(page, "An encoder watched 16 clips")
    finally:
        shutil.rmtree(going)
    page.clock.fast_forward(10_000)
    see(page, "no run 'going' in the runs folder")


# ---------------------------------------------------------------------------- looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "reconstruction", "runs?run=high&run=low"])
def test_a_phone_needs_no_sideways_scroll(path, scheme, page, served):
    page.set_viewport_size({"width": 375, "height": 700})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{served.url}/{path}")
    page.locator("#drawn .shown").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.locator("#drawn").bounding_box()["width"] > 300
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (red + green + blue > 600) == (scheme == "light")
    for name in ("Masks", "Reconstruction", "Runs"):
        assert page.get_by_role("link", name=name).or_(page.get_by_role("button", name=name)).count() >= 1


def test_from_page_to_page(page, served):
    page.goto(served.url + "/?" + SMALL)
    see(page, "tube")
    page.get_by_text("Runs", exact=True).first.click()
    page.wait_for_url(re.compile("/runs"))
    see(page, "An encoder watched 16 clips")
