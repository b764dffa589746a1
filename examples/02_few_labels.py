"""Many videos, fifty labels: pre-train on all of them, fine-tune on the labelled ones; beside it the same from scratch.

    python examples/02_few_labels.py                # made videos: eight motions, which no single frame shows
    python examples/02_few_labels.py my_videos/     # yours, in class folders

About two minutes on two cores. Fifty labels are few: another seed gives other numbers.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import tubelet
from tubelet.config import Run
from tubelet.data.split import write_list
from tubelet.data.synthetic import make
from tubelet.masks.random_masks import Random
from tubelet.methods.supervised import Supervised


def lasting(run: Run, steps: int, videos: int) -> Run:
    """The run, so long that it takes so many steps; a tenth of them is warm-up."""
    epochs = steps * run.training.batch / videos
    training = replace(run.training, epochs=epochs, save_every=epochs, validate_every=epochs)
    return replace(run, optim=replace(run.optim, warmup=epochs / 10), training=training)


def accuracy(run: Path) -> float:
    """The last measurement on validation videos, in percent; metrics.jsonl has a line a step."""
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["validation_top1"])


def main(folder: str | None = None, short: bool = False) -> None:
    if folder is None:
        folder = str(make(Path("made_videos"), videos=48 if short else 480))
    items = tubelet.find(folder)  # the folder that a video is in is its label
    test, train = items[::4], [item for place, item in enumerate(items) if place % 4]
    labelled = train[:: max(len(train) // 50, 1)][:50]
    Path("test.csv").unlink(missing_ok=True)
    write_list(Path("test.csv"), test)
    print(f"{len(train)} videos to learn from, {len(labelled)} of them with labels; {len(test)} to test on")

    # 1. Pre-training sees all videos and no label.
    run = tubelet.preset("videomae-demo")
    run = replace(run, method=replace(run.method, mask=Random(0.75)))  # quicker to learn than the preset's tubes
    run = lasting(run, 4 if short else 2000, len(train))
    encoder = tubelet.pretrain(run, folder, "runs/pretrained", items=train, resume=True)

    # 2. Fine-tuning sees the labelled ones. The same encoder and clips, another method.
    method = Supervised(smoothing=0.0, init=str(encoder))
    tuned = replace(run, method=method, optim=replace(run.optim, base_lr=0.024, betas=(0.9, 0.999)))
    tuned = lasting(tuned, 4 if short else 150, len(labelled))
    with_it = tubelet.finetune(tuned, folder, "runs/tuned", items=labelled, validation="test.csv", resume=True)

    # 3. The same without the weights.
    scratch = replace(tuned, method=replace(method, init=None))
    without = tubelet.finetune(scratch, folder, "runs/scratch", items=labelled, validation="test.csv", resume=True)

    classes = len({item.label for item in items})
    print(f"pre-trained   {accuracy(with_it):5.1f} % right")
    print(f"from scratch  {accuracy(without):5.1f} %")
    print(f"by guessing   {100 / classes:5.1f} %")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--short"]
    main(*words, short="--short" in sys.argv)
