"""The verb that opens pages in the browser."""

import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tubelet.cli.arguments import parse


def serve_verb(args: list[str]) -> int:
    """Pages in the browser: masks, reconstructions, attention, similar clips, runs, checks."""

    @dataclass(frozen=True)
    class Serve:
        """Look at masks, reconstructions, attention, similar clips, runs and data in the browser, on this machine only.

        tubelet serve --videos my_videos/ --runs runs/

        From another machine: ssh -L 7860:127.0.0.1:7860 HOST, and open http://127.0.0.1:7860 there.
        """

        videos: tuple[str, ...] = ()
        """Folders, lists or videos to choose from; without, videos made here and uploads."""
        runs: Path | None = None
        """Folder of run folders; default runs/, if it is there."""
        features: tuple[Path, ...] = ()
        """Files that tubelet embed wrote, to look for similar clips in."""
        port: int | None = None
        """Default: the first free one from 7860 on."""
        open: bool = False
        """Open the browser, too."""
        upload_mb: int = 200
        """The largest upload, in MB."""

    a = parse(Serve, args, "serve")
    if a.upload_mb < 1:
        raise ValueError(f"--upload-mb {a.upload_mb}: expected 1 or more")
    if a.port is not None and not 0 <= a.port < 2**16:
        raise ValueError(f"--port {a.port}: expected 1 to 65535, or 0 for any")
    if find_spec("gradio") is None:
        raise ValueError("tubelet serve needs gradio, which is an extra: pip install 'tubelet[web]'")
    if a.runs is not None and not a.runs.exists():
        raise FileNotFoundError(f"--runs {a.runs}: no such folder. Leave --runs out as long as there are no runs")
    for path in a.features:
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path} (looked in {Path.cwd()})")
    from tubelet.data.sources import find
    from tubelet.web.app import serve
    from tubelet.web.place import Place

    for source in a.videos:
        find(source)  # what is wrong is said here, not in the browser
    runs = a.runs or (Path("runs") if Path("runs").is_dir() else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was written is removed
    place = Place(Path(), a.videos, runs, a.features, a.upload_mb * 2**20)
    serve(place, a.port, show=a.open)
    return 0
