"""Whatever the bytes of a file, reading it gives a result or an error of the documented kinds, and comes to an end.

The same few hundred examples each time; `HYPOTHESIS_PROFILE=long pytest tests/test_fuzz.py` takes many others.
"""

import json
import os
import struct
import tarfile
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from tubelet.config import from_json, preset, read_card, to_json
from tubelet.data import kept, shards, sources
from tubelet.data.h264 import Headers
from tubelet.data.index import VideoError
from tubelet.data.kept import digest_of, known, unpacked
from tubelet.data.video import frames_at, opened, probe, write
from tubelet.train import checkpoint, log
from tubelet.weights import archive

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
DOCUMENTED = (ValueError, OSError)  # a VideoError is a ValueError


def examples(count: int) -> settings:
    """So many examples, the same each time; or a hundred times as many by chance."""
    return settings(
        max_examples=100 * count if LONG else count,
        derandomize=not LONG,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def lawful(function, *told):
    """What a function gives, or nothing if it raises what it may raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*told)
        except DOCUMENTED:
            return None


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Bytes with some of them changed, numbers put in, and the rest cut off."""
    data = bytearray(whole)
    odd = st.sampled_from([0, 1, 9, 10, 44, 58, 92, 127, 128, 255])
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), odd | st.integers(0, 255)), max_size=12)):
        data[at] = value
    words = st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63)])
    for at, value, order in draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), words, st.sampled_from("<>")), max_size=2)
    ):
        data[at : at + 8] = struct.pack(order + "Q", value % 2**64)
    return bytes(data[: draw(st.none() | st.integers(0, len(whole)))])


