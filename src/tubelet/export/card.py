"""The page that goes with weights: how they were made, what was measured, how to load them, who may use them.

Of weights of others it says where they come from, and nothing that is not known.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tubelet.config import Run, read_card
from tubelet.evaluate.results import from_lines, lines_for_people, numbers
from tubelet.export.about import bare, settings
from tubelet.export.trained import Trained
from tubelet.methods.action_detection import ActionDetection
from tubelet.report_facts import flat
from tubelet.report_results import in_words, results_of
from tubelet.train.folder import unfinished
from tubelet.train.log import metrics
from tubelet.weights.origin import Origin

SHOWN = 20  # classes that a card of weights of others names; config.json has all

PAGE = """---
{front}
---

# VideoMAE, {title}

{what}

| | |
|---|---|
{facts}

## How to use it

```python
from transformers import {architecture}

model = {architecture}.from_pretrained("THIS_FOLDER")
# pixel_values: clips x {frames} x {channels} x {height} x {width}
```

{clip} `preprocessor_config.json` says what happens to each frame.

{notes}

{history}

## Licence

{licence}
"""
HISTORY = """## Numbers

{numbers}

## Recipe

{recipe}"""


def card(model: Trained, architecture: str, notes: Sequence[str], licence: str | None) -> str:
    """README.md for the folder of a model, with the front matter that the hub reads. No path of this machine is in it.

    Raises:
        ValueError: a licence that is no identifier.
    """
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9.+-]+", licence):
        raise ValueError(f"--licence {licence!r} is no identifier; expected one as apache-2.0 or cc-by-nc-4.0")
    run, origin = model.run, model.origin
    task = "video-classification" if architecture.endswith("Classification") else "feature-extraction"
    front = [] if licence is None else [f"license: {licence.lower()}"]
    front += ["library_name: transformers", f"pipeline_tag: {task}", "tags: [video, videomae, tubelet]"]
    e, (height, width) = run.encoder, run.data.size
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    facts = {
        "encoder": f"{e.depth} blocks, {e.width} wide, {e.heads} heads, cubes of {'x'.join(map(str, e.patch))}",
        "parameters": f"{parameters:,}",
        **(trained_so(model) if origin is None else known(origin, architecture)),
    }
    whose = folder_of(model).resolve().name if origin is None else origin.file
    clip = "Which frames of a video make a clip is not known."
    if origin is None or origin.clip is not None:
        clip = f"Frames are taken so: {run.data.clip}."
    own = [*notes, *meaning(model), *(unfinished_of(model) if origin is None else [])]
    return PAGE.format(
        front="\n".join(front),
        title=f"{stage(model, architecture)}: {whose}",
        what=described(architecture, model),
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        architecture=architecture,
        frames=run.data.clip.frames,
        channels=run.data.channels,
        height=height,
        width=width,
        clip=clip,
        notes="\n".join(f"- {note}" for note in own),
        history=history(model) if origin is None else assumed(origin),
        licence=licence or "None is stated: ask whoever trained this before you use it.",
    )


def folder_of(model: Trained) -> Path:
    """The folder of a run."""
    return model.path if model.path.is_dir() else model.path.parent


def stage(model: Trained, architecture: str) -> str:
    """How far it was trained, as far as that is known."""
    if model.origin is not None and architecture == "VideoMAEModel":
        return "encoder"
    return "fine-tuned" if model.tuned or isinstance(model.run.method, ActionDetection) else "pre-trained"


def described(architecture: str, model: Trained) -> str:
    """What is in the folder, and who made it."""
    origin = model.origin
    if architecture == "VideoMAEForPreTraining":
        what = "An encoder of video and the decoder that it was pre-trained with, without labels."
    elif architecture == "VideoMAEModel":
        made = "from a fine-tuned network" if model.tuned else "pre-trained without labels"
        if isinstance(model.run.method, ActionDetection):
            made = "from a network that says what people do"
        what = f"An encoder of video, {made}." if origin is None else "An encoder of video."
    else:
        what = "A network that says what happens in a clip."
    if origin is None:
        return what + " Trained with tubelet."
    return f"{what} Converted from {origin.file} ({origin.format}) by tubelet; how it was trained is not known here."


def trained_so(model: Trained) -> dict[str, str]:
    """How a run was trained, from what, on what, and with what."""
    run = model.run
    masked = f", {type(run.method.mask).__name__} mask" if hasattr(run.method, "mask") else ""
    start = started_from(run)
    return {
        "clips": f"{run.data.clip}, {run.data.size[0]}x{run.data.size[1]} pixels",
        "method": type(run.method).__name__ + masked,
        "training": f"{run.training.epochs:g} epochs, batch {run.training.batch}, seed {run.training.seed}",
        **({"started from": start} if start else {}),
        **data_of(folder_of(model)),
    }


def started_from(run: Run) -> str:
    """The name of the weights that a run began with; none: from scratch."""
    init = getattr(run.method, "init", None) or run.training.init
    return bare(init) if init else ""


def known(origin: Origin, architecture: str) -> dict[str, str]:
    """All that is known of weights of others, beside their encoder."""
    height, width = origin.size
    facts = {"clips": f"{origin.clip or f'{origin.frames} frames'}, {height}x{width} pixels"}
    if architecture == "VideoMAEForPreTraining" and origin.decoder is not None:
        d, target = origin.decoder, {True: "normalised pixels", False: "pixels", None: "pixels"}[origin.normalised]
        facts |= {"decoder": f"{d.depth} blocks, {d.width} wide, {d.heads} heads", "target": target}
    if architecture == "VideoMAEForVideoClassification":
        names, count = origin.labels, len(origin.labels)
        told = ", ".join(names[:SHOWN]).replace("|", "\\|") + f" and {count - SHOWN} more" * (count > SHOWN)
        facts["classes"] = f"{count}, without names" if names == tuple(map(str, range(count))) else f"{count}: {told}"
    return facts


def meaning(model: Trained) -> list[str]:
    """What outputs mean, where that is not plain."""
    labels = model.run.data.labels
    if not model.tuned:
        return ["to fine-tune it with transformers, load it with `use_mean_pooling=True`: there is no class token"]
    if labels is None or labels.kind != "values":
        return []
    units = "; ".join(f"{n}: x {u:g} + {o:g}" for n, u, o in zip(labels.names, labels.unit, labels.offset))
    return [f"outputs are standardised; values in their own units are {units}"] * bool(units)


def unfinished_of(model: Trained) -> list[str]:
    """Whether the run was stopped before its end, without its path."""
    return [note.replace(str(model.path), "this", 1).split(";")[0] for note in unfinished(model.path)]


def data_of(folder: Path) -> dict[str, str]:
    """What it was trained on, by name only, and with what."""
    if not (folder / "run.json").is_file():
        return {}
    about = read_card(folder / "run.json")
    videos = about.get("fingerprint", {}).get("videos")
    made = about.get("made_with") or {}
    found = {"data": bare(about.get("data", "?")) + (f", {videos} videos" if videos else "")}
    versions = ", ".join(f"{name} {made[name]}" for name in ("tubelet", "torch") if name in made)
    return found | ({"made with": f"{versions}, {str(made.get('date', ''))[:10]}"} if versions else {})


def history(model: Trained) -> str:
    """What was measured of a run, and every setting."""
    return HISTORY.format(
        numbers=numbers_of(folder_of(model)),
        recipe="\n".join(["| setting | value |", "|---|---|", *recipe(model.run)]),
    )


def assumed(origin: Origin) -> str:
    """What reading the weights of others unwrapped, assumed and recomputed."""
    return "\n".join(["## What was read, and what was assumed", "", *(f"- {note}" for note in origin.notes)])


def numbers_of(folder: Path) -> str:
    """What lies beside the run: tests, read-outs, and its last step."""
    found = []
    for path in sorted(folder.glob("test-*.jsonl")):
        results = from_lines(path)
        told = "\n".join(lines_for_people(results, numbers(results), classes=False))
        found.append(f"Test on {path.stem.removeprefix('test-')}:\n\n```\n{told}\n```")
    found += [in_words(one) for one in results_of(folder) if one.get("kind") != "test"]  # these are told above
    if (folder / "metrics.jsonl").is_file() and (lines := metrics(folder)):
        scores = {name: value for line in lines for name, value in line.items() if name.startswith("validation_")}
        shown = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in scores.items())
        found.append(f"After {lines[-1]['step']:.0f} steps: loss {lines[-1]['loss']:.4g}{shown}.")
    return "\n\n".join(found) or "None was measured."


def recipe(run: Run) -> list[str]:
    """Every setting, in rows; of what names a path only its last name."""
    return [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in flat(settings(run))]
