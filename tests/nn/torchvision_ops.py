"""Writes torchvision_ops.npz, in an environment of its own: pip install torch==2.2.2 torchvision==0.17.2 'numpy<2'."""

import itertools
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou, nms, roi_align

rng = np.random.default_rng(0)
maps = rng.normal(size=(2, 2, 9, 11)).astype(np.float32)
boxes = np.array(
    [  # of a picture of 144 x 176 pixels
        [0, 0, 176, 144],  # all of it
        [0, 0, 40, 30],  # on the border
        [140.5, 100.25, 176, 144],
        [-60, -40, 50, 60],  # partly outside
        [150, 120, 260, 300],
        [400, 400, 500, 480],  # outside
        [60, 50, 60, 50],  # no area
        [60, 50, 61, 50.5],  # tiny
        [33.3, 21.7, 122.9, 97.1],
        [80, 16, 96, 128],  # narrow
        [176, 144, 176, 144],  # the last corner
        [90, 60, 30, 20],  # reversed
    ],
    np.float32,
)
which = np.arange(len(boxes)) % 2
found = {"maps": maps, "boxes": boxes}
for (scale, bins), samples, aligned in itertools.product(
    [(16, (7, 7)), (8, (3, 2)), (1, (2, 3))], (0, 2), (False, True)
):
    corners = boxes[:11] if aligned and not samples else boxes  # reversed ones it cannot then
    corners = corners * np.float32(scale / 16)
    values = torch.tensor(maps, requires_grad=True)
    rois = torch.cat([torch.tensor(which[: len(corners)])[:, None].float(), torch.tensor(corners)], 1)
    out = roi_align(values, rois, bins, 1 / scale, samples, aligned)
    up = torch.cos(torch.arange(out.numel())).view(out.shape)
    (out * up).sum().backward()
    name = f"{scale}_{samples}_{int(aligned)}"
    found[f"out_{name}"], found[f"grad_{name}"] = out.detach().numpy(), values.grad.numpy()
low = rng.uniform(-20, 150, (130, 2))
many = np.concatenate([low, low + rng.uniform(0, 90, (130, 2))], 1).astype(np.float32)
rois = torch.tensor(np.concatenate([np.arange(130)[:, None] % 2, many], 1), dtype=torch.float32)
found |= {"many": many, "out_many": roi_align(torch.tensor(maps), rois, (2, 2), 1 / 16, 0, False).numpy()}
near = np.round(many[:60] / 16) * 16  # equal ones too
near = np.concatenate([near, near[:10]]).astype(np.float32)
near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 16)
scores = np.round(rng.random(70), 1).astype(np.float32)  # ties
found |= {"near": near, "scores": scores, "iou": box_iou(torch.tensor(near), torch.tensor(near[:25])).numpy()}
for most in (0.0, 0.3, 0.5, 0.7, 1.0):
    found[f"kept_{most}"] = nms(torch.tensor(near), torch.tensor(scores), most).numpy()
np.savez_compressed(Path(__file__).with_suffix(".npz"), **found)
