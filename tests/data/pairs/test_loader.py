"""Batches of pairs: the same for any number of ranks and workers, exact to resume, honest about what is broken."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from owl2.data.pairs import (
    Fault,
    InvalidSample,
    PairLoader,
    PairSamples,
    PairSettings,
    SkipLimit,
    StoredPair,
    TarShards,
    index_shards,
)

SETTINGS = PairSettings(image_size=8, seed=3)


class Made:
    """Pairs made on the spot; some are broken."""

    def __init__(self, name: str, size: int, image: bytes, broken: frozenset[int] = frozenset()) -> None:
        self.name, self.image, self.broken = name, image, broken
        self.groups = np.array([size // 2, size - size // 2])

    def read(self, group: int, index: int) -> StoredPair:
        number = int(self.groups[0]) * group + index
        if number in self.broken:
            raise InvalidSample(Fault.MISSING_IMAGE, f"{self.name} {number}")
        return StoredPair(str(number), self.image, f"{self.name} {number}", self.name)


@pytest.fixture
def samples(make_jpeg: Callable[..., bytes]) -> PairSamples:
    image = make_jpeg(0)
    return PairSamples([Made("large", 200, image, frozenset(range(0, 200, 9))), Made("small", 30, image)], SETTINGS)


def loader(samples: PairSamples, batch_size: int = 8, **settings: Any) -> PairLoader:
    return PairLoader(samples, batch_size, {"large": 2, "small": 1}, limit=SkipLimit(0.5), **settings)


def comparable(batches: Iterator[list[dict[str, Any]]], count: int) -> list[list[tuple[str, bytes]]]:
    return [
        [(sample["caption"], sample["pixel_values"].numpy().tobytes()) for sample in batch]
        for batch in islice(batches, count)
    ]


def test_any_number_of_ranks_makes_the_same_global_batches(samples: PairSamples) -> None:
    expected = comparable(iter(loader(samples, 12)), 20)
    for ranks in (2, 3, 4):
        parts = [
            comparable(iter(loader(samples, 12 // ranks, rank=rank, world_size=ranks)), 20) for rank in range(ranks)
        ]
        together = [[row for rows in zip(*step, strict=True) for row in rows] for step in zip(*parts, strict=True)]
        assert together == expected


def test_workers_change_nothing(samples: PairSamples) -> None:
    assert comparable(iter(loader(samples, num_workers=2)), 12) == comparable(iter(loader(samples)), 12)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_stops_in_an_epoch_goes_on_with_the_very_next_batch(samples: PairSamples, workers: int) -> None:
    expected = comparable(iter(loader(samples)), 14)
    first = loader(samples, num_workers=workers)
    assert comparable(iter(first), 6) == expected[:6]
    state = json.loads(json.dumps(first.state_dict(), sort_keys=True))
    second = loader(samples, num_workers=workers)
    second.load_state_dict(state)
    assert comparable(iter(second), 8) == expected[6:]
    assert second.state_dict()["drawn"] == 14 * 8
    assert second.state_dict()["skipped"] == _skips_of(samples, 14)


def _skips_of(samples: PairSamples, count: int) -> dict[str, dict[str, int]]:
    straight = loader(samples)
    list(islice(straight, count))
    return straight.state_dict()["skipped"]


def test_a_run_goes_on_with_another_number_of_ranks(samples: PairSamples) -> None:
    expected = comparable(iter(loader(samples, 12)), 9)
    two = [loader(samples, 6, rank=rank, world_size=2) for rank in range(2)]
    for each in two:
        list(islice(each, 5))
    order = ("seed", "sizes", "weights", "drawn", "positions")
    assert all(two[0].state_dict()[key] == two[1].state_dict()[key] for key in order)
    one = loader(samples, 12)
    one.load_state_dict(two[0].state_dict())
    assert comparable(iter(one), 4) == expected[5:]


def test_a_loader_that_is_asked_again_goes_on(samples: PairSamples) -> None:
    expected = comparable(iter(loader(samples)), 6)
    again = loader(samples, num_workers=2)
    assert comparable(iter(again), 2) + comparable(iter(again), 4) == expected


def test_an_epoch_holds_every_pair_that_is_not_broken(make_jpeg: Callable[..., bytes]) -> None:
    broken = frozenset({3, 77})
    source = Made("large", 100, make_jpeg(0), broken)
    one = PairLoader(PairSamples([source], SETTINGS), 10)
    captions = [sample["caption"] for batch in islice(one, 10) for sample in batch]
    assert set(captions) == {f"large {number}" for number in range(100) if number not in broken}
    assert len(captions) == 100, "another pair stands in for one that is broken, so batches are full"
    assert one.state_dict()["skipped"] == {"large": {"image missing": 2}}
    assert one.state_dict()["read"] == {"large": 100}


def test_a_source_with_too_many_broken_pairs_is_refused_with_counts(make_jpeg: Callable[..., bytes]) -> None:
    sources = [Made("good", 500, make_jpeg(0)), Made("bad", 500, make_jpeg(0), frozenset(range(0, 500, 3)))]
    loaded = PairLoader(PairSamples(sources, SETTINGS), 20, {"good": 9, "bad": 1}, limit=SkipLimit(0.2, 10))
    with pytest.raises(
        ValueError, match=r"\d+ of \d+ pairs of the source 'bad' .* more than 20.0% \(image missing: 1\d\)"
    ):
        list(islice(loaded, 200))


def test_a_few_broken_pairs_at_the_start_refuse_nothing(make_jpeg: Callable[..., bytes]) -> None:
    source = Made("s", 400, make_jpeg(0), frozenset(range(0, 400, 3)))
    list(islice(PairLoader(PairSamples([source], SETTINGS), 10, limit=SkipLimit(0.2, 1000)), 10))


def test_a_source_of_broken_pairs_only_ends_with_an_error_not_for_ever(make_jpeg: Callable[..., bytes]) -> None:
    source = Made("s", 10, make_jpeg(0), frozenset(range(10)))
    with pytest.raises(ValueError, match="in a row are broken"):
        list(islice(PairLoader(PairSamples([source], SETTINGS), 2), 1))


def test_a_state_of_other_sources_or_another_seed_is_refused(samples: PairSamples, make_jpeg: Any) -> None:
    state = loader(samples).state_dict()
    other = PairSamples(list(samples.sources.values()), SETTINGS._replace(seed=4))
    with pytest.raises(ValueError, match="seed 3, and now it is 4"):
        loader(other).load_state_dict(state)
    grown = PairSamples([samples.sources["large"], Made("small", 31, make_jpeg(0))], SETTINGS)
    with pytest.raises(ValueError, match="sizes"):
        loader(grown).load_state_dict(state)


def test_augmentation_is_of_the_sample_and_changes_with_the_epoch(make_jpeg: Callable[..., bytes]) -> None:
    source = Made("s", 1, make_jpeg(5, 64, 48))
    one = PairLoader(PairSamples([source], SETTINGS), 1)
    pixels = [batch[0]["pixel_values"] for batch in islice(one, 4)]
    assert pixels[0].shape == (1, 3, 8, 8) and pixels[0].dtype == torch.uint8
    assert len({each.numpy().tobytes() for each in pixels}) == 4
    plain = PairLoader(PairSamples([source], SETTINGS._replace(augment=False)), 1)
    assert len({batch[0]["pixel_values"].numpy().tobytes() for batch in islice(plain, 3)}) == 1


def test_captions_that_cannot_be_encoded_are_skipped_and_counted(make_jpeg: Callable[..., bytes]) -> None:
    def encode(caption: str) -> dict[str, Any]:
        if caption.endswith("5"):
            raise ValueError("a placeholder")
        return {"input_ids": [len(caption)], "labels": [1]}

    source = Made("s", 20, make_jpeg(0))
    collated = PairLoader(
        PairSamples([source], SETTINGS, encode),
        20,
        collate=lambda samples: torch.cat([sample["pixel_values"] for sample in samples]),
    )
    (batch,) = islice(collated, 1)
    assert batch.shape == (20, 3, 8, 8) and batch.dtype == torch.uint8
    assert collated.state_dict()["skipped"]["s"]["caption cannot be encoded"] >= 2


def test_sides_are_kept_on_request(make_jpeg: Callable[..., bytes]) -> None:
    class Sided(Made):
        def read(self, group: int, index: int) -> StoredPair:
            return super().read(group, index)._replace(caption="a dog on the left")

    source = Sided("s", 40, make_jpeg(1))

    def pixels(keep: bool) -> list[torch.Tensor]:
        one = PairLoader(PairSamples([source], SETTINGS._replace(keep_sides=keep)), 40)
        return [sample["pixel_values"] for sample in next(iter(one))]

    mirrored = [
        torch.equal(kept.flip(-1), free) and not torch.equal(kept, free)
        for kept, free in zip(pixels(True), pixels(False), strict=True)
    ]
    same = [torch.equal(kept, free) for kept, free in zip(pixels(True), pixels(False), strict=True)]
    assert 8 < sum(mirrored) < 32 and sum(mirrored) + sum(same) == 40


def test_shards_and_workers_resume_together(shards: Callable[..., Path]) -> None:
    folder = shards(5, 4, 6)
    list(index_shards(folder))

    def open_loader() -> PairLoader:
        return PairLoader(PairSamples([TarShards("cc3m", folder)], SETTINGS), 4, num_workers=2)

    expected = comparable(iter(open_loader()), 8)
    assert comparable(iter(open_loader()), 8) == expected
    first = open_loader()
    comparable(iter(first), 3)
    second = open_loader()
    second.load_state_dict(first.state_dict())
    assert comparable(iter(second), 5) == expected[3:]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}])
def test_numbers_that_make_no_sense_are_refused(samples: PairSamples, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="batch_size="):
        loader(samples, **wrong)


def test_two_sources_of_one_name_are_refused(make_jpeg: Callable[..., bytes]) -> None:
    with pytest.raises(ValueError, match="unique names"):
        PairSamples([Made("s", 2, make_jpeg(0)), Made("s", 3, make_jpeg(0))], SETTINGS)
