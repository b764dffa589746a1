"""What a run will cost before it starts: stages and sizes, parameters, multiply-adds, memory, steps and rates.

Nothing comes from tables: the real module is built without memory (on torch's meta device) and one clip goes through
it, which counts every matrix product and shows how many tokens every block is given.
"""

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tubelet.config import Numbers, Run, checked, numbers
from tubelet.data.cache import free_memory
from tubelet.data.joint import Images
from tubelet.methods.arvideo import Autoregressive
from tubelet.methods.masked import Masked, chosen
from tubelet.nn.attention import SHORT, Block
from tubelet.nn.classifier import Classifier
from tubelet.nn.cross import CrossBlock, CrossDecoder
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.divided import DividedBlock
from tubelet.nn.vit import Encoder, ViT
from tubelet.train.loop import batch_bytes, pick_device, pick_precision, pick_workers
from tubelet.types import Batch, Draws, Grid, Method, Motion

SUPPOSED = 400  # classes, where the labels are not known: as many as Kinetics has


@dataclass(frozen=True)
class Stage:
    """One step on the way of a clip."""

    name: str
    what: str  # its settings
    size: str  # what comes out of it: channels x time x places


@dataclass(frozen=True)
class Memory:
    """Bytes on the device where they are most: when the backward pass of one part of a batch begins."""

    precision: str
    clips: int  # in one part
    weights: int
    gradients: int
    moments: int  # AdamW's two
    activations: int  # of one part: what its backward pass needs, and the loss's own temporary tensors

    @property
    def total(self) -> int:
        """All of it; on a GPU, libraries and what the allocator cannot reuse come on top."""
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True)
class Plan:
    """What a run will cost."""

    stages: tuple[Stage, ...]
    settings: dict[str, str]  # everything resolved, for people
    parameters: dict[str, int]  # "total", and each part
    gmacs: dict[str, float]  # 1e9 multiply-adds per clip: "forward", its parts, and "encoder of all tokens"
    mask: tuple[tuple[int, int], ...]  # visible and predicted tokens of each time slot; empty without a mask
    memory: Memory
    numbers: Numbers | None  # steps and rates; None where the number of videos is not known

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers only, for JSON."""
        return asdict(self) | {"memory": asdict(self.memory) | {"total": self.memory.total}}


def plan(run: Run, videos: int | None = None) -> Plan:
    """What `run` costs on that many videos; steps and warm-up stay open where their number is not known.

    Raises:
        ValueError: settings that cannot be used, as training itself would say.
    """
    checked(run)
    open_classes = getattr(run.method, "outputs", None) == 0
    if open_classes:
        run = replace(run, method=replace(run.method, outputs=SUPPOSED))
    grid = run.grid()
    method = on_meta(run.method, run.encoder, grid, run.data.channels)
    rates = numbers(run, 10**9 if videos is None else videos)  # rates do not depend on how many
    counted = None if videos is None else rates
    mask = one_mask(run, grid)
    passed = passage(method, grid, run.data.channels)
    memory = remembered(run, method, passed)
    parameters = {"total": size(method)} | {name: size(part) for name, part in method.named_children()}
    shown = settings(run, rates, counted) | {
        "mask": "none" if not mask else share(mask, grid),
        **({"classes": f"{SUPPOSED} supposed; the labels of --data will tell"} if open_classes else {}),
        **({"teacher": f"{run.method.teacher}, not counted"} if getattr(run.method, "teacher", None) else {}),
        "parameters": f"{parameters['total']:,}: " + ", ".join(f"{k} {v:,}" for k, v in list(parameters.items())[1:]),
        "GMACs a clip": ", ".join(f"{name} {value:,.2f}" for name, value in passed.gmacs.items()),
        "memory": f"about {gib(memory.total)} in {memory.precision}: weights {gib(memory.weights)}, gradients "
        f"{gib(memory.gradients)}, AdamW's moments {gib(memory.moments)}, activations {gib(memory.activations)} "
        f"({memory.clips:,} clips at once)" + too_much(memory.total, arithmetic(run)[0]),
        "read ahead": read_ahead(run),
        "disk": f"{gib(memory.weights + memory.moments)} a checkpoint",
    }
    return Plan(tuple(stages(run, grid, method, mask)), shown, parameters, passed.gmacs, mask, memory, counted)


def fine_tuned(encoder: Encoder, grid: Grid, channels: int, classes: int) -> int:
    """Parameters of the encoder as a classifier."""
    with torch.device("meta"):
        return size(Classifier(encoder.build(grid, channels), classes))


# ---------------------------------------------------------------------------- counting


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(config: Any, encoder: Encoder, grid: Grid, channels: int) -> Method:
    """The module that would be trained, with shapes but without memory."""
    with torch.device("meta"):
        return config.build(encoder, grid, channels).to("meta")


def one_mask(run: Run, grid: Grid) -> tuple[tuple[int, int], ...]:
    """Visible and predicted tokens of every time slot in the run's first mask; empty for methods without one."""
    if not isinstance(run.method, Masked | Autoregressive):
        return ()
    video = torch.zeros(1, run.data.channels, run.data.clip.frames, *run.data.size, dtype=torch.uint8)
    choose = partial(chosen, run.method) if isinstance(run.method, Masked) else run.method.mask
    mask = choose(unlabelled(video), grid, Draws(run.training.seed, 0, [0]))
    visible, predicted = ((ids[0] // grid.slot).bincount(minlength=grid.T) for ids in (mask.visible, mask.predict))
    return tuple(zip(visible.tolist(), predicted.tolist()))


def unlabelled(video: Tensor) -> Batch:
    """Clips of one video, of whose motion nothing is known."""
    clips = len(video)
    return Batch(
        video, torch.zeros(clips, dtype=torch.long), clips, motion=Motion.unknown(video.shape[2:], clips=clips)
    )


@dataclass(frozen=True)
class Passage:
    """One clip's way through a module; where several are compared, the mean of theirs."""

    gmacs: dict[str, float]
    calls: list[tuple[nn.Module, int, int, int]]  # of every block, and Linear and LayerNorm outside, if it is learnt:
    # clips, tokens of each, and tokens to ask
    predicted: int  # values that the decoder put out


def passage(method: Method, grid: Grid, channels: int) -> Passage:
    """Sends one clip through a module on the meta device, or as many as it compares."""
    (pt, ph, pw), views = grid.patch, method.views
    video = torch.empty(views, channels, grid.T * pt, grid.H * ph, grid.W * pw, dtype=torch.uint8, device="meta")
    network: Classifier | None = getattr(method, "network", None)
    kinds = Block | CrossBlock
    inside = {m for block in method.modules() if isinstance(block, kinds) for m in list(block.modules())[1:]}
    calls: list[tuple[nn.Module, int, int, int]] = []
    predicted: list[int] = []
    for module in method.modules():
        if isinstance(module, kinds | nn.Linear | nn.LayerNorm) and module not in inside:
            module.register_forward_hook(lambda m, args, out: calls.extend([counted(m, args)] * out.requires_grad))
    if (decoder := getattr(method, "decoder", None)) is not None:
        decoder.register_forward_hook(lambda m, args, out: predicted.append(out.numel()))

    method.eval()  # recomputing blocks changes memory, which `remembered` sees to, but not the forward pass
    with FlopCounterMode(display=False) as counter:
        labels = torch.empty(1, network.head.out_features, device="meta") if network is not None else None
        method(replace(unlabelled(video), labels=labels), Draws(0, 0, range(views)))
    counts, name = counter.get_flop_counts(), type(method).__name__
    gmacs = {"forward": counter.get_total_flops() / views / 2e9}
    for part, _ in method.named_children():
        gmacs[part] = sum(counts.get(f"{name}.{part}", {}).values()) / views / 2e9
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        method.encoder(torch.empty(1, grid.tokens, prod(grid.patch) * channels, device="meta"))
    return Passage(gmacs | {"encoder of all tokens": counter.get_total_flops() / 2e9}, calls, sum(predicted))


def counted(module: nn.Module, args: tuple[Any, ...]) -> tuple[nn.Module, int, int, int]:
    """A call of a module: clips, tokens of each, and those that it may ask, if it attends across."""
    asked = args[1].shape[1:-1].numel() if isinstance(module, CrossBlock) else 0
    return module, len(args[0]), args[0].shape[1:-1].numel(), asked


# ---------------------------------------------------------------------------- memory


def remembered(run: Run, method: Method, passed: Passage) -> Memory:
    """What training keeps on the device."""
    weights = 4 * size(method) + sum(buffer.nbytes for buffer in method.buffers())
    learnt = 4 * sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    clips = run.training.batch * run.data.per_video // run.training.accumulate
    device, precision = arithmetic(run)
    activations = kept(method, passed, clips, precision, device)
    return Memory(str(precision).removeprefix("torch."), clips, weights, learnt, 2 * learnt, activations)


def arithmetic(run: Run) -> tuple[str, torch.dtype]:
    """The run's kind of device and its precision; "auto" is bfloat16 for a device that this machine does not have."""
    name, t = run.training.precision, run.training
    try:
        device = pick_device(t.device)
    except ValueError:
        return t.device.split(":")[0], torch.bfloat16 if name == "auto" else getattr(torch, name)
    return device.type, pick_precision(name, device)


def kept(method: Method, passed: Passage, clips: int, precision: torch.dtype, device: str) -> int:
    """Bytes of activations that the backward pass of `clips` clips needs, bfloat16 copies of weights included.

    A recomputed block keeps its input only; all it has is there again while it is recomputed, one block at a time and
    after what comes later has gone.
    """
    recomputed = {b for part in method.modules() if isinstance(part, ViT) and part.checkpointing for b in part.blocks}
    real = 2 if precision == torch.bfloat16 else 4
    before = after = largest = 0
    for module, called, tokens, asked in passed.calls:  # in the order of the forward pass
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
    # The squared error's backward pass holds prediction, target, and the gradients of error and prediction.
    return before + max(after + 4 * 4 * passed.predicted * clips, largest)


def kept_by(module: nn.Module, clips: int, tokens: int, precision: torch.dtype, device: str, asked: int = 0) -> int:
    """Bytes that one module keeps for its backward pass over `clips` clips of `tokens` tokens, which ask `asked`.

    Every product keeps what it reads, in the arithmetic of the run; a norm keeps its input and two statistics in
    float32, whatever the arithmetic. Fused attention keeps queries, keys, values, its output and one sum per head and
    query, written-out attention all its weights. With bfloat16, every Linear keeps a copy of its weights too.
    """
    half = precision == torch.bfloat16
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


# ---------------------------------------------------------------------------- words


def stages(run: Run, grid: Grid, method: Method, mask: tuple[tuple[int, int], ...]) -> list[Stage]:
    """The way of a clip, as the tables of the papers show it."""
    e, c = run.encoder, run.data.channels
    pt, ph, pw = grid.patch
    clip = "x".join(map(str, (c, grid.T * pt, grid.H * ph, grid.W * pw)))
    visible = [v for v, _ in mask] or [grid.slot] * grid.T
    rows = [
        Stage("data", described(run.data.clip), clip),
        Stage("cube", f"{pt}x{ph}x{pw}, {e.width}", sized(e.width, [grid.slot] * grid.T)),
    ]
    if mask:
        rows.append(Stage("mask", described(run.method.mask), sized(e.width, visible)))
    again = ", recomputed" if e.checkpoint else ""
    if isinstance(getattr(run.method, "decoder", None), Head):
        visible = [grid.slot] * grid.T  # with mask tokens for those that are hidden
    rows.append(Stage("encoder", blocks(e.heads, e.hidden, e.depth) + again, sized(e.width, visible)))
    if hasattr(run.method, "stages"):
        return [*rows, *(Stage(*stage) for stage in run.method.stages(e.width))]
    if outputs := getattr(run.method, "outputs", 0):
        read = (
            f"changes in {'x'.join(map(str, run.method.cells))} cells"
            if run.method.cells
            else "mean of all tokens, norm"
        )
        rows.append(
            Stage("head", f"{read}, Linear {e.width * prod(run.method.cells or (1,))} to {outputs}", str(outputs))
        )
    d = getattr(run.method, "decoder", None)
    if d is None or not mask:
        return rows
    predicted = [p for _, p in mask]
    outputs = run.method.target.size(grid, c)
    width = e.width
    if isinstance(d, Decoder):
        width = d.width
        rows += [
            Stage("projector", f"Linear {e.width} to {width}", sized(width, visible)),
            Stage("decoder", "mask tokens, " + blocks(d.heads, d.hidden, d.depth), sized(width, map(sum, mask))),
        ]
    elif isinstance(d, CrossDecoder):
        width = d.width
        shape = f"mask tokens ask {d.memory}, " + blocks(d.heads, d.hidden, d.depth)
        rows.append(Stage("decoder", shape, sized(width, predicted)))
    told = f"Linear {width} to {outputs}: {described(run.method.target)}"
    rows.append(Stage("head", told, sized(outputs, predicted)))
    if run.method.target.pixels and outputs == prod(grid.patch) * c:
        rows.append(Stage("reshape", "cubes to video, for pictures", clip))
    return rows


def blocks(heads: int, hidden: int, depth: int) -> str:
    """The blocks of a transformer."""
    return f"[{heads} heads, MLP {hidden}] x {depth}"


def sized(channels: int, tokens: Any) -> str:
    """As 768x8x20 where all time slots have as many tokens, else as 768x157."""
    counts = list(tokens)
    return f"{channels}x{len(counts)}x{counts[0]}" if len(set(counts)) == 1 else f"{channels}x{sum(counts)}"


def described(part: Any) -> str:
    """A part of the config by its class and settings: "Tube, ratio 0.9"."""
    values = {f.name: getattr(part, f.name) for f in fields(part)} if is_dataclass(part) else {}
    return ", ".join([type(part).__name__, *(f"{k} {v}" for k, v in values.items() if v is not None)])


def share(mask: tuple[tuple[int, int], ...], grid: Grid) -> str:
    """How many tokens are visible, by time slot where all slots are alike."""
    visible, predicted = map(sum, zip(*mask))
    each = f"; {mask[0][0]} and {mask[0][1]} of {grid.slot} in each of {grid.T} slots" if len(set(mask)) == 1 else ""
    return f"{visible:,} visible, {predicted:,} predicted of {grid.tokens:,} tokens{each}"


def settings(run: Run, rates: Numbers, counted: Numbers | None) -> dict[str, str]:
    """Batch, length and rates, with the rule that gave them."""
    t, o, d = run.training, run.optim, run.data
    times = [f" x {many} {what}" for many, what in ((d.clips, "clips"), (d.repeats, "crops")) if many > 1]
    crops = f"{''.join(times)} = {t.batch * d.per_video:,} clips" if times else ""
    parts = f", in {t.accumulate} parts of {t.batch * d.per_video // t.accumulate:,}" if t.accumulate > 1 else ""
    open_ = "needs --data or --videos"
    return {
        "videos": f"{counted.videos:,}" if counted else open_,
        "batch": f"{t.batch:,} videos{crops}{parts}",
        **({"pictures": pictured(d.images)} if d.images else {}),
        "steps": f"{f'{counted.steps:,}' if counted else open_}; {t.epochs:g} epochs",
        "warm-up": f"{f'{counted.warmup:,} steps' if counted else open_}; {o.warmup:g} epochs"
        + "; more than half of the run: lower --optim.warmup" * (o.warmup > t.epochs / 2),
        "learning rate": f"{rates.lr:.3g} = {rates.rule}, falling to {rates.low:.3g}",
    }


def pictured(images: Images) -> str:
    """Which steps show pictures, and how."""
    crops = f", {images.repeats} crops of each" if images.repeats > 1 else ""
    return f"{images.share:.4g} of the steps show as many pictures, as clips of {images.frames} frames{crops}"


def read_ahead(run: Run) -> str:
    """Main memory for the batches that the loader's workers have ready, two each, and the one that is trained on."""
    workers = pick_workers(run)
    ready = 1 + 2 * workers
    return f"up to {gib(batch_bytes(run) * ready)} of main memory: {ready} batches, by --training.workers {workers}"


def too_much(needed: int, device: str) -> str:
    """What to say where a run needs more memory than is free on its device; nothing where that is not known."""
    free = free_memory() if device == "cpu" else None
    if device == "cuda" and torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
    if free is None or needed <= free:
        return ""
    return f"; more than the {gib(free)} that are free here"


def gib(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"


def render(plan: Plan) -> RenderableType:
    """The plan as two tables."""
    way = Table("stage", "settings", "size", box=box.SIMPLE_HEAD, pad_edge=False)
    way.columns[0].style, way.columns[2].justify, way.columns[2].no_wrap = "bold", "right", True
    for stage in plan.stages:
        way.add_row(stage.name, stage.what, stage.size)
    resolved = Table(box=None, show_header=False, pad_edge=False)
    resolved.add_column(style="bold", no_wrap=True)
    resolved.add_column()
    for name, value in plan.settings.items():
        resolved.add_row(name, value)
    return Group(way, Padding(resolved, (0, 0, 0, 1)))
