"""The verb that makes a table of very many videos."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from tubelet.cli.arguments import parse


def index_verb(args: list[str]) -> int:
    """A table of millions of videos, on disk: tubelet index SOURCE OUT"""

    @dataclass(frozen=True)
    class Index:
        """Write down which videos there are, so that a run of millions of them begins at once and takes no memory.

        tubelet index clips.csv clips.table && tubelet pretrain videomae-k400-b --data clips.table

        OUT is a folder of columns (path, label, start, end, group), which every --data takes. The videos stay where
        they are. A csv, tsv or txt file is read line by line, and may be larger than memory.
        """

        source: tyro.conf.Positional[str]
        """A folder of videos, a list, or a data set (as in kinetics:DIR:train)."""
        out: tyro.conf.Positional[Path]
        """Folder to write, as in clips.table; not there yet."""
        json: bool = False
        """The counts as JSON."""

    a = parse(Index, args, "index")
    from tubelet.cli.preparing import size
    from tubelet.data.sources import coming
    from tubelet.data.table import write

    path = Path(a.source)
    root = path if path.is_dir() else path.parent if path.is_file() else a.out.parent

    def progress(done: int) -> None:
        if sys.stderr.isatty() and not a.json:
            print(f"indexing {done:,}", end="\r", file=sys.stderr)

    made = write(a.out, coming(a.source), root, progress)
    labels = len({item.label for item in made.kinds} - {None})
    if a.json:
        print(json.dumps({"out": str(a.out), "videos": len(made), "labels": labels, "bytes": made.bytes}))
        return 0
    named = f", {labels:,} labels" * bool(labels)
    print(f"{a.out}: {len(made):,} videos{named}, {size(made.bytes)}; --data {a.out} reads it")
    return 0
