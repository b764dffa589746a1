"""Two processes find what one finds: every video is somebody's, and nobody else's."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tubelet.data.sources import Item
from tubelet.evaluate.results import from_lines, numbers
from tubelet.evaluate.views import Views, multi_view
from tubelet.nn import collective

sys.path.insert(0, str(Path(__file__).parent / "evaluate"))
from rigged import film, viewer

WORKER = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rigged import viewer
from tubelet.data.sources import Item
from tubelet.evaluate.results import to_lines
from tubelet.evaluate.views import Views, multi_view
from tubelet.nn.collective import joined, share

items = [Item(Path(path), label) for path, label in json.loads(sys.argv[2])]
folder = Path(sys.argv[3])
with joined() as (rank, world):
    mine = list(share(len(items)))
    results = multi_view(viewer(), items, Views(2, 1))
    (folder / f"{rank}.json").write_text(json.dumps([rank, world, mine]))
    (folder / f"{rank}.jsonl").write_text(to_lines(results))
sys.stdout.flush()
os._exit(0)  # gloo may abort when the interpreter ends
"""


def test_two_processes_find_what_one_finds(tmp_path):
    colours = ["red", "green", "blue", "red", "green"]  # an odd number: shares differ
    items = [Item(film(tmp_path / f"{n}.mp4", colour, 9), "red") for n, colour in enumerate(colours)]
    (tmp_path / "bad.mp4").write_text("no video")
    items.insert(2, Item(tmp_path / "bad.mp4", "red"))
    items.insert(4, items[0])  # the same video twice counts twice
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    named = json.dumps([(str(item.path), item.label) for item in items])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launch, script, str(Path(__file__).parent / "evaluate"), named, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [one[:2] for one in told] == [[0, 2], [1, 2]]
    assert sorted(told[0][2] + told[1][2]) == list(range(7))
    alone = multi_view(viewer(), items, Views(2, 1))
    for rank in (0, 1):
        found = from_lines(tmp_path / f"{rank}.jsonl")
        assert found == alone  # bit for bit
        assert [row.item for row in found.rows] == list(range(7))
        assert numbers(found)["top1"].value == 50


def test_without_others_everything_is_ours(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with collective.joined() as who:
        assert who == (0, 1)
        assert list(collective.share(3)) == [0, 1, 2]
        assert collective.gathered(["a", "b"]) == ["a", "b"]
