"""Indices on disk: the same as from the packets, for files wherever they go, and never for others."""

import os
import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import fields
from pathlib import Path

import films
import numpy as np
import pytest
import torch

from tubelet.data import index, kept, video
from tubelet.data.check import check
from tubelet.data.kept import INDEX, known
from tubelet.data.prepare import Encoding, prepare
from tubelet.data.sources import find
from tubelet.data.video import Video, frames_at, probe, write
from tubelet.data.writing import DiskError

KINDS = {
    "plain.mp4": "-c:v libx264 -bf 3 -g 12 -pix_fmt yuv420p",
    "varying.mkv": "-vf select='not(eq(mod(n\\,7)\\,3))' -fps_mode vfr -c:v libx264 -pix_fmt yuv420p",
    "old.avi": "-c:v mpeg4 -q:v 2 -g 15 -bf 0",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Five videos in a folder and one in it: constant and varying rate, turned, one frame."""
    folder = tmp_path_factory.mktemp("source")
    write(folder / "base.mp4", films.moving(70), 30)
    (folder / "in").mkdir()
    commands = {f"in/{name}": f"-i base.mp4 {told}" for name, told in KINDS.items()}
    commands |= {
        "turned.mp4": "-display_rotation 90 -i base.mp4 -c copy",
        "one.mp4": "-i base.mp4 -frames:v 1 -c:v libx264 -pix_fmt yuv420p",
    }
    for name, told in commands.items():
        subprocess.run([films.FFMPEG, "-v", "fatal", *told.split(), name], cwd=folder, check=True)
    (folder / "base.mp4").unlink()
    return folder


@pytest.fixture(scope="module", params=[1, 4], ids=["plain", "layered"])
def prepared(source, request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(source, out, Encoding(layered=request.param), workers=0)
    return out


@pytest.fixture(scope="module")
def sharded(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "out"
    prepare(source, out, shard_bytes=4000, workers=0)
    return out


def from_disk(path: Path) -> Video | None:
    """The index that a process has of a file that it has not read."""
    index._memory.clear()
    return known(path, index.name_of(path))


def same(one: Video | None, other: Video) -> bool:
    """Whether two indices are one, field by field, as they would be used."""
    if one is None:
        return False
    for field in fields(Video):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert not a.flags.writeable
            if not np.array_equal(a, b):
                return False
        elif type(a) is not type(b) or a != b:
            return False
    return True


# ---------------------------------------------------------------------------- the same


def test_what_is_on_disk_is_what_the_packets_say(prepared):
    found = [item.path for item in find(prepared)]
    assert len(found) == 5
    for path in found:
        assert same(from_disk(path), probe(path, anew=True)), path
    assert probe(prepared / "in" / "varying.mp4").variable
    assert probe(prepared / "turned.mp4").height == 64  # of 48x64
    assert probe(prepared / "one.mp4").frames == 1


def test_members_of_shards_are_known(sharded):
    found = [item.path for item in find(sharded)]
    assert len({path.parents[len(path.parts) - len(sharded.parts) - 2] for path in found}) >= 2
    for path in found:
        assert same(from_disk(path), probe(path, anew=True)), path


def test_a_fresh_process_reads_no_packet_beyond_what_the_clip_needs(prepared, tmp_path):
    """From the key frame 32 to frame 47; on layers 48 too, which 47 refers to and comes before it."""
    script = """
import sys
from tubelet.data import video
count, honest = 0, video.demuxed
def demuxed(container, stream):
    global count
    for packet in honest(container, stream):
        count += 1
        yield packet
video.demuxed = demuxed
for path in sys.argv[1:]:
    before = count
    print(video.frames_at(path, lambda film: range(35, 48)).frames.double().mean().item(), count - before)
"""
    path = prepared / "in" / "plain.mp4"
    alone = shutil.copy(path, tmp_path / "alone.mp4")
    done = subprocess.run([sys.executable, "-c", script, path, alone], capture_output=True, text=True, check=True)
    (mean, count), (again, more) = (line.split() for line in done.stdout.splitlines())
    assert mean == again
    assert int(count) == 16 + ('"layered": 4' in (prepared / "prepared.json").read_text())
    assert int(more) == 70 + 1 + int(count)  # all of them, and one to see how a player turns it, before


def test_damage_behind_the_tables_is_noticed_with_an_index_from_disk(prepared, tmp_path):
    """A digest does not cover pictures."""
    shutil.copytree(prepared, tmp_path / "copy")
    path = tmp_path / "copy" / "in" / "varying.mp4"
    whole, data = frames_at(path, [3, 40]), bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:] = bytes(len(data) - half)
    path.write_bytes(data)
    assert from_disk(path) is not None
    assert torch.equal(frames_at(path, [3]).frames, whole.frames[:1])
    assert not frames_at(path, [3]).damaged
    assert frames_at(path, [40]).damaged
    assert check([item for item in find(tmp_path / "copy") if item.path == path], "decode", workers=0).problems


# ---------------------------------------------------------------------------- files that go elsewhere


def test_copied_renamed_and_packed_files_keep_their_index(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy", copy_function=shutil.copyfile)  # as cp does: times are new
    out = tmp_path / "copy"
    (out / "in" / "plain.mp4").rename(out / "other.mp4")
    with tarfile.open(out / "all.tar", "w") as tar:
        tar.add(out / "in" / "varying.mp4", "deep/v.mp4")
    for path, origin in {
        out / "other.mp4": prepared / "in" / "plain.mp4",
        out / "turned.mp4": prepared / "turned.mp4",
        out / "all.tar" / "deep" / "v.mp4": prepared / "in" / "varying.mp4",
    }.items():
        found, truth = from_disk(path), probe(origin, anew=True)
        assert found is not None
        assert found.path == path
        assert np.array_equal(found.stamps, truth.stamps)
        assert torch.equal(frames_at(path, [0, 33]).frames, frames_at(origin, [0, 33]).frames)


def padded(data: bytes, size: int) -> bytes:
    """An MP4 file made longer by an empty box at its end."""
    return data + struct.pack(">I4s", size - len(data), b"free") + bytes(size - len(data) - 8)


def test_another_file_of_the_same_name_size_and_time_is_read(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out, workers=0)
    one, other = out / "in" / "plain.mp4", out / "in" / "varying.mp4"
    stand, size = one.stat(), max(one.stat().st_size, other.stat().st_size) + 100
    for path, content in {one: padded(other.read_bytes(), size), other: padded(one.read_bytes(), size)}.items():
        path.write_bytes(content)
        os.utime(path, ns=(stand.st_atime_ns, stand.st_mtime_ns))
    assert from_disk(one) is from_disk(other) is None
    assert probe(one).frames == 60
    assert probe(other).frames == 70
    one.write_bytes(b"\0\0\0\x18ftypisom and no more")
    assert from_disk(one) is None
    one.unlink()
    assert from_disk(one) is None
    shutil.copy(source / "in" / "plain.mp4", out / "turned.mp4")  # its tables are behind its pictures
    assert from_disk(out / "turned.mp4") is None
    assert probe(out / "turned.mp4").frames == 70


def test_a_file_that_was_cut_off_is_read(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    path = tmp_path / "copy" / "in" / "plain.mp4"
    os.truncate(path, path.stat().st_size * 2 // 3)
    assert from_disk(path) is None
    assert probe(path).frames < 70


# ---------------------------------------------------------------------------- a file of indices that is not as it was


def test_whatever_byte_is_damaged_an_index_is_right_or_not_there(prepared, tmp_path):
    truth = probe(prepared / "in" / "varying.mp4", anew=True)
    sound, place = (prepared / INDEX).read_bytes(), tmp_path / INDEX
    place.write_bytes(sound)
    path = Path(shutil.copy(truth.path, tmp_path))

    def right(found: Video | None) -> bool:
        return found is not None and all(
            np.array_equal(getattr(found, name), getattr(truth, name)) for name in ("seconds", *kept.ARRAYS)
        )

    lost = 0
    for at in range(len(sound)):
        data = bytearray(sound)
        data[at] ^= 1 << at % 8
        place.write_bytes(data)
        found = from_disk(path)
        lost += found is None
        assert found is None or right(found)
    assert 0 < lost < len(sound)
    place.write_bytes(sound)
    assert right(from_disk(path))
    for size in range(0, len(sound), 7):
        place.write_bytes(sound[:size])
        found = from_disk(path)
        assert found is None or right(found)
    for form in (0, kept.FORMAT + 1):
        place.write_bytes(kept.HEADER.pack(kept.MAGIC, form, 5) + sound[kept.HEADER.size :])
        assert from_disk(path) is None
    place.unlink()
    assert from_disk(path) is None
    place.mkdir()
    assert from_disk(path) is None
    assert probe(path).frames == truth.frames
    place.rmdir()
    place.write_bytes(sound)
    assert right(from_disk(path))


def test_nothing_is_written_by_reading(prepared):
    def standing() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in [prepared, *prepared.rglob("*")])

    before = standing()
    index._memory.clear()
    frames_at(prepared / "in" / "plain.mp4", [3])
    assert standing() == before


def test_a_check_looks_at_the_files_themselves(prepared, monkeypatch):
    read, honest = [], video.demuxed
    monkeypatch.setattr(video, "demuxed", lambda *args: read.append(args) or honest(*args))
    index._memory.clear()
    assert check(find(prepared), "demux", workers=0).problems == ()
    assert len(read) >= 5


# ---------------------------------------------------------------------------- work that is stopped, shared, repeated


def indexed(out: Path) -> int:
    """How many videos of a prepared folder are on disk; none is that is not in its list."""
    count = kept.HEADER.unpack((out / INDEX).read_bytes()[: kept.HEADER.size])[2]
    found = [item.path for item in find(out) if from_disk(item.path) is not None]
    assert len(found) == count
    return count


@pytest.mark.parametrize("size", [None, 30_000], ids=["files", "shards"])
def test_work_that_was_stopped_and_shared_gives_all_indices(clips, tmp_path, size):
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(clips, out, shard_bytes=size, part=(0, 2), workers=0, progress=stop)
    prepare(clips, out, shard_bytes=size, part=(1, 2), workers=0)
    assert not (out / INDEX).exists()
    prepare(clips, out, shard_bytes=size, part=(0, 2), workers=0)
    assert indexed(out) == 7
    (out / INDEX).unlink()
    assert prepare(clips, out, shard_bytes=size, workers=0).new == 0
    assert indexed(out) == 7


def test_the_file_follows_the_list(clips, bad, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, film in {"0.mp4": clips / "a" / "0.mp4", "1.mp4": bad["flipped"], "2.mp4": clips / "a" / "2.mp4"}.items():
        shutil.copy(film, folder / name)
    prepare(folder, out, workers=0)
    assert indexed(out) == 2
    prepare(folder, out, workers=0, lost=0.9, retry=True)
    assert indexed(out) == 3
    shutil.copy(clips / "b" / "3.mp4", folder / "0.mp4")
    (folder / "2.mp4").unlink()
    prepare(folder, out, workers=0, lost=0.9)
    assert indexed(out) == 2
    assert probe(out / "0.mp4").frames == 32


def test_where_the_disk_refuses_nothing_half_stays(clips, tmp_path, monkeypatch):
    def full(path: Path, records: list[bytes]) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "write", full)
    with pytest.raises(DiskError, match=r"the lists in .* cannot be written: No space left"):
        prepare(clips / "a", tmp_path / "out", workers=0)
    assert not [path for path in (tmp_path / "out").iterdir() if "index" in path.name]
