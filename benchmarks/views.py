"""A test of many views and an embedding of windows, decoded once, against one decode for every view or window.

    tubelet prepare /path/to/videos runs/prepared
    python benchmarks/views.py --videos /path/to/videos runs/prepared [--files GLOB] [--repeats 2] [--whole 1]

Clips are 16 frames at 224x224: at stride 4 for 5x3 views (Kinetics), one from each part for 2x3 (Something-Something).

reading    all views of a video. Peers make an item of every view, as VideoMAE's released test set does: it opens the
           file, decodes, scales to a short side of 224, cuts its one view
             decord, released   all that the released reader decodes for a view: every fourth frame of the whole video
                                (5x3), the frames of both clips (2x3); scaled by OpenCV
             decord, a view     only the frames of the view
             tubelet, a view    the same with our own reader, which remembers the index from one view to the next
test       reading and a ViT-Ti on the first files (--whole): `multi_view`, against items of one view each, whose
           batches are just as large
embedding  reading windows of 64 frames with a clip each, one every 16 frames or every 64, against an item for every
           window

Time is that of the processor, on one core; sides take turns, the minimum of the repeats counts, and each repeat of ours
begins without an index. decord's sides are left out where decord2 (extra `bench`) is not installed, or where it fails
or hands over other frames: then `decord` says so. Writes benchmarks/views.csv.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from motion import best
from table import provenance, save

from tubelet.data.datasets import Data
from tubelet.data.index import Video, _memory
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import Item, find
from tubelet.data.transforms import Place
from tubelet.data.video import frames_at, probe
from tubelet.data.views import time_views
from tubelet.evaluate.embed import Embedding, clips_of, interval
from tubelet.evaluate.views import Viewer, Views, multi_view, views_of
from tubelet.evaluate.windows import spans
from tubelet.nn.classifier import Classifier
from tubelet.nn.vit import SIZES
from tubelet.targets import inputs
from tubelet.types import Grid

try:
    import decord
except ImportError:
    decord = None

TASKS = {"5x3": Data(clip=Dense(16, stride=4)), "2x3": Data(clip=Segments(16))}
LENGTH, BATCH, LABELS = 64, 16, Labels("class", tuple("abcdefghij"))
Clip = np.ndarray  # "t y x c"
Items = dict[str, list[Callable[[], Clip]]]


def best_of_core(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of the processor."""
    return {name: round(value, 2) for name, value in best(sides, repeats, now=time.process_time).items()}


# Peers: one view of one video, from opening the file on.


def by_decord(path: Path, view: np.ndarray, decoded: np.ndarray, place: Place) -> Clip:
    """`decoded` are the frames to decode and scale, among them those of the view."""
    frames = decord.VideoReader(str(path), num_threads=1).get_batch(decoded).asnumpy()
    height, width = frames.shape[1:3]
    size = (224, width * 224 // height) if height <= width else (height * 224 // width, 224)
    scaled = np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR) for frame in frames])
    top, left, tall, wide = place.window(*size, (224, 224))
    return scaled[np.searchsorted(decoded, view), top : top + tall, left : left + wide]


def by_tubelet(path: Path, view: np.ndarray, place: Place) -> Clip:
    return place(frames_at(path, view).frames, (224, 224)).numpy()


def peers(video: Video, views: list[np.ndarray], places: list[Place], data: Data) -> Items:
    """Items of each peer, in the order of `views_of`."""
    released = np.arange(0, video.frames, 4) if isinstance(data.clip, Dense) else np.unique(np.concatenate(views))
    path, pairs = video.path, [(view, place) for view in views for place in places]
    found = {"tubelet, a view": [partial(by_tubelet, path, view, place) for view, place in pairs]}
    if decord:
        found["decord, a view"] = [partial(by_decord, path, view, np.unique(view), place) for view, place in pairs]
        found["decord, released"] = [partial(by_decord, path, view, released, place) for view, place in pairs]
    return found


def anew(act: Callable[[], Any]) -> Any:
    """Without an index from before."""
    _memory.clear()
    return act()


def every(items: list[Callable[[], Clip]]) -> list[Clip]:
    return anew(lambda: [item() for item in items])


def left_out(items: Items) -> str:
    """Takes decord's items away if it cannot be a peer, and says why; OpenCV scales without antialiasing, so levels of
    the same frame differ by more than by the rounding of colours, and less than those of another frame."""
    verdict = "same" if decord else "not installed"
    if decord:
        try:
            one, other = items["decord, a view"][-1](), items["tubelet, a view"][-1]()
            apart = float(np.abs(one - other.astype(np.int16)).mean((1, 2, 3)).max())
            verdict = "same" if apart < 8 else f"other frames: {apart:.1f} levels apart"
        except Exception as error:
            verdict = f"fails: {type(error).__name__}"
    if verdict != "same":
        for name in ("decord, a view", "decord, released"):
            items.pop(name, None)
    return verdict


def row_of(
    what: str, video: Video, sides: dict[str, Callable[[], object]], repeats: int, **more: Any
) -> dict[str, Any]:
    """Times of one file; the first side is ours."""
    found = best_of_core(sides, repeats)
    ours, *others = found
    return {
        "what": what,
        "file": video.path.name,
        "codec": video.codec,
        "size": f"{video.width}x{video.height}",
        "frames": video.frames,
        **more,
        **{f"ms, {name}": value for name, value in found.items()},
        **{f"times as fast as {name}": round(found[name] / found[ours], 2) for name in others},
    }


