"""Masks by the names that people call them: of commands and pages that show them on a video."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:  # or the help of a command would import torch
    from tubelet.types import Masker

Kind = Literal["tube", "random", "frame", "block", "smm", "smm-sparse", "mgm", "mgm-sparse", "mgmae"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GUIDED = ("mgm", "mgm-sparse", "mgmae")  # masks that look at motion
Guide = Literal["vectors", "flow"]


def masker_of(kind: Kind, ratio: float | None) -> "Masker":
    """The mask of a kind, with its paper's ratio unless told another."""
    from tubelet.masks.motion_masks import FlowWarp, MotionBox, SimulatedBox
    from tubelet.masks.random_masks import Block, Frame, Random, Tube

    maskers: dict[Kind, Any] = {
        "tube": Tube(),
        "random": Random(),
        "frame": Frame(),
        "block": Block(),
        "smm": SimulatedBox(),
        "smm-sparse": SimulatedBox(sparse=True),
        "mgm": MotionBox(),
        "mgm-sparse": MotionBox(sparse=True),
        "mgmae": FlowWarp(),
    }
    return maskers[kind] if ratio is None else replace(maskers[kind], ratio=ratio)


def said(kind: str) -> str:
    """MGM sparse for mgm-sparse, tube for tube."""
    name, _, rest = kind.partition("-")
    return kind if kind in ("tube", "random", "frame", "block") else f"{name.upper()} {rest}".strip()
