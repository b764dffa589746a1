"""How fast training steps are with more and more clips, and how fast large products: `one_step` and its optimiser."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tubelet.bench.reading import count, quickest, seconds
from tubelet.config import Run
from tubelet.data.cache import free_memory
from tubelet.plan import gib, plan
from tubelet.train.distributed import alone
from tubelet.train.guard import TrainingError, out_of_memory
from tubelet.train.loop import compiled, one_step
from tubelet.train.optim import adamw
from tubelet.train.teacher import teach
from tubelet.types import Batch, Method

SLOW = 2.0  # seconds of a step after which no larger one is tried
REPEATS = 3


@dataclass(frozen=True)
class Step:
    """The fastest of a few steps."""

    clips: int
    seconds: float

    @property
    def speed(self) -> float:
        """Clips a second."""
        return self.clips / self.seconds


def made(run: Run, device: torch.device) -> Method:
    """The module, as training makes it.

    Raises:
        ValueError: not enough memory for it.
    """
    needs, free = plan(with_videos(run, fewest(run))).memory, free_memory()
    if device.type == "cpu" and free is not None and needs.total > free:
        raise ValueError(
            f"the smallest step needs about {gib(needs.total)}, and {gib(free)} are free here; take a smaller "
            "encoder, or see tubelet plan"
        )
    torch.manual_seed(run.training.seed)
    method: Method = run.method.build(run.encoder, run.grid(), run.data.channels)
    teach(run, method)
    return method.to(device).train()


def fewest(run: Run) -> int:
    """Videos that make a step: where clips of a video are compared it takes another one to tell them from."""
    return 2 if hasattr(run.method, "views") else 1


def with_videos(run: Run, videos: int) -> Run:
    """The run with batches of so many."""
    return replace(run, training=replace(run.training, batch=videos, accumulate=1))


def stepped(
    run: Run,
    method: Method,
    clips: Batch,
    device: torch.device,
    precision: torch.dtype,
    progress: Callable[[str], object],
    full: list[int],
) -> Iterator[Step]:
    """Steps with the clips of one video, of two, of four, until one is as large as the run's, slow, or does not fit:
    how many did not is put into `full`.

    Raises:
        TrainingError: not even the first fits.
    """
    optimiser = adamw(method, run.optim)
    for group in optimiser.param_groups:
        group["lr"] = 0.0  # so that nothing can go astray
    if run.training.compile:
        compiled(method)
    parts = run.training.accumulate or 1
    videos = fewest(run)
    most = max(run.training.batch // parts, videos)
    while True:
        one = with_videos(run, videos)
        batch = repeated(clips, videos)
        size = len(batch.video)
        needs, free = plan(one).memory.total, free_memory()
        progress(f"steps with {count(size, 'clip')}")
        try:
            if device.type == "cpu" and free is not None and needs > free:
                raise MemoryError(f"about {gib(needs)} are needed, {gib(free)} free")
            spent = [timed(method, optimiser, batch, one, device, precision, parts) for _ in range(REPEATS + 1)]
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if videos == fewest(run):
                raise TrainingError(
                    f"out of memory on {device} with {count(size, 'clip')}, the fewest that make a step: try "
                    f"--encoder.checkpoint, smaller clips (--data.size) or a smaller encoder. ({error})"
                ) from error
            full.append(size)
            return
        yield Step(size, min(spent[1:]))
        if videos >= most or min(spent[1:]) > SLOW:
            return
        videos = min(2 * videos, most)


def repeated(clips: Batch, videos: int) -> Batch:
    """A batch of so many videos, the clips of some again and again."""
    per, have = clips.crops, len(clips.video) // clips.crops
    which = (torch.arange(videos) % have).repeat_interleave(per) * per + torch.arange(per).repeat(videos)

    def again(tensor: Tensor) -> Tensor:
        return tensor[which]

    # Channels stay last in memory, as they come.
    video = again(clips.video.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
    motion = None if clips.motion is None else clips.motion.each(again)
    yuv = None if clips.yuv is None else clips.yuv.each(again)
    ids = torch.arange(videos).repeat_interleave(per)
    return replace(clips, video=video, ids=ids, motion=motion, yuv=yuv, labels=None)


def timed(
    method: Method,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    device: torch.device,
    precision: torch.dtype,
    parts: int,
) -> float:
    """Seconds of one of `parts` parts of a step, with its share of what is done once a step."""

    def once() -> None:
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(0, 1000)
        if device.type in ("cuda", "mps"):
            getattr(torch, device.type).synchronize()

    gradients = seconds(lambda: one_step(alone(method), batch, 0, run, device, precision))  # its loss is a float:
    return gradients + seconds(once) / parts  # whatever the device, it is done


def matmul(device: torch.device, precision: torch.dtype) -> float:
    """Most multiplications and additions a second in products of large matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))

    def product() -> None:
        float((a @ b)[0, 0])

    product()
    return 2 * side**3 / quickest(product, 2 * REPEATS)
