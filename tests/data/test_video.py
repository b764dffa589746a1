"""Frames out of files: every codec and container against the ffmpeg command line; broken files; workers; memory."""

import gc
import hashlib
import multiprocessing
import os
import zlib
from fractions import Fraction
from pathlib import Path

import av
import films
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tubelet.data import index, video
from tubelet.data.video import SUFFIXES, VideoError, frames_at, frames_when, probe, write

EXACT = ("h264", "hevc", "vp9", "av1", "vp8")
TURNED = [name for name in films.KINDS if name.startswith(("turned", "mirrored"))]
SEEKS = [
    "h264_open.mp4", "h264_open.mkv", "h264_open.ts", "h264_refresh.mp4", "h264_fields.mp4", "h264.avi", "h264_cut.mp4",
    "hevc_open.mp4", "hevc_layers.mp4", "hevc_cut.mkv", "av1.mp4", "vp9.webm", "vp8.webm",
    "mpeg2.mpg", "mpeg2.ts", "mpeg4.mp4", "xvid.avi", "msmpeg4.avi", "varying.mkv",
]  # fmt: skip


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """Makes a video by name, once."""
    folder = tmp_path_factory.mktemp("films")
    write(folder / "source.mp4", films.moving_square(), 30, options={"qp": "0", "preset": "ultrafast"})
    return lambda name: films.make(folder, name)


