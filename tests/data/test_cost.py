"""What a clip costs is what the reader decodes."""

import re
import subprocess
from dataclasses import replace

import films
import numpy as np
import pytest

from tubelet.data import cost
from tubelet.data.check import check
from tubelet.data.index import runs_of
from tubelet.data.items import Item
from tubelet.data.sampling import Dense, Segments, Spread
from tubelet.data.video import frames_at, probe, write
from tubelet.data.writing import Encoding, encode


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """90 frames, a key frame every 25, nothing that refers to a later frame."""
    path = tmp_path_factory.mktemp("cost") / "plain.mp4"
    write(path, films.moving(90), 25, options={"g": "25", "bf": "0", "sc_threshold": "0"})
    return path


@pytest.mark.parametrize(
    "sampler", [Dense(4, stride=3), Dense(3, stride=20), Dense(8, stride=1), Dense(4, stride=3, every=4)]
)
def test_frames_decoded_for_a_clip_are_those_that_the_reader_decodes(plain, sampler):
    video = probe(plain)
    clips = cost.drawn(sampler, video.seconds)
    drawn = {tuple(sampler(video.seconds, np.random.default_rng(seed)).tolist()) for seed in range(300)}
    assert drawn <= set(map(tuple, clips.tolist()))
    counted = [frames_at(plain, clip).decoded for clip in clips[::3]]
    assert cost.decoded(clips[::3], video.starts[:, 0]).tolist() == counted
    whole = [frames_at(plain, clip).decoded for clip in clips]
    assert cost.per_clip(video, slice(0, 90), sampler)[0] == pytest.approx(np.mean(whole))


@pytest.mark.parametrize("linked", [0, 10])
def test_runs_are_those_of_the_index(plain, linked):
    rng = np.random.default_rng(0)
    clips = np.sort(rng.integers(0, 400, (200, 5)), axis=1)
    starts = np.sort(np.append(0, rng.choice(np.arange(1, 400), 20, replace=False)))

    video = replace(probe(plain), starts=np.stack([starts] * 4, axis=1))
    for clip, found in zip(clips, cost.decoded(clips, starts, linked)):
        runs = list(runs_of(video, clip, linked))
        assert found == sum(int(run[-1]) + 1 - int(tries[0][0]) for run, tries in runs)


def test_parts_and_other_samplers(plain):
    video = probe(plain)
    assert cost.per_clip(video, slice(30, 40), Dense(2, stride=5)) == (11, 36)  # 30 and 35, from 25 or from 0 on
    for sampler in (Segments(4), Spread(4, stride=4)):
        assert all(4 <= count <= 90 for count in cost.per_clip(video, slice(0, 90), sampler))


def test_key_frame_distances_are_those_that_ffmpeg_tells(plain, tmp_path):
    log = subprocess.run(
        [films.FFMPEG, "-i", plain, "-vf", "showinfo", "-f", "null", "-"], capture_output=True, text=True
    ).stderr
    keys = [int(n) for n, key in re.findall(r" n: *(\d+).*?iskey:(\d)", log) if key == "1"]
    assert keys == [0, 25, 50, 75]
    (row,) = check([Item(plain)], workers=0).rows
    assert (row.key_median, row.key_max) == (np.median(np.diff([*keys, 90])), 25)


def test_dear_files_are_named_and_prepared_ones_are_not(tmp_path):
    long = films.moving(200, 1, 360, 480)
    write(tmp_path / "dear.mp4", long, 25, options={"g": "999", "sc_threshold": "0"})
    (dear,) = check([Item(tmp_path / "dear.mp4")], "decode", Dense(16, stride=4), workers=0).rows
    assert dear.dear
    assert dear.times == pytest.approx(dear.decoded * 360 * 480 / (76.5 * 256 * 342), rel=0.15)
    assert 0.05 < dear.milliseconds < 60_000
    small, size = tmp_path / "made.mp4", (96, 128)
    frames = ((n / 25, frame) for n, frame in enumerate(films.moving(200, 1, *size)))
    encode(small, frames, size, 25.0, Encoding(), lambda: None)
    report = check([Item(small), Item(tmp_path / "dear.mp4")], sampler=Dense(16, stride=4), workers=0)
    assert report.rows[0].times == pytest.approx(1.0)
    assert report.rows[0].milliseconds == 0
    (line,) = (line for line in report.lines() if line.startswith("cost "))
    assert "1 dear: tubelet prepare makes them" in line
    assert line.endswith("dear.mp4")


@pytest.mark.parametrize(("name", "angle"), [("turned_90.mp4", 90), ("turned_270.mp4", 270), ("h264.mp4", 0)])
def test_rotation_is_what_ffmpeg_says(tmp_path, name, angle):
    write(tmp_path / "source.mp4", films.moving_square(30), 24)
    path = films.make(tmp_path, name)
    said = subprocess.run([films.FFMPEG, "-i", path], capture_output=True, text=True).stderr
    turned = re.search(r"rotation of (-?[\d.]+) degrees", said)
    assert (round(float(turned[1])) % 360 if turned else 0) == angle
    report = check([Item(path)], workers=0)
    assert report.rows[0].rotation == angle
    assert [line for line in report.lines() if line.startswith("rotation")] == (
        [f"rotation    1 are shown turned, by degrees: {angle} (1)"] if angle else []
    )
