"""How the cost of a step grows: with frames, size, mask ratio, clips; parts, checkpoints, dual masks, compiling.

    python benchmarks/growth.py [--preset videomae-k400-s] [--clips 4] [--rounds 3]

Every setting takes a step in turn, on one core of the CPU; the time of the processor, the least of the rounds after the
first, which may compile and goes by the clock. Memory is what `tubelet plan` says, which tests hold to what is
measured. Writes benchmarks/growth.csv.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from table import provenance, save

from tubelet.bench.steps import made
from tubelet.budget import flops
from tubelet.config import Run, preset
from tubelet.masks.random_masks import Tube
from tubelet.masks.running_cell import RunningCell
from tubelet.methods.masked import Masked
from tubelet.plan import plan
from tubelet.train.device import keep_memory, pick_precision
from tubelet.train.distributed import alone
from tubelet.train.loop import compiled, one_step
from tubelet.train.optim import adamw
from tubelet.types import Batch


def settings(run: Run, clips: int) -> dict[str, tuple[Run, int]]:
    """What is compared, by name, and with how many clips: one thing changed at a time."""
    assert isinstance(run.method, Masked)
    assert run.data.clip.frames == 16
    run = replace(run, training=replace(run.training, accumulate=1))
    found = {"as the preset": (run, clips)}
    for frames in (8, 32):
        clip = replace(run.data.clip, frames=frames)
        found[f"{frames} frames"] = (replace(run, data=replace(run.data, clip=clip)), clips)
    for side in (112, 160, 288):
        found[f"{side} pixels"] = (replace(run, data=replace(run.data, size=(side, side))), clips)
    for ratio in (0.75, 0.85, 0.95):
        found[f"{ratio:.0%} hidden"] = (replace(run, method=replace(run.method, mask=Tube(ratio))), clips)
    found["dual masking"] = (replace(run, method=replace(run.method, decode=RunningCell())), clips)
    found["compiled"] = (replace(run, training=replace(run.training, compile=True)), clips)
    found["checkpointing"] = (replace(run, encoder=replace(run.encoder, checkpoint=True)), clips)
    found |= {f"{count} clip{'s' * (count > 1)}": (run, count) for count in (1, 2, 2 * clips)}
    for parts in (count for count in (2, 4) if 2 * clips % count == 0):
        training = replace(run.training, accumulate=parts)
        found[f"{2 * clips} clips in {parts} parts"] = (replace(run, training=training), 2 * clips)
    return {
        name: (replace(run, training=replace(run.training, batch=count)), count) for name, (run, count) in found.items()
    }


def step(run: Run, clips: int) -> Callable[[], None]:
    """A step of a run with so many clips, forward, backward, optimiser."""
    device = torch.device("cpu")
    method, (height, width) = made(run, device), run.data.size
    if run.training.compile:
        compiled(method)
    optimiser = adamw(method, run.optim)
    # Channels last in memory, as the loader gives them.
    video = torch.randint(0, 256, (clips, run.data.clip.frames, height, width, 3), dtype=torch.uint8)
    batch = Batch(video.permute(0, 4, 1, 2, 3), torch.arange(clips))

    def act() -> None:
        one_step(alone(method), batch, 0, run, device, pick_precision("auto", device))
        optimiser.step()
        optimiser.zero_grad()

    return act


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="videomae-k400-s")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_memory()
    compared = settings(preset(args.preset), args.clips)
    steps = {name: step(run, clips) for name, (run, clips) in compared.items()}
    found, first = dict.fromkeys(steps, math.inf), dict.fromkeys(steps, math.inf)
    for number in range(args.rounds + 1):
        for name, act in steps.items():
            begin, clock = time.process_time(), time.monotonic()
            act()
            if number:  # the first warms up
                found[name] = min(found[name], time.process_time() - begin)
            else:
                first[name] = time.monotonic() - clock
    rows = []
    base = found["as the preset"] / args.clips
    for name, (run, clips) in compared.items():
        work = flops(plan(run).gmacs, made(run, torch.device("cpu")))
        rows.append({
            "preset": args.preset, "setting": name, "clips": clips, "tokens": run.grid().tokens,
            "s, a clip": round(found[name] / clips, 4), "times the preset's": round(found[name] / clips / base, 3),
            "GFLOP, a clip": round(work / 1e9, 1), "GFLOP/s": round(work / 1e9 * clips / found[name], 1),
            "s, first step": round(first[name], 1), "GiB, plan": round(plan(run).memory.total / 2**30, 2),
            "rounds": args.rounds,
        } | provenance())  # fmt: skip
        print({key: rows[-1][key] for key in list(rows[-1])[1:10]}, flush=True)
    save(__file__, rows)


if __name__ == "__main__":
    main()
