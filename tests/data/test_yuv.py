"""Clips that travel as YUV 4:2:0: against the standards' formulas, FFmpeg's planes, PIL, and the way through RGB."""

from dataclasses import replace
from pathlib import Path

import av
import films
import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.bench.steps import repeated
from tubelet.config import Optim, Run, Training
from tubelet.data import loader
from tubelet.data.augment import RandAugment
from tubelet.data.datasets import Data, Dataset
from tubelet.data.flow import Flow
from tubelet.data.items import Item
from tubelet.data.joint import Images
from tubelet.data.loader import Batches, batches
from tubelet.data.paint import uncoloured, weights_of
from tubelet.data.sampling import Dense
from tubelet.data.transforms import CentreCrop, MultiScaleCrop, Place, Window
from tubelet.data.vectors import Vectors
from tubelet.data.video import VideoError, frames_at, write
from tubelet.masks.random_masks import Tube
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels
from tubelet.train import loop
from tubelet.train.device import batch_bytes
from tubelet.train.log import metrics
from tubelet.train.loop import train
from tubelet.types import Yuv

WINDOW, SIZE = Window(10, 20, 60, 80), (48, 64)
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "full": (0.299, 0.114)}  # BT.601 (2.5.1), BT.709 (3.2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write(folder / "source.mp4", films.moving_square(), 30, options={"crf": "10", "g": "30"})
    return lambda name: films.make(folder, name)


def near(ours, theirs, mean=1.3, most=3):
    """FFmpeg's quick way to RGB rounds down, by up to 3 levels: 1.2 on average in limited range, 0.7 in full."""
    apart = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    return apart.max() <= most and apart.mean() < mean


def formula(y, cb, cr, kr, kb, full):
    """RGB of values in [0, 255], from the equations for E'Y, E'Cb and E'Cr, solved for R, G and B."""
    forward = np.array([[kr, 1 - kr - kb, kb]] * 3)
    forward[1] = (np.array([0, 0, 1]) - forward[0]) / (2 * (1 - kb))
    forward[2] = (np.array([1, 0, 0]) - forward[0]) / (2 * (1 - kr))
    analogue = (
        [y / 255, (cb - 128) / 255, (cr - 128) / 255] if full else [(y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224]
    )
    return np.clip(np.rint(255 * np.stack(analogue, -1) @ np.linalg.inv(forward).T), 0, 255)


# ---------------------------------------------------------------------------- colours


@pytest.mark.parametrize("name", KR_KB)
def test_colours_are_those_of_the_standard(film, name):
    path, pixels = film(f"{name}.mp4"), "yuvj420p" if name == "full" else "yuv420p"
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.format.name == "yuvj420p") == (1 if name == "bt709" else 6, name == "full")
    raw = np.frombuffer(films.ffmpeg(path, "-f", "rawvideo", "-pix_fmt", pixels), np.uint8).reshape(24, -1)[5]
    y, cb, cr = np.split(raw.astype(float), [160 * 120, 160 * 120 * 5 // 4])
    cb, cr = (c.reshape(60, 80).repeat(2, 0).repeat(2, 1) for c in (cb, cr))
    expected = formula(y.reshape(120, 160), cb, cr, *KR_KB[name], name == "full")[10:58, 20:84]
    clip = frames_at(path, [5], size=SIZE, windows=lambda video: [Window(10, 20, *SIZE)], yuv=True)
    assert near(clip.yuv.rgb()[0, 0], expected, mean=0.01, most=1)  # a value between two whole ones may go either way


def test_pictures_are_stored_as_jpeg_stores_them():
    y, x = np.mgrid[:48, :64]
    waves = (128 + 110 * np.stack([np.sin(x / 25), np.sin(y / 19), np.sin((x + y) / 31)], -1)).astype(np.uint8)
    stored = uncoloured(torch.from_numpy(np.stack([waves, waves[:, ::-1]])))
    jpeg = np.asarray(Image.fromarray(waves).convert("YCbCr")).astype(float)
    assert np.abs(stored.luma[0].numpy() - jpeg[..., 0]).max() <= 1
    halves = jpeg[..., 1:].reshape(24, 2, 32, 2, 2).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(stored.chroma[0].numpy() - halves).max() <= 3
    assert near(stored.rgb()[0], waves, mean=2, most=12)
    assert near(stored.rgb()[1], waves[:, ::-1], mean=2, most=12)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("limits", [0, 1, 2])
def test_every_matrix_that_ffmpeg_knows_is_known(pixels, limits):
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((32, 32), (16, 16), (16, 16))]
    known = []
    for number in range(19):
        frame = av.VideoFrame.from_dlpack(planes, format=pixels)
        frame.colorspace, frame.color_range = number, limits
        try:
            theirs = frame.reformat(format="rgb24").to_ndarray()
        except av.FFmpegError:
            with pytest.raises(ValueError, match=f"its colour matrix has number {number}"):
                weights_of(frame)
            continue
        known.append(number)
        luma, *chroma = map(torch.from_numpy, planes)
        ours = Yuv(luma[None], torch.stack(chroma)[None], torch.from_numpy(weights_of(frame))[None])
        assert near(ours.rgb()[0], theirs)
    assert known == [0, 1, 2, 4, 5, 6, 7, 9]


def test_a_rare_matrix_is_refused_in_words(tmp_path):
    write(tmp_path / "plain.mp4", films.moving_square(4), 30)
    h264 = ("-c", "copy", "-bsf:v", "h264_metadata=matrix_coefficients=8")
    films.subprocess.run([films.FFMPEG, "-v", "fatal", "-i", "plain.mp4", *h264, "rare.mp4"], cwd=tmp_path, check=True)
    with pytest.raises(VideoError, match=r"its colour matrix is YCgCo.*Convert the file first"):
        frames_at(tmp_path / "rare.mp4", [1], size=(120, 160), windows=lambda video: [Window(0, 0, 120, 160)], yuv=True)


# ---------------------------------------------------------------------------- windows


TURNED = ("turned_90.mp4", "turned_180.mp4", "turned_270.mp4", "mirrored.mp4", "mirrored_90.mp4")


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "odd.webm", "h264_fields.mp4", "full.mp4", *TURNED])
def test_a_window_shows_what_it_shows_in_rgb(film, name):
    path, windows = film(name), [WINDOW, Window(0, 0, 118, 118), Window(4, 8, *SIZE)]
    ours = frames_at(path, [3, 0, 3], size=SIZE, windows=lambda video: windows, yuv=True)
    theirs = frames_at(path, [3, 0, 3], size=SIZE, windows=lambda video: windows)
    assert ours.frames.is_meta
    assert ours.frames.shape == theirs.frames.shape == (3, 3, *SIZE, 3)
    assert ours.yuv.luma.shape == (3, 3, *SIZE)
    assert ours.yuv.chroma.shape == (3, 3, 2, 24, 32)
    assert torch.equal(ours.seconds, theirs.seconds)
    assert near(ours.yuv.rgb(), theirs.frames)


