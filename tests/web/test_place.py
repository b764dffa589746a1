"""Names, not paths: what may be read, and what is refused."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tubelet.data.video import VideoError, frames_at, probe
from tubelet.web import place as places
from tubelet.web.made import FRAMES, MADE, SIZE
from tubelet.web.place import Place


@pytest.fixture
def place(tmp_path, clips, runs) -> Place:
    (tmp_path / "scratch").mkdir()
    return Place(tmp_path / "scratch", (str(clips),), runs, most=200_000)


def test_videos_have_the_names_of_their_folder_and_links_out_of_it_are_not_followed(place, clips):
    names = place.names()
    real = sorted(path for path in clips.rglob("*.mp4") if not path.is_symlink())
    assert names[:-3] == [f"clips/{path.relative_to(clips)}" for path in real]
    assert names[-3:] == [*MADE]
    assert [place.item(name).path for name in names[:-3]] == real


@pytest.mark.parametrize(
    "name",
    [
        "clips/out.mp4",
        "/etc/passwd",
        "clips/../secret/right/right_0001.mp4",
        "uploaded/../../x.mp4",
        "",
        "made: nothing",
    ],
)
def test_what_is_not_in_the_list_is_refused(name, place):
    with pytest.raises(ValueError, match=re.escape(f"no video {name!r} here")):
        place.item(name)


def test_a_list_names_what_it_likes_and_parts_are_told_apart(tmp_path, clips):
    video = clips / "left" / "left_0001.mp4"
    (tmp_path / "some.csv").write_text(f"path,start,end\n{video},0,0.5\n{video},0.5,1\n{video},0.5,1\n")
    place = Place(tmp_path, (str(tmp_path / "some.csv"),))
    said = ["some.csv/left_0001.mp4 0-0.5 s", "some.csv/left_0001.mp4 0.5-1 s", "some.csv/left_0001.mp4 0.5-1 s #2"]
    assert place.names()[:3] == said
    assert [(place.item(name).start, place.item(name).end) for name in said[:2]] == [(0, 0.5), (0.5, 1)]


def test_a_long_list_is_cut_but_its_end_can_still_be_named(place, monkeypatch):
    monkeypatch.setattr(places, "MOST", 2)
    assert len(place.names()) == 2 + len(MADE)
    assert place.item("clips/up/up_0001.mp4").path.name == "up_0001.mp4"


@pytest.mark.parametrize("name", MADE)
def test_videos_that_are_made_here_move(name, place):
    path = place.item(name).path
    assert path.is_relative_to(place.scratch)
    assert probe(path).frames == FRAMES
    assert (probe(path).height, probe(path).width) == (SIZE, SIZE)
    first, last = frames_at(path, [0, FRAMES - 1]).frames.float()
    assert (first - last).abs().mean() > 1


# ---------------------------------------------------------------------------- uploads


def upload(place: Place, name: str, content: bytes):
    folder = place.scratch / "cache"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_an_uploaded_video_is_kept_by_name_and_the_oldest_go(place, clips, monkeypatch):
    monkeypatch.setattr(places, "UPLOADS", 2)
    content = (clips / "left" / "left_0001.mp4").read_bytes()
    names = [place.take(upload(place, "my cat (1).MP4", content)) for _ in range(3)]
    assert names == ["uploaded/my_cat_1_.mp4", "uploaded/my_cat_1_-2.mp4", "uploaded/my_cat_1_-3.mp4"]
    assert place.names()[-2:] == names[:0:-1]  # the last first, and after all that others see
    assert place.item(names[2]).path.read_bytes() == content
    assert not [*(place.scratch / "cache").iterdir()]


def test_uploads_of_one_name_at_once_are_all_kept(place, clips):
    content = (clips / "left" / "left_0001.mp4").read_bytes()
    (place.scratch / "cache").mkdir()
    files = [place.scratch / "cache" / str(number) / "cat.mp4" for number in range(places.UPLOADS)]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(content)
    with ThreadPoolExecutor(len(files)) as pool:
        names = [*pool.map(place.take, files)]
    assert len({*names}) == len(files)
    assert {path.name for path in place.uploaded()} == {name.removeprefix("uploaded/") for name in names}


@pytest.mark.parametrize(
    ("name", "content", "message", "kind"),
    [
        ("a.txt", b"text", "a.txt is no video; expected .*mp4", ValueError),
        ("a.mp4", b"text", "a.mp4", VideoError),
        ("a.mp4", bytes(200_001), "has 0 MB, and 0 are taken", ValueError),
    ],
)
def test_what_is_no_video_or_too_large_is_refused_and_removed(name, content, message, kind, place):
    file = upload(place, name, content)
    with pytest.raises(kind, match=message) as error:
        place.take(file)
    assert str(place.scratch) not in str(error.value)
    assert not file.exists()
    assert place.uploaded() == []


def test_only_uploads_are_taken_and_nothing_else_is_moved_or_removed(place, clips):
    video = clips / "left" / "left_0001.mp4"
    link = place.scratch / "link.mp4"
    link.symlink_to(video)
    for path in (video, link, place.scratch / ".." / ".." / "nothing.mp4"):
        with pytest.raises(ValueError, match="no upload"):
            place.take(path)
    assert video.exists()


# ---------------------------------------------------------------------------- runs


def test_runs_are_found_by_name_the_last_begun_first(place, runs):
    assert [*place.run_folders()] == ["low", "high", "broken"]
    assert place.run("low") == runs / "low"
    alone = Place(place.scratch, runs=runs / "high")
    assert alone.run_folders() == {"high": runs / "high"}
    assert Place(place.scratch).run_folders() == {}


@pytest.mark.parametrize("name", ["../runs/low", "/etc", "linked", "low/../high"])
def test_runs_elsewhere_are_refused(name, place, runs, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.json").write_text("{}")
    link = runs / "linked"
    os.symlink(elsewhere, link)
    try:
        with pytest.raises(ValueError, match=r"no run .* it has low, high, broken"):
            place.run(name)
    finally:
        link.unlink()
