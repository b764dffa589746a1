"""Command-line arguments as dataclasses: their fields are the flags, their docstrings the help."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

if TYPE_CHECKING:  # or help would import torch
    from tubelet.config import Run
    from tubelet.weights.found import Asked
    from tubelet.weights.report import Report

T = TypeVar("T")
Unprefixed = tyro.conf.arg(name="")


@dataclass(frozen=True)
class OfOthers:
    """Weights of others: what their files do not tell (docs/weights.md)."""

    heads: int | None = None
    """Of weights of others: attention heads of the encoder, which no shape tells; default as their config says, or as
    of the released models of that width."""
    frames: int | None = None
    """Of weights of others: frames of a clip; default as the file says, else 16."""
    size: tuple[int, int] | None = None
    """Of weights of others: height and width of a clip; default as the file says, else 224 224."""
    positions: Literal["computed", "interpolated"] = "computed"
    """Of weights of others: fixed positions of clips of another size than in training, computed anew for them or
    interpolated."""

    def asked(self) -> "Asked":
        """The same for readers of weights."""
        from tubelet.weights.found import Asked

        return Asked(self.heads, self.frames, self.size, positions=self.positions)


@dataclass(frozen=True)
class Start:
    """Weights to start from, whose clips are those of the run."""

    heads: int | None = None
    """Of weights of others: attention heads of the encoder, where their file does not tell. Short for
    --training.init-heads, or of a fine-tuning --method.init-heads."""
    positions: Literal["computed", "interpolated"] = "computed"
    """Fixed positions where clips were of another size in --weights: computed anew, or interpolated. Sets
    --encoder.interpolated."""


NOTHING, FROM_THERE = OfOthers(), Start()


def opened(
    path: Path, others: OfOthers, part: Literal["encoder", "classifier", "detector", "all"]
) -> "tuple[Any, Run]":
    """The network of --weights on the CPU, with its head or without, and its run; what was done is said once.

    `all` is a classifier or an encoder: of a detector, whose head wants boxes, the encoder too. Of weights of tubelet
    that went in as they are, nothing is said.
    """
    from tubelet.nn.collective import whoami
    from tubelet.train.checkpoint import classifier_of, encoder_of, weights_of
    from tubelet.train.detector import detector_of
    from tubelet.train.folder import unfinished
    from tubelet.train.log import noted

    found = weights_of(path, others.asked())
    whole = part == "classifier" or (part == "all" and found.kind == "classifier")
    network = detector_of(found) if part == "detector" else classifier_of(found) if whole else encoder_of(found)
    if whoami()[0] == 0:
        noted(unfinished(path))
        tell(found.report)
    return network, found.run


def tell(report: "Report") -> None:
    """Says what was done with weights, unless they went in as they are."""
    from tubelet.train.log import say

    if not report.smooth:
        say(f"{report}")


def apart(written: Mapping[str, Path | None], read: Iterable[Path]) -> None:
    """Nothing, if what flags write is neither what is read nor one another.

    Raises:
        ValueError: a file would be replaced that is still needed.
    """
    known = {path.resolve(): f"is {path}, which is read" for path in read}
    for name, path in written.items():
        if path is None:
            continue
        if (why := known.get(path.resolve())) is not None:
            raise ValueError(f"--{name} {path} {why}, and would be lost; name another file")
        known[path.resolve()] = f"is what --{name} writes, too"


def nearest(word: str, words: Iterable[str]) -> str:
    """' Did you mean X?' or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def chosen(kinds: Mapping[str, Callable[[list[str]], int]], args: list[str], verb: str) -> int:
    """Carries out the kind of a verb that stands first, or lists the kinds.

    Raises:
        ValueError: no such kind; names the nearest and all.
    """
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, kinds))
        print(
            f"usage: tubelet {verb} KIND ...\n\n"
            + "\n".join(f"  {kind:<{width}}  {(act.__doc__ or '').splitlines()[0]}" for kind, act in kinds.items())
            + f"\n\n  tubelet {verb} KIND --help says more, with an example."
        )
        return 0 if args else 2
    if args[0] not in kinds:
        raise ValueError(f"no {verb} {args[0]!r}.{nearest(args[0], kinds)} There are: {', '.join(kinds)}")
    return kinds[args[0]](args[1:])


def parse(kind: type[T], args: Sequence[str], verb: str, default: T | None = None) -> T:
    """Command-line arguments as a dataclass; its docstring is the help. Exits with 2 on a wrong flag."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=args, prog=f"tubelet {verb}", config=(tyro.conf.AvoidSubcommands,), **options)


def with_preset(kind: Callable[..., T], args: list[str], verb: str, example: str = "videomae-small-cpu") -> T:
    """Parses arguments whose defaults come from the preset that stands among them."""
    from tubelet.config import preset
    from tubelet.methods import PRESETS

    first = args[0] if args and not args[0].startswith("-") else None
    name = first or next(
        # also behind flags, if it is one of ours and not the value of one
        (word for before, word in zip(["", *args], args) if word in PRESETS and ("=" in before or before[:1] != "-")),
        None,
    )
    if name is not None:
        args = [name, *args[: args.index(name)], *args[args.index(name) + 1 :]]
    else:
        if {"-h", "--help"} & set(args):
            name = example
            args = [name, *args]
        else:
            raise ValueError(f"{verb} wants a preset first, as in: tubelet {verb} {example}; see tubelet list")
    return parse(kind, args, verb, kind(preset=name, run=preset(name)))  # type: ignore[arg-type]
