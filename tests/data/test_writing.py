"""What the encoder is given and says: the very picture that FFmpeg's command line makes, its pixels' shape, errors."""

import errno
import math
import os
import pickle
import subprocess

import av
import films
import imageio_ffmpeg
import numpy as np
import pytest
from films import moving

from tubelet.data.index import VideoError
from tubelet.data.paint import RARE
from tubelet.data.prepare import prepare
from tubelet.data.stream import in_order
from tubelet.data.video import frames_at, probe
from tubelet.data.writing import DiskError, Encoding, drawer, encode

COLOURS = {
    "bt709": ["-colorspace", "bt709", "-color_range", "tv"],
    "bt601": ["-colorspace", "smpte170m", "-color_range", "tv"],
    "untold": [],
    "full range": ["-color_range", "pc", "-pix_fmt", "yuvj420p"],
}


@pytest.mark.parametrize("name", COLOURS)
def test_pictures_are_scaled_as_by_the_command_line(tmp_path, name):
    tool, film = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "film.mp4"
    made = [tool, "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:duration=0.2", "-pix_fmt", "yuv420p"]
    subprocess.run([*made, "-c:v", "libx264", *COLOURS[name], str(film)], check=True)
    scale = "scale=320:180:flags=bicubic:out_range=tv,format=yuv420p"
    asked = [tool, "-v", "error", "-i", str(film), "-vf", scale, "-frames:v", "1", "-f", "rawvideo", "-"]
    theirs = np.frombuffer(subprocess.run(asked, check=True, capture_output=True).stdout, np.uint8)
    with av.open(str(film)) as container:
        frame = drawer(180, 320)(next(container.decode(video=0)))
    assert np.array_equal(frame.to_ndarray().ravel(), theirs)


def shape(path) -> float:
    """How wide a pixel is, in heights of it, as a reader is told."""
    with av.open(os.fspath(path)) as container:
        return float(container.streams.video[0].sample_aspect_ratio or 1)


@pytest.mark.parametrize("turn", [0, 90, 180])
def test_pixels_keep_their_shape_as_by_the_command_line(tmp_path, turn):
    """That of a picture of other proportions for its pixels, too: 352x288 becomes 156x128, which is no whole scale."""
    flat, film, out = tmp_path / "flat.mp4", tmp_path / "film.mp4", tmp_path / "out"
    drawn = ["-f", "lavfi", "-i", "testsrc2=size=352x288:duration=0.2", "-vf", "setsar=16/11", "-pix_fmt", "yuv420p"]
    subprocess.run([films.FFMPEG, "-v", "error", *drawn, "-c:v", "mpeg2video", flat], check=True)
    turned = ["-display_rotation", str(turn), "-i", flat, "-c", "copy", film]
    subprocess.run([films.FFMPEG, "-v", "error", *turned], check=True)
    prepare(film, out, Encoding(short_side=128), workers=0)
    found = probe(out / "film.mp4")
    assert (found.height, found.width) == ((156, 128) if turn == 90 else (128, 156))
    scale = f"scale={found.width}:{found.height}"
    theirs = tmp_path / "theirs.mp4"
    subprocess.run([films.FFMPEG, "-v", "error", "-i", film, "-vf", scale, "-c:v", "libx264", theirs], check=True)
    assert abs(math.log(shape(theirs))) > 0.3
    assert shape(out / "film.mp4") == pytest.approx(shape(theirs), rel=1e-6)


def test_square_pixels_stay_square(tmp_path):
    for name, frames in (("whole", moving(3, 0, 48, 64)), ("odd", moving(3, 0, 60, 44))):
        encode(tmp_path / f"{name}.mp4", enumerate(frames), frames.shape[1:3], 1, Encoding(short_side=32))
        assert shape(tmp_path / f"{name}.mp4") == 1


@pytest.mark.parametrize("layered", [1, 4])
def test_files_are_coded_to_be_decoded_quickly(tmp_path, layered):
    """As the encoder itself writes into the stream."""
    frames = [(t, drawer(48, 64)(image)) for t, image in enumerate(moving(9))]
    encode(tmp_path / "a.mp4", frames, (48, 64), 1, Encoding(layered=layered))
    told = (tmp_path / "a.mp4").read_bytes()
    assert b"cabac=0 ref=1 deblock=0:0:0" in told
    assert f"bframes={layered - 1}".encode() in told


class Silent(Encoding):
    """One whose encoder does not say how far off it is."""

    def options(self) -> dict[str, str]:
        return super().options() | {"flags": "+cgop"}


def test_nothing_lost_is_not_the_same_as_nothing_said(tmp_path):
    """By the decoded planes: equal where the error is told to be none, and unequal where it is a number."""
    for name, how in {
        "lossless": Encoding(crf=0),
        "lossless too": Encoding(crf=0.9),
        "nearly": Encoding(crf=1),
        "usual": Encoding(),
        "silent": Silent(),
    }.items():
        frames = [(t, drawer(48, 64)(image)) for t, image in enumerate(moving(9))]
        planes = [frame.to_ndarray() for _, frame in frames]
        made = encode(tmp_path / "a.mp4", frames, (48, 64), 1, how)
        with av.open(os.fspath(tmp_path / "a.mp4")) as container:
            shown = [frame.to_ndarray() for frame in container.decode(video=0)]
        error = np.mean((np.stack(planes).astype(float) - np.stack(shown)) ** 2)
        assert (error == 0) == name.startswith("lossless")
        if name == "silent":
            assert made.psnr is None
        else:
            expected = math.inf if error == 0 else 10 * math.log10(255**2 / error)
            assert made.psnr == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("told", "name"), [("ycgco", "YCgCo"), ("ictcp", "ICtCp"), ("bt2020c", "BT.2020")])
def test_colours_that_the_scaler_does_not_know_are_named(tmp_path, told, name):
    """And what the message advises works."""
    film, other = tmp_path / "film.mkv", tmp_path / "other.mkv"
    tags = f"format=yuv420p10le,setparams=colorspace={told}:color_primaries=bt2020:color_trc=bt2020-10"
    drawn = ["-f", "lavfi", "-i", "testsrc2=size=64x48:duration=0.2", "-vf", tags, "-c:v", "ffv1"]
    subprocess.run([films.FFMPEG, "-v", "error", *drawn, film], check=True)
    with av.open(os.fspath(film)) as container:
        frame = next(container.decode(video=0))
    assert RARE[frame.colorspace].startswith(name)
    with pytest.raises(VideoError, match=rf"frame 0 cannot.*: its colour matrix is {name}.*zscale=matrix=709"):
        encode(tmp_path / "a.mp4", [(0.0, frame)], (48, 64), 25, Encoding())
    for read in (lambda: frames_at(film, [0]), lambda: list(in_order(probe(film), np.arange(2)))):
        with pytest.raises(VideoError, match=rf"film.mkv cannot be drawn: its colour matrix is {name}"):
            read()
    if told != "ictcp":  # whose transfer is another one
        advice = ["-i", film, "-vf", "zscale=matrix=709", "-c:v", "ffv1", other]
        subprocess.run([films.FFMPEG, "-v", "error", *advice], check=True)
        assert prepare(other, tmp_path / "out", workers=0).quarantined == ()


def test_only_a_full_disk_is_full():
    """Also when the error has come from another process."""
    for number, full in ((errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EEXIST, False), (errno.EFBIG, False)):
        error = pickle.loads(pickle.dumps(DiskError.of("x cannot be written", OSError(number, os.strerror(number)))))
        assert str(error) == f"x cannot be written: {os.strerror(number)}"
        assert error.full == full
