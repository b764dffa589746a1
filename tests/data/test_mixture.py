"""Weighted mixtures: as a loop writes them down from the definition, on any number of workers and processes."""

import pickle
from collections import Counter
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.cli import run
from tubelet.data.datasets import ATTEMPTS, Data, Dataset
from tubelet.data.items import Item
from tubelet.data.labels import Labels
from tubelet.data.loader import batches
from tubelet.data.mixture import Mixture, Source, listed, shared
from tubelet.data.order import Shuffle, stream
from tubelet.data.prepare import prepare
from tubelet.data.sampling import Dense
from tubelet.data.sources import MissingVideos, find
from tubelet.data.split import write_list
from tubelet.data.table import Table, write

SMALL = Data(Dense(4, stride=2), size=(32, 32))


def mixture(*sizes_and_weights: tuple[int, str], places: int | None = None) -> Mixture:
    """Sources a, b, c ... of so many made-up videos."""
    sources = [
        Source(name, Fraction(weight), [Item(Path(f"{name}/{n}.mp4"), name) for n in range(size)])
        for name, (size, weight) in zip("abcdef", sizes_and_weights)
    ]
    return Mixture(sources, places)


# ---------------------------------------------------------------------------- how often


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**9), st.lists(st.fractions(Fraction(1, 1000), 1000), min_size=1, max_size=9))
def test_places_are_shared_by_largest_remainder(places, weights):
    counts = shared(places, weights)
    quotas = [places * weight / sum(weights) for weight in weights]
    assert sum(counts) == places
    assert all(int(quota) <= count <= int(quota) + 1 for count, quota in zip(counts, quotas))
    up = [quota - int(quota) for count, quota in zip(counts, quotas) if count > int(quota)]
    down = [quota - int(quota) for count, quota in zip(counts, quotas) if count == int(quota)]
    assert not up or not down or min(up) >= max(down)


def test_weights_are_the_decimals_that_were_written():
    """0.1 + 0.2 is 0.3: as floats the last would lose a place to rounding."""
    assert shared(10, [Fraction("0.1"), Fraction("0.2"), Fraction("0.3"), Fraction("0.4")]) == [1, 2, 3, 4]


