"""The verb that makes lists for training, validation and test."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from tubelet.cli.arguments import parse


def split_verb(args: list[str]) -> int:
    """Lists for training, validation and test: tubelet split SOURCE --out DIR"""

    @dataclass(frozen=True)
    class Split:
        """Divide videos into train.csv, val.csv and test.csv: every class in the same shares, no group in two parts.

        tubelet split clips.csv --out lists/ --group-column person --fractions 0.25 0.5

        With fractions, train_25.csv and train_50.csv have that share of the training clips of every class, the smaller
        inside the larger. All lists have the columns path, label, start, end, group, and are read by every --data.
        """

        source: tyro.conf.Positional[str]
        """A folder with class folders, a list or table, or a data set (as in ucf101:DIR)."""
        out: Path
        """Folder to write the lists into."""
        shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
        """For train, val and test; 0 leaves a part out."""
        fractions: tuple[float, ...] = ()
        """Shares of the training clips to make smaller lists of."""
        group: str | None = None
        """Clips that must stay together, by where they are: folder, or a regular expression on the path."""
        path_column: str | None = None
        """Column of a table that holds the paths, if it has an unusual name; so the others."""
        label_column: str | None = None
        """Labels."""
        start_column: str | None = None
        """Second where the part of the video begins."""
        end_column: str | None = None
        """Second where it ends."""
        group_column: str | None = None
        """Who or what was filmed: stays together."""
        seed: int = 0
        """Another seed, another division."""
        json: bool = False
        """The counts as JSON."""

    a = parse(Split, args, "split")
    from urllib.parse import urlencode

    from tubelet.data.sources import find
    from tubelet.data.split import fraction, grouped, split, table, write_list

    columns = {name: getattr(a, f"{name}_column") for name in ("path", "label", "start", "end", "group")}
    named = urlencode({name: column for name, column in columns.items() if column is not None})
    if named and ":" in a.source and not Path(a.source).exists():
        raise ValueError(f"{a.source} has columns of its own kind; --*-column are for tables, as in clips.csv")
    items = find(f"table:{a.source}?{named}" if named else a.source)
    found = split(grouped(items, a.group) if a.group is not None else items, a.shares, a.seed)
    for share in a.fractions:
        if "train" not in found:
            raise ValueError("--fractions are of the training clips; --shares leaves no training")
        found[f"train_{100 * share:g}"] = fraction(found["train"], share, a.seed)
    there = [path for part in found if (path := a.out / f"{part}.csv").exists()]
    if there:
        raise ValueError(f"{there[0]} is there already; name another folder with --out, or remove it")
    a.out.mkdir(parents=True, exist_ok=True)
    for part, clips in found.items():
        write_list(a.out / f"{part}.csv", clips)
    rows = table(found)
    if a.json:
        print(json.dumps({"out": str(a.out), "parts": rows}))
        return 0
    for row in rows:
        text = f"{row['clips']:>7} clips, {row['classes']} classes with {row['fewest']} or more"
        groups = f", {row['groups']} groups" if row["groups"] else ""
        print(f"{a.out / str(row['part'])}.csv  {text}{groups}")
    return 0
