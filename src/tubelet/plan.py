"""What a run will cost before it starts: stages and sizes, parameters, multiply-adds, memory, steps and rates.

Nothing comes from tables: the real module is built without memory (on torch's meta device) and one clip goes through
it, which counts every matrix product and shows how many tokens every block is given.
"""

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from math import prod
from typing import Any

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tubelet.activations import BOXES, Live, kept, weightless
from tubelet.config import Numbers, Run, checked, numbers, parts_of
from tubelet.data.cache import free_memory
from tubelet.data.joint import Images
from tubelet.methods.action_detection import ActionDetection
from tubelet.methods.arvideo import Autoregressive
from tubelet.methods.latent import Latent
from tubelet.methods.masked import Masked, blank, chosen
from tubelet.methods.supervised import Supervised
from tubelet.nn.attention import Block
from tubelet.nn.classifier import Classifier
from tubelet.nn.cross import CrossBlock, CrossDecoder
from tubelet.nn.decoder import Decoder, Head
from tubelet.nn.detector import AttentivePool, Detector
from tubelet.nn.patches import patchify
from tubelet.nn.vit import Encoder
from tubelet.train.device import batch_bytes, pick_device, pick_precision, pick_workers
from tubelet.train.teacher import with_shape
from tubelet.types import Draws, Grid, Method, TokenMask

SUPPOSED, ACTIONS = 400, 80  # classes, where the labels are not known: as many as Kinetics has, and AVA


@dataclass(frozen=True)
class Stage:
    """One step on the way of a clip."""

    name: str
    what: str  # its settings
    size: str  # what comes out of it: channels x time x places


@dataclass(frozen=True)
class Memory:
    """Bytes on the device where they are most: when the backward pass of one part of a batch begins, or in small models
    while its target is made."""

    precision: str
    clips: int  # in one part
    weights: int
    gradients: int
    moments: int  # AdamW's two
    activations: int  # of one part: what its backward pass needs, and the loss's own tensors; or the target's

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
    mask: tuple[tuple[int, int], ...]  # visible, predicted tokens of each time slot with the first mask; or empty
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
    run, notes = resolved(run)
    grid = run.grid()
    method = on_meta(run.method, run.encoder, grid, run.data.channels)
    rates = numbers(run, 10**9 if videos is None else videos)  # rates do not depend on how many
    counted = None if videos is None else rates
    drawn = masks_of(run, grid)
    masks = [by_slot(mask) for mask in drawn]
    passed = passage(method, grid, run.data.channels)
    memory = remembered(run, method, passed, target_bytes(run, grid, drawn))
    parameters = {"total": size(method)} | {name: size(part) for name, part in method.named_children()}
    uncounted = isinstance(run.method, Supervised) and run.method.teacher
    shown = settings(run, rates, counted) | {
        "mask": "; and ".join(share(mask, grid) for mask in masks) or "none",
        **notes,
        **({"teacher": f"{run.method.teacher}, not counted"} if uncounted else {}),
        "parameters": f"{parameters['total']:,}: " + ", ".join(f"{k} {v:,}" for k, v in list(parameters.items())[1:]),
        "GMACs a clip": ", ".join(f"{name} {value:,.2f}" for name, value in passed.gmacs.items()),
        "memory": f"about {gib(memory.total)} in {memory.precision}: weights {gib(memory.weights)}, gradients "
        f"{gib(memory.gradients)}, AdamW's moments {gib(memory.moments)}, activations {gib(memory.activations)} "
        f"({memory.clips:,} clips at once)" + too_much(memory.total, arithmetic(run)[0]),
        "read ahead": read_ahead(run),
        "disk": f"{gib(memory.weights + memory.moments)} a checkpoint",
    }
    first = masks[0] if masks else ()
    return Plan(tuple(stages(run, grid, method, masks)), shown, parameters, passed.gmacs, first, memory, counted)


def resolved(run: Run) -> tuple[Run, dict[str, str]]:
    """The run as it can be built, and what had to be supposed for that."""
    checked(run)
    run = with_shape(run)
    if isinstance(run.method, Latent) and run.method.momentum is None and run.method.shape is None:
        supposed = {"teacher": "supposed to be as the encoder; --method.teacher will tell"}
        return replace(run, method=replace(run.method, shape=run.encoder)), supposed
    if getattr(run.method, "outputs", None) == 0:
        detection = isinstance(run.method, ActionDetection)
        outputs = ACTIONS if detection else SUPPOSED
        supposed = {"classes": f"{outputs} supposed; the labels of --data will tell"}
        supposed |= {"boxes": f"{BOXES} a clip supposed"} if detection else {}
        return replace(run, method=replace(run.method, outputs=outputs)), supposed
    return run, {}


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


