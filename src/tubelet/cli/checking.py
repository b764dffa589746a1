"""Verbs that look for trouble: in data, in the machine, in the speed of both."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tubelet.cli.arguments import Unprefixed, parse, with_preset
from tubelet.printable import printable


def check_verb(args: list[str]) -> int:
    """Is this data fit to train on: tubelet check DIR"""

    @dataclass(frozen=True)
    class Check:
        """Open, demux or decode every video, and say which have problems. Exit code 3 if any has.

        tubelet check my_videos/ --preset videomae-small-cpu
        tubelet check train.csv --near --against test.csv --fix clean.csv --html check.html
        """

        path: tyro.conf.Positional[str]
        """A folder of videos, one video, or a list file."""
        level: Literal["open", "demux", "decode"] = "demux"
        """open: headers; demux: every packet's header; decode: every frame (slow; all damage that decoders notice)."""
        near: bool = False
        """Also decode the first seconds of each, and find those that show the same: re-encoded, resized, trimmed,
        mirrored."""
        against: str | None = None
        """Videos that must not be among these, such as those to test with: a folder or list. The same files, with
        --near copies, and others of the same group are leaks."""
        fix: Path | None = None
        """Write a list of those without problems (.csv), and beside it NAME.left-out.csv with the others and why. No
        video is moved or deleted, and no file overwritten."""
        html: Path | None = None
        """Write one page that needs no network: all of it as tables and pictures."""
        preset: str | None = None
        """Take the clip from this preset, instead of --frames and --stride; and say which files lack the motion vectors
        that it wants."""
        frames: int = 16
        """Frames of a clip; videos that are too short for it are named."""
        stride: int = 4
        """Source frames from one frame of a clip to the next."""
        timeout: float = 60
        """Seconds after which a file that nothing comes of is given up; large ones get more. 0: never."""
        json: bool = False
        """One JSON object on stdout instead of a table."""

    a = parse(Check, args, "check")
    from tubelet.check_report import render, write_page
    from tubelet.config import preset
    from tubelet.data.check import check
    from tubelet.data.clean import refused, write_clean
    from tubelet.data.sampling import Dense
    from tubelet.data.sources import find
    from tubelet.train.log import Counter, say

    if a.timeout < 0:
        raise ValueError(f"--timeout {a.timeout:g}: expected seconds, or 0 for no limit")
    if a.fix is not None:
        refused(a.fix)
    data = preset(a.preset).data if a.preset else None
    clip, motion = (data.clip, data.motion) if data else (Dense(a.frames, stride=a.stride), None)
    items = find(a.path)
    report = check(
        items,
        a.level,
        clip,
        motion=motion,
        near=a.near,
        against=None if a.against is None else find(a.against),
        timeout=a.timeout,
        progress=Counter("checking", a.json),
    )
    if a.json:
        print(json.dumps(report.to_dict()))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(render(report))
    else:
        print("\n".join(printable(line, lines=False) for line in report.lines()))
    if a.html is not None:
        say(f"page        {write_page(report, a.path, a.html)}")
    if a.fix is not None:
        left = write_clean(a.fix, items, report)
        say(f"clean list  {a.fix}: {left} of {len(items)} videos; left out: {report.verdict()}")
    return 3 if report.found else 0


def doctor_verb(args: list[str]) -> int:
    """Is this machine fit for tubelet."""

    @dataclass(frozen=True)
    class Doctor:
        """Look at Python, PyTorch, FFmpeg, memory and disk, and say what is wrong and how to mend it.

        tubelet doctor
        """

        json: bool = False
        """As JSON on stdout."""

    a = parse(Doctor, args, "doctor")
    from tubelet.doctor import doctor, render

    checks = doctor()
    if a.json:
        print(json.dumps([asdict(one) for one in checks]))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(checks))
    return 1 if any(one.state == "problem" for one in checks) else 0


def bench_verb(args: list[str]) -> int:
    """How fast are reading and training here: tubelet bench PRESET --data DIR"""
    from tubelet.config import Run

    @dataclass(frozen=True)
    class BenchArguments:
        """Read some of your videos as one worker would, make some steps with their clips, and say which of the two is
        slower and what would help: preparing the videos, more workers, another batch. Takes about a minute.

        tubelet bench videomae-k400-s --data my_videos/
        """

        preset: tyro.conf.Positional[str]
        """What would be trained: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, Unprefixed]
        data: str = tyro.MISSING
        """A folder of videos (any depth), one video, or a list file; 16 of them are read."""
        trial: bool = True
        """Prepare three of the videos in a temporary folder, to see how much faster they are read then."""
        device: str | None = None
        """cpu, cuda, cuda:1 or mps; short for --training.device."""
        json: bool = False
        """As JSON on stdout."""

    a = with_preset(BenchArguments, args, "bench")
    from tubelet.bench.result import bench, render
    from tubelet.cli.training import on
    from tubelet.train.log import say

    found = bench(on(a.run, a.device), a.data, trial=a.trial, progress=say)
    if a.json:
        print(json.dumps(found.to_dict()))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(found))
    return 0
