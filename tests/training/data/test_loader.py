"""Batches of ranks: the same samples in a step whatever the number of ranks, workers, micro-batches and rows."""

import gc
import itertools
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny_recipes import recipe_of, write_training

from owl2.data.skipped import SkipCounter, SkipLimit
from owl2.processing import Owl2Processor
from owl2.training.data.length_groups import WINDOW
from owl2.training.data.loader import (
    BatchingConfig,
    RankBatch,
    StageDataLoader,
    _one_ahead,
    _Prepare,
    empty_micro_batch,
    supervised_tokens,
)
from owl2.training.data.stage_data import open_stage_data
from owl2.training.model.build import build_model


@pytest.fixture(scope="module")
def processor(data: Path) -> Owl2Processor:
    return build_model(recipe_of(data, "pretrain", data), ["a red square that is blue"])[1]


GROUPED = "batch.group_by_modality_length=true"


def stream(
    data: Path,
    processor: Owl2Processor,
    stage: str,
    *changes: str,
    batching: BatchingConfig | None = None,
    **place: Any,
) -> StageDataLoader:
    recipe = recipe_of(data, stage, data / "run", *changes)
    samples = open_stage_data(recipe, recipe.data.sources, data / "run")
    return StageDataLoader(samples, processor, batching or BatchingConfig(4), 12, SkipCounter(SkipLimit()), **place)


