"""A contrast of a grid with the results of its statistical tests."""

from typing import NamedTuple

from owl2.analysis.statistics import PairedComparison, finding

from .grid import Contrast


class Tested(NamedTuple):
    """A contrast with what the tests say; `corrected_p` is Holm's, over the primary contrasts."""

    contrast: Contrast
    seeds: list[int]
    differences: list[float]
    comparison: PairedComparison
    corrected_p: float

    @property
    def verdict(self) -> str:
        return finding(self.comparison, self.corrected_p, self.contrast.better)
