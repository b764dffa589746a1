"""The numbers that were measured of a run: results.json in its folder, and how the page shows them.

results.json is a list of two shapes. A read-out compares one number:
{"name", "trained", "untrained", "one_frame", "chance", "unit", "explanation"}; some values may be null or left out,
"better": "lower" turns the reading round (for errors). A test has numbers with 95 % intervals:
{"kind": "test", "linear probe", ...; "data"; "how"; "tested": of what; "weights": the file, "numbers": {name: {"value",
"low", "high"}}; "chance": {name: value}; "untrained": as numbers; "command"; "date"}.
"""

import json
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from tubelet.evaluate.results import Number
from tubelet.page import coded
from tubelet.report_facts import as_json
from tubelet.train.checkpoint import SaveError, atomically, void
from tubelet.train.folder import only_here

SMALL = 0.02  # a lead below this share of the scale is called small
PERCENT = ("top1", "top5", "mean_class_accuracy", "mean_average_precision", "frame_map")
SCALED = (*PERCENT, "r2")  # numbers that have a scale, on which more is better
NAMES = {"top1": "top-1", "top5": "top-5", "mean_average_precision": "mean AP", "frame_map": "frame mAP", "r2": "R²"}

# ---------------------------------------------------------------------------- the file


@dataclass(frozen=True)
class Measured:
    """What a test or a probe found, to be kept in the folder of its run."""

    kind: str
    """test, linear probe, ..."""
    data: str
    """The source of the videos, as it was given."""
    how: str
    """What else makes it another test: views, recipe."""
    tested: str
    """40 videos of 8 classes."""
    numbers: Mapping[str, Number]
    chance: Mapping[str, float] = field(default_factory=dict)
    """What guessing gives, of the numbers for which that is known."""
    untrained: Mapping[str, Number] = field(default_factory=dict)
    """The same of a network with random weights."""


def home(weights: Path) -> Path | None:
    """The run folder that weights are of, or in; none: they are of nobody's."""
    folder = weights if weights.is_dir() else weights.parent
    return folder if (folder / "run.json").is_file() else None


def results_of(folder: Path) -> list[dict[str, Any]]:
    """The entries of results.json; none where there is no such file."""
    found = as_json(folder / "results.json")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def keep(folder: Path, weights: Path, found: Measured) -> None:
    """Adds a test to results.json, in place of the same test of before; of several at once each waits for the others.

    Raises:
        SaveError: the disk refuses, or what is there is no list of results.
    """
    entry = {"weights": weights.name if weights.is_file() else ""} | plain(asdict(found))
    entry |= {"command": sys.argv, "date": datetime.now().isoformat(timespec="seconds")}

    def same(other: dict[str, Any]) -> bool:
        return all(other.get(name) == entry[name] for name in ("kind", "weights", "data", "how"))

    path = folder / "results.json"
    with only_here(path):
        before = as_json(path) if path.exists() else []
        if not isinstance(before, list) or not all(isinstance(one, dict) for one in before):
            raise SaveError(f"{path} is no list of results, so it is left as it is; mend it, or move it away")
        write_results(folder, [*(one for one in before if not same(one)), entry])


def write_results(folder: Path, entries: list[dict[str, Any]]) -> None:
    """results.json anew.

    Raises:
        SaveError: the disk refuses.
    """
    text = json.dumps(entries, indent=1).encode()
    atomically(folder / "results.json", lambda file: void(file.write(text)))


