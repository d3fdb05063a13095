"""Returns freed memory to Linux, which the settings that make a CPU fast would keep."""

import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path

GROWTH = 1.1
"""The multiple of what a step needs that the process may hold before it returns some."""

LEAST_GROWTH = 1 << 30
"""Bytes that it may hold beside weights and optimizer state in any case: returning a small model's saves little."""

LARGE_BLOCK = 256 << 20
"""Bytes from which a tensor has memory of its own, with new pages at every use: that of a large embedding alone."""

_M_MMAP_THRESHOLD = -3  # malloc.h


def separate_large_blocks() -> None:
    """Keeps large blocks out of glibc's heap, where small ones take their place between two uses and fragment it."""
    _call_glibc("mallopt", _M_MMAP_THRESHOLD, LARGE_BLOCK)


def release_free_memory() -> None:
    """Returns the free pages of glibc's heap to the system; does nothing without glibc."""
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)


def memory_keeper(resident: Callable[[], int] | None = None) -> Callable[[], None]:
    """A function to call after every step: batches of many lengths would otherwise fragment the heap without bound.

    Releasing is expensive, since each page is faulted in again. So it waits until the process holds `GROWTH` times what
    it held at the end of a step that began with nothing to release, and `LEAST_GROWTH` more than between two steps. The
    first release comes after the first step and leaves weights and the optimizer's state, no activations. Large blocks
    are kept out of the heap from now on.

    Args:
        resident: Returns the bytes that the process holds, by default from the system.
    """
    resident = resident or resident_bytes
    separate_large_blocks()
    between_steps = needed = 0
    released = False

    def keep() -> None:
        nonlocal between_steps, needed, released
        held = resident()
        if released:
            needed = max(needed, held)
        released = between_steps == 0 or held > max(GROWTH * needed, between_steps + LEAST_GROWTH)
        if released:
            release_free_memory()
            between_steps = between_steps or resident()

    return keep


def resident_bytes() -> int:
    """The memory that this process holds now; 0 if the system does not tell."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * resource.getpagesize() if statistics.is_file() else 0
