"""Videos elsewhere: the same frames as from here, few bytes for a clip, patience, and a clear end to it."""

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from films import FFMPEG, make, moving
from storage import served, touched

from tubelet.config import Optim, Run, Training
from tubelet.data import index, kept, remote, retry, shards
from tubelet.data.check import check
from tubelet.data.datasets import Data, Dataset
from tubelet.data.items import Note
from tubelet.data.prepare import prepare
from tubelet.data.retry import Retry, Unreachable
from tubelet.data.sampling import Dense
from tubelet.data.sources import find
from tubelet.data.split import write_list
from tubelet.data.transforms import MultiScaleCrop
from tubelet.data.video import VideoError, frames_at, probe, write
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels
from tubelet.train.log import metrics
from tubelet.train.loop import train

QUICK = Retry(tries=4, first=0.001, longest=0.002, once=5.0, total=10.0)


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory) -> Path:
    """All that is served: videos, the same prepared, and the same in shards."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(clips, root / "clips")
    prepare(clips, root / "prepared", workers=0)
    prepare(clips, root / "sharded", shard_bytes=30_000, workers=0)
    return root


@pytest.fixture
def storage(folder, monkeypatch):
    """The server, with nothing wrong with it and nothing remembered of it."""
    monkeypatch.setattr(retry, "RETRY", QUICK)
    forget()
    with served(folder) as storage:
        yield storage
    forget()


def forget() -> None:
    """Nothing is known of any file, as in a new process."""
    remote._states.clear()
    remote.blocks.cache_clear()
    kept.nearest.cache_clear()
    shards.members.cache_clear()
    index._memory.clear()


def same(here: list, there: list) -> None:
    """Asserts that two lists have the same videos, with the same names and labels."""
    assert [(item.path.name, item.label, item.start, item.end) for item in here] == [
        (item.path.name, item.label, item.start, item.end) for item in there
    ]
    for one, other in zip(here, there):
        old, new = probe(one.path), probe(other.path)
        assert np.array_equal(old.seconds, new.seconds)
        assert torch.equal(
            frames_at(one.path, [0, 5, old.frames - 1]).frames, frames_at(other.path, [0, 5, old.frames - 1]).frames
        )


# ---------------------------------------------------------------------------- paths


def test_an_address_survives_being_a_path():
    for url in ("s3://bucket/a b/c.mp4", "https://host:80/a.mp4", "memory://x/a.mp4", "gs://b/c", "hf://datasets/a/b"):
        path = Path(url)
        assert remote.url_of(path) == url
        assert remote.url_of(path / "more.mp4") == f"{url}/more.mp4"
        assert remote.url_of(pickle.loads(pickle.dumps(path))) == url
        assert remote.shown(path) == url
        assert remote.shown(f"no {path}: {path}") == f"no {url}: {url}"
        assert Path(remote.shown(path)) == path
        assert remote.absolute(path) == str(path)


@pytest.mark.parametrize(
    "local", ["a.mp4", "/a/b.mp4", "C:/a.mp4", "kinetics:/data/k400", "x.tar/a.mp4", "file:/a", "zip:/a", "a/s3:/b", ""]
)
def test_what_is_no_address_stays_a_path(local):
    assert remote.url_of(Path(local)) is None
    assert remote.shown(Path(local)) == str(Path(local))


def test_local_files_may_be_written_as_addresses(clips):
    here = find(f"file://{clips}")
    assert here == find(clips)
    assert find(f"file://{here[0].path}") == [replace(here[0], label=None)]


# ---------------------------------------------------------------------------- the same as from here


def test_folders_lists_and_single_videos_are_those_from_here(clips, folder, storage, tmp_path):
    here = find(clips)
    same(here, find(f"{storage.url}/clips"))
    same([replace(here[0], label=None)], find(f"{storage.url}/clips/a/0.mp4"))
    (folder / "list.csv").write_text("path,label,start,end\nclips/a/2.mp4,walk,0.5,1.5\nclips/b/1.mp4,run,,\n")
    (folder / "lines.txt").write_text("# two\nclips/a/2.mp4 walk\nclips/b/1.mp4 run\n")
    (folder / "table.csv").write_text("clip;subset\nclips/a/2.mp4;train\nclips/b/1.mp4;val\n")
    same(find(folder / "list.csv"), find(f"{storage.url}/list.csv"))
    same(find(folder / "lines.txt"), find(f"{storage.url}/lines.txt"))
    table = "table:{}/table.csv:val?path=clip"
    same(find(table.format(folder)), find(table.format(storage.url)))
    mixed = tmp_path / "mixed.csv"
    mixed.write_text(f"{clips}/a/0.mp4,x\n{storage.url}/clips/b/1.mp4,y\nfile://{clips}/a/2.mp4,z\n")
    found = find(mixed)
    assert [item.label for item in found] == ["x", "y", "z"]
    assert [remote.url_of(item.path) is not None for item in found] == [False, True, False]
    write_list(tmp_path / "again.csv", found)
    assert find(tmp_path / "again.csv") == found
    assert f"{storage.url}/clips/b/1.mp4" in (tmp_path / "again.csv").read_text()


def test_parquet_lists_are_read_from_elsewhere(folder, storage):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.table({"path": ["clips/a/2.mp4"], "label": ["walk"]})
    parquet.write_table(table, folder / "list.parquet")
    same(find(folder / "list.parquet"), find(f"{storage.url}/list.parquet"))


@pytest.mark.parametrize("kind", ["prepared", "sharded"])
def test_prepared_folders_are_those_from_here(kind, folder, storage):
    there = find(f"{storage.url}/{kind}")
    same(find(folder / kind), there)
    assert [path for method, path, _ in storage.asked if method == "GET"].count(f"/{kind}/videos.csv") == 1
    report = check(there, workers=0)
    assert report.problems == ()
    assert [row.bytes for row in report.rows] == [shards.size_of(item.path) for item in find(folder / kind)]


def test_shards_without_a_table_are_read_by_their_headers(folder, storage, tmp_path):
    here = find(folder / "sharded")
    shutil.copytree(folder / "sharded", folder / "bare", ignore=shutil.ignore_patterns("0of1-*.csv"))
    try:
        same(here, find(f"{storage.url}/bare"))
    finally:
        shutil.rmtree(folder / "bare")


def test_memory_is_elsewhere_too(clips):
    forget()
    system = fsspec.filesystem("memory")
    system.put(f"{clips}/", "/films", recursive=True)
    try:
        same(find(clips), find("memory://films"))
    finally:
        system.rm("/films", recursive=True)
        forget()


@pytest.mark.parametrize(
    "kind", ["h264_open.mp4", "h264_cut.mp4", "turned_90.mp4", "mpeg4.avi", "vp8.webm", "mpeg2.ts"]
)
def test_all_that_is_known_of_a_video_is_the_same_from_elsewhere(kind, tmp_path):
    write(tmp_path / "source.mp4", moving(60, 0, 96, 128), 24)
    here = probe(make(tmp_path, kind))
    forget()
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path / kind), f"/kinds/{kind}")
    try:
        there = probe(Path(f"memory://kinds/{kind}"))
        for field in fields(here):
            if field.name != "path":
                assert np.array_equal(getattr(here, field.name), getattr(there, field.name)), field.name
        everything = range(here.frames)
        assert torch.equal(frames_at(here, everything).frames, frames_at(there, everything).frames)
    finally:
        system.rm("/kinds", recursive=True)
        forget()


def test_pictures_in_a_list_are_read_from_elsewhere(folder, storage):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "one.png")
    (folder / "pictures.csv").write_text("path\none.png\n")
    (item,) = find(f"{storage.url}/pictures.csv")
    assert np.array_equal(frames_at(item.path, [0]).frames[0].numpy(), picture)


def test_preparing_from_elsewhere_gives_the_same_videos(folder, storage, tmp_path):
    outcome = prepare(f"{storage.url}/clips", tmp_path / "out", workers=0)
    assert not outcome.quarantined
    for name in ("a/0.mp4", "b/5.mp4"):
        ours, theirs = (probe(root / name) for root in (tmp_path / "out", folder / "prepared"))
        assert ours.seconds.tolist() == theirs.seconds.tolist()
        one, other = (frames_at(video.path, range(video.frames)).frames.float() for video in (ours, theirs))
        assert (one - other).abs().mean() < 1  # x264 does not give the same bytes each time on a busy machine
    again = prepare(f"{storage.url}/clips", tmp_path / "out", workers=0)
    assert again.new == 0
    with pytest.raises(ValueError, match="prepare into a folder here"):
        prepare(folder / "clips", Path(f"{storage.url}/out"))


def tiny(workers: int) -> Run:
    return Run(
        encoder=Encoder(width=24, depth=1, heads=2, hidden=48, patch=(2, 8, 8)),
        method=Masked(mask=Tube(0.75), target=Pixels("videomae"), decoder=Decoder(16, 1, 2)),
        data=Data(clip=Dense(4, stride=2), size=(32, 32), crop=MultiScaleCrop()),
        optim=Optim(base_lr=0.05, warmup=1),
        training=Training(epochs=2, batch=4, workers=workers, precision="float32"),
    )


@pytest.mark.parametrize("kind", ["clips", "sharded"])
def test_training_in_workers_is_bit_for_bit_that_on_local_files(kind, folder, storage, tmp_path):
    def losses(out: Path) -> list[float]:
        return [row["loss"] for row in metrics(out)]

    train(tiny(0), folder / kind, tmp_path / "here", quiet=True)
    forget()
    find(f"{storage.url}/{kind}")  # fsspec's threads are there before the workers are forked
    train(tiny(2), f"{storage.url}/{kind}", tmp_path / "there", quiet=True)
    assert losses(tmp_path / "here") == losses(tmp_path / "there")
    one, other = ((tmp_path / side / "encoder.safetensors").read_bytes() for side in ("here", "there"))
    assert one[-1000:] == other[-1000:]


# ---------------------------------------------------------------------------- few bytes


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """A video of some megabytes, prepared, and as it came with its tables at the end."""
    root = tmp_path_factory.mktemp("long")
    frames = np.random.default_rng(0).integers(0, 256, (120, 96, 128, 3), dtype=np.uint8)
    (root / "in").mkdir()
    write(root / "in" / "long.mp4", frames, 30)
    prepare(root / "in", root / "prepared", workers=0)
    command = [FFMPEG, "-v", "fatal", "-i", root / "prepared" / "long.mp4", "-c", "copy", root / "tail.mp4"]
    subprocess.run(command, check=True)
    return root


def test_a_clip_of_a_prepared_file_takes_few_bytes_and_requests(long, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 2**15)
    forget()
    whole = (long / "prepared" / "long.mp4").stat().st_size
    assert whole > 24 * 2**15
    with served(long) as storage:
        path = Path(f"{storage.url}/prepared/long.mp4")
        clip = frames_at(path, [98, 100, 102])
        assert torch.equal(clip.frames, frames_at(long / "prepared" / "long.mp4", [98, 100, 102]).frames)
        first = storage.bytes, len(storage.asked)
        assert first[0] < whole / 4
        assert first[1] <= 12  # of the index, and of the file: its state before and after, the head, where the clip is
        storage.forget()
        remote._states.clear()  # some seconds later
        frames_at(path, [34, 36, 38])
        assert storage.bytes <= 3 * 2**15  # where the clip lies, from one key frame on; its tables are there still
        assert [method for method, _, _ in storage.asked][:: len(storage.asked) - 1] == ["HEAD", "HEAD"]
        assert len(storage.asked) <= 6
        storage.forget()
        frames_at(path, [34, 36, 38])  # what was read last stays
        assert storage.bytes == 0


def test_tables_at_the_end_are_fetched_alone(long, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 2**15)
    forget()
    with served(long) as storage:
        video = probe(long / "tail.mp4")
        with remote.opened(f"{storage.url}/tail.mp4") as reader:
            reader.seek(-100, os.SEEK_END)
            assert reader.read(200) == (long / "tail.mp4").read_bytes()[-100:]
            assert reader.read(10) == b""
        storage.forget()
        there = replace(video, path=Path(f"{storage.url}/tail.mp4"))
        assert torch.equal(frames_at(there, [100]).frames, frames_at(video, [100]).frames)
        assert storage.bytes < (long / "tail.mp4").stat().st_size / 4


def test_blocks_in_memory_are_bounded():
    assert remote.BLOCK * remote.BLOCKS * remote.FILES <= 2**25
    cache = remote.blocks("memory://none", remote.State(10**9, 0), kept.NEARBY)
    assert cache.maxblocks * cache.blocksize == remote.BLOCK * remote.BLOCKS
    remote.blocks.cache_clear()


def test_a_run_asks_nothing_of_each_remote_file_before_it_begins(folder, storage):
    items = find(f"{storage.url}/prepared")
    storage.forget()
    assert [shards.size_of(item.path) for item in items] == [None] * len(items)
    assert storage.asked == []


# ---------------------------------------------------------------------------- patience


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of `retry`; waits are as long as they may be."""
    clock = Clock()
    monkeypatch.setattr(retry, "sleep", clock.sleep)
    monkeypatch.setattr(retry, "monotonic", lambda: clock.now)
    monkeypatch.setattr(retry._dice, "uniform", lambda low, high: high)
    return clock


