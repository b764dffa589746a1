"""Weights of others: where they come from and all that is known of them, which is less than a run."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tubelet.config import Run, from_json, preset
from tubelet.data.labels import Labels
from tubelet.data.sampling import Around, Dense, Segments, Spread
from tubelet.nn.decoder import Decoder
from tubelet.nn.vit import Encoder
from tubelet.weights.archive import Archive
from tubelet.weights.found import Found

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """What goes along with weights of others, in place of a run: `converted` in the metadata of files."""

    file: str
    """What the file is called, without the folders of a machine; or hub:OWNER/NAME@COMMIT."""
    format: str
    """What it was taken for, with its geometry."""
    notes: tuple[str, ...]
    """What was unwrapped, assumed or recomputed."""
    encoder: Encoder
    """The network, as its shapes tell."""
    frames: int
    """Frames of a clip."""
    size: tuple[int, int]
    """Height and width of a clip."""
    channels: int
    """3 for colour, 1 for grey."""
    clip: Dense | Segments | Spread | Around | None = None
    """Which frames of a video made a clip; none: nobody says."""
    decoder: Decoder | None = None
    """What imagines the hidden tokens, if that is there."""
    normalised: bool | None = None
    """Whether it puts out normalised pixels; none: nobody says."""
    labels: tuple[str, ...] = ()
    """The classes of a head, if there is one."""
    boxes: bool = False
    """Whether that head is for people in boxes."""

    @classmethod
    def of(cls, found: Found) -> "Origin":
        """What is known of weights that were read."""
        report = found.report
        return cls(
            report.name,
            report.format,
            tuple(report.notes),
            found.encoder,
            found.frames,
            found.size,
            found.channels,
            None if found.clip is None else replace(found.clip, frames=found.frames),
            found.decoder,
            None if found.decoder is None else found.normalised,
            found.labels,
            found.kind == "detector",
        )

    def run(self) -> Run:
        """A run that could have made them, for what takes a run: whatever is not known is of VideoMAE's presets."""
        tuned = "finetune-ava-b" if self.boxes else "finetune-k400-b"
        run = preset(tuned if self.labels else "videomae-k400-b")
        clip = self.clip or replace(run.data.clip, frames=self.frames)
        data = replace(run.data, clip=clip, size=self.size, channels=self.channels)
        method: Any = run.method
        if self.labels:
            data = replace(data, labels=Labels("classes" if self.boxes else "class", self.labels))
            method = replace(method, outputs=len(self.labels), **({"norm": "imagenet"} if self.boxes else {}))
        elif self.decoder is not None:
            target = replace(method.target, normalise="none" if self.normalised is False else "videomae")
            method = replace(method, decoder=self.decoder, target=target)
        return replace(run, encoder=self.encoder, data=data, method=method)


def origin_of(archive: Archive) -> Origin | None:
    """Where the weights of a file come from that `tubelet convert` wrote; none: it did not.

    Raises:
        ValueError: it does not say so in our words.
    """
    if "converted" not in archive.about:
        return None
    return told(archive, "converted", Origin)


def run_of(archive: Archive) -> Run | None:
    """The run of a file of tubelet, or one that could have made what was converted; none: a file of others.

    Raises:
        ValueError: not of this version of tubelet.
    """
    if "run" in archive.about:
        return told(archive, "run", Run)
    origin = origin_of(archive)
    return None if origin is None else origin.run()


def told(archive: Archive, name: str, kind: type[T]) -> T:
    """What a file of tubelet says of itself under `name`.

    Raises:
        ValueError: it is damaged, not of this version of tubelet, or of another kind.
    """
    try:
        found = from_json(archive.about[name])
    except ValueError as error:
        raise ValueError(f"{archive.path}: its metadata `{name}` cannot be read: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(
            f"{archive.path}: its metadata `{name}` is {type(found).__name__}, expected "
            f"{'an' if kind is Origin else 'a'} {kind.__name__}"
        )
    return found
