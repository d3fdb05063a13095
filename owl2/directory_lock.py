"""One process at a time works in a run directory: two would overwrite each other's checkpoints.

The lock is POSIX's (`lockf`), not one of `filelock`: that of `flock` belongs to the open file, so forked data workers
share it, and a worker that outlives a killed run would keep the directory locked.
"""

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
        ValueError: Another process holds it.
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
            f"another run is active in {directory} ({file.read().strip() or 'unknown process'}): wait, stop it, or "
            "choose another directory"
        )


def _is_held_elsewhere(file: TextIO) -> bool:
    """Takes the lock, or finds that another process has it."""
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
