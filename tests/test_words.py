"""docs/glossary.md and docs/faq.md: names, commands and settings in them exist, links have their form."""

import io
import re
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from tubelet.cli import VERBS, run

ROOT = Path(__file__).parent.parent
GLOSSARY, FAQ = ROOT / "docs/glossary.md", ROOT / "docs/faq.md"

WORDS = re.findall(r"^\| (?!word |-)(.+?) \| (.+?) \| (.+?) \|$", GLOSSARY.read_text(), re.MULTILINE)
PLACES = [place for _, _, code in WORDS for place in re.findall(r"`(\w+)`, `(\S+?\.py)`", code)]
QUESTIONS = re.findall(r"^### (.+)\n\n(.+)\n\n\*Asked in\* (.+)$", FAQ.read_text(), re.MULTILINE)


def test_glossary_is_alphabetical_and_short():
    words = [word.lower() for word, _, _ in WORDS]
    assert words == sorted(set(words))
    assert len(words) > 50
    for word, meaning, code in WORDS:
        assert len(re.findall(r"[.?!](?: |$)", meaning)) <= 3, word
        assert re.fullmatch(r"`\w+`, `\S+\.py`(, `\w+`, `\S+\.py`)*", code), word


@pytest.mark.parametrize(("name", "file"), PLACES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(PLACES)])
def test_words_lead_to_the_code(name, file):
    assert re.search(rf"^(?:class|def) {name}\b", (ROOT / "src/tubelet" / file).read_text(), re.MULTILINE)


def test_words_of_the_papers_tables_are_explained():
    """Columns of the presets' tables, and what the design's own list tells apart."""
    explained = {word for words, _, _ in WORDS for word in words.lower().split(", ")}
    assert {
        *(
            "video",
            "clip",
            "stride",
            "crop",
            "view",
            "cube",
            "patch",
            "token",
            "grid",
            "mask ratio",
            "visible",
            "hidden",
        ),
        *("predict", "scored", "tube", "block", "dual masking", "motion box", "flow warp", "motion vectors", "flow"),
        *("target", "label", "encoder", "decoder", "head", "width", "depth", "heads", "layer decay", "base lr"),
        *(
            "pre-train",
            "fine-tune",
            "linear probe",
            "attentive probe",
            "knn",
            "preset",
            "run",
            "step",
            "epoch",
            "shard",
        ),
    } <= explained


def test_every_question_has_an_answer_and_its_threads():
    text = FAQ.read_text()
    assert len(QUESTIONS) == len(re.findall(r"^### ", text, re.MULTILINE)) >= 30
    for question, answer, threads in QUESTIONS:
        assert 40 < len(answer) < 900, question
        links = re.findall(
            r"\[([\w.-]+/[\w.-]+)#(\d+)\]\(https://github\.com/([^)]+?)/(?:issues|pull)/(\d+)\)", threads
        )
        assert len(links) == threads.count("](") > 0, question
        for repository, number, address, at in links:
            assert (repository, number) == (address, at)


@cache
def helped(*verb: str) -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        assert run([*verb, "--help"]) == 0
    return text.getvalue()


COMMANDS = sorted(set(re.findall(r"`(tubelet [^`]+)`", FAQ.read_text())))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_answers_exist(command):
    words = command.split()
    assert words[1] in VERBS
    verb = [words[1], *words[2:3]] if words[1] in ("probe", "picture") else [words[1]]
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}[\s,]", helped(*verb)), flag


def test_settings_in_answers_exist():
    """Flags that stand alone, of whichever verb."""
    every = "".join(helped(verb) for verb in ("pretrain", "finetune", "predict", "embed", "test", "export", "plan"))
    alone = re.findall(r"`(--[\w.-]+)[^`]*`", FAQ.read_text())
    assert len(alone) > 20
    for flag in alone:
        assert re.search(rf"{flag}[\s,]", every), flag
