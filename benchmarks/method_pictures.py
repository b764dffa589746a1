"""The pictures of docs/methods: each method's mask, target or views on a clip, by its own preset. Needs no weights.

    python benchmarks/method_pictures.py --videos FOLDER [--only maskfeat videomae]

FOLDER holds clips with a free licence, each named in CLIPS with whose it is. Writes docs/pictures/methods_*.png.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from tubelet.config import preset
from tubelet.data.augment import RandAugment
from tubelet.data.datasets import Data, Dataset
from tubelet.data.flow import Flow
from tubelet.data.items import Item
from tubelet.data.loader import batches
from tubelet.data.sampling import Dense
from tubelet.data.vectors import Vectors
from tubelet.evaluate.features import middle_batch
from tubelet.masks.random_masks import Block, Random, Tube
from tubelet.methods.masked import chosen
from tubelet.methods.mixing import Erasing, cut, faded, pasted
from tubelet.motion_pictures import field, longest
from tubelet.motion_targets import Trajectory
from tubelet.nn.divided import Where
from tubelet.nn.patches import curtained, patchify, unpatchify
from tubelet.plates import rimmed
from tubelet.strips import INK, PAPER, Strip, font_of, rgb, save_png
from tubelet.targets import HOG, Pixels
from tubelet.types import Batch, Draws, Grid, Target, TokenMask

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
CLIPS = {  # file: whose it is; all CC BY 4.0
    "sam2_01_dog.mp4": "SA-V by way of SAM 2",
    "sam2_03_blocks.mp4": "SA-V by way of SAM 2",
    "sam2_04_coffee.mp4": "SA-V by way of SAM 2",
    "asl_milk.mkv": "sample videos of the Intel IoT developer kit",
}
DOG, BLOCKS, COFFEE, SIGN = CLIPS
SMALL, LARGE = (
    Grid(8, 14, 14, (2, 8, 8)),
    Grid(8, 14, 14, (2, 16, 16)),
)  # the papers' 8x14x14 places, on 112 or 224 pixels
Rows = dict[str, Tensor]
folder = Path()


def clip(*names: str, grid: Grid = SMALL, motion: Vectors | Flow | None = None, frames: int = 16) -> Batch:
    size = (grid.H * grid.patch[1], grid.W * grid.patch[2])
    data = Data(clip=Dense(frames, stride=4 if frames > 1 else 1), size=size, motion=motion)
    return middle_batch([folder / name for name in names], data)


def draws(seed: int = 0) -> Draws:
    return Draws(seed, 0, [0])


def only(video: Tensor, ids: Tensor, grid: Grid) -> Tensor:
    """The clip with grey wherever a token is not among `ids`."""
    return curtained(video, TokenMask(ids, ids, grid))


def every(grid: Grid) -> TokenMask:
    """All tokens predicted: a target is shown whole."""
    ids = torch.arange(grid.tokens).unsqueeze(0)
    return TokenMask(ids[:, :1], ids, grid)


def drawn(target: Target, batch: Batch, grid: Grid) -> Tensor:
    """A target, whole, as its own pictures have it."""
    patches, all_ = patchify(batch.video, grid.patch), every(grid)
    values = target.wanted(batch, patches, all_).values
    pixels = target.decode(values, patches.float() / 255, all_, 3)
    return unpatchify((pixels * 255).round().clamp(0, 255).byte(), grid)


def normalised(batch: Batch, grid: Grid) -> Tensor:
    """Pixels as a network must predict them: in deviations of their cube, three of which are black or white."""
    values = Pixels("videomae").wanted(batch, patchify(batch.video, grid.patch), every(grid)).values
    return unpatchify(((values / 6 + 0.5) * 255).round().clamp(0, 255).byte(), grid)


def hidden_by(name: str, batch: Batch, grid: Grid = SMALL, seed: int = 0) -> Tensor:
    return curtained(batch.video, preset(name).method.mask(batch, grid, draws(seed)))


def moved(batch: Batch) -> Tensor:
    """Motion as the colours of flow."""
    assert batch.motion is not None
    motion = batch.motion.each(lambda values: values[0])
    back, known = -motion.to_previous.permute(1, 0, 2, 3).numpy(), motion.had.numpy()
    size = tuple(batch.video.shape[3:])
    hues = [field(*each, motion.block, size, longest(motion)) for each in zip(back, known)]
    return torch.from_numpy(np.stack(hues)).permute(3, 0, 1, 2).unsqueeze(0)


# ---------------------------------------------------------------------------- masks


def videomae() -> tuple[Rows, str]:
    batch = clip(DOG)
    shown = curtained(batch.video, Random(0.9)(batch, SMALL, draws()))
    rows = {"original": batch.video, "tube 90 %": hidden_by("videomae-k400-b", batch), "anywhere 90 %": shown}
    rows["to predict"] = normalised(batch, SMALL)
    return rows, (
        "Tubes hide the same places in all frames; hidden anywhere, a place is seen at other times. Predicted are "
        "pixels in units of their own cube's deviation, colour by colour, which is why they look odd."
    )


def videomae_v2() -> tuple[Rows, str]:
    batch, random = clip(DOG), draws()
    method = preset("videomae-v2-b").method
    mask = method.decode(method.mask(batch, SMALL, random), random)
    scored = mask.predict[mask.scored].unsqueeze(0)
    rows = {"original": batch.video, "encoder sees": curtained(batch.video, mask)}
    rows |= {"decoder's half": only(batch.video, mask.predict, SMALL), "counted": only(batch.video, scored, SMALL)}
    return (
        rows,
        "Of each 2x2 places two are decoded, others in every slot; of these, those that were hidden are counted.",
    )


def mgm() -> tuple[Rows, str]:
    batch = clip(DOG, motion=Vectors(block=8))
    rows = {"motion": moved(batch), "block": curtained(batch.video, Block(0.75)(batch, SMALL, draws()))}
    rows |= {"SMM": hidden_by("smm-ssv2", batch), "MGM": hidden_by("mgm-ssv2", batch)}
    rows["MGM sparse"] = hidden_by("mgm-ssv2-200-sparse", batch)
    return {"original": batch.video, **rows}, (
        "75 % hidden. Motion: the codec's vectors; hue is direction, white stands still, grey is not known. A box that "
        "stays, one that moves at random, one around what moves most, and single places where it moves."
    )


def mgmae() -> tuple[Rows, str]:
    batch = clip(DOG, motion=Flow(block=8))
    rows = {"flow": moved(batch), "tube": curtained(batch.video, Tube(0.9)(batch, SMALL, draws()))}
    return {"original": batch.video, **rows, "MGMAE": hidden_by("mgmae-k400", batch)}, (
        "90 % hidden. Flow: hue is direction, white stands still. The dog runs through the tubes; MGMAE's visible "
        "places run along with what they show."
    )


def arvideo() -> tuple[Rows, str]:
    batch = clip(BLOCKS)
    clusters = preset("arvideo-k400-b").method.mask
    mask = clusters(batch, SMALL, draws(1))
    kept, asked = mask.visible.unflatten(1, (15, -1)), mask.predict.unflatten(1, (15, -1))
    painted = batch.video.clone()
    for number, ids in enumerate([first(kept, asked), *asked[0]], 1):
        slot, row, column = ids.min() // SMALL.slot, ids.min() % SMALL.slot // 14, ids.min() % 14
        plate = Image.new("RGB", (56, 56), tuple(40 + 10 * number for _ in "rgb"))
        ImageDraw.Draw(plate).text((28, 28), str(number), (0, 0, 0) if number > 8 else INK, font_of(26), anchor="mm")
        tile = torch.from_numpy(np.array(plate)).permute(2, 0, 1)[None, :, None]
        painted[:, :, 2 * slot : 2 * slot + 4, 8 * row : 8 * row + 56, 8 * column : 8 * column + 56] = tile
    rows = {"original": batch.video, "order": painted}
    for number in (5, 10):
        seen = kept[:, :number].flatten(1)
        rows[f"after {number}"] = only(batch.video, seen, SMALL)
        rows[f"number {number + 1}"] = only(batch.video, asked[:, number - 1], SMALL)
    return rows, (
        "16 clusters of 2x7x7 tokens in a random order. What is kept of the first 5 and of the first 10, and the "
        "cluster that is to be predicted from it. All are predicted at once; attention hides what comes later."
    )


def first(kept: Tensor, asked: Tensor) -> Tensor:
    """The tokens of the cluster that comes first, which nobody predicts: all that are in no other."""
    left = torch.ones(SMALL.tokens, dtype=torch.bool).index_fill(0, asked.flatten(), False)
    assert left[kept[0, 0]].all()
    return left.nonzero().flatten()


def st_mae() -> tuple[Rows, str]:
    batch = clip(SIGN)
    target = preset("st-mae-k400-b").method.target
    rows = {"original": batch.video, "anywhere 90 %": hidden_by("st-mae-k400-b", batch)}
    rows["to predict"] = drawn(target, batch, SMALL)
    return {name: video[:, :, 2:10] for name, video in rows.items()}, (
        "Eight of 16 frames. 1412 of 1568 tokens are hidden, anywhere; of each cube of two frames one is predicted, "
        "here drawn twice."
    )


def image_mae() -> tuple[Rows, str]:
    grid = Grid(1, 14, 14, (1, 8, 8))
    batch = clip(*CLIPS, grid=grid, frames=1)
    mask = preset("image-mae-b").method.mask(batch, grid, Draws(0, 0, range(len(CLIPS))))
    rows = {"pictures": batch.video, "75 % hidden": curtained(batch.video, mask)}
    abreast = {name: video.transpose(0, 2) for name, video in rows.items()}
    return abreast, "147 of 196 patches hidden, each picture by itself."


def omni_mae() -> tuple[Rows, str]:
    batch = clip(COFFEE)
    method = preset("omni-mae-b").method
    grid = replace(SMALL, T=1)
    still = Batch(batch.video[:, :, :1].expand(-1, -1, 2, -1, -1), batch.ids)
    seen = curtained(still.video, method.still(still, grid, draws()))
    rows = {"video": batch.video, "95 % hidden": hidden_by("omni-mae-b", batch)}
    blank = torch.tensor(PAPER, dtype=torch.uint8).view(1, 3, 1, 1, 1).expand_as(batch.video)
    for name, picture in (("picture", still.video), ("90 % hidden", seen)):
        rows[name] = torch.cat([picture, blank[:, :, 2:]], 2)
    return rows, "A step shows videos of eight time slots or pictures, which stand still for one; both to one encoder."


def cross_mae() -> tuple[Rows, str]:
    batch = clip(BLOCKS)
    mask = chosen(preset("cross-mae-k400-b").method, batch, SMALL, draws())
    rows = {"original": batch.video, "encoder sees": curtained(batch.video, mask)}
    return rows | {"is asked for": only(batch.video, mask.predict, SMALL)}, (
        "The encoder sees 157 of 1568 tokens; a quarter of the hidden ones, 352, are asked for, each by itself."
    )


def latent() -> tuple[Rows, str]:
    batch, random = clip(DOG), draws()
    short, long = (mask(batch, SMALL, random) for mask in preset("vjepa-l").method.masks)
    rows = {"teacher sees": batch.video, "8 of 15 %": curtained(batch.video, short)}
    return rows | {"2 of 70 %": curtained(batch.video, long)}, (
        "The encoder sees each clip twice: behind eight small boxes, and behind two large ones, all through time. "
        "Predicted is what a teacher's features are there that sees everything."
    )


def timesformer() -> tuple[Rows, str]:
    batch = clip(DOG)
    slot, row, column = 4, 8, 6
    query = slot * SMALL.slot + row * SMALL.W + column
    where = Where.of(torch.arange(SMALL.tokens).unsqueeze(0), SMALL, SMALL.tokens)
    assert where.slots == SMALL.T  # whole slots: tokens at one place are SMALL.slot apart
    place = torch.arange(query % SMALL.slot, SMALL.tokens, SMALL.slot).unsqueeze(0)
    same = torch.arange(slot * SMALL.slot, (slot + 1) * SMALL.slot).unsqueeze(0)
    rows = {"clip": batch.video, "first: its place": only(batch.video, place, SMALL)}
    rows["then: its slot"] = only(batch.video, same, SMALL)
    cell = SMALL.patch[1]
    box = np.array([[column * cell, row * cell, (column + 1) * cell, (row + 1) * cell]], float)
    for name, video in rows.items():
        frames = rgb(video[0]).copy()
        for t in range(slot * 2, slot * 2 + 2):
            frames[t] = rimmed(frames[t], box + np.array([-1, -1, 1, 1]), [(255, 128, 32)], 2)
        rows[name] = torch.from_numpy(frames).permute(3, 0, 1, 2).unsqueeze(0)
    return (
        rows,
        "What the token in the orange rim may look at: 8 tokens at its place, then 196 in its slot; jointly 1568.",
    )


# ---------------------------------------------------------------------------- targets


def maskfeat() -> tuple[Rows, str]:
    batch = clip(SIGN, grid=LARGE)
    rows = {"original": batch.video, "boxes 40 %": hidden_by("maskfeat-k400-b", batch, LARGE)}
    return rows | {"HOG": drawn(HOG(), batch, LARGE)}, "Histograms of gradients, 9 directions in cells of 8x8 pixels."


def motion_mae() -> tuple[Rows, str]:
    batch = clip(SIGN)
    _, changes = preset("motion-mae-k400-b").method.target.targets
    rows = {"original": batch.video, "anywhere 90 %": hidden_by("motion-mae-k400-b", batch)}
    change = drawn(replace(changes, normalise="none"), batch, SMALL).float()
    rows |= {"pixels": normalised(batch, SMALL), "change": (127.5 + 4 * (change - 127.5)).clamp(0, 255).byte()}
    return rows, (
        "Pixels in units of their cube's deviation, and what changes between its two frames, drawn four times as "
        "strong; grey is no change. In training the change is divided by its own deviation, too."
    )


def m3video() -> tuple[Rows, str]:
    batch = clip(SIGN, grid=LARGE, motion=Flow(block=8))
    edges, _ = preset("m3video-k400-b").method.target.targets
    rows = {"original": batch.video, "tube 70 %": hidden_by("m3video-k400-b", batch, LARGE)}
    rows |= {"HOG": drawn(edges, batch, LARGE), "paths": drawn(Trajectory(4), batch, LARGE)}
    return rows, (
        "Edges of the middle frame of each cube, and how far each quarter of it goes in four steps: black rests, white "
        "goes a token's width or more. In training steps are told by direction, against the mean of the four quarters."
    )


# ---------------------------------------------------------------------------- views, labels


def moco_v3() -> tuple[Rows, str]:
    run = preset("moco-v3-k400-b")
    data = replace(run.data, clip=Dense(16, stride=2), size=(112, 112))
    batch = next(iter(batches(Dataset([Item(folder / SIGN)], data, seed=5), 1, 0, 1)))
    seen = run.method.augment(batch.video, Draws(1, 0, [0, 1]))
    first, second = ((each * 255).round().clamp(0, 255).byte().unsqueeze(0) for each in seen)
    one, other = batch.video[:1], batch.video[1:]
    rows = {"a clip": one, "view 1": first, "another": other, "view 2": second}
    return (
        rows,
        "Two clips of one video, in windows of their own, changed in colour and sharpness: features are to be alike.",
    )


def action_detection() -> tuple[Rows, str]:
    batch, bins = clip(SIGN, grid=LARGE), preset("finetune-ava-b").method.bins
    frames = rgb(batch.video[0]).copy()
    left, top, right, bottom = person = np.array([46.0, 14.0, 164.0, 222.0])
    image = Image.fromarray(frames[8])
    draw = ImageDraw.Draw(image)
    for part in np.linspace(0, 1, bins + 1)[1:-1]:
        x, y = left + part * (right - left), top + part * (bottom - top)
        draw.line((x, top, x, bottom), PAPER)
        draw.line((left, y, right, y), PAPER)
    frames[8] = rimmed(np.asarray(image), person[None], [(255, 128, 32)], 3)
    return {"clip": torch.from_numpy(frames).permute(3, 0, 1, 2).unsqueeze(0)}, (
        "The clip around a key frame, and a person's box there, in 7x7 parts. Each part is the mean of the tokens in "
        "it over the whole clip; of the 49 the largest value of each channel tells what the person does."
    )


def fine_tuning() -> tuple[Rows, str]:
    two = clip(SIGN, COFFEE).video
    frames = two[0].permute(1, 2, 3, 0)
    augmented = RandAugment()(frames, np.random.default_rng(4)).permute(3, 0, 1, 2).unsqueeze(0)
    floats = two.float() / 255
    rng = np.random.default_rng(5)
    rows = {"original": two[:1], "RandAugment": augmented}
    rows["erased"] = Erasing(1.0)(floats[:1], 3)
    rows["mixup"] = faded(floats, 0.6)[:1]
    rows["CutMix"] = pasted(floats, cut(0.7, 112, 112, rng)[1])[:1]
    shown = {
        name: video if video.dtype == torch.uint8 else (video * 255).clamp(0, 255).byte()
        for name, video in rows.items()
    }
    return shown, (
        "What VideoMAE's fine-tuning does to a clip: four random changes, the same in all frames; a box of noise; "
        "another clip faded over, or a box of it, with the labels in the same shares."
    )


PAINTERS: dict[str, tuple[Callable[[], tuple[Rows, str]], int]] = {  # and how many frames side by side
    "videomae": (videomae, 8),
    "videomae_v2": (videomae_v2, 8),
    "mgm": (mgm, 8),
    "mgmae": (mgmae, 8),
    "arvideo": (arvideo, 8),
    "st_mae": (st_mae, 8),
    "image_mae": (image_mae, 4),
    "omni_mae": (omni_mae, 8),
    "cross_mae": (cross_mae, 8),
    "maskfeat": (maskfeat, 4),
    "motion_mae": (motion_mae, 8),
    "m3video": (m3video, 4),
    "moco_v3": (moco_v3, 8),
    "latent": (latent, 8),
    "timesformer": (timesformer, 8),
    "action_detection": (action_detection, 5),
    "fine_tuning": (fine_tuning, 8),
}


def main() -> None:
    global folder
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[*PAINTERS])
    parser.add_argument("--out", type=Path, default=PICTURES)
    arguments = parser.parse_args()
    folder = arguments.videos
    for name in arguments.only:
        paint, columns = PAINTERS[name]
        rows, caption = paint()
        strip = Strip({title: video[0] for title, video in rows.items()})
        path = save_png(arguments.out / f"methods_{name}.png", [strip], caption, columns)
        smaller(path)
        print(path)


def smaller(path: Path) -> None:
    """The same picture in 256 colours: half of the bytes, and hardly to be told apart."""
    image, about = Image.open(path), PngInfo()
    about.add_itxt("Description", image.info["Description"])
    palette = image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
    palette.save(path, optimize=True, pnginfo=about)


if __name__ == "__main__":
    main()
