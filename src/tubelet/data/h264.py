"""What an H.264 stream says about who refers to whom: read from the headers of its packets, nothing is decoded.

FFmpeg hands out motion vectors with the side that they point to, past or future, and not with the frame. Where every
picture may refer to one frame a side, the headers settle which. Interlaced streams are not followed.

Source: ITU-T H.264 (08/2021), 7.3.2.1.1 (sequences), 7.3.2.2 (pictures), 7.3.3 (slices), annex B; ISO/IEC 14496-15 for
packets in files.
"""

from collections.abc import Iterator
from typing import NamedTuple

CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}  # profiles that tell their chroma format
HEADER = 64  # bytes that hold all that is read of a slice
SET = 4096  # bytes that hold any parameter set; a damaged one may be as long as the file, and would take hours
READ = 4  # bytes that mostly hold what must be read of one with a single reference


class Slice(NamedTuple):
    """What is kept of the slices of one picture."""

    reference: bool  # other pictures refer to it
    single: bool  # it refers to one picture a side at most: the nearest reference shown before it, or after it


UNUSED = Slice(reference=False, single=True)  # of a picture that nobody asked for, and no other refers to


class Sequence(NamedTuple):
    """What is kept of a sequence parameter set."""

    planes: bool  # colours are coded apart
    number_bits: int
    order: int  # how the order of showing is told, 0 to 2
    order_bits: int
    order_told: bool  # each slice has a word on it, for order 1
    references: int  # frames that may be kept to refer to
    whole: bool  # frames only, no fields


class Picture(NamedTuple):
    """What is kept of a picture parameter set."""

    sequence: int
    bottom: bool  # slices tell the order of the bottom field
    counts: tuple[int, int]  # pictures referred to before and after, unless a slice says otherwise
    redundant: bool  # slices count themselves


