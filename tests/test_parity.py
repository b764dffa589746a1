"""Our masked autoencoder against transformers' VideoMAE: same weights, clips and masks must give the same numbers."""

from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

from tubelet.masks.random_masks import Random, Tube
from tubelet.methods.masked import Masked
from tubelet.nn.classifier import Classifier
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import patchify
from tubelet.nn.vit import SIZES, Encoder
from tubelet.targets import MEAN, STD, Pixels, inputs
from tubelet.types import Batch, Draws, Grid
from tubelet.weights.hugging_face import translated
from tubelet.weights.report import Report

ODD = Encoder(width=60, depth=3, heads=5, hidden=100, patch=(3, 8, 8))


def config_of(shape: Encoder, frames: int, side: int, **more) -> VideoMAEConfig:
    """Their config of our encoder."""
    return VideoMAEConfig(
        image_size=side,
        patch_size=shape.patch[1],
        num_frames=frames,
        tubelet_size=shape.patch[0],
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden,
        layer_norm_eps=1e-6,
        **more,
    )


def pair(shape: Encoder, decoder: Decoder, frames: int, side: int, target: Pixels, ratio: float, kind=Tube):
    """Theirs and ours with the same noise in *every* tensor, so that nothing dropped goes unseen."""
    config = config_of(
        shape,
        frames,
        side,
        decoder_hidden_size=decoder.width,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=decoder.hidden,
        use_mean_pooling=False,  # as every pre-training checkpoint: keeps the final norm
        norm_pix_loss=target.normalise == "videomae",
    )
    theirs = VideoMAEForPreTraining(config).eval()
    theirs.decoder.norm.eps = 1e-6  # transformers leaves this one at PyTorch's 1e-5
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.05)
    grid = Grid.of(frames, side, side, shape.patch)
    ours = Masked(kind(ratio), target, decoder).build(shape, grid, 3)
    ours.load_state_dict(translated(theirs.state_dict(), Report(Path("theirs"))))
    video = clips(frames, side, noise)
    return theirs, ours, Batch(video, torch.arange(len(video)))


def clips(frames: int, side: int, noise: torch.Generator) -> torch.Tensor:
    """Two clips of noise; of the papers' size one, which takes long enough."""
    return torch.randint(0, 256, (1 if side == 224 else 2, 3, frames, side, side), generator=noise, dtype=torch.uint8)


CASES = {
    "vit-b 16x224": (SIZES["b"], Decoder(384, 4, 6), 16, 224, Pixels("videomae"), 0.9),
    "odd": (ODD, Decoder(36, 2, 3), 9, 40, Pixels("videomae"), 0.7),
    "odd, raw pixels": (ODD, Decoder(36, 2, 3), 9, 40, Pixels("none"), 0.7),
    "odd, random mask": (ODD, Decoder(36, 2, 3), 9, 40, Pixels("videomae"), 0.8, Random),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loss_logits_and_gradients_equal_transformers(case):
    theirs, ours, batch = pair(*case)
    places = range(len(batch.video))
    mask = ours.mask(batch, ours.grid, Draws(0, 0, places))
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)
    pixels = ((batch.video.float() / 255 - mean) / std).transpose(1, 2)

    expected = theirs(pixels, bool_masked_pos=mask.hidden)
    expected.loss.backward()
    result = ours(batch, Draws(0, 0, places))
    loss = result.sum / result.count
    loss.backward()
    logits = ours.imagine(patchify(batch.video, ours.grid.patch), mask)

    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    gradients = translated({name: p.grad for name, p in theirs.named_parameters()}, Report(Path("theirs")))
    names = [name for name, _ in ours.named_parameters()]
    assert sorted(gradients) == sorted(names)
    for name, parameter in ours.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / gradients[name].norm().clamp(min=1e-12)
        assert error < 1e-4, f"{name}: gradient off by {error:.1e}"


@pytest.mark.parametrize(("shape", "frames", "side"), [(SIZES["s"], 16, 224), (ODD, 9, 40)], ids=["vit-s", "odd"])
def test_classifier_and_its_gradients_equal_transformers(shape, frames, side):
    config = config_of(shape, frames, side, num_labels=7)
    theirs = VideoMAEForVideoClassification(config).eval()
    theirs.fc_norm.eps = 1e-6  # transformers leaves this one at PyTorch's 1e-5
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.05)
    ours = Classifier(shape.build(Grid.of(frames, side, side, shape.patch), 3), 7).eval()
    ours.load_state_dict(translated(theirs.state_dict(), Report(Path("theirs"))))
    video = clips(frames, side, noise)
    labels = torch.tensor([2, 6])[: len(video)]
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)

    expected = theirs(((video.float() / 255 - mean) / std).transpose(1, 2), labels=labels)
    expected.loss.backward()
    logits = ours(inputs(video, shape.patch))
    torch.nn.functional.cross_entropy(logits, labels).backward()

    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    gradients = translated({name: p.grad for name, p in theirs.named_parameters()}, Report(Path("theirs")))
    assert sorted(gradients) == sorted(name for name, _ in ours.named_parameters())
    for name, parameter in ours.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / gradients[name].norm().clamp(min=1e-12)
        assert error < 1e-4, f"{name}: gradient off by {error:.1e}"
