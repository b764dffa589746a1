"""Videos in tar files: written as WebDataset has them, read where they lie, the same as single files."""

import csv
import hashlib
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from films import moving

from tubelet.data import shards
from tubelet.data.cache import Frames
from tubelet.data.check import check
from tubelet.data.notebook import Notebook
from tubelet.data.prepare import prepare
from tubelet.data.sources import find
from tubelet.data.split import overlap, write_list
from tubelet.data.stream import in_order
from tubelet.data.video import VideoError, frames_at, probe, write

SIZE = 30_000  # bytes: two or three videos of the fixture


@pytest.fixture(scope="module")
def single(sharded, tmp_path_factory) -> Path:
    """The seven clips as files, taken out of the shards by Python's own reader."""
    out = tmp_path_factory.mktemp("single") / "out"
    for shard in sorted(sharded.glob("*.tar")):
        with tarfile.open(shard) as tar:
            tar.extractall(out, [info for info in tar if info.name.endswith(".mp4")], filter="data")
    return out


@pytest.fixture(scope="module")
def sharded(clips, tmp_path_factory) -> Path:
    """The same in shards; in a folder whose name is hard for whoever takes it for an address."""
    out = tmp_path_factory.mktemp("sharded") / "a b,,:c=1"
    prepare(clips, out, shard_bytes=SIZE, workers=2)
    return out


