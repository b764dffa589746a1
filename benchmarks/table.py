"""Results as CSV, beside the script that made them."""

import csv
import shlex
import sys
from pathlib import Path
from typing import Any

from tubelet.train.folder import machine


def provenance() -> dict[str, Any]:
    """What a row's numbers depend on: machine, versions, date, command; of paths of this machine the last part."""
    about = machine()
    command = shlex.join(["python", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv)])
    return {key: about[key] for key in ("processor", "cores", "torch")} | {
        "date": about["date"][:10],
        "command": command,
    }


def save(script: str, rows: list[dict[str, Any]]) -> None:
    """Writes `rows` to the CSV named as `script` (a `__file__`)."""
    with open(Path(script).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
