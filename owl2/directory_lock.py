"""One process at a time works in a run directory: two would overwrite each other's checkpoints."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK = ".lock"
"""The file that is locked; it stays, and says who held it last."""


@contextmanager
def only_process_in(directory: Path) -> Iterator[None]:
    """Holds a run directory, which is made if need be, until the end or the death of this process.

    Where there are no locks (Windows, some network file systems), nothing is held.

    Raises:
        ValueError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a+", encoding="utf-8") as file:
        if not _is_held_elsewhere(file):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield
            return
        file.seek(0)
        raise ValueError(
            f"another run goes on in {directory} ({file.read().strip() or 'unknown process'}): wait, stop it, or "
            "choose another directory"
        )


def _is_held_elsewhere(file: TextIO) -> bool:
    """Takes the lock. Forked processes do not inherit it, so no worker that outlives its parent keeps it."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # this file system has no locks
        return False
    return False
