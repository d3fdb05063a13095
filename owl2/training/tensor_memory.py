"""Measures the memory of tensors: bytes of all storages that are alive, watched operation by operation."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
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
        self._follow(tensors)

    @property
    def current(self) -> int:
        """Bytes that are alive now; sharding resizes storages, so their sizes are asked for each time."""
        storages = [reference() for reference in self._alive.values()]
        return sum(storage.nbytes() for storage in storages if storage is not None)

    def _follow(self, tensors: Any) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._alive:
                self._alive[key] = weakref.ref(storage, lambda _, key=key: self._alive.pop(key, None))
        self.peak = max(self.peak, self.current)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._follow(value for value in tree_iter(result) if isinstance(value, torch.Tensor))
        return result
