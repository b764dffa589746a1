"""Decoded frames against the ffmpeg command line: which frames, how many, when, and every byte of them."""

import os
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data import video as module
from tubelet.data.video import VideoError, frames_at, frames_when, probe, write

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()

# name: (ending, encoder, options); lossy ones of the first group are compared bit for bit before colour conversion.
EXACT = {
    "h264": ("mp4", "libx264", {"preset": "fast", "g": "30"}),  # B-frames, some of which are references
    "h264 open gop": ("mkv", "libx264", {"x264-params": "open-gop=1:keyint=12:bframes=4:b-pyramid=normal"}),
    "h264 no b": ("mov", "libx264", {"bf": "0", "g": "12"}),
    "hevc": ("mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=20:open-gop=1"}),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "20"}),
    "av1": ("mkv", "libsvtav1", {"preset": "12", "g": "20"}),
}
CLOSE = {
    "mpeg2": ("mpg", "mpeg2video", {"g": "12", "bf": "2", "b": "4M"}),
    "mpeg4": ("avi", "mpeg4", {"g": "12", "q": "3"}),
    "msmpeg4": ("avi", "msmpeg4", {"g": "12", "b": "2M"}),
    "mjpeg": ("avi", "mjpeg", {"q": "2"}),
}
CODECS = EXACT | CLOSE
FRAMES = 45


