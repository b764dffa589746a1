"""What a check of data found, for people: in a terminal, and as one page that needs no network."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tubelet.charts import histograms
from tubelet.data.check_boxes import BoxReport, plural
from tubelet.data.findings import FEW, Report, Row, length
from tubelet.data.video import VideoError, frames_at, probe
from tubelet.page import PAGE
from tubelet.printable import printable
from tubelet.train.checkpoint import atomically, void

SHOWN = 20  # rows of a terminal's tables
BARS = 15
LISTED = 5000  # rows of a page's; more would keep a browser busy for long
PAIRS = 24  # with pictures

# ---------------------------------------------------------------------------- in a terminal


def render(report: Report, boxes: BoxReport | None = None) -> RenderableType:
    """The facts, then what is wrong; long names are broken over lines, and nothing of them is cut off."""
    parts: list[RenderableType] = [Text(report.headline(), style="bold"), grid(report.facts())]
    rows: list[tuple[str, str, str]] = [
        (told[0][0], report.rows[number].path, "; ".join(text for _, text in told))
        for number, told in report.found.items()
    ]
    if boxes is not None:
        parts += ["", Text(boxes.headline(), style="bold"), grid(boxes.facts()), *barred(boxes.classes)]
        rows += [(one.kind, f"{one.path} at {one.seconds:g} s", one.text) for one in boxes.found]
    if rows:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("problem", style="red", no_wrap=True)
        table.add_column("video", overflow="fold", ratio=2)
        table.add_column("why", overflow="fold", ratio=3)
        table.expand = True
        for kind, path, why in rows[:SHOWN]:
            table.add_row(kind, Text(path), Text(why))
        parts += ["", table]
        if len(rows) > SHOWN:
            parts.append(Text(f"and {len(rows) - SHOWN} more: --json, --html, or to a pipe", style="dim"))
    said = [f"problems: {report.verdict()}"] if report.found else []
    said += [f"problems of boxes: {boxes.verdict()}"] if boxes and boxes.found else []
    return Group(*parts, "", Text("\n".join(said or ["no problems"]), style=f"bold {'red' if said else 'green'}"))


def grid(facts: Sequence[tuple[str, str]]) -> Table:
    """Names and what is said of each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, Text(text))
    return table


def barred(counts: dict[str, int]) -> list[RenderableType]:
    """Counts as bars: of many the first and the last."""
    names = list(counts)
    names = names if len(names) <= BARS else names[: BARS - 3] + names[-3:]
    if not any(counts.values()):
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", max_width=34, no_wrap=True, overflow="ellipsis")
    table.add_column(width=24)
    table.add_column(justify="right")
    most = max(counts.values())
    for place, name in enumerate(names):
        if len(names) < len(counts) and place == BARS - 3:
            table.add_row(f"... {len(counts) - BARS} more", "", "")
        length = 24 * counts[name] / most
        bar = "█" * int(length) + " ▏▎▍▌▋▊▉"[int(length % 1 * 8)].strip()
        table.add_row(
            Text(printable(name, lines=False)), Text(bar or "▏" * bool(counts[name]), style="cyan"), f"{counts[name]:,}"
        )
    return ["", table]


# ---------------------------------------------------------------------------- the page


def write_page(
    report: Report, source: str, out: Path, boxes: BoxReport | None = None, sheet: Path | None = None
) -> Path:
    """`out`, the page of `page_of`.

    Raises:
        SaveError: the disk refuses.
    """
    page = page_of(report, source, boxes, sheet)
    atomically(out, lambda file: void(file.write(page.encode(errors="backslashreplace"))))
    return out


