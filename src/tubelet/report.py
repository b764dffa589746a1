"""The page that a run leaves behind: report.html, one file that needs no network.

It says what is there and what is missing, so it can be written while a run is under way.
"""

import base64
import re
import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape, unescape
from pathlib import Path

from PIL import Image

from tubelet.charts import curves, drawing, inlined
from tubelet.data.joint import LOSSES
from tubelet.data.lists import LISTS
from tubelet.page import PAGE, REFRESH, coded
from tubelet.report_facts import (
    Card,
    Lines,
    card_of,
    comparable,
    contrasts,
    detects,
    dig,
    ends,
    finished,
    flat,
    lines_of,
    notes_of,
    progress,
    steps_of,
    taught,
    time_left,
)
from tubelet.report_results import READ_OUT, TESTED, Measured, article, home, keep, results_of
from tubelet.report_warnings import Doubt, doubts
from tubelet.train.checkpoint import atomically, void
from tubelet.train.folder import in_use
from tubelet.train.log import duration, say

UNREAD = "Nothing was read out of this encoder, so what it understands is not known: a low loss alone does not tell."

# ---------------------------------------------------------------------------- the page


def write_report(folder: Path | str, again: float | None = None) -> Path:
    """`folder`/report.html, one self-contained page, of what is there of run.json, metrics.jsonl, notes.txt, pictures/,
    results.json (`report_results` says what is in there).

    `again` seconds later it will be written again, while the run trains: then it refreshes itself, and draws its curves
    without keeping them as pictures.

    Raises:
        FileNotFoundError: there is no such folder.
        SaveError: the disk refuses.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such run folder: {folder}")
    card, lines, notes, results = card_of(folder), lines_of(folder), notes_of(folder), results_of(folder)
    live = again is not None and not finished(card, lines)
    wrong = doubts(card, lines, notes, bool(results) or validated(lines), live)
    read = "".join(map(article, results))
    explained = READ_OUT if any("numbers" not in one for one in results) else ""
    explained += TESTED if any("numbers" in one for one in results) else ""
    sections = [  # title, what there is, what to say if there is nothing
        ("What it imagines", imagined(folder), "No pictures yet: pictures/ is empty."),
        ("What it imagined on the way", on_the_way(folder, lines), ""),
        ("How it learnt", learned(folder, lines, live), "No step is done yet."),
        ("What it knows", read and explained + read, measure(card) if taught(card) else UNREAD),
        ("What was run", settings(card), "No run.json here."),
        ("Notes", listed(notes), "None: no video had to be repeated, repaired or left out."),
        ("What to do next", commands(what_next(folder, card, lines, live)), ""),
    ]
    sections = sections[taught(card) :]  # labels are not imagined
    body = warned(wrong, folder) + "".join(
        f"<section><h2>{title}</h2>{there or faint(no)}</section>\n" for title, there, no in sections if there or no
    )
    path = folder / "report.html"
    text = PAGE.substitute(
        about="taught with labelled video" if taught(card) else "learned from video without labels",
        title=escape(folder.resolve().name),
        lead=lead(card, lines, live),
        tiles=(status(card, lines, again) if live else "") + tiles(card, lines),
        body=body + faint(f"Written {datetime.now():%Y-%m-%d %H:%M:%S}."),
    )
    atomically(path, lambda file: void(file.write(text.encode())))
    return path


def add_result(weights: Path, found: Measured) -> None:
    """Keeps a test in the folder of its run, if it has one, and has the page show it; says where it cannot."""
    if (folder := home(weights)) is None:
        return
    try:
        keep(folder, weights, found)
        if not in_use(folder):  # or what trains there writes it
            write_report(folder)
    except Exception as error:  # the numbers are known and in their own file already
        say(f"note: the report of {folder} does not show this test: {error}")


def faint(text: str) -> str:
    """A paragraph beside the point; `text` is HTML."""
    return f'<p class="faint">{text}</p>'


# ---------------------------------------------------------------------------- summary and headline numbers


def measure(card: Card) -> str:
    """How to test a run that was taught labels."""
    if detects(card):
        return "Measure it on key frames that it was not taught: tubelet test --weights RUN --data BOXES."
    return "Measure it on videos that it was not taught: tubelet test --weights RUN --data LABELLED --views 5x3."


def validated(lines: Lines) -> bool:
    """Whether the run was measured on validation data while it trained."""
    return any(name.startswith("validation_") for line in lines for name in line)


def status(card: Card, lines: Lines, again: float | None) -> str:
    """How far a run under way is, when that was, and when there will be more."""
    now, steps = datetime.now(), steps_of(card, lines)
    left = f"about {duration(time_left(card, lines))} left" if lines else "its first step is not done"
    text = f"Training: step {number(lines[-1]['step'])} of {number(steps)}, {left}." if lines else f"Training: {left}."
    until = now + timedelta(seconds=2 * (again or 0) + 60)
    return REFRESH.substitute(
        text=text,
        at=f"{now:%Y-%m-%d %H:%M:%S}",
        until=f"{until.timestamp():.0f}",
        every=f"{max(0.5 * (again or 0), 1):g}",
    )


def warned(found: Sequence[Doubt], folder: Path) -> str:
    """What to look at before the run is believed."""
    at = shlex.quote(str(folder))

    def marked(text: str) -> str:
        return re.sub(r"`([^`]*)`", lambda found: coded(unescape(found[1])), escape(text))

    items = "".join(f"<li><p>{marked(one.says)}</p><p>{marked(one.do.replace('RUN', at))}</p></li>" for one in found)
    return items and f'<section class="doubts"><h2>Warnings</h2><ul>{items}</ul></section>\n'


def lead(card: Card, lines: Lines, live: bool = False) -> str:
    """One sentence on what happened, in plain words."""
    data = escape(Path(str(card.get("data", "a folder of videos"))).name)
    ratio = dig(card, "run.method.mask.ratio")
    hid = f" of which {100 * ratio:.3g} % was hidden" if isinstance(ratio, (int, float)) else ""
    if not lines:
        return f"An encoder is to learn from {data}. No step is done yet."
    clips = sum(line["clips_per_second"] * line["seconds"] for line in lines)
    first, last = ends(lines)
    outcome = "its error fell" if last < 0.98 * first else "its error <strong>did not fall</strong>"
    if not comparable(card):
        outcome = "its loss, which need not fall since what it is to predict changes, was"
    if len(lines) == 1:
        outcome = "it made its first step, so its error has not had time to fall"
    time = duration(sum(line["seconds"] for line in lines))
    task = "was asked to imagine what it could not see"
    if taught(card):
        task = "was taught their labels"
    elif contrasts(card):
        task = "was asked which of them are of one video"
    text = f"An encoder watched {number(clips)} clips from <em>{data}</em>{hid}, and {task}. "
    text += f"In {time} {outcome}: {first:.3g} at first, {last:.3g} at last."
    if not live and not finished(card, lines):
        text += f" The run is <strong>not complete</strong>: {100 * progress(card, lines):.0f} % is done."
    return text


def tiles(card: Card, lines: Lines) -> str:
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
        elif path.suffix == ".png" and not path.stem.startswith("curves") and not path.with_suffix(".gif").exists():
            shown += f"<figure>{picture(path)}</figure>"
    return shown


def picture(path: Path) -> str:
    """An image within the page, with its caption for those who see it too small to read it there."""
    kind, about = "wide" if path.suffix == ".png" else "film", escape(told(path))
    return f'<div class="{kind}">{embedded(path)}</div><p class="caption narrow">{about}</p>'


def embedded(path: Path) -> str:
    """An image within the page, its caption as the text for those who cannot see it."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError:
        return faint(f"{escape(path.name)} cannot be read as a picture.")
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<img src="data:image/{path.suffix[1:]};base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(told(path))}">'
    )


