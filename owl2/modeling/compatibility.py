"""The differences between the supported versions of transformers, which only this file knows.

transformers 5.24 renamed `past_key_values` to `cache` in models, outputs, masks and generation.
"""

from typing import Any

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
"""The installed version's name for the keys and values of the tokens read so far."""


def named_cache(past_key_values: Any, cache: Any) -> dict[str, Any]:
    """A cache given under either name, by its name in the installed version; empty if there is none.

    The paged cache of continuous batching, which is not a `Cache`, is called `cache` in every version.

    Raises:
        ValueError: Two are given.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError("give the cache as `cache` or as `past_key_values`, which are the same, but not as both")
    given = past_key_values if cache is None else cache
    return {} if given is None else {CACHE if isinstance(given, Cache) else "cache": given}
