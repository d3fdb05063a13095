"""Keys and values of the beginning that a prompt shares with the one before, so that a conversation is read once.

Shapes: S tokens of a prompt, N images.
"""

import torch
from transformers.cache_utils import Cache, DynamicCache

from .generation import cached_length


class PromptCache:
    """The cache of the last prompt and its answer; never longer than these.

    Args:
        tokens_per_image: Q + 1 rows, which are shared or read anew together.
    """

    def __init__(self, tokens_per_image: int) -> None:
        self.tokens_per_image = tokens_per_image
        self.clear()

    def clear(self) -> None:
        """Frees all of it."""
        # Without a configuration it holds every token of a sliding window too, so that it can be shortened.
        self._cache = DynamicCache()
        self._ids = torch.empty(0, dtype=torch.long)
        self._pixel_values: torch.Tensor | None = None

    def shared_with(self, ids: torch.Tensor, is_vision: torch.Tensor, pixel_values: torch.Tensor | None) -> Cache:
        """The cache, shortened to the beginning that it shares with a prompt, to be continued in place: see `keep`.

        Args:
            ids, is_vision: [S] ids and modality of the whole prompt.
            pixel_values: [N, 3, H, W] of all its images.
        """
        length = min(len(self._ids), len(ids) - 1)  # the last token is read in any case
        same = self._ids[:length] == ids[:length]
        shared = length if bool(same.all()) else int(same.int().argmin())
        shared = self._before_other_image(shared, is_vision, pixel_values)
        self._shorten(shared)
        self._pixel_values = pixel_values
        return self._cache

    def keep(self, ids: torch.Tensor) -> None:
        """Notes what was read since: `ids` [S] of prompt and answer; the last one may not be read yet."""
        self._ids = ids[: cached_length(self._cache)].cpu()

    def take_back(self) -> None:
        """Shortens the cache to the shared part after a generation that failed at any point."""
        self._shorten(len(self._ids))

    def _before_other_image(self, shared: int, is_vision: torch.Tensor, pixel_values: torch.Tensor | None) -> int:
        """The same number of tokens, or the number before the first image whose pixels differ in the cache."""
        rows = is_vision[:shared].nonzero().flatten()
        for index, row in enumerate(rows[:: self.tokens_per_image].tolist()):
            assert pixel_values is not None and self._pixel_values is not None
            if not torch.equal(pixel_values[index], self._pixel_values[index]):
                return int(row)
        return shared

    def _shorten(self, length: int) -> None:
        # Not `crop`: after an interruption the layers may be of different lengths, and keys longer than values.
        layers = [layer for layer in self._cache.layers if layer.is_initialized]
        held = [tensor.shape[-2] for layer in layers for tensor in (layer.keys, layer.values)]
        length = min([length, *held]) if held else 0
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
        self._ids = self._ids[:length]
