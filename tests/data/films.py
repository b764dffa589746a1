"""Videos of every kind for `test_video.py`, made by the ffmpeg command line, which also judges what is in them."""

import re
import subprocess
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FRAMES, HEIGHT, WIDTH = 96, 120, 160
H264 = "-c:v libx264 -preset veryfast -pix_fmt yuv420p"
VPX = "-deadline good -cpu-used 5 -auto-alt-ref 1 -lag-in-frames 16 -g 30 -pix_fmt yuv420p"
H265 = "-c:v libx265 -preset veryfast -pix_fmt yuv420p -x265-params log-level=error:keyint=24:min-keyint=24:scenecut=0"
OPEN = f"{H264} -g 24 -bf 5 -x264-params open-gop=1:b-pyramid=normal:b-adapt=0:scenecut=0"
COLOURS = "-frames:v 24 -colorspace"
DROP = "-vf select='not(eq(mod(n\\,7)\\,3))' -fps_mode vfr"

# File name: what ffmpeg is told, with {source} (the moving square) or another file of this list to read from.
KINDS = {
    "h264.mp4": f"-i source.mp4 {H264} -g 30",
    "h264_open.mp4": f"-i source.mp4 {OPEN}",
    "h264_open.mkv": "-i h264_open.mp4 -c copy",
    "h264_open.ts": "-i h264_open.mp4 -c copy",
    "h264_refresh.mp4": f"-i source.mp4 {H264} -g 30 -x264-params intra-refresh=1",
    "h264_fields.mp4": f"-i source.mp4 {H264} -g 30 -flags +ilme+ildct -x264-params tff=1",
    "h264.avi": "-i h264.mp4 -c copy",
    "h264_cut.mp4": "-ss 1.3 -i h264_open.mp4 -c copy",  # an edit list hides what is before
    "h264_cut.mkv": "-ss 1.3 -i h264_open.mkv -c copy",
    "hevc.mp4": f"-i source.mp4 {H265}:open-gop=0",
    "hevc_open.mp4": f"-i source.mp4 {H265}:open-gop=1",
    "hevc_layers.mp4": f"-i source.mp4 {H265}:temporal-layers=3",
    "hevc_cut.mkv": "-ss 1.3 -i hevc_open.mp4 -c copy",
    "av1.mp4": "-i source.mp4 -c:v libsvtav1 -preset 10 -g 30 -pix_fmt yuv420p",
    "vp9.webm": f"-i source.mp4 -c:v libvpx-vp9 {VPX}",
    "vp8.webm": f"-i source.mp4 -c:v libvpx -b:v 500k {VPX}",
    "mpeg2.mpg": "-i source.mp4 -c:v mpeg2video -q:v 8 -g 15 -bf 2",
    "mpeg2.ts": "-i source.mp4 -c:v mpeg2video -q:v 4 -g 15 -bf 2",
    "mpeg2.mkv": "-i source.mp4 -c:v mpeg2video -q:v 4 -g 15 -bf 2",
    "mpeg4.mp4": "-i source.mp4 -c:v mpeg4 -q:v 4 -g 15 -bf 2",
    "mpeg4.avi": "-i source.mp4 -c:v mpeg4 -q:v 4 -g 15 -bf 0",
    "xvid.avi": "-i source.mp4 -c:v libxvid -q:v 4 -g 30 -bf 2",  # B-frames packed with others
    "msmpeg4.avi": "-i source.mp4 -c:v msmpeg4 -q:v 4 -g 15",
    "cinepak.avi": "-i source.mp4 -c:v cinepak -frames:v 24",
    "mjpeg.avi": "-i source.mp4 -c:v mjpeg -q:v 3",
    "mjpeg.mov": "-i source.mp4 -c:v mjpeg -q:v 3",
    "varying.mp4": f"-i source.mp4 {H264} {DROP}",
    "varying.mkv": f"-i source.mp4 {H264} {DROP}",
    "varying.avi": f"-i source.mp4 -c:v mpeg4 -bf 0 {DROP}",  # empty chunks
    "odd.mp4": "-i source.mp4 -vf crop=159:119 -c:v libx264 -pix_fmt yuv444p -frames:v 24",
    "odd.webm": "-i source.mp4 -vf crop=159:119 -c:v libvpx-vp9 -deadline realtime -pix_fmt yuv420p -frames:v 24",
    "bt601.mp4": f"-i source.mp4 -vf scale=out_color_matrix=bt601:out_range=tv {H264} {COLOURS} smpte170m",
    "bt709.mp4": f"-i source.mp4 -vf scale=out_color_matrix=bt709:out_range=tv {H264} {COLOURS} bt709",
    "full.mp4": f"-i source.mp4 -vf scale=out_color_matrix=bt601:out_range=pc {H264[:-7]}yuvj420p {COLOURS} smpte170m",
    "one.mp4": f"-i source.mp4 {H264} -frames:v 1",
    "turned_90.mp4": "-display_rotation 90 -i h264.mp4 -c copy",
    "turned_180.mp4": "-display_rotation 180 -i h264.mp4 -c copy",
    "turned_270.mp4": "-display_rotation 270 -i h264.mp4 -c copy",
    "turned_90.mkv": "-display_rotation 90 -i h264.mp4 -c copy",
    "mirrored.mp4": "-display_hflip -i h264.mp4 -c copy",
    "mirrored_90.mp4": "-display_rotation 90 -display_hflip -i h264.mp4 -c copy",
}


