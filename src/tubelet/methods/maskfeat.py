"""MaskFeat: hide blocks of a clip, predict histograms of oriented gradients instead of pixels.

Wei et al., CVPR 2022, arXiv:2112.09133. Edges, blind to brightness and contrast, are a better target than pixels and as
good as features of large networks (section 4). There is no decoder: the encoder sees a mask token for every hidden
cube, and a linear layer reads the prediction off.
Paper: MViTv2-S, Kinetics-400, 300 epochs, fine-tuned top-1 82.2; MViTv2-L 84.3. Of a ViT it has no number for video.

    tubelet pretrain maskfeat-few-cpu --data DIR

Here the encoder is a ViT without a class token. `maskfeat-k400-b` keeps the rest of the recipe; `maskfeat-mae-k400-b`
has the target alone, in VideoMAE's frame, where the encoder sees a tenth of the tokens and not all of them.
"""

from dataclasses import replace

from tubelet.config import Optim, Run, Training
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense
from tubelet.data.transforms import RandomResizedCrop
from tubelet.masks.random_masks import Cuboids, Random
from tubelet.methods import videomae
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Head
from tubelet.nn.vit import SIZES
from tubelet.targets import HOG


def k400_b() -> Run:
    """Kinetics-400, ViT-B, 300 epochs, boxes at 0.4, no decoder. No published number: the paper's are of MViTv2."""
    return Run(
        encoder=SIZES["b"],
        method=Masked(mask=Cuboids(0.4), target=HOG(), decoder=Head()),
        data=Data(clip=Dense(16, stride=4), size=(224, 224), crop=RandomResizedCrop((0.5, 1.0)), flip=0.5),
        # 1e-4 for each 64 clips, as released
        optim=Optim(base_lr=4e-4, min_lr=4e-6, warmup=10, betas=(0.9, 0.999), weight_decay=0.05, clip=0.02),
        training=Training(epochs=300, batch=512, save_every=10),
    )


def mae_k400_b() -> Run:
    """As videomae-k400-b, but histograms are the target and tokens are hidden anywhere. No published number."""
    run = videomae.k400_b()
    return replace(run, method=replace(run.method, mask=Random(0.9), target=HOG()))


def few_cpu() -> Run:
    """As videomae-few-cpu, with histograms of cells of 4 pixels. No published number."""
    run = videomae.few_cpu()
    return replace(run, method=replace(run.method, target=HOG(cell=4)))


def simmim_few_cpu() -> Run:
    """As maskfeat-few-cpu, boxes at 0.4 and no decoder: ten times as many tokens to encode. No published number."""
    run = videomae.few_cpu()
    return replace(run, method=Masked(Cuboids(0.4), HOG(cell=4), Head()))
