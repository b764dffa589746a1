"""An encoder of images becomes one of video: its cubes get deeper, and a clip that stands still looks as its image."""

from dataclasses import fields

import torch
from torch import Tensor

from tubelet.nn.vit import Encoder


def inflated(state: dict[str, Tensor], image: Encoder, video: Encoder, slots: int) -> dict[str, Tensor]:
    """The weights of an encoder of images for one of clips of `slots` time slots that is the same but for time.

    The embedding is repeated over the frames of a cube and divided by their number. Learnt positions keep what they
    tell of a place, and tell nothing of time yet; fixed ones are no weights. Divided attention, where images had joint
    attention, begins with a copy of it over time, which adds nothing until it has learnt to.

    So a clip of one slot that stands still has the features of its image; one of more slots has them too where
    positions are learnt.

    Source: Carreira and Zisserman 2017, arXiv:1705.07750, section 2.4; the copy: TimeSformer (arXiv:2102.05095), whose
    first block alone adds something over time from the start.

    Raises:
        ValueError: cubes of more than one frame, or encoders that differ in more than time.
    """
    if image.patch[0] != 1:
        raise ValueError(
            f"these weights are of a video encoder already, with cubes of {image.patch}; only an encoder of images, "
            "with cubes of 1 frame, can be inflated: leave --inflate out"
        )
    free = ("attention", "drop_path", "checkpoint")
    pairs = {f.name: (getattr(image, f.name), getattr(video, f.name)) for f in fields(Encoder) if f.name not in free}
    pairs["patch"] = image.patch[1:], video.patch[1:]
    other = [f"{name}: {theirs} -> {ours}" for name, (theirs, ours) in pairs.items() if theirs != ours]
    if image.attention == "divided" != video.attention:
        other.append("attention: divided -> joint")
    if other:
        raise ValueError(
            "an encoder of images can be inflated to one that differs in time only; this run's differs in (theirs -> "
            f"this run's): {'; '.join(other)}. Use the --encoder... flags that it was made with"
        )
    frames = video.patch[0]
    kept = dict(state)
    kept["embed.weight"] = state["embed.weight"].repeat(1, frames) / frames  # time is the slowest axis of a cube
    if video.position == "learned":
        kept["position.place"] = state["position.place"] + state["position.slot"]
        kept["position.slot"] = torch.zeros(slots, video.width)
    if video.attention != image.attention:
        for block in range(video.depth):
            of = f"blocks.{block}."
            for name in [name for name in state if name.startswith((f"{of}attn.", f"{of}norm1."))]:
                kept[name.replace("attn.", "attn0.").replace("norm1.", "norm0.")] = state[name].clone()
            kept[f"{of}join.weight"] = torch.zeros(video.width, video.width)
            kept[f"{of}join.bias"] = torch.zeros(video.width)
    return kept
