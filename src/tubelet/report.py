"""The page that a run leaves behind: report.html, one file that needs no network.

It says what is there and what is missing, so it can be written while a run is under way.
"""

import base64
import json
import math
import re
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from tubelet.charts import curves, inlined
from tubelet.data.joint import LOSSES
from tubelet.page import PAGE
from tubelet.train.checkpoint import atomically, void
from tubelet.train.log import duration, metrics

SMALL = 0.02  # a lead below this share of the scale is called small

# ---------------------------------------------------------------------------- the page


def write_report(folder: Path | str) -> Path:
    """`folder`/report.html, one self-contained page, of what is there of run.json, metrics.jsonl, notes.txt, pictures/.

    And of results.json: a list of {"name", "trained", "untrained", "one_frame", "chance", "unit", "explanation"}; some
    values may be null or left out, "better": "lower" turns the reading round (for errors).

    Raises:
        FileNotFoundError: there is no such folder.
        SaveError: the disk refuses.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such run folder: {folder}")
    card = as_json(folder / "run.json") or {}
    lines = metrics(folder) if (folder / "metrics.jsonl").exists() else []
    results = "".join(read_out(result) for result in as_json(folder / "results.json") or [])
    sections = [  # title, what there is, what to say if there is nothing
        ("What it imagines", imagined(folder), "No pictures yet: pictures/ is empty."),
        ("How it learnt", learned(folder, lines), "No step is done yet."),
        ("What it knows", results and READ_OUT + results, measure(card) if taught(card) else UNREAD),
        ("What was run", settings(card), "No run.json here."),
        ("Notes from the reader", notes(folder), "None: no video had to be repeated, repaired or left out."),
        ("What to do next", commands(what_next(folder, card, lines)), ""),
    ]
    sections = sections[taught(card) :]  # labels are not imagined
    body = "".join(f"<section><h2>{title}</h2>{there or faint(no)}</section>\n" for title, there, no in sections)
    name = escape(folder.resolve().name)
    about = "learned from video without labels"
    page = PAGE.substitute(about=about, title=name, lead=lead(card, lines), tiles=tiles(card, lines), body=body)
    path = folder / "report.html"
    atomically(path, lambda file: void(file.write(page.encode())))
    return path


def as_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no file, or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def faint(text: str) -> str:
    """A paragraph beside the point; `text` is HTML."""
    return f'<p class="faint">{text}</p>'


def dig(tree: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path of parsed JSON."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return default if tree is None else tree


# ---------------------------------------------------------------------------- summary and headline numbers


def taught(card: dict[str, Any]) -> bool:
    """Whether the run learns labels, of clips or of boxes."""
    return detects(card) or str(dig(card, "run.method.class")).endswith(":Supervised")


def detects(card: dict[str, Any]) -> bool:
    """Whether the run learns what people in boxes do."""
    return str(dig(card, "run.method.class")).endswith(":ActionDetection")


def measure(card: dict[str, Any]) -> str:
    """How to test a run that was taught labels."""
    if detects(card):
        return "Measure it on key frames that it was not taught: tubelet test --weights RUN --data BOXES."
    return "Measure it on videos that it was not taught: tubelet test --weights RUN --data LABELLED --views 5x3."


def progress(card: dict[str, Any], lines: Sequence[dict[str, float]]) -> float:
    """Share of the run that is done, as far as can be told."""
    epochs = dig(card, "run.training.epochs")
    return min(lines[-1].get("epoch", 0) / epochs, 1.0) if epochs and lines else float(bool(lines))


def finished(card: dict[str, Any], lines: Sequence[dict[str, float]]) -> bool:
    """Whether less than one step is left."""
    return bool(lines) and progress(card, lines) * (lines[-1]["step"] + 1) > lines[-1]["step"] * (1 + 1e-9)


def ends(lines: Sequence[dict[str, float]]) -> tuple[float, float]:
    """The loss at the first step, and its mean over the last 2 % of the steps: one batch says little.

    Where some steps show pictures, that of videos, as the first step is.
    """
    lines = [line for line in lines if LOSSES[True] not in line]
    last = [line["loss"] for line in lines[-max(1, len(lines) // 50) :]]
    return lines[0]["loss"], sum(last) / len(last)


def lead(card: dict[str, Any], lines: Sequence[dict[str, float]]) -> str:
    """One sentence on what happened, in plain words."""
    data = escape(Path(str(card.get("data", "a folder of videos"))).name)
    ratio = dig(card, "run.method.mask.ratio")
    hid = f" of which {100 * ratio:.3g} % was hidden" if isinstance(ratio, (int, float)) else ""
    if not lines:
        return f"An encoder is to learn from {data} by imagining the hidden part of each clip. No step is done yet."
    clips = sum(line["clips_per_second"] * line["seconds"] for line in lines)
    first, last = ends(lines)
    outcome = "its error fell" if last < 0.98 * first else "its error <strong>did not fall</strong>"
    if len(lines) == 1:
        outcome = "it made its first step, so its error has not had time to fall"
    time = duration(sum(line["seconds"] for line in lines))
    task = "was taught their labels" if taught(card) else "was asked to imagine what it could not see"
    text = f"An encoder watched {number(clips)} clips from <em>{data}</em>{hid}, and {task}. "
    text += f"In {time} {outcome}: {first:.3g} at first, {last:.3g} at last."
    if not finished(card, lines):
        text += f" The run is <strong>not complete</strong>: {100 * progress(card, lines):.0f} % is done."
    return text


def tiles(card: dict[str, Any], lines: Sequence[dict[str, float]]) -> str:
    """The headline numbers."""
    if not lines:
        return ""
    seconds = sum(line["seconds"] for line in lines)
    clips = sum(line["clips_per_second"] * line["seconds"] for line in lines)
    wait = sum(line["data_wait"] * line["seconds"] for line in lines) / seconds
    first, last = ends(lines)
    flat = dig(card, "run.method.target.normalise", "none") != "none"
    values = [
        (
            f"{first:.3g} → {last:.3g}",
            "loss" + " of videos" * (LOSSES[False] in lines[0]) + (" (flat guesses: at most 1)" if flat else ""),
        ),
        (number(lines[-1]["step"]), "steps"),
        (number(clips), "clips seen"),
        (duration(seconds), "of training"),
        (f"{clips / seconds:.3g}", "clips a second"),
        (f"{100 * wait:.0f} %", "of the time waiting for data"),
    ]
    shown = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in values)
    return f'<div class="tiles">{shown}</div>'


def number(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u202f")


# ---------------------------------------------------------------------------- pictures and curves


def imagined(folder: Path) -> str:
    """Every picture of the run; where a GIF and a PNG share a name, the strip folds out under the film."""
    files = sorted(
        (folder / "pictures").glob("*"),
        key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", p.name)],
    )
    shown = ""
    for path in files:
        if path.suffix == ".gif":
            strip = path.with_suffix(".png")
            more = f"<details><summary>frame by frame</summary>{picture(strip)}</details>" if strip.exists() else ""
            shown += f"<figure>{picture(path)}{more}</figure>"
        elif path.suffix == ".png" and path.stem != "curves" and not path.with_suffix(".gif").exists():
            shown += f"<figure>{picture(path)}</figure>"
    return shown


def picture(path: Path) -> str:
    """An image within the page, its caption as the text for those who cannot see it."""
    try:
        with Image.open(path) as image:
            (width, height), info = image.size, image.info
    except OSError:
        return faint(f"{escape(path.name)} cannot be read as a picture.")
    about = info.get("Description") or info.get("comment") or path.stem
    about = escape(about.decode(errors="replace") if isinstance(about, bytes) else str(about))
    data = base64.b64encode(path.read_bytes()).decode()
    kind = "wide" if path.suffix == ".png" else "film"
    return (
        f'<div class="{kind}"><img src="data:image/{path.suffix[1:]};base64,{data}" width="{width}" height="{height}" '
        f'alt="{about}"></div><p class="caption narrow">{about}</p>'
    )


def learned(folder: Path, lines: Sequence[dict[str, float]]) -> str:
    """The curves, in the colours of the page."""
    if not lines:
        return ""
    (folder / "pictures").mkdir(exist_ok=True)
    _, svg = curves(folder, folder / "pictures" / "curves.png")
    text = inlined(svg.read_text(encoding="utf-8"))
    caption = "Faint: every step. Firm: mean over 2 % of the steps."
    return f'<div class="wide curves">{text}</div><p class="caption">{caption}</p>'


# ---------------------------------------------------------------------------- read-outs

BARS = {"trained": "trained", "untrained": "untrained", "one_frame": "one frame", "chance": "guessing"}
UNREAD = "Nothing was read out of this encoder, so what it understands is not known: a low loss alone does not tell."
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


# ---------------------------------------------------------------------------- settings, notes, commands


def settings(card: dict[str, Any]) -> str:
    """What was run, the main facts first and every setting folded away."""
    if not card:
        return ""
    run, made = card.get("run"), card.get("made_with") or {}
    size, patch = ("×".join(map(str, dig(run, key, []))) for key in ("data.size", "encoder.patch"))
    clip = f"{dig(run, 'data.clip.frames', '?')} frames of {size} pixels, stride {dig(run, 'data.clip.stride', '?')}"
    encoder = f"{dig(run, 'encoder.depth', '?')} blocks, {dig(run, 'encoder.width', '?')} wide, cubes of {patch}"
    mask = str(dig(run, "method.mask.class", "?")).split(":")[-1]
    argv = [str(word) for word in card.get("command", [])]
    facts = {
        "data": escape(str(card.get("data", "?"))),
        "command": f"<code>{escape(shlex.join([Path(argv[0]).name, *argv[1:]]))}</code>" if argv else "?",
        "clips": escape(clip),
        "encoder": escape(encoder),
        **({} if taught(card) else {"hidden": escape(f"{mask}, ratio {dig(run, 'method.mask.ratio', '?')}")}),
        "machine": escape(f"{made.get('gpu') or made.get('processor', '?')}, {made.get('cores', '?')} cores"),
        "versions": escape(", ".join(f"{k} {made[k]}" for k in ("tubelet", "torch", "python", "system") if k in made)),
        "started": escape(str(made.get("date", "?")).replace("T", " ")),
    }
    every = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in flat(run))
    return (
        "<table>" + "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in facts.items()) + "</table>"
        f"<details><summary>every setting</summary><table class='small'>{every}</table></details>"
    )


def flat(tree: Any, path: str = "") -> list[tuple[str, str]]:
    """Dotted names and values of a config as parsed JSON; a class is shown as the value of its field."""
    if not isinstance(tree, dict):
        return [(path, ", ".join(map(str, tree)) if isinstance(tree, list) else str(tree))]
    own = [(path, str(tree["class"]).split(":")[-1])] if path and "class" in tree else []
    rest = [pair for key, value in tree.items() if key != "class" for pair in flat(value, f"{path}.{key}".lstrip("."))]
    return own + rest


def notes(folder: Path) -> str:
    """What the reader had to do, folded away where it is much."""
    path = folder / "notes.txt"
    said = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    items = "".join(f"<li>{escape(line)}</li>" for line in said)
    if len(said) > 12:
        return f"<details><summary>{len(said)} notes</summary><ul>{items}</ul></details>"
    return items and f"<ul>{items}</ul>"


def what_next(folder: Path, card: dict[str, Any], lines: Sequence[dict[str, float]]) -> list[tuple[str, str]]:
    """Commands that make sense after this run, with what they do."""
    at, argv = shlex.quote(str(folder)), [str(word) for word in card.get("command", [])]
    steps = []
    if argv and not finished(card, lines):
        again = [Path(argv[0]).name, *(word for word in argv[1:] if word != "--resume"), "--resume"]
        steps.append(("Go on where it stopped", shlex.join(again)))
    if lines and taught(card):
        verb = "detect" if detects(card) else "predict"
        steps.append(("See what it says about a video of yours", f"tubelet {verb} my_video.mp4 --weights {at}"))
    elif lines:
        look = f"tubelet picture reconstruction --weights {at} --data my_video.mp4"
        steps.append(("See what it imagines of a video of yours", look))
    if card and not taught(card):
        steps.append(("Train the same on other videos", f"tubelet pretrain {at}/run.json --data my_videos/"))
    return steps or [("Train on your own videos", "tubelet pretrain videomae-small-cpu --data my_videos/")]


def commands(steps: Sequence[tuple[str, str]]) -> str:
    """Commands to copy: one click selects a whole one."""
    return "".join(f"<p>{escape(what)}</p><pre><code>{escape(command)}</code></pre>" for what, command in steps)