@pytest.mark.parametrize(
    ("name", "window"),
    [("odd.mp4", WINDOW), ("h264.mp4", Window(11, 20, 60, 80)), ("turned_90.mp4", Window(10, 21, 60, 80))],
    ids=["colours for every pixel", "odd place", "odd place, turned"],
)
def test_what_cannot_be_cut_as_it_is_stored_goes_through_rgb(film, name, window):
    path = film(name)
    ours = frames_at(path, [1, 4], size=SIZE, windows=lambda video: [window], yuv=True)
    theirs = frames_at(path, [1, 4], size=SIZE, windows=lambda video: [window]).frames[0]
    grey = torch.tensor([0.299, 0.587, 0.114])
    assert (ours.yuv.luma[0].float() - theirs.float() @ grey).abs().max() <= 1
    halves = [
        clip.float().unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4)) for clip in (ours.yuv.rgb()[0], theirs)
    ]
    assert near(*halves, mean=6, most=80)  # colours are half as sharp, and some cannot be shown beside their brightness


def test_whole_frames_and_odd_edges_have_no_yuv(film):
    path = film("h264.mp4")
    clip = frames_at(path, [4], size=SIZE, windows=lambda video: None, yuv=True)
    assert clip.yuv is None
    assert torch.equal(clip.frames, frames_at(path, [4]).frames)
    for told in ({"size": SIZE}, {"size": (48, 63), "windows": lambda video: [WINDOW]}):
        with pytest.raises(ValueError, match="needs windows of frames in colour, and an even height and width, not"):
            frames_at(path, [4], yuv=True, **told)


# ---------------------------------------------------------------------------- clips and batches


def both(items, data, seed=5):
    return Dataset(items, replace(data, yuv=True), seed), Dataset(items, data, seed)


