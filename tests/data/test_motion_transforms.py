"""Motion on its way through crop, resize and flip: against pixels, and against the frames that go the same way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data.transforms import (
    CentreCrop,
    MultiScaleCrop,
    Place,
    RandomResizedCrop,
    Window,
    carried,
    flipped,
    resized,
)
from tubelet.types import Motion


def field(
    height: int, width: int, block: int, frames: int = 2, share: float = 0.7, seed: int = 0, lead: tuple[int, ...] = ()
) -> Motion:
    """Random vectors on a random part of the blocks; the others hold what must not be read."""
    rng = np.random.default_rng(seed)
    shape = (*lead, 2, frames, -(-height // block), -(-width // block))
    known = [torch.from_numpy(rng.random((*lead, *shape[-3:])) < share) for _ in range(2)]
    vectors = [torch.from_numpy(rng.normal(0, 5, shape).astype(np.float32)) for _ in range(2)]
    return Motion(vectors[0], vectors[1], known[0], known[1], block)


def painted(blocks: np.ndarray, block: int, edges: tuple[int, int]) -> np.ndarray:
    """The value of every pixel, of those of its block."""
    return blocks.repeat(block, 0).repeat(block, 1)[: edges[0], : edges[1]]


def by_pixels(
    vectors: np.ndarray, known: np.ndarray, old: int, frame, window, size, block: int, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What `carried` says it does, for one frame: on pixels so small that every border lies between two of them."""
    top, left, height, width = window
    tall, wide = size
    planes = [painted(plane, old, frame)[top : top + height, left : left + width] for plane in (known, *vectors)]
    planes = [plane.repeat(tall, 0).repeat(wide, 1)[:, :: -1 if flip else 1] for plane in planes]
    rows, columns = -(-tall // block), -(-wide // block)
    out, there = np.zeros((2, rows, columns)), np.zeros((rows, columns), bool)
    for i in range(rows):
        for j in range(columns):
            place = np.s_[i * block * height : (i + 1) * block * height, j * block * width : (j + 1) * block * width]
            mask = planes[0][place]
            if 2 * mask.sum() >= mask.size:
                there[i, j] = True
                out[0, i, j] = planes[1][place][mask].mean() * wide / width * (-1 if flip else 1)
                out[1, i, j] = planes[2][place][mask].mean() * tall / height
    return out, there


@settings(max_examples=40)
@given(st.data())
def test_every_block_is_the_mean_of_what_was_there(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    frame = draw(5, 40), draw(5, 40)
    height, width = draw(3, frame[0]), draw(3, frame[1])
    window = Window(draw(0, frame[0] - height), draw(0, frame[1] - width), height, width)
    size, old, block, flip = (draw(3, 20), draw(3, 20)), draw(1, 9), draw(1, 9), data.draw(st.booleans())
    motion = field(*frame, old, seed=draw(0, 99))
    found = carried(motion, frame, window, size, block, flip)
    assert found.block == block
    for t in range(2):
        for vectors, known, there, mask in (
            (motion.to_previous, motion.had, found.to_previous, found.had),
            (motion.to_next, motion.has, found.to_next, found.has),
        ):
            expected = by_pixels(vectors[:, t].numpy(), known[t].numpy(), old, frame, window, size, block, flip)
            np.testing.assert_array_equal(mask[t].numpy(), expected[1])
            np.testing.assert_allclose(there[:, t].numpy(), expected[0], atol=1e-3)


def square_at(row: int, column: int, frame: tuple[int, int]) -> np.ndarray:
    """A white square of 48 pixels on black."""
    image = np.zeros((*frame, 3), np.uint8)
    image[row : row + 48, column : column + 48] = 255
    return image


def centre(image: torch.Tensor) -> np.ndarray:
    """(x, y) of the middle of what is white, in pixels and parts of them."""
    light = image[..., 0].numpy().astype(float)
    y, x = np.indices(light.shape)
    return np.array([np.average(x, weights=light), np.average(y, weights=light)])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(96, 96), (200, 120)], ids=str)
