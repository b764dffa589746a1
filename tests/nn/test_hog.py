"""Histograms of gradients against a loop written from the operator, and scikit-image's where both mean the same."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.feature import hog as theirs

from tubelet.nn.hog import hog, strokes


def loop(picture: np.ndarray, bins: int, cell: int) -> np.ndarray:
    """One channel, pixel by pixel, in float64."""
    height, width = picture.shape
    votes = np.zeros((bins, height // cell, width // cell))

    def at(row: int, column: int) -> float:  # reflected: -1 is 1, height is height - 2
        row, column = (abs(i) if i < size else 2 * size - 2 - i for i, size in ((row, height), (column, width)))
        return picture[row, column]

    for i in range(height):
        for j in range(width):
            gx = sum(k * (at(i + d, j - 1) - at(i + d, j + 1)) for d, k in ((-1, 1), (0, 2), (1, 1)))
            gy = sum(k * (at(i - 1, j + d) - at(i + 1, j + d)) for d, k in ((-1, 1), (0, 2), (1, 1)))
            bin_ = math.floor(math.atan2(gx, gy) / math.pi * bins) % bins
            votes[bin_, i // cell, j // cell] += math.sqrt(gx * gx + gy * gy)
    length = np.sqrt((votes**2).sum(0))
    return votes / np.where(length > 0, length, 1)


@pytest.mark.parametrize(("bins", "cell"), [(9, 8), (9, 4), (5, 8), (7, 2)])
def test_histograms_equal_the_loop(bins, cell):
    pictures = torch.randint(0, 256, (2, 3, 16, 24), generator=torch.Generator().manual_seed(bins)).float()
    ours = hog(pictures, bins, cell).numpy()
    assert ours.shape == (2, 3, bins, 16 // cell, 24 // cell)
    for picture, one in zip(pictures.numpy().astype(float), ours):
        for channel, votes in zip(picture, one):
            np.testing.assert_allclose(votes, loop(channel, bins, cell), atol=1e-5)


def test_normalised_pictures_give_the_same_as_bytes():
    """So the operator may be said to work on normalised input, as the paper's does."""
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))  # no gradient on a border of bins
    mean, std = (torch.tensor(pair).view(3, 1, 1) for pair in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(hog((noise - mean) / std), hog(noise * 255), atol=1e-4, rtol=0)


def test_flat_cells_are_zeros_and_all_others_have_length_one():
    picture = torch.full((1, 1, 16, 16), 77.0)
    picture[..., 10:, 10:] = 200
    length = hog(picture).norm(dim=2)[0, 0]
    assert length[0, 0] == 0
    torch.testing.assert_close(length[1, 1], torch.tensor(1.0))


def test_arithmetic_of_16_bits_around_it_changes_nothing():
    picture = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = hog(picture)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, hog(picture))


@pytest.mark.parametrize("degrees", range(5, 180, 10))  # the middles of scikit-image's 18 bins, and of ours
def test_edges_of_one_direction_fall_where_scikit_image_has_them(degrees):
    """A ramp has one gradient everywhere, so that neither Sobel's against central differences nor sharing between bins
    matters. Theirs is measured from the horizontal, ours from the vertical: 90 degrees less theirs."""
    rows, columns = np.indices((24, 24))
    ramp = columns * math.cos(math.radians(degrees)) + rows * math.sin(math.radians(degrees))
    their_bin = theirs(ramp, 18, (8, 8), (1, 1), feature_vector=False)[1, 1, 0, 0].argmax()
    assert their_bin == degrees // 10
    ours = hog(torch.from_numpy(ramp)[None, None].float(), 18)[0, 0, :, 1, 1].argmax()
    assert ours == (90 - degrees) % 180 // 10


def test_histograms_of_smooth_pictures_are_nearly_those_of_scikit_image():
    """Blurred noise, in which Sobel's gradients and theirs, central differences, differ by little. Their bin k of 18 is
    ours of 8 - k, measured from the other axis."""
    picture = gaussian_filter(np.random.default_rng(0).random((64, 64)), 3) * 255
    cells = theirs(picture, 18, (8, 8), (1, 1), "L1", feature_vector=False)[1:-1, 1:-1, 0, 0]
    ours = hog(torch.from_numpy(picture)[None, None].float(), 18)[0, 0, :, 1:-1, 1:-1].numpy()
    same = (cells * ours[(8 - np.arange(18)) % 18].transpose(1, 2, 0)).sum(-1) / np.linalg.norm(cells, axis=-1)
    assert same.min() > 0.9  # 1 where histograms are equal
    other = (cells * ours.transpose(1, 2, 0)).sum(-1) / np.linalg.norm(cells, axis=-1)
    assert other.mean() < 0.7


def test_a_drawn_stroke_falls_into_its_own_bin():
    lines = strokes(9, 16)
    for bin_, line in enumerate(lines):
        assert line.max() > 0.5
        assert int(hog(255 * line[None, None], 9, 16)[0, 0, :, 0, 0].argmax()) == bin_