@pytest.mark.parametrize("motion", [None, Vectors(fallback="encode")], ids=str)
def test_clips_are_those_that_travel_as_rgb(film, tmp_path, motion):
    """Mirrored and cropped alike; the third has no vectors, the fourth is of images: both go through RGB."""
    y, x = np.mgrid[:120, :160]
    waves = 128 + 100 * np.stack([np.sin(x / 25), np.sin(y / 19), np.sin((x + y) / 31)], -1)
    smooth = np.stack([waves + 2 * t - 20 for t in range(12)]).clip(0, 255).astype(np.uint8)
    (tmp_path / "images").mkdir()
    for number, frame in enumerate(smooth):
        Image.fromarray(frame).save(tmp_path / "images" / f"{number:03}.png")
    write(tmp_path / "keys.mp4", smooth, 30, options={"g": "1"})
    paths = [film("h264.mp4"), film("bt709.mp4"), tmp_path / "keys.mp4", tmp_path / "images"]
    data = Data(Dense(4, stride=2), size=(32, 48), flip=0.5, repeats=3, clips=2, motion=motion)
    ours, theirs = both([Item(path) for path in paths], data)
    one, other = Batches(ours, 4)[0], Batches(theirs, 4)[0]
    shown = one.to(CPU)
    assert shown.yuv is None
    assert one.video.shape == shown.video.shape == other.video.shape == (24, 3, 4, 32, 48)
    assert one.video.is_meta
    assert shown.video.stride() == other.video.stride()  # channels last: quick to cut into cubes
    assert near(shown.video, other.video, mean=2.5, most=60)
    assert torch.equal(shown.ids, other.ids)
    assert one.paths == other.paths
    assert (one.motion is None) == (motion is None)
    if motion is not None:
        assert torch.equal(one.motion.to_next, other.motion.to_next)


def test_half_the_bytes_travel(film):
    ours, theirs = both([Item(film("h264.mp4"))] * 2, Data(Dense(4), size=SIZE))
    one, other = Batches(ours, 2)[0], Batches(theirs, 2)[0]
    sent = one.yuv.luma.nbytes + one.yuv.chroma.nbytes
    assert 2 * sent == other.video.nbytes == 2 * 3 * 4 * 48 * 64
    assert one.yuv.weights.nbytes == 2 * 4 * 48  # bytes a frame, whatever its size


def test_parts_of_a_batch_and_batches_made_larger_are_its_clips(film):
    dataset, _ = both([Item(film("h264.mp4")), Item(film("bt601.mp4"))], Data(Dense(4), size=SIZE, repeats=2))
    batch = Batches(dataset, 2)[0]
    whole = batch.to(CPU).video
    part = batch.clips(2, 4)
    assert part.paths == batch.paths[1:]
    assert torch.equal(part.to(CPU).video, whole[2:])
    more = repeated(batch, 3)
    assert more.video.shape[0] == 6
    assert torch.equal(more.to(CPU).video, whole[[0, 1, 2, 3, 0, 1]])


def test_workers_and_later_starts_give_the_same(film):
    dataset, _ = both(
        [Item(film(name)) for name in ("h264.mp4", "bt709.mp4", "full.mp4")], Data(Dense(4), size=SIZE, flip=0.5)
    )
    alone = [batch.to(CPU) for batch in batches(dataset, 2, 0, 4)]
    others = [batch.to(CPU) for batch in batches(dataset, 2, 1, 4, 2)]
    assert len(others) == 3
    for one, other in zip(alone[1:], others):
        assert torch.equal(one.video, other.video)
        assert one.paths == other.paths


@pytest.mark.parametrize("yuv", [False, True])
def test_a_worker_puts_clips_into_shared_memory_itself(film, yuv, monkeypatch):
    """So nothing is copied when they are sent: torch shares what lies there already as it is."""
    dataset = Dataset([Item(film("h264.mp4"))], Data(Dense(4), size=SIZE, yuv=yuv))
    here = Batches(dataset, 1)[0]
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker")
    there = Batches(dataset, 1)[0]
    if yuv:
        assert there.yuv.luma.is_shared()
        assert there.yuv.chroma.is_shared()
        assert not here.yuv.luma.is_shared()
    else:
        assert there.video.is_shared()
        assert not here.video.is_shared()
        assert there.video.stride() == here.video.stride()
    assert torch.equal(there.to(CPU).video, here.to(CPU).video)


