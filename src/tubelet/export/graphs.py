"""Networks for other programs: ONNX, and torch.export's .pt2. Both are tried against PyTorch before they are kept.

They take uint8 clips "b c t h w" and normalise them themselves, so that nobody has to know how; any number of clips at
once. Out come an encoder's tokens "b n d", or a fine-tuned network's logits "b x".
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tubelet.config import Run
from tubelet.export.about import about
from tubelet.export.trained import BOXES, Part, Tell, left_out, noise
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.supervised import Supervised
from tubelet.nn.classifier import Classifier
from tubelet.nn.detector import Detector
from tubelet.nn.vit import ViT
from tubelet.targets import inputs
from tubelet.train.checkpoint import SaveError, load_classifier, load_encoder
from tubelet.weights.found import Asked
from tubelet.weights.load import others
from tubelet.weights.origin import Origin
from tubelet.weights.report import Report

OPSET = 18  # of ONNX; what onnxruntime 1.14 and later have
NEAR = 1e-4  # largest difference from PyTorch that is kept, relative to the largest output
CLIPS = (1, 3)  # at once, in the trial; the network is traced with two
ONE_FILE = 2 * 2**30 - 2**20  # bytes that protobuf can hold: above, weights lie in a second file, NAME.onnx.data

Runner = Callable[[UInt8[Tensor, "b c t h w"]], Float[np.ndarray, "..."]]


class FromClips(nn.Module):
    """A network with its input normalised in it: uint8 clips in."""

    def __init__(self, network: ViT | Classifier, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.patch = network, patch

    def forward(self, video: UInt8[Tensor, "b c t h w"]) -> Float[Tensor, "b ..."]:
        return self.network(inputs(video, self.patch))


@dataclass(frozen=True)
class Written:
    """What was written, and how near it is to PyTorch."""

    files: list[Path]
    output: Literal["tokens", "logits"]
    error: float
    """Largest difference of an output, over trials with one clip and with three."""
    largest: float
    """Largest output."""


def write_onnx(
    path: Path | str,
    out: Path,
    part: Part | None = None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    tell: Tell = Report.warn,
) -> Written:
    """Writes a run as ONNX with any number of clips; input "video", output "tokens" or "logits".

    What is told of the run is in the metadata, as `run`; of weights of others, as `converted`. Above 2 GB the weights
    lie beside it.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a package is missing, the run has no such part, `out` is there, or onnxruntime gives something else.
        SaveError: the disk refuses.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    return tried(lambda: network_of(path, part, asked, tell), out, ".onnx", save_onnx, run_onnx)


def write_pt2(
    path: Path | str,
    out: Path,
    part: Part | None = None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    tell: Tell = Report.warn,
) -> Written:
    """Writes a run with torch.export, for any number of clips: torch.export.load(FILE).module()(video).

    Raises:
        FileNotFoundError: no run there.
        ValueError: the run has no such part, `out` is there, or what was written gives something else.
        SaveError: the disk refuses.
    """
    return tried(lambda: network_of(path, part, asked, tell), out, ".pt2", save_pt2, run_pt2)


def tried(
    opened: Callable[[], tuple[ViT | Classifier, Run, Origin | None]],
    out: Path,
    suffix: str,
    save: Callable[[torch.export.ExportedProgram, Path, str, dict[str, str]], None],
    runner: Callable[[Path], Runner],
) -> Written:
    """Saves a network beside `out`, compares what it gives with PyTorch, and only then puts it into place."""
    if out.suffix != suffix or out.exists() or data_of(out).exists():
        raise ValueError(f"{out} is there already or is no {suffix}; choose another --out")
    network, run, origin = opened()
    output: Literal["tokens", "logits"] = "logits" if isinstance(network, Classifier) else "tokens"
    model = FromClips(network, run.encoder.patch).eval().requires_grad_(False)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with quiet(), TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            beside = Path(name)
            save(program_of(model, run), beside / out.name, output, about(run, origin))
            error, largest = compared(model, runner(beside / out.name), run)
            if not error <= NEAR * max(largest, 1.0):  # also where it is not a number
                raise ValueError(
                    f"{out.name} was not written: its outputs, of up to {largest:.3g}, differ from PyTorch's by up to "
                    f"{error:.2g}, more than {NEAR:g} of that"
                )
            files = [path for path in (out, data_of(out)) if (beside / path.name).exists()]
            for file in reversed(files):  # the graph last: it is what people open
                os.replace(beside / file.name, file)
    except OSError as failure:
        raise SaveError(f"cannot write {out}: {failure}") from failure
    return Written(files, output, error, largest)


