"""The verb that makes a data set anew for training."""

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import tyro

from tubelet.cli.arguments import parse

if TYPE_CHECKING:
    from rich.table import Table

    from tubelet.data.prepare import Outcome


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, with another exit code."""


def prepare_verb(args: list[str]) -> int:
    """Videos made anew for training: tubelet prepare SRC DST"""

    @dataclass(frozen=True)
    class Prepare:
        """Encode every video for training: small, quick to read anywhere, with motion vectors that can be relied on.

        tubelet prepare my_videos/ prepared/ && tubelet pretrain videomae-small-cpu --data prepared/

        The source is only read. Stopped, the same command goes on where it was. Frames and their times stay as they
        are, sound is dropped. Exit code 3 if files could not be decoded: DST/quarantine.csv says which, and why.
        """

        source: tyro.conf.Positional[str]
        """A folder of videos, a list or table, or a data set (as in kinetics:DIR:train)."""
        out: tyro.conf.Positional[Path]
        """Folder to write into; its videos.csv keeps labels, groups, and parts of videos."""
        short_side: int = 256
        """Pixels of the short side; smaller videos are not enlarged. 0: as it is."""
        keyframes: int = 32
        """Frames from one key frame to the next; reading can begin at each."""
        crf: float = 21
        """Quality: 0 is lossless, 6 more halves the size. 21: 39 dB and more on filmed videos."""
        speed: str = "veryfast"
        """x264's preset: slower ones make smaller files."""
        layered: int = 1
        """Every N-th frame can be decoded without those between, for clips whose stride is N; 1: no layers."""
        shards: float | None = None
        """Write tar files (WebDataset) of about this many MB instead of single files."""
        part: str = "0/1"
        """i/n: only every n-th file, from the i-th on; for n machines with one DST."""
        lost: float = 0.05
        """Share of a file's frames that may be lost to damage; with more it goes to the quarantine list."""
        retry: bool = False
        """Try files in quarantine again."""
        workers: int | None = None
        """Processes; by default one for each core. 0: none beside this one."""
        json: bool = False
        """The totals as JSON."""

    a = parse(Prepare, args, "prepare")
    from tubelet.data.prepare import Encoding, prepare
    from tubelet.data.writing import DiskError
    from tubelet.train.log import Counter

    index, slash, count = a.part.partition("/")
    if not (index.isdecimal() and slash and count.isdecimal()):
        raise ValueError(f"--part {a.part}: expected i/n, as in 0/4, 1/4, 2/4, 3/4")
    if a.shards is not None and a.shards <= 0:
        raise ValueError(f"--shards {a.shards:g}: expected their size in MB, as in 1000")
    how = Encoding(a.short_side, a.keyframes, a.crf, a.speed, a.layered)
    counter, at = Counter("preparing", a.json), [0, 0]

    def progress(done: int, total: int) -> None:
        at[:] = done, total
        counter(done, total)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        outcome = prepare(
            a.source,
            a.out,
            how,
            shard_bytes=None if a.shards is None else round(a.shards * 1e6),
            part=(int(index), int(count)),
            lost=a.lost,
            retry=a.retry,
            workers=a.workers,
            progress=progress,
        )
    except KeyboardInterrupt as stop:
        done = f"{at[0]} of {at[1]} files are done and stay; " if at[1] else ""
        print(f"tubelet: stopped; {done}the same command goes on from there", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except DiskError as error:
        what = "Make room" if error.full else "Mend that"
        raise DiskError(f"{error}. {what}; what is done stays, and the same command goes on") from error
    finally:
        signal.signal(signal.SIGTERM, before)
    if a.json:
        print(json.dumps({"out": str(a.out), **outcome.to_dict()}))
    else:
        from rich.console import Console

        Console(highlight=False).print(table(outcome))
        for row in outcome.rows:
            if row.problem or row.note:
                print(f"  {row.source}: {row.problem or row.note}" + " (in quarantine)" * bool(row.problem))
        if outcome.left:
            print(f"{outcome.left} files of other parts are not done yet; whichever part is last writes the lists")
        elif not outcome.totals()["videos"]:
            print(f"nothing was prepared; {a.out / 'quarantine.csv'} says why")
        else:
            print(f"{a.out / 'videos.csv'} lists the videos; --data {a.out} reads it")
    return 3 if outcome.quarantined else 0


def terminated(number: int, frame: FrameType | None) -> None:
    """What SIGTERM does.

    Raises:
        Terminated: always.
    """
    raise Terminated


def table(outcome: "Outcome") -> "Table":
    """The totals, for people."""
    from rich.table import Table

    total = outcome.totals()
    rows = {
        "videos": f"{total['videos']}, {total['new']} files done now",
        "frames": f"{total['frames']}, {total['hours']:.3g} hours"
        + f", {total['damaged']} damaged" * bool(total["damaged"]),
        "before": size(total["bytes_before"]),
        "after": size(total["bytes"]),
        "worst PSNR": "-" if total["psnr"] is None else f"{total['psnr']:.1f} dB",
        "quarantined": str(total["quarantined"] or "none"),
        "time": f"{total['seconds']:.0f} s",
    }
    made = Table(show_header=False, box=None)
    for row in rows.items():
        made.add_row(*row)
    return made


def size(count: int) -> str:
    """Bytes as people say them."""
    for unit, many in (("GB", 1e9), ("MB", 1e6)):
        if count >= many:
            return f"{count / many:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
