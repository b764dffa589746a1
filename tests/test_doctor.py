"""The doctor: all is well here; each thing that can be wrong is said with a remedy; nothing ever raises."""

import builtins
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from tubelet import doctor as module
from tubelet.doctor import CHECKS, Check, doctor, look, render


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in doctor()}


def test_everything_is_looked_at_and_nothing_is_broken_here(checks):
    assert list(checks) == list(CHECKS)
    assert [check for check in checks.values() if check.state == "problem"] == []
    for check in checks.values():
        assert check.what
        assert bool(check.remedy) == (check.state != "ok"), check
    assert torch.__version__ in checks["PyTorch"].what
    assert checks["device"].what.startswith(("cpu", "cuda", "mps"))


def test_all_formats_of_peoples_videos_can_be_read(checks):
    assert checks["decoders"].what == "H.264, HEVC, AV1, VP9, MPEG-2, MPEG-4, MJPEG, Cinepak"


def test_missing_codecs_are_named(monkeypatch):
    monkeypatch.setitem(module.DECODERS, "RealVideo", ("no_such_decoder",))
    check = look("decoders", module.decoders)
    assert check.state == "warning"
    assert check.what.endswith("; not RealVideo")


@pytest.mark.parametrize("name", CHECKS)
def test_whatever_breaks_is_a_line_and_not_a_traceback(name, monkeypatch):
    """Every import of every check fails, as in an installation that is in ruins."""

    def no_import(wanted, *_, **__):
        raise ImportError(f"{wanted} is in ruins\nand more")

    for loaded in [m for m in sys.modules if m.startswith(("av", "tubelet.data", "tubelet.train"))]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", no_import)
    check = look(name, CHECKS[name])
    monkeypatch.undo()
    assert check.state in ("ok", "warning", "problem")
    if name in ("PyTorch", "device", "FFmpeg", "decoders", "encoders", "write and read", "memory"):
        assert check.state == "problem"
        assert "is in ruins" in check.what
        assert "\n" not in check.what
        assert check.remedy


def test_an_error_without_words_is_still_a_line():
    def silent():
        raise RuntimeError

    assert look("x", silent) == Check("x", "problem", "RuntimeError: ", look("x", silent).remedy)


def test_frames_in_the_wrong_order_are_found(monkeypatch):
    import tubelet.data.video as video

    right = video.frames_at

    def wrong(path, indices, **options):
        return right(path, list(indices)[::-1], **options)

    assert look("", module.self_test).state == "ok"
    monkeypatch.setattr(video, "frames_at", wrong)
    check = look("", module.self_test)
    assert check.state == "problem"
    off = int(check.what.split("differ by ")[1].split()[0])
    assert off == pytest.approx(175, abs=6)  # the first frame is where the last should be


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ("", "ok"),
        ("4.57.1", "ok"),
        ("5.5.9", "ok"),
        ("5.6.0", "warning"),
        ("5.17.2", "warning"),
        ("5.18.0", "ok"),
        ("6.0.0", "ok"),
    ],
)
def test_transformers_that_zero_the_biases_are_known(found, state, monkeypatch):
    monkeypatch.setattr(module, "installed", lambda package: found)
    check = look("", module.transformers)
    assert check.state == state
    assert ("biases of zero" in check.what) == (state == "warning")


@pytest.mark.parametrize(
    ("code", "state"), [("", "ok"), ("raise RuntimeError('operator nms does not exist')", "warning")]
)
def test_a_torchvision_that_does_not_import_is_found(code, state, monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "installed", lambda package: "0.1")
    check = look("", module.torchvision)
    assert check.state == state
    assert ("operator nms does not exist" in check.what) == (state == "warning")


@pytest.mark.parametrize(
    ("check", "total", "free", "state"),
    [
        (module.shared_memory, 64 * 2**20, 0, "warning"),
        (module.shared_memory, 8 * 2**30, 0, "ok"),
        (module.disk, 0, 2**30, "warning"),
        (module.disk, 0, 2**36, "ok"),
    ],
)
def test_little_room_is_a_warning(check, total, free, state, monkeypatch):
    monkeypatch.setattr(module.os.path, "isdir", lambda path: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=total, free=free))
    assert look("", check).state == state


@pytest.mark.parametrize(("machine", "said"), [(2, "2"), (64, "2 of the machine's 64")])
def test_fewer_cores_than_the_machine_has_are_said(machine, said, monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(module.os, "cpu_count", lambda: machine)
    assert look("", module.cores).what == said


@pytest.mark.parametrize(
    ("built_for", "card", "tool", "state"),
    [
        (None, False, None, "ok"),
        (None, False, "/usr/bin/nvidia-smi", "warning"),
        ("12.8", False, None, "warning"),
        ("12.8", True, "/usr/bin/nvidia-smi", "ok"),
    ],
)
def test_a_torch_that_cannot_use_the_gpu_is_found(built_for, card, tool, state, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(shutil, "which", lambda name: tool)
    assert look("", module.pytorch).state == state


def test_the_table_shows_every_state_and_remedy_in_eighty_columns(capsys):
    some = [
        Check("a", "ok", "fine"),
        Check("b", "warning", "so [so]", "do this"),
        Check("c", "problem", "broken", "do that"),
    ]
    Console(width=80, highlight=False).print(render(some))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("ok", "fine", "warning", "so [so]", "→ do this", "problem", "→ do that"):
        assert words in shown
