"""The verb that reads frozen encoders out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, chosen, opened, parse

if TYPE_CHECKING:  # or help would import torch
    from tubelet.evaluate.probes import Probe
    from tubelet.evaluate.probing import ProbeResult, Tried
    from tubelet.evaluate.results import Number
    from tubelet.nn.vit import ViT


def probe(args: list[str]) -> int:
    """What a frozen encoder knows: tubelet probe linear|attentive|knn --weights RUN"""
    kinds: dict[str, Callable[[list[str]], int]] = {
        "linear": probe_linear,
        "attentive": probe_attentive,
        "knn": probe_knn,
    }
    return chosen(kinds, args, "probe")


@dataclass(frozen=True)
class Common:
    """What all probes want to know."""

    weights: Path
    """A run folder, or a file of weights of it, or weights of others. The encoder stays as it is."""
    data: str
    """Labelled videos to train on: a folder with class folders, or a list with labels."""
    test: str | None = None
    """Labelled videos to test on."""
    validation: str | None = None
    """Labelled videos to choose settings on; without them a share of the training videos is held out for it."""
    leave_groups_out: bool = False
    """Instead of --test: every group of --data tested by a probe that was trained and chosen on the others."""
    block: tuple[int, ...] = ()
    """Blocks to read out, 1 is the first, 0 the output after the last norm. Default: linear and knn try every block
    and choose (the last ones of masked autoencoders serve the decoder), attentive takes 0."""
    cells: tuple[int, int, int] | None = None
    """Linear and knn: what changes in so many cells of time, height and width, instead of mean tokens, which do not
    tell where and when."""
    random_too: bool = False
    """Also an encoder of the same shape with random weights: without it the numbers say little."""
    cache: Path | None = None
    """Folder to keep features in; they are used again if weights, clips and videos are the same."""
    results: Path | None = None
    """JSON lines to write: the probabilities of every tested video."""
    others: Annotated[OfOthers, Unprefixed] = NOTHING
    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes the best there is."""
    seed: int = 0
    """Of initial weights, batches, and what is held out."""
    json: bool = False
    """One JSON object on stdout instead of tables."""


def probe_linear(args: list[str]) -> int:
    """A linear layer on mean tokens; many rates, decays and blocks at once."""

    @dataclass(frozen=True)
    class LinearProbe(Common):
        """Train linear layers on the mean tokens of a frozen encoder, many settings at once, and test the best.

        tubelet probe linear --weights runs/first --data train/ --test test/ --random-too
        """

        recipe: Literal["adamw", "mae", "videomae"] = "adamw"
        """adamw: a sweep of rates and decays; mae: batch norm and LARS; videomae: SGD without a norm."""
        lr: tuple[float, ...] = ()
        """Base rates (the real ones are these x batch / 256) in place of the recipe's."""
        weight_decay: tuple[float, ...] = ()
        """Decays in place of the recipe's."""
        epochs: float | None = None
        """Times through the clips; the recipe's are 100 or 90."""
        batch: int | None = None
        """Clips per step, at most; the recipe's are 256, 16384 (mae) or 1024 (videomae)."""

    a = parse(LinearProbe, args, "probe linear")
    from tubelet.evaluate.probes import RECIPES

    recipe = replace(RECIPES[a.recipe], **given(lrs=a.lr, decays=a.weight_decay, epochs=a.epochs, batch=a.batch))
    return carry_out(a, "linear", lambda encoder, device: replace(recipe, device=device))


def probe_attentive(args: list[str]) -> int:
    """A learnt query that attends over all tokens; many rates and decays at once."""

    @dataclass(frozen=True)
    class AttentiveProbe(Common):
        """Train attentive probes on all tokens of a frozen encoder, many settings at once, and test the best.

        tubelet probe attentive --weights runs/first --data train/ --test test/ --random-too
        """

        depth: int = 1
        """1: the query alone (V-JEPA); 4: after three self-attention blocks (V-JEPA 2)."""
        probe_heads: int | None = None
        """Attention heads of the probe; default the encoder's."""
        lr: tuple[float, ...] = ()
        """Rates in place of 1e-4, 3e-4, 1e-3, 3e-3, 5e-3."""
        weight_decay: tuple[float, ...] = ()
        """Decays in place of 0.01, 0.1, 0.4, 0.8."""
        epochs: float | None = None
        """Times through the clips; default 20."""
        batch: int | None = None
        """Clips per step, at most; default 64."""

    a = parse(AttentiveProbe, args, "probe attentive")

    def make(encoder: "ViT", device: str) -> "Probe":
        from tubelet.evaluate.probes import Attentive
        from tubelet.nn.attention import Attention

        changed = given(lrs=a.lr, decays=a.weight_decay, epochs=a.epochs, batch=a.batch)
        own = next(module.heads for module in encoder.modules() if isinstance(module, Attention))
        return Attentive(own if a.probe_heads is None else a.probe_heads, a.depth, device=device, **changed)

    return carry_out(a, "attentive", make, pooled=False)


def probe_knn(args: list[str]) -> int:
    """The nearest training clips vote."""

    @dataclass(frozen=True)
    class NearestNeighbours(Common):
        """Let the most similar training clips vote, by mean tokens of a frozen encoder; nothing is trained.

        tubelet probe knn --weights runs/first --data train/ --test test/ --random-too
        """

        k: tuple[int, ...] = (200,)
        """How many vote; of several the best is chosen."""
        temperature: float = 0.07
        """Votes weigh exp(cosine similarity / temperature)."""

    a = parse(NearestNeighbours, args, "probe knn")

    def make(encoder: "ViT", device: str) -> "Probe":
        from tubelet.evaluate.probes import Neighbours

        return Neighbours(a.k, a.temperature, device)

    return carry_out(a, "knn", make)


