"""Nothing that comes in a file is carried out, and nothing outside it is read; what its name holds is shown as text."""

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tubelet
from tubelet.config import from_json, preset
from tubelet.data import shards
from tubelet.data.check import check
from tubelet.data.index import VideoError
from tubelet.data.items import Item
from tubelet.data.sources import find
from tubelet.data.video import frames_at, probe, write
from tubelet.printable import printable
from tubelet.train import checkpoint
from tubelet.weights import archive

ROOT = Path(tubelet.__file__).parent
# Calls that carry out what they are told, by the ends of their dotted names.
FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "marshal.loads"}
FORBIDDEN |= {"pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "shelve.open", "runpy.run_path"}
LOADS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "joblib"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a call's function."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST) -> list[str]:
    """What a syntax tree calls or imports that may carry out what a file says."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            name, options = dotted(node.func), {word.arg: word.value for word in node.keywords}
            found += [name] if name in FORBIDDEN else []
            if name in LOADS:
                option, safe = LOADS[name]
                given = options.get(option)
                missing = name == "torch.load"  # numpy's own default is the safe one
                if (given is None and missing) or (given is not None and getattr(given, "value", None) is not safe):
                    found.append(name)
            shell = options.get("shell")
            if shell is not None and getattr(shell, "value", None) is not False:
                found.append(f"{name}(shell)")
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_of_ours_carries_out_what_another_says(file):
    name = file.relative_to(ROOT).as_posix()
    # Its errors; its parser, disarmed; answers of processes of ours.
    allowed = (
        {"pickle"} if name in ("nn/raft.py", "weights/claims.py", "data/processes.py", "data/people.py") else set()
    )
    assert {*dangers(ast.parse(file.read_text()))} <= allowed


CARRIED = ["import pickle", "from yaml import x", "eval(a)", "torch.load(p)", "torch.load(p, weights_only=False)"]
CARRIED += ["np.load(p, allow_pickle=True)", "os.system(a)", "subprocess.run(a, shell=True)", "run(a, shell=b)"]


@pytest.mark.parametrize("line", CARRIED)
def test_what_would_do_so_is_found(line):
    assert dangers(ast.parse(line))
    assert not dangers(ast.parse("torch.load(p, weights_only=True); np.load(p); re.compile(a); model.eval()"))


# ---------------------------------------------------------------------------- weights


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def disguised(evil: Evil, way: str) -> bytes:
    """A pickle that runs code, as files of many kinds."""
    raw, out = pickle.dumps(evil), io.BytesIO()
    if way == "pickle":
        return raw
    if way in ("torch", "old torch"):
        torch.save({"model": {"w": torch.ones(2), "x": evil}}, out, _use_new_zipfile_serialization=way == "torch")
    elif way == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("weights/data.pkl", raw)
            archive.writestr("weights/version", "3")
    elif way == "tar":
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in ("pickle", "tensors", "storages", "sys_info"):  # as torch wrote them once
                shards.add(tar, name, raw)
    elif way == "numpy":
        np.save(out, np.array([evil], dtype=object), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pkl", ".bin", ".safetensors"])
@pytest.mark.parametrize("way", ["pickle", "torch", "old torch", "zip", "tar", "numpy"])
def test_weights_that_would_run_code_are_refused_and_do_not_run(tmp_path, way, ending):
    mark, file = tmp_path / "ran", tmp_path / f"weights{ending}"
    file.write_bytes(disguised(Evil(mark), way))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(file.read_bytes())
    for read, path in ((archive.read, file), (checkpoint.load, file), (checkpoint.read, tmp_path)):
        with pytest.raises(ValueError, match=str(tmp_path)):
            read(path)
    assert not mark.exists()


def test_the_pickle_was_a_real_one(tmp_path):
    pickle.loads(disguised(Evil(tmp_path / "ran"), "pickle"))
    assert (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------- run.json

CODE = ["os:system", "builtins:eval", "subprocess:Popen", "tubelet.config:importlib", "tubelet.config:preset"]
CODE += [
    "tubelet.cli:main",
    "tubelet.__main__:main",
    "tubelet.data.writing:write",
    "tubelet.train.checkpoint:os.system",
]


@pytest.mark.parametrize("name", CODE)
def test_a_run_json_that_names_code_is_refused_and_nothing_is_called(tmp_path, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tubelet", "--version"])  # for a module that would run when it is imported
    mark = tmp_path / "ran"
    for arguments in ({"command": f"touch {mark}"}, {"args": ["touch", str(mark)]}, {"name": "os:system"}, {}):
        card = {"run": {"class": name} | arguments}
        (tmp_path / "run.json").write_text(json.dumps(card))
        with pytest.raises(ValueError, match=r"only classes of tubelet|does not fit"):
            preset(str(tmp_path))
        with pytest.raises(ValueError, match=r"only classes of tubelet|does not fit"):
            from_json(json.dumps({"class": "tubelet.config:Run", "data": card["run"]}))
    assert not mark.exists()


# ---------------------------------------------------------------------------- shards


@pytest.fixture
def film(tmp_path) -> Path:
    write(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), dtype=np.uint8), 10)
    return tmp_path / "a.mp4"


def test_nothing_outside_a_shard_is_read_or_written(tmp_path, film):
    (tmp_path / "secret.mp4").write_bytes(film.read_bytes())
    shard = tmp_path / "deep" / "s.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for name in ("../up.mp4", "/tmp/absolute.mp4", "in/../../side.mp4", "own.mp4"):
            shards.add(tar, name, film.read_bytes())
        for name, kind in (
            ("link.mp4", tarfile.SYMTYPE),
            ("hard.mp4", tarfile.LNKTYPE),
            ("character.mp4", tarfile.CHRTYPE),
            ("block.mp4", tarfile.BLKTYPE),
            ("pipe.mp4", tarfile.FIFOTYPE),
            ("folder.mp4", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.mp4")
            tar.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    status = shard.stat()
    places = shards.members(str(shard), status.st_size, status.st_mtime_ns)
    assert all(0 <= begin <= begin + size <= status.st_size for begin, size in places.values())
    assert probe(shard / "own.mp4").frames == 6
    for name in ("link", "hard", "character", "block", "pipe", "folder"):
        assert not shards.exists(shard / f"{name}.mp4")
        with pytest.raises(VideoError, match="not there"):
            probe(shard / f"{name}.mp4")
    for name in ("../secret.mp4", "/../../secret.mp4", "own.mp4/../../secret.mp4"):  # not members, and no way out
        assert shards.member_of(Path(f"{shard}/{name}")) is None
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "row", ["own.mp4,-512,100,", "own.mp4,0,-1,", "own.mp4,0,99999999,", "own.mp4,x,1,", "own.mp4"]
)
def test_a_table_that_leads_out_of_its_shard_is_not_believed(tmp_path, film, row):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        shards.add(tar, "own.mp4", film.read_bytes())
    (tmp_path / "s.csv").write_text(f"member,offset,bytes,sha256\n{row}\n")
    assert probe(tmp_path / "s.tar" / "own.mp4").frames == 6  # by the headers


def test_a_packed_shard_is_said_to_be_none(tmp_path, film):
    with tarfile.open(tmp_path / "s.tar", "w:gz") as tar:  # where a file lies in it, only unpacking could tell
        shards.add(tar, "own.mp4", film.read_bytes())
    with pytest.raises(OSError, match="cannot be read as a tar file"):
        shards.exists(tmp_path / "s.tar" / "own.mp4")


# ---------------------------------------------------------------------------- bombs


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims so many pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(bytes(10**6))) + part(b"IEND", b"")


@pytest.mark.parametrize("size", [(60000, 60000), (2**31 - 1, 2**31 - 1), (14000, 14000)])
def test_pictures_of_too_many_pixels_are_refused_before_they_are_made(tmp_path, size):
    (tmp_path / "huge.png").write_bytes(bomb(*size))
    gif = b"GIF89a" + struct.pack("<HH", *(min(edge, 65535) for edge in size)) + b"\0\0\0;"
    (tmp_path / "huge.webp").write_bytes(gif)  # told by what is in it
    items = find(f"images:{tmp_path}")
    assert len(items) == 2
    for item in items:
        with pytest.raises(VideoError, match=r"huge\.(png is too large|webp)"):
            frames_at(item.path, [0], size=(32, 32))
    assert all(row.problem for row in check(items, "decode", workers=0).rows)


def test_a_folder_of_frames_may_hold_a_bomb(tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(bomb(60000, 60000))
    with pytest.raises(VideoError, match=r"1\.png is too large"):
        frames_at(tmp_path, [0, 1])


# ---------------------------------------------------------------------------- names

NASTY = [
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "[bold]x[/]",
    "[/]",
    "<script>alert(1)</script>",
    "a\rb",
    "\u202egnp",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_reach_the_terminal_as_text(tmp_path, name):
    folder = tmp_path / "videos"
    folder.mkdir()
    name = name.replace("/", "|")
    (folder / f"{name}.mp4").write_text("no film")
    command = [sys.executable, "-m", "tubelet", "check", str(folder)]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONUTF8": "1"})
    words = shown.stdout + shown.stderr
    assert shown.returncode == 3, words
    assert "problems    1" in shown.stdout
    assert all(one.isprintable() or one == "\n" for one in words)
    assert printable(name, lines=False) in shown.stdout  # not as markup, and on one line


def test_bytes_that_are_no_text_are_shown_all_the_same(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4"))
    try:
        path.write_text("no film")
    except OSError:
        pytest.skip("this file system has no such names")
    (row,) = check([Item(path)], "open", workers=0).rows
    assert row.problem
    assert printable(row.path).endswith(r"\udcff\udcfe.mp4")
    printable(row.problem).encode()