@pytest.fixture(scope="session")
def long(tmp_path_factory) -> Path:
    """300 frames, key frames 50 apart, the index at the start of the file."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write(path, films.moving_square(300), 30, options={"g": "50", "movflags": "+faststart", "crf": "28"})
    return path


def hashed(path: Path, indices) -> dict[int, str]:
    """Hashes of frames before conversion, by index."""
    known, damage = probe(path), index.Damage()
    with video.opened(path) as (container, stream):
        return {
            i: hashlib.md5(b"".join(map(packed, frame.planes, [frame] * 4))).hexdigest()
            for i, frame in video._decoded(known, container, stream, np.asarray(indices), damage, True)
        }


def packed(plane, frame) -> bytes:
    """The bytes of a plane without what pads its rows."""
    depth = frame.format.components[0].bits
    row = frame.width * 3 if len(frame.planes) == 1 and frame.format.is_rgb else plane.width * (2 if depth > 8 else 1)
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :row].tobytes()


# ---------------------------------------------------------------------------- every codec and container


@pytest.mark.parametrize("name", films.KINDS)
def test_every_frame_is_what_ffmpeg_decodes(film, name):
    path = film(name)
    found, expected = probe(path), films.planes(path)
    assert found.frames == len(expected) > 0
    assert found.seconds[0] == 0
    assert (np.diff(found.seconds) > 0).all()
    if found.codec.removeprefix("lib").startswith((*EXACT, "dav1d")):
        assert hashed(path, range(found.frames)) == dict(enumerate(expected))
    height, width = found.height, found.width
    if height % 2 == 0:  # halved chroma of odd sizes is filtered in as many ways as there are programs
        apart = np.abs(
            frames_at(path, range(found.frames)).frames.numpy().astype(int) - films.pictures(path, height, width)
        )
        assert apart.max() <= 2


@pytest.mark.parametrize("name", SEEKS)
def test_any_choice_of_frames_equals_the_full_decode(film, name):
    path = film(name)
    known = probe(path)
    whole = frames_at(known, range(known.frames))
    assert whole.damaged == 0

    @given(st.lists(st.integers(0, known.frames - 1), min_size=1, max_size=6))
    @settings(max_examples=12, suppress_health_check=list(HealthCheck))
    def check(indices):
        clip = frames_at(known, indices)
        assert clip.damaged == 0
        assert torch.equal(clip.frames, whole.frames[indices])
        assert torch.equal(clip.seconds, whole.seconds[indices])

    check()


def test_only_what_is_needed_is_decoded(film, monkeypatch):
    counted, fed = [], video.fed

    def counting(packets, codec, damage):
        for frame in fed(packets, codec, damage):
            counted.append(frame.pts)
            yield frame

    known = probe(film("h264_open.mp4"))
    monkeypatch.setattr(video, "fed", counting)
    frames_at(known, [70, 70, 71])
    assert len(counted) < 24  # not from the start
    counted.clear()
    frames_at(known, [2, 90])
    assert len(counted) < 40  # not what lies between
    counted.clear()
    frames_at(known, range(0, 64, 4))
    assert len(counted) < 45  # not all frames that nothing refers to


def test_colours_sizes_and_grey(film):
    path = film("h264.mp4")
    assert frames_at(path, [5]).frames.shape == (1, 120, 160, 3)
    small = frames_at(path, [0, 5], size=60)
    assert small.frames.shape == (2, 60, 80, 3)
    expected = films.pictures(path, 60, 80, scale="scale=80:60:flags=bilinear,format=yuv420p")[[0, 5]]
    assert np.abs(small.frames.numpy().astype(int) - expected).mean() < 0.5
    grey = frames_at(path, [0, 5], size=60, gray=True).frames
    expected = films.pictures(path, 60, 80, "gray", scale="scale=80:60:flags=bilinear")[[0, 5]]
    assert np.abs(grey.numpy().astype(int) - expected).max() <= 1
    assert frames_at(path, [0], size=(32, 48)).frames.shape == (1, 32, 48, 3)
    grey = frames_at(path, [7], gray=True).frames
    assert np.abs(grey.numpy().astype(int) - films.pictures(path, 120, 160, "gray")[[7]]).max() <= 1


@pytest.mark.parametrize("name", TURNED)
def test_rotation_is_that_of_ffmpeg(film, name):
    path = film(name)
    known = probe(path)
    assert (known.height, known.width) == ((160, 120) if "90" in name or "270" in name else (120, 160))
    if "turned" in name:
        assert known.rotation == int(name.split("_")[1].split(".")[0])
    expected = films.pictures(path, known.height, known.width)[[3, 50]]
    assert np.abs(frames_at(path, [3, 50]).frames.numpy().astype(int) - expected).max() <= 2
    assert frames_at(path, [3], size=60).frames.shape[1:3] == ((80, 60) if known.height == 160 else (60, 80))


def test_indices_may_depend_on_the_index(film):
    path = film("h264.mp4")
    clip = frames_at(str(path), lambda known: [known.frames - 1, 0])
    assert torch.equal(clip.frames, frames_at(path, torch.tensor([95, 0])).frames)
    assert clip.seconds.tolist() == pytest.approx([95 / 30, 0])


# ---------------------------------------------------------------------------- time


@pytest.mark.parametrize("name", ["varying.mp4", "varying.mkv", "varying.avi"])
def test_a_varying_rate_is_seen_and_read_by_time(film, name):
    known = probe(film(name))
    kept = np.array([n for n in range(films.FRAMES) if n % 7 != 3])
    assert known.variable
    assert known.seconds == pytest.approx(kept / 30, abs=1.5e-3)  # Matroska counts milliseconds
    # At the time of a dropped frame the one before is still on screen.
    clip = frames_when(known, [2 / 30 + 0.002, 3 / 30 + 0.002, 4 / 30 + 0.002, -1, 99])
    assert clip.seconds.tolist() == known.seconds[[2, 2, 3, 0, -1]].tolist()
    assert torch.equal(clip.frames, frames_at(known, [2, 2, 3, 0, known.frames - 1]).frames)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 12, 30, 59.94])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_rounded_times_are_a_constant_rate(tmp_path, rate, ending):
    path = tmp_path / f"film.{ending}"
    write(path, films.moving_square(50, 48, 64), rate, options={"bf": "0"})
    known = probe(path)
    assert not known.variable
    assert known.fps == pytest.approx(float(rate), rel=1e-3)
    assert known.duration == pytest.approx(50 / float(rate), rel=1e-3)
    # The time that a frame is said to have shows that frame.
    assert torch.equal(frames_when(known, known.seconds).seconds, torch.from_numpy(known.seconds.copy()))


# ---------------------------------------------------------------------------- what is wrong


def test_what_is_not_a_video_is_said(film, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a film\n" * 200)
    whole = film("h264.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    films.subprocess.run(
        [films.FFMPEG, "-v", "error", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", tmp_path / "sound.mp4"],
        check=True,
    )
    for name, words in {
        "nowhere.mp4": "not there",
        "": "a folder",
        "empty.mp4": "0 bytes",
        "text.mp4": "does not open",
        "cut.mp4": "moov atom not found",
        "sound.mp4": "no video stream, only audio",
    }.items():
        for read in (probe, lambda path: frames_at(path, [0])):
            with pytest.raises(VideoError, match=words) as caught:
                read(tmp_path / name)
            assert str(tmp_path) in str(caught.value)


def test_an_index_outside_is_said_with_the_numbers(film):
    path = film("h264.mp4")
    for wrong in (96, -1):
        with pytest.raises(VideoError, match=rf"frame {wrong} of .*h264.mp4.*h264 in .*96 frames: 0 to 95"):
            frames_at(path, [0, wrong])
    with pytest.raises(VideoError, match="at least one"):
        frames_at(path, [])


def test_flipped_bits_cost_few_frames(long, tmp_path):
    path, whole = tmp_path / "flipped.mp4", frames_at(long, range(300)).frames
    data, rng = bytearray(long.read_bytes()), np.random.default_rng(0)
    with video.opened(long) as (container, stream):
        places = [(packet.pos, packet.size) for packet in video.demuxed(container, stream)]
    for pos, size in [places[i] for i in rng.choice(np.arange(60, 300), 8, replace=False)]:
        data[pos + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    clip = frames_at(path, range(300))
    assert clip.frames.shape == whole.shape
    near = (clip.frames.float() - whole.float()).abs().mean((1, 2, 3)) < 12  # damage spreads to the next key frame
    assert near.sum() >= 285


def test_frames_that_the_decoder_makes_up_are_counted(tmp_path):
    """Flipped bits that H.264 gets over, part of the frame made up: as many as FFmpeg marks; none where all is well."""
    whole, path, rng = tmp_path / "whole.mp4", tmp_path / "flipped.mp4", np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = np.stack([np.roll(picture, (3 * t, 5 * t), (0, 1)) for t in range(40)])
    write(whole, frames, 10, options={"g": "12"})
    data = bytearray(whole.read_bytes())
    with video.opened(whole) as (container, stream):
        packets = [(packet.pos, packet.size) for packet in video.demuxed(container, stream)]
    for pos, size in packets[::6]:
        data[pos + size // 2] ^= 16
    path.write_bytes(data)
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"  # with threads FFmpeg marks none
        marked = sum(frame.is_corrupt for frame in container.decode(video=0))
    assert marked == len(packets[::6])
    assert frames_at(path, range(40)).damaged == marked
    assert frames_at(whole, range(40)).damaged == 0


def test_lost_packets_are_counted_and_their_frames_replaced(long, tmp_path):
    path = tmp_path / "lost.mp4"
    data = bytearray(long.read_bytes())
    with video.opened(long) as (container, stream):
        packets = [(packet.pts, packet.pos, packet.size) for packet in video.demuxed(container, stream)]
    last = max(packets)  # nothing refers to the frame that is shown last
    data[last[1] : last[1] + last[2]] = bytes([255]) * last[2]
    path.write_bytes(data)
    clip = frames_at(path, [297, 298, 299])
    assert clip.damaged == 1
    assert torch.equal(clip.frames[2], clip.frames[1])
    assert torch.equal(frames_at(path, [299]).frames, clip.frames[1:2])  # though nobody asked for that one
    assert frames_at(path, [290]).damaged == 0


def test_what_comes_before_the_break_is_kept(long, tmp_path):
    whole, data = frames_at(long, range(100)).frames, long.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])  # the index is there, and tells of 300 frames
    clip = frames_at(path, range(100))
    assert clip.damaged == 0
    assert torch.equal(clip.frames, whole)
    end = frames_at(path, lambda known: [0, known.frames - 1])
    assert end.damaged <= 1
    assert not torch.equal(end.frames[0], end.frames[1])


def test_nothing_decodes(long, tmp_path):
    path, data = tmp_path / "noise.mp4", bytearray(long.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes([255]) * (len(data) - start)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"packets, none of which decodes|does not open"):
        probe(path)


# ---------------------------------------------------------------------------- processes and memory


def crc(path: str) -> int:
    return zlib.crc32(frames_at(path, range(0, 64, 4), size=64).frames.numpy().tobytes())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_every_kind(film, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    path = str(film("h264_open.mp4"))
    expected = crc(path)
    with multiprocessing.get_context(method).Pool(2 if method == "fork" else 1) as pool:  # others import torch anew
        assert pool.map_async(crc, [path] * 4).get(60) == [expected] * 4


def resident() -> int:
    """MiB in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4"])
