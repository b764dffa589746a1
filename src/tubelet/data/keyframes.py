"""Who does what, where and when: boxes of people at moments of videos."""

from dataclasses import dataclass

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """One person, or thing, in one frame."""

    corners: Corners
    """x1, y1, x2, y2 as shares of the picture's width and height, x to the right and y down; within 0 to 1."""
    labels: tuple[str, ...] = ()
    """What is done; none: none of what there are classes for."""
    person: str | None = None
    """Who it is, the same in every frame of a video."""
    score: float = 1.0
    """How sure a detector is; 1 where a person drew the box."""


@dataclass(frozen=True)
class KeyFrame:
    """A moment of a video whose boxes are known. There may be none."""

    seconds: float
    """After the video's first frame; of a movie cut into files of one second, as those are numbered."""
    boxes: tuple[Box, ...]
    video: str = ""
    """What its data set calls the video."""
    stamp: str = ""
    """How its data set writes the moment, as AVA's 0902."""
