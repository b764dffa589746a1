"""The verb that says what people in videos do, and where they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, apart, parse
from tubelet.cli.predicting import span

if TYPE_CHECKING:
    from tubelet.data.keyframes import Box, KeyFrame
    from tubelet.evaluate.detect import Actor, Search, Seen
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
        every: float | None = None
        """Seconds from one key moment to the next; default 1."""
        per_second: float | None = None
        """Frames a second in which the detector looks, to follow people from one key moment to the next; default 5."""
        least_score: float | None = None
        """Leave out boxes whose score is lower; default 0.5 of a detector's, and none of --boxes."""
        shortest: int | None = None
        """Leave out people who are found in fewer frames; default 2."""
        patience: float | None = None
        """Seconds for which a person may be lost and be the same afterwards; default 1."""
        threshold: float | None = None
        """Leave out actions that are less probable; default 0.5."""
        top: int | None = None
        """How many actions of a person are shown; default 3."""
        out: Path | None = None
        """Write what was found: .json or .csv."""
        overlay: Path | None = None
        """Write the video with boxes, actions and a bar of time, .mp4."""
        precision: Literal["float32", "bfloat16"] = "float32"
        """Arithmetic of the network."""
        device: str = "auto"
        """Of the network, and of torchvision's detectors: cpu, cuda, cuda:1 or mps."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        quiet: bool = False
        """No progress."""
        json: bool = False
        """One JSON object on stdout instead of words."""

    a = parse(Detect, args, "detect")
    from tubelet.data.video import VideoError, probe
    from tubelet.evaluate.detect import detections, in_between, to_csv, to_dict
    from tubelet.train.checkpoint import atomically, void
    from tubelet.train.log import Counter, say

    for name, path, endings in (("out", a.out, (".json", ".csv")), ("overlay", a.overlay, (".mp4", ".mkv"))):
        if path is not None and path.suffix not in endings:
            raise ValueError(f"--{name} {path}: name a {' or '.join(endings)}")
    apart({"out": a.out, "overlay": a.overlay}, [a.video])
    if a.weights is None and (a.threshold is not None or a.top is not None):
        raise ValueError("--threshold and --top are for actions, which a network says: --weights RUN")
    threshold, top = 0.5 if a.threshold is None else a.threshold, 3 if a.top is None else a.top
    if not 0 <= threshold <= 1 or top < 1:
        raise ValueError(f"--threshold {threshold:g} --top {top}: expected 0 to 1, and at least one action")
    video = probe(a.video)
    people = where(a)
    actor = None if a.weights is None else actor_of(a.weights, a.device, a.precision, a.others)
    names = () if actor is None else actor.names
    seen: list[Seen] = []
    looks: list[tuple[float, list[Box]]] = []
    code, ended = 0, ""

    def looked(seconds: float, boxes: "list[Box]") -> None:
        if a.overlay is not None:
            looks.append((seconds, boxes))

    try:
        for moment in detections(a.video, people, actor, Counter("moments", a.quiet), looked):
            seen.append(moment)
    except KeyboardInterrupt:
        code, ended = 130, "interrupted"
    except VideoError as error:  # what came before is right
        code, ended = 1, str(error)
    if ended:
        say(f"{ended}. What was found until then follows")
    told = to_dict(a.video, seen, names, threshold)
    found = [one for _, there in seen for one in there]
    lines = [json.dumps(told)] if a.json else words(found, names, threshold, top, video.duration)
    print("\n".join(lines), flush=True)
    if not found and not ended:
        say(nobody(a))
    if a.out is not None:
        text = to_csv(a.video, seen, names, threshold) if a.out.suffix == ".csv" else json.dumps(told, indent=1) + "\n"
        atomically(a.out, lambda file: void(file.write(text.encode())))
        say(f"written  {a.out}")
    if a.overlay is not None and code != 130:
        from tubelet.box_pictures import annotated

        drawing = partial(annotated, least=threshold, top=top, progress=Counter("drawing", a.quiet), broken=bool(ended))
        try:
            drawn = drawing(a.video, in_between(seen, looks), names, a.overlay)
        except VideoError:
            if not ended:
                raise
            say("no overlay is written: no frame can be read again")  # why is said above
        else:
            say(f"overlay  {drawn}" + ", up to where the video can be read" * bool(ended))
    return code


def where(a: Any) -> "Search | list[KeyFrame]":
    """How to look for people, or where they are known to be.

    Raises:
        ValueError: boxes and what is for a detector are both given, or the table has none for this video, or would be
            replaced.
    """
    from tubelet.data.people import detector_of
    from tubelet.evaluate.detect import Search
    from tubelet.targets import MEAN, STD
    from tubelet.train.device import pick_device
    from tubelet.train.log import say

    following = {name: getattr(a, name) for name in ("every", "per_second", "shortest", "patience")}
    given = {name: value for name, value in following.items() if value is not None}
    if a.boxes is None:
        normal = (MEAN, STD) if a.imagenet else None
        least, device = 0.5 if a.least_score is None else a.least_score, pick_device(a.device)
        detector = detector_of(a.detector, least=least, person=a.person, normal=normal, device=device)
        say(f"detector  {detector}")
        return Search(detector, **given)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--boxes says when people are where, so nobody is looked for and followed; leave out {flags}")
    if a.detector != "hog" or a.person is not None or a.imagenet:
        raise ValueError("--boxes says where people are, so no detector is asked; leave out --detector and what is its")
    from tubelet.data.annotations import key_frames
    from tubelet.train.log import noted

    known = key_frames(a.boxes)
    noted(known.notes)
    apart({"out": a.out, "overlay": a.overlay}, [Path(known.source)])
    items = known.items
    own = [item.key for item in items if item.key is not None and item.path.resolve() == a.video.resolve()]
    if not own:
        some = f", the first is {items[0].path}" if items else ""
        raise ValueError(f"{a.boxes} has no boxes for {a.video}; it has {len(items)} key moments of others{some}")
    if a.least_score is not None:  # who is left out is not there; the moment stays
        own = [replace(key, boxes=tuple(box for box in key.boxes if box.score >= a.least_score)) for key in own]
    return own


def nobody(a: Any) -> str:
    """What to try where nobody was found."""
    if a.boxes is not None:
        sure = "" if a.least_score is None else f" of a score of {a.least_score:g} or more"
        return f"no boxes: {a.boxes} has key moments of this video, and none{sure} in them"
    least = 0.5 if a.least_score is None else a.least_score
    better = "a detector that was trained on more (--detector FILE.onnx), or " * (a.detector == "hog")
    return (
        f"nobody found in {a.video} by {a.detector}. Try {better}--least-score below {least:g}, --shortest 1, "
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
