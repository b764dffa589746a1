"""Features are those of the encoder called by hand; files survive a crash; neighbours are those of brute force."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyarrow import parquet
from safetensors.torch import save as to_safetensors
from scipy.spatial.distance import cdist

from tubelet.cli import run as command
from tubelet.config import Run, preset, to_json
from tubelet.data.paint import Brush
from tubelet.data.sources import Item
from tubelet.data.video import VideoError, frames_at, probe, write
from tubelet.evaluate import embed as module
from tubelet.evaluate import feature_files
from tubelet.evaluate.embed import Embedding, clips_of, embed, embedded, example, features_of, middle, parsed
from tubelet.evaluate.feature_files import Row, Table, read, to_parquet
from tubelet.evaluate.features import mark_of, middle_clips
from tubelet.evaluate.localisation import localisation
from tubelet.evaluate.similar import nearest, overlapping, row_at
from tubelet.methods.supervised import Supervised
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import ViT
from tubelet.targets import MEAN, STD, inputs
from tubelet.train.checkpoint import save

FRAMES = (12, 20, 9, 31, 16)


@pytest.fixture(scope="module")
def run() -> Run:
    """Clips of 8 frames of 32 x 32 pixels at stride 1, for a tiny encoder."""
    run = preset("videomae-demo")
    data = replace(run.data, size=(32, 32), clip=replace(run.data.clip, frames=8, stride=1))
    return replace(run, encoder=replace(run.encoder, width=16, depth=3, heads=2, hidden=32), data=data)


@pytest.fixture(scope="module")
def encoder(run) -> ViT:
    torch.manual_seed(0)
    encoder = run.encoder.build(run.grid(), 3).eval()
    with torch.no_grad():  # as after training, so that a norm that is left out shows
        encoder.norm.weight.uniform_(0.5, 2)
        encoder.norm.bias.uniform_(-1, 1)
    return encoder


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[Item]:
    """Five videos of different lengths, 10 frames a second, one of them broken, wider than high."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    items = []
    for number, frames in enumerate(FRAMES):
        blocks = rng.integers(0, 256, (frames, 5, 6, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        write(folder / f"v{number}.mp4", blocks, 10, options={"crf": "10", "g": "7"})
        items.append(Item(folder / f"v{number}.mp4", "ab"[number % 2]))
    items[2].path.write_text("no video")
    return items


def by_hand(encoder: ViT, run: Run, path: Path, indices: list[int]) -> torch.Tensor:
    """All tokens of the clip of these frames: decoded, scaled to the short side, cut in the middle, embedded alone."""
    frames = frames_at(path, indices).frames.permute(0, 3, 1, 2)
    side, (height, width) = run.data.size[0], frames.shape[2:]
    whole = F.interpolate(frames, (side, width * side // height), mode="bilinear", antialias=True)
    left = (whole.shape[3] - side) // 2
    small = whole[..., left : left + side].permute(1, 0, 2, 3)
    with torch.no_grad():
        return encoder(inputs(small[None], encoder.grid.patch))[0]


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------- features


def test_pooled_is_the_mean_token_after_the_norm_and_a_block_has_no_norm(encoder):
    patches = torch.randn(2, encoder.grid.tokens, encoder.embed.in_features)
    with torch.no_grad():
        x = encoder.embed(patches) + encoder.position()
        for count, block in enumerate(encoder.blocks, 1):
            x = block(x)
            torch.testing.assert_close(features_of(encoder, patches, count), x.mean(1))
            torch.testing.assert_close(features_of(encoder, patches, count, tokens=True), x)
        after = F.layer_norm(x, (16,), encoder.norm.weight, encoder.norm.bias, encoder.norm.eps)
    torch.testing.assert_close(features_of(encoder, patches), after.mean(1))
    torch.testing.assert_close(features_of(encoder, patches, tokens=True), after)
    with pytest.raises(ValueError, match="--block 4: the encoder has blocks 1 to 3"):
        features_of(encoder, patches, 4)


def test_a_fine_tuned_network_gives_what_its_head_reads(run):
    torch.manual_seed(1)
    network = Classifier(run.encoder.build(run.grid(), 3), 5, scale=1.0).eval()
    torch.nn.init.uniform_(network.norm.weight)
    patches = torch.randn(2, network.encoder.grid.tokens, network.encoder.embed.in_features)
    with torch.no_grad():
        torch.testing.assert_close(network.head(features_of(network, patches)), network(patches))
        torch.testing.assert_close(features_of(network, patches, tokens=True), network.encoder(patches))


def test_a_middle_clip_a_video(encoder, run, items, tmp_path):
    made = embed(encoder, items, run.data, tmp_path / "f.npy", batch=3)
    assert (made.rows, made.videos, [Path(path) for path, _ in made.problems]) == (4, 5, [items[2].path])
    good = [item for item in items if item is not items[2]]
    with torch.no_grad():
        expected = encoder(inputs(middle_clips([item.path for item in good], run.data), encoder.grid.patch)).mean(1)
    values = np.load(tmp_path / "f.npy")
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)
    rows = table_of(tmp_path / "f.csv")
    assert [(row["path"], row["label"]) for row in rows] == [(str(item.path), item.label) for item in good]
    # of 12, 20, 31, 16 frames at 10 a second, 8 in the middle
    starts = [float(row["start"]) for row in rows]
    assert starts == pytest.approx([(frames - 8) // 2 / 10 for frames in (12, 20, 31, 16)])
    assert [float(row["end"]) for row in rows] == pytest.approx([start + 0.8 for start in starts])
    (problem,) = table_of(tmp_path / "f.problems.csv")
    assert problem["path"] == str(items[2].path)
    assert "does not open" in problem["problem"]
    assert values.dtype == np.float32


@pytest.mark.parametrize(("window", "stride"), [("8f", "3f"), ("0.8", "0.3s")])
def test_windows_are_the_clips_of_their_frames_alone(encoder, run, items, tmp_path, window, stride):
    embed(encoder, items, run.data, tmp_path / "f.npy", Embedding(window=window, stride=stride), batch=4)
    expected, starts = [], []
    for item in (items[0], items[1], items[3], items[4]):
        total = probe(item.path).frames
        places = list(range(0, total - 7, 3))
        if places[-1] + 8 < total:
            places.append(total - 8)  # frames are left over: one more window ends with the video
        expected += [by_hand(encoder, run, item.path, list(range(at, at + 8))).mean(0).numpy() for at in places]
        starts += [at / 10 for at in places]
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), np.stack(expected), atol=1e-5)
    assert [float(row["start"]) for row in table_of(tmp_path / "f.csv")] == pytest.approx(starts)


def test_tokens_and_half(encoder, run, items, tmp_path):
    embed(encoder, items[:2], run.data, tmp_path / "f.npy", Embedding(tokens=True, half=True))
    values = np.load(tmp_path / "f.npy")
    assert (values.dtype, values.shape) == (np.float16, (2, encoder.grid.tokens, 16))
    np.testing.assert_allclose(values[1], by_hand(encoder, run, items[1].path, list(range(6, 14))), atol=2e-3)


def test_a_part_of_a_video_is_embedded_alone(encoder, run, items, tmp_path):
    part = replace(items[3], start=1.0, end=2.2)  # frames 10 to 21; the middle eight are 12 to 19
    clip = middle(part, run.data)
    assert (clip.start, clip.end) == (pytest.approx(1.2), pytest.approx(2.0))
    expected = by_hand(encoder, run, part.path, list(range(12, 20))).mean(0)
    np.testing.assert_allclose(embedded(encoder, [clip])[0], expected, atol=1e-5)
    outside = replace(part, start=9.0, end=10.0)
    made = embed(encoder, [part, outside], run.data, tmp_path / "f.npy", Embedding(window="4f"))
    assert (made.rows, len(made.problems)) == (3, 1)
    assert [row.start for row in read(tmp_path / "f.npy").rows] == pytest.approx([1.0, 1.4, 1.8])


def test_lengths():
    assert [parsed(text) for text in ("16f", "2", "0.5s")] == [(16, True), (2, False), (0.5, False)]
    for wrong in ("f", "-1", "0f", "1.5f", "inf", "nan", "two"):
        with pytest.raises(ValueError, match="is no length"):
            Embedding(stride=wrong)


# ---------------------------------------------------------------------------- files


def test_all_files_hold_the_same(encoder, run, items, tmp_path):
    ways = Embedding(window="8f", stride="4f")
    embed(encoder, items, run.data, tmp_path / "f.npy", ways, batch=5)
    embed(encoder, items, run.data, tmp_path / "folder", ways, batch=5)
    one, two = read(tmp_path / "f.npy"), read(tmp_path / "folder")
    assert isinstance(two.values, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "folder" / "features.npy"), one.values)
    assert one.rows == two.rows


@pytest.mark.parametrize("tokens", [False, True])
def test_parquet_holds_the_same(encoder, run, items, tmp_path, tokens):
    embed(encoder, items, run.data, tmp_path / "f.npy", Embedding(tokens=tokens), batch=2)
    made = embed(encoder, items, run.data, tmp_path / "f.parquet", Embedding(tokens=tokens), batch=2)
    table = parquet.read_table(tmp_path / "f.parquet")
    values = np.load(tmp_path / "f.npy")
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32).reshape(values.shape), values)
    rows = table_of(tmp_path / "f.csv")
    assert [row["path"] for row in rows] == table["path"].to_pylist()
    assert [float(row["end"]) for row in rows] == table["end"].to_pylist()
    back = read(tmp_path / "f.parquet")
    np.testing.assert_array_equal(back.values, values)
    assert back.rows == read(tmp_path / "f.npy").rows
    assert len(made.problems) == 1
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="is there already"):
        embed(encoder, items, run.data, tmp_path / "f.parquet")


