"""Tables on the disk: the same videos as the list they were made of, in little memory, and never half of them."""

import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.cli import run
from tubelet.data import labels as labels_of
from tubelet.data import table
from tubelet.data.datasets import Data, Dataset
from tubelet.data.items import Item
from tubelet.data.labels import Labels, Rows
from tubelet.data.lists import streamed
from tubelet.data.loader import batches
from tubelet.data.prepare import prepare
from tubelet.data.sampling import Dense
from tubelet.data.sources import coming, find
from tubelet.data.split import write_list
from tubelet.data.table import Table, write

SMALL = Data(Dense(4, stride=2), size=(32, 32))
word = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)
names = word.filter(lambda text: text not in (".", ".."))


def made(count: int) -> list[Item]:
    return [Item(Path(f"/videos/{n % 7}/{n}.mp4"), f"class {n % 5}", None, n / 3, f"who {n % 3}") for n in range(count)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A table of ten videos with everything."""
    write(tmp_path / "ten.table", made(10), Path("/videos"))
    return tmp_path / "ten.table"


# ---------------------------------------------------------------------------- the same


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(names.filter(lambda text: "/" not in text), min_size=1, max_size=3),
            st.none() | word,
            st.none() | st.floats(0, 1e6),
            st.none() | st.floats(0, 1e6),
            st.none() | word,
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_what_was_written_is_read(tmp_path_factory, rows, chunk):
    """Any names, labels, parts and groups, also where columns begin late or never; in pieces of any size."""
    items = [Item(Path("/some/where", *parts), *rest) for parts, *rest in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "CHUNK", chunk)
        patch.setattr(table, "NAMES", 2)  # the third name is written as often as it comes
        found = write(tmp_path_factory.mktemp("any") / "a.table", iter(items), Path("/some"))
    assert list(found) == items
    assert [found[-1 - row] for row in range(len(items))] == items[::-1]
    assert found[::2] == items[::2]
    assert {item.label for item in found.kinds} == {item.label for item in items}
    with pytest.raises(IndexError):
        found[len(items)]


def test_columns_are_what_numpy_writes(folder, tmp_path):
    """So anyone can read them; and a column that says nothing is not there."""
    for file in folder.glob("*.npy"):
        np.save(tmp_path / "theirs.npy", column := np.load(file))
        assert np.array_equal(np.load(tmp_path / "theirs.npy"), column)
        assert file.stat().st_size == 128 + column.nbytes
    ends = np.load(folder / "path_ends.npy")
    assert bytes(np.load(folder / "paths.npy"))[ends[2] : ends[3]] == b"3/3.mp4"
    assert not (folder / "start.npy").exists()


def test_the_same_videos_have_the_same_digest_wherever_they_lie(tmp_path):
    one = write(tmp_path / "one.table", made(9), Path("/videos"))
    moved = [Item(Path("/elsewhere") / item.path.relative_to("/videos"), item.label, item.start, item.end, item.group)
             for item in made(9)]  # fmt: skip
    assert write(tmp_path / "two.table", moved, Path("/elsewhere")).digest == one.digest
    assert write(tmp_path / "three.table", made(9)[::-1], Path("/videos")).digest != one.digest
    other = [*made(8), Item(made(9)[8].path, "another", None, 8 / 3, "who 2")]
    assert write(tmp_path / "four.table", other, Path("/videos")).digest != one.digest


def test_videos_beside_the_table_move_with_it(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "a" / "clips")
    made = write(tmp_path / "a" / "x.table", find(tmp_path / "a" / "clips"), tmp_path / "a" / "clips")
    assert list(made) == list(find(tmp_path / "a" / "clips"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert list(find(tmp_path / "b" / "x.table")) == list(find(tmp_path / "b" / "clips"))


def test_addresses_stay_as_they_are(tmp_path):
    items = [Item(Path("s3://bucket/a.mp4")), Item(Path("https://host/b.mp4"))]
    assert list(write(tmp_path / "far.table", items, tmp_path)) == items


def test_a_run_sees_the_same_clips_from_table_folder_and_list(clips, tmp_path):
    """Also in workers, which open the table themselves."""
    assert run(["index", str(clips), str(tmp_path / "clips.table")]) == 0
    write_list(tmp_path / "clips.csv", find(clips))
    assert run(["index", str(tmp_path / "clips.csv"), str(tmp_path / "list.table")]) == 0
    data = Data(Dense(4, stride=2), size=(32, 32), labels=Labels.of(find(clips)))

    def seen(source: Path, workers: int = 0) -> list[tuple]:
        stream = batches(Dataset(find(source), data, 3), 2, 0, 5, workers)
        return [(b.video.numpy().tobytes(), b.ids.tolist(), b.labels.tolist()) for b in stream]

    expected = seen(clips)
    assert seen(tmp_path / "clips.table") == expected
    assert seen(tmp_path / "list.table", 2) == expected


def test_workers_get_the_name_and_not_the_rows(folder):
    data = pickle.dumps(Table(folder))
    assert len(data) < 500
    assert list(pickle.loads(data)) == made(10)


# ---------------------------------------------------------------------------- lists


def test_a_list_is_read_while_it_is_written(tmp_path):
    """The first videos come before the last lines are there: no list is ever whole in memory."""
    (tmp_path / "a.mp4").touch()
    os.mkfifo(tmp_path / "pipe.csv")
    writer = os.open(tmp_path / "pipe.csv", os.O_RDWR)
    os.write(writer, b"path,label\n" + b"a.mp4,walk\n" * 4000)
    stream = streamed(tmp_path / "pipe.csv")
    first = [next(stream) for _ in range(5)]
    os.close(writer)
    assert first == [Item(tmp_path / "a.mp4", "walk")] * 5


def test_a_list_with_missing_videos_leaves_no_table(tmp_path, capsys):
    (tmp_path / "there.mp4").touch()
    (tmp_path / "a.csv").write_text("path\nthere.mp4\n" + "gone.mp4\n" * 7)
    assert run(["index", str(tmp_path / "a.csv"), str(tmp_path / "a.table")]) == 1
    assert "7 of the 8 videos" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "there.mp4"]


def test_the_command_says_what_it_wrote(clips, tmp_path, capsys):
    assert run(["index", str(clips), str(tmp_path / "x.table"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["videos"], said["labels"]) == (7, 2)
    assert said["bytes"] == sum(file.stat().st_size for file in (tmp_path / "x.table").iterdir())
    assert run(["index", str(clips), str(tmp_path / "x.table")]) == 2
    assert "is there already; name another" in capsys.readouterr().err


def test_a_prepared_folder_is_read_by_its_list(tmp_path, clips):
    prepare(clips, tmp_path / "p", shard_bytes=30_000, workers=0)
    assert list(coming(tmp_path / "p")) == list(find(tmp_path / "p"))
    assert list(write(tmp_path / "p.table", coming(tmp_path / "p"), tmp_path / "p")) == list(find(tmp_path / "p"))


# ---------------------------------------------------------------------------- damage


def test_a_writer_that_is_killed_leaves_nothing_that_looks_whole(tmp_path):
    code = f"""
import time
from pathlib import Path
from tubelet.data.table import Item, write

def slow():
    for n in range(200_000):
        yield Item(Path(f"/v/{{n}}.mp4"))
    print("x", flush=True)
    time.sleep(60)

write(Path({str(tmp_path / "a.table")!r}), slow(), Path("/v"))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "a.table").exists()
    with pytest.raises(ValueError, match=r"has no table.json"):
        find(tmp_path / ".a.table.part")
    with pytest.raises(ValueError, match=r"or that was interrupted; remove it then"):
        write(tmp_path / "a.table", made(3), tmp_path)


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    def broken():
        yield from made(3)
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        write(tmp_path / "a.table", broken(), tmp_path)
    with pytest.raises(ValueError, match="there are no videos"):
        write(tmp_path / "a.table", [], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["paths", "path_ends", "label", "labels", "label_ends", "group", "end"])
