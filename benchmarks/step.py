"""One pre-training step (forward, backward, AdamW), ours against transformers' VideoMAE with identical weights.

    python benchmarks/step.py [--sizes s b] [--repeats 6] [--batch 8] [--device auto]

16x224x224 clips, 90 % tube mask. Both sides run in this process, turn about (float32 and bfloat16, theirs and ours);
the minimum of the repeats counts. Peak memory, optimiser included, is measured in a process of its own for each side.
Writes benchmarks/step.csv.
"""

import argparse
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from table import save
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tubelet.config import Optim
from tubelet.convert import from_hugging_face
from tubelet.methods.masked import Masked
from tubelet.methods.videomae import DECODERS
from tubelet.nn.vit import SIZES
from tubelet.targets import MEAN, STD
from tubelet.train.folder import machine
from tubelet.train.loop import pick_device
from tubelet.train.optim import adamw
from tubelet.types import Batch, Draws, Grid

GRID = Grid.of(16, 224, 224, (2, 16, 16))
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def transformers_model(size: str) -> VideoMAEForPreTraining:
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

    def __init__(self, size: str, device: torch.device) -> None:
        self.model = transformers_model(size).to(device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device.type in ("cpu", "cuda"))
        self.mean, self.std = (torch.tensor(v, device=device).view(3, 1, 1, 1) for v in (MEAN, STD))
        self.device = device

    def step(self, video: torch.Tensor, hidden: torch.Tensor, precision: torch.dtype, number: int) -> float:
        pixels = ((video.to(self.device).float() / 255 - self.mean) / self.std).transpose(1, 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = self.model(pixels, bool_masked_pos=hidden.to(self.device)).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss)


class Ours:
    """The same arithmetic through tubelet's module."""

    def __init__(self, size: str, device: torch.device) -> None:
        self.model = Masked(decoder=DECODERS[size]).build(SIZES[size], GRID, 3)
        self.model.load_state_dict(from_hugging_face(transformers_model(size).state_dict()))
        self.model.to(device).train()
        self.optimiser = adamw(self.model, Optim())
        self.device = device

    def step(self, video: torch.Tensor, hidden: torch.Tensor, precision: torch.dtype, number: int) -> float:
        batch = Batch(video, torch.arange(len(video))).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            result = self.model(batch, Draws(0, number, range(len(video))))
        loss = result.sum / result.count
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss)


SIDES = {"transformers": Theirs, "tubelet": Ours}


def data(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    video = torch.randint(0, 256, (batch, 3, 16, 224, 224), dtype=torch.uint8)
    return video, Masked().mask(Batch(video, torch.arange(batch)), GRID, Draws(0, 0, range(batch))).hidden


def timed(side, video, hidden, precision, number) -> tuple[float, float]:
    if side.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = side.step(video, hidden, precision, number)
    if side.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, loss


def peak(size: str, side: str, precision: str, batch: int, device: str) -> float:
    """GiB at the peak of two steps, in a process of its own."""
    command = [sys.executable, __file__, "--peak", size, side, precision, "--batch", str(batch), "--device", device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_peak(size: str, side: str, precision: str, batch: int, device: torch.device) -> float:
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # or the peak would be what the parent had when it started this one
    one, (video, hidden) = SIDES[side](size, device), data(batch)
    for number in range(2):
        one.step(video, hidden, PRECISIONS[precision], number)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["s", "b"])
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peak", nargs=3)
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.peak:
        print(measure_peak(*args.peak, args.batch, device))
        return
    rows, video_hidden, about = [], data(args.batch), machine()
    for size in args.sizes:
        sides = {name: make(size, device) for name, make in SIDES.items()}
        best: dict[tuple[str, str], list[float]] = {(s, p): [] for p in PRECISIONS for s in SIDES}
        for number in range(args.repeats + 1):  # the first round warms up
            for (name, precision), times in best.items():
                seconds, loss = timed(sides[name], *video_hidden, PRECISIONS[precision], number)
                times.append(seconds)
                print(f"{size} {precision} {name}: {seconds:.2f} s, loss {loss:.4f}", file=sys.stderr)
        del sides
        for (name, precision), times in best.items():
            rows.append({
                "size": size, "precision": precision, "side": name, "batch": args.batch,
                "seconds_min": round(min(times[1:]), 4), "seconds_median": round(float(np.median(times[1:])), 4),
                "clips_per_second": round(args.batch / min(times[1:]), 3),
                "peak_gib": round(peak(size, name, precision, args.batch, args.device), 3),
                "repeats": args.repeats, "device": str(about["gpu"] if device.type == "cuda" else about["processor"]),
                "cores": about["cores"], "torch": about["torch"], "transformers": transformers.__version__,
                "date": about["date"][:10], "command": "python " + " ".join(sys.argv),
            })  # fmt: skip
        by = {(r["precision"], r["side"]): r for r in rows if r["size"] == size}
        for precision in PRECISIONS:
            ours, theirs = by[precision, "tubelet"], by[precision, "transformers"]
            print(
                f"vit-{size} {precision}: {theirs['seconds_min'] / ours['seconds_min']:.3f} x the throughput, "
                f"{ours['peak_gib'] / theirs['peak_gib']:.3f} x the memory"
            )
        default = by["float32", "transformers"]["seconds_min"] / by["bfloat16", "tubelet"]["seconds_min"]
        print(f"vit-{size}: our default (bfloat16) is {default:.2f} x its default (float32)")
    save(__file__, rows)


if __name__ == "__main__":
    main()
