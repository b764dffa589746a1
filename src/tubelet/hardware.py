"""What machines can do: constants that were measured here, that are given, and that are only supposed."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tubelet.config import Run


@dataclass(frozen=True)
class Constant:
    """A number of the arithmetic, and where it comes from."""

    value: float
    unit: str
    source: str
    kind: Literal["measured", "given", "supposed"]  # by us; by the user or on the machine itself; by nobody


@dataclass(frozen=True)
class Gpu:
    """What a GPU has, by its maker's data sheet."""

    gib: float  # of memory, as PyTorch reports it
    bfloat16: float | None  # TFLOP/s of dense products, sums in float32; None: no such instructions
    float32: float  # TFLOP/s without tensor cores
    link: float  # GB/s to another of the same machine, one way: NVLink, or PCIe 4 with 16 lanes

    def peak_of(self, precision: str) -> tuple[float, str]:
        """TFLOP/s, and in which arithmetic.

        Raises:
            ValueError: it has none such.
        """
        if precision == "float32" or (precision == "auto" and self.bfloat16 is None):
            return self.float32, "float32"
        if self.bfloat16 is None:
            raise ValueError("this GPU has no bfloat16; use --training.precision float32")
        return self.bfloat16, "bfloat16"


GPUS = {
    "v100": Gpu(31.7, None, 15.7, 150),
    "a100": Gpu(79.1, 312, 19.5, 300),
    "a100-40": Gpu(39.4, 312, 19.5, 300),
    "h100": Gpu(79.1, 989, 67, 450),
    "h200": Gpu(139.7, 989, 67, 450),
    "l4": Gpu(22.0, 121, 30.3, 32),
    "l40s": Gpu(44.4, 362, 91.6, 32),
    "a6000": Gpu(47.5, 155, 38.7, 32),
    "rtx3090": Gpu(23.7, 71, 35.6, 32),
    "rtx4090": Gpu(23.6, 165, 82.6, 32),
    "cpu": Gpu(16, 0.92, 0.24, 10),
}
"""By name; "cpu" is two cores of the Xeon that everything was measured on, with the peak of benchmarks/step.csv."""

READ = "benchmarks/prepare.csv, 2026-11-22, one core of a Xeon: mean of 31 films, 16 frames at stride 4, 224 pixels"
BYTES = "benchmarks/prepare.csv, 2026-11-22: all bytes over all frames of 31 films, short side 256"
STEP = "benchmarks/step.csv, 2026-11-22, two cores of a Xeon: ViT-B in bfloat16"

MEASURED = {
    "ms a clip, original": Constant(160.1, "ms of a core", READ, "measured"),
    "ms a clip, prepared": Constant(42.8, "ms of a core", READ, "measured"),
    "ms a clip, layered": Constant(30.4, "ms of a core", READ + "; on the layer", "measured"),
    "bytes a frame, original": Constant(5082, "bytes", BYTES.rsplit(",", 1)[0] + ", as they came", "measured"),
    "bytes a frame, prepared": Constant(2544, "bytes", BYTES, "measured"),
    "bytes a frame, layered": Constant(2029, "bytes", BYTES, "measured"),
    "cpu peak": Constant(0.92, "TFLOP/s in bfloat16", STEP, "measured"),
    "cpu utilisation": Constant(0.26, "of the peak", STEP, "measured"),
}
"""By us, on the two cores that we have."""

SUPPOSED = {
    "utilisation": Constant(
        0.1, "of the peak", "the best that the hours of published runs come to, docs/scaling.md", "supposed"
    ),
    "network": Constant(12.5, "GB/s one way", "100 Gbit/s between two nodes", "supposed"),
    "frames a video": Constant(300, "frames", "10 seconds at 30 a second, as Kinetics", "supposed"),
    "libraries": Constant(1.5, "GiB", "CUDA, cuBLAS and NCCL", "supposed"),
    "fragmentation": Constant(0.1, "of what is used", "what the allocator cannot reuse", "supposed"),
    "write": Constant(1, "GB/s", "one process writes a checkpoint to shared storage", "supposed"),
    "node-days a failure": Constant(
        264, "node-days", "Llama 3 (arXiv 2407.21783, Table 5): 419 in 54 days of 2048 nodes", "supposed"
    ),
}
"""By nobody here: no GPU was ever at hand."""


