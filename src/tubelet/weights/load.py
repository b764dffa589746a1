"""Any file of weights as a network of ours, with a report: recognised by its names and shapes, built without a copy."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tubelet.config import Run, to_json
from tubelet.nn.classifier import Classifier
from tubelet.nn.detector import Detector
from tubelet.nn.inflate import inflated
from tubelet.types import Grid
from tubelet.weights.archive import Archive, read
from tubelet.weights.found import Asked, Found, detects, finite, placed, renormed, whole
from tubelet.weights.hugging_face import from_hugging_face, is_hugging_face
from tubelet.weights.mae import from_mae, is_mae
from tubelet.weights.origin import Origin, origin_of, run_of
from tubelet.weights.report import Report, fits, looks_untrained, some
from tubelet.weights.unread import readable
from tubelet.weights.videomae import from_videomae, is_videomae
from tubelet.weights.vjepa import from_vjepa, is_vjepa

FORMATS = (
    (is_hugging_face, from_hugging_face),
    (is_videomae, from_videomae),
    (is_mae, from_mae),
    (is_vjepa, from_vjepa),
)


def found(path: Path | str, asked: Asked = Asked()) -> Found:  # noqa: B008 - frozen
    """What a file of others holds, in our names.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: it cannot be read, is of no known format, or does not hold exactly what that format lists.
    """
    return recognised(read(path), asked)


def recognised(archive: Archive, asked: Asked) -> Found:
    """What `found` says of an archive that was read."""
    readable(archive)
    reader = next((reads for known, reads in FORMATS if known(archive.state)), None)
    if reader is None:
        raise ValueError(
            f"{archive.path} is of no format that is known; it has {some(archive.state)}. Known are VideoMAE (V1, V2, "
            "MGMAE, action detection), transformers' VideoMAE, ViTMAE and V-JEPA 2, V-JEPA (1 and 2), MAE, MAE-ST, "
            "timm's ViT, and tubelet's own"
        )
    result = reader(archive, asked)
    if (asked.labels or asked.rows) and result.kind not in ("fine-tuned", "detector"):
        raise ValueError(f"{archive.path} ({result.report.format}) has no head; leave out --labels and --rows")
    placed(result, asked.positions)
    result.state = whole(result.state, result.report)
    result.report.warnings += looks_untrained(result.state)
    if archive.args and reader is not from_videomae:
        result.report.notes.append("its args were not used: those of VideoMAE's code only are known")
    if result.kind != "fine-tuned" and not result.normed:
        result.report.notes.append("the encoder ends without a norm")
    return result


def described(result: Found) -> Run:
    """A run that could have made these weights: encoder, decoder, clips are theirs, the rest is VideoMAE's preset.

    What of clips and target is taken from there is noted in the report.
    """
    run = Origin.of(result).run()
    why = "; the file does not say" if result.clip is None else ", as its args say"
    notes = [f"clips are taken as {run.data.clip}{why}"] * (result.frames > 1)
    if result.decoder is not None and result.normalised is None:
        notes.append("the pixels to predict are taken as normalised, as in VideoMAE's recipes; the file does not say")
    result.report.notes += [note for note in notes if note not in result.report.notes]
    return run


def network(path: Path | str, asked: Asked = Asked()) -> tuple[nn.Module, Report]:  # noqa: B008 - frozen
    """The network in a file, on the CPU, and what was done: a masked autoencoder, a classifier, a detector, or an
    encoder.

    Its weights are mapped from the file where their layout allows, and nothing is initialised in vain.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that does not hold exactly what its format lists.
    """
    archive = read(path)
    if (run := run_of(archive)) is not None:
        return own(archive, run, asked)
    module, _, result = opened(archive, asked)
    return module, result.report


def own(archive: Archive, run: Run, asked: Asked = Asked()) -> tuple[nn.Module, Report]:  # noqa: B008 - frozen
    """The network of a safetensors file of tubelet."""
    report = ours(archive, asked)
    state, run = imagenet({new: archive.state[name] for name, new in report.became.items()}, run)
    return built(run, state, report, "encoder.norm.weight" in state), report


def ours(archive: Archive, asked: Asked) -> Report:
    """The report of a safetensors file of tubelet, whose encoders by themselves have names without "encoder.".

    Raises:
        ValueError: something is asked for that the file says itself, or a value is not finite.
    """
    if asked != Asked():
        raise ValueError(
            f"{archive.path} is of tubelet, and says itself what its heads, clips and positions are; leave out what is "
            "for weights of others (--heads, --frames, --size, --positions)"
        )
    report = Report(archive.path, "tubelet", name=archive.name)
    if (origin := origin_of(archive)) is not None:
        report.format += f", converted from {origin.file} ({origin.format})"  # its notes were told when that was done
    lead = "" if {"head.weight", "decoder.head.weight"} & set(archive.state) else "encoder."
    report.add("matched", "", *archive.state)
    report.became = {name: lead + name for name in archive.state}
    finite(archive.state, report)
    if origin is not None:  # runs of ours may be short, and those who ran them know
        report.warnings += looks_untrained({new: archive.state[name] for name, new in report.became.items()})
    return report


def others(
    path: Path | str,
    asked: Asked = Asked(),  # noqa: B008 - frozen
) -> tuple[nn.Module, Run, Origin, Report] | None:
    """The network of a file of others, or of one that was converted, a run that describes it, where it comes from, and
    what was done.

    None: the weights are of a run of ours, and what was asked of them is not looked at.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that does not hold exactly what its format lists, or of a converted one something is asked.
    """
    archive = read(path)
    if "run" in archive.about:
        return None
    if (origin := origin_of(archive)) is not None:
        run = origin.run()
        module, report = own(archive, run, asked)
    else:
        module, run, result = opened(archive, asked)
        origin, report = Origin.of(result), result.report
    return module, run, origin, report


def built(run: Run, state: dict[str, Tensor], report: Report, normed: bool = True) -> nn.Module:
    """The network of a run with these weights, which become its own: nothing is copied. `normed`: its encoder, of no
    classifier, ends with a norm.

    Raises:
        ValueError: weights that do not fit it exactly.
    """
    grid, channels = run.grid(), run.data.channels
    with torch.device("meta"), Untouched():
        if "decoder.head.weight" in state:
            module: Any = run.method.build(run.encoder, grid, channels)
            module.encoder.norm = module.encoder.norm if normed else nn.Identity()
        else:
            encoder: Any = run.encoder.build(grid, channels)
            if detects(state):
                module = Detector(encoder, len(state["head.bias"]), run.method.bins, run.method.pool, run.encoder.heads)
            elif "head.weight" in state:
                module = Classifier(encoder, len(state["head.bias"]), cells=getattr(run.method, "cells", None))
            else:
                encoder.norm = encoder.norm if normed else nn.Identity()
                module = encoder
                state = {name.removeprefix("encoder."): value for name, value in state.items()}
    fits(state, module.state_dict(), report)
    module.load_state_dict(state, assign=True)
    return module.eval()


def imagenet(state: dict[str, Tensor], run: Run) -> tuple[dict[str, Tensor], Run]:
    """Weights and their run as they are; of a detector of video normalised in its own way the same for video normalised
    as everywhere else, with ImageNet's means and deviations."""
    if not detects(state) or run.method.norm == "imagenet":
        return state, run
    state = renormed(state, run.data.channels, run.method.norm, "imagenet")
    return state, replace(run, method=replace(run.method, norm="imagenet"))


