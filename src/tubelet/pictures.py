"""What masks hide and what models imagine in its place, as pictures; `strips.py` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tubelet.config import Run, from_json
from tubelet.data.datasets import Dataset
from tubelet.data.items import Item
from tubelet.data.loader import batches
from tubelet.evaluate.features import middle_batch
from tubelet.masks.named import Kind, masker_of, said
from tubelet.methods.masked import MaskedAutoencoder
from tubelet.nn.patches import curtain, curtained, patchify, put, take, unpatchify
from tubelet.strips import Strip, save
from tubelet.targets import Together
from tubelet.train.checkpoint import load_method, read
from tubelet.train.folder import distinct
from tubelet.types import Batch, Draws, Grid, Method, Motion, Target, TokenMask
from tubelet.weights.hub import on_hub
from tubelet.weights.load import others

RATIOS = (0.75, 0.9, 0.95)

# ---------------------------------------------------------------------------- 1. clips in, clips out


class NothingToShow(ValueError):
    """A method has no pictures of what it does."""


@dataclass(frozen=True)
class Reconstruction:
    """Clips, what the encoder saw of them, and what the decoder imagined; scores are of the bytes that are shown."""

    original: UInt8[Tensor, "b c t h w"]
    hidden: UInt8[Tensor, "b c t h w"]  # grey where the encoder does not see
    imagined: UInt8[Tensor, "b c t h w"]  # true pixels where it does
    mask: TokenMask
    psnr: Float[Tensor, " b"]  # dB over imagined pixels
    baseline: Float[Tensor, " b"] | None  # dB over the same pixels, filled with flat colours without a model
    borrowed: bool  # the target leaves out each cube's mean and contrast, so both fills were given the true ones
    sought: UInt8[Tensor, "b c t h w"] | None = None  # what was to be imagined, where that is not the original

    def strips(self) -> list[Strip]:
        """Original, hidden and imagined of every clip, headed by the share hidden and the scores."""
        scores = [f"imagined {score:.1f} dB" for score in self.psnr]
        if self.baseline is not None:
            scores = [f"{score} · without a model {flat:.1f} dB" for score, flat in zip(scores, self.baseline)]
        rows = {"original": self.original, "hidden": self.hidden, "imagined": self.imagined}
        if self.sought is not None:
            rows = {"original": self.original, "target": self.sought, **rows}
        return [
            Strip({name: clips[i] for name, clips in rows.items()}, f"{share(self.mask)} hidden · {score}")
            for i, score in enumerate(scores)
        ]

    @property
    def note(self) -> str:
        """What must be known to read the picture fairly."""
        text = "dB: signal to noise of the imagined pixels; more is better."
        if self.baseline is None:
            return f"{text} The model predicts no pixels: what it was to predict is drawn beside what it did."
        flat = "their true mean colour" if self.borrowed else "the colours of visible ones nearby"
        told = " The model predicts only patterns: here each cube was given its true mean colour and contrast."
        worse = " So far the model does worse than that: it needs more steps." * bool(
            self.psnr.mean() < self.baseline.mean()
        )
        return f"{text} Without a model: flat cubes in {flat}." + told * self.borrowed + worse


def reconstruct(
    method: MaskedAutoencoder,
    video: UInt8[Tensor, "b c t h w"],
    ratio: float | None = None,
    seed: int = 0,
    motion: Motion | None = None,
) -> Reconstruction:
    """What `method` makes of clips of which `ratio` is hidden (default: as in training), on the CPU.

    Masks that follow motion need that of the clips: `middle_batch` gives both.

    Raises:
        ValueError: clips that are not of the method's size, a mask without a ratio, or one that lacks motion.
    """
    grid, channels, (pt, ph, pw) = method.grid, method.channels, method.grid.patch
    got, wanted = tuple(video.shape[1:]), (channels, grid.T * pt, grid.H * ph, grid.W * pw)
    if got != wanted:
        raise ValueError(f"clips of {got} (channels, frames, height, width); this model takes {wanted}")
    masker: Any = method.mask
    if ratio is not None:
        if not hasattr(masker, "ratio"):
            raise ValueError(f"mask {type(masker).__name__} has no ratio to change; leave the ratio out")
        masker = replace(masker, ratio=ratio)
    video = video.cpu()
    motion = method.flow(video) if method.flow else motion and motion.to(video.device)
    batch = Batch(video, torch.arange(len(video)), motion=motion)
    mask: TokenMask = masker(batch, grid, Draws(seed, 0, range(len(video))))
    patches = patchify(video, grid.patch)
    device, training = next(method.parameters()).device, method.training
    method.eval()
    with torch.no_grad():
        values = method.imagine(patches.to(device), mask.to(device)).float().cpu()
    method.train(training)

    true = take(patches, mask.predict).float() / 255
    covered = torch.where(mask.hidden.unsqueeze(2), curtain(grid, channels), patches)

    def shown(guess: Float[Tensor, "b p y"]) -> UInt8[Tensor, "b c t h w"]:
        pixels = (method.target.decode(guess, true, mask, channels) * 255).round().clamp(0, 255).byte()
        filled = put(covered, mask.predict, pixels)
        return unpatchify(torch.where(mask.hidden.unsqueeze(2), filled, patches), grid)

    scored = torch.zeros(mask.hidden.shape, dtype=torch.bool).scatter(1, mask.predict, mask.scored)
    where = unpatchify(scored.unsqueeze(2).expand(patches.shape), grid)
    target = method.target
    imagined = shown(values)
    sought = None if target.pixels else shown(target.wanted(batch, patches, mask).values)
    flat = shown(spread(target, batch, patches, mask, channels)) if target.pixels else None
    without = target.decode(values, torch.zeros_like(true), mask, channels)  # tells whether truth was borrowed
    return Reconstruction(
        original=video,
        hidden=unpatchify(covered, grid),
        imagined=imagined,
        mask=mask,
        psnr=decibels(video if sought is None else sought, imagined, where),
        baseline=None if flat is None else decibels(video, flat, where),
        borrowed=not torch.equal(without, target.decode(values, true, mask, channels)),
        sought=sought,
    )


def spread(
    target: Target, batch: Batch, patches: UInt8[Tensor, "b n q"], mask: TokenMask, channels: int
) -> Float[Tensor, "b p y"]:
    """The answer without a model: every cube flat, in the colours of the visible ones weighted by 1 / distance².

    Colours are those of the target: where it takes out each cube's mean, this is that mean.
    """
    target = target.targets[0] if isinstance(target, Together) else target  # which is what is shown
    seen = target.wanted(batch, patches, replace(mask, predict=mask.visible)).values
    colour = seen.unflatten(2, (-1, channels)).mean(2)
    grid = mask.grid
    place = torch.cartesian_prod(*(torch.arange(size).float() for size in (grid.T, grid.H, grid.W)))
    weight = 1 / torch.cdist(place[mask.predict], place[mask.visible]).square().clamp(min=0.1)
    return (weight / weight.sum(2, keepdim=True) @ colour).repeat(1, 1, seen.shape[2] // channels)


def decibels(
    true: UInt8[Tensor, "b c t h w"], shown: UInt8[Tensor, "b c t h w"], where: Bool[Tensor, "b c t h w"]
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio over the pixels of `where`; infinite where all are exact."""
    error = (true.float() - shown.float()).square().mul(where).flatten(1).sum(1) / where.flatten(1).sum(1)
    return 10 * torch.log10(255**2 / error)


