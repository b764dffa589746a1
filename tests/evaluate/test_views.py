"""Views are those of the papers, decoded once; a test of a rigged network says exactly what is true."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from rigged import COLOURS, DATA, PATCH, colour_of, film, plain, viewer
from torch.utils.data import DataLoader

from tubelet.data import video as reader
from tubelet.data.labels import Labels
from tubelet.data.sampling import Dense, Segments
from tubelet.data.sources import Item
from tubelet.data.transforms import Place
from tubelet.data.video import VideoError, frames_at, probe
from tubelet.data.views import time_views
from tubelet.data.writing import write
from tubelet.evaluate import views as module
from tubelet.evaluate.results import numbers
from tubelet.evaluate.views import Viewer, Views, multi_view, views_of
from tubelet.targets import inputs


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[Item]:
    """Eight videos, of which two are of another colour than their label says; two files share their name."""
    folder = tmp_path_factory.mktemp("colours")
    shown = ["red", "green", "blue", "red", "green", "blue", "green", "red"]
    said = ["red", "green", "blue", "red", "green", "blue", "red", "blue"]
    return [
        Item(film(folder / str(n) / "same.name.mp4" if n < 2 else folder / f"{n}.mp4", colour), label)
        for n, (colour, label) in enumerate(zip(shown, said))
    ]


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A noisy video, in which every view differs."""
    path = tmp_path_factory.mktemp("moving") / "moving.mp4"
    write(path, np.random.default_rng(0).integers(0, 255, (40, 36, 64, 3), np.uint8), 10)
    return path


@pytest.mark.parametrize("clip", [Dense(4, stride=2), Segments(4)])
@pytest.mark.parametrize("views", [Views(1, 1), Views(2, 3), Views(5, 3), Views(3, 1)])
def test_views_are_those_cut_one_by_one(moving, clip, views):
    data = replace(DATA, clip=clip)
    found, notes = views_of(Item(moving), data, views)
    one_by_one = [
        Place(place, views.places)(frames_at(moving, indices).frames, data.size).permute(3, 0, 1, 2)
        for indices in time_views(clip, probe(moving).seconds, views.times)
        for place in range(views.places)
    ]
    assert torch.equal(found, torch.stack(one_by_one).view(views.times, views.places, *found.shape[1:]).flatten(0, 1))
    assert notes == []


def test_views_of_a_part_of_a_video(moving):
    found, _ = views_of(Item(moving, None, 1.0, 2.0), DATA, Views(2, 1))
    wanted = [frames_at(moving, [start, start + 2, start + 4, start + 6]).frames for start in (10, 12)]
    assert torch.equal(found, torch.stack([Place()(clip, (32, 32)).permute(3, 0, 1, 2) for clip in wanted]))
    with pytest.raises(VideoError, match=r"moving\.mp4"):
        views_of(Item(moving, None, 9.0, 10.0), DATA, Views())


@pytest.mark.parametrize("clip", [Dense(4, stride=2), Segments(4)])
@pytest.mark.parametrize("workers", [0, 1])
def test_each_video_is_opened_once_and_each_frame_of_its_views_decoded_once(
    items, moving, tmp_path, monkeypatch, clip, workers
):
    log = tmp_path / "log"  # a file: workers are other processes
    opened, decode = reader.opened, module.frames_at

    def noted(line: object) -> None:
        with open(log, "a") as file:
            file.write(f"{line}\n")

    def decoded(path, choose, **how):
        asked = []
        found = decode(path, lambda video: asked.extend(choose(video)) or asked, **how)
        noted(f"asked {path} {','.join(map(str, asked))} {found.decoded <= probe(path).frames}")
        return found

    monkeypatch.setattr(reader, "opened", lambda path: noted(f"opened {path}") or opened(path))
    monkeypatch.setattr(module, "frames_at", decoded)
    if workers:  # by fork they have what is put in place here
        monkeypatch.setattr(module, "DataLoader", partial(DataLoader, multiprocessing_context="fork"))
    some = [Item(moving, "red"), *items[:2]]
    multi_view(viewer(replace(DATA, clip=clip)), some, Views(5, 3), workers=workers)
    expected = []
    for item in some:
        views = time_views(clip, probe(item.path).seconds, 5)
        frames = ",".join(map(str, sorted(set(np.concatenate(views).tolist()))))
        expected += [f"opened {item.path}", f"asked {item.path} {frames} True"]
    assert log.read_text().splitlines() == expected


