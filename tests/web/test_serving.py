"""The verb: where it listens, what it says, how it ends."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tubelet.cli import run
from tubelet.web.app import HOST, PORT, listening, scratch


def fails(capsys, *argv: str) -> str:
    assert run(["serve", *argv]) in (1, 2)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("tubelet.cli.serving.find_spec", lambda name: None if name == "gradio" else find_spec(name))
    assert "pip install 'tubelet[web]'" in fails(capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--videos", "/nowhere"], "no such file or folder: /nowhere"),
        (["--runs", "/nowhere"], "--runs /nowhere: no such folder. Leave --runs out"),
        (["--features", "/nowhere.npy"], "no such file: /nowhere.npy (looked in"),
        (["--upload-mb", "0"], "expected 1 or more"),
        (["--port", "70000"], "expected 1 to 65535"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(argv, message, capsys):
    assert message in fails(capsys, *argv)


def test_a_port_that_is_taken_is_left_unless_it_was_named(capsys):
    with listening(0) as first:
        assert first.getsockname()[0] == HOST == "127.0.0.1"
        taken = first.getsockname()[1]
        assert f"port {taken} cannot be had" in fails(capsys, "--port", str(taken))
    with listening(None) as one, listening(None) as two:
        assert PORT <= one.getsockname()[1] < two.getsockname()[1]


def test_it_listens_on_this_machine_only(served):
    port = int(served.url.rpartition(":")[2])
    others = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
    for address in {"127.0.0.2", *others} - {HOST}:
        with socket.socket() as other:
            other.settimeout(5)
            assert other.connect_ex((address, port)) != 0  # refused, or no way there


def test_what_is_written_goes_at_the_end():
    with scratch() as folder:
        (folder / "uploads").mkdir()
        (folder / "uploads" / "a.mp4").write_text("x")
        assert os.environ["GRADIO_TEMP_DIR"].startswith(str(folder))
    assert not folder.exists()


def test_ctrl_c_ends_it_as_other_verbs(tmp_path):
    command = [sys.executable, "-m", "tubelet", "serve", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        line = process.stdout.readline()
        with urlopen(f"{line.split()[0]}/gradio_api/heartbeat/open"):  # as any page that is open
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert line.startswith("http://127.0.0.1:"), said
    assert process.returncode == 130
    assert said == "tubelet: interrupted\n"
    assert [*Path(tmp_path).iterdir()] == []


def test_importing_the_package_needs_no_gradio():
    code = "import sys, tubelet.web, tubelet.cli.serving; sys.exit('gradio' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys, tubelet.web.app; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
