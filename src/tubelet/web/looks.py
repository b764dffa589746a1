"""How pages look: the colours of reports, films that stay crisp, messages that can be read."""

import base64
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from html import escape
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tubelet.data.video import VideoError
from tubelet.page import PAGE
from tubelet.printable import printable
from tubelet.strips import Strip, complete, rgb, save_png

FPS = 8.0
WIDE = 200  # pixels: a film is shown at the next whole multiple of its size, if there are few, of twice as much
FEW, MANY = 3, 5  # abreast
SANS = ["system-ui", "Segoe UI", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of a report by name, on light and on dark pages."""
    light, dark = re.findall(r":root \{(.*?)\}", PAGE.template, re.DOTALL)[:2]
    return dict(re.findall(r"--(\w+): (#\w+)", light)), dict(re.findall(r"--(\w+): (#\w+)", dark))


def theme() -> Any:
    """Gradio's plain theme in the colours of reports, with fonts of the machine."""
    import gradio as gr

    light, dark = colours()
    pairs = {
        "body_background_fill": "paper",
        "background_fill_primary": "paper",
        "background_fill_secondary": "card",
        "body_text_color": "ink",
        "body_text_color_subdued": "faint",
        "block_background_fill": "paper",
        "block_border_color": "line",
        "block_label_text_color": "faint",
        "block_label_background_fill": "paper",
        "block_title_text_color": "faint",
        "block_info_text_color": "faint",
        "border_color_primary": "line",
        "border_color_accent": "accent",
        "input_background_fill": "card",
        "input_background_fill_focus": "card",
        "input_border_color": "line",
        "input_border_color_focus": "accent",
        "button_primary_background_fill": "accent",
        "button_primary_text_color": "paper",
        "button_secondary_background_fill": "card",
        "button_secondary_text_color": "ink",
        "button_secondary_border_color": "line",
        "checkbox_background_color": "paper",
        "checkbox_background_color_selected": "accent",
        "checkbox_border_color": "faint",
        "checkbox_border_color_selected": "accent",
        "checkbox_label_background_fill": "card",
        "checkbox_label_background_fill_selected": "card",
        "checkbox_label_text_color": "ink",
        "checkbox_label_text_color_selected": "ink",
        "slider_color": "accent",
        "loader_color": "accent",
        "link_text_color": "accent",
        "panel_background_fill": "paper",
    }
    values = {name: light[colour] for name, colour in pairs.items()}
    values |= {f"{name}_dark": dark[colour] for name, colour in pairs.items()}
    shape = {"block_shadow": "none", "block_label_shadow": "none", "input_shadow": "none", "block_border_width": "0px"}
    shape |= {"block_padding": "4px 0", "block_title_text_weight": "400", "checkbox_label_shadow": "none"}
    return gr.themes.Base(
        primary_hue=gr.themes.colors.sky, neutral_hue=gr.themes.colors.stone, font=SANS, font_mono=MONO
    ).set(**values, **shape)


def css() -> str:
    """What the theme leaves open: films, captions, tables, messages, narrow screens."""
    light, dark = (" ".join(f"--{name}: {value};" for name, value in each.items()) for each in colours())
    return f".gradio-container {{ {light} }} .dark .gradio-container, .gradio-container.dark {{ {dark} }}\n{CSS}"


CSS = """
.gradio-container { max-width: 1120px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main.app { padding: 12px 20px 64px !important; }
.gradio-container, .gradio-container .prose { font-size: 16px; line-height: 1.55; }
.page h1 { font: 500 clamp(27px, 4vw, 38px)/1.15 ui-serif, "Iowan Old Style", Charter, Georgia, serif; margin: 8px 0; }
.page .lead { color: var(--faint); max-width: 66ch; margin: 0 0 8px; }
.shown h3 { font-weight: 500; font-size: 15px; margin: 18px 0 10px; overflow-wrap: anywhere; }
.films { display: grid; grid-template-columns: repeat(var(--abreast), minmax(0, var(--wide))); gap: 14px; }
.films figure { margin: 0; min-width: 0; max-width: var(--wide); }
.films img, .strip img { image-rendering: pixelated; display: block; border-radius: 6px; }
.films img { width: 100%; }
.films figcaption { overflow-wrap: anywhere; color: var(--ink); font-size: 14px; margin-top: 4px; }
.read { display: flex; gap: 16px; align-items: center; margin-top: 10px; } .shown .read .caption { margin: 0; }
.read .wheel { width: 96px; border-radius: 6px; flex: none; }
.shown .caption { color: var(--faint); font-size: 14px; line-height: 1.5; margin: 10px 0 0; max-width: 84ch; }
.shown details { margin: 12px 0; } .shown summary { cursor: pointer; color: var(--accent); font-size: 15px; }
.wide { overflow-x: auto; max-width: min(1080px, calc(100vw - 66px)); }
.wide img, .wide svg { max-width: none; } .strip img { height: auto; }
.shown svg { display: block; width: 100%; height: auto; color: var(--ink); }
.problem { border-left: 3px solid var(--bad); padding: 2px 0 2px 14px; color: var(--bad); overflow-wrap: anywhere; }
.told { border-left: 3px solid var(--line); padding: 2px 0 2px 14px; color: var(--faint); overflow-wrap: anywhere; }
.shown table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
.shown th, .shown td { text-align: left; vertical-align: top; padding: 6px 16px 6px 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; background: none; border-width: 0 0 1px; }
.shown th { font-weight: 400; color: var(--faint); }
.shown table, .shown tr { border: 0 !important; } .shown th, .shown td { border-color: var(--line) !important; }
.row .form { gap: 20px; background: none; border: 0; }
#notes:not(:has(p)) { display: none; }
.nav-holder { border-color: var(--line) !important; background: var(--paper) !important; }
.halves { gap: 28px !important; } .halves #drawn { padding-top: 0; } .sheets figure { margin: 0 0 18px; }
.sheets figure img, #frames img { display: block; width: 100%; height: auto; border-radius: 6px; }
.sheets figcaption { font-size: 14px; margin-top: 4px; } .sheets .bar { margin: 8px 0; border-radius: 4px; }
#frames { cursor: crosshair; } #frames .image-frame { height: auto; }
.tick { flex: none !important; width: max-content !important; align-self: center; }
.report { display: block; width: 100%; height: min(1100px, 86vh); border: 0; }
.dark input[type="range"] { --neutral-200: var(--line); }
@media (min-width: 641px) { .narrow { display: none; } .held { position: sticky; top: 12px; align-self: flex-start; } }
@media (max-width: 640px) {
  .gradio-container main.app { padding: 8px 14px 48px !important; }
  .row { flex-direction: column; } .row > * { min-width: 0 !important; width: 100%; }
  .films { gap: 10px; grid-template-columns: 1fr 1fr; }
  .wide .curves { min-width: 640px; }
  .nav-holder nav { flex-wrap: nowrap; overflow-x: auto; justify-content: flex-start !important; }
}
"""

# ---------------------------------------------------------------------------- parts of a page


def heading(title: str, sentence: str) -> str:
    """The top of a page: what it is, and what one sees."""
    return f'<div class="page"><h1>{escape(title)}</h1><p class="lead">{escape(sentence)}</p></div>'


def problem(message: str) -> str:
    """What went wrong, for people and for those who cannot see."""
    return f'<p class="problem" role="alert">{escape(printable(message))}</p>'


def said(lines: list[str]) -> str:
    """What there is to say, or nothing."""
    return "".join(f'<p class="told">{escape(printable(line))}</p>' for line in lines)


def data_of(content: bytes, kind: str) -> str:
    """A file as an address, so that nothing has to be fetched."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def film(clip: UInt8[Tensor, "c t h w"]) -> bytes:
    """An animated WebP that plays for ever, exact to the pixel."""
    first, *rest = (Image.fromarray(frame) for frame in rgb(clip))
    file = BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": round(1000 / FPS), "loop": 0}
    first.save(file, "WEBP", lossless=True, quality=0, method=0, **more)
    return file.getvalue()


def films(rows: Mapping[str, UInt8[Tensor, "c t h w"]]) -> str:
    """Versions of a clip beside each other, below each other where there is no room."""
    shown, widest = "", 0
    for name, clip in rows.items():
        width = clip.shape[3] * -(-WIDE * (1 + (len(rows) <= FEW)) // clip.shape[3])
        widest = max(widest, width)
        about = f"<figcaption>{escape(name)}</figcaption></figure>"
        shown += f'<figure><img src="{data_of(film(clip), "webp")}" alt="{escape(name)}">{about}'
    return (
        f'<div class="films" style="--wide: {widest}px; --abreast: {FEW if len(rows) <= FEW else MANY}">{shown}</div>'
    )


def strips(shown: list[Strip], caption: str = "", wheel: Image.Image | None = None) -> str:
    """Clips in several versions that move, the same frame by frame folded away, and how to read them."""
    caption = complete(caption, shown)
    text = "".join(f"<h3>{escape(strip.heading)}</h3>{films(strip.rows)}" for strip in shown)
    colours = ""
    if wheel is not None:
        file = BytesIO()
        wheel.save(file, "PNG")
        colours = f'<img class="wheel" src="{data_of(file.getvalue(), "png")}" alt="the colours of directions">'
    with TemporaryDirectory() as folder:
        strip = save_png(Path(folder) / "strip.png", shown, caption, legend=wheel).read_bytes()
    still = f'<div class="wide strip"><img src="{data_of(strip, "png")}" alt="{escape(caption)}"></div>'
    return (
        f'<div class="shown">{text}<div class="read">{colours}<p class="caption">{escape(caption)}</p></div>'
        f"<details><summary>frame by frame</summary>{still}</details></div>"
    )


def readable(show: Callable[..., str]) -> Callable[..., str]:
    """The same, with a message where something cannot be shown: a page never shows a stack trace."""

    @wraps(show)
    def shown(*arguments: Any) -> str:
        try:
            return show(*arguments)
        except (ValueError, VideoError, OSError) as error:
            return problem(str(error))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)  # a defect of ours: the bug report needs it
            return problem(
                f"this is a defect of tubelet: {type(error).__name__}; where tubelet serve was started it says more"
            )

    return shown