def failing(errors: list[BaseException], taking: float, clock: Clock):
    """A function that fails so, each time after some seconds, and then gives the seconds that it was given."""

    def act(seconds: float) -> float:
        clock.now += min(taking, seconds)
        if errors:
            raise errors.pop(0)
        return seconds

    return act


def test_waits_double_up_to_a_bound_and_are_drawn_from_zero_on(clock, monkeypatch):
    how = Retry(tries=9, first=0.5, longest=8.0, once=30.0, total=1000.0)
    assert retry.patiently("s3://a/b", failing([OSError("busy")] * 8, 0.0, clock), how) == 30.0
    assert clock.waits == [0.5, 1, 2, 4, 8, 8, 8, 8]
    drawn = []
    monkeypatch.setattr(retry._dice, "uniform", lambda low, high: drawn.append((low, high)) or 0.0)
    retry.patiently("s3://a/b", failing([OSError()] * 3, 0.0, clock), how)
    assert drawn == [(0, 0.5), (0, 1.0), (0, 2.0)]


def test_the_last_error_is_told_with_the_tries_and_the_time(clock):
    errors: list[BaseException] = [TimeoutError("slow")] * 5 + [ConnectionResetError("gone away")]
    with pytest.raises(
        Unreachable, match=r"s3://a/b cannot be read: 6 tries in 25\.5 s, the last: .*gone away"
    ) as told:
        retry.patiently("s3://a/b", failing(errors, 1.666, clock))
    assert isinstance(told.value.__cause__, ConnectionResetError)
    assert clock.waits == [0.5, 1, 2, 4, 8]


