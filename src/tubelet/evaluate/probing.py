"""Which setting of a probe is right, and what it then reads out.

The choice is made on validation clips (given, or held out of the training clips), never on those that are tested on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tubelet.data.datasets import Data
from tubelet.data.labels import Labels, listed, natural
from tubelet.data.sources import Item
from tubelet.data.split import overlap, split
from tubelet.evaluate import results
from tubelet.evaluate.features import Pooled, features
from tubelet.evaluate.probes import Clips, Predict, Probe, Setting
from tubelet.nn.vit import ViT


@dataclass(frozen=True)
class Tried:
    """How a setting did on the validation clips."""

    setting: Setting
    top1: float
    loss: float


@dataclass(frozen=True)
class Fold:
    """A group that was left out, how its clips came off, and the setting that other groups chose."""

    group: str
    clips: int
    top1: float
    setting: Setting


@dataclass(frozen=True)
class Outcome:
    """What a probe read out, and how."""

    names: tuple[str, ...]
    """The classes."""
    scores: dict[str, float]
    """Percentages over the tested clips: top1, top5 (of more than five classes), mean_class_accuracy."""
    about: str
    """What was fitted, in words."""
    setting: Setting | None
    """The one that was chosen; none where every fold has its own."""
    chosen: str
    """On what it was chosen."""
    sweep: tuple[Tried, ...]
    """Every setting on the validation clips; with folds the mean over them. Empty where there was nothing to choose."""
    outputs: Float[np.ndarray, "clips x"] = field(repr=False)
    """Probabilities of the tested clips."""
    folds: tuple[Fold, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scores": self.scores,
            "clips": len(self.outputs),
            "about": self.about,
            "setting": None if self.setting is None else asdict(self.setting),
            "chosen": self.chosen,
            "sweep": [asdict(row.setting) | {"top1": row.top1, "loss": row.loss} for row in self.sweep],
            "folds": [asdict(fold) for fold in self.folds],
        }


def scores(
    names: tuple[str, ...], outputs: Float[np.ndarray, "clips x"], truth: Int[np.ndarray, " clips"]
) -> dict[str, float]:
    """Accuracies in percent, as a test of a fine-tuned network counts them."""
    hot, ones = np.eye(len(names))[truth], np.ones(len(truth))
    return {name: measure(ones) for name, measure in results.measures_of(Labels("class", names), outputs, hot)}


# ---------------------------------------------------------------------------- from videos to numbers


@dataclass(frozen=True)
class ProbeResult:
    """What a probe of an encoder said about videos."""

    outcome: Outcome
    results: results.Results
    """A row for every tested video, also for those that could not be read: as a test of a fine-tuned network."""
    problems: dict[str, list[str]]
    """What is wrong with videos that were left out, of training, validation and test."""
    notes: list[str]


def read_out(
    encoder: ViT,
    data: Data,
    videos: Mapping[str, Sequence[Item]],
    blocks: Sequence[int],
    make: Callable[[ViT], Probe],
    *,
    pooled: Pooled = True,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Callable[[str], Callable[[int, int], object]] | None = None,
) -> ProbeResult:
    """What a probe says about `videos["test"]`, or without these about each group of `videos["training"]` in turn.

    `videos["validation"]`, if there, are what the setting is chosen on. `progress` gets a name for a piece of work, and
    returns what is called with (done, total).

    Raises:
        ValueError: as `features`, `Clips.of`, `measure` and `leave_groups_out`.
    """
    say = progress or (lambda _: lambda _done, _total: None)
    found = {
        name: features(
            encoder, items, data, blocks, pooled=pooled, cache=cache, device=device, progress=say(f"features, {name}")
        )
        for name, items in videos.items()
    }
    training = Clips.of(found["training"], videos["training"])
    clips = {name: Clips.of(found[name], videos[name], training.names) for name in found if name != "training"}
    if "test" in clips:
        outcome = measure(make(encoder), training, clips["test"], clips.get("validation"), seed=seed)
    else:
        outcome = leave_groups_out(make(encoder), training, seed=seed, progress=say("groups left out"))
    tested = "test" if "test" in clips else "training"
    outputs = dict(zip(found[tested].rows, outcome.outputs.tolist()))
    table = [
        results.Row(n, str(i.path), i.start, i.end, i.label, outputs.get(n), found[tested].problems.get(n))
        for n, i in enumerate(videos[tested])
    ]
    return ProbeResult(
        outcome,
        results.Results(Labels("class", outcome.names), table, "1x1"),
        {name: list(each.problems.values()) for name, each in found.items()},
        [note for each in found.values() for note in each.notes] + doubles(videos),
    )


def doubles(videos: Mapping[str, Sequence[Item]]) -> list[str]:
    """A warning for clips that are trained on and also chosen or tested on."""
    notes = []
    for name in ("validation", "test"):
        pairs = overlap(videos["training"], videos.get(name, ()))
        if pairs:
            one, other = pairs[0]
            notes.append(f"{len(pairs)} {name} clips are training clips too, the first: {other.path} ({one.path})")
    return notes


# ---------------------------------------------------------------------------- the choice


@torch.no_grad()
def probabilities(predict: Predict, clips: Clips, which: int) -> Float[np.ndarray, "clips x"]:
    """What one setting says about clips."""
    return torch.cat([predict(values)[which].cpu() for values, _ in clips.parts()]).double().exp().numpy()


@torch.no_grad()
def tried(predict: Predict, clips: Clips, settings: Sequence[Setting]) -> list[Tried]:
    """How every setting does on clips."""
    hits, losses = torch.zeros(len(settings)), torch.zeros(len(settings))
    for values, classes in clips.parts():
        logs = predict(values).cpu()
        hits += (logs.argmax(2) == classes).sum(1)
        losses -= logs[:, torch.arange(len(classes)), classes].sum(1)
    n = len(clips)
    return [Tried(s, 100 * float(hit) / n, float(cost) / n) for s, hit, cost in zip(settings, hits, losses)]


def best(sweep: Sequence[Tried]) -> int:
    """The place of the most accurate setting; of equals that with the least loss.

    Raises:
        ValueError: the training of every setting diverged.
    """
    finite = [place for place, row in enumerate(sweep) if np.isfinite(row.loss)]
    if not finite:
        raise ValueError("every setting of the sweep diverged; use smaller learning rates (--lr)")
    return max(finite, key=lambda place: (sweep[place].top1, -sweep[place].loss))


def measure(
    probe: Probe, training: Clips, test: Clips, validation: Clips | None = None, *, share: float = 0.2, seed: int = 0
) -> Outcome:
    """What a probe that is fitted on `training` and chosen on `validation` says about `test`.

    Without validation clips a share of the training clips is held out for the choice, whole groups where there are
    groups, and then the chosen setting is fitted on all of them.

    Raises:
        ValueError: no clips, or classes to test on that are not trained on.
    """
    for clips, what in ((training, "train on"), (test, "test on"), (validation, "choose on")):
        if clips is not None and not len(clips):
            raise ValueError(f"there are no clips to {what}")
        if clips is not None and (unknown := sorted(set(clips.truth) - set(training.truth))):
            raise ValueError(f"no training clip shows {listed([clips.names[n] for n in unknown])}, but clips to {what}")
    settings, sweep, how = probe.settings(training.blocks), [], "nothing to choose"
    predict, place = None, 0
    if len(settings) > 1:
        fit, held = training, validation
        if held is None:
            out, how = held_out(training, share, seed)
            fit, held = training.only(~out), training.only(out)
        else:
            how = f"chosen on {len(held)} validation clips"
        predict = probe.fit(fit, settings, seed)
        sweep = tried(predict, held, settings)
        place = best(sweep)
    setting = settings[place]
    how += edge(setting, settings)
    if predict is None or validation is None:
        predict, place = probe.fit(training, [setting], seed), 0
    outputs = probabilities(predict, test, place)
    return Outcome(
        test.names,
        scores(test.names, outputs, test.truth),
        probe.about(len(training)),
        setting,
        how,
        tuple(sweep),
        outputs,
    )


def edge(setting: Setting, settings: Sequence[Setting]) -> str:
    """A remark where the rate that was chosen is the largest or smallest of several."""
    rates = {other.lr for other in settings if other.lr is not None}
    if setting.lr is None or len(rates) < 2 or min(rates) < setting.lr < max(rates):
        return ""
    which = "largest" if setting.lr == max(rates) else "smallest"
    return f" (the {which} rate of the sweep: {which[:-2]}r ones may be better, --lr)"


def held_out(clips: Clips, share: float, seed: int) -> tuple[Bool[np.ndarray, " clips"], str]:
    """Which training clips to choose settings on, and in words: a share of every class, whole groups if there are some.

    Raises:
        ValueError: none can be held out without taking a class from training.
    """
    groups = {item.group for item in clips.items}
    one = len(groups) == 1  # or none: then videos are the groups
    items = [replace(item, group=None) if one else item for item in clips.items]
    try:
        share = max(share, 1 / len({item.group or item.path for item in items}))
        chosen = {id(item) for item in split(items, (1 - share, share, 0.0), seed)["val"]}
    except ValueError as error:
        raise ValueError(
            f"no training clips can be held out to choose between settings: {error}. Or give --validation, or a single "
            "setting (one --lr, --weight-decay, --block, --k)"
        ) from error
    out = np.array([id(item) in chosen for item in items])
    kept = "" if one else f" in {len({item.group for item in clips.only(out).items})} of {len(groups)} groups"
    return out, f"chosen on {out.sum()} of the {len(clips)} training clips{kept}, held out, then fitted on all"


def leave_groups_out(
    probe: Probe,
    clips: Clips,
    *,
    share: float = 0.25,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Every clip tested by a probe that saw nothing of its group: accuracy over all clips.

    The setting is chosen anew for each group, on other groups.

    Raises:
        ValueError: no groups, only one, or a class that only one group shows.
    """
    group = [item.group for item in clips.items]
    if None in group:
        raise ValueError(
            f"leaving groups out needs a group for every video, {group.count(None)} of {len(clips)} have none; "
            "give a list with a group column"
        )
    names = sorted({str(name) for name in group}, key=natural)
    if len(names) < 2:
        raise ValueError(f"all clips are of one group, {names[0]!r}: none can be left out")
    left_out = {name: np.array([one == name for one in group]) for name in names}
    for name, out in left_out.items():  # before hours of work
        alone = sorted(set(clips.truth[out]) - set(clips.truth[~out]))
        if alone:
            raise ValueError(f"only group {name!r} shows {listed([clips.names[n] for n in alone])}: cannot be left out")
    outputs, folds, sweeps, about = np.zeros((len(clips), len(clips.names))), [], [], ""
    for done, (name, out) in enumerate(left_out.items(), 1):
        test = clips.only(out)
        outcome = measure(probe, clips.only(~out), test, share=share, seed=seed)
        outputs[out] = outcome.outputs
        if outcome.setting is not None:
            folds.append(Fold(name, len(test), outcome.scores["top1"], outcome.setting))
        sweeps.append(outcome.sweep)
        about = outcome.about
        if progress:
            progress(done, len(names))
    sweep = tuple(
        Tried(same[0].setting, float(np.mean([r.top1 for r in same])), float(np.mean([r.loss for r in same])))
        for same in zip(*sweeps)
    )
    at_edge = sum(bool(edge(fold.setting, probe.settings(clips.blocks))) for fold in folds)
    how = f"chosen anew for each of {len(names)} groups, on clips of the others" if sweep else "nothing to choose"
    if at_edge:
        how += f" ({at_edge} times the largest or smallest rate of the sweep: others may be better, --lr)"
    found = scores(clips.names, outputs, clips.truth)
    return Outcome(clips.names, found, about, None, how, sweep, outputs, tuple(folds))
