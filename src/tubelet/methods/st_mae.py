"""MAE-ST: masked autoencoders as for images, spread over space and time, with hardly anything that knows of video.

Feichtenhofer et al., NeurIPS 2022, arXiv:2205.09113. Tokens are hidden anywhere at 0.9 (random 84.4, tubes 83.5, whole
frames 79.1 and less; table 2), positions are learnt, one frame of every cube is predicted, and each video that is read
gives four clips, since reading is what takes long (section 5).
Paper: Kinetics-400, fine-tuned top-1: ViT-B 81.3, ViT-L 84.8, ViT-H 85.1; how long each was trained for is not clear
(ablations: ViT-L, 800 epochs counted with the repeats, 84.4).

    tubelet pretrain st-mae-k400-l --data kinetics:DIR:train

Settings are the released command's; its rate does not count the repeats. Where this differs: no class token, inputs
normalised by ImageNet's statistics, keys without a bias, no un-shuffling in the decoder (which changes no result), no
weight decay of positions and mask token (the released fine-tuning has none of positions either), and the repeats are
crops of one clip, where the released ones begin at other times too (`--data.clips 4 --data.repeats 1`).
"""

from dataclasses import replace

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.transforms import RandomResizedCrop
from tubelet.masks.random_masks import Random
from tubelet.methods import videomae
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import SIZES
from tubelet.targets import OneFrame


def _recipe(size: str) -> Run:
    """200 times through the videos, four clips of each: 800 epochs as the paper counts them. The batch is ours."""
    return Run(
        encoder=replace(SIZES[size], position="learned", checkpoint=size == "h"),
        method=Masked(Random(0.9, floor="visible"), OneFrame(), Decoder(512, 4, 16, position="learned")),
        data=Data(clip=Dense(16, stride=4), size=(224, 224), crop=RandomResizedCrop((0.5, 1.0)), flip=0.5, repeats=4),
        optim=Optim(base_lr=1.6e-3, min_lr=0.0, warmup=5, betas=(0.9, 0.95), weight_decay=0.05, clip=0.02),
        training=Training(epochs=200, batch=512, save_every=10),
    )


def k400_b() -> Run:
    """Kinetics-400, ViT-B. Paper: top-1 81.3."""
    return _recipe("b")


def k400_l() -> Run:
    """Kinetics-400, ViT-L. Paper: top-1 84.8."""
    return _recipe("l")


def k400_h() -> Run:
    """Kinetics-400, ViT-H, activation checkpointing. Paper: top-1 85.1."""
    return _recipe("h")


def few_cpu() -> Run:
    """As videomae-few-cpu, with one raw frame of each cube to predict and learnt positions. No published number.

    No repeats: the frames are kept in memory, so that reading costs nothing.
    """
    run = videomae.few_cpu()
    decoder = replace(run.method.decoder, position="learned")
    return replace(
        run,
        encoder=replace(run.encoder, position="learned"),
        method=replace(run.method, target=OneFrame(normalise=False), decoder=decoder),
    )
