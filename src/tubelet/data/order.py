"""In which order an epoch shows its places: a list where they are few, a function where a list would take memory.

Both follow from a random generator alone, so any worker on any machine asks for any place of any epoch, and gets the
same answer.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np
from jaxtyping import Int

LARGE = 2**20  # from here on a list (8 bytes a place, in every worker, for every epoch) is left out
ROUNDS = 8
WORD = 2**64 - 1


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers for one purpose, independent of those for others and of the masks'."""
    return np.random.default_rng((seed, int.from_bytes(purpose.encode(), "big"), *numbers))


def shuffled(rng: np.random.Generator, count: int) -> "Int[np.ndarray, ' count'] | Shuffle":
    """A random order of range(count), to be asked for the number at a turn; below 2**20 as NumPy draws it."""
    return rng.permutation(count) if count < LARGE else Shuffle.drawn(rng, count)


@dataclass(frozen=True)
class Shuffle:
    """A random order of range(count) that is worked out turn by turn, in some microseconds and no memory.

    A turn is written as two digits of bases whose product is `count` or little more, and goes through a Feistel network
    that adds to one digit, in its base, what a keyed function makes of the other. Where that leads to `count` or more,
    it goes through again. Each step can be undone, so every number comes once.

    >>> order = Shuffle.drawn(np.random.default_rng(0), 10)
    >>> sorted(order) == list(range(10))
    True

    Source: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002 (generalised Feistel, cycle walking);
    the keyed function mixes as SplitMix64 does (Steele, Lea & Flood, OOPSLA 2014).
    """

    count: int
    keys: tuple[int, ...]

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> "Shuffle":
        """One of the orders of range(count)."""
        return cls(count, tuple(rng.integers(0, WORD, ROUNDS, np.uint64, endpoint=True).tolist()))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, turn: int) -> int:
        """The number at a turn.

        Raises:
            IndexError: a turn that is not in range(count).
        """
        number = range(self.count)[turn]
        low = isqrt(self.count - 1) + 1
        high = -(-self.count // low)  # low x high is `count`, or less than `low` more
        while True:
            right, left = divmod(number, low)
            for key in self.keys:  # the digits change places, and so do their bases
                left, right = right, (left + mixed(right, key)) % low
                low, high = high, low
            number = low * right + left
            if number < self.count:
                return number


def mixed(value: int, key: int) -> int:
    """64 bits that look random."""
    value = (value + key) & WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & WORD
    return value ^ value >> 31
