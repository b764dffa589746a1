"""What run.json and metrics.jsonl tell about a run: for its page, for its warnings, and for the command line."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tubelet.data.joint import LOSSES
from tubelet.train.log import metrics

Card = dict[str, Any]
Lines = Sequence[dict[str, float]]


def card_of(folder: Path) -> Card:
    """What run.json holds; nothing where there is none."""
    found = as_json(folder / "run.json")
    return found if isinstance(found, dict) else {}


def lines_of(folder: Path) -> list[dict[str, float]]:
    """What metrics.jsonl holds; nothing where there is none."""
    return metrics(folder) if (folder / "metrics.jsonl").exists() else []


def notes_of(folder: Path) -> list[str]:
    """What notes.txt holds; nothing where there is none."""
    path = folder / "notes.txt"
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def as_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no file, or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def dig(tree: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path of parsed JSON."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return default if tree is None else tree


def taught(card: Card) -> bool:
    """Whether the run learns labels, of clips or of boxes."""
    return detects(card) or str(dig(card, "run.method.class")).endswith(":Supervised")


def contrasts(card: Card) -> bool:
    """Whether the run learns which clips are of one video."""
    return str(dig(card, "run.method.class")).endswith(":Contrastive")


def comparable(card: Card) -> bool:
    """Whether a loss says how well a run does: not where what it is to predict changes while it learns."""
    latent = str(dig(card, "run.method.class")).endswith(":Latent")
    return not (contrasts(card) or (latent and dig(card, "run.method.momentum") is not None))


def detects(card: Card) -> bool:
    """Whether the run learns what people in boxes do."""
    return str(dig(card, "run.method.class")).endswith(":ActionDetection")


def progress(card: Card, lines: Lines) -> float:
    """Share of the run that is done, as far as can be told."""
    epochs = dig(card, "run.training.epochs")
    return min(lines[-1].get("epoch", 0) / epochs, 1.0) if epochs and lines else float(bool(lines))


def finished(card: Card, lines: Lines) -> bool:
    """Whether less than one step is left."""
    return bool(lines) and progress(card, lines) * (lines[-1]["step"] + 1) > lines[-1]["step"] * (1 + 1e-9)


def steps_of(card: Card, lines: Lines) -> int:
    """How many steps the whole run has; 0: that cannot be told."""
    share = progress(card, lines)
    return int(lines[-1]["step"] / share + 1e-6) if share and dig(card, "run.training.epochs") else 0


def time_left(card: Card, lines: Lines) -> float:
    """Seconds that the rest of a run takes if its steps take as long as the last ones."""
    last = [line["seconds"] for line in lines[-100:]]
    return (steps_of(card, lines) - lines[-1]["step"]) * sum(last) / len(last) if last else 0.0


def ends(lines: Lines) -> tuple[float, float]:
    """The loss at the first step, and its mean over the last 2 % of the steps: one batch says little.

    Where some steps show pictures, that of videos, if there is one yet. Steps whose loss is no number were not learnt
    from, and do not count where there are others.
    """
    lines = [line for line in lines if LOSSES[True] not in line] or lines
    lines = [line for line in lines if math.isfinite(line["loss"])] or lines
    last = [line["loss"] for line in lines[-max(1, len(lines) // 50) :]]
    return lines[0]["loss"], sum(last) / len(last)


def flat(tree: Any, path: str = "") -> list[tuple[str, str]]:
    """Dotted names and values of a config as parsed JSON; a class is shown as the value of its field."""
    if not isinstance(tree, dict):
        return [(path, ", ".join(map(str, tree)) if isinstance(tree, list) else str(tree))]
    own = [(path, str(tree["class"]).split(":")[-1])] if path and "class" in tree else []
    rest = [pair for key, value in tree.items() if key != "class" for pair in flat(value, f"{path}.{key}".lstrip("."))]
    return own + rest
