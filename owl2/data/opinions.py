"""Opinion scores of images as the five levels that quality models learn: one level, or a distribution over all.

Q-Align teaches the level whose fifth of the range holds the score (Wu et al., arXiv 2312.17090, equation 1). DeQA-Score
teaches a distribution: a normal one of the score and its deviation, taken at the levels and corrected so that it sums
to one and keeps the score (You et al., arXiv 2501.11561, section 3.2).
"""

import math
from typing import NamedTuple

LEVELS = ("excellent", "good", "fair", "poor", "bad")
"""The five levels, best first."""

LEVEL_VALUES = (5.0, 4.0, 3.0, 2.0, 1.0)

_SMALLEST_DEVIATION = 0.2
_LARGEST_ERROR = 0.1  # of the mean that a corrected distribution keeps; both as in DeQA-Score's repository


class Opinion(NamedTuple):
    """What people said about an image, with levels counted from 1 to 5.

    Attributes:
        score: Mean, 1 to 5.
        deviation: Standard deviation in the same scale; None where it is not known.
    """

    score: float
    deviation: float | None = None


def opinion_in_levels(score: float, deviation: float | None, lowest: float, highest: float) -> Opinion:
    """An opinion of another range as levels.

    Raises:
        ValueError: The range is empty, or the score outside of it.
    """
    if not lowest < highest:
        raise ValueError(f"all scores are {lowest}: there is nothing to learn from them")
    if not lowest <= score <= highest:
        raise ValueError(f"the score {score} is outside {lowest}..{highest}")
    width = (highest - lowest) / 4
    return Opinion(1 + (score - lowest) / width, None if deviation is None else deviation / width)


def level_of(opinion: Opinion) -> str:
    """The level whose fifth of the range holds the score; a score on a border belongs to the lower level."""
    fifth = math.ceil(round((opinion.score - 1) / 4 * 5, 9))
    return LEVELS[5 - max(1, min(5, fifth))]


def level_probabilities(opinion: Opinion) -> tuple[float, ...]:
    """A distribution over `LEVELS` whose mean is the score.

    Without a deviation, with a small one, or where the corrected normal distribution would have negative parts that
    matter, the two levels beside the score share it.
    """
    score, deviation = opinion
    if deviation is None or deviation < _SMALLEST_DEVIATION:
        return _two_levels(score)
    density = [math.exp(-(((value - score) / deviation) ** 2) / 2) for value in LEVEL_VALUES]
    total, first = sum(density), sum(part * value for part, value in zip(density, LEVEL_VALUES, strict=True))
    # alpha * density + beta sums to 1 and has the mean `score`: two equations.
    tilt = first - 3 * total
    if abs(tilt) < 1e-9:  # a score of 3, whose distribution is symmetric: any alpha keeps it
        return tuple(part / total for part in density)
    alpha = (score - 3) / tilt
    beta = (1 - alpha * total) / 5
    positive = [max(0.0, alpha * part + beta) for part in density]
    corrected = tuple(part / sum(positive) for part in positive)
    kept = sum(part * value for part, value in zip(corrected, LEVEL_VALUES, strict=True))
    return _two_levels(score) if abs(kept - score) > _LARGEST_ERROR else corrected


def _two_levels(score: float) -> tuple[float, ...]:
    return tuple(max(0.0, 1 - abs(score - value)) for value in LEVEL_VALUES)
