"""Codec vectors against known motion, against another reader of them, and against loops written from the words."""

import subprocess
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path

import films
import numpy as np
import pytest
import torch
from av.codec.context import Flags2
from av.sidedata.sidedata import Type

from tubelet.data import video
from tubelet.data.synthetic import moving_square, pixels, shifted, texture
from tubelet.data.vectors import FAR, Vectors, chained, painted, turned
from tubelet.data.video import SUFFIXES, frames_at, probe, write
from tubelet.types import Motion

HERE = Path(__file__).parent
SINGLE = {"bf": "0", "refs": "1", "crf": "15", "g": "12", "sc_threshold": "0"}
LAYERED = {
    "bf": "3",
    "refs": "1",
    "crf": "15",
    "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0:keyint=16:min-keyint=16:open-gop=0",
}
FIELDS = ["source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"]


def square(tmp_path, velocity, frames=0, size=256, name="film.mp4", **how):
    """A file of a square of 64 pixels; its path, its frames, and the corners of the square (rows, columns)."""
    frames = frames or min(33, 1 + (size - 64 - 8) // max(map(abs, velocity)))
    drawn, corners = moving_square(velocity, frames, size, np.random.default_rng(0), 64)
    write(tmp_path / name, drawn, 25, **({"options": SINGLE} | how))
    return tmp_path / name, drawn, corners


def inside(corner, shape, margin=8, side=64, block=8):
    """Blocks that lie in the square at `corner`."""
    rows, columns = np.indices(shape) * block
    deep = side - margin - block
    return (
        (rows >= corner[0] + margin)
        & (rows <= corner[0] + deep)
        & (columns >= corner[1] + margin)
        & (columns <= corner[1] + deep)
    )


def errors(motion: Motion, corners, indices) -> tuple[float, float, float]:
    """Median pixels that the vectors in the square are off, to the frame before and after; and the share known."""
    found: dict[bool, list] = {False: [], True: []}
    known, asked = 0, 0
    for t, index in enumerate(indices):
        place = inside(corners[index], motion.had.shape[1:])
        for on, field, there in ((False, motion.to_previous, motion.had), (True, motion.to_next, motion.has)):
            other = t + (1 if on else -1)
            if not 0 <= other < len(indices):
                assert not there[t].any()
                continue
            true = (corners[indices[other]] - corners[index])[::-1]  # x then y
            here = place & there[t].numpy()
            known, asked = known + here.sum(), asked + place.sum()
            found[on].append(np.abs(field[:, t].numpy()[:, here] - true[:, None]).max(0))
    return *(float(np.median(np.concatenate(found[on]))) for on in (False, True)), known / asked


def watched(path, monkeypatch) -> list[int]:
    """Grows by the stamp of every frame of the file that is decoded from now on."""
    probe(path)  # which decodes one, too
    counted, fed = [], video.fed

    def counting(packets, codec, damage):
        for frame in fed(packets, codec, damage):
            counted.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "fed", counting)
    return counted


# ---------------------------------------------------------------------------- known motion


@pytest.mark.parametrize("velocity", [(0, 3), (2, -1), (-4, 5), (0, -12), (9, 9), (1, 0)])
def test_a_square_moves_as_it_was_drawn(tmp_path, velocity):
    path, drawn, corners = square(tmp_path, velocity)
    for stride in (1, 2, 4):
        indices = np.arange(0, len(drawn), stride)
        clip = frames_at(path, indices, vectors=True)
        motion = clip.motion
        assert motion.exact
        assert motion.block == 8
        back, on, known = errors(motion, corners, indices)
        assert back <= 0.25
        assert on <= 0.25
        # At stride 1 one frame in twelve is a key frame; where the stride is longer, it is bridged.
        assert known > (0.8 if stride == 1 else 0.85)
        assert torch.equal(clip.frames, frames_at(path, indices).frames)
        assert not motion.to_previous.movedim(0, 3)[~motion.had].any()
        assert not motion.to_next.movedim(0, 3)[~motion.has].any()


def test_nothing_asked_nothing_given(tmp_path, monkeypatch):
    """No work, and a decoder that is told nothing."""
    path, _drawn, _ = square(tmp_path, (0, 3))
    told, opened = [], video.opened

    @contextmanager
    def noted(path):
        with opened(path) as (container, stream):
            yield container, stream
            told.append(bool(stream.codec_context.flags2 & Flags2.export_mvs))

    def forbidden(*given):
        raise AssertionError

    probe(path)
    monkeypatch.setattr(video, "opened", noted)
    frames_at(path, [0, 4], vectors=True)
    monkeypatch.setattr(video, "Steps", forbidden)
    assert frames_at(path, [0, 4]).motion is None
    assert told == [True, False]
    with pytest.raises(AssertionError):
        frames_at(path, [0, 4], vectors=True)


