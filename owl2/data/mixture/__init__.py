"""Instruction data of several sources, each with its share of what a run draws.

`load_mixture_recipe` reads what is mixed, `Mixture` opens it. docs/train/mixtures.md shows both.
"""

from .mixture import Mixture
from .recipe import MixtureRecipe, SourceRecipe, load_mixture_recipe, with_sources
from .record_order import RecordOrder
from .record_size import RecordSize

__all__ = [
    "Mixture",
    "MixtureRecipe",
    "RecordOrder",
    "RecordSize",
    "SourceRecipe",
    "load_mixture_recipe",
    "with_sources",
]
