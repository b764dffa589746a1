"""Data sets made anew: what is in the files, what is kept, what is refused, and what happens when it is stopped."""

import csv
import hashlib
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import av
import films
import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.cli import run
from tubelet.data import prepare as module
from tubelet.data.notebook import Notebook
from tubelet.data.prepare import Encoding, moving, prepare
from tubelet.data.processes import alive, in_processes
from tubelet.data.sources import find
from tubelet.data.video import frames_at, probe, write
from tubelet.data.writing import DiskError
from tubelet.types import Motion

CELL = 16  # pixels of one digit of a frame's number


def numbered(frames: int, height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """Noise that moves, and in the top row the number of each frame in black and white squares."""
    blocks = np.random.default_rng(seed).integers(60, 200, (height // 8, width // 8, 3), dtype=np.uint8)
    clip = np.stack([np.roll(blocks.repeat(8, 0).repeat(8, 1), 2 * t, 1) for t in range(frames)])
    for t, frame in enumerate(clip):
        for digit in range(7):
            frame[:CELL, CELL * digit : CELL * (digit + 1)] = 255 * (t >> digit & 1)
    return clip


def numbers(path: Path) -> list[int]:
    """The numbers that a video's frames show, read as they come out of FFmpeg's command line."""
    found = probe(path)
    shown = films.pictures(path, found.height, found.width, "gray")[..., 0]
    scale = found.width / 128
    at = [round((digit + 0.5) * CELL * scale) for digit in range(7)]
    return [sum(int(frame[round(CELL * scale / 2), x] > 128) << digit for digit, x in enumerate(at)) for frame in shown]


def known(path: Path) -> tuple[dict[str, tuple[int, str]], list[dict[str, str]]]:
    """When each file below a folder was changed and what is in it; and the report in it, if any."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    state = {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, hashlib.md5(file.read_bytes()).hexdigest())
        for file in files
    }
    return state, table(path / "prepared.csv") if (path / "prepared.csv").exists() else []


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    return [*csv.DictReader(path.read_text().splitlines())]


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Six videos of as many kinds in two class folders: with sound, B-frames, a varying rate, no index."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("one", "two"):
        (folder / name).mkdir()
    write(folder / "base.mp4", numbered(50), 25, options={"qp": "6", "preset": "ultrafast"})
    drop = "-vf select='not(eq(mod(n\\,7)\\,3))' -fps_mode vfr"
    for name, options in {
        "one/sound.mp4": "-f lavfi -i sine -shortest -c:v libx264 -bf 3 -g 12 -pix_fmt yuv420p -c:a aac",
        "one/rate.mkv": f"{drop} -c:v libx264 -pix_fmt yuv420p",
        "one/old.avi": "-c:v mpeg4 -q:v 2 -g 15 -bf 0",
        "two/stream.mpg": "-c:v mpeg2video -q:v 2 -g 15 -bf 2",
        "two/deep.mp4": "-c:v libx264 -pix_fmt yuv444p10le -vf crop=127:95:0:0",
        "two/large.webm": "-vf scale=640:480:flags=neighbor -c:v libvpx-vp9 -deadline realtime -pix_fmt yuv420p",
    }.items():
        command = [films.FFMPEG, "-v", "fatal", "-i", "base.mp4", *options.split(), name]
        subprocess.run(command, cwd=folder, check=True)
    (folder / "base.mp4").unlink()
    return folder


@pytest.fixture(scope="session")
def prepared(source, tmp_path_factory) -> Path:
    """The same after `prepare`."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    before = known(source)
    outcome = prepare(source, out, Encoding(short_side=240), workers=2)
    assert known(source) == before  # nothing was touched
    assert (len(outcome.rows), outcome.new, outcome.left, outcome.quarantined) == (6, 6, 0, ())
    return out


# ---------------------------------------------------------------------------- what is in the files


def test_every_frame_is_kept_in_its_order_at_its_time(source, prepared):
    items, made = find(source), find(prepared)
    assert [item.label for item in made] == [item.label for item in items] == ["one"] * 3 + ["two"] * 3
    assert [item.path for item in made] == [
        prepared / item.path.relative_to(source).with_suffix(".mp4") for item in items
    ]
    for old, new in zip(items, made):
        was, now = probe(old.path), probe(new.path)
        assert now.frames == was.frames
        assert np.abs(now.seconds - was.seconds).max() < 1e-9, old.path
        skipped = [t for t in range(50) if t % 7 != 3] if old.path.name == "rate.mkv" else [*range(now.frames)]
        assert now.frames == len(skipped) >= 43
        assert numbers(new.path) == skipped
        height, width = {"deep": (94, 126), "large": (240, 320)}.get(old.path.stem, (96, 128))
        assert (now.height, now.width) == (height, width)
    assert probe(prepared / "one" / "rate.mp4").variable


def test_streams_are_what_training_wants(prepared):
    for item in find(prepared):
        with av.open(os.fspath(item.path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]  # no sound
            assert container.metadata["comment"].startswith("tubelet prepare: exact vectors, key frame every 32")
            stream = container.streams.video[0]
            assert stream.pix_fmt == "yuv420p"
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert all(packet.pts == packet.dts for packet in packets)  # nothing is put in another order
            assert [at for at, packet in enumerate(packets) if packet.is_keyframe] == [
                at for at in range(len(packets)) if at % 32 == 0
            ]
            container.seek(0)
            kinds = [av.video.frame.PictureType(frame.pict_type).name for frame in container.decode(stream)]
            assert kinds == ["P" if at % 32 else "I" for at in range(len(kinds))]
        data = item.path.read_bytes()
        told = data[data.index(b"x264 - core") :][:900].decode(errors="replace")
        for word in ("ref=1 ", "bframes=0 ", "keyint=32 ", "keyint_min=", "scenecut=0 ", "threads=1 "):
            assert word in told, told
        assert data.index(b"moov") < data.index(b"mdat")


def test_pictures_are_near_the_scaled_originals(source, prepared):
    """As the ffmpeg command line measures it; and what the report says is the same."""
    _, report = known(prepared)
    for row in report:
        old, new = Path(row["source"]), prepared / row["path"]
        height, width = int(row["height"]), int(row["width"])
        count, scale = "settb=1/1000,setpts=N", f"scale={width}:{height}:flags=bicubic:out_range=tv,format=yuv420p"
        graph = f"[0]{scale},{count}[a];[1]{count}[b];[a][b]psnr"
        said = subprocess.run(
            [films.FFMPEG, "-hide_banner", "-i", old, "-i", new, "-lavfi", graph, "-f", "null", "-"],
            capture_output=True,
            text=True,
        ).stderr
        measured = float(re.findall(r"average:([\d.]+)", said)[-1])
        assert measured >= 38
        assert float(row["psnr"]) == pytest.approx(measured, abs=0.5), old


@pytest.mark.parametrize("name", ["turned_90.mp4", "turned_270.mp4", "mirrored_90.mp4", "turned_180.mp4"])
def test_what_players_turn_is_turned(name, tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "source.mp4", films.moving_square(12), 30, options={"qp": "0", "preset": "ultrafast"})
    path = films.make(tmp_path / "in", name)
    prepare(path, tmp_path / "out", Encoding(crf=4), workers=0)
    new = tmp_path / "out" / name
    shown = films.pictures(path, probe(path).height, probe(path).width).astype(float)
    now = frames_at(new, range(12)).frames.numpy()
    assert now.shape == shown.shape
    assert ((now - shown) ** 2).mean() < 30
    with av.open(os.fspath(new)) as container:
        assert not next(container.decode(video=0)).rotation


def test_colours_stay(tmp_path):
    """Flat colours, also from the full range and from pictures without any such notion."""
    (tmp_path / "in").mkdir()
    bars = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 40], [30, 160, 60], [40, 50, 210]], dtype=np.uint8)
    frame = bars.repeat(32, 0)[None].repeat(64, 0)
    write(tmp_path / "in" / "base.mkv", [frame] * 4, 10, codec="ffv1", pixels="bgr0")
    for name, options in {
        "full.avi": "-c:v mjpeg -q:v 1 -pix_fmt yuvj420p",
        "hd.mp4": "-vf scale=out_color_matrix=bt709,format=yuv420p -colorspace bt709 -c:v libx264 -crf 4",
    }.items():
        command = [films.FFMPEG, "-v", "fatal", "-i", "base.mkv", *options.split(), name]
        subprocess.run(command, cwd=tmp_path / "in", check=True)
    images = tmp_path / "frames" / "clip"
    images.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(frame).save(images / f"{number}.png")
    for folder in ("in", "frames"):
        prepare(tmp_path / folder, tmp_path / f"{folder}_out", Encoding(crf=4), workers=0)
        for item in find(tmp_path / f"{folder}_out"):
            shown = frames_at(item.path, [0, 3]).frames.numpy().astype(int)
            with av.open(os.fspath(item.path)) as container:
                assert next(container.decode(video=0)).color_range != 2  # 16 to 235, whatever it was
            for bar, colour in enumerate(bars.astype(int)):
                assert np.abs(shown[:, 16:48, 32 * bar + 12 : 32 * bar + 20] - colour).max() <= 8, (item.path, bar)


def test_folders_of_images(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "fps.txt").write_text("12.5")
    for clip, count in (("walk/a.b", 20), ("run/c", 11)):
        folder = tmp_path / "in" / clip
        folder.mkdir(parents=True)
        for t, frame in enumerate(numbered(count)):
            Image.fromarray(frame).save(folder / f"img_{t + 1:05}.png")
    outcome = prepare(tmp_path / "in", tmp_path / "out", workers=0)
    items = find(tmp_path / "out")
    assert [(item.path.relative_to(tmp_path / "out").as_posix(), item.label) for item in items] == [
        ("run/c.mp4", "run"),
        ("walk/a.b.mp4", "walk"),
    ]
    assert [numbers(item.path) for item in items] == [[*range(11)], [*range(20)]]
    assert probe(items[0].path).fps == pytest.approx(12.5)
    assert outcome.totals()["bytes_before"] == sum(f.stat().st_size for f in (tmp_path / "in").rglob("*.png"))


@pytest.fixture(scope="session")
def square(tmp_path_factory) -> Path:
    """A folder with one video of the square that moves 2 pixels right and 1 down a frame."""
    folder = tmp_path_factory.mktemp("square")
    write(folder / "square.mp4", films.moving_square(49), 30, options={"qp": "0", "preset": "ultrafast"})
    return folder


@pytest.mark.parametrize(("layered", "step"), [(1, 1), (1, 2), (4, 4)])
def test_vectors_are_exact(square, tmp_path, layered, step):
    """From one frame that was asked for to the one before; with layers, from one that can be had alone to the last."""
    prepare(square, tmp_path / "out", Encoding(layered=layered), workers=0)
    path = tmp_path / "out" / "square.mp4"
    indices = np.arange(0, 29, step)
    motion = frames_at(path, indices, vectors=True).motion
    assert motion is not None
    assert motion.exact
    errors = []
    for place, t in enumerate(indices.tolist()):
        y, x = t % 80, 2 * t % 120
        rows, columns = slice(-(-y // 8), (y + 40) // 8), slice(-(-x // 8), (x + 40) // 8)
        there = motion.had[place, rows, columns]
        assert there.any() == bool(place)
        field = motion.to_previous[:, place, rows, columns]
        errors.append((field - torch.tensor([-2.0 * step, -1.0 * step])[:, None, None]).norm(dim=0)[there])
    assert torch.cat(errors).median() <= 0.25
    row = json.loads((tmp_path / "out" / ".prepare" / "0of1.jsonl").read_text().splitlines()[0])["row"]
    assert 0.03 < row["moving"] < 0.3  # the square is 1600 of 19200 pixels


@pytest.mark.parametrize("layered", [2, 4])
def test_layers_can_be_decoded_alone(square, tmp_path, layered):
    prepare(square, tmp_path / "out", Encoding(layered=layered), workers=0)
    path = os.fspath(tmp_path / "out" / "square.mp4")

    def decoded(skip: str) -> dict[int, bytes]:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.skip_frame = skip
            step = int(1 / (stream.time_base * stream.average_rate))
            return {frame.pts // step: frame.to_ndarray().tobytes() for frame in container.decode(stream)}

    whole, alone = decoded("DEFAULT"), decoded("NONREF")
    assert sorted(whole) == [*range(49)]
    assert set(range(0, 49, layered)) <= set(alone)
    assert len(alone) <= 49 / layered + 3  # the last before a key frame, too
    assert all(whole[at] == pixels for at, pixels in alone.items())


def test_share_that_moves():
    field, some = torch.zeros(2, 3, 4, 5), torch.ones(3, 4, 5, dtype=torch.bool)
    field[0, 1:, :2] = 0.8
    field[1, 1:, 2] = -0.4
    some[0] = False
    motion = Motion(field, field, some, some)
    assert moving(motion) == pytest.approx(0.5)
    assert moving(motion, step=2) == 0
    assert moving(Motion(field, field, ~some | False, some)) == 0  # only the first frame, which stands still
    assert moving(Motion(field, field, some & False, some)) is None


# ---------------------------------------------------------------------------- lists and names


def test_parts_of_videos_stay_parts_of_one(source, tmp_path):
    rows = ["path,label,start,end,group", "one/sound.mp4,wave,0,0.8,ann", "one/sound.mp4,nod,0.8,1.6,ann"]
    (tmp_path / "clips.csv").write_text("\n".join([*rows, "two/stream.mpg,nod,,,bob\n"]))
    outcome = prepare(f"table:{tmp_path / 'clips.csv'}?videos={source}", tmp_path / "out", workers=0)
    assert len(outcome.rows) == 2
    assert [
        (item.path.relative_to(tmp_path / "out").as_posix(), item.label, item.start, item.end, item.group)
        for item in find(tmp_path / "out")
    ] == [
        ("one/sound.mp4", "wave", 0, 0.8, "ann"),
        ("one/sound.mp4", "nod", 0.8, 1.6, "ann"),
        ("two/stream.mp4", "nod", None, None, "bob"),
    ]


def test_names_that_would_be_the_same(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "a.mkv", "A.avi", "a_mp4.mp4"):
        write(tmp_path / "in" / name, numbered(3), 10)
    prepare(tmp_path / "in", tmp_path / "out", workers=0)
    names = [item.path.name for item in find(tmp_path / "out")]
    assert len({name.lower() for name in names}) == 4
    assert "A.mp4" in names


# ---------------------------------------------------------------------------- what goes wrong


def test_quarantine(bad, clips, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for path in [*bad.values(), clips / "a" / "0.mp4"]:
        shutil.copy(path, tmp_path / "in")
    assert run(["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "0", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    listed = {Path(row["source"]).stem: row["problem"] for row in table(tmp_path / "out" / "quarantine.csv")}
    assert set(listed) == {"zero", "text", "truncated", "audio", "flipped"}
    assert said["quarantined"] == 5
    assert {Path(path).stem: why for path, why in said["problems"].items()} == listed
    assert listed["zero"] == "is empty (0 bytes); copy it anew, or leave it out"
    assert re.match(r"\d+ of 60 frames are lost to damage", listed["flipped"])
    assert [item.path.name for item in find(tmp_path / "out")] == ["0.mp4", "one.mp4", "short.mp4"]
    assert {file.name for file in (tmp_path / "out").rglob("*.mp4")} == {"0.mp4", "one.mp4", "short.mp4"}

    assert (
        run(["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "0", "--lost", "0.9", "--retry"]) == 3
    )
    text = " ".join(capsys.readouterr().out.split())
    assert "quarantined 4" in text
    assert re.search(r"flipped.mp4: \d+ of 60 frames replaced, 7 packets damaged", text)
    assert probe(tmp_path / "out" / "flipped.mp4").frames == 60


def test_where_no_file_can_be_prepared_the_lists_are_not_advertised(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.mp4").touch()
    assert run(["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "0"]) == 3
    text = "".join(capsys.readouterr().out.split())
    assert f"nothingwasprepared;{tmp_path / 'out' / 'quarantine.csv'}sayswhy" in text
    assert "--data" not in text


def test_a_file_that_turned_bad_leaves_nothing_behind(clips, tmp_path):
    origin, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(clips / "a", origin)
    assert prepare(origin, out, workers=0).quarantined == ()
    (origin / "2.mp4").write_bytes(b"")
    outcome = prepare(origin, out, workers=0)
    assert [Path(row.source).name for row in outcome.quarantined] == ["2.mp4"]
    names = {"0.mp4", "4.mp4", "6.mp4"}
    assert {item.path.name for item in find(out)} == {file.name for file in out.rglob("*.mp4")} == names
    shutil.copy(clips / "a" / "2.mp4", origin)
    assert prepare(origin, out, workers=0).new == 1
    assert {item.path.name for item in find(out)} == names | {"2.mp4"}


def test_lost_frames_are_replaced(tmp_path):
    """By those before them, at the end, too: the count stays, and so the times of all others."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "film.mp4"
    write(path, numbered(24), 10, options={"g": "12", "bf": "0"})
    with av.open(os.fspath(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    data = bytearray(path.read_bytes())
    for place in (places[7], *places[22:]):
        data[place] ^= 0xFF  # the length of a unit
    path.write_bytes(data)
    (row,) = prepare(tmp_path / "in", tmp_path / "out", lost=0.9, workers=0).rows
    shown = numbers(tmp_path / "out" / "film.mp4")
    assert row.frames == len(shown) == 24
    assert shown[12:] == [*range(12, 22), 21, 21]
    assert shown[6:8] == [6, 6]
    assert row.damaged == 3
    assert row.note == "3 of 24 frames replaced, 3 packets damaged"


def test_a_file_that_breaks_off(tmp_path):
    write(tmp_path / "film.mp4", numbered(60), 10, options={"g": "5", "bf": "0"})
    data = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(data[: len(data) // 2])
    (row,) = prepare(tmp_path / "film.mp4", tmp_path / "out", workers=0).quarantined
    assert re.match(r"breaks off after \d\.\d of 6\.0 seconds", row.problem)


honest = module.remade


def deadly(job, **options):
    """In a worker, which knows nothing of monkeypatch."""
    if job.source.name == "old.avi":
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(job, **options)


def test_a_file_that_ends_its_process(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "remade", deadly)
    outcome = prepare(source / "one", tmp_path / "out", workers=1)  # with several: test_check.py
    (row,) = outcome.quarantined
    assert (Path(row.source).name, "the process that read this file died" in row.problem) == ("old.avi", True)
    assert len(find(tmp_path / "out")) == 2


def test_overlaps_are_refused(source, tmp_path):
    shutil.copytree(source / "one", tmp_path / "in" / "one")
    before = known(tmp_path)
    (tmp_path / "list.csv").write_text("path\nin/one/sound.mp4\n")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "one")
    for origin, out, why in [
        ("in", "in", "is the source itself"),
        ("in", "in/one/new", "inside the source"),
        ("in/one", "in", "which is to be written"),
        ("list.csv", "in/one", "which is to be written"),
        ("list.csv", ".", "which is to be written"),
        ("in", "link", "inside the source"),
        ("link", "in/one", "is the source itself"),
    ]:
        with pytest.raises(ValueError, match=why):
            prepare(tmp_path / origin, tmp_path / out, workers=0)
    (tmp_path / "list.csv").unlink()
    assert known(tmp_path)[0].keys() - before[0].keys() <= {"link"}


def test_other_settings_and_other_contents_are_refused(source, tmp_path):
    one = source / "one" / "old.avi"
    prepare(one, tmp_path / "out", workers=0)
    with pytest.raises(ValueError, match=r"begun in another way: crf was 21, now 30; layered was 1, now 2\. Say"):
        prepare(one, tmp_path / "out", Encoding(crf=30, layered=2), workers=0)
    with pytest.raises(ValueError, match=r"source was .*old\.avi, now .*sound\.mp4"):
        prepare(source / "one" / "sound.mp4", tmp_path / "out", workers=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds something else \(thesis.tex\)"):
        prepare(one, tmp_path / "full", workers=0)
    book = Notebook(tmp_path / "out", (0, 1))
    with book.open():
        (book.scratch / ".7.mp4").touch()  # under way
        with pytest.raises(ValueError, match="another process is at work on part 0 of 1"):
            prepare(one, tmp_path / "out", workers=0)
        assert (book.scratch / ".7.mp4").exists()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"short_side": 8}, "8 pixels; expected 16"),
        ({"crf": 60}, "expected 0"),
        ({"speed": "quick"}, "no speed 'quick'; x264 has ultrafast"),
        ({"layered": 5}, "multiple of layered, 5"),
        ({"layered": 0}, "expected 1"),
        ({"keyframes": 0}, "expected 1 or more"),
    ],
)
def test_wrong_settings(wrong, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        Encoding(**wrong)


def test_a_full_disk_is_no_reason_for_quarantine(source, tmp_path):
    """The system refuses files above 20 kB, as it would on a full disk."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            prepare(source / "one", tmp_path / "out", Encoding(crf=0), workers=1)
        except DiskError as error:
            os._exit(40 + ("cannot be written" in str(error)))
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=limited)
    child.start()
    child.join(30)
    assert child.exitcode == 41
    assert [*(tmp_path / "out").rglob("*.mp4")] == []
    outcome = prepare(source / "one", tmp_path / "out", Encoding(crf=0), workers=0)
    assert outcome.totals()["videos"] == 3
    assert all(row.psnr == math.inf for row in outcome.rows)  # crf 0 loses nothing, and x264 said so
    assert json.loads(json.dumps(outcome.to_dict(), allow_nan=False))["psnr"] is None
    assert [row["psnr"] for row in known(tmp_path / "out")[1]] == ["inf"] * 3
    assert all(row.psnr == math.inf for row in prepare(source / "one", tmp_path / "out", Encoding(crf=0)).rows)


def test_room_is_asked_for_where_it_is_what_lacks(source, tmp_path, capsys):
    """The device that is always full takes the place of a shard; a file that of the folder with the notes."""
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    (out / f".0of1-00000.{os.getpid()}.tar").symlink_to("/dev/full")
    command = ["prepare", str(source / "one"), str(out), "--shards", "1", "--workers", "0"]
    assert run(command) == 1
    assert "No space left on device. Make room; what is done stays, and the same" in capsys.readouterr().err
    assert run(command) == 0
    capsys.readouterr()
    other.mkdir()
    (other / ".prepare").touch()
    assert run(["prepare", str(source / "one"), str(other), "--workers", "0"]) == 1
    said = capsys.readouterr().err
    assert "cannot be written: " in said
    assert "Mend that; what is done stays, and the same command goes on" in said
    assert "Make room" not in said
    (tmp_path / "file").touch()
    assert run(["prepare", str(source / "one"), str(tmp_path / "file"), "--workers", "0"]) == 2
    assert "file is a file; name a new folder" in capsys.readouterr().err


# ---------------------------------------------------------------------------- stopped and shared


def forked(work) -> int:
    """The id of a process of its own group that does it."""
    if child := os.fork():
        return child
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with suppress(BaseException):
        os._exit(work())
    os._exit(99)


def until(done) -> None:
    for _ in range(3000):  # a minute: two processes start, and the machine may be busy
        if done():
            return
        time.sleep(0.02)
    raise TimeoutError


SLOW = ["--speed", "veryslow", "--crf", "5", "--keyframes", "250"]


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Path:
    """Twelve videos that take a moment each."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(12):
        write(folder / f"{number}.mp4", numbered(60, 144, 192, number), 10, options={"preset": "ultrafast"})
    return folder


def test_ctrl_c_while_workers_load_is_heard_once(many, tmp_path, capfd):
    command = ["prepare", str(many), str(tmp_path / "out"), "--workers", "2"]
    child = forked(lambda: run(command))
    children = Path(f"/proc/{child}/task/{child}/children")
    until(lambda: len(children.read_text().split()) >= 2)  # the resource tracker, and a worker
    time.sleep(0.6)  # it imports
    os.killpg(child, signal.SIGINT)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("how", "then"), [("kill all", "0"), ("kill first", "0"), ("terminate", "0"), ("interrupt", "2")]
)
def test_stopped_work_goes_on(many, tmp_path, how, then, capfd):
    """What goes on has `then` workers: starting one takes longer than the films."""
    out = tmp_path / "out"
    command = ["prepare", str(many), str(out), *SLOW, "--workers"]
    child = forked(lambda: run([*command, "2"]))
    notes = out / ".prepare" / "0of1.jsonl"
    until(lambda: notes.exists() and notes.read_text().count("\n") >= 2)
    workers = [int(pid) for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
    assert len(workers) >= 2
    if how in ("kill all", "interrupt"):
        os.killpg(child, signal.SIGKILL if how == "kill all" else signal.SIGINT)
    else:
        os.kill(child, signal.SIGKILL if how == "kill first" else signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    if how == "terminate":
        assert os.waitstatus_to_exitcode(status) == 143
    if how == "interrupt":
        assert os.waitstatus_to_exitcode(status) == 130
    if how in ("terminate", "interrupt"):
        assert re.search(
            r"stopped; \d+ of 12 files are done and stay; the same command goes on", capfd.readouterr().err
        )
    until(
        lambda: (
            not any(
                Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers
            )
        )
    )
    finished = known(out)[0]
    lines = [json.loads(line)["row"] for line in notes.read_text().splitlines() if line.endswith("}}")]
    assert 2 <= len(lines) < 12
    for row in lines:
        assert hashlib.sha256((out / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    with pytest.raises(ValueError, match="is not finished"):
        find(out)
    with notes.open("a") as file:
        file.write('{"row": {"source": "half a li')  # as a kill could leave it
    assert run([*command, then, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["new"] == 12 - len(lines)
    assert prepare(many, out, Encoding(keyframes=250, crf=5, speed="veryslow")).new == 0
    now, report = known(out)
    assert all(now[row["path"]] == finished[row["path"]] for row in lines)  # not done again
    assert len(report) == len(find(out)) == 12
    assert all(len(numbers(item.path)) == 60 for item in find(out)[:2])
    assert not [file for file in out.rglob(".*") if file.is_file()]


def lasting(first: bool) -> bool:
    """A piece of work that is done soon, or takes ten minutes."""
    for _ in range(20 if first else 30_000):
        alive()
        time.sleep(0.02)
    return first


def test_work_under_way_stops_at_once():
    begin = time.monotonic()

    def interrupted(count: int, result: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_processes(lasting, [True, False, False], 2, interrupted, lambda job: False)
    assert time.monotonic() - begin < 300  # starting processes may take long on a busy machine


def test_parts_make_the_whole(source, prepared, tmp_path):
    out, how = tmp_path / "out", Encoding(short_side=240)
    first = prepare(source, out, how, part=(1, 2), workers=0)
    assert (first.new, first.left, len(first.rows)) == (3, 3, 3)
    with pytest.raises(ValueError, match="is not finished"):
        find(out)
    second = prepare(source, out, how, part=(0, 2), workers=0)
    assert (second.new, second.left, len(second.rows)) == (3, 0, 6)
    for name in ("videos.csv", "quarantine.csv"):
        assert (out / name).read_text() == (prepared / name).read_text()
    drop = ("bytes", "psnr", "moving", "sha256")  # x264 does not promise the same bytes
    reports = [[{k: v for k, v in row.items() if k not in drop} for row in known(each)[1]] for each in (out, prepared)]
    assert reports[0] == reports[1]
    with pytest.raises(ValueError, match=r"part 2/2 is none: expected 0/2 to 1/2"):
        prepare(source, out, how, part=(2, 2))


def test_what_changed_since_counts_whichever_part_it_was_in(source, tmp_path):
    origin, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source / "one", origin)
    for index in (0, 1):
        prepare(origin, out, part=(index, 2), workers=0)
    os.utime(origin / "old.avi", (1, 1))  # of 0/2 or of 1/2: their notes sort before and after those of 0/1
    os.utime(origin / "sound.mp4", (1, 1))
    assert (again := prepare(origin, out, workers=0)).new == 2
    assert again.left == 0
    assert prepare(origin, out, workers=0).new == 0


def test_a_script_without_a_guard_costs_no_videos(source, tmp_path):
    (tmp_path / "script.py").write_text(
        f"from pathlib import Path\nfrom tubelet.data.prepare import prepare\n"
        f"prepare({str(source / 'one')!r}, Path({str(tmp_path / 'out')!r}), workers=1)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no worker process could be started" in done.stderr
    assert prepare(source / "one", tmp_path / "out", workers=0).new == 3


def test_only_what_is_new_or_changed_is_done_again(source, tmp_path):
    origin, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source / "one", origin)
    assert prepare(origin, out, workers=0).new == 3
    before = known(out)[0]
    assert prepare(origin, out, workers=0).new == 0
    assert known(out)[0].keys() == before.keys()
    shutil.copy(origin / "sound.mp4", origin / "new.mp4")
    os.utime(origin / "old.avi", (1, 1))
    (out / "sound.mp4").unlink()
    os.truncate(out / "rate.mp4", 1000)
    outcome = prepare(origin, out, workers=0)
    assert outcome.new == 4
    assert [item.path.name for item in find(out)] == ["new.mp4", "old.mp4", "rate.mp4", "sound.mp4"]
    assert known(out)[0]["rate.mp4"][1] == before["rate.mp4"][1]
    (origin / "new.mp4").unlink()
    assert prepare(origin, out, workers=0).new == 0
    assert len(find(out)) == 3


def test_verb(source, tmp_path, capsys):
    assert run(["prepare", str(source / "one"), str(tmp_path / "out"), "--workers", "0", "--part", "0/1"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "videos 3, 3 files done now" in text
    assert "quarantined none" in text
    for wrong, why in {"3": "i/n", "a/b": "i/n", "-1/3": "i/n", "1/1": "0/1, which", "0/0": "0/1, which"}.items():
        assert run(["prepare", str(source), str(tmp_path / "no"), "--part", wrong]) == 2
        assert f"expected {why}" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
    assert run(["prepare", str(source), str(tmp_path / "no"), "--shards", "-5"]) == 2


def test_filmed_videos(real, tmp_path):
    """Of several kinds, the hardest with them: 38 dB and more at the default quality, all times as they were."""
    (tmp_path / "in").mkdir()
    for name in ("cityCC0.mpg", "opencv_tree.avi", "asl_eat.mkv", "pyfeat_face_noface.mov", "sam2_01_dog.mp4"):
        (tmp_path / "in" / name).symlink_to(real / "everyday" / name)
    outcome = prepare(tmp_path / "in", tmp_path / "out", workers=2)
    assert outcome.quarantined == ()
    assert len(outcome.rows) == 5
    for row in outcome.rows:
        assert row.psnr is not None, "x264 did not say how far off it is"
        assert row.psnr >= 38  # infinite where nothing was lost
        assert np.abs(probe(Path(row.source)).seconds - probe(tmp_path / "out" / row.path).seconds).max() < 1e-9