def still_and_moving(kind: str, frames: int = 17, size: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Frames of one kind of motion, and the true step back of every pixel, "y x 2" (x then y), the same in each."""
    rng = np.random.default_rng(1)
    wall = texture(2 * size, 2.0, rng)
    rows, columns = np.indices((size, size))
    true = np.zeros((size, size, 2))
    if kind == "still":
        drawn = [wall[:size, :size]] * frames
    elif kind == "pan":  # the camera goes left and up, the picture right and down
        drawn = [shifted(wall, -2 * t, -5 * t, size) for t in range(frames)]
        true[:] = -5, -2
    elif kind == "opposite":  # two halves
        drawn = [np.where(rows[..., None] < 96, shifted(wall, 0, -4 * t, size), shifted(wall, 0, 4 * t, size))
                 for t in range(frames)]  # fmt: skip
        true[:96, :, 0], true[96:, :, 0] = -4, 4
    else:  # zoom: 3 % a frame from the middle
        drawn = []
        for t in range(frames):
            scale = 1.03**-t
            y, x = (((axis - size / 2) * scale + size / 2) for axis in (rows, columns))
            top, left = np.floor(y).astype(int), np.floor(x).astype(int)
            v, u = (y - top)[..., None], (x - left)[..., None]
            drawn.append((1 - v) * ((1 - u) * wall[top, left] + u * wall[top, left + 1])
                         + v * ((1 - u) * wall[top + 1, left] + u * wall[top + 1, left + 1]))  # fmt: skip
        true[..., 0], true[..., 1] = (axis * (1 / 1.03 - 1) for axis in (columns - size / 2, rows - size / 2))
    return pixels(0.5 + 0.2 * np.stack(drawn)), true


@pytest.mark.parametrize("kind", ["still", "pan", "opposite", "zoom"])
def test_scenes_move_as_they_were_drawn(tmp_path, kind):
    drawn, true = still_and_moving(kind)
    write(tmp_path / "film.mp4", drawn, 25, options=SINGLE | {"g": "100"})
    blocks = true.reshape(24, 8, 24, 8, 2).mean((1, 3))
    for stride in (1, 2):
        motion = frames_at(tmp_path / "film.mp4", range(0, 17, stride), vectors=True).motion
        assert motion.exact
        assert motion.had[1:].float().mean() > 0.9
        for field, known, sign in ((motion.to_previous, motion.had, 1), (motion.to_next, motion.has, -1)):
            off = np.abs(field.numpy() - sign * stride * np.moveaxis(blocks, 2, 0)[:, None]).max(0)[known.numpy()]
            assert np.median(off) <= (0.25 if kind != "zoom" else 0.5 * stride)
            assert np.mean(off < 1.5) > 0.9
    if kind == "zoom":  # outwards: what was nearer to the middle
        assert motion.to_previous[0, 1, :, :6][motion.had[1, :, :6]].mean() > 1
        assert motion.to_previous[1, 1, -6:][motion.had[1, -6:]].mean() < -1


def test_key_frames_are_missing_and_bridged(tmp_path):
    path, _, corners = square(tmp_path, (0, 3), 30)
    assert probe(path).keys.tolist() == [0, 12, 24]
    motion = frames_at(path, range(30), vectors=True).motion
    for key in (0, 12, 24):
        assert not motion.had[key].any()
        if key:
            assert not motion.has[key - 1].any()
    assert motion.had[[1, 11, 13]].float().mean() > 0.95
    for indices in ([10, 13, 16], [11, 13], [9, 12], [8, 11, 14]):  # before, in, at the end of and after a gap
        motion = frames_at(path, indices, vectors=True).motion
        back, on, known = errors(motion, corners, indices)
        assert max(back, on) <= 0.25
        assert known > 0.8
    assert not frames_at(path, [11, 12], vectors=True).motion.had.any()  # nothing to go by
    # A share of a gap: two key frames in a row, one step of three is left.
    write(tmp_path / "keys.mp4", video.frames_at(path, range(8)).frames, 25, options=SINGLE | {"g": "1"})
    assert not frames_at(tmp_path / "keys.mp4", [0, 4], vectors=True).motion.had.any()


def test_repeats_and_steps_back(tmp_path):
    path, _, _ = square(tmp_path, (0, 3), 30)
    motion = frames_at(path, [13, 16, 16, 14, 15], vectors=True).motion
    assert motion.had[2].all()  # the same frame did not move
    assert motion.has[1].all()
    assert not motion.to_previous[:, 2].any()
    assert not motion.had[3].any()  # frame 14 after frame 16
    assert not motion.has[2].any()
    assert motion.had[[1, 4]].float().mean() > 0.9
    one = frames_at(path, [5], vectors=True).motion
    assert one.had.shape == (1, 32, 32)
    assert not (one.had.any())
    assert not (one.has.any())


# ---------------------------------------------------------------------------- other streams


def test_frames_between_refer_to_both_sides(tmp_path):
    path, _drawn, corners = square(tmp_path, (1, 3), 33, options=LAYERED | {"bf": "2"})
    for stride in (1, 2, 3, 4):
        indices = np.arange(0, 33, stride)
        motion = frames_at(path, indices, vectors=True).motion
        back, on, known = errors(motion, corners, indices)
        assert max(back, on) <= 0.25
        assert known > 0.75
        assert motion.exact


def test_a_layered_stream_needs_only_its_lattice(tmp_path, monkeypatch):
    options = LAYERED | {"x264-params": LAYERED["x264-params"].replace("keyint=16", "keyint=100")}
    path, _drawn, corners = square(tmp_path, (1, 3), 33, options=options)
    counted = watched(path, monkeypatch)
    motion = frames_at(path, range(0, 17, 4), vectors=True).motion
    assert motion.exact
    assert len(counted) == 5  # each fourth: nothing but what was asked for
    assert max(errors(motion, corners, range(0, 17, 4))[:2]) <= 0.25
    off = list(range(1, 30, 4))  # beside the lattice: a share of the hop that leads too far
    motion = frames_at(path, off, vectors=True).motion
    back, on, known = errors(motion, corners, off)
    assert max(back, on) <= 0.25
    assert known > 0.75


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("mpeg4", "film.mp4", {"q": "3", "g": "12", "bf": "0"}),
        ("mpeg4", "film.avi", {"q": "3", "g": "12", "bf": "2"}),
        ("mpeg4", "film.mp4", {"q": "3", "g": "12", "bf": "2"}),
        ("mpeg2video", "film.mkv", {"q": "3", "g": "12", "bf": "0"}),
        ("mpeg2video", "film.ts", {"q": "3", "g": "12", "bf": "2"}),
        ("mpeg1video", "film.mpg", {"q": "3", "g": "12", "bf": "2"}),
    ],
)
def test_older_codecs(tmp_path, codec, name, options):
    path, _drawn, corners = square(
        tmp_path, (1, 2), 30, name=name, codec=codec, options=options | {"b": "4000000", "sc_threshold": "1000000000"}
    )
    for stride in (1, 2, 4):
        indices = np.arange(0, 30, stride)
        motion = frames_at(path, indices, vectors=True).motion
        assert motion.exact
        back, on, known = errors(motion, corners, indices)
        assert max(back, on) <= 0.25
        # Of MPEG-4 the frames between are missing: FFmpeg tells that nothing moves in them.
        assert known > (0.2 if codec == "mpeg4" and options["bf"] == "2" else 0.7)


@pytest.mark.parametrize("name", ["hevc.mp4", "vp9.webm", "mjpeg.avi"])
def test_codecs_without_vectors(tmp_path, name):
    drawn, _ = moving_square((1, 2), 24, 128, np.random.default_rng(0), 32)
    codec = {"hevc": "libx265", "vp9": "libvpx-vp9", "mjpeg": "mjpeg"}[name.split(".")[0]]
    kind = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    quiet = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    write(tmp_path / name, drawn, 25, codec=codec, pixels=kind, options=quiet)
    clip = frames_at(tmp_path / name, [0, 4, 4, 8], vectors=True)
    assert clip.motion.had.shape == clip.motion.has.shape == (4, 16, 16)
    assert not (clip.motion.had.any())
    assert not (clip.motion.has.any())
    assert not (clip.motion.to_previous.any())
    assert not (clip.motion.to_next.any())
    assert torch.equal(clip.frames, frames_at(tmp_path / name, [0, 4, 4, 8]).frames)


def test_folders_of_images(tmp_path):
    from PIL import Image

    for n in range(3):
        Image.new("RGB", (60, 44), (n, n, n)).save(tmp_path / f"{n}.png")
    motion = frames_at(tmp_path, [0, 1], vectors=True).motion
    assert motion.had.shape == (2, 6, 8)
    assert not motion.had.any()


@pytest.mark.parametrize(
    "options",
    [
        ["-display_rotation", "90"],
        ["-display_rotation", "180"],
        ["-display_rotation", "270"],
        ["-display_hflip"],
        ["-display_rotation", "90", "-display_hflip"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("cut", [(192, 256), (188, 250)], ids=["whole blocks", "parts of blocks"])
def test_turned_files(tmp_path, options, cut):
    drawn, corners = moving_square((2, 5), 20, 256, np.random.default_rng(0), 64)
    drawn, corners = drawn[:, 40 : 40 + cut[0], : cut[1]], corners - (40, 0)
    write(tmp_path / "film.mp4", drawn, 25, options=SINGLE)
    subprocess.run(
        [films.FFMPEG, "-v", "fatal", *options, "-i", "film.mp4", "-c", "copy", "turned.mp4"], cwd=tmp_path, check=True
    )
    # How numbered frames are turned says how corners are: no word of matrices.
    numbers = np.indices(cut)
    clip = frames_at(tmp_path / "turned.mp4", range(0, 20, 2), vectors=True)
    shown = min(
        (
            (np.abs(turn(drawn[0]).astype(int) - clip.frames[0].numpy()).mean(), name, turn)
            for name, turn in enumerate(
                [
                    lambda f, k=k, m=m: np.rot90(f[:, ::-1] if m else f, k, (0, 1))
                    for k in range(4)
                    for m in (False, True)
                ]
            )
            if turn(drawn[0]).shape == clip.frames.shape[1:]
        )
    )
    assert shown[0] < 12  # chroma; any other way it is some 40
    rows, columns = (shown[2](axis[..., None])[..., 0] for axis in numbers)
    motion, tested = clip.motion, 0
    assert motion.exact
    for t in range(1, 10):
        top, left = corners[2 * t]
        place = (rows >= top + 16) & (rows < top + 48) & (columns >= left + 16) & (columns < left + 48)
        was = (rows >= top - 4 + 16) & (rows < top - 4 + 48) & (columns >= left - 10 + 16) & (columns < left - 10 + 48)
        if place.sum() < 1024 or was.sum() < 1024:
            continue  # partly outside
        tested += 1
        true = np.argwhere(was).mean(0) - np.argwhere(place).mean(0)
        middle = np.argwhere(place).mean(0) // 8
        y, x = middle.astype(int)
        assert motion.had[t, y, x]
        assert motion.to_previous[:, t, y, x].tolist() == pytest.approx(true[::-1].tolist(), abs=0.25)
        my, mx = motion.had.shape[1:]
        here = place[: my * 8, : mx * 8]
        whole = np.zeros((my * 8, mx * 8), bool)
        whole[: here.shape[0], : here.shape[1]] = here
        full = whole.reshape(my, 8, mx, 8).all((1, 3)) & motion.had[t].numpy()
        assert full.sum() >= 9
        assert np.median(np.abs(motion.to_previous[:, t].numpy()[:, full] - true[::-1][:, None])) <= 0.25
    assert tested >= 3


@pytest.mark.parametrize("size", [(24, 40), (20, 34), (17, 39)])
@pytest.mark.parametrize("turns", list(product((False, True), repeat=3)), ids=str)
def test_turned_fields_are_those_of_turned_pixels(size, turns):
    """Whether rows and columns are swapped; then what is shown upside down, and mirrored."""
    rng = np.random.default_rng(0)
    stored = size[::-1] if turns[0] else size
    field = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    x, y, known = field.repeat(8, 2).repeat(8, 3)[:, :, : stored[0], : stored[1]].swapaxes(0, 1)  # each pixel
    if turns[0]:
        x, y, known = (plane.swapaxes(1, 2) for plane in (y, x, known))
    if turns[1]:
        x, y, known = x[:, ::-1], -y[:, ::-1], known[:, ::-1]
    if turns[2]:
        x, y, known = -x[:, :, ::-1], y[:, :, ::-1], known[:, :, ::-1]
    got = turned(field, *size, turns)
    assert got.shape == (2, 3, -(-size[0] // 8), -(-size[1] // 8))
    for j, i in np.ndindex(got.shape[2:]):
        row, column = ((8 * n + min(8 * n + 8, side) - 1) // 2 for n, side in zip((j, i), size))
        for plane, shown in enumerate((x, y, known)):
            assert np.array_equal(got[:, plane, j, i], shown[:, row, column])


def test_what_is_shown_after_the_clip_counts(tmp_path):
    """Blocks of a frame between that only say where they will be, in a frame that nobody asked for."""
    path, _, _ = square(tmp_path, (1, 3), 17, options=LAYERED)
    long = frames_at(path, range(9), vectors=True).motion
    for start in (0, 1, 4, 5):
        short = frames_at(path, [start, start + 1], vectors=True).motion
        assert torch.equal(short.had[1], long.had[start + 1])
        assert torch.equal(short.to_previous[:, 1], long.to_previous[:, start + 1])


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({"bf": "0", "refs": "1"}, True),
        ({"bf": "0", "refs": "3"}, False),
        ({"bf": "2", "refs": "1", "x264-params": "b-pyramid=none"}, True),
        ({"bf": "5", "refs": "1", "x264-params": "b-pyramid=normal:b-adapt=0"}, False),
        ({"bf": "0", "refs": "1", "flags": "+ilme+ildct", "x264-params": "tff=1"}, False),
    ],
)
def test_what_may_lead_elsewhere_is_not_exact(tmp_path, options, exact):
    path, _, _ = square(tmp_path, (1, 3), 20, options=options)
    motion = frames_at(path, range(20), vectors=True).motion
    assert motion.exact == exact
    assert motion.had[1:].float().mean() > 0.5


def test_size_scales_the_vectors(tmp_path):
    path, _drawn, corners = square(tmp_path, (0, 8), 20)
    indices = np.arange(0, 20, 2)
    motion = frames_at(path, indices, size=128, vectors=True).motion
    assert motion.had.shape == (10, 16, 16)
    place = inside(corners[4] // 2, (16, 16), 8, 32)
    assert place.any()
    assert np.median(motion.to_previous[0, 2].numpy()[place]) == pytest.approx(-8, abs=0.25)
    assert np.median(motion.to_next[0, 2].numpy()[place]) == pytest.approx(8, abs=0.25)


def test_far_apart_is_not_known_and_not_decoded(tmp_path, monkeypatch):
    path, _, _ = square(tmp_path, (1, 1), 150, options=SINGLE | {"preset": "ultrafast"})
    counted = watched(path, monkeypatch)
    motion = frames_at(path, [0, FAR + 1, 2 * FAR], vectors=True).motion
    assert not motion.had[1].any()
    assert motion.had[2].float().mean() > 0.5
    assert len(counted) < FAR + 20
    counted.clear()
    frames_at(path, [100, 2], vectors=True)
    assert len(counted) < 20
    past, known = np.ones((FAR + 2, 2, 1, 1), np.float32), np.ones((FAR + 2, 1, 1), bool)
    had = chained(past, known, np.ones(FAR + 2, int), np.array([0, FAR + 1, 1, FAR + 1])).had
    assert had.flatten().tolist() == [False, False, False, True]


def test_damage_is_survived(tmp_path):
    path, _drawn, _ = square(tmp_path, (0, 3), 30)
    data = bytearray(path.read_bytes())
    packets = places(path)
    for place, size in packets[5:28:5]:
        data[place + size // 2] ^= 255
    data[packets[8][0]] ^= 255  # a length: this packet is lost
    path.write_bytes(data)
    plain, clip = frames_at(path, range(30)), frames_at(path, range(30), vectors=True)
    assert torch.equal(plain.frames, clip.frames)
    assert plain.damaged == clip.damaged > 0
    assert torch.isfinite(clip.motion.to_previous).all()
    assert clip.motion.had[1:5].float().mean() > 0.9


def places(path) -> list[tuple[int, int]]:
    """Where in the file each packet begins, and how long it is."""
    with video.opened(path) as (container, stream):
        return [(packet.pos, packet.size) for packet in video.demuxed(container, stream)]


def right(motion: Motion, n: int, corner, step=(-3, 0)) -> bool:
    """Whether the square of frame n of the clip was where it truly was."""
    place = inside(corner, (32, 32)) & motion.had[n].numpy()
    off = motion.to_previous[:, n].numpy()[:, place] - np.reshape(step, (2, 1))
    return place.sum() > 10 and np.median(np.abs(off).max(0)) <= 0.25


def test_lost_and_corrupt_frames_are_missing_and_the_rest_is_right(tmp_path):
    path, _, corners = square(tmp_path, (0, 3), 36)
    data, packets, rng = bytearray(path.read_bytes()), places(path), np.random.default_rng(0)
    data[packets[5][0]] ^= 255  # a length: this packet is lost
    place, size = packets[17]
    data[place + size // 2 : place + size] = rng.bytes(size - size // 2)
    path.write_bytes(data)
    clip = frames_at(path, range(36), vectors=True)
    assert clip.damaged == 2
    for t in range(36):
        missing = t in (0, 12, 24, 5, 17)  # key frames; lost; corrupt
        assert clip.motion.had[t].any() != missing
        assert clip.motion.has[t - 1].any() != missing  # -1 is the last, which has none
        assert missing or right(clip.motion, t, corners[t])
    for indices in ([3, 6, 9], [4, 6, 8], [15, 18, 21], [14, 19]):  # bridged
        motion = frames_at(path, indices, vectors=True).motion
        assert all(right(motion, n, corners[t], (-3 * (t - indices[n - 1]), 0)) for n, t in enumerate(indices) if n)
    for indices, known in (([4, 5], [0, 0]), ([4, 5, 6, 7], [0, 0, 1, 1]), ([16, 17, 18], [0, 0, 1])):
        motion = frames_at(path, indices, vectors=True).motion
        assert motion.had.any((1, 2)).tolist() == known


@pytest.mark.parametrize(("lost", "between"), [(12, "0"), (12, "2"), (5, "0")], ids=["key", "key, B-frames", "other"])
def test_lost_frames_of_mpeg4(tmp_path, lost, between):
    """It decodes on, over grey where it was a key frame. What refers to that is missing or right, never a share."""
    path, _, corners = square(
        tmp_path, (0, 3), 33, codec="mpeg4", options={"q": "3", "b": "4000000", "g": "12", "bf": between}
    )
    data, stamps = bytearray(path.read_bytes()), probe(path).stamps.tolist()
    with video.opened(path) as (container, stream):
        [packet] = [packet for packet in video.demuxed(container, stream) if packet.pts == stamps[lost]]
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    for start in (lost, lost + 1) if lost == 12 else (lost - 1, lost):
        motion = frames_at(path, range(start, start + 9), vectors=True).motion
        known = motion.had.any((1, 2)).tolist()
        assert sum(known) >= (6 if between == "0" else 1)  # of B-frames nothing is told
        assert not any(known[: lost - start + 1])
        assert all(right(motion, n, corners[start + n]) for n in range(9) if known[n])


@pytest.mark.parametrize("fields", [False, True], ids=["whole frames", "two moments in a frame"])
def test_interlaced_mpeg2_is_not_exact(tmp_path, fields):
    """FFmpeg does not say to which of two fields vectors lead: those that lead to the other one are half as long."""
    drawn, corners = moving_square((1, 2), 30, 256, np.random.default_rng(0), 64)
    write(tmp_path / "drawn.mkv", drawn, 25, codec="ffv1", pixels="bgr0")
    weave, step = (["-vf", "interlace=scan=tff:lowpass=0"], 2) if fields else ([], 1)
    interlaced = ["-pix_fmt", "yuv420p", "-c:v", "mpeg2video", "-q:v", "3", "-g", "12", "-flags", "+ildct+ilme"]
    command = [films.FFMPEG, "-v", "error", "-i", tmp_path / "drawn.mkv", *weave, *interlaced, tmp_path / "film.mpg"]
    subprocess.run(command, check=True)
    motion = frames_at(tmp_path / "film.mpg", range(30 // step), vectors=True).motion
    assert not motion.exact
    off = []
    for t in range(1, 30 // step):
        place = inside(corners[step * t], (32, 32)) & motion.had[t].numpy()
        off.append(np.abs(motion.to_previous[:, t].numpy()[:, place] - [[-2 * step], [-step]]).max(0))
    assert np.median(np.concatenate(off)) <= 0.25
    assert np.quantile(np.concatenate(off), 0.9) <= step


# ---------------------------------------------------------------------------- the path through a clip


def slowly(past, known, hop, indices, block):
    """`chained`, one block at a time."""
    _, _, my, mx = past.shape
    t = len(indices)
    there, had = np.zeros((2, t, my, mx)), np.zeros((t, my, mx), bool)
    back, has, nearest = np.zeros((2, t, my, mx)), np.zeros((t, my, mx), bool), np.full((t, my, mx), np.inf)
    for n in range(1, t):
        gap = indices[n] - indices[n - 1]
        for j in range(my):
            for i in range(mx):
                if gap < 0:
                    continue
                start = np.array([(i + 0.5) * block, (j + 0.5) * block])
                at, frame, total, covered = start.copy(), indices[n], np.zeros(2), 0
                while frame > indices[n - 1]:
                    x, y = (min(max(int(np.floor(at[k] / block)), 0), (mx, my)[k] - 1) for k in (0, 1))
                    share = min(hop[frame], frame - indices[n - 1])
                    if known[frame, y, x]:
                        step = past[frame, :, y, x] * share / hop[frame]
                        total, covered = total + step, covered + share
                    else:
                        step = total / covered * share if covered else np.zeros(2)
                    at, frame = at + step, frame - share
                if 2 * covered < gap:
                    continue
                had[n, j, i] = True
                there[:, n, j, i] = total * (gap / covered if covered else 0)
                end = start + there[:, n, j, i]
                x, y = (int(np.floor(end[k] / block)) for k in (0, 1))
                if not (0 <= x < mx and 0 <= y < my):
                    continue
                distance = ((end - [(x + 0.5) * block, (y + 0.5) * block]) ** 2).sum()
                if distance <= nearest[n - 1, y, x]:
                    nearest[n - 1, y, x], has[n - 1, y, x] = distance, True
                    back[:, n - 1, y, x] = -there[:, n, j, i]
    return there, back, had, has


@pytest.mark.parametrize("seed", range(12))
def test_paths_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    rows, my, mx, block = 14, 5, 7, (8, 16)[seed % 2]
    # Pixels in odd parts, so that no two paths end equally far from a middle.
    past = rng.normal(0, 7, (rows, 2, my, mx)).astype(np.float32)
    known = rng.random((rows, my, mx)) < (0.4, 0.8, 1.0)[seed % 3]
    known[rng.integers(rows)] = False
    past *= known[:, None]
    hop = rng.integers(1, (2, 5)[seed // 6], rows)
    indices = np.sort(rng.integers(0, rows, 6))
    if seed % 4 == 3:
        indices = rng.permutation(indices)
    motion = chained(past, known, hop, indices, block=block)
    expected = slowly(past.astype(np.float64), known, hop, indices, block)
    for got, want in zip((motion.to_previous, motion.to_next, motion.had, motion.has), expected):
        assert got.shape == want.shape
        if got.dtype == torch.bool:
            assert np.array_equal(got.numpy(), want)
        else:
            assert np.abs(got.numpy() - want).max() < 1e-3


def test_lost_rows_are_bridged():
    past, known = np.full((5, 2, 2, 3), -2, np.float32), np.ones((5, 2, 3), bool)
    frames = np.array([0, 1, 3, 4, 5])  # frame 2 was lost
    motion = chained(past, known, np.ones(5, int), np.array([0, 5]), frames=frames)
    assert motion.had[1].all()
    assert torch.allclose(motion.to_previous[:, 1], torch.tensor(-10.0))
    motion = chained(past, known, np.ones(5, int), np.array([1, 3]), frames=frames)
    assert torch.allclose(motion.to_previous[:, 1], torch.tensor(-4.0))


def test_blocks_outside_the_picture_are_left_out():
    with video.opened(HERE / "vectors.mp4") as (container, stream):
        stream.codec_context.options = {"flags2": "+export_mvs"}
        told = (
            [f.side_data.get(Type.MOTION_VECTORS) for f in islice(container.decode(stream), 3)][2].to_ndarray().copy()
        )
    fine, future = painted([told.tobytes(), None], told.dtype, 96, 96)
    assert future is None
    assert not fine[1].any()
    assert fine[0, 2].any()
    for name, value in (("dst_x", 30000), ("dst_y", 30000), ("dst_x", -40), ("dst_y", -40)):
        lost = told.copy()
        lost[name][0] = value
        wrong, _ = painted([None, lost.tobytes()], told.dtype, 96, 96)
        without, _ = painted([None, told[1:].tobytes()], told.dtype, 96, 96)
        assert np.array_equal(wrong, without)


def test_settings_are_checked():
    assert Vectors().fallback == "flow"
    with pytest.raises(ValueError, match="a block of 0 pixels"):
        Vectors(block=0)


# ---------------------------------------------------------------------------- another reader


def raw(path: Path, most: int = 120) -> list[np.ndarray]:
    """FFmpeg's list of vectors of each of the first frames as we read it, with a row for each."""
    found = []
    with video.opened(path) as (container, stream):
        stream.codec_context.options = {"flags2": "+export_mvs"}
        for frame in islice(container.decode(stream), most):
            told = frame.side_data.get(Type.MOTION_VECTORS)
            rows = np.zeros((0, 10), int) if told is None else np.stack([told.to_ndarray()[n] for n in FIELDS], 1)
            found.append(rows.astype(np.int64))
    return found


def test_the_same_vectors_as_another_reader():
    """`vectors.npz` is what motion-vector-extractor 2.0.0 says of `vectors.mp4`, a square made here, with B-frames."""
    with np.load(HERE / "vectors.npz") as told:
        theirs, kinds = np.split(told["rows"].astype(np.int64), np.cumsum(told["counts"])[:-1]), told["kinds"].tolist()
    ours = raw(HERE / "vectors.mp4")
    assert len(ours) == len(theirs)
    assert sum(map(len, ours)) > 500
    for a, b in zip(ours, theirs):
        assert np.array_equal(a, b)
    # And what we make of it: the vectors of each block that has one, painted here by a loop.
    motion = frames_at(HERE / "vectors.mp4", range(len(ours)), vectors=True).motion
    references = [n for n, kind in enumerate(kinds) if kind in "IP"]
    for n, rows in enumerate(theirs[1:], 1):
        hop = n - max(r for r in references if r < n)
        painted = {}
        for source, w, h, _, _, x, y, dx, dy, scale in rows.tolist():
            for j in range((y - h // 2) // 8, (y + h // 2) // 8):
                for i in range((x - w // 2) // 8, (x + w // 2) // 8):
                    painted.setdefault((j, i), {})[source] = (dx / scale, dy / scale)
        for (j, i), sides in painted.items():
            if j < motion.had.shape[1] and i < motion.had.shape[2] and -1 in sides:
                assert motion.had[n, j, i]
                got = motion.to_previous[:, n, j, i].numpy()
                assert np.allclose(got, np.array(sides[-1]) / hop, atol=1e-5)


def test_frames_are_those_before_moved_by_the_vectors(tmp_path):
    """Frames of ffmpeg's command line: at this quality an encoder adds hardly anything to what it moves."""
    params = "bframes=0:ref=1:scenecut=0:no-deblock=1:subme=0:weightp=0:ipratio=16"  # whole pixels; a fine key frame
    path, _, _ = square(tmp_path, (-4, 5), 24, options={"qp": "51", "g": "100", "x264-params": params})
    motion = frames_at(path, range(24), vectors=True).motion
    shown = films.pictures(path, 256, 256, "gray")[..., 0]
    rows, columns = np.indices((256, 256))
    same: dict[bool, list] = {False: [], True: []}
    for t in range(1, 24):
        right, down = motion.to_previous[:, t].numpy().astype(int).repeat(8, 1).repeat(8, 2)
        moved = shown[t - 1][(rows + down).clip(0, 255), (columns + right).clip(0, 255)]
        blocks = (motion.had[t] & motion.to_previous[:, t].any(0)).numpy()
        for after, before in ((True, moved), (False, shown[t - 1])):
            same[after].append((before == shown[t]).reshape(32, 8, 32, 8).all((1, 3))[blocks])
    assert len(np.concatenate(same[True])) > 500
    assert np.concatenate(same[True]).mean() > 0.95  # to the bit
    assert np.concatenate(same[False]).mean() < 0.1


def test_the_same_vectors_as_another_reader_on_filmed_videos(real):
    try:
        from mvextractor.videocap import VideoCap
    except Exception as error:
        pytest.skip(f"no motion-vector-extractor: {error}")
    paths = sorted(p for p in (real / "everyday").iterdir() if p.suffix in SUFFIXES and probe(p).codec == "h264")
    assert paths
    for path in paths:
        ours, reader, equal, count = raw(path), VideoCap(), 0, 0
        reader.open(str(path))
        for rows in ours:
            got, _, theirs, kind = reader.read()
            if not got:
                break  # it does not flush its decoder
            count += 1
            same = np.array_equal(rows, theirs) or len(rows) == len(theirs) == 0
            equal += same
            assert same or kind == "B", path
        reader.release()
        assert count >= len(ours) - 4, path
        # It decodes on several threads, which spoils a few B-frames, other ones each time.
        assert equal >= 0.95 * count, path


# ---------------------------------------------------------------------------- streams that change or are cut


@pytest.mark.parametrize("sizes", [(256, 128), (128, 256)])
def test_vectors_of_another_size_than_the_video_are_missing(tmp_path, sizes):
    parts = []
    for number, size in enumerate(sizes):
        drawn = moving_square((0, 3), 20, 256, np.random.default_rng(number), 64)[0]
        path = tmp_path / f"{number}.ts"
        write(path, np.ascontiguousarray(drawn[:, :: 256 // size, :: 256 // size]), 25, options=SINGLE)
        parts.append(path.read_bytes())
    (tmp_path / "film.ts").write_bytes(b"".join(parts))
    total = probe(tmp_path / "film.ts").frames
    early = frames_at(tmp_path / "film.ts", range(1, 9), vectors=True)
    late = frames_at(tmp_path / "film.ts", range(total - 8, total), vectors=True)
    assert early.motion is not None
    assert late.motion is not None
    assert early.motion.had[1:].float().mean() > 0.9
    assert not late.motion.had.any()
    assert late.motion.had.shape[1:] == early.motion.had.shape[1:] == (sizes[0] // 8,) * 2


def test_vectors_of_a_picture_cut_at_its_top_are_missing(tmp_path):
    """FFmpeg tells of places in the coded picture, of which only a part is shown."""
    path, _, _ = square(tmp_path, (0, 3))
    command = [films.FFMPEG, "-v", "error", "-i", path, "-c", "copy", "-bsf:v", "h264_metadata=crop_top=64"]
    subprocess.run([*command, tmp_path / "cut.mp4"], check=True)
    clip = frames_at(tmp_path / "cut.mp4", range(8), vectors=True)
    assert clip.frames.shape[1] == 192
    assert not clip.motion.had.any()
    command[-1] = "h264_metadata=crop_bottom=64"  # what is cut there moves nothing
    subprocess.run([*command, tmp_path / "below.mp4"], check=True)
    assert frames_at(tmp_path / "below.mp4", range(8), vectors=True).motion.had[1:].any()


def test_new_content_in_an_old_place_is_missing_not_zero(tmp_path):
    """Intra blocks of a P-frame: noise that was nowhere before, in the left half."""
    rng = np.random.default_rng(0)
    ground = pixels(0.5 + 0.2 * texture(128, 2.0, rng))
    drawn = np.repeat(ground[None], 8, 0)
    drawn[4:, :, :64] = rng.integers(0, 256, (128, 64, 3), dtype=np.uint8)
    write(tmp_path / "film.mp4", drawn, 25, options=SINGLE)
    motion = frames_at(tmp_path / "film.mp4", range(8), vectors=True).motion
    assert not motion.had[4, :, :7].any()
    assert motion.had[4, :, 9:].all()
    assert motion.had[[1, 2, 3, 5, 6, 7]].all()


def test_one_frame_repeated_does_not_move(tmp_path):
    path, _, _ = square(tmp_path, (0, 3), 12)
    motion = frames_at(path, [5, 5, 5], vectors=True).motion
    assert motion.had.flatten(1).all(1).tolist() == [False, True, True]
    assert motion.has.flatten(1).all(1).tolist() == [True, True, False]
    assert not motion.to_previous.any()


@pytest.mark.parametrize("block", [0, -1])
def test_impossible_blocks_are_named(tmp_path, block):
    path, _, _ = square(tmp_path, (0, 3), 4)
    with pytest.raises(ValueError, match=f"blocks of {block} pixels cannot be told"):
        frames_at(path, [0, 1], vectors=True, block=block)
