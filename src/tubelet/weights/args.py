"""What trainings note beside their weights: the `args` of VideoMAE's code, a few of which say what its clips were."""

import argparse
import math
import re
from dataclasses import dataclass
from typing import Any

from tubelet.data.sampling import Dense, Segments, Spread
from tubelet.weights.report import Report

WHOLE = ("num_frames", "num_segments", "sampling_rate", "tubelet_size", "decoder_depth", "nb_classes")
SIDES = ("input_size", "patch_size")  # a whole number, or two
SWITCHES = ("normlize_target", "normalize_target", "sparse_sample")  # the first as the released code spells it
TOKENS = 2**16  # of a clip; args that claim more are not believed, since every position takes memory


def args_of(found: Any) -> dict[str, Any]:
    """The settings that are known here, of what a file holds beside its weights: a Namespace or dict called `args`.

    They are looked at and never called. The name of a data set is one only if it is a word, and no path.
    """
    args = found.get("args") if isinstance(found, dict) else None
    if type(args) is argparse.Namespace:
        args = vars(args)
    if not isinstance(args, dict):
        return {}
    known = {name: args[name] for name in (*WHOLE, *SIDES, *SWITCHES) if args.get(name) is not None}
    data = args.get("data_set")
    return known | ({"data_set": data} if isinstance(data, str) and re.fullmatch(r"[\w.-]{1,40}", data) else {})


@dataclass(frozen=True)
class Told:
    """What args tell of clips; none: nothing."""

    frames: int | None = None
    size: tuple[int, int] | None = None
    normalised: bool | None = None
    stride: int | None = None
    """Source frames from one frame of a clip to the next."""
    parts: bool = False
    """A frame of each part of the video, instead."""
    tuned: bool = False
    """They are of a fine-tuning, which spreads frames a little wider."""

    def clip(self, frames: int) -> Dense | Segments | Spread | None:
        """Which frames of a video make a clip of `frames`; none: they do not tell.

        Source: the readers of VideoMAE's and V2's pre-training (Dense) and fine-tuning (the others).
        """
        if self.parts:
            return Segments(frames)
        if self.stride is None:
            return None
        return Spread(frames, self.stride) if self.tuned else Dense(frames, self.stride)


def told_by(
    args: dict[str, Any], patch: tuple[int, int, int], depth: int | None, classes: int | None, report: Report
) -> Told:
    """What args tell that fit weights: their cube, the depth of a decoder, the classes of a head.

    Args that contradict the weights are not of these weights: then nothing of them is used, and a warning says so.
    """
    if not args:
        return Told()
    if wrong := contradiction(args, patch, depth, classes):
        report.warnings.append(f"its args are not of these weights, and nothing of them was used: {wrong}")
        return Told()
    report.notes.append("its args say " + ", ".join(f"{name} {value}" for name, value in args.items()))
    tuned, data = "nb_classes" in args, args.get("data_set", "Kinetics-400")
    sparse = args.get("sparse_sample", False) and data in ("Kinetics-400", "MIT")  # V2 heeds it for these alone
    return Told(
        args.get("num_frames"),
        sides(args["input_size"]) if "input_size" in args else None,
        args.get("normlize_target", args.get("normalize_target")),
        args.get("sampling_rate"),
        tuned and (data == "SSV2" or sparse),
        tuned,
    )


def sides(value: Any) -> tuple[int, int]:
    """Height and width of a setting that gives one number or both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def contradiction(
    args: dict[str, Any], patch: tuple[int, int, int], depth: int | None, classes: int | None
) -> str | None:
    """Which setting cannot be of weights of this shape, and why."""
    for name in (*WHOLE, *SIDES, *SWITCHES):
        if name in args and not sound(name, args[name]):
            kind = "true or false" if name in SWITCHES else "a whole number above 0"
            return f"{name} is {str(args[name])[:40]!r}, expected {kind}"
    told = {name: sides(args[name]) for name in SIDES if name in args}
    for name, value, ours, what in (
        ("tubelet_size", args.get("tubelet_size"), patch[0], "the cubes have"),
        ("patch_size", told.get("patch_size"), patch[1:], "the cubes have"),
        ("decoder_depth", args.get("decoder_depth"), depth, "the decoder has"),
        ("nb_classes", args.get("nb_classes"), classes, "the head has"),
        ("num_segments", args.get("num_segments"), 1, "the readers of its code made"),
    ):
        if None not in (value, ours) and value != ours:
            return f"{name} is {value}, {what} {ours}"
    clip = args.get("num_frames", patch[0]), *told.get("input_size", patch[1:])
    if any(side % cube for side, cube in zip(clip, patch)):
        return f"clips of {'x'.join(map(str, clip))} do not divide into cubes of {'x'.join(map(str, patch))}"
    if (tokens := math.prod(side // cube for side, cube in zip(clip, patch))) > TOKENS:
        return f"clips of {'x'.join(map(str, clip))} would be {tokens} tokens, more than {TOKENS}"
    return None


def sound(name: str, value: Any) -> bool:
    """Whether a setting is of the kind that it has to be."""
    if name in SWITCHES:
        return type(value) is bool
    pair = name in SIDES and type(value) in (tuple, list) and len(value) == 2
    return all(type(one) is int and 0 < one < 2**31 for one in (value if pair else [value]))
