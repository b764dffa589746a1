"""Weights from a hub that lies in this process: what is fetched and what is not, and errors without a traceback."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import huggingface_hub
import pytest
import torch
from manifests import finetuned, noise, pretrained
from safetensors.torch import save

import tubelet
from tubelet.cli import run as command
from tubelet.data.synthetic import make
from tubelet.weights.archive import called, read
from tubelet.weights.found import Asked
from tubelet.weights.hub import fetched
from tubelet.weights.load import recognised
from tubelet.weights.origin import Origin

STATE = noise(finetuned(64, 1, 128, 3))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def repositories(folder: Path) -> dict[str, dict[str, bytes]]:
    """What is on the hub: files by name, by repository."""
    torch.save({"model": STATE}, folder / "w.pth")
    pickled, whole, config = (folder / "w.pth").read_bytes(), save(STATE), b"{}"
    names = sorted(STATE)
    halves = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    more = {"README.md": b"read me", "modeling_own.py": b"raise SystemExit('it ran')", "old/model.safetensors": b"?"}
    return {
        "lab/safe": {"config.json": config, "model.safetensors": whole, "pytorch_model.bin": b"?", **more},
        "lab/pickled": {"config.json": config, "pytorch_model.bin": pickled, **more},
        "lab/sharded": {
            "model.safetensors.index.json": json.dumps(index).encode(),
            **{file: save({name: STATE[name] for name in part}) for file, part in halves.items()},
            "pytorch_model.bin": b"?",
        },
        "lab/named": {"mae-b/vit_b.pth": pickled, "mae-b/config.json": config, "mae-g/vit_g.pth": b"?"},
        "lab/gated": {"model.safetensors": whole},
    }


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """As much of huggingface.co as its client asks for; remembers which files were given out."""

    files: dict[str, dict[str, bytes]]
    given: set[str]

    def do_GET(self):
        parts = urlparse(self.path).path.strip("/").split("/")
        if parts == ["stop"]:
            self.answer(200, b"", {"Connection": "close"})
            threading.Thread(target=lambda: (self.server.shutdown(), self.server.server_close())).start()
            return
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        what, revision, *file = parts[4 if api else 2 :] or ("revision", "main")
        path = "/".join(file)
        if name not in self.files:
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", "v1", COMMIT):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif what == "revision":
            self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        elif what == "tree":
            listed = [
                {"type": "file", "path": one, "size": len(data), "oid": digest(data)}
                for one, data in self.files[name].items()
            ]
            self.answer(200, json.dumps(listed).encode())
        elif name == "lab/gated":
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        else:
            if self.command == "GET":
                self.given.add(f"{name}/{path}")
            data = self.files[name][path]
            self.answer(200, data, {"ETag": f'"{digest(data)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None):
        self.send_response(code)
        for key, value in (
            {"Content-Length": str(len(body)), "Content-Type": "application/json"} | (headers or {})
        ).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


ASKS = """
import json, sys, urllib.request
import tubelet
from tubelet.cli import run

def ask(path):
    try:
        return type(tubelet.load(path)).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"

names = json.loads(sys.argv[2])
said = {name: ask(name) for name in names}
said["verb"] = run(["convert", "hub:lab/safe", "out.safetensors"]), run(["convert", "hub:lab/none", "b.safetensors"])
try:
    while True:  # until it is gone
        urllib.request.urlopen(sys.argv[1] + "/stop").read()
except OSError:
    pass