def data_of(out: Path) -> Path:
    """Where weights lie that do not fit into a file of ONNX."""
    return out.with_name(f"{out.name}.data")


def network_of(
    path: Path | str,
    part: Part | None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
    tell: Tell = Report.warn,
) -> tuple[ViT | Classifier, Run, Origin | None]:
    """A fine-tuned network, or an encoder, and its run; of weights of others, where they come from.

    Raises:
        ValueError: all of a pre-trained run is asked for: an autoencoder wants a mask beside the clips; or of a
            detector, which wants boxes. Or something is asked of weights of ours.
    """
    other, boxes = others(path, asked), False
    if other is not None:
        network, run, origin, report = other
        if isinstance(network, Detector):
            boxes, network = True, network.encoder
        if not (isinstance(network, Classifier) and part != "encoder"):
            left_out(report)
        tell(report)
    else:
        network, run = load_encoder(path, asked)
        origin, boxes = None, isinstance(run.method, ActionDetection)
        if isinstance(run.method, Supervised) and part != "encoder":  # not every encoder without a last norm has a head
            network, run = load_classifier(path)
    if boxes and part != "encoder":
        raise ValueError(f"{path} cannot be written as a whole: {BOXES}. Write its encoder: --part encoder")
    if isinstance(network, Classifier) and part != "encoder":
        return network, run, origin
    if part == "whole":
        raise ValueError(f"{path} is pre-trained: beside its encoder there is nothing to use. Use --part encoder")
    encoder = network if isinstance(network, ViT) else network.encoder
    assert isinstance(encoder, ViT)
    return encoder, run, origin


def program_of(model: FromClips, run: Run) -> torch.export.ExportedProgram:
    """The network as one graph, for one clip or more; without the lines of code, whose files have paths."""
    clips = {"video": {0: torch.export.Dim("clips", min=1)}}
    program = torch.export.export(model, (noise(run, 2),), dynamic_shapes=clips)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def save_onnx(program: torch.export.ExportedProgram, file: Path, output: str, told: dict[str, str]) -> None:
    """Writes a graph as ONNX."""
    graph = program.run_decompositions({torch.ops.aten.adaptive_avg_pool3d.default: pooled})
    made = torch.onnx.export(
        graph, (), dynamo=True, input_names=["video"], output_names=[output], opset_version=OPSET, verbose=False
    )
    assert made is not None
    made.model.metadata_props.update(told)
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    made.save(file, external_data=size > ONE_FILE)


def pooled(x: Float[Tensor, "b c t h w"], cells: Sequence[int]) -> Float[Tensor, "b c i j k"]:
    """`F.adaptive_avg_pool3d` in operations that ONNX has: means of the parts of one axis after the other."""
    for axis, count in enumerate(cells, 2):
        places = x.shape[axis]
        borders = [(part * places // count, -(-(part + 1) * places // count)) for part in range(count)]
        x = torch.stack([x.narrow(axis, start, stop - start).mean(axis) for start, stop in borders], axis)
    return x


def run_onnx(file: Path) -> Runner:
    """What onnxruntime makes of a file, on the CPU."""
    session = needed("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda video: session.run(None, {"video": video.numpy()})[0]


def save_pt2(program: torch.export.ExportedProgram, file: Path, output: str, told: dict[str, str]) -> None:
    """Writes a graph as torch.export does; what is told of it lies in it, as `run.json` or `converted.json`."""
    torch.export.save(program, file, extra_files={f"{name}.json": text for name, text in told.items()})


def run_pt2(file: Path) -> Runner:
    """What PyTorch makes of a file."""
    module = torch.export.load(file).module()
    return lambda video: module(video).numpy()


@torch.no_grad()
def compared(model: FromClips, runner: Runner, run: Run) -> tuple[float, float]:
    """The largest difference between the outputs of two, and the largest output; NaN where a shape differs."""
    errors, sizes = [], []
    for count in CLIPS:
        video = noise(run, count)
        ours, theirs = model(video).numpy(), runner(video)
        errors.append(float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.nan)
        sizes.append(float(np.abs(ours).max()))
    return float(np.max(errors)), max(sizes)


class quiet(warnings.catch_warnings):
    """No warnings of torch about its own parts."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return entered


def needed(package: str) -> Any:
    """A package of the extra `export`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ValueError(f"ONNX needs {package}, which is not installed: pip install 'tubelet[export]'") from error
