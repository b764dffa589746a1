"""The frame of a report: its HTML and its looks, without the content."""

import re
from html import escape
from string import Template


def coded(command: str) -> str:
    """A command in HTML, which is wrapped between its words, but not after the -- of a flag."""
    return "<code>" + re.sub(r"(--[a-z][a-z0-9.-]*)", r"<span>\1</span>", escape(command)) + "</code>"


PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title · tubelet</title>
<style>
:root { --paper: #fbfaf7; --card: #f2f0ea; --ink: #22252b; --faint: #666b75; --line: #e1ded6; --accent: #24709f;
  --bad: #a8371f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #121316; --card: #1c1e23; --ink: #e4e2dd; --faint: #9a9da5; --line: #2c2f36; --accent: #6db1dc;
    --bad: #ef8a72; }
}
* { box-sizing: border-box; } html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 system-ui, "Segoe UI", sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 72px 24px 96px; }
.eyebrow { color: var(--accent); font-size: 14px; letter-spacing: .04em; margin: 0 0 8px; }
h1, h2, .lead, .tiles b { font-family: ui-serif, "Iowan Old Style", Charter, Georgia, serif; font-weight: 500; }
h1 { font-size: clamp(32px, 6vw, 52px); line-height: 1.1; margin: 0 0 20px; overflow-wrap: anywhere; }
h2 { font-size: 28px; line-height: 1.2; margin: 0 0 20px; } h3 { font-size: 17px; margin: 0 0 4px; }
p { margin: 0 0 14px; max-width: 66ch; }
.lead { font-size: clamp(19px, 2.6vw, 23px); line-height: 1.5; max-width: 40em; }
.faint, .caption { color: var(--faint); }
.caption { font-size: 14px; line-height: 1.5; margin: 8px 0 0; }
section { margin-top: 72px; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 28px 24px; margin-top: 40px; }
.tiles { padding-top: 28px; border-top: 1px solid var(--line); }
.tiles b { display: block; font-size: 27px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--faint); font-size: 14px; line-height: 1.35; display: block; }
figure { margin: 0 0 36px; }
img { display: block; max-width: 100%; height: auto; border-radius: 10px; }
details, details > * + * { margin-top: 12px; } summary { cursor: pointer; color: var(--accent); font-size: 15px; }
.curves svg { display: block; width: 100%; height: auto; color: var(--ink); }
.curves svg text { font-family: system-ui, "Segoe UI", sans-serif !important; }
article { margin: 32px 0; }
.status { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; font-size: 15px; max-width: none; }
.status.late { border-color: var(--bad); color: var(--bad); }
.doubts { border-left: 3px solid var(--bad); padding: 4px 0 4px 22px; }
.doubts h2 { font-size: 22px; margin: 0 0 12px; }
.doubts ul { list-style: none; padding: 0; } .doubts li { margin: 0 0 16px; } .doubts li:last-child { margin: 0; }
.doubts p { margin: 0; } .doubts p + p { color: var(--faint); }
.way figure { display: grid; grid-template-columns: 9.5em 1fr; gap: 14px; align-items: center; margin: 0 0 6px; }
.way figcaption { font-size: 14px; line-height: 1.4; color: var(--faint); }
.way img { width: 100%; border-radius: 4px; image-rendering: pixelated; }
.dots dd { padding-right: 12.5em; } .dots dd b { margin-right: -12.5em; width: 12em; }
.dots .line { position: relative; flex: 1; height: 18px; }
.line::before { content: ""; position: absolute; inset: 8px 0 auto; border-top: 1px solid var(--line); }
.line i { position: absolute; }
.dots .dot { width: 12px; height: 12px; margin: 3px 0 0 -6px; border-radius: 50%; }
.dots .dot { background: var(--accent); opacity: 1; }
.dots .whisker { top: 7px; height: 4px; min-width: 0; background: var(--accent); opacity: .45; }
.dots .guess { width: 2px; min-width: 2px; height: 18px; margin-left: -1px; background: var(--bad); opacity: .9; }
.dots .plain .dot, .dots .plain .whisker { background: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 8px 16px; margin: 14px 0; align-items: center; }
dt { color: var(--faint); font-size: 15px; }
dd { margin: 0; display: flex; align-items: center; gap: 10px; padding-right: 7em; }
dd i { height: 16px; min-width: 2px; border-radius: 3px; background: var(--faint); opacity: .45; flex: none; }
dd b { font-weight: 500; font-size: 15px; margin-right: -7em; white-space: nowrap; }
dd.trained i { background: var(--accent); opacity: 1; }
.verdict { border-left: 3px solid var(--accent); padding-left: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { text-align: left; vertical-align: top; padding: 8px 0; border-bottom: 1px solid var(--line); }
td, p, ul { overflow-wrap: anywhere; }
th { font-weight: 400; color: var(--faint); padding-right: 24px; width: 8em; }
.small { font-size: 13px; } .small th { width: 50%; }
code span { white-space: nowrap; }
code { font: .9em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: 8px; padding: 12px 16px; margin: 0 0 20px; white-space: pre-wrap; }
pre code { user-select: all; }
.sheet { width: min(1320px, 100vw - 48px); margin-left: 50%; transform: translateX(-50%); overflow-x: auto; }
.sheet table { font-size: 13px; font-variant-numeric: tabular-nums; }
.sheet th, .sheet td { width: auto; padding: 6px 14px 6px 0; }
.sheet thead th { cursor: pointer; white-space: nowrap; } .sheet thead th:hover { color: var(--accent); }
.sheet td:not(:first-child) { overflow-wrap: normal; }
.sheet td:first-child { min-width: 14em; } .sheet .bad td { color: var(--bad); }
.sheet > img { margin: 28px 0; }
.pair { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: flex-start; margin: 0 0 20px; }
.pair figure { margin: 0; width: 180px; font-size: 13px; overflow-wrap: anywhere; }
.pair p { flex-basis: 100%; margin: 0; }
ul { padding-left: 20px; margin: 0; font-size: 15px; } li { margin-bottom: 4px; }
@media (max-width: 640px) {
  main { padding: 40px 18px 64px; } section { margin-top: 52px; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles b { font-size: 23px; }
  .way figure { grid-template-columns: 1fr; gap: 2px; margin-bottom: 12px; }
  .dots { grid-template-columns: 1fr; gap: 0; } .dots dt { margin-top: 12px; }
  .dots dd { padding: 0; flex-wrap: wrap; gap: 0 10px; } .dots dd b { margin: 0; width: auto; }
  .dots .line { flex-basis: 100%; }
  .wide { overflow-x: auto; } .wide > img, .wide > svg { min-width: 680px; max-width: none; }
}
@media (min-width: 641px) { .narrow { display: none; } }
@media print {
  body { font-size: 11pt; } main { padding: 0; max-width: none; } section { margin-top: 28pt; }
  figure, article, .curves, pre, tr { break-inside: avoid; } h2 { break-after: avoid; }
  img { max-height: 60vh; width: auto; }
}
</style>
</head>
<body>
<main>
<p class="eyebrow">tubelet · $about</p>
<h1>$title</h1>
<p class="lead">$lead</p>
$tiles
$body</main>
</body>
</html>
"""
)

REFRESH = Template(
    """<p class="status" id="status" data-until="$until" data-every="$every">$text As of $at; the page refreshes
itself.</p>
<script>
"use strict";
// Opened anew now and then, for a page from a disk cannot ask for anything: where one was and what was open is kept.
{
  const status = document.getElementById("status"), key = "tubelet" + location.pathname;
  const folds = () => [...document.querySelectorAll("details")];
  const late = Date.now() / 1000 > status.dataset.until;
  if (late) {
    status.classList.add("late");
    status.textContent += " Nothing new since, though it was expected: was the run ended? If so, go on with --resume.";
  }
  addEventListener("DOMContentLoaded", () => {
    try {
      const before = JSON.parse(sessionStorage.getItem(key) || "{}");
      folds().forEach((fold) => { fold.open = (before.open || []).includes(fold.firstElementChild.textContent); });
      scrollTo(0, before.y || 0);
    } catch (error) { }
  });
  addEventListener("pagehide", () => {
    try {
      const open = folds().filter((fold) => fold.open).map((fold) => fold.firstElementChild.textContent);
      sessionStorage.setItem(key, JSON.stringify({ y: scrollY, open }));
    } catch (error) { }
  });
  setInterval(() => {
    if (!document.hidden && getSelection().isCollapsed) location.reload();
  }, 1000 * (late ? 60 : status.dataset.every));
}
</script>
<noscript><meta http-equiv="refresh" content="30"></noscript>
"""
)
