"""The page of checks: whether chosen videos are fit to train on, as `tubelet check` tells it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from html import escape
from threading import Event
from typing import Any, cast

from tubelet.check_report import page_of
from tubelet.data.check import check
from tubelet.data.findings import Level
from tubelet.data.processes import Stopped
from tubelet.data.sampling import Dense
from tubelet.web.connect import connect
from tubelet.web.looks import heading, readable, said
from tubelet.web.place import Place
from tubelet.web.state import Field, yes

NAME, PATH = "Check", "check"
SENTENCE = "Whether videos are fit to train on: what is broken, too short, or there twice."
FIRST = (20, 100, 500, 2000)  # videos
PATIENCE = 0.5  # seconds from one word on how far it is to the next
LEVELS = {"open": "headers", "demux": "every packet", "decode": "every frame"}


def shown(
    place: Place,
    source: str | None,
    level: str,
    near: bool,
    first: int,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[str, list[str]]:
    """The page of a check of the first so many videos of a source, and what else there is to say.

    Raises:
        FileNotFoundError, ValueError: no such source, or it is gone; choices that the page does not offer.
    """
    if source is None:
        raise ValueError("no videos were chosen: start tubelet serve with --videos DIR, a folder or a list")
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: expected one of {', '.join(LEVELS)}")
    if first not in FIRST:
        raise ValueError(f"the first {first} videos: expected one of {', '.join(map(str, FIRST))}")
    items = place.items(source)
    if not items:
        raise ValueError(f"{source} has no videos that lie in it")
    taken = items[:first]
    report = check(taken, cast(Level, level), Dense(16, stride=4), near=near, progress=progress)
    notes = [f"the first {first} of {len(items)} videos were looked at"] if len(taken) < len(items) else []
    return page_of(report, source), notes


def checked(place: Place, source: str | None, level: str, near: bool, first: int) -> Iterator[str]:
    """How far a check is, and at last its report; it stops when the page that waits for it, or the server, is gone."""
    told, left = ["looking at the first files"], Event()

    def count(done: int, total: int) -> None:
        if left.is_set() or not place.scratch.exists():  # which the server removes at its end
            raise Stopped
        told[0] = f"{done} of {total} files looked at"

    def report() -> str:
        try:
            return framed(*shown(place, source, level, near, first, count))
        except Stopped:
            return ""

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(readable(report))
        try:
            yield said(told)
            while wait([job], PATIENCE).not_done:
                yield said(told)
            yield job.result()
        finally:
            left.set()


# A page within this one says how high it is; it is of no origin, and can do nothing else outside of itself.
TELLS = """<style>main { padding: 12px 0 24px; max-width: none; }
.sheet { width: 100%; margin: 0; transform: none; } .pair p { max-width: none; }</style>
<script>new ResizeObserver(() => parent.postMessage({height: document.documentElement.offsetHeight}, "*"))
.observe(document.documentElement)</script>"""
HEARS = """() => addEventListener("message", event => {
for (const frame of document.querySelectorAll("iframe.report")) if (frame.contentWindow === event.source)
frame.style.height = `${Math.min(Number(event.data.height) || 0, 2e5)}px`; })"""


def framed(page: str, notes: list[str]) -> str:
    """The report within this page."""
    about = 'sandbox="allow-scripts" title="report of the check" class="report"'
    return f'{said(notes)}<iframe {about} srcdoc="{escape(page + TELLS)}"></iframe>'


def page(place: Place, blocks: Any) -> None:
    """The page itself."""
    import gradio as gr

    gr.HTML(heading(NAME, SENTENCE))
    names = [*place.sources()]
    with gr.Row(elem_classes="row"):
        source = gr.Dropdown(names, value=next(iter(names), None), label="Videos", scale=4, elem_id="source")
        first = gr.Dropdown([*FIRST], value=FIRST[1], label="How many at most", scale=1, elem_id="first")
    with gr.Row(elem_classes="row"):
        choices = [(text, name) for name, text in LEVELS.items()]
        level = gr.Radio(choices, value="demux", label="Read", scale=4, elem_id="level")
        near = gr.Checkbox(False, label="Find those that show the same", elem_id="near", elem_classes="tick")

    def draw(source: str | None, level: str, near: bool, first: int) -> Iterator[str]:
        yield from checked(place, source, level, near, first)

    fields = [
        Field("source", choices=lambda: [*place.sources()]),
        Field("level", "demux", choices=lambda: [*LEVELS]),
        Field("near", False, yes),
        Field("first", FIRST[1], int, lambda: FIRST),
    ]
    connect(place, blocks, fields, [source, level, near, first], draw)
    blocks.load(None, js=HEARS)
