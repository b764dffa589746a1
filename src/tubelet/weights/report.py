"""What a load did, tensor by tensor, and whether the weights look trained at all."""

import re
import warnings as python
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

What = Literal["matched", "reshaped", "left out", "newly initialised"]
ROWS = 32  # of a matrix that are looked at: enough to tell, and most of the file stays unread


@dataclass
class Report:
    """What was done with every tensor of a file, and why; filled in while it is read."""

    path: Path
    format: str = "unknown"
    """What the file was taken for, with its geometry."""
    tensors: dict[str, tuple[What, str]] = field(default_factory=dict)
    """For each name of the file what was done and the reason."""
    became: dict[str, str] = field(default_factory=dict)
    """For each name of the file ours, where it has one."""
    fresh: dict[str, str] = field(default_factory=dict)
    """For each of our names that was newly initialised the reason."""
    notes: list[str] = field(default_factory=list)
    """What was unwrapped, assumed or recomputed."""
    warnings: list[str] = field(default_factory=list)
    """What looks wrong."""
    name: str = ""
    """What the file is called elsewhere."""

    def add(self, what: What, reason: str, *names: str) -> None:
        """Notes what was done with tensors; what is said last of one holds."""
        for name in names:
            if what == "newly initialised":
                self.fresh[name] = reason
            else:
                self.tensors[name] = (what, reason)

    def mark(self, what: What, reason: str, *ours: str) -> None:
        """Notes what was done with the tensors of the file that became `ours`, names or beginnings of names that end
        with a dot, unless they were left out before."""
        beginnings = tuple(name for name in ours if name.endswith("."))
        for theirs, name in self.became.items():
            if self.tensors[theirs][0] != "left out" and (name in ours or name.startswith(beginnings)):
                self.add(what, reason, theirs)

    def warn(self) -> None:
        """Raises its warnings as Python's."""
        for line in self.warnings:
            python.warn(f"{self.path}: {line}", stacklevel=3)

    @property
    def smooth(self) -> bool:
        """Whether every tensor was taken as it is, and nothing else is to be said."""
        return self.count("matched") == len(self.tensors) and not (self.fresh or self.notes or self.warnings)

    def count(self, what: What) -> int:
        """How many tensors that was done with."""
        return sum(done == what for done, _ in self.tensors.values()) + len(self.fresh) * (what == "newly initialised")

    def lines(self) -> Iterator[str]:
        """The report for people: each thing done, its reason, how many tensors, and some of their names."""
        yield f"{self.path}: {self.format}"
        groups: dict[tuple[What, str], list[str]] = {}
        for name, done in self.tensors.items():
            groups.setdefault(done, []).append(name)
        for name, why in self.fresh.items():
            groups.setdefault(("newly initialised", why), []).append(name)
        for kind in ("matched", "reshaped", "left out", "newly initialised"):
            for (what, reason), names in groups.items():
                if what == kind:
                    shown = f" ({some(names)})" if what != "matched" else ""
                    yield f"  {what}: {len(names)}" + (f", {reason}" if reason else "") + shown
        yield from (f"  note: {line}" for line in self.notes)
        yield from (f"  WARNING: {line}" for line in self.warnings)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def some(names: Iterable[str]) -> str:
    """Names with numbers counted together, a few of them: "blocks.*.attn.qkv.bias (12), head.weight"."""
    kinds: dict[str, int] = {}
    for name in names:
        kind = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        kinds[kind] = kinds.get(kind, 0) + 1
    shown = [kind if count == 1 else f"{kind} ({count})" for kind, count in list(kinds.items())[:4]]
    return ", ".join(shown) + (f" and {len(kinds) - 4} more kinds" if len(kinds) > 4 else "")


Rule = tuple[str, str | None, str]
"""A regular expression of whole names, what replaces them (None: they are left out), and the reason."""


