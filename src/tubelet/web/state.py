"""What is chosen on a page stands in its address: whoever opens the address sees the same."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

Query = Sequence[tuple[str, str]]
CHOOSE = "nothing to choose from"
WHOLE = 0, 2**31 - 1  # seeds and places


@dataclass(frozen=True)
class Field:
    """One thing that is chosen on a page."""

    name: str
    """In the address."""
    default: Any = None
    """A list where several may be chosen; None: the first of the choices."""
    kind: Callable[[str], Any] = str
    """Makes a value of the address's text: str, int, float, yes."""
    choices: Callable[[], Collection[Any]] | None = None
    """Asked anew each time a page is opened; none: anything goes that the page's own function takes."""
    between: tuple[float, float] | None = None
    """The least and the most of a number: of what a slider takes, or the browser can tell from its neighbours."""

    def usual(self) -> Any:
        """The value where the address says none."""
        if self.default is None and self.choices:
            return next(iter(self.choices()), None)
        return self.default

    def read(self, texts: Sequence[str]) -> Any:
        """The value that an address gives.

        Raises:
            ValueError: what it says cannot be chosen.
        """
        if not texts:
            return self.usual()
        several = isinstance(self.default, list)
        values = [self.one(text) for text in texts if text or not several]
        return values if several else values[-1]

    def one(self, text: str) -> Any:
        """One value.

        Raises:
            ValueError: it cannot be chosen.
        """
        try:
            value = self.kind(text)
        except (ValueError, OverflowError):
            raise ValueError(f"{self.name} {text!r} in the address is no number") from None
        if self.between is not None and not self.between[0] <= value <= self.between[1]:
            low, high = self.between
            raise ValueError(
                f"{self.name} {text!r} of the address: expected {low} to {high}; the usual is shown instead"
            )
        there = None if self.choices is None else self.choices()
        if there is not None and value not in there:
            raise ValueError(f"{self.name} {text!r} of the address is not here; the usual is shown instead")
        return value


def rounded(text: str) -> int:
    """The whole number of a field for numbers, as gradio rounds what is typed there."""
    return round(float(text))


def check_number(name: str, value: float | None, between: tuple[float, float]) -> None:
    """Whether a number of a page can be used, a slider's or a field's.

    Raises:
        ValueError: it is not between the two; None is an empty field.
    """
    if value is None or not between[0] <= value <= between[1]:
        raise ValueError(f"{name} {'(nothing)' if value is None else value}: expected {between[0]} to {between[1]}")


def yes(text: str) -> bool:
    """A yes or no of an address, as JavaScript writes it."""
    return text == "true"


def restored(fields: Sequence[Field], query: Query) -> tuple[list[Any], list[str]]:
    """The values of an address, and what is to be said about those that cannot be had."""
    values, notes = [], []
    for field in fields:
        try:
            values.append(field.read([text for name, text in query if name == field.name]))
        except ValueError as error:
            notes.append(str(error))
            values.append(field.usual())
    return values, notes


def remember(fields: Sequence[Field]) -> str:
    """JavaScript that writes values into the address as they are chosen, and passes them on."""
    names = json.dumps([field.name for field in fields])
    return (
        f"(...values) => {{ const names = {names}, url = new URL(location);"
        "names.forEach((name, i) => { url.searchParams.delete(name); const value = values[i] ?? null;"
        'const all = Array.isArray(value) ? (value.length ? value : [""]) : value === null ? [] : [value];'
        "all.forEach(one => url.searchParams.append(name, one)); });"
        'history.replaceState(history.state, "", url); return values; }'
    )
