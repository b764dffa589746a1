"""The module that all masked autoencoders share; a paper chooses mask, target and decoder."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tubelet.masks.random_masks import Tube
from tubelet.masks.running_cell import RunningCell
from tubelet.nn.decoder import Decoder, MaskHead
from tubelet.nn.patches import patchify, take
from tubelet.nn.raft import Raft
from tubelet.nn.squared import squared_error
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels, normalise
from tubelet.types import Batch, Draws, Grid, Loss, Masker, Method, Motion, Target, TokenMask


@dataclass(frozen=True)
class Masked:
    """Hide tokens, imagine them."""

    mask: Any = field(default_factory=Tube)  # a Masker; the preset's own class gives the flags
    """Which tokens are hidden."""
    target: Any = field(default_factory=Pixels)  # a Target
    """What is predicted."""
    decoder: Any = field(default_factory=Decoder)  # Decoder, CrossDecoder or Head
    """What imagines: a decoder that attends over all tokens, one that attends across only, or none but a head."""
    decode: RunningCell | None = None
    """Which tokens are decoded, hidden or not (dual masking); none: the hidden ones."""
    predict: float = 1.0
    """Share of the hidden tokens that are predicted in a step; fewer make a step cheaper. All of them in the papers."""
    still: Any = None  # a Masker
    """Which tokens of pictures are hidden, where they are shown among videos (`data.images`); none: as of videos."""
    flow: Raft | None = None
    """Motion estimated on the device in every step, for masks that it guides, in place of `data.motion`."""

    def build(self, encoder: Encoder, grid: Grid, channels: int) -> "MaskedAutoencoder":
        """The module to train, freshly initialised from torch's global generator.

        Raises:
            ValueError: the mask hides nothing or everything on this grid; here, not at the first step. Or nothing would
                be predicted.
        """
        if not 0 < self.predict <= 1:
            raise ValueError(f"--method.predict {self.predict:g}: it must be above 0 and at most 1 (all hidden tokens)")
        for each in (grid, replace(grid, T=1)) if self.still else (grid,):
            self.try_masks(each, channels)
        return MaskedAutoencoder(self, encoder, grid, channels)

    def try_masks(self, grid: Grid, channels: int) -> None:
        """Hides a clip of a grid; `config.checked` tries so whether pictures can be shown among videos.

        Raises:
            ValueError: the mask hides nothing or everything.
        """
        with torch.device("cpu"):  # also where the method is built without memory: masks are looked at
            chosen(self, blank(grid, channels), grid, Draws(0, 0, [0]))


class MaskedAutoencoder(Method):
    """Patches → visible ones → encoder → decoder → prediction of the hidden ones, against the target."""

    def __init__(self, config: Masked, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.mask: Masker = config.mask
        self.still: Masker = config.still or config.mask
        self.target: Target = config.target
        self.decode, self.predict = config.decode, config.predict
        self.flow = config.flow.build() if config.flow else None  # no module: neither trained nor saved
        self.encoder = encoder.build(grid, channels)
        self.decoder = config.decoder.build(grid, encoder, self.target.size(grid, channels))

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """Mean squared error, summed over the scored tokens."""
        if self.flow:
            batch = replace(batch, motion=self.flow(batch.video))
        mask = chosen(self, batch, self.grid_of(batch.video), draws).to(batch.video.device)
        patches = patchify(batch.video, self.grid.patch)  # uint8 still: a quarter of the bytes to gather
        wanted = self.target.wanted(batch, patches, mask)  # before anything is kept for the backward pass
        error = squared_error(self.imagine(patches, mask), wanted)
        return Loss(sum=(error * mask.scored).sum(), count=mask.scored.sum())

    def imagine(self, patches: Tensor, mask: TokenMask) -> Float[Tensor, "b p y"]:
        """The decoder's output for `mask.predict`, from the visible ones of uint8 patches "b n q"."""
        return imagined(self.encoder, self.decoder, patches, mask, self.channels)

    def grid_of(self, video: Tensor) -> Grid:
        """Where the tokens of clips are: those of pictures, shown for the frames of one cube, in the first slot."""
        return replace(self.grid, T=video.shape[2] // self.grid.patch[0])


def blank(grid: Grid, channels: int) -> Batch:
    """One black clip, of whose motion nothing is known: to try a mask on."""
    pt, ph, pw = grid.patch
    video = torch.zeros(1, channels, grid.T * pt, grid.H * ph, grid.W * pw, dtype=torch.uint8, device="cpu")
    ids = torch.zeros(1, dtype=torch.int64, device="cpu")
    return Batch(video, ids, motion=Motion.unknown(video.shape[2:], clips=1))


def imagined(
    encoder: nn.Module, decoder: nn.Module, patches: UInt8[Tensor, "b n q"], mask: TokenMask, channels: int
) -> Float[Tensor, "b p y"]:
    """A decoder's output for `mask.predict`, from what an encoder sees of patches: the visible ones, or all of them
    with mask tokens in place of the others."""
    taps = decoder.taps
    if isinstance(decoder, MaskHead):
        every = normalise(patches.float().div_(255), channels)
        return decoder(encoder(every, taps=taps, instead=(decoder.mask_token, mask.hidden)), mask)
    visible = normalise(take(patches, mask.visible).float().div_(255), channels)
    return decoder(encoder(visible, mask.visible, taps=taps), mask)


def chosen(method: Masked | MaskedAutoencoder, batch: Batch, grid: Grid, draws: Draws) -> TokenMask:
    """What a step hides and predicts."""
    masker = (method.still or method.mask) if grid.T == 1 else method.mask
    mask: TokenMask = masker(batch, grid, draws)
    if method.decode is not None:
        mask = method.decode(mask, draws)
    return thinned(mask, method.predict, draws) if method.predict < 1 else mask


def thinned(mask: TokenMask, share: float, draws: Draws) -> TokenMask:
    """The mask with a random `share` of its tokens to predict; at least one."""
    tokens = mask.predict.shape[1]
    order = draws.uniform(tokens).argsort(dim=1)[:, : max(int(share * tokens), 1)].to(mask.predict.device)
    return replace(mask, predict=mask.predict.gather(1, order.sort(dim=1).values))
