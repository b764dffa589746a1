"""How long does it take to load ViT-B, and how much memory? Against safetensors' own load of the same tensors.

    python benchmarks/weights.py [--repeats 10]

A classifier of 400 classes filled with noise, in the layouts of VideoMAE's code (.safetensors and .pth), of a folder of
transformers (queries, keys and values in one matrix, or apart with q_bias and v_bias as its release 4 wrote them), and
of MAE (an encoder of images). Sides take turns in one process, the minimum counts: safetensors filling the same network
that is there (`load_model`), safetensors mapping the file alone (`load_file`), and `tubelet.weights.load.network`,
which recognises, checks, renames, builds and reports. On every side every value is read once, since mapped files are
read late. Aim: 1.5 times `load_model`. Peaks of memory are measured in processes of their own, after the load of a
small file of that layout, as multiples of the file, whose mapped pages count; tests/weights/test_load.py holds two of
them. Writes benchmarks/weights.csv.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file
from table import provenance, save
from torch import Tensor, nn

from tubelet.export.folder import to_hugging_face
from tubelet.export.official import to_official
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import SIZES, Encoder
from tubelet.types import Grid
from tubelet.weights.load import network


def layouts(folder: Path, size: Encoder) -> dict[str, Path]:
    """Files of the same noise in every layout, with an encoder of a size."""
    filled = Classifier(size.build(Grid(8, 14, 14), 3), 400)
    for parameter in filled.parameters():
        nn.init.normal_(parameter, std=0.05)
    official = to_official(filled.state_dict(), size.patch, tuned=True)
    apart = to_hugging_face(filled.state_dict(), size.patch)
    files = {
        "VideoMAE, .safetensors": official,
        "transformers, in one matrix": in_one(apart),
        "transformers, apart": apart,
        "MAE": as_mae(official, size.width),
    }
    found = {}
    for number, (name, state) in enumerate(files.items()):
        found[name] = folder / str(number) / "model.safetensors"
        found[name].parent.mkdir(parents=True)
        save_file(state, found[name])
    found["VideoMAE, .pth"] = folder / "b.pth"
    torch.save({"model": official}, found["VideoMAE, .pth"])
    return found


def in_one(apart: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors with queries, keys and values in one matrix."""
    found = dict(apart)
    for name in [name for name in apart if name.endswith("query.weight")]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("query", "qkv")] = torch.cat(parts)
    return found


def as_mae(official: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """An encoder of images in MAE's layout, with the weights of one of video in VideoMAE's."""
    found = {"cls_token": torch.randn(1, 1, width), "pos_embed": torch.randn(1, 197, width)}
    for name, value in official.items():
        if name.endswith("q_bias"):
            biases = [value, torch.zeros(width), official[name.replace("q_bias", "v_bias")]]
            found[name.replace("q_bias", "qkv.bias")] = torch.cat(biases)
        elif name == "patch_embed.proj.weight":
            found[name] = value[:, :, 0].contiguous()
        elif not name.endswith("v_bias"):
            found[name.replace("fc_norm", "norm")] = value
    return found


def seconds(act: Callable[[], dict[str, Tensor]]) -> float:
    """Of the processor, for what `act` gives, every value read."""
    start = time.process_time()
    sum(float(value.sum()) for value in act().values())
    return time.process_time() - start


def into(module: nn.Module, own: Path) -> dict[str, Tensor]:
    """What safetensors makes of a network that is there."""
    load_model(module, own)
    return module.state_dict()


def peak() -> int:
    """Bytes that this process had at most."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def child(small: str, file: str) -> None:
    """Prints how many bytes more this process took at most for loading a file and reading every value, once it had
    loaded a small one: what is imported, and read of libraries, does not count."""
    seconds(lambda: network(small)[0].state_dict())
    Path("/proc/self/clear_refs").write_text("5")  # or it would be what the parent had when it started this
    before = peak()
    seconds(lambda: network(file)[0].state_dict())
    print(peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        child(*args.peak)
    else:
        compare(args.repeats)


def compare(repeats: int) -> None:
    """Every layout on every side, into the CSV."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small = layouts(Path(folder) / "small", replace(SIZES["b"], width=64, depth=1, heads=1, hidden=128))
        for name, file in layouts(Path(folder) / "b", SIZES["b"]).items():
            module, own = deepcopy(network(file)[0]), Path(folder) / "own.safetensors"
            save_file(module.state_dict(), own)
            sides = {
                "safetensors, into a network": partial(into, module, own),
                "safetensors, the file alone": partial(load_file, own),
                "tubelet": lambda file=file: network(file)[0].state_dict(),
            }
            times: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(repeats):
                for side, act in sides.items():
                    times[side].append(seconds(act))
            command = [sys.executable, __file__, "--peak", str(small[name]), str(file)]
            most = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            base = min(times["safetensors, into a network"])
            for side, found in times.items():
                row = {"layout": name, "side": side, "seconds": round(min(found), 4)}
                row |= {"ratio": round(min(found) / base, 3), "repeats": repeats}
                row["peak over file"] = round(most / file.stat().st_size, 3) if side == "tubelet" else ""
                print(*row.values(), sep=", ", flush=True)
                rows.append(row | provenance())
    save(__file__, rows)


if __name__ == "__main__":
    main()