@pytest.mark.parametrize("way", ["cut", "gone", "short", "other", "pickle", "noise"])
def test_a_damaged_column_is_named_with_what_to_do(folder, file, way):
    path = folder / f"{file}.npy"
    data, column = path.read_bytes(), np.load(path)
    if way == "cut":
        path.write_bytes(data[:-1])
    elif way == "gone":
        path.unlink()
    elif way == "short":
        np.save(path, column[:-1])
    elif way == "other":
        np.save(path, column.astype(np.float32))
    elif way == "pickle":
        np.save(path, np.array([print, len], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(np.random.default_rng(0).bytes(len(data)))
    with pytest.raises(ValueError, match=rf"ten.table is damaged: .*{file}.npy.*tubelet index SOURCE NEW.table"):
        find(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: "{", "JSONDecodeError"),
        (lambda card: "[]", "TypeError"),
        (lambda card: json.dumps(card | {"count": 11}), "path_ends"),
        (lambda card: json.dumps(card | {"count": "10"}), "count"),
        (lambda card: json.dumps({key: value for key, value in card.items() if key != "root"}), "root"),
        (lambda card: json.dumps(card | {"columns": {"paths": 3}}), "path_ends"),
        (lambda card: json.dumps(card | {"columns": card["columns"] | {"../x": 3}}), r"\.\./x"),
    ],
)
def test_a_damaged_card_is_named(folder, change, says):
    card = json.loads((folder / "table.json").read_text())
    (folder / "table.json").write_text(change(card))
    with pytest.raises(ValueError, match=rf"ten.table is damaged: table.json.*{says}"):
        find(folder)


