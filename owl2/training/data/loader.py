"""The batches of a rank: its share of every global batch, read by worker processes, in micro-batches.

A step learns from exactly `global_batch_size` samples. The global batch is drawn first and depends on nothing but the
seed; rank r of n then takes its samples r, r + n, r + 2n, ... So a step is the same for any number of ranks and
workers, any size of micro-batches, with and without packing. Packing happens within a rank's share: nothing waits for a
later step, and the state between two steps is the position in the stream of draws.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from owl2.data.packing import pack_encoded, pad_packed, rows_of
from owl2.data.sampler import Draw
from owl2.data.skipped import Skip, SkipCounter
from owl2.labels import IGNORE_INDEX
from owl2.processing import Owl2Processor
from owl2.processing.collation import pad_encoded
from owl2.training.recipe.schema import Recipe

from .encoding import OPINION
from .stage_data import StageData

LENGTH_STEP = 32
"""Packed rows are padded to a multiple of this: at most 64 shapes where rows hold 2,048 tokens.

Compiled layers have a graph for each shape, and a CPU's heap is fragmented by tensors of many sizes: steps grow slower.
"""

Batch = dict[str, torch.Tensor]
Item = TypeVar("Item")


class BatchingConfig(NamedTuple):
    """The settings by which samples become micro-batches.

    Attributes:
        micro_batch_size: Samples of a micro-batch, with packing rows.
        row_length: Tokens of a row; `None` without packing.
        buffer: Samples that are packed together.
    """

    micro_batch_size: int
    row_length: int | None = None
    buffer: int = 1024

    @classmethod
    def of(cls, recipe: Recipe) -> "BatchingConfig":
        packing = recipe.data.packing
        row_length = (packing.length or recipe.data.max_length) if packing.enabled else None
        return cls(recipe.batch.micro_batch_size, row_length, packing.buffer)


class Counts(NamedTuple):
    """Counts of a rank's share of a batch.

    Attributes:
        supervised: Tokens with a loss.
        tokens: All tokens, visual rows included.
        positions: Tokens and padding.
        turns: Answers, captions and texts with a loss.
    """

    supervised: int = 0
    tokens: int = 0
    positions: int = 0
    samples: int = 0
    images: int = 0
    turns: int = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


class RankBatch(NamedTuple):
    """A rank's share of a global batch: micro-batches on the CPU, pixels as levels in uint8."""

    micro_batches: list[Batch]
    counts: Counts


class _Prepared(NamedTuple):
    """The samples that a worker made of some draws."""

    micro_batches: list[Batch]
    counts: Counts
    sources: list[str]
    skips: list[Skip]


def _leave_inherited_objects(worker: int) -> None:
    """Keeps a forked worker from collecting objects of its parent: destructors may wait for threads that a fork lacks.

    Earlier stages in the same process, as in an ablation, leave such objects: process groups, writers of checkpoints.
    """
    gc.freeze()


class StageDataLoader:
    """Batches of one rank, one after the other, with a state to resume from.

    Args:
        samples: Samples from which the global batches are drawn.
        processor: Processor that encodes and pads.
        batching: See `BatchingConfig`.
        global_batch_size: Samples of a global batch.
        rank, ranks: Number of this rank, and of ranks that share the data.
        num_workers: Number of processes that read and encode; with 0, this is done between the steps.
        counter: Counts broken samples, and ends the run when there are too many.

    Raises:
        ValueError: There are more ranks than samples in a batch.
    """

    def __init__(
        self,
        samples: StageData,
        processor: Owl2Processor,
        batching: BatchingConfig,
        global_batch_size: int,
        counter: SkipCounter,
        rank: int = 0,
        ranks: int = 1,
        num_workers: int = 0,
    ) -> None:
        if global_batch_size < ranks:
            raise ValueError(
                f"batch.global_batch_size {global_batch_size} is less than the {ranks} ranks that share it"
            )
        self.samples, self.batching, self.global_batch_size = samples, batching, global_batch_size
        self.rank, self.ranks, self.num_workers, self.counter = rank, ranks, num_workers, counter
        self._prepare = _Prepare(samples.dataset(processor), processor.tokenizer.pad_token_id, batching)
        self._state = samples.state_dict()

    def batches(self, count: int) -> Iterator[RankBatch]:
        """The next `count` batches. Call it once. With workers, the batch after the one given out is made meanwhile."""
        made = self._made(count)
        for batch, state, pieces in made if self.num_workers == 0 else _one_ahead(made):
            self._state = state
            for piece in pieces:
                self.counter.add(piece.sources, piece.skips)
            yield batch

    def _made(self, count: int) -> Iterator[tuple[RankBatch, dict[str, Any], list[_Prepared]]]:
        """Yields batches, each with the state after it and the pieces it was made of."""
        asked: list[tuple[int, dict[str, Any]]] = []  # of each batch: number of pieces, and the state behind it
        prepared = DataLoader(
            self._prepare,
            batch_size=None,
            sampler=self._pieces(count, asked),
            num_workers=self.num_workers,
            prefetch_factor=4 if self.num_workers else None,
            worker_init_fn=_leave_inherited_objects if self.num_workers else None,
        )
        pieces: list[_Prepared] = []
        for piece in prepared:
            pieces.append(piece)
            if len(pieces) == asked[0][0]:
                counts = Counts()
                for each in pieces:
                    counts = counts.plus(each.counts)
                micro_batches = [batch for each in pieces for batch in each.micro_batches]
                yield RankBatch(micro_batches, counts), asked.pop(0)[1], pieces
                pieces = []

    def state_dict(self) -> dict[str, Any]:
        """The end of the batches that were given out, as JSON; the same on every rank."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes where `state_dict` was called, on any number of ranks.

        Raises:
            ValueError: The state is of other data.
        """
        self.samples.load_state_dict(state)
        self._state = state

    def _pieces(self, count: int, asked: list[tuple[int, dict[str, Any]]]) -> Iterator[list[Draw]]:
        """The draws that a worker prepares together: those of one micro-batch, or of one buffer of the packer."""
        packed = self.batching.row_length is not None
        size = self.batching.buffer if packed else self.batching.micro_batch_size
        for _ in range(count):
            share = self.samples.take(self.global_batch_size)[self.rank :: self.ranks]
            pieces = [share[start : start + size] for start in range(0, len(share), size)]
            asked.append((len(pieces), self.samples.state_dict()))
            yield from pieces