def test_memory_does_not_grow(film, name):
    path = film(name)
    for round in range(2):
        for _ in range(200 if round else 40):
            index._memory.clear()
            frames_at(path, [0, 9])
            with pytest.raises(VideoError):
                frames_at(path, [999])
        gc.collect()
        before = resident() if not round else before
    assert resident() - before < 20


def test_the_index_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    write(path, films.moving_square(20, 48, 64), 10)
    known = probe(path)
    assert probe(str(path)) is known
    assert not known.seconds.flags.writeable
    write(path, films.moving_square(30, 48, 64), 10)
    assert probe(path).frames == 30
    monkeypatch.setattr(index, "_MEMORY_FRAMES", 40)
    write(tmp_path / "other.mp4", films.moving_square(30, 48, 64), 10)
    probe(tmp_path / "other.mp4")
    assert probe(path).frames == 30
    assert len(index._memory) == 1


def test_a_file_that_is_replaced_while_it_is_indexed_is_not_taken_for_the_old_one(tmp_path, monkeypatch):
    path, other = tmp_path / "film.mp4", tmp_path / "other.mp4"
    write(path, films.moving_square(20, 48, 64), 10)
    write(other, films.moving_square(30, 48, 64), 10)
    honest = video._indexed

    def slow(*told):  # the file is open, and another takes its place
        if other.exists():
            other.replace(path)
        return honest(*told)

    monkeypatch.setattr(video, "_indexed", slow)
    assert probe(path).frames == 20
    assert probe(path).frames == 30


