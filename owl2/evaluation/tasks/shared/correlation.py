"""Correlations of predicted qualities with opinion scores (specification, 8: SRCC and PLCC)."""

from collections.abc import Sequence
from statistics import StatisticsError, correlation


def pearson(predicted: Sequence[float], opinions: Sequence[float]) -> float | None:
    """Pearson's linear correlation; None where it is not defined: fewer than two values, or all equal."""
    try:
        return correlation(predicted, opinions)
    except StatisticsError:
        return None


def spearman(predicted: Sequence[float], opinions: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None as in `pearson`."""
    return pearson(_ranks(predicted), _ranks(opinions))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + end - 1) / 2
        start = end
    return ranks
