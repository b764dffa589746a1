"""The test of a network that looks at people in boxes: frame mAP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tubelet.cli.arguments import NOTHING, OfOthers, opened
from tubelet.cli.testing import plain, word

if TYPE_CHECKING:
    from tubelet.evaluate.frame_results import FrameResults
    from tubelet.evaluate.key_frames import Looker


def test_on_boxes(a: Any) -> int:
    """Numbers on key frames, as `tubelet test` was asked for them."""
    from tubelet.data.annotations import key_frames
    from tubelet.data.detected import with_detections
    from tubelet.evaluate.key_frames import over_key_frames
    from tubelet.nn.collective import from_first, joined
    from tubelet.train.log import Counter, noted

    if a.views != "5x3" or a.average != "probabilities" or a.classes != "all":
        raise ValueError("--views, --average and --classes are for whole clips; key frames are looked at once, whole")
    name = f"test-{word(a.data)}{'' if a.boxes is None else '-found'}.jsonl"
    out = a.out or (a.weights if a.weights.is_dir() else a.weights.parent) / name
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out}: results are JSON lines; name a .jsonl")
    looker = looker_for(a.weights, a.device, a.precision, a.batch, a.others)
    with joined() as (rank, _):
        truth = from_first(lambda: key_frames(a.data, names=looker.labels.names))
        found = None if a.boxes is None else with_detections(truth, a.boxes, a.least_score)
        if rank == 0:
            noted([*truth.notes, *(() if found is None else found.notes)])
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
    return told_boxes(results, out, a, truth.ids or {name: n for n, name in enumerate(results.names, 1)}, write=True)


def told_boxes(results: "FrameResults", out: Path, a: Any, ids: Mapping[str, int], write: bool = False) -> int:
    """Prints the numbers of a test on key frames, and writes its files if it is new."""
    from tubelet.evaluate.frame_results import lines_for_people, summary, to_lines, unread_lines
    from tubelet.evaluate.official_csv import to_csv
    from tubelet.train.checkpoint import atomically
    from tubelet.train.log import noted, say

    counted = results.counted(most=a.most)
    table = out.with_suffix(".csv")
    if write:
        atomically(out, lambda file: file.writelines(line.encode() for line in to_lines(results)))
        rows = to_csv(results.detections, results.names, ids)
        atomically(table, lambda file: file.writelines(line.encode() for line in rows))
    noted([note for row in results.rows for note in row.notes])
    for line in unread_lines(results):
        say(line)
    if a.json:
        files = {"results": str(out), "csv": str(table) if table.exists() else None}
        print(json.dumps(plain(summary(results, counted, a.seed) | files)))
        return 0
    print("\n".join(lines_for_people(results, counted, a.seed)))
    print(f"results  {out}" + f"\ncsv      {table}   (as the official evaluation of AVA reads it)" * table.exists())
    return 0


def looker_for(
    weights: Path,
    device: str,
    precision: str = "float32",
    batch: int = 16,
    others: OfOthers = NOTHING,
) -> "Looker":
    """The network of a run of action detection, on its device."""
    import torch

    from tubelet.detection import looker_of
    from tubelet.nn.narrow import narrow
    from tubelet.train.device import pick_device

    if batch < 1:
        raise ValueError(f"--batch {batch}: at least one clip")
    detector, run = opened(weights, others, "detector")
    place = pick_device(device)
    detector = detector.to(place)
    if precision == "bfloat16":
        narrow(detector)

    def network(*inputs: Any) -> torch.Tensor:
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return cast(torch.Tensor, detector(*inputs))

    return looker_of(network, run, place, batch)
