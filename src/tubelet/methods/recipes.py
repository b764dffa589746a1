"""Fine-tuning recipes of the papers, as presets: what differs from data set to data set and from size to size.

    tubelet finetune finetune-ssv2-b --weights runs/videomae-ssv2-b --data ssv2:DIR:train --validation ssv2:DIR:val

Sources: the released scripts of VideoMAE for Kinetics-400, Something-Something V2 and UCF101 (batch over all processes;
base rates are scaled by batch / 256, not counting repeats); MGM (Fan et al. 2023, arXiv:2308.12962, table 6) for HMDB51
and Diving48, which have no script, and for its own models on the others (`finetune-mgm-...`; its row of repeats has
five values for six columns, so whose they are is a guess: 1 for Kinetics, 2 for the others). Chains: any of them can
start from the run of another, as with `--weights runs/finetune-k400-b --new-head` (self-supervised, then Kinetics'
labels, then UCF101). From scratch: no --weights.
"""

from dataclasses import replace

from tubelet.config import Optim, Run, Training
from tubelet.data.augment import RandAugment
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense, Segments, Spread
from tubelet.data.transforms import RandomResizedCrop
from tubelet.methods.mixing import Erasing, Mix
from tubelet.methods.supervised import Supervised
from tubelet.nn.vit import SIZES, Encoder


def recipe(
    size: str,
    batch: int,
    base_lr: float,
    epochs: int,
    layer_decay: float = 0.75,
    repeats: int = 2,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    warmup: int = 5,
    segments: bool = False,
    flip: float = 0.5,
) -> Run:
    """VideoMAE's fine-tuning; `batch` videos a step over all processes, `segments` for Something-Something."""
    return Run(
        encoder=replace(SIZES[size], drop_path=drop_path, checkpoint=size in "hg"),
        method=Supervised(smoothing=0.1, mix=Mix(0.8, 1.0), erase=Erasing(0.25), dropout=dropout),
        data=Data(
            clip=Segments(16) if segments else Spread(16, stride=4),
            size=(224, 224),
            crop=RandomResizedCrop((0.08, 1.0)),
            flip=0.0 if segments else flip,  # Something-Something tells left from right
            augment=RandAugment(),
            repeats=repeats,
        ),
        optim=Optim(
            base_lr=base_lr,
            min_lr=1e-5 if dropout else 1e-6,
            warmup=warmup,
            betas=(0.9, 0.999),
            weight_decay=0.05,
            layer_decay=layer_decay,
        ),
        training=Training(epochs=epochs, batch=batch, save_every=5, validate_every=1),
    )


def k400_s() -> Run:
    """Kinetics-400, ViT-S, 150 epochs. Paper's code base: top-1 79.0 (5x3 views)."""
    return recipe("s", batch=384, base_lr=5e-4, epochs=150)


def k400_b() -> Run:
    """Kinetics-400, ViT-B, 75 epochs, after 1600 of pre-training. Paper: top-1 81.5 (5x3 views)."""
    return recipe("b", batch=384, base_lr=5e-4, epochs=75)


def k400_l() -> Run:
    """Kinetics-400, ViT-L, 35 epochs. Paper: top-1 85.2 (5x3 views)."""
    return recipe("l", batch=128, base_lr=2e-3, epochs=35)


def k400_h() -> Run:
    """Kinetics-400, ViT-H, 50 epochs. Paper: top-1 86.6 (5x3 views)."""
    return recipe("h", batch=512, base_lr=1e-3, epochs=50, drop_path=0.2, dropout=0.5)


def _larger(run: Run) -> Run:
    """32 frames (the same span at half the stride) of 320 pixels.

    No script was released for these rows: the schedule is that of 16 frames of 224 pixels.
    """
    data = replace(run.data, clip=Spread(32, stride=2), size=(320, 320))
    return replace(run, data=data, encoder=replace(run.encoder, checkpoint=True))


def k400_l_320() -> Run:
    """Kinetics-400, ViT-L, 32 frames of 320 pixels. Paper: top-1 86.1 (4x3 views)."""
    return _larger(k400_l())


def k400_h_320() -> Run:
    """Kinetics-400, ViT-H, 32 frames of 320 pixels. Paper: top-1 87.4 (4x3 views)."""
    return _larger(k400_h())


def ssv2_s() -> Run:
    """Something-Something V2, ViT-S, 40 epochs, no flip. Paper's code base: top-1 66.8 (2x3 views)."""
    return recipe("s", batch=384, base_lr=1e-3, epochs=40, layer_decay=0.7, segments=True)


def ssv2_b() -> Run:
    """Something-Something V2, ViT-B, 30 epochs, no flip, after 2400 of pre-training. Paper: top-1 70.8 (2x3 views)."""
    return recipe("b", batch=384, base_lr=5e-4, epochs=30, segments=True)


def ssv2_l() -> Run:
    """Something-Something V2, ViT-L, no flip. Paper: top-1 74.3 (2x3 views). No script: 30 epochs as ViT-B."""
    return recipe("l", batch=128, base_lr=5e-4, epochs=30, segments=True)


def ssv2_l_32() -> Run:
    """Something-Something V2, ViT-L, 32 frames, no flip. Paper: top-1 75.4 (1x3 views). No script: as 16 frames."""
    run = ssv2_l()
    return replace(run, data=replace(run.data, clip=Segments(32)), encoder=replace(run.encoder, checkpoint=True))


