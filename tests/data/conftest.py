"""Small videos for the tests of files, lists and batches; and files that are no videos any more."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from films import moving

from tubelet.data.video import write


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Seven good videos of 20 to 44 frames, in two class folders."""
    folder = tmp_path_factory.mktemp("clips")
    for index in range(7):
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        write(folder / "ab"[index % 2] / f"{index}.mp4", moving(20 + 4 * index, index), 10)
    return folder


@pytest.fixture(scope="session")
def bad(tmp_path_factory) -> dict[str, Path]:
    """Files by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    kinds = ("zero", "text", "truncated", "audio", "flipped", "one", "short")
    paths = {kind: folder / f"{kind}.mp4" for kind in kinds}
    paths["zero"].touch()
    paths["text"].write_text("I am a letter, not a film.\n" * 100)
    write(folder / "good.mp4", moving(60, 1, 96, 128), 10, options={"g": "12"})
    data = bytearray((folder / "good.mp4").read_bytes())
    paths["truncated"].write_bytes(data[:400])  # in the middle of the index
    with av.open(os.fspath(folder / "good.mp4")) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    for place in places[20:40:3]:  # the length of a NAL unit: these packets are lost, the others decode
        data[place] ^= 0xFF
    paths["flipped"].write_bytes(data)
    (folder / "good.mp4").unlink()
    with av.open(os.fspath(paths["audio"]), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    write(paths["one"], moving(1), 10)
    write(paths["short"], moving(5), 10)
    return paths


@pytest.fixture(scope="session")
def real() -> Path:
    """A folder of filmed videos, with those of everyday scenes in everyday/: TUBELET_VIDEOS says where."""
    folder = os.environ.get("TUBELET_VIDEOS")
    if not folder:
        pytest.skip("no filmed videos; TUBELET_VIDEOS names a folder of them")
    return Path(folder)