def scene(frames: int = FRAMES, height: int = 96, width: int = 128) -> np.ndarray:
    """A coloured square that moves over noise; every frame differs from every other."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 160, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    video = np.repeat(ground[None], frames, 0)
    for t, frame in enumerate(video):
        left = 2 * t % (width - 24)
        frame[20:44, left : left + 24] = (230, 40, 20 + 4 * t)
    return video


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("codecs")
    paths = {}
    for name, (ending, encoder, options) in CODECS.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.{ending}"
        pixels = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        write(paths[name], scene(), 25, codec=encoder, pixels=pixels, options=options)
    return paths


def ffmpeg(path: Path, *options: str, before: tuple[str, ...] = ()) -> bytes:
    """What the command line decodes, every frame once, as raw bytes."""
    command = [FFMPEG, "-v", "error", *before, "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", *options]
    return subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout


def rgb(path: Path, height: int, width: int, **more) -> np.ndarray:
    flags = ("-pix_fmt", "rgb24", "-sws_flags", "bilinear")
    return np.frombuffer(ffmpeg(path, *flags, **more), np.uint8).reshape(-1, height, width, 3)


def planes(path: Path, indices: list[int]) -> dict[int, bytes]:
    """Frames as they leave the decoder, before any conversion."""
    video = probe(path)
    with module._opened(path) as (container, stream):
        decoded = module._decoded(video, container, stream, np.array(indices), [], True)
        return {index: frame.to_ndarray().tobytes() for index, frame in decoded}


@pytest.mark.parametrize("name", EXACT)
def test_decoded_planes_equal_ffmpeg_bit_for_bit(files, name):
    expected = ffmpeg(files[name], "-pix_fmt", "yuv420p")
    size = 96 * 128 * 3 // 2
    assert len(expected) == FRAMES * size
    ours = planes(files[name], list(range(FRAMES)))
    assert sorted(ours) == list(range(FRAMES))
    for index, plane in ours.items():
        assert plane == expected[index * size : (index + 1) * size], f"frame {index}"


@pytest.mark.parametrize("name", CODECS)
def test_frames_equal_ffmpeg_within_two_grey_levels(files, name):
    expected = rgb(files[name], 96, 128).astype(int)
    video = probe(files[name])
    assert video.frames == len(expected)
    ours = frames_at(video, range(video.frames)).frames.numpy().astype(int)
    assert np.abs(ours - expected).max() <= 2


@pytest.mark.parametrize("name", [*EXACT, "mpeg2", "mpeg4"])
@settings(max_examples=15, deadline=None)
@given(indices=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=8))
def test_any_choice_of_frames_equals_those_of_a_full_decode(files, name, indices):
    """In the order asked, with repeats, whatever had to be skipped or sought."""
    full = frames_at(files[name], range(FRAMES)).frames
    clip = frames_at(files[name], indices)
    assert clip.damaged == 0
    assert (clip.frames == full[indices]).all()
    np.testing.assert_allclose(clip.seconds.numpy(), probe(files[name]).seconds[indices])


@pytest.mark.parametrize("name", CODECS)
def test_probe_knows_size_rate_times_and_keys(files, name):
    video = probe(files[name])
    assert (video.width, video.height, video.rotation) == (128, 96, 0)
    assert video.fps == pytest.approx(25, rel=0.01)
    assert not video.variable
    np.testing.assert_allclose(np.diff(video.seconds), 0.04, atol=2e-3)
    assert video.duration == pytest.approx(FRAMES / 25, abs=0.05)
    assert video.keys[0] == 0
    # no key frame that is not one to the ffmpeg command line (an open group's may be left out)
    shown = subprocess.run(
        [FFMPEG, "-i", str(files[name]), "-vf", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"],
        capture_output=True,
        text=True,
    ).stderr
    keys = [int(n) for n, flag in re.findall(r"\bn:\s*(\d+).*?\biskey:(\d)", shown) if flag == "1"]
    assert set(video.keys.tolist()) <= set(keys)


def test_variable_frame_rate_goes_by_time(tmp_path, files):
    """Frames 0 to 19 at 25 a second, then every fourth: the command line drops them, we are told the times."""
    path = tmp_path / "variable.mkv"
    pick = "select='lt(n,20)+not(mod(n,4))'"
    command = [FFMPEG, "-v", "error", "-i", str(files["h264"]), "-vf", pick, "-fps_mode", "vfr"]
    subprocess.run([*command, "-c:v", "libx264", str(path)], check=True)
    video = probe(path)
    assert video.variable
    full = frames_at(video, range(video.frames)).frames
    for second in (0.0, 0.3, 0.8, 1.01, 1.3, 99.0):
        shown = max(int(np.searchsorted(video.seconds, second + 1e-6, side="right")) - 1, 0)
        assert (frames_when(video, [second]).frames[0] == full[shown]).all()
    assert video.seconds[-1] == pytest.approx(44 / 25, abs=0.01)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_is_that_of_ffmpeg(tmp_path, files, angle):
    path = tmp_path / "turned.mp4"
    command = [FFMPEG, "-v", "error", "-display_rotation", str(angle), "-i", str(files["h264"])]
    subprocess.run([*command, "-c", "copy", str(path)], check=True)
    video = probe(path)
    height, width = (128, 96) if angle != 180 else (96, 128)
    assert (video.height, video.width) == (height, width)
    expected = rgb(path, height, width).astype(int)  # autorotation is ffmpeg's default
    ours = frames_at(video, [0, 17]).frames.numpy().astype(int)
    assert ours.shape == (2, height, width, 3)
    assert np.abs(ours - expected[[0, 17]]).max() <= 2


def test_scaling_and_grey(files):
    video = probe(files["h264"])
    assert frames_at(video, [3], size=48).frames.shape == (1, 48, 64, 3)
    assert frames_at(video, [3], size=(40, 40)).frames.shape == (1, 40, 40, 3)
    grey = frames_at(video, [3], gray=True).frames
    assert grey.shape == (1, 96, 128, 1)
    luma = frames_at(video, [3]).frames.numpy() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey.numpy()[..., 0] - luma).mean() < 3


def test_odd_sizes(tmp_path):
    path = tmp_path / "odd.mkv"
    frames = scene(12)[:, :95, :127]
    write(path, frames, 10, pixels="yuv444p", options={"crf": "10"})
    assert np.abs(frames_at(path, range(12)).frames.numpy().astype(int) - frames).mean() < 4
    with pytest.raises(VideoError, match="even sizes, got 95x127"):
        write(tmp_path / "not.mp4", frames, 10)
    assert not (tmp_path / "not.mp4").exists()


# ---------------------------------------------------------------------------- what is wrong with files


def test_indices_outside_say_how_many_there_are(files):
    with pytest.raises(VideoError, match=r"frame 45 .*has 45 frames: 0 to 44"):
        frames_at(files["h264"], [3, 45])
    with pytest.raises(VideoError, match="frame -1"):
        frames_at(files["h264"], [-1])
    with pytest.raises(VideoError, match="no frame"):
        frames_at(files["h264"], [])


@pytest.mark.parametrize("kind", ["zero", "text", "audio", "truncated"])
def test_files_that_are_no_videos_are_named(bad, kind):
    with pytest.raises(VideoError) as caught:
        probe(bad[kind])
    assert str(bad[kind]) in str(caught.value)


def test_no_such_path_and_folder(tmp_path):
    for path in (tmp_path / "gone.mp4", tmp_path):
        with pytest.raises((VideoError, OSError), match=re.escape(str(path))):
            probe(path)


def test_one_frame(bad):
    assert probe(bad["one"]).frames == 1
    assert frames_at(bad["one"], [0, 0]).frames.shape[0] == 2


@pytest.mark.parametrize("name", ["h264", "hevc", "mpeg4"])
def test_flipped_bits_lose_packets_not_files(tmp_path, files, name):
    """Every frame asked for is handed over; lost ones are the nearest, and the damage is counted."""
    data = bytearray(files[name].read_bytes())
    rng = np.random.default_rng(1)
    for place in rng.integers(len(data) // 4, 3 * len(data) // 4, 12):
        data[place] ^= 0x5A
    path = tmp_path / files[name].name
    path.write_bytes(data)
    video = probe(path)
    clip = frames_at(video, range(video.frames))
    assert len(clip.frames) == video.frames
    assert video.frames >= 0.9 * FRAMES


def test_damage_is_counted_and_bridged(bad):
    video = probe(bad["flipped"])
    clip = frames_at(video, range(video.frames))
    assert len(clip.frames) == video.frames == 60
    assert clip.damaged > 0


def test_truncated_without_index_in_front_keeps_what_came_before(tmp_path, files):
    path = tmp_path / "cut.mkv"  # Matroska needs no index
    write(path, scene(), 25, options={"g": "10", "bf": "0"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    video = probe(path)
    assert 15 <= video.frames < FRAMES
    full = frames_at(tmp_path / "cut.mkv", range(video.frames - 1))
    assert len(full.frames) == video.frames - 1


# ---------------------------------------------------------------------------- processes and memory


def first_frame(path: str) -> int:
    """For worker processes."""
    return int(frames_at(path, [7]).frames.long().sum())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_works_in_every_kind_of_worker(files, method):
    import multiprocessing

    expected = first_frame(str(files["h264"]))  # decoding here first is what breaks careless readers after a fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(first_frame, [str(files["h264"])] * 4) == [expected] * 4


def test_nothing_stays_open(files):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        frames_at(files["hevc"], [3, 40])
    assert len(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------------------- filmed videos


def test_filmed_videos_have_the_frames_that_ffmpeg_finds(real):
    """Count, and three frames of each: many codecs, containers and frame rates."""
    paths = sorted(
        p for p in (real / "everyday").iterdir() if p.suffix in module.SUFFIXES and p.stat().st_size < 1_400_000
    )
    assert len(paths) > 10
    for path in paths[:: max(len(paths) // 12, 1)]:
        video = probe(path)
        expected = rgb(path, video.height, video.width)
        assert video.frames == len(expected), path.name
        some = [0, video.frames // 2, video.frames - 1]
        ours = frames_at(video, some).frames.numpy().astype(int)
        for frame, index in zip(ours, some):
            assert np.abs(frame - expected[index]).mean() < 1.5, f"{path.name}, frame {index}"
