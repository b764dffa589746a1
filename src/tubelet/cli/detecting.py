"""The verb that says what people in videos do, and where they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, parse
from tubelet.cli.predicting import span

if TYPE_CHECKING:
    from tubelet.data.keyframes import KeyFrame
    from tubelet.evaluate.detect import Actor, Search
    from tubelet.evaluate.detections import Detection


def detect_verb(args: list[str]) -> int:
    """Who does what, where: tubelet detect VIDEO --weights RUN"""

    @dataclass(frozen=True)
    class Detect:
        """Find people in a video, follow them, and say what each does at each second.

        tubelet detect street.mp4 --weights runs/actions --out street.json --overlay street-seen.mp4

        Without --weights: who is where, and nothing of what they do. The detector that needs no file (hog) finds whole,
        upright people; a better one is a file: --detector yolo11n.onnx. Or give the boxes: --boxes people.csv.
        """

        video: tyro.conf.Positional[Path]
        """The video."""
        weights: Path | None = None
        """A run that was fine-tuned for action detection, or a file of it."""
        boxes: str | None = None
        """Boxes that are known, in place of a detector: a table, or whatever else key frames are read from."""
        detector: str = "hog"
        """hog (OpenCV's own), a FILE.onnx, or torchvision:NAME:WEIGHTS."""
        person: int | None = None
        """Number of the class of people, where a network does not tell: 0 for COCO's 80 classes, 1 for its 91."""
        imagenet: bool = False
        """The ONNX detector wants colours normalised as ImageNet's (DETR, RF-DETR, SSD of ONNX' zoo)."""
        every: float = 1.0
        """Seconds from one key moment to the next."""
        per_second: float = 5.0
        """Frames a second in which the detector looks, to follow people from one key moment to the next."""
        least_score: float = 0.5
        """Leave out people of whom the detector is less sure."""
        shortest: int = 2
        """Leave out people who are found in fewer frames."""
        patience: float = 1.0
        """Seconds for which a person may be lost and be the same afterwards."""
        threshold: float = 0.5
        """Leave out actions that are less probable."""
        top: int = 3
        """How many actions of a person are shown."""
        out: Path | None = None
        """Write what was found: .json or .csv."""
        overlay: Path | None = None
        """Write the video with boxes, actions and a bar of time, .mp4."""
        precision: Literal["float32", "bfloat16"] = "float32"
        """Arithmetic of the network."""
        device: str = "auto"
        """cpu, cuda, cuda:1 or mps."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        quiet: bool = False
        """No progress."""
        json: bool = False
        """One JSON object on stdout instead of words."""

    a = parse(Detect, args, "detect")
    from tubelet.data.video import VideoError, probe
    from tubelet.evaluate.detect import detections, to_csv, to_dict
    from tubelet.train.checkpoint import atomically, void
    from tubelet.train.log import Counter, say

    for name, path, endings in (("out", a.out, (".json", ".csv")), ("overlay", a.overlay, (".mp4", ".mkv"))):
        if path is not None and path.suffix not in endings:
            raise ValueError(f"--{name} {path}: name a {' or '.join(endings)}")
    if not 0 <= a.threshold <= 1 or a.top < 1:
        raise ValueError(f"--threshold {a.threshold:g} --top {a.top}: expected 0 to 1, and at least one action")
    video = probe(a.video)
    people = where(a)
    actor = None if a.weights is None else actor_of(a.weights, a.device, a.precision, a.others)
    names = () if actor is None else actor.names
    found: list[Detection] = []
    code, ended = 0, ""
    try:
        for moment in detections(a.video, people, actor, Counter("moments", a.quiet)):
            found += moment
    except KeyboardInterrupt:
        code, ended = 130, "interrupted"
    except VideoError as error:  # what came before is right
        code, ended = 1, str(error)
    if ended:
        say(f"{ended}. What was found until then follows")
    told = to_dict(a.video, found, names, a.threshold)
    lines = [json.dumps(told)] if a.json else words(found, names, a.threshold, a.top, video.duration)
    print("\n".join(lines), flush=True)
    if not found and not ended:
        say(nobody(a))
    if a.out is not None:
        text = to_csv(found, names, a.threshold) if a.out.suffix == ".csv" else json.dumps(told, indent=1) + "\n"
        atomically(a.out, lambda file: void(file.write(text.encode())))
        say(f"written  {a.out}")
    if a.overlay is not None and code != 130:
        from tubelet.box_pictures import annotated

        drawing = Counter("drawing", a.quiet)
        drawn = annotated(a.video, found, names, a.overlay, least=a.threshold, top=a.top, progress=drawing)
        say(f"overlay  {drawn}")
    return code


def where(a: Any) -> "Search | list[KeyFrame]":
    """How to look for people, or where they are known to be.

    Raises:
        ValueError: boxes and what is for a detector are both given, or the table has none for this video.
    """
    from tubelet.data.people import detector_of
    from tubelet.evaluate.detect import Search
    from tubelet.targets import MEAN, STD
    from tubelet.train.log import say

    if a.boxes is None:
        normal = (MEAN, STD) if a.imagenet else None
        detector = detector_of(a.detector, least=a.least_score, person=a.person, normal=normal)
        say(f"detector  {detector}")
        return Search(detector, a.every, a.per_second, patience=a.patience, shortest=a.shortest)
    if a.detector != "hog" or a.person is not None or a.imagenet:
        raise ValueError("--boxes says where people are, so no detector is asked; leave out --detector and what is its")
    from tubelet.data.annotations import key_frames

    items = key_frames(a.boxes).items
    own = [item.key for item in items if item.key is not None and item.path.resolve() == a.video.resolve()]
    if not own:
        some = f", the first is {items[0].path}" if items else ""
        raise ValueError(f"{a.boxes} has no boxes for {a.video}; it has {len(items)} key moments of others{some}")
    return own


def nobody(a: Any) -> str:
    """What to try where nobody was found."""
    if a.boxes is not None:
        return f"no boxes: {a.boxes} has key moments of this video, and none in them"
    better = "a detector that was trained on more (--detector FILE.onnx), or " * (a.detector == "hog")
    return (
        f"nobody found in {a.video} by {a.detector}. Try {better}--least-score below {a.least_score:g}, --shortest 1, "
        "or boxes of your own (--boxes)"
    )


def words(found: "Sequence[Detection]", names: Sequence[str], threshold: float, top: int, duration: float) -> list[str]:
    """What was found, for people: a line for each, with what they do for how many of their key moments."""
    from tubelet.evaluate.detect import by_person, likely

    people = by_person(found)
    lines = [f"{sum(person is not None for person, _ in people)} people in {span(0, duration)}"]
    for person, moments in people:
        sums: dict[str, list[float]] = {}
        for one in moments:
            for name, value in likely(one, names, threshold):
                sums.setdefault(name, []).append(value)
        often = sorted(sums.items(), key=lambda pair: (-len(pair[1]), -sum(pair[1])))[:top]
        doing = "  ".join(f"{name} {len(values)}x {100 * sum(values) / len(values):.0f} %" for name, values in often)
        who = "nobody known" if person is None else f"person {person}"
        lines.append(
            f"  {who:<10}  {span(moments[0].seconds, moments[-1].seconds)}  {len(moments)} moments  {doing}".rstrip()
        )
    return lines


def actor_of(weights: Path, device: str, precision: str, others: OfOthers) -> "Actor":
    """The network of a run of action detection, to look at clips of a video.

    Raises:
        ValueError: the run does not look at clips around a moment.
    """
    from tubelet.cli.testing_boxes import looker_for
    from tubelet.data.sampling import Around
    from tubelet.data.transforms import covering
    from tubelet.evaluate.detect import Actor
    from tubelet.evaluate.key_frames import look

    looker = looker_for(weights, device, precision, others=others)
    if not isinstance(looker.data.clip, Around):
        raise ValueError(f"{weights} was trained on {looker.data.clip}, and not on clips around a moment")
    return Actor(
        partial(look, looker),
        looker.data.clip,
        looker.labels.names,
        gray=looker.data.channels == 1,
        prepare=partial(covering, size=(looker.side, looker.side)),  # as the network wants them, so nothing is lost
    )
