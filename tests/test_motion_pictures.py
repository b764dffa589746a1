"""Pictures of motion: colours by the wheel's definition, arrows that point the right way, missing that is not still."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tubelet.pictures
from tubelet.cli import run
from tubelet.config import preset, to_json
from tubelet.data.datasets import Data
from tubelet.data.flow import Flow
from tubelet.data.items import Note
from tubelet.data.motion import motion_of
from tubelet.data.sampling import Dense
from tubelet.data.synthetic import moving_square
from tubelet.data.vectors import Vectors
from tubelet.data.video import frames_at, write
from tubelet.evaluate.features import middle_batch, middle_clips
from tubelet.evaluate.saliency import Annotated, Saliency
from tubelet.masks.motion_masks import MotionBox
from tubelet.masks.random_masks import Random, Tube
from tubelet.methods.masked import Masked
from tubelet.motion_pictures import (
    ABSENT,
    ARROW,
    BORDER,
    FRAME,
    arrows,
    boxes_strips,
    colours,
    field,
    legend,
    longest,
    motion_strip,
    motion_strips,
    outlined,
    told,
    used,
)
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import CURTAIN
from tubelet.nn.vit import Encoder
from tubelet.pictures import distinct, masks_strip, reconstruct, reconstruct_runs
from tubelet.strips import PAPER, Strip, save
from tubelet.targets import Pixels
from tubelet.types import Batch, Draws, Grid, Motion

GRID = Grid.of(4, 32, 48, (2, 8, 8))


def motion(x: float, y: float, frames: int = 4, rows: int = 4, columns: int = 6, block: int = 8) -> Motion:
    """Everything moves by (x, y) from frame to frame; the first frame has no past."""
    back = torch.tensor([-x, -y]).view(2, 1, 1, 1).expand(2, frames, rows, columns).clone()
    known = torch.ones(frames, rows, columns, dtype=torch.bool)
    had, has = known.clone(), known.clone()
    had[0], has[-1] = False, False
    return Motion(torch.where(had, back, 0.0), torch.where(has, -back, 0.0), had, has, block)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of about this colour."""
    return np.argwhere(np.abs(picture.astype(int) - colour).max(-1) < 40)


