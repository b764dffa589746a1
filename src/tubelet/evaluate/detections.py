"""What a network says that people in boxes do: what a test counts, what is written, what is drawn."""

from dataclasses import dataclass

from tubelet.data.keyframes import Box


@dataclass(frozen=True)
class Detection:
    """One person at one moment."""

    video: str
    """What its data set calls the video, or its path."""
    stamp: str
    """How its data set writes the moment."""
    seconds: float
    """The moment, after the video's first frame."""
    box: Box
    """Where, who, and how sure the detector is; its labels are what is known to be true, if anything is."""
    probabilities: tuple[float, ...]
    """Of each class, in the order of the run's labels: not yet multiplied by the box's score."""