def _one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the same items and always prepares the next one: workers alone prepare less than a long step needs.

    The first is made by the caller, not by the thread: it starts the worker processes, and a process that is forked by
    another thread than the main one may crash.
    """
    item = next(items, None)
    with ThreadPoolExecutor(1) as thread:
        while item is not None:
            coming = thread.submit(next, items, None)
            yield item
            item = coming.result()


class _Prepare(Dataset[_Prepared]):
    """Prepares the micro-batches of some draws; workers run it."""

    def __init__(self, dataset: Dataset[Any], pad_token_id: int, batching: BatchingConfig) -> None:
        self.dataset, self.pad_token_id, self.batching = dataset, pad_token_id, batching

    def __getitem__(self, draws: list[Draw]) -> _Prepared:
        drawn = [self.dataset[draw] for draw in draws]
        samples = [each.sample for each in drawn if each.sample]
        micro_batches = list(micro_batches_of(samples, self.batching, self.pad_token_id))
        counts = Counts(
            supervised=sum(supervised_tokens(batch) for batch in micro_batches),
            tokens=sum(len(sample["input_ids"]) for sample in samples),
            positions=sum(batch["input_ids"].numel() for batch in micro_batches),
            samples=len(samples),
            images=sum(len(sample["pixel_values"]) for sample in samples if "pixel_values" in sample),
            turns=sum(supervised_turns(sample["labels"]) for sample in samples),
        )
        sources = [each.source for each in drawn if each.sample]
        return _Prepared(micro_batches, counts, sources, [skip for each in drawn for skip in each.skips])


def micro_batches_of(samples: Sequence[dict[str, Any]], batching: BatchingConfig, pad_token_id: int) -> Iterator[Batch]:
    """Micro-batches of encoded samples, in packed rows, the longest first, if the batching has a row length."""
    size = batching.micro_batch_size
    if batching.row_length is None:
        for start in range(0, len(samples), size):
            yield _padded(samples[start : start + size], pad_token_id)
        return
    numbers = rows_of([len(sample["input_ids"]) for sample in samples], batching.row_length, size)
    rows = [pack_encoded([samples[number] for number in row]) for row in numbers]
    for start in range(0, len(rows), size):
        longest = len(rows[start]["input_ids"])  # it comes first
        length = min(batching.row_length, math.ceil(longest / LENGTH_STEP) * LENGTH_STEP)
        yield pad_packed(rows[start : start + size], pad_token_id, length)


def _padded(samples: Sequence[dict[str, Any]], pad_token_id: int) -> Batch:
    """Pads samples to one batch; opinions, which belong to samples and not to tokens, are kept beside the tokens."""
    batch = pad_encoded(
        [{name: row for name, row in each.items() if name != OPINION} for each in samples], pad_token_id
    )
    opinions = [each[OPINION] for each in samples if OPINION in each]
    return batch | ({OPINION: torch.tensor(opinions)} if opinions else {})


def supervised_tokens(batch: Batch) -> int:
    """The number of tokens of a batch that are predicted and have a label, which the first of a row is not."""
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())


def supervised_turns(labels: Sequence[int]) -> int:
    """The number of stretches of tokens with a label."""
    is_supervised = [label != IGNORE_INDEX for label in labels]
    return sum(now and not before for before, now in zip([False, *is_supervised], is_supervised, strict=False))


def empty_micro_batch(pad_token_id: int) -> Batch:
    """A batch of padding alone, for a rank that has no micro-batch left while others do: its gradients are 0."""
    return {
        "input_ids": torch.full((1, LENGTH_STEP), pad_token_id),
        "labels": torch.full((1, LENGTH_STEP), IGNORE_INDEX),
        "mm_token_type_ids": torch.zeros((1, LENGTH_STEP), dtype=torch.long),
        "position_ids": torch.arange(LENGTH_STEP)[None],
    }
