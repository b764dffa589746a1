"""Lists for training and test, against counts done by hand and the laws that they must obey."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.cli import run
from tubelet.data.sources import Item, find
from tubelet.data.split import fraction, grouped, overlap, split, table, write_list


def clips(counts: dict[str, int]) -> list[Item]:
    return [Item(Path(f"{label}/{n}.mp4"), label) for label, count in counts.items() for n in range(count)]


# ---------------------------------------------------------------------------- three parts


def test_every_class_is_divided_in_the_same_shares():
    found = split(clips({"a": 10, "b": 40, "c": 100}), (0.8, 0.1, 0.1))
    counts = {part: Counter(item.label for item in items) for part, items in found.items()}
    assert counts == {
        "train": {"a": 8, "b": 32, "c": 80},
        "val": {"a": 1, "b": 4, "c": 10},
        "test": {"a": 1, "b": 4, "c": 10},
    }


def test_seeds_draw_lots():
    items = clips({"a": 20, "b": 20})
    assert split(items, seed=1) == split(items, seed=1)
    assert split(items, seed=1) != split(items, seed=2)
    assert [item for item in items if item in split(items)["train"]] == split(items)["train"]  # in their order


def test_a_share_of_nothing_leaves_a_part_out():
    found = split(clips({"a": 4, "b": 8}), (0.75, 0, 0.25))
    assert {part: Counter(i.label for i in items) for part, items in found.items()} == {
        "train": {"a": 3, "b": 6},
        "test": {"a": 1, "b": 2},
    }


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(12, 40), st.integers(2, 4))
def test_no_group_is_in_two_parts_and_shares_are_near(seed, people, classes):
    """People do each class once to four times: every clip somewhere, no person twice, shares within a person or so."""
    rng = np.random.default_rng(seed)
    items = [
        Item(Path(f"{person}_{label}_{n}.mp4"), str(label), group=f"p{person}")
        for person in range(people)
        for label in range(classes)
        for n in range(int(rng.integers(1, 5)))
    ]
    found = split(items, (0.6, 0.2, 0.2), seed)
    assert Counter(item for part in found.values() for item in part) == Counter(items)
    groups = [{item.group for item in part} for part in found.values()]
    assert sum(map(len, groups)) == people
    for label in range(classes):
        total = sum(item.label == str(label) for item in items)
        for share, part in zip((0.6, 0.2, 0.2), found.values()):
            assert abs(sum(item.label == str(label) for item in part) - share * total) <= 5


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_are_placed_first(seed):
    """So that small ones can make up for them: half of the clips are one person's."""
    items = [Item(Path(f"{n}.mp4"), "a", group="one" if n < 8 else f"p{n}") for n in range(16)]
    assert {part: len(found) for part, found in split(items, (0.5, 0.25, 0.25), seed).items()} == {
        "train": 8,
        "val": 4,
        "test": 4,
    }


def test_parts_of_one_video_stay_together():
    items = [Item(Path(f"{n // 5}.mp4"), "ab"[n % 2], n % 5, n % 5 + 1) for n in range(100)]
    where = defaultdict(set)
    for part, found in split(items).items():
        for item in found:
            where[item.path].add(part)
    assert len(where) == 20
    assert all(len(parts) == 1 for parts in where.values())


@pytest.mark.parametrize(
    ("items", "shares", "words"),
    [
        (clips({"a": 5}), (0.5, 0.5, 0.5), r"shares 0\.5 0\.5 0\.5: expected three numbers .* sum to 1"),
        (clips({"a": 2}), (0.8, 0.1, 0.1), "2 clips of 2 groups cannot make 3 parts without dividing a group"),
        (clips({"a": 8, "b": 1}), (0.1, 0.1, 0.8), "training would have no clip of 1 classes, the first is 'b'"),
        (grouped(clips({"a": 9, "b": 9, "c": 9}), "folder"), (0.8, 0.1, 0.1), "would (be empty|have no clip of)"),
    ],
)
def test_divisions_that_are_of_no_use(items, shares, words):
    with pytest.raises(ValueError, match=words):
        split(items, shares)


# ---------------------------------------------------------------------------- fewer labels