def renamed(state: dict[str, Tensor], rules: Sequence[Rule], report: Report) -> dict[str, Tensor]:
    """The tensors under the names of the first rule that fits each.

    Raises:
        ValueError: a name that no rule lists, or two that become one.
    """
    compiled = [(re.compile(rf"(?:{theirs})\Z"), ours, reason) for theirs, ours, reason in rules]
    found: dict[str, Tensor] = {}
    strange, twice = [], []
    for name, value in state.items():
        fitting = ((pattern, ours, reason) for pattern, ours, reason in compiled if pattern.match(name))
        pattern, ours, reason = next(fitting, (None, None, ""))
        if pattern is None:
            strange.append(name)
        elif ours is None:
            report.add("left out", reason, name)
        else:
            new = pattern.sub(ours, name)  # which keeps what it parsed; Match.expand parses it every time
            twice += [name] if new in found else []
            found[new] = value
            report.became[name] = new
            report.add("matched", "", name)
    if strange:
        raise ValueError(
            f"{report.path} was taken for {report.format}, but {len(strange)} of its {len(state)} tensors are not on "
            f"the list of that format: {some(strange)}. Nothing was loaded; if they may be left out, take them out of "
            "the file first"
        )
    if twice:
        raise ValueError(f"{report.path} holds tensors twice, under two names: {some(twice)}; keep one of each")
    return found


def fits(state: dict[str, Tensor], expected: dict[str, Tensor], report: Report, new: Sequence[str] = ()) -> None:
    """Checks that a state is that of a module, name by name and shape by shape; `new` may be missing (prefixes).

    Raises:
        ValueError: something is missing, too much, or of another shape; with the names.
    """
    missing = [name for name in expected if name not in state and not name.startswith(tuple(new))]
    if missing:
        raise ValueError(
            f"{report.path} ({report.format}) lacks {len(missing)} of {len(expected)} tensors: {some(missing)}. "
            "Nothing was loaded, since they would be random; is the file whole?"
        )
    if surplus := [name for name in state if name not in expected]:
        raise ValueError(f"{report.path} ({report.format}) has {len(surplus)} tensors too many: {some(surplus)}")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{report.path} ({report.format}): {name} is {tuple(value.shape)}, expected "
                f"{tuple(expected[name].shape)}; its other tensors say so"
            )


def looks_untrained(state: dict[str, Tensor]) -> list[str]:
    """What of an encoder is as on the first day: biases that are all zero, gains that are all one, matrices whose
    deviation is that of an initialisation. Sentences with counts; nothing where all looks trained."""
    found = []
    blocks = {name: value for name, value in state.items() if name.startswith("encoder.blocks.")}
    for kind in ("attn.q_bias", "attn.v_bias", "attn.proj.bias", "mlp.fc1.bias", "mlp.fc2.bias"):
        values = [value for name, value in blocks.items() if name.endswith(kind)]
        if values and not any(value.any() for value in values):
            found.append(f"{kind} is zero in all {len(values)} blocks: never trained, or lost on the way")
    gains = [value for name, value in blocks.items() if re.search(r"norm\d\.weight$", name)]
    if gains and all((value == value[0]).all() for value in gains):
        found.append(f"the gains of all {len(gains)} norms are constant: never trained")
    matrices = [value for name, value in blocks.items() if value.ndim == 2]
    fresh = sum(as_initialised(value) for value in matrices)
    if matrices and fresh > len(matrices) / 2:
        found.append(f"{fresh} of {len(matrices)} matrices have exactly the deviation of an initialisation")
    return found


def as_initialised(matrix: Tensor) -> bool:
    """Whether some rows of a matrix look as Xavier-uniform or normal 0.02 leaves them."""
    rows = matrix[:: max(len(matrix) // ROWS, 1)].float()
    std, bound = float(rows.std()), (6 / sum(matrix.shape)) ** 0.5
    uniform = abs(std / (bound / 3**0.5) - 1) < 0.02 and float(rows.abs().max()) <= bound
    if uniform or abs(std / 0.02 - 1) > 0.02:
        return uniform
    square = rows * rows
    return 2.8 < float((square * square).mean()) / std**4 < 3.2  # 3 of a normal distribution; trained ones have more
