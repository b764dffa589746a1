"""Every number of docs/scaling.md that tubelet can compute is what it computes."""

import csv
import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tubelet.cli import run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/scaling.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
PLANS = [row for row in ROWS if row[0].startswith("`")]
PUBLISHED = [row for row in ROWS if len(row) == 6 and row[1].startswith("`")]


def planned(arguments: str) -> dict[str, Any]:
    text = io.StringIO()
    with redirect_stdout(text):
        assert run(["plan", *shlex.split(arguments.strip("`")), "--json"]) == 0
    return json.loads(text.getvalue())


def same(told: str, value: float) -> None:
    """As precise as it is told."""
    digits = len(told.partition(".")[2])
    assert float(told) == pytest.approx(value, abs=0.51 * 10**-digits + 1e-9, rel=0.005 if digits == 0 else 0)


def test_the_page_has_its_tables():
    assert len(PLANS) == 8
    assert len(PUBLISHED) == 4


@pytest.mark.parametrize("row", PLANS, ids=lambda row: row[0])
def test_rows_are_what_plan_says(row):
    found = planned(row[0])
    reading, saving = found["reading"], found["saving"]
    values = (
        found["held"]["total"] / 2**30,
        found["held"]["memory"]["clips"],
        found["step"],
        found["hours"],
        reading["cores"] * found["gpus"] / found["nodes"],
        reading["bytes"] / 1e6,
        reading["requests"],
        saving["videos"] / 1e12,
        saving["checkpoint"] / 2**30,
        saving["failures"],
        saving["every"] / 60,
    )
    for told, value in zip(row[1:], values, strict=True):
        same(told, value)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_published_runs_come_to_the_share_that_is_told(row):
    found, hours = planned(row[1]), float(row[2])
    share = found["steps"] * found["pace"]["products"] * 0.1 / 3600 / hours
    for told, value in zip(row[3:], (share, found["hours"], found["hours"] / hours), strict=True):
        same(told, value)


def test_the_table_of_simulations_is_the_csv():
    table = (ROOT / "benchmarks/pipeline.csv").read_text().splitlines()
    names = ("question", "workers a GPU", "ahead", "clips", "p99 / median", "failing", "stalling", "broken off after s")
    shares = {tuple(row[name] for name in (*names, "GPUs")): row["busy"] for row in csv.DictReader(table)}
    rows = [row for row in ROWS if len(row) == 11 and not re.match("`|arguments|question", row[0])]
    assert len(rows) > 10
    for row in rows:
        for gpus, told in zip(("8", "64", "512"), row[8:], strict=True):
            if told:
                same(told, float(shares[(*row[:8], gpus)]))
