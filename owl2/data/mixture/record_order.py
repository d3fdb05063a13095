"""The order in which a source's records are drawn: every used record once an epoch, in another order each time."""

from collections.abc import Iterator

from owl2.data.sampler import WeightedSource

from .permutation import Permutation


class RecordOrder:
    """The order of one source, computed place by place.

    Args:
        source: The source, which says how many of its records are used.
        seed: Decides which records are used, and the order of every epoch.
    """

    def __init__(self, source: WeightedSource, seed: int) -> None:
        self.source, self.seed = source, seed
        self._chosen = Permutation(source.found, f"{seed}-{source.name}-chosen")
        self._epoch = 0, self._permutation(0)  # the epoch that was asked for last

    def record(self, epoch: int, position: int) -> int:
        """The number of the record at a position of an epoch."""
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._permutation(epoch)
        return self._chosen[self._epoch[1][position]]

    def records(self, epoch: int = 0) -> Iterator[int]:
        """The numbers of all records that are used, in the order of an epoch."""
        return (self.record(epoch, position) for position in range(self.source.used))

    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(self.source.used, f"{self.seed}-{self.source.name}-{epoch}")