# What is asked.


def tasks(path: Path) -> Iterator[tuple[str, Data, Views, Video, list[np.ndarray], Items, str]]:
    """Of a file: name, data, views, index, frames of each view in time, items of the peers, what is said of decord."""
    for text, data in TASKS.items():
        views, video = Views.parse(text), probe(path)
        times = time_views(data.clip, video.seconds, views.times)
        items = peers(video, times, [Place(index, views.places) for index in range(views.places)], data)
        yield text, data, views, video, times, items, left_out(items)


def reading(path: Path, repeats: int) -> Iterator[dict[str, Any]]:
    for text, data, views, video, times, items, verdict in tasks(path):
        ours, _ = views_of(Item(path), data, views)
        assert np.array_equal(items["tubelet, a view"][-1](), ours[-1].permute(1, 2, 3, 0).numpy())
        sides = {"tubelet": partial(anew, partial(views_of, Item(path), data, views))}
        sides |= {name: partial(every, acts) for name, acts in items.items()}
        decodes = frames_at(path, np.unique(np.concatenate(times))).decoded
        yield row_of(f"reading, {text}", video, sides, repeats, decord=verdict, decoded=decodes)


def testing(path: Path, repeats: int) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    network = Classifier(SIZES["ti"].build(Grid.of(16, 224, 224, SIZES["ti"].patch), 3), len(LABELS.names)).eval()
    for text, data, views, video, _, items, verdict in tasks(path):
        looked = Viewer(network, Data(data.clip, labels=LABELS), SIZES["ti"].patch, batch=BATCH)

        @torch.no_grad()
        def one_by_one(acts: list[Callable[[], Clip]], network: Any = network) -> torch.Tensor:
            waiting, found = iter(acts), []
            _memory.clear()
            while few := list(islice(waiting, BATCH)):
                clips = torch.from_numpy(np.stack([act() for act in few])).permute(0, 4, 1, 2, 3)
                found.append(network(inputs(clips, SIZES["ti"].patch)))
            return torch.cat(found).double().softmax(1).mean(0)

        ours = partial(multi_view, looked, [Item(path, "a")], views)
        sides = {"tubelet": partial(anew, ours)} | {name: partial(one_by_one, acts) for name, acts in items.items()}
        yield row_of(f"test, {text}", video, sides, repeats, decord=verdict)


def embedding(path: Path, repeats: int) -> Iterator[dict[str, Any]]:
    data, video = TASKS["5x3"], probe(path)
    if video.frames < 2 * LENGTH:
        return
    for stride in (16, LENGTH):
        ways = Embedding(window=f"{LENGTH}f", stride=f"{stride}f")
        each = interval(video)
        found = spans(video.seconds.tolist(), each, LENGTH * each, stride * each)
        windows = [span.first + data.clip(video.seconds[span.first : span.stop]) for span in found]
        items = peers(video, windows, [Place()], data)
        items.pop("decord, released", None)  # it has no windows
        verdict = left_out(items)
        *_, last = clips_of(Item(path), data, ways)
        assert np.array_equal(items["tubelet, a view"][-1](), last.video.permute(1, 2, 3, 0).numpy())
        sides = {"tubelet": partial(anew, lambda ways=ways: list(clips_of(Item(path), data, ways)))}
        sides |= {name: partial(every, acts) for name, acts in items.items()}
        yield row_of(f"embedding, every {stride}", video, sides, repeats, decord=verdict, windows=len(windows))


def means(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for everything asked of each source: geometric means of the ratios."""
    for source, what in dict.fromkeys((row["source"], row["what"]) for row in rows):
        some = [row for row in rows if (row["source"], row["what"]) == (source, what)]
        ratios = {key: [row[key] for row in some if key in row] for row in some for key in row if "times" in key}
        found = {key: round(math.exp(np.log(values).mean()), 2) for key, values in ratios.items()}
        print(source, what, *(f"{key}: {found[key]}, {min(ratios[key])} to {max(ratios[key])};" for key in found))
        yield {"source": source, "what": what, "file": "geometric mean", **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True, nargs="+", help="lists or folders; each is summed up by itself")
    parser.add_argument("--files", default="*")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--whole", type=int, default=1, help="so many files of each are tested with a network too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[dict[str, Any]] = []
    for source in args.videos:
        name = "prepared" if Path(source, "prepared.json").exists() else "originals"
        paths = [item.path for item in find(source) if fnmatch(item.path.name, args.files)]
        for number, path in enumerate(paths):
            new = [*reading(path, args.repeats), *embedding(path, args.repeats)]
            new += testing(path, args.repeats) if number < args.whole else []
            rows += [{"source": name} | row for row in new]
            print(
                path.name,
                *({key: row[key] for key in row if "times" in key or key == "what"} for row in new),
                flush=True,
            )
    rows += list(means(rows))
    names = dict.fromkeys(key for row in rows for key in row)
    save(__file__, [{name: row.get(name, "") for name in names} | provenance() for row in rows])


if __name__ == "__main__":
    main()