def ssv2_h() -> Run:
    """Something-Something V2, ViT-H, 20 epochs, no flip. Settings of VideoMAE V2's script for its own ViT-H."""
    return recipe("h", batch=128, base_lr=5e-4, epochs=20, layer_decay=0.8, drop_path=0.2, segments=True)


def _ucf101(size: str) -> Run:
    return recipe(size, batch=128, base_lr=5e-4, epochs=100, layer_decay=0.7, drop_path=0.2, dropout=0.5)


def ucf101_s() -> Run:
    """UCF101, ViT-S; no published recipe: that of ViT-B."""
    return _ucf101("s")


def ucf101_b() -> Run:
    """UCF101, ViT-B, 100 epochs. Paper: top-1 91.3, or 96.1 pre-trained on Kinetics (5x3 views)."""
    return _ucf101("b")


def ucf101_l() -> Run:
    """UCF101, ViT-L; no published recipe: that of ViT-B."""
    return _ucf101("l")


def ucf101_h() -> Run:
    """UCF101, ViT-H; no published recipe: that of ViT-B."""
    return _ucf101("h")


def _mgm(size: str) -> Run:
    """Table 6 of MGM has the same column for HMDB51 and Diving48."""
    return recipe(size, batch=128, base_lr=5e-4, epochs=100, layer_decay=0.7, drop_path=0.2, warmup=0)


def mgm_ssv2_b() -> Run:
    """Something-Something V2, ViT-B, 30 epochs, no flip, after 800 of MGM. Paper: top-1 70.6 (2x3 views)."""
    return recipe("b", batch=128, base_lr=5e-4, epochs=30, segments=True)


def mgm_k400_b() -> Run:
    """Kinetics-400, ViT-B, 75 epochs, one crop a clip, after 800 of MGM. Paper: top-1 80.8 (5x3 views)."""
    return recipe("b", batch=128, base_lr=1e-3, epochs=75, repeats=1)


def mgm_ucf101_b() -> Run:
    """UCF101, ViT-B, 100 epochs, after MGM on Kinetics. Paper: top-1 94.2 (5x3 views)."""
    return recipe("b", batch=128, base_lr=5e-4, epochs=100, drop_path=0.2, warmup=0)


def hmdb51_s() -> Run:
    """HMDB51, ViT-S; no published recipe: that of ViT-B."""
    return _mgm("s")


def hmdb51_b() -> Run:
    """HMDB51, ViT-B, 100 epochs (MGM's table 6). VideoMAE: 62.6, or 73.3 pre-trained on Kinetics (5x3 views)."""
    return _mgm("b")


def hmdb51_l() -> Run:
    """HMDB51, ViT-L; no published recipe: that of ViT-B."""
    return _mgm("l")


def hmdb51_h() -> Run:
    """HMDB51, ViT-H; no published recipe: that of ViT-B."""
    return _mgm("h")


def diving48_s() -> Run:
    """Diving48 V2, ViT-S; no published recipe: that of ViT-B."""
    return _mgm("s")


def diving48_b() -> Run:
    """Diving48 V2, ViT-B, 100 epochs (MGM's table 6). VideoMAE pre-trained on SSv2: 80.5 (5x3 views)."""
    return _mgm("b")


def diving48_l() -> Run:
    """Diving48 V2, ViT-L; no published recipe: that of ViT-B."""
    return _mgm("l")


def diving48_h() -> Run:
    """Diving48 V2, ViT-H; no published recipe: that of ViT-B."""
    return _mgm("h")


def small_gpu() -> Run:
    """Own labelled videos, hundreds or thousands, one GPU, after videomae-small-gpu. No published number."""
    run = recipe("s", batch=32, base_lr=1e-3, epochs=100, layer_decay=0.7, drop_path=0.1)
    data = replace(run.data, crop=RandomResizedCrop((0.25, 1.0)), flip=0.0, clip=Spread(16, stride=2))
    return replace(run, data=data)


def small_cpu() -> Run:
    """Own labelled videos, tens or hundreds, on a CPU, after videomae-small-cpu. No published number."""
    return Run(
        encoder=Encoder(width=192, depth=4, heads=3, hidden=768, patch=(2, 8, 8), position="axes", drop_path=0.1),
        method=Supervised(cells=(4, 2, 2), mix=Mix(0.2, 1.0, probability=0.5), dropout=0.5),
        data=Data(clip=Dense(8, stride=3), size=(112, 112), crop=RandomResizedCrop((0.5, 1.0)), cache=128),
        optim=Optim(base_lr=8e-3, min_lr=1e-5, warmup=5, betas=(0.9, 0.999), layer_decay=0.75),
        training=Training(epochs=50, batch=16, save_every=20, validate_every=5, threads=1, workers=1),
    )


def few_cpu() -> Run:
    """Own short clips of one act each, about a hundred labels, on a CPU, after videomae-few-cpu. See docs/results.md.

    The head is told what changes where and when: with so few labels a mean over all tokens learns nothing.
    """
    return Run(
        encoder=Encoder(width=128, depth=4, heads=4, hidden=512, patch=(2, 8, 8), position="axes", drop_path=0.1),
        method=Supervised(cells=(8, 2, 2), mix=Mix(0.2, 1.0, probability=0.5), dropout=0.5),
        data=Data(clip=Segments(16), size=(32, 40), crop=RandomResizedCrop((0.5, 1.0)), cache=96),
        optim=Optim(base_lr=8e-3, min_lr=1e-5, warmup=5, betas=(0.9, 0.999), layer_decay=0.75),
        training=Training(epochs=55, batch=16, save_every=50, validate_every=5, threads=1, workers=0),
    )
