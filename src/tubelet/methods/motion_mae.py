"""MotionMAE: imagine the hidden cubes and what changes in them from frame to frame.

Yang et al., BMVC 2024, arXiv:2210.04154. Beside pixels the decoder predicts the difference of neighbouring frames,
which holds what moves and nothing of what rests.
Paper: ViT-B, Something-Something V2, 2400 epochs, fine-tuned top-1 71.8; Kinetics-400, 1600 epochs, 81.7.

    tubelet pretrain motion-mae-ssv2-b --data ssv2:DIR:train

No code was released. Weights of 1, tokens hidden anywhere at 0.9, differences within a cube normalised as its pixels
are, and one linear layer for both are chosen here; the rest is VideoMAE's.
"""

from dataclasses import replace
from typing import Literal

from tubelet.config import Run
from tubelet.masks.random_masks import Random
from tubelet.methods import videomae
from tubelet.motion_targets import FrameDifference
from tubelet.targets import Pixels, Together


def _with_changes(run: Run, normalise: Literal["videomae", "none"]) -> Run:
    target = Together((Pixels(normalise), FrameDifference(normalise)), (1.0, 1.0))
    return replace(run, method=replace(run.method, mask=Random(0.9), target=target))


def k400_b() -> Run:
    """Kinetics-400, ViT-B, 1600 epochs. Paper: top-1 81.7."""
    return _with_changes(videomae.k400_b(), "videomae")


def ssv2_b() -> Run:
    """Something-Something V2, ViT-B, 2400 epochs. Paper: top-1 71.8."""
    return _with_changes(videomae.ssv2_b(), "videomae")


def few_cpu() -> Run:
    """As videomae-few-cpu, raw pixels and raw differences. No published number."""
    return _with_changes(videomae.few_cpu(), "none")