def share(mask: TokenMask) -> str:
    """How much a mask hides, for people."""
    return f"{100 * (1 - mask.visible.shape[1] / mask.grid.tokens):.3g} %"


def named_masks(
    kinds: Sequence[Kind], ratio: float | None, batch: Batch, grid: Grid, seed: int
) -> dict[str, TokenMask]:
    """The masks of a batch, by what to call them in a picture."""
    places = range(len(batch.video))
    masks = [masker_of(kind, ratio)(batch, grid, Draws(seed, 0, places)) for kind in kinds]
    return {f"{said(kind)} {share(mask)}": mask for kind, mask in zip(kinds, masks)}


def mask_strip(video: UInt8[Tensor, "b c t h w"], mask: TokenMask) -> list[Strip]:
    """Every clip, whole and with a mask over it."""
    grid = mask.grid
    counts = f"{grid.tokens - mask.visible.shape[1]} of {grid.tokens} cubes of {'x'.join(map(str, grid.patch))}"
    return masks_strip(video, {"visible": mask}, f"{share(mask)} hidden · {counts}")


def masks_strip(video: UInt8[Tensor, "b c t h w"], masks: dict[str, TokenMask], heading: str = "") -> list[Strip]:
    """Every clip, whole and with each of the masks over it."""
    shown = {"original": video} | {name: curtained(video, mask) for name, mask in masks.items()}
    return [Strip({name: clips[i] for name, clips in shown.items()}, heading) for i in range(len(video))]


