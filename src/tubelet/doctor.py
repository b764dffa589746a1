"""Is this machine fit for tubelet: what is here, what is missing, what is known to go wrong, and the remedy.

Every check stands alone and imports what it needs itself, so that whatever is broken is a line and not a traceback.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

State = Literal["ok", "warning", "problem"]
GIB = 2**30

# What people's videos come in, with FFmpeg's names of its decoders and encoders; any one of them will do.
DECODERS = {
    "H.264": ("h264",),
    "HEVC": ("hevc",),
    "AV1": ("libdav1d", "av1", "libaom-av1"),
    "VP9": ("vp9", "libvpx-vp9"),
    "MPEG-2": ("mpeg2video",),
    "MPEG-4": ("mpeg4",),
    "MJPEG": ("mjpeg",),
    "Cinepak": ("cinepak",),
}
ENCODERS = DECODERS | {
    "H.264": ("libx264",),
    "HEVC": ("libx265",),
    "AV1": ("libsvtav1", "libaom-av1", "librav1e"),
    "VP9": ("libvpx-vp9",),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    what: str
    remedy: str = ""  # empty where nothing is wrong


def doctor() -> list[Check]:
    """Everything that was looked at, in the order in which it matters. Takes a few seconds; raises nothing."""
    return [look(name, check) for name, check in CHECKS.items()]


def look(name: str, check: Callable[[], tuple[State, str, str]]) -> Check:
    """The outcome of one check; its failure is an outcome too."""
    try:
        return Check(name, *check())
    except Exception as error:  # whatever a broken installation raises: saying so is what a doctor is for
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(name, "problem", text, "install again: pip install --force-reinstall tubelet, or report this line")


# ---------------------------------------------------------------------------- the checks


def python() -> tuple[State, str, str]:
    """Version and system."""
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return ("ok", what, "") if sys.version_info >= (3, 11) else ("problem", what, "install Python 3.11 or later")


def pytorch() -> tuple[State, str, str]:
    """Version, and whether it was built for the GPU that is here."""
    import torch

    what = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        return "warning", f"{what}; built without CUDA, yet there is nvidia-smi", "install the CUDA build (pytorch.org)"
    if torch.version.cuda is not None and not torch.cuda.is_available():
        remedy = "check nvidia-smi and the driver's version; without a GPU, nothing is wrong"
        return "warning", f"{what}; built for CUDA {torch.version.cuda}, but finds no GPU", remedy
    return "ok", what, ""


def device() -> tuple[State, str, str]:
    """What `--training.device auto` and `--training.precision auto` stand for."""
    import torch

    from tubelet.train.device import pick_device, pick_precision
    from tubelet.train.folder import processor

    best = pick_device("auto")
    precision = str(pick_precision("auto", best)).removeprefix("torch.")
    if best.type != "cuda":
        return "ok", f"{best.type}: {processor()}, {precision}", ""
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} {card.total_memory / GIB:.0f} GiB" for card in cards)
    return "ok", f"cuda: {names}; {precision}", ""


def ffmpeg() -> tuple[State, str, str]:
    """PyAV and the FFmpeg that came with it."""
    import av

    library = ".".join(map(str, av.library_versions["libavcodec"]))
    release = getattr(av, "ffmpeg_version_info", "of unknown version")
    return "ok", f"PyAV {av.__version__}, FFmpeg {release} (libavcodec {library})", ""


def decoders() -> tuple[State, str, str]:
    """Which videos can be read."""
    here, missing = codecs("r", DECODERS)
    return ("ok", here, "") if not missing else ("warning", f"{here}; not {missing}", "pip install --upgrade av")


def encoders() -> tuple[State, str, str]:
    """Which videos can be written; only H.264 is needed, for the demo's."""
    here, missing = codecs("w", ENCODERS)
    if "H.264" in missing:
        return "warning", f"{here}; not {missing}", "pip install --upgrade av; tubelet demo writes H.264"
    return "ok", f"{here}; not {missing}" if missing else here, ""


def codecs(mode: Literal["r", "w"], names: dict[str, tuple[str, ...]]) -> tuple[str, str]:
    """Which of these formats FFmpeg has, and which it has not."""
    from av.codec import Codec
    from av.error import FFmpegError

    def there(name: str) -> bool:
        try:
            return bool(Codec(name, mode))
        except (FFmpegError, ValueError):
            return False

    found = {label: any(map(there, choices)) for label, choices in names.items()}
    return ", ".join(k for k, yes in found.items() if yes), ", ".join(k for k, yes in found.items() if not yes)