def told(path: Path) -> str:
    """The caption that is kept in a picture, or its name."""
    try:
        with Image.open(path) as image:
            about = image.info.get("Description") or image.info.get("comment") or path.stem
    except OSError:
        return path.stem
    return about.decode(errors="replace") if isinstance(about, bytes) else str(about)


def on_the_way(folder: Path, lines: Lines) -> str:
    """The same clips as the run imagined them after more and more steps."""
    there = folder / "pictures" / "on_the_way"
    done = int(lines[-1]["step"]) if lines else 0
    later = sorted((int(path.stem), path) for path in there.glob("*.png") if path.stem.isdigit())
    later = [(step, path) for step, path in later if step <= done]  # a run that was killed goes on from before
    if not later:
        return ""
    still = sorted((path for path in there.glob("*.png") if not path.stem.isdigit()), key=lambda path: path.stem)
    rows = "".join(
        f"<figure><figcaption>{escape(told(path)).replace(': ', '<br>')}</figcaption>{embedded(path)}</figure>"
        for path in [*still, *(path for _, path in later)]
    )
    caption = "The same clips with the same part hidden, a few frames of each; what was visible is shown as it was."
    return f'<div class="way">{rows}</div><p class="caption">{caption}</p>'


def learned(folder: Path, lines: Lines, live: bool) -> str:
    """The curves, in the colours of the page."""
    if not lines:
        return ""
    if live:
        drawn = drawing({"": lines})
    else:
        _, svg = curves(folder, folder / "pictures" / "curves.png")
        drawn = inlined(svg.read_text(encoding="utf-8"))
    caption = "Faint: every step. Firm: mean over 2 % of the steps."
    return f'<div class="wide curves">{drawn}</div><p class="caption">{caption}</p>'