@pytest.mark.parametrize(
    "crop", [CentreCrop(), Place(0, 1), Place(1, 3), MultiScaleCrop((1.0, 0.9)), RandomResizedCrop((0.7, 0.9))], ids=str
)
def test_vectors_lead_from_where_a_square_is_to_where_it_will_be(crop, size, flip):
    """Against the frames themselves, in which the square is measured after the crop."""
    frame, places = (130, 170), [(40, 66), (43, 59), (46, 52)]
    frames = torch.from_numpy(np.stack([square_at(*place, frame) for place in places]))
    inside = frames[:, ::5, ::5, 0] > 0  # on blocks of 5 pixels, of which a part is the square's by half
    vectors = torch.zeros(2, 3, 26, 34)
    vectors[0], vectors[1] = 7.0 * inside, -3.0 * inside
    known = torch.ones(3, 26, 34, dtype=torch.bool)
    motion = Motion(vectors, -vectors, known, known, 5)
    seen = 0
    for seed in range(4):
        view, window = crop.cut(frames, size, np.random.default_rng(seed))
        assert torch.equal(view, crop(frames, size, np.random.default_rng(seed)))
        view = flipped(view) if flip else view
        found = carried(motion, frame, window, size, 4, flip)
        for t in range(3):
            whole = (view[t, ..., 0] > 250).numpy().reshape(size[0] // 4, 4, size[1] // 4, 4).all((1, 3))
            for other, field in ((t - 1, found.to_previous), (t + 1, found.to_next)):
                if 0 <= other < 3 and uncut(view[t]) and uncut(view[other]):
                    expected = centre(view[other]) - centre(view[t])
                    np.testing.assert_allclose(np.median(field[:, t].numpy()[:, whole], 1), expected, atol=0.15)
                    assert abs(expected[0]) > 3
                    seen += 1
    assert seen >= 4


def uncut(image: torch.Tensor) -> bool:
    """Whether there is something white and it does not touch the border."""
    return bool(image.any()) and not any(side.any() for side in (image[0], image[-1], image[:, 0], image[:, -1]))


def test_a_mirror_in_numbers():
    """Ten pixels in blocks of 4: the last has 2. After the flip the first block has those and 2 of the one before."""
    vectors = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])[:, None, None]
    motion = Motion(vectors, vectors, *[torch.ones(1, 1, 3, dtype=torch.bool)] * 2, 4)
    mirror = carried(motion, (4, 10), Window(0, 0, 4, 10), (4, 10), 4, flip=True)
    assert mirror.to_next[0].flatten().tolist() == [-3.0, -1.5, -1.0]
    assert mirror.to_next[1].flatten().tolist() == [30.0, 15.0, 10.0]
    even = field(16, 24, 8)
    twice = carried(
        carried(even, (16, 24), (0, 0, 16, 24), (16, 24), 8, True), (16, 24), (0, 0, 16, 24), (16, 24), 8, True
    )
    assert torch.equal(twice.to_next, even.to_next.where(even.has, 0))
    assert torch.equal(twice.had, even.had)


def test_missing_is_not_zero():
    """A block counts if half of it is known, and what is not known does not pull its mean down."""
    motion = Motion(
        torch.tensor([[6.0, 99.0, 99.0, 99.0], [2.0, 99.0, 99.0, 99.0]]).view(2, 1, 1, 4),
        torch.zeros(2, 1, 1, 4),
        torch.tensor([True, False, False, False]).view(1, 1, 4),
        torch.zeros(1, 1, 4, dtype=torch.bool),
        4,
    )
    found = carried(motion, (4, 16), Window(0, 0, 4, 16), (4, 16), 8)
    assert found.had.tolist() == [[[True, False]]]
    assert found.to_previous.flatten().tolist() == [6.0, 0.0, 2.0, 0.0]
    assert not found.has.any()
    less = carried(motion, (4, 16), Window(0, 1, 4, 8), (4, 8), 8)  # 3 of 8 pixels
    assert not less.had.any()


def test_leading_axes_and_the_whole_frame():
    motion = field(30, 50, 8, lead=(3,))
    assert carried(motion, (30, 50), Window(0, 0, 30, 50), (30, 50), 8) is motion
    window, size = Window(3, 4, 20, 30), (24, 24)
    found = carried(motion, (30, 50), window, size, 8, True)
    for clip in range(3):
        alone = carried(motion.each(lambda tensor, clip=clip: tensor[clip]), (30, 50), window, size, 8, True)
        for name in ("to_previous", "to_next", "had", "has"):
            torch.testing.assert_close(getattr(found, name)[clip], getattr(alone, name))
    assert (
        carried(
            Motion(*[getattr(motion, name) for name in ("to_previous", "to_next", "had", "has")], 8, False),
            (30, 50),
            window,
            size,
            8,
        ).exact
        is False
    )


def test_what_is_cut_is_what_is_shown():
    """The region that `cut` names, cut again."""
    frames = torch.randint(0, 256, (1, 60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for crop in (CentreCrop(), MultiScaleCrop(), RandomResizedCrop()):
        view, region = crop.cut(frames, (32, 32), np.random.default_rng(1))
        assert torch.equal(view, resized(frames, Window(*region), (32, 32)))
    assert Place(1, 2).cut(frames, (30, 30), None)[1] == (0, 20, 60, 60)
