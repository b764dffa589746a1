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
from tubelet.data.findings import FEW, Report, Row, length
from tubelet.data.video import VideoError, frames_at, probe
from tubelet.page import PAGE
from tubelet.train.checkpoint import atomically, void

SHOWN = 20  # rows of a terminal's tables
LISTED = 5000  # rows of a page's; more would keep a browser busy for long
PAIRS = 24  # with pictures

# ---------------------------------------------------------------------------- in a terminal


def render(report: Report) -> RenderableType:
    """The facts, then what is wrong; long names are broken over lines, and nothing of them is cut off."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in report.facts():
        facts.add_row(name, Text(text))
    colour = "bold red" if report.found else "bold green"
    parts: list[RenderableType] = [Text(report.headline(), style="bold"), facts]
    if report.found:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("problem", style="red", no_wrap=True)
        table.add_column("video", overflow="fold", ratio=2)
        table.add_column("why", overflow="fold", ratio=3)
        table.expand = True
        for number, told in list(report.found.items())[:SHOWN]:
            table.add_row(told[0][0], Text(report.rows[number].path), Text("; ".join(text for _, text in told)))
        parts += ["", table]
        if len(report.found) > SHOWN:
            parts.append(Text(f"and {len(report.found) - SHOWN} more: --json, --html, or to a pipe", style="dim"))
    verdict = f"problems: {report.verdict()}" if report.found else "no problems"
    return Group(*parts, "", Text(verdict, style=colour))


# ---------------------------------------------------------------------------- the page


def write_page(report: Report, source: str, out: Path) -> Path:
    """`out`, one self-contained page: problems first, then what is alike, classes, distributions, and every file.

    Raises:
        SaveError: the disk refuses.
    """
    sections = [
        ("What is wrong", wrong(report)),
        ("What shows the same", alike(report)),
        ("What there is", facts(report) + distributions(report)),
        ("Classes", classes(report)),
        ("Every video", every(report)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{there}</section>\n" for title, there in sections if there)
    lead = f"{escape(report.headline())}. " + (
        f"{len(report.found)} of them should not be trained on as they are." if report.found else "Nothing is wrong."
    )
    page = PAGE.substitute(
        about="check of data", title=escape(source), lead=lead, tiles=tiles(report), body=body + SORT
    )
    atomically(out, lambda file: void(file.write(page.encode(errors="backslashreplace"))))
    return out


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
    return summary + sheet(["problem", "video", "why"], rows)


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
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
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
    most, names = max(counts.values()), list(counts)
    names = names if len(names) <= 60 else names[:30] + names[-30:]
    bars = "".join(
        f'<dt>{escape(name)}</dt><dd class="{"trained" if counts[name] >= FEW else "few"}">'
        f'<i style="width:{100 * counts[name] / most:.1f}%"></i><b>{counts[name]:,}</b></dd>'
        for name in names
    )
    total = report.totals()
    text = f"The largest class has {total['imbalance']:.3g} times the videos of the smallest."
    text += f" {total['unlabelled']:,} videos have no label." if total["unlabelled"] else ""
    text += f" Grey: fewer than {FEW} videos." if total["small_classes"] else ""
    text += f" {len(counts):,} classes; the 30 largest and the 30 smallest are shown." if len(counts) > 60 else ""
    return f"<p>{text}</p><dl>{bars}</dl>"


def every(report: Report) -> str:
    """A row for each video, those with problems first."""
    order = sorted(range(len(report.rows)), key=lambda number: number not in report.found)
    names = ["video", "problem", "label", "codec", "size", "turned", "fps", "frames", "seconds", "key frames"]
    names += ["frames a clip", "× prepared", "ms a clip", "vectors", "MB"]
    rows = [cells(report.rows[number], report.found.get(number, [("", "")])[0][0]) for number in order[:LISTED]]
    more = f'<p class="faint">{len(order) - LISTED:,} more are in --json.</p>' if len(order) > LISTED else ""
    return sheet(names, rows, len(report.found)) + more


def cells(row: Row, kind: str) -> list[str]:
    """What is known of a video, in the columns of the page."""
    rate = f"{row.fps:.4g}" + " varying" * row.variable if row.fps else ""
    numbers = [row.frames, row.duration, row.key_median, row.decoded, row.times, row.milliseconds]
    frames, seconds, keys, decoded, times, spent = (f"{value:.4g}" if value else "" for value in numbers)
    size, turned = (f"{row.width}x{row.height}" if row.width else ""), f"{row.rotation}°" if row.rotation else ""
    known = [row.codec, size, turned, rate, frames, seconds, keys, decoded, times, spent]
    return [row.path, kind, row.label or "", *known, "yes" if row.vectors else "no", f"{row.bytes / 1e6:.3g}"]


def sheet(names: Sequence[str], rows: Sequence[Sequence[str]], bad: int = 0) -> str:
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
