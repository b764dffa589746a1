"""What the headers of H.264 say, against what ffmpeg reads in them."""

import re
import subprocess

import films
import numpy as np
import pytest

from tubelet.data import video
from tubelet.data.h264 import Bits, Headers
from tubelet.data.video import write

STREAMS = {
    "one reference": "-bf 0 -x264-params ref=1",
    "baseline": "-profile:v baseline",
    "default": "",
    "pyramid": "-bf 5 -x264-params b-pyramid=normal:b-adapt=0:ref=3",
    "layered": "-bf 3 -x264-params ref=1:b-pyramid=none:b-adapt=0:scenecut=0",
    "slices, matrices, 4:4:4": "-pix_fmt yuv444p -x264-params cqm=jvt:slices=3:ref=4",
    "fields": "-flags +ilme+ildct -x264-params tff=1",
}


@pytest.mark.parametrize("ending", ["mp4", "ts"])
@pytest.mark.parametrize("kind", STREAMS)
def test_headers_say_what_ffmpeg_says(tmp_path, kind, ending):
    write(tmp_path / "source.mp4", films.moving_square(24), 30, options={"qp": "0", "preset": "ultrafast"})
    trace = f"-hide_banner -i film.{ending} -c copy -bsf:v trace_headers -f null -"
    command = f"-i source.mp4 -c:v libx264 -pix_fmt yuv420p -g 12 {STREAMS[kind]} film.{ending}"
    subprocess.run([films.FFMPEG, "-v", "fatal", *command.split()], cwd=tmp_path, check=True)
    traced = subprocess.run(
        [films.FFMPEG, *trace.split()],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    ).stderr  # fmt: skip
    expected, now = [], {}
    for line in traced.splitlines():
        if "Packet:" in line:
            expected.append([])
        elif "Slice Header" in line:
            now = {}
            expected[-1].append(now)
        elif (pair := re.search(r"\d+ +(\w+(?:\[\d+\])?) +[01]+ = (-?\d+)", line)) and expected:
            now.setdefault(pair[1], int(pair[2]))
    default = next(int(n) for n in re.findall(r"num_ref_idx_l0_default_active_minus1 .*= (\d+)", traced))
    kept = next(int(n) for n in re.findall(r"max_num_ref_frames .*= (\d+)", traced))
    whole = re.search(r"frame_mbs_only_flag .*= (\d)", traced)[1] == "1"
    with video.opened(tmp_path / f"film.{ending}") as (container, stream):
        headers = Headers(stream.codec_context.extradata)
        got = [headers.slices(bytes(packet)) for packet in video.demuxed(container, stream)]
    assert len(got) == len(expected) == 24
    assert {sequence.references for sequence in headers.sequences.values()} == {kept}
    layered = False
    for ours, slices in zip(got, expected):
        assert slices
        assert ours.reference == (slices[0]["nal_ref_idc"] > 0)
        single = whole
        for part in slices:
            between = part["slice_type"] % 5 == 1
            if part["slice_type"] % 5 == 2:
                continue
            counts = [part.get("num_ref_idx_l0_active_minus1", default)]
            counts += [part.get("num_ref_idx_l1_active_minus1", 0)] if between else []
            changed = part["ref_pic_list_modification_flag_l0"] or part.get("ref_pic_list_modification_flag_l1", 0)
            single &= kept == 1 or (max(counts) == 0 and not changed)
            layered |= between and part["nal_ref_idc"] > 0
        assert ours.single == single
    assert headers.layered == layered


def test_numbers_are_read_as_the_standard_writes_them():
    bits = Bits(b"\0\0\3\1\x80")  # 0x0000 0180: 23 zeros, and then 1 1000 0000
    assert [bits.take(16), bits.take(7), bits.number()] == [0, 0, 0]
    with pytest.raises(ValueError, match="ends too early"):
        Bits(b"\0\0\3\1\x80").number()
    # Table 9-2 and 9-3: 1 010 011 00100 00101 0001000
    bits = Bits((0b1_010_011_00100_00101_0001000 << 8).to_bytes(4, "big"))
    assert [bits.number() for _ in range(6)] == [0, 1, 2, 3, 4, 7]
    bits = Bits((0b1_010_011_00100_00101_0001000 << 8).to_bytes(4, "big"))
    assert [bits.signed() for _ in range(6)] == [0, 1, -1, 2, -2, 4]


def test_what_is_no_stream_says_nothing():
    assert Headers(None).slices(b"") is None
    rng = np.random.default_rng(0)
    for _ in range(200):
        junk = rng.bytes(60)
        for extradata in (None, junk, b"\1" + junk):
            Headers(extradata).slices(b"\0\0\1" + rng.bytes(40))
    assert Headers(None).slices(b"\0\0\1\x65\x88\x84") == (True, False)  # its parameter sets are not there
