"""Views: each change against Pillow or its formula on a picture; frames alike, clips apart, draws by clip."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage
from skimage.data import astronaut

from tubelet.methods.views import Views, blurred, brightened, contrasted, saturated, solarised, turned
from tubelet.types import Draws

PICTURE = astronaut()[100:164, 180:260]  # a face: 64 x 80
NOTHING = Views(jitter=0, grey=0, blur=(0, 0), solarise=(0, 0))


def clip(picture: np.ndarray) -> torch.Tensor:
    """A film of two frames, the second darker, in [0, 1]."""
    frames = torch.from_numpy(np.stack([picture, picture // 2])).float() / 255
    return frames.permute(3, 0, 1, 2)[None]


def levels(video: torch.Tensor) -> np.ndarray:
    return video[0].permute(1, 2, 3, 0).numpy() * 255


def amount(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1, 1), value)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.6])
@pytest.mark.parametrize(
    ("change", "enhance"),
    [
        (brightened, ImageEnhance.Brightness),
        (contrasted, ImageEnhance.Contrast),
        (saturated, ImageEnhance.Color),
    ],
)
def test_light_contrast_and_colour_are_pillows(change, enhance, factor):
    found = levels(change(clip(PICTURE), amount(factor)))
    for frame, picture in zip(found, (PICTURE, PICTURE // 2)):
        expected = np.asarray(enhance(Image.fromarray(picture)).enhance(factor)).astype(float)
        assert np.abs(frame - expected).max() < 2  # Pillow rounds greys and results


@pytest.mark.parametrize("share", [-0.15, 0.0, 0.1, 0.5])
def test_hue_turns_as_in_the_standard_library(share):
    found = levels(turned(clip(PICTURE), amount(share)))[0] / 255
    for y, x in np.random.default_rng(0).integers(0, 64, (200, 2)):
        hue, saturation, value = colorsys.rgb_to_hsv(*PICTURE[y, x] / 255)
        expected = colorsys.hsv_to_rgb((hue + share) % 1, saturation, value)
        np.testing.assert_allclose(found[y, x], expected, atol=1e-5)


def test_hue_of_grey_pixels_does_not_matter():
    grey = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(8, axis=0)
    np.testing.assert_allclose(levels(turned(clip(grey), amount(0.3))), levels(clip(grey)), atol=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_gaussian_over_the_pixels_that_there_are(sigma):
    found = levels(blurred(clip(PICTURE), amount(sigma)))[0]
    weigh = {"sigma": (sigma, sigma, 0), "mode": "constant", "truncate": 8.0}
    there = ndimage.gaussian_filter(np.ones(PICTURE.shape), **weigh)
    expected = ndimage.gaussian_filter(PICTURE.astype(float), **weigh) / there
    np.testing.assert_allclose(found, expected, atol=0.02)
    pillow = np.asarray(Image.fromarray(PICTURE).filter(ImageFilter.GaussianBlur(sigma))).astype(float)
    assert np.abs(found - pillow)[8:-8, 8:-8].mean() < 1.5  # Pillow's is made of boxes


def test_solarised_is_pillows():
    found = levels(solarised(clip(PICTURE), amount(0.0)))[0]
    np.testing.assert_allclose(found, np.asarray(ImageOps.solarize(Image.fromarray(PICTURE))), atol=1e-3)


def film(clips: int, channels: int = 3, frames: int = 3) -> torch.Tensor:
    """Clips whose frames are all the same picture."""
    picture = torch.from_numpy(PICTURE.copy()).permute(2, 0, 1)[None, :channels, None]
    return picture.expand(clips, -1, frames, -1, -1).clone()


def test_all_frames_of_a_clip_change_alike_and_clips_apart():
    video = Views()(film(8), Draws(0, 0, range(8)))
    assert torch.equal(video, video[:, :, :1].expand_as(video))
    for one in range(8):
        assert all(not torch.allclose(video[one], video[other], atol=1e-3) for other in range(one))


def test_draws_are_by_clip():
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 2, 16, 24), dtype=np.uint8))
    whole = Views()(video, Draws(3, 5, range(8)))
    parts = [Views()(video[n : n + 2], Draws(3, 5, range(n, n + 2))) for n in (0, 2, 4, 6)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-6)
    assert not torch.allclose(whole, Views()(video, Draws(3, 6, range(8))))


def test_the_given_clips_are_left_as_they_were():
    video = film(2)
    before = video.clone()
    Views()(video, Draws(0, 0, range(2)))
    assert torch.equal(video, before)


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (replace(NOTHING, jitter=0.8, hue=0.0, contrast=0.0, saturation=0.0), (0.8, 0.8)),
        (replace(NOTHING, grey=0.2), (0.2, 0.2)),
        (replace(NOTHING, blur=(1.0, 0.1), sigma=(28.0, 56.0)), (1.0, 0.1)),
        (replace(NOTHING, solarise=(0.0, 0.2)), (0.0, 0.2)),
        (NOTHING, (0.0, 0.0)),
    ],
    ids=["jitter", "grey", "blur", "solarise", "nothing"],
)
def test_changes_happen_as_often_as_they_should(config, shares):
    video = film(600, frames=1)[..., 20:28, 30:38]
    moved = (config(video, Draws(0, 0, range(600))) - video / 255).abs().amax((1, 2, 3, 4)) > 1e-6
    for view, share in enumerate(shares):
        assert float(moved[view::2].float().mean()) == pytest.approx(share, abs=0.06)


def test_strengths_are_drawn_evenly_from_their_range():
    config = replace(NOTHING, jitter=1.0, brightness=0.6, contrast=0.0, saturation=0.0, hue=0.0)
    video = torch.full((500, 3, 1, 2, 2), 100, dtype=torch.uint8)
    factor = config(video, Draws(1, 0, range(500)))[:, 0, 0, 0, 0] / (100 / 255)
    assert 0.4 <= float(factor.min()) < 0.45
    assert 1.55 < float(factor.max()) <= 1.6
    assert float(factor.mean()) == pytest.approx(1, abs=0.06)
    assert float(factor.std()) == pytest.approx(1.2 / 12**0.5, abs=0.03)


def test_the_order_of_the_four_is_drawn():
    """Light before contrast clips other levels than contrast before light."""
    config = replace(NOTHING, jitter=1.0, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0)
    video = film(64, frames=1)
    found, drawn = config(video, Draws(0, 0, range(64))), Draws(0, 0, range(64)).uniform(13)
    firsts = set()
    for one in range(64):
        light, contrast = (1 + 1.2 * (drawn[one, 5 + n] - 0.5) for n in (0, 1))
        first = bool(drawn[one, 1:5].argsort().argsort()[0] < drawn[one, 1:5].argsort().argsort()[1])
        x = video[one : one + 1] / 255
        for light_now in (first, not first):
            x = brightened(x, amount(float(light))) if light_now else contrasted(x, amount(float(contrast)))
        torch.testing.assert_close(found[one : one + 1], x, rtol=0, atol=1e-5)
        firsts.add(first)
    assert firsts == {True, False}


def test_blur_is_measured_in_pixels_of_224():
    config = replace(NOTHING, blur=(1.0, 1.0), sigma=(7.0, 7.0))
    video = film(1)
    torch.testing.assert_close(config(video, Draws(0, 0, [0])), blurred(video / 255, amount(7 * 64 / 224)))


def test_grey_clips_are_changed_too():
    video = Views()(film(4, channels=1), Draws(0, 0, range(4)))
    assert video.shape[1] == 1
    assert not torch.allclose(video[0], video[1])


@pytest.mark.parametrize(
    "setting", [{"jitter": 1.2}, {"hue": 0.6}, {"blur": (1.0, 2.0)}, {"sigma": (0.0, 1.0)}, {"brightness": -1.0}]
)
def test_settings_that_cannot_be_used_are_named(setting):
    with pytest.raises(ValueError, match="cannot be used; expected"):
        Views(**setting)
