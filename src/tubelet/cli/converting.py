"""The verb that reads weights and annotations of others."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, parse


def convert_verb(args: list[str]) -> int:
    """Weights or boxes of others as ours: tubelet convert SRC DST"""

    @dataclass(frozen=True)
    class Convert:
        """Read weights of VideoMAE, V2, MGMAE, transformers, MAE and others, and write them as tubelet's safetensors.

        tubelet convert checkpoint.pth videomae_b.safetensors

        What was done with every tensor is said; one that is not on the list of its format stops it. Files need not be
        converted to be used: finetune, pretrain, probe, embed and test take them as --weights as they are.

        Or boxes of CVAT (xml), Label Studio or COCO (json), or AVA (ava:FOLDER:val) as tubelet's table of boxes:

        tubelet convert annotations.xml boxes.csv --videos clips/
        """

        src: tyro.conf.Positional[Path]
        """File (.pth, .pt, .bin, .safetensors) or folder of transformers or DeepSpeed; or an export with boxes."""
        dst: tyro.conf.Positional[Path]
        """File to write: .safetensors, or .csv for boxes."""
        videos: Path | None = None
        """Of boxes: the folder that the videos are in, at any depth; default that of the export."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        labels: Path | None = None
        """Names of the classes of a head, one a line."""
        rows: Path | None = None
        """JSON list of the rows of the head to keep, in order, as V2's label_710to400.json."""
        inflate: int = 0
        """Make an encoder of images one of video, with cubes of so many frames."""
        dry: bool = False
        """Only say what would be done."""
        json: bool = False
        """The report as one JSON object on stdout."""

    a = parse(Convert, args, "convert")
    if a.dst.suffix.lower() == ".csv":
        asked_for = replace(a, src=Path(), dst=Path(), videos=None, json=False, dry=False)
        if asked_for != Convert(Path(), Path()):
            raise ValueError(f"{a.dst} is a table of boxes, to which only --videos, --dry and --json apply")
        return convert_boxes(str(a.src), a.dst, a.videos, a.dry, a.json)
    if a.videos is not None:
        raise ValueError(f"--videos is for boxes, which go to a table; {a.dst} is none: let its name end with .csv")
    from tubelet.weights.load import converted

    if a.dst.suffix != ".safetensors":
        raise ValueError(f"{a.dst}: what is written is safetensors; let its name end with .safetensors")
    if a.dst.exists() and not a.dry:
        raise ValueError(f"{a.dst} is there already; give another name")
    names = tuple(a.labels.read_text(encoding="utf-8").splitlines()) if a.labels else ()
    asked = replace(a.others.asked(), labels=names, rows=rows_of(a.rows) if a.rows else ())
    data, report = converted(a.src, asked, a.inflate)
    if not a.dry:
        from tubelet.train.checkpoint import atomically, written

        atomically(a.dst, partial(written, data))
    if a.json:
        done = {name: {"what": what, "why": why} for name, (what, why) in report.tensors.items()}
        said = {"format": report.format, "notes": report.notes, "warnings": report.warnings, "tensors": done}
        print(json.dumps({"src": str(a.src), "dst": None if a.dry else str(a.dst)} | said))
        return 0
    print(report)
    if not a.dry:
        print(f"wrote {a.dst}")
    return 0


def convert_boxes(source: str, table: Path, videos: Path | None, dry: bool, as_json: bool) -> int:
    """Writes the table of a source's boxes, and says what is in it.

    Raises:
        ValueError: the table is there already.
    """
    from tubelet.data.annotations import key_frames, write_boxes
    from tubelet.train.log import noted

    if table.exists() and not dry:
        raise ValueError(f"{table} is there already; give another name")
    found = key_frames(source, videos)
    noted(found.notes)
    if not dry:
        write_boxes(found, table)
    if as_json:
        boxes = [box for item in found.items if item.key is not None for box in item.key.boxes]
        counts = {"videos": len({item.path for item in found.items}), "moments": len(found.items), "boxes": len(boxes)}
        classes = {name: sum(name in box.labels for box in boxes) for name in found.names}
        said = {"missing": found.missing, "notes": found.notes}
        print(json.dumps({"src": source, "dst": None if dry else str(table)} | counts | {"labels": classes} | said))
        return 0
    print(found)
    if not dry:
        print(f"wrote {table}")
    return 0


def rows_of(path: Path) -> tuple[int, ...]:
    """Rows of a head from a JSON file: a list, or an object from new row to old.

    Raises:
        ValueError: something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            found = [found[key] for key in sorted(found, key=int)]
        if not isinstance(found, list) or not found or any(type(row) is not int for row in found):
            raise ValueError("expected whole numbers, as in [3, 0, 7]")
        return tuple(found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no JSON list of rows ({error})") from error