def test_a_table_of_a_newer_tubelet_asks_for_that(folder):
    card = json.loads((folder / "table.json").read_text())
    (folder / "table.json").write_text(json.dumps(card | {"format": 2, "columns": "otherwise"}))
    with pytest.raises(ValueError, match=r"is a table of format 2, and this tubelet reads 1: update tubelet"):
        find(folder)


@pytest.mark.parametrize("column", ["path_ends", "label", "label_ends"])
@pytest.mark.parametrize("value", [-5, 10**6])
def test_a_row_that_leads_nowhere_is_an_error_and_no_other_video(folder, column, value):
    data = np.load(folder / f"{column}.npy")
    data[1] = value
    np.save(folder / f"{column}.npy", data)
    found = Table(folder)
    with pytest.raises(ValueError, match=r"ten.table is damaged: .*row"):
        found[1]


def test_names_that_are_no_text_are_an_error(folder):
    data = np.load(folder / "labels.npy")
    data[0] = 0xFF
    np.save(folder / "labels.npy", data)
    with pytest.raises(ValueError, match=r"ten.table is damaged: labels.npy: .*can't decode"):
        Table(folder)[0]


# ---------------------------------------------------------------------------- many


def many(folder: Path, count: int) -> Table:
    """A table of 0000000.mp4 and so on, of 400 classes, with its columns written as NumPy writes them."""
    write(folder, [Item(Path("/v/0000000.mp4"), f"c{n}") for n in range(400)], Path("/v"))
    rows = np.arange(count)
    digits = (rows[:, None] // 10 ** np.arange(6, -1, -1) % 10 + 48).astype(np.uint8)
    endings = np.broadcast_to(np.frombuffer(b".mp4", np.uint8), (count, 4))
    columns = {
        "paths": np.hstack([digits, endings]).ravel(),
        "path_ends": 11 * (rows + 1),
        "label": (rows % 400).astype(np.int32),
    }
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    card = json.loads((folder / "table.json").read_text())
    sizes = card["columns"] | {name: len(column) for name, column in columns.items()}
    (folder / "table.json").write_text(json.dumps(card | {"count": count, "columns": sizes}))
    return Table(folder)


def test_a_million_videos_take_no_memory_and_no_time(tmp_path):
    """A data set of them is built, pickled and asked in less than what a list of its paths would take."""
    count = 2**20 + 3
    items = many(tmp_path / "m.table", count)
    labels = Labels.of(items)
    tracemalloc.start()
    begin = time.perf_counter()
    dataset = Dataset(items, Data(Dense(4), size=(32, 32), labels=labels), 1)
    seen = [dataset.items[dataset.item(position)].label for position in range(0, 3 * count, count // 50)]
    rows = dataset.labels[torch.tensor([0, 1, count - 1])]
    took, (_, most) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24  # a list of as many pointers takes 2**23, of paths 2**27
    assert took < 10
    assert len(set(seen)) > 60
    assert len(pickle.dumps(dataset)) < 20_000
    assert rows.argmax(1).tolist() == [labels.names.index(f"c{n % 400}") for n in (0, 1, count - 1)]


def test_rows_of_many_are_those_of_few(tmp_path, monkeypatch):
    items = [Item(Path(f"/v/{n}.mp4"), f"run:{n % 3 + 1}|fall:{n % 2}") for n in range(40)]
    labels = Labels.of(items, "shares")
    expected = labels.encode(items)
    monkeypatch.setattr(labels_of, "LARGE", 8)
    monkeypatch.setattr(labels_of, "PIECE", 7)
    for many in (items, write(tmp_path / "a.table", items, Path("/v"))):
        assert Labels.of(many, "shares") == labels
        rows = labels_of.rows_of(labels, many)
        assert isinstance(rows, Rows)
        assert torch.equal(rows[torch.arange(40)], expected)


@pytest.mark.parametrize("bad", ["unknown", None])
def test_labels_of_many_are_checked_before_the_run(tmp_path, monkeypatch, bad):
    monkeypatch.setattr(labels_of, "LARGE", 8)
    monkeypatch.setattr(labels_of, "PIECE", 7)
    good = [Item(Path(f"/v/{n}.mp4"), "ab"[n % 2]) for n in range(30)]
    items = write(tmp_path / "a.table", [*good, Item(Path("/v/x.mp4"), bad)], Path("/v"))
    says = "label 'unknown'" if bad else r"some of 31 videos have no label, the first is /v/x.mp4"
    with pytest.raises(ValueError, match=says):
        Dataset(items, Data(Dense(4), size=(32, 32), labels=Labels.of(good)))


def test_times_are_those_that_were_written(folder):
    assert [item.end for item in Table(folder)] == [n / 3 for n in range(10)]
    assert all(item.start is None for item in Table(folder))
    assert not any(math.isnan(item.end) for item in Table(folder))
