"""Command-line arguments as dataclasses: their fields are the flags, their docstrings the help."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")
Unprefixed = tyro.conf.arg(name="")


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
