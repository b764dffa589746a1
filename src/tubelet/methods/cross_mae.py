"""CrossMAE: hidden tokens are imagined each by itself, from what the encoder saw; so a few of them are enough.

Fu et al. 2024, arXiv:2401.14391. Two claims about masked autoencoders of images: mask tokens need not look at
each other, so a decoder may attend across only; and then a third of the hidden tokens (a quarter of the image) teaches
as much as all of them, for less. Each block of the decoder asks its own learnt mix of what the encoder's blocks put
out.
Paper: ViT-B, ImageNet-1K, 800 epochs, 12 blocks of 512: top-1 83.7 after fine-tuning, where MAE has 83.6. The presets
here are for video, which the numbers are not about; they predict a quarter of the hidden tokens. The mix is of what the
blocks put out, the last one's normed (so that the encoder's norm learns; the released model takes it raw), without the
embedding.

    tubelet pretrain cross-mae-few-cpu --data DIR
"""

from dataclasses import replace

from tubelet.config import Run
from tubelet.masks.random_masks import Random
from tubelet.methods import videomae
from tubelet.nn.cross import CrossDecoder

PREDICT = 0.25  # of the hidden tokens


def k400_b() -> Run:
    """Kinetics-400, ViT-B, as videomae-k400-b but for mask and decoder. No published number."""
    run = videomae.k400_b()
    decoder = CrossDecoder(512, 12, 16, memory="mixed")
    return replace(run, method=replace(run.method, mask=Random(0.9), decoder=decoder, predict=PREDICT))


def few_cpu() -> Run:
    """As videomae-few-cpu, with a decoder that attends across only. No published number."""
    run = videomae.few_cpu()
    decoder = CrossDecoder(96, 2, 3, position="axes", memory="mixed")
    return replace(run, method=replace(run.method, decoder=decoder, predict=PREDICT))