def self_test() -> tuple[State, str, str]:
    """Eight grey frames, each lighter than the one before, written to a file and read back."""
    import numpy as np

    from tubelet.data.video import frames_at, write

    greys = np.arange(20, 220, 25, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test.mp4")
        write(path, np.broadcast_to(greys[:, None, None, None], (8, 64, 64, 3)).copy(), 10)
        read = frames_at(path, range(8)).frames.float().mean((1, 2, 3)).numpy()
    off = float(np.abs(read - greys).max())
    if off > 6:  # of 256; neighbouring frames are 25 apart
        return "problem", f"8 frames, written and read back, differ by {off:.0f} of 256", "pip install --upgrade av"
    return "ok", "8 frames written as H.264, read back in order, colours right", ""


def cores() -> tuple[State, str, str]:
    """Processors that this process may use."""
    from tubelet.data.cache import cores as usable

    mine, machine = usable(), os.cpu_count()
    return "ok", f"{mine}" if mine == machine else f"{mine} of the machine's {machine}", ""


def memory() -> tuple[State, str, str]:
    """Main memory that is free."""
    from tubelet.data.cache import free_memory

    free = free_memory()
    if free is None:
        return "ok", "not known on this system", ""
    if free < 2 * GIB:
        return "warning", f"{free / GIB:.1f} GiB free", "close other programs, or a smaller --training.batch"
    return "ok", f"{free / GIB:.1f} GiB free", ""


def disk() -> tuple[State, str, str]:
    """Room for runs in the folder where we are."""
    free = shutil.disk_usage(".").free / GIB
    if free < 5:
        return "warning", f"{free:.1f} GiB free here", "a ViT-B checkpoint takes 1.1 GiB: free some, or --out elsewhere"
    return "ok", f"{free:,.0f} GiB free here", ""


def shared_memory() -> tuple[State, str, str]:
    """Through which loader workers hand over their batches; containers often have 64 MiB."""
    if not os.path.isdir("/dev/shm"):
        return "ok", "no /dev/shm on this system", ""
    total = shutil.disk_usage("/dev/shm").total / GIB
    if total < 1:
        remedy = "start the container with --shm-size 8g, or use --training.workers 0"
        return "warning", f"/dev/shm has {total * 1024:.0f} MiB; workers that fill it are killed (bus error)", remedy
    return "ok", f"/dev/shm has {total:.1f} GiB", ""


def tensorboard() -> tuple[State, str, str]:
    """The extra for --tensorboard."""
    missing = "not installed; only --tensorboard needs it: pip install 'tubelet[tensorboard]'"
    return "ok", installed("tensorboard") or missing, ""


def torchvision() -> tuple[State, str, str]:
    """Not used by tubelet, but transformers imports it, and a build for another torch fails at that."""
    if importlib.util.find_spec("torchvision") is None:
        return "ok", "not installed, not needed", ""
    found = installed("torchvision")
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120)
    if tried.returncode:
        line = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
        return "warning", f"{found} does not import: {line}", "pip uninstall torchvision, or the one for your torch"
    return "ok", found, ""


def transformers() -> tuple[State, str, str]:
    """Not used by tubelet. From 5.6 to 5.17 it loads VideoMAE with query and value biases of zero and says nothing."""
    found = installed("transformers")
    if not found:
        return "ok", "not installed, not needed", ""
    if (5, 6) <= tuple(int(part) for part in found.split(".")[:2]) < (5, 18):
        what = f"{found} loads VideoMAE's weights with query and value biases of zero, without an error"
        return "warning", what, "pip install 'transformers>=5.18' before comparing or converting weights"
    return "ok", found, ""


def installed(package: str) -> str:
    """Version of a package, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


CHECKS: dict[str, Callable[[], tuple[State, str, str]]] = {
    "Python": python,
    "PyTorch": pytorch,
    "device": device,
    "FFmpeg": ffmpeg,
    "decoders": decoders,
    "encoders": encoders,
    "write and read": self_test,
    "cores": cores,
    "memory": memory,
    "disk": disk,
    "shared memory": shared_memory,
    "tensorboard": tensorboard,
    "torchvision": torchvision,
    "transformers": transformers,
}


def render(checks: list[Check]) -> RenderableType:
    """The checks as a table, each remedy below what it mends."""
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for check in checks:
        text = check.what + (f"\n→ {check.remedy}" if check.remedy else "")
        table.add_row(f"[{colours[check.state]}]{check.state}", check.name, escape(text))
    return table
