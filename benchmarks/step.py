"""One pre-training step (forward, backward, AdamW), ours against transformers' VideoMAE with identical weights.

    python benchmarks/step.py [--sizes s b] [--repeats 6] [--batch 8] [--device auto]

16x224x224 clips, 90 % tube mask. Each side lives in a process of its own, with memory as its users have it, and they
step turn about; the minimum of the repeats counts. So peak memory, optimiser included, is each side's own: ours reads
the weights from a file, and transformers is imported by its own sides only. On CPUs tubelet's training keeps freed
memory (`tubelet.train.device.keep_memory`); a further side is transformers with the same, to tell how much is due to
that, and one is ours with half of the tokens decoded (VideoMAE V2's dual masking), which predicts fewer.

After every round, products of large matrices are timed too. `utilisation` is the share of their speed, `peak_tflops`,
that the products of a side's step reach: forward, and twice as many backward, as `tubelet plan` counts them; those of
transformers are the same. Writes benchmarks/step.csv.
"""

import argparse
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from table import save

from tubelet.config import Optim, preset
from tubelet.masks.running_cell import RunningCell
from tubelet.methods.masked import Masked
from tubelet.methods.videomae import DECODERS
from tubelet.nn.vit import SIZES
from tubelet.targets import MEAN, STD
from tubelet.train.device import keep_memory, pick_device
from tubelet.train.distributed import alone
from tubelet.train.folder import machine
from tubelet.train.loop import one_step
from tubelet.train.optim import adamw
from tubelet.types import Batch, Draws, Grid

GRID = Grid.of(16, 224, 224, (2, 16, 16))
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def transformers_model(size: str) -> Any:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining  # here: not into the memory of our sides

    e, d = SIZES[size], DECODERS[size]
    config = VideoMAEConfig(
        hidden_size=e.width, num_hidden_layers=e.depth, num_attention_heads=e.heads, intermediate_size=e.hidden,
        decoder_hidden_size=d.width, decoder_num_hidden_layers=d.depth, decoder_num_attention_heads=d.heads,
        decoder_intermediate_size=d.hidden, use_mean_pooling=False, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = VideoMAEForPreTraining(config)
    model.decoder.norm.eps = 1e-6
    return model.train()


class Theirs:
    """As its documentation trains it: float pixels in, a boolean mask, PyTorch's AdamW."""

    def __init__(self, size: str, weights: str, device: torch.device) -> None:
        self.model = transformers_model(size).to(device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device.type in ("cpu", "cuda"))
        self.mean, self.std = (torch.tensor(v, device=device).view(3, 1, 1, 1) for v in (MEAN, STD))
        self.device = device

    def step(self, video: torch.Tensor, hidden: torch.Tensor, precision: torch.dtype) -> float:
        pixels = ((video.to(self.device).float() / 255 - self.mean) / self.std).transpose(1, 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = self.model(pixels, bool_masked_pos=hidden.to(self.device)).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss)


class Ours:
    """The same arithmetic by the step of tubelet's training loop, in the parts that it takes by itself, the norm of the
    gradient included; with the optimiser's settings as above."""

    decode: RunningCell | None = None

    def __init__(self, size: str, weights: str, device: torch.device) -> None:
        run = preset(f"videomae-k400-{size}")
        self.run = replace(run, encoder=SIZES[size], method=replace(run.method, decode=self.decode))
        self.model = self.run.method.build(self.run.encoder, GRID, 3)
        self.model.load_state_dict(torch.load(weights, mmap=True))
        self.model.to(device).train()
        self.optimiser = adamw(self.model, Optim(base_lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01))
        self.device = device

    def step(self, video: torch.Tensor, hidden: torch.Tensor, precision: torch.dtype) -> float:
        run = replace(self.run, training=replace(self.run.training, batch=len(video)))
        batch = Batch(video, torch.arange(len(video)))
        loss, _, _ = one_step(alone(self.model), batch, 0, run, self.device, precision)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss


class Dual(Ours):
    """Half of the tokens decoded."""

    decode = RunningCell()


SIDES = {
    "transformers": Theirs,
    "transformers, memory kept": Theirs,
    "tubelet": Ours,
    "tubelet, dual masking": Dual,
}


def data(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    video = torch.randint(0, 256, (batch, 3, 16, 224, 224), dtype=torch.uint8)
    return video, Masked().mask(Batch(video, torch.arange(batch)), GRID, Draws(0, 0, range(batch))).hidden


def write(size: str, path: Path) -> None:
    """transformers' first weights, by our names."""
    from tubelet.weights.hugging_face import translated
    from tubelet.weights.report import Report

    torch.save(translated(transformers_model(size).state_dict(), Report(Path("theirs"))), path)


def work(size: str, decode: RunningCell | None) -> float:
    """Multiplications and additions for one clip of a step."""
    from tubelet.budget import flops
    from tubelet.plan import on_meta

    run = preset(f"videomae-k400-{size}")
    run = replace(run, method=replace(run.method, decode=decode))
    return flops(plan(run).gmacs, on_meta(run.method, run.encoder, run.grid(), 3))


def child(size: str, precision: str, side: str, weights: str, batch: int, device: torch.device) -> None:
    """One side: a step, its seconds and its loss, for every line read; at their end the peak of memory, in GiB."""
    warnings.simplefilter("ignore")
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # or the peak would be what the parent had when it started this
    if device.type == "cpu" and side != "transformers":
        keep_memory()
    one, (video, hidden) = SIDES[side](size, weights, device), data(batch)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = one.step(video, hidden, PRECISIONS[precision])  # a float: whatever the device, it is done
        print(time.perf_counter() - start, loss, flush=True)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**30)
    else:
        print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20)