def by_hand(sizes: list[int], counts: list[int], seed: int, epochs: int) -> list[list[int]]:
    """What each epoch shows, from the definition: endless streams of the sources, cut into pieces, put in an order."""
    endless = []
    for number, (size, count) in enumerate(zip(sizes, counts)):
        rounds = -(-count * epochs // size)
        orders = [list(Shuffle.drawn(stream(seed, "mixture", number, again), size)) for again in range(rounds)]
        endless.append(sum(sizes[:number]) + np.concatenate(orders))
    found = []
    for epoch in range(epochs):
        pieces = [one[epoch * count : (epoch + 1) * count] for one, count in zip(endless, counts)]
        found.append(np.concatenate(pieces)[stream(seed, "perm", epoch).permutation(sum(counts))].tolist())
    return found


@pytest.mark.parametrize("places", [None, 7, 50])
def test_it_shows_what_a_loop_from_the_definition_shows(places):
    mixed = mixture((9, "0.2"), (3, "0.7"), (17, "0.1"), places=places)
    dataset = Dataset(mixed, SMALL, 5)
    total = places or 29
    expected = by_hand([9, 3, 17], shared(total, [Fraction(2), Fraction(7), Fraction(1)]), 5, 4)
    assert len(dataset) == total
    assert [[dataset.item(epoch * total + turn) for turn in range(total)] for epoch in range(4)] == expected


def test_every_epoch_has_its_shares_and_no_video_falls_behind():
    mixed = mixture((100, "1"), (7, "3"), (30, "1"), places=60)
    dataset, seen = Dataset(mixed, SMALL, 1), Counter[int]()
    for epoch in range(12):
        items = [dataset.item(epoch * 60 + turn) for turn in range(60)]
        assert Counter(mixed[item].label for item in items) == {"a": 12, "b": 36, "c": 12}
        seen.update(items)
        for start, stop in ((0, 100), (100, 107), (107, 137)):
            often = [seen[item] for item in range(start, stop)]
            assert max(often) - min(often) <= 1
    assert sum(seen.values()) == 720


def test_another_seed_shows_another_order():
    orders = [[Dataset(mixture((9, "1"), (9, "1")), SMALL, seed).item(turn) for turn in range(18)] for seed in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(18))
    assert orders[0] != orders[1]


def test_what_cannot_be_read_is_replaced_from_its_own_source():
    mixed = mixture((20, "1"), (20, "1"), (1, "1"), places=41)
    dataset = Dataset(mixed, SMALL, 0)
    for place in range(41):
        first, *others = dataset.candidates(0, place)
        assert len({*others} - {first}) == ATTEMPTS
        if first != 40:  # it is the only one of its source
            assert {mixed[other].label for other in others} == {mixed[first].label}


# ---------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def data(clips, tmp_path_factory) -> Path:
    """A mixture of a folder, shards, a table and a list, with labels."""
    folder = tmp_path_factory.mktemp("mixed, with a comma")
    for name in "ab":
        write_list(folder / f"{name}.csv", [item for item in find(clips) if item.label == name])
    prepare(folder / "a.csv", folder / "shards", shard_bytes=30_000, workers=0)
    write(folder / "b.table", find(folder / "b.csv"), clips)
    rows = [f"{clips},0.5", "shards,1", "# a comment", "b.table,2", f'"table:{folder}/b.csv?label=label",0.25']
    (folder / "mixture.csv").write_text("source,weight\n" + "\n".join(rows) + "\n")
    return folder / "mixture.csv"


def seen(source: str, how: Data, workers: int = 0, start: int = 0, **kind) -> list[tuple]:
    stream = batches(Dataset(find(source), how, 3), 4, start, 9, workers, **kind)
    return [(b.video.numpy().tobytes(), b.ids.tolist(), b.paths) for b in stream]


def test_a_run_of_a_mixture_is_the_same_on_workers_and_resumed(data):
    source = f"mixture:{data}?places=30"
    expected = seen(source, SMALL)
    assert seen(source, SMALL, 2) == expected
    assert seen(source, SMALL, 0, 5) == expected[5:]
    assert len({path for _, _, paths in expected for path in paths}) > 7  # of 7 and their copies in shards


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["folder", "shards", "table", "mixture"])
def test_processes_share_no_position_and_together_have_them_all(data, clips, kind, world):
    """Every batch is cut into one piece for each process, in order; not a clip is read by two."""
    source = {
        "folder": str(clips),
        "shards": str(data.parent / "shards"),
        "table": str(data.parent / "b.table"),
        "mixture": f"mixture:{data}",
    }[kind]
    whole = [ids for _, ids, _ in seen(source, SMALL)]
    parts = [[ids for _, ids, _ in seen(source, SMALL, rank=rank, world=world)] for rank in range(world)]
    assert all(len(ids) == 4 // world for part in parts for ids in part)
    assert [[*chain(*pieces)] for pieces in zip(*parts)] == whole


def test_labels_of_all_sources_are_learnt(data, clips):
    items = find(f"mixture:{data}")
    labels = Labels.of(items)
    assert set(labels.names) == {item.label for item in items}
    dataset = Dataset(items, Data(Dense(4, stride=2), size=(32, 32), labels=labels), 0)
    for batch in batches(dataset, 4, 0, 4):
        assert [labels.names[row] for row in batch.labels.argmax(1)] == [items[i].label for i in batch.ids.tolist()]
    (data.parent / "bare.csv").write_text(f"{clips}/a/0.mp4\n")
    (data.parent / "some.csv").write_text("source,weight\nbare.csv,1\nb.table,1\n")
    with pytest.raises(ValueError, match=r"some of 4 videos have no label, the first is .*0.mp4"):
        Labels.of(find(f"mixture:{data.parent / 'some.csv'}"))


def test_a_mixture_goes_to_workers_with_its_tables_as_names(data):
    items = pickle.loads(pickle.dumps(find(f"mixture:{data}")))
    assert list(items) == list(find(f"mixture:{data}"))
    assert isinstance(items.sources[2].items, Table)


def test_the_summary_counts(data):
    said = find(f"mixture:{data}?places=15").summary()
    assert said.startswith("an epoch of 15 places shows 2 of ")
    assert f"8 of {data.parent / 'b.table'} (3 videos, each 2.67 times)" in said


def test_sources_lie_beside_the_file_unless_they_say_otherwise(tmp_path):
    (tmp_path / "a:b").mkdir()
    rows = ["kinetics:k400:train", "kinetics:/data/k400", "more/videos", "/abs", "a:b", "s3://bucket/x", '"c,d=?"']
    path = tmp_path / "m.csv"
    path.write_text("weight,source\n" + "\n".join(f"1.50,{row}" for row in rows))
    expected = [f"kinetics:{tmp_path}/k400:train", "kinetics:/data/k400", f"{tmp_path}/more/videos", "/abs"]
    expected += [f"{tmp_path}/a:b", "s3://bucket/x", f"{tmp_path}/c,d=?"]
    assert listed(path) == [(source, Fraction(3, 2)) for source in expected]


def test_missing_videos_of_a_source_are_said(clips, tmp_path):
    (tmp_path / "k" / "videos").mkdir(parents=True)
    (tmp_path / "k" / "videos" / "0_000000_000010.mp4").symlink_to(clips / "a" / "0.mp4")
    rows = ["label,youtube_id,time_start,time_end,split", "x,0,0,10,train", "x,gone,0,10,train"]
    (tmp_path / "k" / "train.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "m.csv").write_text("source,weight\nkinetics:k:train,1\n")
    with pytest.warns(MissingVideos, match=r"1 of 2 videos .*m.csv names are missing"):
        assert len(find(f"mixture:{tmp_path / 'm.csv'}")) == 1


# ---------------------------------------------------------------------------- what people get wrong


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with nothing; expected a header: source,weight"),
        ("a,b\nx,1\n", "begins with a,b; expected a header: source,weight"),
        ("source,weight\n", "has a header and no sources"),
        ("source,weight\nx,1,2\n", "line 2: 3 columns; .* quote a source that has commas"),
        ("source,weight\nx,0\n", "line 2: x has the weight '0'; expected a number above 0"),
        ("source,weight\n\nx,-1\n", "line 3: x has the weight '-1'"),
        ("source,weight\nx,nan\n", "line 2: x has the weight 'nan'"),
        ("source,weight\nx,\n", "line 2: x has the weight ''"),
        ("source,weight\n,1\n", "line 2: no source has"),
    ],
)
def test_a_file_that_is_no_mixture_says_where(tmp_path, text, says):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        find(f"mixture:{tmp_path / 'm.csv'}")