def test_parquet_in_parts(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float16)
    rows = [Row(f"{number}.mp4", "a" if number % 3 else None, number, number + 1) for number in range(100)]
    monkeypatch.setattr(feature_files, "pieces", lambda table: [(0, 40), (40, 80), (80, 100)])
    to_parquet(Table(values, rows, {"weights": "x"}), tmp_path / "f.parquet")
    back = read(tmp_path / "f.parquet")
    np.testing.assert_array_equal(back.values, values)
    assert (back.rows, back.about["weights"]) == (rows, "x")


def test_without_pyarrow_the_extra_is_named(encoder, run, items, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"tubelet\[parquet\]"):
        embed(encoder, items, run.data, tmp_path / "f.parquet")
    assert not list(tmp_path.iterdir())


class Killed(BaseException):
    """The machine goes down."""


WINDOWS = Embedding(window="8f", stride="2f")


@pytest.mark.parametrize(("ways", "after"), [(Embedding(), 1), (Embedding(), 2), (WINDOWS, 1), (WINDOWS, 4)])
def test_an_interrupted_run_goes_on_to_the_same_files(encoder, run, items, tmp_path, monkeypatch, ways, after):
    embed(encoder, items, run.data, tmp_path / "whole.npy", ways, batch=2)
    calls = []

    def dies(*args):
        calls.append(args)
        if len(calls) > after:
            raise Killed
        return embedded(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "embedded", dies)
        patch.setattr(feature_files.Writer, "finish", dies)  # of four clips, the second batch is the last
        with pytest.raises(Killed):
            embed(encoder, items, run.data, tmp_path / "part.npy", ways, batch=2)
    with pytest.raises(ValueError, match="is not finished"):
        read(tmp_path / "part.npy")
    # what a crash in the middle of writing leaves behind the record
    for ending, rubbish in ((".npy", b"\x00" * 70), (".csv", b'half a "li'), (".problems.csv", b"x")):
        with open(tmp_path / f"part{ending}", "ab") as file:
            file.write(rubbish)
    made = embed(encoder, items, run.data, tmp_path / "part.npy", ways, batch=2)
    assert made.before == 2 * after
    assert len(made.problems) == 1
    for ending in (".npy", ".csv", ".problems.csv"):
        assert (tmp_path / f"part{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    again = embed(encoder, items, run.data, tmp_path / "part.npy", ways, batch=2)
    assert (again.before, again.rows, again.problems) == (made.rows, made.rows, made.problems)


def test_other_settings_or_weights_do_not_go_on(encoder, run, items, tmp_path):
    embed(encoder, items[:2], run.data, tmp_path / "f.npy")
    with pytest.raises(ValueError, match="block: None -> 2"):
        embed(encoder, items[:2], run.data, tmp_path / "f.npy", Embedding(block=2))
    with pytest.raises(ValueError, match="videos: "):
        embed(encoder, items[:1], run.data, tmp_path / "f.npy")
    with pytest.raises(ValueError, match="weights: "):
        embed(run.encoder.build(run.grid(), 3), items[:2], run.data, tmp_path / "f.npy")
    np.save(tmp_path / "mine.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not from `tubelet embed`"):
        embed(encoder, items[:2], run.data, tmp_path / "mine.npy")
    assert np.load(tmp_path / "mine.npy").shape == (3,)
    with pytest.raises(ValueError, match=r"expected an ending \.npy or \.parquet, or a folder"):
        embed(encoder, items, run.data, tmp_path / "f.pkl")
    with open(tmp_path / "f.npy", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="shorter than was written"):
        embed(encoder, items[:2], run.data, tmp_path / "f.npy")


def test_features_that_are_not_finite_are_named(encoder, run, items, tmp_path):
    broken = run.encoder.build(run.grid(), 3)
    broken.norm.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match=r"v0\.mp4 \(0\.20 to 1\.00 s\) are not finite: 1 of 16"):
        embed(broken, items, run.data, tmp_path / "f.npy")
    assert not list(tmp_path.iterdir())  # the same command with other weights may begin
    with torch.no_grad():
        broken.norm.bias.fill_(1e6)
    with pytest.raises(ValueError, match="--half cannot hold them"):
        embed(broken, items, run.data, tmp_path / "f.npy", Embedding(half=True))
    embed(encoder, items[:2], run.data, tmp_path / "f.npy")
    values = np.lib.format.open_memmap(tmp_path / "f.npy", "r+")
    values[1, 0] = np.inf
    values.flush()
    with pytest.raises(ValueError, match=r"v1\.mp4 \(0\.60 to 1\.40 s\) are not finite"):
        nearest(np.ones(16, np.float32), read(tmp_path / "f.npy"))


