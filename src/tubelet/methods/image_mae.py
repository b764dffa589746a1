"""MAE for images: hide three quarters of a picture, imagine them from the rest. An image is a clip of one frame.

He et al., CVPR 2022, arXiv:2111.06377, known as ImageMAE where videos are about. Claim: an encoder that sees a quarter
of the patches, a small decoder and normalised pixels teach large transformers from images alone.
Paper: ViT-B, ImageNet-1K, 1600 epochs: top-1 83.6 after fine-tuning there; L 85.9, H 86.9. Inflated to video (see
docs/recipes.md), VideoMAE's paper measures for B 78.7 on Kinetics-400 and 64.8 on Something-Something V2.

    tubelet pretrain image-mae-few-cpu --data DIR

On videos it takes one random frame of each. Where the encoder differs from the released one, it is as all encoders
here: no class token, no biases of keys, PyTorch's initialisation of the embedding; and the bridge to the decoder has no
bias. Pictures are resized by antialiased bilinear interpolation, not bicubic.
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
from tubelet.targets import Pixels

FRAME = Dense(1, stride=1)  # any frame of a video; of an image its only one


def _recipe(size: str, patch: int = 16) -> Run:
    return Run(
        encoder=replace(SIZES[size], patch=(1, patch, patch), position="plane"),
        method=Masked(Random(0.75), Pixels("mae"), Decoder(512, 8, 16, position="plane")),
        data=Data(clip=FRAME, size=(224, 224), crop=RandomResizedCrop((0.2, 1.0)), flip=0.5),
        optim=Optim(base_lr=1.5e-4, min_lr=0.0, warmup=40, betas=(0.9, 0.95), weight_decay=0.05),
        training=Training(epochs=1600, batch=4096, save_every=20),
    )


def b() -> Run:
    """ImageNet-1K, ViT-B, 1600 epochs. Paper: top-1 83.6 after fine-tuning."""
    return _recipe("b")


def l() -> Run:  # noqa: E743 - as the other sizes
    """ImageNet-1K, ViT-L, 1600 epochs. Paper: top-1 85.9 after fine-tuning."""
    return _recipe("l")


def h() -> Run:
    """ImageNet-1K, ViT-H in patches of 14, 1600 epochs. Paper: top-1 86.9 after fine-tuning."""
    return _recipe("h", patch=14)


def few_cpu() -> Run:
    """As videomae-few-cpu, of single frames; finetune-few-cpu --inflate follows. No published number."""
    run = videomae.few_cpu()
    return replace(
        run,
        encoder=replace(run.encoder, patch=(1, 8, 8)),
        method=replace(run.method, mask=Random(0.75), predict=1.0),
        data=replace(run.data, clip=FRAME),
    )
