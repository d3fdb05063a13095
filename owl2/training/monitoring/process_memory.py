"""Returns freed memory to Linux, which the settings that make a CPU fast would keep."""

import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path

GROWTH = 1.4
"""The multiple of the memory between two steps that the process may hold before it returns some."""

LEAST_GROWTH = 1 << 30
"""Bytes that it may hold beside that memory in any case: a small model's step needs more than its weights' share."""


def release_free_memory() -> None:
    """Returns the free pages of glibc's heap to the system; does nothing without glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def memory_keeper(resident: Callable[[], int] | None = None) -> Callable[[], None]:
    """A function to call after every step: batches of many lengths would otherwise fragment the heap without bound.

    Releasing is expensive (each page is faulted in again), so it waits until the process holds `GROWTH` times what it
    held after the first release, and `LEAST_GROWTH` more. The first release comes after the first step: weights and the
    optimizer's state, no activations.

    Args:
        resident: Returns the bytes that the process holds, by default from the system.
    """
    resident = resident or resident_bytes
    floor = 0

    def keep() -> None:
        nonlocal floor
        if floor == 0 or resident() > max(GROWTH * floor, floor + LEAST_GROWTH):
            release_free_memory()
            floor = floor or resident()

    return keep


def resident_bytes() -> int:
    """The memory that this process holds now; 0 if the system does not tell."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * resource.getpagesize() if statistics.is_file() else 0
