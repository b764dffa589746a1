"""The pages of similar clips and of checks without a browser: the numbers of numpy, and what is not shown."""

import re
from pathlib import Path
from threading import Event, Timer

import numpy as np
import pytest
import torch

from tubelet.cli.embedding import embed_verb
from tubelet.data.processes import Stopped
from tubelet.data.video import probe
from tubelet.evaluate.features import middle_clips
from tubelet.targets import inputs
from tubelet.train.checkpoint import load_encoder
from tubelet.web import check, networks, similar
from tubelet.web.made import MADE
from tubelet.web.place import Place
from tubelet.web.similar import clips_of, shown


@pytest.fixture(scope="module")
def place(clips, runs, doubtful, features, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("scratch"), (str(clips), str(doubtful)), runs, (features,))


@pytest.fixture(scope="module")
def table(features):
    """The rows as text, and the cosine of each with each."""
    lines = features.with_suffix(".csv").read_text().splitlines()[1:]
    values = np.load(features).astype(float)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return [line.split(",") for line in lines], values @ values.T


def said(name: str, line: list[str]) -> str:
    return f"{name} · {float(line[2]):.2f} to {float(line[3]):.2f} s"


def told(clips: Path, line: list[str]) -> str:
    """What a row is called: with its folder where it may be shown."""
    path = Path(line[0])
    there = path.is_relative_to(clips) and not path.is_symlink()
    return said(f"clips/{path.relative_to(clips)}" if there else path.name, line)


def test_neighbours_are_those_of_numpy_but_for_clips_that_overlap(place, clips, table):
    lines, cosines = table
    row = next(number for number, line in enumerate(lines) if line[0].endswith("left_0001.mp4") and number)
    _, found, _ = shown(place, "features.npy", "clip", told(clips, lines[row]), "", 5)
    start, end = map(float, lines[row][2:])
    apart = [
        other
        for other, line in enumerate(lines)
        if line[0] != lines[row][0] or float(line[2]) >= end or float(line[3]) <= start
    ]
    assert len(apart) < len(lines) - 1  # some overlap
    best = sorted(apart, key=lambda other: -cosines[row, other])[:5]
    expected = [f"cosine {cosines[row, other]:.4f} · {told(clips, lines[other])}" for other in best]
    assert [re.sub(r"^\d\. | · \w+$| · \w+ \(.*| \(.*", "", text) for text in found] == expected
    assert [text[:2] for text in found] == ["1.", "2.", "3.", "4.", "5."]


def test_a_video_outside_of_the_chosen_folders_is_named_and_not_shown(place, clips, table, monkeypatch):
    lines, _ = table
    opened = []
    monkeypatch.setattr(similar, "probe", lambda path: opened.append(path) or probe(path))
    similar.film_of.cache_clear()
    _, found, notes = shown(place, "features.npy", "clip", None, "", 24)
    outside = {text: film for text, film in found.items() if "not in the chosen folders" in text}
    assert outside.keys() == {text for text in found if "· right_0001.mp4 ·" in text or "· out.mp4 ·" in text}
    assert len(outside) >= 4
    assert all(film.unique().tolist() == [128] for film in outside.values())
    assert notes == [f"{len(outside)} of these lie outside of what --videos names, so they are only named"]
    assert opened
    assert all(path.resolve().is_relative_to(clips) for path in opened)
    name = told(clips, next(line for line in lines if "secret" in line[0]))
    assert name.startswith("right_0001.mp4")
    [(text, film)] = shown(place, "features.npy", "clip", name, "", 1)[0].items()  # nor as the example
    assert text == f"{name} (not in the chosen folders)"
    assert film.unique().tolist() == [128]


