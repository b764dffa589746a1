"""Which clips are like this one? Features of a frozen encoder, and a search in them.

    python examples/03_similar_clips.py                          # made videos
    python examples/03_similar_clips.py my_videos/ runs/first    # yours, with an encoder of yours

Half a minute on two cores, of which most goes into the small encoder that is trained first, where none is given.
"""

import sys
from dataclasses import replace
from pathlib import Path

import tubelet
from tubelet.data.synthetic import make
from tubelet.strips import Strip


def main(folder: str | None = None, weights: str | None = None, short: bool = False) -> None:
    if folder is None:
        folder = str(make(Path("made_videos"), videos=16 if short else 160))
    items = tubelet.find(folder)
    if weights is None:
        run = tubelet.preset("videomae-demo")
        epochs = (4 if short else 500) * run.training.batch / len(items)
        training = replace(run.training, epochs=epochs, save_every=epochs)
        run = replace(run, training=training)
        weights = str(tubelet.pretrain(run, folder, "runs/for_search", items=items, resume=True))

    # A row of numbers for the middle clip of each video; windows of long videos: Embedding(window="2").
    encoder, run = tubelet.load_encoder(weights)
    made = tubelet.embed(encoder, items, run.data, Path("features.npy"))
    table = tubelet.read_features(made.out)
    print(f"{table.values.shape[0]} clips, {table.values.shape[1]} numbers each, in {made.out}")

    # Nearest by cosine; the first of them is the clip itself.
    found = tubelet.nearest(table.pooled(0, 1)[0], table, top=5)
    for place, one in enumerate(found):
        print(f"{place}  {one.cosine:.3f}  {one.clip.path}")

    clips = tubelet.middle_clips([Path(one.clip.path) for one in found], run.data)
    names = ["asked", *(f"{one.cosine:.3f}" for one in found[1:])]
    heading = f"the clips most like {Path(found[0].clip.path).name}"
    print(tubelet.save_picture("similar.png", [Strip(dict(zip(names, clips)), heading)], "Cosine of the features."))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--short"]
    main(*words, short="--short" in sys.argv)