def rows_of(batch: RankBatch) -> Counter[tuple[Any, ...]]:
    """The samples of a batch: token ids with labels, and the sum of their pixels; rows are cut at restarts."""
    found: Counter[tuple[Any, ...]] = Counter()
    for micro in batch.micro_batches:
        images = iter(micro.get("pixel_values", torch.empty(0)))
        for row in range(len(micro["input_ids"])):
            ids, labels, types = (micro[name][row].tolist() for name in ("input_ids", "labels", "mm_token_type_ids"))
            if "position_ids" in micro:
                starts = [place for place, position in enumerate(micro["position_ids"][row].tolist()) if position == 0]
            else:
                starts = [0]
            for start, end in itertools.pairwise([*starts, len(ids)]):
                if all(label == -100 for label in labels[start:end]):
                    continue  # padding
                pixels = sum(int(next(images).sum()) for _ in range(sum(types[start:end]) // 4))
                learnt = [(token, label) for token, label in zip(ids[start:end], labels[start:end], strict=True)]
                while learnt[-1][1] == -100:
                    learnt.pop()
                found[(tuple(learnt), pixels)] += 1
    return found


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
@pytest.mark.parametrize("ranks", [2, 5])
def test_ranks_share_each_global_batch(data: Path, processor: Owl2Processor, stage: str, ranks: int) -> None:
    alone = list(stream(data, processor, stage).batches(3))
    shared = [list(stream(data, processor, stage, rank=rank, ranks=ranks).batches(3)) for rank in range(ranks)]
    for whole, *parts in zip(alone, *shared, strict=True):
        assert sum((rows_of(part) for part in parts), Counter()) == rows_of(whole)
        assert sum(part.counts.supervised for part in parts) == whole.counts.supervised
        assert max(part.counts.samples for part in parts) - min(part.counts.samples for part in parts) <= 1
    assert rows_of(alone[0]) != rows_of(alone[1])


@pytest.mark.parametrize(
    "batching", [BatchingConfig(12), BatchingConfig(1), BatchingConfig(2, 128), BatchingConfig(1, 96, buffer=5)]
)
@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_micro_batches_and_rows_hold_the_same_samples(
    data: Path, processor: Owl2Processor, stage: str, batching: BatchingConfig
) -> None:
    wanted = next(stream(data, processor, stage).batches(1))
    found = next(stream(data, processor, stage, batching=batching).batches(1))
    assert rows_of(found) == rows_of(wanted)
    assert found.counts.samples == 12 == wanted.counts.samples
    for name in ("supervised", "tokens", "images"):
        assert getattr(found.counts, name) == getattr(wanted.counts, name)
    assert found.counts.supervised == sum(supervised_tokens(micro) for micro in found.micro_batches)
    assert found.counts.tokens <= found.counts.positions == sum(m["input_ids"].numel() for m in found.micro_batches)


@pytest.mark.parametrize("row_length", [100, 300])
def test_packed_rows_have_few_lengths(data: Path, processor: Owl2Processor, row_length: int) -> None:
    batching = BatchingConfig(1, row_length)
    batch = next(stream(data, processor, "instruct", batching=batching).batches(1))
    lengths = {micro["input_ids"].shape[1] for micro in batch.micro_batches}
    assert len(batch.micro_batches) > 1 and lengths <= {*range(32, row_length, 32), row_length}
    assert empty_micro_batch(0)["input_ids"].shape == (1, 32)


def test_grouped_batches_hold_the_same_samples_by_modality_and_length(data: Path, processor: Owl2Processor) -> None:
    drawn = list(stream(data, processor, "instruct").batches(2 * WINDOW))
    grouped = list(stream(data, processor, "instruct", GROUPED).batches(2 * WINDOW))
    for start in (0, WINDOW):
        windows = [sum(map(rows_of, each[start : start + WINDOW]), Counter()) for each in (drawn, grouped)]
        assert windows[0] == windows[1]
        both = [0 < batch.counts.images < batch.counts.samples for batch in grouped[start : start + WINDOW]]
        assert sum(both) <= 1 and sum(0 < b.counts.images < b.counts.samples for b in drawn[start:][:WINDOW]) > 1
    padding = [sum(batch.counts.positions - batch.counts.tokens for batch in batches) for batches in (drawn, grouped)]
    assert padding[1] < padding[0]
    order = lambda window: [batch.counts.tokens for batch in window]  # noqa: E731
    assert order(grouped[:WINDOW]) != sorted(order(grouped[:WINDOW]), reverse=True)  # in random order


@pytest.mark.parametrize(
    ("stage", "changes"), [("pretrain", ()), ("instruct", ()), ("instruct", (GROUPED,))], ids=["1", "2", "2-grouped"]
)
@pytest.mark.parametrize("before", [2, WINDOW])
def test_the_state_is_that_of_the_batches_given_out_on_any_number_of_ranks(
    data: Path, processor: Owl2Processor, stage: str, changes: tuple[str, ...], before: int
) -> None:
    wanted = [rows_of(batch) for batch in stream(data, processor, stage, *changes).batches(before + 4)]
    first = stream(data, processor, stage, *changes, num_workers=1)  # prepares batches ahead
    batches = first.batches(before + 4)
    for _ in range(before):
        next(batches)
    states = [first.state_dict()]
    batches.close()
    parts = []
    for rank in range(2):
        later = stream(data, processor, stage, *changes, rank=rank, ranks=2)
        later.load_state_dict(states[0])
        parts.append([rows_of(batch) for batch in later.batches(4)])
    assert [one + other for one, other in zip(*parts, strict=True)] == wanted[before:]


def test_a_broken_conversation_is_left_out_and_counted(data: Path, processor: Owl2Processor, tmp_path: Path) -> None:
    write_training(tmp_path)
    recipe = recipe_of(tmp_path, "instruct", tmp_path / "run")
    samples = open_stage_data(recipe, recipe.data.sources, tmp_path / "run")
    (tmp_path / "4.png").write_bytes(b"no picture")
    counter = SkipCounter(SkipLimit())
    batch = next(StageDataLoader(samples, processor, BatchingConfig(4), 40, counter).batches(1))
    assert batch.counts.samples == 39 and counter.read["records"] == 39
    assert sum(counter.skipped["records"].values()) == 1


def test_more_ranks_than_samples_are_refused(data: Path, processor: Owl2Processor) -> None:
    with pytest.raises(ValueError, match="global_batch_size 12 is less than the 13 ranks"):
        stream(data, processor, "pretrain", rank=0, ranks=13)


def test_a_worker_never_collects_what_its_parent_left(
    data: Path, processor: Owl2Processor, tmp_path, monkeypatch
) -> None:
    """Destructors of a fork may wait for threads that it lacks, or crash: an ablation's worker died so."""
    parent, file = os.getpid(), tmp_path / "collected"

    class Left:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                file.write_text("by a worker")

    prepare = _Prepare.__getitem__
    monkeypatch.setattr(_Prepare, "__getitem__", lambda *arguments: (gc.collect(), prepare(*arguments))[1])
    gc.disable()
    try:
        Left()
        assert len(list(stream(data, processor, "pretrain", num_workers=1).batches(2))) == 2
    finally:
        gc.enable()
    assert not file.exists()


def test_the_first_batch_which_starts_the_workers_is_made_by_the_main_thread_and_the_next_ones_meanwhile():
    makers = []

    def items():
        for number in range(4):
            makers.append(threading.current_thread())
            yield number

    assert list(_one_ahead(items())) == [0, 1, 2, 3]
    assert makers[0] is threading.main_thread()
    assert all(maker is not threading.main_thread() for maker in makers[1:])


def test_a_batch_that_cannot_be_made_is_an_error_where_it_is_due():
    def items():
        yield 0
        raise ValueError("broken")

    taken, found = _one_ahead(items()), []
    try:
        for item in taken:
            found.append(item)
    except ValueError as error:
        found.append(str(error))
    assert found == [0, "broken"]
