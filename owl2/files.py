"""Files read whole: through a memory map, which forked processes share, or into a hash."""

import hashlib
import mmap
from pathlib import Path


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file that is not empty, for reading."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
