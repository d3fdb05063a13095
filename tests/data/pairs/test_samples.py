"""Samples of pairs: which pair a draw means, what it looks like, and what takes the place of a broken one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from owl2.data.pairs import PairSamples, PairSettings, StoredPair, TarShards, index_shards
from owl2.data.sampler import Draw, DrawnSample
from owl2.data.skipped import Fault, InvalidSample

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


def first(samples: PairSamples, source: str, count: int, epoch: int = 0) -> list[DrawnSample]:
    """The samples at the first positions of an epoch."""
    return [samples[Draw(source, epoch, position)] for position in range(count)]


def captions(drawn: list[DrawnSample]) -> list[str]:
    return [each.sample["caption"] for each in drawn]


def test_an_epoch_holds_every_pair_that_is_not_broken(make_jpeg: Callable[..., bytes]) -> None:
    broken = frozenset({3, 77})
    samples = PairSamples([Made("large", 100, make_jpeg(0), broken)], SETTINGS)
    drawn = first(samples, "large", 100)
    assert set(captions(drawn)) == {f"large {number}" for number in range(100) if number not in broken}
    assert len(drawn) == 100, "another pair stands in for one that is broken, so batches are full"
    skips = [skip for each in drawn for skip in each.skips]
    assert Counter(skip.fault for skip in skips) == {Fault.MISSING_IMAGE: 2}
    assert {skip.text for skip in skips} == {"large 3", "large 77"} and {skip.source for skip in skips} == {"large"}


def test_a_draw_is_the_same_sample_whatever_was_drawn_before(make_jpeg: Callable[..., bytes]) -> None:
    source = Made("s", 50, make_jpeg(5, 64, 48), frozenset(range(0, 50, 7)))
    straight = first(PairSamples([source], SETTINGS), "s", 50, epoch=1)
    samples = PairSamples([source], SETTINGS)
    for position in np.random.default_rng(0).permutation(50).tolist():
        again = samples[Draw("s", 1, position)]
        assert again.sample["caption"] == straight[position].sample["caption"]
        assert torch.equal(again.sample["pixel_values"], straight[position].sample["pixel_values"])


def test_a_source_of_broken_pairs_only_ends_with_an_error_not_for_ever(make_jpeg: Callable[..., bytes]) -> None:
    source = Made("s", 10, make_jpeg(0), frozenset(range(10)))
    with pytest.raises(ValueError, match="in a row are broken"):
        PairSamples([source], SETTINGS)[Draw("s", 0, 0)]


def test_augmentation_is_of_the_sample_and_changes_with_the_epoch(make_jpeg: Callable[..., bytes]) -> None:
    source = Made("s", 1, make_jpeg(5, 64, 48))

    def pixels(settings: PairSettings, count: int) -> list[torch.Tensor]:
        samples = PairSamples([source], settings)
        return [samples[Draw("s", epoch, 0)].sample["pixel_values"] for epoch in range(count)]

    augmented = pixels(SETTINGS, 4)
    assert augmented[0].shape == (1, 3, 8, 8) and augmented[0].dtype == torch.uint8
    assert len({each.numpy().tobytes() for each in augmented}) == 4
    assert len({each.numpy().tobytes() for each in pixels(SETTINGS._replace(augment=False), 3)}) == 1


def test_captions_that_cannot_be_encoded_are_skipped_and_counted(make_jpeg: Callable[..., bytes]) -> None:
    def encode(caption: str) -> dict[str, Any]:
        if caption.endswith("5"):
            raise ValueError("a placeholder")
        return {"input_ids": [len(caption)], "labels": [1]}

    drawn = first(PairSamples([Made("s", 20, make_jpeg(0))], SETTINGS, encode), "s", 20)
    assert all(set(each.sample) == {"input_ids", "labels", "pixel_values"} for each in drawn)
    faults = Counter(skip.fault for each in drawn for skip in each.skips)
    assert set(faults) == {Fault.NOT_ENCODED} and faults.total() >= 2


def test_sides_are_kept_on_request(make_jpeg: Callable[..., bytes]) -> None:
    class Sided(Made):
        def read(self, group: int, index: int) -> StoredPair:
            return super().read(group, index)._replace(caption="a dog on the left")

    source = Sided("s", 40, make_jpeg(1))

    def pixels(keep: bool) -> list[torch.Tensor]:
        samples = PairSamples([source], SETTINGS._replace(keep_sides=keep))
        return [each.sample["pixel_values"] for each in first(samples, "s", 40)]

    mirrored = [
        torch.equal(kept.flip(-1), free) and not torch.equal(kept, free)
        for kept, free in zip(pixels(True), pixels(False), strict=True)
    ]
    same = [torch.equal(kept, free) for kept, free in zip(pixels(True), pixels(False), strict=True)]
    assert 8 < sum(mirrored) < 32 and sum(mirrored) + sum(same) == 40


def test_workers_read_the_same_samples_of_shards(shards: Callable[..., Path]) -> None:
    folder = shards(5, 4, 6)
    list(index_shards(folder))
    samples = PairSamples([TarShards("cc3m", folder)], SETTINGS)
    draws = [Draw("cc3m", epoch, position) for epoch in range(2) for position in range(15)]

    def read(workers: int) -> list[tuple[str, bytes]]:
        loader = DataLoader(samples, sampler=draws, batch_size=None, num_workers=workers)  # type: ignore[arg-type]
        return [(each.sample["caption"], each.sample["pixel_values"].numpy().tobytes()) for each in loader]

    assert read(2) == read(0)


def test_two_sources_of_one_name_are_refused(make_jpeg: Callable[..., bytes]) -> None:
    with pytest.raises(ValueError, match="unique names"):
        PairSamples([Made("s", 2, make_jpeg(0)), Made("s", 3, make_jpeg(0))], SETTINGS)
