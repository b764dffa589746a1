"""Damaged files: read, read with a note, or refused; never a crash, a hang, or wrong frames without a word.

What `benchmarks/damage.py` does with a thousand and more, here with 150; and one by one what it has brought to light.
"""

import struct
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import av
import films
import numpy as np
import pytest
import torch

from tubelet.data import video
from tubelet.data.index import can_skip
from tubelet.data.items import Item
from tubelet.data.places import places
from tubelet.data.video import VideoError, frames_at, probe, write

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import damage
import damages

FEW = "h264.mkv h264.ts h264.avi hevc.mov vp9.webm mpeg4.avi mpeg2.mpg wmv2.wmv cinepak.avi gif.gif".split()  # noqa: SIM905
MOVING = films.moving_square(40, 64, 96)


def test_a_hundred_and_fifty_damaged_files(tmp_path, monkeypatch, capfd):
    (tmp_path / "films").mkdir()
    (tmp_path / "whole").mkdir()
    write(tmp_path / "films" / "a.mp4", films.moving_square(30, 112, 160), 25, options={"g": "10", "bf": "2"})
    monkeypatch.setattr(damage, "FRAMES", 30)
    monkeypatch.setattr(damage, "MADE", {name: made for name, made in damage.MADE.items() if name in FEW})
    whole = damage.originals(tmp_path / "films", tmp_path / "whole")
    assert {one.ending for one in whole} >= {".mp4", ".mkv", ".ts", ".avi", ".webm", ".mpg", ".wmv", ".gif"}
    made = damage.damaged(whole, 150, 0, tmp_path)
    assert len({kind for kind, *_ in made}) > 25
    assert {kind for kind, *_ in made} <= {*damages.KINDS}
    found = damage.outcomes([(str(path), truth) for _, _, path, truth in made], 1)
    wrong = [(kind, path.name, *found[n][:2]) for n, (kind, _, path, _) in enumerate(made) if found[n][0] in damage.BAD]
    assert wrong == []
    assert max(peak for _, _, peak, _ in found) < 1500  # MiB
    assert {"noted", "refused", "whole"} <= {*Counter(outcome for outcome, *_ in found)}


def test_a_frame_that_refers_to_a_damaged_one_is_counted_as_damaged(tmp_path):
    """Also if the damaged frame was not asked for itself."""
    whole, path = tmp_path / "whole.mp4", tmp_path / "spoilt.mp4"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    write(whole, np.stack([np.roll(picture, (3 * t, 5 * t), (0, 1)) for t in range(24)]), 10, options={"g": "12"})
    data = bytearray(whole.read_bytes())
    with video.opened(whole) as (container, stream):
        packets = [(packet.pos, packet.size) for packet in video.demuxed(container, stream)]
    data[packets[0][0] + packets[0][1] // 2] ^= 16
    path.write_bytes(data)
    assert frames_at(path, [0]).damaged == 1
    after = frames_at(path, [7])
    assert after.damaged == 1
    assert not torch.equal(after.frames, frames_at(whole, [7]).frames)
    assert frames_at(path, [12]).damaged == 0  # from the next key frame on all is well
    assert frames_at(path, [12, 23]).damaged == 0


@pytest.mark.parametrize("codec", ["cinepak", "msmpeg4"])
def test_an_avi_without_its_index_shows_the_right_frames(tmp_path, codec):
    """Without it FFmpeg takes every frame for a key frame, and decoding from one that is none gives anything."""
    whole, path = tmp_path / "whole.avi", tmp_path / "cut.avi"
    damage.recode(MOVING, whole, codec, {"g": "20"} if codec == "msmpeg4" else {})
    expected, data = frames_at(whole, range(36)).frames, whole.read_bytes()
    path.write_bytes(data[: data.rindex(b"idx1")])
    known = probe(path)
    assert len(known.keys) == known.frames  # says the container
    for index in (35, 7, 20):
        assert torch.equal(frames_at(known, [index]).frames[0], expected[index])
    assert torch.equal(frames_at(known, [3, 30]).frames, expected[[3, 30]])


def test_one_frame_that_is_no_key_frame_though_marked_as_one(tmp_path):
    whole, path = tmp_path / "whole.avi", tmp_path / "marked.avi"
    damage.recode(MOVING, whole, "msmpeg4", {"g": "20"})
    data = bytearray(whole.read_bytes())
    at = data.rindex(b"idx1") + 8 + 16 * 30  # of the 31st frame: name, flags
    data[at + 4 : at + 8] = struct.pack("<I", 16)
    path.write_bytes(data)
    assert 30 in probe(path).keys
    assert torch.equal(frames_at(path, [30, 33]).frames, frames_at(whole, [30, 33]).frames)
    assert frames_at(path, [30, 33]).damaged == 0


def test_a_stream_that_begins_in_the_middle_of_a_file_does_no_harm(tmp_path):
    one, two, path = tmp_path / "one.ts", tmp_path / "two.ts", tmp_path / "both.ts"
    damage.recode(MOVING, one, "mpeg2video", {"g": "12"})
    with av.open(str(two), "w", format="mpegts", container_options={"mpegts_start_pid": "0x200"}) as container:
        stream = container.add_stream("mpeg2video", 25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.mux([p for f in MOVING for p in stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24"))])
        container.mux(stream.encode(None))
    path.write_bytes(one.read_bytes() + two.read_bytes())
    assert torch.equal(frames_at(path, [0, 9]).frames, frames_at(one, [0, 9]).frames)


def test_packets_that_the_container_marks_as_damaged_are_counted(tmp_path):
    whole, path = tmp_path / "whole.ts", tmp_path / "lost.ts"
    damage.recode(MOVING, whole, "libx264", {"g": "12"})
    data = bytearray(whole.read_bytes())
    for at in range(len(data) // 376 * 188, len(data) * 3 // 4 // 188 * 188, 188):
        data[at + 1] |= 128  # the receiver's word that it could not mend this packet of the transport stream
    path.write_bytes(data)
    with video.opened(path) as (container, stream):
        assert any(packet.is_corrupt for packet in video.demuxed(container, stream))
    assert frames_at(whole, lambda known: np.arange(known.frames)).damaged == 0
    assert frames_at(path, lambda known: np.arange(known.frames)).damaged > 0


def test_frames_larger_than_any_are_refused_before_one_is_made(tmp_path):
    path = tmp_path / "huge.gif"
    damage.recode(films.moving_square(3, 112, 160), path, "gif", {})
    data = path.read_bytes()
    path.write_bytes(data[:6] + struct.pack("<HH", 16384, 8192) + data[10:])
    with pytest.raises(VideoError, match=r"huge\.gif .*16384x8192 pixels, more than 67108864"):
        probe(path)


def test_hevc_settings_that_are_cut_off_are_no_settings():
    for length in (1, 2, 21):
        assert not can_skip(SimpleNamespace(name="hevc", extradata=bytes([1] * length)))
    assert can_skip(SimpleNamespace(name="hevc", extradata=bytes([1] * 21 + [8, 0])))


def test_a_file_that_claims_a_billion_seconds_gives_no_more_clips_than_frames(tmp_path):
    path = tmp_path / "slow.mp4"
    write(path, MOVING[:6], 10)
    data = path.read_bytes()
    for box in (b"mvhd", b"mdhd"):
        at = data.index(box) + 16  # ticks a second
        data = data[:at] + struct.pack(">I", 1) + data[at + 4 :]
    path.write_bytes(data)
    known = probe(path)
    assert known.duration > 1000
    assert len(places([Item(path)], "duration")) == known.frames
