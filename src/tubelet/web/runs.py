"""The page of runs: their curves in one picture, what they were told, what they imagine; live while they train."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tubelet.charts import drawing
from tubelet.report import lead, picture
from tubelet.report_facts import card_of, flat, lines_of
from tubelet.web.connect import connect
from tubelet.web.looks import heading, problem, readable, said
from tubelet.web.place import Place, inside
from tubelet.web.state import Field

NAME, PATH = "Runs", "runs"
SENTENCE = "How runs learnt, side by side: their curves, what they were told otherwise, and what they imagine."
MOST, FIRST = 6, 2  # runs at once; those that are shown before any are chosen
SECONDS = 10  # between two looks at a run that trains
Folders = Mapping[str, Path]


def curves(runs: Folders) -> str:
    """The curves of runs in one picture, and a sentence on each."""
    cards = {name: card_of(folder) for name, folder in runs.items()}
    steps = {name: lines_of(folder) for name, folder in runs.items()}
    some = {name: lines for name, lines in steps.items() if lines}
    chart = f'<div class="wide"><div class="curves">{drawing(some)}</div></div>' if some else ""
    whole = {name: f"<p>{lead(cards[name], steps[name])}</p>" for name in runs if "run" in cards[name]}
    broken = said(["its run.json cannot be read, or is of something else"])
    about = "".join(f"<h3>{escape(name)}</h3>{whole.get(name, broken)}" for name in runs)
    caption = '<p class="caption">Faint: every step. Firm: mean over 2 % of the steps.</p>' if some else ""
    return f'<div class="shown">{chart}{caption}{about}</div>'


def stamp(runs: Folders) -> str:
    """Another text as soon as one of the runs has done a step."""
    files = [folder / "metrics.jsonl" for folder in runs.values()]
    return json.dumps([[str(file), file.stat().st_size if file.exists() else 0] for file in files])


def settings(runs: Folders) -> str:
    """A table of what differs between runs, and one of everything, folded away."""
    cards = [card_of(folder) for folder in runs.values()]
    told = [
        dict(flat(card.get("run", {}))) | {"data": str(card.get("data", "?"))} | machine(card.get("made_with") or {})
        for card in cards
    ]
    names = dict.fromkeys(name for each in told for name in each)
    rows = {name: [each.get(name, "-") for each in told] for name in names}
    differ = {name: values for name, values in rows.items() if len({*map(number, values)}) > 1}
    text = ""
    if len(runs) > 1:
        text = "<h3>What differs</h3>" + (table(runs, differ) if differ else said(["nothing but what came of it"]))
    every = f"<details><summary>every setting</summary>{table(runs, rows)}</details>"
    return f'<div class="shown">{text}{every}</div>'


def number(text: str) -> float | str:
    """What a setting says, 14 and 14.0 alike."""
    try:
        return float(text)
    except ValueError:
        return text


def machine(made: Mapping[str, Any]) -> dict[str, str]:
    """Where and with what a run was made."""
    return {f"made with: {name}": str(value) for name, value in made.items() if value is not None}


def table(runs: Folders, rows: Mapping[str, Sequence[str]]) -> str:
    """Settings below each other, runs side by side."""
    head = "".join(f"<th>{escape(name)}</th>" for name in runs)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows.items()
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'


def pictures(runs: Folders) -> str:
    """The moving pictures of runs by name, those of the same name below each other; the first name open."""
    files: dict[str, list[tuple[str, Path]]] = {}
    for name, folder in runs.items():
        for file in sorted((folder / "pictures").glob("*.gif")):
            if inside(file, folder):  # a link may lead anywhere
                files.setdefault(file.stem, []).append((name, file))
    folds = ""
    for stem in sorted(files, key=lambda stem: (-len(files[stem]), stem)):
        shown = "".join(f"<h3>{escape(name)}</h3>{picture(file)}" for name, file in files[stem])
        folds += f"<details{' open' * (not folds)}><summary>{escape(stem.replace('_', ' '))}</summary>{shown}</details>"
    return f'<div class="shown">{folds or said(["no pictures yet: a run makes them at its end"])}</div>'


def page(place: Place, blocks: Any) -> None:
    """The page itself."""
    import gradio as gr

    gr.HTML(heading(NAME, SENTENCE))
    names = [*place.run_folders()]
    first = names[:FIRST]
    chosen = gr.Dropdown(names, value=first, label="Runs", multiselect=True, max_choices=MOST, elem_id="runs")
    stamped, timer = gr.State(""), gr.Timer(SECONDS)

    def folders(names: Sequence[str] | None) -> Folders:
        if not place.run_folders():
            raise ValueError(place.without_runs())
        if not names:
            raise ValueError("choose a run, or several")
        if len(names) > MOST:
            raise ValueError(f"{len(names)} runs at once; at most {MOST} can be told apart")
        return {name: place.run(name) for name in names}

    @readable
    def draw(names: Sequence[str] | None) -> str:
        return curves(folders(names))

    @readable
    def more(names: Sequence[str] | None) -> str:
        return "" if not names else settings(folders(names)) + pictures(folders(names))

    def look(names: Sequence[str] | None, before: str) -> tuple[Any, str]:
        try:
            there = folders(names)
            after = stamp(there)
            return gr.skip() if after == before else curves(there), after
        except (ValueError, OSError) as error:
            return problem(str(error)), ""

    fields = [Field("run", first, choices=place.run_folders)]
    drawn = connect(place, blocks, fields, [chosen], draw)
    rest = gr.HTML(elem_id="rest")
    chosen.change(more, chosen, rest, api_visibility="private", show_progress="hidden")
    blocks.load(more, chosen, rest, api_visibility="private", show_progress="hidden")
    timer.tick(look, [chosen, stamped], [drawn, stamped], api_visibility="private", show_progress="hidden")
