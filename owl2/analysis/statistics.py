"""Statistics of paired seeds: what an experiment of a few runs can claim, and what it cannot.

Seed s fixes data, order and initial values in every arm, so that arms are compared seed by seed. `differences` is
always [n], one value a seed. SciPy does the resampling and the t tests; Holm's correction and the enumeration of signs,
which are short, stand here.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
"""Confidence level of every interval."""

RESAMPLES = 9999
_EXACT_SEEDS = 16  # up to 2^16 signs are enumerated

Finding = Literal["appears", "reversed", "equivalent", "cannot be told apart"]


class Interval(NamedTuple):
    """Both ends of a confidence interval of `LEVEL`."""

    low: float
    high: float


class PairedComparison(NamedTuple):
    """A difference over paired seeds.

    Attributes:
        mean, deviation: Mean and sample deviation (n - 1) of the differences; the deviation is NaN for one seed.
        over_seeds: BCa bootstrap interval of the mean over seeds; NaN for fewer than two seeds.
        over_questions: Percentile interval of the mean over seeds and, within each, over questions; `None` where the
            answers to single questions are not known.
        sign_flip_p: Two-sided p of the exact sign-flip test.
        equivalence_p: p of the two one-sided t tests (TOST) that the mean lies within plus or minus the margin.
    """

    seeds: int
    mean: float
    deviation: float
    over_seeds: Interval
    over_questions: Interval | None
    sign_flip_p: float
    equivalence_p: float


def compare(
    differences: Sequence[float], margin: float, by_question: Sequence[ArrayLike] | None = None
) -> PairedComparison:
    """Everything that is reported of a paired difference.

    Args:
        differences: [n] one a seed.
        margin: Differences within plus or minus this are of no interest; in the unit of the differences.
        by_question: Differences of the single questions of each seed, [questions], whose mean is the seed's.

    Raises:
        ValueError: There is no seed, the margin is not positive, or the numbers of seeds differ.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected one difference a seed, got an array of shape {values.shape}")
    if margin <= 0:
        raise ValueError(f"the margin of equivalence must be positive, got {margin}")
    if by_question is not None and len(by_question) != len(values):
        raise ValueError(f"{len(values)} seeds, but questions of {len(by_question)}")
    return PairedComparison(
        seeds=len(values),
        mean=float(values.mean()),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        over_seeds=bca_interval(values),
        over_questions=None if by_question is None else nested_interval(by_question),
        sign_flip_p=sign_flip_p(values),
        equivalence_p=equivalence_p(values, margin),
    )


def bca_interval(differences: ArrayLike, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987)."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    if np.ptp(values) == 0:  # nothing varies, and BCa is not defined
        return Interval(float(values[0]), float(values[0]))
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(seed)
    )
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def nested_interval(by_question: Sequence[ArrayLike], seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over seeds and over the questions of each.

    Seeds are drawn with replacement, and for each drawn seed as many of its questions as it has.
    """
    samples = [np.asarray(questions, dtype=float) for questions in by_question]
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        drawn = generator.integers(len(samples), size=len(samples))
        means[index] = np.mean([_resampled_mean(samples[number], generator) for number in drawn])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _resampled_mean(values: NDArray[np.float64], generator: np.random.Generator) -> float:
    return float(values[generator.integers(len(values), size=len(values))].mean())


def sign_flip_p(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p of the mean under random signs: exact up to 16 seeds, so that n seeds cannot go below 2 / 2^n."""
    values = np.asarray(differences, dtype=float)
    observed = abs(values.mean()) - 1e-12 * max(1.0, float(np.abs(values).max()))  # equal sums differ by rounding
    if len(values) <= _EXACT_SEEDS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) / len(values) >= observed))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(RESAMPLES, len(values)))
    extreme = int((np.abs(signs @ values) / len(values) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def equivalence_p(differences: ArrayLike, margin: float) -> float:
    """p of two one-sided t tests: small where the mean is shown to lie within plus or minus the margin."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return math.nan
    if np.ptp(values) == 0:
        return 0.0 if abs(float(values[0])) < margin else 1.0
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down procedure (1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def finding(comparison: PairedComparison, corrected_p: float, better: Literal["more", "less"] = "more") -> Finding:
    """What may be said: an advantage that is shown (or its opposite), its absence that is shown, or none of these."""
    if corrected_p < 1 - LEVEL:
        return "appears" if (comparison.mean > 0) == (better == "more") else "reversed"
    if comparison.equivalence_p < 1 - LEVEL:
        return "equivalent"
    return "cannot be told apart"
