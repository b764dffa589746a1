"""The whole of tubelet in a few minutes: videos, check, pre-training, pictures, read-out, report.

Made videos have known motions as labels, so that what the encoder learnt can be read out; with videos of your own the
demo stops at the pictures.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tubelet.config import Run, preset
from tubelet.data import synthetic
from tubelet.data.check import check
from tubelet.data.datasets import Dataset
from tubelet.data.sources import Item, find
from tubelet.evaluate.features import readable
from tubelet.evaluate.read_out import ReadOut
from tubelet.live import Imagined, Page
from tubelet.nn.vit import ViT
from tubelet.pictures import reconstruct_run
from tubelet.plan import plan, render
from tubelet.report import write_report
from tubelet.report_facts import ends
from tubelet.report_results import write_results
from tubelet.train.checkpoint import load_encoder
from tubelet.train.log import Counter, duration, metrics, say, show
from tubelet.train.loop import train

STEPS, OWN_STEPS = 7000, 2000  # of pre-training: on made videos, on larger clips of one's own
TRAIN, TEST, LABELLED = 800, 400, 400  # made videos; of those to train on, how many tell their label to the read-out


def demo(out: Path, videos: str | None = None, *, resume: bool = False, short: bool = False, seed: int = 0) -> Path:
    """Everything from videos to report.html, in the run folder `out`; made videos lie beside it.

    Raises:
        ValueError, FileNotFoundError: videos that cannot be used, or a folder that is in use.
    """
    begun = time.monotonic()
    run = preset("videomae-small-cpu" if videos else "videomae-demo")
    run = replace(run, training=replace(run.training, seed=seed))
    made = out.with_name(f"{out.name}-videos{'-short' if short else ''}-{seed}")
    if out.exists() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} is not empty; add --resume to go on with that demo, or choose another --out")
    if videos is None:
        say(f"1  videos with known motions, in {made}")
        make(made, short, seed)
    source = Path(videos) if videos else made / "train"
    items = find(source)
    run = scaled(run, len(Dataset(items, run.data)), 20 if short else OWN_STEPS if videos else STEPS)

    say(f"2  check: {source}")
    found = check(items, sampler=run.data.clip, progress=Counter("   checking"))
    say("\n".join(f"   {line}" for line in found.lines()))

    say(f"3  pre-train: VideoMAE, {run.method.mask.ratio:.0%} of every clip hidden")
    show(render(plan(run, len(Dataset(items, run.data)))))
    with Page(out) as page:
        train(run, source, out, items=items, resume=resume, tell=page, show=Imagined(out, run, items))

    say("4  imagine: what it makes of clips with 75, 90 and 95 % hidden")
    test = find(made / "test") if videos is None else []
    reconstruct_run(out, readable(test or items, run.data, 2))

    if videos is None:
        say("5  read out: what the encoder knows about motion, beside one that was never trained")
        result = known(out, run, items[:: max(len(items) // LABELLED, 1)], test, short)
        write_results(out, [result])
    report = write_report(out)

    lines = metrics(out)
    first, last = ends(lines)
    print(f"\nloss        {first:.3f} to {last:.3f} in {len(lines)} steps")
    if videos is None:
        print(
            f"motions     {result['trained']:.0f} % right after pre-training, {result['untrained']:.0f} % without, "
            f"{result['one_frame']:.0f} % from one frame, {result['chance']:.1f} % by guessing"
        )
    print(f"report      {report}\nencoder     {out / 'encoder.safetensors'}")
    print(f"time        {duration(time.monotonic() - begun)}")
    say(
        "\nNow with your own videos:\n"
        "   tubelet check my_videos/\n"
        "   tubelet pretrain videomae-small-cpu --data my_videos/ --out runs/mine\n"
        "   tubelet plan videomae-small-gpu --data my_videos/        on a GPU"
    )
    return report


def make(folder: Path, short: bool, seed: int) -> None:
    """The made videos, unless they are there."""
    for part, count in (("train", TRAIN), ("test", TEST)):
        if not (folder / part / "labels.csv").exists():
            synthetic.make(folder / part, count // 20 * 2 if short else count, 2 * seed + (part == "test"))


def scaled(run: Run, videos: int, steps: int) -> Run:
    """The run, so long that it takes `steps`, however many videos there are; a tenth of them is warm-up."""
    epochs = steps * run.training.batch / videos
    return replace(
        run,
        optim=replace(run.optim, warmup=epochs / 10),
        training=replace(run.training, epochs=epochs, save_every=epochs / 8),
    )


def known(out: Path, run: Run, fit: Sequence[Item], test: Sequence[Item], short: bool) -> dict[str, object]:
    """The read-out of the trained encoder, of an untrained one, and of single frames."""
    reader = ReadOut(steps=10) if short else ReadOut()
    trained, _ = load_encoder(out)
    torch.manual_seed(run.training.seed)
    untrained = run.method.build(run.encoder, run.grid(), run.data.channels).encoder
    labels = {item.label for item in fit}

    def score(encoder: ViT, still: bool = False) -> float:
        return round(reader(encoder, run.data, fit, test, run.training.seed, still), 1)

    return {
        "name": "Which way does it move?",
        "unit": "%",
        "trained": score(trained),
        "untrained": score(untrained),
        "one_frame": score(trained, still=True),
        "chance": round(100 / len(labels), 1),
        "explanation": (
            f"Share of {len(test)} new videos whose motion, one of {len(labels)}, is named right after a short "
            f"fine-tuning ({reader.steps} steps) with {len(fit)} labelled videos. No single frame shows the motion. "
            "Pre-training is a head start: fine-tuned longer or with more labels, the untrained encoder learns it too."
        ),
    }