def test_what_cannot_be_mixed_is_refused(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none.csv"):
        find(f"mixture:{tmp_path / 'none.csv'}")
    with pytest.raises(ValueError, match="expected how many videos an epoch shows"):
        find(f"mixture:{data}?places=many")
    with pytest.raises(ValueError, match="mixture has no 'place'; it has places"):
        find(f"mixture:{data}?place=3")
    (tmp_path / "nested.csv").write_text(f'source,weight\n"mixture:{data}",1\n')
    with pytest.raises(ValueError, match="is a mixture; name its sources here"):
        find(f"mixture:{tmp_path / 'nested.csv'}")
    with pytest.raises(ValueError, match=r"an epoch of 3 places has none for b, whose weight is 0.01 of 1.01"):
        mixture((2, "1"), (1, "0.01"))
    with pytest.raises(ValueError, match=r"--data.per duration and a mixture both say"):
        Dataset(mixture((2, "1"), (2, "1")), Data(Dense(4), size=(32, 32), per="duration"))


def test_pretrain_says_what_is_mixed(data, tmp_path, capsys):
    command = ["pretrain", "videomae-demo", "--data", f"mixture:{data}", "--out", str(tmp_path / "run")]
    assert run([*command, "--training.epochs", "0.2", "--training.batch", "2", "--data.cache", "0"]) == 0
    assert "an epoch of 17 places shows" in capsys.readouterr().err
