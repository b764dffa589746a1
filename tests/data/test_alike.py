"""Copies of a video are found, however they were made; other videos of the same scene are not taken for copies."""

import subprocess
from itertools import combinations
from pathlib import Path

import films
import numpy as np
import pytest
import scipy.fft

from tubelet.data import alike
from tubelet.data.alike import Alike
from tubelet.data.check import check
from tubelet.data.items import Item
from tubelet.data.sources import find
from tubelet.data.video import write

COPIES = {  # name: what ffmpeg is told
    "worse.mp4": "-crf 36",
    "small.mkv": "-vf scale=80:60",
    "squeezed.avi": "-vf scale=96:96 -c:v mpeg4 -q:v 6",
    "other.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "trimmed.mp4": "-ss 1",
    "cut.mp4": "-ss 0.37 -crf 28",
    "mirrored.mp4": "-vf hflip",
    "both.mp4": "-ss 0.5 -vf scale=120:90,hflip",
    "slower.mp4": "-r 13",
}


def scene(seed: int, back: int = 0, frames: int = 120) -> np.ndarray:
    """A patch that wanders over a textured wall, which depends on `back` only."""
    wall = np.random.default_rng(back).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    rng = np.random.default_rng(100 + seed)
    wave = rng.uniform(0.02, 0.12, 2), rng.uniform(0, 6, 2)
    clip = np.stack([wall] * frames)
    for t, frame in enumerate(clip):
        y, x = (int((0.5 + 0.5 * np.sin(wave[0][k] * t + wave[1][k])) * (120, 160)[k] * 0.6) for k in (0, 1))
        frame[y : y + 45, x : x + 50] = (seed * 40 % 256, 255 - seed * 30 % 256, 128)
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four scenes: three before the same wall, one elsewhere; and copies of the first."""
    folder = tmp_path_factory.mktemp("alike")
    for seed, back in ((0, 0), (1, 0), (2, 0), (3, 9)):
        write(folder / f"scene{seed}.mp4", scene(seed, back), 25)
    (folder / "copies").mkdir()
    for name, told in COPIES.items():
        command = [films.FFMPEG, "-v", "fatal", "-i", folder / "scene0.mp4", *told.split(), folder / "copies" / name]
        subprocess.run(command, check=True)
    return folder


def of(path: Path) -> np.ndarray:
    one = alike.print_of(Item(path))
    assert one is not None
    return one


def test_waves_are_the_cosine_transform():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    wanted = scipy.fft.dctn(pictures.astype(float), axes=(1, 2), norm="ortho")[:, :6, :6] / 32
    np.testing.assert_allclose(alike.shape(pictures), wanted, rtol=2e-3, atol=2e-2)  # kept in 16 bits


def test_a_mirror_changes_the_signs_of_odd_waves():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    plain, mirrored = (alike.waved(alike.shape(p)) for p in (pictures, pictures[:, :, ::-1]))
    np.testing.assert_allclose(plain * alike.MIRROR, mirrored, atol=0.02)
    assert alike.keys_of(plain)[1].tolist() == alike.keys_of(mirrored)[0].tolist()


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(folder, name):
    (found,) = alike.alike([of(folder / "scene0.mp4"), of(folder / "copies" / name)])
    assert found.likeness >= alike.CHANGE
    assert found.mirrored == ("hflip" in COPIES[name])
    told = COPIES[name].split()
    cut = float(told[told.index("-ss") + 1]) if "-ss" in told else 0.0
    assert found.later == pytest.approx(cut, abs=0.2)


def test_other_videos_are_not_copies_though_the_scene_is_the_same(folder):
    prints = [of(folder / f"scene{seed}.mp4") for seed in range(4)]
    assert alike.alike(prints) == []
    assert float(np.corrcoef(*(alike.waved(one).mean(0) for one in prints[:2]))[0, 1]) > 0.9  # alike at a glance


def test_correlations_are_those_of_numpy():
    rng = np.random.default_rng(0)
    one, other = rng.normal(2, 1, (30, 35)) + 9, rng.normal(2, 1, (20, 35)) + 9
    other[:15] = one[12:27] + rng.normal(0, 0.1, (15, 35))
    offsets = np.arange(-8, 19)
    found = alike.correlations(one, other, offsets)
    for offset, value in zip(offsets.tolist(), found):
        first, stop = max(0, offset), min(30, 20 + offset)
        a, b = one[first:stop], other[first - offset : stop - offset]
        wanted = np.corrcoef((a - a.mean(0)).ravel(), (b - b.mean(0)).ravel())[0, 1]
        assert value == pytest.approx(wanted, abs=1e-6)
    assert found.argmax() == 12 + 8


def test_black_and_still_videos_are_left_out_and_said(tmp_path):
    black, wall = np.zeros((50, 48, 64, 3), np.uint8), np.stack([scene(0)[0]] * 50)
    for name, clip in (("black1", black), ("black2", black), ("wall1", wall), ("wall2", wall)):
        write(tmp_path / f"{name}.mp4", clip, 25, options={"crf": "20" if name.endswith("1") else "30"})
    write(tmp_path / "short.mp4", scene(1, frames=10), 25)
    report = check(find(tmp_path), near=True, workers=0)
    assert report.near == ()
    assert {Path(row.path).stem for row in report.rows if row.still} == {"black1", "black2", "wall1", "wall2", "short"}
    assert any(line.startswith("still       5 change too little") for line in report.lines())


def test_keys_that_very_many_have_do_not_count():
    rare, common = np.full((2, 3), 7), np.full((2, 3), 5)
    assert alike.candidates([common, common]) == {(0, 1)}
    crowd = [common] * (alike.CROWD + 1)
    assert alike.candidates([*crowd, rare, rare]) == {(len(crowd), len(crowd) + 1)}


def test_the_search_does_not_compare_all_with_all():
    """Of 3000 videos of noise none is even a candidate."""
    rng = np.random.default_rng(0)
    keys = [np.stack([row, row]) for row in rng.integers(0, 2**60, (3000, 40))]
    assert alike.candidates(keys) == set()
    assert alike.candidates([*keys, keys[17]]) == {(17, 3000)}


def test_check_names_near_duplicates_and_keeps_the_first(folder):
    paths = ["scene0.mp4", "scene1.mp4", "copies/small.mkv", "copies/trimmed.mp4"]
    report = check([Item(folder / path, label) for path, label in zip(paths, "abac")], near=True, workers=0)
    assert report.near is not None
    assert {(pair.row, pair.other_row) for pair in report.near} == set(combinations((0, 2, 3), 2))
    assert [kinds[0][0] for kinds in report.found.values()] == ["near duplicate"] * 2
    assert list(report.found) == [2, 3]
    assert "but is labelled 'c' and not 'a'" in report.found[3][0][1]
    assert "labelled" not in report.found[2][0][1]
    assert check([Item(folder / path) for path in paths], workers=0).near is None
    assert sum(line.startswith("near        ") for line in report.lines()) == 3


def test_parts_of_one_video_are_not_copies_of_each_other(folder):
    items = [Item(folder / "scene0.mp4", start=0, end=3), Item(folder / "scene0.mp4", start=1, end=4)]
    assert check(items, near=True, workers=0).near == ()


def test_everyday_videos_are_no_copies_of_each_other_but_for_the_two_that_are(real):
    report = check(find(real / "everyday"), near=True)
    assert report.near is not None
    same = [{Path(pair.path).stem, Path(pair.other).stem} for pair in report.near]
    assert same == [{"pyfeat_face_noface", "pyfeat_single_face"}]  # one film begins with the other


def test_pairs_are_told_once():
    assert alike.alike([None, None]) == []
    assert Alike(0, 1, 1.0, 0.0, False).mirrored is False