def test_the_time_for_all_tries_is_bounded(clock):
    given = []

    def hanging(seconds: float) -> None:
        given.append(seconds)
        clock.now += seconds
        raise TimeoutError

    with pytest.raises(Unreachable, match="tries in"):
        retry.patiently("s3://a/b", hanging, Retry(tries=100, first=1.0, longest=4.0, once=30.0, total=100.0))
    assert clock.now <= 100.0
    assert given == [30.0, 30.0, 30.0, 3.0]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), FileNotFoundError),
        (PermissionError("x"), PermissionError),
        (ValueError("x"), Unreachable),
    ],
)
def test_what_would_be_the_same_again_is_asked_once(error, kind, clock):
    errors = [error, error]
    with pytest.raises(kind, match="s3://a/b"):
        retry.patiently("s3://a/b", failing(errors, 0.0, clock))
    assert len(errors) == 1
    assert clock.waits == []


@pytest.mark.parametrize("trouble", ["503", "500", "429", "cut", "slow"])
def test_reading_goes_on_after_trouble(trouble, folder, storage):
    path = Path(f"{storage.url}/clips/a/0.mp4")
    video = replace(probe(folder / "clips" / "a" / "0.mp4"), path=path)
    storage.trouble = ["", trouble, "" if trouble == "slow" else trouble]  # of the state, then of the content
    here = frames_at(folder / "clips" / "a" / "0.mp4", [3, 7]).frames
    assert torch.equal(frames_at(video, [3, 7]).frames, here)
    assert storage.trouble == []
    assert len([method for method, _, _ in storage.asked if method == "GET"]) == (1 if trouble == "slow" else 3)