said["cached"], said["elsewhere"] = ask("hub:lab/safe"), ask("hub:lab/other")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What loading from that hub said, by name, and the files that it gave out."""
    folder = tmp_path_factory.mktemp("hub")
    Hub.files, Hub.given = repositories(folder), set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    names = ["safe", "safe@v1", "pickled", "sharded", "named", "named/mae-b/vit_b.pth", "named/no.pth", "gated", "none"]
    asked = [f"hub:lab/{name}" for name in [*names, "safe@nowhere"]]
    told = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", ASKS, address, json.dumps(asked)],
        env=os.environ | told,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr, "folder": folder}


def test_weights_are_fetched_and_nothing_else(said):
    for name in ("safe", "safe@v1", "pickled", "sharded", "named/mae-b/vit_b.pth"):
        assert said[f"hub:lab/{name}"] == "Classifier"
    assert Hub.given == {
        "lab/safe/config.json",
        "lab/safe/model.safetensors",
        "lab/pickled/config.json",
        "lab/pickled/pytorch_model.bin",
        "lab/sharded/model.safetensors.index.json",
        "lab/sharded/model-00001-of-00002.safetensors",
        "lab/sharded/model-00002-of-00002.safetensors",
        "lab/named/mae-b/vit_b.pth",
        "lab/named/mae-b/config.json",
    }


def test_what_comes_out_is_what_is_there(said):
    loaded = tubelet.load(said["folder"] / "out.safetensors").state_dict()
    assert torch.equal(loaded["head.weight"], STATE["head.weight"])


def test_what_was_fetched_will_do_without_the_hub(said):
    assert said["cached"] == "Classifier"
    assert said["elsewhere"].startswith("OSError: cannot fetch lab/other from the hub: ")
    assert "hf download lab/other --local-dir DIR" in said["elsewhere"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "FileNotFoundError: no model lab/none on the hub; or it is private"),
        ("gated", "OSError: lab/gated is gated: accept its conditions at https://huggingface.co/lab/gated"),
        ("safe@nowhere", "FileNotFoundError: lab/safe on the hub has no revision 'nowhere'"),
        ("named", "FileNotFoundError: lab/named has none of model.safetensors"),
        ("named/no.pth", "FileNotFoundError: lab/named on the hub has no file no.pth"),
    ],
)
def test_what_is_wrong_is_said(said, name, message):
    assert said[f"hub:lab/{name}"].startswith(message)


def test_the_verb_says_it_in_a_line(said):
    assert said["verb"] == [0, 1]
    assert "tubelet: no model lab/none on the hub" in said["stderr"]
    assert "Traceback" not in said["stderr"]


@pytest.mark.parametrize("name", ["hub:", "hub:lab", "hub:lab/", "hub:/gestures", "hub:lab/gestures@"])
def test_a_name_has_an_owner(name):
    with pytest.raises(ValueError, match="expected hub:OWNER/NAME"):
        fetched(name)


def test_other_paths_are_left_alone(tmp_path):
    assert fetched(tmp_path / "w.pth") == tmp_path / "w.pth"


def test_a_name_that_the_hub_does_not_allow_is_said(monkeypatch):
    with pytest.raises(ValueError, match="is no name on the hub: "):
        fetched("hub:my lab/some thing")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'tubelet\[hub\]'"):
        tubelet.load("hub:lab/safe")


def test_fine_tuning_and_tests_take_names_on_the_hub(monkeypatch, tmp_path, capsys):
    (tmp_path / "w").mkdir()
    torch.save({"model": STATE}, tmp_path / "w" / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "w"))
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "videos", 4, workers=1)
    assert command(["test", "--weights", "hub:lab/safe", "--data", "videos"]) == 2
    assert "is no folder to write results to; name a file: --out" in capsys.readouterr().err
    words = ["finetune", "finetune-small-cpu", "--weights", "hub:lab/safe", "--data", "videos", "--as-weights"]
    shape = ["--data.size", "32", "32", "--data.clip.frames", "8", "--training.batch", "4", "--training.epochs", "1"]
    assert command([*words, *shape, "--new-head", "--out", "run", "--quiet"]) == 0
    said = Path("run/notes.txt").read_text()
    assert "newly initialised: 2, a head for these labels" in said
    kept = Origin.of(recognised(read("hub:lab/safe@main"), Asked()))
    assert kept.file == "hub:lab/safe"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("not needed to go on"))
    assert command([*words, *shape, "--new-head", "--positions", "interpolated", "--out", "run", "--resume"]) == 0


def test_what_is_on_the_hub_is_named_with_its_commit(tmp_path):
    folder = tmp_path / "models--lab--safe" / "snapshots" / COMMIT
    assert called("hub:lab/safe@main", folder / "model.safetensors") == f"hub:lab/safe@{COMMIT}"
    assert called(tmp_path, tmp_path / "model.safetensors") == f"{tmp_path.name}/model.safetensors"
    assert called(tmp_path / "a.pth", tmp_path / "a.pth") == "a.pth"


SHAPE = (
    "--encoder.width 64 --encoder.depth 1 --encoder.heads 1 --encoder.hidden 128 --encoder.patch 2 16 16 "
    "--encoder.position index --data.size 64 64 --data.clip.frames 4 --training.batch 2 --training.epochs 1 "
    "--training.workers 0 --quiet"
)
VERBS = {
    "pretrain": f"pretrain videomae-few-cpu --weights {{hub}} --data videos --out begun {SHAPE}",
    "a teacher": f"pretrain latent-few-cpu --method.teacher {{hub}} --data videos --out taught {SHAPE}",
    "probe": "probe knn --weights {hub} --data videos --test videos --validation videos --k 1",
    "embed": "embed videos --weights {hub} --out f.npy",
    "similar": "similar other.mp4 --weights {hub} --features f.npy",
    "picture": "picture reconstruction --weights {hub} --data other.mp4 --out pictures",
    "export": "export {hub} --to official --out theirs.pth",
    "test": "test --weights {hub} --data labelled.csv --out found.jsonl",
    "predict": "predict other.mp4 --weights {hub}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Videos, and what is on the hub: a pre-trained and a fine-tuned network."""
    folder = tmp_path_factory.mktemp("place")
    make(folder / "videos", 4, workers=1)
    next((folder / "videos").rglob("*.mp4")).rename(folder / "other.mp4")
    (folder / "labelled.csv").write_text("path,label\nother.mp4,1\n")
    for name, state in {"whole": noise(pretrained(64, 1, 128, 16, 1, 32)), "tuned": STATE}.items():
        (folder / name).mkdir()
        args = argparse.Namespace(input_size=64, num_frames=4)  # a teacher has to see what its pupil sees
        torch.save({"model": state, "args": args}, folder / name / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_names_on_the_hub(verb, place, monkeypatch, capsys):
    asked = []

    def download(repository, **_):
        asked.append(repository)
        return str(place / repository.removeprefix("lab/"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(place)
    name = "lab/tuned" if verb in ("test", "predict") else "lab/whole"
    assert command(VERBS[verb].format(hub=f"hub:{name}").split()) == 0, capsys.readouterr().err
    assert set(asked) == {name}
