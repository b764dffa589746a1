"""M3Video: imagine how things look, as histograms of gradients, and where they go.

Sun et al., CVPR 2023, arXiv:2210.06096 (also "masked motion encoding"). The decoder, of one block, predicts for every
hidden cube its edges and the paths that its quarters take, so that it must know motion beyond the cube.
Paper: ViT-B, Kinetics-400, 1600 epochs, fine-tuned top-1 81.8, and moved on from there Something-Something V2 71.5,
UCF101 96.5, HMDB51 78.0; Something-Something V2 itself, 400 epochs, 69.2.

    tubelet pretrain m3video-few-cpu --data DIR

Where this differs from the released code: paths follow the motion between the frames of the clip, drawn as it is read,
and not flow between all frames, drawn beforehand and freed of the camera's motion; histograms have length 1; both
targets share a linear layer in place of a small network each, and count as means over their values, half and half.
"""

from dataclasses import replace

from tubelet.config import Run
from tubelet.data.flow import Flow
from tubelet.data.vectors import Vectors
from tubelet.masks.random_masks import Tube
from tubelet.methods import videomae
from tubelet.motion_targets import Trajectory
from tubelet.nn.decoder import Decoder
from tubelet.targets import HOG, Together


def _recipe(run: Run, epochs: float) -> Run:
    target = Together((HOG(frames="middle"), Trajectory(4, unit=20.0, normalise=True)), (0.5, 0.5))
    return replace(
        run,
        method=replace(run.method, mask=Tube(0.7), target=target, decoder=Decoder(192, 1, 3)),
        data=replace(run.data, motion=Flow()),
        training=replace(run.training, epochs=epochs),
    )


def k400_b() -> Run:
    """Kinetics-400, ViT-B, 1600 epochs. Paper: top-1 81.8."""
    return _recipe(videomae.k400_b(), 1600)


def ssv2_b() -> Run:
    """Something-Something V2, ViT-B, 400 epochs. Paper: top-1 69.2."""
    return _recipe(videomae.ssv2_b(), 400)


def few_cpu() -> Run:
    """As videomae-few-cpu, with edges and, of the codec's vectors, paths in units of a token. No published number."""
    run = videomae.few_cpu()
    target = Together((HOG(cell=4, frames="middle"), Trajectory(4)), (0.5, 0.5))
    return replace(run, method=replace(run.method, target=target), data=replace(run.data, motion=Vectors(block=4)))
