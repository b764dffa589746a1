"""A long video, and what happens in it when: segments, subtitles, and the video with the classes drawn on it.

    python examples/05_what_happens_when.py                                 # learns motions, then a film of several
    python examples/05_what_happens_when.py match.mp4 runs/tuned            # yours, with a run of tubelet finetune

About a minute on two cores.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import tubelet
from tubelet.data.synthetic import make, moving_texture
from tubelet.data.video import write
from tubelet.evaluate.predict import predict, segments, smoothed, to_srt
from tubelet.evaluate.views import Viewer
from tubelet.evaluate.windows import windows
from tubelet.methods.supervised import Supervised
from tubelet.overlay import overlay

MOTIONS = ("right", "up", "left", "down")


def learnt(short: bool) -> Path:
    """A run that tells the motions apart, from videos that are made here. With real videos: 02_few_labels.py."""
    made = tubelet.find(make(Path("made_videos"), videos=16 if short else 480))
    items = [item for item in made if item.label in MOTIONS]
    run = tubelet.preset("videomae-demo")
    epochs = (4 if short else 400) * 32 / len(items)
    training = replace(run.training, epochs=epochs, batch=32, save_every=epochs)
    optim = replace(run.optim, base_lr=0.008, warmup=epochs / 10, betas=(0.9, 0.999))
    run = replace(run, method=Supervised(smoothing=0.0), optim=optim, training=training)
    return tubelet.finetune(run, "made_videos", "runs/motions", items=items, resume=True)


def film(path: Path) -> str:
    """A film in which the motion changes every four seconds."""
    rng = np.random.default_rng(7)
    parts = [moving_texture(motion, 48, 64, rng) for motion in MOTIONS]
    write(path, np.concatenate(parts), 12, options={"crf": "12"})
    return str(path)


def main(video: str | None = None, weights: str | None = None, short: bool = False) -> None:
    video, weights = video or film(Path("film.mp4")), weights or str(learnt(short))
    network, run = tubelet.load_classifier(weights)
    viewer = Viewer(network, run.data, run.encoder.patch)

    # A window is as long as the clips that the network knows, and three neighbours are averaged.
    said = smoothed(list(predict(viewer, windows(video, run.data), video)), 3)
    found = segments(said, viewer.labels)
    for one in found:
        print(f"{one.start:6.2f} to {one.end:6.2f} s  {one.label}  {100 * one.probability:.0f} %")

    Path("film.srt").write_text(to_srt(found))  # players show it over the video
    print(overlay(video, said, viewer.labels, "film_seen.mp4"))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--short"]
    main(*words, short="--short" in sys.argv)
