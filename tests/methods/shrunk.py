"""Presets made small: the same method and the same grid of tokens, with few channels, blocks and pixels."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from tubelet.config import Run, preset
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.supervised import Supervised
from tubelet.nn.cross import CrossDecoder
from tubelet.nn.decoder import Decoder
from tubelet.types import Batch, Boxes, Motion

# One preset for each method, with what is special about it: its own module, mask, target, decoder or positions.
METHODS = {
    "VideoMAE": "videomae-k400-b",
    "VideoMAE, few": "videomae-few-cpu",
    "VideoMAE V2": "videomae-v2-g",
    "MGM": "mgm-ssv2",
    "MGM, divided": "mgm-ssv2-200-timesformer",
    "SMM": "smm-ssv2",
    "MGMAE": "mgmae-ssv2",
    "ARVideo": "arvideo-k400-b",
    "ST-MAE": "st-mae-k400-b",
    "MaskFeat": "maskfeat-k400-b",
    "HOG target": "maskfeat-mae-k400-b",
    "MotionMAE": "motion-mae-k400-b",
    "M3Video": "m3video-k400-b",
    "CrossMAE": "cross-mae-k400-b",
    "ImageMAE": "image-mae-b",
    "OmniMAE": "omni-mae-b",
    "MoCo v3": "moco-v3-k400-b",
    "V-JEPA": "vjepa-l",
    "frozen teacher": "latent-frozen-b",
    "action detection": "finetune-ava-b",
    "action detection, attentive": "finetune-boxes-small-cpu",
}
PIXELS = 8  # a side of a patch
CLASSES = 5


def shrunk(run: Run) -> Run:
    """The run with 24 channels, two blocks, patches of at most 8 pixels, in 6x6 places at most (14x14 for clusters)."""
    encoder, data, method = run.encoder, run.data, shrunk_parts(run.method)
    time, height, width = encoder.patch
    most = 14 if hasattr(getattr(run.method, "mask", None), "cluster") else 6
    places = [min(size // side, most) for size, side in zip(data.size, (height, width))]
    side = min(height, PIXELS)
    encoder = replace(
        encoder, width=24, depth=2, heads=2, hidden=48, patch=(time, side, side), checkpoint=False, drop_path=0.0
    )
    if getattr(method, "momentum", 1) is None:  # a teacher that stays as it is, of a width of its own
        method = replace(method, shape=replace(encoder, width=12))
    return replace(
        run,
        encoder=encoder,
        method=method,
        data=replace(data, size=(places[0] * side, places[1] * side)),
    )


def shrunk_parts(part: Any) -> Any:
    """A method with small decoders, wherever they are in it, and small projectors."""
    if isinstance(part, Decoder | CrossDecoder):
        return replace(part, width=24, depth=1, heads=2, mlp_ratio=2.0)
    if isinstance(part, tuple):
        return tuple(map(shrunk_parts, part))
    if not is_dataclass(part):
        return part
    small = {f.name: shrunk_parts(getattr(part, f.name)) for f in fields(part) if f.init}
    if isinstance(part, Supervised | ActionDetection):
        return replace(part, outputs=CLASSES)
    small |= {name: 16 for name in ("hidden", "outputs") if name in small}
    return replace(part, **small)


def a_batch(run: Run, videos: int = 2, seed: int = 0) -> Batch:
    """Clips of smooth noise that moves, as many of each video as the run reads, with motion where it asks for it."""
    generator = torch.Generator().manual_seed(seed)
    frames, (height, width) = run.data.clip.frames, run.data.size
    crops = run.data.clips
    shape = (videos * crops, run.data.channels, frames, height, width)
    coarse = torch.rand(shape[0], shape[1], frames, height // 4, width // 4, generator=generator)
    video = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="trilinear")
    motion = None
    if run.data.motion is not None:
        motion = Motion.unknown(shape[2:], run.data.motion.block, shape[0])
        steps = torch.randn(motion.to_next.shape, generator=generator) * 4
        known = torch.ones_like(motion.has)
        motion = replace(motion, to_next=steps, to_previous=-steps, has=known, had=known.clone())
    ids = torch.arange(videos).repeat_interleave(crops)
    labels = torch.eye(CLASSES)[torch.arange(len(ids)) % CLASSES] if isinstance(run.method, Supervised) else None
    boxes = None
    if isinstance(run.method, ActionDetection):  # three people in the first clip, then two, then one, then none
        low = torch.rand(3, 2, generator=generator) * min(height, width) / 2
        corners = torch.cat([low, low + min(height, width) / 2], 1)
        boxes = tuple(Boxes(corners[clip % 4 :], torch.eye(CLASSES)[clip % 4 : 3]) for clip in range(len(ids)))
    return Batch((video * 255).to(torch.uint8), ids, crops, labels=labels, motion=motion, boxes=boxes)


def small(name: str) -> Run:
    """A preset by name, shrunk."""
    return shrunk(preset(name))
