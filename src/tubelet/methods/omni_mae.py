"""OmniMAE: one masked autoencoder for pictures and videos, in turns.

Girdhar et al., CVPR 2023, arXiv:2206.08356. A picture is a clip that stands still for the two frames of one cube; most
steps show pictures, the others videos, all to one encoder and one decoder without a part of their own for either.
Claim: this does on both what one model of each does, under masks that hide more than either is used to (90 % of
pictures, 95 % of videos).
Paper: ViT-B, ImageNet-1K and Something-Something V2: top-1 83.0 and 69.5 after fine-tuning (L 85.1 and 74.2).

    tubelet pretrain omni-mae-b --data ssv2:DIR:train --data.images.source images:DIR:train

The recipe is the released configuration's, but for its masks (0.75 and 0.9; here the paper's best). Pictures take the
positions of the first time slot. A step shows 512 videos in four crops each, as there, or 512 pictures in four crops
each, where it has 2048 pictures; and an epoch is once through the videos, where it is once through the pictures: 200
here are 800 there.
"""

from dataclasses import replace

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.joint import Images
from tubelet.data.sampling import Dense
from tubelet.data.transforms import RandomResizedCrop
from tubelet.masks.random_masks import Random
from tubelet.methods import videomae
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import SIZES
from tubelet.targets import Pixels

MASK, STILL = Random(0.95), Random(0.9)
SHARE = 0.88  # of the steps that show pictures: 626 an epoch of ImageNet there, beside 82 of videos


def b() -> Run:
    """ImageNet-1K and Something-Something V2, ViT-B. Paper: top-1 83.0 and 69.5 after fine-tuning."""
    return Run(
        encoder=SIZES["b"],
        method=Masked(MASK, Pixels("videomae"), Decoder(384, 4, 16), still=STILL),
        data=Data(
            clip=Dense(16, span=2.7),
            size=(224, 224),
            crop=RandomResizedCrop((0.08, 1.0)),
            flip=0.0,
            repeats=4,
            images=Images(share=SHARE, repeats=4),
        ),
        optim=Optim(base_lr=8e-4, min_lr=0.0, warmup=10, betas=(0.9, 0.95), weight_decay=0.05),  # 1.6e-3 at this batch
        training=Training(epochs=200, batch=512, save_every=5),
    )


def few_cpu() -> Run:
    """As videomae-few-cpu, with pictures in half of the steps. No published number."""
    run = videomae.few_cpu()
    return replace(
        run,
        method=replace(run.method, mask=MASK, still=STILL),
        data=replace(run.data, images=Images(share=0.5)),
        training=replace(run.training, epochs=run.training.epochs / 2),  # as many steps
    )
