"""Scores of image quality from models of the mPLUG-Owl2 family: Q-Align, DeQA-Score, Compare2Score, and your own."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Anchors, Comparison
    from .scorer import QualityScorer, Ratings

__all__ = ["Anchors", "Comparison", "QualityScorer", "Ratings"]

_MODULES = {"Anchors": "comparison", "Comparison": "comparison", "QualityScorer": "scorer", "Ratings": "scorer"}


def __getattr__(name: str) -> Any:
    """The public names on first use: the command line reads the protocols without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
