"""MGMAE: what is visible stays visible where the optical flow takes it, so that nothing leaks from frame to frame.

Huang et al., ICCV 2023, arXiv:2308.10794. Against VideoMAE only the mask changes: a tube lets a moving thing come out
of hiding, so the visible places of one frame are carried along with the motion. Paper's code base: ViT-B, Kinetics-400,
800 epochs, fine-tuned top-1 81.2; Something-Something V2, 71.0 (2400: 72.3).

    tubelet pretrain mgmae-ssv2 --data ssv2:DIR:train

Settings are the released scripts': 384 videos over all processes, four crops of each (200 epochs count as 800), base
rate 1e-3. Where this differs: flow is DIS, computed by the readers, on blocks of 8 pixels, instead of RAFT-small on the
device, which needs weights; before the base frame the flow points the way that warping needs, where the released code
has it the wrong way round (`--method.mask.released` does as it did). Guided by the codec's vectors: one field.
"""

from dataclasses import replace

from tubelet.config import Run
from tubelet.data.flow import Flow
from tubelet.data.vectors import Vectors
from tubelet.masks.motion_masks import FlowWarp
from tubelet.methods import videomae


def _recipe(run: Run, epochs: float, motion: Flow | Vectors) -> Run:
    return replace(
        run,
        method=replace(run.method, mask=FlowWarp(0.9)),
        data=replace(run.data, repeats=4, motion=motion),
        optim=replace(run.optim, base_lr=1e-3, warmup=20),
        training=replace(run.training, epochs=epochs, batch=384),
    )


def k400() -> Run:
    """Kinetics-400, ViT-B, 200 epochs of 4 crops, visible places carried by flow. Paper's code base: top-1 81.2."""
    return _recipe(videomae.k400_b(), 200, Flow())


def k400_1600() -> Run:
    """Kinetics-400, 400 epochs of 4 crops. Paper's code base: top-1 81.8."""
    return _recipe(videomae.k400_b(), 400, Flow())


def ssv2() -> Run:
    """Something-Something V2, ViT-B, 200 epochs of 4 crops, visible places carried by flow. Code base: top-1 71.0."""
    return _recipe(videomae.ssv2_b(), 200, Flow())


def ssv2_2400() -> Run:
    """Something-Something V2, 600 epochs of 4 crops. Paper's code base: top-1 72.3."""
    return _recipe(videomae.ssv2_b(), 600, Flow())


def k400_vectors() -> Run:
    """As mgmae-k400, guided by the codec's motion vectors. No published number."""
    return _recipe(videomae.k400_b(), 200, Vectors())


def ssv2_vectors() -> Run:
    """As mgmae-ssv2, guided by the codec's motion vectors. No published number."""
    return _recipe(videomae.ssv2_b(), 200, Vectors())


def few_cpu_vectors() -> Run:
    """As mgmae-few-cpu, guided by the codec's motion vectors. No published number."""
    run = few_cpu()
    return replace(run, data=replace(run.data, motion=Vectors(block=4)))


def few_cpu() -> Run:
    """As videomae-few-cpu, with visible places carried by flow. No published number."""
    run = videomae.few_cpu()
    return replace(run, method=replace(run.method, mask=FlowWarp(0.9)), data=replace(run.data, motion=Flow(block=4)))