def measure(
    size: str, precision: str, weights: Path, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, tuple[list[float], float]], float]:
    """Seconds of every repeat, and the peak of memory, of every side; multiplications and additions a second of
    products of large matrices."""
    from tubelet.bench.steps import matmul

    command = [sys.executable, __file__, "--batch", str(args.batch), "--device", args.device]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sides = {
        name: subprocess.Popen([*command, "--child", size, precision, name, str(weights)], **pipe) for name in SIDES
    }
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    peak = 0.0
    for number in range(args.repeats + 1):
        for name, process in sides.items():
            process.stdin.write("step\n")
            process.stdin.flush()
            seconds, loss = map(float, process.stdout.readline().split())
            print(f"{size} {precision} {name}: {seconds:.2f} s, loss {loss:.4f}", file=sys.stderr)
            if number:  # the first round warms up
                times[name].append(seconds)
        peak = max(peak, matmul(device, PRECISIONS[precision]))
    return {name: (times[name], float(process.communicate()[0])) for name, process in sides.items()}, peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["s", "b"])
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.child:
        child(*args.child, args.batch, device)
        return
    rows, about = [], machine()
    for size in args.sizes:
        with TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.pt"
            write(size, weights)
            by = {precision: measure(size, precision, weights, args, device) for precision in PRECISIONS}
        every, half = work(size, None), work(size, RunningCell())
        for precision, (sides, peak) in by.items():
            ours, memory = sides["tubelet"]
            for name, (times, gib) in sides.items():
                share = (half if SIDES[name] is Dual else every) * args.batch / min(times) / peak
                rows.append({
                    "size": size, "precision": precision, "side": name, "batch": args.batch,
                    "seconds_min": round(min(times), 4), "seconds_median": round(float(np.median(times)), 4),
                    "clips_per_second": round(args.batch / min(times), 3), "peak_gib": round(gib, 3),
                    "peak_tflops": round(peak / 1e12, 4), "utilisation": round(share, 3), "repeats": args.repeats,
                    "device": str(about["gpu"] if device.type == "cuda" else about["processor"]),
                    "cores": about["cores"], "torch": about["torch"], "transformers": version("transformers"),
                    "date": about["date"][:10], "command": "python " + " ".join(sys.argv),
                })  # fmt: skip
                print(
                    f"vit-{size} {precision}: {name} uses {share:.3f} of the peak; tubelet has "
                    f"{min(times) / min(ours):.3f} x its throughput, {memory / gib:.3f} x its memory"
                )
        theirs, default = by["float32"][0]["transformers"], by["bfloat16"][0]["tubelet"]
        print(
            f"vit-{size}: our default (bfloat16) is {min(theirs[0]) / min(default[0]):.2f} x its default (float32), "
            f"with {default[1] / theirs[1]:.3f} x its memory"
        )
    save(__file__, rows)


if __name__ == "__main__":
    main()
