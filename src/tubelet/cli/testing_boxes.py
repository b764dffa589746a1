"""The test of a network that looks at people in boxes: frame mAP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tubelet.cli.arguments import NOTHING, OfOthers, opened
from tubelet.cli.testing import placed, word

if TYPE_CHECKING:
    from tubelet.data.annotated import KeyFrames
    from tubelet.evaluate.frame_results import FrameResults
    from tubelet.evaluate.key_frames import Looker


def test_on_boxes(a: Any) -> int:
    """Numbers on key frames, as `tubelet test` was asked for them."""
    from tubelet.data.annotations import key_frames
    from tubelet.data.detected import with_detections
    from tubelet.detection import remarks
    from tubelet.evaluate.key_frames import over_key_frames
    from tubelet.nn.collective import from_first, joined
    from tubelet.report import add_result
    from tubelet.report_results import Measured, home
    from tubelet.train.log import Counter, noted

    if a.views != "5x3" or a.average != "probabilities" or a.classes != "all":
        raise ValueError("--views, --average and --classes are for whole clips; key frames are looked at once, whole")
    if a.least_score is not None and a.boxes is None:
        raise ValueError("--least-score is how sure the detector of --boxes has to be, which were not given")
    name = f"test-{word(Path(a.data).name)}{'' if a.boxes is None else '-found'}.jsonl"
    out = a.out or (a.weights if a.weights.is_dir() else a.weights.parent) / name
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out}: results are JSON lines; name a .jsonl")
    own_files(out)
    looker = looker_for(a.weights, a.device, a.precision, a.batch, a.others)
    with joined() as (rank, _):
        truth = from_first(lambda: key_frames(a.data, names=looker.labels.names, part="val"))
        sure = 0.8 if a.least_score is None else a.least_score
        found = None if a.boxes is None else with_detections(truth, a.boxes, sure)
        if rank == 0:
            noted([*truth.notes, *remarks(truth), *(() if found is None else found.notes)])
            noted(learnt_from(a.weights, truth))
        results = over_key_frames(
            looker,
            truth.items,
            None if found is None else found.items,
            evaluated=[name for name in truth.evaluated if name in looker.labels.names],
            excluded=truth.excluded,
            workers=a.workers,
            progress=Counter("looking at key frames", a.quiet),
        )
    if rank > 0:
        return 0
    code = told_boxes(results, out, a, truth.ids or {name: n for n, name in enumerate(results.names, 1)}, write=True)
    if home(a.weights) is not None:
        whose = "true boxes" if found is None else f"boxes of {Path(a.boxes).name} of {sure:g} and more"
        how = f"{whose}{'' if a.most is None else f', at most {a.most} for a class of a frame'}"
        of = f"{len(results.rows)} key frames, {len(results.evaluated)} classes"
        score = {"frame_map": results.counted(most=a.most).number(a.seed)}
        add_result(a.weights, Measured("test on key frames", a.data, how, of, score))
    return code


def test_of_others(a: Any) -> int:
    """Numbers of a table of results as AVA's evaluation reads it, of whomever: --results FILE.csv --data BOXES."""
    from tubelet.data.annotations import key_frames
    from tubelet.evaluate.frame_results import FrameResults, of_detections
    from tubelet.evaluate.official_csv import from_csv
    from tubelet.train.log import noted

    if a.data is None or a.weights is not None:
        raise ValueError(f"--results {a.results} is of detections: it needs the true boxes, --data, and no --weights")
    truth = key_frames(a.data, part="val")
    ids = truth.ids or {name: number for number, name in enumerate(truth.names, 1)}
    noted(truth.notes)
    rows = of_detections(from_csv(a.results, truth.names, ids), truth.items, truth.excluded)
    return told_boxes(FrameResults(truth.names, truth.evaluated, "found", rows, len(truth.excluded)), a.results, a, ids)


def own_files(out: Path) -> None:
    """Results are replaced by results only.

    Raises:
        ValueError: one of the files to write is there and something else.
    """
    from tubelet.evaluate.frame_results import is_of_key_frames

    if out.exists() and not is_of_key_frames(out):
        raise ValueError(f"{out} is there, and no results of key frames; name another file: --out")
    if not out.exists() and (table := table_beside(out)).exists():
        raise ValueError(f"{table} is there, without the results that it would belong to; name another file: --out")


def table_beside(out: Path) -> Path:
    """Where results are written as AVA's evaluation reads them."""
    return out.with_name(f"{out.stem}-ava.csv")


def learnt_from(weights: Path, truth: "KeyFrames") -> list[str]:
    """A note where videos to test on were trained on, or where that cannot be told."""
    from tubelet.config import read_card
    from tubelet.data.annotations import key_frames
    from tubelet.data.split import overlap
    from tubelet.detection import videos_of

    card = (weights if weights.is_dir() else weights.parent) / "run.json"
    if not card.is_file():
        return []
    source = read_card(card).get("data", "")
    try:
        twice = overlap(videos_of(key_frames(source)), videos_of(truth))
    except (ValueError, OSError):
        return [f"whether videos were trained on cannot be told: {source} is not there any more"]
    names = "; ".join(f"{other.path}" for _, other in twice[:3])
    return [f"{len(twice)} videos were trained on (the same file or a copy): {names}"] * bool(twice)


def told_boxes(results: "FrameResults", out: Path, a: Any, ids: Mapping[str, int], write: bool = False) -> int:
    """Prints the numbers of a test on key frames, and writes its files if it is new."""
    from tubelet.evaluate.frame_results import lines_for_people, summary, to_lines, unread_lines
    from tubelet.evaluate.official_csv import to_csv
    from tubelet.report_results import plain
    from tubelet.train.checkpoint import atomically
    from tubelet.train.log import noted, say

    counted, table = results.counted(most=a.most), table_beside(out)
    if write:
        rows = to_csv(results.detections, results.names, ids)
        atomically(table, lambda file: file.writelines(line.encode() for line in rows))
        atomically(out, lambda file: file.writelines(line.encode() for line in to_lines(results)))
    noted([note for row in results.rows for note in row.notes])
    for line in unread_lines(results):
        say(line)
    files = {"results": str(out)} | ({"csv": str(table)} if table.exists() else {})
    if a.json:
        print(json.dumps(plain(summary(results, counted, a.seed) | files)))
        return 0
    print("\n".join(lines_for_people(results, counted, a.seed)))
    print("\n".join(f"{name:<8} {path}" for name, path in files.items()))
    return 0


def looker_for(
    weights: Path,
    device: str,
    precision: str = "float32",
    batch: int = 16,
    others: OfOthers = NOTHING,
) -> "Looker":
    """The network of a run of action detection, on its device."""
    from tubelet.detection import looker_of

    if batch < 1:
        raise ValueError(f"--batch {batch}: at least one clip")
    detector, run = opened(weights, others, "detector")
    network, place = placed(detector, device, precision)
    return looker_of(network, run, place, batch)
