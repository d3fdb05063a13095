"""The order in which the pairs of a source are taken, shard after shard, shuffled within windows.

Megatron-Energon's own loader divides the shards among all workers of all ranks, so that its order changes with their
number (except where ranks and workers trade places) and its shuffle buffer is part of the state. Here the order is a
function of the seed: in every epoch a source's groups (shards) are put in a random order, and what follows is shuffled
within windows of `WINDOW` pairs, as a shuffle buffer would do. Any position can be asked for at any time.

The random numbers are splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), here
because numpy does not promise that its generators give the same numbers in its next version.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WINDOW = 1 << 16  # pairs shuffled together: those of six or seven shards of img2dataset


def random_bits(start: int, count: int, *key: Any) -> np.ndarray:
    """Numbers `start`, `start` + 1, ... of the random sequence named by `key`: uint64 [count], all distinct."""
    offset = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")
    return _mixed(np.arange(start, start + count, dtype=np.uint64) + np.uint64(offset))


def _mixed(counters: np.ndarray) -> np.ndarray:
    """Outputs of splitmix64 by the number of their step: a bijection of uint64."""
    bits = counters * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def permutation(size: int, *key: Any) -> np.ndarray:
    """A random order of 0 to `size` - 1, the same for the same key: int64 [size]."""
    return np.argsort(random_bits(0, size, *key))


class PairPlace(NamedTuple):
    """The place of a pair in its source."""

    group: int
    number: int


class WindowOrder:
    """The order of one source.

    Args:
        groups: Number of pairs of each group; see `PairSource`.
        seed: Seed of the run.
        name: Name of the source.
        window: Number of pairs that are shuffled together.

    Raises:
        ValueError: There are no pairs.
    """

    def __init__(self, groups: Sequence[int], seed: int, name: str, window: int = WINDOW) -> None:
        self.groups = np.asarray(groups, dtype=np.int64)
        self.size = int(self.groups.sum())
        if not self.size:
            raise ValueError(f"the source {name!r} holds no pairs")
        self.key, self.window = (seed, name), window
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._window: tuple[int, int, np.ndarray] | None = None

    def place(self, epoch: int, position: int) -> PairPlace:
        """The place of the pair at a position of an epoch; every pair has one position in an epoch."""
        number = position // self.window
        if self._window is None or self._window[:2] != (epoch, number):
            size = min(self.window, self.size - number * self.window)
            self._window = epoch, number, permutation(size, *self.key, "window", epoch, number)
        return self._place(epoch, number * self.window + int(self._window[2][position % self.window]))

    def substitute(self, epoch: int, position: int, attempt: int) -> PairPlace:
        """A random pair of the same window, for one that is broken."""
        start = position // self.window * self.window
        size = min(self.window, self.size - start)
        bits = random_bits(attempt, 1, *self.key, "substitute", epoch, position)
        return self._place(epoch, start + int(bits[0]) % size)

    def _place(self, epoch: int, rank: int) -> PairPlace:
        """The place of number `rank` in the order of the groups."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(len(self.groups), *self.key, "groups", epoch)
            self._epoch = epoch, order, np.cumsum(self.groups[order])
        _, order, ends = self._epoch
        slot = int(np.searchsorted(ends, rank, side="right"))
        group = int(order[slot])
        return PairPlace(group, rank - int(ends[slot] - self.groups[group]))