@dataclass(frozen=True)
class Machines:
    """What there is to train on."""

    gpus: int | None = None
    """GPUs in all: says whether the run fits on them in memory and time, and what storage and cores it takes beside
    them. The other flags of machines need it."""
    nodes: int | None = None
    """Machines that they are in; default 8 GPUs each."""
    gpu: str = "h100"
    """Which: v100, a100, a100-40, h100, h200, l4, l40s, a6000, rtx3090, rtx4090; or cpu: two cores as ours."""
    hours: float | None = None
    """How long they can be had."""
    files: Literal["original", "prepared", "layered"] = "prepared"
    """What is read: videos as filmed, as `tubelet prepare` makes them, or its --layered 4."""
    length: float | None = None
    """Frames of a video, on average; default 300."""
    utilisation: float | None = None
    """Share of the peak that the products of a step reach, up to 1."""
    peak: float | None = None
    """TFLOP/s of a GPU, of dense products in the run's precision."""
    link: float | None = None
    """GB/s between GPUs, one way; where there are several nodes, between two of these."""
    ms_per_clip: float | None = None
    """Milliseconds of one core to read a clip."""
    measured: Path | None = None
    """What `tubelet bench PRESET --data DIR --json` wrote on such a machine: peak, utilisation, time of reading."""

    def shared(self, batch: int, parts: int) -> tuple[int, int]:
        """GPUs and nodes, for a batch of so many videos in so many parts.

        Raises:
            ValueError: they do not divide.
        """
        gpus = 1 if self.gpus is None else self.gpus
        nodes = math.ceil(gpus / 8) if self.nodes is None else self.nodes
        if gpus < 1 or nodes < 1 or gpus % nodes:
            raise ValueError(
                f"--gpus {gpus} cannot be shared out evenly to {nodes} nodes; name --nodes that divide them"
            )
        if batch % (gpus * parts):
            able = [count for count in range(1, batch // parts + 1) if batch % (count * parts) == 0]
            near = min(able, key=lambda count: abs(math.log(count / gpus)), default=1)
            raise ValueError(
                f"a batch of {batch} videos in {parts} part{'s' * (parts > 1)} cannot be shared out evenly to {gpus} "
                f"GPUs; use --gpus {near}, or a --training.batch that is a multiple of {gpus * parts}"
            )
        return gpus, nodes

    def constants(self, run: Run, nodes: int, video_bytes: float | None) -> tuple[Gpu, dict[str, Constant]]:
        """The GPU, and every constant of the arithmetic for `run`, whose videos have `video_bytes` if that is known.

        Raises:
            ValueError: no such GPU; a number that cannot be; a file that `tubelet bench` did not write.
        """
        if self.gpu not in GPUS:
            raise ValueError(
                f"no GPU called {self.gpu!r}. There are: {', '.join(GPUS)}; of others name --peak and --link"
            )
        flags = {
            "utilisation": "utilisation",
            "peak": "peak",
            "link": "link",
            "ms_per_clip": "ms a clip",
            "length": "frames a video",
        }
        given = {flag: value for flag in (*flags, "hours") if (value := getattr(self, flag)) is not None}
        for flag, value in given.items():
            if value <= 0 or (flag == "utilisation" and value > 1):
                most = " and at most 1" * (flag == "utilisation")
                raise ValueError(f"--{flag.replace('_', '-')} {value:g} cannot be used; expected more than 0{most}")
        gpu = GPUS[self.gpu]
        peak, sheet = gpu.peak_of(run.training.precision), f"data sheet of the {self.gpu}"
        clip, times = MEASURED[f"ms a clip, {self.files}"], run.data.clip.frames / 16
        found = {
            "peak": Constant(peak[0], f"TFLOP/s in {peak[1]}", sheet, "supposed"),
            "utilisation": SUPPOSED["utilisation"],
            "link": SUPPOSED["network"] if nodes > 1 else Constant(gpu.link, "GB/s one way", sheet, "supposed"),
            "ms a clip": replace(
                clip, value=clip.value * times, source=clip.source + f"; times {times:g}" * (times != 1)
            ),
            "bytes a frame": MEASURED[f"bytes a frame, {self.files}"],
            **{name: value for name, value in SUPPOSED.items() if name not in ("utilisation", "network")},
        }
        if self.gpu == "cpu":
            found |= {
                "utilisation": MEASURED["cpu utilisation"],
                "peak": replace(found["peak"], source=STEP, kind="measured"),
            }
        found |= {} if self.measured is None else benched(self.measured)
        for flag, name in flags.items():
            if flag in given:
                source = f"--{flag.replace('_', '-')}"
                found[name] = replace(found[name], value=given[flag], source=source, kind="given")
        if video_bytes is not None:
            each = video_bytes / found["frames a video"].value
            found["bytes a frame"] = Constant(each, "bytes", "the files of --data", "given")
        return gpu, found


def benched(path: Path) -> dict[str, Constant]:
    """What `tubelet bench --json` measured.

    Raises:
        ValueError: the file is something else.
    """
    try:
        found = json.loads(path.read_text())
        source = f"{path.name}: tubelet bench on {found['device']}, with {found['source']}"
        return {
            "peak": Constant(found["peak"] / 1e12, f"TFLOP/s in {found['precision']}", source, "given"),
            "utilisation": Constant(found["utilisation"], "of the peak", source, "given"),
            "ms a clip": Constant(1000 / found["reading"]["clips_per_second"], "ms of a core", source, "given"),
        }
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"--measured {path} is not what `tubelet bench PRESET --data DIR --json` writes ({type(error).__name__}: "
            f"{error})"
        ) from error
