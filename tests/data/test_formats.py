"""Files that are called videos and name others: nothing is fetched, opened or shown but the file itself."""

import io
import os
import re
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import fsspec
import pytest
from films import FFMPEG, moving
from storage import served

from tubelet.data.check import check
from tubelet.data.formats import CONTAINERS
from tubelet.data.items import Item
from tubelet.data.stream import frames_of_stream
from tubelet.data.video import VideoError, frames_at, probe, write


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    """A folder with a video that nothing else may show, in two containers."""
    folder = tmp_path_factory.mktemp("secret")
    write(folder / "secret.mp4", moving(20), 10)
    command = [FFMPEG, "-v", "fatal", "-i", folder / "secret.mp4", "-c", "copy", folder / "secret.ts"]
    subprocess.run(command, check=True)
    return folder


def m3u8(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n"


def concat(target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\n"


def dash(target: str) -> str:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" minBufferTime="PT1S" '
        'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000" codecs="avc1.4d401e" width="64" '
        f'height="48"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>\n'
    )


def sdp(target: str) -> str:
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0", "m=video 5004 RTP/AVP 96"]
    return "\n".join([*lines, "a=rtpmap:96 H264/90000", ""])


# Raw MPEG-4 has no header, so anything that is called film.m4v may be that.
WORDS = "does not open as a video|packets, none of which decodes"
KINDS = {"m3u8": m3u8, "concat": concat, "dash": dash, "sdp": sdp}


def refused(path: Path) -> None:
    """Asserts that nothing opens a file."""
    for look in (probe, lambda path: frames_at(path, [0])):
        with pytest.raises(VideoError, match=WORDS):
            look(path)
    (row,) = check([Item(path)], workers=0).rows
    assert re.search(WORDS, row.problem)


@pytest.mark.parametrize("ending", ["mp4", "ts", "m4v", "m3u8"])  # the last: FFmpeg looks at names, too
@pytest.mark.parametrize("kind", KINDS)
def test_a_playlist_fetches_nothing_from_the_network(kind, ending, secret, tmp_path):
    with served(secret) as storage:
        path = tmp_path / f"film.{ending}"
        for name in ("secret.ts", "secret.mp4"):
            path.write_text(KINDS[kind](f"{storage.url}/{name}"))
            refused(path)
        assert storage.asked == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["absolute", "file", "relative"])
def test_a_playlist_shows_no_other_file(how, kind, secret, tmp_path):
    for name in ("secret.ts", "secret.mp4"):
        (tmp_path / name).write_bytes((secret / name).read_bytes())
        target = {"absolute": str(secret / name), "file": f"file://{secret / name}", "relative": name}[how]
        path = tmp_path / f"{kind}.mp4"
        path.write_text(KINDS[kind](target))
        refused(path)


@pytest.mark.parametrize("kind", ["m3u8", "concat"])
def test_these_playlists_are_played_without_the_guard(kind, secret, tmp_path):
    """Or the tests above would show nothing."""
    path = tmp_path / "film.m3u8"
    (tmp_path / "secret.ts").write_bytes((secret / "secret.ts").read_bytes())
    path.write_text(KINDS[kind]("secret.ts"))
    with av.open(os.fspath(path)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 20


def test_a_playlist_in_a_shard_or_elsewhere_or_in_a_pipe_opens_nothing(secret, tmp_path):
    system = fsspec.filesystem("memory")
    with served(secret) as storage:
        text = m3u8(f"{storage.url}/secret.ts").encode()
        with tarfile.open(tmp_path / "films.tar", "w") as tar:
            info = tarfile.TarInfo("film.mp4")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        refused(tmp_path / "films.tar" / "film.mp4")
        system.pipe("/films/film.mp4", text)
        try:
            refused(Path("memory://films/film.mp4"))
        finally:
            system.rm("/films", recursive=True)
        (tmp_path / "pipe").write_bytes(text)
        with (tmp_path / "pipe").open("rb") as pipe, pytest.raises(VideoError, match="no video that can be streamed"):
            next(frames_of_stream(pipe))
        assert storage.asked == []


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The boxes of an MP4, or of one of them: kind and content."""
    found, place = [], 0
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        found.append((kind, data[place + 8 : place + size]))
        place += size
    return found


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def changed(data: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
    """The same boxes with the content of one in them changed."""
    return b"".join(
        box(
            kind,
            (changed(content, path[1:], change) if len(path) > 1 else change(content)) if kind == path[0] else content,
        )
        for kind, content in boxes(data)
    )


def alis(target: str) -> bytes:
    """A data reference as Apple's: an alias record with the path of another file (type 2 and 18)."""
    path = target.encode()
    record = bytearray(150)
    struct.pack_into(">HH", record, 4, 0, 2)
    record[10:11] = bytes([3])
    record[11:14] = b"vol"
    struct.pack_into(">h", record, 128 + 2, 1)
    struct.pack_into(">h", record, 128, 1)
    tags = struct.pack(">HH", 18, len(path)) + path + b"\0" * (len(path) % 2)
    tags += struct.pack(">HH", 2, len(path)) + path + b"\0" * (len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    return box(b"alis", b"\0\0\0\0" + bytes(record) + tags)


@pytest.mark.parametrize("kind", ["url", "alis"])
@pytest.mark.parametrize("where", ["network", "file"])
def test_an_mp4_whose_pictures_are_said_to_be_elsewhere_shows_none_of_those(where, kind, secret, tmp_path):
    with served(secret) as storage:
        target = f"{storage.url}/secret.mp4" if where == "network" else f"{secret}/secret.mp4"
        reference = box(b"url ", b"\0\0\0\0" + target.encode() + b"\0") if kind == "url" else alis(target)
        tables = (b"moov", b"trak", b"mdia", b"minf", b"dinf")
        data = (secret / "secret.mp4").read_bytes()
        data = changed(data, tables, lambda _: box(b"dref", struct.pack(">II", 0, 1) + reference))
        data = changed(data, (b"mdat",), lambda content: bytes(len(content)))  # its own pictures are zeros
        path = tmp_path / "film.mp4"
        path.write_bytes(data)
        with pytest.raises(VideoError):
            frames_at(path, [0])
        assert storage.asked == []


def test_a_name_like_an_address_is_the_name_of_a_file(secret, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = (secret / "secret.mp4").read_bytes()
    for name in ("concat:a.mp4|b.mp4", "a:b.mp4", "subfile,,start,0,end,9,,:x.mp4", "%03d.mp4", "crypto:x.mp4"):
        Path(name).write_bytes(data)
        assert probe(Path(name)).frames == 20


def test_only_containers_that_hold_their_pictures_are_read():
    readers = CONTAINERS.split(",")
    assert all(av.format.ContainerFormat(name, "r").is_input for name in readers)
    assert not {"hls", "dash", "concat", "image2", "sdp", "rtsp", "rtp", "lavfi", "webm_dash_manifest", "imf"} & {
        *readers
    }
