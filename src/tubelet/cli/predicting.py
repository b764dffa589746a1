"""The verb that says what a fine-tuned network makes of videos, files or streams."""

import glob
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, apart, parse
from tubelet.cli.testing import viewer_of

if TYPE_CHECKING:
    from tubelet.data.labels import Labels
    from tubelet.data.sources import Item
    from tubelet.evaluate.predict import Found, Prediction
    from tubelet.evaluate.views import Viewer
    from tubelet.evaluate.windows import Window


def predict_verb(args: list[str]) -> int:
    """What a network says about videos: tubelet predict VIDEO --weights RUN"""

    @dataclass(frozen=True)
    class Predict:
        """Say which classes videos show, and from when to when.

        tubelet predict match.mp4 --weights runs/tuned --stride 0.5 --smooth 5 --out match.srt --overlay match-seen.mp4

        Videos are seen in windows as long as the clips that the network was trained on. A camera is its number; a
        stream is a dash: ffmpeg -i rtsp://... -c copy -f mpegts - | tubelet predict - --weights runs/tuned
        """

        paths: tyro.conf.Positional[tuple[str, ...]]
        """Videos, folders, lists, patterns ("*.mp4"); or - for what is piped in, or the number of a camera."""
        weights: Path
        """A fine-tuned run, or a file of it (best.safetensors), or weights of others."""
        window: float | None = None
        """Seconds that are seen at once; default what a clip spans."""
        stride: float | None = None
        """Seconds from one window to the next; default the window."""
        smooth: int = 1
        """Average over so many neighbouring windows."""
        smooth_seconds: float | None = None
        """Average over neighbouring windows by a normal curve of this deviation, instead of --smooth."""
        threshold: float | None = None
        """Below this probability nothing is said; default 0, or 0.5 where classes may be there at once."""
        shortest: float = 0.0
        """Leave out segments of fewer seconds."""
        top: int = 5
        """How many classes are shown."""
        out: Path | None = None
        """Write segments (and to .json also windows): .json, .csv or .srt."""
        overlay: Path | None = None
        """Write the video with the classes drawn on its frames, .mp4."""
        precision: Literal["float32", "bfloat16"] = "float32"
        """Arithmetic of the network."""
        device: str = "auto"
        """cpu, cuda, cuda:1 or mps."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING
        json: bool = False
        """A JSON object per video on stdout (of a stream: per window, as they come)."""

    a = parse(Predict, args, "predict")
    from tubelet.data.video import VideoError
    from tubelet.evaluate.features import centred
    from tubelet.evaluate.predict import Found, predict, segments, smoothed
    from tubelet.evaluate.windows import windows, windows_of_stream
    from tubelet.overlay import overlay
    from tubelet.train.log import noted, say

    live = len(a.paths) == 1 and (a.paths[0] == "-" or (a.paths[0].isdigit() and not Path(a.paths[0]).exists()))
    items = [] if live else expanded(a.paths)
    for name, path, endings in (("out", a.out, (".json", ".csv", ".srt")), ("overlay", a.overlay, (".mp4", ".mkv"))):
        if path is not None and path.suffix not in endings:
            raise ValueError(f"--{name} {path}: name a {' or '.join(endings)}")
        if path is not None and name == "overlay" and (live or len(items) != 1):
            raise ValueError(f"--overlay is for one video file, not {'a stream' if live else len(items)}")
    if a.out is not None and a.out.suffix == ".srt" and len(items) > 1:
        raise ValueError(f"--out {a.out}: subtitles are for one video, not {len(items)}; use .csv or .json")
    if a.top < 1:
        raise ValueError(f"--top {a.top}: at least one class")
    apart({"out": a.out, "overlay": a.overlay}, [*map(Path, a.paths), *(item.path for item in items)])
    viewer = viewer_of(a.weights, a.device, a.precision, others=a.others)
    labels, crop = viewer.labels, partial(centred, size=viewer.data.size)

    def finished(path: str, predictions: "list[Prediction]") -> Found:
        amount, kind = (a.smooth, "mean") if a.smooth_seconds is None else (a.smooth_seconds, "gauss")
        smooth = smoothed(predictions, amount, kind)  # type: ignore[arg-type]
        found = [] if labels.kind == "values" else segments(smooth, labels, a.threshold, a.shortest)
        return Found(path, smooth, found)

    finished("", [])  # wrong settings show before the work
    if live:
        clips = windows_of_stream(coming(a.paths[0], viewer), viewer.data, a.window, a.stride, prepare=crop)
        return live_predictions(viewer, clips, a, finished)
    done, failed = [], 0
    for item in items:
        try:
            clips = windows(item.path, viewer.data, a.window, a.stride, start=item.start, end=item.end, prepare=crop)
            one = finished(str(item.path), list(predict(viewer, clips, str(item.path))))
        except (VideoError, OSError) as error:
            failed += 1
            say(f"{error}")
            if a.json:
                print(json.dumps({"path": str(item.path), "error": str(error)}), flush=True)
            continue
        done.append(one)
        noted([f"{item.path} is too short for {viewer.data.clip}; some frames are repeated"] * one.windows[0].short)
        print(json.dumps(to_dict(one, labels, a.top)) if a.json else "\n".join(words(one, labels, a.top)), flush=True)
        if a.overlay is not None:
            say(f"overlay  {overlay(item.path, one.windows, labels, a.overlay, min(a.top, 3))}")
    written(done, labels, a.out)
    if failed:
        say(f"{failed} of {len(items)} videos cannot be read")
    return 0 if done else 1


def expanded(paths: Sequence[str]) -> "list[Item]":
    """The videos of files, folders, lists and patterns.

    Raises:
        FileNotFoundError: no such file, or nothing fits a pattern.
    """
    from tubelet.data.sources import find

    items = []
    for path in paths:
        if glob.has_magic(path) and not Path(path).exists():
            fitting = sorted(glob.glob(path, recursive=True))
            if not fitting:
                raise FileNotFoundError(f"nothing fits {path} (looked in {Path.cwd()})")
            items += [item for one in fitting for item in find(one)]
        else:
            items += find(path)
    if not items:
        raise ValueError("predict wants a video, as in: tubelet predict clip.mp4 --weights runs/tuned")
    return items


def coming(source: str, viewer: "Viewer") -> Iterator[Any]:
    """Frames with their times, from a pipe or a camera."""
    from tubelet.data.stream import frames_of_camera, frames_of_stream

    gray = viewer.data.channels == 1
    return frames_of_stream(sys.stdin.buffer, gray=gray) if source == "-" else frames_of_camera(int(source), gray=gray)


def live_predictions(viewer: "Viewer", clips: "Iterator[Window]", a: Any, finished: Any) -> int:
    """Says every window as it comes, and at the end (or when interrupted) the segments."""
    from tubelet.evaluate.predict import predict

    labels, predictions, interrupted = viewer.labels, [], False
    try:
        for one in predict(viewer, clips, "the stream"):
            predictions.append(one)
            top = [(name, round(value, 4)) for name, value in one.top(labels, a.top)]
            line = {"start": round(one.start, 3), "end": round(one.end, 3), "top": top}
            said = json.dumps(line) if a.json else f"{span(one.start, one.end)}  {listed_top(one, labels, a.top)}"
            print(said, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    if predictions:
        found = finished("-", predictions)
        print(json.dumps({"segments": [asdict(one) for one in found.segments]}) if a.json else "segments")
        if not a.json:
            print("\n".join(segment_lines(found)))
        written([found], labels, a.out)
    return 130 if interrupted else 0


def written(found: "Sequence[Found]", labels: "Labels", out: Path | None) -> None:
    """Writes what was found, as the ending of `out` says."""
    if out is None or not found:
        return
    from tubelet.evaluate.predict import to_csv, to_json, to_srt
    from tubelet.train.checkpoint import atomically, void
    from tubelet.train.log import say

    if out.suffix == ".srt":
        if labels.kind == "values":
            raise ValueError("values have no segments to make subtitles of; use .csv or .json")
        text = to_srt(found[0].segments)
    else:
        text = (to_csv if out.suffix == ".csv" else to_json)(found, labels.names)
    atomically(out, lambda file: void(file.write(text.encode())))
    say(f"written  {out}")


def to_dict(found: "Found", labels: "Labels", top: int) -> dict[str, Any]:
    """One video for JSON: the likeliest classes over all windows, in each, and the segments."""
    from tubelet.evaluate.predict import overall

    return {
        "path": found.path,
        "top": overall(found.windows).top(labels, top),
        "windows": [{"start": w.start, "end": w.end, "top": w.top(labels, top)} for w in found.windows],
        "segments": [asdict(segment) for segment in found.segments],
    }


def words(found: "Found", labels: "Labels", top: int) -> list[str]:
    """One video for people."""
    from tubelet.evaluate.predict import overall

    count = len(found.windows)
    mean = f" (mean of {count} windows)" if count > 1 else ""
    lines = [f"{found.path}{mean}", f"  {listed_top(overall(found.windows), labels, top)}"]
    return lines + (segment_lines(found) if count > 1 else [])


def segment_lines(found: "Found") -> list[str]:
    """Its segments for people."""
    return [f"  {span(s.start, s.end)}  {s.label} {100 * s.probability:.1f} %" for s in found.segments]


def listed_top(one: "Prediction", labels: "Labels", top: int) -> str:
    """The likeliest classes in a line; of values all, in their order."""
    values = labels.kind == "values"
    return "  ".join(
        f"{name} {value:.4g}" if values else f"{name} {100 * value:.1f} %" for name, value in one.top(labels, top)
    )


def span(start: float, end: float) -> str:
    """From when to when.

    >>> span(0, 65.25)
    '0:00.00 to 1:05.25'
    """
    parts = [divmod(round(100 * seconds), 6000) for seconds in (start, end)]
    return " to ".join(f"{minutes}:{rest / 100:05.2f}" for minutes, rest in parts)
