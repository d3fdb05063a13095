"""Finds the precision that trains fastest, for `precision: auto` in a recipe."""

import math
import time

import torch
from torch import nn


def fastest_training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its matrix products are faster than float32's, which on a CPU depends on the processor."""
    if device.type != "cpu":
        return torch.bfloat16
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _matmul_seconds(dtype: torch.dtype, repeats: int = 5) -> float:
    left, right = torch.randn(1024, 512, dtype=dtype), torch.randn(512, 512, dtype=dtype)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - start)
    return best
