"""VideoMAE V2: decode only half of the tokens, and spend what that saves on larger models and more data.

Wang et al., CVPR 2023, arXiv:2303.16727. Against VideoMAE: dual masking (the encoder's tubes at 0.9, and a running cell
that leaves out half of what the decoder would work on, section 3.2), four crops of every clip that is read, decoders of
four blocks at all sizes, ViT-g. The loss counts hidden tokens only, over the whole batch.
Paper: ViT-g, 1.35 million mixed clips, Kinetics-400 fine-tuned through Kinetics-710: top-1 88.4; directly 87.2.

    tubelet pretrain videomae-v2-b --data DIR

Its progressive training is three commands (section 3.3): pre-train; fine-tune on the labels of Kinetics-710; fine-tune
from there, shortly, on the data at hand (`--new-head`).

    tubelet pretrain videomae-v2-g --data DIR --out runs/g
    tubelet finetune finetune-v2-k710-g --weights runs/g --data K710.csv --out runs/g710
    tubelet finetune finetune-v2-k400-g --weights runs/g710 --new-head --data kinetics:DIR:train --out runs/g400

Settings are the released scripts': base rates that already count the four crops, batches of videos over all processes.
Their data (Kinetics-710, Something-Something V2, AVA, WebVid, own clips) was not released as a list.
"""

from dataclasses import replace
from typing import Any

from tubelet.config import Optim, Run
from tubelet.data.sampling import Spread
from tubelet.masks.random_masks import Tube
from tubelet.masks.running_cell import RunningCell
from tubelet.methods import recipes, videomae
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import SIZES
from tubelet.targets import Pixels

# Width, depth, heads of the released scripts; the MLP of ViT-g's is as wide for its width as the encoder's.
DECODERS = {
    "b": Decoder(384, 4, 6),
    "l": Decoder(512, 4, 8),
    "h": Decoder(512, 4, 8),
    "g": Decoder(512, 4, 8, mlp_ratio=48 / 11),
}


def _recipe(size: str, batch: int, epochs: int, warmup: int, base_lr: float = 1e-3, clip: float | None = None) -> Run:
    run = videomae.k400_b()
    return replace(
        run,
        encoder=replace(SIZES[size], checkpoint=size in "hg"),
        method=Masked(Tube(0.9), Pixels("videomae"), DECODERS[size], decode=RunningCell(0.5)),
        data=replace(run.data, repeats=4),
        optim=Optim(base_lr=base_lr, min_lr=1e-5, warmup=warmup, betas=(0.9, 0.95), weight_decay=0.05, clip=clip),
        training=replace(run.training, epochs=epochs, batch=batch),
    )


def b() -> Run:
    """Mixed videos, ViT-B, 200 epochs of 4 crops, half of the tokens decoded."""
    return _recipe("b", batch=1024, epochs=200, warmup=20)


def l() -> Run:  # noqa: E743
    """Mixed videos, ViT-L, 300 epochs of 4 crops, half of the tokens decoded."""
    return _recipe("l", batch=1536, epochs=300, warmup=30)


def h() -> Run:
    """Mixed videos, ViT-H, 300 epochs of 4 crops, half of the tokens decoded, activation checkpointing."""
    return _recipe("h", batch=2048, epochs=300, warmup=30)


def g() -> Run:
    """Mixed videos, ViT-g (patches of 14), 300 epochs of 4 crops. Paper: Kinetics-400 top-1 87.2, through K710 88.4."""
    return _recipe("g", batch=2048, epochs=300, warmup=30, base_lr=6e-4, clip=0.02)


def ssv2_b() -> Run:
    """Something-Something V2, ViT-B: VideoMAE's recipe with half of the tokens decoded, as the authors advise."""
    run = videomae.ssv2_b()
    return replace(run, method=replace(run.method, decode=RunningCell(0.5)))


def few_cpu() -> Run:
    """As videomae-few-cpu at 32x48 pixels (cells want even numbers of places), half decoded. No published number."""
    run = videomae.few_cpu()
    method = replace(run.method, decode=RunningCell(0.5), predict=1.0)
    return replace(run, method=method, data=replace(run.data, size=(32, 48)))


# ---------------------------------------------------------------------------- on labels


def _tuned(size: str, batch: int, lr: float, epochs: int, decay: float, drop: float, **more: Any) -> Run:
    return recipes.recipe(size, batch, lr, epochs, layer_decay=decay, drop_path=drop, **more)


def k710_b() -> Run:
    """Kinetics-400 or -710, ViT-B, 90 epochs."""
    return _tuned("b", 512, 7e-4, 90, 0.75, 0.1)


def ssv2_tuned_b() -> Run:
    """Something-Something V2, ViT-B, 25 epochs, no flip."""
    return _tuned("b", 256, 2e-3, 25, 0.65, 0.1, segments=True)


def k400_l() -> Run:
    """Kinetics-400, ViT-L, 35 epochs."""
    return _tuned("l", 192, 2e-3, 35, 0.75, 0.2)


def ssv2_tuned_l() -> Run:
    """Something-Something V2, ViT-L, 20 epochs, no flip."""
    return _tuned("l", 192, 5e-4, 20, 0.75, 0.2, segments=True)


def k710_h() -> Run:
    """Kinetics-400, -600 or -710, ViT-H, 40 epochs."""
    return _tuned("h", 128, 1e-3, 40, 0.8, 0.2, dropout=0.5)


def k710_g() -> Run:
    """Kinetics-710, ViT-g, 35 epochs: the labels between pre-training and the data at hand. Paper: top-1 83.8."""
    return _decayed(_tuned("g", 96, 1e-3, 35, 0.9, 0.3), clip=5.0)


def k400_direct_g() -> Run:
    """Kinetics-400, ViT-g, 30 epochs, without Kinetics-710. Paper: top-1 87.2."""
    return _decayed(_tuned("g", 192, 1e-3, 30, 0.9, 0.2))


def k400_g() -> Run:
    """Kinetics-400 or -600 after Kinetics-710, ViT-g, 3 epochs. Paper: top-1 88.4, 88.8."""
    return _decayed(_tuned("g", 96, 1e-5, 3, 0.9, 0.25, warmup=1))


def ssv2_tuned_g() -> Run:
    """Something-Something V2, ViT-g, 20 epochs, no flip. Paper: top-1 77.0."""
    return _tuned("g", 96, 3e-4, 20, 0.9, 0.25, segments=True)


def ucf101_g() -> Run:
    """UCF101 after Kinetics-710, ViT-g, 50 epochs. Paper: top-1 99.6."""
    return _tuned("g", 24, 1e-3, 50, 0.9, 0.35, dropout=0.5)


def hmdb51_g() -> Run:
    """HMDB51 after Kinetics-710, ViT-g, 15 epochs, stride 2. Paper: top-1 88.1."""
    run = _tuned("g", 24, 5e-4, 15, 0.9, 0.35, dropout=0.5)
    return replace(run, data=replace(run.data, clip=Spread(16, stride=2)))


def _decayed(run: Run, clip: float | None = None) -> Run:
    return replace(run, optim=replace(run.optim, weight_decay=0.1, clip=clip))