def page_of(report: Report, source: str, boxes: BoxReport | None = None, sheet: Path | None = None) -> str:
    """One self-contained page: problems first, then what is alike, classes, distributions, and every file.

    With boxes, also what there is of them, and their sheet.
    """
    sections = [
        ("What is wrong", wrong(report)),
        ("Boxes", "" if boxes is None else of_boxes(boxes, sheet)),
        ("What shows the same", alike(report)),
        ("What there is", facts(report) + distributions(report)),
        ("Classes", classes(report)),
        ("Every video", every(report)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{there}</section>\n" for title, there in sections if there)
    lead = f"{escape(report.headline())}. " + (
        f"{len(report.found)} of them should not be trained on as they are." if report.found else "Nothing is wrong."
    )
    if boxes is not None:
        trouble = plural(len(boxes.found), "problem") if boxes.found else "no problems"
        lead = lead.replace("Nothing is wrong.", "Nothing is wrong with them.") + f" {boxes.headline()}: {trouble}."
    return PAGE.substitute(
        about="check of data", title=escape(source), lead=lead, tiles=tiles(report), body=body + SORT
    )


def tiles(report: Report) -> str:
    """The headline numbers."""
    seconds = sum(row.duration for row in report.rows if row.codec)
    values = [
        (f"{len(report.rows):,}", "videos"),
        (length(seconds), "in all"),
        (f"{len(report.found):,}", "with problems"),
        (f"{report.totals()['duplicates']:,}", "copies, bit for bit"),
        ("not looked for" if report.near is None else f"{len(report.near):,}", "pairs that show the same"),
        (f"{len(report.classes()):,}", "classes"),
    ]
    shown = "".join(f"<div><b>{escape(value)}</b><span>{label}</span></div>" for value, label in values)
    return f'<div class="tiles">{shown}</div>'


def wrong(report: Report) -> str:
    """What is wrong, the videos sorted by kind."""
    if not report.found:
        return '<p class="faint">Nothing.</p>'
    told = [(kinds, report.rows[number].path) for number, kinds in report.found.items()]
    told.sort(key=lambda pair: pair[0][0][0])
    rows = [[kinds[0][0], path, "; ".join(text for _, text in kinds)] for kinds, path in told]
    summary = f"<p>{escape(report.verdict())}. <code>--fix clean.csv</code> writes a list without them.</p>"
    return summary + listed(["problem", "video", "why"], rows)


def facts(report: Report) -> str:
    """What there is to say of all together."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in report.facts())
    return f"<table>{rows}</table>"


def alike(report: Report) -> str:
    """Copies beside each other."""
    pairs = [(group[0], other, "the same bytes") for group in report.duplicates for other in group[1:]]
    pairs += [(pair.path, pair.other, pair.how()) for pair in report.near or ()]
    pairs += [(leak.path, leak.other, f"leak: {leak.why}") for leak in report.leaks or ()]
    shown = "".join(
        f'<div class="pair"><p>{escape(how)}</p>{thumbnail(one)}{thumbnail(other)}</div>'
        for one, other, how in pairs[:PAIRS]
    )
    more = f'<p class="faint">And {len(pairs) - PAIRS:,} more pairs.</p>' if len(pairs) > PAIRS else ""
    return shown + more


def thumbnail(path: str) -> str:
    """The middle of a video, small, and its name."""
    picture = ""
    try:
        video = probe(path)
        frame = frames_at(video, [video.frames // 2], size=(round(180 * video.height / video.width) or 1, 180)).frames[
            0
        ]
    except (VideoError, OSError):
        pass
    else:
        data = BytesIO()
        Image.fromarray(frame.numpy()).save(data, "JPEG", quality=80)
        picture = f'<img alt="" src="data:image/jpeg;base64,{encoded(data)}">'
    return f"<figure>{picture}{escape(path)}</figure>"


DISTRIBUTIONS = {
    "seconds": lambda row: row.duration,
    "frames a second": lambda row: row.fps,
    "short side (pixels)": lambda row: min(row.width, row.height),
    "frames between key frames": lambda row: row.key_median,
    "frames decoded for a clip": lambda row: row.decoded,
    "megabytes": lambda row: row.bytes / 1e6,
}


def distributions(report: Report) -> str:
    """How lengths, rates, sizes and costs are distributed."""
    good = [row for row in report.rows if row.codec]
    known = {name: [value for row in good if (value := float(of(row)))] for name, of in DISTRIBUTIONS.items()}
    known = {name: values for name, values in known.items() if values}
    return f'<div class="wide curves">{histograms(known)}</div>' if known else ""


def classes(report: Report) -> str:
    """Videos of each class as bars: all, or the largest and the smallest."""
    counts = report.classes()
    if not counts:
        return ""
    total = report.totals()
    text = f"The largest class has {total['imbalance']:.3g} times the videos of the smallest."
    text += f" {total['unlabelled']:,} videos have no label." if total["unlabelled"] else ""
    text += f" Grey: fewer than {FEW} videos." if total["small_classes"] else ""
    return f"<p>{text}</p>{bars(counts)}"


def bars(counts: dict[str, int]) -> str:
    """Counts of classes as bars: all, or the largest and the smallest."""
    most, names = max(counts.values()), list(counts)
    names = names if len(names) <= 60 else names[:30] + names[-30:]
    shown = "".join(
        f'<dt>{escape(name)}</dt><dd class="{"trained" if counts[name] >= FEW else "few"}">'
        f'<i style="width:{100 * counts[name] / max(most, 1):.1f}%"></i><b>{counts[name]:,}</b></dd>'
        for name in names
    )
    text = f"<p>{len(counts):,} classes; the 30 largest and the 30 smallest are shown.</p>" if len(counts) > 60 else ""
    return f"{text}<dl>{shown}</dl>"


def of_boxes(report: BoxReport, sheet: Path | None) -> str:
    """What there is of boxes, what is wrong with them, and how some of them look."""
    rows = [[one.kind, one.path, f"{one.seconds:g}", one.text] for one in report.found[:LISTED]]
    trouble = f"<p>{escape(report.verdict())}.</p>" + listed(["problem", "video", "second", "why"], rows)
    picture = ""
    if sheet is not None:
        data = BytesIO()
        Image.open(sheet).save(data, "JPEG", quality=88)
        about = "Key frames with their boxes, labels and people"
        picture = f'<div class="sheet"><img alt="{about}" src="data:image/jpeg;base64,{encoded(data)}"></div>'
    known = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in report.facts())
    return (
        (trouble if rows else "")
        + f"<table>{known}</table>{picture}"
        + (bars(report.classes) if report.classes else "")
    )


def encoded(data: BytesIO) -> str:
    """Bytes as a page holds them."""
    return base64.b64encode(data.getvalue()).decode()


def every(report: Report) -> str:
    """A row for each video, those with problems first."""
    order = sorted(range(len(report.rows)), key=lambda number: number not in report.found)
    names = ["video", "problem", "label", "codec", "size", "turned", "fps", "frames", "seconds", "key frames"]
    names += ["frames a clip", "× prepared", "ms a clip", "vectors", "MB"]
    rows = [cells(report.rows[number], report.found.get(number, [("", "")])[0][0]) for number in order[:LISTED]]
    more = f'<p class="faint">{len(order) - LISTED:,} more are in --json.</p>' if len(order) > LISTED else ""
    return listed(names, rows, len(report.found)) + more


def cells(row: Row, kind: str) -> list[str]:
    """What is known of a video, in the columns of the page."""
    rate = f"{row.fps:.4g}" + " varying" * row.variable if row.fps else ""
    numbers = [row.frames, row.duration, row.key_median, row.decoded, row.times, row.milliseconds]
    frames, seconds, keys, decoded, times, spent = (f"{value:.4g}" if value else "" for value in numbers)
    size, turned = (f"{row.width}x{row.height}" if row.width else ""), f"{row.rotation}°" if row.rotation else ""
    known = [row.codec, size, turned, rate, frames, seconds, keys, decoded, times, spent]
    return [row.path, kind, row.label or "", *known, "yes" if row.vectors else "no", f"{row.bytes / 1e6:.3g}"]


def listed(names: Sequence[str], rows: Sequence[Sequence[str]], bad: int = 0) -> str:
    """A table that is sorted by the column that is clicked; the first `bad` rows stand out."""
    head = "".join(f'<th tabindex="0">{escape(name)}</th>' for name in names)
    body = "".join(
        f"<tr{' class=bad' * (place < bad)}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for place, row in enumerate(rows)
    )
    return f'<div class="sheet"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


SORT = """<script>
for (const head of document.querySelectorAll(".sheet thead th")) {
  const sort = () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex, down = head.dataset.down !== "1";
    const order = new Intl.Collator(undefined, {numeric: true});
    const text = row => row.cells[at].textContent;
    const number = row => text(row) === "" ? NaN : Number(text(row).replace("°", ""));
    const rows = [...body.rows];
    const all = rows.every(row => text(row) === "" || !isNaN(number(row)));
    rows.sort((a, b) => (text(a) === "") - (text(b) === "") ||
      (down ? 1 : -1) * (all ? number(a) - number(b) : order.compare(text(a), text(b))));
    head.dataset.down = down ? "1" : "0";
    body.append(...rows);
  };
  head.onclick = sort;
  head.onkeydown = event => { if (event.key === "Enter") sort(); };
}
</script>
"""
