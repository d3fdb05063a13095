"""Wrappers of the samples of a stage: a memory of those that were read, and random horizontal flips."""

import random
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.utils.data import Dataset

from owl2.data.augmentation import FLIP_PROBABILITY
from owl2.data.sampler import Draw, DrawnSample
from owl2.training.recipe.data import DataSettings


def wrapped_samples(
    samples: Dataset[DrawnSample], data: DataSettings, seed: int, place: Callable[[Draw], Hashable]
) -> Dataset[DrawnSample]:
    """Wraps the samples in `KeptSamples` and `FlippedSamples` as the recipe says."""
    if data.keep_in_memory:
        samples = KeptSamples(samples, place)
    return FlippedSamples(samples, seed) if data.augment == "flip" else samples


class KeptSamples(Dataset[DrawnSample]):
    """Samples each of which is read and encoded once.

    Args:
        samples: Samples by their draws.
        place: A key that is the same for all draws of a sample.
    """

    def __init__(self, samples: Dataset[DrawnSample], place: Callable[[Draw], Hashable]) -> None:
        self.samples, self.place = samples, place
        self._kept: dict[Hashable, DrawnSample] = {}

    def __getitem__(self, draw: Draw) -> DrawnSample:
        place = self.place(draw)
        if place not in self._kept:
            self._kept[place] = self.samples[draw]
        return self._kept[place]


class FlippedSamples(Dataset[DrawnSample]):
    """Samples whose images are mirrored with probability 0.5 (section 4.1), by the seed and the draw alone.

    Args:
        samples: Samples by their draws.
        seed: Seed of the run.
    """

    def __init__(self, samples: Dataset[DrawnSample], seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __getitem__(self, draw: Draw) -> DrawnSample:
        drawn = self.samples[draw]
        pixels: Any = drawn.sample.get("pixel_values")
        if pixels is None:
            return drawn
        generator = random.Random(f"{self.seed}-{draw.source}-{draw.epoch}-{draw.position}")
        flips = torch.tensor([generator.random() < FLIP_PROBABILITY for _ in pixels])
        flipped = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
        return drawn._replace(sample={**drawn.sample, "pixel_values": flipped})