def test_a_request_that_hangs_is_cut_short_and_repeated(folder, storage, monkeypatch):
    monkeypatch.setattr(retry, "RETRY", replace(QUICK, once=0.3))
    storage.trouble = ["", "hang", ""]
    path = Path(f"{storage.url}/clips/a/0.mp4")
    video = replace(probe(folder / "clips" / "a" / "0.mp4"), path=path)
    assert torch.equal(frames_at(video, [3]).frames, frames_at(folder / "clips" / "a" / "0.mp4", [3]).frames)


@pytest.mark.parametrize("always", ["503", "cut", "hang"])
def test_a_storage_that_stays_broken_is_an_error_that_names_it(always, folder, storage, monkeypatch):
    monkeypatch.setattr(retry, "RETRY", replace(QUICK, once=0.2))
    path = Path(f"{storage.url}/clips/a/0.mp4")
    assert shards.state_of(path)[0] > 0
    storage.always = always
    with pytest.raises(Unreachable, match=rf"^{storage.url}/clips/a/0.mp4 cannot be read: 4 tries in"):
        frames_at(path, [0])
    assert len([method for method, _, _ in storage.asked if method == "GET"]) >= 4


@pytest.mark.parametrize(("status", "kind"), [("404", VideoError), ("403", PermissionError)])
def test_missing_and_forbidden_files_are_told_at_once(status, kind, storage):
    storage.always = status
    with pytest.raises(kind, match=f"{storage.url}/clips/a/0.mp4"):
        frames_at(Path(f"{storage.url}/clips/a/0.mp4"), [0])
    assert len(storage.asked) <= 8  # fsspec asks for a state in two ways