# ---------------------------------------------------------------------------- temporal localisation


@pytest.mark.parametrize("stride", [4, 16])
@pytest.mark.parametrize("normalised", [True, False])
def test_localisation_files_are_those_of_a_loop(encoder, run, items, tmp_path, stride, normalised):
    made = localisation(encoder, items, run.data, tmp_path, stride, normalised, batch=3)
    assert [Path(path).name for path, _ in made.problems] == ["v2.mp4"]
    total = 0
    for item in (items[0], items[1], items[3], items[4]):
        frames = frames_at(item.path, range(probe(item.path).frames)).frames
        expected = []
        for start in range(0, len(frames) - 7, stride):
            clip = frames[start : start + 8].permute(3, 0, 1, 2).float() / 255
            clip = F.interpolate(clip, (32, 32), mode="bilinear", align_corners=False)  # frames as its channels
            if normalised:
                clip = (clip - torch.tensor(MEAN)[:, None, None, None]) / torch.tensor(STD)[:, None, None, None]
            # tokens in (T H W) order, values of each in (time, height, width, channel) order
            patches = clip.reshape(3, 4, 2, 4, 8, 4, 8).permute(1, 3, 5, 2, 4, 6, 0).reshape(1, 64, -1)
            with torch.no_grad():
                expected.append(encoder(patches)[0].mean(0).numpy())
        got = np.load(tmp_path / f"{item.path.stem}.npy")
        np.testing.assert_allclose(got, np.stack(expected), atol=1e-5)
        total += len(expected)
    assert made.rows == total
    assert not list(tmp_path.glob(".*"))


