"""The verb that counts how often a fine-tuned network is right."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, opened, parse
from tubelet.cli.launching import asked, launched

if TYPE_CHECKING:
    import torch

    from tubelet.data.sources import Item
    from tubelet.evaluate.results import Number, Results
    from tubelet.evaluate.views import Viewer


def test_verb(args: list[str]) -> int:
    """Numbers on labelled videos: tubelet test --weights RUN --data DIR"""

    @dataclass(frozen=True)
    class Test:
        """Look at labelled videos in several views and count how often the network is right.

        tubelet test --weights runs/tuned --data test.csv --views 5x3

        Views are clips x crops: 5x3 for Kinetics and UCF101, 2x3 for Something-Something. What was found is written
        to a file, a line per video, from which the numbers can be had again: tubelet test --results FILE.
        A network that looks at people in boxes is tested on key frames (frame mAP): --data boxes.csv or ava:DIR:val.
        On several GPUs: torchrun --nproc-per-node 4 --no-python tubelet test ...
        """

        weights: Path | None = None
        """A fine-tuned run, or a file of it (best.safetensors), or weights of others."""
        data: str | None = None
        """Labelled videos: class folders, a list, or a data set as in ucf101:DIR:test:1 (docs/recipes.md); key frames:
        boxes.csv, ava:DIR:val, or another source of boxes (docs/detection.md)."""
        views: str = "5x3"
        """Clips x crops per video."""
        average: Literal["probabilities", "scores"] = "probabilities"
        """What is averaged over views: probabilities, or the scores before the softmax."""
        classes: Literal["all", "shared"] = "all"
        """shared: say also how often it is right among the classes that the test set has, if the network knows more."""
        boxes: str | None = None
        """Of key frames: people that a detector found (csv, or json as ava_val_det_person_bbox.json), to look at
        instead of the true boxes, which are an upper bound."""
        least_score: float | None = None
        """How sure the detector has to be of those; default 0.8."""
        most: int | None = None
        """Of key frames: so many boxes with a class of a frame count, the surest; AVA's official script takes 50."""
        results: Path | None = None
        """Say the numbers of this file again, instead of testing. Of key frames also a csv of whomever, as AVA's
        evaluation reads it, beside the true boxes: --results FILE.csv --data ava:DIR:val."""
        out: Path | None = None
        """File of results to write, .jsonl; default in the folder of the weights. The confusion matrix is beside it."""
        batch: int = 16
        """Clips that go through the network at once."""
        workers: int = 0
        """Processes that read videos; 0: this one."""
        precision: Literal["float32", "bfloat16"] = "float32"
        """Arithmetic of the network."""
        device: str = "auto"
        """cpu, cuda, cuda:1 or mps."""
        gpus: int = 1
        """Processes of this machine that share the videos, one for each GPU (or on the CPU with --device cpu)."""
        seed: int = 0
        """Of the draws that the 95 % intervals are made from."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        quiet: bool = False
        """No progress."""
        json: bool = False
        """One JSON object on stdout instead of words."""

    a = parse(Test, args, "test")
    from tubelet.cli.testing_boxes import test_of_others, test_on_boxes, told_boxes
    from tubelet.data.sources import find
    from tubelet.evaluate.frame_results import from_lines as boxes_from_lines
    from tubelet.evaluate.frame_results import is_of_key_frames
    from tubelet.evaluate.results import from_lines, guessing, numbers
    from tubelet.evaluate.views import Views, multi_view
    from tubelet.nn.collective import joined
    from tubelet.report import add_result
    from tubelet.report_results import Measured, home
    from tubelet.train.checkpoint import weights_of
    from tubelet.train.log import Counter, noted
    from tubelet.weights.hub import on_hub

    if a.results is not None and a.results.suffix == ".csv":
        return test_of_others(a)
    if a.results is not None:
        if a.weights or a.data:
            raise ValueError("--results says numbers again; leave out --weights and --data")
        if a.results.is_file() and is_of_key_frames(a.results):
            return told_boxes(boxes_from_lines(a.results), a.results, a, {})
        results = from_lines(a.results)
        return told(results, numbers(results, a.seed), a.results, a)
    if asked(a.gpus):
        return launched(a.gpus, ["test", *args], a.device)
    if a.weights is None or a.data is None:
        raise ValueError("a test needs --weights RUN and --data VIDEOS, or --results FILE of an earlier one")
    if a.out is None and on_hub(a.weights):
        raise ValueError(f"{a.weights} is no folder to write results to; name a file: --out RESULTS.jsonl")
    if weights_of(a.weights, a.others.asked()).kind == "detector":
        return test_on_boxes(a)
    if a.boxes is not None or a.most is not None:
        raise ValueError(f"--boxes and --most are for networks that look at people in boxes; {a.weights} does not")
    out = a.out or (a.weights if a.weights.is_dir() else a.weights.parent) / f"test-{word(a.data)}-{a.views}.jsonl"
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out}: results are JSON lines; name a .jsonl")
    views, items = Views.parse(a.views), find(a.data)
    noted(trained_on(a.weights, items))
    if out.exists():
        only_of(out, items)
    with joined() as (rank, _):
        viewer = viewer_of(a.weights, a.device, a.precision, a.average, a.batch, a.others)
        progress = Counter("testing", a.quiet)
        results = multi_view(viewer, items, views, workers=a.workers, progress=progress)
    if rank > 0:
        return 0
    found = numbers(results, a.seed)
    code = told(results, found, out, a, write=True)
    if home(a.weights) is not None:
        few = f"{len(results.read)} videos of {len(results.labels.names)} classes"
        of = f"{len(results.read)} videos" if results.labels.kind == "values" else few
        how = f"{a.views} views, mean of {a.average}"
        add_result(a.weights, Measured("test", a.data, how, of, found, guessing(results)))
    return code


def trained_on(weights: Path, items: "Sequence[Item]") -> list[str]:
    """A note where videos to test on were trained on, or where that cannot be told."""
    from tubelet.config import read_card
    from tubelet.data.sources import find
    from tubelet.data.split import overlap

    card = (weights if weights.is_dir() else weights.parent) / "run.json"
    if not card.is_file():
        return []
    source = read_card(card).get("data", "")
    try:
        twice = overlap(find(source), items)
    except (ValueError, OSError):
        return [f"whether videos were trained on cannot be told: {source} is not there any more"]
    names = "; ".join(f"{other.path}" for _, other in twice[:3])
    return [f"{len(twice)} of {len(items)} videos were trained on (the same file or a copy): {names}"] * bool(twice)


def only_of(path: Path, items: "Sequence[Item]") -> None:
    """Results are replaced by those of the same videos only.

    Raises:
        ValueError: the file holds something else.
    """
    from tubelet.evaluate.results import from_lines

    try:
        before = [(Path(row.path).absolute(), row.start, row.end) for row in from_lines(path).rows]
    except ValueError:
        before = []
    if before != [(item.path.absolute(), item.start, item.end) for item in items]:
        raise ValueError(f"{path} holds something else than results of these videos; name another file: --out")


def word(text: str) -> str:
    """A source as part of a file name.

    >>> word("lists/test 1.csv"), word("ucf101:/data/UCF101:test:1")
    ('test-1', 'UCF101-test-1')
    """
    return re.sub(r"\W+", "-", Path(text).stem).strip("-") or "data"


def viewer_of(
    weights: Path,
    device: str,
    precision: str,
    average: Any = "probabilities",
    batch: int = 16,
    others: OfOthers = OfOthers(),  # noqa: B008 - frozen
) -> "Viewer":
    """The network of a fine-tuned run, on its device."""
    from tubelet.evaluate.views import Viewer

    if batch < 1:
        raise ValueError(f"--batch {batch}: at least one clip")
    classifier, run = opened(weights, others, "classifier")
    network, place = placed(classifier, device, precision)
    return Viewer(network, run.data, run.encoder.patch, average, place, batch)


def placed(module: Any, device: str, precision: str) -> "tuple[Callable[..., torch.Tensor], torch.device]":
    """What a network says, on its device and in its arithmetic; and the device."""
    import torch

    from tubelet.nn.narrow import narrow
    from tubelet.train.device import pick_device

    place = pick_device(device)
    module = module.to(place)
    if precision == "bfloat16":
        narrow(module)

    def network(*inputs: Any) -> torch.Tensor:
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return cast(torch.Tensor, module(*inputs))

    return network, place


def told(results: "Results", all_: "dict[str, Number]", out: Path, a: Any, write: bool = False) -> int:
    """Prints the numbers of a test, and writes its file and picture if it is new."""
    from tubelet.charts import confusion_picture
    from tubelet.evaluate.results import by_class, lines_for_people, numbers, to_lines, unread_lines
    from tubelet.report_results import plain
    from tubelet.train.checkpoint import atomically, void
    from tubelet.train.log import noted, say

    if write:
        atomically(out, lambda file: void(file.write(to_lines(results).encode())))
    noted([note for row in results.rows for note in row.notes])
    for line in unread_lines(results):
        say(line)
    found = {"all": all_}
    narrow = results.shared() if a.classes == "shared" else None
    if narrow is not None:
        found["shared"] = numbers(narrow, a.seed)
    picture = None
    if results.labels.kind in ("class", "shares"):
        picture = out.with_suffix(".png")
        if write or not picture.exists():
            confusion_picture(results, picture)
    if a.json:
        said = {
            "videos": len(results.read),
            "unreadable": [{"path": row.path, "error": row.error} for row in results.unread],
            "views": results.views,
            "average": results.average,
            "numbers": {name: asdict(number) for name, number in found["all"].items()},
            "classes": [] if results.labels.kind == "values" else by_class(results),
            "results": str(out),
            "picture": picture and str(picture),
        }
        if narrow is not None:
            said["shared"] = {
                "classes": narrow.labels.names,
                "numbers": {name: asdict(number) for name, number in found["shared"].items()},
            }
        print(json.dumps(plain(said)))
        return 0
    print("\n".join(lines_for_people(results, found["all"])))
    if narrow is not None:
        print(f"\nonly the {len(narrow.labels.names)} classes that the test set has:")
        print("\n".join(lines_for_people(narrow, found["shared"], classes=False)[1:]))
    print("\n".join(f"{name:<8} {path}" for name, path in (("results", out), ("picture", picture)) if path))
    return 0