def given(**values: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in values.items() if value not in ((), None)}


def carry_out(a: Common, kind: str, make: Callable[["ViT", str], "Probe"], pooled: bool = True) -> int:
    """Probes the encoder, and one with random weights if asked, and says what came out."""
    from tubelet.data.sources import find
    from tubelet.evaluate.features import untrained
    from tubelet.evaluate.probing import read_out
    from tubelet.evaluate.results import guessing, numbers, to_lines
    from tubelet.report import add_result
    from tubelet.report_results import Measured
    from tubelet.train.checkpoint import atomically, void
    from tubelet.train.device import pick_device
    from tubelet.train.log import Counter, say

    if a.leave_groups_out == (a.test is not None) or (a.leave_groups_out and a.validation is not None):
        raise ValueError("give --test (with --validation or without), or --leave-groups-out without both")
    encoder, run = opened(a.weights, a.others, "encoder")
    device = str(pick_device(a.device))
    sources = {"training": a.data, "validation": a.validation, "test": a.test}
    videos = {name: find(source) for name, source in sources.items() if source is not None}
    blocks = a.block or ((*range(1, len(encoder.blocks) + 1), 0) if pooled else (0,))
    encoders = {"trained": encoder}
    if a.random_too:
        encoders["random"] = untrained(run, a.seed)
    found = {}
    for name, network in encoders.items():
        found[name] = read_out(
            network,
            run.data,
            videos,
            blocks,
            lambda network: make(network, device),
            pooled=(a.cells or True) if pooled else False,
            cache=a.cache,
            device=device,
            seed=a.seed,
            progress=lambda what, name=name: Counter(f"{what}, {name} encoder", a.json),  # type: ignore[misc]
        )
    first = found["trained"]
    for line in [*(f"{part}: {text}" for part, texts in first.problems.items() for text in texts), *first.notes]:
        say(f"note: {line}")
    if a.results is not None:
        text = to_lines(first.results).encode()
        atomically(a.results, lambda file: void(file.write(text)))
    scores = {name: numbers(each.results) for name, each in found.items()}
    how = f"{first.outcome.about}, {f'chosen on {a.validation}' if a.validation else first.outcome.chosen}"
    how = ", ".join([*(["groups left out in turn"] if a.leave_groups_out else [f"trained on {a.data}"]), how])
    of = f"{len(first.results.read)} clips of {len(first.outcome.names)} classes"
    kept = Measured(
        f"{kind} probe", a.test or a.data, how, of, scores["trained"], guessing(first.results), scores.get("random", {})
    )
    add_result(a.weights, kept)
    if not a.json:
        print_tables(kind, a, found, scores)
        return 0
    report: dict[str, Any] = {"probe": kind, "weights": str(a.weights), "blocks": blocks, "unreadable": first.problems}
    for name, each in found.items():
        intervals = {score: [number.low, number.high] for score, number in scores[name].items()}
        report[name] = each.outcome.to_dict() | {"intervals": intervals}
    print(json.dumps(report))
    return 0


def print_tables(kind: str, a: Common, found: dict[str, "ProbeResult"], scores: dict[str, dict[str, "Number"]]) -> None:
    """Scores, what was chosen, and the sweep, on stdout."""
    first = found["trained"]
    tested, unread = len(first.results.read), len(first.results.unread)
    missing = f"; {unread} more could not be read and count in no number" if unread else ""
    print(f"{kind} probe of {a.weights}: {tested} tested clips of {len(first.outcome.names)} classes{missing}")
    print(f"{'':<22}" + "".join(f"{name:>26}" for name in found) + "   (in brackets 95 % intervals)")
    for score in scores["trained"]:
        cells = (f"{n.value:.1f} % ({n.low:.1f} to {n.high:.1f})" for n in (each[score] for each in scores.values()))
        print(f"  {score.replace('_', ' '):<20}" + "".join(f"{cell:>26}" for cell in cells))
    for name, each in found.items():
        print(f"\n{name}: {each.outcome.about}")
        setting = "" if each.outcome.setting is None else f"{each.outcome.setting}: "
        print(f"  {setting}{each.outcome.chosen}")
        for fold in each.outcome.folds:
            print(f"  group {fold.group}: {fold.top1:.1f} % of {fold.clips}; {fold.setting}")
        for line in sweep_lines(each.outcome.sweep):
            print(f"  {line}")


def sweep_lines(sweep: Sequence["Tried"]) -> list[str]:
    """Top-1 of every setting on the validation clips: a line for each block and decay, a column for each rate or k."""
    if not sweep:
        return []
    table: dict[str, dict[str, float]] = {}
    for row in sweep:
        column = row.setting.lr if row.setting.k is None else row.setting.k
        line = str(replace(row.setting, lr=None, k=None)) or "all"
        table.setdefault(line, {})[f"{column:g}"] = row.top1
    width, columns = max(map(len, table)), list(next(iter(table.values())))
    head = f"{'lr' if sweep[0].setting.k is None else 'k':>{width}}" + "".join(f"{name:>9}" for name in columns)
    lines = (f"{line:<{width}}" + "".join(f"{row[name]:>8.1f}%" for name in columns) for line, row in table.items())
    return ["top-1 on the validation clips:", head, *lines]