# ---------------------------------------------------------------------------- 2. runs in, files out


def reconstruct_run(
    folder: Path, videos: Sequence[Path], ratios: Sequence[float] = (), out: Path | None = None, seed: int = 0
) -> list[Path]:
    """Files reconstruction_75.gif, .png and so on in `out` (default: the run's pictures/), of the middles of `videos`.

    Without `ratios` RATIOS and that of the run, if there is a mask that has one. What other methods have to show of
    clips (what is predicted next, features, views) is in reconstruction.gif and .png.

    Raises:
        FileNotFoundError, ValueError: nothing there, or ratios that do not fit the method.
        NothingToShow: a method that has no pictures.
        VideoError: a video cannot be read.
    """
    method, run, about = taken(folder)
    where = out or home(folder)
    if not isinstance(method, MaskedAutoencoder):
        if ratios:
            raise ValueError(f"{folder} holds {type(method).__name__}, which hides no ratio; leave --ratio out")
        strips, note = shown_by(method, run, videos, seed)
        if not strips:
            raise NothingToShow(f"{folder} holds {type(method).__name__}, which imagines nothing that could be shown")
        return [save(where / f"reconstruction.{kind}", strips, f"{about} {note}") for kind in ("gif", "png")]
    clips, written = middle_batch(videos, run.data), []
    own = getattr(method.mask, "ratio", None)  # as it was trained, and others
    for ratio in ratios or ((None,) if own is None else sorted({own, *RATIOS})):
        result = reconstruct(method, clips.video, ratio, seed, clips.motion)
        strips = [replace(strip, heading=f"{v.name} · {strip.heading}") for v, strip in zip(videos, result.strips())]
        name = "reconstruction" if ratio is None else f"reconstruction_{100 * ratio:.3g}"
        written += [save(where / f"{name}.{kind}", strips, f"{about} {result.note}") for kind in ("gif", "png")]
    return written


def home(folder: Path) -> Path:
    """Where pictures of a run are kept; of weights that are no folder, in the working directory."""
    return Path("pictures") if on_hub(folder) or folder.is_file() else folder / "pictures"


def shown_by(method: Method, run: Run, videos: Sequence[Path], seed: int) -> tuple[list[Strip], str]:
    """What a method has to show of the middles of `videos` (or of several clips of each, where it compares them), and
    how to read it.

    Raises:
        VideoError: a video cannot be read.
    """
    names, method = [video.name for video in videos], method.eval()
    if method.views > 1:
        items = [Item(video) for video in videos]
        batch = next(iter(batches(Dataset(items, replace(run.data, cache=0, yuv=False), seed), len(items), 0, 1)))
        names = [Path(path).name for path in batch.paths]
        rows, note = method.rows(batch, Draws(seed, 0, range(len(batch.video))))
        return [Strip({name: clips[i] for name, clips in rows.items()}, names[i]) for i in range(len(videos))], note
    batch = middle_batch(videos, run.data)
    rows, note = method.rows(batch, Draws(seed, 0, range(len(videos))))
    if not rows:
        return [], note
    rows = {"original": batch.video, **rows}
    return [Strip({name: clips[i] for name, clips in rows.items()}, names[i]) for i in range(len(videos))], note


