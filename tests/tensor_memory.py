"""Measures the memory of tensors: bytes of all storages that are alive, watched operation by operation."""

import weakref
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Follows every storage that an operation makes inside the context, and those it is told of.

    What it counts is what a GPU's allocator counts (`torch.cuda.max_memory_allocated`) but for rounding and the
    workspaces of kernels. It works on a CPU and on fake tensors, which have sizes and no content.
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._sizes: dict[int, int] = {}  # as last seen: sharding empties storages without an operation
        self._at_most = 0  # their sum
        self._follow(tensors)

    @property
    def current(self) -> int:
        """Bytes that are alive now."""
        for key, reference in list(self._alive.items()):
            storage = reference()
            if storage is not None:
                self._update(key, storage.nbytes())
        return self._at_most

    def _follow(self, tensors: Any) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._alive:
                self._alive[key] = weakref.ref(storage, partial(self._forget, key))
            self._update(key, storage.nbytes())
        if self._at_most > self.peak:
            self.peak = max(self.peak, self.current)

    def _update(self, key: int, size: int) -> None:
        self._at_most += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _forget(self, key: int, _: Any) -> None:
        if self._alive.pop(key, None) is not None:
            self._at_most -= self._sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        values = [value for value in tree_iter((args, kwargs, result)) if isinstance(value, torch.Tensor)]
        # A wrapper, such as a DTensor, has no storage of its own: the operations inside it are seen too.
        self._follow(value for value in values if not is_traceable_wrapper_subclass(value))
        return result
