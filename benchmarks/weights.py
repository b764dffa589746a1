"""How long does it take to load ViT-B? Against safetensors' own load of the same tensors.

    python benchmarks/weights.py [--repeats 10]

A classifier of 400 classes in the layout of VideoMAE's code, filled with noise, as .safetensors and as .pth. Sides take
turns in one process, the minimum counts: safetensors filling a network that is there (`load_model`), safetensors
mapping the file alone (`load_file`), and `tubelet.weights.load.network`, which recognises, checks, renames, builds and
reports. On every side every value is read once, since mapped files are read late. Aim: 1.5 times `load_model`. The peak
of memory is held by tests/weights/test_load.py. Writes benchmarks/weights.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file
from table import provenance, save
from torch import Tensor

from tubelet.export.official import to_official
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import SIZES
from tubelet.types import Grid
from tubelet.weights.load import network


def seconds(act: Callable[[], dict[str, Tensor]]) -> float:
    """Of the processor, for what `act` gives, every value read."""
    start = time.process_time()
    sum(float(value.sum()) for value in act().values())
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        filled = Classifier(SIZES["b"].build(Grid(8, 14, 14), 3), 400)
        for parameter in filled.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        own, theirs, pickled = (Path(folder) / name for name in ("own.safetensors", "b.safetensors", "b.pth"))
        save_file(filled.state_dict(), own)
        state = to_official(filled.state_dict(), SIZES["b"].patch, tuned=True)
        save_file(state, theirs)
        torch.save({"model": state}, pickled)

        def into() -> dict[str, Tensor]:
            load_model(filled, own)
            return filled.state_dict()

        sides = {
            "safetensors, into a network": into,
            "safetensors, the file alone": lambda: load_file(theirs),
            "tubelet, .safetensors": lambda: network(theirs)[0].state_dict(),
            "tubelet, .pth": lambda: network(pickled)[0].state_dict(),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.repeats):
            for name, act in sides.items():
                times[name].append(seconds(act))
    base = min(times["safetensors, into a network"])
    rows = [
        {"side": name, "seconds": round(min(found), 4), "ratio": round(min(found) / base, 3),
         "repeats": args.repeats, **provenance()}
        for name, found in times.items()
    ]  # fmt: skip
    for row in rows:
        print(row["side"], row["seconds"], "s,", row["ratio"], "x")
    save(__file__, rows)


if __name__ == "__main__":
    main()
