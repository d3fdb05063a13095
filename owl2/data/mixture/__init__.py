"""Instruction data of several sources as one endless, seeded, resumable stream of conversations.

`load_mixture_recipe` reads what is mixed, `Mixture` opens it, its `sampler()` says what comes next, `global_batches`
and `share_of_rank` divide that among ranks. docs/train/mixtures.md shows them together.
"""

from .batches import RecordSize, by_work, global_batches, share_of_rank
from .mixture import Mixture
from .recipe import MixtureRecipe, SourceRecipe, load_mixture_recipe, with_sources
from .sampler import Draw, MixtureSampler, Source

__all__ = [
    "Draw",
    "Mixture",
    "MixtureRecipe",
    "MixtureSampler",
    "RecordSize",
    "Source",
    "SourceRecipe",
    "by_work",
    "global_batches",
    "load_mixture_recipe",
    "share_of_rank",
    "with_sources",
]
