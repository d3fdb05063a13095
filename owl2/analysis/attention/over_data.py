"""Attention over a data set: shares and enrichment by layer in the conditions of Figure 5, with intervals.

Shapes: n samples, L decoder layers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from owl2.analysis.statistics import LEVEL, RESAMPLES
from owl2.evaluation.task import Sample
from owl2.processing import Owl2Processor, load_image

from .shares import Shares
from .study import study_conditions


class MeanShares(NamedTuple):
    """Shares of a condition, each [L], over the samples in which there are any; NaN where there are none.

    Attributes:
        low, high: Ends of the bootstrap interval of the mean over samples.
    """

    mean: Shares
    low: Shares
    high: Shares
    samples: int


def shares_over_data(
    model: nn.Module,
    processor: Owl2Processor,
    samples: Sequence[Sample],
    max_new_tokens: int = 32,
    on_sample: Callable[[], None] = lambda: None,
) -> dict[str, MeanShares]:
    """Asks every question with its picture, an unrelated one, a gray one and none, and averages where answers looked.

    Args:
        samples: Questions about one picture each. The unrelated picture is that of the next question.

    Raises:
        ValueError: As `study_answer`; there are fewer than two questions, or one does not have exactly one picture.
    """
    if len(samples) < 2:
        raise ValueError(f"an average needs at least two questions, got {len(samples)}")
    without = [sample.id for sample in samples if len(sample.images) != 1]
    if without:
        raise ValueError(f"every question needs one picture, but {without[0]} has another number")
    found: dict[str, list[Shares]] = {}
    for sample, other in zip(samples, [*samples[1:], samples[0]], strict=True):
        image, unrelated = (load_image(each() if callable(each) else each) for each in (*sample.images, *other.images))
        studies = study_conditions(model, processor, sample.prompt, image, unrelated, max_new_tokens)
        for condition, study in studies.items():
            found.setdefault(condition, []).append(study.shares)
        on_sample()
    return {condition: mean_shares(shares) for condition, shares in found.items()}


def mean_shares(shares: Sequence[Shares], seed: int = 0) -> MeanShares:
    """Mean over samples with a percentile bootstrap interval; a sample counts only for the shares that it has.

    Args:
        shares: The shares of each sample.
    """
    values = np.stack([torch.stack(list(each)).double().numpy() for each in shares])  # [n, 6, L]
    there = ~np.isnan(values)
    count = len(values)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)  # [resamples, n]
    means = _mean(drawn, values, there)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)  # NaN where a mean is
    whole = _mean(np.ones((1, count)), values, there)[0]
    mean, lower, upper = (Shares(*torch.from_numpy(each)) for each in (whole, low, high))
    return MeanShares(mean, lower, upper, count)


def _mean(times: NDArray[np.generic], values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[draws, 6, L]: means of values [n, 6, L], in which each sample counts as often as [draws, n] says."""
    flat = np.where(there, values, 0.0).reshape(len(values), -1)
    with np.errstate(invalid="ignore"):
        means = (times @ flat) / (times @ there.reshape(len(values), -1).astype(float))
    return means.reshape(-1, *values.shape[1:])