def test_localisation_goes_on_and_keeps_what_is_there(encoder, run, items, tmp_path):
    mine = np.ones((2, 16), np.float32)
    np.save(tmp_path / "v0.npy", mine)
    made = localisation(encoder, items[:2], run.data, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "v0.npy"), mine)
    assert (made.before, made.rows) == (2, 2 + len(range(0, 20 - 7, 4)))
    with pytest.raises(ValueError, match=r"would both become v0\.npy"):
        localisation(encoder, [items[0], Item(Path("elsewhere/v0.mkv"))], run.data, tmp_path)


def test_a_video_shorter_than_a_window_has_no_localisation_file(encoder, run, tmp_path):
    write(tmp_path / "short.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10)
    made = localisation(encoder, [Item(tmp_path / "short.mp4")], run.data, tmp_path / "out")
    assert "5 frames, fewer than one window, which has 8" in made.problems[0][1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["problems.csv"]


# ---------------------------------------------------------------------------- similar


def test_neighbours_are_those_of_brute_force(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(211, 7)).astype(np.float32)
    values[50] = 3 * values[20]  # the same direction: both are nearest, in their order
    rows = [Row("a.mp4", None, float(number), number + 2.0) for number in range(211)]
    table = Table(values, rows, {})
    distances = cdist(values[20:21], values, "cosine")[0].round(6)  # so that rounding decides nothing
    for most in (1, 100, 10_000):  # bytes of a part: one row, some, all
        monkeypatch.setattr(
            "tubelet.evaluate.similar.pieces", lambda table, most=most: feature_files.pieces(table, most)
        )
        found = nearest(values[20], table, 12)
        assert [one.row for one in found] == np.argsort(distances, kind="stable")[:12].tolist()
        np.testing.assert_allclose([one.cosine for one in found], 1 - np.sort(distances)[:12], atol=1e-6)
    assert {one.row for one in found[:2]} == {20, 50}
    left = overlapping(rows[20], rows)
    assert np.flatnonzero(left).tolist() == [19, 20, 21]
    assert not {19, 20, 21} & {one.row for one in nearest(values[20], table, 300, left)}


def test_rows_that_are_alike_keep_their_order():
    table = Table(np.ones((300, 4), np.float32), [Row("a.mp4", None, 0.0, 1.0)] * 300, {})
    assert [one.row for one in nearest(np.ones(4, np.float32), table, 300)] == list(range(300))


def test_neighbours_of_tokens_are_those_of_their_means():
    values = np.random.default_rng(1).normal(size=(30, 4, 5)).astype(np.float16)
    table = Table(values, [Row(f"{n}.mp4", None, 0.0, 1.0) for n in range(30)], {})
    means = values.astype(np.float32).mean(1)
    expected = np.argsort(cdist(means[3:4], means, "cosine")[0])[:5].tolist()
    assert [one.row for one in nearest(means[3], table, 5)] == expected


def test_which_row_of_a_video():
    rows = [Row("b.mp4", None, 0.0, 1.0), *(Row("a.mp4", None, n / 2, n / 2 + 1) for n in range(4))]
    assert row_at("a.mp4", rows) == 2
    assert row_at("./a.mp4", rows, 1.6) == 3  # 1 to 2 and 1.5 to 2.5 show it; 1.5 is nearer to the middle of the first
    assert row_at(Path("b.mp4").resolve(), rows) == 0
    assert row_at("c.mp4", rows) is None
    with pytest.raises(ValueError, match=r"shows second 9; its 4 end at 2\.50 s"):
        row_at("a.mp4", rows, 9)


def test_what_cannot_be_compared():
    table = Table(np.ones((2, 3), np.float32), [Row("a.mp4", None, 0.0, 1.0)] * 2, {})
    with pytest.raises(ValueError, match="width 4 cannot be compared with a table of width 3"):
        nearest(np.ones(4, np.float32), table)
    with pytest.raises(ValueError, match="all zero"):
        nearest(np.zeros(3, np.float32), table)
    with pytest.raises(ValueError, match="--top 0"):
        nearest(np.ones(3, np.float32), table, 0)
    with pytest.raises(ValueError, match="0 rows"):
        nearest(np.ones(3, np.float32), Table(np.zeros((0, 3), np.float32), [], {}))


def test_an_example_is_embedded_as_the_table_was(encoder, run, items, tmp_path):
    for tokens in (False, True):
        embed(encoder, items, run.data, tmp_path / f"{tokens}.npy", Embedding(block=2, tokens=tokens))
        table = read(tmp_path / f"{tokens}.npy")
        found = nearest(example(encoder, items[3], run.data, table), table, 1)
        assert found[0].clip.path == str(items[3].path)
        assert found[0].cosine == pytest.approx(1, abs=1e-6)
    other = run.encoder.build(run.grid(), 3)
    with pytest.raises(ValueError, match=f"other weights .{mark_of(encoder)}. than these .{mark_of(other)}"):
        example(other, items[0], run.data, table)


# ---------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def folder(run, encoder, tmp_path_factory) -> Path:
    """A run folder with these weights."""
    folder = tmp_path_factory.mktemp("run")
    method = run.method.build(run.encoder, run.grid(), 3)
    method.encoder.load_state_dict(encoder.state_dict())
    save(folder, run, method, torch.optim.SGD(method.parameters(), 0.1), 1)
    return folder


def test_commands(folder, encoder, run, items, tmp_path, capsys):
    videos, out = str(items[0].path.parent), tmp_path / "f.npy"
    assert command(["embed", videos, "--weights", str(folder), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["rows"] == 4
    assert "v2.mp4" in said.err
    assert "1 of 5 videos could not be read" in said.err
    clip = str(items[1].path)
    assert command(["similar", clip, "--features", str(out), "--top", "2", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["neighbours"]
    values, rows = np.load(out), table_of(tmp_path / "f.csv")
    order = np.argsort(cdist(values[1:2], values, "cosine")[0])
    assert [one["path"] for one in known] == [rows[row]["path"] for row in order[1:3]]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(items[1].path.read_bytes())
    assert command(["similar", str(copy), "--features", str(out), "--weights", str(folder), "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1.0000" in shown
    assert "v1.mp4" in shown
    assert "0.60 - 1.40" in shown
    assert command(["similar", str(copy), "--features", str(out)]) == 2
    assert "is not in" in capsys.readouterr().err
    assert command(["similar", clip, "--features", str(tmp_path / "none.npy")]) == 1
    assert "make them with `tubelet embed`" in capsys.readouterr().err
    files = tmp_path / "tad"
    assert command(["embed", videos, "--weights", str(folder), "--out", str(files), "--tad"]) == 0
    assert sorted(path.name for path in files.glob("*.npy")) == ["v0.npy", "v1.npy", "v3.npy", "v4.npy"]


def test_a_fine_tuned_run_is_embedded_with_the_norm_of_its_head(run, items, tmp_path, capsys):
    torch.manual_seed(2)
    network = Classifier(run.encoder.build(run.grid(), 3), 3).eval()
    torch.nn.init.uniform_(network.norm.bias)
    card = to_json(replace(run, method=Supervised(outputs=3)))
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(network.state_dict(), {"run": card}))
    weights, out = str(tmp_path / "model.safetensors"), tmp_path / "f.npy"
    assert command(["embed", str(items[0].path), "--weights", weights, "--out", str(out)]) == 0
    assert "1 rows from 1 videos" in capsys.readouterr().out
    with torch.no_grad():
        patches = inputs(middle_clips([items[0].path], run.data), network.encoder.grid.patch)
        expected = network.norm(network.encoder(patches).mean(1))
    np.testing.assert_allclose(np.load(out), expected.numpy(), atol=1e-5)


def test_nothing_readable_is_a_failure(folder, items, tmp_path, capsys):
    bad = str(items[2].path)
    assert command(["embed", bad, "--weights", str(folder), "--out", str(tmp_path / "f.npy")]) == 1
    assert "v2.mp4 does not open" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # so that it can be repeated once the file is mended


def test_videos_are_decoded_again_for_nobody(encoder, run, items, tmp_path, monkeypatch):
    """Each frame of overlapping windows is painted once."""
    painted, paint = [], Brush.paint
    monkeypatch.setattr(Brush, "paint", lambda *args: (painted.append(1), paint(*args)))
    list(clips_of(items[3], run.data, Embedding(window="8f", stride="1f")))
    assert len(painted) == FRAMES[3]


@pytest.mark.parametrize(("window", "clips"), [(None, 4), ("8f", 2 + 3 + 4 + 2)])
def test_each_video_is_opened_once_and_batches_are_full(encoder, run, items, tmp_path, monkeypatch, window, clips):
    """Windows are opened once more, where the index is not known yet: they are planned before a frame is decoded."""
    from tubelet.data import index, stream, video

    opened, sizes, again = [], [], video.opened
    for reader in (video, stream):
        monkeypatch.setattr(reader, "opened", lambda path: opened.append(Path(path)) or again(path))
    monkeypatch.setattr(
        module, "embedded", lambda network, some, *how: sizes.append(len(some)) or embedded(network, some, *how)
    )
    monkeypatch.setattr(index, "_memory", type(index._memory)())
    embed(encoder, items, run.data, tmp_path / "f.npy", Embedding(window=window), batch=3)
    assert sizes == [3] * (clips // 3) + [clips % 3] * (clips % 3 > 0)
    readable = [item.path for item in items if item is not items[2]]
    assert sorted(opened) == sorted([item.path for item in items] + (readable if window else []))


def test_an_unreadable_video_raises_when_asked_for_alone(run, items):
    with pytest.raises(VideoError, match="does not open"):
        middle(items[2], run.data)