@settings(max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_fractions_are_nested_and_of_every_class(seed, counts):
    items = clips({f"c{n}": count for n, count in enumerate(counts)})
    quarter, half, whole = (fraction(items, share, seed) for share in (0.25, 0.5, 1))
    assert set(quarter) <= set(half) <= set(whole)
    assert whole == items
    for n, count in enumerate(counts):
        for share, found in ((0.25, quarter), (0.5, half)):
            assert sum(item.label == f"c{n}" for item in found) == max(round(share * count), 1)


def test_a_fraction_of_nothing():
    with pytest.raises(ValueError, match="fraction 25: expected more than 0 and at most 1"):
        fraction(clips({"a": 4}), 25)


# ---------------------------------------------------------------------------- groups, lists


def test_groups_from_paths():
    items = [Item(Path("x/v_Archery_g08_c01.avi"), "x"), Item(Path("y/v_Archery_g11_c02.avi"), "y")]
    assert [item.group for item in grouped(items, "folder")] == ["x", "y"]
    assert [item.group for item in grouped(items, r"_g(\d+)_")] == ["08", "11"]
    assert [item.group for item in grouped(items, r"g\d+")] == ["g08", "g11"]
    with pytest.raises(
        ValueError, match=r"--group g0 does not match 1 of 2 paths, the first is y/v_Archery_g11_c02\.avi"
    ):
        grouped(items, "g0")
    with pytest.raises(ValueError, match=r"--group \(: expected folder, or a regular expression"):
        grouped(items, "(")


texts = st.text("ab ,;'\"é|:", min_size=1, max_size=6).filter(lambda s: s == s.strip())
times = st.one_of(st.none(), st.floats(0, 1e4))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(texts, st.one_of(st.none(), texts), times, st.one_of(st.none(), texts)), min_size=1, max_size=4)
)
def test_what_is_written_is_found_again(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("lists")
    items = []
    for name, label, start, group in rows:
        path = folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        items.append(Item(path, label, start, None if start is None else start + 1.5, group))
    write_list(folder / "inside.csv", items)
    (folder / "lists").mkdir()
    write_list(folder / "lists" / "beside.csv", items)
    assert find(folder / "inside.csv") == items
    assert find(folder / "lists" / "beside.csv") == items
    assert str(folder) not in (folder / "inside.csv").read_text()
    with pytest.raises(FileExistsError):
        write_list(folder / "inside.csv", items)


# ---------------------------------------------------------------------------- twice


def test_overlap_by_file_by_content_and_by_time(tmp_path):
    for name, content in (("a", "one"), ("b", "two"), ("copy", "one"), ("other", "six"), ("e1", ""), ("e2", "")):
        (tmp_path / f"{name}.mp4").write_text(content)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "b.mp4")
    a, b, copy, other, link, e1, e2 = (
        Item(tmp_path / f"{n}.mp4") for n in ("a", "b", "copy", "other", "link", "e1", "e2")
    )
    assert overlap([a, b, e1], [copy, other, link, e2]) == [(a, copy), (b, link)]
    assert overlap([a, b], [other]) == []
    assert overlap([a, e1], [a, e1]) == [(a, a), (e1, e1)]
    first, second, third = (Item(tmp_path / "a.mp4", None, *part) for part in ((0, 2), (2, 4), (3.5, None)))
    assert overlap([first], [second, third]) == []
    assert overlap([second], [first, third, a]) == [(second, third), (second, a)]


def test_overlap_reads_both_ends_of_large_files(tmp_path):
    base = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8)
    for name, place in (("same", None), ("begin", 5), ("end", -5)):
        changed = base.copy()
        if place is not None:
            changed[place] ^= 1
        (tmp_path / f"{name}.mp4").write_bytes(changed.tobytes())
    (tmp_path / "base.mp4").write_bytes(base.tobytes())
    train = [Item(tmp_path / "base.mp4")]
    pairs = overlap(train, [Item(tmp_path / f"{name}.mp4") for name in ("same", "begin", "end")])
    assert [other.path.stem for _, other in pairs] == ["same"]


# ---------------------------------------------------------------------------- the verb


def test_verb(tmp_path, capsys):
    rows = [f"{label}{person}.mp4,{label},{person}" for person in range(10) for label in "xyz"]
    for row in rows:
        (tmp_path / row.split(",")[0]).touch()
    (tmp_path / "clips.csv").write_text("clip,what,who\n" + "\n".join(rows))
    source = [str(tmp_path / "clips.csv"), "--path-column", "clip", "--label-column", "what", "--group-column", "who"]
    command = ["split", *source, "--out", str(tmp_path / "lists"), "--fractions", "0.25", "0.5", "--json"]
    assert run(command) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [(p["part"], p["clips"], p["groups"], p["classes"], p["fewest"]) for p in parts] == [
        ("train", 24, 8, 3, 8),
        ("val", 3, 1, 3, 1),
        ("test", 3, 1, 3, 1),
        ("train_25", 6, len({i.group for i in find(tmp_path / "lists" / "train_25.csv")}), 3, 2),
        ("train_50", 12, len({i.group for i in find(tmp_path / "lists" / "train_50.csv")}), 3, 4),
    ]
    read = {part: find(tmp_path / "lists" / f"{part}.csv") for part in ("train", "val", "test", "train_25", "train_50")}
    assert set(read["train_25"]) < set(read["train_50"]) < set(read["train"])
    assert sorted(item.path.name for part in ("train", "val", "test") for item in read[part]) == sorted(
        row.split(",")[0] for row in rows
    )
    assert run(command) == 2
    assert "train.csv is there already; name another folder with --out" in capsys.readouterr().err
    assert (
        run(["split", str(tmp_path / "lists" / "train.csv"), "--out", str(tmp_path / "b"), "--group", r"(\d)\.mp4"])
        == 0
    )
    assert "train.csv       18 clips, 3 classes with 6 or more, 6 groups" in capsys.readouterr().out
    assert (
        run(["split", str(tmp_path), "--out", str(tmp_path / "c"), "--shares", "0", "0", "1", "--fractions", "0.5"])
        == 2
    )
    assert "--shares leaves no training" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_table_counts():
    items = [Item(Path("a"), "x", group="1"), Item(Path("b"), "x", group="1"), Item(Path("c"), "y", group="2")]
    assert table({"train": items, "test": [Item(Path("d"))]}) == [
        {"part": "train", "clips": 3, "groups": 2, "classes": 2, "fewest": 1},
        {"part": "test", "clips": 1, "groups": 0, "classes": 0, "fewest": 0},
    ]