class Bits:
    """A unit's bits from the first on, without what was put in so that no start code appears.

    Reading past the end is a ValueError.
    """

    def __init__(self, unit: bytes) -> None:
        data = unit.replace(b"\0\0\3", b"\0\0")
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits."""
        self.left -= count
        if self.left < 0:
            raise ValueError("the unit ends too early")
        return self.value >> self.left & (1 << count) - 1

    def number(self) -> int:
        """The next number, 0 or more, in Exp-Golomb code (9.1)."""
        rest = self.value & (1 << self.left) - 1
        zeros = self.left - rest.bit_length()
        return self.take(2 * zeros + 1) - 1

    def signed(self) -> int:
        """The next number with a sign (9.1.1)."""
        code = self.number()
        return (code + 1) // 2 if code % 2 else -(code // 2)


class Headers:
    """Reads the packets of a stream in their order, and remembers its parameter sets."""

    def __init__(self, extradata: bytes | None) -> None:
        self.sequences: dict[int, Sequence] = {}
        self.pictures: dict[int, Picture] = {}
        self.layered = False  # a picture that is shown between two others and refers to both is referred to itself
        self.shifted = False  # pictures are shown from further in than their top left corner
        self.alike: dict[bytes, Slice] = {}  # by their first bytes, of slices of which no more is read
        self.length = 0  # bytes of a unit's length; 0 for units between start codes
        data = extradata or b""
        if data[:1] == b"\1" and len(data) > 6:  # avcC
            self.length, at = (data[4] & 3) + 1, 6
            for count in (data[5] & 31, None):
                if count is None:
                    count, at = data[at] if at < len(data) else 0, at + 1
                for _ in range(count):
                    size = int.from_bytes(data[at : at + 2], "big")
                    self._unit(data[at + 2 : at + 2 + size])
                    at += 2 + size
        else:
            self.slices(data)

    def slices(self, packet: bytes, brief: bool = False) -> Slice | None:
        """What the slices of one packet say; None if there are none, or not as the standard has them.

        If `brief`, only whether others refer to the picture is needed, which the first byte says.
        """
        start = self.length
        if brief and start and packet[start : start + 1] == b"\1" and _size(packet, 0, start) == len(packet) - start:
            return UNUSED
        alike = self.alike.get(packet[start : start + READ])
        if start and alike is not None and _size(packet, 0, start) == len(packet) - start:
            return alike  # one unit, as most are
        found = [part for unit in self._units(packet) if (part := self._unit(unit)) is not None]
        return Slice(found[0].reference, all(part.single for part in found)) if found else None

    def _units(self, packet: bytes) -> Iterator[bytes]:
        """The beginnings of slices, and parameter sets whole."""
        if not self.length:
            at = packet.find(b"\0\0\1")
            while at >= 0:
                end = packet.find(b"\0\0\1", at + 3)
                yield packet[at + 3 : end if end >= 0 else None]
                at = end
            return
        at = 0
        while at + self.length < len(packet):
            size = _size(packet, at, self.length)
            yield packet[at + self.length : at + self.length + size]
            at += self.length + size

    def _unit(self, unit: bytes) -> Slice | None:
        """What a unit says if it is a slice; a parameter set is kept."""
        kind = unit[0] & 31 if unit else 0
        try:
            if kind in (1, 5):
                return self._slice(unit[:HEADER], kind == 5)
            self.alike.clear()
            if kind == 7:
                self._sequence(Bits(unit[1:SET]))
            elif kind == 8:
                self._picture(Bits(unit[1:SET]))
        except (ValueError, KeyError):  # damaged, or its parameter sets were lost
            return Slice(unit[0] >> 5 > 0, False) if kind in (1, 5) else None
        return None

    def _sequence(self, bits: Bits) -> None:
        profile, _ = bits.take(8), bits.take(16)
        name, planes = bits.number(), False
        if profile in CHROMA:
            chroma = bits.number()
            planes = chroma == 3 and bool(bits.take(1))
            bits.number(), bits.number(), bits.take(1)  # depths, lossless
            if bits.take(1):
                for place in range(12 if chroma == 3 else 8):
                    if bits.take(1):
                        _skip_scaling(bits, 16 if place < 6 else 64)
        number_bits, order, order_bits, told = bits.number() + 4, bits.number(), 0, False
        if order == 0:
            order_bits = bits.number() + 4
        elif order == 1:
            told = not bits.take(1)
            bits.signed(), bits.signed()
            for _ in range(bits.number()):
                bits.signed()
        references, _, _, _ = bits.number(), bits.take(1), bits.number(), bits.number()  # gaps, width, height
        whole = bool(bits.take(1))
        self.sequences[name] = Sequence(planes, number_bits, order, order_bits, told, references, whole)
        bits.take(1 if whole else 2)  # macroblocks of fields, direct prediction
        if bits.take(1):
            left, _, top, _ = (bits.number() for _ in range(4))
            self.shifted |= left > 0 or top > 0

    def _picture(self, bits: Bits) -> None:
        name, sequence, _, bottom = bits.number(), bits.number(), bits.take(1), bool(bits.take(1))
        if bits.number():
            raise ValueError("slice groups are not followed")
        counts = bits.number() + 1, bits.number() + 1
        bits.take(3), bits.signed(), bits.signed(), bits.signed(), bits.take(2)  # weights, quantisers, filter, intra
        self.pictures[name] = Picture(sequence, bottom, counts, bool(bits.take(1)))

    def _slice(self, unit: bytes, idr: bool) -> Slice:
        reference, bits = unit[0] >> 5 > 0, Bits(unit[1:])
        _, kind, picture = bits.number(), bits.number() % 5, self.pictures[bits.number()]
        sequence = self.sequences[picture.sequence]
        between = kind == 1
        self.layered |= between and reference
        if not sequence.whole:
            return Slice(reference, False)
        if kind in (2, 4) or (sequence.references <= 1 and not between):
            if 8 * (len(unit) - 1) - bits.left <= 8 * (READ - 1):
                self.alike[unit[:READ]] = Slice(reference, True)
            return Slice(reference, True)
        bits.take(2 * sequence.planes + sequence.number_bits)
        if idr:
            bits.number()
        bits.take(sequence.order_bits)
        for _ in range((1 + picture.bottom) * sequence.order_told + picture.bottom * (sequence.order == 0)):
            bits.signed()
        if picture.redundant:
            bits.number()
        bits.take(between)
        counts = picture.counts
        if bits.take(1):
            counts = bits.number() + 1, bits.number() + 1 if between else 1
        changed = bits.take(1)  # another order than the usual one; of the second list only known if the first keeps it
        changed = changed or (between and bits.take(1))
        return Slice(reference, not changed and counts[0] == 1 and (not between or counts[1] == 1))


def _size(packet: bytes, at: int, length: int) -> int:
    """The length of a unit, in `length` bytes before it."""
    return int.from_bytes(packet[at : at + length], "big")


def _skip_scaling(bits: Bits, size: int) -> None:
    """A scaling list (7.3.2.1.1.1): it ends early where the next value would be 0."""
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
