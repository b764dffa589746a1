"""A mask of your own in ten lines: look at it, train with it, see what it teaches.

    python examples/04_own_mask.py                  # made videos
    python examples/04_own_mask.py my_videos/       # yours

A minute on two cores. To use it with the commands too, put it in a file of its own: docs/plugins.md.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import tubelet
from tubelet.data.synthetic import make
from tubelet.masks.random_masks import Tube
from tubelet.pictures import masks_strip
from tubelet.types import Batch, Draws, Grid, TokenMask


@dataclass(frozen=True)
class Chess:
    """Every other cube is hidden, like the fields of a chess board, the other ones in the next time slot."""

    def __call__(self, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
        t, y, x = torch.meshgrid(*(torch.arange(n) for n in (grid.T, grid.H, grid.W)), indexing="ij")
        first = (draws.uniform(1) < 0.5).long()  # which colour, for each clip
        hidden = ((t + y + x).flatten() + first) % 2 == 0
        return TokenMask.from_hidden(hidden, grid)


def main(folder: str | None = None, short: bool = False) -> None:
    if folder is None:
        folder = str(make(Path("made_videos"), videos=16 if short else 160))
    items = tubelet.find(folder)
    run = tubelet.preset("videomae-demo")

    # Look at it before anything is trained, beside the preset's own.
    batch = tubelet.middle_batch(items[:2], run.data)
    masks = {"chess": Chess(), "tubes": Tube(0.9)}
    hidden = {name: mask(batch, run.grid(), Draws(0, 0, range(2))) for name, mask in masks.items()}
    print(tubelet.save_picture("masks.png", masks_strip(batch.video, hidden), "Grey is hidden from the encoder."))

    # A method is a mask, a target and a decoder; replace the one.
    epochs = (4 if short else 800) * run.training.batch / len(items)
    training = replace(run.training, epochs=epochs, save_every=epochs)
    run = replace(run, method=replace(run.method, mask=Chess()), training=training)
    out = tubelet.pretrain(run, folder, "runs/chess", items=items, resume=True)
    seen = tubelet.reconstruct(tubelet.load(out), batch.video)
    print(tubelet.save_picture("chess.png", seen.strips(), seen.note))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--short"]
    main(*words, short="--short" in sys.argv)