def moving_square(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A textured square that moves 2 pixels right and 1 down a frame over another texture."""
    rng = np.random.default_rng(0)
    back, square = (
        rng.integers(0, 256, (n, m, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1) for n, m in ((30, 40), (10, 10))
    )
    clip = np.stack([back[:height, :width]] * frames)
    for t, frame in enumerate(clip):
        y, x = t % (height - 40), 2 * t % (width - 40)
        frame[y : y + 40, x : x + 40] = square
    return clip


def make(folder: Path, name: str) -> Path:
    """The file of that name, and those that it is made from."""
    path, command = folder / name, KINDS[name].split()
    source = command[command.index("-i") + 1]
    if source != "source.mp4" and not (folder / source).exists():
        make(folder, source)
    if not path.exists():
        subprocess.run([FFMPEG, "-v", "fatal", "-y", *command, name], cwd=folder, check=True)
    return path


def ffmpeg(path: Path, *options: str, before: tuple[str, ...] = ()) -> bytes:
    """What ffmpeg writes about a file's best video stream, every frame once."""
    streams = subprocess.run(
        [FFMPEG, "-hide_banner", "-i", path], capture_output=True, text=True, errors="replace"
    ).stderr
    video = re.findall(r"Stream #0:(\d+).*?Video:.*?(\d{2,5})x(\d{2,5})", streams)
    best = max(video, key=lambda v: int(v[1]) * int(v[2]))[0]  # the largest picture, as ffmpeg chooses itself
    command = [
        FFMPEG,
        "-v",
        "fatal",
        *before,
        "-i",
        path,
        "-map",
        f"0:{best}",
        "-fps_mode",
        "passthrough",
        *options,
        "-",
    ]
    return subprocess.run(command, capture_output=True).stdout


@cache
def planes(path: Path) -> list[str]:
    """Hashes of the decoded frames before any conversion."""
    lines = ffmpeg(path, "-f", "framemd5", before=("-noautorotate",)).decode().splitlines()
    return [line.split(",")[-1].strip() for line in lines if not line.startswith("#")]


@cache
def pictures(path: Path, height: int, width: int, kind: str = "rgb24", scale: str = "") -> np.ndarray:
    """All frames as ffmpeg shows them."""
    filters = ("-vf", scale) if scale else ()
    raw = ffmpeg(path, *filters, "-f", "rawvideo", "-pix_fmt", kind)
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 1 if kind == "gray" else 3)


def moving(frames: int, seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """Blocks of noise that move to the right."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    picture = blocks.repeat(4, 0).repeat(4, 1)
    return np.stack([np.roll(picture, 2 * t, 1) for t in range(frames)])
