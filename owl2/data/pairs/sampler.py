"""The order in which pairs are taken: a function of the seed alone, not of ranks, workers or what was read before.

Megatron-Energon's own loader divides the shards among all workers of all ranks, so that its order changes with their
number (except where ranks and workers trade places) and its shuffle buffer is part of the state. Here the order is a
formula: in every epoch a source's groups (shards) are put in a random order, and what follows is shuffled within
windows of `WINDOW` pairs, as a shuffle buffer would. Any position can be asked for at any time, ranks take every n-th,
and the state is a number a source.

The random numbers are splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), here
because numpy does not promise that its generators give the same numbers in its next version.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

WINDOW = 1 << 16  # pairs shuffled together: those of six or seven shards of img2dataset
_BLOCK = 1024  # draws made at a time


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


class Place(NamedTuple):
    """Where a pair lies in its source."""

    group: int
    number: int


class SourceOrder:
    """The order of one source.

    Args:
        groups: number of pairs of each group; see `PairSource`.
        seed, name: of the run, and of the source.
        window: pairs that are shuffled together.

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(self, groups: Sequence[int], seed: int, name: str, window: int = WINDOW) -> None:
        self.groups = np.asarray(groups, dtype=np.int64)
        self.size = int(self.groups.sum())
        if not self.size:
            raise ValueError(f"the source {name!r} holds no pairs")
        self.key, self.window = (seed, name), window
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._window: tuple[int, int, np.ndarray] | None = None

    def place(self, epoch: int, position: int) -> Place:
        """Where the pair at a position of an epoch lies; every pair has one position in an epoch."""
        number = position // self.window
        if self._window is None or self._window[:2] != (epoch, number):
            size = min(self.window, self.size - number * self.window)
            self._window = epoch, number, permutation(size, *self.key, "window", epoch, number)
        return self._place(epoch, number * self.window + int(self._window[2][position % self.window]))

    def substitute(self, epoch: int, position: int, attempt: int) -> Place:
        """A random pair of the same window, for one that is broken."""
        start = position // self.window * self.window
        size = min(self.window, self.size - start)
        bits = random_bits(attempt, 1, *self.key, "substitute", epoch, position)
        return self._place(epoch, start + int(bits[0]) % size)

    def _place(self, epoch: int, rank: int) -> Place:
        """Where number `rank` in the order of the groups lies."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(len(self.groups), *self.key, "groups", epoch)
            self._epoch = epoch, order, np.cumsum(self.groups[order])
        _, order, ends = self._epoch
        slot = int(np.searchsorted(ends, rank, side="right"))
        group = int(order[slot])
        return Place(group, rank - int(ends[slot] - self.groups[group]))


class Draw(NamedTuple):
    """One sample of the run: position in an epoch of a source."""

    source: str
    epoch: int
    position: int


class WeightedSampler:
    """Endless draws from weighted sources.

    Args:
        sizes: pairs of each source by name.
        seed: of the run.
        weights: of each source by name, any sum; by default the sizes, so that all pairs come equally often.

    Raises:
        ValueError: the weights are not those of the sources, or not above 0; by `load_state_dict`, the state is of
            other sources, weights or seed.
    """

    def __init__(self, sizes: Mapping[str, int], seed: int, weights: Mapping[str, float] | None = None) -> None:
        weights = sizes if weights is None else weights
        if set(weights) != set(sizes):
            raise ValueError(f"weights are given for {sorted(weights)}, but the sources are {sorted(sizes)}")
        if not sizes or not all(0 < weight < float("inf") for weight in weights.values()):
            raise ValueError(f"the weights of the sources must be numbers above 0, got {dict(weights)}")
        self.sizes = dict(sorted(sizes.items()))  # the order in which sources are listed does not matter
        self.weights = {name: weights[name] / math.fsum(weights.values()) for name in self.sizes}
        self.seed = seed
        self.drawn = 0
        self.drawn_from = [0] * len(sizes)

    def draw(self, count: int) -> list[Draw]:
        """The next draws."""
        edges = np.cumsum(list(self.weights.values()))[:-1]
        names, sizes = list(self.sizes), list(self.sizes.values())
        draws = []
        for start in range(0, count, _BLOCK):
            bits = random_bits(self.drawn, min(_BLOCK, count - start), self.seed, "blend")
            choices = np.searchsorted(edges, (bits >> np.uint64(11)) * 2.0**-53, side="right")
            for source in choices.tolist():
                draws.append(Draw(names[source], *divmod(self.drawn_from[source], sizes[source])))
                self.drawn_from[source] += 1
            self.drawn += len(choices)
        return draws

    def state_dict(self) -> dict[str, Any]:
        """What the next draw depends on; JSON."""
        positions = {
            name: dict(zip(("epoch", "position"), divmod(drawn, size), strict=True))
            for (name, size), drawn in zip(self.sizes.items(), self.drawn_from, strict=True)
        }
        return {
            "seed": self.seed,
            "sizes": self.sizes,
            "weights": self.weights,
            "drawn": self.drawn,
            "positions": positions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken."""
        own = self.state_dict()
        for name in ("seed", "sizes", "weights"):
            if state[name] != own[name]:
                raise ValueError(
                    f"the data state was saved with {name} {state[name]}, and now it is {own[name]}: the order would "
                    "be another. Continue with the same sources and settings, or start the data anew"
                )
        self.drawn = state["drawn"]
        places = [(state["positions"][name], size) for name, size in self.sizes.items()]
        self.drawn_from = [place["epoch"] * size + place["position"] for place, size in places]