def plain(value: Any) -> Any:
    """The same for JSON, which has no word for what is not a number."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_words(entry: dict[str, Any]) -> str:
    """An entry in a line."""
    if "numbers" in entry:
        told = ", ".join(f"{called(name)} {interval(name, one)}" for name, one in entry["numbers"].items())
        return f"{title(entry)} ({entry.get('tested')}; {entry.get('how')}): {told}"
    others = [f"{BARS[name]} {entry[name]:.3g}" for name in BARS if name != "trained" and entry.get(name) is not None]
    beside = f" ({', '.join(others)})" if others else ""
    return f"{entry.get('name')}: {entry.get('trained') or math.nan:.3g} {entry.get('unit', '')}{beside}"


# ---------------------------------------------------------------------------- tests, with their intervals

TESTED = (
    "<p>The dot is the number, the bar its 95 % interval: how much depends on which videos were tested, not on which "
    "seed was trained. The red mark is guessing: always the same answer, by how common each label is in the test.</p>"
)


def article(entry: dict[str, Any]) -> str:
    """An entry as a part of the page."""
    return tested(entry) if isinstance(entry.get("numbers"), dict) else read_out(entry)


def title(entry: dict[str, Any]) -> str:
    """Test on holdout.csv."""
    kind = str(entry.get("kind") or "test")
    data = str(entry.get("data") or "?")
    return f"{kind[:1].upper()}{kind[1:]} on {Path(data).name or data}"


def called(name: str) -> str:
    """A number's name, for people."""
    return NAMES.get(name, name.replace("_", " "))


def interval(name: str, number: Mapping[str, Any]) -> str:
    """A number with its interval: 71.2 % (66.0 to 76.1)."""
    value, low, high = (number.get(part) for part in ("value", "low", "high"))
    digits, unit = (1, " %") if name in PERCENT else (3, "")
    if value is None:
        return "no number"
    around = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{unit}{around}"


def tested(entry: dict[str, Any]) -> str:
    """A test as dots with whiskers on a scale, with what it was."""
    rows, chance, untrained = "", entry.get("chance") or {}, entry.get("untrained") or {}
    for name, number in entry["numbers"].items():
        rows += f"<dt>{escape(called(name))}</dt><dd>{scale(name, number, chance.get(name))}</dd>"
        if name in untrained:
            rows += f'<dt class="faint">untrained</dt><dd class="plain">{scale(name, untrained[name], None)}</dd>'
    weights, date = entry.get("weights"), str(entry.get("date", "")).replace("T", " ")
    facts = [entry.get("tested"), entry.get("how"), f"weights {weights}" if weights else "", date]
    about = " · ".join(escape(str(fact)) for fact in facts if fact)
    argv = [str(word) for word in entry.get("command") or []]
    command = coded(shlex.join([Path(argv[0]).name, *argv[1:]])) if argv else ""
    said = " ".join(filter(None, (beside_chance(entry["numbers"], chance), beside_random(entry["numbers"], untrained))))
    return (
        f'<article><h3>{escape(title(entry))}</h3><p class="faint">{about}</p><dl class="dots">{rows}</dl>'
        + (f'<p class="verdict">{said}</p>' if said else "")
        + f'<p class="caption">{command}</p></article>'
    )


def scale(name: str, number: Mapping[str, Any], chance: float | None) -> str:
    """A number on a line from 0 to 100 % (or 1): dot, whisker, and a mark where guessing is."""
    most = 100.0 if name in PERCENT else 1.0
    value, low, high = (number.get(part) for part in ("value", "low", "high"))
    if value is None or name not in SCALED:
        return f"<b>{interval(name, number)}</b>"

    def at(place: float) -> str:
        return f"{100 * min(max(place / most, 0.0), 1.0):.2f}%"

    shown = f'<i class="dot" style="left:{at(value)}"></i>'
    if low is not None and high is not None:
        shown = f'<i class="whisker" style="left:{at(low)};right:calc(100% - {at(high)})"></i>' + shown
    if chance is not None:
        shown = f'<i class="guess" style="left:{at(chance)}" title="guessing: {chance:.3g}"></i>' + shown
    return f'<span class="line">{shown}</span><b>{interval(name, number)}</b>'


