"""What is wrong with a run, or may be: from its card, the lines of its steps and its notes, each with what to do."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from tubelet.report_facts import Card, Lines, comparable, dig, ends, finished, progress, steps_of, taught

FEW_STEPS = 50  # below so many, steps say nothing yet
FLAT = 0.01  # of the loss: less change than this over half of the run is none
WAIT = 0.25  # share of the time spent waiting for videos
TROUBLED = 0.05  # share of the videos
SPIKE, SPIKES = 10.0, 3  # times the median of the gradient norm; how often
FEW_VIDEOS, OFTEN = 100, 20  # videos, and times that each is seen


@dataclass(frozen=True)
class Doubt:
    """Something to look at before the run is believed."""

    says: str
    """What is the case, with numbers."""
    do: str
    """What to do about it."""


def doubts(card: Card, lines: Lines, notes: Sequence[str], measured: bool = False, live: bool = False) -> list[Doubt]:
    """Everything there is to doubt; `measured` is whether the run was tested or read out, `live` whether it goes on."""
    found = [*not_complete(card, lines, notes)] if not live else []
    found += [doubt for look in LOOKS for doubt in look(card, lines)]
    found += [*troubled(card, notes)]
    return found + ([] if measured or live else [*unread(card, lines)])


def not_complete(card: Card, lines: Lines, notes: Sequence[str]) -> Iterator[Doubt]:
    """A run that was stopped before its end, with why if that is known."""
    if not lines or finished(card, lines):
        return
    step, steps = int(lines[-1]["step"]), steps_of(card, lines)
    why = [text for at, text in map(parted, notes) if text.startswith("stopped: ") and at == step]
    said = f" It was {why[-1].rstrip('.')}." if why else ""
    yield Doubt(
        f"The run is not complete: {step} of {steps} steps are done ({100 * progress(card, lines):.0f} %).{said}",
        "The same command with `--resume` goes on where it was saved. Until its end the learning rate has not fallen, "
        "and the encoder is worse than it would be.",
    )


def left_out(card: Card, lines: Lines) -> Iterator[Doubt]:
    """Steps whose loss or gradient was no number."""
    bad = [line for line in lines if line.get("left_out") or not math.isfinite(line["loss"])]
    halved = card_precision(card) == "float16" and all(math.isfinite(line["loss"]) for line in bad) and len(bad) < 20
    if bad and not halved:  # finding a scale for float16 leaves some out, which is as it should be
        yield Doubt(
            f"{len(bad)} of {len(lines)} steps were not learnt from, the last at step {bad[-1]['step']:g}: the loss or "
            "its gradient was not finite, or exploded.",
            "The clips are kept in evidence/. Try a lower `--optim.base-lr`, a longer `--optim.warmup`, `--optim.clip "
            "1` or `--training.precision float32`; look at the videos named in notes.txt.",
        )


def card_precision(card: Card) -> str:
    """The arithmetic that was asked for."""
    return str(dig(card, "run.training.precision", "auto"))


def did_not_fall(card: Card, lines: Lines) -> Iterator[Doubt]:
    """A loss that is at the end what it was at first."""
    if len(lines) < FEW_STEPS or not comparable(card):
        return
    first, last = ends(lines)
    if not last < 0.98 * first and progress(card, lines) > 0.1:
        yield Doubt(
            f"The loss did not fall: {first:.3g} at the first step, {last:.3g} over the last 2 %.",
            "Look at the curves: if it rises, lower `--optim.base-lr`; if it is flat, try a higher one, or more steps. "
            "`tubelet check` says whether the videos are what they should be.",
        )


def plateau(card: Card, lines: Lines) -> Iterator[Doubt]:
    """A loss that fell once and then stood still for the second half of the run."""
    if len(lines) < 4 * FEW_STEPS or not comparable(card) or taught(card):
        return
    values = [line["loss"] for line in lines if math.isfinite(line["loss"])]
    tenth = len(values) // 10
    middle, last = fmean(values[4 * tenth : 6 * tenth]), fmean(values[-2 * tenth :])
    if last < 0.98 * values[0] and last > (1 - FLAT) * middle:
        raw = dig(card, "run.method.target.normalise") in (None, "none")
        sooner = " and more steps"
        if not raw:
            sooner = ", more steps, or `--method.target.normalise none`, which leaves it sooner"
        yield Doubt(
            f"The loss has stood still since half of the run: {middle:.4g} then, {last:.4g} now. This may be the first "
            "plateau of masked autoencoders, on which only the mean colours of what is hidden are predicted.",
            f"Look at the pictures: if nothing but flat cubes is imagined, train longer, with smaller clips{sooner}.",
        )


def waited(card: Card, lines: Lines) -> Iterator[Doubt]:
    """Much of the time went into waiting for videos."""
    late = lines[len(lines) // 5 :]  # the first steps wait for the readers to begin
    if len(lines) < FEW_STEPS:
        return
    share = sum(line["data_wait"] * line["seconds"] for line in late) / max(sum(line["seconds"] for line in late), 1e-9)
    if share > WAIT:
        data = str(card.get("data", "DIR"))
        cache = "" if dig(card, "run.data.cache") else "`--data.cache`, "
        yield Doubt(
            f"{100 * share:.0f} % of the time was spent waiting for videos, the first steps left out.",
            f"`tubelet bench RUN/run.json --data {data}` says what reading costs and what would help: more "
            "`--training.workers`, `--data.repeats` (several clips of a video that is open), "
            f"{cache}or `tubelet prepare`, which writes small videos that are quick to read.",
        )


def spikes(card: Card, lines: Lines) -> Iterator[Doubt]:
    """A gradient norm that now and then is far from what it mostly is."""
    warm = lines[len(lines) // 10 :]
    norms = [(line["gradient_norm"], line["step"]) for line in warm if math.isfinite(line["gradient_norm"])]
    if len(norms) < FEW_STEPS or dig(card, "run.optim.clip") is not None:
        return
    usual = median(norm for norm, _ in norms)
    high = [pair for pair in norms if pair[0] > SPIKE * usual]
    if len(high) >= SPIKES:
        most, step = max(high)
        yield Doubt(
            f"In {len(high)} of {len(norms)} steps the gradient was over {SPIKE:g} times its median of {usual:.3g}, at "
            f"most {most:.3g} at step {step:g}.",
            "`--optim.clip 1` keeps such steps from undoing what was learnt; a longer `--optim.warmup` or a lower "
            "`--optim.base-lr` makes them rarer.",
        )


def short_warmup(card: Card, lines: Lines) -> Iterator[Doubt]:
    """A run that ends before its learning rate is what the rule says."""
    base, batch = dig(card, "run.optim.base_lr"), dig(card, "run.training.batch")
    if not lines or not base or not batch or not finished(card, lines):
        return
    rule, peak = base * batch / 256, max(line["lr"] for line in lines)
    if peak < 0.98 * rule and len(lines) >= FEW_STEPS:
        yield Doubt(
            f"The learning rate never reached what the rule says, {base:g} x {batch} / 256 = {rule:.3g}; its highest "
            f"was {peak:.3g}: the warm-up of {dig(card, 'run.optim.warmup', 0):g} epochs is as long as the run of "
            f"{dig(card, 'run.training.epochs', 0):g}.",
            "Use a shorter `--optim.warmup` (a tenth of the epochs), or more `--training.epochs`.",
        )


def few_videos(card: Card, lines: Lines) -> Iterator[Doubt]:
    """So few videos, seen so often, that they can be known by heart."""
    videos, epochs = dig(card, "fingerprint.videos"), dig(card, "run.training.epochs", 0)
    if videos and lines and videos < FEW_VIDEOS and epochs >= OFTEN and not taught(card):
        yield Doubt(
            f"There are {videos} videos, and each is seen {epochs:g} times: what is learnt may hold for these alone.",
            "More videos help more than more epochs; they need no labels. Test on others than these.",
        )


def best_was_before(card: Card, lines: Lines) -> Iterator[Doubt]:
    """Validation that was clearly better before the end."""
    name = next((name for line in lines for name in line if name.startswith("validation_")), None)
    if name is None:
        return
    found = [(line[name], line["step"]) for line in lines if name in line and math.isfinite(line[name])]
    if len(found) < 3:
        return
    best, step = max(found)
    last, scale = found[-1][0], 1.0 if name == "validation_r2" else 100.0
    if best - last > 0.03 * scale:
        said = name.removeprefix("validation_").replace("_", " ")
        yield Doubt(
            f"On validation data {said} was {best:.3g} at step {step:g}, and is {last:.3g} at the end.",
            "best.safetensors holds the weights of then; use a shorter run, more `--augment`, or `--mixup` and "
            "`--cutmix`.",
        )


LOOKS: list[Callable[[Card, Lines], Iterator[Doubt]]] = [
    left_out,
    did_not_fall,
    plateau,
    spikes,
    short_warmup,
    best_was_before,
    waited,
    few_videos,
]

TROUBLES = {  # words of a note, and what to say of videos with such
    "another video is shown instead": ("could not be read, and others were shown instead", "mend or remove them"),
    " is damaged: ": ("are damaged; what was left of them was used", "mend or remove them"),
    " is too short for ": ("are shorter than a clip, so frames were repeated", "use a smaller `--data.clip.stride`"),
    "motion vectors for a clip": ("have few motion vectors, or none", "`tubelet prepare` writes videos that have some"),
}


def troubled(card: Card, notes: Sequence[str]) -> Iterator[Doubt]:
    """Many videos with the same trouble; each is noted once for each thing that is wrong with it."""
    texts = [text for _, text in map(parted, notes)]
    counts = Counter(kind for text in texts for kind in TROUBLES if kind in text)
    videos = dig(card, "fingerprint.videos", 0)
    for kind, count in counts.items():
        if count > TROUBLED * videos:
            (says, do), first = TROUBLES[kind], next(text for text in texts if kind in text)
            yield Doubt(
                f"{count} notes{f' on {videos} videos' if videos else ''} are of such as {says}; the first: {first}",
                f"`tubelet check` says what is wrong with all; {do}.",
            )


def parted(note: str) -> tuple[int, str]:
    """A line of notes.txt as step and text."""
    found = re.match(r"step (\d+): (.*)", note)
    return (int(found[1]), found[2]) if found else (-1, note)


def unread(card: Card, lines: Lines) -> Iterator[Doubt]:
    """A run that is over, of which nothing was measured."""
    if not finished(card, lines):
        return
    if taught(card):
        yield Doubt(
            "It was not tested: a loss on the videos that it was taught does not tell what it knows of others.",
            "`tubelet test --weights RUN --data LABELLED` adds its numbers to this page.",
        )
    else:
        yield Doubt(
            "Nothing was read out of this encoder: a low loss alone does not tell what it understands.",
            "`tubelet probe linear --weights RUN --data LABELLED --test OTHERS --random-too` adds its numbers to this "
            "page; labels are needed for some videos only.",
        )
