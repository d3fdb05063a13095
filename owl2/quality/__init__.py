"""Scores of image quality from models of the mPLUG-Owl2 family: Q-Align, DeQA-Score, Compare2Score, and your own."""

from typing import TYPE_CHECKING

from owl2.lazy import lazy_names

if TYPE_CHECKING:
    from .comparison import Anchors, Comparison
    from .scorer import QualityScorer, Ratings

__all__ = ["Anchors", "Comparison", "QualityScorer", "Ratings"]

__getattr__, __dir__ = lazy_names(
    __name__, {"Anchors": ".comparison", "Comparison": ".comparison", "QualityScorer": ".scorer", "Ratings": ".scorer"}
)
