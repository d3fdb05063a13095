"""Global batches of a mixture, and what each rank does of them.

The batch is defined first, by the sampler alone, then the ranks take their shares: so every step learns from the same
samples whatever the number of ranks, workers and micro-batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from .sampler import Draw, MixtureSampler


class RecordSize(NamedTuple):
    """How much work a record is, known without opening it.

    Attributes:
        text_bytes: of all its texts in UTF-8.
    """

    text_bytes: int
    images: int
    videos: int

    @property
    def tokens(self) -> float:
        """An estimate: a token every four bytes of text, 65 an image (64 queries and an end), 8 images a video."""
        return self.text_bytes / 4 + 65 * (self.images + 8 * self.videos)


def global_batches(
    sampler: MixtureSampler, batch_size: int, size_of: Callable[[Draw], RecordSize]
) -> Iterator[list[Draw]]:
    """Endless global batches: the next `batch_size` draws, arranged by work for `share_of_rank`.

    When a batch is out, the sampler stands behind it.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    while True:
        yield by_work((next(sampler) for _ in range(batch_size)), size_of)


def by_work(draws: Iterable[Draw], size_of: Callable[[Draw], RecordSize]) -> list[Draw]:
    """Draws with images before those of text only, and the longest of each first.

    So the samples that all ranks work on at one time are alike in modality and length.
    """

    def work(draw: Draw) -> tuple[bool, float]:
        size = size_of(draw)
        return not (size.images or size.videos), -size.tokens

    return sorted(draws, key=work)


def share_of_rank(batch: Sequence[Draw], rank: int, ranks: int) -> list[Draw]:
    """What a rank does of a global batch: one of each `ranks` samples that follow each other.

    So the k-th samples of all ranks are alike. The first rank takes the longest and then the shortest of them by turns,
    so that no rank always has the most work.

    Raises:
        ValueError: the batch cannot be divided evenly, or there is no such rank.
    """
    if not 0 <= rank < ranks or len(batch) % ranks:
        raise ValueError(f"rank {rank} of {ranks} ranks cannot have an equal share of a batch of {len(batch)}")
    places = range(0, len(batch), ranks)
    return [batch[place + (rank if turn % 2 == 0 else ranks - 1 - rank)] for turn, place in enumerate(places)]