def yellow(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels of an arrow on a grey frame; those of its shaft are thin, so partly dark."""
    return np.argwhere(picture[..., 0].astype(int) - picture[..., 2] > 60)


# ---------------------------------------------------------------------------- colours


def baker(u: float, v: float) -> tuple[int, int, int]:
    """The colour of (u, v) by Baker et al.'s released code, followed line by line for one pixel."""
    ry, yg, gc, cb, bm, mr = 15, 6, 4, 11, 13, 6
    wheel = []
    wheel += [(255, 255 * i // ry, 0) for i in range(ry)]
    wheel += [(255 - 255 * i // yg, 255, 0) for i in range(yg)]
    wheel += [(0, 255, 255 * i // gc) for i in range(gc)]
    wheel += [(0, 255 - 255 * i // cb, 255) for i in range(cb)]
    wheel += [(255 * i // bm, 0, 255) for i in range(bm)]
    wheel += [(255, 0, 255 - 255 * i // mr) for i in range(mr)]
    length = math.hypot(u, v)
    place = (math.atan2(-v, -u) / math.pi + 1) / 2 * (len(wheel) - 1)
    low = int(place)
    pixel = []
    for channel in range(3):
        one, other = wheel[low][channel] / 255, wheel[(low + 1) % len(wheel)][channel] / 255
        hue = (1 - (place - low)) * one + (place - low) * other
        pixel.append(int(255 * (1 - length * (1 - hue) if length <= 1 else 0.75 * hue)))
    return tuple(pixel)


def test_colours_are_those_of_the_definition():
    flow = np.random.default_rng(0).normal(0, 0.7, (2, 20, 30))
    flow[:, 0, 0] = 0
    shown = colours(5 * flow, 5.0)
    for y in range(20):
        for x in range(30):
            assert np.abs(shown[y, x].astype(int) - baker(*flow[:, y, x])).max() <= 2  # that code rounds its wheel
    assert shown[0, 0].tolist() == [255, 255, 255]


def test_each_direction_has_its_colour():
    right, down, left, up = colours(np.array([[[1.0, 0, -1, 0]], [[0, 1.0, 0, -1]]]), 1.0)[0].astype(int)
    assert right[0] > 250 > 50 > right[1]  # red
    assert min(down[:2]) > 200 > 50 > down[2]  # yellow
    assert min(left[1:]) > 200 > 50 > left[0]  # cyan
    assert up[2] > 250 > 150 > up[0]  # blue to violet


def test_what_is_not_known_is_grey_whatever_stands_in_its_place():
    back = np.full((2, 3, 4), 7.0)
    known = np.ones((3, 4), bool)
    known[1, 2] = False
    shown = field(back, known, 8, (20, 30), 10.0)
    assert shown.shape == (20, 30, 3)
    assert (shown[8:16, 16:24] == CURTAIN).all()
    shown[8:16, 16:24] = shown[0, 0]
    assert (shown == shown[0, 0]).all()
    assert (shown[0, 0] != CURTAIN).any()


def test_the_legend_is_the_wheel_with_its_length():
    image = np.asarray(legend(12.0, 100))
    middle = (image.shape[1] // 2, 50)
    assert min(image[middle[1], middle[0]]) > 240  # white: stands still
    assert image[50, middle[0] + 45, 0] > 230 > 110 > image[50, middle[0] + 45, 1]  # right is red
    assert np.abs(image[2, middle[0] - 48].astype(int) - PAPER).max() < 3
    assert np.ptp(image[102:]) > 60  # the words


def test_the_rim_is_what_nearly_all_that_moves_stays_below():
    one = motion(3.2, 0)
    assert longest(one) == 4
    one.to_previous[:, 1, 0, 0] = 500  # one wild vector
    assert longest(one) < 500
    one.to_previous[:, 0] = 1000  # not known
    assert longest(one) < 500
    assert longest(motion(0, 0)) == 1
    assert longest(replace(one, had=torch.zeros_like(one.had))) == 1


# ---------------------------------------------------------------------------- arrows


@pytest.mark.parametrize(("x", "y"), [(12, 0), (-12, 0), (0, 12), (0, -12), (9, -9)])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_an_arrow_ends_on_its_block_and_begins_where_it_was(x, y, ground):
    frame = np.full((64, 64, 3), ground, np.uint8)
    back, known = np.zeros((2, 1, 1)), np.ones((1, 1), bool)
    back[:, 0, 0] = x, y
    inked = yellow(arrows(frame, back, known, 64, 1))[:, ::-1] - 31.5
    along = np.array([x, y]) / math.hypot(x, y)
    reach = inked @ along
    assert reach.max() == pytest.approx(0, abs=1.5)  # the tip
    assert reach.min() == pytest.approx(-math.hypot(x, y), abs=1.5)  # the tail
    across = np.abs(inked @ [-along[1], along[0]])
    assert across[reach > -7].max() > across[reach < -8].max()  # the head is at the tip


def test_arrows_of_enlarged_frames_are_as_long_as_they_look():
    frame = np.full((128, 128, 3), 90, np.uint8)
    back = np.zeros((2, 1, 1))
    back[0] = 10
    columns = yellow(arrows(frame, back, np.ones((1, 1), bool), 128, 4))[:, 1]
    assert np.ptp(columns) == pytest.approx(40, abs=3)


def test_still_is_a_dot_and_missing_a_cross():
    frame, known = np.full((64, 64, 3), 90, np.uint8), np.array([[True, False], [True, True]])
    back = np.zeros((2, 2, 2))
    back[:, 0, 1] = 30  # must not be read
    shown = arrows(frame, back, known, 32, 1)
    red, dotted = near(shown, ABSENT), near(shown, ARROW)
    assert len(red)
    assert (np.abs(red - (15.5, 47.5)) < 5).all()
    dots = {(round(y / 32 - 0.5), round(x / 32 - 0.5)) for y, x in dotted}
    assert dots == {(0, 0), (1, 0), (1, 1)}
    assert len(dotted) < 30  # dots, no arrows


def test_of_neighbours_the_longest_is_drawn():
    frame = np.full((64, 64, 3), 90, np.uint8)
    back, known = np.zeros((2, 16, 16)), np.ones((16, 16), bool)
    back[0, 5, 6] = 9
    inked = yellow(arrows(frame, back, known, 4, 1))
    row, column = 5.5 * 4 - 0.5, 6.5 * 4 - 0.5
    assert ((np.abs(inked[:, 0] - row) < 1) & (np.abs(inked[:, 1] - (column - 8)) < 1)).any()


def test_a_frame_without_any_vector_is_named_and_not_strewn_with_crosses():
    frame = np.full((208, 208, 3), 90, np.uint8)
    shown = arrows(frame, np.zeros((2, 26, 26)), np.zeros((26, 26), bool), 8, 1)
    assert not len(near(shown, ABSENT))
    assert (shown[:160] == 90).all()
    assert (shown[170:] != 90).any()


# ---------------------------------------------------------------------------- borders and boxes


def test_the_border_is_around_what_is_hidden_and_nothing_else_changes():
    batch = Batch(torch.zeros(1, 3, 4, 32, 48, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    mask = Random(0.5)(batch, GRID, Draws(0, 0, [0]))
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
    shown = outlined(frames, mask, 2)
    hidden = mask.hidden[0].view(2, 4, 6).numpy()
    for t in range(4):
        for row in range(4):
            for column in range(6):
                part = slice(row * 16, row * 16 + 16), slice(column * 16, column * 16 + 16)
                if not hidden[t // 2, row, column]:
                    assert (shown[t][part] == frames[t][part]).all()
                    continue
                beside = hidden[t // 2, row, column - 1] if column else False
                edge = shown[t, row * 16 + 8, column * 16 + 1]
                assert (edge.tolist() == list(BORDER)) == (not beside)


# ---------------------------------------------------------------------------- clips


def test_a_strip_has_its_rows_in_one_size(tmp_path):
    video = torch.randint(0, 256, (2, 3, 4, 32, 48), dtype=torch.uint8)
    both = Motion.batch([motion(2, 1).each(lambda values: values[None])] * 2)
    batch = Batch(video, torch.arange(2), motion=both)
    masks = {"MGM 50 %": MotionBox(0.5)(batch, GRID, Draws(0, 0, range(2)))}
    strips, caption, wheel = motion_strips(video, both, ["a.mp4", "b.mp4"], "flow", masks)
    assert [[*strip.rows] for strip in strips] == [["frames", "vectors", "colours", "MGM 50 %"]] * 2
    assert {tuple(row.shape) for strip in strips for row in strip.rows.values()} == {(3, 4, 224, 336)}
    red, _, blue = strips[0].rows["colours"][:, 1].float().mean((1, 2))
    assert red > blue + 50  # it moves to the right
    assert "clips of 32x48" in caption
    assert "3 px" in caption
    assert strips[0].heading == "a.mp4 · known of 100 % of blocks, 100 % of them move, 2.24 px in the median"
    assert not torch.equal(strips[0].rows["MGM 50 %"], strips[1].rows["MGM 50 %"])  # its own clip's mask
    for name in ("motion.png", "motion.gif"):
        with Image.open(save(tmp_path / name, strips, caption, wheel)) as image:
            shown = np.asarray(image.convert("RGB"))
            foot = shown[-wheel.height - 20 :, : wheel.width + 40].reshape(-1, 3)
            assert (np.ptp(foot.astype(int), axis=1) > 150).mean() > 0.1  # the wheel, in colours


def test_words_beside_the_wheel_are_not_cut(tmp_path):
    strips = [Strip({"frames": torch.zeros(3, 1, 224, 224, dtype=torch.uint8)})]
    with Image.open(save(tmp_path / "one.png", strips, "many words, one after the other, " * 9, legend(5.0))) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    for edge in (shown[:, -4:], shown[-3:]):
        assert np.abs(edge - PAPER).max() == 0


def test_what_is_told_of_a_clip():
    assert told(motion(0, 0)) == "known of 100 % of blocks, 0 % of them move"
    half = motion(3, 4)
    half.had[:, :2] = False
    half.to_previous[:, :, 2] = 0
    assert told(half) == "known of 50 % of blocks, 50 % of them move, 5 px in the median"
    assert told(replace(half, had=torch.zeros_like(half.had))) == "no motion is known"


def test_boxes_are_drawn_on_the_frames_enlarged_with_them():
    video = torch.full((3, 1, 32, 48), 90, dtype=torch.uint8)
    strip = motion_strip(video, motion(1, 1, frames=1), boxes=[np.array([[8.0, 8, 24, 24]])])
    blue = near(strip.rows["frames"][:, 0].permute(1, 2, 0).numpy(), FRAME)
    assert np.abs(blue.min(0) - 56).max() <= 1
    assert np.abs(blue.max(0) - 168).max() <= 1


def test_boxes_of_pictures_of_many_sizes_stay_around_their_things():
    """Scaled to one height, then enlarged: a white thing is found where its box is drawn."""
    seen = []
    for height, width in ((60, 90), (312, 400), (104, 77)):
        box = np.array([[0.3 * width, 0.25 * height, 0.6 * width, 0.75 * height]]).round()
        frames = torch.full((2, height, width, 3), 90, dtype=torch.uint8)
        left, top, right, bottom = box[0].astype(int)
        frames[:, top:bottom, left:right] = 255
        field = motion(1, 1, 2, -(-height // 8), -(-width // 8))
        seen.append(("a", Annotated(frames, field, [box, box], Saliency(1, 1, (1, 1)), ())))
    strips, caption, _ = boxes_strips(seen, "vectors", 104)
    assert "of pictures 104 high" in caption
    for strip, (_, one) in zip(strips, seen):
        frame = strip.rows["frames"][:, 1].permute(1, 2, 0).numpy()
        height, width = one.frames.shape[1:3]
        assert frame.shape[:2] == (208, 2 * round(104 * width / height))
        blue, white = near(frame, FRAME), np.argwhere(frame.min(-1) > 240)
        assert len(white) > 500
        for edge in (np.min, np.max):
            assert np.abs(edge(blue, 0) - edge(white, 0)).max() <= 4  # the line, and what scaling blurs


def test_masks_are_shown_side_by_side():
    video = torch.randint(0, 256, (1, 3, 4, 32, 48), dtype=torch.uint8)
    batch = Batch(video, torch.arange(1), motion=motion(1, 1).each(lambda values: values[None]))
    masks = {"tube": Tube(0.5)(batch, GRID, Draws(0, 0, [0])), "MGM": MotionBox(0.5)(batch, GRID, Draws(0, 0, [0]))}
    [strip] = masks_strip(video, masks, "said")
    assert [*strip.rows] == ["original", "tube", "MGM"]
    for name, mask in masks.items():
        hidden = mask.hidden[0].view(2, 4, 6).repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
        assert torch.equal(strip.rows[name][:, ~hidden], video[0][:, ~hidden])
        assert len(strip.rows[name][:, hidden].unique()) == 2


# ---------------------------------------------------------------------------- files and runs


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A square that moves 4 pixels a frame to the right."""
    folder = tmp_path_factory.mktemp("film")
    frames, _ = moving_square((0, 4), 16, 96, np.random.default_rng(3), side=32)
    write(folder / "film.mp4", frames, 10, options={"bf": "0", "refs": "1", "crf": "12", "g": "99"})
    return folder / "film.mp4"


@pytest.mark.parametrize("source", [Vectors(), Flow(block=4)], ids=["vectors", "flow"])
def test_middle_clips_come_with_their_motion_in_their_own_pixels(film, source):
    data = Data(clip=Dense(4, stride=1), size=(48, 48), motion=source)
    batch = middle_batch([film, film], data)
    assert torch.equal(batch.video, middle_clips([film, film], data))
    assert batch.motion.block == source.block
    assert batch.motion.to_previous.shape == (2, 2, 4, 48 // source.block, 48 // source.block)
    x, y = batch.motion.to_previous[1, :, 1:]  # 4 pixels a step, in clips of half the size
    moves = batch.motion.had[1, 1:] & (x.abs() > 1)
    assert moves.float().mean() > 0.05
    assert x[moves].median() == pytest.approx(-2, abs=0.5)
    assert y[moves].abs().median() < 0.5
    assert middle_batch([film], replace(data, motion=None)).motion is None


def method(mask) -> torch.nn.Module:
    """A small model with random weights, for clips of 4 x 32 x 48."""
    torch.manual_seed(0)
    shape = Encoder(width=24, depth=1, heads=2, hidden=48, patch=GRID.patch)
    return Masked(mask, Pixels("none"), Decoder(12, 1, 2)).build(shape, GRID, 3)


def test_a_mask_that_follows_motion_is_reconstructed_with_that_of_the_clips():
    video = torch.randint(0, 256, (1, 3, 4, 32, 48), dtype=torch.uint8)
    still = motion(0, 0).each(lambda values: values[None])
    moved = still.each(torch.clone)
    moved.to_previous[:, :, :, 0, 0] = 5
    model = method(MotionBox(0.3, jitter=0))
    result = reconstruct(model, video, motion=moved)
    assert result.mask.hidden[0].view(2, 4, 6)[1, 0, 0]
    other = reconstruct(model, video, motion=moved.each(lambda values: values.flip(-1, -2)))
    assert other.mask.hidden[0].view(2, 4, 6)[1, -1, -1]
    assert not other.mask.hidden[0].view(2, 4, 6)[1, 0, 0]
    with pytest.raises(ValueError, match="motion"):
        reconstruct(model, video)


def test_runs_are_shown_beside_each_other_each_with_its_own_mask(film, tmp_path, monkeypatch):
    data = Data(clip=Dense(4, stride=2), size=(32, 48))
    runs = {
        "tube": (Tube(0.75), data),
        "mgm": (MotionBox(0.5), replace(data, motion=Vectors())),
        "other": (Tube(0.75), replace(data, size=(64, 64))),
    }
    card = preset("videomae-demo")
    monkeypatch.setattr(
        tubelet.pictures, "read", lambda folder: {"run": to_json(replace(card, data=runs[folder.name][1])), "step": 7}
    )
    monkeypatch.setattr(tubelet.pictures, "load_method", lambda folder: method(runs[folder.name][0]))
    shown = []
    monkeypatch.setattr(tubelet.pictures, "save", lambda path, strips, caption: shown.append((strips, caption)) or path)
    paths = reconstruct_runs([tmp_path / "tube", tmp_path / "mgm"], [film], tmp_path)
    assert paths == [tmp_path / "reconstructions.gif", tmp_path / "reconstructions.png"]
    [strip], caption = shown[0]
    assert [*strip.rows] == ["original", "tube, hidden", "tube, imagined", "mgm, hidden", "mgm, imagined"]
    assert "tube, step 7: 75 % hidden" in caption
    assert "mgm, step 7: 50 % hidden" in caption
    assert "which is not the same for all" in caption
    reconstruct_runs([tmp_path / "tube", tmp_path / "tube"], [film], tmp_path)
    assert "which is not the same for all" not in shown.pop()[1]
    hidden = (strip.rows["mgm, hidden"] != strip.rows["original"]).any(0)
    assert torch.equal(strip.rows["mgm, imagined"][:, ~hidden], strip.rows["original"][:, ~hidden])
    reconstruct_runs([tmp_path / "tube", tmp_path / "mgm"], [film], tmp_path, ratio=0.25)
    assert "mgm, step 7: 25 % hidden" in shown[-1][1]
    with pytest.raises(ValueError, match=r"other sees other clips than .*tube"):
        reconstruct_runs([tmp_path / "tube", tmp_path / "other"], [film], tmp_path)


def test_folders_are_named_by_what_tells_them_apart():
    assert distinct([Path("/a/x/run"), Path("/a/y/run"), Path("/b/other")]) == ["x/run", "y/run", "b/other"]
    assert distinct([Path("/a/run"), Path("/a/else")]) == ["run", "else"]
    assert distinct([Path("/a/run"), Path("/a/run")]) == ["run", "run"]


# ---------------------------------------------------------------------------- the commands

CLIP = ["--frames", "4", "--stride", "2", "--size", "32", "48", "--patch", "2", "8", "8"]


def about(path: Path) -> str:
    """What a picture says of itself."""
    with Image.open(path) as image:
        return image.info["Description"]


def test_motion_of_a_film_is_drawn_from_both_sources(film, tmp_path, capsys):
    for guide, name in (("vectors", "motion.png"), ("flow", "motion.gif")):
        asked = ["picture", "motion", "--data", str(film), "--guide", guide, *CLIP, "--out", str(tmp_path / name)]
        assert run(asked) == 0
        with Image.open(capsys.readouterr().out.strip()) as image:
            said = image.info.get("Description") or image.info["comment"].decode()
            assert said.startswith(f"Motion from {guide}, since the frame before, in pixels of clips of 32x48")
            assert getattr(image, "n_frames", 1) == (4 if name.endswith("gif") else 1)


def test_masks_are_compared_on_one_picture(film, tmp_path, capsys):
    out = tmp_path / "masks.png"
    kinds = ["tube", "random", "frame", "block", "smm", "smm-sparse", "mgm", "mgm-sparse", "mgmae"]
    assert (
        run(["picture", "mask", "--data", str(film), *CLIP, "--ratio", "0.5", "--out", str(out), "--kind", *kinds]) == 0
    )
    with Image.open(out) as image:
        assert image.height > 10 * 128
        assert "cubes of 2x8x8" in image.info["Description"]
    assert run(["picture", "mask", "--data", str(film), *CLIP, "--kind", "mgm", "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert image.info["Description"] == "film.mp4 · motion from vectors · MGM 75 %"


def test_only_masks_that_follow_motion_read_it(film, tmp_path, capsys, monkeypatch):
    def unread(*args, **options):
        raise AssertionError("motion was read")

    monkeypatch.setattr("tubelet.evaluate.features.motion_of", unread)
    asked = ["picture", "mask", "--data", str(film), *CLIP, "--out", str(tmp_path / "a.png"), "--kind"]
    assert run([*asked, "tube", "smm", "block", "--ratio", "0.5"]) == 0
    with pytest.raises(AssertionError, match="motion was read"):
        run([*asked, "tube", "mgm"])


def test_what_stands_in_for_vectors_is_said(tmp_path, capsys):
    frames, _ = moving_square((0, 4), 8, 64, np.random.default_rng(3))
    folder = tmp_path / "images"
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:03d}.png")
    assert run(["picture", "motion", "--data", str(folder), *CLIP, "--out", str(tmp_path / "motion.png")]) == 0
    assert "has no motion vectors" in capsys.readouterr().err
    assert about(tmp_path / "motion.png").startswith("Motion from flow (no vectors), since")


def test_captions_say_what_was_used_for_lack_of_vectors(film, tmp_path, capsys):
    """One of two files is of a codec that has none."""
    videos, out = tmp_path / "videos", tmp_path / "a.png"
    videos.mkdir()
    frames, _ = moving_square((0, 4), 16, 96, np.random.default_rng(3), side=32)
    write(videos / "b.avi", frames, 10, codec="mjpeg", pixels="yuvj420p")
    shutil.copy(film, videos / "a.mp4")
    lines = [f"{name},{t},{4 * t},0,{4 * t + 32},32" for name in ("a.mp4", "b.avi") for t in range(3)]
    (videos / "boxes.csv").write_text("\n".join(["path,frame,x1,y1,x2,y2", *lines]))
    for kind, said in (("mgm", "b.avi · motion from flow (no vectors) · MGM 75 %"), ("tube", "b.avi · tube")):
        assert run(["picture", "mask", "--data", str(videos / "b.avi"), "--kind", kind, *CLIP, "--out", str(out)]) == 0
        assert about(out).startswith(said)
        assert ("motion" in about(out)) == (kind == "mgm")
    asked = ["picture", "motion", "--data", str(videos), "--out", str(out), "--count"]
    measured = ["--size", "64", "64", "--saliency", "--boxes", str(videos / "boxes.csv")]
    both = "Motion from vectors in 1 of 2 videos, flow (no vectors) in 1 of 2 videos, since"
    for options in (CLIP, measured):
        assert run([*asked, "1", *options]) == 0
        assert about(out).startswith("Motion from vectors, since")
        assert run([*asked, "2", *options]) == 0
        assert about(out).startswith(both)
    assert run([*asked, "2", "--guide", "flow", *CLIP]) == 0
    assert about(out).startswith("Motion from flow, since")


def test_captions_tell_few_vectors_from_none(film):
    """By the notes of whoever gives motion."""
    clip = frames_at(film, range(0, 8, 2), vectors=True)
    assert used("vectors", [film], motion_of(clip, Vectors(), (96, 96), film, "h264")[1]) == "vectors"
    for keep, kind in ((0, "no"), (5, "few")):
        motion = clip.motion.each(torch.clone)
        motion.had[..., keep:, :] = motion.has[..., keep:, :] = False
        for fallback, said in (("flow", "flow"), ("encode", "vectors of a copy"), ("none", "nowhere")):
            short = replace(clip, motion=motion)
            _, notes = motion_of(short, Vectors(fallback=fallback), (96, 96), film, "h264")
            assert used("vectors", [film], notes) == f"{said} ({kind} vectors)"
    far = Note("", "far, flow", str(film), "h264")
    assert used("vectors", [film, film, Path("b")], [far]) == (
        "flow (frames too far apart) in 2 of 3 videos, vectors in 1 of 3 videos"
    )


def test_wrong_combinations_are_refused(film, capsys):
    for asked, said in (
        (["motion", "--data", str(film), "--json"], "--json is for"),
        (["motion", "--data", str(film), "--boxes", "b.csv"], "go together"),
        (["motion", "--data", str(film), "--count", "0"], "--count 0"),
        (["mask", "--data", str(film), "--kind"], "at least one kind"),
        (["mask", "--data", "nowhere.mp4", "--kind", "tube", "smm", "--guide", "flow"], "--guide flow does nothing"),
        (["mask", "--data", "nowhere.mp4", "--kind", "mgm", "tube", "mgm"], "mgm is there twice"),
        (["motion", "--data", "nowhere.mp4", "--kind", "mgm", "mgm"], "mgm is there twice"),
        (["mask", "--data", "nowhere.mp4", "--out", "x.jpg"], "x.jpg: a picture ends in .png"),
        (["motion", "--data", "nowhere.mp4", "--out", "x.jpg"], "x.jpg: a picture ends in .png"),
        (["reconstruction", "--data", str(film), "--weights", "a", "b", "--ratio", "0.5", "0.9"], "name one ratio"),
    ):
        assert run(["picture", *asked]) == 2, asked
        assert said in capsys.readouterr().err
