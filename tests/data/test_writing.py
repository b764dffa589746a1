"""Scaling for the encoder: the very picture that FFmpeg's command line makes."""

import subprocess

import av
import imageio_ffmpeg
import numpy as np
import pytest

from tubelet.data.writing import drawer

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