def grouped(folder: Path) -> dict[str, dict[str, bytes]]:
    """What WebDataset makes of all shards: by what stands before the first dot of a name, the files by what follows."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        last = None
        with tarfile.open(shard) as tar:
            for info in tar:
                place, _, name = info.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key = f"{place}/{stem}"
                assert key == last or key not in samples  # what belongs together stands together
                samples.setdefault(key, {})[kind] = tar.extractfile(info).read()
                last = key
    return samples


def test_members_are_read_like_files(single, sharded):
    plain, packed = find(single), find(sharded)
    assert len(packed) == 7
    assert len({item.path.parents[1] for item in packed}) >= 2
    for one, other in zip(plain, packed):
        assert (one.label, one.path.name) == (other.label, other.path.name)
        old, new = probe(one.path), probe(other.path)
        assert new.path == other.path
        assert (old.frames, old.width, old.fps) == (new.frames, new.width, new.fps)
        assert np.array_equal(old.seconds, new.seconds)
        assert probe(other.path) is new  # remembered
        for indices in ([*range(old.frames)], [old.frames - 1, 3, 3]):
            assert torch.equal(frames_at(one.path, indices).frames, frames_at(other.path, indices).frames)
        again = pickle.loads(pickle.dumps(other.path))
        assert torch.equal(frames_at(again, [5]).frames, frames_at(one.path, [5]).frames)


def test_everything_that_takes_files_takes_members(single, sharded, tmp_path):
    plain, packed = find(single), find(sharded)
    for level in ("open", "demux", "decode"):
        report = check(packed, level, workers=0)
        assert report.problems == ()
        assert [row.bytes for row in report.rows] == [item.path.stat().st_size for item in plain]
    kept, kept_too = (Frames([item.path for item in items[:2]], 32) for items in (plain, packed))
    assert torch.equal(kept.all(1), kept_too.all(1))
    for (t, frame), (s, other) in zip(
        in_order(probe(plain[0].path), np.arange(9)), in_order(probe(packed[0].path), np.arange(9))
    ):
        assert t == s
        assert np.array_equal(frame, other)
    write_list(tmp_path / "list.csv", packed)
    assert find(tmp_path / "list.csv") == packed
    assert overlap(packed[:3], packed[2:]) == [(packed[2], packed[2])]


def test_webdataset_reads_them(clips, single, sharded):
    samples = grouped(sharded)
    assert len(samples) == 7
    for item, one in zip(find(clips), find(single)):
        sample = samples[f"{item.label}/{item.path.stem}"]
        assert set(sample) == {"mp4", "json"}
        assert sample["mp4"] == one.path.read_bytes()
        about = json.loads(sample["json"])
        assert about["label"] == item.label
        assert about["clips"] == [{"label": item.label, "start": None, "end": None, "group": None}]
        assert about["frames"] == probe(one.path).frames


def test_sizes_and_index(sharded):
    for shard in sorted(sharded.glob("*.tar"))[:-1]:
        assert SIZE <= shard.stat().st_size < 2.5 * SIZE
    for shard in sharded.glob("*.tar"):
        data = shard.read_bytes()
        for row in csv.DictReader(shard.with_suffix(".csv").read_text().splitlines()):
            member = data[int(row["offset"]) :][: int(row["bytes"])]
            if row["member"].endswith(".mp4"):
                assert hashlib.sha256(member).hexdigest() == row["sha256"]
                assert member[4:8] == b"ftyp"
            else:
                assert json.loads(member)
    rows = [*csv.DictReader((sharded / "prepared.csv").read_text().splitlines())]
    for row in rows:
        shard = (sharded / row["path"]).parents[1]
        data = shard.read_bytes()[int(row["offset"]) :][: int(row["bytes"])]
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_shards_without_a_table_of_ours(clips, tmp_path):
    """As others write them; a table that is about something else does not matter."""
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for item in find(clips):
            tar.add(item.path, f"{item.path.stem}.mp4")
    (tmp_path / "train.csv").write_text("name,age\nann,7\n")
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"train.tar/{n}.mp4,x\n" for n in range(7)))
    for item, one in zip(find(tmp_path / "list.csv"), sorted(find(clips), key=lambda item: item.path.stem)):
        assert torch.equal(frames_at(item.path, [0, 9]).frames, frames_at(one.path, [0, 9]).frames)
    with pytest.raises(VideoError, match=r"train\.tar/9\.mp4 is not there"):
        probe(tmp_path / "train.tar" / "9.mp4")
    (tmp_path / "list.csv").write_text("path,label\ntrain.tar/1.mp4,x\ntrain.tar/9.mp4,x\n")
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 videos.*train\.tar/9\.mp4"):
        find(tmp_path / "list.csv")
    (tmp_path / "folder.tar").mkdir()  # a strange name for a folder, but one
    write(tmp_path / "folder.tar" / "x.mp4", moving(4), 10)
    assert probe(tmp_path / "folder.tar" / "x.mp4").frames == 4
    with pytest.raises(VideoError, match="is not there"):
        probe(tmp_path / "folder.tar" / "y.mp4")
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(OSError, match=r"broken\.tar cannot be read as a tar file"):
        probe(tmp_path / "broken.tar" / "1.mp4")


def test_a_changed_shard_is_read_anew(tmp_path):
    for turn in range(2):
        write(tmp_path / "a.mp4", moving(4 + turn), 10)
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            tar.add(tmp_path / "a.mp4", "a.mp4")
        os.utime(tmp_path / "s.tar", (turn, turn))
        assert probe(tmp_path / "s.tar" / "a.mp4").frames == 4 + turn
    assert shards.state_of(tmp_path / "s.tar" / "a.mp4") == ((tmp_path / "a.mp4").stat().st_size, 10**9)
    assert shards.size_of(tmp_path / "s.tar" / "a.mp4") == shards.size_of(tmp_path / "a.mp4") > 0
    assert shards.size_of(tmp_path / "s.tar" / "none.mp4") is shards.size_of(tmp_path) is None


def test_packing_that_was_stopped(clips, sharded, tmp_path, monkeypatch):
    """Between a shard that is there and the note that it is: it is made once more, and nothing is in two."""
    honest, out = Notebook.add_shard, tmp_path / "out"

    def stopped(book, name, offsets):
        if name.endswith("00000.tar"):
            raise KeyboardInterrupt
        honest(book, name, offsets)

    monkeypatch.setattr(Notebook, "add_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(clips, out, shard_bytes=SIZE, workers=0)
    monkeypatch.undo()
    assert (out / "0of1-00000.tar").exists()
    done = sum(1 for line in (out / ".prepare" / "0of1.jsonl").read_text().splitlines() if "row" in line)
    outcome = prepare(clips, out, shard_bytes=SIZE, workers=0)
    assert 0 < outcome.new < 7
    assert outcome.new + done == 7
    for name in ("videos.csv", "quarantine.csv"):  # these say in which shard a video is
        assert (out / name).read_bytes() == (sharded / name).read_bytes(), name
    assert {path.name for path in out.glob("0of1*")} == {path.name for path in sharded.glob("0of1*")}
    assert {key: (set(files), files["json"]) for key, files in grouped(out).items()} == {
        key: (set(files), files["json"])
        for key, files in grouped(sharded).items()  # x264 does not promise the bytes
    }
    assert not [*(out / ".prepare" / "0of1").rglob("*.mp4")]  # nothing waits any more


def test_parts_have_shards_of_their_own(clips, sharded, tmp_path):
    out = tmp_path / "out"
    assert prepare(clips, out, shard_bytes=SIZE, part=(0, 2), workers=0).left == 3
    outcome = prepare(clips, out, shard_bytes=SIZE, part=(1, 2), workers=0)
    assert (outcome.left, outcome.new) == (0, 3)
    assert {shard.name.partition("-")[0] for shard in out.glob("*.tar")} == {"0of2", "1of2"}
    assert {key: set(files) for key, files in grouped(out).items()} == {  # x264 does not promise the same bytes
        key: set(files) for key, files in grouped(sharded).items()
    }
    assert [item.path.name for item in find(out)] == [item.path.name for item in find(sharded)]
    assert prepare(clips, out, shard_bytes=SIZE, workers=0).new == 0  # whoever looks: all is done


def test_files_in_quarantine_are_tried_again(clips, bad, tmp_path):
    """Between others that stand already: none is passed over, and the lists are written anew."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(6):
        shutil.copy(bad["flipped"] if number in (1, 4) else clips / "ab"[number % 2] / f"{number}.mp4", folder)
        (folder / "flipped.mp4").rename(folder / f"{number}.mp4") if number in (1, 4) else None
    assert len(prepare(folder, out, shard_bytes=SIZE, workers=0).quarantined) == 2
    again = prepare(folder, out, shard_bytes=SIZE, workers=0, lost=0.9, retry=True)
    assert (again.new, again.left, again.quarantined) == (2, 0, ())
    assert [item.path.name for item in find(out)] == [f"{number}.mp4" for number in range(6)]
    assert (out / "quarantine.csv").read_text().count("\n") == 1
    assert len(grouped(out)) == 6
    assert prepare(folder, out, shard_bytes=SIZE, workers=0, lost=0.9, retry=True).new == 0


