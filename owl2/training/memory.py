"""Giving freed memory back on Linux, where the settings that make a CPU fast keep it."""

import ctypes
import sys

RELEASE_EVERY = 20
"""Steps of training between two releases: batches of many lengths would otherwise fragment the heap without bound."""


def release_free_memory() -> None:
    """Returns the free pages of glibc's heap to the system; nothing where there is no glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
