"""What motion costs: codec vectors beside reading without them, optical flow, and masks beside a step.

    tubelet prepare /path/to/videos runs/prepared
    python benchmarks/motion.py --videos /path/to/videos runs/prepared [--files GLOB] [--seconds 0.5] [--repeats 5]

reading   a clip of 16 frames at stride 4, with and without vectors, native and at a short side of 224 pixels
flow      between two frames of the same clips at 224x224, one direction, nothing read or decoded: OpenCV's DIS by its
          own presets, and `Flow(size=224)`, which makes grey of colours and means of blocks too. Beside it what vectors
          cost more than reading alone, per frame of the clip; and what reading with vectors costs in all
masks     a batch of 64 clips of 16x224x224, every mask, beside a step of ViT-B (of --batch clips, times 64 / batch)

One thread, turn about; the minimum of the repeats counts. Needs the `bench` extra. Writes benchmarks/motion.csv.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from table import provenance, save

from tubelet.config import Optim, preset
from tubelet.data.flow import Flow
from tubelet.data.sources import find
from tubelet.data.video import frames_at, probe
from tubelet.masks.motion_masks import FlowWarp, MotionBox, SimulatedBox
from tubelet.masks.random_masks import Block, Tube
from tubelet.methods.masked import Masked
from tubelet.methods.videomae import DECODERS
from tubelet.nn.vit import SIZES
from tubelet.train.device import keep_memory, pick_precision
from tubelet.train.distributed import alone
from tubelet.train.loop import one_step
from tubelet.train.optim import adamw
from tubelet.types import Batch, Draws, Grid, Motion

FRAMES, STRIDE, SHORT, CLIPS = 16, 4, 224, 64
SPEEDS = {name: getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{name.upper()}") for name in ("ultrafast", "fast", "medium")}


def best(
    sides: dict[str, Callable[[], object]],
    repeats: int,
    seconds: float = 0.0,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds of every side: they take turns, the minimum counts; at least `seconds` in all."""
    found = dict.fromkeys(sides, math.inf)
    begun, turn = time.perf_counter(), 0
    while turn < repeats or time.perf_counter() - begun < seconds:
        for name, act in sides.items():
            start = now()
            act()
            found[name] = min(found[name], 1000 * (now() - start))
        turn += 1
    return found


def reading(name: str, paths: list[Path], repeats: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for every file that has vectors: clips with and without them, and flow of the same frames."""
    for path in paths:
        video = probe(path)
        if video.frames < FRAMES * STRIDE:
            continue
        start = (video.frames - FRAMES * STRIDE) // 2
        wanted = start + STRIDE * np.arange(FRAMES)
        motion = frames_at(path, wanted, vectors=True).motion
        if motion is None or not motion.had.any():
            continue
        pair = frames_at(path, wanted[:2], size=(SHORT, SHORT)).frames
        gray = frames_at(path, wanted[:2], size=(SHORT, SHORT), gray=True).frames[..., 0].numpy()
        sides: dict[str, Callable[[], object]] = {
            "native": partial(frames_at, path, wanted),
            "native, vectors": partial(frames_at, path, wanted, vectors=True),
            "224": partial(frames_at, path, wanted, size=SHORT),
            "224, vectors": partial(frames_at, path, wanted, size=SHORT, vectors=True),
        }
        for speed, number in SPEEDS.items():
            sides[f"OpenCV, {speed}"] = partial(cv2.DISOpticalFlow_create(number).calc, gray[1], gray[0], None)
            sides[f"Flow, {speed}"] = partial(Flow(size=SHORT, speed=speed), pair, both=False)
        found = best(sides, repeats, seconds)
        extra = max(found["native, vectors"] - found["native"], 1e-3) / FRAMES
        row = {
            "what": f"reading, {name}",
            "file": path.name,
            "codec": video.codec,
            "size": f"{video.width}x{video.height}",
            **{f"ms, {name}": round(value, 3) for name, value in found.items()},
            "with / without, native": round(found["native, vectors"] / found["native"], 3),
            "with / without, 224": round(found["224, vectors"] / found["224"], 3),
            "ms more a frame": round(extra, 4),
        }
        for side in ("OpenCV, fast", "OpenCV, medium", "Flow, fast", "Flow, medium"):
            row[f"{side} / extra"] = round(found[side] / extra, 1)
            row[f"{side} / reading with vectors"] = round(FRAMES * found[side] / found["native, vectors"], 1)
        print({key: row[key] for key in ("file", "with / without, native", "with / without, 224", "ms more a frame")})
        yield row


def masks(repeats: int, batch: int) -> Iterator[dict[str, Any]]:
    """A row for every mask: milliseconds for a batch of 64, and its share of a step of ViT-B on 64 clips."""
    grid = Grid.of(FRAMES, SHORT, SHORT, (2, 16, 16))
    rng = torch.Generator().manual_seed(0)
    field = torch.randn(CLIPS, 2, FRAMES, SHORT // 8, SHORT // 8, generator=rng)
    known = torch.ones(CLIPS, FRAMES, SHORT // 8, SHORT // 8, dtype=torch.bool)
    blank = torch.zeros(CLIPS, 3, FRAMES, SHORT, SHORT, dtype=torch.uint8)
    clips = Batch(blank, torch.arange(CLIPS), motion=Motion(field, -field, known, known))
    makers = (Tube(), Block(0.75), SimulatedBox(0.75), MotionBox(0.75), MotionBox(0.75, sparse=True), FlowWarp(0.9))
    sides: dict[str, Callable[[], object]] = {}
    for mask in makers:
        sides[repr(mask)] = lambda mask=mask: mask(clips, grid, Draws(0, 0, range(CLIPS)))
    found = best(sides, repeats)

    keep_memory()
    method = Masked(decoder=DECODERS["b"]).build(SIZES["b"], grid, 3).train()
    optimiser, device = adamw(method, Optim()), torch.device("cpu")
    run = preset("videomae-k400-b")
    part = clips.clips(0, batch)

    def step() -> None:
        one_step(alone(method), part, 0, run, device, pick_precision("auto", device))
        optimiser.step()
        optimiser.zero_grad()

    whole = CLIPS / batch * best({"step": step}, 3)["step"]
    for name, value in found.items():
        yield {
            "what": "mask",
            "file": name,
            "ms, 64 clips": round(value, 2),
            "ms, ViT-B step of 64": round(whole),
            "share of a step": round(value / whole, 4),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True, nargs="+", help="lists or folders; each is summed up by itself")
    parser.add_argument("--files", default="*")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least so long for a file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows: list[dict[str, Any]] = []
    for source in args.videos:
        name = "prepared" if Path(source, "prepared.json").exists() else "originals"
        paths = [item.path for item in find(source) if fnmatch(item.path.name, args.files)]
        some = list(reading(name, paths, args.repeats, args.seconds))
        rows += some
        for key in (
            "with / without, native",
            "with / without, 224",
            "ms more a frame",
            *(key for key in some[0] if "extra" in key or "with vectors" in key),
        ):
            values = np.array([row[key] for row in some])
            mean = np.exp(np.log(values.clip(1e-4)).mean())
            print(f"{name}: {key}: geometric mean {mean:.3f}, {values.min():.3f} to {values.max():.3f}")
    rows += masks(args.repeats, args.batch)
    for row in rows:
        if row["what"] == "mask":
            print(f"{row['file']}: {row['ms, 64 clips']} ms, {100 * row['share of a step']:.2f} % of a step")
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name, "") for name in names} | provenance() for row in rows])


if __name__ == "__main__":
    main()