def test_nothing_waits_for_ever_when_others_go_on(clips, tmp_path):
    """What is stopped as one part, and goes on as two: what waited is removed when all is packed, and not before."""
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(clips, out, shard_bytes=10**9, workers=0, progress=stop)
    waiting = lambda: [*(out / ".prepare").rglob("*.mp4")]  # noqa: E731
    assert len(waiting()) == 2
    prepare(clips, out, shard_bytes=10**9, part=(0, 2), workers=0)
    assert len(waiting()) == 2
    with Notebook(out, (0, 1)).open():  # somebody is at work on them, and has seen that one is packed
        assert prepare(clips, out, shard_bytes=10**9, part=(1, 2), workers=0).left == 0
        assert len(waiting()) == 1
    assert prepare(clips, out, shard_bytes=10**9, part=(1, 2), workers=0).new == 0
    assert waiting() == []
    assert len(grouped(out)) == len(find(out)) == 7


def test_names_with_dots_and_changed_sources(tmp_path):
    folder, out = tmp_path / "in" / "v1.0", tmp_path / "out"
    folder.mkdir(parents=True)
    for name in ("a.b.mp4", "a.c.mp4", "a_b.mkv"):
        write(folder / name, moving(4), 10)
    prepare(tmp_path / "in", out, shard_bytes=10**9, workers=0)
    assert set(grouped(out)) == {"v1.0/a_b", "v1.0/a_c", "v1.0/a_b_mkv"}
    write(folder / "d.mp4", moving(5), 10)
    assert prepare(tmp_path / "in", out, shard_bytes=10**9, workers=0).new == 1  # a further shard
    assert len(find(out)) == len(grouped(out)) == 4
    write(folder / "d.mp4", moving(6), 10)
    with pytest.raises(ValueError, match=r"d\.mp4 is another file now than the one in 0of1-00001\.tar"):
        prepare(tmp_path / "in", out, shard_bytes=10**9, workers=0)


def test_one_video_of_a_shard_is_a_source(sharded):
    member = find(sharded)[2].path
    assert find(member) == find(str(member))
    assert [item.path for item in find(member)] == [member]
    with pytest.raises(FileNotFoundError):
        find(member.with_name("gone.mp4"))


def test_content_is_compared_inside_of_shards(single, sharded, tmp_path):
    plain, packed = find(single), find(sharded)
    assert len(overlap(plain, packed)) == len(plain)  # as if a test set were packed and the training set not
    assert not overlap(plain[:3], packed[3:])
    assert len(check([*plain[:2], *packed[:3]], workers=0).duplicates) == 2


def test_tar_files_of_others_may_say_this_folder(single, tmp_path):
    film = find(single)[0].path
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(film, "./0.mp4")
    assert torch.equal(frames_at(tmp_path / "x.tar" / "0.mp4", [1]).frames, frames_at(film, [1]).frames)