def test_pinning_takes_every_tensor_of_a_batch(film, monkeypatch):
    """A stand-in for pinned memory, which takes a GPU: torch's loader asks the batch, and the batch its tensors."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor.clone())[1])
    data = Data(Dense(4), size=SIZE, motion=Vectors(fallback="none"))
    for dataset in both([Item(film("h264.mp4"))], data):
        batch = replace(Batches(dataset, 1)[0], labels=torch.zeros(1, 2))
        pinned.clear()
        again = torch.utils.data._utils.pin_memory.pin_memory(batch)
        tensors = [batch.ids, batch.labels]
        tensors += [getattr(batch.motion, name) for name in ("to_previous", "to_next", "had", "has")]
        tensors += [batch.yuv.luma, batch.yuv.chroma, batch.yuv.weights] if batch.yuv else [batch.video]
        assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors}
        assert torch.equal(again.to(CPU).video, batch.to(CPU).video)


def test_the_loader_is_told_to_pin(film, monkeypatch):
    told, made = [], loader.DataLoader.__init__

    def made_with(self, *args, pin_memory, **others):
        told.append(pin_memory)
        made(self, *args, **others)

    monkeypatch.setattr(loader.DataLoader, "__init__", made_with)
    dataset, _ = both([Item(film("h264.mp4"))], Data(Dense(4), size=SIZE))
    for pinned in (True, False):
        list(batches(dataset, 1, 0, 1, pinned=pinned))
    assert told == [True, False]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_runs_pin_for_cuda_only(film, tmp_path, monkeypatch, device):
    """Up to the point where batches are asked for; nothing is put on the GPU, which need not be there."""

    class AskedFor(Exception):
        pass

    def asked(*args, pinned, **others):
        raise AskedFor(pinned)

    monkeypatch.setattr(loop, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    monkeypatch.setattr(loop, "batches", asked)
    run = tiny(Data(Dense(4), size=(32, 32)))
    with pytest.raises(AskedFor) as told:
        train(run, film("h264.mp4"), tmp_path / "run", quiet=True)
    assert told.value.args == (device == "cuda",)


def test_pictures_among_videos_travel_too(film, tmp_path):
    for number in range(3):
        Image.fromarray(np.full((64, 64, 3), (200, 60 * number, 30), np.uint8)).save(tmp_path / f"{'abc'[number]}.png")
    images = Images(f"images:{tmp_path}", 0.5, 2, crop=CentreCrop())
    ours, theirs = both([Item(film("h264.mp4"))] * 2, Data(Dense(4), size=(32, 32), images=images))
    shapes = set()
    for step in range(4):
        one, other = Batches(ours, 2)[step], Batches(theirs, 2)[step]
        shapes.add(one.video.shape[2])
        assert one.video.shape == other.video.shape
        assert near(one.to(CPU).video, other.video, mean=1.5)
    assert shapes == {2, 4}


# ---------------------------------------------------------------------------- runs


def tiny(data: Data, **training) -> Run:
    settings = {"epochs": 3, "batch": 2, "workers": 0, "precision": "float32", "save_every": 1, "device": "cpu"}
    return Run(
        encoder=Encoder(width=24, depth=2, heads=2, hidden=48, patch=(2, 8, 8)),
        method=Masked(mask=Tube(0.75), target=Pixels("videomae"), decoder=Decoder(16, 1, 2)),
        data=data,
        optim=Optim(base_lr=0.05, warmup=1),
        training=Training(**(settings | training)),
    )


def test_a_run_learns_what_it_learns_from_rgb_and_resumes(film, tmp_path):
    for name in ("h264.mp4", "bt709.mp4", "full.mp4", "odd.mp4"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / name).symlink_to(film(name))
    data = Data(Dense(4, stride=2), size=(32, 32), crop=MultiScaleCrop(), flip=0.5)

    def losses(name, run, **more):
        return [line["loss"] for line in metrics(train(run, tmp_path / "videos", tmp_path / name, quiet=True, **more))]

    ours = losses("ours", tiny(replace(data, yuv=True), accumulate=2))
    assert ours == pytest.approx(losses("theirs", tiny(data)), rel=0.05)
    losses("stopped", tiny(replace(data, yuv=True), accumulate=2), limit=3)
    assert losses("stopped", tiny(replace(data, yuv=True), accumulate=2), resume=True) == ours


def test_read_ahead_takes_half():
    data = Data(Dense(4), size=(32, 32))
    assert 2 * batch_bytes(tiny(replace(data, yuv=True))) == batch_bytes(tiny(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (32, 33)}, r"--data\.size \(32, 33\) cannot be used with --data\.yuv.*use --data\.size 32 34"),
        ({"channels": 1}, r"--data\.yuv cannot be used with data\.channels 1, which has no colours to send; leave one"),
        ({"cache": 64}, r"data\.cache 64, which keeps frames in RGB"),
        ({"augment": RandAugment()}, r"data\.augment, which changes RGB"),
        ({"crop": Place()}, r"data\.crop Place.*, which scales whole frames first"),
        ({"motion": Flow()}, r"data\.motion Flow.*, which is made from whole frames in RGB"),
    ],
)
def test_what_needs_rgb_in_every_clip_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Dataset([Item(Path(__file__))], Data(Dense(4), yuv=True, **changes))