@pytest.mark.parametrize(("views", "batch"), [("5x3", 16), ("2x3", 4), ("1x1", 2), ("2x3", 32)])
def test_batches_are_full_and_span_videos(items, tmp_path, views, batch):
    """Of six videos, of which one cannot be read: all batches but the last have just so many clips."""
    (tmp_path / "bad.mp4").write_text("no video")
    some = [*items[:2], Item(tmp_path / "bad.mp4", "red"), *items[2:5]]
    sizes = []

    def network(patches):
        sizes.append(len(patches))
        return colour_of(patches)

    views = Views.parse(views)
    found = multi_view(Viewer(network, DATA, PATCH, batch=batch), some, views)
    total = 5 * views.times * views.places
    assert sizes == [batch] * (total // batch) + [total % batch] * (total % batch > 0)
    alone = multi_view(Viewer(colour_of, DATA, PATCH, batch=1), some, views)
    assert [row.item for row in found.rows] == list(range(6))
    for one, other in zip(found.rows, alone.rows):
        assert (one.path, one.error) == (other.path, other.error)
        assert one.outputs == (other.outputs and pytest.approx(other.outputs, abs=1e-6))


def test_a_known_accuracy_is_reported_exactly(items):
    done = []
    results = multi_view(viewer(), items, Views(2, 3), progress=lambda *now: done.append(now))
    found = numbers(results)
    assert found["top1"].value == 75.0
    assert found["mean_class_accuracy"].value == pytest.approx(100 * (2 / 3 + 1 + 2 / 3) / 3)
    assert [row.path for row in results.rows] == [str(item.path) for item in items]
    assert done[-1] == (8, 8)


def test_workers_find_the_same(items):
    assert multi_view(viewer(), items[:4], Views(2, 1), workers=1) == multi_view(viewer(), items[:4], Views(2, 1))


def test_a_corrupt_video_changes_its_own_row_only(items, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    before = multi_view(viewer(), items, Views(2, 1))
    after = multi_view(viewer(), [*items[:3], Item(bad, "red"), *items[3:]], Views(2, 1))
    row = after.rows.pop(3)
    assert row.outputs is None
    assert "bad.mp4" in str(row.error)
    assert [replace(row, item=0) for row in after.rows] == [replace(row, item=0) for row in before.rows]
    assert numbers(after) == numbers(before)


def test_what_is_averaged(moving):
    """Against a loop: softmax, then mean; or mean, then softmax."""
    clips, _ = views_of(Item(moving), DATA, Views(3, 2))
    net = torch.nn.Sequential(torch.nn.Linear(384, 3), torch.nn.Tanh())
    torch.manual_seed(0)
    logits = 9 * torch.cat([net(inputs(clip[None], PATCH)).mean(1) for clip in clips]).double()

    def network(patches):
        return 9 * net(patches).mean(1)

    def said(average: str, batch: int) -> list[float]:
        looked = Viewer(network, DATA, PATCH, average, batch=batch)
        return multi_view(looked, [Item(moving, "red")], Views(3, 2)).rows[0].outputs

    for batch in (1, 4, 16):
        torch.testing.assert_close(
            torch.tensor(said("probabilities", batch)), logits.softmax(1).mean(0), atol=1e-6, rtol=0, check_dtype=False
        )
        torch.testing.assert_close(
            torch.tensor(said("scores", batch)), logits.mean(0).softmax(0), atol=1e-6, rtol=0, check_dtype=False
        )
    assert said("scores", 16) != said("probabilities", 16)


def test_other_kinds_of_labels(tmp_path):
    path = film(tmp_path / "red.mp4", "red")
    several = replace(DATA, labels=Labels("classes", COLOURS))
    (row,) = multi_view(viewer(several), [Item(path, "red|blue")], Views(1, 1)).rows
    wanted = torch.sigmoid(10 * torch.tensor([40, 40, 200]) / 255)
    assert row.outputs == pytest.approx(wanted.tolist(), abs=0.02)
    values = replace(DATA, labels=Labels("values", COLOURS, offset=(0.0, 0.0, 100.0), unit=(1.0, 1.0, 10.0)))
    (row,) = multi_view(viewer(values), [Item(path, "0|0|200")], Views(1, 1)).rows
    assert row.outputs == pytest.approx([400 / 255, 400 / 255, 100 + 20000 / 255], rel=0.05)


def test_a_video_shorter_than_a_view_is_repeated_and_said(tmp_path):
    path = film(tmp_path / "short.mp4", "green", frames=3)
    (row,) = multi_view(viewer(), [Item(path, "green")], Views(2, 1)).rows
    assert row.outputs[1] > 0.9
    assert "too short" in row.notes[0]
    strict = replace(DATA, clip=Dense(4, stride=2, short="error"))
    with pytest.raises(ValueError, match=r"short\.mp4.*needs 7 source frames"):
        multi_view(viewer(strict), [Item(path, "green")], Views(2, 1))


def test_grey_and_small(tmp_path):
    path = film(tmp_path / "red.mp4", "red")
    data = replace(DATA, channels=1, cache=32)
    clips, _ = views_of(Item(path), data, Views(1, 1))
    assert clips.shape == (1, 1, 4, 32, 32)
    grey = plain("red", 1)[0, 0, 0] @ [0.299, 0.587, 0.114]
    assert clips.float().mean() == pytest.approx(grey, abs=3)


def test_labels_that_do_not_fit_come_before_the_work(items, monkeypatch):
    monkeypatch.setattr(module, "views_of", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"'purple' .*not in the class list"):
        multi_view(viewer(), [*items, replace(items[0], label="purple")], Views())
    with pytest.raises(ValueError, match="have no label"):
        multi_view(viewer(), [replace(items[0], label=None)], Views())
    with pytest.raises(ValueError, match="at least one video"):
        multi_view(viewer(), [], Views())
    with pytest.raises(ValueError, match="fine-tune first"):
        multi_view(viewer(replace(DATA, labels=None)), items, Views())


def test_networks_that_do_not_fit(items):
    wide = Viewer(lambda patches: torch.zeros(len(patches), 5), DATA, PATCH)
    with pytest.raises(ValueError, match="5 outputs for 3 classes"):
        multi_view(wide, items[:1], Views(1, 1))
    broken = Viewer(lambda patches: colour_of(patches) * float("nan"), DATA, PATCH)
    with pytest.raises(ValueError, match=r"same\.name\.mp4: the network gives NaN"):
        multi_view(broken, items[:1], Views(1, 1))


def test_a_source_domain_with_more_classes(items):
    """Trained on five classes, tested on three: reported with all five, and with the three."""
    more = Labels("class", ("beige", *COLOURS, "white"))

    def network(patches):
        known = colour_of(patches)
        return torch.cat([known.amax(1, keepdim=True) + 1, known, known[:, :1]], dim=1)  # always beige

    results = multi_view(Viewer(network, replace(DATA, labels=more), PATCH), items, Views(1, 1))
    assert numbers(results)["top1"].value == 0
    assert numbers(results.shared())["top1"].value == 75
    assert results.shared().labels.names == COLOURS


def test_views_as_written():
    assert Views.parse(" 5x3 ") == Views.parse("5×3") == Views(5, 3)
    for text in ("5", "0x3", "ax3", "5x3x2"):
        with pytest.raises(ValueError, match="views"):
            Views.parse(text)