def masks_of(run: Run, grid: Grid) -> list[TokenMask]:
    """The run's first masks of a black clip; none for methods without."""
    batch, draws = blank(grid, run.data.channels), Draws(run.training.seed, 0, [0])
    if isinstance(run.method, Masked):
        return [chosen(run.method, batch, grid, draws)]
    if isinstance(run.method, Autoregressive):
        return [run.method.mask(batch, grid, draws)]
    return [mask(batch, grid, draws) for mask in run.method.masks] if isinstance(run.method, Latent) else []


def by_slot(mask: TokenMask) -> tuple[tuple[int, int], ...]:
    """Visible and predicted tokens of every time slot."""
    grid = mask.grid
    visible, predicted = ((ids[0] // grid.slot).bincount(minlength=grid.T) for ids in (mask.visible, mask.predict))
    return tuple(zip(visible.tolist(), predicted.tolist()))


@dataclass(frozen=True)
class Passage:
    """One clip's way through a module; where several are compared, the mean of theirs."""

    gmacs: dict[str, float]
    calls: list[tuple[nn.Module, int, int, int]]  # of every block, and Linear and LayerNorm outside, if it is learnt:
    # clips, tokens of each, and tokens to ask
    predicted: int  # values that the decoder put out


def passage(method: Method, grid: Grid, channels: int) -> Passage:
    """Sends one clip through a module on the meta device, or as many as it compares."""
    views = method.views
    network: Classifier | Detector | None = getattr(method, "network", None)
    kinds = Block | CrossBlock | AttentivePool
    inside = {m for block in method.modules() if isinstance(block, kinds) for m in list(block.modules())[1:]}
    calls: list[tuple[nn.Module, int, int, int]] = []
    predicted: list[int] = []
    for module in method.modules():
        if isinstance(module, Block | CrossBlock | nn.Linear | nn.LayerNorm) and module not in inside:
            module.register_forward_hook(lambda m, args, out: calls.extend([counted(m, args)] * out.requires_grad))
    if (decoder := getattr(method, "decoder", None)) is not None:
        decoder.register_forward_hook(lambda m, args, out: predicted.append(out.numel()))

    method.eval()  # recomputing blocks changes memory, which `remembered` sees to, but not the forward pass
    with FlopCounterMode(display=False) as counter:
        outputs = 0 if network is None else network.head.out_features
        method(weightless(grid, channels, views, outputs), Draws(0, 0, range(views)))
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


def target_bytes(run: Run, grid: Grid, drawn: list[TokenMask]) -> tuple[int, int]:
    """Bytes at once while the target of one clip is made, before anything is kept of the clip; and those of its
    weights, which are kept.

    HOG has a bin for each orientation of every pixel, which is more than small models keep of a clip.
    """
    target = getattr(run.method, "target", None)
    if target is None:
        return 0, 0
    batch = weightless(grid, run.data.channels, 1)
    with Live([batch.video]) as live:
        wanted = target.wanted(batch, patchify(batch.video, grid.patch), drawn[0].to(batch.video.device))
    return live.peak, 0 if wanted.weights is None or wanted.weights.ndim < 3 else wanted.weights.nbytes


def remembered(run: Run, method: Method, passed: Passage, target: tuple[int, int]) -> Memory:
    """What training keeps on the device; `target` are the bytes of a clip's, as `target_bytes` has them."""
    before, weights_of_values = target
    weights = 4 * size(method) + sum(buffer.nbytes for buffer in method.buffers())
    learnt = 4 * sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    device, precision = arithmetic(run)
    clips = run.training.batch * run.data.per_video // parts_of(run, device, precision)
    activations = kept(method, passed.calls, passed.predicted, clips, precision, device) + weights_of_values * clips
    activations = max(activations, before * clips)
    return Memory(str(precision).removeprefix("torch."), clips, weights, learnt, 2 * learnt, activations)


def arithmetic(run: Run) -> tuple[str, torch.dtype]:
    """The run's kind of device and its precision; "auto" is bfloat16 for a device that this machine does not have."""
    name, t = run.training.precision, run.training
    try:
        device = pick_device(t.device)
    except ValueError:
        return t.device.split(":")[0], torch.bfloat16 if name == "auto" else getattr(torch, name)
    return device.type, pick_precision(name, device)


# ---------------------------------------------------------------------------- words


def stages(run: Run, grid: Grid, method: Method, masks: list[tuple[tuple[int, int], ...]]) -> list[Stage]:
    """The way of a clip, as the tables of the papers show it."""
    e, c, m = run.encoder, run.data.channels, run.method
    pt, ph, pw = grid.patch
    clip = "x".join(map(str, (c, grid.T * pt, grid.H * ph, grid.W * pw)))
    every = [grid.slot] * grid.T
    visible = [[v for v, _ in mask] for mask in masks] or [every]
    rows = [
        Stage("data", described(run.data.clip), clip),
        Stage("cube", f"{pt}x{ph}x{pw}, {e.width}", sized(e.width, every)),
    ]
    if isinstance(m, Latent):
        t = m.shape or e
        moves = "as it is" if m.momentum is None else f"follows by {m.momentum:g} to 1"
        rows.append(Stage("teacher", f"{blocks(t.heads, t.hidden, t.depth)}, {moves}", sized(t.width, every)))
    for masker, counts in zip(m.masks if isinstance(m, Latent) else [getattr(m, "mask", None)], visible):
        if masks:
            rows.append(Stage("mask", described(masker), sized(e.width, counts)))
    again = ", recomputed" if e.checkpoint else ""
    if isinstance(getattr(m, "decoder", None), Head):
        visible = [every] * len(visible)  # with mask tokens for those that are hidden
    rows.append(Stage("encoder", blocks(e.heads, e.hidden, e.depth) + again, sized(e.width, *visible)))
    if hasattr(m, "stages"):
        return [*rows, *(Stage(*stage) for stage in m.stages(e.width))]
    if outputs := getattr(m, "outputs", 0):
        read = f"changes in {'x'.join(map(str, m.cells))} cells" if m.cells else "mean of all tokens, norm"
        rows.append(Stage("head", f"{read}, Linear {e.width * prod(m.cells or (1,))} to {outputs}", str(outputs)))
    d = getattr(m, "decoder", None)
    if d is None or not masks:
        return rows
    predicted = [[p for _, p in mask] for mask in masks]
    head = method.get_submodule("decoder.head")
    assert isinstance(head, nn.Linear)
    outputs = head.out_features
    width = e.width
    if isinstance(d, Decoder):
        width = d.width
        together = [[*map(sum, mask)] for mask in masks]
        rows += [
            Stage("projector", f"Linear {e.width} to {width}", sized(width, *visible)),
            Stage("decoder", "mask tokens, " + blocks(d.heads, d.hidden, d.depth), sized(width, *together)),
        ]
    elif isinstance(d, CrossDecoder):
        width = d.width
        shape = f"mask tokens ask {d.memory}, " + blocks(d.heads, d.hidden, d.depth)
        rows.append(Stage("decoder", shape, sized(width, *predicted)))
    sought = "features of the teacher" if isinstance(m, Latent) else described(m.target)
    rows.append(Stage("head", f"Linear {width} to {outputs}: {sought}", sized(outputs, *predicted)))
    if isinstance(m, Masked) and m.target.pixels and outputs == prod(grid.patch) * c:
        rows.append(Stage("reshape", "cubes to video, for pictures", clip))
    return rows


def blocks(heads: int, hidden: int, depth: int) -> str:
    """The blocks of a transformer."""
    return f"[{heads} heads, MLP {hidden}] x {depth}"


def sized(channels: int, *masks: list[int]) -> str:
    """As 768x8x20 where all time slots have as many tokens, else as 768x157; for several masks the sum of such."""
    each = (f"{len(counts)}x{counts[0]}" if len(set(counts)) == 1 else str(sum(counts)) for counts in masks)
    return " + ".join(f"{channels}x{tokens}" for tokens in each)


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
    count = parts_of(run, *arithmetic(run))
    parts = f", in {count} parts of {t.batch * d.per_video // count:,}" if count > 1 else ""
    open_ = "needs --data or --videos"
    often = ", long ones counted several times" * (d.per == "duration")
    return {
        "videos": f"{counted.videos:,}{often}" if counted else open_,
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