def test_the_film_of_a_clip_has_the_frames_between_its_seconds(place, clips, table):
    lines, _ = table
    line = next(line for line in lines if float(line[2]) > 0 and told(clips, line).startswith("clips/"))
    [(_, film)] = shown(place, "features.npy", "clip", told(clips, line), "", 1)[0].items()
    assert film.shape == (3, 12, 400, 400)
    video = probe(Path(line[0]))
    inside = [n for n, second in enumerate(video.seconds) if float(line[2]) - 1e-3 <= second < float(line[3]) - 1e-3]
    frames = middle_frames(video.path)[inside].float()
    for at, twin in ((0, 0), (11, -1)):
        small = torch.nn.functional.avg_pool2d(film[None, :, at].float(), 400 // 64, 400 // 64)[0, :, :64, :64]
        errors = [(small - frame).abs().mean().item() for frame in frames]
        assert errors.index(min(errors)) == range(len(inside))[twin]


def middle_frames(path: Path) -> torch.Tensor:
    """All frames, "t c h w", as PyAV has them."""
    import av

    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def test_another_video_is_embedded_with_the_run_that_made_the_features(place, runs, features):
    encoder, run = load_encoder(runs / "low")
    clip = middle_clips([place.item(MADE[0])], run.data)
    with torch.no_grad():
        one = encoder(inputs(clip, encoder.grid.patch)).mean(1)[0].double().numpy()
    values = np.load(features).astype(float)
    cosines = values @ one / np.linalg.norm(values, axis=1) / np.linalg.norm(one)
    [(text, _)], found, _ = (
        [*part.items()] if isinstance(part, dict) else part
        for part in shown(place, "features.npy", "video", None, MADE[0], 4)
    )
    assert text.startswith(MADE[0])
    numbers = [float(name.split()[2]) for name, _ in found]
    assert numbers == pytest.approx(sorted(cosines, reverse=True)[:4], abs=1e-4)


def test_a_video_of_the_table_needs_no_run(place, clips, features, table):
    alone = Place(place.scratch, (str(clips),), None, (features,))
    one, found, _ = shown(alone, "features.npy", "video", None, "clips/up/up_0001.mp4", 3)
    [name] = one
    assert name.startswith("clips/up/up_0001.mp4 · ")
    assert [*found] == [*shown(alone, "features.npy", "clip", name, "", 3)[1]]
    with pytest.raises(ValueError, match=r"no runs folder was chosen: start tubelet serve with --runs DIR"):
        shown(alone, "features.npy", "video", None, MADE[0], 3)


def test_of_several_runs_the_one_with_these_weights_is_taken(place, runs):
    mark = networks.mark_of(load_encoder(runs / "high")[0])
    network, _ = networks.maker(place, mark)
    assert networks.mark_of(network) == mark
    with pytest.raises(ValueError, match=r"weights 0123456789abcdef\), and it is not in .*runs: start tubelet serve"):
        networks.maker(place, "0123456789abcdef")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, "clip", None, "", 6), "no features were chosen: make some with tubelet embed DIR"),
        (
            ("others.npy", "clip", None, "", 6),
            r"no features 'others.npy' in what --features names; it has features.npy",
        ),
        (("features.npy", "magic", None, "", 6), "example 'magic': expected clip or video"),
        (("features.npy", "clip", "cat.mp4", "", 6), r"no clip 'cat.mp4' in these features; choose one of their \d+"),
        (("features.npy", "clip", None, "", 10**6), "neighbours 1000000: expected 1 to 24"),
        (("features.npy", "video", None, "/etc/passwd", 6), "no video '/etc/passwd' here"),
    ],
)
def test_what_cannot_be_searched_is_said(given, message, place):
    with pytest.raises(ValueError, match=message):
        shown(place, *given)


def test_features_that_are_not_finished_are_said(place, features, tmp_path):
    for file in features.parent.glob("features*"):
        text = file.read_bytes().replace(b'"complete": true', b'"complete": false')
        (tmp_path / file.name).write_bytes(text)
    other = Place(place.scratch, place.videos, place.runs, (tmp_path / "features.npy",))
    with pytest.raises(ValueError, match="is not finished"):
        clips_of(other, "features.npy")


def test_the_verb_and_the_page_read_the_same_files(clips, runs, tmp_path, capsys):
    out = tmp_path / "one.npy"
    assert embed_verb([str(clips / "up"), "--weights", str(runs / "low"), "--out", str(out)]) == 0
    there = clips_of(Place(tmp_path, (str(clips),), None, (out,)), "one.npy")
    assert [name.partition(" ·")[0] for name in there.names] == ["clips/up/up_0001.mp4"]
    assert there.shown == {0}


# ---------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nowhere", "demux", False, 20), "no folder 'nowhere' here; there are clips, doubtful"),
        (("/etc", "demux", False, 20), "no folder '/etc' here"),
        (("clips", "deep", False, 20), "level 'deep': expected one of open, demux, decode"),
        (("clips", "demux", False, 10**7), "the first 10000000 videos: expected one of 20, 100"),
        ((None, "demux", False, 20), "no videos were chosen: start tubelet serve with --videos DIR"),
    ],
)
def test_what_cannot_be_checked_is_said(given, message, place):
    with pytest.raises(ValueError, match=message):
        check.shown(place, *given)


def test_links_that_lead_out_are_not_checked_and_of_many_the_first_are(place, monkeypatch):
    asked = []
    real = check.check
    monkeypatch.setattr(check, "check", lambda items, *a, **b: asked.extend(items) or real(items, *a, **b, workers=0))
    monkeypatch.setattr(check, "FIRST", (3, 20))
    page, notes = check.shown(place, "clips", "open", False, 3)
    assert notes == ["the first 3 of 8 videos were looked at"]
    assert len(asked) == 3
    assert "3 videos" in page
    asked.clear()
    assert check.shown(place, "clips", "open", False, 20)[1] == []
    assert [item.path.name for item in asked if item.path.name == "out.mp4"] == []
    assert len(asked) == 8


def test_names_in_a_report_are_text_in_the_page(place, doubtful, monkeypatch):
    real = check.check
    monkeypatch.setattr(check, "check", lambda *a, **b: real(*a, **b, workers=0))
    page, notes = check.shown(place, "doubtful", "demux", False, 20)
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in page
    assert "<img src=x" not in page
    text = check.framed(page, notes)
    assert text.count("<") == 2  # the frame and its end: nothing of the report is outside of it
    assert 'sandbox="allow-scripts"' in text


@pytest.mark.parametrize("leaves", ["page", "server"])
def test_a_check_stops_when_nobody_waits_for_it(leaves, clips, tmp_path, monkeypatch):
    place = Place(tmp_path / "scratch", (str(clips),))
    place.scratch.mkdir()
    go, ends = Event(), []

    def endless(*_, progress, **__):
        go.wait()
        try:
            while True:
                progress(1, 8)
        except Stopped:
            ends.append("stopped")
            raise

    monkeypatch.setattr(check, "check", endless)
    told = check.checked(place, "clips", "demux", False, 20)
    assert "looking at the first files" in next(told)
    if leaves == "page":
        Timer(0, go.set).start()
        told.close()
    else:
        place.scratch.rmdir()
        go.set()
        assert [*told][-1] == ""
    assert ends == ["stopped"]
