"""What one pre-training step of every method costs, on one machine in one run: seconds, peak memory, multiply-adds.

    python benchmarks/methods.py [--sizes s b] [--rounds 3] [--clips 8] [--seconds 15] [--device auto]

16x224x224 clips of random pixels (and motion, where masks follow it), each method with its paper's mask and decoder, on
ViT-S and ViT-B; forward, backward and AdamW as in training, in the precision that training takes by itself. In every
round each method has its turn, in a process of its own that is new each time: a step that does not count, then steps
for --seconds, at least two. The fastest of all rounds counts. On a CPU it is the time of the processor on one thread,
which a shared machine that runs something else meanwhile does not lengthen. Time is a ratio to VideoMAE's in the same
run. Reading and flow are not counted; masks are. Peak memory is the process's own (on CUDA the device's), optimiser
included. Writes benchmarks/methods.csv after every round.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from table import provenance, save

from tubelet.config import Run, preset
from tubelet.methods.masked import Masked
from tubelet.methods.videomae import DECODERS
from tubelet.nn.vit import SIZES
from tubelet.plan import plan
from tubelet.train.device import keep_memory, pick_device, pick_precision
from tubelet.train.distributed import alone
from tubelet.train.loop import one_step
from tubelet.train.optim import adamw
from tubelet.types import Batch, Motion

METHODS = {
    "VideoMAE": "videomae-k400-b",
    "VideoMAE V2": "videomae-v2-b",
    "MGM": "mgm-k400",
    "MGMAE": "mgmae-k400",
    "ST-MAE": "st-mae-k400-b",
    "ARVideo": "arvideo-k400-b",
    "CrossMAE": "cross-mae-k400-b",
    "MaskFeat": "maskfeat-k400-b",
    "HOG target, MAE style": "maskfeat-mae-k400-b",
    "MotionMAE": "motion-mae-k400-b",
    "M3Video": "m3video-k400-b",
    "MoCo v3": "moco-v3-k400-b",
    "V-JEPA": "vjepa-l",
    "OmniMAE": "omni-mae-b",
    "ImageMAE, one frame": "image-mae-b",
}


def run_of(method: str, size: str, clips: int) -> Run:
    """The method's own preset on an encoder of another size; VideoMAE's decoders are as wide as their encoder asks."""
    run = preset(METHODS[method])
    old, new = run.encoder, SIZES[size]
    encoder = replace(new, patch=old.patch, position=old.position, attention=old.attention)
    how = run.method
    if isinstance(how, Masked) and how.decoder == DECODERS["b"]:
        how = replace(how, decoder=DECODERS[size])
    return replace(
        run,
        encoder=encoder,
        method=how,
        data=replace(run.data, repeats=1, images=None),
        training=replace(run.training, batch=clips // run.data.clips, accumulate=1),
    )


def a_batch(run: Run, clips: int) -> Batch:
    """Random pixels; motion that is known everywhere, of a few pixels."""
    torch.manual_seed(1)
    shape = (clips, 3, run.data.clip.frames, *run.data.size)
    motion = None
    if run.data.motion is not None:
        motion = Motion.unknown(shape[2:], run.data.motion.block, clips)
        steps, known = 3 * torch.randn(motion.to_next.shape), torch.ones_like(motion.has)
        motion = replace(motion, to_next=steps, to_previous=-steps, has=known, had=known.clone())
    ids = torch.arange(clips // run.data.clips).repeat_interleave(run.data.clips)
    return Batch(torch.randint(0, 256, shape, dtype=torch.uint8), ids, run.data.clips, motion=motion)


def child(method: str, size: str, clips: int, device: torch.device, length: float) -> None:
    """Prints the seconds of the fastest step after the first, and the peak of memory in GiB."""
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # or the peak would be what the parent had when it started this
        keep_memory()
        torch.set_num_threads(1)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    run = run_of(method, size, clips)
    torch.manual_seed(0)
    module = run.method.build(run.encoder, run.grid(), 3).to(device).train()
    optimiser, batch, precision = adamw(module, run.optim), a_batch(run, clips), pick_precision("auto", device)
    times: list[float] = []
    while len(times) < 3 or sum(times) < length:
        start = clock()
        one_step(alone(module), batch, len(times), run, device, precision)
        optimiser.step()
        optimiser.zero_grad()
        module.after_step(len(times), 1000)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    seconds = min(times[1:])
    if device.type == "cuda":
        print(seconds, torch.cuda.max_memory_allocated() / 2**30)
    else:
        print(seconds, int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20)


def rows_of(
    times: dict[tuple[str, str], list[float]], peaks: dict[tuple[str, str], float], clips: int, device: torch.device
) -> list[dict[str, Any]]:
    """A row for every method and size, of all rounds until now."""
    rows = []
    for (method, size), found in times.items():
        gmacs = plan(run_of(method, size, clips)).gmacs
        base = min(times.get(("VideoMAE", size), found))
        rows.append({
            "method": method, "preset": METHODS[method], "size": size, "clips": clips,
            "seconds": round(min(found), 3), "over_videomae": round(min(found) / base, 3),
            "slowest_round": round(max(found), 3), "peak_gib": round(peaks[method, size], 2),
            "gmacs_forward": round(gmacs["forward"], 2), "gmacs_encoder": round(gmacs["encoder"], 2),
            "gmacs_decoder": round(gmacs.get("decoder", 0), 2), "rounds": len(found),
            "precision": str(pick_precision("auto", device)).removeprefix("torch."), **provenance(),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["s", "b"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=8, help="clips in a step")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a process that are timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.child:
        child(*args.child, args.clips, device, args.seconds)
        return
    times: dict[tuple[str, str], list[float]] = {}
    peaks: dict[tuple[str, str], float] = {}
    for number in range(args.rounds):
        for size in args.sizes:
            for method in args.only:
                words = [sys.executable, __file__, "--clips", str(args.clips), "--device", args.device]
                words += ["--seconds", str(args.seconds)]
                done = subprocess.run([*words, "--child", method, size], stdout=subprocess.PIPE, text=True, check=True)
                seconds, peak = map(float, done.stdout.split())
                print(f"{number} {method}, ViT-{size.upper()}: {seconds:.2f} s, {peak:.2f} GiB", file=sys.stderr)
                times.setdefault((method, size), []).append(seconds)
                peaks[method, size] = max(peak, peaks.get((method, size), 0))
        save(__file__, rows_of(times, peaks, args.clips, device))


if __name__ == "__main__":
    main()
