"""Models of transformers' VideoMAE, small and odd, every tensor noise; and clips as they want them."""

import torch
from transformers import VideoMAEConfig

from tubelet.targets import MEAN, STD

SHAPE = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 6,
    "tubelet_size": 3,
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 100,
    "decoder_hidden_size": 36,
    "decoder_num_attention_heads": 4,
    "decoder_num_hidden_layers": 2,
    "decoder_intermediate_size": 50,
    "layer_norm_eps": 1e-6,
}


def model(kind, **more):
    """A model of transformers, every tensor noise; its hard-coded eps of 1e-5 are set to VideoMAE's 1e-6."""
    theirs = kind(VideoMAEConfig(**SHAPE | more)).eval()
    for norm in [module for module in theirs.modules() if isinstance(module, torch.nn.LayerNorm)]:
        norm.eps = 1e-6
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.05)
    return theirs


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips as bytes, and as transformers wants them."""
    video = torch.randint(0, 256, (2, 3, 6, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return video, pixels(video)


def pixels(video: torch.Tensor) -> torch.Tensor:
    """Clips of bytes as transformers wants them."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    return ((video / 255 - mean) / std).transpose(1, 2)