def test_memory_holds_so_many_frames_whatever_was_cleared_or_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_MEMORY_FRAMES", 100)
    index._memory.clear()
    for number in range(5):
        (tmp_path / str(number)).touch()
    write(tmp_path / "film.mp4", films.moving_square(30, 48, 64), 10)
    film = probe(tmp_path / "film.mp4")
    for _ in range(4):  # the same three again and again
        for number in range(3):
            index.remember(index.name_of(tmp_path / str(number)), film)
        assert [name[0][-1] for name in index._memory][-3:] == ["0", "1", "2"]
    index.remember(index.name_of(tmp_path / "3"), film)
    index._memory.clear()
    for number in range(5):
        index.remember(index.name_of(tmp_path / str(number)), film)
    assert [name[0][-1] for name in index._memory] == ["2", "3", "4"]


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open.mkv", "hevc.mp4", "mpeg2.mkv", "mpeg4.mp4"])
def test_nothing_is_read_before_the_key_frame_that_a_frame_needs(film, name, monkeypatch):
    known, read, honest = probe(film(name)), [], video.demuxed
    monkeypatch.setattr(video, "demuxed", lambda *asked: (read.append(packet) or packet for packet in honest(*asked)))
    first = int(known.starts[known.starts[:, 1] >= 32][0, 0])
    frames_at(known, [first])
    assert len(read) == 1
    assert read[0].is_keyframe


# ---------------------------------------------------------------------------- writing


def test_written_is_read_again(tmp_path):
    frames = films.moving_square(12, 48, 64)
    write(tmp_path / "a.mp4", torch.from_numpy(frames), 12.5, options={"crf": "1"}, pixels="yuv444p")
    back = frames_at(tmp_path / "a.mp4", range(12))
    assert np.abs(back.frames.numpy().astype(int) - frames).mean() < 2
    assert back.seconds.tolist() == pytest.approx(np.arange(12) / 12.5)
    write(tmp_path / "odd.mp4", frames[:, :47, :63], 10, pixels="yuv444p")
    assert frames_at(tmp_path / "odd.mp4", [3]).frames.shape == (1, 47, 63, 3)


def test_a_film_is_written_whole_or_not_at_all(tmp_path):
    frames = films.moving_square(4, 48, 64)
    write(tmp_path / "film.mp4", frames, 10)
    before = (tmp_path / "film.mp4").read_bytes()
    with pytest.raises(VideoError, match="needs even sizes, got 47x64"):
        write(tmp_path / "film.mp4", frames[:, :47], 10)
    with pytest.raises(VideoError, match="cannot be written with nonsense"):
        write(tmp_path / "film.mp4", frames, 10, codec="nonsense")
    with pytest.raises(VideoError, match="cannot be written"):
        write(tmp_path / "film.mp4", frames, 10, codec="libvpx", options={"b": "-5"}, pixels="gray")
    assert (tmp_path / "film.mp4").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


# ---------------------------------------------------------------------------- filmed videos


def test_filmed_videos(real):
    paths = sorted(p for p in (real / "everyday").iterdir() if p.suffix in SUFFIXES)
    assert paths, f"no videos in {real / 'everyday'}"
    rng = np.random.default_rng(0)
    for path in paths:
        known, expected = probe(path), films.planes(path)
        assert known.frames == len(expected), path
        indices = rng.integers(known.frames, size=4)
        assert hashed(path, indices) == {int(i): expected[i] for i in indices}, path