# ---------------------------------------------------------------------------- lists


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder with a video, a shard of one, and a folder of frames."""
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), dtype=np.uint8)
    write(folder / "a.mp4", frames, 10)
    with tarfile.open(folder / "s.tar", "w") as tar:
        tar.add(folder / "a.mp4", "b.mp4")
    (folder / "frames").mkdir()
    for number in range(3):
        Image.fromarray(frames[number]).save(folder / "frames" / f"{number}.png")
    return folder


WORDS = "a.mp4 s.tar/b.mp4 s.tar/../a.mp4 frames no.mp4 path label start end split , ; ' # .. / é [bold]".split()  # noqa: SIM905
WORDS += ["\t", " ", '"', "\n", "\r", "\0", "\x1b[31m", "\ud7ff", "0", "-1", "1e999", "nan", "٣", "train", "9" * 20]
TEXT = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=20).map("".join)


@examples(120)
@given(TEXT, st.sampled_from([".txt", ".csv", ".tsv"]))
def test_lists(videos, text, ending):
    path = videos / f"list{ending}"
    path.write_bytes(text.encode(errors="surrogatepass"))
    for item in lawful(sources.find, path) or ():
        assert shards.exists(item.path)


def test_a_line_without_end_is_said(videos):
    (videos / "long.csv").write_text("a.mp4," + "x" * 200_000)
    with pytest.raises(ValueError, match="a line of 200006 characters"):
        sources.find(videos / "long.csv")


@examples(60)
@given(damaged(b"\xef\xbb\xbfpath,label,start,end\na.mp4,x,0,1\ns.tar/b.mp4,y,,\n"), TEXT)
def test_tables(videos, data, options):
    path = videos / "table.csv"
    path.write_bytes(data)
    lawful(sources.find, path)
    lawful(sources.find, f"table:{path}:train?path={options}&{options}")


@examples(100)
@given(
    st.lists(
        st.sampled_from(
            [*sources.LAYOUTS, "table", ":", "?", "&", "=", "train", "missing", "error", "warn", "%00", "."]
        )
        | st.sampled_from(["videos", "lists", "path", "split", "1", "\0", "frames", "a.mp4", "x" * 300])
        | st.text("ab\ud7ff\x1b٣", max_size=3),
        max_size=9,
    ).map("".join)
)
def test_names_of_sources(videos, monkeypatch, source):
    monkeypatch.chdir(videos)
    lawful(sources.find, source)


def test_parquet(videos):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, whole = videos / "list.parquet", BytesIO()
    parquet.write_table(pyarrow.table({"path": ["a.mp4", "a.mp4"], "label": ["x", "y"], "start": [0.0, 1.0]}), whole)

    @examples(60)
    @given(damaged(whole.getvalue()))
    def check(data):
        path.write_bytes(data)
        lawful(sources.find, path)

    check()


# ---------------------------------------------------------------------------- run.json

CARD = json.dumps({"run": json.loads(to_json(preset("videomae-few-cpu")))})
CLASSES = [
    "os:system",
    "tubelet.config:preset",
    "tubelet.config:Run",
    "tubelet.data.sampling:Dense",
    "tubelet:",
    ":",
    "",
]
CLASSES += ["tubelet.__main__:main", "tubelet.cli:main", "tubelet..x:y", "builtins:eval", "tubelet.config:importlib"]
CLASSES += ["tubelet.data.transforms:MultiScaleCrop", "tubelet.data.augment:RandAugment", "tubelet.data.flow:Flow"]
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(CLASSES)
FIELDS = st.sampled_from(["class", "run", "frames", "stride", "data", "training", "scales", "x", "__class__"])
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(FIELDS, inner, max_size=4)
        | st.tuples(st.sampled_from(CLASSES), st.dictionaries(FIELDS, inner, max_size=3)).map(
            lambda pair: pair[1] | {"class": pair[0]}
        )
    ),
    max_leaves=12,
)


@examples(120)
@given(JSON)
def test_configs(value):
    lawful(from_json, json.dumps(value))


@examples(100)
@given(damaged(CARD.encode()))
def test_run_cards(tmp_path, data):
    path = tmp_path / "run.json"
    path.write_bytes(data)
    lawful(preset, str(path))


@pytest.mark.parametrize("deep", [200, 400, 900, 2000, 100_000])
def test_run_cards_that_are_nested_without_end(tmp_path, deep):
    for begin, end in (("[", "]"), ('{"run": ', "}"), ('{"class": "tubelet.data.sampling:Dense", "frames": ', "}")):
        (tmp_path / "run.json").write_text('{"run": {"x": ' + begin * deep + "1" + end * deep + "}}")
        for read in (preset, lambda path: read_card(Path(path))):
            lawful(read, str(tmp_path / "run.json"))
        with pytest.raises(ValueError, match="run"):
            preset(str(tmp_path / "run.json"))


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n in ("data", "optim", "training", "encoder") for f in range(9)]
)
def test_settings_of_other_kinds(name, field):
    """Every field of a card by turns set to what it should not be."""
    for odd in (None, "x", -1, 0, 2**70, 1e308, [], [1], [[]], {}, {"class": "tubelet.data.sampling:Dense"}, True):
        card = json.loads(CARD)["run"]
        fields = [key for key in card[name] if key != "class"]
        card[name][fields[field % len(fields)]] = odd
        lawful(from_json, json.dumps(card))


# ---------------------------------------------------------------------------- shards and kept indices


@examples(80)
@given(st.data())
def test_tables_of_shards(videos, tmp_path, data):
    number = st.integers(-5, 5000).map(str) | st.sampled_from(["", "x", "-1", str(2**63), str(10**30), "1e3", "١"])
    name = st.sampled_from(["b.mp4", "../a.mp4", "/etc/passwd", "", "x,y", "\0", "b.mp4/c"])
    rows = data.draw(st.lists(st.tuples(name, number, number, number).map(",".join) | TEXT, max_size=4))
    shard = tmp_path / "s.tar"
    if not shard.exists():
        shard.write_bytes((videos / "s.tar").read_bytes())
    shard.with_suffix(".csv").write_text(
        "\n".join(["member,offset,bytes,sha256", *rows]), encoding="utf-8", errors="replace"
    )
    shards.members.cache_clear()
    size = shard.stat().st_size
    for offset, count in (lawful(shards.members, str(shard), size, 0) or {}).values():
        assert 0 <= offset <= offset + count <= size
    lawful(shards.state_of, shard / "b.mp4")
    lawful(shards.address, shard / "../a.mp4")


@examples(80)
@given(st.data())
def test_headers_of_shards(videos, tmp_path, data):
    whole = (videos / "s.tar").read_bytes()
    head = data.draw(damaged(whole[:512])).ljust(512, b"\0")
    kind = data.draw(st.sampled_from(b"0123456789gxLKSDVX\0"))
    head = head[:156] + bytes([kind]) + head[157:]
    if data.draw(st.booleans()):  # its sum right, so that the damage is not seen at once
        total = sum(head[:148]) + 8 * 32 + sum(head[156:])
        head = head[:148] + b"%06o\0 " % total + head[156:]
    shard = tmp_path / "t.tar"
    shard.write_bytes(head * data.draw(st.integers(1, 3)) + whole[512:])
    shards.members.cache_clear()
    size = shard.stat().st_size
    for offset, count in (lawful(shards.members, str(shard), size, 0) or {}).values():
        assert 0 <= offset <= offset + count <= size


def faststart(data: bytes) -> bytes:
    """An MP4 with a table in front of its pictures; where the pictures are is of no concern here."""
    boxes, at = {}, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        boxes[kind] = data[at : at + size]
        at += size
    return boxes[b"ftyp"] + boxes[b"moov"] + boxes[b"mdat"]


def test_kept_indices(videos, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(faststart((videos / "a.mp4").read_bytes()))
    about = {name: getattr(probe(videos / "a.mp4"), name) for name in kept.SCALARS}
    about |= {"rate": 10240, "keys": 1, "stamps": 6, "starts": 4}
    data = np.array([0, 0, *[1024] * 5, 0, 0, 0, 0], "<i8").tobytes()
    kept.write(tmp_path / kept.INDEX, [digest_of(path) + zlib.compress(json.dumps(about).encode() + b"\n" + data)])
    assert known(path, None).frames == 6
    whole = (tmp_path / kept.INDEX).read_bytes()

    @examples(80)
    @given(damaged(whole))
    def check(data):
        (tmp_path / kept.INDEX).write_bytes(data)
        assert (found := known(path, None)) is None or found.frames == 6

    check()


@examples(120)
@given(st.data())
def test_records_of_kept_indices(videos, data):
    """Whatever a record says, no index comes out that cannot be one."""
    video = probe(videos / "a.mp4")
    about = {name: getattr(video, name) for name in kept.SCALARS} | {"rate": 10240, "keys": 1, "stamps": 6, "starts": 4}
    odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers())
    about |= data.draw(st.dictionaries(st.sampled_from([*about, "x"]), odd, max_size=2))
    numbers = data.draw(st.lists(st.integers(-3, 2000) | st.sampled_from([2**62, -(2**63)]), min_size=9, max_size=13))
    record = zlib.compress(json.dumps(about).encode() + b"\n" + np.array(numbers, "<i8").tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = unpacked(Path("a.mp4"), record)
        except kept.TROUBLE:
            return
    assert found.width > 0
    assert found.height > 0
    assert np.isfinite(found.fps)
    assert (np.diff(found.seconds) > 0).all()
    assert found.starts[0, 0] == 0
    assert found.starts[:, 0].max() < found.frames


def test_a_record_that_unpacks_without_end_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2**20)
    with pytest.raises(ValueError, match="larger than any index"):
        unpacked(Path("a.mp4"), zlib.compress(bytes(2**24)))


# ---------------------------------------------------------------------------- videos


def test_boxes_of_mp4(videos, tmp_path):
    whole = faststart((videos / "a.mp4").read_bytes())

    @examples(60)
    @given(damaged(whole[:1500]))
    def check(data):
        (tmp_path / "b.mp4").write_bytes(data + whole[1500:])
        lawful(digest_of, tmp_path / "b.mp4")
        if (found := lawful(probe, tmp_path / "b.mp4")) is not None:
            lawful(frames_at, found, [0, found.frames - 1])

    check()


def test_headers_of_h264(videos):
    with opened(videos / "a.mp4") as (container, stream):
        about, packet = bytes(stream.codec_context.extradata), next(bytes(p) for p in container.demux(stream) if p.size)

    @examples(100)
    @given(damaged(about), damaged(packet[:200]), st.binary(max_size=100), st.booleans())
    def check(extradata, first, second, brief):
        headers = Headers(extradata)
        for data in (first, second, b"\0\0\1" + first[4:], first + second):
            headers.slices(data, brief=brief)

    check()


@pytest.mark.parametrize("order", [0, 1])
def test_a_parameter_set_as_long_as_a_file_takes_no_time(order):
    begin = bytes([1, 66, 0, 30, 255, 225])
    unit = bytes([0x67, 66, 0, 30]) + (b"\xa8" if order else b"\x00\x00\x01") + b"\xff" * 65000
    headers = Headers(begin + struct.pack(">H", len(unit)) + unit)
    assert headers.slices(struct.pack(">I", 2**21) + (unit * 33)[: 2**21]) is None


# ---------------------------------------------------------------------------- runs and weights


@pytest.fixture(scope="module")
def saved() -> bytes:
    held = BytesIO()
    torch.save({"step": 3, "method": {"a": torch.arange(4.0)}}, held)
    return held.getvalue()


def test_checkpoints(tmp_path, saved):
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()

    @examples(60)
    @given(damaged(saved) | st.binary(max_size=64))
    def check(data):
        path.write_bytes(data)
        lawful(checkpoint.read, tmp_path)

    check()


def test_weights(tmp_path, saved):
    whole = save({"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}, {"step": "3"})
    path = tmp_path / "w.safetensors"

    @examples(80)
    @given(damaged(whole[:200]).map(lambda head: head + whole[200:]) | damaged(whole) | damaged(saved))
    def check(data):
        path.write_bytes(data)
        lawful(archive.read, path)

    check()


@pytest.mark.parametrize("length", [2**60, 2**63, 2**64 - 1, 10**8 + 1])
def test_a_header_of_any_length_is_not_allocated(tmp_path, length):
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", length) + b"{" + bytes(100))
    with pytest.raises(ValueError, match=f"claims a header of {length} bytes"):
        archive.read(tmp_path / "w.safetensors")


@examples(80)
@given(
    st.lists(
        st.sampled_from(
            ['{"step": 1, "loss": 2.0}', '{"step": "x"}', '{"step": null}', "5", "[1]", "null", "{", "\0" * 9]
        )
        | st.text(max_size=5),
        max_size=6,
    ),
    st.booleans(),
)
def test_metrics(tmp_path, lines, whole):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(("\n".join(lines) + "\n" * whole).encode(errors="surrogatepass"))
    lawful(log.metrics, tmp_path)
    lawful(log.rewind, path, 3)


def test_the_law_is_looked_after():
    """`lawful` lets the errors of users pass, and nothing else."""

    def raising(error):
        raise error

    assert lawful(raising, VideoError("no")) is None
    for error in (TypeError("no"), KeyError("no"), RecursionError("no"), AssertionError("no")):
        with pytest.raises(type(error)):
            lawful(raising, error)
