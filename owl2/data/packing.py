"""Packing: whole samples side by side in rows of a fixed length, so that hardly any position is padding.

`BestFitPacker` decides from lengths alone which samples of a stream share a row, `rows_of` which of a list do;
`pack_encoded` makes the row, `pad_packed` a batch of rows. Samples are kept apart by `position_ids` that restart at 0:
the language decoder lets nothing attend across a restart when there is no attention mask. (B rows, S the length of a
row, N images of all)
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import torch

from owl2.labels import IGNORE_INDEX
from owl2.processing.collation import joined_pixels, pad_sequence, padding_values

Encoded = dict[str, Any]

_NAMES = ("input_ids", "labels", "mm_token_type_ids")

_SLACKS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
"""How much longer than their mean even rows may be: the smallest value that needs no more rows is taken."""


class BestFitPacker:
    """Best-fit packing of a stream over a bounded buffer.

    A row begins with the sample that has waited longest, and takes those of the others that together leave the smallest
    gap. Among several such choices it takes the one with the fewest samples of the shortest length, then of the next
    longer one, and so on, since short samples are easily placed later; and among equal samples the oldest. So the order
    is determined by the stream alone, and no sample waits for more than `buffer_size` rows.

    Args:
        row_length: Tokens that a row holds.
        buffer_size: Maximum number of samples that wait at a time. 1,024 fill rows of 2,048 tokens to more than 99.5%
            (benchmarks/packing.py).

    Attributes:
        taken: Samples taken from the stream so far, those that wait included.
        rows, tokens: Rows returned so far and the tokens in them.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, row_length: int, buffer_size: int = 1024) -> None:
        if row_length < 1 or buffer_size < 1:
            raise ValueError(f"row_length={row_length} and buffer_size={buffer_size} must be at least 1")
        self.row_length, self.buffer_size = row_length, buffer_size
        self.taken = self.rows = self.tokens = 0
        self._waiting: dict[int, tuple[int, int]] = {}  # arrival: (number, length), the oldest first
        self._by_length: list[
            tuple[int, int]
        ] = []  # (length, -arrival), sorted: of equal lengths the oldest comes last

    @property
    def efficiency(self) -> float:
        """Share of the positions of all rows so far that hold a token; 1 before the first row."""
        return self.tokens / (self.rows * self.row_length) if self.rows else 1.0

    def pack(self, samples: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
        """Rows of the samples of a stream, which may be endless.

        Args:
            samples: Number and length in tokens of each sample. After `load_state_dict`, the stream from sample `taken`
                on.

        Yields:
            The numbers of the samples of a row, in the order in which they stand there.

        Raises:
            ValueError: A sample is empty or longer than a row.
        """
        stream = iter(samples)
        while True:
            for number, length in islice(stream, self.buffer_size - len(self._waiting)):
                self._take(number, length)
            if not self._waiting:
                return
            yield self._next_row()

    def state_dict(self) -> dict[str, Any]:
        """All that later rows depend on, as whole numbers: the waiting samples by number and length, and the counts."""
        return {
            "row_length": self.row_length,
            "buffer_size": self.buffer_size,
            "waiting": [list(sample) for sample in self._waiting.values()],
            "taken": self.taken,
            "rows": self.rows,
            "tokens": self.tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes where `state_dict` was called; the stream must then begin at sample `taken`.

        Raises:
            ValueError: The state is of a packer with another row length or buffer size.
        """
        saved = {name: state[name] for name in ("row_length", "buffer_size")}
        own = {"row_length": self.row_length, "buffer_size": self.buffer_size}
        if saved != own:
            raise ValueError(f"the state was saved with {saved}, but this packer has {own}: use the saved values")
        self.taken, self.rows, self.tokens = state["taken"], state["rows"], state["tokens"]
        first = self.taken - len(state["waiting"])  # only the order of arrivals matters
        self._waiting = {first + index: (number, length) for index, (number, length) in enumerate(state["waiting"])}
        self._by_length = sorted((length, -arrival) for arrival, (_, length) in self._waiting.items())

    def _take(self, number: int, length: int) -> None:
        if not 1 <= length <= self.row_length:
            raise ValueError(
                f"sample {number} has {length} tokens, but a row takes samples of 1 to {self.row_length}: "
                "shorten it, leave it out or make the rows longer"
            )
        self._waiting[self.taken] = (number, length)
        insort(self._by_length, (length, -self.taken))
        self.taken += 1

    def _next_row(self) -> list[int]:
        number, length = self._remove(next(iter(self._waiting)))
        row, gap = [number], self.row_length - length
        for arrival in self._filling(gap):
            number, length = self._remove(arrival)
            row.append(number)
            gap -= length
        self.rows += 1
        self.tokens += self.row_length - gap
        return row

    def _remove(self, arrival: int) -> tuple[int, int]:
        number, length = self._waiting.pop(arrival)
        del self._by_length[bisect_left(self._by_length, (length, -arrival))]
        return number, length

    def _filling(self, gap: int) -> list[int]:
        """Arrivals of the waiting samples that fill a gap best, the longest first: a subset-sum problem.

        Bit n of `sums` says whether samples of the lengths so far, from the longest on, can have n tokens together.
        """
        fitting = self._by_length[: bisect_right(self._by_length, (gap, 0))]
        sums, within = 1, (2 << gap) - 1
        steps: list[tuple[int, list[int], int]] = []  # length, arrivals, the sums without it
        for length, group in groupby(reversed(fitting), key=lambda sample: sample[0]):
            arrivals = [-negative for _, negative in group]
            steps.append((length, arrivals, sums))
            for _ in range(min(len(arrivals), gap // length)):
                sums |= sums << length & within
            if sums >> gap:
                break
        left, chosen = sums.bit_length() - 1, []
        for length, arrivals, without in reversed(steps):
            count = 0
            while not without >> left & 1:
                count, left = count + 1, left - length
            chosen.append(arrivals[:count])
        return [arrival for arrivals in reversed(chosen) for arrival in arrivals]


def rows_of(lengths: Sequence[int], row_length: int, micro_batch_size: int) -> list[list[int]]:
    """Rows of all samples of a list, the longest row first, for batches of `micro_batch_size` rows.

    Rows are as few and as full as possible. Those of the last batch share the rest evenly, so that padding them to the
    longest adds little.

    Args:
        lengths: Tokens of each sample.

    Returns:
        The numbers of the samples of each row.

    Raises:
        ValueError: A sample is empty or longer than a row.
    """
    rows = _full_rows(lengths, row_length)
    last = (len(rows) - 1) // micro_batch_size * micro_batch_size
    left = [number for row in rows[last:] for number in row]
    even = _even_rows([lengths[number] for number in left], row_length, len(rows) - last)
    return rows[:last] + [[left[index] for index in row] for row in even]


def _full_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Each row begins with the longest sample that is left, and takes as much as it can hold."""
    packer = BestFitPacker(row_length, max(1, len(lengths)))
    rows = list(packer.pack(sorted(enumerate(lengths), key=lambda sample: -sample[1])))
    return sorted(rows, key=lambda row: -sum(lengths[number] for number in row))


def _even_rows(lengths: Sequence[int], row_length: int, count: int) -> list[list[int]]:
    """At most `count` rows, which are enough, that are nearly as short as possible."""
    for slack in _SLACKS:
        capacity = max(math.ceil((1 + slack) * sum(lengths) / max(1, count)), *lengths, 1)
        rows = _full_rows(lengths, min(capacity, row_length))
        if len(rows) <= count:
            return rows
    return _full_rows(lengths, row_length)


def pack_encoded(samples: Sequence[Encoded]) -> Encoded:
    """One row of the encoded samples of a pack.

    Args:
        samples: Results of the processor's `encode_` methods.

    Returns:
        Lists `input_ids`, `labels`, `mm_token_type_ids`, `position_ids` (0, 1, 2, ... for each sample), and a tensor
        `pixel_values` [n, 3, H, W] in the order of the placeholders, if there are images. The first token of a sample
        is no target, because it would be predicted from the sample before. There is no attention mask.

    Raises:
        ValueError: No samples, or one lacks an entry.
    """
    if not samples:
        raise ValueError("there is nothing to pack: the list of samples is empty")
    row: Encoded = {name: [] for name in (*_NAMES, "position_ids")}
    for index, sample in enumerate(samples):
        missing = [name for name in _NAMES if name not in sample]
        if missing:
            raise ValueError(f"sample {index} has no {', '.join(missing)}: give what encode_conversation returns")
        row["input_ids"] += sample["input_ids"]
        row["labels"] += [IGNORE_INDEX, *sample["labels"][1:]]
        row["mm_token_type_ids"] += sample["mm_token_type_ids"]
        row["position_ids"] += range(len(sample["input_ids"]))
    return row | joined_pixels(samples)


def pad_packed(rows: Sequence[Encoded], pad_token_id: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """Collates packed rows. The padding at the end of a row is a sample of its own, from which nothing is learnt.

    Flash attention of transformers 5.17 sees where samples begin only in a batch of one row; SDPA, flex and eager
    attention see it in all.

    Args:
        rows: Results of `pack_encoded`.
        pad_token_id: Fills `input_ids`.
        length: Length of every row, for equal shapes at every step; by default that of the longest row.

    Returns:
        int64 tensors `input_ids`, `labels`, `mm_token_type_ids`, `position_ids`, each [B, S], and `pixel_values`
        [N, 3, H, W] in the order of the rows, if there are any.

    Raises:
        ValueError: No rows, or one is longer than `length`.
    """
    if not rows:
        raise ValueError("there is nothing to pad: the list of rows is empty")
    lengths = [len(row["input_ids"]) for row in rows]
    length = max(lengths) if length is None else length
    if max(lengths) > length:
        raise ValueError(f"row {lengths.index(max(lengths))} has {max(lengths)} tokens, more than length={length}")
    padded = [_with_padding(row, length, pad_token_id) for row in rows]
    batch = {name: torch.tensor([row[name] for row in padded]) for name in (*_NAMES, "position_ids")}
    return batch | joined_pixels(rows)


def _with_padding(row: Encoded, length: int, pad_token_id: int) -> Encoded:
    values = padding_values(pad_token_id)
    padded = {name: pad_sequence(row[name], length, values[name], "right") for name in _NAMES}
    return {**padded, "position_ids": [*row["position_ids"], *range(length - len(row["input_ids"]))]}
