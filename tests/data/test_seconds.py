"""Clips of movies that are cut into files of one second each: whose frames say which they are."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tubelet.data.annotations import key_frames
from tubelet.data.datasets import Data, Dataset
from tubelet.data.index import VideoError
from tubelet.data.items import Item
from tubelet.data.keyframes import KeyFrame
from tubelet.data.parts import clip_of
from tubelet.data.sampling import Around
from tubelet.data.seconds import clip_of_seconds, file_of, is_cut
from tubelet.data.video import frames_at, write

SECONDS = {900: 24, 901: 25, 902: 25, 903: 30, 904: 24, 906: 25}


def told(second: int, frame: int, side: int = 32) -> np.ndarray:
    """A picture whose red says the second, and whose green the frame."""
    picture = np.zeros((side, side, 3), np.uint8)
    picture[..., 0], picture[..., 1] = 40 + 20 * (second - 900), 20 + 6 * frame
    return picture


def read(frames) -> list[tuple[int, int]]:
    """(second, frame) of pictures."""
    means = frames.float().mean((1, 2)).numpy()
    return [(900 + round((red - 40) / 20), round((green - 20) / 6)) for red, green, _ in means]


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    """Seconds of 24, 25 and 30 frames; 905 is missing."""
    folder = tmp_path_factory.mktemp("clips") / "movie"
    folder.mkdir()
    for second, count in SECONDS.items():
        frames = np.stack([told(second, frame) for frame in range(count)])
        write(folder / f"{second:04d}.mp4", frames, count, pixels="yuv444p", options={"crf": "4"})
    return folder


def expected(moment: float, sampler: Around) -> list[tuple[int, int]]:
    """The same, from the rule: frames of seconds that follow each other, those of a missing second next to it."""
    own = SECONDS[int(moment)]
    low, high = 900, 904
    if int(moment) == 906:
        low = high = 906
    found = []
    for offset in sampler.offsets():
        time = round(moment * own * 1000) / (own * 1000) + offset / own
        if time < low - 1e-9:
            found.append((low, 0))
        elif time >= high + 1 - 1e-9:
            found.append((high, SECONDS[high] - 1))
        else:
            second = int(np.floor(time + 1e-9))
            found.append((second, int(np.floor((time - second) * SECONDS[second] + 1e-6))))
    return found


@pytest.mark.parametrize("moment", [900.0, 901.0, 902.0, 903.0, 904.0, 906.0, 902.5, 903.9])
@pytest.mark.parametrize("sampler", [Around(16, 4), Around(4, 2), Around(1, 1), Around(8, 1)], ids=str)
def test_frames_are_those_around_the_moment_whatever_file_they_are_in(movie, moment, sampler):
    clip = clip_of_seconds(movie, moment, sampler)
    assert read(clip.frames) == expected(moment, sampler)
    assert clip.frames.shape == (sampler.frames, 32, 32, 3)
    assert (clip.seconds.diff() >= 0).all()


def test_clips_are_those_of_the_film_in_one_piece(tmp_path):
    frames = [told(900 + second, frame) for second in range(4) for frame in range(25)]
    write(tmp_path / "film.mp4", np.stack(frames), 25, pixels="yuv444p", options={"crf": "4"})
    for second in range(4):
        some = np.stack(frames[25 * second : 25 * second + 25])
        (tmp_path / "cut").mkdir(exist_ok=True)
        write(tmp_path / "cut" / f"{900 + second}.mp4", some, 25, pixels="yuv444p", options={"crf": "4"})
    for moment in (0.0, 1.0, 1.52, 2.0, 3.96):
        whole = clip_of(Item(tmp_path / "film.mp4", key=KeyFrame(moment, ())), Around(16, 4))
        assert read(clip_of_seconds(tmp_path / "cut", 900 + moment, Around(16, 4)).frames) == read(whole.frames)


def test_the_moments_own_file_has_to_be_there(movie):
    with pytest.raises(VideoError, match=r"movie has no file of second 905 \(0905\.mp4 or 905\.mp4\)"):
        clip_of_seconds(movie, 905.0, Around(4, 1))


def test_files_of_one_movie_have_one_size(movie, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(movie, folder)
    write(folder / "0903.mp4", np.stack([told(903, 0, 64)] * 25), 25)
    with pytest.raises(VideoError, match=r"different sizes: 32x32, 64x64"):
        clip_of_seconds(folder, 902.0, Around(16, 4))
    clip_of_seconds(folder, 901.0, Around(4, 1))


def test_names_of_files_and_folders(movie, tmp_path):
    assert file_of(movie, 902).name == "0902.mp4"
    assert file_of(movie, 905) is None
    assert is_cut(movie)
    assert not is_cut(movie / "0902.mp4")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "000001.jpg").touch()
    assert not is_cut(tmp_path / "frames")


def test_grey_clips_have_one_channel(movie):
    assert clip_of_seconds(movie, 902.0, Around(4, 2), gray=True).frames.shape[-1] == 1


def test_a_table_may_name_such_a_movie_and_its_seconds(movie):
    table = movie.parent / "boxes.csv"
    table.write_text("path,seconds,x1,y1,x2,y2,label\nmovie,902,8,8,16,32,run\nmovie,903.5,0,0,9,9,fall\n")
    first, second = key_frames(table).items
    assert (first.path, first.key.seconds, first.key.boxes[0].corners) == (movie, 902, (0.25, 0.25, 0.5, 1))
    assert second.key.seconds == 903.5
    table.write_text("path,seconds,x1,y1,x2,y2,label\nmovie,905,0,0,1,1,run\nmovie,902,0,0,1,1,run\n")
    found = key_frames(table)
    assert [item.key.seconds for item in found.items] == [902]
    assert "movie, second 905" in found.notes[0]
    data = Data(clip=Around(4, 1), size=(16, 16), cache=64)
    with pytest.raises(
        ValueError, match=r"--data\.cache 64 keeps whole videos, and .*movie is a movie that is cut .* 0"
    ):
        Dataset(found.items, data)
    assert len(Dataset(found.items, replace(data, cache=0))) == 1
    table.write_text("path,frame,x1,y1,x2,y2,label\nmovie,905,0,0,1,1,run\n")
    with pytest.raises(ValueError, match=r"cut into files of one second; give seconds, and not frames"):
        key_frames(table)
    assert read(frames_at(movie / "0900.mp4", [3]).frames) == [(900, 3)]
