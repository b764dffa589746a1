"""Files as the released code writes them: its names and shapes, every tensor filled with noise."""

import torch
from torch import Tensor, nn

from tubelet.export.official import to_official
from tubelet.methods.masked import MaskedAutoencoder


def noise(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """A tensor for each shape."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng) * 0.05 for name, shape in shapes.items()}


def blocks(prefix: str, depth: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The blocks of VideoMAE's code."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        of = f"{prefix}blocks.{i}."
        shapes |= {
            f"{of}norm1.weight": (width,),
            f"{of}norm1.bias": (width,),
            f"{of}attn.q_bias": (width,),
            f"{of}attn.v_bias": (width,),
            f"{of}attn.qkv.weight": (3 * width, width),
            f"{of}attn.proj.weight": (width, width),
            f"{of}attn.proj.bias": (width,),
            f"{of}norm2.weight": (width,),
            f"{of}norm2.bias": (width,),
            f"{of}mlp.fc1.weight": (hidden, width),
            f"{of}mlp.fc1.bias": (hidden,),
            f"{of}mlp.fc2.weight": (width, hidden),
            f"{of}mlp.fc2.bias": (width,),
        }
    return shapes


def pretrained(width, depth, hidden, decoder, decoder_depth, decoder_hidden, patch=(2, 16, 16)) -> dict:
    """The names and shapes of a pre-training checkpoint of VideoMAE."""
    values = 3 * patch[0] * patch[1] * patch[2]
    return {
        "encoder.patch_embed.proj.weight": (width, 3, *patch),
        "encoder.patch_embed.proj.bias": (width,),
        **blocks("encoder.", depth, width, hidden),
        "encoder.norm.weight": (width,),
        "encoder.norm.bias": (width,),
        "encoder_to_decoder.weight": (decoder, width),
        "mask_token": (1, 1, decoder),
        **blocks("decoder.", decoder_depth, decoder, decoder_hidden),
        "decoder.norm.weight": (decoder,),
        "decoder.norm.bias": (decoder,),
        "decoder.head.weight": (values, decoder),
        "decoder.head.bias": (values,),
    }


def finetuned(width, depth, hidden, classes, patch=(2, 16, 16), norm="fc_norm") -> dict:
    """The same of a fine-tuning checkpoint; with the norm "norm" of VideoMAE-Action-Detection."""
    return {
        "patch_embed.proj.weight": (width, 3, *patch),
        "patch_embed.proj.bias": (width,),
        **blocks("", depth, width, hidden),
        f"{norm}.weight": (width,),
        f"{norm}.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }


def as_released(module: nn.Module, patch: tuple[int, int, int]) -> dict[str, Tensor]:
    """A network's weights as `tubelet export --to official` names them."""
    return to_official(module.state_dict(), patch, tuned=not isinstance(module, MaskedAutoencoder))
