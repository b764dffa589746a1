"""Kinds of damage to video files, for `damage.py` and the tests: bytes in, bytes out, everything by a generator.

Each kind is a function of an `Original`, another one and a generator; it gives the bytes of a damaged file, with the
ending that it gets if that is not its own, or None where it does not apply.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tubelet.data.video import demuxed, opened

MP4 = (".mp4", ".mov", ".3gp", ".m4v")
MATROSKA = (".mkv", ".webm")
NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"dinf")
HOSTILE = (0, 1, 2, 7, 255, 65535, 10**7, 10**9, 2**31 - 1, 2**31, 2**32 - 1)
Made = bytes | tuple[bytes, str] | None


@dataclass(frozen=True)
class Original:
    """A short file that is whole."""

    path: Path

    @cached_property
    def data(self) -> bytes:
        """Its bytes."""
        return self.path.read_bytes()

    @cached_property
    def packets(self) -> list[tuple[int, int]]:
        """(place, bytes) of the packets of its pictures, as far as FFmpeg knows them."""
        with opened(self.path) as (container, stream):
            return [(p.pos, p.size) for p in demuxed(container, stream) if p.pos is not None and p.pos >= 0]

    @cached_property
    def boxes(self) -> list[tuple[bytes, int, int]]:
        """(kind, first byte, bytes) of every box of an MP4."""
        return [*boxes(self.data, 0, len(self.data))]

    @property
    def ending(self) -> str:
        """Of its name."""
        return self.path.suffix


def boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes and what is in them."""
    while begin + 8 <= end:
        size, kind = struct.unpack(">I4s", data[begin : begin + 8])
        if not 8 <= size <= end - begin:
            return
        yield kind, begin, size
        if kind in NESTED:
            yield from boxes(data, begin + 8, begin + size)
        begin += size


def put(data: bytes, at: int, new: bytes) -> bytes:
    """The bytes with others in their place from `at` on."""
    return data[:at] + new + data[at + len(new) :]


