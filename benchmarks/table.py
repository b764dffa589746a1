"""Results as CSV, beside the script that made them."""

import csv
from pathlib import Path
from typing import Any


def save(script: str, rows: list[dict[str, Any]]) -> None:
    """Writes `rows` to the CSV named as `script` (a `__file__`)."""
    with open(Path(script).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
