"""A folder of videos becomes an encoder, without labels: hide most of each clip, imagine it, look at it.

    python examples/01_pretrain.py                  # makes videos of moving patterns first
    python examples/01_pretrain.py my_videos/       # yours

About two minutes on two cores. So short a run only begins to learn; `steps` is the dial.
"""

import sys
from dataclasses import replace
from pathlib import Path

import tubelet
from tubelet.data.synthetic import make
from tubelet.masks.random_masks import Random


def main(folder: str | None = None, short: bool = False) -> None:
    if folder is None:
        folder = str(make(Path("made_videos"), videos=16 if short else 160))
    items = tubelet.find(folder)
    print(f"{len(items)} videos in {folder}")

    # A run is a frozen dataclass with everything in it: print it, and replace() what you want otherwise.
    # The preset hides 90 % in tubes, the same places in all frames. That takes longer than we have here to be learnt;
    # three quarters, anywhere in space and time, show something within a minute or two.
    run = tubelet.preset("videomae-demo")
    run = replace(run, method=replace(run.method, mask=Random(0.75)))
    steps = 4 if short else 2000
    epochs = steps * run.training.batch / len(items)
    run = replace(
        run,
        optim=replace(run.optim, warmup=epochs / 10),
        training=replace(run.training, epochs=epochs, save_every=epochs),
    )

    # The folder gets checkpoints, encoder.safetensors and metrics.jsonl. With resume it goes on where it was stopped.
    out = tubelet.pretrain(run, folder, "runs/first", items=items, resume=True)

    # What does it make of clips when 75 % is hidden? Above what was there, then what it saw, then what it imagined.
    model = tubelet.load(out)
    clips = tubelet.middle_clips(items[:3], run.data)
    seen = tubelet.reconstruct(model, clips, ratio=0.75)
    print("picture ", tubelet.save_picture("imagined.png", seen.strips(), seen.note))
    print("report  ", tubelet.write_report(out))

    # The encoder by itself: patches in, tokens out.
    encoder, _ = tubelet.load_encoder(out)
    print("encoder ", f"{sum(p.numel() for p in encoder.parameters()):,} parameters, in {out / 'encoder.safetensors'}")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--short"]
    main(*words, short="--short" in sys.argv)
