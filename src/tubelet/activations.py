"""What the forward pass of a training step keeps for the backward pass: memory beside weights and gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tubelet.nn.attention import SHORT, Block
from tubelet.nn.cross import CrossBlock
from tubelet.nn.detector import Detector
from tubelet.nn.divided import DividedBlock
from tubelet.nn.squared import AT_ONCE
from tubelet.nn.vit import ViT
from tubelet.types import Batch, Boxes, Grid, Method, Motion

BOXES = 3  # people in a clip, where nobody knows


class Live(TorchDispatchMode):
    """Adds up the memory that operations hand out, while it lives, and remembers the most there was at once.

    Also of tensors without memory, on the meta device. What was there `before` does not count.
    """

    def __init__(self, before: Sequence[Tensor]) -> None:
        super().__init__()
        self.before = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in before}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                if reference.cdata not in self.before:
                    self.alive[reference.cdata] = (reference, tensor.untyped_storage().nbytes())
        self.alive = {place: held for place, held in self.alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def weightless(grid: Grid, channels: int, clips: int, outputs: int = 0) -> Batch:
    """Clips of one video without memory, of whose motion nothing is known, with labels and with boxes."""
    pt, ph, pw = grid.patch
    video = torch.empty(clips, channels, grid.T * pt, grid.H * ph, grid.W * pw, dtype=torch.uint8, device="meta")
    boxes = Boxes(torch.zeros(BOXES, 4), torch.empty(BOXES, outputs, device="meta"))
    return Batch(
        video,
        torch.zeros(clips, dtype=torch.long),
        clips,
        labels=torch.empty(clips, outputs, device="meta"),
        motion=Motion.unknown(video.shape[2:], clips=clips),
        boxes=(boxes,) * clips,
    )


def read(network: Detector) -> int:
    """Bytes that a detector keeps of the tokens of a clip, after its encoder, for the way back; in float32."""
    grid, width = network.encoder.grid, network.head.in_features
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    found: dict[int, int] = {}

    def packed(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage._cdata] = 0 if storage._cdata in own else storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        tokens = torch.empty(1, grid.tokens, width, device="meta", requires_grad=True)
        network.read(tokens, torch.zeros(BOXES, 4), torch.zeros(BOXES, dtype=torch.long), grid)
    return sum(found.values())


def kept(
    method: Method,
    calls: Sequence[tuple[nn.Module, int, int, int]],
    predicted: int,
    clips: int,
    precision: torch.dtype,
    device: str,
) -> int:
    """Bytes of activations that the backward pass of `clips` clips needs, bfloat16 copies of weights included.

    `calls` are the modules in the order of the forward pass of one clip (or of as many as the method compares), each
    with the clips, the tokens of each that it was given, and those that it asked; `predicted` are the values that the
    decoder put out.

    A recomputed block keeps its input only; all it has is there again while it is recomputed, one block at a time and
    after what comes later has gone.
    """
    detectors = [part for part in method.modules() if isinstance(part, Detector)]
    recomputed = {b for part in method.modules() if isinstance(part, ViT) and part.checkpointing for b in part.blocks}
    real = 4 if precision == torch.float32 else 2
    before = after = largest = 0
    for module, called, tokens, asked in calls:
        needs = kept_by(module, clips // method.views * called, tokens, precision, device, asked)
        if isinstance(module, Block) and module in recomputed:
            width, hidden = module.norm1.weight.numel(), module.mlp.fc1.out_features
            before += clips * tokens * 4 * width
            gradients = clips * tokens * (4 * width + real * hidden)  # of its MLP's output and hidden channels
            largest = max(largest, needs + gradients)
        elif largest:
            after += needs
        else:
            before += needs
    # The squared error's backward pass holds the prediction and its gradient, the target, and some clips in float32;
    # that of other losses prediction, target, and the gradients of error and prediction.
    some = 4 * min(max(AT_ONCE, predicted), predicted * clips)
    loss = (2 * real + 4) * predicted * clips + some if hasattr(method, "target") else 4 * 4 * predicted * clips
    return before + max(after + loss, largest) + clips * sum(map(read, detectors))


def kept_by(module: nn.Module, clips: int, tokens: int, precision: torch.dtype, device: str, asked: int = 0) -> int:
    """Bytes that one module keeps for its backward pass over `clips` clips of `tokens` tokens, which ask `asked`.

    Every product keeps what it reads, in the arithmetic of the run; a norm keeps its input and two statistics in
    float32, whatever the arithmetic. Fused attention keeps queries, keys, values, its output and one sum per head and
    query, written-out attention all its weights. With bfloat16, every Linear keeps a copy of its weights too.
    """
    half = precision != torch.float32
    real = 2 if half else 4
    copies = sum(2 * layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear)) if half else 0
    if isinstance(module, Block):
        width, hidden, heads = module.norm1.weight.numel(), module.mlp.fc1.out_features, module.attn.heads
        norms, times = 2 * (4 * width + 8), 1
        if isinstance(module, DividedBlock):  # as if each of its two attentions were over all tokens
            norms, times = 3 * (4 * width + 8), 2
        attention = heads * (real * tokens if half and device == "cpu" and tokens <= SHORT else 4)
        products = real * (6 * width + 2 * hidden)  # qkv's input and three outputs, proj's, fc1's; GELU's and fc2's
        products += (times - 1) * real * 6 * width  # the same of the other attention, and what joins it
        if module.attn.k_bias is not None:  # rotary positions: queries and keys once more, turned
            products += real * 2 * width
        return clips * tokens * (norms + times * attention + products) + copies
    if isinstance(module, CrossBlock):
        width, hidden, heads = module.norm1.weight.numel(), module.mlp.fc1.out_features, module.attn.heads
        source = module.norm_memory.weight.numel()
        attention = heads * (real * asked if half and device == "cpu" and tokens <= SHORT else 4)
        products = real * (4 * width + 2 * hidden)  # the input of q, its output, proj's, fc1's; GELU's and fc2's
        memory = asked * (4 * source + 8 + real * (source + 2 * width))  # its norm; the input of kv, keys, values
        return clips * (tokens * (2 * (4 * width + 8) + attention + products) + memory) + copies
    if isinstance(module, nn.LayerNorm):
        return clips * tokens * (4 * module.weight.numel() + 8)
    assert isinstance(module, nn.Linear)
    return clips * tokens * real * module.in_features + copies
