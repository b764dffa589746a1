"""Verbs that look for trouble: in data, in the machine, in the speed of both."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tubelet.cli.arguments import Unprefixed, parse, with_preset
from tubelet.printable import printable

if TYPE_CHECKING:
    from tubelet.data.items import Item


def check_verb(args: list[str]) -> int:
    """Is this data fit to train on: tubelet check DIR"""

    @dataclass(frozen=True)
    class Check:
        """Open, demux or decode every video, and say which have problems. Exit code 3 if any has.

        tubelet check my_videos/ --preset videomae-small-cpu

        tubelet check train.csv --near --against test.csv --fix clean.csv --html check.html

        tubelet check boxes.csv --sheet boxes.png
        """

        path: tyro.conf.Positional[str]
        """A folder of videos, one video, or a list file; or boxes of people: a table, ava:DIR, what CVAT, Label Studio
        or COCO write. Then the boxes are checked as well as their videos."""
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
        sheet: Path | None = None
        """Of boxes: draw key frames with their boxes and labels, .png; default beside the page of --html."""
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
    from tubelet.data.annotations import has_boxes, key_frames
    from tubelet.data.check import check
    from tubelet.data.check_boxes import check_boxes, videos_of
    from tubelet.data.clean import refused, write_clean
    from tubelet.data.sampling import Around, Dense
    from tubelet.data.sources import find
    from tubelet.train.log import Counter, noted, say

    if a.timeout < 0:
        raise ValueError(f"--timeout {a.timeout:g}: expected seconds, or 0 for no limit")
    if a.fix is not None:
        refused(a.fix)
    if a.sheet is not None and a.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {a.sheet}: a sheet is a picture; give it a name that ends in .png")
    data = preset(a.preset).data if a.preset else None
    clip, motion = (data.clip, data.motion) if data else (Dense(a.frames, stride=a.stride), None)
    around = clip if isinstance(clip, Around) else Around(clip.frames, getattr(clip, "stride", None) or a.stride)
    clip = Dense(clip.frames, stride=clip.stride) if isinstance(clip, Around) else clip
    keyed = key_frames(a.path) if has_boxes(a.path) else None
    if keyed is None and a.sheet is not None:
        raise ValueError(f"--sheet {a.sheet} is of boxes, and {a.path} has none; name a table of boxes, ava:DIR, ...")
    if keyed is not None and a.fix is not None:
        raise ValueError(f"--fix {a.fix}: a list has no boxes; mend those of {a.path} where it says what is wrong")

    def videos(source: str) -> "Sequence[Item]":
        if not has_boxes(source):
            return find(source)
        others = key_frames(source)
        noted(others.notes)
        return videos_of(others.items)

    items = find(a.path) if keyed is None else videos_of(keyed.items)
    cut = keyed is not None and {item.path for item in keyed.items} != {item.path for item in items}
    report = check(
        items,
        a.level,
        None if cut else clip,  # of movies cut into files of a second, clips reach over several
        motion=motion,
        near=a.near,
        against=None if a.against is None else videos(a.against),
        timeout=a.timeout,
        progress=Counter("checking", a.json),
    )
    boxes, picture = None, None
    if keyed is not None:
        rows = {row.path: row for row in report.rows}
        told = keyed.notes[bool(keyed.missing) :]  # the first says what is missing, for which the report has a line
        about = {"names": keyed.names, "missing": keyed.missing, "notes": told}
        boxes = check_boxes(keyed.items, rows, around, **about)
        if picture := a.sheet or (a.html.with_suffix(".png") if a.html else None):
            from tubelet.box_pictures import sheet

            sheet(boxes.sound(keyed.items, rows), picture)
    if a.json:
        print(json.dumps(report.to_dict() | ({"boxes": boxes.to_dict()} if boxes else {})))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(render(report, boxes))
    else:
        print("\n".join(printable(line, lines=False) for line in report.lines() + (boxes.lines() if boxes else [])))
    if picture is not None:
        say(f"sheet       {picture}")
    if a.html is not None:
        say(f"page        {write_page(report, a.path, a.html, boxes, picture)}")
    if a.fix is not None:
        left = write_clean(a.fix, items, report)
        say(f"clean list  {a.fix}: {left} of {len(items)} videos; left out: {report.verdict()}")
    return 3 if report.found or (boxes and boxes.found) else 0


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
