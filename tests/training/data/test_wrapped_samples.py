"""Samples that are kept in memory and flipped: which, how often, and by what."""

from typing import Any

import torch
from torch.utils.data import Dataset

from owl2.data.sampler import Draw, DrawnSample
from owl2.training.data.wrapped_samples import FlippedSamples, KeptSamples


class Pictures(Dataset[DrawnSample]):
    """Draws of 10 records, by their position, each with two pictures; the last has none."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, draw: Draw) -> DrawnSample:
        self.read.append(draw.position)
        sample: dict[str, Any] = {"input_ids": [draw.position]}
        if draw.position < 9:
            sample["pixel_values"] = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4) + draw.position
        return DrawnSample(sample, draw.source, [])


def draws(epoch: int) -> list[Draw]:
    return [Draw("pictures", epoch, position) for position in range(10)]


def test_a_sample_is_read_once_however_often_it_is_drawn() -> None:
    pictures = Pictures()
    kept = KeptSamples(pictures, lambda draw: (draw.source, draw.position))
    first, second = ([kept[draw].sample["input_ids"] for draw in draws(epoch)] for epoch in (0, 1))
    assert first == second == [[position] for position in range(10)]
    assert pictures.read == list(range(10))


def test_each_picture_is_mirrored_half_of_the_time_by_seed_and_draw_alone() -> None:
    pictures, flipped = Pictures(), FlippedSamples(KeptSamples(Pictures(), lambda draw: draw.position), seed=3)
    mirrored = []
    for draw in (draw for epoch in range(30) for draw in draws(epoch)[:9]):
        plain, found = (dataset[draw].sample["pixel_values"] for dataset in (pictures, flipped))
        for one, other in zip(plain, found, strict=True):
            assert torch.equal(other, one) or torch.equal(other, one.flip(-1))
            mirrored.append(not torch.equal(other, one))
    assert 0.45 < sum(mirrored) / len(mirrored) < 0.55
    again = FlippedSamples(Pictures(), seed=3)
    for draw in reversed(draws(4)):
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(again[draw].sample[name]))
            for name, value in flipped[draw].sample.items()
        )


def test_a_sample_without_pictures_stays_as_it_is() -> None:
    assert FlippedSamples(Pictures(), seed=0)[Draw("pictures", 0, 9)].sample == {"input_ids": [9]}
