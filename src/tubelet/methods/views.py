"""What tells two views of a video apart: changes of colour and sharpness, drawn once for each clip, on the device.

Which window of the frames is shown and whether it is mirrored is the reader's (`data.crop`, `data.flip`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tubelet.nn.narrow import full_precision
from tubelet.types import Draws

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's "L"


@dataclass(frozen=True)
class Views:
    """Colours shifted, taken away, blurred, turned over; all frames of a clip alike.

    Strengths of colours are those of the large-scale study of video contrast (Feichtenhofer et al. 2021,
    arXiv:2104.14558, released configs), the rest and what differs between the two views is MoCo v3's (arXiv:2104.02057,
    released code; BYOL's before). Grey clips are never changed in hue or saturation.
    """

    brightness: float = 0.6
    """Of the factor on all pixels: drawn from 1 - this to 1 + this."""
    contrast: float = 0.6
    """The same, away from the frame's mean grey."""
    saturation: float = 0.6
    """The same, away from each pixel's grey."""
    hue: float = 0.15
    """Share of the circle of colours by which it is turned at most, to either side."""
    jitter: float = 0.8
    """Probability of these four changes, in an order that is drawn too."""
    grey: float = 0.2
    """Probability that the colours are taken away."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probability of a Gaussian blur, in the first and in the second view."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Of that blur, in pixels of a clip that is 224 high; scaled to other heights. From and to."""
    solarise: tuple[float, float] = (0.0, 0.2)
    """Probability that the upper half of all levels is turned over, in the first and in the second view."""

    def __post_init__(self) -> None:
        shares = (self.jitter, self.grey, *self.blur, *self.solarise)
        for name, value, fits, expected in (
            *((name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1") for name in STRENGTHS),
            ("hue", self.hue, 0 <= self.hue <= 0.5, "0 to 0.5"),
            ("probabilities", shares, all(0 <= share <= 1 for share in shares), "0 to 1"),
            ("sigma", self.sigma, 0 < self.sigma[0] <= self.sigma[1], "two ascending numbers above 0"),
        ):
            if not fits:
                raise ValueError(f"Views' {name} {value} cannot be used; expected {expected}")

    def __call__(self, video: UInt8[Tensor, "b c t h w"], draws: Draws) -> Float[Tensor, "b c t h w"]:
        """The clips in [0, 1], changed; those at even places are first views, the others second ones."""
        drawn = draws.uniform(13)
        second = torch.arange(len(video)) % 2
        x = video.float() / 255
        jittered, order = drawn[:, 0] < self.jitter, drawn[:, 1:5].argsort(dim=1)
        amounts = [1 + (2 * drawn[:, 5 + n] - 1) * getattr(self, name) for n, name in enumerate(STRENGTHS)]
        amounts.append((2 * drawn[:, 8] - 1) * self.hue)
        for turn in range(4):
            for number, change in enumerate((brightened, contrasted, saturated, turned)):
                x = where(jittered & (order[:, turn] == number), change, x, amounts[number])
        x = where(drawn[:, 9] < self.grey, saturated, x, torch.zeros(len(x)))
        low, high = (sigma * video.shape[3] / 224 for sigma in self.sigma)
        x = where(drawn[:, 10] < drawn.new_tensor(self.blur)[second], blurred, x, low + (high - low) * drawn[:, 11])
        return where(drawn[:, 12] < drawn.new_tensor(self.solarise)[second], solarised, x, torch.zeros(len(x)))


STRENGTHS = ("brightness", "contrast", "saturation")


def where(
    chosen: Bool[Tensor, " b"],
    change: Callable[[Tensor, Tensor], Tensor],
    video: Float[Tensor, "b c t h w"],
    amounts: Float[Tensor, " b"],
) -> Float[Tensor, "b c t h w"]:
    """The clips, of which some, chosen on the CPU, are changed in place, each by its own amount."""
    places: Int[Tensor, " some"] = chosen.nonzero()[:, 0]
    if len(places):
        amount = amounts[places].to(video).view(-1, 1, 1, 1, 1)
        places = places.to(video.device)
        video[places] = change(video[places], amount)
    return video


def luma(video: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 1 t h w"]:
    """The grey of every pixel."""
    if video.shape[1] == 1:
        return video
    return (video * video.new_tensor(LUMA).view(3, 1, 1, 1)).sum(1, keepdim=True)


def brightened(video: Float[Tensor, "b c t h w"], factor: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b c t h w"]:
    """All pixels times the factor, within [0, 1]."""
    return (video * factor).clamp_(0, 1)


def contrasted(video: Float[Tensor, "b c t h w"], factor: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b c t h w"]:
    """Distances from the mean grey of the frame times the factor, within [0, 1]."""
    return torch.lerp(luma(video).mean((3, 4), keepdim=True), video, factor).clamp_(0, 1)


def saturated(video: Float[Tensor, "b c t h w"], factor: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b c t h w"]:
    """Distances of the colours from the pixel's grey times the factor, within [0, 1]; with 0 grey clips."""
    return torch.lerp(luma(video), video, factor).clamp_(0, 1)


def turned(video: Float[Tensor, "b c t h w"], share: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b c t h w"]:
    """Hues turned by a share of the circle; lightest and darkest channel of a pixel keep their values (HSV)."""
    if video.shape[1] == 1:
        return video
    red, green, blue = video.split(1, 1)
    value, least = video.amax(1, keepdim=True), video.amin(1, keepdim=True)
    chroma = value - least
    scale = chroma.clamp(min=1e-12)
    hue = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, (blue - red) / scale + 2, (red - green) / scale + 4),
    )
    hue = hue + 6 * share
    # Each channel is a trapezium over the circle: value where it leads, least where it is opposite.
    place = (video.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1, 1) + hue) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def blurred(video: Float[Tensor, "b c t h w"], sigma: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b c t h w"]:
    """Gaussian means over the frame, of the pixels that there are: none are made up beyond its border.

    As products with one matrix for each axis: the kernels differ from clip to clip.
    """
    with full_precision(video):
        return gaussian(video.shape[3], sigma) @ video @ gaussian(video.shape[4], sigma).mT


def gaussian(size: int, sigma: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b 1 1 {size} {size}"]:
    """For each place along an axis the weights of all places."""
    at = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    return torch.softmax(-((at - at[:, None]) / sigma).square() / 2, dim=-1)


def solarised(video: Float[Tensor, "b c t h w"], _: Float[Tensor, "b 1 1 1 1"]) -> Float[Tensor, "b c t h w"]:
    """Levels from the middle upwards turned over: white becomes black."""
    return torch.where(video < 0.5, video, 1 - video)