# ---------------------------------------------------------------------------- settings, notes, commands


def settings(card: Card) -> str:
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
        "data": escape(data_of(card)),
        "command": coded(shlex.join([Path(argv[0]).name, *argv[1:]])) if argv else "?",
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


def data_of(card: Card) -> str:
    """What it was trained on: where that is, what it is, how many videos and clips, which labels."""
    source = str(card.get("data", "?"))
    kind = "" if ":" in source else "list" if Path(source).suffix in LISTS else "file or folder"
    if Path(source).is_dir():
        kind = "folder"
    found, per = card.get("fingerprint") or {}, dig(card, "run.data.clips", 1) * dig(card, "run.data.repeats", 1)
    videos, places = found.get("videos"), found.get("places")
    counted = f"{number(videos)} videos, {number(places * per)} clips an epoch" if videos and places else ""
    pictures = dig(card, "fingerprint.pictures.videos")
    names = dig(card, "run.data.labels.names", [])
    labels = f"{len(names)} labels: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "no labels"
    more = f"{number(pictures)} pictures" if pictures else ""
    return " · ".join(filter(None, (source, kind, counted, more, labels)))


def listed(said: Sequence[str]) -> str:
    """What the reader had to do, folded away where it is much."""
    items = "".join(f"<li>{escape(line)}</li>" for line in said)
    if len(said) > 12:
        return f"<details><summary>{len(said)} notes</summary><ul>{items}</ul></details>"
    return items and f"<ul>{items}</ul>"


def what_next(folder: Path, card: Card, lines: Lines, live: bool = False) -> list[tuple[str, str]]:
    """Commands that make sense after this run, with what they do."""
    at, argv = shlex.quote(str(folder)), [str(word) for word in card.get("command", [])]
    steps = []
    if argv and not live and not finished(card, lines):
        again = shlex.join(["tubelet", *(word for word in argv[1:] if word != "--resume"), "--resume"])
        if Path(argv[0]).stem not in ("tubelet", "__main__"):  # a program of the user's, which has flags of its own
            act = "pretrain" if not taught(card) else "detection.finetune_on_boxes" if detects(card) else "finetune"
            again = f"tubelet.{act}(run, {card.get('data')!r}, {str(folder)!r}, resume=True)"
        steps.append(("Go on where it stopped", again))
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
    return "".join(f"<p>{escape(what)}</p><pre>{coded(command)}</pre>" for what, command in steps)
