"""Pictures beside videos: which steps show which.

A step is of one kind only. Each kind has a stream of its own, and a step's place in it is the number of steps of that
kind before. So what a step shows follows from its number alone, after a resume and in any process.
"""

from dataclasses import dataclass
from fractions import Fraction

from tubelet.data.transforms import Crop, RandomResizedCrop

LOSSES = ("loss_videos", "loss_pictures")  # what steps of each kind log


@dataclass(frozen=True)
class Images:
    """Pictures that some steps show in place of videos, as clips that stand still.

    Source: OmniMAE (Girdhar et al. 2023, arXiv:2206.08356): batches of one kind, in turns; a picture fills one cube.
    """

    source: str = ""
    """A folder as images:DIR or images:DIR:train, or a list of pictures."""
    share: float = 0.5
    """Share of the steps that show pictures; they come as evenly as can be."""
    frames: int = 2
    """How often each picture is repeated in time: the frames of one cube."""
    crop: Crop = RandomResizedCrop((0.2, 1.0))  # noqa: RUF009 (frozen: safe to share)
    """Which part of a picture is shown."""
    flip: float = 0.5
    """Probability of a mirrored picture; that of videos is another."""
    repeats: int = 1
    """Differently cropped clips of each picture in a step."""

    def before(self, step: int) -> int:
        """How many of the steps before `step` show pictures.

        >>> [Images(share=0.25).before(step) for step in range(9)]
        [0, 0, 0, 0, 1, 1, 1, 1, 2]
        """
        return int(step * Fraction(str(self.share)))  # exactly the number that was written: 0.29 x 100 is 29

    def shown(self, step: int) -> bool:
        """Whether a step shows pictures.

        >>> [Images().shown(step) for step in range(4)]
        [False, True, False, True]
        """
        return self.before(step + 1) > self.before(step)

    def loss(self, step: int) -> str:
        """The name of a step's loss beside "loss": those of pictures and videos are far apart."""
        return LOSSES[self.shown(step)]


def checked(images: Images) -> None:
    """Looks for settings that cannot be used; whether the pictures are there is seen when they are looked for.

    Raises:
        ValueError: names the setting, what it is, and what it may be.
    """
    for name, value, fits, expected in (
        ("share", images.share, 0 < images.share < 1, "above 0 and below 1; without pictures, set data.images to None"),
        ("frames", images.frames, images.frames > 0, "1 or more"),
        ("flip", images.flip, 0 <= images.flip <= 1, "a probability, 0 to 1"),
        ("repeats", images.repeats, images.repeats > 0, "1 or more"),
    ):
        if not fits:
            raise ValueError(f"--data.images.{name} {value} cannot be used; expected {expected}")
