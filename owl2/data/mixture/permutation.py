"""A random order of 0 ... size - 1 that is computed, not stored.

A Feistel network shuffles the smallest square of a power of two that holds all numbers; results outside are fed in
again until they are inside (cycle walking: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Any place
of an order of millions costs some microseconds and no memory, and the order is the same on every machine and version.
"""

from hashlib import blake2b

ROUNDS = 6
_MASK = (1 << 64) - 1


class Permutation:
    """A random order of the numbers below a size.

    Args:
        size: The number of numbers.
        key: Names the order: another text gives another order.

    Raises:
        ValueError: `size` is not positive.
    """

    def __init__(self, size: int, key: str) -> None:
        if size < 1:
            raise ValueError(f"an order of {size} numbers: there must be at least 1")
        self.size = size
        self._half = max(1, -(-(size - 1).bit_length() // 2))  # bits of each half
        digest = blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
        self._keys = [int.from_bytes(digest[start : start + 8], "little") for start in range(0, len(digest), 8)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        """The number at a place of the order.

        Raises:
            IndexError: The order has no such place.
        """
        if not 0 <= place < self.size:
            raise IndexError(f"place {place} in an order of {self.size}")
        number = self._shuffled(place)
        while number >= self.size:
            number = self._shuffled(number)
        return number

    def _shuffled(self, number: int) -> int:
        left, right = number >> self._half, number & ((1 << self._half) - 1)
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) >> (64 - self._half))
        return left << self._half | right


def _mixed(value: int) -> int:
    """64 bits, each of which depends on all 64 bits of the value: the finalizer of SplitMix64 (Steele et al. 2014)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