def reconstruct_runs(
    folders: Sequence[Path], videos: Sequence[Path], out: Path, ratio: float | None = None, seed: int = 0
) -> list[Path]:
    """Files reconstructions.gif and .png in `out`: what several runs imagine of the same clips, each with its own mask.

    `ratio` is hidden, or else what each run hid in training.

    Raises:
        FileNotFoundError, ValueError: no checkpoint there, or runs of other clips than the first.
        VideoError: a video cannot be read.
    """
    rows: list[dict[str, UInt8[Tensor, "c t h w"]]] = [{} for _ in videos]
    notes, hidden, first = [], [], imaginer(folders[0])[1].data
    for folder, name in zip(folders, distinct(folders)):
        method, run, about = imaginer(folder)
        data = run.data
        if (data.clip, data.size, data.channels) != (first.clip, first.size, first.channels):
            raise ValueError(
                f"{folder} sees other clips than {folders[0]}: {data.clip} at {data.size} against {first.clip} at "
                f"{first.size}; only runs of the same clips can be shown beside each other"
            )
        clips = middle_batch(videos, data)
        result = reconstruct(method, clips.video, ratio, seed, clips.motion)
        mean = f"{result.psnr.mean():.1f} dB"
        if result.baseline is not None:
            mean += f", without a model {result.baseline.mean():.1f} dB"
        hidden.append(result.hidden)
        at = about.rstrip(".").rpartition(", ")[2]
        notes.append(f"{name}, {at}: {share(result.mask)} hidden, {mean}.")
        for row, a, b, c in zip(rows, result.original, result.hidden, result.imagined):
            row |= {"original": a, f"{name}, hidden": b, f"{name}, imagined": c}
    same = "" if all(torch.equal(one, hidden[0]) for one in hidden) else ", which is not the same for all"
    caption = f"{' '.join(notes)} dB are over what each run had to imagine{same}."
    strips = [Strip(row, video.name) for row, video in zip(rows, videos)]
    return [save(out / f"reconstructions.{kind}", strips, caption) for kind in ("gif", "png")]


def taken(path: Path) -> tuple[Method, Run, str]:
    """The method of a run folder, or of a file of others with a decoder; its run; and whose it is, in a sentence.

    Raises:
        FileNotFoundError, ValueError: nothing there, or no method but an encoder or a classifier.
    """
    if not on_hub(path) and not path.is_file() and not (path / "config.json").is_file():
        state = read(path)
        return load_method(path), from_json(state["run"]), f"{path.resolve().name}, step {state['step']}."
    if (found := others(path)) is None:
        raise ValueError(f"{path} is a file of a run; give the run's folder, which has its decoder")
    network, run, origin, report = found
    if not isinstance(network, Method):
        raise ValueError(
            f"{path} is a {type(network).__name__} without a decoder; give the folder of a run, or weights of others "
            "with their decoder"
        )
    report.warn()
    return network, run, f"{origin.file}."


def imaginer(folder: Path) -> tuple[MaskedAutoencoder, Run, str]:
    """The masked autoencoder of a run, the run, and whose it is.

    Raises:
        FileNotFoundError, ValueError: nothing there, or something else.
    """
    method, run, about = taken(folder)
    if not isinstance(method, MaskedAutoencoder):
        raise ValueError(f"{folder} holds {type(method).__name__}; only masked autoencoders imagine pixels")
    return method, run, about
