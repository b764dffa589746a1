"""What mkdocs does besides, for mkdocs.yml: pages that lie outside of docs/, links out of it, and what --help says.

Pages are written to be read in the repository too, so their links lead to files. A link to a page is one on the site;
one to anything else (a source file, a folder) becomes its path, or a link where mkdocs.yml has a repo_url.
"""

import os
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path, PurePosixPath
from textwrap import fill

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = {  # file of the repository -> page of the site
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
FLAG = re.compile(r"--[\w.-]+")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of docs/, and those that lie outside of it."""
    for source, page in OUTSIDE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """A page whose links lead to pages, with what stands in no file: --help, presets."""
    at = page.file.src_uri
    source = next((source for source, there in OUTSIDE.items() if there == at), f"docs/{at}")
    more = {"reference/commands.md": commands, "reference/presets.md": presets}.get(at)
    parts = re.split(r"^(```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)  # code stays as it is
    parts[::2] = [LINK.sub(lambda link: led(link, source, at, config.repo_url), part) for part in parts[::2]]
    return "".join(parts) + (more() if more else "")


def on_page_content(html: str, **_: object) -> str:
    """Flags stay in one piece; browsers break lines behind each hyphen."""
    return re.sub(
        r"<code>[^<]*--[^<]*</code>", lambda code: FLAG.sub(r'<span class="flag">\g<0></span>', code[0]), html
    )


def led(link: re.Match[str], source: str, at: str, repository: str | None) -> str:
    """A link of a file of the repository, as the page needs it."""
    mark, text, path, anchor = link.group(1), link.group(2), link.group(3), link.group(4) or ""
    target = os.path.normpath(PurePosixPath(source).parent / path)
    if not (ROOT / target).exists():
        return link.group()  # mkdocs names it
    there = OUTSIDE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    if there is not None:
        return f"{mark}[{text}]({os.path.relpath(there, PurePosixPath(at).parent)}{anchor})"
    if repository:
        return f"[{text}]({repository.rstrip('/')}/blob/main/{target})"
    return text if target.endswith(text.strip("`/")) else f"{text} (`{target}`)"


def commands() -> str:
    """A section for each verb with what its --help says."""
    from tubelet.cli import VERBS, run

    sections = []
    for verb, (about, _) in VERBS.items():
        told = StringIO()
        with redirect_stdout(told):
            run([verb, "--help"])
        lines = [
            line if line.startswith(" ") else fill(line, 84, break_long_words=False, break_on_hyphens=False)
            for line in told.getvalue().strip().splitlines()
        ]
        text = "\n".join(lines)  # as wide as the page; in a terminal paragraphs are as wide as that
        sections.append(f"\n## {verb}\n\n{about[0].upper()}{about[1:]}.\n\n```text\n{text}\n```\n")
    return "".join(sections)


def presets() -> str:
    """A table of the presets, as `tubelet list` tells them."""
    from tubelet.cli.training import summary
    from tubelet.methods import PRESETS

    about = {name: summary(*where.split(":")) for name, where in PRESETS.items()}
    return "\n| preset | what for |\n|---|---|\n" + "".join(f"| `{name}` | {line} |\n" for name, line in about.items())


class Docstrings(griffe.Extension):
    """Docstrings, which are plain text, as Markdown; and of fields that have none the comment behind them."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Puts examples (`>>> ...`) into blocks of code, and keeps T*H*W from being italic."""
        if obj.is_attribute and obj.parent and obj.parent.is_class and not obj.docstring and obj.lines:
            comment = re.search(r"  # (.+)$", obj.lines[-1])
            obj.docstring = griffe.Docstring(comment.group(1), parent=obj) if comment else None
        if obj.docstring:
            text = re.sub(r"^>>> .+(?:\n.+)*", "```python\n\\g<0>\n```", obj.docstring.value, flags=re.M)
            parts = re.split(r"(```.*?```|`[^`]+`)", text, flags=re.DOTALL)
            parts[::2] = [re.sub(r"(?<=\w)\*(?=\w)", r"\*", part) for part in parts[::2]]
            obj.docstring.value = "".join(parts)