def beside_chance(numbers: Mapping[str, Any], chance: Mapping[str, float]) -> str:
    """Whether the first number is surely better than guessing."""
    known = (name for name in numbers if name in SCALED and name in chance)
    name = next((name for name in known if numbers[name].get("low") is not None), None)
    if name is None:
        return ""
    guess, low, high = chance[name], numbers[name]["low"], numbers[name]["high"]
    text = f"{called(name)} by guessing: {guess:.3g}{' %' * (name in PERCENT)}. "
    text = text[0].upper() + text[1:]
    if low > guess:
        return text + "The whole interval is above it."
    if high < guess:
        return text + "The whole interval is below it: something is wrong, perhaps the labels."
    return text + "The interval holds it: so few videos do not show that it is better than guessing."


def beside_random(numbers: Mapping[str, Any], untrained: Mapping[str, Any]) -> str:
    """Whether the first number is surely better than that of a network with random weights."""
    known = (name for name in numbers if name in SCALED and name in untrained)
    name = next((name for name in known if untrained[name].get("high") is not None), None)
    if name is None or numbers[name].get("low") is None:
        return ""
    if numbers[name]["low"] > untrained[name]["high"]:
        return "The intervals of trained and untrained do not overlap: pre-training helped here."
    if numbers[name]["value"] <= untrained[name]["value"]:
        return "Training did not help here: the untrained encoder does as well or better."
    return "The intervals of trained and untrained overlap: more tested videos would tell."


# ---------------------------------------------------------------------------- read-outs

BARS = {"trained": "trained", "untrained": "untrained", "one_frame": "one frame", "chance": "guessing"}
READ_OUT = (
    "<p><em>Trained</em> is this run's encoder, <em>untrained</em> the same network with random weights, <em>one "
    "frame</em> the trained encoder without motion to look at. Only a lead over all of them shows that training taught "
    "it motion.</p>"
)


def read_out(result: dict[str, Any]) -> str:
    """One measurement as bars, with a sentence that holds whether or not training helped."""
    values = {
        key: result[key] for key in BARS if isinstance(result.get(key), (int, float)) and math.isfinite(result[key])
    }
    unit = str(result.get("unit", ""))
    scale = 100.0 if unit == "%" else max([*values.values(), 1e-12])
    bars = "".join(
        f'<dt>{BARS[key]}</dt><dd class="{key}"><i style="width:{max(0.0, min(100 * value / scale, 100)):.1f}%"></i>'
        f"<b>{value:.3g} {escape(unit)}</b></dd>"
        for key, value in values.items()
    )
    name, explanation = (escape(str(result.get(key) or "")) for key in ("name", "explanation"))
    said = verdict(values, scale, unit, result.get("better") == "lower")
    return f'<article><h3>{name}</h3><p>{explanation}</p><dl>{bars}</dl><p class="verdict">{said}</p></article>'


def verdict(values: dict[str, float], scale: float, unit: str, lower: bool = False) -> str:
    """What the numbers of a read-out say, and do not say."""
    if "trained" not in values:
        return "There is no number for the trained encoder yet."
    sign = -1 if lower else 1
    leads = {key: sign * (values["trained"] - value) for key, value in values.items() if key != "trained"}
    behind = [key for key, lead in leads.items() if lead <= 0]
    if not leads:
        return "There is nothing to compare this number with, so it says little."
    if "chance" in behind:
        return "No better than guessing: this is not in the encoder's features."
    if "untrained" in behind:
        return "Training did not help here: the untrained encoder does as well or better."
    if "one_frame" in behind:
        return "One frame does as well or better, so this is no evidence that the encoder understands motion."
    points = "points" if unit == "%" else escape(unit)
    names = {"untrained": "the untrained encoder", "one_frame": "a single frame", "chance": "guessing"}
    text = (
        "Better than " + ", ".join(f"{names[key]} by {lead:.3g} {points}".strip() for key, lead in leads.items()) + "."
    )
    if min(leads.values()) < SMALL * scale:
        text += " The smallest lead is slight: other videos or another seed may undo it."
    if "untrained" not in leads or "one_frame" not in leads:
        text += " Not everything that it should be compared with was measured."
    return text
