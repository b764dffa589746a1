"""A server for all tests of pages: a process of its own, with no way to any network."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tubelet.config import preset
from tubelet.data.sources import find
from tubelet.data.synthetic import make
from tubelet.evaluate.embed import Embedding, embed
from tubelet.train.checkpoint import load_encoder
from tubelet.train.loop import train

NOWHERE = "http://127.0.0.1:9"  # nothing listens there
WAIT = 60_000  # milliseconds, for a machine that is busy


@dataclass(frozen=True)
class Served:
    """Where it is, what it may read, and what it says."""

    url: str
    clips: Path
    runs: Path
    doubtful: Path
    features: Path
    temporary: Path
    said: list[str]


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Eight short videos in a folder, and what must not be had through it: a secret beside it, and a link out of it."""
    folder = make(tmp_path_factory.mktemp("chosen") / "clips", 8, workers=1)
    secret = make(folder.parent / "secret", 1, seed=1, workers=1)
    (folder / "out.mp4").symlink_to(secret / "right" / "right_0001.mp4")
    return folder


@pytest.fixture(scope="session")
def runs(clips, tmp_path_factory) -> Path:
    """Two short runs that differ in their mask ratio and step size, and a broken one."""
    folder = tmp_path_factory.mktemp("made") / "runs"
    run = preset("videomae-demo")
    quick = replace(run.training, epochs=2, batch=4, workers=0, precision="float32")
    for name, ratio in (("high", 0.9), ("low", 0.5)):
        train(
            replace(run, training=quick, method=replace(run.method, mask=replace(run.method.mask, ratio=ratio))),
            clips,
            folder / name,
        )
    broken = folder / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "run.json").write_bytes((folder / "low" / "run.json").read_bytes())
    (broken / "checkpoints" / "last.pt").write_bytes(b"no checkpoint")
    os.utime(broken / "run.json", (0, 0))  # the last in the list
    return folder


@pytest.fixture(scope="session")
def doubtful(clips, tmp_path_factory) -> Path:
    """A video, the same again, and a file that is none, whose name a page must not obey."""
    folder = tmp_path_factory.mktemp("asked") / "doubtful"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(clips / "left" / "left_0001.mp4", folder / name)
    (folder / "<img src=x onerror=alert(1)>.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="session")
def features(clips, runs, tmp_path_factory) -> Path:
    """Overlapping windows of all clips and of the secret beside them, embedded with the run `low`."""
    out = tmp_path_factory.mktemp("embedded") / "features.npy"
    items = [*find(clips), *find(clips.parent / "secret")]
    encoder, run = load_encoder(runs / "low")
    embed(encoder, items, run.data, out, Embedding(window="8f", stride="4f"))
    return out


@pytest.fixture(scope="session")
def served(clips, runs, doubtful, features, tmp_path_factory) -> Iterator[Served]:
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "tubelet", "serve", "--videos", str(clips), str(doubtful)]
    command += ["--runs", str(runs), "--features", str(features)]
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), NOWHERE)
    process = subprocess.Popen(
        [*command, "--port", "0", "--upload-mb", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=runs.parent,
        env=os.environ | proxies | {"TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("http://"):
            break
    else:
        pytest.fail("no server: " + "".join(said))
    reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)  # type: ignore[arg-type]
    reader.start()
    yield Served(said[-1].split()[0], clips, runs, doubtful, features, temporary, said)
    process.terminate()
    assert process.wait(30) == 143, said
    process.stdout.close()
    assert [*temporary.iterdir()] == []  # uploads and caches are gone


@pytest.fixture
def page(browser, served):
    """An empty page; at the end nothing was asked of anybody else, and nothing complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    yield page
    context.close()
    assert asked
    assert [url for url in asked if not url.startswith((served.url + "/", "data:", "blob:"))] == []
    assert complaints == []