def span(data: bytes, rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """First byte and end of a piece, `low` to `high` bytes long."""
    size = min(int(np.exp(rng.uniform(np.log(low), np.log(high)))), len(data) // 2)
    begin = int(rng.integers(0, len(data) - size))
    return begin, begin + size


# ---------------------------------------------------------------------------- any file


def flipped(data: bytes, places: np.ndarray, rng: np.random.Generator) -> bytes:
    """One bit of each of these bytes flipped."""
    out = bytearray(data)
    for place in places.tolist():
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def few_bits(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return flipped(one.data, rng.integers(0, len(one.data), int(rng.integers(1, 9))), rng)


def many_bits(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return flipped(one.data, rng.integers(0, len(one.data), len(one.data) // 2000 + 8), rng)


def bits_of_header(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return flipped(one.data, rng.integers(0, min(1024, len(one.data)), int(rng.integers(1, 5))), rng)


def noise(one: Original, other: Original, rng: np.random.Generator) -> Made:
    begin, end = span(one.data, rng, 64, 8192)
    return put(one.data, begin, rng.bytes(end - begin))


def zeros(one: Original, other: Original, rng: np.random.Generator) -> Made:
    begin, end = span(one.data, rng, 512, 32768)
    return put(one.data, begin, bytes(end - begin))


def zeros_at_the_end(one: Original, other: Original, rng: np.random.Generator) -> Made:
    at = int(rng.integers(len(one.data) // 10, len(one.data)))
    return put(one.data, at, bytes(len(one.data) - at))


def zeros_at_the_start(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return bytes(size := int(rng.integers(1, 4096))) + one.data[size:]


def packet_spoilt(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Some of the bytes of one to three packets."""
    data = one.data
    for place in rng.integers(0, len(one.packets), int(rng.integers(1, 4))) if one.packets else ():
        at, size = one.packets[place]
        begin = int(rng.integers(size))
        end = int(rng.integers(begin, size)) + 1
        data = put(data, at + begin, rng.bytes(end - begin) if rng.random() < 0.5 else bytes(end - begin))
    return data[: len(one.data)] if one.packets else None


def cut(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return one.data[: int(rng.integers(1, len(one.data)))]


def cut_at_a_boundary(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Before or behind a box or a packet, or a byte beside it."""
    places = [place for _, begin, size in one.boxes for place in (begin, begin + 8, begin + size)]
    places += [place for begin, size in one.packets for place in (begin, begin + size)]
    at = int(rng.choice(places)) if places else 0
    at = int(np.clip(at + rng.integers(-1, 2), 1, len(one.data) - 1))
    return one.data[:at] if places else None


def cut_in_the_header(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return one.data[: int(rng.integers(1, min(2048, len(one.data))))]


def start_lost(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return one.data[int(rng.integers(1, len(one.data) // 2)) :]


def hole(one: Original, other: Original, rng: np.random.Generator) -> Made:
    begin, end = span(one.data, rng, 1, 32768)
    return one.data[:begin] + one.data[end:]


def repeated(one: Original, other: Original, rng: np.random.Generator) -> Made:
    begin, end = span(one.data, rng, 256, 32768)
    return one.data[:end] + one.data[begin:]


def swapped(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Two blocks of a disk in each other's place."""
    size = min(4096, len(one.data) // 4)
    a, b = sorted(int(n) * size for n in rng.choice(len(one.data) // size, 2, replace=False))
    return put(put(one.data, a, one.data[b : b + size]), b, one.data[a : a + size])


def head_of_another(one: Original, other: Original, rng: np.random.Generator) -> Made:
    at = int(rng.integers(16, min(len(one.data), len(other.data), 8192)))
    return other.data[:at] + one.data[at:]


def tail_of_another(one: Original, other: Original, rng: np.random.Generator) -> Made:
    share = rng.uniform(0.2, 0.8)
    return one.data[: int(share * len(one.data))] + other.data[int(share * len(other.data)) :]


def two_in_one(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return one.data + other.data


def wrong_ending(one: Original, other: Original, rng: np.random.Generator) -> Made:
    return one.data, other.ending


def no_video(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Something else under the name of a video."""
    picture = BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(picture, "PNG")
    page = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not found</body></html>\n"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
    texts = b"", b"\n", b"not a film\n" * 100, page, pointer, b"#!ffconcat\n", b"PK\3\4" + rng.bytes(3000)
    others = picture.getvalue(), rng.bytes(5000), bytes(5000), b"\xff" * 5000, one.data[::-1], one.data[:8] * 500
    return (*texts, *others)[int(rng.integers(len(texts) + len(others)))]


def numbers(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Hostile numbers in the first kilobytes, wherever they land."""
    data = one.data
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, min(2048, len(data) - 8)))
        order = "<" if rng.random() < 0.5 else ">"
        data = put(data, at, struct.pack(order + "I", int(rng.choice(HOSTILE)))[: int(rng.choice([2, 4]))])
    return data


# ---------------------------------------------------------------------------- what a container says


def of_kind(one: Original, rng: np.random.Generator, *kinds: bytes) -> tuple[int, int] | None:
    """First byte and bytes of one of the boxes of some kinds."""
    found = [(begin, size) for kind, begin, size in one.boxes if kind in kinds]
    return found[int(rng.integers(len(found)))] if found and one.ending in MP4 else None


def word(rng: np.random.Generator, bytes_: int = 4) -> bytes:
    """A hostile number, big end first."""
    return (int(rng.choice(HOSTILE)) % 2 ** (8 * bytes_)).to_bytes(bytes_, "big")


def box_size(one: Original, other: Original, rng: np.random.Generator) -> Made:
    if one.ending not in MP4:
        return None
    _, begin, size = one.boxes[int(rng.integers(len(one.boxes)))]
    said = int(rng.choice([0, 1, 7, 8, size - 1, size + 1, size * 2, 2**31, 2**32 - 1]))
    data = put(one.data, begin, struct.pack(">I", said % 2**32))
    return put(data, begin + 8, struct.pack(">Q", int(rng.choice([0, 1, 2**62])) * 2)) if said == 1 else data


def box_lost(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """One that FFmpeg finds no longer: the whole table, or a part of it."""
    if one.ending not in MP4:
        return None
    kind, begin, _ = one.boxes[int(rng.integers(len(one.boxes)))]
    place = of_kind(one, rng, b"moov")
    begin = place[0] if place and rng.random() < 0.3 else begin
    return put(one.data, begin + 4, b"free" if rng.random() < 0.5 else kind[::-1])


def box_in_itself(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Tables nested some thousand deep."""
    if (place := of_kind(one, rng, b"moov")) is None:
        return None
    deep, kind = int(rng.choice([10, 1000, 5000])), bytes(rng.choice([b"trak", b"moov", b"udta", b"meta"]))
    inner = b""
    for _ in range(deep):
        inner = struct.pack(">I4s", len(inner) + 8, kind) + inner
    moov = one.data[place[0] + 8 : sum(place)] + inner
    return one.data[: place[0]] + struct.pack(">I4s", len(moov) + 8, b"moov") + moov + one.data[sum(place) :]


def element(data: bytes, rng: np.random.Generator, *names: bytes) -> tuple[int, int] | None:
    """Where the content of one of the short Matroska elements of these names lies, as far as can be told by looking."""
    places = []
    for name in names:
        at = data.find(name)
        while at >= 0 and len(places) < 200:
            if 0x81 <= data[at + len(name) : at + len(name) + 1][0] <= 0x88:
                places.append((at + len(name) + 1, data[at + len(name)] & 15))
            at = data.find(name, at + 1, len(data) - 16)
    return places[int(rng.integers(len(places)))] if places else None


def hostile_size(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Width and height: 0, 1, 65535."""
    data, wide, high = one.data, *(int(n) for n in rng.choice([0, 1, 15, 4096, 16384, 65535], 2))
    if (place := of_kind(one, rng, b"stsd")) is not None:
        data = put(data, place[0] + 16 + 32, struct.pack(">HH", wide, high))
        if (place := of_kind(one, rng, b"tkhd")) is not None:
            data = put(data, sum(place) - 8, struct.pack(">HHHH", wide, 0, high, 0))
        return data
    if one.ending in MATROSKA:
        for name, edge in ((b"\xb0", wide), (b"\xba", high)):
            if (place := element(data[:4096], rng, name)) is not None:
                data = put(data, place[0], (edge % 2 ** (8 * place[1])).to_bytes(place[1], "big"))
        return data
    if (at := data.find(b"strf")) > 0:  # AVI
        return put(data, at + 12, struct.pack("<II", wide, high))
    if (at := data.find(b"\0\0\1\xb3")) >= 0:  # the sequence header of MPEG
        return put(data, at + 4, (wide % 4096 << 12 | high % 4096).to_bytes(3, "big"))
    if one.ending == ".gif":
        return put(data, 6, struct.pack("<HH", wide, high))
    return None


def hostile_times(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Time scales, durations, distances, edits, frame rates: 0, 10^9, negative, backwards."""
    data = one.data
    if one.ending in MP4:
        for _ in range(int(rng.integers(1, 4))):
            place = of_kind(one, rng, b"mvhd", b"mdhd", b"stts", b"ctts", b"elst", b"tfdt", b"trun", b"tfhd", b"mehd")
            if place is not None:
                at = place[0] + 8 + 4 * int(rng.integers(1, max((place[1] - 8) // 4, 2)))
                data = put(data, at, word(rng))
        return data
    if one.ending in MATROSKA:
        for _ in range(3):
            found = element(data, rng, b"\x44\x89", b"\x2a\xd7\xb1", b"\x23\xe3\x83", b"\xe7")
            data = data if found is None else put(data, found[0], rng.bytes(found[1]))
        for at in [at for at, _ in one.packets if rng.random() < 0.1]:  # of a block, before its first byte
            data = put(data, at - 3, rng.bytes(2))
        return data
    if (at := data.find(b"avih")) > 0:
        data = put(data, at + 8, word(rng)[::-1])
        return put(data, data.find(b"strh") + 28, word(rng)[::-1] + word(rng)[::-1])
    if one.ending in (".ts", ".mpg", ".vob"):  # the five bytes of a time of showing
        places = [at for at in range(len(data) - 20) if data[at : at + 4] == b"\0\0\1\xe0"]
        for at in [at for at in places if rng.random() < 0.2]:
            data = put(data, at + 9, rng.bytes(5))
        return data
    if one.ending == ".flv":
        for at, _ in one.packets:
            data = put(data, at + 4, rng.bytes(4)) if rng.random() < 0.1 else data
        return data
    return None


def hostile_counts(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """How many frames, chunks, packets there are to be: 0, 10^7, 2^32."""
    data = one.data
    if (place := of_kind(one, rng, b"stsz", b"stts", b"stsc", b"stco", b"ctts", b"stss", b"trun", b"elst")) is not None:
        at = place[0] + (16 if data[place[0] + 4 : place[0] + 8] == b"stsz" else 12)
        return put(data, at, word(rng))
    if (at := data.find(b"avih")) > 0:
        data = put(data, at + 8 + 16, word(rng)[::-1])
        data = put(data, data.find(b"strh") + 8 + 32, word(rng)[::-1])
        return put(data, at + 4, word(rng)[::-1]) if (at := data.find(b"idx1")) > 0 and rng.random() < 0.5 else data
    if one.ending in MATROSKA:  # sizes of clusters, segments and cues
        names = (b"\x1f\x43\xb6\x75", b"\x18\x53\x80\x67", b"\x1c\x53\xbb\x6b", b"\x16\x54\xae\x6b")
        at = data.find(names[int(rng.integers(len(names)))])
        return put(data, at + 4, rng.choice([b"\x01" + b"\xff" * 7, b"\x01" + b"\0" * 7, b"\x08" + b"\xff" * 4]))
    return None


def rotation(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """A matrix of numbers by chance, or of zeros."""
    if (place := of_kind(one, rng, b"tkhd")) is None:
        return None
    matrix = [int(n) for n in rng.choice([0, 1, -1, 65536, -65536, 2**30, 2**31 - 1, -(2**31)], 9)]
    return put(one.data, sum(place) - 8 - 36, struct.pack(">9i", *matrix))


def many_packets(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Thousands of packets of a byte, or 100,000 of none."""
    count = int(rng.choice([3000, 100_000]))
    if (place := of_kind(one, rng, b"stsz")) is not None:
        data = put(one.data, place[0] + 12, struct.pack(">II", int(rng.integers(1, 3)), count))
        stts, stsc = (of_kind(one, rng, kind) for kind in (b"stts", b"stsc"))
        data = data if stts is None else put(data, stts[0] + 12, struct.pack(">III", 1, count, 1))
        data = data if stsc is None else put(data, stsc[0] + 12, struct.pack(">IIII", 1, 1, count, 1))
        return data + bytes(2 * count)
    if (at := one.data.find(b"movi")) > 0 and one.ending == ".avi":
        chunk = b"00dc\0\0\0\0" if count > 3000 else b"00dc\1\0\0\0\0\0"
        return one.data[: at + 4] + chunk * count + one.data[at + 4 :]
    return None


def another_inside(one: Original, other: Original, rng: np.random.Generator) -> Made:
    """Packets of another film behind those of the first, in the first's stream: another size, or another codec."""
    beside = one.path.with_name(f".joined{one.ending}")
    kind = {".ts": "mpegts", ".mpg": "mpeg", ".vob": "vob", ".wmv": "asf", ".asf": "asf"}.get(one.ending)
    try:
        with (
            opened(one.path) as (first, stream),
            opened(other.path) as (second, more),
            av.open(str(beside), "w", format=kind) as out,
        ):
            track, end = out.add_stream_from_template(stream), 0.0
            for source, container in ((stream, first), (more, second)):
                last = 0.0
                for packet in demuxed(container, source):
                    base, to = packet.time_base, stream.time_base
                    shift = 0 if source is stream else end
                    for name in ("pts", "dts"):
                        if (value := getattr(packet, name)) is not None:
                            setattr(packet, name, round(value * base / to + shift))
                            last = max(last, getattr(packet, name) + 1 / 25 / to)
                    packet.time_base, packet.stream = to, track
                    out.mux(packet)
                end = last
        return beside.read_bytes()
    except (av.FFmpegError, ValueError, TypeError):
        return None
    finally:
        beside.unlink(missing_ok=True)


KINDS: dict[str, Callable[[Original, Original, np.random.Generator], Made]] = {
    "bits, few": few_bits,
    "bits, many": many_bits,
    "bits, header": bits_of_header,
    "noise": noise,
    "zeros": zeros,
    "zeros, end": zeros_at_the_end,
    "zeros, start": zeros_at_the_start,
    "packets spoilt": packet_spoilt,
    "cut": cut,
    "cut, boundary": cut_at_a_boundary,
    "cut, header": cut_in_the_header,
    "start lost": start_lost,
    "hole": hole,
    "repeated": repeated,
    "blocks swapped": swapped,
    "head of another": head_of_another,
    "tail of another": tail_of_another,
    "two in one": two_in_one,
    "another inside": another_inside,
    "wrong ending": wrong_ending,
    "no video": no_video,
    "numbers": numbers,
    "box size": box_size,
    "box lost": box_lost,
    "box in itself": box_in_itself,
    "hostile size": hostile_size,
    "hostile times": hostile_times,
    "hostile counts": hostile_counts,
    "rotation": rotation,
    "many packets": many_packets,
}