def test_a_server_without_ranges_is_refused_and_not_asked_again(storage, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 2**10)
    storage.always = "whole"
    path = Path(f"{storage.url}/clips/a/0.mp4")
    with pytest.raises(Unreachable, match="it gives no parts of files"):
        frames_at(path, [0])


@pytest.mark.parametrize("how", ["size", "time"])
def test_a_file_that_changes_while_it_is_read_is_an_error(how, folder, storage, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 2**12)
    file = folder / "changing.mp4"
    shutil.copy(folder / "clips" / "a" / "6.mp4", file)
    path = Path(f"{storage.url}/changing.mp4")

    def change(video) -> list[int]:
        if how == "size":
            shutil.copy(folder / "clips" / "b" / "5.mp4", file)
        touched(file)
        return [0, 30]

    with pytest.raises(Unreachable, match=r"was changed.* while it was read"):
        frames_at(path, change)
    assert torch.equal(frames_at(path, [2]).frames, frames_at(file, [2]).frames)  # of the new one alone
    file.unlink()


def test_an_index_is_not_that_of_the_file_before(folder, storage):
    file, path = folder / "replaced.mp4", Path(f"{storage.url}/replaced.mp4")
    shutil.copy(folder / "clips" / "a" / "0.mp4", file)
    assert probe(path).frames == 20
    shutil.copy(folder / "clips" / "a" / "6.mp4", file)
    touched(file)
    remote._states.clear()  # some seconds later
    assert probe(path).frames == 44
    file.unlink()


# ---------------------------------------------------------------------------- what is refused


def test_a_run_notes_a_missing_video_when_it_comes_to_it(folder, storage):
    (folder / "gone.csv").write_text("path\nclips/a/0.mp4\nclips/a/gone.mp4\n")
    items = find(f"{storage.url}/gone.csv")
    samples = [Dataset(items, Data(Dense(4), (32, 32)))[position] for position in range(2)]
    notes = [note for sample in samples for note in sample.notes if note.kind == "unreadable"]
    assert len(notes) == 1
    assert f"{storage.url}/clips/a/gone.mp4 is not there" in notes[0]


def test_messages_show_addresses_as_people_write_them():
    assert str(VideoError(f"{Path('s3://b/a.mp4')} is empty")) == "s3://b/a.mp4 is empty"
    assert Note(f"{Path('s3://b/a.mp4')} is short") == "s3://b/a.mp4 is short"
    assert str(pickle.loads(pickle.dumps(VideoError("gs:/b/a.mp4")))) == "gs://b/a.mp4"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("kinetics:{url}/clips", "lies elsewhere, where only folders, lists"),
        ("kinetics:{folder}?videos={url}/clips", "lies elsewhere, where only folders, lists"),
        ("images:{url}/clips", "lies elsewhere, where only folders, lists"),
        ("{url}/frames", "is a folder of images; elsewhere only video files are read"),
        ("{url}/sharded/0of1-00000.tar", "is a shard: name the folder"),
        ("{url}/local.csv", "names /etc/a.mp4, which is a place on this machine"),
        ("{url}/file.csv", "names file:///etc/a.mp4, which is a place on this machine"),
        ("{url}/nothing", "there is nothing at http://|is not there"),
        ("{url}/nothing.csv", "is not there"),
        ("{url}/nothing.mp4", "is not there"),
        ("http://a::file:///etc/passwd", "several addresses in one"),
    ],
)
def test_what_is_not_read_from_elsewhere_is_refused(source, words, folder, storage):
    (folder / "local.csv").write_text("path\n/etc/a.mp4\n")
    (folder / "file.csv").write_text("path\nfile:///etc/a.mp4\n")
    (folder / "frames").mkdir(exist_ok=True)
    for number in range(3):
        (folder / "frames" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises((ValueError, OSError), match=words) as told:
        find(source.format(url=storage.url, folder=folder))
    assert ":/1" not in str(told.value)
    shutil.rmtree(folder / "frames")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(
        ValueError, match=r"s3:// takes a package that is not installed: pip install 'tubelet\[remote\]'"
    ):
        find("s3://bucket/videos")