class Untouched(TorchFunctionMode):
    """While it is on, nothing is initialised: what fills a tensor with values leaves it as it is."""

    FILLS = frozenset(
        {
            nn.init.kaiming_uniform_,
            nn.init.uniform_,
            *(getattr(Tensor, f"{name}_") for name in ("uniform", "normal", "fill")),
        }
        | {getattr(Tensor, f"{name}_") for name in ("zero", "erfinv", "clamp", "mul", "add")}
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.FILLS:
            filled = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if filled.is_meta:
                return filled
        return func(*args, **kwargs)


def converted(path: Path | str, asked: Asked, inflate: int = 0) -> tuple[bytes, Report]:
    """A file of others as a safetensors file of ours, whole: encoder, and decoder or head; and what was done.

    With `inflate`, an encoder of images becomes one of video, with cubes of so many frames; its clips then have 16
    frames, if nothing else is asked.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that does not hold exactly what its format lists, or that is tubelet's own; or an encoder
            that is not of images is to be inflated.
    """
    archive = read(path)
    if archive.about.keys() & {"run", "converted"}:
        raise ValueError(f"{archive.path} is a file of tubelet already; it can be used as it is")
    if inflate < 0:
        raise ValueError(f"--inflate {inflate} cannot be; expected the frames of a cube, 1 or more")
    if inflate and asked.positions == "interpolated":
        raise ValueError("positions cannot be interpolated and inflated at once; leave out --positions or --inflate")
    result = recognised(archive, replace(asked, frames=None) if inflate else asked)
    if inflate:
        grown(result, inflate, asked.frames or 16)
    built(described(result), result.state, result.report, result.normed)
    state = result.state if result.kind != "encoder" else kept(result.state)
    about = {"converted": to_json(Origin.of(result))}
    return save({name: value.clone() for name, value in state.items()}, about), result.report


def grown(result: Found, frames: int, clip: int) -> None:
    """Makes a found encoder of images one of clips of `clip` frames in cubes of `frames`.

    Raises:
        ValueError: it is not of images, or the clip does not divide into cubes.
    """
    video = replace(result.encoder, patch=(frames, *result.encoder.patch[1:]))
    grid = Grid.of(clip, *result.size, video.patch)
    state = inflated(kept(result.state), result.encoder, video, grid.T)
    result.state = {f"encoder.{name}": value for name, value in state.items()}
    result.encoder, result.frames = video, clip
    result.report.notes.append(f"inflated from images to cubes of {frames} frames, clips of {clip}")


@dataclass(frozen=True, eq=False)
class Weights:
    """What a run keeps: the tensors of a classifier or a detector, or those of an encoder."""

    state: dict[str, Tensor]
    run: Run
    """That made them, or one that describes them."""
    path: Path
    """The file."""
    report: Report
    """What was done with every tensor of it."""

    @property
    def kind(self) -> Literal["encoder", "classifier", "detector"]:
        """Whose they are."""
        if detects(self.state):
            return "detector"
        return "classifier" if "head.weight" in self.state else "encoder"

    def expect(self, kind: Literal["classifier", "detector"]) -> None:
        """Checks whose they are.

        Raises:
            ValueError: they are of something else; says what to do with them, or first.
        """
        if self.kind == kind:
            return
        if self.kind == "detector":
            raise ValueError(
                f"{self.path} says what people in boxes do, and not what a clip shows; use it with tubelet detect, or "
                "with tubelet test on key frames"
            )
        what, preset = ("a head for boxes", "finetune-ava-b") if kind == "detector" else ("a head", "")
        how = f"tubelet finetune {preset}".strip()
        of = f"a head for whole clips, but not {what}" if self.kind == "classifier" else f"an encoder but no{what[1:]}"
        raise ValueError(f"{self.path} has {of}; fine-tune it first: {how} --weights {self.path}")


def weights_of(archive: Archive, asked: Asked = Asked()) -> Weights:  # noqa: B008 - frozen
    """What is in a file, ours or another's, as a run of ours would have kept it, for ImageNet's means and deviations.

    Raises:
        ValueError: a file that does not hold exactly what its format lists.
    """
    if (run := run_of(archive)) is not None:
        report = ours(archive, asked)
        state, run = imagenet(archive.state, run)
    else:
        _, run, result = opened(archive, asked)
        state, report = result.state, result.report
    report.mark("left out", "a decoder; the encoder is used without it", "decoder.")
    return Weights(kept(state), run, archive.path, report)


def opened(archive: Archive, asked: Asked = Asked()) -> tuple[nn.Module, Run, Found]:  # noqa: B008 - frozen
    """The network of somebody else's file, a run that describes it, and what was found."""
    result = recognised(archive, asked)
    run = described(result)
    return built(run, result.state, result.report, result.normed), run, result


def kept(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a classifier or a detector everything; else the encoder by itself, without the prefix."""
    if "head.weight" in state or "embed.weight" in state:
        return state
    return {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
